"""One trial, as Ray Tune runs it: starts the ranks of a training, and tells Tune of each validation."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from msanet.errors import EXIT_USER_ERROR
from msanet.evaluation.run_report import METRICS_FILE
from msanet.files import PARTIAL, write_text
from msanet.sweep.plan import SweepPlan
from msanet.sweep.process import RankExit, hold
from msanet.sweep.ranks import LOCK_FILE, start_ranks, wait_for_ranks
from msanet.sweep.space import drawn_point
from msanet.training.checkpoint.io import checkpoint_folders
from msanet.training.monitoring.jsonl import cut_after

OUTCOME_FILE, POINT_FILE = "outcome.json", "point.json"
_REPORTED, _HANDED, _POINTER = "reported", "handed", "handed.json"
_KEEP_HANDED = 3


class Outcome(BaseModel):
    """How a trial has ended: by itself, by the scheduler, or by a fault, whose sentence is `error`. None yet: it has not."""

    status: Literal["done", "stopped", "failed"]
    error: str = ""
    seconds: float | None = None


class Pointer(BaseModel):
    """What Ray keeps as a trial's checkpoint: where it lies. A copy of it would take time and twice the room."""

    run: Path
    step: int


def run_trial(config: dict[str, Any], plan: SweepPlan) -> None:
    """Train at the point that Tune has drawn, from this trial's own last checkpoint or, after an exploit, another's.

    Raises RuntimeError where it may help to go on from the last checkpoint; bad input is marked, since that would not.
    """
    import ray
    from ray import tune

    run = plan.trials / tune.get_context().get_trial_id()
    point = plan.point(drawn_point(config))
    hold(run / LOCK_FILE).close()  # the ranks of an earlier attempt have ended
    command = plan.command(point, run)
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            pointer = Pointer.model_validate_json((Path(folder) / _POINTER).read_text(encoding="utf-8"))
        if pointer.run != run:
            clone_checkpoint(run, pointer)
    if plan.sweep.searcher == "pbt":
        command.append("run.allow_changes=[batch,optimizer,order]")
    write_text(run / POINT_FILE, json.dumps(point, indent=1) + "\n")
    (run / OUTCOME_FILE).unlink(missing_ok=True)
    report = _Reporter(run, plan.figure(point), plan.sweep.metric, hands_over=plan.sweep.searcher == "pbt")
    actors, running = start_ranks(plan, command, run)
    try:
        ends = wait_for_ranks(actors, running, report.send)
    except ray.exceptions.RayError as error:
        write_outcome(run, f"a rank or its node was lost: {str(error).splitlines()[0]}")
        raise
    finally:
        for actor in actors:
            ray.kill(actor)  # ranks that are left save and end
    settle(run, ends)


def settle(run: Path, ends: list[RankExit]) -> None:
    """Note how a trial's ranks have ended. Raises RuntimeError for a fault that may pass."""
    codes = [end.code for end in ends]
    if not any(codes):
        write_text(run / OUTCOME_FILE, Outcome(status="done").model_dump_json() + "\n")
        return
    bad_input = [end for end in ends if end.code == EXIT_USER_ERROR]
    said = [end.sentence for end in bad_input or ends if end.code and end.sentence]
    write_outcome(run, said[0] if said else f"its ranks ended with exit codes {codes}")
    if not bad_input:
        raise RuntimeError(f"exit codes {codes}")


def write_outcome(run: Path, error: str) -> None:
    """Note that an attempt has failed, and why."""
    write_text(run / OUTCOME_FILE, Outcome(status="failed", error=error).model_dump_json() + "\n")


def read_outcome(run: Path) -> Outcome | None:
    """How the trial in this folder has ended, or None."""
    file = run / OUTCOME_FILE
    return Outcome.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def conclude(run: Path, usual: Outcome, seconds: float | None) -> None:
    """Note that Tune counts this trial as over; `usual`, unless the trial has said itself how it ended."""
    outcome = (read_outcome(run) or usual).model_copy(update={"seconds": seconds})
    write_text(run / OUTCOME_FILE, outcome.model_dump_json() + "\n")


class _Reporter:
    """Tells Tune of the validations in metrics.jsonl that it does not know yet.

    hands_over: with a checkpoint that other trials may take over. Of its own, a trial needs to tell nobody.
    """

    def __init__(self, run: Path, figure: str, metric: str, hands_over: bool) -> None:
        self._run, self._figure, self._metric, self._hands_over = run, figure, metric, hands_over
        self._offset = 0
        reported = run / _REPORTED
        self._reported = int(reported.read_text()) if reported.is_file() else 0

    def send(self) -> None:
        from ray import tune

        for line in self._new_lines():
            if line.get(self._figure) is None or line["step"] <= self._reported:
                continue
            figures = {self._metric: line[self._figure], "epoch": line["epoch"], "step": line["step"]}
            tune.report(figures, checkpoint=self._checkpoint() if self._hands_over else None)
            self._reported = line["step"]
            write_text(self._run / _REPORTED, f"{self._reported}\n")

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        path = self._run / METRICS_FILE
        if not path.is_file():
            return
        with path.open("rb") as file:
            if path.stat().st_size < self._offset:  # a run that goes on forgets what it will do again
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
        folder = self._run / _HANDED / "pointer"
        folder.mkdir(exist_ok=True)
        write_text(folder / _POINTER, Pointer(run=self._run, step=step).model_dump_json() + "\n")
        return tune.Checkpoint.from_directory(str(folder))


def publish_checkpoint(run: Path) -> int | None:
    """Keep the newest checkpoint of a run for others, by hard links, which cost no room; its step, or None without one.

    The run itself removes its own while it goes on; the last few that were handed over are kept.
    """
    found = [path for path in checkpoint_folders(run / "checkpoints") if not path.suffix]
    if not found:
        return None
    target = run / _HANDED / found[0].name
    try:
        _link_tree(found[0], target)
    except OSError:  # removed meanwhile: the run has gone on, so there is a later one to hand over next time
        return None
    for old in checkpoint_folders(run / _HANDED)[_KEEP_HANDED:]:
        shutil.rmtree(old, ignore_errors=True)
    return _step(target)


def clone_checkpoint(run: Path, pointer: Pointer) -> None:
    """Go on from another trial's checkpoint: own ones and own figures give way to the other's."""
    handed = checkpoint_folders(pointer.run / _HANDED)
    if not handed:
        raise RuntimeError(f"'{pointer.run}' has no checkpoint to take over any more")
    chosen = next((path for path in handed if _step(path) == pointer.step), handed[-1])
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    _link_tree(chosen, run / "checkpoints" / chosen.name)
    if (pointer.run / METRICS_FILE).is_file():
        shutil.copyfile(pointer.run / METRICS_FILE, run / METRICS_FILE)
        cut_after(run / METRICS_FILE, _step(chosen))
    write_text(run / _REPORTED, f"{_step(chosen)}\n")


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _link_tree(source: Path, target: Path) -> None:
    """A folder with the same files, whole or absent. Raises OSError."""
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
