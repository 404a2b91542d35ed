"""A callback of one's own: code that a run calls on every rank.

    TARGET_MEAN_IOU=0.6 msanet train data.path=SHARDS run.dir=RUN run.callbacks=[examples/own_callback.py:TargetReached]

Derive from Callback and define the methods that you need. An exception ends the run with a sentence that names the callback. As a
logger (run.loggers) the same class is called on rank 0 only, and an exception is no more than a warning.
"""

import os
from pathlib import Path
from typing import Any

from msanet.training.callbacks import Callback


class TargetReached(Callback):
    """Writes RUN/target.txt when a validation first reaches a mean IoU: what a benchmark of time to accuracy needs."""

    def on_train_start(self, trainer: Any) -> None:
        self.file = Path(trainer.config.run.dir) / "target.txt"
        self.target = float(os.environ.get("TARGET_MEAN_IOU", "0.7"))
        self.is_writer = os.environ.get("RANK", "0") == "0"

    def on_validation_end(self, step: int, metrics: dict[str, float]) -> None:
        if self.is_writer and metrics["val/mean_iou"] >= self.target and not self.file.exists():
            self.file.write_text(f"step {step}: {metrics['val/mean_iou']:.4f}\n")
