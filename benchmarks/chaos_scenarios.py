"""The lives of a run under chaos: what each is ended by, when, and what became of it."""

import random
from dataclasses import dataclass, field

KILL_RANK, KILL_ALL = "kill -9 of a rank", "kill -9 of all"
LAUNCHER, LOADER = "kill -9 of the launcher", "kill -9 of a loader process"
TOLD_RANK, TOLD_LAUNCHER, CTRL_C = "SIGTERM or SIGUSR1 to a rank", "SIGTERM or SIGUSR1 to the launcher", "Ctrl-C"
STALL = "stopped for ever"
DECK = 2 * (KILL_RANK, KILL_ALL, LOADER, TOLD_RANK) + (LAUNCHER, TOLD_LAUNCHER, CTRL_C, STALL)
"""The rarer ones take longer: `deepspeed` starts twice as slowly as its ranks, and silence has to be waited for."""
TOLD = (TOLD_RANK, CTRL_C)
"""A run that is told to stop loses no step, once it trains."""
LEFT_ALONE = "left alone"
PAUSE, FULL_DISK = "stopped for 3 s", "full disk"


@dataclass(frozen=True)
class Life:
    """One start of a run and its end, as drawn. moment: start, step, save or end. steps: new ones before it."""

    number: int
    kind: str
    moment: str
    steps: int
    fraction: float
    world_size: int
    stage: int
    workers: int
    by_deepspeed: bool = False
    disturbance: str | None = None
    damage: str | None = None

    def __str__(self) -> str:
        started = f"{self.world_size} ranks{' by deepspeed' if self.by_deepspeed else ''}, stage {self.stage}"
        return f"life {self.number} ({started}): {self.kind} ({self.moment})"


@dataclass
class Outcome:
    """What became of a life. resumed, reached: steps; None where it did not come to train. faults: what should not be."""

    kind: str
    disturbance: str | None = None
    damage: str | None = None
    seconds: float = 0.0
    to_first_step: float | None = None
    to_end: float | None = None
    resumed: int | None = None
    reached: int = 0
    faults: list[str] = field(default_factory=list)


def draw(seed: str, kills: int, worlds: tuple[int, ...], stages: tuple[int, ...]) -> list[Life]:
    """`kills` lives, deck after deck."""
    rng = random.Random(seed)
    lives: list[Life] = []
    deck: list[str] = []
    while len(lives) < kills:
        deck = deck or rng.sample(DECK, len(DECK))
        kind = deck.pop()
        moment = rng.choice(["step", "step", "save"] if kind in (LOADER, STALL) else ["start", "step", "step", "save"])
        disturbance = None
        if moment != "start" and rng.random() < 0.25:
            disturbance = rng.choice([PAUSE, FULL_DISK])
        lives.append(
            Life(
                number=len(lives) + 1,
                kind=kind,
                moment=moment,
                steps=rng.randint(1, 6),
                fraction=rng.random(),
                world_size=rng.choice([world for world in worlds if world > 1 or kind != STALL]),
                stage=rng.choice(stages),
                workers=rng.choice([0, 0, 1]) if kind != LOADER else 1,
                by_deepspeed=kind in (LAUNCHER, TOLD_LAUNCHER) or (kind == CTRL_C and rng.random() < 0.25),
                disturbance=disturbance,
                damage=rng.choice(["truncate", "flip", "delete"]) if rng.random() < 0.25 else None,
            )
        )
    return lives
