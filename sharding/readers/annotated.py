"""From the annotations of a tool to a listing: classes by name, images by theirs, and all that is left out with its count."""

import argparse
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.data.manifest import safe_key
from msanet.datasets import IGNORE_INDEX_16, DatasetSpec, ignore_index
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from sharding.readers.contents import files_of, folders_of
from sharding.readers.labels import need
from sharding.readers.reader import SPLIT_NAMES, DatasetListing, SamplePaths, choose_splits, only_split
from sharding.readers.shapes import DrawShapes, Shape, encode_shapes
from sharding.tree import Tree

logger = logging.getLogger(__name__)

Color = tuple[int, int, int]
BACKGROUND = "background"
IGNORE = "__ignore__"
"""labelme's name for what does not count."""
MOST_CLASSES = IGNORE_INDEX_16 - 1
"""Next to background and the value 65535."""
_SHOWN = 8


@dataclass(frozen=True)
class AnnotatedImage:
    """One image. id: its name. image, label: paths in the tree. size: (height, width) as the tool has it, None: unknown."""

    id: str
    image: str
    label: str
    size: tuple[int, int] | None
    shapes: list[Shape]


@dataclass
class Skipped:
    """What is not packed, by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, count: int = 1) -> None:
        self.counts[reason] += count

    def log(self, where: str, total: int) -> None:
        """One line for each reason."""
        for reason, count in sorted(self.counts.items()):
            logger.warning(f"'{where}': skipped {count} {reason} ({total} shapes are packed)")


def add_classes_option(parser: argparse.ArgumentParser, default: str) -> None:
    """--classes for readers of annotations, which know classes by name. default: where they come from without it."""
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help=f"names of the classes, one a line, in the order of their ids; {IGNORE} does not count (default: {default})",
    )


def named_classes(path: Path | None) -> list[str] | None:
    """The lines of the file given with --classes."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "MSA-PACK-754",
            f"--classes '{path}' cannot be read ({error.__class__.__name__}), expected a text file with the name of a class a "
            "line; fix the path",
            setting="--classes",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def make_listing(
    name: str,
    tree: Tree,
    splits: Mapping[str, Sequence[AnnotatedImage]],
    classes: Sequence[str] | None,
    decode: DrawShapes,
    skipped: Skipped,
    colors: Mapping[str, Color] | None = None,
) -> DatasetListing:
    """The listing of annotated images.

    Args:
        name: Of the dataset.
        tree: Where the images lie.
        splits: {split: its images}.
        classes: In the order of their train ids after background; None: those that shapes have, by the alphabet.
        decode: How shapes are drawn.
        skipped: What was left out so far.
        colors: {class: color} of figures.

    Raises:
        UserError: There are no classes, too many, or shapes of others.
    """
    found = Counter(shape.label for images in splits.values() for image in images for shape in image.shapes)
    if any(shape.kind == "coco" for images in splits.values() for image in images for shape in image.shapes):
        need("pycocotools.mask", "pycocotools")  # said once, not of each image
    own = [label for label in (sorted(found) if classes is None else classes) if not _is_special(label)]
    _check_classes(own, found, tree.show(""), is_given=classes is not None)
    names = (BACKGROUND, *own)
    ignored = ignore_index(len(names))
    values = {label: ignored if label == IGNORE else 0 for label in found} | {
        label: k for k, label in enumerate(own, 1)
    }
    palette = tuple((colors or {}).get(label, voc_color(k)) for k, label in enumerate(names))
    train_ids = {ignored: ignored, **{k: k for k in range(len(names))}}
    logger.info(f"classes: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''} ({len(names)})")
    skipped.log(tree.show(""), found.total())
    pairs = {split: [_pair(image, values) for image in sorted(images, key=_id)] for split, images in splits.items()}
    return DatasetListing(DatasetSpec(name, names, palette, train_ids), pairs, decode=decode, tree=tree)


def _pair(image: AnnotatedImage, values: dict[str, int]) -> SamplePaths:
    annotation = encode_shapes(image.shapes, values, image.size)
    return SamplePaths(safe_key(image.id), image.id, image.image, image.label, annotation)


def _id(image: AnnotatedImage) -> str:
    return image.id


def _is_special(label: str) -> bool:
    return label == IGNORE or label.strip("_").lower() == BACKGROUND


def _check_classes(own: Sequence[str], found: Counter[str], where: str, is_given: bool) -> None:
    if not own:
        raise UserError(
            "MSA-PACK-755",
            f"'{where}' has no class ({found.total()} shapes), expected shapes with the name of a class; check the source, or "
            "name the classes with --classes",
            setting="--classes",
        )
    again, count = Counter(own).most_common(1)[0]
    if count > 1 or len(own) > MOST_CLASSES:
        what = f"the class '{again}' {count} times" if count > 1 else f"{len(own)} classes"
        raise UserError(
            "MSA-PACK-755",
            f"'{where}' has {what}, expected each once and at most {MOST_CLASSES}; fix them, or name them with --classes",
            setting="--classes",
        )
    strangers = [label for label in sorted(found) if label not in own and not _is_special(label)]
    if strangers and is_given:
        raise UserError(
            "MSA-PACK-755",
            f"'{where}' has shapes of '{strangers[0]}' ({sum(found[label] for label in strangers)} of {found.total()} shapes are "
            f"of {len(strangers)} unknown classes), expected only {', '.join(own[:_SHOWN])}{', ...' * (len(own) > _SHOWN)}; add "
            "them to the classes (--classes), or remove the shapes",
            setting="--classes",
        )


