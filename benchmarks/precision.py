"""Labels in bf16 against labels in fp32, of a network that has learned something: how many pixels differ.

    python benchmarks/precision.py --shards SHARDS [--steps N] [--batch N] [--width W] [--size H W] [--json FILE]

MSANet is first trained for some steps on the training split, in memory, by a plain loop in bf16; then the validation split is
labeled twice, as evaluation does it (`evaluation.precision`), fp32 without TF32. A random network would have nearly tied classes
everywhere, a well-trained one has fewer near ties than this one: the share is an upper bound.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from harness import print_table, write_json  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from msanet.config import EvaluationConfig  # noqa: E402
from msanet.data.image.color import normalize  # noqa: E402
from msanet.data.loader import evaluation_loader  # noqa: E402
from msanet.data.shard_source import ShardSource, read_manifest  # noqa: E402
from msanet.data.storage import LocalStorage  # noqa: E402
from msanet.errors import user_errors  # noqa: E402
from msanet.evaluation.confusion import confusion_matrix_with_void  # noqa: E402
from msanet.evaluation.metrics import scores  # noqa: E402
from msanet.inference.predictor import Predictor  # noqa: E402
from msanet.models import build_model  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PRECISIONS = ("fp32", "bf16")


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="made by python -m sharding")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    parser.add_argument("--batch", type=int, default=8, help="images of a training step")
    parser.add_argument("--width", type=float, default=1.0, help="model.width")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of the upper left part that is taken")
    parser.add_argument("--images", type=int, default=101, help="at most so many images of a split")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    with user_errors():
        measure(args)
    return 0


def measure(args: argparse.Namespace) -> None:
    """The table, and the JSON after each image."""
    source, part = ShardSource(LocalStorage(args.shards), "train"), tuple(map(slice, args.size or (None, None)))
    classes = read_manifest(LocalStorage(args.shards)).classes
    images_NHWC, labels_NHW = in_memory(source, 4 * args.images, part)
    torch.manual_seed(0)
    model = build_model("msanet", len(classes), width=args.width).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    speed = train(model, images_NHWC, labels_NHW, args.steps, args.batch)
    predictors = {name: Predictor(model.eval(), EvaluationConfig(precision=name), MEAN, STD) for name in PRECISIONS}
    matrices = {name: torch.zeros(len(classes), len(classes), dtype=torch.int64) for name in PRECISIONS}
    seconds = dict.fromkeys(PRECISIONS, 0.0)
    same: list[float] = []
    found: dict[str, Any] = {}
    for sample in evaluation_loader(ShardSource(LocalStorage(args.shards), "val"), 0, 1, workers=0):
        labels = {}
        for name, predictor in predictors.items():
            start = time.perf_counter()
            labels[name] = predictor.labels(sample.image_HWC[part]).cpu()
            seconds[name] += time.perf_counter() - start
            matrices[name] += confusion_matrix_with_void(sample.label_HW[part], labels[name], len(classes))[:, :-1]
        same.append((labels["fp32"] == labels["bf16"]).float().mean().item())
        found = {
            "settings": {"steps": args.steps, "batch": args.batch, "width": args.width, "size": labels["fp32"].shape},
            "training_images_per_second": speed,
            "images": len(same),
            "same": sum(same) / len(same),
            "same_in_the_worst_image": min(same),
            "mean_iou": {name: scores(matrix.numpy(), classes).mean_iou for name, matrix in matrices.items()},
            "images_per_second": {name: len(same) / used for name, used in seconds.items()},
        }
        write_json(args.json, found, is_complete=False)
        if len(same) == args.images:
            break
    rows = [(name, f"{100 * found['mean_iou'][name]:.2f}", found["images_per_second"][name]) for name in PRECISIONS]
    print_table(("precision", "mIoU, percent", "images/s"), rows)
    print(f"pixels that differ: {1 - found['same']:.4%}, in the worst image {1 - min(same):.4%}")
    write_json(args.json, found)


def in_memory(source: ShardSource, most: int, part: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
    """Parts of images (N, H, W, 3) and labels (N, H, W), uint8, of those as large as the first, on the device."""
    samples: list[Any] = []
    for sample in evaluation_loader(source, 0, 1, workers=0):
        if not samples or sample.image_HWC.shape == samples[0].image_HWC.shape:
            samples.append(sample)
        if len(samples) == most:
            break
    images, labels = (torch.stack([getattr(one, name)[part] for one in samples]) for name in ("image_HWC", "label_HW"))
    return images.to(DEVICE), labels.to(DEVICE)


def train(model: nn.Module, images_NHWC: Tensor, labels_NHW: Tensor, steps: int, batch: int) -> float:
    """Images per second of steps on random images, half of them flipped, with a linearly falling learning rate."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    start = time.perf_counter()
    for step in range(steps):
        if step == min(5, steps - 1):  # kernels are chosen
            torch.cuda.synchronize() if DEVICE == "cuda" else None
            start, warm = time.perf_counter(), step
        chosen = torch.randint(len(images_NHWC), (batch,), device=DEVICE)
        images, labels = images_NHWC[chosen], labels_NHW[chosen].long()
        if step % 2:
            images, labels = images.flip(2), labels.flip(2)
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = model(normalize(images, MEAN, STD))
        loss = F.cross_entropy(logits.float(), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        optimizer.step()
    print(f"loss {loss.item():.3f} after {steps} steps", file=sys.stderr)  # which waits for a GPU
    return batch * (steps - warm) / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
