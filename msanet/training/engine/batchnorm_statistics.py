"""BatchNorm's running statistics: each rank keeps its own in training; evaluations and checkpoints take their mean.

DeepSpeed never averages them. The training's own are left alone, since otherwise each save would change what comes after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from msanet import distributed
from msanet.training.engine.freezing import FrozenStatistics


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances by name, not copies; without frozen layers, which are alike on all ranks.

    A mean over ranks would not have their bits.
    """
    return {
        f"{prefix}.{name}".lstrip("."): module.get_buffer(name)
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, FrozenStatistics)
        for name in ("running_mean", "running_var")
    }


@contextmanager
def averaged_over_ranks(own: dict[str, Tensor]) -> Iterator[None]:
    """In it the tensors hold their mean over the ranks, and after it, however it ends, what they held. A collective."""
    if not own:
        yield
        return
    tensors = list(own.values())
    before = _flatten_dense_tensors(tensors)
    try:
        mean = distributed.all_reduce_sum(before.clone()).div_(distributed.world_size())
        torch._foreach_copy_(tensors, _unflatten_dense_tensors(mean, tensors))
        yield
    finally:
        torch._foreach_copy_(tensors, _unflatten_dense_tensors(before, tensors))


def gather_buffers(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """{name: (number of ranks, *shape)} on rank 0's CPU, empty on the others or where ranks cannot differ. A collective."""
    if not own or distributed.world_size() == 1:
        return {}
    flat = _flatten_dense_tensors(list(own.values()))
    ranks = [torch.empty_like(flat) for _ in range(distributed.world_size())] if distributed.is_main() else None
    dist.gather(flat, ranks)
    if ranks is None:
        return {}
    by_rank = [_unflatten_dense_tensors(flat.cpu(), list(own.values())) for flat in ranks]
    return {name: torch.stack(tensors) for name, tensors in zip(own, zip(*by_rank, strict=True), strict=True)}


def restore_buffers(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Restore what `gather_buffers` took from this rank, unless that was with another number of ranks."""
    for name, tensor in own.items():
        if name in saved and len(saved[name]) == distributed.world_size():
            tensor.copy_(saved[name][distributed.rank()])
