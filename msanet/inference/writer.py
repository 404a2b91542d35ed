"""From files of images and videos to files of predictions."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from msanet.config import EvaluationConfig
from msanet.data.image.band_file import read_bands, select_bands
from msanet.data.image.photo import read_photo
from msanet.data.label_tensors import to_label_array
from msanet.datasets import id_dtype, ignore_index, label_dtype
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.errors import UserError
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.blocks import BlockPredictor
from msanet.inference.predictor import Predictor
from msanet.inference.scenes import (
    SCENE_ENDINGS,
    is_scene,
    labels_of,
    network_bands,
    open_scene,
    scene_files,
    scene_settings,
)
from msanet.inference.submission import SubmissionFormat
from msanet.logs import once, track
from msanet.models.io import ModelMetadata
from msanet.report.bands import picture
from msanet.report.palette import Label, UInt8, overlay
from msanet.report.prediction import write_image, write_palette, write_probabilities
from msanet.report.video import VideoReader, is_video, new_video

logger = logging.getLogger(__name__)

ENDINGS = {
    "palette": ".png",
    "overlay": ".overlay.jpg",
    "ids": ".ids.png",
    "train-ids": ".train-ids.png",
    "probabilities": ".probabilities.npz",
    "maps": "",
}
"""Kind of output -> what the file's name ends with; that of maps depends on the network."""

VIDEO_ENDING = ".overlay.mp4"


