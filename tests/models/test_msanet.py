"""MSANet is the network of the paper's tables 1 to 3, at any size."""

from typing import Any

import pytest
import torch
from torch import nn

from msanet.models import MODELS, build_model
from msanet.models.msanet import MSANet

PARAMETERS = 19_558_293
"""Counted by hand from tables 1-3 with 21 classes in test_parameters_follow_from_the_tables."""


def shapes(model: nn.Module, size: tuple[int, int] = (224, 224)) -> dict[str, tuple[int, ...]]:
    """Output shape (C, H, W) of every convolution and MSAM by name, for one image."""
    seen: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) or (name.startswith("msam") and name.count("_") == 1 and "." not in name):
            module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, tuple(o.shape[1:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, *size))
    return seen


@pytest.fixture(scope="module")
def paper() -> dict[str, tuple[int, ...]]:
    return shapes(MSANet(21))


def test_encoder_is_table_1(paper: dict[str, tuple[int, ...]]) -> None:
    for block, (channels, size) in enumerate([(64, 224), (128, 112), (256, 56), (512, 28)]):
        for conv in range(3):
            assert paper[f"encoder.{block}.{conv}.0"] == (channels, size, size)


def test_decoder_is_table_2(paper: dict[str, tuple[int, ...]]) -> None:
    for block, (channels, size) in enumerate([((1024, 512, 256), 28), ((512, 256, 128), 56), ((256, 128, 64), 112)]):
        for conv in range(3):
            assert paper[f"decoder.{block}.{conv}.0"] == (channels[conv], size, size)
    assert paper["decoder.3.0.0"] == (128, 224, 224)
    assert paper["decoder.3.1.0"] == (64, 224, 224)
    assert paper["classifier"] == (21, 224, 224)


def test_modules_are_table_3(paper: dict[str, tuple[int, ...]]) -> None:
    assert [paper[f"msam_quarter.levels.{i}.0"] for i in range(3)] == [(64, 56, 56), (64, 56, 56), (128, 56, 56)]
    assert [paper[f"msam_half.levels.{i}.0"] for i in range(2)] == [(64, 112, 112), (64, 112, 112)]
    assert all(paper[f"msam_quarter.project.{name}"] == (256, 56, 56) for name in "abcd")
    assert all(paper[f"msam_half.project.{name}"] == (128, 112, 112) for name in "abcd")
    model: Any = MSANet(2, 0.125)
    kernels = [level[0].kernel_size[0] for level in model.msam_quarter.levels]
    assert kernels == [12, 6, 3]


def test_parameters_follow_from_the_tables() -> None:
    """Convolutions before BN have no bias; BN has two parameters a channel; A-D and the classifier have a bias."""

    def conv(c_in: int, c_out: int, k: int) -> int:
        return c_in * c_out * k * k + 2 * c_out

    encoder = sum(conv(i, o, 3) + 2 * conv(o, o, 3) for i, o in ((3, 64), (64, 128), (128, 256), (256, 512)))
    quarter = conv(64, 64, 12) + conv(128, 64, 6) + conv(256, 128, 3) + 4 * (256 * 256 + 256)
    half = conv(64, 64, 6) + conv(128, 64, 3) + 4 * (128 * 128 + 128)
    decoder = 0
    for c_in, (a, b, c) in ((512, (1024, 512, 256)), (512, (512, 256, 128)), (256, (256, 128, 64))):
        decoder += conv(c_in, a, 3) + conv(a, b, 1) + conv(b, c, 3)
    decoder += conv(64, 128, 3) + conv(128, 64, 1) + 64 * 21 * 9 + 21
    assert encoder + quarter + half + decoder == PARAMETERS
    assert sum(p.numel() for p in MSANet(21).parameters()) == PARAMETERS


MEMBERS = [{}, {"attention": "none"}, {"attention": "fusion"}]


def small(**options: Any) -> Any:
    torch.manual_seed(0)
    return build_model("msanet", 5, width=0.125, **options)


@pytest.mark.parametrize("options", MEMBERS, ids=str)
@pytest.mark.parametrize("size", [(32, 40), (33, 47), (7, 9), (1, 1)])
def test_logits_have_the_images_size(options: dict[str, Any], size: tuple[int, int]) -> None:
    logits = small(**options).eval()(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("options", MEMBERS, ids=str)
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    model = small(**options)
    model(torch.randn(2, 3, 48, 40)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # B only shifts the scores of a query; a bias of A shifts all scores of a query alike, which softmax ignores
    assert [name for name in without if not name.endswith("project.a.bias")] == []


@pytest.mark.parametrize("options", MEMBERS, ids=str)
def test_bf16_autocast_and_channels_last_agree_with_fp32(options: dict[str, Any]) -> None:
    model, x = small(**options).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(
            model(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4
        )
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x).float()
    # Near ties the rounding moves a pooling maximum to a neighbor, so single pixels differ; the picture must not.
    assert (low - expected).norm() < 0.3 * expected.norm()
    assert (low.argmax(1) == expected.argmax(1)).float().mean() > 0.9


def test_attention_options_of_the_ablation() -> None:
    assert small(attention="none").msam_half is None
    assert small(attention="none").decoder[1][0][0].in_channels == 32  # 256 / 8 and nothing concatenated
    assert small(attention="fusion").decoder[1][0][0].in_channels == 64
    assert not small(attention="fusion").msam_half.attend


def test_unpooling_puts_values_where_the_maximum_was() -> None:
    from torch.nn import functional as F

    from msanet.models.blocks import max_unpool

    x = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]])
    pooled, where = F.max_pool2d(x, 2, return_indices=True)
    assert max_unpool(pooled, where, (2, 2)).tolist() == [[[[0.0, 5.0], [0.0, 0.0]]]]


def test_initialization_is_he_normal() -> None:
    torch.manual_seed(0)
    model: Any = MSANet(21)
    weight = model.decoder[0][0][0].weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-4


def test_every_model_is_a_name_in_one_dict() -> None:
    assert MODELS["msanet"] is MSANet


def test_attention_maps_are_what_the_modules_add() -> None:
    """Equation 2 from the maps: at each query's cell, sum over i of C_i s_ij, plus D, is the module's output."""
    torch.manual_seed(0)
    model = MSANet(5, width=0.1).eval()
    image = torch.randn(1, 3, 30, 45)  # padded to 32 x 48 inside
    queries = [(0, 0), (13, 22), (29, 44)]
    maps = model.attention_maps(image, queries)
    assert {name: tuple(found.shape) for name, found in maps.items()} == {
        "quarter": (1, 3, 8, 12),
        "half": (1, 3, 15, 23),
    }
    _, levels, _ = model._levels(image)
    assert model.msam_quarter is not None
    with torch.no_grad():
        fused = model.msam_quarter._fuse(levels)
        c, d = model.msam_quarter.project["c"](fused), model.msam_quarter.project["d"](fused)
        output = model.msam_quarter(levels)
    for (row, column), weights in zip(queries, maps["quarter"][0], strict=True):
        cell = (row // 4, column // 4)
        expected = (c[0] * weights).sum(dim=(1, 2)) + d[0, :, *cell]
        torch.testing.assert_close(output[0, :, *cell], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps["quarter"].sum(dim=(2, 3)), torch.ones(1, 3))
    assert MSANet(5, width=0.1, attention="fusion").attention_maps(image, queries) == {}
