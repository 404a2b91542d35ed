"""Which rank has failed, and how, according to the heartbeats of all ranks. No clock, store or thread in here."""

from collections.abc import Sequence
from dataclasses import dataclass

from msanet.distributed.process_exit import EXIT_FAILURE
from msanet.distributed.timeouts import SLOW_STEP_FACTOR, Timeouts

RESUME_HINT = "run the same command again to resume from the last checkpoint"

LIVENESS_HEARTBEATS = 2.5
"""Heartbeats that a liveness check waits for."""
PAUSE_HEARTBEATS = 5.0
"""Heartbeats after which a pause of a rank is worth a line."""


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
        paused_seconds: How long its process was stopped, all in all.
    """

    sequence: int = 0
    stage: int = 0
    activity: str = "starting"
    idle_seconds: float | None = 0.0
    slow: bool = True
    error: str | None = None
    paused_seconds: float = 0.0


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
        f"no heartbeat from {describe_ranks(hosts, *ranks)} for {seconds:.0f} s: the process is suspended or hangs, or the host "
        f"or network is down; {RESUME_HINT}",
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


def stopped_too_long(hosts: Sequence[str], rank: int, seconds: float, limit: float) -> FailureReport:
    """The report of a rank on itself, whose process was stopped until the others had given it up."""
    return FailureReport(
        f"{describe_ranks(hosts, rank)} did not run for {seconds:.0f} s, longer than run.heartbeat_timeout_seconds={limit:g}, "
        f"and the other ranks have ended without it; {RESUME_HINT}",
        "MSA-DIST-551",
    )


class FailureDetector:
    """Finds failures in the heartbeats of all ranks, on rank 0.

    now: seconds on any clock that only goes forward; it must stand still while this process is stopped, since it reads no
    heartbeats meanwhile.
    """

    def __init__(self, hosts: Sequence[str], timeouts: Timeouts, now: float) -> None:
        self._hosts, self._timeouts = hosts, timeouts
        self._sequences = [0] * len(hosts)
        self._last_seen = [now] * len(hosts)
        self._collective_failed_at: float | None = None
        self._last_update, self._silent_seconds = now, 0.0
        self._idle = [0.0] * len(hosts)
        self._silent_before = [0.0] * len(hosts)
        self._paused = [0.0] * len(hosts)
        self._pauses: dict[int, float] = {}
        self._paused_at = now

    @property
    def is_checking_liveness(self) -> bool:
        """Whether a collective has failed, so that heartbeats are worth reading more often."""
        return self._collective_failed_at is not None

    def update(self, heartbeats: Sequence[Heartbeat], now: float) -> FailureReport | None:
        """What has failed, if anything, now that these are the last heartbeats of the ranks."""
        if now - min(self._last_seen) > LIVENESS_HEARTBEATS * self._timeouts.heartbeat_interval:
            self._silent_seconds += now - self._last_update
        self._last_update = now
        for rank, heartbeat in enumerate(heartbeats):
            if heartbeat.sequence != self._sequences[rank]:
                self._sequences[rank], self._last_seen[rank] = heartbeat.sequence, now
                self._note_pause(rank, heartbeat.paused_seconds, now)
        return self._silence(now) or self._broken_collective(heartbeats, now) or self._stall(heartbeats)

    def new_pauses(self) -> str | None:
        """One sentence on the ranks that were stopped and run again; they wake up one after another, so it comes a bit later."""
        wait = LIVENESS_HEARTBEATS * self._timeouts.heartbeat_interval
        if not self._pauses or self._last_update - self._paused_at < wait:
            return None
        seconds, ranks = max(self._pauses.values()), sorted(self._pauses)
        self._pauses = {}
        return (
            f"{describe_ranks(self._hosts, *ranks)} did not run for about {seconds:.0f} s: stopped (Ctrl-Z, docker pause, a "
            "suspended job) or without a core; the run continues"
        )

    def _note_pause(self, rank: int, paused_seconds: float, now: float) -> None:
        seconds = paused_seconds - self._paused[rank]
        self._paused[rank] = paused_seconds
        if rank == 0:  # in whose process this is: the others waited, although none was silent
            self._silent_seconds += seconds
        if seconds > PAUSE_HEARTBEATS * self._timeouts.heartbeat_interval:
            self._paused_at = self._paused_at if self._pauses else now
            self._pauses[rank] = seconds

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

    def _own_idle_seconds(self, heartbeats: Sequence[Heartbeat]) -> dict[int, float]:
        """Seconds without progress by rank, without those in which a rank was silent: the others wait for it."""
        idle = {}
        for rank, heartbeat in enumerate(heartbeats):
            seconds, before = heartbeat.idle_seconds, self._idle[rank]
            self._idle[rank] = seconds or 0.0
            if seconds is None or seconds < before:  # progress, or waiting
                self._silent_before[rank] = self._silent_seconds
            if seconds is not None:
                idle[rank] = seconds - (self._silent_seconds - self._silent_before[rank])
        return idle

    def _stall(self, heartbeats: Sequence[Heartbeat]) -> FailureReport | None:
        limit, idle = self._timeouts.stall, self._own_idle_seconds(heartbeats)
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
