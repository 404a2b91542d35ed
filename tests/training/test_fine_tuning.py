"""What fine-tuning sets: frozen parameters, parameter groups, other optimizers; at each ZeRO stage, and over a resume."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import REPOSITORY
from msanet import distributed
from msanet.config import Config, OptimizerConfig, load_config, parse_config
from msanet.models import build_model
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.training.checkpoint.checkpointer import all_running_statistics
from msanet.training.checkpoint.io import write_checkpoint
from msanet.training.engine.compiling import compile_blocks
from msanet.training.engine.freezing import freeze
from msanet.training.engine.optimizer import build_optimizer, optimizer_label
from msanet.training.engine.other_optimizers import state_template
from msanet.training.engine.parameter_groups import layer_depths, parameter_groups
from msanet.training.engine.sync_batchnorm import CpuSyncBatchNorm, convert_sync_batchnorm
from msanet.training.memory.estimate import moments
from msanet.training.trainer import Trainer
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, run_steps, small_config, start

FROZEN = ("encoder.0", "decoder.*.bias")
OPTIMIZERS = f"{REPOSITORY}/tests/training/own_optimizers.py"


def optimizer(**settings: Any) -> OptimizerConfig:
    return parse_config({"optimizer": settings}, "test").optimizer


def _unet() -> Any:
    return build_model("unet", 3, width=0.02)


def test_frozen_batchnorm_keeps_its_statistics_and_uses_them() -> None:
    """One that a pattern matches, and one of which both parameters are frozen; also in a copy, and in training mode."""
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    freeze(model, ["1", "2.weight", "2.bias", "3.weight"])
    freeze(model, ["1", "2.weight", "2.bias", "3.weight"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["0.weight", "0.bias", "3.bias"]
    for own in (model, copy.deepcopy(model)):
        own.train()
        own(torch.randn(2, 3, 5, 5))
        for layer in (own[1], own[2]):
            assert not layer.training and not layer.running_mean.any() and not layer.num_batches_tracked
            x = torch.randn(2, 4, 3, 3)
            torch.testing.assert_close(layer(x), x, rtol=1e-4, atol=1e-4)  # mean 0, variance 1: not those of x
        assert own[3].training and own[3].running_mean.any()


def test_a_frozen_batchnorm_stays_frozen_where_others_are_synchronized() -> None:
    model: Any = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    freeze(model, ["0"])
    convert_sync_batchnorm(model, torch.device("cpu"))
    freeze(model, ["0"])
    model.train()(torch.randn(2, 4, 3, 3))
    first, second = model
    assert not isinstance(first, CpuSyncBatchNorm) and not first.running_mean.any()
    assert isinstance(second, CpuSyncBatchNorm) and second.running_mean is not None and second.running_mean.any()


def test_frozen_blocks_compile_and_recompute() -> None:
    """Each as one graph; recomputed activations give the same gradients, and leave the statistics alone."""
    model: Any = _unet().train()
    freeze(model, ["encoder.0"])
    image = torch.randn(2, 3, 32, 32)
    results = []
    for change in (lambda: None, lambda: checkpoint_activations(model), lambda: compile_blocks(model, True, "eager")):
        change()
        model.zero_grad()
        model(image).square().mean().backward()
        results.append([parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    assert not model.encoder[0][0][1].running_mean.any() and model.encoder[1][0][1].running_mean.any()


def test_patterns_that_match_nothing_are_refused() -> None:
    model = _unet()
    with raises_user_error("MSA-TRAIN-651", setting="model.freeze", mentions="did you mean 'encoder.0'"):
        freeze(model, ["encoders.0.*"])
    with raises_user_error("MSA-TRAIN-651", setting="optimizer.groups", mentions="classifer"):
        parameter_groups(model, optimizer(groups=[{"match": "classifer"}]))
    with raises_user_error("MSA-TRAIN-652", setting="model.freeze"):
        freeze(model, ["*"])


def test_the_first_group_that_matches_counts() -> None:
    model = _unet()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = optimizer(
        weight_decay=0.1,
        classifier_lr_mult=10.0,
        decay_norms_and_biases=False,
        groups=[{"match": "classifier", "lr_mult": 0.5}, {"match": "*.weight", "lr_mult": 0.3, "weight_decay": 0.2}],
    )
    found: dict[str, tuple[float, float, int]] = {}
    for group in parameter_groups(model, settings):
        found |= {names[id(p)]: (group["lr_factor"], group["weight_decay"], p.dim()) for p in group["params"]}
    assert found.keys() == set(names.values())
    assert found["classifier.weight"] == (5.0, 0.1, 4) and found["classifier.bias"] == (5.0, 0.0, 1)
    for name, (factor, decay, dimensions) in found.items():
        if not name.startswith("classifier"):
            assert factor == (0.3 if name.endswith(".weight") else 1.0)
            assert decay == (0.0 if dimensions == 1 else 0.2)


def test_layers_are_found_in_names() -> None:
    """A plain transformer; stages of blocks, whose blocks all count; a decoder's blocks are no layers of the backbone."""
    plain = ["cls_token", "patch_embed.w", "blocks.0.w", "blocks.1.w", "blocks.10.w", "norm.w", "head.w"]
    assert layer_depths(plain) == {
        "cls_token": 4,
        "patch_embed.w": 4,
        "blocks.0.w": 3,
        "blocks.1.w": 2,
        "blocks.10.w": 1,
    }
    nested = ["network.encoder.stem", "network.encoder.stages.0.blocks.0.w", "network.encoder.stages.0.blocks.1.w"]
    nested += ["network.encoder.stages.1.blocks.0.w", "network.decoder.blocks.0.w"]
    assert list(layer_depths(nested).values()) == [4, 3, 2, 1]
    assert layer_depths(["conv1.w", "layer1.0.w", "layer1.1.w", "layer2.0.w", "fc.w"]) == {
        "conv1.w": 3, "layer1.0.w": 2, "layer1.1.w": 2, "layer2.0.w": 1,
    }  # fmt: skip
    with raises_user_error("MSA-TRAIN-653", setting="optimizer.layer_decay"):
        layer_depths(["conv.weight"])
    model = build_model("deeplabv3", 3, width=0.02)
    factors = {group["lr_factor"] for group in parameter_groups(model, optimizer(layer_decay=0.5))}
    assert 1.0 in factors and 0.5 in factors and min(factors) < 0.1


