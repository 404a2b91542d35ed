"""Checkpoints are whole or absent; a damaged one is named and passed over; another run's is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.io import ModelMetadata, apply_weights, load_network, load_weights, require_same_classes
from msanet.run_layout import CheckpointLayout
from msanet.training.checkpoint import io as module
from msanet.training.checkpoint.checkpointer import restore_rng
from msanet.training.checkpoint.format import Best, Checkpoint
from msanet.training.checkpoint.io import (
    best_valid,
    checkpoint_folders,
    latest_valid,
    read_checkpoint,
    write_checkpoint,
)
from msanet.training.checkpoint.resume_checks import check_resume_compatible
from support.errors import raises_user_error
from support.small_runs import PLAN, toy_checkpoint


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = replace(toy_checkpoint(), buffers={"average/norm.running_mean": torch.rand(2, 5)})
    write_checkpoint(tmp_path, written, keep=1)
    path = latest_valid(tmp_path)
    assert path == tmp_path / "step-00000003" and (tmp_path / "latest").read_text() == "step-00000003\n"
    read = read_checkpoint(path)
    assert (read.state, read.metadata) == (written.state, written.metadata)
    assert all(torch.equal(t, read.weights[n]) for n, t in written.weights.items())
    assert all(torch.equal(t, read.buffers[n]) for n, t in written.buffers.items())
    assert all(torch.equal(t, read.optimizer[n][k]) for n, s in written.optimizer.items() for k, t in s.items())
    torch.rand(3)
    assert restore_rng(read.rng, 0) and torch.equal(torch.get_rng_state(), written.rng["0.cpu"])
    assert not restore_rng(read.rng, 1)


def test_a_checkpoint_need_not_have_running_statistics_of_each_rank(tmp_path: Path) -> None:
    """As those of one rank, of networks without BatchNorm, and of versions before."""
    folder = write_checkpoint(tmp_path, toy_checkpoint(), keep=1)
    assert not (folder / "buffers.safetensors").exists() and latest_valid(tmp_path) == folder
    assert read_checkpoint(folder).buffers == {}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write_checkpoint(tmp_path, toy_checkpoint(step), keep=2)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-00000004", "step-00000003"]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: _flip(folder / "optimizer.safetensors"),
    "a truncated file": lambda folder: (folder / CheckpointLayout.MODEL).write_bytes(
        (folder / CheckpointLayout.MODEL).read_bytes()[:-1]
    ),
    "a missing file": lambda folder: (folder / "state.json").unlink(),
    "no list of files": lambda folder: (folder / "files.json").unlink(),
    "a broken list of files": lambda folder: (folder / "files.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, toy_checkpoint(step), keep=2)
    DAMAGES[damage](tmp_path / "step-00000002")
    assert latest_valid(tmp_path) == tmp_path / "step-00000001"
    warning = capsys.readouterr().err
    assert " warning: " in warning and "step-00000002" in warning
    DAMAGES[damage](tmp_path / "step-00000001")
    assert latest_valid(tmp_path) is None


def test_a_save_that_dies_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, toy_checkpoint(1), keep=1)
    for victim in ("save_network", "save_file", "_file_info", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(module, victim, lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                write_checkpoint(tmp_path, toy_checkpoint(2), keep=1)
        assert latest_valid(tmp_path) == tmp_path / "step-00000001"
    write_checkpoint(tmp_path, toy_checkpoint(2), keep=1)  # what the dead save left is no hindrance
    assert [path.name for path in tmp_path.iterdir() if path.name != "latest"] == ["step-00000002"]


SAVED = toy_checkpoint()
OTHERS: dict[str, tuple[str, tuple[ShuffleConfig, ModelMetadata, str], str]] = {
    "dataset": (
        "data.path",
        (PLAN, SAVED.metadata.model_copy(update={"dataset_digest": "e" * 64, "classes": ("a", "c")}), "adam"),
        "the run resumes at sample 12 of the order of the new dataset, with different class names",
    ),
    "model": (
        "the section model",
        (PLAN, SAVED.metadata.model_copy(update={"options": {"width": 0.5}}), "adam"),
        "weights are taken by name, where all fit",
    ),
    "optimizer": ("optimizer.name", (PLAN, SAVED.metadata, "sgd"), "its state starts from zero"),
    "batch": (
        "trainer.global_batch_size",
        (replace(PLAN, streams=8), SAVED.metadata, "adam"),
        "at sample 12 of another order, so of the current epoch samples may be seen twice or not at all",
    ),
    "order": (
        "run.seed",
        (replace(PLAN, seed=1), SAVED.metadata, "adam"),
        "at sample 12 of another order, so of the current epoch samples may be seen twice or not at all",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_run_is_refused_or_accepted_with_a_warning(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    setting, now, follows = OTHERS[kind]
    check_resume_compatible(SAVED, PLAN, SAVED.metadata, "adam")
    others = [other for other in OTHERS if other != kind]
    with raises_user_error("MSA-CKPT-005", mentions=f"run.allow_changes=[{','.join(others)},{kind}]"):
        check_resume_compatible(SAVED, *now, allow_changes=others)
    assert not capsys.readouterr().err
    check_resume_compatible(SAVED, *now, allow_changes=[kind])
    warning = capsys.readouterr().err
    assert " warning: the checkpoint in run.dir has " in warning and warning.endswith(f"{follows}\n")
    assert warning.count("\n") == 1


def test_of_the_order_only_what_differs_is_named() -> None:
    now = replace(PLAN, seed=1, sampling_weights=(1.0, 3.0))
    with raises_user_error("MSA-CKPT-005", setting="run.seed and data.sampling_weights") as caught:
        check_resume_compatible(SAVED, now, SAVED.metadata, "adam")
    assert "seed=1, sampling_weights=[1.0, 3.0]" in str(caught.value) and "ShuffleConfig" not in str(caught.value)


def test_another_number_of_classes_is_never_accepted() -> None:
    other = SAVED.metadata.model_copy(update={"classes": ("a", "b", "c"), "dataset": "new"})
    with raises_user_error("MSA-CKPT-006", setting="data.path"):
        check_resume_compatible(SAVED, PLAN, other, "adam", allow_changes=list(OTHERS))


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"of another network: 0 tensors are missing, 0 are unknown and \d+ have another shape"
    ):
        apply_weights(build_model("msanet", 2, width=0.25), toy_checkpoint().weights, "file")
    with pytest.raises(UserError, match=r"0 tensors are missing, \d+ are unknown"):
        apply_weights(build_model("msanet", 2, width=0.125, attention="none"), toy_checkpoint().weights, "file")


def test_a_network_is_used_without_its_run(tmp_path: Path) -> None:
    written = toy_checkpoint()
    folder = write_checkpoint(tmp_path, written, keep=1)
    model, metadata = load_network(folder / CheckpointLayout.MODEL, torch.device("cpu"))
    assert not model.training and metadata.classes == ("a", "b") and metadata.ids == (7, 8)
    assert torch.equal(model.state_dict()["classifier.weight"], written.weights["classifier.weight"])
    require_same_classes(metadata, ("a", "b"), "data")
    with pytest.raises(UserError, match="2 classes of toy"):
        require_same_classes(metadata, ("b", "a"), "data")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("hello")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain")
    for name, words in (("text", "cannot be read"), ("plain", "no model metadata"), ("nowhere", "does not exist")):
        with pytest.raises(UserError, match=words):
            load_weights(tmp_path / name)


def test_the_best_is_kept_however_old(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        saved = toy_checkpoint(step)
        best = Best(step=2 if step > 1 else 1, mean_iou=0.5)
        write_checkpoint(tmp_path, replace(saved, state=saved.state.model_copy(update={"best": best})), keep=1)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000004", "step-00000002"]
    assert (tmp_path / "best").read_text() == "step-00000002\n" and (
        tmp_path / "latest"
    ).read_text() == "step-00000004\n"
    assert read_checkpoint(tmp_path / "step-00000004").state.best == Best(step=2, mean_iou=0.5)
    assert best_valid(tmp_path) == tmp_path / "step-00000002"
    (tmp_path / "step-00000002" / CheckpointLayout.MODEL).unlink()
    with raises_user_error("MSA-CKPT-003", setting="--best"):
        best_valid(tmp_path)
    (tmp_path / "best").unlink()
    with raises_user_error("MSA-CKPT-001", setting="--best"):
        best_valid(tmp_path)


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    """A real disk of 1 MB: the first checkpoint fits, the second does not."""

    def small(step: int, size: int = 2**16) -> Checkpoint:
        return replace(toy_checkpoint(step), weights={"weight": torch.zeros(size)}, optimizer={})

    write_checkpoint(small_disk, small(1), keep=2)
    large = small(2, 2**18)
    with pytest.raises(OSError, match="[Nn]o space"):
        write_checkpoint(small_disk, large, keep=2)
    found = latest_valid(small_disk)
    assert found is not None and found.name == "step-00000001"
    assert not list(small_disk.glob(".*partial"))
    write_checkpoint(small_disk, small(3), keep=1)  # there is room for one beside it
    assert [path.name for path in checkpoint_folders(small_disk)] == ["step-00000003"]
