"""PASCAL-Person-Part from the original files: PASCAL VOC 2010 with the `.mat` annotations of PASCAL-Part beside it."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msanet.datasets import PERSON_PART as SPEC
from msanet.datasets.person_part import PARTS
from msanet.errors import UserError
from msanet.logs import track
from sharding.readers.labels import from_mat
from sharding.readers.lists import read_list
from sharding.readers.reader import (
    DatasetListing,
    Reader,
    SamplePaths,
    by_id,
    check_excluded,
    choose_splits,
    make_pair,
)
from sharding.tree import Tree, open_tree

_LISTS = "ImageSets/Main"
_IDS = {part: number for number, parts in enumerate(PARTS.values()) for part in parts}


@dataclass(frozen=True)
class DecodeParts:
    """The parts of all people in a `.mat` of PASCAL-Part; everything else, other objects included, is background.

    Later objects and parts cover earlier ones, as in `mat2map.m`, which comes with the annotations. What lies inside a
    person's outline but in no part stays background: the label maps of the dataset's authors are made of parts alone.
    """

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        return from_mat(data, name, "anno", lambda anno: _paint(anno[0, 0].objects, name))


def _paint(objects: Any, name: str) -> np.ndarray:
    label_HW = np.zeros(objects.flat[0].mask.shape if objects.size else (0, 0), np.uint8)
    if label_HW.ndim != 2:
        raise ValueError("no mask")
    for thing in objects.flat:
        if str(getattr(thing, "class").item()) != "person":
            continue
        for part in thing.parts.flat:
            part_name = str(part.part_name.item())
            if part_name not in _IDS:
                raise UserError(
                    "MSA-PACK-045",
                    f"'{name}' has a person's part '{part_name}', expected one of {', '.join(_IDS)}; replace the file",
                )
            if part.mask.shape != label_HW.shape:
                raise ValueError("masks of different sizes")
            label_HW[part.mask.astype(bool)] = _IDS[part_name]
    return label_HW


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="DIR",
        help=f"folder with <split>.txt, lists of image ids (default: {_LISTS} of the source, which is VOC 2010's)",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images of the lists with a part of a person in them. Raises UserError where the layout does not hold."""
    lists, folder = (tree, _LISTS) if options.lists is None else (open_tree([options.lists]), "")
    names = [name.removesuffix(".txt") for name in lists.files(folder) if name.endswith(".txt")]
    if not names:
        raise UserError(
            "MSA-PACK-044",
            f"'{lists.show(folder)}' has no lists of images, expected train.txt and val.txt of PASCAL VOC 2010; copy "
            "them there, or name their folder with --lists",
            setting="--lists",
        )
    splits = choose_splits(options.splits, names, ("train", "val"), lists.show(folder))
    found = {}
    for split, own in splits.items():
        name = f"{folder}/{own}.txt".lstrip("/")
        listed = read_list(lists, name)
        check_excluded(listed.excluded, split)
        found[split] = _pairs(tree, split, sorted({*listed.ids}), lists.show(name))
    return DatasetListing(SPEC, found, decode=DecodeParts())


def _pairs(tree: Tree, split: str, ids: Sequence[str], list_name: str) -> list[SamplePaths]:
    images = by_id("JPEGImages", tree.files("JPEGImages"), [".jpg"])
    labels = by_id("Annotations_Part", tree.files("Annotations_Part"), [".mat"])
    for kind, paths in (("JPEGImages/{}.jpg", images), ("Annotations_Part/{}.mat", labels)):
        lacking = [source_id for source_id in ids if source_id not in paths]
        if lacking:
            raise UserError(
                "MSA-PACK-041",
                f"list '{list_name}' names '{lacking[0]}', which has no {kind.format(lacking[0])} ({len(lacking)} of "
                f"{len(ids)} have none), expected all of them; restore them or take the lists of VOC 2010",
            )
    decode = DecodeParts()
    pairs = []
    for source_id in track(ids, f"{split}: looking for people", len(ids), "files"):
        path = labels[source_id]
        with suppress(UserError):  # which is said, with all others, when the sample is packed
            if not decode(tree.read(path), tree.show(path)).any():
                continue
        pairs.append(make_pair(source_id, images[source_id], path))
    return pairs


PERSON_PART = Reader(
    name="person_part",
    summary="PASCAL-Person-Part, 6 parts of people and background, from the .mat files of PASCAL-Part (needs scipy)",
    layout="PASCAL VOC 2010's JPEGImages/*.jpg and ImageSets/Main/<list>.txt with PASCAL-Part's Annotations_Part/*.mat",
    landmarks=("Annotations_Part", "JPEGImages"),
    read=read,
    add_options=add_options,
)
