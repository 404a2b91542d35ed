"""Checks of this machine: disks, the run folder, versions, cores, open files, shared memory."""

import os
import resource
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from msanet.config import RunConfig
from msanet.doctor.findings import Diagnostic

_FILES_OF_A_PROCESS = 256
_TENSORS_OF_A_BATCH = 5
_SHARED_MEMORY = Path("/dev/shm")


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def checkpoint_space(size: int, keep: int, free: int, folder: Path) -> list[Diagnostic]:
    """size: bytes of a checkpoint; keep: how many, the best one included; free: bytes of the file system.

    One more than is kept exists while it is written.
    """
    needed = size * (keep + 1)
    what = f"{keep} checkpoints of {size / 1e9:.2f} GB and one being written take {needed / 1e9:.2f} GB"
    if needed > free:
        text = (
            f"{what}, but '{folder}' has {free / 1e9:.2f} GB free, expected enough; free some, lower "
            "trainer.keep_checkpoints, or choose another run.dir"
        )
        return [Diagnostic("fault", "disk", text)]
    return [Diagnostic("ok", "disk", f"{what}, of {free / 1e9:.1f} GB free at '{folder}'")]


def cache_space(dataset: int, most: int, free: int, folder: Path) -> list[Diagnostic]:
    """Whether shards that are read from afar fit into the cache: its limit, and its disk."""
    room = min(most, free)
    if dataset <= room:
        return [
            Diagnostic(
                "ok", "disk", f"the cache of remote shards at '{folder}' has room for all {dataset / 1e9:.1f} GB"
            )
        ]
    text = (
        f"the shards have {dataset / 1e9:.1f} GB and their cache at '{folder}' room for {room / 1e9:.1f} GB, expected room for "
        "all, else each epoch transfers them again; raise storage.cache_limit_bytes, or set storage.cache_dir to a larger disk"
    )
    return [Diagnostic("advice", "disk", text)]


def run_folder(settings: RunConfig, folder: Path, checkpoints: list[str]) -> list[Diagnostic]:
    """Whether the run can be written, and what is there already. checkpoints: names, the newest first."""
    base = existing(folder)
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        text = f"'{base}' cannot be written, expected a folder for run.dir='{folder}'; choose another, or change its permissions"
        return [Diagnostic("fault", "run folder", text)]
    if checkpoints and settings.resume == "never":
        text = f"'{folder}' holds a run ({checkpoints[0]}) and run.resume is never, expected no run; choose another run.dir"
        return [Diagnostic("fault", "run folder", text)]
    if not checkpoints and settings.resume == "must":
        text = f"'{folder}' holds no checkpoint and run.resume is must, expected one; correct run.dir, or set run.resume=auto"
        return [Diagnostic("fault", "run folder", text)]
    if checkpoints:
        text = (
            f"'{folder}' holds a run, and training goes on from {checkpoints[0]}; choose another run.dir for a new one"
        )
        return [Diagnostic("advice", "run folder", text)]
    if folder.is_dir() and any(folder.iterdir()):
        text = f"'{folder}' is not empty and holds no checkpoint, expected an empty or new folder; its logs will be written over"
        return [Diagnostic("advice", "run folder", text)]
    return [Diagnostic("ok", "run folder", f"'{folder}' can be written")]


def versions(requirements: Iterable[str] | None = None, installed: Callable[[str], str] = version) -> list[Diagnostic]:
    """What is installed against what the project's metadata asks for, extras left out."""
    if requirements is None:
        try:
            requirements = requires("msanet") or []
        except PackageNotFoundError:
            text = "msanet is not installed, expected it with what it requires, which is not checked; pip install -e ."
            return [Diagnostic("warning", "versions", text)]
    found = []
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            number = installed(requirement.name)
        except PackageNotFoundError:
            text = f"{requirement.name} is not installed, expected {requirement.specifier}; pip install '{requirement}'"
            found.append(Diagnostic("fault", "versions", text))
            continue
        if not requirement.specifier.contains(number, prereleases=True):
            text = f"{requirement.name} is {number}, expected {requirement.specifier}; pip install '{requirement}'"
            found.append(Diagnostic("warning", "versions", text))
    if found:
        return found
    return [
        Diagnostic(
            "ok", "versions", f"torch {installed('torch')}, deepspeed {installed('deepspeed')}, all others in range"
        )
    ]


def cores(available: int, ranks: int, workers: int) -> list[Diagnostic]:
    """Processes against cores, where all ranks run on this machine."""
    processes = ranks * (1 + workers)
    what = f"{processes} processes ({ranks} x (1 + {workers} of the loader)) on {available} cores"
    if processes <= available:
        return [Diagnostic("ok", "cores", what)]
    return [
        Diagnostic(
            "advice",
            "cores",
            f"{what} of this machine, expected no more than cores; lower data.num_workers, unless others share",
        )
    ]


def open_files(limit: int, workers: int, prefetch: int, connections: int) -> list[Diagnostic]:
    """limit: `ulimit -n`. A batch from a loader process holds one open file for each of its tensors."""
    needed = _FILES_OF_A_PROCESS + workers * prefetch * _TENSORS_OF_A_BATCH + workers * connections
    if limit >= needed:
        return []
    text = (
        f"`ulimit -n` is {limit}, expected {needed} or more for {workers} loader processes; raise it before the start"
    )
    return [Diagnostic("warning", "open files", text)]


def shared_memory(free: int | None, ranks: int, workers: int, prefetch: int, batch: int) -> list[Diagnostic]:
    """batch: bytes of a micro-batch, which lies there until it is used; free: bytes, None where there is no /dev/shm."""
    needed = ranks * workers * prefetch * batch
    if free is None or needed <= free:
        return []
    text = (
        f"{workers} loader processes with {prefetch} micro-batches each need {needed / 1e9:.2f} GB of /dev/shm for {ranks} "
        f"ranks, which has {free / 1e9:.2f} GB free, expected enough; enlarge it (docker: --shm-size), or lower data.prefetch_factor "
        "or data.num_workers"
    )
    return [Diagnostic("fault", "shared memory", text)]


def free_shared_memory() -> int | None:
    """Bytes free in /dev/shm."""
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None


def file_limit() -> int:
    """The soft limit of open files of a process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 2**31
