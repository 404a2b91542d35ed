"""Checkpoints that are whole or absent, and that fit any number of ranks and any ZeRO stage.

    RUN/checkpoints/step-00000500/
        model.safetensors       weights, buffers and the model metadata: all that evaluate and predict need; averaged_over_ranks with ema
        raw.safetensors         weights and buffers as the optimizer has them; only with trainer.ema_decay
        optimizer.safetensors   full optimizer state by parameter name
        rng.safetensors         torch's generators of every rank
        buffers.safetensors     BatchNorm's running statistics of every rank, which differ and whose mean is published
        state.json              step, stream position, order plan, what the run is
        config.yaml             the settings at that time
        files.json              size and sha256 of those above; written last
    RUN/checkpoints/latest      the newest one's name, for people and scripts
    RUN/checkpoints/best        the name of the one with the best validation, where trainer.keep_best is on

A checkpoint is written beside, synced, and renamed when whole; loading verifies every hash and falls back to the newest
whole one, saying which file was damaged.
"""

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from errno import ENOENT
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from msanet import distributed
from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.files import PARTIAL, sync, write_text
from msanet.models.io import ModelMetadata, load_weights, save_network

MODEL_FILE = "model.safetensors"
LATEST, BEST = "latest", "best"
_RAW, _OPTIMIZER, _RNG = "raw.safetensors", "optimizer.safetensors", "rng.safetensors"
_BUFFERS = "buffers.safetensors"
_STATE, _CONFIG, _FILES = "state.json", "config.yaml", "files.json"
_NEEDED, _OPTIONAL = {MODEL_FILE, _OPTIMIZER, _RNG, _STATE}, {_RAW, _BUFFERS, _CONFIG}
_REPLACED = ".replaced"
"""Ends the name of a checkpoint while another of its step takes its place."""
_NAME = re.compile(r"step-(\d{8,18})(\.replaced)?")
_MOST_JSON = 2**20
"""Bytes of a JSON file that are read; ours have a few hundred."""
State = dict[str, dict[str, Tensor]]


class Best(BaseModel):
    """The best validation so far: after which step, and its mean IoU, 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    mean_iou: float


class RunState(BaseModel):
    """Where a run stands. step: optimizer steps done. consumed_samples: samples taken from the order, the one integer of a resume.

    validation_pending: the one that was due after this step was given up, and comes first when the run goes on. micro_batch_size:
    of each rank's passes; None in checkpoints from before it was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    consumed_samples: int
    total_steps: int
    plan: ShuffleConfig
    world_size: int
    dataset: str
    dataset_digest: str
    optimizer: str
    versions: dict[str, str]
    best: Best | None = None
    validation_pending: bool = False
    micro_batch_size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. rng: see `gather_rng`. average: see `EMA`. buffers: see `gather_buffers`.

    config: the run's settings as YAML, for people; not read again.
    """

    state: RunState
    metadata: ModelMetadata
    weights: dict[str, Tensor]
    optimizer: State
    rng: dict[str, Tensor]
    average: dict[str, Tensor] | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    config: str = ""


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
    write_text(folder / LATEST, name + "\n")
    found = checkpoint_folders(folder)
    kept = [path for path in found[found.index(final) :] if path.suffix != _REPLACED][:keep]
    best = checkpoint.state.best
    if best and (folder / _name(best.step)).is_dir():
        write_text(folder / BEST, _name(best.step) + "\n")
        kept.append(folder / _name(best.step))
    for old in set(found) - set(kept):
        shutil.rmtree(old, ignore_errors=True)  # the new one is whole, whatever comes of the old
    return final


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fill(part: Path, checkpoint: Checkpoint) -> None:
    """All files of a checkpoint, on the disk."""
    part.mkdir(parents=True)
    save_network(part / MODEL_FILE, checkpoint.average or checkpoint.weights, checkpoint.metadata)
    if checkpoint.average:
        save_file({name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}, part / _RAW)
    flat = {f"{name}/{key}": t.contiguous() for name, state in checkpoint.optimizer.items() for key, t in state.items()}
    save_file(flat, part / _OPTIMIZER)
    save_file(checkpoint.rng, part / _RNG)
    if checkpoint.buffers:
        save_file(checkpoint.buffers, part / _BUFFERS)
    (part / _STATE).write_text(checkpoint.state.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if checkpoint.config:
        (part / _CONFIG).write_text(checkpoint.config, encoding="utf-8")
    files = {path.name: _file_info(path) for path in sorted(part.iterdir())}
    (part / _FILES).write_text(_Files(files=files).model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path in [*part.iterdir(), part]:
        sync(path)


def checkpoint_folders(folder: Path) -> list[Path]:
    """All checkpoints, newest first, without a look inside. What merely has a similar name is none."""
    found = [(name, path) for path in folder.glob("step-*") if (name := _NAME.fullmatch(path.name)) and path.is_dir()]
    return [path for name, path in sorted(found, key=lambda one: (int(one[0][1]), not one[0][2]), reverse=True)]


def latest_valid(folder: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written; a damaged one is named on stderr and passed over."""
    for candidate in checkpoint_folders(folder):
        fault = validate_checkpoint(candidate)
        if fault is None:
            return candidate
        print(f"warning: checkpoint {fault}; falling back to the one before", file=sys.stderr, flush=True)
    return None


