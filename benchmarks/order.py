"""What the order costs a loader process at 100 million samples, against shuffled lists of all samples, in one run.

    python benchmarks/order.py [--json FILE]

20,000 shards of 5,000 samples, 4,096 ranks with 8 loader processes each, 4 samples a micro-batch. Every subject runs in a
fresh process; its memory is the peak above what its imports took. The last one holds all that a loader process does:
order, manifest and the indexes of the shards it reads. Bars: 2 s to build an epoch and find a position in it, 1 ms to
the next micro-batch, 200 MB for a loader process. Linux only (memory is read from /proc); a peer needs 6 GB.
"""

import argparse
import hashlib
import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_table, write_json  # noqa: E402

SHARDS, SHARD_SAMPLES, SHARD_BYTES = 20_000, 5_000, 400 * 2**20
SAMPLES = SHARDS * SHARD_SAMPLES
RANKS, WORKERS, MICRO_BATCH = 4096, 8, 4
GLOBAL_BATCH = RANKS * MICRO_BATCH
RANK, WORKER = 1234, 5
"""The loader process that is looked at."""
BARS = {"build and find, s": 2.0, "next micro-batch, us": 1000.0, "a loader process, MB": 200.0}
Figures = dict[str, float]


def main() -> int:
    """Measure, print and compare with the bars; exit code 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--subject", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)  # what a child does
    args = parser.parse_args()
    if args.subject:
        name, folder = args.subject
        if name == "the dataset":
            write_dataset(Path(folder))
        print(json.dumps(SUBJECTS[name](Path(folder)) if name in SUBJECTS else {}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        in_a_process("the dataset", folder)
        turns = [{name: in_a_process(name, folder) for name in SUBJECTS} for _ in range(args.rounds)]
    found = {
        name: {figure: statistics.median(turn[name][figure] for turn in turns) for figure in turns[0][name]}
        for name in SUBJECTS
    }
    figures = tuple(dict.fromkeys(figure for row in found.values() for figure in row))
    rows = [(figure, *(row.get(figure, "") for row in found.values())) for figure in figures]
    print_table(("median", *found), rows)
    ours, loader = found["ours"], found["loader process"]
    reached = dict(zip(BARS, (ours["build and find, s"], ours["next, us"], loader["MB"]), strict=True))
    print()
    print_table(("bar", "at most", "reached"), [(name, bar, reached[name]) for name, bar in BARS.items()])
    write_json(args.json, {"median": found, "turns": turns, "reached": reached, "bars": BARS})
    return 0 if all(reached[name] <= bar for name, bar in BARS.items()) else 1


def in_a_process(subject: str, folder: str) -> Figures:
    """The figures of one subject."""
    command = [sys.executable, __file__, "--subject", subject, folder]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


class Stopstopwatch:
    """Seconds and memory from here on, when all is imported."""

    def __init__(self) -> None:
        self.imports, self.start = peak_megabytes(), time.perf_counter()

    def seconds(self) -> float:
        """Since the last call."""
        before, self.start = self.start, time.perf_counter()
        return self.start - before

    def memory(self) -> Figures:
        """Peak above that of the imports, and whole."""
        return {"MB": peak_megabytes() - self.imports, "MB with imports": peak_megabytes()}


def peak_megabytes() -> float:
    """Of this process alone (ru_maxrss may be that of the process which started it)."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def our_order() -> Any:
    """Built as a training does it."""
    from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder

    return ShuffleOrder(ShuffleConfig(0, GLOBAL_BATCH, 64, 8 * 2**20), [SHARD_SAMPLES] * SHARDS, [SHARD_BYTES] * SHARDS)


def micro_batches(steps: int) -> list[np.ndarray]:
    """The positions of what the process makes in this many steps of the training."""
    from msanet.data.shuffle_order import rank_slice

    return [np.array(rank_slice(s * GLOBAL_BATCH, GLOBAL_BATCH, RANK, RANKS)) for s in range(WORKER, steps, WORKERS)]


