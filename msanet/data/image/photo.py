"""A photo as people see it: upright, 8 bits, RGB. The one place where packing, predict, the page and verify read one.

What lies in shards is read by codec.py, which turns nothing: packing stores photos upright.
"""

import io
import logging
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from msanet.data.image.codec import FORMATS, check_pixels, decode_image
from msanet.data.image.damage import PNG_SIGNATURE, decoder_messages, deflate_damage, find_damage, jpeg_parts_damage
from msanet.data.image.tiles import TiledImage
from msanet.errors import UserError

TURNED = "photos are turned upright by their EXIF orientation"
TRANSPARENT = "photos have transparent pixels, whose own colors are used without the transparency"
FIRST_OF_SEVERAL = "files hold several pictures, of which the first is used"

warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of what is not pixels

_ORIENTATION, _BITS = 274, 258
_OPENCV_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
"""Of TIFF, which its libtiff has, unlike Pillow's Zstandard and LZMA."""
_OTHER_KINDS = {
    rb"GIF8": "a GIF", rb".{4}ftyp(avif|avis)": "an AVIF", rb".{4}ftyp(hei|hev|mif1|msf1)": "a HEIC",
    rb".{4}(jP  |ftypjp)": "a JPEG 2000", rb".{4}ftyp": "a video", rb"%PDF": "a PDF", rb"8BPS": "a file of Photoshop",
    rb"version https://git-lfs": "a pointer of Git LFS", rb"(?i)\s*(<!doctype html|<html)": "a web page",
    rb"(?i)\s*(<svg|<\?xml)": "an SVG or other XML", rb"\0*$": "empty or only zeros",
}  # fmt: skip
"""Beginnings of files that are not images to us, and what they are: renamed, or not really downloaded."""
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Args:
        pixels_HWC: uint8 RGB, as shown.
        notes: What its owner should know: TURNED, TRANSPARENT, FIRST_OF_SEVERAL.
        is_stored_so: Whether `decode_image` of the file gives these pixels too, so that it may go into a shard as it is.
    """

    pixels_HWC: np.ndarray
    notes: tuple[str, ...] = ()
    is_stored_so: bool = True


class PhotoFile:
    """An encoded photo whose header is read. size: (height, width) as shown. orientation: EXIF's, 1 to 8."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        with _open(data, name) as image:
            check_pixels(image.width, image.height, name)
            _check_depth(image, data, name)
            self.orientation = exif_orientation(image, data)
            is_tiff = image.format == "TIFF"
            # Pillow gives the size of a TIFF as shown, but that of other formats as stored.
            self.size = image.size[:: 1 if self.orientation > 4 and not is_tiff else -1]
            self._may_be_transparent = image.mode in _ALPHA_MODES or "transparency" in image.info
            # OpenCV reads only these as they are shown, or not at all.
            self._is_usual = _is_usual(image, data) and not (is_tiff and self._may_be_transparent)
            self._is_several = image.format in ("TIFF", "WEBP", "PNG") and getattr(image, "is_animated", False)
            if is_tiff and self._is_several:
                _refuse_stack(image, name)

    def read(self) -> Photo:
        """Decode it. Raises UserError where it is damaged, even if a decoder would make something of it."""
        data, name = self._data, self._name
        notes = [FIRST_OF_SEVERAL] * self._is_several
        with decoder_messages() as said:
            if not self._is_usual or data.startswith(b"BM"):  # of a BMP that is cut, OpenCV makes black
                pixels_HWC = _pillow_pixels(data, name)  # of a TIFF, upright
            if self._is_usual:
                pixels_HWC = decode_image(data, name)
        damage = find_damage(data, said) or tiff_damage(data)
        if damage:
            raise damaged(name, data, damage)
        if self._may_be_transparent and _is_transparent(data):
            notes.append(TRANSPARENT)
        if self.orientation != 1:
            notes.append(TURNED)
            pixels_HWC = upright(pixels_HWC, self.orientation) if self._is_usual else pixels_HWC
        return Photo(pixels_HWC, tuple(notes), self._is_usual and self.orientation == 1)


