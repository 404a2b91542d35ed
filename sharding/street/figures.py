"""Flat figures of strokes and wheels: bicycles, motorcycles and people."""

from collections.abc import Sequence

import cv2
import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, NEAR, Floats, Rgb, disc, stroke
from sharding.street.palette import CLOTHES, PAINTS, SKINS, chance, pick


class Figure:
    """Flat strokes in metres, standing at (x, z) and turned to the camera; `flip` mirrors them."""

    def __init__(self, canvas: Canvas, label: str, x: float, z: float) -> None:
        self.canvas, self.at, self.flip = canvas, np.array([x, 0.0, z]), 1.0
        self.surface = canvas.surface(label, FRONT, z)

    def shape(self, points: Floats | Sequence[Sequence[float]], rgb: Rgb) -> None:
        """A polygon (N, 2)."""
        flat = np.asarray(points, float) * (self.flip, 1)
        self.canvas.draw(self.surface, np.c_[flat, np.zeros(len(flat))] + self.at, rgb)

    def limbs(self, joints: Sequence[Sequence[float]], widths: Sequence[float], rgb: Rgb) -> None:
        """Rounded strokes along the joints; each width belongs to a joint."""
        for i in range(len(joints) - 1):
            self.shape(stroke(joints[i], joints[i + 1], widths[i], widths[i + 1]), rgb)

    def ring(self, x: float, radius: float, thick: float, rgb: Rgb, spokes: int) -> None:
        """A wheel standing on the ground."""
        circle = disc(0, 0, 0, 1.0, 24)[:, :2]
        place = (x, radius)
        rim, hub = circle * radius + place, circle * (radius - thick) + place
        if self.at[2] > NEAR:
            world = np.c_[rim * (self.flip, 1), np.zeros(24)] + self.at
            # The wheel is labelled as a disc, as in Cityscapes, so what shows through it is dulled by its spokes.
            self.canvas.mix(world, np.asarray(rgb) * 0.9 + 25, 0.55)
            cv2.fillPoly(self.canvas.surface_HW, [self.canvas.project(world)], self.surface, cv2.LINE_8, 4)
        for angle in np.arange(spokes) * np.pi / spokes:
            tip = np.array([np.cos(angle), np.sin(angle)]) * (radius - thick)
            self.shape(stroke(place - tip, place + tip, 0.012, 0.012), np.asarray(rgb) + 70)
        for i in range(-24, 0):  # i + 1 ends at the first corner again
            self.shape(np.stack([rim[i], rim[i + 1], hub[i + 1], hub[i]]), rgb)


def lit(canvas: Canvas, rgb: Rgb) -> Floats:
    """A colour (3,) as the light makes it on a figure that faces the camera."""
    return np.asarray(rgb, float) * (0.3 + 0.7 * canvas.light.shade((0, 0.2, -0.98)))


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
    hub = (-0.53, 0.35)
    for tube in ((crank, seat), (crank, stem), ((-0.18, 0.74), stem), (hub, (-0.18, 0.72)), (hub, crank)):
        figure.limbs(tube, (0.05, 0.05), frame)
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


def draw_person(canvas: Canvas, x: float, z: float) -> None:
    """A standing or walking person."""
    rng = canvas.rng
    tall = rng.uniform(1.5, 1.9) * (0.68 if chance(rng, 0.08) else 1)
    top, legs, skin = (lit(canvas, pick(rng, palette)) for palette in (CLOTHES, CLOTHES, SKINS))
    hair, shoe = lit(canvas, pick(rng, ((30, 24, 20), (80, 56, 36), (150, 130, 90), (120, 118, 116)))), (24, 22, 22)
    figure = Figure(canvas, "person", x, z)
    figure.flip = float(rng.choice([-1, 1]))
    canvas.cast(np.array([(x + dx, y, z + dz) for dx in (-0.2, 0.2) for y in (0, 0.5, tall) for dz in (-0.1, 0.1)]))
    step = rng.uniform(0.0, 0.24) if chance(rng, 0.8) else 0.0
    sideways = chance(rng, 0.5)
    hip, shoulder, wide = 0.49 * tall, 0.8 * tall, (0.085 if sideways else 0.125) * tall
    gap = 0.02 if sideways else 0.075
    for sign in (-1, 1):
        foot = (sign * (gap + step), 0.04 + (0.06 if step > 0.1 and sign < 0 else 0))
        knee = (sign * (gap + step * 0.45) + (0.05 if sideways else 0), 0.27 * tall)
        tone = legs * (0.75 if sign < 0 else 1)
        figure.limbs([(sign * gap * 0.9, hip), knee, foot], (0.1 * tall, 0.075 * tall, 0.055 * tall), tone)
        figure.limbs([foot, (foot[0] + (0.14 if sideways else sign * 0.03), 0.035)], (0.08, 0.07), shoe)
    swing = step * rng.uniform(0.6, 1.0)

    def arm(sign: int) -> None:
        elbow = (sign * (0.0 if sideways else wide + 0.05) + sign * swing * 0.5, 0.63 * tall)
        hand = (elbow[0] + sign * swing * 0.4 + (0.06 if sideways else 0), 0.47 * tall)
        start = (0.0 if sideways else sign * wide * 0.92, shoulder - 0.03)
        figure.limbs([start, elbow, hand], (0.07 * tall, 0.055 * tall, 0.045 * tall), top * (0.7 if sign < 0 else 0.9))
        figure.limbs([hand, (hand[0], hand[1] - 0.04)], (0.05 * tall, 0.04 * tall), skin)

    arm(-1)
    hem = hip - rng.uniform(0.0, 0.14) * tall
    torso = [(-wide * 0.8, hem), (-wide * 0.85, 0.62 * tall), (-wide, 0.77 * tall), (-wide * 0.5, 0.83 * tall)]
    outline = np.array([*torso, *[(-u, v) for u, v in reversed(torso)]])
    figure.shape(outline, top)
    dark = 1.0 if canvas.light.sun[0] * figure.flip < 0 else -1.0
    figure.shape(outline * (0.5, 1) + (dark * wide * 0.42, 0), top * 0.78)
    if chance(rng, 0.35):
        bag = lit(canvas, pick(rng, CLOTHES))
        figure.limbs([(-wide * 1.0, 0.72 * tall), (-wide * 1.0, 0.56 * tall)], (0.15 * tall, 0.17 * tall), bag)
    arm(1)
    _head(figure, (0.02 if sideways else 0.0, 0.915 * tall), 0.07 * tall, skin, hair, facing=chance(rng, 0.5))


