"""Tiled TIFF: bit-exact, read by OpenCV, Pillow and tifffile, and by `TiledImage` a window at a time.

Tiles are deflated by zlib-ng at level 6, which decodes fastest, those of images after the horizontal predictor (TIFF
6.0, section 14). See docs/decisions/0005.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from msanet.errors import UserError

try:
    import imagecodecs
except ImportError:  # no wheel for this platform: complete images by OpenCV
    imagecodecs = None

IMAGE_TILE, LABEL_TILE, BAND_TILE = (128, 256), (256, 512), (128, 128)
"""(height, width) of a tile. Label tiles have few bytes, so the cost of a call decides; those of bands have many."""
MAX_PIXELS = 2**28
"""Images above 268 megapixels are refused before decoding, as decompression bombs."""
_MAX_BAND_BYTES = 2**32
"""The same of all bands, with the padding of tiles."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION = 256, 257, 258, 259, 262, 266, 274
_SAMPLES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _COUNTS = 277, 284, 317, 322, 323, 324, 325
_SAMPLE_FORMAT = 339
_BANDS = 65000
"""A private field of ours: these are bands as packed with --bands, also where one of 8 bits looks like a gray photo."""
_EXPECTED = {_COMPRESSION: 8, _FILL_ORDER: 1, _ORIENTATION: 1, _PLANAR: 1}  # 8: deflate
_DTYPES: dict[tuple[int, int], np.dtype] = {
    (8, 1): np.dtype(np.uint8),
    (16, 1): np.dtype("<u2"),
    (32, 3): np.dtype("<f4"),
}
"""(bits, sample format) -> type of pixels."""
_GRAY, _RGB, _HORIZONTAL = 1, 2, 2
_KINDS = [(np.uint8, (1, _GRAY)), (np.uint8, (3, _RGB)), (np.uint16, (1, _GRAY))]
"""Types, numbers of channels and photometric interpretations of what are not bands."""
_KNOWN = {
    *_EXPECTED, _WIDTH, _HEIGHT, _BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _SAMPLES, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS,
    _COUNTS, _BANDS,
}  # fmt: skip
_FORMATS = {3: "H", 4: "I"}  # SHORT, LONG
_MOST_VALUES = {
    _OFFSETS: 2**20,
    _COUNTS: 2**20,
    _BITS: 32,
    _SAMPLE_FORMAT: 32,
}  # the tiles of MAX_PIXELS; of others a few


