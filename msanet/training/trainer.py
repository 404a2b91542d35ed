"""One optimizer step over the global batch, the same for any number of ranks; and the state that a resume needs."""

import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from msanet import distributed, versions
from msanet.config import Config
from msanet.data.loader import BatchPlan, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import Manifest
from msanet.data.pipeline import Batch
from msanet.data.shard_source import ShardSource
from msanet.errors import UserError
from msanet.evaluation.cost import peak_memory
from msanet.evaluation.evaluator import EvaluationInterrupted, evaluate
from msanet.evaluation.result import EvaluationResult
from msanet.losses import SegmentationLoss
from msanet.models.io import ModelMetadata, apply_weights
from msanet.models.network import SegmentationNetwork
from msanet.training.checkpoint import zero_state
from msanet.training.checkpoint.io import Best, Checkpoint, RunState, gather_rng, restore_rng, rng_state
from msanet.training.checkpoint.metadata import model_metadata
from msanet.training.checkpoint.resume_checks import check_resume_compatible
from msanet.training.engine.batchnorm_statistics import (
    averaged_over_ranks,
    gather_buffers,
    restore_buffers,
    running_statistics,
)
from msanet.training.engine.device_prefetcher import DevicePrefetcher
from msanet.training.engine.device_settings import log_attention_kernels, without_cudnn_benchmark
from msanet.training.engine.ema import EMA
from msanet.training.engine.initialize import start_engine
from msanet.training.engine.optimizer import learning_rate, total_steps
from msanet.training.forward import micro_batch_loss
from msanet.training.monitoring.profiler import Profile
from msanet.training.monitoring.throughput import ThroughputMeter
from msanet.training.nonfinite.anomalies import AnomalyMonitor, StepRecord
from msanet.training.nonfinite.failure_dump import dump_and_raise
from msanet.training.nonfinite.guard import NonFiniteGuard


