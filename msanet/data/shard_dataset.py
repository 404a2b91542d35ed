"""One split of a dataset, for any training loop."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset

from msanet.config import parse_config
from msanet.config.augmentation import TRAINING_ONLY
from msanet.data.band_settings import with_band_settings
from msanet.data.epoch_plan import InOrder, rank_and_world_size
from msanet.data.loader import split_order, train_pipeline
from msanet.data.loader_processes import worker
from msanet.data.mixed_order import SampleOrder
from msanet.data.open_dataset import open_dataset
from msanet.data.pipeline import Positions, collate, fetch, network_input, predownload, whole_images
from msanet.data.shuffle_order import ShuffleConfig
from msanet.errors import UserError
from msanet.plugins import trust

STATE_VERSION = 1
_STREAMS = 64
"""Distant places of the dataset that are mixed, where no batch size is known."""


class ShardDataset(IterableDataset):
    """One split of shards, or of data that are not packed, for `msanet.data.Loader` or another loader.

    Iterating gives single samples to loaders that make batches themselves (`Loader` makes those of the trainer, and is faster):
    {"images": (3, H, W) normalized float32, "labels": (H, W) int64, "epochs", "samples"}. Each `iter` begins the next epoch.
    Ranks and loader processes share the samples; `state_dict` is that of one loader process, as torchdata's StatefulDataLoader
    keeps it, and needs the same number of both.

    Args:
        path: Folder or address of shards, or `folder:DIR` of images and labels; or a list of several datasets.
        split: The split to read.
        crop: (height, width) of the random crop.
        seed: Of the order and the augmentation.
        train: In random order and augmented, or in order, whole and without augmentation; None: whether the split's name
            begins with `train`.
        dataset: Instead of `path`, a dataset of your own, as the setting `data.dataset`.
        storage: Settings of the section `storage`.
        settings: Further settings of the section `data`, such as `random_scale=(0.5, 2.0)`.

    Raises:
        UserError: A setting is not valid, or there is no such split.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path] | None = None,
        split: str = "train",
        *,
        crop: tuple[int, int] | None = None,
        seed: int = 0,
        train: bool | None = None,
        dataset: str | None = None,
        storage: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if path is None and dataset is None:
            raise UserError("MSA-DATA-738", "path is missing, expected a folder or address of shards; give it", "path")
        self.split, self.seed = split, seed
        self.is_train = split.startswith("train") if train is None else train
        asked = {**settings, "crop": crop} if crop is not None else settings
        ignored = [name for name in asked if name in TRAINING_ONLY]
        if ignored and not self.is_train:
            raise UserError(
                "MSA-DATA-738",
                f"{ignored[0]} is given, but split '{split}' is read whole; remove it, or pass train=True",
                setting=ignored[0],
            )
        paths = None if path is None else [str(one) for one in ([path] if isinstance(path, str | Path) else path)]
        where = {"path": paths, "dataset": dataset}
        data = {**asked, **where, "train_split": split, "val_split": None}
        config = parse_config({"run": {"seed": seed}, "data": data, "storage": {**(storage or {})}}, "ShardDataset")
        if dataset is not None:
            trust(dataset)
        self.data, self.storage = config.data, config.storage
        opened = open_dataset(self.data, self.storage)
        self.manifest = opened.read_manifest(count_labels=bool(self.data.rare_class_crops or self.data.copy_paste))
        self.data = with_band_settings(self.data, self.manifest)
        self.source = opened.source(split, self.manifest)
        self.classes, self.palette = self.manifest.classes, self.manifest.palette
        self._epoch, self._yielded, self._is_loaded = -1, 0, False

    def __len__(self) -> int:
        return len(self.source)

    def key(self, sample: int) -> str:
        """The name of sample number `sample`."""
        return self.source.key(sample)

    def order(self, streams: int) -> SampleOrder | InOrder:
        """All epochs. streams: the global batch size for which they are mixed."""
        if not self.is_train:
            return InOrder(len(self))
        data = self.data
        plan = ShuffleConfig(
            self.seed,
            min(streams, len(self)),
            data.shuffle_window,
            data.shuffle_block_bytes,
            sampling_weights=data.sampling_weights or (),
        )
        return split_order(self.manifest, self.split, plan)

    def pipeline(self, positions: IterableDataset, jitter_on: Literal["device", "loader"]) -> wds.DataPipeline:
        """From the positions of batches to `Batch`es."""
        ahead = self.storage
        if self.is_train:
            data = self.data.model_copy(update={"jitter_on": jitter_on})
            return train_pipeline(positions, self.source, data, ahead, self.seed)
        return wds.DataPipeline(
            positions,
            partial(predownload, source=self.source, depth=ahead.predownload, threads=ahead.max_connections),
            partial(fetch, source=self.source),
            partial(whole_images, num_classes=self.manifest.num_classes),
            collate,
        )

    def identity(self) -> dict[str, Any]:
        """What a state must agree with: the data (by the manifest's digest), split, seed and order."""
        order: list[float] = [
            self.data.shuffle_window,
            0 if self.manifest.is_unpacked else self.data.shuffle_block_bytes,
        ]
        order += self.data.sampling_weights or ()
        digest = f"{self.manifest.name} {self.manifest.digest()[:12]}"
        return {"dataset": digest, "split": self.split, "train": self.is_train, "seed": self.seed, "order": order}

    def require_same(self, state: Any, keys: set[str]) -> None:
        """Raise UserError if `state` is not one of this dataset with these further keys."""
        own = self.identity()
        is_state = isinstance(state, Mapping) and state.get("format_version") == STATE_VERSION
        if not (is_state and {*own, *keys} <= {*state} and all(_is_count(state[key]) for key in keys - {"share"})):
            found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise UserError(
                "MSA-DATA-736",
                f"the state is {str(found)[:200]}, expected what state_dict() of format_version {STATE_VERSION} gives; load that",
            )
        for name, value in own.items():
            if state[name] != value:
                raise UserError(
                    "MSA-DATA-736",
                    f"the state has {name} {state[name]}, this loader has {value}; make the loader as it was, or start without "
                    "the state",
                    setting=name,
                )

    def state_dict(self) -> dict[str, Any]:
        """What this loader process has handed out of the current epoch."""
        rank, world_size, number, workers = *rank_and_world_size(), *worker()
        share = [rank * workers + number, world_size * workers]
        own = {"format_version": STATE_VERSION, **self.identity()}
        return {**own, "epoch": self._epoch, "yielded": self._yielded, "share": share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there at the next `iter`. Raises UserError for the state of another dataset, seed or number of processes."""
        self.require_same(state, {"epoch", "yielded", "share"})
        own = self.state_dict()["share"]
        if state["share"] != own:
            raise UserError(
                "MSA-DATA-736",
                f"the state is of process {state['share'][0]} of {state['share'][1]}, this is {own[0]} of {own[1]}, expected the "
                "same ranks and loader processes; use msanet.data.Loader, which resumes on any number",
            )
        self._epoch, self._yielded, self._is_loaded = state["epoch"], state["yielded"], True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rank, world_size, number, workers = *rank_and_world_size(), *worker()
        if self._is_loaded:
            self._is_loaded = False
        else:
            self._epoch, self._yielded = self._epoch + 1, 0
        data = self.data.model_copy(update={"jitter_on": "loader"})
        positions = _Positions(
            self.order(_STREAMS),
            self._epoch,
            range(rank * workers + number, len(self), world_size * workers)[self._yielded :],
        )
        for batch in self.pipeline(positions, "loader"):
            self._yielded += 1
            yield {
                "images": network_input(batch, data)[0],
                "labels": batch.labels_NHW[0].long(),
                "epochs": int(batch.epochs_N[0]),
                "samples": int(batch.samples_N[0]),
            }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


class _Positions(IterableDataset):
    """Yields the (epochs, samples) of single samples."""

    def __init__(self, order: SampleOrder | InOrder, epoch: int, numbers: range) -> None:
        self.order, self.epoch, self.numbers = order, epoch, numbers

    def __iter__(self) -> Iterator[Positions]:
        for number in self.numbers:
            yield self.order.samples(np.array([self.epoch * self.order.num_samples + number], dtype=np.int64))