USUAL = ("train", "val", "test")


def by_split(
    tree: Tree, split_of: Mapping[str, str], options: argparse.Namespace, skipped: Skipped
) -> dict[str, list[str]]:
    """{split: paths} to pack, of {path: its split as the source calls it, or ""}; where none has a split, all are one."""
    named = sorted({split for split in split_of.values() if split})
    if not named:
        return {only_split(options.splits): [*split_of]}
    if outside := sum(not split for split in split_of.values()):
        skipped.add("annotation files outside of the folders of splits", outside)
    splits = choose_splits(options.splits, named, USUAL, tree.show(""))
    return {split: [path for path, own in split_of.items() if own == name] for split, name in splits.items()}


def folder_split(path: str) -> str:
    """The first folder of a path, where it is a split's name; "" otherwise."""
    first, slash, _ = path.partition("/")
    return first if slash and first.lower() in SPLIT_NAMES else ""


def all_files(tree: Tree, ending: str, root: str = "", depth: int = 5) -> list[str]:
    """Paths of all files with this ending in and below folder `root`, in order."""
    found = [join(root, name) for name in files_of(tree, root) if name.lower().endswith(ending)]
    if depth:
        for name in folders_of(tree, root):
            found += all_files(tree, ending, join(root, name), depth - 1)
    return found


def load_json(tree: Tree, path: str, expected: str) -> Any:
    """A JSON file of a tool. Raises UserError where it is not JSON. expected: what, in words."""
    try:
        return json.loads(tree.read(path))
    except (ValueError, RecursionError) as error:
        raise unreadable(tree, path, f"{type(error).__name__}: {error}", expected) from error


def unreadable(tree: Tree, path: str, what: str, expected: str) -> UserError:
    """An annotation file that is not what its format says."""
    return UserError(
        "MSA-PACK-753",
        f"'{tree.show(path)}' cannot be read ({' '.join(what.split())[:120]}), expected {expected}; fix it, or export it again",
    )


class ImageFinder:
    """The images of a source, by the names that annotations have for them."""

    def __init__(self, tree: Tree, root: str = "") -> None:
        self._tree = tree
        self._paths: dict[str, None] = {}
        self._by_name: dict[str, list[str]] = {}
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            waiting += [join(folder, name) for name in folders_of(tree, folder)]
            for name in files_of(tree, folder):
                if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS:
                    self._paths[join(folder, name)] = None
                    self._by_name.setdefault(_plain(name), []).append(join(folder, name))
        self._missing: list[str] = []

    def find(self, name: str, *folders: str) -> str | None:
        """The path of an image: as named, in one of `folders`, or the only one of its last part anywhere."""
        name = "/".join(part for part in unquote(name).replace("\\", "/").split("/") if part not in ("", "."))
        for folder in ("", *folders):
            path = _normal(join(folder, name))
            if path in self._paths:
                return path
        alike = self._by_name.get(_plain(name), [])
        near = [path for path in alike if path.rpartition("/")[0] in folders]
        return near[0] if len(near) == 1 else alike[0] if len(alike) == 1 else None

    def need(self, name: str, *folders: str) -> str:
        """As find; what is missing is remembered for check_missing, and gets a path anyway."""
        found = self.find(name, *folders)
        if found is None:
            self._missing.append(name)
            last = name.replace("\\", "/").rpartition("/")[2] or "unnamed"
            return last if last.rpartition(".")[2].lower() in IMAGE_EXTENSIONS else f"{last}.png"
        return found

    def check_missing(self, where: str, total: int, skip_bad: bool) -> None:
        """Raise UserError where images are missing, unless they are to be skipped as bad samples."""
        count = len(self._missing)
        if count and not (skip_bad and count < total):
            raise UserError(
                "MSA-PACK-038",
                f"'{where}' names the image '{self._missing[0]}', which is not in '{self._tree.show('')}', or several times "
                f"({count} of {total} are not), expected all images; restore them, or add --skip-bad",
                setting="--source",
            )


def join(*parts: str) -> str:
    """A path of the parts that are not empty."""
    return "/".join(filter(None, parts))


def _normal(path: str) -> str:
    """Without `..`; a path that would leave the source is no path of it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _plain(name: str) -> str:
    """The last part, however it is spelled: macOS takes letters apart (NFD)."""
    return unicodedata.normalize("NFC", name.rpartition("/")[2])
