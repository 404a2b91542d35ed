"""How an evaluation was measured: kept in its JSON, so that figures are never shown with other weights than theirs."""

import hashlib
from pathlib import Path
from typing import Any

from msanet import versions
from msanet.config import EvaluationConfig
from msanet.evaluation.run_report import command_line

_WITHOUT_EFFECT = {"num_workers", "panels", "worst"}


def measured(settings: EvaluationConfig, step: int, weights: Path | None = None) -> dict[str, Any]:
    """What the evaluation was made with, for `write_evaluation`.

    Args:
        settings: Those that are not the defaults are kept.
        step: Of the training after which the weights were as evaluated.
        weights: Their file; None for those in memory.
    """
    return {
        "step": step,
        "weights_sha256": sha256_of(weights) if weights else None,
        "settings": settings.model_dump(mode="json", exclude_defaults=True, exclude=_WITHOUT_EFFECT),
        "command": command_line(),
        "versions": versions("msanet", "torch", "numpy"),
    }


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
