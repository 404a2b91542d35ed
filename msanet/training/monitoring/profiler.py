"""Where the time of a step goes: RUN/profile/trace-<rank>.json.gz, and table.txt and table.json of the ranks' parts.

The trace (torch.profiler, for Perfetto or chrome://tracing) has a few steps as they run. The table has a few more, in which the
host waits for the device at the end of each part: parts then add up to the step, though nothing overlaps. The collectives
below it are those of the trace. See docs/decisions/0018.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.profiler import ProfilerActivity, record_function

from msanet import distributed
from msanet.files import atomic_file, write_text
from msanet.training.monitoring.jsonl import JsonlLogger

logger = logging.getLogger(__name__)

_WARM_UP, _TRACED, _TIMED = 3, 2, 5
"""Steps before, in the trace, and in the table."""
STEPS = _WARM_UP + _TRACED + _TIMED
"""Steps that a profile takes."""
_GLOO = ("gloo:", "c10d::_reduce_scatter_base_")
"""Events of collectives on CPUs; gloo's reduce-scatter has none of its own."""


class Stopwatch:
    """Seconds by part; what is in none is `rest`, so that all add up to the time that is measured."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._since = device, 0.0

    def start(self) -> None:
        """Time counts from here on."""
        self._since = self._now()

    def lap(self, part: str = "rest") -> None:
        """Add the time since the last call to a part."""
        now = self._now()
        self.seconds[part] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the step; not inside another."""
        self.lap()
        yield
        self.lap(name)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Profiler:
    """Profiles the first steps of a process if `folder` is given; all ranks alike. In order: `begin`, `part`s, `end`.

    steps: how many the run still has.
    """

    def __init__(self, device: torch.device, folder: Path | None, steps: int) -> None:
        self._folder, self._step = folder, 0
        self._stopwatch, self._is_timed = Stopwatch(device), False
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._trace: Any = torch.profiler.profile(activities=activities)
        self._writer = JsonlLogger()
        if folder and steps < STEPS:
            self._folder = None
            logger.warning(f"nothing is profiled: that takes {STEPS} steps, and {steps} remain")

    def part(self, name: str) -> AbstractContextManager[Any]:
        """A part of the step; costs next to nothing in steps that are not profiled."""
        return self._stopwatch.part(name) if self._is_timed else record_function(name)

    def begin(self) -> None:
        """A step begins, before its data is asked for."""
        if self._folder is None:
            return
        self._step += 1
        if self._step == _WARM_UP + 1:
            self._trace.start()
        self._is_timed = self._step > _WARM_UP + _TRACED
        if self._is_timed:
            self._stopwatch.start()

    def end(self) -> None:
        """The step has been given to the device. A collective after the last one that is profiled."""
        if self._folder is None:
            return
        if self._is_timed:
            self._stopwatch.lap()
        if self._step == _WARM_UP + _TRACED:
            distributed.report_progress("writing a trace", slow=True)
            self._trace.stop()
            path = self._folder / f"trace-{distributed.rank():05d}.json.gz"
            self._writer.write(path, partial(self._write_trace, path), "there is no trace")
        if self._step == STEPS:
            self._write_table(self._folder)
            self._folder, self._is_timed, self._trace = None, False, None  # it holds all of its events

    def _write_trace(self, path: Path) -> None:
        with atomic_file(path, path.with_name(f"partial-{path.name}")) as temporary:
            self._trace.export_chrome_trace(str(temporary))

    def _write_table(self, folder: Path) -> None:
        own = {name: seconds / _TIMED for name, seconds in self._stopwatch.seconds.items()}
        ranks = distributed.gather_objects((own, _collectives(self._trace)))
        if not distributed.is_main():
            return
        parts, collectives = (
            {name: [rank[kind].get(name, 0.0) for rank in ranks] for name in ranks[0][kind]} for kind in range(2)
        )
        step = sum(map(mean, parts.values()))
        result = {
            "steps": _TIMED,
            "step_seconds": step,
            "part_seconds_of_ranks": parts,
            "collective_seconds_of_ranks": collectives,
        }
        lines = [f"{'part':<32}{'ms':>10}{'share':>8}{'most':>10}  rank"]
        lines += [_row(name, seconds, step) for name, seconds in parts.items()]
        lines += [f"{'step':<32}{1e3 * step:>10.2f}{1:>8.1%}"]
        lines += [_row(name, seconds, step) for name, seconds in collectives.items()]
        text = "\n".join(lines) + "\n"
        for path, content in ((folder / "table.json", json.dumps(result, indent=1)), (folder / "table.txt", text)):
            self._writer.write(path, partial(write_text, path, content))
        logger.info(f"profile written to {folder}:\n{text}")


def _collectives(trace: torch.profiler.profile) -> dict[str, float]:
    """Seconds a step by collective, such as `gloo:all_reduce`; on GPUs by kernel, such as `ncclDevKernel_AllReduce_...`."""
    found = {}
    for event in trace.key_averages():
        if event.key.startswith("nccl") and event.device_time_total:
            found[event.key] = event.device_time_total / 1e6 / _TRACED
        elif event.key.startswith(_GLOO):
            found[event.key] = event.cpu_time_total / 1e6 / _TRACED
    return found


def _row(name: str, seconds: list[float], step: float) -> str:
    """Milliseconds a step: the mean of the ranks, its share, and the rank that took longest."""
    most = max(seconds)
    return (
        f"{name:<32}{1e3 * mean(seconds):>10.2f}{mean(seconds) / step:>8.1%}{1e3 * most:>10.2f}  {seconds.index(most)}"
    )
