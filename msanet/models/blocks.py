"""Pieces that networks are assembled from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, at least 8; the paper's own number at width 1."""
    return max(8, round(channels * width))


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Convolution without bias (BatchNorm has one), BatchNorm, ReLU. padding: half the kernel unless told."""
    padding = kernel // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def conv_stack(in_channels: int, layers: Sequence[tuple[int, int]]) -> nn.Sequential:
    """Conv + BN + ReLU for each (out_channels, kernel), one after the other at the same size."""
    modules = []
    for out_channels, kernel in layers:
        modules.append(conv_bn_relu(in_channels, out_channels, kernel))
        in_channels = out_channels
    return nn.Sequential(*modules)


def max_unpool(x_NCHW: Tensor, indices_NCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Put each value where its pooling layer found the maximum, zeros elsewhere: (N, C, h, w) -> (N, C, H, W)."""
    return F.max_unpool2d(x_NCHW, indices_NCHW, kernel_size=(2, 2), stride=(2, 2), output_size=size_HW)


def pad_to_multiple(x_NCHW: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until `multiple` divides height and width; the caller crops the result back."""
    height, width = x_NCHW.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x_NCHW
    return F.pad(x_NCHW, (0, right, 0, bottom), mode="replicate")


@torch.no_grad()
def init_he_normal(module: nn.Module) -> None:
    """He normal for every convolution (He et al. 2015), zero biases, BatchNorm at identity; for `Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
