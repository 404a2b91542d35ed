"""Colors of labels against numbers made by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msanet.datasets import CAMVID
from msanet.report.palette import colorize, overlay, write_palette_png

PALETTE = ((10, 20, 30), (200, 100, 0))
LABEL = np.array([[0, 1], [255, 0]], dtype=np.uint8)


def test_colorise_paints_classes_and_ignore() -> None:
    expected = [[[10, 20, 30], [200, 100, 0]], [[0, 0, 0], [10, 20, 30]]]
    shown = colorize(LABEL, PALETTE)
    assert shown.dtype == np.uint8
    assert shown.tolist() == expected
    assert colorize(LABEL, PALETTE, ignore_color=(1, 2, 3))[1, 0].tolist() == [1, 2, 3]


def test_overlay_mixes_and_leaves_ignored_pixels_alone() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = overlay(image, LABEL, PALETTE, alpha=0.25)
    # 0.75 * 100 + 0.25 * color, rounded: 77.5 -> 78, 80, 82.5 -> 82 (to even)
    assert mixed.tolist() == [[[78, 80, 82], [125, 100, 75]], [[100, 100, 100], [78, 80, 82]]]
    assert (overlay(image, LABEL, PALETTE, alpha=0.0) == image).all()
    assert overlay(image, LABEL, PALETTE, alpha=1.0)[0, 1].tolist() == [200, 100, 0]
    assert (image == 100).all()


def test_palette_png_contains_train_ids_and_shows_colors(tmp_path: Path) -> None:
    label = np.array([[*range(11), 255]], dtype=np.uint8).repeat(3, axis=0)
    path = tmp_path / "label.png"
    write_palette_png(path, label, CAMVID.palette, ignore_color=(9, 8, 7))
    assert path.read_bytes()[24:26] == bytes([8, 3])  # PNG header: 8 bits per pixel, color type 3 = indexed
    with Image.open(path) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == label).all()
        shown = np.asarray(image.convert("RGB"))
    assert (shown == colorize(label, CAMVID.palette, ignore_color=(9, 8, 7))).all()
    assert shown[0, 11].tolist() == [9, 8, 7]


@pytest.mark.parametrize("palette_size", [1, 2, 16, 255])
def test_palette_png_keeps_8_bits_for_every_palette_size(tmp_path: Path, palette_size: int) -> None:
    label = np.array([[0, palette_size - 1, 255]], dtype=np.uint8)
    write_palette_png(tmp_path / "label.png", label, [(i, 0, 0) for i in range(palette_size)])
    assert (tmp_path / "label.png").read_bytes()[24] == 8
    with Image.open(tmp_path / "label.png") as image:
        assert np.asarray(image).tolist() == label.tolist()


def test_unknown_ids_are_named_in_the_error(tmp_path: Path) -> None:
    label = np.array([[0, 2, 7]], dtype=np.uint8)
    with pytest.raises(ValueError, match=r"id\(s\) \[2, 7\], expected train ids 0 to 1 or 255"):
        colorize(label, PALETTE)
    with pytest.raises(ValueError, match=r"\[2, 7\]"):
        write_palette_png(tmp_path / "label.png", label, PALETTE)
    assert not (tmp_path / "label.png").exists()


def test_wrong_types_shapes_and_palettes_are_errors() -> None:
    with pytest.raises(ValueError, match="int64, expected .* uint8"):
        colorize(LABEL.astype(np.int64), PALETTE)
    with pytest.raises(ValueError, match=r"\(3, 2, 3\)"):
        overlay(np.zeros((3, 2, 3), np.uint8), LABEL, PALETTE)
    with pytest.raises(ValueError, match="alpha 1.5"):
        overlay(np.zeros((2, 2, 3), np.uint8), LABEL, PALETTE, alpha=1.5)
    with pytest.raises(ValueError, match="not RGB"):
        colorize(LABEL, ((0, 0, 0), (0, 0, 256)))


def test_palette_import_stays_cheap() -> None:
    code = (
        "import sys, msanet.report.palette; print([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
