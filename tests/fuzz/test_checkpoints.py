"""Checkpoints that were damaged, or made by somebody else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fuzz.hostile import NAMES, altered, damaged, outcome
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from msanet.models.saved import CARD, ModelCard, load_network, load_weights, save_network
from msanet.training.checkpoint import find_fault

FILES = "files.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = ModelCard(
        name="fcn", options={"width": 0.01}, dataset="camvid", dataset_digest="0" * 64, classes=("a", "b"),
        palette=((0, 0, 0), (1, 1, 1)), ids=(0, 1), mean=(1, 2, 3), std=(1, 2, 3), resize=None, step=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_network(path, card.build().state_dict(), card)
    return path


@given(data=st.data())
def test_any_manifest_of_a_checkpoint_names_a_fault_or_none(
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
    fault = find_fault(folder)
    assert fault is None or fault


def test_names_cannot_lead_out_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "step").mkdir()
    for name in NAMES:
        text = json.dumps({"files": {name: {"bytes": 0, "sha256": "0" * 64}}})
        (tmp_path / "step" / FILES).write_text(text)
        assert find_fault(tmp_path / "step"), name


@given(data=st.data())
def test_damaged_weights_are_loaded_or_refused_in_a_sentence(model: Path, data: st.DataObject) -> None:
    path = model.with_name("damaged.safetensors")
    path.write_bytes(data.draw(damaged(model.read_bytes(), header=3000) | st.binary(max_size=100)))
    assert outcome(load_weights, path)


@given(data=st.data())
def test_any_card_is_taken_or_refused_in_a_sentence(model: Path, data: st.DataObject) -> None:
    weights, card = load_weights(model)
    path = model.with_name("other.safetensors")
    tree = json.loads(card.model_dump_json())
    options = f'{{"options": {json.dumps(tree.pop("options"))}, '  # kept: a large width would build a large network
    text = data.draw(altered(tree)).decode().replace("{", options, 1)
    save_file(weights, path, metadata={CARD: text})
    assert outcome(load_network, path, torch.device("cpu"))
