"""Optimizers by name besides the three that are fused: all of torch.optim, and any class by its import path."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msanet.config import OptimizerConfig
from msanet.errors import UserError, nearest
from msanet.plugins import first_line, require_plugin

FUSED = ("adam", "adamw", "sgd")
"""The names that `build_optimizer` knows itself, with settings of their own."""
_OWN_SETTINGS = {"lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay", "params": "the network"}
_BY_NAME = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}


class SkippableStep:
    """Mixed into an optimizer that is not fused: with `found_inf` 1 a step does nothing, which asks the device once."""

    found_inf: Tensor | None = None
    state_template: "StateTemplate"

    def step(self, closure: Any = None) -> Any:
        if self.found_inf is not None and bool(self.found_inf):
            return None
        return super().step(closure)  # type: ignore[misc]


@dataclass(frozen=True)
class StateTemplate:
    """What an optimizer keeps for a parameter, as found by two steps with a small one.

    Args:
        values: An example of the state by key.
        device: Of that parameter.
        is_elementwise: Whether each element's step depends on that element alone, so that ZeRO may divide parameters.
    """

    values: dict[str, Any]
    device: torch.device
    is_elementwise: bool

    @property
    def full_size(self) -> int:
        """Values per element of a parameter."""
        return sum(isinstance(value, Tensor) and value.dim() > 0 for value in self.values.values())

    def restored(self, saved: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
        """Scalars of a saved state as the optimizer had them: numbers, or tensors on the host or the parameter's device."""
        found: dict[str, Any] = {key: None for key, value in self.values.items() if value is None}
        for key, scalar in saved.items():
            example = self.values.get(key)
            if isinstance(example, int | float):
                found[key] = type(example)(scalar.item())
            else:
                is_on_host = isinstance(example, Tensor) and example.device != self.device
                found[key] = scalar.to("cpu" if is_on_host else device, copy=True)
        return found


def build_other_optimizer(
    groups: list[dict[str, Any]], config: OptimizerConfig, zero_stage: int, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that `optimizer.name` names, which skips a step like the fused ones.

    Raises:
        UserError: There is none, it does not take an option, or it does not work at this ZeRO stage.
    """
    kind, arguments = optimizer_class(config.name), constructor_arguments(config)
    if "weight_decay" not in arguments and any(group["weight_decay"] for group in groups):
        message = (
            f"optimizer.weight_decay is set, but {config.name} takes none; set it to 0, or choose another optimizer"
        )
        raise UserError("MSA-TRAIN-655", message, setting="optimizer.weight_decay")
    template = state_template(config, device)
    skippable = type(kind.__name__, (SkippableStep, kind), {"state_template": template})
    try:
        optimizer: torch.optim.Optimizer = skippable(groups, **arguments)
    except Exception as error:  # whatever its constructor checks
        raise refused_optimizer(config, error) from error
    shapes = [key for key, value in template.values.items() if isinstance(value, Tensor) and value.dim() > 0]
    if zero_stage > 0 and (not template.is_elementwise or optimizer.state):
        why = "starts with a state" if optimizer.state else f"needs whole parameters (its state is {', '.join(shapes)})"
        raise UserError(
            "MSA-TRAIN-656",
            f"optimizer.name={config.name} {why}, but trainer.zero_stage={zero_stage} divides and flattens them; set "
            "trainer.zero_stage=0, or choose another optimizer",
            setting="optimizer.name",
        )
    return optimizer


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of that name. Raises UserError if there is none, or it cannot be used here."""
    if ":" in name:
        kind = require_plugin(name, "optimizer.name")
    elif name.lower() in _BY_NAME:
        kind = _BY_NAME[name.lower()]
    else:
        known = nearest(name, [*FUSED, *sorted(kind.__name__ for kind in _BY_NAME.values())])
        message = f"optimizer.name is '{name}', which torch.optim does not have; {known}; or package.module:Class"
        raise UserError("MSA-TRAIN-654", message, setting="optimizer.name")
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        message = f"optimizer.name is '{name}', expected a subclass of torch.optim.Optimizer; fix the name"
        raise UserError("MSA-TRAIN-654", message, setting="optimizer.name")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure and closure.default is inspect.Parameter.empty:
        message = f"optimizer.name is '{name}', which evaluates the loss several times a step; choose another optimizer"
        raise UserError("MSA-TRAIN-654", message, setting="optimizer.name")
    return kind


def constructor_arguments(config: OptimizerConfig) -> dict[str, Any]:
    """`optimizer.options`, checked against the constructor's signature, with lr and weight_decay where it takes them."""
    parameters = inspect.signature(optimizer_class(config.name)).parameters
    takes_others = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    own = dict(_OWN_SETTINGS)
    if config.name in FUSED:
        own |= {"fused": "nothing, since it always is"}
        own |= {"momentum": "optimizer.momentum"} if config.name == "sgd" else {"betas": "optimizer.betas"}
    for key in config.options:
        setting = f"optimizer.options.{key}"
        if key in own:
            message = f"{setting} is decided by {own[key]}; remove it"
            raise UserError("MSA-TRAIN-655", message, setting=setting)
        if key not in parameters and not takes_others:
            known = nearest(key, sorted(parameters.keys() - own.keys()))
            message = f"{setting} is not an option of {config.name}; {known}"
            raise UserError("MSA-TRAIN-655", message, setting=setting)
    given = {key: _argument(value) for key, value in config.options.items()}
    settings = {"lr": config.lr, "weight_decay": config.weight_decay}
    return {key: value for key, value in settings.items() if key in parameters or takes_others} | given


def _argument(value: Any) -> Any:
    """A value of YAML, which has no tuples and reads `1e-6` as text, as a constructor takes it."""
    if isinstance(value, list | tuple):
        return tuple(map(_argument, value))
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def state_template(config: OptimizerConfig, device: torch.device | str = "cpu") -> StateTemplate:
    """What the optimizer keeps. Raises UserError if it does not work, or keeps other than tensors and numbers."""
    kind, arguments = optimizer_class(config.name), constructor_arguments(config)
    whole = torch.linspace(-1, 1, 12, device=device).view(3, 4)
    try:
        state, alone = _two_steps(kind, arguments, [whole])
        together = _divided(kind, arguments, whole)
    except Exception as error:
        raise refused_optimizer(config, error) from error
    others = {key: value for key, value in state.items() if not isinstance(value, Tensor | int | float | None)}
    if others:
        key, value = next(iter(others.items()))
        found = (
            f"optimizer.name={config.name} keeps '{key}' of type {type(value).__name__}, expected tensors and numbers"
        )
        raise UserError("MSA-TRAIN-654", f"{found}; choose another optimizer", setting="optimizer.name")
    fits = all(value.shape in ((), whole.shape) for value in state.values() if isinstance(value, Tensor))
    is_elementwise = fits and together is not None and torch.allclose(alone.flatten(), together, rtol=1e-4, atol=1e-6)
    return StateTemplate(state, whole.device, is_elementwise)


def _divided(kind: Any, arguments: dict[str, Any], whole: Tensor) -> Tensor | None:
    """The result for a flat and divided parameter; None if the optimizer refuses one."""
    try:
        return _two_steps(kind, arguments, list(whole.flatten().split([5, 7])))[1]
    except ValueError:  # such as Muon's, which takes matrices only
        return None


def _two_steps(kind: Any, arguments: dict[str, Any], values: list[Tensor]) -> tuple[dict[str, Any], Tensor]:
    """State of the first parameter, and all parameters, after two steps with gradients that depend on the element alone."""
    parameters = [nn.Parameter(value.clone()) for value in values]
    optimizer = kind(parameters, **{**arguments, **({"lr": 0.1} if "lr" in arguments else {})})
    for factor in (5.0, -3.0):
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = (factor * value).sin()
        optimizer.step()
    result = parameters[0].detach() if len(parameters) == 1 else torch.cat([p.detach().flatten() for p in parameters])
    return dict(optimizer.state[parameters[0]]), result


def refused_optimizer(config: OptimizerConfig, error: Exception) -> UserError:
    """For an optimizer that raises when it is made, or in a step."""
    if isinstance(error, UserError):
        return error
    given = ", ".join(f"{key}={value}" for key, value in config.options.items())
    found = f"optimizer.name={config.name} with options ({given}) raised {type(error).__name__}: {first_line(error)}"
    return UserError(
        "MSA-TRAIN-655", f"{found}; change its options, or choose another optimizer", setting="optimizer.name"
    )
