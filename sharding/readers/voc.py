"""PASCAL VOC 2012: lists of ids in `ImageSets/Segmentation`, JPEG images, palette PNGs in `SegmentationClass`.

SBD (Hariharan et al. 2011) annotates more of its images: as PNGs in `SegmentationClassAug`, or in its own `.mat` files.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.datasets import IGNORE_INDEX
from msanet.datasets import VOC as SPEC
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from sharding.readers.class_files import Color, colors_of, foreign_classes
from sharding.readers.contents import counted_endings
from sharding.readers.labels import from_mat
from sharding.readers.layout import by_stem
from sharding.readers.lists import read_list
from sharding.readers.mask_reader import reader_of
from sharding.readers.overlay import Overlay
from sharding.readers.reader import (
    DatasetListing,
    Reader,
    SamplePaths,
    by_id,
    check_excluded,
    choose_splits,
    make_pair,
    pair_up,
    subset_of,
)
from sharding.tree import Tree, open_tree

_LISTS = "ImageSets/Segmentation"
_OWN = "SegmentationClass"
_USUAL = ("train", "val")
_OFFICIAL = ("train", "val", "trainval")
_AUGMENTED = "train_aug"
_POOLED = ("pooled_train", "pooled_test")
_LOOKED_AT = 5
_SBD_FOLDERS = ("", "dataset", "benchmark_RELEASE/dataset")

_READ = reader_of(SPEC, ignored=[(224, 224, 192)])
"""The border of objects has a color too, that of index 255."""


@dataclass(frozen=True)
class DecodeWithSbd:
    """VOC's own PNGs, and the `.mat` files of SBD, which hold the same ids without a border."""

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        if not name.endswith(".mat"):
            return _READ(data, name)
        return from_mat(data, name, "GTcls", lambda gt: _segmentation(gt[0, 0].Segmentation))


