"""What all benchmarks share: peers timed in turns in one run, a table, and a JSON file with the machine beside it."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "numpy", "opencv-python-headless", "imagecodecs", "webdataset", "pillow", "deepspeed")


def in_turns(
    subjects: Mapping[str, Callable[[], float]],
    rounds: int,
    keep: Callable[[dict[str, list[float]]], object] = lambda found: None,
) -> dict[str, list[float]]:
    """Call every subject once a round, `rounds` times, and keep what each returns (images per second, seconds).

    Turns, since a shared machine's speed drifts: ratios are taken inside a round. keep: gets all there is after each call.
    """
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            found[name].append(subject())
            keep(found)
    return found


def median_ratio(figures: list[float], peer: list[float]) -> float:
    """Median over the rounds of one subject's figure divided by its peer's of the same round."""
    return statistics.median(a / b for a, b in zip(figures, peer, strict=True))


def machine() -> dict[str, Any]:
    """Where and with what a figure was measured."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "gpu": _gpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
    }


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table, so that it can go into the docs as it is."""
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(
        "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        for row in lines
    )


def print_table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """The same, on standard output."""
    print(table(header, rows))


def write_json(path: Path | None, result: dict[str, Any], is_complete: bool = True) -> None:
    """The result with the machine that gave it; nothing where no file was asked for. is_complete: no more will be measured."""
    if path:
        part = path.with_name(f"{path.name}.part")  # a time limit may end this program here
        part.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
        part.replace(path)
    if path and is_complete:
        print(f"written to {path}")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # some benchmarks do without it
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


def forever(items: Iterable[Any]) -> Iterator[Any]:
    """All items again and again."""
    while True:
        yield from items


def batches_in(batches: Iterator[Any], seconds: float) -> int:
    """How many batches come in so many seconds."""
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        next(batches)
        count += 1
    return count
