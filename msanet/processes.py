"""Processes of a job: helpers end with their creator and ignore stop signals, ranks survive a broken pipe."""

import io
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EIO, EPIPE
from multiprocessing import resource_tracker, util
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from msanet.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SOCKET_PATH_BYTES = 107
"""Of sun_path in unix(7), which ends with a zero."""
SOCKET_NAME_BYTES = len("/pymp-12345678/listener-12345678")
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
    """From now on, what this process prints after its terminal, ssh or pipe has gone, or is closed, is lost and no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        with suppress(io.UnsupportedOperation, AttributeError):  # None, or a notebook's own stream
            setattr(sys, name, _lossy(stream))


def use_short_socket_paths() -> None:
    """Give `multiprocessing` a shorter folder for its sockets where TMPDIR is too long for them.

    Call this before processes are started. Raises UserError where there is none.
    """
    if multiprocessing.current_process()._config.get("tempdir"):  # type: ignore[attr-defined]  # chosen before
        return
    folder = short_temporary_folder(SOCKET_NAME_BYTES)
    if str(folder) != tempfile.gettempdir():
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            util.get_temp_dir()  # made now, removed at exit
        finally:
            tempfile.tempdir = before


def short_temporary_folder(name_bytes: int) -> Path:
    """The folder for temporary files, or another if a socket in it had a path longer than the 107 bytes that systems allow.

    Args:
        name_bytes: What a program appends to the folder, its slash included.

    Raises:
        UserError: There is no such folder.
    """
    usual = tempfile.gettempdir()
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        fits = len(os.fsencode(folder)) + name_bytes <= _SOCKET_PATH_BYTES
        if fits and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise UserError(
        "MSA-FILE-602",
        f"the folder for temporary files '{usual}' has a path of {len(os.fsencode(usual))} bytes, expected at most "
        f"{_SOCKET_PATH_BYTES - name_bytes}, since sockets lie in it, and /tmp cannot be written; set TMPDIR to a shorter path",
        setting="TMPDIR",
    )


class _LossyFile(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (EPIPE, EIO):  # EIO: of a terminal
                raise
            return memoryview(data).nbytes


def _lossy(stream: TextIO) -> TextIO:
    stream.flush()
    file = io.BufferedWriter(_LossyFile(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
