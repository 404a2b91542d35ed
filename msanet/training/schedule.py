"""Where a training stands, and what is due after which step: data and pure functions."""

from dataclasses import dataclass

from msanet.training.checkpoint.format import Best


@dataclass
class TrainState:
    """What changes as a run goes on.

    Args:
        step: Optimizer steps done.
        consumed_samples: Samples that these steps took from the shuffle order; prefetched ones do not count.
        best: The best validation so far.
        validation_pending: The validation after `step` was interrupted, and comes first when the run resumes.
    """

    step: int = 0
    consumed_samples: int = 0
    best: Best | None = None
    validation_pending: bool = False


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
        return is_best or self.is_due(state.step, self.checkpoint_every_steps)

    def is_done(self, state: TrainState) -> bool:
        """Whether nothing remains, neither steps nor the last validation."""
        return state.step >= self.total_steps and not state.validation_pending
