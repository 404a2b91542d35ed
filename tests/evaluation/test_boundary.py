"""Boundary IoU and F1 against loops over pixels and numbers made by hand."""

import math

import numpy as np
import pytest

from msanet.evaluation.boundary import BoundaryCounts, _disc

CASES = [((7, 9), 0.2, 0.2), ((12, 5), 0.02, 0.0075), ((16, 20), 0.1, 0.09), ((1, 6), 0.3, 0.4), ((11, 13), 0.9, 0.9)]


def slow_areas(truth: np.ndarray, prediction: np.ndarray, number: int, depth: int) -> tuple[set, set]:
    """Pixels of the class with a pixel that is not of it, or is outside, at most `depth` rows and columns away."""
    known = truth != 255
    found = []
    for label in (truth, np.where(known, prediction, 255)):
        padded = np.pad(label, depth, constant_values=255)
        mine = np.argwhere(label == number)
        found.append(
            {(y, x) for y, x in mine if (padded[y : y + 2 * depth + 1, x : x + 2 * depth + 1] != number).any()}
        )
    return found[0], found[1]


def slow_contours(truth: np.ndarray, prediction: np.ndarray, number: int) -> tuple[list, list]:
    height, width = truth.shape
    found: tuple[list, list] = ([], [])
    for points, label in zip(found, (truth, prediction), strict=True):
        for y, x in np.argwhere((label == number) & (truth != 255)):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = [(i, j) for i, j in around if 0 <= i < height and 0 <= j < width and truth[i, j] != 255]
            if any(label[place] != number for place in near):
                points.append((y, x))
    return found


def slow_met(points: list, others: list, reach: float) -> int:
    distances = [min((math.dist(p, q) for q in others), default=math.inf) for p in points]
    return sum(distance < reach or distance == 0 for distance in distances)


