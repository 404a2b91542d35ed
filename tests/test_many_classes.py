"""300 classes from masks of 16 bits to a loss, an evaluation, predictions, their scores and a report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from msanet.cli.score import parser, score
from msanet.config import EvaluationConfig, parse_config
from msanet.data.loader import BatchPlan, shuffle_config, split_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from msanet.data.pipeline import network_input
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.datasets import DatasetSpec
from msanet.demo.segmenter import Limits, Segmenter
from msanet.evaluation.boundary import BoundaryCounts
from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.label_map_counts import count_map
from msanet.evaluation.per_image_counts import MOST_CLASSES, read_per_image_counts, require_countable
from msanet.evaluation.result import EvaluationResult, write_evaluation
from msanet.evaluation.run_report import score_table, write_run_report
from msanet.evaluation.segmentation_counts import SegmentationCounts
from msanet.inference.export_graph import Deployed
from msanet.inference.writer import PredictionWriter
from msanet.losses import SegmentationLoss
from msanet.metrics import SegmentationScores
from msanet.models import build_model
from msanet.models.io import ModelMetadata
from msanet.report.panels import comparison_images
from support.errors import raises_user_error
from support.many_classes import IGNORED, NUM_CLASSES, own_id, pack_many_classes, write_many_classes
from support.metadata import metadata

CLASSES = tuple(f"class {k}" for k in range(NUM_CLASSES))
PALETTE = tuple((k % 256, k // 256, 9) for k in range(NUM_CLASSES))
SETTINGS = EvaluationConfig(num_workers=0, boundary=True, calibration=True, panels=1, worst=1)


class Net(nn.Module):
    """A 1x1 convolution: labels that follow the colors, of all classes."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layer(x_NCHW)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    write_many_classes(root / "source")
    pack_many_classes(root / "source", root / "shards")
    return root


def about(num_classes: int = NUM_CLASSES) -> ModelMetadata:
    spec = DatasetSpec("many", CLASSES, PALETTE, {own_id(k): k for k in range(NUM_CLASSES)})
    return metadata("unet", spec, ids=[own_id(k) for k in range(NUM_CLASSES)])


def evaluated(root: Path, net: nn.Module) -> EvaluationResult:
    source = ShardSource(LocalStorage(root / "shards"), "val", load_manifest(root / "shards"))
    return evaluate(net, source, SETTINGS, about().mean, about().std)


def test_a_network_of_300_classes_learns(root: Path) -> None:
    words = {"path": str(root / "shards"), "crop": [32, 32], "num_workers": 0, "classmix": 0.5}
    loss = {"dice": 0.5, "class_weights": "sqrt_median_frequency"}
    config = parse_config({"data": words, "loss": loss}, "test")
    manifest = load_manifest(root / "shards")
    source, order = train_source(config, manifest), shuffle_config(config)
    shuffled = split_order(manifest, "train", order)
    batches = train_loader(config, shuffled, source, BatchPlan(2, 2, 1), rank=0, consumed_samples=0)
    network, criterion = (
        build_model("unet", NUM_CLASSES, width=0.0625),
        SegmentationLoss(config.loss, manifest.split("train").histogram),
    )
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _ in range(6):
        (batch,) = next(batches)
        assert batch.labels_NHW.dtype == torch.int32
        logits = network(network_input(batch, config.data))
        value = criterion(logits, batch.labels_NHW, criterion.counts(batch.labels_NHW))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert np.isfinite(losses).all() and min(losses[-2:]) < losses[0]


TERMS: list[dict[str, Any]] = [
    {"cross_entropy": 1.0},
    {"cross_entropy": 1.0, "ohem_ratio": 0.5},
    {"cross_entropy": 1.0, "class_weights": "median_frequency"},
    {"cross_entropy": 0.0, "dice": 1.0},
    {"cross_entropy": 0.0, "lovasz": 1.0},
    {"cross_entropy": 0.0, "focal": 1.0},
    {"cross_entropy": 0.0, "tversky": 1.0},
    {"cross_entropy": 0.0, "boundary": 1.0},
    {"cross_entropy": 0.0, "custom": [f"{__file__}:own_loss"]},
]


def own_loss(logits_NKHW: Tensor, labels_NHW: Tensor, ignored: int) -> Tensor:
    assert ignored == (255 if logits_NKHW.shape[1] < 256 else IGNORED)
    return nn.functional.cross_entropy(logits_NKHW, labels_NHW, ignore_index=ignored, reduction="none")


