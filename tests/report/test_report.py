"""The HTML report: its figures, its safety, what happens when pieces are missing."""

import base64
import hashlib
import html
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from msanet.inference.panel_attention import GRID, LEVELS, LONGEST_SIDE
from msanet.report.embedding import data_uri
from msanet.report.html_report import Panel, ReportData, render, write_report
from msanet.report.panels import comparison_images
from msanet.report.reliability import confidence_svg, reliability_svg

CLASSES = ("road", "car", "tree")
PALETTE = ((128, 64, 128), (64, 0, 128), (128, 128, 0))
MATRIX = [[80, 20, 0], [5, 5, 0], [0, 0, 0]]
HOSTILE = '</pre></details><script>alert("config")</script><img src="https://example.org/x.png">'


def _evaluation() -> dict[str, Any]:
    return {
        "mean_iou": 0.61234,
        "mean_accuracy": 0.65,
        "pixel_accuracy": 0.7727,
        "frequency_weighted_iou": 0.7,
        "classes": {
            "road": {"iou": 0.7619, "accuracy": 0.8, "support": 100},
            "car": {"iou": 0.1667, "accuracy": 0.5, "support": 10},
            "tree": {"iou": None, "accuracy": None, "support": 0},
        },
        "confusion_matrix": MATRIX,
        "num_images": 101,
        "num_missing": 0,
        "num_duplicate": 0,
        "world_size": 2,
        "split": "val",
        "protocol": "single scale",
        "notes": ["void is not counted"],
        "constant_baseline": {"class": "road", "mean_iou": 0.0512},
    }


def _rich() -> dict[str, Any]:
    """What an evaluation has with all that can be asked for."""
    classes = _evaluation()["classes"]
    classes["road"] |= {
        "iou_interval": [0.701, 0.8],
        "precision": 0.888,
        "dice": 0.9,
        "boundary_iou": 0.3,
        "boundary_f1": 0.4,
    }
    bins = [
        {"low": 0.0, "high": 0.5, "pixels": 25, "confidence": 0.1, "accuracy": 0.0},
        {"low": 0.5, "high": 1.0, "pixels": 75, "confidence": 0.8, "accuracy": 0.7},
    ]
    return {
        "classes": classes,
        "mean_iou_interval": [0.58123, 0.633],
        "mean_dice": 0.7,
        "boundary": {"mean_iou": 0.3, "mean_f1": 0.4},
        "categories": {"mean": 0.666, "values": {"vehicle": 0.5, "nature": None}},
        "class_instances": {"mean": 0.125, "values": {"car": 0.125}},
        "category_instances": {"mean": None, "values": {}},
        "calibration": {"expected_calibration_error": 0.075, "bins": bins},
        "worst_images": [{"key": f"sample-{n}", "mean_iou": n / 100, "cost": 0.0021} for n in (9, 10)],
        "predicted_void": 17,
        "cost": {"seconds": 50.0, "peak_memory": 1_500_000_000},
    }


def _metrics() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"step": s, "epoch": s / 50, "samples": 8 * s, "loss": 2 / s, "lr": 0.01, "images_per_second": 12.5}
        for s in range(10, 2001, 10)
    ]
    lines += [{"step": s, "val/mean_iou": s / 4000, "val/pixel_accuracy": 0.8} for s in range(500, 2001, 500)]
    return lines


def _report(**changes: Any) -> ReportData:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    base = ReportData(
        title="A run",
        config_yaml="lr: 0.01",
        created="2025-01-01",
        classes=CLASSES,
        palette=PALETTE,
        commands={"training": "deepspeed -m msanet.train", "evaluation": "launcher/evaluate.py --run R"},
        metrics=_metrics(),
        evaluation=_evaluation(),
        panels=[Panel("sample-1", {"input": image}, 0.345)],
        environment={"torch": "2.5.1"},
    )
    return replace(base, **changes)


def test_report_contains_the_metrics() -> None:
    text = html.unescape(render(_report()))
    for figure in ("61.23%", "5.12% for always answering \u201croad\u201d", "77.27%", "65.00%", "101 of 101"):
        assert figure in text, figure
    for figure in ("Command: training", "Command: evaluation", "launcher/evaluate.py --run R"):
        assert figure in text, figure
    for figure in ("0 missing, 0 twice", "76.2%", "90.9%", "n/a", "mean IoU 34.5%", "sample-1", "void is not counted"):
        assert figure in text, figure
    for figure in ("lr: 0.01", "deepspeed -m msanet.train", "2.5.1", "single scale", "16,000", "evaluated on val"):
        assert figure in text, figure
    assert text.count("<svg") == text.count("</svg>") == 5
    assert 'alarm"' not in text


