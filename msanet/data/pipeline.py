"""The stages of a loader process, each an iterator over the one before: predownload, fetch, augment, collate."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from msanet.config import DataConfig
from msanet.data.image.band_jitter import band_jitter
from msanet.data.image.codec import INSTANCES, decode_instances
from msanet.data.image.color import color_jitter, normalize
from msanet.data.label_tensors import to_label_tensor
from msanet.data.mixing import Mixing
from msanet.data.sample_source import ReadableSource, SampleSource
from msanet.data.samples import (
    NO_JITTER,
    TrainSample,
    augment_sample,
    decode_sample,
    placeholder_sample,
    require_label_dtype,
)
from msanet.data.transforms import NOT_OF_THE_SAMPLE
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError

Positions = tuple[np.ndarray, np.ndarray]
"""epochs and sample numbers of one micro-batch, int64 (N,)."""
Sample = dict[str, Any]
"""A WebDataset sample: {extension: bytes or array}, with __key__ and __url__."""
BAD_SAMPLE = "__bad_sample__"
PARTNER = "__partner__"
"""In a sample: the other one, which is mixed into it."""
_SHARDS_GONE = "MSA-DATA-552"
"""No sample is bad then."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch. images_NHWC: uint8, uint16 or float32; labels_NHW: uint8 or int32; jitter_N3: float32; epochs_N, samples_N:
    which.

    bad_samples: a sentence for each sample that could not be read and is skipped.
    """

    images_NHWC: Tensor
    labels_NHW: Tensor
    jitter_N3: Tensor
    epochs_N: Tensor
    samples_N: Tensor
    bad_samples: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same with its tensors on `device`; the copy may still be running."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, for asynchronous copies; DataLoader calls this."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        fields: dict[str, Any] = dict(self.__dict__)
        fields |= {name: change(value) for name, value in fields.items() if isinstance(value, Tensor)}
        return Batch(**fields)


@dataclass(frozen=True)
class EvaluationSample:
    """One image at its own size. image_HWC, label_HW: as in `Batch`; number: which sample of the split.

    instance_ids_HW: int32, the values of its `_instanceIds.png`; None if not requested, or packed without.
    """

    number: int
    key: str
    image_HWC: Tensor
    label_HW: Tensor
    instance_ids_HW: Tensor | None = None


def network_input(batch: Batch, data: DataConfig) -> Tensor:
    """What the network sees, (N, C, H, W) float32: colors jittered where that is left to the device, then normalized."""
    images = batch.images_NHWC
    if data.jitter_on == "device" and (data.brightness or data.contrast or data.saturation):
        is_rgb = images.dtype == torch.uint8 and images.shape[3] == 3
        images = (color_jitter if is_rgb else band_jitter)(images, batch.jitter_N3)
    return normalize(images, data.mean, data.std)


def predownload(
    positions: Iterable[Positions], source: ReadableSource, depth: int, threads: int, mixing: Mixing | None = None
) -> Iterator[Positions]:
    """Pass positions on, `depth` of them late, while threads fetch the bytes of those that are waiting.

    mixing: says which other samples are mixed in.
    """
    waiting: deque[Positions] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="predownload")
    try:
        for item in positions:
            waiting.append(item)
            for sample in item[1]:
                pool.submit(source.fetch, int(sample))  # its error is raised again by the read
            for partner in mixing.partners(*item) if mixing else ():
                pool.submit(source.fetch, partner)
            if len(waiting) > depth:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def fetch(
    positions: Iterable[Positions], source: ReadableSource, skip_bad: bool = False, mixing: Mixing | None = None
) -> Iterator[list[Sample]]:
    """Positions to lists of samples with epoch and number; a bad sample that is skipped has its error instead.

    mixing: says which of them also have another sample, PARTNER.
    """

    def read(epoch: int, number: int) -> Sample:
        try:
            return {**source.read(number), "epoch": epoch, "number": number}
        except UserError as error:
            if not skip_bad or error.code == _SHARDS_GONE:
                raise
            return {"epoch": epoch, "number": number, BAD_SAMPLE: str(error)}

    def with_partner(epoch: int, number: int) -> Sample:
        chosen = mixing.choose(epoch, number) if mixing else None
        return read(epoch, number) | ({PARTNER: read(epoch, chosen.partner)} if chosen else {})

    for epochs, samples in positions:
        yield [with_partner(int(epoch), int(sample)) for epoch, sample in zip(epochs, samples, strict=True)]


def augment(
    groups: Iterable[list[Sample]],
    config: DataConfig,
    seed: int,
    class_pixels: tuple[int, ...] = (),
    mixing: Mixing | None = None,
    image: ImageFormat = RGB8,
) -> Iterator[list[TrainSample]]:
    """Decode, crop and augment every sample of a micro-batch, and mix it with its partner, if it has one.

    class_pixels: labeled pixels of the split by class. image: what the dataset's images are.
    """

    def one(sample: Sample, data: DataConfig = config) -> TrainSample:
        number, epoch, error = sample["number"], sample["epoch"], sample.get(BAD_SAMPLE)
        if error is None:
            try:
                return augment_sample(sample, number, epoch, data, seed, class_pixels)
            except UserError as raised:
                if config.on_bad_sample == "raise" or raised.code in NOT_OF_THE_SAMPLE:
                    raise
                error = str(raised)
        return placeholder_sample(number, epoch, config, error, image, len(class_pixels))

    def mixed(sample: Sample) -> TrainSample:
        own = one(sample)
        if mixing is None or PARTNER not in sample or own.error:
            return own
        other = one(sample[PARTNER], mixing.data_of_partner(own.epoch, own.number))
        return own if other.error else mixing.mix(own, other)  # the epoch also has the partner, which says its error

    cv2.setNumThreads(0)  # parallel across loader processes, not inside them
    for group in groups:
        yield [mixed(sample) for sample in group]


def whole_images(groups: Iterable[list[Sample]], num_classes: int) -> Iterator[list[TrainSample]]:
    """Decode every sample of a micro-batch as it is. Raises UserError for images of different sizes.

    num_classes: of the dataset.
    """
    cv2.setNumThreads(0)
    for group in groups:
        decoded = [(sample, *decode_sample(sample)) for sample in group]
        for sample, _, label_HW in decoded:
            require_label_dtype(label_HW.dtype, num_classes, _place(sample))
        sizes = sorted({label_HW.shape for _, _, label_HW in decoded})
        if len(sizes) > 1:
            raise UserError(
                "MSA-DATA-011",
                f"images of {' or '.join(map(str, sizes[:8]))} pixels (height, width) cannot be batched, and an evaluation takes "
                "them whole; set batch_size=1",
                setting="batch_size",
            )
        yield [TrainSample(sample["number"], 0, image, label, NO_JITTER) for sample, image, label in decoded]


def collate(groups: Iterable[list[TrainSample]]) -> Iterator[Batch]:
    """Lists of samples to micro-batches. Raises UserError for images of different sizes."""
    for group in groups:
        sizes = sorted({sample.label_HW.shape for sample in group})
        if len(sizes) > 1:
            raise UserError(
                "MSA-DATA-011",
                f"images of {' or '.join(map(str, sizes[:8]))} pixels (height, width) cannot be batched; set data.crop to one "
                f"size, such as data.crop=[{min(h for h, _ in sizes)},{min(w for _, w in sizes)}]",
                setting="data.crop",
            )
        yield Batch(
            images_NHWC=torch.from_numpy(np.stack([sample.image_HWC for sample in group])),
            labels_NHW=to_label_tensor(np.stack([sample.label_HW for sample in group])),
            jitter_N3=torch.tensor([sample.jitter for sample in group], dtype=torch.float32),
            epochs_N=torch.tensor([sample.epoch for sample in group]),
            samples_N=torch.tensor([sample.number for sample in group]),
            bad_samples=tuple(sample.error for sample in group if sample.error),
        )


def fetch_instances(groups: Iterable[list[Sample]], source: SampleSource) -> Iterator[list[Sample]]:
    """Add its instance map to each sample that was packed with one."""
    for group in groups:
        yield [sample | source.read_instances(sample["number"]) for sample in group]


def evaluation_samples(groups: Iterable[list[Sample]], num_classes: int) -> Iterator[EvaluationSample]:
    """Groups of one sample each to full images. num_classes: of the dataset."""
    for (sample,) in groups:
        image_HWC, label_HW = decode_sample(sample)
        require_label_dtype(label_HW.dtype, num_classes, _place(sample))
        image, label = torch.from_numpy(np.ascontiguousarray(image_HWC)), to_label_tensor(label_HW)
        instance_ids = None
        if INSTANCES in sample:
            name = f"{_place(sample)}.{INSTANCES}"
            instance_ids = torch.from_numpy(decode_instances(sample[INSTANCES], name))
        yield EvaluationSample(sample["number"], sample["__key__"], image, label, instance_ids)


def _place(sample: Sample) -> str:
    """Shard and key, for sentences."""
    return f"{sample['__url__']}:{sample['__key__']}"
