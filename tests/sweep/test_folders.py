"""What a sweep needs of a machine: a folder that can be made, a home for Ray, a short path for sockets, a reachable cluster."""

import importlib.util
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from msanet.cli import sweep as command
from msanet.sweep import cluster
from msanet.sweep.folders import make_sweep_folder, ray_folders
from support.errors import raises_user_error


def test_a_folder_that_cannot_be_made_is_refused_before_ray_starts(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_run", lambda job: 0)
    (tmp_path / "file").touch()
    words = ["--config", "demo", f"data.path={shards}", "--recipe", "demo"]
    for folder in (tmp_path / "file", tmp_path / "file" / "sweep", Path("/proc/sweep")):
        with raises_user_error("MSA-SWEEP-601", setting="sweep.folder", mentions=str(folder)):
            command.main([*words, f"sweep.folder={folder}"])
    assert command.main([*words, f"sweep.folder={tmp_path / 'new' / 'sweep'}"]) == 0
    assert (tmp_path / "new" / "sweep").is_dir()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with raises_user_error("MSA-SWEEP-601", setting="sweep.folder"):
        make_sweep_folder(tmp_path)


@pytest.mark.parametrize("home", ["/proc/nobody", "", "relative"])
def test_without_a_usable_home_ray_gets_one(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    with ray_folders():
        chosen = Path.home()
        (chosen / ".ray").mkdir()
    assert os.environ["HOME"] == home and not chosen.exists()


def test_a_usable_home_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with ray_folders():
        assert Path.home() == tmp_path


@pytest.mark.parametrize("length", [60, 78])
def test_sockets_of_ray_go_to_a_folder_with_a_short_path(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = Path("/tmp") / ("x" * (length - 5))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with ray_folders():
        assert len(os.environ["RAY_TMPDIR"]) < 30
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray[tune] is not installed")
def test_a_cluster_that_cannot_be_reached_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(address: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout <= 10
        raise TimeoutError("timed out")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    started = time.monotonic()
    with raises_user_error("MSA-SWEEP-003", setting="--address", mentions="refused"):
        cluster._join(f"127.0.0.1:{closed}")
    monkeypatch.setattr(socket, "create_connection", never)
    with raises_user_error("MSA-SWEEP-003", setting="--address", mentions="timed out"):
        cluster._join("192.0.2.77:6379")
    assert time.monotonic() - started < 15
