"""Several ranks of one job on this machine, started by a Python program, which gets their errors as exceptions."""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from msanet.cli.main import interrupts_end_the_process, is_first_rank
from msanet.distributed.environment import free_port
from msanet.distributed.process_exit import EXIT_PREEMPTED, JobFailed, Preempted
from msanet.errors import EXIT_USER_ERROR, UserError, user_errors
from msanet.process_setup import prepare_process

_EXIT_GRACE_SECONDS = 300.0
"""For the other ranks to end by themselves, once one of them has failed: their heartbeats tell them."""
_POLL_SECONDS = 0.1
_ERROR = re.compile(r"(?:\d\d:\d\d:\d\d )?error: (.+?)(?: \[(MSA-[A-Z]+-\d{3})\])?$")


def run_local_ranks(ranks: int, function: Callable[[Any], object], argument: Any) -> None:
    """Call a function in so many processes, each a rank of one job, and wait. What they log goes to this program's stderr.

    A Ctrl-C is passed on, so that the ranks save and stop.

    Args:
        ranks: Processes.
        function: Of a module; it ends its process, as `msanet.distributed.run_and_exit` does.
        argument: Its argument, which is pickled.

    Raises:
        UserError: Bad input that a rank has found.
        JobFailed: A rank has failed.
        Preempted: The job was asked to stop, and has saved.
        KeyboardInterrupt: By Ctrl-C.
    """
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="msanet-") as folder:  # which this user alone may read
        file = Path(folder) / "call"
        file.write_bytes(pickle.dumps((function, argument, sys.argv)))
        job = _LocalJob(ranks, file)
        codes = None
        while codes is None:
            try:
                codes = job.wait()
            except KeyboardInterrupt:  # a second one ends them at once
                interrupted = True
                job.send(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt("the ranks have ended; run the same call again to resume from the last checkpoint")
    if any(codes):
        raise job.error(codes)


class _LoggedError(NamedTuple):
    """What a rank has logged; a code only where the sentence has one."""

    message: str
    code: str | None


class _LocalJob:
    """The processes of the ranks."""

    def __init__(self, ranks: int, file: Path) -> None:
        self._errors: list[_LoggedError] = []
        self._last_line = ""
        self._deadline: float | None = None
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        common |= {"LOCAL_WORLD_SIZE": str(ranks), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(file)],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                process_group=0,  # so that Ctrl-C reaches it once, through this process
            )
            for rank in range(ranks)
        ]
        self._relays = [
            threading.Thread(target=self._relay, args=(process.stdout,), daemon=True) for process in self._processes
        ]
        for relay in self._relays:
            relay.start()

    def wait(self) -> list[int]:
        """Exit codes of all ranks, once they have ended; those that outlive a failed one for too long are killed."""
        while None in (codes := [process.poll() for process in self._processes]):
            if self._deadline is None and any(codes):
                self._deadline = time.monotonic() + _EXIT_GRACE_SECONDS
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.send(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        for relay in self._relays:
            relay.join(5)  # a helper that outlives its rank may hold the pipe open
        return [process.wait() for process in self._processes]

    def send(self, number: signal.Signals) -> None:
        """A signal to all ranks that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def error(self, codes: Sequence[int]) -> Exception:
        """The exception that the ranks' output and exit codes stand for."""
        found = self._errors[0] if self._errors else _LoggedError(self._last_line, None)
        if EXIT_USER_ERROR in codes and found.code:
            return UserError(found.code, found.message)
        if EXIT_PREEMPTED in codes:
            return Preempted()
        shown = f"{found.message} [{found.code}]" if found.code else found.message
        return JobFailed(f"the ranks ended with exit codes {list(codes)}: {shown}")

    def _relay(self, stream: IO[str]) -> None:
        for line in stream:
            with suppress(Exception):  # the program's stream is closed
                sys.stderr.write(line)
            self._last_line = line.strip() or self._last_line
            if match := _ERROR.match(line.strip()):
                self._errors.append(_LoggedError(match[1], match[2]))


def _run_rank(file: Path) -> None:
    """What the process of a rank does."""
    prepare_process()
    with user_errors(should_print=is_first_rank), interrupts_end_the_process():
        function, argument, sys.argv = pickle.loads(file.read_bytes())
        function(argument)


if __name__ == "__main__":
    _run_rank(Path(sys.argv[1]))
