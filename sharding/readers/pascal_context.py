"""PASCAL-Context: VOC 2010 with the original `.mat` files of 459 classes, or with PNGs of 59 classes and background."""

import argparse
from dataclasses import dataclass

import numpy as np

from msanet.datasets import PASCAL_CONTEXT as SPEC
from msanet.datasets import PASCAL_CONTEXT_60
from msanet.datasets.pascal_context import LABELS
from sharding.readers.image_trees import ids_of, listed_pairs
from sharding.readers.labels import from_mat
from sharding.readers.reader import DatasetListing, Reader, by_id, choose_splits
from sharding.tree import Tree

_PNGS, _MATS = "SegmentationClassContext", "trainval"
_LISTS = ("ImageSets/SegmentationContext", "ImageSets/Main")
"""The first is of those who made PNGs; the original splits are VOC 2010's own."""
_MOST_LABELS = 459


@dataclass(frozen=True)
class DecodeContext:
    """The 459 labels of a `.mat` to 0 (all else) to 59."""

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        return from_mat(data, name, "LabelMap", _frequent)


def _frequent(labels_HW: np.ndarray) -> np.ndarray:
    if labels_HW.ndim != 2 or labels_HW.dtype.kind not in "iu" or labels_HW.min() < 0 or labels_HW.max() > _MOST_LABELS:
        raise ValueError("not a map of labels")
    table = np.zeros(1 + _MOST_LABELS, np.uint8)
    table[list(LABELS)] = np.arange(1, 1 + len(LABELS))
    return table[labels_HW]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--background",
        action="store_true",
        help="make all else a class too: 60 classes (default: 59, all else ignored)",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    spec = PASCAL_CONTEXT_60 if options.background else SPEC
    pngs = by_id(_PNGS, tree.files(_PNGS), [".png"])
    labels = pngs or by_id(_MATS, tree.files(_MATS), [".mat"])
    images = by_id("JPEGImages", tree.files("JPEGImages"), [".jpg"])
    folder = next((name for name in _LISTS if {"train.txt", "val.txt"} & {*tree.files(name)}), _LISTS[1])
    lists = by_id(folder, tree.files(folder), [".txt"])
    splits = choose_splits(options.splits, sorted(lists), ("train", "val"), tree.show(folder))
    pairs = {split: listed_pairs(tree, lists[name], images, labels) for split, name in splits.items()}
    return DatasetListing(spec, pairs, decode=ids_of(spec) if pngs else DecodeContext())


PASCAL_CONTEXT = Reader(
    name=SPEC.name,
    summary="PASCAL-Context, 59 classes, or 60 with --background (.mat files need scipy)",
    layout=f"PASCAL VOC 2010's JPEGImages/*.jpg and ImageSets/Main/<list>.txt with {_MATS}/*.mat of 459 labels, or "
    f"{_PNGS}/*.png with ImageSets/SegmentationContext/<list>.txt",
    landmarks=("JPEGImages", f"{_PNGS}|{_MATS}/*.mat"),
    read=read,
    add_options=add_options,
    counts={"train": 4_998, "val": 5_105},
)
