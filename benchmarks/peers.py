"""What others do with the same images: the peers of benchmarks/streaming.py. Nothing of ours is used here."""

import io
from pathlib import Path

import cv2
import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import Dataset

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
SCALE, CROP, MAX_CLASS_RATIO = (0.5, 2.0), (512, 1024), 0.75
PixelPair = tuple[np.ndarray, np.ndarray]


class Mmsegmentation(Dataset):
    """mmsegmentation's training pipeline for Cityscapes, step by step, from PNG files through OpenCV.

    LoadImage, LoadAnnotations, Resize(ratio_range=(0.5, 2)), RandomCrop(cat_max_ratio=0.75), RandomFlip,
    PhotoMetricDistortion; then Normalize and Pad in float32 as its 0.x does in the loader process (`normalize`), or uint8
    as its 1.x hands over.
    """

    def __init__(self, images: list[Path], labels: list[Path], length: int, normalize: bool = True) -> None:
        self.images, self.labels, self.length, self.normalize = images, labels, length, normalize

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        cv2.setNumThreads(0)
        rng = np.random.default_rng(number)
        place = number % len(self.images)
        image = cv2.imdecode(np.frombuffer(self.images[place].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        label = cv2.imdecode(np.frombuffer(self.labels[place].read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        assert image is not None and label is not None
        image, label = resize_crop_flip(image, label, rng)
        image = photometric_distortion(image, rng)
        if self.normalize:
            image = normalise_and_pad(image)
            label = cv2.copyMakeBorder(label, 0, 0, 0, 0, cv2.BORDER_CONSTANT, value=255)
        chw = np.ascontiguousarray(image.transpose(2, 0, 1))
        return torch.from_numpy(chw), torch.from_numpy(label.astype(np.int64))


def normalise_and_pad(image: np.ndarray) -> np.ndarray:
    """Normalize (mmcv.imnormalize) and Pad (mmcv.impad), which copy also where there is nothing to pad."""
    image = image.copy().astype(np.float32)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    cv2.subtract(image, MEAN.reshape(1, -1), image)
    cv2.multiply(image, 1 / STD.reshape(1, -1), image)
    return cv2.copyMakeBorder(image, 0, 0, 0, 0, cv2.BORDER_CONSTANT, value=0)


def resize_crop_flip(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> PixelPair:
    """RandomResize, RandomCrop and RandomFlip: everything is resized, then cut."""
    factor = rng.uniform(*SCALE)
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    for _ in range(10):
        top, left = (rng.integers(0, max(side - crop, 0) + 1) for side, crop in zip(label.shape, CROP, strict=True))
        place = slice(top, top + CROP[0]), slice(left, left + CROP[1])
        classes, counts = np.unique(label[place], return_counts=True)
        counts = counts[classes != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < MAX_CLASS_RATIO:
            break
    image, label = image[place], label[place]
    if rng.random() < 0.5:
        image, label = np.flip(image, axis=1), np.flip(label, axis=1)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def photometric_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """PhotoMetricDistortion: each of brightness, contrast, saturation and hue with probability 1/2."""

    def convert(pixels: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(pixels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    if rng.integers(2):
        image = convert(image, beta=rng.uniform(-32, 32))
    contrast_first = rng.integers(2)
    if contrast_first and rng.integers(2):
        image = convert(image, alpha=rng.uniform(0.5, 1.5))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 1] = convert(hsv[:, :, 1], alpha=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + rng.integers(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not contrast_first and rng.integers(2):
        image = convert(image, alpha=rng.uniform(0.5, 1.5))
    return image


def stock_webdataset(shards: list[Path]) -> wds.DataPipeline:
    """WebDataset as its documentation uses it, on shards of PNG files: decode, then resize, cut and flip in uint8."""
    return (
        wds.WebDataset([str(path) for path in shards], resampled=True, shardshuffle=False)
        .shuffle(8)
        .decode(_label_decoder, "rgb8")
        .to_tuple("image.png", "label.png")
        .map(_cut)
    )


def _label_decoder(key: str, data: bytes) -> np.ndarray | None:
    return np.asarray(Image.open(io.BytesIO(data))) if key == ".label.png" else None


def _cut(pair: PixelPair) -> PixelPair:
    cv2.setNumThreads(0)
    return resize_crop_flip(*pair, np.random.default_rng())


class RawMemory(Dataset):
    """The limit: decoded images lie in memory, and a crop is copied and mirrored; nothing is read, decoded or resized."""

    def __init__(self, pairs: list[PixelPair], length: int) -> None:
        self.pairs, self.length = pairs, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(number)
        image, label = self.pairs[number % len(self.pairs)]
        top, left = (rng.integers(0, side - crop + 1) for side, crop in zip(label.shape, CROP, strict=True))
        place = slice(top, top + CROP[0]), slice(left, left + CROP[1])
        parts = image[place], label[place]
        if rng.random() < 0.5:
            parts = cv2.flip(parts[0], 1), cv2.flip(parts[1], 1)
        return torch.from_numpy(np.ascontiguousarray(parts[0])), torch.from_numpy(np.ascontiguousarray(parts[1]))
