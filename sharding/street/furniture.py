"""Lamps, signs, traffic lights and bins."""

import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, Rgb, disc, stroke, upright_rects
from sharding.street.palette import PAINTS, chance, pick


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
