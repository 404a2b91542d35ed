"""CamVid as SegNet's authors distribute it: `<split>/*.png` with label maps of the same names in `<split>annot/`."""

import argparse

from msanet.datasets import CAMVID as SPEC
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, by_id, choose_splits, pair_up
from sharding.tree import Tree


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    folders = tree.folders("")
    present = [name for name in folders if f"{name}annot" in folders]
    splits = choose_splits(options.splits, present, ("train", "val", "test"), tree.show(""))
    return DatasetListing(SPEC, {split: _pairs(tree, split) for split in splits})


def _pairs(tree: Tree, split: str) -> list[SamplePaths]:
    images, labels = (by_id(folder, tree.files(folder), [".png"]) for folder in (split, f"{split}annot"))
    return pair_up(tree, images, labels, split)


CAMVID = Reader(
    name="camvid",
    summary="CamVid, 11 classes (SegNet's layout)",
    layout="train/*.png with trainannot/*.png, likewise val and test",
    landmarks=("train", "trainannot"),
    read=read,
)
