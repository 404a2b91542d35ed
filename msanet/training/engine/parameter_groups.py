"""The optimizer's parameter groups: learning rate and weight decay by pattern, layer and kind of parameter."""

import re
from typing import Any

from torch import nn

from msanet.config import OptimizerConfig
from msanet.errors import UserError
from msanet.models.network import SegmentationNetwork
from msanet.training.engine.freezing import matching_parameters

_LAYER = re.compile(r"(?:(?<=[._])|^)(?:blocks?|layers?|stages?|h)[._]?(\d+)(?=[._]|$)")
"""blocks.3, block.0, layers_2, layer4, stages.1, h.11: with the number of the layer."""


def parameter_groups(model: SegmentationNetwork, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of the parameters that are trained, with their `weight_decay` and a key `lr_factor` for the learning rate.

    The factor is the product of `classifier_lr_mult` (for the network's classifiers), the `lr_mult` of the first of
    `groups` that matches, and `layer_decay` to the power of the layer's depth.

    Raises:
        UserError: A pattern matches nothing, or there are no layers to decay.
    """
    matched = [(group, matching_parameters(model, group.match, "optimizer.groups")) for group in config.groups]
    prefixes = tuple(f"{name}." for name in model.classifier_names)
    depths = layer_depths([name for name, _ in model.named_parameters()]) if config.layer_decay < 1 else {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = next((group for group, names in matched if name in names), None)
        factor = config.classifier_lr_mult if name.startswith(prefixes) else 1.0
        factor *= (own.lr_mult if own else 1.0) * config.layer_decay ** depths.get(name, 0)
        decay = config.weight_decay if own is None or own.weight_decay is None else own.weight_decay
        if parameter.dim() <= 1 and not config.decay_norms_and_biases:
            decay = 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def layer_depths(names: list[str]) -> dict[str, int]:
    """How often `optimizer.layer_decay` applies to each parameter, as in BEiT (Bao et al. 2021): the last layer once.

    Layers are those of the first module that numbers some, the backbone: of blocks in stages each block is one. Parameters
    before the first layer, such as patch embeddings, have one more than the first; those after the last, such as the head, 0.

    Raises:
        UserError: No parameter is in a layer.
    """
    first = next((match for name in names if (match := _LAYER.search(name))), None)
    if first is None:
        raise UserError(
            "MSA-TRAIN-653",
            f"optimizer.layer_decay finds no layers among parameters such as {names[0]}, expected names with blocks.N, layers.N "
            "or stages.N; remove it, or set optimizer.groups",
            setting="optimizer.layer_decay",
        )
    stem = first.string[: first.start(1)]
    numbers = {
        name: tuple(int(match[1]) for match in _LAYER.finditer(name)) for name in names if _is_in_layer(name, stem)
    }
    layers = {layer: count for count, layer in enumerate(sorted(set(numbers.values())), start=1)}
    depths = {name: len(layers) + 1 - layers[number] for name, number in numbers.items()}
    before = names[: names.index(first.string)]
    return dict.fromkeys(before, len(layers) + 1) | depths


def _is_in_layer(name: str, stem: str) -> bool:
    return name.startswith(stem) and name[len(stem) : len(stem) + 1].isdigit()
