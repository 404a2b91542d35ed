"""What a sweep's file comes to: the command of each trial, checked before anything starts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from msanet.config import Config, load_config
from msanet.data.loader import batch_plan
from msanet.data.open_dataset import open_dataset
from msanet.errors import UserError
from msanet.models import check_model
from msanet.models.pretrained import absolute_weights
from msanet.plugins import trust
from msanet.sweep.settings import SweepConfig, SweepFile, flat
from msanet.sweep.space import TrialParams, active_params, check_conditions, grid_points, params_to_check, to_yaml
from msanet.training.engine.other_optimizers import constructor_arguments

FORMAT_VERSION = 1
"""Of sweep.json."""
TRAIN = ("-m", "msanet", "train")
"""What starts a training, after `python`."""
_RESERVED = {
    "run.dir": "each trial has its own folder in sweep.folder",
    "run.resume": "a trial resumes by itself",
    "run.max_restarts": "sweep.max_failures says how often a trial is started again",
}
"""Settings that the sweep sets itself, and why."""
_FIXED_FOR_PBT = (
    "model.",
    *(f"data.{name}" for name in ("path", "classes", "dataset", "train_split", "val_split")),
    "run.allow_changes",
)


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep.

    Args:
        name: Title of the results.
        folder: Where trials and results go, absolute.
        recipe: Config file of all trials.
        overrides: `key=value` words of all trials.
        base_settings: All settings of the run without a trial's parameters, as JSON text.
    """

    file: SweepFile
    name: str
    folder: Path
    recipe: Path | None
    overrides: tuple[str, ...]
    base_settings: Mapping[str, str]

    @property
    def sweep(self) -> SweepConfig:
        return self.file.sweep

    @property
    def trials(self) -> Path:
        """The folder of the trials' run folders."""
        return self.folder / "trials"

    def active_params(self, sampled: TrialParams) -> TrialParams:
        """Those of the sampled parameters whose conditions are met."""
        return active_params(self.file.space, sampled, self.base_settings)

    def trial_overrides(self, params: TrialParams) -> list[str]:
        """`key=value` words of a trial."""
        return [*self.overrides, *(f"{key}={text}" for key, text in params.items())]

    def command(self, params: TrialParams, run: Path) -> list[str]:
        """What follows `python` to train with these parameters in the folder `run`."""
        recipe = ["--config", str(self.recipe)] if self.recipe else []
        return [*TRAIN, *recipe, *self.trial_overrides(params), f"run.dir={to_yaml(str(run))}"]

    def config(self, params: TrialParams, full: bool = False) -> Config:
        """All settings of a trial, without its folder. full: with those of the section `full`. Raises UserError."""
        more = _as_overrides(flat(self.file.full)) if full else []
        return load_config(self.recipe, [*self.trial_overrides(params), *more])

    def metric_key(self, params: TrialParams) -> str:
        """The name of the sweep's metric in metrics.jsonl."""
        return f"{self.config(params).data.val_split}/{self.sweep.metric}"

    @property
    def fingerprint(self) -> str:
        """What must stay the same for a sweep to resume: space, settings, sampling, and what Ray Tune has stored (sweep.json)."""
        own = self.sweep.model_dump(mode="json", exclude={"name", "folder", "ranks", "cpus", "gpus"})
        space = {key: axis.model_dump(mode="json", exclude_none=True) for key, axis in self.file.space.items()}
        tree = {"format_version": FORMAT_VERSION, "folder": str(self.folder), "sweep": own, "space": space}
        tree["settings"] = self.config({}).to_yaml()
        return json.dumps(tree, indent=1, default=str) + "\n"


