"""What is read, from where, and how it is augmented: the sections `data` and `storage` of the settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from msanet.config.augmentation import MIXES, with_preset
from msanet.config.base import Above0, Count, PerBand, Positive, Probability, Section, Share, Size, WorkerCount
from msanet.config.text import FOLDER_PREFIX, FilePath, Location, Text, absolute_location, absolute_plugin


class DataConfig(Section):
    """What is read, and what is done to an image before it reaches the network."""

    path: Location | tuple[Location, ...] | None = Field(
        None,
        description="shards (from msanet pack): folder, or http(s)://, hf://, s3://, gs://, az:// address; folder:DIR: images "
        "and labels that are not packed, slower; a list: several datasets",
    )
    sampling_weights: tuple[Above0, ...] | None = Field(
        None,
        description="with a list in path: relative share of each dataset in an epoch; null: each sample once per epoch",
    )
    label_scheme: FilePath | None = Field(
        None,
        description="file that joins, renames and ignores classes by name, of one dataset or several, as --label-scheme of "
        "msanet pack",
    )
    classes: FilePath | tuple[FilePath | None, ...] | None = Field(
        None,
        description="classes file of folder:DIR, as --classes of msanet pack folder; with a list in path one for each, or null",
    )
    dataset: Text | None = Field(
        None,
        description="instead of path, a dataset of your own: package.module:NAME or path/to/file.py:NAME, called with a split",
    )
    train_split: Text = Field("train", description="split to train on")
    val_split: Text | None = Field(
        "val", description="split to validate on; null: no validation, and no best checkpoint"
    )
    val_path: Location | tuple[Location, ...] | None = Field(
        None, description="with a list in path: the dataset or datasets to validate on; null: all that have val_split"
    )
    augment: Literal["none", "light", "strong"] = Field(
        "none", description="preset for the settings from rotation to cutout; a setting that is given takes precedence"
    )
    resize: Size | None = Field(None, description="[height, width] that training images are resized to; null: own size")
    random_scale: tuple[float, float] = Field(
        (1.0, 1.0), description="[low, high] of the random scale after resize, uniform as in mmsegmentation"
    )
    crop: Size | None = Field(None, description="[height, width] of the random crop, padded if need be; null: no crop")
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="draw a crop again (up to 10 times) if one class has more than this fraction of its labeled pixels",
    )
    rare_class_crops: Probability = Field(
        0.0, description="probability that the crop is drawn around a pixel of one of the image's rare classes"
    )
    flip_horizontal: Probability = Field(0.5, description="probability of a horizontal flip")
    flip_vertical: Probability = Field(0.0, description="probability of a vertical flip (the MSANet paper: 0.5)")
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="rotation by [-x, x] degrees")
    shear: Annotated[float, Field(ge=0, le=45)] = Field(0.0, description="shear by [-x, x] degrees along both axes")
    perspective: Share = Field(0.0, description="corners of the crop move by up to x/4 of its sides")
    brightness: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    contrast: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    saturation: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(0.0, description="hue turned by [-x, x] of the color circle")
    gamma: Share = Field(0.0, description="gray values to a power drawn from [1-x, 1+x]")
    grayscale: Probability = Field(0.0, description="probability of an image without color")
    blur: Probability = Field(0.0, description="probability of a Gaussian blur, standard deviation 0.1 to 2 pixels")
    noise: Probability = Field(0.0, description="probability of Gaussian noise, standard deviation 0 to 20 gray values")
    jpeg: Probability = Field(0.0, description="probability of JPEG artifacts, quality 30 to 95")
    cutout: Probability = Field(
        0.0, description="probability that a rectangle of 1/8 to 1/2 of each side gets the mean color; its label stays"
    )
    cutmix: Probability = Field(0.0, description="probability that a rectangle is replaced by that of another image")
    classmix: Probability = Field(0.0, description="probability that half the classes of another image are pasted")
    copy_paste: Probability = Field(0.0, description="probability that the rare classes of another image are pasted")
    transforms: tuple[str, ...] = Field(
        (),
        description="transforms of your own, applied last: package.module:NAME or path/to/file.py:NAME, of albumentations, "
        "torchvision.transforms.v2 or Kornia, or a function (image, label, rng)",
    )
    jitter_on: Literal["device", "loader"] = Field(
        "device",
        description="device: jitter colors on the device, in float32; loader: in the loader processes, in uint8",
    )
    mean: PerBand = Field(
        (123.675, 116.28, 103.53),
        description="mean of each band, to subtract, in gray values 0-255 (ImageNet's); if not set, for shards packed with "
        "--bands the mean of the training split",
    )
    std: PerBand = Field(
        (58.395, 57.12, 57.375), description="standard deviation of each band to divide by (ImageNet's), likewise"
    )
    num_workers: WorkerCount = Field(2, description="loader processes per rank; 0: load in the training process")
    prefetch_factor: Positive = Field(2, description="micro-batches each loader process prepares ahead")
    shuffle_block_bytes: Positive = Field(8 * 2**20, description="bytes of consecutive samples shuffled as a block")
    shuffle_window: Positive = Field(64, description="samples in the shuffle window of each interleaved stream")
    drop_last: bool = Field(
        False, description="drop an epoch's incomplete last batch; false: complete it with samples of the next epoch"
    )
    on_bad_sample: Literal["raise", "skip"] = Field(
        "raise", description="a training sample cannot be read. raise: end the run; skip: log it and ignore its pixels"
    )
    max_bad_fraction: Probability = Field(0.01, description="fraction of bad samples above which the run ends anyway")

    @property
    def fixed_size(self) -> bool:
        """Whether every training image has the same size, whatever the dataset."""
        return bool(self.crop or (self.resize and self.random_scale[0] == self.random_scale[1]))

    @property
    def source(self) -> str:
        """What is read, for messages: the path, all paths of a list, or the name of the user's dataset."""
        return ", ".join(self.paths) or self.dataset or ""

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a list."""
        return _as_list(self.path)

    @property
    def val_paths(self) -> tuple[str, ...]:
        """`val_path` as a list."""
        return _as_list(self.val_path)

    @property
    def parts(self) -> list["DataConfig"]:
        """The settings of each dataset on its own."""
        none = {"sampling_weights": None, "label_scheme": None, "val_path": None}
        if self.dataset is not None:
            return [self.model_copy(update=none)]
        classes = self.classes if isinstance(self.classes, tuple) else (self.classes,) * len(self.paths)
        return [
            self.model_copy(update={**none, "path": path, "classes": file if path.startswith(FOLDER_PREFIX) else None})
            for path, file in zip(self.paths, classes, strict=True)
        ]

    def with_absolute_paths(self) -> "DataConfig":
        """The same settings with absolute paths, which do not depend on the working directory."""
        update = {
            "path": _each(absolute_location, self.path),
            "val_path": _each(absolute_location, self.val_path),
            "classes": _each(Path.resolve, self.classes),
            "label_scheme": _each(Path.resolve, self.label_scheme),
            "dataset": self.dataset and absolute_plugin(self.dataset),
            "transforms": tuple(map(absolute_plugin, self.transforms)),
        }
        return self.model_copy(update=update)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _augmentation_applies(self) -> "DataConfig":
        if self.rare_class_crops and self.crop is None:
            raise ValueError(
                f"data.rare_class_crops={self.rare_class_crops:g} has no effect without a crop; set data.crop"
            )
        mixes = {name: getattr(self, name) for name in MIXES if getattr(self, name)}
        given = " ".join(f"data.{name}={value:g}" for name, value in mixes.items())
        if mixes and not self.fixed_size:
            raise ValueError(f"{given} cannot mix images of different sizes; set data.crop")
        if sum(mixes.values()) > 1 + 1e-9:
            raise ValueError(
                f"{given} add up to {sum(mixes.values()):g}, expected at most 1, since an image is mixed once; lower them"
            )
        return self

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        low, high = self.random_scale
        if not 0 < low <= high:
            raise ValueError(f"data.random_scale is [{low}, {high}], expected 0 < low <= high")
        if self.path is not None and self.dataset is not None:
            raise ValueError(
                f"data.dataset={self.dataset} with data.path={self.path}, expected one of them; remove one"
            )
        if self.classes is not None and not any(path.startswith(FOLDER_PREFIX) for path in self.paths):
            raise ValueError(
                f"data.classes={self.classes} has no effect on data.path={self.path}, expected {FOLDER_PREFIX}DIR; remove it"
            )
        self._check_list()
        if min(self.std) <= 0:
            raise ValueError(f"data.std is {list(self.std)}, expected values above 0")
        if {"mean", "std"} <= self.model_fields_set and len(self.mean) != len(self.std):
            found = f"data.mean has {len(self.mean)} values and data.std has {len(self.std)}"
            raise ValueError(f"{found}, expected one of each for each band")
        if self.on_bad_sample == "skip" and not (self.crop or self.resize):
            raise ValueError("data.on_bad_sample=skip needs a size for what cannot be read; set data.crop")
        return self

    @field_validator("path", "val_path", mode="before")
    @classmethod
    def _is_a_location_or_several(cls, value: Any, info: ValidationInfo) -> Any:
        """One sentence, where pydantic would have one for each type that it might have been. A list of one is that one."""
        if not isinstance(value, list | tuple):
            return value
        if not value or not all(isinstance(item, str | Path) and str(item).strip() for item in value):
            found = f"data.{info.field_name} is {[*value]!r:.100}"
            raise ValueError(f"{found}, expected text (in quotes if need be), or a list of it")
        return value[0] if len(value) == 1 else value

    def _check_list(self) -> None:
        paths, weights, classes = self.paths, self.sampling_weights, self.classes
        if isinstance(classes, tuple) and len(classes) != len(paths):
            raise ValueError(
                f"data.classes has {len(classes)} values for {len(paths)} datasets in data.path, expected one for each; fix it"
            )
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise ValueError(
                f"data.path has {twice[0]} {paths.count(twice[0])} times, expected once; use data.sampling_weights"
            )
        if weights is not None and self.source and (len(paths) < 2 or len(weights) != len(paths)):
            raise ValueError(
                f"data.sampling_weights has {len(weights)} value(s), and there are {max(len(paths), 1)} dataset(s), expected one "
                "value for each of several in data.path; fix or remove it"
            )
        if other := [path for path in self.val_paths if path not in paths]:
            raise ValueError(
                f"data.val_path has {other[0]}, expected datasets of data.path ({self.source}); fix or remove it"
            )
        if self.val_paths and self.val_split == self.train_split:
            raise ValueError(
                f"data.val_path is given with data.val_split={self.val_split}, which is the training split, expected another "
                "split; change one of the two"
            )


def _as_list(path: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if path is None else (path,) if isinstance(path, str) else path


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value, or each of several, changed; None stays."""
    return tuple(_each(change, one) for one in value) if isinstance(value, tuple) else value and change(value)


class StorageConfig(Section):
    """How remote shards are read, and what is kept of them on each node."""

    cache_dir: FilePath | None = Field(
        None, description="folder of the cache on each node; null: in the temporary folder"
    )
    cache_limit_bytes: Positive = Field(64 * 2**30, description="bytes of remote shards to keep on each node")
    decoded_cache_limit_bytes: Count = Field(0, description="bytes of decoded images to keep on each node; 0: none")
    download_timeout_seconds: Above0 = Field(
        80.0, description="seconds until a download fails, retries included; must be below run.stall_timeout_seconds"
    )
    max_connections: Annotated[int, Field(ge=1, le=64)] = Field(4, description="parallel downloads per loader process")
    predownload: Positive = Field(8, description="micro-batches to download ahead per loader process")
