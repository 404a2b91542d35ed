"""One optimizer step over the global batch, the same for any number of ranks."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from msanet import distributed
from msanet.config import Config
from msanet.data.loader import BatchPlan, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import Manifest
from msanet.data.pipeline import Batch
from msanet.errors import UserError
from msanet.evaluation.cost import peak_memory
from msanet.losses import SegmentationLoss
from msanet.models.io import apply_weights
from msanet.models.network import SegmentationNetwork
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.checkpointer import Checkpointer, model_metadata, rng_state
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.resume_checks import check_resume_compatible
from msanet.training.engine.device_prefetcher import DevicePrefetcher
from msanet.training.engine.device_settings import log_attention_kernels
from msanet.training.engine.ema import EMA
from msanet.training.engine.initialize import start_engine
from msanet.training.engine.loss_scaling import LossScaler
from msanet.training.engine.optimizer import learning_rate, optimizer_label, total_steps
from msanet.training.forward import micro_batch_loss
from msanet.training.monitoring.profiler import Profiler
from msanet.training.monitoring.throughput import ThroughputMeter
from msanet.training.nonfinite.anomalies import AnomalyMonitor, StepRecord
from msanet.training.nonfinite.failure_dump import dump_and_raise
from msanet.training.nonfinite.guard import NonFiniteGuard
from msanet.training.schedule import TrainSchedule, TrainState

logger = logging.getLogger(__name__)


class Trainer:
    """A network in its engine, DeepSpeed's or DistributedDataParallel, and its training step.

    Args:
        config: Settings of the run.
        manifest: What the data consist of.
        model: The network, with the weights that a new run starts from.
        batches: Batch sizes on these ranks.
        saved: The checkpoint to resume from, if any; its weights replace the model's.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        model: SegmentationNetwork,
        batches: BatchPlan,
        saved: Checkpoint | None,
    ) -> None:
        self.config, self.manifest, self.batches = config, manifest, batches
        shuffle = shuffle_config(config)
        self.order = shuffle_order(manifest, config.data.train_split, shuffle)
        if saved:  # the engine copies the weights when it is built
            metadata = model_metadata(config, manifest, saved.state.step)
            check_resume_compatible(
                saved,
                shuffle,
                metadata,
                optimizer_label(config.optimizer),
                config.run.allow_changes,
                config.model.freeze,
            )
            apply_weights(model, saved.weights, "the checkpoint in run.dir")
        self.engine = start_engine(config, model, batches)
        decay = config.trainer.ema_decay
        self.ema = EMA(self.engine, decay, saved.ema if saved else None) if decay else None
        self.scaler = None
        if config.trainer.precision == "fp16":
            self.scaler = LossScaler(self.engine.device, saved.state.loss_scale if saved else None)
        self.checkpointer = Checkpointer(config, manifest, shuffle, batches, self.engine, self.ema, self.scaler)
        self.state = self.checkpointer.restore(saved) if saved else TrainState()
        if config.data.val_split is None:  # it was switched off while an interrupted validation was pending
            self.state.validation_pending = False
        self.schedule = _schedule(config, self.order.epoch_length, batches, self.state)
        has_steps_left = self.schedule.total_steps > self.state.step  # otherwise `log_done` reports it
        if saved and has_steps_left and saved.state.total_steps != self.schedule.total_steps:
            logger.warning(
                f"the run was started for {saved.state.total_steps} steps and now has {self.schedule.total_steps}; from step "
                f"{self.state.step} on the learning rate follows the new number"
            )
        self._resumed_at, self.bad_samples = self.state.consumed_samples, 0
        histogram, device = manifest.split(config.data.train_split).histogram, self.engine.device
        self.loss = SegmentationLoss(config.loss, histogram).to(device)
        self.guard = NonFiniteGuard(self.engine, config.trainer.max_nonfinite_steps)
        self.anomalies = AnomalyMonitor(config, manifest, self.order, batches)
        self.prefetcher, self.throughput = DevicePrefetcher(device), ThroughputMeter(config)
        folder = RunLayout(config.run.dir).profile if config.run.dir and config.run.profile else None
        self.profiler = Profiler(device, folder, self.schedule.total_steps - self.state.step)

    @property
    def position(self) -> dict[str, float]:
        """Where the run stands, for every line of metrics.jsonl."""
        epoch = round(self.state.consumed_samples / self.order.epoch_length, 6)
        return {"step": self.state.step, "epoch": epoch, "samples": self.state.consumed_samples}

    def global_batches(self) -> Iterator[list[Batch]]:
        """The global batches of the remaining steps, each as a list of this rank's micro-batches."""
        source, rank = train_source(self.config, self.manifest), distributed.rank()
        loader = train_loader(self.config, self.order, source, self.batches, rank, self.state.consumed_samples)
        for _ in range(self.schedule.total_steps - self.state.step):
            self.throughput.start_wait()
            self.profiler.begin()
            self._begin_stage("waiting for the data of")
            with self.profiler.part("waiting for data"):
                micro_batches = next(loader)
            self.throughput.end_wait()
            with self.profiler.part("copying to the device"):
                self.prefetcher.send(micro_batches)
            yield micro_batches

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """Forward, backward and update with one global batch.

        Each term of the loss is a sum over the micro-batch divided by that term's count (of pixels or images) in the *global*
        batch, so that gradients have to be summed. DeepSpeed averages them over ranks and micro-batches; `factor` undoes that.
        """
        self._begin_stage("at the start of")
        part, rng = self.profiler.part, rng_state()
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.state.step) * group["lr_factor"]
        with part("copying to the device"):
            batches = self.prefetcher.take(micro_batches)
        with part("counting labels"):
            counts_3 = self._count_labels(batches)
        factor = self.batches.groups * self.batches.accumulation  # groups of ranks with the same images
        with part("non-finite guard"):
            self.guard.begin()
        for batch in batches:
            self._begin_stage("in the forward pass of")
            with part("forward"):
                weights = self.engine.module.auxiliary_weights
                loss = micro_batch_loss(self.engine, weights, self.loss, batch, counts_3, self.config.data)
                self.guard.add(loss)
            self._begin_stage("in the backward pass of")
            with part("backward"):
                self.engine.backward(loss * factor * (self.scaler.scale if self.scaler else 1))
            if self.engine.is_gradient_accumulation_boundary():
                with part("non-finite guard"):
                    if self.scaler:
                        self.scaler.unscale(self.engine)
                    self.guard.decide()
            with part("optimizer"):
                self.engine.step()
        with part("non-finite guard"):
            stats = self.guard.end()
            if self.scaler:
                self.scaler.update(self.guard.skipped)
        self.state.step += 1
        if self.ema:
            self.ema.update(self.state.step, self.guard.skipped)
        record = StepRecord(self.state.step, self.state.consumed_samples, stats, micro_batches, counts_3, rng)
        self.anomalies.add(record)
        self.state.consumed_samples += self.batches.global_batch_size
        with part("sync: loss of the previous step"):  # this one's is read a step later, so that the GPU never idles
            self.read_stats(pending=1)
        self.profiler.end()
        self.throughput.end_step()

    def metrics(self) -> dict[str, float]:
        """Of the steps since the last call: mean loss per labeled pixel, learning rate, throughput of all ranks. A collective.

        `peak_memory_gb`: the most memory that a rank has held so far, of its GPU or else of its process.
        """
        throughput = self.throughput.metrics(self.read_stats)
        log_attention_kernels()
        metrics = {
            "loss": self.anomalies.mean_loss(),
            "lr": self._learning_rate(self.state.step - 1),
            **throughput,
            "peak_memory_gb": distributed.all_reduce_max(peak_memory(self.engine.device)) / 1e9,
        }
        if self.scaler:
            metrics["loss_scale"] = self.scaler.state().scale
        if self.anomalies.skipped:
            metrics["nonfinite_steps"] = self.anomalies.skipped
        return {**metrics, "bad_samples": self.bad_samples} if self.config.data.on_bad_sample == "skip" else metrics

    def checkpoint(self) -> Checkpoint:
        """All that a resume needs, see `Checkpointer.capture`. A collective."""
        self.read_stats()
        return self.checkpointer.capture(self.state, self.schedule.total_steps)

    def read_stats(self, pending: int = 0) -> None:
        """Read the statistics of all but the last `pending` steps. Raises UserError, on all ranks, if too many were skipped."""
        last = self.anomalies.drain(pending)
        if last:
            metadata = model_metadata(self.config, self.manifest, self.state.step)
            dump_and_raise(*last, self.anomalies, self.engine, metadata)

    def _begin_stage(self, activity: str) -> None:
        """Report progress to the stall detector. Slow: the first step, or any that may compile or choose kernels again."""
        is_first = self.state.consumed_samples == self._resumed_at
        is_slow = is_first or (self.config.trainer.compile and not self.config.data.fixed_size)
        distributed.begin_stage(f"{activity} step {self.state.step + 1}", is_slow)

    def _count_labels(self, batches: Sequence[Batch]) -> Tensor:
        """What the loss's terms are divided by, (3,): pixels, images and labeled pixels of the global batch.

        Raises UserError if too many samples were bad.
        """
        data = self.config.data
        counts_3 = torch.stack([self.loss.counts(batch.labels_NHW) for batch in batches]).sum(dim=0)
        bad = counts_3.new_full((1,), sum(len(batch.bad_samples) for batch in batches))
        sums = torch.cat([counts_3, bad]) * self.batches.is_first(distributed.rank())  # each image once
        distributed.all_reduce_sum(sums)
        if data.on_bad_sample == "skip":  # int() waits for the GPU
            self.bad_samples += int(sums[-1])
            reference = max(self.state.consumed_samples - self._resumed_at, self.order.epoch_length)
            if self.bad_samples > data.max_bad_fraction * reference:
                raise UserError(
                    "MSA-TRAIN-001",
                    f"{self.bad_samples} bad samples were skipped since this start, expected at most "
                    f"data.max_bad_fraction={data.max_bad_fraction} of {reference} (an epoch, or what was read since, if more); "
                    "they are listed in run.dir/bad-samples-*.jsonl: repair the shards",
                    setting="data.max_bad_fraction",
                )
        return sums[:-1]

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.schedule.total_steps, self.config.optimizer.lr, self.config.schedule)


def _schedule(config: Config, epoch_length: int, batches: BatchPlan, state: TrainState) -> TrainSchedule:
    trainer, steps = config.trainer, total_steps(config, epoch_length)
    if trainer.steps is None:  # the same number of epochs, even if the global batch had another size before
        steps += state.step - state.consumed_samples // batches.global_batch_size
    return TrainSchedule(
        total_steps=steps,
        steps_per_epoch=epoch_length / batches.global_batch_size,
        log_every_steps=trainer.log_every_steps,
        checkpoint_every_steps=trainer.checkpoint_every_steps,
        val_every_epochs=trainer.val_every_epochs,
        keep_best=trainer.keep_best and config.data.val_split is not None,
        has_validation=config.data.val_split is not None,
        early_stopping_patience=trainer.early_stopping_patience,
    )