def plan_sweep(file: SweepFile, name: str, overrides: list[str]) -> SweepPlan:
    """Check a sweep as far as it can be without Ray. `name`: its title unless sweep.name gives one. Raises UserError."""
    if file.sweep.folder is None:
        raise _missing("sweep.folder", "a folder")
    settings = flat(file.run)
    recipe = settings.pop("config", None)
    for section, keys in (("run", settings), ("space", file.space), ("full", flat(file.full))):
        for key in keys:
            _refuse_reserved(key, f"{section}.{key}")
    for override in overrides:
        key = override.partition("=")[0]
        _refuse_reserved(key, key)
    path = Path(str(recipe)).resolve() if recipe else None
    words = (*_as_overrides(settings), *overrides)
    base = load_config(path, words)
    if not base.data.source:
        raise _missing("data.path", "a folder of shards")
    if base.data.val_split is None:
        found = "data.val_split is null, expected a split: a sweep compares trials by their validations"
        raise UserError("MSA-SWEEP-602", f"{found}; set data.val_split", setting="data.val_split")
    data = base.data.with_absolute_paths()  # trials run in other folders, on other nodes
    for field in ("path", "val_path", "classes", "label_scheme", "dataset"):
        if (value := getattr(data, field)) != getattr(base.data, field):
            words = (*words, f"data.{field}={to_yaml(value)}")
    if base.model.pretrained:
        start = absolute_weights(base.model.name, base.model.options, base.model.pretrained)
        words = (*words, f"model.pretrained={to_yaml(str(start))}")
    base_settings = {key: to_yaml(value) for key, value in flat(base.model_dump(mode="json")).items()}
    plan = SweepPlan(file, file.sweep.name or name, file.sweep.folder.resolve(), path, words, base_settings)
    check_conditions(file.space, base_settings)
    _check_searcher(plan)
    _check_space(plan)
    if data.dataset is not None:
        trust(data.dataset)  # the user's own settings name it
    open_dataset(data, base.storage).read_manifest()
    return plan


def _as_overrides(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={to_yaml(value)}" for key, value in settings.items()]


def _missing(setting: str, expected: str) -> UserError:
    message = f"{setting} is not set, expected {expected}; give it on the command line: {setting}=FOLDER"
    return UserError("MSA-SWEEP-005", message, setting=setting)


def _refuse_reserved(key: str, shown: str) -> None:
    if key in _RESERVED:
        message = f"'{shown}' is set by the sweep itself, since {_RESERVED[key]}; remove it"
        raise UserError("MSA-SWEEP-006", message, setting=key)


def _check_searcher(plan: SweepPlan) -> None:
    """What a searcher cannot do."""
    searcher, space = plan.sweep.searcher, plan.file.space
    if searcher != "random" and grid_points(space, plan.base_settings):
        message = f"sweep.searcher={searcher} does not support `grid` axes; use `choice`, or set sweep.searcher=random"
        raise UserError("MSA-SWEEP-007", message, setting="sweep.searcher")
    if searcher == "pbt":
        for key in space:
            if key.startswith(_FIXED_FOR_PBT):
                why = "pbt changes settings in the middle of a training, where this one must stay the same"
                message = f"space.{key} varies, but {why}; remove it from the space, or set sweep.searcher=random"
                raise UserError("MSA-SWEEP-008", message, setting=f"space.{key}")
        if any(word.startswith("run.allow_changes=") for word in plan.overrides):
            message = "'run.allow_changes' is set, but pbt sets it itself; remove it"
            raise UserError("MSA-SWEEP-006", message, setting="run.allow_changes")


def _check_space(plan: SweepPlan) -> None:
    @cache
    def check_network(name: str, options: str) -> None:
        check_model(name, json.loads(options))

    for params in params_to_check(plan.file.space, plan.base_settings, plan.sweep.seed):
        try:
            for full in (False, True):
                config = plan.config(params, full)
                check_network(config.model.name, json.dumps(config.model.options, sort_keys=True))
                constructor_arguments(config.optimizer)
                batch_plan(config, plan.sweep.ranks)
        except UserError as error:
            shown = ", ".join(f"{key}={text}" for key, text in params.items())
            raise UserError(error.code, f"{error} (in a trial with {shown})", error.setting) from None
