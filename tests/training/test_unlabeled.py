"""Labels that are all ignored, and class weights that are all 0, are said: at the start where that can be known."""

import pytest
import torch

from msanet.config import LossConfig, load_config
from msanet.training.nonfinite import unlabeled
from msanet.training.nonfinite.unlabeled import UnlabeledSteps, require_weighted_labels
from support.errors import raises_user_error


def warnings_of(capsys: pytest.CaptureFixture[str]) -> int:
    return capsys.readouterr().err.count("had no labeled pixel that counts in the loss")


def add(steps: UnlabeledSteps, *counts: tuple[float, float]) -> None:
    for one in counts:
        steps.add(torch.tensor((*one, one[0]), dtype=torch.float64))
    steps.check()


def test_weights_of_0_are_refused() -> None:
    with raises_user_error("MSA-CONFIG-007", "loss.class_weights"):
        load_config(None, ["loss.class_weights=[0,0,0]"])
    load_config(None, ["loss.class_weights=[0,0,0]", "loss.cross_entropy=0", "loss.dice=1"])
    weights = LossConfig(class_weights=(0, 0, 1))
    with raises_user_error("MSA-TRAIN-402", "loss.class_weights"):
        require_weighted_labels(weights, "train", [5, 5, 0])
    require_weighted_labels(weights, "train", [5, 5, 1])
    require_weighted_labels(LossConfig(), "train", [0, 1, 0])
    require_weighted_labels(weights.model_copy(update={"dice": 1.0}), "train", [5, 5, 0])
    require_weighted_labels(LossConfig(class_weights="median_frequency"), "train", [5, 5, 0])


def test_steps_in_a_row_without_a_label_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    steps = UnlabeledSteps(LossConfig())
    add(steps, (9, 1), *[(0, 0)] * 9)
    assert warnings_of(capsys) == 0, "a crop may miss all labels"
    add(steps, (0, 0))
    assert warnings_of(capsys) == 1
    for _ in range(5):
        add(steps, *[(0, 0)] * 10)
    assert warnings_of(capsys) == 0
    add(steps, (1, 1))
    add(steps, *[(0, 0)] * unlabeled._STEPS)
    assert warnings_of(capsys) == 1


def test_a_short_run_without_a_label_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    steps = UnlabeledSteps(LossConfig())
    steps.check()
    assert warnings_of(capsys) == 0
    add(steps, (0, 0), (0, 0))
    assert warnings_of(capsys) == 1


def test_what_counts_depends_on_the_terms(capsys: pytest.CaptureFixture[str]) -> None:
    weighted = UnlabeledSteps(LossConfig())
    add(weighted, *[(0.0, 2)] * 10)  # labels of weight 0 only
    assert warnings_of(capsys) == 1
    dice = UnlabeledSteps(LossConfig(cross_entropy=0, dice=1))
    add(dice, *[(0.0, 2)] * 10)
    assert warnings_of(capsys) == 0
