"""VGG-16 is the paper's table, under torchvision's names; FCN and DeepLab are what their papers make of it."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.torchvision_outputs import outputs, stored, summaries, torchvision_trunk
from msanet.models import build_model
from msanet.models.vgg import VGG16

CONVOLUTIONS = {  # torchvision's index in `features`: (in, out), by the paper's table 1, configuration D
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip
VGG_PARAMETERS = 14_714_688


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def on_meta(name: str, num_classes: int = 21, **options: object) -> Any:
    with torch.device("meta"):
        return build_model(name, num_classes, **options)


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def receptive_field(layers: list[nn.Module]) -> int:
    """Side of the square of pixels that one output sees, for layers in a row."""
    field, jump = 1, 1
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            field, jump = field + (layer.kernel_size[0] - 1) * layer.dilation[0] * jump, jump * layer.stride[0]
        elif isinstance(layer, nn.MaxPool2d):
            field, jump = field + (_side(layer.kernel_size) - 1) * jump, jump * _side(layer.stride)
    return field


def test_names_and_shapes_are_torchvisions() -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for index, (c_in, c_out) in CONVOLUTIONS.items():
        expected[f"features.{index}.weight"] = (c_out, c_in, 3, 3)
        expected[f"features.{index}.bias"] = (c_out,)
    with torch.device("meta"):
        trunk = VGG16()
    assert {name: tuple(p.shape) for name, p in trunk.named_parameters()} == expected
    assert sum(c_in * c_out * 9 + c_out for c_in, c_out in CONVOLUTIONS.values()) == VGG_PARAMETERS
    assert parameters(trunk) == VGG_PARAMETERS


def test_same_outputs_as_torchvision() -> None:
    found = summaries(outputs(VGG16(), "vgg16"))
    assert len(found) == 5
    torch.testing.assert_close(found, stored("vgg16"), rtol=1e-9, atol=1e-9)


def test_same_numbers_as_torchvision() -> None:
    pytest.importorskip("torchvision")
    ours, theirs = (outputs(trunk, "vgg16") for trunk in (VGG16(), torchvision_trunk("vgg16")))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(summaries(theirs), stored("vgg16"), rtol=1e-9, atol=1e-9)


def test_poolings_halve_or_keep() -> None:
    x = torch.randn(1, 3, 64, 96)
    assert [tuple(p.shape[2:]) for p in VGG16(0.02)(x)] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    kept = VGG16(0.02, pool_strides=(2, 2, 2, 1, 1))
    assert [tuple(p.shape[2:]) for p in kept(x)] == [(32, 48), (16, 24), (8, 12), (8, 12), (8, 12)]
    convs = [layer for layer in kept.features if isinstance(layer, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convs] == [1] * 10 + [2] * 3


def test_dilation_gives_the_same_numbers_more_densely() -> None:
    """The atrous algorithm: with a pooling's stride left out, every second value is the undecimated network's."""
    torch.manual_seed(0)
    decimated, dense = VGG16(0.02), VGG16(0.02, pool_strides=(2, 2, 2, 1, 2))
    dense.load_state_dict(decimated.state_dict())
    dense.features[23] = nn.MaxPool2d(2, stride=1)  # the window of the decimating pooling, not the centerd 3x3
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        coarse, fine = decimated.features[:30](x), dense.features[:30](x)  # to conv5_3
    inside = slice(4, 11)  # three 3x3 convolutions away from the border, whose padding differs
    torch.testing.assert_close(fine[..., ::2, ::2][..., inside, inside], coarse[..., inside, inside])


def test_receptive_fields() -> None:
    """212 pixels at pool5 and 404 at fc6 for VGG-16 (published); 220 and 412 for LargeFOV by the same rule."""
    fcn, largefov = on_meta("fcn"), on_meta("deeplab_largefov")
    assert receptive_field([*fcn.trunk.features]) == 212
    assert receptive_field([*fcn.trunk.features, fcn.fc.fc6]) == 404
    assert receptive_field([*largefov.trunk.features]) == 220
    assert receptive_field([*largefov.trunk.features, largefov.fc.fc6]) == 412


def test_fcn_parameters_follow_from_the_paper() -> None:
    """134 million (table 1 of Long et al.); each skip adds 1x1 scores and a 4x4 upsampling between 21 classes."""
    fc = (512 * 4096 * 49 + 4096) + (4096 * 4096 + 4096) + (4096 * 21 + 21)
    upsampling = 21 * 21 * 16
    expected = VGG_PARAMETERS + fc
    assert parameters(on_meta("fcn", variant="32s")) == expected == 134_346_581
    expected += upsampling + 512 * 21 + 21
    assert parameters(on_meta("fcn", variant="16s")) == expected
    expected += upsampling + 256 * 21 + 21
    assert parameters(on_meta("fcn", variant="8s")) == expected


def test_largefov_parameters_follow_from_the_paper() -> None:
    """20.5 million (table 2 of Chen et al. 2015); the MSc variant adds 5 x 128 = 640 channels."""
    fc = (512 * 1024 * 9 + 1024) + (1024 * 1024 + 1024)
    assert parameters(on_meta("deeplab_largefov")) == VGG_PARAMETERS + fc + 1024 * 21 + 21 == 20_505_429
    side = sum(c * 128 * 9 + 128 + 128 * 128 + 128 for c in (3, 64, 128, 256, 512))
    assert parameters(on_meta("deeplab_msc_largefov")) == VGG_PARAMETERS + fc + side + (1024 + 640) * 21 + 21


def test_largefov_is_as_described() -> None:
    for name in ("deeplab_largefov", "deeplab_msc_largefov"):
        model = on_meta(name)
        fc6, fc7 = model.fc.fc6, model.fc.fc7
        assert (fc6.kernel_size, fc6.dilation, fc6.out_channels) == ((3, 3), (12, 12), 1024)
        assert (fc7.kernel_size, fc7.out_channels, model.fc.dropout.p) == ((1, 1), 1024, 0.5)
        assert model.stride == 8
        assert model.feature_channels == {"fc6": 1024, "fc7": 1024, "fc8": 21}


def test_fc_features_are_after_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    model: Any = build_model("deeplab_largefov", 3, width=0.1)
    x = torch.randn(1, 3, 64, 64)
    rates = {}
    for mode in (True, False):
        features = model.train(mode).forward_head(x).features
        rates[mode] = [(features[name] == 0).float().mean().item() for name in ("fc6", "fc7")]
        torch.testing.assert_close(model.fc8(features["fc7"]), features["fc8"])
    for training, evaluation in zip(rates[True], rates[False], strict=True):
        assert training == pytest.approx(1 - (1 - evaluation) / 2, abs=0.1)  # half of what ReLU leaves


def test_bilinear_upsampling_is_interpolation_inside() -> None:
    """The initial transposed convolution; at the border it sees zeros where interpolation repeats the last value."""
    layer = build_model("fcn", 3, width=0.01, variant="16s").get_submodule("upscore_pool4")
    x = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert layer(x).shape == expected.shape
    torch.testing.assert_close(layer(x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert layer.weight.requires_grad


def test_fcn_skips_start_as_the_coarser_network() -> None:
    """Scores begin at zero, so that FCN-8s with FCN-32s's weights says what FCN-32s says (but at the border)."""
    torch.manual_seed(0)
    coarse: Any
    fine: Any
    coarse, fine = (build_model("fcn", 4, width=0.02, variant=variant).eval() for variant in ("32s", "8s"))
    assert not any(score.weight.any() for score in (coarse.score_fc7, fine.score_pool4, fine.score_pool3))
    nn.init.normal_(coarse.score_fc7.weight)
    missing, unexpected = fine.load_state_dict(coarse.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing} == {f"{k}_pool{p}" for k in ("score", "upscore") for p in (3, 4)}
    assert not unexpected
    x = torch.randn(1, 3, 192, 192)
    with torch.no_grad():
        scores, expected = fine.forward_head(x).logits, coarse.forward_head(x).logits
    for _ in range(2):
        expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(scores[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3])


def test_msc_sees_the_image_and_four_poolings_at_an_eighth() -> None:
    torch.manual_seed(0)
    model: Any = build_model("deeplab_msc_largefov", 3, width=0.1).eval()
    seen = []
    for layers in model.side:
        layers.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape[1:], output.shape[1:])))
    model.forward_head(torch.randn(1, 3, 64, 96))
    c = model.trunk.channels
    sources = [(3, 64, 96), (c[0], 32, 48), (c[1], 16, 24), (c[2], 8, 12), (c[3], 8, 12)]
    assert seen == [(source, (13, 8, 12)) for source in sources]
