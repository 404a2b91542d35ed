"""What networks of other libraries cost as msanet sees them: parameters, arithmetic of a forward pass, and how they are adapted.

    python benchmarks/library_networks.py [--only NAME ...] [--json FILE]

21 classes, one image of 512x512, 2 x multiply-add in convolutions, matrix products and attention. Counted on fake tensors; no
weights are downloaded.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_table, write_json  # noqa: E402

from models import build  # noqa: E402
from msanet.models.external import AdaptedNetwork, check_contract  # noqa: E402

SIDE = 512
NETWORKS = (
    "smp:Unet encoder_name=resnet34",
    "smp:UnetPlusPlus encoder_name=resnet34",
    "smp:FPN encoder_name=resnet34",
    "smp:PSPNet encoder_name=resnet34",
    "smp:DeepLabV3Plus encoder_name=resnet50",
    "smp:UPerNet encoder_name=tu-convnext_tiny",
    "smp:Segformer encoder_name=mit_b0",
    "smp:Segformer encoder_name=mit_b2",
    "hf:segformer",
    "hf:upernet",
    "hf:mobilevitv2",
    "timm:tf_efficientnet_lite0",
    "timm:resnet50",
    "timm:convnext_tiny",
    "timm:swin_tiny_patch4_window7_224",
    "timm:vit_small_patch14_dinov2",
    "timm:vit_small_patch16_dinov3",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:fcn_resnet50",
)
HEADER = ("network", "parameters", f"GFLOP, {SIDE} x {SIDE}", "sizes are multiples of", "logits at 1 /", "frozen")


def main() -> int:
    """Build, count, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=NETWORKS, metavar="NAME", help='such as "smp:FPN encoder_name=resnet18"'
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    rows, figures = [], {}
    for label in args.only:
        found = figures[label] = costs(label)
        parameters = f"{found['parameters']:,}"
        rows.append(
            (
                f"`{label}`",
                parameters,
                f"{found['flop'] / 1e9:,.1f}",
                *(str(found[key]) for key in ("multiple", "stride", "frozen")),
            )
        )
    print_table(HEADER, rows)
    write_json(args.json, {"networks": figures})
    return 0


@torch.no_grad()
def costs(label: str) -> dict[str, int]:
    """The figures of one network. frozen: its parameters that get no gradient."""
    network = build(label)
    assert isinstance(network, AdaptedNetwork)
    with torch.enable_grad():
        frozen = len(check_contract(network, label))
    side = network.layout.multiple * -(-SIDE // network.layout.multiple)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        build(label).eval()(torch.empty(1, 3, side, side))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flop": counter.get_total_flops(),
        "multiple": network.layout.multiple,
        "stride": network.layout.stride,
        "frozen": frozen,
    }


if __name__ == "__main__":
    sys.exit(main())
