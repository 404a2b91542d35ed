"""What torchvision's VGG-16 and ResNets give for made-up weights, summarized: their trunks' stand-in where it is missing.

`python tests/models/torchvision_outputs.py` writes torchvision_outputs.json again. Only the import of torchvision needs its
compiled operators: with another build of torch it works after `torch.library.define` of `torchvision::nms` and `::qnms`.
"""

import datetime
import json
import math
import platform
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PATH = Path(__file__).with_suffix(".json")
STAGES = {
    "vgg16": ("features.4", "features.9", "features.16", "features.23", "features.30"),
    "resnet50": ("maxpool", "layer1.2", "layer2.3", "layer3.5", "layer4.2"),
    "resnet101": ("layer3.22", "layer4.2"),
    "resnet50 at stride 8": ("layer3.5", "layer4.2"),
}
"""The modules, named alike in torchvision and here, whose outputs are compared."""


def torchvision_trunk(name: str) -> nn.Module:
    """torchvision's network of that name, with the parameters of its trunk only, not yet filled."""
    from torchvision import models

    dilated = {"replace_stride_with_dilation": (False, True, True)} if name.endswith("stride 8") else {}
    with torch.device("meta"):
        network: nn.Module = getattr(models, name.split()[0])(weights=None, **dilated)
    for head in ("avgpool", "classifier", "fc"):
        setattr(network, head, nn.Identity())
    return network.to_empty(device="cpu")


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """float64 in [-1, 1) that depend on the name alone: NumPy's RandomState keeps its stream for ever (NEP 19)."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape))


def filled(network: nn.Module) -> nn.Module:
    """The network in float64 and evaluation mode; convolutions are He uniform, norms differ from the identity."""
    network = network.double().eval()
    for name, x in network.state_dict().items():
        if not x.is_floating_point():
            continue  # num_batches_tracked
        middle, reach = {"weight": (0.5, 0.25), "running_var": (1.0, 0.5)}.get(name.rpartition(".")[2], (0.0, 0.5))
        if x.ndim == 4:
            middle, reach = 0.0, math.sqrt(6 / x[0].numel())
        x.copy_(middle + reach * uniform(name, tuple(x.shape)))
    return network


@torch.no_grad()
def outputs(network: nn.Module, name: str) -> dict[str, Tensor]:
    """What the stages of that trunk, filled, give for one image whose size no stage halves exactly."""
    network = filled(network)
    found: dict[str, Tensor] = {}
    for stage in STAGES[name]:
        module = network.get_submodule(stage)
        module.register_forward_hook(lambda _module, _inputs, x, stage=stage: found.update({stage: x.clone()}))
    network(uniform("image", (1, 3, 65, 95)))
    return found


def summaries(found: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Of each output: its shape, mean, standard deviation and maximum, and a dozen values from all over it."""
    return {
        name: {
            "shape": list(x.shape),
            "mean": x.mean().item(),
            "std": x.std().item(),
            "max": x.max().item(),
            "values": x.flatten()[:: x.numel() // 12].tolist(),
        }
        for name, x in found.items()
    }


def stored(name: str) -> dict[str, dict[str, Any]]:
    """`summaries` of torchvision's trunk, as written down."""
    return json.loads(PATH.read_text())["summaries"][name]


def main() -> None:
    """Write the summaries of all trunks, the versions that gave them and the date."""
    import torchvision

    versions = {package.__name__: package.__version__ for package in (torch, torchvision, np)}
    content = {
        "versions": {**versions, "machine": platform.machine()},
        "date": datetime.date.today().isoformat(),
        "summaries": {name: summaries(outputs(torchvision_trunk(name), name)) for name in STAGES},
    }
    PATH.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
