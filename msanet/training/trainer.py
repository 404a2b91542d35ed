"""One optimizer step over the global batch, the same for any number of ranks; and the state that a resume needs."""

import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from msanet import distributed, versions
from msanet.config import Config
from msanet.data.index import Manifest
from msanet.data.loader import BatchPlan, train_loader, train_order, train_plan, train_source
from msanet.data.source import ShardSource
from msanet.data.stages import Batch
from msanet.errors import UserError
from msanet.evaluation.cost import peak_memory
from msanet.evaluation.evaluator import GivenUp, evaluate
from msanet.evaluation.result import Evaluation
from msanet.losses import SegmentationLoss
from msanet.models.network import SegmentationNetwork
from msanet.models.saved import ModelCard, apply_weights
from msanet.training import engine_state
from msanet.training.anomalies import Anomalies, TakenStep
from msanet.training.averaging import WeightAverage
from msanet.training.blackbox import stopped_by
from msanet.training.buffers import averaged, gather_buffers, restore_buffers, running_statistics
from msanet.training.card import model_card
from msanet.training.checkpoint import Best, Checkpoint, RunState, gather_rng, restore_rng, rng_state
from msanet.training.engine import start_engine
from msanet.training.forward import micro_batch_loss
from msanet.training.guard import Guard
from msanet.training.kernels import for_images_of_any_size, say_choices
from msanet.training.optim import learning_rate, total_steps
from msanet.training.pace import Pace
from msanet.training.profiling import Profile
from msanet.training.same_run import require_same_run
from msanet.training.staging import Staging


