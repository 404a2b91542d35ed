"""Which pixels of a photo are predicted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from msanet import logs
from msanet.data.image.photo import TURNED
from msanet.inference.writer import read_image
from support.errors import raises_user_error
from support.pictures import encoded, exif, noise, put


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_read_as_shown(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_seen", set())
    for name in "ab":
        path = put(tmp_path / f"{name}.{kind.lower()}", encoded(noise(), kind, exif=exif(6)))
        assert np.array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")))
    assert sum(TURNED in record.getMessage() for record in caplog.records) == 1


def test_what_is_damaged_or_of_more_bits_is_refused(tmp_path: Path) -> None:
    deep = put(tmp_path / "deep.png", encoded(noise()[..., 0].astype(np.uint16) * 16))
    with raises_user_error("MSA-DATA-101", mentions="deep.png"):
        read_image(deep)
    whole = encoded(np.kron(noise(30, 40), np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95)
    hole = put(tmp_path / "hole.jpg", whole[:9000] + bytes(1500) + whole[10500:])
    with raises_user_error("MSA-DATA-017", mentions="hole.jpg"):
        read_image(hole)
    cut = put(tmp_path / "cut.png", encoded(noise())[:-30])
    with raises_user_error("MSA-DATA-017", mentions="cut.png"):
        read_image(cut)
