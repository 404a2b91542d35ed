"""The story of a run: from shards to checkpoints, metrics and a report."""

import logging
from functools import partial

import torch

from msanet import distributed
from msanet.config import Config
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.distributed.preemption import PreemptionHandler, StopRequest
from msanet.logs import ProgressBar
from msanet.models.pretrained import initialize
from msanet.training.callbacks import Callbacks
from msanet.training.memory.auto_batch_size import choose_batch_plan
from msanet.training.network import build_network, with_own_normalization
from msanet.training.run_folder import RunFolder
from msanet.training.trainer import Trainer
from msanet.training.validation import validate

logger = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Train, or resume, the run that `config` describes; every rank of a session runs this.

    Raises:
        Preempted: After a checkpoint, if the run was asked to stop; a command then ends with exit code 75.
    """
    config = with_own_normalization(config)
    callbacks = Callbacks(config.run.callbacks, config.run.loggers)
    preemption = PreemptionHandler(config.run.preemption_grace_seconds, config.trainer.checkpoint_every_minutes)
    shards = open_storage(config.data.path or "", config.storage)
    manifest = distributed.on_main(partial(read_manifest, shards))  # rank 0 reads it for all hosts
    val_split = ShardSource(shards, config.data.val_split, manifest)

    torch.manual_seed(config.run.seed)  # the same initial weights on every rank
    model = build_network(config, manifest.num_classes)
    run = RunFolder(config, manifest)
    saved = run.find_checkpoint()
    if saved is None and config.model.pretrained is not None:
        report = initialize(model, config.model.pretrained, manifest.classes)
        logger.info(report.text(config.data.mean, config.data.std))
    trainer = Trainer(config, manifest, model, choose_batch_plan(config, manifest, saved), saved)
    state, schedule, global_batches = trainer.state, trainer.schedule, trainer.global_batches()
    run.begin(state.step)
    images = trainer.batches.global_batch_size
    logger.info(f"train: from step {state.step} to {schedule.total_steps}, {images} images a step")

    bar = ProgressBar(schedule.total_steps, "train", "step", state.step, disable=not distributed.is_main())
    with preemption, run, callbacks.attached(trainer), bar:
        while not schedule.is_done(state):
            if not state.validation_pending:  # one that was interrupted before the run was preempted comes first
                micro_batches = next(global_batches)
                run.record(state.step + 1, micro_batches)
                trainer.train_step(micro_batches)
                bar.update()
                callbacks.call("on_step_end", state.step)
            if schedule.should_log(state) and trainer.throughput.steps:
                metrics = trainer.metrics()
                run.log(trainer.position, metrics)
                callbacks.call("on_log", state.step, metrics)
            if schedule.should_validate(state):
                stop = preemption.stop_requested
                result = validate(trainer.engine, trainer.ema, state, val_split, config, stop)
                run.log_evaluation(trainer.position, result)
                if result is not None:
                    callbacks.call("on_validation_end", state.step, result.summary())
            request = preemption.poll()
            if request or schedule.should_save(state):
                run.save(trainer.checkpoint())
                callbacks.call("on_checkpoint", state.step, run.checkpoint_folder(state.step))
            if request is StopRequest.STOP and not schedule.is_done(state):
                raise distributed.Preempted
    if schedule.stops_early(state) and state.early_stopping:
        since, metric = state.early_stopping.validations_since, state.early_stopping.metric
        logger.info(f"train: ends early at step {state.step}: no better {metric} in {since} validations")
