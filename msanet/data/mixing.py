"""CutMix, ClassMix and copy-paste: pixels of another sample of the split in a sample.

Which other one is a function of (seed, epoch, sample), as all augmentation is, so that mixed samples are the same for any
number of ranks and micro-batches, which a pairing inside a micro-batch could not be. See docs/decisions/0022.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from msanet.config import DataConfig
from msanet.config.augmentation import MIXES, is_any_set
from msanet.data.image.color import Draws, sample_rng
from msanet.data.samples import TrainSample
from msanet.datasets import ignored_value


class Mix(NamedTuple):
    """How a sample is mixed. kind: one of MIXES; partner: number of the other sample; draws: what remains to be drawn."""

    kind: str
    partner: int
    draws: np.random.Generator


def is_mixed(data: DataConfig) -> bool:
    """Whether the settings mix samples."""
    return is_any_set(data, MIXES)


@dataclass(frozen=True)
class Mixing:
    """What is mixed into which sample. class_pixels: labeled pixels of the split by class."""

    data: DataConfig
    seed: int
    num_samples: int
    class_pixels: tuple[int, ...]

    def choose(self, epoch: int, sample: int) -> Mix | None:
        """How this sample is mixed in this epoch; None if it is not. No sample is its own partner."""
        draws = sample_rng(self.seed, epoch, sample, Draws.MIX)
        u, step = draws.random(), int(draws.integers(max(1, self.num_samples - 1)))
        limits = np.cumsum([getattr(self.data, name) for name in MIXES])
        kind = int(np.searchsorted(limits, u, side="right"))
        if kind == len(MIXES) or self.num_samples < 2:
            return None
        return Mix(MIXES[kind], (sample + 1 + step) % self.num_samples, draws)

    def partners(self, epochs: np.ndarray, samples: np.ndarray) -> Iterator[int]:
        """Numbers of the samples that are mixed into these."""
        for epoch, sample in zip(epochs.tolist(), samples.tolist(), strict=True):
            if chosen := self.choose(epoch, sample):
                yield chosen.partner

    def data_of_partner(self, epoch: int, sample: int) -> DataConfig:
        """How the partner is augmented: as in its own turn, but what is pasted for rare classes is cropped around one."""
        chosen = self.choose(epoch, sample)
        aims = chosen is not None and chosen.kind == "copy_paste" and self.data.crop is not None
        return self.data.model_copy(update={"rare_class_crops": 1.0}) if aims else self.data

    def mix(self, own: TrainSample, other: TrainSample) -> TrainSample:
        """`own` with pixels of `other`, its partner. Color jitter that is left to the device is that of `own`."""
        chosen = self.choose(own.epoch, own.number)
        assert chosen is not None and chosen.partner == other.number and own.label_HW.shape == other.label_HW.shape
        taken_HW = self._taken(chosen, other.label_HW)
        image_HWC = np.where(taken_HW[..., None], other.image_HWC, own.image_HWC)
        return replace(own, image_HWC=image_HWC, label_HW=np.where(taken_HW, other.label_HW, own.label_HW))

    def _taken(self, chosen: Mix, label_HW: np.ndarray) -> np.ndarray:
        """(H, W) bool: the pixels to take of the partner."""
        if chosen.kind == "cutmix":
            return _rectangle(label_HW.shape, chosen.draws)
        present = np.setdiff1d(np.unique(label_HW), [ignored_value(label_HW.dtype)])
        if chosen.kind == "classmix":
            wanted = chosen.draws.permutation(present)[: math.ceil(len(present) / 2)]
        else:
            wanted = np.intersect1d(present, rare_classes(self.class_pixels))
        return np.isin(label_HW, wanted)


def rare_classes(class_pixels: tuple[int, ...]) -> np.ndarray:
    """The classes with fewer pixels in the split than the median class."""
    return np.flatnonzero(np.array(class_pixels) < np.median(class_pixels))


def _rectangle(shape: tuple[int, ...], draws: np.random.Generator) -> np.ndarray:
    """CutMix (Yun et al. 2019): a rectangle with a uniform share of the area, around a uniform center, clipped."""
    u_area, *u_center = draws.random(3)
    taken_HW = np.zeros(shape, bool)
    spans = []
    for side, u in zip(shape, u_center, strict=True):
        length, center = side * math.sqrt(u_area), side * u
        spans.append(slice(max(0, round(center - length / 2)), min(side, round(center + length / 2))))
    taken_HW[tuple(spans)] = True
    return taken_HW
