"""What this rank is doing, for its heartbeats; and the barrier that waits as long as others make progress."""

from msanet.distributed.environment import world_size
from msanet.distributed.heartbeat import HeartbeatMonitor

_monitor: HeartbeatMonitor | None = None


def set_monitor(monitor: HeartbeatMonitor) -> None:
    """From now on the functions here speak to this monitor; without one they do nothing."""
    global _monitor
    _monitor = monitor


def monitor() -> HeartbeatMonitor | None:
    """The monitor of this process's session, if it has one."""
    return _monitor


def broadcast_failure(sentence: str, code: int) -> None:
    """Tell the other ranks why this one is about to end, which ends them too, with this exit code."""
    if _monitor:
        _monitor.broadcast_failure(sentence, code)


def describe_rank(number: int) -> str:
    """A rank with its host, as sentences for people have it: `rank 3 on HOST`."""
    return _monitor.name(number) if _monitor else f"rank {number}"


def begin_stage(doing: str, slow: bool = False) -> None:
    """Say what this rank begins now, a stage of what all ranks do alike. `slow`: it may take five times as long as usual.

    A rank that says nothing for 0.8 of the session's timeout ends the job, by its name.
    """
    if _monitor:
        _monitor.begin_stage(doing, slow)


def report_progress(doing: str, slow: bool = False) -> None:
    """As `begin_stage`, for what this rank does by itself, such as the images of its own share."""
    if _monitor:
        _monitor.report_progress(doing, slow)


def barrier() -> None:
    """Wait until every rank is here, however long the others take, as long as they make report_progress."""
    if _monitor and world_size() > 1:
        _monitor.barrier()
