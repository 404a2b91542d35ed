"""What started this process, `deepspeed` or another: whether it is still there, and what to do when it is not."""

import logging
import os
import threading
from collections.abc import Callable

import psutil

from msanet.distributed.process_exit import EXIT_FAILURE, exit_now

logger = logging.getLogger(__name__)

ATTEMPT_VARIABLE = "MSANET_ATTEMPT"
"""Environment variable: how often the job was started before, where a supervisor above this process counts."""

_INITS = ("docker-init", "tini", "dumb-init", "catatonit")
_action: Callable[[], None] | None = None


def on_parent_exit(action: Callable[[], None] | None) -> None:
    """What this rank does when the launcher that started it is gone; None: the default of `start_parent_watchdog`."""
    global _action
    _action = action


def start_parent_watchdog(default: Callable[[], None] | None = None) -> Callable[[], None]:
    """Watch the launcher: if `deepspeed` is killed, it leaves its ranks running. Returns what ends the watch.

    default: what to do when it is gone, unless `on_parent_exit` says otherwise; None: end this process.
    """
    is_lost, stopped = _launcher_check(), threading.Event()

    def wait() -> None:
        while is_lost and not is_lost():
            if stopped.wait(1.0):
                return
        (_action or default or _exit)()

    if is_lost:
        threading.Thread(target=wait, daemon=True, name="parent-watchdog").start()
    return stopped.set


def warn_of_unstoppable_launcher() -> None:
    """Where `docker stop` would save nothing: `deepspeed` is process 1 of a container, or the only child of its init."""
    try:
        runner = psutil.Process().parents()[1]
        first = psutil.Process(1).name()
        is_runner = any("deepspeed" in word for word in runner.cmdline())
        if is_runner and (runner.pid == 1 or (runner.ppid() == 1 and first in _INITS)):
            logger.warning(
                "`deepspeed` is the first process of this container, so that `docker stop` saves nothing; put `python "
                "jobs/entrypoint.py` in front of it"
            )
    except (psutil.Error, OSError, IndexError):
        return


def _exit() -> None:
    logger.error(f"rank {os.environ.get('RANK', 0)} lost its launcher and ends [MSA-DIST-012]")
    exit_now(EXIT_FAILURE)


def _launcher_check() -> Callable[[], bool] | None:
    """What tells whether the launcher is gone; None for a single process that a person has started: it may outlive its shell.

    `deepspeed` starts `deepspeed.launcher.launch`, which starts the ranks and outlives it, so both are watched. Either may
    have been killed while this process was starting: then this one has another parent, or its parent has (`_is_adopted`).
    """
    parent, orphaned = os.getppid(), lambda: os.getppid() != parent
    # CROSS_RANK is set by deepspeed.launcher.launch.
    if ATTEMPT_VARIABLE in os.environ or "CROSS_RANK" not in os.environ:
        launched = {ATTEMPT_VARIABLE, "TORCHELASTIC_RUN_ID"} & os.environ.keys()
        has_launcher = int(os.environ.get("WORLD_SIZE", 1)) > 1 or launched
        return orphaned if has_launcher else None
    try:
        launcher = psutil.Process(parent)
        if not any("deepspeed.launcher.launch" in word for word in launcher.cmdline()):
            return lambda: True
        above = launcher.ppid()
        if _is_adopted(parent, above):
            return lambda: True
    except (psutil.Error, OSError):  # a parent that is hidden, or outside of the container
        return orphaned
    return lambda: orphaned() or launcher.ppid() != above


def _is_adopted(launcher: int, above: int) -> bool:
    """Whether `above` adopted the launcher from a `deepspeed` that is gone, and did not start it as `deepspeed` or sshd do.

    Then either the process group has lost its leader, as where a shell started `deepspeed`, or `above` is of another
    session, as where a script did and lives on.
    """
    if any("deepspeed" in word for word in psutil.Process(above).cmdline()):
        return False
    leader = os.getpgid(launcher)
    if not psutil.pid_exists(leader) or psutil.Process(leader).status() == psutil.STATUS_ZOMBIE:
        return True
    return leader != launcher and os.getsid(above) != os.getsid(launcher)
