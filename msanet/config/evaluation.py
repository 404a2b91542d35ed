"""How a network is evaluated: the section `evaluation` of the settings."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from msanet.config.base import Above0, NonNegative, Positive, Section, Share, Size, WorkerCount


class CrfConfig(Section):
    """The fully connected CRF after the network (Kraehenbuehl and Koltun 2011, equation 3), its symbols in brackets.

    Weights are those of normalized kernels, as in the authors' code and in DeepLab's.
    """

    enabled: bool = Field(False, description="refine the network's probabilities by a fully connected CRF")
    iterations: Positive = Field(10, description="mean-field iterations")
    smoothness_weight: NonNegative = Field(3.0, description="weight of the smoothness kernel (w2)")
    smoothness_std: Above0 = Field(3.0, description="its standard deviation in pixels (theta gamma)")
    appearance_weight: NonNegative = Field(10.0, description="weight of the appearance kernel (w1)")
    appearance_std: Above0 = Field(80.0, description="its standard deviation in pixels (theta alpha)")
    appearance_rgb_std: Above0 = Field(13.0, description="its standard deviation in gray values (theta beta)")


class EvaluationConfig(Section):
    """How images go through the network when it is evaluated, and what is kept."""

    resize: Size | None = Field(
        None,
        description="[height, width] that images are resized to; logits are resized to the label's size; null: own size",
    )
    scales: tuple[Above0, ...] = Field((1.0,), min_length=1, description="test-time scales; probabilities are averaged")
    flip: bool = Field(False, description="also evaluate the flipped image; probabilities are averaged")
    window: Size | None = Field(None, description="[height, width] of sliding windows; null: the whole image at once")
    overlap: Share = Field(0.33, description="fraction of a window that overlaps its neighbor")
    window_batch: Positive = Field(4, description="windows of one forward pass; halved when out of memory")
    crf: CrfConfig = CrfConfig()
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast")
    protocol: Literal["default", "official-cityscapes", "official-voc"] = Field(
        "default", description="rules by which metrics are computed"
    )
    num_workers: WorkerCount = Field(1, description="loader processes per rank; 0: load in the process itself")
    calibration: bool = Field(True, description="measure the calibration of the probabilities")
    boundary: bool = Field(False, description="measure boundaries (Boundary IoU, boundary F1)")
    panels: Annotated[int, Field(ge=0, le=200)] = Field(8, description="images in the report, spread over the split")
    worst: Annotated[int, Field(ge=0, le=200)] = Field(4, description="images in the report with the lowest IoU")


class ReportConfig(Section):
    """What the pictures of a report, and of predictions, show."""

    bands: tuple[Positive, ...] | None = Field(
        None,
        description="bands of the packed images, from 1, that pictures show as red, green and blue, or one as gray; null: the "
        "first three",
    )

    @field_validator("bands")
    @classmethod
    def _three_or_one(cls, bands: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if bands is not None and len(bands) not in (1, 3):
            raise ValueError(f"report.bands has {len(bands)} numbers, expected three, or one")
        return bands
