"""The network of a run: built, and checked before anything of the run is touched."""

import logging

from msanet.config import Config
from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.external import AdaptedNetwork, check_contract, find_source, is_external, trust
from msanet.models.network import SegmentationNetwork
from msanet.training.engine.freezing import freeze

logger = logging.getLogger(__name__)


def build_network(config: Config, num_classes: int) -> SegmentationNetwork:
    """The network that the settings name, with new weights.

    A network from elsewhere takes one small training step first; its parameters that get no gradient are frozen, and said.

    Raises:
        UserError: It cannot be built, or not be trained.
    """
    for name in (config.model.name, str(config.model.options.get("network", ""))):
        trust(name)  # the user's own settings name it
    model = build_model(config.model.name, num_classes, **config.model.options)
    if isinstance(model, AdaptedNetwork):
        _require_size(config, model)
        unused = check_contract(model, config.model.name)
        if unused:
            shown = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            logger.info(
                f"model: {len(unused)} parameters of {config.model.name} get no gradient and stay as they are: {shown}"
            )
    freeze(model, config.model.freeze)
    return model


def build_for_estimate(config: Config, num_classes: int) -> SegmentationNetwork:
    """The network with what is frozen, unchecked, to count its memory on any device."""
    model = build_model(config.model.name, num_classes, **config.model.options)
    freeze(model, config.model.freeze)
    return model


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


def with_pretrained_normalization(config: Config) -> Config:
    """With data.mean and data.std as the network's pretrained weights expect them, where the settings leave both open."""
    if not is_external(config.model.name) or {"mean", "std"} & config.data.model_fields_set:
        return config
    own = find_source(config.model.name).normalization(config.model.options)
    if own is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"mean": own[0], "std": own[1]})})
