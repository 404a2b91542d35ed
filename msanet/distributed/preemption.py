"""What asks for a checkpoint out of turn: being told to stop, and the clock.

SLURM warns a job that it will preempt with SIGTERM, or a signal of one's choice such as SIGUSR1; Ctrl-C is SIGINT. A launcher
that is killed leaves its ranks without one.
"""

import os
import signal
import threading
import time
from enum import IntEnum
from types import FrameType

from msanet import distributed
from msanet.distributed import parent_watchdog
from msanet.distributed.heartbeat import say

EXIT_PREEMPTED = 75
"""Exit code of a run that was told to stop and has saved: start it again (EX_TEMPFAIL of sysexits.h)."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest(IntEnum):
    """What is asked for after a step; the larger includes the smaller."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class PreemptionHandler:
    """While it is entered, signals and a lost launcher do not end this rank but ask all ranks to save and stop.

    From its making until then, SIGTERM and SIGUSR1 end all ranks at once: there is nothing to save, only to start again.
    A second Ctrl-C ends the process at once. grace: seconds after the first request by which this process ends in any
    case, with exit code 1 and without a checkpoint. minutes: between checkpoints; 0: none are asked for.
    """

    def __init__(self, grace: float, minutes: float) -> None:
        self._grace, self._minutes = grace, minutes
        self._last_save = time.monotonic()
        self._reason: str | None = None
        self._interrupts = 0
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _leave)

    def __enter__(self) -> "PreemptionHandler":
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        parent_watchdog.on_parent_exit(self._on_lost_launcher)
        return self

    def __exit__(self, *error: object) -> None:
        parent_watchdog.on_parent_exit(None)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stop_requested(self) -> bool:
        """Whether this rank was."""
        return self._reason is not None

    def poll(self) -> StopRequest:
        """What any rank asks for, the same on all. A collective, for after each step."""
        own = StopRequest.NOTHING
        if distributed.is_main() and self._minutes and time.monotonic() - self._last_save >= 60 * self._minutes:
            own = StopRequest.SAVE
        if self._reason:
            own = StopRequest.STOP
        asked = StopRequest(distributed.all_reduce_max(own))
        if asked:
            self._last_save = time.monotonic()
        return asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:  # parent_watchdog add a SIGTERM of their own to the first
            os._exit(128 + signal.SIGINT)
        self._request(f"got {signal.Signals(number).name}")

    def _on_lost_launcher(self) -> None:
        self._request("lost its launcher")

    def _request(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        say(f"rank {distributed.rank()} {reason}: the run saves after this step and stops")
        timer = threading.Timer(self._grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        say(
            f"error: rank {distributed.rank()} {self._reason} and could not save within run.preemption_grace_seconds={self._grace:g} s"
        )
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    what = f"got {signal.Signals(number).name} before its first step"
    say(f"rank {distributed.rank()} {what}: the run stops, and has nothing to save")
    distributed.broadcast_failure(what, EXIT_PREEMPTED)
    os._exit(EXIT_PREEMPTED)
