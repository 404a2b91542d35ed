"""Crops around pixels of rare classes, by the pixels of each class that packing has counted."""

import math

import numpy as np

from msanet.data.image.codec import LazyImage
from msanet.data.image.crop import CropParams, pixels_of_classes


def crop_around_rare_class(
    label: LazyImage,
    crops: list[CropParams],
    class_pixels: tuple[int, ...],
    probability: float,
    rng: np.random.Generator,
) -> list[CropParams]:
    """With this probability, the first crop to try holds a pixel of a class that is drawn among those of the image.

    A class is drawn with a probability inverse to its pixels in the split. The pixel lies anywhere in the crop, which stays
    inside the image. The complete label is decoded for it.
    """
    u, u_class, u_pixel, *u_places = rng.random(5)
    if u >= probability:
        return crops
    label_HW = np.ascontiguousarray(label.window(0, 0, *label.size))
    found = _draw_class(label_HW, class_pixels, u_class)
    if found is None:
        return crops
    pixels = np.flatnonzero(label_HW.ravel() == found)
    place = divmod(int(pixels[math.floor(u_pixel * len(pixels))]), label.size[1])
    first = crops[0]
    top, left = (
        _start_around(place[axis], label.size[axis], first.resized[axis], first.window[2 + axis], u_places[axis])
        for axis in range(2)
    )
    # Where the image is smaller than the crop, the crop holds all of it, wherever it was drawn.
    top, left = (old if new is None else new for old, new in zip(first.window[:2], (top, left), strict=True))
    return [first._replace(window=(top, left, *first.window[2:])), *crops[1:]]


def _draw_class(label_HW: np.ndarray, class_pixels: tuple[int, ...], u: float) -> int | None:
    counts = pixels_of_classes(label_HW)
    present = np.flatnonzero(counts)
    if not len(present):
        return None
    in_split = np.ones(len(counts))
    in_split[: len(class_pixels)] = np.maximum(class_pixels, 1)
    chances = np.cumsum(1 / in_split[present])
    return int(present[np.searchsorted(chances, u * chances[-1], side="right")])


def _start_around(place: int, side: int, resized: int, window: int, u: float) -> int | None:
    """Where a window along a side of an image begins that holds the source pixel `place`; None if it holds the whole side."""
    if resized <= window:
        return None
    start = math.floor((place + 0.5) * resized / side - u * window)
    return min(max(start, 0), resized - window)
