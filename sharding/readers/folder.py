"""Any dataset of images and masks, in folders as layout.py knows them, and a file that names the classes."""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from msanet.data.manifest import Line
from msanet.datasets import DATASETS, IGNORE_INDEX, IGNORE_INDEX_16, DatasetSpec, ignore_index
from msanet.datasets.voc import voc_color
from msanet.documents import parse_yaml
from msanet.errors import UserError
from sharding.notes import take_notes
from sharding.readers.class_files import find_classes
from sharding.readers.layout import find_places, pairs_of
from sharding.readers.mask_file import MaskFile, read_mask
from sharding.readers.mask_reader import MaskReader, grey_meaning
from sharding.readers.reader import DatasetListing, Reader, Splits, choose_splits, only_split
from sharding.readers.wide_mask import WideMaskReader
from sharding.tree import Tree

logger = logging.getLogger(__name__)

_USUAL = ("train", "val", "test")
_EXAMPLE = "classes: [{id: 0, name: field}, {id: 1, name: road, color: [90, 90, 90]}]"
_WORDS = {
    "model_type": "expected a mapping such as {id: 0, name: field}",
    "tuple_type": "expected a list",
    "string_pattern_mismatch": "expected text of one line",
}
"""Instead of what pydantic says."""
_Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
_Id = Annotated[int, Field(strict=True, ge=0, le=IGNORE_INDEX_16)]
_Color = tuple[_Byte, _Byte, _Byte]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _id_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _color_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, list) and not any(isinstance(part, list) for part in value) else value


class _Class(_Record):
    """id: the value in masks, or a list of them. color: the color, or a list; the first one is that of pictures."""

    ids: Annotated[tuple[_Id, ...], BeforeValidator(_id_list), Field(min_length=1, alias="id")]
    name: Line
    colors: Annotated[tuple[_Color, ...], BeforeValidator(_color_list), Field(alias="color")] = ()


class Classes(_Record):
    """The classes file.

    ignore: ids, or colors, of pixels that do not count; 255 does not unless it is a class's id, and 65535 where masks are of 16
    bits, which they are with more than 255 classes or ids above 255. others: whether values and
    colors that the file does not list are refused, or do not count.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "folder"
    classes: Annotated[tuple[_Class, ...], Field(min_length=1, max_length=IGNORE_INDEX_16)]
    ignore: tuple[_Id | _Color, ...] = ()
    others: Literal["refuse", "ignore"] = "refuse"

    @property
    def ids(self) -> list[int]:
        """Of classes, and of what is ignored."""
        ignored = [entry for entry in self.ignore if isinstance(entry, int)]
        return [*(id for found in self.classes for id in found.ids), *ignored]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that only this dataset has."""
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help=f"YAML or JSON that says what the values or colors of the masks are, such as: {_EXAMPLE}; not needed where the "
        "source has CVAT's labelmap.txt, labelme's class_names.txt or Roboflow's _classes.csv",
    )


def read(tree: Tree, options: argparse.Namespace) -> DatasetListing:
    """All pairs of image and label in one of the layouts, by split. Raises UserError where none holds."""
    classes, path = classes_of(tree, options.classes)
    places = find_places(tree)
    if "" in places:
        places = {only_split(options.splits): places[""]}
    splits = choose_splits(options.splits, [*places], _USUAL, tree.show(""))
    pairs = {split: pairs_of(tree, places[name], split) for split, name in splits.items()}
    return DatasetListing(spec_of(classes), pairs, decode=mask_reader(classes, path, tree, pairs))


_LOOKED_AT = 100


def mask_reader(classes: Classes, path: Path, tree: Tree, pairs: Splits) -> MaskReader | WideMaskReader:
    """How masks are read: what grey values are is seen in some of the masks, since 255 may be an object or ignored."""
    spec = spec_of(classes)
    if spec.has_16_bits:
        return _wide_reader(classes, path, spec)
    colors = _colors(classes, path)
    grey = grey_meaning(spec, dict(colors), frozenset(classes.ids), (mask for _, mask in _some_masks(tree, pairs)))
    reader = MaskReader(spec, colors, grey, f"the classes file '{path}'", classes.others == "ignore")
    reader.check_palettes(_some_masks(tree, pairs))
    take_notes()  # the same will be said of them when they are packed
    return reader


def _wide_reader(classes: Classes, path: Path, spec: DatasetSpec) -> WideMaskReader:
    if color := next((entry for entry in classes.ignore if not isinstance(entry, int)), None):
        raise UserError(
            "MSA-PACK-793",
            f"classes file '{path}' ignores the color {list(color)}, expected ids only: with {spec.num_classes} classes and ids "
            f"up to {max(classes.ids)} masks hold grey ids of 16 bits; remove the color",
            setting="--classes",
        )
    return WideMaskReader(spec)


