"""OpenCV's readers, which return None for what is no image, as functions that fail."""

from pathlib import Path

import cv2
import numpy as np


def read_image(path: Path | str, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """(H, W) or (H, W, C) of a file."""
    return decode_pixels(Path(path).read_bytes(), flags)


def decode_pixels(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """(H, W) or (H, W, C) of an encoded image."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None, "not an image"
    return pixels
