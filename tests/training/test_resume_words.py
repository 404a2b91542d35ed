"""What a resume says: other initial weights, another normalization, another validation, and nothing left to do."""

import re
from pathlib import Path
from typing import Any

import yaml

from msanet.config import Config, parse_config
from msanet.run_layout import RunLayout
from msanet.training.checkpoint.io import read_checkpoint
from msanet.training.train import train
from support.errors import raises_user_error
from support.ranks import run_ranks


def _config(shards: str, folder: str, **sections: dict[str, Any]) -> Config:
    settings: dict[str, dict[str, Any]] = {
        "data": {"path": shards, "crop": [32, 40], "num_workers": 0},
        "run": {"dir": folder},
        "model": {"name": "unet", "width": 0.05},
        "trainer": {"steps": 2, "global_batch_size": 4, "val_every_epochs": 0},
        "evaluation": {"num_workers": 0, "panels": 0, "worst": 0},
    }
    return parse_config({name: {**own, **sections.get(name, {})} for name, own in settings.items()}, "test")


def _resume_in_many_ways(shards: str, folder: str) -> None:
    run = RunLayout(Path(folder) / "run")
    train(_config(shards, str(run.dir)))
    first = {path: path.read_bytes() for path in (run.config, run.command, run.metrics)}
    print("again:")
    train(_config(shards, str(run.dir), optimizer={"lr": 0.5}))
    print("fewer:")
    train(_config(shards, str(run.dir), trainer={"steps": 1, "global_batch_size": 4}))
    assert {path: path.read_bytes() for path in first} == first, "a finished run is left alone"
    with raises_user_error("MSA-CKPT-005", "data.mean and data.std", "run.allow_changes=[normalization]"):
        train(_config(shards, str(run.dir), data={"mean": [1, 2, 3]}))
    weights = str(run.checkpoints / "step-00000002" / "model.safetensors")
    print("longer:")
    train(
        _config(shards, str(run.dir), trainer={"steps": 3}, model={"pretrained": weights}, data={"val_split": "train"})
    )
    for text in (run.config.read_text(), (run.checkpoints / "step-00000003" / "config.yaml").read_text()):
        assert yaml.safe_load(text)["model"]["pretrained"] is None and yaml.safe_load(text)["trainer"]["steps"] == 3
    best = read_checkpoint(run.checkpoints / "step-00000003").state.best
    assert best and best.step == 3 and best.conditions["data.val_split"] == "train"
    other = RunLayout(Path(folder) / "other")
    train(_config(shards, str(other.dir), model={"pretrained": weights}))
    print("without:")
    train(_config(shards, str(other.dir), trainer={"steps": 3}))
    assert yaml.safe_load(other.config.read_text())["model"]["pretrained"] == weights
    assert read_checkpoint(other.checkpoints / "step-00000003").state.initial_weights == weights


def test_a_resume_says_what_differs_and_a_finished_run_that_it_is_done(shards: Path, tmp_path: Path) -> None:
    (said,) = run_ranks(1, __file__, "_resume_in_many_ways", {"shards": str(shards), "folder": str(tmp_path)})
    first, again, fewer, longer, without = re.split(r"^(?:again|fewer|longer|without):$", said, flags=re.MULTILINE)
    assert "done: 2 of 2 steps; the best validation has mean IoU" in first
    assert "is done: it has taken 2 steps, nothing remains" in again and "from step" not in again
    assert (
        "is done: it has taken 2 steps and now has 1, nothing remains" in fewer and "learning rate follows" not in fewer
    )
    assert "warning: model.pretrained=" in longer and "was started from random weights" in longer
    assert (
        "had data.val_split val, this one has train" in longer
        and "the run was started for 2 steps and now has 3" in longer
    )
    assert "model.pretrained=null has no effect" in without and "warning: model.pretrained" not in without
