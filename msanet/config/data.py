"""What is read, from where, and how it is augmented: the sections `data` and `storage` of the settings."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from msanet.config.base import Above0, Count, PerBand, Positive, Probability, Section, Share, Size, WorkerCount
from msanet.config.text import FOLDER_PREFIX, FilePath, Location, Text, absolute_location, absolute_plugin


class DataConfig(Section):
    """What is read, and what is done to an image before it reaches the network."""

    path: Location | None = Field(
        None,
        description="shards (from msanet pack): folder, or http(s)://, hf://, s3://, gs://, az:// address; folder:DIR: images "
        "and labels that are not packed, slower",
    )
    classes: FilePath | None = Field(None, description="classes file of folder:DIR, as --classes of msanet pack folder")
    dataset: Text | None = Field(
        None,
        description="instead of path, a dataset of your own: package.module:NAME or path/to/file.py:NAME, called with a split",
    )
    train_split: Text = Field("train", description="split to train on")
    val_split: Text | None = Field(
        "val", description="split to validate on; null: no validation, and no best checkpoint"
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
    flip_horizontal: Probability = Field(0.5, description="probability of a horizontal flip")
    flip_vertical: Probability = Field(0.0, description="probability of a vertical flip (the MSANet paper: 0.5)")
    brightness: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    contrast: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    saturation: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    jitter_on: Literal["device", "loader"] = Field(
        "device",
        description="device: jitter colors on the device, in float32; loader: in the loader processes, in uint8",
    )
    mean: PerBand = Field(
        (123.675, 116.28, 103.53),
        description="mean of each band to subtract: of RGB in gray values 0-255 (ImageNet's); if not set, of shards packed with "
        "--bands that of the training split",
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
        """What is read, for sentences: the path, or the name of the user's dataset."""
        return self.path or self.dataset or ""

    def with_absolute_paths(self) -> "DataConfig":
        """The same data, whatever the working directory."""
        update = {
            "path": self.path and absolute_location(self.path),
            "classes": self.classes and self.classes.resolve(),
            "dataset": self.dataset and absolute_plugin(self.dataset),
        }
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        low, high = self.random_scale
        if not 0 < low <= high:
            raise ValueError(f"data.random_scale is [{low}, {high}], expected 0 < low <= high")
        if self.path is not None and self.dataset is not None:
            raise ValueError(
                f"data.dataset={self.dataset} with data.path={self.path}, expected one of them; remove one"
            )
        if self.classes is not None and not (self.path or "").startswith(FOLDER_PREFIX):
            raise ValueError(
                f"data.classes={self.classes} has no effect on data.path={self.path}, expected {FOLDER_PREFIX}DIR; remove it"
            )
        if min(self.std) <= 0:
            raise ValueError(f"data.std is {list(self.std)}, expected values above 0")
        if {"mean", "std"} <= self.model_fields_set and len(self.mean) != len(self.std):
            found = f"data.mean has {len(self.mean)} values and data.std has {len(self.std)}"
            raise ValueError(f"{found}, expected one of each for each band")
        if self.on_bad_sample == "skip" and not (self.crop or self.resize):
            raise ValueError("data.on_bad_sample=skip needs a size for what cannot be read; set data.crop")
        return self


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
