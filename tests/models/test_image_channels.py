"""Networks for images of other than three channels, and weights for three that they start from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msanet.config import parse_config
from msanet.models import MODELS, build_model
from msanet.models.external import AdaptedNetwork, check_contract
from msanet.models.io import load_network, save_network
from msanet.models.pretrained import initialize
from msanet.models.resnet import ResNet
from msanet.training.network import build_network
from support.errors import raises_user_error
from support.library_networks import LIBRARY_NETWORKS, is_installed
from support.metadata import metadata

CLASSES = ("a", "b", "c")


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_extend_their_stems(name: str, tmp_path: Path) -> None:
    """An image whose channels are alike gives the same logits as before."""
    about = metadata(name, classes=CLASSES, width=0.05)
    torch.manual_seed(0)
    before = about.build().eval()
    save_network(tmp_path / "model.safetensors", dict(before.state_dict()), about)
    channels = 4 if name in ("unet", "deeplabv3", "attention_to_scale") else 2
    model = build_model(name, len(CLASSES), width=0.05, in_channels=channels).eval()
    assert model.in_channels == channels
    report = initialize(model, tmp_path / "model.safetensors", CLASSES)
    assert report.new == report.unused == () and f"extended from 3 to {channels} channels" in report.source
    gray = torch.rand(1, 1, 40, 56)
    with torch.no_grad():
        expected, found = before(gray.expand(-1, 3, -1, -1)), model(gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "hf-segformer", "timm-resnet", "timm-vit"])
def test_networks_of_libraries_extend_their_stems(name: str, tmp_path: Path) -> None:
    network, options, _ = LIBRARY_NETWORKS[name]
    if not is_installed(network):
        pytest.skip("its library is not installed")
    torch.manual_seed(0)
    before = build_model(network, len(CLASSES), **options).eval()
    torch.save(before.state_dict(), tmp_path / "weights.pth")
    model = build_model(network, len(CLASSES), in_channels=5, **options).eval()
    assert isinstance(model, AdaptedNetwork) and model.in_channels == model.layout.in_channels == 5
    assert initialize(model, tmp_path / "weights.pth", CLASSES).new == ()
    gray = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        expected, found = before(gray.expand(-1, 3, -1, -1)), model(gray.expand(-1, 5, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    check_contract(model, network)

    own = metadata(network, classes=CLASSES, in_channels=5, **options)
    save_network(tmp_path / "model.safetensors", dict(model.state_dict()), own)
    assert load_network(tmp_path / "model.safetensors", torch.device("cpu"))[0].in_channels == 5


def test_torchvisions_files_extend_too(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights: dict[str, Tensor] = {**ResNet("resnet50", 1 / 16).state_dict(), "fc.weight": torch.rand(10, 128)}
    torch.save(weights, tmp_path / "resnet.pth")
    model = build_model("attention_to_scale", 3, network="deeplabv3", width=1 / 16, in_channels=6)
    report = initialize(model, tmp_path / "resnet.pth", CLASSES)
    stem = model.state_dict()["network.trunk.conv1.weight"]
    assert "conv1.weight extended from 3 to 6 channels" in report.source
    torch.testing.assert_close(stem, torch.cat([weights["conv1.weight"]] * 2, dim=1) / 2)


def test_what_has_three_outputs_is_no_stem(tmp_path: Path) -> None:
    """FCN's upsampling of three classes has the shape (3, 3, 4, 4)."""
    about = metadata("fcn", classes=CLASSES, width=0.02)
    weights = about.build().state_dict()
    save_network(tmp_path / "model.safetensors", dict(weights), about)
    model = build_model("fcn", 3, width=0.02, in_channels=4)
    initialize(model, tmp_path / "model.safetensors", CLASSES)
    assert torch.equal(model.state_dict()["upscore_pool4.weight"], weights["upscore_pool4.weight"])


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("unet", {"in_channels": 0}, "MSA-MODEL-003"),
        ("timm:test_vit", {"in_channels": 0}, "MSA-MODEL-003"),
        ("torchvision:fcn_resnet50", {"in_channels": 4}, "MSA-MODEL-782"),
        (f"{Path(__file__).with_name('external_networks.py')}:Plain", {"in_channels": 4}, "MSA-MODEL-782"),
        ("unet", {"in_channels": 4, "width": 0.05}, "MSA-TRAIN-780"),
    ],
)
def test_what_cannot_be_is_one_sentence(name: str, options: dict[str, Any], code: str) -> None:
    if not is_installed(name):
        pytest.skip("its library is not installed")
    with raises_user_error(code, setting="model.in_channels", mentions=str(options["in_channels"])):
        build_network(parse_config({"model": {"name": name, **options}}, "test"), 3)


def test_a_network_for_other_channels_is_built_for_such_images() -> None:
    config = parse_config({"model": {"name": "unet", "width": 0.05, "in_channels": 4}}, "test")
    assert build_network(config, 3, image_channels=4).eval()(torch.rand(1, 4, 16, 16)).shape == (1, 3, 16, 16)
