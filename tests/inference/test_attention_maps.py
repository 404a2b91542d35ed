"""AttentionMaps show the network's own weights, where they belong in the image."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from msanet.config import EvaluationConfig
from msanet.data.image.color import normalize
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.predictor import Predictor
from msanet.models import build_model
from msanet.models.attention_to_scale import AttentionToScale
from msanet.models.msanet import MSANet
from msanet.report.heat import heat
from support.errors import raises_user_error

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def network(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 5, width=0.05, **options).eval()


def maps(model: nn.Module, *queries: tuple[int, int], **settings: Any) -> AttentionMaps:
    return AttentionMaps(Predictor(model, EvaluationConfig(**settings), MEAN, STD), queries)


def image(height: int = 30, width: int = 44) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_scale_weights_are_the_networks_at_the_images_size() -> None:
    model = network("attention_to_scale", network="unet", scales="1,0.75,0.5")
    assert isinstance(model, AttentionToScale)
    nn.init.normal_(model.attention[-1].weight)  # type: ignore[index, arg-type]
    found = maps(model).scale_weights(image())
    assert list(found) == ["1", "0.75", "0.5"]
    with torch.inference_mode():
        x = normalize(torch.from_numpy(image())[None], MEAN, STD)
        expected = model.scale_weights(x)[0, :, :30, :44].numpy()  # stride 1: cells are pixels
    assert np.ptp(expected) > 0.2
    assert np.allclose(np.stack(list(found.values())), expected, atol=1e-6)
    resized = maps(model, resize=(60, 88)).scale_weights(image())
    assert {map_HW.shape for map_HW in resized.values()} == {(30, 44)}
    assert np.allclose(sum(resized.values()), 1, atol=1e-5)


def test_scale_weights_are_aligned_with_pixels() -> None:
    """Of the left half black, the right half white, at stride 8."""
    model = network("attention_to_scale", network="deeplab_largefov", scales="1,0.5")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    cells = torch.zeros(1, 2, 8, 12)
    cells[:, 0, :, 6:] = 1
    cells[:, 1] = 1 - cells[:, 0]
    model.scale_weights = lambda x: cells  # type: ignore[assignment]
    found = maps(model).scale_weights(pixels)
    assert (found["1"][:, :44] == 0).all() and (found["1"][:, 52:] == 1).all()
    assert np.allclose(found["0.5"], 1 - found["1"])


def test_images_of_scales_are_heat_maps_and_a_panel() -> None:
    model = network("attention_to_scale", network="unet", scales="1,0.5")
    weights, images = maps(model).scale_weights(image()), maps(model).images(image())
    assert list(images) == [".scale-1.png", ".scale-0.5.png", ".scales.jpg"]
    assert np.array_equal(images[".scale-0.5.png"], heat(weights["0.5"]))
    panel = images[".scales.jpg"]
    assert panel.shape[1] > 3 * 480 and panel.dtype == np.uint8
    assert heat(np.array([[0.0, 1.0]], np.float32)).tolist() == [[[68, 1, 84], [253, 231, 37]]]  # the ends of viridis


@pytest.mark.parametrize("resize", [None, (60, 88)])
def test_attention_is_of_the_pixel_that_was_asked_for(resize: tuple[int, int] | None) -> None:
    model = network("msanet")
    assert isinstance(model, MSANet)
    found = maps(model, resize=resize).attention(image(), [(29, 3), (10, 43)])
    x = normalize(torch.from_numpy(image())[None], MEAN, STD)
    if resize:
        x = nn.functional.interpolate(x, resize, mode="bilinear", align_corners=False, antialias=True)
    queries = [(58, 6), (20, 86)] if resize else [(29, 3), (10, 43)]
    own = model.attention_maps(x, queries)
    for name, cell in (("quarter", 4), ("half", 2)):
        assert found[name].shape == (2, 30, 44)
        for query in range(2):
            row, column = np.unravel_index(own[name][0, query].argmax(), own[name].shape[2:])
            scale = cell / 2 if resize else cell
            center = (int((row + 0.5) * scale), int((column + 0.5) * scale))
            near = found[name][query][tuple(slice(max(0, c - 2), c + 2) for c in center)]
            assert near.max() == found[name][query].max()


def test_positions_at_the_border_are_aligned_with_pixels() -> None:
    """8 rows of positions cover 32 pixels, of which the image has 30."""
    model, last_row = network("msanet"), torch.zeros(1, 1, 8, 11)
    last_row[:, :, 7] = 1
    model.attention_maps = lambda x, queries: {"quarter": last_row}  # type: ignore[assignment]
    found = maps(model).attention(image(), [(0, 0)])["quarter"][0]
    assert (
        np.allclose(found[29], 0.875) and np.allclose(found[26], 0.125) and (found[:26] == 0).all()
    )  # centers 26 and 30


def test_queries_are_marked_and_the_centre_is_the_usual_one() -> None:
    model = network("msanet")
    single = maps(model, (100, 60)).images(image(160, 240))
    assert list(single) == [".attention-quarter.jpg", ".attention-half.jpg"]
    other = maps(model).images(image(160, 240))
    for name in single:
        assert single[name].shape == (160, 240, 3)
        for pixels, (row, column) in ((single[name], (100, 60)), (other[name], (80, 120))):
            ring = pixels[row, column + 2 : column + 12].astype(int).sum(axis=1)
            assert ring.max() > 700 and ring.min() < 60  # white on black
    several = maps(model, (0, 0), (1, 1), (2, 2)).images(image(160, 240))
    assert several[".attention-half.jpg"].shape == (2 * 640 + 6, 2 * 960 + 6, 3)


@pytest.mark.parametrize("query", [(30, 0), (0, 44), (-1, 0)])
def test_a_query_outside_the_image_is_refused(query: tuple[int, int]) -> None:
    with raises_user_error("MSA-INFER-003", setting="--query", mentions=f"{query[0]} {query[1]}"):
        maps(network("msanet"), query).images(image())


def test_networks_without_maps_or_queries_are_refused() -> None:
    for name, options in (("unet", {}), ("msanet", {"attention": "fusion"}), ("msanet", {"attention": "none"})):
        with raises_user_error("MSA-INFER-001", setting="--write"):
            maps(network(name, **options))
    with raises_user_error("MSA-INFER-002", setting="--query"):
        maps(network("attention_to_scale", network="unet"), (0, 0))


def test_out_of_memory_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to ...")

    model = network("msanet")
    monkeypatch.setattr(model, "attention_maps", full)
    with raises_user_error("MSA-INFER-004", setting="evaluation.resize"):
        maps(model).images(image())
