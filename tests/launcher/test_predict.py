"""`msanet predict` as users type it, in this process: which files it writes, what is in them, and how it ends on bad input."""

import errno
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from msanet.cli.main import main
from msanet.cli.predict import PredictionJob, prediction_job
from msanet.config import EvaluationConfig
from msanet.datasets import CAMVID, CITYSCAPES, VOC, DatasetSpec
from msanet.inference.predictor import Predictor
from msanet.models.io import load_network, save_network
from msanet.models.network import SegmentationNetwork
from support.errors import error_codes, raises_user_error
from support.images import read_image
from support.metadata import metadata

IDS = tuple(range(40, 40 + CAMVID.num_classes))


def checkpoint(folder: Path, name: str = "unet", spec: DatasetSpec = CAMVID, **options: Any) -> Path:
    """A newly initialized small network with a metadata, as a run leaves it."""
    own = metadata(name, spec, ids=IDS if spec is CAMVID else (), **{"width": 0.05, **options})
    torch.manual_seed(0)
    save_network(folder / "model.safetensors", own.build().state_dict(), own)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("unet"))


def write_image(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


def write_video(path: Path, shades: list[int], rate: float = 12.5, size: tuple[int, int] = (48, 64)) -> None:
    """Frames of one shade each."""
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), fourcc, rate, (size[1], size[0]))
    for shade in shades:
        writer.write(np.full((*size, 3), shade, np.uint8))
    writer.release()


