"""Collectives of all ranks, and what rank 0 does for all of them.

Values in host memory go over the hosts' network, so that no GPU has to be waited for: see docs/decisions/0010.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from msanet.distributed.environment import is_main
from msanet.distributed.progress import barrier
from msanet.errors import UserError

_T = TypeVar("_T")

_host_group: dist.ProcessGroup | None = None


def set_host_group(group: dist.ProcessGroup | None) -> None:
    """The group for values in host memory; None: the default group."""
    global _host_group
    _host_group = group


def _has_one_rank() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place, by the default group; the tensor itself on one rank."""
    if not _has_one_rank():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(value: int) -> int:
    """The largest of the ranks' values."""
    if _has_one_rank():
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_host_group)
    return int(largest)


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order, on every rank."""
    if _has_one_rank():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_host_group)
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
    if not _has_one_rank():
        box = [outcome]
        dist.broadcast_object_list(box, src=0, group=_host_group)
        outcome = box[0]
    if isinstance(outcome, UserError | OSError):
        raise outcome
    return outcome
