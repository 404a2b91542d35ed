"""What is done with networks of libraries besides training: memory, freezing, compiling, scales, evaluation, export, replay."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import REPOSITORY
from msanet.api.evaluation import run_evaluation
from msanet.cli.evaluate import evaluation_job
from msanet.cli.main import main
from msanet.config import Config, EvaluationConfig, parse_config
from msanet.data.loader import batch_plan
from msanet.inference.export import export_network
from msanet.inference.predictor import Predictor
from msanet.models.external import trust
from msanet.models.io import save_network
from msanet.models.network import TrainingOutput
from msanet.sweep.plan import SweepPlan, plan_sweep
from msanet.sweep.settings import Axis, SweepConfig, SweepFile
from msanet.training.checkpoint.io import latest_valid
from msanet.training.engine.compiling import compile_blocks
from msanet.training.memory.estimate import step_memory
from msanet.training.network import build_for_estimate, build_network
from support.errors import raises_user_error
from support.library_networks import SOLID, is_installed
from support.metadata import metadata

NETWORKS = {name: case for name, case in SOLID.items() if is_installed(case[0])}
CLASSES = 11
ANY_SIZE = (
    *("unetplusplus", "manet", "linknet", "fpn", "deeplabv3plus"),
    *("timm-convnext", "timm-efficientnet", "lraspp", "user"),
)
"""Those that torch exports with a free height and width."""
NO_FREE_BATCH = ("timm-vit",)
"""Those that it does not export at all."""
ENCODERS = {"smp": "encoder", "timm": "backbone", "torchvision": "backbone"}


def settings(name: str, **sections: Any) -> Config:
    network, options, _ = NETWORKS[name]
    model = {"name": network, **options, **sections.pop("model", {})}
    return parse_config({"data": {"crop": [64, 64]}, "model": model, **sections}, "test")


def encoder(name: str) -> str:
    prefix = NETWORKS[name][0].split(":")[0]
    return ENCODERS.get(prefix, {"user": "body"}.get(name, name.removeprefix("hf-")))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_encoder_can_be_frozen_with_its_batchnorm(name: str) -> None:
    model = build_network(settings(name, model={"freeze": [f"{encoder(name)}.*"]}), CLASSES).train()
    prefix = f"network.{encoder(name)}."
    state = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith(prefix)}
    output = model(torch.rand(2, 3, 64, 64))
    (output.logits if isinstance(output, TrainingOutput) else output).square().mean().backward()
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())
    trained = {key for key, p in model.named_parameters() if p.grad is not None}
    assert trained and not any(key.startswith(prefix) for key in trained)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_memory_of_a_step_is_estimated(name: str) -> None:
    """As trainer.micro_batch_size=auto and msanet doctor do it: more than weights and Adam's two moments."""
    config = settings(name, trainer={"global_batch_size": 4, "activation_checkpointing": True})
    needs = step_memory(
        partial(build_for_estimate, config, CLASSES), config, (1,) * CLASSES, batch_plan(config, 1), (64, 64)
    )
    trained = sum(p.numel() for p in build_network(config, CLASSES).parameters() if p.requires_grad)
    assert needs.total > 12 * trained