class Trainer:
    """A network in a DeepSpeed engine, its stream of batches, and where it stands.

    step: optimizer steps done. consumed: samples taken; moves only after the optimizer has stepped, so that what was
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
        self.plan = train_plan(config)
        self.order = train_order(manifest, config.data.train_split, self.plan)
        self.total_steps = total_steps(config, self.order.epoch_length)
        self.step, self.consumed = 0, 0
        self.best: Best | None = None
        self.owes_validation = False
        if saved:  # weights go in before the engine, which takes its fp32 masters from them
            require_same_run(saved, self.plan, self._card(), config.optimizer.name, config.run.accept)
            apply_weights(model, saved.weights, "the checkpoint in run.dir")
        self.engine = start_engine(config, model, batches)
        ema = config.trainer.ema
        self.average = WeightAverage(self.engine, ema, saved.average if saved else None) if ema else None
        if saved:
            self._resume(saved)
        self._started_at, self.masked = self.consumed, 0
        self.loss = SegmentationLoss(config.loss, manifest.split(config.data.train_split).histogram)
        self.loss.to(self.engine.device)
        self.guard = Guard(self.engine, config.trainer.max_skipped)
        self.anomalies = Anomalies(config, manifest, self.order, batches)
        self.staging, self.pace = Staging(self.engine.device), Pace(config)
        folder = config.run.dir / "profile" if config.run.dir and config.run.profile else None
        self.profile = Profile(self.engine.device, folder, self.total_steps - self.step)

    @property
    def position(self) -> dict[str, float]:
        """Where the run stands, as every line of metrics.jsonl says it."""
        epoch = round(self.consumed / self.order.epoch_length, 6)
        return {"step": self.step, "epoch": epoch, "samples": self.consumed}

    def is_due(self, steps: float) -> bool:
        """Whether something that happens every `steps` steps happens now; always at the end, only then for 0."""
        before, now = self.step - 1, self.step
        return now == self.total_steps or (steps > 0 and now // steps > before // steps)

    @property
    def steps_per_epoch(self) -> float:
        return self.order.epoch_length / self.batches.global_batch

    def stream(self) -> Iterator[list[Batch]]:
        """The optimizer steps that remain, each a list of this rank's micro-batches.

        The first is empty where the validation after the step before is owed: see `evaluate`.
        """
        if self.owes_validation:
            yield []
        source = train_source(self.config, self.manifest)
        steps = train_loader(self.config, self.order, source, self.batches, distributed.rank(), self.consumed)
        for _ in range(self.total_steps - self.step):
            self.pace.ask()
            self.profile.begin()
            distributed.advance(f"waiting for the data of step {self.step + 1}", slow=self._is_slow)
            with self.profile.part("waiting for data"):
                micro_batches = next(steps)
            self.pace.receive()
            with self.profile.part("copying to the device"):
                self.staging.send(micro_batches)
            yield micro_batches

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """Forward, backward and update with one global batch.

        The loss is a sum over this rank's pixels divided by a count of the *global* batch; the factor undoes DeepSpeed's
        averaging over ranks and micro-batches, which would weigh pixels by who holds them.
        """
        distributed.advance(f"at the start of step {self.step + 1}", slow=self._is_slow)
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
            distributed.advance(f"in the forward pass of step {self.step + 1}", slow=self._is_slow)
            with part("forward"):
                loss = micro_batch_loss(self.engine, extra_weights, self.loss, batch, counts, self.config.data)
                self.guard.add(loss)
            distributed.advance(f"in the backward pass of step {self.step + 1}", slow=self._is_slow)
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
        self.anomalies.add(TakenStep(self.step, self.consumed, figures, micro_batches, counts, rng))
        self.consumed += self.batches.global_batch
        with part("hearing of the step before"):
            self._settle(under_way=1)
        self.profile.end()
        self.pace.end()

    @property
    def _is_slow(self) -> bool:
        """Whether this step may compile and measure kernels: the first does, and any where images come in many sizes."""
        return self.consumed == self._started_at or (self.config.trainer.compile and not self.config.data.fixed_size)

    def training_figures(self) -> dict[str, float]:
        """Since the last call: mean loss per labelled pixel, the last lr, images per second of all ranks. A collective.

        Also the most memory that a rank has held so far, in GB: of its GPU, or else its process's.
        """
        pace = self.pace.figures(self._settle)
        say_choices()
        lr = self._learning_rate(self.step - 1)
        figures = {
            "loss": self.anomalies.mean_loss(),
            "lr": lr,
            **pace,
            "peak_memory_gb": distributed.all_reduce_max(peak_memory(self.engine.device)) / 1e9,
        }
        if self.anomalies.skipped:
            figures["skipped"] = self.anomalies.skipped
        return {**figures, "masked": self.masked} if self.config.data.on_error == "mask" else figures

    def evaluate(self, source: ShardSource, should_stop: Callable[[], bool] | None = None) -> Evaluation | None:
        """Judge the network as it is now, or its average where there is one, on a whole split. A collective.

        None where `should_stop` said so on any rank in between: the checkpoint then says that a validation is owed, and
        the run that goes on from it begins with that.
        """
        distributed.advance("starting a validation", slow=True)
        self.owes_validation = True
        gpus = [self.engine.device] if torch.cuda.is_available() else []
        try:
            # loaders and new networks draw random numbers: leave no trace
            with torch.random.fork_rng(gpus), for_images_of_any_size(), averaged(self.buffers):
                result = self._judge(source, should_stop)
        except GivenUp:
            return None
        self.owes_validation = False
        score = result.judgement.scores.mean_iou
        if score > (self.best.mean_iou if self.best else -1):
            self.best = Best(step=self.step, mean_iou=score)
        return result

    def _judge(self, source: ShardSource, should_stop: Callable[[], bool] | None) -> Evaluation:
        model, lockstep = self.engine.module, self.config.trainer.zero_stage == 3
        if self.average:
            model, lockstep = self._card().build(), False  # a copy: the engine's own weights stay where they are
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
    def is_to_be_logged(self) -> bool:
        """Whether the figures of the steps since the last log are due."""
        return self.pace.steps > 0 and self.is_due(self.config.trainer.log_every)

    @property
    def is_to_be_judged(self) -> bool:
        """Whether a validation is due after this step, or is owed."""
        return self.owes_validation or self.is_due(self.config.trainer.evaluate_every * self.steps_per_epoch)

    @property
    def is_done(self) -> bool:
        """Whether nothing remains, neither steps nor the last validation."""
        return self.step == self.total_steps and not self.owes_validation

    @property
    def is_to_be_saved(self) -> bool:
        """Whether a checkpoint is due after this step: by the number of steps, or as the best so far."""
        is_best = self.config.trainer.keep_best and self.best is not None and self.best.step == self.step
        return is_best or self.is_due(self.config.trainer.checkpoint_every)

    def checkpoint(self) -> Checkpoint:
        """All that a resume needs. A collective: tensors are gathered on rank 0, which writes them; the others get none."""
        distributed.advance("gathering a checkpoint", slow=True)
        self._settle()
        with averaged(self.buffers):
            weights = engine_state.gather_weights(self.engine)
            average = self.average.weights() if self.average else None
        return Checkpoint(
            state=RunState(
                step=self.step,
                consumed=self.consumed,
                total_steps=self.total_steps,
                plan=self.plan,
                world_size=self.batches.world_size,
                dataset=self.manifest.name,
                dataset_digest=self.manifest.digest(),
                optimizer=self.config.optimizer.name,
                versions=versions("torch", "deepspeed", "numpy", "msanet"),
                best=self.best if self.config.trainer.keep_best else None,
                owes_validation=self.owes_validation,
                micro_batch=self.batches.micro_batch,
            ),
            card=self._card(),
            weights=weights,
            optimizer=engine_state.gather_optimizer_state(self.engine),
            rng=gather_rng(self.batches.attention_ranks),
            average=average,
            buffers=gather_buffers(self.buffers),
            config=self.config.to_yaml(),
        )

    def _count(self, batches: Sequence[Batch]) -> Tensor:
        """The loss's counts of the global batch. Counts masked samples too, and ends the run where they are too many.

        Both numbers are those of all ranks, so that all ranks end alike.
        """
        counts = torch.stack([self.loss.counts(batch.labels_NHW) for batch in batches]).sum(dim=0)
        masked = counts.new_full((1,), sum(len(batch.faults) for batch in batches))
        own = torch.cat([counts, masked]) * self.batches.is_first(distributed.rank())
        counts = distributed.all_reduce_sum(own)
        if self.config.data.on_error == "mask":  # only then, since it makes a GPU wait
            self.masked += int(counts[-1])
            taken = max(self.consumed - self._started_at, self.order.epoch_length)
            if self.masked > self.config.data.max_masked * taken:
                raise UserError(
                    f"{self.masked} samples could not be read and were masked, expected at most {taken} x data.max_masked="
                    f"{self.config.data.max_masked}; they are listed in run.dir/masked-*.jsonl: mend the shards"
                )
        return counts[:-1]

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.total_steps, self.config.optimizer.lr, self.config.schedule)

    def _settle(self, under_way: int = 0) -> None:
        """Hear what all but the last `under_way` steps came to. Raises UserError, on all ranks, where too many were skipped."""
        last = self.anomalies.settle(under_way)
        if last:
            raise stopped_by(*last, self.anomalies, self.engine, self._card())

    def _card(self) -> ModelCard:
        return model_card(self.config, self.manifest, self.step)

    def _resume(self, saved: Checkpoint) -> None:
        self.step, self.consumed, self.best = saved.state.step, saved.state.consumed, saved.state.best
        self.owes_validation = saved.state.owes_validation
        if self.config.trainer.steps is None:  # the same epochs, where earlier steps took another global batch
            self.total_steps += self.step - self.consumed // self.batches.global_batch
        if saved.state.optimizer == self.config.optimizer.name:
            engine_state.scatter_optimizer_state(self.engine, saved.optimizer)
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
