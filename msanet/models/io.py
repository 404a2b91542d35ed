"""A trained network as one file: weights in safetensors, and a metadata that says how to build and feed it."""

from pathlib import Path

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.meta import on_meta_device
from msanet.models.network import SegmentationNetwork

METADATA = "msanet_card"
"""Where a file holds its metadata, as JSON: safetensors' metadata, ONNX's `metadata_props`, torch.export's `extra_files`."""


class ModelMetadata(BaseModel):
    """What must travel with weights so that they can be used without the run that made them.

    options: the constructor's. classes, palette, ids: by train id, ids being the dataset's own label ids. mean, std: the
    normalization in grey values. resize: (height, width) of the network's input in evaluation, or None for the image's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    options: dict[str, bool | int | float | str]
    dataset: str
    dataset_digest: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: tuple[int, int] | None
    step: int

    def build(self) -> SegmentationNetwork:
        """The network, newly initialized."""
        return build_model(self.name, len(self.classes), **self.options)


def save_network(path: Path, weights: dict[str, Tensor], metadata: ModelMetadata) -> None:
    """Write weights (parameters and buffers by name) and metadata to `path`; the caller makes it durable."""
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, path, metadata={"format": "pt", METADATA: metadata.model_dump_json()})


def load_weights(path: Path) -> tuple[dict[str, Tensor], ModelMetadata]:
    """Weights by name, and the metadata. Raises UserError if the file is missing, damaged or not one of ours."""
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' is not there, expected a model.safetensors of a run; check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"checkpoint '{path}' cannot be read ({error}); use another checkpoint of the run") from None
    if METADATA not in metadata:
        raise UserError(
            f"'{path}' holds no model metadata, so it is no checkpoint of ours; give a run's model.safetensors"
        )
    try:
        return weights, ModelMetadata.model_validate_json(metadata[METADATA])
    except ValidationError as error:
        raise UserError(
            f"the model metadata of '{path}' is damaged ({error.errors()[0]['msg']}); use another checkpoint"
        ) from None


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, ModelMetadata]:
    """The network on `device`, in evaluation mode, and its metadata."""
    weights, metadata = load_weights(path)
    try:
        with on_meta_device():
            require_same_tensors(metadata.build(), weights, str(path))
    except (RuntimeError, TypeError):  # torch's words for sizes beyond 64 bits
        raise UserError(
            f"the model metadata of '{path}' asks for an impossible network; use another checkpoint"
        ) from None
    model = metadata.build()
    apply_weights(model, weights, str(path))
    return model.to(device).eval(), metadata


def require_same_classes(metadata: ModelMetadata, classes: tuple[str, ...], data: str) -> None:
    """Raise UserError unless the network's classes are those of the data, in the same order."""
    if metadata.classes == classes:
        return
    raise UserError(
        f"the checkpoint knows {len(metadata.classes)} classes of {metadata.dataset} ({', '.join(metadata.classes[:3])}, ...), '{data}' has "
        f"{len(classes)} ({', '.join(classes[:3])}, ...); evaluate on a dataset with the same classes"
    )


def apply_weights(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load all weights strictly. Raises UserError as `require_same_tensors` does."""
    require_same_tensors(model, weights, origin)
    model.load_state_dict(weights)


def require_same_tensors(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Raise UserError that names the first difference unless names and shapes are the network's; for one on meta too."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        first = (missing + extra + shapes)[0]
        raise UserError(
            f"'{origin}' is of another network: {len(missing)} tensors are missing, {len(extra)} are unknown and "
            f"{len(shapes)} have another shape, first '{first}'; use the checkpoint with its own model settings"
        )
