"""What every network of the zoo promises (msanet.models.network), one by one, at small width."""

from typing import Any, get_args, get_origin

import pytest
import torch
from torch import Tensor, nn

from msanet.datasets import IGNORE_INDEX
from msanet.models import MODELS, build_model, model_options
from msanet.models.blocks import (
    MOST_IN_CHANNELS_LAST,
    FrozenBatchNorm2d,
    normalization,
    pad_to_multiple,
    upsample,
)
from msanet.models.network import TrainingOutput
from support.networks import CASES, CLASSES, STRUCTURES, images, network, random_labels, training_loss

every_network = pytest.mark.parametrize("case", CASES)
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@every_network
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 40), (47, 130)])
def test_shapes_at_any_size(case: str, size: tuple[int, int]) -> None:
    model = network(case).eval()
    with torch.no_grad():
        logits, found = model(images(2, *size)), model.forward_head(images(2, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert logits.isfinite().all() and logits.std() > 0
    assert found.logits.shape == (2, CLASSES, -(-size[0] // model.stride), -(-size[1] // model.stride))
    assert {name: feature.shape[1] for name, feature in found.features.items()} == model.feature_channels
    assert found.auxiliary == ()


@every_network
def test_gradients_reach_every_parameter(case: str) -> None:
    model, image = network(case), images(2)
    training_loss(model, image, random_labels(image)).backward()
    found = gradients(model)
    without = [name for name, _ in model.named_parameters() if name not in found or not found[name].any()]
    # a bias of A shifts all scores of a query alike, which softmax ignores
    assert [name for name in without if not name.endswith("project.a.bias")] == []
    assert all(grad.isfinite().all() for grad in found.values())


@every_network
def test_unlabeled_images_give_zero_loss_and_gradient(case: str) -> None:
    model, image = network(case), images(2)
    loss = training_loss(model, image, torch.full((2, 64, 96), IGNORE_INDEX, dtype=torch.uint8))
    loss.backward()
    found = gradients(model)
    assert loss == 0
    assert found and not any(grad.any() for grad in found.values())


@every_network
def test_bf16_autocast_is_finite(case: str) -> None:
    model, image = network(case), images(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = training_loss(model, image, random_labels(image))
    loss.backward()
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(model).values())


@every_network
def test_a_batch_of_one_trains(case: str) -> None:
    model, image = network(case), images(1)
    training_loss(model, image, random_labels(image)).backward()
    found = gradients(model)
    assert all(grad.isfinite().all() for grad in found.values())
    image_branch = [grad for name, grad in found.items() if "image_branch.0" in name]
    assert all(grad.any() for grad in image_branch), "one value minus its own mean would be no signal"


@every_network
def test_evaluation_does_not_depend_on_batch_or_memory_format(case: str) -> None:
    model, batch = network(case).eval(), images(3)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        channels_last = model(batch.to(memory_format=torch.channels_last))
    tolerance = 1e-4 * together.abs().max().item()
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(channels_last, together, rtol=1e-4, atol=tolerance)
    assert not together[0].equal(together[1])


@every_network
def test_weights_go_into_another_network_of_the_same_options(case: str) -> None:
    model, (name, options) = network(case).eval(), CASES[case]
    other = build_model(name, CLASSES, width=0.05, **options).eval()
    with torch.no_grad():
        assert not other(images(1)).equal(model(images(1)))
        other.load_state_dict(model.state_dict())
        assert other(images(1)).equal(model(images(1)))


@every_network
def test_classifier_names_cover_what_depends_on_the_classes(case: str) -> None:
    name, options = CASES[case]
    model, other = network(case), build_model(name, CLASSES + 3, width=0.05, **options)
    theirs = dict(other.named_parameters())
    dependent = {key for key, p in model.named_parameters() if p.shape != theirs[key].shape}
    prefixes = tuple(f"{prefix}." for prefix in model.classifier_names)
    named = {key for key, _ in model.named_parameters() if key.startswith(prefixes)}
    assert dependent == named
    assert all(any(key.startswith(prefix) for key in named) for prefix in prefixes)


@every_network
def test_parameters_live_in_sub_modules(case: str) -> None:
    """So that whoever calls `score` instead of the network still passes through the hooks that gather them."""
    children = [child for child in network(case).modules() if next(child.parameters(recurse=False), None) is not None]
    assert children
    assert all(isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.GroupNorm) for child in children)


@pytest.mark.full
@every_structure
def test_compiles_without_graph_breaks(case: str) -> None:
    torch._dynamo.reset()
    model = network(case).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = model(images(1))
        torch.testing.assert_close(compiled(images(1)), expected)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.full
@every_structure
def test_exports_with_dynamic_height_and_width(case: str) -> None:
    model = network(case).eval()
    rows, columns = (32 * torch.export.Dim(axis, min=2, max=64) for axis in ("rows", "columns"))
    exported = torch.export.export(model, (images(1),), dynamic_shapes=({2: rows, 3: columns},)).module()
    for size in ((64, 96), (128, 160), (96, 64)):
        expected = model(images(1, *size))
        torch.testing.assert_close(exported(images(1, *size)), expected, rtol=1e-4, atol=1e-4)
        assert expected.shape[2:] == size


def test_auxiliary_heads_speak_only_in_training() -> None:
    model = network("deeplabv3-8-auxiliary")
    output = model.train()(images(2, 65, 97))
    assert isinstance(output, TrainingOutput)
    assert output.logits.shape == (2, CLASSES, 65, 97)
    assert [extra.shape for extra in output.auxiliary] == [(2, CLASSES, 65, 97)]
    assert model.auxiliary_weights == (0.4,)
    assert isinstance(model.eval()(images(2)), Tensor)
    assert isinstance(network("deeplabv3").train()(images(2)), Tensor)


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_every_layer_and_one_is_the_default(name: str) -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build_model(name, 21, width=w).parameters()) for w in (0.25, 0.5, 1.0)]
        default = sum(p.numel() for p in build_model(name, 21).parameters())
    assert default == counts[2]
    assert 3 < counts[1] / counts[0] < 4.1 and 3 < counts[2] / counts[1] < 4.1


VALUES = [
    (name, option, value)
    for name in MODELS
    for option, (kind, _) in model_options(name).items()
    for value in (get_args(kind) if get_origin(kind) else (False, True) if kind is bool else ())
]


@pytest.mark.parametrize(("name", "option", "value"), VALUES)
def test_every_option_value_builds_and_runs(name: str, option: str, value: Any) -> None:
    model = build_model(name, CLASSES, width=0.02, **{option: value}).eval()
    with torch.no_grad():
        assert model(images(1, 32, 32)).shape == (1, CLASSES, 32, 32)


@pytest.mark.parametrize("name", [name for name in MODELS if "norm" in model_options(name)])
def test_norms(name: str) -> None:
    """Frozen takes BatchNorm's weights by name and never changes them; group has no statistics at all."""
    batch, frozen, group = (build_model(name, CLASSES, width=0.05, norm=n) for n in ("batch", "frozen", "group"))
    batch.train()(images(2))  # moves the statistics
    frozen.load_state_dict(batch.state_dict())
    before = {key: value.clone() for key, value in frozen.named_buffers()}
    frozen.train()(images(2)).sum().backward()
    assert before and all(value.equal(before[key]) for key, value in frozen.named_buffers())
    torch.testing.assert_close(frozen(images(2)), batch.eval()(images(2)))
    assert not any(isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm) for m in frozen.modules())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    assert not list(group.buffers())
    assert {key for key, _ in group.named_parameters()} == {key for key, _ in batch.named_parameters()}


