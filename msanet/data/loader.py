"""From the shuffle order to batches: what each rank and each loader process reads, and how it becomes tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset

from msanet.config import Config, DataConfig, StorageConfig
from msanet.data.decoded_cache import DecodedSource
from msanet.data.loader_processes import iterate, worker
from msanet.data.manifest import Manifest
from msanet.data.mixed_order import MixedOrder, SampleOrder, own_shuffle_config, samples_per_epoch
from msanet.data.mixing import Mixing, is_mixed
from msanet.data.mixture import MixedManifest
from msanet.data.open_dataset import open_dataset
from msanet.data.pipeline import (
    Batch,
    EvaluationSample,
    Positions,
    augment,
    collate,
    evaluation_samples,
    fetch,
    fetch_instances,
    predownload,
)
from msanet.data.sample_source import ReadableSource, SampleSource
from msanet.data.shared_memory import EVALUATION_PREFETCH
from msanet.data.shuffle_order import ShuffleConfig, ShuffleOrder, evaluation_slice, rank_slice
from msanet.data.storage.cache import NodeCache, cache_folder
from msanet.data.transforms import open_transforms
from msanet.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """Batch sizes: global = groups x micro x accumulation.

    context_parallel_size: how many consecutive ranks form a group, which takes the same images.
    """

    global_batch_size: int
    micro_batch_size: int
    world_size: int
    context_parallel_size: int = 1

    @property
    def groups(self) -> int:
        """Ranks, or groups of ranks, that take different images."""
        return self.world_size // self.context_parallel_size

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.groups)

    def group(self, rank: int) -> int:
        """The number of this rank's group."""
        return rank // self.context_parallel_size

    def is_first(self, rank: int) -> bool:
        """Whether this rank represents its group, so that sums over ranks count each image once."""
        return rank % self.context_parallel_size == 0

    def firsts(self, ranks: Sequence[int]) -> list[int]:
        """The first of each group among these ranks, which are in ascending order."""
        return sorted({self.group(rank): rank for rank in reversed(ranks)}.values())

    def share(self, start: int, rank: int) -> range:
        """This rank's positions of the global batch that starts at position `start` of the order."""
        return rank_slice(start, self.global_batch_size, self.group(rank), self.groups)


def batch_plan(config: Config, world_size: int) -> BatchPlan:
    """The batches of a run on `world_size` ranks. Raises UserError where the settings do not divide."""
    trainer = config.trainer
    return plan_batches(trainer.global_batch_size, trainer.micro_batch_size, world_size, trainer.context_parallel_size)


def plan_batches(
    global_batch_size: int,
    micro_batch_size: int | Literal["auto"] | None,
    world_size: int,
    context_parallel_size: int = 1,
) -> BatchPlan:
    """Check that ranks and micro-batches divide the global batch. Raises UserError that names values that do.

    auto counts as null, the largest: `msanet.training.memory.auto_batch_size` says what fits.
    """
    if world_size % context_parallel_size:
        fits = [n for n in range(1, world_size + 1) if world_size % n == 0]
        raise UserError(
            "MSA-DATA-006",
            f"trainer.context_parallel_size={context_parallel_size} does not divide the {world_size} ranks into groups; set it "
            f"to {_listed(fits)}, or start {(world_size // context_parallel_size + 1) * context_parallel_size} ranks",
            setting="trainer.context_parallel_size",
        )
    groups = world_size // context_parallel_size
    if global_batch_size % groups:
        fits = [n * context_parallel_size for n in range(1, global_batch_size + 1) if global_batch_size % n == 0]
        sharers = (
            f"{groups} groups of {context_parallel_size} ranks" if context_parallel_size > 1 else f"{world_size} ranks"
        )
        raise UserError(
            "MSA-DATA-007",
            f"trainer.global_batch_size={global_batch_size} cannot be shared by {sharers}; start {_listed(fits)} ranks, or set "
            f"it to {max(1, global_batch_size // groups) * groups} or {(global_batch_size // groups + 1) * groups}",
            setting="trainer.global_batch_size",
        )
    share = global_batch_size // groups
    micro = micro_batch_size if isinstance(micro_batch_size, int) else share
    if share % micro:
        fits = [n for n in range(1, share + 1) if share % n == 0]
        raise UserError(
            "MSA-DATA-008",
            f"trainer.micro_batch_size={micro} does not divide the {share} images of each rank "
            f"({global_batch_size} on {world_size} ranks); set it to {_listed(fits)}",
            setting="trainer.micro_batch_size",
        )
    return BatchPlan(global_batch_size, micro, world_size, context_parallel_size)


def shuffle_config(config: Config) -> ShuffleConfig:
    """The frozen part of the order for a new run."""
    data, streams = config.data, config.trainer.global_batch_size
    return ShuffleConfig(
        config.run.seed,
        streams,
        data.shuffle_window,
        data.shuffle_block_bytes,
        data.drop_last,
        data.sampling_weights or (),
    )


def shuffle_order(manifest: Manifest, split: str, plan: ShuffleConfig) -> SampleOrder:
    """The order over a split. Raises UserError if the split does not fill one global batch."""
    info = manifest.split(split)
    if info.samples < plan.streams:
        raise UserError(
            "MSA-DATA-009",
            f"split '{split}' of {manifest.name} has {info.samples} samples, fewer than one global batch of {plan.streams}; "
            f"set trainer.global_batch_size to at most {info.samples}",
            setting="trainer.global_batch_size",
        )
    return split_order(manifest, split, plan)


