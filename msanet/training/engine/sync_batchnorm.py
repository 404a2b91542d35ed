"""BatchNorm over the micro-batches of all ranks, on CPUs too: see docs/decisions/0017."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def convert_sync_batchnorm(model: nn.Module, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
    """Replace every BatchNorm2d in the model by one that uses the statistics of all ranks' micro-batches together.

    group: the ranks; None: all.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
        return
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, CpuSyncBatchNorm(child, group))
        else:
            convert_sync_batchnorm(child, device, group)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d with training statistics merged over ranks. Shares the parameters and buffers of the one it replaces."""

    def __init__(self, other: nn.BatchNorm2d, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        self._parameters, self._buffers, self.training = other._parameters, other._buffers, other.training
        self.group = group

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        precise = input.to(torch.promote_types(input.dtype, torch.float32))
        n = input.numel() // input.shape[1]
        variance, mean = (own.double() for own in torch.var_mean(precise, dim=(0, 2, 3), correction=0))
        sums = torch.cat([mean * n, (variance + mean.square()) * n, mean.new_tensor([n])])  # of x, x^2 and 1
        sums = _AllReduceSum.apply(sums, self.group)
        mean, mean_square = (sums[:-1] / sums[-1]).view(2, -1)
        variance = (mean_square - mean.square()).clamp(min=0)
        scale = (variance + self.eps).rsqrt().to(precise.dtype) * self.weight
        output = (precise - mean.to(precise.dtype)[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        with torch.no_grad():
            assert self.momentum is not None and self.num_batches_tracked is not None
            assert self.running_mean is not None and self.running_var is not None
            self.num_batches_tracked += 1
            unbiased = variance * (sums[-1] / (sums[-1] - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return output.to(input.dtype)


class _AllReduceSum(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total = x.clone()
    dist.all_reduce(total, group=group)
    return total
