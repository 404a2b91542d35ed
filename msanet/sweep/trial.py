"""One trial, as Ray Tune runs it: starts the ranks of a training, and reports each validation to Tune."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from msanet.errors import EXIT_USER_ERROR
from msanet.files import PARTIAL, write_text
from msanet.folder_lock import wait_until_free
from msanet.run_layout import RunLayout
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import LOCK_TIMEOUT_SECONDS, RankExit, acquire_lock
from msanet.sweep.ranks import LOCK_FILE, start_ranks, wait_for_ranks
from msanet.sweep.space import params_from_ray
from msanet.sweep.trial_files import CheckpointReference, Outcome, Params
from msanet.training.checkpoint.io import checkpoint_folders
from msanet.training.monitoring.jsonl import cut_after

_REPORTED_FILE, _PUBLISHED = "reported_step", "published"
_KEEP_PUBLISHED = 3


def run_trial(config: dict[str, Any], plan: SweepPlan) -> None:
    """Train with the parameters that Tune has sampled, from this trial's own last checkpoint or, after pbt's exploit, another's.

    Raises:
        RuntimeError: A failure after which resuming from the last checkpoint may help. Bad input is only recorded.
    """
    import ray
    from ray import tune

    run = plan.trials / tune.get_context().get_trial_id()
    params = plan.active_params(params_from_ray(config))
    acquire_lock(run / LOCK_FILE).close()  # the ranks of an earlier attempt have ended
    wait_until_free(RunLayout(run).lock, LOCK_TIMEOUT_SECONDS)
    command = plan.command(params, run)
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            reference = CheckpointReference.load(Path(folder))
        if reference and reference.run != run:
            clone_checkpoint(run, reference)
    if plan.sweep.searcher == "pbt":
        command.append("run.allow_changes=[batch,optimizer,order]")
    Params(params=params).save(run)
    (run / Outcome.NAME).unlink(missing_ok=True)
    reporter = _Reporter(run, plan.metric_key(params), plan.sweep.metric, publishes=plan.sweep.searcher == "pbt")
    actors, running = start_ranks(plan, command, run)
    try:
        exits = wait_for_ranks(actors, running, reporter.send)
    except ray.exceptions.RayError as error:
        Outcome(status="failed", error=f"a rank or its node was lost: {str(error).splitlines()[0]}").save(run)
        raise
    finally:
        for actor in actors:
            ray.kill(actor)  # ranks that still run save and end
    record_exits(run, exits)


def record_exits(run: Path, exits: list[RankExit]) -> None:
    """Record how a trial's ranks have ended. Raises RuntimeError for a failure that may pass."""
    codes = [rank_exit.code for rank_exit in exits]
    if not any(codes):
        Outcome(status="done").save(run)
        return
    bad_input = [rank_exit for rank_exit in exits if rank_exit.code == EXIT_USER_ERROR]
    errors = [failed.message for failed in bad_input or exits if failed.code and failed.message]
    error = errors[0] if errors else f"its ranks ended with exit codes {codes}"
    Outcome(status="failed", error=error).save(run)
    if not bad_input:
        raise RuntimeError(f"exit codes {codes}")


class _Reporter:
    """Reports those validations in metrics.jsonl to Tune that it has not got yet. key: the metric's name in that file.

    publishes: whether each report has a checkpoint that other trials may copy; a trial finds its own by itself.
    """

    def __init__(self, run: Path, key: str, metric: str, publishes: bool) -> None:
        self._run, self._key, self._metric, self._publishes = run, key, metric, publishes
        self._metrics_file = RunLayout(run).metrics
        self._offset = 0
        reported = run / _REPORTED_FILE
        self._reported_step = int(reported.read_text()) if reported.is_file() else 0

    def send(self) -> None:
        from ray import tune

        for line in self._new_lines():
            if line.get(self._key) is None or line["step"] <= self._reported_step:
                continue
            metrics = {self._metric: line[self._key], "epoch": line["epoch"], "step": line["step"]}
            tune.report(metrics, checkpoint=self._checkpoint() if self._publishes else None)
            self._reported_step = line["step"]
            write_text(self._run / _REPORTED_FILE, f"{self._reported_step}\n")

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not self._metrics_file.is_file():
            return
        with self._metrics_file.open("rb") as file:
            if self._metrics_file.stat().st_size < self._offset:  # a run that resumes removes lines of steps it repeats
                self._offset = 0
            file.seek(self._offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                self._offset += len(text)
                with suppress(ValueError):
                    yield json.loads(text)

    def _checkpoint(self) -> Any:
        from ray import tune

        step = publish_checkpoint(self._run)
        if step is None:
            return None
        folder = self._run / _PUBLISHED / "reference"
        folder.mkdir(exist_ok=True)
        CheckpointReference(run=self._run, step=step).save(folder)
        return tune.Checkpoint.from_directory(str(folder))


def publish_checkpoint(run: Path) -> int | None:
    """Keep the newest checkpoint of a run for other trials, by hard links, which take no space.

    The run itself removes older ones as it trains; of those published, the last few are kept. Returns the step, or None if
    there is no checkpoint.
    """
    found = [path for path in checkpoint_folders(RunLayout(run).checkpoints) if not path.suffix]
    if not found:
        return None
    target = run / _PUBLISHED / found[0].name
    try:
        _link_tree(found[0], target)
    except OSError:  # removed in the meantime: the run has made a later one, which is published next time
        return None
    for old in checkpoint_folders(run / _PUBLISHED)[_KEEP_PUBLISHED:]:
        shutil.rmtree(old, ignore_errors=True)
    return _step(target)


def clone_checkpoint(run: Path, reference: CheckpointReference) -> None:
    """Replace a run's checkpoints and metrics by those of another trial. Raises RuntimeError if that has published none."""
    published = checkpoint_folders(reference.run / _PUBLISHED)
    if not published:
        raise RuntimeError(f"'{reference.run}' has no published checkpoint any more")
    chosen = next((path for path in published if _step(path) == reference.step), published[-1])
    own, other = RunLayout(run), RunLayout(reference.run)
    shutil.rmtree(own.checkpoints, ignore_errors=True)
    _link_tree(chosen, own.checkpoints / chosen.name)
    if other.metrics.is_file():
        shutil.copyfile(other.metrics, own.metrics)
        cut_after(own.metrics, _step(chosen))
    write_text(run / _REPORTED_FILE, f"{_step(chosen)}\n")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _link_tree(source: Path, target: Path) -> None:
    """A folder with the same files, complete or absent. Raises OSError."""
    if target.is_dir():
        return
    part = target.with_name(f".{target.name}{PARTIAL}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in source.iterdir():
        try:
            os.link(path, part / path.name)
        except PermissionError:  # a file system without hard links
            shutil.copyfile(path, part / path.name)
    os.rename(part, target)
