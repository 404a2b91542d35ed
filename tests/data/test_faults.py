"""Bad samples: an error that names them, or skipped without changing any other sample. Nothing hangs."""

import errno
import json
import os
import re
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from conftest import write_camvid
from msanet.config import Config, parse_config
from msanet.data import loader_processes
from msanet.data.image.tiles import encode_tiled
from msanet.data.loader import plan_batches, shuffle_config, shuffle_order, train_loader, train_source
from msanet.data.manifest import load_manifest
from msanet.data.pipeline import Batch, predownload
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.errors import UserError
from sharding.__main__ import main as shard
from support.errors import error_codes, raises_user_error
from support.ranks import start_ranks

BAD = "train-000001"
STEPS = 6
"""Of 6 samples each, of 26: each sample once at least."""
Damage = Callable[[Path], None]


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / f"{BAD}.idx.json").read_text())


def replace_member(folder: Path, extension: str, change: Callable[[bytes], bytes], with_crc32: bool) -> None:
    """Change a member of the second sample of the shard; with_crc32: as if it had been packed like this."""
    index, tar = read_index(folder), bytearray((folder / f"{BAD}.tar").read_bytes())
    member = next(member for member in index["samples"][1]["members"] if member["extension"] == extension)
    place = slice(member["offset"], member["offset"] + member["length"])
    new = change(bytes(tar[place])).ljust(member["length"], b"\0")
    assert len(new) == member["length"] and new != tar[place]
    tar[place] = new
    (folder / f"{BAD}.tar").write_bytes(tar)
    if with_crc32:
        member["crc32"] = zlib.crc32(new)
        (folder / f"{BAD}.idx.json").write_text(json.dumps(index))


def flip_a_byte(folder: Path) -> None:
    replace_member(folder, "label.tif", lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:], with_crc32=False)


def break_the_pixels(folder: Path) -> None:
    replace_member(folder, "image.tif", lambda data: data[:-90] + bytes(90), with_crc32=True)


def break_the_header(folder: Path) -> None:
    replace_member(folder, "label.tif", lambda data: b"no picture", with_crc32=True)


def change_the_size(folder: Path) -> None:
    small = encode_tiled(np.zeros((20, 44), np.uint8))
    replace_member(folder, "label.tif", lambda data: small, with_crc32=True)


def truncate(folder: Path) -> None:
    member = read_index(folder)["samples"][3]["members"][0]
    os.truncate(folder / f"{BAD}.tar", member["offset"] + 100)


def remove_the_shard(folder: Path) -> None:
    (folder / f"{BAD}.tar").unlink()


def remove_the_index(folder: Path) -> None:
    (folder / f"{BAD}.idx.json").unlink()


def bring_a_stale_index(folder: Path) -> None:
    other = folder.parent / "other"
    source = write_camvid(other / "source", train=26, val=7, seed=1)
    words = ["--source", str(source), "--out", str(other / "shards"), "--shard-bytes", "30000", "--workers", "1"]
    assert shard(["camvid", *words]) == 0
    shutil.copy(other / "shards" / f"{BAD}.idx.json", folder)


ALL, SECOND, FROM_FOURTH = slice(None), slice(1, 2), slice(3, None)
FAULTS: dict[str, tuple[Damage, slice, str]] = {
    "flipped byte": (flip_a_byte, SECOND, r"{bad}.tar' is damaged: {key}.label.tif at byte {label} has .* of crc32 "),
    "truncated": (truncate, FROM_FOURTH, r"{bad}.tar' is damaged: {key}.image.tif at byte {image} has \d+ bytes "),
    "no shard": (remove_the_shard, ALL, r"{bad}.tar' cannot be opened"),
    "no index": (remove_the_index, ALL, r"{bad}.idx.json' cannot be opened"),
    "stale index": (bring_a_stale_index, ALL, r"{bad}.idx.json' is of another shard"),
    "bad pixels": (
        break_the_pixels,
        SECOND,
        r"{bad}.tar:{key}.image.tif' cannot be decoded: tile 0 at byte \d+ is damaged",
    ),
    "bad header": (break_the_header, SECOND, r"{bad}.tar:{key}.label.tif' cannot be read as an image"),
    "sizes differ": (
        change_the_size,
        SECOND,
        r"{bad}.tar:{key}' has an image of \(36, 44\) and a label of \(20, 44\) ",
    ),
}
"""Name -> how, which samples of the shard it makes bad, and what is said of them."""


