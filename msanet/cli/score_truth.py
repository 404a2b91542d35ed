"""The truth that `msanet score` compares with: a split in a folder, of Cityscapes, of VOC or any other, or in shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msanet.cli.score_files import (
    IS_CITYSCAPES,
    LABEL_ENDINGS,
    image_keys,
    label_maps,
    match,
    no_folder,
    no_label_maps,
    stems_of,
    walk,
)
from msanet.cli.score_values import Files, ValueReader
from msanet.data.image.codec import IMAGE_EXTENSIONS, INSTANCES, decode_image, decode_instances, decode_label
from msanet.data.image.grey_png import decode_grey_png
from msanet.data.shard_source import ShardSource
from msanet.errors import UserError
from msanet.report.bands import picture
from sharding.readers.lists import read_list
from sharding.readers.reader import SPLIT_NAMES
from sharding.tree import FolderTree

DEFAULT_SPLIT = "val"
_VOC_LISTS, _VOC_LABELS, _VOC_IMAGES = "ImageSets/Segmentation", "SegmentationClass", "JPEGImages"


@dataclass(frozen=True)
class FolderTruth:
    """Label maps on disk.

    Args:
        files: The label maps of the split.
        split: Its name.
        kind: How their names say that values are meant, `ids` or `train-ids`, or None.
        keys: Of the images, in the order of `files`.
        dataset: The dataset that the layout is of, or None.
        images: {key: path} of the photos, as far as they are known.
        reader: Set before anything is read.
    """

    files: Files
    split: str
    kind: str | None
    keys: tuple[str, ...]
    dataset: str | None
    images: Mapping[str, Path]
    reader: ValueReader | None = None

    def label(self, number: int) -> np.ndarray:
        """(H, W) train ids. Raises UserError where the file cannot be read."""
        assert self.reader is not None
        path = self.files.path(number)
        return self.reader.train_ids(self.reader.read(path), str(path))

    def has_instances(self) -> bool:
        """Whether each label map has its map of instances."""
        return self.kind is not None and all(self._instances(i).is_file() for i in range(len(self.keys)))

    def instances(self, number: int) -> np.ndarray:
        """(H, W) int32. Raises UserError where the file cannot be read."""
        path = self._instances(number)
        data = path.read_bytes()
        pixels = decode_grey_png(data)
        is_wide = pixels is not None and pixels.dtype == np.uint16
        return pixels.astype(np.int32) if pixels is not None and is_wide else decode_instances(data, str(path))

    def image(self, number: int) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB; None where there is none."""
        path = self.images.get(self.keys[number])
        return decode_image(path.read_bytes(), str(path)) if path and path.is_file() else None

    def stems(self) -> list[tuple[str, str]]:
        """Of each image: path and name without ending, by which predictions are found."""
        return [stems_of(name) for name in self.files.names]

    def _instances(self, number: int) -> Path:
        path = self.files.path(number)
        ending = next(ending for ending, kind in LABEL_ENDINGS.items() if kind == self.kind)
        return path.with_name(path.name.removesuffix(ending) + "_instanceIds.png")


