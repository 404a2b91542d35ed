"""A trained network as one file: weights in safetensors, and metadata that says how to build the network and feed it."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msanet import __version__
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError
from msanet.models import build_model
from msanet.models.external import require_trust
from msanet.models.file_kinds import describe_start
from msanet.models.meta import on_meta_device
from msanet.models.network import SegmentationNetwork

METADATA = "msanet_metadata"
"""Key of the metadata, as JSON: in safetensors' metadata, ONNX's `metadata_props`, torch.export's `extra_files`."""

FORMAT_VERSION = 4
"""Of the metadata. Version 1 has no `format_version` and lies under `METADATA_V1`; since 3 options may be lists and mappings;
4 says what the images are, which were 8-bit RGB before."""

METADATA_V1 = "msanet_card"


class ModelMetadata(BaseModel):
    """What is needed to use weights without the run that made them.

    name, options: of the network, as `build_model` takes them. classes, palette, ids (the dataset's own
    label ids): by train id. mean, std: normalization of each band; of RGB in gray values from 0 to 255. resize: (height, width)
    of the network's input in evaluation, None for the image's own. image: what its images are. shown_bands: those that pictures
    show, from 1; None: the first three, or the only one. format_version: always the newest, since `load_weights`
    upgrades older ones. msanet_version: that wrote the file, empty if not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = Field(FORMAT_VERSION, ge=FORMAT_VERSION, le=FORMAT_VERSION)
    msanet_version: str = __version__
    name: str
    options: dict[str, Any]
    dataset: str
    dataset_digest: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, int] | None
    image: ImageFormat = RGB8
    shown_bands: tuple[int, ...] | None = None
    step: int

    @model_validator(mode="after")
    def _lengths_agree(self) -> "ModelMetadata":
        if not len(self.mean) == len(self.std) == self.image.channels:
            raise ValueError(f"mean and std are not of {self.image.channels} bands")
        return self

    def build(self) -> SegmentationNetwork:
        """The network, newly initialized. Raises UserError if that needs code which the user has not named."""
        require_trust(self.name, "the checkpoint")
        require_trust(str(self.options.get("network", "")), "the checkpoint")
        return build_model(self.name, len(self.classes), **self.options)


def save_network(path: Path, weights: dict[str, Tensor], metadata: ModelMetadata) -> None:
    """Write weights (parameters and buffers by name) and metadata to `path`; the caller makes it durable."""
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, path, metadata={"format": "pt", METADATA: metadata.model_dump_json()})


def load_weights(path: Path) -> tuple[dict[str, Tensor], ModelMetadata]:
    """Weights by name, and the metadata. Raises UserError if the file is missing, damaged or not written by msanet."""
    if not path.is_file():
        raise UserError(
            "MSA-MODEL-007", f"checkpoint '{path}' does not exist, expected a model.safetensors; check the path"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        weights = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            kind = describe_start(stream.read(64))
        raise UserError(
            "MSA-MODEL-008",
            f"checkpoint '{path}' {kind}; expected a model.safetensors of a run"
            if "download" in kind
            else f"checkpoint '{path}' cannot be read ({error}); use another checkpoint of the run",
        ) from None
    text = metadata_json(header)
    if text is None:
        raise UserError(
            "MSA-MODEL-009",
            f"'{path}' has no model metadata, so it is not a file written by msanet; give a run's model.safetensors",
        )
    try:
        return weights, parse_metadata(text, str(path))
    except ValidationError as error:
        raise UserError(
            "MSA-MODEL-010",
            f"the model metadata of '{path}' is damaged ({error.errors()[0]['msg']}); use another checkpoint",
        ) from None


def metadata_json(header: dict[str, str]) -> str | None:
    """The metadata of a safetensors file's header, of any format version; None if msanet did not write the file."""
    return header.get(METADATA, header.get(METADATA_V1))


def parse_metadata(text: str, origin: str) -> ModelMetadata:
    """Metadata from JSON of any known version.

    Raises:
        UserError: A newer version of msanet wrote it.
        ValidationError: It is damaged.
    """
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ModelMetadata.model_validate_json(text)  # raises
    version = tree.get("format_version", 1) if isinstance(tree, dict) else FORMAT_VERSION
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            "MSA-MODEL-014",
            f"'{origin}' has model metadata of version {version}, written by msanet {str(tree.get('msanet_version'))[:40]!r}, "
            f"expected at most {FORMAT_VERSION}, the newest that msanet {__version__} reads; upgrade msanet",
        )
    if isinstance(tree, dict) and (version in (2, 3) or version == 1 and "msanet_version" not in tree):
        tree = {"msanet_version": "", **tree, "format_version": FORMAT_VERSION}
        return ModelMetadata.model_validate_json(json.dumps(tree))
    return ModelMetadata.model_validate_json(text)


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, ModelMetadata]:
    """The network on `device`, in evaluation mode, and its metadata."""
    weights, metadata = load_weights(path)
    try:
        with on_meta_device():
            require_same_tensors(metadata.build(), weights, str(path))
    except (RuntimeError, TypeError):  # how torch rejects sizes beyond 64 bits
        raise UserError(
            "MSA-MODEL-011", f"the model metadata of '{path}' asks for an impossible network; use another checkpoint"
        ) from None
    model = metadata.build()
    apply_weights(model, weights, str(path))
    return model.to(device).eval(), metadata


def require_same_classes(metadata: ModelMetadata, classes: tuple[str, ...], data: str) -> None:
    """Raise UserError unless the network's classes are those of the data, in the same order."""
    if metadata.classes == classes:
        return
    raise UserError(
        "MSA-MODEL-012",
        f"the checkpoint has {len(metadata.classes)} classes of {metadata.dataset} ({', '.join(metadata.classes[:3])}, ...), "
        f"'{data}' has {len(classes)} ({', '.join(classes[:3])}, ...); evaluate on a dataset with the same classes",
    )


def require_same_images(metadata: ModelMetadata, image: ImageFormat, data: str) -> None:
    """Raise UserError unless the network's images are of as many bands, and of the same type, as those of the data."""
    if (metadata.image.channels, metadata.image.dtype) != (image.channels, image.dtype):
        raise UserError(
            "MSA-MODEL-790",
            f"the checkpoint takes {metadata.image.describe()}, '{data}' has {image.describe()}, expected the same; evaluate on "
            "data that was packed as the training's was (--bands)",
        )


def apply_weights(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load all weights strictly. Raises UserError as `require_same_tensors` does."""
    require_same_tensors(model, weights, origin)
    model.load_state_dict(weights)


def require_same_tensors(model: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Raise UserError that names the first difference unless names and shapes are the network's, also for one on meta."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        first = (missing + extra + shapes)[0]
        raise UserError(
            "MSA-MODEL-013",
            f"'{origin}' is of another network: {len(missing)} tensors are missing, {len(extra)} are unknown and "
            f"{len(shapes)} have another shape, first '{first}'; use the checkpoint with its own model settings",
        )
