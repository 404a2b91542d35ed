"""VGG-16 (Simonyan and Zisserman 2015, table 1, configuration D) as a trunk, and its fc6 and fc7 as convolutions.

Parameters have torchvision's names (`features.0.weight` is conv1_1's, `features.28.weight` conv5_3's), so that its
ImageNet weights load by name.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.blocks import scaled_channels

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, number of 3x3 convolutions) of conv1_x to conv5_x."""


class VGG16(Checkpointable):
    """conv1_1 to pool5, without BatchNorm.

    pool_strides: with 1 instead of 2 the convolutions after that pooling are dilated instead. Pooling is 2x2 with stride 2,
    and 3x3, pad 1, with stride 1. channels: of the outputs of forward.

    forward: image (N, 3, H, W) -> outputs of pool1 to pool5; originally 1/2 to 1/32 of the size.
    """

    def __init__(self, width: float = 1.0, pool_strides: Sequence[int] = (2, 2, 2, 2, 2), in_channels: int = 3) -> None:
        super().__init__()
        self.channels = tuple(scaled_channels(channels, width) for channels, _ in _STAGES)
        layers: list[nn.Module] = []
        stages: list[slice] = []
        dilation = 1
        for out_channels, (_, count), stride in zip(self.channels, _STAGES, pool_strides, strict=True):
            first = len(layers)
            for _ in range(count):
                layers += [nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)]
                layers += [nn.ReLU(inplace=True)]
                in_channels = out_channels
            layers += [nn.MaxPool2d(2) if stride == 2 else nn.MaxPool2d(3, stride=1, padding=1)]
            stages.append(slice(first, len(layers)))
            dilation *= 2 // stride
        self.features = nn.Sequential(*layers)
        self._blocks = tuple(self.features[stage] for stage in stages)  # the same ones at each call

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        pooled = []
        for block in self._blocks:
            x_NCHW = self.run(block, x_NCHW)
            pooled.append(x_NCHW)
        return pooled


class FullyConnected(nn.Module):
    """fc6 and fc7 as same-padded convolutions, each with ReLU and dropout 0.5.

    forward: (N, in_channels, h, w) -> outputs of fc6 and of fc7 after dropout, (N, channels, h, w) each.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.fc7 = nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        fc6 = self.dropout(self.relu(self.fc6(x_NCHW)))
        return fc6, self.dropout(self.relu(self.fc7(fc6)))
