"""Rotation, shear and perspective, as a part of the one resampling of a crop: only the pixels under it are decoded."""

import math

import cv2
import numpy as np

from msanet.config import DataConfig
from msanet.data.image.codec import LazyImage

_BORDER_BANDS = 4
_MARGIN = 2
"""Source pixels around a crop's outline that interpolation may read."""


def choose_warp(size: tuple[int, int], config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw the warp of a crop of `size` (h, w) about its center.

    Returns:
        A (3, 3) homography from (x, y, 1) of a pixel of the crop to where it is taken from, in pixels of the crop without warp.
        The corners move by less than a quarter of the sides beyond an affine map, so it is finite everywhere in the crop.
    """
    u = 2 * rng.random(11) - 1  # angle, two shears, four corners
    angle = math.radians(config.rotation) * u[0]
    shear_x, shear_y = np.tan(math.radians(config.shear) * u[1:3])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine = np.eye(3)
    affine[:2, :2] = rotation @ np.array([[1, shear_x], [0, 1]]) @ np.array([[1, 0], [shear_y, 1]])
    height, width = size
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    moved = corners + u[3:].reshape(4, 2) * (config.perspective / 4) * (width, height)
    perspective = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    center = shift((width - 1) / 2, (height - 1) / 2)
    return np.asarray(center @ affine @ perspective @ np.linalg.inv(center))


def shift(x: float, y: float) -> np.ndarray:
    """The (3, 3) translation by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def warp_window(
    pixels: LazyImage, to_source: np.ndarray, size: tuple[int, int], fill: int | tuple[float, ...], interpolation: int
) -> np.ndarray:
    """`size` (h, w) pixels, each interpolated at its place in the image, and `fill` outside.

    Args:
        pixels: An image or label, of which the bounding box of what is needed is decoded.
        to_source: (3, 3) homography from (x, y, 1) of a result's pixel to that of the image.
        size: (h, w) of the result.
        fill: Color, or label, of what lies outside the image.
        interpolation: OpenCV's.
    """
    (height, width), (source_h, source_w) = size, pixels.size
    ends = np.array([(x, y, 1) for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)]).T
    x, y, w = to_source @ ends
    left, right = _clipped(x / w, source_w)
    top, bottom = _clipped(y / w, source_h)
    source = pixels.window(top, left, bottom - top, right - left)
    colors = (fill,) if isinstance(fill, int) else fill
    bands = 1 if source.ndim == 2 else source.shape[2]
    parts = [  # OpenCV's color of the border has four bands
        cv2.warpPerspective(
            source if bands <= _BORDER_BANDS else np.ascontiguousarray(source[..., band : band + _BORDER_BANDS]),
            shift(-left, -top) @ to_source,
            (width, height),
            flags=interpolation | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=colors[band : band + _BORDER_BANDS],
        ).reshape(height, width, -1)
        for band in range(0, bands, _BORDER_BANDS)
    ]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)).reshape(height, width, *source.shape[2:])


def _clipped(places: np.ndarray, side: int) -> tuple[int, int]:
    """The pixels [low, high) of a side around these places, at least one: outside the image it is far from all of them."""
    low = min(max(math.floor(places.min()) - _MARGIN, 0), side - 1)
    return low, max(low + 1, min(math.ceil(places.max()) + _MARGIN + 1, side))
