"""One training, or one sweep, at a time in a folder: a lock file that also works where a file system has no locks.

The file is made by O_EXCL and says who holds it; the holder touches it every HEARTBEAT_SECONDS. A lock whose holder is gone is
taken over: on the same machine at once (its process is looked up, or in another container the kernel's own lock on the file), on
another machine when its heartbeat is older than STALE_SECONDS by the file system's clock, or for another start of the same job
after two missed heartbeats. So a job that was killed starts again.
"""

import errno
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from msanet.errors import UserError

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
_GRACE_SECONDS = 5.0
"""For a holder that is just ending."""
_SAME_JOB_SECONDS = 120.0
"""For a holder of the same job on another machine, which ends once it notices that the job has moved."""
_POLL_SECONDS = 0.1
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:  # not Linux, or a process that is gone
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in ticks since boot; empty for one that is gone, a zombie too."""
    state, *numbers = _read(f"/proc/{pid}/stat").rpartition(")")[2].split() or ["Z"]
    return "" if state in "ZX" else numbers[18]


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


class Holder(BaseModel):
    """Who holds a lock. kernel, namespace: where `pid` means something. elastic_job, slurm_job: a job's next start follows it."""

    format_version: Literal[1] = 1
    host: str = Field(default_factory=socket.gethostname)
    kernel: str = Field(default_factory=lambda: _read("/proc/sys/kernel/random/boot_id") or socket.gethostname())
    namespace: str = Field(default_factory=_pid_namespace)
    pid: int = Field(default_factory=os.getpid)
    started: str = Field(default_factory=lambda: _process_start(os.getpid()))
    since: str = Field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    elastic_job: str = Field(default_factory=lambda: os.environ.get("TORCHELASTIC_RUN_ID", "none"))
    slurm_job: str = Field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    slurm_restart: str = Field(default_factory=lambda: os.environ.get("SLURM_RESTART_COUNT", "0"))
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    inode: int = 0
    has_kernel_lock: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def is_followed_by(self, other: "Holder") -> bool:
        """Whether `other` is a later start of the same job, which has ended this one."""
        if self.elastic_job not in ("", "none") and self.elastic_job == other.elastic_job:
            return self.kernel != other.kernel
        return self.slurm_job != "" and self.slurm_job == other.slurm_job and self.slurm_restart != other.slurm_restart


class _Lock(NamedTuple):
    """A lock file as it was read. holder: None where it is empty or damaged, as on a full disk."""

    path: Path
    holder: Holder | None
    inode: int
    touched: float


def _read_lock(path: Path) -> _Lock | None:
    try:
        with path.open("rb") as file:  # opened each time: NFS then asks the server
            status, data = os.fstat(file.fileno()), file.read(2**14)
    except FileNotFoundError:
        return None
    try:
        return _Lock(path, Holder.model_validate_json(data), status.st_ino, status.st_mtime)
    except ValidationError:
        return _Lock(path, None, status.st_ino, status.st_mtime)


