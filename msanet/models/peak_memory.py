"""How much memory a pass through a network takes, found on fake tensors: nothing is allocated or computed."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(network: nn.Module, work: Callable[[], object], keeps_gradients: bool = False) -> int:
    """The most bytes that are alive at once while `work` runs, but for parameters and buffers.

    For use inside torch's FakeTensorMode, in which `network` was built too. Each storage counts once, from the operator that
    makes it to the end of its last tensor. Of workspaces only a CPU's copies of a convolution's weight in the backward
    pass count. keeps_gradients: parameters' gradients stay; otherwise each is dropped when it is complete.
    """
    with _LiveMemory() as live:
        live.exclude(*network.parameters(), *network.buffers())
        hooks = [
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
            for parameter in network.parameters()
            if parameter.requires_grad and not keeps_gradients
        ]
        work()
    for hook in hooks:
        hook.remove()
    return live.peak


class _LiveMemory(TorchDispatchMode):
    """Counts what operators return. peak: the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._now = 0, 0
        self._known: dict[int, Any] = {}  # address of a storage -> weak reference, or the storage

    def exclude(self, *tensors: Tensor) -> None:
        self._known |= {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        if func is torch.ops.aten.convolution_backward.default and args[2].device.type == "cpu":
            self.peak = max(self.peak, self._now + 2 * args[2].nbytes)  # in oneDNN's layout and back, torch 2.13
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known[address] = weakref.ref(storage, lambda _: self._forget(address, size))
        self._now += size
        self.peak = max(self.peak, self._now)

    def _forget(self, address: int, size: int) -> None:
        del self._known[address]
        self._now -= size


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
