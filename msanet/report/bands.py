"""Images of any bands and depth as pictures."""

from collections.abc import Sequence

import numpy as np

from msanet.report.palette import UInt8

_CLIPPED = 2.0
"""Percent of the pixels of each band that are shown as black, and as white."""
_SAMPLED = 250_000
"""Pixels from which these are estimated."""
Range = tuple[float, float]


def picture(image_HWC: np.ndarray, bands: Sequence[int] | None = None, ranges: Sequence[Range] | None = None) -> UInt8:
    """(H, W, 3) uint8 of an image of any bands; 8-bit RGB stays as it is.

    Args:
        image_HWC: uint8, uint16 or float32.
        bands: Three bands to show as red, green and blue, or one, from 1; None: the first three, or the first.
        ranges: Values that become black and white, for each shown band; None: those of this image (`display_ranges`).
    """
    if bands is None and image_HWC.dtype == np.uint8 and image_HWC.shape[2] == 3:
        return image_HWC
    shown_HWC = image_HWC[..., [number - 1 for number in shown_bands(image_HWC.shape[2], bands)]]
    if image_HWC.dtype != np.uint8:
        low, high = np.array(display_ranges(shown_HWC) if ranges is None else ranges, np.float32).T
        scaled = (shown_HWC.astype(np.float32) - low) / np.maximum(high - low, 1e-30)
        shown_HWC = np.rint(np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown_HWC, (*image_HWC.shape[:2], 3)))


def shown_bands(channels: int, bands: Sequence[int] | None) -> Sequence[int]:
    """`bands`, or the first three of an image, or its first where it has fewer."""
    return bands or ((1, 2, 3) if channels >= 3 else (1,))


def display_ranges(shown_HWC: np.ndarray) -> list[Range]:
    """For each band the values below and above which _CLIPPED percent of its finite pixels lie."""
    flat_PC = shown_HWC.reshape(-1, shown_HWC.shape[2])
    flat_PC = flat_PC[:: max(1, len(flat_PC) // _SAMPLED)]
    ranges = []
    for values in flat_PC.T:
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, (_CLIPPED, 100 - _CLIPPED)) if finite.size else (0, 1)
        ranges.append((float(low), float(high)))
    return ranges
