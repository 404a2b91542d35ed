"""The sections of a run's settings. Each field's description is what `msanet train --help` prints."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from msanet.config.base import Above0, Count, NonNegative, Positive, Section, Share
from msanet.config.data import DataConfig, StorageConfig
from msanet.config.evaluation import EvaluationConfig, ReportConfig
from msanet.config.text import FilePath, Text
from msanet.secrets import masked


class RunConfig(Section):
    """Where a run is stored, and how it starts."""

    dir: FilePath | None = Field(None, description="folder of the run: config, metrics, checkpoints, report")
    resume: Literal["auto", "never", "must"] = Field(
        "auto",
        description="auto: resume from the latest complete checkpoint, if any; never: refuse a folder that has one; "
        "must: refuse one without",
    )
    allow_changes: tuple[Literal["dataset", "model", "normalization", "optimizer", "batch", "order"], ...] = Field(
        (), description="what may differ on resume: any of dataset, model, normalization, optimizer, batch, order"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="seed of initialization, order and augmentation")
    record_samples: bool = Field(False, description="log the samples of each step to samples-<rank>.jsonl")
    preemption_grace_seconds: Above0 = Field(
        60.0, le=1e7, description="seconds to save after SIGTERM, SIGUSR1, SIGHUP or Ctrl-C"
    )
    heartbeat_timeout_seconds: Above0 = Field(
        60.0, le=1e7, description="seconds without a heartbeat until a rank counts as lost and the job ends"
    )
    stall_timeout_seconds: Above0 = Field(
        96.0,
        le=1e7,
        description="seconds without progress (a step, a validation image) until a rank counts as stalled and the job ends; "
        "slow steps, such as the first, may take five times as long",
    )
    rendezvous_timeout_seconds: Above0 = Field(120.0, le=1e7, description="seconds to wait for all ranks at the start")
    loggers: tuple[str, ...] = Field(
        ("tensorboard",),
        description="where metrics go in addition to metrics.jsonl: tensorboard, wandb, mlflow, comet, package.module:Class",
    )
    callbacks: tuple[str, ...] = Field(
        (), description="code of your own that a run calls: package.module:Class or path/to/file.py:Class"
    )
    profile: bool = Field(False, description="profile some early steps to run.dir/profile (also --profile)")
    max_restarts: Count = Field(0, description="restarts of the job after failures, from its last checkpoint")


class ModelConfig(BaseModel):
    """The network. Further keys are the options of its constructor (listed by --help), checked before anything starts."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: Text = Field("msanet", description="the network (msanet train --help lists all)")
    pretrained: FilePath | None = Field(
        None,
        description="initial weights: a checkpoint of msanet, a file of another library (.pth, .safetensors), or the name "
        "under which the network's library publishes them, such as imagenet",
    )
    freeze: tuple[str, ...] = Field(
        (), description="patterns of parameters and modules that are not trained, such as backbone.* or *.bn1"
    )

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class LossConfig(Section):
    """What is minimized: a sum of terms, each normalized over the global batch."""

    cross_entropy: NonNegative = Field(1.0, description="weight of the pixel-wise cross-entropy")
    dice: NonNegative = Field(0.0, description="weight of the Dice loss (mean over each image's classes)")
    lovasz: NonNegative = Field(0.0, description="weight of the Lovasz-Softmax loss (mean over each image's classes)")
    focal: NonNegative = Field(0.0, description="weight of the focal loss (Lin et al. 2017), without class_weights")
    focal_gamma: NonNegative = Field(2.0, description="exponent of the focal loss; 0: cross-entropy")
    tversky: NonNegative = Field(0.0, description="weight of the Tversky loss (mean over each image's classes)")
    tversky_alpha: NonNegative = Field(0.3, description="weight of false positives in the Tversky loss")
    tversky_beta: NonNegative = Field(0.7, description="weight of false negatives in the Tversky loss")
    boundary: NonNegative = Field(
        0.0, description="weight of the boundary loss (Bokhovkin and Burnaev 2019; mean over each image's classes)"
    )
    boundary_tolerance: Positive = Field(2, description="pixels within which a boundary counts as found")
    custom: tuple[str, ...] = Field(
        (), description="losses of your own, weight 1: package.module:callable or path/to/file.py:callable"
    )
    class_weights: Literal["none", "median_frequency", "sqrt_median_frequency"] | tuple[NonNegative, ...] = Field(
        "none",
        description="class weights of the cross-entropy: computed from the training split's class frequencies, or one for each "
        "class",
    )
    ohem_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="OHEM: fraction of an image's labeled pixels, those with the largest loss, that count"
    )

    @property
    def has_other_terms(self) -> bool:
        """Whether there is a term besides the cross-entropy, the only one that `class_weights` are of."""
        return bool(self.dice or self.lovasz or self.focal or self.tversky or self.boundary or self.custom)

    @model_validator(mode="after")
    def _has_a_term(self) -> "LossConfig":
        if not self.cross_entropy and not self.has_other_terms:
            raise ValueError("loss has no term above 0; set loss.cross_entropy, loss.dice, loss.lovasz or another")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("loss.tversky_alpha and loss.tversky_beta are both 0; set one of them above 0")
        if self.cross_entropy and not isinstance(self.class_weights, str) and not any(self.class_weights):
            raise ValueError("loss.class_weights has no weight above 0, expected one for each class to learn")
        return self


