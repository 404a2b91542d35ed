"""A photo in a shard: whether it is sound, and shows what was packed."""

from msanet.data.image.photo import PhotoFile
from msanet.data.image.tiles import TiledImage
from msanet.errors import UserError


def check_photo(data: bytes, name: str) -> tuple[int, ...]:
    """Its size as stored. Raises UserError where it is damaged, or shown in another way than it was packed."""
    bands = TiledImage.parse(data, name)
    if bands is not None and bands.is_bands:
        bands.window(0, 0, *bands.size)
        return bands.size
    file = PhotoFile(data, name)
    shape = file.read().pixels_HWC.shape[:2]
    size = shape[::-1] if file.orientation > 4 else shape
    # Before version 3 of the writer nothing was turned. A label of another shape than the photo as shown was drawn on it as
    # stored; of the others nobody knows.
    if file.orientation in (2, 3, 4) or (file.orientation > 4 and size[0] == size[1]):
        raise UserError(
            "MSA-PACK-106",
            f"has the EXIF orientation {file.orientation}, which an earlier version did not apply, expected pixels as shown; "
            "pack the dataset again",
        )
    return size
