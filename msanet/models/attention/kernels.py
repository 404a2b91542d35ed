"""Which kernel computes attention: of the exact ones that fit, the fastest by measurement, and never the explicit form.

Each kernel is requested by name, so that torch raises if it does not fit; if none fits, chunks are used, with a warning. See
docs/decisions/0013.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from msanet.logs import once
from msanet.models.attention.chunks import attend_in_chunks

logger = logging.getLogger(__name__)

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query (N, L, C), key and value (N, S, C) -> softmax(Q K^T) V, (N, L, C)."""

CHUNKS = "chunks"
CHANNEL_MULTIPLE = {"cuda": 8}
"""Of C, in every fused kernel of a type of device."""
MOST_AT_ONCE = {"cuda": 65_535}
"""Of N, in a call of a fused kernel of a type of device: the size of a CUDA grid's axis."""
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""cuDNN last: without a probe its numbers are not checked, see `_reason_against`."""
_PROBE_POSITIONS = 192


def fused(backends: SDPBackend | list[SDPBackend], query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """Attention by the first of these kernels of torch that fits. Raises RuntimeError if none does.

    Channels are padded with zeros to `CHANNEL_MULTIPLE`; batches larger than `MOST_AT_ONCE` are split.
    """
    most = MOST_AT_ONCE.get(query_NLC.device.type)
    if most and query_NLC.shape[0] > most:
        parts = zip(*(x.split(most) for x in (query_NLC, key_NSC, value_NSC)), strict=True)
        return torch.cat([fused(backends, *part) for part in parts])
    channels = value_NSC.shape[2]
    missing = -channels % CHANNEL_MULTIPLE.get(query_NLC.device.type, 1)
    query, key, value = (x.unsqueeze(1) for x in (query_NLC, key_NSC, value_NSC))
    if missing:
        query, key, value = (F.pad(x, (0, missing)) for x in (query, key, value))
    with sdpa_kernel(backends, set_priority=True):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)[..., :channels]


def attend_untimed(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """Attention without measurement: in a graph, and on tensors without values.

    On CUDA the first kernel of torch that fits; if none does, an error in torch.compile, else chunks. On other devices, and in
    an exported graph, torch's operator.
    """
    if query_NLC.is_cuda and not torch.compiler.is_exporting():
        try:
            return fused(list(_BACKENDS.values()), query_NLC, key_NSC, value_NSC)
        except RuntimeError:
            if torch.compiler.is_compiling():
                raise
            return attend_in_chunks(query_NLC, key_NSC, value_NSC)
    query, key, value = (x.unsqueeze(1) for x in (query_NLC, key_NSC, value_NSC))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)


def _torchs(name: str) -> Kernel:
    return lambda query, key, value: fused(_BACKENDS[name], query, key, value)


KERNELS: dict[str, Kernel] = {**{name: _torchs(name) for name in _BACKENDS}, CHUNKS: attend_in_chunks}
CANDIDATES: dict[str, tuple[str, ...]] = {"cuda": ("cudnn", "flash", "efficient"), "cpu": ("flash",)}
"""Fused kernels by type of device, the probably fastest first."""


class AttentionCase(NamedTuple):
    """What a choice is made for. queries, keys: the next power of 4."""

    device: str
    dtype: torch.dtype
    channels: int
    queries: int
    keys: int
    backward: bool


class Choice(NamedTuple):
    """kernel: its name in KERNELS. seconds: of each kernel that was timed."""

    kernel: str
    seconds: dict[str, float]


_chosen: dict[AttentionCase, Choice] = {}
_unlogged: list[AttentionCase] = []


def unlogged_choices() -> list[str]:
    """A sentence for each choice since the last call."""
    cases = list(_unlogged)
    _unlogged.clear()
    return [_sentence(case, _chosen[case]) for case in cases]


def choose(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> str:
    """The name in KERNELS of the kernel for this attention, chosen once for each `AttentionCase`.

    Of the kernels that pass a small probe (see `_reason_against`) the fastest on random tensors of these sizes; under
    torch.use_deterministic_algorithms the first.
    """
    tensors = (query_NLC, key_NSC, value_NSC)
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    magnitudes = (_magnitude(query_NLC.shape[1]), _magnitude(key_NSC.shape[1]))
    case = AttentionCase(str(query_NLC.device), query_NLC.dtype, value_NSC.shape[2], *magnitudes, backward)
    if case not in _chosen:
        with _isolated(query_NLC.device):
            _chosen[case] = _choice(tensors, backward)
        _unlogged.append(case)
    return _chosen[case].kernel


def _choice(tensors: Sequence[Tensor], backward: bool) -> Choice:
    device = tensors[0].device
    reasons: dict[str, str] = {}
    probe = [x.new_empty(1, min(_magnitude(x.shape[1]), _PROBE_POSITIONS), x.shape[2]) for x in tensors]
    for name in CANDIDATES.get(device.type, ()):
        reasons[name] = _reason_against(KERNELS[name], probe, backward)
    fitting = [name for name, reason in reasons.items() if not reason]
    if not fitting:
        _warn(tensors, "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        return Choice(CHUNKS, {})
    if len(fitting) == 1 or torch.are_deterministic_algorithms_enabled():
        return Choice(fitting[0], {})
    seconds = {name: _seconds(KERNELS[name], tensors, backward) for name in fitting}
    return Choice(min(fitting, key=seconds.__getitem__), seconds)


def _reason_against(kernel: Kernel, like: Sequence[Tensor], backward: bool) -> str:
    """Why the kernel cannot be used: what torch reports, or wrong numbers; empty if it can.

    Compared where all scores of a query are far below 0, as in trained networks: there cuDNN's backward on Hopper gave NaN
    (pytorch#196678, cudnn-frontend#628). Gradients, which cancel there, must be finite.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tensors = _far_below(like, backward)
            found = _run(kernel, tensors, backward)
            with torch.no_grad():
                right = torch.allclose(found[0], attend_in_chunks(*tensors), rtol=0.05, atol=0.05)
            if not (right and all(x.isfinite().all() for x in found)):
                return "gives wrong numbers for scores far below 0"
        except RuntimeError as error:
            messages = [str(warning.message).partition(" (Triggered")[0] for warning in caught]
            return " ".join([*messages, str(error).partition("\n")[0]])
    return ""


def _seconds(kernel: Kernel, like: Sequence[Tensor], backward: bool) -> float:
    """The shorter of two runs after a warm-up; infinite if out of memory."""
    device, found = like[0].device, []
    try:
        tensors = _random(like, backward)
        for _ in range(3):
            _synchronize(device)
            start = time.perf_counter()
            _run(kernel, tensors, backward)
            _synchronize(device)
            found.append(time.perf_counter() - start)
    except RuntimeError:
        return float("inf")
    return min(found[1:])


def _run(kernel: Kernel, tensors: Sequence[Tensor], backward: bool) -> list[Tensor]:
    """The output and, if wanted, the gradients."""
    query, key, value = tensors
    output_NLC = kernel(query, key, value)
    if not backward:
        return [output_NLC]
    return [output_NLC, *torch.autograd.grad(output_NLC, tensors, torch.ones_like(output_NLC))]


def _random(like: Sequence[Tensor], backward: bool) -> list[Tensor]:
    """Normal values from an own generator, so that training's is not advanced."""
    generator = torch.Generator(like[0].device).manual_seed(0)
    return [
        torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device).requires_grad_(backward) for x in like
    ]


