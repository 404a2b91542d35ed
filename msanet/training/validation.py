"""A validation during training: it borrows the network's weights, or their EMA, and leaves the training as it was."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from msanet import distributed
from msanet.config import Config
from msanet.data.manifest import Manifest
from msanet.data.open_dataset import Dataset
from msanet.data.sample_source import SampleSource
from msanet.errors import UserError
from msanet.evaluation.evaluator import EvaluationInterrupted, evaluate
from msanet.evaluation.per_image_counts import require_countable
from msanet.evaluation.result import EvaluationResult
from msanet.models import build_model
from msanet.models.io import apply_weights
from msanet.training.best import comparable, conditions_of
from msanet.training.checkpoint.checkpointer import all_running_statistics
from msanet.training.checkpoint.format import Best
from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import averaged_over_ranks
from msanet.training.engine.device_settings import without_cudnn_benchmark
from msanet.training.engine.ema import EMA
from msanet.training.schedule import TrainState, after_validation

logger = logging.getLogger(__name__)


def validation_source(config: Config, dataset: Dataset, manifest: Manifest) -> SampleSource | None:
    """The split to validate on, or None with `data.val_split=null`, which is said. Raises UserError if there is no such split."""
    split = config.data.val_split
    if split is None:
        logger.info(
            "data.val_split is null: nothing is validated and there is no best checkpoint; `msanet evaluate --run RUN --split "
            "SPLIT` evaluates the network afterwards"
        )
        return None
    require_countable(manifest.num_classes)
    try:
        return dataset.source(split, manifest)
    except UserError as error:
        advice = "set data.val_split to one of them, or to null to train without validation"
        raise UserError(error.code, f"{error}; {advice}", setting="data.val_split") from None


def log_validation(result: EvaluationResult | None, state: TrainState) -> None:
    """A line on the console; nothing for an interrupted validation."""
    if result is None:
        return
    best = "the best so far"
    if state.best and state.best.step != state.step:
        best = f"best so far {state.best.mean_iou:.4f} at step {state.best.step}"
    mean_iou = result.protocol_scores.scores.mean_iou
    each = "".join(f"; {name} {value:.4f}" for name, value in result.mean_iou_by_dataset.items())
    logger.info(f"validation on '{result.split}' after step {state.step}: mean IoU {mean_iou:.4f} ({best}){each}")


def validate(
    engine: Any,
    ema: EMA | None,
    state: TrainState,
    source: SampleSource,
    config: Config,
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult | None:
    """Evaluate the engine's network as it is now, or its EMA if there is one, on a whole split. A collective.

    Args:
        state: Gets the best validation so far.
        source: The split.
        should_stop: Asked before each image. If it is true on any rank, the validation is interrupted on all.

    Returns:
        The result, or None for an interrupted validation: `state.validation_pending` then stays set, and the run that
        resumes from the next checkpoint begins with it.
    """
    distributed.begin_stage("starting a validation", slow=True)
    state.validation_pending = True
    try:
        with ExitStack() as borrowed:
            # Loaders and new networks draw random numbers.
            borrowed.enter_context(torch.random.fork_rng([engine.device] if torch.cuda.is_available() else []))
            borrowed.enter_context(without_cudnn_benchmark())
            borrowed.callback(zero_state.release_parameters, engine)
            borrowed.enter_context(averaged_over_ranks(all_running_statistics(engine, ema)))
            network, lockstep = engine.module, config.trainer.zero_stage == 3
            if ema:  # in a network of its own; the engine's weights stay where they are
                network, lockstep = (
                    build_model(config.model.name, source.manifest.num_classes, **config.model.options),
                    False,
                )
                apply_weights(network, ema.weights(everywhere=True), "the EMA")
                network.to(engine.device)
            mean, std = config.data.mean, config.data.std
            result = evaluate(network, source, config.evaluation, mean, std, lockstep, should_stop, config.report.bands)
    except EvaluationInterrupted:
        return None
    state.validation_pending = False
    mean_iou, conditions = result.protocol_scores.scores.mean_iou, conditions_of(config, source.manifest)
    state.best = comparable(state.best, conditions)
    if state.best is None or mean_iou > state.best.mean_iou:
        state.best = Best(step=state.step, mean_iou=mean_iou, conditions=conditions)
    if config.trainer.early_stopping_patience:
        metric = config.trainer.early_stopping_metric
        value = result.summary()[f"{result.split}/{metric}"]
        state.early_stopping = after_validation(state.early_stopping, metric, value)
    return result
