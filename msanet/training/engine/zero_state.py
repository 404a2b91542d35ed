"""Weights and optimizer state out of and into a DeepSpeed engine, full tensors by parameter name: see docs/decisions/0002.

This file is the only one that knows how DeepSpeed lays out its state (0.19: `_hp_mapping` at stages 1 and 2, `ds_id` and
partitioned groups at stage 3).
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from msanet import distributed
from msanet.training.engine.other_optimizers import SkippableStep

OptimizerState = dict[str, dict[str, Tensor]]
"""{parameter name: {state key such as `exp_avg`: full-size tensor, or 0-d `step`}}"""


def local_weights(engine: Any) -> dict[str, Tensor]:
    """What this rank holds: each parameter, or at stage 3 its flat and padded partition; and floating-point buffers."""
    own = {name: getattr(parameter, "ds_tensor", parameter) for name, parameter in engine.module.named_parameters()}
    return own | {name: buffer for name, buffer in engine.module.named_buffers() if buffer.is_floating_point()}


def gather_weights(engine: Any, local: dict[str, Tensor] | None = None, everywhere: bool = False) -> dict[str, Tensor]:
    """Full parameters and buffers as float32 on rank 0's CPU, or on all with `everywhere`; else empty. A collective.

    local: instead of the engine's own, such as those of an EMA, with the layout of `local_weights`.
    """
    local, keeps = local or local_weights(engine), everywhere or distributed.is_main()
    full = {name: _on_cpu(local.get(name, buffer)) for name, buffer in engine.module.named_buffers() if keeps}
    for name, parameter in engine.module.named_parameters():
        own = local[name].to(engine.device)  # offloaded, perhaps
        if hasattr(parameter, "ds_id"):
            parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, own)
            own = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape) if keeps else own
        if keeps:
            full[name] = _on_cpu(own)
    return full


@torch.no_grad()
def scatter_local(engine: Any, full: dict[str, Tensor], local: dict[str, Tensor]) -> None:
    """Copy this rank's share of full tensors into tensors with the layout of `local_weights`."""
    parameters = dict(engine.module.named_parameters())
    for name, own in local.items():
        partitioned = hasattr(parameters.get(name), "ds_id")
        own.copy_(_partition(full[name], own.numel()) if partitioned else full[name])


def release_parameters(engine: Any) -> None:
    """At stage 3 free the parameters that stay gathered: those from inference mode cannot be used by a backward pass."""
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_id"):
            parameter.partition()


def gather_optimizer_state(engine: Any) -> OptimizerState:
    """Every parameter's full optimizer state on rank 0's CPU, empty on the other ranks. A collective."""
    named = engine.module.named_parameters()
    state = {name: _gather(engine, parameter) if parameter.requires_grad else {} for name, parameter in named}
    return state if distributed.is_main() else {}


def scatter_optimizer_state(engine: Any, state: OptimizerState) -> None:
    """Restore a gathered state in a fresh engine, except for parameters without one (frozen, or SGD without momentum)."""
    optimizer, named = _base(engine), dict(engine.module.named_parameters())
    saved = {name: entry for name, entry in state.items() if entry and name in named and named[name].requires_grad}
    by_holder = {id(_holder(engine, named[name])): entry for name, entry in saved.items()}
    example = next(iter(saved.values()), {})
    for flat in _flat_parameters(engine):
        entry = by_holder.get(id(flat), example)
        scalars = {key: value for key, value in entry.items() if not value.dim()}
        optimizer.state[flat] = _restored_scalars(optimizer, scalars, flat.device) | {
            key: torch.zeros_like(flat) for key, value in entry.items() if value.dim()
        }
    for name, entry in saved.items():
        for key, value in entry.items():
            if value.dim():
                _scatter(engine, named[name], key, value)


