"""Oxford-IIIT Pet: `annotations/trimaps/*.png`, and lists whose lines are `Abyssinian_100 1 1 1`."""

import argparse

from msanet.datasets import OXFORD_PET as SPEC
from sharding.readers.image_trees import ids_of, listed_pairs
from sharding.readers.lists import list_lines
from sharding.readers.reader import DatasetListing, Reader, by_id, choose_splits
from sharding.tree import Tree

_USUAL = ("trainval", "test")


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and trimap, by split. Raises UserError where the layout does not hold."""
    lists = by_id("annotations", tree.files("annotations"), [".txt"])
    images = by_id("images", tree.files("images"), [".jpg"])
    labels = by_id("annotations/trimaps", tree.files("annotations/trimaps"), [".png"])
    splits = choose_splits(options.splits, [name for name in _USUAL if name in lists], _USUAL, tree.show("annotations"))
    pairs = {}
    for split, name in splits.items():
        lines = list_lines(tree, lists[name])
        ids = [line.split()[0] for line in lines if not line.startswith("#")]
        pairs[split] = listed_pairs(tree, lists[name], images, labels, ids)
    return DatasetListing(SPEC, pairs, decode=ids_of(SPEC))


OXFORD_PET = Reader(
    name=SPEC.name,
    summary="Oxford-IIIT Pet, trimaps: pet and background",
    layout="images/*.jpg with annotations/trimaps/*.png, annotations/trainval.txt and annotations/test.txt",
    landmarks=("images", "annotations/trimaps"),
    read=read,
    counts={"trainval": 3_680, "test": 3_669},
)
