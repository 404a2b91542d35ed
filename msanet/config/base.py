"""What all sections of settings are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = tuple[Annotated[int, Field(ge=1, le=65536)], Annotated[int, Field(ge=1, le=65536)]]
"""(height, width) in pixels."""
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
WorkerCount = Annotated[int, Field(ge=0, le=64)]
NonNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
PerBand = Annotated[tuple[float, ...], Field(min_length=1, max_length=32)]
"""A number for each band of the images; red, green, blue of 8-bit RGB."""


class Section(BaseModel):
    """A group of settings: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