def bad_samples(shards: Path, which: slice) -> list[int]:
    """Their numbers within the split."""
    infos = load_manifest(shards).splits["train"].shards
    first = infos[0].samples
    assert infos[1].file == f"{BAD}.tar" and infos[1].samples > 4
    return list(range(first, first + infos[1].samples)[which])


def sentence_of(fault: str, shards: Path) -> str:
    """A pattern of what is said of any of the bad samples."""
    _, which, pattern = FAULTS[fault]
    words = []
    for sample in read_index(shards)["samples"][which]:
        offsets = {member["extension"].partition(".")[0]: member["offset"] for member in sample["members"]}
        words.append(pattern.format(bad=BAD, key=sample["key"], image=offsets["image"], label=offsets["label"]))
    return "|".join(words)


def config_for(shards: Path, on_bad_sample: str, workers: int = 0) -> Config:
    data = {
        "path": str(shards),
        "crop": [30, 40],
        "random_scale": [0.6, 1.5],
        "brightness": 0.3,
        "on_bad_sample": on_bad_sample,
    }
    trainer = {"global_batch_size": 6, "steps": STEPS}
    return parse_config({"data": {**data, "num_workers": workers}, "trainer": trainer}, "test")


def loader(config: Config, world: int = 1, rank: int = 0, micro: int | None = None) -> Iterator[list[Batch]]:
    manifest = load_manifest(Path(config.data.source))
    order = shuffle_order(manifest, "train", shuffle_config(config))
    return train_loader(config, order, train_source(config, manifest), plan_batches(6, micro, world), rank, 0)


def joined(steps: list[list[Batch]]) -> dict[str, np.ndarray]:
    """Everything about the samples of some steps, in order."""
    names = ("images_NHWC", "labels_NHW", "jitter_N3", "epochs_N", "samples_N")
    return {name: np.concatenate([getattr(b, name).numpy() for step in steps for b in step]) for name in names}


def faults(steps: list[list[Batch]]) -> list[str]:
    return [fault for step in steps for batch in step for fault in batch.bad_samples]


@pytest.mark.parametrize("fault", FAULTS)
def test_raise_names_shard_key_and_place(copy: Path, shards: Path, fault: str) -> None:
    damage, which, _ = FAULTS[fault]
    damage(copy)
    taken = set()
    with pytest.raises(UserError, match=sentence_of(fault, shards)):
        for step in islice(loader(config_for(copy, "raise")), STEPS):
            taken |= set(joined([step])["samples_N"].tolist())
    assert taken.isdisjoint(bad_samples(shards, which))


@pytest.mark.parametrize("is_mount", [False, True])
def test_shards_that_are_gone_are_not_skipped_as_bad_samples(copy: Path, is_mount: bool) -> None:
    """The folder renamed, or unmounted so that its place is empty; afterwards every sample is there again."""
    config, elsewhere = config_for(copy, "skip", workers=0), copy.with_name("elsewhere")
    batches = loader(config)
    copy.rename(elsewhere)
    if is_mount:
        copy.mkdir()
    with raises_user_error("MSA-DATA-552", setting="data.path"):
        next(batches)
    if is_mount:
        copy.rmdir()
    elsewhere.rename(copy)
    assert faults([next(loader(config))]) == []


def failing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        if offset == 0:  # an index
            return real(descriptor, length, offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)


