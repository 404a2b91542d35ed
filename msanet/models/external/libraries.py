"""The libraries that a prefix names: segmentation_models.pytorch, transformers, torchvision and timm.

Each is imported when a network of it is asked for. Their networks are built with random weights; `model.pretrained` loads
others, from a file or by the name under which the library publishes them.
"""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from msanet.errors import UserError, nearest
from msanet.models.external.published import DEFAULT, Published, published_config, torch_file
from msanet.models.external.sources import NetworkSource, Normalization, signature_options
from msanet.plugins import first_line

_DISTRIBUTIONS = {
    "segmentation_models_pytorch": "smp",
    "transformers": "hf",
    "timm": "timm",
    "torchvision": "torchvision",
}
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def smp_source(name: str, architecture: str) -> NetworkSource:
    """An architecture of segmentation_models.pytorch, such as `smp:Unet`, with its encoder by `model.encoder_name`."""
    smp = _import(name, "segmentation_models_pytorch")
    known = sorted(n for n, v in vars(smp).items() if inspect.isclass(v) and issubclass(v, nn.Module))
    _require_known(name, architecture, known)
    network = getattr(smp, architecture)
    options, _ = signature_options(network)
    options = {key: value for key, value in options.items() if key not in ("classes", "activation", "encoder_weights")}
    if architecture == "DPT":  # its encoders are plain ViTs of timm, which by default take a single size
        options["dynamic_img_size"] = (bool, True)

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        defaults = {"dynamic_img_size": True} if architecture == "DPT" else {}
        return network(classes=num_classes, encoder_weights=None, **{**defaults, **chosen})

    def encoder(chosen: dict[str, Any]) -> str:
        return str(chosen.get("encoder_name", options["encoder_name"][1]))

    def normalization(chosen: dict[str, Any]) -> Normalization | None:
        is_timm = encoder(chosen).startswith("tu-")
        return _timm_normalization(encoder(chosen).removeprefix("tu-")) if is_timm else _IMAGENET

    def published(chosen: dict[str, Any]) -> dict[str, Published]:
        if encoder(chosen).startswith("tu-"):
            return _timm_published(encoder(chosen).removeprefix("tu-"))
        known = smp.encoders.encoders.get(encoder(chosen), {}).get("pretrained_settings", {})
        return {tag: Published(at["repo_id"], revision=at.get("revision")) for tag, at in known.items()}

    return NetworkSource(name, build, options, normalization=normalization, channels="in_channels", published=published)


def torchvision_source(name: str, network: str) -> NetworkSource:
    """A segmentation network of torchvision, such as `torchvision:lraspp_mobilenet_v3_large`."""
    models = _import(name, "torchvision").models
    _require_known(name, network, models.list_models(module=models.segmentation))
    factory = models.get_model_builder(network)
    options, _ = signature_options(factory)
    options = {key: value for key, value in options.items() if key == "aux_loss"}

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        return factory(weights=None, weights_backbone=None, num_classes=num_classes, **chosen)

    def published(chosen: dict[str, Any]) -> dict[str, Published]:
        backbone = inspect.signature(factory).parameters["weights_backbone"].default
        kinds = (models.get_model_weights(network), type(backbone))
        found = {tag: weights for kind in kinds for tag, weights in kind.__members__.items() if tag != "DEFAULT"}
        return {tag: Published(url=weights.url) for tag, weights in {**found, DEFAULT: backbone}.items()}

    return NetworkSource(name, build, options, normalization=lambda chosen: _IMAGENET, published=published)


def hf_source(name: str, which: str) -> NetworkSource:
    """A semantic segmentation network of transformers: a model type such as `hf:segformer`, or what has a config.json.

    That is a folder, or a repository of the Hugging Face hub such as `hf:nvidia/segformer-b0-finetuned-ade-512-512`, of which
    only this file is read: weights are what `model.pretrained` names.
    """
    transformers = _import(name, "transformers")
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    if "/" in which or Path(which).is_dir():
        if re.fullmatch(r"[\w.-]*\w/[\w.-]+", which) and not Path(which).exists():
            which = str(published_config(which))
        if not (Path(which) / "config.json").is_file():
            advice = "give a folder that transformers has saved, or OWNER/NAME on the Hugging Face hub"
            message = f"model.name is '{name}', and '{which}' has no config.json; {advice}"
            raise UserError("MSA-MODEL-502", message, setting="model.name")
        base = transformers.AutoConfig.from_pretrained(which, local_files_only=True, trust_remote_code=False)
    else:
        _require_known(name, which, sorted(mapping))
        base = transformers.AutoConfig.for_model(which)
    hidden = {"id2label", "label2id", "num_labels", "model_type", "transformers_version", "architectures"}
    options = {key: (Any, value) for key, value in base.to_dict().items() if key not in hidden}

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        settings = {**base.to_dict(), **chosen}
        for key in ("num_labels", "id2label", "label2id"):
            settings.pop(key, None)
        config = type(base).from_dict({**settings, "num_labels": num_classes})
        return transformers.AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)

    channels = "num_channels" if "num_channels" in options else ""
    return NetworkSource(name, build, options, normalization=lambda chosen: _IMAGENET, channels=channels)


