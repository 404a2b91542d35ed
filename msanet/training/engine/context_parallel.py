"""One image across ranks: each of a group of ranks attends with its share of the queries to all keys and values.

Every rank of a group has the same image and computes the same convolutions; of the attention's output each computes a share
and gathers the others'. Backward, each gathers the gradients of the queries and sums those of keys and values, so that all have
the full gradient, which DeepSpeed's mean over all ranks does not change. Exact up to the order of sums.

What a rank receives in a step is in docs/cluster.md. Recomputation of activations sends nothing again.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.data.loader import BatchPlan
from msanet.errors import UserError
from msanet.models.attention.spatial import attend, pooled, positions
from msanet.models.msam import MSAM


def same_image_group(batches: BatchPlan) -> dist.ProcessGroup:
    """The ranks that take this rank's images. A collective."""
    size = batches.context_parallel_size
    return _own_group([list(range(first, first + size)) for first in range(0, batches.world_size, size)])


def other_images_group(batches: BatchPlan) -> dist.ProcessGroup:
    """One rank of each group: together they have each image of a step once. A collective."""
    world_size, size = batches.world_size, batches.context_parallel_size
    return _own_group([list(range(first, world_size, size)) for first in range(size)])


def _own_group(groups: list[list[int]]) -> dist.ProcessGroup:
    own, _ = dist.new_subgroups_by_enumeration(groups)
    return own


def parallelize_attention(model: nn.Module, group: dist.ProcessGroup) -> None:
    """From now on the network's attention modules divide their queries in training. Raises UserError if there are none."""
    modules = [module for module in model.modules() if isinstance(module, MSAM) and module.attend]
    if not modules:
        raise UserError(
            "MSA-TRAIN-008",
            f"trainer.context_parallel_size={group.size()} divides MSANet's attention, and this network has none; set it to 1",
            setting="trainer.context_parallel_size",
        )
    for module in modules:
        if module.window:
            raise UserError(
                "MSA-TRAIN-009",
                f"trainer.context_parallel_size={group.size()} divides the queries of the whole image, and "
                f"model.attention_window={module.window} gives each a part of it; set context_parallel_size to 1 or "
                "attention_window to 0",
                setting="trainer.context_parallel_size",
            )
        module.attention = ContextParallelAttention(module, group)


class ContextParallelAttention:
    """The attention of an `MSAM` with its queries divided among a group of ranks in training.

    In evaluation, and without gradients, ranks have different images and each attends alone.
    """

    def __init__(self, module: MSAM, group: dist.ProcessGroup) -> None:
        self._module, self._group, self._alone = module, group, module.attention

    def __call__(self, a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor) -> Tensor:
        """As `spatial_attention`. In training a collective of the group, which must have the same maps."""
        if not (self._module.training and torch.is_grad_enabled()):
            return self._alone(a_NCHW, b_NCHW, c_NCHW)
        key, value = (positions(pooled(x_NCHW, self._module.pool)) for x_NCHW in (a_NCHW, c_NCHW))
        output_NLC = context_parallel_attention(positions(b_NCHW), key, value, self._group)
        return output_NLC.transpose(1, 2).reshape(b_NCHW.shape)


def context_parallel_attention(
    query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor, group: dist.ProcessGroup
) -> Tensor:
    """`attend` with all queries, (N, L, C); inputs and output are the same on all ranks of the group. A collective."""
    length = query_NLC.shape[1]
    missing = -length % group.size()
    padded = F.pad(query_NLC, (0, 0, 0, missing)) if missing else query_NLC  # equal shares, whatever L is
    own, key, value = _ShareOut.apply(padded, key_NSC, value_NSC, group)
    return _Gather.apply(attend(own, key, value), group)[:, :length]


class _ShareOut(torch.autograd.Function):
    """This rank's share of the queries, and all keys and values. Backward: the gathered gradient, and the summed ones."""

    @staticmethod
    def forward(
        ctx: Any, query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.group = group
        return _share(query_NLC, group), key_NSC.view_as(key_NSC), value_NSC.view_as(value_NSC)

    @staticmethod
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor, d_value: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        sums = [gradient.contiguous().clone() for gradient in (d_key, d_value)]
        under_way = [dist.all_reduce(total, group=ctx.group, async_op=True) for total in sums]
        d_query = _gathered(d_query, ctx.group)
        for work in under_way:
            work.wait()
        return d_query, sums[0], sums[1], None


class _Gather(torch.autograd.Function):
    """All shares of the output in order. Backward: this rank's share of the gradient, which is the same on all ranks.

    Keeps nothing for the backward pass, so that recomputation ends before it gets here.
    """

    @staticmethod
    def forward(ctx: Any, own_NlC: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(own_NlC, group)

    @staticmethod
    def backward(ctx: Any, d_NLC: Tensor) -> tuple[Tensor, None]:
        return _share(d_NLC, ctx.group), None


def _share(x_NLC: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(N, L / P, C), contiguous."""
    return x_NLC.chunk(group.size(), dim=1)[group.rank()].contiguous()


def _gathered(own_NlC: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The shares of all ranks of the group, (N, P l, C). A collective."""
    ranks, (images, length, channels) = group.size(), own_NlC.shape
    parts = own_NlC.new_empty(ranks * images, length, channels)
    dist.all_gather_into_tensor(parts, own_NlC.contiguous(), group=group)
    return parts.unflatten(0, (ranks, images)).transpose(0, 1).reshape(images, ranks * length, channels)
