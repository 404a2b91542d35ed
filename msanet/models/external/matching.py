"""Weights of a file for a network from elsewhere: which of the file's tensors is which of the network's."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from msanet.models.external.mmsegmentation import from_mmsegmentation

_ENOUGH = 0.8
"""Share of the tensors of a part of the network that must be in the file for the file to be of that part."""
_COUNTER = "num_batches_tracked"
_FEWEST_IN_ORDER = 20


@dataclass(frozen=True)
class Match:
    """weights: the file's tensors under the network's names. unused: the file's other names. how: in words, for the report."""

    weights: dict[str, Tensor]
    unused: tuple[str, ...]
    how: str


def match_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> Match | None:
    """The part of the network that the file's tensors are for; None if there is none.

    By name, when what comes before the names differs (`backbone.`, `encoder.`, `model.`, ...): the part with most tensors of the
    same name and shape. Otherwise, or where that leaves some of the part and this does not, by order: a part whose tensors, all
    of them, have in the same order the same kinds and shapes as the file's first, as after a port that renamed layers.
    """
    known = [_match_names(network, names) for names in from_mmsegmentation(weights)]
    best = max((match for match in known if match), key=lambda match: len(match.weights), default=None)
    return replace(best, how=f"{best.how}, from mmsegmentation") if best else _match_names(network, weights)


def _match_names(network: nn.Module, weights: Mapping[str, Tensor]) -> Match | None:
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = [_named(own, weights, part, before) for before in _prefixes(weights) for part in _parts(network)]
    best = max(found, key=_size, default={})
    part = _common_part(list(best)) if best else ""
    needed = _size([name for name in own if name.startswith(part)])
    is_enough = best and _size(best) >= _ENOUGH * needed
    in_order = {} if is_enough and _size(best) == needed else _best_ordered(network, own, weights)
    if is_enough and _size(in_order) <= _size(best):
        return _match(best, weights, f"weights of {part.rstrip('.') or 'all of it'}")
    if len(in_order) < _FEWEST_IN_ORDER:
        return None
    part = _common_part(list(in_order))
    return _match(
        in_order,
        weights,
        f"weights of {part.rstrip('.') or 'all of it'}, by the order of layers, which have other names",
    )


def _size(names: Collection[str]) -> int:
    return sum(not name.endswith(_COUNTER) for name in names)


def _best_ordered(
    network: nn.Module, own: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]
) -> dict[str, str]:
    return max((_ordered(own, weights, part) for part in _parts(network)), key=len, default={})


def _match(pairs: dict[str, str], weights: Mapping[str, Tensor], how: str) -> Match:
    """pairs: {name in the network: name in the file}."""
    taken = set(pairs.values())
    unused = tuple(name for name in weights if name not in taken)
    return Match({own: weights[name] for own, name in pairs.items()}, unused, how)


def _named(own: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor], part: str, before: str) -> dict[str, str]:
    pairs = {part + name.removeprefix(before): name for name in weights if name.startswith(before)}
    return {target: name for target, name in pairs.items() if own.get(target) == weights[name].shape}


def _ordered(own: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor], part: str) -> dict[str, str]:
    """Empty unless all tensors of the part, at least but for counters of batches, have a counterpart."""
    for skipped in ("-", _COUNTER):
        targets = [name for name in own if name.startswith(part) and not name.endswith(skipped)]
        names = [name for name in weights if not name.endswith(skipped)]
        pairs = dict(zip(targets, names, strict=False))
        if len(targets) <= len(names) and all(
            own[target] == weights[name].shape and target.split(".")[-1] == name.split(".")[-1]
            for target, name in pairs.items()
        ):
            return pairs
    return {}


def _prefixes(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """What can be taken from the front of the file's names: prefixes that at least half of them have."""
    counts: dict[str, int] = {"": len(weights)}
    for name in weights:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 5)):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return (prefix for prefix, count in counts.items() if 2 * count >= len(weights))


def _parts(network: nn.Module) -> list[str]:
    """Prefixes of the parts of the network, down to five levels, larger parts first."""
    return [f"{name}." if name else "" for name, _ in network.named_modules() if name.count(".") < 5]


def _common_part(names: list[str]) -> str:
    """The longest common prefix of whole components, with the dot."""
    first, last = min(names).split("."), max(names).split(".")
    count = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return "".join(f"{part}." for part in first[:count])
