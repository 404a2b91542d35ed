"""What is wrong with the files that `msanet score` was given: all of it at once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from msanet.errors import UserError

logger = logging.getLogger(__name__)

_NAMED = 5


@dataclass(frozen=True)
class Kind:
    """code: of its error. title: what it is, in a count; advice: what to do."""

    code: str
    title: str
    advice: str
    setting: str = "--predictions"


MISSING = Kind("MSA-SCORE-001", "images without a prediction", "add the missing ones, or choose another --split")
DOUBLED = Kind("MSA-SCORE-002", "images with several predictions", "keep one file for each image")
WRONG_SIZE = Kind(
    "MSA-SCORE-003", "predictions of another size than their label map", "resize them without interpolation"
)
UNREADABLE = Kind("MSA-SCORE-004", "files that cannot be read", "replace them")
WRONG_VALUES = Kind(
    "MSA-SCORE-005",
    "files with values or colors of no class",
    "fix them, or choose --values, --truth-values or --classes",
    "--values",
)


@dataclass(frozen=True)
class Problem:
    """One file's. name: of the image or file; text: what was found and expected, if the name does not say it."""

    kind: Kind
    name: str
    text: str = ""


def refuse(problems: Sequence[Problem], total: int) -> None:
    """Raise UserError if there are problems; those of several kinds are logged by kind before. total: images of the split."""
    kinds = list(dict.fromkeys(problem.kind for problem in problems))
    sentences = {kind: _sentence([one for one in problems if one.kind == kind], total) for kind in kinds}
    if len(kinds) == 1:
        kind = kinds[0]
        raise UserError(kind.code, sentences[kind], setting=kind.setting)
    for kind, sentence in sentences.items():
        logger.error(f"{sentence} [{kind.code}]")
    if kinds:
        counts = ", ".join(f"{sum(one.kind == kind for one in problems)} {kind.title}" for kind in kinds)
        raise UserError(
            "MSA-SCORE-006",
            f"found {counts}, expected none ({total} images); nothing was scored; fix them as said above",
        )


def _sentence(own: Sequence[Problem], total: int) -> str:
    kind = own[0].kind
    shown = "; ".join(f"{one.name}: {one.text}" if one.text else f"'{one.name}'" for one in own[:_NAMED])
    more = f" and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
    return f"found {len(own)} {kind.title}, expected none ({total} images): {shown}{more}; {kind.advice}"
