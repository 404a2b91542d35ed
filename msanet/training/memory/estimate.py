"""What one rank holds in a training step, before there is one: counted on fake tensors, so that nothing is allocated.

Exact where it follows from shapes: weights, gradients, the optimizer's state, activations and what the loss makes of them.
Not seen: workspaces of a GPU's kernels, the allocator's fragments, the CUDA context, buffers of NCCL. Activations are those
without torch.compile, and with all of an image's attention on one rank. How near it comes: docs/performance.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.config import Config, OptimizerConfig
from msanet.data.loader import BatchPlan
from msanet.data.pipeline import Batch
from msanet.losses import SegmentationLoss
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.meta import on_meta_device
from msanet.models.network import SegmentationNetwork
from msanet.models.peak_memory import peak_bytes
from msanet.training.engine.optimizer import bucket_size
from msanet.training.forward import micro_batch_loss

_FP32 = 4


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one rank at the peak of a training step, part by part.

    gradients: the share that ZeRO keeps from stage 2 on. activations: all that comes and goes, gradients at stages 0 and 1
    among it.
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
    """The peak of a step whose images have `size` (height, width).

    build: the network, on torch's current device. histogram: of the training split, as the loss takes it. device: where
    training will be, since a GPU's operators keep other things than a CPU's.
    """
    activations = activation_bytes(build, config, histogram, batches, size, device)
    with on_meta_device():
        parameters = sum(parameter.numel() for parameter in build().parameters() if parameter.requires_grad)
    state = state_bytes(parameters, config, batches)
    return replace(state, activations=max(activations, _update_bytes(parameters, config, batches.world_size)))


def state_bytes(parameters: int, config: Config, batches: BatchPlan) -> StepMemory:
    """What stays from step to step, for so many trainable parameters, as DeepSpeed 0.19 keeps it in float32.

    With Adam 12 bytes a parameter at stage 0: weight, two moments. Stages 1 and 2 divide the moments by the ranks and add a
    copy of a rank's share of the weights. Stage 3 keeps two such copies and nothing else of the weights, of which all are
    gathered between their use in the forward and in the backward pass. trainer.ema_decay: 4 more, divided at stage 3.
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


def activation_bytes(
    build: Callable[[], SegmentationNetwork],
    config: Config,
    histogram: tuple[int, ...],
    batches: BatchPlan,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> int:
    """The most bytes of what comes and goes in forward, loss and backward of the micro-batches of a step."""
    trainer, device = config.trainer, torch.device(device)
    criterion = SegmentationLoss(config.loss, histogram)
    # Autograd would run a GPU's backward on a thread of its own, which knows nothing of the modes here.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.set_multithreading_enabled(False), device:
        network, criterion = build().train(), criterion.to(device)
        if trainer.activation_checkpointing:
            checkpoint_activations(network)

        def forward(image_NCHW: Tensor) -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=trainer.precision == "bf16"):
                return network(image_NCHW)

        def step() -> None:
            for _ in range(min(2, batches.accumulation)):  # from the second on gradients are there from the beginning
                batch = _batch(batches.micro_batch_size, size)
                counts_2 = criterion.counts(batch.labels_NHW)
                loss = micro_batch_loss(forward, network.auxiliary_weights, criterion, batch, counts_2, config.data)
                loss.backward()
                del loss

        return peak_bytes(network, step, keeps_gradients=trainer.zero_stage < 2)


def bucket_bytes(config: Config, parameters: int) -> float:
    """One bucket for each type that gradients are sent in (under bf16 autocast: convolutions' bf16, norms' fp32).

    Stages 1 and 2 stage both in fp32, and have them twice with overlap_comm; stage 3 has each in its own type.
    """
    is_bf16, size = config.trainer.precision == "bf16", bucket_size(config, parameters)
    if config.trainer.zero_stage == 3:
        return size * (_FP32 + (2 if is_bf16 else 0))
    own = config.deepspeed.get("zero_optimization")
    overlaps = isinstance(own, dict) and bool(own.get("overlap_comm"))
    return size * _FP32 * (1 + is_bf16) * (1 + overlaps)


def moments(optimizer: OptimizerConfig) -> int:
    """Values that the optimizer keeps for each parameter."""
    return 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)


def suggestions(needed: StepMemory, config: Config) -> list[str]:
    """What to set where a step does not fit, but for a smaller micro-batch."""
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
    """`21.3`, `0.08`: 10^9 bytes to three digits, two of them behind the point at most."""
    size /= 1e9
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}"


def _update_bytes(parameters: int, config: Config, ranks: int) -> float:
    """After the backward pass: gradients, and the copy in which stage 0 sums them; then the change of a moving average."""
    stage, whole, share = config.trainer.zero_stage, _FP32 * parameters, _FP32 * parameters / ranks
    sums = whole * (1 + (ranks > 1)) if stage == 0 else 2 * share
    return max(sums, (share if stage == 3 else whole) if config.trainer.ema_decay else 0)


def _batch(count: int, size: tuple[int, int]) -> Batch:
    numbers_N = torch.zeros(count, dtype=torch.int64)
    return Batch(
        images_NHWC=torch.zeros(count, *size, 3, dtype=torch.uint8),
        labels_NHW=torch.zeros(count, *size, dtype=torch.uint8),
        jitter_N3=torch.ones(count, 3),
        epochs_N=numbers_N,
        samples_N=numbers_N,
    )