def read_photo(data: bytes, name: str) -> Photo:
    """Decode a photo as it is shown.

    Args:
        data: The file: JPEG, PNG, TIFF, BMP or WebP.
        name: For errors.

    Raises:
        UserError: It is not an image, damaged, too large, or has more than 8 bits or other channels than grey or RGB.
    """
    return PhotoFile(data, name).read()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored to as shown, by the EXIF orientation (1 to 8; TIFF 6.0, tag 274)."""
    if orientation > 4:  # rows and columns are swapped
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def exif_orientation(image: Image.Image, data: bytes) -> int:
    """1 to 8; 1 also where there is no EXIF, or it is damaged."""
    if image.format == "PNG" and not any(mark in data for mark in (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")):
        return 1  # else Pillow decodes the whole file in search of it
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises any kind of what lies in EXIF
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def damaged(name: str, data: bytes, what: str) -> UserError:
    """The error of a file that is not whole, whoever noticed."""
    return UserError(
        "MSA-DATA-017",
        f"'{name}' is damaged ({what}; {len(data)} bytes), expected a complete image; replace or remove it",
    )


def tiff_damage(data: bytes) -> str | None:
    """What is wrong with the parts of a TIFF of deflate or JPEG; None for others, and for ours, whose reader checks them."""
    if data[:4] not in (b"II*\0", b"MM\0*") or TiledImage.parse(data, "") is not None:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            fields = getattr(image, "tag_v2", {})
        compression, tables = fields.get(259), fields.get(347, b"")
        parts = (324, 325) if 324 in fields else (273, 279)
        offsets, lengths = (np.ravel(fields.get(tag, ())).tolist() for tag in parts)
        if compression == 7:
            return jpeg_parts_damage(data, tables, offsets, lengths)
        return deflate_damage(data, offsets, lengths) if compression in (8, 32946) else None
    except UnidentifiedImageError:  # which the caller read in another way
        return None
    except Exception as error:  # Pillow, and numbers of a wrong kind, raise any
        return f"its directory: {' '.join(str(error).split())[:100]}"


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # Pillow raises any kind where a file is damaged
        _explain(data, name)
        raise UserError(
            "MSA-DATA-017",
            f"'{name}' cannot be read as an image ({other_kind(data) or f'{len(data)} bytes'}); replace or remove the file",
        ) from error


def other_kind(data: bytes) -> str | None:
    """What a file is that is not an image: `a HEIC, not one of PNG, JPEG, ...`."""
    found = next((kind for start, kind in _OTHER_KINDS.items() if re.match(start, data, re.DOTALL)), None)
    return found and f"it is {found}, not one of {', '.join(FORMATS)}"


def _explain(data: bytes, name: str) -> None:
    """Raise UserError where a file is sound, and only of more bits or channels than Pillow knows."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        import tifffile  # slow to import, and needed only here

        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        try:
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                page: Any = file.pages[0]
                bits, channels = int(page.bitspersample), int(page.samplesperpixel)
        except Exception:  # damaged, which the caller says
            return
        _refuse(name, bits, channels)
        raise UserError(
            "MSA-DATA-701",
            f"'{name}' is a TIFF with {channels} channels of {page.photometric.name} and the compression "
            f"{page.compression.name}, expected gray or RGB of a usual one; save it as an RGB image, or pack its bands with "
            "--bands all",
        )
    elif data[:2] == b"\xff\xd8":
        for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2"):
            place = data.find(marker + b"\0")
            if place >= 0 and data[place + 4 : place + 5] == b"\x0c":
                _refuse(name, 12, 0)


def _check_depth(image: Image.Image, data: bytes, name: str) -> None:
    bits, channels = 8, len(image.getbands())
    if data.startswith(PNG_SIGNATURE):
        bits = data[24]
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        found = image.tag_v2.get(_BITS, 1)
        bits, channels = int(np.max(found)), np.size(found)
        if 4 >= channels > len(image.getbands()):
            raise UserError(
                "MSA-DATA-102",
                f"'{name}' has {channels} channels, of which the last is not transparency, expected grey or RGB; save those that "
                "you mean as an RGB image",
            )
    elif image.mode.startswith(("I", "F")):
        bits = 16
    _refuse(name, bits, channels)


def _refuse(name: str, bits: int, channels: int) -> None:
    if bits > 8:
        raise UserError(
            "MSA-DATA-101",
            f"'{name}' has {bits} bits per channel, expected 8: most of its levels would be lost; convert it to 8 bits over "
            "the range of values that matters, or pack with --bands all and train a network for such images",
        )
    if channels > 4:
        raise UserError(
            "MSA-DATA-102",
            f"'{name}' has {channels} channels, expected gray or RGB; save three of them as an RGB image, or pack all with "
            "--bands all and train a network for such images",
        )


def _refuse_stack(image: Image.Image, name: str) -> None:
    """Pages of one size are channels, slices or moments; smaller ones are thumbnails and levels of a pyramid."""
    size, pages = image.size, getattr(image, "n_frames", 1)
    image.seek(1)
    if image.size == size:
        raise UserError(
            "MSA-DATA-102",
            f"'{name}' is a stack of {pages} pictures, expected one; save those that you mean as files of their own",
        )
    image.seek(0)


def _is_usual(image: Image.Image, data: bytes) -> bool:
    if image.format != "TIFF":
        return data[:2] != b"BM" or data[28:30] != b"\x10\0"  # a BMP of 16 bits a pixel
    fields = getattr(image, "tag_v2", {})
    is_known = fields.get(259, 1) in _OPENCV_COMPRESSIONS and min(fields.get(322, 64), fields.get(323, 64)) >= 64
    photometric = {"RGB": 2, "L": 1}.get(image.mode)
    return is_known and fields.get(262) == photometric and fields.get(_ORIENTATION, 1) == 1 and 338 not in fields


def _pillow_pixels(data: bytes, name: str) -> np.ndarray:
    try:
        with _open(data, name) as image:
            image.load()
            return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow raises any kind where a file is damaged
        raise damaged(name, data, " ".join(str(error).split())[:100]) from error


def _is_transparent(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return bool(np.min(lowest) < 255)
