"""Decoded samples on each node, for the epochs after the first."""

import struct
from typing import Any

import numpy as np

from msanet.data.sample_source import SampleSource
from msanet.data.samples import decode_sample
from msanet.data.storage.cache import NodeCache
from msanet.datasets import label_dtype

_HEADER = struct.Struct("<II")  # height, width


class DecodedSource:
    """A ShardSource whose samples are arrays: decoded once on this node, then mapped from the cache's files.

    Nothing is evicted from a full cache: an epoch is a permutation, so the least recently used sample is as likely to
    come next as any other.
    """

    def __init__(self, source: SampleSource, cache: NodeCache) -> None:
        self.source, self.cache = source, cache

    def read(self, sample: int) -> dict[str, Any]:
        """Like ShardSource.read, with 'image.npy' (H, W, C) and 'label.npy' (H, W), read-only."""
        data = self.cache.get(self._name(sample), lambda: self._decode(sample))
        height, width = _HEADER.unpack_from(data)
        pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size)
        form = self.source.manifest.image_format
        image, label = np.split(pixels, [height * width * form.pixel_bytes])
        return {
            **self.source.names(sample),
            "image.npy": image.view(form.dtype).reshape(height, width, form.channels),
            "label.npy": label.view(label_dtype(self.source.manifest.num_classes)).reshape(height, width),
        }

    def fetch(self, sample: int) -> None:
        """Like ShardSource.fetch, unless the sample is cached."""
        if not self.cache.has(self._name(sample)):
            self.source.fetch(sample)

    def _name(self, sample: int) -> str:
        return f"{self.source.content_name(sample)}.rgbl"

    def _decode(self, sample: int) -> bytes:
        image, label = decode_sample(self.source.read(sample))
        return _HEADER.pack(*label.shape) + image.tobytes() + label.tobytes()
