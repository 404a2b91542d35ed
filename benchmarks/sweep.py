"""What a trial of a sweep costs above the same training without Ray: its start, and its steps, in one run.

    python benchmarks/sweep.py --shards FOLDER [--ranks N] [--rounds N] [--pairs N] [--json FILE]

FOLDER: shards of any dataset. Start: every round trains a few steps without Ray (`python` for one rank, `deepspeed` for
more), and runs a sweep of two trials, one after the other: the first one's start has Ray's own in it, the second one's has
not. Steps: a training without Ray and a trial are both started and take turns of some seconds, in which all processes of the
other, Ray's daemons among them, are frozen (SIGSTOP): a machine whose speed drifts by half within minutes drifts for both.
A step's time is that between the lines of metrics.jsonl, with all that happens between steps. Bar: within 2 percent.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import median_ratio, print_table, write_json  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.02
FEW, ENDLESS = 5, 10**6
"""Steps: of a training whose start is timed, and of one that is ended from outside."""
WARM, TURN = 40, 6.0
"""Steps before the first turn; seconds of a turn."""
POLL = 0.01
RUN = {
    "model.name": "unet",
    "model.width": 0.25,
    "data.crop": [96, 96],
    "data.workers": 1,
    "evaluation.workers": 0,
    "trainer.global_batch": 4,
    "trainer.log_every": 1,
    "trainer.evaluate_every": 0,
}


class Job(NamedTuple):
    """A command, and the trainings that it has begun, in order."""

    command: list[str]
    trainings: Callable[[], list[Path]]

    def lines(self) -> Path | None:
        """Where the newest of them writes a line for each step, once it has."""
        files = [folder / "metrics.jsonl" for folder in self.trainings()[-1:]]
        return next((file for file in files if file.is_file() and file.stat().st_size), None)


def main() -> int:
    """Measure, print and compare with the bar; exit code 1 if it is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder of shards")
    parser.add_argument("--ranks", type=int, default=1, help="processes of a training (default 1)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the starts (default 5)")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of turns of the steps (default 40)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    settings = {**RUN, "data.path": str(Path(args.shards).resolve())}
    starts = [start_seconds(settings, args.ranks) for _ in range(args.rounds)]
    found = {name: [turn[name] for turn in starts] for name in starts[0]}
    ratios = {name: median_ratio(times, found["first step, without Ray"]) for name, times in found.items()}
    turns = step_seconds(settings, args.ranks, args.pairs)
    found |= turns
    trial, alone = turns["step, trial"], turns["step, without Ray"]
    steady, (low, high) = median_ratio(trial, alone), bounds(trial, alone)
    ratios |= {"step, without Ray": 1.0, "step, trial": steady}
    print_table(("", "s", "times"), [(name, statistics.median(found[name]), ratios[name]) for name in found])
    print(
        f"\nsteady state: {100 * (steady - 1):+.1f} percent against the same without Ray ({100 * (low - 1):+.1f} to "
        f"{100 * (high - 1):+.1f}: 95 percent, {args.pairs} pairs of turns), at most {100 * (BAR - 1):.0f}"
    )
    write_json(args.json, {"seconds": found, "ratios": ratios, "bounds": [low, high], "bar": BAR, "ranks": args.ranks})
    return 0 if steady <= BAR else 1


