"""`msanet.metrics`: equal to the evaluator and to the official tool, in every form that predictions have."""

import importlib.util
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.segmentation import MeanIoU

import msanet.metrics
from msanet.config import EvaluationConfig
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.metrics import scores
from msanet.evaluation.per_image_counts import read_per_image_counts
from msanet.evaluation.result import write_evaluation
from msanet.evaluation.statistics import paired_difference
from msanet.inference.predictor import Predictor
from msanet.metrics import SegmentationScores
from msanet.models import build_model
from msanet.run_layout import RunLayout
from support.errors import raises_user_error

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


def batch(seed: int = 0, images: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K, 12, 16) and labels with ignored pixels, the first half without the last class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images, 12, 16), generator=rng)
    labels[: images // 2].clamp_(max=classes - 2)
    logits = torch.randn(images, classes, 12, 16, generator=rng) + 2 * torch.nn.functional.one_hot(labels).movedim(3, 1)
    labels[:, :2] = 255
    return logits, labels


def values(metric: Any, *batches: Any) -> dict[str, float]:
    for one in batches:
        metric.update(*one)
    return {name: value.item() for name, value in metric.compute().items()}


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    return a.keys() == b.keys() and np.array_equal(list(a.values()), list(b.values()), equal_nan=True)


def test_equal_to_the_evaluator_to_the_last_digit(shards: Path, tmp_path: Path) -> None:
    """Boundaries, calibration, intervals and worst images too; and `compare` finds no difference."""
    torch.manual_seed(1)
    model = build_model("msanet", 11, width=0.125).eval()
    source = ShardSource(LocalStorage(shards), "val")
    settings = EvaluationConfig(num_workers=0, boundary=True, panels=0, worst=0)
    expected = evaluate(model, source, settings, MEAN, STD)
    predictor = Predictor(model, settings, MEAN, STD)
    metric = SegmentationScores(
        11, per_image=True, class_names=source.manifest.classes, boundary=True, calibration=True
    )
    for numbers in ([6, 2, 0], [4], [1, 5, 3]):
        pairs = [decode_sample(source.read(number)) for number in numbers]
        with torch.inference_mode():
            logits = torch.cat([predictor.scores(torch.from_numpy(image)) for image, _ in pairs])
        metric.update(logits, torch.stack([torch.from_numpy(label) for _, label in pairs]), numbers)
    found = metric.evaluation([source.key(number) for number in range(7)], source.manifest.name)
    assert same(values(metric), expected.flat_metrics()) and found.is_complete
    assert found.to_json() == expected.to_json()
    (tmp_path / "mine").mkdir()
    write_evaluation(tmp_path / "mine", found)
    read = read_per_image_counts(RunLayout(tmp_path / "mine").per_image_counts("val"))
    compared = paired_difference(expected.per_image_counts, read).metrics["mean_iou"]
    assert compared.difference.low == compared.difference.high == 0
    assert compared.first == compared.second == expected.protocol_scores.scores.mean_iou


def test_the_mean_over_images_is_another_figure() -> None:
    """torchmetrics' MeanIoU averages over images; ours adds pixels and divides once."""
    logits, labels = batch()
    labels = labels.clamp(max=2)  # MeanIoU has no ignore_index
    prediction = logits.argmax(dim=1)
    matrix = torch.bincount((labels * 3 + prediction).flatten(), minlength=9).reshape(3, 3).numpy()
    dataset_level = scores(matrix, ("a", "b", "c")).mean_iou
    ours = values(SegmentationScores(3), (prediction[:2], labels[:2]), (prediction[2:], labels[2:]))["mean_iou"]
    theirs = MeanIoU(3, input_format="index")(prediction, labels).item()
    assert ours == dataset_level and abs(theirs - dataset_level) > 0.01


def test_every_form_of_predictions_gives_the_same() -> None:
    logits, labels = batch()
    expected = values(SegmentationScores(3), (logits, labels))
    for form in (logits.softmax(dim=1), logits.argmax(dim=1), logits.double(), logits.argmax(dim=1).to(torch.uint8)):
        assert same(
            values(SegmentationScores(3), (form[:3], labels[:3]), (form[3:], labels[3:].to(torch.uint8))), expected
        )
    calibrated = values(SegmentationScores(3, calibration=True), (logits, labels))
    given = values(SegmentationScores(3, calibration=True), (logits.softmax(dim=1), labels))
    assert given["expected_calibration_error"] == pytest.approx(calibrated["expected_calibration_error"], abs=1e-4)
    assert 0 < calibrated["expected_calibration_error"] < 1
    coarse = torch.nn.functional.avg_pool2d(logits, 2)
    resized = torch.nn.functional.interpolate(coarse, (12, 16), mode="bilinear", align_corners=False)
    assert same(values(SegmentationScores(3), (coarse, labels)), values(SegmentationScores(3), (resized, labels)))


@pytest.mark.parametrize("ignored", [-100, 3, 254])
def test_any_label_may_be_ignored(ignored: int) -> None:
    logits, labels = batch()
    expected = values(SegmentationScores(3, boundary=True), (logits, labels))
    labels[labels == 255] = ignored
    assert same(values(SegmentationScores(3, ignore_index=ignored, boundary=True), (logits, labels)), expected)


def test_an_ignored_class_is_no_class() -> None:
    """Neither labeled nor predicted; where it is predicted, the labeled class is missed."""
    found = values(
        SegmentationScores(3, ignore_index=0), (torch.tensor([[[0, 1, 2, 0]]]), torch.tensor([[[0, 1, 2, 2]]]))
    )
    assert math.isnan(found["iou/0"]) and found["iou/2"] == 0.5 and found["mean_iou"] == 0.75
    with raises_user_error("MSA-EVAL-003", setting="target", mentions="255"):
        SegmentationScores(3, ignore_index=None).update(torch.zeros(1, 1, 2).long(), torch.tensor([[[255, 0]]]))


def test_forward_reset_pickle_and_state_dict() -> None:
    first, second = batch(0), batch(1)
    metric = SegmentationScores(3, per_image=True, boundary=True, calibration=True)
    alone = {name: value.item() for name, value in metric(*first).items()}
    assert same(alone, values(SegmentationScores(3, boundary=True, calibration=True), first))
    assert (
        same({name: value.item() for name, value in metric(*second).items()}, values(metric.clone(), second)) is False
    )
    both = values(metric)
    assert same(both, values(SegmentationScores(3, boundary=True, calibration=True), second, first))
    copy = pickle.loads(pickle.dumps(metric))
    assert same(values(copy), both) and len(copy.evaluation().per_image_counts) == 8
    assert not metric.state_dict()
    metric.persistent(True)
    loaded = SegmentationScores(3, per_image=True, boundary=True, calibration=True)
    loaded.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    assert same(values(loaded), both) and len(loaded.evaluation().per_image_counts) == 8
    metric.reset()
    metric.persistent(False)
    assert same(values(metric, first), alone) and metric.confusion_matrix.dtype == torch.int64


def test_in_a_collection_with_others() -> None:
    logits, labels = batch()
    labels = labels.clamp(max=2)
    collection = MetricCollection({"ours": SegmentationScores(3), "more": SegmentationScores(3, per_image=True)})
    collection.update(logits, labels, numbers=[3, 1, 0, 2])
    found = collection.compute()
    assert (
        found["ours_mean_iou"] == found["more_mean_iou"] == values(SegmentationScores(3), (logits, labels))["mean_iou"]
    )
    more = collection["more"]
    assert isinstance(more, SegmentationScores) and more.evaluation().per_image_counts.keys == ("0", "1", "2", "3")


def test_a_batch_with_an_error_is_not_counted() -> None:
    logits, labels = batch()
    metric = SegmentationScores(3, per_image=True)
    before = values(metric, (logits, labels))
    logits[3, 0, 5, 5] = math.nan
    with raises_user_error("MSA-EVAL-001", setting="preds"):
        metric.update(logits, labels)
    assert same(values(metric), before) and len(metric.evaluation().per_image_counts) == 4


def test_images_that_were_counted_again_enter_once(caplog: pytest.LogCaptureFixture) -> None:
    """As where a sampler pads. Two images under one number are refused, unless their labels are the same."""
    (logits, labels), metric = batch(), SegmentationScores(3, per_image=True)
    expected = values(SegmentationScores(3), (logits, labels))
    assert same(values(metric, (logits, labels, range(4)), (logits[:1], labels[:1], [0])), expected)
    assert "numbers 0, ..." in caplog.text
    found = metric.evaluation(keys=list("abcde"))
    assert (found.num_duplicate, found.num_missing, found.per_image_counts.keys) == (1, 1, ("a", "b", "c", "d"))
    with raises_user_error("MSA-EVAL-723", setting="keys"):
        metric.evaluation(keys=["a"])
    metric.update(logits[1:2], labels[1:2], [0])
    with raises_user_error("MSA-EVAL-723", setting="numbers"):
        metric.compute()


IDS, LABEL = torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("preds", "target", "code", "setting"),
    [
        (IDS, LABEL.float(), "MSA-EVAL-721", "target"),
        (IDS, LABEL[0], "MSA-EVAL-721", "target"),
        (IDS[:1], LABEL, "MSA-EVAL-721", "preds"),
        (IDS[..., :2], LABEL, "MSA-EVAL-721", "preds"),
        (IDS.float(), LABEL, "MSA-EVAL-721", "preds"),
        (IDS.bool(), LABEL, "MSA-EVAL-721", "preds"),
        (torch.zeros(2, 4, 4, 4), LABEL, "MSA-EVAL-721", "preds"),
        (IDS + 3, LABEL, "MSA-EVAL-003", "preds"),
        (IDS, LABEL - 1, "MSA-EVAL-003", "target"),
    ],
)
def test_bad_batches_are_one_sentence(preds: torch.Tensor, target: torch.Tensor, code: str, setting: str) -> None:
    metric = SegmentationScores(3)
    with raises_user_error(code, setting=setting):
        metric.update(preds, target)
    metric.update(torch.zeros(0, 3, 4, 4), LABEL[:0])
    assert math.isnan(values(metric)["mean_iou"])