@pytest.mark.parametrize("name", ["linknet", "pspnet", "smp-segformer", "hf-mobilevitv2", "timm-vit", "lraspp"])
def test_attention_to_scale_around_it(name: str) -> None:
    """Parameters that get no gradient are frozen there too."""
    if name not in NETWORKS:
        pytest.skip("its library is not installed")
    network, options, without_gradient = NETWORKS[name]
    words = ",".join(f"{key}={value}" for key, value in options.items() if not isinstance(value, list))
    model: dict[str, Any] = {
        "name": "attention_to_scale",
        "network": network,
        "network_options": words,
        "scales": "1,0.5",
    }
    model["attention_channels"] = 8
    built = build_network(parse_config({"model": model}, "test"), CLASSES).train()
    assert sum(not p.requires_grad for p in built.parameters()) == without_gradient
    output = built(torch.rand(2, 3, 61, 83))
    assert isinstance(output, TrainingOutput) and output.logits.shape == (2, CLASSES, 61, 83)
    total = output.logits.square().mean() + sum(x.square().mean() for x in output.auxiliary)
    total.backward()
    assert [key for key, p in built.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", ["fpn", "hf-segformer", "timm-convnext"])
def test_it_is_compiled(name: str) -> None:
    if name not in NETWORKS:
        pytest.skip("its library is not installed")
    image, found = torch.rand(2, 3, 64, 64), []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = build_network(settings(name), CLASSES).train()
        if compiles:
            compile_blocks(model, fixed_size=True, backend="eager")
        torch.manual_seed(1)  # of dropout
        found.append(model(image))
        found[-1].square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_predicts_windows_and_evaluates(name: str, shards: Path, tmp_path: Path) -> None:
    network, options, _ = NETWORKS[name]
    trust(network)
    about = metadata(network, **options)
    torch.manual_seed(0)
    model = about.build().eval()
    save_network(tmp_path / "model.safetensors", dict(model.state_dict()), about)
    predictor = Predictor(model, EvaluationConfig(precision="fp32", window=(40, 40), flip=True), about.mean, about.std)
    labels = predictor.labels(torch.randint(256, (53, 45, 3), dtype=torch.uint8))
    assert labels.shape == (53, 45) and int(labels.max()) < len(about.classes)
    words = ["--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(shards), "--split", "val"]
    run_evaluation(
        evaluation_job([*words, "evaluation.num_workers=0", "evaluation.panels=0", "evaluation.window_batch=2"])
    )
    assert (tmp_path / "evaluation-val.json").is_file()


@pytest.mark.parametrize(
    "name", [n if n in ("fpn", "pspnet") else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_it_is_exported(name: str, tmp_path: Path) -> None:
    """To ONNX for any size where torch can, else for one, after a sentence; the file is compared with torch."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if name not in ANY_SIZE:
        with raises_user_error("MSA-INFER-007", setting="--size"):
            _export(name, tmp_path)
    if name in NO_FREE_BATCH:
        with raises_user_error("MSA-INFER-007", setting="--size"):
            _export(name, tmp_path, (96, 160))
        return
    _export(name, tmp_path, None if name in ANY_SIZE else (96, 160))
    assert (tmp_path / "model.onnx").is_file()


def _export(name: str, folder: Path, size: tuple[int, int] | None = None) -> None:
    network, options, _ = NETWORKS[name]
    trust(network)
    about = metadata(network, **options)
    torch.manual_seed(0)
    export_network(folder / "model.onnx", "onnx", about.build().eval(), about, size)


@pytest.mark.parametrize("name", ["unet", "timm-vit"])
def test_the_doctor_examines_it(name: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, options, _ = NETWORKS[name]
    words = [f"model.{key}={value}" for key, value in options.items()]
    words += [f"data.path={shards}", f"run.dir={tmp_path / 'run'}", f"model.name={network}", "data.crop=[32,40]"]
    words += [
        "trainer.micro_batch_size=auto",
        "trainer.steps=600",
        "data.num_workers=0",
        "--ranks",
        "1",
        "--samples",
        "3",
    ]
    main(["doctor", *words, "--device-memory", "16"])
    said = capsys.readouterr().out
    assert "GB" in said and "unexpected" not in said and "MSA-" not in said, said


def sweep(shards: Path, folder: Path) -> SweepPlan:
    """Over options of a library's network."""
    space = {
        "model.encoder_name": Axis(choice=("tu-test_resnet", "tu-test_efficientnet")),
        "model.encoder_depth": Axis(choice=(4,)),
    }
    run = {
        "model.name": "smp:Unet",
        "model.decoder_channels": [32, 16, 8, 8],
        "data.crop": [64, 64],
        "data.num_workers": 0,
    }
    run |= {
        "trainer.steps": 4,
        "trainer.global_batch_size": 4,
        "trainer.checkpoint_every_steps": 2,
        "trainer.ema_decay": 0.9,
    }
    run |= {"trainer.val_every_epochs": 0, "evaluation.num_workers": 0, "trainer.micro_batch_size": "auto"}
    file = SweepFile(sweep=SweepConfig.model_validate({"folder": folder, "trials": 2}), run=run, space=space, full={})
    return plan_sweep(file, "<libraries>", [f"data.path={shards}"])


def train(plan: SweepPlan, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A trial, in a process of its own."""
    params = {"model.encoder_name": "tu-test_resnet", "model.encoder_depth": "4"}
    shim = f"{REPOSITORY}:{REPOSITORY}/tests/support/torchvision_shim"
    environment = {**os.environ, "PYTHONPATH": shim, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, *plan.command(params, run), *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)


def test_a_trial_that_is_killed_resumes_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    """And its run is evaluated and predicted with; one that diverges leaves a dump that replays."""
    pytest.importorskip("segmentation_models_pytorch")
    plan = sweep(shards, tmp_path / "sweep")
    killing = f"run.callbacks=[{REPOSITORY}/tests/training/own_callbacks.py:Killed]"
    killed = train(plan, tmp_path / "a", killing)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for folder, words in (("a", [killing]), ("b", [])):
        done = train(plan, tmp_path / folder, *words)
        assert done.returncode == 0, done.stderr
        assert "micro_batch_size=auto" in done.stderr
    ends = [latest_valid(tmp_path / folder / "checkpoints") for folder in "ab"]
    for first in ends[0].glob("*.safetensors"):  # type: ignore[union-attr]
        one, other = load_file(first), load_file(ends[1] / first.name)  # type: ignore[operator]
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), first.name

    trust("smp:Unet")
    run_evaluation(evaluation_job(["--run", str(tmp_path / "b"), "--split", "val", "evaluation.panels=0"]))
    images = next((shards.parent / "source" / "val").iterdir())
    assert main(["predict", "--run", str(tmp_path / "b"), "--out", str(tmp_path / "out"), "--images", str(images)]) == 0

    diverged = train(plan, tmp_path / "c", "optimizer.lr=1e30", "trainer.max_nonfinite_steps=0")
    assert diverged.returncode == 2, diverged.stderr
    (dump,) = (tmp_path / "c" / "failure_dump").iterdir()
    assert main(["replay", str(dump)]) == 0
