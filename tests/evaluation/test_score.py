"""`msanet score`: folders of any program's predictions get the figures of an evaluation, or one error that names all faults."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.cli.main import main
from msanet.cli.score import parser, score
from msanet.datasets import CITYSCAPES, VOC
from msanet.datasets.cityscapes import LABELS
from msanet.evaluation.per_image_counts import read_per_image_counts
from msanet.evaluation.result import EvaluationResult
from support.errors import error_codes, raises_user_error

TRAIN_IDS = np.array([label.train_id for label in LABELS], np.uint8)
Words = list[str]


def run(predictions: Path, truth: Path, *words: object) -> EvaluationResult:
    options = ["--predictions", predictions, "--truth", truth, "--workers", 1, *words]
    return score(parser().parse_args([str(word) for word in options]))[0]


def random_ids(rng: np.random.Generator, size: tuple[int, int] = (60, 90)) -> np.ndarray:
    """Instance ids of an image: patches of classes, and boxes with instances, caravans and trailers among them."""
    ids_HW = rng.integers(0, 24, (size[0] // 10, size[1] // 10)).repeat(10, 0).repeat(10, 1)
    kinds = [label.id for label in LABELS if label.has_instances]
    for number in range(12):
        top, left = rng.integers(0, size[0] - 9), rng.integers(0, size[1] - 9)
        ids_HW[top : top + rng.integers(2, 20), left : left + rng.integers(2, 20)] = rng.choice(
            kinds
        ) * 1000 + number * (number > 1)
    return ids_HW.astype(np.uint16)


def damaged(label_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Label ids with a fifth of the pixels at random: void, caravans and trailers too."""
    return np.where(rng.random(label_HW.shape) < 0.2, rng.integers(0, 34, label_HW.shape), label_HW).astype(np.uint8)