@pytest.mark.parametrize("terms", TERMS)
def test_each_loss_of_300_classes_is_that_of_200_of_which_100_never_occur(terms: dict[str, Any]) -> None:
    config = parse_config({"loss": terms}, "test").loss
    torch.manual_seed(0)
    labels = torch.randint(0, 200, (2, 8, 9))
    labels[:, :2] = 255
    labels[0, 7, 7] = 199
    logits = torch.randn(2, 200, 8, 9)
    values, gradients = [], []
    for count in (200, 300):
        wide = torch.full((2, count, 8, 9), -1e4)
        wide[:, :200] = logits
        wide.requires_grad_()
        own = labels.to(torch.uint8) if count == 200 else torch.where(labels == 255, IGNORED, labels).int()
        loss = SegmentationLoss(config, (5,) * 200 + (0,) * (count - 200))
        value = loss(wide, own, loss.counts(own))
        value.backward()
        assert wide.grad is not None and not wide.grad[:, :, :1].any(), "ignored pixels"
        values.append(float(value.detach()))
        gradients.append(wide.grad[:, :200])
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0] > 0
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [256, 300, 1203])
def test_pairs_of_many_classes_are_counted_exactly(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, num_classes, (2, 40, 50))
    truth[0], prediction[1], truth[2], prediction[2] = IGNORED, IGNORED, 255, num_classes - 1
    expected = np.zeros((num_classes, num_classes + 1), np.int64)
    for row, column in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if row != IGNORED:
            expected[row, min(column, num_classes)] += 1
    found = confusion_matrix_with_void(torch.from_numpy(truth).int(), torch.from_numpy(prediction).int(), num_classes)
    assert np.array_equal(found.numpy(), expected)
    of_map = count_map(0, "k", truth.astype(np.uint16), prediction.astype(np.uint16), num_classes, boundary=True)
    assert np.array_equal(of_map.image.cells, np.flatnonzero(expected))
    for which, values in (("label", truth), ("prediction", prediction)):
        wrong = values.copy()
        wrong[5, 5] = num_classes
        pair = (wrong, prediction) if which == "label" else (truth, wrong)
        with raises_user_error("MSA-EVAL-003", mentions=f"{which} contains the value(s) [{num_classes}]"):
            confusion_matrix_with_void(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]), num_classes)


def test_boundaries_do_not_depend_on_the_number_of_a_class() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 300, (2, 6, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint16)
    maps[:, :8], maps[0, :, :3] = 255, IGNORED
    swapped = np.where(maps == 255, 7, np.where(maps == 7, 255, maps)).astype(np.uint16)
    counts, others = BoundaryCounts(300), BoundaryCounts(300)
    counts.update(*maps)
    others.update(*swapped)
    order = np.arange(300)
    order[[7, 255]] = 255, 7
    assert np.array_equal(counts.counts_7K[:, order], others.counts_7K) and counts.counts_7K[:, 255].all()


def test_the_class_254_of_255_is_no_other_vehicle() -> None:
    label_HW = np.array([[254, 254, 3]], np.uint8)
    counts = count_map(0, "k", label_HW, label_HW, 255).image
    assert counts.cells.tolist() == [3 * 256 + 3, 254 * 256 + 254] and counts.counts.tolist() == [1, 2]


