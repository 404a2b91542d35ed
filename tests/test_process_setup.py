"""Streams that are closed or break, few open files, a long path for temporary files: one sentence, or no difference at all."""

import io
import os
import resource
import subprocess
import sys
import tempfile
from errno import EINVAL, EIO
from multiprocessing import current_process
from pathlib import Path

import pytest

from conftest import REPOSITORY
from msanet import errors, files, processes
from msanet.data import loader, loader_processes, open_files
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.doctor.machine import temporary_folder
from msanet.files import atomic_file
from msanet.process_setup import raise_file_limit
from support.errors import error_codes, raises_user_error


def in_shell(redirection: str, words: str = "recipes") -> subprocess.CompletedProcess[str]:
    """A command of msanet, as a shell starts it with `redirection` at its end."""
    line = f'"{sys.executable}" -m msanet {words} {redirection}'
    return subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, cwd=REPOSITORY)


@pytest.mark.parametrize("redirection", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-", "| head -c 1", "2>&1 | true"])
def test_closed_and_broken_streams_give_no_traceback(redirection: str) -> None:
    done = in_shell(redirection)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("redirection", "is_said"), [(">&-", True), ("2>&-", True), (">&- 2>&-", False)])
def test_an_error_is_said_where_it_can_be(redirection: str, is_said: bool) -> None:
    done = in_shell(redirection, "trian")
    assert done.returncode == 2
    assert error_codes(done.stdout + done.stderr) == ["MSA-CLI-002"] * is_said


def test_output_to_a_terminal_that_is_gone_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(file: io.FileIO, data: bytes) -> int:
        raise OSError(EIO, "Input/output error")

    monkeypatch.setattr(io, "FileIO", type("Gone", (io.FileIO,), {"write": gone}))
    with open(os.devnull, "w") as file:
        lossy = processes._LossyFile(file.fileno(), "w", closefd=False)
        assert lossy.write(b"abc") == 3


def test_the_soft_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource; from msanet.process_setup import prepare_process; resource.setrlimit(7, (50, 300))\n"
        "prepare_process(); print(resource.getrlimit(7))"
    )
    assert resource.RLIMIT_NOFILE == 7
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "(300, 300)\n", done.stderr
    raise_file_limit()  # where it is as high as it can be


def test_too_many_loader_processes_for_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "file_limit", lambda: 64)
    with raises_user_error("MSA-DATA-601", mentions="8 loader processes"):
        open_files.require_open_files(workers=8, prefetch=2)
    monkeypatch.setattr(open_files, "file_limit", lambda: 1024)
    open_files.require_open_files(workers=8, prefetch=2)


def test_a_loader_looks_at_the_limit_before_it_starts_processes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShardSource(LocalStorage(shards), "val")
    monkeypatch.setattr(open_files, "file_limit", lambda: 64)
    with raises_user_error("MSA-DATA-601", mentions="8 loader processes"):
        next(loader.evaluation_loader(source, 0, 1, workers=8))


@pytest.mark.parametrize("where", ["__iter__", "__next__"])
def test_a_loader_that_reaches_the_limit_anyway_is_one_sentence(
    where: str, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise OSError(24, "Too many open files")

    own = {"__init__": lambda self, *_, **__: None, "__iter__": lambda self: self, where: fail}
    monkeypatch.setattr(loader_processes, "DataLoader", type("Full", (), own))
    with raises_user_error("MSA-FILE-601", setting="data.num_workers"):
        next(loader.evaluation_loader(ShardSource(LocalStorage(shards), "val"), 0, 1, workers=1))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(24, "Too many open files"), "MSA-FILE-601"),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "MSA-FILE-601"),
        (RuntimeError("received 0 items of ancdata"), "MSA-FILE-601"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal"), None),
        (FileNotFoundError(2, "No such file"), None),
    ],
)
def test_errors_of_the_limit_are_recognized(error: Exception, code: str | None) -> None:
    found = open_files.out_of_files(error)
    assert (found.code if found else None) == code


def test_a_limit_that_is_reached_anywhere_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), errors.user_errors():
        raise OSError(24, "Too many open files")
    assert error_codes(capsys.readouterr().err) == ["MSA-FILE-601"]


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TMPDIR, with 78 characters or more."""
    folder = tmp_path / ("x" * max(1, 77 - len(str(tmp_path))))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    return folder


def test_sockets_go_to_a_folder_with_a_short_path(long_folder: Path) -> None:
    processes.use_short_socket_paths()
    chosen = current_process()._config["tempdir"]  # type: ignore[attr-defined]
    assert len(chosen) + len("/listener-12345678") <= 107 and tempfile.gettempdir() == str(long_folder)
    assert os.path.isdir(chosen)  # and is removed at exit


def test_no_short_folder_is_one_sentence(long_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == str(long_folder))
    with raises_user_error("MSA-FILE-602", setting="TMPDIR", mentions=str(long_folder)):
        processes.use_short_socket_paths()
    (diagnostic,) = temporary_folder()
    assert diagnostic.level == "fault"


def test_doctor_says_where_sockets_go(long_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (diagnostic,) = temporary_folder()
    assert diagnostic.level == "advice" and str(long_folder) in diagnostic.text
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert temporary_folder() == []


def test_folders_that_cannot_be_synced_are_tolerated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on old CIFS and some FUSE. A file that cannot be synced is still an error."""
    fsync, refuses_files = os.fsync, False

    def sync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}") or refuses_files:
            raise OSError(EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", sync)
    with atomic_file(tmp_path / "sub" / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "sub" / "file").read_text() == "whole"
    refuses_files = True
    with pytest.raises(OSError, match="Invalid argument"):
        files.write_text(tmp_path / "other", "lost")
