"""`msanet rescore`, `compare` and `worst` as users call it: tables, JSON, and one sentence with exit code 2 for what is wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msanet.cli.counts import _groups
from msanet.cli.main import main
from msanet.datasets import CITYSCAPES, VOC
from msanet.evaluation.metrics import scores
from msanet.evaluation.per_image_counts import (
    PerImageCounts,
    collect_counts,
    image_counts,
    write_per_image_counts,
)
from msanet.run_layout import RunLayout
from support.errors import error_codes

Write = Callable[..., Path]


def make(quality: int = 20, classes: tuple[str, ...] = CITYSCAPES.classes, void: bool = False) -> PerImageCounts:
    """15 images with the same labels at any quality; `void` pixels are predicted as none."""
    rng, num_classes = np.random.default_rng(0), len(classes)
    images = []
    for number in range(15):
        matrix = np.pad(rng.integers(0, 10, (num_classes, num_classes)), ((0, 0), (0, 1)))
        matrix *= 20 - np.clip(quality, 0, 19)
        np.fill_diagonal(matrix, 0)
        np.fill_diagonal(matrix, 6000 + 100 * number - matrix.sum(axis=1))
        matrix[1:3] *= 1 + 3 * (number % 2)
        if void:
            matrix[0, -1], matrix[0, 0] = 7, matrix[0, 0] - 7
        images.append(image_counts(number, f"image_{number:02d}", matrix))
    return collect_counts("street", "0" * 64, "val", classes, images)


@pytest.fixture
def run(tmp_path: Path) -> Write:
    def write(name: str = "run", records: PerImageCounts | None = None, split: str = "val") -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        write_per_image_counts(RunLayout(tmp_path / name).per_image_counts(split), records or make())
        return tmp_path / name

    return write


def read(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([str(word) for word in (*words, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence with which the command ends."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count("\n") == 1
    assert len(error_codes(err)) == 1
    return err


def test_rescoring_gives_the_figures_of_the_sum(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    records = make(void=True)
    result = read(capsys, "rescore", run(records=records), "--resamples", 50)
    expected = scores(records.total(), records.classes)
    assert result["metrics"]["mean_iou"]["value"] == expected.mean_iou
    low, high = result["metrics"]["mean_iou"]["interval"]
    assert low < expected.mean_iou < high
    assert [row["iou"] for row in result["classes"].values()] == expected.iou_K.tolist()
    assert sum(row["support"] for row in result["classes"].values()) == records.total().sum()
    assert (result["num_images"], result["split"], result["protocol"]) == (15, "val", "default")
    iou = expected.iou_K
    assert [row["dice"] for row in result["classes"].values()] == pytest.approx((2 * iou / (1 + iou)).tolist())


def test_the_table_of_a_rescoring(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescore", str(run()), "--resamples", "50", "--protocol", "official-cityscapes"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name} " in text for name in (*CITYSCAPES.classes[:3], "vehicle", "mIoU"))
    assert "resampled 50 times (seed 0) as if independent" in text and "no instance-weighted IoU (iIoU)" in text


def test_the_devkits_mean_has_no_interval(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """As in `evaluation-<split>.json`: over resamples it would be the mean of the classes that are there."""
    folder = run(records=make(classes=VOC.classes))
    result = read(capsys, "rescore", folder, "--protocol", "official-voc", "--resamples", 5)
    assert result["metrics"]["mean_iou"]["interval"] == [None, None] and result["metrics"]["mean_iou"]["value"] > 0
    assert None not in result["metrics"]["pixel_accuracy"]["interval"] + result["classes"]["cat"]["interval"]
    assert main(["rescore", str(folder), "--protocol", "official-voc", "--resamples", "5"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mIoU"))
    assert line.endswith("%   - to -")
    assert None not in read(capsys, "rescore", folder, "--resamples", 5)["metrics"]["mean_iou"]["interval"]


def test_instances_that_were_kept_are_rescored(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.array([[0, 26001, 100, 50, 80]], dtype=np.int64)
    folder = run(records=replace(make(), instances=rows))
    result = read(capsys, "rescore", folder, "--protocol", "official-cityscapes", "--resamples", 5)
    assert 0 < result["class_instances"]["values"]["car"] < 1
    assert result["class_instances"]["values"]["bus"] is None or result["class_instances"]["values"]["bus"] == 0
    assert len(result["categories"]["values"]) == 7


def test_merged_classes(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    groups = ("--merge", "vehicle=car,truck, bus", "--merge", "flat=road,sidewalk")
    result = read(capsys, "rescore", run(), *groups, "--resamples", 5)
    assert len(result["classes"]) == 19 - 2 - 1 and {"vehicle", "flat", "sky"} <= result["classes"].keys()
    assert list(result["classes"])[0] == "flat"


def test_two_runs(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = run("bad", make(quality=10)), run("good", make(quality=15))
    result = read(capsys, "compare", bad, good)
    figure = result["metrics"]["mean_iou"]
    assert figure["difference"] == pytest.approx(figure["second"] - figure["first"]) and figure["difference"] > 0
    assert figure["interval"][0] > 0 and figure["share_above"] == 1.0
    assert result["runs"] == [str(bad), str(good)] and len(result["classes"]) == 19
    back = read(capsys, "compare", good, bad, "--resamples", 50)["metrics"]["mean_iou"]
    assert back["difference"] == -figure["difference"] and back["share_above"] == 0
    assert main(["compare", str(bad), str(good / "evaluation-val.npz"), "--resamples", "50"]) == 0
    text = capsys.readouterr().out
    assert (
        f"second {good}" in text
        and f"{100 * figure['difference']:+.2f}" in text
        and "does not cover another seed of training" in text
    )


def test_the_worst_images(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    records = make()
    result = read(capsys, "worst", run(records=records), "--count", 3)
    alone = [scores(records.matrix(i), records.classes).mean_iou for i in range(15)]
    assert [row["key"] for row in result["images"]] == [records.keys[i] for i in np.argsort(alone, kind="stable")[:3]]
    assert main(["worst", str(run(records=records)), "--by", "cost"]) == 0
    assert capsys.readouterr().out.count("image_") == 10


def test_undefined_figures_are_null_and_dashes(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    empty = collect_counts("street", "", "val", ("a", "b"), [image_counts(0, "x", np.zeros((2, 2), np.int64))])
    result = read(capsys, "rescore", run(records=empty), "--resamples", 5)
    assert result["metrics"]["mean_iou"] == {"value": None, "interval": [None, None]}
    assert main(["rescore", str(run(records=empty)), "--resamples", "5"]) == 0
    assert "a                          -             - to -" in capsys.readouterr().out


def test_a_file_or_a_folder_with_one_split_or_a_named_one(run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run()
    assert read(capsys, "worst", folder / "evaluation-val.npz") == read(capsys, "worst", folder)
    run(records=replace(make(), split="test"), split="test")
    assert read(capsys, "worst", folder, "--split", "test")["split"] == "test"
    assert "evaluation-test.npz, evaluation-val.npz, expected one; choose with --split [MSA-CLI-016]" in refused(
        capsys, "worst", folder
    )
    assert "evaluation-train.npz" in refused(capsys, "worst", folder, "--split", "train")


def test_what_is_wrong_is_one_error(run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run()
    for code, *words in (
        ("MSA-CLI-016", "worst", tmp_path / "none"),
        ("MSA-CLI-001", "rescore"),
        ("MSA-CLI-001", "worst", folder, "--count", 0),
        ("MSA-CLI-001", "rescore", folder, "--seed=-1"),
        ("MSA-CLI-017", "rescore", folder, "--merge", "vehicle"),
        ("MSA-CLI-017", "rescore", folder, "--merge", "a=car", "--merge", "a=bus"),
    ):
        assert error_codes(refused(capsys, *words)) == [code]
    assert "did you mean 'truck'" in refused(capsys, "rescore", folder, "--merge", "a=trukc")
    assert "21" in refused(capsys, "rescore", folder, "--protocol", "official-voc")
    other = run("other", make(classes=VOC.classes, void=True))
    assert "void" in refused(capsys, "rescore", other, "--protocol", "official-voc")
    assert "classes" in refused(capsys, "compare", folder, other)
    merged = ("--protocol", "official-cityscapes", "--merge", "vehicle=car,bus")
    assert "default" in refused(capsys, "rescore", folder, *merged)
    (folder / "evaluation-val.npz").write_bytes(b"text")
    assert "evaluation-val.npz" in refused(capsys, "worst", folder)


def test_the_module_runs(run: Write) -> None:
    words = [sys.executable, "-m", "msanet", "worst", str(run()), "--count", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("image") and not done.stderr


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("g=car,truck, large", ("car", "truck, large"), ["car", "truck, large"]),
        ("g=a, b,c, d,e", ("a, b", "c, d", "e"), ["a, b", "c, d", "e"]),
        ("g=a,b", ("a", "b", "a,b"), ["a", "b"]),
        ("g=x=1,y", ("x=1", "y"), ["x=1", "y"]),
        ("g=car,trukc, large", ("car", "truck, large"), ["car", "trukc", "large"]),
    ],
)
def test_names_of_classes_may_have_commas(text: str, known: tuple[str, ...], expected: list[str]) -> None:
    assert _groups([text], known) == {"g": expected}
