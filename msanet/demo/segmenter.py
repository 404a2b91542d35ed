"""Images through one network for the page: labels, and maps of the images that came last."""

import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msanet.config import EvaluationConfig
from msanet.data.image.photo import PhotoFile
from msanet.datasets import label_dtype
from msanet.errors import UserError
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.predictor import Predictor
from msanet.models.attention.spatial import attention_weights
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.io import ModelMetadata
from msanet.models.msanet import ATTENTION_CELLS, MSANet
from msanet.report.palette import UInt8

_CACHED_IMAGES = 4  # images, at most `Limits.megapixels` each, and attention of one of them
_MAX_SIDE = 16384  # pixels, what browsers' canvases can hold
_MAP_SIDE = 512  # pixels of the longer side of a scale's map on its way to the page


@dataclass(frozen=True)
class Limits:
    """What the page takes: a file of so many megabytes (1e6 bytes), an image of so many megapixels (1e6 pixels).

    side: pixels of the longer side of the network's input; it gets larger images scaled down.
    """

    megabytes: float = 20.0
    megapixels: float = 8.0
    side: int = 1024


@dataclass(frozen=True)
class Segmented:
    """An image and its labels. key: by which `Segmenter.maps` finds it, unguessable. input_size: (height, width)."""

    key: str
    image_HWC: UInt8
    label_HW: UInt8
    input_size: tuple[int, int]


class Segmenter:
    """One network, one image in it at a time, for any number of threads.

    settings: how images go through it; where these set neither `resize` nor `window`, images above `limits.side` are scaled
    down. map_names: what `maps` returns, empty for networks without maps. queries: whether maps belong to a pixel.
    Labels have the image's own size.
    """

    def __init__(self, model: nn.Module, metadata: ModelMetadata, settings: EvaluationConfig, limits: Limits) -> None:
        if not metadata.image.is_rgb:
            found = f"the network takes {metadata.image.describe()}"
            raise UserError("MSA-DEMO-790", f"{found}, expected 8-bit RGB, which the page shows; use msanet predict")
        if label_dtype(len(metadata.classes)) != np.uint8:
            found = f"the network has {len(metadata.classes)} classes"
            raise UserError("MSA-DEMO-797", f"{found}, expected at most 255, which the page shows; use msanet predict")
        self.model, self.metadata, self.settings, self.limits = model, metadata, settings, limits
        self.map_names: tuple[str, ...] = ()
        if isinstance(model, MSANet):
            self.map_names = tuple(_attention_projections(model))
        elif isinstance(model, AttentionToScale):
            self.map_names = tuple(f"{float(scale):g}" for scale in model.scales)
        self.queries = isinstance(model, MSANet)
        self._lock = threading.Lock()
        self._images: OrderedDict[str, UInt8] = OrderedDict()
        self._attention: tuple[str, Attention] | None = None
        self._predictor(settings)  # raises what is wrong with the settings now

    def segment(self, data: bytes, name: str = "image") -> Segmented:
        """Labels of an encoded image; `name` is for errors.

        Raises UserError if it is not an image or too large, or when out of memory.
        """
        with self._lock:
            image_HWC = decode(data, name, self.limits.megapixels)
            settings = self._settings_for(image_HWC)
            self._attention = None  # makes room
            label_HW = self._predictor(settings).labels(torch.from_numpy(image_HWC)).cpu().numpy()
            key = secrets.token_urlsafe(16)
            self._images[key] = image_HWC
            while len(self._images) > _CACHED_IMAGES:
                self._images.popitem(last=False)
            return Segmented(key, image_HWC, label_HW, settings.resize or label_HW.shape)

    def maps(self, key: str, row: int, column: int) -> dict[str, UInt8]:
        """{name: (h, w) levels of strength from 0 to 255} of a kept image, at a size of their own.

        Where maps belong to a pixel: the square root of how much each position gives to it, the largest 255; of other
        networks: the weight of each scale. Raises UserError where the image is not kept or the pixel not in it.
        """
        with self._lock:
            image_HWC = self._images.get(key)
            if image_HWC is None:
                message = f"the image is not among the last {_CACHED_IMAGES}, and only these are kept; drop it again"
                raise UserError("MSA-DEMO-002", message)
            maps = AttentionMaps(self._predictor(self._settings_for(image_HWC)))
            if not self.queries:
                return {name: _downscaled(map_HW) for name, map_HW in maps.scale_weights(image_HWC).items()}
            height, width = image_HWC.shape[:2]
            if not (0 <= row < height and 0 <= column < width):
                expected = f"expected below {height}, {width}"
                raise UserError("MSA-DEMO-003", f"pixel {row}, {column} is not in the image, {expected}; move back")
            if self._attention is None or self._attention[0] != key:
                self._attention = None  # makes room
                self._attention = key, Attention(maps, image_HWC)
            found = self._attention[1].of_pixel(row, column)
            return {
                name: _to_uint8(np.sqrt(map_HW / max(float(map_HW.max()), 1e-30))) for name, map_HW in found.items()
            }

    def _predictor(self, settings: EvaluationConfig) -> Predictor:
        return Predictor(self.model, settings, self.metadata.mean, self.metadata.std)

    def _settings_for(self, image_HWC: UInt8) -> EvaluationConfig:
        height, width = image_HWC.shape[:2]
        share = self.limits.side / max(height, width)
        if share >= 1 or self.settings.resize or self.settings.window:
            return self.settings
        size = max(1, round(height * share)), max(1, round(width * share))
        return self.settings.model_copy(update={"resize": size})


