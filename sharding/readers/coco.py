"""MS-COCO: `annotations/instances_<split><year>.json`, whose objects become one map of classes per image."""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from msanet.datasets import COCO as SPEC
from msanet.datasets.coco import CATEGORIES
from msanet.errors import UserError
from sharding.readers.coco_mask import CROWD, DecodeObjects
from sharding.readers.labels import need
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, choose_splits, make_pair, subset_of
from sharding.tree import Tree

_FOLDER = "annotations"
_SPLITS = ("train", "val")
_YEARS = ("2014", "2017")


class _Image(NamedTuple):
    id: int
    file_name: str
    height: int
    width: int


class _Object(NamedTuple):
    image_id: int
    id: int
    category: int
    text: str  # JSON for DecodeObjects; as lists of numbers, the 860,000 outlines of 2017 take gigabytes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument("--year", choices=_YEARS, help="2014 or 2017 (default: the one that the source has)")
    parser.add_argument(
        "--subset",
        type=_count,
        nargs="+",
        default=[],
        metavar="SPLIT=N",
        help="take N images of a split at random, such as train=10000 val=1500",
    )
    parser.add_argument("--seed", type=int, default=0, help="for --subset: which images (default 0)")
    crowd = "how groups annotated as one (iscrowd) are painted: as their class or as 255 (default class)"
    parser.add_argument("--crowd", choices=CROWD, default=CROWD[0], help=crowd)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images of the splits, or the subsets asked for. Raises UserError where the layout does not hold."""
    need("pycocotools.mask", "pycocotools")
    year = _year(tree, options.year)
    present = [split for split in _SPLITS if _json_name(split, year) in tree.files(_FOLDER)]
    splits = choose_splits(options.splits, present, _SPLITS, tree.show(_FOLDER))
    subset = dict(options.subset)
    for split in subset:
        if split not in splits:
            raise UserError(
                "MSA-PACK-039",
                f"--subset names split '{split}', expected one of those packed: {', '.join(splits)}; fix it",
                setting="--subset",
            )
    pairs = {split: _pairs(tree, f"{name}{year}", subset.get(split), options.seed) for split, name in splits.items()}
    return DatasetListing(SPEC, pairs, decode=DecodeObjects(options.crowd))


def _pairs(tree: Tree, name: str, count: int | None, seed: int) -> list[SamplePaths]:
    path = f"{_FOLDER}/instances_{name}.json"
    images, objects = _parse(tree.read(path), tree.show(path))
    if count is not None:
        if count > len(images):
            raise UserError(
                "MSA-PACK-039",
                f"--subset asks for {count} images of '{tree.show(path)}', which has {len(images)}; ask for fewer",
                setting="--subset",
            )
        chosen = subset_of(list(images), count, seed)
        images = {id: image for id, image in images.items() if id in chosen}
    folder = name if name in tree.folders("") else f"images/{name}"
    files = set(tree.files(folder))
    lacking = sorted(image.file_name for image in images.values() if image.file_name not in files)
    if lacking:
        raise UserError(
            "MSA-PACK-038",
            f"'{tree.show(path)}' names '{lacking[0]}', which is not in {name}/ or images/{name}/ ({len(lacking)} of "
            f"{len(images)} are not), expected all images; restore them",
            setting="--source",
        )
    pairs = [_pair(f"{folder}/{image.file_name}", path, image, objects[image.id]) for image in images.values()]
    return sorted(pairs, key=lambda pair: pair.id)


def _pair(image_path: str, json_path: str, image: _Image, objects: Sequence[_Object]) -> SamplePaths:
    in_order = ",".join(found.text for found in sorted(objects, key=lambda found: found.id))
    annotation = f'{{"height":{image.height},"width":{image.width},"objects":[{in_order}]}}'
    pair = make_pair(image.file_name.rpartition(".")[0], image_path, json_path)
    return SamplePaths(pair.key, pair.id, pair.image, pair.label, annotation)


def _parse(data: bytes, name: str) -> tuple[dict[int, _Image], dict[int, list[_Object]]]:
    """{image id: image}, and {image id: its objects} in the order of the file."""
    try:
        content = json.loads(data, object_hook=_compact)
        images = {image.id: image for image in _all(content["images"], _Image)}
        objects = defaultdict(list)
        for found in _all(content["annotations"], _Object):
            objects[found.image_id].append(found)
        categories = {int(row["id"]): row["name"] for row in content["categories"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            "MSA-PACK-036",
            f"'{name}' cannot be read ({type(error).__name__}: {error}), expected COCO's instances as JSON with images, "
            "annotations and categories; download it again",
        ) from error
    foreign = sorted({*categories.items()} - {*CATEGORIES.items()})
    unknown = sorted({found.category for group in objects.values() for found in group} - CATEGORIES.keys())
    if foreign or unknown:
        what = f"category {foreign[0][0]} '{foreign[0][1]}'" if foreign else f"an object of category {unknown[0]}"
        raise UserError(
            "MSA-PACK-037",
            f"'{name}' has {what}, expected only the 80 categories of MS-COCO; fix it, or write a reader for these "
            "classes (docs/data.md)",
        )
    return images, objects


def _compact(found: dict[str, Any]) -> object:
    """What is needed of an image or object as soon as it is parsed, so that the whole never lies in memory as lists."""
    if "image_id" in found:
        text = json.dumps(
            [found["id"], found["category_id"], found.get("iscrowd", 0), found["segmentation"]], separators=(",", ":")
        )
        return _Object(int(found["image_id"]), int(found["id"]), int(found["category_id"]), text)
    if "file_name" in found:
        return _Image(int(found["id"]), str(found["file_name"]), int(found["height"]), int(found["width"]))
    return found


def _all(rows: list[Any], kind: type) -> list[Any]:
    for row in rows:
        if not isinstance(row, kind):
            raise ValueError(f"{str(row)[:60]} lacks a field")
    return rows


def _year(tree: Tree, asked: str | None) -> str:
    files = tree.files(_FOLDER)
    present = [year for year in _YEARS if any(_json_name(split, year) in files for split in _SPLITS)]
    if asked is None and len(present) > 1:
        raise UserError(
            "MSA-PACK-004",
            f"'{tree.show(_FOLDER)}' has annotations of {' and '.join(present)}; choose with --year",
            setting="--year",
        )
    if not present or (asked or present[0]) not in present:
        raise UserError(
            "MSA-PACK-038",
            f"'{tree.show(_FOLDER)}' has no {_json_name('train', asked or '2014')} or "
            f"{_json_name('val', asked or '2014')}, expected at least one; put it there",
            setting="--source",
        )
    return asked or present[0]


def _json_name(split: str, year: str) -> str:
    return f"instances_{split}{year}.json"


def _count(text: str) -> tuple[str, int]:
    split, _, count = text.partition("=")
    if not (split and count.isascii() and count.isdigit() and int(count) > 0):
        raise argparse.ArgumentTypeError(f"found '{text}', expected SPLIT=N such as train=10000; fix it")
    return split, int(count)


COCO = Reader(
    name="coco",
    summary="MS-COCO, 80 classes and background, from instances_*.json (needs pycocotools)",
    layout="annotations/instances_<split><year>.json with <split><year>/*.jpg or images/<split><year>/*.jpg",
    landmarks=(f"{_FOLDER}/instances_*.json",),
    read=read,
    add_options=add_options,
)
