"""What judging costs beside the network: counting against NumPy's and torchmetrics' ways, and the evaluator beyond inference.

    python benchmarks/evaluator.py [--rounds N] [--network NAME] [--json FILE]

One image of 2048 x 1024 and 19 classes, labelled in blocks with a tenth ignored, predicted with a tenth wrong. The network is the
zoo's cheapest unless told otherwise, so that the share is the largest there is. One thread for all.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import in_turns, median_ratio, print_table, write_json  # noqa: E402

from msanet.config import EvaluationConfig  # noqa: E402
from msanet.data.pipeline import EvaluationSample  # noqa: E402
from msanet.datasets import CITYSCAPES, IGNORE_INDEX  # noqa: E402
from msanet.evaluation.confusion import confusion_matrix_with_void  # noqa: E402
from msanet.evaluation.evaluator import EvaluationAccumulator  # noqa: E402
from msanet.inference.predictor import Predictor  # noqa: E402
from msanet.models import build_model  # noqa: E402

HEIGHT, WIDTH, CLASSES = 1024, 2048, CITYSCAPES.num_classes


def main() -> int:
    """Measure, print two tables; 1 if counting is slower than a peer's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each subject")
    parser.add_argument("--network", default="deeplabv3", help="network of the second table, at full width")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sample = street()
    counting = counting_times(sample, args.rounds)
    ours = counting["msanet.evaluation"]
    ratios = {name: median_ratio(seconds, ours) for name, seconds in counting.items()}
    print_table(("counting one image", "ms", "of ours"), [(n, median(s) * 1e3, ratios[n]) for n, s in counting.items()])
    judging = judging_times(sample, args.network)
    print_table(
        ("evaluating one image", "s", "of inference"), [(n, s, s / judging["inference"]) for n, s in judging.items()]
    )
    write_json(args.json, {"counting": counting, "ratios": ratios, "network": args.network, "judging": judging})
    return int(min(ratios.values()) < 1)


def counting_times(sample: EvaluationSample, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of one image's confusion matrix, ours and the usual ways, after holding them against one another."""
    label, prediction = sample.label_HW, damaged(sample.label_HW)
    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE_INDEX, validate_args=False)

    def numpy_way() -> Any:
        """As in the reference code of FCN: a mask, then bincount of pairs."""
        truth, predicted = label.numpy(), prediction.numpy()
        mask = truth < CLASSES
        pairs = CLASSES * truth[mask].astype(np.int64) + predicted[mask]
        return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def torchmetrics_way() -> Any:
        metric.reset()
        metric.update(prediction, label)
        return metric.compute()

    subjects: dict[str, Callable[[], Any]] = {
        "msanet.evaluation": lambda: confusion_matrix_with_void(label, prediction, CLASSES),
        "NumPy's bincount": numpy_way,
        "torchmetrics": torchmetrics_way,
    }
    matrices = [np.asarray(subject())[:, :CLASSES] for subject in subjects.values()]
    assert all((matrix == matrices[0]).all() for matrix in matrices), "they count differently"
    return in_turns({name: partial(seconds, subject) for name, subject in subjects.items()}, rounds)


def judging_times(sample: EvaluationSample, network: str) -> dict[str, float]:
    """CPU seconds of inference on one image, labels included, and of all that the evaluator does besides."""
    torch.manual_seed(0)
    model = build_model(network, CLASSES).eval()
    settings = EvaluationConfig(panels=0, worst=1)
    predictor = Predictor(model, settings, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    accumulator = EvaluationAccumulator(CITYSCAPES.classes, 1, settings, predictor.device)
    with torch.inference_mode():
        logits = predictor.scores(sample.image_HWC)
    inference = seconds(lambda: predictor.labels(sample.image_HWC))
    predictor.scores = lambda image_HWC: logits  # type: ignore[method-assign]
    labels = min(seconds(lambda: predictor.labels(sample.image_HWC)) for _ in range(3))
    beyond = min(seconds(lambda: accumulator.add(sample, predictor)) for _ in range(3)) - labels
    return {"inference": inference, "evaluator beyond it": beyond}


def street() -> EvaluationSample:
    """Blocks of 64 x 64 of one class each; every tenth is ignored."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, CLASSES, (HEIGHT // 64, WIDTH // 64)).astype(np.uint8)
    blocks[rng.random(blocks.shape) < 0.1] = IGNORE_INDEX
    label = torch.from_numpy(blocks.repeat(64, axis=0).repeat(64, axis=1))
    image = torch.from_numpy(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    return EvaluationSample(0, "street", image, label)


def damaged(label_HW: torch.Tensor) -> torch.Tensor:
    """A prediction: classes everywhere, a tenth of the pixels at random."""
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.integers(0, CLASSES, label_HW.shape).astype(np.uint8))
    replaced = torch.from_numpy(rng.random(label_HW.shape) < 0.1) | (label_HW == IGNORE_INDEX)
    return torch.where(replaced, noise, label_HW)


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call: others may share the machine."""
    start = time.process_time()
    work()
    return time.process_time() - start


def median(values: list[float]) -> float:
    """The middle one."""
    return float(np.median(values))


if __name__ == "__main__":
    sys.exit(main())
