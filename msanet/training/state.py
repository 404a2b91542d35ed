"""Where a training stands: data only, captured by a checkpoint and restored from it."""

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
