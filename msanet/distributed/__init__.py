"""What makes one process a rank of a job: which rank it is, the session, collectives, and the detection of failures.

A job is started by `deepspeed`, by torchrun, by SLURM, or as one plain process; all end up here the same way.
"""

from msanet.distributed.collectives import all_reduce_max, all_reduce_sum, gather_objects, on_main
from msanet.distributed.device import device, prepare_device
from msanet.distributed.environment import free_port, is_main, local_rank, rank, set_default_environment, world_size
from msanet.distributed.process_exit import JobFailed, Preempted
from msanet.distributed.progress import barrier, begin_stage, broadcast_failure, describe_rank, report_progress
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
    "broadcast_failure",
    "describe_rank",
    "device",
    "exiting_session",
    "free_port",
    "gather_objects",
    "is_main",
    "local_rank",
    "on_main",
    "prepare_device",
    "rank",
    "report_progress",
    "run_and_exit",
    "session",
    "set_default_environment",
    "world_size",
]
