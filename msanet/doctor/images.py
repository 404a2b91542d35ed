"""Checks of image sizes against resize and crop, and of colors against mean and standard deviation."""

from collections.abc import Sequence

import numpy as np

from msanet.config import DataConfig
from msanet.doctor.diagnostics import Diagnostic, Level
from msanet.doctor.shards import SampleStatistics

_PADDED, _MUCH_PADDED = 0.25, 0.5
_STRETCHED = 0.2
_SPREAD = 2.5
_SCALES = 9


def sizes(statistics: Sequence[SampleStatistics], data: DataConfig, micro_batch_size: int) -> list[Diagnostic]:
    """The median size; a fault where images of several sizes would have to make one batch."""
    heights, widths = (sorted(sample.size[axis] for sample in statistics) for axis in (0, 1))
    middle = len(statistics) // 2
    several = len({sample.size for sample in statistics}) > 1
    if several and not data.crop and not data.resize and micro_batch_size > 1:
        return [
            Diagnostic(
                "fault",
                "images",
                f"images have several sizes, {widths[0]}x{heights[0]} to {widths[-1]}x{heights[-1]}, expected one, since a "
                f"micro-batch has {micro_batch_size}; set data.crop, such as data.crop=[{heights[middle]},{widths[middle]}]",
            )
        ]
    text = f"median size {widths[middle]}x{heights[middle]}" + (", of several" if several else ", the same for all")
    return [Diagnostic("ok", "images", f"{text} {len(statistics)} that were decoded")]


def padding(statistics: Sequence[SampleStatistics], data: DataConfig) -> list[Diagnostic]:
    """The share of a crop that lies outside the image, the mean over scales and images."""
    if data.crop is None:
        return []
    factors = np.linspace(*data.random_scale, _SCALES)
    inside = [
        min(1.0, size[0] * factor / data.crop[0]) * min(1.0, size[1] * factor / data.crop[1])
        for size in (data.resize or sample.size for sample in statistics)
        for factor in factors
    ]
    share = 1 - float(np.mean(inside))
    if share <= _PADDED:
        return []
    return [
        Diagnostic(
            "warning" if share > _MUCH_PADDED else "advice",
            "images",
            f"{share:.0%} of a crop of {data.crop[1]}x{data.crop[0]} is padding, the mean over images and scales, expected less "
            f"than {_PADDED:.0%}: it costs time and memory and teaches nothing; lower data.crop, or raise data.random_scale",
        )
    ]


def stretching(statistics: Sequence[SampleStatistics], data: DataConfig) -> list[Diagnostic]:
    """How much `data.resize` changes the ratio of the sides."""
    if data.resize is None:
        return []
    target = data.resize[1] / data.resize[0]
    ratios = sorted(target / (sample.size[1] / sample.size[0]) for sample in statistics)
    ratio = ratios[len(ratios) // 2]
    if 1 / (1 + _STRETCHED) <= ratio <= 1 + _STRETCHED:
        return []
    return [
        Diagnostic(
            "advice",
            "images",
            f"data.resize={list(data.resize)} changes width to height by a factor of {ratio:.2f} for the median image, expected "
            f"{1 / (1 + _STRETCHED):.2f} to {1 + _STRETCHED:.2f}; take a size of the images' own proportions, or data.crop",
        )
    ]


def normalization(statistics: Sequence[SampleStatistics], data: DataConfig) -> list[Diagnostic]:
    """Whether mean and standard deviation are those of such images: RGB, in gray values."""
    mean = np.mean([sample.mean for sample in statistics], axis=0)
    std = np.sqrt(np.maximum(np.mean([sample.square for sample in statistics], axis=0) - mean**2, 0))
    given, given_std = np.array(data.mean), np.array(data.std)
    own = f"data.mean={_numbers(mean)} data.std={_numbers(std)}"
    if max(sample.brightest for sample in statistics) <= 1:
        return [
            _colors(
                "fault", "no image has a gray value above 1, expected 0 to 255; pack images that are not scaled to 0..1"
            )
        ]
    if given.max() <= 1 < mean.max() or given_std.max() <= 1:
        return [
            _colors(
                "warning", f"data.mean or data.std is in 0..1, expected gray values 0 to 255; the images' own: {own}"
            )
        ]
    distance, reverse = np.abs(mean - given).sum(), np.abs(mean - given[::-1]).sum()
    if distance - reverse > 15 and reverse < distance / 2:
        text = (
            f"data.mean fits the images far better in reverse, expected red, green, blue; turn it round, or take {own}"
        )
        return [_colors("warning", text)]
    spread = std / given_std
    if (np.abs(mean - given) > given_std).any() or spread.min() < 1 / _SPREAD or spread.max() > _SPREAD:
        text = (
            f"images have the mean {_numbers(mean)} and standard deviation {_numbers(std)}, far from data.mean and data.std; "
            f"expected about those, unless model.pretrained was trained with others: {own}"
        )
        return [_colors("advice", text)]
    return [_colors("ok", f"the images' own mean is {_numbers(mean)}, standard deviation {_numbers(std)}")]


def _colors(level: Level, text: str) -> Diagnostic:
    return Diagnostic(level, "colors", text)


def _numbers(values: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.1f}" for value in values) + "]"
