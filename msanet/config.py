"""Every setting of a run: typed, documented, checked at birth. YAML first, then dotted overrides (`trainer.epochs=50`).

Each field's description is what `launcher/train.py --help` prints. An unknown key is an error that names the nearest one.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from msanet.errors import UserError, nearest

Size = tuple[Annotated[int, Field(ge=1, le=65536)], Annotated[int, Field(ge=1, le=65536)]]
"""(height, width) in pixels."""
Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Rgb = tuple[float, float, float]
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class Section(BaseModel):
    """A group of settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(Section):
    """Where a run lies and how it starts."""

    dir: Path | None = Field(None, description="folder of the run: config, metrics, checkpoints, report")
    resume: Literal["auto", "never", "must"] = Field(
        "auto",
        description="auto: go on from the newest whole checkpoint, if any; never: refuse a folder that has one; "
        "must: refuse one without",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="seed of initialisation, order and augmentation")
    record_samples: bool = Field(
        False, description="write which samples each step took to samples-<rank>.jsonl, as proof"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds after which a collective that hangs ends the job"
    )


class DataConfig(Section):
    """What is read, and what is done to an image before it reaches the network."""

    path: str | None = Field(None, description="folder of shards (made by python -m sharding)")
    train_split: str = Field("train", description="split to train on")
    val_split: str = Field("val", description="split to validate on")
    resize: Size | None = Field(
        None, description="[height, width] to which every training image is brought first; null: its own size"
    )
    scale: tuple[float, float] = Field(
        (1.0, 1.0), description="[low, high] of the random scale, log-uniform, after resize"
    )
    crop: Size | None = Field(
        None, description="[height, width] of the random crop, padded where the image is smaller; null: the whole image"
    )
    flip_horizontal: Probability = Field(0.5, description="probability of mirroring left and right")
    flip_vertical: Probability = Field(
        0.0, description="probability of mirroring top and bottom (the MSANet paper: 0.5)"
    )
    brightness: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="colour jitter: factor drawn from [1-x, 1+x]"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="colour jitter: factor drawn from [1-x, 1+x]"
    )
    saturation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="colour jitter: factor drawn from [1-x, 1+x]"
    )
    mean: Rgb = Field(
        (123.675, 116.28, 103.53), description="RGB mean that is subtracted, in grey values 0-255 (ImageNet's)"
    )
    std: Rgb = Field(
        (58.395, 57.12, 57.375), description="RGB standard deviation to divide by, in grey values (ImageNet's)"
    )
    workers: Annotated[int, Field(ge=0, le=64)] = Field(
        2, description="loader processes per rank; 0: read in the training process"
    )
    prefetch: Positive = Field(2, description="micro-batches each loader process prepares ahead")
    block_bytes: Positive = Field(
        8 * 2**20, description="bytes of consecutive samples that the shuffle moves as one (locality of reads)"
    )
    window: Positive = Field(64, description="shuffle window inside a lane, in samples")
    epoch_end: Literal["carry", "drop"] = Field(
        "carry",
        description="carry: the batch across an epoch's end takes the head of the next; drop: leave an incomplete batch out",
    )

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"data.scale is [{low}, {high}], expected 0 < low <= high")
        if min(self.std) <= 0:
            raise ValueError(f"data.std is {list(self.std)}, expected values above 0")
        return self


class ModelConfig(BaseModel):
    """The network. Further keys are the options of its constructor (listed by --help), checked before anything starts."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = Field("msanet", description="which network")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class OptimizerConfig(Section):
    """The optimizer; defaults are the MSANet paper's (section 4.2)."""

    name: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="adam: L2 decay in the gradient; adamw: decoupled; sgd: with momentum"
    )
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="initial learning rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of sgd")
    betas: tuple[Probability, Probability] = Field((0.9, 0.999), description="decay rates of adam's moments")
    clip_norm: Annotated[float, Field(ge=0)] = Field(
        0.0, description="clip the gradient's norm to this; 0: no clipping"
    )


class ScheduleConfig(Section):
    """The learning rate over the steps of the run."""

    name: Literal["poly", "step", "constant"] = Field(
        "poly", description="poly: lr (1 - step/steps)^power; step: lr gamma^(step // every)"
    )
    power: Annotated[float, Field(gt=0)] = Field(0.9, description="exponent of poly")
    every: Positive = Field(2000, description="steps between drops of the step schedule (Attention to Scale: 2,000)")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor of each drop of the step schedule")
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps of linear warm-up from 0 before the schedule")


