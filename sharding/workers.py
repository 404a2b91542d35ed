"""Work on many shards in parallel: the first error stops all workers, and no worker outlives the run."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np

from msanet.errors import UserError
from msanet.plugins import LoadedFiles
from msanet.processes import exit_with_parent

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Result = TypeVar("Result")
OnSample = Callable[[], object]
"""Called after each sample; may raise to stop the work."""
Work = Callable[[Shared, Sequence[Item], OnSample], Result]
Progress = Callable[[int], object]
"""Told the number of samples that were done since the last call."""

_POLL_S = 0.2
_GROUP_SAMPLES = 64
_GROUPS_PER_WORKER = 16


class WorkerLost(UserError):
    """A worker process ended from outside; what is finished stays, and the same command continues."""


class _Stop(Exception):
    """Another worker failed, or the run was interrupted; this one stops too."""


def group_items(items: Sequence[Item], samples: Callable[[Item], int], workers: int) -> list[list[Item]]:
    """Cut `items` into consecutive groups: small shards together, since handing one over takes longer than the shard does.

    Args:
        items: Such as shards.
        samples: The number of samples of one.
        workers: Each gets several groups, so that all end at about the same time.
    """
    most, held = -(-len(items) // (_GROUPS_PER_WORKER * workers)), 0
    groups: list[list[Item]] = []
    for item in items:
        held += samples(item)
        if not groups or len(groups[-1]) == most or held > _GROUP_SAMPLES:
            groups.append([])
            held = samples(item)
        groups[-1].append(item)
    return groups


def run_groups(
    work: Work[Shared, Item, Result], shared: Shared, groups: Sequence[Sequence[Item]], workers: int, progress: Progress
) -> Iterator[Result]:
    """`work(shared, group, on_sample)` of each group, in order, in at most `workers` processes; with one, in this process.

    Raises the first error in the order of the groups, and WorkerLost if a worker was killed.
    """
    workers = min(workers, len(groups))
    if workers > 1:
        yield from _run_parallel(work, shared, groups, workers, progress)
        return
    for group in groups:
        yield work(shared, group, partial(progress, 1))


def _run_parallel(
    work: Work[Shared, Item, Result], shared: Shared, groups: Sequence[Sequence[Item]], workers: int, progress: Progress
) -> Iterator[Result]:
    # Not fork: a forked copy of a process that has used OpenCV's threads can hang.
    context = multiprocessing.get_context("spawn")
    # Without locks, since a worker killed while it holds one would hang the others: each group has its own counter.
    done, stop = context.RawArray("Q", len(groups)), context.RawArray("b", 1)
    start = LoadedFiles(), work, shared, done, stop  # unpickled in this order
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=start)
    failed = threading.Event()
    report = _Report(done, progress)
    try:
        with interrupts_held():
            futures = [pool.submit(_run_group, group, slot) for slot, group in enumerate(groups)]
        for future in futures:
            future.add_done_callback(lambda future: failed.set() if _error(future) else None)
        for future in futures:
            while not (future.done() or failed.is_set()):
                wait([future], timeout=_POLL_S)
                report()
            if failed.is_set():
                break
            yield future.result()
        report(at_once=True)
    finally:
        stop[0] = True
        pool.shutdown(cancel_futures=True)
    _raise_first(futures)


class _Report:
    """Adds up the counters now and then only: there are many of them."""

    def __init__(self, done: Any, progress: Progress) -> None:
        self._done, self._progress = np.frombuffer(done, dtype=np.uint64), progress
        self._reported, self._next = 0, 0.0

    def __call__(self, at_once: bool = False) -> None:
        if at_once or time.monotonic() >= self._next:
            total = int(self._done.sum())
            self._progress(total - self._reported)
            self._reported, self._next = total, time.monotonic() + _POLL_S


def _error(future: "Future[Any]") -> BaseException | None:
    return None if future.cancelled() else future.exception()


def _raise_first(futures: "Sequence[Future[Any]]") -> None:
    errors = [error for future in futures if (error := _error(future))]
    for error in errors:
        if not isinstance(error, (_Stop, BrokenProcessPool)):
            raise error
    if any(isinstance(error, BrokenProcessPool) for error in errors):
        raise WorkerLost(
            "MSA-PACK-014",
            "a worker process ended before its work was complete (often killed because the host ran out of memory); "
            "run the same command again, with fewer --workers if memory ran out",
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


_worker: tuple[Work[Any, Any, Any], Any, Any, Any]
"""Of a worker process: the work, what all share, the counters of samples and the flag to stop (sent once, not per group)."""


def _start_worker(files: LoadedFiles, work: Work[Any, Any, Any], shared: Any, done: Any, stop: Any) -> None:
    """files: of the user's own readers, whose objects are in `work` and `shared`."""
    global _worker
    _worker = work, shared, done, stop
    cv2.setNumThreads(1)  # the processes share the cores already
    exit_with_parent()  # a worker whose parent was killed would wait for work for ever


def _run_group(group: Sequence[Any], slot: int) -> Any:
    work, shared, done, stop = _worker

    def on_sample() -> None:
        done[slot] += 1
        if stop[0]:
            raise _Stop

    return work(shared, group, on_sample)
