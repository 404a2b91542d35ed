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
from msanet.models.io import ModelMetadata, apply_weights
from msanet.models.network import SegmentationNetwork
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.checkpointer import Checkpointer, all_running_statistics
from msanet.training.checkpoint.format import Checkpoint
from msanet.training.checkpoint.metadata import model_metadata
from msanet.training.checkpoint.resume_checks import check_resume_compatible
from msanet.training.checkpoint.rng import rng_state
from msanet.training.engine.device_prefetcher import DevicePrefetcher
from msanet.training.engine.device_settings import log_attention_kernels
from msanet.training.engine.ema import EMA
from msanet.training.engine.initialize import start_engine
from msanet.training.engine.optimizer import learning_rate, total_steps
from msanet.training.forward import micro_batch_loss
from msanet.training.monitoring.profiler import Profiler
from msanet.training.monitoring.throughput import ThroughputMeter
from msanet.training.nonfinite.anomalies import AnomalyMonitor, StepRecord
from msanet.training.nonfinite.failure_dump import dump_and_raise
from msanet.training.nonfinite.guard import NonFiniteGuard
from msanet.training.schedule import TrainSchedule
from msanet.training.state import TrainState

logger = logging.getLogger(__name__)


class Trainer:
    """A network in a DeepSpeed engine, and the step that is done with it.

    Args:
        config: Of the run.
        manifest: Of the shards.
        model: With the weights that a new run starts from.
        batches: Batch sizes on these ranks.
        saved: The checkpoint to resume from, whose weights replace the model's; None for a new run.
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
        if saved:  # weights go in before the engine, which takes its fp32 masters from them
            metadata = model_metadata(config, manifest, saved.state.step)
            check_resume_compatible(saved, shuffle, metadata, config.optimizer.name, config.run.allow_changes)
            apply_weights(model, saved.weights, "the checkpoint in run.dir")
        self.engine = start_engine(config, model, batches)
        decay = config.trainer.ema_decay
        self.ema = EMA(self.engine, decay, saved.ema if saved else None) if decay else None
        self.checkpointer = Checkpointer(config, manifest, shuffle, batches, self.engine, self.ema)
        self.state = self.checkpointer.restore(saved) if saved else TrainState()
        self.schedule = _schedule(config, self.order.epoch_length, batches, self.state)
        if saved:
            _warn_of_other_length(saved.state.total_steps, self.schedule.total_steps, self.state.step)
        self._started_at, self.bad_samples = self.state.consumed_samples, 0
        self.loss = SegmentationLoss(config.loss, manifest.split(config.data.train_split).histogram).to(self.device)
        self.guard = NonFiniteGuard(self.engine, config.trainer.max_nonfinite_steps)
        self.anomalies = AnomalyMonitor(config, manifest, self.order, batches)
        self.prefetcher, self.throughput = DevicePrefetcher(self.device), ThroughputMeter(config)
        folder = RunLayout(config.run.dir).profile if config.run.dir and config.run.profile else None
        self.profiler = Profiler(self.device, folder, self.schedule.total_steps - self.state.step)

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def position(self) -> dict[str, float]:
        """Where the run stands, for every line of metrics.jsonl."""
        epoch = round(self.state.consumed_samples / self.order.epoch_length, 6)
        return {"step": self.state.step, "epoch": epoch, "samples": self.state.consumed_samples}

    @property
    def running_statistics(self) -> dict[str, Tensor]:
        """This rank's running statistics of BatchNorm, themselves; those of the EMA after `average/`."""
        return all_running_statistics(self.engine, self.ema)

    def metadata(self) -> ModelMetadata:
        """What the weights are, as of this step."""
        return model_metadata(self.config, self.manifest, self.state.step)

    def global_batches(self) -> Iterator[list[Batch]]:
        """The optimizer steps that remain, each a list of this rank's micro-batches, on their way to the device."""
        source = train_source(self.config, self.manifest)
        consumed_samples = self.state.consumed_samples
        steps = train_loader(self.config, self.order, source, self.batches, distributed.rank(), consumed_samples)
        for _ in range(self.schedule.total_steps - self.state.step):
            self.throughput.start_wait()
            self.profiler.begin()
            distributed.begin_stage(f"waiting for the data of step {self.state.step + 1}", slow=self._is_slow)
            with self.profiler.part("waiting for data"):
                micro_batches = next(steps)
            self.throughput.end_wait()
            with self.profiler.part("copying to the device"):
                self.prefetcher.send(micro_batches)
            yield micro_batches

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """Forward, backward and update with one global batch.

        The loss is a sum over this rank's pixels divided by a count of the *global* batch; the factor undoes DeepSpeed's
        averaging over ranks and micro-batches, which would weight pixels by the rank that holds them.
        """
        number, part = self.state.step + 1, self.profiler.part
        distributed.begin_stage(f"at the start of step {number}", slow=self._is_slow)
        lr = self._learning_rate(self.state.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        with part("copying to the device"):
            batches = self.prefetcher.take(micro_batches)
        with part("counting labels"):
            counts = self._count_labels(batches)
        factor = self.batches.groups * self.batches.accumulation  # a group has one gradient on all its ranks
        extra_weights, rng = self.engine.module.auxiliary_weights, rng_state()
        with part("non-finite guard"):
            self.guard.begin()
        for batch in batches:
            distributed.begin_stage(f"in the forward pass of step {number}", slow=self._is_slow)
            with part("forward"):
                loss = micro_batch_loss(self.engine, extra_weights, self.loss, batch, counts, self.config.data)
                self.guard.add(loss)
            distributed.begin_stage(f"in the backward pass of step {number}", slow=self._is_slow)
            with part("backward"):
                self.engine.backward(loss * factor)
            if self.engine.is_gradient_accumulation_boundary():
                with part("non-finite guard"):
                    self.guard.decide()
            with part("optimizer"):
                self.engine.step()
        with part("non-finite guard"):
            stats = self.guard.end()
        self.state.step = number
        if self.ema:
            self.ema.update(number, self.guard.skipped)
        self.anomalies.add(StepRecord(number, self.state.consumed_samples, stats, micro_batches, counts, rng))
        self.state.consumed_samples += self.batches.global_batch_size
        with part("sync: loss of the previous step"):
            self.drain(pending=1)
        self.profiler.end()
        self.throughput.end_step()

    def metrics(self) -> dict[str, float]:
        """Since the last call: mean loss per labeled pixel, the last lr, images per second of all ranks. A collective.

        Also the most memory that a rank has held so far, in GB: of its GPU, or else its process's.
        """
        throughput = self.throughput.metrics(self.drain)
        log_attention_kernels()
        metrics = {
            "loss": self.anomalies.mean_loss(),
            "lr": self._learning_rate(self.state.step - 1),
            **throughput,
            "peak_memory_gb": distributed.all_reduce_max(peak_memory(self.device)) / 1e9,
        }
        if self.anomalies.skipped:
            metrics["nonfinite_steps"] = self.anomalies.skipped
        return {**metrics, "bad_samples": self.bad_samples} if self.config.data.on_bad_sample == "skip" else metrics

    def checkpoint(self) -> Checkpoint:
        """All that a resume needs, see `Checkpointer.capture`. A collective."""
        self.drain()
        return self.checkpointer.capture(self.state, self.schedule.total_steps)

    def drain(self, pending: int = 0) -> None:
        """Read the statistics of all but the last `pending` steps. Raises UserError, on all ranks, if too many were skipped."""
        last = self.anomalies.drain(pending)
        if last:
            dump_and_raise(*last, self.anomalies, self.engine, self.metadata())

    @property
    def _is_slow(self) -> bool:
        """Whether this step may compile and measure kernels: the first does, and any where images come in many sizes."""
        is_first = self.state.consumed_samples == self._started_at
        return is_first or (self.config.trainer.compile and not self.config.data.fixed_size)

    def _count_labels(self, batches: Sequence[Batch]) -> Tensor:
        """The loss's counts of the global batch. Also counts bad samples, and ends the run if they are too many.

        Both numbers are those of all ranks, so that all ranks end alike.
        """
        data = self.config.data
        counts = torch.stack([self.loss.counts(batch.labels_NHW) for batch in batches]).sum(dim=0)
        bad = counts.new_full((1,), sum(len(batch.bad_samples) for batch in batches))
        counts = distributed.all_reduce_sum(torch.cat([counts, bad]) * self.batches.is_first(distributed.rank()))
        if data.on_bad_sample == "skip":  # only then, since it makes a GPU wait
            self.bad_samples += int(counts[-1])
            taken = max(self.state.consumed_samples - self._started_at, self.order.epoch_length)
            if self.bad_samples > data.max_bad_fraction * taken:
                raise UserError(
                    "MSA-TRAIN-001",
                    f"{self.bad_samples} bad samples were skipped, expected at most {taken} x data.max_bad_fraction="
                    f"{data.max_bad_fraction}; they are listed in run.dir/bad-samples-*.jsonl: repair the shards",
                    setting="data.max_bad_fraction",
                )
        return counts[:-1]

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.schedule.total_steps, self.config.optimizer.lr, self.config.schedule)


def _schedule(config: Config, epoch_length: int, batches: BatchPlan, state: TrainState) -> TrainSchedule:
    trainer, steps = config.trainer, total_steps(config, epoch_length)
    if trainer.steps is None:  # the same epochs, where earlier steps took another global batch
        steps += state.step - state.consumed_samples // batches.global_batch_size
    return TrainSchedule(
        total_steps=steps,
        steps_per_epoch=epoch_length / batches.global_batch_size,
        log_every_steps=trainer.log_every_steps,
        checkpoint_every_steps=trainer.checkpoint_every_steps,
        val_every_epochs=trainer.val_every_epochs,
        keep_best=trainer.keep_best,
    )


def _warn_of_other_length(before: int, now: int, step: int) -> None:
    if before != now and now > step:  # else nothing remains to be done, which is said
        logger.warning(
            f"the run was started for {before} steps and now has {now}; from step {step} on the learning rate follows the new "
            "number"
        )
