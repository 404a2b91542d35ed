"""Checks of batches, BatchNorm, learning rate and schedule against the size of the data."""

from torch import nn

from msanet.config import Config, OptimizerConfig, ScheduleConfig
from msanet.data.loader import BatchPlan
from msanet.doctor.findings import Finding
from msanet.models.blocks import ImageBatchNorm2d

_SMALL_NORM, _TINY_NORM = 4, 2
_ADAM_MOST = 3e-3
_SGD_RATE, _SGD_IMAGES, _SGD_RANGE = 0.01, 16, 4.0
_FINE_TUNING = 10
_WARM_FROM = 64
_HEAVY_WEIGHT = 50.0


def steps(config: Config, batches: BatchPlan, samples: int, epoch_length: int, total: int) -> list[Finding]:
    """What an epoch and the run are made of. samples: of the split; epoch_length: those that an epoch takes; total: steps."""
    per_epoch = epoch_length / batches.global_batch
    epochs = total / per_epoch
    text = (
        f"{total} steps of {batches.global_batch} images are {epochs:.4g} epochs of {samples}; a rank (of "
        f"{batches.world_size}) takes {batches.accumulation} x {batches.micro_batch} images a step, "
        f"{epoch_length / batches.groups:.4g} an epoch"
    )
    findings = [Finding("ok", "steps", text)]
    if epochs < 1:
        text = f"the run ends after {epochs:.0%} of one epoch, expected at least one; raise trainer.steps or trainer.epochs"
        findings.append(Finding("warning", "steps", text))
    if samples - epoch_length > 0.05 * samples:
        text = (
            f"data.epoch_end=drop leaves out {samples - epoch_length} of {samples} samples each epoch, expected less than 5%; "
            "set data.epoch_end=carry or a smaller trainer.global_batch"
        )
        findings.append(Finding("advice", "steps", text))
    return findings


def idle_ranks(val_samples: int, ranks: int) -> list[Finding]:
    """Fewer validation images than ranks."""
    if val_samples >= ranks:
        return []
    text = (
        f"validation has {val_samples} images for {ranks} ranks, so {ranks - val_samples} will wait while it runs, expected "
        f"{ranks} or more; harmless, or start fewer ranks"
    )
    return [Finding("advice", "steps", text)]


def rhythm(config: Config, per_epoch: float, total: int) -> list[Finding]:
    """When checkpoints, validations and lines of the log come. per_epoch: steps."""
    trainer, found = config.trainer, []
    if trainer.checkpoint_every >= total:
        text = (
            f"trainer.checkpoint_every={trainer.checkpoint_every} is never reached in {total} steps, so a run that is stopped "
            f"starts anew, expected less; set it to about {max(1, total // 10)}"
        )
        found.append(Finding("advice", "rhythm", text))
    if trainer.evaluate_every * per_epoch >= total:
        text = (
            f"trainer.evaluate_every={trainer.evaluate_every:g} epochs is the whole run of {total / per_epoch:.4g} or more, so "
            "it is judged only at its end; set it lower to see how it goes"
        )
        found.append(Finding("advice", "rhythm", text))
    if 0 < trainer.evaluate_every * per_epoch < 1:
        text = (
            f"trainer.evaluate_every={trainer.evaluate_every:g} epochs is less than one step ({1 / per_epoch:.4g} epochs), so "
            "each step ends with a validation, expected many steps between; raise it"
        )
        found.append(Finding("warning", "rhythm", text))
    if trainer.log_every > total:
        text = f"trainer.log_every={trainer.log_every} is more than all {total} steps, expected less; set it to 1"
        found.append(Finding("advice", "rhythm", text))
    return found


def schedule(settings: ScheduleConfig, total: int) -> list[Finding]:
    """Whether drops and warm-up lie inside the run."""
    found = []
    if settings.name == "step" and settings.every >= total:
        text = (
            f"schedule.every={settings.every} is not below the {total} steps of the run, so the learning rate never drops, "
            f"expected drops; set it to about {max(1, total // 3)}, or schedule.name=poly"
        )
        found.append(Finding("warning", "schedule", text))
    if settings.warmup > total / 2:
        text = (
            f"schedule.warmup={settings.warmup} is more than half of the {total} steps, expected a small share; set it to about "
            f"{max(1, total // 20)}"
        )
        found.append(Finding("warning", "schedule", text))
    return found