def test_a_disk_that_fails_is_a_fault_of_the_sample(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_disk(monkeypatch)
    with pytest.raises(UserError, match=r"train-.*tar' cannot be read at byte \d+ \(Input/output error\)"):
        next(loader(config_for(shards, "raise", workers=0)))
    step = next(loader(config_for(shards, "skip", workers=0)))
    assert faults([step]) and all((batch.labels_NHW == 255).all() for batch in step)


@pytest.mark.parametrize("fault", FAULTS)
def test_skipping_leaves_all_other_samples_unchanged(copy: Path, shards: Path, fault: str) -> None:
    damage, which, _ = FAULTS[fault]
    damage(copy)
    sound = joined(list(islice(loader(config_for(shards, "skip")), STEPS)))
    steps = list(islice(loader(config_for(copy, "skip")), STEPS))
    found, is_bad = joined(steps), np.isin(sound["samples_N"], bad_samples(shards, which))
    assert is_bad.sum() >= len(bad_samples(shards, which)) and not is_bad.all()
    for name in ("epochs_N", "samples_N"):
        assert np.array_equal(found[name], sound[name])
    for name in ("images_NHWC", "labels_NHW", "jitter_N3"):
        assert np.array_equal(found[name][~is_bad], sound[name][~is_bad])
    assert (found["images_NHWC"][is_bad] == (124, 116, 104)).all()  # the mean of ImageNet, rounded
    assert (found["labels_NHW"][is_bad] == 255).all() and (found["jitter_N3"][is_bad] == 1).all()
    for step in steps:
        bad_here = np.isin(joined([step])["samples_N"], bad_samples(shards, which)).sum()
        assert len(faults([step])) == bad_here
    assert all(re.search(sentence_of(fault, shards), sentence) for sentence in faults(steps))


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (1, 2)])
def test_skipped_samples_keep_ranks_and_loader_workers_in_step(copy: Path, world: int, workers: int) -> None:
    truncate(copy)
    break_the_pixels(copy)
    whole = list(islice(loader(config_for(copy, "skip")), STEPS))
    config = config_for(copy, "skip", workers)
    ranks = [list(islice(loader(config, world, rank, micro=1), STEPS)) for rank in range(world)]
    together = [[batch for part in parts for batch in part] for parts in zip(*ranks, strict=True)]
    assert all(len(step) == 6 for step in together)
    assert faults(together) == faults(whole) and len(faults(whole)) > 1
    for name, values in joined(whole).items():
        assert np.array_equal(joined(together)[name], values), name


def test_loader_processes_carry_the_sentence_too(copy: Path, shards: Path) -> None:
    truncate(copy)
    with pytest.raises(UserError, match=sentence_of("truncated", shards)) as error:
        list(islice(loader(config_for(copy, "raise", workers=2), micro=1), STEPS))
    assert "Traceback" not in str(error.value)


def test_a_killed_loader_worker_ends_the_run_at_once(shards: Path) -> None:
    def workers() -> set[psutil.Process]:
        """Children of the fork server, which is ours."""
        return {process for child in psutil.Process().children() for process in child.children()}

    before = workers()
    steps = loader(config_for(shards, "raise", workers=2), micro=1)
    next(steps)
    victim = min(workers() - before, key=lambda process: process.pid)
    victim.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with raises_user_error("MSA-DATA-010", setting="data.num_workers") as error:
        list(islice(steps, 100))
    assert time.monotonic() - started < 60 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),  # it died with tensors on their way
        (EOFError(), True),
        (RuntimeError("Pin memory thread exited unexpectedly"), True),  # the same, met by the thread that pins
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0."), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_only_a_lost_process_is_reported_as_killed(
    shards: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, is_lost: bool
) -> None:
    def failing(*_: object, **__: object) -> Iterator[Batch]:
        raise error
        yield

    monkeypatch.setattr(loader_processes, "DataLoader", failing)
    try:
        next(loader(config_for(shards, "raise", workers=2)))
    except (UserError, RuntimeError, OSError, EOFError) as raised:
        assert (raised is not error and getattr(raised, "code", "") == "MSA-DATA-010") == is_lost
    else:
        raise AssertionError("it was lost")


class Recorder:
    """A source whose bytes are brought near, or not."""

    def __init__(self, fetch: Callable[[int], None] = lambda sample: None) -> None:
        self.fetched: set[int] = set()
        self._fetch = fetch

    def fetch(self, sample: int) -> None:
        self.fetched.add(sample)
        self._fetch(sample)


def positions(count: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    number = 0
    while count is None or number < count:
        yield np.zeros(2, np.int64), np.array([2 * number, 2 * number + 1])
        number += 1


def reading_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("predownload")}


def all_end(before: set[threading.Thread], seconds: float = 20) -> bool:
    """Whether all threads end that came since; those of other tests may be about still."""
    deadline = time.monotonic() + seconds
    while reading_threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not reading_threads() - before


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_read_ahead_passes_everything_on_in_order(depth: int) -> None:
    source, before = Recorder(), reading_threads()
    ahead = partial(predownload, source=source, depth=depth, threads=3)  # type: ignore[arg-type]
    assert [item[1].tolist() for item in ahead(positions(20))] == [[2 * n, 2 * n + 1] for n in range(20)]
    assert all_end(before) and source.fetched <= set(range(40))
    endless = ahead(positions(None))
    assert [next(endless)[1][0] for _ in range(20)] == list(range(0, 40, 2))
    endless.close()  # type: ignore[attr-defined]
    assert all_end(before)


