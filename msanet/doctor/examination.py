"""From a run's settings to diagnostics: reads what the checks need and calls them, in the order in which they are shown."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from msanet.config import Config
from msanet.data import shared_memory
from msanet.data.band_settings import require_shown_bands, with_band_settings
from msanet.data.loader import BatchPlan, batch_plan, shuffle_config, shuffle_order
from msanet.data.manifest import Manifest, SplitInfo
from msanet.data.mixture import MixedManifest
from msanet.data.open_dataset import Dataset, Mixture, Shards, open_dataset
from msanet.data.open_files import file_limit
from msanet.data.storage import LocalStorage, Storage
from msanet.data.storage.cache import cache_folder
from msanet.data.transforms import open_transforms
from msanet.distributed.cores import available_cores
from msanet.doctor import batches, images, labels, machine, memory, shards
from msanet.doctor.diagnostics import Diagnostic, has_fault
from msanet.doctor.shards import SampleStatistics
from msanet.errors import UserError
from msanet.losses import class_weights
from msanet.models import model_options
from msanet.models.meta import on_meta_device
from msanet.models.network import SegmentationNetwork
from msanet.plugins import trust
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.io import checkpoint_folders
from msanet.training.engine.optimizer import deepspeed_config, total_steps
from msanet.training.memory.auto_batch_size import largest_micro_batch, step_needs
from msanet.training.memory.estimate import step_memory
from msanet.training.network import build_for_estimate, load_initial_weights

_OVERLAP_SAMPLES = 100_000
"""Samples of a split whose names are compared; their indexes have about 60 MB."""
Statistics = dict[str, list[SampleStatistics]]
"""Of decoded samples, by split."""


@dataclass(frozen=True)
class Case:
    """A run that has not started. device_bytes: memory of a rank's device, if known; count: samples to decode of a split."""

    config: Config
    ranks: int
    device_bytes: float | None
    count: int

    @cached_property
    def dataset(self) -> Dataset:
        if self.config.data.dataset is not None:
            trust(self.config.data.dataset)  # the user's own settings name it
        return open_dataset(self.config.data, self.config.storage)

    @cached_property
    def manifest(self) -> Manifest:
        return self.dataset.read_manifest(count_labels=True)

    def build(self) -> SegmentationNetwork:
        """The network, on torch's current device."""
        return build_for_estimate(self.config, self.manifest.num_classes)


def examine(case: Case) -> list[Diagnostic]:
    """All diagnostics. Raises UserError only where there is nothing to examine: no manifest or no such address."""
    band_faults: list[Diagnostic] = []
    case = _with_band_settings(case, band_faults)
    data, manifest = case.config.data, case.manifest
    names = {"data.train_split": data.train_split}
    if data.val_split is not None:
        names["data.val_split"] = data.val_split
    diagnostics, dataset = [*shards.splits_exist(manifest, names), *band_faults], case.dataset
    packed = _packed(dataset, manifest, data.train_split)
    for one, _ in packed:
        diagnostics += shards.skipped_samples(one)
    train, val = _split(manifest, data.train_split), _split(manifest, data.val_split)
    statistics = {name: _sample_statistics(case, name, diagnostics) for name in dict.fromkeys(names.values())}
    if train and val and packed and _packed(dataset, manifest, data.val_split or ""):
        diagnostics += _faults_of("shards", lambda: _train_val_overlap(case, train, val))
    if train:
        diagnostics += labels.label_diagnostics(train, val, manifest.classes, statistics[data.train_split])
        diagnostics += _run_diagnostics(case, train, val, statistics)
    return [*diagnostics, *_machine_diagnostics(case)]


def _with_band_settings(case: Case, faults: list[Diagnostic]) -> Case:
    """With the normalization of the dataset's bands, as a training has it; transforms of the user's own are imported."""
    try:
        open_transforms(case.config.data.transforms)
        if case.manifest.image is None and len(case.config.data.mean) == 3:
            return case
        require_shown_bands(case.config.report.bands, case.manifest.image_format)
        data = with_band_settings(case.config.data, case.manifest)
    except UserError as refusal:
        faults.append(Diagnostic("fault", "images", str(refusal)))
        return case
    return replace(case, config=case.config.model_copy(update={"data": data}))


def _split(manifest: Manifest, name: str | None) -> SplitInfo | None:
    split = manifest.splits.get(name or "")
    return split if split and split.samples else None


