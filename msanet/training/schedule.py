"""Where a training stands, and what is due after which step: data and pure functions."""

import math
from dataclasses import dataclass

from msanet.training.checkpoint.format import Best, EarlyStopping


@dataclass
class TrainState:
    """What changes as a run goes on.

    Args:
        step: Optimizer steps done.
        consumed_samples: Samples that these steps took from the shuffle order; prefetched ones do not count.
        best: The best validation so far.
        validation_pending: The validation after `step` was interrupted, and comes first when the run resumes.
        early_stopping: Of the validations so far, where trainer.early_stopping_patience is set.
    """

    step: int = 0
    consumed_samples: int = 0
    best: Best | None = None
    validation_pending: bool = False
    early_stopping: EarlyStopping | None = None


@dataclass(frozen=True)
class TrainSchedule:
    """When a run logs, validates, saves and ends; the settings of the same names, where 0 means only at the end.

    Args:
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: A fraction if a batch crosses the end of the training split.
        has_validation: There is a split to validate on.
    """

    total_steps: int
    steps_per_epoch: float
    log_every_steps: int
    checkpoint_every_steps: int
    val_every_epochs: float
    keep_best: bool
    has_validation: bool = True
    early_stopping_patience: int = 0

    def is_due(self, step: int, interval: float) -> bool:
        """Whether something that happens every `interval` steps is due after `step`: always after the last one."""
        return step == self.total_steps or (interval > 0 and step // interval > (step - 1) // interval)

    def should_log(self, state: TrainState) -> bool:
        """Whether the metrics of the steps since the last log are due."""
        return self.is_due(state.step, self.log_every_steps)

    def should_validate(self, state: TrainState) -> bool:
        """Whether a validation is due after this step, or is pending."""
        is_due = state.validation_pending or self.is_due(state.step, self.val_every_epochs * self.steps_per_epoch)
        return self.has_validation and is_due

    def should_save(self, state: TrainState) -> bool:
        """Whether a checkpoint is due after this step: by the number of steps, or as the best so far."""
        is_best = self.keep_best and state.best is not None and state.best.step == state.step
        return is_best or self.stops_early(state) or self.is_due(state.step, self.checkpoint_every_steps)

    def stops_early(self, state: TrainState) -> bool:
        """Whether too many validations have passed without a better metric."""
        since = state.early_stopping.validations_since if state.early_stopping else 0
        return 0 < self.early_stopping_patience <= since

    def is_done(self, state: TrainState) -> bool:
        """Whether nothing remains, neither steps nor the last validation."""
        return (state.step >= self.total_steps or self.stops_early(state)) and not state.validation_pending


def after_validation(before: EarlyStopping | None, metric: str, value: float) -> EarlyStopping:
    """Where early stopping stands after a validation. It begins again if it watched another metric; NaN is no improvement."""
    if before is None or before.metric != metric:
        before = EarlyStopping(metric=metric)
    if value > (-math.inf if before.best is None else before.best):
        return EarlyStopping(metric=metric, best=value)
    return before.model_copy(update={"validations_since": before.validations_since + 1})
