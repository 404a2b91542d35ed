"""Factories of networks as users write them, good and bad; tests name them as `tests/models/external_networks.py:NAME`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Logits at a quarter of the image's resolution."""

    def __init__(
        self, num_classes: int, channels: int = 8, kinds: tuple[str, ...] = ("a",), ratio: float = 1.0
    ) -> None:
        super().__init__()
        self.options = (channels, kinds, ratio)
        self.body = nn.Sequential(nn.Conv2d(3, channels, 4, stride=4), nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image: Tensor) -> Any:
        return self.head(self.body(image))


class Divisible(Plain):
    """Takes multiples of 16 only; logits at full resolution."""

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2] % 16 or image.shape[3] % 16:
            raise ValueError("height and width must be multiples of 16")
        return F.interpolate(super().forward(image), scale_factor=4.0, mode="bilinear")


class Fixed(Plain):
    """Takes 224x224 only."""

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[2:] == (224, 224), "224x224 only"
        return super().forward(image)


class Auxiliary(Plain):
    """A mapping, with an auxiliary output in training, and parameters that nothing uses."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.second = nn.Conv2d(8, num_classes, 1)
        self.unused = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.body(image)
        return {"out": self.head(features)} | ({"aux": self.second(features)} if self.training else {})


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Object(Plain):
    def forward(self, image: Tensor) -> Output:
        return Output(super().forward(image))


class Pair(Plain):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(image)
        return logits, logits.mean(dim=(2, 3))


class HiddenLayerOfTheSameWidth(Plain):
    """Two layers have as many outputs as there are classes, if those are 8; one of them depends on that number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, channels=8)


class Blocks(Plain):
    """Twelve blocks of two layers, with dropout and BatchNorm."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.blocks = nn.ModuleList(ScaledBlock() for _ in range(12))

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(image)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class ScaledBlock(nn.Module):
    """As in ConvNeXt: a parameter of the block itself scales what its layers return."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Dropout(0.1), nn.Conv2d(8, 8, 1)
        )
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers(x)


class Breaks(Plain):
    """No single graph: it branches on a value."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(image)
        return self.head(x if x.sum() > -1e9 else -x)


class SevenClasses(Plain):
    def __init__(self, num_classes: int) -> None:
        super().__init__(7)


class NotANumber(Plain):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * torch.nan


class FailsInTraining(Plain):
    def forward(self, image: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("only for evaluation")
        return super().forward(image)


class Vector(Plain):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).mean(dim=(2, 3))


def raises(num_classes: int) -> nn.Module:
    raise KeyError("a bug of the user's")


def no_module(num_classes: int) -> object:
    return [num_classes]


def without_classes(channels: int) -> nn.Module:
    return Plain(3, channels)


def needs_more(num_classes: int, channels: int) -> nn.Module:
    return Plain(num_classes, channels)


class Coarse(Plain):
    """Logits at 1/32 of the image, rounded up; for the sizes first tried they could be those of a stride of 28 too."""

    def forward(self, image: Tensor) -> Tensor:
        logits = super().forward(F.pad(image, (0, -image.shape[3] % 32, 0, -image.shape[2] % 32)))
        return F.avg_pool2d(logits, 8)