def test_report_contains_what_a_full_evaluation_adds() -> None:
    text = html.unescape(render(_report(evaluation=_evaluation() | _rich())))
    for figure in ("95% interval 58.12 to 63.30%", "70.1 to 80.0%", "left:70.1%;width:9.9%", "boundary F1", "88.8%"):
        assert figure in text, figure
    for figure in ("IoU by category: 66.60%", "Instance-weighted IoU by class: 12.50%", "vehicle", "mean Dice"):
        assert figure in text, figure
    for figure in (
        "Expected calibration error 7.50%",
        "sample-9",
        "0.21%",
        "pixels predicted as void",
        "2 images with",
    ):
        assert figure in text, figure
    for figure in ("evaluated images per second 2.02", "peak memory at the evaluation 1.5 GB"):
        assert figure in re.sub("<[^>]*>", "", text), figure
    assert "confidence 50.0% to 100.0%: 80.0% on average, right in 70.0% of 75 pixels" in text
    assert 'class="whisker"' not in render(_report()), "no interval, no line"


def test_bars_of_the_reliability_diagram_have_the_height_of_their_share() -> None:
    text = reliability_svg(_rich()["calibration"]["bins"])
    bars = [
        (float(y), float(height)) for y, height in re.findall(r'<rect [^>]*?y="([\d.]+)"[^>]*?height="([\d.]+)"', text)
    ]
    assert bars == [(204.0, 0.0), (pytest.approx(10 + 194 * 0.3, abs=0.1), pytest.approx(194 * 0.7, abs=0.1))]
    assert f"M{50 + 188 + 0.5:.1f} {10 + 194 * 0.2:.1f}H" in text, "the line at the mean confidence of 0.8"
    shares = confidence_svg(_rich()["calibration"]["bins"])
    assert "25.0% of all pixels" in shares and "75.0% of all pixels" in shares
    empty = [{"low": 0.0, "high": 1.0, "pixels": 0, "confidence": None, "accuracy": None}]
    assert "<rect" not in reliability_svg(empty) + confidence_svg(empty)


def test_confusion_matrix_is_normalized_by_row() -> None:
    text = render(_report())
    for tip in ("road as road: 80.0% of 100 pixels", "road as car: 20.0% of 100", "car as road: 50.0% of 10"):
        assert f"<title>{tip}" in text
    assert "tree: no pixels in the ground truth" in text
    assert text.count('class="cell"') == 4


def test_incomplete_evaluation_raises_an_alarm() -> None:
    text = render(_report(evaluation=_evaluation() | {"num_images": 98, "num_missing": 3}))
    assert "98 of 101" in text and "3 missing, 0 twice" in text and "card tile alarm" in text
    assert "card tile alarm" in render(_report(evaluation=_evaluation() | {"num_duplicate": 1}))


def test_hostile_text_is_escaped_everywhere() -> None:
    name = "<script>alert(1)</script>"
    evaluation = _evaluation()
    evaluation["classes"][name] = evaluation["classes"].pop("road")
    evaluation |= _rich()
    evaluation["categories"] = {"mean": 0.5, "values": {HOSTILE: 0.5}}
    evaluation["worst_images"] = [{"key": HOSTILE, "mean_iou": 0.1, "cost": 0.0}]
    evaluation |= {"notes": [HOSTILE], "protocol": HOSTILE, "split": HOSTILE, "num_images": HOSTILE}
    evaluation["constant_baseline"] = {"class": name, "mean_iou": 0.1}
    black, maps = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 2, 3, 3), np.uint8)
    report = _report(
        title=HOSTILE,
        config_yaml=HOSTILE + "\ud800",
        created=HOSTILE,
        commands={HOSTILE: HOSTILE},
        classes=(name, "car", "tree"),
        evaluation=evaluation,
        panels=[Panel('"' + HOSTILE, {HOSTILE: black}, math.nan, False, {HOSTILE: maps}, {HOSTILE: maps[0, 0]})],
        environment={HOSTILE: HOSTILE},
    )
    text = render(report)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count("<img") == 4  # the panel's image, a scale's weights, and under the attention map at two scales
    assert text.count("</pre>") == 2
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert text.count("<script") == len(script) == 1, "ours alone"
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text, "and the browser lets no other run"


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render(_report())
    assert "http://" not in text and "https://" not in text
    assert all(address.startswith("data:image/") for address in re.findall(r'\bsrc="([^"]*)"', text))
    assert all(address.startswith("#") for address in re.findall(r'href="([^"]*)"', text))
    assert not re.search(r"<(link|iframe|object)\b|<script [^>]*src|@import|url\((?!#|data:)|fetch|XMLHttp", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    "missing",
    [
        {"metrics": []},
        {"evaluation": None},
        {"evaluation": {}},
        {"evaluation": {"mean_iou": math.nan, "classes": None, "confusion_matrix": [], "num_images": None}},
        {"panels": []},
        {"environment": {}},
        {"commands": {}},
        {"config_yaml": ""},
        {"metrics": [{"step": 1, "loss": math.nan, "lr": None, "epoch": math.inf}, {}]},
        {"metrics": (), "evaluation": None, "panels": (), "environment": {}, "commands": {}},
        {"metrics": (), "evaluation": None, "panels": (), "classes": (), "palette": ()},
    ],
)
def test_every_piece_may_be_missing(missing: dict[str, Any]) -> None:
    text = render(_report(**missing))
    assert "</html>" in text and "None" not in text and ">nan" not in text


