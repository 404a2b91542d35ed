"""What stands behind a name such as `smp:Unet` or `my_package.networks:MyNet`: a factory, and its options with types."""

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from torch import nn

from msanet.errors import UserError, nearest
from msanet.models.external.trust import LIBRARIES

Options = dict[str, tuple[Any, Any]]
"""{option: (type, default)}; `Any` and `inspect.Parameter.empty` where there is none."""
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation, RGB in gray values from 0 to 255."""

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
    """

    name: str
    build: Callable[..., nn.Module]
    options: Options = field(default_factory=dict)
    accepts_others: bool = False
    normalization: Callable[[dict[str, Any]], Normalization | None] = lambda options: None


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
    module, _, attribute = name.rpartition(":")
    return _of_factory(name, _attribute(name, _load_module(name, module), attribute))


def network_names() -> list[str]:
    """Names of networks that installed packages add."""
    return sorted(_entry_points())


def _entry_points() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load_module(name: str, module: str) -> ModuleType:
    try:
        if module.endswith(".py"):
            return _load_file(name, Path(module))
        return importlib.import_module(module)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            message = f"model.name is '{name}', and there is no module '{error.name}'; install it, or give path/to/file.py:NAME"
            raise UserError("MSA-MODEL-502", message, setting="model.name") from None
        raise _import_failed(name, error) from error
    except Exception as error:  # whatever a user's module does
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: Exception) -> UserError:
    message = (
        f"model.name is '{name}', whose import raised {type(error).__name__}: {first_line(error)}; fix that module"
    )
    return UserError("MSA-MODEL-503", message, setting="model.name")


def _load_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        message = f"model.name is '{name}', and the file '{path}' does not exist; check the path"
        raise UserError("MSA-MODEL-502", message, setting="model.name")
    full = f"msanet_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode())}"
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module  # dataclasses and pickle look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module


def _attribute(name: str, module: ModuleType, attribute: str) -> Callable[..., nn.Module]:
    found = getattr(module, attribute, None)
    if not callable(found):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        what = "is not callable" if found is not None else "does not exist"
        message = f"model.name is '{name}', and '{attribute}' {what} in {module.__name__}; {nearest(attribute, known)}"
        raise UserError("MSA-MODEL-502", message, setting="model.name")
    return found


def _of_factory(name: str, factory: Callable[..., nn.Module]) -> NetworkSource:
    options, accepts_others = signature_options(factory)
    if "num_classes" not in options and not accepts_others:
        message = (
            f"model.name is '{name}', which takes ({', '.join(options)}), expected an argument num_classes; add it"
        )
        raise UserError("MSA-MODEL-504", message, setting="model.name")
    options.pop("num_classes", None)
    return NetworkSource(name, factory, options, accepts_others)


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


def first_line(error: BaseException) -> str:
    """The start of an exception's message, for a sentence."""
    return " ".join(str(error).split())[:200] or "no message"
