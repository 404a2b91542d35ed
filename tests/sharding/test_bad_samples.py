"""Bad files do not end a packing: all are named at once, what was packed is kept, and --skip-bad packs without them."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from msanet.data.manifest import load_manifest
from sharding import shard as shard_module
from support.errors import error_codes
from support.packing import packed_labels, packed_members

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
BAD = (3, 4, 9)


class Source:
    """Twelve images, of which three have a fault of one of several kinds."""

    def __init__(self, fake: Any, root: Path) -> None:
        self.root, self.sound = fake.camvid(train=12), root / "sound"
        shutil.copytree(self.root, self.sound)
        self.words = ["camvid", "--source", self.root, "--out", root / "out"]
        self.out, self.partial = root / "out", root / "out.partial"

    def image(self, number: int) -> Path:
        return self.root / "train" / f"0016E5_{number:05d}.png"

    def label(self, number: int) -> Path:
        return self.root / "trainannot" / f"0016E5_{number:05d}.png"

    def break_files(self) -> None:
        self.image(BAD[0]).write_bytes(self.image(BAD[0]).read_bytes()[:300])
        cv2.imwrite(str(self.label(BAD[1])), np.full((48, 64), 77, np.uint8))
        cv2.imwrite(str(self.label(BAD[2])), np.zeros((48, 60), np.uint8))

    def repair(self, number: int) -> None:
        for path in (self.image(number), self.label(number)):
            path.write_bytes((self.sound / path.relative_to(self.root)).read_bytes())


@pytest.fixture
def source(fake: Any, tmp_path: Path) -> Source:
    made = Source(fake, tmp_path)
    made.break_files()
    return made


def listed(folder: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (folder / "bad-samples.jsonl").read_text().splitlines()]


def record_reads(keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Append the key of each sample that this process decodes."""
    real = shard_module.read_sample

    def read(job: Any, pair: Any) -> Any:
        keys.append(pair.key)
        return real(job, pair)

    monkeypatch.setattr(shard_module, "read_sample", read)


@pytest.mark.parametrize("options", [(), ("--shard-bytes", "25KB"), ("--shard-bytes", "25KB", "--workers", 2)])
def test_all_are_named_at_once_and_the_others_are_kept(
    options: tuple[object, ...], source: Source, shard: Shard, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="2"):
        shard(*source.words, *options)
    said = capfd.readouterr().err
    assert error_codes(said) == ["MSA-PACK-027", "MSA-DATA-023", "MSA-PACK-024", "MSA-PACK-201"]
    assert all(source.image(number).name in said for number in BAD)
    assert not source.out.exists() and listed(source.partial) == [source.image(number).stem for number in BAD]
    for number in BAD:
        source.repair(number)
    made: list[str] = []
    record_reads(made, monkeypatch)
    assert shard(*source.words, *options[:2]) == 0  # in this process
    assert made == [source.image(number).stem for number in BAD]  # nothing is decoded twice
    assert not any(source.out.glob("*.json*[!x].json")) and not (source.out / "bad-samples.jsonl").exists()
    assert shard("camvid", "--source", source.sound, "--out", source.out.with_name("whole"), *options[:2]) == 0
    for path in source.out.glob("*.tar"):
        assert path.read_bytes() == (source.out.with_name("whole") / path.name).read_bytes()
    assert shard("verify", source.out) == 0


def test_removed_files_keep_the_others_too(
    source: Source, shard: Shard, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="2"):
        shard(*source.words, "--shard-bytes", "25KB")
    for number in BAD:
        source.image(number).unlink()
        source.label(number).unlink()
    assert shard(*source.words, "--shard-bytes", "25KB") == 0  # other groups of files than before
    assert load_manifest(source.out).split("train").samples == 9
    assert shard("verify", source.out) == 0


def test_a_second_try_that_fails_keeps_more(source: Source, shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    record_reads(made, monkeypatch)
    for number in (*BAD, None):
        with pytest.raises(SystemExit, match="2"):
            shard(*source.words)
        if number is not None:
            source.repair(number)
        if number == BAD[-1]:
            break
    assert shard(*source.words) == 0
    assert len(made) == 12 + 3 + 2 + 1 and load_manifest(source.out).split("train").samples == 12


@pytest.mark.parametrize("before", [False, True])
def test_skip_bad_packs_the_others_and_lists_what_is_skipped(
    before: bool, source: Source, shard: Shard, capfd: Capture
) -> None:
    if before:
        with pytest.raises(SystemExit, match="2"):
            shard(*source.words, "--shard-bytes", "25KB")
    words = (*source.words, "--skip-bad", "--shard-bytes", "25KB")
    assert shard(*words) == 0
    assert "skipped 3 of 12 samples" in capfd.readouterr().err
    bad = [source.image(number).stem for number in BAD]
    assert listed(source.out) == bad
    assert list(packed_labels(source.out, "train")) == [
        f"0016E5_{number:05d}" for number in range(12) if number not in BAD
    ]
    assert {path.suffix for path in source.out.iterdir()} == {".tar", ".json", ".jsonl"}
    assert not any(source.out.glob("reuse-*")) and not any(source.out.glob("*.bad.json"))
    assert shard("verify", source.out) == 0
    assert "3 samples could not be packed" in capfd.readouterr().err
    assert shard(*words) == 0
    assert "nothing to do" in capfd.readouterr().out
    with pytest.raises(SystemExit, match="2"):  # without the option, this is not what was asked for
        shard(*words[:-3], "--shard-bytes", "25KB")
    assert error_codes(capfd.readouterr().err) == ["MSA-PACK-011"]


def test_a_shard_of_bad_samples_alone_is_left_out(source: Source, shard: Shard) -> None:
    words = (*source.words, "--skip-bad", "--shard-bytes", "1")
    assert shard(*words) == 0 == shard(*words)
    assert len(list(source.out.glob("*.tar"))) == 9 and shard("verify", source.out) == 0


def test_skipped_samples_have_a_bound(source: Source, shard: Shard, capfd: Capture) -> None:
    words = (*source.words, "--skip-bad", "--max-bad-fraction")
    with pytest.raises(SystemExit, match="2"):
        shard(*words, "0.2")
    assert error_codes(capfd.readouterr().err) == ["MSA-PACK-203"]
    assert not source.out.exists() and len(listed(source.partial)) == 3
    for wrong in (("1.5",), ("-1",)):
        with pytest.raises(SystemExit, match="2"):
            shard(*words, *wrong)
    with pytest.raises(SystemExit, match="2"):
        shard(*source.words, "--max-bad-fraction", "0.5")
    capfd.readouterr()
    assert shard(*words, "0.25") == 0
    assert len(packed_members(source.out, "train")) == 9


def test_a_source_that_is_all_wrong_is_not_read_to_its_end(
    source: Source, shard: Shard, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharding.bad_samples._HOPELESS", 5)
    for number in range(12):
        cv2.imwrite(str(source.label(number)), np.full((48, 64), 77, np.uint8))
    for option in ((), ("--skip-bad",)):
        with pytest.raises(SystemExit, match="2"):
            shard(*source.words, *option)
        assert error_codes(capfd.readouterr().err) == ["MSA-PACK-202"]
        assert not source.out.exists() and not source.partial.exists()


def test_damaged_leftovers_are_made_again(source: Source, shard: Shard) -> None:
    with pytest.raises(SystemExit, match="2"):
        shard(*source.words)
    (tar,) = source.partial.glob("reuse-*.tar")
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    for number in BAD:
        source.repair(number)
    assert shard(*source.words) == 0 == shard("verify", source.out)


@pytest.mark.parametrize("option", [(), ("--skip-bad",)])
def test_files_that_cannot_be_read_for_now_are_all_named_and_never_skipped(
    option: tuple[str, ...], source: Source, shard: Shard, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in BAD:
        source.repair(number)
    real = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path in (source.image(3), source.label(9)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(SystemExit, match="2"):
            shard(*source.words, *option)
    said = capfd.readouterr().err
    assert error_codes(said) == ["MSA-PACK-006", "MSA-PACK-006", "MSA-PACK-201"] and "--skip-bad" not in said
    assert not source.out.exists()
    assert shard(*source.words, *option) == 0 and len(packed_members(source.out, "train")) == 12
