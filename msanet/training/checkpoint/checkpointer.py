"""A training's state out of the engine and back into it: what a checkpoint captures and restores."""

import logging
from typing import Any

import torch
from torch import Tensor

from msanet import distributed, versions
from msanet.config import Config
from msanet.data.loader import BatchPlan
from msanet.data.manifest import Manifest
from msanet.data.shuffle_order import ShuffleConfig
from msanet.training.checkpoint.format import Checkpoint, RunState
from msanet.training.checkpoint.metadata import model_metadata
from msanet.training.checkpoint.rng import gather_rng, restore_rng
from msanet.training.engine import zero_state
from msanet.training.engine.batchnorm_statistics import (
    averaged_over_ranks,
    gather_buffers,
    restore_buffers,
    running_statistics,
)
from msanet.training.engine.ema import EMA
from msanet.training.resume import initial_weights
from msanet.training.state import TrainState

logger = logging.getLogger(__name__)


class Checkpointer:
    """Captures a `Checkpoint` of the engine, its EMA and a `TrainState`, and restores it on any number of ranks.

    Args:
        config: Of the run.
        manifest: Of the shards.
        shuffle: What the order of samples depends on.
        batches: Batch sizes on these ranks.
        engine: DeepSpeed's.
        ema: The weights' EMA, if the run keeps one.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        shuffle: ShuffleConfig,
        batches: BatchPlan,
        engine: Any,
        ema: EMA | None,
    ) -> None:
        self._config, self._manifest, self._shuffle, self._batches = config, manifest, shuffle, batches
        self._engine, self._ema = engine, ema

    def capture(self, state: TrainState, total_steps: int) -> Checkpoint:
        """All that a resume needs. A collective: tensors are gathered on rank 0, which writes them; the others get none."""
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
                optimizer=self._config.optimizer.name,
                versions=versions("torch", "deepspeed", "numpy", "msanet"),
                best=state.best if self._config.trainer.keep_best else None,
                validation_pending=state.validation_pending,
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
        state = TrainState(
            saved.state.step, saved.state.consumed_samples, saved.state.best, saved.state.validation_pending
        )
        if saved.state.optimizer == self._config.optimizer.name:
            zero_state.scatter_optimizer_state(self._engine, saved.optimizer)
        restore_buffers(all_running_statistics(self._engine, self._ema), saved.buffers)
        group = self._batches.group(distributed.rank())
        if not restore_rng(saved.rng, group):
            torch.manual_seed(self._config.run.seed + state.step + group)
        return state


def all_running_statistics(engine: Any, ema: EMA | None) -> dict[str, Tensor]:
    """This rank's running statistics of BatchNorm, themselves; those of the EMA after `average/`."""
    own = ema.running_statistics if ema else {}
    return running_statistics(engine.module) | {f"average/{name}": tensor for name, tensor in own.items()}
