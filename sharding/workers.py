"""Shards in parallel: the first error stops all workers, and no worker outlives the run."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2

from msanet.errors import UserError
from msanet.processes import exit_with_parent
from sharding.notes import Notes, add_notes, take_notes
from sharding.plan import ShardPlan
from sharding.shard import PackingJob, write_shard

Progress = Callable[[int], object]
"""Told the number of samples that were written since the last call."""

_POLL_S = 0.2


class WorkerLost(UserError):
    """A worker process ended from outside; what is finished stays, and the same command continues."""


class _Stop(Exception):
    """Another worker failed; this one stops too."""


def write_shards(job: PackingJob, plans: Sequence[ShardPlan], workers: int, progress: Progress) -> Notes:
    """Write all `plans` in at most `workers` processes; with one, in this process. Returns what was done to files.

    Raises the first error in the order of the plans, and WorkerLost if a worker was killed.
    """
    workers = min(workers, len(plans))
    if workers > 1:
        return _write_parallel(job, plans, workers, progress)
    for plan in plans:
        write_shard(job, plan, partial(progress, 1))
    return take_notes()


def _write_parallel(job: PackingJob, plans: Sequence[ShardPlan], workers: int, progress: Progress) -> Notes:
    # Not fork: a forked copy of a process that has used OpenCV's threads can hang.
    context = multiprocessing.get_context("spawn")
    # Without locks, since a worker killed while it holds one would hang the others: each shard has its own counter.
    done, stop = context.RawArray("Q", len(plans)), context.RawArray("b", 1)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(job, done, stop))
    try:
        with interrupts_held():
            futures = [pool.submit(_write, plan, slot) for slot, plan in enumerate(plans)]
        _follow(futures, done, progress)
    finally:
        stop[0] = True
        pool.shutdown(cancel_futures=True)
    _raise_first(futures)
    notes: Notes = {}
    for future in futures:
        add_notes(notes, future.result())
    return notes


def _follow(futures: Sequence[Future[Notes]], done: Any, progress: Progress) -> None:
    """Return when all shards are written or one has failed."""
    reported, waiting = 0, set(futures)
    while waiting:
        finished, waiting = wait(waiting, timeout=_POLL_S)
        progress(sum(done) - reported)
        reported = sum(done)
        if any(future.exception() for future in finished):
            return


def _raise_first(futures: Sequence[Future[Notes]]) -> None:
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error and not isinstance(error, (_Stop, BrokenProcessPool)):
            raise error
    if any(isinstance(error, BrokenProcessPool) for error in errors):
        raise WorkerLost(
            "MSA-PACK-014",
            "a worker process ended before its shard was complete (often killed because the host ran out of memory); "
            "run the same command "
            "again to continue, with fewer --workers if memory ran out",
            setting="--workers",
        )


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Children started meanwhile inherit the mask: Ctrl-C reaches only this process, which then stops them in order."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


_worker: tuple[PackingJob, Any, Any]
"""Of a worker process: the job, the counters of written samples and the flag to stop (sent once, not per shard)."""


def _start_worker(job: PackingJob, done: Any, stop: Any) -> None:
    global _worker
    _worker = job, done, stop
    cv2.setNumThreads(1)  # the processes share the cores already
    exit_with_parent()  # a worker whose parent was killed would wait for work for ever


def _write(plan: ShardPlan, slot: int) -> Notes:
    job, done, stop = _worker

    def on_sample() -> None:
        done[slot] += 1
        if stop[0]:
            raise _Stop

    write_shard(job, plan, on_sample)
    return take_notes()
