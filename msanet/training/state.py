"""Where a training stands: data only, captured by a checkpoint and restored from it."""

from dataclasses import dataclass

from msanet.training.checkpoint.format import Best


@dataclass
class TrainState:
    """What changes as a run goes on.

    Args:
        step: Optimizer steps done.
        consumed_samples: Samples taken from the shuffle order. Moves only after the optimizer has stepped, so that what was
            prefetched but not used is read again after a resume.
        best: The best validation so far.
        validation_pending: The validation after `step` was interrupted, and comes first when the run resumes.
    """

    step: int = 0
    consumed_samples: int = 0
    best: Best | None = None
    validation_pending: bool = False
