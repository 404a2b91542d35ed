"""BatchNorm's running statistics: each rank has its own, and what is judged and published has their mean.

DeepSpeed never makes them one. Nor is that done to the state of the training, where each save and each validation would
change what comes after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msanet import distributed


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances themselves, by name; not those of frozen layers, which are alike on all ranks."""
    return {
        f"{prefix}.{name}".lstrip("."): module.get_buffer(name)
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name in ("running_mean", "running_var")
    }


@contextmanager
def averaged_over_ranks(own: dict[str, Tensor]) -> Iterator[None]:
    """In it the tensors hold their mean over the ranks, and after it, however it ends, what they held. A collective."""
    if not own:
        yield
        return
    before = _flat(own)
    try:
        _fill(own, distributed.all_reduce_sum(before.clone()).div_(distributed.world_size()))
        yield
    finally:
        _fill(own, before)


def gather_buffers(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """{name: (number of ranks, *shape)} on the CPU; empty where the ranks cannot differ. A collective; on rank 0, else empty."""
    if not own or distributed.world_size() == 1:
        return {}
    flat = _flat(own)
    parts = [torch.empty_like(flat) for _ in range(distributed.world_size())] if distributed.is_main() else None
    dist.gather(flat, parts)
    if parts is None:
        return {}
    columns = torch.stack(parts).cpu().split([tensor.numel() for tensor in own.values()], dim=1)
    return {
        name: column.reshape(-1, *tensor.shape).contiguous()
        for (name, tensor), column in zip(own.items(), columns, strict=True)
    }


def restore_buffers(own: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    """Put back what `gather_buffers` took from this rank; nothing where that was another number of ranks."""
    for name, tensor in own.items():
        if name in saved and len(saved[name]) == distributed.world_size():
            tensor.copy_(saved[name][distributed.rank()])


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def _fill(tensors: dict[str, Tensor], flat: Tensor) -> None:
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    for tensor, part in zip(tensors.values(), parts, strict=True):
        tensor.copy_(part.view_as(tensor))
