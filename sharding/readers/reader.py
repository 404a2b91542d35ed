"""What a reader is, and the steps that all readers share: pair images with labels, choose splits."""

import argparse
import hashlib
import logging
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msanet.data.manifest import safe_key
from msanet.datasets import DatasetSpec
from msanet.errors import UserError, nearest
from sharding.notes import refuse
from sharding.readers.labels import Decode
from sharding.tree import Tree

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplePaths:
    """One sample before packing.

    key: its name in the shard. id: the dataset's own name for it. image, label: paths in the tree.
    annotation: what the label file says of this image, where one file holds the labels of many; None: all of it.
    instances: path of its map of Cityscapes instance ids, where it is to be packed too.
    """

    key: str
    id: str
    image: str
    label: str
    annotation: str | None = None
    instances: str | None = None


Splits = dict[str, list[SamplePaths]]
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Name of a split, in small letters -> the usual one for it."""
_NAMED = 5
Id = TypeVar("Id", int, str)


@dataclass(frozen=True)
class DatasetListing:
    """What a reader found: the classes, and the pairs of each split in sorted order.

    decode: how the labels are read where they are no images of ids. tree: where the pairs' paths lead, where that is
    more than the source.
    """

    spec: DatasetSpec
    splits: Splits
    decode: Decode | None = None
    tree: Tree | None = None


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


@dataclass(frozen=True)
class Reader:
    """How one dataset lies on disk.

    name: the command's name. summary: for --help. layout: shown where the source is laid out otherwise.
    landmarks: folders that the dataset's root, and nothing else, holds; a name with a dot is that of a file (`*.json`); `a|b`:
    one of them. Where a source has some of them only, the others are named as missing.
    read: tree at the root, options -> DatasetListing; options has `splits` (None: the dataset's usual ones) and what add_options
    declared.
    archives: the official zip files, taken where a source folder holds them. is_root: tree, folder -> whether it is the root,
    where landmarks do not say so. counts: images of each split as published; other counts are warned about.
    """

    name: str
    summary: str
    layout: str
    landmarks: tuple[str, ...]
    read: Callable[[Tree, argparse.Namespace], DatasetListing]
    archives: tuple[str, ...] = ()
    add_options: Callable[[argparse.ArgumentParser], None] = _no_options
    is_root: Callable[[Tree, str], bool] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def check_counts(self, found: DatasetListing) -> None:
        """Warn of splits that do not have the images that were published."""
        for split, pairs in found.splits.items():
            if (expected := self.counts.get(split, len(pairs))) != len(pairs):
                logger.warning(
                    f"split '{split}' has {len(pairs):,} images, expected {expected:,} of {self.name}; scores on a part of a "
                    "split do not compare with published ones"
                )


def make_pair(source_id: str, image: str, label: str) -> SamplePaths:
    """A pair whose key is the source id made safe for tar members."""
    return SamplePaths(key=safe_key(source_id), id=source_id, image=image, label=label)


def pair_up(tree: Tree, images: Mapping[str, str], labels: Mapping[str, str], split: str) -> list[SamplePaths]:
    """Join {id: image path} with {id: label path} in sorted order.

    Raises UserError if an image has no label. Labels without an image are ignored with a warning, since some
    datasets publish them.
    """
    labels = _as_images_spell(images, labels)
    lacking = sorted(images.keys() - labels.keys())
    extra = sorted(labels.keys() - images.keys())
    if lacking:
        others = f"; label maps without an image: {_named(extra)}" if extra else ""
        error = UserError(
            "MSA-PACK-022",
            f"image '{tree.show(images[lacking[0]])}' has no label map ({len(lacking)} of {len(images)} images in split "
            f"'{split}' have none: {_named(lacking)}{others}), expected one for each; add the label maps, remove the images or "
            "choose other --splits",
        )
        refuse(error)
    if extra:
        count = f"{len(extra)} label map has" if len(extra) == 1 else f"{len(extra)} label maps have"
        logger.warning(
            f"{count} no image in split '{split}' and {'is' if len(extra) == 1 else 'are'} ignored: {_named(extra)}"
        )
    return [make_pair(source_id, images[source_id], labels[source_id]) for source_id in sorted(images.keys() & labels)]


def _as_images_spell(images: Mapping[str, str], labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels by the names of their images, where only Unicode's form differs: macOS takes letters apart (NFD)."""
    lacking = images.keys() - labels.keys()
    if not lacking:
        return labels
    spelled = {unicodedata.normalize("NFC", name): name for name in labels.keys() - images.keys()}
    found = {name: spelled[form] for name in lacking if (form := unicodedata.normalize("NFC", name)) in spelled}
    taken = {*found.values()}
    rest = {name: path for name, path in labels.items() if name not in taken}
    return {**rest, **{name: labels[label] for name, label in found.items()}}


def check_excluded(count: int, split: str) -> None:
    """Say how many names a list has with the flag -1: images without what the list is about."""
    if count:
        logger.warning(f"the list of split '{split}' has {count} names with the flag -1, which are not packed")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def by_id(folder: str, names: Iterable[str], suffixes: Sequence[str]) -> dict[str, str]:
    """{name without suffix: path} of those `names` in `folder` that end in one of `suffixes`."""
    return {
        name.removesuffix(suffix): f"{folder}/{name}" for name in names for suffix in suffixes if name.endswith(suffix)
    }


def subset_of(ids: Iterable[Id], count: int, seed: int) -> set[Id]:
    """`count` of the ids at random: those with the smallest sha256 of "seed:id", on any machine and in any order."""
    return set(sorted(ids, key=lambda id: hashlib.sha256(f"{seed}:{id}".encode()).digest())[:count])


def choose_splits(
    asked: Sequence[str] | None, present: Sequence[str], usual: Sequence[str], where: str
) -> dict[str, str]:
    """{split: its name in the source} to pack: those `asked` for, else the `usual` ones that are `present`, else the only one.

    A split may be present under another name for it (SPLIT_NAMES). Raises UserError where one is not present, or none is.
    """
    if asked is None:
        chosen = {split: name for split in usual if (name := _own_name(split, present)) is not None}
        if not chosen and len(present) == 1:
            chosen = {present[0]: present[0]}
        if not chosen:
            raise UserError(
                "MSA-PACK-021",
                f"'{where}' has none of the splits {', '.join(usual)}, but {', '.join(present) or 'nothing'}; "
                "choose with --splits",
                setting="--splits",
            )
    else:
        chosen = {}
        for split in asked:
            name = _own_name(split, present)
            if name is None:
                raise UserError(
                    "MSA-PACK-021",
                    f"split '{split}' is not in '{where}'; {nearest(split, sorted(present))}",
                    setting="--splits",
                )
            chosen[split] = name
    for split, name in chosen.items():
        if split != name:
            logger.info(f"split '{split}' is read from '{name}'")
    return chosen


def only_split(asked: Sequence[str] | None) -> str:
    """The name of the split where the source has no names for them."""
    if asked and len(asked) > 1:
        raise UserError(
            "MSA-PACK-021",
            f"the splits {', '.join(asked)} are asked for, but the source has its images in one folder, expected a folder for "
            "each split; give one name to --splits",
            setting="--splits",
        )
    split = asked[0] if asked else "train"
    logger.info(f"the source has no folders of splits: all images are packed as split '{split}'")
    return split


def _own_name(split: str, present: Sequence[str]) -> str | None:
    """What the source calls a split."""
    if split in present:
        return split
    alike = [name for name in present if SPLIT_NAMES.get(name.lower()) == SPLIT_NAMES.get(split.lower(), "-")]
    return alike[0] if len(alike) == 1 else None
