"""Photos on their way into shards: upright, sound, of 8 bits; and what verify says of those that are not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.data.image.codec import CODECS, decode_image
from msanet.data.image.photo import TRANSPARENT, TURNED
from msanet.data.manifest import load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.doctor.shards import sample_split
from sharding import shard as shard_module
from sharding.photo_check import check_photo
from support.errors import error_codes, raises_user_error
from support.packing import packed_labels, packed_members
from support.pictures import encoded, exif, noise, put

Capture = pytest.CaptureFixture[str]
TWO = b"classes: [{id: 0, name: bg}, {id: 1, name: thing}]\n"
SHOWN = np.zeros((48, 48, 3), np.uint8)
SHOWN[3:18, 4:30] = 250
BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Folder:
    """A dataset of photos and masks in `images/train` and `labels/train`, and the command that packs it."""

    def __init__(self, root: Path, shard: Any) -> None:
        self.root, self.shard, self.out = root, shard, root / "out"
        put(root / "classes.yaml", TWO)

    def add(self, name: str, photo: bytes, mask: np.ndarray) -> None:
        put(self.root / "src/images/train" / name, photo)
        put(self.root / "src/labels/train" / f"{Path(name).stem}.png", encoded(mask))

    def pack(self, *words: object) -> int:
        source = ("folder", "--source", self.root / "src", "--classes", self.root / "classes.yaml")
        return int(self.shard(*source, "--splits", "train", "--out", self.out, *words))

    def refuse(self, capfd: Capture) -> str:
        with pytest.raises(SystemExit) as ended:
            self.pack()
        assert ended.value.code == 2
        return capfd.readouterr().err


@pytest.fixture
def folder(tmp_path: Path, shard: Any) -> Folder:
    return Folder(tmp_path, shard)


def packed_images(out: Path) -> dict[str, np.ndarray]:
    """{key: pixels}, read with Pillow, which turns nothing unasked."""
    found = {}
    for key, members in packed_members(out, "train").items():
        (data,) = (data for extension, data in members.items() if extension.startswith("image."))
        found[key] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_photos_are_packed_as_shown(codec: str, folder: Folder, capfd: Capture) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "jpg": {"quality": 98, "subsampling": 0},
        "png": {},
        "webp": {"lossless": True},
        "tif": {},
    }
    for orientation, turn in BACK.items():
        for ending, options in kinds.items():
            kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
            photo = encoded(Image.fromarray(SHOWN).transpose(turn), kind, exif=exif(orientation), **options)
            folder.add(f"{ending}{orientation}.{ending}", photo, (SHOWN[..., 0] > 0).astype(np.uint8))
    assert folder.pack("--codec", codec) == 0
    labels = packed_labels(folder.out, "train")
    for key, image_HWC in packed_images(folder.out).items():
        assert np.array_equal(image_HWC[..., 0] > 125, labels[key] == 1), key
    for members in packed_members(folder.out, "train").values():
        (name,) = (name for name in members if name.startswith("image."))
        assert np.array_equal(decode_image(members[name], name) > 125, SHOWN > 125)
    assert capfd.readouterr().err.count(TURNED) == 1
    assert folder.shard("verify", folder.out) == 0


def test_original_passes_upright_files_on(folder: Folder) -> None:
    photo = encoded(noise(), "JPEG", exif=exif(1))
    folder.add("a.jpg", photo, np.zeros((40, 60), np.uint8))
    assert folder.pack("--codec", "original") == 0
    assert packed_members(folder.out, "train")["a"]["image.jpg"] == photo


@pytest.mark.parametrize(("orientation", "size"), [(6, (40, 60)), (1, (60, 40))])
def test_sizes_that_differ_by_a_turn_name_exif(
    orientation: int, size: tuple[int, int], folder: Folder, capfd: Capture
) -> None:
    """A mask on the photo as it is stored; a photo whose EXIF is lost."""
    folder.add("a.jpg", encoded(noise(), "JPEG", exif=exif(orientation)), np.zeros(size, np.uint8))
    sentence = folder.refuse(capfd)
    assert error_codes(sentence) == ["MSA-PACK-024"] and "EXIF" in sentence


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_12_bits_are_refused(kind: str, folder: Folder, capfd: Capture) -> None:
    photo = np.random.default_rng(0).integers(0, 4096, (40, 60), np.uint16)
    folder.add(f"a.{kind.lower()}", encoded(photo, kind), np.zeros((40, 60), np.uint8))
    sentence = folder.refuse(capfd)
    assert error_codes(sentence) == ["MSA-DATA-101"] and "16 bits" in sentence


def test_transparency_is_said_once(folder: Folder, capfd: Capture) -> None:
    for name in "abc":
        folder.add(f"{name}.png", encoded(np.dstack([noise(), noise()[..., 0]])), np.zeros((40, 60), np.uint8))
    assert folder.pack() == 0
    err = capfd.readouterr().err
    assert err.count(TRANSPARENT) == 1 and "a.png' and 2 other files" in err


def holed_jpeg() -> bytes:
    data = bytearray(encoded(np.kron(noise(30, 40), np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95))
    data[len(data) // 3 : len(data) // 3 + 1500] = bytes(1500)
    return bytes(data)


def test_a_jpeg_with_a_hole_is_named(folder: Folder, capfd: Capture) -> None:
    folder.add("a.jpg", holed_jpeg(), np.zeros((240, 320), np.uint8))
    sentence = folder.refuse(capfd)
    assert error_codes(sentence) == ["MSA-PACK-027"] and "a.jpg" in sentence


def test_damage_of_masks_is_damage_of_the_source(folder: Folder, capfd: Capture) -> None:
    folder.add("a.png", encoded(noise()), np.zeros((40, 60), np.uint8))
    mask = folder.root / "src/labels/train/a.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    assert error_codes(folder.refuse(capfd)) == ["MSA-PACK-027"]


def test_verify_finds_damage_that_an_earlier_version_packed(
    folder: Folder, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Passed:
        notes, is_stored_so = (), True

        def __init__(self, data: bytes, name: str) -> None:
            self.pixels_HWC = decode_image(data, name)

    monkeypatch.setattr(shard_module, "read_photo", Passed)
    folder.add("hole.jpg", holed_jpeg(), np.zeros((240, 320), np.uint8))
    folder.add("turned.jpg", encoded(SHOWN, "JPEG", exif=exif(3)), np.zeros((48, 48), np.uint8))
    folder.add("sound.jpg", encoded(noise(), "JPEG", exif=exif(6)), np.zeros((40, 60), np.uint8))
    assert folder.pack("--codec", "original") == 0
    with pytest.raises(SystemExit):
        folder.shard("verify", folder.out)
    err = capfd.readouterr().err
    assert "hole.image.jpg" in err and "turned.image.jpg" in err and "sound.image.jpg" not in err
    manifest = load_manifest(folder.out)
    statistics, errors = sample_split(
        ShardSource(LocalStorage(folder.out), "train", manifest), 50
    )  # what doctor looks at
    assert [found.key for found in statistics] == ["sound"] and len(errors) == 2


def test_an_orientation_in_a_shard() -> None:
    """Labels of the shape as stored were drawn on the photo as stored; where both shapes are one, nobody knows."""
    assert check_photo(encoded(noise(), "JPEG", exif=exif(8)), "a") == (40, 60)
    for shape, orientation in (((40, 60), 3), ((40, 60), 2), ((48, 48), 6)):
        with raises_user_error("MSA-PACK-106"):
            check_photo(encoded(noise(*shape), "JPEG", exif=exif(orientation)), "a")


def test_a_split_without_a_labelled_pixel_is_said(folder: Folder, capfd: Capture) -> None:
    put(folder.root / "classes.yaml", TWO + b"ignore: [7]\n")
    folder.add("a.png", encoded(noise()), np.full((40, 60), 7, np.uint8))
    assert folder.pack() == 0
    assert "split 'train' has no labeled pixel" in capfd.readouterr().err
