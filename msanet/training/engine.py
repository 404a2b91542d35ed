"""A network in a DeepSpeed engine."""

from typing import Any

import torch
import torch.distributed as dist

from msanet import distributed
from msanet.config import Config
from msanet.data.loader import BatchPlan
from msanet.models.network import SegmentationNetwork
from msanet.models.recompute import recompute_activations
from msanet.training import engine_state
from msanet.training.optim import build_optimizer, deepspeed_config
from msanet.training.sync_batchnorm import convert_sync_batchnorm


def start_engine(config: Config, model: SegmentationNetwork, batches: BatchPlan) -> Any:
    """The engine of a run's settings on this rank's device, with the generators of a new run. A collective."""
    import deepspeed  # here, so that the config, order and checkpoint code imports without it

    device = distributed.device()
    if config.trainer.sync_batchnorm and batches.world_size > 1:
        convert_sync_batchnorm(model, device)
    if config.trainer.activation_checkpointing:
        recompute_activations(model)
    torch.manual_seed(config.run.seed + distributed.rank())  # of dropout; weights came from the same seed on all ranks
    engine, *_ = deepspeed.initialize(
        model=model.to(device),
        optimizer=build_optimizer(model, config.optimizer),
        config=deepspeed_config(config, batches, sum(parameter.numel() for parameter in model.parameters())),
        dist_init_required=not dist.is_initialized(),
    )
    engine_state.start_momentum(engine)
    return engine
