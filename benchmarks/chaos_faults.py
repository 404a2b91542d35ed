"""Faults that chaos.py injects: signals to processes, damaged checkpoints, a full disk, shards that are gone for a while."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
from chaos_job import Job
from chaos_scenarios import (
    CTRL_C,
    DELETED,
    FOLDER_FOR_FILE,
    HANG,
    KILL_ALL,
    KILL_LAUNCHER,
    KILL_LOADER,
    NO_LATEST,
    TERMINATE_LAUNCHER,
    TERMINATE_RANK,
    TORCHRUN,
    TRUNCATED,
    Scenario,
)

from msanet.run_layout import CheckpointLayout

_Thing = TypeVar("_Thing")


def inject_fault(scenario: Scenario, job: Job, rng: random.Random, end_within: float) -> None:
    """End the run as the scenario says. end_within: seconds that the other ranks have where one is stopped for good."""
    if scenario.kind in (KILL_ALL, CTRL_C):
        targets = job.processes()  # they are one group, which a terminal's Ctrl-C reaches as a whole
    elif scenario.kind == KILL_LOADER:
        targets = one_of(job.loaders(), rng)
    elif scenario.kind in (KILL_LAUNCHER, TERMINATE_LAUNCHER):
        targets = one_of(job.launchers(), rng)
    else:
        targets = one_of(job.ranks() or job.launchers(), rng)
    number = {CTRL_C: signal.SIGINT, HANG: signal.SIGSTOP}.get(scenario.kind, signal.SIGKILL)
    if scenario.kind in (TERMINATE_RANK, TERMINATE_LAUNCHER):
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1])
        if scenario.launcher == TORCHRUN and scenario.kind == TERMINATE_LAUNCHER:
            number = signal.SIGTERM  # SIGUSR1 ends torchrun at once
    send(targets, number)
    if scenario.kind == HANG:  # the others end; it must too, once it can
        job.wait_until(lambda: len(job.ranks()) <= 1, end_within, pause=0.1)
        send(targets, signal.SIGCONT)


def stop_and_continue(processes: list[psutil.Process], seconds: float) -> None:
    """SIGSTOP and, later, SIGCONT, as Ctrl-Z and `fg`, `docker pause` and `scontrol suspend` do."""
    send(processes, signal.SIGSTOP)
    time.sleep(seconds)
    send(processes, signal.SIGCONT)


def rename_for_a_while(folder: Path, seconds: float, is_over: Callable[[], bool]) -> None:
    """Let a folder be gone for some seconds, or until `is_over`."""
    elsewhere, deadline = folder.with_name(f"{folder.name}-elsewhere"), time.monotonic() + seconds
    folder.rename(elsewhere)
    while time.monotonic() < deadline and not is_over():
        time.sleep(0.1)
    elsewhere.rename(folder)


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """A signal to each that is still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def one_of(things: list[_Thing], rng: random.Random) -> list[_Thing]:
    """One of them, where there are any."""
    return [rng.choice(things)] if things else []


def damage(checkpoint: Path, how: str, rng: random.Random) -> None:
    """Damage one file of a checkpoint, or remove the pointer to it."""
    if how == NO_LATEST:
        (checkpoint.parent / CheckpointLayout.LATEST).unlink()
        return
    file = rng.choice(sorted(checkpoint.iterdir()))
    data = bytearray(file.read_bytes())
    if how == DELETED:
        file.unlink()
    elif how == FOLDER_FOR_FILE:  # cannot be read by root either, unlike a file of mode 0
        file.unlink()
        file.mkdir()
    elif how == TRUNCATED:
        os.truncate(file, rng.randrange(len(data) - 1))  # more than a line's end
    else:
        for place in rng.sample(range(len(data)), 3):
            data[place] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A disk of its own at `folder`, which a ballast can fill. False, and a folder as any, where mounting is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, room: int) -> None:
    """Let the ballast grow until at most `room` bytes are free."""
    figures = os.statvfs(disk)
    excess = figures.f_bavail * figures.f_frsize - room
    if excess > 0:
        with ballast(disk).open("ab") as file, suppress(OSError):  # the run writes too, and may have been quicker
            os.posix_fallocate(file.fileno(), file.tell(), excess)


def ballast(disk: Path) -> Path:
    """What fills a disk; delete it to make room again."""
    return disk / "ballast"
