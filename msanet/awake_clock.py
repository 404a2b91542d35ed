"""A clock that stands still while this process is stopped: Ctrl-Z, `docker pause`, `scontrol suspend`.

After such a pause `time.monotonic` has jumped although nobody was silent and nothing was slow. A process learns of it only from
the jump, so a thread has to read this clock all the time (`ticking`); where none does, it equals `time.monotonic`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_LATE = 2.0
"""How many times its interval a thread may be late before the rest of the time counts as a pause."""
_LONG = 3.0
"""How many times longer than that is what `last_pause` keeps; a busy machine delays threads too."""


class Pause(NamedTuple):
    """A pause of this process. ended: time of the clock."""

    seconds: float
    ended: float


class AwakeClock:
    """Seconds, without the pauses of this process. clock: that of the machine, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._last = self._now = clock()
        self._intervals: list[float] = []
        self.paused_seconds = 0.0
        """Of all pauses so far."""
        self.last_pause: Pause | None = None
        """The last long one."""

    def now(self) -> float:
        """Seconds since some moment; the same as `time.monotonic` before the first pause."""
        with self._lock:
            last, self._last = self._last, self._clock()
            gap = self._last - last
            longest = _LATE * min(self._intervals, default=gap)
            counted = min(gap, longest)
            self._now += counted
            self.paused_seconds += gap - counted
            if gap - counted > _LONG * longest:
                self.last_pause = Pause(gap, self._now)
            return self._now

    @contextmanager
    def ticking(self, interval: float) -> Iterator[None]:
        """The caller reads the clock every `interval` seconds while this is entered."""
        self.now()
        self._intervals.append(interval)
        try:
            yield
        finally:
            self.now()
            self._intervals.remove(interval)

    def tick_in_background(self, interval: float = 1.0) -> None:
        """For the rest of this process's life, by a thread."""

        def tick() -> None:
            with self.ticking(interval):
                while True:
                    time.sleep(interval)
                    self.now()

        threading.Thread(target=tick, daemon=True, name="awake-clock").start()


awake_clock = AwakeClock()
"""This process's."""
