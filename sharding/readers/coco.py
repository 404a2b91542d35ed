"""MS-COCO: `annotations/instances_<split><year>.json`, whose objects become one map of classes per image."""

import argparse
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from msanet.datasets import COCO as SPEC
from msanet.datasets import IGNORE_INDEX_16, DatasetSpec, ignore_index
from msanet.datasets.coco import CATEGORIES
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from sharding.readers.annotated import ImageFinder
from sharding.readers.coco_file import FOLDER, AnnotationFile, CocoImage, read_annotations
from sharding.readers.coco_layouts import other_layouts
from sharding.readers.coco_mask import CROWD, DecodeObjects
from sharding.readers.contents import describe, files_of
from sharding.readers.labels import need
from sharding.readers.reader import DatasetListing, Reader, SamplePaths, choose_splits, make_pair, subset_of
from sharding.tree import Tree

logger = logging.getLogger(__name__)

_MOST_CATEGORIES = IGNORE_INDEX_16 - 1
"""Next to background and the value 65535."""
_SPLITS = ("train", "val")
_SHOWN = 255
_YEARS = ("2014", "2017")
_NAME = r"instances_(.+?)(2014|2017)?\.json"


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
    crowd = "how groups annotated as one (iscrowd) are painted: as their class or as ignored (default class)"
    parser.add_argument("--crowd", choices=CROWD, default=CROWD[0], help=crowd)


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All images of the splits, or the subsets asked for. Raises UserError where the layout does not hold."""
    need("pycocotools.mask", "pycocotools")
    present = _annotations(tree, options.year)
    splits = choose_splits(options.splits, [*present], _SPLITS, tree.show(FOLDER))
    subset = dict(options.subset)
    for split in subset:
        if split not in splits:
            raise UserError(
                "MSA-PACK-039",
                f"--subset names split '{split}', expected one of those packed: {', '.join(splits)}; fix it",
                setting="--subset",
            )
    files = {split: read_annotations(tree, *present[name]) for split, name in splits.items()}
    spec, train_ids = _classes(list(files.values()))
    pairs = {split: _pairs(tree, found, train_ids, subset.get(split), options) for split, found in files.items()}
    return DatasetListing(spec, pairs, decode=DecodeObjects(options.crowd, spec.ignore_index))


def _pairs(
    tree: Tree, found: AnnotationFile, ids: Mapping[int, int], count: int | None, options: argparse.Namespace
) -> list[SamplePaths]:
    images, shown = found.images, tree.show(found.path)
    if count is not None:
        if count > len(images):
            raise UserError(
                "MSA-PACK-039",
                f"--subset asks for {count} images of '{shown}', which has {len(images)}; ask for fewer",
                setting="--subset",
            )
        chosen = subset_of(list(images), count, options.seed)
        images = {id: image for id, image in images.items() if id in chosen}
    folder = _image_folder(tree, found.name)
    names = [image.file_name for image in images.values()]
    paths = _image_paths(tree, folder, names)
    if len(paths) < len({*names}) and not found.path.startswith(f"{FOLDER}/instances_"):  # of a tool: anywhere
        finder = ImageFinder(tree)
        paths |= {name: path for name in names if name not in paths and (path := finder.find(name, folder))}
    lacking = sorted(image.file_name for image in images.values() if image.file_name not in paths)
    if lacking and not (options.skip_bad and paths):
        raise UserError(
            "MSA-PACK-038",
            f"'{shown}' names '{lacking[0]}', which is not in {found.name}/, images/{found.name}/ or images/ ({len(lacking)} of "
            f"{len(images)} are not), expected all images; restore them, or add --skip-bad",
            setting="--source",
        )
    stems = Counter(_stem(image.file_name) for image in images.values())
    pairs = []
    for image in images.values():
        stem = _stem(image.file_name)
        source_id = stem if stems[stem] == 1 else image.file_name  # a.jpg beside a.png
        path = paths.get(
            image.file_name, f"{folder}/{image.file_name}"
        )  # of a missing one, for the list of bad samples
        pairs.append(_pair(source_id, path, found, image, ids))
    return sorted(pairs, key=lambda pair: pair.id)


def _image_folder(tree: Tree, name: str) -> str:
    """As MS-COCO has it, or flat as exports of annotation tools are."""
    if name in tree.folders(""):
        return name
    return "images" if name not in tree.folders("images") and tree.files("images") else f"images/{name}"


def _image_paths(tree: Tree, folder: str, names: Sequence[str]) -> dict[str, str]:
    """{file name: path} of the images that are there: as named below the folder, or by the last part of the name alone."""
    last_parts = Counter(map(_plain, names))
    files = {
        below: set(tree.files(below))
        for below in {f"{folder}/{name}".rpartition("/")[0] for name in names if ".." not in name}
    }
    files[folder] = set(tree.files(folder))
    spelled = {_plain(file): file for file in files[folder]}
    paths = {}
    for name in names:
        below, _, last = f"{folder}/{name}".rpartition("/")
        own = last if last in files[folder] else spelled.get(_plain(last))
        if last in files.get(below, ()):
            paths[name] = f"{below}/{last}"
        elif own and last_parts[_plain(last)] == 1:
            paths[name] = f"{folder}/{own}"
    return paths


def _plain(name: str) -> str:
    """The last part of a file's name, however it is spelled: `%20` stands in URLs, and macOS takes letters apart (NFD)."""
    return unicodedata.normalize("NFC", unquote(name.rpartition("/")[2]))


