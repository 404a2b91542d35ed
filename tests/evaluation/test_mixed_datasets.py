"""The mean IoU of each of several datasets in one evaluation."""

import numpy as np
import pytest

from msanet.data.mixture import Share
from msanet.evaluation.per_image_counts import collect_counts, image_counts
from msanet.evaluation.result import EvaluationResult
from msanet.evaluation.run_report import score_table

CLASSES = ("road", "car", "sky")


def test_each_dataset_counts_its_own_images_and_classes() -> None:
    first = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    second = np.array([[3, 0, 1], [0, 0, 0], [0, 2, 8]])  # it has no cars, and some are predicted
    images = [image_counts(number, f"k{number}", matrix) for number, matrix in enumerate((first, first, second))]
    result = EvaluationResult(
        collect_counts("both", "0", "val", CLASSES, images),
        np.ones(3, np.int64),
        1,
        shares=(Share("one", range(2), (0, 1)), Share("two", range(2, 3), (0, 2))),
    )
    wanted = {"one": (6 / 8 + 4 / 6) / 2, "two": (3 / 4 + 8 / 11) / 2}
    assert result.mean_iou_by_dataset == pytest.approx(wanted)
    assert result.summary()["val/two/mean_iou"] == pytest.approx(wanted["two"])
    assert result.summary()["val/mean_iou"] == pytest.approx((15 / 20 + 8 / 14 + 8 / 11) / 3)
    assert result.to_json()["datasets"]["one"] == {"mean_iou": pytest.approx(wanted["one"]), "num_images": 2}
    assert "mIoU of 'two' 73.86%" in score_table(result)


def test_one_dataset_has_no_such_rows() -> None:
    images = [image_counts(0, "k", np.eye(3, dtype=np.int64))]
    result = EvaluationResult(collect_counts("one", "0", "val", CLASSES, images), np.ones(1, np.int64), 1)
    assert "datasets" not in result.to_json() and len(result.summary()) == 4
