"""Comparison panels: images of input, ground truth, prediction and errors."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msanet.datasets import ignored_value
from msanet.report.palette import RGB, Label, UInt8, check_image, check_label, colorize

COLUMNS = ("input", "ground truth", "prediction", "errors")
"""What a panel shows, from left to right."""

GUTTER = 6
"""White space between two images that are laid side by side, in pixels."""

RIGHT: RGB = (222, 226, 230)
WRONG: RGB = (214, 40, 40)
_IGNORED_DARK: RGB = (24, 26, 30)
_IGNORED_LIGHT: RGB = (58, 62, 68)
_HATCH_PERIOD = 8  # pixels from one stripe to the next


def comparison_images(
    image: UInt8, ground_truth: Label, prediction: Label, palette: Sequence[RGB], max_width: int = 480
) -> dict[str, UInt8]:
    """Input, ground truth, prediction and errors by their names in COLUMNS, each (h, w, 3) uint8 RGB.

    image: (H, W, 3) uint8 RGB. ground_truth, prediction: (H, W) train ids, uint8 or uint16. max_width: images wider than
    this, or higher than four times this, are scaled down.
    """
    if max_width < 1:
        raise ValueError(f"panel has max_width {max_width}, expected at least 1 pixel")
    check_label(ground_truth, len(palette))
    check_label(prediction, len(palette))
    check_image(image, ground_truth.shape)
    if prediction.shape != ground_truth.shape:
        raise ValueError(f"prediction has size {prediction.shape}, expected {ground_truth.shape} as the ground truth")
    height, width = ground_truth.shape
    share = min(max_width / width, 4 * max_width / height)
    if share < 1:
        size = (max(1, round(width * share)), max(1, round(height * share)))
        image = _resize(image, size, cv2.INTER_AREA)
        ground_truth = _resize(ground_truth, size, cv2.INTER_NEAREST_EXACT)
        prediction = _resize(prediction, size, cv2.INTER_NEAREST_EXACT)
    drawn = (image, colorize(ground_truth, palette), colorize(prediction, palette), errors(ground_truth, prediction))
    return dict(zip(COLUMNS, drawn, strict=True))


def errors(ground_truth: Label, prediction: Label) -> UInt8:
    """Where two labels (H, W) agree: gray = right, red = wrong, dark hatching = ignored; (H, W, 3) RGB."""
    right_HW1 = (ground_truth == prediction)[..., None]
    errors_HWC = np.where(right_HW1, np.array(RIGHT), np.array(WRONG))
    height, width = ground_truth.shape
    rows, columns = np.ogrid[:height, :width]
    stripe_HW1 = ((rows + columns) % _HATCH_PERIOD < 2)[..., None]
    hatch_HWC = np.where(stripe_HW1, np.array(_IGNORED_LIGHT), np.array(_IGNORED_DARK))
    ignored_HW1 = (ground_truth == ignored_value(ground_truth.dtype))[..., None]
    return np.where(ignored_HW1, hatch_HWC, errors_HWC).astype(np.uint8)


def _resize(array: NDArray[Any], size: tuple[int, int], interpolation: int) -> NDArray[Any]:
    return np.asarray(cv2.resize(array, size, interpolation=interpolation), dtype=array.dtype)
