"""Masks of all kinds of programs: what their palettes, colors and values mean."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from msanet.datasets import VOC, DatasetSpec
from msanet.datasets.voc import voc_color
from sharding.__main__ import main
from sharding.notes import take_notes
from sharding.readers.mask_file import SCALED, MaskFile, read_mask
from sharding.readers.mask_reader import (
    BINARY,
    COLORS_DECIDE,
    GREY_COLORS,
    GREY_IDS,
    TRANSPARENT,
    MaskReader,
    grey_meaning,
    reader_of,
)
from support.errors import error_codes, raises_user_error
from support.packing import packed_labels, refuse
from support.pictures import encoded, exif, noise, put

COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
IDS = np.zeros((40, 60), np.uint8)
IDS[:, :20], IDS[20:] = 1, 2


def spec(*ids: int, **more: int) -> DatasetSpec:
    classes = tuple(f"class {id}" for id in ids)
    return DatasetSpec(
        "toy", classes, tuple(map(voc_color, range(len(ids)))), {255: 255, **{id: k for k, id in enumerate(ids)}}
    )


def reader(colors: dict[tuple[int, int, int], int], ids: tuple[int, ...] = (0, 1, 2), grey: str = "ids") -> MaskReader:
    return MaskReader(spec(*ids), tuple(sorted(colors.items())), grey)


THREE = reader(dict(zip(COLORS, range(3), strict=True)))
TWO = MaskReader(spec(0, 1), ())


@pytest.fixture(autouse=True)
def no_notes() -> None:
    take_notes()


def palette_mask(indices: np.ndarray, colors: Any) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(np.array(colors, np.uint8).ravel().tolist())
    return image


def reordered(order: tuple[int, ...]) -> Image.Image:
    """The map IDS with palette entry k showing the color of class order[k]."""
    places = np.argsort(order).astype(np.uint8)
    return palette_mask(places[IDS], [COLORS[k] for k in order])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_colors_decide_where_a_palette_has_another_order(order: tuple[int, ...], kind: str) -> None:
    assert np.array_equal(THREE(encoded(reordered(order), kind), "a"), IDS)
    assert (COLORS_DECIDE in take_notes()) == (order != (0, 1, 2))


def test_palettes_as_programs_write_them() -> None:
    shown = np.array(COLORS, np.uint8)[IDS]
    for image in (
        Image.fromarray(shown).quantize(256),
        Image.fromarray(shown).quantize(8, Image.Quantize.FASTOCTREE),
        Image.fromarray(shown).convert("P", palette=Image.Palette.ADAPTIVE, colors=16),
        Image.fromarray(shown).convert("P"),  # the palette of web browsers
        Image.fromarray(shown),  # no palette at all
        Image.fromarray(shown).convert("RGBA"),
    ):
        assert np.array_equal(THREE(encoded(image), "a"), IDS), image.mode


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_palettes_of_few_bits(bits: int) -> None:
    assert np.array_equal(THREE(encoded(reordered((1, 2, 0)), bits=bits), "a"), IDS)


def test_entries_that_no_pixel_uses_do_not_matter() -> None:
    colors = [*COLORS, (9, 9, 9), *[(255, 0, 0)] * 200]
    assert np.array_equal(THREE(encoded(palette_mask(IDS, colors)), "a"), IDS) and not take_notes()


def test_indices_count_where_the_palette_is_a_grey_ramp_or_no_colors_are_known() -> None:
    ramp = palette_mask(IDS, [(k, k, k) for k in range(256)])
    light = palette_mask(IDS, [(80 * k, 80 * k, 80 * k) for k in range(4)])
    for image in (ramp, light):
        assert np.array_equal(THREE(encoded(image), "a"), IDS)
    assert np.array_equal(
        MaskReader(spec(0, 1, 2), ())(encoded(palette_mask(IDS, [(7, 1, 3), (1, 2, 250), (9, 4, 4)])), "a"), IDS
    )
    assert not take_notes()


GREYS = [(5, 5, 5), (0, 0, 0), (7, 7, 7)]


def test_greys_that_are_ids_count_where_a_tool_made_a_palette_of_them() -> None:
    """pngquant and ImageMagick make palettes of grey masks, in the order in which they please."""
    sparse = MaskReader(spec(0, 5, 7), ())
    for image in (palette_mask(IDS, GREYS), palette_mask(IDS, [*GREYS, (0, 0, 0)])):
        assert np.array_equal(sparse(encoded(image), "a"), np.array([5, 0, 7], np.uint8)[IDS])
    assert np.array_equal(
        sparse(encoded(Image.fromarray(np.array([0, 5, 7], np.uint8)[IDS]).convert("P")), "a"), IDS * 2 + (IDS > 0) * 3
    )
    assert take_notes()[GREY_IDS][1] == 2
    border = encoded(palette_mask(IDS, [(1, 1, 1), (0, 0, 0), (255, 255, 255)]))
    for read in (TWO, reader({(0, 0, 0): 0, (200, 0, 0): 1}, (0, 1))):
        assert np.array_equal(read(border, "a"), np.array([1, 0, 255], np.uint8)[IDS])
    high = reader({(0, 0, 0): 0, (255, 255, 255): 1, (9, 0, 0): 2}, (1, 2, 3))
    assert np.array_equal(high(encoded(palette_mask(IDS, [(k, k, k) for k in (1, 2, 3)])), "a"), IDS + 1)
    levels = [
        (0, 0, 0),
        (1, 1, 1),
        (3, 3, 3),
        (255, 255, 255),
        (254, 254, 254),
    ]  # shown greys, of which not all are ids
    assert np.array_equal(MaskReader(spec(*range(200)), ())(encoded(palette_mask(IDS, levels)), "a"), IDS)


def test_a_palette_that_shows_classes_alike_is_refused() -> None:
    for colors in ([(0, 0, 0)] * 3, [COLORS[0], COLORS[1], COLORS[1]]):
        with raises_user_error("MSA-PACK-103", mentions=str(list(colors[1]))):
            THREE(encoded(palette_mask(IDS, colors)), "a")
    extra = np.where(IDS == 2, 9, IDS)  # an index that is not an id may repeat a color
    colors = [*COLORS, *[(9, 9, 9)] * 6, COLORS[2]]
    assert np.array_equal(THREE(encoded(palette_mask(extra.astype(np.uint8), colors)), "a"), IDS)


def test_the_palette_of_voc_numbers_classes_of_other_colors() -> None:
    read = reader({(30, 30, 30): 0, (220, 40, 40): 1, (40, 200, 60): 2})
    for ids in (IDS, np.zeros_like(IDS)):
        assert np.array_equal(read(encoded(palette_mask(ids, [voc_color(k) for k in range(256)])), "a"), ids)


def test_a_palette_that_fits_neither_is_refused() -> None:
    for colors in ([(9, 9, 9), (255, 0, 0), (0, 255, 0)], [(0, 0, 0), (254, 0, 0), (0, 255, 0)]):
        with raises_user_error("MSA-PACK-103", mentions=str(list(colors[0] if colors[0][0] else colors[1]))):
            THREE(encoded(palette_mask(IDS, colors)), "a")


def test_a_palette_shorter_than_the_indices() -> None:
    data = encoded(palette_mask(IDS, [*COLORS]))
    place = data.index(b"PLTE")
    short = data[: place - 4] + cut_palette(data[place - 4 :])
    assert np.array_equal(THREE(short, "a"), IDS)  # what is there agrees with the ids
    data = encoded(palette_mask(IDS, [COLORS[1], COLORS[0], COLORS[2]]))
    place = data.index(b"PLTE")
    with raises_user_error("MSA-PACK-103", mentions="too short"):
        THREE(data[: place - 4] + cut_palette(data[place - 4 :]), "a")


def cut_palette(data: bytes) -> bytes:
    """The chunk PLTE with two entries, and what follows it."""
    (length,) = struct.unpack_from(">I", data)
    content = b"PLTE" + data[8:14]
    return struct.pack(">I", 6) + content + struct.pack(">I", zlib.crc32(content)) + data[12 + length :]


def test_transparency_of_a_palette() -> None:
    assert np.array_equal(THREE(encoded(reordered((2, 0, 1)), transparency=1), "a"), IDS)
    assert TRANSPARENT in take_notes()
    assert np.array_equal(THREE(encoded(reordered((0, 1, 2)), transparency=1), "a"), IDS)  # indices count
    both = palette_mask(np.where(IDS == 2, 3, IDS).astype(np.uint8), [COLORS[0], COLORS[1], COLORS[2], COLORS[0]])
    with raises_user_error("MSA-PACK-105"):
        THREE(encoded(both, transparency=3), "a")


def test_voc_knows_its_palette_and_the_border() -> None:
    read = reader_of(VOC, ignored=[(224, 224, 192)])
    ids = IDS.copy()
    ids[IDS == 2] = 255
    own = palette_mask(ids, [voc_color(k) for k in range(256)])
    shown = np.array([voc_color(0), voc_color(1), (224, 224, 192)], np.uint8)[IDS]
    for image in (
        own,
        own.convert("RGB").quantize(256),
        own.convert("RGB"),
        Image.fromarray(shown),
        Image.fromarray(ids),
    ):
        assert np.array_equal(
            VOC.to_train_ids(np.where(read(encoded(image), "a") < 0, 255, read(encoded(image), "a")).astype(np.uint8)),
            ids,
        )


CELL = IDS == 1
BLACK_WHITE = {(0, 0, 0): 0, (255, 255, 255): 1}


def masks_of(*values: np.ndarray) -> list[MaskFile]:
    return [read_mask(encoded(pixels), "a") for pixels in values]


WHITE_ON_BLACK = np.where(CELL, 255, 0).astype(np.uint8)


def forms(white: np.ndarray) -> dict[str, bytes]:
    """A mask of 0 and 255 in the forms in which programs write it."""
    image = Image.fromarray(white)
    return {
        "grey": encoded(image),
        "1-bit PNG": encoded(image.convert("1")),
        "1-bit TIFF": encoded(image.convert("1"), "TIFF", compression="group4"),
        "1-bit BMP": encoded(image.convert("1"), "BMP"),
        "BMP": encoded(image, "BMP"),
        "GIF": encoded(image, "GIF"),
        "RGB": encoded(image.convert("RGB")),
        "RGBA": encoded(image.convert("RGBA")),
        "grey and alpha": encoded(image.convert("LA")),
        "16 bits": encoded(white.astype(np.uint16) * 257),
        "palette": encoded(palette_mask((white > 0).astype(np.uint8), [(0, 0, 0), (255, 255, 255)]), bits=1),
    }


@pytest.mark.parametrize("form", forms(WHITE_ON_BLACK))
def test_white_is_the_class_that_is_white(form: str) -> None:
    data = forms(WHITE_ON_BLACK)[form]
    grey = grey_meaning(spec(0, 1), BLACK_WHITE, frozenset({0, 1}), masks_of(WHITE_ON_BLACK))
    assert grey == "colors"
    read = reader(BLACK_WHITE, (0, 1), grey)
    assert np.array_equal(read(data, "a"), CELL)
    assert np.array_equal(read(forms(255 - WHITE_ON_BLACK)[form], "a"), ~CELL)


@pytest.mark.parametrize("form", forms(WHITE_ON_BLACK))
def test_a_binary_mask_of_two_classes_without_colors(form: str) -> None:
    assert grey_meaning(spec(0, 1), {}, frozenset({0, 1}), masks_of(WHITE_ON_BLACK)) == "binary"
    read = MaskReader(spec(0, 1), (), "binary")
    assert np.array_equal(read(forms(WHITE_ON_BLACK)[form], "a"), CELL)


def test_white_background() -> None:
    colors = {(255, 255, 255): 0, (0, 0, 0): 1}
    grey = grey_meaning(spec(0, 1), colors, frozenset({0, 1}), masks_of(255 - WHITE_ON_BLACK))
    assert np.array_equal(reader(colors, (0, 1), grey)(encoded(255 - WHITE_ON_BLACK), "a"), CELL)
    assert GREY_COLORS in take_notes()
    one_bit = encoded(Image.fromarray(255 - WHITE_ON_BLACK).convert("1"))
    grey = grey_meaning(spec(0, 1), colors, frozenset({0, 1}), [read_mask(one_bit, "a")])
    assert np.array_equal(reader(colors, (0, 1), grey)(one_bit, "a"), CELL)


@pytest.mark.parametrize(
    ("values", "colors", "certain", "expected"),
    [
        ([[0, 1]], {}, {0, 1}, "ids"),
        ([[0, 255], [0, 1]], {}, {0, 1}, "ids"),  # 255 is ignored where 1 is there too
        ([[0, 255], [0, 1, 255]], BLACK_WHITE, {0, 1}, "ids"),
        ([[0], [0], [0, 255]], {}, {0, 1}, "binary"),
        ([[0, 255]], {}, {0, 1, 255}, "ids"),  # somebody said what 255 is
        ([[0, 255]], BLACK_WHITE, {0, 1, 255}, "ids"),
        ([[0, 255]], {(0, 0, 0): 0, (200, 0, 0): 1}, {0, 1}, "binary"),  # colors of pictures alone
        ([[0, 128, 255]], {(0, 0, 0): 0, (128, 128, 128): 1, (255, 255, 255): 2}, {0, 1, 2}, "colors"),
        ([[0, 255]], {}, {0, 1, 2}, "ids"),  # three classes
    ],
)
def test_what_grey_values_mean(
    values: list[list[int]], colors: dict[Any, int], certain: set[int], expected: str
) -> None:
    ids = tuple(id for id in certain if id != 255)
    masks = masks_of(*(np.resize(np.array(some, np.uint8), (4, 6)) for some in values))
    assert grey_meaning(spec(*ids), colors, frozenset(certain), masks) == expected


def test_255_alone_is_not_a_binary_mask() -> None:
    masks = [read_mask(encoded(np.full((4, 4), 255, np.uint8)), "a") for _ in range(3)]
    black = read_mask(encoded(np.zeros((4, 4), np.uint8)), "b")
    certain = frozenset((0, 1))
    assert grey_meaning(spec(0, 1), {}, certain, masks) == "ids"
    assert grey_meaning(spec(0, 1), {}, certain, [*masks, black]) == "binary"


def test_smoothed_edges_are_refused() -> None:
    smooth = cv2.GaussianBlur(WHITE_ON_BLACK, (5, 5), 0)
    for read in (MaskReader(spec(0, 1), (), "binary"), reader(BLACK_WHITE, (0, 1), "colors")):
        for image in (Image.fromarray(smooth), Image.fromarray(smooth).convert("RGB")):
            with raises_user_error("MSA-PACK-104", mentions="smoothed"):
                read(encoded(image), "a")


def test_a_mask_of_ids_among_binary_ones_is_refused() -> None:
    with raises_user_error("MSA-PACK-104", mentions="[1]"):
        MaskReader(spec(0, 1), (), "binary")(encoded(CELL.astype(np.uint8)), "a")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_masks_are_refused(kind: str) -> None:
    with raises_user_error("MSA-PACK-101", mentions="PNG"):
        TWO(encoded(WHITE_ON_BLACK, kind), "a")
    file = io.BytesIO()
    tifffile.imwrite(file, WHITE_ON_BLACK, compression="jpeg")
    with raises_user_error("MSA-PACK-101"):
        TWO(file.getvalue(), "a")


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded(IDS.astype(np.uint16)),
        encoded(IDS.astype(np.uint16), "TIFF"),
        encoded(IDS.astype(np.uint16) * 257),
        tiff(IDS),
        tiff(IDS.astype(np.int32)),
        tiff(IDS.astype(np.float32)),
        tiff(IDS.astype(np.int64)),
        tiff(IDS.astype(np.float64), compression="deflate"),
        tiff(IDS, compression="lzw"),
        tiff(IDS, tile=(16, 16), compression="deflate"),
        tiff(IDS.astype(">u2"), byteorder=">"),
        encoded(IDS, "BMP"),
        encoded(IDS, "GIF"),
        encoded(np.dstack([IDS] * 3)),
        encoded(Image.fromarray(np.dstack([IDS] * 3)), "TIFF"),
        encoded(Image.fromarray(IDS).convert("LA")),
    ],
    ids=[
        "PNG16",
        "TIFF16",
        "times 257",
        "TIFF",
        "int32",
        "float",
        "int64",
        "float64",
        "LZW",
        "tiles",
        "big-endian",
        "BMP",
        "GIF",
        "RGB",
        "RGB TIFF",
        "LA",
    ],
)
def test_ids_in_unusual_files(data: bytes) -> None:
    assert np.array_equal(THREE(data, "a"), IDS)


def test_16_bits_are_said_where_they_are_divided() -> None:
    THREE(encoded(IDS.astype(np.uint16) * 257), "a.png")
    assert take_notes() == {SCALED: ("a.png", 1)}


@pytest.mark.parametrize(
    "data",
    [
        encoded(IDS.astype(np.uint16) * 1000),
        encoded(np.full((40, 60), 3000, np.uint16)),
        tiff(IDS / np.float32(3)),
        tiff(np.stack([IDS] * 5)),
        tiff(IDS.astype(np.int64) * 1000),
        tiff(WHITE_ON_BLACK > 0),  # NumPy's true is 1 in the file, and shown as black
    ],
)
def test_values_that_are_no_ids_are_refused(data: bytes) -> None:
    with raises_user_error("MSA-PACK-102"):
        THREE(data, "a")


def test_a_mask_is_turned_as_it_is_shown() -> None:
    turned = np.rot90(IDS)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(THREE(encoded(turned.copy(), kind, exif=exif(6)), "a"), IDS)


def test_alpha_of_colored_masks() -> None:
    shown = np.array(COLORS, np.uint8)[IDS]
    background = np.dstack([shown, np.where(IDS == 0, 0, 255).astype(np.uint8)])
    assert np.array_equal(THREE(encoded(background), "a"), IDS)
    assert take_notes() == {TRANSPARENT: ("a", 1)}
    shape_in_alpha = np.dstack([np.full((40, 60, 3), 255, np.uint8), WHITE_ON_BLACK])
    with raises_user_error("MSA-PACK-105"):
        reader(BLACK_WHITE, (0, 1))(encoded(shape_in_alpha), "a")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_damaged_masks(kind: str) -> None:
    whole = encoded(palette_mask(IDS, [*COLORS]), kind)
    for data in (whole[: len(whole) - 20], whole[: len(whole) // 2], b""):
        with raises_user_error("MSA-DATA-017", mentions="'a.x'"):
            read_mask(data, "a.x")


def test_black_and_white_in_a_palette_of_the_wrong_order_is_refused_without_colors() -> None:
    inverted = palette_mask(CELL.astype(np.uint8), [(255, 255, 255), (0, 0, 0)])
    with raises_user_error("MSA-PACK-103"):
        TWO(encoded(inverted), "a")


def packed(tmp_path: Path, shard: Any, classes: str, **masks: bytes) -> dict[str, np.ndarray]:
    put(tmp_path / "classes.yaml", classes.encode())
    for name, data in masks.items():
        put(tmp_path / f"src/images/train/{name}.png", encoded(noise()))
        put(
            tmp_path
            / f"src/labels/train/{name}.{'tif' if data[:2] == b'II' else 'bmp' if data[:2] == b'BM' else 'png'}",
            data,
        )
    words = ("folder", "--source", tmp_path / "src", "--classes", tmp_path / "classes.yaml", "--splits", "train")
    assert shard(*words, "--out", tmp_path / "out", "--workers", 2) == 0
    return packed_labels(tmp_path / "out", "train")


def test_a_folder_of_palettes_in_different_orders(
    tmp_path: Path, shard: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    names = enumerate(("bg", "red", "green"))
    classes = f"classes: [{', '.join(f'{{id: {k}, name: {name}, color: {[*COLORS[k]]}}}' for k, name in names)}]"
    found = packed(
        tmp_path,
        shard,
        classes,
        a=encoded(reordered((0, 1, 2))),
        b=encoded(reordered((2, 0, 1))),
        c=encoded(reordered((1, 0, 2)), "BMP"),
    )
    assert all(np.array_equal(label, IDS) for label in found.values()) and len(found) == 3
    assert capfd.readouterr().err.count(COLORS_DECIDE) == 1


def test_a_folder_of_palettes_in_different_orders_without_colors_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "classes.yaml", b"classes: [{id: 0, name: a}, {id: 1, name: b}, {id: 2, name: c}]")
    words = ["folder", "--source", tmp_path / "src", "--classes", tmp_path / "classes.yaml"]
    for name, data in {"a": reordered((0, 1, 2)), "b": reordered((2, 0, 1))}.items():
        put(tmp_path / f"src/images/train/{name}.png", encoded(noise()))
        put(tmp_path / f"src/labels/train/{name}.png", encoded(data))
    stderr = refuse(words, tmp_path / "out", capfd)
    assert error_codes(stderr) == ["MSA-PACK-701"] and "a.png" in stderr and "b.png" in stderr
    put(
        tmp_path / "src/labels/train/b.png", encoded(palette_mask(IDS, [(3, 1, 2), COLORS[1], COLORS[2]]))
    )  # other shades of one class
    assert main([*map(str, words), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0


def test_a_folder_of_0_and_255(tmp_path: Path, shard: Any, capfd: pytest.CaptureFixture[str]) -> None:
    empty = np.zeros((40, 60), np.uint8)
    classes = "classes: [{id: 0, name: bg}, {id: 1, name: cell}]"
    found = packed(tmp_path, shard, classes, a=encoded(empty), b=encoded(WHITE_ON_BLACK), c=encoded(WHITE_ON_BLACK))
    assert [int(label.sum()) for label in found.values()] == [0, CELL.sum(), CELL.sum()]
    assert capfd.readouterr().err.count(BINARY) == 1


@pytest.mark.parametrize(
    ("classes", "foreground"),
    [
        ("classes: [{id: 0, name: bg}, {id: 255, name: cell}]", 1),
        ("classes: [{id: 255, name: cell}, {id: 0, name: bg}]", 0),
        ("classes: [{id: 0, name: bg}, {id: 1, name: cell}]\nignore: [255]", 255),
        ("classes: [{id: 255, name: cell}]\nignore: [0]", 0),
    ],
)
def test_255_is_what_the_classes_file_says(classes: str, foreground: int, tmp_path: Path, shard: Any) -> None:
    label = packed(tmp_path, shard, classes, a=encoded(WHITE_ON_BLACK))["a"]
    assert set(np.unique(label[CELL])) == {foreground} and foreground not in np.unique(label[~CELL])


def test_an_ignored_color_beside_the_id_255(tmp_path: Path, shard: Any) -> None:
    classes = "classes: [{id: 0, name: bg, color: [0, 0, 0]}, {id: 255, name: red, color: [255, 0, 0]}]\nignore: [[0, 255, 0]]"
    label = packed(tmp_path, shard, classes, a=encoded(np.array(COLORS, np.uint8)[IDS]))["a"]
    assert np.array_equal(label, np.where(IDS == 2, 255, IDS))


def test_several_ids_and_colors_of_a_class(tmp_path: Path, shard: Any) -> None:
    classes = (
        "classes: [{id: 0, name: bg, color: [0, 0, 0]}, {id: [1, 2], name: both, color: [[255, 0, 0], [0, 255, 0]]}]"
    )
    shown = np.array(COLORS, np.uint8)[IDS]
    found = packed(
        tmp_path, shard, classes, a=encoded(IDS), b=encoded(shown), c=encoded(Image.fromarray(shown).quantize(16))
    )
    assert all(np.array_equal(label, IDS > 0) for label in found.values()) and len(found) == 3


def test_a_png_goes_before_what_lies_beside_it(tmp_path: Path, shard: Any) -> None:
    for name in ("a.jpg", "a.tif"):
        put(tmp_path / "src/labels/train" / name, b"a picture for people")
    label = packed(tmp_path, shard, "classes: [{id: 0, name: a}, {id: 1, name: b}, {id: 2, name: c}]", a=encoded(IDS))[
        "a"
    ]
    assert np.array_equal(label, IDS)


def test_a_jpeg_that_is_the_only_mask_is_refused(tmp_path: Path, shard: Any, capfd: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "classes.yaml", b"classes: [{id: 0, name: a}, {id: 1, name: b}]")
    put(tmp_path / "src/images/train/a.png", encoded(noise()))
    put(tmp_path / "src/labels/train/a.jpg", encoded(WHITE_ON_BLACK, "JPEG"))
    with pytest.raises(SystemExit):
        shard("folder", "--source", tmp_path / "src", "--classes", tmp_path / "classes.yaml", "--out", tmp_path / "out")
    assert "MSA-PACK-101" in capfd.readouterr().err
