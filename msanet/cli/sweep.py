"""`msanet sweep`: many trainings, placed and steered by Ray Tune, and what they have found."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.parser import new_parser, parse
from msanet.config.loading import help_lines
from msanet.config.recipes import find_config, find_sweep
from msanet.distributed.preemption import EXIT_PREEMPTED
from msanet.errors import UserError
from msanet.sweep import tuning
from msanet.sweep.folders import make_sweep_folder
from msanet.sweep.lock import locked_sweep
from msanet.sweep.plan import SweepPlan, plan_sweep
from msanet.sweep.results import write_results
from msanet.sweep.settings import SweepConfig, load_sweep

_DETAILS = """\
The same command again resumes. FOLDER gets results.csv, sweep.html, best.yaml, which --config of msanet train takes, and a
run folder for each trial in trials/. With --train-best the best settings are trained in FOLDER/best.

"""


@dataclass(frozen=True)
class SweepJob:
    """What is to be done. address: of a Ray cluster; None: Ray on this machine. train_best: instead of trials."""

    plan: SweepPlan
    address: str | None
    train_best: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    job = sweep_job(argv)
    make_sweep_folder(job.plan.folder)
    try:
        return _run(job)
    except KeyboardInterrupt:  # while Tune's own handler is not installed: Ray is joined, or the best is trained
        print("stopped; run the same command again to resume", file=sys.stderr)
        return EXIT_PREEMPTED


def _run(job: SweepJob) -> int:
    """Trials, then what they have found; or the training of the best."""
    with locked_sweep(job.plan.folder):
        return _run_locked(job)


def _run_locked(job: SweepJob) -> int:
    folder = job.plan.folder
    if job.train_best:
        best = folder / "best.yaml"
        if not best.is_file():
            message = f"'{best}' does not exist, expected a sweep with results; run it first, without --train-best"
            raise UserError("MSA-CLI-013", message, setting="--train-best")
        return tuning.train_best(job.plan, best, folder / "best", job.address)
    tuning.tune_sweep(job.plan, job.address)
    return 0 if write_results(job.plan) else EXIT_PREEMPTED


def sweep_job(argv: Sequence[str] | None = None) -> SweepJob:
    """Read the command line. Raises UserError for all that can be known before Ray starts."""
    example = "sweep --config msanet data.path=SHARDS sweep.folder=FOLDER"
    settings = ["settings of the section sweep:", "", *help_lines(SweepConfig, "sweep.")]
    parser = new_parser("sweep", example, _DETAILS + "\n".join(settings))
    config = "the sweep: a YAML file, or the name of a shipped one (msanet recipes)"
    parser.add_argument("--config", required=True, metavar="FILE", help=config)
    of_all = "recipe of all trials, in place of run.config of the sweep"
    parser.add_argument("--recipe", metavar="FILE", help=of_all)
    address = "of a Ray cluster, `auto` on one of its nodes (default: Ray on this machine alone)"
    parser.add_argument("--address", help=address)
    best = "train the best settings found, with those of the section `full`"
    parser.add_argument("--train-best", action="store_true", help=best)
    words = "sweep.* settings, or settings of all trials"
    parser.add_argument("settings", nargs="*", metavar="key=value", help=words)
    arguments = parse(parser, argv)
    if "://" in (arguments.address or ""):
        message = f"--address is '{arguments.address}', expected HOST:PORT of the head's own port, or `auto`; run this on a node"
        raise UserError("MSA-CLI-003", message, setting="--address")
    own = [word for word in arguments.settings if word.startswith("sweep.") and "=" in word]
    others = [word for word in arguments.settings if word not in own]
    path = find_sweep(arguments.config)
    file = load_sweep(path, own)
    recipe = arguments.recipe or file.run.get("config")
    if isinstance(recipe, str):
        is_path = arguments.recipe or Path(recipe).is_file()  # from this folder; otherwise from the sweep's, or a name
        chosen = find_config(recipe, None if is_path else path.parent)
        file = file.model_copy(update={"run": {**file.run, "config": str(chosen)}})
    return SweepJob(plan_sweep(file, path.stem, others), arguments.address, arguments.train_best)
