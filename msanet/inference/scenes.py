"""Satellite and aerial images: GeoTIFF and other large TIFF, read and written in blocks, with transform and CRS kept."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msanet.config import EvaluationConfig
from msanet.data.image.tiles import MAX_PIXELS
from msanet.data.label_tensors import label_tensor_dtype, to_label_array
from msanet.datasets import ignore_index, label_dtype
from msanet.datasets.image_format import RGB8, ImageFormat, describe
from msanet.errors import UserError
from msanet.files import atomic_file
from msanet.inference.backends import require_package
from msanet.inference.blocks import ALIGNMENT, Block, whole_image_setting
from msanet.logs import once
from msanet.report.bands import Range, display_ranges, picture, shown_bands
from msanet.report.palette import RGB, overlay

logger = logging.getLogger(__name__)

SCENE_ENDINGS = {
    "palette": ".palette.tif",
    "overlay": ".overlay.tif",
    "ids": ".ids.tif",
    "train-ids": ".train-ids.tif",
    "probabilities": ".probabilities.tif",
}
"""Kind of output -> what the file's name ends with."""
_UNSET = {
    "evaluation.resize": "null", "evaluation.scales": "[1]", "evaluation.flip": "false", "evaluation.crf.enabled": "false",
}  # fmt: skip
TIFF_ENDINGS = (".tif", ".tiff")
DEFAULT_WINDOW = (512, 512)
_WHOLE_PIXELS = 2**22
"""An image up to this size is one window, where evaluation.window is not set."""
_MOST_AT_ONCE = MAX_PIXELS
"""Pixels of an image that is read at once where a setting needs that."""
_GEOREFERENCE = (33550, 34264, 34735)
"""TIFF's fields ModelPixelScale, ModelTransformation and GeoKeyDirectory."""
_CACHE_MB = 64
"""Of GDAL, whose own default is a share of the machine's memory."""
_SAMPLES, _SAMPLE_SIDE = 4, 128
"""Rows and columns of the squares of pixels from which the contrast of pictures is estimated."""


def is_scene(path: Path) -> bool:
    """Whether a file is a TIFF with a georeference, or one that is too large to be read at once.

    Without rasterio a georeference is lost, with a warning. Raises UserError where that package is needed.
    """
    if path.suffix.lower() not in TIFF_ENDINGS:
        return False
    import tifffile  # slow to import

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            is_large = page.imagewidth * page.imagelength > MAX_PIXELS or page.nbytes > 2**30
            has_georeference = any(tag in page.tags for tag in _GEOREFERENCE)
    except Exception:  # reading it raises the error that says what is wrong
        return False
    if is_large:
        require_package("rasterio", "geo", "--images")
    elif has_georeference:
        try:
            import rasterio  # noqa: F401
        except ImportError:
            text = "georeferences are not kept, since the package rasterio is not installed: pip install 'msanet[geo]'"
            once(logger, logging.WARNING, f"{text} ('{path}')", key="georeference")
            return False
    return is_large or has_georeference


