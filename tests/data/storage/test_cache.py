"""The cache of a node: each thing made once, never more than the bound, never wrong bytes, whatever is killed or full."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from msanet import logs
from msanet.data.storage import cache as cache_module
from msanet.data.storage.cache import NodeCache, cache_folder
from msanet.errors import UserError
from support.errors import raises_user_error

SIZE = 10_000
STORED = SIZE + 32


def content(number: int, size: int = SIZE) -> bytes:
    return bytes([number % 251]) * size


def never() -> bytes:
    raise AssertionError("it was made again")


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "entries").iterdir()}


def bytes_used(folder: Path) -> int:
    return sum(path.stat().st_size for place in ("entries", "partial") for path in (folder / place).iterdir())


def noted(folder: Path) -> int:
    return int((folder / "total").read_text().split()[2])


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has NodeCache, Path, time, sys and `folder`, its first argument."""
    head = "import sys, time; from pathlib import Path; from msanet.data.storage.cache import NodeCache; "
    head += "folder = Path(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    return output


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.01)


def test_things_are_made_once_and_last(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    assert bytes(cache.get("a", lambda: content(1))) == content(1)
    assert bytes(cache.get("a", never)) == content(1)
    assert bytes(NodeCache(tmp_path / "c", 10**6).get("a", never)) == content(1)
    assert bytes(pickle.loads(pickle.dumps(cache)).get("a", never)) == content(1)
    assert bytes(cache.get("empty", lambda: b"")) == bytes(cache.get("empty", never)) == b""
    assert cache.has("a") and not cache.has("b")
    assert cache.get("a", never).readonly and cache.get("b", lambda: bytearray(3)).readonly
    assert not list((tmp_path / "c" / "partial").iterdir())
    assert oct((tmp_path / "c").stat().st_mode)[-3:] == "700"


def test_forgotten_things_are_made_again(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    assert cache.invalidate("a") and not cache.invalidate("a")
    assert noted(tmp_path / "c") == 0
    assert bytes(cache.get("a", lambda: content(2))) == content(2)


@pytest.mark.parametrize("key", ["", "..", "a/b", "ä", "a b", "a" * 201])
def test_keys_stay_inside_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(AssertionError):
        NodeCache(tmp_path / "c", 10**6).get(key, lambda: b"")
    assert not (tmp_path / "c").exists()


def test_what_fails_to_be_made_leaves_nothing(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    for fault in (UserError("MSA-DATA-028", "no server"), OSError(errno.ENOSPC, "not the cache's")):

        def fail(fault: Exception = fault) -> bytes:
            raise fault

        with pytest.raises(type(fault)) as error:
            cache.get("a", fail)
        assert error.value is fault
    assert not list((tmp_path / "c" / "partial").iterdir())
    assert bytes(cache.get("a", lambda: b"x")) == b"x"


def test_threads_make_a_thing_once(tmp_path: Path) -> None:
    cache, made, got = NodeCache(tmp_path / "c", 10**6), [], []

    def make() -> bytes:
        made.append(1)
        time.sleep(0.2)
        return content(3)

    threads = [threading.Thread(target=lambda: got.append(bytes(cache.get("k", make)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert got == [content(3)] * 8


def test_processes_make_a_thing_once(tmp_path: Path) -> None:
    script = """
def make():
    print("made", flush=True)
    time.sleep(0.3)
    return b"x" * 1000
cache = NodeCache(folder, 10**6)
for number in range(3):
    assert bytes(cache.get(f"k{number}", make)) == b"x" * 1000
"""
    processes = [start(script, tmp_path / "c") for _ in range(3)]
    assert "".join(map(finish, processes)).count("made") == 3
    assert names(tmp_path / "c") == {"k0", "k1", "k2"}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 9 * STORED // 2)
    for number, key in enumerate("abcd"):
        cache.get(key, lambda number=number: content(number))  # type: ignore[misc]
        os.utime(tmp_path / "c" / "entries" / key, ns=(0, number))
    cache.get("a", never)
    cache.get("e", lambda: content(5))
    assert names(tmp_path / "c") == {"a", "c", "d", "e"}
    assert noted(tmp_path / "c") == bytes_used(tmp_path / "c")


def test_without_eviction_the_first_stay(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 3 * STORED, evict=False)
    for number in range(6):
        assert bytes(cache.get(f"k{number}", lambda number=number: content(number))) == content(number)  # type: ignore[misc]
    assert names(tmp_path / "c") == {"k0", "k1", "k2"}
    assert bytes_used(tmp_path / "c") == noted(tmp_path / "c") == 3 * STORED
    cache.invalidate("k1")
    cache.get("k5", lambda: content(5))
    assert names(tmp_path / "c") == {"k0", "k2", "k5"}


def test_what_is_larger_than_the_cache_passes_through(
    tmp_path: Path, silent: None, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = NodeCache(tmp_path / "c", 2 * STORED)
    cache.get("a", lambda: content(1))
    assert bytes(cache.get("large", lambda: content(2, 10 * SIZE))) == content(2, 10 * SIZE)
    assert names(tmp_path / "c") == {"a"}
    assert "100032 bytes are more than its limit of 20064" in capfd.readouterr().err


def test_the_bound_holds_with_several_writers(tmp_path: Path) -> None:
    script = """
cache = NodeCache(folder, int(sys.argv[2]))
for number in range(150):
    kind = (number * 7 + int(sys.argv[3]) * 31) % 60
    size = 5000 + 100 * kind
    assert bytes(cache.get(f"k{kind}", lambda: bytes([kind]) * size)) == bytes([kind]) * size
"""
    bound = 12 * STORED
    folder = tmp_path / "c"
    processes = [start(script, folder, bound, number) for number in range(4)]
    most = 0
    while any(process.poll() is None for process in processes):
        if (folder / "total").exists() and len((folder / "total").read_text().split()) == 3:
            most = max(most, noted(folder))
    for process in processes:
        finish(process)
    assert 0.8 * bound < most <= bound
    assert bytes_used(folder) == noted(folder) <= bound
    assert not list((folder / "partial").iterdir())


def test_an_evicted_thing_stays_readable_to_its_holder(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 2 * STORED)
    view = cache.get("a", lambda: content(1))
    finish(
        start(
            "for n in range(8): NodeCache(folder, int(sys.argv[2])).get(f'k{n}', lambda: b'x' * 9999)",
            cache.folder,
            2 * STORED,
        )
    )
    assert "a" not in names(tmp_path / "c")
    assert bytes(view) == content(1)


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_lost_blocks(path: Path) -> None:
    """As after a crash of the machine: the file has its name and length, but not its data, and the boot is another."""
    data = path.read_bytes()
    path.write_bytes(data[:16] + bytes(16) + bytes(len(data) - 32))


def damage_magic(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_lost_blocks, damage_magic])
def test_damaged_entries_are_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    damage(tmp_path / "c" / "entries" / "a")
    assert bytes(cache.get("a", lambda: content(2))) == content(2)
    assert bytes(cache.get("a", never)) == content(2)


def test_entries_of_an_earlier_boot_are_summed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    monkeypatch.setattr(cache_module, "_BOOT", bytes(range(16)))
    cache = NodeCache(tmp_path / "c", 10**6)
    assert bytes(cache.get("a", never)) == content(1)
    path = tmp_path / "c" / "entries" / "a"
    assert path.read_bytes()[16:32] == bytes(range(16))
    assert noted(tmp_path / "c") == path.stat().st_size


def test_files_of_another_format_version_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(cache_module, "_VERSION", b"9")
        NodeCache(tmp_path / "c", 10**6).get("a", lambda: content(1))
    (tmp_path / "c" / "total").write_text(f"9 {cache_module._BOOT.hex()} {99:020d}")
    cache = NodeCache(tmp_path / "c", 10**6)
    assert bytes(cache.get("a", lambda: content(2))) == content(2)
    assert noted(tmp_path / "c") == STORED


def test_the_total_of_the_version_before_is_counted_again(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    (tmp_path / "c" / "total").write_text(f"{cache_module._BOOT.hex()} {99:020d}")  # msanet before format versions
    cache.get("b", lambda: content(2))
    assert noted(tmp_path / "c") == 2 * STORED


def test_a_total_that_was_lost_is_counted_again(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    (tmp_path / "c" / "total").write_bytes(b"\0" * 20)
    cache.get("b", lambda: content(2))
    assert noted(tmp_path / "c") == 2 * STORED


def test_a_killed_maker_leaves_no_lock_and_no_file(tmp_path: Path) -> None:
    script = "cache = NodeCache(folder, 10**6); cache.get('a', lambda: print('on it', flush=True) or time.sleep(60))"
    process = start(script, tmp_path / "c")
    assert process.stdout is not None and process.stdout.readline() == "on it\n"
    got: list[bytes] = []
    waiter = threading.Thread(
        target=lambda: got.append(bytes(NodeCache(tmp_path / "c", 10**6).get("a", lambda: content(4))))
    )
    waiter.start()
    time.sleep(0.2)
    assert not got, "the lock did not hold"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    waiter.join(20)
    assert got == [content(4)]
    assert not list((tmp_path / "c" / "partial").iterdir())


def kill_while_writing(folder: Path, key: str) -> None:
    """A process that is killed when it has written all but not given the file its name."""
    script = """
import os, signal
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
NodeCache(folder, 10**6).get(sys.argv[2], lambda: b"x" * int(sys.argv[3]))
"""
    process = start(script, folder, key, SIZE)
    process.communicate(timeout=50)
    assert process.returncode == -signal.SIGKILL
    assert (folder / "partial" / key).stat().st_size == STORED


def test_what_killed_writers_left_is_removed_by_the_next_process(tmp_path: Path) -> None:
    kill_while_writing(tmp_path / "c", "x")
    cache = NodeCache(tmp_path / "c", 3 * STORED)
    cache.get("a", lambda: content(1))
    assert not list((tmp_path / "c" / "partial").iterdir())
    assert noted(tmp_path / "c") == STORED


def test_what_killed_writers_left_makes_room_for_others(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 2 * STORED, evict=False)
    cache.get("a", lambda: content(1))
    kill_while_writing(tmp_path / "c", "x")
    assert noted(tmp_path / "c") == 2 * STORED
    cache.get("b", lambda: content(2))
    assert names(tmp_path / "c") == {"a", "b"}
    assert not list((tmp_path / "c" / "partial").iterdir())


def test_what_killed_writers_left_is_taken_over(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "c", 2 * STORED)
    cache.get("a", lambda: content(1))
    kill_while_writing(tmp_path / "c", "b")
    assert bytes(cache.get("b", lambda: content(2, SIZE // 2))) == content(2, SIZE // 2)
    assert names(tmp_path / "c") == {"a", "b"}
    assert noted(tmp_path / "c") == bytes_used(tmp_path / "c") == 2 * STORED - SIZE // 2


def test_one_at_a_time_also_after_failures(tmp_path: Path) -> None:
    cache, running, most = NodeCache(tmp_path / "c", 10**6), [], []

    def fail() -> bytes:
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        raise UserError("MSA-DATA-028", "no server")

    def ask() -> None:
        for _ in range(4):
            with suppress(UserError):
                cache.get("k", fail)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 24
    assert max(most) == 1


@pytest.fixture
def silent() -> None:
    """Warnings are told once per process and folder; here each test starts again."""
    logs._seen.clear()


def test_a_full_disk_is_logged_once_and_costs_only_time(
    tmp_path: Path, silent: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "replace", full)
        for number in range(3):
            assert bytes(cache.get(f"k{number}", lambda: content(2))) == content(2)
    told = capfd.readouterr().err
    assert told.count("No space left on device") == told.count("warning: cache") == 1
    assert str(tmp_path / "c") in told and "storage.cache_dir" in told
    assert bytes_used(tmp_path / "c") == noted(tmp_path / "c") == STORED
    assert bytes(cache.get("k0", lambda: content(3))) == bytes(cache.get("k0", never)) == content(3)


def test_a_disk_that_is_really_full(small_disk: Path, silent: None, capfd: pytest.CaptureFixture[str]) -> None:
    cache = NodeCache(small_disk / "c", 10**9)
    for number in range(12):
        data = content(number, 200_000)
        assert bytes(cache.get(f"k{number}", lambda data=data: data)) == data  # type: ignore[misc]
    assert capfd.readouterr().err.count("warning:") == 1
    kept = names(small_disk / "c")
    assert 2 <= len(kept) < 6
    assert not list((small_disk / "c" / "partial").iterdir())
    for key in kept:
        assert bytes(cache.get(key, never)) == content(int(key[1:]), 200_000)
    cache.invalidate("k0")
    assert bytes(cache.get("small", lambda: b"s" * 100)) == bytes(cache.get("small", never))


def test_a_folder_that_cannot_be(tmp_path: Path, silent: None, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = NodeCache(tmp_path / "file" / "c", 10**6)
    for _ in range(2):
        assert bytes(cache.get("a", lambda: content(1))) == content(1)
    assert capfd.readouterr().err.count("Not a directory") == 1
    assert not cache.has("a") and not cache.invalidate("a")


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path, silent: None) -> None:
    cache = NodeCache(tmp_path / "c", 10**6)
    cache.get("a", lambda: content(1))
    shutil.rmtree(tmp_path / "c")
    assert bytes(cache.get("a", lambda: content(2))) == content(2)
    cache.get("b", lambda: content(3))
    assert bytes(cache.get("b", never)) == content(3)


def test_the_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c").mkdir()
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UserError, match=f"'{tmp_path}/c' belongs to user {os.getuid()}, expected one of user"):
        NodeCache(tmp_path / "c", 10**6).get("a", lambda: b"")
    monkeypatch.setattr(cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"msanet-cache-{os.getuid() + 1}").symlink_to(tmp_path / "c")
    with raises_user_error("MSA-DATA-037", setting="storage.cache_dir"):
        cache_folder(None)


def test_the_usual_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder(None)
    assert folder == tmp_path / f"msanet-cache-{os.geteuid()}"
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert cache_folder(tmp_path / "own") == tmp_path / "own"
