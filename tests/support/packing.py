"""What tests of the readers share: labels as packed, and commands that have to be refused."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.__main__ import main


def packed_members(out: Path, split: str) -> dict[str, dict[str, bytes]]:
    """{key: {extension: bytes}}, read with nothing of ours, in the order of the tars."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                content = tar.extractfile(info)
                assert content is not None
                found.setdefault(key, {})[extension] = content.read()
    return found


def packed_labels(out: Path, split: str) -> dict[str, np.ndarray]:
    """{id: train ids} of the samples, as packed_members reads them."""
    labels = {}
    for members in packed_members(out, split).values():
        (label,) = (data for extension, data in members.items() if extension.startswith("label."))
        labels[json.loads(members["json"])["id"]] = np.asarray(Image.open(io.BytesIO(label)))
    return labels


def refuse(words: list[object], out: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Run the command, check that it ends with exit code 2, one sentence and nothing but work kept on the disk; the sentence."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--out", str(out), "--workers", "1"])
    stderr = capfd.readouterr().err
    return check_refused(ended.value.code, stderr, out)


def check_refused(code: object, stderr: str, out: Path) -> str:
    """What a packing said that was refused: notes, and one sentence. What it packed before may be kept, and is removed here."""
    assert code == 2
    *notes, sentence = stderr.splitlines()
    assert sentence.startswith("error: ") and stderr.endswith("\n"), stderr
    assert all(re.match(r"\d\d:\d\d:\d\d ", note) for note in notes), stderr
    partial = out.with_name(out.name + ".partial")
    assert not out.exists()
    if partial.exists():
        assert any(partial.glob("*.tar")) or (partial / "bad-samples.jsonl").exists()
        assert not any(partial.glob("*.partial"))
        shutil.rmtree(partial)
    return stderr