@dataclass(frozen=True)
class Scene:
    """An opened source. indexes: GDAL's numbers of the bands that the network takes, in its order. mean: fills no-data."""

    path: Path
    source: Any
    indexes: tuple[int, ...]
    mean: tuple[float, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.source.height, self.source.width

    def read(self, block: Block) -> np.ndarray:
        """Pixels (H, W, C), where there is no data the mean."""
        pixels_HWC = self._read(block)
        missing_HW = self._missing(pixels_HWC)
        if missing_HW.any():
            pixels_HWC[missing_HW] = np.array(self.mean).astype(pixels_HWC.dtype)
        return pixels_HWC

    def without_data(self, block: Block) -> np.ndarray:
        """(H, W) bool: where there is no data."""
        return self._missing(self._read(block)) if self._may_lack_data else np.zeros(block[2:], bool)

    def ranges(self, bands: Sequence[int]) -> list[Range]:
        """Values of the shown bands that pictures show as black and white, from squares spread over the image."""
        height, width = self.size
        tall, wide = min(_SAMPLE_SIDE, height), min(_SAMPLE_SIDE, width)
        places = [
            (int(row), int(column))
            for row in np.linspace(0, height - tall, _SAMPLES)
            for column in np.linspace(0, width - wide, _SAMPLES)
        ]
        squares = (self._read(Block(top, left, tall, wide)) for top, left in places)
        pixels_PC = np.concatenate([square[~self._missing(square)] for square in squares])
        return display_ranges(pixels_PC[None][..., [number - 1 for number in bands]])

    @property
    def _may_lack_data(self) -> bool:
        return self.source.nodata is not None or np.dtype(self.source.dtypes[0]).kind == "f"

    def _read(self, block: Block) -> np.ndarray:
        window = _rasterio().windows.Window(block.left, block.top, block.width, block.height)
        try:
            pixels_CHW = self.source.read(list(self.indexes), window=window)
        except Exception as error:  # GDAL's, of many kinds
            raise _unreadable(self.path, error) from error
        return np.ascontiguousarray(np.moveaxis(pixels_CHW, 0, 2))

    def _missing(self, pixels_HWC: np.ndarray) -> np.ndarray:
        missing = np.zeros(pixels_HWC.shape[:-1], bool)
        if self.source.nodata is not None:
            missing |= (pixels_HWC == self.source.nodata).all(axis=-1)
        if pixels_HWC.dtype.kind == "f":
            missing |= ~np.isfinite(pixels_HWC).all(axis=-1)
        return missing


@contextmanager
def open_scene(path: Path, form: ImageFormat, mean: tuple[float, ...]) -> Iterator[Scene]:
    """Raises UserError where it cannot be read, or has other bands than the network takes."""
    rasterio = _rasterio()
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB), ExitStack() as stack:
        try:
            source = stack.enter_context(rasterio.open(path))
        except rasterio.errors.RasterioError as error:
            raise _unreadable(path, error) from error
        kind = "indices of a palette" if source.colorinterp[0].name == "palette" else source.dtypes[0]
        indexes = network_bands(source.count, kind, form, str(path), source.colorinterp[-1].name == "alpha")
        yield Scene(path, source, indexes, mean)


def network_bands(count: int, dtype: Any, form: ImageFormat, name: str, last_is_alpha: bool = False) -> tuple[int, ...]:
    """Numbers, from 1, of an image's bands that a network takes.

    These are all where it has as many as the network, or those that were packed where it has as many as the training's source.
    Raises UserError for any other image.
    """
    if str(dtype) == form.dtype:
        if count == form.channels or (form == RGB8 and count == 4 and last_is_alpha):
            return tuple(range(1, form.channels + 1))
        if count == form.source_bands:
            return form.bands
        if form == RGB8 and count == 1:
            return (1, 1, 1)
    source = f", or the {form.source_bands} of the training's source" if form.source_bands != form.channels else ""
    raise UserError(
        "MSA-INFER-790",
        f"'{name}' has {describe(count, dtype)}, expected {form.describe()} as the network was trained on{source}; convert it",
        setting="--images",
    )


def scene_settings(settings: EvaluationConfig, size: tuple[int, int], name: str) -> EvaluationConfig:
    """How a scene goes through the network: in windows unless it is small, or settings need the whole image at once.

    Raises UserError if it is too large for these.
    """
    pixels, setting = size[0] * size[1], whole_image_setting(settings)
    if setting and pixels > _MOST_AT_ONCE:
        raise UserError(
            "MSA-INFER-791",
            f"{setting} is set, which needs the whole image at once, and '{name}' has {size[1]}x{size[0]} pixels, expected at "
            f"most {_MOST_AT_ONCE}; set {setting}={_UNSET[setting]}, so that it is predicted in windows",
            setting=setting,
        )
    if setting or settings.window is not None or pixels <= _WHOLE_PIXELS:
        return settings
    return settings.model_copy(update={"window": DEFAULT_WINDOW})


