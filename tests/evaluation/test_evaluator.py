"""Each image exactly once on any number of ranks: the same matrix to the last count."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from msanet import distributed
from msanet.config import EvaluationConfig
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.per_image_counts import (
    collect_counts,
    image_counts,
    read_per_image_counts,
)
from msanet.evaluation.result import EvaluationResult, require_complete, write_evaluation
from msanet.inference.predictor import Predictor
from msanet.models import build_model
from msanet.run_layout import RunLayout
from support import ranks
from support.errors import raises_user_error
from support.ranks import run_ranks, start_ranks

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


def _evaluate(shards: str, out: str, workers: int, zero3: bool = False, **settings: Any) -> None:
    torch.manual_seed(1)
    model: nn.Module = build_model("msanet", 11, width=0.125)
    if zero3:
        import deepspeed

        engine = {
            "train_batch_size": distributed.world_size(),
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
        }
        model = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), config=engine)[
            0
        ].module
    chosen = EvaluationConfig(num_workers=workers, panels=3, worst=2, boundary=True, **settings)
    result = evaluate(model, ShardSource(LocalStorage(Path(shards)), "val"), chosen, MEAN, STD, lockstep=zero3)
    if distributed.is_main():
        Path(out).mkdir()
        write_evaluation(Path(out), result)
        (Path(out) / "panels").write_text(json.dumps([(panel.key, panel.is_worst) for panel in result.shown_images]))


def run(shards: Path, out: Path, world: int, **arguments: Any) -> dict[str, Any]:
    run_ranks(world, __file__, "_evaluate", {"shards": str(shards), "out": str(out), "workers": 0, **arguments})
    metrics = json.loads((out / "evaluation-val.json").read_text())
    return {**metrics, "panels": json.loads((out / "panels").read_text())}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """All is equal but the ranks, and confidences in their last bits: convolutions round by the number of threads."""
    a, b = ({key: value for key, value in metrics.items() if key != "world_size"} for metrics in (a, b))
    one, two = a.pop("calibration"), b.pop("calibration")
    assert a == b
    assert one["expected_calibration_error"] == pytest.approx(two["expected_calibration_error"], abs=1e-4)
    assert sum(row["pixels"] for row in one["bins"]) == sum(row["pixels"] for row in two["bins"]) > 0


def test_any_number_of_ranks_gives_the_same_matrix(shards: Path, tmp_path: Path) -> None:
    """7 images on 1, 2, 3 ranks, on 8 (one has none), and on 2 ranks of ZeRO-3 (4 and 3 images, forwards in lockstep).

    All metrics, calibration and outlines too, the counts of every image, and the images shown.
    """
    whole = run(shards, tmp_path / "1", 1)
    assert (whole["num_images"], whole["num_missing"], whole["num_duplicate"]) == (7, 0, 0)
    assert (
        whole["boundary"]["mean_iou"] > 0 and sum(row["pixels"] for row in whole["calibration"]["bins"]) == 7 * 34 * 44
    )
    assert [shown for shown in whole["panels"] if not shown[1]] == [[f"val_00{i}", False] for i in (0, 3, 6)]
    worst = [image["key"] for image in whole["worst_images"][:2]]
    assert [key for key, is_worst in whole["panels"] if is_worst] == worst
    per_image = read_per_image_counts(RunLayout(tmp_path / "1").per_image_counts("val"))
    others = [
        run(shards, tmp_path / "2", 2, workers=1),
        run(shards, tmp_path / "3", 3),
        run(shards, tmp_path / "8", 8),
        run(shards, tmp_path / "z", 2, zero3=True),
    ]
    for other, name in zip(others, ("2", "3", "8", "z"), strict=True):
        assert other["world_size"] == (2 if name == "z" else int(name))
        assert_same(other, whole)
        theirs = read_per_image_counts(RunLayout(tmp_path / name).per_image_counts("val"))
        assert theirs.keys == per_image.keys and theirs.counts.tolist() == per_image.counts.tolist()


def test_ranks_of_zero3_stay_in_step_whatever_an_image_needs(shards: Path, tmp_path: Path) -> None:
    """Sliding windows at two scales and mirrored: several forwards an image, and a rank that runs out of images."""
    settings = {"window": [24, 24], "window_batch": 2, "scales": [1.0, 0.5], "flip": True}
    alone, together = run(shards, tmp_path / "1", 1, **settings), run(shards, tmp_path / "z", 2, zero3=True, **settings)
    assert_same(together, alone)


def _evaluate_slowly(shards: str, out: str) -> None:
    """Rank 1 says when it is in the middle, and takes its time there."""
    original = Predictor.labels_and_confidence

    def slow(self: Predictor, image_HWC: torch.Tensor) -> Any:
        if distributed.rank() == 1:
            Path(out).with_name("middle").touch()
            time.sleep(60)
        return original(self, image_HWC)

    Predictor.labels_and_confidence = slow  # type: ignore[method-assign]
    _evaluate(shards, out, workers=0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_rank_that_is_lost_in_the_middle_gives_an_error_and_no_scores(
    shards: Path, tmp_path: Path, how: signal.Signals
) -> None:
    arguments = json.dumps({"shards": str(shards), "out": str(tmp_path / "out")})
    command = [str(Path(ranks.__file__)), __file__, "_evaluate_slowly", arguments]
    survivor, victim = start_ranks(2, command, RANKS_TIMEOUT="8")
    try:
        while not (tmp_path / "middle").exists():
            assert survivor.poll() is None and victim.poll() is None, survivor.communicate()[0]
            time.sleep(0.1)
        victim.send_signal(how)
        said, _ = survivor.communicate(timeout=60)  # far below the minute that a whole rank 1 would take
        assert survivor.returncode != 0, said
        assert not (tmp_path / "out").exists()
    finally:
        for process in (survivor, victim):
            process.kill()
            process.wait()


def test_the_matrix_is_the_one_made_by_hand(shards: Path, tmp_path: Path) -> None:
    """Images decoded, predicted and counted one by one with numpy, at the labels' own size."""
    torch.manual_seed(1)
    model = build_model("msanet", 11, width=0.125).eval()
    source = ShardSource(LocalStorage(shards), "val")
    settings = EvaluationConfig(num_workers=0, resize=(20, 30))
    result = evaluate(model, source, settings, MEAN, STD)
    from msanet.data.samples import decode_sample

    predictor = Predictor(model, settings, MEAN, STD)
    expected = np.zeros((11, 11), np.int64)
    for number in range(7):
        image, label = decode_sample(source.read(number))
        prediction = predictor.labels(torch.from_numpy(image)).numpy()
        assert prediction.shape == label.shape == (36, 44)
        for truth, predicted in zip(label.ravel(), prediction.ravel(), strict=True):
            if truth != 255:
                expected[truth, predicted] += 1
    assert np.array_equal(result.matrix, np.pad(expected, ((0, 0), (0, 1))))
    assert expected.sum() == 7 * 34 * 44  # two rows are void


