"""BatchNorm over the micro-batches of all ranks, on CPUs too, where torch's own refuses to run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def convert_sync_batchnorm(model: nn.Module, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
    """Replace every BatchNorm2d in the model by one that uses the statistics of all ranks' micro-batches together.

    group: the ranks that are meant, where not all, such as one of each image.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
        return
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, CpuSyncBatchNorm.of(child, group))
        else:
            convert_sync_batchnorm(child, device, group)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are merged over ranks; the same parameters, buffers and evaluation."""

    group: dist.ProcessGroup | None = None
    """The ranks; None: all."""

    @classmethod
    def of(cls, other: nn.BatchNorm2d, group: dist.ProcessGroup | None = None) -> "CpuSyncBatchNorm":
        """A copy that shares the other's parameters and buffers."""
        new = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        new._parameters, new._buffers, new.training = other._parameters, other._buffers, other.training
        new.group = group
        return new

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        output, mean, variance, count = _SyncNormalise.apply(input, self.weight, self.bias, self.eps, self.group)
        with torch.no_grad():
            assert self.momentum is not None and self.num_batches_tracked is not None
            assert self.running_mean is not None and self.running_var is not None
            self.num_batches_tracked += 1
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return output


class _SyncNormalise(torch.autograd.Function):
    """Normalise by the mean and biased variance over N, H, W and ranks.

    forward merges [sum x, sum x^2, n] in float64; backward all-reduces [sum dy, sum dy xhat]. Weight and bias
    gradients stay local: the trainer averages gradients of all parameters alike.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = x.numel() // x.shape[1]
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(precise, dim=(0, 2, 3), correction=0)
        variance, mean = variance.double(), mean.double()
        sums = torch.cat([mean * n, (variance + mean.square()) * n, mean.new_tensor([n])])
        dist.all_reduce(sums, group=group)
        count = sums[-1]
        total, squares = sums[:-1].view(2, -1)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        inverse_std = (variance + eps).rsqrt().to(precise.dtype)
        x_hat = (precise - _per_channel(mean.to(precise.dtype))) * _per_channel(inverse_std)
        ctx.save_for_backward(x_hat, weight, inverse_std)
        ctx.count, ctx.group = float(count), group
        ctx.mark_non_differentiable(mean, variance, count)
        output = x_hat * _per_channel(weight) + _per_channel(bias)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x_hat, weight, inverse_std = ctx.saved_tensors
        grad = dy.to(x_hat.dtype)
        d_bias, d_weight = grad.sum(dim=(0, 2, 3)), (grad * x_hat).sum(dim=(0, 2, 3))
        sums = torch.cat([d_bias, d_weight]).double()
        dist.all_reduce(sums, group=ctx.group)
        mean_dy, mean_dy_x_hat = (sums / ctx.count).to(grad.dtype).view(2, -1)
        dx = grad - _per_channel(mean_dy) - x_hat * _per_channel(mean_dy_x_hat)
        dx = dx * _per_channel(weight * inverse_std)
        return dx.to(dy.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None


def _per_channel(x_C: Tensor) -> Tensor:
    return x_C.view(1, -1, 1, 1)
