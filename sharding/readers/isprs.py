"""Potsdam and Vaihingen of the ISPRS contest: large tiles, labels in colors; black, for boundaries, does not count."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence

from msanet.datasets import POTSDAM as POTSDAM_SPEC
from msanet.datasets import VAIHINGEN as VAIHINGEN_SPEC
from msanet.datasets import DatasetSpec
from msanet.errors import UserError
from sharding.readers.image_trees import TRAIN_VAL
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing, Reader, choose_splits, pair_up
from sharding.tree import Tree

_BLACK = (0, 0, 0)
_HELD_OUT = {
    "potsdam": [
        "2_13",
        "2_14",
        "3_13",
        "3_14",
        "4_13",
        "4_14",
        "4_15",
        "5_13",
        "5_14",
        "5_15",
        "6_13",
        "6_14",
        "6_15",
        "7_13",
    ],
    "vaihingen": [f"area{number}" for number in (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)],
}
"""Tiles of the contest's test set, which is the validation of most papers (and of mmsegmentation 1.2.2)."""
_TILES = {"potsdam": r"potsdam_(\d+_\d+)_", "vaihingen": r"(area\d+)"}
_IMAGES = {"potsdam": ("2_Ortho_RGB", "3_Ortho_IRRG"), "vaihingen": ("top",)}
_LABELS = {
    "potsdam": ("5_Labels_all", "5_Labels_all_noBoundary", "5_Labels_for_participants"),
    "vaihingen": (
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE",
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE",
        "gts_for_participants",
    ),
}


def _add_options(name: str) -> Callable[[argparse.ArgumentParser], None]:
    def add_options(parser: argparse.ArgumentParser) -> None:
        for option, folders in (("--images", _IMAGES[name]), ("--labels", _LABELS[name])):
            text = f"folder of the {option[2:]} (default: the first that is there of {', '.join(folders)})"
            parser.add_argument(option, metavar="FOLDER", help=text)

    return add_options


def _tiles(
    tree: Tree, name: str, given: str | None, folders: Mapping[str, Sequence[str]], option: str
) -> dict[str, str]:
    """{number of a tile: path}."""
    chosen = given or next((folder for folder in folders[name] if folder in tree.folders("")), folders[name][0])
    found = {
        match[1]: f"{chosen}/{file}"
        for file in tree.files(chosen)
        if (match := re.search(_TILES[name] + r".*\.tif$", file))
    }
    if not found:
        raise UserError(
            "MSA-PACK-780",
            f"'{tree.show(chosen)}' holds no tiles of {name}, expected *.tif as the contest names them; fix {option}",
            setting=option,
        )
    return found


def _reader(spec: DatasetSpec, layout: str, counts: Mapping[str, int]) -> Reader:
    name = spec.name

    def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
        labels = _tiles(tree, name, options.labels, _LABELS, "--labels")
        images = _tiles(tree, name, options.images, _IMAGES, "--images")
        split_of = {tile: "val" if tile in _HELD_OUT[name] else "train" for tile in labels}
        splits = choose_splits(options.splits, sorted({*split_of.values()}), TRAIN_VAL, tree.show(""))
        pairs = {}
        for split, own in splits.items():
            chosen = {tile: path for tile, path in labels.items() if split_of[tile] == own}
            pairs[split] = pair_up(tree, {tile: images[tile] for tile in chosen if tile in images}, chosen, split)
        return DatasetListing(spec, pairs, decode=reader_of(spec, ignored=[_BLACK]))

    return Reader(
        name=name,
        summary=f"ISPRS {name.capitalize()}, 6 classes; val is the contest's test set",
        layout=layout,
        landmarks=("|".join(_IMAGES[name]), "|".join(_LABELS[name])),
        read=read,
        add_options=_add_options(name),
        counts=counts,
    )


POTSDAM = _reader(
    POTSDAM_SPEC,
    "2_Ortho_RGB/top_potsdam_*_RGB.tif with 5_Labels_all/top_potsdam_*_label.tif",
    {"train": 24, "val": 14},
)
VAIHINGEN = _reader(
    VAIHINGEN_SPEC,
    f"top/top_mosaic_09cm_area*.tif with {_LABELS['vaihingen'][0]}/top_mosaic_09cm_area*.tif",
    {"train": 16, "val": 17},
)
