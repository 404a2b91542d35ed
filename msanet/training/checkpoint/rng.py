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
    """{'<group>.cpu' or '<group>.cuda': generator state, uint8} on rank 0, empty on the others. A collective.

    A group is `context_parallel_size` ranks, with the same generators.
    """
    states = [rng_state()] * distributed.world_size()
    if len(states) > 1:
        dist.gather_object(states[0], states if distributed.is_main() else None)
    if not distributed.is_main():
        return {}
    groups = enumerate(states[::context_parallel_size])
    return {f"{group}.{kind}": state for group, kinds in groups for kind, state in kinds.items()}


def restore_rng(states: dict[str, Tensor], group: int) -> bool:
    """Restore the generators of a group of ranks; False if the checkpoint has none, since it had fewer groups."""
    if f"{group}.cpu" not in states:
        return False
    torch.set_rng_state(states[f"{group}.cpu"])
    if torch.cuda.is_available() and f"{group}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{group}.cuda"])
    return True
