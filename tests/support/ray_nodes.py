"""Ray clusters for tests: nodes by `ray start`, with a home, a token and folders of their own, of which nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from support.ranks import free_port

TOKEN = "5a" * 32
SETTINGS = {
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_kill_child_processes_on_worker_exit": "0",
    "RAY_worker_niceness": "0",
}


class Node:
    """A node of a cluster: `ray start --block`, whose children are all of its processes."""

    def __init__(self, home: Path, *options: str, inside: Sequence[str] = ()) -> None:
        """home: with the cluster's token. options: of `ray start`. inside: what runs a command on the host that this is on."""
        self.home, self._folder = home, Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets want short paths
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--temp-dir={self._folder}"]
        own_ports = ["--dashboard-agent-listen-port=0", f"--object-store-memory={80 * 2**20}"]
        self._log = self._folder / "log"
        environment = {**self.environment(), "RAY_AUTH_MODE": "token"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*inside, *command, *own_ports, *options], env=environment, stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def environment(self) -> dict[str, str]:
        """For commands on this node, which find the token by themselves."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {**own, **SETTINGS, "HOME": str(self.home)}

    @property
    def address(self) -> str:
        """HOST:PORT by which others join, of a head."""
        found = re.search(r"ray start --address='([\w.:]+)'", self._log.read_text())
        assert found, self._log.read_text()
        return found[1]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in self._log.read_text():
            assert time.monotonic() < deadline and self.alive, self._log.read_text()
            time.sleep(0.1)

    def close(self) -> None:
        """End all its processes."""
        with suppress(psutil.Error):
            everything = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            for process in everything:
                with suppress(psutil.Error):
                    process.kill()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def ray_head(home: Path, cpus: int, *options: str, inside: Sequence[str] = ()) -> Iterator[Node]:
    """The first node of a cluster. home: gets its token."""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard")]
    words = ["--head", "--port=0", "--include-dashboard=false", f"--num-cpus={cpus}", *ports, *options]
    head = Node(home, *words, inside=inside)
    try:
        yield head
    finally:
        head.close()
