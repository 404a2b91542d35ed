"""What stands beside the road: trees, bushes, lamps, signs, traffic lights and bins."""

import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, NEAR, Floats, Rgb, disc, stroke, upright_rects
from sharding.street.palette import LEAVES, PAINTS, chance, pick


def _foliage(canvas: Canvas, centre: Rgb, radii: Rgb, tone: Floats) -> None:
    """Leaves in an ellipsoid (centre and radii (3,), metres): ragged blobs, dark inside to lit outside, then leaves."""
    rng, (x, y, z) = canvas.rng, np.asarray(centre, float)
    radii = np.asarray(radii, float)
    surface = canvas.surface("vegetation", FRONT, max(z, NEAR), "leaves")
    size = canvas.pixels(float(radii.max()), z)
    blobs = int(np.clip(size * 0.8, 9, 200))
    count = blobs + int(np.clip(size * 4 - 60, 0, 1500))  # and leaves
    spot = rng.normal(size=(count, 3))
    spot *= (rng.uniform(0.25, 1, count) ** 0.45 / np.linalg.norm(spot, axis=1))[:, None]
    large, small = rng.uniform(0.2, 0.36, count) * max(blobs / 40, 1) ** -0.2, rng.uniform(0.025, 0.06, count)
    radius = np.where(np.arange(count) < blobs, large, small) * radii.min()
    angle = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    ragged = radius[:, None] * rng.uniform(0.6, 1.2, (count, 9))
    middle = np.array([x, y, z]) + spot * radii * (1, 1, 0)
    outline = np.repeat(middle[:, None], 9, 1)
    outline[..., 0] += ragged * np.cos(angle)
    outline[..., 1] = np.maximum(outline[..., 1] + ragged * np.sin(angle), 0.02)
    lit = spot @ (canvas.light.sun * (1, 1, -1)) * (0.4 if canvas.light.direct > 0.3 else 0.15) + spot[:, 1] * 0.2
    gain = 0.85 + lit + rng.normal(0, 0.1, count) + np.where(np.arange(count) < blobs, -0.12, 0.05)
    order = np.concatenate([np.argsort(gain[:blobs]), np.arange(blobs, count)])
    colours = np.clip(tone * rng.normal(1, 0.05, (count, 3)) * np.maximum(gain, 0.25)[:, None], 0, 255)
    if z >= NEAR:
        for polygon, rgb in zip(canvas.project(outline[order]), colours[order].tolist(), strict=True):
            canvas.fill(surface, [polygon], rgb)


def draw_tree(canvas: Canvas, x: float, z: float) -> None:
    """A tree with a forked trunk, a crown and the round shadow of it."""
    rng = canvas.rng
    high, wide = rng.uniform(4.5, 9.5), rng.uniform(1.4, 2.8)
    tone = pick(rng, LEAVES)
    bark = pick(rng, ((70, 58, 46), (96, 88, 78), (50, 42, 36))) * canvas.light.shade((0, 0, -1))
    trunk = canvas.surface("vegetation", FRONT, z, "leaves")
    thick, fork = rng.uniform(0.22, 0.4), high * 0.5
    lean = rng.normal(0, 0.2)
    for tip, width in ((lean, thick * 0.7), (lean - wide * 0.4, thick * 0.35), (lean + wide * 0.4, thick * 0.35)):
        top = fork if tip == lean else high * 0.75
        root = (x, 0.0) if tip == lean else (x + lean * 0.7, fork * 0.75)
        limb = stroke(root, (x + tip, top), thick if tip == lean else width, width)
        canvas.draw(trunk, np.c_[limb, np.full(len(limb), z)], bark)
    for angle in np.linspace(0, 2 * np.pi, 5 if canvas.pixels(wide, z) > 12 else 1, endpoint=False):
        spot = np.array([x + wide * 0.45 * np.cos(angle), 0.0, z + wide * 0.45 * np.sin(angle)])
        turns = np.arange(0, 6.3, 0.8)
        ring = [spot + np.array((wide * 0.6 * np.cos(a), high * 0.7, wide * 0.6 * np.sin(a))) for a in turns]
        if canvas.light.direct > 0.05:
            sun = canvas.light.sun
            canvas.darken(canvas.cast_HW, np.array([p - p[1] * sun / sun[1] for p in ring]))
    canvas.cast(np.array([(x + dx, y, z) for dx in (-0.15, 0.15) for y in (0, fork)]))
    crown = (high - fork * 0.75) / 2
    _foliage(canvas, (x + lean, high - crown, z), (wide, crown, wide), tone)


def draw_bush(canvas: Canvas, x: float, z: float, size: float) -> None:
    """A bush about `size` metres high."""
    canvas.cast(np.array([(x + dx, y, z + dz) for dx in (-size, size) for y in (0, size) for dz in (-0.5, 0.5)]))
    _foliage(canvas, (x, size * 0.6, z), (size * 1.25, size * 0.75, size), pick(canvas.rng, LEAVES))