@pytest.mark.parametrize("key", sorted(_evaluation() | _rich()))
def test_every_key_of_the_evaluation_may_be_missing_or_none(key: str) -> None:
    whole = _evaluation() | _rich()
    without = {name: value for name, value in whole.items() if name != key}
    assert "None" not in render(_report(evaluation=without, metrics=()))
    assert "None" not in render(_report(evaluation=whole | {key: None}, metrics=()))


def test_without_evaluation_the_latest_validation_counts() -> None:
    text = render(_report(evaluation=None))
    assert "50.00%" in text and "validation at step 2,000" in text and "No evaluation yet" in text


def test_single_class_and_eighty_classes() -> None:
    one = {"classes": {"road": {"iou": 1.0, "accuracy": 1.0, "support": 7}}, "confusion_matrix": [[7]]}
    assert "road as road: 100.0% of 7" in render(_report(classes=["road"], palette=PALETTE[:1], evaluation=one))
    names = [f"class {index}" for index in range(80)]
    many = {"confusion_matrix": np.full((80, 80), 3).tolist()}
    text = render(_report(classes=names, palette=[(1, 2, 3)] * 80, evaluation=many))
    assert "hover for the numbers" in text
    assert len(text) < 1_500_000


def test_pieces_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="3 classes and 2 colors"):
        render(_report(palette=PALETTE[:2]))
    with pytest.raises(ValueError, match=r"shape \(1, 1\), expected \(3, 3\)"):
        render(_report(evaluation={"confusion_matrix": [[1]]}))
    with pytest.raises(ValueError, match="not a table of numbers"):
        render(_report(evaluation={"confusion_matrix": [[1, 2], [3]]}))


def test_image_survives_embedding() -> None:
    flat = np.zeros((8, 8, 3), dtype=np.uint8)
    flat[:, 4:] = (200, 100, 50)
    kind, content = data_uri(flat).split(",")
    assert kind == "data:image/png;base64"  # flat images are smaller, and exact, as PNG
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and (decoded[..., ::-1] == flat).all()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert data_uri(noise).startswith("data:image/jpeg;base64,")


def test_the_largest_usual_report_can_be_mailed(tmp_path: Path) -> None:
    """8 panels with maps and 4 worst images of 2048x1024 stay below 5 MB, also for rough images and maps of noise."""
    generator = np.random.default_rng(0)
    panels = []
    for index in range(12):  # rougher than photographs of streets: blurred noise, labels with ragged edges
        coarse = generator.integers(0, 256, (256, 512, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(coarse, (2048, 1024), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        labels = generator.integers(0, 3, (2, 64, 128), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
        drawn = comparison_images(image, labels[0], labels[1], PALETTE)
        shades = np.linspace(0, 255, LEVELS).astype(np.uint8)
        maps = shades[generator.integers(0, LEVELS, (2, 2, *GRID, LONGEST_SIDE // 2, LONGEST_SIDE))]
        attention = {} if index > 7 else {"quarter": maps[0], "half": maps[1]}
        panels.append(Panel(f"sample-{index}", drawn, 0.5, index > 7, attention))
    write_report(tmp_path / "report.html", _report(panels=panels))
    size = (tmp_path / "report.html").stat().st_size
    assert 1_000_000 < size < 5_000_000, size


def test_report_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "report.html"
    write_report(path, _report(title="first"))
    seen: list[tuple[bool, bool]] = []
    real = os.replace

    def watched(source: Path, target: Path) -> None:
        # At the moment of the exchange the old file is whole, and so is the new one, in the same folder.
        seen.append(("first" in target.read_text(), source.read_text().rstrip().endswith("</html>")))
        assert source.parent == target.parent
        real(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_report(path, _report(title="second"))
    assert seen == [(True, True)]
    assert "second" in path.read_text()
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]

    def broken(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, _report(title="third"))
    assert "second" in path.read_text()
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
