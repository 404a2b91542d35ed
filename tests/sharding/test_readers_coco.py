"""MS-COCO: instances become maps of classes; checked against masks made by pycocotools itself."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as CocoApi

from msanet.data.manifest import load_manifest
from msanet.datasets import COCO
from sharding.readers.coco import subset_of
from sharding.readers.coco_mask import NO_PIXEL
from sharding.readers.rasterize import run_lengths
from support.errors import error_codes
from support.packing import packed_labels, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
HEIGHT, WIDTH = 48, 64


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def runs_of(mask_HW: np.ndarray) -> list[int]:
    """Uncompressed run lengths, column by column, starting with zeros."""
    flat = mask_HW.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return counts if flat[0] == 0 else [0, *counts]


def instance(number: int, image: int, category: int, outline: Any, crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd, "segmentation": outline}


CROWD = np.zeros((HEIGHT, WIDTH), np.uint8)
CROWD[:, 40:] = 1
OBJECTS = [
    instance(7, 9, 67, [rectangle(0, 0, 30, 30)]),  # a dining table,
    instance(8, 9, 48, [rectangle(5, 5, 10, 10), rectangle(20, 20, 25, 25)]),  # a fork on it in two pieces,
    instance(3, 9, 90, [rectangle(2, 2, 12, 12)]),  # and a toothbrush between the two
    instance(4, 9, 1, {"size": [HEIGHT, WIDTH], "counts": runs_of(CROWD)}, crowd=1),
    instance(5, 9, 3, [rectangle(50, 0, 60, 40)]),  # a car in the crowd
    instance(
        6, 25, 17, {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(CROWD))["counts"].decode()}
    ),
]


class Coco:
    """A small source: images 9, 25 and 30 (without objects) in train, image 42 in val."""

    def __init__(self, root: Path, fake: Any) -> None:
        self.root = root
        for split, ids in (("train2014", (9, 25, 30)), ("val2014", (42,))):
            for number in ids:
                fake.image(root / split / self.file_name(split, number))
        self.train = self.content("train2014", (9, 25, 30), OBJECTS)
        self.write("train2014", self.train)
        self.write("val2014", self.content("val2014", (42,), [instance(1, 42, 1, [rectangle(1, 1, 9, 9)])]))

    @staticmethod
    def file_name(split: str, number: int) -> str:
        return f"COCO_{split}_{number:012d}.jpg"

    def content(self, split: str, ids: tuple[int, ...], objects: list[dict[str, Any]]) -> dict[str, Any]:
        images = [
            {"id": i, "file_name": self.file_name(split, i), "height": HEIGHT, "width": WIDTH} for i in reversed(ids)
        ]
        names = {1: "person", 90: "toothbrush"}
        return {
            "info": {},
            "images": images,
            "annotations": [dict(found) for found in objects],
            "categories": [{"id": id, "name": name} for id, name in names.items()],
        }

    def write(self, split: str, content: object) -> None:
        path = self.root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def coco(fake: Any, tmp_path: Path) -> Coco:
    (tmp_path / "coco").mkdir()
    return Coco(tmp_path / "coco", fake)


def drawn(mask: list[float]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([mask], HEIGHT, WIDTH))).astype(bool)


@pytest.mark.parametrize("crowd", ["class", "ignore"])
def test_smaller_objects_lie_on_top_and_crowds_below(crowd: str, coco: Coco, shard: Shard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert shard("coco", "--source", coco.root, "--out", out, "--crowd", crowd) == 0
    labels = packed_labels(out, "train")
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[drawn(rectangle(0, 0, 30, 30))] = COCO.classes.index("dining table")
    expected[drawn(rectangle(2, 2, 12, 12))] = COCO.classes.index("toothbrush")
    for piece in (rectangle(5, 5, 10, 10), rectangle(20, 20, 25, 25)):
        expected[drawn(piece)] = COCO.classes.index("fork")
    expected[:, 40:] = 255 if crowd == "ignore" else COCO.classes.index("person")
    expected[drawn(rectangle(50, 0, 60, 40))] = COCO.classes.index("car")
    assert np.array_equal(labels["COCO_train2014_000000000009"], expected)
    assert np.array_equal(labels["COCO_train2014_000000000025"], CROWD * COCO.classes.index("cat"))
    assert not labels["COCO_train2014_000000000030"].any()  # kept, all background
    assert list(labels) == sorted(labels) and list(packed_labels(out, "val")) == ["COCO_val2014_000000000042"]
    assert load_manifest(out).ids[:3] == (0, 1, 2) and load_manifest(out).ids[-1] == 90


def test_compressed_runs_are_pycocotools_own() -> None:
    random = np.random.default_rng(0)
    for scale in (1, 7, 90):  # short runs, and such of several letters
        speckled = (random.random((13, 17)) < 0.3).astype(np.uint8)
        mask = np.asfortranarray(np.kron(speckled, np.ones((scale, scale), np.uint8)))
        assert run_lengths(coco_mask.encode(mask)["counts"].decode()) == runs_of(mask)


def test_the_order_of_the_file_and_the_workers_change_nothing(coco: Coco, shard: Shard, tmp_path: Path) -> None:
    words = ("coco", "--source", coco.root, "--shard-bytes", "1")
    assert shard(*words, "--out", tmp_path / "one") == 0
    for name in ("images", "annotations"):
        coco.train[name].reverse()
    coco.write("train2014", coco.train)
    assert shard(*words, "--out", tmp_path / "two", "--workers", 2) == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len([name for name in names if name.endswith(".tar")]) == 4
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_other_annotations_are_another_dataset(coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    words = ("coco", "--source", coco.root, "--out", tmp_path / "out")
    assert shard(*words) == 0
    coco.write("train2014", json.dumps(coco.train, indent=1))  # the same, at another time and of another size
    assert shard(*words) == 0
    assert "nothing to do" in capfd.readouterr().out
    for change in (("--crowd", "ignore"), ("--subset", "train=2")):
        with pytest.raises(SystemExit):
            shard(*words, *change)
        assert "is not the dataset of this command" in capfd.readouterr().err
    coco.train["annotations"][0]["category_id"] = 2
    coco.write("train2014", coco.train)
    with pytest.raises(SystemExit):
        shard(*words)
    assert "is not the dataset of this command" in capfd.readouterr().err


def test_a_subset_is_the_same_everywhere(coco: Coco, shard: Shard, tmp_path: Path) -> None:
    ids = list(range(1000))
    chosen = subset_of(ids, 5, seed=0)
    assert sorted(chosen) == [87, 392, 404, 923, 942]  # fixed for ever: another machine has to choose them too
    assert subset_of(ids[::-1], 5, seed=0) == chosen != subset_of(ids, 5, seed=1)
    assert chosen < subset_of(ids, 50, seed=0)
    out = tmp_path / "out"
    assert shard("coco", "--source", coco.root, "--out", out, "--subset", "train=2", "val=1", "--seed", 3) == 0
    expected = sorted(f"COCO_train2014_{i:012d}" for i in subset_of([30, 9, 25], 2, seed=3))
    assert list(packed_labels(out, "train")) == expected
    assert len(packed_labels(out, "val")) == 1


def test_zips_and_images_in_a_folder(coco: Coco, fake: Any, shard: Shard, tmp_path: Path) -> None:
    zips = [fake.zip(coco.root / part, tmp_path / f"{part}.zip") for part in ("train2014", "val2014", "annotations")]
    assert shard("coco", "--source", *zips, "--out", tmp_path / "zips") == 0
    (coco.root / "images").mkdir()
    (coco.root / "train2014").rename(coco.root / "images" / "train2014")
    assert shard("coco", "--source", coco.root.parent, "--out", tmp_path / "out", "--splits", "train") == 0
    tars = [(tmp_path / out / "train-000000.tar").read_bytes() for out in ("zips", "out")]
    assert tars[0] == tars[1]


def test_two_years(coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    coco.write("train2017", coco.content("train2017", (), []))
    assert "choose with --year" in refuse(["coco", "--source", coco.root], tmp_path / "out", capfd)
    sentence = refuse(["coco", "--source", coco.root, "--year", "2017"], tmp_path / "out", capfd)
    assert "split 'train' has no images" in sentence
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out", "--year", "2014") == 0


def outline(value: object) -> Callable[[Coco], None]:
    return lambda coco: coco.write("train2014", {**coco.train, "annotations": [instance(11, 9, 1, value)]})


def with_image(**change: object) -> Callable[[Coco], None]:
    def write(coco: Coco) -> None:
        coco.train["images"][-1].update(change)
        coco.write("train2014", coco.train)

    return write


def taller(coco: Coco) -> None:
    images = [{**image, "height": HEIGHT + 1} for image in coco.train["images"]]
    coco.write("train2014", {**coco.train, "annotations": [], "images": images})


DRAWN = ("instances_train2014.json (COCO_train2014_000000000009)': the outline of object 11 cannot be drawn",)
FAULTS: dict[str, tuple[Callable[[Coco], object], tuple[str, ...]]] = {
    "no JSON": (lambda coco: coco.write("train2014", "hello"), ("train2014.json' cannot be read", "download it again")),
    "half a JSON": (lambda coco: coco.write("train2014", json.dumps(coco.train)[:-90]), ("json' cannot be read",)),
    "deep JSON": (lambda coco: coco.write("train2014", "[" * 100_000), ("json' cannot be read",)),
    "a list": (lambda coco: coco.write("train2014", []), ("json' cannot be read",)),
    "no annotations": (
        lambda coco: coco.write("train2014", {**coco.train, "annotations": None}),
        ("json' cannot be read",),
    ),
    "captions": (
        lambda coco: coco.write("train2014", {**coco.train, "annotations": [{"image_id": 9, "id": 1, "caption": "x"}]}),
        ("json' cannot be read", "category_id"),
    ),
    "unknown category": (
        lambda coco: coco.write(
            "train2014", {**coco.train, "annotations": [instance(11, 9, 99, [rectangle(1, 1, 9, 9)])]}
        ),
        ("an object of category 99", "1 of 1 objects"),
    ),
    "another dataset": (
        lambda coco: coco.write("train2014", {**coco.train, "categories": [{"id": 1, "name": "weed"}]}),
        ("an object of category 67", "1 is 'weed'"),
    ),
    "half a point": (outline([[3, 4, 5, 6, 7, 8, 9]]), (*DRAWN, "a polygon has 7 numbers")),
    "far away": (outline([[0, 0, 1e12, 0, 5, 5]]), (*DRAWN, "a corner at")),
    "not a number": (outline([[0, 0, float("nan"), 0, 5, 5]]), (*DRAWN, "a corner at nan")),
    "no outline at all": (outline([]), ("none of the 1 objects", "export the segmentation")),
    "words": (outline("circle"), DRAWN),
    "runs of another size": (outline({"size": [9, 9], "counts": [81]}), (*DRAWN, "[9, 9]")),
    "runs too short": (outline({"size": [HEIGHT, WIDTH], "counts": [5, 5]}), (*DRAWN, "do not fill the image")),
    "runs below zero": (
        outline({"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}),
        (*DRAWN, "do not fill"),
    ),
    "compressed runs too short": (outline({"size": [HEIGHT, WIDTH], "counts": "11"}), (*DRAWN, "do not fill")),
    "compressed runs of nonsense": (outline({"size": [HEIGHT, WIDTH], "counts": "\u00e9 x"}), (*DRAWN, "the letter")),
    "another size": (taller, ("is 64x49 but its image", "expected the same size")),
    "absurd size": (with_image(height=10**9, width=10**9), ("size of 1000000000x1000000000",)),
    "size in words": (with_image(height="high"), ("json' cannot be read",)),
    "no file": (with_image(file_name="gone.jpg"), ("names 'gone.jpg'", "1 of 3", "images/train2014/")),
    "out of the source": (with_image(file_name="../../etc/passwd.jpg"), ("names '../../etc/passwd.jpg'",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault: str, coco: Coco, tmp_path: Path, capfd: Capture) -> None:
    FAULTS[fault][0](coco)
    sentence = refuse(["coco", "--source", coco.root, "--splits", "train"], tmp_path / "out", capfd)
    assert all(words in sentence for words in FAULTS[fault][1]), sentence


def test_words_of_the_command(coco: Coco, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(*words: object) -> str:
        return refuse(["coco", "--source", coco.root, *words], tmp_path / "out", capfd)

    assert "expected SPLIT=N" in sentence("--subset", "10000")
    assert "expected SPLIT=N" in sentence("--subset", "train=0")
    assert "asks for 4 images" in sentence("--subset", "train=4")
    assert "--subset names split 'test'" in sentence("--subset", "test=4")
    assert "instances_train2017.json" in sentence("--year", "2017")
    shutil.rmtree(coco.root / "val2014")
    assert "which is not in val2014/" in sentence()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pycocotools.mask", None)
        assert "pip install pycocotools" in sentence()
    shutil.rmtree(coco.root / "annotations")
    assert "is not laid out as coco" in sentence()


def test_categories_are_cocos(real_data: Path) -> None:
    content = json.loads((real_data / "coco" / "annotations" / "instances_train2017.json").read_text())
    names = ["background", *(row["name"] for row in sorted(content["categories"], key=lambda row: row["id"]))]
    assert list(COCO.classes) == names and len(names) == 81
    assert [COCO.train_ids[row["id"]] for row in content["categories"]] == list(range(1, 81))


def test_real_coco(real_data: Path, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "out"
    assert shard("coco", "--source", real_data / "coco", "--out", out) == 0
    labels = packed_labels(out, "train")
    api = CocoApi(str(real_data / "coco" / "annotations" / "instances_train2017.json"))
    assert len(labels) == len(api.imgs) == 32
    objects = 0
    for image in api.imgs.values():
        found = [(row, api.annToMask(row).astype(bool)) for row in api.loadAnns(api.getAnnIds(image["id"]))]
        expected = np.zeros((image["height"], image["width"]), np.uint8)
        smallest = np.full(expected.shape, np.inf)
        for row, mask in found:  # pixel by pixel: the smallest object there, a crowd only where nothing else is
            size = mask.sum() + 10**9 * row["iscrowd"]
            on_top = mask & (size < smallest)
            expected[on_top] = COCO.train_ids[row["category_id"]]
            smallest[on_top] = size
            objects += 1
        assert np.array_equal(labels[image["file_name"].removesuffix(".jpg")], expected)
    assert objects == 288


def test_two_rows_of_one_id_or_name_are_refused(coco: Coco, tmp_path: Path, capfd: Capture) -> None:
    """Else one image vanishes, and its objects are painted on the other."""
    images, categories = coco.train["images"], coco.train["categories"]
    twice = {
        "id": (
            {**coco.train, "images": [*images, {**images[0], "file_name": "b.jpg"}]},
            (images[0]["file_name"], "b.jpg"),
        ),
        "file": ({**coco.train, "images": [*images, {**images[0], "id": 77}]}, (str(images[0]["id"]), "77")),
        "row": ({**coco.train, "images": [*images, images[0]]}, (images[0]["file_name"],)),
        "category": ({**coco.train, "categories": [*categories, {"id": 1, "name": "man"}]}, ("person", "man")),
        "name": ({**coco.train, "categories": [*categories, {"id": 91, "name": "person"}]}, ("'1'", "'91'")),
    }
    for content, named in twice.values():
        coco.write("train2014", content)
        said = refuse(["coco", "--source", coco.root, "--splits", "train"], tmp_path / "out", capfd)
        assert error_codes(said) == ["MSA-PACK-209"] and all(name in said for name in named), said


@pytest.mark.parametrize(
    "nothing", [[], None, [[3, 4]], [[3, 4, 5, 6]], [[5, 5] * 3], [[1, 1, 5, 5, 9, 9]], [[]], "absent"]
)
def test_objects_without_an_area_are_skipped_and_counted(
    nothing: object, coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    assert shard("coco", "--source", coco.root, "--splits", "train", "--out", tmp_path / "whole") == 0
    empty = instance(99, 9, 1, nothing)
    if nothing == "absent":
        del empty["segmentation"]
    coco.write("train2014", {**coco.train, "annotations": [*coco.train["annotations"], empty]})
    capfd.readouterr()
    assert shard("coco", "--source", coco.root, "--splits", "train", "--out", tmp_path / "out") == 0
    assert "1 of 7 objects have no outline" in capfd.readouterr().err
    for name, label in packed_labels(tmp_path / "whole", "train").items():
        assert np.array_equal(packed_labels(tmp_path / "out", "train")[name], label)


def test_objects_of_unknown_images_are_counted(coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    square = [rectangle(1, 1, 9, 9)]
    strangers = [instance(80, 1000, 1, square), instance(81, 1000, 1, square), instance(82, 1001, 1, square)]
    coco.write("train2014", {**coco.train, "annotations": [*coco.train["annotations"], *strangers]})
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out", "--splits", "train") == 0
    assert "3 of 9 objects belong to 2 images that the file does not have" in capfd.readouterr().err
    assert len(packed_labels(tmp_path / "out", "train")) == 3


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ({7: "weld", 0: "crack"}, ("background", "crack", "weld")),
        ({1: "person", 2: "fork lift"}, ("background", "person", "fork lift")),
        ({0: "_background_", 300: "weld", 99999: "crack"}, ("background", "weld", "crack")),
    ],
)
def test_categories_of_its_own(
    categories: dict[int, str], classes: tuple[str, ...], coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    last = max(categories)
    rows = [{"id": id, "name": name} for id, name in categories.items()]
    content = {**coco.train, "annotations": [instance(1, 9, last, [rectangle(2, 2, 9, 9)])], "categories": rows}
    coco.write("train2014", content)
    coco.write("val2014", {**coco.content("val2014", (42,), []), "categories": rows})
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out") == 0
    assert load_manifest(tmp_path / "out").classes == classes and "not MS-COCO's" in capfd.readouterr().err
    label = packed_labels(tmp_path / "out", "train")["COCO_train2014_000000000009"]
    assert np.array_equal(label, drawn(rectangle(2, 2, 9, 9)) * classes.index(categories[last]))
    assert shard("verify", tmp_path / "out") == 0


def test_splits_that_disagree_about_categories(coco: Coco, tmp_path: Path, capfd: Capture) -> None:
    rows = [{"id": 1, "name": "weed"}]
    coco.write("val2014", {**coco.content("val2014", (42,), []), "categories": rows})
    said = refuse(["coco", "--source", coco.root], tmp_path / "out", capfd)
    assert error_codes(said) == ["MSA-PACK-037"] and "'person'" in said and "'weed'" in said


def test_two_images_that_differ_in_their_ending(coco: Coco, fake: Any, shard: Shard, tmp_path: Path) -> None:
    fake.image(coco.root / "train2014" / "a.jpg")
    fake.image(coco.root / "train2014" / "a.png")
    images = [{"id": n, "file_name": f"a.{e}", "height": HEIGHT, "width": WIDTH} for n, e in ((9, "jpg"), (25, "png"))]
    coco.write("train2014", {**coco.train, "images": images})
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out", "--splits", "train") == 0
    assert [*packed_labels(tmp_path / "out", "train")] == ["a.jpg", "a.png"]


def test_names_with_folders(coco: Coco, fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    for name in ("one/a.jpg", "two/a.jpg", "b.jpg"):
        fake.image(coco.root / "train2014" / name)

    def write(*names: str) -> None:
        images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
        coco.write("train2014", {**coco.train, "images": images, "annotations": []})

    write("one/a.jpg", "two/a.jpg", "train2014/b.jpg")
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out", "--splits", "train") == 0
    assert [*packed_labels(tmp_path / "out", "train")] == ["one/a", "train2014/b", "two/a"]
    write("x/b.jpg", "y/b.jpg")
    assert "2 of 2 are not" in refuse(["coco", "--source", coco.root, "--splits", "train"], tmp_path / "x", capfd)


@pytest.mark.parametrize(("split", "folder"), [("default", "images"), ("train", "images"), ("valid", "images/valid")])
def test_exports_of_annotation_tools_have_no_year(
    split: str, folder: str, fake: Any, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    root = tmp_path / "src"
    fake.image(root / folder / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [instance(1, 1, 1, [rectangle(2, 2, 9, 9)])],
        "categories": [{"id": 1, "name": "weld"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    assert shard("coco", "--source", root, "--out", tmp_path / "out") == 0
    assert list(load_manifest(tmp_path / "out").splits) == ["val" if split == "valid" else split]
    said = refuse(["coco", "--source", root, "--year", "2017"], tmp_path / "x", capfd)
    assert f"but instances_{split}.json" in said


@pytest.mark.parametrize(
    "outline",
    [
        rectangle(2, 2, 9, 9),
        [[2, 2], [9, 2], [9, 9], [2, 9]],
        [[[2, 2], [9, 2], [9, 9], [2, 9]]],
    ],
    ids=["one polygon without a list", "points", "polygons of points"],
)
def test_other_forms_of_polygons(outline: object, coco: Coco, shard: Shard, tmp_path: Path) -> None:
    found = instance(1, 9, 1, outline)
    del found["id"]  # which only says what lies on top of two objects of one size
    coco.write("train2014", {**coco.train, "annotations": [found]})
    assert shard("coco", "--source", coco.root, "--splits", "train", "--out", tmp_path / "out") == 0
    label = packed_labels(tmp_path / "out", "train")["COCO_train2014_000000000009"]
    assert np.array_equal(label, drawn(rectangle(2, 2, 9, 9)))


def test_objects_of_less_than_a_pixel_are_said(coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    objects = [instance(n, 9, 1, [rectangle(0.1, 0.1, 0.2, 0.2 + n / 100)]) for n in (1, 2)]  # in shares of the size
    coco.write("train2014", {**coco.train, "annotations": objects})
    assert shard("coco", "--source", coco.root, "--splits", "train", "--out", tmp_path / "out") == 0
    said = capfd.readouterr().err
    assert said.count(NO_PIXEL) == 1 and "and 1 other" in said


@pytest.mark.parametrize(
    ("change", "code", "mentions"),
    [
        ({"categories": []}, "MSA-PACK-037", "category"),
        ({"images": [{"id": 9, "file_name": "a.jpg", "width": 9}]}, "MSA-PACK-036", "'height' is missing"),
        ({"annotations": [instance(1, 9, 1, [["1", "2", "3", "4", "5", "6"]])]}, "MSA-PACK-040", "object 1"),
    ],
)
def test_what_a_file_lacks_is_said(
    change: dict[str, object], code: str, mentions: str, coco: Coco, tmp_path: Path, capfd: Capture
) -> None:
    coco.write("train2014", {**coco.train, **change})
    said = refuse(["coco", "--source", coco.root, "--splits", "train"], tmp_path / "out", capfd)
    assert error_codes(said) == [code] and mentions in said


@pytest.mark.parametrize(
    ("listed", "file", "id"),
    [
        ("train2014\\a.jpg", "a.jpg", "train2014/a"),
        ("C:\\data\\a.jpg", "a.jpg", "C:/data/a"),
        ("./a.jpg", "a.jpg", "a"),
        ("../images/a.jpg", "a.jpg", "../images/a"),
        ("a%20b.jpg", "a b.jpg", "a%20b"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg", "caf\u00e9"),
    ],
)
def test_names_as_other_systems_spell_them(
    listed: str, file: str, id: str, coco: Coco, fake: Any, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    fake.image(coco.root / "train2014" / file)
    images = [{"id": 9, "file_name": listed, "height": HEIGHT, "width": WIDTH}]
    coco.write("train2014", {**coco.train, "images": images, "annotations": []})
    capfd.readouterr()
    assert shard("coco", "--source", coco.root, "--out", tmp_path / "out", "--splits", "train") == 0
    assert [*packed_labels(tmp_path / "out", "train")] == [id]
    assert file not in capfd.readouterr().err


def test_missing_images_can_be_skipped(coco: Coco, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    (coco.root / "train2014" / coco.file_name("train2014", 25)).unlink()
    words = ("coco", "--source", coco.root, "--splits", "train")
    assert error_codes(refuse([*words], tmp_path / "out", capfd)) == ["MSA-PACK-038"]
    assert shard(*words, "--skip-bad", "--out", tmp_path / "out") == 0
    assert len(packed_labels(tmp_path / "out", "train")) == 2
    (bad,) = (tmp_path / "out" / "bad-samples.jsonl").read_text().splitlines()
    assert coco.file_name("train2014", 25) in bad and json.loads(bad)["code"] == "MSA-PACK-005"
