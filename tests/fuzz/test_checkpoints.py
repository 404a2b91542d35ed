"""Checkpoints that were damaged, or made by somebody else."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fuzz.hostile import NAMES, altered, damaged, outcome
from msanet.errors import UserError
from msanet.models.io import METADATA, ModelMetadata, load_network, load_weights, save_network
from msanet.models.network import SegmentationNetwork
from msanet.training.checkpoint.io import read_checkpoint, validate_checkpoint, write_checkpoint
from support.metadata import metadata
from support.small_runs import toy_checkpoint

FILES = "files.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = metadata("fcn", classes=("a", "b"), width=0.01)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_network(path, own.build().state_dict(), own)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = toy_checkpoint()
    few = dict(list(checkpoint.optimizer.items())[:3])
    return write_checkpoint(tmp_path_factory.mktemp("run"), replace(checkpoint, optimizer=few), keep=1)


@given(data=st.data())
def test_any_list_of_files_of_a_checkpoint_is_valid_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "step-00000001"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    tree = {"files": {"a.bin": {"bytes": 3, "sha256": digest}}}
    (folder / FILES).write_bytes(
        data.draw(altered(tree) | damaged(json.dumps(tree).encode()) | st.binary(max_size=100))
    )
    fault = validate_checkpoint(folder)
    assert fault is None or fault


def test_names_cannot_lead_out_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "step").mkdir()
    for name in NAMES:
        text = json.dumps({"files": {name: {"bytes": 0, "sha256": "0" * 64}}})
        (tmp_path / "step" / FILES).write_text(text)
        assert validate_checkpoint(tmp_path / "step"), name


@given(data=st.data())
def test_damaged_weights_are_loaded_or_refused_in_a_sentence(model: Path, data: st.DataObject) -> None:
    path = model.with_name("damaged.safetensors")
    path.write_bytes(data.draw(damaged(model.read_bytes(), header=3000) | st.binary(max_size=100)))
    assert outcome(load_weights, path)


@given(data=st.data())
def test_any_metadata_is_loaded_or_refused_in_a_sentence(model: Path, data: st.DataObject) -> None:
    weights, metadata = load_weights(model)
    path = model.with_name("other.safetensors")
    tree = json.loads(metadata.model_dump_json())
    save_file(weights, path, metadata={METADATA: data.draw(altered(tree)).decode()})
    assert outcome(load_network, path, torch.device("cpu"))


@pytest.mark.parametrize(
    "options", [{"width": 63.0}, {"width": 1e300}, {"width": math.nan}, {"variant": "8s"}], ids=str
)
def test_metadata_of_another_size_is_refused_before_its_network_is_built(
    model: Path, options: dict[str, float | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, metadata = load_weights(model)
    path = model.with_name("large.safetensors")
    save_network(path, weights, metadata.model_copy(update={"options": options}))
    built: list[torch.device] = []
    build = ModelMetadata.build

    def build_noted(metadata: ModelMetadata) -> SegmentationNetwork:
        built.append(torch.get_default_device())
        return build(metadata)

    monkeypatch.setattr(ModelMetadata, "build", build_noted)
    with pytest.raises(UserError) as refusal:
        load_network(path, torch.device("cpu"))
    assert refusal.value.code in {f"MSA-MODEL-{number:03d}" for number in (2, 3, 10, 11, 13)}
    assert built in ([], [torch.device("meta")])


@given(data=st.data())
def test_damaged_files_of_a_checkpoint_are_read_or_refused_in_a_sentence(whole: Path, data: st.DataObject) -> None:
    """By somebody who has updated the hashes."""
    folder = whole.with_name("other")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    file = folder / data.draw(st.sampled_from(sorted(path.name for path in whole.iterdir())))
    text = file.read_bytes()
    hostile = damaged(text, header=3000) | st.binary(max_size=100)
    file.write_bytes(data.draw(altered(json.loads(text)) | hostile if file.suffix == ".json" else hostile))
    assert outcome(read_checkpoint, folder)
