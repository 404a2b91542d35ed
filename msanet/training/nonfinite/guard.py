"""A step whose loss or gradients are not finite changes nothing: see docs/decisions/0016."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from msanet import distributed
from msanet.training.engine import zero_state


@dataclass(frozen=True)
class StepStats:
    """Of one step, the same on all ranks. losses: each rank's share of the loss; ranks with the same images have the same."""

    skipped: bool
    losses: tuple[float, ...]


class PendingStepStats:
    """Statistics of a step on their way from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        self._host = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
        self._host.copy_(values, non_blocking=True)
        self._copied = torch.cuda.Event() if values.is_cuda else None
        if self._copied:
            self._copied.record()

    def read(self) -> StepStats:
        """Wait until the device has done the step."""
        if self._copied:
            self._copied.synchronize()
        skipped, *losses = self._host.tolist()
        return StepStats(bool(skipped), tuple(losses))


class NonFiniteGuard:
    """Skips, on all ranks alike, a step in which any rank's loss or reduced gradients are not finite.

    In order: `begin`, `add` each micro-batch's loss, `decide` between the last backward and the engine's step, `end` after it.
    After more than `max_nonfinite_steps` skipped steps in a row every step is skipped, so that the host, which learns of a step
    when the next one has begun, still finds the weights from before the last one.
    """

    def __init__(self, engine: Any, max_nonfinite_steps: int) -> None:
        self._engine, self._max_skipped = engine, max_nonfinite_steps
        self._loss = torch.zeros((), dtype=torch.float64, device=engine.device)
        self._losses = torch.zeros(distributed.world_size(), dtype=torch.float64, device=engine.device)
        self.skipped = torch.zeros((), device=engine.device)
        """Whether this step is skipped, 1 or 0, the same on all ranks."""
        self._in_a_row = torch.zeros_like(self.skipped)
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in engine.module.buffers():
            by_dtype[buffer.dtype].append(buffer)
        self._buffers = list(by_dtype.values())
        self._before: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the buffers, which the forward pass changes; flat, which takes a handful of kernels instead of hundreds."""
        self._loss.zero_()
        self._before = [_flatten_dense_tensors(buffers) for buffers in self._buffers]

    def add(self, loss: Tensor) -> None:
        """Add the loss of a micro-batch, a scalar."""
        self._loss += loss.detach()

    @torch.no_grad()
    def decide(self) -> None:
        """Decide, and tell the optimizer. A collective: one small all-reduce."""
        norm = torch.nn.utils.get_total_norm(zero_state.local_gradients(self._engine))
        stats = torch.zeros(1 + len(self._losses), dtype=torch.float64, device=self._loss.device)
        stats[0] = ~norm.isfinite()
        stats[1 + distributed.rank()] = self._loss
        distributed.all_reduce_sum(stats)
        self._losses = stats[1:]
        is_bad = (stats[0] > 0) | ~self._losses.isfinite().all() | (self._in_a_row > self._max_skipped)
        self.skipped = is_bad.float()
        zero_state.skip_next_step(self._engine, self.skipped)

    @torch.no_grad()
    def end(self) -> PendingStepStats:
        """Restore the buffers if the step was skipped, and send its statistics to the host."""
        if zero_state.has_refused_step(self._engine):  # the norm over all ranks can be infinite where each one's is not
            self.skipped = torch.ones_like(self.skipped)
        self._in_a_row = (self._in_a_row + 1) * self.skipped
        for buffers, before in zip(self._buffers, self._before, strict=True):
            flat = torch.where(self.skipped > 0, before, _flatten_dense_tensors(buffers))
            torch._foreach_copy_(buffers, _unflatten_dense_tensors(flat, buffers))
        return PendingStepStats(torch.cat([self.skipped.double().view(1), self._losses]))
