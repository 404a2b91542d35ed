"""From shards to batches: index, order, source, codec, augmentation, loader.

`ShardDataset` and `Loader` are for training loops other than ours; importing them takes as long as importing torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msanet.data.shard_dataset import ShardDataset
    from msanet.data.stateful_loader import Loader

__all__ = ["Loader", "ShardDataset"]

_MODULES = {"Loader": "msanet.data.stateful_loader", "ShardDataset": "msanet.data.shard_dataset"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
