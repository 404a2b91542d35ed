"""The networks: one file each, one line in `MODELS`. They know nothing of data, distribution or DeepSpeed."""

import inspect
import types
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from msanet.documents import parse_yaml
from msanet.errors import UserError, nearest
from msanet.models.attention_to_scale import AttentionToScale, Merge, parse_scales
from msanet.models.blocks import scaled_channels
from msanet.models.deeplab import DeepLabLargeFOV, DeepLabMScLargeFOV
from msanet.models.deeplabv3 import DeepLabV3
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
) -> AttentionToScale:
    """`AttentionToScale` around the network of that name; network_options: its own, as `backbone=resnet101,norm=group`."""
    if network not in MODELS or network == "attention_to_scale":
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
    try:
        pairs = [part.partition("=") for part in network_options.split(",") if part.strip()]
        options = {key.strip(): parse_yaml(value) for key, _, value in pairs}
    except ValueError:
        raise UserError(
            "MSA-MODEL-004",
            f"model.network_options is '{network_options}', expected KEY=VALUE,...; fix it",
            setting="model.network_options",
        ) from None
    return AttentionToScale(
        build_model(network, num_classes, **{"width": width, **options}),
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

_WIDEST = 64
"""Times the papers' channels; more is a typing error, or damaged metadata, that would fill any memory."""


def build_model(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """The network `name` with its constructor's options. Raises UserError on an unknown name, option or value."""
    check_model_options(name, options)
    return MODELS[name](num_classes=num_classes, **options)


def check_model(name: str, options: dict[str, Any]) -> None:
    """Raise the UserError that `build_model` would, by building the network at its narrowest."""
    check_model_options(name, options)
    build_model(name, num_classes=2, **{**options, "width": 0.01})


def check_model_options(name: str, options: dict[str, Any]) -> None:
    """Check `options` against the constructor's arguments: names and types. Raises UserError with the nearest name."""
    if name not in MODELS:
        raise UserError(
            "MSA-MODEL-001",
            f"model.name is '{name}', which is not a known network; {nearest(name, sorted(MODELS))}",
            setting="model.name",
        )
    known = model_options(name)
    for key, value in options.items():
        if key not in known:
            raise UserError(
                "MSA-MODEL-002",
                f"model.{key} is not an option of '{name}'; {nearest(key, sorted(known))}",
                setting=f"model.{key}",
            )
        kind, _ = known[key]
        if not _fits(value, kind):
            raise UserError(
                "MSA-MODEL-003", f"model.{key} is {value!r}, expected {describe(kind)}", setting=f"model.{key}"
            )
    if not 0 < options.get("width", 1) <= _WIDEST:  # also refuses NaN
        raise UserError(
            "MSA-MODEL-003",
            f"model.width is {options['width']}, expected a number above 0 and at most {_WIDEST}",
            setting="model.width",
        )


def model_options(name: str) -> dict[str, tuple[Any, Any]]:
    """{option: (type, default)} of a network, read from its constructor."""
    network = MODELS[name]
    constructor = network.__init__ if inspect.isclass(network) else network
    hints, parameters = get_type_hints(constructor), inspect.signature(network).parameters
    return {key: (hints[key], p.default) for key, p in parameters.items() if key != "num_classes"}


def describe(kind: Any) -> str:
    """A type in words for users: `one of full, fusion, none`."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return getattr(kind, "__name__", str(kind))


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))  # 1 == 1.0 == True
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