def _head(figure: Figure, at: tuple[float, float], radius: float, skin: Floats, hair: Floats, facing: bool) -> None:
    """Neck, head and hair at `at` (x, y), from the front where `facing`, else from behind."""
    u, v = at
    figure.limbs([(u, v - radius * 1.5), (u, v)], (radius, radius), skin * 0.85)
    oval = disc(0, 0, 0, radius, 18)[:, :2] * (0.84, 1.15)
    figure.shape(oval + at, skin if facing else hair)
    if facing:
        fringe = np.concatenate([oval[oval[:, 1] > radius * 0.25], [[-radius * 0.6, radius * 0.35]]])
        figure.shape(fringe * 1.06 + at, hair)
    else:
        figure.shape(oval * (0.7, 0.35) + at - (0, radius * 0.85), skin * 0.9)


def draw_rider(canvas: Canvas, x: float, z: float) -> None:
    """A person on a bicycle."""
    rng = canvas.rng
    sideways = chance(rng, 0.5)
    bicycle, figure = draw_bicycle(canvas, x, z, sideways), Figure(canvas, "rider", x, z)
    figure.flip = bicycle.flip
    top, legs, skin = (lit(canvas, pick(rng, palette)) for palette in (CLOTHES, CLOTHES, SKINS))
    hair = lit(canvas, pick(rng, (*PAINTS[4:6], (30, 24, 20), (80, 56, 36))))
    canvas.cast(np.array([(x + dx, y, z) for dx in (-0.25, 0.25) for y in (0.6, 1.3, 1.7)]), contact=False)
    if sideways:
        hip, shoulder = (-0.2, 0.97), (0.14, 1.46)
        for knee, foot, tone in (((0.14, 0.82), (-0.16, 0.45), 0.7), ((0.2, 0.68), (-0.02, 0.2), 1.0)):
            figure.limbs([hip, knee, foot], (0.18, 0.14, 0.09), legs * tone)
            figure.limbs([foot, (foot[0] + 0.12, foot[1] - 0.02)], (0.08, 0.06), (24, 22, 22))
        figure.limbs([hip, shoulder], (0.27, 0.3), top)
        figure.limbs([hip, shoulder], (0.16, 0.14), top * 0.85)
        figure.limbs([shoulder, (0.26, 1.2), (0.44, 1.08)], (0.12, 0.09, 0.07), top * 0.75)
        _head(figure, (0.2, 1.7), 0.12, skin, hair, facing=True)
        return
    for sign, pedal in ((-1, 0.22), (1, 0.42)):
        figure.limbs([(sign * 0.1, 0.95), (sign * 0.15, 0.62), (sign * 0.12, pedal)], (0.17, 0.13, 0.09), legs)
        figure.limbs([(sign * 0.12, pedal), (sign * 0.13, pedal - 0.04)], (0.1, 0.1), (24, 22, 22))
        figure.limbs([(sign * 0.19, 1.42), (sign * 0.3, 1.22), (sign * 0.26, 1.06)], (0.12, 0.09, 0.08), top * 0.8)
    figure.shape([(-0.17, 0.9), (-0.22, 1.42), (-0.1, 1.52), (0.1, 1.52), (0.22, 1.42), (0.17, 0.9)], top)
    _head(figure, (0.0, 1.68), 0.12, skin, hair, facing=chance(rng, 0.5))
