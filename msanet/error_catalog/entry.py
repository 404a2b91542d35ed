"""What the catalog says of a code."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One error.

    Args:
        cause: What has happened, in one sentence.
        fix: What to do about it, in one or two sentences.
    """

    cause: str
    fix: str
