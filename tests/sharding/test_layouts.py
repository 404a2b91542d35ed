"""Folders, names and lists as annotation tools, cameras and people leave them: packed as meant, and nothing left out unsaid."""

import os
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest, safe_key
from msanet.datasets.voc import voc_color
from sharding.readers import READERS, open_source
from support.errors import error_codes, raises_user_error
from support.packing import packed_labels, packed_members, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
TWO = "classes: [{id: 0, name: bg}, {id: 1, name: thing}]\n"
RANDOM = np.random.default_rng(0)
MASK = (np.indices((12, 16)).sum(0) % 2).astype(np.uint8)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def mask(path: Path, pixels: np.ndarray = MASK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class Source:
    """A folder with the classes file next to it."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root / "src", root / "out"
        self.root.mkdir()
        (root / "classes.yaml").write_text(TWO)
        self.words = ["folder", "--source", self.root, "--classes", root / "classes.yaml"]

    def add(self, *pairs: tuple[str, str]) -> None:
        for image, label in pairs:
            photo(self.root / image)
            mask(self.root / label)

    def write(self, name: str, content: str | bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def splits(self) -> dict[str, list[str]]:
        return {split: [*packed_labels(self.out, split)] for split in load_manifest(self.out).splits}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


LAYOUTS = {
    "kind first": ("images/{}/{}.png", "labels/{}/{}.png"),
    "split first": ("{}/images/{}.jpg", "{}/labels/{}.png"),
    "supervisely": ("{}/img/{}.jpg", "{}/masks_machine/{}.jpg.png"),
    "capitals": ("{}/Images/{}.JPG", "{}/Masks/{}.PNG"),
    "roboflow": ("{}/{}.jpg", "{}/{}_mask.png"),
    "annotations": ("images/{}/{}.jpg", "annotations/{}/{}.png"),
    "suffix": ("images/{}/{}.jpg", "masks/{}/{}_mask.png"),
    "suffix of labels": ("images/{}/{}.jpg", "labels/{}/{}-label.png"),
    "two suffixes": ("images/{}/{}_sat.jpg", "masks/{}/{}_mask.png"),
}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "testing"), ("training", "validation")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_names_of_splits(layout: str, names: tuple[str, ...], source: Source, shard: Shard) -> None:
    image, label = LAYOUTS[layout]
    for split in names:
        source.add(*((image.format(split, f"{split}{n}"), label.format(split, f"{split}{n}")) for n in range(2)))
    assert shard(*source.words, "--out", source.out) == 0
    expected = dict(zip(("train", "val", "test"), names, strict=False))
    assert source.splits() == {split: [f"{name}0", f"{name}1"] for split, name in expected.items()}
    assert all(np.array_equal(found, MASK) for found in packed_labels(source.out, "train").values())


def test_a_split_is_asked_for_by_any_of_its_names(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("images/valid/a.png", "labels/valid/a.png"), ("images/train/b.png", "labels/train/b.png"))
    assert shard(*source.words, "--out", source.out, "--splits", "validation") == 0
    said = capfd.readouterr().err
    assert source.splits() == {"validation": ["a"]} and "split 'validation' is read from 'valid'" in said
    assert "'images/train' (1 file)" in said and "'labels/train' (1 file)" in said
    source.add(("images/val/c.png", "labels/val/c.png"))
    assert "did you mean 'valid'" in refuse([*source.words, "--splits", "valida"], source.out.with_name("x"), capfd)


def test_images_and_masks_without_splits(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("images/a.png", "masks/a.png"))
    assert shard(*source.words, "--out", source.out) == 0
    assert source.splits() == {"train": ["a"]} and "no folders of splits" in capfd.readouterr().err
    assert shard(*source.words, "--out", source.out.with_name("val"), "--splits", "val") == 0
    refuse([*source.words, "--splits", "val", "test"], source.out.with_name("x"), capfd)


def test_what_is_not_packed_is_named_with_its_count(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"), ("images/val/v.png", "labels/val/v.png"))
    source.add(("images/valid/w.png", "labels/valid/w.png"), ("images/extra/deep/b.png", "labels/extra/deep/b.png"))
    source.add(("more/c.png", "labels/train/without.png"))
    source.write("images/train/d.heic", "x")
    assert shard(*source.words, "--out", source.out) == 0
    said = capfd.readouterr().err
    for part in (
        "'images/extra' (1 file)",
        "'labels/extra' (1 file)",
        "'more' (1 file)",
        "'images/valid' (1 file)",
        "in 'images/train' 1 file (.heic 1)",
        "1 label map has no image in split 'train' and is ignored: without",
    ):
        assert part in said, said
    assert source.splits() == {"train": ["a"], "val": ["v"]}


def test_images_without_masks_are_counted_and_named(source: Source, capfd: Capture) -> None:
    source.add(*((f"images/train/{n}.png", f"labels/train/{n}.png") for n in range(4)))
    for n in (1, 3):
        (source.root / f"labels/train/{n}.png").rename(source.root / f"labels/train/x{n}.png")
    said = refuse(source.words, source.out, capfd)
    assert "2 of 4 images in split 'train' have none: 1, 3; label maps without an image: x1, x3" in said


def test_polygons_and_boxes_are_no_masks(source: Source, capfd: Capture) -> None:
    photo(source.root / "train/images/a.png")
    source.write("train/labels/a.txt", "0 0.5 0.5 0.2 0.2")
    said = refuse(source.words, source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-206"] and "1 file (.txt 1)" in said


NAMES = {
    "of other alphabets": ("街道一", "街道二", "a b", "a_b", "n" * 96),
    "of two forms": ("e\u0301te\u0301", "\u00e9t\u00e9", "\u212b"),
    "with dots and signs": ("a.b", "a-b", "a_b", "a,b", "a+b", "a~b", "a%20b", "(a)b"),
    "long": ("n" * 80, "n" * 81, "n" * 90 + "1", "n" * 90 + "2", "道" * 60),
    "with characters that are not seen": (
        "a\u200bb",
        "ab",
        "\ufeffab",
        "a\u00adb",
        "\u200f\u05ea\u05de\u05d5\u05e0\u05d4",
    ),
    "of roboflow": tuple(f"IMG_{n}_jpg.rf.{n:032x}{'0' * 60}" for n in range(2)),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_become_keys_of_their_own(kind: str, source: Source, shard: Shard) -> None:
    source.add(*((f"images/train/{name}.png", f"labels/train/{name}.png") for name in NAMES[kind]))
    assert shard(*source.words, "--out", source.out) == 0
    keys = [*packed_members(source.out, "train")]
    assert len({*keys}) == len(NAMES[kind]) and {*keys} == {*map(safe_key, NAMES[kind])}
    assert {*packed_labels(source.out, "train")} == {*NAMES[kind]}
    assert shard("verify", source.out) == 0


def test_stock_webdataset_reads_keys_of_other_alphabets(source: Source, shard: Shard) -> None:
    import webdataset

    source.add(*((f"images/train/{name}.png", f"labels/train/{name}.png") for name in ("街道 一", "Straße")))
    assert shard(*source.words, "--out", source.out) == 0
    found = webdataset.WebDataset(str(source.out / "train-000000.tar"), shardshuffle=False)
    assert {sample["__key__"] for sample in found} == {safe_key("街道 一"), "Straße"}


def test_keys_that_differ_in_case_only_are_said(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("images/train/A.png", "labels/train/A.png"), ("images/train/a.png", "labels/train/a.png"))
    assert shard(*source.words, "--out", source.out) == 0
    assert "differ in case only (A, a)" in capfd.readouterr().err and len(packed_members(source.out, "train")) == 2


def test_shards_with_the_keys_of_earlier_versions_are_sound(
    source: Source, shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msanet.data.manifest import earlier_key

    source.add(("images/train/a b.png", "labels/train/a b.png"))
    with monkeypatch.context() as patch:
        patch.setattr("sharding.readers.reader.safe_key", earlier_key)
        assert shard(*source.words, "--out", source.out) == 0
    assert [*packed_members(source.out, "train")] == ["a_b"] and shard("verify", source.out) == 0
    assert shard(*source.words, "--out", source.out) == 0  # nothing to do


def test_macos_takes_letters_apart_in_one_of_the_two_names(source: Source, shard: Shard) -> None:
    composed, apart = "\u00e9t\u00e9", unicodedata.normalize("NFD", "\u00e9t\u00e9")
    source.add((f"images/train/{apart}.png", f"labels/train/{composed}.png"))
    assert shard(*source.words, "--out", source.out) == 0 and source.splits() == {"train": [apart]}


def test_macos_takes_letters_apart_before_a_suffix(source: Source, shard: Shard) -> None:
    apart = unicodedata.normalize("NFD", "\u00e9")
    source.add(("images/\u00e9.png", f"masks/{apart}_mask.png"), (f"images/{apart}a.png", "masks/\u00e9a_mask.png"))
    assert shard(*source.words, "--out", source.out) == 0 and source.splits() == {"train": [f"{apart}a", "\u00e9"]}


def test_names_that_cannot_be_shown_are_refused_in_one_line(source: Source, capfd: Capture) -> None:
    for name in ("a\nb", "a\u202eb", os.fsdecode(b"stra\xdfe")):
        source.add((f"images/train/{name}.png", f"labels/train/{name}.png"))
    said = refuse(source.words, source.out, capfd)  # which takes each line for a message of its own
    assert error_codes(said) == ["MSA-PACK-009"] * 3 + ["MSA-PACK-201"] and said.count("rename it") == 3


def test_archives_that_have_to_be_unpacked(source: Source, capfd: Capture) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"))
    locked = archive(source.root, source.root.with_suffix(".zip"), str)
    data = bytearray(locked.read_bytes())
    for place in (found.start() for found in re.finditer(rb"PK\x01\x02", data)):
        data[place + 8] |= 1  # encrypted
    for place in (found.start() for found in re.finditer(rb"PK\x03\x04", data)):
        data[place + 6] |= 1
    locked.write_bytes(data)
    tar = source.root.with_name("src.tar.gz")
    tar.write_bytes(b"\x1f\x8b")
    for path, code, advice in (
        (locked, "MSA-PACK-008", "with its password"),
        (tar, "MSA-PACK-002", "unpack other archives"),
    ):
        source.words[2] = path
        said = refuse(source.words, source.out, capfd)
        assert error_codes(said)[0] == code and advice in said


JUNK = ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", "@eaDir/a.png")


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_operating_systems_are_no_images(zipped: bool, source: Source, shard: Shard, fake: object) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"))
    for folder in ("", "images/", "images/train/", "labels/train/"):
        for name in JUNK:
            source.write(folder + name, b"\x00\x05\x16\x07" + bytes(80))
    if zipped:
        source.words[2] = archive(source.root, source.root.with_suffix(".zip"), lambda name: f"set/{name}")
    assert shard(*source.words, "--out", source.out) == 0 and source.splits() == {"train": ["a"]}


class Undeclared(zipfile.ZipInfo):
    """Names in UTF-8 without the flag that says so, as macOS writes them."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode(), self.flag_bits


def archive(
    folder: Path, target: Path, rename: Callable[[str], str], kind: type[zipfile.ZipInfo] = zipfile.ZipInfo
) -> Path:
    with zipfile.ZipFile(target, "w") as out:
        for path in sorted(folder.rglob("*")):
            info = kind()
            info.filename = rename(path.relative_to(folder).as_posix()) + "/" * path.is_dir()
            out.writestr(info, b"" if path.is_dir() else path.read_bytes())
    return target


@pytest.mark.parametrize("kind", [zipfile.ZipInfo, Undeclared])
@pytest.mark.parametrize("form", ["{}", "export/{}", "export\\{}", "a\\b\\{}"])
def test_zips_of_other_systems(form: str, kind: type[zipfile.ZipInfo], source: Source, shard: Shard) -> None:
    source.add(("images/train/街道.png", "labels/train/街道.png"), ("images/val/b.png", "labels/val/b.png"))
    slash = "\\" if "\\" in form else "/"
    path = archive(
        source.root, source.root.with_suffix(".zip"), lambda name: form.format(name).replace("/", slash), kind
    )
    source.words[2] = path
    assert shard(*source.words, "--out", source.out) == 0
    assert source.splits() == {"train": ["街道"], "val": ["b"]}


def test_a_name_in_two_zips_is_said(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"))
    zips = [archive(source.root, source.root.with_name(f"{n}.zip"), str) for n in range(2)]
    assert shard("folder", "--source", *zips, *source.words[3:], "--out", source.out) == 0
    assert "2 names are in the zip files twice" in capfd.readouterr().err


COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
IDS = (np.indices((12, 16)).sum(0) % 3).astype(np.uint8)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:255,0,0::\ngreen:0,255,0::\n"


def palette_mask(path: Path) -> None:
    image = Image.fromarray(IDS)
    image.putpalette([value for index in range(256) for value in voc_color(index)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def cvat(source: Source) -> None:
    source.write("labelmap.txt", LABELMAP)
    source.write("ImageSets/Segmentation/default.txt", "a\n")
    photo(source.root / "JPEGImages/a.png")
    mask(source.root / "SegmentationClass/a.png", COLORS[IDS])


def labelme2voc(source: Source) -> None:
    source.write("class_names.txt", "_background_\r\nred\r\ngreen\r\n")
    photo(source.root / "JPEGImages/a.jpg")
    palette_mask(source.root / "SegmentationClassPNG/a.png")
    source.write("SegmentationClass/a.npy", "x")
    photo(source.root / "SegmentationClassVisualization/a.jpg")


def roboflow(source: Source) -> None:
    source.write("train/_classes.csv", "Pixel Value, Class\n0, background\n1, red\n2, green\n")
    photo(source.root / "train/a.jpg")
    mask(source.root / "train/a_mask.png", IDS)


@pytest.mark.parametrize("tool", [cvat, labelme2voc, roboflow])
def test_classes_of_annotation_tools(
    tool: Callable[[Source], None], source: Source, shard: Shard, capfd: Capture
) -> None:
    tool(source)
    assert shard("folder", "--source", source.root, "--out", source.out) == 0
    assert [name.strip("_") for name in load_manifest(source.out).classes] == ["background", "red", "green"]
    (split,) = load_manifest(source.out).splits
    assert np.array_equal(packed_labels(source.out, split)["a"], IDS)
    assert "classes are those of" in capfd.readouterr().err


@pytest.mark.parametrize("extra", [(), ("trainval",)])
def test_voc_is_not_told_that_class_1_is_an_aeroplane(extra: Iterable[str], source: Source, capfd: Capture) -> None:
    cvat(source)
    for name in ("train", *extra):
        source.write(f"ImageSets/Segmentation/{name}.txt", "a\n")
    said = refuse(["voc", "--source", source.root], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-208"] and "background, red, green" in said
    assert f"msanet pack folder --source {source.root}" in said
    (source.root.parent / "other").mkdir()
    labelme = Source(source.root.parent / "other")
    labelme2voc(labelme)
    said = refuse(["voc", "--source", labelme.root], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-003"] and f"msanet pack folder --source {labelme.root}" in said


@pytest.mark.parametrize("colored", [False, True])
def test_masks_in_colors_that_voc_does_not_have(colored: bool, source: Source, capfd: Capture) -> None:
    cvat(source)
    (source.root / "labelmap.txt").unlink()
    (source.root / "ImageSets/Segmentation/default.txt").rename(source.root / "ImageSets/Segmentation/train.txt")
    if not colored:
        Image.fromarray(COLORS[IDS]).quantize(8).save(source.root / "SegmentationClass/a.png")
    said = refuse(["voc", "--source", source.root], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-208"] and "(0, 255, 0), (255, 0, 0)" in said
    assert f"msanet pack folder --source {source.root}" in said


def test_links_to_nothing_are_bad_samples(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(*((f"images/train/{name}.png", f"labels/train/{name}.png") for name in "abc"))
    (source.root / "images/train/d.png").symlink_to("nowhere")
    (source.root / "labels/train/d.png").symlink_to("a.png")
    said = refuse(source.words, source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-005"] and "d.png" in said
    assert shard(*source.words, "--out", source.out, "--skip-bad") == 0 and source.splits() == {
        "train": ["a", "b", "c"]
    }


@pytest.mark.parametrize(("command", "folder"), [("folder", "images/train"), ("camvid", "train")])
def test_a_split_without_images_says_what_it_has(command: str, folder: str, source: Source, capfd: Capture) -> None:
    source.add((f"{folder}/deep/a.jpg", "labels/train/a.png"), ("x.png", "trainannot/a.png"))
    source.write(f"{folder}/a.heic", "x")
    words = source.words if command == "folder" else ["camvid", "--source", source.root]
    said = refuse([*words, "--splits", "train"], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-017"] and "the folder deep and 1 file (.heic 1)" in said


def test_a_labelmap_of_voc_is_voc(source: Source, shard: Shard) -> None:
    rows = [("background", (0, 0, 0)), ("cat", voc_color(8)), ("aeroplane", voc_color(1))]
    source.write("labelmap.txt", "\n".join(f"{name}:{','.join(map(str, color))}::" for name, color in rows))
    source.write("ImageSets/Segmentation/train.txt", "a\n")
    photo(source.root / "JPEGImages/a.jpg")
    palette_mask(source.root / "SegmentationClass/a.png")
    assert shard("voc", "--source", source.root, "--out", source.out) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelmap.txt", "background\nred\n"),
        ("labelmap.txt", "a:0,0,999::\n"),
        ("_classes.csv", "Pixel Value, Class\n0, a\nb, 1\n"),
        ("class_names.txt", "a\nb" + "x" * 200),
        ("class_names.txt", "a\nb\na\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\n"),
    ],
)
def test_class_files_that_are_none(name: str, content: str, source: Source, capfd: Capture) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"))
    source.write(name, content)
    assert error_codes(refuse(["folder", "--source", source.root], source.out, capfd)) == ["MSA-PACK-205"]


def test_no_classes_at_all(source: Source, capfd: Capture) -> None:
    source.add(("images/train/a.png", "labels/train/a.png"))
    said = refuse(["folder", "--source", source.root], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-207"] and "labelmap.txt" in said


def test_names_of_classes_are_text(source: Source, shard: Shard) -> None:
    names = ["no", "off", "yes", "1.0", "null", "2024-01-01", "0x10", "~"]
    rows = "".join(f"- {{id: {n}, name: {name}}}\n" for n, name in enumerate(names))
    (source.root.parent / "classes.yaml").write_text(f"name: 2024\nclasses:\n{rows}")
    source.add(("images/train/a.png", "labels/train/a.png"))
    assert shard(*source.words, "--out", source.out) == 0
    assert load_manifest(source.out).classes == tuple(names) and load_manifest(source.out).name == "2024"


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_camvid_with_one_split(split: str, source: Source, shard: Shard, capfd: Capture) -> None:
    source.add((f"{split}/a.png", f"{split}annot/a.png"))
    assert shard("camvid", "--source", source.root, "--splits", split, "--out", source.out) == 0
    assert source.splits() == {split: ["a"]}
    assert shard("camvid", "--source", source.root, "--out", source.out.with_name("usual")) == 0
    other = "val" if split == "train" else "train"
    said = refuse(["camvid", "--source", source.root, "--splits", other], source.out.with_name("x"), capfd)
    assert error_codes(said) == ["MSA-PACK-021"]


LISTS: dict[str, str | bytes] = {
    "bom": "\ufeff2007_000001\r\n2007_000002\r\n",
    "utf16": "2007_000001\r\n2007_000002\r\n".encode("utf-16"),
    "columns": "/JPEGImages/2007_000001.jpg /SegmentationClass/2007_000001.png\n"
    "/JPEGImages/2007_000002.jpg /SegmentationClass/2007_000002.png\n",
    "windows": "JPEGImages\\2007_000001.jpg\tSegmentationClass\\2007_000001.png\r\n"
    "VOC2012\\JPEGImages\\2007_000002.jpg\tVOC2012\\SegmentationClass\\2007_000002.png\r\n",
    "comma": "./JPEGImages/2007_000001.jpg,./SegmentationClass/2007_000001.png\n"
    "/data/VOC2012/JPEGImages/2007_000002.jpg,/data/VOC2012/SegmentationClass/2007_000002.png",
    "endings": "2007_000001.jpg\n\n2007_000002.png\n",
    "paths": "JPEGImages/2007_000001.JPG\nJPEGImages/2007_000002.png\n",
    "flags": "2007_000001  1\n2007_000002  0\n2007_000003 -1\n",
    "repeated": "2007_000001\n2007_000002\n2007_000001\n",
    "classic": "2007_000001\r2007_000002\r",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str, source: Source, shard: Shard, capfd: Capture) -> None:
    source.write(f"ImageSets/Segmentation/{name}.txt", LISTS[name])
    source.add(
        ("JPEGImages/2007_000001.JPG", "SegmentationClass/2007_000001.png"),
        ("JPEGImages/2007_000002.png", "SegmentationClass/2007_000002.png"),
        ("JPEGImages/2007_000003.jpg", "SegmentationClass/2007_000003.png"),
    )
    assert shard("voc", "--source", source.root, "--splits", name, "--out", source.out) == 0
    assert source.splits() == {name: ["2007_000001", "2007_000002"]}
    said = capfd.readouterr().err
    assert ("has 1 names with the flag -1" in said) == (name == "flags")
    assert ("(1 of 3 lines)" in said) == (name == "repeated")


def test_lists_with_spaces_and_of_nonsense(source: Source, shard: Shard, capfd: Capture) -> None:
    source.add(("JPEGImages/a b.jpg", "SegmentationClass/a b.png"))
    source.write("ImageSets/Segmentation/train.txt", "a b\n")
    source.write("ImageSets/Segmentation/binary.txt", bytes(range(256)))
    source.write("ImageSets/Segmentation/gone.txt", "JPEGImages/a.jpg SegmentationClass/gone.png\n")
    source.write("ImageSets/Segmentation/out.txt", "../a.jpg ../../etc/gone.png\n")
    assert shard("voc", "--source", source.root, "--out", source.out) == 0 and source.splits() == {"train": ["a b"]}
    for split, code in (("binary", "204"), ("gone", "041"), ("out", "041")):
        said = refuse(["voc", "--source", source.root, "--splits", split], source.out.with_name("x"), capfd)
        assert error_codes(said) == [f"MSA-PACK-{code}"]


def test_two_images_of_one_name_in_voc(source: Source, capfd: Capture) -> None:
    source.add(("JPEGImages/a.jpg", "SegmentationClass/a.png"), ("JPEGImages/a.png", "SegmentationClass/b.png"))
    source.write("ImageSets/Segmentation/train.txt", "a\n")
    said = refuse(["voc", "--source", source.root], source.out, capfd)
    assert error_codes(said) == ["MSA-PACK-018"] and "a.jpg, a.png" in said


def test_a_foreign_folder_is_described(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    for reader in READERS.values():
        with raises_user_error("MSA-PACK-003", setting="--source", mentions="the folder pictures and 1 file (.jpg 1)"):
            open_source(reader, [tmp_path])
