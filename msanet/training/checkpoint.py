"""Checkpoints that are whole or absent, and that fit any number of ranks and any ZeRO stage.

    RUN/checkpoints/step-00000500/
        model.safetensors       weights, buffers and the model card: all that evaluate and predict need; averaged with ema
        raw.safetensors         weights and buffers as the optimizer has them; only with trainer.ema
        optimizer.safetensors   full optimizer state by parameter name
        rng.safetensors         torch's generators of every rank
        state.json              step, stream position, order plan, what the run is
        files.json              size and sha256 of those above; written last
    RUN/checkpoints/latest      the newest one's name, for people and scripts
    RUN/checkpoints/best        the name of the one with the best validation, where trainer.keep_best is on

A checkpoint is written beside, synced, and renamed when whole; loading verifies every hash and falls back to the newest
whole one, saying which file was damaged.
"""

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from msanet.data.order import Plan
from msanet.errors import UserError
from msanet.files import PARTIAL, sync, write_text
from msanet.models.saved import ModelCard, load_weights, save_network

MODEL_FILE = "model.safetensors"
LATEST, BEST = "latest", "best"
_RAW, _OPTIMIZER, _RNG = "raw.safetensors", "optimizer.safetensors", "rng.safetensors"
_STATE, _FILES = "state.json", "files.json"
State = dict[str, dict[str, Tensor]]


class Best(BaseModel):
    """The best validation so far: after which step, and its mean IoU, 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    mean_iou: float


class RunState(BaseModel):
    """Where a run stands. step: optimizer steps done. consumed: samples taken from the order, the one integer of a resume."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    consumed: int
    total_steps: int
    plan: Plan
    world_size: int
    dataset: str
    dataset_digest: str
    optimizer: str
    versions: dict[str, str]
    best: Best | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. rng: {'<rank>.cpu' or '<rank>.cuda': generator state, uint8}. average: see `WeightAverage`."""

    state: RunState
    card: ModelCard
    weights: dict[str, Tensor]
    optimizer: State
    rng: dict[str, Tensor]
    average: dict[str, Tensor] | None = None


class _FileInfo(BaseModel):
    bytes: int
    sha256: str


class _Files(BaseModel):
    files: dict[str, _FileInfo]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder`/step-N, move `latest` and `best`; only then forget all but these and the `keep` newest.

    For one rank only. Where the disk is full it raises OSError, and what was there before is untouched.
    """
    name = _name(checkpoint.state.step)
    part = folder / f".{name}{PARTIAL}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(part, checkpoint)
    except SafetensorError as error:  # what a full disk is to that library
        shutil.rmtree(part, ignore_errors=True)
        raise OSError(str(error)) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    final = folder / name
    shutil.rmtree(final, ignore_errors=True)  # a damaged one of this step, or this step again after a fall back
    os.rename(part, final)
    sync(folder)
    write_text(folder / LATEST, name + "\n")
    kept = checkpoint_folders(folder)[:keep]
    best = checkpoint.state.best
    if best and (folder / _name(best.step)).is_dir():
        write_text(folder / BEST, _name(best.step) + "\n")
        kept.append(folder / _name(best.step))
    for old in set(checkpoint_folders(folder)) - set(kept):
        shutil.rmtree(old)
    return final


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fill(part: Path, checkpoint: Checkpoint) -> None:
    """All files of a checkpoint, on the disk."""
    part.mkdir(parents=True)
    save_network(part / MODEL_FILE, checkpoint.average or checkpoint.weights, checkpoint.card)
    if checkpoint.average:
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, part / _RAW)
    flat = {f"{name}/{key}": t.contiguous() for name, state in checkpoint.optimizer.items() for key, t in state.items()}
    save_file(flat, part / _OPTIMIZER)
    save_file(checkpoint.rng, part / _RNG)
    (part / _STATE).write_text(checkpoint.state.model_dump_json(indent=1) + "\n")
    files = {path.name: _file_info(path) for path in sorted(part.iterdir())}
    (part / _FILES).write_text(_Files(files=files).model_dump_json(indent=1) + "\n")
    for path in [*part.iterdir(), part]:
        sync(path)


