"""GeoTIFF and TIFF of any size: in blocks as in one, with the georeference of the source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msanet.config import EvaluationConfig
from msanet.datasets.image_format import RGB8, ImageFormat
from msanet.inference import blocks, scenes
from msanet.inference.blocks import Block, BlockPredictor
from msanet.inference.predictor import Predictor
from msanet.inference.scenes import is_scene, network_bands
from msanet.inference.writer import PredictionWriter, read_image
from msanet.models.io import ModelMetadata
from support.band_images import SIZE, band_image, write_tiff
from support.errors import raises_user_error
from support.metadata import metadata

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

TRANSFORM = from_origin(500_000, 5_600_000, 10, 10)
BANDS = ImageFormat(dtype="uint16", bands=(1, 2, 3, 4), source_bands=4)


class Net(nn.Module):
    """A convolution to 3 classes."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.layer(x_NCHW)


def about(form: ImageFormat = BANDS) -> ModelMetadata:
    values = {"mean": (3000.0,) * form.channels, "std": (400.0,) * form.channels, "image": form}
    return metadata("unet", classes=("a", "b", "c"), ids=(7, 8, 9)).model_copy(update=values)


def write_scene(path: Path, pixels_HWC: np.ndarray, nodata: float | None = None, **place: Any) -> None:
    place = place or {"crs": "EPSG:32633", "transform": TRANSFORM}
    height, width, count = pixels_HWC.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": pixels_HWC.dtype,
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.moveaxis(pixels_HWC, 2, 0))


@pytest.mark.parametrize("size", [(700, 530), (256, 900), (100, 80)])
@pytest.mark.parametrize("window", [(96, 130), (256, 64)])
def test_blocks_have_the_scores_of_the_whole_image(
    size: tuple[int, int], window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_LARGEST", 256)
    pixels = band_image(4, "uint16", size=size)
    settings = EvaluationConfig(window=window, window_batch=3)
    predictor = Predictor(Net().eval(), settings, (3000.0,) * 4, (400.0,) * 4)
    whole_1KHW = predictor.scores(torch.from_numpy(pixels))

    def read(block: Block) -> np.ndarray:
        top, left, height, width = block
        assert 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1]
        return pixels[top : top + height, left : left + width]

    in_blocks = BlockPredictor(predictor, size, read)
    seen = np.zeros(size, int)
    for block in in_blocks.blocks(3, 8):
        part = slice(block.top, block.top + block.height), slice(block.left, block.left + block.width)
        seen[part] += 1
        torch.testing.assert_close(in_blocks.scores(block), whole_1KHW[(..., *part)], atol=1e-5, rtol=1e-5)
    assert (seen == 1).all()


def test_a_geotiff_gives_geotiffs_with_its_transform_and_crs(tmp_path: Path) -> None:
    pixels = band_image(4, "uint16", size=(300, 400))
    pixels[:20, :30] = 0
    write_scene(tmp_path / "s.tif", pixels, nodata=0)
    assert is_scene(tmp_path / "s.tif")
    kinds = ("palette", "overlay", "ids", "train-ids", "probabilities")
    writer = PredictionWriter(Net().eval(), about(), EvaluationConfig(window=(128, 128)), kinds, shown_bands=(4, 3, 2))
    writer.write(tmp_path / "s.tif", tmp_path / "out" / "s")
    found = {}
    for kind in kinds:
        with rasterio.open(tmp_path / "out" / f"s.{kind}.tif") as file:
            assert file.crs.to_epsg() == 32633 and file.transform == TRANSFORM and file.shape == (300, 400)
            found[kind] = file.read()
            assert file.nodata == (255 if kind in ("palette", "ids", "train-ids") else None)
    with rasterio.open(tmp_path / "out" / "s.palette.tif") as file:
        assert file.colormap(1)[1][:3] == about().palette[1]
    labels_HW = found["train-ids"][0]
    assert (labels_HW[:20, :30] == 255).all() and (labels_HW == 255).sum() == 600
    filled = pixels.copy()
    filled[:20, :30] = 3000
    expected = writer.predictor.labels(torch.from_numpy(filled)).numpy()
    assert np.array_equal(labels_HW[20:], expected[20:])
    assert np.array_equal(found["ids"][0][20:], expected[20:] + 7)
    assert np.array_equal(found["probabilities"].argmax(axis=0)[20:], expected[20:])
    assert found["overlay"].shape == (3, 300, 400) and not [*(tmp_path / "out").glob("*.partial")]


def test_ground_control_points_are_kept(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, column, column, -row) for row, column in ((0, 0), (0, 99), (99, 0))
    ]
    write_scene(tmp_path / "s.tif", band_image(4, "uint16", size=(100, 100)), crs="EPSG:4326", gcps=points)
    PredictionWriter(Net().eval(), about(), EvaluationConfig(), ("ids",)).write(tmp_path / "s.tif", tmp_path / "out")
    with rasterio.open(tmp_path / "out.ids.tif") as file:
        found, crs = file.gcps
    assert [(point.row, point.col, point.x) for point in found] == [(point.row, point.col, point.x) for point in points]
    assert crs.to_epsg() == 4326