class PredictionWriter:
    """Predicts files with a network in evaluation mode, and writes the outputs of each under one stem.

    kinds: keys of ENDINGS; None: palette (of more than 255 classes ids) and overlay of an image, the overlay of a video.
    queries_Q2: (row, column) of pixels for the attention maps. submission: write only the files of a benchmark's submission.
    shown_bands: what overlays show; None: as the training's reports.
    Raises UserError if the network cannot give these.
    """

    def __init__(
        self,
        model: nn.Module,
        metadata: ModelMetadata,
        settings: EvaluationConfig,
        kinds: Collection[str] | None = None,
        queries_Q2: Sequence[tuple[int, int]] = (),
        submission: SubmissionFormat | None = None,
        shown_bands: Sequence[int] | None = None,
    ) -> None:
        if submission:
            submission.require_classes(metadata.classes)
        self.metadata = metadata
        self.submission = submission
        self.num_classes = len(metadata.classes)
        has_palette = label_dtype(self.num_classes) == np.uint8
        default = () if submission else ("palette" if has_palette else "ids", "overlay")
        self.kinds = frozenset(default if kinds is None else kinds)
        self.video_kinds = self.kinds - {"palette", "ids"} if kinds is None else self.kinds
        if "palette" in self.kinds and not has_palette:
            raise UserError(
                "MSA-INFER-797",
                f"--write names palette, whose PNGs hold at most 256 colors, and the network has {self.num_classes} classes; "
                "choose ids or train-ids, which are of 16 bits then",
                setting="--write",
            )
        self.predictor = Predictor(model, settings, metadata.mean, metadata.std)
        self.maps = AttentionMaps(self.predictor, queries_Q2) if "maps" in self.kinds else None
        dtype = id_dtype(self.num_classes, metadata.ids)
        self._ids = np.full(ignore_index(self.num_classes) + 1, np.iinfo(dtype).max, dtype)
        self._ids[: len(metadata.ids)] = metadata.ids
        self.shown_bands = shown_bands or metadata.shown_bands

    def write(self, path: Path, stem: Path) -> None:
        """Predict an image or video and write STEM and an ending of ENDINGS for each kind; folders are made as needed.

        A georeferenced or large TIFF gives files of SCENE_ENDINGS with the same georeference. A video gives STEM.overlay.mp4,
        and of each frame the other kinds under STEM/000001 and so on. Raises UserError if the file cannot be read or when out
        of memory, OSError if it cannot be written.
        """
        if is_video(path):
            self._write_video(path, stem)
        elif not self._wrote_scene(path, stem):
            image_HWC = read_image(path, self.metadata.image)
            with _named(f"'{path}'"):
                self._write_image(image_HWC, stem, self.kinds)

    def _wrote_scene(self, path: Path, stem: Path) -> bool:
        """Whether it is a scene, and is written. A network for RGB sees one of other bands as a photo, if that can be read."""
        if self.maps is not None or self.submission is not None or not is_scene(path):
            return False
        try:
            with _named(f"'{path}'"):
                self._write_scene(path, stem)
        except UserError as error:
            if error.code != "MSA-INFER-790" or self.metadata.image != RGB8:
                raise
            return False
        return True

    def _write_scene(self, path: Path, stem: Path) -> None:
        metadata, own = self.metadata, self.predictor
        with open_scene(path, metadata.image, metadata.mean) as scene:
            settings = scene_settings(own.settings, scene.size, str(path))
            predictor = BlockPredictor(own.with_settings(settings), scene.size, scene.read)

            def file(kind: str) -> Path:
                return stem.with_name(stem.name + SCENE_ENDINGS[kind])

            blocks = list(predictor.blocks(len(metadata.classes), metadata.image.pixel_bytes))
            bands = self.shown_bands
            with scene_files(scene, file, sorted(self.kinds), metadata.palette, self._ids, bands) as files:
                for block in track(blocks, path.name, len(blocks), unit="block"):
                    scores_1KHW = predictor.scores(block)
                    labels_HW = labels_of(scores_1KHW, scene.without_data(block))
                    is_wanted = "probabilities" in self.kinds
                    files.write(
                        block, labels_HW, own.as_probabilities(scores_1KHW).cpu().numpy() if is_wanted else None
                    )

    def _write_video(self, path: Path, stem: Path) -> None:
        network_bands(3, "uint8", self.metadata.image, str(path))
        video = VideoReader(path)
        with ExitStack() as stack:
            shown = None
            if "overlay" in self.video_kinds:
                shown = stack.enter_context(new_video(stem.with_name(stem.name + VIDEO_ENDING), video.rate))
            frames = track(video.frames(), path.name, total=video.count or None, unit="frame")
            for number, image_HWC in enumerate(frames, start=1):
                with _named(f"frame {number} of '{path}'"):
                    label_HW = self._write_image(image_HWC, stem / f"{number:06d}", self.video_kinds - {"overlay"})
                    if shown:
                        shown.write(overlay(image_HWC, label_HW, self.metadata.palette))

    def _write_image(self, image_HWC: UInt8, stem: Path, kinds: frozenset[str]) -> Label:
        """Write all of `kinds` but a video's overlay; returns the train ids (H, W)."""

        def path(kind: str) -> Path:
            return stem.with_name(stem.name + ENDINGS[kind])

        maps = self.maps.images(image_HWC) if self.maps else {}
        pixels_HWC = torch.from_numpy(image_HWC)
        if "probabilities" in kinds:
            labels, probabilities = self.predictor.labels_and_probabilities(pixels_HWC)
            write_probabilities(path("probabilities"), probabilities.cpu().numpy(), self.metadata.classes)
        else:
            labels = self.predictor.labels(pixels_HWC)
        label_HW = to_label_array(labels, self.num_classes)
        if self.submission:
            self.submission.write(path("palette"), label_HW)
        if "palette" in kinds:
            write_palette(path("palette"), label_HW, self.metadata.palette)
        if "overlay" in kinds:
            write_image(path("overlay"), overlay(picture(image_HWC, self.shown_bands), label_HW, self.metadata.palette))
        if "ids" in kinds:
            write_image(path("ids"), self._ids[label_HW])
        if "train-ids" in kinds:
            write_image(path("train-ids"), label_HW)
        for ending, image in maps.items():
            write_image(stem.with_name(stem.name + ending), image)
        return label_HW


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if what in str(error):
            raise
        raise UserError(error.code, f"{what}: {error}", error.setting) from error


def read_image(path: Path, form: ImageFormat = RGB8) -> np.ndarray:
    """A photo of a file as it is shown, (H, W, 3) RGB, or the bands (H, W, C) that a network takes. Raises UserError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            "MSA-INFER-011",
            f"'{path}' cannot be read ({os.strerror(error.errno or 0).lower()}), expected an image; check the file",
            setting="--images",
        ) from error
    if form != RGB8:
        pixels_HWC = read_bands(data, str(path))
        return select_bands(
            pixels_HWC, network_bands(pixels_HWC.shape[2], pixels_HWC.dtype, form, str(path)), str(path)
        )
    photo = read_photo(data, str(path))
    for text in photo.notes:
        once(logger, logging.WARNING, f"{text}: '{path}'", key=text)
    return photo.pixels_HWC
