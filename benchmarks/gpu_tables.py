"""What benchmarks/gpu.sh has measured, as tables in the docs.

    python benchmarks/gpu_tables.py OUT [--docs FOLDER]

Replaces what stands between `<!-- gpu: PART -->` and `<!-- /gpu -->` in performance.md and results.md by a table of
OUT/PART.json, with device, versions and date. Where there is no such file, what stands there stays: `not yet measured`, or an
older table. A rehearsal's figures are refused unless --docs names another folder.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu import PARTS  # noqa: E402
from harness import median_ratio, table  # noqa: E402

PAGES = ("performance.md", "results.md")
SECTION = re.compile(r"(<!-- gpu: ([\w-]+) -->\n).*?(<!-- /gpu -->)", re.DOTALL)
Found = dict[str, Any]


def main() -> int:
    """Replace the sections, name them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="what benchmarks/gpu.sh has filled")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of performance.md and results.md")
    args = parser.parse_args()
    record = args.out / "parts.json"
    if not record.is_file():
        print(f"error: '{args.out}' has no parts.json, expected what benchmarks/gpu.sh has filled; give another OUT")
        return 2
    if json.loads(record.read_text())["is_rehearsal"] and args.docs.resolve() == ROOT / "docs":
        print(f"error: '{args.out}' is of a rehearsal, expected figures of a GPU; give another OUT, or --docs")
        return 2
    for page in PAGES:
        path = args.docs / page
        path.write_text(
            SECTION.sub(lambda section: section[1] + content(section, args.out) + section[3], path.read_text())
        )
    return 0


def content(section: re.Match[str], out: Path) -> str:
    """What stands in a section from now on."""
    name, file = section[2], out / f"{section[2]}.json"
    if not file.is_file():
        print(f"{name}: not measured, section unchanged")
        return section[0].removeprefix(section[1]).removesuffix(section[3])
    found = json.loads(file.read_text())
    made = TABLES[name](found)
    machine = found["machine"]
    where = machine["gpu"] or f"CPU, {machine['cpu']}"
    versions = f"torch {machine['torch']}, DeepSpeed {machine['deepspeed']}, {machine['date']}"
    print(f"{name}: table written")
    return (
        f"{where}, {versions}; part `{name}` of `benchmarks/gpu.sh` (`benchmarks/{PARTS[name].program}`).\n\n{made}\n"
    )


def of_steps(found: Found) -> str:
    """Training steps: speed, memory, and the share of the rate of large matrix products."""
    rows: list[tuple[Any, ...]] = []
    peer: list[float] = next(iter(found["images_per_second"].values()), [])
    for name, speeds in found["images_per_second"].items():
        seconds, rate = found["settings"]["batch"] / median(speeds), median(speeds) * found["tflop_an_image"]
        share, times = f"{rate / found['matmul_tflops']:.0%}", ratio(speeds, peer)
        rows.append((name, seconds, median(speeds), times, found["peak_bytes"][name] / 1e9, rate, share))
    rows += [(f"{name}: {reason}", *[""] * 6) for name, reason in found["left_out"].items()]
    height, width = found["settings"]["size"]
    header = (f"{found['settings']['batch']} images of {height} x {width} (height x width)", "s a step", "images/s")
    made = table((*header, "times the first", "peak memory, GB", "TFLOP/s", "of the matrix rate"), rows)
    estimate = found.get("estimated_bytes")
    planned = f" The memory planner estimates {estimate / 1e9:.3g} GB." if estimate else ""
    return f"{made}\n\nMatrix rate: {found['matmul_tflops']:.3g} TFLOP/s, products of large square matrices.{planned}"


def ratio(figures: list[float], peer: list[float]) -> float:
    """The median of the ratios, or the ratio of medians where time was up in the middle of a round."""
    return median_ratio(figures, peer) if len(figures) == len(peer) else median(figures) / median(peer)


