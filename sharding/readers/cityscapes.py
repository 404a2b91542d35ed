"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_labelIds.png`.

`gtCoarse` has the same form, and the split `train_extra`; label maps may also be drawn from `*_polygons.json`.
"""

import argparse
from dataclasses import replace

from msanet.datasets import CITYSCAPES as LABEL_IDS
from msanet.datasets import CITYSCAPES_TRAIN_IDS
from msanet.errors import UserError
from sharding.readers.cityscapes_polygons import DrawPolygons
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, by_id, choose_splits, pair_up
from sharding.tree import Tree

_IMAGE = "_leftImg8bit.png"
_LABELS = {
    "ids": (LABEL_IDS, "_labelIds.png"),
    "polygons": (LABEL_IDS, "_polygons.json"),
    "trainIds": (CITYSCAPES_TRAIN_IDS, "_labelTrainIds.png"),
}
_FINE, _COARSE = "gtFine", "gtCoarse"
_EXTRA = "train_extra"
"""The split that has coarse annotations only."""
_INSTANCES = "_instanceIds.png"
_EVALUATED = "val"
"""The split whose instance maps are packed by default: training has no use for them."""
# Not test: its published label maps are empty, the server keeps the real ones.
_USUAL = ("train", "val")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--labels", choices=sorted(_LABELS), default="ids", help="label maps to read, or polygons to draw (default ids)"
    )
    parser.add_argument(
        "--coarse",
        action="store_true",
        help=f"take all splits from {_COARSE}, by default {_EXTRA} too (without: from {_FINE}, but for {_EXTRA}, which is "
        f"packed with --splits train val {_EXTRA})",
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
    spec, ending = _LABELS[options.labels]
    usual = (_EXTRA, *_USUAL) if options.coarse else _USUAL
    splits = choose_splits(options.splits, tree.folders("leftImg8bit"), usual, tree.show("leftImg8bit"))
    roots = {split: _COARSE if options.coarse or folder == _EXTRA else _FINE for split, folder in splits.items()}
    pairs = {split: _pairs(tree, roots[split], folder, ending) for split, folder in splits.items()}
    if options.instances is None:
        wanted = [split for split in splits if split == _EVALUATED]
        instances = [
            split for split in wanted if _files(tree, roots[split], splits[split], _suffix(roots[split], _INSTANCES))
        ]
    else:
        instances = list(choose_splits(options.instances, [*splits], (), tree.show(_FINE)))
    pairs |= {split: _add_instances(tree, roots[split], splits[split], pairs[split]) for split in instances}
    if options.splits is None and not options.coarse:
        for split in sorted({*_USUAL} & {*tree.folders(_FINE)} - {*splits.values()}):
            _pairs(tree, _FINE, split, ending)  # for its note that label maps have no image
    return DatasetListing(spec, pairs, decode=DrawPolygons() if options.labels == "polygons" else None)


def _suffix(root: str, ending: str) -> str:
    return f"_{root}{ending}"


def _pairs(tree: Tree, root: str, split: str, ending: str) -> list[SamplePaths]:
    images = _files(tree, "leftImg8bit", split, _IMAGE)
    return pair_up(tree, images, _files(tree, root, split, _suffix(root, ending)), split)


def _add_instances(tree: Tree, root: str, split: str, pairs: list[SamplePaths]) -> list[SamplePaths]:
    maps = _files(tree, root, split, _suffix(root, _INSTANCES))
    lacking = [pair for pair in pairs if pair.id not in maps]
    if lacking:
        raise UserError(
            "MSA-PACK-023",
            f"image '{tree.show(lacking[0].image)}' has no instance map ({len(lacking)} of {len(pairs)} images in split "
            f"'{split}' have none), expected one for each; add the *{_suffix(root, _INSTANCES)} files, or give --instances "
            f"without '{split}'",
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
    summary="Cityscapes, 19 classes (fine or coarse annotations, or polygons; folders or the official zip files)",
    layout="leftImg8bit/<split>/<city>/*_leftImg8bit.png with gtFine/<split>/<city>/*_gtFine_labelIds.png",
    landmarks=("leftImg8bit", f"{_FINE}|{_COARSE}"),
    read=read,
    archives=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    add_options=add_options,
    counts={_EXTRA: 19_998},
)
