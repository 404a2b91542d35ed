"""A network of one's own: a factory that takes the number of classes and returns a module from images to logits.

    msanet train data.path=SHARDS run.dir=RUN model.name=examples/own_network.py:small_unet model.channels=16

Every argument is a setting of `model`, checked by its type. The module takes normalized images (N, 3, H, W) and returns logits
(N, num_classes, h, w) of any resolution: msanet finds out which sizes it takes, pads images and upsamples logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def small_unet(num_classes: int, channels: int = 16, dropout: float = 0.0) -> nn.Module:
    """A U-Net of two levels."""
    return SmallUNet(num_classes, channels, dropout)


class SmallUNet(nn.Module):
    def __init__(self, num_classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.fine = self._block(3, channels)
        self.coarse = self._block(channels, 2 * channels)
        self.merge = self._block(3 * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        coarse = self.coarse(F.max_pool2d(fine, 2))
        merged = self.merge(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], dim=1))
        return self.classifier(self.dropout(merged))

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )
