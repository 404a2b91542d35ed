"""What asks for a checkpoint out of turn: being told to stop, and the clock.

SLURM warns a job that it will preempt with SIGTERM, or a signal of one's choice such as SIGUSR1; Ctrl-C is SIGINT. A launcher
that is killed leaves its ranks without one.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from enum import IntEnum
from types import FrameType

from msanet import distributed

EXIT_REQUEUE = 75
"""Exit code of a run that was told to stop and has saved: start it again (EX_TEMPFAIL of sysexits.h)."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Ask(IntEnum):
    """What is asked for after a step; the larger includes the smaller."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class Watch:
    """While it is entered, signals and a lost launcher do not end this rank but ask all ranks to save and stop.

    A second Ctrl-C ends the process at once. grace: seconds after the first request by which this process ends in any
    case, with exit code 1 and without a checkpoint. minutes: between checkpoints; 0: none are asked for.
    """

    def __init__(self, grace: float, minutes: float) -> None:
        self._grace, self._minutes = grace, minutes
        self._last_save = time.monotonic()
        self._reason: str | None = None

    def __enter__(self) -> "Watch":
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        distributed.when_launcher_is_lost(self._on_lost_launcher)
        return self

    def __exit__(self, *error: object) -> None:
        distributed.when_launcher_is_lost(None)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_told_to_stop(self) -> bool:
        """Whether this rank was."""
        return self._reason is not None

    def asks(self) -> Ask:
        """What any rank asks for, the same on all. A collective, for after each step."""
        own = Ask.NOTHING
        if distributed.is_main() and self._minutes and time.monotonic() - self._last_save >= 60 * self._minutes:
            own = Ask.SAVE
        if self._reason:
            own = Ask.STOP
        asked = Ask(distributed.all_reduce_max(own))
        if asked:
            self._last_save = time.monotonic()
        return asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._reason:
            os._exit(128 + number)
        self._request(f"got {signal.Signals(number).name}")

    def _on_lost_launcher(self) -> None:
        self._request("lost its launcher")

    def _request(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        _say(f"rank {distributed.rank()} {reason}: the run saves after this step and stops")
        timer = threading.Timer(self._grace, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        _say(f"error: rank {distributed.rank()} {self._reason} and could not save within run.grace={self._grace:g} s")
        os._exit(1)


def _say(sentence: str) -> None:
    """To stderr, past the buffer that an interrupted print may hold; a terminal that is gone is no reason to fail."""
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"{sentence}\n".encode())
