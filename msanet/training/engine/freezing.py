"""`model.freeze`: parameters that are not trained, and the BatchNorm among them, which keeps its running statistics."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import cache

from torch import nn

from msanet.errors import UserError, nearest

_WRAPPER = "network."
"""Where an adapter, or Attention to Scale, keeps the network that it wraps: users know the names without it."""


class FrozenStatistics:
    """Mixed into the class of a frozen BatchNorm: it always normalizes by its running statistics and never changes them."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)  # type: ignore[misc]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze what the patterns match. Doing so again changes nothing.

    A BatchNorm is frozen if a pattern matches it or a module that it is in, or if all of its parameters are.

    Args:
        model: Its parameters' names are without a wrapper's `network.` too.
        patterns: As of `fnmatch`, for names of parameters and modules; `*` also matches dots.

    Raises:
        UserError: A pattern matches nothing, or nothing remains to be trained.
    """
    frozen = set().union(*(matching_parameters(model, pattern, "model.freeze") for pattern in patterns))
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        own = [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]
        is_frozen = any(_matches(name, pattern) for pattern in patterns) or (own and frozen.issuperset(own))
        if is_frozen and isinstance(module, nn.modules.batchnorm._BatchNorm):
            if not isinstance(module, FrozenStatistics):
                module.__class__ = _frozen_class(type(module))  # type: ignore[arg-type, assignment]
            module.eval()
    if patterns and not any(parameter.requires_grad for parameter in model.parameters()):
        found = f"model.freeze={list(patterns)} freezes all parameters, so that nothing is trained"
        raise UserError("MSA-TRAIN-652", f"{found}; freeze fewer, such as backbone.*", setting="model.freeze")


def matching_parameters(model: nn.Module, pattern: str, setting: str) -> set[str]:
    """Names of the parameters that a pattern matches, or of which it matches a module that they are in.

    Raises:
        UserError: There is none.
    """
    names = [name for name, _ in model.named_parameters()]
    found = {name for name in names if _matches(name, pattern)}
    if not found:
        known = sorted({prefix.removeprefix(_WRAPPER) for name in names for prefix in _prefixes(name)} - {"network"})
        message = f"{setting} has '{pattern}', which matches no parameter or module of the network"
        raise UserError("MSA-TRAIN-651", f"{message}; {_near(pattern, known)}", setting=setting)
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern matches the name, or that of a module which it is in."""
    compiled = _compiled(pattern)
    return any(compiled.match(prefix) or compiled.match(prefix.removeprefix(_WRAPPER)) for prefix in _prefixes(name))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _prefixes(name: str) -> Iterable[str]:
    """`a.b.c` -> a, a.b, a.b.c"""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _near(pattern: str, known: list[str]) -> str:
    """The names that are near, else the outermost modules."""
    fixed = re.sub(r"[*?\[].*", "", pattern).rstrip(".") or pattern.strip("*?.")
    advice = nearest(fixed, known)
    outermost = [name for name in known if "." not in name]
    return advice if advice.startswith("did") else nearest(fixed, outermost)


@cache
def _frozen_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (FrozenStatistics, kind), {})
