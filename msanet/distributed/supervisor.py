"""Restarts a job after a failure, from its last checkpoint: `run.max_restarts`.

Each process that the launcher starts becomes a supervisor, which runs the rank as its child. When a child fails, the heartbeats
end all others, and the supervisors agree to start their ranks again. If a host is lost, the job ends.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch.distributed as dist

from msanet import distributed
from msanet.distributed import parent_watchdog
from msanet.distributed.environment import set_default_environment
from msanet.distributed.failure_detector import RESUME_HINT
from msanet.distributed.process_exit import EXIT_FAILURE, EXIT_PREEMPTED
from msanet.distributed.rendezvous import (
    NoAnswer,
    RendezvousTimeout,
    call_within,
    leave,
    new_connection,
    open_store,
    rendezvous,
)
from msanet.distributed.session import ensure_logging
from msanet.distributed.timeouts import Timeouts
from msanet.errors import EXIT_USER_ERROR, user_errors
from msanet.processes import stop_signals

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_FINAL = (0, EXIT_USER_ERROR, EXIT_PREEMPTED, 128 + signal.SIGINT)
"""Exit codes after which a restart would not help, or was not wanted."""


def supervise(max_restarts: int, timeouts: Timeouts) -> bool:
    """With restarts, this process starts the rank as its child and ends with it; only the child returns from here.

    Returns:
        Whether the job was restarted, so that the run has to resume whatever `run.resume` says.
    """
    attempt = os.environ.get(parent_watchdog.ATTEMPT_VARIABLE)
    if attempt is None and max_restarts:
        ensure_logging()
        with user_errors():
            code = Supervisor(max_restarts, timeouts).run()
        sys.stdout.flush()
        os._exit(code if code >= 0 else 128 - code)  # a thread may still wait for a host that has vanished
    return attempt not in (None, "0")


class Supervisor:
    """Runs one rank as a child process, and again after a failure."""

    def __init__(self, max_restarts: int, timeouts: Timeouts) -> None:
        self.max_restarts, self.timeouts = max_restarts, timeouts
        set_default_environment()
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.child: subprocess.Popen[bytes] | None = None
        self.stop_requested = False

    def run(self) -> int:
        """Attempt until the job is done or is asked to stop. The exit code of this rank's last attempt."""
        for number in stop_signals():
            signal.signal(number, self._forward)
        parent_watchdog.on_parent_exit(lambda: self._forward(signal.SIGTERM))
        parent_watchdog.start_parent_watchdog()
        try:
            store = open_store(self.rank, self.world_size, self.timeouts.rendezvous)
            for attempt in range(self.max_restarts + 1):
                codes = self._attempt(attempt, dist.PrefixStore(f"attempt-{attempt}", store))
                failures = [f"rank {rank}: {code}" for rank, code in codes.items() if code not in _FINAL]
                if self.stop_requested or not failures or attempt == self.max_restarts:
                    break
                if self.rank == 0:
                    logger.warning(
                        f"a failure ended the job (exit codes: {', '.join(failures[:8])}); restart {attempt + 1} of "
                        f"run.max_restarts={self.max_restarts}"
                    )
            return codes[self.rank]
        except RendezvousTimeout as error:
            if error.should_log:
                logger.error(str(error))
            return EXIT_FAILURE

    def _attempt(self, attempt: int, store: dist.Store) -> dict[int, int]:
        """Run this rank once; the exit codes of all ranks, or of this one alone if it was asked to stop."""
        hosts = self._with_timeout(lambda: rendezvous(store, self.rank, self.world_size, self.timeouts.rendezvous))
        if self.rank == 0:
            store.set("port", str(distributed.free_port()))
        port = self._with_timeout(lambda: store.get("port")).decode()
        environment = {**os.environ, parent_watchdog.ATTEMPT_VARIABLE: str(attempt), "MASTER_PORT": port}
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        # A process group of its own, so that Ctrl-C reaches it once, through this process.
        self.child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environment, process_group=0)
        if self.stop_requested:
            self.child.terminate()
        code = self._wait_for_child(store)
        if self.stop_requested:
            return {self.rank: code}

        def exchange() -> dict[int, int]:
            store.set(f"code/{self.rank}", str(code))
            store.set("ended", "")
            codes = {}
            for rank, host in enumerate(hosts):
                try:
                    store.wait([f"code/{rank}"], timedelta(seconds=2 * self.timeouts.heartbeat))
                except dist.DistStoreError:
                    raise RendezvousTimeout(
                        "MSA-DIST-013",
                        f"rank {rank} (host {host}) cannot be restarted: its supervisor was killed or its host is down; "
                        f"{RESUME_HINT}",
                    ) from None
                codes[rank] = int(store.get(f"code/{rank}"))
            leave(store, self.rank, self.world_size, 5)
            return codes

        return self._with_timeout(exchange, 4 * self.timeouts.heartbeat)

    def _wait_for_child(self, store: dist.Store) -> int:
        """Wait for it; once another rank has ended, for as long as heartbeats and a checkpoint may take."""
        assert self.child
        ended = threading.Event()

        def wait_for_first() -> None:
            with suppress(RuntimeError):  # rank 0's supervisor is gone: that ends the job as well
                new_connection(store).wait(["ended"], timedelta(days=365))
            ended.set()

        if self.world_size > 1:
            threading.Thread(target=wait_for_first, daemon=True).start()
        while not ended.is_set():
            with suppress(subprocess.TimeoutExpired):
                return self.child.wait(timeout=0.2)
        with suppress(subprocess.TimeoutExpired):
            return self.child.wait(2 * self.timeouts.heartbeat)
        self.child.kill()
        return self.child.wait()

    def _with_timeout(self, ask: Callable[[], _T], seconds: float | None = None) -> _T:
        """What the store answers; a host that has vanished never does."""
        try:
            return call_within(seconds or 1.5 * self.timeouts.rendezvous, ask)
        except (RuntimeError, NoAnswer):
            message = f"rank 0's host does not answer, so the job cannot be restarted; {RESUME_HINT}"
            raise RendezvousTimeout("MSA-DIST-013", message) from None

    def _forward(self, number: int, frame: FrameType | None = None) -> None:
        self.stop_requested = True
        if self.child:
            self.child.send_signal(number)
