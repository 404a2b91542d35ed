"""A label scheme: classes of a dataset joined, renamed, chosen or ignored by name, for any reader."""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msanet.data.manifest import Line
from msanet.datasets import DATASETS, IGNORE_INDEX, DatasetSpec
from msanet.documents import parse_yaml
from msanet.errors import UserError, nearest
from sharding.readers.mask_reader import reader_of
from sharding.readers.reader import DatasetListing

_EXAMPLE = "{name: street, classes: [{name: vehicle, from: [car, truck]}, {name: person}], others: ignore}"
_SHOWN = 8
_Byte = Annotated[int, Field(strict=True, ge=0, le=255)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Class(_Record):
    """names: those of the dataset that make up the class; empty: the one of the same name."""

    name: Line
    names: Annotated[tuple[Line, ...], Field(alias="from")] = ()
    color: tuple[_Byte, _Byte, _Byte] | None = None

    @property
    def members(self) -> tuple[str, ...]:
        return self.names or (self.name,)


class LabelScheme(_Record):
    """The file given with --label-scheme. ignore: classes that do not count. others: what becomes of all that are not named."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    classes: Annotated[tuple[_Class, ...], Field(min_length=1, max_length=IGNORE_INDEX - 1)]
    ignore: tuple[Line, ...] = ()
    others: Literal["refuse", "ignore"] = "refuse"


def add_scheme_option(parser: argparse.ArgumentParser) -> None:
    """--label-scheme, for datasets of all readers."""
    parser.add_argument(
        "--label-scheme",
        type=Path,
        metavar="FILE",
        help=f"YAML or JSON that joins, renames or leaves out classes of the dataset by name, such as: {_EXAMPLE}",
    )


def read_scheme(path: Path) -> LabelScheme:
    """The scheme in a file. Raises UserError where it is not one."""
    try:
        return LabelScheme.model_validate(parse_yaml(path.read_bytes(), text_keys=("name",)))
    except ValidationError as error:
        first = error.errors()[0]
        words = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}"
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())[:100]
    raise UserError(
        "MSA-PACK-784",
        f"label scheme '{path}' cannot be used ({words}), expected such as: {_EXAMPLE}",
        setting="--label-scheme",
    )


def apply_scheme(found: DatasetListing, scheme: LabelScheme) -> DatasetListing:
    """The same samples with the classes of the scheme. Raises UserError where it does not fit the dataset's classes."""
    place = _places(found.spec, scheme)
    spec = DatasetSpec(
        name=scheme.name,
        classes=tuple(row.name for row in scheme.classes),
        palette=tuple(
            row.color or found.spec.palette[found.spec.classes.index(row.members[0])] for row in scheme.classes
        ),
        train_ids={
            value: IGNORE_INDEX if train_id == IGNORE_INDEX else place.get(found.spec.classes[train_id], IGNORE_INDEX)
            for value, train_id in found.spec.train_ids.items()
        },
    )
    # What colors of masks mean is said by the dataset's own classes.
    return replace(found, spec=spec, decode=found.decode or reader_of(found.spec))


def _places(spec: DatasetSpec, scheme: LabelScheme) -> dict[str, int]:
    """{class of the dataset: train id of the scheme}."""
    named = [*(member for row in scheme.classes for member in row.members), *scheme.ignore]
    if unknown := [name for name in named if name not in spec.classes]:
        known = nearest(unknown[0], [*spec.classes])
        raise _misfit(f"names the class '{unknown[0]}', which {spec.name} does not have; {known}")
    for what, names in (("class", named), ("new class", [row.name for row in scheme.classes])):
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise _misfit(f"has the {what} '{name}' {count} times, expected once; remove the others")
    if scheme.name in DATASETS or scheme.name == spec.name:
        raise _misfit(f"has the name '{scheme.name}' of a dataset, expected a name of its own; choose another")
    left = [name for name in spec.classes if name not in named]
    if left and scheme.others == "refuse":
        shown = f"{', '.join(left[:_SHOWN])}{', ...' * (len(left) > _SHOWN)}"
        raise _misfit(
            f"does not name {len(left)} of the {spec.num_classes} classes of {spec.name} ({shown}), expected all; add them to a "
            "class or to ignore, or say `others: ignore`"
        )
    return {member: number for number, row in enumerate(scheme.classes) for member in row.members}


def _misfit(words: str) -> UserError:
    return UserError("MSA-PACK-785", f"the label scheme {words}", setting="--label-scheme")