def local_gradients(engine: Any) -> list[Tensor]:
    """The gradients that this rank's optimizer steps on: after the backward that reduced them, before the step."""
    if engine.zero_optimization_stage() == 0:
        return [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    averaged = [gradient for group in engine.optimizer.averaged_gradients.values() for gradient in group or ()]
    offloaded = [flat.grad for flat in _flat_parameters(engine) if flat.grad is not None]
    return averaged or offloaded


def skip_next_step(engine: Any, skipped: Tensor) -> None:
    """Make the optimizer's next step change nothing if `skipped` (a scalar on the device) is 1: see docs/decisions/0016."""
    _base(engine).found_inf = skipped.float().to(_flat_parameters(engine)[0].device)  # type: ignore[attr-defined]


def has_refused_step(engine: Any) -> bool:
    """Whether DeepSpeed itself skipped the last step, as it does at stages 1 to 3 if the gradient's norm is not finite."""
    return bool(getattr(engine.optimizer, "overflow", False))


def start_momentum(engine: Any) -> None:
    """Set SGD's momentum to 0 before the first step: torch leaves it uninitialized if that step is skipped."""
    optimizer = _base(engine)
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        for flat in _flat_parameters(engine):
            optimizer.state[flat]["momentum_buffer"] = torch.zeros_like(flat)


def _gather(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    stage = engine.zero_optimization_stage()
    gathered = {}
    for key, value in _base(engine).state.get(_holder(engine, parameter), {}).items():
        if stage > 0 and isinstance(value, Tensor) and value.dim():
            gather = engine.optimizer.get_full_hp_param if stage == 3 else partial(_gather_fragments, engine)
            value = gather(parameter, key)
        if value is not None and distributed.is_main():
            gathered[key] = _on_cpu(value)
    return gathered


def _gather_fragments(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Stages 1 and 2: each rank has consecutive elements of the parameter, or none; they are summed into place."""
    full = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is not None:
        where, fragment = _fragment(engine, mapping, key)
        full.narrow(0, where.start, where.numel).copy_(fragment)
    dist.reduce(full, dst=0, group=engine.optimizer.dp_process_group)
    return full.view_as(parameter)


def _scatter(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        own = _base(engine).state[parameter]
        own[key] = own[key].copy_(value) if own[key].shape == value.shape else value.to(parameter.device, copy=True)
    elif stage == 3:
        partition, _ = engine.optimizer._get_fp32_opt_state_partition(parameter, False, key)
        partition.copy_(_partition(value, partition.numel()))
    elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
        where, fragment = _fragment(engine, parameter._hp_mapping, key)  # type: ignore[attr-defined]
        fragment.copy_(value.flatten().narrow(0, where.start, where.numel))


def _partition(value: Tensor, size: int) -> Tensor:
    """This rank's `size` elements at stage 3, where partitions are padded to equal sizes."""
    padded = F.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)


def _fragment(engine: Any, mapping: Any, key: str) -> tuple[Any, Tensor]:
    """(place in the parameter, view of the flat state) of the elements that this rank has of a parameter at stages 1 and 2."""
    flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return mapping.lp_fragment_address, _base(engine).state[flat][key].narrow(0, address.start, address.numel)


def _holder(engine: Any, parameter: nn.Parameter) -> Tensor:
    """The tensor that the inner optimizer steps on, of which the parameter is a part."""
    optimizer = engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            return parameter
        case 1 | 2:
            groups = enumerate(optimizer.bit16_groups)
            number = next(number for number, group in groups if any(parameter is member for member in group))
            return optimizer.single_partition_of_fp32_groups[number]
        case _:
            number = optimizer.grad_position[optimizer.get_param_id(parameter)][0]
            return optimizer.fp32_partitioned_groups_flat[number]


def _restored_scalars(optimizer: Any, scalars: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
    if isinstance(optimizer, SkippableStep):
        return optimizer.state_template.restored(scalars, device)
    return {key: value.to(device, copy=True) for key, value in scalars.items()}


def _flat_parameters(engine: Any) -> list[Tensor]:
    """The tensors that the inner optimizer really steps on."""
    match engine.zero_optimization_stage():
        case 0:
            return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
        case 1 | 2:
            return list(engine.optimizer.single_partition_of_fp32_groups)
        case _:
            return list(engine.optimizer.fp32_partitioned_groups_flat)


def _base(engine: Any) -> torch.optim.Optimizer:
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def _on_cpu(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
