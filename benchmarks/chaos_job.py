"""A training as real processes, and what can happen to them and to their files: the tools of chaos.py. Linux only."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from msanet.run_layout import RunLayout

REPOSITORY = Path(__file__).resolve().parent.parent
_MARK = "CHAOS_JOB"
"""Environment variable by which every process of a job is found, whoever its parent has become."""


class Job:
    """The ranks of one training with all their descendants: plain processes, or started by `deepspeed`."""

    def __init__(self, words: list[str], world_size: int, by_deepspeed: bool, logs: Path) -> None:
        self.logs, self.by_deepspeed, self._mark = logs, by_deepspeed, uuid.uuid4().hex
        logs.mkdir(parents=True)
        port = str(_free_port())
        common = {**os.environ, _MARK: self._mark, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
        self.roots: list[subprocess.Popen[bytes]] = []
        self.started = time.monotonic()
        if by_deepspeed:
            launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(world_size), "--master_port", port]
            self._start([*launcher, *words], common)
            return
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
        for rank in range(world_size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)}
            self._start(words, {**common, **own})

    def _start(self, words: list[str], environment: dict[str, str]) -> None:
        group = self.roots[0].pid if self.roots else 0  # one group, which a Ctrl-C reaches as a whole
        with (self.logs / f"{len(self.roots)}.log").open("wb") as log:
            command = [sys.executable, *words]
            self.roots.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=REPOSITORY, process_group=group)
            )

    @property
    def is_running(self) -> bool:
        """Whether one of the processes that were started here lives; its descendants may outlive it."""
        return any([root.poll() is None for root in self.roots])

    @property
    def codes(self) -> list[int | None]:
        """Exit codes of the processes that were started here."""
        return [root.poll() for root in self.roots]

    def text(self) -> str:
        """All that it has printed."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.logs.iterdir()))

    def processes(self) -> list[psutil.Process]:
        """Every process of the job that lives."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark:  # a zombie has none
                    found.append(process)
        return found

    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        return [
            process
            for process in self.processes()
            if _says(process, "launcher/train.py", whole=True) and _rank(process)
        ]

    def parent_watchdog(self, name: str = "deepspeed.launcher") -> list[psutil.Process]:
        """`deepspeed` itself (runner) and what it starts on each host (launch)."""
        return [process for process in self.processes() if _says(process, name) and not _rank(process)]

    def loaders(self) -> list[psutil.Process]:
        """The loader processes of all ranks, without the servers that fork them."""
        servers = {process.pid: process for process in self.processes() if _says(process, "forkserver")}
        return [process for process in servers.values() if process.ppid() in servers]

    def wait_until(self, done: Callable[[], bool], seconds: float, pause: float = 0.01) -> bool:
        """Whether `done` came true, before the job ended and within `seconds`."""
        deadline = time.monotonic() + seconds
        while not done():
            if not self.is_running or time.monotonic() > deadline:
                return False
            time.sleep(pause)
        return True

    def wait_for_end(self, seconds: float) -> list[psutil.Process]:
        """The processes that are left `seconds` later; returns as soon as there are none."""
        deadline = time.monotonic() + seconds
        while ((left := self.processes()) or self.is_running) and time.monotonic() < deadline:
            time.sleep(0.1)  # one that is ending has no environment any more, and no exit code yet
        return left

    def end(self) -> None:
        """Whatever is left of it."""
        while left := self.processes():
            for process in left:
                send(process, signal.SIGKILL)
            time.sleep(0.05)
        for root in self.roots:
            root.wait()


class Progress:
    """How far a job has come. The metrics of the job before it are there until it logs that it trains."""

    def __init__(self, job: Job, run: Path) -> None:
        self._job, self._file = job, RunLayout(run).metrics
        self._resumed: int | None = None

    @property
    def resumed(self) -> int | None:
        """The step it resumes from; None while it has not begun."""
        if self._resumed is None and "train:" in (text := self._job.text()):
            found = re.findall(r"resuming from \S*/step-(\d+)", text)
            self._resumed = int(found[-1]) if found else 0
        return self._resumed

    @property
    def step(self) -> int:
        """The last step it logged, or the one it resumes from; 0 while it has not begun."""
        if self.resumed is None:
            return 0
        if not self._file.is_file():
            return self.resumed
        with self._file.open("rb") as file:
            file.seek(max(0, self._file.stat().st_size - 1000))
            found = re.findall(rb'^{"step": (\d+),.*}$', file.read(), re.MULTILINE)
        return max(self.resumed, int(found[-1]) if found else 0)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """A signal, unless the process is gone."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def damage(checkpoint: Path, how: str, rng: random.Random) -> Path:
    """Truncate, flip bytes in, or delete one file of a checkpoint; which one."""
    file = rng.choice(sorted(checkpoint.iterdir()))
    data = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        os.truncate(file, rng.randrange(len(data) - 1))  # more than a line's end
    else:
        for place in rng.sample(range(len(data)), 3):
            data[place] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    return file


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A disk of its own at `folder`, which a ballast can fill. False, and a folder as any, where mounting is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, room: int) -> None:
    """Let the ballast grow until at most `room` bytes are free."""
    figures = os.statvfs(disk)
    excess = figures.f_bavail * figures.f_frsize - room
    if excess > 0:
        with ballast(disk).open("ab") as file, suppress(OSError):  # the run writes too, and may have been quicker
            os.posix_fallocate(file.fileno(), file.tell(), excess)


def ballast(disk: Path) -> Path:
    """What fills a disk; delete it to make room again."""
    return disk / "ballast"


def _says(process: psutil.Process, word: str, whole: bool = False) -> bool:
    with suppress(psutil.Error):
        return any(word == argument or (word in argument and not whole) for argument in process.cmdline())
    return False


def _rank(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "RANK" in process.environ()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
