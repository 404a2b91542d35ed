"""Counting and metrics, against hand-made numbers and torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.metrics import constant_baseline, scores

# rows ground truth, columns prediction
HAND = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])


def test_metrics_by_hand() -> None:
    result = scores(HAND, ("a", "b", "c"))
    assert result.iou_K[:2] == pytest.approx([6 / 9, 3 / 6]) and np.isnan(result.iou_K[2])
    assert result.accuracy_K[:2] == pytest.approx([6 / 8, 3 / 4])
    assert result.mean_iou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert result.mean_accuracy == pytest.approx(0.75)
    assert result.pixel_accuracy == pytest.approx(9 / 12)
    assert result.frequency_weighted_iou == pytest.approx((8 * 6 / 9 + 4 * 3 / 6) / 12)
    assert result.support_K.tolist() == [8, 4, 0]
    assert "excluded from the mean: c." in result.notes[0]


def test_a_class_that_was_invented_counts_as_zero() -> None:
    result = scores(np.array([[6, 2], [0, 0]]), ("a", "b"))
    assert result.iou_K.tolist() == [0.75, 0.0]
    assert result.mean_iou == pytest.approx(0.375)
    assert result.mean_accuracy == pytest.approx(0.75)  # accuracy is over labeled classes
    assert "counted as IoU 0: b." in result.notes[0]


def test_nothing_labeled_gives_no_number() -> None:
    result = scores(np.zeros((2, 2), np.int64), ("a", "b"))
    assert np.isnan([result.mean_iou, result.pixel_accuracy, result.frequency_weighted_iou]).all()


def test_the_constant_baseline_is_the_most_frequent_class() -> None:
    name, mean_iou = constant_baseline(HAND, ("a", "b", "c"))
    assert name == "a" and mean_iou == pytest.approx((8 / 12 + 0) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_torchmetrics(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 20, (3, 65, 33), generator=rng)
    truth[truth == 19] = 255
    prediction = torch.randint(0, 19, (3, 65, 33), generator=rng)
    theirs = MulticlassConfusionMatrix(19, ignore_index=255)(prediction, truth)
    ours = confusion_matrix_with_void(truth.to(torch.uint8), prediction.to(torch.uint8), 19)[:, :19]
    assert ours.dtype == torch.int64 and torch.equal(ours, theirs)


def test_counts_do_not_saturate() -> None:
    """float32 counters stop at 2^24; one image of 20 million pixels has more."""
    truth = torch.zeros(4001, 5001, dtype=torch.uint8)
    assert confusion_matrix_with_void(truth, truth, 2)[0, 0] == 4001 * 5001