class TiledImage:
    """A tiled TIFF as `encode_tiled` writes it, of which single windows are decoded.

    size: (h, w). channels: 3 or, for a label, 1. is_bands: packed with --bands, of any number of channels and of dtype.
    """

    def __init__(self, data: bytes, name: str, tags: dict[int, tuple[int, ...]]) -> None:
        self._data, self._name = memoryview(data), name
        self.size = (tags[_HEIGHT][0], tags[_WIDTH][0])
        self.channels, self.dtype, self.is_bands = tags.get(_SAMPLES, (1,))[0], _dtype(tags), _BANDS in tags
        self._tile = tags[_TILE_HEIGHT][0], tags[_TILE_WIDTH][0]
        self._has_predictor = tags.get(_PREDICTOR, (1,))[0] == _HORIZONTAL
        self._offsets, self._counts = tags[_OFFSETS], tags[_COUNTS]
        self._columns = -(-self.size[1] // self._tile[1])

    @classmethod
    def parse(cls, data: bytes, name: str) -> "TiledImage | None":
        """Read the header. None if the data has another layout, for a general decoder, or imagecodecs is missing."""
        if imagecodecs is None or data[:4] != b"II*\0":
            return None
        try:
            tags = _read_tags(data)
            return cls(data, name, tags) if _is_supported(tags) else None
        except (struct.error, KeyError):
            return None

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Pixels of a window inside the image: (height, width, channels) or, for a label, (height, width).

        Raises UserError if a tile under the window is damaged; the others are not checked.
        """
        (tile_h, tile_w), channels = self._tile, self.channels
        first, last = left // tile_w, -(-(left + width) // tile_w)  # columns of tiles
        pixels = np.empty((height, last - first, tile_w, channels), self.dtype)
        tiles = np.empty((last - first, tile_h, tile_w, channels), self.dtype)
        for row in range(top // tile_h, -(-(top + height) // tile_h)):
            for column, target in enumerate(tiles.reshape(last - first, -1).view(np.uint8), first):
                self._inflate(row * self._columns + column, target)
            begin, end = max(top, row * tile_h), min(top + height, (row + 1) * tile_h)
            rows = tiles[:, begin - row * tile_h : end - row * tile_h].transpose(1, 0, 2, 3)
            target = pixels[begin - top : end - top]
            if self._has_predictor:
                imagecodecs.delta_decode(rows, axis=2, out=target)
            else:
                target[:] = rows
        pixels = pixels.reshape(height, -1, channels)[:, left - first * tile_w : left - first * tile_w + width]
        return pixels if channels == 3 or self.is_bands else pixels[..., 0]

    def _inflate(self, number: int, target: np.ndarray) -> None:
        start, length = self._offsets[number], self._counts[number]
        try:
            decoded = imagecodecs.deflate_decode(self._data[start : start + length], raw=False, out=target)
            is_complete = decoded.size == target.size
        except RuntimeError:  # imagecodecs.DeflateError
            is_complete = False
        if not is_complete:
            raise UserError(
                "MSA-DATA-017",
                f"'{self._name}' cannot be decoded: tile {number} at byte {start} is damaged; replace or remove the file",
            )


def encode_tiled(array: np.ndarray) -> bytes:
    """(H, W, 3) uint8 image, (H, W) label of 8 or 16 bits, or (H, W, C) bands to a tiled TIFF, always of the same bytes.

    Raises UserError if imagecodecs is not installed: another library would write other bytes.
    """
    if imagecodecs is None:
        raise UserError(
            "MSA-DATA-022",
            "imagecodecs is missing, which writes tiled TIFF; pip install imagecodecs, or choose the codec original",
            setting="--codec",
        )
    import tifffile  # only for writing, and slow to import

    is_image = array.ndim == 3
    is_bands = is_image and (array.shape[2] != 3 or array.dtype != np.uint8)
    tile = BAND_TILE if is_bands else IMAGE_TILE if is_image else LABEL_TILE
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        _encoded_tiles(array, *tile),
        shape=array.shape[:2] if array.shape[2:] == (1,) else array.shape,
        dtype=array.dtype,
        tile=tile,
        compression="adobe_deflate",
        predictor=is_image and array.dtype.kind == "u",
        photometric="rgb" if is_image and not is_bands else "minisblack",
        planarconfig="contig" if is_bands and array.shape[2] > 1 else None,
        extratags=[(_BANDS, 3, 1, 1, True)] if is_bands else [],
        byteorder="<",
        metadata=None,
        software=False,  # its version would change the bytes
    )
    return file.getvalue()


def _encoded_tiles(array: np.ndarray, tile_h: int, tile_w: int) -> Iterator[bytes]:
    height, width = array.shape[:2]
    padding = [(0, -height % tile_h), (0, -width % tile_w), (0, 0)][: array.ndim]
    padded = np.pad(array, padding, mode="edge")
    for top in range(0, height, tile_h):
        for left in range(0, width, tile_w):
            tile = np.ascontiguousarray(padded[top : top + tile_h, left : left + tile_w])
            yield imagecodecs.zlibng_encode(_predicted(tile) if array.ndim == 3 else tile, level=6)


def _predicted(tile: np.ndarray) -> np.ndarray:
    """The horizontal predictor: each pixel but a row's first minus its left neighbour, modulo 2^bits. Floats as they are."""
    if tile.dtype.kind == "f":
        return tile
    result = tile.copy()
    result[:, 1:] -= tile[:, :-1]
    return result


def _read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The known fields of the first directory of a little-endian TIFF, each with at least one value.

    Raises struct.error for offsets beyond the data, KeyError for a field of an unknown type or length.
    """
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = {}
    for tag, kind, number, value in struct.iter_unpack("<HHI4s", data[start + 2 : start + 2 + 12 * count]):
        if tag in _KNOWN and tag not in tags:  # of two, libtiff takes the first too
            layout = f"<{number}{_FORMATS[kind if 0 < number <= _MOST_VALUES.get(tag, 16) else 0]}"
            if struct.calcsize(layout) > 4:  # the value is an offset
                tags[tag] = struct.unpack_from(layout, data, struct.unpack("<I", value)[0])
            else:
                tags[tag] = struct.unpack_from(layout, value)
    return tags


def _dtype(tags: dict[int, tuple[int, ...]]) -> np.dtype:
    """The type of pixels. KeyError where channels differ, or it is not a known one. TIFF's default is 1 for both fields."""
    bits, formats = {*tags.get(_BITS, (1,))}, {*tags.get(_SAMPLE_FORMAT, (1,))}
    return _DTYPES[bits.pop() if len(bits) == 1 else 0, formats.pop() if len(formats) == 1 else 0]


def _is_supported(tags: dict[int, tuple[int, ...]]) -> bool:
    """Whether `TiledImage` reads these tiles: interleaved RGB of 8 bits, gray of 8 or 16, our bands; deflated, of a sane size."""
    get: Any = lambda tag, default=0: tags.get(tag, (default,))[0]  # noqa: E731
    tile_h, tile_w = get(_TILE_HEIGHT), get(_TILE_WIDTH)
    if not (16 <= tile_h <= 4096 and 16 <= tile_w <= 4096):
        return False
    tiles = -(-get(_HEIGHT) // tile_h) * -(-get(_WIDTH) // tile_w)
    dtype, kind = _dtype(tags), (get(_SAMPLES, 1), get(_PHOTOMETRIC))
    is_bands = _BANDS in tags and 1 <= kind[0] <= 32 and kind[1] == _GRAY
    return (
        all(set(tags.get(tag, (1,))) == {value} for tag, value in _EXPECTED.items())  # TIFF's default is 1 for all
        and (is_bands or (dtype, kind) in _KINDS)
        and get(_PREDICTOR, 1) in (1, _HORIZONTAL)
        and 0 < tiles == len(tags.get(_OFFSETS, ())) == len(tags.get(_COUNTS, ()))
        and tiles * tile_h * tile_w <= MAX_PIXELS  # a window takes memory for complete tiles
        and (not is_bands or tiles * tile_h * tile_w * kind[0] * dtype.itemsize <= _MAX_BAND_BYTES)
    )
