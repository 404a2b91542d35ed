"""The dataset that the settings name: shards anywhere, a folder that is not packed, or a dataset of the user's own."""

import logging
from pathlib import Path

from msanet.config import DataConfig, StorageConfig
from msanet.config.text import FOLDER_PREFIX
from msanet.data.manifest import Manifest
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


class Shards:
    """A dataset in shards."""

    def __init__(self, data: DataConfig, storage: StorageConfig) -> None:
        self._block_bytes = data.shuffle_block_bytes
        self.storage = open_storage(data.path or "", storage)
        self.location = self.storage.location

    def read_manifest(self, count_labels: bool = False) -> Manifest:
        """Its manifest. Raises UserError if it is missing or not valid. The packing has counted the labels."""
        return read_manifest(self.storage)

    def source(self, split: str, manifest: Manifest) -> SampleSource:
        """One split. Raises UserError if there is no such split."""
        return ShardSource(self.storage, split, manifest, self._block_bytes)


class Unpacked:
    """A folder, or a user's dataset, that is listed in each process."""

    _opened: tuple[DataConfig, UnpackedDataset] | None = None
    """The last one of this process: a listing takes time."""

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
        known = Unpacked._opened
        items = (known[1] if known and known[0] == self._data else self._open()).splits.get(split)
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
            folder = Path((data.path or "").removeprefix(FOLDER_PREFIX))
            dataset = load_plugin(_FOLDERS)(folder, data.classes, splits)
        Unpacked._opened = data, dataset
        return dataset


def open_dataset(data: DataConfig, storage: StorageConfig) -> Shards | Unpacked:
    """What `data.path` or `data.dataset` names; shards are opened on first read."""
    is_packed = data.dataset is None and not (data.path or "").startswith(FOLDER_PREFIX)
    return Shards(data, storage) if is_packed else Unpacked(data)
