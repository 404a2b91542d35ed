"""Readers of the user's own: by file, by module, by an entry point."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from sharding.readers import find_reader, registry
from sharding.readers.reader import Reader
from support.annotations import HEIGHT, WIDTH, Annotated, png
from support.errors import error_codes, raises_user_error

Capture = pytest.CaptureFixture[str]
EXAMPLE = f"{REPOSITORY}/examples/own_reader.py:READER"
DECODING = """
from dataclasses import dataclass, replace
import numpy as np
from sharding.readers.mask_file import read_mask
import importlib.util
spec = importlib.util.spec_from_file_location("own_example", "{example}")
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

@dataclass(frozen=True)
class Upside_down:
    def __call__(self, data, name):
        return np.ascontiguousarray(read_mask(data, name).pixels[::-1])

def read(tree, options):
    return replace(example.read(tree, options), decode=Upside_down())

READER = replace(example.READER, read=read)
"""


@pytest.fixture
def fields(tmp_path: Path, capfd: Capture) -> Annotated:
    source = Annotated(tmp_path, EXAMPLE, capfd)
    for split in ("train", "val"):
        source.photos(f"{split}/images/a.jpg", f"{split}/images/b.jpg")
        for name in "ab":
            source.write(f"{split}/labels/{name}.png", png(LABEL))
    return source


LABEL = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
PACKED = np.array([255, 0, 1], np.uint8)[LABEL]


def test_the_example_packs_a_dataset(fields: Annotated) -> None:
    fields.pack()
    assert fields.splits() == {"train": ["a", "b"], "val": ["a", "b"]} and fields.classes == ("field", "road")
    assert np.array_equal(fields.labels()["a"], PACKED)
    lines = [line for line in Path(EXAMPLE.partition(":")[0]).read_text().splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.full
def test_workers_know_what_a_file_of_the_user_defines(fields: Annotated, tmp_path: Path) -> None:
    own = tmp_path / "upside_down.py"
    own.write_text(DECODING.replace("{example}", EXAMPLE.partition(":")[0]))
    fields._reader = f"{own}:READER"
    fields.pack("--workers", 2, "--shard-bytes", 1)
    assert np.array_equal(fields.labels("val")["b"], PACKED[::-1])


def test_an_installed_package_adds_readers_under_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capfd: Capture, fields: Annotated
) -> None:
    point = EntryPoint("fields", "own_reader:READER", registry.ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])
    assert "own_reader" not in sys.modules
    assert registry.installed_readers() == {"fields": "own_reader:READER"} and "own_reader" not in sys.modules
    assert isinstance(find_reader("fields"), Reader) and find_reader("own_reader:READER").name == "fields"
    fields._reader = "fields"
    fields.pack()
    assert "fields" in Annotated.refuse(named(fields, "feelds"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("broken", "no_such_module:X", group)])
    with raises_user_error("MSA-PACK-751", mentions="broken"):
        find_reader("broken")


def named(source: Annotated, reader: str) -> Annotated:
    source._reader = reader
    return source


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        ("", "READER", "750"),
        ("READER = 1", "READER", "752"),
        ("raise ValueError('x')", "READER", "751"),
        ("import no_such_module", "READER", "751"),
        (None, "READER", "750"),
    ],
)
def test_what_is_not_a_reader(content: str | None, name: str, code: str, fields: Annotated, tmp_path: Path) -> None:
    own = tmp_path / f"own_{code}_{len(content or '')}.py"
    if content is not None:
        own.write_text(content)
    assert error_codes(named(fields, f"{own}:{name}").refuse()) == [f"MSA-PACK-{code}"]


def test_every_reader_of_the_package_is_found_by_its_own_name() -> None:
    assert {name: reader.name for name, reader in registry.READERS.items()} == {name: name for name in registry.READERS}
    with raises_user_error("MSA-PACK-750", mentions="camvid"):
        find_reader("camvd")
