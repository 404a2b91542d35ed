"""The run folder: what training writes, with the file names of msanet.run_layout."""

import logging
import math
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msanet import distributed, logs
from msanet.config import Config
from msanet.data.manifest import Manifest
from msanet.data.pipeline import Batch
from msanet.distributed.heartbeat import CHECKPOINT_THREAD
from msanet.errors import UserError
from msanet.evaluation.measurement import measured
from msanet.evaluation.result import EvaluationResult, write_evaluation
from msanet.evaluation.run_report import command_line, without_secrets, write_run_report
from msanet.files import write_text
from msanet.logs import EVERY_RANK
from msanet.run_layout import LOG_PATTERNS, RunLayout
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.io import (
    checkpoint_folders,
    checkpoint_path,
    latest_valid,
    read_checkpoint,
    write_checkpoint,
)
from msanet.training.monitoring.jsonl import JsonlLogger, append, cut_after
from msanet.training.monitoring.tensorboard import TensorBoardLogger

logger = logging.getLogger(__name__)

_OLD_ONE_STAYS = "the last one written stays"


class RunFolder:
    """Writes what a run leaves. Every rank has one; only rank 0's writes, except for `record`.

    A full disk does not end a run: a warning says what is missing, and what is there is complete.
    """

    def __init__(self, config: Config, manifest: Manifest) -> None:
        assert config.run.dir is not None, "checked with the command line"
        self.path, self._layout = config.run.dir, RunLayout(config.run.dir)
        self.checkpoints = self._layout.checkpoints
        self._config, self._manifest = config, manifest
        self._writer = JsonlLogger()
        self._tensorboard: TensorBoardLogger | None = None
        self._saving: threading.Thread | None = None
        self._save_failure: Exception | None = None
        self._unsaved: str | None = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Wait until all is on the disk."""
        if isinstance(error, Exception) and not isinstance(error, distributed.Preempted):
            logs.record_error(error)  # the console may be gone
        self._wait_for_save()
        logs.remove_rank_files()

    def find_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to resume from, or None for a new run. Raises UserError if `run.resume` forbids it. A collective."""
        chosen = distributed.on_main(self._choose_checkpoint)
        if chosen is None:
            return None
        logger.info(f"resuming from {chosen}")
        return read_checkpoint(chosen)

    def begin(self, step: int) -> None:
        """Write config.yaml, and remove what was logged after `step`, since it will be done again. A collective."""
        distributed.on_main(lambda: self._prepare(step))
        logs.add_rank_file(self._layout.log(distributed.rank()))
        if distributed.local_rank() == 0:  # also on the hosts that do not share rank 0's disk
            self.path.mkdir(parents=True, exist_ok=True)
            for pattern in LOG_PATTERNS:  # files of others may lie there too
                for file in self.path.glob(pattern):
                    cut_after(file, step)
        distributed.barrier()

    def record(self, step: int, micro_batches: Sequence[Batch]) -> None:
        """Log bad samples that were skipped; with run.record_samples also which were taken, the proof of exactly once.

        Of ranks that take the same images only the first does.
        """
        if distributed.rank() % self._config.trainer.context_parallel_size:
            return
        rank = distributed.rank()
        for fault in (fault for batch in micro_batches for fault in batch.bad_samples):
            logger.warning(f"step {step}: bad sample skipped: {fault}", extra=EVERY_RANK)
            self._writer.add_line(self._layout.bad_samples(rank), {"step": step, "fault": fault})
        if not self._config.run.record_samples:
            return
        epochs = [epoch for batch in micro_batches for epoch in batch.epochs_N.tolist()]
        samples = [sample for batch in micro_batches for sample in batch.samples_N.tolist()]
        line = {"step": step, "epochs": epochs, "samples": samples}
        self._writer.add_line(self._layout.samples(rank), line, "the proof that each sample is taken once has a gap")

    def log(self, position: dict[str, float], values: dict[str, float]) -> None:
        """A line of metrics.jsonl, and the same to TensorBoard. Values that are not finite become null."""
        if not distributed.is_main():
            return
        line = {**position, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
        self._writer.add_line(self._layout.metrics, line)
        if self._tensorboard is not None:
            tags = {name if "/" in name else f"train/{name}": value for name, value in values.items()}
            self._writer.write(self._layout.tensorboard, partial(self._tensorboard.add, int(position["step"]), tags))

    def log_evaluation(self, position: dict[str, float], evaluation: EvaluationResult | None) -> None:
        """A line of metrics, evaluation-<split>.json and a new report; nothing for an interrupted evaluation. A collective."""
        if evaluation is not None and distributed.is_main():
            distributed.report_progress("writing the report", slow=True)
            self.log(position, evaluation.summary())
            scores, report = self._layout.evaluation(evaluation.split), self._layout.report
            write_report = partial(write_run_report, self.path, self._manifest.palette, evaluation)
            origin = measured(self._config.evaluation, int(position["step"]))
            self._writer.write(scores, partial(write_evaluation, self.path, evaluation, origin), _OLD_ONE_STAYS)
            self._writer.write(report, write_report, _OLD_ONE_STAYS)
        distributed.barrier()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint while training continues, after the one before. A collective.

        If it cannot be written, such as to a full disk, a warning says so, and the run continues.
        """
        if distributed.is_main():
            self._wait_for_save()
            self._saving = threading.Thread(target=self._write_checkpoint, args=(checkpoint,), name=CHECKPOINT_THREAD)
            self._saving.start()
        distributed.barrier()

    def require_saved(self) -> None:
        """At the end of a run: raise UserError where its last checkpoint could not be written. A collective."""
        distributed.on_main(self._require_saved)

    def _require_saved(self) -> None:
        self._wait_for_save()
        if self._unsaved is None:
            return
        found = checkpoint_folders(self.checkpoints)
        left = (
            f"the newest complete one is {found[0].name}" if found else "there is none, so the trained weights are lost"
        )
        raise UserError(
            "MSA-CKPT-401",
            f"the last checkpoint could not be written to '{self.checkpoints}' ({self._unsaved}), and {left}; free some space, "
            "then run the same command again",
            setting="run.dir",
        )

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of this step is, once it is complete."""
        return checkpoint_path(self.checkpoints, step)

    def _wait_for_save(self) -> None:
        if self._saving:
            distributed.report_progress("writing a checkpoint", slow=True)
            self._saving.join()
            if self._save_failure:
                raise self._save_failure

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        try:
            write_checkpoint(self.checkpoints, checkpoint, self._config.trainer.keep_checkpoints)
            self._unsaved = None
        except OSError as error:
            self._unsaved = str(error)
            logger.warning(
                f"the checkpoint of step {checkpoint.state.step} could not be written ({error}); those before it are "
                "complete and the run continues; free some space on this disk"
            )
        except Exception as error:  # a bug of ours, which ends the run at the next save
            self._save_failure = error

    def _prepare(self, step: int) -> None:
        if "tensorboard" in self._config.run.loggers:
            self._tensorboard = TensorBoardLogger(self._layout.tensorboard, first_step=step + 1)
        self.path.mkdir(parents=True, exist_ok=True)
        config, command = self._layout.config, self._layout.command
        write_config = partial(write_text, config, self._config.to_yaml())
        if step:
            self._writer.write(config, write_config, _OLD_ONE_STAYS)
        else:  # a new run does not begin on a full disk
            write_config()
        self._writer.write(command, partial(append, command, f"{without_secrets(command_line())}\n".encode()))

    def _choose_checkpoint(self) -> Path | None:
        found, resume = checkpoint_folders(self.checkpoints), self._config.run.resume
        if resume == "never":
            if found:
                raise UserError(
                    "MSA-CKPT-007",
                    f"'{self.path}' already holds a run ({found[0].name}), and run.resume is never; choose another run.dir",
                    setting="run.dir",
                )
            return None
        latest = latest_valid(self.checkpoints)
        if latest is None and (found or resume == "must"):
            raise UserError(
                "MSA-CKPT-008",
                f"'{self.checkpoints}' has "
                + (f"{len(found)} checkpoints, all damaged or incomplete" if found else "no checkpoint")
                + ", expected one to resume from; choose another run.dir, or "
                + ("remove them to start again" if found else "set run.resume=auto"),
                setting="run.dir",
            )
        return latest