@dataclass(frozen=True)
class ShardTruth:
    """One split of a packed dataset."""

    source: ShardSource
    keys: tuple[str, ...]

    @property
    def split(self) -> str:
        return self.source.split

    def label(self, number: int) -> np.ndarray:
        """(H, W) train ids. Raises UserError where the shards are damaged."""
        return decode_label(*self._member(number, "label."))

    def has_instances(self) -> bool:
        """Whether the split was packed with instance maps."""
        return bool(self.keys) and bool(self.source.read_instances(0))

    def instances(self, number: int) -> np.ndarray:
        """(H, W) int32. Raises UserError where the shards are damaged, or have no instance map of this image."""
        data = self.source.read_instances(number).get(INSTANCES, b"")
        return decode_instances(data, f"{self.keys[number]}.{INSTANCES}")

    def image(self, number: int) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB."""
        return picture(decode_image(*self._member(number, "image.")))

    def stems(self) -> list[tuple[str, str]]:
        """Twice the key, by which predictions are found."""
        return [(key, key) for key in self.keys]

    def _member(self, number: int, start: str) -> tuple[bytes, str]:
        sample = self.source.read(number)
        name = next(name for name in sample if name.startswith(start))
        return sample[name], f"{self.keys[number]}.{name}"


Truth = FolderTruth | ShardTruth


def find_truth(folder: Path, split: str | None) -> FolderTruth:
    """The label maps of a split below a folder: of Cityscapes, of VOC, or any. Raises UserError where there are none."""
    if not folder.is_dir():
        raise no_folder(folder, "--truth")
    tree = FolderTree(folder)
    if f"{split or DEFAULT_SPLIT}.txt" in tree.files(_VOC_LISTS) and tree.files(_VOC_LABELS):
        return _voc_truth(tree, split or DEFAULT_SPLIT)
    tree, split = _tree_of_split(tree, split)
    names = label_maps(tree)
    kind = next((kind for ending, kind in LABEL_ENDINGS.items() if any(name.endswith(ending) for name in names)), None)
    if kind:
        ending = next(ending for ending, own in LABEL_ENDINGS.items() if own == kind)
        names = [name for name in names if name.endswith(ending)]
    if not names:
        raise no_label_maps(tree, "--truth")
    keys = image_keys(tree, names)
    is_cityscapes = kind is not None and all(map(IS_CITYSCAPES.fullmatch, keys))
    images = _cityscapes_images(tree.root, names, keys) if is_cityscapes else {}
    dataset = "cityscapes" if is_cityscapes else None
    return FolderTruth(Files(tree.root, tuple(names)), split, kind, keys, dataset, images)


def shard_truth(source: ShardSource) -> ShardTruth:
    """The split of these shards, with the key of each of its samples."""
    return ShardTruth(source, tuple(source.key(number) for number in range(len(source))))


def find_images(folder: Path, truth: FolderTruth) -> FolderTruth:
    """With the photos of a folder, as far as names fit; for the report."""
    tree = FolderTree(folder)
    names = [name for name in walk(tree) if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    found = match(truth.keys, truth.stems(), names).found
    return replace(truth, images={truth.keys[number]: folder / name for number, name in found.items()})


def _tree_of_split(tree: FolderTree, split: str | None) -> tuple[FolderTree, str]:
    """The folder of the label maps, and the split's name."""
    below = "gtFine" if "gtFine" in tree.folders("") else ""
    splits = [name for name in tree.folders(below) if name.lower() in SPLIT_NAMES]
    chosen = split or DEFAULT_SPLIT
    if chosen in tree.folders(below):
        return tree.below(f"{below}/{chosen}".lstrip("/")), chosen
    if splits:
        raise UserError(
            "MSA-SCORE-008",
            f"'{tree.show(below)}' has the splits {', '.join(splits)}, expected '{chosen}'; choose with --split",
            setting="--split",
        )
    own = tree.root.resolve().name
    return (tree.below(below) if below else tree), split or (own if own in SPLIT_NAMES else DEFAULT_SPLIT)


def _voc_truth(tree: FolderTree, split: str) -> FolderTruth:
    listed = read_list(tree, f"{_VOC_LISTS}/{split}.txt")
    names = [f"{id}.png" for id in listed.ids]
    if lacking := sorted({*names} - {*tree.files(_VOC_LABELS)}):
        raise UserError(
            "MSA-SCORE-007",
            f"'{tree.show(_VOC_LABELS)}' lacks {len(lacking)} of the {len(names)} label maps that split '{split}' lists "
            f"({', '.join(lacking[:3])}{', ...' * (len(lacking) > 3)}), expected all; restore them or choose another --split",
            setting="--split",
        )
    names.sort()
    keys = image_keys(tree, names)
    images = {
        key: tree.root / _VOC_IMAGES / f"{name.removesuffix('.png')}.jpg" for key, name in zip(keys, names, strict=True)
    }
    return FolderTruth(Files(tree.root / _VOC_LABELS, tuple(names)), split, None, keys, "voc", images)


def _cityscapes_images(root: Path, names: Sequence[str], keys: Sequence[str]) -> dict[str, Path]:
    """leftImg8bit/val/aachen/KEY_leftImg8bit.png of gtFine/val/aachen/KEY_gtFine_labelIds.png."""
    parts = root.resolve().parts
    if "gtFine" not in parts:
        return {}
    place = len(parts) - 1 - parts[::-1].index("gtFine")
    photos = Path(*parts[:place], "leftImg8bit", *parts[place + 1 :])
    pairs = zip(names, keys, strict=True)
    return {key: photos / Path(name).parent / f"{key}_leftImg8bit.png" for name, key in pairs}
