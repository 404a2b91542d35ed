"""Small pictures of samples with a finding: the image, and its label over it as far as both can be read."""

from collections.abc import Callable

import cv2
import numpy as np

from msanet.data.image.photo import read_photo
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from msanet.report.palette import UInt8, overlay
from sharding.notes import take_notes
from sharding.readers.mask_file import read_mask
from sharding.readers.reader import SamplePaths
from sharding.shard import PackingJob, decode_pair_label

_SIDE = 240
_RAW_COLORS = tuple(voc_color(value) for value in range(255))


def thumbnails(job: PackingJob, pair: SamplePaths) -> dict[str, UInt8]:
    """{caption: (h, w, 3) uint8 RGB}, at most two; empty where nothing can be read."""
    try:
        image_HWC = _read(lambda: read_photo(job.tree.read(pair.image), pair.image).pixels_HWC)
        size = None if image_HWC is None else image_HWC.shape[:2]
        label_HW = _read(lambda: decode_pair_label(job.tree, job.decode, job.spec, pair, size or ()))
        palette, caption = tuple(job.spec.palette), "label"
        if label_HW is None and pair.annotation is None:  # its values as they lie in the file
            label_HW = _read(lambda: read_mask(job.tree.read(pair.label), pair.label).pixels)
            palette, caption = _RAW_COLORS, "label as stored"
        shown: dict[str, UInt8] = {}
        if image_HWC is not None:
            shown["image"] = _reduced(image_HWC)
        if label_HW is None:
            return shown
        small = _reduced(label_HW, cv2.INTER_NEAREST_EXACT)
        if small.ndim == 3:
            return shown | {caption: small}
        if image_HWC is None or label_HW.shape[:2] != size:
            blank = np.full((*small.shape, 3), 255, np.uint8)
            return shown | {caption: overlay(blank, small, palette, 1.0)}
        return shown | {f"image with {caption}": overlay(shown["image"], small, palette)}
    finally:
        take_notes()


def _read(read: Callable[[], np.ndarray]) -> np.ndarray | None:
    try:
        return read()
    except UserError:
        return None


def _reduced(pixels: np.ndarray, interpolation: int = cv2.INTER_AREA) -> UInt8:
    share = min(1.0, _SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * share)), max(1, round(pixels.shape[0] * share))
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)
