"""A mask's file to the values, palette and colors that lie in it, whatever program wrote it. What they mean: mask_reader.py."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from msanet.data.image.codec import FORMATS, check_pixels
from msanet.data.image.damage import PNG_SIGNATURE, decoder_messages, find_damage, png_chunks
from msanet.data.image.photo import damaged, exif_orientation, other_kind, tiff_damage, upright
from msanet.errors import UserError
from sharding.notes import note

_FORMATS = (*FORMATS, "GIF")
_IDENTITY = tuple(range(256))
SCALED = "masks of 16 bits hold multiples of 257, as 8-bit values become in a conversion, and are read as those"


@dataclass(frozen=True)
class MaskFile:
    """A mask as it lies in its file.

    Args:
        pixels: uint8 (or, as asked for, uint16) grey values or indices (H, W), or uint8 RGB colors (H, W, 3).
        palette: The colors (N, 3) of the indices; None where there are none.
        levels: The grey, 0 to 255, as which each value is shown, where pixels are grey values.
        is_opaque: bool (H, W), or of each index where there is a palette; None: all of them.
    """

    pixels: np.ndarray
    palette: np.ndarray | None = None
    levels: tuple[int, ...] = _IDENTITY
    is_opaque: np.ndarray | None = None


def read_mask(data: bytes, name: str, highest: int = 255) -> MaskFile:
    """Decode a mask without changing a value.

    Raises:
        UserError: It is not an image, damaged, a JPEG, or has values above `highest`: 255, or 65535 for grey values of 16 bits.
    """
    if data[:2] == b"\xff\xd8":
        raise _lossy(name, "a JPEG")
    if data[8:12] == b"WEBP" and b"VP8 " in data[12:]:
        raise _lossy(name, "a lossy WebP")
    with decoder_messages() as said:
        mask = (_read_png if data.startswith(PNG_SIGNATURE) else _read_other)(data, name, highest)
    damage = find_damage(data, said) or tiff_damage(data)
    if damage:
        raise damaged(name, data, damage)
    return mask


def _read_png(data: bytes, name: str, highest: int) -> MaskFile:
    parts = [PNG_SIGNATURE]
    content: dict[bytes, bytes] = {}
    try:
        for kind, start, length in png_chunks(data):
            if kind in (b"IHDR", b"PLTE", b"tRNS"):
                content.setdefault(kind, data[start : start + length])
            elif kind == b"IDAT":
                parts.append(data[start - 8 : start + length + 4])
            elif kind == b"IEND":
                break
        width, height, bits, color = struct.unpack_from(">IIBB", content[b"IHDR"])
    except (struct.error, KeyError):
        raise damaged(name, data, "its end is missing") from None
    check_pixels(width, height, name)
    if color in (0, 3):
        # As a grey PNG without palette, OpenCV gives indices, and complains of damage over which Pillow passes.
        header = content[b"IHDR"][:9] + b"\0" + content[b"IHDR"][10:]
        parts[1:1] = [_chunk(b"IHDR", header)]
        plain = b"".join([*parts, _chunk(b"IEND", b"")])
    else:
        plain = data
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.shape[:2] != (height, width):
        raise damaged(name, data, "broken after its header")
    pixels = _turned(data, pixels)
    if pixels.ndim == 3:
        return _colored(pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]], name)
    values, levels = _unstretched(_narrow(pixels, name, highest), bits)
    if color == 0:
        return MaskFile(values, levels=levels)
    is_opaque = np.ones(256, bool)
    alpha = np.frombuffer(content.get(b"tRNS", b""), np.uint8)[:256]
    is_opaque[: len(alpha)] = alpha == 255
    palette = np.frombuffer(content.get(b"PLTE", b""), np.uint8)
    return MaskFile(values, palette[: len(palette) // 3 * 3].reshape(-1, 3), is_opaque=is_opaque)


def _unstretched(pixels: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Values, and the grey of each: decoders stretch those of fewer than 8 bits to 0..255."""
    step = 255 // (2**bits - 1) if bits < 8 else 1
    return pixels // step if step > 1 else pixels, tuple(value * step for value in range(2 ** min(bits, 8)))


