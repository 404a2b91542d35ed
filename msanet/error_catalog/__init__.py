"""Every error code with its cause and its fix, in one YAML file for each area; docs/errors.md is generated from them.

No command reads this: the docs and the tests do.
"""

from pathlib import Path
from typing import NamedTuple

from msanet.documents import parse_yaml

_FILES = (
    "cli", "config", "files", "pack", "data", "model", "train", "checkpoint", "distributed", "evaluation", "inference",
    "hub", "score", "sweep", "demo", "api",
)  # fmt: skip


class Entry(NamedTuple):
    """What has happened, in one sentence, and what to do about it, in one or two."""

    cause: str
    fix: str


def _read(name: str) -> tuple[str, tuple[str, dict[str, Entry]]]:
    tree = parse_yaml((Path(__file__).parent / f"{name}.yaml").read_bytes())
    return tree["area"], (tree["title"], {code: Entry(**entry) for code, entry in tree["errors"].items()})


AREAS = dict(map(_read, _FILES))
"""Prefix -> (title, entries by code)."""

CATALOG: dict[str, Entry] = {code: entry for _, entries in AREAS.values() for code, entry in entries.items()}
