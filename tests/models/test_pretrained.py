"""Weights out of files land where they belong, every key is accounted for, and nothing else is loaded."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.errors import UserError
from msanet.models import MODELS, build_model
from msanet.models.io import save_network
from msanet.models.network import SegmentationNetwork
from msanet.models.pretrained import initialize
from msanet.models.resnet import ResNet
from support import metadata

WIDTH = 1 / 16  # VGG's channels 8, 8, 16, 32, 32 and fc6 of 256, LargeFOV's of 64
CHANNELS: list[int | str] = [8, 8, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"]
CLASSES = ("sky", "road", "car")
OTHERS = ("person", "tree", "dog", "cat", "boat")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class PlainVGG(nn.Module):
    """VGG-16 as torchvision lays it out, narrow, written without ours."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in CHANNELS:
            if isinstance(channels, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU()]
                previous = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(32 * 49, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)
        )  # fmt: skip
        for parameter in self.parameters():  # biases too
            nn.init.normal_(parameter, std=0.05 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5)


@pytest.fixture(scope="module")
def vgg() -> PlainVGG:
    torch.manual_seed(1)
    return PlainVGG().eval()


@pytest.fixture(scope="module")
def vgg_file(vgg: PlainVGG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(vgg.state_dict(), path)
    return path


def resnet_weights(backbone: str = "resnet50", norm: str = "batch") -> dict[str, Tensor]:
    """As torchvision names them, no two tensors alike, with ImageNet's classifier."""
    torch.manual_seed(2)
    weights = ResNet(backbone, WIDTH, norm=norm).state_dict()  # type: ignore[arg-type]
    weights = {name: torch.rand(t.shape) if t.is_floating_point() else torch.tensor(7) for name, t in weights.items()}
    return {**weights, "fc.weight": torch.rand(10, 128), "fc.bias": torch.rand(10)}


def saved(path: Path, weights: Any) -> Path:
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def network(name: str, classes: tuple[str, ...] = CLASSES, seed: int = 3, **options: Any) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_model(name, len(classes), **{"width": WIDTH, **options})


def checkpoint(
    folder: Path, name: str, classes: tuple[str, ...] = CLASSES, **options: Any
) -> tuple[Path, dict[str, Tensor]]:
    """A trained network's model.safetensors, no tensor as it was initialized; and the tensors."""
    torch.manual_seed(4)
    options = {"width": WIDTH, **options}
    weights = build_model(name, len(classes), **options).state_dict()
    weights = {name: torch.rand(t.shape) if t.is_floating_point() else torch.tensor(7) for name, t in weights.items()}
    save_network(folder / "model.safetensors", weights, metadata.metadata(name, classes=classes, **options))
    return folder / "model.safetensors", weights


def refuses(code: str, name: str, path: Path, *expected: str, **options: Any) -> bool:
    """Whether the error has this code and names the path and all of `expected`, and the network is unchanged."""
    model, fresh = network(name, **options), network(name, **options).state_dict()
    with pytest.raises(UserError) as refusal:
        initialize(model, path, CLASSES)
    sentence = str(refusal.value)
    assert refusal.value.code == code, refusal.value.code
    unchanged = all(torch.equal(tensor, fresh[key]) for key, tensor in model.state_dict().items())
    return unchanged and "\n" not in sentence and all(part in sentence for part in (str(path), *expected))


# --- torchvision's VGG-16 ---


def test_vgg_trunk_equals_the_file(vgg: PlainVGG, vgg_file: Path) -> None:
    image = torch.randn(1, 3, 64, 96)
    model = network("fcn").eval()
    initialize(model, vgg_file, CLASSES)
    with torch.no_grad():
        assert vgg.features(image).std() > 0.01
        torch.testing.assert_close(model.get_submodule("trunk")(image)[-1], vgg.features(image))


def test_fcn_fc7_is_the_fully_connected_layers_at_the_centre(vgg: PlainVGG, vgg_file: Path) -> None:
    """On a 7x7 map the kernel of the same-padded convolution lies on all of it at the center cell only."""
    model = network("fcn").eval()
    initialize(model, vgg_file, CLASSES)
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        map_NCHW = vgg.features(image)
        fc6, fc7 = model.get_submodule("fc")(map_NCHW)
        linear6 = vgg.classifier[:2](map_NCHW.flatten(1))
        torch.testing.assert_close(fc6[:, :, 3, 3], linear6)
        torch.testing.assert_close(fc7[:, :, 3, 3], vgg.classifier[:5](map_NCHW.flatten(1)))
        torch.testing.assert_close(model.forward_head(image).features["penultimate"][:, :, 3, 3], fc7[:, :, 3, 3])
        assert not torch.allclose(fc6[:, :, 2, 3], linear6)


@pytest.mark.parametrize("name", ["deeplab_largefov", "deeplab_msc_largefov", "attention_to_scale"])
def test_largefov_decimates(name: str, vgg: PlainVGG, vgg_file: Path) -> None:
    """Rows and columns 0, 3, 6 of 7 and every fourth filter; fc7 has the inputs that fc6 kept."""
    model = network(name)
    report = initialize(model, vgg_file, CLASSES)
    found, theirs = model.state_dict(), vgg.state_dict()
    fc = "network.fc" if name == "attention_to_scale" else "fc"
    fc6, fc7 = theirs["classifier.0.weight"], theirs["classifier.3.weight"]
    for f in range(64):
        for c in (0, 1, 31):
            by_hand = [[fc6[4 * f, c * 49 + row * 7 + column] for column in (0, 3, 6)] for row in (0, 3, 6)]
            assert torch.equal(found[f"{fc}.fc6.weight"][f, c], torch.tensor(by_hand))
        assert found[f"{fc}.fc6.bias"][f] == theirs["classifier.0.bias"][4 * f]
        assert torch.equal(found[f"{fc}.fc7.weight"][f, :, 0, 0], fc7[4 * f, 0:256:4])
        assert found[f"{fc}.fc7.bias"][f] == theirs["classifier.3.bias"][4 * f]
    assert report.unused == ("classifier.6.weight", "classifier.6.bias")
    assert not any("trunk" in key or ".fc." in key for key in report.new)


def test_report_names_every_key(vgg_file: Path) -> None:
    model = network("deeplab_largefov")
    report = initialize(model, vgg_file, CLASSES)
    assert len(report.loaded) == 26 + 4
    assert report.text(MEAN, STD).splitlines() == [
        f"pretrained: 30 tensors from '{vgg_file}', torchvision's VGG-16",
        "  new, 2: fc8.weight, fc8.bias",
        "  not used, 2: classifier.6.weight, classifier.6.bias",
    ]
    warning = report.text((127.5, 127.5, 127.5), STD).splitlines()[-1]
    assert warning.startswith("warning: ") and "127.5" in warning and "123.675" in warning


def test_long_reports_are_wrapped_and_complete(tmp_path: Path) -> None:
    model = network("deeplabv3")
    report = initialize(model, saved(tmp_path / "r50.pth", resnet_weights()), CLASSES)
    text = report.text(MEAN, STD)
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert set(report.new) | set(report.unused) <= set(re.findall(r"[\w.]+", text))
    assert set(report.loaded) | set(report.new) == model.state_dict().keys()
    assert not set(report.loaded) & set(report.new)


def test_without_its_classifier_fc6_and_fc7_are_new(vgg: PlainVGG, tmp_path: Path) -> None:
    features = {name: t for name, t in vgg.state_dict().items() if name.startswith("features.")}
    report = initialize(network("deeplab_largefov"), saved(tmp_path / "features.pth", features), CLASSES)
    assert len(report.loaded) == 26
    assert {"fc.fc6.weight", "fc.fc7.bias", "fc8.weight"} <= set(report.new)


@pytest.mark.parametrize("form", ["state_dict", "model", "module", "legacy", "half", "safetensors", "parameters"])
def test_every_form_gives_the_same_network(form: str, vgg: PlainVGG, vgg_file: Path, tmp_path: Path) -> None:
    weights = vgg.state_dict()
    path = tmp_path / "weights"  # the content tells, not the name
    match form:
        case "state_dict" | "model":
            torch.save({form: weights, "epoch": 90}, path)
        case "module":
            torch.save({"state_dict": {f"module.{name}": t for name, t in weights.items()}}, path)
        case "legacy":
            torch.save(weights, path, _use_new_zipfile_serialization=False)
        case "half":
            torch.save({name: t.half() for name, t in weights.items()}, path)
        case "parameters":
            torch.save(dict(vgg.named_parameters()), path)
        case "safetensors":
            save_file(weights, path)
    model, expected = network("fcn"), network("fcn")
    report = initialize(model, path, CLASSES)
    assert report.loaded == initialize(expected, vgg_file, CLASSES).loaded
    rtol, atol = (1e-3, 1e-4) if form == "half" else (0.0, 0.0)
    for name, tensor in expected.state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=rtol, atol=atol)


