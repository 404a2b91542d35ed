"""Bands of any number and depth: stored exactly, cropped, jittered, normalized and shown."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from msanet.config import DataConfig, parse_config
from msanet.data.image.band_file import read_bands, select_bands
from msanet.data.image.band_jitter import band_jitter, band_jitter_array
from msanet.data.image.bands import add_sums, band_statistics, band_sums, fill_value
from msanet.data.image.codec import decode_image, encode_label, open_image, open_label
from msanet.data.image.color import normalize
from msanet.data.image.crop import CropParams, crop_image
from msanet.data.image.tiles import TiledImage, encode_tiled
from msanet.data.samples import augment_sample, placeholder_sample
from msanet.datasets.image_format import ImageFormat
from msanet.report.bands import picture
from support.band_images import band_image
from support.errors import raises_user_error

KINDS = [(dtype, channels) for dtype in ("uint8", "uint16", "float32") for channels in (1, 2, 4, 12, 32)]


def data(**settings: object) -> DataConfig:
    return parse_config({"data": settings}, "test").data


@pytest.mark.parametrize("dtype, channels", KINDS)
def test_bands_are_stored_exactly_and_read_by_windows(dtype: str, channels: int) -> None:
    pixels = band_image(channels, dtype, size=(150, 300))
    encoded = encode_tiled(pixels)
    image = open_image(encoded, "x")
    assert isinstance(image, TiledImage) and image.is_bands and image.dtype == dtype and image.size == (150, 300)
    window = image.window(100, 120, 50, 90)
    assert window.dtype == dtype and np.array_equal(window, pixels[100:, 120:210])
    assert np.array_equal(decode_image(encoded, "x"), pixels)
    assert np.array_equal(tifffile.imread(io.BytesIO(encoded)).reshape(pixels.shape), pixels)  # with nothing of ours
    assert encode_tiled(pixels) == encoded


def test_rgb_of_8_bits_is_stored_as_ever_and_a_gray_tiff_of_others_is_no_band() -> None:
    rgb = TiledImage.parse(encode_tiled(band_image(3, "uint8")), "x")
    assert rgb is not None and not rgb.is_bands
    gray = encode_tiled(band_image(1, "uint8")[..., 0])  # as a label, or a gray photo of another program
    assert decode_image(gray, "x").shape[2] == 3 and open_label(gray, "x").dtype == np.uint8


def test_a_damaged_tile_of_bands_is_an_error() -> None:
    encoded = bytearray(encode_tiled(band_image(5, "uint16")))
    encoded[len(encoded) // 2] ^= 255
    with raises_user_error("MSA-DATA-017"):
        decode_image(bytes(encoded), "x")


@pytest.mark.parametrize("channels", [1, 12])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_crop_of_bands_is_that_of_the_resized_image(dtype: str, channels: int) -> None:
    pixels = band_image(channels, dtype, size=(64, 96))
    fill = fill_value((7.6,) * channels, dtype)
    params = CropParams((96, 144), (10, 100, 40, 60), (True, False))
    cropped = crop_image(open_image(encode_tiled(pixels), "x"), params, fill)
    resized = cv2.resize(pixels, (144, 96)).reshape(96, 144, channels)
    expected = np.full((40, 60, channels), fill, dtype)
    expected[:, :44] = resized[10:50, 100:144]
    np.testing.assert_allclose(cropped.astype(float), expected[:, ::-1].astype(float), atol=1, rtol=1e-6)
    assert cropped.dtype == dtype
    outside = crop_image(
        open_image(encode_tiled(pixels), "x"), CropParams((64, 96), (70, 0, 8, 8), (False, False)), fill
    )
    assert outside.shape == (8, 8, channels) and (outside == np.array(fill, dtype)).all()


def test_a_sample_of_bands_is_augmented_in_its_own_type() -> None:
    pixels = band_image(12, "uint16")
    label = np.zeros(pixels.shape[:2], np.uint8)
    sample = {"__url__": "u", "__key__": "k", "image.tif": encode_tiled(pixels), "label.png": encode_label(label)}
    settings = data(crop=[32, 32], mean=[3000] * 12, std=[400] * 12, brightness=0.2, jitter_on="loader")
    found = augment_sample(sample, 0, 0, settings, seed=1)
    assert found.image_HWC.dtype == np.uint16 and found.image_HWC.shape == (32, 32, 12)
    form = ImageFormat(dtype="uint16", bands=tuple(range(1, 13)), source_bands=12)
    bad = placeholder_sample(0, 0, settings, "bad", form)
    assert (bad.image_HWC == 3000).all() and bad.image_HWC.dtype == np.uint16 and bad.image_HWC.shape == (32, 32, 12)


def test_normalization_is_per_band() -> None:
    pixels = band_image(4, "uint16")
    statistics = band_statistics(add_sums([band_sums(pixels[:50]), band_sums(pixels[50:])]))
    np.testing.assert_allclose(statistics.mean, pixels.mean(axis=(0, 1)))
    np.testing.assert_allclose(statistics.std, pixels.std(axis=(0, 1)))
    assert statistics.high == tuple(map(float, pixels.max(axis=(0, 1))))
    normalized = normalize(torch.from_numpy(pixels)[None], statistics.mean, statistics.std)
    assert normalized.shape == (1, 4, *pixels.shape[:2])
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_a_constant_band_has_the_standard_deviation_0() -> None:
    assert band_statistics(band_sums(np.full((300, 3, 1), 0.1, np.float32))).std == (0.0,)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_jitter_of_bands_changes_brightness_and_contrast_within_the_type(dtype: str) -> None:
    pixels = band_image(5, dtype)
    factors = (1.2, 0.5, 1.0)
    values = pixels.astype(np.float64) * 1.2
    values = values if dtype == "float32" else values.clip(0, np.iinfo(dtype).max)
    expected = (values - values.mean(axis=(0, 1))) * 0.5 + values.mean(axis=(0, 1))
    on_device = band_jitter(torch.from_numpy(pixels)[None], torch.tensor([factors]))[0].numpy()
    np.testing.assert_allclose(on_device, expected, rtol=1e-3)
    in_loader = band_jitter_array(pixels, factors)
    assert in_loader.dtype == dtype
    np.testing.assert_allclose(in_loader, on_device, atol=0 if dtype == "float32" else 0.5)
    assert band_jitter_array(pixels, (1.0, 1.0, 1.0)) is pixels


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def test_bands_of_any_usual_file_are_read() -> None:
    pixels = band_image(6, "uint16")
    contig = tiff(pixels, photometric="minisblack", planarconfig="contig", tile=(16, 32), compression="deflate")
    planar = tiff(np.moveaxis(pixels, 2, 0), photometric="minisblack", planarconfig="separate", compression="lzw")
    big = tiff(pixels, photometric="minisblack", planarconfig="contig", bigtiff=True, byteorder=">")
    assert all(np.array_equal(read_bands(file, "x"), pixels) for file in (contig, planar, big))
    assert np.array_equal(select_bands(pixels, (6, 1), "x"), pixels[..., [5, 0]])
    png = cv2.imencode(".png", pixels[..., :4])[1].tobytes()
    assert np.array_equal(read_bands(png, "x"), pixels[..., [2, 1, 0, 3]])  # OpenCV writes blue, green, red, alpha


@pytest.mark.parametrize(
    "code, make",
    [
        ("MSA-DATA-790", lambda: tiff(np.zeros((9, 9, 2)), photometric="minisblack", planarconfig="contig")),
        ("MSA-DATA-793", lambda: tiff(np.moveaxis(band_image(6, "uint16"), 2, 0), photometric="minisblack")),
        ("MSA-DATA-793", lambda: tiff(band_image(1, "uint8")[..., 0], photometric="palette", colormap=np.zeros((3, 256), "u2"))),
        ("MSA-DATA-017", lambda: tiff(band_image(3, "uint16"), photometric="rgb", compression="deflate")[:-5000]),
        ("MSA-DATA-017", lambda: b"II*\0 but no more"),
    ],
)  # fmt: skip
def test_a_tiff_that_is_nearly_right_is_refused(code: str, make: Callable[[], bytes]) -> None:
    with raises_user_error(code, mentions="x.tif"):
        read_bands(make(), "x.tif")


def test_bands_that_are_not_there_or_not_numbers_are_refused() -> None:
    with raises_user_error("MSA-DATA-791", setting="--bands", mentions="33"):
        select_bands(np.zeros((2, 2, 33), np.uint8), None, "x")
    with raises_user_error("MSA-DATA-791", setting="--bands", mentions="5"):
        select_bands(np.zeros((2, 2, 4), np.uint8), (1, 5), "x")
    pixels = band_image(3, "float32")
    pixels[0, :7, 1] = np.nan
    with raises_user_error("MSA-DATA-792", mentions="7"):
        select_bands(pixels, None, "x")


def test_pictures_show_three_bands_or_one(tmp_path: Path) -> None:
    rgb = band_image(3, "uint8")
    assert picture(rgb) is rgb
    assert np.array_equal(picture(rgb, (3, 3, 1)), rgb[..., [2, 2, 0]])
    pixels = band_image(12, "uint16")
    shown = picture(pixels, (4, 3, 2))
    assert shown.shape == (*pixels.shape[:2], 3) and shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)
    assert np.corrcoef(shown[..., 0].ravel(), pixels[..., 3].ravel())[0, 1] > 0.99
    gray = picture(band_image(2, "float32"), (2,))
    assert np.array_equal(gray[..., 0], gray[..., 2])
