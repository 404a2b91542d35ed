"""The interface of every network: logits at its own resolution, features by name, logits at the size of the image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.blocks import upsample


class HeadOutput(NamedTuple):
    """What `SegmentationNetwork.forward_head` returns for an image (N, 3, H, W).

    Args:
        logits: (N, num_classes, ceil(H / stride), ceil(W / stride)).
        features: By name as in `feature_channels`; a feature may be coarser than the logits.
        auxiliary: Logits of auxiliary heads, of the same size as logits; only in training.
    """

    logits: Tensor
    features: dict[str, Tensor]
    auxiliary: tuple[Tensor, ...] = ()


class TrainingOutput(NamedTuple):
    """What a network with auxiliary heads returns in training: logits, and those of each head, (N, num_classes, H, W)."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class SegmentationNetwork(Checkpointable):
    """A fully convolutional network for images of any size; subclasses define `forward_head`, and call large blocks by `run`.

    stride: pixels per cell of the network's own logits. feature_channels: of the features, by name.
    classifier_names: prefixes of all parameters that depend on the number of classes; they have a learning rate of their own
    in fine-tuning, and are not loaded from a checkpoint of other classes. auxiliary_weights: of each auxiliary head in the
    loss. in_channels: of its images. Parameters live in sub-modules and are used only in their forward, so that ZeRO-3's hooks
    gather them.

    forward: (N, 3, H, W) normalized image -> (N, num_classes, H, W) logits; `TrainingOutput` in training where there are
    auxiliary heads.
    """

    stride: int
    feature_channels: dict[str, int]
    classifier_names: tuple[str, ...] = ("classifier",)
    auxiliary_weights: tuple[float, ...] = ()
    in_channels: int = 3

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        """Logits at the network's own resolution, before upsampling; see `HeadOutput`."""
        raise NotImplementedError

    def forward(self, image_NCHW: Tensor) -> Tensor | TrainingOutput:
        return self._upsampled(self.forward_head(image_NCHW), (image_NCHW.shape[2], image_NCHW.shape[3]))

    def _upsampled(self, output: HeadOutput, size_HW: tuple[int, int]) -> Tensor | TrainingOutput:
        """The logits, in training with those of auxiliary heads, at the size of the image."""
        logits = upsample(output.logits, self.stride, size_HW)
        if not output.auxiliary:
            return logits
        return TrainingOutput(
            logits, tuple(upsample(auxiliary, self.stride, size_HW) for auxiliary in output.auxiliary)
        )


def combined_loss(
    output: Tensor | TrainingOutput, auxiliary_weights: Sequence[float], loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """`loss` of the logits, plus that of each auxiliary head times its weight."""
    if isinstance(output, Tensor):
        return loss(output)
    total = loss(output.logits)
    for weight, auxiliary in zip(auxiliary_weights, output.auxiliary, strict=True):
        total = total + weight * loss(auxiliary)
    return total
