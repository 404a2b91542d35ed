"""A training job as real processes: started by one of the launchers, found by a mark in their environment. Linux only."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from msanet.run_layout import RunLayout

REPOSITORY = Path(__file__).resolve().parent.parent
_MARK = "CHAOS_JOB"
"""Environment variable by which every process of a job is found, whoever its parent has become."""
_LAUNCHER_PROCESSES = {
    "deepspeed": "deepspeed.launcher",
    "torchrun": "torch.distributed.run",
    "ranks.sh": "jobs/ranks.sh",
}
"""Launcher to what its command line holds."""


class Job:
    """The ranks of one training with all their descendants, plain processes or started by a launcher."""

    def __init__(self, words: list[str], world_size: int, launcher: str, logs: Path) -> None:
        self.logs, self._mark = logs, uuid.uuid4().hex
        self._launcher = _LAUNCHER_PROCESSES.get(launcher, "")
        logs.mkdir(parents=True)
        port = str(_free_port())
        common = {**os.environ, _MARK: self._mark, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
        common["PATH"] = f"{Path(sys.executable).parent}:{common.get('PATH', '')}"  # ranks.sh starts `python`
        self.roots: list[subprocess.Popen[bytes]] = []
        self.started = time.monotonic()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = str(world_size)
        match launcher:
            case "deepspeed":
                runner = ["-m", "deepspeed.launcher.runner", "--num_accelerators", ranks, "--master_port", port]
                self._start([sys.executable, *runner, *words], common)
            case "torchrun":
                agent = ["-m", "torch.distributed.run", "--nproc-per-node", ranks, "--master-port", port]
                self._start([sys.executable, *agent, *words], common)
            case "ranks.sh":
                hosts = {"NODES": "1", "NODE": "0", "RANKS_PER_NODE": ranks}
                self._start(["bash", "jobs/ranks.sh", *words], {**common, **address, **hosts})
            case _:
                for rank in range(world_size):
                    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": ranks, "WORLD_SIZE": ranks}
                    self._start([sys.executable, *words], {**common, **address, **own})

    def _start(self, command: list[str], environment: dict[str, str]) -> None:
        group = self.roots[0].pid if self.roots else 0  # one group, which a Ctrl-C reaches as a whole
        with (self.logs / f"{len(self.roots)}.log").open("wb") as log:
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
            if _is_python(process) and _has_argument(process, "launcher/train.py", whole=True) and _is_rank(process)
        ]

    def launchers(self) -> list[psutil.Process]:
        """The launcher's own processes; of `deepspeed` itself (runner) and what it starts on each host (launch)."""
        name = self._launcher
        return [
            process for process in self.processes() if name and _has_argument(process, name) and not _is_rank(process)
        ]

    def loaders(self) -> list[psutil.Process]:
        """The loader processes of all ranks, without the servers that fork them."""
        servers = {process.pid: process for process in self.processes() if _has_argument(process, "forkserver")}
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
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
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


def _has_argument(process: psutil.Process, word: str, whole: bool = False) -> bool:
    with suppress(psutil.Error):
        return any(word == argument or (word in argument and not whole) for argument in process.cmdline())
    return False


def _is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "RANK" in process.environ()
    return False


def _is_python(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "python" in process.name()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