# --- prefixes of wrappers ---


@pytest.mark.parametrize(
    "prefix", ["backbone.", "model.", "module.", "_orig_mod.", "encoder.", "module._orig_mod.model."]
)
def test_prefixes_of_wrappers_are_removed_and_said(prefix: str, tmp_path: Path) -> None:
    weights = resnet_weights()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    model, expected = network("deeplabv3"), network("deeplabv3")
    report = initialize(model, saved(tmp_path / "wrapped.pth", wrapped), CLASSES)
    assert report.loaded == initialize(expected, saved(tmp_path / "plain.pth", weights), CLASSES).loaded
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert f"without '{prefix.split('.')[0]}.'" in report.text(MEAN, STD)


def test_a_backbone_with_a_head_of_another_library_is_refused(tmp_path: Path) -> None:
    weights = {f"backbone.{name}": tensor for name, tensor in resnet_weights().items()}
    path = saved(tmp_path / "segmentor.pth", {**weights, "decode_head.conv_seg.weight": torch.rand(3, 8, 1, 1)})
    with pytest.raises(UserError, match="decode_head"):
        initialize(network("deeplabv3"), path, CLASSES)


def test_prefixes_stay_where_two_tensors_would_get_one_name(tmp_path: Path) -> None:
    weights = resnet_weights()
    path = saved(
        tmp_path / "two.pth", {**weights, **{f"encoder.{name}": tensor + 1 for name, tensor in weights.items()}}
    )
    with pytest.raises(UserError, match="encoder"):
        initialize(network("deeplabv3"), path, CLASSES)


