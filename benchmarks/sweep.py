"""What a trial of a sweep costs above the same training without Ray: its start, and its steps, in one run.

    python benchmarks/sweep.py --shards FOLDER [--ranks N] [--rounds N] [--pairs N] [--json FILE]

FOLDER: shards of any dataset. Start: every round trains a few steps without Ray (`python` for one rank, `deepspeed` for
more), and runs a sweep of two trials, one after the other: the first one's start has Ray's own in it, the second one's has
not. Steps: a training without Ray and a trial are both started and take turns of some seconds, in which all processes of the
other, Ray's daemons among them, are frozen (SIGSTOP): a machine whose speed drifts by half within minutes drifts for both.
A step's time is that between the lines of metrics.jsonl, with all that happens between steps. On a shared machine it says little
to a percent; what says more is the CPU time of the trial's processes against that of its ranks alone, which is what Ray can take
from steps where cores are busy. Bar: 2 percent.
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
WARM, TURN = 40, 4.0
"""Steps before the first turn; seconds of a turn."""
POLL = 0.01
SCRIPT = "launcher/train.py"
ALONE, TRIAL = "without Ray", "trial"
RUN = {
    "model.name": "unet",
    "model.width": 0.25,
    "data.crop": [96, 96],
    "data.num_workers": 1,
    "evaluation.num_workers": 0,
    "trainer.global_batch_size": 4,
    "trainer.log_every_steps": 1,
    "trainer.val_every_epochs": 0,
}


Figures = dict[str, float]


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
    parser.add_argument("--pairs", type=int, default=60, help="pairs of turns of the steps (default 60)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing frozen stays behind
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    settings = {**RUN, "data.path": str(Path(args.shards).resolve())}
    starts = [start_seconds(settings, args.ranks) for _ in range(args.rounds)]
    found = {name: [turn[name] for turn in starts] for name in starts[0]}
    found |= steady_state(settings, args.ranks, args.pairs)
    ratios = {name: median_ratio(times, found[f"{name.partition(',')[0]}, {ALONE}"]) for name, times in found.items()}
    print_table(("", "s", "times"), [(name, statistics.median(found[name]), ratios[name]) for name in found])
    intervals = {}
    for what in ("step", "CPU of a step"):
        times, alone = found[f"{what}, {TRIAL}"], found[f"{what}, {ALONE}"]
        low, high = intervals[what] = bounds(times, alone)
        print(
            f"{what}: {percent(median_ratio(times, alone))} ({percent(low)} to {percent(high)} with 95 percent confidence)"
        )
    of_ray = median_ratio(found[f"CPU of a step, {TRIAL}"], found[f"CPU of a step's ranks, {TRIAL}"])
    print(f"CPU of a step, all of a trial's processes against its ranks: {percent(of_ray)}, at most {percent(BAR)}")
    result = {
        "seconds": found,
        "ratios": ratios,
        "intervals": intervals,
        "of_ray": of_ray,
        "bar": BAR,
        "ranks": args.ranks,
    }
    write_json(args.json, result)
    return 0 if of_ray <= BAR else 1


def percent(ratio: float) -> str:
    """`+1.2 %`."""
    return f"{100 * (ratio - 1):+.1f} %"


def without_ray(settings: dict[str, Any], ranks: int, folder: Path) -> Job:
    """A training as its command."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "deepspeed.launcher.runner", "--quiet", "--num_accelerators", str(ranks)]
    words = [f"{name}={json.dumps(value)}" for name, value in {**settings, "run.dir": str(folder / "run")}.items()]
    return Job([*launcher, SCRIPT, *words], lambda: [folder / "run"])


def sweep(settings: dict[str, Any], ranks: int, trials: int, folder: Path) -> Job:
    """Trials, one after the other."""
    cpus = max(1, len(os.sched_getaffinity(0)) // ranks)  # all of the machine's, as the training without Ray has
    plan, file = {"trials": trials, "ranks": ranks, "cpus": cpus, "max_concurrent_trials": 1}, folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"sweep": plan, "run": settings, "space": {"run.seed": {"choice": [0]}}}))
    command = [sys.executable, "jobs/sweep.py", "--config", str(file), f"sweep.folder={folder / 'sweep'}"]
    return Job(command, lambda: sorted((folder / "sweep" / "trials").glob("*")))


