"""Backbones in files of mmsegmentation, made here as its converters make them, land in networks of other libraries."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.models import build_model
from msanet.models.external.mmsegmentation import from_mmsegmentation
from msanet.models.network import SegmentationNetwork
from msanet.models.pretrained import WeightReport, initialize
from support.library_networks import SEGFORMER

CLASSES = ("a", "b", "c")


def started(
    path: Path, name: str, weights: dict[str, Tensor], **options: Any
) -> tuple[SegmentationNetwork, WeightReport]:
    """A network that starts from a file with these weights of a backbone, and a head."""
    head = {"decode_head.conv_seg.weight": torch.rand(19, 8, 1, 1), "decode_head.conv_seg.bias": torch.rand(19)}
    tensors = {**{f"backbone.{key}": tensor for key, tensor in weights.items()}, **head}
    torch.save(
        {"state_dict": tensors, "meta": {"mmseg_version": "0.30.0", "CLASSES": ["road"], "PALETTE": [[1, 2, 3]]}}, path
    )
    model = build_model(name, len(CLASSES), **options)
    return model, initialize(model, path, CLASSES)


def randomized(module: nn.Module) -> dict[str, Tensor]:
    return {k: torch.rand(t.shape) if t.is_floating_point() else t for k, t in module.state_dict().items()}


def test_resnet_v1c(tmp_path: Path) -> None:
    """With a stem of three convolutions, under other names than timm's."""
    timm = pytest.importorskip("timm")
    stem = {"conv1.0": "stem.0", "conv1.1": "stem.1", "conv1.3": "stem.3", "conv1.4": "stem.4", "conv1.6": "stem.6"}
    stem["bn1"] = "stem.7"
    weights = randomized(timm.create_model("resnet50c", features_only=True, pretrained=False))
    renamed = {}
    for name, tensor in weights.items():
        layer, _, last = name.rpartition(".")
        renamed[f"{stem.get(layer, layer)}.{last}"] = tensor
    model, report = started(tmp_path / "r50.pth", "timm:resnet50c", renamed, head_channels=8)
    found = model.state_dict()
    assert all(torch.equal(found[f"network.backbone.{name}"], tensor) for name, tensor in weights.items())
    assert set(report.unused) == {"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}


MIT = (
    (r"patch_embed(\d)\.proj", "layers.{0}.0.projection"),
    (r"patch_embed(\d)\.norm", "layers.{0}.0.norm"),
    (r"block(\d)\.(\d+)\.(norm[12])", "layers.{0}.1.{1}.{2}"),
    (r"block(\d)\.(\d+)\.attn\.proj", "layers.{0}.1.{1}.attn.attn.out_proj"),
    (r"block(\d)\.(\d+)\.attn\.(sr|norm)", "layers.{0}.1.{1}.attn.{2}"),
    (r"block(\d)\.(\d+)\.mlp\.fc1", "layers.{0}.1.{1}.ffn.layers.0"),
    (r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv", "layers.{0}.1.{1}.ffn.layers.1"),
    (r"block(\d)\.(\d+)\.mlp\.fc2", "layers.{0}.1.{1}.ffn.layers.4"),
    (r"norm(\d)", "layers.{0}.2"),
)


def as_mmsegmentation_mit(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """As mmsegmentation's tools/model_converters/mit2mmseg.py does it."""
    found = {}
    for name, tensor in official.items():
        layer, _, last = name.rpartition(".")
        if layer.endswith("attn.kv"):
            continue
        if layer.endswith("attn.q"):
            both = torch.cat([tensor, official[f"{layer[:-1]}kv.{last}"]])
            stage, block = re.findall(r"\d+", layer)
            found[f"layers.{int(stage) - 1}.1.{block}.attn.attn.in_proj_{last}"] = both
            continue
        pattern, new = next((p, n) for p, n in MIT if re.fullmatch(p, layer))
        stage, *others = re.fullmatch(pattern, layer).groups()  # type: ignore[union-attr]
        if ("fc1" in layer or "fc2" in layer) and last == "weight":
            tensor = tensor[..., None, None]
        found[f"{new.format(int(stage) - 1, *others)}.{last}"] = tensor
    return found


def test_mit(tmp_path: Path) -> None:
    """Into SMP's encoder by its names, and into that of transformers, whose output is then SMP's."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("transformers")
    weights = {k: 0.1 * t for k, t in randomized(smp.encoders.get_encoder("mit_b0")).items()}
    file = as_mmsegmentation_mit(weights)
    ours, report = started(tmp_path / "a.pth", "smp:Segformer", file, encoder_name="mit_b0")
    own = ours.get_submodule("network.encoder").state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())
    assert {name.split(".")[1] for name in report.new} == {"decoder", "segmentation_head"}

    theirs, report = started(tmp_path / "b.pth", "hf:segformer", file)
    assert {name.split(".")[1] for name in report.new} == {"decode_head"}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = ours.eval().get_submodule("network.encoder")(image)[-4:]
        found = theirs.eval().get_submodule("network.segformer")(image, output_hidden_states=True).hidden_states[-4:]
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=5e-3, atol=1e-3)
    assert SEGFORMER  # the small one has other sizes, and takes none of these
    small = build_model("hf:segformer", 3, **SEGFORMER).state_dict()
    assert small["network.segformer.stages.0.patch_embeddings.proj.weight"].shape[0] == 8


def test_swin(tmp_path: Path) -> None:
    """Its steps to coarser stages join pixels in another order."""
    timm = pytest.importorskip("timm")
    name, small = "swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
    backbone = timm.create_model(name, features_only=True, pretrained=False, **small)
    weights = randomized(backbone)
    file = {}
    for key, tensor in weights.items():
        key = re.sub(r"^patch_embed\.proj", "patch_embed.projection", key)
        key = re.sub(r"attn\.(relative_position_bias_table|qkv|proj)", r"attn.w_msa.\1", key)
        key = key.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        if "downsample" in key:
            key = re.sub(r"layers_(\d)", lambda m: f"stages.{int(m[1]) - 1}", key)
            pixels = tensor.unflatten(-1, (4, -1))[..., torch.tensor([0, 2, 1, 3]), :]
            tensor = pixels.transpose(-1, -2).flatten(-2)
        file[re.sub(r"layers_(\d)", r"stages.\1", key)] = tensor
    (found,) = from_mmsegmentation({f"backbone.{key}": tensor for key, tensor in file.items()})
    assert found.keys() == weights.keys() and all(torch.equal(found[k], t) for k, t in weights.items())
    model, report = started(tmp_path / "swin.pth", f"timm:{name}", file, head_channels=8, **small)
    own = model.state_dict()
    assert all(any(torch.equal(t, o) for o in own.values()) for t in weights.values())
    assert {key.split(".")[1] for key in report.new} == {"decoder", "classifier"}

    step, x_NHWC = backbone.layers_1.downsample, torch.rand(1, 6, 4, 8)
    step.load_state_dict(
        {k.removeprefix("layers_1.downsample."): t for k, t in found.items() if k.startswith("layers_1.d")}
    )
    joined = F.unfold(x_NHWC.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)  # as mmsegmentation's PatchMerging
    normed = F.layer_norm(
        joined, joined.shape[-1:], file["stages.0.downsample.norm.weight"], file["stages.0.downsample.norm.bias"]
    )
    expected = F.linear(normed, file["stages.0.downsample.reduction.weight"])
    torch.testing.assert_close(step(x_NHWC).flatten(1, 2), expected)
