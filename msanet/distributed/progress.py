"""What this rank is doing, for its heartbeats; and the barrier that waits as long as the others make progress."""

from msanet.distributed.environment import world_size
from msanet.distributed.heartbeat import HeartbeatMonitor

_monitor: HeartbeatMonitor | None = None


def set_monitor(monitor: HeartbeatMonitor | None) -> None:
    """The monitor that the functions here use from now on; without one they do nothing."""
    global _monitor
    _monitor = monitor


def monitor() -> HeartbeatMonitor | None:
    """The monitor of this process's session, if it is in one."""
    return _monitor


def broadcast_failure(message: str, exit_code: int, code: str | None = None) -> None:
    """Tell the other ranks why this one is about to end, which ends them too, with this exit code."""
    if _monitor:
        _monitor.broadcast_failure(message, exit_code, code)


def describe_rank(number: int) -> str:
    """A rank and its host, for sentences: `rank 3 (host H)`."""
    return _monitor.describe(number) if _monitor else f"rank {number}"


def begin_stage(activity: str, slow: bool = False) -> None:
    """Report that this rank begins a stage of what all ranks do alike; a rank that reports nothing for too long ends the job.

    activity: what it does now, as in `waiting for the data of step 12`. slow: it may take five times as long as usual.
    """
    if _monitor:
        _monitor.begin_stage(activity, slow)


def report_progress(activity: str, slow: bool = False) -> None:
    """As `begin_stage`, for what this rank does by itself, such as the images of its own share."""
    if _monitor:
        _monitor.report_progress(activity, slow)


def barrier() -> None:
    """Wait until every rank is here, however long the others take, as long as they make progress."""
    if _monitor and world_size() > 1:
        _monitor.barrier()
