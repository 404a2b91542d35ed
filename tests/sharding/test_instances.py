"""Instance maps in shards: where they are asked for, byte for byte, and read by nobody who did not ask."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from msanet.data.image.codec import CODECS, INSTANCES
from msanet.data.loader import evaluation_loader
from msanet.data.shard_source import ShardSource
from msanet.data.storage import ByteRange, LocalStorage
from sharding.__main__ import main

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
BONN = "val/bonn/bonn_000000_000019_gtFine_instanceIds.png"


@pytest.fixture
def root(fake: Any) -> Path:
    """Four images of train and one of val, all with instance maps."""
    root: Path = fake.cityscapes()
    for label in sorted((root / "gtFine").rglob("*_labelIds.png")):
        ids = np.asarray(Image.open(label)).astype(np.uint16)
        ids[10:] = np.where(ids[10:] >= 24, ids[10:] * 1000 + 7, ids[10:])
        Image.fromarray(ids).save(str(label).replace("labelIds", "instanceIds"))
    return root


def extensions(out: Path) -> dict[str, list[str]]:
    """Of the first sample of each split, in the order of the tar."""
    indexes = {path.name.partition("-")[0]: json.loads(path.read_text()) for path in out.glob("*.idx.json")}
    return {split: [m["extension"] for m in index["samples"][0]["members"]] for split, index in indexes.items()}


@pytest.mark.parametrize("codec", CODECS)
def test_val_gets_its_maps_and_all_readers_take_them(codec: str, root: Path, shard: Shard, tmp_path: Path) -> None:
    out, bare = tmp_path / "out", tmp_path / "bare"
    assert shard("cityscapes", "--source", root, "--out", out, "--codec", codec) == 0
    image, label = ("image.tif", "label.tif") if codec == "tiff" else ("image.png", "label.png")
    assert extensions(out) == {"train": [image, label, "json"], "val": [image, label, INSTANCES, "json"]}
    (sample,) = webdataset.WebDataset(str(out / "val-000000.tar"), shardshuffle=False)
    assert sample[INSTANCES] == (root / "gtFine" / BONN).read_bytes()
    assert shard("verify", out) == 0 and main(["inspect", str(out)]) == 0

    assert shard("cityscapes", "--source", root, "--out", bare, "--codec", codec, "--instances") == 0
    assert extensions(bare)["val"] == [image, label, "json"]
    for file in ("train-000000.tar", "train-000000.idx.json"):  # so what training fetches is the same to the byte
        assert (out / file).read_bytes() == (bare / file).read_bytes()
    without = webdataset.WebDataset(str(bare / "val-000000.tar"), shardshuffle=False)
    assert {key: sample[key] for key in (image, label)} == {key: next(iter(without))[key] for key in (image, label)}


def test_only_who_asks_reads_them(root: Path, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard("cityscapes", "--source", root, "--out", tmp_path / "out", "--instances", "val", "train") == 0
    (instances,) = [
        member
        for member in json.loads((tmp_path / "out" / "val-000000.idx.json").read_text())["samples"][0]["members"]
        if member["extension"] == INSTANCES
    ]
    reads: list[int] = []
    original = LocalStorage.read

    def read(self: LocalStorage, extent: ByteRange, offset: int, length: int) -> bytes:
        reads.append(offset)
        return original(self, extent, offset, length)

    monkeypatch.setattr(LocalStorage, "read", read)
    source = ShardSource(LocalStorage(tmp_path / "out"), "val")
    (plain,) = evaluation_loader(source, 0, 1, 0)
    assert plain.instance_ids_HW is None and reads and instances["offset"] not in reads
    (asked,) = evaluation_loader(source, 0, 1, 0, instances=True)
    assert instances["offset"] in reads and asked.instance_ids_HW is not None
    expected = np.asarray(Image.open(root / "gtFine" / BONN))
    assert np.array_equal(asked.instance_ids_HW.numpy(), expected) and expected.max() > 24000
    assert np.array_equal(asked.label_HW, plain.label_HW)


def test_shards_without_maps_are_read_as_ever(root: Path, shard: Shard, tmp_path: Path) -> None:
    for path in (root / "gtFine").rglob("*_instanceIds.png"):
        path.unlink()
    assert shard("cityscapes", "--source", root, "--out", tmp_path / "out") == 0
    (sample,) = evaluation_loader(ShardSource(LocalStorage(tmp_path / "out"), "val"), 0, 1, 0, instances=True)
    assert sample.instance_ids_HW is None


def _drop(path: Path) -> None:
    path.unlink()
    shutil.copy(
        path.with_name(path.name.replace("instanceIds", "labelIds")), path.with_name("x_gtFine_instanceIds.png")
    )


def _shrink(path: Path) -> None:
    Image.fromarray(np.zeros((48, 60), np.uint16)).save(path)


def _to_8_bits(path: Path) -> None:
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_drop, r"bonn_000000_000019_leftImg8bit.png' has no instance map (1 of 1 images in split 'val' have none)"),
        (_shrink, "is 60x48, expected 64x48 as its image"),
        (_to_8_bits, "has uint8 values, expected 16-bit ids"),
        (_cut, "bonn_000000_000019_gtFine_instanceIds.png' cannot be decoded"),
    ],
)
def test_a_map_that_cannot_be_is_refused(
    damage: Callable[[Path], None], expected: str, root: Path, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    damage(root / "gtFine" / BONN)
    with pytest.raises(SystemExit):
        shard("cityscapes", "--source", root, "--out", tmp_path / "out")
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_maps_make_another_dataset(root: Path, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    """And none the dataset that was packed before maps could be."""
    words = ["cityscapes", "--source", root, "--out", tmp_path / "out"]
    assert shard(*words) == 0 and shard(*words) == 0
    assert "is already complete" in capfd.readouterr().out
    _shrink(root / "gtFine" / BONN)
    with pytest.raises(SystemExit):
        shard(*words)
    assert "is not the dataset of this command" in capfd.readouterr().err


def test_a_split_that_is_not_packed_has_no_maps_to_pack(
    root: Path, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    with pytest.raises(SystemExit):
        shard("cityscapes", "--source", root, "--out", tmp_path / "out", "--splits", "train", "--instances", "vla")
    assert "split 'vla' is not in " in capfd.readouterr().err
