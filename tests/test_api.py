"""The Python API in this process: models, images, settings; and that `import msanet` loads and changes nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import msanet
from conftest import REPOSITORY
from msanet.api.settings import training_config
from msanet.config.loading import nested
from msanet.models import build_model
from msanet.models.io import save_network
from support.errors import raises_user_error
from support.metadata import metadata

IMPORT = """
import os, signal, sys, threading, logging
def state():
    numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    handlers = {number: signal.getsignal(number) for number in numbers}
    return dict(os.environ), handlers, threading.enumerate(), list(logging.root.handlers), list(sys.path)
before = state()
import msanet
assert state() == before and {*msanet.__all__} <= {*dir(msanet)}
heavy = {"torch", "deepspeed", "cv2", "pydantic", "numpy", "yaml", "PIL", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy
"""
IMAGE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)


def save(path: Path, name: str = "msanet", **options: Any) -> Path:
    """A small network with random weights, as a file."""
    torch.manual_seed(0)
    about = metadata(name, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, build_model(name, len(about.classes), **about.options).state_dict(), about)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> msanet.Model:
    return msanet.load(
        save(tmp_path_factory.mktemp("published") / "model.safetensors", width=0.125).parent, device="cpu"
    )


def test_the_import_loads_no_large_library_and_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_api_is_there() -> None:
    assert all(getattr(msanet, name) is not None for name in msanet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = msanet.trian


def test_doctor_stays_callable_once_its_package_is_imported() -> None:
    import msanet.doctor.machine  # noqa: F401  # sets the attribute `doctor` of `msanet`

    with raises_user_error("MSA-CLI-007", setting="run.dir"):
        msanet.doctor(data="shards")


def test_an_image_is_a_path_an_array_or_a_picture_of_pil(model: msanet.Model, tmp_path: Path) -> None:
    expected = model.predict(IMAGE)
    assert expected.shape == (20, 30) and expected.dtype == np.uint8 and len(np.unique(expected)) > 1
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    frozen = IMAGE.copy()
    frozen.flags.writeable = False
    for image in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(IMAGE),
        frozen,
        IMAGE[:, ::-1].copy()[:, ::-1],
    ):
        assert (model.predict(image) == expected).all()


def test_several_images_give_several_results(model: msanet.Model) -> None:
    flipped = np.ascontiguousarray(IMAGE[::-1])
    stacked = model.predict(np.stack([IMAGE, flipped]))
    assert stacked.shape == (2, 20, 30) and (stacked[1] == model.predict(flipped)).all()
    listed = model.predict([IMAGE, IMAGE[:10, :12]])
    assert [label.shape for label in listed] == [(20, 30), (10, 12)] and (listed[0] == stacked[0]).all()
    assert [found.shape for found in model.probabilities([IMAGE])] == [(len(model.classes), 20, 30)]


def test_probabilities_sum_to_one_and_agree_with_the_labels(model: msanet.Model) -> None:
    probabilities_KHW = model.probabilities(IMAGE)
    assert np.allclose(probabilities_KHW.sum(axis=0), 1, atol=1e-5)
    assert (probabilities_KHW.argmax(axis=0) == model.predict(IMAGE)).mean() > 0.99


def test_a_picture_is_upright_by_its_orientation(model: msanet.Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(IMAGE).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert (model.predict(opened) == model.predict(tmp_path / "turned.png")).all()
    assert model.predict(tmp_path / "turned.png").shape == (30, 20)


@pytest.mark.parametrize(
    "image", [IMAGE / 255, IMAGE[..., 0], np.dstack([IMAGE, IMAGE[..., :1]]), 7, Image.new("I;16", (4, 4))]
)
def test_what_is_not_an_image_is_refused(model: msanet.Model, image: object) -> None:
    with raises_user_error("MSA-API-003"):
        model.predict(image)  # type: ignore[call-overload]


def test_attention_of_a_pixel_and_of_scales(model: msanet.Model, tmp_path: Path) -> None:
    maps = model.attention(IMAGE, query=(3, 4))
    assert {name: map_HW.shape for name, map_HW in maps.items()} == {"quarter": (20, 30), "half": (20, 30)}
    center = model.attention(IMAGE)
    assert (center["half"] == model.attention(IMAGE, (10, 15))["half"]).all() and (center["half"] != maps["half"]).any()
    with raises_user_error("MSA-INFER-003"):
        model.attention(IMAGE, (20, 0))
    scales = msanet.load(save(tmp_path / "a.safetensors", "attention_to_scale", network="unet")).attention(IMAGE)
    assert len(scales) > 1 and np.allclose(sum(scales.values()), 1, atol=1e-5)


def test_a_model_is_exported_by_the_ending_of_the_file(model: msanet.Model, tmp_path: Path) -> None:
    path = model.export(tmp_path / "new" / "copy.safetensors")
    assert (msanet.load(path).predict(IMAGE) == model.predict(IMAGE)).all()
    assert msanet.export(path, tmp_path / "again.safetensors").is_file()
    with raises_user_error("MSA-API-002", setting="format"):
        model.export(tmp_path / "model.tflite")


def test_weights_are_found_or_refused(tmp_path: Path) -> None:
    with raises_user_error("MSA-API-001"):
        msanet.load(tmp_path)
    with raises_user_error("MSA-MODEL-007"):
        msanet.load(tmp_path / "missing.safetensors")
    (tmp_path / "checkpoints").mkdir()
    with raises_user_error("MSA-CLI-005"):
        msanet.load(tmp_path)


def test_settings_are_sections_or_dotted_names(tmp_path: Path) -> None:
    assert nested({"trainer.steps": 3, "trainer": {"epochs": 2}}) == {"trainer": {"steps": 3, "epochs": 2}}
    assert nested({"data": {"path": Path("a")}}) == {"data": {"path": "a"}}
    settings = {"trainer.steps": 3, "data.crop": (64, 80), "model": {"width": 0.5}}
    config = training_config("camvid", tmp_path, tmp_path / "run", settings)
    assert (config.data.path, config.run.dir) == (str(tmp_path), tmp_path / "run")
    assert (config.trainer.steps, config.data.crop, config.model.options["width"]) == (3, (64, 80), 0.5)
    assert config.data.random_scale == training_config("camvid", "a", "b", {}).data.random_scale != (1.0, 1.0)
    assert training_config(None, {"path": "a", "num_workers": 5}, "b", {}).data.num_workers == 5


def test_wrong_settings_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with raises_user_error("MSA-CONFIG-004", setting="trainer.stepz"):
        msanet.train(data="a", dir=tmp_path, trainer={"stepz": 1})
    with raises_user_error("MSA-CLI-007", setting="data.path"):
        msanet.train("camvid", dir=tmp_path)
    with raises_user_error("MSA-CONFIG-001"):
        msanet.train("camvit", data="a", dir=tmp_path)


def test_packing_takes_the_options_of_the_command(tmp_path: Path) -> None:
    from conftest import write_camvid

    source = write_camvid(tmp_path / "source", train=2, val=1)
    packed = msanet.pack("camvid", source, tmp_path / "shards", splits=["val"], workers=1, skip_bad=False)
    assert {name: split.samples for name, split in packed.manifest.splits.items()} == {"val": 1}
    with raises_user_error("MSA-CLI-001"):
        msanet.pack("camvid", source, tmp_path / "other", split="val")
    with raises_user_error("MSA-CLI-002"):
        msanet.pack("camvit", source, tmp_path / "other")


def test_predictions_of_any_program_are_scored(tmp_path: Path) -> None:
    pytest.importorskip("msanet.cli.score", reason="this version has no msanet score")
    truth_HW = np.random.default_rng(0).integers(0, 2, (20, 30)).astype(np.uint8)
    for folder, label_HW in (("truth/labels/val", truth_HW), ("predictions", truth_HW * (np.arange(30) > 5))):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(label_HW.astype(np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "classes.yaml").write_text("name: x\nclasses: [{id: 0, name: a}, {id: 1, name: b}]\n")
    options: dict[str, Any] = {"classes": tmp_path / "classes.yaml", "workers": 1}
    paths = tmp_path / "predictions", tmp_path / "truth/labels/val"
    scored, written = msanet.score(*paths, **options), msanet.score(*paths, out=tmp_path / "out", **options)
    assert (
        scored.mean_iou == written.mean_iou
        and 0.5 < scored.mean_iou < 1
        and written.report == tmp_path / "out/report.html"
    )
    with raises_user_error("MSA-CLI-001"):
        msanet.score(*paths, clases="x")
