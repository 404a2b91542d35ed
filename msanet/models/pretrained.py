"""Pretrained weights: a checkpoint of msanet, torchvision's VGG-16, ResNet-50 or ResNet-101, or any for networks from elsewhere.

What a file contains is detected from its content, and nothing is unpickled that could run code. A network is initialized as
reported or unchanged.
"""

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msanet.errors import UserError
from msanet.models import MODELS, model_options, wrapped_network
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.external import AdaptedNetwork, find_source, is_external
from msanet.models.external.libraries import published_for, read_transformers_folder
from msanet.models.external.matching import match_weights
from msanet.models.external.published import find_published, is_published_name
from msanet.models.io import ModelMetadata
from msanet.models.network import SegmentationNetwork
from msanet.models.resnet import BLOCKS, ResNet
from msanet.models.vgg import VGG16
from msanet.models.weight_files import EXPECTED, Weights, read_weights, with_image_channels, without_prefixes

PerBand = tuple[float, ...]

_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_COUNTER = ".num_batches_tracked"  # not in torchvision's older files, and used by no layer here


@dataclass(frozen=True)
class WeightReport:
    """What `initialize` did. source: the file and what it contains.

    loaded, new: the network's tensors from the file, and those newly initialized. unused: the file's other tensors.
    mean, std: normalization of the images that the weights were trained on, RGB in gray values.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    mean: PerBand
    std: PerBand

    def text(self, mean: PerBand, std: PerBand) -> str:
        """Lines to print; the last is a warning if mean and std, the run's, are different for the same number of bands."""
        lines = [f"pretrained: {len(self.loaded)} tensors from {self.source}"]
        lines += [_wrapped(f"new, {len(self.new)}: ", self.new)] if self.new else []
        lines += [_wrapped(f"not used, {len(self.unused)}: ", self.unused)] if self.unused else []
        if len(mean) == len(self.mean) and not all(map(math.isclose, (*self.mean, *self.std), (*mean, *std))):
            lines.append(
                f"warning: these weights are for data.mean={list(self.mean)} data.std={list(self.std)}, "
                f"the run has {list(mean)} and {list(std)}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Mapping:
    """A file's tensors under the network's names. optional: the network's tensors that may be missing."""

    description: str
    advice: str
    weights: Weights
    optional: Collection[str]
    unused: tuple[str, ...]
    mean: PerBand = _IMAGENET_MEAN
    std: PerBand = _IMAGENET_STD


def initialize(model: SegmentationNetwork, path: Path, classes: Sequence[str]) -> WeightReport:
    """Fill `model` from the file `path`, or from the checkpoint that is the folder `path`.

    classes: names by train id. A checkpoint of msanet must match the network tensor by tensor, but for the head
    (`classifier_names`) if it has other classes; it also loads into `AttentionToScale` around its network. Of torchvision's
    files the trunk must match; fc6 and fc7 of VGG-16 become convolutions, see `_as_convolution`. Raises UserError, and leaves
    the model unchanged, on anything else. Prefixes of wrappers (`PREFIXES`) before torchvision's names are removed.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    adapted = model if isinstance(model, AdaptedNetwork) else getattr(model, "network", None)
    of_transformers = isinstance(adapted, AdaptedNetwork) and read_transformers_folder(adapted.network, path)
    weights, metadata = (of_transformers, None) if of_transformers else read_weights(file)
    given = metadata.options.get("in_channels", 3) if metadata else 3
    weights, extended = with_image_channels(weights, model, given, model.in_channels)
    if metadata:
        mapping = _from_checkpoint(model, weights, metadata, classes)
    elif isinstance(adapted, AdaptedNetwork):
        mapping = _from_library(model, adapted, weights, file)
    else:
        mapping = _from_torchvision(model, weights, file)
    own = model.state_dict()
    _require_fit(own, mapping, file)
    for name, tensor in mapping.weights.items():
        own[name].copy_(tensor)
    return WeightReport(
        source=f"'{file}', {mapping.description}{_extended(extended, given, model.in_channels)}",
        loaded=tuple(name for name in own if name in mapping.weights),
        new=tuple(name for name in own if name not in mapping.weights),
        unused=mapping.unused,
        mean=mapping.mean,
        std=mapping.std,
    )


def weights_file(name: str, options: dict[str, Any], weights: Path) -> Path:
    """The local file or folder of weights, which may be named as their library publishes them (`imagenet`).

    Args:
        name: Of the network, as `model.name`.
        options: Of the network.
        weights: The value of `model.pretrained`.

    Raises:
        UserError: Nothing of that name is published, or it cannot be downloaded.
    """
    name, options = wrapped_network(name, options)
    if not is_published_name(weights, is_external(name)):
        return weights
    known = find_source(name).published(options) if is_external(name) else published_for(name, options)
    return find_published(str(weights), known, name)


def absolute_weights(name: str, options: dict[str, Any], weights: Path) -> Path:
    """The value of `model.pretrained` so that it means the same in any folder."""
    name, _ = wrapped_network(name, options)
    return weights if is_published_name(weights, is_external(name)) else weights.resolve()


def _extended(names: Sequence[str], given: int, channels: int) -> str:
    return f", {', '.join(names)} extended from {given} to {channels} channels" if names else ""


def _from_checkpoint(
    model: SegmentationNetwork, weights: Weights, metadata: ModelMetadata, classes: Sequence[str]
) -> _Mapping:
    wrapped = isinstance(model, AttentionToScale) and metadata.name != "attention_to_scale"
    prefix = "network." if wrapped else ""
    heads = () if metadata.classes == tuple(classes) else model.classifier_names
    unused = [name for name in weights if _is_under(prefix + name, heads)]
    known = model_options(metadata.name) if metadata.name in MODELS else {}
    defaults = {key: default for key, (_, default) in known.items()}
    options = ", ".join(f"{key}={value!r}" for key, value in {**defaults, **metadata.options}.items())
    return _Mapping(
        description=f"{metadata.name} of {len(metadata.classes)} classes of {metadata.dataset} at step {metadata.step}",
        advice=f"give the network the options it was trained with ({options}), or start from another file",
        weights={prefix + name: tensor for name, tensor in weights.items() if name not in unused},
        optional=[name for name in model.state_dict() if _is_under(name, heads) or not name.startswith(prefix)],
        unused=tuple(unused),
        mean=metadata.mean,
        std=metadata.std,
    )


def _from_library(model: SegmentationNetwork, adapted: AdaptedNetwork, weights: Weights, file: Path) -> _Mapping:
    """Any state dict for a network from elsewhere, or for a part of it, such as its backbone."""
    match = match_weights(model, weights)
    if match is None:
        raise UserError(
            "MSA-MODEL-016",
            f"'{file}' contains {len(weights)} tensors such as {', '.join(list(weights)[:3])}, which are of no part of this "
            f"network ({', '.join(list(model.state_dict())[:3])}, ...); use weights of this network or of its backbone",
            setting="model.pretrained",
        )
    mean, std = adapted.normalization or (_IMAGENET_MEAN, _IMAGENET_STD)
    optional = [name for name in model.state_dict() if name not in match.weights]
    return _Mapping(match.how, "", match.weights, optional, match.unused, mean, std)


def _from_torchvision(model: SegmentationNetwork, weights: Weights, file: Path) -> _Mapping:
    names = list(weights)
    weights, removed = without_prefixes(weights)
    trunk, description, advice = _recognize_torchvision(weights, names, file)
    if removed:
        description += f", its names without {' and '.join(repr(prefix) for prefix in removed)}"
    prefix = "network." if isinstance(model, AttentionToScale) else ""
    if not isinstance(getattr(model.get_submodule(prefix[:-1]), "trunk", None), trunk):
        raise UserError(
            "MSA-MODEL-016",
            f"'{file}' contains {description}, which is not a part of this network; {advice}",
            setting="model.pretrained",
        )
    own = model.state_dict()
    loaded, unused = {}, []
    for name, tensor in weights.items():
        layer, _, part = name.rpartition(".")
        if layer in _FULLY_CONNECTED:
            own_layer, side = _FULLY_CONNECTED[layer]
            target = f"{prefix}{own_layer}.{part}"
            loaded[target] = _as_convolution(tensor, side, own[target].shape) if target in own else tensor
        elif _is_under(name, ("classifier", "fc")):
            unused.append(name)
        else:
            loaded[f"{prefix}trunk.{name}"] = tensor
    filled = {name.removeprefix(prefix).split(".")[0] for name in loaded}  # trunk, perhaps fc
    required = [prefix + part for part in filled]
    optional = [name for name in own if name.endswith(_COUNTER) or not _is_under(name, required)]
    return _Mapping(description, advice, loaded, optional, tuple(unused))


_FULLY_CONNECTED = {"classifier.0": ("fc.fc6", 7), "classifier.3": ("fc.fc7", 1)}
"""VGG-16's layers: the name here, and the side of the map that the layer covers."""


def _as_convolution(weight: Tensor, side: int, shape: Sequence[int]) -> Tensor:
    """A fully connected layer's weight (O, C side side) or bias (O) as the convolution's of `shape`, (o, c, k, k) or (o).

    A smaller convolution gets every O/o-th filter, every C/c-th input and evenly spread taps (rows and columns 0, 3, 6 of 7
    for k = 3): DeepLab-LargeFOV's "simple decimation" (Chen et al. 2015, section 3.2) as in SSD (Liu et al. 2016, section 3).
    """
    if weight.ndim == 1:
        return weight[:: max(1, len(weight) // shape[0])]
    if (weight.ndim, len(shape)) != (2, 4) or weight.shape[1] % side**2:
        return weight  # of some other layer: its shape is an error later
    filters = max(1, len(weight) // shape[0])
    kernel_OCKK = weight.reshape(len(weight), -1, side, side)
    inputs = max(1, kernel_OCKK.shape[1] // shape[1])
    taps = max(1, (side - 1) // max(1, shape[2] - 1))
    return kernel_OCKK[::filters, ::inputs, ::taps, ::taps]


def _recognize_torchvision(weights: Weights, names: Sequence[str], file: Path) -> tuple[type[nn.Module], str, str]:
    """The trunk that torchvision's file is for, what it contains, and where that fits. Raises UserError on anything else.

    names: those in the file, with prefixes.
    """
    if "features.0.weight" in weights:
        convolutions = sum(name.startswith("features.") and tensor.ndim == 4 for name, tensor in weights.items())
        without_norm = "features.1.weight" not in weights
        description = f"torchvision's VGG-{convolutions + 3}{'' if without_norm else ' with BatchNorm'}"
        if without_norm and convolutions == 13:
            return VGG16, description, "use it for fcn, deeplab_largefov or deeplab_msc_largefov with model.width=1"
        return VGG16, description, "use torchvision's VGG-16 without BatchNorm"
    if {"conv1.weight", "layer1.0.conv2.weight"} <= weights.keys():
        layers = [{name.split(".")[1] for name in weights if name.startswith(f"layer{n}.")} for n in (1, 2, 3, 4)]
        blocks = tuple(map(len, layers))
        backbone = next((name for name, known in BLOCKS.items() if known == blocks), None)
        channels = weights["conv1.weight"].shape[:1]
        is_standard = weights["layer1.0.conv2.weight"].shape[:2] == channels + channels  # no wide ResNet or ResNeXt
        if backbone and is_standard and "layer1.0.conv3.weight" in weights:
            norms = "batch or model.norm=frozen" if "bn1.running_mean" in weights else "group"
            advice = f"use it for deeplabv3 with model.backbone={backbone}, model.norm={norms} and model.width=1"
            return ResNet, f"torchvision's {backbone}", advice
        return ResNet, f"a ResNet of {blocks} blocks", "use torchvision's resnet50 or resnet101"
    raise UserError(
        "MSA-MODEL-015",
        f"'{file}' contains tensors such as {', '.join(names[:3])}; expected {EXPECTED}",
        setting="model.pretrained",
    )


def _require_fit(own: Weights, mapping: _Mapping, file: Path) -> None:
    """Raise UserError that lists every tensor without a counterpart, or names one that is not finite."""

    def matches(name: str, tensor: Tensor) -> bool:
        return own[name].shape == tensor.shape and own[name].is_floating_point() == tensor.is_floating_point()

    mismatches = {
        "missing in the file": sorted(own.keys() - mapping.weights.keys() - set(mapping.optional)),
        "not in the network": sorted(mapping.weights.keys() - own.keys()),
        "of another shape or type": [
            name for name, t in mapping.weights.items() if name in own and not matches(name, t)
        ],
    }
    listed = "; ".join(f"{what}: {', '.join(names)}" for what, names in mismatches.items() if names)
    if listed:
        raise UserError(
            "MSA-MODEL-016",
            f"'{file}' contains {mapping.description}, which does not fit this network ({listed}); {mapping.advice}",
            setting="model.pretrained",
        )
    for name, tensor in mapping.weights.items():
        low, high = tensor.to(own[name].dtype).aminmax()  # NaN if there is one; without a copy as isfinite makes
        if not (low.isfinite() and high.isfinite()):
            raise UserError(
                "MSA-MODEL-017",
                f"'{file}' gives '{name}' values that are not finite; use another file",
                setting="model.pretrained",
            )


def _is_under(name: str, prefixes: Collection[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _wrapped(title: str, names: Sequence[str]) -> str:
    text = title + ", ".join(names)
    return textwrap.fill(text, 120, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
