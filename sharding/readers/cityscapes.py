"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_labelIds.png`."""

import argparse
from dataclasses import replace

from msanet.datasets import CITYSCAPES as LABEL_IDS
from msanet.datasets import CITYSCAPES_TRAIN_IDS
from msanet.errors import UserError
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, by_id, choose_splits, pair_up
from sharding.tree import Tree

_IMAGE = "_leftImg8bit.png"
_LABELS = {
    "ids": (LABEL_IDS, "_gtFine_labelIds.png"),
    "trainIds": (CITYSCAPES_TRAIN_IDS, "_gtFine_labelTrainIds.png"),
}
_INSTANCES = "_gtFine_instanceIds.png"
_EVALUATED = "val"
"""The split whose instance maps are packed by default: training has no use for them."""
# Not test: its published label maps are empty, the server keeps the real ones.
_USUAL = ("train", "val")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--labels", choices=sorted(_LABELS), default="ids", help="which label maps to read (default ids)"
    )
    parser.add_argument(
        "--instances",
        nargs="*",
        metavar="SPLIT",
        help="splits to pack with their instance maps, by which the protocol official-cityscapes weighs pixels (default: "
        f"{_EVALUATED}, where it has them; no SPLIT: none)",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in this layout, by split. Raises UserError where the layout does not hold."""
    spec, suffix = _LABELS[options.labels]
    splits = choose_splits(options.splits, tree.folders("leftImg8bit"), _USUAL, tree.show("leftImg8bit"))
    pairs = {split: _pairs(tree, folder, suffix) for split, folder in splits.items()}
    if options.instances is None:
        instances = [
            split for split in splits if split == _EVALUATED and _files(tree, "gtFine", splits[split], _INSTANCES)
        ]
    else:
        instances = list(choose_splits(options.instances, [*splits], (), tree.show("gtFine")))
    pairs |= {split: _add_instances(tree, splits[split], pairs[split]) for split in instances}
    if options.splits is None:
        for split in sorted({*_USUAL} & {*tree.folders("gtFine")} - {*splits.values()}):
            _pairs(tree, split, suffix)  # for its note that label maps have no image
    return DatasetListing(spec, pairs)


def _pairs(tree: Tree, split: str, label_suffix: str) -> list[SamplePaths]:
    images = _files(tree, "leftImg8bit", split, _IMAGE)
    return pair_up(tree, images, _files(tree, "gtFine", split, label_suffix), split)


def _add_instances(tree: Tree, split: str, pairs: list[SamplePaths]) -> list[SamplePaths]:
    maps = _files(tree, "gtFine", split, _INSTANCES)
    lacking = [pair for pair in pairs if pair.id not in maps]
    if lacking:
        raise UserError(
            "MSA-PACK-023",
            f"image '{tree.show(lacking[0].image)}' has no instance map ({len(lacking)} of {len(pairs)} images in split "
            f"'{split}' have none), expected one for each; add the *{_INSTANCES} files, or give --instances without "
            f"'{split}'",
            setting="--instances",
        )
    return [replace(pair, instances=maps[pair.id]) for pair in pairs]


def _files(tree: Tree, root: str, split: str, suffix: str) -> dict[str, str]:
    """{source id: path} of the files with this ending, over all cities."""
    return {
        source_id: path
        for city in tree.folders(f"{root}/{split}")
        for source_id, path in by_id(f"{root}/{split}/{city}", tree.files(f"{root}/{split}/{city}"), [suffix]).items()
    }


CITYSCAPES = Reader(
    name="cityscapes",
    summary="Cityscapes, 19 classes (fine annotations; folders or the official zip files)",
    layout="leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png",
    landmarks=("leftImg8bit", "gtFine"),
    read=read,
    archives=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    add_options=add_options,
)
