"""Every layout gives the right pairs, and its pixels and ids survive the shards."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC, DatasetSpec
from msanet.errors import UserError
from sharding.tree import FolderTree, open_tree
from support.images import read_image
from support.packing import packed_members, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def samples(out: Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray, dict]]:
    """{key: (image, label, json)} read with nothing of ours, in the order of the tars."""
    found = packed_members(out, split)
    for members in found.values():
        assert [name.split(".")[0] for name in members] == ["image", "label", "json"]
    return {key: _decode(*members.values()) for key, members in found.items()}


def _decode(image: bytes, label: bytes, facts: bytes) -> tuple[np.ndarray, np.ndarray, dict]:
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in (image, label)]
    return pixels[0], pixels[1], json.loads(facts)


def expected_label(path: Path, spec: DatasetSpec) -> np.ndarray:
    raw = np.asarray(Image.open(path))  # grey values or palette indices
    mapped = np.full(raw.shape, 254, np.uint8)
    for value, train_id in spec.train_ids.items():
        mapped[raw == value] = train_id
    return mapped


def check_split(out: Path, split: str, spec: DatasetSpec, sources: dict[str, tuple[Path, Path]]) -> None:
    """The split holds exactly `sources` {key: (image, label)}, sorted, with the same pixels and mapped ids."""
    found = samples(out, split)
    assert list(found) == sorted(sources)
    for key, (image, label) in sources.items():
        assert np.array_equal(found[key][0], read_image(image, cv2.IMREAD_COLOR_RGB))
        assert found[key][1].dtype == np.uint8
        assert np.array_equal(found[key][1], expected_label(label, spec))
        assert (found[key][2]["height"], found[key][2]["width"]) == expected_label(label, spec).shape


def camvid_sources(root: Path, split: str) -> dict[str, tuple[Path, Path]]:
    return {path.stem: (path, root / f"{split}annot" / path.name) for path in (root / split).glob("*.png")}


def cityscapes_sources(root: Path, split: str, suffix: str = "labelIds") -> dict[str, tuple[Path, Path]]:
    found = {}
    for path in (root / "leftImg8bit" / split).rglob("*.png"):
        key = path.name.removesuffix("_leftImg8bit.png")
        found[key] = (path, root / "gtFine" / split / path.parent.name / f"{key}_gtFine_{suffix}.png")
    return found


def voc_sources(root: Path, ids: list[str], labels: str = "SegmentationClass") -> dict[str, tuple[Path, Path]]:
    return {i: (root / "JPEGImages" / f"{i}.jpg", root / labels / f"{i}.png") for i in ids}


def test_camvid_folder(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.camvid(train=5, val=3, test=2), tmp_path / "out"
    assert shard("camvid", "--source", root, "--out", out) == 0
    assert list(load_manifest(out).splits) == ["train", "val", "test"]
    for split in ("train", "val", "test"):
        check_split(out, split, CAMVID, camvid_sources(root, split))


def test_camvid_zip_with_folders_around_it(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.camvid("SegNet-master/CamVid"), tmp_path / "out"
    archive = fake.zip(root.parent, tmp_path / "camvid.zip")
    assert shard("camvid", "--source", archive, "--out", out, "--splits", "val") == 0
    assert list(load_manifest(out).splits) == ["val"]
    check_split(out, "val", CAMVID, camvid_sources(root, "val"))


@pytest.mark.parametrize("kind", ["folder", "folder of zips", "zips"])
def test_cityscapes(kind: str, fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.cityscapes(), tmp_path / "out"
    zips = [fake.zip(root / part, tmp_path / "zips" / f"{part}_trainvaltest.zip") for part in ("leftImg8bit", "gtFine")]
    source = {"folder": [root], "folder of zips": [tmp_path / "zips"], "zips": zips}[kind]
    assert shard("cityscapes", "--source", *source, "--out", out) == 0
    manifest = load_manifest(out)
    assert list(manifest.splits) == ["train", "val"]  # not test
    assert manifest.ids[:2] == (7, 8)
    for split in ("train", "val"):
        check_split(out, split, CITYSCAPES, cityscapes_sources(root, split))


def test_cityscapes_train_ids_and_test_split(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.cityscapes(suffix="labelTrainIds", values=[*range(19), 255]), tmp_path / "out"
    assert shard("cityscapes", "--source", root, "--out", out, "--labels", "trainIds", "--splits", "test", "val") == 0
    for split in ("test", "val"):
        check_split(out, split, CITYSCAPES_TRAIN_IDS, cityscapes_sources(root, split, "labelTrainIds"))
    assert load_manifest(out).ids[:2] == (7, 8)  # what the benchmark's server wants, whatever was read


@pytest.mark.parametrize("below", ["", "VOC2012"])
def test_voc(below: str, fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.voc(), tmp_path / "out"
    assert shard("voc", "--source", root / below, "--out", out) == 0
    check_split(out, "train", VOC, voc_sources(root / "VOC2012", ["2007_a", "2007_b"]))
    check_split(out, "val", VOC, voc_sources(root / "VOC2012", ["2007_c"]))


def test_voc_pooled_as_the_msanet_paper_does(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    """Train and val together, a share held out by a hash of the id: another seed is another choice, and nothing is lost."""
    root = fake.voc()
    ids = ["2007_a", "2007_b", "2007_c"]
    for seed in (0, 1, 2, 3):
        out = tmp_path / str(seed)
        assert shard("voc", "--source", root, "--out", out, "--pool", "0.4", "--seed", seed) == 0
        held_out = min(ids, key=lambda source_id: hashlib.sha256(f"{seed}:{source_id}".encode()).hexdigest())
        check_split(out, "pooled_test", VOC, voc_sources(root / "VOC2012", [held_out]))
        check_split(out, "pooled_train", VOC, voc_sources(root / "VOC2012", sorted({*ids} - {held_out})))
    words = ["voc", "--source", root]
    assert "expected a share between 0 and 1" in refuse([*words, "--pool", "10"], tmp_path / "a", capfd)
    assert "expected it alone" in refuse([*words, "--pool", "0.1", "--splits", "val"], tmp_path / "a", capfd)


def test_voc_lists_choose_their_label_folder(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.voc(), tmp_path / "out"
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "mine.txt").write_text("2007_c\n2008_d\n")  # 2008_d has a label only in SegmentationClassAug
    (lists / "own.txt").write_text("2007_c\n")
    assert shard("voc", "--source", root, "--out", out, "--splits", "train_aug", "mine", "own") == 0
    check_split(out, "train_aug", VOC, voc_sources(root / "VOC2012", ["2007_a", "2008_d"], "SegmentationClassAug"))
    check_split(out, "mine", VOC, voc_sources(root / "VOC2012", ["2007_c", "2008_d"], "SegmentationClassAug"))
    check_split(out, "own", VOC, voc_sources(root / "VOC2012", ["2007_c"]))


def test_labels_without_an_image_are_left_out_with_a_note(
    fake: Any, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    root, out = fake.cityscapes(), tmp_path / "out"
    for path in (root / "leftImg8bit" / "val").rglob("*.png"):
        path.unlink()
    (root / "leftImg8bit" / "val" / "bonn").rmdir()
    (root / "leftImg8bit" / "val").rmdir()
    next((root / "leftImg8bit" / "train" / "ulm").iterdir()).unlink()
    assert shard("cityscapes", "--source", root, "--out", out) == 0
    assert load_manifest(out).splits["train"].samples == 3
    notes = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(notes) == 2 and all("warning: 1 label map has no image" in note for note in notes)
    assert "'train'" in notes[0] and "'val'" in notes[1]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a\\..\\..\\b", "C:/x"])
def test_names_cannot_lead_out_of_a_source(name: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match="inside the source"):
        FolderTree(tmp_path / "root").read(name)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        archive.writestr(info, b"x")
    with pytest.raises(UserError, match="inside the source"):
        open_tree([tmp_path / "evil.zip"])


def test_an_open_zip_can_be_sent_to_a_worker(fake: Any, tmp_path: Path) -> None:
    root = fake.camvid()
    tree = open_tree([fake.zip(root, tmp_path / "camvid.zip")]).below("camvid")
    name = "train/" + tree.files("train")[0]
    data = tree.read(name)  # opens the archive
    copy = pickle.loads(pickle.dumps(tree))
    assert copy.read(name) == data == (root / name).read_bytes()
    assert copy.folders("") == FolderTree(root).folders("") == ["train", "trainannot", "val", "valannot"]
    assert copy.size(name) == len(data)


def test_real_cityscapes_and_voc(real_data: Path, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "cityscapes"
    assert shard("cityscapes", "--source", real_data / "cityscapes", "--out", out) == 0
    assert "warning: 7 label maps have no image in split 'val'" in capfd.readouterr().err
    check_split(out, "train", CITYSCAPES, cityscapes_sources(real_data / "cityscapes", "train"))
    out, root = tmp_path / "voc", real_data / "VOCdevkit" / "VOC2012"
    assert shard("voc", "--source", root.parent, "--out", out, "--splits", "pairs") == 0
    ids = (root / "ImageSets" / "Segmentation" / "pairs.txt").read_text().split()
    check_split(out, "pairs", VOC, voc_sources(root, ids, "SegmentationClassAug"))


def test_real_camvid(real_data: Path, shard: Shard, tmp_path: Path) -> None:
    root, out = real_data / "camvid", tmp_path / "camvid"
    assert shard("camvid", "--source", root, "--out", out, "--splits", "val") == 0
    assert load_manifest(out).splits["val"].samples == 101
    check_split(out, "val", CAMVID, camvid_sources(root, "val"))