def ours(_: Path) -> Figures:
    """One position at 90 percent of an epoch; then the ends of far epochs; then two epochs' micro-batches."""
    batches, stopwatch = micro_batches(2 * SAMPLES // GLOBAL_BATCH), Stopstopwatch()
    order = our_order()
    order.samples(np.array([SAMPLES * 9 // 10]))
    found = {"build and find, s": stopwatch.seconds()}
    far = np.random.default_rng(0).integers(0, 10**6 * SAMPLES, 5)
    finds = []
    for position in (2 * SAMPLES - 1, 10**6 * SAMPLES - 1, *far):
        stopwatch.seconds()
        order.samples(np.array([position]))
        finds.append(stopwatch.seconds())
    found["find in any epoch, s"] = max(finds)
    times = []
    for batch in batches:
        stopwatch.seconds()
        order.samples(batch)
        times.append(stopwatch.seconds() * 1e6)
    median, most = np.percentile(times, (50, 99))
    return {
        **found, "next, us": median, "next, 99th percentile, us": most, "next in a new epoch, us": max(times),
        **stopwatch.memory(),
    }  # fmt: skip


def permutation(_: Path) -> Figures:
    """NumPy shuffles all sample numbers; a micro-batch is a slice of them."""
    batches, stopwatch = micro_batches(SAMPLES // GLOBAL_BATCH), Stopstopwatch()
    order = np.random.default_rng((0, 1)).permutation(SAMPLES)
    found = {"build and find, s": stopwatch.seconds()}
    times = []
    for batch in batches:
        stopwatch.seconds()
        order[batch]
        times.append(stopwatch.seconds() * 1e6)
    median, most = np.percentile(times, (50, 99))
    return {**found, "find in any epoch, s": found["build and find, s"], "next, us": median,
            "next, 99th percentile, us": most, **stopwatch.memory()}  # fmt: skip


def distributed_sampler(_: Path) -> Figures:
    """PyTorch's own, which has no way to a position but past those before it. (Held by a rank, not by its processes.)"""
    from torch.utils.data import DistributedSampler

    stopwatch = Stopstopwatch()
    numbers: Iterator[int] = iter(DistributedSampler(range(SAMPLES), RANKS, RANK))  # type: ignore[arg-type]
    next(islice(numbers, SAMPLES // RANKS * 9 // 10, None))
    return {"build and find, s": stopwatch.seconds(), **stopwatch.memory()}


def write_dataset(folder: Path) -> None:
    """The manifest, and the one index that stands for all."""
    from msanet.data.manifest import Manifest, Member, SampleIndex, ShardIndex, ShardInfo, SplitInfo

    digests = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(SHARDS))
    shards = tuple(
        ShardInfo(file=f"train-{number:06d}.tar", samples=SHARD_SAMPLES, bytes=SHARD_BYTES, sha256=digest)
        for number, digest in enumerate(digests)
    )
    split = SplitInfo(samples=SAMPLES, shards=shards, histogram=(1,), ignored=0)
    manifest = Manifest(
        name="x", classes=("a",), palette=((0, 0, 0),), ids=(0,), ignore_index=255, codec="tiff", splits={"train": split}
    )  # fmt: skip
    (folder / "dataset.json").write_text(manifest.to_json())

    def sample(number: int) -> SampleIndex:
        start, length = number * (SHARD_BYTES // SHARD_SAMPLES), 60_000 + number % 1000
        places = (("image.tif", 512, length), ("json", 62_000, 150), ("label.tif", 63_000, length - 50_000))
        members = (Member(extension=e, offset=start + o, length=n, crc32=number * 800_000 + o) for e, o, n in places)
        return SampleIndex(key=f"somewhere_{number:06d}_000019_frame", members=tuple(members))

    index = ShardIndex(
        file="x.tar", bytes=SHARD_BYTES, sha256="0" * 64, plan="", histogram=(1,), ignored=0,
        samples=tuple(map(sample, range(SHARD_SAMPLES))),
    )  # fmt: skip
    (folder / "index.json").write_text(index.model_dump_json())


class OneIndex:
    """A storage that has the same index for every shard, and counts the reads."""

    location = "generated"

    def __init__(self, folder: Path) -> None:
        self.index, self.reads = (folder / "index.json").read_bytes(), 0

    def read(self, place: Any, offset: int, length: int) -> bytes:
        """See Storage."""
        self.reads += 1
        return self.index.replace(b"0" * 64, place.digest.encode(), 1)

    def fetch(self, place: Any) -> None:
        """See Storage; nothing is there to fetch."""


def loader_process(folder: Path) -> Figures:
    """Load the manifest, pickle and unpickle as on the way to a loader process, then find 2,000 samples and fetch them.

    Both ends of the way are in this one process here, so that its memory is above a loader process's.
    """
    from msanet.data.manifest import ShardIndex, load_manifest, validate_json
    from msanet.data.shard_source import ShardSource

    storage, batches = OneIndex(folder), micro_batches(2000 * WORKERS // MICRO_BATCH)
    stopwatch, found = Stopstopwatch(), {}
    manifest = load_manifest(folder)
    found["load the manifest, s"] = stopwatch.seconds()
    sent = pickle.dumps((our_order(), ShardSource(storage, "train", manifest)))  # type: ignore[arg-type]
    found["pickle for a process, s"], found["pickle, MB"] = stopwatch.seconds(), len(sent) / 2**20
    order, source = pickle.loads(sent)
    found["unpickle, s"] = stopwatch.seconds()
    order.samples(batches[0]), order.samples(batches[0] + SAMPLES)  # both epochs that it may hold
    stopwatch.seconds()
    for batch in batches:
        for sample in order.samples(batch)[1]:
            source.fetch(int(sample))
    count = len(batches) * MICRO_BATCH
    found["order and indexes, ms a sample"] = stopwatch.seconds() * 1000 / count
    found["indexes read for a sample"] = source.storage.reads / count
    validate_json(ShardIndex, storage.index, "index")
    found["parse an index, s"] = stopwatch.seconds()
    return {**found, **stopwatch.memory()}


SUBJECTS = {
    "ours": ours,
    "NumPy permutation": permutation,
    "DistributedSampler": distributed_sampler,
    "loader process": loader_process,
}

if __name__ == "__main__":
    sys.exit(main())
