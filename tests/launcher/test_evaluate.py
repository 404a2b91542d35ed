"""What commands make of their settings, in this process: the size of the network's input, and a place that can be written."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from msanet import distributed
from msanet.api.evaluation import run_evaluation
from msanet.cli import evaluate, predict, serve
from msanet.cli.main import main
from msanet.evaluation import evaluator
from msanet.models.io import save_network
from support.errors import error_codes, raises_user_error
from support.metadata import metadata


class Caught(Exception):
    """In the place of the work: what it was asked for."""


def caught(*arguments: Any, **_: Any) -> Any:
    raise Caught(*arguments)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    own = metadata("unet", width=0.05).model_copy(update={"resize": (16, 24)})
    save_network(tmp_path / "model.safetensors", own.build().state_dict(), own)
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    return tmp_path / "model.safetensors"


@pytest.fixture
def asked(
    checkpoint: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, ...]]:
    """With which arguments a command begins its work."""
    own: dict[str, list[object]] = {
        "serve": [],
        "evaluate": ["--data", shards],
        "predict": ["--images", tmp_path / "a.png", "--out", tmp_path / "out"],
    }
    monkeypatch.setattr(serve, "Segmenter", caught)
    monkeypatch.setattr(evaluator, "evaluate", caught)
    monkeypatch.setattr(predict, "PredictionWriter", caught)
    monkeypatch.setattr(distributed, "run_and_exit", lambda function, _: function())

    def ask(command: str, *words: object) -> tuple[Any, ...]:
        with pytest.raises(Caught) as found:
            main([command, *(str(word) for word in ("--checkpoint", checkpoint, *own[command], *words))])
        return found.value.args

    return ask


@pytest.mark.parametrize("command", ["serve", "evaluate", "predict"])
def test_the_metadatas_size_is_for_where_none_is_given(command: str, asked: Callable[..., tuple[Any, ...]]) -> None:
    for words, size in (
        ([], (16, 24)),
        (["evaluation.flip=true"], (16, 24)),
        (["evaluation.resize=[8,8]"], (8, 8)),
        (["evaluation.resize=null", "evaluation.flip=true"], None),  # the image's own
    ):
        settings = asked(command, *words)[2]
        assert (settings.resize, settings.flip) == (size, "evaluation.flip=true" in words)


def test_figures_have_a_place_before_they_are_worked_for(
    asked: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert asked("evaluate", "--out", tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match="2"):
        asked("evaluate", "--out", tmp_path / "file" / "out")
    assert error_codes(capsys.readouterr().err) == ["MSA-FILE-004"]

    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(path).parent.name == "out":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(SystemExit, match="2"):
        asked("evaluate", "--out", tmp_path / "new" / "out")
    assert error_codes(capsys.readouterr().err) == ["MSA-FILE-002"]


def test_shards_of_a_run_that_were_moved_are_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"data: {{path: {tmp_path / 'gone'}}}\nrun: {{dir: {tmp_path}}}\n")
    with raises_user_error("MSA-CLI-401", "--data", str(tmp_path / "gone")):
        run_evaluation(evaluate.evaluation_job(["--run", str(tmp_path)]))
    with raises_user_error("MSA-DATA-002"):
        run_evaluation(evaluate.evaluation_job(["--run", str(tmp_path), "--data", str(tmp_path / "here")]))
