"""Images per second from shards on disk to crops for training, against what others do, in one run.

    python benchmarks/streaming.py --source CITYSCAPES [--json FILE]

Full-resolution images (2048x1024), crops of 512x1024 at scale 0.5 to 2, at most 75 percent of one class, mirrored,
colors jittered. First on one core, then end to end through a loader with two processes. Bars: at least 7 times
mmsegmentation's way on a core with the jitter on the CPU, 10 times with it left to the device, 5 times end to end.
"""

import argparse
import itertools
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
import webdataset as wds
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import batches_in, forever, in_turns, median_ratio, print_table, write_json  # noqa: E402
from peers import Mmsegmentation, RawMemory, stock_webdataset  # noqa: E402

from msanet.config import Config, parse_config  # noqa: E402
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source  # noqa: E402
from msanet.data.samples import augment_sample, decode_sample  # noqa: E402
from msanet.data.shard_source import ShardSource, read_manifest  # noqa: E402
from msanet.data.storage import LocalStorage  # noqa: E402
from sharding.__main__ import main as shard  # noqa: E402

BARS = {"core, jitter on the CPU": 7, "core, jitter on the device": 10, "end to end": 5}
BATCH, WORKERS = 4, 2
PEER = "a: mmsegmentation's way, PNG, float32"


def main() -> int:
    """Measure, print and compare with the bars; exit code 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="Cityscapes, or street scenes made by sharding")
    parser.add_argument("--images", type=int, default=16, help="images per subject and turn on one core (default 16)")
    parser.add_argument("--rounds", type=int, default=7, help="turns (default 7)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Data(args.source, Path(folder))
        core = in_turns(on_a_core(data, args.images), args.rounds)
        loaders = in_turns(through_loaders(data), args.rounds)
    reached = {
        "core, jitter on the CPU": median_ratio(core["ours, jitter on the CPU"], core[PEER]),
        "core, jitter on the device": median_ratio(core["ours"], core[PEER]),
        "end to end": median_ratio(loaders["ours"], loaders[PEER]),
    }
    for title, found in (("one core", core), (f"end to end, {WORKERS} loader processes", loaders)):
        rows = [(name, statistics.median(rates), median_ratio(rates, found[PEER])) for name, rates in found.items()]
        print_table((title, "images/s", "times a"), rows)
        print()
    print_table(("bar", "wanted", "reached"), [(name, bar, reached[name]) for name, bar in BARS.items()])
    write_json(args.json, {"images_per_second": {"core": core, "end_to_end": loaders}, "ratios": reached, "bars": BARS})
    return 0 if all(reached[name] >= bar for name, bar in BARS.items()) else 1


class Data:
    """The same images as tiles, as PNG shards, as PNG files and in memory."""

    def __init__(self, source: Path, folder: Path) -> None:
        for codec in ("tiff", "original"):
            done = shard(["cityscapes", "--source", str(source), "--out", str(folder / codec), "--codec", codec])
            assert done == 0
        self.tiles, self.png_shards = folder / "tiff", sorted((folder / "original").glob("train-*.tar"))
        for path in self.png_shards:
            with tarfile.open(path) as tar:
                tar.extractall(folder / "files", filter="data")
        self.images = sorted((folder / "files").glob("*.image.png"))
        self.labels = sorted((folder / "files").glob("*.label.png"))
        source_of_tiles = ShardSource(LocalStorage(self.tiles), "train")
        self.decoded = [decode_sample(source_of_tiles.read(number)) for number in range(len(source_of_tiles))]

    def config(self, **data: Any) -> Config:
        """Our settings for the task."""
        settings = {
            "path": str(self.tiles),
            "random_scale": [0.5, 2.0],
            "crop": [512, 1024],
            "cat_max_ratio": 0.75,
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            "num_workers": WORKERS,
            **data,
        }
        return parse_config({"data": settings, "trainer": {"global_batch_size": BATCH}}, "the benchmark")


def on_a_core(data: Data, images: int) -> dict[str, Callable[[], float]]:
    """Subject to images per second in this process, on one thread."""
    cv2.setNumThreads(0)
    stock = iter(stock_webdataset(data.png_shards))
    memory = RawMemory(data.decoded, images)
    mmseg = Mmsegmentation(data.images, data.labels, images)
    mmseg_uint8 = Mmsegmentation(data.images, data.labels, images, normalize=False)
    a, a_uint8, c = (itertools.count() for _ in range(3))
    return {
        PEER: _rate(lambda: mmseg[next(a)], images),
        "a, uint8 as in its 1.x": _rate(lambda: mmseg_uint8[next(a_uint8)], images),
        "b: stock WebDataset, PNG shards, no jitter": _rate(lambda: next(stock), images),
        "ours, jitter on the CPU": _rate(_ours(data.config(jitter_on="loader")), images),
        "ours": _rate(_ours(data.config()), images),
        "c: memory, crop and mirror only": _rate(lambda: memory[next(c)], images),
    }


def _ours(config: Config) -> Callable[[], Any]:
    source = train_source(config, read_manifest(LocalStorage(Path(config.data.source))))
    numbers = itertools.count()

    def sample() -> Any:
        epoch, number = divmod(next(numbers), len(source))
        return augment_sample(source.read(number), number, epoch, config.data, seed=0)

    return sample


def through_loaders(data: Data) -> dict[str, Callable[[], float]]:
    """Subject to images per second that reach the training process in batches, from running loaders."""
    options: dict[str, Any] = {
        "batch_size": BATCH,
        "num_workers": WORKERS,
        "persistent_workers": True,
        "prefetch_factor": 2,
    }
    epoch = 10**6  # samples; never reached

    def of(dataset: Any) -> Iterator[Any]:
        return iter(DataLoader(dataset, **options))

    stock = wds.WebLoader(stock_webdataset(data.png_shards), **options)
    config = data.config()
    manifest = read_manifest(LocalStorage(data.tiles))
    order = shuffle_order(manifest, "train", shuffle_config(config))
    ours = train_loader(config, order, train_source(config, manifest), plan_batches(BATCH, None, 1), 0, 0)
    loaders: dict[str, Iterator[Any]] = {
        PEER: of(Mmsegmentation(data.images, data.labels, epoch)),
        "a, uint8 as in its 1.x": of(Mmsegmentation(data.images, data.labels, epoch, normalize=False)),
        "b: stock WebDataset, PNG shards, no jitter": forever(stock),
        "ours": ours,
        "c: memory, crop and mirror only": of(RawMemory(data.decoded, epoch)),
    }
    return {name: _steady_rate(loader) for name, loader in loaders.items()}


def _rate(sample: Callable[[], Any], images: int) -> Callable[[], float]:
    def turn() -> float:
        start = time.perf_counter()
        for _ in range(images):
            sample()
        return images / (time.perf_counter() - start)

    return turn


def _steady_rate(batches: Iterator[Any], warm_s: float = 3.0, timed_s: float = 4.0) -> Callable[[], float]:
    """Images per second of a running loader. First some seconds do not count: the loader that had its turn before still
    fills its queues beside us, and ours are full."""

    def turn() -> float:
        batches_in(batches, warm_s)
        start = time.perf_counter()
        count = batches_in(batches, timed_s)
        return count * BATCH / (time.perf_counter() - start)

    return turn


if __name__ == "__main__":
    sys.exit(main())
