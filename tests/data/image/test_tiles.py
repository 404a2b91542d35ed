"""Tiled TIFF: bit-exact, read by others, by window; what others write, and what is damaged, never gives wrong pixels."""

import io
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from msanet.data.image import tiles
from msanet.data.image.codec import decode_image, decode_label, open_image
from msanet.data.image.tiles import IMAGE_TILE, LABEL_TILE, TiledImage, encode_tiled
from msanet.errors import UserError
from support.errors import raises_user_error
from support.images import decode_pixels

TILE_H, TILE_W = IMAGE_TILE
SIZES = [(1, 1), (TILE_H - 1, TILE_W - 1), IMAGE_TILE, (TILE_H + 1, TILE_W + 1), (257, 521), LABEL_TILE, (3, 5000)]


def random_pixels(size: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise on a slope: no tile is like another."""
    noise = np.random.default_rng(seed).integers(0, 60, size)
    return (noise + np.arange(size[1]).reshape(1, -1, *[1] * (len(size) - 2)) // 3).astype(np.uint8)


def write_tiff(pixels: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **settings)
    return file.getvalue()


IMAGE = random_pixels((150, 300, 3))
DATA = encode_tiled(IMAGE)


def parsed(data: bytes) -> TiledImage:
    image = TiledImage.parse(data, "a/b.tif")
    assert image is not None
    return image


def windows_equal(data: bytes, pixels: np.ndarray, tries: int = 30) -> bool:
    """Whether random windows of the file, and all of it, are slices of the pixels."""
    image, rng, (height, width) = parsed(data), np.random.default_rng(1), pixels.shape[:2]
    places = [(0, 0, height, width), (height - 1, width - 1, 1, 1)]
    for _ in range(tries):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        places.append((top, left, int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))))
    return image.size == (height, width) and all(
        np.array_equal(image.window(t, x, h, w), pixels[t : t + h, x : x + w]) for t, x, h, w in places
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [3, 1])
def test_all_sizes_are_bit_exact_by_window_and_in_other_libraries(size: tuple[int, int], channels: int) -> None:
    pixels = random_pixels((*size, 3) if channels == 3 else size)
    data = encode_tiled(pixels)
    assert windows_equal(data, pixels)
    flag = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_UNCHANGED
    assert np.array_equal(decode_pixels(data, flag), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), pixels)
    assert encode_tiled(np.asfortranarray(pixels)) == data == encode_tiled(pixels.copy())


def test_real_images_and_labels_are_bit_exact_and_hardly_larger_than_png(test_data: Path) -> None:
    images = sorted((test_data / "cityscapes").glob("leftImg8bit/train/*/*_leftImg8bit.png"))
    labels = sorted((test_data / "cityscapes").glob("gtFine/train/*/*_labelIds.png"))
    assert len(images) == len(labels) == 4
    for image_file, label_file in list(zip(images, labels, strict=True))[:2]:
        image, label = Image.open(image_file), np.asarray(Image.open(label_file))
        assert image.size == (2048, 1024)
        data, label_data = encode_tiled(np.asarray(image)), encode_tiled(label)
        assert windows_equal(data, np.asarray(image), tries=12) and windows_equal(label_data, label, tries=12)
        assert len(data) < 1.2 * image_file.stat().st_size
        assert len(label_data) < 0.1 * len(data)


def test_only_the_tiles_under_a_window_are_read() -> None:
    pixels = random_pixels((3 * TILE_H, 3 * TILE_W, 3))
    data = bytearray(encode_tiled(pixels))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offsets = file.pages[0].dataoffsets
    middle = 4
    for number, offset in enumerate(offsets):
        if number != middle:
            data[offset + 30] ^= 1
    image = parsed(bytes(data))
    whole = (TILE_H, TILE_W, TILE_H, TILE_W)
    assert np.array_equal(image.window(*whole), pixels[TILE_H : 2 * TILE_H, TILE_W : 2 * TILE_W])
    for top, left, height, width, number in (
        (TILE_H - 1, TILE_W, 2, 5, 1),
        (TILE_H, TILE_W - 1, 5, 2, 3),
        (TILE_H, 2 * TILE_W - 1, 5, 2, 5),
        (2 * TILE_H - 1, TILE_W, 2, 5, 7),
    ):
        with pytest.raises(UserError) as error:
            image.window(top, left, height, width)
        assert f"'a/b.tif' cannot be decoded: tile {number} at byte {offsets[number]}" in str(error.value)


@pytest.mark.parametrize("compression", ["adobe_deflate", "lzw"])
def test_damage_in_what_others_wrote_is_found(compression: str) -> None:
    data = bytearray(write_tiff(IMAGE, photometric="rgb", rowsperstrip=10, compression=compression))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    with raises_user_error("MSA-DATA-017", mentions="a/b.tif"):
        decode_image(bytes(data), "a/b.tif")


def test_without_imagecodecs_opencv_reads_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = random_pixels((150, 300, 3)), random_pixels((150, 600))
    files = encode_tiled(image), encode_tiled(label)
    monkeypatch.setattr(tiles, "imagecodecs", None)
    assert TiledImage.parse(files[0], "x") is None
    assert np.array_equal(decode_image(files[0], "x"), image) and np.array_equal(decode_label(files[1], "x"), label)
    with raises_user_error("MSA-DATA-022", setting="--codec"):
        encode_tiled(image)


TILED = {"tile": (128, 256), "compression": "adobe_deflate"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"compression": "packbits"},
        {"compression": "adobe_deflate", "predictor": True},
        {"tile": (64, 64), "compression": "lzw"},
        {**TILED, "byteorder": ">", "predictor": True},
        {**TILED, "bigtiff": True},
        {**TILED, "tile": (16, 32), "predictor": True},
        {**TILED, "planarconfig": "separate"},
    ],
    ids=str,
)
def test_other_layouts_give_the_right_pixels(settings: dict[str, Any]) -> None:
    image = random_pixels((150, 300, 3))
    planes = image.transpose(2, 0, 1) if "planarconfig" in settings else image
    assert np.array_equal(decode_image(write_tiff(planes, photometric="rgb", **settings), "x"), image)
    if "planarconfig" not in settings:
        label = image[..., 0]
        assert np.array_equal(decode_label(write_tiff(label, **settings), "x"), label)


def test_other_pixels_are_converted_where_that_has_one_meaning() -> None:
    image = random_pixels((150, 300, 3))
    wide = image.astype(np.uint16) * 257
    for settings in ({}, {**TILED, "predictor": True}):
        assert np.array_equal(decode_image(write_tiff(wide, photometric="rgb", **settings), "x"), image)
    pages = np.stack([image, 255 - image])
    assert np.array_equal(decode_image(write_tiff(pages, photometric="rgb", **TILED), "x"), image)  # the first
    grey = image[..., 0]
    assert np.array_equal(decode_image(write_tiff(grey, **TILED), "x"), np.dstack([grey] * 3))
    colors = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16) * 257
    palette = write_tiff(grey, photometric="palette", colormap=colors, **TILED)
    assert np.array_equal(decode_image(palette, "x"), (colors[:, grey] // 257).transpose(1, 2, 0))


@pytest.mark.parametrize("layout", [{}, TILED], ids=["striped", "tiled"])
def test_pixels_without_one_meaning_are_refused(layout: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    image = random_pixels((150, 300, 3))
    grey, four = image[..., 0], np.dstack([image, image[..., 0]])
    settings: dict[str, Any]
    turned = {"extratags": [(274, "H", 1, 6, True)]}
    for pixels, settings in (
        (image.astype(np.float32), {"photometric": "rgb"}),
        (image.astype(np.int8), {"photometric": "rgb"}),
        (four, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (image, {"photometric": "rgb", **turned}),
        (image, {"photometric": "minisblack", "planarconfig": "contig"}),
        (image, {"photometric": "rgb", "compression": "zstd"}),
        (image, {"photometric": "rgb", "compression": "jpeg2000"}),
    ):
        with pytest.raises(UserError, match="'a/b.tif'"):
            decode_image(write_tiff(pixels, **{**layout, **settings}), "a/b.tif")
    for pixels, settings in (
        (grey, {"photometric": "miniswhite"}),
        (grey, {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}),
        (grey > 9, {}),
        (grey.astype(np.int8), {}),
        (grey.astype(np.uint16), {"compression": "lzw"}),  # tiled and deflated it is a label of more than 255 classes
        (grey.astype(np.float32), {}),
        (grey, turned),
        (image, {"photometric": "rgb"}),
    ):
        with pytest.raises(UserError, match="'a/b.tif'"):
            decode_label(write_tiff(pixels, **{**layout, **settings}), "a/b.tif")
    assert capfd.readouterr().err == "", "OpenCV is silent"


def test_colors_that_are_not_rgb_are_not_taken_for_it() -> None:
    lab = random_pixels((150, 300, 3))
    data = write_tiff(lab, photometric="cielab", **TILED)
    assert TiledImage.parse(data, "x") is None
    expected = decode_pixels(data, cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decode_image(data, "x"), expected) and not np.array_equal(expected, lab)


def changed(
    data: bytes, tag: int, kind: int | None = None, number: int | None = None, value: int | None = None
) -> bytes:
    """The file with one field of its directory changed."""
    result = bytearray(data)
    (entries,) = struct.unpack_from("<H", data, 8)
    for place in range(10, 10 + 12 * entries, 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            for offset, layout, new in ((2, "<H", kind), (4, "<I", number), (8, "<I", value)):
                if new is not None:
                    struct.pack_into(layout, result, place + offset, new)
            return bytes(result)
    raise KeyError(tag)


WIDTH, HEIGHT, BITS, COMPRESSION, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS = (
    256, 257, 258, 259, 317, 322, 323, 324, 325,
)  # fmt: skip


def test_shorts_and_longs_mean_the_same() -> None:
    for tag, value in ((WIDTH, 300), (HEIGHT, 150), (TILE_WIDTH, 256), (TILE_HEIGHT, 128)):
        assert windows_equal(changed(DATA, tag, kind=3, value=value), IMAGE, tries=3)
    for tag in (COMPRESSION, PREDICTOR):
        assert windows_equal(changed(DATA, tag, kind=4), IMAGE, tries=3)
    as_byte = changed(DATA, PREDICTOR, kind=1)  # a type that we do not read must not mean "no predictor"
    assert TiledImage.parse(as_byte, "x") is None and np.array_equal(decode_image(as_byte, "x"), IMAGE)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd fields
@pytest.mark.parametrize(
    ("tag", "change"),
    [
        (WIDTH, {"value": 2**31}),
        (HEIGHT, {"value": 2**32 - 1}),
        (WIDTH, {"value": 0}),
        (WIDTH, {"number": 0}),
        (WIDTH, {"value": 5000}),
        (BITS, {"number": 0}),
        (BITS, {"number": 2**31}),
        (COMPRESSION, {"number": 0}),
        (TILE_WIDTH, {"value": 0}),
        (TILE_HEIGHT, {"value": 0}),
        (TILE_HEIGHT, {"value": 2**31}),
        (OFFSETS, {"number": 2**31}),
        (OFFSETS, {"number": 3}),
        (OFFSETS, {"number": 0}),
        (OFFSETS, {"value": 2**32 - 8}),
        (COUNTS, {"number": 2**32 - 1}),
        (COUNTS, {"number": 1}),
    ],
    ids=str,
)
def test_hostile_fields_give_a_sentence_and_take_little_memory(tag: int, change: dict[str, int]) -> None:
    data = changed(DATA, tag, **change)
    tracemalloc.start()
    try:
        try:
            right = np.array_equal(decode_image(data, "a/b.tif"), IMAGE)  # libtiff reads a long list to its need
        except UserError as error:
            right = "'a/b.tif' " in str(error)
        assert right
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_flat_image_of_tall_tiles_takes_no_terabytes() -> None:
    """2^28 x 1 pixels are allowed, but its tiles of 4096 x 4096 would be 3 TB."""
    tiles = 2**16
    size = {WIDTH: 2**28, HEIGHT: 1, TILE_WIDTH: 4096, TILE_HEIGHT: 4096}
    data = DATA
    for tag, value in size.items():
        data = changed(data, tag, value=value)
    data = changed(changed(data, OFFSETS, number=tiles, value=len(data)), COUNTS, number=tiles, value=len(data))
    data += struct.pack("<I", 8) * tiles
    assert TiledImage.parse(data, "x") is None
    with pytest.raises(UserError, match="'x' cannot be"):
        open_image(data, "x").window(0, 0, 1, 2**28)


def test_a_directory_that_repeats_itself_is_read_once() -> None:
    """65,535 fields that all tell of the same million values must not be a million values each."""
    entry = struct.pack("<HHII", OFFSETS, 4, 10**6, 16)
    data = b"II*\0" + struct.pack("<I", 5 * 10**6) + bytes(5 * 10**6 - 8) + struct.pack("<H", 65535) + entry * 65535
    tracemalloc.start()
    assert TiledImage.parse(data, "x") is None
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def mutation(data: bytes, dice: random.Random) -> bytes:
    """One to three changes of the header's bytes, fields and offsets, or the file cut short."""
    result, header = bytearray(data), 10 + 12 * 15 + 90
    for _ in range(dice.choice([1, 1, 2, 3])):
        place, field = dice.randrange(header), 10 + 12 * dice.randrange(15)
        what = dice.randrange(5)
        if what == 0:
            result[place] = dice.randrange(256)
        elif what == 1:
            result[place] ^= 1 << dice.randrange(8)
        elif what == 2:
            value = dice.choice([0, 1, 2, 3, 8, 15, 16, 255, 4096, 4097, 65535, 2**16, 2**28, 2**31, 2**32 - 1])
            struct.pack_into("<I", result, field + dice.choice([4, 8]), value)
        elif what == 3:
            struct.pack_into("<H", result, field, dice.choice([256, 257, 258, 262, 266, 277, 284, 317, 322, 339]))
        else:
            struct.pack_into("<H", result, field + 2, dice.choice([1, 2, 3, 4, 5, 7, 12, 13, 16]))
    return bytes(result[: dice.randrange(1, len(result))] if dice.random() < 0.2 else result)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["image", "label"])
def test_damaged_headers_give_the_pixels_they_tell_of_or_one_sentence(kind: str) -> None:
    """A changed header may be a sound file of another size: then OpenCV, where it reads it at all, must agree."""
    pixels = IMAGE if kind == "image" else random_pixels((300, 600))
    data, dice = encode_tiled(pixels), random.Random(7)
    decode = decode_image if kind == "image" else decode_label
    flag = cv2.IMREAD_COLOR_RGB if kind == "image" else cv2.IMREAD_UNCHANGED
    outcomes = {"right": 0, "other": 0, "refused": 0}
    for _ in range(800):
        damaged = mutation(data, dice)
        try:
            result = decode(damaged, "x")
        except UserError:
            outcomes["refused"] += 1
            continue
        if np.array_equal(result, pixels):
            outcomes["right"] += 1
            continue
        expected = cv2.imdecode(np.frombuffer(damaged, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
        assert expected is None or np.array_equal(result, expected)
        outcomes["other"] += 1
    assert outcomes["right"] > 100 and outcomes["refused"] > 100, outcomes
