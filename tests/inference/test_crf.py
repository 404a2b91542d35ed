"""The fully connected CRF against mean field with exact kernels, and what it must do to an image."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from msanet.config import CrfConfig, EvaluationConfig
from msanet.inference.crf import refine
from msanet.inference.predictor import Predictor
from support.errors import raises_user_error

pytest.importorskip("pydensecrf.densecrf")


def random_case(seed: int, size: tuple[int, int] = (8, 10), num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Noisy probabilities (K, H, W) that lean to class 0 left and to class 1 right, and an image with that edge."""
    rng = np.random.default_rng(seed)
    height, width = size
    right = np.arange(width) >= width // 2
    scores = rng.normal(0, 1, (num_classes, height, width))
    scores[0, :, ~right] += 1
    scores[1, :, right] += 1
    image = np.where(right, 180, 60)[None, :, None] + rng.normal(0, 8, (height, width, 3))
    return torch.from_numpy(scores).float().softmax(dim=0), torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def exact_mean_field(probabilities_KHW: Tensor, image_HWC: Tensor, settings: CrfConfig) -> np.ndarray:
    """Algorithm 1 of the paper with the N x N kernel of equation 3, normalized to D^-1/2 K D^-1/2; float64 (K, H, W)."""
    num_classes, height, width = probabilities_KHW.shape
    places = np.stack([*np.mgrid[:height, :width]], axis=-1).reshape(-1, 2).astype(float)
    colors = image_HWC.numpy().reshape(-1, 3).astype(float)

    def kernel(*features: np.ndarray) -> np.ndarray:
        f = np.concatenate(features, axis=1)
        values = np.exp(-((f[:, None] - f[None]) ** 2).sum(axis=-1) / 2)
        scale = values.sum(axis=1) ** -0.5
        return scale[:, None] * values * scale

    kernel_NN = settings.appearance_weight * kernel(
        places / settings.appearance_std, colors / settings.appearance_rgb_std
    ) + settings.smoothness_weight * kernel(places / settings.smoothness_std)
    unary = -np.log(probabilities_KHW.double().numpy().reshape(num_classes, -1))
    q = np.exp(-unary)
    for _ in range(settings.iterations):
        messages = q @ kernel_NN
        energy = unary + messages.sum(axis=0) - messages  # Potts: what the other classes say
        q = np.exp(energy.min(axis=0) - energy)
        q /= q.sum(axis=0)
    return q.reshape(num_classes, height, width)


@pytest.mark.parametrize(
    "settings",
    [
        CrfConfig(),
        CrfConfig(iterations=1),
        CrfConfig(iterations=2, appearance_weight=0, smoothness_std=2),
        CrfConfig(smoothness_weight=0, appearance_std=5),
        CrfConfig(smoothness_weight=0, appearance_rgb_std=40, appearance_weight=2, iterations=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_marginals_are_those_of_exact_mean_field(seed: int, settings: CrfConfig) -> None:
    """Up to the lattice's approximation of the Gaussians."""
    probabilities, image = random_case(seed)
    found = refine(probabilities, image, settings).numpy()
    expected = exact_mean_field(probabilities, image, settings)
    assert np.abs(found - expected).max() < 0.1
    assert np.abs(found - expected).mean() < 0.01
    assert np.abs(probabilities.numpy() - expected).mean() > 0.05, "the CRF has something to do"


def test_without_kernels_the_probabilities_come_back() -> None:
    probabilities, image = random_case(2)
    refined = refine(probabilities, image, CrfConfig(smoothness_weight=0, appearance_weight=0))
    assert refined.argmax(dim=0).equal(probabilities.argmax(dim=0))
    assert torch.allclose(refined, probabilities, atol=1e-6)


def test_a_single_wrong_pixel_is_corrected_and_its_neighbors_stay() -> None:
    probabilities = torch.full((2, 12, 16), 0.1)
    probabilities[0] = 0.9
    probabilities[:, 5, 7] = torch.tensor([0.2, 0.8])
    refined = refine(probabilities, torch.full((12, 16, 3), 90, dtype=torch.uint8), CrfConfig())
    assert refined.argmax(dim=0).sum() == 0


def test_borders_move_to_the_colors_edge() -> None:
    """The network's border is at column 8, with doubt two columns around it; the image's edge is at column 10."""
    image = torch.full((12, 20, 3), 40, dtype=torch.uint8)
    image[:, 10:] = 200
    probability_1 = torch.full((12, 20), 0.1)
    probability_1[:, 8:] = 0.9
    probability_1[:, 6:10] = torch.tensor([0.4, 0.45, 0.6, 0.6])
    labels = refine(torch.stack([1 - probability_1, probability_1]), image, CrfConfig()).argmax(dim=0)
    expected = (torch.arange(20) >= 10).long().expand(12, 20)
    assert labels.equal(expected)


def test_certain_and_impossible_classes_stay_finite_and_the_same_input_gives_the_same_bits() -> None:
    probabilities, image = random_case(3, (33, 47), 4)
    certain = torch.nn.functional.one_hot(probabilities.argmax(dim=0), 4).permute(2, 0, 1).float()
    first = refine(certain, image, CrfConfig())
    assert first.isfinite().all() and torch.allclose(first.sum(dim=0), torch.ones(33, 47), atol=1e-5)
    assert all(refine(certain.clone(), image.clone(), CrfConfig()).equal(first) for _ in range(3))


def test_the_predictor_refines_the_networks_probabilities() -> None:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3, padding=1).eval()
    image = torch.randint(0, 256, (19, 23, 3), dtype=torch.uint8)
    mean, std = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    crf = CrfConfig(enabled=True, iterations=2, appearance_weight=1, smoothness_weight=1)
    unrefined = Predictor(model, EvaluationConfig(), mean, std)
    refined = Predictor(model, EvaluationConfig(crf=crf), mean, std)
    expected = refine(unrefined.probabilities(image), image, crf)
    assert refined.probabilities(image).equal(expected)
    assert refined.labels(image).equal(expected.argmax(dim=0).to(torch.uint8))
    assert not refined.labels(image).equal(unrefined.labels(image))


def test_a_missing_package_is_reported_before_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    settings = EvaluationConfig(crf=CrfConfig(enabled=True))
    with raises_user_error("MSA-INFER-005", setting="evaluation.crf.enabled", mentions="pydensecrf2"):
        Predictor(torch.nn.Conv2d(3, 4, 1), settings, (0.0,) * 3, (1.0,) * 3)
    assert Predictor(torch.nn.Conv2d(3, 4, 1), EvaluationConfig(), (0.0,) * 3, (1.0,) * 3).window_batch == 4
