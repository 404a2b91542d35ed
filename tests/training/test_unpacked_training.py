"""Runs from a folder and from a dataset of the user's own: the weights are those of a run from shards."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, write_camvid
from sharding.__main__ import main
from support.commands import SMALL

OWN = """
from pathlib import Path
from PIL import Image
from msanet.datasets.camvid import CAMVID

class Own:
    classes = CAMVID.classes
    def __init__(self, split):
        self.images = sorted((Path(ROOT) / split).iterdir())
        self.labels = sorted((Path(ROOT) / f"{split}annot").iterdir())
    def __len__(self):
        return len(self.images)
    def __getitem__(self, number):
        return Image.open(self.images[number]), Image.open(self.labels[number]).point(lambda v: 255 if v == 11 else v)
"""


def msanet(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "msanet", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def train(folder: Path, name: str, *words: str, steps: int) -> bytes:
    """The weights after these steps."""
    same = ["data.shuffle_block_bytes=1", "data.random_scale=[0.6,1.5]", "loss.class_weights=median_frequency"]
    done = msanet(folder, "train", *SMALL, *same, f"run.dir={name}", f"trainer.steps={steps}", *words)
    assert done.returncode == 0, done.stderr
    assert ("is not packed" in done.stderr) == (name != "packed")
    return (folder / name / f"checkpoints/step-{steps:08d}/model.safetensors").read_bytes()


def test_a_run_does_not_depend_on_packing(tmp_path: Path) -> None:
    source = write_camvid(tmp_path / "source", train=6, val=2)
    main(["camvid", "--source", str(source), "--out", str(tmp_path / "shards"), "--workers", "1"])
    (tmp_path / "own.py").write_text(f"ROOT = {str(source)!r}\n{OWN}")
    wanted = weights(train(tmp_path, "packed", "data.path=shards", steps=2))
    train(tmp_path, "folder", "data.path=folder:source", steps=1)
    assert weights(train(tmp_path, "folder", "data.path=folder:source", steps=2)) == wanted, "resumed after a step"
    assert weights(train(tmp_path, "own", "data.dataset=own.py:Own", steps=2)) == wanted

    refused = msanet(tmp_path, "evaluate", "--run", "own")
    assert refused.returncode == 2 and "MSA-DATA-739" in refused.stderr
    evaluated = msanet(
        tmp_path, "evaluate", "--run", "own", "--plugin", tmp_path / "own.py:Own", "evaluation.num_workers=0"
    )
    assert evaluated.returncode == 0, evaluated.stderr


def weights(data: bytes) -> dict[str, list[float]]:
    """By name; the metadata names the data."""
    from safetensors.torch import load

    return {name: tensor.flatten().tolist() for name, tensor in load(data).items()}
