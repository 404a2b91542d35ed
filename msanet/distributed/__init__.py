"""What makes one process a rank of a job: which rank it is, the session, collectives, and what notices that a rank is gone.

A job is started by `deepspeed`, by torchrun, by SLURM, or as one plain process; all end up here the same way.
"""

from msanet.distributed.collectives import (
    all_reduce_max,
    all_reduce_sum,
    broadcast_object,
    gather_numbers,
    gather_objects,
    on_main,
)
from msanet.distributed.device import device, manual_seed, prepare_device
from msanet.distributed.environment import free_port, is_main, local_rank, rank, set_default_environment, world_size
from msanet.distributed.progress import barrier, begin_stage, broadcast_failure, describe_rank, report_progress
from msanet.distributed.session import session

__all__ = [
    "all_reduce_max",
    "all_reduce_sum",
    "barrier",
    "begin_stage",
    "broadcast_failure",
    "broadcast_object",
    "describe_rank",
    "device",
    "free_port",
    "gather_numbers",
    "gather_objects",
    "is_main",
    "local_rank",
    "manual_seed",
    "on_main",
    "prepare_device",
    "rank",
    "report_progress",
    "session",
    "set_default_environment",
    "world_size",
]
