"""The user's own images and masks, with a file of classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets.voc import voc_color
from support.packing import packed_labels, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
CLASSES = {
    "name": "fields",
    "classes": [{"id": 3, "name": "road", "color": [90, 90, 90]}, {"id": 1, "name": "field", "color": [0, 200, 80]}],
    "ignore": [0, [255, 255, 255]],
}


class Fields:
    """Two images in train and one in val, with grey masks of the ids 0, 1 and 3, and a classes file."""

    def __init__(self, root: Path, fake: Any) -> None:
        self.root, self.classes = root, root.parent / "classes.yaml"
        self.words = ["folder", "--source", root, "--classes", self.classes]
        self.write(json.dumps(CLASSES))
        for name, ending in (("train/a", "jpg"), ("train/b.x", "PNG"), ("val/c", "jpg")):
            fake.image(root / "images" / f"{name}.{ending.lower()}").rename(root / "images" / f"{name}.{ending}")
            fake.label(root / "labels" / f"{name}.png", (0, 1, 3, 255))
        self.label = root / "labels" / "train" / "a.png"

    def write(self, text: str) -> None:
        self.classes.write_text(text)


@pytest.fixture
def fields(fake: Any, tmp_path: Path) -> Fields:
    return Fields(tmp_path / "fields", fake)


def expected(ids_HW: np.ndarray) -> np.ndarray:
    return np.choose(np.searchsorted([0, 1, 3, 255], ids_HW), [255, 1, 0, 255]).astype(np.uint8)


def test_names_of_any_script(fields: Fields, shard: Shard, fake: Any, tmp_path: Path) -> None:
    """Half spaces of Persian, joined emoji, and the spaces in file names of macOS and Japanese."""
    names = ["نیم\u200cفاصله", "👩\u200d🚒"]
    of = [{"id": id, "name": name} for id, name in zip((3, 1), names, strict=True)]
    fields.write(json.dumps({**CLASSES, "classes": of, "ignore": [0]}, ensure_ascii=False))
    for name in ("3.04.05\u202fPM", "道\u3000路"):
        fake.image(fields.root / "images" / "train" / f"{name}.png")
        fake.label(fields.root / "labels" / "train" / f"{name}.png", (0, 1, 3))
    assert shard(*fields.words, "--out", tmp_path / "out") == 0
    manifest = load_manifest(tmp_path / "out")
    assert manifest.classes == tuple(names) and manifest.split("train").samples == 4


def test_masks_of_ids(fields: Fields, shard: Shard, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert shard(*fields.words, "--out", out) == 0
    manifest = load_manifest(out)
    assert (manifest.name, manifest.classes, manifest.ids) == ("fields", ("road", "field"), (3, 1))
    assert manifest.palette == ((90, 90, 90), (0, 200, 80))
    labels = packed_labels(out, "train") | packed_labels(out, "val")
    assert list(labels) == ["a", "b.x", "c"]
    for name, label in labels.items():
        path = next((fields.root / "labels").glob(f"*/{name}.png"))
        assert np.array_equal(label, expected(np.asarray(Image.open(path))))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_masks_of_colors(mode: str, fields: Fields, shard: Shard, tmp_path: Path) -> None:
    colors = np.array([[90, 90, 90], [0, 200, 80], [255, 255, 255]], np.uint8)
    at = np.random.default_rng(0).integers(0, 3, (48, 64))
    for path in (fields.root / "labels").rglob("*.png"):
        Image.fromarray(colors[at]).convert(mode).save(path)
    assert shard(*fields.words, "--out", tmp_path / "out") == 0
    assert np.array_equal(packed_labels(tmp_path / "out", "train")["a"], np.array([0, 1, 255], np.uint8)[at])


def test_a_short_classes_file_in_yaml(fields: Fields, shard: Shard, tmp_path: Path) -> None:
    fields.write("classes:\n- {id: 0, name: sky}\n- {id: 1, name: field}\n- {id: 3, name: road}\n")
    assert shard(*fields.words, "--out", tmp_path / "out") == 0
    manifest = load_manifest(tmp_path / "out")
    assert manifest.name == "folder" and manifest.palette == tuple(voc_color(i) for i in range(3))
    assert manifest.splits["train"].ignored > 0  # 255, always


def test_a_classes_file_of_version_0_1(fields: Fields, shard: Shard, tmp_path: Path) -> None:
    fields.write(json.dumps(CLASSES).replace('"color"', '"colour"'))
    assert shard(*fields.words, "--out", tmp_path / "out") == 0
    assert load_manifest(tmp_path / "out").palette == ((90, 90, 90), (0, 200, 80))


def test_where_the_classes_file_lies_does_not_matter(
    fields: Fields, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    assert shard(*fields.words, "--out", tmp_path / "out") == 0
    other = fields.classes.rename(tmp_path / "other.yaml")
    assert shard(*fields.words[:-1], other, "--out", tmp_path / "out") == 0
    assert "nothing to do" in capfd.readouterr().out
    other.write_text(json.dumps({**CLASSES, "ignore": [0, [255, 255, 254]]}))
    with pytest.raises(SystemExit):
        shard(*fields.words[:-1], other, "--out", tmp_path / "out")
    assert "is not the dataset of this command" in capfd.readouterr().err


def classes(**change: object) -> Callable[[Fields], None]:
    return lambda fields: fields.write(json.dumps({**CLASSES, **change}))


def repeat(**change: object) -> Callable[[Fields], None]:
    return classes(classes=[*CLASSES["classes"], {"id": 7, "name": "sky", **change}])


def grey(value: int) -> Callable[[Fields], object]:
    return lambda fields: cv2.imwrite(str(fields.label), np.full((48, 64), value, np.uint8))


def colored(fields: Fields) -> None:
    Image.new("RGB", (64, 48), (1, 2, 3)).save(fields.label)


def folder_for_the_file(fields: Fields) -> None:
    fields.classes.unlink()
    fields.classes.mkdir()


def half_a_colored_label(fields: Fields) -> None:
    colored(fields)
    fields.label.write_bytes(fields.label.read_bytes()[:-20])


FAULTS: dict[str, tuple[Callable[[Fields], object], tuple[str, ...]]] = {
    "no classes file": (lambda fields: fields.classes.unlink(), ("classes.yaml", "no such file")),
    "no YAML": (lambda fields: fields.write("a: [\n"), ("classes.yaml' is not valid YAML or JSON", "classes: [{id: 0")),
    "binary": (
        lambda fields: fields.classes.write_bytes(b"\xff\xfe\x00"),
        ("classes.yaml' is not valid YAML or JSON",),
    ),
    "empty": (lambda fields: fields.write(""), ("classes.yaml': it", "expected a file such as")),
    "no classes": (classes(classes=[]), ("classes.yaml': classes", "at least 1")),
    "no id": (classes(classes=[{"name": "road"}]), ("classes.0.id",)),
    "a list of names": (classes(classes=["road"]), ("classes.0", "found 'road'", "{id: 0")),
    "a hexadecimal color": (
        classes(classes=[{"id": 1, "name": "road", "color": "#ff0000"}]),
        ("classes.0.color", "found '#ff0000', expected a list"),
    ),
    "id 65536": (classes(classes=[{"id": 65536, "name": "road"}]), ("classes.0.id", "less than or equal to 65535")),
    "unknown word": (classes(color="x"), ("color", "extra")),
    "a long name": (repeat(name="x" * 101), ("classes.2.name", "100 characters")),
    "a name of two lines": (repeat(name="a\nb"), ("classes.2.name",)),
    "a long name of all": (classes(name="x" * 101), ("name", "100 characters")),
    "a folder for the file": (
        folder_for_the_file,
        ("classes.yaml': is a directory; this is a folder, expected a file",),
    ),
    "a key twice": (
        lambda fields: fields.write("classes: []\nclasses: []\n"),
        ("'classes' is there twice in line 2",),
    ),
    "short color": (repeat(color=[1, 2]), ("classes.2.color",)),
    "an id twice": (repeat(id=3), ("the id '3' 2 times",)),
    "an id that is ignored too": (classes(ignore=[3]), ("the id '3' 2 times",)),
    "a name twice": (repeat(name="road"), ("the class 'road' 2 times",)),
    "a color twice": (repeat(color=[90, 90, 90]), ("the color (90, 90, 90) 2 times",)),
    "a taken name": (classes(name="voc"), ("'voc' of another dataset",)),
    "unknown value": (grey(77), ("labels/train/a.png'", "value(s) [77]", "ids of fields", "fix the label")),
    "unknown color": (colored, ("a.png' has the color [1, 2, 3] (3072 pixels", "add it there")),
    "no label": (lambda fields: fields.label.unlink(), ("train/a.jpg' has no label map", "1 of 2")),
    "text for a label": (lambda fields: fields.label.write_text("x"), ("a.png' is damaged",)),
    "half a colored label": (
        half_a_colored_label,
        ("a.png' is damaged",),
    ),
    "two images of a name": (
        lambda fields: cv2.imwrite(str(fields.root / "images/train/a.png"), np.zeros((48, 64), np.uint8)),
        ("images/train' has 2 files named 'a'",),
    ),
    "no splits": (
        lambda fields: [
            (fields.root / "images" / s).rename(fields.root / "images" / f"{s}_") for s in ("train", "val")
        ],
        ("none of the splits train, val, test", "train_, val_"),
    ),
    "another layout": (
        lambda fields: (fields.root / "labels").rename(fields.root / "xyz"),
        ("it holds the folders images, xyz", "images/<split>/", "labels/<split>/*"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault: str, fields: Fields, tmp_path: Path, capfd: Capture) -> None:
    FAULTS[fault][0](fields)
    sentence = refuse(fields.words, tmp_path / "out", capfd)
    assert all(words in sentence for words in FAULTS[fault][1]), sentence


def test_the_classes_file_is_asked_for(fields: Fields, tmp_path: Path, capfd: Capture) -> None:
    assert "--classes" in refuse(fields.words[:3], tmp_path / "out", capfd)