class FolderLock:
    """The lock of a folder, taken by `acquire` and given back by `release`.

    Args:
        path: The lock file, in the folder.
        what: What runs there, for sentences: `training`.
        setting: The setting that names the folder.
        on_lost: Called from a thread, with a sentence, if another process has taken the lock over: this one stood still for too
            long, and must not write any more.
    """

    def __init__(self, path: Path, what: str, setting: str, on_lost: Callable[[str], None]) -> None:
        self._path, self._what, self._setting, self._on_lost = path, what, setting, on_lost
        self._file: int | None = None
        self._made_folder = False
        self._own = Holder()
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock, from a holder that is gone too, which is logged.

        Raises:
            UserError: Another process holds it and lives.
            OSError: The folder cannot be written. A full disk is only logged: a run resumes on one, without a lock.
        """
        self._made_folder = not self._path.parent.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _GRACE_SECONDS
        while not self._create():
            lock, is_gone = _watch(self._path, self._own, until)
            if lock is None:
                continue
            if not is_gone:
                raise UserError(
                    "MSA-FILE-401",
                    f"'{self._path.parent}' is in use by another {self._what} ({lock.holder or 'see ' + self._path.name}), "
                    f"expected one at a time; wait for its end, or choose another {self._setting}",
                    setting=self._setting,
                )
            if _remove(lock, self._own.token):
                logger.warning(
                    f"'{self._path}' was left by a {self._what} that is gone ({lock.holder}); taking it over"
                )
        threading.Thread(target=self._keep, daemon=True, name="folder-lock").start()

    def release(self) -> None:
        """Give the lock back, if it is still this process's. May be called twice."""
        self._released.set()
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                if self._is_own(file):
                    self._path.unlink()
                if self._made_folder:
                    self._path.parent.rmdir()  # nothing came of it
            os.close(file)

    def _create(self) -> bool:
        try:
            self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            mark = {"inode": os.fstat(self._file).st_ino, "has_kernel_lock": _kernel_lock(self._file) is True}
            os.write(self._file, self._own.model_copy(update=mark).model_dump_json().encode())
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _FULL:
                raise
            logger.warning(
                f"'{self._path}' cannot be written, since the disk is full: another {self._what} is not kept out"
            )
        return True

    def _is_own(self, file: int) -> bool:
        """Whether the lock file is still the one that was made. Raises FileNotFoundError where there is none."""
        if os.stat(self._path).st_ino == os.fstat(file).st_ino:
            return True
        lock = _read_lock(self._path)  # some file systems in user space change the numbers of files
        return lock is not None and lock.holder is not None and lock.holder.token == self._own.token

    def _keep(self) -> None:
        """Touch the file, until the lock is released or lost."""
        while not self._released.wait(HEARTBEAT_SECONDS):
            file = self._file
            try:
                if file is not None and not self._is_own(file):
                    return self._on_lost(
                        f"'{self._path}' was taken over by another {self._what}, since this one stood still"
                    )
                os.utime(self._path)
            except OSError:  # removed by somebody, or a disk that is away for a moment
                continue


def wait_until_free(path: Path, seconds: float) -> bool:
    """Wait until nobody who lives holds the lock; whether that is so after `seconds`."""
    lock, is_gone = _watch(path, Holder(), time.monotonic() + seconds)
    return lock is None or is_gone


def _watch(path: Path, own: Holder, until: float) -> tuple[_Lock | None, bool]:
    """A lock, and whether its holder is gone, once that is known and, if it lives, `until` is over; None if it is free."""
    seen: tuple[int, float] | None = None
    age = began = 0.0
    while (lock := _read_lock(path)) is not None:
        is_gone, same_job = _is_gone(lock, own), lock.holder is not None and lock.holder.is_followed_by(own)
        if is_gone is None and seen is not None and seen[0] == lock.inode and seen[1] != lock.touched:
            is_gone = False
        if seen != (lock.inode, lock.touched):
            seen, began, age = (lock.inode, lock.touched), time.monotonic(), _age(lock, own)
        limit = 2.4 * HEARTBEAT_SECONDS if same_job else STALE_SECONDS
        if is_gone is None and time.monotonic() - began + age > limit:
            is_gone = True
        if is_gone or (is_gone is False and time.monotonic() >= until + same_job * _SAME_JOB_SECONDS):
            return lock, is_gone
        time.sleep(_POLL_SECONDS)
    return None, True


def _is_gone(lock: _Lock, own: Holder) -> bool | None:
    """Whether the holder of a lock is gone; None where only its heartbeat can tell."""
    holder = lock.holder
    if holder is None:
        return None
    if holder.kernel != own.kernel:
        return None
    if holder.namespace == own.namespace:
        if _process_start(holder.pid) != holder.started:
            return True
        return None if holder.inode != lock.inode else False  # None: the folder was copied while its training ran
    if not holder.has_kernel_lock or holder.inode != lock.inode:
        return None
    with suppress(OSError), lock.path.open("rb") as file:
        return _kernel_lock(file.fileno())
    return None


def _age(lock: _Lock, own: Holder) -> float:
    """Seconds since a lock was touched, by the clock of its file system: that of this machine may differ."""
    probe = lock.path.with_name(f".{lock.path.name}.{own.token}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return 0.0
    return now - lock.touched


def _remove(lock: _Lock, token: str) -> bool:
    """Remove a lock that is left behind. False where another process was faster, whose new lock is put back."""
    aside = lock.path.with_name(f".{lock.path.name}.{token}")
    try:
        os.rename(lock.path, aside)
        moved = _read_lock(aside)
        if moved is not None and (moved.inode, moved.holder) != (lock.inode, lock.holder):
            with suppress(FileExistsError):
                os.link(aside, lock.path)
            return False
        return True
    except FileNotFoundError:
        return False
    finally:
        aside.unlink(missing_ok=True)


def _kernel_lock(file: int) -> bool | None:
    """Whether the kernel's own lock on this file could be had; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
