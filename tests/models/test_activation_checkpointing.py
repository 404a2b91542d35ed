"""Recomputed activations: the same loss, gradients and running statistics, from fewer kept tensors."""

import pytest
import torch
from torch import Tensor, nn

from msanet.models.activation_checkpointing import checkpoint_activations, frozen_running_statistics
from msanet.models.network import SegmentationNetwork
from support.networks import STRUCTURES, images, network, random_labels, training_loss


def one_step(model: SegmentationNetwork) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], int]:
    """Loss, gradients, buffers, and the bytes that autograd kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = images(2)
    torch.manual_seed(3)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = training_loss(model, image, random_labels(image))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, dict(model.named_buffers()), sum(kept.values())


@pytest.mark.parametrize("case", STRUCTURES)
def test_the_same_step_from_fewer_bytes(case: str) -> None:
    plain, recomputed = network(case), network(case)
    checkpoint_activations(recomputed)
    loss, gradients, buffers, size = one_step(plain)
    again_loss, again_gradients, again_buffers, again_size = one_step(recomputed)
    assert again_loss.equal(loss)
    assert gradients.keys() == again_gradients.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(again_gradients[name], gradient, rtol=1e-6, atol=1e-7, msg=name)
    assert all(again_buffers[name].equal(buffer) for name, buffer in buffers.items())
    assert again_size < 0.75 * size, f"{again_size} of {size} bytes"


def test_nothing_is_recomputed_in_evaluation() -> None:
    model = network("unet").eval()
    expected = model(images(1))
    checkpoint_activations(model)
    assert model(images(1)).equal(expected)


def test_running_statistics_stay_and_come_back() -> None:
    norm = nn.BatchNorm2d(3).train()
    x = torch.randn(4, 3, 5, 5)
    with frozen_running_statistics(nn.Sequential(norm)):
        inside = norm(x)
    assert norm.running_mean is not None and not norm.running_mean.any() and norm.num_batches_tracked == 0
    torch.testing.assert_close(norm(x), inside)  # normalized by its batch both times
    assert norm.running_mean.any() and norm.num_batches_tracked == 1
