"""torch.compile of a network's blocks, one region each: `trainer.compile`."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from msanet.errors import UserError
from msanet.models.activation_checkpointing import Checkpointable
from msanet.models.msam import MSAM

_RECOMPILE_LIMIT = 512
"""torch counts the compilations of all blocks with the same code together, and stops at 8 by default."""


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
    """From now on each block that a `Checkpointable` runs in training is compiled, as one graph, when it first runs;
    a network from elsewhere in as many graphs as it takes.

    Evaluation compiles nothing, since its images have many sizes. Attention modules, which choose their kernel when they run,
    are left alone. fixed_size: all training images have one size, so that kernels need not be for any.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)

    @cache
    def compiled(block: nn.Module, fullgraph: bool) -> Callable[..., Any]:
        dynamic = False if fixed_size else None
        return torch.compile(block, fullgraph=fullgraph, dynamic=dynamic, backend=backend)

    for module in model.modules():
        if isinstance(module, Checkpointable):
            whole = module.is_one_graph
            module.compiler = lambda block, whole=whole: block if isinstance(block, MSAM) else compiled(block, whole)
