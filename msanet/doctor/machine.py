"""Checks of this machine: disks, the run folder, versions, cores, open files, shared memory."""

import os
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from msanet.config import RunConfig
from msanet.data.open_files import TENSORS_OF_A_BATCH, needed_files
from msanet.doctor.diagnostics import Found, Level, check
from msanet.errors import UserError
from msanet.processes import SOCKET_NAME_BYTES, short_temporary_folder

_FILES_OF_A_PROCESS = 256


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


@check("disk")
def checkpoint_space(size: int, keep: int, free: int, folder: Path) -> Found:
    """size: bytes of a checkpoint; keep: how many, the best one included; free: bytes of the file system."""
    needed = size * (keep + 1)  # one more than is kept exists while it is written
    what = f"{keep} checkpoints of {size / 1e9:.2f} GB and one being written take {needed / 1e9:.2f} GB"
    if needed > free:
        expected = f"but '{folder}' has {free / 1e9:.2f} GB free, expected enough"
        yield "fault", f"{what}, {expected}; free some, lower trainer.keep_checkpoints, or choose another run.dir"
    else:
        yield "ok", f"{what}, of {free / 1e9:.1f} GB free at '{folder}'"


@check("disk")
def cache_space(dataset: int, most: int, free: int, folder: Path) -> Found:
    """Whether remote shards fit into the cache: its limit, and its disk."""
    room = min(most, free)
    if dataset <= room:
        yield "ok", f"the cache of remote shards at '{folder}' has room for all {dataset / 1e9:.1f} GB"
        return
    text = (
        f"the shards have {dataset / 1e9:.1f} GB and their cache at '{folder}' room for {room / 1e9:.1f} GB, expected room for "
        "all, else each epoch downloads them again; raise storage.cache_limit_bytes, or set storage.cache_dir to a larger disk"
    )
    yield "advice", text


@check("run folder")
def run_folder(settings: RunConfig, folder: Path, checkpoints: list[str]) -> Found:
    """Whether the run can be written, and what is there already. checkpoints: names, the newest first."""
    base = nearest_existing(folder)
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        expected = f"expected a folder for run.dir='{folder}'"
        yield "fault", f"'{base}' cannot be written, {expected}; choose another, or change its permissions"
    elif checkpoints and settings.resume == "never":
        expected = "and run.resume is never, expected no run"
        yield "fault", f"'{folder}' contains a run ({checkpoints[0]}) {expected}; choose another run.dir"
    elif not checkpoints and settings.resume == "must":
        expected = "and run.resume is must, expected one"
        yield "fault", f"'{folder}' contains no checkpoint {expected}; fix run.dir, or set run.resume=auto"
    elif checkpoints:
        resumes = f"and training resumes from {checkpoints[0]}"
        yield "advice", f"'{folder}' contains a run, {resumes}; choose another run.dir for a new one"
    elif folder.is_dir() and any(folder.iterdir()):
        expected = "expected an empty or new one"
        yield "advice", f"'{folder}' is not empty and contains no checkpoint, {expected}; its logs will be overwritten"
    else:
        yield "ok", f"'{folder}' can be written"


@check("versions")
def versions(requirements: Iterable[str] | None = None, installed: Callable[[str], str] = version) -> Found:
    """What is installed against what the project's metadata asks for, without extras."""
    if requirements is None:
        try:
            requirements = requires("msanet") or []
        except PackageNotFoundError:
            expected = "expected it with what it requires, which is not checked"
            yield "warning", f"msanet is not installed, {expected}; pip install -e ."
            return
    is_sound = True
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        expected = f"expected {requirement.specifier}; pip install '{requirement}'"
        try:
            number = installed(requirement.name)
        except PackageNotFoundError:
            is_sound = False
            yield "fault", f"{requirement.name} is not installed, {expected}"
            continue
        if not requirement.specifier.contains(number, prereleases=True):
            is_sound = False
            yield "warning", f"{requirement.name} is {number}, {expected}"
    if is_sound:
        yield "ok", f"torch {installed('torch')}, deepspeed {installed('deepspeed')}, all others in range"


@check("cores")
def cores(available: int, ranks: int, workers: int) -> Found:
    """Processes against cores, where all ranks run on this machine."""
    processes = ranks * (1 + workers)
    what = f"{processes} processes ({ranks} x (1 + {workers} of the loader)) on {available} cores"
    if processes <= available:
        yield "ok", what
    else:
        expected = "expected no more than cores; lower data.num_workers, unless other machines have some of the ranks"
        yield "advice", f"{what} of this machine, {expected}"


@check("open files")
def open_files(limit: int, workers: int, prefetch: int, connections: int) -> Found:
    """limit: `ulimit -n`. A batch from a loader process holds one open file for each of its tensors."""
    needed = _FILES_OF_A_PROCESS + workers * prefetch * TENSORS_OF_A_BATCH + workers * connections
    if limit < needed:
        expected = f"expected {needed} or more for {workers} loader processes"
        level: Level = "fault" if workers and limit < needed_files(workers, prefetch) else "warning"
        yield level, f"`ulimit -n` is {limit}, {expected}; raise it before the start, or lower data.num_workers"


@check("temporary folder")
def temporary_folder() -> Found:
    """Whether sockets fit into the folder for temporary files (TMPDIR), or into another that is then used."""
    try:
        folder = short_temporary_folder(SOCKET_NAME_BYTES)
    except UserError as refusal:
        yield "fault", str(refusal)
        return
    if str(folder) != tempfile.gettempdir():
        what = f"the path of TMPDIR, '{tempfile.gettempdir()}', is too long for sockets"
        yield "advice", f"{what}, which go to '{folder}'; set a shorter one"


@check("shared memory")
def shared_memory(free: int | None, ranks: int, training: int, validation: int) -> Found:
    """training, validation: bytes of a rank's loader processes, which are there together; free: None without /dev/shm."""
    needed = ranks * (training + validation)
    what = (
        f"the loader processes of {ranks} ranks need {needed / 1e6:.1f} MB of /dev/shm ({training / 1e6:.1f} MB of micro-batches "
        f"and {validation / 1e6:.1f} MB of validation images a rank)"
    )
    if free is None or not needed:
        return
    if needed <= free:
        yield "ok", f"{what}, of {free / 1e6:.1f} MB free"
    else:
        text = (
            f"{what}, which has {free / 1e6:.1f} MB free, expected enough; enlarge it (docker: --shm-size), or lower "
            "data.prefetch_factor, data.num_workers or evaluation.num_workers"
        )
        yield "fault", text
