"""The networks: one file each, one line in `MODELS`; others by `msanet.models.external`.

They know nothing of data, distribution or DeepSpeed.
"""

import inspect
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from msanet.documents import parse_yaml
from msanet.errors import UserError, nearest
from msanet.models.attention_to_scale import AttentionToScale, Merge, parse_scales
from msanet.models.blocks import scaled_channels
from msanet.models.deeplab import DeepLabLargeFOV, DeepLabMScLargeFOV
from msanet.models.deeplabv3 import DeepLabV3
from msanet.models.external import find_source, is_external
from msanet.models.external.adapter import ADAPTER_OPTIONS, adapt
from msanet.models.external.sources import network_names
from msanet.models.fcn import FCN
from msanet.models.msanet import MSANet
from msanet.models.network import SegmentationNetwork
from msanet.models.unet import UNet


def attention_to_scale(
    num_classes: int,
    width: float = 1.0,
    network: str = "deeplab_largefov",
    network_options: str = "",
    scales: str = "1,0.75,0.5",
    merge: Merge = "attention",
    extra_supervision: bool = True,
    features: str = "",
    attention_kernel: Literal[1, 3] = 3,
    attention_channels: int = 512,
    attention_layers: Literal[1, 2] = 2,
    in_channels: int = 3,
) -> AttentionToScale:
    """`AttentionToScale` around the network of that name; network_options: its own, as `backbone=resnet101,norm=group`."""
    if network == "attention_to_scale" or not (network in MODELS or is_external(network)):
        known = sorted(MODELS.keys() - {"attention_to_scale"})
        raise UserError(
            "MSA-MODEL-001",
            f"model.network is '{network}', which attention_to_scale cannot wrap; {nearest(network, known)}",
            setting="model.network",
        )
    if attention_channels < 1:
        raise UserError(
            "MSA-MODEL-003",
            f"model.attention_channels is {attention_channels}, expected 1 or more; choose for example 512",
            setting="model.attention_channels",
        )
    given = {"network": network, "network_options": network_options, "width": width, "in_channels": in_channels}
    network, options = wrapped_network("attention_to_scale", given)
    return AttentionToScale(
        build_model(network, num_classes, **options),
        parse_scales(scales),
        merge,
        extra_supervision,
        features,
        attention_kernel,
        scaled_channels(attention_channels, width),
        attention_layers,
    )


MODELS: dict[str, Callable[..., SegmentationNetwork]] = {
    "msanet": MSANet,
    "fcn": FCN,
    "unet": UNet,
    "deeplab_largefov": DeepLabLargeFOV,
    "deeplab_msc_largefov": DeepLabMScLargeFOV,
    "deeplabv3": DeepLabV3,
    "attention_to_scale": attention_to_scale,
}


