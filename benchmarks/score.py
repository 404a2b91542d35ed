"""Scoring a folder of Cityscapes-sized predictions, against cityscapesScripts, equal to it with ==, and torchmetrics.

    python benchmarks/score.py [--maps N] [--rounds N] [--workers 1 2] [--json FILE]

The maps are those of Cityscapes in $MSANET_TEST_DATA, again and again, or drawn street scenes of 2048 x 1024 without it; the
predictions are shifted copies. Wall-clock seconds, imports excluded, the start of processes included.

torchmetrics has the class IoU alone, from files read by Pillow, in one process and thread: MulticlassJaccardIndex, over pixels,
with a 20th class for predictions of no class, and segmentation.MeanIoU, which averages over images and has no label to ignore, so
that void is a class of it.
"""

import argparse
import copy
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.datasets.cityscapes import LABELS  # noqa: E402

if TYPE_CHECKING:
    from msanet.evaluation.result import EvaluationResult

PEER = "cityscapesScripts"


def main() -> int:
    """Measure and print a table; 1 if the scores differ."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--maps", type=int, default=40, help="label maps (default 40)")
    options.add_argument("--rounds", type=int, default=3, help="turns of each subject (default 3)")
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes (default 1 and 2)")
    options.add_argument(
        "--mean-iou", action="store_true", help="also segmentation.MeanIoU, which takes many times as long"
    )
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = write_maps(Path(folder), args.maps)
        results: dict[str, Any] = {}
        subjects: dict[str, Callable[[], float]] = {
            PEER: partial(seconds, PEER, results, partial(official, truth, predictions))
        }
        for name, metric in metrics(args.mean_iou).items():
            subjects[name] = partial(seconds, name, results, partial(by_torchmetrics, truth, predictions, metric))
        for workers in args.workers:
            name = f"msanet score --workers {workers}"
            subjects[name] = partial(seconds, name, results, partial(ours, truth, predictions, workers))
        found = in_turns(subjects, args.rounds)
    ratios = {name: median_ratio(found[PEER], own) for name, own in found.items()}
    means = {name: mean_iou(result) for name, result in results.items()}
    rows = [
        (name, float(np.median(own)) * 1e3 / args.maps, ratios[name], f"{means[name]:.4%}")
        for name, own in found.items()
    ]
    print_table((f"{args.maps} maps", "ms a map", "times as fast", "mIoU"), rows)
    are_equal = all(same(results[PEER], result) for name, result in results.items() if name.startswith("msanet"))
    print("scores: equal to the last digit" if are_equal else "scores: DIFFERENT")
    figures = {"maps": args.maps, "seconds": found, "ratios": ratios, "mean_iou": means, "are_equal": are_equal}
    write_json(args.json, figures)
    return int(not are_equal)


def seconds(name: str, results: dict[str, Any], work: Callable[[], Any]) -> float:
    """Of one call, whose result is kept."""
    start = time.perf_counter()
    results[name] = work()
    return time.perf_counter() - start


def ours(truth: Path, predictions: Path, workers: int) -> "EvaluationResult":
    """By `msanet score`, whose processes import this file, but not the command with PyTorch."""
    from msanet.cli.score import parser, score

    words = ["--predictions", predictions, "--truth", truth, "--protocol", "official-cityscapes", "--workers", workers]
    result, _ = score(parser().parse_args([str(word) for word in words]))
    assert result.protocol_scores
    return result


def official(truth: Path, predictions: Path) -> dict[str, Any]:
    """By cityscapesScripts, which calls np.in1d: NumPy 2.4 has only np.isin."""
    vars(np).setdefault("in1d", np.isin)
    script = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet = False, True
    pairs = [
        map(str, sorted(folder.glob(pattern))) for folder, pattern in ((predictions, "*"), (truth, "*_labelIds.png"))
    ]
    result: dict[str, Any] = script.evaluateImgLists(*map(list, pairs), args)
    return result


def metrics(with_mean_iou: bool) -> dict[str, Any]:
    """Those of torchmetrics."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    jaccard = importlib.import_module("torchmetrics.classification").MulticlassJaccardIndex
    iou = {"torchmetrics, JaccardIndex": jaccard(20, average="none", ignore_index=255, zero_division=float("nan"))}
    if with_mean_iou:
        of_images = importlib.import_module("torchmetrics.segmentation").MeanIoU
        iou["torchmetrics, MeanIoU"] = of_images(20, per_class=True, input_format="index")
    return iou


