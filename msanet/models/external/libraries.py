"""The libraries that a prefix names: segmentation_models.pytorch, transformers, torchvision and timm.

Each is imported when a network of it is asked for. Their networks start from random weights, since nothing is downloaded
unasked; `model.pretrained` loads weights.
"""

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from msanet.errors import UserError, nearest
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
    options = {key: value for key, value in options.items() if key not in ("classes", "activation")}
    options["encoder_weights"] = (options["encoder_weights"][0], None)

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        return network(classes=num_classes, **{"encoder_weights": None, **chosen})

    def normalization(chosen: dict[str, Any]) -> Normalization | None:
        encoder = str(chosen.get("encoder_name", options["encoder_name"][1]))
        return _timm_normalization(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else _IMAGENET

    return NetworkSource(name, build, options, normalization=normalization)


def torchvision_source(name: str, network: str) -> NetworkSource:
    """A segmentation network of torchvision, such as `torchvision:lraspp_mobilenet_v3_large`."""
    models = _import(name, "torchvision").models
    _require_known(name, network, models.list_models(module=models.segmentation))
    factory = models.get_model_builder(network)
    options, _ = signature_options(factory)
    options = {key: value for key, value in options.items() if key == "aux_loss"}

    def build(num_classes: int, **chosen: Any) -> nn.Module:
        return factory(weights=None, weights_backbone=None, num_classes=num_classes, **chosen)

    return NetworkSource(name, build, options, normalization=lambda chosen: _IMAGENET)


def hf_source(name: str, which: str) -> NetworkSource:
    """A semantic segmentation network of transformers: a model type such as `hf:segformer`, or a folder with config.json."""
    transformers = _import(name, "transformers")
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    if "/" in which or Path(which).is_dir():
        if not (Path(which) / "config.json").is_file():
            message = (
                f"model.name is '{name}', and '{which}' has no config.json; give a folder that transformers has saved"
            )
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

    return NetworkSource(name, build, options, normalization=lambda chosen: _IMAGENET)


def read_transformers_folder(network: nn.Module, path: Path) -> dict[str, Tensor] | None:
    """The weights in a folder that transformers has saved, under its names of today; None for other networks and folders.

    Its files keep the names of earlier versions. Only safetensors are read.
    """
    if not (path.is_dir() and (path / "config.json").is_file() and hasattr(network, "from_pretrained")):
        return None
    try:
        saved = type(network).from_pretrained(  # type: ignore[attr-defined]
            path, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        message = f"model.pretrained: '{path}' cannot be read by transformers ({first_line(error)}); save it again"
        raise UserError("MSA-MODEL-008", message, setting="model.pretrained") from None
    return saved.state_dict()


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
        name, build, options, accepts_others=True, normalization=lambda chosen: _timm_normalization(backbone)
    )


SOURCES = {"smp": smp_source, "hf": hf_source, "torchvision": torchvision_source, "timm": timm_source}


def _import(name: str, library: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        message = (
            f"model.name is '{name}', and {library} is not installed; pip install 'msanet[{_DISTRIBUTIONS[library]}]'"
        )
        raise UserError("MSA-MODEL-505", message, setting="model.name") from None


def _require_known(name: str, which: str, known: list[str]) -> None:
    if which not in known:
        message = f"model.name is '{name}', and there is no '{which}'; {nearest(which, known)}"
        raise UserError("MSA-MODEL-502", message, setting="model.name")


def _timm_normalization(backbone: str) -> Normalization | None:
    pretrained = importlib.import_module("timm").get_pretrained_cfg(backbone)
    if pretrained is None or len(pretrained.mean) != 3:
        return None
    mean, std = (tuple(round(255 * float(x), 3) for x in values) for values in (pretrained.mean, pretrained.std))
    return mean, std  # type: ignore[return-value]