def _packed(dataset: Dataset, manifest: Manifest, split: str) -> list[tuple[Storage, SplitInfo]]:
    """The shards of a split, of each dataset that it has; none where one of them is not packed, or there is no such split."""
    if split not in manifest.splits:
        return []
    if isinstance(dataset, Mixture):
        assert isinstance(manifest, MixedManifest)
        parts = [_packed(one, own, split) for one, own in dataset.opened(split, manifest)]
        return [found for part in parts for found in part] if all(parts) else []
    return [(dataset.storage, manifest.split(split))] if isinstance(dataset, Shards) else []


def _sample_statistics(case: Case, split: str, diagnostics: list[Diagnostic]) -> list[SampleStatistics]:
    info = _split(case.manifest, split)
    if info is None:
        return []
    statistics, errors = shards.sample_split(case.dataset.source(split, case.manifest), case.count)
    diagnostics += shards.readable(split, info.samples, statistics, errors)
    return statistics


def _train_val_overlap(case: Case, *splits: SplitInfo) -> list[Diagnostic]:
    names = (case.config.data.train_split, case.config.data.val_split or "")
    packed = [_packed(case.dataset, case.manifest, name) for name in names]
    indexes = [chain(*(shards.read_indexes(storage, info.shards) for storage, info in found)) for found in packed]
    train, val = (shards.image_checksums(shards_of_split, _OVERLAP_SAMPLES) for shards_of_split in indexes)
    readers = (shards.image_reader(case.dataset.source(name, case.manifest)) for name in names)
    overlap = shards.confirm_overlap(train, val, *readers)
    is_all = max(split.samples for split in splits) <= _OVERLAP_SAMPLES
    return shards.train_val_overlap(train, val, overlap, is_all)


def _run_diagnostics(
    case: Case, train: SplitInfo, val: SplitInfo | None, statistics: Statistics
) -> Iterator[Diagnostic]:
    """Those that need the batch plan; where there can be none, only why."""
    config = case.config
    seen = statistics[config.data.train_split]
    try:
        plan = _planned(case, seen)
        epoch_length = shuffle_order(case.manifest, config.data.train_split, shuffle_config(config)).epoch_length
    except UserError as refusal:
        yield Diagnostic("fault", "steps", str(refusal))
        return
    if seen:
        yield from images.sizes(seen, config.data, plan.micro_batch_size)
        yield from images.padding(seen, config.data)
        yield from images.stretching(seen, config.data)
        if len(config.data.mean) == case.manifest.image_format.channels:  # else it is a fault already
            yield from images.normalization(seen, config.data, case.manifest.image_format)
    total = total_steps(config, epoch_length)
    yield from batches.steps(config, plan, train.samples, epoch_length, total)
    yield from batches.idle_ranks(val.samples, case.ranks) if val else ()
    yield from batches.intervals(config, epoch_length / plan.global_batch_size, total)
    yield from batches.schedule(config.schedule, total)
    warmup, is_pretrained = config.schedule.warmup_steps, config.model.pretrained is not None
    yield from batches.learning_rate(config.optimizer, warmup, plan.global_batch_size, is_pretrained)
    yield from _faults_of("deepspeed", lambda: _deepspeed_diagnostics(config, plan))
    loss = list(_faults_of("loss", lambda: _weight_diagnostics(case, train)))
    yield from loss
    if not has_fault(loss):  # a training step is counted with its loss
        yield from _faults_of("network", lambda: _network_diagnostics(case, plan, train, statistics))


def _planned(case: Case, seen: Sequence[SampleStatistics]) -> BatchPlan:
    """The batches of the run; with trainer.micro_batch_size=auto those that fit, where the device is known."""
    config, most = case.config, batch_plan(case.config, case.ranks)
    size = _training_size(config, seen)
    if config.trainer.micro_batch_size != "auto" or not (size and case.device_bytes):
        return most
    needed = step_needs(config, case.manifest, most, size, "cpu")
    return largest_micro_batch(config, most, needed, case.device_bytes)


def _weight_diagnostics(case: Case, train: SplitInfo) -> list[Diagnostic]:
    weights = class_weights(case.config.loss.class_weights, train.histogram)
    return [] if weights is None else batches.class_weights(weights.tolist(), case.manifest.classes)


def _deepspeed_diagnostics(config: Config, plan: BatchPlan) -> list[Diagnostic]:
    deepspeed_config(config, plan, parameters=1)  # refuses settings that are given twice
    return []


