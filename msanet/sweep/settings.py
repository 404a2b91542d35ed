"""The settings of a sweep: its file, jobs/sweeps/NAME.yaml, has the sections sweep, run, space and full."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from msanet.config import Section, read_yaml
from msanet.config.base import Above0, Count, Positive
from msanet.config.loading import command_line_value, explain
from msanet.config.renamed import refuse_old_name
from msanet.config.text import FilePath, kinds_of
from msanet.errors import UserError, nearest

Metric = Literal["mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"]


class Axis(Section):
    """One setting of the space: how its values are sampled (in exactly one way), and when it is set at all."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these")
    grid: tuple[Any, ...] | None = Field(None, min_length=1, description="each of these, with each of other grids")
    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    log_uniform: tuple[Above0, Above0] | None = Field(None, description="[low, high], uniform in the logarithm")
    integer: tuple[int, int] | None = Field(None, alias="int", description="[low, high], both included")
    when: dict[str, Any] = Field({}, description="only set where these settings have these values (or one of a list)")

    def check(self, name: str) -> None:
        """Check that there is one way to sample it, and that a range goes up. Raises ValueError, which calls it `name`."""
        given = {name: value for name, value in self if name != "when" and value is not None}
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"{name} has {found}, expected exactly one of choice, grid, uniform, log_uniform and int")
        if self.range and not self.range[0] < self.range[1]:
            raise ValueError(f"{name} has [{self.range[0]}, {self.range[1]}], expected [low, high] with low below high")

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest value; None for a list of values."""
        return self.uniform or self.log_uniform or self.integer

    @property
    def options(self) -> tuple[Any, ...]:
        """The listed values; empty for a range."""
        return self.choice or self.grid or ()


class SweepConfig(Section):
    """How trials are sampled, compared and placed."""

    name: str | None = Field(None, description="title of the results; null: the name of the file")
    folder: FilePath | None = Field(None, description="where all trials and results go; on a disk that all nodes share")
    trials: Positive = Field(8, description="number of trials; with a grid, for each of its points")
    searcher: Literal["random", "optuna", "pbt"] = Field(
        "random",
        description="random; optuna: TPE; pbt: population-based training, trials copy better ones",
    )
    scheduler: Literal["none", "asha", "median"] = Field("none", description="rule that stops poor trials early")
    metric: Metric = Field("mean_iou", description="validation metric by which trials are compared")
    grace_epochs: Above0 = Field(1.0, description="epochs that each trial gets before a scheduler may stop it")
    perturb_every_epochs: Above0 = Field(1.0, description="epochs between two changes of a trial by pbt")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="seed of the sampling")
    ranks: Positive = Field(1, description="ranks (processes) of one trial")
    cpus: Positive = Field(1, description="CPU cores of one rank")
    gpus: Literal[0, 1] = Field(0, description="GPUs of one rank")
    max_failures: Count = Field(2, description="resumes of a trial after failures before it counts as failed")
    max_concurrent_trials: Positive | None = Field(None, description="trials at a time; null: as many as fit")

    @model_validator(mode="after")
    def _check_scheduler(self) -> "SweepConfig":
        if self.searcher == "pbt" and self.scheduler != "none":
            raise ValueError(f"sweep.scheduler is {self.scheduler}, but pbt is one itself; set sweep.scheduler=none")
        return self


class SweepFile(Section):
    """A whole file: the sweep's own settings, `run` for all trials (nested or dotted, and `config`, a recipe), the `space` of
    settings that vary, and `full`, further settings for the training of the best trial's parameters (`--train-best`)."""

    sweep: SweepConfig = SweepConfig()
    run: dict[str, Any] = {}
    space: dict[str, Axis]
    full: dict[str, Any] = {}

    @field_validator("space")
    @classmethod
    def _check_axes(cls, space: dict[str, Axis]) -> dict[str, Axis]:
        if not space:
            raise ValueError("space is empty, expected at least one setting to vary")
        for key, axis in space.items():
            axis.check(f"space.{key}")
        return space


def load_sweep(path: Path, overrides: list[str]) -> SweepFile:
    """Read a sweep's file, with `sweep.KEY=value` words that override its section sweep. Raises UserError."""
    tree = read_yaml(path)
    section = tree.get("sweep") or {}
    if not isinstance(section, dict):
        found = f"the section sweep of '{path}' is {str(section)[:50]!r}"
        raise UserError("MSA-SWEEP-011", f"{found}, expected settings such as trials: 8", setting="sweep")
    for name in section:
        refuse_old_name(f"sweep.{name}", None, str(path))
    section = dict(section)
    for override in overrides:
        key, _, text = override.partition("=")
        refuse_old_name(key, None, "the command line")
        name = key.removeprefix("sweep.")
        field = SweepConfig.model_fields.get(name)
        section[name] = command_line_value(key, text, kinds_of(field.annotation) if field else ())
    tree = {key: value for key, value in tree.items() if value is not None or key == "space"}
    try:
        return SweepFile.model_validate({**tree, "sweep": section})
    except ValidationError as error:
        _, sentence, setting = explain(error, _nearest, SweepFile)
        raise UserError("MSA-SWEEP-011", f"{sentence} (in {path})", setting=setting or None) from None


def _nearest(name: str) -> str:
    *sections, word = name.split(".")
    section = SweepFile if not sections else SweepConfig if sections == ["sweep"] else Axis
    return nearest(word, [field.alias or known for known, field in section.model_fields.items()])


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested settings."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
