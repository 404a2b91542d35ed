"""A training's state out of the engine and back into it: what a checkpoint captures and restores."""

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from msanet import distributed, versions
from msanet.config import Config
from msanet.data.loader import BatchPlan
from msanet.data.manifest import Manifest
from msanet.data.shuffle_order import ShuffleConfig
from msanet.models.io import ModelMetadata
from msanet.training.checkpoint.format import Checkpoint, RunState
from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import (
    averaged_over_ranks,
    gather_buffers,
    restore_buffers,
    running_statistics,
)
from msanet.training.engine.ema import EMA
from msanet.training.engine.loss_scaling import LossScaler
from msanet.training.engine.optimizer import optimizer_label
from msanet.training.resume import initial_weights
from msanet.training.schedule import TrainState

logger = logging.getLogger(__name__)


class Checkpointer:
    """Captures a `Checkpoint` of the engine, its EMA and a `TrainState`, and restores it on any number of ranks."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        shuffle: ShuffleConfig,
        batches: BatchPlan,
        engine: Any,
        ema: EMA | None,
        scaler: LossScaler | None = None,
    ) -> None:
        self._config, self._manifest, self._shuffle, self._batches = config, manifest, shuffle, batches
        self._engine, self._ema, self._scaler = engine, ema, scaler

    def capture(self, state: TrainState, total_steps: int) -> Checkpoint:
        """All that a resume needs, with tensors on rank 0 alone. A collective."""
        distributed.begin_stage("gathering a checkpoint", slow=True)
        statistics = all_running_statistics(self._engine, self._ema)
        with averaged_over_ranks(statistics):
            weights = zero_state.gather_weights(self._engine)
            ema = self._ema.weights() if self._ema else None
        return Checkpoint(
            state=RunState(
                step=state.step,
                consumed_samples=state.consumed_samples,
                total_steps=total_steps,
                shuffle=self._shuffle,
                world_size=self._batches.world_size,
                dataset=self._manifest.name,
                dataset_digest=self._manifest.digest(),
                optimizer=optimizer_label(self._config.optimizer),
                frozen=self._config.model.freeze,
                versions=versions("torch", "deepspeed", "numpy", "msanet"),
                best=state.best if self._config.trainer.keep_best else None,
                validation_pending=state.validation_pending,
                early_stopping=state.early_stopping,
                loss_scale=self._scaler.state() if self._scaler else None,
                micro_batch_size=self._batches.micro_batch_size,
                initial_weights=initial_weights(self._config),
            ),
            metadata=model_metadata(self._config, self._manifest, state.step),
            weights=weights,
            optimizer=zero_state.gather_optimizer_state(self._engine),
            rng=gather_rng(self._batches.context_parallel_size),
            ema=ema,
            buffers=gather_buffers(statistics),
            config=self._config.to_yaml(),
        )

    def restore(self, saved: Checkpoint) -> TrainState:
        """Put back optimizer, running statistics and generators; the weights went in before the engine was built."""
        was = saved.state
        state = TrainState(was.step, was.consumed_samples, was.best, was.validation_pending, was.early_stopping)
        if was.optimizer == optimizer_label(self._config.optimizer) and was.frozen == self._config.model.freeze:
            zero_state.scatter_optimizer_state(self._engine, saved.optimizer)
        restore_buffers(all_running_statistics(self._engine, self._ema), saved.buffers)
        group = self._batches.group(distributed.rank())
        if not restore_rng(saved.rng, group):
            torch.manual_seed(self._config.run.seed + state.step + group)
        return state


def model_metadata(config: Config, manifest: Manifest, step: int) -> ModelMetadata:
    """Of the weights after `step` optimizer steps."""
    return ModelMetadata(
        name=config.model.name,
        options=config.model.options,
        dataset=manifest.name,
        dataset_digest=manifest.digest(),
        classes=manifest.classes,
        palette=manifest.palette,
        ids=manifest.ids,
        mean=config.data.mean,
        std=config.data.std,
        resize=config.evaluation.resize,
        image=manifest.image_format,
        shown_bands=config.report.bands,
        step=step,
    )


def all_running_statistics(engine: Any, ema: EMA | None) -> dict[str, Tensor]:
    """This rank's running statistics of BatchNorm, by name, and those of the EMA with the prefix `average/`; not copies."""
    own = ema.running_statistics if ema else {}
    return running_statistics(engine.module) | {f"average/{name}": tensor for name, tensor in own.items()}


def rng_state() -> dict[str, Tensor]:
    """This process's torch generators; data has none, since augmentation is a function of (seed, epoch, sample)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def gather_rng(context_parallel_size: int = 1) -> dict[str, Tensor]:
    """{'<group>.cpu' or '<group>.cuda': generator state, uint8} on rank 0, empty on the others. A collective.

    A group is `context_parallel_size` ranks, with the same generators.
    """
    states = [rng_state()] * distributed.world_size()
    if len(states) > 1:
        dist.gather_object(states[0], states if distributed.is_main() else None)
    if not distributed.is_main():
        return {}
    groups = enumerate(states[::context_parallel_size])
    return {f"{group}.{kind}": state for group, kinds in groups for kind, state in kinds.items()}


def restore_rng(states: dict[str, Tensor], group: int) -> bool:
    """Restore the generators of a group of ranks; False if the checkpoint has none, since it had fewer groups."""
    if f"{group}.cpu" not in states:
        return False
    torch.set_rng_state(states[f"{group}.cpu"])
    if torch.cuda.is_available() and f"{group}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{group}.cuda"])
    return True
