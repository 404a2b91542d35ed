"""What started this process, `deepspeed` or another: whether it is still there, and what to do when it is not."""

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

ATTEMPT_VARIABLE = "MSANET_ATTEMPT"
"""Environment variable: how often the job was started before, where a supervisor above this process counts."""


def on_parent_exit(action: Callable[[], None] | None) -> None:
    """What this rank does when the launcher that started it is gone; None: it ends, as it does unless told otherwise."""
    global _on_loss
    _on_loss = action


_on_loss: Callable[[], None] | None = None


def start_parent_watchdog() -> None:
    """End this process when its launcher is gone: a killed `deepspeed` would leave its ranks running."""
    is_lost = _loss()
    if is_lost is None:
        return

    def wait() -> None:
        while not is_lost():
            time.sleep(1.0)
        if _on_loss:
            _on_loss()
            return
        print(f"error: rank {os.environ.get('RANK', 0)} lost its launcher and ends", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


def _loss() -> Callable[[], bool] | None:
    """What says whether the launcher is gone; None for a single process that a person has started: it may outlive its shell.

    `deepspeed` starts `deepspeed.launcher.launch`, which starts the ranks and outlives it, so both are watched. Either may
    have been killed while this process was starting: then this one has another parent, or its parent has (`_is_adopted`).
    """
    parent, orphaned = os.getppid(), lambda: os.getppid() != parent
    if (
        ATTEMPT_VARIABLE in os.environ or "CROSS_RANK" not in os.environ
    ):  # the latter is set by deepspeed.launcher.launch
        has_launcher = (
            int(os.environ.get("WORLD_SIZE", 1)) > 1 or {ATTEMPT_VARIABLE, "TORCHELASTIC_RUN_ID"} & os.environ.keys()
        )
        return orphaned if has_launcher else None
    try:
        launcher = psutil.Process(parent)
        if not any("deepspeed.launcher.launch" in word for word in launcher.cmdline()):
            return lambda: True
        above = launcher.ppid()
        if _is_adopted(parent, above):
            return lambda: True
    except (psutil.Error, OSError):  # a parent that is hidden, or that a container has not
        return orphaned
    return lambda: orphaned() or launcher.ppid() != above


def _is_adopted(launcher: int, above: int) -> bool:
    """Whether `above` has the launcher from a `deepspeed` that is gone, and is not what has started it, `deepspeed` or sshd.

    Then either the process group has lost its leader, as where a shell started `deepspeed`, or `above` is of another
    session, as where a script did and lives on.
    """
    if any("deepspeed" in word for word in psutil.Process(above).cmdline()):
        return False
    leader = os.getpgid(launcher)
    return _is_gone(leader) or (leader != launcher and os.getsid(above) != os.getsid(launcher))


def _is_gone(process: int) -> bool:
    """Also one that has ended and whose parent has not asked for its exit code."""
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE
