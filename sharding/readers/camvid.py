"""CamVid as SegNet's authors distribute it: `<split>/*.png` with label maps of the same names in `<split>annot/`."""

import argparse

from msanet.datasets import CAMVID as SPEC
from msanet.errors import UserError
from sharding.readers.contents import describe, folders_of
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, by_id, choose_splits, pair_up
from sharding.tree import Tree


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    folders = tree.folders("")
    present = [name for name in folders if f"{name}annot" in folders]
    splits = choose_splits(options.splits, present, ("train", "val", "test"), tree.show(""))
    return DatasetListing(SPEC, {split: _pairs(tree, split, folder) for split, folder in splits.items()})


def _pairs(tree: Tree, split: str, name: str) -> list[SamplePaths]:
    images, labels = (by_id(folder, tree.files(folder), [".png"]) for folder in (name, f"{name}annot"))
    if not images:
        raise UserError(
            "MSA-PACK-017",
            f"split '{split}' has no images: '{tree.show(name)}' holds {describe(tree, name)}, expected *.png as SegNet's "
            "authors distribute it; other files are packed with: msanet pack folder",
            setting="--splits",
        )
    return pair_up(tree, images, labels, split)


def _is_root(tree: Tree, name: str) -> bool:
    """Any split will do: a source may have but one of them."""
    folders = folders_of(tree, name)
    return any(f"{folder}annot" in folders for folder in folders)


CAMVID = Reader(
    name="camvid",
    summary="CamVid, 11 classes (SegNet's layout)",
    layout="train/*.png with trainannot/*.png, likewise val and test",
    landmarks=("train", "trainannot"),
    read=read,
    is_root=_is_root,
)