@pytest.mark.parametrize(
    "name", ["adam", "sgd", "NAdam", "radam", "Adamax", "RMSprop", "Rprop", "ASGD", "Adadelta", f"{OPTIMIZERS}:Numbers"]
)
def test_optimizers_by_name(name: str) -> None:
    """They step; a step with found_inf changes neither weights nor state."""
    model = _unet()
    built = build_optimizer(model, optimizer(name=name, lr=0.01), zero_stage=1)

    def step(found_inf: float) -> dict[str, Any]:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        built.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        built.step()
        return copy.deepcopy({"weights": model.state_dict(), "state": built.state_dict()["state"]})

    once = step(0.0)
    torch.testing.assert_close(step(1.0), once, rtol=0, atol=0)
    assert not torch.equal(step(0.0)["weights"]["classifier.weight"], once["weights"]["classifier.weight"])


def test_optimizers_that_cannot_be_used_are_refused() -> None:
    def refused(code: str, setting: str, stage: int = 0, mentions: str = "", **settings: Any) -> None:
        with raises_user_error(code, setting=setting, mentions=mentions):
            build_optimizer(_unet(), optimizer(**settings), zero_stage=stage)

    refused("MSA-TRAIN-654", "optimizer.name", name="Adamm", mentions="did you mean 'Adam'?")
    refused("MSA-TRAIN-654", "optimizer.name", name="LBFGS")
    refused("MSA-TRAIN-654", "optimizer.name", name="torch.nn:Linear")
    refused("MSA-TRAIN-655", "optimizer.name", name="SparseAdam")
    refused("MSA-TRAIN-655", "optimizer.name", name="Muon", mentions="2D")  # the network has convolutions
    refused("MSA-TRAIN-655", "optimizer.options.bata", name="NAdam", options={"bata": 1}, mentions="betas")
    refused("MSA-TRAIN-655", "optimizer.options.betas", name="adam", options={"betas": [0.9, 0.9]})
    refused(
        "MSA-TRAIN-655", "optimizer.name", name="sgd", momentum=0.0, options={"nesterov": True}, mentions="Nesterov"
    )
    refused("MSA-TRAIN-655", "optimizer.options.lr", name="NAdam", options={"lr": 1})
    refused("MSA-TRAIN-655", "optimizer.name", name="NAdam", options={"betas": [2.0, 0.9]})
    refused("MSA-TRAIN-655", "optimizer.weight_decay", name="Rprop", weight_decay=0.1)
    refused("MSA-TRAIN-654", "optimizer.name", name=f"{OPTIMIZERS}:Lists")
    refused("MSA-CONFIG-651", "optimizer.name", name="torch.optim:NoSuchThing")
    for name in ("Adafactor", "Adagrad", f"{OPTIMIZERS}:NormOfTheParameter"):
        refused("MSA-TRAIN-656", "optimizer.name", name=name, stage=2)
        build_optimizer(_unet(), optimizer(name=name), zero_stage=0)


