"""One run under chaos beside its undisturbed reference run: the parts of chaos.py that start jobs and watch them."""

import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chaos_checks import BATCH, check
from chaos_faults import (
    ballast,
    damage,
    fill,
    inject_fault,
    one_of,
    rename_for_a_while,
    small_disk,
    stop_and_continue,
)
from chaos_job import Job, Progress
from chaos_scenarios import (
    FULL_DISK,
    HANG,
    KILL_RANK,
    MOVED_SHARDS,
    NO_LATEST,
    PAUSE,
    TORCHRUN,
    UNDISTURBED,
    Outcome,
    Scenario,
)

from msanet.distributed.preemption import EXIT_PREEMPTED
from msanet.evaluation.run_report import read_lines
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.io import checkpoint_folders, validate_checkpoint

SAVED_EVERY = 3
TIMEOUT, GRACE = 30, 20
"""run.rendezvous_timeout_seconds, to which the other timeouts are scaled, and run.preemption_grace_seconds."""
HEARTBEAT_TIMEOUT = 0.5 * TIMEOUT
END_WITHIN = 2 * TIMEOUT + GRACE
"""Seconds after which a process of a job that was killed counts as left behind: where a rank died while the job started, the
others have yet to start, half a minute on a busy machine, and to wait for it."""
SETTINGS = (
    "data.crop=[32,32] data.random_scale=[0.7,1.3] evaluation.num_workers=0 model.width=0.05 "
    "trainer.log_every_steps=1 trainer.ema_decay=0.9 "
    f"trainer.global_batch_size={BATCH} trainer.checkpoint_every_steps={SAVED_EVERY} "
    "trainer.keep_checkpoints=3 trainer.val_every_epochs=7 "
    f"run.record_samples=true run.heartbeat_timeout_seconds={HEARTBEAT_TIMEOUT} "
    f"run.stall_timeout_seconds={0.8 * TIMEOUT} run.rendezvous_timeout_seconds={TIMEOUT} "
    f"run.preemption_grace_seconds={GRACE} storage.download_timeout_seconds={TIMEOUT // 2} "
)
_NAMED = re.compile(r"error: .*\brank \d+ \(host \S+\)")


@dataclass
class ChaosRun:
    """A run under chaos and its reference run.

    Args:
        name: For the tables.
        folder: Where all of it lies.
        words: Settings of the training.
        shards: Its dataset.
        total: Steps of the whole run.
        start_seconds: What the reference run took to its first step.
    """

    name: str
    folder: Path
    words: list[str]
    shards: Path
    total: int
    start_seconds: float = 0.0

    @property
    def disk(self) -> Path:
        """Of the run alone, where one can be mounted."""
        return self.folder / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    def start(self, run: Path, logs: str, scenario: Scenario) -> tuple[Job, Progress]:
        """One start of the job."""
        words = [*self.words, f"trainer.steps={self.total}", f"data.path={self.shards}", f"run.dir={run}"]
        words += [f"trainer.zero_stage={scenario.stage}", f"data.num_workers={scenario.workers}"]
        logs_of_ranks = self.folder / "logs" / logs
        job = Job(["launcher/train.py", *words], scenario.world_size, scenario.launcher, logs_of_ranks)
        return job, Progress(job, run)


def run_chaos(
    name: str, work: Path, settings: str, shards: Path, scenarios: list[Scenario], keys: dict[int, str]
) -> dict[str, Any]:
    """The reference run, then all scenarios and a last one without a fault; what it cost and what was lost."""
    total = 12 + 12 * len(scenarios)  # about twice what the scenarios come to
    chaos = ChaosRun(name, work / name.replace(" ", "-"), f"{SETTINGS} {settings}".split(), shards, total)
    last = Scenario(len(scenarios) + 1, UNDISTURBED, "end", 0, 0.0, 2, min(s.stage for s in scenarios), 1)
    job, progress = chaos.start(chaos.reference, "reference", last)
    try:
        assert job.wait_until(lambda: progress.step > 0, 300), job.text()
        chaos.start_seconds = time.monotonic() - job.started
        job.wait_for_end(1200)
        assert not any(job.codes), job.text()
    finally:
        job.end()
    outcomes: list[Outcome] = []
    with small_disk(chaos.disk, megabytes=24) as is_mounted:
        if not is_mounted:
            print("note: no disk can be mounted here, so none is filled", file=sys.stderr)
            scenarios = [replace(s, disturbance=None) if s.disturbance == FULL_DISK else s for s in scenarios]
        begin = time.monotonic()
        for scenario in [*scenarios, last]:
            outcomes.append(_run_scenario(chaos, scenario, outcomes[-1] if outcomes else None))
            print(_progress_line(chaos, outcomes[-1]), file=sys.stderr, flush=True)
        wall = time.monotonic() - begin
        shutil.copytree(chaos.run, chaos.folder / "run")  # its disk goes
    return {
        "name": name,
        **metrics(chaos.folder / "run", outcomes, wall),
        "outcomes": outcomes,
        "checks": check(chaos.folder / "run", chaos.reference, total, keys, bitwise=not keys),
    }


