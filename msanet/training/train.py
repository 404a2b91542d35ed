"""The training loop of a run: from shards to checkpoints, metrics and a report."""

import logging
from functools import partial

import torch

from msanet import distributed
from msanet.config import Config
from msanet.data.manifest import Manifest
from msanet.data.open_dataset import open_dataset
from msanet.data.sample_source import SampleSource
from msanet.data.shared_memory import require_shared_memory
from msanet.data.transforms import open_transforms
from msanet.distributed.preemption import PreemptionHandler, StopRequest
from msanet.logs import ProgressBar
from msanet.models.network import SegmentationNetwork
from msanet.plugins import trust
from msanet.training.callbacks import Callbacks
from msanet.training.memory.auto_batch_size import choose_batch_plan
from msanet.training.memory.out_of_memory import out_of_memory_as_user_error
from msanet.training.monitoring.console import metrics_text
from msanet.training.network import build_network, load_initial_weights, with_normalization
from msanet.training.nonfinite.unlabeled import require_weighted_labels
from msanet.training.resume import log_done, with_initial_weights
from msanet.training.run_folder import RunFolder
from msanet.training.run_lock import locked_run
from msanet.training.trainer import Trainer
from msanet.training.validation import log_validation, validate, validation_source

logger = logging.getLogger(__name__)


def train(config: Config) -> None:
    """Train, or resume, the run that `config` describes; every rank of a session runs this.

    Raises:
        Preempted: After a checkpoint, if the run was asked to stop; a command then ends with exit code 75.
    """
    callbacks = Callbacks(config.run.callbacks, config.run.loggers)
    preemption = PreemptionHandler(config.run.preemption_grace_seconds, config.trainer.checkpoint_every_minutes)
    if config.data.dataset is not None:
        trust(config.data.dataset)  # the user's own settings name it
    open_transforms(config.data.transforms)  # an error now, before anything is written
    dataset = open_dataset(config.data, config.storage)
    manifest = distributed.on_main(partial(dataset.read_manifest, count_labels=True))  # rank 0 reads it for all hosts
    manifest.require_labels(config.data.train_split)
    config = with_normalization(config, manifest)
    require_weighted_labels(config.loss, config.data.train_split, manifest.split(config.data.train_split).histogram)
    val_split = validation_source(config, dataset, manifest)

    torch.manual_seed(config.run.seed)  # the same initial weights on every rank
    with out_of_memory_as_user_error(config):
        model = build_network(config, manifest.num_classes, manifest.image_format.channels)
        assert config.run.dir is not None, "checked with the command line"
        with locked_run(config.run.dir):
            run, trainer = _start(config, manifest, model)
            _train(run, trainer, val_split, preemption, callbacks)


def _start(config: Config, manifest: Manifest, model: SegmentationNetwork) -> tuple[RunFolder, Trainer]:
    """The run's folder, and the trainer at the step of its latest checkpoint, if there is one."""
    saved = RunFolder(config, manifest).find_checkpoint()
    config = with_initial_weights(config, saved)
    if saved is None:
        distributed.report_progress("reading the initial weights", slow=True)
        report = load_initial_weights(config, model, manifest.classes)
        if report:
            logger.info(report.text(config.data.mean, config.data.std))
    batches = choose_batch_plan(config, manifest, saved)
    micro, image = batches.micro_batch_size, manifest.image_format
    require_shared_memory(config.data, micro, batches.accumulation, image, manifest.num_classes)
    return RunFolder(config, manifest), Trainer(config, manifest, model, batches, saved)


def _train(
    run: RunFolder,
    trainer: Trainer,
    val_split: SampleSource | None,
    preemption: PreemptionHandler,
    callbacks: Callbacks,
) -> None:
    """Steps, and after each what is due: metrics, a validation, a checkpoint."""
    config, state, schedule, global_batches = trainer.config, trainer.state, trainer.schedule, trainer.global_batches()
    if schedule.is_done(state):
        return log_done(run.path, state, schedule, was_done=True)
    run.begin(state.step)
    images = trainer.batches.global_batch_size
    logger.info(f"train: from step {state.step} to {schedule.total_steps}, {images} images a step")

    bar = ProgressBar(schedule.total_steps, "train", "step", state.step, disable=not distributed.is_main())
    with preemption, run, callbacks.attached(trainer), bar:
        while not schedule.is_done(state):
            if not state.validation_pending:  # a validation that a preemption interrupted comes first
                micro_batches = next(global_batches)
                run.record(state.step + 1, micro_batches)
                trainer.train_step(micro_batches)
                bar.update()
                callbacks.call("on_step_end", state.step)
            if schedule.should_log(state) and trainer.throughput.steps:
                metrics = trainer.metrics()
                run.log(trainer.position, metrics)
                callbacks.call("on_log", state.step, metrics)
                bar.report(metrics_text(metrics))
            if val_split and schedule.should_validate(state):
                stop = preemption.stop_requested
                result = validate(trainer.engine, trainer.ema, state, val_split, config, stop)
                run.log_evaluation(trainer.position, result)
                log_validation(result, state)
                if result is not None:
                    callbacks.call("on_validation_end", state.step, result.summary())
            request = preemption.poll()
            if request or schedule.should_save(state):
                run.save(trainer.checkpoint())
                callbacks.call("on_checkpoint", state.step, run.checkpoint_folder(state.step))
            if request is StopRequest.STOP and not schedule.is_done(state):
                raise preemption.stopped()
    run.require_saved()
    log_done(run.path, state, schedule, was_done=False)