def test_settings_come_from_a_command_line() -> None:
    words = ['model.freeze=["*.bn1"]', "optimizer.groups=[{match: encoder.*, lr_mult: 1e-1}]", "optimizer.name=Adam"]
    config = load_config(None, [*words, "optimizer.options={eps: 1e-6, amsgrad: true}"])
    assert config.model.freeze == ("*.bn1",) and config.model.options == {}
    built = build_optimizer(_unet(), config.optimizer)
    assert type(built) is torch.optim.Adam and built.defaults["eps"] == 1e-6 and built.defaults["amsgrad"]
    assert {group["lr_factor"] for group in built.param_groups} == {0.1, 1.0}
    assert optimizer_label(config.optimizer) == "adam(amsgrad=True, eps=1e-6)" and moments(config.optimizer) == 3
    nadam = optimizer(name="NAdam", options={"betas": ["8e-1", 0.9]})
    assert build_optimizer(_unet(), nadam).defaults["betas"] == (0.8, 0.9)


def test_the_state_of_an_optimizer_is_known() -> None:
    assert state_template(optimizer(name="NAdam")).full_size == 2
    assert state_template(optimizer(name="RMSprop", options={"momentum": 0.9, "centered": True})).full_size == 3


def _fine_tuning(shards: str, stage: int, name: str) -> Config:
    """Frozen first block with their BatchNorm, and four groups."""
    groups = [{"match": "classifier", "weight_decay": 0.0}, {"match": "*.bias", "lr_mult": 0.5}]
    config = small_config(shards, stage, name=name, groups=groups, decay_norms_and_biases=False)
    settings = config.model.model_copy(update={"freeze": FROZEN})
    return config.model_copy(update={"model": settings})


def _save(trainer: Trainer, folder: str, name: str) -> None:
    checkpoint = trainer.checkpoint()
    distributed.on_main(lambda: write_checkpoint(Path(folder) / name, checkpoint, keep=1))


def _tensors(folder: Path, kind: str) -> dict[str, Tensor]:
    saved = newest(folder / kind)
    found = {f"weights/{name}": tensor for name, tensor in saved.weights.items()}
    found |= {f"ema/{name}": tensor for name, tensor in (saved.ema or {}).items()}
    return found | {f"{name}/{key}": tensor for name, state in saved.optimizer.items() for key, tensor in state.items()}


