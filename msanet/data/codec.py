"""Bytes of a shard's member to arrays and back, chosen by the member's extension.

A codec is a pair of extensions and a way to write them. `original` passes the image's own bytes through (PNG or JPEG);
labels are always written anew as grey PNG of train ids, since a palette PNG would be expanded to colours by OpenCV.
"""

import io

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from msanet.errors import UserError

CODECS = ("original",)
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp")
MAX_PIXELS = 2**28
"""Images above 268 megapixels are refused before decoding (a decompression bomb, not a photograph)."""


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded image to (H, W, 3) uint8 RGB, as stored: an EXIF rotation is not applied, since labels have none.

    `name` is for the error: UserError if the bytes are no image.
    """
    return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, name)


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Encoded label to (H, W) integers as they lie on disk: grey values, or the indices of a palette PNG.

    Raises UserError if the bytes are no image, or a colour image without a palette.
    """
    if _png_colour_type(data) == 3:  # OpenCV turns palette PNGs into colours; Pillow gives the indices
        return _decode_palette_png(data, name)
    label = _decode(data, cv2.IMREAD_UNCHANGED, name)
    if label.ndim != 2:
        raise UserError(
            f"label '{name}' is a colour image of shape {label.shape}, expected one channel of class ids; "
            f"convert its colours to ids"
        )
    return label


def encode_label(label_HW: np.ndarray) -> bytes:
    """(H, W) uint8 train ids to grey PNG bytes; the same array always gives the same bytes."""
    assert label_HW.dtype == np.uint8 and label_HW.ndim == 2
    done, data = cv2.imencode(".png", label_HW, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return data.tobytes()


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the header alone, without decoding. Raises UserError where there is no readable header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"'{name}' cannot be read as an image ({len(data)} bytes); replace or remove the file"
        ) from error
    return height, width


def _decode(data: bytes, flag: int, name: str) -> np.ndarray:
    height, width = image_size(data, name)
    if height * width > MAX_PIXELS:
        raise UserError(
            f"'{name}' has {width}x{height} pixels, expected at most {MAX_PIXELS}; cut it into smaller images"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(
            f"'{name}' cannot be decoded ({len(data)} bytes, broken after its header); replace or remove the file"
        )
    return image


def _png_colour_type(data: bytes) -> int | None:
    return data[25] if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 else None


def _decode_palette_png(data: bytes, name: str) -> np.ndarray:
    image_size(data, name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"'{name}' cannot be decoded ({error}); replace or remove the file") from error