def best_valid(folder: Path) -> Path:
    """The checkpoint with the best validation. Raises UserError where there is none or it is damaged."""
    pointer = folder / BEST
    if pointer.is_symlink() or not pointer.is_file():
        raise UserError(
            f"'{pointer}' is not there, expected the name of the best checkpoint (trainer.keep_best); leave --best out"
        )
    name = _read_start(pointer).decode(errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise UserError(
            f"'{pointer}' holds '{name[:40]}', expected the name of a checkpoint beside it; leave --best out"
        )
    fault = validate_checkpoint(best := folder / name)
    if fault:
        raise UserError(f"the best checkpoint {fault}, expected it whole; leave --best out to use the newest")
    return best


def validate_checkpoint(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole. Never looks outside of it."""
    if folder.is_symlink():
        return f"'{folder}' is a link, not a folder"
    try:
        files = _Files.model_validate_json(_read_start(folder / _FILES)).files
    except (OSError, ValidationError):
        return f"'{folder / _FILES}' is missing or damaged"
    if not _NEEDED <= files.keys() <= _NEEDED | _OPTIONAL:
        return f"'{folder / _FILES}' lists other files than those of a checkpoint"
    try:
        faults = (_file_fault(folder / name, info) for name, info in files.items())
        return next((fault for fault in faults if fault), None)
    except OSError as error:
        return f"file '{error.filename}' cannot be read ({error.strerror})"


def _file_fault(path: Path, info: _FileInfo) -> str | None:
    if path.is_symlink() or not path.is_file():
        return f"file '{path}' is missing"
    if path.stat().st_size != info.bytes:
        return f"file '{path}' has {path.stat().st_size} bytes, not {info.bytes}"
    if _file_info(path) != info:
        return f"file '{path}' is damaged (its sha256 is not the one written)"
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint that `latest_valid` has vouched for. Raises UserError where this version cannot read it."""
    weights, metadata = load_weights(folder / MODEL_FILE)
    optimizer: State = {}
    try:
        state = RunState.model_validate_json(_read_start(folder / _STATE))
        raw = load_file(folder / _RAW) if (folder / _RAW).is_file() else None
        buffers = load_file(folder / _BUFFERS) if (folder / _BUFFERS).is_file() else {}
        flat, rng = load_file(folder / _OPTIMIZER), load_file(folder / _RNG)
    except (OSError, ValidationError, SafetensorError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(
            f"checkpoint '{folder}' cannot be read ({what}), expected one of this version of msanet on a disk that all ranks "
            "see; use the version that wrote it, or another run.dir"
        ) from None
    for flat_name, tensor in flat.items():
        name, _, key = flat_name.rpartition("/")
        optimizer.setdefault(name, {})[key] = tensor
    return Checkpoint(state, metadata, raw or weights, optimizer, rng, weights if raw else None, buffers)


def rng_state() -> dict[str, Tensor]:
    """This process's torch generators; data has none, since augmentation is a function of (seed, epoch, sample)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def gather_rng(context_parallel_size: int = 1) -> dict[str, Tensor]:
    """{'<rank>.cpu' or '<rank>.cuda': generator state, uint8} of all ranks. A collective; on rank 0, empty on the others.

    Where `context_parallel_size` ranks form a group, in which generators are alike, it stands for a rank: {'<group>.cpu': ...}.
    """
    states = [rng_state()] * distributed.world_size()
    if len(states) > 1:
        dist.gather_object(states[0], states if distributed.is_main() else None)
    if not distributed.is_main():
        return {}
    return {
        f"{rank}.{kind}": state
        for rank, kinds in enumerate(states[::context_parallel_size])
        for kind, state in kinds.items()
    }


def restore_rng(states: dict[str, Tensor], rank: int) -> bool:
    """Put back the generators of `rank`, or group; False where the checkpoint has none (another number of these)."""
    if f"{rank}.cpu" not in states:
        return False
    torch.set_rng_state(states[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])
    return True


def _file_info(path: Path) -> _FileInfo:
    with path.open("rb") as file:
        return _FileInfo(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _read_start(path: Path) -> bytes:
    """A file that should be short; a longer one is cut, and so found to be damaged. Raises OSError."""
    if path.is_symlink() or not path.is_file():
        raise FileNotFoundError(ENOENT, "is no file", str(path))
    with path.open("rb") as file:
        return file.read(_MOST_JSON)
