"""The network of a run: built, checked before anything of the run is touched, and filled with the weights that it starts from."""

import logging
from collections.abc import Sequence

from msanet.config import Config
from msanet.data.band_settings import require_shown_bands, with_band_settings
from msanet.data.manifest import Manifest
from msanet.errors import UserError
from msanet.models import build_model, wrapped_network
from msanet.models.external import AdaptedNetwork, check_contract, find_source, is_external, trust
from msanet.models.network import SegmentationNetwork
from msanet.models.pretrained import WeightReport, initialize, weights_file
from msanet.training.engine.freezing import freeze

logger = logging.getLogger(__name__)


def build_network(config: Config, num_classes: int, image_channels: int = 3) -> SegmentationNetwork:
    """The network that the settings name, with new weights.

    A network from elsewhere, alone or in attention_to_scale, takes one small training step first; its parameters that get no
    gradient are frozen, and said.

    Args:
        config: Settings of the run.
        num_classes: K.
        image_channels: Of the images that it is to be trained on.

    Raises:
        UserError: It cannot be built, or not be trained.
    """
    for name in (config.model.name, str(config.model.options.get("network", ""))):
        trust(name)  # the user's own settings name it
    model = build_model(config.model.name, num_classes, **config.model.options)
    _require_channels(model, image_channels)
    adapted = adapted_network(model)
    if adapted is not None:
        name, _ = wrapped_network(config.model.name, config.model.options)
        if adapted is model:
            _require_size(config, adapted)
        elif adapted.layout.fixed:
            found = f"'{name}' takes images of {adapted.layout.size[0]}x{adapted.layout.size[1]} only"
            advice = "attention_to_scale shows it images of several sizes; choose another model.network"
            raise UserError("MSA-TRAIN-502", f"{found}, and {advice}", setting="model.network")
        unused = check_contract(adapted, name)
        if unused:
            shown = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            logger.info(f"model: {len(unused)} parameters of {name} get no gradient and stay as they are: {shown}")
    freeze(model, config.model.freeze)
    return model


def adapted_network(model: SegmentationNetwork) -> AdaptedNetwork | None:
    """The network from elsewhere that the model is, or that attention_to_scale wraps; None for our own."""
    inner = getattr(model, "network", None)
    return model if isinstance(model, AdaptedNetwork) else inner if isinstance(inner, AdaptedNetwork) else None


def build_for_estimate(config: Config, num_classes: int) -> SegmentationNetwork:
    """The network with what is frozen, unchecked, to count its memory on any device."""
    model = build_model(config.model.name, num_classes, **config.model.options)
    _require_channels(model, len(config.data.mean))
    freeze(model, config.model.freeze)
    return model


def load_initial_weights(config: Config, model: SegmentationNetwork, classes: Sequence[str]) -> WeightReport | None:
    """Fill the network from `model.pretrained`, a file or the name of published weights; None where that is not set."""
    if config.model.pretrained is None:
        return None
    return initialize(model, weights_file(config.model.name, config.model.options, config.model.pretrained), classes)


def _require_channels(model: SegmentationNetwork, channels: int) -> None:
    if model.in_channels != channels:
        raise UserError(
            "MSA-TRAIN-780",
            f"model.in_channels is {model.in_channels}, and the images of data.path have {channels} channels; set "
            f"model.in_channels={channels}",
            setting="model.in_channels",
        )


def _require_size(config: Config, model: AdaptedNetwork) -> None:
    """Raise UserError unless a network for a single size of images gets them in training and in evaluation."""
    data, evaluation, size = config.data, config.evaluation, model.layout.size
    if model.layout.fixed and (data.crop or data.resize) != size:
        raise UserError("MSA-TRAIN-502", f"data.crop is {_shown(data.crop)}, {model.only_size()}", setting="data.crop")
    if model.layout.fixed and size not in (evaluation.window, evaluation.resize):
        found = f"evaluation.window is {_shown(evaluation.window)}"
        raise UserError("MSA-TRAIN-502", f"{found}, {model.only_size()}", setting="evaluation.window")


def _shown(size: tuple[int, int] | None) -> str:
    return "null" if size is None else f"[{size[0]},{size[1]}]"


def with_normalization(config: Config, manifest: Manifest) -> Config:
    """With data.mean and data.std as the network's pretrained weights or the dataset's bands have them. Raises UserError."""
    config = with_pretrained_normalization(config) if manifest.image is None else config
    require_shown_bands(config.report.bands, manifest.image_format)
    return config.model_copy(update={"data": with_band_settings(config.data, manifest)})


def with_pretrained_normalization(config: Config) -> Config:
    """With data.mean and data.std as the network's pretrained weights expect them, where the settings leave both open."""
    name, options = wrapped_network(config.model.name, config.model.options)
    if not is_external(name) or {"mean", "std"} & config.data.model_fields_set:
        return config
    own = find_source(name).normalization(options)
    if own is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"mean": own[0], "std": own[1]})})