class ParameterGroup(Section):
    """Parameters with a learning rate and weight decay of their own: an entry of `optimizer.groups`."""

    match: str = Field(description="pattern of parameters or modules, such as backbone.*")
    lr_mult: Above0 = Field(1.0, description="factor on lr")
    weight_decay: NonNegative | None = Field(None, description="weight decay; null: optimizer.weight_decay")


class OptimizerConfig(Section):
    """The optimizer; defaults are the MSANet paper's (section 4.2)."""

    name: str = Field(
        "adam",
        description="adam: L2 weight decay; adamw: decoupled; sgd; any other of torch.optim, such as NAdam; or "
        "package.module:Class",
    )
    options: dict[str, Any] = Field(
        {}, description="further arguments of the optimizer's constructor, such as {nesterov: true} of sgd"
    )
    lr: Above0 = Field(1e-3, description="initial learning rate")
    weight_decay: NonNegative = Field(0.0, description="weight decay")
    momentum: Share = Field(0.9, description="momentum of sgd")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="decay rates of adam's moments")
    classifier_lr_mult: Above0 = Field(1.0, description="factor on lr for classifier layers (Attention to Scale: 10)")
    groups: tuple[ParameterGroup, ...] = Field(
        (), description="list of {match: PATTERN, lr_mult: 0.1, weight_decay: 0.0}; the first that matches counts"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor on lr from each layer (blocks.N, layers.N, stages.N) to the one before it"
    )
    decay_norms_and_biases: bool = Field(True, description="false: no weight decay on biases and parameters of norms")
    clip_grad_norm: NonNegative = Field(0.0, description="clip the gradient's norm to this; 0: no clipping")

    @field_validator("name")
    @classmethod
    def _fused_names_in_lower_case(cls, name: str) -> str:
        return name.lower() if name.lower() in ("adam", "adamw", "sgd") else name


class ScheduleConfig(Section):
    """The learning rate over the steps of the run."""

    name: Literal["poly", "step", "constant", "cosine", "one_cycle", "wsd"] = Field(
        "poly",
        description="poly: lr (1 - step/steps)^power; step: lr gamma^(step // decay_every_steps); cosine: to min_lr_mult; "
        "one_cycle: up from lr / div_factor and down again, both by cosine; wsd (warmup-stable-decay): lr, then linear to "
        "min_lr_mult",
    )
    power: Above0 = Field(0.9, description="exponent of poly")
    decay_every_steps: Positive = Field(2000, description="steps between drops of the step schedule")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor of each drop of the step schedule")
    min_lr_mult: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="factor on lr at the end: cosine, wsd")
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="share of the steps in which wsd decays"
    )
    pct_start: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="share of the steps in which one_cycle rises"
    )
    div_factor: Annotated[float, Field(ge=1)] = Field(25.0, description="one_cycle begins at lr / div_factor")
    final_div_factor: Annotated[float, Field(ge=1)] = Field(
        1e4, description="one_cycle ends at lr / div_factor / final_div_factor"
    )
    warmup_steps: Count = Field(0, description="steps of linear warm-up from 0, of any schedule")


