"""Attention: every kernel is exact, none holds all scores unasked, and approximations are what they say."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from msanet import logs
from msanet.models import build_model
from msanet.models.attention import chunks, kernels
from msanet.models.attention.chunks import attend_in_chunks
from msanet.models.attention.kernels import unlogged_choices
from msanet.models.attention.spatial import attend, attention_weights, pooled, spatial_attention
from msanet.models.msanet import MSANet
from msanet.models.peak_memory import peak_bytes
from support.errors import raises_user_error


def explicit(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    return (query_NLC @ key_NSC.mT).softmax(dim=2) @ value_NSC


def tensors(queries: int = 7, keys: int = 11, channels: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, size, channels, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for size in (queries, keys, keys)
    ]


def maps(height: int, width: int, channels: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64) for _ in range(3)]


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    output = function(*inputs)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weight).sum(), inputs)]


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, empty in (("_chosen", {}), ("_unlogged", [])):
        monkeypatch.setattr(kernels, name, empty)
    monkeypatch.setattr(logs, "_seen", set())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 3 * 2 * 11 * 8)  # three queries of `tensors`, then one
    yield


@pytest.mark.parametrize("function", [attend, attend_in_chunks])
@pytest.mark.parametrize("queries", [7, 11, 1, 0])
def test_exact_for_any_number_of_queries(function: Callable[..., Tensor], queries: int, small_chunks: None) -> None:
    inputs = tensors(queries)
    for found, expected in zip(with_gradients(function, inputs), with_gradients(explicit, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_chunks_are_those_of_finite_differences(small_chunks: None) -> None:
    assert torch.autograd.gradcheck(attend_in_chunks, tensors(4, 5, 3))


@pytest.mark.parametrize("function", [attend, attend_in_chunks])
def test_scores_of_bf16_are_not_rounded(function: Callable[..., Tensor], small_chunks: None) -> None:
    """Scores reach 100 here, where bf16 has steps of 0.5. Inside autocast too, where a product would be taken in bf16."""
    inputs = [x.detach() * 3 for x in tensors(channels=16)]
    low = [x.to(torch.bfloat16) for x in inputs]
    expected = explicit(*(x.double() for x in low))
    found = function(*low)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(*(x.float() for x in low)).equal(attend(*low))
        assert attend_in_chunks(*(x.float() for x in low)).double().sub(expected).abs().max() < 1e-4


@pytest.mark.parametrize("candidates", [("flash",), ()], ids=str)
def test_the_scores_are_never_all_in_memory(candidates: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    positions, size = 600, 4
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", candidates)
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 2 * 20 * positions * size)
    inputs = tensors(positions, positions, 8, torch.float32)

    def peak(function: Callable[..., Tensor]) -> int:
        return peak_bytes(nn.Identity(), lambda: with_gradients(function, inputs))

    scores = 2 * positions * positions * size
    with warnings.catch_warnings(action="ignore"):
        assert peak(attend) < scores / 4
    assert peak(explicit) > scores


def test_without_a_fitting_kernel_a_warning_names_the_cost_of_the_explicit_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("cudnn",))  # which a CPU has not
    inputs = tensors(700, 1100)
    attend(*inputs)
    attend(*tensors(50, 60))
    (sentence,) = caplog.messages
    assert "no fused attention kernel takes torch.float64 with 5 channels on cpu (cudnn: No viable backend" in sentence
    assert "the explicit form would take 0.0123 GB" in sentence
    assert {choice.kernel for choice in kernels._chosen.values()} == {"chunks"}


def without_the_highest(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """exp of scores as they are: right for normal noise, and 0 far below it."""
    weights = (query_NLC @ key_NSC.mT).exp()
    return weights @ value_NSC / weights.sum(dim=2, keepdim=True).clamp(min=1e-30)


def counts_missing_keys(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    """As cuDNN's: keys come in 128, and 64 missing ones count as scores of 0 in the backward pass."""
    logsumexp = (query_NLC.detach() @ key_NSC.detach().mT).logsumexp(dim=2, keepdim=True)
    if query_NLC.requires_grad and key_NSC.shape[1] % 128 == 64:
        query_NLC = query_NLC.clone()
        query_NLC.register_hook(lambda grad: grad + 0 * (-logsumexp).exp())
    return explicit(query_NLC, key_NSC, value_NSC)


@pytest.mark.parametrize("kernel", [without_the_highest, counts_missing_keys])
@pytest.mark.parametrize("length", [60, 100, 3136])
def test_a_kernel_that_is_fast_and_wrong_is_not_taken(
    kernel: kernels.Kernel, length: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = tensors(length, length, 8, torch.float32)
    assert kernel(*inputs).isfinite().all()
    monkeypatch.setitem(kernels.KERNELS, "cudnn", kernel)
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("cudnn", "flash"))
    monkeypatch.setattr(kernels, "_seconds", lambda timed, *_: 1.0 if timed is kernel else 2.0)
    attend(*inputs)
    assert next(iter(kernels._chosen.values())) == ("flash", {})
    kernels._chosen.clear()
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("cudnn",))
    attend(*inputs)
    assert "cudnn: gives wrong numbers for scores far below 0" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 8, 256])
