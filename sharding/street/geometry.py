"""World geometry in metres: the camera's constants, kinds of surface and outlines of simple shapes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Rgb = Sequence[float] | Floats
Rng = np.random.Generator

CAMERA, NEAR = 1.4, 0.45
"""The camera's height above the road and the nearest depth that is painted, in metres."""
FLAT, SIDE, FRONT, SKY = range(4)
"""What a surface is: at a constant y, x or z, or infinitely far."""


def clip_near(polygon: Floats) -> Floats:
    """The part of a world polygon (N, 3) beyond the near plane, (M, 3); M is 0 where nothing is left."""
    if polygon[:, 2].min() >= NEAR:
        return polygon
    points = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if here[2] >= NEAR:
            points.append(here)
        if (here[2] >= NEAR) != (there[2] >= NEAR):
            points.append(here + (there - here) * (NEAR - here[2]) / (there[2] - here[2]))
    return np.array(points)


def level_rect(x0: float, x1: float, z0: float, z1: float, y: float = 0.0) -> Floats:
    """A level rectangle (4, 3) at height `y`."""
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], float)


def upright_rects(origin: Rgb, along: Rgb, boxes: Floats) -> Floats:
    """Upright rectangles (M, 4, 3) from boxes (M, 4) of u0, u1, v0, v1 on the wall through `origin` along `along`."""
    u, v = boxes[:, [0, 1, 1, 0]], boxes[:, [2, 2, 3, 3]]
    return np.asarray(origin) + u[..., None] * np.asarray(along, float) + v[..., None] * np.array([0.0, 1.0, 0.0])


def disc(x: float, y: float, z: float, radius: float, corners: int = 20, turn: float = 0.0) -> Floats:
    """An upright regular polygon (corners, 3) that faces the camera; `turn` is its angle in radians."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + turn
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(corners, z)], -1)


_QUARTERS = np.linspace(-np.pi / 2, np.pi / 2, 7)
_HALF_DISC = np.stack([np.cos(_QUARTERS), np.sin(_QUARTERS)], -1)


def stroke(a: Rgb, b: Rgb, wide_a: float, wide_b: float) -> Floats:
    """The outline (14, 2) of a rounded stroke from a to b with these widths."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    x, y = (b - a).tolist()
    long = (x * x + y * y) ** 0.5 or 1.0
    half = _HALF_DISC @ np.array([[x, y], [-y, x]]) / (2 * long)
    return np.concatenate([b + half * wide_b, a - half * wide_a])
