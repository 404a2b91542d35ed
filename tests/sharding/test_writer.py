"""What is written: right, the same for any number of workers, whole or absent, and continued where a run stopped."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import tarfile
import time
import zlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from msanet.data.image.photo import TURNED
from msanet.data.manifest import ShardIndex, ShardInfo, load_manifest, load_shard_index
from msanet.datasets import CAMVID
from msanet.errors import UserError
from sharding import plan as plan_module
from sharding import shard as shard_module
from sharding import workers
from sharding.plan import ShardPlan, plan_shards
from sharding.readers.camvid import CAMVID as CAMVID_READER
from sharding.readers.mask_reader import reader_of
from sharding.shard import PackingJob, write_shards
from sharding.tree import FolderTree
from sharding.writer import PackOptions, pack
from support.pictures import exif

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
Start = Callable[..., "subprocess.Popen[str]"]
SMALL = ("--shard-bytes", "25KB")  # two samples of a fake dataset


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def finished(partial: Path) -> list[Path]:
    return sorted(partial.glob("*.idx.json"))


def test_index_and_manifest_agree_with_the_tars(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.camvid(train=5, val=3), tmp_path / "out"
    assert shard("camvid", "--source", root, "--out", out, *SMALL) == 0
    manifest = load_manifest(out)
    assert (manifest.name, manifest.codec, manifest.ignore_index) == ("camvid", "tiff", 255)
    assert (manifest.classes, manifest.palette, manifest.ids) == (CAMVID.classes, CAMVID.palette, tuple(range(11)))
    expected = {"dataset.json"}
    for split, info in manifest.splits.items():
        assert info.samples == len(list((root / split).iterdir())) and len(info.shards) > 1
        raw = np.stack([np.asarray(Image.open(path)) for path in (root / f"{split}annot").iterdir()])
        counts = np.bincount(raw.ravel(), minlength=12)
        assert (*info.histogram, info.ignored) == tuple(counts)
        for entry in info.shards:
            expected |= {entry.file, entry.file.replace(".tar", ".idx.json")}
            _check_shard(out, entry)
        shard_counts = [load_shard_index(out, entry.file).histogram for entry in info.shards]
        assert tuple(np.sum(shard_counts, axis=0)) == info.histogram
    assert {path.name for path in out.iterdir()} == expected


def _check_shard(out: Path, entry: ShardInfo) -> None:
    data, index = (out / entry.file).read_bytes(), load_shard_index(out, entry.file)
    assert len(data) == entry.bytes == index.bytes and entry.samples == len(index.samples)
    digest = subprocess.run(["sha256sum", out / entry.file], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert digest == entry.sha256 == index.sha256
    with tarfile.open(out / entry.file) as tar:
        infos = tar.getmembers()
        bodies = {info.name: content.read() for info in infos if (content := tar.extractfile(info))}
    assert {(info.mtime, info.uid, info.gid, info.mode) for info in infos} == {(0, 0, 0, 0o444)}
    assert [f"{s.key}.{m.extension}" for s in index.samples for m in s.members] == [info.name for info in infos]
    for sample in index.samples:
        facts = json.loads(bodies[f"{sample.key}.json"])
        assert facts["id"] == sample.key and (facts["height"], facts["width"]) == (48, 64)
        for member in sample.members:
            body = data[member.offset : member.offset + member.length]
            assert body == bodies[f"{sample.key}.{member.extension}"] and zlib.crc32(body) == member.crc32
            part = member.extension.split(".")[0]
            assert part == "json" or facts["crc32"][part] == member.crc32


def test_stock_webdataset_reads_a_shard(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.camvid(train=3), tmp_path / "out"
    assert shard("camvid", "--source", root, "--out", out) == 0
    decoder = webdataset.imagehandler("rgb8", extensions=["tif"])
    found = list(webdataset.WebDataset(str(out / "train-000000.tar"), shardshuffle=False).decode(decoder))
    assert [sample["__key__"] for sample in found] == [f"0016E5_{i:05d}" for i in range(3)]
    for sample in found:
        source = np.asarray(Image.open(root / "train" / f"{sample['__key__']}.png"))
        assert np.array_equal(sample["image.tif"], source)
        assert sample["label.tif"].shape[:2] == (48, 64)
        assert sample["json"]["id"] == sample["__key__"]


def test_one_and_three_workers_write_the_same_bytes(
    fake: Any, shard: Shard, tmp_path: Path, light_environment: object
) -> None:
    root = fake.camvid(train=7, val=2)
    for count in (1, 3):
        out = tmp_path / str(count)
        assert shard("camvid", "--source", root, "--out", out, *SMALL, "--workers", count) == 0
    one = contents(tmp_path / "1")
    assert len(one) == 2 * (4 + 1) + 1
    assert one == contents(tmp_path / "3")


def test_a_run_stopped_in_every_way_continues_to_the_same_bytes(
    fake: Any, shard: Shard, start: Start, tmp_path: Path
) -> None:
    root = fake.camvid(train=2000, val=4)  # so many that no run ends before it is stopped
    words = ("camvid", "--source", root, *SMALL)
    assert shard(*words, "--out", tmp_path / "whole") == 0
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    lost = start(*words, "--out", out, "--workers", 2)
    wait_for(lambda: len(finished(partial)) > 3)
    os.kill(_workers(lost.pid)[0], signal.SIGKILL)
    _, stderr = lost.communicate(timeout=30)
    assert lost.returncode == 2 and stderr.startswith("error: a worker process ended") and stderr.count("\n") == 1
    kept = _check_stopped(out, partial)

    stopped = start(*words, "--out", out, "--workers", 2)
    wait_for(lambda: len(finished(partial)) > len(kept) + 3)
    assert all(_holds_back_interrupts(pid) for pid in _workers(stopped.pid))  # else they print tracebacks, at times
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does it: to the workers too
    _, stderr = stopped.communicate(timeout=30)
    assert stopped.returncode == 130 and stderr.count("\n") == 1 and "same command again to continue" in stderr
    kept = _check_unchanged(kept, _check_stopped(out, partial))

    killed = start(*words, "--out", out, "--workers", 2)
    wait_for(lambda: len(finished(partial)) > len(kept) + 3)
    children = _workers(killed.pid)
    killed.kill()
    killed.communicate(timeout=30)
    wait_for(lambda: not any(_is_alive(pid) for pid in children))  # no orphans that write on
    kept = _check_unchanged(kept, _check_stopped(out, partial))

    assert shard(*words, "--out", out) == 0
    assert not partial.exists()
    _check_unchanged(kept, {path.name: path.stat().st_mtime_ns for path in out.iterdir()})
    assert contents(out) == contents(tmp_path / "whole")


def _check_stopped(out: Path, partial: Path) -> dict[str, int]:
    """{file: time of change} of the finished shards."""
    assert not out.exists() and 3 < len(finished(partial)) < 1000
    return {
        f.name: f.stat().st_mtime_ns for i in finished(partial) for f in (i, Path(str(i)[: -len(".idx.json")] + ".tar"))
    }


def _check_unchanged(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    assert len(after) > len(before) and before.items() <= after.items()
    return after


def _workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _holds_back_interrupts(pid: int) -> bool:
    blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return blocked is not None and bool(int(blocked[1], 16) >> (signal.SIGINT - 1) & 1)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_finished_dataset_is_left_alone(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root, out = fake.camvid(), tmp_path / "out"
    out.mkdir()  # empty: taken
    words = ("camvid", "--source", root, "--out", out, *SMALL)
    assert shard(*words) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    capfd.readouterr()
    assert shard(*words) == 0
    assert "already complete" in capfd.readouterr().out
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.mark.parametrize("change", ["source", "shard size", "splits", "lost shard", "cut shard", "no manifest"])
def test_a_folder_with_anything_else_is_refused(
    change: str, fake: Any, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    root, out = fake.camvid(), tmp_path / "out"
    words = ["camvid", "--source", root, "--out", out, *SMALL]
    assert shard(*words) == 0
    capfd.readouterr()
    if change == "source":
        os.utime(root / "train" / "0016E5_00000.png", ns=(0, 0))
    elif change in ("shard size", "splits"):
        words += ["--shard-bytes", "1MB"] if change == "shard size" else ["--splits", "train"]
    elif change == "cut shard":
        os.truncate(out / "train-000000.tar", 512)
    else:
        (out / ("train-000000.idx.json" if change == "lost shard" else "dataset.json")).unlink()
    before = contents(out)
    with pytest.raises(SystemExit, match="2"):
        shard(*words)
    assert "is not the dataset of this command" in capfd.readouterr().err
    assert contents(out) == before and not (tmp_path / "out.partial").exists()


def test_leftovers_of_another_plan_are_replaced(fake: Any, shard: Shard, tmp_path: Path) -> None:
    root, out = fake.camvid(), tmp_path / "out"
    assert shard("camvid", "--source", root, "--out", tmp_path / "whole") == 0
    assert shard("camvid", "--source", root, "--out", out, *SMALL) == 0
    out.rename(tmp_path / "out.partial")
    (tmp_path / "out.partial" / "train-000000.tar.partial").write_bytes(b"half a shard")
    assert shard("camvid", "--source", root, "--out", out) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_files_of_others_are_never_removed(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root, partial = fake.camvid(), tmp_path / "out.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("years")
    with pytest.raises(SystemExit, match="2"):
        shard("camvid", "--source", root, "--out", tmp_path / "out")
    assert "thesis.txt" in capfd.readouterr().err
    assert contents(partial) == {"thesis.txt": b"years"}


def test_a_second_run_at_the_same_time_is_refused(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root, partial = fake.camvid(), tmp_path / "out.partial"
    partial.mkdir()
    with (partial / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="2"):
            shard("camvid", "--source", root, "--out", tmp_path / "out")
        assert "another run is writing" in capfd.readouterr().err and partial.exists()
    assert shard("camvid", "--source", root, "--out", tmp_path / "out") == 0


def stop_and_continue(
    shard: Shard, words: tuple[object, ...], out: Path, owner: object, name: str, fault: object
) -> None:
    """With the fault in the place of `owner.name`, the third shard of three fails; without it the command goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fault)
        with pytest.raises(SystemExit, match="2"):
            shard(*words, "--out", out, *SMALL)
    assert len(finished(out.with_name(out.name + ".partial"))) == 2
    assert shard(*words, "--out", out, *SMALL) == 0


