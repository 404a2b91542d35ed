"""Curves: what is read from metrics, how it is thinned and smoothed, and what the SVG holds."""

import math
import re
from typing import Any

import numpy as np
import pytest

from msanet.report.curves import MAX_HOVERS, MAX_POINTS, charts, number, series, smoothed, thin


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "1", True, 10**400, [1]])
def test_values_that_are_not_numbers_read_as_none(value: object) -> None:
    assert number(value) is None


def test_series_skips_bad_values_and_lets_a_restart_win() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": math.nan},
        {"step": 3, "loss": 2.0},
        {"step": 4, "loss": None},
        {"step": 3, "loss": 1.5},
        {"step": None, "loss": 9.0},
        {"step": 5, "val/mean_iou": 0.5},
    ]
    line = series(lines, "loss", "loss")
    assert (line.steps.tolist(), line.values.tolist(), line.num_skipped) == ([1, 3], [3.0, 1.5], 2)


def test_thin_keeps_ends_and_spikes() -> None:
    values = np.sin(np.arange(50_000) / 5000)
    values[31_234] = 40.0
    kept = thin(values)
    assert kept.size <= MAX_POINTS
    assert {0, 31_234, 49_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert thin(values[:10]).tolist() == list(range(10))


def test_smoothed_is_a_centred_mean() -> None:
    values = np.arange(80.0)  # reach 2: away from the ends, the mean of a straight line is the line
    mean = smoothed(values)
    assert mean[2:-2] == pytest.approx(values[2:-2])
    assert mean[0] == pytest.approx(1.0) and mean[-1] == pytest.approx(78.0)
    assert smoothed(np.array([4.0])).tolist() == [4.0]
    assert smoothed(np.empty(0)).size == 0


def test_charts_appear_only_with_values() -> None:
    assert charts([]) == []
    assert charts([{"step": 1, "loss": math.nan}]) == []
    assert [chart.key for chart in charts([{"step": 1, "lr": 0.1}])] == ["lr"]


def test_svg_fits_into_a_page() -> None:
    lines = [{"step": step, "loss": 1 / step, "lr": 0.1, "images_per_second": 5.0} for step in range(1, 3001)]
    lines += [{"step": 3000, "val/mean_iou": 0.4567, "val/pixel_accuracy": 0.8}]
    made = charts(lines)
    assert [chart.key for chart in made] == ["loss", "val", "lr", "speed"]
    page = "".join(chart.svg for chart in made)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert "#0101" not in page  # every stand-in color was exchanged for a CSS variable
    assert "://" not in page and "<style" not in page and "<?xml" not in page
    assert page.count('class="hover"') <= 4 * MAX_HOVERS
    assert "mean IoU 45.67%, pixel accuracy 80.00%" in page
    assert len(page) < 250_000


def test_extreme_values_do_not_break_the_drawing() -> None:
    lines = [{"step": 1, "loss": 1e308}, {"step": 2, "loss": -1e99}, {"step": 1e308, "loss": 1.0}]
    (chart,) = charts([*lines, {"step": 3, "loss": 0.0}])
    assert chart.num_skipped == 1
    assert "nan" not in chart.svg.replace("lineno", "").lower()
