"""Each image exactly once on any number of ranks: the same matrix to the last count."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch import nn

from msanet import distributed
from msanet.config import EvaluationConfig
from msanet.data.source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from msanet.evaluation.evaluator import Evaluation, evaluate, require_whole, write_evaluation
from msanet.evaluation.inference import predict_labels
from msanet.models import build_model

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


def _evaluate(shards: str, out: str, workers: int, zero3: bool = False, split: str = "val") -> None:
    torch.manual_seed(1)
    model: nn.Module = build_model("msanet", 11, width=0.125)
    if zero3:
        import deepspeed

        settings = {
            "train_batch_size": distributed.world_size(),
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
        }
        model = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), config=settings)[
            0
        ].module
    settings = EvaluationConfig(workers=workers, panels=3)
    result = evaluate(model, ShardSource(LocalStorage(Path(shards)), split), settings, MEAN, STD, lockstep=zero3)
    if distributed.is_main():
        write_evaluation(Path(out), result)
        Path(out + ".panels").write_text(json.dumps([panel.key for panel in result.panels]))


def run(shards: Path, out: Path, world: int, **arguments: Any) -> dict[str, Any]:
    run_ranks(world, __file__, "_evaluate", {"shards": str(shards), "out": str(out), "workers": 0, **arguments})
    return {**json.loads(out.read_text()), "panels": json.loads(Path(f"{out}.panels").read_text())}


def test_any_number_of_ranks_gives_the_same_matrix(shards: Path, tmp_path: Path) -> None:
    """7 images on 1, 2, 3 ranks, and on 2 ranks of ZeRO-3 (4 and 3 images, forwards in lockstep)."""
    whole = run(shards, tmp_path / "1", 1)
    assert (whole["num_images"], whole["num_missing"], whole["num_duplicate"]) == (7, 0, 0)
    others = [
        run(shards, tmp_path / "2", 2, workers=1),
        run(shards, tmp_path / "3", 3),
        run(shards, tmp_path / "z", 2, zero3=True),
    ]
    for other, world in zip(others, (2, 3, 2), strict=True):
        assert other["world_size"] == world
        assert {**other, "world_size": 1} == whole


def test_the_matrix_is_the_one_made_by_hand(shards: Path, tmp_path: Path) -> None:
    """Images decoded, predicted and counted one by one with numpy, at the labels' own size."""
    torch.manual_seed(1)
    model = build_model("msanet", 11, width=0.125).eval()
    source = ShardSource(LocalStorage(shards), "val")
    settings = EvaluationConfig(workers=0, resize=(20, 30))
    result = evaluate(model, source, settings, MEAN, STD)
    from msanet.data.samples import decode_sample

    expected = np.zeros((11, 11), np.int64)
    for number in range(7):
        image, label = decode_sample(source.read(number))
        prediction = predict_labels(model, torch.from_numpy(image), MEAN, STD, (20, 30)).numpy()
        assert prediction.shape == label.shape == (36, 44)
        for truth, predicted in zip(label.ravel(), prediction.ravel(), strict=True):
            if truth != 255:
                expected[truth, predicted] += 1
    assert np.array_equal(result.matrix_KK, expected)
    assert expected.sum() == 7 * 34 * 44  # two rows are void


def test_missing_and_doubled_images_are_counted_named_and_refused(shards: Path) -> None:
    source = ShardSource(LocalStorage(shards), "val")
    seen = np.array([1, 1, 0, 1, 3, 1, 1])
    broken = Evaluation("val", tuple("abcdefghijk"), np.eye(11, dtype=np.int64), seen, 2)
    assert (broken.num_missing, broken.num_duplicate, broken.is_whole) == (1, 2, False)
    with pytest.raises(
        UserError, match=r"1 images .* were missed and 2 counted more than once \(val_002, val_004"
    ) as error:
        require_whole(broken, source)
    assert "do not use these figures" in str(error.value)
    require_whole(Evaluation("val", broken.classes, broken.matrix_KK, np.ones(7, np.int64), 2), source)


def test_undefined_figures_are_null_in_json(tmp_path: Path) -> None:
    empty = Evaluation("val", ("a", "b"), np.zeros((2, 2), np.int64), np.ones(1, np.int64), 1)
    write_evaluation(tmp_path / "e.json", empty)
    read = json.loads((tmp_path / "e.json").read_text())
    assert read["mean_iou"] is None and read["classes"]["a"] == {"iou": None, "accuracy": None, "support": 0}
    assert list(tmp_path.iterdir()) == [tmp_path / "e.json"]


def test_bf16_inference_agrees() -> None:
    torch.manual_seed(1)
    model = build_model("msanet", 4, width=0.125).eval()
    image = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8)
    labels = [predict_labels(model, image, MEAN, STD, precision=precision) for precision in ("fp32", "bf16")]
    assert (labels[0] == labels[1]).float().mean() > 0.9
