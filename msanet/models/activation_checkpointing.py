"""Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost") that is exact.

torch's own recomputation runs a block's forward a second time, so that BatchNorm's running statistics would take each batch
twice. Here the second run has the statistics of its batch, as the first, and leaves the running ones alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointable(nn.Module):
    """A module that runs its large blocks by `run`.

    recompute: keep a block's inputs only, and compute its activations again in the backward pass; set by
    `checkpoint_activations`. compiler: gives what runs in a block's place, such as its compiled form; set by the trainer.
    Neither has an effect in evaluation.
    """

    recompute = False
    compiler: Callable[[nn.Module], Callable[..., Any]] | None = None

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """`block(*inputs)`; the same numbers, gradients and running statistics with recomputation as without."""
        forward = self.compiler(block) if self.compiler and self.training else block
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return forward(*inputs)
        contexts = lambda: (nullcontext(), running_statistics_kept(block))  # noqa: E731
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def checkpoint_activations(model: nn.Module) -> None:
    """From now on every `Checkpointable` in the model trades time for memory."""
    for module in model.modules():
        if isinstance(module, Checkpointable):
            module.recompute = True


@contextmanager
def running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm inside `block` normalizes as in training, and what it updates are copies that are thrown away."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
