"""How a rank's process ends: a command's at once with an exit code, a Python program's by an exception that it may catch."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EXIT_FAILURE = 1
"""Exit code of all ranks of a job that a failure has ended."""
EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to stop and has saved: start it again (EX_TEMPFAIL of sysexits.h)."""


class Preempted(Exception):
    """The job was asked to stop, by a signal or because its launcher is gone, and has saved what there was to save.

    interrupted: by Ctrl-C on this rank.
    """

    def __init__(
        self,
        message: str = "the run was asked to stop; run the same command again to resume",
        interrupted: bool = False,
    ) -> None:
        super().__init__(message)
        self.interrupted = interrupted


class JobFailed(Exception):
    """A failure of any rank has ended the job. The message names rank and host, and ends with the error code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


_is_command = False


def declare_command() -> None:
    """This process exists for one session alone, so that `end_process` may end it."""
    global _is_command
    _is_command = True


def is_command() -> bool:
    """Whether this process may be ended; else it belongs to a notebook or a script, which gets exceptions."""
    return _is_command


def end_process(exit_code: int, error: BaseException) -> NoReturn:
    """Leave at once with `exit_code` where this process is a command's, else raise `error`."""
    if _is_command:
        exit_now(exit_code)
    raise error


_cleanups: list[Callable[[], None]] = []


@contextmanager
def before_exit(cleanup: Callable[[], None]) -> Iterator[None]:
    """`exit_now` inside of the `with` block, in whatever thread, calls this first."""
    _cleanups.append(cleanup)
    try:
        yield
    finally:
        _cleanups.remove(cleanup)


def exit_now(exit_code: int) -> NoReturn:
    """Leave without the interpreter's own shutdown, but without the folder in /tmp that multiprocessing would remove there."""
    for cleanup in _cleanups:
        with suppress(Exception):
            cleanup()
    folder = getattr(multiprocessing.current_process(), "_config", {}).get("tempdir")
    if folder and multiprocessing.parent_process() is None:  # a child has its parent's, which goes on
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(exit_code)
