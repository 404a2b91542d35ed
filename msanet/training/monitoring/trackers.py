"""Weights & Biases, MLflow and Comet as loggers of a run; a resumed run continues its curve there.

Each is told where to send what by its own environment variables, and keeps it in the run folder where they say `offline`.
"""

import importlib
import json
import math
import os
import sys
from importlib.util import find_spec
from typing import Any

from msanet.documents import parse_json
from msanet.errors import UserError
from msanet.files import write_text
from msanet.run_layout import RunLayout
from msanet.secrets import masked

FORMAT_VERSION = 1
"""Of trackers.json."""
_PROJECT = "msanet"


class Tracker:
    """What the three have in common; each has the methods of `msanet.training.callbacks.Callback`."""

    module: str

    def __init__(self) -> None:
        self._library: Any = None
        self._run: Any = None

    def on_train_start(self, trainer: Any) -> None:
        layout = RunLayout(trainer.config.run.dir)
        self._library = importlib.import_module(self.module)  # slow, and needed on one rank only
        known = _read_ids(layout)
        given = known.get(self.module)
        own = self._begin(layout, given, masked(trainer.config.model_dump(mode="json")))
        if own != given:
            text = json.dumps({"format_version": FORMAT_VERSION, "ids": {**known, self.module: own}}, indent=1)
            write_text(layout.trackers, text + "\n")

    def on_step_end(self, step: int) -> None:
        """Nothing: metrics come with on_log."""

    def on_log(self, step: int, metrics: dict[str, float]) -> None:
        self._send({f"train/{name}": value for name, value in metrics.items() if math.isfinite(value)}, step)

    def on_validation_end(self, step: int, metrics: dict[str, float]) -> None:
        self._send({name: value for name, value in metrics.items() if math.isfinite(value)}, step)

    def on_checkpoint(self, step: int, folder: Any) -> None:
        """Nothing: checkpoints stay where they are."""

    def on_train_end(self, step: int) -> None:
        raise NotImplementedError

    def _begin(self, layout: RunLayout, known: str | None, config: dict[str, Any]) -> str:
        """Open a run, or the `known` one again, and return its id."""
        raise NotImplementedError

    def _send(self, metrics: dict[str, float], step: int) -> None:
        raise NotImplementedError


class WandbTracker(Tracker):
    """Weights & Biases. WANDB_MODE=offline keeps it in RUN/wandb, for `wandb sync`.

    It ignores a step that is done again after a resume, whose metrics it has.
    """

    module = "wandb"

    def _begin(self, layout: RunLayout, known: str | None, config: dict[str, Any]) -> str:
        project, again = os.environ.get("WANDB_PROJECT", _PROJECT), "allow" if known else None
        name = None if known else layout.dir.name
        self._run = self._library.init(
            project=project, id=known, name=name, resume=again, dir=str(layout.dir), config=config
        )
        return str(self._run.id)

    def _send(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def on_train_end(self, step: int) -> None:
        self._run.finish()


class MlflowTracker(Tracker):
    """MLflow. Without MLFLOW_TRACKING_URI it keeps all in RUN/mlflow.db."""

    module = "mlflow"

    def _begin(self, layout: RunLayout, known: str | None, config: dict[str, Any]) -> str:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self._library.set_tracking_uri(f"sqlite:///{layout.dir / 'mlflow.db'}")
        self._library.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        self._run = self._library.start_run(run_id=known, run_name=None if known else layout.dir.name)
        if not known:
            sections = {key: value for key, value in config.items() if isinstance(value, dict)}
            flat = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
            self._library.log_params({name: str(value)[:500] for name, value in flat.items()})
        return str(self._run.info.run_id)

    def _send(self, metrics: dict[str, float], step: int) -> None:
        self._library.log_metrics(metrics, step=step)

    def on_train_end(self, step: int) -> None:
        self._library.end_run()


class CometTracker(Tracker):
    """Comet. Without COMET_API_KEY it keeps all in RUN/comet, for `comet upload`."""

    module = "comet_ml"

    def _begin(self, layout: RunLayout, known: str | None, config: dict[str, Any]) -> str:
        is_offline = not os.environ.get("COMET_API_KEY")
        kind = ("Existing" if known else "") + ("OfflineExperiment" if is_offline else "Experiment")
        arguments: dict[str, Any] = {"offline_directory": str(layout.dir / "comet")} if is_offline else {}
        if known:
            arguments["previous_experiment"] = known
        else:
            arguments["project_name"] = os.environ.get("COMET_PROJECT_NAME", _PROJECT)
        self._run = getattr(self._library, kind)(**arguments)
        if not known:
            self._run.log_parameters(config)
        return str(self._run.get_key())

    def _send(self, metrics: dict[str, float], step: int) -> None:
        self._run.log_metrics(metrics, step=step)

    def on_train_end(self, step: int) -> None:
        self._run.end()


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker, "comet": CometTracker}
"""By their names in `run.loggers`, which are those of the extras too."""


def require_tracker(name: str) -> None:
    """Raise UserError if the library is not installed."""
    module = TRACKERS[name].module
    if module not in sys.modules and find_spec(module) is None:
        message = f"run.loggers has '{name}', but {module} is not installed; pip install 'msanet[{name}]', or remove it"
        raise UserError("MSA-TRAIN-658", message, setting="run.loggers")


def _read_ids(layout: RunLayout) -> dict[str, str]:
    """The ids that the run has in trackers; none if the file is not there, or of another version."""
    try:
        tree = parse_json(layout.trackers.read_bytes())
    except (OSError, ValueError):
        return {}
    ids = tree.get("ids") if isinstance(tree, dict) and tree.get("format_version") == FORMAT_VERSION else None
    return ids if isinstance(ids, dict) else {}
