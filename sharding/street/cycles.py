"""Bicycles and motorcycles."""

import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.figure import Figure, lit
from sharding.street.geometry import disc
from sharding.street.palette import PAINTS, pick


def draw_bicycle(canvas: Canvas, x: float, z: float, sideways: bool) -> Figure:
    """A bicycle from its side, or from its end; its figure tells a rider which way it is turned."""
    rng = canvas.rng
    figure = Figure(canvas, "bicycle", x, z)
    frame, tyre = lit(canvas, pick(rng, PAINTS)), np.array((26, 26, 28))
    figure.flip = float(rng.choice([-1, 1]))
    reach = 0.85 if sideways else 0.2
    canvas.cast(np.array([(x + dx, y, z) for dx in (-reach, reach) for y in (0.0, 0.3, 0.7)] + [(x, 0.05, z - 0.1)]))
    if not sideways:
        figure.limbs([(0, 0.05), (0, 0.66)], (0.06, 0.06), tyre)
        figure.limbs([(0, 0.5), (0, 1.0)], (0.05, 0.05), frame)
        figure.limbs([(-0.29, 1.03), (0.29, 1.03)], (0.05, 0.05), tyre * 1.6)
        return figure
    for wheel in (-0.53, 0.53):
        figure.ring(wheel, 0.35, 0.045, tyre, 6)
    crank, seat, stem = (-0.08, 0.32), (-0.22, 0.86), (0.36, 0.86)
    for a, b in (
        (crank, seat),
        (crank, stem),
        ((-0.18, 0.74), stem),
        ((-0.53, 0.35), (-0.18, 0.72)),
        ((-0.53, 0.35), crank),
    ):
        figure.limbs([a, b], (0.05, 0.05), frame)
    figure.limbs([(0.53, 0.35), (0.34, 0.95), (0.42, 1.04)], (0.045, 0.045, 0.05), frame * 0.8)
    figure.limbs([(-0.32, 0.9), (-0.1, 0.9)], (0.08, 0.05), tyre)
    figure.shape(disc(*crank, 0, 0.1, 12)[:, :2], tyre * 1.5)
    return figure


def draw_motorcycle(canvas: Canvas, x: float, z: float) -> None:
    """A parked motorcycle from its side."""
    figure = Figure(canvas, "motorcycle", x, z)
    rng, dark = canvas.rng, np.array((28, 28, 30))
    paint = lit(canvas, pick(rng, PAINTS))
    figure.flip = float(rng.choice([-1, 1]))
    canvas.cast(np.array([(x + dx, y, z + dz) for dx in (-0.9, 0.9) for y in (0.0, 0.7) for dz in (-0.1, 0.1)]))
    for place in (-0.66, 0.66):
        figure.ring(place, 0.31, 0.1, dark, 3)
    figure.limbs([(-0.3, 0.42), (0.2, 0.42)], (0.34, 0.34), dark * 1.8)
    figure.limbs([(-0.8, 0.62), (-0.2, 0.68)], (0.14, 0.24), paint)
    figure.limbs([(-0.6, 0.78), (-0.1, 0.74)], (0.1, 0.14), dark)
    figure.limbs([(0.0, 0.78), (0.34, 0.84)], (0.26, 0.2), paint)
    figure.limbs([(0.66, 0.31), (0.4, 0.98), (0.28, 1.04)], (0.07, 0.07, 0.05), dark * 2.5)
    figure.limbs([(0.46, 0.84), (0.48, 0.98)], (0.16, 0.14), (206, 206, 196))
