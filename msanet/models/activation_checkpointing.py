"""Activation checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost") that is exact.

torch runs a block's forward a second time, in which BatchNorm would update its running statistics again; here it does not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointable(nn.Module):
    """A module that runs its large blocks by `run`.

    checkpointing: keep a block's inputs only, see `checkpoint_activations`. compiler: returns what runs instead of a block,
    such as its compiled form; set by the trainer. Neither has an effect in evaluation.
    """

    checkpointing = False
    compiler: Callable[[nn.Module], Callable[..., Any]] | None = None
    is_one_graph = True
    """Whether blocks can be compiled as a whole; otherwise only parts of them are."""

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        """`block(*inputs)`; the same numbers, gradients and running statistics with checkpointing as without."""
        forward = self.compiler(block) if self.compiler and self.training else block
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return forward(*inputs)
        return recomputed(block, forward, *inputs)

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing."""
        self.checkpointing = True


def checkpoint_activations(model: nn.Module) -> None:
    """Turn on activation checkpointing in every `Checkpointable` of the model."""
    for module in model.modules():
        if isinstance(module, Checkpointable):
            module.checkpoint_activations()


def recomputed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """`forward(*inputs, **options)`, which runs `block`, and runs it again in the backward pass."""
    contexts = lambda: (nullcontext(), frozen_running_statistics(block))  # noqa: E731
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def frozen_running_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm inside `block` normalizes as in training, and updates copies of its running statistics."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
