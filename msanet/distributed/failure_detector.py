"""Which rank has failed, and how, according to the heartbeats of all ranks. No clock, store or thread in here."""

from collections.abc import Sequence
from dataclasses import dataclass

from msanet.distributed.process_exit import EXIT_FAILURE
from msanet.distributed.timeouts import SLOW_STEP_FACTOR, Timeouts

RESUME_HINT = "run the same command again to resume from the last checkpoint"

LIVENESS_HEARTBEATS = 2.5
"""Heartbeats that a liveness check waits for."""


@dataclass(frozen=True)
class Heartbeat:
    """What one rank reports.

    Args:
        sequence: Number of this heartbeat; a new one shows that the rank is alive.
        stage: How many stages it has begun of what all ranks do alike; the rank with the fewest holds up the others.
        activity: What it is doing, for sentences: `waiting for the data of step 12`.
        idle_seconds: Seconds since its last progress; None while it waits for other ranks.
        slow: Whether what it is doing may take SLOW_STEP_FACTOR times as long as usual.
        error: What its collective failed with.
    """

    sequence: int = 0
    stage: int = 0
    activity: str = "starting"
    idle_seconds: float | None = 0.0
    slow: bool = True
    error: str | None = None


@dataclass(frozen=True)
class FailureReport:
    """Why the job ends.

    Args:
        message: One sentence that names rank and host.
        code: Error code, or None if it is in the message.
        lost_ranks: Ranks that cannot log it.
        logged_on: Host on which it is logged already.
    """

    message: str
    code: str | None = None
    exit_code: int = EXIT_FAILURE
    lost_ranks: tuple[int, ...] = ()
    logged_on: str = ""

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" if self.code else self.message


def describe_ranks(hosts: Sequence[str], *ranks: int) -> str:
    """`rank 1 (host A), rank 2 (host B) and 12 more`."""
    more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
    return ", ".join(f"rank {rank} (host {hosts[rank]})" for rank in ranks[:4]) + more


def no_heartbeat(hosts: Sequence[str], ranks: Sequence[int], seconds: float) -> FailureReport:
    """The report on ranks without a heartbeat for so long."""
    return FailureReport(
        f"no heartbeat from {describe_ranks(hosts, *ranks)} for {seconds:.0f} s: the process has stopped, or the host or "
        f"network is down; {RESUME_HINT}",
        "MSA-DIST-006",
        lost_ranks=tuple(ranks),
    )


def lost_ranks(hosts: Sequence[str], ranks: Sequence[int]) -> FailureReport:
    """The report on ranks that have died."""
    verb = "are" if len(ranks) > 1 else "is"
    return FailureReport(
        f"{describe_ranks(hosts, *ranks)} {verb} gone: the process was killed, or its host is down; {RESUME_HINT}",
        "MSA-DIST-008",
        lost_ranks=tuple(ranks),
    )


def failed_collective(hosts: Sequence[str], ranks: Sequence[int], error: str) -> FailureReport:
    """The report on a collective that failed on these ranks although no rank is known to be lost."""
    return FailureReport(
        f"a collective failed on {describe_ranks(hosts, *ranks)}, and no rank is known to be lost: {error}; {RESUME_HINT}",
        "MSA-DIST-009",
    )


class FailureDetector:
    """Finds failures in the heartbeats of all ranks, on rank 0. now: seconds on any clock that only goes forward."""

    def __init__(self, hosts: Sequence[str], timeouts: Timeouts, now: float) -> None:
        self._hosts, self._timeouts = hosts, timeouts
        self._sequences = [0] * len(hosts)
        self._last_seen = [now] * len(hosts)
        self._collective_failed_at: float | None = None

    @property
    def is_checking_liveness(self) -> bool:
        """Whether a collective has failed, so that heartbeats are worth reading more often."""
        return self._collective_failed_at is not None

    def update(self, heartbeats: Sequence[Heartbeat], now: float) -> FailureReport | None:
        """What has failed, if anything, now that these are the last heartbeats of the ranks."""
        for rank, heartbeat in enumerate(heartbeats):
            if heartbeat.sequence != self._sequences[rank]:
                self._sequences[rank], self._last_seen[rank] = heartbeat.sequence, now
        return self._silence(now) or self._broken_collective(heartbeats, now) or self._stall(heartbeats)

    def _silence(self, now: float) -> FailureReport | None:
        silent = [rank for rank, seen in enumerate(self._last_seen) if now - seen > self._timeouts.heartbeat]
        return no_heartbeat(self._hosts, silent, now - min(self._last_seen)) if silent else None

    def _broken_collective(self, heartbeats: Sequence[Heartbeat], now: float) -> FailureReport | None:
        """After a collective has failed on some rank: those without a heartbeat since then are lost."""
        failed = {rank: heartbeat.error for rank, heartbeat in enumerate(heartbeats) if heartbeat.error}
        if not failed:
            return None
        if self._collective_failed_at is None:
            self._collective_failed_at = now
        if now - self._collective_failed_at < LIVENESS_HEARTBEATS * self._timeouts.heartbeat_interval:
            return None
        since = self._collective_failed_at
        lost = [rank for rank, seen in enumerate(self._last_seen) if seen <= since and rank not in failed]
        if lost:
            return lost_ranks(self._hosts, lost)
        return failed_collective(self._hosts, list(failed), next(iter(failed.values())))

    def _stall(self, heartbeats: Sequence[Heartbeat]) -> FailureReport | None:
        limit = self._timeouts.stall
        idle = {rank: beat.idle_seconds for rank, beat in enumerate(heartbeats) if beat.idle_seconds is not None}
        if all(seconds <= limit * (SLOW_STEP_FACTOR if heartbeats[rank].slow else 1) for rank, seconds in idle.items()):
            return None
        waiting = [rank for rank, seconds in idle.items() if seconds > limit / 2]
        stage = min(heartbeats[rank].stage for rank in waiting)
        stalled = [rank for rank in waiting if heartbeats[rank].stage == stage]
        return FailureReport(
            f"{describe_ranks(self._hosts, *stalled)} made no progress for {idle[stalled[0]]:.0f} s while "
            f"{heartbeats[stalled[0]].activity}; {RESUME_HINT}, and if this can take so long, raise "
            f"run.stall_timeout_seconds={limit:g}",
            "MSA-DIST-007",
        )
