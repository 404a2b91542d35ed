"""BatchNorm over the micro-batches of all ranks, on CPUs too: see docs/decisions/0017."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.models.blocks import ImageBatchNorm2d
from msanet.training.engine.freezing import FrozenStatistics


def convert_sync_batchnorm(model: nn.Module, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
    """Replace every BatchNorm2d in the model by one that uses the statistics of all ranks' micro-batches together.

    group: the ranks; None: all. Raises UserError for a subclass other than ours and timm's BatchNormAct2d.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, FrozenStatistics):  # needs no batch
            continue
        if not isinstance(child, nn.BatchNorm2d):
            convert_sync_batchnorm(child, device, group)
            continue
        on_gpu = device.type == "cuda"
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(child, group) if on_gpu else CpuSyncBatchNorm(child, group)
        if _has_activation(child):
            norm.drop, norm.act = child.drop, child.act
            norm.__class__ = _with_activation(type(norm))  # type: ignore[arg-type]
        elif type(child) not in (nn.BatchNorm2d, ImageBatchNorm2d):
            kind = type(child).__name__
            message = (
                f"trainer.sync_batchnorm=true, and '{name}' is a {kind}, which cannot be synchronized; set it to false"
            )
            raise UserError("MSA-TRAIN-501", message, setting="trainer.sync_batchnorm")
        setattr(model, name, norm)


def _has_activation(norm: nn.Module) -> bool:
    """Whether it is timm's BatchNormAct2d, with dropout and an activation after the normalization."""
    return (
        type(norm).__name__ == "BatchNormAct2d" and isinstance(norm.act, nn.Module) and isinstance(norm.drop, nn.Module)
    )


@cache
def _with_activation(norm: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.act(self.drop(norm.forward(self, x)))

    return type(f"{norm.__name__}Act", (norm,), {"forward": forward})


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
        scale = (variance + self.eps).rsqrt().to(precise.dtype) * (1 if self.weight is None else self.weight)
        output = (precise - mean.to(precise.dtype)[:, None, None]) * scale[:, None, None]
        output = output if self.bias is None else output + self.bias[:, None, None]
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
