"""One sweep at a time in sweep.folder."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msanet.folder_lock import FolderLock

logger = logging.getLogger(__name__)

LOCK_FILE = "sweep.lock"


@contextmanager
def locked_sweep(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder. Raises UserError where another sweep runs in it, which is not disturbed."""
    lock = FolderLock(folder / LOCK_FILE, "sweep", "sweep.folder", _stop)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stop(reason: str) -> None:
    logger.error(f"the sweep stops: {reason} [MSA-SWEEP-401]")
    os.kill(os.getpid(), signal.SIGINT)  # Tune saves its state, and trials theirs
