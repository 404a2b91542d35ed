"""U-Net (Ronneberger, Fischer and Brox 2015, section 2, figure 1), same-padded and with BatchNorm.

Sizes in comments are for a 224x224 input at width 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.models.blocks import Norm, conv_stack, init_he_normal, pad_to_multiple, scaled_channels
from msanet.models.network import HeadOutput, SegmentationNetwork


class UNet(SegmentationNetwork):
    """Four times two 3x3 convolutions and a pooling, and the same way back with the encoder's maps concatenated.

    Same-padded convolutions with a norm (readings; the paper's are unpadded and have no norm). norm: see `Norm`.
    """

    stride = 1

    def __init__(self, num_classes: int, width: float = 1.0, norm: Norm = "batch", in_channels: int = 3) -> None:
        super().__init__()
        channels = [scaled_channels(c, width) for c in (64, 128, 256, 512, 1024)]
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            conv_stack(c_in, [(c_out, 3)] * 2, norm) for c_in, c_out in zip(inputs, channels, strict=True)
        )
        steps = [(channels[level + 1], channels[level]) for level in (3, 2, 1, 0)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(c_in, c_out, 2, stride=2) for c_in, c_out in steps)
        self.decoder = nn.ModuleList(conv_stack(2 * c_out, [(c_out, 3)] * 2, norm) for _, c_out in steps)
        self.classifier = nn.Conv2d(channels[0], num_classes, 1)
        self.feature_channels = {"penultimate": channels[0]}
        self.apply(init_he_normal)

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """See `SegmentationNetwork.forward_head`."""
        height, width = image_NCHW.shape[-2:]
        x = self.run(self.encoder[0], pad_to_multiple(image_NCHW, 16))
        levels = []  # 64 x 224 x 224, 128 x 112 x 112, 256 x 56 x 56, 512 x 28 x 28
        for block in self.encoder[1:]:
            levels.append(x)
            x = self.run(block, F.max_pool2d(x, 2))  # at last 1024 x 14 x 14
        for up, block, level in zip(self.up, self.decoder, reversed(levels), strict=True):
            x = self.run(block, torch.cat([level, up(x)], dim=1))
        return HeadOutput(self.classifier(x)[..., :height, :width], {"penultimate": x[..., :height, :width]})
