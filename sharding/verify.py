"""`msanet verify`: read all of a finished dataset and say everything that is not as it was packed."""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from msanet.data.image.codec import CODECS
from msanet.data.manifest import (
    BAD_SAMPLES_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    SplitInfo,
    index_name,
    load_manifest,
)
from msanet.errors import UserError
from msanet.logs import ProgressBar
from sharding.shard_check import Problem, ShardReport, check_shard, differing_counts
from sharding.workers import OnSample, Progress, group_items, run_groups

logger = logging.getLogger(__name__)

_NAMED = 5
"""So many damaged files are named in the last sentence; the lines above it have them all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `msanet verify`."""
    parser.add_argument("shards", type=Path, metavar="SHARDS", help=f"folder with {MANIFEST_NAME} and its shards")
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cpus, help="processes to read with (default: one per CPU)")


def run(args: argparse.Namespace) -> int:
    """Print every problem as one line of the log, or a summary. Raises UserError at the end if there are problems."""
    if args.workers < 1:
        raise UserError(
            "MSA-PACK-046", f"workers is {args.workers}, expected 1 or more; choose such a number", setting="--workers"
        )
    manifest = load_manifest(args.shards)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    samples = sum(shard.samples for shard in shards)
    damaged: Counter[str] = Counter()
    with ProgressBar(samples, f"verify {manifest.name}", unit="samples") as bar:
        for problem in find_problems(args.shards, manifest, args.workers, bar.update):
            damaged[problem.file] += 1
            logger.warning(str(problem))
    if damaged:
        raise UserError("MSA-PACK-048", _advice(args.shards, damaged))
    size = sum(shard.bytes for shard in shards) / 1e6
    print(f"{_counted(samples, 'sample')} in {_counted(len(shards), 'shard')}, {size:.1f} MB: all valid")
    if (skipped := args.shards / BAD_SAMPLES_NAME).is_file():
        count = _counted(len(skipped.read_bytes().splitlines()), "sample")
        logger.warning(f"{count} could not be packed: '{skipped}' has them all")
    return 0


def find_problems(folder: Path, manifest: Manifest, workers: int, progress: Progress) -> Iterator[Problem]:
    """All problems of the dataset in `folder`, in the order of its splits and shards whatever the number of workers."""
    yield from _dataset_problems(folder, manifest)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    groups = group_items(shards, lambda shard: shard.samples, workers)
    reports = chain.from_iterable(run_groups(_check_shards, (folder, manifest.classes), groups, workers, progress))
    for name, split in manifest.splits.items():
        yield from _split_problems(name, split, manifest, reports)


def _dataset_problems(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """What can be seen without opening a shard."""
    if manifest.codec not in CODECS:
        yield Problem(MANIFEST_NAME, f"codec is '{manifest.codec}', expected one of: {', '.join(CODECS)}")
    listed = Counter(shard.file for split in manifest.splits.values() for shard in split.shards)
    if not listed:
        yield Problem(MANIFEST_NAME, "lists no shard, expected at least one")
    for file, times in listed.items():
        if times > 1:
            yield Problem(MANIFEST_NAME, f"lists {file} {times} times, expected once")
    expected = {MANIFEST_NAME, BAD_SAMPLES_NAME, *listed, *map(index_name, listed)}
    for name in sorted(os.listdir(folder)):
        if name not in expected:
            yield Problem(name, f"is foreign, expected only {MANIFEST_NAME} and the shards and indexes that it lists")


def _split_problems(
    name: str, split: SplitInfo, manifest: Manifest, reports: Iterator[ShardReport]
) -> Iterator[Problem]:
    """The problems of each shard, then those that only show over the whole split."""
    home: dict[str, str] = {}  # key -> the shard that has it
    total: np.ndarray | None = np.zeros(len(manifest.classes) + 1, dtype=object)  # Python's integers never overflow
    for shard in split.shards:
        report = next(reports)
        yield from report.problems
        for key in report.keys:
            if key in home:
                yield Problem(shard.file, f"key '{key}' is also in {home[key]}, expected once in split '{name}'")
            home[key] = shard.file
        total = None if total is None or report.counts is None else total + np.array(report.counts, dtype=object)
    if total is not None:  # else a shard could not be counted, which is reported already
        for text in differing_counts((*split.histogram, split.ignored), tuple(total), manifest.classes):
            yield Problem(MANIFEST_NAME, f"split '{name}': {text}")


def _advice(folder: Path, damaged: Mapping[str, int]) -> str:
    named = ", ".join(list(damaged)[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return (
        f"found {_counted(sum(damaged.values()), 'fault')} in '{folder}' ({named}{more}), expected none; copy each shard named "
        f"above again together with its index and {MANIFEST_NAME}, move what is foreign away, or pack the dataset again"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_shards(
    shared: tuple[Path, tuple[str, ...]], shards: Sequence[ShardInfo], on_sample: OnSample
) -> list[ShardReport]:
    """The work of one process: one report for each shard."""
    _silence_opencv()
    return [check_shard(*shared, shard, on_sample) for shard in shards]


def _silence_opencv() -> None:
    """Its warnings about a broken image would stand between our lines, which name the image."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
