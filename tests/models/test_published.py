"""Weights by the name that a library publishes them under: from its cache or a mirror, or a sentence where neither has them."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from msanet.models import build_model
from msanet.models.external import find_source
from msanet.models.pretrained import WeightReport, absolute_weights, initialize, weights_file
from support.errors import raises_user_error
from support.library_networks import SEGFORMER

pytest.importorskip("huggingface_hub")
from huggingface_hub import constants  # noqa: E402

CLASSES = tuple("abcdefghijk")
COMMIT = "5" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of both hubs, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put(cache: Path, repository: str, revision: str = "") -> Path:
    """The folder of a repository in the cache."""
    folder = cache / "hub" / f"models--{repository.replace('/', '--')}"
    if not revision:
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / (revision or COMMIT)
    snapshot.mkdir(parents=True)
    return snapshot


def loaded(name: str, tag: str, **options: Any) -> tuple[dict[str, Tensor], WeightReport]:
    model = build_model(name, len(CLASSES), **options)
    report = initialize(model, weights_file(name, options, Path(tag)), CLASSES)
    return model.state_dict(), report


def random_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Of the model's names and shapes, no two alike."""
    return {
        name: torch.rand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


def test_smp_encoders_come_from_the_cache(cache: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    weights = random_weights(smp.encoders.get_encoder("resnet18"))
    about = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    save_file(weights, put(cache, about["repo_id"], about["revision"]) / "model.safetensors")
    found, report = loaded("smp:FPN", "imagenet", encoder_name="resnet18", decoder_segmentation_channels=32)
    assert all(torch.equal(found[f"network.encoder.{name}"], tensor) for name, tensor in weights.items())
    assert {name.split(".")[1] for name in report.new} == {"decoder", "segmentation_head"}


@pytest.fixture
def mirror(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A mirror of the hub: {path of a file: its content}."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(files.get(self.path, b""))

        def answer(self, body: bytes) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        constants.ENDPOINT, address
    )  # HF_ENDPOINT is read on import
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    yield files
    server.shutdown()


def test_timm_backbones_come_from_a_mirror(mirror: dict[str, bytes], tmp_path: Path) -> None:
    """By tag, as the default, by repository, and as a pickle of tensors; afterwards from the cache."""
    timm = pytest.importorskip("timm")
    weights = random_weights(timm.create_model("test_resnet"))
    torch.save(weights, tmp_path / "weights.pth")
    mirror["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"] = save(weights)
    mirror["/me/mine/resolve/main/pytorch_model.bin"] = (tmp_path / "weights.pth").read_bytes()
    for tag in ("imagenet", "r160_in1k", "timm/test_resnet.r160_in1k", "me/mine"):
        found, report = loaded("timm:test_resnet", tag)
        assert torch.equal(found["network.backbone.conv1.0.weight"], weights["conv1.0.weight"]), tag
        assert {name.split(".")[1] for name in report.new} == {"decoder", "classifier"}
    mirror.clear()
    options = {"encoder_name": "tu-test_resnet", "encoder_depth": 4, "decoder_channels": [32, 16, 8, 8]}
    found, _ = loaded("smp:Unet", "imagenet", **options)
    assert any(torch.equal(tensor, weights["conv1.0.weight"]) for tensor in found.values())
    with raises_user_error("MSA-MODEL-781", setting="model.pretrained", mentions="me/other"):
        loaded("timm:test_resnet", "me/other")


def test_a_repository_of_transformers_is_read_with_its_configuration(cache: Path) -> None:
    """Of a network for something else the head is new, not random numbers that pass for weights."""
    transformers = pytest.importorskip("transformers")
    saved = transformers.SegformerModel(transformers.SegformerConfig(**SEGFORMER))
    saved.save_pretrained(put(cache, "nvidia/mit-b0"))
    found, report = loaded("hf:segformer", "nvidia/mit-b0", **SEGFORMER)
    assert all(torch.equal(found[f"network.segformer.{name}"], tensor) for name, tensor in saved.state_dict().items())
    assert {name.split(".")[1] for name in report.new} == {"decode_head"}


def test_torchvision_files_come_from_the_cache_of_torch(cache: Path) -> None:
    pytest.importorskip("torchvision")
    network = build_model("torchvision:lraspp_mobilenet_v3_large", 2).get_submodule("network")
    weights = random_weights(network.get_submodule("backbone"))
    path = cache / "torch" / "hub" / "checkpoints" / "mobilenet_v3_large-8738ca79.pth"
    path.parent.mkdir(parents=True)
    torch.save({f"features.{name}": tensor for name, tensor in weights.items()}, path)
    found, report = loaded("torchvision:lraspp_mobilenet_v3_large", "imagenet")
    assert all(torch.equal(found[f"network.backbone.{name}"], tensor) for name, tensor in weights.items())
    assert {name.split(".")[1] for name in report.new} == {"classifier"}


@pytest.mark.parametrize(
    ("name", "options", "tag", "mentions"),
    [
        ("smp:Unet", {"encoder_name": "resnet18"}, "imagenet", "smp-hub/resnet18.imagenet/resolve/"),
        (
            "smp:Unet",
            {"encoder_name": "tu-resnet18"},
            "a1_in1k",
            "timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        ),
        ("timm:resnet18", {}, "imagenet", "hf download timm/resnet18"),
        ("hf:segformer", {}, "nvidia/mit-b0", "nvidia/mit-b0/resolve/main/model.safetensors"),
        ("torchvision:fcn_resnet50", {}, "COCO_WITH_VOC_LABELS_V1", "fcn_resnet50_coco"),
        ("deeplabv3", {"backbone": "resnet101"}, "imagenet", "resnet101-63fe2227.pth"),
        ("attention_to_scale", {}, "imagenet", "vgg16-397923af.pth"),
    ],
)
def test_without_a_network_one_sentence_says_which_file_to_put_where(
    name: str, options: dict[str, Any], tag: str, mentions: str, cache: Path
) -> None:
    for library, package in (("smp", "segmentation_models_pytorch"), ("hf", "transformers"), ("timm", "timm")):
        if name.startswith(library):
            pytest.importorskip(package)
    with raises_user_error("MSA-MODEL-781", setting="model.pretrained", mentions=mentions) as caught:
        weights_file(name, options, Path(tag))
    assert str(cache) in str(caught.value)


def test_a_network_of_a_repository_has_its_sizes_and_own_classes(cache: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(**SEGFORMER, num_labels=3)
    (put(cache, "someone/small") / "config.json").write_text(config.to_json_string())
    model: Any = build_model("hf:someone/small", len(CLASSES), decoder_hidden_size=8)
    built = model.network.config
    assert (built.hidden_sizes, built.decoder_hidden_size) == (SEGFORMER["hidden_sizes"], 8)
    assert built.num_labels == len(CLASSES)
    with raises_user_error("MSA-MODEL-781", setting="model.name", mentions="someone/other/resolve/main/config.json"):
        build_model("hf:someone/other", len(CLASSES))
    for path in ("./someone/other", "/someone/other", "a/b/c"):
        with raises_user_error("MSA-MODEL-502", setting="model.name"):
            build_model(f"hf:{path}", len(CLASSES))


def test_names_that_nothing_is_published_under_are_refused() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with raises_user_error("MSA-MODEL-780", setting="model.pretrained", mentions="imagenet"):
        weights_file("smp:Unet", {"encoder_name": "resnet18"}, Path("imagnet"))
    for name in ("msanet", "hf:segformer"):
        with raises_user_error("MSA-MODEL-780", setting="model.pretrained"):
            weights_file(name, {}, Path("imagenet"))
    with raises_user_error("MSA-MODEL-002", setting="model.encoder_weights", mentions="model.pretrained"):
        build_model("smp:Unet", 2, encoder_weights="imagenet")


def test_files_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").write_text("a file of that name")
    for path in ("imagenet", "absent.pth", "runs/mine", "../other", "a/b/c"):
        assert absolute_weights("unet", {}, Path(path)) == (tmp_path / path).resolve()
    (tmp_path / "imagenet").unlink()
    assert absolute_weights("unet", {}, Path("imagenet")) == Path("imagenet")
    assert absolute_weights("timm:resnet18", {}, Path("me/mine")) == Path("me/mine")


def test_files_of_torchvision_are_those_that_it_names() -> None:
    torchvision = pytest.importorskip("torchvision")
    for name, options, model in (
        ("fcn", {}, "vgg16"),
        ("deeplabv3", {}, "resnet50"),
        ("deeplabv3", {"backbone": "resnet101"}, "resnet101"),
    ):
        from msanet.models.external.libraries import published_for

        expected = torchvision.models.get_model_weights(model).IMAGENET1K_V1.url
        assert published_for(name, options)["imagenet"].url == expected
    assert json.dumps(sorted(find_source("torchvision:fcn_resnet50").published({}))).count("IMAGENET1K") == 2
