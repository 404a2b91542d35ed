"""Networks from elsewhere: found by name, adapted to the contract of `SegmentationNetwork`, refused in one sentence."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from conftest import REPOSITORY
from msanet.models import build_model, check_model, model_options
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.external import AdaptedNetwork, check_contract, sources, trust
from msanet.models.io import load_network, save_network
from msanet.models.meta import on_meta_device
from msanet.models.network import TrainingOutput
from msanet.models.peak_memory import peak_bytes
from msanet.training.engine.compiling import compile_blocks
from msanet.training.engine.sync_batchnorm import CpuSyncBatchNorm, convert_sync_batchnorm
from support.errors import raises_user_error
from support.metadata import metadata

FILE = Path(__file__).with_name("external_networks.py")
CLASSES = 5


def build(name: str, classes: int = CLASSES, **options: Any) -> AdaptedNetwork:
    torch.manual_seed(0)
    model = build_model(f"{FILE}:{name}", classes, **options)
    assert isinstance(model, AdaptedNetwork)
    return model


@pytest.mark.parametrize(
    ("name", "multiple", "stride"),
    [("Plain", 4, 4), ("Divisible", 16, 1), ("Object", 4, 4), ("Pair", 4, 4), ("Auxiliary", 4, 4), ("Coarse", 32, 32)],
)
@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_any_network_gives_logits_of_any_image(name: str, multiple: int, stride: int, size: tuple[int, int]) -> None:
    model = build(name).eval()
    assert (model.layout.multiple, model.stride, model.layout.fixed) == (multiple, stride, False)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert model(image).shape == (2, CLASSES, *size)
        head = model.forward_head(image)
    assert head.logits.shape[2:] == tuple(-(-n // stride) for n in size)
    assert head.features["penultimate"].shape[1] == model.feature_channels["penultimate"] == 8


def test_logits_of_whole_cells_are_those_of_the_network_alone() -> None:
    model, image = build("Plain").eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = nn.functional.interpolate(model.network(image), scale_factor=4.0, mode="bilinear")
        torch.testing.assert_close(model(image), expected, rtol=0, atol=0)


def test_auxiliary_outputs_have_weights_in_training_only() -> None:
    model, image = build("Auxiliary"), torch.randn(2, 3, 64, 96)
    assert model.auxiliary_weights == (0.4,) and build("Auxiliary", auxiliary_weights=[0.1]).auxiliary_weights == (0.1,)
    output = model.train()(image)
    assert isinstance(output, TrainingOutput) and [x.shape for x in output.auxiliary] == [(2, CLASSES, 64, 96)]
    assert model.eval()(image).shape == (2, CLASSES, 64, 96)
    with raises_user_error("MSA-MODEL-509", setting="model.auxiliary_weights"):
        build("Auxiliary", auxiliary_weights=[0.1, 0.2])


def test_the_classifier_is_found_or_named() -> None:
    assert build("Plain").classifier_names == ("network.head",)
    assert build("Auxiliary").classifier_names == ("network.second", "network.head")
    assert build("HiddenLayerOfTheSameWidth", classes=8).classifier_names == ("network.head",)
    assert build("Plain", classifier="body.0").classifier_names == ("network.body.0",)
    with raises_user_error("MSA-MODEL-510", setting="model.classifier", mentions="head"):
        build("Plain", classifier="heads")


def test_options_come_from_the_signature() -> None:
    known = model_options(f"{FILE}:Plain")
    assert {"channels", "kinds", "ratio", "classifier", "auxiliary_weights", "in_channels"} == known.keys()
    assert build("Plain", channels=4, kinds=["x", "y"], ratio=2).network.options == (
        4,
        ("x", "y"),
        2.0,
    )  # lists as in YAML
    with raises_user_error("MSA-MODEL-002", setting="model.chanels", mentions="channels"):
        build("Plain", chanels=4)
    for wrong in ("4", 4.5, True, [4]):
        with raises_user_error("MSA-MODEL-003", setting="model.channels"):
            build("Plain", channels=wrong)
    with raises_user_error("MSA-MODEL-514", setting="model.channels"):
        build("needs_more")


@pytest.mark.parametrize(
    ("name", "code", "mentions"),
    [
        ("Plane", "MSA-MODEL-502", "Plain"),
        ("raises", "MSA-MODEL-506", "KeyError"),
        ("no_module", "MSA-MODEL-507", "list"),
        ("without_classes", "MSA-MODEL-504", "channels"),
        ("SevenClasses", "MSA-MODEL-513", "(2, 7, "),
        ("Vector", "MSA-MODEL-513", "(2, 5)"),
    ],
)
def test_what_breaks_the_contract_is_refused_in_one_sentence(name: str, code: str, mentions: str) -> None:
    with raises_user_error(code, setting="model.name", mentions=mentions):
        build(name)


def test_names_of_nothing_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    raising = tmp_path / "raising.py"
    raising.write_text("raise OSError('no disk')\n")
    for name, code in [
        ("unett", "MSA-MODEL-001"),
        ("no_package.networks:Net", "MSA-MODEL-502"),
        (f"{tmp_path}/none.py:Net", "MSA-MODEL-502"),
        (f"{broken}:Net", "MSA-MODEL-503"),
        (f"{raising}:Net", "MSA-MODEL-503"),
    ]:
        with raises_user_error(code, setting="model.name"):
            check_model(name, {})


def test_the_check_of_the_contract_leaves_no_trace_and_freezes_what_gets_no_gradient() -> None:
    model = build("Auxiliary")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert check_contract(model, "a") == ["network.unused.weight", "network.unused.bias"]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state()) and model.training
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"network.unused.weight", "network.unused.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("name", "code"), [("NotANumber", "MSA-MODEL-512"), ("FailsInTraining", "MSA-MODEL-511")])
def test_a_network_that_cannot_be_trained_is_refused_before_the_first_step(name: str, code: str) -> None:
    with raises_user_error(code, setting="model.name"):
        check_contract(build(name), name)


def test_a_network_for_one_size_says_so() -> None:
    model = build("Fixed")
    assert model.layout.fixed and model.layout.size == (224, 224)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, second = build("Plain"), build("Plain")  # the second finds the layout of the first
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_it_can_be_built_without_values() -> None:
    with on_meta_device():
        model = build("Divisible")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_attention_to_scale_wraps_it() -> None:
    model = build_model(
        "attention_to_scale", CLASSES, network=f"{FILE}:Plain", network_options="channels=16", scales="1,0.5"
    )
    assert model.classifier_names == ("network.network.head",)
    assert model.eval()(torch.randn(1, 3, 61, 83)).shape == (1, CLASSES, 61, 83)


def test_a_checkpoint_imports_code_only_if_the_user_names_it(tmp_path: Path) -> None:
    copy = tmp_path / "mine.py"
    copy.write_text(FILE.read_text() + f"\nopen({str(tmp_path / 'imported')!r}, 'w').close()\n")
    about = metadata(f"{FILE}:Plain", channels=4)
    model = build("Plain", classes=len(about.classes), channels=4)
    save_network(tmp_path / "model.safetensors", model.state_dict(), about.model_copy(update={"name": f"{copy}:Plain"}))
    with raises_user_error("MSA-MODEL-501", setting="--plugin", mentions=f"{copy}:Plain"):
        load_network(tmp_path / "model.safetensors", torch.device("cpu"))
    assert not (tmp_path / "imported").exists()
    trust(f"{copy}:Plain")
    loaded, found = load_network(tmp_path / "model.safetensors", torch.device("cpu"))
    assert (tmp_path / "imported").exists() and found.options == {"channels": 4}
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_an_installed_package_adds_networks_under_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("plain", "models.external_networks:Plain", sources.ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests"))
    monkeypatch.setattr(sources, "entry_points", lambda group: [point] if group == sources.ENTRY_POINTS else [])
    assert build_model("plain", CLASSES, channels=4).classifier_names == ("network.head",)
    with raises_user_error("MSA-MODEL-001", mentions="plain"):
        build_model("plein", CLASSES)


def test_the_example_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(f"{REPOSITORY}/examples/own_network.py:small_unet", CLASSES, channels=4)
    assert isinstance(model, AdaptedNetwork) and check_contract(model, "small_unet") == []
    assert model.eval()(torch.randn(1, 3, 61, 83)).shape == (1, CLASSES, 61, 83)


@pytest.mark.parametrize("name", ["Auxiliary", "Blocks"])
def test_activation_checkpointing_changes_no_number(name: str) -> None:
    image = torch.randn(2, 3, 64, 96)
    found = []
    for recompute in (False, True):
        model = build(name).train()
        if recompute:
            checkpoint_activations(model)
        torch.manual_seed(1)  # of dropout
        output = model(image)
        logits = output.logits if isinstance(output, TrainingOutput) else output
        logits.square().sum().backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        found.append((logits, gradients, dict(model.named_buffers())))
    (logits, gradients, buffers), (other_logits, other_gradients, other_buffers) = found
    assert torch.equal(logits, other_logits) and gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradients[key], other_gradients[key]) for key in gradients)
    assert all(torch.equal(buffers[key], other_buffers[key]) for key in buffers)


def test_activation_checkpointing_keeps_less() -> None:
    kept = []
    for recompute in (False, True):
        model, image = build("Blocks").train(), torch.randn(2, 3, 64, 96)
        if recompute:
            checkpoint_activations(model)
        kept.append(_kept_numbers(model, image))
    assert kept[1] < 0.5 * kept[0]


def _kept_numbers(model: nn.Module, image: torch.Tensor) -> int:
    """How many numbers a forward pass keeps for the backward pass."""
    total = 0

    def keep(x: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(image)
    return total


def test_it_is_compiled_in_as_many_graphs_as_it_takes() -> None:
    model, image = build("Breaks").train(), torch.randn(2, 3, 64, 96)
    expected = model(image)
    model.network.get_submodule("body.1").reset_running_stats()  # type: ignore[operator]
    compile_blocks(model, fixed_size=True, backend="eager")
    torch.testing.assert_close(model(image), expected)


def test_memory_of_a_step_is_estimated_without_values() -> None:
    bytes_by_size = []
    for side in (64, 128):
        with FakeTensorMode():
            model = build("Blocks").train()
            assert all(isinstance(tensor, FakeTensor) for tensor in model.state_dict().values())
            image = torch.empty(2, 3, side, side)
            bytes_by_size.append(peak_bytes(model, lambda model=model, image=image: model(image).sum().backward()))  # type: ignore[misc]
    assert 3 < bytes_by_size[1] / bytes_by_size[0] < 4.5


def test_synchronized_batchnorm_keeps_the_activation_of_timms_layer() -> None:
    class BatchNormAct2d(nn.BatchNorm2d):  # as in timm
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.drop(super().forward(x)))

    class Other(nn.BatchNorm2d):
        pass

    model, image = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)), torch.randn(2, 3, 8, 8)
    expected, names = model(image), list(model.state_dict())
    model[1].reset_running_stats()  # type: ignore[operator]
    convert_sync_batchnorm(model, torch.device("cpu"))
    assert isinstance(model[1], CpuSyncBatchNorm) and list(model.state_dict()) == names
    torch.testing.assert_close(model(image), expected)
    with raises_user_error("MSA-TRAIN-501", setting="trainer.sync_batchnorm", mentions="Other"):
        convert_sync_batchnorm(nn.Sequential(Other(4)), torch.device("cpu"))