def of_memory(found: Found) -> str:
    """Estimates against measurements."""
    rows = [
        (name, f"{row['estimate'] / 1e6:.0f}", f"{row['measured'] / 1e6:.0f}", f"{row['ratio']:.2f}")
        for name, row in found["rows"].items()
    ]
    return table(("network, size, images at once", "estimate, MB", "measured, MB", "ratio"), rows)


def of_precision(found: Found) -> str:
    """bf16 against fp32."""
    rows = [
        (name, f"{100 * found['mean_iou'][name]:.2f}", found["images_per_second"][name]) for name in found["mean_iou"]
    ]
    height, width = found["settings"]["size"]
    made = table(("precision", "mIoU, percent", "images/s, one at a time"), rows)
    differ = f"{1 - found['same']:.3%} of the pixels, in the worst image {1 - found['same_in_the_worst_image']:.3%}"
    trained = f"{found['settings']['steps']} steps of {found['settings']['batch']} images"
    return f"{made}\n\nLabels differ in {differ}: {found['images']} images of {height} x {width}, a network after {trained}."


def of_inference(found: Found) -> str:
    """Latency and throughput."""
    rows = []
    for network, ways in found["networks"].items():
        complete = {name: way for name, way in ways.items() if way.get("latency") and way.get("batch")}
        for name, way in complete.items():
            peer = next(iter(complete.values()))["latency"]
            throughput = found["batch"] / median(way["batch"])
            rows.append((network, name, 1e3 * median(way["latency"]), ratio(peer, way["latency"]), throughput))
    height, width = found["size"]
    header = (
        "network",
        f"{height} x {width}",
        "ms an image",
        "times the first",
        f"images/s, {found['batch']} at a time",
    )
    return table(header, rows)


def of_attention(found: Found) -> str:
    """Kernels, forward and with backward, by size."""
    rows = []
    for size, one in found["sizes"].items():
        for name, peak in one["peak_bytes"].items():
            times = [1e3 * median(one["seconds"][key][name]) for key in ("forward", "step")]
            rows.append((size, name, *times, f"{peak / 1e6:,.0f}"))
    header = ("positions x channels", "attention", "forward, ms", "with backward, ms", "peak memory, MB")
    return "\n\n".join([table(header, rows), *(f"- {choice}" for choice in found["choices"])])


def of_lost_rank(found: Found) -> str:
    """What the others said."""
    rows = [
        (fault, one["seconds"], ", ".join(one["error_codes"]), "yes" if one["names_the_rank"] else "no")
        for fault, one in found["faults"].items()
    ]
    header = (
        f"last of {found['ranks']} ranks, {found['backend']}",
        "s until the others ended",
        "error",
        "names the rank",
    )
    return f"{table(header, rows)}\n\nHeartbeat timeout {found['timeout']:g} s, {found['gpus']} GPUs."


def of_camvid(found: Found) -> str:
    """Runs and their validations."""
    rows = [
        (name, run["seed"], f"{run['curve'][-1][1]:.2f}", f"{run['curve'][-1][0]:.0f}", run["minutes"],
         run["images_per_second"], run["peak_memory_gb"], "complete" if run["is_complete"] else "stopped by the time limit")
        for name, runs in found["runs"].items() for run in runs
    ]  # fmt: skip
    header = ("network", "seed", "val mIoU, %", "epochs", "minutes", "images/s", "peak memory, GB", "run")
    return table(header, rows)


TABLES: dict[str, Callable[[Found], str]] = {
    **dict.fromkeys(("step-full", "step-224", "compiled"), of_steps),
    **dict.fromkeys(("inference-full", "inference"), of_inference),
    "memory": of_memory,
    "precision": of_precision,
    "attention": of_attention,
    "lost-rank": of_lost_rank,
    "camvid": of_camvid,
}
"""By the names of parts; what `tests` says is in its log."""


if __name__ == "__main__":
    sys.exit(main())
