"""Images and labels that others encoded, or damaged, or made to take all memory."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fuzz.hostile import damaged, outcome
from msanet.data.image.codec import decode_image, decode_instances, decode_label, encode_label, open_image, open_label
from msanet.data.image.photo import read_photo
from msanet.data.image.tiles import encode_tiled
from msanet.datasets import CAMVID
from msanet.demo.segmenter import decode as decode_upload
from msanet.errors import UserError
from sharding.readers.mask_reader import MaskReader

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
MEMORY = 5 * 3 * 2**28  # the most pixels that are taken: with 16 bits as decoded and as RGB, and with 8
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (70, 90, 3), np.uint8)
LABEL = RNG.integers(0, 12, (70, 90), np.uint8)
decode_ids = MaskReader(CAMVID, ())


def decode_photo(data: bytes, name: str) -> np.ndarray:
    return read_photo(data, name).pixels_HWC


def encoded(pixels: np.ndarray, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if settings.pop("palette", False):
        image.putpalette(bytes(range(256)) * 3)
    image.save(file, kind, **settings)
    return file.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[274], found[306] = 6, "2026:11:21 12:00:00"
    return found


FILES: dict[str, tuple[bytes, Callable[[bytes, str], np.ndarray]]] = {
    "tiled image": (encode_tiled(np.tile(IMAGE, (4, 4, 1))), decode_image),
    "tiled label": (encode_tiled(np.tile(LABEL, (4, 8))), decode_label),
    "flat tiff": (encoded(IMAGE, "TIFF", compression="tiff_lzw"), decode_image),
    "png": (encoded(IMAGE, "PNG"), decode_image),
    "png label": (encode_label(LABEL), decode_label),
    "png palette": (encoded(LABEL, "PNG", palette=True), decode_label),
    "png ids": (encoded(LABEL, "PNG", palette=True), decode_ids),
    "png instances": (encoded(LABEL.astype(np.uint16) * 1000, "PNG"), decode_instances),
    "jpeg": (encoded(IMAGE, "JPEG"), decode_image),
    "jpeg progressive": (encoded(IMAGE, "JPEG", progressive=True), decode_image),
    "upload": (encoded(IMAGE, "JPEG", exif=exif()), lambda data, name: decode_upload(data, name, 8)),
    "photo": (encoded(IMAGE, "JPEG", exif=exif()), decode_photo),
    "photo progressive": (encoded(IMAGE, "JPEG", progressive=True, restart_marker_rows=1), decode_photo),
    "photo png": (encoded(IMAGE, "PNG", exif=exif()), decode_photo),
    "photo tiff": (encoded(IMAGE, "TIFF", exif=exif(), compression="tiff_adobe_deflate"), decode_photo),
    "photo webp": (encoded(IMAGE, "WEBP", exif=exif()), decode_photo),
    "mask tiff": (encoded(LABEL, "TIFF", palette=True), decode_ids),
    "mask bmp": (encoded(LABEL, "BMP"), decode_ids),
    "mask rgb": (encoded(np.dstack([LABEL] * 3), "PNG"), decode_ids),
    "webp": (encoded(IMAGE, "WEBP"), decode_image),
    "bmp": (encoded(IMAGE, "BMP"), decode_image),
}


def test_the_files_are_sound() -> None:
    for name, (data, decode) in FILES.items():
        assert decode(data, name).shape[:2] in ((70, 90), (90, 70), (280, 360), (280, 720)), name


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_damage_gives_pixels_of_the_expected_size_or_an_error(kind: str, data: st.DataObject) -> None:
    whole, decode = FILES[kind]
    found = data.draw(damaged(whole))
    result = outcome(decode, found, "a.x")
    if not isinstance(result, UserError):
        size = open_image(found, "a.x").size
        assert result.shape[:2] in (size, size[::-1])


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n"]),
)
def test_bytes_that_are_no_image_are_refused(data: bytes, start: bytes) -> None:
    for decode in (decode_image, decode_label, decode_instances, decode_ids, decode_photo):
        assert isinstance(outcome(decode, start + data, "x"), UserError)


FIELDS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339)
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 5, 8, 15, 16, 17, 128, 255, 256, 4096, 2**15, 2**16, 2**20, 2**28, 2**31, 2**32 - 1]
)


@st.composite
def spliced(draw: st.DrawFn, data: bytes) -> bytes:
    """A TIFF whose directory has other tags, types, counts, values; perhaps with lists of offsets of one's own."""
    found = bytearray(data)
    (entries,) = struct.unpack_from("<H", found, 8)
    for _ in range(draw(st.integers(1, 4))):
        at = 10 + 12 * draw(st.integers(0, entries - 1))
        for offset, layout, values in (
            (0, "<H", st.sampled_from(FIELDS)),
            (2, "<H", st.sampled_from([1, 2, 3, 4, 5, 12, 13, 16])),
            (4, "<I", NUMBERS),
            (8, "<I", NUMBERS | st.integers(0, len(data))),
        ):
            if draw(st.integers(0, 2)) == 0:
                struct.pack_into(layout, found, at + offset, draw(values))
    return bytes(found)


@pytest.mark.parametrize("kind", ["tiled image", "tiled label"])
@given(data=st.data())
def test_spliced_fields_and_any_window(kind: str, data: st.DataObject) -> None:
    found = data.draw(spliced(FILES[kind][0]))
    picture = outcome(open_image if kind == "tiled image" else open_label, found, "x")
    if isinstance(picture, UserError):
        return
    height, width = picture.size
    assert 0 < height * width <= 2**28
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = (
        top,
        left,
        data.draw(st.integers(1, min(64, height - top))),
        data.draw(st.integers(1, min(64, width - left))),
    )
    pixels = outcome(picture.window, *window)
    assert isinstance(pixels, UserError) or pixels.shape[:2] == window[2:]


def png(width: int, height: int, color: int, bits: int, body: bytes = b"") -> bytes:
    """A PNG of that size by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    palette = chunk(b"PLTE", bytes(768)) if color == 3 else b""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("color", "bits"), [(0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (4, 8), (6, 16)])
def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(
    color: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: decoded.append("OpenCV"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: decoded.append("Pillow"))
    for decode in (
        decode_image,
        decode_label,
        decode_instances,
        decode_ids,
        decode_photo,
        lambda data, name: decode_upload(data, name, 8),
    ):
        for size in ((60000, 60000), (2**31 - 1, 2**31 - 1), (2**28 + 1, 1)):
            error = outcome(decode, png(*size, color, bits), "bomb.png")
            assert isinstance(error, UserError) and "'bomb.png'" in str(error)
    assert not decoded
