"""Networks of segmentation_models.pytorch, transformers, timm and torchvision, with random weights, small where they can be."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from msanet.models import build_model, check_model
from msanet.models.activation_checkpointing import checkpoint_activations
from msanet.models.external import AdaptedNetwork, check_contract, find_source, libraries, trust
from msanet.models.external.libraries import SOURCES
from msanet.models.io import load_network, save_network
from msanet.models.network import TrainingOutput
from msanet.models.pretrained import initialize
from support.errors import raises_user_error
from support.library_networks import LIBRARY_NETWORKS as NETWORKS
from support.library_networks import SEGFORMER, is_installed
from support.metadata import metadata

CLASSES = 11
SMALL = NETWORKS["unet"][1]


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], int]:
    if not is_installed(NETWORKS[request.param][0]):
        pytest.skip(f"the library of {request.param} is not installed")
    return NETWORKS[request.param]


def test_it_trains_saves_and_predicts_images_of_any_size(case: tuple[str, dict[str, Any], int], tmp_path: Path) -> None:
    name, options, without_gradient = case
    trust(name)
    torch.manual_seed(0)
    model = build_model(name, CLASSES, **options)
    assert isinstance(model, AdaptedNetwork) and not model.layout.fixed
    assert len(check_contract(model, name)) == without_gradient
    image, found = torch.randn(2, 3, *(max(2 * model.layout.multiple, side) for side in (66, 98))), []
    for recompute in (False, True):
        if recompute:
            checkpoint_activations(model)
        torch.manual_seed(1)
        buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
        output = model.train()(image)
        logits = output.logits if isinstance(output, TrainingOutput) else output
        assert logits.shape == (2, CLASSES, *image.shape[2:])
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found.append(torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True))
        model.load_state_dict(buffers, strict=False)
    for plain, recomputed in zip(*found, strict=True):
        assert (plain is None and recomputed is None) or torch.equal(plain, recomputed)

    path = tmp_path / "model.safetensors"
    save_network(path, dict(model.state_dict()), metadata(name, **options))
    loaded, about = load_network(path, torch.device("cpu"))
    odd = torch.randn(1, 3, image.shape[2] + 3, image.shape[3] + 7)
    with torch.no_grad():
        assert torch.equal(loaded(odd), model.eval()(odd)) and loaded(odd).shape[2:] == odd.shape[2:]
    assert about.options == options

    with FakeTensorMode():
        fake = build_model(name, CLASSES, **options)
        assert fake(torch.empty(2, 3, *image.shape[2:])) is not None


@pytest.mark.parametrize("prefix", SOURCES)
def test_a_network_that_a_library_does_not_have_is_refused(prefix: str) -> None:
    pytest.importorskip({"smp": "segmentation_models_pytorch", "hf": "transformers"}.get(prefix, prefix))
    with raises_user_error("MSA-MODEL-502", setting="model.name"):
        check_model(f"{prefix}:no_such_network", {})


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    find_source.cache_clear()
    with raises_user_error("MSA-MODEL-505", setting="model.name", mentions="msanet[smp]"):
        check_model("smp:Unet", {})


def test_a_library_that_cannot_be_imported_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError(f"operator {name}::nms does not exist")

    monkeypatch.setattr(libraries.importlib, "import_module", broken)
    find_source.cache_clear()
    with raises_user_error("MSA-MODEL-503", setting="model.name", mentions="timm::nms"):
        check_model("timm:resnet18", {})


def test_options_of_libraries_are_checked() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with raises_user_error("MSA-MODEL-002", setting="model.encoder", mentions="encoder_name"):
        check_model("smp:Unet", {"encoder": "resnet18"})
    with raises_user_error("MSA-MODEL-003", setting="model.encoder_depth"):
        check_model("smp:Unet", {"encoder_depth": "five"})
    with raises_user_error("MSA-MODEL-506", mentions="resnet19"):
        build_model("smp:Unet", CLASSES, encoder_name="resnet19")
    with raises_user_error("MSA-MODEL-002", setting="model.hidden_size"):
        check_model("hf:segformer", {"hidden_size": 3})


def test_normalization_is_that_of_the_pretrained_weights() -> None:
    pytest.importorskip("timm")
    for name, options, expected in [
        ("timm:tf_efficientnet_lite0", {}, 127.5),
        ("timm:resnet18", {}, 123.675),
        ("smp:Unet", {"encoder_name": "tu-tf_efficientnet_lite0"}, 127.5),
    ]:
        own = find_source(name).normalization(options)
        assert own is not None and own[0][0] == pytest.approx(expected)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = [
            build_model("smp:Unet", CLASSES, **SMALL),
            build_model("torchvision:lraspp_mobilenet_v3_large", CLASSES),
        ]
    assert all(isinstance(model, AdaptedNetwork) for model in built)


def test_weights_of_a_backbone_are_found_by_name_or_order(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    backbone = timm.create_model("test_efficientnet", num_classes=7).state_dict()
    renamed = {name.replace("blocks", "_layers").replace("conv", "_c"): tensor for name, tensor in backbone.items()}
    for number, weights in enumerate(
        [
            backbone,
            {f"module.backbone.{n}": t for n, t in backbone.items()},
            {"state_dict": backbone, "meta": {"a": 1}},
            renamed,
        ]
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(weights, path)
        model = build_model("timm:test_efficientnet", CLASSES)
        report = initialize(model, path, [str(k) for k in range(CLASSES)])
        own = {
            name.removeprefix("network.backbone."): t for name, t in model.state_dict().items() if ".backbone." in name
        }
        assert own and all(torch.equal(tensor, backbone[name]) for name, tensor in own.items())
        assert {name.split(".")[1] for name in report.new} == {"decoder", "classifier"}
        assert ("order" in report.source) == (weights is renamed) and any(
            "classifier" in name for name in report.unused
        )
    torch.save({f"layer{n}.weight": torch.zeros(3, n) for n in range(1, 30)}, tmp_path / "other.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with raises_user_error("MSA-MODEL-016", setting="model.pretrained", mentions="layer1.weight"):
        initialize(model, tmp_path / "other.pth", [str(k) for k in range(CLASSES)])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_of_a_whole_network_with_other_classes(tmp_path: Path) -> None:
    """A folder that transformers has saved: all but the classifier."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(**SEGFORMER, num_labels=150)
    saved = transformers.SegformerForSemanticSegmentation(config)
    saved.save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", CLASSES)
    report = initialize(model, tmp_path, [str(k) for k in range(CLASSES)])
    assert {name.rpartition(".")[0] for name in report.new} == {"network.decode_head.classifier"}
    expected = saved.state_dict()
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], expected[name.removeprefix("network.")])
