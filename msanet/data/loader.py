"""From the order to batches: what each rank and each loader process reads, and how it becomes tensors."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from msanet.config import Config, DataConfig
from msanet.data.augment import Sample, apply_geometry, choose_geometry, choose_jitter, sample_rng
from msanet.data.codec import decode_image, decode_label
from msanet.data.index import Manifest
from msanet.data.order import Order, Plan, evaluation_slice, rank_slice
from msanet.data.source import ShardSource
from msanet.errors import UserError
from msanet.processes import end_with_parent


@dataclass(frozen=True)
class BatchPlan:
    """Batch sizes, given once and derived everywhere else: global = ranks x micro x accumulation."""

    global_batch: int
    micro_batch: int
    world_size: int

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and optimizer step."""
        return self.global_batch // (self.micro_batch * self.world_size)


def plan_batches(global_batch: int, micro_batch: int | None, world_size: int) -> BatchPlan:
    """Check that ranks and micro-batches divide the global batch. Raises UserError that names values that would."""
    if global_batch % world_size:
        fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        raise UserError(
            f"trainer.global_batch={global_batch} cannot be shared by {world_size} ranks; start {_listed(fits)} ranks, or set "
            f"it to {max(1, global_batch // world_size) * world_size} or {(global_batch // world_size + 1) * world_size}"
        )
    share = global_batch // world_size
    micro = micro_batch or share
    if share % micro:
        fits = [n for n in range(1, share + 1) if share % n == 0]
        raise UserError(
            f"trainer.micro_batch={micro} does not divide the {share} images of each rank "
            f"({global_batch} on {world_size} ranks); set it to {_listed(fits)}"
        )
    return BatchPlan(global_batch, micro, world_size)


@dataclass(frozen=True)
class Batch:
    """A micro-batch. images_NHWC, labels_NHW: uint8; jitter_N3: float32; epochs_N, samples_N: which samples these are."""

    images_NHWC: Tensor
    labels_NHW: Tensor
    jitter_N3: Tensor
    epochs_N: Tensor
    samples_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        move = {name: tensor.to(device, non_blocking=True) for name, tensor in self.__dict__.items()}
        return Batch(**move)


@dataclass(frozen=True)
class EvaluationSample:
    """One image at its own size. image_HWC, label_HW: uint8; number: which sample of the split."""

    number: int
    key: str
    image_HWC: Tensor
    label_HW: Tensor


def train_plan(config: Config) -> Plan:
    """The frozen part of the order for a new run."""
    data = config.data
    return Plan(config.run.seed, config.trainer.global_batch, data.window, data.block_bytes, data.epoch_end == "drop")


def train_order(manifest: Manifest, split: str, plan: Plan) -> Order:
    """The order over a split. Raises UserError if the split does not fill one global batch."""
    info = manifest.split(split)
    if info.samples < plan.lanes:
        raise UserError(
            f"split '{split}' of {manifest.name} has {info.samples} samples, fewer than one global batch of {plan.lanes}; "
            f"set trainer.global_batch to at most {info.samples}"
        )
    return Order(plan, (shard.samples for shard in info.shards), (shard.bytes for shard in info.shards))


def train_loader(
    config: Config, order: Order, source: ShardSource, batches: BatchPlan, rank: int, consumed: int
) -> Iterator[list[Batch]]:
    """An endless stream of optimizer steps for one rank, from position `consumed` on; each a list of micro-batches."""
    positions = _TrainPositions(order, batches, rank, consumed)
    pipeline = wds.DataPipeline(positions, _Fetch(source), _Train(config.data, order.plan.seed), _collate)
    micro_batches = _iterate(pipeline, config.data.workers, config.data.prefetch)
    while True:
        yield [next(micro_batches) for _ in range(batches.accumulation)]


def evaluation_loader(source: ShardSource, rank: int, world_size: int, workers: int) -> Iterator[EvaluationSample]:
    """This rank's contiguous share of the split, each image once, in order."""
    positions = _EvaluationPositions(evaluation_slice(len(source), rank, world_size))
    return _iterate(wds.DataPipeline(positions, _Fetch(source), _evaluation_sample), workers, prefetch=2)


