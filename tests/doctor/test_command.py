"""`msanet doctor` as users run it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import REPOSITORY
from msanet.cli.doctor import main
from msanet.cli.main import main as msanet
from msanet.data import shared_memory
from sharding.__main__ import main as shard
from support.errors import error_codes
from support.servers import nginx

SMALL = ["data.crop=[32,40]", "data.num_workers=0", "model.width=0.05", "trainer.steps=600"]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[tuple[str, str], str]]:
    """Exit code, and the findings as {(level, check): their texts, one a line}."""
    code = main([*map(str, words), "--ranks", "1", "--samples", "5", "--json"])
    found: dict[tuple[str, str], str] = {}
    for each in json.loads(capsys.readouterr().out)["diagnostics"]:
        found[each["level"], each["check"]] = found.get((each["level"], each["check"]), "") + each["text"] + "\n"
    return code, found


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of masks that were saved as 0 and 255, of which 255 was ignored."""
    root = tmp_path_factory.mktemp("binary")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(5):
            image, mask = rng.integers(0, 256, (24, 32, 3), np.uint8), np.zeros((24, 32), np.uint8)
            mask[8:16, 8:20] = 255
            for kind, pixels in (("images", image), ("labels", mask)):
                folder = root / "source" / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{number}.png"), pixels)
    (root / "classes.yaml").write_text("classes: [{id: 0, name: background}, {id: 1, name: thing}]\nignore: [255]")
    words = ["folder", "--source", root / "source", "--classes", root / "classes.yaml", "--out", root / "shards"]
    assert shard([*map(str, words), "--workers", "1"]) == 0
    return root / "shards"


def test_a_sound_run(shards: Path, tmp_path: Path) -> None:
    words = [f"data.path={shards}", f"run.dir={tmp_path / 'run'}", *SMALL, "--ranks", "1", "--samples", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "msanet", "doctor", *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 26 samples of train read and decoded" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 fault")
    assert not (tmp_path / "run").exists()


def test_binary_masks_are_a_fault(binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, f"data.path={binary}", f"run.dir={tmp_path}", *SMALL, "data.crop=[24,32]")
    assert code == 1 and "masks of 0 and 255" in found["fault", "labels"]
    assert ("fault", "shards") not in found and ("ok", "memory") in found


def test_a_transform_that_is_not_there_is_a_fault(
    binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"data.path={binary}",
        f"run.dir={tmp_path}",
        *SMALL,
        "data.crop=[24,32]",
        f"data.transforms=[{__file__}:nil]",
    ]
    code, found = run(capsys, *words)
    assert code == 1 and "data.transforms" in found["fault", "images"]


def test_shared_memory_is_computed_with_validation_images(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data.path={shards}", f"run.dir={tmp_path}", *SMALL, "data.num_workers=2", "evaluation.num_workers=3"]
    training = shared_memory.training_bytes((32, 40), 8, 1, 2, 2)
    validation = shared_memory.evaluation_bytes((36, 44), 3)
    for free, level in ((training + validation, "ok"), (training + validation - 1, "fault")):
        monkeypatch.setattr(shared_memory, "free_bytes", lambda free=free: free)
        text = run(capsys, *words, "trainer.global_batch_size=8")[1][level, "shared memory"]
        assert f"need {(training + validation) / 1e6:.1f} MB" in text, text


@pytest.mark.parametrize(
    ("words", "check", "says"),
    [
        (["data.val_split=test"], "shards", "which has: train, val"),
        (["data.val_split=train"], "overlap", "26 images"),
        (["trainer.global_batch_size=5", "trainer.micro_batch_size=2"], "steps", "does not divide"),
        (["trainer.global_batch_size=27"], "steps", "fewer than one global batch"),
        (["loss.class_weights=[1,2]"], "loss", "expected one for each of the 11 classes"),
        (["deepspeed.zero_optimization.stage=2"], "deepspeed", "trainer.zero_stage"),
        (["model.pretrained=/nowhere.pth"], "network", "nowhere.pth"),
        (["--device-memory", "0.001"], "memory", "expected at most 85%"),
        (["trainer.micro_batch_size=auto", "--device-memory", "0.001"], "steps", "one image takes about 1.0"),
        (
            ["trainer.global_batch_size=1", "model.name=unet", "data.crop=[16,16]"],
            "network",
            "single value per channel",
        ),
        (["run.resume=must"], "run folder", "run.resume=auto"),
    ],
)
def test_what_training_would_refuse_is_a_fault(
    words: list[str], check: str, says: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(capsys, f"data.path={shards}", f"run.dir={tmp_path}", *SMALL, *words)
    assert code == 1 and says in found["fault", check]


def test_a_run_without_a_validation_split(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(capsys, f"data.path={shards}", f"run.dir={tmp_path}", *SMALL, "data.val_split=null")
    assert code == 0 and "data.val_split is null" in found["advice", "intervals"]


def test_damage_is_found(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    for path in copy.glob("val-*.tar"):
        path.write_bytes(path.read_bytes()[:1500])
    next(copy.glob("train-*.idx.json")).unlink()
    code, found = run(capsys, f"data.path={copy}", f"run.dir={tmp_path / 'run'}", *SMALL)
    assert code == 1
    for says in (
        "of 5 samples of train cannot be read",
        "5 of 5 samples of val cannot be read",
        "idx.json' cannot be opened",
    ):
        assert says in found["fault", "shards"]


def test_shards_behind_an_address(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nginx(shards, tmp_path / "nginx") as (address, _):
        words = [f"data.path={address}", f"run.dir={tmp_path / 'run'}", f"storage.cache_dir={tmp_path / 'cache'}"]
        code, found = run(capsys, *words, *SMALL)
    assert code == 0 and "5 of 7 samples of val read and decoded" in found["ok", "shards"]
    assert "the cache of remote shards" in found["ok", "disk"]


@pytest.mark.parametrize(
    "words",
    [
        ["data.path=/nowhere"],
        ["--ranks", "0"],
        ["--device-memory", "nan"],
        ["--device-memory", "inf"],
        ["trainer.epoch=3"],
        ["--config", "/nowhere.yaml"],
    ],
)
def test_bad_input_ends_with_one_sentence(
    words: list[str], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        msanet(["doctor", f"data.path={shards}", f"run.dir={tmp_path}", *words])
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and len(error_codes(stderr)) == 1 and stderr.count("\n") == 1
