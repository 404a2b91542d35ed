"""A step whose loss or gradients are not finite changes nothing: decided on the device, which never waits for its host."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msanet import distributed
from msanet.training.engine import zero_state


class NonFiniteGuard:
    """Skips, on all ranks alike, a step in which any rank's loss or reduced gradients are not finite.

    Weights, the optimizer's state and step counters, and buffers (BatchNorm's running statistics) stay bit for bit as they
    were; `skipped` tells the moving average to do the same. In order: `begin`, then `add` each micro-batch's loss, `decide`
    after the last backward and before the engine's step, `end` after it.

    After more than `max_nonfinite_steps` skipped steps in a row every step is skipped. The host learns of each step when the
    next is
    under way, and so still finds what the last one began with.
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
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Keep what the forward changes. Flat, for then a GPU has a handful of kernels to run and not hundreds."""
        self._loss.zero_()
        self._kept = [_flat(buffers) for buffers in self._buffers]

    def add(self, loss: Tensor) -> None:
        """Take in the loss of a micro-batch, a scalar."""
        self._loss += loss.detach()

    @torch.no_grad()
    def decide(self) -> None:
        """Decide, and tell the optimizer. A collective: one small all-reduce."""
        norm = torch.nn.utils.get_total_norm(zero_state.local_gradients(self._engine))
        figures = torch.zeros(1 + len(self._losses), dtype=torch.float64, device=self._loss.device)
        figures[0] = ~norm.isfinite()
        figures[1 + distributed.rank()] = self._loss
        distributed.all_reduce_sum(figures)
        self._losses = figures[1:]
        is_bad = (figures[0] > 0) | ~self._losses.isfinite().all() | (self._in_a_row > self._max_skipped)
        self.skipped = is_bad.float()
        zero_state.skip_next_step(self._engine, self.skipped)

    @torch.no_grad()
    def end(self) -> "PendingStepStats":
        """Undo what the forward changed where the step was skipped, and send the host a `StepStats` of the step."""
        if zero_state.has_refused_step(self._engine):  # the norm over all ranks can be infinite where each one's is not
            self.skipped = torch.ones_like(self.skipped)
        self._in_a_row = (self._in_a_row + 1) * self.skipped
        for buffers, kept in zip(self._buffers, self._kept, strict=True):
            right = torch.where(self.skipped > 0, kept, _flat(buffers)).split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(right, buffers, strict=True)])
        return PendingStepStats(torch.cat([self.skipped.double().view(1), self._losses]))


@dataclass(frozen=True)
class StepStats:
    """Of one step, the same on all ranks. losses: each rank's share of the loss, a sum over its micro-batches.

    Where several ranks take the same images, each has that share.
    """

    skipped: bool
    losses: tuple[float, ...]


class PendingStepStats:
    """What a step came to, on its way to the host."""

    def __init__(self, figures: Tensor) -> None:
        self._host = torch.empty_like(figures, device="cpu", pin_memory=figures.is_cuda)
        self._host.copy_(figures, non_blocking=True)
        self._arrived = torch.cuda.Event() if figures.is_cuda else None
        if self._arrived:
            self._arrived.record()

    def read(self) -> StepStats:
        """Waits until it is there, which is when the device has done the step."""
        if self._arrived:
            self._arrived.synchronize()
        skipped, *losses = self._host.tolist()
        return StepStats(bool(skipped), tuple(losses))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
