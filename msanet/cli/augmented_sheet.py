"""The sheet of `msanet inspect --augmented`: the first samples of a training, as the network gets them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from msanet.config import Config
from msanet.data.band_settings import require_shown_bands, with_band_settings
from msanet.data.label_tensors import to_label_array
from msanet.data.loader import BatchPlan, shuffle_config, split_order, train_loader
from msanet.data.mixing import Mixing, is_mixed
from msanet.data.open_dataset import open_dataset
from msanet.data.pipeline import Batch, network_input
from msanet.datasets import ignore_index
from msanet.report.bands import picture
from msanet.report.palette import RGB
from sharding.inspection import LabeledSample, cell
from sharding.shard_check import printable
from sharding.sheet import CELL, write_sheet


def write_augmented_sheet(config: Config, count: int, path: Path) -> str:
    """Write the PNG `path`: each image alone and under the colors of its label, in the order of the first epoch.

    Returns:
        What is on it, in one line.
    """
    dataset = open_dataset(config.data, config.storage)
    manifest = dataset.read_manifest(count_labels=True)
    require_shown_bands(config.report.bands, manifest.image_format)
    data = with_band_settings(config.data, manifest)
    source = dataset.source(data.train_split, manifest)
    order = shuffle_config(config)
    shuffled = split_order(manifest, data.train_split, replace(order, streams=min(order.streams, len(source))))
    here = config.model_copy(update={"data": data.model_copy(update={"num_workers": 0})})
    loader = train_loader(here, shuffled, source, BatchPlan(1, 1, 1), rank=0, consumed_samples=0)
    mixing = Mixing(data, order.seed, len(source), manifest.split(data.train_split).histogram)
    cells, captions = [], []
    for (batch,) in islice(loader, count):
        epoch, number = int(batch.epochs_N[0]), int(batch.samples_N[0])
        key = source.key(number)
        mix = mixing.choose(epoch, number) if is_mixed(data) else None
        cells.append(_cell(batch, here, key, manifest.palette))
        captions.append(printable(key + (f" + {source.key(mix.partner)} ({mix.kind})" if mix else "")))
    title = f"{manifest.name}: the first {len(cells)} samples of a training on '{data.train_split}', seed {order.seed}"
    legend = [(printable(name), color) for name, color in zip(manifest.classes, manifest.palette, strict=True)]
    write_sheet(path, printable(title), cells, captions, legend)
    return printable(title)


def _cell(batch: Batch, config: Config, key: str, palette: tuple[RGB, ...]) -> np.ndarray:
    """The image and, below or next to it, its label over it, in a square of CELL pixels."""
    data, dtype = config.data, batch.images_NHWC.numpy().dtype
    x_HWC = network_input(batch, data)[0].permute(1, 2, 0).numpy() * data.std + data.mean
    if dtype.kind == "u":
        x_HWC = np.clip(np.rint(x_HWC), 0, np.iinfo(dtype).max)
    image_HWC = picture(x_HWC.astype(dtype), config.report.bands)
    label_HW = to_label_array(batch.labels_NHW[0], len(palette))
    unlabeled_HW = np.full_like(label_HW, ignore_index(len(palette)))
    pair = [cell(LabeledSample("train", key, image_HWC, label), palette) for label in (unlabeled_HW, label_HW)]
    joined = np.concatenate(pair, axis=0 if label_HW.shape[1] >= label_HW.shape[0] else 1)
    scale = min(1.0, CELL / max(joined.shape))
    size = max(1, round(joined.shape[1] * scale)), max(1, round(joined.shape[0] * scale))
    return np.asarray(cv2.resize(joined, size, interpolation=cv2.INTER_AREA))
