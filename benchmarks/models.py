"""What every network costs: parameters, arithmetic, memory of a training step, speed on this machine.

    python benchmarks/models.py [--only "NAME [OPTION=VALUE ...]" ...] [--rounds N] [--json FILE]

Width 1 and 21 classes. Arithmetic is that of the forward pass of one image: 2 x multiply-add in convolutions, matrix products
and attention, nothing else. StepMemory is what autograd keeps of one image in float32 when the backward pass begins, parameters
and buffers not counted. Both follow from shapes alone and hold on any device. Speed is that of single images on one core, in
float32 and evaluation mode, per second of CPU time, as others may share the machine; the networks take turns, and the ratio to
MSANet is taken inside a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.models import build_model  # noqa: E402
from msanet.models.network import SegmentationNetwork, combined_loss  # noqa: E402

CLASSES = 21
CROP, STREET = (224, 224), (1024, 2048)  # (height, width): the MSANet paper's crop, and an image of Cityscapes
PEER = "msanet"
NETWORKS = (
    PEER,
    "msanet attention=fusion",
    "msanet attention=none",
    "fcn variant=32s",
    "fcn variant=16s",
    "fcn variant=8s",
    "unet",
    "deeplab_largefov",
    "deeplab_msc_largefov",
    "deeplabv3 backbone=resnet50",
    "deeplabv3 backbone=resnet50 output_stride=8",
    "deeplabv3 backbone=resnet101",
    "deeplabv3 backbone=resnet101 output_stride=8",
    "attention_to_scale network=deeplab_largefov",
    "attention_to_scale network=deeplab_msc_largefov",
)
HEADER = (
    "network",
    "parameters",
    "GFLOP, 224 x 224",
    "GFLOP, 2048 x 1024",
    "kept, 224 x 224",
    "kept, 2048 x 1024",
    "images per CPU second",
    "of MSANet's",
)


def main() -> int:
    """Count, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME", help="these networks")
    parser.add_argument("--rounds", type=int, default=5, help="each network is timed once a round")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    labels = tuple(dict.fromkeys((PEER, *args.only)))
    speeds = in_turns({label: single_images(label) for label in labels}, args.rounds)
    figures = {label: {**costs(label), "images_per_cpu_second": speeds[label]} for label in labels}
    print_table(HEADER, [row(label, figures[label], speeds[PEER]) for label in labels])
    write_json(args.json, {"networks": figures})
    return 0


def row(label: str, found: dict[str, Any], peer: list[float]) -> tuple[str, ...]:
    """One line of the table."""
    speed = found["images_per_cpu_second"]
    return (
        f"`{label}`",
        f"{found['parameters']:,}",
        *(f"{found['flop'][size] / 1e9:,.0f}" for size in range(2)),
        f"{found['kept_bytes'][0] / 1e6:,.0f} MB",
        f"{found['kept_bytes'][1] / 1e9:,.1f} GB",
        f"{statistics.median(speed):.2f}",
        f"{median_ratio(speed, peer):.2f}",
    )


def costs(label: str) -> dict[str, Any]:
    """What follows from shapes; figures for both sizes are pairs (CROP, STREET)."""
    network = build(label, torch.device("meta"))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "flop": tuple(forward_flop(network, *size) for size in (CROP, STREET)),
        "kept_bytes": tuple(kept_bytes(label, *size) for size in (CROP, STREET)),
    }


def build(label: str, device: torch.device | None = None, classes: int = CLASSES) -> SegmentationNetwork:
    """The network that `name option=value ...` says."""
    name, *pairs = label.split()
    options = {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)}
    with device or torch.device("cpu"):
        return build_model(name, classes, **options)


@torch.no_grad()
def forward_flop(network: SegmentationNetwork, height: int, width: int) -> int:
    """Of one image, for a network on the meta device.

    There attention takes its plain form, two matrix products, 4 N^2 d for N positions of d channels; that is also what the
    fused kernel computes, in other places.
    """
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops()


def kept_bytes(label: str, height: int, width: int, classes: int = CLASSES) -> int:
    """Bytes that autograd keeps of one image for the backward pass, the loss's too; each piece of memory once.

    Counted on fake tensors of the CPU, which allocate nothing and take the kernels that real ones would.
    """
    with FakeTensorMode():
        return _kept_bytes(build(label, classes=classes), height, width)


def _kept_bytes(network: SegmentationNetwork, height: int, width: int) -> int:
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor  # holds the storage, so that its address stays its own

    image_NCHW, label_NHW = torch.randn(1, 3, height, width), torch.zeros(1, height, width, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(image_NCHW)
        loss = combined_loss(output, network.auxiliary_weights, lambda logits: F.cross_entropy(logits, label_NHW))
    del loss  # held up to here: the graph, and with it what was kept
    return sum(kept.values())


def single_images(label: str) -> Callable[[], float]:
    """What measures images per second of CPU time of one network, at CROP."""
    network = build(label).eval()
    image_NCHW = torch.randn(1, 3, *CROP)

    @torch.no_grad()
    def measure() -> float:
        network(image_NCHW)  # warm
        start, images = time.process_time(), 0
        while images == 0 or time.process_time() - start < 0.5:
            network(image_NCHW)
            images += 1
        return images / (time.process_time() - start)

    return measure


if __name__ == "__main__":
    sys.exit(main())
