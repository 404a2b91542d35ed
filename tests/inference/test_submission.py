"""What the test servers take, read by the official script of Cityscapes and held against the files of VOC."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.datasets import CITYSCAPES, VOC
from msanet.datasets.cityscapes import LABELS
from msanet.datasets.voc import voc_color
from msanet.inference.submission import SUBMISSION_FORMATS
from support.errors import raises_user_error

CITYSCAPES_FORMAT, VOC_FORMAT = SUBMISSION_FORMATS["cityscapes"], SUBMISSION_FORMATS["voc"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official module, see test_protocols.py."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    return pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="cityscapesscripts is not installed"
    )


def score(script: Any, results: Path, truths: list[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the official script says of a folder of results: it looks for them by itself."""
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(results))
    args = copy.copy(script.args)
    args.JSONOutput, args.quiet, args.predictionPath, args.predictionWalk = False, True, None, None
    found = [script.getPrediction(args, str(truth)) for truth in truths]
    result: dict[str, Any] = script.evaluateImgLists(found, list(map(str, truths)), args)
    return result


def write_cityscapes(out: Path, image: str, label_HW: np.ndarray) -> None:
    CITYSCAPES_FORMAT.write(out / f"{CITYSCAPES_FORMAT.name(Path(image))}.png", label_HW)


def test_the_official_script_finds_and_understands_a_submission(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class right in the first image, and one confused in the second."""
    ids = np.array([[label.id for label in LABELS if label.train_id != 255]] * 4, np.uint8)
    truths = []
    for frame in (19, 20):
        truths.append(tmp_path / "gtFine" / f"ulm_000000_{frame:06d}_gtFine_labelIds.png")
        truths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(ids).save(truths[-1])
        Image.fromarray(ids.astype(np.uint16)).save(str(truths[-1]).replace("labelIds", "instanceIds"))
    prediction = np.tile(np.arange(19, dtype=np.uint8), (4, 1))
    write_cityscapes(tmp_path / "out", "test/ulm/ulm_000000_000019_leftImg8bit.png", prediction)
    prediction[:, 13] = 18  # car as bicycle
    write_cityscapes(tmp_path / "out", "ulm_000000_000020.png", prediction)
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == ["ulm_000000_000019_pred_labelIds.png", "ulm_000000_000020_pred_labelIds.png"]
    found = score(script, tmp_path / "out", truths, monkeypatch)["classScores"]
    assert found["car"] == 0.5 and found["bicycle"] == pytest.approx(2 / 3)
    assert all(found[name] == 1 for name in CITYSCAPES.classes if name not in ("car", "bicycle"))


def test_real_labels_as_predictions_are_perfect(
    script: Any, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real names and sizes, through train ids and back to label ids; what is void may say anything."""
    images = sorted((test_data / "cityscapes" / "leftImg8bit").rglob("*_leftImg8bit.png"))[:2]
    truths = [Path(re.sub("leftImg8bit", "gtFine", str(path), count=1)) for path in images]
    truths = [path.with_name(path.name.replace("leftImg8bit", "gtFine_labelIds")) for path in truths]
    for image, truth in zip(images, truths, strict=True):
        label_HW = CITYSCAPES.to_train_ids(np.asarray(Image.open(truth)))
        write_cityscapes(tmp_path, str(image), np.where(label_HW == 255, 0, label_HW).astype(np.uint8))
    result = score(script, tmp_path, truths, monkeypatch)
    present = [value for value in result["classScores"].values() if not np.isnan(value)]
    assert len(present) > 8 and set(present) == {1.0}


def test_voc_results_look_like_the_devkits_own_files(tmp_path: Path) -> None:
    name = VOC_FORMAT.name(Path("JPEGImages/2008_000006.jpg"))
    assert str(name) == "results/VOC2012/Segmentation/comp6_test_cls/2008_000006"
    label_HW = np.tile(np.arange(21, dtype=np.uint8), (3, 1))
    VOC_FORMAT.write(tmp_path / f"{name}.png", label_HW)
    image = Image.open(tmp_path / f"{name}.png")
    assert image.mode == "P" and np.array_equal(np.asarray(image), label_HW)
    assert np.array_equal(np.reshape(image.getpalette() or [], (256, 3)), [voc_color(index) for index in range(256)])


def test_the_palette_is_that_of_real_voc_files(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "VOCdevkit" / "VOC2012"
    real = Image.open(sorted((folder / "SegmentationClass").glob("*.png"))[0])
    label_HW = np.asarray(real)
    path = tmp_path / f"{VOC_FORMAT.name(sorted((folder / 'JPEGImages').glob('*.jpg'))[0])}.png"
    VOC_FORMAT.write(path, label_HW)
    ours = Image.open(path)
    assert (ours.mode, ours.size, ours.getpalette()) == (real.mode, real.size, real.getpalette())
    assert np.array_equal(np.asarray(ours), label_HW)


@pytest.mark.parametrize("name", ["0001TP_006690.png", "ulm_000000_000019_gtFine_color.png", "2008_000006.jpg"])
def test_names_of_other_datasets_are_refused(name: str) -> None:
    with raises_user_error("MSA-INFER-008", setting="--images", mentions="cityscapes"):
        CITYSCAPES_FORMAT.name(Path(name))
    with raises_user_error("MSA-INFER-008", mentions="voc"):
        VOC_FORMAT.name(Path("a2008_000006.jpg"))
    with raises_user_error("MSA-INFER-008", mentions="voc"):
        VOC_FORMAT.name(Path("2008_000006.mp4"))


def test_classes_must_be_the_benchmarks() -> None:
    CITYSCAPES_FORMAT.require_classes(CITYSCAPES.classes)
    for classes in (VOC.classes, CITYSCAPES.classes[::-1], CITYSCAPES.classes[:18]):
        with raises_user_error("MSA-INFER-009", setting="--submission", mentions="19"):
            CITYSCAPES_FORMAT.require_classes(classes)


def test_a_second_prediction_in_the_folder_is_refused(script: Any, tmp_path: Path) -> None:
    """The official script ends on it."""
    name = CITYSCAPES_FORMAT.name(Path("ulm_000000_000019_leftImg8bit.png"))
    (tmp_path / f"{name}.png").touch()
    (tmp_path / "notes.png").touch()
    CITYSCAPES_FORMAT.require_free(tmp_path, [name])  # its own file, from the same command before
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "ulm_000000_000019_leftImg8bit.png").touch()
    with raises_user_error("MSA-INFER-010", setting="--out"):
        CITYSCAPES_FORMAT.require_free(tmp_path, [name])
