"""Mapillary Vistas: `training/images/*.jpg` with label maps of version 1.2 or 2.0, classes and colors from its own config."""

import argparse
from typing import Any

from msanet.datasets import IGNORE_INDEX, DatasetSpec
from msanet.errors import UserError
from sharding.readers.annotated import load_json, unreadable
from sharding.readers.image_trees import Layout, ids_of, read_layouts
from sharding.readers.reader import DatasetListing, Reader
from sharding.tree import Tree

_CONFIGS = {"1.2": ("config_v1.2.json", "config.json"), "2.0": ("config_v2.0.json",)}
_LAYOUTS = {
    "1.2": ("{split}/v1.2/labels", "{split}/labels"),
    "2.0": ("{split}/v2.0/labels",),
}
_LABELS = [
    labels.format(split=split) for split in ("training", "validation") for own in _LAYOUTS.values() for labels in own
]
_EXPECTED = 'Mapillary\'s config: {"labels": [{"readable": "Bird", "color": [165, 42, 42], "evaluate": true}, ...]}'


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--version", choices=sorted(_CONFIGS), help="1.2 (66 labels) or 2.0 (124; default: the latest that is there)"
    )
    parser.add_argument(
        "--all-labels",
        action="store_true",
        help="make classes of all labels, as mmsegmentation does (default: of those that the benchmark evaluates)",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label of one version, by split. Raises UserError where the layout does not hold."""
    files = {*tree.files("")}
    found = {version: name for version, names in _CONFIGS.items() for name in reversed(names) if name in files}
    version = options.version or max(found, default="")
    if version not in found:
        raise UserError(
            "MSA-PACK-781",
            f"'{tree.show('')}' has no {' or '.join(_CONFIGS.get(version, ('config_v2.0.json',)))}, which says the classes; copy "
            "it there, or choose another --version",
            setting="--version",
        )
    spec = _spec(tree, version, found[version], options.all_labels)
    layouts = [Layout("{split}/images", labels) for labels in _LAYOUTS[version]]
    return DatasetListing(spec, read_layouts(tree, options.splits, layouts), decode=ids_of(spec))


def _spec(tree: Tree, version: str, config: str, all_labels: bool) -> DatasetSpec:
    """The classes of a config, in its order, which is that of the ids."""
    content: Any = load_json(tree, config, _EXPECTED)
    try:
        rows = [
            (str(row["readable"]), tuple(map(int, row["color"])), bool(row["evaluate"])) for row in content["labels"]
        ]
        if not rows or len(rows) >= IGNORE_INDEX or any(len(color) != 3 for _, color, _ in rows):
            raise ValueError(f"{len(rows)} labels")
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(tree, config, f"{type(error).__name__}: {error}", _EXPECTED) from error
    chosen = [id for id, (_, _, is_evaluated) in enumerate(rows) if is_evaluated or all_labels]
    return DatasetSpec(
        name=f"mapillary-v{version}",
        classes=tuple(rows[id][0] for id in chosen),
        palette=tuple((color[0], color[1], color[2]) for color in (rows[id][1] for id in chosen)),
        train_ids={IGNORE_INDEX: IGNORE_INDEX, **dict.fromkeys(range(len(rows)), IGNORE_INDEX)}
        | {id: k for k, id in enumerate(chosen)},
    )


MAPILLARY = Reader(
    name="mapillary",
    summary="Mapillary Vistas 1.2 or 2.0, classes of its config_v*.json",
    layout="training/images/*.jpg with training/v2.0/labels/*.png (or v1.2/labels, or labels), likewise validation, and "
    "config_v2.0.json",
    landmarks=("training/images|validation/images", "|".join(_LABELS), "config*.json"),
    read=read,
    add_options=add_options,
    counts={"train": 18_000, "val": 2_000},
)