class TrainerConfig(Section):
    """How long, how much at once, how precise."""

    epochs: Annotated[float, Field(gt=0)] = Field(
        200.0, description="passes over the training split (fractions allowed)"
    )
    steps: Positive | None = Field(None, description="optimizer steps; overrides epochs")
    global_batch: Positive = Field(
        4, description="images per optimizer step over all ranks; everything else is derived from it"
    )
    micro_batch: Positive | None = Field(
        None, description="images per rank and forward pass; null: global_batch / ranks"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast with fp32 master weights")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    sync_batchnorm: bool = Field(
        False, description="BatchNorm over the micro-batches of all ranks: independent of the number of ranks"
    )
    log_every: Positive = Field(10, description="steps between lines of metrics.jsonl")
    checkpoint_every: Positive = Field(500, description="steps between checkpoints; the last step is always saved")
    keep_checkpoints: Positive = Field(2, description="newest checkpoints to keep")
    evaluate_every: Annotated[float, Field(ge=0)] = Field(
        10.0, description="epochs between validations; 0: only at the end"
    )


class EvaluationConfig(Section):
    """How images are put through the network when it is judged, and what is kept."""

    resize: Size | None = Field(
        None,
        description="[height, width] of the network's input; logits are brought back to the label's size; null: own size",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast")
    workers: Annotated[int, Field(ge=0, le=64)] = Field(
        1, description="loader processes per rank; 0: read in the process itself"
    )
    panels: Annotated[int, Field(ge=0, le=200)] = Field(8, description="images shown in the report")


class Config(Section):
    """A whole run. `deepspeed` is merged into what is derived; keys that settings here decide are refused in it."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    deepspeed: dict[str, Any] = Field(
        {}, description="DeepSpeed's own JSON settings, merged (or --deepspeed_config FILE)"
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> "Config":
        if self.data.scale != (1.0, 1.0) and self.data.crop is None:
            raise ValueError(
                f"data.scale={list(self.data.scale)} gives images of different sizes, which make no batch; set data.crop"
            )
        return self

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(path: Path | None, overrides: Sequence[str] = (), extra: dict[str, Any] | None = None) -> Config:
    """Read YAML, apply `key.subkey=value` overrides (values are YAML) and check all of it.

    extra: nested settings applied between the two. Raises UserError with one sentence for the first fault.
    """
    tree: dict[str, Any] = read_yaml(path) if path else {}
    for key, value in (extra or {}).items():
        inner = tree.get(key)
        tree[key] = {**inner, **value} if isinstance(inner, dict) else value
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(path) if path else "the command line")


def parse_config(tree: dict[str, Any], origin: str) -> Config:
    """Check nested settings. `origin` names where they came from in the error."""
    try:
        return Config.model_validate({key: value for key, value in tree.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"{_explain(error)} (in {origin})") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError if it is missing or holds anything else."""
    if not path.is_file():
        raise UserError(f"config '{path}' is not there; give a YAML file, such as jobs/recipes/camvid.yaml")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config '{path}' is no YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(tree, dict | None):
        raise UserError(f"config '{path}' holds a {type(tree).__name__}, expected sections such as data: and trainer:")
    return tree or {}


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(dotted name, type, default, description) of every setting, in order; what --help and the docs are made of."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _type_name(field), field.get_default(), field.description or ""


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is no setting, expected key=value, such as trainer.epochs=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"the value of '{override}' is no YAML; quote it, such as '{key}=\"...\"'") from None
    *sections, name = key.split(".")
    for section in sections:
        inner = tree.get(section)
        tree[section] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[section]
    tree[name] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text (it wants `1.0e-3`); users mean the number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"]]
    name = ".".join(where)
    if first["type"] == "extra_forbidden":
        return f"'{name}' is no setting; {_nearest_setting(name)}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{name} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _nearest_setting(name: str) -> str:
    known = [setting for setting, *_ in settings()]
    section, _, last = name.rpartition(".")
    siblings = [setting for setting in known if setting.startswith(section + ".")] if section else []
    if siblings:
        return nearest(name, siblings)
    same_leaf = [setting for setting in known if setting.split(".")[-1] == last]
    return f"did you mean '{same_leaf[0]}'?" if same_leaf else nearest(name, sorted({s.split(".")[0] for s in known}))


def _type_name(field: FieldInfo) -> str:
    """A type as users would say it: `int`, `[height, width]`, `adam | adamw | sgd`, `float or null`."""
    schema = TypeAdapter[Any](field.annotation or str).json_schema()
    return " or ".join(_schema_name(part) for part in schema.get("anyOf", [schema]))


def _schema_name(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "prefixItems" in schema:
        return "[" + ", ".join(_schema_name(item) for item in schema["prefixItems"]) + "]"
    names = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "object": "mapping"}
    return names.get(schema["type"], schema["type"])
