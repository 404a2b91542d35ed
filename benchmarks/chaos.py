"""Kill a small training again and again, in all ways and at all moments, and prove that it loses nothing.

    python benchmarks/chaos.py --kills N [--seed S] [--json FILE]

Two runs, each with half of the kills: one always on 2 ranks, whose end must be that of an uninterrupted run bit for bit;
one on 1, 2 or 3 ranks at ZeRO stage 0 to 3, with damaged samples that are masked, whose end must be close. In both each
(epoch, sample) is seen exactly once, no process outlives its job, and nobody dies with a traceback. Exit code 1 where
something was lost, with the logs of the lives in question. Linux only; a full disk needs the right to mount one.
"""

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos_job import Job, Progress, ballast, damage, fill, send, small_disk  # noqa: E402
from chaos_proof import BATCH, prove, write_shards  # noqa: E402
from chaos_scenarios import (  # noqa: E402
    CTRL_C,
    FULL_DISK,
    KILL_ALL,
    KILL_RANK,
    LAUNCHER,
    LEFT_ALONE,
    LOADER,
    STALL,
    TOLD,
    TOLD_LAUNCHER,
    TOLD_RANK,
    Life,
    Outcome,
    draw,
)
from harness import print_table, write_json  # noqa: E402

from msanet.distributed.preemption import EXIT_PREEMPTED  # noqa: E402
from msanet.evaluation.run_report import read_lines  # noqa: E402
from msanet.run_layout import RunLayout  # noqa: E402
from msanet.training.checkpoint.io import checkpoint_folders, validate_checkpoint  # noqa: E402

SAVED_EVERY = 3
TIMEOUT, GRACE = 30, 20
"""run.rendezvous_timeout_seconds, to which the other timeouts are scaled, and run.preemption_grace_seconds."""
NAMED = re.compile(r"error: .*\brank \d+ \(host \S+\)")
END_WITHIN = 2 * TIMEOUT + GRACE
"""Seconds after which a process of a job that was killed counts as left behind: where a rank died while the job started, the
others have yet to start, half a minute on a busy machine, and to wait for it."""

SETTINGS = (
    "data.crop=[32,32] data.random_scale=[0.7,1.3] evaluation.num_workers=0 model.width=0.05 "
    "trainer.log_every_steps=1 trainer.ema_decay=0.9 "
    f"trainer.global_batch_size={BATCH} trainer.checkpoint_every_steps={SAVED_EVERY} "
    "trainer.keep_checkpoints=3 trainer.val_every_epochs=7 "
    f"run.record_samples=true run.heartbeat_timeout_seconds={0.5 * TIMEOUT} "
    f"run.stall_timeout_seconds={0.8 * TIMEOUT} run.rendezvous_timeout_seconds={TIMEOUT} "
    f"run.preemption_grace_seconds={GRACE} storage.download_timeout_seconds={TIMEOUT // 2} "
)
SAME = f"{SETTINGS} model.name=deeplab_largefov"
"""It has dropout, so that the generators of random numbers count too."""
CHANGING = (
    f"{SETTINGS} model.name=unet model.norm=frozen data.on_bad_sample=skip data.max_bad_fraction=0.5 "
    "optimizer.name=sgd optimizer.lr=0.001 schedule.name=constant"
)
"""Other numbers of ranks add in another order, and the statistics of six small images blow that rounding up: with BatchNorm
at lr=0.01 two uninterrupted runs of 72 steps, on 1 and 3 ranks, ended 16 percent of their way apart."""


@dataclass
class Scenario:
    """A run under chaos and its uninterrupted twin. start_seconds: what the twin took to its first step."""

    name: str
    folder: Path
    words: list[str]
    start_seconds: float = 0.0

    @property
    def disk(self) -> Path:
        """Of the run alone, where one can be mounted."""
        return self.folder / "disk"

    @property
    def run(self) -> Path:
        return self.disk / "run"

    @property
    def twin(self) -> Path:
        return self.folder / "uninterrupted"

    def start(self, run: Path, logs: str, life: Life) -> tuple[Job, Progress]:
        """One start of the run."""
        words = [*self.words, f"run.dir={run}", f"trainer.zero_stage={life.stage}", f"data.num_workers={life.workers}"]
        job = Job(["launcher/train.py", *words], life.world_size, life.by_deepspeed, self.folder / "logs" / logs)
        return job, Progress(job, run)


