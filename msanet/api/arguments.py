"""Types of what programs pass, and options of a command as its command line has them. Imports no large library."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PathLike = str | Path
Data = PathLike | Sequence[PathLike] | Mapping[str, Any]
"""A folder or address of shards, several, or settings of the section `data`."""


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options of a command as its command line has them; None and False are not given, True has no value."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            values = value if isinstance(value, list | tuple) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words
