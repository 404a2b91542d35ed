"""Exported networks: the same labels as in torch at any size, the metadata inside, and no file that was not checked."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image
from torch import Tensor

from conftest import REPOSITORY
from msanet.cli.export import export_job
from msanet.config import EvaluationConfig
from msanet.datasets.image_format import ImageFormat
from msanet.errors import UserError
from msanet.inference.export import FORMATS, TOLERANCE, Deployed, export_network, require_same
from msanet.inference.predictor import Predictor
from msanet.models import MODELS
from msanet.models.io import METADATA, ModelMetadata, save_network
from msanet.models.network import SegmentationNetwork
from support.band_images import band_image
from support.errors import raises_user_error
from support.metadata import metadata
from support.networks import CLASSES, images

pytest.importorskip("onnxscript", reason="torch's ONNX exporter needs onnxscript (extra `export`)")
openvino = pytest.importorskip("openvino", reason="runs the exported network (extra `openvino`)")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported network (extra `export`)")

NAMES = ("sky", "road", "tree", "car", "ödland")[:CLASSES]


def trained(name: str, width: float = 0.02, **options: Any) -> tuple[SegmentationNetwork, ModelMetadata]:
    """A network with scores that differ from pixel to pixel, and its metadata."""
    own = metadata(name, classes=NAMES, ids=(7, 3, 1, 4, 5), width=width, **options)
    torch.manual_seed(0)
    network = own.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # FCN's scores start at zero
                parameter.normal_(std=0.1)
    return network, own


def gray_values(batch: int, height: int, width: int) -> Tensor:
    return (images(batch, height, width) * 60 + 110).clamp(0, 255).round()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, metadata = trained("unet")
    file = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_network(file, network.state_dict(), metadata)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in all formats."""
    folder = tmp_path_factory.mktemp("exported")
    for target, form in FORMATS.items():
        export_network(folder / f"model{form.ending}", target, *trained("unet"))
    return folder


ON_VGG = ("fcn", "deeplab_largefov", "deeplab_msc_largefov")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "onnx") for name in MODELS if name not in ("unet", *ON_VGG)),
        ("msanet", "torch"),
        *(pytest.param(name, "onnx", marks=pytest.mark.slow) for name in ON_VGG),
    ],
)
def test_every_network_has_the_same_labels_at_any_size(name: str, target: str, tmp_path: Path) -> None:
    """ONNX is made of the torch.export program, so most are held as ONNX alone; unet is `folder`'s."""
    options = {"scales": "1,0.3"} if name == "attention_to_scale" else {}
    network, metadata = trained(name, 0.02, **options)
    form, deployed = FORMATS[target], Deployed(network, metadata)
    if name == "deeplabv3" and tuple(int(word) for word in torch.__version__.split(".")[:2]) < (2, 12):
        with raises_user_error("MSA-INFER-007", setting="--size", mentions="deeplabv3"):
            form.write(tmp_path / "model", network, metadata, None)
        return
    form.write(tmp_path / "model", network, metadata, None)
    run = form.open(tmp_path / "model")
    for shape in ((1, 7, 9), (3, 65, 128), (2, 1, 150)):
        image = gray_values(*shape)
        with torch.no_grad():
            (logits, labels), (expected, same) = run(image), deployed(image)
        assert logits.dtype == torch.float32 and labels.dtype == torch.uint8 and labels.shape == shape
        atol = TOLERANCE * expected.abs().max().item()
        torch.testing.assert_close(logits, expected, rtol=0, atol=atol)
        first, second = expected.topk(2, dim=1).values.unbind(1)
        clear = first - second > 2 * atol
        assert clear.float().mean() > 0.9 and labels[clear].equal(same[clear])


def test_files_hold_the_metadata_and_there_are_no_others(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        *("model.bin", "model.onnx", "model.pt2", "model.safetensors", "model.xml"),
    ]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    extra = {METADATA: ""}
    torch.export.load(folder / "model.pt2", extra_files=extra)
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        header = file.metadata()
    _, metadata = trained("unet")
    in_openvino = openvino.Core().read_model(folder / "model.xml").get_rt_info([METADATA]).astype(str)
    for text in (in_openvino, session.get_modelmeta().custom_metadata_map[METADATA], extra[METADATA], header[METADATA]):
        assert ModelMetadata.model_validate_json(text) == metadata
    assert [(value.name, value.shape) for value in (*session.get_inputs(), *session.get_outputs())] == [
        ("image", ["batch", 3, "height", "width"]),
        ("logits", ["batch", CLASSES, "height", "width"]),
        ("labels", ["batch", "height", "width"]),
    ]


