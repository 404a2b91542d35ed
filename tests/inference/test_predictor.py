"""Inference against explicit loops: full images, windows, scales and flips, at any size and any batch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msanet.config import EvaluationConfig
from msanet.inference.predictor import Predictor
from msanet.models import build_model
from msanet.models.blocks import MOST_IN_CHANNELS_LAST, pad_to_multiple
from support.errors import raises_user_error

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


class SmallNet(nn.Module):
    """Two 3x3 convolutions: every pixel sees two neighbors, so that a window is right from two pixels off its border."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, num_classes, 3, padding=1))
        self.batches: list[int] = []
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.batches.append(len(x_NCHW))
        self.sizes.append((x_NCHW.shape[2], x_NCHW.shape[3]))
        return self.layers(x_NCHW)


class TightNet(SmallNet):
    """Has memory for `most` images at a time."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits = super().forward(x_NCHW)
        if len(x_NCHW) > self.most:
            raise self.error
        return logits


def predictor(model: nn.Module, lockstep: bool = False, **settings: Any) -> Predictor:
    return Predictor(model.eval(), EvaluationConfig(**settings), MEAN, STD, lockstep)


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    noise = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (height, width), mode="bilinear")[0]
    return (smooth * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def reference_logits(model: nn.Module, x_1CHW: Tensor, window: tuple[int, int] | None, overlap: float) -> Tensor:
    """Windows by explicit loops, each padded with zeros to the whole, float64."""
    height, width = x_1CHW.shape[2:]
    rows, columns = (min(part, length) for part, length in zip(window or (height, width), (height, width), strict=True))

    def starts(part: int, length: int) -> list[int]:
        step, found = max(1, round(part * (1 - overlap))), [0]
        while found[-1] + part < length:
            found.append(min(found[-1] + step, length - part))
        return found

    weight = torch.tensor(
        [[min(y + 1, rows - y) * min(x + 1, columns - x) for x in range(columns)] for y in range(rows)]
    )
    total, weights = torch.zeros(1, height, width, dtype=torch.float64), torch.zeros(height, width, dtype=torch.float64)
    for top in starts(rows, height):
        for left in starts(columns, width):
            logits = model(x_1CHW[:, :, top : top + rows, left : left + columns])[0].double()
            around = (left, width - left - columns, top, height - top - rows)
            total = total + F.pad(logits * weight, around)
            weights += F.pad(weight, around)
    return (total / weights).float()[None]


@torch.no_grad()
def reference(model: nn.Module, image_HWC: Tensor, settings: EvaluationConfig) -> Tensor:
    """Probabilities (K, H, W) in plain torch, pass by pass."""
    own = image_HWC.shape[:2]
    image = (image_HWC.permute(2, 0, 1).float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    found = []
    for scale in settings.scales:
        size = [max(1, math.floor(length * scale + 0.5)) for length in settings.resize or own]
        scaled = F.interpolate(image[None], size, mode="bilinear", antialias=True)
        for mirrored in (False, True) if settings.flip else (False,):
            x = torch.flip(scaled, (3,)) if mirrored else scaled
            logits = reference_logits(model, x, settings.window, settings.overlap)
            logits = F.interpolate(logits, tuple(own), mode="bilinear")
            found.append(torch.flip(logits, (3,)).softmax(dim=1)[0] if mirrored else logits.softmax(dim=1)[0])
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize("resize", [None, (20, 30), (37, 53)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_labels_of_the_full_image_are_the_argmax_of_its_resized_logits_bit_for_bit(
    resize: tuple[int, int] | None, precision: str
) -> None:
    torch.manual_seed(1)
    model = build_model("msanet", 4, width=0.125).eval()
    image = random_image(37, 53)
    x = (image[None].permute(0, 3, 1, 2).float() - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )
    if resize and resize != (37, 53):
        x = F.interpolate(x, resize, mode="bilinear", align_corners=False, antialias=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(x.contiguous(memory_format=torch.channels_last))
    if resize and resize != (37, 53):
        logits = F.interpolate(logits.float(), (37, 53), mode="bilinear", align_corners=False)
    expected = logits.float().argmax(dim=1)[0]
    network = predictor(model, resize=resize, precision=precision)
    labels = network.labels(image)
    assert labels.dtype == torch.uint8 and labels.equal(expected.to(torch.uint8))
    assert network.probabilities(image).equal(logits.float().softmax(dim=1)[0])


def test_one_pass_needs_no_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("softmax")

    monkeypatch.setattr(Tensor, "softmax", refuse)
    assert predictor(SmallNet(), window=(16, 16)).labels(random_image(30, 40)).shape == (30, 40)
    with pytest.raises(AssertionError, match="softmax"):
        predictor(SmallNet(), flip=True).labels(random_image(30, 40))


CASES: list[dict[str, Any]] = [
    {"flip": True},
    {"scales": (0.5, 1.0, 1.75)},
    {"scales": (0.75,)},
    {"resize": (21, 34), "scales": (1.0, 0.5), "flip": True},
    {"window": (16, 20)},
    {"window": (16, 20), "overlap": 0.0},
    {"window": (13, 11), "overlap": 0.6},
    {"window": (100, 20)},
    {"window": (100, 100)},
    {"window": (1, 1), "overlap": 0.9, "resize": (5, 4)},
    {"window": (16, 20), "scales": (0.5, 1.25), "flip": True, "overlap": 0.5, "resize": (24, 31)},
]


@pytest.mark.parametrize("size", [(29, 43), (40, 17)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_settings_equal_the_explicit_loops(case: dict[str, Any], size: tuple[int, int]) -> None:
    model, image = SmallNet(), random_image(*size)
    network = predictor(model, **case)
    expected = reference(model, image, network.settings)
    labels, probabilities = network.labels_and_probabilities(image)
    assert probabilities.dtype == torch.float32 and probabilities.shape == (5, *size)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
    assert (labels == expected.argmax(dim=0)).float().mean() > 0.999
    assert network.labels(image).equal(labels) and network.probabilities(image).equal(probabilities)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_forwards_are_foreseen(case: dict[str, Any]) -> None:
    for batch in (1, 3):
        model = SmallNet()
        network = predictor(model, window_batch=batch, **case)
        network.labels(random_image(29, 43))
        assert len(model.batches) == network.num_forwards(29, 43)
        network.idle_forward()
        assert len(model.batches) == network.num_forwards(29, 43) + 1


def test_windows_cover_the_input_and_none_is_padded() -> None:
    model = SmallNet()
    predictor(model, window=(16, 20), overlap=0.25, window_batch=4).labels(random_image(30, 43))
    assert set(model.sizes) == {(16, 20)}
    assert sum(model.batches) == 3 * 3 and max(model.batches) == 4  # rows 0, 12, 14; columns 0, 15, 23
    model = SmallNet()
    predictor(model, window=(64, 20), overlap=0).labels(random_image(30, 40))
    assert model.sizes == [(30, 20)] and model.batches == [2]


def test_away_from_their_borders_windows_equal_the_full_image() -> None:
    """Where no window that counts ends within the network's sight, blending equal logits changes nothing."""
    model, image = SmallNet(), random_image(48, 64)
    whole = predictor(model).probabilities(image)
    windows = predictor(model, window=(24, 32), overlap=0.5).probabilities(image)
    rows, columns = (
        torch.tensor([all(abs(i + 0.5 - edge) > 2 for edge in edges) for i in range(length)])
        for edges, length in (((12, 24, 36), 48), ((16, 32, 48), 64))
    )
    inside = rows[:, None] & columns
    torch.testing.assert_close(windows[:, inside], whole[:, inside], atol=1e-6, rtol=0)
    assert inside.float().mean() > 0.5
    assert not torch.allclose(windows[:, ~inside], whole[:, ~inside], atol=1e-4)


