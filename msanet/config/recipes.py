"""Recipes and sweeps that are shipped, found by name: `camvid`, `msanet/voc`.

A recipe begins with comment lines: what it is, `# Needs: ...` and `# Gives: ...`, one line each.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from msanet.errors import UserError, nearest

_PACKAGE = Path(__file__).parent.parent
RECIPES, SWEEPS = _PACKAGE / "recipes", _PACKAGE / "sweep_recipes"


@dataclass(frozen=True)
class Recipe:
    """A shipped file. needs: dataset and hardware; gives: the expected result, and who measured it."""

    name: str
    path: Path
    summary: str
    needs: str
    gives: str


def list_recipes(folder: Path = RECIPES) -> list[Recipe]:
    """All recipes, or with SWEEPS all sweeps, by name."""
    return [_read(folder, path) for path in sorted(folder.rglob("*.yaml"))]


def find_config(name: str | Path, relative_to: Path | None = None, folder: Path = RECIPES) -> Path:
    """The file that a path or the name of a recipe means. Raises UserError where there is none.

    relative_to: the folder of the file in which it was written; None: the command line. folder: where shipped files are.
    """
    path = relative_to / name if relative_to else Path(name)
    if os.path.isfile(path):  # False also for what cannot be a path
        return path
    known = {found.relative_to(folder).with_suffix("").as_posix(): found for found in sorted(folder.rglob("*.yaml"))}
    found = known.get(str(name).removesuffix(".yaml"))
    if found is None:
        kind = "sweep" if folder == SWEEPS else "recipe"
        shown = str(name) if len(str(name)) < 200 else f"{str(name)[:200]}..."
        message = f"config '{shown}' is neither a file nor a {kind}; {nearest(str(name)[:200], list(known))}"
        raise UserError("MSA-CONFIG-001", message, setting="config" if relative_to else "--config")
    return found


def find_sweep(name: str | Path) -> Path:
    """The file that is meant by a path or by the name of a sweep. Raises UserError where there is none."""
    return find_config(name, folder=SWEEPS)


def _read(folder: Path, path: Path) -> Recipe:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    name = path.relative_to(folder).with_suffix("").as_posix()
    return Recipe(name, path, lines[0] if lines else "", _entry(lines, "Needs"), _entry(lines, "Gives"))


def _entry(lines: list[str], word: str) -> str:
    return next((line.partition(": ")[2] for line in lines if line.startswith(f"{word}: ")), "")