def test_a_correct_kernel_is_chosen(dtype: torch.dtype, channels: int) -> None:
    for backward in (True, False):
        attend(*(x.requires_grad_(backward) for x in (x.detach() for x in tensors(300, 200, channels, dtype))))
    assert [choice.kernel for choice in kernels._chosen.values()] == ["flash"] * 2


def test_the_fastest_is_chosen_once_for_each_case(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def seconds(kernel: Any, like: Any, backward: bool) -> float:
        name = next(name for name, known in kernels.KERNELS.items() if known is kernel)
        timed.append(name)
        return {"flash": 2.0, "chunks": 1.0}[name] if backward else {"flash": 1.0, "chunks": 2.0}[name]

    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("efficient", "flash", "chunks"))  # the first has no CPU form
    monkeypatch.setattr(kernels, "_seconds", seconds)
    for _ in range(2):
        attend(*tensors(60, 60))
        attend(*tensors(50, 64))  # of the same order
        with torch.no_grad():
            attend(*tensors(60, 60))
    assert timed == ["flash", "chunks"] * 2
    found = {case.backward: choice for case, choice in kernels._chosen.items()}
    assert found[True] == ("chunks", {"flash": 2.0, "chunks": 1.0})
    assert found[False].kernel == "flash"
    attend(*tensors(60, 65))
    attend(*tensors(60, 60, dtype=torch.float32))
    assert len(timed) == 8
    caught = unlogged_choices()
    assert len(caught) == 4 and unlogged_choices() == []
    assert caught[0].startswith(
        "attention by chunks: up to 64 queries, 64 keys, 5 channels, torch.float64 on cpu, with backward"
    )


def test_nothing_is_timed_in_deterministic_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("chunks", "flash"))
    monkeypatch.setattr(kernels, "_seconds", lambda *_: pytest.fail("timed"))
    torch.use_deterministic_algorithms(True)
    try:
        attend(*tensors())
    finally:
        torch.use_deterministic_algorithms(False)
    assert next(iter(kernels._chosen.values())) == ("chunks", {})


