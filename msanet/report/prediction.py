"""Files of a prediction, each written completely or not at all."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from msanet.errors import UserError
from msanet.files import atomic_file
from msanet.report.palette import RGB, Label, UInt8, write_palette_png


def write_image(path: Path, image: UInt8 | Label) -> None:
    """Write (H, W, 3) RGB or gray (H, W), uint8 (as PNG also uint16), by the ending. Raises UserError if it is too large."""
    shown = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(path.suffix, shown, options)
    except cv2.error:
        done = False
    if not done:
        height, width = image.shape[:2]
        raise UserError(
            "MSA-EVAL-016",
            f"'{path}' cannot hold {width}x{height} pixels; crop the image, or remove this output from --write",
            setting="--write",
        )
    with atomic_file(path, lasting=False) as temporary:
        temporary.write_bytes(data.tobytes())


def write_palette(path: Path, label_HW: Label, palette: Sequence[RGB], ignore_color: RGB = (0, 0, 0)) -> None:
    """`write_palette_png`, complete or not at all."""
    with atomic_file(path, lasting=False) as temporary:
        write_palette_png(temporary, label_HW, palette, ignore_color)


def write_probabilities(path: Path, probabilities_KHW: NDArray[np.float32], classes: Sequence[str]) -> None:
    """Write an .npz of `probabilities`, (K, H, W) float16, and `classes`, their K names."""
    with atomic_file(path, lasting=False) as temporary, temporary.open("wb") as file:
        np.savez(file, probabilities=probabilities_KHW.astype(np.float16), classes=np.array(classes))
