"""What the docs tell users to type works."""

import re
from pathlib import Path

import cv2
import numpy as np

import sharding.__main__ as command
from msanet.data.manifest import load_manifest
from msanet.data.samples import decode_sample
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_a_dataset_is_added_in_30_lines(tmp_path: Path) -> None:
    """The file of examples/ is the one in docs/data.md, and packs and reads a dataset."""
    example = ROOT / "examples/own_reader.py"
    section = (ROOT / "docs" / "data.md").read_text().partition("## A dataset of your own")[2]
    block = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    assert example.read_text().endswith(block) and sum(bool(line.strip()) for line in block.splitlines()) <= 30

    label = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
    for split in ("train", "val"):
        for folder, ending, pixels in (("images", "jpg", np.full((2, 3, 3), 90, np.uint8)), ("labels", "png", label)):
            (tmp_path / "source" / split / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "source" / split / folder / f"one.{ending}"), pixels)
    words = ["--source", str(tmp_path / "source"), "--out", str(tmp_path / "shards"), "--workers", "1"]
    assert command.main([f"{example}:READER", *words]) == 0
    assert load_manifest(tmp_path / "shards").classes == ("field", "road")
    image, train_ids = decode_sample(ShardSource(LocalStorage(tmp_path / "shards"), "val").read(0))
    assert image.shape == (2, 3, 3) and train_ids.tolist() == [[255, 0, 1], [1, 1, 0]]


def test_documents_link_to_files_that_exist() -> None:
    assert len(PAGES) > 30
    for page in PAGES:
        if (
            page.parent.name == "reference"
        ):  # links to pages that the site generates; tests/docs/test_site.py follows them
            continue
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_in_the_documents_name_files_that_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"(?:launcher|jobs|tests|benchmarks)/[\w/.-]+\.(?:py|yaml|sh)", page.read_text()):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
