"""A network in an engine: DeepSpeed's, or DistributedDataParallel."""

from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError

from msanet import distributed
from msanet.config import Config
from msanet.data.loader import BatchPlan
from msanet.errors import UserError
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.network import SegmentationNetwork
from msanet.training.engine import zero_state
from msanet.training.engine.compiling import compile_blocks, require_compiler
from msanet.training.engine.context_parallel import other_images_group, parallelize_attention, same_image_group
from msanet.training.engine.ddp import DDPEngine
from msanet.training.engine.deepspeed_keys import first_fault, require_known_keys
from msanet.training.engine.device_settings import apply_device_settings, set_memory_format
from msanet.training.engine.freezing import freeze
from msanet.training.engine.loss_scaling import autocast_training
from msanet.training.engine.optimizer import build_optimizer, deepspeed_config
from msanet.training.engine.sync_batchnorm import convert_sync_batchnorm


def start_engine(config: Config, model: SegmentationNetwork, batches: BatchPlan) -> Any:
    """The engine of a run's settings on this rank's device, with the generators of a new run. A collective."""
    device = distributed.device()
    apply_device_settings(config)
    if batches.context_parallel_size > 1:
        parallelize_attention(model, same_image_group(batches))
    if config.trainer.sync_batchnorm and batches.groups > 1:
        group = other_images_group(batches) if batches.context_parallel_size > 1 else None
        convert_sync_batchnorm(model, device, group)
    freeze(model, config.model.freeze)  # again, since other layers may have taken the BatchNorm's place
    if config.trainer.activation_checkpointing:
        checkpoint_activations(model)
    if config.trainer.precision == "fp16":
        autocast_training(model, device)
    if config.trainer.compile:
        require_compiler(device)
        compile_blocks(model, config.data.fixed_size)
    # of dropout, the same where images are; weights came from the same seed on all ranks
    torch.manual_seed(config.run.seed + batches.group(distributed.rank()))
    if config.trainer.engine == "ddp":
        set_memory_format(model.to(device), config.trainer)  # first, since gradients are views of DDP's buckets
        optimizer = build_optimizer(model, config.optimizer, config.trainer.zero_stage)
        engine: Any = DDPEngine(model, optimizer, config, batches.accumulation)
    else:
        engine = _deepspeed_engine(config, model.to(device), batches)
        set_memory_format(engine.module, config.trainer)
    zero_state.start_momentum(engine)
    return engine


def _deepspeed_engine(config: Config, model: SegmentationNetwork, batches: BatchPlan) -> Any:
    import deepspeed  # here, so that the config, order and checkpoint code imports without it
    from deepspeed.runtime.config import DeepSpeedConfigError
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    require_known_keys(config.deepspeed)
    try:
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=build_optimizer(model, config.optimizer, config.trainer.zero_stage),
            config=deepspeed_config(config, batches, sum(parameter.numel() for parameter in model.parameters())),
            dist_init_required=not dist.is_initialized(),
        )
    except (ValidationError, DeepSpeedConfigError, ZeRORuntimeException) as error:
        found = first_fault(error) if isinstance(error, ValidationError) else " ".join(str(error).split())[:300]
        raise UserError(
            "MSA-TRAIN-011",
            f"DeepSpeed refuses the section deepspeed ({found}); fix or remove what it names",
            setting="deepspeed",
        ) from None
    if distributed.world_size() == 1 and config.trainer.zero_stage == 0:
        engine.enable_backward_allreduce = False  # of one rank: all gradients copied twice, and nothing added
    return engine