def _train(shards: str, folder: str, stage: int, name: str) -> None:
    trainer = start(_fine_tuning(shards, stage, name))
    _save(trainer, folder, "first")
    run_steps(trainer, 2)
    _save(trainer, folder, "second")
    run_steps(trainer, 2)
    _save(trainer, folder, "straight")
    statistics = all_running_statistics(trainer.engine, trainer.ema)
    assert statistics and not any("encoder.0." in key for key in statistics)
    trainer = start(_fine_tuning(shards, stage, name), newest(Path(folder) / "second"))
    run_steps(trainer, 2)
    _save(trainer, folder, "resumed")


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (0, f"{OPTIMIZERS}:Numbers"),
        (2, "NAdam"),
        (3, "ASGD"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, "adam"), (1, "adamw"), (3, "adam"))),
    ],
)
def test_frozen_parameters_stay_and_groups_resume_bit_exactly(
    shards: Path, tmp_path: Path, stage: int, name: str
) -> None:
    """On three ranks, of whose equal statistics a mean would have other bits."""
    run_ranks(3, __file__, "_train", {"shards": str(shards), "folder": str(tmp_path), "stage": stage, "name": name})
    first, straight, resumed = (_tensors(tmp_path, kind) for kind in ("first", "straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert [key for key, tensor in straight.items() if not torch.equal(tensor, resumed[key])] == []
    model = build_model("msanet", len(newest(tmp_path / "first").metadata.classes), width=0.125)
    freeze(model, FROZEN)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    frozen |= {name for name, _ in model.named_buffers() if name.startswith("encoder.0.")}
    assert frozen >= {"encoder.0.0.1.running_mean", "encoder.0.0.0.weight", "encoder.0.0.1.num_batches_tracked"}
    for kind in ("weights", "ema"):
        changed = {key for key in first if key.startswith(kind) and not torch.equal(first[key], straight[key])}
        assert changed == {f"{kind}/{name}" for name in model.state_dict() if name not in frozen}
    state = newest(tmp_path / "straight").optimizer
    assert state.keys() >= dict(model.named_parameters()).keys() - frozen and not frozen & state.keys()


def _save_two(shards: str, folder: str, name: str) -> None:
    trainer = start(_fine_tuning(shards, 1, name))
    run_steps(trainer, 2)
    _save(trainer, folder, "second")


def _what_goes_in_comes_out(shards: str, folder: str, name: str) -> None:
    saved = newest(Path(folder) / "second")
    for stage in (0, 2, 3):
        trainer = start(_fine_tuning(shards, stage, name), saved)
        again = trainer.checkpoint().optimizer
        for parameter, state in saved.optimizer.items():
            assert state.keys() == again[parameter].keys() and state
            assert all(torch.equal(tensor, again[parameter][key]) for key, tensor in state.items()), parameter
        run_steps(trainer, 1)
        print(f"stage {stage} went on")
    changed = _fine_tuning(shards, 1, name)
    changed = changed.model_copy(update={"model": changed.model.model_copy(update={"freeze": ("encoder.*",)})})
    with raises_user_error("MSA-CKPT-005", setting="model.freeze", mentions="run.allow_changes=[optimizer]"):
        start(changed, saved)
    allowed = changed.run.model_copy(update={"allow_changes": ("optimizer",)})
    trainer = start(changed.model_copy(update={"run": allowed}), saved)
    assert not any(trainer.checkpoint().optimizer.values()), "it starts from zero"


@pytest.mark.parametrize("name", ["adam", "ASGD", pytest.param("NAdam", marks=pytest.mark.slow)])
def test_groups_resume_at_another_stage_and_world_size(shards: Path, tmp_path: Path, name: str) -> None:
    """ASGD has scalars that depend on the group's learning rate."""
    arguments = {"shards": str(shards), "folder": str(tmp_path), "name": name}
    run_ranks(2, __file__, "_save_two", arguments)
    (said,) = run_ranks(1, __file__, "_what_goes_in_comes_out", arguments)
    assert all(f"stage {stage} went on" in said for stage in (0, 2, 3))


def _skip_a_step(shards: str, stage: int) -> None:
    trainer = start(_fine_tuning(shards, stage, "NAdam"))
    run_steps(trainer, 1)

    def held() -> dict[str, Tensor]:
        saved = trainer.checkpoint()
        return {name: tensor.clone() for name, tensor in saved.weights.items()} | {
            f"{name}/{key}": tensor.clone() for name, state in saved.optimizer.items() for key, tensor in state.items()
        }

    before = held()
    hook = trainer.engine.module.classifier.register_forward_hook(
        lambda module, inputs, output: output * (torch.nan if distributed.rank() == 1 else 1.0)
    )
    run_steps(trainer, 1)
    hook.remove()
    after = held()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()) and trainer.anomalies.skipped == 1
    run_steps(trainer, 1)
    moved = any(not torch.equal(tensor, after[name]) for name, tensor in held().items())
    assert moved == distributed.is_main()  # which alone has the tensors
    print("skipped")


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_step_that_is_not_finite_changes_nothing_with_any_optimizer(shards: Path, stage: int) -> None:
    outputs = run_ranks(2, __file__, "_skip_a_step", {"shards": str(shards), "stage": stage})
    assert all("skipped" in said for said in outputs) and "NAdam is not fused" in outputs[0]
