"""Counts of an evaluation that come from somebody else, read by `msanet rescore`, `compare` and `worst`."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile import altered, damaged
from msanet.cli.main import main
from msanet.datasets import CITYSCAPES
from msanet.evaluation import per_image_counts
from msanet.evaluation.per_image_counts import (
    collect_counts,
    image_counts,
    read_per_image_counts,
    write_per_image_counts,
)
from support.errors import raises_user_error

RECORDS = collect_counts(
    "cityscapes",
    "0" * 64,
    "val",
    CITYSCAPES.classes,
    [image_counts(n, f"image_{n}", np.diag(np.arange(19) + n)) for n in range(5)],
    np.array([[n, 26003, 100, 60, 70] for n in range(5)]),
)
COMMANDS = (
    ["rescore", "--protocol", "official-cityscapes", "--resamples", "3"],
    ["worst"],
    ["compare", "--resamples", "3"],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "evaluation-val.npz"
    write_per_image_counts(path, RECORDS)
    return path


def evaluated(path: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether all commands take the file; a refusal has to be one sentence."""
    for command, *words in COMMANDS:
        try:
            assert main([command, str(path), *([str(path)] if command == "compare" else []), *words]) == 0
        except SystemExit as ended:
            stderr = capsys.readouterr().err
            assert (
                ended.code == 2
                and stderr.startswith("error: ")
                and stderr.count("\n") == 1
                and stderr[:-1].isprintable()
            )
            return False
        finally:
            capsys.readouterr()
    return True


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_the_file_is_sound(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(whole, capsys)


@given(data=st.data())
def test_damaged_bytes_are_evaluated_or_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    path = whole.with_name("damaged.npz")
    path.write_bytes(data.draw(damaged(whole.read_bytes()) | st.binary(max_size=100)))
    assert evaluated(path, capsys) in (True, False)


EXTREMES = st.sampled_from([0, -1, 1, 2, 7, 19, 20, 379, 380, 2**31 - 1, 2**40, 2**62, -(2**62), 2**63 - 1, -(2**63)])


@given(data=st.data())
def test_other_numbers_and_names_are_evaluated_or_refused(
    whole: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(whole) as file:
        arrays = dict(file)
    name = data.draw(st.sampled_from(sorted(arrays)))
    if name == "about":
        arrays[name] = np.array(data.draw(altered(json.loads(str(arrays[name])))).decode(errors="replace"))
    elif name == "keys":
        arrays[name] = np.array(data.draw(st.lists(st.text(max_size=5), min_size=0, max_size=6)), np.str_)
    else:
        flat = arrays[name].reshape(-1)
        for _ in range(data.draw(st.integers(1, 3))):
            number = data.draw(EXTREMES)
            flat[data.draw(st.integers(0, len(flat) - 1))] = (
                number if flat.dtype == np.int64 else np.int32(number % 2**31)
            )
        if data.draw(st.booleans()):
            arrays[name] = data.draw(
                st.sampled_from([arrays[name][:-1], arrays[name].astype(float), arrays[name][None]])
            )
    path = whole.with_name("other.npz")
    path.write_bytes(npz(arrays))
    assert evaluated(path, capsys) in (True, False)


def test_a_bomb_is_refused_before_it_is_unpacked(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = whole.with_name("bomb.npz")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("counts.npy", bytes(2**21))
    monkeypatch.setattr(per_image_counts, "MAX_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was unpacked"))
    assert path.stat().st_size < 4000
    with raises_user_error("MSA-EVAL-008", mentions="bomb.npz"):
        read_per_image_counts(path)


def test_an_array_that_claims_more_than_there_is_takes_no_memory(whole: Path) -> None:
    path, header = whole.with_name("claims.npz"), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**31,)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("counts.npy", header.getvalue() + bytes(64))
    with raises_user_error("MSA-EVAL-008", mentions="claims.npz"):
        read_per_image_counts(path)


def test_sums_cannot_overflow(whole: Path) -> None:
    with np.load(whole) as file:
        arrays = dict(file)
    for change in (
        {"counts": np.full_like(arrays["counts"], 2**62)},
        {"starts": np.array([0, 2**63 - 1, -(2**63), 0, 0, len(arrays["cells"])])},
    ):
        path = whole.with_name("sums.npz")
        path.write_bytes(npz({**arrays, **change}))
        with raises_user_error("MSA-EVAL-009"):
            read_per_image_counts(path)