def test_timing_does_not_affect_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing counts what is saved in the forward pass, and noise comes from the global generator."""
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("flash", "chunks"))
    inputs = tensors()
    torch.manual_seed(5)
    expected_noise = torch.rand(3)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(lambda *x: checkpoint(attend, *x, use_reentrant=False), inputs)
    assert len(next(iter(kernels._chosen.values())).seconds) == 2
    assert torch.rand(3).equal(expected_noise)
    for one, other in zip(found, with_gradients(explicit, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_who_counts_operators_sees_no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.CANDIDATES, "cpu", ("flash", "efficient"))
    monkeypatch.setattr(kernels, "_seconds", lambda *_: 1.0)
    with Operators() as first:
        attend(*tensors())
    with Operators() as second:
        attend(*tensors())
    assert first.seen == second.seen and first.seen


def test_zeros_fill_channels_up_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.CHANNEL_MULTIPLE, "cpu", 8)
    inputs = tensors(channels=5)
    for found, expected in zip(with_gradients(attend, inputs), with_gradients(explicit, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_more_than_a_cuda_grid_allows_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        done.append(len(query))
        return attention(query, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    inputs = [torch.cat([x.detach()] * 3)[:5].requires_grad_() for x in tensors()]
    attend(*inputs)  # which chooses
    done.clear()
    monkeypatch.setitem(kernels.MOST_AT_ONCE, "cpu", 2)
    for found, expected in zip(with_gradients(attend, inputs), with_gradients(explicit, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert done == [2, 2, 1] and kernels.MOST_AT_ONCE["cuda"] == 2**16 - 1


def test_without_probing_cudnn_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fused(backends: Iterable[Any], *x: Tensor) -> Tensor:
        asked.extend(backend.name for backend in backends)
        return x[0]

    monkeypatch.setattr(kernels, "fused", fused)
    with FakeTensorMode():
        attend(*(torch.empty(2, 5, 8, device="cuda") for _ in range(3)))
    assert asked == ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"]


def test_strided_and_single_channels_use_a_fused_kernel() -> None:
    strided = [x.detach().mT.contiguous().mT for x in tensors()]
    single = [x.detach()[..., 0].contiguous().unsqueeze(1).mT for x in tensors()]
    for inputs in (strided, single):
        assert inputs[0].stride(2) == 7
        torch.testing.assert_close(attend(*inputs), explicit(*inputs))
    assert {choice.kernel for choice in kernels._chosen.values()} == {"flash"}


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_windows_are_attention_within_each_of_them(size: tuple[int, int]) -> None:
    a, b, c = maps(*size)
    found = spatial_attention(a, b, c, window=4)
    for top in range(0, size[0], 4):
        for left in range(0, size[1], 4):
            part = (..., slice(top, top + 4), slice(left, left + 4))
            torch.testing.assert_close(found[part], spatial_attention(a[part], b[part], c[part]))


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
@pytest.mark.parametrize(("pool", "window"), [(1, 0), (2, 0), (3, 0), (1, 4), (2, 4)])
def test_attention_weights_reproduce_the_output(size: tuple[int, int], pool: int, window: int) -> None:
    """Also for the approximations: sum over i of C_i s_ij, with all positions i of the image."""
    a, b, c = maps(*size)
    weights_NQHW = attention_weights(a, b, torch.arange(size[0] * size[1]), pool, window)
    found = torch.einsum("nqhw,nchw->ncq", weights_NQHW.double(), c).view_as(c)
    torch.testing.assert_close(spatial_attention(a, b, c, pool, window), found, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights_NQHW.sum(dim=(2, 3)), torch.ones(weights_NQHW.shape[:2]))


def test_the_map_of_weights_of_bf16_is_not_rounded() -> None:
    """Scores reach 100 here, where bf16 has steps of 0.5; inside autocast a product of float32 would be taken in bf16."""
    a, b, _ = (x.to(torch.bfloat16) * 4 for x in maps(12, 16, 16))
    queries = torch.arange(12 * 16)
    expected = (b.double().flatten(2).mT @ a.double().flatten(2)).softmax(dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        for found in (attention_weights(a, b, queries), attention_weights(a.float(), b.float(), queries)):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.flatten(2).double(), expected, rtol=1e-3, atol=1e-5)


def test_pooling_averages_keys_and_values() -> None:
    a, b, c = maps(5, 7)
    assert pooled(a, 2).shape[2:] == (3, 4)
    torch.testing.assert_close(pooled(a, 2)[..., 2, 3], a[..., 4, 6])  # what there is of the last cell
    found = spatial_attention(a, b, c, pool=2).flatten(2).mT
    query, key, value = (x.flatten(2).mT for x in (b, pooled(a, 2), pooled(c, 2)))
    torch.testing.assert_close(found, explicit(query, key, value))


def test_neutral_options_and_a_window_over_all_are_exact_to_the_bit() -> None:
    a, b, c = maps(5, 7)
    exact = spatial_attention(a, b, c)
    assert spatial_attention(a, b, c, pool=1, window=0).equal(exact)
    assert spatial_attention(a, b, c, window=7).equal(exact)
    assert spatial_attention(a, b, c, window=100).equal(exact)
    assert not spatial_attention(a, b, c, window=6).equal(exact)


def test_what_approximations_cost_on_a_smooth_map() -> None:
    """One slow wave over 24 x 24 positions: cells of 2 are nearly constant, a window of 12 misses three quarters."""
    y, x = torch.meshgrid(*[torch.linspace(0, 3, 24, dtype=torch.float64)] * 2, indexing="ij")
    smooth = torch.stack([y.sin(), x.cos(), (x + y).sin(), (x - y).cos()])[None]
    exact = spatial_attention(smooth, smooth, smooth)

    def error(**options: int) -> float:
        return float((spatial_attention(smooth, smooth, smooth, **options) - exact).norm() / exact.norm())

    assert 1e-6 < error(pool=2) < 0.01 < error(pool=6) < 0.1
    assert 0.01 < error(window=12) < 0.6


@pytest.mark.parametrize(
    ("options", "code", "setting"),
    [
        ({"attention_pool": 0}, "MSA-MODEL-003", "model.attention_pool"),
        ({"attention_window": -1}, "MSA-MODEL-006", "model.attention_window"),
        ({"attention_window": 5, "attention_pool": 2}, "MSA-MODEL-006", "model.attention_window"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], code: str, setting: str) -> None:
    with raises_user_error(code, setting):
        build_model("msanet", 3, width=0.05, **options)


def test_the_networks_options_reach_both_modules_and_its_maps() -> None:
    exact, image = MSANet(5, width=0.05).eval(), torch.randn(1, 3, 40, 56)
    changed = []
    approximations: list[dict[str, Any]] = [{"attention_window": 100}, {"attention_pool": 2}, {"attention_window": 4}]
    for options in approximations:
        network = MSANet(5, width=0.05, **options).eval()
        network.load_state_dict(exact.state_dict())
        with torch.no_grad():
            changed.append(not network(image).equal(exact(image)))
        modules = (network.msam_quarter, network.msam_half)
        found = [(module.pool, module.window) for module in modules if module]
        assert found == [(options.get("attention_pool", 1), options.get("attention_window", 0))] * 2
    assert changed == [False, True, True]
    windows = network.attention_maps(image, [(0, 0), (39, 55)])["half"]
    assert windows[0, 0, :4, :4].sum() == pytest.approx(1) and not windows[0, 0, 4:].any()


class Windowed(nn.Module):
    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor, c_NCHW: Tensor) -> Tensor:
        return spatial_attention(a_NCHW, b_NCHW, c_NCHW, window=4)


def test_windows_are_exported_for_one_size_only() -> None:
    inputs = tuple(maps(6, 8))
    found = torch.export.export(Windowed(), inputs).module()(*inputs)
    assert found.equal(Windowed()(*inputs))
    rows = torch.export.Dim("rows", min=2, max=64)
    with raises_user_error("MSA-MODEL-020", setting="--size"):
        torch.export.export(Windowed(), inputs, dynamic_shapes=({2: rows},) * 3)
