"""Checkpoints that are complete or absent, and that fit any number of ranks and any ZeRO stage.

    RUN/checkpoints/step-00000500/
        model.safetensors       weights (the EMA if there is one), buffers and metadata: what evaluate needs
        raw.safetensors         weights and buffers as the optimizer has them; only with trainer.ema_decay
        optimizer.safetensors   full optimizer state by parameter name
        rng.safetensors         torch's generators of every rank
        buffers.safetensors     BatchNorm's running statistics of every rank, which differ and whose mean is published
        state.json              step, stream position, order plan, what the run is
        config.yaml             the settings at that time
        files.json              size and sha256 of those above; written last
    RUN/checkpoints/latest      the newest one's name, for people and scripts
    RUN/checkpoints/best        the name of the one with the best validation, where trainer.keep_best is on

A checkpoint is written under a temporary name, synced, and renamed when complete; loading verifies every hash and falls back to
the latest valid one, saying which file was damaged.
"""

import hashlib
import logging
import os
import re
import shutil
from errno import ENOENT
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from msanet.errors import UserError
from msanet.files import PARTIAL, sync, write_text
from msanet.models.io import load_weights, save_network
from msanet.run_layout import CheckpointLayout as Layout
from msanet.training.checkpoint.format import Checkpoint, OptimizerState, RunState

logger = logging.getLogger(__name__)

_REQUIRED = {Layout.MODEL, Layout.OPTIMIZER, Layout.RNG, Layout.STATE}
_OPTIONAL = {Layout.RAW, Layout.BUFFERS, Layout.CONFIG}
_REPLACED = ".replaced"
"""Ends the name of a checkpoint while another of its step takes its place."""
_NAME = re.compile(r"step-(\d{8,18})(\.replaced)?")
_MOST_JSON = 2**20
"""Bytes of a JSON file that are read; ours have a few hundred."""


class _FileInfo(BaseModel):
    bytes: int
    sha256: str