class Trainer:
    """A network in a DeepSpeed engine, its stream of batches, and where it stands.

    step: optimizer steps done. consumed_samples: samples taken; moves only after the optimizer has stepped, so that what was
    prefetched but not used is read again after a resume.
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
        self.plan = shuffle_config(config)
        self.order = shuffle_order(manifest, config.data.train_split, self.plan)
        self.total_steps = total_steps(config, self.order.epoch_length)
        self.step, self.consumed_samples = 0, 0
        self.best: Best | None = None
        self.validation_pending = False
        if saved:  # weights go in before the engine, which takes its fp32 masters from them
            check_resume_compatible(saved, self.plan, self._metadata(), config.optimizer.name, config.run.allow_changes)
            apply_weights(model, saved.weights, "the checkpoint in run.dir")
        self.engine = start_engine(config, model, batches)
        ema = config.trainer.ema_decay
        self.average = EMA(self.engine, ema, saved.average if saved else None) if ema else None
        if saved:
            self._resume(saved)
        self._started_at, self.masked = self.consumed_samples, 0
        self.loss = SegmentationLoss(config.loss, manifest.split(config.data.train_split).histogram)
        self.loss.to(self.engine.device)
        self.guard = NonFiniteGuard(self.engine, config.trainer.max_nonfinite_steps)
        self.anomalies = AnomalyMonitor(config, manifest, self.order, batches)
        self.staging, self.throughput = DevicePrefetcher(self.engine.device), ThroughputMeter(config)
        folder = config.run.dir / "profile" if config.run.dir and config.run.profile else None
        self.profile = Profile(self.engine.device, folder, self.total_steps - self.step)

    @property
    def position(self) -> dict[str, float]:
        """Where the run stands, as every line of metrics.jsonl says it."""
        epoch = round(self.consumed_samples / self.order.epoch_length, 6)
        return {"step": self.step, "epoch": epoch, "samples": self.consumed_samples}

    def is_due(self, steps: float) -> bool:
        """Whether something that happens every `steps` steps happens now; always at the end, only then for 0."""
        before, now = self.step - 1, self.step
        return now == self.total_steps or (steps > 0 and now // steps > before // steps)

    @property
    def steps_per_epoch(self) -> float:
        return self.order.epoch_length / self.batches.global_batch_size

    def stream(self) -> Iterator[list[Batch]]:
        """The optimizer steps that remain, each a list of this rank's micro-batches.

        The first is empty where the validation after the step before is owed: see `evaluate`.
        """
        if self.validation_pending:
            yield []
        source = train_source(self.config, self.manifest)
        steps = train_loader(self.config, self.order, source, self.batches, distributed.rank(), self.consumed_samples)
        for _ in range(self.total_steps - self.step):
            self.throughput.ask()
            self.profile.begin()
            distributed.begin_stage(f"waiting for the data of step {self.step + 1}", slow=self._is_slow)
            with self.profile.part("waiting for data"):
                micro_batches = next(steps)
            self.throughput.receive()
            with self.profile.part("copying to the device"):
                self.staging.send(micro_batches)
            yield micro_batches

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """Forward, backward and update with one global batch.

        The loss is a sum over this rank's pixels divided by a count of the *global* batch; the factor undoes DeepSpeed's
        averaging over ranks and micro-batches, which would weigh pixels by who holds them.
        """
        distributed.begin_stage(f"at the start of step {self.step + 1}", slow=self._is_slow)
        lr = self._learning_rate(self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        part = self.profile.part
        with part("copying to the device"):
            batches = self.staging.take(micro_batches)
        with part("counting labels"):
            counts = self._count(batches)
        factor = self.batches.groups * self.batches.accumulation  # a group has one gradient on all its ranks
        extra_weights, rng = self.engine.module.extra_weights, rng_state()
        with part("guard"):
            self.guard.begin()
        for batch in batches:
            distributed.begin_stage(f"in the forward pass of step {self.step + 1}", slow=self._is_slow)
            with part("forward"):
                loss = micro_batch_loss(self.engine, extra_weights, self.loss, batch, counts, self.config.data)
                self.guard.add(loss)
            distributed.begin_stage(f"in the backward pass of step {self.step + 1}", slow=self._is_slow)
            with part("backward"):
                self.engine.backward(loss * factor)
            if self.engine.is_gradient_accumulation_boundary():
                with part("guard"):
                    self.guard.judge()
            with part("optimizer"):
                self.engine.step()
        with part("guard"):
            figures = self.guard.end()
        self.step += 1
        if self.average:
            self.average.update(self.step, self.guard.skipped)
        self.anomalies.add(StepRecord(self.step, self.consumed_samples, figures, micro_batches, counts, rng))
        self.consumed_samples += self.batches.global_batch_size
        with part("hearing of the step before"):
            self._drain(under_way=1)
        self.profile.end()
        self.throughput.end()

    @property
    def _is_slow(self) -> bool:
        """Whether this step may compile and measure kernels: the first does, and any where images come in many sizes."""
        return self.consumed_samples == self._started_at or (
            self.config.trainer.compile and not self.config.data.fixed_size
        )

    def training_metrics(self) -> dict[str, float]:
        """Since the last call: mean loss per labelled pixel, the last lr, images per second of all ranks. A collective.

        Also the most memory that a rank has held so far, in GB: of its GPU, or else its process's.
        """
        throughput = self.throughput.figures(self._drain)
        log_attention_kernels()
        lr = self._learning_rate(self.step - 1)
        figures = {
            "loss": self.anomalies.mean_loss(),
            "lr": lr,
            **throughput,
            "peak_memory_gb": distributed.all_reduce_max(peak_memory(self.engine.device)) / 1e9,
        }
        if self.anomalies.skipped:
            figures["skipped"] = self.anomalies.skipped
        return {**figures, "masked": self.masked} if self.config.data.on_bad_sample == "skip" else figures

    def evaluate(self, source: ShardSource, should_stop: Callable[[], bool] | None = None) -> EvaluationResult | None:
        """Judge the network as it is now, or its average where there is one, on a whole split. A collective.

        None where `should_stop` said so on any rank in between: the checkpoint then says that a validation is owed, and
        the run that goes on from it begins with that.
        """
        distributed.begin_stage("starting a validation", slow=True)
        self.validation_pending = True
        gpus = [self.engine.device] if torch.cuda.is_available() else []
        try:
            # loaders and new networks draw random numbers: leave no trace
            with torch.random.fork_rng(gpus), without_cudnn_benchmark(), averaged_over_ranks(self.buffers):
                result = self._judge(source, should_stop)
        except EvaluationInterrupted:
            return None
        self.validation_pending = False
        score = result.protocol_scores.scores.mean_iou
        if score > (self.best.mean_iou if self.best else -1):
            self.best = Best(step=self.step, mean_iou=score)
        return result

    def _judge(self, source: ShardSource, should_stop: Callable[[], bool] | None) -> EvaluationResult:
        model, lockstep = self.engine.module, self.config.trainer.zero_stage == 3
        if self.average:
            model, lockstep = self._metadata().build(), False  # a copy: the engine's own weights stay where they are
            apply_weights(model, self.average.weights(everywhere=True), "the moving average")
            model = model.to(self.engine.device)
        data = self.config.data
        return evaluate(model, source, self.config.evaluation, data.mean, data.std, lockstep, should_stop)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """This rank's running statistics of BatchNorm, themselves; those of the moving average after `average/`."""
        own = self.average.running_statistics if self.average else {}
        return running_statistics(self.engine.module) | {f"average/{name}": tensor for name, tensor in own.items()}

    @property
    def should_log(self) -> bool:
        """Whether the figures of the steps since the last log are due."""
        return self.throughput.steps > 0 and self.is_due(self.config.trainer.log_every_steps)

    @property
    def should_validate(self) -> bool:
        """Whether a validation is due after this step, or is owed."""
        return self.validation_pending or self.is_due(self.config.trainer.val_every_epochs * self.steps_per_epoch)

    @property
    def is_done(self) -> bool:
        """Whether nothing remains, neither steps nor the last validation."""
        return self.step == self.total_steps and not self.validation_pending

    @property
    def should_save(self) -> bool:
        """Whether a checkpoint is due after this step: by the number of steps, or as the best so far."""
        is_best = self.config.trainer.keep_best and self.best is not None and self.best.step == self.step
        return is_best or self.is_due(self.config.trainer.checkpoint_every_steps)

    def checkpoint(self) -> Checkpoint:
        """All that a resume needs. A collective: tensors are gathered on rank 0, which writes them; the others get none."""
        distributed.begin_stage("gathering a checkpoint", slow=True)
        self._drain()
        with averaged_over_ranks(self.buffers):
            weights = zero_state.gather_weights(self.engine)
            average = self.average.weights() if self.average else None
        return Checkpoint(
            state=RunState(
                step=self.step,
                consumed_samples=self.consumed_samples,
                total_steps=self.total_steps,
                plan=self.plan,
                world_size=self.batches.world_size,
                dataset=self.manifest.name,
                dataset_digest=self.manifest.digest(),
                optimizer=self.config.optimizer.name,
                versions=versions("torch", "deepspeed", "numpy", "msanet"),
                best=self.best if self.config.trainer.keep_best else None,
                validation_pending=self.validation_pending,
                micro_batch_size=self.batches.micro_batch_size,
            ),
            metadata=self._metadata(),
            weights=weights,
            optimizer=zero_state.gather_optimizer_state(self.engine),
            rng=gather_rng(self.batches.context_parallel_size),
            average=average,
            buffers=gather_buffers(self.buffers),
            config=self.config.to_yaml(),
        )

    def _count(self, batches: Sequence[Batch]) -> Tensor:
        """The loss's counts of the global batch. Counts masked samples too, and ends the run where they are too many.

        Both numbers are those of all ranks, so that all ranks end alike.
        """
        counts = torch.stack([self.loss.counts(batch.labels_NHW) for batch in batches]).sum(dim=0)
        masked = counts.new_full((1,), sum(len(batch.bad_samples) for batch in batches))
        own = torch.cat([counts, masked]) * self.batches.is_first(distributed.rank())
        counts = distributed.all_reduce_sum(own)
        if self.config.data.on_bad_sample == "skip":  # only then, since it makes a GPU wait
            self.masked += int(counts[-1])
            taken = max(self.consumed_samples - self._started_at, self.order.epoch_length)
            if self.masked > self.config.data.max_bad_fraction * taken:
                raise UserError(
                    f"{self.masked} samples could not be read and were masked, expected at most {taken} x data.max_bad_fraction="
                    f"{self.config.data.max_bad_fraction}; they are listed in run.dir/bad-samples-*.jsonl: mend the shards"
                )
        return counts[:-1]

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.total_steps, self.config.optimizer.lr, self.config.schedule)

    def _drain(self, under_way: int = 0) -> None:
        """Hear what all but the last `under_way` steps came to. Raises UserError, on all ranks, where too many were skipped."""
        last = self.anomalies.drain(under_way)
        if last:
            raise dump_and_raise(*last, self.anomalies, self.engine, self._metadata())

    def _metadata(self) -> ModelMetadata:
        return model_metadata(self.config, self.manifest, self.step)

    def _resume(self, saved: Checkpoint) -> None:
        self.step, self.consumed_samples, self.best = saved.state.step, saved.state.consumed_samples, saved.state.best
        self.validation_pending = saved.state.validation_pending
        if self.config.trainer.steps is None:  # the same epochs, where earlier steps took another global batch
            self.total_steps += self.step - self.consumed_samples // self.batches.global_batch_size
        if saved.state.optimizer == self.config.optimizer.name:
            zero_state.scatter_optimizer_state(self.engine, saved.optimizer)
        restore_buffers(self.buffers, saved.buffers)
        group = self.batches.group(distributed.rank())
        if not restore_rng(saved.rng, group):
            torch.manual_seed(self.config.run.seed + self.step + group)
        if saved.state.total_steps != self.total_steps and distributed.is_main():
            print(
                f"warning: the run was started for {saved.state.total_steps} steps and now has {self.total_steps}; "
                f"the learning rate follows the new number from step {self.step} on",
                file=sys.stderr,
            )