def _stem(file_name: str) -> str:
    return file_name.rpartition(".")[0]


def _pair(source_id: str, path: str, found: AnnotationFile, image: CocoImage, ids: Mapping[int, int]) -> SamplePaths:
    objects = sorted(found.objects[image.id], key=lambda each: each.id)
    in_order = ",".join(f"[{each.id},{ids[each.category]},{each.rest}]" for each in objects)
    annotation = f'{{"height":{image.height},"width":{image.width},"objects":[{in_order}]}}'
    pair = make_pair(source_id, path, found.path)
    return SamplePaths(pair.key, pair.id, pair.image, pair.label, annotation)


def _classes(files: Sequence[AnnotationFile]) -> tuple[DatasetSpec, dict[int, int]]:
    """The classes, and {category id: its value in label maps}: those of MS-COCO, or where files have others, their own."""
    rows = [(file, *row) for file in files for row in file.categories.items()]
    if all(CATEGORIES.get(id) == name for _, id, name in rows):  # of a file without objects, there may be none
        return SPEC, {id: id for id in CATEGORIES}
    names: dict[int, tuple[str, str]] = {}
    for file, id, name in rows:
        other, where = names.setdefault(id, (name, file.shown))
        if other != name:
            raise UserError(
                "MSA-PACK-037",
                f"category {id} is '{other}' in '{where}' and '{name}' in '{file.shown}', expected the same categories for all "
                "splits; fix the files, or pack each into a dataset of its own",
            )
    own = [id for id in sorted(names) if names[id][0].strip("_").lower() != "background"]
    unknown = [(each.category, file.shown) for file in files for group in file.objects.values() for each in group]
    if lost := next(((id, shown) for id, shown in unknown if id not in names), None):
        raise UserError(
            "MSA-PACK-037",
            f"'{lost[1]}' has an object of category {lost[0]}, expected one of its own {len(names)} categories (they are not "
            f"MS-COCO's: {id} is '{name}'); add it to the file or remove its objects",
        )
    if len(own) > _MOST_CATEGORIES:
        raise UserError(
            "MSA-PACK-037",
            f"'{files[0].shown}' has {len(own)} categories, expected at most {_MOST_CATEGORIES}; merge some",
        )
    classes = ("background", *(names[id][0] for id in own))
    logger.info(
        f"the categories are not MS-COCO's, so the file's own are the classes: {', '.join(classes[:_SHOWN])}"
        f"{f' and {len(classes) - _SHOWN} more' if len(classes) > _SHOWN else ''}"
    )
    ignored = ignore_index(len(classes))
    values = {id: 0 for id in names} | {id: value for value, id in enumerate(own, 1)}
    spec = DatasetSpec(
        name="coco-own",
        classes=classes,
        palette=tuple(voc_color(number) for number in range(len(classes))),
        train_ids={ignored: ignored, **{number: number for number in range(len(classes))}},
    )
    return spec, values


def _annotations(tree: Tree, year: str | None) -> dict[str, tuple[str, str]]:
    """{split: (annotation file, folder of its images)} of one year; those of other tools have none (`instances_default`)."""
    matches = [match for name in tree.files(FOLDER) if (match := re.fullmatch(_NAME, name))]
    if not matches and (others := other_layouts(tree)):
        return others
    years = sorted({match[2] or "" for match in matches})
    if year is None and len(years) > 1:
        raise UserError(
            "MSA-PACK-004",
            f"'{tree.show(FOLDER)}' has annotations of {' and '.join(word or 'no year' for word in years)}; choose with --year",
            setting="--year",
        )
    chosen = year or (years[0] if years else "")
    found = {match[1]: match[1] + chosen for match in matches if (match[2] or "") == chosen}
    if not found:
        raise UserError(
            "MSA-PACK-038",
            f"'{tree.show(FOLDER)}' has no instances_train{chosen}.json or instances_val{chosen}.json, but "
            f"{', '.join(match[0] for match in matches) or describe(tree, FOLDER)}; put them there, or choose another --year",
            setting="--source",
        )
    return {split: (f"{FOLDER}/instances_{name}.json", name) for split, name in found.items()}


def _is_root(tree: Tree, name: str) -> bool:
    below = tree.below(name) if name else tree
    has_instances = any(re.fullmatch(_NAME, file) for file in files_of(below, FOLDER))
    return has_instances or bool(other_layouts(below))


def _count(text: str) -> tuple[str, int]:
    split, _, count = text.partition("=")
    if not (split and count.isascii() and count.isdigit() and int(count) > 0):
        raise argparse.ArgumentTypeError(f"found '{text}', expected SPLIT=N such as train=10000; fix it")
    return split, int(count)


COCO = Reader(
    name="coco",
    summary="MS-COCO, or any categories in its form: instances_*.json, _annotations.coco.json, ... (needs pycocotools)",
    layout="annotations/instances_<split><year>.json with <split><year>/*.jpg, images/<split><year>/*.jpg or images/*.jpg; or "
    "<split>/_annotations.coco.json (Roboflow), or one JSON file for each split or for all",
    landmarks=(f"{FOLDER}/instances_*.json",),
    read=read,
    add_options=add_options,
    is_root=_is_root,
)
