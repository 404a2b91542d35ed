"""Errors in tests are matched by code and setting, not by their sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from msanet.errors import UserError


@contextmanager
def raises_user_error(
    code: str, setting: str | None = None, mentions: str | None = None
) -> Iterator[pytest.ExceptionInfo]:
    """Like pytest.raises, for a UserError with this code; `mentions`: a value (a name, a number) that its sentence holds."""
    with pytest.raises(UserError) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code}: {error}"
    if setting is not None:
        assert error.setting == setting, f"{error.setting}: {error}"
    if mentions is not None:
        assert mentions in str(error), str(error)


def error_codes(output: str) -> list[str]:
    """The codes of the errors in what a command printed, in order."""
    return re.findall(r"^.*\berror: .*\[(MSA-[A-Z]+-\d{3})\]$", output, re.MULTILINE)
