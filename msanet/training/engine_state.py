"""Optimizer state out of and into a DeepSpeed engine, whole tensors by parameter name.

DeepSpeed saves one file per rank in the layout of the stage, loads them only on the same number of ranks, and by
unpickling. Here each parameter's state is gathered to full size, so that a checkpoint fits any number of ranks and any
ZeRO stage, and holds nothing but tensors. This file is the only one that knows how DeepSpeed lays out its state
(0.19: `_hp_mapping` at stages 1 and 2, `ds_id` and partitioned groups at stage 3).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, dict[str, Tensor]]
"""{parameter name: {state key such as `exp_avg`: full-size tensor, or 0-d `step`}}"""


def gather_weights(engine: Any) -> dict[str, Tensor]:
    """Full parameters and buffers as float32 on the CPU, by name. A collective: every rank calls it, all get it."""
    full = {name: buffer.detach().cpu().clone() for name, buffer in engine.module.named_buffers()}
    for name, parameter in engine.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                full[name] = parameter.detach().cpu().clone()
        else:
            full[name] = parameter.detach().cpu().clone()
    return full


def local_weights(engine: Any) -> dict[str, Tensor]:
    """What this rank holds: each parameter, or at stage 3 its flat and padded partition; and floating-point buffers."""
    own = {name: getattr(parameter, "ds_tensor", parameter) for name, parameter in engine.module.named_parameters()}
    return own | {name: buffer for name, buffer in engine.module.named_buffers() if buffer.is_floating_point()}


def gather_local(engine: Any, local: dict[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors on the CPU out of tensors that are laid out as `local_weights`. A collective."""
    full = {name: buffer.detach().cpu().clone() for name, buffer in engine.module.named_buffers()}
    full |= {name: tensor.detach().cpu().clone() for name, tensor in local.items()}
    for name, parameter in engine.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            parts = [torch.empty_like(local[name]) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, local[name])
            full[name] = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape).cpu()
    return full


@torch.no_grad()
def scatter_local(engine: Any, full: dict[str, Tensor], local: dict[str, Tensor]) -> None:
    """Put this rank's share of full tensors into tensors that are laid out as `local_weights`."""
    parameters = dict(engine.module.named_parameters())
    for name, own in local.items():
        partitioned = hasattr(parameters.get(name), "ds_id")
        own.copy_(_partition(full[name], own.numel()) if partitioned else full[name])


def gather_optimizer_state(engine: Any) -> State:
    """Every parameter's full optimizer state on the CPU. A collective: every rank calls it, all get it."""
    return {name: _gather(engine, parameter) for name, parameter in engine.module.named_parameters()}


def scatter_optimizer_state(engine: Any, state: State) -> None:
    """Put a gathered state into a fresh engine. Parameters without state (frozen, or SGD without momentum) are left."""
    optimizer = _base(engine)
    example = next((entry for entry in state.values() if entry), {})
    for flat in _flat_parameters(engine):
        optimizer.state[flat] = {
            key: value.clone() if value.dim() == 0 else torch.zeros_like(flat) for key, value in example.items()
        }
    for name, parameter in engine.module.named_parameters():
        for key, value in state.get(name, {}).items():
            if value.dim():
                _scatter(engine, parameter, key, value)


def _gather(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return {key: _on_cpu(value) for key, value in _base(engine).state[parameter].items() if value is not None}
    flat_state = {
        key: value for key, value in _base(engine).state[_flat_parameters(engine)[0]].items() if value is not None
    }
    gathered = {key: _on_cpu(value) for key, value in flat_state.items() if _is_scalar(value)}
    for key in (key for key, value in flat_state.items() if not _is_scalar(value)):
        full = (
            engine.optimizer.get_full_hp_param(parameter, key)
            if stage == 3
            else _gather_fragments(engine, parameter, key)
        )
        gathered[key] = full.detach().cpu().clone()
    return gathered


def _gather_fragments(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Stages 1 and 2: each rank holds a run of the parameter's elements, or none; sum them into place."""
    full = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is not None:
        where, fragment = _fragment(engine, mapping, key)
        full.narrow(0, where.start, where.numel).copy_(fragment)
    dist.all_reduce(full, group=engine.optimizer.dp_process_group)
    return full.view_as(parameter)


def _scatter(engine: Any, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        _base(engine).state[parameter][key].copy_(value)
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
    """(where in the parameter, view into the flat state) of this rank's run of a parameter at stages 1 and 2."""
    flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    address = mapping.hp_fragment_address
    return mapping.lp_fragment_address, _base(engine).state[flat][key].narrow(0, address.start, address.numel)


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


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.dim() == 0


def _on_cpu(value: Any) -> Tensor:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else torch.tensor(float(value))
