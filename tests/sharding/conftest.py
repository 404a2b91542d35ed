"""Small fake datasets in every layout, and the command in this process and in others."""

import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from msanet import logs
from msanet.datasets.voc import voc_color
from sharding.__main__ import main

REPOSITORY = Path(__file__).parents[2]
HEIGHT, WIDTH = 48, 64


class Fake:
    """Writes datasets of random 64x48 images; labels take all of `values`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.random = np.random.default_rng(0)

    def image(self, path: Path, shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), self.random.integers(0, 256, shape, dtype=np.uint8))
        return path

    def label(self, path: Path, values: Sequence[int], palette: bool = False) -> Path:
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(self.random.choice(np.array(values, dtype=np.uint8), (HEIGHT, WIDTH)))
        if palette:
            image.putpalette([level for index in range(256) for level in voc_color(index)])
        image.save(path)
        return path

    def camvid(self, name: str = "camvid", **counts: int) -> Path:
        for split, count in (counts or {"train": 5, "val": 3}).items():
            for i in range(count):
                self.image(self.root / name / split / f"0016E5_{i:05d}.png")
                self.label(self.root / name / f"{split}annot" / f"0016E5_{i:05d}.png", range(12))
        return self.root / name

    def cityscapes(self, name: str = "cityscapes", suffix: str = "labelIds", values: Sequence[int] = range(34)) -> Path:
        root = self.root / name
        for split, city, count in (
            ("train", "ulm", 2),
            ("train", "aachen", 2),
            ("val", "bonn", 1),
            ("test", "kiel", 1),
        ):
            for i in range(count):
                stem = f"{city}_{i:06d}_000019"
                self.image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
                self.label(root / "gtFine" / split / city / f"{stem}_gtFine_{suffix}.png", values)
        return root

    def voc(self, name: str = "VOCdevkit") -> Path:
        root = self.root / name / "VOC2012"
        lists = {"train": ["2007_b", "2007_a"], "val": ["2007_c"], "train_aug": ["2007_a", "2008_d"]}
        for source_id in ("2007_a", "2007_b", "2007_c", "2008_d"):
            self.image(root / "JPEGImages" / f"{source_id}.jpg")
            self.label(root / "SegmentationClassAug" / f"{source_id}.png", range(21))
        for source_id in ("2007_a", "2007_b", "2007_c"):
            self.label(root / "SegmentationClass" / f"{source_id}.png", [*range(21), 255], palette=True)
        for split, ids in lists.items():
            path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(ids) + "\n")
        return self.root / name

    def zip(self, folder: Path, target: Path) -> Path:
        """All files of `folder`, named with its own name in front."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder.parent))
        return target


@pytest.fixture(autouse=True)
def console() -> Iterator[None]:
    """Log to stderr, as commands do."""
    logger = logging.getLogger("msanet")
    before = logger.propagate, list(logger.handlers), logging.getLogger("sharding").parent
    logs.configure()
    yield
    logger.propagate, logger.handlers, logging.getLogger("sharding").parent = before


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.fixture
def shard() -> Callable[..., int]:
    """`python -m sharding` in this process, with one worker unless told."""

    def run(*words: object) -> int:
        return main([*map(str, words), *(() if "--workers" in words else ("--workers", "1"))])

    return run


@pytest.fixture
def light_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment of this process's children: finds the package, and does without torch (3 s each)."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(REPOSITORY)]))
    return dict(os.environ)


@pytest.fixture
def start(light_environment: dict[str, str]) -> Callable[..., "subprocess.Popen[str]"]:
    """Start `python -m sharding` as a process of its own."""

    def run(*words: object, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sharding", *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=light_environment | environment, start_new_session=True, stdout=pipe, stderr=pipe, text=True
        )

    return run


@pytest.fixture
def real_data() -> Path:
    """Folder of the real datasets, read only."""
    folder = os.environ.get("MSANET_TEST_DATA")
    if not folder:
        pytest.skip("MSANET_TEST_DATA names no folder with real datasets")
    return Path(folder)
