"""Grey PNGs, as label maps mostly are, decoded in half of OpenCV's time.

Label maps compress so well that inflating takes most of the time. libdeflate does it many times as fast as zlib, and libpng
then gets the inflated bytes as blocks that are stored: what is left to it are the filters of the rows.
"""

import struct
import zlib

import numpy as np

from msanet.data.image.damage import PNG_SIGNATURE, png_chunks, png_damage
from msanet.data.image.tiles import MAX_PIXELS

try:
    from imagecodecs import deflate_crc32, deflate_decode, png_decode
except ImportError:
    deflate_decode = None

_BLOCK = 2**16 - 1
"""Most bytes of a stored block (RFC 1951, section 3.2.4)."""
_USUAL = {b"IHDR", b"IDAT", b"IEND", b"tEXt", b"gAMA", b"pHYs", b"tIME", b"sRGB", b"cHRM"}
"""Chunks that change nothing in the values of a label map: no orientation, palette or transparency."""
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def decode_grey_png(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 or uint16 of a grey PNG of 8 or 16 bits.

    None for any other file, a damaged one included: the general decoders then read it, or say what is wrong.
    """
    if deflate_decode is None or not data.startswith(PNG_SIGNATURE) or png_damage(data):
        return None
    header, parts = b"", []
    for kind, start, length in png_chunks(data):
        if kind == b"IHDR":
            header = data[start : start + length]
        elif kind == b"IDAT":
            parts.append(data[start : start + length])
        elif kind not in _USUAL:
            return None
        if kind == b"IEND":
            break
    width, height, bits, *rest = struct.unpack(">IIBBBBB", header) if len(header) == 13 else (0, 0, 0)
    if bits not in (8, 16) or any(rest) or not 0 < width * height <= MAX_PIXELS:  # rest: grey, not interlaced
        return None
    size = height * (1 + width * bits // 8)
    stream = b"".join(parts)
    try:
        rows = deflate_decode(stream, out=size)
        pixels = png_decode(_stored(header, rows, stream[-4:])) if len(rows) == size else None
    except Exception:  # imagecodecs has kinds of its own where the bytes are damaged
        return None
    return pixels if pixels is not None and pixels.shape == (height, width) else None


def _stored(header: bytes, rows: bytes, checksum: bytes) -> bytes:
    """A PNG of the same rows, whose zlib stream is not compressed. checksum: of the rows, at the end of any zlib stream."""
    view = memoryview(rows)
    parts: list[bytes | memoryview] = [b"IDAT\x78\x01"]
    for start in range(0, len(rows), _BLOCK):
        block = view[start : start + _BLOCK]
        parts += [
            struct.pack("<BHH", start + _BLOCK >= len(rows), len(block), _BLOCK - len(block)),
            block,
        ]
    body = b"".join([*parts, checksum])
    head = b"".join([struct.pack(">I4s", len(header), b"IHDR"), header])
    first = head + struct.pack(">I", zlib.crc32(head[4:]))
    return b"".join([PNG_SIGNATURE, first, struct.pack(">I", len(body) - 4), body, _crc(body), _END])


def _crc(data: bytes) -> bytes:
    return struct.pack(">I", deflate_crc32(data))
