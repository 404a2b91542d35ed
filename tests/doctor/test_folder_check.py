"""`msanet doctor --folder`: every fault of a raw dataset is named in one run, and packing does what is said."""

import io
import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import msanet
from msanet.api.packing import pack
from msanet.cli.doctor import main
from msanet.cli.main import main as command
from msanet.data.image.photo import TURNED
from msanet.data.manifest import BAD_SAMPLES_NAME
from msanet.doctor.diagnostics import Diagnostic
from msanet.doctor.folder_check import PAGE, FolderCase, check_all, check_folder, list_case
from msanet.doctor.folder_copies import groups_of_copies
from msanet.doctor.folder_samples import fingerprint
from sharding.readers.mask_reader import BINARY, COLORS_DECIDE, GREY_COLORS
from sharding.shard import PackingJob
from support.errors import error_codes, raises_user_error
from support.pictures import encoded, exif, noise, put

SIZE = (40, 60)
COLORED = b"classes: [{id: 0, name: bg, color: [0, 0, 0]}, {id: 1, name: <b>thing, color: [255, 255, 255]}]\n"
PLAIN = b"classes: [{id: 0, name: bg}, {id: 1, name: thing}]\n"
NASTY = "<img src=x onerror=alert(1)>"


def photo(seed: int) -> np.ndarray:
    """A smooth image, as photos are."""
    return np.asarray(cv2.resize(noise(5, 7, seed=seed), SIZE[::-1], interpolation=cv2.INTER_LINEAR))


def mask(high: int = 255) -> np.ndarray:
    pixels = np.zeros(SIZE, np.uint8)
    pixels[8:20, 10:30] = high
    return pixels


def palette_mask(*colors: tuple[int, int, int]) -> bytes:
    image = Image.fromarray(mask(1), "P")
    image.putpalette([value for color in colors for value in color])
    return encoded(image)


class Source:
    """A dataset in images/SPLIT and labels/SPLIT."""

    def __init__(self, root: Path, classes: bytes) -> None:
        self.root, self.classes = root / "src", put(root / "classes.yaml", classes)

    def add(self, name: str, image: bytes, label: bytes | None, split: str = "train") -> None:
        put(self.root / "images" / split / name, image)
        if label is not None:
            put(self.root / "labels" / split / f"{Path(name).stem}.png", label)

    def case(self, out: Path | None = None) -> FolderCase:
        return FolderCase(self.root, self.classes, out=out)


@pytest.fixture
def faulty(tmp_path: Path) -> Source:
    """One of each kind of fault among sound samples."""
    made = Source(tmp_path, COLORED)
    good = encoded(mask())
    for number in range(6):
        made.add(f"a{number}.png", encoded(photo(number)), good)
        made.add(f"b{number}.png", encoded(photo(20 + number)), good, "val")
    turned = Image.fromarray(photo(10)).transpose(Image.Transpose.ROTATE_90)
    made.add("turned.jpg", encoded(turned, "JPEG", exif=exif(6)), good)
    made.add("cut1.png", encoded(photo(11))[:900], good)
    made.add("cut2.png", encoded(photo(12))[:900], good)
    made.add("deep.png", encoded(Image.fromarray(photo(13)[..., 0].astype(np.uint16) * 200)), good)
    made.add("value.png", encoded(photo(14)), encoded(mask(7)))
    made.add("size.png", encoded(photo(15)), encoded(mask()[:30]))
    made.add("swapped.png", encoded(photo(16)), palette_mask((255, 255, 255), (0, 0, 0)))
    made.add("palette.png", encoded(photo(17)), palette_mask((0, 0, 0), (9, 80, 7)))
    made.add("copy.png", encoded(photo(0)), good)
    made.add("leak.png", encoded(photo(1)), good, "val")
    made.add("alike.jpg", encoded(photo(2), "JPEG", quality=92), good, "val")
    made.add(f"{NASTY.replace('/', '')}.png", encoded(photo(18))[:900], good)
    return made


