"""Grey PNGs have the same values by the quick decoder, which leaves anything unusual or damaged to the general ones."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.image.grey_png import decode_grey_png


def encoded(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (400, 300)])
def test_values_are_the_same(dtype: type, size: tuple[int, int]) -> None:
    """By every filter of rows, and by data of several stored blocks."""
    pixels: np.ndarray = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, size).astype(dtype)
    for strategy in range(4):
        done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_STRATEGY, strategy])
        found = decode_grey_png(data.tobytes())
        assert done and found is not None and found.dtype == dtype and (found == pixels).all()
    np.testing.assert_array_equal(decode_grey_png(encoded(pixels)), pixels)


def test_anything_else_is_left_to_others() -> None:
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    palette = Image.fromarray(grey)
    palette.putpalette([0] * 768)
    file = io.BytesIO()
    palette.save(file, "PNG")
    data = encoded(grey)
    turned = Image.Exif()
    turned[274] = 6
    others = [b"", b"text", file.getvalue(), encoded(np.zeros((5, 5, 3), np.uint8)), encoded(grey > 9)]
    others += [encoded(grey, transparency=3), encoded(grey, exif=turned), data[:-30], data[:40]]
    damaged = bytearray(data)
    damaged[data.index(b"IDAT") + 9] ^= 255
    assert all(decode_grey_png(other) is None for other in [*others, bytes(damaged)])
