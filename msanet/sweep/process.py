"""One rank of a training as a Ray actor: starts launcher/train.py on its node and waits for its end.

Imports little, since each rank has one of these beside it: without torch it starts in a second and takes little memory.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psutil

_LONGEST_WAIT = 300.0
"""Seconds for a rank of an earlier attempt to save and end; it has its own, shorter limit (run.preemption_grace_seconds)."""
_TAIL = 2**16
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RankPlacement:
    """Where Ray has put a rank. gpus: their ids on that node. port: one that is free there."""

    node: str
    address: str
    gpus: tuple[str, ...]
    cores: int
    port: int


@dataclass(frozen=True)
class RankExit:
    """How a rank has ended. sentence: the error it said last, or its last words."""

    code: int
    sentence: str


class RankProcess:
    """One rank, for `ray.remote`. Once this actor is gone, however it ended, the training is told to stop: it saves and ends."""

    _process: subprocess.Popen[bytes] | None = None

    def place(self) -> RankPlacement:
        """Where this is."""
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        cores = len(os.sched_getaffinity(0))
        return RankPlacement(context.get_node_id(), ray.util.get_node_ip_address(), tuple(gpus), cores, _free_port())

    def run(
        self, command: Sequence[str], environment: dict[str, str], log: Path, lock: Path | None, address: str | None
    ) -> RankExit:
        """Train until the end.

        lock: a file that the rank holds locked while it lives; waits for the one before. address: this node's, where ranks
        are on several.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        held = hold(lock) if lock else None
        if address:
            environment = {**_interface(address), **environment}
        with log.open("ab") as output:
            start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                process_group=0,
                preexec_fn=partial(_end_with, os.getpid()),
                pass_fds=(held.fileno(),) if held else (),
            )
        if held:
            held.close()  # the lock is the rank's now
        code = self._process.wait()
        return RankExit(code, last_error_line(log, start))

    def kill(self) -> None:
        """RankExit the training at once, where there is nothing to save: it waits for a rank that is gone."""
        if self._process:
            self._process.kill()


def hold(path: Path) -> BinaryIO:
    """Wait until nobody holds this file, and lock it until it is closed everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    until = time.monotonic() + _LONGEST_WAIT
    while True:
        try:
            flock(file, LOCK_EX | LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(f"a rank of an earlier attempt still holds '{path}'") from None
            time.sleep(0.1)


def last_error_line(log: Path, start: int) -> str:
    """The last error that a rank has said since byte `start` of its log, or its last line."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").replace("\r", "\n").splitlines()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (said or [line for line in lines if line] or [""])[-1]


def _end_with(parent: int) -> None:
    """In a new process: SIGTERM once its parent is gone, from the first moment on."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _interface(address: str) -> dict[str, str]:
    """The network interface with this address, for gloo and NCCL, unless it is set."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == address for one in addresses):
            return {key: os.environ.get(key, name) for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
