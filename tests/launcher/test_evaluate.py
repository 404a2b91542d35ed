"""What parent_watchdog make of their settings, in this process: the size of the network's input, and a place that can be written."""

import errno
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from support.metadata import metadata

from msanet.cli import demo_job, evaluation_job, prediction_job
from msanet.models.io import save_network


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
def asked(checkpoint: Path, shards: Path, tmp_path: Path) -> Callable[..., tuple[Any, ...]]:
    """With which arguments a launcher begins its work."""
    forms: dict[str, tuple[Any, str, str, list[object]]] = {
        "demo": (demo_job, "demo", "Segmenter", []),
        "evaluate": (evaluation_job, "run_evaluation", "evaluate", ["--data", shards]),
        "predict": (
            prediction_job,
            "predict",
            "PredictionWriter",
            ["--images", tmp_path / "a.png", "--out", tmp_path / "out"],
        ),
    }

    def ask(launcher: str, *words: object) -> tuple[Any, ...]:
        read, function, work, own = forms[launcher]
        run = runpy.run_path(str(REPOSITORY / "launcher" / f"{launcher}.py"))[function]
        run.__globals__[work] = caught
        with pytest.raises(Caught) as found:
            run(read("", [str(word) for word in ("--checkpoint", checkpoint, *own, *words)]))
        return found.value.args

    return ask


@pytest.mark.parametrize("launcher", ["demo", "evaluate", "predict"])
def test_the_cards_size_is_for_where_none_is_given(launcher: str, asked: Callable[..., tuple[Any, ...]]) -> None:
    for words, size in (
        ([], (16, 24)),
        (["evaluation.flip=true"], (16, 24)),
        (["evaluation.resize=[8,8]"], (8, 8)),
        (["evaluation.resize=null", "evaluation.flip=true"], None),  # the image's own
    ):
        settings = asked(launcher, *words)[2]
        assert (settings.resize, settings.flip) == (size, "evaluation.flip=true" in words)


def test_figures_have_a_place_before_they_are_worked_for(
    asked: Callable[..., tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked("evaluate", "--out", tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError, match="file/out"):
        asked("evaluate", "--out", tmp_path / "file" / "out")

    opened = os.open

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(path).parent.name == "out":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(OSError, match="Read-only file system: '.*new/out/"):
        asked("evaluate", "--out", tmp_path / "new" / "out")
