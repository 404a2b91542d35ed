"""An estimate of the memory of one rank, and of a checkpoint's size.

Exact where it follows from shapes (weights, gradients, optimizer state, activations); without convolution workspaces, the
allocator's fragments, the CUDA context and communication buffers other than ZeRO's. Activations are those of a CPU's
operators, counted on top of a whole set of gradients, as it is where gradients are accumulated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.config import Config, EvaluationConfig, OptimizerConfig
from msanet.doctor.findings import Finding
from msanet.evaluation.inference import Predictor
from msanet.losses import SegmentationLoss
from msanet.models.cost import peak_bytes
from msanet.models.network import SegmentationNetwork, combined_loss
from msanet.models.recompute import recompute_activations
from msanet.training.optim import bucket_size

_FULL, _NEARLY_FULL = 1.0, 0.85
_FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank in a training step, part by part."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    buckets: float
    activations: float

    @property
    def total(self) -> float:
        return sum(self.__dict__.values())


def state_bytes(parameters: int, config: Config, ranks: int) -> Memory:
    """All but activations, for so many trainable parameters, as DeepSpeed 0.19 keeps them in float32.

    With Adam 16 bytes a parameter at stage 0: weight, gradient, two moments. Stage 1 divides the moments by the ranks and
    adds a copy of a rank's share of the weights; stage 2 divides the gradients too; stage 3 the weights, of which up to all
    are gathered for a moment. trainer.ema: 4 more, divided at stage 3.
    """
    stage, whole, share = config.trainer.zero_stage, _FP32 * parameters, _FP32 * parameters / ranks
    return Memory(
        weights=whole + (share if stage else 0),
        gradients=share if stage >= 2 else whole,
        optimizer=_moments(config.optimizer) * (share if stage else whole),
        average=(share if stage == 3 else whole) if config.trainer.ema else 0,
        buckets=_bucket_bytes(config, parameters) if stage else 0,
        activations=0,
    )


def training_bytes(
    build: Callable[[], SegmentationNetwork],
    config: Config,
    histogram: tuple[int, ...],
    micro_batch: int,
    size: tuple[int, int],
) -> int:
    """Peak of activations in forward, loss and backward of one micro-batch at `size` (height, width)."""
    criterion = SegmentationLoss(config.loss, histogram)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = build().train()
        if config.trainer.activation_checkpointing:
            recompute_activations(network)

        def step() -> None:
            labels_NHW = torch.zeros(micro_batch, *size, dtype=torch.uint8)
            counts_2 = criterion.counts(labels_NHW)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision == "bf16"):
                output = network(torch.zeros(micro_batch, 3, *size))
            term = partial(criterion, labels_NHW=labels_NHW, counts_2=counts_2)
            loss: Tensor = combined_loss(output, network.extra_weights, term)
            loss.backward()

        return peak_bytes(network, step)


def evaluation_bytes(
    build: Callable[[], SegmentationNetwork], settings: EvaluationConfig, size: tuple[int, int]
) -> int:
    """Peak of activations and score maps for one validation image of `size`, without the CRF."""
    plain = settings.model_copy(update={"crf": settings.crf.model_copy(update={"enabled": False})})
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = build().eval()
        predictor = Predictor(network, plain, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

        def judge() -> None:
            image_HWC = torch.zeros(*size, 3, dtype=torch.uint8)
            predictor.labels_and_probabilities(image_HWC)

        return peak_bytes(network, judge)


def checkpoint_bytes(parameters: int, buffers: int, config: Config) -> int:
    """Weights and buffers, once more with trainer.ema, and the optimizer's moments; all float32."""
    copies = 2 if config.trainer.ema else 1
    return _FP32 * (copies * (parameters + buffers) + _moments(config.optimizer) * parameters)


def fits(needed: Memory, evaluation: float, device: float | None, config: Config) -> list[Finding]:
    """needed: of a training step; evaluation: bytes of a validation, weights and optimizer included; device: bytes, if known."""
    parts = ", ".join(f"{name} {_gb(size)}" for name, size in needed.__dict__.items() if size)
    what = f"about {_gb(needed.total)} a rank in training ({parts}), {_gb(evaluation)} in validation, both without workspace"
    if device is None:
        return [Finding("ok", "memory", f"{what}; not judged, as no --device-memory is given")]
    share = max(needed.total, evaluation) / device
    if share <= _NEARLY_FULL:
        return [Finding("ok", "memory", f"{what}; {share:.0%} of the device's {_gb(device)}")]
    cures = (
        _training_cures(needed, config)
        if needed.total >= evaluation
        else "set evaluation.window, or evaluation.precision=bf16"
    )
    expected = f"expected at most {_NEARLY_FULL:.0%} of the device's {_gb(device)}"
    return [Finding("fault" if share > _FULL else "warning", "memory", f"{what}; {expected}; {cures}")]


def buckets(parameters: int, config: Config) -> list[Finding]:
    """ZeRO's buffers for gradients, where the user has set a size that is made for billions of parameters."""
    if not config.trainer.zero_stage or bucket_size(config, parameters) <= 2 * parameters:
        return []
    text = (
        f"ZeRO's buckets take {_gb(_bucket_bytes(config, parameters))} a rank for a network of "
        f"{parameters / 1e6:.1f} million parameters, expected about its gradients' {_gb(_FP32 * parameters)}; leave "
        "deepspeed.zero_optimization.reduce_bucket_size out"
    )
    return [Finding("advice", "memory", text)]


def _moments(optimizer: OptimizerConfig) -> int:
    """Values that the optimizer keeps for each parameter."""
    return 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)


def _zero_settings(config: Config) -> dict[str, Any]:
    own = config.deepspeed.get("zero_optimization")
    return own if isinstance(own, dict) else {}


def _bucket_bytes(config: Config, parameters: int) -> float:
    """One bucket for each type that gradients are sent in (under bf16 autocast: convolutions' bf16, norms' fp32).

    Stages 1 and 2 stage both in fp32, and have them twice with overlap_comm; stage 3 has each in its own type.
    """
    is_bf16 = config.trainer.precision == "bf16"
    if config.trainer.zero_stage == 3:
        return bucket_size(config, parameters) * (_FP32 + (2 if is_bf16 else 0))
    return (
        bucket_size(config, parameters) * _FP32 * (1 + is_bf16) * (1 + bool(_zero_settings(config).get("overlap_comm")))
    )


def _training_cures(needed: Memory, config: Config) -> str:
    cures = []
    if needed.activations > needed.total / 2:
        cures.append("a smaller trainer.micro_batch (the global batch stays) or data.crop")
        if config.trainer.precision == "fp32":
            cures.append("trainer.precision=bf16")
        if not config.trainer.activation_checkpointing:
            cures.append("trainer.activation_checkpointing=true")
    elif config.trainer.zero_stage < 3:
        cures.append("a higher trainer.zero_stage")
    return "set " + (", or ".join(cures) or "a smaller network or data.crop")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
