"""More than 255 classes: masks of 16 bits, MS-COCO's form and annotation tools to labels of 16 bits, exactly; what is refused."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from msanet.data.decoded_cache import DecodedSource
from msanet.data.image.codec import encode_label, open_label
from msanet.data.label_scheme import LabelScheme
from msanet.data.manifest import LABELS_SCHEMA_VERSION, Manifest, load_manifest
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.data.storage.cache import NodeCache
from msanet.datasets import DatasetSpec
from sharding.__main__ import main
from sharding.readers.annotated import AnnotatedImage, Skipped, make_listing
from sharding.readers.coco import SPEC as COCO_SPEC
from sharding.readers.coco import _classes
from sharding.readers.coco_mask import DecodeObjects
from sharding.readers.folder import Classes, spec_of
from sharding.readers.label_scheme import apply_scheme
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing
from sharding.readers.shapes import DrawShapes, Shape
from sharding.readers.wide_mask import WideMaskReader
from sharding.shard import _train_ids
from sharding.tree import FolderTree
from sharding.unpacked import open_folder
from support.errors import error_codes, raises_user_error
from support.many_classes import (
    IGNORED,
    NUM_CLASSES,
    label,
    own_id,
    pack_many_classes,
    write_classes,
    write_many_classes,
)
from support.packing import packed_labels, packed_members, refuse

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("codec", ["tiff", "original"])
def test_labels_of_300_classes_come_back_exactly(tmp_path: Path, codec: str) -> None:
    labels = write_many_classes(tmp_path / "source")
    out = pack_many_classes(tmp_path / "source", tmp_path / "shards", "--codec", codec)
    manifest = load_manifest(out)
    assert (manifest.schema_version, manifest.ignore_index) == (LABELS_SCHEMA_VERSION, IGNORED)
    assert manifest.ids == tuple(own_id(k) for k in range(NUM_CLASSES))
    train = np.concatenate([labels[name].ravel() for name in "abc"])
    split = manifest.split("train")
    assert split.histogram == tuple(np.bincount(train[train != IGNORED], minlength=NUM_CLASSES).tolist())
    assert split.ignored == (train == IGNORED).sum() > 0
    source = ShardSource(LocalStorage(out), "train", manifest)
    cached = DecodedSource(source, NodeCache(tmp_path / "cache", 10**8, evict=False))
    for number in range(3):
        for reader in (source, cached, cached):
            _, label_HW = decode_sample(reader.read(number))
            assert label_HW.dtype == np.uint16 and np.array_equal(label_HW, labels[source.key(number)])
    by_others = packed_labels(out, "train") | packed_labels(out, "val")  # Pillow's
    assert all(np.array_equal(by_others[name], label_HW) for name, label_HW in labels.items())
    assert main(["verify", str(out)]) == 0
    assert codec == "original" or main(["inspect", str(out), "--sheet", str(tmp_path / "s.png")]) == 0
    pack_many_classes(tmp_path / "source", out, "--codec", codec)  # again: nothing to do


def test_a_window_of_a_label_of_16_bits_is_decoded_alone(tmp_path: Path) -> None:
    labels = write_many_classes(tmp_path / "source")
    for codec in ("tiff", "original"):
        out = pack_many_classes(tmp_path / "source", tmp_path / codec, "--codec", codec)
        for name, members in packed_members(out, "train").items():
            extension = next(each for each in members if each.startswith("label."))
            opened = open_label(members[extension], extension)
            assert opened.dtype == np.uint16
            assert np.array_equal(opened.window(3, 7, 30, 41), labels[name][3:33, 7:48])


def test_a_folder_that_is_not_packed_has_the_same_labels(tmp_path: Path) -> None:
    labels = write_many_classes(tmp_path / "source")
    dataset = open_folder(tmp_path / "source", tmp_path / "classes.json", ["train"])
    for number in range(3):
        _, label_HW = dataset.splits["train"].read(number)
        assert label_HW.dtype == np.uint16 and np.array_equal(label_HW, labels["abc"[number]])


def test_up_to_255_classes_are_as_ever() -> None:
    rows = [{"id": k, "name": f"{k}"} for k in range(255)]
    narrow = spec_of(Classes.model_validate({"classes": rows}))
    assert narrow.ignore_index == 255 and narrow.id_dtype == np.uint8 and narrow.train_ids[255] == 255
    one_more = spec_of(Classes.model_validate({"classes": [*rows, {"id": 255, "name": "255"}]}))
    assert (
        one_more.ignore_index == IGNORED and one_more.train_ids[255] == 255 and one_more.train_ids[IGNORED] == IGNORED
    )
    values = np.arange(256, dtype=np.uint8)[None]
    assert narrow.to_train_ids(values).dtype == np.uint8 and _train_ids(values, "x", one_more).dtype == np.uint16
    assert _train_ids(values, "x", one_more).tolist() == values.tolist()


def test_few_classes_of_high_ids_keep_labels_of_8_bits(tmp_path: Path) -> None:
    write_many_classes(tmp_path / "source")
    few = [{"id": own_id(k), "name": f"class {k}"} for k in (3, 4)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": few, "others": "ignore"}))
    out = pack_many_classes(tmp_path / "source", tmp_path / "shards")
    manifest = load_manifest(out)
    assert (manifest.ignore_index, manifest.ids) == (255, (own_id(3), own_id(4)))
    assert manifest.schema_version == LABELS_SCHEMA_VERSION
    found, wanted = packed_labels(out, "val")["d"], label(3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.where(wanted == 3, 0, np.where(wanted == 4, 1, 255)))


def test_a_scheme_makes_few_classes_of_many(tmp_path: Path) -> None:
    spec = DatasetSpec("many", tuple(f"{k}" for k in range(300)), ((0, 0, 0),) * 300, {k: k for k in range(300)})
    scheme = {"name": "few", "classes": [{"name": "high", "from": ["299", "298"]}], "others": "ignore"}
    found = apply_scheme(DatasetListing(spec, {}), LabelScheme.model_validate(scheme))
    assert isinstance(found.decode, WideMaskReader)
    mask = encode_label(np.array([[0, 255, 298, 299]], np.uint16))
    assert _train_ids(found.decode(mask, "x"), "x", found.spec).tolist() == [[255, 255, 0, 0]]


@pytest.mark.parametrize(
    "kind, code", [("palette", "MSA-PACK-792"), ("colors", "MSA-PACK-792"), ("value", "MSA-DATA-023")]
)
def test_masks_that_are_no_ids_of_16_bits(tmp_path: Path, kind: str, code: str, capfd: Capture) -> None:
    from PIL import Image

    write_many_classes(tmp_path / "source")
    path, size = tmp_path / "source" / "labels" / "train" / "a.png", (48, 80)
    if kind == "palette":
        image = Image.fromarray(np.zeros(size, np.uint8))
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.save(path)
    elif kind == "colors":
        cv2.imwrite(str(path), np.full((*size, 3), (1, 2, 3), np.uint8))
    else:
        path.write_bytes(encode_label(np.full(size, 999, np.uint16)))
    words = ["folder", "--source", tmp_path / "source", "--classes", tmp_path / "classes.json"]
    assert code in refuse(words, tmp_path / "out", capfd)


def test_colors_that_are_ignored_mean_nothing(tmp_path: Path, capfd: Capture) -> None:
    write_many_classes(tmp_path / "source")
    write_classes(tmp_path / "source", ignore=[[255, 255, 255]])
    words = ["folder", "--source", tmp_path / "source", "--classes", tmp_path / "classes.json"]
    assert error_codes(refuse(words, tmp_path / "out", capfd)) == ["MSA-PACK-793"]


def test_decoders_of_others_may_give_8_bits_or_negative_values() -> None:
    spec = DatasetSpec("many", tuple(f"{k}" for k in range(300)), ((0, 0, 0),) * 300, {k: k for k in range(300)})
    assert isinstance(reader_of(spec), WideMaskReader)
    assert _train_ids(np.array([[7]], np.uint8), "x", spec).dtype == np.uint16
    assert _train_ids(np.array([[-1, 299]], np.int32), "x", spec).tolist() == [[IGNORED, 299]]
    for wrong in (300, 70000):
        with raises_user_error("MSA-DATA-023"):
            _train_ids(np.array([[wrong, -1]], np.int32), "x", spec)


def test_shapes_of_300_classes(tmp_path: Path) -> None:
    corners = [[0, 0], [9, 0], [9, 4], [0, 4]]
    names = [f"class {k:03d}" for k in range(300)]
    shapes = [Shape(name, "pillow polygon", corners, None) for name in names[::-1]]
    images = [
        AnnotatedImage(
            "a",
            "a.png",
            "a.json",
            (9, 10),
            [*shapes, Shape("__ignore__", "pillow polygon", [[0, 6], [9, 6], [9, 8], [0, 8]])],
        )
    ]
    listing = make_listing("many", FolderTree(tmp_path), {"train": images}, names, DrawShapes(), Skipped())
    assert listing.spec.num_classes == 301 and listing.decode is not None
    annotation = listing.splits["train"][0].annotation
    assert annotation is not None
    train_ids_HW = _train_ids(listing.decode(annotation.encode(), "a"), "a", listing.spec)
    assert train_ids_HW.dtype == np.uint16
    assert (train_ids_HW[1, 4], train_ids_HW[7, 4], train_ids_HW[5, 4]) == (1, IGNORED, 0)
    shapes.reverse()  # the last one is on top
    again = make_listing(
        "many",
        FolderTree(tmp_path),
        {"train": images[:0] + [AnnotatedImage("a", "a.png", "a.json", (9, 10), shapes)]},
        names,
        DrawShapes(),
        Skipped(),
    )
    annotation = again.splits["train"][0].annotation
    assert annotation is not None and again.decode is not None
    assert again.decode(annotation.encode(), "a")[1, 4] == 300


def test_objects_of_300_categories_in_the_form_of_coco() -> None:
    pytest.importorskip("pycocotools")

    class File:
        categories = {3 * k + 1: f"class {k}" for k in range(300)}
        objects: dict[int, list[Any]] = {}
        shown = "instances_train.json"

    spec, values = _classes([File()])  # type: ignore[list-item]
    assert spec is not COCO_SPEC and spec.ignore_index == IGNORED and values[3 * 299 + 1] == 300
    objects = [[1, 300, 0, [[0, 0, 8, 0, 8, 4, 0, 4]]], [2, 5, 1, [[0, 6, 8, 6, 8, 9, 0, 9]]]]
    data = json.dumps({"height": 10, "width": 12, "objects": objects}).encode()
    for crowd, expected in (("class", 5), ("ignore", IGNORED)):
        label_HW = _train_ids(DecodeObjects(crowd, spec.ignore_index)(data, "x"), "x", spec)
        assert (label_HW[2, 4], label_HW[7, 4], label_HW[5, 11]) == (300, expected, 0)


def test_manifests_with_the_wrong_ignored_value() -> None:
    def manifest(classes: int, ignored: int, version: int, last_id: int | None = None) -> Manifest:
        ids = [*range(classes)]
        ids[-1] = ids[-1] if last_id is None else last_id
        names = [f"c{k}" for k in range(classes)]
        content = {
            "name": "x",
            "classes": names,
            "palette": [[0, 0, 0]] * classes,
            "ids": ids,
            "codec": "tiff",
            "splits": {},
        }
        return Manifest.model_validate({**content, "ignore_index": ignored, "schema_version": version})

    for right in ((255, 255, 1), (256, IGNORED, 3), (300, IGNORED, 3), (2, 255, 3, 300)):
        assert manifest(*right).ignore_index == right[1]
    for wrong in (
        (256, 255, 3),
        (255, IGNORED, 1),
        (300, IGNORED, 1),
        (300, IGNORED, 2),
        (2, 255, 1, 300),
        (2, 255, 3),
    ):
        with pytest.raises(ValueError, match="expected"):
            manifest(*wrong)
