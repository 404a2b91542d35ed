"""The canvas: projection, polygons, surfaces and shadows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from msanet.datasets.cityscapes import LABELS
from sharding.street.geometry import CAMERA, NEAR, SKY, Floats, Rgb, Rng, clip_near
from sharding.street.light import Light
from sharding.street.textures import MATERIAL_INDEX

IDS = {label.name: label.id for label in LABELS}
_THINGS = {label.id for label in LABELS if label.has_instances}


class Surface(NamedTuple):
    """Label id, instance id, kind (FLAT, SIDE, FRONT, SKY), the metres at which it is constant, material number."""

    label: int
    instance: int
    kind: int
    value: float
    material: int


class Canvas:
    """The camera and the buffers: colour (H, W, 3), surface numbers (H, W), cast and contact shadow (H, W).

    rare: How many times as often as usual there are things that take few pixels of a data set.
    """

    def __init__(self, rng: Rng, size: tuple[int, int], light: Light, rare: float = 1.0) -> None:
        self.rng, self.light, self.rare = rng, light, rare
        self.height, self.width = size
        self.focal = 0.92 * max(self.width, 1.2 * self.height) * rng.uniform(0.92, 1.12)
        self.cx = self.width * rng.uniform(0.43, 0.57)
        self.cy = self.height * rng.uniform(0.40, 0.48)
        self.colour = np.zeros((self.height, self.width, 3), np.uint8)
        self.surface_HW = np.zeros(size, np.int32)
        self.cast_HW = np.zeros(size, np.uint8)
        self.contact_HW = np.zeros(size, np.uint8)
        self.surfaces: list[Surface] = []
        self._counts: Counter[int] = Counter()
        self.surface("sky", SKY, 1e4, "sky")

    def surface(self, label: str, kind: int, value: float, material: str = "plain") -> int:
        """A new surface at y, x or z = `value`; things get the next instance."""
        number = instance = IDS[label]
        if number in _THINGS:
            instance = number * 1000 + self._counts[number]
            self._counts[number] += 1
        self.surfaces.append(Surface(number, instance, kind, value, MATERIAL_INDEX[material]))
        return len(self.surfaces) - 1

    def per_pixel(self, field: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """One field of the surface that each pixel shows, (H, W)."""
        return np.array([getattr(surface, field) for surface in self.surfaces], dtype)[self.surface_HW]

    def pixels(self, metres: float, z: float) -> float:
        """How many pixels a length covers at depth z (metres)."""
        return metres * self.focal / max(z, NEAR)

    def project(self, points: Floats) -> npt.NDArray[np.int32]:
        """World points (..., 3) as picture points (..., 2) in sixteenths of a pixel."""
        scale = 16 * self.focal / points[..., 2]
        spots = np.empty((*points.shape[:-1], 2))
        spots[..., 0] = points[..., 0] * scale + (16 * self.cx + 0.5)
        spots[..., 1] = (CAMERA - points[..., 1]) * scale + (16 * self.cy + 0.5)
        if points[..., 2].min() < 3:
            # The limit is far outside the picture and keeps the fixed point numbers within range.
            np.clip(spots, -4e6, 4e6, out=spots)
        return spots.astype(np.int32)

    def fill(self, surface: int | None, polygons: Sequence[npt.NDArray[np.int32]], rgb: Rgb) -> None:
        """Fill projected polygons with a colour (0 to 255), and give their pixels to `surface` where one is named.

        The polygons of one call must not overlap: OpenCV leaves out what an even number of them covers.
        """
        colour = rgb.tolist() if isinstance(rgb, np.ndarray) else rgb  # OpenCV limits it to 0 to 255.
        cv2.fillPoly(self.colour, polygons, colour, cv2.LINE_AA, 4)
        if surface is not None:
            cv2.fillPoly(self.surface_HW, polygons, [float(surface)], cv2.LINE_8, 4)

    def draw(self, surface: int | None, polygons: Floats, rgb: Rgb) -> None:
        """Fill world polygons (M, N, 3) that do not overlap, or one (N, 3), cut at the near plane."""
        stack = polygons[None] if polygons.ndim == 2 else polygons
        if stack[..., 2].min() >= NEAR:
            self.fill(surface, list(self.project(stack)), rgb)
            return
        pieces = [piece for piece in map(clip_near, stack) if len(piece) > 2]
        if pieces:
            self.fill(surface, [self.project(piece) for piece in pieces], rgb)

    def mix(self, polygon: Floats, rgb: Rgb, alpha: float) -> None:
        """Lay a half transparent world polygon (N, 3) over the colours."""
        piece = clip_near(polygon)
        if len(piece) > 2:
            points = self.project(piece)
            x0, y0 = np.clip(points.min(0) // 16 - 1, 0, (self.width, self.height))
            x1, y1 = np.clip(points.max(0) // 16 + 2, 0, (self.width, self.height))
            before = self.colour[y0:y1, x0:x1].copy()
            self.fill(None, [points], rgb)
            after = self.colour[y0:y1, x0:x1]
            if after.size:
                self.colour[y0:y1, x0:x1] = cv2.addWeighted(after, alpha, before, 1 - alpha, 0)

    def cast(self, points: Floats, contact: bool = True) -> None:
        """Darken the ground below and, away from the sun, beside the body with these corner points (N, 3)."""
        sun = self.light.sun
        ground = points - points[:, 1:2] * (sun / sun[1])
        if self.light.direct > 0.05:
            self.darken(self.cast_HW, np.concatenate([ground, points * (1, 0, 1)]))
        if contact:
            self.darken(self.contact_HW, points[points[:, 1] < 0.6] * (1, 0, 1))

    def darken(self, buffer_HW: npt.NDArray[np.uint8], points: Floats) -> None:
        """Fill the ground within the convex hull of world points (N, 3), whose y is ignored, in a shadow buffer."""
        if len(points) > 2:
            hull = cv2.convexHull(points[:, [0, 2]].astype(np.float32))[:, 0]
            piece = clip_near(np.stack([hull[:, 0], np.zeros(len(hull)), hull[:, 1]], -1))
            if len(piece) > 2:
                cv2.fillPoly(buffer_HW, [self.project(piece)], 255, cv2.LINE_AA, 4)