@pytest.fixture
def city(tmp_path: Path) -> tuple[Path, Path]:
    """Cityscapes' tree of five images in two cities, and the folder of their predictions as label ids."""
    rng = np.random.default_rng(0)
    for number in range(5):
        folder = tmp_path / "data" / "gtFine" / "val" / ("aachen" if number < 3 else "bonn")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{folder.name}_{number:06d}_000019"
        ids_HW = random_ids(rng)
        label_HW = np.where(ids_HW >= 1000, ids_HW // 1000, ids_HW).astype(np.uint8)
        Image.fromarray(ids_HW).save(folder / f"{name}_gtFine_instanceIds.png")
        Image.fromarray(label_HW).save(folder / f"{name}_gtFine_labelIds.png")
        (tmp_path / "pred" / folder.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(damaged(label_HW, rng)).save(tmp_path / "pred" / folder.name / f"{name}_leftImg8bit.png")
    return tmp_path / "data", tmp_path / "pred"


def converted(folder: Path, to: Path, change: Callable[[np.ndarray], Image.Image]) -> Path:
    """Copies of all predictions as other programs write them, in one folder."""
    to.mkdir()
    for path in folder.rglob("*.png"):
        change(np.asarray(Image.open(path))).save(to / path.name)
    return to


def as_train_ids(ids_HW: np.ndarray) -> Image.Image:
    return Image.fromarray(TRAIN_IDS[ids_HW])


def as_palette(ids_HW: np.ndarray) -> Image.Image:
    image = as_train_ids(ids_HW)
    image.putpalette([channel for color in CITYSCAPES.palette for channel in color] + [0] * 3 * 237)
    return image


def as_colors(ids_HW: np.ndarray) -> Image.Image:
    palette = np.zeros((256, 3), np.uint8)
    palette[:19] = CITYSCAPES.palette
    return Image.fromarray(palette[TRAIN_IDS[ids_HW]])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # which NumPy 2.4 took away
    return pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="cityscapesscripts is not installed"
    )


def official(script: Any, data: Path, predictions: Path) -> dict[str, Any]:
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet, args.predictionPath, args.predictionWalk = False, True, str(predictions), None
    truths = sorted(map(str, data.glob("gtFine/val/*/*_labelIds.png")))
    return script.evaluateImgLists([script.getPrediction(args, path) for path in truths], truths, args)


def assert_equal(result: EvaluationResult, theirs: dict[str, Any]) -> None:
    own = result.protocol_scores
    assert own.categories and own.class_instances and own.category_instances
    found = {
        "classScores": dict(zip(result.classes, own.scores.iou_K.tolist(), strict=True)),
        "categoryScores": own.categories.values,
        "classInstScores": own.class_instances.values,
        "categoryInstScores": own.category_instances.values,
    }
    for kind, values in found.items():
        for name, value in values.items():
            np.testing.assert_array_equal(value, theirs[kind][name], err_msg=f"{kind} {name}")
    assert own.scores.mean_iou == theirs["averageScoreClasses"]
    assert own.category_instances.mean == theirs["averageScoreInstCategories"]


def test_scores_equal_cityscapesscripts(city: tuple[Path, Path], script: Any) -> None:
    """With its own search for predictions; caravans and trailers are predicted, and count in the category iIoU."""
    data, predictions = city
    assert_equal(run(predictions, data, "--protocol", "official-cityscapes"), official(script, data, predictions))


def test_real_label_maps_equal_cityscapesscripts(test_data: Path, script: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "gtFine" / "val" / "frankfurt"
    folder.mkdir(parents=True)
    (tmp_path / "pred").mkdir()
    for path in sorted((test_data / "cityscapes" / "gtFine" / "val").rglob("*_instanceIds.png"))[:3]:
        label = path.with_name(path.name.replace("instanceIds", "labelIds"))
        for source in (path, label):
            Image.fromarray(np.asarray(Image.open(source))[256:768, 768:1280]).save(folder / source.name)
        shifted = np.roll(np.asarray(Image.open(folder / label.name)), (5, 9), (0, 1))
        Image.fromarray(shifted).save(tmp_path / "pred" / label.name.replace("_gtFine_labelIds", ""))
    result = run(tmp_path / "pred", tmp_path / "data", "--protocol", "official-cityscapes")
    assert_equal(result, official(script, tmp_path / "data", tmp_path / "pred"))
    itself = run(folder, folder, "--protocol", "official-cityscapes").protocol_scores
    assert itself.scores.mean_iou == 1 == itself.scores.pixel_accuracy and itself.class_instances.mean == 1  # type: ignore[union-attr]


def test_real_palettes_of_voc(test_data: Path) -> None:
    folder = test_data / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    result = run(folder, folder, "--protocol", "official-voc")
    assert result.protocol_scores.scores.pixel_accuracy == 1 and len(result.per_image_counts) > 10


@pytest.mark.parametrize("change", [as_train_ids, as_palette, as_colors])
@pytest.mark.parametrize("values", ["auto", "given"])
def test_every_form_of_a_prediction_has_the_same_counts(
    change: Callable[[np.ndarray], Image.Image], values: str, city: tuple[Path, Path], tmp_path: Path
) -> None:
    data, predictions = city
    expected = run(predictions, data).matrix
    kind = "colors" if change is as_colors else "train-ids"
    folder = converted(predictions, tmp_path / "other", change)
    found = run(folder, data, "--values", kind if values == "given" else "auto").matrix
    assert (found == expected).all() and found.sum() > 10_000


def test_values_of_two_meanings_are_read_by_the_truth_and_said(
    city: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, predictions = city
    folder = converted(predictions, tmp_path / "other", as_train_ids)
    result = run(folder, data)
    assert result.protocol_scores.scores.pixel_accuracy > 0.7
    assert "warning: values fit both train-ids and ids, and are read as train-ids" in capfd.readouterr().err
    run(folder, data, "--values", "train-ids")
    assert "warning" not in capfd.readouterr().err
    nonsense = converted(predictions, tmp_path / "third", lambda ids_HW: Image.fromarray(np.full_like(ids_HW, 4)))
    with raises_user_error("MSA-SCORE-009", setting="--values", mentions="train-ids"):
        run(nonsense, data)


def test_how_values_are_read_is_said_in_a_line(city: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    data, predictions = city
    run(predictions, data)
    (line,) = capfd.readouterr().err.splitlines()
    assert "5 of 5 images of 'val'" in line and "read as ids of cityscapes" in line and "the truth as ids" in line


def test_all_faults_are_named_at_once_and_nothing_is_written(
    city: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, predictions = city
    files = sorted(predictions.rglob("*.png"))
    files[0].unlink()
    shutil.copy(files[1], files[1].with_name(files[1].name.replace("_left", "_right")))
    Image.new("L", (5, 7)).save(files[2])
    files[3].write_bytes(files[3].read_bytes()[:200])
    Image.fromarray(np.full((60, 90), 77, np.uint8)).save(files[4])
    words = ["score", "--predictions", predictions, "--truth", data, "--out", tmp_path / "out", "--workers", 1]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capfd.readouterr()
    assert end.value.code == 2 and not out and not (tmp_path / "out").exists()
    assert error_codes(err) == [f"MSA-SCORE-{number:03d}" for number in (1, 2, 3, 4, 5, 6)]
    for number, word in enumerate(("aachen_000000_000019", files[1].name, "5x7", files[3].name, "77")):
        line = [line for line in err.splitlines() if f"MSA-SCORE-{number + 1:03d}" in line]
        assert len(line) == 1 and word in line[0], err


def test_one_kind_of_fault_is_one_error(city: tuple[Path, Path]) -> None:
    data, predictions = city
    for path in predictions.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path))[:, :-1]).save(path)
    with raises_user_error("MSA-SCORE-003", setting="--predictions", mentions="89x60"):
        run(predictions, data)


def test_instance_maps_of_another_size_are_faults_too(city: tuple[Path, Path]) -> None:
    data, predictions = city
    path = next(data.rglob("*_instanceIds.png"))
    Image.fromarray(np.zeros((6, 9), np.uint16)).save(path)
    with raises_user_error("MSA-SCORE-003", mentions="9x6"):
        run(predictions, data, "--protocol", "official-cityscapes")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("MSA-SCORE-007", ["--predictions", "{root}/nowhere"]),
        ("MSA-SCORE-007", ["--truth", "{root}/nowhere"]),
        ("MSA-SCORE-007", ["--predictions", "{root}/empty"]),
        ("MSA-SCORE-008", ["--split", "trian"]),
        ("MSA-SCORE-010", ["--truth", "{root}/pred"]),
        ("MSA-EVAL-010", ["--protocol", "official-cityscapes", "--classes", "voc"]),
        ("MSA-CLI-001", ["--workers", "0"]),
        ("MSA-PACK-031", ["--classes", "{root}/empty/readme.txt"]),
    ],
)
def test_wrong_options(
    code: str, words: Words, city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    given = {"--predictions": str(city[1]), "--truth": str(city[0])}
    given |= dict(zip(words[::2], (word.format(root=tmp_path) for word in words[1::2]), strict=True))
    with pytest.raises(SystemExit) as end:
        main(["score", *(word for pair in given.items() for word in pair)])
    assert end.value.code == 2 and error_codes(capsys.readouterr().err) == [code]


def test_results_are_those_of_an_evaluation(
    city: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files, and what compare, worst and rescore make of them."""
    data, predictions = city
    better = converted(predictions, tmp_path / "better", as_train_ids)
    for path in sorted(better.glob("*.png"))[:2]:
        label = next(data.rglob(f"{path.name.removesuffix('_leftImg8bit.png')}*_labelIds.png"))
        as_train_ids(np.asarray(Image.open(label))).save(path)
    for folder in (predictions, better):
        words = ["--truth", data, "--out", tmp_path / f"of_{folder.name}", "--workers", 1, "--boundary"]
        protocol = ["--protocol", "official-cityscapes"]
        assert main(["score", "--predictions", str(folder), *map(str, words), *protocol]) == 0
    metrics = json.loads((tmp_path / "of_pred" / "evaluation-val.json").read_text())
    assert metrics["mean_iou_interval"][0] < metrics["mean_iou"] < metrics["mean_iou_interval"][1]
    assert metrics["boundary"]["mean_iou"] > 0 and metrics["worst_images"] and metrics["num_images"] == 5
    assert metrics["class_instances"]["values"]["car"] > 0 and metrics["calibration"] is None
    counts = read_per_image_counts(tmp_path / "of_pred" / "evaluation-val.npz")
    assert counts.keys[0] == "aachen_000000_000019" and (counts.dataset, counts.split) == ("cityscapes", "val")
    page = (tmp_path / "of_pred" / "report.html").read_text()
    assert "aachen_000000_000019" in page and "Worst images" in page and "No training metrics" not in page
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "of_pred"), str(tmp_path / "of_better"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["metrics"]["pixel_accuracy"]["difference"] > 0 and not compared["notes"]
    assert main(["worst", str(tmp_path / "of_better"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][-1]["mean_iou"] == 1
    assert main(["rescore", str(tmp_path / "of_pred"), "--json", "--protocol", "official-cityscapes"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["class_instances"]["values"] == metrics["class_instances"]["values"]


@pytest.mark.full
def test_any_number_of_workers_gives_the_same_files(city: tuple[Path, Path], tmp_path: Path) -> None:
    data, predictions = city
    protocol = ["--protocol", "official-cityscapes", "--boundary"]
    for workers in (1, 2, 3):
        words = ["--predictions", predictions, "--truth", data, "--out", tmp_path / str(workers), "--workers", workers]
        assert main(["score", *map(str, words), *protocol]) == 0
    files = [(tmp_path / str(workers) / "evaluation-val.json").read_bytes() for workers in (1, 2, 3)]
    assert files[0] == files[1] == files[2]
    first, other = (read_per_image_counts(tmp_path / name / "evaluation-val.npz") for name in ("1", "3"))
    assert (first.counts == other.counts).all() and (first.instances == other.instances).all()  # type: ignore[union-attr]


def test_its_processes_import_no_pytorch() -> None:
    """Which takes a second, half as long as counting 100 label maps."""
    code = "import sys, msanet.cli.score_count as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_truth_in_shards(shards: Path, tmp_path: Path) -> None:
    """Predictions of CamVid's images by the names in the shards; void (11) is known by the dataset's table."""
    source = shards.parent / "source" / "valannot"
    result = run(source, shards, "--split", "val")
    assert result.protocol_scores.scores.pixel_accuracy == 1 and len(result.per_image_counts) == 7
    folder = run(source, source, "--classes", "camvid", "--split", "val")
    assert folder.per_image_counts.keys == result.per_image_counts.keys
    assert (folder.matrix == result.matrix).all()
    with raises_user_error("MSA-SCORE-008", setting="--classes"):
        run(source, shards, "--classes", "camvid")


def test_classes_of_a_file(tmp_path: Path) -> None:
    """Masks of 0 and 255 on both sides, in folders of other names."""
    rng = np.random.default_rng(0)
    for folder in ("truth/a", "truth/b", "pred/x/a", "pred/x/b"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("1", "2"):
            Image.fromarray((rng.random((20, 30)) < 0.5).astype(np.uint8) * 255).save(tmp_path / folder / f"{name}.png")
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes: [{id: 0, name: nothing}, {id: 1, name: object}]")
    with raises_user_error("MSA-SCORE-001", mentions="a_1"):
        run(tmp_path / "pred", tmp_path / "truth", "--classes", classes)
    result = run(tmp_path / "pred" / "x", tmp_path / "truth", "--classes", classes)
    assert result.classes == ("nothing", "object") and len(result.per_image_counts) == 4
    assert 0.4 < result.protocol_scores.scores.pixel_accuracy < 0.6 and result.matrix.sum() == 4 * 600


def test_voc_root_with_a_list(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for folder in ("ImageSets/Segmentation", "SegmentationClass", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("one\ntwo\n")
    for name in ("one", "two", "three"):
        label_HW = np.full((30, 40), 255, np.uint8)
        label_HW[5:20] = 15
        label_HW[20:] = 0
        image = Image.fromarray(label_HW)
        image.putpalette([channel for color in VOC.palette for channel in color])
        image.save(root / "SegmentationClass" / f"{name}.png")
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.zeros((30, 40, 3), np.uint8))
    result = run(root / "SegmentationClass", root, "--out", tmp_path / "out")
    assert result.per_image_counts.keys == ("one", "two") and result.protocol_scores.scores.pixel_accuracy == 1
    assert all(shown.image_HWC is not None for shown in result.shown_images)