def main() -> int:
    """Kill, prove, print; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often a run is ended by force (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds (default 0)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs inherit it; a shell's background jobs have none
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # past all that cleans up
    work = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ["TMPDIR"] = str(work)  # whoever is killed leaves temporary files of multiprocessing
    whole, damaged, keys = write_shards(work)
    kills = args.kills - args.kills // 2
    results = [
        endure(
            "same world size",
            work,
            f"{SAME} data.path={whole}".split(),
            draw(f"{args.seed} same", kills, (2,), (1,)),
            {},
        ),
        endure(
            "changing world sizes",
            work,
            f"{CHANGING} data.path={damaged}".split(),
            draw(f"{args.seed} changing", args.kills - kills, (1, 2, 3), (0, 1, 2, 3)),
            keys,
        ),
    ]
    return conclude(results, work, args)


def endure(name: str, work: Path, words: list[str], lives: list[Life], keys: dict[int, str]) -> dict[str, Any]:
    """The uninterrupted run, then all lives and one that is left alone; what it cost and what was lost."""
    total = 12 + 12 * len(lives)  # about twice what the lives come to
    scenario = Scenario(name, work / name.replace(" ", "-"), [*words, f"trainer.steps={total}"])
    undisturbed = Life(len(lives) + 1, LEFT_ALONE, "end", 0, 0.0, 2, min(life.stage for life in lives), 1)
    job, progress = scenario.start(scenario.twin, "uninterrupted", undisturbed)
    assert job.wait_until(lambda: progress.step > 0, 300), job.text()
    scenario.start_seconds = time.monotonic() - job.started
    job.wait_for_end(1200)
    assert not any(job.codes), job.text()
    outcomes: list[Outcome] = []
    with small_disk(scenario.disk, megabytes=24) as is_mounted:
        if not is_mounted:
            print("note: no disk can be mounted here, so none is filled", file=sys.stderr)
            lives = [replace(life, disturbance=None) if life.disturbance == FULL_DISK else life for life in lives]
        begin = time.monotonic()
        for life in [*lives, undisturbed]:
            outcomes.append(live(scenario, life, total, outcomes[-1] if outcomes else None))
            print(progress_line(scenario, life, outcomes[-1], total), file=sys.stderr, flush=True)
        wall = time.monotonic() - begin
        shutil.copytree(scenario.run, scenario.folder / "run")  # its disk goes
    return {
        "name": name,
        **figures(scenario.folder / "run", outcomes, wall),
        "outcomes": outcomes,
        "checks": prove(scenario.folder / "run", scenario.twin, total, keys, bitwise=not keys),
    }


def live(scenario: Scenario, life: Life, total: int, before: Outcome | None) -> Outcome:
    """Start the run, wait for the moment, do the harm, and see it end."""
    rng = random.Random(f"{scenario.name} {life}")
    job, progress = scenario.start(scenario.run, f"life-{life.number:04d}", life)
    outcome = Outcome(life.kind)
    try:
        if wait_for_moment(scenario, life, job, progress, outcome, rng):
            trained = outcome.to_first_step is not None
            harmed = time.monotonic()
            harm(life, job, rng)
            left = job.wait_for_end(END_WITHIN)
            outcome.to_end = time.monotonic() - harmed
            outcome.faults += [f"left behind after {END_WITHIN} s: {process}" for process in left]
            if progress.step < total and not life.by_deepspeed:  # whose exit code says little
                outcome.faults += judge_codes(life, job, trained)
        else:
            left = job.wait_for_end(10)
            if left or any(job.codes) or life.kind != LEFT_ALONE:
                outcome.faults.append(f"ended by itself or hung, with exit codes {job.codes}")
    finally:
        job.end()
    outcome.seconds = time.monotonic() - job.started
    outcome.resumed, outcome.reached = progress.resumed, progress.step
    judge(job, outcome, before)
    if life.damage:
        damage_newest(scenario, life.damage, rng, outcome)
    if not outcome.faults:
        shutil.rmtree(job.logs)
    return outcome


def wait_for_moment(
    scenario: Scenario, life: Life, job: Job, progress: Progress, outcome: Outcome, rng: random.Random
) -> bool:
    """Whether the moment came, with what disturbs the run before it and must not end it."""
    if life.moment == "start":
        seconds = 0.2 + life.fraction * scenario.start_seconds
        job.wait_until(lambda: note_first_step(outcome, job, progress), seconds)
        return job.is_running
    if not job.wait_until(lambda: note_first_step(outcome, job, progress), 300):
        return False
    if life.disturbance and not disturb(scenario, life.disturbance, job, progress, rng):
        outcome.faults.append(f"did not survive: {life.disturbance}")
        return False
    outcome.disturbance = life.disturbance
    if life.kind == LEFT_ALONE:
        return job.wait_until(lambda: False, 1200, pause=0.2)
    target = progress.step + life.steps
    if not job.wait_until(lambda: progress.step >= target, 120):
        return False
    if life.moment == "save":
        saving = scenario.run / "checkpoints"
        job.wait_until(lambda: any(saving.glob(".step-*")) or progress.step > target + SAVED_EVERY, 60, pause=0.001)
    time.sleep(0.03 * life.fraction)
    return job.is_running


def note_first_step(outcome: Outcome, job: Job, progress: Progress) -> bool:
    """Whether a new step was done; how long after the start the first was."""
    resumed = progress.resumed
    if resumed is None or progress.step <= resumed:
        return False
    outcome.to_first_step = time.monotonic() - job.started
    return True


def disturb(scenario: Scenario, how: str, job: Job, progress: Progress, rng: random.Random) -> bool:
    """Whether the run goes on through this."""
    if how == FULL_DISK:

        def is_noticed() -> bool:
            fill(scenario.disk, room=200_000)  # for lines, not for a checkpoint
            return "the run goes on" in job.text()

        noticed = job.wait_until(is_noticed, 120)
        ballast(scenario.disk).unlink(missing_ok=True)
        if not noticed:
            return False
    else:
        (rank,) = one_of(job.ranks(), rng)
        send(rank, signal.SIGSTOP)
        time.sleep(3)
        send(rank, signal.SIGCONT)
    step = progress.step
    return job.wait_until(lambda: progress.step > step, 120)


def harm(life: Life, job: Job, rng: random.Random) -> None:
    """Do what the life is ended by."""
    if life.kind in (KILL_ALL, CTRL_C):
        targets = job.processes()  # they are one group, which a terminal's Ctrl-C reaches as a whole
    elif life.kind == LOADER:
        targets = one_of(job.loaders(), rng)
    elif life.kind in (LAUNCHER, TOLD_LAUNCHER):
        targets = one_of(job.parent_watchdog(), rng)
    else:
        targets = one_of(job.ranks() or job.parent_watchdog(), rng)
    number = {CTRL_C: signal.SIGINT, STALL: signal.SIGSTOP}.get(life.kind, signal.SIGKILL)
    if life.kind in (TOLD_RANK, TOLD_LAUNCHER):
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1])
    for process in targets:
        send(process, number)
    if life.kind == STALL:  # the others end; it must too, once it can
        job.wait_until(lambda: len(job.ranks()) <= 1, END_WITHIN, pause=0.1)
        for process in targets:
            send(process, signal.SIGCONT)


def one_of(processes: list[Any], rng: random.Random) -> list[Any]:
    """One of them, where there are any."""
    return [rng.choice(processes)] if processes else []


def judge_codes(life: Life, job: Job, trained: bool) -> list[str]:
    """What should not be, by how the ranks of an unfinished run ended."""
    if life.kind in TOLD and trained and set(job.codes) != {EXIT_PREEMPTED}:
        return [f"told to stop, ended with exit codes {job.codes}"]
    if 0 in job.codes:
        return [f"says that it is done, with exit codes {job.codes}"]
    if life.kind in (KILL_RANK, STALL) and trained and life.world_size > 1 and not NAMED.search(job.text()):
        return ["did not say which rank was lost"]
    return []


def judge(job: Job, outcome: Outcome, before: Outcome | None) -> None:
    """What should not be, by what the ranks said and where they went on."""
    text = job.text()
    if "Traceback" in text and "KeyboardInterrupt" not in text:
        outcome.faults.append("a traceback")
    if before is None or outcome.resumed is None:
        return
    if before.damage and "falling back" not in text:
        outcome.faults.append(f"no word of a checkpoint that was damaged ({before.damage})")
    redone = before.reached - outcome.resumed
    if before.kind in TOLD and before.to_first_step and not before.damage and redone:
        outcome.faults.append(f"{redone} steps were lost, though the run was told to stop")


def damage_newest(scenario: Scenario, how: str, rng: random.Random, outcome: Outcome) -> None:
    """Damage the newest checkpoint, where another whole one is left."""
    whole = [
        folder for folder in checkpoint_folders(scenario.run / "checkpoints") if validate_checkpoint(folder) is None
    ]
    if len(whole) > 1:
        damage(whole[0], how, rng)
        outcome.damage = how


def progress_line(scenario: Scenario, life: Life, outcome: Outcome, total: int) -> str:
    """One life, as progress."""
    said = [f"{scenario.name}, {life}", f"steps {outcome.resumed} to {outcome.reached} of {total}"]
    said += [f"first new step after {outcome.to_first_step:.1f} s"] if outcome.to_first_step else []
    said += [f"gone after {outcome.to_end:.1f} s"] if outcome.to_end is not None else []
    said += [word for word in (outcome.disturbance, outcome.damage and f"newest checkpoint: {outcome.damage}") if word]
    return "; ".join([*said, *(f"FAULT: {fault}" for fault in outcome.faults)])


def figures(run: Path, outcomes: list[Outcome], wall: float) -> dict[str, Any]:
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


def conclude(results: list[dict[str, Any]], work: Path, args: argparse.Namespace) -> int:
    """Print the tables; keep the logs and return 1 where something was lost."""
    outcomes = [outcome for result in results for outcome in result["outcomes"]]
    ends: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.to_end is not None:
            ends.setdefault(outcome.kind, []).append(outcome.to_end)
    print_table(
        ("what ended a life", "times", "until its last process ended, median s", "at most, s"),
        [(kind, len(seconds), statistics.median(seconds), max(seconds)) for kind, seconds in sorted(ends.items())],
    )
    others = Counter(word for outcome in outcomes for word in (outcome.disturbance, outcome.damage) if word)
    print(f"\nbesides: {', '.join(f'{word} {number} times' for word, number in sorted(others.items())) or 'nothing'}\n")
    names = [key for key in results[0] if key not in ("outcomes", "checks")]
    print_table(tuple(names), [tuple(result[name] for name in names) for result in results])
    print()
    rows = [(result["name"], *check) for result in results for check in result["checks"].items()]
    print_table(("run", "checked", "lost"), [(name, what, lost or "nothing") for name, what, lost in rows])
    faults = [
        f"{result['name']}, life {n}: {fault}"
        for result in results
        for n, outcome in enumerate(result["outcomes"], 1)
        for fault in outcome.faults
    ]
    for fault in faults:
        print(f"FAULT: {fault}")
    plain = [{**result, "outcomes": [asdict(outcome) for outcome in result["outcomes"]]} for result in results]
    write_json(args.json, {"seed": args.seed, "results": plain, "faults": faults})
    if faults or any(lost for *_, lost in rows):
        print(f"something was lost: the logs and the runs are in {work}", file=sys.stderr)
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
