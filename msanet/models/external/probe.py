"""What a network does to images, found by running it: sizes it takes, resolution of its logits, where its classifier is."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.plugins import first_line

_MULTIPLES = {
    1: (97, 131),
    2: (66, 70),
    4: (68, 76),
    8: (72, 88),
    14: (70, 98),
    16: (80, 112),
    28: (84, 140),
    32: (96, 160),
    64: (192, 320),
}
"""Of which an image's height and width may have to be -> a small size that is a multiple of it and of no greater one here."""
_LARGER = 5
"""Times these sizes for networks that take no small images; odd, so that they are multiples of no greater one either."""
_SQUARES = (224, 256, 384, 512, 518)
"""Sides of the images that networks for a single size are usually made for."""


@dataclass(frozen=True)
class Layout:
    """How a network maps images to logits.

    Args:
        num_classes: Channels of its logits.
        in_channels: Of its images.
        multiple: Height and width of its images have to be multiples of it.
        stride: Pixels per cell of its logits; 1 as well where that is no whole number, and logits are resized.
        size: (height, width) of an image on which it was run.
        least: Height and width of the smallest image that it takes; smaller ones are padded.
        fixed: It takes images of `size` only.
        auxiliary: Number of auxiliary outputs in training.
    """

    num_classes: int
    in_channels: int
    multiple: int
    stride: int
    size: tuple[int, int]
    fixed: bool
    auxiliary: int
    least: int = 1


def find_layout(name: str, network: nn.Module, num_classes: int, in_channels: int = 3) -> Layout:
    """Run the network on images of a few sizes. Raises UserError if it takes none, or its output does not fit."""
    network.eval()
    failure = ""
    for multiple, size in _sizes():
        try:
            logits, _ = _run(network, in_channels, size, num_classes)
        except _OutputError as error:
            raise UserError(
                "MSA-MODEL-513", f"model.name is '{name}', {error}; fix that code", setting="model.name"
            ) from None
        except Exception as error:  # sizes that it does not take
            failure = f"{type(error).__name__}: {first_line(error)}"
            continue
        fixed = multiple == max(size)
        strides = _strides(size, logits)
        if not strides and not fixed:
            failure = f"its logits are {_shape(logits)} for an image of {size[0]}x{size[1]}"
            continue
        stride = 1
        for candidate in () if fixed else strides:  # at a size with whole cells only one of them is right
            both = math.lcm(multiple, candidate)
            factor = -(-64 // (3 * both))
            whole = (3 * both * factor, 5 * both * factor)
            logits, _ = _run(network, in_channels, whole, num_classes)
            if tuple(candidate * n for n in logits.shape[2:]) == whole:
                multiple, size, stride = both, whole, candidate
                break
        auxiliary = _auxiliary(network, in_channels, size, num_classes)
        least = 1 if fixed else _least(network, in_channels, multiple, num_classes)
        return Layout(num_classes, in_channels, multiple, stride, size, fixed, auxiliary, least)
    raise UserError(
        "MSA-MODEL-508",
        f"model.name is '{name}', which takes none of the images tried, from 66x70 to 960x1600 with {in_channels} channels "
        f"(last: {failure}); fix that code or change its options",
        setting="model.name",
    )


def logits_of(output: Any, num_classes: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits (N, num_classes, h, w) and auxiliary ones in what a network returned.

    A tensor; a mapping with `out` or `logits`, or an object with `.logits`; or a sequence that begins with logits. Raises
    ValueError if there are none.
    """
    if isinstance(output, Tensor):
        candidates: list[Any] = [output]
    elif isinstance(output, Mapping):
        first = next((key for key in ("logits", "out") if key in output), None)
        candidates = ([output[first]] if first else []) + [value for key, value in output.items() if key != first]
    elif hasattr(output, "logits"):
        candidates = [output.logits]
    elif isinstance(output, list | tuple):
        candidates = list(output)
    else:
        raise _OutputError(f"which returned a {type(output).__name__}, expected logits (N, {num_classes}, H, W)")
    maps = [x for x in candidates if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == num_classes]
    if not maps or maps[0] is not candidates[0]:
        found = ", ".join(_shape(x) if isinstance(x, Tensor) else type(x).__name__ for x in candidates[:4]) or "nothing"
        raise _OutputError(f"which returned {found}, expected logits (N, {num_classes}, H, W), {num_classes} classes")
    return maps[0], tuple(maps[1:])


def classifiers(network: nn.Module, layout: Layout, other: Callable[[], nn.Module]) -> tuple[str, ...]:
    """Names of the modules that depend on the number of classes, in the order in which they run, that of the logits last.

    Args:
        network: In any mode.
        layout: Of the network.
        other: Builds it for one more class; asked if several modules have num_classes outputs, as where a hidden layer has too.
    """
    sized = {
        name: module
        for name, module in network.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) > 1 and layout.num_classes in _outputs(module)
    }
    if len(sized) > 1 + layout.auxiliary or (sized and not layout.auxiliary and len(sized) > 1):
        larger = dict(other().named_modules())
        sized = {n: m for n, m in sized.items() if n in larger and larger[n].weight.shape != m.weight.shape}
    order: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, name=n: order.append(name)) for n, m in sized.items()]
    network.eval()
    try:
        _run(network, layout.in_channels, layout.size, layout.num_classes)
    finally:
        for hook in hooks:
            hook.remove()
    unused = [name for name in sized if name not in order]
    return (*unused, *dict.fromkeys(order))


class _OutputError(ValueError):
    """An output that holds no logits of the right number of classes."""


def _sizes() -> Iterator[tuple[int, tuple[int, int]]]:
    yield from _MULTIPLES.items()
    yield from ((m, (_LARGER * h, _LARGER * w)) for m, (h, w) in _MULTIPLES.items())
    yield from ((side, (side, side)) for side in _SQUARES)


def _run(
    network: nn.Module, in_channels: int, size: tuple[int, int], num_classes: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.no_grad():
        return logits_of(network(torch.rand(2, in_channels, *size)), num_classes)


def _least(network: nn.Module, in_channels: int, multiple: int, num_classes: int) -> int:
    """The smallest multiple, of a few, for which the network runs: poolings leave nothing of less, or of a single cell."""
    for side in (1, 32, 64, 128, 192):
        least = -(-side // multiple) * multiple
        try:
            _run(network, in_channels, (least, least), num_classes)
        except Exception:
            continue
        return least
    return 256  # not square, it has taken some of 192 x 320


def _auxiliary(network: nn.Module, in_channels: int, size: tuple[int, int], num_classes: int) -> int:
    network.train()
    try:
        return len(_run(network, in_channels, size, num_classes)[1])
    except Exception:  # the contract's check will say what is wrong in training
        return 0


def _strides(size: tuple[int, int], logits: Tensor) -> list[int]:
    """Pixels per cell, rounded up at the border, that would give logits of this size."""
    usual = sorted(_MULTIPLES, key=lambda s: s in (14, 28))  # those of patches are the exception
    return [s for s in usual if tuple(-(-n // s) for n in size) == tuple(logits.shape[2:])]


def _outputs(module: nn.Module) -> tuple[int, ...]:
    return getattr(module, "out_channels", None), getattr(module, "out_features", None)  # type: ignore[return-value]


def _shape(x: Tensor) -> str:
    return "(" + ", ".join(map(str, x.shape)) + ")"