def by_torchmetrics(truth: Path, predictions: Path, metric: Any) -> np.ndarray:
    """Its IoU of the 19 classes."""
    torch = importlib.import_module("torch")
    train_ids = np.full(256, 19, np.uint8)
    for label in LABELS:
        if 0 <= label.train_id < 19:
            train_ids[label.id] = label.train_id
    ignored = train_ids if "MeanIoU" in type(metric).__name__ else np.where(train_ids == 19, 255, train_ids)
    metric.reset()
    for file, label_file in zip(sorted(predictions.glob("*")), sorted(truth.glob("*_labelIds.png")), strict=True):
        pairs = ((file, train_ids), (label_file, ignored))
        metric.update(*(torch.from_numpy(table[np.asarray(Image.open(path))])[None].long() for path, table in pairs))
    return np.asarray(metric.compute())[:19]


def mean_iou(result: Any) -> float:
    """As each has it; classes that no image has, for torchmetrics nan or -1, do not count."""
    if isinstance(result, np.ndarray):
        return float(result[result >= 0].mean())
    return float(result["averageScoreClasses"] if isinstance(result, dict) else result.protocol_scores.scores.mean_iou)


def same(theirs: dict[str, Any], result: "EvaluationResult") -> bool:
    """Whether all scores are equal, compared with ==."""
    own = result.protocol_scores
    assert own.categories and own.class_instances and own.category_instances
    names = (
        (dict(zip(result.classes, own.scores.iou_K.tolist(), strict=True)), "classScores"),
        (own.class_instances.values, "classInstScores"),
        (own.categories.values, "categoryScores"),
        (own.category_instances.values, "categoryInstScores"),
    )
    values = [(value, theirs[kind][name]) for mine, kind in names for name, value in mine.items()]
    values += [
        (own.scores.mean_iou, theirs["averageScoreClasses"]),
        (own.categories.mean, theirs["averageScoreCategories"]),
    ]
    values += [(own.class_instances.mean, theirs["averageScoreInstClasses"])]
    return all(a == b or (np.isnan(a) and np.isnan(b)) for a, b in values)


def write_maps(folder: Path, count: int) -> tuple[Path, Path]:
    """The folders of truth and predictions: label ids, and instances beside the truth."""
    truth, predictions = folder / "gtFine" / "val" / "city", folder / "predictions"
    truth.mkdir(parents=True)
    predictions.mkdir()
    sources = sorted(Path(os.environ.get("MSANET_TEST_DATA", "-")).glob("cityscapes/gtFine/val/*/*_instanceIds.png"))
    for number in range(count):
        name = f"city_{number:06d}_000000"
        file = truth / f"{name}_gtFine_instanceIds.png"
        if sources:
            shutil.copy(sources[number % len(sources)], file)
        else:
            Image.fromarray(street(number)).save(file)
        ids_HW = np.asarray(Image.open(file)).astype(np.int64)
        label_HW = np.where(ids_HW >= 1000, ids_HW // 1000, ids_HW).astype(np.uint8)
        Image.fromarray(label_HW).save(truth / f"{name}_gtFine_labelIds.png")
        Image.fromarray(np.roll(label_HW, (5 + number, 9), (0, 1))).save(predictions / f"{name}.png")
    return truth, predictions


def street(number: int) -> np.ndarray:
    """(1024, 2048) uint16 instance ids: bands of classes, and boxes of instances on them."""
    rng = np.random.default_rng(number)
    ids_HW = np.repeat(np.sort(rng.integers(0, 24, 32)), 32)[:, None].repeat(2048, axis=1).astype(np.uint16)
    kinds = [label.id for label in LABELS if label.has_instances]
    for instance in range(40):
        top, left = rng.integers(0, 900), rng.integers(0, 1900)
        box = ids_HW[top : top + rng.integers(10, 120), left : left + rng.integers(10, 150)]
        box[:] = rng.choice(kinds) * 1000 + instance
    return ids_HW


if __name__ == "__main__":
    sys.exit(main())