# --- torchvision's ResNets ---


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_resnet_trunk_is_the_files(backbone: str, norm: str, tmp_path: Path) -> None:
    weights = resnet_weights(backbone)
    model = network("deeplabv3", backbone=backbone, norm=norm)
    report = initialize(model, saved(tmp_path / "resnet.safetensors", weights), CLASSES)
    trunk = model.get_submodule("trunk").state_dict()
    assert trunk.keys() == weights.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trunk.items())
    assert sorted(report.unused) == ["fc.bias", "fc.weight"]
    assert {name.split(".")[0] for name in report.new} == {"aspp", "classifier"}


def test_resnet_without_batch_counters(tmp_path: Path) -> None:
    """As in torchvision's older files; the counters are named as new."""
    weights = {name: t for name, t in resnet_weights().items() if "num_batches" not in name}
    model = network("attention_to_scale", network="deeplabv3")
    report = initialize(model, saved(tmp_path / "old.pth", weights), CLASSES)
    found = model.state_dict()
    assert torch.equal(found["network.trunk.layer4.2.bn3.running_var"], weights["layer4.2.bn3.running_var"])
    assert len([name for name in report.new if "trunk" in name]) == 53
    assert all(name.endswith("num_batches_tracked") for name in report.new if "trunk" in name)