class TrainerConfig(Section):
    """Length of the training, batch size, precision, and what is due when."""

    epochs: Above0 = Field(200.0, le=1e7, description="passes over the training split (fractions allowed)")
    steps: Annotated[int, Field(ge=1, le=10**12)] | None = Field(None, description="optimizer steps; overrides epochs")
    global_batch_size: Positive = Field(4, description="images per optimizer step over all ranks")
    micro_batch_size: Positive | Literal["auto"] | None = Field(
        None, description="images per rank and forward pass; null: global_batch_size / ranks; auto: what fits in memory"
    )
    context_parallel_size: Positive = Field(
        1, description="consecutive ranks that share an image's attention (MSANet); must divide the number of ranks"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="bf16: autocast with fp32 master weights; fp16: the same with dynamic loss scaling, for GPUs without bf16",
    )
    engine: Literal["deepspeed", "ddp"] = Field(
        "deepspeed", description="ddp: torch's DistributedDataParallel, at zero_stage 0; checkpoints fit both"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    ema_decay: Share = Field(0.0, description="decay per step of the weights' EMA, which is then evaluated; 0: none")
    activation_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory")
    compile: bool = Field(False, description="torch.compile; not with zero_stage 3 or sync_batchnorm")
    channels_last: bool = Field(True, description="channels_last memory format; of the weights only at zero_stage 0")
    tf32: bool = Field(True, description="TensorFloat-32 matrix products and convolutions on GPUs")
    sync_batchnorm: bool = Field(False, description="BatchNorm statistics over the micro-batches of all ranks")
    log_every_steps: Positive = Field(10, description="steps between lines of metrics.jsonl")
    checkpoint_every_steps: Positive = Field(500, description="steps between checkpoints; the last step is saved too")
    checkpoint_every_minutes: NonNegative = Field(0.0, description="minutes between checkpoints, in addition; 0: off")
    keep_checkpoints: Positive = Field(2, description="how many of the latest checkpoints to keep")
    keep_best: bool = Field(True, description="also save and keep the checkpoint with the best validation mean IoU")
    val_every_epochs: NonNegative = Field(10.0, description="epochs between validations; 0: only at the end")
    early_stopping_patience: Count = Field(
        0, description="end the run after this many validations without a better early_stopping_metric; 0: never"
    )
    early_stopping_metric: Literal["mean_iou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou"] = Field(
        "mean_iou", description="metric of the validation that early stopping watches"
    )
    max_nonfinite_steps: Count = Field(
        10, description="consecutive non-finite steps that are skipped; one more ends the run"
    )
    loss_spike_std: NonNegative = Field(
        6.0, description="log a loss this many standard deviations above its moving mean; 0: off"
    )

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _is_a_micro_batch(cls, value: Any) -> Any:
        """One sentence, where pydantic would have one for each type that it might have been."""
        if value not in (None, "auto") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"trainer.micro_batch_size is {value!r:.50}, expected auto, a number from 1, or null")
        return value


class Config(Section):
    """All settings of a run. `deepspeed` is merged into the configuration derived from the others, and may not repeat them."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    deepspeed: dict[str, Any] = Field({}, description="DeepSpeed's own JSON settings (or --deepspeed_config FILE)")

    @model_validator(mode="after")
    def _fields_agree(self) -> "Config":
        if self.trainer.engine == "ddp" and (self.trainer.zero_stage or self.deepspeed):
            stage = self.trainer.zero_stage
            found = f"trainer.zero_stage={stage}" if stage else "the section deepspeed"
            raise ValueError(f"trainer.engine=ddp with {found}, which only DeepSpeed has; remove one of the two")
        if self.trainer.compile and (self.trainer.zero_stage == 3 or self.trainer.sync_batchnorm):
            why = "trainer.zero_stage=3" if self.trainer.zero_stage == 3 else "trainer.sync_batchnorm=true"
            reason = "has nothing to compile, since ranks communicate around every single layer"
            raise ValueError(f"trainer.compile=true with {why} {reason}; change one of the two")
        if self.data.random_scale != (1.0, 1.0) and self.data.crop is None:
            found = f"data.random_scale={list(self.data.random_scale)} gives images of different sizes"
            raise ValueError(f"{found}, which cannot be batched; set data.crop")
        if self.data.dataset is not None and self.storage.decoded_cache_limit_bytes:
            found = f"storage.decoded_cache_limit_bytes={self.storage.decoded_cache_limit_bytes} with data.dataset"
            raise ValueError(f"{found}, whose content may change unseen; set it to 0, and keep decoded images there")
        download, stall = self.storage.download_timeout_seconds, self.run.stall_timeout_seconds
        if download >= stall:
            found = f"storage.download_timeout_seconds={download:g} is not below run.stall_timeout_seconds={stall:g}"
            raise ValueError(
                f"{found}, so a slow download would count as a stall; lower the former or raise the latter"
            )
        return self

    def to_yaml(self) -> str:
        """All settings, with *** for passwords and keys: this is what files keep."""
        return yaml.safe_dump(masked(self.model_dump(mode="json")), sort_keys=False)
