"""The bands of a file exactly as it stores them: TIFF (GeoTIFF too) and PNG; other formats have the three bands of a photo."""

import io
import logging
from typing import Any

import cv2
import numpy as np

from msanet.data.image.codec import check_pixels
from msanet.data.image.damage import PNG_SIGNATURE, decoder_messages, find_damage
from msanet.data.image.photo import damaged, read_photo, upright
from msanet.datasets.image_format import MAX_BANDS, describe
from msanet.errors import UserError

DTYPES = ("uint8", "uint16", "float32")
MAX_IMAGE_BYTES = 2**31
"""Of the pixels of one image, which is decoded at once when it is packed."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274
_PNG_CHANNELS = {0: (0,), 2: (2, 1, 0), 4: (0, 3), 6: (2, 1, 0, 3)}
"""By the color type of a PNG: which of OpenCV's channels (blue, green, red, alpha, or grey) are its own, in order."""

Selection = tuple[int, ...] | None
"""Numbers of bands from 1, in the order in which they are wanted; None: all."""


def read_bands(data: bytes, name: str) -> np.ndarray:
    """Decode all bands of an image; `select_bands` then checks those that are wanted.

    Args:
        data: The file.
        name: For errors.

    Returns:
        (H, W, C) uint8, uint16 or float32.

    Raises:
        UserError: It is not an image, is damaged, or is of a type that is not supported.
    """
    if data[:4] in _TIFF_STARTS:
        return _read_tiff(data, name)
    if data.startswith(PNG_SIGNATURE) and data[25:26] and data[25] in _PNG_CHANNELS:
        return _read_png(data, name)
    return read_photo(data, name).pixels_HWC


def select_bands(pixels_HWC: np.ndarray, bands: Selection, name: str) -> np.ndarray:
    """The bands (H, W, C) that are wanted. Raises UserError where one is not there, or holds what is not a number."""
    count = pixels_HWC.shape[2]
    require_bands(count, bands, name)
    if bands is not None:
        pixels_HWC = pixels_HWC[..., [number - 1 for number in bands]]
    if pixels_HWC.dtype.kind == "f" and not np.isfinite(pixels_HWC).all():
        wrong = int((~np.isfinite(pixels_HWC)).any(axis=2).sum())
        raise UserError(
            "MSA-DATA-792",
            f"'{name}' has {wrong} pixels that are NaN or infinite in a band, expected numbers; replace them by a number, such "
            "as the mean of the band, and label them as ignored",
        )
    return np.ascontiguousarray(pixels_HWC)


def require_bands(count: int, bands: Selection, name: str) -> None:
    """Raise UserError where an image of `count` bands lacks one that is wanted, or has too many."""
    if bands is None and count > MAX_BANDS:
        raise UserError(
            "MSA-DATA-791",
            f"'{name}' has {count} bands, expected at most {MAX_BANDS}; choose some of them, such as --bands 1-{MAX_BANDS}",
            setting="--bands",
        )
    lacking = [number for number in bands or () if number > count]
    if lacking:
        raise UserError(
            "MSA-DATA-791",
            f"'{name}' has {count} bands, expected band {lacking[0]} too; choose bands from 1 to {count}",
            setting="--bands",
        )


def require_dtype(dtype: Any, name: str) -> None:
    """Raise UserError for a type of pixels that is not supported."""
    if str(dtype) not in DTYPES:
        raise UserError(
            "MSA-DATA-790",
            f"'{name}' has pixels of {dtype}, expected {', '.join(DTYPES)}; convert it, such as to float32 "
            "(gdal_translate -ot Float32)",
        )


def _read_tiff(data: bytes, name: str) -> np.ndarray:
    import tifffile  # slow to import

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            others = [other for other in file.pages[1:] if _is_full(other)]
            _check_page(page, others, name)
            pixels, orientation = page.asarray(), page.tags.get(_ORIENTATION)
            axes = page.axes
    except UserError:
        raise
    except Exception as error:  # tifffile raises any kind where a file is damaged
        raise damaged(name, data, " ".join(str(error).split())[:100]) from error
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, 2)
    elif axes == "YX":
        pixels = pixels[..., None]
    turn = int(orientation.value) if orientation is not None else 1
    return upright(pixels, turn) if turn in range(2, 9) else pixels


def _is_full(page: Any) -> bool:
    """Whether it is a picture of its own: no level of a pyramid, thumbnail or mask."""
    return not int(page.subfiletype) & 0b101


def _check_page(page: Any, others: list[Any], name: str) -> None:
    """Raise UserError for a TIFF that cannot be read as bands."""
    check_pixels(page.imagewidth, page.imagelength, name)
    alike = [other for other in others if other.shape == page.shape]
    what = f"a stack of {len(alike) + 1} pages of {page.shape}" if alike else None
    if page.axes not in ("YX", "YXS", "SYX"):
        what = f"a TIFF with the axes {page.axes}"
    elif page.photometric.name == "PALETTE":
        what = "a TIFF whose values are indices of a palette"
    if what:
        raise UserError(
            "MSA-DATA-793",
            f"'{name}' is {what}, expected a single page with all bands as samples of its pixels; save it again, such as with "
            "tifffile.imwrite(path, pixels_HWC, photometric='minisblack', planarconfig='contig')",
        )
    require_dtype(page.dtype, name)
    size = page.imagewidth * page.imagelength * page.samplesperpixel * page.dtype.itemsize
    if size > MAX_IMAGE_BYTES:
        raise UserError(
            "MSA-DATA-018",
            f"'{name}' has {page.imagewidth}x{page.imagelength} pixels in {describe(page.samplesperpixel, page.dtype)}, "
            f"{size} bytes, expected at most {MAX_IMAGE_BYTES}; split it into smaller images",
        )


def _read_png(data: bytes, name: str) -> np.ndarray:
    with decoder_messages() as said:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    damage = "it cannot be decoded" if pixels is None else find_damage(data, said)
    if damage:
        raise damaged(name, data, damage)
    assert pixels is not None
    return pixels[..., None] if pixels.ndim == 2 else pixels[..., list(_PNG_CHANNELS[data[25]])]