def without_ray(settings: dict[str, Any], ranks: int, folder: Path) -> Job:
    """A training as its command."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "deepspeed.launcher.runner", "--quiet", "--num_accelerators", str(ranks)]
    words = [f"{name}={json.dumps(value)}" for name, value in {**settings, "run.dir": str(folder / "run")}.items()]
    return Job([*launcher, "launcher/train.py", *words], lambda: [folder / "run"])


def sweep(settings: dict[str, Any], ranks: int, trials: int, folder: Path) -> Job:
    """Trials, one after the other."""
    cpus = max(1, len(os.sched_getaffinity(0)) // ranks)  # all of the machine's, as the training without Ray has
    plan, file = {"trials": trials, "ranks": ranks, "cpus": cpus, "concurrent": 1}, folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"sweep": plan, "run": settings, "space": {"run.seed": {"choice": [0]}}}))
    command = [sys.executable, "jobs/sweep.py", "--config", str(file), f"sweep.folder={folder / 'sweep'}"]
    return Job(command, lambda: sorted((folder / "sweep" / "trials").glob("*")))


def start_seconds(settings: dict[str, Any], ranks: int) -> dict[str, float]:
    """From a command, or from the end of the trial before, to the end of the first step."""
    few = {**settings, "trainer.steps": FEW}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin = time.time()
        (alone,) = first_steps(without_ray(few, ranks, folder), folder)
        found = {"first step, without Ray": alone - begin}
        begin = time.time()
        first, second = first_steps(sweep(few, ranks, 2, folder), folder)
        outcome = min((folder / "sweep" / "trials").glob("*")) / "outcome.json"
        found |= {"first step, trial": first - begin, "first step, next trial": second - outcome.stat().st_mtime}
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def first_steps(job: Job, folder: Path) -> list[float]:
    """Let a job run to its end: when each of its trainings had done a step."""
    found: dict[Path, float] = {}
    with running(job, folder) as process:
        while process.poll() is None:
            file = job.lines()
            if file and file not in found:
                found[file] = time.time()
            time.sleep(POLL)
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    return list(found.values())


def step_seconds(settings: dict[str, Any], ranks: int, pairs: int) -> dict[str, list[float]]:
    """Seconds per step in every turn of a training without Ray and of a trial; while one has its turn, the other is frozen."""
    endless = {**settings, "trainer.steps": ENDLESS}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        jobs = {
            "step, without Ray": without_ray(endless, ranks, folder),
            "step, trial": sweep(endless, ranks, 1, folder),
        }
        processes: dict[str, subprocess.Popen[bytes]] = {}
        lines: dict[str, BinaryIO] = {}
        for name, job in jobs.items():
            processes[name] = stack.enter_context(running(job, folder))
            lines[name] = stack.enter_context(warm_lines(job, processes[name], folder))
            send(signal.SIGSTOP, processes[name])
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for pair in range(pairs):
            for name in sorted(jobs, reverse=bool(pair % 2)):  # a drift within a pair is not always the same one's
                send(signal.SIGCONT, processes[name])
                found[name].append(one_turn(lines[name]))
                send(signal.SIGSTOP, processes[name])
            print(json.dumps({name: times[-1] for name, times in found.items()}), file=sys.stderr, flush=True)
    return found


@contextmanager
def running(job: Job, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job's process, and no process of it left afterwards."""
    environment = os.environ | {"RAY_TMPDIR": str(folder)}
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(job.command, cwd=ROOT, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            yield process
        finally:
            send(signal.SIGKILL, process)


@contextmanager
def warm_lines(job: Job, process: subprocess.Popen[bytes], folder: Path) -> Iterator[BinaryIO]:
    """The lines that a training writes after its first ones."""
    while not (file := job.lines()):
        if process.poll() is not None:
            raise SystemExit((folder / "log").read_text())
        time.sleep(POLL)
    with file.open("rb") as lines:
        steps = 0
        while steps < WARM:
            steps += lines.read().count(b"\n")
            time.sleep(POLL)
        yield lines


def one_turn(lines: BinaryIO) -> float:
    """Seconds per step, from the end of its first one, which was frozen in the middle, to that of its last."""
    ends: list[float] = []
    until = time.monotonic() + TURN
    while time.monotonic() < until:
        ends += [time.monotonic()] * lines.read().count(b"\n")
        time.sleep(POLL)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def send(number: signal.Signals, process: subprocess.Popen[bytes]) -> None:
    """A signal to a process and to all that descend from it, as far as they still run."""
    if process.poll() is None:
        root = psutil.Process(process.pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


def bounds(times: list[float], peer: list[float]) -> tuple[float, float]:
    """Of the median of the pairs' ratios, those of 95 percent of bootstrap samples."""
    ratios = np.array(times) / np.array(peer)
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
