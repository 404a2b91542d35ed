"""What a prediction leaves on disk."""

from collections.abc import Sequence
from pathlib import Path

import cv2

from msanet.visual.palette import RGB, UInt8, overlay, write_palette_png


def write_prediction(stem: Path, image_HWC: UInt8, label_HW: UInt8, palette: Sequence[RGB]) -> None:
    """Write STEM.png (palette PNG whose pixel values are train ids) and STEM.overlay.jpg, making folders as needed."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_palette_png(stem.with_name(stem.name + ".png"), label_HW, palette)
    shown = cv2.cvtColor(overlay(image_HWC, label_HW, palette), cv2.COLOR_RGB2BGR)
    path = stem.with_name(stem.name + ".overlay.jpg")
    if not cv2.imwrite(str(path), shown, [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"'{path}' could not be written")
