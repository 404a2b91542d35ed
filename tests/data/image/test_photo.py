"""Photos as they are shown, or one sentence."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from msanet.data.image.codec import decode_image
from msanet.data.image.damage import decoder_messages
from msanet.data.image.photo import FIRST_OF_SEVERAL, TRANSPARENT, TURNED, PhotoFile, read_photo
from support.errors import raises_user_error
from support.pictures import encoded, exif, noise

KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "deflated TIFF": {"compression": "tiff_deflate"},
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_upright_by_exif(kind: str, orientation: int) -> None:
    data = encoded(noise(), kind.split()[-1], exif=exif(orientation), **KINDS[kind])
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    file = PhotoFile(data, "a")
    photo = file.read()
    assert np.array_equal(photo.pixels_HWC, shown)
    assert file.size == shown.shape[:2]
    assert photo.notes == ((TURNED,) if orientation > 1 else ())
    assert photo.is_stored_so == (orientation == 1)
    if kind != "JPEG" and orientation == 1:
        assert np.array_equal(shown, noise())


def test_an_orientation_of_no_meaning_turns_nothing() -> None:
    for orientation in (0, 9, 65535):
        photo = read_photo(encoded(noise(), "JPEG", exif=exif(orientation)), "a")
        assert photo.pixels_HWC.shape == (40, 60, 3) and not photo.notes


def test_exif_that_is_damaged_turns_nothing() -> None:
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read_photo(data, "a").pixels_HWC.shape == (40, 60, 3)


GREY_12 = np.random.default_rng(0).integers(0, 4096, (40, 60), np.uint16)
RGB_16 = noise().astype(np.uint16) * 257


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "code", "mentions"),
    [
        (encoded(GREY_12), "MSA-DATA-101", "16 bits"),
        (encoded(GREY_12, "TIFF"), "MSA-DATA-101", "16 bits"),
        (cv2.imencode(".png", RGB_16)[1].tobytes(), "MSA-DATA-101", "16 bits"),
        (tiff(RGB_16), "MSA-DATA-101", "16 bits"),
        (tiff(noise().astype(np.float32)), "MSA-DATA-101", "32 bits"),
        (imagecodecs.jpeg_encode(GREY_12, bitspersample=12), "MSA-DATA-101", "12 bits"),
        (tiff(noise(channels=5), photometric="minisblack", planarconfig="contig"), "MSA-DATA-102", "5 channels"),
        (tiff(np.stack([noise()[..., 0]] * 7)), "MSA-DATA-102", "7 pictures"),
        (tiff(noise(channels=4), photometric="rgb", extrasamples=["unspecified"]), "MSA-DATA-102", "4 channels"),
        (tiff(noise(channels=2), photometric="minisblack", planarconfig="contig"), "MSA-DATA-102", "2 channels"),
        (tiff(noise(), photometric="minisblack", planarconfig="contig"), "MSA-DATA-701", "3 channels"),
        (tiff(noise(), photometric="rgb", compression="lerc"), "MSA-DATA-701", "LERC"),
    ],
    ids=["grey PNG", "grey TIFF", "RGB PNG", "RGB TIFF", "float", "12-bit JPEG", "five channels", "stack"]
    + ["infrared", "two channels", "three greys", "LERC"],
)
def test_more_than_8_bits_or_3_channels_are_refused(data: bytes, code: str, mentions: str) -> None:
    with raises_user_error(code, mentions=mentions):
        read_photo(data, "a.x")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_noted_where_there_is_any(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    opaque = np.dstack([noise(), np.full((40, 60), 255, np.uint8)])
    half = opaque.copy()
    half[:20, :, 3] = 0
    for pixels, notes in ((opaque, ()), (half, (TRANSPARENT,))):
        photo = read_photo(encoded(pixels, kind, **options), "a")
        assert photo.notes == notes and np.array_equal(photo.pixels_HWC, noise())


def test_transparency_of_a_palette_and_of_one_color() -> None:
    image = Image.fromarray(noise()).quantize(16)
    assert read_photo(encoded(image, transparency=3), "a").notes == (TRANSPARENT,)
    assert read_photo(encoded(Image.fromarray(noise()), transparency=(0, 0, 0)), "a").pixels_HWC.shape == (40, 60, 3)


def test_grey_photos_and_others_of_few_bits() -> None:
    grey = Image.fromarray(noise()[..., 0])
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        pixels_HWC = read_photo(encoded(grey, kind), "a").pixels_HWC
        assert pixels_HWC.shape == (40, 60, 3) and np.ptp(pixels_HWC, axis=2).max() == 0
    black_and_white = grey.convert("1")
    for kind, options in (("PNG", {}), ("TIFF", {"compression": "group4"}), ("BMP", {})):
        pixels_HWC = read_photo(encoded(black_and_white, kind, **options), "a").pixels_HWC
        assert np.array_equal(pixels_HWC[..., 0], np.asarray(black_and_white) * 255), kind


@pytest.mark.parametrize(
    "options",
    [{"compression": "zstd"}, {"compression": "lzma"}, {"tile": (16, 16)}, {"tile": (16, 16), "compression": "zstd"}],
)
def test_tiffs_that_opencv_cannot_read(options: dict[str, Any]) -> None:
    photo = read_photo(tiff(noise(), photometric="rgb", **options), "a")
    assert np.array_equal(photo.pixels_HWC, noise()) and not photo.is_stored_so


def test_a_bmp_of_16_bits() -> None:
    pixels = np.random.default_rng(0).integers(0, 2**15, (40, 60), np.uint16)
    header = b"BM" + struct.pack("<IHHI", 54 + pixels.nbytes, 0, 0, 54)
    data = header + struct.pack("<IiiHHIIiiII", 40, 60, 40, 1, 16, 0, pixels.nbytes, 0, 0, 0, 0) + pixels.tobytes()
    shown = read_photo(data, "a").pixels_HWC
    assert np.array_equal(shown, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert np.array_equal(shown[::-1, :, 0] >> 3, pixels >> 10)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(noise(), "GIF"), "GIF"),
        (encoded(noise(), "AVIF"), "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (encoded(noise(), "JPEG2000"), "JPEG 2000"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
        (b"", "empty"),
        (bytes(5000), "zeros"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_an_image_is_named(data: bytes, kind: str) -> None:
    with raises_user_error("MSA-DATA-017", mentions=kind):
        read_photo(data, "a.jpg")


def test_a_thumbnail_in_a_tiff_is_noted() -> None:
    small = Image.fromarray(noise(10, 15))
    data = encoded(noise(), "TIFF", save_all=True, append_images=[small])
    assert read_photo(data, "a").notes == (FIRST_OF_SEVERAL,)


def holed(data: bytes, size: int, place: float = 1 / 3, fill: bytes = b"\0") -> bytes:
    start = int(len(data) * place)
    return data[:start] + fill * size + data[start + size :]


SMOOTH = np.asarray(Image.fromarray(noise(30, 40)).resize((320, 240)))
BLOCKS = np.kron(noise(30, 40), np.ones((8, 8, 1), np.uint8))
WAYS = {
    "baseline": {"quality": 95},
    "optimized": {"quality": 85, "optimize": True},
    "progressive": {"quality": 90, "progressive": True},
    "no subsampling": {"quality": 95, "subsampling": 0},
    "restarts": {"quality": 85, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pixels", [BLOCKS, SMOOTH], ids=["blocks", "smooth"])
def test_a_hole_in_a_jpeg_is_damage(pixels: np.ndarray, way: str) -> None:
    whole = encoded(pixels, "JPEG", **WAYS[way])
    read_photo(whole, "a.jpg")
    for size in (512, 1500):
        for place in (0.4, 0.6, 0.8):
            for fill in (b"\0", b"\xff"):
                with raises_user_error("MSA-DATA-017", mentions="a.jpg"):
                    read_photo(holed(whole, size, place, fill), "a.jpg")


@pytest.mark.parametrize("kind", ["LZW", "deflate", "JPEG", "lossless WebP", "WebP"])
def test_a_hole_in_other_compressed_files(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"LZW": "tiff_lzw", "deflate": "tiff_adobe_deflate", "JPEG": "jpeg"}
    whole = (
        encoded(SMOOTH, "TIFF", compression=options[kind])
        if kind in options
        else encoded(SMOOTH, "WEBP", lossless=kind != "WebP", quality=95)
    )
    read_photo(whole, "a")
    for place in (0.3, 0.5, 0.7):
        with raises_user_error("MSA-DATA-017"):
            read_photo(holed(whole, 1500, place), "a")
    assert capfd.readouterr().err == ""


def test_flat_pictures_of_other_files_are_not_holes() -> None:
    for pixels in (np.zeros((1200, 1600, 3), np.uint8), np.pad(noise(), ((500, 500), (500, 500), (0, 0)))):
        for options in ({"lossless": True}, {"quality": 30}, {"quality": 90}):
            read_photo(encoded(pixels, "WEBP", **options), "a")
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
            read_photo(encoded(pixels, "TIFF", compression=compression), "a")


def test_zeros_in_the_tables_of_a_jpeg() -> None:
    whole = encoded(SMOOTH, "JPEG", quality=90)
    place = whole.index(b"\xff\xdb") + 5
    with raises_user_error("MSA-DATA-017"):
        read_photo(whole[: place + 8] + bytes(40) + whole[place + 48 :], "a")


def test_other_damage_of_a_jpeg() -> None:
    whole = encoded(BLOCKS, "JPEG", **WAYS["restarts"])
    middle = len(whole) // 2
    swapped = whole.replace(b"\xff\xd3", b"\xff\xd5", 1)
    lost = whole[:middle] + whole[middle + 1000 :]
    for found in (whole[:middle], whole[:-2], swapped, lost, whole[:middle] + b"\xff\xd8" + whole[middle:]):
        with raises_user_error("MSA-DATA-017"):
            read_photo(found, "a")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((240, 320, 3), np.uint8),
        np.full((240, 320, 3), 255, np.uint8),
        np.tile(np.linspace(0, 255, 320).astype(np.uint8)[None, :, None], (240, 1, 3)),
        np.pad(noise(), ((100, 100), (130, 130), (0, 0))),
        (np.indices((240, 320)).sum(0) % 2 * 255).astype(np.uint8),
    ],
    ids=["black", "white", "gradient", "noise in black", "checkers"],
)
def test_flat_pictures_are_not_holes(pixels: np.ndarray) -> None:
    for way in WAYS.values():
        for quality in (20, 75, 100):
            read_photo(encoded(pixels, "JPEG", **{**way, "quality": quality}), "a")


def test_what_phones_and_cameras_write_after_the_end_is_no_damage() -> None:
    whole = encoded(SMOOTH, "JPEG", quality=90, exif=exif(1))
    thumbnail = encoded(noise(), "JPEG")
    for more in (bytes(5000), b"SEFH" + bytes(100) + b"SEFT", thumbnail, thumbnail + b"\0" * 77):
        assert np.array_equal(read_photo(whole + more, "a").pixels_HWC, read_photo(whole, "a").pixels_HWC)
    padded = whole[:-2] + bytes(3) + whole[-2:]
    read_photo(padded, "a")
    with raises_user_error("MSA-DATA-017", mentions="extraneous"):
        read_photo(whole[:-2] + b"\x5a\x3c\x99" + whole[-2:], "a")
    assert read_photo(encoded(noise()) + b"trailer", "a").pixels_HWC.shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "deflated TIFF"])
def test_half_of_a_file_is_damage(kind: str) -> None:
    whole = encoded(noise(), kind.split()[-1], **KINDS.get(kind, {}))
    for length in (len(whole) // 2, len(whole) - 30, 20, 0):
        with raises_user_error("MSA-DATA-017", mentions="'a.x'"):
            read_photo(whole[:length], "a.x")


def test_a_wrong_checksum_in_a_png() -> None:
    whole = bytearray(encoded(noise(), pnginfo=None, exif=exif(1)))
    for part in (b"IHDR", b"IDAT", b"eXIf"):
        found = whole.copy()
        found[found.index(part) + 5] ^= 1
        with raises_user_error("MSA-DATA-017"):
            read_photo(bytes(found), "a")


def test_messages_of_others_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_messages() as said:
        os.write(2, b"a line of another thread\nCorrupt JPEG data: bad Huffman code\n")
    assert said == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "a line of another thread\n"


def test_messages_where_stderr_is_closed() -> None:
    program = (
        "import os, sys; os.close(2)\n"
        "from msanet.data.image.damage import decoder_messages\n"
        "with decoder_messages() as said: os.write(2, b'Corrupt JPEG data: x\\n')\n"
        "try: os.fstat(2)\n"
        "except OSError: print(said)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "['Corrupt JPEG data: x']\n"


@pytest.mark.skipif("MSANET_TEST_DATA" not in os.environ, reason="MSANET_TEST_DATA names no folder with real datasets")
def test_no_real_photo_is_refused() -> None:
    root = Path(os.environ["MSANET_TEST_DATA"])
    paths = [path for ending in ("jpg", "png") for path in sorted(root.rglob(f"*.{ending}"))]
    photos = [
        path for path in paths if not any("annot" in part or "Class" in part or "gt" in part for part in path.parts)
    ]
    assert len(photos) > 50
    for path in photos[:: max(1, len(photos) // 150)]:
        data = path.read_bytes()
        photo = read_photo(data, str(path))
        assert photo.is_stored_so and np.array_equal(photo.pixels_HWC, decode_image(data, str(path)))
