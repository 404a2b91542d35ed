"""The body of a vehicle: profiles, panels, wheels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sharding.street.canvas import Canvas
from sharding.street.geometry import CAMERA, FRONT, NEAR, Floats, Rgb, disc, stroke
from sharding.street.palette import pick


@dataclass(frozen=True)
class Pose:
    """Where a vehicle stands (its middle), and the heading of its front: 0 is away from the camera, in radians."""

    x: float
    z: float
    heading: float

    def world(self, points: Floats) -> Floats:
        """Vehicle points (..., 3) of forward, up and sideways metres as world points (..., 3)."""
        along, up, across = points[..., 0], points[..., 1], points[..., 2]
        c, s = np.cos(self.heading), np.sin(self.heading)
        return np.stack([self.x + along * s + across * c, up, self.z + along * c - across * s], -1)


def box_points(x0: float, x1: float, y0: float, y1: float, half: float) -> Floats:
    """The corners (8, 3) of a box in vehicle metres, `half` wide to either side."""
    return np.array([(a, b, c) for a in (x0, x1) for b in (y0, y1) for c in (-half, half)])


def flat_rect(x0: float, x1: float, y0: float, y1: float) -> Floats:
    """The corners (4, 2) of a rectangle in metres forward and up."""
    return np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)])


class Body:
    """Draws a vehicle: a profile swept across its width, with details on the faces that the camera sees."""

    def __init__(self, canvas: Canvas, pose: Pose, label: str) -> None:
        self.canvas, self.pose = canvas, pose
        self.surface = canvas.surface(label, FRONT, max(pose.z - 1.0, NEAR))
        self.cos, self.sin = float(np.cos(pose.heading)), float(np.sin(pose.heading))
        # The camera in vehicle metres, to tell quickly which faces are turned to it.
        self.eye = (-pose.x * self.sin - pose.z * self.cos, CAMERA, -pose.x * self.cos + pose.z * self.sin)
        # Details that would be smaller than a pixel or two are left out.
        self.fine = canvas.pixels(1.5, pose.z) > 22
        self.shades: dict[tuple[float, float, float], float] = {}

    def face(self, points: Floats, outward: tuple[float, float, float], rgb: Rgb) -> None:
        """Paint one face (N, 3) in vehicle metres where it is turned to the camera."""
        first = points[0].tolist()
        if sum(n * (e - p) for n, e, p in zip(outward, self.eye, first, strict=True)) <= 0:
            return
        if outward not in self.shades:
            normal = self.pose.world(np.asarray(outward, float)) - (self.pose.x, 0, self.pose.z)
            self.shades[outward] = 0.25 + 0.75 * self.canvas.light.shade(normal / np.linalg.norm(normal))
        self.canvas.draw(self.surface, self.pose.world(points), np.asarray(rgb) * self.shades[outward])

    def sweep(self, profile: Floats, half: Floats, colours: Sequence[Rgb]) -> None:
        """The faces between the edges of a profile (N, 2), `half` wide at each point."""
        middle = self.pose.world(np.c_[(profile[1:] + profile[:-1]) / 2, np.zeros(len(profile) - 1)])
        for i in np.argsort(-np.linalg.norm(middle - (0, CAMERA, 0), axis=1)):
            a, b = profile[i], profile[i + 1]
            quad = np.array([(*a, -half[i]), (*a, half[i]), (*b, half[i + 1]), (*b, -half[i + 1])])
            self.face(quad, (float(a[1] - b[1]), float(b[0] - a[0]), 0.0), colours[i])

    def panel(self, a: Rgb, b: Rgb, half: float, box: Sequence[float], rgb: Rgb) -> None:
        """A detail on the face from a to b; `box` is from, to across (-1 to 1), then from, to along (0 to 1)."""
        a, b = np.asarray(a), np.asarray(b)
        u0, u1, t0, t1 = box
        low, high = a + (b - a) * t0, a + (b - a) * t1
        quad = [(*low, u0 * half), (*low, u1 * half), (*high, u1 * half), (*high, u0 * half)]
        self.face(np.array(quad), (float(a[1] - b[1]), float(b[0] - a[0]), 0.0), rgb)

    def side(self, polygon: Floats, half: float | Floats, rgb: Rgb) -> None:
        """A polygon (N, 2) on whichever side is seen; `half` is its distance from the middle, for all or each point."""
        sign = 1.0 if self.eye[2] > 0 else -1.0
        points = np.empty((len(polygon), 3))
        points[:, :2], points[:, 2] = polygon, sign * half
        self.face(points, (0.0, 0.0, sign), rgb)

    def tyres(self, places: Sequence[float], half: float, radius: float) -> None:
        """What is seen of the wheels below the body, from the front or the back."""
        for place in places:
            for sign in (-1, 1):
                box = box_points(place - radius * 0.7, place + radius * 0.7, 0, radius, 0.0)
                box[:, 2] = [sign * half, sign * half * 0.78] * 4
                world = self.pose.world(box)
                if world[:, 2].min() > NEAR:
                    hull = np.asarray(cv2.convexHull(self.canvas.project(world))[:, 0], np.int32)
                    self.canvas.fill(self.surface, [hull], (18, 18, 20))

    def wheels(self, places: Sequence[float], half: float, radius: float) -> None:
        """The wheels as they are seen from the side."""
        rng, dark = self.canvas.rng, np.array((18, 18, 20))
        rim = pick(rng, ((150, 152, 156), (90, 92, 96), (190, 190, 192)))
        spokes = int(rng.integers(5, 8))
        circle = disc(0, 0, 0, radius, 22)[:, :2]
        for place in places:
            hub = np.array((place, radius))
            self.side(circle * 1.14 + hub, half, dark * 0.6)
            self.side(circle + hub, half + 0.01, dark * 1.5)
            self.side(circle * 0.66 + hub, half + 0.02, rim)
            if not self.fine:
                continue
            for angle in np.arange(spokes) * 2 * np.pi / spokes:
                tip = np.array([np.cos(angle), np.sin(angle)]) * radius * 0.45
                self.side(stroke(tip * 0.6 + hub, tip * 1.2 + hub, 0.05, 0.08), half, dark * 2)
            self.side(circle * 0.14 + hub, half + 0.02, rim * 0.5)