def test_bad_arguments_are_one_sentence() -> None:
    with raises_user_error("MSA-EVAL-721", setting="preds", mentions="calibration"):
        SegmentationScores(3, calibration=True).update(IDS, LABEL)
    for numbers in ([0], [0, -1], [0.0, 1.0]):
        with raises_user_error("MSA-EVAL-723", setting="numbers"):
            SegmentationScores(3, per_image=True).update(IDS, LABEL, numbers)  # type: ignore[arg-type]
    with raises_user_error("MSA-EVAL-724", setting="per_image"):
        SegmentationScores(3).evaluation()
    for wrong, setting in (
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 256}, "num_classes"),
        ({"protocol": "cityscapes"}, "protocol"),
        ({"class_names": ("a", "b", "b")}, "class_names"),
        ({"protocol": "official-voc"}, "class_names"),
        ({"num_classes": 21, "protocol": "official-voc", "class_names": [*map(str, range(21))]}, "class_names"),
    ):
        with raises_user_error("MSA-EVAL-722", setting=setting):
            SegmentationScores(**{"num_classes": 3, **wrong})  # type: ignore[arg-type]


def test_torchmetrics_is_imported_here_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """By nothing that a command imports; and where it cannot be imported, one sentence says so."""
    own = Path(msanet.metrics.__file__)
    importing = re.compile(r"^\s*(from|import) (torchmetrics|msanet\.metrics)\b", re.MULTILINE)
    files = {path for path in own.parent.rglob("*.py") if importing.search(path.read_text(encoding="utf-8"))}
    assert files == {own}
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    spec = importlib.util.spec_from_file_location("again", own)
    assert spec and spec.loader
    with raises_user_error("MSA-EVAL-720"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
