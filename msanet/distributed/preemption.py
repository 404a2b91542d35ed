"""Requests for a checkpoint out of turn: by signals (SIGTERM, SIGUSR1, Ctrl-C, SIGHUP), a lost launcher, or the clock."""

import logging
import signal
import threading
import time
from enum import IntEnum
from types import FrameType

from msanet import distributed
from msanet.awake_clock import awake_clock
from msanet.distributed import parent_watchdog
from msanet.distributed.process_exit import EXIT_FAILURE, EXIT_PREEMPTED, Preempted, end_process, exit_now, is_command
from msanet.distributed.progress import broadcast_failure
from msanet.logs import EVERY_RANK
from msanet.processes import stop_signals

logger = logging.getLogger(__name__)

_SAME_INTERRUPT_SECONDS = 3.0
"""Within which SIGINTs count as one Ctrl-C: a terminal sends it to each process, and torchrun to its ranks once more."""


class StopRequest(IntEnum):
    """What is requested after a step; the larger includes the smaller."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2


class PreemptionHandler:
    """While it is entered, signals and a lost launcher do not end this rank but ask all ranks to save and stop.

    Before it is entered, SIGTERM, SIGUSR1 and SIGHUP end all ranks at once, since there is nothing to save; a second Ctrl-C
    always does.

    Args:
        grace_seconds: After the first request a command ends within these in any case: with exit code 1, nothing saved.
        save_every_minutes: Minutes between checkpoints; 0: none are requested.
    """

    def __init__(self, grace_seconds: float, save_every_minutes: float) -> None:
        self._grace_seconds, self._save_every_minutes = grace_seconds, save_every_minutes
        self._last_save = time.monotonic()
        self._reason: str | None = None
        self._last_interrupt: float | None = None
        is_main_thread = threading.current_thread() is threading.main_thread()
        self._signals = stop_signals() if is_main_thread else ()  # Python allows no handlers elsewhere
        for number in set(self._signals) - {signal.SIGINT}:
            signal.signal(number, _end_before_first_step)

    def __enter__(self) -> "PreemptionHandler":
        self._before = {number: signal.signal(number, self._on_signal) for number in self._signals}
        parent_watchdog.on_parent_exit(lambda: self._request("lost its launcher"))
        return self

    def __exit__(self, *error: object) -> None:
        parent_watchdog.on_parent_exit(None)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_requested(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._reason is not None

    def stopped(self) -> Preempted:
        """What the training raises once it has saved."""
        return Preempted(interrupted=self._last_interrupt is not None)

    def poll(self) -> StopRequest:
        """What any rank requests, the same on all. A collective, for after each step."""
        minutes = (time.monotonic() - self._last_save) / 60
        is_due = distributed.is_main() and 0 < self._save_every_minutes <= minutes
        own = StopRequest.STOP if self._reason else StopRequest.CHECKPOINT if is_due else StopRequest.NONE
        request = StopRequest(distributed.all_reduce_max(own))
        if request:
            self._last_save = time.monotonic()
        return request

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:  # launchers add a SIGTERM of their own
            before, now = self._last_interrupt, time.monotonic()
            if before is not None and now - before > _SAME_INTERRUPT_SECONDS:
                end_process(128 + signal.SIGINT, KeyboardInterrupt())
            self._last_interrupt = now if before is None else before
        self._request(f"got {signal.Signals(number).name}")

    def _request(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        logger.warning(f"rank {distributed.rank()} {reason}: the run saves after this step and stops", extra=EVERY_RANK)
        if is_command():  # a Python program decides for itself
            threading.Thread(target=self._end_after_grace, daemon=True, name="grace").start()

    def _end_after_grace(self) -> None:
        end = awake_clock.now() + self._grace_seconds
        while (left := end - awake_clock.now()) > 0:
            time.sleep(min(left, 1.0))
        logger.error(
            f"rank {distributed.rank()} {self._reason} and could not save within "
            f"run.preemption_grace_seconds={self._grace_seconds:g} s [MSA-DIST-011]"
        )
        exit_now(EXIT_FAILURE)


def _end_before_first_step(number: int, frame: FrameType | None) -> None:
    what = f"got {signal.Signals(number).name} before its first step"
    logger.warning(f"rank {distributed.rank()} {what}: the run stops, and has nothing to save", extra=EVERY_RANK)
    broadcast_failure(what, EXIT_PREEMPTED)
    end_process(EXIT_PREEMPTED, Preempted(f"the run {what} and has nothing to save"))
