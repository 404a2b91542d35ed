"""The network of a run is built and checked before anything of the run is touched."""

from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from msanet.config import Config, parse_config
from msanet.models.external.sources import NetworkSource
from msanet.training import network
from msanet.training.network import build_network, with_pretrained_normalization
from support.errors import raises_user_error

FILE = f"{REPOSITORY}/tests/models/external_networks.py"


def config(name: str, **sections: Any) -> Config:
    return parse_config({"model": {"name": name}, **sections}, "test")


def test_unused_parameters_are_said_and_frozen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "msanet"):
        model = build_network(config(f"{FILE}:Auxiliary"), 5)
    assert "2 parameters" in caplog.text and "network.unused.weight" in caplog.text
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        "network.unused.weight",
        "network.unused.bias",
    }


def test_a_network_for_one_size_needs_that_size_in_training_and_evaluation() -> None:
    size = [224, 224]
    for sections, setting in [
        ({}, "data.crop"),
        ({"data": {"crop": [64, 64]}, "evaluation": {"window": size}}, "data.crop"),
        ({"data": {"crop": size}}, "evaluation.window"),
    ]:
        with raises_user_error("MSA-TRAIN-502", setting=setting, mentions="224x224"):
            build_network(config(f"{FILE}:Fixed", **sections), 5)
    build_network(config(f"{FILE}:Fixed", data={"crop": size}, evaluation={"window": size}), 5)


def test_normalization_is_the_networks_own_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ((127.5, 127.5, 127.5), (100.0, 100.0, 100.0))
    monkeypatch.setattr(network, "is_external", lambda name: name == "timm:x")
    monkeypatch.setattr(network, "find_source", lambda name: NetworkSource(name, list, normalization=lambda _: own))  # type: ignore[arg-type]
    found = with_pretrained_normalization(config("timm:x")).data
    assert (found.mean, found.std) == own
    given = config("timm:x", data={"mean": [1, 2, 3]})
    assert with_pretrained_normalization(given) is given
    ours = config("unet")
    assert with_pretrained_normalization(ours) is ours


def test_a_run_folder_is_untouched_where_the_network_is_refused(tmp_path: Path, shards: Path) -> None:
    from msanet.training.train import train

    run = tmp_path / "run"
    settings = {"data": {"path": str(shards)}, "run": {"dir": str(run)}}
    with raises_user_error("MSA-MODEL-512"):
        train(config(f"{FILE}:NotANumber", **settings))
    assert not run.exists()
