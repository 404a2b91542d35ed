"""Our shards and loader against mosaicml-streaming, litData and WebDataset on the same full-resolution images, in one run.

    python -m venv peers && . peers/bin/activate
    pip install . litdata mosaicml-streaming         # where their pins leave torch and NumPy as they are, else:
    pip install . transformers torchvision boto3 lightning-utilities
    pip install --no-deps litdata obstore mosaicml-streaming brotli python-snappy cramjam xxhash zstd catalogue
    python benchmarks/stream_peers.py [--source CITYSCAPES] [--images N] [--rounds N] [--json FILE]

Images of 2048x1024: those of Cityscapes in $MSANET_TEST_DATA, again and again, or drawn street scenes; crops of 512x1024 at
random scale 0.5 to 2, flipped or not, batches of 4, uint8, without color jitter. All store them without loss: ours as tiles,
the peers as PNG files, which OpenCV decodes, or (raw) as pixels. What each does, as its documentation says, stands in
benchmarks/stream_libraries.py. Each loader is in a process of its own.

1. Images per CPU second of one process without loader processes, and images/s with two.
2. Seconds to the first batch: of a new process, imports included, and of a new loader in it.
3. The same for one that resumes at 90 percent of an epoch, and whether the rest is what was left: samples of the epoch that
   were never given, and samples that were given twice.
4. Bytes on disk.

Libraries that are not installed are missing from the tables. Ratios are medians over the rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402
from stream_libraries import BATCH, LIBRARIES, installed  # noqa: E402

from sharding.__main__ import main as shard  # noqa: E402

OURS, RAW = "ours", ", raw"
ENDLESS = (OURS, "WebDataset, resampled")
WORKERS = (0, 2)


def main() -> int:
    """Write, measure in turns, print; 1 if a resume of ours misses or doubles a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, help="Cityscapes (default: that in $MSANET_TEST_DATA, else drawn scenes)"
    )
    parser.add_argument("--images", type=int, default=80, help="of the dataset, a multiple of 40 (default 80)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    names = [name for name in LIBRARIES if installed(name)]
    for name in LIBRARIES.keys() - names:
        print(f"{name}: not installed, not measured", file=sys.stderr)
    result: dict[str, Any] = {"images": args.images, "versions": {name: installed(name) for name in names}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folders = write_all(names, args.source, args.images, folder)
        result["bytes"] = {name: size(folders[name]) for name in names}
        for workers in WORKERS:
            result[f"images_per_second_{workers}"] = rates(folders, workers, args.rounds)
            write_json(args.json, result, is_complete=False)
        starts = {name: own for name, own in folders.items() if not name.endswith(RAW)}
        result["starts"] = {workers: starting(starts, workers, args.images, args.rounds, folder) for workers in WORKERS}
    show(result)
    write_json(args.json, result)
    return int(any(result["starts"][workers][OURS][key] for workers in WORKERS for key in ("missing", "doubled")))


def write_all(names: list[str], source: Path | None, images: int, folder: Path) -> dict[str, Path]:
    """Library to the folder that it has written."""
    known = Path(os.environ.get("MSANET_TEST_DATA", "-")) / "cityscapes"
    if source is None and not known.is_dir():
        words = ["generate", "--out", str(folder / "drawn"), "--images", "8", "--size", "2048x1024"]
        subprocess.run([sys.executable, "-m", "msanet", *words], check=True)
    tree = folder / "source"
    repeat(source or (known if known.is_dir() else folder / "drawn"), tree, images)
    shards = {"ours": folder / "tiles", "WebDataset": folder / "png", "WebDataset, resampled": folder / "png"}
    for codec, out in (("tiff", "tiles"), ("original", "png")):
        words = ["cityscapes", "--source", str(tree), "--out", str(folder / out), "--codec", codec, "--splits", "train"]
        largest = sum(path.stat().st_size for path in tree.rglob("*.png")) // 4 + 400_000
        assert shard([*words, "--shard-bytes", str(largest)]) == 0
    for path in sorted((folder / "png").glob("train-*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(folder / "files", filter="data")
    folders = {name: shards.get(name, folder / name.replace(", ", "-")) for name in names}
    for name in names:
        if name not in shards:
            subprocess.run(command(name, folders[name], 0, "--write", folder / "files"), stdout=sys.stderr, check=True)
    return folders


def repeat(source: Path, tree: Path, images: int) -> None:
    """Cityscapes' training pairs in `source` again and again, under names that end in their number."""
    found = sorted(source.glob("leftImg8bit/train/*/*_leftImg8bit.png"))
    for number in range(images):
        image = found[number % len(found)]
        label = Path(str(image).replace("leftImg8bit.png", "gtFine_labelIds.png").replace("leftImg8bit", "gtFine"))
        for path, kind, ending in ((image, "leftImg8bit", "leftImg8bit"), (label, "gtFine", "gtFine_labelIds")):
            place = tree / kind / "train" / "city" / f"city_{number:06d}_000000_{ending}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def command(name: str, folder: Path, workers: int, *words: object) -> list[str]:
    """Of a process that reads."""
    program = Path(__file__).with_name("stream_libraries.py")
    return [sys.executable, str(program), name, str(folder), "--workers", str(workers), *map(str, words)]


def rates(folders: dict[str, Path], workers: int, rounds: int) -> dict[str, list[float]]:
    """Library to images per second of each turn. A process that has no turn waits, its queues full."""
    processes = {
        name: subprocess.Popen(
            command(name, own, workers, "--turns"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, own in folders.items()
    }

    def turn(process: subprocess.Popen[str]) -> float:
        assert process.stdin and process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        return float(json.loads(next(line for line in process.stdout if line[:1].isdigit())))

    subjects: dict[str, Callable[[], float]] = {name: partial(turn, process) for name, process in processes.items()}
    in_turns(subjects, 1)  # until all have started
    found = in_turns(subjects, rounds)
    for process in processes.values():
        process.communicate()
    return found


def starting(folders: dict[str, Path], workers: int, images: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Library to its figures of points 2 and 3."""
    epoch = images // BATCH
    consumed = epoch * 9 // 10
    found: dict[str, Any] = {name: {"fresh": [], "resumed": []} for name in folders}
    before = {}
    for name, own in folders.items():
        words = ("--batches", consumed, "--save", folder / f"{name}-{workers}.state")
        before[name] = read(name, own, workers, *words)["numbers"]

    def turn(name: str, kind: str) -> float:
        rest = ("--batches", epoch - consumed if name in ENDLESS else epoch)  # the others end with the epoch
        words = ("--state", folder / f"{name}-{workers}.state", *rest) if kind == "resumed" else ()
        got = read(name, folders[name], workers, *words)
        found[name][kind].append([got["process_s"], got["loader_s"]])
        if kind == "resumed":
            given = before[name] + got["numbers"]
            found[name]["missing"], found[name]["doubled"] = images - len({*given}), len(given) - len({*given})
        return float(got["process_s"])

    in_turns({f"{name} {kind}": partial(turn, name, kind) for name in folders for kind in ("fresh", "resumed")}, rounds)
    return found


def read(name: str, folder: Path, workers: int, *words: object) -> dict[str, Any]:
    """What a process that reads has printed, and the seconds from its start to its first batch."""
    begin = time.time()
    done = subprocess.run(command(name, folder, workers, *words), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return {**found, "process_s": found["first"] - begin}


def show(result: dict[str, Any]) -> None:
    """The tables of points 1 and 4, and of points 2 and 3."""
    alone, two = (result[f"images_per_second_{workers}"] for workers in WORKERS)
    rows: list[tuple[Any, ...]] = []
    for name in alone:
        speeds = [(statistics.median(r[name]), median_ratio(r[OURS], r[name])) for r in (alone, two)]
        megabytes, ratio = (result["bytes"][name] / of for of in (1e6 * result["images"], result["bytes"][OURS]))
        rows.append((f"{name} {result['versions'][name]}", *speeds[0], *speeds[1], f"{megabytes:.2f}", ratio))
    times = "ours, times as fast"
    print_table(("", "images per CPU second", times, "images/s, 2 workers", times, "MB an image", "of ours"), rows)
    for workers, found in result["starts"].items():
        rows = []
        for name, own in found.items():
            medians = [
                statistics.median(t[part] for t in own[kind]) for kind in ("fresh", "resumed") for part in (0, 1)
            ]
            ratios = [
                median_ratio([t[0] for t in own[kind]], [t[0] for t in found[OURS][kind]])
                for kind in ("fresh", "resumed")
            ]
            rows.append((name, *medians[:2], ratios[0], *medians[2:], ratios[1], own["missing"], own["doubled"]))
        start = f"to the first batch, {workers} workers"
        resumed = ("at 90 percent: process, s", "loader, s", times, "missing", "doubled")
        print()
        print_table((start, "process, s", "loader, s", times, *resumed), rows)


if __name__ == "__main__":
    sys.exit(main())