class _Files(BaseModel):
    files: dict[str, _FileInfo]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder`/step-N, move `latest` and `best`; only then forget all but these and the `keep` newest up to N.

    Those after N are damaged, since the run fell back before them. For one rank only. Where the disk is full it raises
    OSError, and what was there before is untouched.
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
    if final.is_dir():  # this step again, after a fall back or an owed validation: at no time without a whole one
        shutil.rmtree(folder / f"{name}{_REPLACED}", ignore_errors=True)
        os.rename(final, folder / f"{name}{_REPLACED}")
    os.rename(part, final)
    sync(folder)
    write_text(folder / Layout.LATEST, name + "\n")
    found = checkpoint_folders(folder)
    kept = [path for path in found[found.index(final) :] if path.suffix != _REPLACED][:keep]
    best = checkpoint.state.best
    if best and (folder / _name(best.step)).is_dir():
        write_text(folder / Layout.BEST, _name(best.step) + "\n")
        kept.append(folder / _name(best.step))
    for old in set(found) - set(kept):
        shutil.rmtree(old, ignore_errors=True)  # the new one is whole, whatever comes of the old
    return final


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fill(part: Path, checkpoint: Checkpoint) -> None:
    """All files of a checkpoint, on the disk."""
    part.mkdir(parents=True)
    save_network(part / Layout.MODEL, checkpoint.ema or checkpoint.weights, checkpoint.metadata)
    if checkpoint.ema:
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, part / Layout.RAW)
    flat = {f"{name}/{key}": t.contiguous() for name, state in checkpoint.optimizer.items() for key, t in state.items()}
    save_file(flat, part / Layout.OPTIMIZER)
    save_file(checkpoint.rng, part / Layout.RNG)
    if checkpoint.buffers:
        save_file(checkpoint.buffers, part / Layout.BUFFERS)
    (part / Layout.STATE).write_text(checkpoint.state.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if checkpoint.config:
        (part / Layout.CONFIG).write_text(checkpoint.config, encoding="utf-8")
    files = {path.name: _file_info(path) for path in sorted(part.iterdir())}
    (part / Layout.FILES).write_text(_Files(files=files).model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in [*part.iterdir(), part]:
        sync(path)


def checkpoint_folders(folder: Path) -> list[Path]:
    """All checkpoints, newest first, without a look inside. What merely has a similar name is none."""
    found = [(name, path) for path in folder.glob("step-*") if (name := _NAME.fullmatch(path.name)) and path.is_dir()]
    return [path for name, path in sorted(found, key=lambda one: (int(one[0][1]), not one[0][2]), reverse=True)]


def latest_valid(folder: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written; a damaged one is logged and skipped."""
    for candidate in checkpoint_folders(folder):
        problem = validate_checkpoint(candidate)
        if problem is None:
            return candidate
        logger.warning(f"checkpoint {problem}; falling back to the one before")
    return None


def best_valid(folder: Path) -> Path:
    """The checkpoint with the best validation. Raises UserError where there is none or it is damaged."""
    pointer = folder / Layout.BEST
    if pointer.is_symlink() or not pointer.is_file():
        raise UserError(
            "MSA-CKPT-001",
            f"'{pointer}' does not exist, expected the name of the best checkpoint (trainer.keep_best); remove --best",
            setting="--best",
        )
    name = _read_start(pointer).decode(errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise UserError(
            "MSA-CKPT-002",
            f"'{pointer}' holds '{name[:40]}', expected the name of a checkpoint in that folder; remove --best",
            setting="--best",
        )
    problem = validate_checkpoint(best := folder / name)
    if problem:
        raise UserError(
            "MSA-CKPT-003",
            f"the best checkpoint {problem}, expected a valid one; remove --best to use the latest",
            setting="--best",
        )
    return best


def validate_checkpoint(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole. Never looks outside of it."""
    if folder.is_symlink():
        return f"'{folder}' is a link, not a folder"
    try:
        files = _Files.model_validate_json(_read_start(folder / Layout.FILES)).files
    except (OSError, ValidationError):
        return f"'{folder / Layout.FILES}' is missing or damaged"
    if not _REQUIRED <= files.keys() <= _REQUIRED | _OPTIONAL:
        return f"'{folder / Layout.FILES}' lists other files than those of a checkpoint"
    try:
        problems = (_file_problem(folder / name, info) for name, info in files.items())
        return next((problem for problem in problems if problem), None)
    except OSError as error:
        return f"file '{error.filename}' cannot be read ({error.strerror})"


def _file_problem(path: Path, info: _FileInfo) -> str | None:
    if path.is_symlink() or not path.is_file():
        return f"file '{path}' is missing"
    if path.stat().st_size != info.bytes:
        return f"file '{path}' has {path.stat().st_size} bytes, not {info.bytes}"
    if _file_info(path) != info:
        return f"file '{path}' is damaged (its sha256 is not the one written)"
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint that `latest_valid` has checked. Raises UserError where this version cannot read it."""
    weights, metadata = load_weights(folder / Layout.MODEL)
    optimizer: OptimizerState = {}
    try:
        state = RunState.model_validate_json(_read_start(folder / Layout.STATE))
        raw = load_file(folder / Layout.RAW) if (folder / Layout.RAW).is_file() else None
        buffers = load_file(folder / Layout.BUFFERS) if (folder / Layout.BUFFERS).is_file() else {}
        flat, rng = load_file(folder / Layout.OPTIMIZER), load_file(folder / Layout.RNG)
    except (OSError, ValidationError, SafetensorError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            "MSA-CKPT-004",
            f"checkpoint '{folder}' cannot be read ({what}), expected one that this version of msanet reads, on a disk that all "
            "ranks see; use the version that wrote it, or another run.dir",
            setting="run.dir",
        ) from None
    for flat_name, tensor in flat.items():
        name, _, key = flat_name.rpartition("/")
        optimizer.setdefault(name, {})[key] = tensor
    return Checkpoint(state, metadata, raw or weights, optimizer, rng, ema=weights if raw else None, buffers=buffers)


def _file_info(path: Path) -> _FileInfo:
    with path.open("rb") as file:
        return _FileInfo(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _read_start(path: Path) -> bytes:
    """A file that should be short; a longer one is cut, and so found to be damaged. Raises OSError."""
    if path.is_symlink() or not path.is_file():
        raise FileNotFoundError(ENOENT, "is no file", str(path))
    with path.open("rb") as file:
        return file.read(_MOST_JSON)
