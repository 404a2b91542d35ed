"""What networks reach when trained from scratch on the same data, over several seeds: mean IoU with intervals, curves, cost.

    python benchmarks/convergence.py --shards SHARDS --out FOLDER [--config RECIPE] [--seeds 0 1 2] [--networks NAME ...]
        [--launch "deepspeed --num_gpus 8"] [--json FILE] [key=value ...]

Each network and seed is one run of launcher/train.py in FOLDER/NAME-SEED, one after the other; the same command again goes on
where it was stopped. Judged is the end of the run, not its best validation, on the validation split; intervals are Student's,
95 %, over seeds, and so is that of the difference to the first network, paired by seed. key=value goes to every run. Writes
FOLDER/curves.png. `--minutes N` stops in time, with all runs saved.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_table, write_json  # noqa: E402

from msanet.distributed.preemption import EXIT_PREEMPTED  # noqa: E402
from msanet.evaluation.run_report import read_lines  # noqa: E402
from msanet.run_layout import RunLayout  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {
    "msanet": ["model.name=msanet"],
    "msanet-without-attention": ["model.name=msanet", "model.attention=none"],
    "unet": ["model.name=unet"],
}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % quantiles of Student's t, by the number of values."""
HEADER = (
    "network", "seeds", "mIoU, %", "to the first", "best validation, %", "images/s", "minutes a run", "peak memory, GB",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a finished run has written. curve: (epoch, mean IoU in percent) of each validation. minutes: of training alone."""

    curve: tuple[tuple[float, float], ...]
    images_per_second: float
    minutes: float
    peak_memory_gb: float

    @property
    def end(self) -> float:
        """Mean IoU of the last validation, in percent."""
        return self.curve[-1][1]

    @property
    def best(self) -> float:
        return max(value for _, value in self.curve)


def main() -> int:
    """Train, print the table, draw the curves. 75 where time was up before all runs were done, else a failed run's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="made by python -m sharding")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "jobs/recipes/camvid.yaml", help="recipe (default: camvid)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    args = with_run_options(parser).parse_intermixed_args()
    deadline = time.monotonic() + 60 * args.minutes
    code = 0
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in args.networks}
    runs: dict[str, list[Run]] = {name: [] for name in args.networks}
    for seed in args.seeds:  # seeds outside, so that an early end leaves whole comparisons
        for name in args.networks:
            run = folder(args.out, name, seed)
            code = code or train(command(args, run, seed, NETWORKS[name]), deadline)
            if has_validated(run):
                runs[name].append(read(run))
                figures[name].append(vars(runs[name][-1]) | {"seed": seed, "is_complete": not code})
                write_json(args.json, {"command": shlex.join(sys.argv), "runs": figures}, is_complete=False)
    if code:
        return code
    first = [run.end for run in runs[args.networks[0]]]
    print_table(HEADER, [row(name, found, first) for name, found in runs.items()])
    draw(args.out / "curves.png", runs)
    write_json(args.json, {"command": shlex.join(sys.argv), "runs": figures})
    return 0


def with_run_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of a benchmark that trains several runs: how they are started, and how long."""
    parser.add_argument("--launch", default=sys.executable, help="what starts the ranks (default: one process)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then save and stop")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of every run")
    return parser


def command(args: argparse.Namespace, run: Path, seed: int, words: Sequence[str]) -> list[str]:
    """That which trains one run, with the words of its variant."""
    own = [f"data.path={args.shards}", f"run.dir={run}", f"run.seed={seed}", *words, *args.settings]
    return [*shlex.split(args.launch), "launcher/train.py", "--config", str(args.config.resolve()), *own]


def has_validated(run: Path) -> bool:
    """Whether a run, which may have been stopped, has something to show."""
    metrics = RunLayout(run).metrics
    return metrics.is_file() and any("val/mean_iou" in line for line in read_lines(metrics))


def folder(out: Path, name: str, seed: int) -> Path:
    """Of one run."""
    return out.resolve() / f"{name}-{seed}"


def train(words: list[str], deadline: float) -> int:
    """One run to its end, or until time is up: then it is told to save, which gives 75."""
    if time.monotonic() > deadline:
        return EXIT_PREEMPTED
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        return process.wait(min(deadline - time.monotonic(), 1e9))
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return EXIT_PREEMPTED  # whatever the launcher made of it


def read(run: Path) -> Run:
    """A finished run."""
    lines = read_lines(RunLayout(run).metrics)
    validations = [line for line in lines if "val/mean_iou" in line]
    steps = [line for line in lines if "images_per_second" in line]
    begun = [0, *(line["samples"] for line in steps[:-1])]
    seconds = sum(
        (line["samples"] - before) / line["images_per_second"] for line, before in zip(steps, begun, strict=True)
    )
    return Run(
        curve=tuple((line["epoch"], 100 * line["val/mean_iou"]) for line in validations),
        images_per_second=statistics.median(line["images_per_second"] for line in steps),
        minutes=seconds / 60,
        peak_memory_gb=max(line["peak_memory_gb"] for line in steps),
    )


def interval(values: Sequence[float]) -> str:
    """`mean ± half of the 95 % interval`; the mean alone where there is one value, or more than the table has."""
    mean = statistics.fmean(values)
    if len(values) not in STUDENT:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def row(name: str, runs: list[Run], first: list[float]) -> tuple[Any, ...]:
    """One line of the table."""
    ends = [run.end for run in runs]
    differences = [end - other for end, other in zip(ends, first, strict=True)]
    return (
        name,
        len(runs),
        interval(ends),
        interval(differences) if any(differences) else "",
        interval([run.best for run in runs]),
        f"{statistics.median(run.images_per_second for run in runs):.1f}",
        f"{statistics.median(run.minutes for run in runs):.1f}",
        f"{max(run.peak_memory_gb for run in runs):.1f}",
    )


def draw(path: Path, runs: dict[str, list[Run]]) -> None:
    """Validation mIoU over epochs: the mean of the seeds, and a band from the lowest to the highest."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, found in runs.items():
        epochs = [epoch for epoch, _ in found[0].curve]
        by_epoch = [[run.curve[i][1] for run in found] for i in range(len(epochs))]
        (line,) = axes.plot(epochs, [statistics.fmean(values) for values in by_epoch], label=name)
        axes.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), alpha=0.2, color=line.get_color())
    axes.set(xlabel="epoch", ylabel="validation mIoU, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
