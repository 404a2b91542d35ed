"""Oxford-IIIT Pet, trimaps: pet and background; the border between them, value 3, does not count (Parkhi et al. 2012)."""

from msanet.datasets.spec import IGNORE_INDEX, DatasetSpec

OXFORD_PET = DatasetSpec(
    name="oxford_pet",
    classes=("background", "pet"),
    palette=((0, 0, 0), (128, 0, 0)),
    train_ids={2: 0, 1: 1, 3: IGNORE_INDEX},
)
