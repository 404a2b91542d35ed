"""Which sample goes into which shard: decided before anything is written, from names and sizes alone.

Each shard is an independent task, so the result does not depend on the number of workers; its digest tells a continued
run which shards are finished.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from msanet.data.manifest import SCHEMA_VERSION, earlier_key
from msanet.datasets import DatasetSpec
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError
from sharding.readers.labels import Decode
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing, SamplePaths
from sharding.tree import SourceLost, Tree

logger = logging.getLogger(__name__)

WRITER_VERSION = 3
"""Raised when the same plan gives other bytes, so that a continued run does not mix both."""
MAX_SAMPLES = 100_000
"""Of a shard: its index takes about 270 bytes a sample, and must stay below what a reader takes."""
DEFAULT_SHARD_BYTES = "384MB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class ShardPlan:
    """One tar to write.

    file: its name. pairs: its samples in order. digest: sha256 of all that decides its bytes. earlier_digest: the one that
    versions with other keys gave it, by which their shards are known.
    """

    split: str
    file: str
    pairs: tuple[SamplePaths, ...]
    digest: str
    earlier_digest: str = ""


def plan_shards(
    found: DatasetListing, tree: Tree, codec: str, shard_bytes: int, image: ImageFormat | None = None
) -> list[ShardPlan]:
    """Cut the samples of each split, in their sorted order, into shards of about `shard_bytes` of source files.

    Raises UserError if a split is empty, a key occurs twice or a name cannot stand in a tar.
    """
    plans = []
    how = found.spec, found.decode or reader_of(found.spec), tree, codec, image
    for split, pairs in found.splits.items():
        check_split(split, pairs)
        for number, group in enumerate(_group_by_size(pairs, tree, shard_bytes)):
            file = f"{split}-{number:06d}.tar"
            digest = plan_digest(file, group, *how)
            earlier = [replace(pair, key=earlier_key(pair.id)) for pair in group]
            earlier_digest = digest if earlier == group else plan_digest(file, earlier, *how)
            plans.append(ShardPlan(split, file, tuple(group), digest, earlier_digest))
    return plans


def parse_bytes(text: str) -> int:
    """`384MB`, `1GB`, `256MiB` or a plain number to bytes. Raises UserError for anything else, zero included."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise UserError(
            "MSA-PACK-020",
            f"shard size is '{text}', expected a size such as 64MB, 384MB or 1GB; write it like that",
            setting="--shard-bytes",
        )
    return size


def check_split(split: str, pairs: Sequence[SamplePaths]) -> None:
    """Raise UserError for a split without samples, with a key twice, or of a name that is not one of a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,99}", split):
        raise UserError(
            "MSA-PACK-016",
            f"split {split[:100]!r} cannot name a shard, expected up to 100 letters, digits, '.', '_' and '-'; rename it",
            setting="--splits",
        )
    if not pairs:
        raise UserError(
            "MSA-PACK-017",
            f"split '{split}' has no images, expected at least one; check the source or choose other --splits",
            setting="--splits",
        )
    key, count = Counter(pair.key for pair in pairs).most_common(1)[0]
    if count > 1:
        ids = ", ".join(f"'{pair.id}'" for pair in pairs if pair.key == key)
        raise UserError(
            "MSA-PACK-018",
            f"split '{split}' has {count} samples with the key '{key}' (ids {ids}), expected one; rename or remove one",
        )
    folded, count = Counter(pair.key.casefold() for pair in pairs).most_common(1)[0]
    if count > 1:
        alike = ", ".join(pair.key for pair in pairs if pair.key.casefold() == folded)
        logger.warning(
            f"split '{split}' has keys that differ in case only ({alike}): the shards keep them apart, a tar that is "
            "unpacked on macOS or Windows does not"
        )


def _group_by_size(pairs: Iterable[SamplePaths], tree: Tree, shard_bytes: int) -> Iterator[list[SamplePaths]]:
    """Groups of consecutive pairs, up to `shard_bytes`, at least one, at most MAX_SAMPLES."""
    group: list[SamplePaths] = []
    filled = 0
    for pair in pairs:
        size = sum(_facts(tree, name)[0] for name in _files(pair)) + len(pair.annotation or "")
        if group and (filled + size > shard_bytes or len(group) == MAX_SAMPLES):
            yield group
            group, filled = [], 0
        group.append(pair)
        filled += size
    yield group


def plan_digest(
    file: str,
    pairs: Sequence[SamplePaths],
    spec: DatasetSpec,
    decode: Decode,
    tree: Tree,
    codec: str,
    image: ImageFormat | None = None,
) -> str:
    """sha256 of all that decides the bytes of `pairs` in a shard, but for the path of the source, which may be moved."""
    content: dict[str, Any] = {
        "versions": [SCHEMA_VERSION, WRITER_VERSION],
        "file": file,
        "codec": codec,
        "spec": [spec.name, spec.classes, spec.palette, sorted(spec.train_ids.items())],
        "pairs": [{name: value for name, value in asdict(pair).items() if value is not None} for pair in pairs],
        "sources": [facts for pair in pairs for facts in file_facts(tree, pair)],
    }
    if image is not None:
        content["image"] = image.model_dump()
    content["decode"] = repr(decode)
    assert " at 0x" not in content["decode"], "its repr has to say what it does, as a dataclass's does"
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_facts(tree: Tree, pair: SamplePaths) -> list[list[int]]:
    """Size and stamp of each file that decides a sample's bytes."""
    return [_facts(tree, name) for name in _files(pair)]


def _facts(tree: Tree, name: str) -> list[int]:
    """Size and stamp of a file; zeros of one that is missing, which is a bad sample when it is packed."""
    try:
        return [tree.size(name), tree.stamp(name)]
    except SourceLost:
        raise
    except UserError:
        return [0, 0]


def _files(pair: SamplePaths) -> tuple[str, ...]:
    """The files that decide a sample's bytes; an annotation does so itself."""
    label = () if pair.annotation is not None else (pair.label,)
    return (pair.image, *label) if pair.instances is None else (pair.image, *label, pair.instances)
