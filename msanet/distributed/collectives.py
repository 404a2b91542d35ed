"""Sums, maxima, gathers and broadcasts over all ranks, and what rank 0 does for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from msanet.distributed.environment import is_main, rank
from msanet.distributed.progress import barrier
from msanet.errors import UserError

_T = TypeVar("_T")

_host_group: dist.ProcessGroup | None = None
"""For values in host memory, where the default group is that of GPUs."""


def set_host_group(group: dist.ProcessGroup | None) -> None:
    """The group for values in host memory, where the default group is that of GPUs."""
    global _host_group
    _host_group = group


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place; the tensor itself on one rank."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(value: int) -> int:
    """The largest of the ranks' values, agreed on over the hosts' network, so that no GPU has to be waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_host_group)
    return int(largest)


def gather_numbers(value: float) -> list[float]:
    """The values of all ranks in rank order, on every rank, over the hosts' network, so that no GPU has to be waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values = torch.zeros(dist.get_world_size(), dtype=torch.float64)
    values[rank()] = value
    dist.all_reduce(values, group=_host_group)
    return values.tolist()


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_main(function: Callable[[], _T]) -> _T:
    """Run `function` on rank 0 alone and give its result to all ranks, which wait; its UserError ends them all."""
    outcome: Any = None
    if is_main():
        try:
            outcome = function()
        except (UserError, OSError) as error:
            outcome = error
    barrier()
    outcome = broadcast_object(outcome)
    if isinstance(outcome, UserError | OSError):
        raise outcome
    return outcome
