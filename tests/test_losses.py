"""Losses are what their definitions say, do not depend on how a batch is cut, and are safe where nothing is labeled."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msanet.config import LossConfig, parse_config
from msanet.errors import UserError
from msanet.losses import (
    SegmentationLoss,
    boundary_sum,
    class_weights,
    cross_entropy_sum,
    dice_sum,
    focal_sum,
    lovasz_sum,
    tversky_sum,
)
from support.errors import raises_user_error

OWN = f"{Path(__file__).parent}/own_losses.py"
CONFIGS: list[dict[str, Any]] = [
    {},
    {"class_weights": [1.0, 3.0, 0.5]},
    {"class_weights": "median_frequency"},
    {"class_weights": "sqrt_median_frequency"},
    {"ohem_ratio": 0.3},
    {"ohem_ratio": 0.3, "class_weights": [1.0, 3.0, 0.5]},
    {"cross_entropy": 0, "dice": 1},
    {"cross_entropy": 0, "lovasz": 1},
    {"cross_entropy": 0.5, "dice": 2, "lovasz": 0.25},
    {"cross_entropy": 0, "focal": 1},
    {"cross_entropy": 0, "focal": 1, "focal_gamma": 0.5, "ohem_ratio": 0.5},
    {"cross_entropy": 0, "tversky": 1},
    {"cross_entropy": 0.5, "boundary": 1},
    {"cross_entropy": 0, "custom": [f"{OWN}:squared_error"]},
    {"cross_entropy": 0.1, "custom": [f"{OWN}:OfImages"], "ohem_ratio": 0.5},
]


def config(**loss: Any) -> LossConfig:
    return parse_config({"loss": loss}, "test").loss


def batch(images: int = 4, size: tuple[int, int] = (6, 7)) -> tuple[Tensor, Tensor]:
    """Logits in float64 of 3 classes, and labels, a fifth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (images, *size), generator=generator).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return torch.randn(images, 3, *size, generator=generator, dtype=torch.float64), labels


def test_cross_entropy_by_hand() -> None:
    """Two labeled pixels: -log(3/4) and -log(1/2); the ignored one has any logits."""
    logits = torch.tensor([[[[math.log(3.0), 0.0, 99.0]], [[0.0, 0.0, -99.0]]]])  # (1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    easy, hard = -math.log(0.75), -math.log(0.5)
    torch.testing.assert_close(cross_entropy_sum(logits, labels), torch.tensor(easy + hard))
    torch.testing.assert_close(cross_entropy_sum(logits, labels, ohem_ratio=0.5), torch.tensor(hard))
    weights = torch.tensor([2.0, 5.0])
    torch.testing.assert_close(cross_entropy_sum(logits, labels, weights), torch.tensor(2 * easy + 5 * hard))
    for settings, counts in (
        (config(), [2, 1, 2]),
        (config(class_weights=[2, 5]), [7, 1, 2]),
        (config(ohem_ratio=0.5), [1, 1, 2]),
    ):
        assert SegmentationLoss(settings, [1, 1]).counts(labels).tolist() == counts


def test_dice_by_hand() -> None:
    """p of class 0 is 3/4 and 1/2, labels 0 and 1: Dice is 2(3/4) / (5/4 + 1) and 2(1/2) / (3/4 + 1)."""
    logits = torch.tensor([[[[math.log(3.0), 0.0, 99.0]], [[0.0, 0.0, -99.0]]]])
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    expected = 1 - (1.5 / 2.25 + 1 / 1.75) / 2
    torch.testing.assert_close(dice_sum(logits, labels), torch.tensor(expected))
    only_0 = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    torch.testing.assert_close(dice_sum(logits, only_0), torch.tensor(1 - 2.5 / 3.25))


def test_focal_and_tversky_by_hand() -> None:
    """p of the labels is 3/4 and 1/2; class 0 has tp 3/4, fp 1/2, fn 1/4, class 1 tp 1/2, fp 1/4, fn 1/2."""
    logits = torch.tensor([[[[math.log(3.0), 0.0, 99.0]], [[0.0, 0.0, -99.0]]]])
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    expected = -(0.25**2) * math.log(0.75) - 0.5**2 * math.log(0.5)
    torch.testing.assert_close(focal_sum(logits, labels, 2.0), torch.tensor(expected))
    torch.testing.assert_close(focal_sum(logits, labels, 0.0), cross_entropy_sum(logits, labels))
    first, second = 0.75 / (0.75 + 0.2 * 0.5 + 0.9 * 0.25), 0.5 / (0.5 + 0.2 * 0.25 + 0.9 * 0.5)
    torch.testing.assert_close(tversky_sum(logits, labels, 0.2, 0.9), torch.tensor(1 - (first + second) / 2))


