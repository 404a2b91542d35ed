"""Protocols against the official tools: cityscapesscripts called for real, and the VOC devkit's rule written out."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from msanet.datasets import CITYSCAPES, VOC
from msanet.datasets.cityscapes import CATEGORIES, LABELS
from msanet.evaluation.confusion import confusion_matrix_with_void
from msanet.evaluation.instances import AVERAGE_INSTANCE_PIXELS, instance_rows, no_instances
from msanet.evaluation.protocols import ProtocolScores, compute_scores
from msanet.metrics import SegmentationScores
from support.errors import raises_user_error

VOID = 255
TRAIN_IDS = np.array([label.train_id for label in LABELS], dtype=np.uint8)
LABEL_IDS = np.zeros(256, dtype=np.uint8)  # void becomes 'unlabeled'
for _label in LABELS:
    if _label.train_id != VOID:
        LABEL_IDS[_label.train_id] = _label.id


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official module. It calls np.in1d, which NumPy 2.4 took away, to reshape what np.isin gives in that shape."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="cityscapesscripts is not installed"
    )


def official(script: Any, folder: Path, images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """What the script says of [(instance ids, prediction as train ids)]; label maps follow from the instances."""
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet = False, True
    truths, predictions = [], []
    for number, (instance_ids, prediction) in enumerate(images):
        truth = folder / f"{number}_labelIds.png"
        Image.fromarray(label_ids(instance_ids)).save(truth)
        Image.fromarray(instance_ids.astype(np.uint16)).save(folder / f"{number}_instanceIds.png")
        Image.fromarray(LABEL_IDS[prediction]).save(folder / f"{number}_pred.png")
        truths.append(str(truth))
        predictions.append(str(folder / f"{number}_pred.png"))
    result: dict[str, Any] = script.evaluateImgLists(predictions, truths, args)
    return result


def label_ids(instance_ids: np.ndarray) -> np.ndarray:
    return np.where(instance_ids >= 1000, instance_ids // 1000, instance_ids).astype(np.uint8)


def ours(images: list[tuple[np.ndarray, np.ndarray]], order: np.ndarray) -> ProtocolScores:
    """Counted in another order than the split's, as ranks do."""
    matrix = torch.zeros(19, 20, dtype=torch.int64)
    rows = [no_instances()]
    for number in order:
        instance_ids, prediction = images[number]
        matrix += confusion_matrix_with_void(
            torch.from_numpy(TRAIN_IDS[label_ids(instance_ids)]), torch.from_numpy(prediction), 19
        )
        rows.append(instance_rows(number, instance_ids.astype(np.int32), prediction))
    return compute_scores(matrix.numpy(), CITYSCAPES.classes, "official-cityscapes", np.concatenate(rows))


