"""Pictures of tests: read by OpenCV, whose readers return None for what is no image, or in memory."""

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


class Pixels:
    """A picture in memory, as a LazyImage that counts what is asked of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.size, self.dtype, self.asked = pixels, pixels.shape[:2], pixels.dtype, 0

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        assert 0 <= top <= top + height <= self.size[0] and 0 <= left <= left + width <= self.size[1]
        assert height > 0 and width > 0
        self.asked += height * width
        return self.pixels[top : top + height, left : left + width]