def _run_scenario(chaos: ChaosRun, scenario: Scenario, before: Outcome | None) -> Outcome:
    """Start the job, wait for the moment, inject the fault, and see it end."""
    rng = random.Random(f"{chaos.name} {scenario}")
    job, progress = chaos.start(chaos.run, f"scenario-{scenario.number:04d}", scenario)
    outcome = Outcome(scenario)
    try:
        if _wait_for_moment(chaos, job, progress, outcome, rng):
            trained = outcome.to_first_step is not None
            injected = time.monotonic()
            inject_fault(scenario, job, rng, END_WITHIN)
            left = job.wait_for_end(END_WITHIN)
            outcome.to_end = time.monotonic() - injected
            outcome.faults += [f"left behind after {END_WITHIN} s: {process}" for process in left]
            if progress.step < chaos.total:
                outcome.faults += _check_exit_codes(scenario, job, trained)
        elif outcome.to_end is None:
            left = job.wait_for_end(10)
            if left or any(job.codes) or scenario.kind != UNDISTURBED:
                outcome.faults.append(f"ended by itself or hung, with exit codes {job.codes}")
    finally:
        job.end()
    outcome.seconds = time.monotonic() - job.started
    outcome.resumed, outcome.reached = progress.resumed, progress.step
    _check_log(job, outcome, before)
    if scenario.damage:
        _damage_newest(chaos, scenario.damage, rng, outcome)
    if not outcome.faults:
        shutil.rmtree(job.logs)
    return outcome


def _wait_for_moment(chaos: ChaosRun, job: Job, progress: Progress, outcome: Outcome, rng: random.Random) -> bool:
    """Whether the moment came, with what disturbs the run before it and must not end it."""
    scenario = outcome.scenario
    if scenario.moment == "start":
        seconds = 0.2 + scenario.fraction * chaos.start_seconds
        job.wait_until(lambda: _note_first_step(outcome, job, progress), seconds)
        return job.is_running
    if not job.wait_until(lambda: _note_first_step(outcome, job, progress), 300):
        return False
    if scenario.disturbance and not _survives(chaos, job, progress, outcome, rng):
        return False
    if scenario.kind == UNDISTURBED:
        return job.wait_until(lambda: False, 1200, pause=0.2)
    target = progress.step + scenario.steps
    if not job.wait_until(lambda: progress.step >= target, 120):
        return False
    if scenario.moment == "save":
        saving = RunLayout(chaos.run).checkpoints
        job.wait_until(lambda: any(saving.glob(".step-*")) or progress.step > target + SAVED_EVERY, 60, pause=0.001)
    time.sleep(0.03 * scenario.fraction)
    return job.is_running


def _note_first_step(outcome: Outcome, job: Job, progress: Progress) -> bool:
    """Whether a new step was done; how long after the start the first was."""
    resumed = progress.resumed
    if resumed is None or progress.step <= resumed:
        return False
    outcome.to_first_step = time.monotonic() - job.started
    return True


def _survives(chaos: ChaosRun, job: Job, progress: Progress, outcome: Outcome, rng: random.Random) -> bool:
    """Disturb the run; whether it continues."""
    how, begun = outcome.scenario.disturbance, time.monotonic()
    if how == FULL_DISK:
        _fill_until_noticed(chaos, job)
    elif how == MOVED_SHARDS:
        rename_for_a_while(chaos.shards, 4, lambda: not job.is_running)
    elif how == PAUSE:
        stop_and_continue(one_of(job.ranks(), rng), 3)
    else:
        stop_and_continue(job.processes(), 1.4 * HEARTBEAT_TIMEOUT)
    outcome.disturbance, step = how, progress.step
    if job.wait_until(lambda: progress.step > step or progress.step == chaos.total, 120):
        return True
    if how == MOVED_SHARDS and "no such file" in job.text().lower() and 0 not in job.codes:
        left = job.wait_for_end(END_WITHIN)  # it may end where it needs a file, in a sentence, as by any other fault
        outcome.to_end = time.monotonic() - begun
        outcome.faults += [f"left behind after {END_WITHIN} s: {process}" for process in left]
    else:
        outcome.faults.append(f"did not survive: {how}")
    return False


