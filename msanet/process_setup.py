"""What every command does first: standard streams that are closed or break, and the limit of open files."""

import os
import resource
import sys
from contextlib import suppress

from msanet.errors import print_errors_to_stdout
from msanet.processes import ignore_broken_pipe

_MOST_OPEN_FILES = 2**20
"""Where the hard limit is higher or none: some libraries keep a table of that size."""


def prepare_process() -> None:
    """For the process of a command; nothing here is undone."""
    quiet_torch()
    open_closed_streams()
    ignore_broken_pipe()
    raise_file_limit()


def quiet_torch() -> None:
    """Before torch is imported: its C++ prints a page of stack for each connection that breaks.

    msanet.distributed.heartbeat names the lost rank in one line.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def open_closed_streams() -> None:
    """Put /dev/null where a shell has closed a standard stream (`>&-`): the next file would take its place and its output.

    Python itself may have a stream then whose file is closed, or None.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        was_closed = _fill(number)
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # stays open, also under another stream
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
            was_closed = True
        if was_closed and name == "stderr":
            print_errors_to_stdout()


def raise_file_limit() -> None:
    """Raise the soft limit of open files (`ulimit -n`) as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fill(number: int) -> bool:
    """Open /dev/null as this file descriptor if it is closed; whether it was."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        return True
    return False
