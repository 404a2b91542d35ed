"""Micro-batches on their way to the device while it still computes the step before."""

from collections.abc import Sequence

import torch

from msanet.data.pipeline import Batch


class DevicePrefetcher:
    """Two buffers: the batches in use, and those that are being copied on a stream of their own.

    `send` as soon as a step's batches are in page-locked memory, `take` when the step begins. Nothing is read ahead of the
    order for this, so that what a resume reads again is no question here. Without a GPU nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._sent: Sequence[Batch] | None = None
        self._copies: list[Batch] = []

    def send(self, batches: Sequence[Batch]) -> None:
        """Begin to copy. The host goes on."""
        if self._stream is None:
            return
        with torch.cuda.stream(self._stream):
            self._sent, self._copies = batches, [batch.to(self._device) for batch in batches]

    def take(self, batches: Sequence[Batch]) -> list[Batch]:
        """These batches on the device, for what the present stream does from here on; copied now if not `send` before."""
        if self._stream is None or batches is not self._sent:
            return [batch.to(self._device) for batch in batches]
        taken, self._sent, self._copies = self._copies, None, []
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        for tensor in (value for batch in taken for value in vars(batch).values() if isinstance(value, torch.Tensor)):
            tensor.record_stream(present)  # its memory is the other stream's, which must not have it back too soon
        return taken
