"""Files of weights: safetensors, and what `torch.save` wrote. Nothing is unpickled that could run code."""

import pickle
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.models.file_kinds import describe_start
from msanet.models.io import ModelMetadata, load_weights, metadata_json

Weights = dict[str, Tensor]

EXPECTED = "a checkpoint written by msanet, or torchvision's VGG-16, ResNet-50 or ResNet-101 as .pth or .safetensors"

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
"""Of DataParallel, torch.compile, Lightning, and libraries that put a head on a network."""


def read_weights(file: Path) -> tuple[Weights, ModelMetadata | None]:
    """All tensors by name, and the metadata if msanet wrote the file."""
    if not file.is_file():
        raise UserError(
            "MSA-MODEL-007",
            f"model.pretrained: '{file}' does not exist, expected {EXPECTED}; give the file, or a checkpoint's folder",
            setting="model.pretrained",
        )
    with file.open("rb") as stream:
        start = stream.read(64)
    if start[8:9] == b"{":  # after the length of the header
        return _read_safetensors(file)
    if start.startswith((b"PK", b"\x80")):
        return _state_dict(_read_pickle(file, mmap=start.startswith(b"PK")), file), None
    raise UserError(
        "MSA-MODEL-015",
        f"model.pretrained: '{file}' {describe_start(start)}; expected {EXPECTED}",
        setting="model.pretrained",
    )


def _read_safetensors(file: Path) -> tuple[Weights, ModelMetadata | None]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            is_msanet = metadata_json(opened.metadata() or {}) is not None
        return load_weights(file) if is_msanet else (_state_dict(load_file(file), file), None)
    except safetensors.SafetensorError as error:
        raise UserError(
            "MSA-MODEL-008", f"'{file}' is damaged ({error}); copy it again", setting="model.pretrained"
        ) from None


def _read_pickle(file: Path, mmap: bool) -> Any:
    """What `torch.save` wrote. mmap: read tensors only when they are copied; not for the format before PyTorch 1.6."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise UserError(
                "MSA-MODEL-018",
                f"'{file}' contains more than tensors, or is damaged; loading it could run code: if you trust it, save its "
                "state_dict as .safetensors",
                setting="model.pretrained",
            ) from None
        raise UserError(
            "MSA-MODEL-008",
            f"'{file}' is damaged ({type(error).__name__}: {str(error).partition('.')[0]}); copy it again",
            setting="model.pretrained",
        ) from None


def _state_dict(found: Any, file: Path) -> Weights:
    """The tensors by name in what training scripts save: also under `state_dict` or `model`."""
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(
            "MSA-MODEL-015", f"'{file}' contains no tensors by name; expected {EXPECTED}", setting="model.pretrained"
        )
    return {str(name): tensor.detach() for name, tensor in found.items()}


def with_image_channels(weights: Weights, model: nn.Module, given: int, channels: int) -> tuple[Weights, list[str]]:
    """The layers that see the image, for images of another number of channels, and their names.

    Filters are repeated over the channels, each divided by how often it is there, or for fewer channels than before averaged:
    an image whose channels are alike gives what it gave before. It is a layer that sees the image if only that makes it fit the
    model.
    """
    shapes = {tuple(tensor.shape) for tensor in model.state_dict().values()}
    found = dict(weights)
    for name, tensor in weights.items():
        wanted = (*tensor.shape[:1], channels, *tensor.shape[2:])
        if tensor.ndim == 4 and tensor.shape[1] == given and tuple(tensor.shape) not in shapes and wanted in shapes:
            found[name] = _with_channels(tensor, channels)
    return found, [name for name in weights if found[name] is not weights[name]]


def _with_channels(filters_OCKK: Tensor, channels: int) -> Tensor:
    given = filters_OCKK.shape[1]
    if channels < given:
        return filters_OCKK.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    sources = torch.arange(channels) % given
    return filters_OCKK[:, sources] / sources.bincount()[sources].view(1, -1, 1, 1)


def without_prefixes(weights: Weights) -> tuple[Weights, list[str]]:
    """The same tensors without what wrappers put before a network's names (`PREFIXES`), and the prefixes that were removed.

    Unchanged where two tensors would get one name.
    """
    stripped: Weights = {}
    removed: dict[str, None] = {}
    for name, tensor in weights.items():
        short, found = name, True
        while found:
            prefix = next((prefix for prefix in PREFIXES if short.startswith(prefix)), "")
            short, found = short.removeprefix(prefix), bool(prefix)
            removed |= {prefix: None} if prefix else {}
        stripped[short] = tensor
    return (stripped, list(removed)) if len(stripped) == len(weights) else (weights, [])
