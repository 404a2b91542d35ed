"""Model files: what this version writes it reads, files of the version before load, files of newer versions are refused."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from msanet import __version__
from msanet.models.io import FORMAT_VERSION, METADATA, load_network, load_weights, save_network
from msanet.models.pretrained import initialize
from support.errors import raises_user_error
from support.metadata import metadata

OWN = metadata("unet", classes=("a", "b"), width=0.01)


def written_by_version_1(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """The bytes that commit f5177a0 wrote: key `msanet_card`, no format version, no version of msanet."""
    card = {
        "name": "unet",
        "options": {"width": 0.01},
        "dataset": "camvid",
        "dataset_digest": "0" * 64,
        "classes": ["a", "b"],
        "palette": [list(color) for color in OWN.palette],
        "ids": [0, 1],
        "mean": [120.0, 110.0, 100.0],
        "std": [60.0, 58.0, 62.0],
        "resize": None,
        "step": 12,
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "msanet_card": json.dumps(card, separators=(",", ":"))}}
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    data = b""
    for name, tensor in weights.items():
        values = tensor.contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_file_of_version_1_still_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = OWN.build().state_dict()
    written_by_version_1(tmp_path / "model.safetensors", weights)
    network, found = load_network(tmp_path / "model.safetensors", torch.device("cpu"))
    assert found == OWN.model_copy(update={"msanet_version": ""}) and found.format_version == FORMAT_VERSION
    for name, tensor in network.state_dict().items():
        assert tensor.equal(weights[name]), name
    report = initialize(OWN.build(), tmp_path / "model.safetensors", OWN.classes)
    assert len(report.loaded) == len(weights) and "unet of 2 classes" in report.source


def test_a_file_of_version_3_is_one_of_rgb(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tree = {**json.loads(OWN.model_dump_json()), "format_version": 3}
    del tree["image"], tree["shown_bands"]
    save_file(OWN.build().state_dict(), path, metadata={METADATA: json.dumps(tree)})
    assert load_weights(path)[1] == OWN and OWN.image.is_rgb


def test_a_new_file_names_its_format_and_the_version_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_network(path, OWN.build().state_dict(), OWN)
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    tree = json.loads(header[METADATA])
    assert (tree["format_version"], tree["msanet_version"]) == (FORMAT_VERSION, __version__)
    assert load_weights(path)[1] == OWN


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Also where it has fields that this version does not know."""
    path = tmp_path / "model.safetensors"
    save_network(path, OWN.build().state_dict(), OWN)
    newer = {
        **json.loads(OWN.model_dump_json()),
        "format_version": FORMAT_VERSION + 1,
        "msanet_version": "9.8.7",
        "x": 1,
    }
    save_file(load_file(path), path, metadata={METADATA: json.dumps(newer)})
    with raises_user_error("MSA-MODEL-014", mentions="written by msanet '9.8.7'"):
        load_weights(path)


def test_what_is_not_a_file_of_msanet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with raises_user_error("MSA-MODEL-007", mentions="model.safetensors"):
        load_weights(path)
    path.write_bytes(b"no safetensors")
    with raises_user_error("MSA-MODEL-008"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path)
    with raises_user_error("MSA-MODEL-009"):
        load_weights(path)
    for text in ("{", "[]", "{}", '{"format_version": "2"}'):
        save_file({"x": torch.zeros(1)}, path, metadata={METADATA: text})
        with raises_user_error("MSA-MODEL-010"):
            load_weights(path)


def test_a_web_page_in_place_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("<!DOCTYPE html>\n<html>Sign in</html>")
    with raises_user_error("MSA-MODEL-008", mentions="a web page (HTML)"):
        load_network(tmp_path / "model.safetensors", torch.device("cpu"))
