"""What a sweep's file comes to: the command of each trial, checked before anything starts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from msanet.config import Config, load_config
from msanet.data.loader import batch_plan
from msanet.data.shard_source import read_manifest
from msanet.data.storage import open_storage
from msanet.errors import UserError
from msanet.models import check_model
from msanet.sweep.settings import SweepConfig, SweepFile, flat
from msanet.sweep.space import Point, active, check_conditions, grid_points, sample_points, to_yaml

_OWN = {
    "run.dir": "each trial has its own folder in sweep.folder",
    "run.resume": "a trial goes on by itself",
    "run.max_restarts": "sweep.max_failures says how often a trial is started again",
}
"""Settings that are the sweep's to decide."""


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep. recipe: of all trials. words: the settings that they share. script: launcher/train.py."""

    file: SweepFile
    name: str
    folder: Path
    script: Path
    recipe: Path | None
    words: tuple[str, ...]
    fixed: Mapping[str, str]

    @property
    def sweep(self) -> SweepConfig:
        return self.file.sweep

    @property
    def trials(self) -> Path:
        """Where the run folders of trials lie."""
        return self.folder / "trials"

    def point(self, drawn: Point) -> Point:
        """Which of the drawn settings are set."""
        return active(self.file.space, drawn, self.fixed)

    def settings(self, point: Point) -> list[str]:
        """`key=value` words of a trial."""
        return [*self.words, *(f"{key}={text}" for key, text in point.items())]

    def command(self, point: Point, run: Path) -> list[str]:
        """What follows `python` to train at a point in the folder `run`."""
        recipe = ["--config", str(self.recipe)] if self.recipe else []
        return [str(self.script), *recipe, *self.settings(point), f"run.dir={to_yaml(str(run))}"]

    def config(self, point: Point, full: bool = False) -> Config:
        """All settings at a point, without a folder. full: for the training of the best. Raises UserError."""
        more = _words(flat(self.file.full)) if full else []
        return load_config(self.recipe, [*self.settings(point), *more])

    def figure(self, point: Point) -> str:
        """Under which name metrics.jsonl has the sweep's metric."""
        return f"{self.config(point).data.val_split}/{self.sweep.metric}"

    @property
    def fingerprint(self) -> str:
        """What must be the same for a sweep to go on: space, settings, how trials are drawn, and what Tune has written down."""
        own = self.sweep.model_dump(mode="json", exclude={"name", "folder", "ranks", "cpus", "gpus"})
        space = {key: axis.model_dump(mode="json", exclude_none=True) for key, axis in self.file.space.items()}
        recipe = self.config({}).to_yaml()
        tree = {"folder": str(self.folder), "sweep": own, "space": space, "settings": recipe}
        return json.dumps(tree, indent=1, default=str) + "\n"


def plan_sweep(file: SweepFile, name: str, script: Path, overrides: list[str]) -> SweepPlan:
    """Check a sweep as far as it can be without Ray. Raises UserError for the first fault.

    overrides: `key=value` words, above those of the section run.
    """
    if file.sweep.folder is None:
        raise UserError("sweep.folder is not set, expected a folder; give it on the command line: sweep.folder=FOLDER")
    settings = flat(file.run)
    recipe = settings.pop("config", None)
    for section, keys in (("run", settings), ("space", file.space), ("full", flat(file.full))):
        for key in keys:
            _refuse_own(key, f"{section}.{key}")
    for word in overrides:
        _refuse_own(word.partition("=")[0], word.partition("=")[0])
    path = Path(str(recipe)).resolve() if recipe else None
    words = (*_words(settings), *overrides)
    base = load_config(path, words)
    if base.data.path is None:
        raise UserError(
            "data.path is not set, expected a folder of shards; give it on the command line: data.path=FOLDER"
        )
    if "://" not in base.data.path:  # trials run in other folders, on other nodes
        words = (*words, f"data.path={to_yaml(str(Path(base.data.path).resolve()))}")
    if base.model.pretrained:
        words = (*words, f"model.pretrained={to_yaml(str(base.model.pretrained.resolve()))}")
    fixed = {key: to_yaml(value) for key, value in flat(base.model_dump(mode="json")).items()}
    plan = SweepPlan(file, file.sweep.name or name, file.sweep.folder.resolve(), script, path, words, fixed)
    check_conditions(file.space, fixed)
    _check_searcher(plan)
    _check_points(plan)
    read_manifest(open_storage(base.data.path, base.storage))
    return plan


def _words(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={to_yaml(value)}" for key, value in settings.items()]


def _refuse_own(key: str, shown: str) -> None:
    if key in _OWN:
        raise UserError(f"'{shown}' is the sweep's to set, since {_OWN[key]}; leave it out")


def _check_searcher(plan: SweepPlan) -> None:
    """What a searcher cannot do."""
    searcher, space = plan.sweep.searcher, plan.file.space
    if searcher != "random" and grid_points(space, plan.fixed):
        raise UserError(
            f"sweep.searcher is {searcher}, which takes no grid; write choice, or set sweep.searcher=random"
        )
    if searcher == "pbt":
        kept = ("model.", "data.path", "data.val_split", "data.train_split", "run.allow_changes")
        for key in space:
            if key.startswith(kept):
                raise UserError(
                    f"space.{key} cannot change while a network trains, as pbt would have it; take it out, or set "
                    "sweep.searcher=random"
                )
        if any(word.startswith("run.allow_changes=") for word in plan.words):
            raise UserError("'run.allow_changes' is set, but pbt sets it itself; leave it out")


def _check_points(plan: SweepPlan) -> None:
    @cache
    def check_network(name: str, options: str) -> None:
        check_model(name, json.loads(options))

    for point in sample_points(plan.file.space, plan.fixed, plan.sweep.seed):
        try:
            for full in (False, True):
                config = plan.config(point, full)
                check_network(config.model.name, json.dumps(config.model.options, sort_keys=True))
                batch_plan(config, plan.sweep.ranks)
        except UserError as error:
            where = ", ".join(f"{key}={text}" for key, text in point.items())
            raise UserError(f"{error} (in a trial with {where})") from None
