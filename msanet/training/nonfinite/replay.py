"""Repeat a step that went wrong, on one process, and report where its numbers stop being finite."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from msanet.data.pipeline import Batch, network_input
from msanet.losses import SegmentationLoss
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.external.trust import require_trust
from msanet.models.io import apply_weights
from msanet.training.engine.device_settings import apply_device_settings, set_memory_format
from msanet.training.engine.freezing import freeze
from msanet.training.engine.loss_scaling import autocast
from msanet.training.forward import micro_batch_loss
from msanet.training.nonfinite.failure_dump import BATCH_TENSORS, FailureDump, Sample


@dataclass(frozen=True)
class Range:
    """The values of a tensor: how many, how many are not finite, and minimum, maximum and mean of the others."""

    values: int
    not_finite: int
    least: float | None
    most: float | None
    mean: float | None


@dataclass
class Trace:
    """Where values first were not finite.

    module: the first with such an output. given: the range of its first input. gradient: the first, in backward order.
    """

    module: str | None = None
    output: Range | None = None
    given: Range | None = None
    gradient: str | None = None


@dataclass(frozen=True)
class Replay:
    """One rank's share of a step, repeated.

    recorded, loss: its share of the loss, then and now; NaN where not finite. alone: the samples whose loss is not finite in a
    batch of one. remarks: why the result may differ from what was recorded.
    """

    rank: int
    recorded: float
    loss: float
    trace: Trace
    inputs: Range
    weights: dict[str, Range]
    alone: list[Sample]
    remarks: list[str]

    @property
    def is_reproduced(self) -> bool:
        return not math.isfinite(self.loss) or self.trace.gradient is not None


def replay(dump: FailureDump, rank: int, device: torch.device) -> Replay:
    """Forward and backward of the micro-batches of one rank with the weights, generators, precision and mode of the run.

    With synchronized BatchNorm the batches of all ranks are joined, since only then the statistics are the same.
    """
    return _Replayer(dump, rank, device).run()


class _Replayer:
    def __init__(self, dump: FailureDump, rank: int, device: torch.device) -> None:
        self.dump, self.rank, self.device = dump, rank, device
        apply_device_settings(dump.config)
        self.model = dump.metadata.build()
        apply_weights(self.model, dump.weights, "the failure dump")
        if dump.config.trainer.activation_checkpointing:
            checkpoint_activations(self.model)
        freeze(self.model, dump.config.model.freeze)
        self.model.to(device).train()
        set_memory_format(self.model, dump.config.trainer)
        for name in dump.config.loss.custom:
            require_trust(name, "the failure dump")
        self.loss = SegmentationLoss(dump.config.loss, dump.about.histogram).to(device)
        counts = (*dump.about.counts, dump.about.counts[0])[:3]  # dumps from before losses of your own have two
        self.counts_3 = torch.tensor(counts, dtype=torch.float64, device=device)
        together = list(zip(*(record.batches for record in dump.records.values()), strict=True))
        self.was_synchronized = dump.config.trainer.sync_batchnorm and len(dump.records) > 1
        sizes = [{batch.labels_NHW.shape[1:] for batch in batches} for batches in together]
        self.is_joined = self.was_synchronized and all(len(own) == 1 for own in sizes)
        batches = map(_join, together) if self.is_joined else dump.records[rank].batches
        self.batches = [batch.to(device) for batch in batches]

    def run(self) -> Replay:
        dump, trace, loss = self.dump, Trace(), 0.0
        weights = {name: measure(weight) for name, weight in self.model.named_parameters()}
        inputs = torch.cat([network_input(batch, dump.config.data).flatten() for batch in self.batches])
        with traced(self.model, trace):
            self._rewind()
            for batch in self.batches:
                term = self._loss_of(batch)
                term.backward()
                loss += term.item()
        recorded = [dump.about.losses[rank] for rank in (dump.records if self.is_joined else [self.rank])]
        return Replay(
            rank=self.rank,
            recorded=sum(math.nan if term is None else term for term in recorded),
            loss=loss,
            trace=trace,
            inputs=measure(inputs),
            weights=weights,
            alone=[] if math.isfinite(loss) else self._alone(),
            remarks=self._remarks(),
        )

    def _loss_of(self, batch: Batch) -> Tensor:
        data, extra_weights = self.dump.config.data, self.model.auxiliary_weights
        return micro_batch_loss(self._forward, extra_weights, self.loss, batch, self.counts_3, data)

    def _forward(self, image_NCHW: Tensor) -> Any:
        """As in the engine: autocast for the network, not for the loss."""
        with autocast(self.device, self.dump.config.trainer.precision):
            return self.model(image_NCHW)

    def _rewind(self) -> None:
        """Generators and running statistics as before the step."""
        rng = self.dump.records[self.rank].rng
        torch.set_rng_state(rng["cpu"])
        if self.device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], self.device)
        self.model.load_state_dict(self.dump.weights)

    @torch.no_grad()
    def _alone(self) -> list[Sample]:
        """The samples whose loss is not finite in a batch of one."""
        keys = {sample[:2]: sample[2] for rank in self.dump.records for sample in self.dump.samples(rank)}
        found = []
        for single in (single for batch in self.batches for single in _singles(batch)):
            self._rewind()
            if not math.isfinite(self._loss_alone(single)):
                place = (int(single.epochs_N), int(single.samples_N))
                found.append((*place, keys[place]))
        return found

    def _loss_alone(self, single: Batch) -> float:
        try:
            return self._loss_of(single).item()
        except ValueError:  # BatchNorm has one value a channel, in a branch that pools the whole image
            self.model.eval()
            try:
                return self._loss_of(single).item()
            finally:
                self.model.train()

    def _remarks(self) -> list[str]:
        was_on_gpu, remarks = "cuda" in self.dump.records[self.rank].rng, []
        if was_on_gpu != (self.device.type == "cuda"):
            device = "GPUs" if was_on_gpu else "CPUs"
            remarks.append(f"the run was on {device}, this is not: numbers differ by rounding")
        if self.dump.config.trainer.precision == "fp16":
            remarks.append("the run scaled its loss, this does not: gradients that only overflowed are finite")
        if self.dump.config.trainer.compile:
            remarks.append("the run's blocks were compiled, these are not: numbers differ by rounding")
        if self.is_joined:
            remarks.append("BatchNorm was synchronized: the ranks' batches are joined, with one rank's dropout")
        elif self.was_synchronized:
            remarks.append(
                "BatchNorm was synchronized, and images of the ranks differ in size: this rank's batches are done alone, "
                "with other BatchNorm statistics"
            )
        return remarks


@contextmanager
def traced(model: nn.Module, trace: Trace) -> Iterator[None]:
    """Fill in `trace` while the model runs forward and backward inside."""

    def note_gradient(name: str, gradient: Tensor) -> None:
        if trace.gradient is None and not gradient.isfinite().all():
            trace.gradient = name

    def note_output(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for tensor in _tensors(output):
            if trace.module is None and not tensor.isfinite().all():
                trace.module, trace.output = f"{name} ({type(module).__name__})", measure(tensor)
                trace.given = next((measure(given) for given in _tensors(inputs)), None)
            if tensor.requires_grad:
                tensor.register_hook(partial(note_gradient, f"of the output of {name}"))

    hooks = [
        module.register_forward_hook(partial(note_output, name or "the network"))
        for name, module in model.named_modules()
    ]
    hooks += [
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: note_gradient(f"of {name}", p.grad))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(tensor: Tensor) -> Range:
    """The range of a tensor's finite values."""
    values = tensor.detach().float()
    finite = values[values.isfinite()]
    if not finite.numel():
        return Range(values.numel(), values.numel(), None, None, None)
    least, most, mean = finite.min().item(), finite.max().item(), finite.double().mean().item()
    return Range(values.numel(), values.numel() - finite.numel(), least, most, mean)


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors in the inputs or outputs of a module."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _join(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*map(_fields, batches), strict=True)))  # type: ignore[arg-type]


def _singles(batch: Batch) -> list[Batch]:
    """Each of its samples as a batch."""
    return [Batch(*parts) for parts in zip(*(field.split(1) for field in _fields(batch)), strict=True)]


def _fields(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(getattr(batch, name) for name in BATCH_TENSORS)
