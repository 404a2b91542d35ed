"""Work on many small shards, or on many samples in one, grows with their number and no faster: operations are counted."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from msanet.data.manifest import IndexTable, ShardInfo, load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from sharding import inspection, workers
from sharding.readers.camvid import CAMVID
from sharding.tree import FolderTree
from sharding.verify import find_problems
from sharding.workers import group_items, run_groups
from sharding.writer import PackOptions, pack
from support.work import fail_at

SIZES = (20, 40, 80)


def packed(fake: Any, samples: int, shard_bytes: int) -> Path:
    """`samples` training samples; 1 byte a shard: one in each."""
    source = fake.camvid(f"source-{samples}", train=samples, val=1)
    tree, out = FolderTree(source), fake.root / f"{samples}-{shard_bytes}"
    pack(CAMVID.read(tree, Namespace(splits=None)), tree, out, PackOptions("original", shard_bytes, workers=1))
    return out


def verify(folder: Path) -> None:
    assert not list(find_problems(folder, load_manifest(folder), 1, lambda _: None))


def inspect(folder: Path) -> None:
    assert len(list(inspection.labeled_samples(folder, load_manifest(folder).splits, 10))) == 10


def compare(folder: Path) -> None:
    """As msanet doctor looks for images in both splits."""
    from msanet.doctor.shards import image_checksums, read_indexes  # imports torch, which the workers below do without

    shards = load_manifest(folder).splits["train"].shards
    assert len(image_checksums(read_indexes(LocalStorage(folder), shards), 1000)) == len(shards)


def read_first(folder: Path) -> None:
    ShardSource(LocalStorage(folder), "train").read(0)


def calls(run: Callable[[], object]) -> int:
    """Calls of functions, Python's and C's."""
    found = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def assert_linear(counts: list[int]) -> None:
    """Twice the steps from 20 to 40 as from 40 to 80, but for a few percent; where all pairs are compared it is 4 times."""
    few, some, many = counts
    assert many - some < 2.1 * (some - few) + 50, counts


@pytest.mark.parametrize("command", [verify, inspect, compare, read_first])
def test_reading_many_shards_takes_steps_for_each_only(command: Callable[[Path], None], fake: Any) -> None:
    folders = [packed(fake, size, 1) for size in SIZES]
    command(folders[0])  # what is imported, compiled or cached at first
    assert_linear([calls(lambda folder=folder: command(folder)) for folder in folders])  # type: ignore[misc]


@pytest.mark.parametrize("shard_bytes", [1, 10**9], ids=["many shards", "one shard"])
def test_packing_takes_steps_for_each_sample_only(shard_bytes: int, fake: Any) -> None:
    for size in (2, *SIZES):
        fake.camvid(f"source-{size}", train=size, val=1)
    fake.camvid = lambda name, **_: fake.root / name
    packed(fake, 2, shard_bytes)
    first = [calls(lambda size=size: packed(fake, size, shard_bytes)) for size in SIZES]  # type: ignore[misc]
    assert_linear(first)
    again = [calls(lambda size=size: packed(fake, size, shard_bytes)) for size in SIZES]  # type: ignore[misc]
    assert_linear(again)
    assert again[2] < first[2] / 2, "a finished dataset is not written again"


def opened(run: Callable[[], object], folder: Path) -> Counter[str]:
    """{file of `folder`: times that it is opened}."""
    found: Counter[str] = Counter()
    active = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and str(arguments[0]).startswith(str(folder)):
            found[Path(os.fsdecode(arguments[0])).name] += 1

    sys.addaudithook(hook)  # for ever: it cannot be removed
    try:
        run()
    finally:
        active = False
    return found


def test_each_file_is_opened_once(fake: Any) -> None:
    folder = packed(fake, 20, 1)
    files = {path.name for path in folder.iterdir()}
    assert opened(lambda: verify(folder), folder) == Counter(files)
    indexes = {name for name in files if name.startswith("train") and name.endswith(".json")} | {"dataset.json"}
    assert opened(lambda: compare(folder), folder) == Counter(indexes)
    first = ["dataset.json", "train-000000.idx.json", "train-000000.tar"]
    assert opened(lambda: read_first(folder), folder) == Counter(first)
    chosen = opened(lambda: inspect(folder), folder)
    assert set(chosen.values()) == {1} and len(chosen) == 1 + 2 * 10


def test_threads_that_need_one_index_read_it_once(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShardSource(LocalStorage(packed(fake, 20, 10**9)), "train")
    read, times = source._load_index, []

    def slow(shard: ShardInfo) -> IndexTable:
        times.append(shard.file)
        time.sleep(0.1)
        return read(shard)

    monkeypatch.setattr(source, "_load_index", slow)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(source.key, range(8)))) == 8
    assert times == ["train-000000.tar"]


@pytest.mark.parametrize("sizes", [[1] * 1000, [5000] * 10, [1, 1, 63, 1, 64, 65, 1, 1], [3], []])
def test_groups_hold_all_items_in_order(sizes: list[int]) -> None:
    for count in (1, 2, 8):
        groups = group_items(sizes, int, count)
        assert [size for group in groups for size in group] == sizes
        assert all(group and (len(group) == 1 or sum(group) <= 64) for group in groups)
        assert len(sizes) < count or len(groups) >= count, "each worker gets work"
        assert all(len(group) <= -(-len(sizes) // (16 * count)) for group in groups)


def test_counters_are_added_up_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    now, done = [0.0], bytearray(8 * 100)
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    report = workers._Report(done, told.append)
    for number in range(100):
        done[8 * number] = 1
        now[0] += 0.01
        report()
    assert len(told) <= 6
    report(at_once=True)
    assert sum(told) == 100


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order_up_to_the_first_error(count: int, light_environment: object) -> None:
    told: list[int] = []
    groups = group_items(list(range(100)), lambda _: 1, count)
    assert list(run_groups(fail_at, -1, groups, count, told.append)) == [len(group) for group in groups]
    assert sum(told) == 100
    with pytest.raises(ValueError, match="50"):
        list(run_groups(fail_at, 50, groups, count, told.append))