def test_the_code_of_the_document_segments_as_predict_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, metadata = trained("unet")
    image_HWC = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    predictor = Predictor(network, EvaluationConfig(precision="fp32"), metadata.mean, metadata.std)
    expected = predictor.labels(torch.from_numpy(image_HWC)).numpy()
    monkeypatch.chdir(folder)
    Image.fromarray(image_HWC).save("image.png")
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "deployment.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        labels, found = names["labels"], names["metadata"]
        assert (np.asarray(labels)[0] == expected).mean() > 0.999
        assert found == json.loads(metadata.model_dump_json())
    with Image.open("labels.png") as mask:
        assert (mask.mode, np.asarray(mask).tolist()) == ("P", np.asarray(labels)[0].tolist())
        assert np.asarray(mask.convert("RGB"))[0, 0].tolist() == list(metadata.palette[expected[0, 0]])
    for name in ("image.png", "labels.png"):
        Path(name).unlink()


def test_a_file_with_another_output_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, metadata = trained("unet")
    other = Deployed(trained("unet")[0], metadata)
    with torch.no_grad():
        other.network.get_parameter("classifier.bias").add_(1)
    monkeypatch.setitem(FORMATS, "safetensors", FORMATS["safetensors"]._replace(open=lambda path: other))
    (tmp_path / "model").write_text("an earlier one")
    with raises_user_error("MSA-INFER-006", setting="--to", mentions="64x96"):
        export_network(tmp_path / "model", "safetensors", network, metadata)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model", "an earlier one")]


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_logits_and_labels_are_each_compared_with_the_network(share: float) -> None:
    deployed = Deployed(*trained("unet"))

    def lifted(image: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = deployed(image)
        logits[0, 0, 5, 5] += share * TOLERANCE * logits.abs().max()
        return logits, labels

    def wrong_in_one_pixel(image: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = deployed(image)
        first, second = logits[0].topk(2, dim=0).values
        margin = (first - second) / logits.abs().max()
        place = (margin / TOLERANCE - 2 * share).abs().argmin()  # a pixel whose margin is nearly twice the share
        labels[0].view(-1)[place] = logits[0].topk(2, dim=0).indices[1].view(-1)[place]
        return logits, labels

    for run in (lifted, wrong_in_one_pixel):
        assert refused(run, deployed) == (share > 1), run


def refused(run: Callable[[Tensor], tuple[Tensor, Tensor]], deployed: Deployed) -> bool:
    try:
        require_same(run, deployed)
    except UserError as error:
        return error.code == "MSA-INFER-006"
    return False


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with raises_user_error("MSA-INFER-005", setting="--to", mentions=package):
        export_network(tmp_path / "model.onnx", "onnx", *trained("unet"))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_graph_of_one_size(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "road.pt2"
    words = ["--checkpoint", checkpoint.parent, "--to", "torch", "--out", out, "--size", 33, 40]
    command = [sys.executable, "launcher/export.py", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"unet with 5 classes of camvid, step 12, written to {out}\n"
    run = FORMATS["torch"].open(out)
    require_same(run, Deployed(*trained("unet")), (33, 40))
    with pytest.raises(AssertionError, match="== 40"):
        run(gray_values(1, 33, 41))


def test_bad_arguments_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", str(checkpoint), "--to"]
    assert export_job([*words, "onnx"]).out == checkpoint.with_name("model.onnx")
    for more, sentence in (
        (["safetensors"], "is the checkpoint itself"),
        (["torch", "--out", str(tmp_path)], "is a folder"),
        (["torch", "--size", "0", "8"], "--size is 0 8"),
        (["safetensors", "--size", "8", "8"], "--size is 8 8"),
    ):
        with pytest.raises(UserError, match=sentence):
            export_job([*words, *more])


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_a_network_for_bands_takes_their_own_values(target: str, tmp_path: Path) -> None:
    form = ImageFormat(dtype="uint16", bands=(1, 2, 3, 4, 5), source_bands=5)
    network, own = trained("unet", in_channels=5)
    own = own.model_copy(update={"mean": (3000.0,) * 5, "std": (400.0,) * 5, "image": form})
    path = tmp_path / f"model{FORMATS[target].ending}"
    export_network(path, target, network, own)
    image_NCHW = torch.from_numpy(band_image(5, "uint16", size=(64, 72))).permute(2, 0, 1)[None].float()
    logits, labels = FORMATS[target].open(path)(image_NCHW)
    expected, expected_labels = Deployed(network, own)(image_NCHW)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(labels, expected_labels)
