"""Optimizer state out of and into a DeepSpeed engine, whole tensors by parameter name.

DeepSpeed saves one file per rank in the layout of the stage, loads them only on the same number of ranks, and by
unpickling. Here each parameter's state is gathered to full size, so that a checkpoint fits any number of ranks and any
ZeRO stage, and holds nothing but tensors. What is gathered is rank 0's alone, one tensor after the other, so that a save
costs the other ranks no more than the largest tensor. This file is the only one that knows how DeepSpeed lays out its state
(0.19: `_hp_mapping` at stages 1 and 2, `ds_id` and partitioned groups at stage 3).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from msanet import distributed

State = dict[str, dict[str, Tensor]]
"""{parameter name: {state key such as `exp_avg`: full-size tensor, or 0-d `step`}}"""


def gather_weights(engine: Any, everywhere: bool = False) -> dict[str, Tensor]:
    """Full parameters and buffers as float32 on the CPU, by name. A collective: every rank calls it.

    The result is on rank 0, and empty on the others; with `everywhere` all get it.
    """
    keeps = everywhere or distributed.is_main()
    full = {name: _on_cpu(buffer) for name, buffer in engine.module.named_buffers() if keeps}
    for name, parameter in engine.module.named_parameters():
        with _whole(parameter):
            if keeps:
                full[name] = _on_cpu(parameter)
    return full


def local_weights(engine: Any) -> dict[str, Tensor]:
    """What this rank holds: each parameter, or at stage 3 its flat and padded partition; and floating-point buffers."""
    own = {name: getattr(parameter, "ds_tensor", parameter) for name, parameter in engine.module.named_parameters()}
    return own | {name: buffer for name, buffer in engine.module.named_buffers() if buffer.is_floating_point()}


def gather_local(engine: Any, local: dict[str, Tensor], everywhere: bool = False) -> dict[str, Tensor]:
    """Full tensors on the CPU out of tensors that are laid out as `local_weights`, and the other buffers.

    A collective whose result is where that of `gather_weights` is.
    """
    keeps = everywhere or distributed.is_main()
    full = {name: _on_cpu(local.get(name, buffer)) for name, buffer in engine.module.named_buffers() if keeps}
    for name, parameter in engine.module.named_parameters():
        own = local[name]
        if hasattr(parameter, "ds_id"):
            parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, own)
            own = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape) if keeps else own
        if keeps:
            full[name] = _on_cpu(own)
    return full


@torch.no_grad()
def scatter_local(engine: Any, full: dict[str, Tensor], local: dict[str, Tensor]) -> None:
    """Put this rank's share of full tensors into tensors that are laid out as `local_weights`."""
    parameters = dict(engine.module.named_parameters())
    for name, own in local.items():
        partitioned = hasattr(parameters.get(name), "ds_id")
        own.copy_(_partition(full[name], own.numel()) if partitioned else full[name])


def gather_optimizer_state(engine: Any) -> State:
    """Every parameter's full optimizer state on the CPU. A collective whose result is on rank 0, and empty on the others."""
    state = {name: _gather(engine, parameter) for name, parameter in engine.module.named_parameters()}
    return state if distributed.is_main() else {}


def scatter_optimizer_state(engine: Any, state: State) -> None:
    """Put a gathered state into a fresh engine. Parameters without state (frozen, or SGD without momentum) are left."""
    optimizer = _base(engine)
    example = next((entry for entry in state.values() if entry), {})
    for flat in _flat_parameters(engine):
        optimizer.state[flat] = {
            key: torch.zeros_like(flat) if value.dim() else value.to(flat.device, copy=True)
            for key, value in example.items()
        }
    for name, parameter in engine.module.named_parameters():
        for key, value in state.get(name, {}).items():
            if value.dim():
                _scatter(engine, parameter, key, value)


def local_gradients(engine: Any) -> list[Tensor]:
    """The gradients that this rank's optimizer steps on: after the backward that reduced them, before the step."""
    if engine.zero_optimization_stage() == 0:
        return [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    averaged_over_ranks = [
        gradient for group in engine.optimizer.averaged_gradients.values() for gradient in group or ()
    ]
    return averaged_over_ranks or [
        flat.grad for flat in _flat_parameters(engine) if flat.grad is not None
    ]  # where offloaded


def skip_next_step(engine: Any, skipped: Tensor) -> None:
    """Make the optimizer's next step do nothing where `skipped` (a scalar on the device) is 1, not 0.

    torch's fused optimizers then leave weights, moments and step counters as they are: the protocol of torch.amp.GradScaler.
    """
    _base(engine).found_inf = skipped.float().to(_flat_parameters(engine)[0].device)  # type: ignore[attr-defined]


def has_refused_step(engine: Any) -> bool:
    """Whether DeepSpeed itself left out the last step: at stages 1 to 3 it does so where the gradient's norm is not finite."""
    return bool(getattr(engine.optimizer, "overflow", False))


def start_momentum(engine: Any) -> None:
    """Give SGD its momentum of 0 before the first step: torch leaves it uninitialised where that step is skipped."""
    optimizer = _base(engine)
    if optimizer.defaults.get("momentum"):
        for flat in _flat_parameters(engine):
            optimizer.state[flat]["momentum_buffer"] = torch.zeros_like(flat)


def _gather(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    stage = engine.zero_optimization_stage()
    if stage == 0:
        own = _base(engine).state[parameter] if distributed.is_main() else {}
        return {key: _on_cpu(value) for key, value in own.items() if value is not None}
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
        if distributed.is_main():
            gathered[key] = _on_cpu(full)
    return gathered


def _gather_fragments(engine: Any, parameter: nn.Parameter, key: str) -> Tensor:
    """Stages 1 and 2: each rank holds a run of the parameter's elements, or none; sum them into place."""
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
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else torch.tensor(float(value))


def _whole(parameter: nn.Parameter) -> AbstractContextManager[Any]:
    """In it the parameter is full on every rank, at stage 3 too. A collective there."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
