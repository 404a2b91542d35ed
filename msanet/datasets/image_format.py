"""What the images of a dataset are: 8-bit RGB, or 1 to 32 bands of uint8, uint16 or float32."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

MAX_BANDS = 32

BandNumber = Annotated[int, Field(ge=1, le=65535)]


class ImageFormat(BaseModel):
    """What all images of a dataset are: (H, W, channels) of dtype.

    bands: which of the `source_bands` that each source file has these are, from 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["uint8", "uint16", "float32"]
    bands: Annotated[tuple[BandNumber, ...], Field(min_length=1, max_length=MAX_BANDS)]
    source_bands: BandNumber

    @property
    def channels(self) -> int:
        return len(self.bands)

    @property
    def is_rgb(self) -> bool:
        """Whether these are three bands of 8 bits, as all that is made for photos expects them."""
        return self.channels == 3 and self.dtype == "uint8"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel."""
        return self.channels * np.dtype(self.dtype).itemsize

    def describe(self) -> str:
        """`12 bands of uint16`."""
        return describe(self.channels, self.dtype)


RGB8 = ImageFormat(dtype="uint8", bands=(1, 2, 3), source_bands=3)


def describe(channels: int, dtype: Any) -> str:
    """`12 bands of uint16`."""
    return f"{channels} band{'s' * (channels != 1)} of {dtype}"
