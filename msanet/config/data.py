"""What is read, from where, and how it is augmented: the sections `data` and `storage` of the settings."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from msanet.config.base import Above0, Positive, Probability, Rgb, Section, Share, Size
from msanet.config.text import FilePath, Location, Text


class DataConfig(Section):
    """What is read, and what is done to an image before it reaches the network."""

    path: Location | None = Field(
        None, description="folder of shards (made by msanet pack), or its http(s)://, s3:// or gs:// address"
    )
    train_split: Text = Field("train", description="split to train on")
    val_split: Text = Field("val", description="split to validate on")
    resize: Size | None = Field(
        None, description="[height, width] to which every training image is brought first; null: its own size"
    )
    random_scale: tuple[float, float] = Field(
        (1.0, 1.0), description="[low, high] of the random scale, uniform as in mmsegmentation, after resize"
    )
    crop: Size | None = Field(
        None, description="[height, width] of the random crop, padded where the image is smaller; null: the whole image"
    )
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="crops are drawn again, 10 times at most, until no class has more of the labelled pixels; 1: any crop",
    )
    flip_horizontal: Probability = Field(0.5, description="probability of mirroring left and right")
    flip_vertical: Probability = Field(
        0.0, description="probability of mirroring top and bottom (the MSANet paper: 0.5)"
    )
    brightness: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    contrast: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    saturation: Share = Field(0.0, description="color jitter: factor drawn from [1-x, 1+x]")
    jitter_on: Literal["device", "loader"] = Field(
        "device",
        description="where colors are jittered: device: in float32; loader: in its processes, rounded to uint8",
    )
    mean: Rgb = Field(
        (123.675, 116.28, 103.53), description="RGB mean that is subtracted, in grey values 0-255 (ImageNet's)"
    )
    std: Rgb = Field(
        (58.395, 57.12, 57.375), description="RGB standard deviation to divide by, in grey values (ImageNet's)"
    )
    num_workers: Annotated[int, Field(ge=0, le=64)] = Field(
        2, description="loader processes per rank; 0: read in the training process"
    )
    prefetch_factor: Positive = Field(2, description="micro-batches each loader process prepares ahead")
    shuffle_block_bytes: Positive = Field(
        8 * 2**20, description="bytes of consecutive samples that the shuffle moves as one (locality of reads)"
    )
    shuffle_window: Positive = Field(
        64, description="size of the shuffle window in samples, in each interleaved stream"
    )
    drop_last: bool = Field(
        False,
        description="drop the last batch of an epoch where it is incomplete; false: it takes the first samples of the next epoch",
    )
    on_bad_sample: Literal["raise", "skip"] = Field(
        "raise",
        description="a training sample that cannot be read. raise: end the run; skip: log it, and ignore all of its pixels",
    )
    max_bad_fraction: Probability = Field(0.01, description="fraction of bad samples above which the run ends anyway")

    @property
    def fixed_size(self) -> bool:
        """Whether every training image has the same size, whatever the dataset."""
        return bool(self.crop or (self.resize and self.random_scale[0] == self.random_scale[1]))

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        low, high = self.random_scale
        if not 0 < low <= high:
            raise ValueError(f"data.random_scale is [{low}, {high}], expected 0 < low <= high")
        if min(self.std) <= 0:
            raise ValueError(f"data.std is {list(self.std)}, expected values above 0")
        if self.on_bad_sample == "skip" and not (self.crop or self.resize):
            raise ValueError("data.on_bad_sample=skip needs a size for what cannot be read; set data.crop")
        return self


class StorageConfig(Section):
    """How remote shards are read, and what is kept of them on each node."""

    cache_dir: FilePath | None = Field(
        None, description="folder of this node for the cache; null: msanet-cache-<user id> in the temporary folder"
    )
    cache_limit_bytes: Positive = Field(64 * 2**30, description="bytes of remote shards to keep on each node")
    decoded_cache_limit_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="bytes of decoded images to keep on each node for later epochs; 0: none"
    )
    download_timeout_seconds: Above0 = Field(
        80.0,
        description="seconds within which a remote read must succeed, retries included; below run.stall_timeout_seconds",
    )
    max_connections: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="remote reads in flight per loader process"
    )
    predownload: Positive = Field(
        8, description="micro-batches whose bytes are fetched ahead of need, per loader process"
    )
