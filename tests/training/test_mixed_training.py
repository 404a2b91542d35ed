"""A run on two datasets: resumed on other ranks, validated by dataset, evaluated, examined by doctor."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import write_camvid
from msanet.cli.doctor import main as doctor
from msanet.config import load_run_config
from msanet.data.loader import shuffle_config, shuffle_order
from msanet.data.open_dataset import open_dataset
from sharding.__main__ import main as pack
from support.commands import SMALL
from support.errors import error_codes
from support.ranks import start_ranks

LAUNCHER = "launcher/train.py"


def run(ranks: int, *words: object) -> tuple[list[int], str]:
    """Exit codes, and what the ranks printed."""
    command = [LAUNCHER, *SMALL, "run.record_samples=true", *map(str, words)]
    started = start_ranks(ranks, command)
    outputs = [process.communicate(timeout=200)[0] for process in started]
    return [process.returncode for process in started], "\n".join(outputs)


def taken(folder: Path, ranks: int, steps: range) -> list[tuple[int, int]]:
    """(epoch, sample) of these steps in the order of the global batches."""
    lines = [
        {line["step"]: line for text in path.read_text().splitlines() for line in [json.loads(text)]}
        for path in (folder / f"samples-{rank:05d}.jsonl" for rank in range(ranks))
    ]
    shares = [rank[step] for step in steps for rank in lines]
    return [pair for share in shares for pair in zip(share["epochs"], share["samples"], strict=True)]


@pytest.mark.full
def test_a_run_on_two_datasets(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, train, seed in (("first", 9, 0), ("second", 3, 1)):
        source = write_camvid(tmp_path / name / "source", train=train, val=2, seed=seed)
        pack(["camvid", "--source", str(source), "--out", str(tmp_path / name / "shards"), "--workers", "1"])
    paths = f"data.path=[{tmp_path / 'first/shards'},folder:{tmp_path / 'second/source'}]"
    words = [paths, "data.sampling_weights=[1,1]", "trainer.val_every_epochs=1", f"run.dir={tmp_path / 'run'}"]
    words += ["loss.class_weights=median_frequency"]

    codes, output = run(2, *words, "trainer.steps=2")
    assert codes == [0, 0], output
    assert "'camvid' gives 6 of the 12 samples of an epoch (50.0%" in output
    pairs = taken(tmp_path / "run", 2, range(1, 3))
    codes, output = run(1, *words, "trainer.steps=6")
    assert codes == [0], output
    pairs += taken(tmp_path / "run", 1, range(3, 7))
    config = load_run_config(tmp_path / "run/config.yaml")
    manifest = open_dataset(config.data, config.storage).read_manifest()
    order = shuffle_order(manifest, "train", shuffle_config(config))
    assert pairs == list(zip(*(part.tolist() for part in order.samples(np.arange(24))), strict=True))
    assert max(Counter(pairs).values()) == 1, "an epoch of the second is two of the first's"

    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = [line for line in metrics if "val/mean_iou" in line][-1]
    assert {"val/camvid/mean_iou", "val/camvid-2/mean_iou"} <= last.keys()
    written = json.loads((tmp_path / "run/evaluation-val.json").read_text())
    assert written["datasets"]["camvid-2"] == {
        "mean_iou": pytest.approx(last["val/camvid-2/mean_iou"]),
        "num_images": 2,
    }

    codes, output = run(1, *words, "trainer.steps=7", "data.sampling_weights=[2,1]")
    assert codes == [2] and error_codes(output) == ["MSA-CKPT-005"], output

    evaluate = ["launcher/evaluate.py", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    for more, datasets in (([], written["datasets"]), (["--data", str(tmp_path / "first/shards")], None)):
        (process,) = start_ranks(1, [*evaluate, *more, "evaluation.num_workers=0"])
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
        assert json.loads((tmp_path / "out/evaluation-val.json").read_text()).get("datasets") == datasets

    assert doctor([*SMALL, *words, "--ranks", "2"]) in (0, 1)
    assert "MSA-" not in capfd.readouterr().err
