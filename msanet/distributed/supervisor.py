"""Starting a job again after a fault, from its last checkpoint: `run.max_restarts`.

Each process that the launcher starts becomes a supervisor, which runs the rank itself as its child. When a child ends by
a fault, the pulse ends those of all other ranks; the supervisors, which have a store of their own, agree on that and start
their ranks anew. The loss of a whole host is beyond them: then the job ends, for the cluster's scheduler to start again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch.distributed as dist

from msanet import distributed
from msanet.config import Config
from msanet.distributed import parent_watchdog
from msanet.distributed.heartbeat import EXIT_FAULT, RESUME_HINT, say
from msanet.distributed.preemption import EXIT_PREEMPTED
from msanet.distributed.rendezvous import RendezvousTimeout, another_connection, leave, open_store, rendezvous
from msanet.errors import EXIT_USER_ERROR, user_errors

_T = TypeVar("_T")
_FINAL = (0, EXIT_USER_ERROR, EXIT_PREEMPTED, 128 + signal.SIGINT)
"""Exit codes after which a restart would not help, or was not wanted."""


def supervise(config: Config) -> Config:
    """The config, in the process that is to run the rank; the one above it stays in here until the job is over.

    A run that was started again goes on from its checkpoint, whatever `run.resume` says.
    """
    attempt = os.environ.get(parent_watchdog.ATTEMPT_VARIABLE)
    if attempt is None and config.run.max_restarts:
        with user_errors():
            code = Supervisor(config.run.max_restarts, config.run.timeout).run()
        sys.stdout.flush()
        os._exit(code if code >= 0 else 128 - code)  # a thread may still wait for a host that has vanished
    if attempt in (None, "0"):
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"resume": "auto"})})


class Supervisor:
    def __init__(self, restarts: int, timeout: float) -> None:
        self.restarts, self.timeout = restarts, timeout
        distributed.set_default_environment()
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.child: subprocess.Popen[bytes] | None = None
        self.is_told = False

    def run(self) -> int:
        """Attempt until the job ends well or is told to stop. The exit code of this rank's last attempt."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._pass_on)
        parent_watchdog.on_parent_exit(lambda: self._pass_on(signal.SIGTERM))
        parent_watchdog.start_parent_watchdog()
        try:
            store = open_store(self.rank, self.world_size, self.timeout)
            for attempt in range(self.restarts + 1):
                codes = self._attempt(attempt, dist.PrefixStore(f"attempt-{attempt}", store))
                faults = [f"rank {rank} with {code}" for rank, code in codes.items() if code not in _FINAL]
                if self.is_told or not faults or attempt == self.restarts:
                    break
                if self.rank == 0:
                    say(
                        f"a fault ended the job (exit codes: {', '.join(faults[:8])}); restart {attempt + 1} of "
                        f"run.max_restarts={self.restarts}"
                    )
            return codes[self.rank]
        except RendezvousTimeout as fault:
            if fault.should_log:
                say(f"error: {fault}")
            return EXIT_FAULT

    def _attempt(self, attempt: int, store: dist.Store) -> dict[int, int]:
        """Run this rank once; the exit codes of all ranks, or of this one alone if it was told to stop."""
        hosts = self._within(lambda: rendezvous(store, self.rank, self.world_size, self.timeout))
        if self.rank == 0:
            store.set("port", str(distributed.free_port()))
        port = self._within(lambda: store.get("port")).decode()
        environment = {**os.environ, parent_watchdog.ATTEMPT_VARIABLE: str(attempt), "MASTER_PORT": port}
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        # A process group of its own, so that Ctrl-C reaches it once, through this process.
        self.child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environment, process_group=0)
        if self.is_told:
            self.child.terminate()
        code = self._code_of_child(store)
        if self.is_told:
            return {self.rank: code}

        def exchange() -> dict[int, int]:
            store.set(f"code/{self.rank}", str(code))
            store.set("ended", "")
            missing = [rank for rank in range(self.world_size) if not self._is_set(store, f"code/{rank}")]
            if missing:
                raise RendezvousTimeout(
                    f"rank {missing[0]} on {hosts[missing[0]]} cannot be started again: its process was killed or its host is "
                    f"down; {RESUME_HINT}"
                )
            codes = {rank: int(store.get(f"code/{rank}")) for rank in range(self.world_size)}
            leave(store, self.rank, self.world_size, 5)
            return codes

        return self._within(exchange, 2)

    def _code_of_child(self, store: dist.Store) -> int:
        """Wait for it; once another rank has ended, for `timeout` at most."""
        assert self.child
        ended = threading.Event()

        def wait_for_first() -> None:
            with suppress(RuntimeError):  # rank 0's supervisor is gone: that ends the job as well
                another_connection(store).wait(["ended"], timedelta(days=365))
            ended.set()

        if self.world_size > 1:
            threading.Thread(target=wait_for_first, daemon=True).start()
        until = float("inf")
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self.child.wait(timeout=0.2)
            if ended.is_set():
                until = min(until, time.monotonic() + self.timeout)
            if time.monotonic() > until:
                self.child.kill()

    def _is_set(self, store: dist.Store, key: str) -> bool:
        try:
            store.wait([key], timedelta(seconds=self.timeout))
        except dist.DistStoreError:
            return False
        return True

    def _within(self, ask: Callable[[], _T], times: float = 1.5) -> _T:
        """What the store says; in a thread, since the answer of a host that has vanished does not come."""
        box: list[_T | BaseException] = []

        def run() -> None:
            try:
                box.append(ask())
            except (RuntimeError, RendezvousTimeout) as error:
                box.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(times * self.timeout)
        if box and isinstance(box[0], RendezvousTimeout):
            raise box[0]
        if not box or isinstance(box[0], BaseException):
            raise RendezvousTimeout(
                f"rank 0's host does not answer this one, so that the job cannot be started again; {RESUME_HINT}"
            )
        return box[0]

    def _pass_on(self, number: int, frame: FrameType | None = None) -> None:
        self.is_told = True
        if self.child:
            self.child.send_signal(number)
