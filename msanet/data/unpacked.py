"""Images and labels that are read from where they lie, in a folder or a user's dataset, as the loader reads shards."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from msanet import distributed
from msanet.data.manifest import UNPACKED, Manifest, ShardInfo, SplitInfo, schema_version
from msanet.datasets import ignore_index
from msanet.errors import UserError
from msanet.logs import track

logger = logging.getLogger(__name__)

COUNTED_LABELS = 1000
"""Labels of a split that are read to count the pixels of each class, evenly spread over it."""


class UnpackedSplit(Protocol):
    """One split. It is sent to loader processes."""

    def __len__(self) -> int: ...

    @property
    def where(self) -> str:
        """The folder or dataset, for sentences."""
        ...

    def key(self, number: int) -> str:
        """The name of a sample."""
        ...

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB image and (H, W) label of train ids, uint8 or uint16. Raises UserError for a bad sample."""
        ...

    def label(self, number: int) -> np.ndarray:
        """The label alone."""
        ...

    def instances(self, number: int) -> bytes | None:
        """The encoded map of Cityscapes instance ids, if there is one."""
        ...

    def content_name(self, number: int) -> str:
        """A name of the sample's content, which changes when the content does."""
        ...

    def digest(self) -> str:
        """sha256 of the names and sizes of all samples, by which a resumed run knows its data."""
        ...


@dataclass(frozen=True)
class UnpackedDataset:
    """A dataset as it was found. name, classes, palette, ids: as in the manifest of shards."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    splits: Mapping[str, UnpackedSplit]


class UnpackedSource:
    """One split as a SampleSource, whose samples are arrays."""

    def __init__(self, items: UnpackedSplit, split: str, manifest: Manifest) -> None:
        self.items, self.split, self.manifest = items, split, manifest

    def __len__(self) -> int:
        return len(self.items)

    def read(self, sample: int) -> dict[str, Any]:
        """Sample number `sample` of the split. Raises UserError for a bad one."""
        image_HWC, label_HW = self.items.read(sample)
        return {**self.names(sample), "image.npy": image_HWC, "label.npy": label_HW}

    def read_instances(self, sample: int) -> dict[str, Any]:
        """The member `instances.png` of a sample, if it has one."""
        data = self.items.instances(sample)
        return {} if data is None else {"instances.png": data}

    def fetch(self, sample: int) -> None:
        """Nothing: files are local."""

    def key(self, sample: int) -> str:
        """The key of a sample."""
        return self.items.key(sample)

    def names(self, sample: int) -> dict[str, str]:
        """__key__ and __url__ of a sample, as in WebDataset."""
        return {"__key__": self.items.key(sample), "__url__": self.items.where}

    def content_name(self, sample: int) -> str:
        """A name of the sample's content, which changes when the content does."""
        return self.items.content_name(sample)


def unpacked_manifest(dataset: UnpackedDataset, count_labels_of: str | None) -> Manifest:
    """The manifest that shards of this dataset would have, each split as one shard.

    count_labels_of: the split whose class pixels are counted, up to COUNTED_LABELS labels; training needs them.
    Raises UserError for an empty split, or names that a manifest cannot have.
    """
    splits = {name: _split_info(dataset, name, name == count_labels_of) for name in dataset.splits}
    try:
        return Manifest(
            schema_version=schema_version(None, len(dataset.classes), dataset.ids),
            name=dataset.name,
            classes=dataset.classes,
            palette=dataset.palette,
            ids=dataset.ids,
            ignore_index=ignore_index(len(dataset.classes)),
            codec=UNPACKED,
            splits=splits,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the description"
        raise UserError(
            "MSA-DATA-733",
            f"dataset '{dataset.name[:100]}' has a fault in {place} ({first['msg']}), expected names of one line; fix it",
            setting="data.dataset",
        ) from None


def _split_info(dataset: UnpackedDataset, split: str, is_counted: bool) -> SplitInfo:
    items = dataset.splits[split]
    samples = len(items)
    if not samples:
        raise UserError(
            "MSA-DATA-734", f"split '{split}' of '{items.where}' has no samples, expected at least one; check the data"
        )
    ignored = ignore_index(len(dataset.classes))
    counts = _count_pixels(items, split, ignored + 1) if is_counted else np.zeros(ignored + 1, np.int64)
    return SplitInfo(
        samples=samples,
        shards=(ShardInfo(file=split, samples=samples, bytes=samples, sha256=items.digest()),),
        histogram=tuple(map(int, counts[: len(dataset.classes)])),
        ignored=int(counts[ignored]),
    )


def _count_pixels(items: UnpackedSplit, split: str, num_values: int) -> np.ndarray:
    """Pixels of each value (num_values,). Bad samples are not counted: the training meets them by `data.on_bad_sample`."""
    numbers = np.unique(np.linspace(0, len(items) - 1, min(len(items), COUNTED_LABELS)).round().astype(int)).tolist()
    counts, errors = np.zeros(num_values, np.int64), list[UserError]()
    for number in track(numbers, f"count the pixels of classes in {split}", len(numbers), unit="label"):
        distributed.report_progress(f"counting the pixels of classes in {split}")
        try:
            counts += np.bincount(items.label(number).ravel(), minlength=num_values)
        except UserError as error:
            errors.append(error)
    if len(errors) == len(numbers):
        raise errors[0]
    if len(numbers) < len(items):
        logger.info(f"class frequencies of split '{split}' are those of {len(numbers)} of its {len(items)} labels")
    return counts
