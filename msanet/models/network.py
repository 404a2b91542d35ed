"""What every network of the zoo promises: a score map at its own resolution, features by name, logits at any size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.blocks import upsample


class Scores(NamedTuple):
    """What `SegmentationNetwork.score` finds in an image (N, 3, H, W).

    scores: (N, num_classes, ceil(H / stride), ceil(W / stride)). features: by name as in `feature_channels`; a feature
    may be coarser than the scores. extra: score maps of auxiliary heads, of the same size as scores; only in training.
    """

    scores: Tensor
    features: dict[str, Tensor]
    extra: tuple[Tensor, ...] = ()


class TrainingOutput(NamedTuple):
    """What a network with auxiliary heads returns in training: logits, and those of each head, (N, num_classes, H, W)."""

    logits: Tensor
    extra: tuple[Tensor, ...]


class SegmentationNetwork(Checkpointable):
    """A fully convolutional network for images of any size; subclasses write `score`, and call large blocks by `run`.

    stride: pixels per cell of the score map. feature_channels: the features that a wrapper may attend on, by name.
    classifier_names: prefixes of the parameters that depend on the number of classes, all of them: what has a learning
    rate of its own in fine-tuning, and what is left out when a checkpoint has other classes. extra_weights: the weight in
    the loss of each auxiliary head. Parameters live in sub-modules and are used only inside their forward, so that
    hooks that gather them (ZeRO-3) also work for a caller of `score`.

    forward: (N, 3, H, W) normalized image -> (N, num_classes, H, W) logits; `TrainingOutput` in training where there are
    auxiliary heads.
    """

    stride: int
    feature_channels: dict[str, int]
    classifier_names: tuple[str, ...] = ("classifier",)
    extra_weights: tuple[float, ...] = ()

    def score(self, image_NCHW: Tensor) -> Scores:
        """Scores at the network's own resolution; see `Scores`."""
        raise NotImplementedError

    def forward(self, image_NCHW: Tensor) -> Tensor | TrainingOutput:
        size = (image_NCHW.shape[2], image_NCHW.shape[3])
        found = self.score(image_NCHW)
        logits = upsample(found.scores, self.stride, size)
        if not found.extra:
            return logits
        return TrainingOutput(logits, tuple(upsample(extra, self.stride, size) for extra in found.extra))


def combined_loss(
    output: Tensor | TrainingOutput, extra_weights: Sequence[float], loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """`loss` of the logits, plus that of each auxiliary head times its weight."""
    if isinstance(output, Tensor):
        return loss(output)
    total = loss(output.logits)
    for weight, extra in zip(extra_weights, output.extra, strict=True):
        total = total + weight * loss(extra)
    return total