class _TrainPositions(IterableDataset):
    """Yields the (epochs, samples) of micro-batches; worker w of W takes micro-batches w, w + W, ... of its rank.

    DataLoader asks its workers in turn, so that the consumer sees micro-batches in order whatever W is.
    """

    def __init__(self, order: Order, batches: BatchPlan, rank: int, consumed: int) -> None:
        self.order, self.batches, self.rank, self.consumed = order, batches, rank, consumed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        number, workers = _worker()
        plan = self.batches
        while True:
            step, micro = divmod(number, plan.accumulation)
            share = rank_slice(self.consumed + step * plan.global_batch, plan.global_batch, self.rank, plan.world_size)
            positions = np.array(share[micro * plan.micro_batch : (micro + 1) * plan.micro_batch], dtype=np.int64)
            yield self.order.samples(positions)
            number += workers


class _EvaluationPositions(IterableDataset):
    def __init__(self, samples: range) -> None:
        self.numbers = samples

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        number, workers = _worker()
        for sample in self.numbers[number::workers]:
            yield np.zeros(1, np.int64), np.array([sample], dtype=np.int64)


class _Fetch:
    """(epochs, samples) -> list of WebDataset samples with their epoch and number."""

    def __init__(self, source: ShardSource) -> None:
        self.source = source

    def __call__(self, positions: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[dict[str, Any]]]:
        for epochs, samples in positions:
            yield [
                {**self.source.read(int(sample)), "epoch": int(epoch), "number": int(sample)}
                for epoch, sample in zip(epochs, samples, strict=True)
            ]


class _Train:
    """Decode and augment every sample of a micro-batch."""

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        red, green, blue = (round(value) for value in config.mean)
        self.fill = (red, green, blue)

    def __call__(self, groups: Iterable[list[dict[str, Any]]]) -> Iterator[list[Sample]]:
        cv2.setNumThreads(0)  # parallel across loader processes, not inside them
        for group in groups:
            yield [self._augment(sample) for sample in group]

    def _augment(self, sample: dict[str, Any]) -> Sample:
        image, label = decode_sample(sample)
        rng = sample_rng(self.seed, sample["epoch"], sample["number"])
        geometry = choose_geometry(image.shape[:2], self.config, rng)
        image, label = apply_geometry(image, label, geometry, self.fill)
        return Sample(sample["number"], sample["epoch"], image, label, choose_jitter(self.config, rng))


def decode_sample(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) image and (H, W) label of train ids, both uint8, of one WebDataset sample."""
    image_name, label_name = (
        next(name for name in sample if name.startswith(f"{kind}.")) for kind in ("image", "label")
    )
    where = f"{sample['__url__']}:{sample['__key__']}"
    image_HWC = decode_image(sample[image_name], f"{where}.{image_name}")
    return image_HWC, decode_label(sample[label_name], f"{where}.{label_name}")


def _collate(groups: Iterable[list[Sample]]) -> Iterator[Batch]:
    for group in groups:
        sizes = {sample.label_HW.shape for sample in group}
        if len(sizes) > 1:
            raise UserError(
                f"images of {_listed(sorted(sizes))} pixels (height, width) make no batch; set data.crop to one size, "
                f"such as data.crop=[{min(h for h, _ in sizes)},{min(w for _, w in sizes)}]"
            )
        yield Batch(
            images_NHWC=torch.from_numpy(np.stack([sample.image_HWC for sample in group])),
            labels_NHW=torch.from_numpy(np.stack([sample.label_HW for sample in group])),
            jitter_N3=torch.tensor([sample.jitter for sample in group], dtype=torch.float32),
            epochs_N=torch.tensor([sample.epoch for sample in group]),
            samples_N=torch.tensor([sample.number for sample in group]),
        )


def _evaluation_sample(groups: Iterable[list[dict[str, Any]]]) -> Iterator[EvaluationSample]:
    for (sample,) in groups:
        image, label = decode_sample(sample)
        yield EvaluationSample(sample["number"], sample["__key__"], torch.from_numpy(image), torch.from_numpy(label))


class _CarryFaults(IterableDataset):
    """Yields a UserError instead of raising it: DataLoader would wrap a worker's exception in its traceback."""

    def __init__(self, pipeline: wds.DataPipeline) -> None:
        self.pipeline = pipeline

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.pipeline
        except UserError as fault:
            yield fault


def _iterate(pipeline: wds.DataPipeline, workers: int, prefetch: int) -> Iterator[Any]:
    loader = DataLoader(
        _CarryFaults(pipeline),
        batch_size=None,  # the pipeline makes its own batches
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=torch.cuda.is_available(),
        # fork would copy locks that the training process's threads hold; forkserver starts from a clean process
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_worker,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _start_worker(_: int) -> None:
    end_with_parent()  # DataLoader's own watch looks at the fork server, which outlives a killed trainer


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _listed(values: list[Any]) -> str:
    return " or ".join(str(value) for value in values[:8])
