"""The HTML report: its figures, its safety, what happens when pieces are missing."""

import base64
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

from msanet.visual.panels import panel
from msanet.visual.report import Panel, ReportData, data_uri, render, write_report

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
        command="deepspeed -m msanet.train",
        metrics=_metrics(),
        evaluation=_evaluation(),
        panels=[Panel("sample-1", image, 0.345)],
        environment={"torch": "2.5.1"},
    )
    return replace(base, **changes)


def test_report_holds_the_figures() -> None:
    text = html.unescape(render(_report()))
    for figure in ("61.23%", "5.12% for always answering \u201croad\u201d", "77.27%", "65.00%", "101 of 101"):
        assert figure in text, figure
    for figure in ("0 missing, 0 twice", "76.2%", "90.9%", "n/a", "mean IoU 34.5%", "sample-1", "void is not counted"):
        assert figure in text, figure
    for figure in ("lr: 0.01", "deepspeed -m msanet.train", "2.5.1", "single scale", "16,000", "evaluated on val"):
        assert figure in text, figure
    assert text.count("<svg") == text.count("</svg>") == 5
    assert 'alarm"' not in text


def test_confusion_matrix_is_normalised_by_row() -> None:
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
    evaluation |= {"notes": [HOSTILE], "protocol": HOSTILE, "split": HOSTILE, "num_images": HOSTILE}
    evaluation["constant_baseline"] = {"class": name, "mean_iou": 0.1}
    report = _report(
        title=HOSTILE,
        config_yaml=HOSTILE + "\ud800",
        created=HOSTILE,
        command=HOSTILE,
        classes=(name, "car", "tree"),
        evaluation=evaluation,
        panels=[Panel('"' + HOSTILE, np.zeros((4, 4, 3), np.uint8), math.nan)],
        environment={HOSTILE: HOSTILE},
    )
    text = render(report)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count("<img") == 1
    assert text.count("</pre>") == 2


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render(_report())
    assert "http://" not in text and "https://" not in text
    assert all(address.startswith("data:image/") for address in re.findall(r'\bsrc="([^"]*)"', text))
    assert all(address.startswith("#") for address in re.findall(r'href="([^"]*)"', text))
    assert not re.search(r"<(link|script|iframe|object)\b|@import|url\((?!#)", text)
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
        {"command": None},
        {"config_yaml": ""},
        {"metrics": [{"step": 1, "loss": math.nan, "lr": None, "epoch": math.inf}, {}]},
        {"metrics": (), "evaluation": None, "panels": (), "environment": {}, "command": None},
        {"metrics": (), "evaluation": None, "panels": (), "classes": (), "palette": ()},
    ],
)
def test_every_piece_may_be_missing(missing: dict[str, Any]) -> None:
    text = render(_report(**missing))
    assert "</html>" in text and "None" not in text and ">nan" not in text


@pytest.mark.parametrize("key", sorted(_evaluation()))
def test_every_key_of_the_evaluation_may_be_missing_or_none(key: str) -> None:
    without = {name: value for name, value in _evaluation().items() if name != key}
    assert "None" not in render(_report(evaluation=without, metrics=()))
    assert "None" not in render(_report(evaluation=_evaluation() | {key: None}, metrics=()))


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
    with pytest.raises(ValueError, match="3 classes and 2 colours"):
        render(_report(palette=PALETTE[:2]))
    with pytest.raises(ValueError, match=r"shape \(1, 1\), expected \(3, 3\)"):
        render(_report(evaluation={"confusion_matrix": [[1]]}))
    with pytest.raises(ValueError, match="no table of numbers"):
        render(_report(evaluation={"confusion_matrix": [[1, 2], [3]]}))


def test_picture_survives_embedding() -> None:
    flat = np.zeros((8, 8, 3), dtype=np.uint8)
    flat[:, 4:] = (200, 100, 50)
    kind, content = data_uri(flat).split(",")
    assert kind == "data:image/png;base64"  # flat pictures are smaller, and exact, as PNG
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and (decoded[..., ::-1] == flat).all()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert data_uri(noise).startswith("data:image/jpeg;base64,")


def test_typical_report_is_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    panels = []
    for index in range(8):  # about as rough as photographs of streets: blurred noise, labels with ragged edges
        coarse = generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        image = np.asarray(cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        labels = generator.integers(0, 3, (2, 18, 24), dtype=np.uint8).repeat(20, axis=1).repeat(20, axis=2)
        panels.append(Panel(f"sample-{index}", panel(image, labels[0], labels[1], PALETTE), 0.5))
    write_report(tmp_path / "report.html", _report(panels=panels))
    assert 200_000 < (tmp_path / "report.html").stat().st_size < 2_500_000


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
