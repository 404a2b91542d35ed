"""Checks of batches, BatchNorm, learning rate and schedule against the size of the data."""

from torch import nn

from msanet.config import Config, OptimizerConfig, ScheduleConfig
from msanet.data.loader import BatchPlan
from msanet.doctor.diagnostics import Found, check
from msanet.models.blocks import ImageBatchNorm2d
from msanet.training.engine.freezing import FrozenStatistics

_SMALL_NORM, _TINY_NORM = 4, 2
_ADAM_MOST, _ADAMS = 3e-3, ("adam", "adamw", "nadam", "radam", "adamax")
_SGD_RATE, _SGD_IMAGES, _SGD_RANGE = 0.01, 16, 4.0
_FINE_TUNING = 10
_WARM_FROM = 64
_HEAVY_WEIGHT = 50.0


@check("steps")
def steps(config: Config, batches: BatchPlan, samples: int, epoch_length: int, total: int) -> Found:
    """What an epoch and the run are made of. samples: of the split; epoch_length: those that an epoch takes; total: steps."""
    per_epoch = epoch_length / batches.global_batch_size
    epochs = total / per_epoch
    text = (
        f"{total} steps of {batches.global_batch_size} images are {epochs:.4g} epochs of {samples}; a rank (of "
        f"{batches.world_size}) takes {batches.accumulation} x {batches.micro_batch_size} images a step, "
        f"{epoch_length / batches.groups:.4g} an epoch"
    )
    yield "ok", text
    if epochs < 1:
        text = f"the run ends after {epochs:.0%} of one epoch, expected at least one; raise trainer.steps or trainer.epochs"
        yield "warning", text
    if samples - epoch_length > 0.05 * samples:
        what = f"data.drop_last=true drops {samples - epoch_length} of {samples} samples an epoch, expected below 5%"
        yield "advice", f"{what}; set data.drop_last=false or a smaller trainer.global_batch_size"


@check("steps")
def idle_ranks(val_samples: int, ranks: int) -> Found:
    """Fewer validation images than ranks."""
    if val_samples < ranks:
        what = f"validation has {val_samples} images for {ranks} ranks, so {ranks - val_samples} will wait"
        yield "advice", f"{what}, expected {ranks} or more; harmless, or start fewer ranks"


@check("intervals")
def intervals(config: Config, per_epoch: float, total: int) -> Found:
    """When checkpoints, validations and lines of the log come. per_epoch: steps."""
    trainer = config.trainer
    if trainer.checkpoint_every_steps >= total:
        what = f"trainer.checkpoint_every_steps={trainer.checkpoint_every_steps} is never reached in {total} steps"
        yield "advice", f"{what}, so an interrupted run starts again from step 0; set it to about {max(1, total // 10)}"
    if config.data.val_split is None:
        what = "data.val_split is null, so nothing is validated and there is no best checkpoint"
        yield "advice", f"{what}, expected a split that training does not see; set one if there is one"
    elif trainer.val_every_epochs * per_epoch >= total:
        what = f"trainer.val_every_epochs={trainer.val_every_epochs:g} is the full run of {total / per_epoch:.4g} epochs or more"
        yield "advice", f"{what}, so validation runs only at its end; lower it to follow the progress"
    if config.data.val_split is not None and 0 < trainer.val_every_epochs * per_epoch < 1:
        what = f"trainer.val_every_epochs={trainer.val_every_epochs:g} is below one step ({1 / per_epoch:.4g} epochs)"
        yield "warning", f"{what}, so each step ends with a validation, expected many steps between; raise it"
    if trainer.log_every_steps > total:
        text = f"trainer.log_every_steps={trainer.log_every_steps} is more than all {total} steps, expected less; set it to 1"
        yield "advice", text


@check("schedule")
def schedule(settings: ScheduleConfig, total: int) -> Found:
    """Whether drops and warm-up lie inside the run."""
    if settings.name == "step" and settings.decay_every_steps >= total:
        text = (
            f"schedule.decay_every_steps={settings.decay_every_steps} is not below the {total} steps of the run, "
            f"so the learning rate never drops, expected drops; set it to about {max(1, total // 3)}, or schedule.name=poly"
        )
        yield "warning", text
    if settings.warmup_steps > total / 2:
        what = f"schedule.warmup_steps={settings.warmup_steps} is more than half of the {total} steps"
        yield "warning", f"{what}, expected a small share; set it to about {max(1, total // 20)}"


