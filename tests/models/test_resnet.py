"""ResNet-50 and -101 are the paper's table, under torchvision's names; DeepLabv3 is its paper's head on them."""

from typing import Any, Literal

import pytest
import torch
from torch import nn

from models.torchvision_outputs import outputs, stored, summaries, torchvision_trunk
from msanet.models import build_model
from msanet.models.blocks import ImageBatchNorm2d
from msanet.models.resnet import BLOCKS, Backbone, ResNet

RESNET_PARAMETERS: dict[Backbone, int] = {"resnet50": 23_508_032, "resnet101": 42_500_160}
"""Published totals of 25,557,032 and 44,549,160 less the classifier's 2048 x 1000 + 1000."""


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def torchvision_shapes(blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the trunk's parameters, written down from the paper's table 1 and torchvision's names."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    norm("bn1", 64)
    c_in = 64
    for layer, (channels, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True), start=1):
        for block in range(count):
            own = f"layer{layer}.{block}"
            shapes[f"{own}.conv1.weight"] = (channels, c_in, 1, 1)
            shapes[f"{own}.conv2.weight"] = (channels, channels, 3, 3)
            shapes[f"{own}.conv3.weight"] = (4 * channels, channels, 1, 1)
            for name, c_out in (("bn1", channels), ("bn2", channels), ("bn3", 4 * channels)):
                norm(f"{own}.{name}", c_out)
            if block == 0:
                shapes[f"{own}.downsample.0.weight"] = (4 * channels, c_in, 1, 1)
                norm(f"{own}.downsample.1", 4 * channels)
            c_in = 4 * channels
    return shapes


@pytest.mark.parametrize("backbone", BLOCKS)
def test_names_and_shapes_are_torchvisions(backbone: Backbone) -> None:
    with torch.device("meta"):
        trunk = ResNet(backbone)
    assert {name: tuple(p.shape) for name, p in trunk.named_parameters()} == torchvision_shapes(BLOCKS[backbone])
    assert parameters(trunk) == RESNET_PARAMETERS[backbone]
    assert {name.rpartition(".")[2] for name, _ in trunk.named_buffers()} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def like_torchvisions(name: str) -> ResNet:
    """Ours; dilated, with the first block of a layer as torchvision has it, dilated like the layer before."""
    if name != "resnet50 at stride 8":
        return ResNet("resnet101" if name == "resnet101" else "resnet50")
    trunk: Any = ResNet("resnet50", output_stride=8)
    for block, dilation in ((trunk.layer3[0], 1), (trunk.layer4[0], 2)):
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    return trunk


TRUNKS = ["resnet50", "resnet101", "resnet50 at stride 8"]


