"""Trees and bushes."""

import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, NEAR, Floats, Rgb, stroke
from sharding.street.palette import LEAVES, pick


def _foliage(canvas: Canvas, centre: Rgb, radii: Rgb, tone: Floats) -> None:
    """Leaves in an ellipsoid (centre and radii (3,), metres): ragged blobs, dark inside to lit outside, then leaves."""
    rng, (x, y, z) = canvas.rng, np.asarray(centre, float)
    radii = np.asarray(radii, float)
    surface = canvas.surface("vegetation", FRONT, max(z, NEAR), "leaves")
    size = canvas.pixels(float(radii.max()), z)
    blobs = int(np.clip(size * 0.8, 9, 200))
    leaves = int(np.clip(size * 4 - 60, 0, 1500))
    count = blobs + leaves
    spot = rng.normal(size=(count, 3))
    spot *= (rng.uniform(0.25, 1, count) ** 0.45 / np.linalg.norm(spot, axis=1))[:, None]
    radius = np.where(
        np.arange(count) < blobs,
        rng.uniform(0.2, 0.36, count) * max(blobs / 40, 1) ** -0.2,
        rng.uniform(0.025, 0.06, count),
    )
    radius *= radii.min()
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
        sun = canvas.light.sun
        if canvas.light.direct > 0.05:
            canvas.darken(canvas.cast_HW, np.array([p - p[1] * sun / sun[1] for p in ring]))
    canvas.cast(np.array([(x + dx, y, z) for dx in (-0.15, 0.15) for y in (0, fork)]))
    crown = (high - fork * 0.75) / 2
    _foliage(canvas, (x + lean, high - crown, z), (wide, crown, wide), tone)


def draw_bush(canvas: Canvas, x: float, z: float, size: float) -> None:
    """A bush about `size` metres high."""
    canvas.cast(np.array([(x + dx, y, z + dz) for dx in (-size, size) for y in (0, size) for dz in (-0.5, 0.5)]))
    _foliage(canvas, (x, size * 0.6, z), (size * 1.25, size * 0.75, size), pick(canvas.rng, LEAVES))
