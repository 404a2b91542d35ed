"""Whatever lies in the folder of checkpoints: what is whole is found, nothing outside of it is read, and faults are named."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint import io as module
from msanet.training.checkpoint.format import Best, Checkpoint
from msanet.training.checkpoint.io import (
    best_valid,
    checkpoint_folders,
    latest_valid,
    read_checkpoint,
    validate_checkpoint,
    write_checkpoint,
)
from support.errors import raises_user_error
from support.small_runs import toy_checkpoint

FIRST, SECOND = "step-00000001", "step-00000002"


def tiny(step: int) -> Checkpoint:
    return replace(toy_checkpoint(step), weights={"weight": torch.full((4,), float(step))}, optimizer={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two complete checkpoints, the first of them the best."""
    for step in (1, 2):
        one = tiny(step)
        state = one.state.model_copy(update={"best": Best(step=1, mean_iou=0.5)})
        write_checkpoint(tmp_path / "checkpoints", replace(one, state=state), keep=2)
    return tmp_path / "checkpoints"


def listed(second: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((second / "files.json").read_text())
    change(tree["files"])
    (second / "files.json").write_text(json.dumps(tree))


def replaced_by_link(path: Path, elsewhere: Path) -> None:
    os.rename(path, elsewhere)
    path.symlink_to(elsewhere)


def replaced_by(make: Callable[[Path], None], path: Path) -> None:
    path.unlink()
    make(path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file above": (
        lambda at: listed(at, lambda files: files.update({"../x": files["state.json"]})),
        "lists other files",
    ),
    "an absolute path": (
        lambda at: listed(at, lambda files: files.update({"/etc/passwd": files["state.json"]})),
        "lists other",
    ),
    "a file left out": (lambda at: listed(at, lambda files: files.pop("optimizer.safetensors")), "lists other files"),
    "no files": (lambda at: listed(at, lambda files: files.clear()), "lists other files"),
    "a list": (lambda at: (at / "files.json").write_text("[" * 100_000), "files.json' is missing or damaged"),
    "no text": (lambda at: (at / "files.json").write_bytes(b"\xff\xfe"), "files.json' is missing or damaged"),
    "a huge list": (
        lambda at: listed(at, lambda files: files.update({" " * 2**21: files["state.json"]})),
        "files.json' is missing or damaged",
    ),
    "a link for a file": (
        lambda at: replaced_by_link(at / "state.json", at.parent / "elsewhere"),
        "state.json' is missing",
    ),
    "a link for the list": (
        lambda at: replaced_by_link(at / "files.json", at.parent / "elsewhere"),
        "is missing or damaged",
    ),
    "a link for the folder": (lambda at: replaced_by_link(at, at.parent / "elsewhere"), "is a link, not a folder"),
    "a pipe for a file": (
        lambda at: replaced_by(os.mkfifo, at / CheckpointLayout.MODEL),
        "is missing",
    ),
    "a pipe for the list": (
        lambda at: replaced_by(os.mkfifo, at / "files.json"),
        "missing or damaged",
    ),
    "a folder for a file": (
        lambda at: replaced_by(os.mkdir, at / CheckpointLayout.MODEL),
        "is missing",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_checkpoint_of_ours_is_named_and_passed_over(
    folder: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = FAULTS[fault]
    damage(folder / SECOND)
    assert latest_valid(folder) == folder / FIRST
    warning = capsys.readouterr().err
    assert " warning: checkpoint " in warning and words in warning and warning.count("\n") == 1, warning
    write_checkpoint(folder, tiny(3), keep=1)  # and none is in the way of the next
    assert latest_valid(folder) == folder / "step-00000003"


def test_a_file_that_must_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root may read all, so the refusal is made up."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "_file_info", refuse)
    assert "cannot be read (Permission denied)" in str(validate_checkpoint(folder / SECOND))
    assert latest_valid(folder) is None


def test_similar_names_are_no_checkpoints(folder: Path) -> None:
    for name in ("step-abc", "step-3", "step-00000009.partial", "step--0000009", "step-" + "9" * 40):
        (folder / name).mkdir()
    (folder / "step-00000008").write_text("a file")
    (folder / "latest").unlink()
    (folder / "latest").symlink_to("/etc")
    assert [path.name for path in checkpoint_folders(folder)] == [SECOND, FIRST]
    assert latest_valid(folder) == folder / SECOND
    write_checkpoint(folder, tiny(3), keep=1)
    assert (folder / "step-abc").is_dir() and (folder / "latest").read_text() == "step-00000003\n"


@pytest.mark.parametrize("name", ["../../etc", "/etc", "", "step-00000001/../..", "x" * 10_000, "\x00"])
def test_the_best_is_looked_for_in_the_folder_only(folder: Path, name: str) -> None:
    assert best_valid(folder) == folder / FIRST
    (folder / "best").write_text(name)
    with raises_user_error("MSA-CKPT-002", setting="--best") as caught:
        best_valid(folder)
    assert len(str(caught.value)) < 400


def test_a_state_of_another_version_is_one_sentence(folder: Path) -> None:
    state = folder / SECOND / "state.json"
    state.write_text(state.read_text().replace('"consumed_samples"', '"taken"'))
    with raises_user_error("MSA-CKPT-004", setting="run.dir"):
        read_checkpoint(folder / SECOND)


def test_a_state_without_the_newer_fields_is_read(folder: Path) -> None:
    state = folder / SECOND / "state.json"
    tree = json.loads(state.read_text())
    del tree["validation_pending"]
    state.write_text(json.dumps(tree))
    assert read_checkpoint(folder / SECOND).state.validation_pending is False


def test_a_damaged_newer_one_does_not_push_out_what_is_written(folder: Path) -> None:
    """After a fall back from step 2 to step 1, a save at another step is kept, and what follows it is gone."""
    (folder / SECOND / CheckpointLayout.MODEL).unlink()
    os.rename(folder / SECOND, folder / "step-00000009")
    write_checkpoint(folder, tiny(3), keep=1)
    assert latest_valid(folder) == folder / "step-00000003" and not (folder / "step-00000009").exists()


def test_a_step_is_saved_again_without_a_moment_that_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder / FIRST)
    rename = os.rename

    def killed(source: Path, target: Path) -> None:
        if ".partial" in Path(source).name:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        write_checkpoint(folder, tiny(2), keep=1)
    assert latest_valid(folder) == folder / f"{SECOND}.replaced"
    write_checkpoint(folder, tiny(2), keep=1)
    assert checkpoint_folders(folder) == [folder / SECOND] and validate_checkpoint(folder / SECOND) is None
