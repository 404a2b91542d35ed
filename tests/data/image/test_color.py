"""Colors are jittered and normalized as their definitions say; randomness belongs to the sample."""

from typing import Any

import numpy as np
import pytest
import torch

from msanet.config import DataConfig, parse_config
from msanet.data.image.color import Draws, choose_jitter, color_jitter, color_jitter_uint8, normalize, sample_rng


def settings(**data: Any) -> DataConfig:
    return parse_config({"data": data}, "test").data


def test_randomness_is_a_function_of_seed_epoch_and_sample() -> None:
    draws = {key: sample_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(draws.values())) == 4
    assert sample_rng(0, 1, 0).random() == draws[0, 1, 0]
    of_purposes = [sample_rng(0, 0, 0, purpose).random() for purpose in Draws]
    assert len({*of_purposes, *draws.values()}) == 4 + len(Draws)
    assert choose_jitter(settings(), sample_rng(0, 0, 0)) == (1.0, 1.0, 1.0)
    brightness, contrast, saturation = choose_jitter(settings(brightness=0.5, contrast=0.1), sample_rng(0, 0, 0))
    assert 0.5 <= brightness <= 1.5 and 0.9 <= contrast <= 1.1 and saturation == 1.0


def test_normalisation_by_hand() -> None:
    pixels = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    x = normalize(pixels, (5.0, 10.0, 15.0), (5.0, 2.0, 3.0))
    assert x.shape == (1, 3, 1, 1) and x.flatten().tolist() == [1.0, 5.0, 5.0]
    assert normalize(torch.zeros(2, 4, 5, 3, dtype=torch.uint8), (0, 0, 0), (1, 1, 1)).is_contiguous(
        memory_format=torch.channels_last
    )


def test_color_jitter_by_hand() -> None:
    images = torch.tensor([[[[100, 100, 100], [200, 200, 200]]]] * 4, dtype=torch.uint8)
    factors = torch.tensor([[1.0, 1, 1], [0.5, 1, 1], [1, 0.5, 1], [2, 1, 1]])
    out = color_jitter(images, factors)[..., 0].squeeze(1)
    torch.testing.assert_close(out, torch.tensor([[100.0, 200], [50, 100], [125, 175], [200, 255]]))
    red = torch.tensor([[[[200, 0, 0]]]], dtype=torch.uint8)
    grey = color_jitter(red, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(grey, torch.full((1, 1, 1, 3), 0.299 * 200))


@pytest.mark.parametrize(
    "factors", [(1.3, 0.8, 1.2), (0.7, 1.3, 0.7), (1.0, 1.0, 1.3), (1.0, 0.7, 1.0), (0.8, 1.0, 1.0)]
)
def test_jitter_in_a_loader_process_is_that_of_the_device_rounded(factors: tuple[float, float, float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    exact = color_jitter(torch.from_numpy(image)[None], torch.tensor([factors]))[0].numpy()
    found = color_jitter_uint8(image, factors)
    assert found.dtype == np.uint8 and np.abs(found - exact).max() < 2
    assert np.array_equal(color_jitter_uint8(image, (1.0, 1.0, 1.0)), image)
