"""Samples by position: the bytes that were packed, or a sentence that names shard, key and offset."""

import gc
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.image import codec
from msanet.data.image.codec import decode_image, decode_label, encode_label, image_size
from msanet.data.manifest import load_manifest, load_shard_index, safe_key
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from support.errors import raises_user_error


def test_positioned_reads_give_what_tar_gives(shards: Path) -> None:
    source, number = ShardSource(LocalStorage(shards), "train"), 0
    for shard in source.info.shards:
        with tarfile.open(shards / shard.file) as tar:
            names = tar.getnames()
            for key in dict.fromkeys(name.split(".")[0] for name in names):
                sample = source.read(number)
                assert sample["__key__"] == key == source.key(number)
                for name in (n for n in names if n.split(".")[0] == key and not n.endswith(".json")):
                    assert sample[name.split(".", 1)[1]] == tar.extractfile(name).read()  # type: ignore[union-attr]
                number += 1
    assert number == len(source) == 26


def test_a_source_travels_to_another_process(shards: Path) -> None:
    source = ShardSource(LocalStorage(shards), "val")
    first = source.read(3)
    assert pickle.loads(pickle.dumps(source)).read(3) == first


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(shards, tmp_path / "shards")
    return tmp_path / "shards"


def test_flipped_bytes_are_found_and_named(copy: Path) -> None:
    index = load_shard_index(copy, "train-000001.tar")
    member = index.samples[1].members[0]
    tar = copy / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[member.offset + 40] ^= 4
    tar.write_bytes(data)
    number = load_manifest(copy).splits["train"].shards[0].samples + 1
    source = ShardSource(LocalStorage(copy), "train")
    source.read(number - 1)
    with pytest.raises(UserError) as error:
        source.read(number)
    for word in ("train-000001.tar", index.samples[1].key, str(member.offset), f"{member.crc32:08x}"):
        assert word in str(error.value)


def test_missing_truncated_and_stale_files_are_named(copy: Path) -> None:
    (copy / "train-000000.tar").unlink()
    with pytest.raises(UserError, match=r"train-000000.tar' cannot be opened \(No such file"):
        ShardSource(LocalStorage(copy), "train").read(0)
    tar = copy / "val-000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    source = ShardSource(LocalStorage(copy), "val")
    last = source.info.shards[0].samples - 1
    assert source.read(0)["__key__"] == "val_000"
    with pytest.raises(
        UserError, match=rf"val-000000.tar' is damaged: {source.key(last)}.image.tif at byte \d+ has 0 bytes"
    ):
        source.read(last)
    (copy / "val-000001.idx.json").unlink()
    with raises_user_error("MSA-DATA-038", mentions="val-000001.idx.json"):
        ShardSource(LocalStorage(copy), "val").read(6)
    with raises_user_error("MSA-DATA-001", mentions="train, val"):
        ShardSource(LocalStorage(copy), "test")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.update(schema_version=9), "schema_version is 9, expected 1"),
        (lambda tree: tree.update(ignore_index=0), "ignore_index is 0, expected 255"),
        (lambda tree: tree.update(surprise=1), "damaged at surprise"),
        (lambda tree: tree["classes"].pop(), "10 classes, 11 colors"),
        (lambda tree: tree["splits"]["val"].update(samples=9), "says 9 samples, its shards hold 7"),
        (
            lambda tree: tree["splits"]["val"]["shards"][0].update(file="../../etc/passwd"),
            "damaged at splits.val.shards.0.file",
        ),
        (lambda tree: tree["splits"]["val"]["histogram"].pop(), "has 10 entries, not 11"),
    ],
)
def test_a_manifest_that_is_not_sound_is_refused(copy: Path, change: object, words: str) -> None:
    path = copy / "dataset.json"
    tree = json.loads(path.read_text())
    change(tree)  # type: ignore[operator]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError) as error:
        load_manifest(copy)
    assert words in str(error.value)


def test_the_digest_changes_with_the_data(copy: Path, shards: Path) -> None:
    assert load_manifest(copy).digest() == load_manifest(shards).digest()
    path = copy / "dataset.json"
    tree = json.loads(path.read_text())
    tree["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(tree))
    assert load_manifest(copy).digest() != load_manifest(shards).digest()


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def test_images_are_rgb_and_labels_keep_their_indices(tmp_path: Path) -> None:
    bgr = np.zeros((2, 3, 3), np.uint8)
    bgr[..., 0] = 200  # blue
    assert decode_image(png(bgr), "x")[0, 0].tolist() == [0, 0, 200]
    label = np.array([[0, 1, 255], [7, 8, 9]], np.uint8)
    assert np.array_equal(decode_label(encode_label(label), "x"), label)
    palette = Image.fromarray(label, mode="P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(decode_label((tmp_path / "p.png").read_bytes(), "x"), label)


def test_what_is_no_image_or_no_label_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = png(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    assert image_size(whole, "x") == (40, 50)
    for data in (b"", b"hello", whole[:20], whole[: len(whole) // 2]):
        with raises_user_error("MSA-DATA-017", mentions="a/b.png"):
            decode_image(data, "a/b.png")
    with raises_user_error("MSA-DATA-020"):
        decode_label(whole, "a/b.png")
    monkeypatch.setattr(codec, "MAX_PIXELS", 1999)
    with raises_user_error("MSA-DATA-018", mentions="50x40"):
        decode_image(whole, "a/b.png")


def test_keys_are_readable_and_differ() -> None:
    same = ["a_b-1", "街道一", "straße", "हिन्दी", "Ελλάδα", "n" * 80]
    assert [safe_key(name) for name in same] == same
    others = ["a b", "a.b", "a/b", "a_b~", "a\u202fb", "e\u0301", "n" * 81, "n" * 82, "道" * 40, ".", ""]
    keys = [safe_key(name) for name in [*same, *others, "\u00e9", "a_b"]]
    assert len({*keys}) == len(keys)
    assert safe_key("aachen/a.b c_01-x") == "aachen_a_b_c_01-x~6d5b5c1bdf52"
    assert all(len(key.encode()) <= 80 and key and "." not in key and "/" not in key for key in keys)


def test_sources_that_are_dropped_close_their_files(shards: Path) -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(20):
        assert ShardSource(LocalStorage(shards), "train").read(0)["__key__"]
    assert open_files() <= before + 1