def test_group_norm_gets_no_batch_norm(tmp_path: Path) -> None:
    """Not even its weight and bias, which have the same names and shapes; what a GroupNorm trained fits."""
    batch, group = saved(tmp_path / "b.pth", resnet_weights()), saved(tmp_path / "g.pth", resnet_weights(norm="group"))
    wants = ("trunk.bn1.running_mean", "model.norm=batch or model.norm=frozen")
    assert refuses("MSA-MODEL-016", "deeplabv3", batch, *wants, norm="group")
    assert refuses(
        "MSA-MODEL-016",
        "deeplabv3",
        group,
        "missing in the file: trunk.bn1.running_mean",
        "model.norm=group",
        norm="batch",
    )
    report = initialize(network("deeplabv3", norm="group"), group, CLASSES)
    assert "trunk.bn1.weight" in report.loaded


# --- files that do not fit ---


def test_wrong_depth_width_or_network(vgg: PlainVGG, vgg_file: Path, tmp_path: Path) -> None:
    resnet = saved(tmp_path / "r101.pth", resnet_weights("resnet101"))
    assert refuses(
        "MSA-MODEL-016",
        "deeplabv3",
        resnet,
        "resnet101",
        "trunk.layer3.22.conv3.weight",
        "use it for deeplabv3 with model.ba",
    )
    assert refuses("MSA-MODEL-016", "fcn", resnet, "torchvision's resnet101")
    for name in ("msanet", "unet", "deeplabv3"):
        assert refuses("MSA-MODEL-016", name, vgg_file, "torchvision's VGG-16", "use it for fcn, deeplab_largefov")
    assert refuses(
        "MSA-MODEL-016",
        "fcn",
        vgg_file,
        "of another shape or type: trunk.features.0.weight",
        "model.width=1",
        width=0.2,
    )
    deeper = {**vgg.state_dict(), "features.30.weight": torch.rand(32, 32, 3, 3)}
    assert refuses(
        "MSA-MODEL-016",
        "fcn",
        saved(tmp_path / "v17.pth", deeper),
        "VGG-17",
        "not in the network: trunk.features.30.weight",
    )
    normed = {**vgg.state_dict(), "features.1.weight": torch.rand(8)}
    assert refuses(
        "MSA-MODEL-016", "fcn", saved(tmp_path / "bn.pth", normed), "VGG-16 with BatchNorm", "without BatchNorm"
    )
    wide = {**resnet_weights(), "layer1.0.conv2.weight": torch.rand(16, 16, 3, 3)}
    assert refuses(
        "MSA-MODEL-016", "deeplabv3", saved(tmp_path / "wide.pth", wide), "a ResNet of (3, 4, 6, 3) blocks", "resnet50"
    )


