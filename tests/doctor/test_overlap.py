"""Images of the validation split that are trained on are found by their bytes, and others are not."""

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.doctor import shards as checks


def test_images_in_both_splits_are_found_by_their_bytes(shards: Path) -> None:
    manifest, storage = load_manifest(shards), LocalStorage(shards)
    train, val = (
        checks.image_checksums(checks.read_indexes(storage, manifest.split(name).shards), 1000)
        for name in ("train", "val")
    )
    assert (len(train), len(val)) == (26, 7)
    read_train, read_val = (checks.image_reader(ShardSource(storage, name, manifest)) for name in ("train", "val"))

    def levels(train: checks.Checksums, val: checks.Checksums, read_train: checks.ReadImage) -> list[str]:
        overlap = checks.confirm_overlap(train, val, read_train, read_val)
        return [one.level for one in checks.train_val_overlap(train, val, overlap, is_all=True)]

    assert levels(train, val, read_train) == ["ok"]
    assert levels(val, val, read_val) == ["fault"]
    many = val | {(number, 0): [(number, "other")] for number in range(1000)}
    first = dict([next(iter(val.items()))])
    assert levels(first, many, read_val) == ["warning"]  # one in a thousand


def test_images_that_only_share_length_and_crc_are_no_overlap() -> None:
    """As PNGs do: they end with the CRC of their pixels, byte by byte in reverse, which leaves 16 bits of the whole file's."""
    rng = np.random.default_rng(0)
    files = [cv2.imencode(".png", rng.integers(0, 256, (8, 8), np.uint8))[1].tobytes() for _ in range(900)]
    groups: checks.Checksums = {}
    for number, data in enumerate(files):
        groups.setdefault((len(data), zlib.crc32(data)), []).append((number, str(number)))
    colliding = {checksum: images for checksum, images in groups.items() if len(images) > 1}
    assert len(colliding) > 1
    train: checks.Checksums = {checksum: images[:1] for checksum, images in colliding.items()}
    val: checks.Checksums = {checksum: images[1:] for checksum, images in colliding.items()}
    assert checks.confirm_overlap(train, val, files.__getitem__, files.__getitem__).keys == ()
    (own, _), (other, key) = next(iter(colliding.values()))[:2]
    files[other] = files[own]
    found = checks.confirm_overlap(train, val, files.__getitem__, files.__getitem__)
    assert found.keys == (key,) and found.is_complete


def test_as_many_images_are_compared_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST_COMPARED", 10)
    images: checks.Checksums = {(1, number): [(number, str(number))] for number in range(100)}
    reads: list[int] = []

    def read(number: int) -> bytes:
        reads.append(number)
        return bytes([number])

    overlap = checks.confirm_overlap(images, images, read, read)
    assert len(reads) == 20 and len(overlap.keys) == 10 and not overlap.is_complete
    (diagnostic,) = checks.train_val_overlap(images, images, overlap, is_all=True)
    assert diagnostic.level == "fault" and diagnostic.text.startswith("100 images")
