"""What a resumed run keeps of its first start, and what it says where nothing remains to be done."""

import logging
from pathlib import Path

from msanet.config import Config
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.schedule import TrainSchedule, TrainState

logger = logging.getLogger(__name__)

RANDOM = "random"
"""`RunState.initial_weights` of a run that started without model.pretrained."""


def initial_weights(config: Config) -> str:
    """What a new run starts from, for its checkpoints."""
    return str(config.model.pretrained or RANDOM)


def with_initial_weights(config: Config, saved: Checkpoint | None) -> Config:
    """The settings with the `model.pretrained` that the run has started from: another one has no effect on a resume."""
    started_from = saved.state.initial_weights if saved else ""
    given = initial_weights(config)
    if started_from in ("", given):
        return config
    was = "random weights" if started_from == RANDOM else f"'{started_from}'"
    level = logging.INFO if given == RANDOM else logging.WARNING
    logger.log(
        level,
        f"model.pretrained={'null' if given == RANDOM else given} has no effect: the run resumes from its checkpoint, and was "
        f"started from {was}; to start from other weights, choose another run.dir",
    )
    pretrained = None if started_from == RANDOM else Path(started_from)
    return config.model_copy(update={"model": config.model.model_copy(update={"pretrained": pretrained})})


def log_done(folder: Path, state: TrainState, schedule: TrainSchedule, was_done: bool) -> None:
    """The last line of a training; was_done: nothing remained to be done."""
    step, total, best = state.step, schedule.total_steps, state.best
    score = f"; the best validation has mean IoU {best.mean_iou:.4f}, at step {best.step}" if best else ""
    early, setting = state.early_stopping if schedule.stops_early(state) else None, "trainer.epochs or trainer.steps"
    if early:
        score = f", ended early after {early.validations_since} validations without a better {early.metric}{score}"
        setting = "trainer.early_stopping_patience"
    if not was_done:
        logger.info(f"done: {step} of {total} steps{score}; the run is in '{folder}'")
        return
    more = f" and now has {total}" if total < step else ""
    logger.info(
        f"the run in '{folder}' is done: it has taken {step} steps{more}, nothing remains{score}; to train on, raise {setting}"
    )