def frames_of(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames


def predict(*words: object) -> int:
    """The exit code of `msanet predict` with these words."""
    try:
        return main(["predict", *map(str, words)])
    except SystemExit as ended:
        return int(ended.code or 0)


def job(*words: object) -> PredictionJob:
    return prediction_job(list(map(str, words)))


def labels(file: Path, image: np.ndarray, **settings: Any) -> np.ndarray:
    model, metadata = load_network(file, torch.device("cpu"))
    return (
        Predictor(model, EvaluationConfig(**settings), metadata.mean, metadata.std)
        .labels(torch.from_numpy(image))
        .numpy()
    )


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_kind_of_output_agrees(unet: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "images" / "deep" / "a.b.png")
    kinds = "palette,overlay,ids,train-ids,probabilities"
    words = ("--checkpoint", unet, "--images", tmp_path / "images", "--out", tmp_path / "out", "--write", kinds)
    assert predict(*words) == 0
    stem = str(tmp_path / "out" / "deep" / "a.b")
    endings = (".ids.png", ".overlay.jpg", ".png", ".probabilities.npz", ".train-ids.png")
    assert written(tmp_path / "out") == [f"deep/a.b{ending}" for ending in endings]

    expected = labels(unet, image)
    assert len(np.unique(expected)) > 2
    palette = Image.open(stem + ".png")
    assert palette.mode == "P" and np.array_equal(np.asarray(palette), expected)
    assert np.array_equal(np.asarray(palette.convert("RGB")), np.array(CAMVID.palette)[expected])
    assert np.array_equal(read_image(stem + ".train-ids.png", cv2.IMREAD_UNCHANGED), expected)
    assert np.array_equal(read_image(stem + ".ids.png", cv2.IMREAD_UNCHANGED), np.array(IDS)[expected])
    found = np.load(stem + ".probabilities.npz")
    assert tuple(found["classes"]) == CAMVID.classes
    assert found["probabilities"].dtype == np.float16 and found["probabilities"].shape == (11, 24, 32)
    assert np.allclose(found["probabilities"].astype(np.float32).sum(axis=0), 1, atol=0.01)
    assert (
        found["probabilities"].max(axis=0) == np.take_along_axis(found["probabilities"], expected[None].astype(int), 0)
    ).all()
    shown = np.asarray(Image.open(stem + ".overlay.jpg")).astype(float)
    mixed = 0.5 * image + 0.5 * np.array(CAMVID.palette)[expected]
    assert abs(shown.mean(axis=(0, 1)) - mixed.mean(axis=(0, 1))).max() < 4


def test_settings_of_evaluation_are_the_networks_and_override_the_cards(unet: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    settings = {"resize": (16, 24), "scales": (1.0, 0.5), "flip": True}
    words = ("--checkpoint", unet, "--out", tmp_path, "--write", "train-ids", "--images", tmp_path / "a.png")
    overrides = ("evaluation.resize=[16,24]", "evaluation.scales=[1,0.5]", "evaluation.flip=true")
    assert predict(*words, *overrides) == 0  # --images takes the words after it, but not these
    found = read_image(tmp_path / "a.train-ids.png", cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, labels(unet, image, **settings))
    assert not np.array_equal(found, labels(unet, image))


def test_settings_stand_anywhere_and_crf_is_short_for_its_setting(unet: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    first = ("evaluation.flip=true", "--checkpoint", unet, "--images", tmp_path / "a.png", "--crf")
    settings = job(*first, "--out", tmp_path / "out", "evaluation.crf.iterations=3").settings
    assert settings.flip and settings.crf.enabled and settings.crf.iterations == 3
    assert not job("--checkpoint", unet, "--images", tmp_path / "a.png", "--out", tmp_path / "out").settings.crf.enabled


def names(*words: object, out: Path) -> list[str]:
    found = job("--checkpoint", "x", "--out", out, "--images", *words).files
    return sorted(str(name) for _, name in found)


def test_folders_and_patterns_keep_folders_in_names(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    for path in ("a.png", "one/b.jpg", "one/two/c.jpg", "three/b.jpg", "[x].png"):
        write_image(root / path)
    (root / "notes.txt").write_text("left alone")
    write_video(root / "clip.mp4", [0])
    assert names(root, out=out) == ["[x]", "a", "clip", "one/b", "one/two/c", "three/b"]
    assert names(f"{root}/**/*.jpg", out=out) == ["one/b", "one/two/c", "three/b"]
    assert names(f"{root}/*/b.*", out=out) == ["one/b", "three/b"]
    assert names(f"{root}/one/*.jpg", out=out) == ["b"]
    assert names(root / "[x].png", out=out) == ["[x]"]  # a file of that name is no pattern
    assert names(root, f"{root}/**/*.jpg", out=out) == names(root, out=out)
    assert names(root / "one", out=root / "one" / "two") == ["b"]  # earlier results are no images
    assert names(root / "one", out=root) == ["b", "two/c"]
    with raises_user_error("MSA-CLI-010", mentions="'b'"):
        names(root / "one" / "b.jpg", root / "three" / "b.jpg", out=out)
    with raises_user_error("MSA-CLI-009", "--images"):
        names(f"{root}/*.tiff", out=out)
    with raises_user_error("MSA-CLI-009", "--images"):
        names("evaluation.flip=true", out=out)
    with raises_user_error("MSA-CLI-009", "--images"):
        names(root / "x", out=out)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("IMG_1.JPG", "IMG_1.MOV"), ["IMG_1", "IMG_1"]),  # a Live Photo: results with other endings
        (("a.jpg", "a.png", "b.jpg"), ["a.jpg", "a.png", "b"]),
        (("one/a.jpg", "a.jpg", "one/a.JPEG"), ["a", "one/a.JPEG", "one/a.jpg"]),
        (("a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/a.jpg", "__MACOSX/._a.jpg"), ["a"]),
    ],
)
def test_files_side_by_side(files: tuple[str, ...], expected: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    assert names(tmp_path / "in", out=tmp_path / "out") == expected
    assert names(f"{tmp_path}/in/**", out=tmp_path / "out") == expected


def test_linked_folders_are_followed_and_circles_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, elsewhere, out = tmp_path / "in", tmp_path / "elsewhere", tmp_path / "out"
    for path in (root / "a.jpg", elsewhere / "deep" / "b.jpg"):
        write_image(path)
    (root / "link").symlink_to(elsewhere)
    for place in (root / "up", elsewhere / "back"):
        place.symlink_to(root)
    (elsewhere / "self").symlink_to("self")
    (elsewhere / "gone").symlink_to("nowhere")
    assert names(root, out=out) == names(f"{root}/**/*.jpg", out=out) == names(f"{root}/**", out=out)
    assert names(root, out=out) == ["a", "link/deep/b"]
    assert names(f"{root}/link/**/*.jpg", out=out) == ["back/a", "deep/b"]
    assert "a link to a folder that it lies in" in caplog.text


def test_what_is_no_image_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.heic", "b.heic", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"")
    with raises_user_error("MSA-CLI-009", "--images", mentions="3 other files (.heic 2, .txt 1)"):
        names(tmp_path / "in", out=tmp_path / "out")
    write_image(tmp_path / "in" / "c.jpg")
    with caplog.at_level("INFO"):
        assert names(tmp_path / "in", out=tmp_path / "out") == ["c"]
    assert "3 other files (.heic 2, .txt 1)" in caplog.text


def test_no_result_takes_the_place_of_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with raises_user_error("MSA-CLI-010", "--out"):
        names(tmp_path, out=tmp_path)
    job("--checkpoint", "x", "--images", tmp_path, "--out", tmp_path, "--write", "ids")  # a.ids.png: nothing is lost
    assert names(tmp_path / "a.png", out=tmp_path / "out") == ["a"]


def test_results_of_two_files_never_have_one_name(tmp_path: Path) -> None:
    x, y = tmp_path / "x", tmp_path / "y"
    for path in (x / "x.jpg", x / "x.ids.jpg", y / "clip" / "000001.jpg", y / "other" / "a.jpg"):
        write_image(path)
    write_video(y / "clip.mp4", [0])

    def ask(*words: object, out: Path = tmp_path / "out") -> int:
        return len(job("--checkpoint", "x", "--out", out, "--images", *words).files)

    with raises_user_error("MSA-CLI-010", "--images", "'x.ids.png'"):
        ask(x, "--write", "ids,palette")
    assert ask(x) == ask(x, "--write", "ids") == 2
    for kinds in ("palette", "overlay,ids"):
        with raises_user_error("MSA-CLI-010", "--images", "000001.jpg"):
            ask(y, "--write", kinds)
        with raises_user_error("MSA-CLI-010", "--out", "y/clip'"):
            ask(y / "clip" / "000001.jpg", y / "clip.mp4", "--write", kinds, out=y)
    assert ask(y) == ask(y, "--write", "overlay") == 3  # of frames nothing but the video


def test_a_video_becomes_a_video_of_overlays(unet: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "clip.avi", [10, 120, 240])
    assert predict("--checkpoint", unet, "--images", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["clip.overlay.mp4"]
    shown = frames_of(tmp_path / "out" / "clip.overlay.mp4")
    assert cv2.VideoCapture(str(tmp_path / "out" / "clip.overlay.mp4")).get(cv2.CAP_PROP_FPS) == 12.5
    assert [frame.shape for frame in shown] == [(48, 64, 3)] * 3
    for frame, image in zip(shown, frames_of(tmp_path / "in" / "clip.avi"), strict=True):
        mixed = 0.5 * image + 0.5 * np.array(CAMVID.palette)[labels(unet, image)]
        assert abs(frame.mean(axis=(0, 1)) - mixed.mean(axis=(0, 1))).max() < 12  # MPEG-4 loses some color


def test_kinds_that_are_asked_for_are_written_for_each_frame(unet: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", [10, 240])
    words = ("--checkpoint", unet, "--images", tmp_path / "clip.avi", "--out", tmp_path / "out")
    assert predict(*words, "--write", "palette,train-ids") == 0
    frames = ["clip/000001.png", "clip/000001.train-ids.png", "clip/000002.png", "clip/000002.train-ids.png"]
    assert written(tmp_path / "out") == frames
    for number, image in enumerate(frames_of(tmp_path / "clip.avi"), start=1):
        found = read_image(tmp_path / "out" / "clip" / f"{number:06d}.train-ids.png", cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, labels(unet, image))


def test_broken_files_are_named_and_the_others_predicted(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_image(folder / "z.png")
    write_image(folder / "large.png", width=96)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "video.mp4").write_bytes(b"no video" * 99)
    write_image(folder / "secret.png")
    forward = SegmentationNetwork.forward

    def tight(self: SegmentationNetwork, image_NCHW: torch.Tensor) -> Any:
        if image_NCHW.shape[3] == 96:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, image_NCHW)

    monkeypatch.setattr(SegmentationNetwork, "forward", tight)
    read_bytes = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.name == "secret.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert predict("--checkpoint", unet, "--images", folder, "--out", tmp_path / "out") == 1
    said = capsys.readouterr()
    errors = error_codes(said.err)
    assert len(errors) == 4 and "Traceback" not in said.err
    for part in (
        "broken.png'",
        "large.png'",
        "secret.png' cannot be read (permission denied)",
        "video.mp4'",
    ):
        assert part in said.err
    assert "1 of 5 files segmented" in said.out
    assert written(tmp_path / "out") == ["z.overlay.jpg", "z.png"]


def test_a_full_disk_ends_the_command_with_one_sentence(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "b.png")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() says it: without the file's name

    monkeypatch.setattr(Path, "write_bytes", full)
    words = ("--checkpoint", unet, "--images", tmp_path / "in", "--out", tmp_path / "out", "--write", "overlay")
    assert predict(*words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    (error,) = errors
    assert error_codes(error) == ["MSA-FILE-003"] and str(tmp_path / "out" / "a.overlay.jpg") in error
    assert written(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--write", "palete"], "did you mean 'palette'"),
        (["--write", "maps"], "attention_to_scale"),
        (["--query", "1", "2"], "[MSA-CLI-006]"),
        (["--submission", "cityscapes", "--write", "ids"], "[MSA-CLI-006]"),
        (["--submission", "cityscapes"], "cityscapes"),
        (["--submission", "voc"], "voc"),
        (["--submission", "coco"], "[MSA-CLI-001]"),
        (["evaluation.flipp=true"], "did you mean 'evaluation.flip'"),
        (["--out", "FILE"], "[MSA-CLI-008]"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    words: list[str],
    sentence: str,
    unet: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_image(tmp_path / "a.png")
    words = [str(tmp_path / "a.png") if word == "FILE" else word for word in words]
    given = ["--checkpoint", unet, "--images", tmp_path / "a.png", "--out", tmp_path / "out", *words]
    assert predict(*given) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(error_codes(said)) == 1 and "Traceback" not in said
    assert written(tmp_path) == ["a.png"]


def test_a_submission_wants_the_servers_classes(unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "berlin_000000_000019_leftImg8bit.png")
    words = ("--checkpoint", unet, "--images", tmp_path, "--out", tmp_path / "out", "--submission", "cityscapes")
    assert predict(*words) == 2
    assert "19" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_maps_come_out_of_the_command(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, "msanet")
    write_image(tmp_path / "a.png")
    words = ("--checkpoint", file, "--images", tmp_path / "a.png", "--out", tmp_path / "out", "--write", "maps")
    assert predict(*words, "--query", 3, 31, "--query", 0, 0) == 0
    assert written(tmp_path / "out") == ["a.attention-half.jpg", "a.attention-quarter.jpg"]
    assert predict(*words, "--query", 3, 32) == 1  # outside this image


@pytest.mark.parametrize(
    ("server", "spec", "image", "result"),
    [
        (
            "cityscapes",
            CITYSCAPES,
            "berlin/berlin_000000_000019_leftImg8bit.png",
            "berlin_000000_000019_pred_labelIds.png",
        ),
        ("voc", VOC, "2008_000006.jpg", "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"),
    ],
)
def test_a_submission_is_its_own_files_alone(
    server: str, spec: DatasetSpec, image: str, result: str, tmp_path: Path
) -> None:
    """What lies in them is the matter of tests/inference/test_submission.py."""
    file = checkpoint(tmp_path, spec=spec)
    write_image(tmp_path / "test" / image)
    words = ("--checkpoint", file, "--images", tmp_path / "test", "--out", tmp_path / "out", "--submission", server)
    assert predict(*words) == 0
    assert predict(*words) == 0  # the same command once more replaces them
    assert written(tmp_path / "out") == [result]
    pixels = np.asarray(Image.open(tmp_path / "out" / result))
    expected = labels(file, np.array(Image.open(tmp_path / "test" / image)))
    ids = {train_id: id for id, train_id in spec.train_ids.items()}
    assert np.array_equal(pixels, np.vectorize(ids.__getitem__)(expected))
