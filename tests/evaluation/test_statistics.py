"""Intervals against slow loops with the same draws, against known coverage, and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from msanet.evaluation import statistics
from msanet.evaluation.metrics import scores
from msanet.evaluation.per_image_counts import PerImageCounts, collect_counts, image_counts
from msanet.evaluation.statistics import METRICS, bootstrap, dice, paired_difference, worst
from support.errors import raises_user_error


def make(matrices: np.ndarray, keys: list[str] | None = None) -> PerImageCounts:
    names = keys or [f"image_{i}" for i in range(len(matrices))]
    images = [image_counts(i, name, matrix) for i, (name, matrix) in enumerate(zip(names, matrices, strict=True))]
    classes = tuple("abcdefgh"[: matrices.shape[1]]) if len(matrices) else ("a",)
    return collect_counts("street", "0" * 64, "val", classes, images)


def random_matrices(num_images: int = 12, num_classes: int = 4, seed: int = 0, quality: int = 20) -> np.ndarray:
    """(N, K, K + 1). The last class is in the first image only; some pixels are predicted void."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 10, (num_images, num_classes, num_classes + 1))
    matrices[:, range(num_classes), range(num_classes)] *= quality
    matrices[1:, -1] = 0
    matrices[1:, :, num_classes - 1] = 0
    return matrices


def slow(matrices: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """METRICS (R, 4) and IoU (R, K) of resamples drawn and evaluated one by one."""
    rng = np.random.default_rng(seed)
    metrics, ious = [], []
    for _ in range(resamples):
        drawn = rng.integers(0, len(matrices), len(matrices))
        result = scores(matrices[drawn].sum(axis=0), tuple("abcdefgh"[: matrices.shape[1]]))
        metrics.append([getattr(result, name) for name in METRICS])
        ious.append(result.iou_K)
    return np.array(metrics), np.array(ious)


@pytest.mark.parametrize("chunk", [2**22, 60, 1])
def test_intervals_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """With the same draws, in chunks of any size; a class that a resample lacks is no 0."""
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    matrices = random_matrices()
    result = bootstrap(make(matrices), resamples=101, seed=7)
    metrics, ious = slow(matrices, 101, 7)
    whole = scores(matrices.sum(axis=0), ("a", "b", "c", "d"))
    assert 20 < np.isnan(ious[:, 3]).sum() < 60
    for i, name in enumerate(METRICS):
        found = result.metrics[name]
        assert found.value == pytest.approx(getattr(whole, name), rel=1e-12)
        assert [found.low, found.high] == pytest.approx(np.percentile(metrics[:, i], (2.5, 97.5)), rel=1e-12)
        assert found.low < found.value < found.high
    for i, name in enumerate("abcd"):
        found = result.iou[name]
        assert found.value == whole.iou_K[i]
        assert [found.low, found.high] == pytest.approx(np.nanpercentile(ious[:, i], (2.5, 97.5)), rel=1e-12)


def test_the_seed_decides() -> None:
    per_image = make(random_matrices())
    assert bootstrap(per_image, 50, 1) == bootstrap(per_image, 50, 1)
    assert bootstrap(per_image, 50, 1) != bootstrap(per_image, 50, 2)


def test_equal_images_have_no_interval_and_absent_classes_no_metric() -> None:
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0]])
    result = bootstrap(make(np.stack([matrix] * 5)), 30)
    mean = result.metrics["mean_iou"]
    assert mean.low == mean.value == mean.high == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert all(np.isnan([result.iou["c"].value, result.iou["c"].low, result.iou["c"].high]))
    with raises_user_error("MSA-EVAL-015"):
        bootstrap(make(np.zeros((0, 1, 2), np.int64)))


def test_intervals_cover_what_they_claim() -> None:
    """Splits of 60 images out of a known population: its mIoU is inside about 95 of 100 intervals."""
    rng = np.random.default_rng(3)

    def draw(count: int) -> np.ndarray:
        size = rng.integers(500, 2000, (count, 2))
        share = np.stack([rng.beta(8, 2, count), rng.beta(3, 2, count)], axis=1)
        right = rng.binomial(size, share)
        matrices = np.zeros((count, 2, 3), np.int64)
        matrices[:, (0, 1), (0, 1)] = right
        matrices[:, (0, 1), (1, 0)] = size - right
        return matrices

    truth = scores(draw(200_000).sum(axis=0), ("a", "b")).mean_iou
    intervals = [bootstrap(make(draw(60)), 300, seed).metrics["mean_iou"] for seed in range(200)]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert 176 <= covered <= 198  # 190 expected, standard deviation 3; percentiles are a little narrow at 60


