"""DeepLab-LargeFOV and DeepLab-MSc-LargeFOV on VGG-16 (DeepLabv1: Chen et al. 2015, sections 3.1, 4.2 and 4.3).

Sizes in comments are for a 224x224 input at width 1.
"""

import torch
from torch import Tensor, nn

from msanet.models.blocks import init_he_normal, pad_to_multiple, scaled_channels
from msanet.models.network import HeadOutput, SegmentationNetwork
from msanet.models.vgg import VGG16, FullyConnected


class DeepLabLargeFOV(SegmentationNetwork):
    """VGG-16 at output stride 8: pool4 and pool5 have stride 1, conv5 has dilation 2, fc6 is 3x3 with dilation 12.

    fc6 and fc7 have 1024 filters and dropout 0.5; fc8, the classifier, starts as N(0, 0.01). Pools 1 to 3 are VGG's
    2x2 (a reading: the released model has 3x3 everywhere), so that a cell's center is that of its 8x8 pixels. Features
    are after ReLU and dropout, as in Caffe.
    """

    stride = 8
    classifier_names = ("fc8",)

    def __init__(self, num_classes: int, width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__()
        c1024 = scaled_channels(1024, width)
        self.feature_channels = {"fc6": c1024, "fc7": c1024, "fc8": num_classes}
        self.trunk = VGG16(width, pool_strides=(2, 2, 2, 1, 1), in_channels=in_channels)
        self.fc = FullyConnected(self.trunk.channels[4], c1024, kernel=3, dilation=12)
        self.fc8 = _classifier(c1024, num_classes)
        self.trunk.apply(init_he_normal)
        self.fc.apply(init_he_normal)

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        pooled = self.trunk(pad_to_multiple(image_NCHW, self.stride))
        fc6, fc7 = self.run(self.fc, pooled[4])  # 1024 x 28 x 28
        fc8 = self.fc8(fc7)
        return HeadOutput(fc8, {"fc6": fc6, "fc7": fc7, "fc8": fc8})


class DeepLabMScLargeFOV(DeepLabLargeFOV):
    """DeepLab-LargeFOV whose classifier also sees the image and the first four poolings, each through two layers.

    The layers, 3x3 and 1x1 with 128 filters and ReLU each, add 5 x 128 channels to fc7's 1024. The paper does not say
    how finer maps come to 1/8 of the image: the 3x3 convolutions have that stride (a reading).
    """

    def __init__(self, num_classes: int, width: float = 1.0, in_channels: int = 3) -> None:
        super().__init__(num_classes, width, in_channels)
        c128 = scaled_channels(128, width)
        sources = zip((in_channels, *self.trunk.channels[:4]), (8, 4, 2, 1, 1), strict=True)
        self.side = nn.ModuleList(_side_layers(channels, c128, stride) for channels, stride in sources)
        self.side.apply(init_he_normal)
        self.fc8 = _classifier(self.feature_channels["fc7"] + 5 * c128, num_classes)

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        image_NCHW = pad_to_multiple(image_NCHW, self.stride)
        pooled = self.trunk(image_NCHW)
        fc6, fc7 = self.run(self.fc, pooled[4])  # 1024 x 28 x 28
        sources = zip(self.side, (image_NCHW, *pooled[:4]), strict=True)
        side = [self.run(layers, x) for layers, x in sources]  # 128 x 28 x 28 each
        fc8 = self.fc8(torch.cat([fc7, *side], dim=1))
        return HeadOutput(fc8, {"fc6": fc6, "fc7": fc7, "fc8": fc8})


def _side_layers(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
    )


def _classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