def texts(found: list[Diagnostic]) -> dict[tuple[str, str], str]:
    """{(level, check): their texts, one a line}."""
    joined: dict[tuple[str, str], str] = {}
    for one in found:
        joined[one.level, one.check] = joined.get((one.level, one.check), "") + one.text + "\n"
    return joined


def test_everything_is_named_at_once(faulty: Source) -> None:
    faulty.add("unlabeled.png", encoded(photo(19)), None)
    found = texts(check_folder(faulty.case()))
    assert "MSA-PACK-022" in found["fault", "listing"] and "unlabeled" in found["fault", "listing"]
    for check, names in {
        "damage": ("3 of 24 samples", "cut1.png", "cut2.png", "MSA-PACK-027"),
        "bit depth": ("deep.png", "16 bits"),
        "values": ("value.png", "[7]", "MSA-PACK-104"),
        "sizes": ("size.png", "60x30", "60x40"),
        "palettes": ("palette.png", "[9, 80, 7]"),
        "overlap": ("1 of the 8 images of val have the bytes of one of train", "leak.png", "a1.png"),
        "packing": ("7 of 24 samples", "before a sample is read: MSA-PACK-022"),
    }.items():
        for name in names:
            assert name in found["fault", check], (check, name)
    assert "alike.jpg" in found["warning", "overlap"] and "a2.png" in found["warning", "overlap"]
    assert "copy.png" in found["warning", "duplicates"] and "a0.png" in found["warning", "duplicates"]
    assert TURNED in found["advice", "EXIF"] and "turned.jpg" in found["advice", "EXIF"]
    assert GREY_COLORS in found["advice", "palettes"] and COLORS_DECIDE in found["advice", "palettes"]
    assert "val: bg 90.0%, <b>thing 10.0%" in found["ok", "classes"]


