"""The story of a run: from shards to checkpoints, metrics and a report."""

import logging
from functools import partial

from msanet import distributed
from msanet.config import Config
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.distributed.preemption import PreemptionHandler, StopRequest
from msanet.logs import ProgressBar
from msanet.models import build_model
from msanet.training.memory.auto_batch_size import choose_batch_plan
from msanet.training.nonfinite.unlabeled import require_labels
from msanet.training.pretrained import load_pretrained
from msanet.training.resume import log_done, with_initial_weights
from msanet.training.run_folder import RunFolder
from msanet.training.run_lock import locked_run
from msanet.training.trainer import Trainer
from msanet.training.validation import validate

logger = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Train, or resume, the run that `config` describes; every rank of a session runs this.

    Raises:
        Preempted: After a checkpoint, if the run was asked to stop; a command then ends with exit code 75.
    """
    assert config.run.dir is not None, "checked with the command line"
    preemption = PreemptionHandler(config.run.preemption_grace_seconds, config.trainer.checkpoint_every_minutes)
    with locked_run(config.run.dir):
        _train(config, preemption)


def _train(config: Config, preemption: PreemptionHandler) -> None:
    shards = open_storage(config.data.path or "", config.storage)
    manifest = distributed.on_main(partial(read_manifest, shards))  # the same on all hosts
    require_labels(config.loss, config.data.train_split, manifest.split(config.data.train_split).histogram)
    validation = ShardSource(shards, config.data.val_split, manifest)

    distributed.manual_seed(config.run.seed)  # the same initial weights on every rank
    model = build_model(config.model.name, manifest.num_classes, **config.model.options)
    saved = RunFolder(config, manifest).find_checkpoint()
    config = with_initial_weights(config, saved)
    run = RunFolder(config, manifest)
    if saved is None:
        load_pretrained(model, config, manifest.classes)
    trainer = Trainer(config, manifest, model, choose_batch_plan(config, manifest, saved), saved)
    state, schedule = trainer.state, trainer.schedule
    done = partial(log_done, run.path, total_steps=schedule.total_steps)
    if schedule.is_done(state):
        return done(state.step, best=state.best, was_done=True)
    run.begin(state.step)
    logger.info(
        f"train: from step {state.step} to {schedule.total_steps}, {trainer.batches.global_batch_size} images a step"
    )

    def finish_step() -> None:
        """Log, validate and save what is due; stop if the run was preempted."""
        if schedule.should_log(state) and trainer.throughput.steps:
            run.log(trainer.position, trainer.metrics())
        if schedule.should_validate(state):
            run.log_evaluation(trainer.position, validate(trainer, validation, preemption.stop_requested))
        request = preemption.poll()
        if request or schedule.should_save(state):
            run.save(trainer.checkpoint())
        if request is StopRequest.STOP and not schedule.is_done(state):
            raise distributed.Preempted

    bar = ProgressBar(schedule.total_steps, "train", "step", state.step, disable=not distributed.is_main())
    with preemption, run, bar:
        if state.validation_pending:  # interrupted before the run was preempted
            finish_step()
        for micro_batches in trainer.global_batches():
            run.record(state.step + 1, micro_batches)
            trainer.train_step(micro_batches)
            bar.update()
            finish_step()
    run.require_saved()
    done(state.step, best=state.best, was_done=False)
