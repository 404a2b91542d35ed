"""Flat figures of strokes and wheels, for people and what they ride."""

from collections.abc import Sequence

import cv2
import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import FRONT, NEAR, Floats, Rgb, disc, stroke


class Figure:
    """Flat strokes in metres, standing at (x, z) and turned to the camera; `flip` mirrors them."""

    def __init__(self, canvas: Canvas, label: str, x: float, z: float, base: float = 0.0, share: bool = False) -> None:
        self.canvas, self.at, self.flip = canvas, np.array([x, base, z]), 1.0
        self.surface = canvas.surface(label, FRONT, z, share=share)

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
        flat = (circle * radius + place) * (self.flip, 1)
        world = np.c_[flat, np.zeros(len(flat))] + self.at
        hub = circle * (radius - thick) + place
        points = self.canvas.project(world) if self.at[2] > NEAR else np.zeros((0, 2), np.int32)
        if len(points):
            # The wheel is labelled as a disc, as in Cityscapes, so what shows through it is dulled by its spokes.
            self.canvas.mix(world, np.asarray(rgb) * 0.9 + 25, 0.55)
            cv2.fillPoly(self.canvas.surface_HW, [points], self.surface, cv2.LINE_8, 4)
        for angle in np.arange(spokes) * np.pi / spokes:
            tip = np.array([np.cos(angle), np.sin(angle)]) * (radius - thick)
            self.shape(stroke(place - tip, place + tip, 0.012, 0.012), np.asarray(rgb) + 70)
        rim = circle * radius + place
        for i in range(24):
            j = (i + 1) % 24
            self.shape(np.stack([rim[i], rim[j], hub[j], hub[i]]), rgb)


def lit(canvas: Canvas, rgb: Rgb) -> Floats:
    """A colour (3,) as the light makes it on a figure that faces the camera."""
    return np.asarray(rgb, float) * (0.3 + 0.7 * canvas.light.shade((0, 0.2, -0.98)))
