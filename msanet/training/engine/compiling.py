"""torch.compile of a network's blocks, one region each: `trainer.compile`."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from msanet.errors import UserError
from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.msam import MSAM

_MOST_FORMS = 512
"""Compiled forms that blocks with the same code may have: torch counts those of all blocks together, and stops at 8."""


def require_compiler(device: torch.device) -> None:
    """Raise UserError where nothing compiles: inductor's C++ for CPUs, Triton's stub in C for GPUs."""
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    named = os.environ.get(variable)
    if not any(map(shutil.which, named.split()[:1] if named else usual)):
        raise UserError(
            "MSA-TRAIN-007",
            f"trainer.compile=true needs a compiler, and {named or ' or '.join(usual)} was not found; install one (apt install "
            f"g++), name it in {variable}, or remove trainer.compile",
            setting="trainer.compile",
        )


def compile_blocks(model: nn.Module, fixed_size: bool, backend: Any = "inductor") -> None:
    """From now on each block that a `Checkpointable` runs in training is compiled when it first runs.

    In evaluation blocks run as they are, so that images of many sizes compile nothing. Names of weights stay.
    Each becomes one graph, or it is an error. Attention modules are left alone: they choose their kernel when they run.
    fixed_size: all images of the run have one size, for which kernels are made; else they are made for any, when a second
    one comes.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_FORMS)
    regions = _Regions(fullgraph=True, dynamic=False if fixed_size else None, backend=backend)
    for module in model.modules():
        if isinstance(module, Checkpointable):
            module.compiler = regions


class _Regions:
    def __init__(self, **options: Any) -> None:
        self._options = options
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}

    def __call__(self, block: nn.Module) -> Callable[..., Any]:
        if isinstance(block, MSAM):
            return block
        if block not in self._compiled:
            self._compiled[block] = torch.compile(block, **self._options)
        return self._compiled[block]