def test_group_norm_has_32_groups_or_the_next_divisor_that_leaves_two_channels() -> None:
    groups = {channels: normalization(channels, "group").num_groups for channels in (8, 48, 51, 64, 256)}
    assert groups == {8: 4, 48: 24, 51: 17, 64: 32, 256: 32}


@pytest.mark.parametrize(("stride", "size"), [(8, (40, 64)), (16, (65, 97)), (1, (5, 7))])
def test_upsampling_puts_a_cell_at_the_centre_of_its_pixels(stride: int, size: tuple[int, int]) -> None:
    """Cells that hold their center's row and column become pixels that hold theirs, wherever cells lie on both sides."""
    rows, columns = (torch.arange(-(-n // stride)) * stride + (stride - 1) / 2 for n in size)
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    pixels = upsample(cells, stride, size)
    expected = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))[None]
    assert pixels.shape == expected.shape
    top, left = stride // 2, stride // 2
    bottom, right = int(rows[-1]) + 1, int(columns[-1]) + 1
    torch.testing.assert_close(pixels[..., top:bottom, left:right], expected[..., top:bottom, left:right])


def test_upsampling_beyond_the_channels_last_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    expected = upsample(cells, 2, (8, 10))
    for most, contiguous in ((480, False), (479, True)):
        monkeypatch.setitem(MOST_IN_CHANNELS_LAST, "cpu", most)
        found = upsample(cells, 2, (8, 10))
        assert found.is_contiguous() == contiguous
        torch.testing.assert_close(found, expected)
    assert MOST_IN_CHANNELS_LAST["cuda"] + 1 == torch.iinfo(torch.int32).max  # which torch's kernel refuses


def test_padding_repeats_the_last_row_and_column() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert pad_to_multiple(x, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad_to_multiple(x[..., :2], 2).equal(x[..., :2])