class SceneFiles:
    """The GeoTIFFs that are written for a scene, each complete or absent. Its methods are for the block of a prediction."""

    def __init__(
        self, scene: Scene, palette: Sequence[RGB], ids: np.ndarray, bands: Sequence[int] | None, files: dict[str, Any]
    ) -> None:
        self._scene, self._palette, self._ids, self._files = scene, palette, ids, files
        self._bands = shown_bands(len(scene.indexes), bands)
        self._ranges = scene.ranges(self._bands) if "overlay" in files else []

    def write(self, block: Block, labels_HW: np.ndarray, probabilities_KHW: np.ndarray | None) -> None:
        """labels_HW: train ids, `ignore_index` where there is no data."""
        window = _rasterio().windows.Window(block.left, block.top, block.width, block.height)
        for kind, file in self._files.items():
            if kind == "probabilities":
                assert probabilities_KHW is not None
                file.write(probabilities_KHW, window=window)
            elif kind == "overlay":
                file.write(np.moveaxis(self._overlay(block, labels_HW), 2, 0), window=window)
            else:
                file.write(self._ids[labels_HW] if kind == "ids" else labels_HW, 1, window=window)

    def _overlay(self, block: Block, labels_HW: np.ndarray) -> np.ndarray:
        shown = picture(self._scene.read(block), self._bands, self._ranges)
        return overlay(shown, labels_HW, self._palette)


@contextmanager
def scene_files(
    scene: Scene, path: Callable[[str], Path], kinds: Iterable[str], palette: Sequence[RGB], ids: np.ndarray,
    bands: Sequence[int] | None,
) -> Iterator[SceneFiles]:  # fmt: skip
    """Open the files of these kinds, which get their names if the block ends without an error.

    Args:
        scene: The source, whose transform, CRS and ground control points the files get.
        path: Kind -> file.
        kinds: Keys of SCENE_ENDINGS.
        palette: Colors by train id.
        ids: The dataset's own id of each train id.
        bands: Those that the overlay shows.
    """
    rasterio = _rasterio()
    with ExitStack() as stack:
        opened = {}
        for kind in kinds:
            temporary = stack.enter_context(atomic_file(path(kind), lasting=False))
            file = stack.enter_context(rasterio.open(temporary, "w", **_profile(scene, kind, len(palette), ids.dtype)))
            if kind == "palette":
                file.write_colormap(1, dict(enumerate(palette)))
            opened[kind] = file
        yield SceneFiles(scene, palette, ids, bands, opened)


def _profile(scene: Scene, kind: str, num_classes: int, of_ids: np.dtype[Any]) -> dict[str, Any]:
    source, of_labels = scene.source, kind in ("palette", "ids", "train-ids")
    dtype = of_ids if kind == "ids" else label_dtype(num_classes) if of_labels else np.dtype(np.uint8)
    gcps, gcps_crs = source.gcps
    place = {"crs": source.crs, "transform": source.transform}
    if gcps:
        place = {"crs": gcps_crs, "gcps": gcps}
    return {
        "driver": "GTiff",
        "height": source.height,
        "width": source.width,
        "count": {"overlay": 3, "probabilities": num_classes}.get(kind, 1),
        "dtype": "float32" if kind == "probabilities" else dtype.name,
        "nodata": int(np.iinfo(dtype).max) if of_labels else None,
        **({"photometric": "RGB"} if kind == "overlay" else {}),
        "tiled": True,
        "blockxsize": ALIGNMENT,
        "blockysize": ALIGNMENT,
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
        **place,
    }


def labels_of(scores_1KHW: torch.Tensor, without_data_HW: np.ndarray) -> np.ndarray:
    """Train ids (H, W) of a block, uint8 or uint16, `ignore_index` where there is no data."""
    num_classes = scores_1KHW.shape[1]
    labels = scores_1KHW.max(dim=1).indices[0].to(label_tensor_dtype(num_classes))
    labels_HW = to_label_array(labels, num_classes)
    labels_HW[without_data_HW] = ignore_index(num_classes)
    return labels_HW


def _rasterio() -> Any:
    require_package("rasterio.windows", "geo", "--images")
    return require_package("rasterio", "geo", "--images")


def _unreadable(path: Path, error: Exception) -> UserError:
    why = " ".join(str(error.__cause__ or error).split())[:150]
    return UserError(
        "MSA-INFER-792", f"'{path}' cannot be read ({why}), expected a complete TIFF; replace it", setting="--images"
    )