def _far_below(like: Sequence[Tensor], backward: bool) -> list[Tensor]:
    """As `_random`, with all scores about -150 (standard deviation 1.7): exp(150) is beyond float32."""
    query, key, value = _random(like, False)
    far = (150 / query.shape[2]) ** 0.5
    return [x.requires_grad_(backward) for x in (query.mul_(0.1).add_(far), key.mul_(0.1).sub_(far), value)]


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Without the caller's autocast, hooks (checkpointing counts saved tensors) and dispatch modes."""
    identity = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor)
    autocast = torch.autocast(device.type, enabled=False)
    with _disable_current_modes(), autocast, identity:
        yield


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _magnitude(positions: int) -> int:
    return int(4 ** -(-(positions - 1).bit_length() // 2))


def _sentence(case: AttentionCase, choice: Choice) -> str:
    timed = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in choice.seconds.items())
    return (
        f"attention by {choice.kernel}: up to {case.queries} queries, {case.keys} keys, {case.channels} channels, "
        f"{case.dtype} on {case.device}, {'with' if case.backward else 'without'} backward ({timed or 'nothing timed'})"
    )


def _warn(tensors: Sequence[Tensor], why: str) -> None:
    query, key, _ = tensors
    explicit = query.shape[0] * query.shape[1] * key.shape[1] * query.element_size()
    once(
        logger,
        logging.WARNING,
        f"no fused attention kernel takes {query.dtype} with {query.shape[2]} channels on {query.device} "
        f"({why or 'torch has none there'}); using exact chunks of queries, in linear memory and on a CPU 1.2 times a fused "
        f"kernel's time; the explicit form would take {explicit / 1e9:.3g} GB",
        key=f"chunks {query.device} {query.dtype} {query.shape[2]}",
    )
