"""How fast steps follow one another, and which rank waits for its data meanwhile."""

import logging
import time
from collections.abc import Callable

from msanet import distributed
from msanet.config import Config

logger = logging.getLogger(__name__)

_MUCH = 0.2
"""Share of the time above which a rank that waits for its data is named."""


class ThroughputMeter:
    """The seconds of steps, each from waiting for its data to its end, and which of them this rank waited for that data.

    What happens between steps, such as an evaluation, is not counted. In order: `start_wait`, `end_wait`, `end_step`.
    steps: since the
    last call of `metrics`.
    """

    def __init__(self, config: Config) -> None:
        self.steps = 0
        self._images, self._workers = config.trainer.global_batch_size, config.data.num_workers
        self._seconds, self._waited, self._wait_started = 0.0, 0.0, time.perf_counter()
        self._has_begun, self._has_warned = False, False

    def start_wait(self) -> None:
        """The data of a step is asked for."""
        self._wait_started = time.perf_counter()

    def end_wait(self) -> None:
        """It is there."""
        self._waited += time.perf_counter() - self._wait_started

    def end_step(self) -> None:
        """The step has been given to the device."""
        self._seconds += time.perf_counter() - self._wait_started
        self.steps += 1

    def metrics(self, drain: Callable[[], None]) -> dict[str, float]:
        """Images per second of all ranks, the share of the time that the rank which waited most for data did so, and which.

        Since the last call. A collective, on the hosts' network. drain: waits for what a GPU has still queued. A rank
        that waits too much is named on stderr, once; not for the first steps of a run, in which loader processes start.
        """
        before = time.perf_counter()
        drain()
        seconds = self._seconds + time.perf_counter() - before
        shares = distributed.gather_numbers(self._waited / seconds)
        metrics = {"images_per_second": self.steps * self._images / seconds, "data_wait": max(shares)}
        if len(shares) > 1:
            metrics["slowest_rank"] = shares.index(max(shares))
        if self._has_begun:
            self._warn(shares)
        self.steps, self._seconds, self._waited, self._has_begun = 0, 0.0, 0.0, True
        return metrics

    def _warn(self, shares: list[float]) -> None:
        most = max(shares)
        if most <= _MUCH or self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            f"{distributed.describe_rank(shares.index(most))} waits for data {most:.0%} of the time, and all ranks with it; "
            f"raise data.num_workers (now {self._workers}), or look at what that host reads from and at its load"
        )
