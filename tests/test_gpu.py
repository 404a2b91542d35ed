"""What only a GPU can show. Skipped without one; MSANET_GPU_TESTS=cpu runs the same tests there, to see that they work."""

import os

import pytest
import torch
from torch import Tensor

from msanet.data.image.band_jitter import band_jitter
from msanet.data.image.color import normalize
from msanet.inference.predictor import is_out_of_memory
from msanet.models import MODELS, build_model
from msanet.models.attention import kernels
from msanet.models.attention.spatial import attend

DEVICE = os.environ.get("MSANET_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
]
POSITIONS = 1_000


def tensors(channels: int, dtype: torch.dtype, count: int = 2) -> list[Tensor]:
    """Query, key and value with scores of unit variance."""
    draw = torch.Generator().manual_seed(0)
    shape = (count, POSITIONS if count < 100 else 4, channels)
    scaled = (channels**-0.25 * torch.randn(shape, generator=draw) for _ in range(3))
    return [x.to(DEVICE, dtype).requires_grad_() for x in scaled]


def with_gradients(attention: kernels.Kernel, inputs: list[Tensor]) -> list[Tensor]:
    output = attention(*inputs)
    return [output, *torch.autograd.grad(output.float().square().sum(), inputs)]


def explicit(query_NLC: Tensor, key_NSC: Tensor, value_NSC: Tensor) -> Tensor:
    return (query_NLC @ key_NSC.mT).softmax(dim=2) @ value_NSC


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [20, 64, 128, 256])
@pytest.mark.parametrize("name", [*kernels.CANDIDATES.get(DEVICE, ()), kernels.CHUNKS])
def test_each_kernel_is_the_explicit_formula(name: str, channels: int, dtype: torch.dtype) -> None:
    inputs = tensors(channels, dtype)
    reason = kernels._reason_against(kernels.KERNELS[name], [x[:1, :192].detach() for x in inputs], backward=True)
    if reason:
        pytest.skip(f"{name} does not fit: {reason}")
    exact = with_gradients(explicit, [x.detach().double().requires_grad_() for x in inputs])
    for found, expected in zip(with_gradients(kernels.KERNELS[name], inputs), exact, strict=True):
        error = (found.double() - expected).norm() / expected.norm()
        assert error < (2e-2 if dtype == torch.bfloat16 else 2e-3), error


def test_one_kernel_is_chosen_by_measurement() -> None:
    attend(*tensors(128, torch.bfloat16))
    (sentence,) = (one for one in kernels.unlogged_choices() if "128 channels" in one)
    assert "chunks" not in sentence, sentence


def test_more_windows_than_a_grid_has_are_split() -> None:
    inputs = tensors(8, torch.bfloat16, count=65_540 if DEVICE == "cuda" else 128)
    torch.testing.assert_close(attend(*inputs).float(), explicit(*(x.float() for x in inputs)), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_networks_have_finite_gradients_in_bf16(name: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = build_model(name, 5, width=0.125).to(DEVICE).to(memory_format=order).train()  # type: ignore[call-overload]
    image_NCHW = torch.randn(2, 3, 65, 97, device=DEVICE).contiguous(memory_format=order)
    with torch.autocast(DEVICE, torch.bfloat16):
        outputs = model(image_NCHW)
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    first.float().square().mean().backward()
    gradients = [x.grad for x in model.parameters() if x.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32], ids=str)
def test_bands_are_jittered_and_normalized_as_on_the_cpu(dtype: torch.dtype) -> None:
    images_NHWC = (torch.rand(2, 30, 40, 5, generator=torch.Generator().manual_seed(0)) * 250).to(dtype)
    factors, mean, std = torch.tensor([[1.2, 0.7, 1.0], [0.8, 1.1, 1.0]]), (100.0,) * 5, (50.0,) * 5
    on_cpu = normalize(images_NHWC, mean, std), normalize(band_jitter(images_NHWC, factors), mean, std)
    there = images_NHWC.to(DEVICE)
    found = normalize(there, mean, std), normalize(band_jitter(there, factors.to(DEVICE)), mean, std)
    for one, other in zip(found, on_cpu, strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=1e-4, rtol=1e-4)


def test_out_of_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8, device=DEVICE)
    assert is_out_of_memory(caught.value), caught.value