def assert_equal(found: ProtocolScores, expected: dict[str, Any]) -> None:
    """Every score, with == (NaN for NaN)."""
    assert found.categories and found.class_instances and found.category_instances
    scores = dict(zip(CITYSCAPES.classes, found.scores.iou_K, strict=True))
    for values, mean, name in (
        (scores, found.scores.mean_iou, "Classes"),
        (found.class_instances.values, found.class_instances.mean, "InstClasses"),
        (found.categories.values, found.categories.mean, "Categories"),
        (found.category_instances.values, found.category_instances.mean, "InstCategories"),
    ):
        single = {"Classes": "class", "Categories": "category"}[name.removeprefix("Inst")]
        theirs = expected[f"{single}{'Inst' if 'Inst' in name else ''}Scores"]
        assert set(values) <= set(theirs)
        for key, value in theirs.items():
            assert same(values.get(key, math.nan), value), (name, key)
        assert same(mean, expected[f"averageScore{name}"]), name


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def random_image(rng: np.random.Generator, height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of labels on labels, with instances of one pixel, groups (label ids as they are) and ids of number 0."""
    known = rng.choice(34, rng.integers(2, 34), replace=False)
    ids = np.full((height, width), rng.choice(known), dtype=np.int64)
    for number in range(rng.integers(0, 40)):
        label = LABELS[rng.choice(known)]
        top, left = rng.integers(0, (height, width))
        side = rng.integers(1, 16)
        is_single = label.has_instances and rng.random() < 0.8
        ids[top : top + side, left : left + side] = label.id * 1000 + number if is_single else label.id
        if is_single and rng.random() < 0.5:
            ids[rng.integers(height), rng.integers(width)] = label.id * 1000 + 500 + number
    prediction = TRAIN_IDS[label_ids(ids)]
    wrong = rng.random(ids.shape) < rng.choice([0.0, 0.3, 1.0])
    prediction[wrong] = rng.choice([*range(rng.integers(1, 20)), VOID], wrong.sum())
    return ids, prediction


@pytest.mark.parametrize("seed", range(40))
def test_random_label_maps_equal_cityscapesscripts(seed: int, script: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(rng.integers(1, 6))]
    found = ours(images, rng.permutation(len(images)))
    assert_equal(found, official(script, tmp_path, images))


def _perfect(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return truth.copy()


def _noise(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 19, truth.shape, dtype=np.uint8), truth)


def _shifted(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.roll(truth, (5, 9), (0, 1))


def _eroded(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Void on every border of two classes."""
    is_inside = np.ones(truth.shape, bool)
    for axis in (0, 1):
        is_inside &= (np.roll(truth, 2, axis) == truth) & (np.roll(truth, -2, axis) == truth)
    return np.where(is_inside, truth, np.uint8(VOID))


def _swapped(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """car with truck, person with rider, road with sidewalk: two within a category of instances."""
    table = np.arange(256, dtype=np.uint8)
    table[[13, 14, 11, 12, 0, 1]] = [14, 13, 12, 11, 1, 0]
    return table[truth]


def _without_car(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.where(truth == 13, np.uint8(0), truth)


def _all_void(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.full_like(truth, VOID)


def _all_car(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.full_like(truth, 13)


def _mirrored(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return truth[:, ::-1].copy()


@pytest.mark.parametrize(
    "damage", [_perfect, _noise, _shifted, _eroded, _swapped, _without_car, _all_void, _all_car, _mirrored]
)
def test_damaged_real_label_maps_equal_cityscapesscripts(
    damage: Callable[[np.ndarray, np.random.Generator], np.ndarray], script: Any, test_data: Path, tmp_path: Path
) -> None:
    """The middle of seven val images at full resolution."""
    rng = np.random.default_rng(1)
    images = []
    for path in sorted((test_data / "cityscapes" / "gtFine" / "val").rglob("*_instanceIds.png")):
        ids = np.asarray(Image.open(path)).astype(np.int64)[256:768, 768:1280]
        images.append((ids, damage(TRAIN_IDS[label_ids(ids)], rng)))
    assert len(images) == 7
    assert_equal(ours(images, rng.permutation(7)), official(script, tmp_path, images))


@pytest.mark.parametrize("seed", range(4))
def test_the_metric_equals_cityscapesscripts(seed: int, script: Any, tmp_path: Path) -> None:
    """`msanet.metrics`, image by image; all but iIoU, for which it has no instances."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(4)]
    metric = SegmentationScores(19, protocol="official-cityscapes")
    for ids, prediction in images:
        metric.update(torch.from_numpy(prediction)[None], torch.from_numpy(TRAIN_IDS[label_ids(ids)])[None])
    found, expected = metric.compute(), official(script, tmp_path, images)
    assert same(found["mean_iou"].item(), expected["averageScoreClasses"])
    assert same(found["mean_categories"].item(), expected["averageScoreCategories"])
    for kind, table, names in (
        ("iou", "classScores", CITYSCAPES.classes),
        ("categories", "categoryScores", CATEGORIES),
    ):
        for name in names:
            assert same(found[f"{kind}/{name}"].item(), expected[table][name]), name


def test_the_tables_are_those_of_cityscapesscripts(script: Any) -> None:
    theirs = [label for label in script.labels if label.id >= 0]
    assert [(t.name, t.id, t.trainId, t.category, t.hasInstances, t.color) for t in theirs] == [
        (o.name, o.id, o.train_id, o.category, o.has_instances, o.color) for o in LABELS
    ]
    assert [t.ignoreInEval for t in theirs] == [o.train_id == VOID for o in LABELS]
    assert list(CATEGORIES) == [name for name in script.category2labels if name != "void"]
    stats = script.generateInstanceStats(script.args)
    assert set(AVERAGE_INSTANCE_PIXELS) == set(stats["classes"])
    assert {name: script.args.avgClassSize[name] for name in AVERAGE_INSTANCE_PIXELS} == AVERAGE_INSTANCE_PIXELS


def test_without_instances_a_note_names_the_missing_iiou() -> None:
    found = compute_scores(np.eye(19, 20, dtype=np.int64), CITYSCAPES.classes, "official-cityscapes")
    assert found.scores.mean_iou == 1.0 and found.categories and found.categories.mean == 1.0
    assert found.class_instances is None and found.category_instances is None
    note = found.scores.notes[-1]
    assert "iIoU" in note and "evaluation.protocol=official-cityscapes" in note and "--instances" in note


def test_default_protocol_counts_void_as_missed() -> None:
    found = compute_scores(np.array([[6, 2, 2], [0, 0, 0]]), ("a", "b"), "default")
    assert found.protocol == "default" and found.categories is None
    assert found.scores.iou_K.tolist() == [0.6, 0.0] and found.scores.support_K.tolist() == [10, 0]
    assert found.scores.pixel_accuracy == 0.6
    assert found.scores.notes[-1] == "Predicted void on 2 labeled pixels, counted as missed."


@pytest.mark.parametrize(("protocol", "spec"), [("official-cityscapes", VOC), ("official-voc", CITYSCAPES)])
def test_a_protocol_needs_the_classes_of_its_dataset(protocol: Any, spec: Any) -> None:
    with raises_user_error("MSA-EVAL-010", setting="evaluation.protocol", mentions=protocol):
        compute_scores(np.eye(spec.num_classes, dtype=np.int64), spec.classes, protocol)


@pytest.mark.parametrize("instance", [7001, 34000, 65535])
def test_an_instance_of_an_unknown_label_is_refused(instance: int) -> None:
    ids = np.array([[26001, instance]], dtype=np.int32)
    with raises_user_error("MSA-EVAL-004", mentions=f"{instance}"):
        instance_rows(0, ids, np.zeros((1, 2), dtype=np.uint8))


def test_instance_rows_by_hand() -> None:
    """A car of three pixels (right, truck, void), a person of one, a group of cars, and a caravan, which is left out."""
    ids = np.array([[26002, 26002, 26002, 24000, 26, 29001]], dtype=np.int32)
    prediction = np.array([[13, 14, 255, 0, 13, 13]], dtype=np.uint8)
    assert instance_rows(3, ids, prediction).tolist() == [[3, 24000, 1, 0, 0], [3, 26002, 3, 1, 2]]
    assert instance_rows(3, ids.clip(max=1000), prediction).shape == (0, 5)


def devkit(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float], float]:
    """VOCevalseg.m of the VOC 2012 devkit, line by line: (accuracies, avacc), both in percent."""
    num = 21
    confcounts = np.zeros((num, num))
    for gtim, resim in pairs:
        if resim.max() > num - 1:
            raise ValueError("Results image has out of range value")
        locs = gtim < 255
        sumim = 1 + gtim.astype(float) + resim.astype(float) * num
        values = sumim[locs]
        hs = np.bincount(values.astype(int), minlength=num * num + 1)[1:]  # histc(sumim(locs), 1:num*num)
        confcounts += hs.reshape(num, num).T  # MATLAB fills columns first
    accuracies = []
    for j in range(num):
        gtj, resj, gtjresj = confcounts[j, :].sum(), confcounts[:, j].sum(), confcounts[j, j]
        union = gtj + resj - gtjresj
        accuracies.append(100 * gtjresj / union if union else math.nan)
    return accuracies, sum(accuracies) / num


def _voc_masks(test_data: Path, count: int) -> list[np.ndarray]:
    folder = test_data / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))[:count]]


def _voc(pairs: list[tuple[np.ndarray, np.ndarray]]) -> ProtocolScores:
    matrix = sum(confusion_matrix_with_void(torch.from_numpy(t), torch.from_numpy(p), 21) for t, p in pairs)
    assert isinstance(matrix, torch.Tensor)
    return compute_scores(matrix.numpy(), VOC.classes, "official-voc")


def _background(truth: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.zeros_like(truth)


def _hollow(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Background on every border of two classes, and the border of the masks itself a class."""
    return np.where(_eroded(truth, rng) == VOID, np.uint8(0), truth)


def _any_class(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 21, truth.shape, dtype=np.uint8)


@pytest.mark.parametrize("damage", [_perfect, _noise, _shifted, _mirrored, _hollow, _background, _any_class])
@pytest.mark.parametrize("count", [4, 60])
def test_real_voc_masks_follow_the_devkit(
    damage: Callable[[np.ndarray, np.random.Generator], np.ndarray], count: int, test_data: Path
) -> None:
    """Each score to the last bit of its own unit: ours are fractions, the devkit's percent. Few masks lack classes."""
    rng = np.random.default_rng(2)
    pairs = []
    for truth in _voc_masks(test_data, count):
        prediction = damage(truth, rng)
        pairs.append((truth, np.where(prediction == VOID, np.uint8(0), prediction)))
    accuracies, average = devkit(pairs)
    found = _voc(pairs).scores
    for ours, theirs in zip([*found.iou_K, found.mean_iou], [*accuracies, average], strict=True):
        assert f"{100 * ours:6.3f}" == f"{theirs:6.3f}"
        assert same(ours, theirs / 100) or math.isclose(100 * ours, theirs, rel_tol=1e-15)
    lacking = [name for name, iou in zip(VOC.classes, accuracies, strict=True) if math.isnan(iou)]
    assert math.isnan(found.mean_iou) == bool(lacking)
    assert lacking or damage not in (_perfect, _background)
    assert not lacking or damage is not _any_class
    assert not lacking or f"so that the devkit gives no mean: {', '.join(lacking)}." in found.notes[0]


def test_voc_refuses_void_as_the_devkit_does(test_data: Path) -> None:
    (truth,) = _voc_masks(test_data, 1)
    prediction = np.full_like(truth, VOID)
    with pytest.raises(ValueError, match="out of range"):
        devkit([(truth, prediction)])
    with raises_user_error("MSA-EVAL-002", setting="evaluation.protocol"):
        _voc([(truth, prediction)])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_void_has_its_own_column(dtype: torch.dtype) -> None:
    truth = torch.tensor([[0, 0, 1, 1, 255, 255]], dtype=dtype)
    prediction = torch.tensor([[0, 255, 255, 0, 1, 255]], dtype=dtype)
    assert confusion_matrix_with_void(truth, prediction, 2).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert confusion_matrix_with_void(truth, prediction.clamp(max=1), 2).tolist() == [[1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([0, 1], [0, 2], "[2]"),
        ([0, 1], [254, 7], "[7, 254]"),
        ([0, 33], [0, 0], "[33]"),
        ([0, 1], [0, -1], "-1"),
        ([0, 1], [0, 256], "256"),
    ],
)
def test_values_that_are_not_classes_are_never_counted(truth: list[int], prediction: list[int], expected: str) -> None:
    with raises_user_error("MSA-EVAL-003", mentions=expected):
        confusion_matrix_with_void(torch.tensor(truth), torch.tensor(prediction), 2)
    ignored = torch.full((1, 2), 255, dtype=torch.uint8)
    assert not confusion_matrix_with_void(ignored, torch.tensor([[0, 99]], dtype=torch.uint8), 2).any()
