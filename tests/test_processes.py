"""What a process reports when the one that created it is gone."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from msanet import processes
from msanet.distributed.process_exit import exit_now


@pytest.mark.parametrize(
    ("is_gone", "error", "is_reported"),
    [
        (True, ConnectionResetError("reset"), False),
        (True, ValueError("seven"), True),
        (False, ConnectionResetError("reset"), True),
    ],
)
def test_a_connection_that_breaks_because_the_creator_is_gone_is_not_reported(
    is_gone: bool,
    error: Exception,
    is_reported: bool,
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
    assert (type(error).__name__ in capsys.readouterr().err) == is_reported


def test_a_command_leaves_no_folder_of_multiprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pymp-x"
    folder.mkdir()
    monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "tempdir", str(folder))
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as end:
        exit_now(7)
    assert end.value.code == 7 and not folder.exists()
    folder.mkdir()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    with pytest.raises(SystemExit):
        exit_now(7)
    assert folder.exists(), "of the parent"
