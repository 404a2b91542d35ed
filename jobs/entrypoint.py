"""Run `deepspeed` or torchrun on one host so that a request to stop saves, as the first process of a container or in front:

    python jobs/entrypoint.py deepspeed launcher/train.py --config camvid data.path=SHARDS run.dir=RUN

Alone, `deepspeed` ends at once on SIGTERM (143), or ignores it where it is process 1 of a container, which has no default
handlers. This passes SIGTERM, SIGINT, SIGHUP and SIGUSR1 to the ranks instead, waits until they have saved, and ends with the
launcher's exit code: with `deepspeed` that of the ranks, 75. Other commands replace it (exec). Linux only.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LAUNCHERS = ("deepspeed", "torchrun", "torch.distributed.run")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
POLL_SECONDS = 0.1


class Launch:
    """A launcher as a child process, and what it has started."""

    def __init__(self, command: list[str]) -> None:
        self._request: signal.Signals | None = None
        self._told: set[int] = set()
        self._had_ranks = False
        ctypes.CDLL(None).prctl(
            PR_SET_CHILD_SUBREAPER, 1
        )  # orphans become children of this process, which waits for them
        # A process group of its own, so that a terminal's Ctrl-C reaches the ranks once, through this process.
        self._child = subprocess.Popen(command, process_group=0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, self._note)
        signal.signal(signal.SIGTSTP, self._suspend)

    def wait(self) -> int:
        """Until the launcher and all ranks have ended; the launcher's exit code."""
        code = None
        while code is None or _ranks():
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == self._child.pid:
                code = os.waitstatus_to_exitcode(status)
            if pid == 0:
                self._pass_on()
                time.sleep(POLL_SECONDS)
        return 1 if code is None else code if code >= 0 else 128 - code

    def _note(self, number: int, frame: object) -> None:
        self._request, self._told = signal.Signals(number), set()

    def _pass_on(self) -> None:
        """To each rank once, also to those that start later; to all processes before there are any, and nothing to save."""
        number, told = self._request, self._told
        if number is None:
            return
        ranks = _ranks()
        self._had_ranks = self._had_ranks or bool(ranks)
        for pid in set(ranks if self._had_ranks else _descendants()) - told:
            told.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _suspend(self, number: int, frame: object) -> None:
        """Ctrl-Z: the job too."""
        os.killpg(self._child.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.killpg(self._child.pid, signal.SIGCONT)


def _descendants() -> list[int]:
    """All processes below this one."""
    children, found = _children(), [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _ranks() -> list[int]:
    """The processes that a launcher has given the variable RANK, without what they have started themselves."""
    children, ranks, others = _children(), list[int](), [os.getpid()]
    for pid in others:
        for child in children.get(pid, []):
            (ranks if _has_rank(child) else others).append(child)
    return ranks


def _children() -> dict[int, list[int]]:
    """Every process of the machine -> its children."""
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(folder.name))
    return found


def _has_rank(pid: int) -> bool:
    try:
        return any(word.startswith(b"RANK=") for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # it has ended
        return False


def main(command: list[str]) -> int:
    """Run the command; its exit code."""
    if not command:
        print("error: no command; python jobs/entrypoint.py deepspeed launcher/train.py ...", file=sys.stderr)
        return 2
    try:
        if not any(name in word for word in command for name in LAUNCHERS):
            os.execvp(command[0], command)
        return Launch(command).wait()
    except OSError as error:
        print(f"error: '{command[0]}' cannot be started: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
