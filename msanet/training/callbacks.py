"""What users attach to a run: callbacks (`run.callbacks`), on every rank, and trackers of experiments (`run.loggers`)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msanet import distributed
from msanet.errors import UserError, nearest
from msanet.plugins import first_line, require_plugin
from msanet.training.monitoring.trackers import TRACKERS, require_tracker

if TYPE_CHECKING:
    from msanet.training.trainer import Trainer

logger = logging.getLogger(__name__)

METHODS = ("on_train_start", "on_step_end", "on_log", "on_validation_end", "on_checkpoint", "on_train_end")
TENSORBOARD = "tensorboard"
"""Written by `RunFolder`, which knows what to do when the disk is full."""


class Callback:
    """Derive from it, and define what you need. Every rank has one, made without arguments; steps count from 1."""

    def on_train_start(self, trainer: "Trainer") -> None:
        """Before the first step, or after a resume: `trainer.state.step` steps are done."""

    def on_step_end(self, step: int) -> None:
        """After each step. What waits for the device here makes every step wait."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        """With each line of training metrics, such as `loss` and `lr`; the same on all ranks."""

    def on_validation_end(self, step: int, metrics: dict[str, float]) -> None:
        """With the scores of a complete validation, such as `val/mean_iou`; the same on all ranks."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint is being written to this folder, which is there once it is complete."""

    def on_train_end(self, step: int) -> None:
        """After the last step, or when the run was preempted; loggers' also after a failure."""


class Callbacks:
    """Calls a run's callbacks and loggers; a context, in which a training begins and ends.

    An exception of a callback ends the run with one sentence, since a run without it may be another one; a logger's is logged
    once, and that logger is not called again.
    """

    def __init__(self, callbacks: Sequence[str], loggers: Sequence[str]) -> None:
        """Import them. Raises UserError if there is none of a name, or a library is not installed."""
        self._callbacks = [(name, _made(name, "run.callbacks")) for name in callbacks]
        self._loggers: list[tuple[str, Any]] = []
        for name in loggers:
            if ":" not in name and name not in (TENSORBOARD, *TRACKERS):
                known = nearest(name, [TENSORBOARD, *TRACKERS])
                message = f"run.loggers has '{name}'; {known}; or package.module:Class"
                raise UserError("MSA-TRAIN-659", message, setting="run.loggers")
            if name in TRACKERS:
                require_tracker(name)
        distributed.on_main(lambda: self._make_loggers(loggers))
        self._trainer: Trainer | None = None

    def _make_loggers(self, names: Sequence[str]) -> None:
        for name in names:
            if name != TENSORBOARD:
                self._loggers.append((name, TRACKERS[name]() if name in TRACKERS else _made(name, "run.loggers")))

    def attached(self, trainer: "Trainer") -> "Callbacks":
        """For a training that begins when the context is entered."""
        self._trainer = trainer
        return self

    def __enter__(self) -> "Callbacks":
        self.call("on_train_start", self._trainer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._trainer is not None
        if error is not None and not isinstance(error, distributed.Preempted):
            self._callbacks = []
        self.call("on_train_end", self._trainer.state.step)

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of all."""
        for name, own in list(self._loggers):
            try:
                getattr(own, method)(*arguments)
            except Exception as error:  # whatever a tracker does
                self._loggers.remove((name, own))
                logger.warning(
                    f"the logger {name} failed in {method} ({type(error).__name__}: {first_line(error)}) and is not used any "
                    "more; the run continues, and metrics.jsonl has all metrics"
                )
        for name, own in self._callbacks:
            try:
                getattr(own, method)(*arguments)
            except (UserError, distributed.Preempted):
                raise
            except Exception as error:  # whatever a callback does
                found = f"{type(error).__name__}: {first_line(error)}"
                message = (
                    f"the callback '{name}' raised {found} in {method}; fix that code, or remove it from run.callbacks"
                )
                raise UserError("MSA-TRAIN-657", message, setting="run.callbacks") from error


def _made(name: str, setting: str) -> Any:
    try:
        made = require_plugin(name, setting)()
    except UserError:
        raise
    except Exception as error:  # whatever its constructor does
        message = f"{setting} has '{name}', whose constructor raised {type(error).__name__}: {first_line(error)}"
        raise UserError("MSA-TRAIN-657", f"{message}; fix that code", setting=setting) from error
    missing = [method for method in METHODS if not callable(getattr(made, method, None))]
    if missing:
        message = f"{setting} has '{name}', which has no method {missing[0]}; derive it from {__name__}.Callback"
        raise UserError("MSA-TRAIN-657", message, setting=setting)
    return made
