"""`msanet verify`: a sound dataset is called sound, and each kind of damage is named, all of it at once."""

import errno
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from msanet.data.image.codec import CODECS, encode_label
from sharding.__main__ import main
from support.errors import error_codes

Start = Callable[..., "subprocess.Popen[str]"]
Capture = pytest.CaptureFixture[str]
Members = dict[str, bytes]
FIRST, SECOND, VAL = "train-000000.tar", "train-000001.tar", "val-000000.tar"
IMAGE, LABEL, JSON = (f"0016E5_00000.{extension}" for extension in ("image.png", "label.png", "json"))
INSTANCES = "0016E5_00000.instances.png"


@pytest.fixture
def shards(fake: Any, tmp_path: Path) -> Path:
    """Five training samples in three shards and two of validation in one."""
    words = ["--source", fake.camvid(train=5, val=2), "--out", tmp_path / "shards", "--shard-bytes", "25KB"]
    assert main(["camvid", *map(str, words), "--codec", "original", "--workers", "1"]) == 0
    return tmp_path / "shards"


@pytest.fixture
def faults(shards: Path, capfd: Capture) -> Callable[[], list[str]]:
    """Verify the shards, check that they are refused as promised, and return the lines but for the last sentence."""

    def run() -> list[str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(shards), "--workers", "1"])
        out, err = capfd.readouterr()
        assert ended.value.code == 2 and out == "" and "Traceback" not in err
        *logged, last = err.splitlines()
        lines = [line.partition(" warning: ")[2] for line in logged]
        assert error_codes(err) == ["MSA-PACK-048"] and f"'{shards}'" in last and f" {len(lines)} " in last, err
        files = list(dict.fromkeys(line.partition(":")[0] for line in lines))
        assert all(file in last for file in files[:5]) and (len(files) <= 5 or f"and {len(files) - 5} more" in last)
        return lines

    return run


def read_index(shards: Path, file: str) -> dict[str, Any]:
    return json.loads((shards / file.replace(".tar", ".idx.json")).read_text())


def write_index(shards: Path, file: str, index: dict[str, Any]) -> None:
    (shards / file.replace(".tar", ".idx.json")).write_text(json.dumps(index))


