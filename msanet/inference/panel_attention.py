"""Attention maps for the report: MSANet's attention for a grid of queries, or the weights of scales."""

import logging
from dataclasses import dataclass, field

import cv2
import numpy as np
from torch import Tensor
from torch.nn import functional as F

from msanet.errors import UserError
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.predictor import Predictor
from msanet.logs import EVERY_RANK
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.msanet import MSANet
from msanet.report.palette import UInt8

logger = logging.getLogger(__name__)

GRID = (6, 8)
"""Rows and columns of queries, the centers of equal parts of the input."""

LONGEST_SIDE = 80
"""Of one map, in pixels; larger ones are reduced by averaging."""

LEVELS = 16
"""Shades of a map, for a small file."""

LOG_RANGE = 2
"""Decades below and above uniform attention on the logarithmic scale."""


@dataclass(frozen=True)
class PanelMaps:
    """AttentionMaps of one image, uint8.

    attention: {module: (2, R, C, h, w)}, where the module looks for the query of each part of GRID, in LEVELS steps from 0 to
    255 and at two scales: linear, a weight's share in the map's largest, and logarithmic, a weight relative to a uniform map's,
    from 1 / 100 to 100. scales: {scale: (h, w)}, its weight times 255.
    """

    attention: dict[str, UInt8] = field(default_factory=dict)
    scales: dict[str, UInt8] = field(default_factory=dict)


def panel_maps(predictor: Predictor, image_HWC: Tensor) -> PanelMaps | None:
    """Maps of a uint8 RGB image (H, W, 3).

    None if the network has none or sees windows only, in lockstep, and, with a warning, when out of memory.
    """
    model = predictor.model
    attends = isinstance(model, MSANet) and model.attends
    sees_full_image = predictor.settings.window is None and not predictor.lockstep
    if not sees_full_image or not (attends or isinstance(model, AttentionToScale)):
        return None
    maps = _GridMaps(predictor)
    image = image_HWC.cpu().numpy()
    try:
        if attends:
            return PanelMaps(attention=maps.grid(image))
        return PanelMaps(scales={scale: _weight(map_HW) for scale, map_HW in maps.scale_weights(image).items()})
    except UserError as error:
        logger.warning(f"the report lacks the attention maps of an image: {error}", extra=EVERY_RANK)
        return None


class _GridMaps(AttentionMaps):
    """`AttentionMaps` for many queries at once, at reduced size."""

    def grid(self, image_HWC: UInt8) -> dict[str, UInt8]:
        assert isinstance(self.model, MSANet)
        rows, columns = GRID
        with self._network():
            x_1CHW = self._input(image_HWC)
            height, width = x_1CHW.shape[2:]
            queries_Q2 = [
                ((2 * row + 1) * height // (2 * rows), (2 * column + 1) * width // (2 * columns))
                for row in range(rows)
                for column in range(columns)
            ]
            found = self.model.attention_maps(x_1CHW, queries_Q2)
            small = {name: _averaged(map_1QHW) for name, map_1QHW in found.items()}
        return {name: _shades(map_QHW).reshape(2, *GRID, *map_QHW.shape[1:]) for name, map_QHW in small.items()}


def _averaged(map_1QHW: Tensor) -> np.ndarray:
    """(Q, h, w), its longest side at most LONGEST_SIDE."""
    height, width = map_1QHW.shape[2:]
    factor = LONGEST_SIDE / max(height, width)
    if factor < 1:
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        map_1QHW = F.interpolate(map_1QHW, size, mode="area")
    return map_1QHW[0].cpu().numpy()


def _shades(map_QHW: np.ndarray) -> UInt8:
    """Linear and logarithmic, (2, Q, h, w): a softmax over many positions is a few peaks, and much lies between them."""
    map_QHW = np.nan_to_num(map_QHW).astype(np.float64)  # of a network that has diverged
    largest_Q11 = map_QHW.max(axis=(1, 2), keepdims=True)
    mean_Q11 = map_QHW.mean(axis=(1, 2), keepdims=True)
    linear_QHW = map_QHW / np.maximum(largest_Q11, 1e-30)
    log_QHW = np.log10(np.maximum(map_QHW / np.maximum(mean_Q11, 1e-30), 1e-30)) / (2 * LOG_RANGE) + 0.5
    levels = np.rint(np.stack([linear_QHW, log_QHW.clip(0, 1)]) * (LEVELS - 1))
    return (levels * (255 / (LEVELS - 1))).round().astype(np.uint8)


def _weight(map_HW: np.ndarray) -> UInt8:
    height, width = map_HW.shape
    factor = min(1.0, 2 * LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small_HW = cv2.resize(map_HW, size, interpolation=cv2.INTER_AREA)
    return np.rint(np.nan_to_num(small_HW).clip(0, 1) * 255).astype(np.uint8)
