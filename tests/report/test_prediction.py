"""Files are whole or absent; videos go frame by frame."""

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from msanet.files import atomic_file
from msanet.report.prediction import write_image
from msanet.report.video import VideoReader, new_video
from support.errors import raises_user_error


def frame(shade: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), (shade, 255 - shade, 40), np.uint8)


def write(path: Path, count: int, rate: float = 25.0) -> Path:
    with new_video(path, rate) as video:
        for number in range(count):
            video.write(frame(20 * number))
    return path


def test_an_unfinished_file_keeps_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.png"
    with atomic_file(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "first"
        raise KeyboardInterrupt
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"] and path.read_text() == "first"


def test_errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised, atomic_file(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_image(tmp_path / "file" / "a.png", frame(0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_images_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    wide = np.zeros((1, 70_000, 3), np.uint8)
    with raises_user_error("MSA-EVAL-016", setting="--write", mentions="70000x1"):
        write_image(tmp_path / "a.jpg", wide)
    write_image(tmp_path / "a.png", wide)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("rate", [12.5, 23.976023976, 29.97, 59.94005994])
def test_videos_keep_rate_size_colors_and_frames(rate: float, tmp_path: Path) -> None:
    video = VideoReader(write(tmp_path / "a.mp4", 8, rate))
    assert video.rate == pytest.approx(rate, abs=1e-3) and video.count == 8
    frames = list(video.frames())
    assert len(frames) == 8
    for number, found in enumerate(frames):
        assert found.shape == (48, 64, 3) and abs(found.astype(int) - frame(20 * number)).max() < 16
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_one_frame_is_read_at_a_time(tmp_path: Path) -> None:
    video = VideoReader(write(tmp_path / "a.mp4", 8))
    frames = video.frames()
    for number in range(1, 4):
        next(frames)
        assert video._capture.get(cv2.CAP_PROP_POS_FRAMES) == number


def test_a_video_that_ends_early_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(40):
        writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer.release()
    content = (tmp_path / "a.avi").read_bytes()
    assert len(list(VideoReader(tmp_path / "a.avi").frames())) == 40 and not caplog.records
    (tmp_path / "a.avi").write_bytes(content[: len(content) // 2])
    count = len(list(VideoReader(tmp_path / "a.avi").frames()))
    assert 1 < count < 39
    assert len(caplog.records) == 1 and f"a.avi' ends after {count} frames" in caplog.messages[0]


def test_a_file_without_a_frame_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with raises_user_error("MSA-EVAL-017", setting="--images"):
        VideoReader(tmp_path / "a.mp4")


def test_frames_of_another_size_and_full_disks_leave_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises_user_error("MSA-EVAL-018", setting="--write"), new_video(tmp_path / "a.mp4", 25.0) as video:
        video.write(frame(0))
        video.write(frame(0, width=32))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.mp4", 3)
    free = iter([1 << 30, 1 << 30, 1000])  # full after the last frame, before the file's index
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": next(free)}))
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.mp4", 2)
    monkeypatch.undo()
    with pytest.raises(OSError, match="Input/output error"), new_video(tmp_path / "a.mp4", 25.0) as video:
        video.write(frame(0))
        video.written += 1  # as if a frame had not reached the disk
    assert list(tmp_path.iterdir()) == []
