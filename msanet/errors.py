"""Errors that are the user's to mend, and how a command ends on them."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from msanet.secrets import without_secrets

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """Bad input: one sentence that says what was found, what was expected and what to do. Everything else is our bug."""


@contextmanager
def user_errors(may_speak: Callable[[str], bool] = lambda sentence: True) -> Iterator[None]:
    """End the process with exit code 2 and one sentence, without a traceback, where the input is at fault.

    may_speak: whether to print this sentence (the ranks of a job agree on one that does). What a terminal's encoding cannot
    show, in a class's or a file's name, is printed escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        if error.errno is None or error.errno not in _ADVICE or error.filename is None:
            raise
        sentence = f"'{error.filename}': {os.strerror(error.errno).lower()}; {_ADVICE[error.errno]}"
    else:
        return
    if may_speak(sentence):
        print(f"error: {without_secrets(sentence)}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_USER_ERROR)


_ADVICE = {
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EROFS: "choose a place on a file system that can be written",
    errno.ENOSPC: "free some space or choose another disk, then run the same command again",
    errno.EDQUOT: "free some space or choose another disk, then run the same command again",
    errno.ENOTDIR: "a part of this path is a file, expected a folder; correct the path",
    errno.ENOENT: "check the path",
    errno.EISDIR: "this is a folder, expected a file; correct the path",
    errno.EEXIST: "a part of this path is a file, expected a folder; correct the path",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'X'?` for a typo, with all known words where none is near. For the end of an error's sentence."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"