def checkpoint_folders(folder: Path) -> list[Path]:
    """All checkpoints, newest first, without a look inside."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written; a damaged one is named on stderr and passed over."""
    for candidate in checkpoint_folders(folder):
        fault = find_fault(candidate)
        if fault is None:
            return candidate
        print(f"warning: checkpoint {fault}; falling back to the one before", file=sys.stderr, flush=True)
    return None


def best_whole(folder: Path) -> Path:
    """The checkpoint with the best validation. Raises UserError where there is none or it is damaged."""
    pointer = folder / BEST
    if not pointer.is_file():
        raise UserError(
            f"'{pointer}' is not there, expected the name of the best checkpoint (trainer.keep_best); leave --best out"
        )
    best = folder / pointer.read_text(encoding="utf-8").strip()
    fault = find_fault(best)
    if fault:
        raise UserError(f"the best checkpoint {fault}, expected it whole; leave --best out to use the newest")
    return best


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole."""
    try:
        files = _Files.model_validate_json((folder / _FILES).read_bytes()).files
    except (OSError, ValidationError):
        return f"'{folder / _FILES}' is missing or damaged"
    for name, info in files.items():
        path = folder / name
        if not path.is_file():
            return f"file '{path}' is missing"
        if path.stat().st_size != info.bytes:
            return f"file '{path}' has {path.stat().st_size} bytes, not {info.bytes}"
        if _file_info(path) != info:
            return f"file '{path}' is damaged (its sha256 is not the one written)"
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint that `newest_whole` has vouched for."""
    weights, card = load_weights(folder / MODEL_FILE)
    raw = folder / _RAW
    average, weights = (weights, load_file(raw)) if raw.is_file() else (None, weights)
    optimizer: State = {}
    for flat_name, tensor in load_file(folder / _OPTIMIZER).items():
        name, _, key = flat_name.rpartition("/")
        optimizer.setdefault(name, {})[key] = tensor
    state = RunState.model_validate_json((folder / _STATE).read_bytes())
    return Checkpoint(state, card, weights, optimizer, load_file(folder / _RNG), average)


def require_same_run(saved: RunState, card: ModelCard, plan: Plan, fresh: ModelCard, optimizer: str) -> None:
    """Refuse to resume what would not be the same run. Raises UserError that names the first difference."""
    differences: list[tuple[str, Any, Any, str]] = [
        (
            "dataset",
            f"{saved.dataset} {saved.dataset_digest[:12]}",
            f"{fresh.dataset} {fresh.dataset_digest[:12]}",
            "data.path",
        ),
        ("network", (card.name, card.options), (fresh.name, fresh.options), "the section model"),
        ("optimizer", saved.optimizer, optimizer, "optimizer.name"),
        ("global batch", saved.plan.lanes, plan.lanes, "trainer.global_batch"),
        ("sample order", saved.plan, plan, "run.seed, data.window, data.block_bytes and data.epoch_end"),
    ]
    for what, was, now, setting in differences:
        if was != now:
            raise UserError(
                f"the checkpoint in run.dir has {what} {was}, this run has {now}; set {setting} back, or start another run.dir"
            )


def rng_state() -> dict[str, Tensor]:
    """This process's torch generators; data has none, since augmentation is a function of (seed, epoch, sample)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_rng(states: dict[str, Tensor], rank: int) -> bool:
    """Put back the generators of `rank`; False where the checkpoint has none (another number of ranks)."""
    if f"{rank}.cpu" not in states:
        return False
    torch.set_rng_state(states[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])
    return True


def _file_info(path: Path) -> _FileInfo:
    with path.open("rb") as file:
        return _FileInfo(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
