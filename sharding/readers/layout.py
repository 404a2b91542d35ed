"""Where people and tools put images and masks of their own, and which mask belongs to which image.

images/SPLIT + labels/SPLIT     SPLIT/images + SPLIT/labels     images + labels     SPLIT with x.jpg and x_mask.png
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from msanet.data.image.codec import IMAGE_EXTENSIONS
from msanet.errors import UserError
from sharding.readers.contents import counted_endings, describe, files_of, folders_of
from sharding.readers.lists import read_list
from sharding.readers.reader import SPLIT_NAMES, SamplePaths, check_excluded, pair_up
from sharding.tree import Tree

logger = logging.getLogger(__name__)

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos", "rgb")
MASKS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "annots", "annot", "segmentationclass",
    "segmentationclasspng", "segmentation", "segmentations", "masks_machine", "gt", "ground_truth", "groundtruth", "semantic",
)  # fmt: skip
"""Names of folders, in any case; the first one that is there, and has files that can be masks, is taken."""
MASK_ENDINGS = (("png",), ("tif", "tiff", "bmp", "gif"), ("webp", "jpg", "jpeg"))
"""The later ones where there is no other: what lies beside a PNG is mostly its source, or for people."""
MASK_SUFFIXES = (
    "", "_mask", "-mask", "_masks", "_label", "-label", "_labels", "_seg", "-seg", "_segmentation", "_gt", "-gt",
    "_annotation", "_lbl", "_l", "_p", "_labelids", "_semantic", "_mask_0", ".jpg", ".jpeg", ".png",
)  # fmt: skip
IMAGE_SUFFIXES = ("", "_image", "-image", "_img", "_sat", "_rgb", "_photo")
_LOOKED_AT = 1000
_LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True)
class Place:
    """Where one split lies. images, masks: folders. list_path: of the names that belong to it, where not all do."""

    images: str
    masks: str
    list_path: str = ""


def find_places(tree: Tree, name: str = "") -> dict[str, Place]:
    """{split: place} below folder `name`; the split "" is one that has no name; empty where no layout fits."""
    images, masks = _folder(tree, name, IMAGES), _folder(tree, name, MASKS)
    if images and masks:
        lists = [file for file in files_of(tree, _join(name, _LISTS)) if file.endswith(".txt")]
        if lists:
            return {file.removesuffix(".txt"): Place(images, masks, _join(name, _LISTS, file)) for file in lists}
        below, mask_folders = folders_of(tree, images), folders_of(tree, masks)
        if below and not _images(tree, images):
            return {split: Place(_join(images, split), _join(masks, _same(split, mask_folders))) for split in below}
        return {"": Place(images, masks)}
    places = {}
    for split in folders_of(tree, name):
        folder = _join(name, split)
        images, masks = _folder(tree, folder, IMAGES), _folder(tree, folder, MASKS)
        if images and masks and _images(tree, images):
            places[split] = Place(images, masks)
        elif split.lower() in SPLIT_NAMES and _has_both(tree, folder):
            places[split] = Place(folder, folder)
    if len(places) == 1 and SPLIT_NAMES.keys().isdisjoint(map(str.lower, places)):
        return {}  # a folder around the dataset
    return places or ({"": Place(name, name)} if _has_both(tree, name) else {})


def pairs_of(tree: Tree, place: Place, split: str) -> list[SamplePaths]:
    """The images of a split with their masks. Raises UserError where one has none."""
    images = by_stem(tree, place.images, _images(tree, place.images))
    masks = _by_preference(tree, place.masks)
    if not images:
        raise UserError(
            "MSA-PACK-017",
            f"split '{split}' has no images: '{tree.show(place.images)}' holds {describe(tree, place.images)}, expected files "
            f"ending in {', '.join(IMAGE_EXTENSIONS)}; put them there, or choose other --splits",
            setting="--splits",
        )
    if place.images == place.masks:
        masks = {stem: path for stem, path in masks.items() if _suffix(stem)}
        images = {stem: path for stem, path in images.items() if path not in {*masks.values()}}
    elif not masks and (names := files_of(tree, place.masks)):
        raise UserError(
            "MSA-PACK-206",
            f"'{tree.show(place.masks)}' has {counted_endings(names)}, expected masks as images; export the annotations as "
            "PNG, or pack them with the reader of their tool, such as msanet pack yolo or coco",
            setting="--source",
        )
    images, masks = _joined(images, masks, split)
    if place.list_path:
        listed = read_list(tree, place.list_path)
        check_excluded(listed.excluded, split)
        if lacking := [name for name in listed.ids if name not in images]:
            raise UserError(
                "MSA-PACK-041",
                f"list '{tree.show(place.list_path)}' names '{lacking[0]}', which is not in '{tree.show(place.images)}' "
                f"({len(lacking)} of {len(listed.ids)} are not), expected all images; restore them or choose other --splits",
            )
        wanted = {*listed.ids}
        images, masks = ({id: path for id, path in found.items() if id in wanted} for found in (images, masks))
    return pair_up(tree, images, masks, split)


def by_stem(tree: Tree, folder: str, names: Sequence[str]) -> dict[str, str]:
    """{name without its ending: path}. Raises UserError where two files have one."""
    stem, count = Counter(name.rpartition(".")[0] for name in names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        alike = ", ".join(name for name in names if name.rpartition(".")[0] == stem)
        raise UserError(
            "MSA-PACK-018",
            f"'{tree.show(folder)}' has {count} files named '{stem}' ({alike}), expected one; rename or remove one",
        )
    return {name.rpartition(".")[0]: _join(folder, name) for name in names}


def _joined(images: dict[str, str], masks: dict[str, str], split: str) -> tuple[dict[str, str], dict[str, str]]:
    """Images and masks by the names that they share: without the suffixes that fit the most of them."""
    if images.keys() <= masks.keys():
        return images, masks
    some = dict(list(images.items())[:: -(-len(images) // _LOOKED_AT)])
    bare = {suffix: _composed(_without(masks, suffix)) for suffix in MASK_SUFFIXES}
    matches = {
        (own, suffix): len(bare[suffix] & _composed(_without(some, own))) for own in IMAGE_SUFFIXES for suffix in bare
    }
    own, suffix = max(matches, key=lambda pair: matches[pair])  # the first of several: without any
    if not own + suffix or not matches[own, suffix]:
        return images, masks
    logger.info(f"split '{split}': image NAME{own} belongs to mask NAME{suffix}")
    found = _without(images, own)
    # What does not have the suffix keeps its name, to be reported as an image without a mask.
    rest = {stem: path for stem, path in images.items() if not stem.lower().endswith(own)}
    return {**rest, **found}, _without(masks, suffix)


def _without(found: dict[str, str], suffix: str) -> dict[str, str]:
    if not suffix:
        return found
    return {stem[: -len(suffix)]: path for stem, path in found.items() if stem.lower().endswith(suffix)}


def _composed(stems: Iterable[str]) -> set[str]:
    return {unicodedata.normalize("NFC", stem) for stem in stems}  # macOS takes letters apart; pair_up joins them


def _by_preference(tree: Tree, folder: str) -> dict[str, str]:
    masks: dict[str, str] = {}
    for endings in MASK_ENDINGS:
        names = [name for name in files_of(tree, folder) if name.rpartition(".")[2].lower() in endings]
        if any(map(_suffix, masks)):  # then what has none is an image
            names = [name for name in names if _suffix(name.rpartition(".")[0])]
        masks = {**by_stem(tree, folder, names), **masks}
    return masks


def _suffix(stem: str) -> str:
    """With which a mask that lies among the images is told from them."""
    return next((suffix for suffix in MASK_SUFFIXES[1:6] if stem.lower().endswith(suffix)), "")


def _has_both(tree: Tree, folder: str) -> bool:
    names = files_of(tree, folder)
    stems = {name.rpartition(".")[0] for name in names if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS}
    return any(stem[: -len(_suffix(stem))] in stems for stem in stems if _suffix(stem))


def _images(tree: Tree, folder: str) -> list[str]:
    return [name for name in files_of(tree, folder) if name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]


def _folder(tree: Tree, name: str, known: Sequence[str]) -> str:
    """The folder in folder `name` that has one of the `known` names, rather one with such files; "" where there is none."""
    found = {folder.lower(): _join(name, folder) for folder in folders_of(tree, name)}
    candidates = [found[word] for word in known if word in found]
    return next((folder for folder in candidates if _has_pictures(tree, folder)), candidates[0] if candidates else "")


def _has_pictures(tree: Tree, folder: str) -> bool:
    return any(_images(tree, place) for place in (folder, *_below(tree, folder)))


def _below(tree: Tree, folder: str) -> Iterator[str]:
    return (_join(folder, name) for name in folders_of(tree, folder))


def _same(split: str, folders: Sequence[str]) -> str:
    """The folder of the masks of a split: of its name, or of another name for it."""
    alike = [name for name in folders if SPLIT_NAMES.get(name.lower(), name) == SPLIT_NAMES.get(split.lower(), split)]
    return split if split in folders or len(alike) != 1 else alike[0]


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))
