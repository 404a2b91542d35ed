"""What processes outlive, and what they say then."""

import multiprocessing
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from msanet import processes


@pytest.mark.parametrize(
    ("is_gone", "error", "is_said"),
    [
        (True, ConnectionResetError("reset"), False),
        (True, ValueError("seven"), True),
        (False, ConnectionResetError("reset"), True),
    ],
)
def test_a_connection_that_breaks_with_the_creator_is_no_error(
    is_gone: bool,
    error: Exception,
    is_said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentinel, creator = os.pipe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=sentinel, pid=1))
    monkeypatch.setattr(os, "_exit", lambda code: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    processes.exit_with_parent()
    if is_gone:
        os.close(creator)
    sys.excepthook(type(error), error, None)
    if not is_gone:
        os.close(creator)
    for thread in threading.enumerate():
        if thread.name == "parent-watch":
            thread.join()
    os.close(sentinel)
    assert (type(error).__name__ in capsys.readouterr().err) == is_said
