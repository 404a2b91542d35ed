"""How many files loader processes open, against the limit of a process (`ulimit -n`)."""

import errno
import os
import resource
from contextlib import suppress

from msanet.errors import TOO_MANY_OPEN_FILES, UserError

TENSORS_OF_A_BATCH = 5
"""Each is one open file of shared memory until it is used."""
_FILES_OF_A_LOADER = 4
"""Pipes of its queue, and what watches it."""
_SPARE = 16
"""For shards, checkpoints and logs."""


def file_limit() -> int:
    """The soft limit of open files of a process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 2**31


def needed_files(workers: int, prefetch: int) -> int:
    """Open files that a process has at most because of its loader processes."""
    return workers * (_FILES_OF_A_LOADER + prefetch * TENSORS_OF_A_BATCH) + _SPARE


def require_open_files(workers: int, prefetch: int) -> None:
    """Raise UserError where loader processes would exceed the limit: the first to do so would wait for ever."""
    is_open = 0
    with suppress(OSError):  # not Linux
        is_open = len(os.listdir("/proc/self/fd"))
    needed, limit = is_open + needed_files(workers, prefetch), file_limit()
    if needed > limit:
        raise UserError(
            "MSA-DATA-601",
            f"`ulimit -n` is {limit} open files, expected {needed} or more for {workers} loader processes with {prefetch} "
            "batches each; raise it before the start (docker: --ulimit nofile), or lower num_workers (data.num_workers, "
            "evaluation.num_workers)",
            setting="data.num_workers",
        )


def out_of_files(error: BaseException) -> UserError | None:
    """What to raise in place of an error, here or in a loader process, that comes from the limit of open files; else None."""
    is_limit = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if is_limit or "Too many open files" in str(error) or "received 0 items of ancdata" in str(error):
        return UserError("MSA-FILE-601", TOO_MANY_OPEN_FILES, setting="data.num_workers")
    return None
