"""A validation during training: borrows the network's weights, or their EMA, and leaves no trace in the training."""

from collections.abc import Callable
from contextlib import ExitStack

import torch

from msanet import distributed
from msanet.data.shard_source import ShardSource
from msanet.evaluation.evaluator import EvaluationInterrupted, evaluate
from msanet.evaluation.result import EvaluationResult
from msanet.models.io import apply_weights
from msanet.training.best import comparable, conditions_of
from msanet.training.checkpoint.format import Best
from msanet.training.engine.batchnorm_statistics import averaged_over_ranks
from msanet.training.engine.device_settings import without_cudnn_benchmark
from msanet.training.trainer import Trainer


def validate(
    trainer: Trainer, source: ShardSource, should_stop: Callable[[], bool] | None = None
) -> EvaluationResult | None:
    """Evaluate the network as it is now, or its EMA where there is one, on a whole split. A collective.

    Args:
        trainer: Its state gets the best validation so far.
        source: The split.
        should_stop: Asked before each image. Where it says so on any rank, the validation is interrupted on all.

    Returns:
        The result, or None for an interrupted validation: `state.validation_pending` then stays set, and the run that
        resumes from the next checkpoint begins with it.
    """
    distributed.begin_stage("starting a validation", slow=True)
    state = trainer.state
    state.validation_pending = True
    try:
        with ExitStack() as borrowed:
            # Loaders and new networks draw random numbers.
            borrowed.enter_context(torch.random.fork_rng([trainer.device] if torch.cuda.is_available() else []))
            borrowed.enter_context(without_cudnn_benchmark())
            borrowed.enter_context(averaged_over_ranks(trainer.running_statistics))
            result = _evaluate(trainer, source, should_stop)
    except EvaluationInterrupted:
        return None
    state.validation_pending = False
    mean_iou, conditions = result.protocol_scores.scores.mean_iou, conditions_of(trainer.config, source.manifest)
    state.best = comparable(state.best, conditions)
    if mean_iou > (state.best.mean_iou if state.best else -1):
        state.best = Best(step=state.step, mean_iou=mean_iou, conditions=conditions)
    return result


def _evaluate(trainer: Trainer, source: ShardSource, should_stop: Callable[[], bool] | None) -> EvaluationResult:
    model, lockstep = trainer.engine.module, trainer.config.trainer.zero_stage == 3
    if trainer.ema:
        model, lockstep = trainer.metadata().build(), False  # a copy: the engine's own weights stay where they are
        apply_weights(model, trainer.ema.weights(everywhere=True), "the EMA")
        model = model.to(trainer.device)
    data = trainer.config.data
    return evaluate(model, source, trainer.config.evaluation, data.mean, data.std, lockstep, should_stop)
