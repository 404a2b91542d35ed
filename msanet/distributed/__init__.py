"""What makes one process a rank of a job, whatever started it: its number, session, collectives, detection of failures."""

from msanet.distributed.collectives import all_reduce_max, all_reduce_sum, gather_objects, on_main
from msanet.distributed.device import device
from msanet.distributed.environment import free_port, is_main, local_rank, rank, world_size
from msanet.distributed.process_exit import JobFailed, Preempted
from msanet.distributed.progress import barrier, begin_stage, describe_rank, report_progress
from msanet.distributed.session import exiting_session, run_and_exit, session
from msanet.distributed.timeouts import Timeouts

__all__ = [
    "JobFailed",
    "Preempted",
    "Timeouts",
    "all_reduce_max",
    "all_reduce_sum",
    "barrier",
    "begin_stage",
    "describe_rank",
    "device",
    "exiting_session",
    "free_port",
    "gather_objects",
    "is_main",
    "local_rank",
    "on_main",
    "rank",
    "report_progress",
    "run_and_exit",
    "session",
    "world_size",
]
