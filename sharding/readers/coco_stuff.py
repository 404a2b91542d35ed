"""COCO-Stuff: the 164,000 images of 2017 with `stuffthingmaps`, and the 10,000 of version 1.1 with `.mat` files."""

import argparse
from dataclasses import dataclass

import numpy as np

from msanet.datasets import COCO_STUFF as SPEC
from msanet.datasets import COCO_STUFF_10K as SPEC_10K
from sharding.readers.image_trees import Layout, listed_pairs, tree_reader
from sharding.readers.labels import from_mat
from sharding.readers.reader import DatasetListing, Reader, by_id, choose_splits
from sharding.tree import Tree

_LISTS = "imageLists"

COCO_STUFF = tree_reader(
    SPEC,
    summary="COCO-Stuff of 2017, 171 classes (stuffthingmaps)",
    layouts=[
        Layout(images, labels)
        for labels in ("stuffthingmaps/{split}2017", "annotations/{split}2017")
        for images in ("images/{split}2017", "{split}2017")
    ],
    landmarks=("stuffthingmaps/*2017|annotations/*2017", "images/*2017|*2017"),
    counts={"train": 118_287, "val": 5_000},
    description="images/train2017/*.jpg (or train2017/) with stuffthingmaps/train2017/*.png (or annotations/), likewise val2017",
)


@dataclass(frozen=True)
class DecodeStuff:
    """The category ids in a `.mat` of version 1.1."""

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        return from_mat(data, name, "S", _ids)


def _ids(ids_HW: np.ndarray) -> np.ndarray:
    if ids_HW.ndim != 2 or (ids_HW % 1).any() or ids_HW.min() < 0 or ids_HW.max() > 255:
        raise ValueError("not a map of ids")
    return ids_HW.astype(np.uint8)


def _read_10k(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    lists = by_id(_LISTS, tree.files(_LISTS), [".txt"])
    images = by_id("images", tree.files("images"), [".jpg"])
    labels = by_id("annotations", tree.files("annotations"), [".mat"])
    splits = choose_splits(options.splits, sorted(lists), ("train", "test"), tree.show(_LISTS))
    pairs = {split: listed_pairs(tree, lists[name], images, labels) for split, name in splits.items()}
    return DatasetListing(SPEC_10K, pairs, decode=DecodeStuff())


COCO_STUFF_10K = Reader(
    name=SPEC_10K.name,
    summary="COCO-Stuff 10k, version 1.1, 171 classes (needs scipy)",
    layout="images/*.jpg, annotations/*.mat and imageLists/train.txt, test.txt",
    landmarks=(_LISTS, "annotations/*.mat"),
    read=_read_10k,
    counts={"train": 9_000, "test": 1_000},
)
