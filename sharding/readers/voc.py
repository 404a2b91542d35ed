"""PASCAL VOC 2012: lists of ids in `ImageSets/Segmentation`, JPEG images, palette PNGs in `SegmentationClass`."""

import argparse

from msanet.datasets import VOC as SPEC
from msanet.errors import UserError
from sharding.readers.reader import Found, Pair, Reader, by_id, choose_splits, make_pair, pair_up
from sharding.tree import Tree

_LISTS = "ImageSets/Segmentation"
_USUAL = ("train", "val")
_OFFICIAL = ("train", "val", "trainval")


def read(tree: Tree, options: argparse.Namespace) -> Found:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    lists = by_id(_LISTS, tree.files(_LISTS), [".txt"])
    splits = choose_splits(options.splits, sorted(lists), _USUAL, tree.show(_LISTS))
    return Found(SPEC, {split: _pairs(tree, split, lists[split]) for split in splits})


def _pairs(tree: Tree, split: str, list_path: str) -> list[Pair]:
    ids = tree.read(list_path).decode(errors="replace").split()
    images = by_id("JPEGImages", tree.files("JPEGImages"), [".jpg"])
    lacking = [source_id for source_id in ids if source_id not in images]
    if lacking:
        raise UserError(
            f"list '{tree.show(list_path)}' names '{lacking[0]}', which has no JPEGImages/{lacking[0]}.jpg "
            f"({len(lacking)} of {len(ids)} have none), expected all images; restore them or choose other --splits"
        )
    labels = _labels(tree, split, set(ids))
    pair_up(tree, {source_id: images[source_id] for source_id in ids}, labels, split)  # each has its label
    return [make_pair(source_id, images[source_id], labels[source_id]) for source_id in sorted(ids)]


def _labels(tree: Tree, split: str, ids: set[str]) -> dict[str, str]:
    """{id: label path} from one folder for the whole split, since the two differ on object borders.

    SegmentationClassAug holds the masks of Hariharan et al.'s SBD beside VOC's own: `*_aug` lists mean it, and lists of
    the user's making take it where VOC's own are not enough.
    """
    folders = ["SegmentationClassAug"] if split.endswith("_aug") else ["SegmentationClass"]
    if split not in _OFFICIAL:
        folders.append("SegmentationClassAug")
    found = [by_id(folder, tree.files(folder), [".png"]) for folder in folders]
    chosen = next((labels for labels in found if ids <= labels.keys()), found[0])
    return {source_id: path for source_id, path in chosen.items() if source_id in ids}


VOC = Reader(
    name="voc",
    summary="PASCAL VOC 2012 segmentation, 21 classes; --splits names lists of ImageSets/Segmentation",
    layout="VOCdevkit/VOC2012 with ImageSets/Segmentation/<list>.txt, JPEGImages/*.jpg and SegmentationClass/*.png",
    landmarks=("JPEGImages", "ImageSets/Segmentation"),
    read=read,
)
