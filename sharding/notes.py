"""What packing did to files that their owner should know, said once for each kind: the kind, a file, how many others."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msanet.errors import UserError

logger = logging.getLogger(__name__)

Notes = dict[str, tuple[str, int]]
"""{what was done: (name of the first file, number of files)}."""

_taken: Notes = {}
_collected: list[list[UserError]] = []


def note(text: str, name: str) -> None:
    """Remember, in this process, that `text` was done to the file `name`."""
    first, count = _taken.get(text, (name, 0))
    _taken[text] = first, count + 1


def take_notes() -> Notes:
    """What was noted in this process since the last call."""
    taken = _taken.copy()
    _taken.clear()
    return taken


def add_notes(notes: Notes, more: Mapping[str, tuple[str, int]]) -> None:
    """Add those of a further shard to `notes`."""
    for text, (name, count) in more.items():
        first, before = notes.get(text, (name, 0))
        notes[text] = first, before + count


def log_notes(notes: Mapping[str, tuple[str, int]]) -> None:
    """One line of the log for each kind."""
    for text, (name, count) in notes.items():
        logger.warning(described(text, name, count))


def described(text: str, name: str, count: int) -> str:
    """A note as a sentence. name: the first file; count: files in all."""
    others = "" if count == 1 else f" and {count - 1} other file{'s' * (count > 2)}"
    return f"{text}: '{name}'{others}"


def refuse(error: UserError) -> None:
    """Raise an error of the listing that the rest can be read without; in `collected_refusals` only keep it."""
    if not _collected:
        raise error
    _collected[-1].append(error)


@contextmanager
def collected_refusals() -> Iterator[list[UserError]]:
    """The errors of `refuse` in the block, which reads on: for a check that names everything at once."""
    _collected.append([])
    try:
        yield _collected[-1]
    finally:
        _collected.pop()
