"""Datasets of a tree of images and a tree of label maps of the same names, in folders for each split."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msanet.datasets import DatasetSpec
from msanet.errors import UserError
from sharding.readers.contents import describe
from sharding.readers.lists import read_list
from sharding.readers.mask_reader import MaskReader
from sharding.readers.reader import (
    DatasetListing,
    Reader,
    SamplePaths,
    Splits,
    by_id,
    check_excluded,
    choose_splits,
    make_pair,
    pair_up,
)
from sharding.tree import Tree

TRAIN_VAL = ("train", "val")


@dataclass(frozen=True)
class Layout:
    """Where a split lies.

    images, labels: folders, in which `{split}` is the split's name and `*` any folder, which becomes a part of the ids.
    image_endings, label_ending: what follows the id in names of files.
    """

    images: str
    labels: str
    image_endings: tuple[str, ...] = (".jpg",)
    label_ending: str = ".png"

    @property
    def above(self) -> str:
        """The folder of the splits' label maps."""
        return self.labels.partition("{split}")[0].rpartition("/")[0]

    def splits(self, tree: Tree) -> list[str]:
        """The splits that have label maps."""
        ending = self.labels.partition("{split}")[2].partition("/")[0]
        names = [name.removesuffix(ending) for name in tree.folders(self.above) if name.endswith(ending)]
        return [name for name in names if self._labels(tree, name)]

    def has_images(self, tree: Tree, name: str) -> bool:
        """Whether the split that is called `name` on disk has images."""
        return bool(_files(tree, self.images.format(split=name), self.image_endings))

    def pairs(self, tree: Tree, name: str, split: str) -> list[SamplePaths]:
        """The pairs of the split that is called `name` on disk. Raises UserError where it has no images."""
        images = _files(tree, self.images.format(split=name), self.image_endings)
        if not images:
            folder = self.images.format(split=name).partition("/*")[0]
            raise UserError(
                "MSA-PACK-017",
                f"split '{split}' has no images: '{tree.show(folder)}' holds {describe(tree, folder)}, expected "
                f"{' or '.join(f'*{ending}' for ending in self.image_endings)} for the label maps in "
                f"'{self.labels.format(split=name)}'",
                setting="--splits",
            )
        return pair_up(tree, images, self._labels(tree, name), split)

    def _labels(self, tree: Tree, name: str) -> dict[str, str]:
        return _files(tree, self.labels.format(split=name), [self.label_ending])


def _files(tree: Tree, pattern: str, endings: Sequence[str]) -> dict[str, str]:
    """{id: path} of the files in a folder, or in all that `*` stands for."""
    above, star, below = pattern.partition("/*")
    if not star:
        return by_id(pattern, tree.files(pattern), endings)
    return {
        f"{name}_{source_id}": path
        for name in tree.folders(above)
        for source_id, path in _files(tree, f"{above}/{name}{below}", endings).items()
    }


def read_layouts(
    tree: Tree, asked: Sequence[str] | None, layouts: Sequence[Layout], usual: Sequence[str] = TRAIN_VAL
) -> Splits:
    """The pairs of the splits, in the layout that has most of them. Raises UserError where none has."""
    present = [(layout, layout.splits(tree)) for layout in layouts]
    present.sort(key=lambda each: -sum(each[0].has_images(tree, name) for name in each[1]))
    layout, names = next((each for each in present if each[1]), present[0])
    splits = choose_splits(asked, names, usual, tree.show(layout.above))
    return {split: layout.pairs(tree, name, split) for split, name in splits.items()}


def listed_pairs(
    tree: Tree, list_path: str, images: Mapping[str, str], labels: Mapping[str, str], ids: Sequence[str] | None = None
) -> list[SamplePaths]:
    """The pairs that a list names. Raises UserError where an image or a label map of one is missing.

    Args:
        tree: The source.
        list_path: The list.
        images: {id: path} of all.
        labels: {id: path} of all.
        ids: What the list names, where it has a form of its own.
    """
    if ids is None:
        listed = read_list(tree, list_path)
        check_excluded(listed.excluded, list_path)
        ids = listed.ids
    for kind, paths in (("image", images), ("label map", labels)):
        if lacking := [source_id for source_id in ids if source_id not in paths]:
            raise UserError(
                "MSA-PACK-041",
                f"list '{tree.show(list_path)}' names '{lacking[0]}', which has no {kind} ({len(lacking)} of {len(ids)} have "
                "none), expected all of them; restore them",
            )
    return [make_pair(source_id, images[source_id], labels[source_id]) for source_id in sorted({*ids})]


def ids_of(spec: DatasetSpec) -> MaskReader:
    """Label maps hold ids, whatever their palettes show."""
    return MaskReader(spec, (), where=f"the dataset {spec.name}")


def tree_reader(
    spec: DatasetSpec,
    summary: str,
    layouts: Sequence[Layout],
    landmarks: tuple[str, ...],
    counts: Mapping[str, int],
    description: str,
    usual: Sequence[str] = TRAIN_VAL,
) -> Reader:
    """The reader of a dataset that has one of `layouts`, with ids in its label maps.

    Args:
        spec: The dataset, by whose name the command calls it.
        summary: For --help.
        layouts: The one that has most splits is read.
        landmarks: See `Reader`.
        counts: See `Reader`.
        description: The layout in words.
        usual: Splits that are packed unless others are asked for.
    """

    def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
        return DatasetListing(spec, read_layouts(tree, options.splits, layouts, usual), decode=ids_of(spec))

    return Reader(spec.name, summary, description, landmarks, read, counts=counts)
