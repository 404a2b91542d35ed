"""The pulse of a job: every rank says that it lives and how far it is, so that a fault is named soon and ends the job everywhere.

Each rank writes a beat into the job's store every other second; rank 0 listens to all of them, the others to rank 0. The
job ends, with a sentence on each host that names rank and host, because of

    a rank that is not heard of for half of `timeout`: stopped, or its host or the link to it is down
    a rank that makes no report_progress for 0.8 of `timeout`: a loader that stalls, a collective that hangs
    a collective that fails: somebody is gone, and a roll call says who
    a rank that ends by an error of its own, which it tells before it leaves

Threads do all this, so that it goes on while the training waits in a collective.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import torch.distributed as dist

from msanet.distributed.rendezvous import another_connection, leave

EXIT_FAULT = 1
"""Exit code of the ranks of a job that a fault has ended."""
RESUME_HINT = "the same command goes on from the last checkpoint"

CHECKPOINT_THREAD = "checkpoint"
"""Name of a thread whose work is finished before a process is ended."""

_SILENCE, _STALL = 0.5, 0.8
"""Shares of `timeout`."""
_LIVENESS_BEATS = 2.5
"""Beats that a roll call waits for."""
SLOW_STEP_FACTOR = 5.0
"""How many times longer a step may take that is known to be slow, such as a first one."""


@dataclass(frozen=True)
class Heartbeat:
    """What one rank tells. number: of this beat. place: how many stages of the job's common course it has begun.

    idle: seconds since its last report_progress, of which it may take `patience` times the usual; None while it waits for others.
    trouble: what its collective failed with.
    """

    number: int = 0
    place: int = 0
    doing: str = "starting"
    idle: float | None = 0.0
    patience: float = SLOW_STEP_FACTOR
    trouble: str | None = None


@dataclass(frozen=True)
class FailureReport:
    """Why the job ends, and the exit code of all ranks. gone: ranks that cannot say it; said_on: the host that knows."""

    sentence: str
    code: int = EXIT_FAULT
    gone: tuple[int, ...] = ()
    said_on: str = ""


class HeartbeatMonitor:
    """This rank's own beat, and its ear for the others. hosts: the host of each rank. store: of the job, or of one process."""

    def __init__(self, store: dist.Store, rank: int, hosts: Sequence[str], timeout: float) -> None:
        self.rank, self.hosts, self.timeout = rank, hosts, timeout
        self.interval = min(2.0, timeout / 20)
        self._store = store
        self._beat = Heartbeat()
        self._moved = self._contact = time.monotonic()
        self._poked, self._stopped = threading.Event(), threading.Event()
        self._barriers = 0
        self.sentence = "by its exit code"
        """The error that this rank ends by, once it has one."""

    def start(self) -> None:
        """Begin to beat and to listen."""
        for target in (self._beat_on, self._watch_contact):
            threading.Thread(target=target, daemon=True, name="pulse").start()

    def leave(self) -> None:
        """The orderly end, after `barrier`: no more beats and no verdicts."""
        self._stopped.set()
        leave(self._store, self.rank, len(self.hosts), self.interval)

    def begin_stage(self, doing: str, slow: bool = False) -> None:
        """Progress in the course that all ranks take alike, so that the one with the least holds the others up.

        slow: this may take five times as long as usual before it counts as a stall.
        """
        self._beat = replace(self._beat, place=self._beat.place + 1)
        self.report_progress(doing, slow)

    def report_progress(self, doing: str, slow: bool = False) -> None:
        """Progress of this rank alone, such as another image of its share."""
        self._moved = time.monotonic()
        self._beat = replace(self._beat, doing=doing, idle=0.0, patience=SLOW_STEP_FACTOR if slow else 1.0)

    def barrier(self) -> None:
        """Wait until every rank is here; however long, while those that are missing make report_progress."""
        self._barriers += 1
        key, before = f"barrier/{self._barriers}", self._beat
        self._beat = replace(before, idle=None)
        missing, pause = len(self.hosts) - self._store.add(key, 1), 0.001
        while missing:
            time.sleep(pause)
            missing, pause = len(self.hosts) - self._store.add(key, 0), min(2 * pause, 0.25)
        self.report_progress(before.doing, slow=before.patience > 1)

    def is_first(self, sentence: str) -> bool:
        """Whether no rank has asked this before. For an error's sentence that all ranks may come to say."""
        self.sentence = sentence
        try:
            return self._store.add(f"said/{sentence}", 1) == 1
        except RuntimeError:  # rank 0, which keeps the store, has spoken and left
            return False

    def broadcast_failure(self, sentence: str, code: int) -> None:
        """Before this rank leaves on an error of its own: why, to all others."""
        with suppress(RuntimeError):  # the store is gone, and so is who would read it
            self._publish(
                FailureReport(f"{self.name(self.rank)} ended: {sentence}", code, said_on=self.hosts[self.rank])
            )
        self._stopped.set()
        self._let_others_read()

    def check_liveness(self, error: BaseException) -> None:
        """After a collective that failed: wait for the verdict on who is gone, which ends this process."""
        self._beat = replace(self._beat, trouble=_first_line(error))
        self._poked.set()
        time.sleep(3 * _LIVENESS_BEATS * self.interval + 1)
        self._end(FailureReport(f"a collective failed on {self.name(self.rank)}: {_first_line(error)}; {RESUME_HINT}"))

    def name(self, *ranks: int) -> str:
        """`rank 1 on HOST, rank 2 on HOST and 12 more`."""
        more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        return ", ".join(f"rank {rank} on {self.hosts[rank]}" for rank in ranks[:4]) + more

    def _beat_on(self) -> None:
        judge = FailureDetector(self) if self.rank == 0 else None
        number = 0
        try:
            store = another_connection(self._store)
            while not self._stopped.is_set():
                number += 1
                store.set(f"beat/{self.rank}", json.dumps(asdict(self._current_beat(number))))
                if judge:
                    beats = store.multi_get([f"beat/{rank}" for rank in range(len(self.hosts))])
                    verdict = judge.verdict([Heartbeat(**json.loads(beat)) for beat in beats])
                    if verdict:
                        self._publish(verdict)
                if store.check(["verdict"]):
                    self._end(FailureReport(**json.loads(store.get("verdict"))))
                self._contact = time.monotonic()
                self._poked.wait(self.interval / 4 if judge and judge.alarm else self.interval)
                self._poked.clear()
        except RuntimeError:
            if not self._stopped.wait(2 * self.interval):  # else the job is over, and rank 0 was the first to leave
                self._end(
                    FailureReport(f"{self.name(0)} is gone: its process or its host has died; {RESUME_HINT}", gone=(0,))
                )

    def _current_beat(self, number: int) -> Heartbeat:
        beat = self._beat
        return replace(beat, number=number, idle=None if beat.idle is None else time.monotonic() - self._moved)

    def _watch_contact(self) -> None:
        """In a thread of its own, since to write to a host that has vanished takes for ever."""
        while not self._stopped.wait(self.interval):
            silence = time.monotonic() - self._contact
            if silence > _SILENCE * self.timeout + self.interval:  # rank 0 names others first
                self._end(self.no_heartbeat([0], silence))

    def no_heartbeat(self, ranks: Sequence[int], seconds: float) -> FailureReport:
        """The verdict on ranks that are silent."""
        return FailureReport(
            f"{self.name(*ranks)} not heard of for {seconds:.0f} s (run.timeout={self.timeout:g}): stopped, or the host or "
            f"the link to it is down; {RESUME_HINT}",
            gone=tuple(ranks),
        )

    def _publish(self, verdict: FailureReport) -> None:
        """To all ranks; the first verdict stands."""
        another_connection(self._store).compare_set("verdict", "", json.dumps(asdict(verdict)))

    def _end(self, verdict: FailureReport) -> None:
        """End this process, after what it is writing. One rank of each host says why."""
        if self._stopped.is_set():  # another thread is at it, and what this one would say is its consequence
            time.sleep(self.timeout)
            return
        self._stopped.set()
        here = self.hosts[self.rank]
        speakers = [rank for rank, host in enumerate(self.hosts) if host == here and rank not in verdict.gone]
        if verdict.said_on != here and self.rank in speakers[:1]:
            say(f"error: {verdict.sentence}")
        until = time.monotonic() + self.timeout / 4
        for thread in threading.enumerate():
            if thread.name == CHECKPOINT_THREAD:  # idle threads of a pool never end
                thread.join(max(0.0, until - time.monotonic()))
        self._let_others_read()
        os._exit(verdict.code)

    def _let_others_read(self) -> None:
        """The store is in rank 0's process."""
        if self.rank == 0 and len(self.hosts) > 1:
            time.sleep(1.5 * self.interval)


