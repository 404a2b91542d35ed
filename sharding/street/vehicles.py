"""Buses and trucks."""

import numpy as np

from sharding.street.body import Body, Pose, box_points
from sharding.street.canvas import Canvas
from sharding.street.palette import CLOTHES, FACADES, GLASS, PAINTS, pick


def draw_bus(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A bus with its middle at (x, z); `heading` in radians as for cars."""
    rng, half, long, high = canvas.rng, 1.25, 5.6, 3.05
    body = Body(canvas, Pose(x, z, heading), "bus")
    paint, glass = pick(rng, PAINTS), pick(rng, GLASS, 8)
    band = pick(rng, PAINTS)
    profile = np.array([(-long, 0.32), (-long, high), (long - 0.15, high), (long, 0.32)])
    body.shadow(box_points(-long, long, 0, high, half))
    body.tyres((-long * 0.55, long * 0.5), half * 0.97, 0.48)
    body.sweep(profile, np.full(4, half), [paint] * 3)
    body.side(profile, half, paint)
    body.side(np.array([(-long, 0.32), (-long, 0.75), (long, 0.75), (long, 0.32)]), half, band)
    for u in np.arange(-long + 0.25, long - 1.3, 1.5):
        body.side(
            np.array([(u, 1.3), (u, 2.45), (u + 1.38, 2.45), (u + 1.38, 1.3)]), half, glass * rng.uniform(0.8, 1.2)
        )
    for u in (-1.0, 3.9):
        body.side(np.array([(u, 0.4), (u, 2.45), (u + 1.2, 2.45), (u + 1.2, 0.4)]), half, glass * 0.7)
    body.wheels((-long * 0.55, long * 0.5), half + 0.005, 0.48)
    rear, front = (profile[0], profile[1]), (profile[2], profile[3])
    body.panel(*rear, half, (-0.85, 0.85, 0.48, 0.82), glass)
    body.panel(*front, half, (-0.94, 0.94, 0.2, 0.66), glass)
    body.panel(*front, half, (-0.94, 0.94, 0.2, 0.36), glass * 1.3)
    for face in (rear, front):
        first = 0.03 if face is front else 0.86
        body.panel(*face, half, (-0.7, 0.7, first, first + 0.11), (26, 26, 26))
        body.panel(*face, half, (-0.4, 0.4, first + 0.02, first + 0.09), (230, 160, 50))
    for sign in (-1, 1):
        body.panel(*rear, half, (sign * 0.8, sign * 0.95, 0.14, 0.34), (160, 24, 24))
        body.panel(*front, half, (sign * 0.62, sign * 0.92, 0.8, 0.9), (226, 226, 214))
    body.panel(*front, half, (-1, 1, 0.93, 1), (24, 24, 24))
    body.panel(*rear, half, (-1, 1, 0, 0.08), (24, 24, 24))


def draw_truck(canvas: Canvas, x: float, z: float, heading: float) -> None:
    """A truck of cab and box with its middle at (x, z); `heading` in radians as for cars."""
    rng, half, high = canvas.rng, 1.22, canvas.rng.uniform(2.9, 3.5)
    body = Body(canvas, Pose(x, z, heading), "truck")
    paint, cargo, glass, dark = pick(rng, PAINTS), pick(rng, FACADES), pick(rng, GLASS, 8), np.array((26, 26, 28))
    chassis = np.array([(-3.6, 0.45), (-3.6, 0.95), (3.4, 0.95), (3.4, 0.45)])
    box = np.array([(-3.7, 0.95), (-3.7, high), (1.5, high), (1.5, 0.95)])
    cab = np.array([(1.65, 0.4), (1.65, 2.6), (3.3, 2.6), (3.55, 1.5), (3.6, 0.4)])
    body.shadow(box_points(-3.7, 3.6, 0, high, half))

    def draw_chassis() -> None:
        body.sweep(chassis, np.full(4, half * 0.8), [dark] * 3)
        body.side(chassis, half * 0.8, dark)
        body.tyres((-2.5, 2.5), half * 0.98, 0.46)
        body.wheels((-2.5, 2.5), half * 0.98, 0.46)

    def draw_box() -> None:
        body.sweep(box, np.full(4, half), [cargo] * 3)
        body.side(box, half, cargo)
        body.side(box * (0.9, 0.25) + (0, 1.3), half, pick(rng, CLOTHES))
        body.panel(box[0], box[1], half, (-0.02, 0.02, 0.02, 0.98), cargo * 0.6)
        body.panel(box[0], box[1], half, (-1, 1, 0, 0.05), dark)
        for sign in (-1, 1):
            body.panel(chassis[0], chassis[1], half * 0.95, (sign * 0.6, sign * 0.9, 0.3, 0.75), (160, 26, 26))

    def draw_cab() -> None:
        body.sweep(cab, np.full(5, half * 0.98), [paint, paint, glass, paint])
        body.side(cab, half * 0.98, paint)
        body.side(np.array([(2.2, 1.5), (2.2, 2.35), (3.2, 2.35), (3.4, 1.5)]), half * 0.98, glass)
        for sign in (-1, 1):
            body.panel(cab[3], cab[4], half, (sign * 0.6, sign * 0.92, 0.62, 0.76), (226, 226, 214))
        body.panel(cab[3], cab[4], half, (-0.6, 0.6, 0.15, 0.55), dark)
        body.wheels((2.5,), half, 0.46)

    draw_chassis()
    away = np.cos(heading) > 0
    for part in (draw_cab, draw_box) if away else (draw_box, draw_cab):
        part()
