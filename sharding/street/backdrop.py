"""What is infinitely far and what is nearest: the sky, the skyline, the camera's own car."""

import numpy as np

from sharding.street.buildings import draw_facade, random_house
from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, SKY
from sharding.street.ground import Street
from sharding.street.palette import LEAVES, PAINTS, chance, pick
from sharding.street.roadside import draw_tree
from sharding.street.textures import sample_noise


def draw_sky(canvas: Canvas) -> None:
    """A gradient with clouds that lie in a plane above."""
    light, rng = canvas.light, canvas.rng
    rows = np.arange(canvas.height, dtype=np.float32)
    rise = np.clip((canvas.cy - rows) / canvas.focal, 0.004, None)
    share = np.clip(rise / 0.55, 0, 1)[:, None] ** 0.6
    gradient = light.horizon * (1 - share) + light.zenith * share
    columns = (np.arange(canvas.width, dtype=np.float32) - np.float32(canvas.cx)) / np.float32(canvas.focal)
    depth = (0.25 / (rise + 0.09)).astype(np.float32)
    a = columns[None] * depth[:, None] * 0.7 + np.float32(rng.uniform(0, 1))
    b = np.broadcast_to(depth[:, None] * 0.7 + np.float32(rng.uniform(0, 1)), a.shape)
    cloud = sample_noise(a, b) * 0.8 + sample_noise(a * 3, b * 3) * 0.3
    cover = np.clip((cloud + 2.4 * light.clouds - 1.5) * 0.8, 0, 1) * np.clip(rise * 12, 0.2, 1)[:, None] * 0.85
    body = np.clip(light.horizon * 0.6 + 105, 0, 250) - np.clip(cloud - 0.2, 0, 1.5)[..., None] * 26
    gradient = gradient.astype(np.float32)[:, None]
    canvas.colour[:] = np.clip(gradient + (body.astype(np.float32) - gradient) * cover[..., None], 0, 255)


def draw_skyline(canvas: Canvas, street: Street) -> None:
    """Far trees and houses, so that the street does not end in nothing."""
    rng = canvas.rng
    leaves = canvas.surface("vegetation", FRONT, 420, "plain")
    u = np.linspace(-420, 420, 160)
    tops = 14 + 7 * np.sin(u / 37 + rng.uniform(0, 6)) + rng.uniform(0, 4, len(u))
    line = np.stack([u, tops, np.full(len(u), 420.0)], -1)
    canvas.draw(leaves, np.concatenate([line, [(420, -1, 420), (-420, -1, 420)]]), pick(rng, LEAVES) * 0.8)
    x, z = -90.0, street.end + 34
    open_end = chance(rng, 0.4)
    while x < 90:
        wide, house = rng.uniform(9, 20), random_house(rng)
        if not (open_end and street.left - 4 < x + wide and x < street.right + 4):
            surface = canvas.surface("building", FRONT, z, house.material)
            draw_facade(canvas, house, surface, (x, 0, z), (1, 0, 0), wide, canvas.light.shade((0, 0, -1)))
        x += wide + (rng.uniform(2, 10) if chance(rng, 0.3) else 0)
    for _ in range(int(rng.integers(2, 8))):
        draw_tree(canvas, rng.uniform(-40, 40), z - rng.uniform(1, 2))


def draw_own_car(canvas: Canvas) -> None:
    """The bonnet of the camera's own car, then the borders that a rectified picture has."""
    rng, height, width = canvas.rng, canvas.height, canvas.width
    surface = canvas.surface("ego vehicle", SKY, 1.0)
    top, sag = 1 - rng.uniform(0.05, 0.11), rng.uniform(0.03, 0.06)
    u = np.linspace(-0.02, 1.02, 40)
    curve = top + sag * np.abs(2 * u - 1) ** 3
    paint = pick(rng, PAINTS[:5], 6) * 0.7
    for i in range(14):
        line = np.stack([u * width, (curve + (1 - curve) * i / 13) * height], -1)
        shape = np.concatenate([line, [(1.02 * width, height * 1.02), (-0.02 * width, height * 1.02)]])
        gain = 1.75 - 0.9 * (i / 13) ** 0.5 if i else 0.5
        canvas.fill(surface if i == 0 else None, [(shape * 16).round().astype(np.int32)], paint * gain)
    border = max(1, round(min(width, 2 * height) / 500))
    void, black = canvas.surface("out of roi", SKY, 1.0), canvas.surface("rectification border", SKY, 1.0)
    for number, wide in ((void, 2 * border), (black, border)):
        for part in np.s_[:wide, :], np.s_[height - wide :, :], np.s_[:, :wide], np.s_[:, width - wide :]:
            canvas.surface_HW[part] = number
            canvas.colour[part] = (0, 0, 0) if number == black else (12, 12, 14)
