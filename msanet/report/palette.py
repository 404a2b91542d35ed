"""Train ids to colors: images of labels, overlays, and indexed PNG files whose pixels are the train ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msanet.datasets import IGNORE_INDEX_16, ignore_index, label_dtype

RGB = tuple[int, int, int]
"""Red, green, blue, each 0 to 255. Every image of this package is RGB."""

UInt8 = NDArray[np.uint8]
"""Images are (H, W, 3) RGB."""
Label = NDArray[np.unsignedinteger[Any]]
"""(H, W) train ids, uint8, or uint16 of more than 255 classes."""

IGNORE_COLOR: RGB = (0, 0, 0)


def colorize(label_HW: Label, palette: Sequence[RGB], ignore_color: RGB = IGNORE_COLOR) -> UInt8:
    """Class colors (H, W, 3) of train ids (H, W), `ignore_color` of ignored ones. Raises ValueError for an id without a color."""
    check_label(label_HW, len(palette))
    return color_table(palette, ignore_color)[label_HW]


def overlay(image_HWC: UInt8, label_HW: Label, palette: Sequence[RGB], alpha: float = 0.5) -> UInt8:
    """Blend an image, (H, W, 3) uint8 RGB, with the class colors by the share `alpha`; ignored pixels show the image."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"overlay has alpha {alpha}, expected 0 to 1")
    check_image(image_HWC, label_HW.shape)
    colors_HWC = colorize(label_HW, palette)
    mixed_HWC = (1.0 - alpha) * image_HWC.astype(np.float32) + alpha * colors_HWC.astype(np.float32)
    counted_HW1 = (label_HW != ignore_index(len(palette)))[..., None]
    return np.where(counted_HW1, np.rint(mixed_HWC).astype(np.uint8), image_HWC)


def write_palette_png(path: Path, label_HW: Label, palette: Sequence[RGB], ignore_color: RGB = IGNORE_COLOR) -> None:
    """Write an 8-bit indexed PNG of train ids with the class colors; Pillow reads the ids, OpenCV the colors."""
    check_label(label_HW, len(palette))
    assert label_HW.dtype == np.uint8, "an indexed PNG has 256 colors"
    image = Image.fromarray(np.ascontiguousarray(label_HW))
    # All 256 entries, so that Pillow keeps 8 bits per pixel and 255 keeps its own color.
    image.putpalette(color_table(palette, ignore_color).tobytes())
    image.save(path, format="PNG")


def color_table(palette: Sequence[RGB], ignore_color: RGB = IGNORE_COLOR) -> UInt8:
    """The (256, 3) uint8 table (or (65536, 3)) from train id to color; ids without a class are black."""
    if not 0 < len(palette) <= IGNORE_INDEX_16:
        raise ValueError(f"palette has {len(palette)} colors, expected 1 to {IGNORE_INDEX_16}; give one per class")
    colors_K3 = np.array([*palette, ignore_color])
    if colors_K3.shape[1:] != (3,) or colors_K3.min() < 0 or colors_K3.max() > 255:
        raise ValueError("palette contains a color that is not RGB, expected three numbers from 0 to 255; fix it")
    ignored = ignore_index(len(palette))
    table = np.zeros((ignored + 1, 3), dtype=np.uint8)
    table[: len(palette)] = colors_K3[:-1]
    table[ignored] = colors_K3[-1]
    return table


def check_label(label_HW: NDArray[Any], num_classes: int) -> None:
    """Raise ValueError unless this is an (H, W) label, of its dtype, of ids 0 to num_classes - 1 and the ignored one."""
    dtype, ignored = label_dtype(num_classes), ignore_index(num_classes)
    if label_HW.ndim != 2 or label_HW.dtype != dtype:
        raise ValueError(
            f"label has shape {label_HW.shape} and type {label_HW.dtype}, expected (height, width) and {dtype}"
        )
    present = np.flatnonzero(np.bincount(label_HW.ravel(), minlength=ignored + 1))
    unknown = [int(value) for value in present if num_classes <= value != ignored]
    if unknown:
        raise ValueError(f"label contains the id(s) {unknown}, expected train ids 0 to {num_classes - 1} or {ignored}")


def check_image(image_HWC: NDArray[Any], size_HW: tuple[int, ...]) -> None:
    """Raise ValueError unless this is an (H, W, 3) uint8 image of the given (height, width)."""
    if image_HWC.shape != (*size_HW, 3) or image_HWC.dtype != np.uint8:
        raise ValueError(
            f"image has shape {image_HWC.shape} and type {image_HWC.dtype}, expected {(*size_HW, 3)} and uint8"
        )