def learning_rate(settings: OptimizerConfig, warmup: int, global_batch: int, is_pretrained: bool) -> list[Finding]:
    """Rules of thumb, and said to be. classifier_lr counts: it is the classifier that has the larger rate."""
    found = []
    if settings.name != "sgd" and settings.lr > _ADAM_MOST:
        text = (
            f"optimizer.lr={settings.lr:g} is much for {settings.name}, expected at most {_ADAM_MOST:g} (a rule of thumb; the "
            "MSANet paper has 1e-3); lower it if the loss jumps or stays where it is"
        )
        found.append(Finding("warning", "learning rate", text))
    expected = _SGD_RATE * global_batch / _SGD_IMAGES
    lowest = expected / _SGD_RANGE / (_FINE_TUNING if is_pretrained else 1)
    rule = f"{_SGD_RATE:g} for {_SGD_IMAGES} images, in proportion (linear scaling, Goyal et al. 2017; a rule of thumb)"
    if settings.name == "sgd" and settings.lr > expected * _SGD_RANGE:
        text = (
            f"optimizer.lr={settings.lr:g} for {global_batch} images, expected about {expected:.2g}: {rule}; lower it"
        )
        found.append(Finding("warning", "learning rate", text))
    if settings.name == "sgd" and settings.lr * max(1.0, settings.classifier_lr) < lowest:
        text = (
            f"optimizer.lr={settings.lr:g} for {global_batch} images, expected about {expected:.2g}: {rule}; raise it"
        )
        found.append(Finding("advice", "learning rate", text))
    if global_batch > _WARM_FROM and not warmup:
        text = (
            f"trainer.global_batch={global_batch} starts at the full learning rate, expected a warm-up above {_WARM_FROM} images "
            "(a rule of thumb); set schedule.warmup=500"
        )
        found.append(Finding("advice", "learning rate", text))
    return found or [Finding("ok", "learning rate", f"{settings.lr:g} with {settings.name} for {global_batch} images")]


def class_weights(weights: list[float], classes: tuple[str, ...]) -> list[Finding]:
    """Weights of the cross-entropy that let one class decide the gradient, or count for nothing."""
    found = []
    heaviest = max(range(len(weights)), key=weights.__getitem__)
    if weights[heaviest] > _HEAVY_WEIGHT:
        text = (
            f"loss.class_weights gives '{classes[heaviest]}' {weights[heaviest]:.0f}, expected at most {_HEAVY_WEIGHT:.0f}: "
            "its few pixels decide the gradient; give smaller weights one by one, or set loss.dice"
        )
        found.append(Finding("advice", "loss", text))
    unused = [name for name, weight in zip(classes, weights, strict=True) if not weight]
    if unused:
        text = f"loss.class_weights is 0 for '{unused[0]}', so it is judged but not learnt, expected above 0; or ignore its id"
        found.append(Finding("warning", "loss", text))
    return found


def batch_norm(network: nn.Module, batches: BatchPlan, is_synchronised: bool, has_option: bool) -> list[Finding]:
    """How many images BatchNorm's statistics are of. has_option: whether the network can have another norm."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return [Finding("ok", "batch norm", "the network has none")]
    images = batches.micro_batch * (batches.groups if is_synchronised else 1)
    if images >= _SMALL_NORM:
        return [Finding("ok", "batch norm", f"its statistics are of {images} images")]
    cures = ["trainer.micro_batch (less accumulation)"] if batches.accumulation > 1 else []
    if batches.groups > 1 and not is_synchronised:
        cures.append("trainer.sync_batchnorm=true")
    cures.append(
        "model.norm=group, or frozen with pretrained weights" if has_option else "a larger trainer.global_batch"
    )
    advice = f"expected {_SMALL_NORM} or more; set {', '.join(cures)}"
    if images <= _TINY_NORM and any(isinstance(module, ImageBatchNorm2d) for module in norms):
        what = (
            "is left as it starts" if images == 1 else "sees two values a channel, whose normalised values are 1 and -1"
        )
        text = f"BatchNorm's statistics are of {images} images, and that of the image pooling {what}, {advice}"
        return [Finding("warning", "batch norm", text)]
    return [Finding("advice", "batch norm", f"BatchNorm's statistics are of {images} images, {advice}")]
