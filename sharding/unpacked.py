"""A folder of images and labels that is trained from without packing: what packing would store, read when it is needed."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msanet.data.manifest import UNPACKED
from msanet.data.unpacked import UnpackedDataset
from msanet.datasets import DatasetSpec
from msanet.errors import UserError
from sharding.manifest_parts import manifest_header
from sharding.notes import take_notes
from sharding.plan import check_split, file_facts, plan_digest
from sharding.readers import find_source
from sharding.readers.labels import Decode
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing, Reader, SamplePaths
from sharding.shard import decode_pair, decode_pair_label, read_instances
from sharding.tree import Tree


def open_folder(folder: Path, classes: Path | None, splits: Sequence[str]) -> UnpackedDataset:
    """The dataset in a folder (or zip file) of any layout that a reader knows.

    classes: classes file, for layouts that need one. splits: those that are wanted; the reader's usual ones are there too.
    Raises UserError where no reader knows the layout, or a split has no images.
    """
    reader, tree = find_source([folder])
    found = list_folder(reader, tree, classes, splits)
    tree, decode = found.tree or tree, found.decode or reader_of(found.spec)
    for split, pairs in found.splits.items():
        check_split(split, pairs)
    header = manifest_header(found.spec, UNPACKED)
    opened = {name: FolderSplit(tree, decode, found.spec, tuple(pairs)) for name, pairs in found.splits.items()}
    return UnpackedDataset(header.name, header.classes, header.palette, header.ids, opened)


def list_folder(
    reader: Reader, tree: Tree, classes: Path | None, splits: Sequence[str], setting: str = "data.classes"
) -> DatasetListing:
    """The pairs of the usual splits, or with those that are wanted where these are others. setting: that of `classes`."""
    parser = argparse.ArgumentParser()
    reader.add_options(parser)
    options = parser.parse_args([])
    if classes is not None and not hasattr(options, "classes"):
        raise UserError(
            "MSA-PACK-731",
            f"{setting} is set, but '{tree.show('')}' is laid out as {reader.name}, which has its own classes; remove it",
            setting=setting,
        )
    options.classes, options.splits = classes, None
    found, lacking = None, list(splits)
    try:
        found = reader.read(tree, options)
        lacking = [split for split in splits if split not in found.splits]
    except UserError as error:
        if error.code != "MSA-PACK-021" or not splits:  # it has none of the usual splits
            raise
    if lacking:
        options.splits = [*(found.splits if found else ()), *lacking]
        try:
            return reader.read(tree, options)
        except UserError as error:
            if error.code != "MSA-PACK-021" or found is None:
                raise
    assert found is not None
    return found  # the manifest names the split that is not there


@dataclass(frozen=True)
class FolderSplit:
    """One split of a folder, as msanet.data.unpacked.UnpackedSplit."""

    tree: Tree
    decode: Decode
    spec: DatasetSpec
    pairs: tuple[SamplePaths, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def where(self) -> str:
        """The folder."""
        return self.tree.show("")

    def key(self, number: int) -> str:
        """The key that the sample would have in a shard."""
        return self.pairs[number].key

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label as packing stores them. Raises UserError where packing would."""
        pair = self.pairs[number]
        photo, label_HW = decode_pair(self.tree, self.decode, self.spec, pair, self.tree.read(pair.image))
        take_notes()  # they are for packing, and would pile up here
        return photo.pixels_HWC, label_HW

    def label(self, number: int) -> np.ndarray:
        """The label alone."""
        if getattr(self.decode, "takes_size", False):
            return self.read(number)[1]
        return decode_pair_label(self.tree, self.decode, self.spec, self.pairs[number], ())

    def instances(self, number: int) -> bytes | None:
        """The file of instance ids, if the dataset has one for the sample."""
        pair = self.pairs[number]
        if pair.instances is None:
            return None
        return read_instances(self.tree, pair.instances, self.label(number).shape)

    def content_name(self, number: int) -> str:
        """sha256 of all that decides the pixels, with size and time of change of the files."""
        return plan_digest("", [self.pairs[number]], self.spec, self.decode, self.tree, UNPACKED)

    def digest(self) -> str:
        """sha256 of the names of all samples and the sizes of their files; times of change differ between copies."""
        content = [[pair.id, pair.annotation, [file[0] for file in file_facts(self.tree, pair)]] for pair in self.pairs]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