def start_seconds(settings: dict[str, Any], ranks: int) -> Figures:
    """From a command, or from the end of the trial before, to the end of the first step."""
    few = {**settings, "trainer.steps": FEW}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begin = time.time()
        (alone,) = first_steps(without_ray(few, ranks, folder), folder)
        found = {f"first step, {ALONE}": alone - begin}
        begin = time.time()
        first, second = first_steps(sweep(few, ranks, 2, folder), folder)
        outcome = min((folder / "sweep" / "trials").glob("*")) / "outcome.json"
        found |= {f"first step, {TRIAL}": first - begin, "first step, next trial": second - outcome.stat().st_mtime}
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


def steady_state(settings: dict[str, Any], ranks: int, pairs: int) -> dict[str, list[float]]:
    """What a step takes in every turn of a training without Ray and of a trial; while one has its turn, the other is frozen."""
    endless = {**settings, "trainer.steps": ENDLESS}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        jobs = {ALONE: without_ray(endless, ranks, folder), TRIAL: sweep(endless, ranks, 1, folder)}
        processes: dict[str, subprocess.Popen[bytes]] = {}
        lines: dict[str, BinaryIO] = {}
        for name, job in jobs.items():
            processes[name] = stack.enter_context(running(job, folder))
            lines[name] = stack.enter_context(warm_lines(job, processes[name], folder))
            send(signal.SIGSTOP, processes[name])
        found: dict[str, list[float]] = {}
        for pair in range(pairs):
            for name in sorted(jobs, reverse=bool(pair % 2)):  # a drift within a pair is not always the same one's
                send(signal.SIGCONT, processes[name])
                for what, seconds in one_turn(processes[name], lines[name]).items():
                    found.setdefault(f"{what}, {name}", []).append(seconds)
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


def one_turn(process: subprocess.Popen[bytes], lines: BinaryIO) -> Figures:
    """Of a step, from the end of the turn's first one, which was frozen in the middle, to that of its last."""
    next_steps(process, lines)
    begin, (ranks_before, all_before), steps = time.monotonic(), cpu_seconds(process), 0
    while time.monotonic() < begin + TURN:
        steps += next_steps(process, lines)
    end, (ranks, all_of_it) = time.monotonic(), cpu_seconds(process)
    return {
        "step": (end - begin) / steps,
        "CPU of a step": (all_of_it - all_before) / steps,
        "CPU of a step's ranks": (ranks - ranks_before) / steps,
    }


def next_steps(process: subprocess.Popen[bytes], lines: BinaryIO) -> int:
    """Wait for the end of the next step; how many have ended."""
    while not (steps := lines.read().count(b"\n")):
        if process.poll() is not None:
            raise SystemExit("a training has ended too soon")
        time.sleep(POLL)
    return steps


def cpu_seconds(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """What the ranks with their loader processes, and all of a job's processes, have used so far."""
    everything = tree(process)
    words = {one: " ".join(one.cmdline()) for one in everything}
    starts = (SCRIPT, "-m msanet train")  # of a plain training, and of a trial
    trainings = [one for one in everything if any(start in words[one] for start in starts)]
    ranks = [one for one in trainings if "deepspeed.launcher" not in words[one]]
    of_ranks = {one.pid for rank in ranks for one in (rank, *rank.children(recursive=True))}
    used = {one.pid: sum(one.cpu_times()[:2]) for one in everything}
    return sum(seconds for pid, seconds in used.items() if pid in of_ranks), sum(used.values())


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all that descend from it."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def send(number: signal.Signals, process: subprocess.Popen[bytes]) -> None:
    """A signal to a process and to all that descend from it, as far as they still run."""
    if process.poll() is None:
        for one in tree(process):
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