class Attention:
    """Where MSANet's modules look in one image: A and B of equation 1 are kept, so that a pixel costs one product.

    They are caught in one pass of `AttentionMaps.attention`, whose input this is. Memory: that of A and B, float32 or bfloat16.
    """

    def __init__(self, maps: AttentionMaps, image_HWC: UInt8) -> None:
        assert isinstance(maps.model, MSANet)
        self._model = maps.model
        self._own_size = image_HWC.shape[:2]
        self._input_size = maps.settings.resize or self._own_size
        with _captured_projections(maps.model) as self._projections:
            maps.attention(image_HWC, [(0, 0)])

    @torch.inference_mode()
    def of_pixel(self, row: int, column: int) -> dict[str, NDArray[np.float32]]:
        """{module: (h, w)}, what `MSANet.attention_maps` returns for this pixel of the image."""
        (height, width), (rows, columns) = self._own_size, self._input_size
        found = {}
        for name, projections in self._projections.items():
            cell, a_1CHW = ATTENTION_CELLS[name], projections["a"]
            position = row * rows // height // cell * a_1CHW.shape[3] + column * columns // width // cell
            query_1 = torch.tensor([position], device=a_1CHW.device)
            module = getattr(self._model, f"msam_{name}")
            map_HW = attention_weights(a_1CHW, projections["b"], query_1, module.pool, module.window)[0, 0]
            found[name] = map_HW[: -(-rows // cell), : -(-columns // cell)].cpu().numpy()  # the rest is padding
        return found


def decode(data: bytes, name: str, megapixels: float) -> UInt8:
    """(H, W, 3) uint8 RGB, upright by its EXIF orientation. Raises UserError; too large an image is not decoded."""
    image = PhotoFile(data, name)
    height, width = image.size
    if height * width > megapixels * 1e6:
        found = math.ceil(height * width / 1e5) / 10
        expected = f"expected at most {megapixels:g}; resize it, or start with --max-megapixels {math.ceil(found)}"
        message = f"'{name}' has {width}x{height} pixels, {found:g} megapixels, {expected}"
        raise UserError("MSA-DEMO-004", message, setting="--max-megapixels")
    if max(height, width) > _MAX_SIDE:
        raise UserError(
            "MSA-DEMO-005",
            f"'{name}' has {width}x{height} pixels, expected sides of at most {_MAX_SIDE}; cut it into parts",
        )
    return np.array(image.read().pixels_HWC)  # writable, which torch.from_numpy asks for


def _attention_projections(model: MSANet) -> dict[str, nn.ModuleDict]:
    """{module: its projections} of modules that attend."""
    modules = {"quarter": model.msam_quarter, "half": model.msam_half}
    return {name: module.project for name, module in modules.items() if module is not None and module.attend}


@contextmanager
def _captured_projections(model: MSANet) -> Iterator[dict[str, dict[str, Tensor]]]:
    """{module: {"a", "b": projection}}, filled by what the network computes in the block."""
    caught: dict[str, dict[str, Tensor]] = {name: {} for name in _attention_projections(model)}

    def catch(name: str, letter: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, args, output: caught[name].update({letter: output})

    named = [(name, project, letter) for name, project in _attention_projections(model).items() for letter in "ab"]
    hooks = [project[letter].register_forward_hook(catch(name, letter)) for name, project, letter in named]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def _to_uint8(share_HW: NDArray[np.float32]) -> UInt8:
    return np.rint(np.clip(share_HW, 0.0, 1.0) * 255).astype(np.uint8)


def _downscaled(map_HW: NDArray[np.float32]) -> UInt8:
    share = min(1.0, _MAP_SIDE / max(map_HW.shape))
    size = max(1, round(map_HW.shape[1] * share)), max(1, round(map_HW.shape[0] * share))
    return _to_uint8(np.asarray(cv2.resize(map_HW, size, interpolation=cv2.INTER_AREA), np.float32))
