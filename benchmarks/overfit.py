"""Whether each network can learn: four CamVid images by heart, at small width on a CPU, above 90 percent of all pixels.

    python benchmarks/overfit.py --source FOLDER [--only NAME ...] [--json FILE]

FOLDER is CamVid as SegNet's authors distribute it, with `train/` and `trainannot/`. Adam with the same learning rate for
all networks; a network is done at the first look (every 25 steps) at which it has, in evaluation mode, more than 90
percent of the labelled pixels right. Exit code 1 if one has not by its last step.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_table, write_json  # noqa: E402

from msanet.datasets import CAMVID, IGNORE_INDEX  # noqa: E402
from msanet.losses import cross_entropy_sum  # noqa: E402
from msanet.models import build_model  # noqa: E402
from msanet.models.network import SegmentationNetwork, combined_loss  # noqa: E402

BAR, IMAGES, LOOK_EVERY = 0.9, 4, 25
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Subject:
    """A network, its width, and the (height, width) that the images are brought to."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    width: float = 0.125
    size: tuple[int, int] = (96, 128)


SUBJECTS = {
    "msanet": Subject("msanet"),
    "msanet, attention none": Subject("msanet", {"attention": "none"}),
    "msanet, attention fusion": Subject("msanet", {"attention": "fusion"}),
    "fcn-32s": Subject("fcn", {"variant": "32s"}, size=(360, 480)),
    "fcn-16s": Subject("fcn", {"variant": "16s"}, size=(240, 320)),
    "fcn-8s": Subject("fcn", {"variant": "8s"}, size=(240, 320)),
    "unet": Subject("unet"),
    "deeplab_largefov": Subject("deeplab_largefov", size=(240, 320)),
    "deeplab_msc_largefov": Subject("deeplab_msc_largefov", size=(240, 320)),
    "deeplabv3, resnet50, stride 16": Subject("deeplabv3", size=(240, 320)),
    "deeplabv3, resnet101, stride 8": Subject(
        "deeplabv3", {"backbone": "resnet101", "output_stride": 8, "auxiliary": True}, size=(240, 320)
    ),
    "attention_to_scale, deeplab_largefov": Subject("attention_to_scale", size=(240, 320)),
    "deeplabv3, group norm": Subject("deeplabv3", {"norm": "group"}, size=(240, 320)),
}


def main() -> int:
    """Train every network, print the table; 1 if one stays below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with CamVid's train/ and trainannot/")
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="these networks")
    parser.add_argument("--steps", type=int, default=800, help="at most so many steps a network")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    figures = {}
    for label in args.only:
        figures[label] = by_heart(SUBJECTS[label], args.source, args.steps)
        print(f"{label}: {figures[label]}", file=sys.stderr, flush=True)
    header = ("network", "size", "width", "parameters", "steps", "accuracy", "CPU seconds")
    print_table(header, [(label, *found.values()) for label, found in figures.items()])
    write_json(args.json, {"bar": BAR, "networks": figures})
    return int(any(found["accuracy"] <= BAR for found in figures.values()))


def by_heart(subject: Subject, source: Path, max_steps: int) -> dict[str, Any]:
    """Train one network from scratch until it knows the images; the row of the table."""
    torch.manual_seed(0)
    images_NCHW, labels_NHW = read_images(source, subject.size)
    model = build_model(subject.name, CAMVID.num_classes, width=subject.width, **subject.options)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    start, accuracy, step = time.process_time(), 0.0, 0  # others may share the machine
    while accuracy <= BAR and step < max_steps:
        model.train()
        for _ in range(LOOK_EVERY):
            optimizer.zero_grad()
            training_loss(model, images_NCHW, labels_NHW).backward()
            optimizer.step()
        step += LOOK_EVERY
        accuracy = pixel_accuracy(model, images_NCHW, labels_NHW)
    return {
        "size": "{} x {}".format(*subject.size),
        "width": subject.width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": step,
        "accuracy": round(accuracy, 3),
        "seconds": round(time.process_time() - start),
    }


def training_loss(model: SegmentationNetwork, images_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """Mean cross-entropy per labelled pixel, with that of auxiliary heads."""
    term = partial(cross_entropy_sum, labels_NHW=labels_NHW)
    return combined_loss(model(images_NCHW), model.auxiliary_weights, term) / torch.count_nonzero(
        labels_NHW != IGNORE_INDEX
    )


@torch.no_grad()
def pixel_accuracy(model: SegmentationNetwork, images_NCHW: Tensor, labels_NHW: Tensor) -> float:
    """Share of labelled pixels that are right, in evaluation mode."""
    right = model.eval()(images_NCHW).argmax(1) == labels_NHW
    return right.sum().item() / torch.count_nonzero(labels_NHW != IGNORE_INDEX).item()


def read_images(source: Path, size_HW: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images spread over the split, normalized (N, 3, H, W), and their train ids (N, H, W) uint8."""
    paths = sorted((source / "train").glob("*.png"))
    if len(paths) < IMAGES:
        sys.exit(
            f"'{source}/train' holds {len(paths)} images, expected at least {IMAGES}; give --source CamVid's folder"
        )
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for own, train_id in CAMVID.train_ids.items():
        table[own] = train_id
    images, labels = [], []
    for path in paths[:: len(paths) // IMAGES][:IMAGES]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert image is not None, path
        label = table[cv2.imread(str(source / "trainannot" / path.name), cv2.IMREAD_GRAYSCALE)]
        images.append(cv2.resize(image, size_HW[::-1], interpolation=cv2.INTER_AREA))
        labels.append(cv2.resize(label, size_HW[::-1], interpolation=cv2.INTER_NEAREST))
    images_NHWC = torch.from_numpy(np.stack(images)).float()
    return ((images_NHWC - 128) / 64).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(labels))


if __name__ == "__main__":
    sys.exit(main())
