"""What a sweep adds to the run folder of a trial.

RUN/trial_params.json   the trial's parameters
RUN/outcome.json        how it ended; absent until then
RUN/reported_step       step of the last validation that Ray Tune has got
RUN/published/          checkpoints that other trials may copy (sweep.searcher=pbt)
RUN/ranks/<rank>.log    output of each rank
RUN/lock                locked while rank 0 runs
"""

from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from msanet.errors import UserError
from msanet.files import write_text
from msanet.sweep.space import TrialParams

F = TypeVar("F", bound="TrialFile")


class TrialFile(BaseModel):
    """A small JSON file with the version of its format."""

    NAME: ClassVar[str]
    format_version: Literal[1] = 1

    def save(self, folder: Path) -> None:
        """Write it under its name."""
        write_text(folder / self.NAME, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls: type[F], folder: Path) -> F | None:
        """What the folder has of it. Raises UserError where another version of msanet, or another program, has written it."""
        path = folder / cls.NAME
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (ValidationError, UnicodeDecodeError):
            found = f"'{path}' is damaged or was written by another version of msanet"
            expected = f"expected format_version {cls.model_fields['format_version'].default}"
            message = f"{found}, {expected}; choose another sweep.folder"
            raise UserError("MSA-SWEEP-014", message, setting="sweep.folder") from None


class Outcome(TrialFile):
    """How a trial has ended: by itself, by the scheduler or by an error. seconds: all attempts together, as Ray counts it."""

    NAME = "outcome.json"
    status: Literal["done", "stopped", "failed"]
    error: str = ""
    seconds: float | None = None


class Params(TrialFile):
    """A trial's parameters."""

    NAME = "trial_params.json"
    params: TrialParams


class CheckpointReference(TrialFile):
    """What Ray stores as a trial's checkpoint: where it is. A copy of it would take time and twice the space."""

    NAME = "checkpoint.json"
    run: Path
    step: int
