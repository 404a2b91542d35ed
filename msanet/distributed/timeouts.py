"""How long the ranks of a job wait for one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msanet.config.sections import RunConfig

SLOW_STEP_FACTOR = 5.0
"""How many times longer a step may take that is known to be slow, such as a first one, which compiles."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which the job ends: without a heartbeat, without progress, and at the start without all ranks."""

    heartbeat: float = 60.0
    stall: float = 96.0
    rendezvous: float = 120.0

    @classmethod
    def from_config(cls, run: RunConfig) -> Timeouts:
        """Those of a run's settings."""
        return cls(run.heartbeat_timeout_seconds, run.stall_timeout_seconds, run.rendezvous_timeout_seconds)

    @classmethod
    def scaled(cls, seconds: float) -> Timeouts:
        """In the proportions of the defaults; `seconds`: of the rendezvous, which is the longest."""
        return cls(0.5 * seconds, 0.8 * seconds, seconds)

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two heartbeats of a rank."""
        return min(2.0, self.heartbeat / 10)

    @property
    def collective(self) -> float:
        """Seconds that a collective waits for a slow step of another rank; the heartbeats end every failure sooner."""
        return SLOW_STEP_FACTOR * self.stall + 2 * self.heartbeat
