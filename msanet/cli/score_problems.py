"""What is wrong with the files that `msanet score` was given: all of it at once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from msanet.errors import UserError

logger = logging.getLogger(__name__)

_NAMED = 5


@dataclass(frozen=True)
class Kind:
    """code: of its error. found: what images have, in a count of them; advice: what to do."""

    code: str
    found: str
    advice: str
    setting: str = "--predictions"


MISSING = Kind("MSA-SCORE-001", "no prediction", "add the missing ones, or choose another --split")
DOUBLED = Kind("MSA-SCORE-002", "several predictions", "keep one file for each image")
WRONG_SIZE = Kind("MSA-SCORE-003", "a map of another size than the label map", "resize without interpolation of values")
UNREADABLE = Kind("MSA-SCORE-004", "a file that cannot be read", "replace it")
WRONG_VALUES = Kind(
    "MSA-SCORE-005",
    "values or colors of no class",
    "fix them, or choose --values, --truth-values or --classes",
    "--values",
)


@dataclass(frozen=True)
class Problem:
    """One of an image. text: its key or file, and what was found where that is not all."""

    kind: Kind
    text: str


def refuse(problems: Sequence[Problem], total: int) -> None:
    """Raise UserError if there are problems; those of several kinds are logged by kind before. total: images of the split."""
    kinds = list(dict.fromkeys(problem.kind for problem in problems))
    own = {kind: [one.text for one in problems if one.kind == kind] for kind in kinds}
    if len(kinds) == 1:
        kind = kinds[0]
        raise UserError(kind.code, _sentence(kind, own[kind], total), setting=kind.setting)
    for kind in kinds:
        logger.error(f"{_sentence(kind, own[kind], total)} [{kind.code}]")
    if kinds:
        counts = ", ".join(f"{kind.found} ({len(own[kind])})" for kind in kinds)
        message = f"images have {counts}, expected one prediction like its label map for each of {total}; fix what is said above"
        raise UserError("MSA-SCORE-006", message, setting="--predictions")


def _sentence(kind: Kind, texts: Sequence[str], total: int) -> str:
    shown = "; ".join(texts[:_NAMED]) + (f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else "")
    return f"{len(texts)} of {total} images have {kind.found}, expected none: {shown}; {kind.advice}"