def read_transformers_folder(network: nn.Module, path: Path) -> dict[str, Tensor] | None:
    """The weights in a folder that transformers has saved, under its names of today; None for other networks and folders.

    Its files keep the names of earlier versions. Only safetensors are read. What the folder lacks, such as the head of a
    network that was trained for something else, is left out, not filled with random numbers.
    """
    if not (path.is_dir() and (path / "config.json").is_file() and hasattr(network, "from_pretrained")):
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            saved, about = type(network).from_pretrained(  # type: ignore[attr-defined]
                path, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        message = f"model.pretrained: '{path}' cannot be read by transformers ({first_line(error)}); save it again"
        raise UserError("MSA-MODEL-008", message, setting="model.pretrained") from None
    return {name: tensor for name, tensor in saved.state_dict().items() if name not in about["missing_keys"]}


def timm_source(name: str, backbone: str) -> NetworkSource:
    """A backbone of timm under a light head, such as `timm:convnext_tiny`; see `msanet.models.external.heads`."""
    timm = _import(name, "timm")
    if not timm.is_model(backbone):
        near = nearest(backbone, timm.list_models(f"*{backbone.split('_')[0][:6]}*")[:20])
        message = f"model.name is '{name}', and timm has no '{backbone}'; {near}"
        raise UserError("MSA-MODEL-502", message, setting="model.name")
    from msanet.models.external.heads import BackboneWithHead, create_backbone

    options, _ = signature_options(BackboneWithHead)
    options = {key: value for key, value in options.items() if key not in ("backbone", "num_classes")}

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        own = {key: chosen.pop(key) for key in list(chosen) if key in options}
        return BackboneWithHead(create_backbone(timm, backbone, **chosen), num_classes, **own)

    return NetworkSource(
        name,
        build,
        options,
        accepts_others=True,
        normalization=lambda chosen: _timm_normalization(backbone),
        channels="in_chans",
        published=lambda chosen: _timm_published(backbone),
    )


SOURCES = {"smp": smp_source, "hf": hf_source, "torchvision": torchvision_source, "timm": timm_source}


def _import(name: str, library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except Exception as error:  # also where torch and torchvision do not fit together
        found = f"model.name is '{name}', and "
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            message = f"{found}{library} is not installed; pip install 'msanet[{_DISTRIBUTIONS[library]}]'"
            raise UserError("MSA-MODEL-505", message, setting="model.name") from None
        why = f"the import of {library} raised {type(error).__name__}: {first_line(error)}"
        advice = f"install releases that fit together; `python -c 'import {library}'` shows the traceback"
        raise UserError("MSA-MODEL-503", f"{found}{why}; {advice}", setting="model.name") from error


def _require_known(name: str, which: str, known: list[str]) -> None:
    if which not in known:
        message = f"model.name is '{name}', and there is no '{which}'; {nearest(which, known)}"
        raise UserError("MSA-MODEL-502", message, setting="model.name")


TORCHVISION_FILES = {
    "fcn": "vgg16-397923af.pth",
    "deeplab_largefov": "vgg16-397923af.pth",
    "deeplab_msc_largefov": "vgg16-397923af.pth",
    "deeplabv3": "resnet50-0676ba61.pth",
    "deeplabv3 resnet101": "resnet101-63fe2227.pth",
}
"""torchvision's ImageNet weights (version 1) for our own networks: {`model.name`, or with its backbone: file}."""


def published_for(name: str, options: dict[str, Any]) -> dict[str, Published]:
    """Weights that are published for one of our own networks."""
    file = TORCHVISION_FILES.get(f"{name} {options.get('backbone')}", TORCHVISION_FILES.get(name))
    return {DEFAULT: torch_file(file)} if file else {}


def _timm_published(backbone: str) -> dict[str, Published]:
    """By tag, and under `imagenet` those of the name's own tag, else of timm's default one."""
    timm = importlib.import_module("timm")
    tags = {
        full.partition(".")[2]: full for full in timm.list_models(f"{backbone.partition('.')[0]}.*", pretrained=True)
    }
    found = {}
    for tag, full in {**tags, DEFAULT: backbone}.items():
        about = timm.get_pretrained_cfg(full)
        if about is not None and (about.hf_hub_id or about.url):
            files = (about.hf_hub_filename,) if about.hf_hub_filename else Published.files
            found[tag] = Published(about.hf_hub_id, files) if about.hf_hub_id else Published(url=about.url)
    return found


def _timm_normalization(backbone: str) -> Normalization | None:
    pretrained = importlib.import_module("timm").get_pretrained_cfg(backbone)
    if pretrained is None or len(pretrained.mean) != 3:
        return None
    mean, std = (tuple(round(255 * float(x), 3) for x in values) for values in (pretrained.mean, pretrained.std))
    return mean, std  # type: ignore[return-value]
