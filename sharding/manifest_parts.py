"""What the manifest of a packing is made of: the dataset's description, and the splits as their shards say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from msanet.data.image.bands import add_sums, band_statistics
from msanet.data.manifest import (
    Manifest,
    ShardIndex,
    ShardInfo,
    SplitInfo,
    load_shard_index,
    schema_version,
)
from msanet.datasets import DATASETS, DatasetSpec
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError
from sharding.plan import ShardPlan


def manifest_header(spec: DatasetSpec, codec: str, image: ImageFormat | None = None) -> Manifest:
    """The manifest of a dataset without its splits. Raises UserError where its names are none."""
    # The dataset's own ids, also where the label maps held train ids: its servers want them back.
    own = DATASETS.get(spec.name, spec).train_ids
    lowest: dict[int, int] = {}
    for id, train_id in own.items():
        lowest[train_id] = min(id, lowest.get(train_id, id))
    ids = tuple(lowest[k] for k in range(spec.num_classes))
    try:
        return Manifest(
            schema_version=schema_version(image, spec.num_classes, ids),
            image=image,
            name=spec.name,
            classes=spec.classes,
            palette=spec.palette,
            ids=ids,
            ignore_index=spec.ignore_index,
            codec=codec,
            splits={},
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            "MSA-PACK-015",
            f"the dataset {spec.name[:100]!r} has {str(first['input'])[:100]!r} as {place}, expected text of up "
            "to 100 characters in one line; fix its description",
        ) from None


def read_splits(folder: Path, plans: Sequence[ShardPlan]) -> dict[str, SplitInfo]:
    """The splits of a manifest, from the indexes of its shards. Raises UserError where all samples of a split are bad."""
    indexes: dict[str, list[ShardIndex]] = {}
    for plan in plans:
        of_split = indexes.setdefault(plan.split, [])
        if (folder / plan.file).is_file():  # else all its samples are bad
            of_split.append(load_shard_index(folder, plan.file))
    if empty := [split for split, of_split in indexes.items() if not of_split]:
        raise UserError(
            "MSA-PACK-203", f"all samples of split '{empty[0]}' are bad, expected some that are not; fix them"
        )
    return {split: _split_info(of_split) for split, of_split in indexes.items()}


def _split_info(indexes: Sequence[ShardIndex]) -> SplitInfo:
    sums = [index.bands for index in indexes if index.bands is not None]
    return SplitInfo(
        samples=sum(len(index.samples) for index in indexes),
        shards=tuple(
            ShardInfo(file=index.file, samples=len(index.samples), bytes=index.bytes, sha256=index.sha256)
            for index in indexes
        ),
        histogram=tuple(map(int, np.sum([index.histogram for index in indexes], axis=0))),
        ignored=sum(index.ignored for index in indexes),
        bands=band_statistics(add_sums(sums)) if sums else None,
    )