def test_read_ahead_is_ahead_by_its_depth() -> None:
    seen: list[int] = []

    def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for item in positions(None):
            seen.append(int(item[1][0]) // 2)
            yield item

    source = Recorder()
    stream = predownload(counted(), source, 4, threads=2)  # type: ignore[arg-type]
    next(stream)
    assert seen == [0, 1, 2, 3, 4]
    deadline = time.monotonic() + 30
    while len(source.fetched) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.fetched == set(range(10))


def test_read_ahead_neither_hangs_nor_ends_with_what_it_fetches() -> None:
    def fail(sample: int) -> None:
        raise UserError("MSA-DATA-014", f"sample {sample} is not there")

    assert len(list(predownload(positions(20), Recorder(fail), 3, threads=2))) == 20  # type: ignore[arg-type]
    release, before = threading.Event(), reading_threads()

    def wait(sample: int) -> None:
        release.wait(60)

    started = time.monotonic()
    assert len(list(predownload(positions(20), Recorder(wait), 3, threads=2))) == 20  # type: ignore[arg-type]
    assert time.monotonic() - started < 30
    release.set()
    assert all_end(before)


def test_an_error_in_a_download_thread_is_raised_by_the_read(copy: Path) -> None:
    remove_the_index(copy)
    source = ShardSource(LocalStorage(copy), "train")
    number = bad_samples(copy, ALL)[0]
    items = [(np.zeros(1, np.int64), np.array([number]))]
    assert list(predownload(items, source, 1, threads=1)) == items
    with pytest.raises(UserError, match=f"{BAD}.idx.json' cannot be opened"):
        source.read(number)


SMALL = [
    "data.crop=[32,40]",
    "data.num_workers=0",
    "model.width=0.125",
    "evaluation.num_workers=0",
    "evaluation.panels=0",
]
SMALL += [
    f"trainer.steps={STEPS}",
    "trainer.global_batch_size=6",
    "trainer.micro_batch_size=1",
    "trainer.log_every_steps=2",
]


def train(shards: Path, folder: Path, *settings: str) -> tuple[list[int], str]:
    """Exit codes and all output of two ranks."""
    words = ["launcher/train.py", *SMALL, f"data.path={shards}", f"run.dir={folder}", *settings]
    ranks = start_ranks(2, words)
    output = "".join(rank.communicate(timeout=180)[0] for rank in ranks)
    return [rank.returncode for rank in ranks], output


def test_a_run_continues_and_lists_its_bad_samples(copy: Path, shards: Path, tmp_path: Path) -> None:
    truncate(copy)
    codes, output = train(copy, tmp_path / "run", "data.on_bad_sample=skip", "data.max_bad_fraction=0.5")
    assert codes == [0, 0] and "Traceback" not in output, output
    listed = [
        json.loads(line)
        for file in (tmp_path / "run").glob("bad-samples-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    expected = []
    for step, batches in enumerate(islice(loader(config_for(copy, "skip")), STEPS), 1):
        expected += [{"step": step, "fault": fault} for fault in faults([batches])]
    assert sorted(listed, key=str) == sorted(expected, key=str) and len(listed) >= len(bad_samples(shards, FROM_FOURTH))
    for line in listed:
        assert f"warning: step {line['step']}: bad sample skipped: {line['fault']}" in output
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["bad_samples"] for line in metrics if "loss" in line}
    assert skipped == {step: sum(line["step"] <= step for line in listed) for step in (2, 4, 6)}


def test_too_many_bad_samples_end_all_ranks_with_one_error(copy: Path, tmp_path: Path) -> None:
    remove_the_shard(copy)
    codes, output = train(copy, tmp_path / "run", "data.on_bad_sample=skip", "data.max_bad_fraction=0.05")
    assert codes == [2, 2] and "Traceback" not in output, output
    assert output.count("error: ") == 1
    assert error_codes(output) == ["MSA-TRAIN-001"] and "error: 2 bad samples were skipped" in output
    lines = [line for file in (tmp_path / "run").glob("bad-samples-*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == 2, "they are listed, as the sentence says"


def test_raise_ends_a_run_of_two_ranks_with_one_sentence(copy: Path, tmp_path: Path) -> None:
    remove_the_shard(copy)
    codes, output = train(copy, tmp_path / "run")
    assert codes == [2, 2] and "Traceback" not in output, output
    assert output.count("error: ") == 1 and f"{BAD}.tar' cannot be opened" in output
