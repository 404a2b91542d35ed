"""The bands of images that are not 8-bit RGB: the statistics of each, and what lies outside of an image."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from msanet.datasets.image_format import MAX_BANDS

_ROWS = 256
"""Rows whose sums are taken at once, to save memory."""
_HIGHEST = {"uint8": 2**8 - 1, "uint16": 2**16 - 1}
Values = Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_BANDS)]
"""One number for each band."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BandSums(_Record):
    """Sums over pixels, from which those of many images are made. square: of the squares. low, high: the extreme values."""

    pixels: Annotated[int, Field(ge=1)]
    total: Values
    square: Values
    low: Values
    high: Values


class BandStatistics(_Record):
    """Mean, standard deviation and extreme values of each band over the pixels of a split."""

    mean: Values
    std: Values
    low: Values
    high: Values

    @model_validator(mode="after")
    def _lengths_agree(self) -> "BandStatistics":
        if len({len(values) for values in (self.mean, self.std, self.low, self.high)}) > 1:
            raise ValueError("mean, std, low and high have different numbers of bands")
        return self


def mixed_statistics(parts: Sequence[BandStatistics], weights: Sequence[int]) -> BandStatistics:
    """Those of several sets together, each with a weight, such as its number of images."""
    shares = np.array(weights, dtype=np.float64)[:, None] / sum(weights)
    mean_KC, std_KC = (np.array([getattr(part, name) for part in parts]) for name in ("mean", "std"))
    mean_C = (shares * mean_KC).sum(axis=0)
    std_C = np.sqrt((shares * (std_KC**2 + (mean_KC - mean_C) ** 2)).sum(axis=0))
    low_C, high_C = np.min([part.low for part in parts], axis=0), np.max([part.high for part in parts], axis=0)
    values = {"mean": mean_C, "std": std_C, "low": low_C, "high": high_C}
    return BandStatistics(**{name: tuple(map(float, array)) for name, array in values.items()})


def band_sums(pixels_HWC: np.ndarray) -> BandSums:
    """The sums of one image (H, W, C), in float64."""
    channels = pixels_HWC.shape[2]
    total, square = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(pixels_HWC), _ROWS):
        flat_PC = pixels_HWC[start : start + _ROWS].reshape(-1, channels).astype(np.float64)
        total += flat_PC.sum(axis=0)
        square += np.square(flat_PC).sum(axis=0)
    low, high = pixels_HWC.min(axis=(0, 1)), pixels_HWC.max(axis=(0, 1))
    values = {"total": total, "square": square, "low": low, "high": high}
    pixels = pixels_HWC.shape[0] * pixels_HWC.shape[1]
    return BandSums(pixels=pixels, **{name: tuple(map(float, array)) for name, array in values.items()})


def add_sums(sums: Sequence[BandSums]) -> BandSums:
    """Those of all images together."""
    columns = {name: [getattr(part, name) for part in sums] for name in ("total", "square", "low", "high")}
    values = {
        "total": np.sum(columns["total"], axis=0),
        "square": np.sum(columns["square"], axis=0),
        "low": np.min(columns["low"], axis=0),
        "high": np.max(columns["high"], axis=0),
    }
    pixels = sum(part.pixels for part in sums)
    return BandSums(pixels=pixels, **{name: tuple(map(float, array)) for name, array in values.items()})


def band_statistics(sums: BandSums) -> BandStatistics:
    """Mean and standard deviation. A band with one value only has the standard deviation 0."""
    mean = np.array(sums.total) / sums.pixels
    std = np.sqrt(np.maximum(np.array(sums.square) / sums.pixels - mean**2, 0))
    std[np.array(sums.low) == np.array(sums.high)] = 0
    return BandStatistics(mean=tuple(map(float, mean)), std=tuple(map(float, std)), low=sums.low, high=sums.high)


def fill_value(mean: Sequence[float], dtype: Any) -> tuple[float, ...]:
    """The mean as pixels can have it, for what lies outside of an image."""
    most = _HIGHEST.get(str(dtype))
    if most is None:
        return tuple(mean)
    return tuple(min(max(round(value), 0), most) for value in mean)