@check("learning rate")
def learning_rate(settings: OptimizerConfig, warmup: int, global_batch_size: int, is_pretrained: bool) -> Found:
    """Rules of thumb, and named as such. classifier_lr_mult counts: it is the classifier that has the larger rate."""
    is_cold = global_batch_size > _WARM_FROM and not warmup
    expected = _SGD_RATE * global_batch_size / _SGD_IMAGES
    lowest = expected / _SGD_RANGE / (_FINE_TUNING if is_pretrained else 1)
    found = f"optimizer.lr={settings.lr:g} for {global_batch_size} images, expected about {expected:.2g}"
    rule = f"{_SGD_RATE:g} for {_SGD_IMAGES} images, in proportion (linear scaling, Goyal et al. 2017; a rule of thumb)"
    if settings.name.lower() in _ADAMS and settings.lr > _ADAM_MOST:
        what = f"optimizer.lr={settings.lr:g} is high for {settings.name}, expected at most {_ADAM_MOST:g}"
        yield "warning", f"{what}: a rule of thumb (MSANet paper: 1e-3); lower it if the loss jumps or does not fall"
    elif settings.name == "sgd" and settings.lr > expected * _SGD_RANGE:
        yield "warning", f"{found}: {rule}; lower it"
    elif settings.name == "sgd" and settings.lr * max(1.0, settings.classifier_lr_mult) < lowest:
        yield "advice", f"{found}: {rule}; raise it"
    elif not is_cold:
        yield "ok", f"{settings.lr:g} with {settings.name} for {global_batch_size} images"
    if is_cold:
        what = f"trainer.global_batch_size={global_batch_size} starts at the full learning rate, expected a warm-up"
        yield "advice", f"{what}: a rule of thumb above {_WARM_FROM} images; set schedule.warmup_steps=500"


@check("loss")
def class_weights(weights: list[float], classes: tuple[str, ...]) -> Found:
    """Weights of the cross-entropy that let one class decide the gradient, or count for nothing."""
    heaviest = max(range(len(weights)), key=weights.__getitem__)
    if weights[heaviest] > _HEAVY_WEIGHT:
        text = (
            f"loss.class_weights gives '{classes[heaviest]}' {weights[heaviest]:.0f}, expected at most {_HEAVY_WEIGHT:.0f}: "
            "its few pixels decide the gradient; give smaller weights one by one, or set loss.dice"
        )
        yield "advice", text
    unused = [name for name, weight in zip(classes, weights, strict=True) if not weight]
    if unused:
        text = f"loss.class_weights is 0 for '{unused[0]}', which is evaluated but not learned, expected above 0; or ignore it"
        yield "warning", text


@check("batch norm")
def batch_norm(network: nn.Module, batches: BatchPlan, is_synchronized: bool, has_option: bool) -> Found:
    """How many images BatchNorm's statistics are of. has_option: whether the network can have another norm."""
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, FrozenStatistics)
    ]
    if not norms:
        yield "ok", "the network has none"
        return
    images = batches.micro_batch_size * (batches.groups if is_synchronized else 1)
    what = f"BatchNorm's statistics are of {images} images"
    if images >= _SMALL_NORM:
        yield "ok", what
        return
    suggestions = ["trainer.micro_batch_size (less accumulation)"] if batches.accumulation > 1 else []
    if batches.groups > 1 and not is_synchronized:
        suggestions.append("trainer.sync_batchnorm=true")
    other_norm = "model.norm=group, or frozen with pretrained weights"
    suggestions.append(other_norm if has_option else "a larger trainer.global_batch_size")
    advice = f"expected {_SMALL_NORM} or more; set {', '.join(suggestions)}"
    if images <= _TINY_NORM and any(isinstance(module, ImageBatchNorm2d) for module in norms):
        values = "keeps its initial values" if images == 1 else "has two values a channel, which normalize to 1 and -1"
        yield "warning", f"{what}, and that of the image pooling {values}, {advice}"
    else:
        yield "advice", f"{what}, {advice}"
