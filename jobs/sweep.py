"""Search for good settings: many trainings by launcher/train.py, placed and steered by Ray Tune.

    python jobs/sweep.py --config jobs/sweeps/NAME.yaml data.path=SHARDS sweep.folder=FOLDER [key=value ...]
    python jobs/sweep.py --config jobs/sweeps/NAME.yaml data.path=SHARDS sweep.folder=FOLDER --train-best

The same command again goes on. FOLDER gets results.csv, sweep.html, best.yaml, which launcher/train.py takes as it is, and
a run folder for each trial under trials/. With --train-best the best settings are trained in FOLDER/best.
"""

import sys
from pathlib import Path

from msanet.distributed.preemption import EXIT_PREEMPTED
from msanet.errors import UserError, user_errors
from msanet.sweep.command_line import SweepJob, sweep_job
from msanet.sweep.results import write_results
from msanet.sweep.tuning import train_best, tune_sweep

TRAIN = Path(__file__).resolve().parent.parent / "launcher" / "train.py"


def sweep(job: SweepJob) -> int:
    """Trials, then what they have found; or the training of the best."""
    folder = job.plan.folder
    if job.train_best:
        best = folder / "best.yaml"
        if not best.is_file():
            raise UserError(f"'{best}' is not there, expected a sweep with results; run it first, without --train-best")
        return train_best(job.plan, best, folder / "best", job.address)
    tune_sweep(job.plan, job.address)
    return 0 if write_results(job.plan) else EXIT_PREEMPTED


if __name__ == "__main__":
    with user_errors():
        try:
            code = sweep(sweep_job(__doc__ or "", TRAIN, sys.argv[1:]))
        except KeyboardInterrupt:  # while Tune's own handler is not there: Ray is joined, or the best is trained
            print("stopped; the same command goes on", file=sys.stderr)
            code = EXIT_PREEMPTED
    sys.exit(code)
