"""AttentionMaps for the report: of the network's own input, small, and only where they mean something."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msanet.config import EvaluationConfig
from msanet.data.image.color import normalize
from msanet.inference.attention_maps import AttentionMaps
from msanet.inference.panel_attention import GRID, LEVELS, LONGEST_SIDE, panel_maps
from msanet.inference.predictor import Predictor
from msanet.models import build_model

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)


def _predictor(name: str, lockstep: bool = False, options: dict[str, Any] | None = None, **settings: Any) -> Predictor:
    torch.manual_seed(0)
    model = build_model(name, 5, **(options or {"width": 0.125})).eval()
    return Predictor(model, EvaluationConfig.model_validate(settings), MEAN, STD, lockstep)


def _image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_attention_is_that_of_the_networks_input() -> None:
    """Computed again by hand for one query: image resized and normalized, equation 1, two scales, 16 steps."""
    predictor, image_HWC = _predictor("msanet", resize=(48, 64)), _image(90, 120)
    found = panel_maps(predictor, image_HWC)
    assert found and set(found.attention) == {"quarter", "half"} and not found.scales
    assert found.attention["quarter"].shape == (2, *GRID, 12, 16)
    assert found.attention["half"].shape == (2, *GRID, 24, 32)
    x_1CHW = F.interpolate(
        normalize(image_HWC.unsqueeze(0), MEAN, STD), (48, 64), mode="bilinear", align_corners=False, antialias=True
    )
    row, column = 4, 1  # of 6 and 8: parts of 8 x 8 pixels
    model: Any = predictor.model
    expected = model.attention_maps(x_1CHW, [(row * 8 + 4, column * 8 + 4)])
    for name, map_1QHW in expected.items():
        map_HW = map_1QHW[0, 0].double()
        share_HW = map_HW / map_HW.max()
        log_HW = (torch.log10(map_HW / map_HW.mean()) / 4 + 0.5).clip(
            0, 1
        )  # 0: 1 / 100 of uniform attention; 1: 100 times
        assert log_HW.min() < 0.5 < log_HW.max()
        for levels_HW, expected_HW in zip(found.attention[name][:, row, column], (share_HW, log_HW), strict=True):
            difference_HW = levels_HW / 255 * (LEVELS - 1) - expected_HW.numpy() * (LEVELS - 1)
            assert np.abs(difference_HW).max() < 0.51 + 0.05  # 0.05: 255 is no multiple of 15 steps
        assert found.attention[name][0, row, column].max() == 255
    assert not np.array_equal(found.attention["half"][1, row, column], found.attention["half"][1, 0, 0])


def test_large_maps_are_averaged() -> None:
    found = panel_maps(_predictor("msanet"), _image(100, 400))
    assert found and found.attention["half"].shape[3:] == (LONGEST_SIDE // 4, LONGEST_SIDE)
    assert found.attention["quarter"].shape[3:] == (LONGEST_SIDE // 4, LONGEST_SIDE)


def test_weights_of_scales_are_those_of_predict() -> None:
    options = {"scales": "1,0.5", "network": "unet", "width": 0.125}
    predictor, image_HWC = _predictor("attention_to_scale", options=options), _image(48, 64)
    found = panel_maps(predictor, image_HWC)
    assert found and not found.attention
    weights = AttentionMaps(predictor).scale_weights(image_HWC.numpy())
    assert list(found.scales) == list(weights) == ["1", "0.5"]
    for scale, map_HW in weights.items():
        assert np.abs(found.scales[scale] / 255 - map_HW).max() < 0.51 / 255
    assert np.abs(sum(map_HW.astype(int) for map_HW in found.scales.values()) - 255).max() <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "msanet", "options": {"width": 0.125, "attention": "none"}},
        {"name": "fcn"},
        {"name": "msanet", "window": (32, 32)},
        {"name": "msanet", "lockstep": True},
    ],
    ids=["without attention", "another network", "windows", "lockstep"],
)
def test_no_maps_where_there_are_none_to_show(arguments: dict[str, Any]) -> None:
    assert panel_maps(_predictor(**arguments), _image(48, 64)) is None


def test_out_of_memory_costs_the_maps_and_not_the_evaluation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = _predictor("msanet")

    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predictor.model, "attention_maps", fail)
    assert panel_maps(predictor, _image(48, 64)) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "out of memory" in caplog.messages[0]


def test_a_network_that_has_diverged_has_maps() -> None:
    predictor = _predictor("msanet")
    nn.init.constant_(next(predictor.model.parameters()), float("nan"))
    found = panel_maps(predictor, _image(48, 64))
    assert found and found.attention["half"].max() == 0
