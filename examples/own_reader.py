"""A dataset of one's own: its classes, and where its images and labels lie. No line in the package is needed.

    msanet pack examples/own_reader.py:READER --source FIELDS --out SHARDS

In an installed package `package.module:READER` names it too, and with the entry point `fields = "package.module:READER"` in the
group `msanet.readers` it is `msanet pack fields`.
"""

import argparse

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec
from sharding.readers.reader import DatasetListing, Reader, by_id, choose_splits, pair_up
from sharding.tree import Tree

SPEC = DatasetSpec(
    name="fields",
    classes=("field", "road"),
    palette=((120, 200, 80), (90, 90, 90)),
    train_ids={1: 0, 2: 1, 0: IGNORE_INDEX},  # value in the label file -> train id
)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """SOURCE/<split>/images/*.jpg with SOURCE/<split>/labels/*.png."""
    pairs = {}
    for split, name in choose_splits(options.splits, tree.folders(""), ("train", "val"), tree.show("")).items():
        images = by_id(f"{name}/images", tree.files(f"{name}/images"), [".jpg"])
        labels = by_id(f"{name}/labels", tree.files(f"{name}/labels"), [".png"])
        pairs[split] = pair_up(tree, images, labels, split)
    return DatasetListing(SPEC, pairs)


READER = Reader("fields", "my fields", "train/images/*.jpg with train/labels/*.png", ("train", "val"), read)