def test_a_float_scene_may_have_nan_where_there_is_no_data(tmp_path: Path) -> None:
    form = ImageFormat(dtype="float32", bands=(1, 2), source_bands=2)
    pixels = band_image(2, "float32", size=(64, 64))
    pixels[5, 6] = np.nan
    write_scene(tmp_path / "s.tif", pixels)
    PredictionWriter(Net(2).eval(), about(form), EvaluationConfig(), ("train-ids",)).write(
        tmp_path / "s.tif", tmp_path / "o"
    )
    with rasterio.open(tmp_path / "o.train-ids.tif") as file:
        labels_HW = file.read(1)
    assert labels_HW[5, 6] == 255 and (labels_HW == 255).sum() == 1


def test_an_rgb_geotiff_is_kept_too_and_other_tiffs_are_images_as_ever(tmp_path: Path) -> None:
    write_scene(tmp_path / "s.tif", band_image(3, "uint8", size=(64, 64)))
    writer = PredictionWriter(Net(3).eval(), about(RGB8), EvaluationConfig())
    writer.write(tmp_path / "s.tif", tmp_path / "s")
    assert (tmp_path / "s.palette.tif").is_file() and (tmp_path / "s.overlay.tif").is_file()
    write_tiff(tmp_path / "plain.tif", band_image(3, "uint8"))
    assert not is_scene(tmp_path / "plain.tif") and not is_scene(tmp_path / "s.png")
    writer.write(tmp_path / "plain.tif", tmp_path / "plain")
    assert (tmp_path / "plain.png").is_file()


@pytest.mark.parametrize(
    "setting, settings",
    [
        ("evaluation.flip", {"flip": True}),
        ("evaluation.scales", {"scales": (0.5, 1.0)}),
        ("evaluation.resize", {"resize": (64, 64)}),
    ],
)
def test_settings_that_need_the_whole_image_take_it_at_once_or_are_refused(
    tmp_path: Path, setting: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = band_image(4, "uint16")
    write_scene(tmp_path / "s.tif", pixels)
    writer = PredictionWriter(Net().eval(), about(), EvaluationConfig(**settings), ("train-ids",))
    writer.write(tmp_path / "s.tif", tmp_path / "out")
    with rasterio.open(tmp_path / "out.train-ids.tif") as file:
        assert np.array_equal(file.read(1), writer.predictor.labels(torch.from_numpy(pixels)).numpy())
    monkeypatch.setattr(scenes, "_MOST_AT_ONCE", 1000)
    with raises_user_error("MSA-INFER-791", setting=setting, mentions="s.tif"):
        writer.write(tmp_path / "s.tif", tmp_path / "out")


def test_a_network_for_rgb_still_reads_a_georeferenced_photo_of_other_kinds(tmp_path: Path) -> None:
    gray_alpha = np.concatenate([band_image(1, "uint8"), np.full((*SIZE, 1), 255, np.uint8)], axis=2)
    write_scene(tmp_path / "s.tif", gray_alpha, crs="EPSG:32633", transform=TRANSFORM, ALPHA="YES")
    writer = PredictionWriter(Net(3).eval(), about(RGB8), EvaluationConfig())
    writer.write(tmp_path / "s.tif", tmp_path / "s")
    assert (tmp_path / "s.png").is_file()
    write_scene(tmp_path / "deep.tif", band_image(3, "uint16"))
    with raises_user_error("MSA-DATA-101"):
        writer.write(tmp_path / "deep.tif", tmp_path / "deep")


def test_a_damaged_scene_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    write_scene(path, band_image(4, "uint16", size=(300, 300)))
    path.write_bytes(path.read_bytes()[:-200_000])
    writer = PredictionWriter(Net().eval(), about(), EvaluationConfig(), ("ids",))
    with raises_user_error("MSA-INFER-792", mentions="s.tif") as caught:
        writer.write(path, tmp_path / "out" / "s")
    assert str(caught.value).count(str(path)) == 1, "it is named once"
    assert not [*(tmp_path / "out").glob("*")]


PACKED = ImageFormat(dtype="uint16", bands=(8, 4, 3), source_bands=12)


@pytest.mark.parametrize(
    "count, dtype, form, expected",
    [
        (3, "uint16", PACKED, (1, 2, 3)),
        (12, "uint16", PACKED, (8, 4, 3)),
        (3, "uint8", RGB8, (1, 2, 3)),
        (1, "uint8", RGB8, (1, 1, 1)),
    ],
)
def test_bands_that_were_packed_are_taken_from_a_source_of_all(
    count: int, dtype: str, form: ImageFormat, expected: tuple[int, ...]
) -> None:
    assert network_bands(count, dtype, form, "x") == expected


@pytest.mark.parametrize("count, dtype, form", [(4, "uint16", PACKED), (3, "uint8", PACKED), (4, "uint8", RGB8)])
def test_other_bands_are_refused(count: int, dtype: str, form: ImageFormat) -> None:
    with raises_user_error("MSA-INFER-790", setting="--images", mentions=f"{count} bands of {dtype}"):
        network_bands(count, dtype, form, "x")


def test_a_file_of_bands_is_read_as_the_network_takes_it(tmp_path: Path) -> None:
    pixels = band_image(12, "uint16")
    write_tiff(tmp_path / "a.tif", pixels)
    assert np.array_equal(read_image(tmp_path / "a.tif", PACKED), pixels[..., [7, 3, 2]])


def test_without_rasterio_a_georeference_is_lost_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_scene(tmp_path / "s.tif", band_image(4, "uint16"))
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with caplog.at_level("WARNING"):
        assert not is_scene(tmp_path / "s.tif")
    assert "msanet[geo]" in caplog.text
