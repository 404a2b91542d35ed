"""Settings of `data` that depend on what the dataset's images are: normalization and jitter of bands."""

import logging

from msanet.config import DataConfig
from msanet.config.augmentation import PHOTOMETRIC
from msanet.data.image.bands import BandStatistics
from msanet.data.manifest import Manifest
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError

logger = logging.getLogger(__name__)


def with_band_settings(data: DataConfig, manifest: Manifest) -> DataConfig:
    """With the measured mean and standard deviation of each band, where the images are not 8-bit RGB and neither is set.

    Raises:
        UserError: data.mean or data.std has another number of values, or a setting is for 8-bit RGB and the images are not.
    """
    form, given = manifest.image_format, {"mean", "std"} & data.model_fields_set
    if manifest.image is not None and not given:
        measured = manifest.split(data.train_split).bands
        assert measured is not None, "checked with the manifest"
        data = data.model_copy(update={"mean": measured.mean, "std": normalization_std(measured)})
        logger.info(
            f"data: {form.describe()}, normalized by the mean and standard deviation of split '{data.train_split}'"
        )
    for name, values in (("mean", data.mean), ("std", data.std)):
        if len(values) != form.channels:
            raise UserError(
                "MSA-DATA-794",
                f"data.{name} has {len(values)} values, and the images of {manifest.name} have {form.describe()}; give one for "
                "each band, or remove data.mean and data.std to use those of the training split",
                setting=f"data.{name}",
            )
    rgb_only = [name for name in ("saturation", *PHOTOMETRIC, "transforms") if getattr(data, name)]
    if rgb_only and not form.is_rgb:
        source = "" if data.augment == "none" else f"data.augment={data.augment} or "
        raise UserError(
            "MSA-DATA-795",
            f"data.{rgb_only[0]} is set and needs 8-bit RGB, and the images of {manifest.name} have {form.describe()}; remove "
            f"{source}{', '.join(rgb_only)} (brightness, contrast, warps and mixing are for any bands)",
            setting=f"data.{rgb_only[0]}",
        )
    return data


def require_shown_bands(bands: tuple[int, ...] | None, form: ImageFormat) -> None:
    """Raise UserError where report.bands names a band that the images do not have."""
    if bands and max(bands) > form.channels:
        raise UserError(
            "MSA-DATA-796",
            f"report.bands is {list(bands)}, and the images have {form.describe()}; choose from 1 to {form.channels}, as packed",
            setting="report.bands",
        )


def normalization_std(statistics: BandStatistics) -> tuple[float, ...]:
    """The standard deviation to divide by: 1 for a band that is the same everywhere."""
    return tuple(value or 1.0 for value in statistics.std)
