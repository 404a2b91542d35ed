"""The scenarios of a chaos run: how each start of the job is launched, disturbed and ended, and what became of it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

RANKS, DEEPSPEED, TORCHRUN, RANKS_SH = "plain processes", "deepspeed", "torchrun", "ranks.sh"
LAUNCHERS = (DEEPSPEED, TORCHRUN, RANKS_SH)
LAUNCHER_DECK = (RANKS, RANKS, RANKS, *LAUNCHERS)
"""Launchers take longer to start than the ranks alone."""

KILL_RANK, KILL_ALL = "kill -9 of a rank", "kill -9 of all"
KILL_LAUNCHER, KILL_LOADER = "kill -9 of the launcher", "kill -9 of a loader worker"
TERMINATE_RANK, TERMINATE_LAUNCHER, CTRL_C = (
    "SIGTERM or SIGUSR1 to a rank",
    "SIGTERM or SIGUSR1 to the launcher",
    "Ctrl-C",
)
HANG = "a rank stopped for good"
ENDINGS = 2 * (KILL_RANK, KILL_ALL, KILL_LOADER, TERMINATE_RANK) + (KILL_LAUNCHER, TERMINATE_LAUNCHER, CTRL_C, HANG)
"""The rarer ones take longer: a launcher starts twice as slowly, and a missing heartbeat has to be waited for."""
UNDISTURBED = "undisturbed"

PAUSE, SUSPEND = "a rank stopped for 3 s", "the whole job stopped for longer than the heartbeat timeout"
FULL_DISK, MOVED_SHARDS = "full disk", "shards renamed for 4 s"
DISTURBANCES = (PAUSE, SUSPEND, FULL_DISK, MOVED_SHARDS)

TRUNCATED, FLIPPED, DELETED = "a file truncated", "bits flipped in a file", "a file deleted"
FOLDER_FOR_FILE, NO_LATEST = "a folder in a file's place", "`latest` removed"
DAMAGES = (TRUNCATED, FLIPPED, DELETED, FOLDER_FOR_FILE, NO_LATEST)
"""What happens to the newest checkpoint between two starts."""

SKIPPABLE = {"suspend": SUSPEND, "moved-shards": MOVED_SHARDS, "full-disk": FULL_DISK, "no-latest": NO_LATEST}
"""Names for `--skip`."""
_Card = TypeVar("_Card")


@dataclass(frozen=True)
class Scenario:
    """One start of the job and its end, as drawn.

    Args:
        number: From 1.
        kind: What ends it, one of `ENDINGS`.
        moment: "start", "step", "save" or "end": when it is ended.
        steps: New steps before that.
        fraction: 0 to 1, places the moment within its kind.
        world_size: Number of ranks.
        stage: ZeRO stage.
        workers: Loader workers of each rank.
        launcher: One of `LAUNCHERS`, or `RANKS`.
        disturbance: What happens before the end, without ending the run.
        damage: What happens to the newest checkpoint afterwards.
    """

    number: int
    kind: str
    moment: str
    steps: int
    fraction: float
    world_size: int
    stage: int
    workers: int
    launcher: str = RANKS
    disturbance: str | None = None
    damage: str | None = None

    def __str__(self) -> str:
        started = f"{self.world_size} ranks, {self.launcher}, stage {self.stage}"
        return f"scenario {self.number} ({started}): {self.kind} ({self.moment})"

    @property
    def saves_every_step(self) -> bool:
        """Whether the run is asked to stop, so that it loses no step once it trains. DeepSpeed kills what it stops."""
        asked = (TERMINATE_RANK, CTRL_C) if self.launcher == DEEPSPEED else (TERMINATE_RANK, CTRL_C, TERMINATE_LAUNCHER)
        return self.kind in asked

    @property
    def exit_codes_are_those_of_ranks(self) -> bool:
        """Plain processes and ranks.sh pass them on; torchrun and deepspeed do not."""
        return self.launcher in (RANKS, RANKS_SH)


@dataclass
class Outcome:
    """What became of a scenario.

    Args:
        scenario: Which.
        disturbance: As it was done.
        damage: As it was done.
        seconds: From start to end.
        to_first_step: Seconds to the first new step; None where it did not come to train.
        to_end: Seconds from the fault to the end of the last process.
        resumed: Step that it resumed from; None where it did not come to train.
        reached: Last step.
        faults: What should not be.
    """

    scenario: Scenario
    disturbance: str | None = None
    damage: str | None = None
    seconds: float = 0.0
    to_first_step: float | None = None
    to_end: float | None = None
    resumed: int | None = None
    reached: int = 0
    faults: list[str] = field(default_factory=list)


def draw(
    seed: str, kills: int, world_sizes: Sequence[int], stages: Sequence[int], skipped: Sequence[str] = ()
) -> list[Scenario]:
    """`kills` scenarios. Kinds come from decks of cards, so that each one comes up before any comes again."""
    rng = random.Random(seed)
    endings, launchers, signalled = _deck(rng, ENDINGS), _deck(rng, LAUNCHER_DECK), _deck(rng, LAUNCHERS)
    disturbances = _deck(rng, (*(how for how in DISTURBANCES if how not in skipped), *[None] * 4))
    damages = _deck(rng, (*(how for how in DAMAGES if how not in skipped), *[None] * 5))
    return [
        _draw_one(rng, number, next(endings), (launchers, signalled, disturbances, damages), world_sizes, stages)
        for number in range(1, kills + 1)
    ]


def _draw_one(
    rng: random.Random,
    number: int,
    kind: str,
    decks: tuple[Iterator[str], Iterator[str], Iterator[str | None], Iterator[str | None]],
    world_sizes: Sequence[int],
    stages: Sequence[int],
) -> Scenario:
    launchers, signalled, disturbances, damages = decks
    moment = rng.choice(["step", "step", "save"] if kind in (KILL_LOADER, HANG) else ["start", "step", "step", "save"])
    launcher = next(signalled if kind in (KILL_LAUNCHER, TERMINATE_LAUNCHER) else launchers)
    return Scenario(
        number=number,
        kind=kind,
        moment=moment,
        steps=rng.randint(1, 6),
        fraction=rng.random(),
        world_size=rng.choice([size for size in world_sizes if size > 1 or kind != HANG]),
        stage=rng.choice(stages),
        workers=rng.choice([0, 0, 1]) if kind != KILL_LOADER else 1,
        launcher=launcher if kind != HANG else RANKS,
        disturbance=None if moment == "start" else next(disturbances),
        damage=next(damages),
    )


def _deck(rng: random.Random, cards: Sequence[_Card]) -> Iterator[_Card]:
    while True:
        yield from rng.sample(cards, len(cards))