def _some_masks(tree: Tree, splits: Splits) -> Iterator[tuple[str, MaskFile]]:
    """Masks from all over the dataset, until enough were not all 0; unreadable ones are named when they are packed."""
    pairs = [pair for split in splits.values() for pair in split]
    step = max(1, len(pairs) // _LOOKED_AT)
    seen = 0
    for pair in (pair for first in range(step) for pair in pairs[first::step]):
        try:
            mask = read_mask(tree.read(pair.label), pair.label)
        except UserError:
            continue
        yield tree.show(pair.label), mask
        seen += bool(mask.pixels.any())
        if seen == _LOOKED_AT:
            return


def classes_of(tree: Tree, path: Path | None) -> tuple[Classes, Path]:
    """The classes of the file that was given, or of the one that an annotation tool left in the source."""
    if path is not None:
        return _load(path), path
    found = find_classes(tree)
    if found is None:
        raise UserError(
            "MSA-PACK-207",
            f"--classes is missing, and '{tree.show('')}' has no labelmap.txt, class_names.txt or _classes.csv, expected one of "
            f"them; write a file such as: {_EXAMPLE}",
            setting="--classes",
        )
    try:
        classes = Classes.model_validate(found[0])
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            "MSA-PACK-205",
            f"'{tree.show(found[1])}' has the {first['loc'][-1]} {str(first['input'])[:80]!r} ({first['msg'].lower()}), expected "
            "classes; fix it, or say the classes with --classes",
        ) from None
    name, count = Counter(row.name for row in classes.classes).most_common(1)[0]
    if count > 1:
        raise UserError(
            "MSA-PACK-205",
            f"'{tree.show(found[1])}' has the class '{name}' {count} times, expected once; fix it, or say the classes with "
            "--classes",
        )
    logger.info(f"classes are those of '{tree.show(found[1])}': {', '.join(row.name for row in classes.classes)}")
    return classes, Path(tree.show(found[1]))


def _load(path: Path) -> Classes:
    expected = f"expected a file such as: {_EXAMPLE}"
    try:
        content = parse_yaml(path.read_bytes(), text_keys=("name",))
        _rename_old_keys(content)
        classes = Classes.model_validate(content)
    except UserError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        words = _WORDS.get(first["type"], first["msg"].lower())
        found = "" if first["type"] == "missing" else f"found {str(first['input'])[:60]!r}, "
        raise UserError(
            "MSA-PACK-031", f"classes file '{path}': {where}: {found}{words}; {expected}", setting="--classes"
        ) from error
    except ValueError as error:
        words = " ".join(str(error).split())
        raise UserError(
            "MSA-PACK-031",
            f"classes file '{path}' is not valid YAML or JSON ({words}); {expected}",
            setting="--classes",
        ) from error
    for what, values in (("id", classes.ids), ("class", [found.name for found in classes.classes])):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            several = "; fix it" if what == "id" else ": a class of several ids has them in a list, such as id: [1, 2]"
            raise UserError(
                "MSA-PACK-032",
                f"classes file '{path}' has the {what} '{value}' {count} times, expected once{several}",
                setting="--classes",
            )
    if classes.name in DATASETS:
        raise UserError(
            "MSA-PACK-033",
            f"classes file '{path}' has the name '{classes.name}' of another dataset; choose another",
            setting="--classes",
        )
    return classes


def _rename_old_keys(content: object) -> None:
    """Version 0.1.0 spelled `color` in British English."""
    classes = content.get("classes") if isinstance(content, dict) else None
    for record in classes if isinstance(classes, list) else []:
        if isinstance(record, dict) and "colour" in record and "color" not in record:
            record["color"] = record.pop("colour")


def spec_of(classes: Classes) -> DatasetSpec:
    """The dataset that a classes file describes."""
    train_id = ignore_index(len(classes.classes))
    # The value that masks of 8 or of 16 bits have for what is ignored, unless somebody says otherwise.
    highest = IGNORE_INDEX if max(train_id, *classes.ids) == IGNORE_INDEX else IGNORE_INDEX_16
    others = range(highest + 1) if classes.others == "ignore" else (highest,)
    ignored = {entry: train_id for entry in (*classes.ignore, *others) if isinstance(entry, int)}
    return DatasetSpec(
        name=classes.name,
        classes=tuple(found.name for found in classes.classes),
        palette=tuple((*found.colors, voc_color(number))[0] for number, found in enumerate(classes.classes)),
        train_ids={**ignored, **{id: number for number, found in enumerate(classes.classes) for id in found.ids}},
    )


def _colors(classes: Classes, path: Path) -> tuple[tuple[_Color, int], ...]:
    given = [(color, number) for number, found in enumerate(classes.classes) for color in found.colors]
    given += [(entry, IGNORE_INDEX) for entry in classes.ignore if not isinstance(entry, int)]
    color, count = Counter(color for color, _ in given).most_common(1)[0] if given else (None, 0)
    if count > 1:
        raise UserError(
            "MSA-PACK-032",
            f"classes file '{path}' has the color {color} {count} times, expected once; fix it",
            setting="--classes",
        )
    return tuple(sorted(given))


FOLDER = Reader(
    name="folder",
    summary="your own images and masks, with --classes to say what the masks' values or colors are",
    layout="images/<split>/* (png, jpg, tif, bmp, webp) with labels/<split>/* (png, tif, bmp, gif) of the same names, or "
    "<split>/images with <split>/labels (or masks)",
    landmarks=("images", "labels"),
    read=read,
    add_options=add_options,
    is_root=lambda tree, name: bool(find_places(tree, name)),
)