def split_order(manifest: Manifest, split: str, plan: ShuffleConfig) -> SampleOrder:
    """The order over a split of any size, or over several datasets."""
    if not isinstance(manifest, MixedManifest):
        return _order_of_one(manifest, split, plan)
    manifests = [part.manifest for part in manifest.parts_of(split)]
    if len(manifests) == 1:
        return _order_of_one(manifests[0], split, plan)
    sizes = [one.split(split).samples for one in manifests]
    counts = samples_per_epoch(sizes, plan.sampling_weights)
    plans = [
        own_shuffle_config(plan, number, count, size, sum(sizes))
        for number, (count, size) in enumerate(zip(counts, sizes, strict=True))
    ]
    orders = [_order_of_one(one, split, own) for one, own in zip(manifests, plans, strict=True)]
    return MixedOrder(plan, orders, counts)


def _order_of_one(manifest: Manifest, split: str, plan: ShuffleConfig) -> ShuffleOrder:
    """What is not packed has no blocks worth keeping: it is shuffled sample by sample."""
    shards = manifest.split(split).shards
    block = plan.shuffle_block_bytes if manifest.is_unpacked else 0
    return ShuffleOrder(
        plan, (shard.samples for shard in shards), (block * shard.samples or shard.bytes for shard in shards)
    )


def train_source(config: Config, manifest: Manifest) -> SampleSource:
    """The training split of a run."""
    return open_dataset(config.data, config.storage).source(config.data.train_split, manifest)


def train_loader(
    config: Config, order: SampleOrder, source: SampleSource, batches: BatchPlan, rank: int, consumed_samples: int
) -> Iterator[list[Batch]]:
    """An endless stream of optimizer steps for one rank, from position `consumed_samples` on; each a list of micro-batches."""
    data = config.data
    positions = _TrainPositions(order, batches, rank, consumed_samples)
    pipeline = train_pipeline(positions, source, data, config.storage, order.plan.seed)
    micro_batches = iterate(pipeline, data.num_workers, data.prefetch_factor)
    while True:
        yield [next(micro_batches) for _ in range(batches.accumulation)]


def train_pipeline(
    positions: IterableDataset, source: SampleSource, data: DataConfig, storage: StorageConfig, seed: int
) -> wds.DataPipeline:
    """From the positions of micro-batches to augmented `Batch`es."""
    samples: ReadableSource = source
    if storage.decoded_cache_limit_bytes:
        folder = cache_folder(storage.cache_dir) / "decoded"
        samples = DecodedSource(source, NodeCache(folder, storage.decoded_cache_limit_bytes, evict=False))
    open_transforms(data.transforms)  # an error now, not in a loader process
    class_pixels, image = source.manifest.split(source.split).histogram, source.manifest.image_format
    mixing = Mixing(data, seed, len(source), class_pixels) if is_mixed(data) else None
    return wds.DataPipeline(
        positions,
        partial(predownload, source=samples, depth=storage.predownload, threads=storage.max_connections, mixing=mixing),
        partial(fetch, source=samples, skip_bad=data.on_bad_sample == "skip", mixing=mixing),
        partial(augment, config=data, seed=seed, class_pixels=class_pixels, mixing=mixing, image=image),
        collate,
    )


def evaluation_loader(
    source: SampleSource, rank: int, world_size: int, workers: int, instances: bool = False
) -> Iterator[EvaluationSample]:
    """This rank's contiguous share of the split, each image once, in order; with `instances`, also their instance maps."""
    ahead = StorageConfig()
    pipeline = wds.DataPipeline(
        _EvaluationPositions(evaluation_slice(len(source), rank, world_size)),
        partial(predownload, source=source, depth=ahead.predownload, threads=ahead.max_connections),
        partial(fetch, source=source),
        *([partial(fetch_instances, source=source)] if instances else []),
        partial(evaluation_samples, num_classes=source.manifest.num_classes),
    )
    return iterate(pipeline, workers, EVALUATION_PREFETCH)


class _TrainPositions(IterableDataset):
    """Yields the (epochs, samples) of micro-batches; worker w of W takes micro-batches w, w + W, ... of its rank.

    DataLoader asks its workers in turn, so the consumer sees micro-batches in order for any W.
    """

    def __init__(self, order: SampleOrder, batches: BatchPlan, rank: int, consumed_samples: int) -> None:
        self.order, self.batches, self.rank, self.consumed_samples = order, batches, rank, consumed_samples

    def __iter__(self) -> Iterator[Positions]:
        number, workers = worker()
        plan = self.batches
        while True:
            step, micro = divmod(number, plan.accumulation)
            share = plan.share(self.consumed_samples + step * plan.global_batch_size, self.rank)
            positions = share[micro * plan.micro_batch_size : (micro + 1) * plan.micro_batch_size]
            yield self.order.samples(np.array(positions, dtype=np.int64))
            number += workers


class _EvaluationPositions(IterableDataset):
    def __init__(self, samples: range) -> None:
        self.numbers = samples

    def __iter__(self) -> Iterator[Positions]:
        number, workers = worker()
        for sample in self.numbers[number::workers]:
            yield np.zeros(1, np.int64), np.array([sample], dtype=np.int64)


def _listed(values: list[Any]) -> str:
    return " or ".join(str(value) for value in values[:8])
