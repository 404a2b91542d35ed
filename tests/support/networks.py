"""Every network of the zoo at small width, with an input and a loss; what tests of all networks share."""

import copy
import functools
from functools import partial
from typing import Any

import torch
from torch import Tensor

from msanet.losses import cross_entropy_sum
from msanet.models import build_model
from msanet.models.network import SegmentationNetwork, combined_loss

CLASSES = 5
STRUCTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "msanet": ("msanet", {}),
    "msanet-none": ("msanet", {"attention": "none"}),
    "msanet-fusion": ("msanet", {"attention": "fusion"}),
    "fcn-32s": ("fcn", {"variant": "32s"}),
    "fcn-16s": ("fcn", {"variant": "16s"}),
    "fcn-8s": ("fcn", {}),
    "unet": ("unet", {}),
    "largefov": ("deeplab_largefov", {}),
    "msc-largefov": ("deeplab_msc_largefov", {}),
    "deeplabv3": ("deeplabv3", {}),
    "deeplabv3-8-auxiliary": ("deeplabv3", {"output_stride": 8, "auxiliary": True}),
    "attention-to-scale": ("attention_to_scale", {}),
    "attention-to-scale-unet": ("attention_to_scale", {"network": "unet", "scales": "1,0.5", "merge": "max"}),
}
NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "msanet-group": ("msanet", {"norm": "group"}),
    "unet-frozen": ("unet", {"norm": "frozen"}),
    "deeplabv3-group": ("deeplabv3", {"norm": "group"}),
    "deeplabv3-frozen": ("deeplabv3", {"norm": "frozen", "auxiliary": True}),
}
CASES = {**STRUCTURES, **NORMS}


@functools.cache
def built(case: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    name, options = CASES[case]
    model = build_model(name, CLASSES, width=0.05, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero stops the gradient of what lies before it
                parameter.normal_(std=0.1)
    return model


def network(case: str) -> SegmentationNetwork:
    return copy.deepcopy(built(case))


def images(count: int, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def training_loss(model: SegmentationNetwork, image_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    return combined_loss(
        model.train()(image_NCHW), model.auxiliary_weights, partial(cross_entropy_sum, labels_NHW=labels_NHW)
    )


def random_labels(image_NCHW: Tensor) -> Tensor:
    shape = (image_NCHW.shape[0], *image_NCHW.shape[2:])
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