@pytest.mark.parametrize("name", TRUNKS)
def test_same_outputs_as_torchvision(name: str) -> None:
    found = summaries(outputs(like_torchvisions(name), name))
    assert found["layer4.2"]["shape"] == ([1, 2048, 9, 12] if name.endswith("stride 8") else [1, 2048, 3, 3])
    torch.testing.assert_close(found, stored(name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TRUNKS)
def test_same_numbers_as_torchvision(name: str) -> None:
    pytest.importorskip("torchvision")
    ours, theirs = (outputs(trunk, name) for trunk in (like_torchvisions(name), torchvision_trunk(name)))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(summaries(theirs), stored(name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "strides", "layer3", "layer4"),
    [
        (32, (1, 1, 1), (2, 2), 1, [1, 1, 1]),
        (16, (1, 2, 4), (2, 1), 1, [2, 4, 8]),
        (8, (1, 2, 4), (1, 1), 2, [4, 8, 16]),
    ],
)
def test_strides_become_dilations(
    output_stride: Literal[8, 16, 32],
    multi_grid: tuple[int, ...],
    strides: tuple[int, int],
    layer3: int,
    layer4: list[int],
) -> None:
    trunk: Any = ResNet("resnet50", 0.02, output_stride, multi_grid).eval()
    assert [block.conv2.dilation[0] for block in trunk.layer3] == [layer3] * 6
    assert [block.conv2.dilation[0] for block in trunk.layer4] == layer4
    assert (trunk.layer3[0].conv2.stride[0], trunk.layer4[0].conv2.stride[0]) == strides
    with torch.no_grad():
        third, fourth = trunk(torch.randn(1, 3, 65, 97))
    assert fourth.shape[2:] == (-(-65 // output_stride), -(-97 // output_stride))
    assert third.shape[1:2] + fourth.shape[1:2] == trunk.channels


@pytest.mark.parametrize("backbone", BLOCKS)
def test_dilated_trunk_gives_the_same_numbers_more_densely(backbone: Backbone) -> None:
    """Without multi-grid, every second value at output stride 16 is that at 32; away from the padded border."""
    torch.manual_seed(0)
    coarse: Any
    fine: Any
    coarse, fine = (ResNet(backbone, 0.02, stride).eval() for stride in (32, 16))
    fine.load_state_dict(coarse.state_dict())
    for block in fine.layer4[:1]:
        block.conv2.dilation, block.conv2.padding = (1, 1), (1, 1)  # the convolution that lost its stride
    x = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        expected, found = coarse(x)[1], fine(x)[1][..., ::2, ::2]
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("backbone", "torchvision_total"), [("resnet50", 42_004_074), ("resnet101", 60_996_202)])
def test_deeplabv3_parameters_follow_from_the_paper(backbone: Backbone, torchvision_total: int) -> None:
    """And are torchvision's published totals (with auxiliary head) less its extra 3x3 convolution after the ASPP."""

    def conv(c_in: int, c_out: int, k: int) -> int:
        return c_in * c_out * k * k + 2 * c_out

    aspp = 2 * conv(2048, 256, 1) + 3 * conv(2048, 256, 3) + conv(5 * 256, 256, 1)
    classifier = 256 * 21 + 21
    auxiliary = conv(1024, 256, 3) + 256 * 21 + 21
    with torch.device("meta"):
        plain, supervised = (build_model("deeplabv3", 21, backbone=backbone, auxiliary=a) for a in (False, True))
    assert parameters(plain) == RESNET_PARAMETERS[backbone] + aspp + classifier
    assert parameters(supervised) == parameters(plain) + auxiliary
    assert parameters(supervised) == torchvision_total - conv(256, 256, 3)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [1, 6, 12, 18]), (8, [1, 12, 24, 36])])
def test_aspp_rates_double_at_stride_8(output_stride: int, rates: list[int]) -> None:
    model: Any = build_model("deeplabv3", 2, width=0.02, output_stride=output_stride)
    assert [branch[0].dilation[0] for branch in model.aspp.branches] == rates
    assert [block.conv2.dilation[0] for block in model.trunk.layer4] == [32 // output_stride * g for g in (1, 2, 4)]


def test_image_pooling_is_the_mean_of_the_full_map() -> None:
    """A change in one corner reaches every position by that branch, and by no other that does not look so far."""
    torch.manual_seed(0)
    model: Any = build_model("deeplabv3", 2, width=0.05)
    aspp = model.aspp.eval()
    c_in = aspp.branches[0][0].in_channels
    x = torch.randn(1, c_in, 50, 50)
    changed = x.clone()
    changed[..., 0, 0] += 100
    with torch.no_grad():
        moved = (aspp(changed) - aspp(x)).abs().amax(1)[0]
        aspp.image_branch[0].weight.zero_()
        unmoved = (aspp(changed) - aspp(x)).abs().amax(1)[0]
    assert moved[30:, 30:].min() > 0
    assert unmoved[30:, 30:].max() == 0


def test_a_single_value_is_normalized_by_running_statistics() -> None:
    norm = ImageBatchNorm2d(2).train()
    pair, one = torch.tensor([[1.0, 2.0], [3.0, 6.0]])[..., None, None], torch.tensor([[5.0, 7.0]])[..., None, None]
    assert norm(pair).flatten().tolist() == pytest.approx([-1, -1, 1, 1], abs=1e-4)  # as BatchNorm2d
    before = {name: value.clone() for name, value in norm.named_buffers()}
    output = norm(one)  # mean 0.1 (2, 4), variance 0.9 + 0.1 (2, 8)
    assert output.flatten().tolist() == pytest.approx([(5 - 0.2) / 1.1**0.5, (7 - 0.4) / 1.7**0.5], rel=1e-4)
    assert all(value.equal(before[name]) for name, value in norm.named_buffers())
    torch.testing.assert_close(output, norm.eval()(one))