def test_focal_loss_of_certain_pixels_has_finite_gradients() -> None:
    logits = torch.tensor([[[[200.0, -200.0]], [[0.0, 0.0]]]], requires_grad=True)
    focal_sum(logits, torch.zeros(1, 1, 2, dtype=torch.uint8), 0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("tolerance", [1, 2])
def test_boundary_loss_is_f1_of_boundaries(tolerance: int) -> None:
    """At certain predictions, against loops over pixels; a row of ignored ones, whose neighbors count on neither side."""
    generator, size = torch.Generator().manual_seed(3), 9
    truth = torch.zeros(size, size, dtype=torch.uint8)
    truth[3:7, 2:6] = 1
    truth[8] = 255
    found = torch.where(torch.rand(size, size, generator=generator) < 0.2, 1 - truth.clamp(max=1), truth.clamp(max=1))

    def near(y: int, x: int, distance: int) -> list[tuple[int, int]]:
        around = range(-distance, distance + 1)
        return [(y + b, x + a) for b in around for a in around if 0 <= y + b < size and 0 <= x + a < size]

    def boundary(mask: Tensor, k: int) -> set[tuple[int, int]]:
        pixels = itertools.product(range(7), range(size))
        return {pixel for pixel in pixels if mask[pixel] == k and any(mask[other] != k for other in near(*pixel, 1))}

    expected = []
    for k in (0, 1):
        true, seen = boundary(truth, k), boundary(found, k)
        precision = sum(any(pixel in true for pixel in near(*own, tolerance)) for own in seen) / len(seen)
        recall = sum(any(pixel in seen for pixel in near(*own, tolerance)) for own in true) / len(true)
        expected.append(2 * precision * recall / (precision + recall))
    logits = torch.nn.functional.one_hot(found.long(), 2).permute(2, 0, 1)[None].double() * 100
    loss = boundary_sum(logits, truth[None], tolerance)
    torch.testing.assert_close(loss, torch.tensor(1 - sum(expected) / 2, dtype=torch.float64))
    perfect = torch.nn.functional.one_hot(truth.clamp(max=1).long(), 2).permute(2, 0, 1)[None].double() * 100
    torch.testing.assert_close(boundary_sum(perfect, truth[None], tolerance), torch.zeros((), dtype=torch.float64))


def test_a_loss_of_ones_own_is_divided_by_labeled_pixels_or_images() -> None:
    logits, labels = batch()
    labels[2] = 255
    p, labeled = logits.softmax(dim=1), labels != 255
    truth = torch.nn.functional.one_hot(torch.where(labeled, labels, 0).long(), 3).permute(0, 3, 1, 2)
    expected = ((p - truth) ** 2).sum(dim=1)[labeled].mean()
    for name, reference in (
        ("squared_error", expected),
        ("OfImages", logits.square().mean(dim=(1, 2, 3))[[0, 1, 3]].mean()),
    ):
        loss = SegmentationLoss(config(cross_entropy=0, custom=[f"{OWN}:{name}"]), [1, 1, 1])
        torch.testing.assert_close(loss(logits, labels, loss.counts(labels)), reference)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("scalar", "MSA-MODEL-651"),
        ("nothing", "MSA-MODEL-651"),
        ("fails", "MSA-MODEL-652"),
        ("mising", "MSA-CONFIG-651"),
    ],
)
def test_a_loss_that_does_not_work_is_one_sentence(name: str, code: str) -> None:
    logits, labels = batch()
    with raises_user_error(code, setting="loss.custom", mentions=name):
        loss = SegmentationLoss(config(custom=[f"{OWN}:{name}"]), [1, 1, 1])
        loss(logits, labels, loss.counts(labels))


