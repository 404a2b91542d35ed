"""ResNet-50 and ResNet-101 (He et al. 2016, table 1) as dilated trunks.

Parameters have torchvision's names and places (the stride is in a block's 3x3 convolution), so that its ImageNet weights
load by name.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.blocks import Norm, normalization, scaled_channels

Backbone = Literal["resnet50", "resnet101"]
BLOCKS: dict[Backbone, tuple[int, int, int, int]] = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
"""Bottleneck blocks in layer1 to layer4."""


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the channels, plus the input: (N, C, H, W) -> (N, 4 channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = normalization(channels, norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = normalization(channels, norm)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = normalization(out_channels, norm)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, normalization(out_channels, norm))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        x = self.relu(self.bn1(self.conv1(x_NCHW)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(Checkpointable):
    """conv1 to layer4; strides beyond output_stride become dilation (DeepLabv3, section 3.1).

    multi_grid: multiplies the dilation of layer4's three blocks; otherwise all blocks of a layer have the same, as in
    DeepLab's code. channels: of the outputs of forward.

    forward: image (N, 3, H, W) -> outputs of layer3 and layer4, (N, C, ceil(H / output_stride), ceil(W / output_stride))
    with 1024 and 2048 channels; layer3's at output stride 32 is twice that size.
    """

    def __init__(
        self,
        backbone: Backbone,
        width: float = 1.0,
        output_stride: Literal[8, 16, 32] = 32,
        multi_grid: Sequence[int] = (1, 1, 1),
        norm: Norm = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled_channels(c, width) for c in (64, 128, 256, 512))
        self.channels = (4 * c256, 4 * c512)
        self.conv1 = nn.Conv2d(in_channels, c64, 7, stride=2, padding=3, bias=False)
        self.bn1 = normalization(c64, norm)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = BLOCKS[backbone]
        stride3, dilation3 = (2, 1) if output_stride >= 16 else (1, 2)
        stride4, dilation4 = (2, 1) if output_stride == 32 else (1, 2 * dilation3)
        self.layer1 = _layer(c64, c64, 1, [1] * blocks[0], norm)
        self.layer2 = _layer(4 * c64, c128, 2, [1] * blocks[1], norm)
        self.layer3 = _layer(4 * c128, c256, stride3, [dilation3] * blocks[2], norm)
        self.layer4 = _layer(4 * c256, c512, stride4, [dilation4 * grid for grid in multi_grid], norm)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for block in (*self.layer1, *self.layer2, *self.layer3):
            x = self.run(block, x)
        layer3 = x
        for block in self.layer4:
            x = self.run(block, x)
        return layer3, x


def _layer(in_channels: int, channels: int, stride: int, dilations: Sequence[int], norm: Norm) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride, dilations[0], norm)
    return nn.Sequential(first, *(Bottleneck(4 * channels, channels, 1, d, norm) for d in dilations[1:]))
