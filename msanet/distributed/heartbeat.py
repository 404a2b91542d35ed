"""Heartbeats: every rank reports that it is alive and what it does, and a failure ends the job everywhere, with one sentence.

The job fails if a rank sends no heartbeat, makes no progress, is found missing by the liveness check after a failed collective,
or broadcasts an error of its own. Threads watch for this while the training waits in a collective. See docs/decisions/0003.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

import torch.distributed as dist

from msanet.awake_clock import awake_clock
from msanet.distributed.failure_detector import (
    LIVENESS_HEARTBEATS,
    FailureDetector,
    FailureReport,
    Heartbeat,
    describe_ranks,
    failed_collective,
    lost_ranks,
    no_heartbeat,
    stopped_too_long,
)
from msanet.distributed.process_exit import JobFailed
from msanet.distributed.rendezvous import leave, new_connection
from msanet.distributed.timeouts import Timeouts

logger = logging.getLogger(__name__)

CHECKPOINT_THREAD = "checkpoint"
"""Name of a thread that is waited for before a failure ends the process."""


_MISSING_RANKS = ("MSA-DIST-006", "MSA-DIST-008", "MSA-DIST-009")
"""Reports that follow from ranks that are gone."""


class HeartbeatMonitor:
    """Sends this rank's heartbeats and watches those of the others.

    on_failure: called from a thread, after the failure was logged, to end what the main thread is doing.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        hosts: Sequence[str],
        timeouts: Timeouts,
        on_failure: Callable[[FailureReport], None],
    ) -> None:
        self.rank, self.hosts, self.timeouts = rank, hosts, timeouts
        self.interval = timeouts.heartbeat_interval
        self.failure: FailureReport | None = None
        self.last_error = "an error"
        """The user error with which this rank ends, once it has one."""
        self._store, self._on_failure = store, on_failure
        self._heartbeat = Heartbeat()
        self._last_progress = self._last_contact = awake_clock.now()
        self._paused_before = awake_clock.paused_seconds
        self._wake, self._stopped, self._failed = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._barriers = 0
        targets = (self._send_heartbeats, self._watch_contact)
        self._threads = [threading.Thread(target=target, daemon=True, name="heartbeat") for target in targets]

    def start(self) -> None:
        """Begin to send and to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads. One that waits for a host that has vanished is left behind."""
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(3 * self.interval + 1)

    def leave(self) -> None:
        """The orderly end of a rank, with all others: no more heartbeats and no reports."""
        if self._stopped.is_set():
            return
        self.barrier()
        self._stopped.set()
        leave(self._store, self.rank, len(self.hosts), self.interval)

    def begin_stage(self, activity: str, slow: bool = False) -> None:
        """Progress in what all ranks do alike, so that the rank with the fewest stages holds up the others."""
        self._heartbeat = replace(self._heartbeat, stage=self._heartbeat.stage + 1)
        self.report_progress(activity, slow)

    def report_progress(self, activity: str, slow: bool = False) -> None:
        """Progress of this rank alone, such as another image of its share."""
        self._last_progress = awake_clock.now()
        self._heartbeat = replace(self._heartbeat, activity=activity, idle_seconds=0.0, slow=slow)

    def barrier(self) -> None:
        """Wait until every rank is here, as long as the others make progress. Raises JobFailed if another rank fails."""
        self._barriers += 1
        key, before = f"barrier/{self._barriers}", self._heartbeat
        self._heartbeat = replace(before, idle_seconds=None)
        missing, pause = len(self.hosts) - self._store.add(key, 1), 0.001
        while missing:
            if self._failed.wait(pause):
                raise JobFailed(str(self.failure), self.failure.exit_code if self.failure else 1)
            missing, pause = len(self.hosts) - self._store.add(key, 0), min(2 * pause, 0.25)
        self.report_progress(before.activity, before.slow)

    def is_first_to_log(self, error: str) -> bool:
        """Whether no rank has asked this before, for a user error that all ranks may find."""
        self.last_error = error
        try:
            return self._store.add(f"logged/{error}", 1) == 1
        except RuntimeError:  # rank 0, which keeps the store, has logged it and ended
            return False

    def broadcast_failure(self, message: str, exit_code: int, code: str | None = None) -> None:
        """Before this rank ends with an error of its own, which it has logged: tell all others."""
        report = FailureReport(f"{self.describe(self.rank)} ended: {message}", code, exit_code)
        with suppress(RuntimeError):  # the store is gone, and so is whoever would read it
            self._publish(replace(report, logged_on=self.hosts[self.rank]))
        self._stopped.set()
        self._let_others_read()

    def check_liveness(self, error: BaseException) -> FailureReport:
        """After a collective has failed: wait for the report on who is lost."""
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        self._heartbeat = replace(self._heartbeat, error=first_line)
        self._wake.set()
        if not self._failed.wait(3 * LIVENESS_HEARTBEATS * self.interval + 1):
            self._record(failed_collective(self.hosts, [self.rank], first_line))
        assert self.failure, "reported by rank 0, or here"
        return self.failure

    def fail(self, report: FailureReport) -> None:
        """End the work of this process: log why, unless it has ended already, and call `on_failure`."""
        if self._record(report):
            self._on_failure(report)

    def describe(self, *ranks: int) -> str:
        """Ranks and their hosts, for sentences."""
        return describe_ranks(self.hosts, *ranks)

    def _send_heartbeats(self) -> None:
        detector = FailureDetector(self.hosts, self.timeouts, awake_clock.now()) if self.rank == 0 else None
        sequence = 0
        try:
            store = new_connection(self._store)
            while not self._stopped.is_set():
                sequence += 1
                paused = awake_clock.paused_seconds - self._paused_before
                heartbeat = replace(self._heartbeat, sequence=sequence, paused_seconds=paused)
                if heartbeat.idle_seconds is not None:
                    heartbeat = replace(heartbeat, idle_seconds=awake_clock.now() - self._last_progress)
                store.set(f"heartbeat/{self.rank}", json.dumps(asdict(heartbeat)))
                if detector:
                    values = store.multi_get([f"heartbeat/{rank}" for rank in range(len(self.hosts))])
                    report = detector.update([Heartbeat(**json.loads(value)) for value in values], awake_clock.now())
                    if report:
                        self._publish(report)
                    elif pauses := detector.new_pauses():
                        logger.warning(pauses)
                if store.check(["failure"]):
                    return self.fail(FailureReport(**json.loads(store.get("failure"))))
                self._last_contact = awake_clock.now()
                self._wake.wait(self.interval / 4 if detector and detector.is_checking_liveness else self.interval)
                self._wake.clear()
        except RuntimeError:
            if not self._stopped.wait(2 * self.interval):  # else the job is over, and rank 0 was the first to leave
                self.fail(lost_ranks(self.hosts, [0]))

    def _watch_contact(self) -> None:
        """In a thread of its own, since a write to a host that has vanished never returns."""
        with awake_clock.ticking(self.interval):
            while not self._stopped.wait(self.interval):
                silence = awake_clock.now() - self._last_contact
                if silence > self.timeouts.heartbeat + self.interval:  # rank 0 is the first to report others
                    return self.fail(no_heartbeat(self.hosts, [0], silence))

    def _publish(self, report: FailureReport) -> None:
        """To all ranks; the first report stands."""
        new_connection(self._store).compare_set("failure", "", json.dumps(asdict(report)))

    def _record(self, report: FailureReport) -> bool:
        """Log a failure, on one rank of each host. False where this rank has ended already: this is only the consequence."""
        with self._lock:
            if self._stopped.is_set():
                return False
            self._stopped.set()
            own = self._own_pause(report)
            self.failure = report = own or report
        here = self.hosts[self.rank]
        able = [rank for rank, host in enumerate(self.hosts) if host == here and rank not in report.lost_ranks]
        if own or (report.logged_on != here and self.rank in able[:1]):
            logger.error(str(report))
        self._let_others_read()
        self._failed.set()
        return True

    def _own_pause(self, report: FailureReport) -> FailureReport | None:
        """Another report where ranks are missing because this one was stopped for too long, so that they gave it up."""
        now, pause, limit = awake_clock.now(), awake_clock.last_pause, self.timeouts.heartbeat
        is_missing = report.code in _MISSING_RANKS and self.rank not in report.lost_ranks and len(self.hosts) > 1
        if is_missing and pause and pause.seconds > limit - 2 * self.interval and now - pause.ended < limit:
            return stopped_too_long(self.hosts, self.rank, pause.seconds, limit)
        return None

    def _let_others_read(self) -> None:
        """The store is in rank 0's process."""
        if self.rank == 0 and len(self.hosts) > 1:
            time.sleep(1.5 * self.interval)
