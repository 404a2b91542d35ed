"""One rank of a training as a Ray actor: starts launcher/train.py on its node and waits for its end.

Imports little, since every rank has an actor of its own: without torch it starts in a second and takes little memory.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EWOULDBLOCK
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psutil

LOCK_TIMEOUT_SECONDS = 300.0
"""For a rank of an earlier attempt to save and end; it has its own, shorter limit (run.preemption_grace_seconds)."""
_LOG_TAIL_BYTES = 2**16
_ERROR = re.compile(r"(?:\d\d:\d\d:\d\d )?error: (.+)")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RankPlacement:
    """Where Ray has placed a rank: node id and IP address, ids of GPUs, CPU cores it may use, and a port that is free there."""

    node: str
    address: str
    gpus: tuple[str, ...]
    cores: int
    port: int


@dataclass(frozen=True)
class RankExit:
    """How a rank has ended. code: negative for a signal. message: the last error in its log, or its last line."""

    code: int
    message: str


class RankProcess:
    """One rank, for `ray.remote`. Once this actor has ended, in whatever way, the training gets SIGTERM: it saves and ends."""

    _process: subprocess.Popen[bytes] | None = None

    def placement(self) -> RankPlacement:
        """Where this actor runs."""
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        cores = len(os.sched_getaffinity(0))
        return RankPlacement(context.get_node_id(), ray.util.get_node_ip_address(), tuple(gpus), cores, _free_port())

    def run(
        self, command: Sequence[str], environment: dict[str, str], log: Path, lock: Path | None, address: str | None
    ) -> RankExit:
        """Run the training to its end.

        Args:
            command: What follows `python`.
            environment: Variables in addition to this process's own.
            log: File to which the rank's output is appended.
            lock: File that the rank locks as long as it runs; one of an earlier attempt is waited for.
            address: IP address of this node, where ranks are on several nodes.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        lock_file = acquire_lock(lock) if lock else None
        if address:
            environment = {**_network_interface(address), **environment}
        with log.open("ab") as output:
            start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                process_group=0,
                preexec_fn=partial(_stop_on_parent_exit, os.getpid()),
                pass_fds=(lock_file.fileno(),) if lock_file else (),
            )
        if lock_file:
            lock_file.close()  # the rank holds the lock now
        code = self._process.wait()
        return RankExit(code, last_error_line(log, start))

    def kill(self) -> None:
        """Kill the training at once, where there is nothing to save since it waits for a rank that is gone."""
        if self._process:
            self._process.kill()


def acquire_lock(path: Path) -> BinaryIO:
    """Lock a file until it is closed in every process that has inherited it. Raises TimeoutError if another one keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            flock(file, LOCK_EX | LOCK_NB)
            return file
        except OSError as error:
            if error.errno != EWOULDBLOCK:  # a file system without locks; the training's own lock works there too
                return file
            if time.monotonic() > deadline:
                raise TimeoutError(f"a rank of an earlier attempt still has '{path}' locked") from None
            time.sleep(0.1)


def last_error_line(log: Path, start: int) -> str:
    """The last error in a rank's log since byte `start`, without time and level, or else its last line."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").replace("\r", "\n").splitlines()]
    errors = [match[1] for line in lines if (match := _ERROR.match(line))]
    return (errors or [line for line in lines if line] or [""])[-1]


def _stop_on_parent_exit(parent: int) -> None:
    """In a new process: get SIGTERM once its parent has ended, from the first moment on."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _network_interface(address: str) -> dict[str, str]:
    """The network interface with this address, for gloo and NCCL, unless the variables are set."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == address for one in addresses):
            return {key: os.environ.get(key, name) for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