def evaluation(matrices: list[np.ndarray], times_seen: list[int]) -> EvaluationResult:
    classes = tuple("abcdefghijk"[: len(matrices[0])])
    images = [image_counts(number, f"val_{number:03d}", matrix) for number, matrix in enumerate(matrices)]
    return EvaluationResult(collect_counts("test", "0", "val", classes, images), np.array(times_seen), 2)


def test_missing_and_doubled_images_are_counted_named_and_refused(shards: Path) -> None:
    source = ShardSource(LocalStorage(shards), "val")
    matrices = [np.eye(11, dtype=np.int64)] * 6
    broken = evaluation(matrices, [1, 1, 0, 1, 3, 1, 1])
    assert (broken.num_missing, broken.num_duplicate, broken.is_complete) == (1, 2, False)
    with raises_user_error("MSA-EVAL-011", mentions="(val_002, val_004"):
        require_complete(broken, source)
    require_complete(evaluation(matrices, [1] * 7), source)


def test_undefined_values_are_null_in_json(tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation([np.zeros((2, 2), np.int64)] * 2, [1, 1]))
    read = json.loads((tmp_path / "evaluation-val.json").read_text())
    assert read["mean_iou"] is None and read["mean_iou_interval"] == [None, None] and read["worst_images"] == []
    row = read["classes"]["a"]
    assert row["iou"] is None and row["dice"] is None and row["precision"] is None and row["support"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation-val.json", "evaluation-val.npz"]


def test_metrics_by_hand() -> None:
    """Two images of two classes: 6 and 2 pixels right, 2 of a taken for b."""
    metrics = evaluation([np.array([[4, 2], [0, 2]]), np.array([[2, 0], [0, 0]])], [1, 1]).to_json()
    a, b = metrics["classes"]["a"], metrics["classes"]["b"]
    assert (a["iou"], b["iou"], metrics["mean_iou"]) == (6 / 8, 2 / 4, 0.625)
    assert (a["accuracy"], a["precision"], a["dice"], a["support"]) == (6 / 8, 1.0, 12 / 14, 8)
    assert (b["accuracy"], b["precision"], b["dice"]) == (1.0, 0.5, 4 / 6)
    assert metrics["mean_dice"] == pytest.approx((12 / 14 + 4 / 6) / 2)
    assert [image["key"] for image in metrics["worst_images"]] == ["val_000", "val_001"]
    assert metrics["constant_baseline"] == {"class": "a", "mean_iou": 0.4}