def _fill_until_noticed(chaos: ChaosRun, job: Job) -> None:
    def is_noticed() -> bool:
        fill(chaos.disk, room=200_000)  # for lines, not for a checkpoint
        return "could not be written" in job.text()

    job.wait_until(is_noticed, 120)
    ballast(chaos.disk).unlink(missing_ok=True)


def _check_exit_codes(scenario: Scenario, job: Job, trained: bool) -> list[str]:
    """What should not be, by how the ranks of an unfinished run ended."""
    if not scenario.exit_codes_are_those_of_ranks:
        return []
    if scenario.saves_every_step and trained and set(job.codes) != {EXIT_PREEMPTED}:
        return [f"asked to stop, ended with exit codes {job.codes}"]
    if 0 in job.codes:
        return [f"claims to be complete, with exit codes {job.codes}"]
    if scenario.kind in (KILL_RANK, HANG) and trained and scenario.world_size > 1 and not _NAMED.search(job.text()):
        return ["did not say which rank was lost"]
    return []


def _check_log(job: Job, outcome: Outcome, before: Outcome | None) -> None:
    """What should not be, by what the ranks logged and where they resumed."""
    text = job.text()
    if (
        "Traceback" in text and "KeyboardInterrupt" not in text and outcome.scenario.launcher != TORCHRUN
    ):  # it prints one
        outcome.faults.append("a traceback")
    if before is None or outcome.resumed is None:
        return
    if before.damage not in (None, NO_LATEST) and "falling back" not in text:
        outcome.faults.append(f"no word of a damaged checkpoint ({before.damage})")
    redone = before.reached - outcome.resumed
    if before.scenario.saves_every_step and before.to_first_step and before.damage in (None, NO_LATEST) and redone:
        outcome.faults.append(f"{redone} steps were lost, though the run was asked to stop")


def _damage_newest(chaos: ChaosRun, how: str, rng: random.Random, outcome: Outcome) -> None:
    """Damage the newest checkpoint, where another complete one is left."""
    folders = checkpoint_folders(RunLayout(chaos.run).checkpoints)
    complete = [folder for folder in folders if validate_checkpoint(folder) is None]
    if len(complete) > 1:
        damage(complete[0], how, rng)
        outcome.damage = how


def _progress_line(chaos: ChaosRun, outcome: Outcome) -> str:
    """One scenario, as progress."""
    words = [f"{chaos.name}, {outcome.scenario}", f"steps {outcome.resumed} to {outcome.reached} of {chaos.total}"]
    words += [f"first new step after {outcome.to_first_step:.1f} s"] if outcome.to_first_step else []
    words += [f"ended after {outcome.to_end:.1f} s"] if outcome.to_end is not None else []
    words += [outcome.disturbance] if outcome.disturbance else []
    words += [f"newest checkpoint: {outcome.damage}"] if outcome.damage else []
    return "; ".join([*words, *(f"FAULT: {fault}" for fault in outcome.faults)])


def metrics(run: Path, outcomes: Sequence[Outcome], wall: float) -> dict[str, Any]:
    """What chaos cost. Seconds; a step's are those it took when it counted."""
    lines = [line for line in read_lines(RunLayout(run).metrics) if "loss" in line]
    useful = sum(BATCH / line["images_per_second"] for line in lines)
    done = sum(outcome.reached - outcome.resumed for outcome in outcomes if outcome.resumed is not None)
    kills = sum(outcome.to_end is not None for outcome in outcomes)
    first = [outcome.to_first_step for outcome in outcomes if outcome.to_first_step is not None]
    return {
        "kills": kills,
        "steps": len(lines),
        "steps redone": (done - len(lines)) / len(lines),
        "wall, s": wall,
        "useful, s": useful,
        "goodput": useful / wall,
        "lost per kill, s": (wall - useful) / max(kills, 1),
        "restart to new step, s": statistics.median(first),
        "at most, s": max(first),
    }