def test_a_full_disk_keeps_what_is_finished(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root, real = fake.camvid(train=6), shard_module.write_tar

    def full(job: PackingJob, plan: ShardPlan, on_sample: Callable[[], object]) -> ShardIndex | None:
        if plan.file == "train-000002.tar":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(job, plan, on_sample)

    stop_and_continue(shard, ("camvid", "--source", root), tmp_path / "out", shard_module, "write_tar", full)
    assert "out.partial': no space left on device; free some space" in capfd.readouterr().err


def test_a_source_that_cannot_be_read_just_now_keeps_what_is_finished(
    fake: Any, shard: Shard, tmp_path: Path, capfd: Capture
) -> None:
    root, real = fake.camvid(train=6), Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "0016E5_00005.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    stop_and_continue(shard, ("camvid", "--source", root), tmp_path / "out", Path, "read_bytes", failing)
    assert "0016E5_00005.png' cannot be read (Input/output error)" in capfd.readouterr().err


def test_a_spec_that_no_manifest_can_hold_is_refused_first(fake: Any, tmp_path: Path) -> None:
    tree = FolderTree(fake.camvid(train=2))
    found = CAMVID_READER.read(tree, Namespace(splits=None))
    spec = replace(CAMVID, classes=("x" * 101, *CAMVID.classes[1:]))
    with pytest.raises(UserError, match=r"as classes\.0.*expected text of up to 100 characters"):
        pack(replace(found, spec=spec), tree, tmp_path / "out", PackOptions("original", 10**6, 1))
    assert not list(tmp_path.glob("out*"))


def test_a_shard_has_no_more_samples_than_its_index_can_list(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MAX_SAMPLES", 2)
    tree = FolderTree(fake.camvid(train=5))
    plans = plan_shards(CAMVID_READER.read(tree, Namespace(splits=None)), tree, "original", 10**9)
    assert [len(plan.pairs) for plan in plans] == [2, 2, 1]


def test_a_worker_told_to_stop_does_not_finish_its_shard(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = FolderTree(fake.camvid(train=4))
    plan, *_ = plan_shards(CAMVID_READER.read(tree, Namespace(splits=None)), tree, "original", 10**9)
    done, job = [0], PackingJob(tree, CAMVID, reader_of(CAMVID), "original", tmp_path)
    monkeypatch.setattr(workers, "_worker", (write_shards, job, done, [True]), raising=False)
    with pytest.raises(workers._Stop):
        workers._run_group([plan], 0)
    assert done == [1] and not list(tmp_path.glob("*.tar"))


def test_what_workers_did_to_files_is_said_once(fake: Any, shard: Shard, tmp_path: Path, capfd: Capture) -> None:
    root = fake.camvid(train=5, val=3)
    photos = sorted((root / "train").glob("*.png"))
    for path in photos:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(path, exif=exif(3))
    words = ("camvid", "--source", root, "--out", tmp_path / "out", "--splits", "train", "--shard-bytes", "1KB")
    assert shard(*words, "--workers", 2) == 0
    err = capfd.readouterr().err
    assert err.count(TURNED) == 1 and f"'{photos[0]}' and {len(photos) - 1} other file" in err
