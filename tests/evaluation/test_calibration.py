"""Expected calibration error by hand, and the same on any number of ranks."""

import math

import pytest
import torch

from msanet.evaluation.calibration import LEVELS, Calibration, expected_calibration_error
from support.errors import raises_user_error


def test_the_error_by_hand() -> None:
    """Two bins of two: (0, 0.5] with confidence 0.375 and 1 of 2 right, (0.5, 1] with 0.875 and 2 of 3 right."""
    calibration = Calibration()
    confidence = torch.tensor([[0.25, 0.5, 0.75, 1.0, 0.875, 0.1]])
    prediction = torch.tensor([[1, 0, 2, 2, 1, 0]], dtype=torch.uint8)
    truth = torch.tensor([[1, 1, 2, 2, 0, 255]], dtype=torch.uint8)
    calibration.update(confidence, prediction, truth)
    low, high = bins = calibration.bins(2)
    assert (low.low, low.high, low.pixels, low.confidence, low.accuracy) == (0, 0.5, 2, 0.375, 0.5)
    assert (high.low, high.high, high.pixels, high.confidence) == (0.5, 1, 3, 0.875)
    assert high.accuracy == pytest.approx(2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(2 / 5 * 0.125 + 3 / 5 * (0.875 - 2 / 3))


def test_fifteen_bins_are_those_of_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    confidence = torch.rand(40, 50, generator=rng)
    prediction = torch.randint(0, 3, (40, 50), generator=rng)
    truth = torch.randint(0, 4, (40, 50), generator=rng)
    truth[truth == 3] = 255
    calibration = Calibration()
    calibration.update(confidence, prediction, truth)
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for c, p, t in zip(confidence.flatten().tolist(), prediction.flatten(), truth.flatten(), strict=True):
        if t != 255:
            rows[math.ceil(round(c * LEVELS) * 15 / LEVELS) - 1].append((c, bool(p == t)))
    error = 0.0
    for row, found in zip(rows, calibration.bins(), strict=True):
        accuracy, mean = sum(right for _, right in row) / len(row), sum(c for c, _ in row) / len(row)
        assert found.pixels == len(row) and found.accuracy == pytest.approx(accuracy)
        assert found.confidence == pytest.approx(mean, abs=1e-5)
        error += len(row) / sum(map(len, rows)) * abs(accuracy - mean)
    assert expected_calibration_error(calibration.bins()) == pytest.approx(error, abs=1e-5)


def test_edges_belong_to_the_bin_below() -> None:
    calibration = Calibration()
    edges = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0000001])
    calibration.update(edges, torch.zeros(6, dtype=torch.uint8), torch.zeros(6, dtype=torch.uint8))
    assert [row.pixels for row in calibration.bins(4)] == [2, 1, 1, 2]


def test_parts_add_up_to_the_total() -> None:
    rng = torch.Generator().manual_seed(1)
    confidence, prediction = torch.rand(6, 30, 20, generator=rng), torch.randint(0, 2, (6, 30, 20), generator=rng)
    whole, parts = Calibration(), [Calibration() for _ in range(4)]
    whole.update(confidence, prediction, torch.zeros_like(prediction))
    for i in range(6):
        parts[i % 4].update(confidence[i], prediction[i], torch.zeros_like(prediction[i]))
    total = torch.stack([part.histogram_2L for part in parts]).sum(dim=0)
    assert torch.equal(total, whole.histogram_2L) and total.dtype == torch.int64 and total.sum() == 6 * 30 * 20


def test_nothing_labeled_gives_no_number() -> None:
    calibration = Calibration()
    calibration.update(torch.ones(2, 2), torch.zeros(2, 2), torch.full((2, 2), 255))
    assert math.isnan(expected_calibration_error(calibration.bins()))
    assert math.isnan(calibration.bins()[14].accuracy) and calibration.bins()[14].pixels == 0


def test_a_diverged_network_is_refused() -> None:
    with raises_user_error("MSA-EVAL-001"):
        Calibration().update(torch.tensor([0.5, float("nan")]), torch.zeros(2), torch.zeros(2))
