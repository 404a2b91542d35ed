"""Samples that cannot be packed: each is recorded beside its shard, and all are named at once when the others are done."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from msanet.data.manifest import BAD_SAMPLES_NAME
from msanet.errors import UserError
from msanet.files import write_text
from sharding.plan import ShardPlan
from sharding.readers.reader import SamplePaths

logger = logging.getLogger(__name__)

DEFAULT_MAX_BAD_FRACTION = 0.01
ALWAYS_ALLOWED = 10
"""So many are skipped whatever their share is (but never more than half), where no fraction is given."""
_FORMAT_VERSION = 1
_LOGGED = 20
_NAMED = 5
_HOPELESS = 100
"""Where so many of a shard are bad, and more than are good, the source or the options are wrong, not a few files."""


@dataclass(frozen=True)
class BadSample:
    """What is wrong with one sample. file: its image; code, error: of the UserError."""

    split: str
    key: str
    file: str
    code: str
    error: str

    @property
    def is_lost(self) -> bool:
        """Whether the file is there and cannot be read for now (sharding.tree.SourceLost)."""
        return self.code == "MSA-PACK-006"


class BadSamples:
    """The bad samples of one shard, as the process that writes it meets them."""

    def __init__(self, plan: ShardPlan) -> None:
        self.plan, self.found = plan, list[BadSample]()

    def add(self, pair: SamplePaths, error: UserError, good: int) -> None:
        """Keep an error. Raises UserError where there is no hope for the others; good: samples that are in order so far."""
        self.found.append(BadSample(self.plan.split, pair.key, pair.image, error.code, str(error)))
        if len(self.found) >= _HOPELESS and len(self.found) > good:
            raise UserError(
                "MSA-PACK-202",
                f"{len(self.found)} of the first {len(self.found) + good} samples of shard '{self.plan.file}' are bad, the last "
                f"one since {error}; check that the source, its labels and the options belong together",
            )

    @property
    def may_be_skipped(self) -> bool:
        """Not those that cannot be read for now: with the disk or permissions put right, they are fine."""
        return not any(one.is_lost for one in self.found)

    def write(self, folder: Path) -> None:
        """Write them next to the shard, where there are any."""
        if self.found:
            content = {"format_version": _FORMAT_VERSION, "bad": [asdict(one) for one in self.found]}
            write_text(folder / bad_name(self.plan), json.dumps(content) + "\n")


def bad_name(plan: ShardPlan) -> str:
    """`train-000000.tar` -> `train-000000.bad.json`, while the dataset is incomplete."""
    return plan.file.removesuffix(".tar") + ".bad.json"


def collect_bad_samples(folder: Path, plans: Sequence[ShardPlan]) -> list[BadSample]:
    """Those of all shards, also written as one list."""
    files = [path for plan in plans if (path := folder / bad_name(plan)).is_file()]
    found = [BadSample(**one) for path in files for one in json.loads(path.read_text(encoding="utf-8"))["bad"]]
    if found:
        lines = [json.dumps({"format_version": _FORMAT_VERSION, **asdict(one)}, ensure_ascii=False) for one in found]
        write_text(folder / BAD_SAMPLES_NAME, "".join(f"{line}\n" for line in lines))
    return found


def refuse_bad_samples(bad: Sequence[BadSample], total: int, folder: Path) -> UserError:
    """The error of a packing that was to have none. folder: where the list and what was packed lie."""
    is_kept = any(folder.glob("*.tar"))
    again = f"run the same command again{f' (the others are kept in {folder})' if is_kept else ''}"
    again += "" if any(one.is_lost for one in bad) else ", or add --skip-bad"
    if len(bad) == 1:
        if not is_kept:
            (folder / BAD_SAMPLES_NAME).unlink()
        return UserError(bad[0].code, f"{bad[0].error}, then {again}")
    for one in bad[:_LOGGED]:
        logger.error(f"{one.error} [{one.code}]")
    named = ", ".join(repr(one.file) for one in bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
    return UserError(
        "MSA-PACK-201",
        f"{len(bad)} of {total} samples cannot be packed ({named}; all in '{folder / BAD_SAMPLES_NAME}'), expected none; fix "
        f"or replace them and {again}",
    )


def allowed_bad(total: int) -> float:
    """Most bad samples of `total` that --skip-bad accepts where no fraction is given."""
    return max(DEFAULT_MAX_BAD_FRACTION * total, min(ALWAYS_ALLOWED, total / 2))


def check_bad_fraction(bad: Sequence[BadSample], total: int, most: float | None, folder: Path) -> None:
    """Raise UserError if more samples are bad than --max-bad-fraction allows, or all of a split."""
    allowed = allowed_bad(total) if most is None else most * total
    if len(bad) > allowed:
        raise UserError(
            "MSA-PACK-203",
            f"{len(bad)} of {total} samples ({len(bad) / total:.1%}) cannot be packed, expected at most {int(allowed)}; "
            f"see '{folder / BAD_SAMPLES_NAME}', and fix them or raise --max-bad-fraction",
            setting="--max-bad-fraction",
        )
    if bad:
        logger.warning(
            f"skipped {len(bad)} of {total} samples, which cannot be packed; they are listed in {BAD_SAMPLES_NAME}"
        )
