"""Attention to Scale: equations 1 and 2 by hand-made numbers, and what is built around the inner network."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msanet.models import build_model
from msanet.models.attention_to_scale import AttentionToScale, Merge, parse_scales, weighted_sum
from msanet.models.network import HeadOutput, SegmentationNetwork, TrainingOutput
from support.errors import raises_user_error

CLASSES = 5


class Known(SegmentationNetwork):
    """Stride 1; score maps and features are constants, chosen by the height of the image."""

    stride = 1
    classifier_names = ()

    def __init__(self, scores: dict[int, list[float]], features: dict[int, list[float]] | None = None) -> None:
        super().__init__()
        self.scores_of, self.features_of = scores, features or {height: [0.0] for height in scores}
        self.feature_channels = {"penultimate": len(next(iter(self.features_of.values())))}
        self.seen: list[Tensor] = []

    def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
        self.seen.append(image_NCHW)
        height, width = image_NCHW.shape[2:]
        maps = [torch.tensor(of[height]).view(1, -1, 1, 1) for of in (self.scores_of, self.features_of)]
        scores, feature = (x.expand(len(image_NCHW), -1, height, width) for x in maps)
        return HeadOutput(scores, {"penultimate": feature})


# two scales, two classes: f^1 = (4, 0), f^0.5 = (0, 2)
TWO = {4: [4.0, 0.0], 2: [0.0, 2.0]}


def around(network: SegmentationNetwork, merge: Merge, **options: Any) -> AttentionToScale:
    torch.manual_seed(0)
    return AttentionToScale(network, (1, Fraction(1, 2)), merge, **options)


def small(**options: Any) -> AttentionToScale:
    torch.manual_seed(0)
    model = build_model("attention_to_scale", CLASSES, **{"width": 0.05, **options})
    assert isinstance(model, AttentionToScale)
    return model


def images(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def everywhere(*values: float) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1).expand(1, -1, 4, 4)


def test_equation_one_has_one_weight_for_all_classes_at_a_position() -> None:
    scores = torch.tensor([[[4.0, 1.0], [0.0, 8.0]], [[0.0, 5.0], [2.0, 4.0]]]).view(1, 2, 2, 1, 2)  # s, c, column
    weights = torch.tensor([[0.75, 0.5], [0.25, 0.5]]).view(1, 2, 1, 2)  # s, column
    # column 0: .75 * 4 + .25 * 0, .75 * 0 + .25 * 2; column 1: .5 * 1 + .5 * 5, .5 * 8 + .5 * 4
    assert weighted_sum(scores, weights).view(2, 2).tolist() == [[3.0, 3.0], [0.5, 6.0]]


def test_equation_two_is_the_softmax_over_scales_of_the_heads_outputs() -> None:
    """One 1x1 layer that copies features: h = (ln 3, 0), so w = (3/4, 1/4) and g = (3, 1/2)."""
    network = Known(TWO, {4: [math.log(3)], 2: [0.0]})
    model = around(network, "attention", attention_kernel=1, attention_layers=1).eval()
    assert model.attention is not None and isinstance(head := model.attention[0], nn.Conv2d)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        head.bias.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close(model.scale_weights(images(1, 4, 4)), everywhere(0.75, 0.25))
        torch.testing.assert_close(model(images(1, 4, 4)), everywhere(3.0, 0.5))
    assert model.scale_weights(images(1, 4, 4)).shape == (1, 2, 4, 4)


def test_average_is_attention_with_equal_weights() -> None:
    attention, average = around(Known(TWO), "attention").eval(), around(Known(TWO), "average").eval()
    assert attention.attention is not None and average.attention is None
    for parameter in attention.attention.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        torch.testing.assert_close(average(images(1, 4, 4)), everywhere(2.0, 1.0))
        torch.testing.assert_close(attention(images(1, 4, 4)), average(images(1, 4, 4)))
        assert average.scale_weights(images(1, 4, 4)).equal(everywhere(0.5, 0.5))


def test_max_is_taken_class_by_class_and_its_weights_are_shares_of_classes() -> None:
    model = around(Known({4: [4.0, 0.0, 1.0, 1.0], 2: [0.0, 2.0, 3.0, 7.0]}), "max").eval()
    with torch.no_grad():
        assert model(images(1, 4, 4)).equal(everywhere(4.0, 2.0, 3.0, 7.0))
        assert model.scale_weights(images(1, 4, 4)).equal(everywhere(0.25, 0.75))


def test_max_is_equation_one_with_all_weights_one_and_max_for_the_sum() -> None:
    found = small(merge="max").train().forward_head(images())
    assert len(found.auxiliary) == 3
    assert found.logits.equal(torch.stack(found.auxiliary).amax(0))


@pytest.mark.parametrize("merge", ["attention", "average", "max"])
def test_weights_of_scales_are_one_in_sum(merge: str) -> None:
    model = small(merge=merge).eval()
    with torch.no_grad():
        weights = model.scale_weights(images(2, 65, 97))
    assert weights.shape == (2, 3, 9, 13)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 9, 13))
    assert (weights >= 0).all()
    assert (merge == "average") == bool((weights == 1 / 3).all())


@pytest.mark.parametrize("network", ["deeplab_largefov", "unet", "deeplabv3", "fcn"])
@pytest.mark.parametrize("size", [(64, 96), (47, 65)])
def test_scale_one_alone_is_the_network_itself(network: str, size: tuple[int, int]) -> None:
    model = small(network=network, scales="1", merge="average").eval()
    image = images(2, *size)
    with torch.no_grad():
        assert model(image).equal(model.network(image))


def test_the_image_is_resized_bilinearly_to_full_cells() -> None:
    network = Known({8: [0.0], 6: [0.0], 4: [0.0]})
    image = images(1, 8, 12)
    with torch.no_grad():
        AttentionToScale(network, parse_scales("1,0.75,0.5"), "average").eval()(image)
    assert [tuple(seen.shape[2:]) for seen in network.seen] == [(8, 12), (6, 9), (4, 6)]
    assert network.seen[0].equal(image)
    torch.testing.assert_close(network.seen[2], nn.functional.avg_pool2d(image, 2))  # bilinear by exactly 1/2


def test_logits_of_all_scales_are_aligned() -> None:
    """A network whose score is the mean row of its cell, in shares of the image, at a size that no scale divides."""

    class Rows(Known):
        stride = 8

        def forward_head(self, image_NCHW: Tensor) -> HeadOutput:
            assert image_NCHW.shape[2] % 8 == 0 and image_NCHW.shape[3] % 8 == 0
            cells = nn.functional.avg_pool2d(image_NCHW[:, :1], 8)
            return HeadOutput(cells, {"penultimate": cells})

    image = (torch.arange(104.0) / 104).view(1, 1, 104, 1).expand(1, 3, 104, 16)
    model = AttentionToScale(Rows({8: [0.0]}), (1, 0.7, 0.5), "average").train()
    _, _, extra = model.forward_head(image)
    assert [head.shape for head in extra] == [(1, 1, 13, 2)] * 3
    for head in extra[1:]:  # but for the border, where bilinear interpolation repeats the outermost cell
        torch.testing.assert_close(head[:, :, 1:-1], extra[0][:, :, 1:-1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("merge", ["attention", "average", "max"])
@pytest.mark.parametrize("extra", [True, False])
def test_gradients_reach_network_and_attention_head(merge: str, extra: bool) -> None:
    model = small(merge=merge, extra_supervision=extra).train()
    output = model(images())
    logits = output.logits if isinstance(output, TrainingOutput) else output
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert any(name.startswith("attention.") for name, _ in model.named_parameters()) == (merge == "attention")


def test_extra_supervision_is_each_scales_scores_with_weight_one() -> None:
    model = small()
    output = model.train()(images(2, 65, 97))
    assert isinstance(output, TrainingOutput)
    assert output.logits.shape == (2, CLASSES, 65, 97)
    assert [head.shape for head in output.auxiliary] == [(2, CLASSES, 65, 97)] * 3
    assert model.auxiliary_weights == (1.0, 1.0, 1.0)
    assert isinstance(model.eval()(images()), Tensor)


def test_without_extra_supervision_there_are_only_logits() -> None:
    model = small(extra_supervision=False)
    assert model.auxiliary_weights == ()
    assert isinstance(model.train()(images()), Tensor)


@pytest.mark.parametrize(("extra", "weights"), [(True, (1.0, 1.0, 0.4)), (False, (0.4,))])
def test_auxiliary_heads_come_along_from_the_finest_scale(extra: bool, weights: tuple[float, ...]) -> None:
    model = small(
        network="deeplabv3", network_options="auxiliary=true", scales="0.5,1", merge="average", extra_supervision=extra
    ).train()
    output = model(images())
    assert isinstance(output, TrainingOutput)
    assert model.auxiliary_weights == weights
    assert [head.shape for head in output.auxiliary] == [(2, CLASSES, 64, 96)] * len(weights)
    alone = model.network(images())
    torch.testing.assert_close(output.auxiliary[-1], alone.auxiliary[0])


def test_average_of_extra_supervision_is_the_merged_scores() -> None:
    output = small(merge="average").train()(images())
    assert isinstance(output, TrainingOutput)
    torch.testing.assert_close(output.logits, torch.stack(output.auxiliary).mean(0))
    assert not output.auxiliary[0].allclose(output.auxiliary[2])


@pytest.mark.parametrize("network", ["msanet", "fcn", "unet", "deeplab_msc_largefov", "deeplabv3"])
def test_around_every_network_at_odd_sizes(network: str) -> None:
    model = small(network=network, width=0.02, scales="1,0.5").eval()
    with torch.no_grad():
        assert model(images(1, 47, 65)).shape == (1, CLASSES, 47, 65)
        assert model.scale_weights(images(1, 47, 65)).shape[2:] == (-(-47 // model.stride), -(-65 // model.stride))


@pytest.mark.parametrize("features", ["fc6", "fc7", "fc8"])
def test_features_of_the_attention_head(features: str) -> None:
    model = small(features=features).eval()
    assert model.attention is not None and isinstance(first := model.attention[0], nn.Conv2d)
    assert first.in_channels == 3 * model.network.feature_channels[features]
    assert model.classifier_names == (("network.fc8", "attention.0") if features == "fc8" else ("network.fc8",))
    assert small().features == "fc7" and small(network="unet").features == "penultimate"


def test_heads_of_the_design_choices() -> None:
    """Section 4.1: 3x3 with 512 filters and 1x1; one layer only; a first kernel of 1x1; other filters; four scales."""

    def shapes(**options: Any) -> list[tuple[int, ...]]:
        with torch.device("meta"):
            model = build_model("attention_to_scale", 21, **options)
        return [tuple(p.shape) for name, p in model.named_parameters() if name.startswith("attention.") and p.ndim == 4]

    assert shapes() == [(512, 3 * 1024, 3, 3), (3, 512, 1, 1)]
    assert shapes(attention_layers=1) == [(3, 3 * 1024, 3, 3)]
    assert shapes(attention_kernel=1) == [(512, 3 * 1024, 1, 1), (3, 512, 1, 1)]
    assert shapes(attention_channels=128) == [(128, 3 * 1024, 3, 3), (3, 128, 1, 1)]
    assert shapes(scales="1,0.75,0.5,0.25") == [(512, 4 * 1024, 3, 3), (4, 512, 1, 1)]


def test_names_and_number_of_parameters() -> None:
    with torch.device("meta"):
        model, inner = build_model("attention_to_scale", 21), build_model("deeplab_largefov", 21)
    own = {f"attention.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert model.state_dict().keys() == {f"network.{name}" for name in inner.state_dict()} | own
    assert sum(p.numel() for p in model.parameters()) == 20_505_429 + (9 * 3 * 1024 + 1) * 512 + (512 + 1) * 3


def test_all_scales_begin_with_nearly_equal_weights() -> None:
    with torch.no_grad():
        weights = small().eval().scale_weights(images())
    assert (weights - 1 / 3).abs().max() < 0.1 and weights.std() > 0


@pytest.mark.parametrize(
    ("options", "code", "setting", "value"),
    [
        ({"network": "unett"}, "MSA-MODEL-001", "model.network", "'unet'"),
        ({"network": "attention_to_scale"}, "MSA-MODEL-001", "model.network", "attention_to_scale"),
        ({"network_options": "widht=1"}, "MSA-MODEL-002", "model.widht", "'width'"),
        ({"features": "fc9"}, "MSA-MODEL-005", "model.features", "'fc9'"),
        ({"scales": "1,half"}, "MSA-MODEL-004", "model.scales", "'1,half'"),
        ({"scales": "1,0"}, "MSA-MODEL-004", "model.scales", "'1,0'"),
        ({"scales": ""}, "MSA-MODEL-004", "model.scales", "''"),
        ({"merge": "sum"}, "MSA-MODEL-003", "model.merge", "attention, average, max"),
        ({"attention_kernel": 2}, "MSA-MODEL-003", "model.attention_kernel", "1, 3"),
        ({"attention_kernel": 3.0}, "MSA-MODEL-003", "model.attention_kernel", "3.0"),
        ({"attention_layers": True}, "MSA-MODEL-003", "model.attention_layers", "True"),
        (
            {"network": "deeplabv3", "network_options": "output_stride=16.0"},
            "MSA-MODEL-003",
            "model.output_stride",
            "16.0",
        ),
        ({"attention_channels": -4}, "MSA-MODEL-003", "model.attention_channels", "-4"),
        ({"attention_channels": 0}, "MSA-MODEL-003", "model.attention_channels", "0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], code: str, setting: str, value: str) -> None:
    with raises_user_error(code, setting, mentions=value):
        small(**options)
