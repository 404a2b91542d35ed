"""Scale, crop and flip, drawn before a pixel is decoded, and applied only to the pixels under the crop.

A warp is one resampling with the scale (warp.py). Without one, the result is that of resizing the full image and cropping
then: exactly for labels, within one gray level (the rounding of OpenCV's resize) for images. See docs/decisions/0005.
"""

import math
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from msanet.config import DataConfig
from msanet.data.image.codec import LazyImage
from msanet.data.image.warp import shift, warp_window
from msanet.datasets import ignored_value

CROP_TRIES = 10
"""Crops that are tried for cat_max_ratio before the last is taken, as in mmsegmentation's RandomCrop."""
_COARSEST = 32

Window = tuple[int, int, int, int]
"""top, left, height, width."""


class CropParams(NamedTuple):
    """Size (h, w) to resize to, window of the resized image, its warp (see `choose_warp`), and flips, which come last.

    Outside the image the window has the mean color and an ignored label.
    """

    resized: tuple[int, int]
    window: Window
    flip: tuple[bool, bool]  # left-right, top-bottom
    warp: np.ndarray | None = None


def choose_crops(size: tuple[int, int], config: DataConfig, rng: np.random.Generator) -> list[CropParams]:
    """Draw the scale, the flips and the crops to try, one without cat_max_ratio, for an image of `size` (h, w).

    The number of draws depends on the settings alone.
    """
    u_scale, u_horizontal, u_vertical = rng.random(3)
    low, high = config.random_scale
    factor = low + u_scale * (high - low)
    resized = _resized(size, config.resize, factor)
    flip = (bool(u_horizontal < config.flip_horizontal), bool(u_vertical < config.flip_vertical))
    crop = config.crop or resized
    tries = CROP_TRIES if config.cat_max_ratio < 1 else 1
    return [CropParams(resized, _draw_window(resized, crop, *u), flip) for u in rng.random((tries, 2))]


def crop_pair(
    image: LazyImage, label: LazyImage, crops: list[CropParams], cat_max_ratio: float, fill: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) image, bilinear, and (H, W) label, nearest, each of its own type, of the first suitable crop, or the last.

    Suitable: no class has more than cat_max_ratio of the labeled pixels. The image is decoded once.
    """
    for params in crops:
        label_crop = _LabelCrop(label, params) if params.warp is None else _WarpedLabel(label, params)
        if cat_max_ratio >= 1 or _is_mixed(label_crop.source, cat_max_ratio):
            break
    return crop_image(image, params, fill), label_crop.resized()


def crop_image(image: LazyImage, params: CropParams, fill: tuple[float, ...]) -> np.ndarray:
    """(h, w, C) of the window, of the image's type; `fill`, one value for each channel, outside the image."""
    if params.warp is not None:
        return _flip(_warped(image, params, fill, cv2.INTER_LINEAR), params.flip)
    inside = _inside(params)
    is_empty = not (inside[2] and inside[3])
    pixels = np.empty((0, 0, len(fill)), image.dtype) if is_empty else _bilinear(image, params.resized, inside)
    return _flip(_pad(pixels, inside, params.window, fill), params.flip)


class _LabelCrop:
    """A label under a window: `source` at its own size, `resized` as the network gets it."""

    def __init__(self, label: LazyImage, params: CropParams) -> None:
        self.params = params
        self.inside = top, left, height, width = _inside(params)
        self.source = np.empty((height, width), label.dtype)  # empty if the window is outside the image
        if height and width:
            self.rows = _nearest_indices(label.size[0], params.resized[0], top, height)
            self.columns = _nearest_indices(label.size[1], params.resized[1], left, width)
            first, last = (self.rows[0], self.columns[0]), (self.rows[-1], self.columns[-1])
            self.source = label.window(*first, last[0] + 1 - first[0], last[1] + 1 - first[1])

    def resized(self) -> np.ndarray:
        pixels = self.source
        if pixels.shape != self.inside[2:]:
            pixels = pixels.take(self.rows - self.rows[0], axis=0).take(self.columns - self.columns[0], axis=1)
        return _flip(_pad(pixels, self.inside, self.params.window, ignored_value(pixels.dtype)), self.params.flip)


class _WarpedLabel:
    """The same under a warp."""

    def __init__(self, label: LazyImage, params: CropParams) -> None:
        self.source, self._flipped = _warped(label, params, ignored_value(label.dtype), cv2.INTER_NEAREST), params.flip

    def resized(self) -> np.ndarray:
        return _flip(self.source, self._flipped)


def _warped(pixels: LazyImage, params: CropParams, fill: int | tuple[float, ...], interpolation: int) -> np.ndarray:
    """The window before flips. OpenCV's pixel i of a resized side is at (i + 1/2) side / resized - 1/2 of the source."""
    top, left, height, width = params.window
    scale_y, scale_x = (side / resized for side, resized in zip(pixels.size, params.resized, strict=True))
    to_source = shift(-0.5, -0.5) @ np.diag([scale_x, scale_y, 1]) @ shift(left + 0.5, top + 0.5)
    return warp_window(pixels, to_source @ params.warp, (height, width), fill, interpolation)


