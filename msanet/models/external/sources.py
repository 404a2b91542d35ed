"""What stands behind a name such as `smp:Unet` or `my_package.networks:MyNet`: a factory, and its options with types."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from torch import nn

from msanet.errors import UserError
from msanet.models.external.published import Published
from msanet.models.external.trust import LIBRARIES
from msanet.plugins import PluginError, PluginNotFound, load_plugin

Options = dict[str, tuple[Any, Any]]
"""{option: (type, default)}; `Any` and `inspect.Parameter.empty` where there is none."""
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation, RGB in gray values from 0 to 255."""

CHANNELS = ("in_channels", "in_chans", "num_channels")
"""What libraries call the number of an image's channels; for us it is the first."""
ENTRY_POINTS = "msanet.models"
"""Entry-point group by which an installed package adds networks under names of their own."""


@dataclass(frozen=True)
class NetworkSource:
    """A factory of networks.

    Args:
        name: As in `model.name`.
        build: (num_classes, **options) -> a module that takes (N, C, H, W) images.
        options: What `build` takes besides num_classes.
        accepts_others: `build` takes further options, which it checks itself.
        normalization: Of the images that its pretrained weights expect, by the options; None where nothing is known.
        channels: The option that is the number of its images' channels; empty if that is always 3.
        published: Weights that its library publishes for it, by the options: {tag: where they are}.
    """

    name: str
    build: Callable[..., nn.Module]
    options: Options = field(default_factory=dict)
    accepts_others: bool = False
    normalization: Callable[[dict[str, Any]], Normalization | None] = lambda options: None
    channels: str = ""
    published: Callable[[dict[str, Any]], dict[str, Published]] = lambda options: {}


def is_external(name: str) -> bool:
    """Whether the name is of a network outside this package."""
    return ":" in name or name in _entry_points()


@cache
def find_source(name: str) -> NetworkSource:
    """The factory of that name.

    Raises:
        UserError: The library is not installed, or there is no factory of that name.
    """
    if ":" not in name:
        return _of_factory(name, _entry_points()[name].load())
    prefix, _, rest = name.partition(":")
    if prefix in LIBRARIES:
        from msanet.models.external import libraries

        return libraries.SOURCES[prefix](name, rest)
    return _of_factory(name, _load(name))


def network_names() -> list[str]:
    """Names of networks that installed packages add."""
    return sorted(_entry_points())


def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load(name: str) -> Callable[..., nn.Module]:
    try:
        return load_plugin(name)
    except PluginNotFound as error:
        raise UserError("MSA-MODEL-502", f"model.name is '{name}', {error}", setting="model.name") from None
    except PluginError as error:
        raise UserError("MSA-MODEL-503", f"model.name is '{name}', {error}", setting="model.name") from error


def _of_factory(name: str, factory: Callable[..., nn.Module]) -> NetworkSource:
    options, accepts_others = signature_options(factory)
    if "num_classes" not in options and not accepts_others:
        message = (
            f"model.name is '{name}', which takes ({', '.join(options)}), expected an argument num_classes; add it"
        )
        raise UserError("MSA-MODEL-504", message, setting="model.name")
    options.pop("num_classes", None)
    channels = next((key for key in CHANNELS if key in options), "")
    return NetworkSource(name, factory, options, accepts_others, channels=channels)


def signature_options(factory: Callable[..., Any]) -> tuple[Options, bool]:
    """{argument: (type, default)} of a callable, and whether it takes any other keyword."""
    parameters = inspect.signature(factory).parameters.values()
    try:
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:  # a hint that cannot be evaluated: no type is known
        hints = {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    options = {p.name: (hints.get(p.name, Any), p.default) for p in parameters if p.kind in kinds}
    return options, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
