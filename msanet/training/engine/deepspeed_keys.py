"""Names in the section `deepspeed`: DeepSpeed itself ignores those on its top level that it does not know."""

import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from msanet.config.expected import expected
from msanet.errors import UserError, nearest

_WITHOUT_CONSTANT = (
    "amp", "comet", "compile", "compression_training", "csv_monitor", "eigenvalue", "elasticity", "expert_parallel",
    "graph_harvesting", "hybrid_engine", "inference", "nebula", "pipeline", "progressive_layer_drop", "sequence_parallel_size",
    "sparse_attention", "sparse_gradients", "tensor_parallel", "tensorboard", "wandb", "weight_quantization",
)  # fmt: skip
"""Sections that DeepSpeed reads by their name itself."""
_LOOSE_SECTIONS = ("checkpoint", "data_types", "timers")
"""Sections that DeepSpeed reads as a plain mapping; most of the others refuse names that they do not know."""


def require_known_keys(own: Mapping[str, Any]) -> None:
    """Raise UserError for a name of the section `deepspeed` that DeepSpeed would ignore. DeepSpeed must be imported."""
    for name, value in own.items():
        _require_known(name, name)
        if name in _LOOSE_SECTIONS and isinstance(value, Mapping):
            for inner in value:
                _require_known(inner, f"{name}.{inner}")


def first_fault(error: ValidationError) -> str:
    """The first fault that DeepSpeed's own check has found, in a few words."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "a section"
    if first["type"] == "extra_forbidden":
        return f"unknown name '{place}'"
    return f"{place} is {str(first['input'])[:50]}, {expected(first['type'], first.get('ctx', {}), first['msg'], '', False)}"


def _require_known(name: str, dotted: str) -> None:
    if name not in _known():
        close = nearest(name, sorted(_known()))
        advice = close if close.startswith("did you mean") else "see DeepSpeed's documentation for its names"
        message = f"deepspeed.{dotted} is not a setting of DeepSpeed, which would ignore it; {advice}"
        raise UserError("MSA-TRAIN-403", message, setting=f"deepspeed.{dotted}")


@cache
def _known() -> frozenset[str]:
    """All words that are constants of DeepSpeed's modules on settings: more than are names, but no typos."""
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("deepspeed.") and name.endswith(("constants", "config")) and module is not None
    ]
    found = {
        value for module in modules for key, value in vars(module).items() if key.isupper() and isinstance(value, str)
    }
    return frozenset(word for word in found if re.fullmatch(r"[a-z][a-z0-9_]*", word)) | {*_WITHOUT_CONSTANT}
