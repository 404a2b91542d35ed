"""Processes of a job: helpers end with their creator and ignore stop signals, ranks survive a broken pipe."""

import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a run to save and stop; not SIGHUP where it is ignored, as under `nohup`."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in _STOP_SIGNALS if not (is_ignored and number == signal.SIGHUP))


def exit_with_parent() -> None:
    """Called in a child of `multiprocessing`: end it when the process that created it is gone, however that died.

    The creator is meant, not the operating system's parent, which under forkserver is the fork server: that lives on for
    as long as one of its children does. A connection that breaks because the creator is gone is not reported.
    """
    creator = multiprocessing.parent_process()
    assert creator is not None, "only for processes that multiprocessing has started"

    def watch() -> None:
        wait([creator.sentinel])
        os._exit(1)

    def end_on_sigterm() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != creator.pid:
            pass
        os._exit(1)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        parent_is_gone = issubclass(kind, ConnectionError | EOFError) and wait([creator.sentinel], timeout=1)
        if not parent_is_gone:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):  # started by `block_stop_signals`
        threading.Thread(target=end_on_sigterm, daemon=True, name="parent-sigterm").start()


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Processes started within ignore stop signals, except from their creator, if they call `exit_with_parent`.

    Terminals, SLURM and DeepSpeed's launcher send it to all processes of a job, which needs its helpers until it has saved.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    resource_tracker.ensure_running()  # it ignores SIGUSR1 by this; its start unblocks the two that it ignores by itself
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def ignore_broken_pipe() -> None:
    """From now on, what this process prints after its terminal, ssh or pipe has gone is lost and no error."""
    sys.stdout, sys.stderr = _lossy(sys.stdout), _lossy(sys.stderr)


class _LossyFile(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes
        except OSError as error:  # a terminal that was closed
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def _lossy(stream: TextIO) -> TextIO:
    stream.flush()
    file = io.BufferedWriter(_LossyFile(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