def test_packing_does_what_is_said(faulty: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, tree, _, refusals = list_case(faulty.case())
    assert not refusals
    assert found.decode
    samples, histograms = check_all(PackingJob(tree, found.spec, found.decode, "original", tmp_path), found, 1)
    said = "\n".join(one.text for one in check_folder(faulty.case()))
    options = {"classes": faulty.classes, "workers": 1, "skip_bad": True}
    with caplog.at_level(logging.WARNING, logger="sharding"):
        packed = pack("folder", faulty.root, tmp_path / "out", **options)
    listed = [json.loads(line) for line in (tmp_path / "out" / BAD_SAMPLES_NAME).read_text().splitlines()]
    checked = [one for one in samples if one.code]
    assert "7 of 24 samples" in said and "with --skip-bad the other 17 are packed" in said
    assert {(one["key"], one["code"], one["error"]) for one in listed} == {
        (one.key, one.code, one.error) for one in checked
    }
    for split, info in packed.manifest.splits.items():
        assert info.samples == sum(one.split == split and not one.code for one in samples)
        assert info.histogram == tuple(histograms[split][:2]) and info.ignored == histograms[split][255]
    for record in caplog.records:
        if any(text in record.getMessage() for text in (TURNED, GREY_COLORS, COLORS_DECIDE)):
            assert record.getMessage() in said


def test_masks_of_0_and_255_and_what_skip_bad_accepts(tmp_path: Path) -> None:
    made = Source(tmp_path, PLAIN)
    for number in range(12):
        made.add(f"{number}.png", encoded(photo(number)), encoded(mask()))
    found = texts(check_folder(made.case()))
    assert "files that belong to no sample" not in found.get(("advice", "listing"), "")
    assert BINARY in found["advice", "0/255 masks"] and "255 as the second class" in found["advice", "0/255 masks"]
    assert "all 12 samples" in found["ok", "packing"] and "--random-split" in found["advice", "overlap"]
    assert not [level for level, _ in found if level == "fault"]
    put(made.root / "images/train/3.png", b"")
    assert "with --skip-bad the other 11 are packed" in texts(check_folder(made.case()))["fault", "packing"]
    for number in range(7):
        put(made.root / f"images/train/{number}.png", b"")
    assert "refused with --skip-bad too, which accepts 6" in texts(check_folder(made.case()))["fault", "packing"]
    with raises_user_error("MSA-PACK-203", mentions="7 of 12"):
        pack("folder", made.root, tmp_path / "out", classes=made.classes, workers=1, skip_bad=True)
    for number in range(7, 12):
        put(made.root / f"images/train/{number}.png", b"")
    assert "all samples of split 'train' are bad" in texts(check_folder(made.case()))["fault", "packing"]


def test_the_page_shows_samples_and_escapes_names(faulty: Source, tmp_path: Path) -> None:
    check_folder(faulty.case(tmp_path / "page"))
    page = (tmp_path / "page" / PAGE).read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and "<b>thing" not in page
    assert page.count("data:image/") > 15 and not re.search(r"(src|href)=\"(?!data:)", page)
    assert "label as stored of value" in page and "image with label of copy" in page
    assert [path.name for path in (tmp_path / "page").iterdir()] == [PAGE]


def test_command_and_function_say_the_same(faulty: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--folder", faulty.root, "--classes", faulty.classes, "--workers", "1", "--json", "--dataset", "folder"]
    assert main([*map(str, words)]) == 1
    printed = json.loads(capsys.readouterr().out)["diagnostics"]
    found = msanet.doctor(folder=faulty.root, classes=faulty.classes, workers=1)
    assert printed == [vars(one) for one in found]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--folder", "/nowhere"], "MSA-PACK-001"),
        (["--folder", ".", "--dataset", "camwid"], "MSA-CLI-002"),
        (["--folder", ".", "data.path=x"], "MSA-PACK-770"),
        (["--folder", ".", "--epochs", "3"], "MSA-PACK-770"),
        (["--out", "x"], "MSA-PACK-771"),
        (["--folder", ".", "--workers", "0"], "MSA-CLI-001"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    words: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command(["doctor", *words])
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and error_codes(stderr) == [code] and not list(tmp_path.iterdir())


def test_unknown_layouts_and_missing_classes_are_errors(tmp_path: Path) -> None:
    made = Source(tmp_path, PLAIN)
    made.add("a.png", encoded(photo(0)), encoded(mask(1)))
    with raises_user_error("MSA-PACK-207", setting="--classes"):
        check_folder(FolderCase(made.root))
    with raises_user_error("MSA-PACK-730", setting="--folder"):
        check_folder(FolderCase(made.root / "images"))
    with raises_user_error("MSA-PACK-770", setting="--folder", mentions="config"):
        msanet.doctor("camvid", folder=made.root)


def test_copies_are_found_and_images_that_only_resemble_are_not() -> None:
    images = [photo(seed) for seed in range(30)]
    resaved = np.asarray(Image.open(io.BytesIO(encoded(images[5], "JPEG", quality=60))))
    smaller = cv2.resize(images[7], (45, 30), interpolation=cv2.INTER_AREA)
    flat = [np.full((*SIZE, 3), level, np.uint8) for level in (10, 200)]
    marks = [
        fingerprint(image.tobytes(), image) for image in [*images, resaved, smaller, *flat, flat[0], images[9] // 2]
    ]
    assert groups_of_copies(marks) == [[5, 30], [7, 31], [32, 34]]
    assert groups_of_copies([]) == []


@pytest.mark.full
def test_processes_find_the_same(faulty: Source) -> None:
    assert check_folder(replace(faulty.case(), workers=2)) == check_folder(faulty.case())


def test_real_camvid(test_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        for path in sorted((test_data / "camvid" / split).glob("*.png"))[:3]:
            for folder in (split, f"{split}annot"):
                put(root / folder / path.name, (test_data / "camvid" / folder / path.name).read_bytes())
    shutil.copy(next((root / "train").iterdir()), leak := root / "val" / "leak.png")
    shutil.copy(next((root / "trainannot").iterdir()), root / "valannot" / leak.name)
    found = texts(check_folder(FolderCase(root)))
    assert "laid out as camvid, with the samples: 3 of train, 4 of val" in found["ok", "layout"]
    assert "all 7 samples can be packed" in found["ok", "packing"] and "480x360" in found["ok", "sizes"]
    assert "1 of the 4 images of val have the bytes of one of train" in found["fault", "overlap"]
