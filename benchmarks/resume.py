"""Time to the first batch of a training that goes on at 90 percent of an epoch, over that of a fresh start, in one run.

    python benchmarks/resume.py [--json FILE]

Writes its own shards: 400 images of 512x256, crops of 256x256, 2 loader processes, which every start begins again. Peers
read the same images with stock WebDataset and pass over what a fresh start had seen: batches as they leave the loader,
or samples before they are decoded. Besides, the order alone at 100 million samples. Bar: ours takes at most 1.2 times.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.config import parse_config  # noqa: E402
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source  # noqa: E402
from msanet.data.shard_source import read_manifest  # noqa: E402
from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder  # noqa: E402
from msanet.data.storage import LocalStorage  # noqa: E402
from sharding.__main__ import main as shard  # noqa: E402

BAR = 1.2
IMAGES, SIZE, CROP = 400, (256, 512), 256
BATCH, WORKERS = 4, 2
SKIPPED = IMAGES // BATCH * 9 // 10
"""Batches, 90 percent of an epoch."""


def main() -> int:
    """Measure, print and compare with the bar; exit code 1 if it is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours, png = write_shards(Path(folder))
        starts: dict[str, Callable[[int], Any]] = {"ours, the order alone, 100 million samples": first_of_the_order}
        for workers in (WORKERS, 0):
            where = f"{workers} loader processes" if workers else "in this process"
            starts[f"ours, {where}"] = partial(our_first, ours, workers)
            starts[f"stock WebDataset, batches passed over, {where}"] = partial(stock_first, png, workers, False)
            starts[f"stock WebDataset, undecoded samples passed over, {where}"] = partial(
                stock_first, png, workers, True
            )
        subjects = {
            f"{name}, batch {where}": timed(start, where) for name, start in starts.items() for where in (0, SKIPPED)
        }
        in_turns(subjects, 1)  # imports, and files come into memory
        found = in_turns(subjects, args.rounds)
    seconds = {
        name: {"fresh": found[f"{name}, batch 0"], "resumed": found[f"{name}, batch {SKIPPED}"]} for name in starts
    }
    ratios = {name: median_ratio(own["resumed"], own["fresh"]) for name, own in seconds.items()}
    medians = {name: [statistics.median(times) for times in own.values()] for name, own in seconds.items()}
    rows = [(name, *medians[name], ratio, ratio <= BAR) for name, ratio in ratios.items()]
    print_table(("to the first batch", "fresh, s", "at 90 percent, s", "times", f"within {BAR}"), rows)
    write_json(
        args.json, {"seconds": seconds, "ratios": ratios, "bar": BAR, "images": IMAGES, "batches_skipped": SKIPPED}
    )
    return 0 if all(ratio <= BAR for name, ratio in ratios.items() if name.startswith("ours")) else 1


def timed(start: Callable[[int], Any], skipped: int) -> Callable[[], float]:
    """Seconds until `start` has a batch; what it returns is dropped after that, since loaders take time to end."""

    def turn() -> float:
        begin = time.perf_counter()
        kept = start(skipped)
        seconds = time.perf_counter() - begin
        del kept
        return seconds

    return turn


def write_shards(folder: Path) -> tuple[Path, list[Path]]:
    """The same images as shards of tiles for us, and as tar files of PNG for the peers."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 1)):
        for kind in (split, f"{split}annot"):
            (folder / "source" / kind).mkdir(parents=True)
        for number in range(count):
            coarse = rng.integers(0, 255, (SIZE[0] // 16, SIZE[1] // 16, 3), dtype=np.uint8)
            image = cv2.resize(coarse, SIZE[::-1]) // 2 + rng.integers(0, 20, (*SIZE, 3), dtype=np.uint8)
            label = cv2.resize(coarse[..., 0] // 24, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / "source" / split / f"{number:04d}.png"), image)
            cv2.imwrite(str(folder / "source" / f"{split}annot" / f"{number:04d}.png"), label)
    for codec in ("tiff", "original"):
        where = ["--source", str(folder / "source"), "--out", str(folder / codec)]
        assert shard(["camvid", *where, "--codec", codec, "--shard-bytes", "2000000"]) == 0
    return folder / "tiff", sorted((folder / "original").glob("train-*.tar"))


def our_first(folder: Path, workers: int, skipped: int) -> Any:
    """The first batch of a loader that is built from nothing, as `launcher/train.py` does it."""
    data = {"path": str(folder), "crop": [CROP, CROP], "random_scale": [1.0, 1.0], "num_workers": workers}
    config = parse_config({"data": data, "trainer": {"global_batch_size": BATCH}}, "the benchmark")
    manifest = read_manifest(LocalStorage(folder))
    order = shuffle_order(manifest, "train", shuffle_config(config))
    source = train_source(config, manifest)
    loader = train_loader(config, order, source, plan_batches(BATCH, None, 1), 0, skipped * BATCH)
    return loader, next(loader)


def first_of_the_order(skipped: int) -> Any:
    """The first micro-batch of one of 4,096 ranks, in 20,000 shards."""
    streams, samples = 4096 * BATCH, 100_000_000
    order = ShuffleOrder(ShuffleConfig(0, streams, 64, 8 * 2**20), [samples // 20_000] * 20_000, [400 * 2**20] * 20_000)
    steps = samples // streams * skipped // (IMAGES // BATCH)
    return order.samples(np.arange(BATCH) + steps * streams)


def stock_first(shards: list[Path], workers: int, undecoded: bool, skipped: int) -> Any:
    """The first batch after `skipped` that are made and thrown away, or whose samples are passed over undecoded."""
    dataset = wds.WebDataset([str(path) for path in shards], shardshuffle=False)
    if undecoded:
        dataset = dataset.slice(skipped * BATCH // max(workers, 1), None)  # in each loader process
    dataset = dataset.decode("rgb8").to_tuple("image.png", "label.png").map(_cut).batched(BATCH)
    context = "forkserver" if workers else None
    loader = iter(wds.WebLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context))
    return loader, next(islice(loader, 0 if undecoded else skipped, None))


def _cut(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    top, left = (np.random.randint(side - CROP + 1) for side in SIZE)
    return tuple(part[top : top + CROP, left : left + CROP] for part in pair)


if __name__ == "__main__":
    sys.exit(main())