def _network_diagnostics(case: Case, plan: BatchPlan, train: SplitInfo, statistics: Statistics) -> Iterator[Diagnostic]:
    """BatchNorm, memory and disk; and whether the weights to start from fit."""
    config, trainer = case.config, case.config.trainer
    with on_meta_device():
        network = case.build()
    yield from batches.batch_norm(network, plan, trainer.sync_batchnorm, "norm" in model_options(config.model.name))
    if config.model.pretrained:
        load_initial_weights(config, case.build(), case.manifest.classes)
        yield Diagnostic("ok", "network", f"'{config.model.pretrained}' fits {config.model.name}")
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    size = _training_size(config, statistics[config.data.train_split])
    if size:
        needed = step_memory(case.build, config, train.histogram, plan, size)
        validation_size = _largest(statistics.get(config.data.val_split or "", []))
        maps = memory.evaluation_bytes(case.build, config.evaluation, validation_size) if validation_size else 0
        idle = needed.weights + needed.optimizer + 2 * needed.average  # the average is put into a copy of the network
        yield from memory.fits(needed, idle + maps, case.device_bytes, config)
        yield from memory.buckets(parameters, config)
        yield from _shared_memory_diagnostics(case, plan, size, validation_size)
    buffers = sum(buffer.numel() for buffer in network.buffers())
    yield from _disk_diagnostics(case, parameters, buffers)


def _shared_memory_diagnostics(
    case: Case, plan: BatchPlan, size: tuple[int, int], validation_size: tuple[int, int] | None
) -> list[Diagnostic]:
    data, evaluation = case.config.data, case.config.evaluation
    workers, prefetch, image = data.num_workers, data.prefetch_factor, case.manifest.image_format
    classes = case.manifest.num_classes
    training = shared_memory.training_bytes(
        size, plan.micro_batch_size, plan.accumulation, workers, prefetch, image, classes
    )
    with_instances = evaluation.protocol == "official-cityscapes"
    validation = 0
    if validation_size:
        workers = evaluation.num_workers
        validation = shared_memory.evaluation_bytes(validation_size, workers, with_instances, image, classes)
    return machine.shared_memory(shared_memory.free_bytes(), case.ranks, training, validation)


def _disk_diagnostics(case: Case, parameters: int, buffers: int) -> list[Diagnostic]:
    config = case.config
    assert config.run.dir, "checked with the command line"
    place = machine.nearest_existing(config.run.dir)
    size = memory.checkpoint_bytes(parameters, buffers, config)
    kept = config.trainer.keep_checkpoints + config.trainer.keep_best
    return machine.checkpoint_space(size, kept, shutil.disk_usage(place).free, place)


def _machine_diagnostics(case: Case) -> Iterator[Diagnostic]:
    data, run, storage = case.config.data, case.config.run, case.config.storage
    assert run.dir, "checked with the command line"
    names = [path.name for path in checkpoint_folders(RunLayout(run.dir).checkpoints)]
    yield from machine.run_folder(run, run.dir, names)
    packed = [found for split in case.manifest.splits for found in _packed(case.dataset, case.manifest, split)]
    remote = [info for place, info in packed if not isinstance(place, LocalStorage)]
    if remote:
        folder = machine.nearest_existing(cache_folder(storage.cache_dir))
        size = sum(shard.bytes for split in remote for shard in split.shards)
        yield from machine.cache_space(size, storage.cache_limit_bytes, shutil.disk_usage(folder).free, folder)
    yield from machine.versions()
    yield from machine.cores(available_cores(), case.ranks, data.num_workers)
    yield from machine.temporary_folder()
    yield from machine.open_files(file_limit(), data.num_workers, data.prefetch_factor, storage.max_connections)


def _faults_of(check: str, diagnostics: Callable[[], Iterator[Diagnostic] | list[Diagnostic]]) -> Iterator[Diagnostic]:
    """The diagnostics that a function of the library returns; a UserError of it as a fault."""
    try:
        yield from diagnostics()
    except UserError as refusal:
        yield Diagnostic("fault", check, str(refusal))


def _training_size(config: Config, seen: Sequence[SampleStatistics]) -> tuple[int, int] | None:
    return config.data.crop or config.data.resize or _largest(seen)


def _largest(statistics: Sequence[SampleStatistics]) -> tuple[int, int] | None:
    return max((sample.size for sample in statistics), key=lambda size: size[0] * size[1], default=None)
