"""Which files `msanet score` compares: label maps in folders, and which prediction belongs to which image."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msanet.cli.score_values import Files
from msanet.data.manifest import safe_key
from msanet.errors import UserError
from sharding.readers.contents import describe
from sharding.readers.layout import MASK_ENDINGS
from sharding.tree import FolderTree

ENDINGS = (*MASK_ENDINGS[0], *MASK_ENDINGS[1])
IS_CITYSCAPES = re.compile(r"[A-Za-z-]+_\d{6}_\d{6}")
"""City, sequence and frame: how cityscapesScripts knows which prediction belongs to which label map."""
LABEL_ENDINGS = {"_labelIds.png": "ids", "_labelTrainIds.png": "train-ids"}
_NOT_LABELS = ("_instanceIds.png", "_instanceTrainIds.png", "_color.png")
_OWN_ENDING = re.compile(r"\.(train-ids|ids)$")
"""Of what `msanet predict --write train-ids` makes of NAME."""


@dataclass(frozen=True)
class Matches:
    """Predictions by the numbers of the truth. found: path of each; missing; doubled; extra: predictions of no image."""

    found: dict[int, str]
    missing: tuple[int, ...]
    doubled: dict[int, tuple[str, ...]]
    extra: tuple[str, ...]
    is_cityscapes: bool


def find_predictions(folder: Path) -> Files:
    """All label maps below a folder. Raises UserError where there are none."""
    if not folder.is_dir():
        raise no_folder(folder, "--predictions")
    tree = FolderTree(folder)
    names = label_maps(tree)
    if not names:
        raise no_label_maps(tree, "--predictions")
    return Files(folder, tuple(names))


def match(keys: Sequence[str], stems: Sequence[tuple[str, str]], predictions: Sequence[str]) -> Matches:
    """Which prediction belongs to which image: by city, sequence and frame if all keys have these, else by path or name.

    Args:
        keys: Of the images.
        stems: Path and name of each without ending.
        predictions: Paths.
    """
    own: dict[int, list[str]] = {}
    is_cityscapes = all(map(IS_CITYSCAPES.fullmatch, keys))
    if is_cityscapes:
        frames = _grouped(predictions, _frame)
        own = {number: frames.get(key, []) for number, key in enumerate(keys)}
    else:
        paths = _grouped(predictions, lambda path: stems_of(path)[0])
        own = {number: paths.get(path, []) for number, (path, _) in enumerate(stems)}
        used = {path for found in own.values() for path in found}
        names = _grouped([path for path in predictions if path not in used], lambda path: stems_of(path)[1])
        count = Counter(name for _, name in stems)
        for number, (_, name) in enumerate(stems):
            if not own[number] and count[name] == 1:
                own[number] = names.get(name, [])
    used = {path for found in own.values() for path in found}
    return Matches(
        found={number: paths[0] for number, paths in own.items() if len(paths) == 1},
        missing=tuple(number for number, paths in own.items() if not paths),
        doubled={number: tuple(paths) for number, paths in own.items() if len(paths) > 1},
        extra=tuple(path for path in predictions if path not in used),
        is_cityscapes=is_cityscapes,
    )


def label_maps(tree: FolderTree) -> list[str]:
    """Paths of the files that can be label maps, in sorted order; without the other maps of Cityscapes next to them."""
    names = [name for name in walk(tree) if name.rpartition(".")[2].lower() in ENDINGS]
    if any(name.endswith((*LABEL_ENDINGS,)) for name in names):  # what lies next to them in Cityscapes
        names = [name for name in names if not name.endswith(_NOT_LABELS)]
    return names


def walk(tree: FolderTree, folder: str = "") -> Iterator[str]:
    """Paths of all files, in sorted order."""
    yield from (f"{folder}/{name}".lstrip("/") for name in tree.files(folder))
    for name in tree.folders(folder):
        yield from walk(tree, f"{folder}/{name}".lstrip("/"))


def image_keys(tree: FolderTree, names: Sequence[str]) -> tuple[str, ...]:
    """By city, sequence and frame, or names, or paths: the first that tells all files apart, as shards have it."""
    stems = [stems_of(name) for name in names]
    for keys in ([_frame(name) for name in names], [name for _, name in stems], [path for path, _ in stems]):
        if None not in keys and len({*keys}) == len(keys):
            return tuple(key for key in keys if key is not None)
    path, count = Counter(path for path, _ in stems).most_common(1)[0]
    raise UserError(
        "MSA-SCORE-002",
        f"'{tree.show('')}' has {count} label maps named '{path}', expected one for each image; remove the others",
        setting="--truth",
    )


def _frame(path: str) -> str | None:
    found = IS_CITYSCAPES.match(path.rpartition("/")[2])
    return found[0] if found else None


def stems_of(path: str) -> tuple[str, str]:
    """Path and name without ending, as keys of shards are."""
    stem = _OWN_ENDING.sub("", path.rpartition(".")[0])
    return safe_key(stem), safe_key(stem.rpartition("/")[2])


def _grouped(paths: Sequence[str], key_of: Callable[[str], str | None]) -> dict[str | None, list[str]]:
    groups: dict[str | None, list[str]] = defaultdict(list)
    for path in paths:
        groups[key_of(path)].append(path)
    return groups


def no_folder(folder: Path, option: str) -> UserError:
    """The error of an option that names no folder."""
    return UserError("MSA-SCORE-007", f"'{folder}' is not a folder, expected one of label maps; check the path", option)


def no_label_maps(tree: FolderTree, option: str) -> UserError:
    """The error of a folder without label maps."""
    return UserError(
        "MSA-SCORE-007",
        f"'{tree.show('')}' holds {describe(tree)}, expected label maps ({', '.join(ENDINGS)}) in it or below; check {option}",
        setting=option,
    )