def _resized(size: tuple[int, int], resize: tuple[int, int] | None, factor: float) -> tuple[int, int]:
    if resize or factor == 1:
        height, width = resize or size
        return max(1, round(height * factor)), max(1, round(width * factor))
    steps = _scale_steps(math.gcd(*size))
    if steps is None:
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    step = max(1, round(factor * steps))
    return size[0] // steps * step, size[1] // steps * step


@cache
def _scale_steps(common: int) -> int | None:
    """Scales are multiples of 1 / this, if the sides' greatest common divisor allows 1/32 or finer.

    Then both sides divide into that many units, and a window that starts between two units of the source is, resized,
    exactly a window of the resized image. Other images are resized completely, along a side or both.
    """
    return next((steps for steps in range(_COARSEST, common + 1) if common % steps == 0), None)


def _draw_window(resized: tuple[int, int], crop: tuple[int, int], u_top: float, u_left: float) -> Window:
    """A random window inside a larger image; around a smaller one, at a random offset within the padding."""
    (height, width), (crop_h, crop_w) = resized, crop
    top = math.floor(u_top * (abs(height - crop_h) + 1)) * (1 if height >= crop_h else -1)
    left = math.floor(u_left * (abs(width - crop_w) + 1)) * (1 if width >= crop_w else -1)
    return top, left, crop_h, crop_w


def _is_mixed(label_HW: np.ndarray, cat_max_ratio: float) -> bool:
    """Counted before resizing and on every fourth row, since this runs for every try."""
    counts = pixels_of_classes(np.ascontiguousarray(label_HW[::4]))
    return bool(counts.max() <= cat_max_ratio * counts.sum() > 0)


def pixels_of_classes(label_HW: np.ndarray) -> np.ndarray:
    """(256,) float32 of a label of 8 bits, or (65536,): pixels of each train id, 0 of ignored ones."""
    ignored = ignored_value(label_HW.dtype)
    counts = cv2.calcHist([label_HW], [0], None, [ignored + 1], [0, ignored + 1]).ravel()
    counts[ignored] = 0
    return counts


def _inside(params: CropParams) -> Window:
    """The part of the window that lies inside the resized image."""
    (height, width), (top, left, window_h, window_w) = params.resized, params.window
    rows = range(max(0, top), min(height, top + window_h))
    columns = range(max(0, left), min(width, left + window_w))
    return rows.start, columns.start, len(rows), len(columns)


def _bilinear(image: LazyImage, resized: tuple[int, int], window: Window) -> np.ndarray:
    top, left, height, width = window
    if resized == image.size:
        return image.window(*window)
    rows = _span(image.size[0], resized[0], top, height)
    columns = _span(image.size[1], resized[1], left, width)
    source = image.window(rows.source, columns.source, rows.source_length, columns.source_length)
    result = cv2.resize(source, (columns.length, rows.length), interpolation=cv2.INTER_LINEAR)
    result = result if result.ndim == source.ndim else result[..., None]  # OpenCV drops a single channel
    return result[top - rows.start : top - rows.start + height, left - columns.start : left - columns.start + width]


class _Span(NamedTuple):
    """Part of a side with the same ends in source pixels and in resized ones."""

    source: int
    source_length: int
    start: int
    length: int


def _span(side: int, resized: int, start: int, length: int) -> _Span:
    """The shortest span of complete units with all source pixels from which [start, start + length) is interpolated.

    OpenCV's pixel i is at (i + 1/2) side / resized - 1/2 of the source, between two pixels.
    """
    units = math.gcd(side, resized)
    unit = side // units
    first = ((2 * start + 1) * side - resized) // (2 * resized)
    last = ((2 * (start + length) - 1) * side - resized) // (2 * resized) + 1
    low, high = max(0, first // unit), min(units, last // unit + 1)
    return _Span(low * unit, (high - low) * unit, low * (resized // units), (high - low) * (resized // units))


def _nearest_indices(side: int, resized: int, start: int, length: int) -> np.ndarray:
    """The source pixel at the center of each resized one.

    Centers are a running sum, as in Pillow and OpenCV 5 (INTER_NEAREST_EXACT), to round as they do between two pixels.
    """
    steps = np.full(start + length, side / resized)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps)[start:].astype(np.int64), side - 1)


def _pad(pixels: np.ndarray, inside: Window, window: Window, fill: float | tuple[float, ...]) -> np.ndarray:
    (top, left, height, width), (row, column, inside_h, inside_w) = window, inside
    if (inside_h, inside_w) == (height, width):
        return pixels
    result = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    result[:] = fill
    if inside_h and inside_w:
        result[row - top : row - top + inside_h, column - left : column - left + inside_w] = pixels
    return result


def _flip(pixels: np.ndarray, flip: tuple[bool, bool]) -> np.ndarray:
    left_right, top_bottom = flip
    if not left_right and not top_bottom:
        return pixels
    code = -1 if left_right and top_bottom else 1 if left_right else 0
    flipped = cv2.flip(pixels, code)  # NumPy's takes 17 times as long
    return flipped if flipped.ndim == pixels.ndim else flipped[..., None]