def _segmentation(ids_HW: np.ndarray) -> np.ndarray:
    if ids_HW.ndim != 2 or ids_HW.dtype.kind not in "iu":
        raise ValueError("not a map of ids")
    return ids_HW


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--sbd",
        type=Path,
        metavar="DIR",
        help="benchmark_RELEASE of SBD: makes the split train_aug (10,582 images: VOC's train and all of SBD without "
        "VOC's val; needs scipy), packed by default with val",
    )

    parser.add_argument(
        "--pool",
        type=float,
        metavar="SHARE",
        help="VOC's train and val together, and SHARE of the images held out, as the MSANet paper does with 0.1: packs the "
        "splits pooled_train and pooled_test",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    if foreign := foreign_classes(tree, SPEC) or _foreign_colors(tree):
        raise UserError(
            "MSA-PACK-208",
            f"{foreign}, expected those of VOC; pack it with: msanet pack folder --source "
            f"{' '.join(map(str, options.source))}",
            setting="--source",
        )
    lists = by_id(_LISTS, tree.files(_LISTS), [".txt"])
    if options.pool is not None:
        return DatasetListing(SPEC, _pooled(tree, options), decode=_READ)
    if options.sbd is None:
        splits = choose_splits(options.splits, sorted(lists), _USUAL, tree.show(_LISTS))
        return DatasetListing(
            SPEC, {split: _pairs(tree, split, lists[name]) for split, name in splits.items()}, decode=_READ
        )
    both = Overlay(tree, "sbd", _open_sbd(options.sbd))
    present = sorted({*lists, _AUGMENTED})
    splits = choose_splits(options.splits, present, (_AUGMENTED, "val"), tree.show(_LISTS))
    pairs = {s: _augmented(both) if s == _AUGMENTED else _pairs(tree, s, lists[name]) for s, name in splits.items()}
    return DatasetListing(SPEC, pairs, decode=DecodeWithSbd(), tree=both)


def _foreign_colors(tree: Tree) -> str | None:
    """That the masks have colors that VOC does not have, if all have that were looked at."""
    names = [name for name in tree.files(_OWN) if name.endswith(".png")]
    known = {*SPEC.palette, voc_color(IGNORE_INDEX)}
    colors: set[Color] = set()
    for name in names[:: -(-len(names) // _LOOKED_AT) or 1]:
        try:
            found = colors_of(tree.read(f"{_OWN}/{name}"))
        except UserError:  # said when it is packed
            continue
        if found <= known:
            return None
        colors |= found - known
    shown = ", ".join(map(str, sorted(colors)[:3]))
    return f"the masks of '{tree.show(_OWN)}' have colors that VOC does not have ({shown})" if colors else None


def _pooled(tree: Tree, options: argparse.Namespace) -> dict[str, list[SamplePaths]]:
    """The paper does not publish its choice; ours is by a hash of the id, the same on every machine."""
    if options.sbd is not None or options.splits:
        raise UserError(
            "MSA-PACK-042",
            "--pool is given with --sbd or --splits, expected it alone: it makes its own two splits",
            setting="--pool",
        )
    if not 0 < options.pool < 1:
        raise UserError(
            "MSA-PACK-042",
            f"--pool is {options.pool:g}, expected a share between 0 and 1, such as 0.1",
            setting="--pool",
        )
    ids = {source_id for split in _USUAL for source_id in _ids(tree, f"{_LISTS}/{split}.txt")}
    held_out = subset_of(ids, round(options.pool * len(ids)), options.seed)
    chosen = dict(zip(_POOLED, (ids - held_out, held_out), strict=True))
    return {split: _pairs_of(tree, split, list(own), "ImageSets") for split, own in chosen.items()}


def _pairs(tree: Tree, split: str, list_path: str) -> list[SamplePaths]:
    listed = read_list(tree, list_path)
    check_excluded(listed.excluded, split)
    return _pairs_of(tree, split, listed.ids, f"list '{tree.show(list_path)}'", listed.labels)


def _pairs_of(
    tree: Tree, split: str, ids: Sequence[str], where: str, labels: Mapping[str, str] | None = None
) -> list[SamplePaths]:
    images = _images(tree, ids, where)
    labels = labels or _labels(tree, split, set(ids))
    pair_up(tree, images, labels, split)  # each has its label
    return [make_pair(source_id, images[source_id], labels[source_id]) for source_id in sorted(ids)]


def _augmented(tree: Tree) -> list[SamplePaths]:
    """VOC's train and SBD's train and val, less VOC's val; VOC's own label maps where it has them.

    They have borders to ignore, which those of SBD lack; SegmentationClassAug, as it is passed around, does the same.
    """
    lists = (f"{_LISTS}/train.txt", f"{_LISTS}/val.txt", "sbd/train.txt", "sbd/val.txt")
    train, val, sbd_train, sbd_val = (set(_ids(tree, path)) for path in lists)
    ids = (train | sbd_train | sbd_val) - val
    own, sbd = by_id(_OWN, tree.files(_OWN), [".png"]), by_id("sbd/cls", tree.files("sbd/cls"), [".mat"])
    labels = {**sbd, **{source_id: path for source_id, path in own.items() if source_id in train}}
    chosen = {source_id: path for source_id, path in labels.items() if source_id in ids}
    return pair_up(tree, _images(tree, ids, f"split '{_AUGMENTED}'"), chosen, _AUGMENTED)


def _ids(tree: Tree, list_path: str) -> tuple[str, ...]:
    return read_list(tree, list_path).ids


def _images(tree: Tree, ids: Iterable[str], where: str) -> dict[str, str]:
    """{id: path} of the `ids` that `where` names. Raises UserError if one has no image, or two."""
    names = tree.files("JPEGImages")
    wanted = sorted({*ids})
    of_stem: dict[str, list[str]] = {source_id: [] for source_id in wanted}
    for name in names:
        stem, _, ending = name.rpartition(".")
        if stem in of_stem and ending.lower() in IMAGE_EXTENSIONS:
            of_stem[stem].append(name)
    lacking = [source_id for source_id in wanted if not of_stem[source_id]]
    if lacking:
        raise UserError(
            "MSA-PACK-041",
            f"{where} names '{lacking[0]}', which has no JPEGImages/{lacking[0]}.jpg ({len(lacking)} of {len(wanted)} have "
            f"none; JPEGImages holds {counted_endings(names)}), expected all images; restore them or choose other --splits",
        )
    images = [name for source_id in wanted for name in of_stem[source_id]]
    return by_stem(tree, "JPEGImages", images)


def _labels(tree: Tree, split: str, ids: set[str]) -> dict[str, str]:
    """{id: label path} from one folder for the whole split, since the two differ on object borders.

    SegmentationClassAug holds the masks of Hariharan et al.'s SBD beside VOC's own: `*_aug` lists mean it, and lists of
    the user's making take it where VOC's own are not enough.
    """
    folders = ["SegmentationClassAug"] if split.endswith("_aug") else [_OWN]
    if split not in _OFFICIAL:
        folders.append("SegmentationClassAug")
    found = [by_id(folder, tree.files(folder), [".png"]) for folder in folders]
    chosen = next((labels for labels in found if ids <= labels.keys()), found[0])
    return {source_id: path for source_id, path in chosen.items() if source_id in ids}


def _open_sbd(path: Path) -> Tree:
    tree = open_tree([path])
    for folder in _SBD_FOLDERS:
        if {"train.txt", "val.txt"} <= {*tree.files(folder)} and "cls" in tree.folders(folder):
            return tree.below(folder) if folder else tree
    raise UserError(
        "MSA-PACK-043",
        f"'{path}' is not SBD, expected benchmark_RELEASE with dataset/cls/*.mat, dataset/train.txt and "
        "dataset/val.txt; fix --sbd",
        setting="--sbd",
    )


VOC = Reader(
    name="voc",
    summary="PASCAL VOC 2012 segmentation, 21 classes; --splits names lists of ImageSets/Segmentation",
    layout="VOCdevkit/VOC2012 with ImageSets/Segmentation/<list>.txt, JPEGImages/*.jpg and SegmentationClass/*.png",
    landmarks=("JPEGImages", "ImageSets/Segmentation"),
    read=read,
    add_options=add_options,
)
