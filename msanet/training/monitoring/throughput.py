"""How fast steps follow one another, and which rank waits for its data meanwhile."""

import logging
import time
from collections.abc import Callable

from msanet import distributed
from msanet.config import Config

logger = logging.getLogger(__name__)

_MAX_WAIT = 0.2
"""Share of the time above which a rank that waits for its data is named."""


class ThroughputMeter:
    """The time of steps, and how much of it this rank waited for data. In order: `start_wait`, `end_wait`, `end_step`.

    What happens between steps, such as an evaluation, is not counted. steps: since the last call of `metrics`.
    """

    def __init__(self, config: Config) -> None:
        self.steps = 0
        self._images, self._workers = config.trainer.global_batch_size, config.data.num_workers
        self._seconds, self._waited, self._wait_started = 0.0, 0.0, time.perf_counter()
        self._is_first_call, self._has_warned = True, False

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
        """Since the last call: images per second of all ranks, and the share of the time that the slowest one waited for data.

        A collective. drain: waits for what a GPU has still queued. A rank that waits too much is named once; not in the first
        steps of a run, in which loader processes start.
        """
        before = time.perf_counter()
        drain()
        seconds = self._seconds + time.perf_counter() - before
        shares = distributed.gather_objects(self._waited / seconds)
        wait = max(shares)
        metrics = {"images_per_second": self.steps * self._images / seconds, "data_wait": wait}
        if len(shares) > 1:
            metrics["slowest_rank"] = shares.index(wait)
        if wait > _MAX_WAIT and not self._is_first_call and not self._has_warned:
            self._has_warned = True
            logger.warning(
                f"{distributed.describe_rank(shares.index(wait))} waits for data {wait:.0%} of the time, and all ranks with it; "
                f"raise data.num_workers (now {self._workers}), or look at what that host reads from and at its load"
            )
        self.steps, self._seconds, self._waited, self._is_first_call = 0, 0.0, 0.0, False
        return metrics
