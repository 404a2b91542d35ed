"""Callbacks and loggers as users write them, which write down how they are called."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from msanet.training.callbacks import Callback


class Recorder(Callback):
    """A line for each call, in a file for each rank."""

    def on_train_start(self, trainer: Any) -> None:
        self._path = Path(trainer.config.run.dir) / f"calls-{os.environ['RANK']}.jsonl"
        self._write("start", trainer.state.step)

    def on_step_end(self, step: int) -> None:
        self._write("step", step)

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        self._write("log", step, sorted(metrics)[:2])

    def on_validation_end(self, step: int, metrics: dict[str, float]) -> None:
        self._write("validation", step, sorted(metrics))

    def on_checkpoint(self, step: int, folder: Path) -> None:
        self._write("checkpoint", step, folder.name)

    def on_train_end(self, step: int) -> None:
        self._write("end", step)

    def _write(self, *call: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(call) + "\n")


class Failing(Callback):
    """Fails in the second step."""

    def on_step_end(self, step: int) -> None:
        if step == 2:
            raise ValueError("no more steps")


class Silent:
    """Lacks the methods."""


class BrokenConstructor(Callback):
    """Is not made."""

    def __init__(self) -> None:
        raise KeyError("token")


class Killed(Callback):
    """Kills the process after the third step, once."""

    def on_train_start(self, trainer: Any) -> None:
        self._marker = Path(trainer.config.run.dir) / "killed"

    def on_step_end(self, step: int) -> None:
        if step == 3 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
