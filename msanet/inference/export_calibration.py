"""The images that an int8 network is calibrated with: what the network gets when training images are evaluated."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from msanet.config import EvaluationConfig
from msanet.data.sample_source import SampleSource
from msanet.data.samples import decode_sample
from msanet.errors import UserError
from msanet.inference.predictor import Predictor


class _Recorder(nn.Module):
    """Keeps its inputs, and returns logits of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))
        self.inputs: list[Tensor] = []

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.inputs.append(x_NCHW.contiguous(memory_format=torch.contiguous_format))
        return x_NCHW[:, :1]


def calibration_images(
    source: SampleSource, count: int, settings: EvaluationConfig, size: tuple[int, int] | None
) -> Iterator[Tensor]:
    """The network's inputs (N, 3, H, W) in gray values for `count` images spread evenly over a split.

    Args:
        source: The split, which should be the one that was trained on.
        count: All images if there are fewer.
        settings: How images are evaluated: their size, windows, scales.
        size: (height, width) that the network takes only, None for any.

    Raises:
        UserError: The settings give images of another size than `size`.
    """
    plain = settings.model_copy(update={"precision": "fp32", "crf": settings.crf.model_copy(update={"enabled": False})})
    recorder, channels = _Recorder(), source.manifest.image_format.channels
    predictor = Predictor(recorder, plain, mean=(0.0,) * channels, std=(1.0,) * channels)
    for number in np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist():
        image, _ = decode_sample(source.read(number))
        predictor.labels(torch.from_numpy(np.ascontiguousarray(image)))
        for batch in recorder.inputs:
            if size and batch.shape[2:] != size:
                raise UserError(
                    "MSA-INFER-762",
                    f"--size is {size[0]} {size[1]}, but the image '{source.key(number)}' reaches the network as "
                    f"{batch.shape[2]}x{batch.shape[3]}; set --size to that, or remove it",
                    setting="--size",
                )
            yield batch
        recorder.inputs.clear()