def test_pairs_are_those_of_a_slow_loop_over_the_same_images() -> None:
    one = random_matrices(seed=1)
    two = one.copy()
    two[:, 0, 1] -= two[:, 0, 1] // 2  # the same labels, predicted better
    two[:, 0, 0] += one[:, 0, 1] // 2
    result = paired_difference(make(one), make(two), resamples=101, seed=5)
    (metrics_1, ious_1), (metrics_2, ious_2) = slow(one, 101, 5), slow(two, 101, 5)
    for i, name in enumerate(METRICS):
        found, drawn = result.metrics[name], metrics_2[:, i] - metrics_1[:, i]
        assert [found.difference.low, found.difference.high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)))
        assert found.difference.value == pytest.approx(found.second - found.first)
        assert found.share_above == (drawn > 0).mean()
    drawn = ious_2[:, 3] - ious_1[:, 3]
    assert result.iou["d"].share_above == np.nanmean(drawn > 0) == 0.0
    assert result.metrics["mean_iou"].first == scores(one.sum(axis=0), ("a", "b", "c", "d")).mean_iou
    assert result.notes == ()


def test_a_pair_is_narrower_than_its_runs() -> None:
    """What is hard in an image is hard for both; a run beside itself differs by exactly 0."""
    one = random_matrices(40, quality=5)
    better = one.copy()
    better[:, 0, 0] += 3 * (one[:, 0, 1] > 3)
    better[:, 0, 1] -= 3 * (one[:, 0, 1] > 3)
    pair = paired_difference(make(one), make(better)).metrics["mean_iou"]
    alone = bootstrap(make(one)).metrics["mean_iou"]
    assert pair.difference.low > 0 and pair.share_above == 1.0
    assert pair.difference.high - pair.difference.low < 0.5 * (alone.high - alone.low)
    same = paired_difference(make(one), make(one)).metrics["mean_iou"]
    assert (same.difference.low, same.difference.high, same.share_above) == (0, 0, 0)


def test_the_order_of_images_in_the_second_run_does_not_matter() -> None:
    one, two = random_matrices(seed=1), random_matrices(seed=1)
    two[:, 0, :2] = two[:, 0, 1::-1]
    names = [f"image_{i}" for i in range(12)]
    result = paired_difference(make(one), make(two[::-1], names[::-1]), 50)
    assert result == paired_difference(make(one), make(two), 50)


def test_runs_on_other_data_are_not_compared() -> None:
    per_image = make(random_matrices())
    for code, other in (
        ("MSA-EVAL-012", replace(per_image, dataset="camvid")),
        ("MSA-EVAL-012", replace(per_image, split="test")),
        ("MSA-EVAL-012", replace(per_image, classes=("a", "b", "c", "x"))),
        ("MSA-EVAL-013", make(random_matrices()[:11])),
        ("MSA-EVAL-013", replace(per_image, keys=(*per_image.keys[:-1], "other"))),
        ("MSA-EVAL-013", replace(per_image, keys=(*per_image.keys[:-1], "image_0"))),
        ("MSA-EVAL-014", make(np.roll(random_matrices(), 1, axis=0))),
    ):
        with raises_user_error(code):
            paired_difference(per_image, other, 10)
    repacked = paired_difference(per_image, replace(per_image, digest="1" * 64), 10)
    assert "two packings" in repacked.notes[0] and repacked.metrics["mean_iou"].difference.value == 0


def test_the_worst_by_hand() -> None:
    matrices = np.array(
        [
            [[8, 0, 0], [0, 8, 0]],  # all right
            [[4, 4, 0], [0, 0, 0]],  # class a only, half missed; b was invented: mIoU of a is 1/2
            [[0, 0, 0], [0, 1, 3]],  # 1/4, three quarters predicted void
            [[0, 0, 0], [0, 0, 0]],  # nothing labeled
        ]
    )
    per_image = make(matrices)
    found = worst(per_image, 10)
    assert [(image.key, image.mean_iou) for image in found] == [("image_2", 0.25), ("image_1", 0.5), ("image_0", 1.0)]
    before = scores(matrices.sum(axis=0), ("a", "b")).mean_iou
    for image in found:
        mended = matrices.copy()
        mine = mended[int(image.key[-1])]
        support = mine.sum(axis=1)
        mine[:] = 0
        mine[(0, 1), (0, 1)] = support
        assert image.cost == pytest.approx(scores(mended.sum(axis=0), ("a", "b")).mean_iou - before)
    by_cost = worst(per_image, 2, by="cost")
    assert [image.key for image in by_cost] == ["image_1", "image_2"] and by_cost[0].cost > by_cost[1].cost > 0


def test_dice_by_hand() -> None:
    counts = make(np.array([[[6, 2, 0, 1], [1, 3, 0, 0], [0, 0, 0, 0]]])).class_counts().sum()
    found = dice(counts)
    assert found[:2] == pytest.approx([2 * 6 / (2 * 6 + 1 + 3), 2 * 3 / (2 * 3 + 2 + 1)]) and np.isnan(found[2])
