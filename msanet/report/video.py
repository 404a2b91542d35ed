"""Videos through OpenCV: frames in, MPEG-4 out."""

import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ENOSPC
from pathlib import Path

import cv2
import numpy as np

from msanet.errors import UserError
from msanet.files import PARTIAL, atomic_file
from msanet.report.palette import UInt8

logger = logging.getLogger(__name__)

VIDEO_EXTENSIONS = ("mp4", "avi", "mov", "mkv", "webm")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: our own error names a damaged file
_DEFAULT_RATE = 25.0  # frames per second if a file does not say
_FULL = 2**20  # bytes: with less space the disk counts as full, which OpenCV does not report


def is_video(path: Path) -> bool:
    """Whether the name ends as a video's does."""
    return path.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS


class VideoReader:
    """The frames of a video, one in memory at a time. Raises UserError if no frame can be read.

    rate: frames per second. count: frames according to the header, an estimate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._first = self._next()
        if self._first is None:
            raise UserError(
                "MSA-EVAL-017",
                f"'{path}' cannot be read as a video, expected at least one frame; replace or remove the file",
                setting="--images",
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _DEFAULT_RATE
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[UInt8]:
        """(H, W, 3) uint8 RGB, once. Warns if there are fewer than the header says."""
        read, frame_HWC = 0, self._first
        self._first = None
        while frame_HWC is not None:
            yield frame_HWC
            read, frame_HWC = read + 1, self._next()
        self._capture.release()
        if read < self.count - 1:  # by one they may differ in complete files
            logger.warning(f"'{self.path}' ends after {read} frames, its header announces {self.count}")

    def _next(self) -> UInt8 | None:
        done, frame_HWC = self._capture.read()
        return np.asarray(cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2RGB), np.uint8) if done else None


class VideoWriter:
    """Frames, (H, W, 3) uint8 RGB, to an .mp4 (mp4v) of `rate` frames per second and the size of the first.

    MPEG-4 has even sizes only: an odd last row or column is cropped.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.written = 0
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame_HWC: UInt8) -> None:
        """Append a frame.

        Raises UserError if it has another size than the first, or one that MPEG-4 cannot hold, OSError for a full disk.
        """
        height, width = frame_HWC.shape[:2]
        if self._writer is None:
            self._size = (height, width)
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, fourcc, self._rate, (width, height))
        if not self._writer.isOpened() or self._size != (height, width):
            raise UserError(
                "MSA-EVAL-018",
                f"frames of {width}x{height} at {self._rate:g} per second do not fit into '{self._path.name}'; "
                "write an image of each frame instead, --write palette",
                setting="--write",
            )
        self.require_space()
        self._writer.write(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR))
        self.written += 1

    def require_space(self) -> None:
        """Raise OSError where the disk is nearly full."""
        if shutil.disk_usage(self._path.parent).free < _FULL:
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(self._path))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def new_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A video that is at `path` after the block, unless it raised. Raises OSError if frames are missing in it."""
    # FFmpeg detects the container from the extension.
    with atomic_file(path, path.with_name(path.stem + PARTIAL + path.suffix), lasting=False) as temporary:
        writer = VideoWriter(temporary, rate)
        try:
            yield writer
        finally:
            writer.close()
        writer.require_space()
        written = cv2.VideoCapture(str(temporary), cv2.CAP_FFMPEG)
        if int(written.get(cv2.CAP_PROP_FRAME_COUNT)) != writer.written:
            raise OSError(EIO, os.strerror(EIO), str(path))