def test_an_evaluation_its_files_and_the_scores_of_its_predictions(root: Path, tmp_path: Path) -> None:
    net = Net().eval()
    result = evaluated(root, net)
    path = write_evaluation(tmp_path / "run", result)
    content = json.loads(path.read_text())
    assert content["confusion_matrix"] is None and len(content["classes"]) == NUM_CLASSES
    assert len(content["largest_confusions"]) == 100
    assert sum(row.pixels for row in result.calibration) == result.matrix.sum(), "not the ignored ones"
    first = content["largest_confusions"][0]
    wrong_KK = result.matrix[:, :NUM_CLASSES] * ~np.eye(NUM_CLASSES, dtype=bool)
    assert (
        first["pixels"] == wrong_KK.max() == wrong_KK[CLASSES.index(first["class"]), CLASSES.index(first["predicted"])]
    )
    assert np.array_equal(read_per_image_counts(path.with_suffix(".npz")).total(), result.matrix)
    table = score_table(result)
    assert "200 more classes have fewer pixels" in table and len(table.splitlines()) < 120
    page = write_run_report(tmp_path / "run", PALETTE, result).read_text()
    assert "200 more classes have fewer pixels" in page and page.count("<tr") < 130

    out = tmp_path / "predictions"
    for kinds in (None, ("train-ids",)):
        writer = PredictionWriter(net, about(), EvaluationConfig(), kinds)
        for name in "de":
            writer.write(
                root / "source" / "images" / "val" / f"{name}.png", out / ("ids" if kinds is None else "train") / name
            )
    assert sorted(path.name for path in (out / "ids").iterdir()) == [
        f"{n}.{e}" for n in "de" for e in ("ids.png", "overlay.jpg")
    ]
    ids_HW = np.asarray(Image.open(out / "ids" / "d.ids.png"))
    train_ids_HW = np.asarray(Image.open(out / "train" / "d.train-ids.png"))
    assert ids_HW.dtype == train_ids_HW.dtype == np.uint16 and train_ids_HW.max() > 255
    assert np.array_equal(ids_HW, 1000 + 7 * (NUM_CLASSES - 1 - train_ids_HW.astype(int)))
    for path in (out / "ids").glob("*.jpg"):
        path.unlink()
    masks = ["--truth", root / "source" / "labels", "--split", "val", "--classes", root / "classes.json"]
    for folder, truth in (
        ("ids", ["--truth", root / "shards"]),
        ("train", ["--truth", root / "shards"]),
        ("ids", masks),
    ):
        words = ["--predictions", out / folder, "--workers", 1, "--boundary", "--out", tmp_path / "scores", *truth]
        scored, _ = score(parser().parse_args([str(word) for word in words]))
        assert np.array_equal(scored.matrix, result.matrix)
        assert scored.boundary is not None and result.boundary is not None
        assert scored.boundary.mean_iou == result.boundary.mean_iou


def test_geotiffs_hold_ids_of_16_bits(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {
        "driver": "GTiff",
        "height": 40,
        "width": 60,
        "count": 3,
        "dtype": "uint8",
        "nodata": 0,
        "crs": "EPSG:32633",
    }
    pixels = np.random.default_rng(0).integers(1, 256, (3, 40, 60)).astype(np.uint8)
    pixels[:, :5] = 0
    with rasterio.open(tmp_path / "s.tif", "w", transform=rasterio.Affine(10, 0, 5, 0, -10, 9), **profile) as file:
        file.write(pixels)
    PredictionWriter(Net().eval(), about(), EvaluationConfig(), ("ids", "train-ids")).write(
        tmp_path / "s.tif", tmp_path / "s"
    )
    found = {}
    for kind in ("ids", "train-ids"):
        with rasterio.open(tmp_path / f"s.{kind}.tif") as file:
            found[kind] = file.read(1)
            assert file.nodata == IGNORED and file.dtypes == ("uint16",)
    assert (found["ids"][:5] == IGNORED).all() and (found["train-ids"][:5] == IGNORED).all()
    assert np.array_equal(found["ids"][5:], 1000 + 7 * (NUM_CLASSES - 1 - found["train-ids"][5:].astype(int)))


def test_exported_labels_are_int32() -> None:
    logits, labels = Deployed(Net(), about())(torch.rand(1, 3, 6, 7) * 255)
    assert labels.dtype == torch.int32 and torch.equal(labels.long(), logits.argmax(1)) and int(labels.max()) > 255


def test_pictures_of_many_classes() -> None:
    label_HW = np.array([[0, 299, IGNORED]], np.uint16)
    shown = comparison_images(np.zeros((1, 3, 3), np.uint8), label_HW, label_HW, PALETTE)
    assert shown["prediction"].tolist() == [[list(PALETTE[0]), list(PALETTE[299]), [0, 0, 0]]]
    with pytest.raises(ValueError, match="300"):
        comparison_images(np.zeros((1, 3, 3), np.uint8), label_HW + np.uint16(1), label_HW, PALETTE)


def test_what_does_not_take_many_classes_says_so() -> None:
    with raises_user_error("MSA-INFER-797", setting="--write"):
        PredictionWriter(Net(), about(), EvaluationConfig(), ("palette",))
    with raises_user_error("MSA-DEMO-797", mentions="300"):
        Segmenter(Net(), about(), EvaluationConfig(), Limits())
    with raises_user_error("MSA-EVAL-722", setting="num_classes"):
        SegmentationScores(NUM_CLASSES)
    require_countable(MOST_CLASSES)
    with raises_user_error("MSA-EVAL-790", setting="data.val_split", mentions=str(MOST_CLASSES + 1)):
        SegmentationCounts(MOST_CLASSES + 1, False, False)
