"""Checks of image sizes against resize and crop, and of colors against mean and standard deviation."""

from collections.abc import Sequence

import numpy as np

from msanet.config import DataConfig
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.doctor.diagnostics import Found, check
from msanet.doctor.shards import SampleStatistics

_PADDED, _MUCH_PADDED = 0.25, 0.5
_STRETCHED = 0.2
_SPREAD = 2.5
_SCALES = 9


@check("images")
def sizes(statistics: Sequence[SampleStatistics], data: DataConfig, micro_batch_size: int) -> Found:
    """The median size; a fault where images of several sizes would have to make one batch."""
    heights, widths = (sorted(sample.size[axis] for sample in statistics) for axis in (0, 1))
    middle = len(statistics) // 2
    several = len({sample.size for sample in statistics}) > 1
    if several and not data.crop and not data.resize and micro_batch_size > 1:
        text = (
            f"images have several sizes, {widths[0]}x{heights[0]} to {widths[-1]}x{heights[-1]}, expected one, since a "
            f"micro-batch has {micro_batch_size}; set data.crop, such as data.crop=[{heights[middle]},{widths[middle]}]"
        )
        yield "fault", text
    else:
        text = f"median size {widths[middle]}x{heights[middle]}" + (", of several" if several else ", the same for all")
        yield "ok", f"{text} {len(statistics)} that were decoded"


@check("images")
def padding(statistics: Sequence[SampleStatistics], data: DataConfig) -> Found:
    """The share of a crop that lies outside the image, the mean over scales and images."""
    if data.crop is None:
        return
    inside = [
        min(1.0, size[0] * factor / data.crop[0]) * min(1.0, size[1] * factor / data.crop[1])
        for size in (data.resize or sample.size for sample in statistics)
        for factor in np.linspace(*data.random_scale, _SCALES)
    ]
    share = 1 - float(np.mean(inside))
    if share > _PADDED:
        text = (
            f"{share:.0%} of a crop of {data.crop[1]}x{data.crop[0]} is padding, the mean over images and scales, expected less "
            f"than {_PADDED:.0%}: it costs time and memory and teaches nothing; lower data.crop, or raise data.random_scale"
        )
        yield "warning" if share > _MUCH_PADDED else "advice", text


@check("images")
def stretching(statistics: Sequence[SampleStatistics], data: DataConfig) -> Found:
    """How much `data.resize` changes the ratio of the sides."""
    if data.resize is None:
        return
    target = data.resize[1] / data.resize[0]
    ratio = sorted(target / (sample.size[1] / sample.size[0]) for sample in statistics)[len(statistics) // 2]
    if not 1 / (1 + _STRETCHED) <= ratio <= 1 + _STRETCHED:
        text = (
            f"data.resize={list(data.resize)} changes width to height by a factor of {ratio:.2f} for the median image, expected "
            f"{1 / (1 + _STRETCHED):.2f} to {1 + _STRETCHED:.2f}; choose a size of the images' own proportions, or set data.crop"
        )
        yield "advice", text


@check("colors")
def normalization(statistics: Sequence[SampleStatistics], data: DataConfig, image: ImageFormat = RGB8) -> Found:
    """Whether mean and standard deviation are those of such images: RGB in gray values, or bands."""
    mean = np.mean([sample.mean for sample in statistics], axis=0)
    std = np.sqrt(np.maximum(np.mean([sample.square for sample in statistics], axis=0) - mean**2, 0))
    given, given_std = np.array(data.mean), np.array(data.std)
    own, spread = f"data.mean={_numbers(mean)} data.std={_numbers(std)}", std / given_std
    distance, reverse = np.abs(mean - given).sum(), np.abs(mean - given[::-1]).sum()
    is_rgb = image.is_rgb
    if is_rgb and max(sample.brightest for sample in statistics) <= 1:
        yield "fault", "no image has a gray value above 1, expected 0 to 255; pack images that are not scaled to 0..1"
    elif is_rgb and (given.max() <= 1 < mean.max() or given_std.max() <= 1):
        yield "warning", f"data.mean or data.std is in 0..1, expected gray values 0 to 255; the images' own: {own}"
    elif is_rgb and distance - reverse > 15 and reverse < distance / 2:
        reverse_fits = "data.mean fits the images far better in reverse, expected red, green, blue"
        yield "warning", f"{reverse_fits}; reverse it, or set {own}"
    elif (np.abs(mean - given) > given_std).any() or spread.min() < 1 / _SPREAD or spread.max() > _SPREAD:
        text = (
            f"images have the mean {_numbers(mean)} and standard deviation {_numbers(std)}, far from data.mean and data.std; "
            f"expected about those, unless model.pretrained was trained with others: {own}"
        )
        yield "advice", text
    else:
        yield "ok", f"the images' own mean is {_numbers(mean)}, standard deviation {_numbers(std)}"


def _numbers(values: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.1f}" for value in values) + "]"