def random_labels(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of 4 classes with an ignored region; the prediction is moved, noisy and void in places."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (size[0] // 4 + 1, size[1] // 4 + 1)).astype(np.uint8)
    truth = np.kron(coarse, np.ones((4, 4), np.uint8))[: size[0], : size[1]].copy()
    prediction = np.roll(truth, 1, axis=1)
    noise = rng.random(size)
    prediction[noise < 0.1] = rng.integers(0, 4)
    prediction[noise > 0.95] = 255
    truth[rng.random(size) < 0.05] = 255
    truth[: size[0] // 3, : size[1] // 4] = 255
    return truth, prediction


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("size", "width", "tolerance"), CASES)
def test_counts_are_those_of_loops_over_pixels(
    size: tuple[int, int], width: float, tolerance: float, seed: int
) -> None:
    truth, prediction = random_labels(size, seed)
    counts = BoundaryCounts(4, width, tolerance)
    counts.update(truth, prediction)
    diagonal = math.hypot(*size)
    expected = np.zeros((7, 4), np.int64)
    for number in range(4):
        mine, theirs = slow_areas(truth, prediction, number, max(1, round(width * diagonal)))
        one, two = slow_contours(truth, prediction, number)
        reach = tolerance * diagonal
        expected[:, number] = (
            *(len(mine & theirs), len(mine), len(theirs)),
            *(len(one), slow_met(one, two, reach), len(two), slow_met(two, one, reach)),
        )
    assert counts.counts_7K.dtype == np.int64
    assert np.array_equal(counts.counts_7K, expected)


def test_boundary_iou_by_hand() -> None:
    """A 6x6 square in a 10x10 image, predicted one to the right, d = 1: rings of 20 pixels that share 10."""
    truth, prediction = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    truth[2:8, 2:8] = 1
    prediction[2:8, 3:9] = 1
    counts = BoundaryCounts(3)
    counts.update(truth, prediction)
    result = counts.scores()
    assert counts.counts_7K[:3, 1].tolist() == [10, 20, 20]
    assert result.iou_K[1] == pytest.approx(10 / 30)
    # Class 0: 36 at the image's border and 28 around the square; they share the border and 19 - 6 + 5 of the others.
    assert result.support_K.tolist() == [64, 20, 0] and np.isnan(result.iou_K[2])
    assert result.mean_iou == pytest.approx(np.mean(result.iou_K[:2]))


def official_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """mask_to_boundary of the authors' package, in words: pad with one 0, erode by 3x3 d times, subtract."""
    eroded = np.pad(mask, 1)
    for _ in range(max(1, round(ratio * math.hypot(*mask.shape)))):
        around = np.pad(eroded, 1)
        height, width = eroded.shape
        eroded = np.min([around[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize("ratio", [0.02, 0.05])
def test_areas_are_those_of_iterated_erosion(ratio: float) -> None:
    truth, prediction = random_labels((60, 90), 4)
    truth[truth == 255] = 0
    counts = BoundaryCounts(4, ratio)
    counts.update(truth, prediction)
    for number in range(4):
        mine, theirs = (official_boundary(label == number, ratio) for label in (truth, prediction))
        assert counts.counts_7K[:3, number].tolist() == [(mine & theirs).sum(), mine.sum(), theirs.sum()]


def test_boundary_f1_by_hand() -> None:
    """Class 1 is the right half, predicted one or two columns off: met at a tolerance above that, else not."""
    truth, prediction = np.zeros((30, 40), np.uint8), np.zeros((30, 40), np.uint8)  # diagonal 50
    truth[:, 20:] = 1
    prediction[:15, 21:] = 1
    prediction[15:, 22:] = 1
    # Tolerance 1, 1.05, 1.5, 2 and 2.05 pixels, not included; row 15 also sees the corner above it, at sqrt(2).
    for tolerance, met in ((0.02, 0), (0.021, 15), (0.03, 16), (0.04, 16), (0.041, 30)):
        counts = BoundaryCounts(2, tolerance=tolerance)
        counts.update(truth, prediction)
        assert counts.counts_7K[3:6, 1].tolist() == [30, met, 30]
    result = counts.scores()
    assert result.recall_K[1] == 1.0 and result.precision_K[1] == 1.0 and result.mean_f1 == 1.0


def test_correct_predictions_are_perfect_and_ignored_regions_change_nothing() -> None:
    truth, _ = random_labels((40, 50), 1)
    counts = BoundaryCounts(4)
    counts.update(truth, np.where(truth == 255, 3, truth).astype(np.uint8))
    result = counts.scores()
    assert result.mean_iou == result.mean_f1 == 1.0
    other = BoundaryCounts(4)
    other.update(truth, np.where(truth == 255, 0, truth).astype(np.uint8))
    assert np.array_equal(counts.counts_7K, other.counts_7K)


def test_outlines_of_the_image_and_of_ignored_regions() -> None:
    """They bound the area of Boundary IoU, as in the official package, and are no contour of F1."""
    truth = np.zeros((20, 20), np.uint8)
    truth[5:10, 5:10] = 255
    counts = BoundaryCounts(2)
    counts.update(truth, np.zeros_like(truth))
    assert counts.counts_7K[:3, 0].tolist() == [76 + 24, 76 + 24, 76 + 24]
    assert not counts.counts_7K[3:].any()
    assert counts.scores().mean_iou == 1.0 and np.isnan(counts.scores().mean_f1)


def test_a_class_in_one_of_the_two_only_is_zero() -> None:
    truth, prediction = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    prediction[3:6, 3:6] = 1
    truth[7:9, 7:9] = 2
    counts = BoundaryCounts(4)
    counts.update(truth, prediction)
    result = counts.scores()
    assert result.f1_K[1:3].tolist() == [0, 0] and result.iou_K[1:3].tolist() == [0, 0]
    assert np.isnan([result.f1_K[3], result.iou_K[3], result.recall_K[1], result.precision_K[2]]).all()


def test_counts_of_parts_add_up() -> None:
    """Any split of the images over ranks gives the same."""
    pairs = [random_labels((20 + i, 30), i) for i in range(5)]
    whole, parts = BoundaryCounts(4), [BoundaryCounts(4), BoundaryCounts(4)]
    for i, pair in enumerate(pairs):
        whole.update(*pair)
        parts[i % 2].update(*pair)
    assert np.array_equal(whole.counts_7K, parts[0].counts_7K + parts[1].counts_7K) and whole.counts_7K.any()


@pytest.mark.parametrize("reach", [0.3, 1.0, 1.2, 2.0, 5.0, 17.17])
def test_the_rectangles_are_the_disc(reach: float) -> None:
    size = int(reach) + 2
    offsets = [(y, x) for y in range(-size, size + 1) for x in range(-size, size + 1)]
    covered = {
        (y, x) for y, x in offsets if any(abs(y) <= rows and abs(x) <= columns for rows, columns in _disc(reach))
    }
    assert covered == {(y, x) for y, x in offsets if math.hypot(y, x) < reach or (y, x) == (0, 0)}
