"""Batches for any training loop, with a state that is valid on any number of ranks."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import torch

from msanet.data.epoch_plan import EpochPlan, EpochPositions, InOrder, rank_and_world_size
from msanet.data.loader_processes import iterate
from msanet.data.mixed_order import SampleOrder
from msanet.data.pipeline import Batch, network_input
from msanet.data.shard_dataset import STATE_VERSION, ShardDataset
from msanet.errors import UserError
from msanet.logs import EVERY_RANK

logger = logging.getLogger(__name__)

Output = Literal["dict", "tuple", "transformers", "batch"]
_OUTPUTS = ("dict", "tuple", "transformers", "batch")


class Loader:
    """Batches of a ShardDataset, each sample once per epoch on any number of ranks, without padding.

    Each `iter` begins the next epoch; after `load_state_dict` it continues inside one. A training gives all ranks the same
    number of batches, of which an epoch's last may be smaller; an evaluation may give some ranks one batch less.

    Args:
        dataset: What is read.
        batch_size: Samples of each rank and batch.
        num_workers: Loader processes; 0: none. They are started by importing the script again, so with them a script needs
            `if __name__ == "__main__":`.
        prefetch_factor: Batches that each loader process prepares ahead.
        rank, world_size: Of this process; None: of torch.distributed, else of the launcher.
        drop_last: Skip an epoch's last samples that fill no batch.
        output: dict: {"images", "labels", "epochs", "samples"}; tuple: (images, labels); transformers: {"pixel_values",
            "labels"}; batch: the uint8 `Batch` that the trainer gets, colors not yet jittered; or a function of that `Batch`.
            images: (N, 3, H, W) float32, memory channels_last; labels: (N, H, W) int64, 255 where
            ignored (65535 of more than 255 classes).
        normalize: Subtract the mean and divide by the standard deviation; False: uint8 images.
        device: Where batches are put, jittered and normalized.

    Raises:
        UserError: An argument is not valid.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        batch_size: int = 1,
        *,
        num_workers: int = 2,
        prefetch_factor: int = 2,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        output: Output | Callable[[Batch], Any] = "dict",
        normalize: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("prefetch_factor", prefetch_factor, 1)
        ):  # fmt: skip
            if not isinstance(value, int) or value < least:
                _refuse(name, f"{name} is {value!r:.50}, expected a number from {least}")
        if (rank is None) != (world_size is None) or (rank is not None and not 0 <= rank < (world_size or 0)):
            _refuse(
                "rank",
                f"rank is {rank} and world_size {world_size}, expected both, and 0 <= rank < world_size, or none",
            )
        if not (callable(output) or output in _OUTPUTS):
            _refuse("output", f"output is {output!r:.50}, expected {', '.join(_OUTPUTS)} or a function of the Batch")
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.output, self.normalize = output, normalize
        self.device = None if device is None else torch.device(device)
        self._given = None if rank is None or world_size is None else (rank, world_size)
        self._streams: int | None = None  # of the order; the first global batch size
        self._consumed_samples, self._bad_samples = 0, 0
        self._continues = True  # whether the next `iter` starts at that position, and not at the next epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self._plan.length(self._place[0])

    @property
    def epoch(self) -> int:
        """The epoch of the next batch; for an evaluation 0, or 1 at its end."""
        return self._consumed_samples // len(self.dataset)

    @property
    def sampler(self) -> "Loader":
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Not needed; for frameworks that say which epoch is next. A position inside that epoch stays."""
        if self.dataset.is_train and self._start() // len(self.dataset) != epoch:
            self._consumed_samples, self._continues = epoch * len(self.dataset), True

    def _start(self) -> int:
        """The position at which the next `iter` begins."""
        return self._consumed_samples if self._continues else self._plan.epoch_end(self._consumed_samples)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the current epoch. Nothing happens, and no epoch begins, before the first batch is asked for."""
        plan, rank, dataset = self._plan, self._place[0], self.dataset
        plan.require_a_batch()
        start = self._start() if dataset.is_train else self._start() % len(dataset)
        positions = EpochPositions(self._order, plan, rank, start)
        pipeline = dataset.pipeline(positions, self._jitter_on)
        workers = min(self.num_workers, len(self))
        items: Iterator[Batch] = iterate(pipeline, workers, self.prefetch_factor)
        batches = (batch for batch in plan.batches(start) if plan.share(batch, rank))
        end = plan.epoch_end(start)
        for batch, item in zip(batches, items, strict=True):
            self._consumed_samples = plan.after(batch)
            # A loop that knows the length never asks for more than the last batch.
            self._continues = self._consumed_samples >= end
            yield self._output(item)
        self._consumed_samples, self._continues = max(self._consumed_samples, end), True

    def state_dict(self) -> dict[str, Any]:
        """How far the loop has come, the same on every rank: counts what was handed out, not what was prefetched."""
        own = {"format_version": STATE_VERSION, **self.dataset.identity()}
        place = {"batch_size": self.batch_size, "world_size": self._place[1], "drop_last": self.drop_last}
        return {**own, **place, "streams": self._order_streams, "consumed_samples": self._consumed_samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a loader on any number of ranks was.

        Raises:
            UserError: The state is of another dataset, split or seed, or has other batches: neither `batch_size` nor the
                global batch size (times ranks) is the same.
        """
        counts = {"batch_size", "world_size", "drop_last", "streams", "consumed_samples"}
        self.dataset.require_same(state, counts)
        own, saved = self._plan.global_batch_size, state["batch_size"] * state["world_size"]
        if self.batch_size != state["batch_size"] and own != saved:
            raise UserError(
                "MSA-DATA-736",
                f"the state has batch_size {state['batch_size']} on {state['world_size']} ranks, this loader {self.batch_size} "
                f"on {self._place[1]}; set it to {state['batch_size']}, or keep the global batch of {saved}",
                setting="batch_size",
            )
        if self.drop_last != state["drop_last"]:
            raise UserError(
                "MSA-DATA-736",
                f"the state has drop_last {state['drop_last']}, this loader {self.drop_last}; set it as it was",
                setting="drop_last",
            )
        self._streams, self._consumed_samples, self._continues = state["streams"], state["consumed_samples"], True
        self.__dict__.pop("_order", None)

    @property
    def _place(self) -> tuple[int, int]:
        """Rank and world size; asked for when they are needed, since a process may join a group after it made its loader."""
        return self._given or rank_and_world_size()

    @property
    def _plan(self) -> EpochPlan:
        dataset = self.dataset
        return EpochPlan(len(dataset), self.batch_size, self._place[1], dataset.is_train, self.drop_last)

    @property
    def _order_streams(self) -> int:
        if self._streams is None:
            self._streams = self._plan.global_batch_size
        return self._streams

    @cached_property
    def _order(self) -> SampleOrder | InOrder:
        return self.dataset.order(self._order_streams)

    @property
    def _jitter_on(self) -> Literal["device", "loader"]:
        return self.dataset.data.jitter_on if self.normalize else "loader"

    def _output(self, batch: Batch) -> Any:
        self._check_bad(batch)
        if self.device is not None:
            batch = batch.to(self.device)
        if callable(self.output):
            return self.output(batch)
        if self.output == "batch":
            return batch
        images = network_input(batch, self.dataset.data) if self.normalize else batch.images_NHWC.permute(0, 3, 1, 2)
        labels = batch.labels_NHW.long()
        if self.output == "tuple":
            return images, labels
        if self.output == "transformers":
            return {"pixel_values": images, "labels": labels}
        return {"images": images, "labels": labels, "epochs": batch.epochs_N, "samples": batch.samples_N}

    def _check_bad(self, batch: Batch) -> None:
        """Log what was skipped. Raises UserError where that is more than data.max_bad_fraction of an epoch, on this rank."""
        for sentence in batch.bad_samples:
            logger.warning(f"bad sample skipped: {sentence}", extra=EVERY_RANK)
        self._bad_samples += len(batch.bad_samples)
        most, share = self.dataset.data.max_bad_fraction, len(self.dataset) / self._place[1]
        if batch.bad_samples and self._bad_samples > most * share:
            raise UserError(
                "MSA-DATA-730",
                f"{self._bad_samples} bad samples were skipped on this rank, expected at most max_bad_fraction={most} of its "
                f"{share:.0f} samples of an epoch; pack or repair the data",
                setting="max_bad_fraction",
            )


def _refuse(setting: str, found: str) -> None:
    raise UserError("MSA-DATA-738", f"{found}; fix it", setting=setting)
