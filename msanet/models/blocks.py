"""Building blocks of the networks."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "group", "frozen"]
"""BatchNorm; GroupNorm, for micro-batches too small for statistics; BatchNorm that keeps what it was loaded with."""

MOST_IN_CHANNELS_LAST = {"cuda": 2**31 - 2}
"""The most elements of torch's bilinear interpolation in that memory order on a type of device."""


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, at least 8; the paper's own number at width 1."""
    return max(8, round(channels * width))


def normalization(channels: int, norm: Norm) -> nn.Module:
    """The layer that `norm` names.

    GroupNorm has 32 groups (Wu and He 2018) or the next lower divisor with two channels a group: one would be zero on a
    map of a single cell.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(max(g for g in range(1, min(32, channels // 2) + 1) if channels % g == 0), channels)
        case "frozen":
            return FrozenBatchNorm2d(channels)


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm2d, always in evaluation mode: statistics, weight and bias are buffers with BatchNorm2d's names.

    Not a subclass, so that it is not converted to synchronized BatchNorm.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in nn.BatchNorm2d(channels).state_dict().items():
            self.register_buffer(name, value)
        self.eps = 1e-5

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.batch_norm(x_NCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ImageBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d for one value per channel and image, (N, C, 1, 1).

    A single value has no variance: in training with a batch of one image the running statistics are used, and not changed.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    norm: Norm = "batch",
) -> nn.Sequential:
    """Convolution without bias (the norm has one), norm, ReLU. padding: by default the one that keeps the size."""
    padding = dilation * (kernel // 2) if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        normalization(out_channels, norm),
        nn.ReLU(inplace=True),
    )


def conv_stack(in_channels: int, layers: Sequence[tuple[int, int]], norm: Norm = "batch") -> nn.Sequential:
    """Conv + norm + ReLU for each (out_channels, kernel), one after the other at the same size."""
    modules = []
    for out_channels, kernel in layers:
        modules.append(conv_norm_relu(in_channels, out_channels, kernel, norm=norm))
        in_channels = out_channels
    return nn.Sequential(*modules)


def ordered_as(model_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """x_NCHW in channels_last memory order if the other is: some of torch's functions lose it."""
    if model_NCHW.is_contiguous(memory_format=torch.channels_last):
        return x_NCHW.contiguous(memory_format=torch.channels_last)
    return x_NCHW


def max_unpool(x_NCHW: Tensor, indices_NCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Put each value where its pooling layer found the maximum, zeros elsewhere: (N, C, h, w) -> (N, C, H, W)."""
    unpooled = F.max_unpool2d(x_NCHW, indices_NCHW, kernel_size=(2, 2), stride=(2, 2), output_size=size_HW)
    return ordered_as(x_NCHW, unpooled)


def pad_to_multiple(x_NCHW: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Repeat the last row and column until `multiple` divides height and width; the caller crops the result back.

    least: a multiple of it that height and width reach at least.
    """
    height, width = x_NCHW.shape[-2:]
    if least > multiple:
        whole = [torch.sym_max((size + multiple - 1) // multiple * multiple, least) for size in (height, width)]
    else:
        whole = [(size + multiple - 1) // multiple * multiple for size in (height, width)]
    bottom, right = whole[0] - height, whole[1] - width
    if not torch.compiler.is_exporting() and not bottom and not right:  # a graph for any size has no such branch
        return x_NCHW
    return ordered_as(x_NCHW, F.pad(x_NCHW, (0, right, 0, bottom), mode="replicate"))


def bilinear(x_NCHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Resized, cell centers on pixel centers: (N, C, h, w) -> (N, C, H, W). Contiguous above `MOST_IN_CHANNELS_LAST`."""
    most = MOST_IN_CHANNELS_LAST.get(x_NCHW.device.type)
    if most and x_NCHW.shape[0] * x_NCHW.shape[1] * size_HW[0] * size_HW[1] > most:
        x_NCHW = x_NCHW.contiguous()
    return F.interpolate(x_NCHW, size=size_HW, mode="bilinear", align_corners=False)


def upsample(x_NCHW: Tensor, stride: int, size_HW: tuple[int, int]) -> Tensor:
    """Bilinear by exactly `stride` (a cell's value lies at its center), then cropped: (N, C, h, w) -> (N, C, H, W)."""
    if stride > 1:
        height, width = x_NCHW.shape[-2:]
        x_NCHW = bilinear(x_NCHW, (height * stride, width * stride))
    return x_NCHW[..., : size_HW[0], : size_HW[1]]


@torch.no_grad()
def init_he_normal(module: nn.Module) -> None:
    """He normal for every convolution (He et al. 2015), zero biases, norms at identity; for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
