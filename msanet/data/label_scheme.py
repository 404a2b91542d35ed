"""A label scheme: classes of datasets joined, renamed, chosen or ignored by name, in packing and in training."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from msanet.data.manifest import Line
from msanet.datasets import DATASETS, IGNORE_INDEX
from msanet.documents import parse_yaml
from msanet.errors import UserError, nearest

SCHEME_OPTION = "--label-scheme"
SCHEME_EXAMPLE = "{name: street, classes: [{name: vehicle, from: [car, truck]}, {name: person}], others: ignore}"
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
    """A scheme's file. ignore: classes that do not count. others: what happens to classes that are not named."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    classes: Annotated[tuple[_Class, ...], Field(min_length=1, max_length=IGNORE_INDEX - 1)]
    ignore: tuple[Line, ...] = ()
    others: Literal["refuse", "ignore"] = "refuse"


def read_scheme(path: Path, setting: str = SCHEME_OPTION) -> LabelScheme:
    """The scheme in a file. setting: that names the file. Raises UserError where it is not one."""
    try:
        return LabelScheme.model_validate(parse_yaml(path.read_bytes(), text_keys=("name",)))
    except ValidationError as error:
        first = error.errors()[0]
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].lower()
        words = f"{'.'.join(map(str, first['loc'])) or 'it'}: {what}"
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
    except ValueError as error:
        words = " ".join(str(error).split())[:100]
    raise UserError(
        "MSA-PACK-784",
        f"label scheme '{path}' cannot be used ({words}), expected such as: {SCHEME_EXAMPLE}",
        setting=setting,
    )


def train_ids_by_name(
    scheme: LabelScheme,
    dataset: str,
    classes: Collection[str],
    setting: str = SCHEME_OPTION,
    elsewhere: Collection[str] = (),
) -> dict[str, int]:
    """{class of a dataset: train id of the scheme}, without those that are ignored.

    Args:
        scheme: The scheme.
        dataset: The dataset's name.
        classes: Those of the dataset.
        setting: That names the scheme's file.
        elsewhere: Classes of the other datasets that are trained on, which the scheme may name too.

    Raises:
        UserError: The scheme does not fit the classes.
    """

    def misfit(words: str) -> UserError:
        return UserError("MSA-PACK-785", f"the label scheme {words}", setting=setting)

    named = [*(member for row in scheme.classes for member in row.members), *scheme.ignore]
    if unknown := [name for name in named if name not in classes and name not in elsewhere]:
        known = nearest(unknown[0], [*classes, *elsewhere])
        raise misfit(f"names the class '{unknown[0]}', which {dataset} does not have; {known}")
    for what, names in (("class", named), ("new class", [row.name for row in scheme.classes])):
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise misfit(f"has the {what} '{name}' {count} times, expected once; remove the others")
    if scheme.name in DATASETS or scheme.name == dataset:
        raise misfit(f"has the name '{scheme.name}' of a dataset, expected a name of its own; choose another")
    left = [name for name in classes if name not in named]
    if left and scheme.others == "refuse":
        shown = f"{', '.join(left[:_SHOWN])}{', ...' * (len(left) > _SHOWN)}"
        raise misfit(
            f"does not name {len(left)} of the {len(classes)} classes of {dataset} ({shown}), expected all; add them to a class "
            "or to ignore, or set `others: ignore`"
        )
    numbers = {member: number for number, row in enumerate(scheme.classes) for member in row.members}
    return {name: numbers[name] for name in classes if name in numbers}
