"""Where the time of a step goes: RUN/profile/trace-<rank>.json.gz, and table.txt and table.json of the ranks' parts.

The trace (torch.profiler, for Perfetto or chrome://tracing) has a few steps as they run. The table has a few more, in which
every part ends only when the device has done it: parts then add up to the step, though what would overlap does not.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, record_function

from msanet import distributed
from msanet.files import atomic_file, write_text
from msanet.training.monitoring.jsonl import JsonlLogger

logger = logging.getLogger(__name__)

_WARM_UP, _TRACED, _TIMED = 3, 2, 5
"""Steps before, in the trace, and in the table."""
STEPS = _WARM_UP + _TRACED + _TIMED
"""Steps that a profile takes."""
_COLLECTIVES = ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor")
_REST = "rest"
_NAMES = {"backward: collectives": "gradient reduction"}


class Stopwatch:
    """Seconds by part. Parts may lie in one another: each has its own time, and all together are the time that it runs."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._open, self._since = device, [_REST], 0.0
        self._runs = False

    def start(self) -> None:
        """From here on time goes to the part that is open, or to the rest."""
        self._open = [_REST]
        self._wait()
        self._since, self._runs = time.perf_counter(), True

    def stop(self) -> None:
        """Up to the next `start`, time goes nowhere."""
        self._book()
        self._runs = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the step."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def collective(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, waited for, as a part inside the part that calls it."""

        @wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if not self._runs or self._open[-1].endswith("collectives"):  # the latter: one that is made of others
                return function(*arguments, **options)
            with self.part(f"{self._open[-1]}: collectives"):
                work = function(*arguments, **options)
                if hasattr(work, "wait"):
                    work.wait()
                return work

        return timed

    def _book(self) -> None:
        self._wait()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class Profiler:
    """Profiles the first steps of a process where `folder` is given; all ranks alike. In order: `begin`, `part`s, `end`."""

    def __init__(self, device: torch.device, folder: Path | None, steps: int) -> None:
        """steps: how many the run still has."""
        self._device, self._folder = device, folder
        self._step = 0
        self._trace: torch.profiler.profile | None = None
        self._stopwatch: Stopwatch | None = None
        self._timed = Stopwatch(device)
        self._writer = JsonlLogger()
        self._restore: list[Callable[[], None]] = []
        if folder and steps < STEPS:
            self._folder = None
            logger.warning(f"nothing is profiled: that takes {STEPS} steps, and {steps} remain")

    def part(self, name: str) -> AbstractContextManager[Any]:
        """A part of the step; costs next to nothing in steps that are not profiled."""
        return self._stopwatch.part(name) if self._stopwatch else record_function(name)

    def begin(self) -> None:
        """A step begins, before its data is asked for."""
        if self._folder is None:
            return
        self._step += 1
        if self._step == _WARM_UP + 1:
            gpu = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            self._trace = torch.profiler.profile(activities=[ProfilerActivity.CPU, *gpu])
            self._trace.start()
        if self._step == _WARM_UP + _TRACED + 1:
            self._stopwatch = self._timed
            self._watch_collectives(self._timed)
        if self._stopwatch:
            self._stopwatch.start()

    def end(self) -> None:
        """The step has been given to the device. A collective after the last one that is profiled."""
        if self._folder is None:
            return
        if self._stopwatch:
            self._stopwatch.stop()
        if self._trace and self._step == _WARM_UP + _TRACED:
            distributed.report_progress("writing a trace", slow=True)
            self._trace.stop()
            path = self._folder / f"trace-{distributed.rank():05d}.json.gz"
            self._writer.write(path, lambda: self._write_trace(path), "there is no trace")
            self._trace = None
        if self._step == STEPS:
            for restore in self._restore:
                restore()
            self._write_table(self._folder)
            self._folder = self._stopwatch = None

    def _write_trace(self, path: Path) -> None:
        with atomic_file(path, path.with_name(f"partial-{path.name}")) as temporary:
            assert self._trace
            self._trace.export_chrome_trace(str(temporary))

    def _write_table(self, folder: Path) -> None:
        own = {_NAMES.get(name, name): seconds / _TIMED for name, seconds in self._timed.seconds.items()}
        ranks = distributed.gather_objects(own)
        if not distributed.is_main():
            return
        names = sorted({name for rank in ranks for name in rank}, key=lambda name: -sum(r.get(name, 0) for r in ranks))
        parts = {name: [rank.get(name, 0.0) for rank in ranks] for name in names}
        step = mean(sum(rank.values()) for rank in ranks)
        result = {"steps": _TIMED, "step_seconds": step, "part_seconds_of_ranks": parts}
        self._writer.write(
            folder / "table.json", lambda: write_text(folder / "table.json", json.dumps(result, indent=1))
        )
        text = _table(parts, step)
        self._writer.write(folder / "table.txt", lambda: write_text(folder / "table.txt", text))
        logger.info(f"profile written to {folder}:\n{text}")

    def _watch_collectives(self, stopwatch: Stopwatch) -> None:
        """Those that we call, and those of DeepSpeed, which keeps some of torch's functions as they were."""
        import deepspeed

        for owner in (dist, deepspeed.comm.comm.cdb):
            for name in _COLLECTIVES:
                if hasattr(owner, name):
                    self._restore.append(_replaced(owner, name, stopwatch.collective(getattr(owner, name))))


def _replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute; what puts the old one back."""
    is_own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before) if is_own else delattr(owner, name)


def _table(parts: dict[str, list[float]], step: float) -> str:
    """Milliseconds a step: the mean of the ranks, its share, and the rank that took longest."""
    lines = [f"{'part':<32}{'ms':>10}{'share':>8}{'most':>10}  rank"]
    for name, seconds in parts.items():
        most = max(seconds)
        share = mean(seconds) / step
        lines.append(f"{name:<32}{1e3 * mean(seconds):>10.2f}{share:>8.1%}{1e3 * most:>10.2f}  {seconds.index(most)}")
    return "\n".join([*lines, f"{'step':<32}{1e3 * step:>10.2f}{1:>8.1%}"]) + "\n"
