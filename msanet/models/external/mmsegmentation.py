"""Backbones in mmsegmentation's files under the names that other libraries have for them: MiT (SegFormer) and Swin.

Its ResNets have torchvision's and timm's names or order (ResNetV1c is timm's `resnet50c`) and need nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Renames = tuple[tuple[str, str], ...]
"""(regular expression, replacement) for whole names without their last part, `weight` or `bias`; the first that fits counts."""

_BACKBONE = "backbone."
_MIT = r"layers\.(\d+)\.1\.(\d+)\."
_MIT_OFFICIAL: Renames = (
    (r"layers\.(\d+)\.0\.projection", "patch_embed{0}.proj"),
    (r"layers\.(\d+)\.0\.norm", "patch_embed{0}.norm"),
    (_MIT + r"(norm1|norm2)", "block{0}.{1}.{2}"),
    (_MIT + r"attn\.attn\.out_proj", "block{0}.{1}.attn.proj"),
    (_MIT + r"attn\.(sr|norm)", "block{0}.{1}.attn.{2}"),
    (_MIT + r"attn\.(q|kv)", "block{0}.{1}.attn.{2}"),
    (_MIT + r"ffn\.layers\.0", "block{0}.{1}.mlp.fc1"),
    (_MIT + r"ffn\.layers\.1", "block{0}.{1}.mlp.dwconv.dwconv"),
    (_MIT + r"ffn\.layers\.4", "block{0}.{1}.mlp.fc2"),
    (r"layers\.(\d+)\.2", "norm{0}"),
)
"""As in the authors' code and in segmentation_models.pytorch, where stages count from 1."""
_STAGE = "stages.{0}.blocks.{1}."
_MIT_TRANSFORMERS: Renames = (
    (r"layers\.(\d+)\.0\.projection", "stages.{0}.patch_embeddings.proj"),
    (r"layers\.(\d+)\.0\.norm", "stages.{0}.patch_embeddings.layer_norm"),
    (_MIT + "norm1", _STAGE + "layernorm_before"),
    (_MIT + "norm2", _STAGE + "layernorm_after"),
    (_MIT + r"attn\.attn\.out_proj", _STAGE + "attention.o_proj"),
    (_MIT + r"attn\.sr", _STAGE + "attention.sequence_reduction.sequence_reduction"),
    (_MIT + r"attn\.norm", _STAGE + "attention.sequence_reduction.layer_norm"),
    (_MIT + r"attn\.(q|k|v)", _STAGE + "attention.{2}_proj"),
    (_MIT + r"ffn\.layers\.0", _STAGE + "mlp.fc1"),
    (_MIT + r"ffn\.layers\.1", _STAGE + "mlp.dwconv.dwconv"),
    (_MIT + r"ffn\.layers\.4", _STAGE + "mlp.fc2"),
    (r"layers\.(\d+)\.2", "stages.{0}.layer_norm"),
)
_SWIN = r"stages\.(\d+)\.blocks\.(\d+)\."
_SWIN_TIMM: Renames = (
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"patch_embed\.norm", "patch_embed.norm"),
    (_SWIN + r"(norm1|norm2)", "layers_{0}.blocks.{1}.{2}"),
    (_SWIN + r"attn\.w_msa\.(qkv|proj)", "layers_{0}.blocks.{1}.attn.{2}"),
    (_SWIN + r"attn\.w_msa", "layers_{0}.blocks.{1}.attn"),
    (_SWIN + r"ffn\.layers\.0\.0", "layers_{0}.blocks.{1}.mlp.fc1"),
    (_SWIN + r"ffn\.layers\.1", "layers_{0}.blocks.{1}.mlp.fc2"),
    (r"stages\.(\d+)\.downsample\.(norm|reduction)", "layers_{0}.downsample.{1}"),
)
"""timm has the step to a coarser stage at the beginning of that stage."""


def from_mmsegmentation(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """A file's tensors under the names of other libraries, in each way that there is; none if it has no backbone of these."""
    own = {name.removeprefix(_BACKBONE): tensor for name, tensor in weights.items() if name.startswith(_BACKBONE)}
    if any(re.match(_MIT + r"attn\.attn\.in_proj_weight", name) for name in own):
        linear = {name: t.flatten(1) if re.search(r"ffn\.layers\.[04]\.weight", name) else t for name, t in own.items()}
        return [
            _renamed(_split(linear, {"q": (0, 1), "kv": (1, 3)}), _MIT_OFFICIAL, first_stage=1),
            _renamed(_split(linear, {"q": (0, 1), "k": (1, 2), "v": (2, 3)}), _MIT_TRANSFORMERS),
        ]
    if any(re.match(_SWIN + r"attn\.w_msa\.qkv\.weight", name) for name in own):
        ordered = {
            _next_stage(name): _unfolded(tensor) if "downsample" in name else tensor for name, tensor in own.items()
        }
        return [_renamed(ordered, _SWIN_TIMM)]
    return []


def _renamed(weights: Mapping[str, Tensor], renames: Renames, first_stage: int = 0) -> dict[str, Tensor]:
    found = {}
    for name, tensor in weights.items():
        layer, _, last = name.rpartition(".")
        for pattern, replacement in renames:
            match = re.fullmatch(pattern, layer)
            if match:
                groups: list[Any] = list(match.groups())
                if groups:
                    groups[0] = int(groups[0]) + first_stage
                found[f"{replacement.format(*groups)}.{last}"] = tensor
                break
    return found


def _split(weights: Mapping[str, Tensor], parts: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """With the joint projection of queries, keys and values in parts, each so many thirds of it."""
    found = {}
    for name, tensor in weights.items():
        layer, joint, last = name.partition(".attn.in_proj_")
        third = len(tensor) // 3
        pieces = {f"{layer}.{key}.{last}": tensor[a * third : b * third] for key, (a, b) in parts.items()}
        found.update(pieces if joint else {name: tensor})
    return found


def _next_stage(name: str) -> str:
    return re.sub(r"stages\.(\d+)\.downsample", lambda match: f"stages.{int(match[1]) + 1}.downsample", name)


def _unfolded(tensor: Tensor) -> Tensor:
    """The four pixels that Swin joins: channel by channel row by row there, pixel by pixel column by column elsewhere."""
    pixels = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., torch.tensor([0, 2, 1, 3]), :]
    return pixels.flatten(-2)
