"""`msanet.load`: a trained network to use in Python, and `msanet.export`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from msanet import distributed
from msanet.api.arguments import PathLike
from msanet.api.evaluation import Evaluation
from msanet.api.images import AnyImage, images_of
from msanet.api.process_state import api_call
from msanet.api.settings import config_of, find_checkpoint, with_metadata_resize
from msanet.config import EvaluationConfig, StorageConfig
from msanet.data.label_tensors import to_label_array
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError, nearest
from msanet.evaluation.evaluator import evaluate
from msanet.evaluation.result import require_complete, require_writable, write_evaluation
from msanet.evaluation.run_report import write_run_report
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.export import FORMATS, export_network
from msanet.inference.predictor import Predictor
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.external import trust
from msanet.models.io import ModelMetadata, load_network, require_same_classes, require_same_images
from msanet.report.palette import RGB, Label

Float = NDArray[np.float32]
_Array = TypeVar("_Array", Label, Float)


class Model:
    """A trained network, and how images go through it. Made by `msanet.load`.

    Images are paths, PIL images, uint8 RGB arrays (H, W, 3), or of a network for bands arrays (H, W, C) of their type; several
    are a list of these, or one array (N, H, W, C). Results have the image's own size; those of a list are a list, those of an
    array of several images have N as their first dimension.

    Args:
        network: In evaluation mode.
        metadata: Its classes, normalization and so on.
        settings: How images go through it: scales, windows and so on.

    Example:
        >>> model = msanet.load("run")
        >>> label_HW = model.predict("photo.jpg")
        >>> {model.classes[k] for k in np.unique(label_HW)}
    """

    def __init__(self, network: nn.Module, metadata: ModelMetadata, settings: EvaluationConfig) -> None:
        self.network, self.metadata, self.settings = network, metadata, settings
        self._predictor = Predictor(network, settings, metadata.mean, metadata.std)

    def __repr__(self) -> str:
        metadata = self.metadata
        return f"<Model {metadata.name}: {len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by train id, the values of `predict`."""
        return self.metadata.classes

    @property
    def palette(self) -> tuple[RGB, ...]:
        """Colors by train id."""
        return self.metadata.palette

    @overload
    def predict(self, images: AnyImage) -> Label: ...  # type: ignore[overload-overlap]  # text is a sequence of text
    @overload
    def predict(self, images: Sequence[AnyImage]) -> list[Label]: ...
    def predict(self, images: AnyImage | Sequence[AnyImage]) -> Label | list[Label]:
        """The likeliest class of each pixel.

        Returns:
            Train ids (H, W) uint8 (uint16 of more than 255 classes), or of each image. Colors:
            `np.array(model.palette, np.uint8)[label_HW]`.

        Raises:
            UserError: Not an image, or out of memory.
        """
        return _each(images, self.metadata.image, lambda image_HWC: self._labels(image_HWC))

    @overload
    def probabilities(self, images: AnyImage) -> Float: ...  # type: ignore[overload-overlap]
    @overload
    def probabilities(self, images: Sequence[AnyImage]) -> list[Float]: ...
    def probabilities(self, images: AnyImage | Sequence[AnyImage]) -> Float | list[Float]:
        """The probability of each class at each pixel.

        Returns:
            (K, H, W) float32, or of each image.

        Raises:
            UserError: Not an image, or out of memory.
        """
        return _each(
            images,
            self.metadata.image,
            lambda image_HWC: self._predictor.probabilities(_tensor(image_HWC)).cpu().numpy(),
        )

    def _labels(self, image_HWC: np.ndarray) -> Label:
        return to_label_array(self._predictor.labels(_tensor(image_HWC)), len(self.classes))

    def attention(self, image: AnyImage, query: tuple[int, int] | None = None) -> dict[str, Float]:
        """Where the network looks.

        Args:
            image: One image.
            query: (row, column) of a pixel, for MSANet; None for the center.

        Returns:
            Of MSANet, by module (`quarter`, `half`): how much each position gives to the query, (H, W), by equation 1.
            Of Attention to Scale, by scale (`0.5`, `1`): its weight at each pixel, (H, W), which sum to 1 over scales.

        Raises:
            UserError: The network has no attention, or the query is outside of the image.
        """
        ((image_HWC,), _) = images_of(image, self.metadata.image)
        if isinstance(self.network, AttentionToScale):
            maps = AttentionMaps(self._predictor, () if query is None else (query,))
            return {scale: np.asarray(map_HW) for scale, map_HW in maps.scale_weights(image_HWC).items()}
        height, width = image_HWC.shape[:2]
        found = AttentionMaps(self._predictor).attention(image_HWC, [query or (height // 2, width // 2)])
        return {name: np.asarray(map_1HW[0]) for name, map_1HW in found.items()}

    def evaluate(self, data: PathLike, split: str = "val", out: PathLike | None = None) -> Evaluation:
        """Measure it on a split of shards, in this process. `msanet.evaluate` does so on several ranks.

        Args:
            data: Folder or address of shards with the same classes.
            split: Of the shards.
            out: Folder for evaluation-<split>.json, .npz and report.html; None writes nothing.

        Raises:
            UserError: Bad input, or other classes.
        """
        with api_call():
            shards = open_storage(str(data), StorageConfig())
            manifest = read_manifest(shards)
            require_same_classes(self.metadata, manifest.classes, shards.location)
            require_same_images(self.metadata, manifest.image_format, shards.location)
            if out is not None:
                require_writable(Path(out))
            source = ShardSource(shards, split, manifest)
            metadata = self.metadata
            result = evaluate(
                self.network, source, self.settings, metadata.mean, metadata.std, shown_bands=metadata.shown_bands
            )
            require_complete(result, source)
            if out is None:
                return Evaluation(result.to_json(), result.per_image_counts)
            write_evaluation(Path(out), result)
            write_run_report(Path(out), self.palette, result)
            return Evaluation.read(out, split)

    def export(self, path: PathLike, format: str | None = None, size: tuple[int, int] | None = None) -> Path:
        """Write it as one file for use elsewhere, once its output was found equal to PyTorch's.

        Args:
            path: The file, which is replaced.
            format: `onnx`, `torch` (torch.export) or `safetensors`; None for what the name's ending says.
            size: The only (height, width) of images; None for any.

        Raises:
            UserError: Unknown format, missing package, or another output.
        """
        path, endings = Path(path), {kind.ending: name for name, kind in FORMATS.items()}
        chosen = format or endings.get(path.suffix, path.suffix)
        if chosen not in FORMATS:
            message = f"format '{chosen}' is unknown; {nearest(chosen, list(FORMATS))}"
            raise UserError("MSA-API-002", message, setting="format")
        with api_call():
            device = next(self.network.parameters()).device
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                export_network(path, chosen, self.network.cpu(), self.metadata, size)
            finally:
                self.network.to(device)
        return path


def load(
    source: Any,
    *,
    best: bool = False,
    device: str | torch.device | None = None,
    plugins: Sequence[str] = (),
    **settings: Any,
) -> Model:
    """A trained network, ready to use.

    Args:
        source: A run folder (its latest complete checkpoint), a `Run`, a folder with model.safetensors, or that file.
        best: Of a run the checkpoint with the best validation, not the latest.
        device: None for the GPU, or the CPU where there is none.
        plugins: Networks of your own, such as `file.py:NAME`, that the weights may ask for.
        settings: `evaluation` settings that override the run's, such as `evaluation={"flip": True}`.

    Raises:
        UserError: There are no such weights, or they are damaged.

    Example:
        >>> model = msanet.load("run", best=True, evaluation={"scales": [0.75, 1.0, 1.25], "flip": True})
    """
    for name in plugins:
        trust(name)
    with api_call():
        given = Path(getattr(source, "dir", source))
        chosen = torch.device(device) if device is not None else distributed.device()
        network, metadata = load_network(find_checkpoint(given, best), chosen)
        return Model(network, metadata, with_metadata_resize(config_of(given, settings).evaluation, metadata))


def export(
    source: Any,
    path: PathLike,
    format: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    best: bool = False,
) -> Path:
    """Write a trained network as one file for use elsewhere: `load` and `Model.export` in one.

    Example:
        >>> msanet.export("run", "model.onnx")
    """
    return load(source, best=best, device="cpu").export(path, format, size)


def _each(images: Any, form: ImageFormat, function: Callable[[np.ndarray], _Array]) -> Any:
    found, join = images_of(images, form)
    return join([function(image_HWC) for image_HWC in found])


def _tensor(image_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(image_HWC, requirements=("C", "W")))
