"""Checkpoints that are complete or absent, and that fit any number of ranks and any ZeRO stage: see docs/decisions/0002.

RUN/checkpoints/step-N has the files of `CheckpointLayout`; `latest` and `best` next to it name the newest checkpoint and the one
with the best validation.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
"""Ends the name of a folder while another takes its place."""
_NAME = re.compile(r"step-(\d{8,18})(\.replaced)?")
_MAX_JSON_BYTES = 2**20
"""Ours have a few hundred."""


class _FileInfo(BaseModel):
    bytes: int
    sha256: str


class _Files(BaseModel):
    files: dict[str, _FileInfo]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder`/step-N, update `latest` and `best`, and only then remove all others but the `keep` newest up to N.

    Those after N are damaged, since the run fell back before them. For one rank only. Raises OSError if the disk is full; what
    was there before is then untouched.
    """
    final = folder / _name(checkpoint.state.step)
    with atomic_folder(final) as part:
        _fill(part, checkpoint)
    write_text(folder / Layout.LATEST, final.name + "\n")
    found = checkpoint_folders(folder)
    kept = [path for path in found[found.index(final) :] if path.suffix != _REPLACED][:keep]
    best = checkpoint.state.best
    if best and (folder / _name(best.step)).is_dir():
        write_text(folder / Layout.BEST, _name(best.step) + "\n")
        kept.append(folder / _name(best.step))
    for old in set(found) - set(kept):
        shutil.rmtree(old, ignore_errors=True)
    return final


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yields a folder to fill, which takes the place of `final` once it is on the disk.

    Raises OSError if the disk is full; nothing of the new folder is left then, and an old one stays.
    """
    part, replaced = final.with_name(f".{final.name}{PARTIAL}"), final.with_name(final.name + _REPLACED)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for path in [*part.iterdir(), part]:
            sync(path)
        if final.is_dir():  # such as of this step before a resume: at no time without a complete one
            shutil.rmtree(replaced, ignore_errors=True)
            os.rename(final, replaced)
        os.rename(part, final)
        sync(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except SafetensorError as error:  # what safetensors raises when the disk is full
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Of the checkpoint of this step, there or not."""
    return folder / _name(step)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fill(part: Path, checkpoint: Checkpoint) -> None:
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


def checkpoint_folders(folder: Path) -> list[Path]:
    """All folders with the name of a checkpoint, newest first."""
    found = [(name, path) for path in folder.glob("step-*") if (name := _NAME.fullmatch(path.name)) and path.is_dir()]
    return [path for name, path in sorted(found, key=lambda one: (int(one[0][1]), not one[0][2]), reverse=True)]


def latest_valid(folder: Path) -> Path | None:
    """The newest valid checkpoint; a damaged one is logged and skipped."""
    for candidate in checkpoint_folders(folder):
        problem = validate_checkpoint(candidate)
        if problem is None:
            return candidate
        logger.warning(f"checkpoint {problem}; falling back to the one before")
    return None


def best_valid(folder: Path) -> Path:
    """The checkpoint with the best validation. Raises UserError if there is none or it is damaged."""
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
    """What is wrong with a checkpoint, or None if every file is as it was written. Follows no links."""
    if folder.is_symlink():
        return f"'{folder}' is a link, not a folder"
    try:
        files = _Files.model_validate_json(_read_start(folder / Layout.FILES)).files
    except (OSError, ValidationError):
        return f"'{folder / Layout.FILES}' is missing or damaged"
    if not _REQUIRED <= files.keys() <= _REQUIRED | _OPTIONAL:
        return f"'{folder / Layout.FILES}' lists other files than those of a checkpoint"
    try:
        for path, info in ((folder / name, info) for name, info in files.items()):
            if path.is_symlink() or not path.is_file():
                return f"file '{path}' is missing"
            if path.stat().st_size != info.bytes:
                return f"file '{path}' has {path.stat().st_size} bytes, not {info.bytes}"
            if _file_info(path) != info:
                return f"file '{path}' is damaged (its sha256 is not the one written)"
    except OSError as error:
        return f"file '{error.filename}' cannot be read ({error.strerror})"
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint that `latest_valid` has checked. Raises UserError if this version cannot read it."""
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
    """The bytes of a small file; a longer one is cut, and so found to be damaged."""
    if path.is_symlink() or not path.is_file():
        raise FileNotFoundError(ENOENT, "not a file", str(path))
    with path.open("rb") as file:
        return file.read(_MAX_JSON_BYTES)