def edit_manifest(shards: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((shards / "dataset.json").read_text())
    change(manifest)
    (shards / "dataset.json").write_text(json.dumps(manifest))


def edit_index(shards: Path, change: Callable[[dict[str, Any]], object], file: str = FIRST) -> None:
    index = read_index(shards, file)
    change(index)
    write_index(shards, file, index)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def member(shards: Path, name: str, file: str = FIRST) -> dict[str, Any]:
    key, _, extension = name.partition(".")
    sample = next(sample for sample in read_index(shards, file)["samples"] if sample["key"] == key)
    return next(found for found in sample["members"] if found["extension"] == extension)


def repack(shards: Path, change: Callable[[Members], object], file: str = FIRST) -> None:
    """Write the shard again with other members; its hashes, sizes and places agree, in the manifest too."""
    with tarfile.open(shards / file) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    change(members)
    _agree(members)
    with tarfile.open(shards / file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(shards / file) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            entry = {"extension": extension, "offset": info.offset_data, "length": info.size}
            samples.setdefault(key, []).append({**entry, "crc32": zlib.crc32(members[info.name])})
    index = read_index(shards, file)
    index["samples"] = [{"key": key, "members": found} for key, found in samples.items()]
    write_index(shards, file, index)
    seal(shards, file)


def _agree(members: Members) -> None:
    """Set the crc32s in the json of each sample."""
    for name, data in members.items():
        key, _, extension = name.partition(".")
        if extension == "json" and data.startswith(b'{"id'):
            parts = {other.split(".")[1]: zlib.crc32(members[other]) for other in members if other.startswith(key)}
            parts.pop("json")
            members[name] = json.dumps({**json.loads(data), "crc32": parts}).encode()


def seal(shards: Path, file: str = FIRST) -> None:
    """Let index and manifest agree with the tar as it is now."""
    data = (shards / file).read_bytes()
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_index(shards, lambda index: index.update(facts), file)

    def update(manifest: dict[str, Any]) -> None:
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                if shard["file"] == file:
                    shard.update(facts)

    edit_manifest(shards, update)


def first_split(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["splits"]["train"]


def test_sound_shards(shards: Path, capfd: Capture, light_environment: object) -> None:
    size = sum(path.stat().st_size for path in shards.glob("*.tar")) / 1e6
    for workers in ("1", "2"):
        capfd.readouterr()
        assert main(["verify", str(shards), "--workers", workers]) == 0
        out, err = capfd.readouterr()
        assert out == f"7 samples in 4 shards, {size:.1f} MB: all valid\n" and err == ""


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_packs_sound_shards(codec: str, fake: Any, tmp_path: Path, capfd: Capture) -> None:
    root, out = fake.voc(), tmp_path / "shards"
    assert main(["voc", "--source", str(root), "--out", str(out), "--codec", codec, "--workers", "1"]) == 0
    assert main(["verify", str(out), "--workers", "1"]) == 0
    assert "all valid" in capfd.readouterr().out


def test_the_helper_that_repacks_leaves_sound_shards(shards: Path, capfd: Capture) -> None:
    repack(shards, lambda members: None)
    assert main(["verify", str(shards), "--workers", "1"]) == 0


@pytest.mark.parametrize("name", [IMAGE, LABEL, JSON])
def test_a_flipped_byte(name: str, shards: Path, faults: Callable[[], list[str]]) -> None:
    place = member(shards, name)
    flip(shards / FIRST, place["offset"] + place["length"] // 2)
    sha256, crc32 = faults()
    assert sha256.startswith(f"{FIRST}: sha256 is ") and read_index(shards, FIRST)["sha256"] in sha256
    assert crc32.startswith(f"{FIRST}: {name} at byte {place['offset']}: {place['length']} bytes have crc32 ")
    assert crc32.endswith(f"expected {place['crc32']:08x}")


def test_a_flipped_byte_in_a_tar_header(shards: Path, faults: Callable[[], list[str]]) -> None:
    flip(shards / FIRST, member(shards, LABEL)["offset"] - 500)
    assert faults()[1].startswith(f"{FIRST}: {LABEL} at byte {member(shards, LABEL)['offset']}: its tar header is dama")


def test_a_truncated_tar(shards: Path, faults: Callable[[], list[str]]) -> None:
    size, last = (shards / FIRST).stat().st_size, member(shards, "0016E5_00001.json")
    os.truncate(shards / FIRST, last["offset"])
    size_line, sha256, cut = faults()
    assert size_line == f"{FIRST}: has {last['offset']} bytes, expected {size} as in dataset.json"
    assert "sha256" in sha256 and cut.startswith(f"{FIRST}: 0016E5_00001.json at byte {last['offset']}: ")
    assert f"expected them to end inside the tar of {last['offset']}" in cut


def test_missing_files(shards: Path, faults: Callable[[], list[str]]) -> None:
    size = (shards / SECOND).stat().st_size
    (shards / SECOND).unlink()
    (shards / "val-000000.idx.json").unlink()
    tar, index = faults()
    assert tar == f"{SECOND}: is missing, expected a file of {size} bytes"
    assert index.startswith("val-000000.idx.json: ") and "is missing" in index


def test_a_shard_that_cannot_be_read(
    shards: Path, faults: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hashlib.file_digest

    def digest(file: Any, name: Any) -> Any:
        if file.name.endswith(SECOND):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(file, name)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    assert faults() == [f"{SECOND}: cannot be read (input/output error), expected a readable file"]


def test_foreign_files(shards: Path, faults: Callable[[], list[str]]) -> None:
    (shards / "notes.txt").write_text("x")
    shutil.copy(shards / FIRST, shards / "train-000009.tar")
    notes, tar = faults()
    assert notes.startswith("notes.txt: is foreign, expected only dataset.json and")
    assert tar.startswith("train-000009.tar: is foreign")


def test_swapped_shards(shards: Path, faults: Callable[[], list[str]]) -> None:
    sha256 = {file: read_index(shards, file)["sha256"] for file in (FIRST, SECOND)}
    (shards / FIRST).rename(shards / "other")
    (shards / SECOND).rename(shards / FIRST)
    (shards / "other").rename(shards / SECOND)
    lines = faults()
    assert f"{FIRST}: sha256 is {sha256[SECOND]}, expected {sha256[FIRST]} as in dataset.json" in lines
    assert f"{SECOND}: sha256 is {sha256[FIRST]}, expected {sha256[SECOND]} as in dataset.json" in lines


def test_swapped_shards_with_their_indexes(shards: Path, faults: Callable[[], list[str]]) -> None:
    for suffix in (".tar", ".idx.json"):
        one, two = shards / f"train-000000{suffix}", shards / f"train-000001{suffix}"
        data = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(data)
    lines = faults()
    assert f"train-000000.idx.json: file is {SECOND}, expected {FIRST} as in dataset.json" in lines
    assert not [line for line in lines if "crc32" in line]


MANIFEST_EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "histogram": (
        lambda manifest: first_split(manifest)["histogram"].__setitem__(3, 77),
        "dataset.json: split 'train': histogram says 77 for class 'road', expected ",
    ),
    "ignored": (
        lambda manifest: first_split(manifest).update(ignored=7),
        "dataset.json: split 'train': histogram says 7 for ignored pixels, expected ",
    ),
    "sha256": (
        lambda manifest: first_split(manifest)["shards"][0].update(sha256="0" * 64),
        f"{FIRST}: sha256 is ",
    ),
    "bytes": (
        lambda manifest: first_split(manifest)["shards"][0].update(bytes=10),
        " bytes, expected 10 as in dataset.json",
    ),
    "shard twice": (
        lambda manifest: first_split(manifest)["shards"].__setitem__(1, first_split(manifest)["shards"][0]),
        f"dataset.json: lists {FIRST} 2 times, expected once",
    ),
    "samples": (
        lambda manifest: [
            first_split(manifest)["shards"][0].update(samples=3),
            first_split(manifest).update(samples=6),
        ],
        "train-000000.idx.json: number of samples is 2, expected 3 as in dataset.json",
    ),
    "codec": (lambda manifest: manifest.update(codec="originam"), "dataset.json: codec is 'originam', expected one of"),
}


@pytest.mark.parametrize("edit", MANIFEST_EDITS)
def test_an_edited_manifest(edit: str, shards: Path, faults: Callable[[], list[str]]) -> None:
    change, expected = MANIFEST_EDITS[edit]
    edit_manifest(shards, change)
    lines = faults()
    assert any(expected in line for line in lines), lines


def test_an_empty_manifest(shards: Path, faults: Callable[[], list[str]]) -> None:
    edit_manifest(shards, lambda manifest: manifest.update(splits={}))
    assert faults()[0] == "dataset.json: lists no shard, expected at least one"


def test_a_manifest_that_cannot_be_read(shards: Path, capfd: Capture) -> None:
    (shards / "dataset.json").write_bytes(b"\xff{")
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(shards)])
    assert "dataset.json' is damaged" in capfd.readouterr().err


INDEX_EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "offset": (
        lambda index: index["samples"][0]["members"][1].update(offset=513),
        f"{FIRST}: {LABEL} at byte 513: ",
    ),
    "offset beyond the file": (
        lambda index: index["samples"][0]["members"][0].update(offset=2**60),
        f"{FIRST}: {IMAGE} at byte {2**60}: has ",
    ),
    "histogram": (
        lambda index: index["histogram"].__setitem__(0, 5),
        "train-000000.idx.json: histogram says 5 for class 'sky', expected ",
    ),
    "short histogram": (
        lambda index: index["histogram"].pop(),
        "train-000000.idx.json: histogram has 10 entries, expected 11",
    ),
    "sample left out": (
        lambda index: index["samples"].pop(),
        "train-000000.idx.json: number of samples is 1, expected 2 as in dataset.json",
    ),
    "sample left out, found in the tar": (
        lambda index: index["samples"].pop(),
        ": goes on, expected the tar's end",
    ),
    "first sample left out, found in the tar": (
        lambda index: index["samples"].pop(0),
        f"{FIRST}: the members of the index fill ",
    ),
    "member left out": (
        lambda index: index["samples"][0]["members"].pop(0),
        f"{FIRST}: 0016E5_00000: holds label.png, json, expected one image, one label and one json",
    ),
    "sha256": (lambda index: index.update(sha256="0" * 64), "train-000000.idx.json: sha256 is 0000"),
    "no number": (lambda index: index.update(ignored="x"), "train-000000.idx.json: "),
    "other key": (
        lambda index: index["samples"][0].update(key="0016E5_\n"),
        f"{FIRST}: 0016E5_?.image.png at byte 512: its tar header is for '{IMAGE}' of ",
    ),
}


@pytest.mark.parametrize("edit", INDEX_EDITS)
def test_an_edited_index(edit: str, shards: Path, faults: Callable[[], list[str]]) -> None:
    change, expected = INDEX_EDITS[edit]
    edit_index(shards, change)
    lines = faults()
    assert any(expected in line for line in lines), lines


def facts(**changes: Any) -> Callable[[Members], object]:
    return lambda members: members.update({JSON: json.dumps({**json.loads(members[JSON]), **changes}).encode()})


def encode_ids(ids_HW: np.ndarray) -> bytes:
    data: bytes = cv2.imencode(".png", ids_HW)[1].tobytes()
    return data


def jpeg_cut_short(members: Members) -> None:
    members[IMAGE] = members[IMAGE][:60]


# All bytes are as the hashes say: only who looks at the content finds these.
CONTENTS: dict[str, tuple[Callable[[Members], object], str]] = {
    "unknown value": (
        lambda members: members.update({LABEL: encode_label(np.full((48, 64), 77, np.uint8))}),
        f"{LABEL} at byte .*: label holds the values [77], expected 0 to 10 or 255",
    ),
    "16-bit label": (
        lambda members: members.update({LABEL: encode_ids(np.zeros((48, 64), np.uint16))}),
        f"{LABEL} at byte .*: label is of uint16, expected uint8",
    ),
    "other label": (
        lambda members: members.update({LABEL: encode_label(np.zeros((48, 64), np.uint8))}),
        "histogram says ",
    ),
    "size": (
        lambda members: members.update({LABEL: encode_label(np.zeros((48, 60), np.uint8))}),
        f"{LABEL} at byte .*: is 60x48, expected 64x48 as its image",
    ),
    "broken image": (jpeg_cut_short, f"{IMAGE} at byte .*: '{IMAGE}' cannot be "),
    "label is text": (lambda members: members.update({LABEL: b"x"}), f"{LABEL} at byte .*: '{LABEL}' cannot be read"),
    "no label": (lambda members: members.pop(LABEL), "0016E5_00000: holds image.png, json, expected one image, one"),
    "second image": (
        lambda members: members.update({"0016E5_00000.image.jpg": members[IMAGE]}),
        "0016E5_00000: holds image.png, label.png, json, image.jpg, expected one image",
    ),
    "size of the instances": (
        lambda members: members.update({INSTANCES: encode_ids(np.zeros((48, 60), np.uint16))}),
        f"{INSTANCES} at byte .*: is 60x48, expected 64x48 as its image",
    ),
    "8-bit instances": (
        lambda members: members.update({INSTANCES: encode_label(np.zeros((48, 64), np.uint8))}),
        f"{INSTANCES} at byte .*: instance map '{INSTANCES}' has uint8 values, expected 16-bit ids",
    ),
    "id": (facts(id="x"), f"{JSON} at byte .*: id is 'x', expected the id whose key is '0016E5_00000'"),
    "height": (facts(height=47), f"{JSON} at byte .*: says 64x47, expected 64x48 as decoded"),
    "text for a number": (facts(width="64"), f"{JSON} at byte .*: is wrong at width: "),
    "no json": (lambda members: members.update({JSON: b"\xff"}), f"{JSON} at byte .*: is wrong at the document: "),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_wrong_content_under_right_hashes(content: str, shards: Path, faults: Callable[[], list[str]]) -> None:
    change, expected = CONTENTS[content]
    repack(shards, change)
    lines = faults()
    start, _, end = expected.partition(".*")
    found = [line for line in lines if start in line and end in line]
    assert found and not [line for line in lines if "sha256" in line], lines


def test_the_crc32_in_a_json(shards: Path, faults: Callable[[], list[str]]) -> None:
    with tarfile.open(shards / FIRST) as tar:
        written = tar.extractfile(JSON).read()  # type: ignore[union-attr]
    wrong = written.replace(b'"label": ', b'"label": 1')
    repack(shards, lambda members: members.update({JSON: b" " + wrong}))  # the space keeps `repack` from mending it
    (line,) = faults()
    assert "crc32 of the label is 1" in line and f"expected {member(shards, LABEL)['crc32']} as in the index" in line


def test_a_key_in_two_shards(shards: Path, faults: Callable[[], list[str]]) -> None:
    def rename(members: Members) -> None:
        for name in list(members):
            members[name.replace("00002", "00000")] = members.pop(name).replace(b"00002", b"00000")

    repack(shards, rename, SECOND)
    assert faults() == [f"{SECOND}: key '0016E5_00000' is also in {FIRST}, expected once in split 'train'"]


def test_all_faults_at_once_and_the_same_from_many_processes(shards: Path, start: Start) -> None:
    for name, file in ((IMAGE, FIRST), (LABEL, VAL)):
        flip(shards / file, member(shards, name, file)["offset"] + 300)
    (shards / SECOND).unlink()
    edit_manifest(shards, lambda manifest: manifest["splits"]["val"].update(ignored=1))
    outputs = []
    for workers in (1, 3):
        process = start("verify", shards, "--workers", workers)
        output, log = process.communicate(timeout=60)
        outputs.append((output, re.sub(r"(?m)^\d\d:\d\d:\d\d warning: ", "", log)))
        assert process.returncode == 2
    assert outputs[0] == outputs[1]
    *lines, last = outputs[0][1].splitlines()
    assert [line.split(":")[0] for line in lines] == [FIRST, FIRST, SECOND, VAL, VAL]
    assert error_codes(last) == ["MSA-PACK-048"] and " 5 " in last


def test_random_damage_never_ends_in_a_traceback(shards: Path, tmp_path: Path, capfd: Capture) -> None:
    dice = random.Random(0)
    for number in range(60):
        damaged = shutil.copytree(shards, tmp_path / f"damaged-{number}")
        path = dice.choice(sorted(damaged.iterdir()))
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        try:
            code: object = main(["verify", str(damaged), "--workers", "1"])
        except SystemExit as ended:
            code = ended.code
        # Names, colors and the writer's own plan have no second copy to be compared with.
        assert code == 2 or path.suffix == ".json", (path.name, number)
        assert code in (0, 2) and "Traceback" not in capfd.readouterr().err
        shutil.rmtree(damaged)


def test_words_that_cannot_be(shards: Path, tmp_path: Path, capfd: Capture) -> None:
    for words, expected in (
        (["verify", str(shards), "--workers", "0"], "workers is 0"),
        (["verify", str(tmp_path / "absent")], "holds no dataset.json"),
        (["verify"], "SHARDS"),
        (["verfy", str(shards)], "did you mean 'verify'?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert expected in capfd.readouterr().err
