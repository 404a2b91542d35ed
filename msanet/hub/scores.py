"""Which evaluations belong to weights that are pushed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msanet.errors import UserError
from msanet.evaluation.measurement import sha256_of
from msanet.models.io import ModelMetadata
from msanet.run_layout import RunLayout


@dataclass(frozen=True)
class Scores:
    """An evaluation of the weights: its JSON's content, and its files (JSON, and the counts of every image)."""

    content: dict[str, Any]
    files: tuple[Path, ...]


def find_scores(folder: Path, weights: Path, metadata: ModelMetadata) -> tuple[Scores, ...]:
    """The evaluations in a folder that are of these weights, by name of their split.

    Those of `msanet evaluate` know the hash of the weights; validations of a training, which had them in memory, the step.

    Raises:
        UserError: There is none.
    """
    layout, found, others, digest = RunLayout(folder), list[Scores](), list[str](), ""
    for path in sorted(folder.glob(layout.evaluation("*").name)):
        content = _read(path)
        origin = content.get("measured") or {}
        digest = digest or sha256_of(weights)
        known = origin.get("weights_sha256")
        is_of_these = known == digest if known else origin.get("step") == metadata.step
        if is_of_these and not content.get("num_missing") and not content.get("num_duplicate"):
            counts = layout.per_image_counts(str(content.get("split")))
            found.append(Scores(content, (path, *([counts] if counts.is_file() else []))))
        else:
            step = f"of step {origin['step']}" if "step" in origin else "which does not say of which weights it is"
            others.append(f"{path.name} {step}")
    if not found:
        there = f"only {', '.join(others)}" if others else "no evaluation-<split>.json"
        raise UserError(
            "MSA-HUB-007",
            f"'{folder}' has {there}, expected an evaluation of the weights of step {metadata.step}; run msanet evaluate, or add "
            "--no-scores",
            setting="--no-scores",
        )
    return tuple(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(content, dict) and isinstance(content.get("measured") or {}, dict)
    except (ValueError, RecursionError, AssertionError):
        raise UserError(
            "MSA-HUB-007",
            f"'{path}' is damaged, expected the JSON of an evaluation; evaluate again",
            setting="--no-scores",
        ) from None
    return content
