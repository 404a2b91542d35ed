"""Losses are sums over labelled pixels, and safe where nothing is labelled."""

import math

import torch

from msanet.losses import count_labelled, cross_entropy_sum


def test_cross_entropy_by_hand() -> None:
    """Two labelled pixels: -log(3/4) and -log(1/2); the ignored one has any logits."""
    logits = torch.tensor([[[[math.log(3.0), 0.0, 99.0]], [[0.0, 0.0, -99.0]]]])  # (1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    expected = -math.log(0.75) - math.log(0.5)
    torch.testing.assert_close(cross_entropy_sum(logits, labels), torch.tensor(expected))
    assert count_labelled(labels) == 2


def test_a_crop_without_a_label_gives_zero_and_zero_gradients() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.full((2, 4, 5), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()


def test_bf16_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    loss = cross_entropy_sum(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(4096 * math.log(2)), rtol=1e-5, atol=0)
