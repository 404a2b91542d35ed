"""A run on 300 classes, from shards and from the folder: validated, resumed, evaluated, predicted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from conftest import REPOSITORY
from support.commands import SMALL
from support.many_classes import pack_many_classes, write_many_classes


def msanet(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "msanet", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_run_on_300_classes(tmp_path: Path) -> None:
    write_many_classes(tmp_path / "source")
    pack_many_classes(tmp_path / "source", tmp_path / "shards")
    same = [
        "data.path=shards",
        "trainer.global_batch_size=2",
        "trainer.val_every_epochs=1",
        "loss.class_weights=median_frequency",
    ]
    words = [*SMALL, *same, "evaluation.calibration=true"]
    for steps in (2, 4):
        done = msanet(tmp_path, "train", *words, "run.dir=run", f"trainer.steps={steps}")
        assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "run/evaluation-val.json").read_text())["classes"]) == 300
    unpacked = ["data.path=folder:source", "data.classes=classes.json", "run.dir=own", "trainer.steps=2"]
    done = msanet(tmp_path, "train", *words, *unpacked)
    assert done.returncode == 0, done.stderr
    done = msanet(tmp_path, "evaluate", "--run", "run", "evaluation.num_workers=0")
    assert done.returncode == 0 and "200 more classes have fewer pixels" in done.stdout, done.stderr
    done = msanet(tmp_path, "predict", "--run", "run", "--images", "source/images/val", "--out", "out")
    assert done.returncode == 0, done.stderr
    ids_HW = np.asarray(Image.open(tmp_path / "out/d.ids.png"))
    assert ids_HW.dtype == np.uint16 and ids_HW.min() >= 1000