def _upright(canvas: Canvas, x: float, z: float, high: float, wide: float, rgb: Rgb) -> None:
    """A pole with a lit and a dark half."""
    surface = canvas.surface("pole", FRONT, z)
    box = np.array([(-wide / 2, wide / 2, 0, high)])
    canvas.draw(surface, upright_rects((x, 0, z), (1, 0, 0), box), rgb)
    half = box * (1, 0, 1, 1) if canvas.light.sun[0] > 0 else box * (0, 1, 1, 1)
    canvas.draw(surface, upright_rects((x, 0, z), (1, 0, 0), half), np.asarray(rgb) * 0.65)
    canvas.cast(np.array([(x + dx, y, z) for dx in (-wide / 2, wide / 2) for y in (0, high)]), contact=False)


def draw_lamp(canvas: Canvas, x: float, z: float) -> None:
    """A street lamp whose arm reaches over the road."""
    rgb = pick(canvas.rng, ((90, 94, 96), (50, 54, 56), (140, 142, 140)))
    high, reach = canvas.rng.uniform(6, 8.5), -np.sign(x) * canvas.rng.uniform(0.8, 1.8)
    _upright(canvas, x, z, high, 0.17, rgb)
    arm = canvas.surface("pole", FRONT, z)
    limb = stroke((x, high), (x + reach, high + 0.35), 0.12, 0.1)
    canvas.draw(arm, np.c_[limb, np.full(len(limb), z)], rgb)
    head = stroke((x + reach, high + 0.35), (x + reach * 1.35, high + 0.38), 0.22, 0.16)
    canvas.draw(arm, np.c_[head, np.full(len(head), z)], rgb * 0.8)


def draw_sign(canvas: Canvas, x: float, z: float) -> None:
    """A pole with one or two plates, whose form goes with its colours."""
    rng = canvas.rng
    high = rng.uniform(2.3, 3.1)
    _upright(canvas, x, z, high + 0.2, 0.09, pick(rng, ((130, 132, 134), (100, 100, 100))))
    surface = canvas.surface("traffic sign", FRONT, z)
    for i in range(1 + int(chance(rng, 0.35))):
        y, r, kind = high - 0.75 * i, rng.uniform(0.32, 0.44), int(rng.integers(7))
        shade = rng.uniform(0.85, 1.0)
        corners, turn = {0: (20, 0.0), 1: (20, 0.0), 2: (3, np.pi / 2), 3: (4, 0.0), 4: (8, 0.39)}.get(kind, (4, 0.785))
        rim, inner = (
            ((190, 30, 34), (232, 230, 226)), ((226, 226, 226), (30, 70, 160)), ((190, 30, 34), (232, 230, 226)),
            ((230, 228, 220), (228, 176, 30)), ((226, 220, 220), (180, 26, 30)), ((226, 226, 226), (30, 70, 160)),
            ((110, 112, 114), (140, 142, 144)),
        )[kind]  # fmt: skip
        canvas.draw(surface, disc(x, y, z, r, corners, turn), np.array(rim) * shade)
        canvas.draw(surface, disc(x, y, z, r * 0.74, corners, turn), np.array(inner) * shade)
        mark = upright_rects((x, y, z), (1, 0, 0), np.array([(-0.2 * r, 0.2 * r, -0.4 * r, 0.4 * r)]))
        canvas.draw(surface, mark, np.array([(30, 30, 30), (226, 226, 226)][kind in (1, 4, 5)]) * shade)


def draw_traffic_light(canvas: Canvas, x: float, z: float, reach: float) -> None:
    """A signal on a pole, and a second one over the road where `reach` is not 0."""
    rng = canvas.rng
    grey = pick(rng, ((110, 112, 112), (70, 72, 70), (150, 150, 146)))
    _upright(canvas, x, z, 5.6 if reach else 3.3, 0.14, grey)
    places = [(x, 2.5)]
    if reach:
        arm = canvas.surface("pole", FRONT, z)
        canvas.draw(arm, upright_rects((x, 5.4, z), (np.sign(reach), 0, 0), np.array([(0, abs(reach), 0, 0.12)])), grey)
        places.append((x + reach, 4.9))
    phase = int(rng.integers(3))
    for u, y in places:
        surface = canvas.surface("traffic light", FRONT, z)
        outline = stroke((u, y), (u, y + 0.72), 0.4, 0.4)
        canvas.draw(surface, np.c_[outline, np.full(len(outline), z)], pick(rng, ((26, 28, 28), (40, 44, 40)), 4))
        for i, rgb in enumerate(((60, 220, 120), (250, 190, 50), (240, 50, 40))):
            canvas.draw(surface, disc(u, y + 0.02 + 0.33 * i, z, 0.13), np.array(rgb) * (1.0 if i == phase else 0.22))


def draw_bin(canvas: Canvas, x: float, z: float) -> None:
    """A rubbish bin, which Cityscapes calls static."""
    surface = canvas.surface("static", FRONT, z)
    rgb = pick(canvas.rng, PAINTS)
    canvas.draw(surface, upright_rects((x, 0.1, z), (1, 0, 0), np.array([(-0.3, 0.3, 0, 1.05)])), rgb)
    canvas.draw(surface, upright_rects((x, 0.1, z), (1, 0, 0), np.array([(-0.34, 0.34, 0.95, 1.1)])), rgb * 0.7)
    canvas.cast(np.array([(x + dx, y, z + dz) for dx in (-0.3, 0.3) for y in (0, 1.1) for dz in (0, 0.6)]))