def _lossy(name: str, what: str) -> UserError:
    return UserError(
        "MSA-PACK-101",
        f"label '{name}' is {what}, whose compression changes values at every edge, expected PNG, TIFF, BMP or GIF; export "
        "the masks again as PNG",
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _turned(data: bytes, pixels: np.ndarray) -> np.ndarray:
    if b"eXIf" not in data and b"Raw profile" not in data:
        return pixels
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return upright(pixels, exif_orientation(image, data))


def _read_other(data: bytes, name: str, highest: int) -> MaskFile:
    """TIFF, BMP, GIF and WebP: Pillow keeps values and palettes of all of them, and turns a TIFF by its orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            check_pixels(image.width, image.height, name)
            fields = getattr(image, "tag_v2", {})
            bits, is_inverted = int(np.max(fields.get(258, 8))), fields.get(262) == 0
            if fields.get(259) in (6, 7):
                raise _lossy(name, "a TIFF with JPEG compression")
            orientation = 1 if image.format == "TIFF" else exif_orientation(image, data)
            several = getattr(image, "n_frames", 1)
            image.load()
            mode, pixels = image.mode, np.array(image)
            palette = image.getpalette("RGB") if mode == "P" else None
            transparent = image.info.get("transparency")
    except UserError:
        raise
    except Exception as error:  # Pillow raises any kind where a file is damaged
        if (wide := _wide_tiff(data, name)) is not None:
            return MaskFile(_narrow(wide, name, highest))
        is_other = "identify" in str(error)
        words = other_kind(data) or "not an image" if is_other else " ".join(str(error).split())[:100]
        raise damaged(name, data, words) from error
    if several > 1:
        raise UserError(
            "MSA-PACK-102",
            f"label '{name}' holds {several} pictures, expected one mask; save each as a file of its own",
        )
    if is_inverted and (mode in ("L", "1") or highest > 255):
        raise UserError("MSA-PACK-102", f"label '{name}' is a TIFF of inverted values (white is 0); save it as PNG")
    pixels = upright(pixels, orientation)
    if mode == "P":
        is_opaque = np.ones(256, bool)
        if isinstance(transparent, int):
            is_opaque[transparent] = False
        return MaskFile(pixels, np.array(palette, np.uint8).reshape(-1, 3), is_opaque=is_opaque)
    if mode == "1":
        return MaskFile(pixels.astype(np.uint8), levels=(0, 255))
    if pixels.ndim == 3:
        if mode not in ("RGB", "RGBA", "LA"):
            raise UserError("MSA-PACK-102", f"label '{name}' has {mode} colors, expected RGB; save it as PNG")
        return _colored(pixels, name)
    values, levels = _unstretched(_narrow(pixels, name, highest), bits if mode == "L" else 8)
    return MaskFile(values, levels=levels)


def _wide_tiff(data: bytes, name: str) -> np.ndarray | None:
    """The numbers of a TIFF of 64 bits, as NumPy has them unless told, which Pillow does not know."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    import tifffile  # slow to import

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            check_pixels(page.imagewidth, page.imagelength, name)
            is_wide = page.bitspersample == 64 and len(page.shape) == 2 and len(file.pages) == 1
            return np.asarray(page.asarray()) if is_wide else None
    except UserError:
        raise
    except Exception:  # damaged, which the caller says
        return None


def _colored(pixels_HWC: np.ndarray, name: str) -> MaskFile:
    """RGB, RGBA or grey with alpha; of 16 bits where they say no more than 8."""
    if pixels_HWC.dtype != np.uint8:
        pixels_HWC = _narrow(pixels_HWC, name)
    color_HWC = pixels_HWC[..., [0, 0, 0]] if pixels_HWC.shape[2] == 2 else pixels_HWC[..., :3]
    alpha_HW = pixels_HWC[..., -1] if pixels_HWC.shape[2] in (2, 4) else None
    is_opaque = None if alpha_HW is None or alpha_HW.min() == 255 else alpha_HW == 255
    return MaskFile(np.ascontiguousarray(color_HWC), is_opaque=is_opaque)


def _narrow(pixels: np.ndarray, name: str, highest: int = 255) -> np.ndarray:
    """uint8, or where `highest` allows it uint16, of the same values. Raises UserError where they do not fit."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if low >= 0 and high <= highest and (pixels.dtype.kind in "iu" or not (pixels % 1).any()):
        return pixels.astype(np.uint8 if high < 256 else np.uint16)
    if pixels.dtype == np.uint16 and not (pixels % 257).any():
        note(SCALED, name)
        return (pixels // 257).astype(np.uint8)
    some = ", ".join(f"{value:g}" for value in np.unique(pixels)[:3])
    raise UserError(
        "MSA-PACK-102",
        f"label '{name}' has values of {pixels.dtype} from {low:g} to {high:g} (such as {some}), expected ids from 0 to "
        f"{highest}; "
        "save the class of each pixel, not its instance, depth or probability",
    )
