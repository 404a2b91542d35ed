"""Real runs of launcher/train.py for tests to stop, kill and start again: small ones, a step in a tenth of a second."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conftest import REPOSITORY
from support.ranks import free_port

SMALL = ["data.crop=[32,40]", "data.num_workers=1", "model.width=0.05", "model.name=unet", "evaluation.num_workers=0"]
SMALL += [
    "trainer.global_batch_size=4",
    "trainer.log_every_steps=1",
    "trainer.checkpoint_every_steps=1000",
    "trainer.val_every_epochs=0",
]


def words(shards: Path, folder: Path, steps: int, *more: str) -> list[str]:
    """The words of a command that trains for `steps` steps in `folder`."""
    return ["launcher/train.py", *SMALL, f"data.path={shards}", f"run.dir={folder}", f"trainer.steps={steps}", *more]


def launch(log: Path, command: list[str], ranks: int = 2) -> subprocess.Popen[str]:
    """The command by `deepspeed`, in a process group of its own, as a shell would."""
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks), "--master_port"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    command = [*launcher, str(free_port()), *command]
    with log.open("w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=REPOSITORY, text=True, process_group=0
        )


def wait_until(done: Callable[[], bool], processes: Sequence[subprocess.Popen[str]]) -> None:
    """While the processes run."""
    deadline = time.monotonic() + 200
    while not done():
        is_lost = any(process.poll() is not None for process in processes)
        assert time.monotonic() < deadline and not is_lost, processes[0].communicate()[0]
        time.sleep(0.05)


def steps_logged(folder: Path) -> int:
    """How many steps metrics.jsonl has so far."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


@contextmanager
def adopting_orphans(adopts: bool = True) -> Iterator[None]:
    """This process becomes the parent of orphans below it, as systemd is on a desktop."""
    set_child_subreaper, libc = 36, ctypes.CDLL(None)  # linux/prctl.h
    libc.prctl(set_child_subreaper, int(adopts))
    yield
    libc.prctl(set_child_subreaper, 0)
