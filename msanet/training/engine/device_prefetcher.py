"""Micro-batches on their way to the device while it still computes the step before."""

from collections.abc import Sequence

import torch

from msanet.data.pipeline import Batch


class DevicePrefetcher:
    """Copies the next batches on a stream of their own: `send` once they are in page-locked memory, `take` for the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._sent: Sequence[Batch] | None = None
        self._copies: list[Batch] = []

    def send(self, batches: Sequence[Batch]) -> None:
        """Begin to copy, if there is a GPU. The host does not wait."""
        if self._stream is None:
            return
        with torch.cuda.stream(self._stream):
            self._sent, self._copies = batches, [batch.to(self._device) for batch in batches]

    def take(self, batches: Sequence[Batch]) -> list[Batch]:
        """These batches on the device, for the current stream; copied now unless they were sent before."""
        if self._stream is None or batches is not self._sent:
            return [batch.to(self._device) for batch in batches]
        taken, self._sent, self._copies = self._copies, None, []
        present = torch.cuda.current_stream(self._device)
        present.wait_stream(self._stream)
        for tensor in (value for batch in taken for value in vars(batch).values() if isinstance(value, torch.Tensor)):
            tensor.record_stream(present)  # its memory is the other stream's, which must not have it back too soon
        return taken