def test_the_batch_of_windows_changes_nothing() -> None:
    torch.manual_seed(1)
    model, image = build_model("unet", 4, width=0.05), random_image(37, 53)
    settings: dict[str, Any] = {"window": (16, 24), "scales": (0.9,), "flip": True}
    expected = predictor(model, window_batch=1, **settings).probabilities(image)
    for batch in (2, 3, 4, 5):
        labels, probabilities = predictor(model, window_batch=batch, **settings).labels_and_probabilities(image)
        torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
        assert labels.equal(expected.argmax(dim=0).to(torch.uint8))


def test_windows_are_summed_one_by_one() -> None:
    """With a network whose digits cannot depend on the batch, nor do those of the result."""

    class Shades(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.7))

        def forward(self, x_NCHW: Tensor) -> Tensor:
            return torch.cat([x_NCHW * self.gain, x_NCHW.sin()], dim=1) + x_NCHW.mean(dim=(2, 3), keepdim=True)[:, :1]

    image = random_image(37, 53)
    settings: dict[str, Any] = {"window": (11, 13), "overlap": 0.7, "flip": True}
    results = [predictor(Shades(), window_batch=batch, **settings).probabilities(image) for batch in (1, 2, 3, 4, 5)]
    assert all(result.equal(results[0]) for result in results)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_networks_padding_is_never_counted(case: dict[str, Any]) -> None:
    """A network that pads to multiples of 8 inside, and answers class 1 for all it padded, before it crops."""

    class Padding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.tensor(0.0))

        def forward(self, x_NCHW: Tensor) -> Tensor:
            real = torch.ones_like(x_NCHW[:, :1]) + self.zero
            score = F.pad(real, [n for part in (x_NCHW.shape[3], x_NCHW.shape[2]) for n in (0, -part % 8)])
            assert score.shape == pad_to_multiple(x_NCHW, 8)[:, :1].shape
            return torch.cat([score, 1 - score], dim=1)[..., : x_NCHW.shape[2], : x_NCHW.shape[3]]

    labels, probabilities = predictor(Padding(), **case).labels_and_probabilities(random_image(29, 43))
    assert labels.shape == (29, 43) and labels.sum() == 0
    assert torch.allclose(probabilities[0], torch.tensor(1.0).sigmoid().expand(29, 43))