def wrapped_network(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of the network that attention_to_scale wraps; of any other network, its own.

    Raises:
        UserError: `network_options` cannot be read.
    """
    if name != "attention_to_scale":
        return name, options
    text, network = options.get("network_options", ""), options.get("network", "deeplab_largefov")
    try:
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        own = {key.strip(): parse_yaml(value) for key, _, value in pairs}
    except ValueError:
        raise UserError(
            "MSA-MODEL-004",
            f"model.network_options is '{text}', expected KEY=VALUE,...; fix it",
            setting="model.network_options",
        ) from None
    passed_on = ("width", "in_channels") if network in MODELS else ("in_channels",)
    return network, {**{key: options[key] for key in passed_on if key in options}, **own}


_WIDEST = 64
"""Times the papers' channels; more is a typing error, or damaged metadata, that would fill any memory."""


def build_model(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """The network `name` with its constructor's options. Raises UserError on an unknown name, option or value."""
    options = check_model_options(name, options)
    if name not in MODELS:
        return adapt(find_source(name), num_classes, options)
    network = MODELS[name](num_classes=num_classes, **options)
    network.in_channels = options.get("in_channels", 3)
    return network


def check_model(name: str, options: dict[str, Any]) -> None:
    """Raise the UserError that `build_model` would, by building the network at its narrowest.

    Of networks from elsewhere, which have no such width, the options are checked.
    """
    check_model_options(name, options)
    if name not in MODELS:
        return
    build_model(name, num_classes=2, **{**options, "width": 0.01})


def check_model_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with values of the types that the network's constructor takes.

    Raises:
        UserError: An unknown network or option, with the nearest name, or a value of another type.
    """
    if name not in MODELS and not is_external(name):
        raise UserError(
            "MSA-MODEL-001",
            f"model.name is '{name}', which is not a known network; {nearest(name, sorted([*MODELS, *network_names()]))}; or "
            "smp:NAME, hf:NAME, timm:NAME, torchvision:NAME, package.module:NAME, path/to/file.py:NAME",
            setting="model.name",
        )
    known, checked = model_options(name), {}
    for key, value in options.items():
        if key not in known:
            if name not in MODELS and find_source(name).accepts_others:
                checked[key] = value
                continue
            raise UserError(
                "MSA-MODEL-002",
                f"model.{key} is not an option of '{name}'; {_advice(key, sorted(known))}",
                setting=f"model.{key}",
            )
        kind, _ = known[key]
        try:
            checked[key] = _fitting(value, kind) if name in MODELS else _converted(value, kind)
        except ValueError:
            raise UserError(
                "MSA-MODEL-003", f"model.{key} is {value!r}, expected {describe(kind)}", setting=f"model.{key}"
            ) from None
    required = [key for key, (_, default) in known.items() if default is inspect.Parameter.empty and key not in options]
    if required:
        raise UserError(
            "MSA-MODEL-514",
            f"'{name}' needs model.{required[0]}, which is not set; give it a value",
            setting=f"model.{required[0]}",
        )
    if name in MODELS and options.get("in_channels", 3) < 1:
        raise UserError(
            "MSA-MODEL-003",
            f"model.in_channels is {options['in_channels']}, expected 1 or more; 3 for RGB images",
            setting="model.in_channels",
        )
    if name in MODELS and not 0 < options.get("width", 1) <= _WIDEST:  # not a number is neither
        raise UserError(
            "MSA-MODEL-003",
            f"model.width is {options['width']}, expected a number above 0 and at most {_WIDEST}",
            setting="model.width",
        )
    return checked


def _advice(key: str, known: list[str]) -> str:
    if key in ("weights", "encoder_weights", "checkpoint"):
        return "initial weights are model.pretrained"
    return nearest(key, known)


def model_options(name: str) -> dict[str, tuple[Any, Any]]:
    """{option: (type, default)} of a network, read from its constructor."""
    if name not in MODELS:
        return {**find_source(name).options, **ADAPTER_OPTIONS}
    network = MODELS[name]
    constructor = network.__init__ if inspect.isclass(network) else network
    hints, parameters = get_type_hints(constructor), inspect.signature(network).parameters
    return {key: (hints[key], p.default) for key, p in parameters.items() if key != "num_classes"}


def describe(kind: Any) -> str:
    """A type in words for users: `one of full, fusion, none`."""
    if get_origin(kind) is Annotated:
        return describe(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is not None or not hasattr(kind, "__name__"):
        return str(kind).replace("typing.", "")
    return str(kind.__name__)


def _converted(value: Any, kind: Any) -> Any:
    """A value of a YAML file as a type hint of other people's code asks for it. Raises ValueError where it does not fit."""
    try:
        adapter = TypeAdapter(kind)
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        raise
    except (PydanticSchemaGenerationError, TypeError):  # a type that no setting can have
        return value


def _fitting(value: Any, kind: Any) -> Any:
    if not _fits(value, kind):
        raise ValueError
    return value


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))  # 1 == 1.0 == True
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
