"""Samples kept decoded: the same pixels as from the shards, which are read once; bounded; damage is mended."""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msanet.config import Config, parse_config
from msanet.data.decoded_cache import DecodedSource
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.data.storage.cache import NodeCache
from msanet.errors import UserError

ENTRY = 32 + 8 + 36 * 44 * 4
"""Bytes of one sample in the cache: its header, height and width, RGB and label."""
STEPS = 9
"""Of 6 samples each, of 26: two epochs and the begin of a third."""


def config_for(shards: Path, cache: Path, decoded_cache_limit_bytes: int, workers: int = 0) -> Config:
    data = {
        "path": str(shards),
        "crop": [30, 40],
        "random_scale": [0.6, 1.5],
        "brightness": 0.3,
        "num_workers": workers,
    }
    storage = {"cache_dir": str(cache), "decoded_cache_limit_bytes": decoded_cache_limit_bytes}
    return parse_config({"data": data, "storage": storage, "trainer": {"global_batch_size": 6, "steps": STEPS}}, "test")


def streams(config: Config, world: int = 1, start: int = 0, steps: int = STEPS) -> list[dict[str, np.ndarray]]:
    """Everything about the samples of each step, the ranks joined; the ranks take turns, as in a training."""
    manifest = load_manifest(Path(config.data.source))
    order = shuffle_order(manifest, "train", shuffle_config(config))
    batches = plan_batches(6, 1 if config.data.num_workers else None, world)
    loaders = [
        train_loader(config, order, train_source(config, manifest), batches, rank, start * 6) for rank in range(world)
    ]
    result = []
    for parts in islice(zip(*loaders, strict=True), steps):
        micro = [batch for part in parts for batch in part]
        names = ("images_NHWC", "labels_NHW", "epochs_N", "samples_N")
        result.append({name: np.concatenate([getattr(batch, name).numpy() for batch in micro]) for name in names})
    return result


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return all(np.array_equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def used(cache: Path) -> int:
    return sum(file.stat().st_size for kind in ("entries", "partial") for file in (cache / "decoded" / kind).iterdir())


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def test_two_ranks_with_two_workers_share_a_cache_and_see_the_pixels_of_the_shards(
    shards: Path, tmp_path: Path
) -> None:
    plain = streams(config_for(shards, tmp_path, 0))
    assert not (tmp_path / "decoded").exists()
    assert same(plain, streams(config_for(shards, tmp_path, 2**30, workers=2), world=2))
    entries = list((tmp_path / "decoded" / "entries").iterdir())
    assert len(entries) == 26 and {file.stat().st_size for file in entries} == {ENTRY}
    assert not list((tmp_path / "decoded" / "partial").iterdir())


def test_each_sample_is_read_from_its_shard_once(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(range(26), 0)
    read = ShardSource.read

    def counted(source: ShardSource, sample: int) -> dict[str, Any]:
        counts[sample] += 1
        return read(source, sample)

    monkeypatch.setattr(ShardSource, "read", counted)
    streams(config_for(shards, tmp_path, 2**30))
    assert counts == dict.fromkeys(range(26), 1)


def test_the_second_epoch_needs_no_tar(copy: Path, tmp_path: Path) -> None:
    config = config_for(copy, tmp_path, 2**30)
    whole = streams(config_for(copy, tmp_path, 0))
    streams(config, steps=5)
    for tar in copy.glob("*.tar"):
        tar.unlink()
    assert same(whole[5:], streams(config, start=5, steps=STEPS - 5))
    with pytest.raises(UserError, match="cannot be opened"):
        streams(config_for(copy, tmp_path, 0), start=5, steps=1)


def test_a_full_cache_keeps_its_bound_and_the_pixels_stay_right(shards: Path, tmp_path: Path) -> None:
    bound = 13 * ENTRY + ENTRY // 2
    config, whole = config_for(shards, tmp_path, bound), streams(config_for(shards, tmp_path, 0))
    for step in range(STEPS):
        assert same([whole[step]], streams(config, start=step, steps=1))
        assert used(tmp_path) <= bound
    assert used(tmp_path) == 13 * ENTRY


def decoded_source(shards: Path, cache: Path) -> DecodedSource:
    return DecodedSource(ShardSource(LocalStorage(shards), "train"), NodeCache(cache, 2**30, evict=False))


def test_a_sample_is_what_the_source_gives_and_not_to_be_written_to(shards: Path, tmp_path: Path) -> None:
    source = decoded_source(shards, tmp_path / "cache")
    for _ in range(2):  # made, then found
        sample, encoded = source.read(20), source.source.read(20)
        assert list(sample) == ["__key__", "__url__", "image.npy", "label.npy"]
        assert all(sample[name] == encoded[name] for name in ("__key__", "__url__"))
        assert all(np.array_equal(a, b) for a, b in zip(decode_sample(sample), decode_sample(encoded), strict=True))
        with pytest.raises(ValueError, match="read-only"):
            sample["image.npy"][0, 0] = 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "header", "lost in a crash"])
def test_a_damaged_file_is_made_again(shards: Path, tmp_path: Path, damage: str) -> None:
    source = decoded_source(shards, tmp_path / "cache")
    source.read(20)
    expected = decode_sample(source.source.read(20))  # not the cache's own, which is a view of the file
    (file,) = (tmp_path / "cache" / "entries").iterdir()
    whole = file.read_bytes()
    boot = 16
    damaged = {
        "truncated": whole[:-1],
        "empty": b"",
        "header": b"x" + whole[1:],
        "lost in a crash": whole[:boot] + bytes(len(whole) - boot),  # written before another start of the machine
    }[damage]
    file.write_bytes(damaged)
    found = decode_sample(decoded_source(shards, tmp_path / "cache").read(20))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert file.read_bytes() == whole


def test_what_cannot_be_decoded_is_not_kept(copy: Path, tmp_path: Path) -> None:
    tar = copy / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # inside the first member: the header of 512 bytes is past
    tar.write_bytes(data)
    source = decoded_source(copy, tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(UserError, match="is damaged: train_"):
            source.read(0)
    assert not list((tmp_path / "cache").rglob("*.rgbl"))
    data[700] ^= 1
    tar.write_bytes(data)
    assert source.read(0)["label.npy"].shape == (36, 44)


def test_only_what_is_not_here_is_fetched(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    monkeypatch.setattr(ShardSource, "fetch", lambda source, sample: fetched.append(sample))
    source = decoded_source(shards, tmp_path / "cache")
    source.read(3)
    source.fetch(3)
    source.fetch(4)
    assert fetched == [4]
