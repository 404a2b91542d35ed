"""What a prediction leaves on disk. Every file is written beside its place and renamed: after a kill it is whole or absent."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from msanet.errors import UserError
from msanet.files import atomic_file
from msanet.report.palette import RGB, UInt8, write_palette_png


def write_picture(path: Path, picture: UInt8) -> None:
    """Write (H, W, 3) RGB or grey (H, W), uint8, as PNG or JPEG, by the path's ending. Raises UserError where it is too large."""
    shown = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(path.suffix, shown, options)
    except cv2.error:
        done = False
    if not done:
        height, width = picture.shape[:2]
        raise UserError(
            "MSA-EVAL-016",
            f"'{path}' cannot hold {width}x{height} pixels; cut the image, or leave this output out of --write",
            setting="--write",
        )
    with atomic_file(path, lasting=False) as temporary:
        temporary.write_bytes(data.tobytes())


def write_palette(path: Path, label_HW: UInt8, palette: Sequence[RGB], ignore_color: RGB = (0, 0, 0)) -> None:
    """`write_palette_png`, whole or not at all."""
    with atomic_file(path, lasting=False) as temporary:
        write_palette_png(temporary, label_HW, palette, ignore_color)


def write_probabilities(path: Path, probabilities_KHW: NDArray[np.float32], classes: Sequence[str]) -> None:
    """Write an .npz of `probabilities`, (K, H, W) float16, and `classes`, their K names."""
    with atomic_file(path, lasting=False) as temporary, temporary.open("wb") as file:
        np.savez(file, probabilities=probabilities_KHW.astype(np.float16), classes=np.array(classes))
