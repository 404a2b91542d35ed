"""This rank's device: its GPU, or its share of the host's cores."""

import os

import torch

from msanet.distributed.cores import available_cores, threads_of_rank
from msanet.distributed.environment import local_rank, local_world_size, rank
from msanet.errors import UserError


def device() -> torch.device:
    """This rank's accelerator, or the CPU."""
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def prepare_device() -> None:
    """Take this rank's GPU, or its share of the host's cores, with subnormal numbers as zeros.

    A CPU calculates tens of times slower with them, and the softmax of attention and Adam's moments are full of them. Threads
    take the setting over from the one that starts them.
    """
    if os.environ.get("DS_ACCELERATOR") == "cpu":  # DeepSpeed uses it, so everything else must too
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when a process asks for GPUs for the first time
    if torch.cuda.is_available():
        seen = torch.cuda.device_count()
        if local_rank() >= seen:
            raise UserError(
                "MSA-DIST-001",
                f"rank {rank()} is number {local_rank()} on its host and sees {seen} GPUs, expected one for each rank; start "
                "fewer ranks, or let every rank see all GPUs (SLURM: --gpus-per-node)",
            )
        torch.cuda.set_device(local_rank())
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads_of_rank(os.environ, available_cores(), local_world_size()))