def test_lovasz_is_the_convex_closure_of_the_jaccard_loss() -> None:
    """At certain predictions it is 1 - IoU, exactly, for every one of the 2^6 of them (Berman et al., equation 5)."""
    labels = torch.tensor([[[0, 0, 1, 1, 1, 255, 0]]], dtype=torch.uint8)
    labeled = labels[0, 0] != 255
    for bits in itertools.product((0, 1), repeat=6):
        predicted = torch.tensor([*bits[:5], 0, bits[5]])
        logits = torch.nn.functional.one_hot(predicted, 2).T.reshape(1, 2, 1, 7).double() * 100
        ious = []
        for k in (0, 1):
            truth, found = (labels[0, 0] == k)[labeled], (predicted == k)[labeled]
            ious.append((truth & found).sum() / (truth | found).sum())
        torch.testing.assert_close(lovasz_sum(logits, labels), (1 - torch.stack(ious)).mean().double())


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_a_batch_may_be_cut_in_any_way(options: dict[str, Any]) -> None:
    """Sums over counts of the global batch: the same loss and the same gradients from 1 x 4, 2 x 2, 4 x 1 and 3 + 1."""
    logits, labels = batch()
    labels[2] = 255  # an image without a label
    loss = SegmentationLoss(config(**options), [50, 30, 20]).double()
    results = []
    for cut in ([4], [2, 2], [1, 1, 1, 1], [3, 1]):
        x = logits.clone().requires_grad_()
        parts = list(zip(x.split(cut), labels.split(cut), strict=True))
        counts = torch.stack([loss.counts(part) for _, part in parts]).sum(dim=0)
        total = sum((loss(a, b, counts) for a, b in parts), torch.zeros((), dtype=torch.float64))
        total.backward()
        assert x.grad is not None
        results.append((total.detach(), x.grad))
    for total, gradient in results[1:]:
        torch.testing.assert_close(total, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])
    assert results[0][0] > 0 and results[0][1].abs().max() > 0


def test_only_the_ratios_of_weights_count() -> None:
    """Such as inverse numbers of pixels, which add up to less than one pixel."""
    logits, labels = batch()
    found = []
    for scale in (1.0, 1e-7):
        loss = SegmentationLoss(config(class_weights=[scale, 3 * scale, scale / 2]), [50, 30, 20])
        found.append(loss(logits.float(), labels, loss.counts(labels)))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_a_batch_without_a_label_gives_zero_and_zero_gradients(options: dict[str, Any]) -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.full((2, 4, 5), 255, dtype=torch.uint8)
    loss = SegmentationLoss(config(**options), [1, 1, 1])
    value = loss(logits, labels, loss.counts(labels))
    value.backward()
    assert value == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("options", CONFIGS[:-1], ids=str)
def test_ignored_pixels_do_not_affect_the_loss(options: dict[str, Any]) -> None:
    logits, labels = batch()
    changed = torch.where((labels == 255)[:, None], torch.randn_like(logits) * 9, logits)
    loss = SegmentationLoss(config(**options), [1, 2, 3]).double()
    counts = loss.counts(labels)
    torch.testing.assert_close(loss(changed, labels, counts), loss(logits, labels, counts))
    assert loss(logits + 1e-3 * torch.randn_like(logits), labels, counts) != loss(logits, labels, counts)


@pytest.mark.parametrize("options", CONFIGS[:-1], ids=str)
def test_every_loss_learns(options: dict[str, Any]) -> None:
    logits, labels = batch()
    x = logits.float().requires_grad_()
    loss = SegmentationLoss(config(**options), [1, 1, 1])
    counts = loss.counts(labels)
    optimizer = torch.optim.Adam([x], lr=0.3)
    for _ in range(120):
        optimizer.zero_grad()
        loss(x, labels, counts).backward()
        optimizer.step()
    right = (x.argmax(dim=1) == labels)[labels != 255]
    assert right.float().mean() > 0.97


def test_bf16_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    loss = cross_entropy_sum(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(4096 * math.log(2)), rtol=1e-5, atol=0)


def test_median_frequency_by_hand() -> None:
    """Shares 0.1, 0.3, 0.6: the median is 0.3; a class that never occurs weighs 1 and is not in the median."""
    weights = class_weights("median_frequency", [10, 30, 60, 0])
    torch.testing.assert_close(weights, torch.tensor([3.0, 1.0, 0.5, 1.0]))
    weights = class_weights("sqrt_median_frequency", [10, 30, 60, 0])
    torch.testing.assert_close(weights, torch.tensor([3.0, 1.0, 0.5, 1.0]).sqrt())
    assert class_weights("none", [1, 2]) is None


def test_wrong_settings_are_refused() -> None:
    with raises_user_error("MSA-MODEL-019", setting="loss.class_weights", mentions="3"):
        SegmentationLoss(config(class_weights=[1.0, 2.0]), [1, 1, 1])
    with pytest.raises(UserError):
        config(cross_entropy=0)
