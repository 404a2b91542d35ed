"""Networks of other libraries, and one of a user's file, small where they can be; what tests of all of them share."""

import importlib.util
from typing import Any

import support.torchvision_shim.sitecustomize  # noqa: F401  # ranks import this before torchvision
from conftest import REPOSITORY

_SMALL = {"encoder_name": "tu-test_resnet", "encoder_depth": 4, "decoder_channels": [32, 16, 8, 8]}
SEGFORMER = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
}
LIBRARY_NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "unet": ("smp:Unet", _SMALL, 0),
    "unetplusplus": ("smp:UnetPlusPlus", _SMALL, 0),
    "manet": ("smp:MAnet", _SMALL, 0),
    "linknet": ("smp:Linknet", {"encoder_name": "tu-test_efficientnet"}, 0),
    "fpn": ("smp:FPN", {"encoder_name": "tu-test_resnet", "decoder_segmentation_channels": 32}, 0),
    "pspnet": ("smp:PSPNet", {"encoder_name": "resnet18", "psp_out_channels": 16}, 30),
    "deeplabv3": ("smp:DeepLabV3", {"encoder_name": "tu-test_resnet", "decoder_channels": 16}, 0),
    "deeplabv3plus": ("smp:DeepLabV3Plus", {"encoder_name": "mobilenet_v2", "decoder_channels": 16}, 0),
    "pan": ("smp:PAN", {"encoder_name": "tu-test_efficientnet"}, 0),
    "upernet": ("smp:UPerNet", {"encoder_name": "tu-test_convnext", "decoder_channels": 16}, 0),
    "smp-segformer": ("smp:Segformer", {"encoder_name": "mit_b0", "decoder_segmentation_channels": 16}, 0),
    "dpt": (
        "smp:DPT",
        {
            "encoder_name": "tu-test_vit",
            "encoder_depth": 4,
            "decoder_intermediate_channels": [16, 16, 16, 16],
            "decoder_fusion_channels": 16,
        },
        4,
    ),
    "hf-segformer": ("hf:segformer", SEGFORMER, 0),
    "hf-mobilenet_v2": ("hf:mobilenet_v2", {"depth_multiplier": 0.35}, 3),
    "hf-mobilevitv2": ("hf:mobilevitv2", {"width_multiplier": 0.25}, 0),
    "timm-resnet": ("timm:test_resnet", {"head_channels": 16}, 0),
    "timm-convnext": ("timm:test_convnext", {"head_channels": 16}, 0),
    "timm-vit": ("timm:test_vit", {"head_channels": 16}, 0),
    "timm-efficientnet": ("timm:test_efficientnet", {"head": "linear"}, 0),
    "lraspp": ("torchvision:lraspp_mobilenet_v3_large", {}, 0),
    "fcn": ("torchvision:fcn_resnet50", {"aux_loss": True}, 0),
    "user": (f"{REPOSITORY}/tests/models/external_networks.py:Auxiliary", {}, 2),
}
"""Name: network, its options, number of its parameters without a gradient."""
SOLID = {name: case for name, case in LIBRARY_NETWORKS.items() if name != "fcn"}
"""All but a large one."""

_PACKAGES = {"smp": "segmentation_models_pytorch", "hf": "transformers", "timm": "timm", "torchvision": "torchvision"}


def is_installed(network: str) -> bool:
    """Whether the library of a network is."""
    package = _PACKAGES.get(network.partition(":")[0])
    return package is None or importlib.util.find_spec(package) is not None
