"""The manifest of several datasets as one, and of a dataset under a label scheme."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from msanet.data.image.bands import mixed_statistics
from msanet.data.label_scheme import LabelScheme, train_ids_by_name
from msanet.data.manifest import Line, Manifest, SplitInfo, safe_key, schema_version
from msanet.data.mixed_order import samples_per_epoch
from msanet.data.unpacked import COUNTED_LABELS
from msanet.datasets import ignore_index, label_dtype
from msanet.errors import UserError

logger = logging.getLogger(__name__)

MIXED = "mixed"
"""Instead of a codec. Such a manifest exists in memory only."""
_SHOWN = 8
_OWN_FIELDS = {"schema_version", "name", "classes", "palette", "ids", "ignore_index", "codec", "splits"}


class Part(BaseModel):
    """One of the datasets. name: unique. train_ids: of the mix, by train id of the dataset; its `ignore_index`: not counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    manifest: Manifest
    train_ids: tuple[int, ...]


class MixedManifest(Manifest):
    """What the manifest of all datasets in one would be. members: of each split, which parts it has."""

    parts: tuple[Part, ...]
    members: dict[str, tuple[int, ...]]

    def parts_of(self, split: str) -> list[Part]:
        """The datasets that a split has. Raises UserError if there is no such split."""
        self.split(split)
        return [self.parts[number] for number in self.members[split]]

    def digest(self) -> str:
        """sha256 of the classes, and of each dataset with the meaning of its labels."""
        content = [self.classes, [[part.manifest.digest(), part.train_ids] for part in self.parts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Share:
    """The images of one dataset in a split of a mix. classes: train ids that it has."""

    name: str
    samples: range
    classes: tuple[int, ...]


def shares_of(manifest: Manifest, split: str) -> list[Share]:
    """Where each dataset lies in a split; nothing for a split of one."""
    parts = manifest.parts_of(split) if isinstance(manifest, MixedManifest) else []
    if len(parts) < 2:
        return []
    ends = list(accumulate(part.manifest.split(split).samples for part in parts))
    return [
        Share(part.name, range(start, end), tuple(sorted({*part.train_ids} - {manifest.ignore_index})))
        for part, start, end in zip(parts, [0, *ends], ends, strict=False)
    ]


def mixed_manifest(
    manifests: Sequence[Manifest],
    scheme: LabelScheme | None,
    members: Mapping[str, Sequence[int]],
    train_split: str,
    weights: Sequence[float] = (),
) -> MixedManifest:
    """The datasets as one.

    Args:
        manifests: Of the datasets.
        scheme: The classes that they get; None: those of the first, which all have to have, in any order.
        members: Of each split, the datasets that take part.
        train_split: The split whose class frequencies are those of the mix.
        weights: `data.sampling_weights`.

    Raises:
        UserError: Classes, or anything else that a network sees of the images, do not fit together.
    """
    first, names = manifests[0], _unique([manifest.name for manifest in manifests])
    for name, manifest in zip(names, manifests, strict=True):
        for field in sorted({*Manifest.model_fields} - _OWN_FIELDS):
            if getattr(manifest, field) != getattr(first, field):
                found, expected = (_shown(field, one) for one in (manifest, first))
                raise UserError(
                    "MSA-DATA-763",
                    f"dataset '{name}' has {found}, expected {expected} as in '{names[0]}'; train on them separately",
                    setting="data.path",
                )
    classes = tuple(row.name for row in scheme.classes) if scheme else first.classes
    train_ids = [
        _train_ids(name, manifest, names[0], manifests, classes, scheme)
        for name, manifest in zip(names, manifests, strict=True)
    ]
    parts = [Part(name=n, manifest=m, train_ids=t) for n, m, t in zip(names, manifests, train_ids, strict=True)]
    looks = [_look(number, parts, scheme) for number in range(len(classes))]
    ids = tuple(value for _, value in looks)
    own: dict[str, Any] = {
        "schema_version": schema_version(first.image, len(classes), ids),
        "name": scheme.name if scheme else "+".join(names)[:100],
        "classes": classes,
        "palette": tuple(color for color, _ in looks),
        "ids": ids,
        "ignore_index": ignore_index(len(classes)),
        "codec": MIXED,
        "splits": {
            split: _mixed_split(
                [parts[k] for k in chosen], split, len(classes), weights if split == train_split else ()
            )
            for split, chosen in members.items()
        },
    }
    return MixedManifest(**{**dict(first), **own}, parts=tuple(parts), members=dict(members))


def _shown(field: str, manifest: Manifest) -> str:
    """A field of a manifest, for a sentence."""
    if field != "image":
        return f"{field} {getattr(manifest, field)}"
    form = manifest.image_format
    numbers = ",".join(map(str, form.bands))
    return f"{form.describe()} ({numbers} of the {form.source_bands} in its source)"


def require_labels_of_each(manifest: MixedManifest, split: str) -> None:
    """Raise UserError if a dataset has no pixel of any class: its samples would teach nothing."""
    for part in manifest.parts_of(split):
        pixels, _ = _pixels(part, split, manifest.num_classes)
        if not any(pixels):
            raise UserError(
                "MSA-DATA-761",
                f"split '{split}' of dataset '{part.name}' has no pixel of a class that counts, expected some; check the label "
                "scheme, or remove the dataset from data.path",
                setting="data.path",
            )


def log_mix(manifest: MixedManifest, split: str, weights: Sequence[float]) -> None:
    """A line for each dataset: what an epoch of the mix takes of it."""
    parts = manifest.parts_of(split)
    sizes = [part.manifest.split(split).samples for part in parts]
    counts = samples_per_epoch(sizes, weights)
    for part, size, count in zip(parts, sizes, counts, strict=True):
        lacking = [name for number, name in enumerate(manifest.classes) if number not in part.train_ids]
        without = f"; it does not have {_listed(lacking)}" if lacking else ""
        epochs = f"{count / size:.3g} of its own" if weights else "each once"
        gives = f" gives {count} of the {sum(sizes)} samples of an epoch ({count / sum(sizes):.1%}, {epochs})"
        logger.info(f"data: '{part.name}'{gives if len(parts) > 1 else ' under a label scheme'}{without}")


def label_table(part: Part, num_classes: int) -> np.ndarray | None:
    """(256,) uint8: train id of the dataset to that of the mix, of `num_classes`; None where they are the same.

    With more than 255 classes the dataset's labels are of 16 bits, so (65536,), or those of the mix, so uint16.
    """
    ignored = ignore_index(num_classes)
    if part.train_ids == tuple(range(len(part.train_ids))) and part.manifest.ignore_index == ignored:
        return None
    table = np.full(part.manifest.ignore_index + 1, ignored, label_dtype(num_classes))
    table[: len(part.train_ids)] = part.train_ids
    return table


def _unique(names: Sequence[str]) -> list[str]:
    """The names, for keys and metrics; one that is there already gets its number, such as street-2."""
    plain = [safe_key(name) for name in names]
    return [name if name not in plain[:k] else f"{name}-{k + 1}" for k, name in enumerate(plain)]


def _train_ids(
    name: str,
    manifest: Manifest,
    first: str,
    manifests: Sequence[Manifest],
    classes: tuple[str, ...],
    scheme: LabelScheme | None,
) -> tuple[int, ...]:
    """Train id of the mix for each class of a dataset."""
    numbers = {other: number for number, other in enumerate(classes)}
    if {*manifest.classes} == {*classes}:  # also of a dataset that was packed with the scheme
        return tuple(numbers[own] for own in manifest.classes)
    if scheme is None:
        own, others = (
            [c for c in a if c not in b] for a, b in ((manifest.classes, classes), (classes, manifest.classes))
        )
        differences = [f"only '{who}' has {_listed(found)}" for who, found in ((name, own), (first, others)) if found]
        raise UserError(
            "MSA-DATA-760",
            f"the datasets '{first}' and '{name}' have different classes ({'; '.join(differences)}), expected the same names; "
            "write a file that says which belong together, and set data.label_scheme to it",
            setting="data.label_scheme",
        )
    elsewhere = {other for one in manifests for other in one.classes}
    found = train_ids_by_name(scheme, name, manifest.classes, "data.label_scheme", elsewhere)
    return tuple(found.get(own, ignore_index(len(classes))) for own in manifest.classes)


def _look(number: int, parts: Sequence[Part], scheme: LabelScheme | None) -> tuple[tuple[int, int, int], int]:
    """Color and id of a class: those of the first of its classes in the first dataset that has one."""
    color = scheme.classes[number].color if scheme else None
    for part in parts:
        if number in part.train_ids:
            own = _first_class(number, part, scheme)
            return color or part.manifest.palette[own], part.manifest.ids[own]
    return color or (0, 0, 0), number


def _first_class(number: int, part: Part, scheme: LabelScheme | None) -> int:
    """Where several classes of a dataset become one: that which the scheme names first."""
    for member in scheme.classes[number].members if scheme else ():
        if member in part.manifest.classes:
            return part.manifest.classes.index(member)
    return part.train_ids.index(number)


def _mixed_split(parts: Sequence[Part], split: str, num_classes: int, weights: Sequence[float]) -> SplitInfo:
    """The samples of all; the pixels of each class as often as an epoch of the mix takes them."""
    sizes = [part.manifest.split(split).samples for part in parts]
    counts = samples_per_epoch(sizes, weights)
    histogram, ignored = np.zeros(num_classes, dtype=object), Fraction(0)  # exact
    for part, size, count in zip(parts, sizes, counts, strict=True):
        counted = min(size, COUNTED_LABELS) if part.manifest.is_unpacked else size
        times = Fraction(count, counted) if len(parts) > 1 else 1
        pixels, own_ignored = _pixels(part, split, num_classes)
        histogram, ignored = histogram + np.array(pixels, dtype=object) * times, ignored + own_ignored * times
    bands = [info for part in parts if (info := part.manifest.split(split).bands)]
    return SplitInfo(
        bands=mixed_statistics(bands, counts) if bands else None,
        samples=sum(sizes),
        shards=tuple(shard for part in parts for shard in part.manifest.split(split).shards),
        histogram=tuple(map(round, histogram)),
        ignored=round(ignored),
    )


def _pixels(part: Part, split: str, num_classes: int) -> tuple[list[int], int]:
    """Pixels of each class of the mix in a split of a dataset, and those that do not count."""
    info, pixels = part.manifest.split(split), [0] * num_classes
    ignored = info.ignored
    for train_id, count in zip(part.train_ids, info.histogram, strict=True):
        if train_id == ignore_index(num_classes):
            ignored += count
        else:
            pixels[train_id] += count
    return pixels, ignored


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
