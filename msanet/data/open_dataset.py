"""The data that the settings name: shards anywhere, folders that are not packed, a dataset of the user's own, or several."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from msanet.config import DataConfig, StorageConfig
from msanet.config.text import FOLDER_PREFIX
from msanet.data.label_scheme import read_scheme
from msanet.data.manifest import Manifest
from msanet.data.mixed_source import MixedSource
from msanet.data.mixture import MixedManifest, log_mix, mixed_manifest, require_labels_of_each
from msanet.data.sample_source import SampleSource
from msanet.data.shard_source import ShardSource, read_manifest
from msanet.data.storage import open_storage
from msanet.data.unpacked import UnpackedDataset, UnpackedSource, unpacked_manifest
from msanet.data.user_dataset import open_user_dataset
from msanet.errors import UserError
from msanet.plugins import load_plugin

logger = logging.getLogger(__name__)

_FOLDERS = "sharding.unpacked:open_folder"
"""The readers of folders stand above this package, as a user's dataset does, and are called as one is."""


_KEPT_LISTINGS = 8


class Shards:
    """A dataset in shards."""

    def __init__(self, data: DataConfig, storage: StorageConfig) -> None:
        self._block_bytes = data.shuffle_block_bytes
        self.storage = open_storage(data.source, storage)
        self.location = self.storage.location

    def read_manifest(self, count_labels: bool = False) -> Manifest:
        """Its manifest. Raises UserError if it is missing or not valid. The packing has counted the labels."""
        return read_manifest(self.storage)

    def source(self, split: str, manifest: Manifest) -> SampleSource:
        """One split. Raises UserError if there is no such split."""
        return ShardSource(self.storage, split, manifest, self._block_bytes)


class Unpacked:
    """A folder, or a user's dataset, that is listed in each process."""

    _opened: OrderedDict[DataConfig, UnpackedDataset] = OrderedDict()
    """The last ones of this process: a listing takes time."""

    def __init__(self, data: DataConfig) -> None:
        self._data, self.location = data, data.source

    def read_manifest(self, count_labels: bool = False) -> Manifest:
        """What the manifest of its shards would be. count_labels: of the training split, which takes time.

        Raises UserError if nothing can be read.
        """
        dataset = self._open()
        manifest = unpacked_manifest(dataset, self._data.train_split if count_labels else None)
        counts = ", ".join(f"{info.samples} in {name}" for name, info in manifest.splits.items())
        logger.info(
            f"data: '{self.location}' is not packed ({counts}): slower than shards from msanet pack, since each image is decoded "
            "completely in each epoch"
        )
        return manifest

    def source(self, split: str, manifest: Manifest) -> SampleSource:
        """One split. Raises UserError if there is no such split, or if it is not the one of the manifest."""
        info = manifest.split(split)
        items = (Unpacked._opened.get(self._data) or self._open()).splits.get(split)
        if items is None or items.digest() != info.shards[0].sha256:
            raise UserError(
                "MSA-DATA-737",
                f"split '{split}' of '{self.location}' has other samples ({len(items) if items else 0}) here than on rank 0 "
                f"({info.samples}), expected the same names and sizes on every host; copy them again",
                setting="data.path" if self._data.path else "data.dataset",
            )
        return UnpackedSource(items, split, manifest)

    def _open(self) -> UnpackedDataset:
        data = self._data
        splits = list(dict.fromkeys(split for split in (data.train_split, data.val_split) if split is not None))
        if data.dataset is not None:
            dataset = open_user_dataset(data.dataset, splits)
        else:
            folder = Path(data.source.removeprefix(FOLDER_PREFIX))
            dataset = load_plugin(_FOLDERS)(folder, data.classes, splits)
        Unpacked._opened[data] = dataset
        Unpacked._opened.move_to_end(data)
        while len(Unpacked._opened) > _KEPT_LISTINGS:
            Unpacked._opened.popitem(last=False)
        return dataset


class Mixture:
    """Several datasets, or one under a label scheme. parts: those that it consists of."""

    def __init__(self, data: DataConfig, storage: StorageConfig) -> None:
        self._data, self.parts = data, [_open_one(part, storage) for part in data.parts]
        self.location = ", ".join(part.location for part in self.parts)

    def read_manifest(self, count_labels: bool = False) -> MixedManifest:
        """The manifests of all as one. Raises UserError if one cannot be read, or where their classes do not fit together."""
        data = self._data
        scheme = read_scheme(data.label_scheme, "data.label_scheme") if data.label_scheme else None
        manifests = [part.read_manifest(count_labels) for part in self.parts]
        for manifest in manifests:
            manifest.split(data.train_split)
        splits = dict.fromkeys(split for manifest in manifests for split in manifest.splits)
        members = {split: self._members(split, manifests) for split in splits}
        chosen = {split: numbers for split, numbers in members.items() if numbers}
        mixed = mixed_manifest(manifests, scheme, chosen, data.train_split, data.sampling_weights or ())
        if count_labels:
            require_labels_of_each(mixed, data.train_split)
            log_mix(mixed, data.train_split, data.sampling_weights or ())
            if data.val_split in mixed.members and len(mixed.parts) > 1:
                names = ", ".join(part.name for part in mixed.parts_of(data.val_split))
                logger.info(f"data: validation on '{data.val_split}' of {names}, and no other")
        return mixed

    def source(self, split: str, manifest: Manifest) -> SampleSource:
        """One split of all that have it; to validate, of those in data.val_path. Raises UserError if there is no such split."""
        assert isinstance(manifest, MixedManifest)
        return MixedSource([one.source(split, own) for one, own in self.opened(split, manifest)], split, manifest)

    def opened(self, split: str, manifest: MixedManifest) -> list[tuple[Shards | Unpacked, Manifest]]:
        """The datasets of a split, with their own manifests. Raises UserError if there is no such split."""
        manifests = [part.manifest for part in manifest.parts_of(split)]
        return [(self.parts[k], own) for k, own in zip(manifest.members[split], manifests, strict=True)]

    def _members(self, split: str, manifests: Sequence[Manifest]) -> tuple[int, ...]:
        data = self._data
        places = data.val_paths if data.val_paths and split == data.val_split else data.paths or (data.source,)
        chosen = [k for k, part in enumerate(self.parts) if data.parts[k].source in places]
        return tuple(k for k in chosen if split in manifests[k].splits)


Dataset = Shards | Unpacked | Mixture


def open_dataset(data: DataConfig, storage: StorageConfig) -> Dataset:
    """What `data.path` or `data.dataset` names; shards are opened on first read."""
    is_mixed = len(data.paths) > 1 or data.label_scheme is not None
    return Mixture(data, storage) if is_mixed else _open_one(data, storage)


def _open_one(data: DataConfig, storage: StorageConfig) -> Shards | Unpacked:
    is_packed = data.dataset is None and not data.source.startswith(FOLDER_PREFIX)
    return Shards(data, storage) if is_packed else Unpacked(data)