class FailureDetector:
    """Rank 0's ear. Times are its own: when it saw a beat, not when that was sent."""

    def __init__(self, pulse: HeartbeatMonitor) -> None:
        self.pulse = pulse
        self.numbers = [0] * len(pulse.hosts)
        self.heard = [time.monotonic()] * len(pulse.hosts)
        self.alarm: float | None = None

    def verdict(self, beats: Sequence[Heartbeat]) -> FailureReport | None:
        """What is wrong, if anything, now that the ranks have these beats."""
        pulse, now = self.pulse, time.monotonic()
        for rank, beat in enumerate(beats):
            if beat.number != self.numbers[rank]:
                self.numbers[rank], self.heard[rank] = beat.number, now
        silent = [rank for rank, heard in enumerate(self.heard) if now - heard > _SILENCE * pulse.timeout]
        if silent:
            return pulse.no_heartbeat(silent, now - min(self.heard))
        return self._after_a_failed_collective(beats, now) or self._stall(beats)

    def _after_a_failed_collective(self, beats: Sequence[Heartbeat], now: float) -> FailureReport | None:
        troubled = [rank for rank, beat in enumerate(beats) if beat.trouble]
        if not troubled:
            return None
        self.alarm = self.alarm or now
        if now - self.alarm < _LIVENESS_BEATS * self.pulse.interval:
            return None
        absent = [rank for rank, heard in enumerate(self.heard) if heard <= self.alarm and rank not in troubled]
        if absent:
            is_gone = "are gone" if len(absent) > 1 else "is gone"
            sentence = f"{self.pulse.name(*absent)} {is_gone}: killed, or the host is down; {RESUME_HINT}"
            return FailureReport(sentence, gone=tuple(absent))
        trouble = beats[troubled[0]].trouble
        return FailureReport(
            f"a collective failed on {self.pulse.name(*troubled)} while all ranks live: {trouble}; {RESUME_HINT}"
        )

    def _stall(self, beats: Sequence[Heartbeat]) -> FailureReport | None:
        limit = _STALL * self.pulse.timeout
        if all(beat.idle is None or beat.idle <= limit * beat.patience for beat in beats):
            return None
        stuck = [rank for rank, beat in enumerate(beats) if beat.idle is not None and beat.idle > limit / 2]
        last = min(beats[rank].place for rank in stuck)
        ranks = [rank for rank in stuck if beats[rank].place == last]
        beat = beats[ranks[0]]
        return FailureReport(
            f"{self.pulse.name(*ranks)} made no report_progress for {beat.idle:.0f} s (run.timeout={self.pulse.timeout:g}) while "
            f"{beat.doing}; {RESUME_HINT}, and where this takes so long by itself, raise run.timeout"
        )


def say(sentence: str) -> None:
    """To stderr, past the buffer that an interrupted print may hold; a terminal that is gone is no reason to fail."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"\n{sentence}\n".encode())  # a report_progress bar may stand on this line


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
