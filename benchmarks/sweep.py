"""What a trial of a sweep costs above the same training without Ray: its start, and its steps, in one run.

    python benchmarks/sweep.py --shards FOLDER [--ranks N] [--rounds N] [--json FILE]

FOLDER: shards of any dataset. Every round trains once without Ray (`python` for one rank, `deepspeed` for more), and runs a
sweep of two trials, one after the other: the first one's start has Ray's own in it, the second one's has not. A step's time
is what metrics.jsonl has of it, the median of all but the first 30. Bar: steady state within 2 percent.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import median_ratio, print_table, write_json  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.02
BATCH, WARM = 4, 30
RUN = {
    "model.name": "unet",
    "model.width": 0.25,
    "data.crop": [96, 96],
    "data.workers": 1,
    "evaluation.workers": 0,
    "trainer.global_batch": BATCH,
    "trainer.log_every": 1,
    "trainer.evaluate_every": 0,
}
Figures = dict[str, float]


def main() -> int:
    """Measure, print and compare with the bar; exit code 1 if it is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder of shards")
    parser.add_argument("--ranks", type=int, default=1, help="processes of a training (default 1)")
    parser.add_argument("--steps", type=int, default=200, help="of a training (default 200)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    settings = {**RUN, "data.path": str(Path(args.shards).resolve()), "trainer.steps": args.steps}
    measures: dict[str, Callable[[Path], Figures]] = {
        "without Ray": partial(alone, settings, args.ranks),
        "trial": partial(trials, settings, args.ranks),
    }
    turns = []
    for _ in range(args.rounds):
        turn: Figures = {}
        for measure in measures.values():
            with tempfile.TemporaryDirectory() as folder:
                turn |= measure(Path(folder))
        print(json.dumps(turn), file=sys.stderr, flush=True)
        turns.append(turn)
    found = {name: [turn[name] for turn in turns] for name in turns[0]}
    peers = {name: f"{name.partition(',')[0]}, without Ray" for name in found}
    ratios = {name: median_ratio(found[name], found[peers[name]]) for name in found}
    print_table(("", "s", "times"), [(name, statistics.median(found[name]), ratios[name]) for name in found])
    steady = ratios["step, trial"]
    print(f"\nsteady state: {100 * (steady - 1):.1f} percent above the same without Ray, at most {100 * (BAR - 1):.0f}")
    write_json(args.json, {"seconds": found, "ratios": ratios, "bar": BAR, "ranks": args.ranks, "steps": args.steps})
    return 0 if steady <= BAR else 1


def alone(settings: dict[str, object], ranks: int, folder: Path) -> Figures:
    """One training as its command."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "deepspeed.launcher.runner", "--quiet", "--num_accelerators", str(ranks)]
    words = [f"{name}={json.dumps(value)}" for name, value in {**settings, "run.dir": str(folder / "run")}.items()]
    command = [*launcher, "launcher/train.py", *words]
    start = time.time()
    first = first_steps(command, folder, lambda: folder / "run", 1)[0]
    return {"first step, without Ray": first - start, "step, without Ray": step_seconds(folder / "run")}


def trials(settings: dict[str, object], ranks: int, folder: Path) -> Figures:
    """Two trials, one after the other."""
    cpus = max(1, len(os.sched_getaffinity(0)) // ranks)  # all of the machine's, as the training without Ray has
    sweep, file = {"trials": 2, "ranks": ranks, "cpus": cpus, "concurrent": 1}, folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"sweep": sweep, "run": settings, "space": {"run.seed": {"choice": [0]}}}))
    os.environ["RAY_TMPDIR"] = str(folder)
    command = [sys.executable, "jobs/sweep.py", "--config", str(file), f"sweep.folder={folder / 'out'}"]

    def newest() -> Path:
        return max((folder / "out" / "trials").glob("*"), default=folder / "none yet")

    start = time.time()
    firsts = first_steps(command, folder, newest, 2)
    one, two = sorted((folder / "out" / "trials").glob("*"))
    return {
        "first step, trial": firsts[0] - start,
        "first step, next trial": firsts[1] - (one / "outcome.json").stat().st_mtime,
        "step, trial": statistics.mean(step_seconds(run) for run in (one, two)),
    }


def first_steps(command: list[str], folder: Path, newest: Callable[[], Path], runs: int) -> list[float]:
    """Run a command to its end: when each of its trainings, of which `newest` is the last that was begun, had done a step."""
    found: dict[Path, float] = {}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        while process.poll() is None:
            metrics = newest() / "metrics.jsonl"
            if metrics not in found and metrics.is_file() and metrics.stat().st_size:
                found[metrics] = time.time()
            time.sleep(0.02)
    if process.returncode or len(found) != runs:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{(folder / 'log').read_text()}")
    return list(found.values())


def step_seconds(run: Path) -> float:
    """The median of its steps, once it is warm."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(BATCH / line["images_per_second"] for line in lines[WARM:] if "images_per_second" in line)


if __name__ == "__main__":
    sys.exit(main())
