"""One training at a time in run.dir."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msanet import distributed
from msanet.distributed.failure_detector import FailureReport
from msanet.distributed.process_exit import before_exit
from msanet.distributed.progress import monitor
from msanet.folder_lock import FolderLock
from msanet.run_layout import RunLayout


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, on rank 0. A collective.

    Raises:
        UserError: Another training runs in this folder.
    """
    lock = FolderLock(RunLayout(folder).lock, "training", "run.dir", _end)
    distributed.on_main(lock.acquire)
    try:
        with before_exit(lock.release):
            yield
    finally:
        lock.release()


def _end(reason: str) -> None:
    """Another training has the folder: no checkpoint, and no other file, may come from this one."""
    heartbeat = monitor()
    if heartbeat:
        heartbeat.fail(FailureReport(f"{heartbeat.describe(distributed.rank())} ends: {reason}", "MSA-TRAIN-401"))
