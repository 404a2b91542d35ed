"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_labelIds.png`."""

import argparse

from msanet.datasets import CITYSCAPES as LABEL_IDS
from msanet.datasets import CITYSCAPES_TRAIN_IDS
from sharding.readers.reader import Found, Pair, Reader, by_id, choose_splits, pair_up
from sharding.tree import Tree

_IMAGE = "_leftImg8bit.png"
_LABELS = {
    "ids": (LABEL_IDS, "_gtFine_labelIds.png"),
    "trainIds": (CITYSCAPES_TRAIN_IDS, "_gtFine_labelTrainIds.png"),
}
# Not test: its published label maps are empty, the server keeps the real ones.
_USUAL = ("train", "val")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--labels", choices=sorted(_LABELS), default="ids", help="which label maps to read (default ids)"
    )


def read(tree: Tree, options: argparse.Namespace) -> Found:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    spec, suffix = _LABELS[options.labels]
    splits = choose_splits(options.splits, tree.folders("leftImg8bit"), _USUAL, tree.show("leftImg8bit"))
    pairs = {split: _pairs(tree, split, suffix) for split in splits}
    if options.splits is None:
        for split in sorted({*_USUAL} & {*tree.folders("gtFine")} - {*splits}):
            _pairs(tree, split, suffix)  # for its note that label maps have no image
    return Found(spec, pairs)


def _pairs(tree: Tree, split: str, label_suffix: str) -> list[Pair]:
    images, labels = (
        {
            source_id: path
            for city in tree.folders(f"{root}/{split}")
            for source_id, path in by_id(
                f"{root}/{split}/{city}", tree.files(f"{root}/{split}/{city}"), [suffix]
            ).items()
        }
        for root, suffix in (("leftImg8bit", _IMAGE), ("gtFine", label_suffix))
    )
    return pair_up(tree, images, labels, split)


CITYSCAPES = Reader(
    name="cityscapes",
    summary="Cityscapes, 19 classes (fine annotations; folders or the official zip files)",
    layout="leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png",
    landmarks=("leftImg8bit", "gtFine"),
    read=read,
    archives=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    add_options=add_options,
)
