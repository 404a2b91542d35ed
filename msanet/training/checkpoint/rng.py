"""Torch's random generators of every rank: gathered into a checkpoint and put back."""

import torch
import torch.distributed as dist
from torch import Tensor

from msanet import distributed


def rng_state() -> dict[str, Tensor]:
    """This process's torch generators; data has none, since augmentation is a function of (seed, epoch, sample)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def gather_rng(context_parallel_size: int = 1) -> dict[str, Tensor]:
    """{'<rank>.cpu' or '<rank>.cuda': generator state, uint8} of all ranks. A collective; on rank 0, empty on the others.

    Where `context_parallel_size` ranks form a group, in which generators are alike, it stands for a rank: {'<group>.cpu': ...}.
    """
    states = [rng_state()] * distributed.world_size()
    if len(states) > 1:
        dist.gather_object(states[0], states if distributed.is_main() else None)
    if not distributed.is_main():
        return {}
    return {
        f"{rank}.{kind}": state
        for rank, kinds in enumerate(states[::context_parallel_size])
        for kind, state in kinds.items()
    }


def restore_rng(states: dict[str, Tensor], rank: int) -> bool:
    """Put back the generators of `rank`, or group; False where the checkpoint has none (another number of these)."""
    if f"{rank}.cpu" not in states:
        return False
    torch.set_rng_state(states[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])
    return True
