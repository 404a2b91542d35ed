"""The report of a run folder: what goes in, and what must not."""

import html
import json
import re
from pathlib import Path

import pytest
import torch

from msanet.config import EvaluationConfig, load_config
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.result import EvaluationResult
from msanet.evaluation.run_report import command_line, without_secrets, write_run_report
from msanet.models import build_model

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
SECRETS = ("hunter2", "AKIAEXAMPLE", "feedc0de")


@pytest.fixture(scope="module")
def evaluation(shards: Path) -> EvaluationResult:
    torch.manual_seed(0)
    source = ShardSource(LocalStorage(shards), "val")
    model = build_model("msanet", source.manifest.num_classes, width=0.125)
    return evaluate(model, source, EvaluationConfig(num_workers=0, panels=2, worst=2), MEAN, STD)


def _report(run: Path, evaluation: EvaluationResult, command: str) -> str:
    palette = [(number, 0, 0) for number in range(len(evaluation.classes))]
    return html.unescape(write_run_report(run, palette, evaluation, command).read_text())


def test_evaluate_returns_maps_and_its_cost(tmp_path: Path, evaluation: EvaluationResult) -> None:
    spread, worst = evaluation.shown_images[:2], evaluation.shown_images[2:]
    assert all(panel.maps and panel.maps.attention for panel in spread)
    assert [panel.maps for panel in worst] == [None, None]
    assert evaluation.cost and evaluation.cost.seconds > 0
    assert 10**8 < evaluation.cost.peak_memory < 10**11, "bytes of a process that holds PyTorch"
    text = _report(tmp_path, evaluation, "evaluate.py")
    assert text.count('data-module="half"') == text.count('data-module="quarter"') == 4, "2 images, 2 scales"
    assert "evaluated images per second" in text and "peak memory at the evaluation" in text


def test_worst_panels_show_the_metric_that_made_them_worst(tmp_path: Path, evaluation: EvaluationResult) -> None:
    shown = re.findall(
        r"<figcaption><span>(.*?)</span>.*?mean IoU ([\d.]+)%", _report(tmp_path, evaluation, "evaluate.py")
    )
    listed = [(row["key"], f"{row['mean_iou'] * 100:.1f}") for row in evaluation.to_json()["worst_images"][:2]]
    assert shown[2:] == listed


def test_both_commands_are_shown_and_no_secret(tmp_path: Path, evaluation: EvaluationResult) -> None:
    address = "https://me:hunter2@host/shards?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=feedc0de"
    config = load_config(None, [f"data.path={address}", f"run.dir={tmp_path}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    training = f"launcher/train.py --config a.yaml 'data.path={address}'"
    (tmp_path / "command.txt").write_text(training + "\n")
    text = _report(tmp_path, evaluation, f"launcher/evaluate.py --data '{address}' --split val")
    assert (
        "Command: training" in text
        and "launcher/train.py --config a.yaml 'data.path=https://***@host/shards?***'" in text
    )
    assert "Command: evaluation" in text and "--data 'https://***@host/shards?***' --split val" in text
    assert "path: https://***@host/shards?***" in text
    assert not [secret for secret in SECRETS if secret in text]

    during = _report(tmp_path, evaluation, training)
    assert "Command: training" in during and "Command: evaluation" not in during, "validation while training"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a@b/c", "s3://***@b/c"),
        ("path: 'gs://key:a/b@c@bucket/x' # @", "path: 'gs://***@bucket/x' # @"),
        ("http://host/x?token=1 http://host/y", "http://host/x?*** http://host/y"),
        ("'s3://me:it''s@bucket/x?a=''b' next", "'s3://***@bucket/x?***' next"),
        ("http://host:8000/x: is it there?", "http://host:8000/x: is it there?"),
        ("me@host: /data/a?b=c", "me@host: /data/a?b=c"),
    ],
)
def test_secrets_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_launchers_own_argument_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["launcher/train.py", "--local_rank=1", "--config", "my run.yaml"])
    assert command_line() == "launcher/train.py --config 'my run.yaml'"


def test_metrics_do_not_depend_on_the_cost(evaluation: EvaluationResult) -> None:
    assert "cost" not in evaluation.to_json() and "seconds" not in json.dumps(evaluation.to_json())
