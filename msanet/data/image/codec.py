"""Bytes of a shard's member to arrays and back.

`tiff`, the default, stores tiles, so that a crop is decoded without the rest of its image (tiles.py). `original` passes
the source's own bytes through (PNG or JPEG); its labels are written again as gray PNG of train ids, since OpenCV would
expand a palette PNG to colors. What a member is shows in its first bytes, so both read alike.
"""

import io
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from msanet.data.image.tiles import MAX_PIXELS, TiledImage, encode_tiled
from msanet.errors import UserError

CODECS = ("tiff", "original")
INSTANCES = "instances.png"
"""The optional member with an image's Cityscapes instance ids, which evaluation alone reads."""
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Those that Pillow may read: for one of its others (EPS) it starts a program."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own bound is lower
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it says of a damaged file, our sentence says

_TIFF_EXPECTED = {274: ("orientation", 1), 338: ("extra sample", 1), 339: ("sample format", 1)}
_TIFF_LABEL_EXPECTED = {**_TIFF_EXPECTED, 262: ("photometric interpretation", 1), 258: ("bits per sample", 8)}
"""What OpenCV would change unasked: it turns, multiplies by alpha, and makes signed, inverted or few bits to gray values."""


class LazyImage(Protocol):
    """An image or label that is decoded on demand, by windows."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of its pixels."""
        ...

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A window inside the image: (height, width, channels) or (height, width) ids, to be read and not written to.

        Raises UserError if the window cannot be decoded.
        """
        ...


class _FullyDecodedImage:
    """Any format of Pillow or OpenCV: decoded completely, at the first window."""

    def __init__(self, data: bytes, name: str, is_label: bool) -> None:
        self._data, self._name, self._is_label = data, name, is_label
        self.size = image_size(data, name)
        is_wide = is_label and _png_header(data)[:1] == b"\x10"  # a label of 16 bits
        self.dtype = np.dtype(np.uint16 if is_wide else np.uint8)

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self._pixels[top : top + height, left : left + width]

    @cached_property
    def _pixels(self) -> np.ndarray:
        if self._data[:2] in (b"II", b"MM"):
            _check_tiff(self._data, self._name, _TIFF_LABEL_EXPECTED if self._is_label else _TIFF_EXPECTED)
        decode = _decode_full_label if self._is_label else _decode_full_image
        pixels = decode(self._data, self._name)
        if pixels.shape[:2] != self.size:  # OpenCV reads other fields than Pillow where a file has two of them
            raise UserError(
                "MSA-DATA-019",
                f"'{self._name}' has two sizes, {pixels.shape[:2]} and {self.size}; save it again as PNG",
            )
        return pixels


def open_image(data: bytes, name: str) -> LazyImage:
    """An encoded image of a shard, (H, W, 3) uint8 RGB as stored: photo.py turns it by EXIF before it is packed.

    One that was packed with --bands is (H, W, C) of its own type.

    `name` is for errors. Raises UserError if there is no readable header, or it tells of more than MAX_PIXELS.
    """
    return _open(data, name, is_label=False)


def open_label(data: bytes, name: str) -> LazyImage:
    """An encoded label: (H, W) integers as they lie on disk, which are grey values or the indices of a palette PNG.

    Raises UserError like `open_image`; its window also for a color image without a palette.
    """
    return _open(data, name, is_label=True)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """All of `open_image`: (H, W, 3) uint8 RGB, or the bands of one that was packed with --bands."""
    image = open_image(data, name)
    return image.window(0, 0, *image.size)


def decode_label(data: bytes, name: str) -> np.ndarray:
    """All of `open_label`: (H, W) integers."""
    label = open_label(data, name)
    return label.window(0, 0, *label.size)


def decode_instances(data: bytes, name: str) -> np.ndarray:
    """A map of Cityscapes instance ids: (H, W) int32. Raises UserError unless it is a grey image of 16 bits."""
    ids = decode_label(data, name)
    if ids.dtype != np.uint16:
        raise UserError(
            "MSA-DATA-021",
            f"instance map '{name}' has {ids.dtype} values, expected 16-bit ids; take the _instanceIds.png",
        )
    return ids.astype(np.int32)


def encode_label(label_HW: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 train ids to gray PNG bytes; the same array always gives the same bytes."""
    assert label_HW.dtype in (np.uint8, np.uint16) and label_HW.ndim == 2
    done, data = cv2.imencode(".png", label_HW, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return data.tobytes()


def encode_members(
    codec: str, source: bytes | None, extension: str, image_HWC: np.ndarray, label_HW: np.ndarray
) -> dict[str, bytes]:
    """{member extension: bytes} of image and label, in the order of the tar.

    source, extension: the image's file as it was found, which `original` passes on; None where its pixels are not those
    that it shows, such as an image to be turned: then it is a PNG. image_HWC: the pixels.
    """
    if codec == "original":
        if source is not None:
            return {f"image.{extension}": source, "label.png": encode_label(label_HW)}
        done, data = cv2.imencode(".png", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
        assert done
        return {"image.png": data.tobytes(), "label.png": encode_label(label_HW)}
    return {"image.tif": encode_tiled(image_HWC), "label.tif": encode_tiled(label_HW)}


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the header alone, without decoding.

    Raises UserError where there is no readable header, or it tells of no pixel or of more than MAX_PIXELS.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises any kind where a file is damaged
        raise UserError(
            "MSA-DATA-017", f"'{name}' cannot be read as an image ({len(data)} bytes); replace or remove the file"
        ) from error
    check_pixels(width, height, name)
    return height, width


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise UserError where there is no pixel, or more than MAX_PIXELS."""
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(
            "MSA-DATA-018",
            f"'{name}' has {width}x{height} pixels, expected at most {MAX_PIXELS}; split it into smaller images",
        )


def _open(data: bytes, name: str, is_label: bool) -> LazyImage:
    tiled = TiledImage.parse(data, name)
    is_wanted = tiled is not None and (tiled.channels == 1 if is_label else tiled.channels == 3 or tiled.is_bands)
    return tiled if tiled is not None and is_wanted else _FullyDecodedImage(data, name, is_label)


def _check_tiff(data: bytes, name: str, expected: dict[int, tuple[str, int]]) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            fields = getattr(image, "tag_v2", {})
            found = {tag: set(np.ravel(fields.get(tag, value)).tolist()) for tag, (_, value) in expected.items()}
            image.load()  # OpenCV leaves black what it cannot decode, and says nothing
    except Exception as error:  # Pillow raises any kind where a file is damaged
        raise UserError(
            "MSA-DATA-017", f"'{name}' cannot be decoded ({error}); save it as PNG, or replace or remove it"
        ) from error
    for tag, (what, value) in expected.items():
        if found[tag] != {value}:
            raise UserError(
                "MSA-DATA-019", f"'{name}' is a TIFF of {what} {sorted(found[tag])}, expected {value}; save it as PNG"
            )


def _decode_full_image(data: bytes, name: str) -> np.ndarray:
    return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, name)


def _decode_full_label(data: bytes, name: str) -> np.ndarray:
    if _png_header(data)[1:] == b"\x03":  # OpenCV turns palette PNGs into colors; Pillow gives the indices
        return _decode_palette_png(data, name)
    label = _decode(data, cv2.IMREAD_UNCHANGED, name)
    if label.ndim != 2:
        raise UserError(
            "MSA-DATA-020",
            f"label '{name}' is a color image of shape {label.shape}, expected one channel of class ids; "
            f"convert its colors to ids",
        )
    return label


def _decode(data: bytes, flag: int, name: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(
            "MSA-DATA-017",
            f"'{name}' cannot be decoded ({len(data)} bytes, broken after its header); replace or remove the file",
        )
    return image


def _png_header(data: bytes) -> bytes:
    """Bit depth and color type of a PNG; nothing of other files."""
    return data[24:26] if data[:8] == b"\x89PNG\r\n\x1a\n" else b""


def _decode_palette_png(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises any kind where a file is damaged
        raise UserError("MSA-DATA-017", f"'{name}' cannot be decoded ({error}); replace or remove the file") from error
