"""Masks of ids up to 65,535, for datasets of more than 255 classes, or of ids above 255."""

from dataclasses import dataclass, field

import numpy as np

from msanet.datasets import IGNORE_INDEX_16, DatasetSpec
from msanet.errors import UserError
from sharding.readers.mask_file import MaskFile, read_mask


@dataclass(frozen=True)
class WideMaskReader:
    """Bytes of a grey mask of 8, 16 or more bits to its values (H, W), which are the dataset's own ids.

    Palettes and colors say nothing here: they would have to tell more classes apart than 8 bits hold.
    """

    spec: DatasetSpec = field(repr=False)  # the plan has it already

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        return self.ids(read_mask(data, name, IGNORE_INDEX_16), name)

    def ids(self, mask: MaskFile, name: str) -> np.ndarray:
        """The ids of a mask that was read, like a call with its bytes."""
        if mask.pixels.ndim != 2 or mask.palette is not None:
            raise UserError(
                "MSA-PACK-792",
                f"label '{name}' has {'colors' if mask.palette is None else 'a palette'}, expected grey ids: {self.spec.name} "
                f"has {self.spec.num_classes} classes with ids up to {max(self.spec.train_ids)}, which are read from values of "
                "16 bits only; save the mask as a grey PNG or TIFF of 16 bits",
            )
        return mask.pixels.astype(np.uint16)
