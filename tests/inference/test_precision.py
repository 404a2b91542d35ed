"""bf16 against fp32: labels of a network that has learned something, where a random one's would all be nearly tied."""

import pytest
import torch
from torch import Tensor, nn

from msanet.config import EvaluationConfig
from msanet.inference.predictor import Predictor
from msanet.losses import cross_entropy_sum
from msanet.models import build_model

MEAN, STD = (110.0, 110.0, 110.0), (60.0, 60.0, 60.0)


def scenes(count: int, seed: int, size: tuple[int, int] = (48, 64)) -> tuple[Tensor, Tensor]:
    """Images (N, H, W, 3) and labels (N, H, W), uint8: a horizon at any height, discs before it, noise over all."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(length)[None] for length in size)
    horizon, center_row, center_column = (10 + 30 * torch.rand(count, 1, generator=draw) for _ in range(3))
    labels = (rows > horizon)[:, :, None].long().repeat(1, 1, size[1])
    away = (rows - center_row)[:, :, None] ** 2 + (columns - center_column)[:, None] ** 2
    labels[away < 12**2] = 2
    shades = torch.tensor([200.0, 90.0, 30.0])[labels][..., None]
    images = (shades + 20 * torch.randn(count, *size, 3, generator=draw)).clamp(0, 255)
    return images.byte(), labels.byte()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small MSANet after 60 steps on such scenes."""
    torch.manual_seed(0)
    network = build_model("msanet", 3, width=0.125).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(60):
        images, labels = scenes(4, seed=step)
        x = (images.permute(0, 3, 1, 2).float() - MEAN[0]) / STD[0]
        loss = cross_entropy_sum(network(x), labels) / labels.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_labels_in_bf16_are_those_in_fp32(trained: nn.Module) -> None:
    images, truth = scenes(16, seed=1000)
    exact, short = (Predictor(trained, EvaluationConfig(precision=p), MEAN, STD) for p in ("fp32", "bf16"))
    expected, found = (torch.stack([one.labels(image) for image in images]) for one in (exact, short))
    right = (expected == truth).float().mean()
    assert right > 0.95, "a network that has learned nothing proves nothing"
    agree = (expected == found).float().mean()
    assert agree > 0.999, agree
