"""Classes joined, chosen and renamed by name; class files that do not list all values of the masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets import CAMVID
from support.errors import error_codes
from support.packing import packed_labels, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
STREET: dict[str, Any] = {
    "name": "street",
    "classes": [
        {"name": "flat", "from": ["road", "pavement"], "color": [1, 2, 3]},
        {"name": "car"},
        {"name": "human", "from": ["pedestrian", "bicyclist"]},
    ],
    "ignore": ["sky"],
    "others": "ignore",
}


def written(folder: Path, content: object) -> Path:
    path = folder / "scheme.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_classes_are_joined_renamed_and_left_out_by_name(fake: Any, shard: Shard, tmp_path: Path) -> None:
    source, out = fake.camvid(train=1, val=1), tmp_path / "out"
    words = ("--source", source, "--out", out, "--label-scheme", written(tmp_path, STREET))
    assert shard("camvid", *words) == 0
    manifest = load_manifest(out)
    assert (manifest.name, manifest.classes) == ("street", ("flat", "car", "human"))
    assert manifest.palette == ((1, 2, 3), CAMVID.palette[8], CAMVID.palette[9])
    assert manifest.ids == (3, 8, 9)
    raw = np.asarray(Image.open(source / "trainannot" / "0016E5_00000.png"))
    table = np.full(256, 255, np.uint8)
    table[[3, 4, 8, 9, 10]] = 0, 0, 1, 2, 2
    assert np.array_equal(packed_labels(out, "train")["0016E5_00000"], table[raw])
    assert shard("camvid", *words) == 0  # complete already


def test_colors_of_masks_are_still_those_of_the_dataset(fake: Any, shard: Shard, tmp_path: Path) -> None:
    scheme = {"name": "two", "classes": [{"name": "animal", "from": ["cat", "dog"]}], "others": "ignore"}
    source, out = fake.voc(), tmp_path / "out"
    assert shard("voc", "--source", source, "--out", out, "--label-scheme", written(tmp_path, scheme)) == 0
    raw = np.asarray(Image.open(source / "VOC2012/SegmentationClass/2007_a.png"))
    expected = np.where(np.isin(raw, (8, 12)), 0, 255)
    assert np.array_equal(packed_labels(out, "train")["2007_a"], expected)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("[1", "MSA-PACK-784", "scheme.yaml"),
        ({"classes": []}, "MSA-PACK-784", "classes"),
        ({"classes": [{"id": 1, "name": "a"}]}, "MSA-PACK-784", "classes.0.id: unknown key"),
        ({"others": "drop"}, "MSA-PACK-784", "others"),
        (
            {"others": "refuse"},
            "MSA-PACK-785",
            "does not name 5 of the 11 classes of camvid (building, pole, tree, sign, fence)",
        ),
        ({"ignore": ["buildings"]}, "MSA-PACK-785", "did you mean 'building'?"),
        ({"ignore": ["car"]}, "MSA-PACK-785", "the class 'car' 2 times"),
        ({"name": "voc"}, "MSA-PACK-785", "'voc' of a dataset"),
        (
            {"classes": [{"name": "a", "from": ["car"]}, {"name": "a", "from": ["sky"]}], "ignore": []},
            "MSA-PACK-785",
            "'a' 2 times",
        ),
    ],
)
def test_a_scheme_that_does_not_fit(
    change: Any, code: str, words: str, fake: Any, capfd: Capture, tmp_path: Path
) -> None:
    path = written(tmp_path, change if isinstance(change, str) else {**STREET, **change})
    said = refuse(["camvid", "--source", fake.camvid(train=1), "--label-scheme", path], tmp_path / "out", capfd)
    assert error_codes(said) == [code] and words in said


def folder(
    fake: Any, root: Path, values: list[int], colors: dict[int, tuple[int, int, int]] | None = None
) -> np.ndarray:
    """A folder of one image; its values, which are colors in the mask if there are some."""
    fake.image(root / "images/train/a.jpg")
    raw = np.asarray(Image.open(fake.label(root / "labels/train/a.png", values)))
    if colors:
        table = np.array([colors.get(value, (9, 9, 200)) for value in range(256)], np.uint8)
        Image.fromarray(table[raw]).save(root / "labels/train/a.png")
    return raw


CLASSES = {
    "classes": [
        {"id": [4, 6], "name": "road", "color": [90, 90, 90]},
        {"id": 2, "name": "field", "color": [0, 200, 80]},
    ]
}


@pytest.mark.parametrize("colors", [None, {4: (90, 90, 90), 6: (90, 90, 90), 2: (0, 200, 80)}])
def test_values_that_a_classes_file_does_not_list(
    colors: Any, fake: Any, shard: Shard, capfd: Capture, tmp_path: Path
) -> None:
    raw = folder(fake, tmp_path / "own", [2, 4, 6, 7, 9], colors)
    words = ["folder", "--source", tmp_path / "own", "--classes"]
    said = refuse([*words, written(tmp_path, CLASSES)], tmp_path / "out", capfd)
    assert error_codes(said) == ["MSA-PACK-035" if colors else "MSA-DATA-023"]
    for path in (tmp_path / "out", tmp_path / "out.partial"):
        assert not path.exists()
    assert shard(*words, written(tmp_path, {**CLASSES, "others": "ignore"}), "--out", tmp_path / "out") == 0
    table = np.full(256, 255, np.uint8)
    table[[4, 6, 2]] = 0, 0, 1
    assert np.array_equal(packed_labels(tmp_path / "out", "train")["a"], table[raw])


def test_a_foreign_palette_is_not_ignored_as_a_whole(fake: Any, capfd: Capture, tmp_path: Path) -> None:
    folder(fake, tmp_path / "own", [2, 4])
    image = Image.open(tmp_path / "own/labels/train/a.png")
    image.putpalette([level for index in range(256) for level in (index, 200 - index % 200, 7)])
    image.save(tmp_path / "own/labels/train/a.png")
    path = written(tmp_path, {**CLASSES, "others": "ignore"})
    said = refuse(["folder", "--source", tmp_path / "own", "--classes", path], tmp_path / "out", capfd)
    assert "MSA-PACK-103" in said
