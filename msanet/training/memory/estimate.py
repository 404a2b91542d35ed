"""The memory of one rank in a training step, counted on fake tensors, so that nothing is allocated.

Exact for what follows from shapes: weights, gradients, the optimizer's state, activations, loss. Not seen: workspaces of a GPU's
kernels, the allocator's fragments, the CUDA context, buffers of NCCL, and what torch.compile or context parallelism saves. How
near it comes: docs/performance.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.config import Config, OptimizerConfig
from msanet.data.label_tensors import label_tensor_dtype
from msanet.data.loader import BatchPlan
from msanet.data.pipeline import Batch
from msanet.losses import SegmentationLoss
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.meta import on_meta_device
from msanet.models.network import SegmentationNetwork
from msanet.models.peak_memory import peak_bytes
from msanet.training.engine.loss_scaling import autocast
from msanet.training.engine.optimizer import bucket_size, setting
from msanet.training.engine.other_optimizers import state_template
from msanet.training.forward import micro_batch_loss

_FP32 = 4


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank at the peak of a training step, by part.

    gradients: the share that ZeRO keeps from stage 2 on. activations: all that comes and goes, with gradients at stages 0 and 1.
    """

    weights: float
    gradients: float
    optimizer: float
    average: float
    buckets: float
    activations: float

    @property
    def total(self) -> float:
        return sum(self.__dict__.values())

    @property
    def parts(self) -> str:
        """`activations 18.1, weights 0.08, ...` in GB, the largest first."""
        found = sorted(((size, name) for name, size in self.__dict__.items() if size), reverse=True)
        return ", ".join(f"{name} {gigabytes(size)}" for size, name in found)


def step_memory(
    build: Callable[[], SegmentationNetwork],
    config: Config,
    histogram: tuple[int, ...],
    batches: BatchPlan,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> StepMemory:
    """The peak of a step.

    build: makes the network on torch's current device. histogram: labeled pixels per class of the training split. size: height
    and width of all images. device: where training will be, since a GPU's operators keep other tensors than a CPU's.
    """
    device = torch.device(device)
    criterion = SegmentationLoss(config.loss, histogram)
    with on_meta_device():
        parameters = sum(parameter.numel() for parameter in build().parameters() if parameter.requires_grad)
    # Autograd would run a GPU's backward on a thread of its own, which knows nothing of the modes here.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.set_multithreading_enabled(False), device:
        network, criterion = build().train(), criterion.to(device)
        if config.trainer.activation_checkpointing:
            checkpoint_activations(network)
        step = partial(_forward_and_backward, network, criterion, config, batches, size, device)
        activations = peak_bytes(network, step, keeps_gradients=config.trainer.zero_stage < 2)
    state = state_bytes(parameters, config, batches)
    return replace(state, activations=max(activations, _update_bytes(parameters, config, batches.world_size)))


def _forward_and_backward(
    network: SegmentationNetwork,
    criterion: SegmentationLoss,
    config: Config,
    batches: BatchPlan,
    size: tuple[int, int],
    device: torch.device,
) -> None:
    def forward(image_NCHW: Tensor) -> Any:
        with autocast(device, config.trainer.precision):
            return network(image_NCHW)

    for _ in range(min(2, batches.accumulation)):  # in the second micro-batch gradients are there from the beginning
        batch = _batch(batches.micro_batch_size, size, len(config.data.mean), criterion.num_classes)
        counts_3 = criterion.counts(batch.labels_NHW)
        micro_batch_loss(forward, network.auxiliary_weights, criterion, batch, counts_3, config.data).backward()


def state_bytes(parameters: int, config: Config, batches: BatchPlan) -> StepMemory:
    """What stays from step to step, for so many trainable parameters, as DeepSpeed 0.19 keeps it in float32.

    Stage 0 has 12 bytes a parameter with Adam: weight, two moments. Stages 1 and 2 divide the moments by the ranks and copy a
    rank's share of the weights. Stage 3 keeps two such copies, and gathers all weights between forward and backward pass.
    """
    stage, whole, share = config.trainer.zero_stage, _FP32 * parameters, _FP32 * parameters / batches.world_size
    return StepMemory(
        weights=whole + (0, share, share, 2 * share)[stage],
        gradients=share if stage == 3 or (stage == 2 and batches.accumulation > 1) else 0,
        optimizer=moments(config.optimizer) * (share if stage else whole),
        average=(share if stage == 3 else whole) if config.trainer.ema_decay else 0,
        buckets=bucket_bytes(config, parameters) if stage else 0,
        activations=0,
    )


def bucket_bytes(config: Config, parameters: int) -> float:
    """One bucket for each type that gradients are sent in (under bf16 autocast: convolutions' bf16, norms' fp32).

    Stages 1 and 2 stage both in fp32, and have them twice with overlap_comm; stage 3 has each in its own type.
    """
    is_bf16, size = config.trainer.precision == "bf16", bucket_size(config, parameters)
    if config.trainer.zero_stage == 3:
        return size * (_FP32 + (2 if is_bf16 else 0))
    overlaps = bool(setting(config.deepspeed, "zero_optimization.overlap_comm"))
    return size * _FP32 * (1 + is_bf16) * (1 + overlaps)


def moments(optimizer: OptimizerConfig) -> int:
    """Values that the optimizer keeps for each parameter."""
    match optimizer.name:
        case "sgd":
            return int(optimizer.momentum > 0)
        case "adam" | "adamw":
            return 3 if optimizer.options.get("amsgrad") else 2
        case _:
            return state_template(optimizer).full_size


def suggestions(needed: StepMemory, config: Config) -> list[str]:
    """What to set if a step does not fit, apart from a smaller micro-batch."""
    found = []
    if needed.activations > needed.total / 2:
        found.append("a smaller data.crop")
        if config.trainer.precision == "fp32":
            found.append("trainer.precision=bf16")
        if not config.trainer.activation_checkpointing:
            found.append("trainer.activation_checkpointing=true")
    elif config.trainer.zero_stage < 3:
        found.append("a higher trainer.zero_stage")
    return found or ["a smaller network or data.crop"]


def gigabytes(size: float) -> str:
    """`21.3`, `0.08`: in 10^9 bytes, to three digits."""
    size /= 1e9
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}"


def _update_bytes(parameters: int, config: Config, ranks: int) -> float:
    """After the backward pass: gradients, and the copy in which stage 0 sums them; then the change of the EMA."""
    stage, whole, share = config.trainer.zero_stage, _FP32 * parameters, _FP32 * parameters / ranks
    sums = whole * (1 + (ranks > 1)) if stage == 0 else 2 * share
    return max(sums, (share if stage == 3 else whole) if config.trainer.ema_decay else 0)


def _batch(count: int, size: tuple[int, int], channels: int, num_classes: int) -> Batch:
    numbers_N = torch.zeros(count, dtype=torch.int64)
    return Batch(
        images_NHWC=torch.zeros(count, *size, channels, dtype=torch.uint8),
        labels_NHW=torch.zeros(count, *size, dtype=label_tensor_dtype(num_classes)),
        jitter_N3=torch.ones(count, 3),
        epochs_N=numbers_N,
        samples_N=numbers_N,
    )