@pytest.mark.parametrize(
    ("key", "value", "code", "expected"),
    [
        ("features.28.bias", None, "MSA-MODEL-016", "missing in the file: trunk.features.28.bias"),
        ("classifier.3.bias", None, "MSA-MODEL-016", "missing in the file: fc.fc7.bias"),
        ("classifier.0.weight", torch.rand(256, 100), "MSA-MODEL-016", "of another shape or type: fc.fc6.weight"),
        ("classifier.0.bias", torch.rand(256, 2), "MSA-MODEL-016", "of another shape or type: fc.fc6.bias"),
        (
            "classifier.0.bias",
            torch.ones(256, dtype=torch.int8),
            "MSA-MODEL-016",
            "of another shape or type: fc.fc6.bias",
        ),
        ("classifier.3.scale", torch.rand(4), "MSA-MODEL-016", "not in the network: fc.fc7.scale"),
        ("extra", torch.rand(4), "MSA-MODEL-016", "not in the network: trunk.extra"),
        ("classifier.0.weight", torch.full((256, 1568), torch.nan), "MSA-MODEL-017", "'fc.fc6.weight'"),
    ],
)
def test_part_of_a_trunk_is_an_error(
    key: str, value: Tensor | None, code: str, expected: str, vgg: PlainVGG, tmp_path: Path
) -> None:
    weights = {name: t for name, t in {**vgg.state_dict(), key: value}.items() if t is not None}
    assert refuses(code, "fcn", saved(tmp_path / "part.pth", weights), expected)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_not_run(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "vgg16.pth"
    content = {"features.0.weight": Malicious(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert refuses("MSA-MODEL-018", "fcn", path, ".safetensors")
    assert not marker.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert marker.exists(), "the file would have run code"


def test_pickled_networks_are_refused(vgg: PlainVGG, tmp_path: Path) -> None:
    torch.save(vgg, tmp_path / "model.pth")
    assert refuses("MSA-MODEL-018", "fcn", tmp_path / "model.pth", "state_dict")


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        (b"", "MSA-MODEL-015", "empty"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "MSA-MODEL-015", "a web page (HTML)"),
        (b"\xef\xbb\xbf \n<HTML lang='en'>", "MSA-MODEL-015", "a web page (HTML)"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "MSA-MODEL-015", "an XML document"),
        (b'{"message": "Not Found"}', "MSA-MODEL-015", "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "MSA-MODEL-015", "Git LFS"),
        (b"<!DOCTYPE html><title>404</title>", "MSA-MODEL-015", "VGG-16"),
        (b"PK\x03\x04 and no more", "MSA-MODEL-008", "damaged"),
        (b"\x80\x02hello", "MSA-MODEL-008", "damaged"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{", "MSA-MODEL-008", "damaged"),
    ],
)
def test_files_of_another_kind(content: bytes, code: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    assert refuses(code, "fcn", tmp_path / "weights.pth", expected)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files(form: str, vgg: PlainVGG, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    if form == "safetensors":
        save_file(vgg.state_dict(), path)
    else:
        torch.save(vgg.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        assert refuses("MSA-MODEL-008", "fcn", path, "is damaged")


def test_files_with_other_content(tmp_path: Path) -> None:
    other = {"backbone.conv1.weight": torch.rand(3), "head": torch.rand(2)}
    for name in ("other.pth", "other.safetensors"):
        assert refuses(
            "MSA-MODEL-015",
            "fcn",
            saved(tmp_path / name, other),
            "backbone.conv1.weight",
            "VGG-16, ResNet-50 or ResNet-101",
        )
    for number, content in enumerate(([1, 2], {}, {"a": 1}, torch.rand(3), {"state_dict": {"a": [1]}})):
        assert refuses("MSA-MODEL-015", "fcn", saved(tmp_path / f"{number}.pth", content))
    assert refuses("MSA-MODEL-007", "fcn", tmp_path / "absent.pth")
    assert refuses("MSA-MODEL-007", "fcn", tmp_path, "model.safetensors")


# --- our own checkpoints ---


def is_head(name: str, model: SegmentationNetwork) -> bool:
    return name.startswith(tuple(prefix + "." for prefix in model.classifier_names))


@pytest.mark.parametrize("classes", [OTHERS, ("cat", "dog", "boat")], ids=["more", "the same number"])
@pytest.mark.parametrize("name", MODELS)
def test_other_classes_reinitialize_only_the_head(name: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    path, trained = checkpoint(tmp_path, name, width=0.05)
    model = network(name, classes, width=0.05)
    fresh = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = initialize(model, path.parent, classes)
    heads = [key for key in fresh if is_head(key, model)]
    assert heads and list(report.new) == heads and sorted(report.unused) == sorted(heads)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[key] if key in heads else trained[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_same_classes_take_everything(name: str, tmp_path: Path) -> None:
    path, trained = checkpoint(tmp_path, name, width=0.05)
    model = network(name, width=0.05)
    report = initialize(model, path, CLASSES)
    assert report.new == report.unused == ()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in model.state_dict().items())
    assert f"{name} of 3 classes of camvid at step 12" in report.text(MEAN, STD)
    assert "warning: " in report.text(MEAN, STD) and "warning: " not in report.text(metadata.MEAN, metadata.STD)


def test_order_of_classes_counts(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "unet")
    assert initialize(network("unet"), path, CLASSES[::-1]).new == ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize("classes", [CLASSES, OTHERS], ids=["same", "other"])
@pytest.mark.parametrize("features", ["fc7", "fc8"])
def test_an_unwrapped_network_loads_into_attention_to_scale(
    features: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    path, trained = checkpoint(tmp_path, "deeplab_largefov")
    model = network("attention_to_scale", classes, features=features)
    report = initialize(model, path, classes)
    new = [name for name in model.state_dict() if name.startswith("attention.")]
    new += [name for name in model.state_dict() if name.startswith("network.fc8.") and classes == OTHERS]
    assert new and sorted(report.new) == sorted(new)
    assert report.unused == (() if classes == CLASSES else ("fc8.bias", "fc8.weight"))
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], trained[name.removeprefix("network.")])


def test_batch_norm_may_be_frozen_and_thawed(tmp_path: Path) -> None:
    for was, now in (("batch", "frozen"), ("frozen", "batch")):
        path, trained = checkpoint(tmp_path, "deeplabv3", norm=was)
        model = network("deeplabv3", norm=now)
        assert initialize(model, path, CLASSES).new == ()
        assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


def test_another_network_is_refused_with_every_key(tmp_path: Path) -> None:
    path, trained = checkpoint(tmp_path, "msanet", attention="none")
    assert refuses(
        "MSA-MODEL-016", "msanet", path, "msanet of 3 classes", "attention='none'", "norm='batch'", attention="full"
    )
    model = network("msanet")
    with pytest.raises(UserError) as refusal:
        initialize(model, path, CLASSES)
    own = model.state_dict()
    different = own.keys() ^ trained.keys() | {
        n for n in own.keys() & trained.keys() if own[n].shape != trained[n].shape
    }
    assert different and different == set(
        re.findall(r"[\w.]+\.\w+", str(refusal.value).partition("network (")[2].partition(")")[0])
    )


@pytest.mark.parametrize(
    ("trained", "options", "expected"),
    [
        (("unet", {}), {"norm": "group"}, "not in the network: "),
        (("unet", {"norm": "group"}), {}, "norm='group'"),
        (("unet", {"width": 0.1}), {}, "width=0.1"),
        (("deeplabv3", {"auxiliary": True}), {}, "auxiliary=True"),
        (("attention_to_scale", {"merge": "max"}), {}, "missing in the file: attention.0.bias"),
    ],
)  # fmt: skip
def test_other_options_are_refused(
    trained: tuple[str, dict[str, Any]], options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path, _ = checkpoint(tmp_path, trained[0], **trained[1])
    assert refuses("MSA-MODEL-016", trained[0], path, expected, **options)


def test_a_diverged_checkpoint_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "unet")
    content = bytearray(path.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"  # NaN
    path.write_bytes(content)
    assert refuses("MSA-MODEL-017", "unet", path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, "unet")
    path.write_bytes(path.read_bytes()[:-8])
    assert refuses("MSA-MODEL-008", "unet", path, "is damaged")


def test_the_forward_pass_of_the_checkpoint(tmp_path: Path) -> None:
    """The network that starts from a checkpoint of its classes says what the checkpoint says."""
    path, trained = checkpoint(tmp_path, "deeplab_largefov")
    model, expected = network("deeplab_largefov").eval(), network("deeplab_largefov", seed=9).eval()
    expected.load_state_dict(trained)
    initialize(model, path, CLASSES)
    image = F.normalize(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(model(image), expected(image))
