"""Geometry and contents of comparison panels."""

import numpy as np
import pytest

from msanet.report.embedding import data_uri
from msanet.report.panels import COLUMNS, RIGHT, WRONG, comparison_images, errors

PALETTE = ((10, 20, 30), (200, 100, 0))


def _scene(height: int = 20, width: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture, ground truth (left 0, right 1, top row ignored) and prediction (all 0)."""
    image = np.full((height, width, 3), 77, dtype=np.uint8)
    truth = np.zeros((height, width), dtype=np.uint8)
    truth[:, width // 2 :] = 1
    truth[0] = 255
    return image, truth, np.zeros((height, width), dtype=np.uint8)


def test_panel_has_four_images() -> None:
    image, truth, prediction = _scene()
    found = comparison_images(image, truth, prediction, PALETTE)
    assert tuple(found) == COLUMNS == ("input", "ground truth", "prediction", "errors")
    shown, truth_shown, prediction_shown, error_shown = found.values()
    assert all(shown.dtype == np.uint8 and shown.shape == (20, 30, 3) for shown in found.values())
    assert (shown == 77).all()
    assert (truth_shown[1:, :15] == PALETTE[0]).all() and (truth_shown[1:, 15:] == PALETTE[1]).all()
    assert (truth_shown[0] == 0).all()
    assert (prediction_shown == PALETTE[0]).all()
    assert (error_shown[1:, :15] == RIGHT).all() and (error_shown[1:, 15:] == WRONG).all()
    assert error_shown[0].max() < 80  # ignored: dark, whatever was predicted


def test_errors_hatch_ignored_pixels() -> None:
    truth = np.full((16, 16), 255, dtype=np.uint8)
    shown = errors(truth, truth)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 2
    assert shown.max() < 80


def test_wide_images_shrink_and_labels_are_never_mixed() -> None:
    generator = np.random.default_rng(0)
    image, truth, prediction = _scene(101, 203)
    truth[:] = 2 * generator.integers(0, 2, truth.shape)  # ids 0 and 2: a mixture of them would be the id 1
    palette = (*PALETTE, (0, 0, 250))
    found = comparison_images(image, truth, prediction, palette, max_width=50)
    assert {shown.shape for shown in found.values()} == {(25, 50, 3)}
    colors = np.unique(found["ground truth"].reshape(-1, 3), axis=0)
    assert colors.tolist() == [[0, 0, 250], [10, 20, 30]]
    assert comparison_images(image, truth, prediction, palette, max_width=203)["errors"].shape == (101, 203, 3)


def test_tall_images_shrink_and_can_be_shown() -> None:
    """JPEG ends at 65,500 rows."""
    image, truth, prediction = _scene(70_000, 20)
    image[:] = np.random.default_rng(0).integers(0, 255, (70_000, 1, 3), dtype=np.uint8)
    found = comparison_images(image, truth, prediction, PALETTE, max_width=50)
    assert {shown.shape for shown in found.values()} == {(200, 1, 3)}
    assert all(
        data_uri(shown).startswith("data:image/")
        for shown in comparison_images(image, truth, prediction, PALETTE).values()
    )
    assert comparison_images(*_scene(200, 50), PALETTE, max_width=50)["input"].shape == (200, 50, 3)
    assert comparison_images(*_scene(400, 60), PALETTE, max_width=50)["input"].shape == (200, 30, 3)


def test_mismatching_sizes_are_errors() -> None:
    image, truth, prediction = _scene()
    with pytest.raises(ValueError, match=r"prediction has size \(10, 30\), expected \(20, 30\)"):
        comparison_images(image, truth, prediction[:10], PALETTE)
    with pytest.raises(ValueError, match="image has shape"):
        comparison_images(image[:10], truth, prediction, PALETTE)
    with pytest.raises(ValueError, match="max_width 0"):
        comparison_images(image, truth, prediction, PALETTE, max_width=0)
