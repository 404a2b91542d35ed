"""Submission formats of the Cityscapes and VOC benchmarks: which names, which values, in which folders."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msanet.datasets import CITYSCAPES, IGNORE_INDEX, VOC, DatasetSpec
from msanet.datasets.voc import voc_color
from msanet.errors import UserError
from msanet.report.palette import UInt8
from msanet.report.prediction import write_image, write_palette
from msanet.report.video import is_video

_CITYSCAPES_IDS = np.zeros(256, np.uint8)  # train id -> id of labelIds PNGs; 0 is "unlabeled"
for _id, _train_id in CITYSCAPES.train_ids.items():
    if _train_id != IGNORE_INDEX:
        _CITYSCAPES_IDS[_train_id] = _id


@dataclass(frozen=True)
class SubmissionFormat:
    """What a benchmark's server accepts.

    pattern: image names without extension, such as `example`; its first group goes into `target`, the path of the result
    without extension. write: a label (H, W) of train ids to a path.
    """

    spec: DatasetSpec
    pattern: re.Pattern[str]
    example: str
    target: str
    write: Callable[[Path, UInt8], None]

    def name(self, image: Path) -> Path:
        """The result's name without extension, under the folder that is packed. Raises UserError for any other name."""
        match = self.pattern.fullmatch(image.stem)
        if match is None or is_video(image):
            raise UserError(
                "MSA-INFER-008",
                f"'{image}' is not an image of {self.spec.name}, expected names such as '{self.example}'; give the files of the "
                "test set",
                setting="--images",
            )
        return Path(self.target.format(match[1]))

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raise UserError unless a network has the dataset's classes in their order."""
        if classes != self.spec.classes:
            raise UserError(
                "MSA-INFER-009",
                f"the network has {len(classes)} classes ({', '.join(classes[:3])}, ...), expected the {self.spec.num_classes} "
                f"of {self.spec.name} in their order ({', '.join(self.spec.classes[:3])}, ...); train on {self.spec.name}",
                setting="--submission",
            )

    def require_free(self, out: Path, names: Iterable[Path]) -> None:
        """Raise UserError if `out` contains PNGs of another submission."""
        own = {out / f"{name}.png" for name in names}
        for path in out.rglob("*.png"):
            if path not in own and self.pattern.match(path.stem):
                raise UserError(
                    "MSA-INFER-010",
                    f"'{path}' is already in --out, expected nothing but this submission; choose another folder",
                    setting="--out",
                )


def _write_cityscapes(path: Path, label_HW: UInt8) -> None:
    write_image(path, _CITYSCAPES_IDS[label_HW])


def _write_voc(path: Path, label_HW: UInt8) -> None:
    write_palette(path, label_HW, [voc_color(index) for index in range(IGNORE_INDEX)], voc_color(IGNORE_INDEX))


SUBMISSION_FORMATS: dict[str, SubmissionFormat] = {
    "cityscapes": SubmissionFormat(
        CITYSCAPES,
        re.compile(r"([A-Za-z-]+_\d{6}_\d{6})(?:_leftImg8bit)?"),
        "berlin_000000_000019_leftImg8bit.png",
        "{}_pred_labelIds",
        _write_cityscapes,
    ),
    "voc": SubmissionFormat(
        VOC,
        re.compile(r"(\d{4}_\d{6})"),
        "2008_000006.jpg",
        "results/VOC2012/Segmentation/comp6_test_cls/{}",
        _write_voc,
    ),
}