@pytest.mark.parametrize("name", ["msanet", "unet", "fcn", "attention_to_scale"])
def test_mirrored_images_have_mirrored_labels_at_odd_sizes(name: str) -> None:
    """With flip the result of a mirrored image is the mirrored result, wherever the network pads."""
    torch.manual_seed(1)
    model = build_model(name, 4, width=0.05)
    network, image = predictor(model, flip=True, scales=(1.0, 0.8)), random_image(37, 53)
    mirrored = network.probabilities(image.flip(1)).flip(2)
    torch.testing.assert_close(mirrored, network.probabilities(image), atol=1e-5, rtol=0)


def test_bf16_agrees() -> None:
    torch.manual_seed(1)
    model, image = build_model("msanet", 4, width=0.125), random_image(32, 48)
    windows: dict[str, Any] = {"window": (16, 16), "flip": True}
    for settings in ({}, windows):
        labels, rough = (predictor(model, precision=name, **settings).labels(image) for name in ("fp32", "bf16"))
        assert (labels == rough).float().mean() > 0.9
        assert predictor(model, precision="bf16", **settings).probabilities(image).dtype == torch.float32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
    ],
    ids=["cuda", "cpu"],
)
def test_a_batch_that_does_not_fit_is_halved_for_good(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    image = random_image(37, 53)
    settings: dict[str, Any] = {"window": (16, 16), "window_batch": 7}
    model = TightNet(2, error)
    network = predictor(model, **settings)
    labels = network.labels(image)
    assert labels.equal(predictor(SmallNet(), **settings).labels(image))
    assert model.batches[:3] == [7, 3, 1] and set(model.batches[2:]) == {1} and network.window_batch == 1
    assert [(record.levelname, vars(record)["every_rank"]) for record in caplog.records] == [("WARNING", True)] * 2
    assert "7 windows" in caplog.messages[0] and "evaluation.window_batch is 3" in caplog.messages[0]
    caplog.clear()
    network.labels(image)
    assert set(model.batches[3:]) == {1} and not caplog.records


@pytest.mark.parametrize("settings", [{}, {"window": (16, 16)}], ids=["whole", "windows"])
def test_what_never_fits_is_an_error_that_names_the_settings(settings: dict[str, Any]) -> None:
    network = predictor(TightNet(0, torch.OutOfMemoryError("CUDA out of memory. Tried to ...\nmore")), **settings)
    with raises_user_error("MSA-INFER-004", setting="evaluation.window", mentions="CUDA out of memory. Tried to ...)"):
        network.probabilities(random_image(37, 53))


def test_in_lockstep_the_batch_stays() -> None:
    model = TightNet(2, torch.OutOfMemoryError("CUDA out of memory."))
    with raises_user_error("MSA-INFER-004", mentions="evaluation.window_batch"):
        predictor(model, lockstep=True, window=(16, 16)).labels(random_image(37, 53))
    assert model.batches == [4]


def test_other_errors_of_the_network_pass_through() -> None:
    with pytest.raises(RuntimeError, match="^shapes"):
        predictor(TightNet(0, RuntimeError("shapes do not match")), window=(16, 16)).labels(random_image(37, 53))


@pytest.mark.parametrize("settings", [{}, {"flip": True}])
def test_confidence_is_the_probability_of_the_label(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    predictor = Predictor(
        build_model("unet", 5, width=0.05).eval(), EvaluationConfig(**settings), (120.0,) * 3, (60.0,) * 3
    )
    image = torch.randint(256, (20, 31, 3), dtype=torch.uint8)
    labels, confidence = predictor.labels_and_confidence(image)
    assert labels.equal(predictor.labels(image))
    torch.testing.assert_close(confidence, predictor.probabilities(image).amax(dim=0))


def test_logits_beyond_the_channels_last_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    image, small = random_image(21, 30), predictor(SmallNet(), resize=(11, 15))
    expected, orders = small.probabilities(image), []
    resize = F.interpolate

    def seen(x_NCHW: Tensor, *words: Any, **options: Any) -> Tensor:
        orders.append(x_NCHW.is_contiguous())
        return resize(x_NCHW, *words, **options)

    monkeypatch.setattr(F, "interpolate", seen)
    for most in (21 * 30 * 5, 21 * 30 * 5 - 1):
        monkeypatch.setitem(MOST_IN_CHANNELS_LAST, "cpu", most)
        torch.testing.assert_close(small.probabilities(image), expected)
    assert orders[1::2] == [False, True]
