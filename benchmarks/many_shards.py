"""Seconds to pack, verify and open many tiny samples, one in each shard and all in one, against tar and SHA-256 alone.

    python benchmarks/many_shards.py [--samples 20000] [--rounds 3] [--folder DIR] [--json FILE]

Images of 16x16 pixels, so that the cost of a shard and of a sample is seen, not that of pixels. `a` does what no tool
can do without: packing: Python's tarfile, one tar for each shard, and its SHA-256; reading: all tars through SHA-256.
"""

import argparse
import hashlib
import itertools
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.data.manifest import load_manifest  # noqa: E402
from msanet.data.shard_source import ShardSource  # noqa: E402
from msanet.data.storage import LocalStorage  # noqa: E402
from msanet.doctor.shards import image_names, read_indexes  # noqa: E402
from sharding.inspection import labeled_samples  # noqa: E402
from sharding.readers.camvid import CAMVID  # noqa: E402
from sharding.tree import FolderTree  # noqa: E402
from sharding.verify import find_problems  # noqa: E402
from sharding.writer import PackOptions, pack  # noqa: E402

WORKERS = len(os.sched_getaffinity(0))
PEERS = {"packing": "packing: a, tarfile and SHA-256", "reading": "reading: a, SHA-256"}
SHARD_BYTES = {"one sample a shard": 1, "one shard": 10**9}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000, help="tiny samples (default 20,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's folder for temporary files)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        make_source(Path(folder, "source"), args.samples)
        for layout, shard_bytes in SHARD_BYTES.items():
            found[layout] = in_turns(subjects(Path(folder), shard_bytes), args.rounds)
    for layout, seconds in found.items():
        peers = {name: seconds[PEERS[name.partition(":")[0]]] for name in seconds}
        rows = [(name, statistics.median(own), median_ratio(own, peers[name])) for name, own in seconds.items()]
        print_table((f"{args.samples} samples, {layout}", "seconds", "times a"), rows)
        print()
    write_json(args.json, {"seconds": found, "samples": args.samples, "workers": WORKERS})
    return 0


def make_source(root: Path, samples: int) -> None:
    """CamVid's layout, of noise."""
    random = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    for name in (f"{number:06d}.png" for number in range(samples)):
        cv2.imwrite(str(root / "train" / name), random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        cv2.imwrite(str(root / "trainannot" / name), random.integers(0, 12, (16, 16), dtype=np.uint8))


def subjects(folder: Path, shard_bytes: int) -> dict[str, Callable[[], float]]:
    """{name: does it once, and gives the seconds}. A name begins with what is done; `a` is the peer."""
    source, out, peer = folder / "source", folder / f"out-{shard_bytes}", folder / "peer"

    def ours() -> None:
        tree = FolderTree(source)
        options = PackOptions("original", shard_bytes, WORKERS)
        pack(CAMVID.read(tree, argparse.Namespace(splits=["train"])), tree, out, options)

    def verify() -> None:
        assert not list(find_problems(out, load_manifest(out), WORKERS, lambda _: None))

    actions = {
        PEERS["packing"]: (lambda: plain_tars(source, peer, shard_bytes), peer),
        "packing: msanet": (ours, out),
        PEERS["reading"]: (lambda: [digest(path) for path in sorted(out.glob("*.tar"))], None),
        "reading: verify": (verify, None),
        "reading: inspect, 400 samples": (lambda: list(labeled_samples(out, load_manifest(out).splits, 400)), None),
        "reading: doctor's indexes": (
            lambda: image_names(read_indexes(LocalStorage(out), load_manifest(out).splits["train"].shards), 10**6),
            None,
        ),
        "reading: open and read one sample": (lambda: ShardSource(LocalStorage(out), "train").read(0), None),
    }
    return {name: lambda do=do, remove=remove: timed(do, remove) for name, (do, remove) in actions.items()}  # type: ignore[misc]


def timed(action: Callable[[], object], written: Path | None) -> float:
    """The seconds of one call; what it writes is removed before."""
    if written:
        shutil.rmtree(written, ignore_errors=True)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain_tars(source: Path, out: Path, shard_bytes: int) -> None:
    """The same files into the same number of tars, written to the disk, and their hashes."""
    out.mkdir()
    names = sorted(os.listdir(source / "train"))
    for number, group in enumerate([[name] for name in names] if shard_bytes == 1 else [names]):
        path = out / f"{number:06d}.tar"
        with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name, folder in itertools.product(group, ("train", "trainannot")):
                tar.add(source / folder / name, f"{name}.{folder}")
            file.flush()
            os.fsync(file.fileno())
        digest(path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
