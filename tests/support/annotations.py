"""Sources of annotation tools, 24x20 pixels an image, and what they are packed as."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from sharding.__main__ import main
from support.packing import packed_labels, refuse

HEIGHT, WIDTH = 20, 24


def png(pixels: np.ndarray) -> bytes:
    """A PNG of these pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Annotated:
    """A folder of a tool, to be filled and packed."""

    def __init__(self, root: Path, reader: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.root, self.out, self._reader, self._capfd = root / "src", root / "out", reader, capfd
        self.root.mkdir()

    def write(self, name: str, content: Any) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def photos(self, *names: str, shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 90, np.uint8)).save(self.root / name)

    def pack(self, *words: object) -> str:
        """Pack it; what was said."""
        argv = [self._reader, "--source", self.root, "--out", self.out, "--workers", 1, *words]
        assert main([*map(str, argv)]) == 0
        return self._capfd.readouterr().err

    def refuse(self, *words: object) -> str:
        """What is said when it cannot be packed."""
        return refuse([self._reader, "--source", self.root, *words], self.out.with_name("refused"), self._capfd)

    @property
    def classes(self) -> tuple[str, ...]:
        return load_manifest(self.out).classes

    def labels(self, split: str = "train") -> dict[str, np.ndarray]:
        return packed_labels(self.out, split)

    def splits(self) -> dict[str, list[str]]:
        return {split: [*self.labels(split)] for split in load_manifest(self.out).splits}


def maker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Annotated]:
    """Makes a source for a reader."""
    return lambda reader: Annotated(tmp_path, reader, capfd)


def rows(*lines: str) -> np.ndarray:
    """A label map of digits, `x` is ignored."""
    return np.array([[255 if letter == "x" else int(letter) for letter in line] for line in lines], np.uint8)
