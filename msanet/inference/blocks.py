"""Images of any size, block by block, in memory that does not depend on their size.

A block gets exactly the windows that the complete image has there, so the result is that of `Predictor` on the whole image.
Settings that need the whole image (`whole_image_setting`) make it one block.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from msanet.config import EvaluationConfig
from msanet.data.image.color import normalize
from msanet.inference.predictor import Predictor, blend_weights, explain_out_of_memory

ALIGNMENT = 256
"""Blocks begin at multiples of this, the tiles of the files that are written."""
_BYTES = 2**27
"""Of a block's scores, and of its pixels."""
_LARGEST = 2048


class Block(NamedTuple):
    """Part of an image."""

    top: int
    left: int
    height: int
    width: int


ReadBlock = Callable[[Block], np.ndarray]
"""Pixels (H, W, C) of a part of the image."""


def whole_image_setting(settings: EvaluationConfig) -> str | None:
    """The first setting that is not possible in blocks; None if all are."""
    asked = {
        "evaluation.resize": settings.resize is not None,
        "evaluation.scales": settings.scales != (1.0,),
        "evaluation.flip": settings.flip,
        "evaluation.crf.enabled": settings.crf.enabled,
    }
    return next((name for name, is_asked in asked.items() if is_asked), None)


class BlockPredictor:
    """Puts an image that is read in parts through a network.

    Args:
        predictor: Its `settings.window` is the window; None: the whole image.
        size: (height, width) of the image.
        read: Its pixels.
    """

    def __init__(self, predictor: Predictor, size: tuple[int, int], read: ReadBlock) -> None:
        self._predictor, self._size, self._read = predictor, size, read
        self._is_whole = whole_image_setting(predictor.settings) is not None
        self._window = predictor.window_size(size)
        self._rows, self._columns = predictor.window_starts(size)
        self._row_weights, self._column_weights = (
            blend_weights(starts, window, length).to(predictor.device)
            for starts, window, length in zip((self._rows, self._columns), self._window, size, strict=True)
        )

    def blocks(self, num_classes: int, pixel_bytes: int) -> Iterator[Block]:
        """Blocks over the image, as large as memory allows: windows that touch two of them are predicted twice."""
        if self._is_whole:
            yield Block(0, 0, *self._size)
            return
        own = int((_BYTES / (4 * num_classes)) ** 0.5)
        with_windows = int((_BYTES / pixel_bytes) ** 0.5) - 2 * max(self._window)
        side = min(own, with_windows, _LARGEST) // ALIGNMENT * ALIGNMENT
        side = max(side, -(-max(self._window) // ALIGNMENT) * ALIGNMENT)
        height, width = self._size
        for top in range(0, height, side):
            for left in range(0, width, side):
                yield Block(top, left, min(side, height - top), min(side, width - left))

    @torch.inference_mode()
    @explain_out_of_memory()
    def scores(self, block: Block) -> Tensor:
        """What `Predictor.scores` returns for the whole image, (1, K, h, w) float32 of a block."""
        if self._is_whole:
            return self._predictor.scores(torch.from_numpy(self._read(block)))
        rows = _touching(self._rows, self._window[0], block.top, block.height)
        columns = _touching(self._columns, self._window[1], block.left, block.width)
        area = self._area(rows, columns)
        pixels_HWC = torch.from_numpy(self._read(area))
        origins = [(row, column) for row in rows for column in columns]
        blended_KHW: Tensor | None = None
        done = 0
        while done < len(origins):
            batch = origins[done : done + self._predictor.window_batch]
            logits_NKHW = self._predictor.forward_if_it_fits(self._inputs(pixels_HWC, area, batch))
            if logits_NKHW is None:
                continue
            if blended_KHW is None:
                blended_KHW = logits_NKHW.new_zeros(logits_NKHW.shape[1], block.height, block.width)
            for logits_KHW, (row, column) in zip(logits_NKHW, batch, strict=True):
                self._add(blended_KHW, block, logits_KHW, row, column)
            done += len(batch)
        assert blended_KHW is not None
        return blended_KHW.unsqueeze(0)

    def _area(self, rows: list[int], columns: list[int]) -> Block:
        """The part of the image that these windows cover. rows, columns: numbers of windows."""
        (height, width), top, left = self._window, self._rows[rows[0]], self._columns[columns[0]]
        return Block(top, left, self._rows[rows[-1]] + height - top, self._columns[columns[-1]] + width - left)

    def _inputs(self, pixels_HWC: Tensor, area: Block, batch: list[tuple[int, int]]) -> Tensor:
        height, width = self._window
        windows = []
        for row, column in batch:
            top, left = self._rows[row] - area.top, self._columns[column] - area.left
            windows.append(pixels_HWC[top : top + height, left : left + width])
        predictor = self._predictor
        return normalize(torch.stack(windows).to(predictor.device), predictor.mean, predictor.std)

    def _add(self, blended_KHW: Tensor, block: Block, logits_KHW: Tensor, row: int, column: int) -> None:
        """The part of a window that lies in the block, by its weights."""
        top, left = self._rows[row], self._columns[column]
        rows = range(max(top, block.top), min(top + self._window[0], block.top + block.height))
        columns = range(max(left, block.left), min(left + self._window[1], block.left + block.width))
        inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        target = blended_KHW[
            :, rows.start - block.top : rows.stop - block.top, columns.start - block.left : columns.stop - block.left
        ]
        if len(self._rows) == len(self._columns) == 1:
            target.copy_(logits_KHW[(slice(None), *inside)])
            return
        weight_HW = self._row_weights[row, inside[0], None] * self._column_weights[column, inside[1]]
        target.addcmul_(logits_KHW[(slice(None), *inside)], weight_HW)


def _touching(starts: list[int], window: int, begin: int, length: int) -> list[int]:
    """Numbers of the windows along one axis that overlap [begin, begin + length)."""
    return [number for number, start in enumerate(starts) if start < begin + length and start + window > begin]
