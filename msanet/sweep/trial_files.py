"""What a sweep adds to the run folder of a trial: its parameters, how it ended, and which validations were reported.

RUN/trial_params.json   the trial's parameters
RUN/outcome.json        how it ended; absent as long as it has not
RUN/reported_step       step of the last validation that Ray Tune has got
RUN/published/          checkpoints that other trials may copy (sweep.searcher=pbt)
RUN/ranks/<rank>.log    output of each rank
RUN/lock                locked as long as rank 0 runs
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from msanet.errors import UserError
from msanet.files import write_text
from msanet.sweep.space import TrialParams

OUTCOME_FILE, PARAMS_FILE = "outcome.json", "trial_params.json"
F = TypeVar("F", bound="VersionedFile")


class VersionedFile(BaseModel):
    """A small JSON file with the version of its format."""

    format_version: Literal[1] = 1

    def write(self, path: Path) -> None:
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls: type[F], path: Path) -> F:
        """Read it. Raises UserError where another version of msanet, or another program, has written it."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError):
            expected = cls.model_fields["format_version"].default
            raise UserError(
                "MSA-SWEEP-014",
                f"'{path}' is damaged or was written by another version of msanet, expected format_version {expected}; choose "
                "another sweep.folder",
                setting="sweep.folder",
            ) from None


class Outcome(VersionedFile):
    """How a trial has ended.

    Args:
        status: done: by itself. stopped: by the scheduler. failed: by an error.
        error: Its sentence.
        seconds: Time that the trial took, all attempts together, as Ray Tune counts it.
    """

    status: Literal["done", "stopped", "failed"]
    error: str = ""
    seconds: float | None = None


class ParamsFile(VersionedFile):
    """A trial's parameters."""

    params: TrialParams


def write_failure(run: Path, error: str) -> None:
    """Record that an attempt has failed, and why."""
    Outcome(status="failed", error=error).write(run / OUTCOME_FILE)


def read_outcome(run: Path) -> Outcome | None:
    """How the trial in this folder has ended; None as long as it has not."""
    file = run / OUTCOME_FILE
    return Outcome.read(file) if file.is_file() else None


def finalize_outcome(run: Path, default: Outcome, seconds: float | None) -> None:
    """Record that Ray Tune is done with a trial; `default` holds unless the trial has recorded an outcome itself."""
    outcome = (read_outcome(run) or default).model_copy(update={"seconds": seconds})
    outcome.write(run / OUTCOME_FILE)


def write_params(run: Path, params: TrialParams) -> None:
    """Record a trial's parameters."""
    ParamsFile(params=params).write(run / PARAMS_FILE)


def read_params(run: Path) -> TrialParams | None:
    """The parameters of the trial in this folder; None if it is not one."""
    file = run / PARAMS_FILE
    return ParamsFile.read(file).params if file.is_file() else None
