"""Errors that the user can fix, each with a stable code, and how a command ends on them."""

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
    """Bad input: one sentence that says what was found, what was expected and what to do. Everything else is our bug.

    Args:
        code: Stable code such as `MSA-DATA-012`, listed with cause and fix in `msanet.error_catalog` and docs/errors.md.
        message: The sentence. Its wording may change from version to version, the code does not.
        setting: Dotted name of the setting, or the option of the command, that is at fault, if there is one.
    """

    def __init__(self, code: str, message: str, setting: str | None = None) -> None:
        super().__init__(code, message, setting)  # so that it pickles: errors cross process boundaries
        self.code, self.message, self.setting = code, message, setting

    def __str__(self) -> str:
        return self.message


_error_stream = ["stderr"]
"""Name of the standard stream that gets a command's error."""


def print_errors_to_stdout() -> None:
    """A shell has closed stderr (`2>&-`): what `user_errors` prints goes to stdout."""
    _error_stream[0] = "stdout"


@contextmanager
def user_errors(should_print: Callable[[str], bool] = lambda sentence: True) -> Iterator[None]:
    """End the process with exit code 2 and one sentence, without a traceback, where the input is at fault.

    Args:
        should_print: Whether this process prints this sentence; the ranks of a job agree on one that does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal's encoding cannot show is printed escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        sentence = f"{error} [{error.code}]"
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            sentence = f"{TOO_MANY_OPEN_FILES} [MSA-FILE-601]"
        elif error.errno is None or error.errno not in _OS_ERRORS or error.filename is None:
            raise
        else:
            code, advice = _OS_ERRORS[error.errno]
            sentence = f"'{error.filename}': {os.strerror(error.errno).lower()}; {advice} [{code}]"
    else:
        return
    if should_print(sentence):
        print(f"error: {without_secrets(sentence)}", file=getattr(sys, _error_stream[0]), flush=True)
    raise SystemExit(EXIT_USER_ERROR)


TOO_MANY_OPEN_FILES = (
    "too many open files for the limit of this process; raise it (`ulimit -n 4096` before the start, docker: --ulimit nofile), "
    "or lower the number of workers"
)
_PERMISSIONS = "choose a path that you may read and write, or change its permissions"
_SPACE = "free some space or choose another disk, then run the same command again"
_OS_ERRORS = {
    errno.EACCES: ("MSA-FILE-001", _PERMISSIONS),
    errno.EPERM: ("MSA-FILE-001", _PERMISSIONS),
    errno.EROFS: ("MSA-FILE-002", "choose a path on a file system that can be written"),
    errno.ENOSPC: ("MSA-FILE-003", _SPACE),
    errno.EDQUOT: ("MSA-FILE-003", _SPACE),
    errno.ENOTDIR: ("MSA-FILE-004", "a part of this path is a file, expected a folder; fix the path"),
    errno.EEXIST: ("MSA-FILE-004", "a part of this path is a file, expected a folder; fix the path"),
    errno.ENOENT: ("MSA-FILE-005", "check the path"),
    errno.EISDIR: ("MSA-FILE-006", "this is a folder, expected a file; fix the path"),
    errno.ENAMETOOLONG: ("MSA-FILE-007", "choose a shorter name"),
}


def nearest(word: str, known: list[str]) -> str:
    """`did you mean 'X'?` where a known word is near, else all known words: the end of an error's sentence."""
    close = get_close_matches(word, known, n=1, cutoff=0.75)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(known)}"
