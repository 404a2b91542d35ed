"""Checks of memory: a training step's and a validation's against the device, and a checkpoint's size."""

from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.config import Config, EvaluationConfig
from msanet.doctor.diagnostics import Found, check
from msanet.inference.predictor import Predictor
from msanet.models.network import SegmentationNetwork
from msanet.models.peak_memory import peak_bytes
from msanet.training.engine.optimizer import bucket_size
from msanet.training.memory.estimate import StepMemory, bucket_bytes, gigabytes, moments, suggestions

_FULL, _NEARLY_FULL = 1.0, 0.85
_FP32 = 4


def evaluation_bytes(build: Callable[[], SegmentationNetwork], config: EvaluationConfig, size: tuple[int, int]) -> int:
    """Peak of activations and score maps for one validation image of `size`, without the CRF."""
    without_crf = config.model_copy(update={"crf": config.crf.model_copy(update={"enabled": False})})
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = build().eval()
        predictor = Predictor(network, without_crf, (0.0,) * network.in_channels, (1.0,) * network.in_channels)

        def validate_one_image() -> None:
            image_HWC = torch.zeros(*size, network.in_channels, dtype=torch.uint8)
            predictor.labels_and_probabilities(image_HWC)

        return peak_bytes(network, validate_one_image)


def checkpoint_bytes(parameters: int, buffers: int, config: Config) -> int:
    """Weights and buffers, once more with trainer.ema_decay, and the optimizer's moments; all float32."""
    copies = 2 if config.trainer.ema_decay else 1
    return _FP32 * (copies * (parameters + buffers) + moments(config.optimizer) * parameters)


@check("memory")
def fits(needed: StepMemory, evaluation: float, device: float | None, config: Config) -> Found:
    """needed: of a training step; evaluation: bytes of a validation, weights and optimizer included; device: bytes, if known."""
    training = f"about {_gb(needed.total)} a rank in training ({needed.parts})"
    what = f"{training}, {_gb(evaluation)} in validation, both without workspace"
    if device is None:
        yield "ok", f"{what}; not checked, since --device-memory is not given"
        return
    share = max(needed.total, evaluation) / device
    if share <= _NEARLY_FULL:
        yield "ok", f"{what}; {share:.0%} of the device's {_gb(device)}"
        return
    settings = ["evaluation.window", "evaluation.precision=bf16"]
    if needed.total >= evaluation:
        smaller = ["a smaller trainer.micro_batch_size (the global batch stays)"]
        settings = smaller * (needed.activations > needed.total / 2) + suggestions(needed, config)
    expected = f"expected at most {_NEARLY_FULL:.0%} of the device's {_gb(device)}; set {', or '.join(settings)}"
    yield "fault" if share > _FULL else "warning", f"{what}; {expected}"


@check("memory")
def buckets(parameters: int, config: Config) -> Found:
    """ZeRO's buffers for gradients, where the user has set a size that is made for billions of parameters."""
    if config.trainer.zero_stage and bucket_size(config, parameters) > 2 * parameters:
        text = (
            f"ZeRO's buckets take {_gb(bucket_bytes(config, parameters))} a rank for a network of "
            f"{parameters / 1e6:.1f} million parameters, expected about its gradients' {_gb(_FP32 * parameters)}; remove "
            "deepspeed.zero_optimization.reduce_bucket_size"
        )
        yield "advice", text


def _gb(size: float) -> str:
    return f"{gigabytes(size)} GB"
