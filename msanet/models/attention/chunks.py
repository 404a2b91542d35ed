"""Exact attention in chunks of queries, for where no fused kernel fits: any device, any floating type.

The method of FlashAttention (Dao et al. 2022, algorithms 2 and 4) with torch's operators, in linear memory: the forward pass
keeps the logarithm of each softmax's denominator, the backward pass computes the scores again. See docs/decisions/0013.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}
"""The most bytes of scores held at once; twice that in the backward pass. A chunk is one query at least."""


def attend_in_chunks(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """softmax(Q K^T) V, exact, one head, scale 1: (N, L, C). Types below float32 are computed in float32, as kernels do."""
    found: Tensor = _Chunked.apply(query_NLC, key_NSC, value_NSC)
    return found


class _Chunked(torch.autograd.Function):
    """P: the probabilities; delta: the row sums of dO * O, D in the paper. Autocast would round scores, so it is off."""

    @staticmethod
    def forward(ctx: Any, query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
        query, key, value = _wide(query_NLC, key_NSC, value_NSC)
        output = query.new_empty(*query.shape[:2], value.shape[2])
        log_sum_NL1 = query.new_empty(*query.shape[:2], 1)
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                p_NlS = query[:, rows] @ key.mT
                highest_Nl1 = p_NlS.amax(dim=2, keepdim=True)
                p_NlS.sub_(highest_Nl1).exp_()
                sum_Nl1 = p_NlS.sum(dim=2, keepdim=True)
                output[:, rows] = (p_NlS @ value).div_(sum_Nl1)
                log_sum_NL1[:, rows] = sum_Nl1.log_().add_(highest_Nl1)
        output = output.to(value_NSC.dtype)
        ctx.save_for_backward(query_NLC, key_NSC, value_NSC, output, log_sum_NL1)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NLC: Tensor) -> tuple[Tensor, ...]:
        *inputs, output_NLC, log_sum_NL1 = ctx.saved_tensors
        query, key, value, grad, output = _wide(*inputs, grad_NLC, output_NLC)
        delta_NL1 = (grad * output).sum(dim=2, keepdim=True)
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for rows in _chunks(query, key):
                p_NlS = (query[:, rows] @ key.mT).sub_(log_sum_NL1[:, rows]).exp_()
                grad_value.baddbmm_(p_NlS.mT, grad[:, rows])
                grad_scores_NlS = (grad[:, rows] @ value.mT).sub_(delta_NL1[:, rows]).mul_(p_NlS)
                grad_query[:, rows] = grad_scores_NlS @ key
                grad_key.baddbmm_(grad_scores_NlS.mT, query[:, rows])
        grads = (grad_query, grad_key, grad_value)
        return tuple(grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True))


def _wide(*tensors: Tensor) -> list[Tensor]:
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    return [tensor.to(wide) for tensor in tensors]


def _chunks(query_NLC: Tensor, key_NSC: Tensor) -> Iterator[slice]:
    row_bytes = key_NSC.shape[0] * key_NSC.shape[1] * key_NSC.element_size()
    size = max(1, CHUNK_BYTES.get(query_NLC.device.type, CHUNK_BYTES["cuda"]) // max(1, row_bytes))
    for start in range(0, query_NLC.shape[1], size):
        yield slice(start, start + size)
