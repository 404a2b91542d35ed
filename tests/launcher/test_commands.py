"""The command lines and files that others script against, run as users run them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import msanet
from conftest import REPOSITORY, write_camvid
from msanet.data.manifest import load_manifest
from msanet.data.shuffle_order import ShuffleOrder
from msanet.training.checkpoint.io import latest_valid, read_checkpoint
from sharding.__main__ import main as shard
from support.errors import error_codes
from support.ranks import free_port, start_ranks

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
SMALL = [
    "data.crop=[32,40]",
    "data.num_workers=0",
    "model.width=0.125",
    "evaluation.num_workers=0",
    "evaluation.panels=2",
]

ELSEWHERE = """
import importlib.metadata, os, runpy, sys, torch
asked, version = [], importlib.metadata.version
def is_available():  # CUDA reads the environment when it is asked for the first time
    asked.append(os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    return asked[0]
def number(name):
    if name == "msanet":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
torch.cuda.is_available, torch.cuda.device_count, importlib.metadata.version = is_available, is_available, number
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A machine with a GPU, and msanet on PYTHONPATH alone."""


def command(*words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout, cwd=REPOSITORY
    )


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training of two ranks under the real `deepspeed` launcher: loader processes, ZeRO-2, bf16, accumulation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", free_port()]
    settings = "trainer.steps=6 trainer.global_batch_size=4 trainer.micro_batch_size=1 trainer.log_every_steps=2"
    settings += (
        " trainer.zero_stage=2 trainer.precision=bf16 data.num_workers=1 deepspeed.zero_optimization.overlap_comm=false"
    )
    words = [*SMALL, f"data.path={shards}", f"run.dir={folder}", *settings.split()]
    done = command(sys.executable, *launcher, "--module", "msanet", "train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_leaves_the_files_of_the_contract(run: Path, shards: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["steps"] == 6 and config["data"]["path"] == str(shards)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6]
    assert all(
        {"step", "epoch", "samples", "loss", "lr", "peak_memory_gb", "images_per_second", "data_wait", "slowest_rank"}
        == line.keys()
        for line in training
    )
    assert [line["samples"] for line in training] == [8, 16, 24]
    assert "msanet/__main__.py train" in (run / "command.txt").read_text()
    assert training[-1]["loss"] < training[0]["loss"]
    assert [line["step"] for line in lines if "val/mean_iou" in line] == [6]
    assert list((run / "tensorboard").glob("events.*"))
    assert "val" in (run / "report.html").read_text()
    newest = latest_valid(run / "checkpoints")
    assert newest and (run / "checkpoints" / "latest").read_text().strip() == newest.name == "step-00000006"
    assert (newest / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    weights = read_checkpoint(newest).weights
    assert {tensor.dtype for name, tensor in weights.items() if "num_batches" not in name} == {torch.float32}  # masters


def test_evaluate_on_one_rank_repeats_the_figures_of_two(run: Path) -> None:
    trained = json.loads((run / "evaluation-val.json").read_text())
    done = command(sys.executable, "launcher/evaluate.py", "--run", run, "--split", "val", "evaluation.num_workers=1")
    assert done.returncode == 0, done.stderr
    again = json.loads((run / "evaluation-val.json").read_text())
    assert (trained["world_size"], again["world_size"]) == (2, 1)
    assert again["confusion_matrix"] == trained["confusion_matrix"] and np.sum(again["confusion_matrix"]) == 7 * 34 * 44
    keys = [
        "mean_iou",
        "mean_accuracy",
        "pixel_accuracy",
        "frequency_weighted_iou",
        "classes",
        "num_images",
        "num_missing",
        "num_duplicate",
    ]
    assert all(again[key] == trained[key] for key in keys)
    assert {"iou", "iou_interval", "accuracy", "precision", "dice", "support"} == set(again["classes"]["sky"])
    assert (run / "evaluation-val.npz").is_file()
    assert f"mIoU {again['mean_iou']:.2%}" in done.stdout and "7 of 7 images of 'val'" in done.stdout


def test_evaluate_takes_a_checkpoint_and_shards(run: Path, shards: Path, tmp_path: Path) -> None:
    file = latest_valid(run / "checkpoints") / "model.safetensors"  # type: ignore[operator]
    words = ("--checkpoint", file, "--data", shards, "--split", "train", "--out", tmp_path / "out")
    done = command(sys.executable, "launcher/evaluate.py", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "evaluation-train.json").read_text())["num_images"] == 26


def test_predict_keeps_names_and_folders_and_continues_after_a_broken_file(run: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (37, 50)), ("deep/b.jpg", (20, 64))):
        cv2.imwrite(str(images / name), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("left alone")
    done = command(sys.executable, "launcher/predict.py", "--run", run, "--images", images, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert len(error_codes(done.stderr)) == 1 and "broken.png" in done.stderr and "Traceback" not in done.stderr
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert written == ["a.overlay.jpg", "a.png", "deep/b.overlay.jpg", "deep/b.png"]
    mask = Image.open(tmp_path / "out" / "a.png")
    assert mask.mode == "P" and mask.size == (50, 37) and np.asarray(mask).max() < 11
    assert (
        command(
            sys.executable, "launcher/predict.py", "--run", run, "--images", tmp_path / "x", "--out", "y"
        ).returncode
        == 2
    )


@pytest.mark.slow
def test_a_kill_and_a_third_number_of_ranks_do_not_change_which_samples_are_seen(shards: Path, tmp_path: Path) -> None:
    """2 ranks killed with SIGKILL in the middle, 3 ranks go on: each step still takes its samples of the one order."""
    folder = tmp_path / "run"
    settings = [
        f"data.path={shards}",
        f"run.dir={folder}",
        "trainer.steps=12",
        "trainer.global_batch_size=6",
        "trainer.log_every_steps=1",
    ]
    settings += ["trainer.checkpoint_every_steps=2", "run.record_samples=true", "data.num_workers=1"]
    ranks = start_ranks(2, ["launcher/train.py", *SMALL, *settings])
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints" / "step-00000004").exists():
        assert time.monotonic() < deadline and all(rank.poll() is None for rank in ranks), ranks[0].communicate()[0]
        time.sleep(0.05)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
    for rank in ranks:
        rank.communicate(timeout=30)  # their output ends when their loader processes have ended too: no orphans
    resumed = start_ranks(3, ["launcher/train.py", *SMALL, *settings])
    outputs = [rank.communicate(timeout=240)[0] for rank in resumed]
    assert [rank.returncode for rank in resumed] == [0, 0, 0], outputs

    checkpoint = latest_valid(folder / "checkpoints")
    assert checkpoint is not None
    state = read_checkpoint(checkpoint).state
    assert (state.step, state.consumed_samples, state.world_size) == (12, 72, 3)
    split = load_manifest(shards).split("train")
    order = ShuffleOrder(state.shuffle, (s.samples for s in split.shards), (s.bytes for s in split.shards))
    lines = [
        json.loads(line) for file in sorted(folder.glob("samples-*.jsonl")) for line in file.read_text().splitlines()
    ]
    for step in range(1, 13):
        seen = [
            pair for line in lines if line["step"] == step for pair in zip(line["epochs"], line["samples"], strict=True)
        ]
        expected = order.samples(np.arange((step - 1) * 6, step * 6))
        assert seen == list(zip(expected[0].tolist(), expected[1].tolist(), strict=True)), step
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == list(range(1, 13))


def refusal(*words: object) -> str:
    """The one sentence of a command that must end with exit code 2."""
    done = command(sys.executable, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(errors) == len(error_codes(done.stderr)) == 1, done.stderr
    return errors[0]


def test_bad_input_ends_with_one_sentence_and_leaves_nothing(shards: Path, run: Path, tmp_path: Path) -> None:
    train = ("launcher/train.py", *SMALL, "trainer.steps=2", "trainer.global_batch_size=4")
    assert "did you mean 'trainer.epochs'" in refusal(*train, "trainer.epoch=1")
    assert "dataset.json" in refusal(*train, f"data.path={tmp_path}", f"run.dir={tmp_path / 'a'}")
    few = refusal(*train, f"data.path={shards}", f"run.dir={tmp_path / 'a'}", "trainer.global_batch_size=99")
    assert "26" in few and "99" in few
    (tmp_path / "file").write_text("in the way")
    blocked = refusal(*train, f"data.path={shards}", f"run.dir={tmp_path / 'file' / 'run'}")
    assert error_codes(blocked) == ["MSA-FILE-004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert error_codes(refusal("launcher/evaluate.py", "--run", tmp_path)) == ["MSA-CLI-004"]


def test_a_run_for_the_cpu_beside_a_gpu_by_a_python_without_msanet(shards: Path, tmp_path: Path) -> None:
    words = ["launcher/train.py", *SMALL, f"data.path={shards}", f"run.dir={tmp_path}", "trainer.steps=1"]
    done = command(sys.executable, "-c", ELSEWHERE, *words)
    assert done.returncode == 0 and (tmp_path / "report.html").is_file(), done.stderr
    newest = latest_valid(tmp_path / "checkpoints")
    assert newest and read_checkpoint(newest).state.versions["msanet"] == msanet.__version__


def test_a_checkpoint_of_another_model_or_dataset_is_refused(shards: Path, run: Path, tmp_path: Path) -> None:
    before = (run / "config.yaml").read_bytes(), (run / "metrics.jsonl").read_bytes()
    train = ("launcher/train.py", *SMALL, "trainer.steps=8", "trainer.global_batch_size=4", f"run.dir={run}")
    assert "model" in refusal(*train, f"data.path={shards}", "model.width=0.25")
    source = write_camvid(tmp_path / "other", 9, 2, seed=5)
    assert shard(["camvid", "--source", str(source), "--out", str(tmp_path / "shards")]) == 0
    assert "dataset" in refusal(*train, f"data.path={tmp_path / 'shards'}")
    assert before == ((run / "config.yaml").read_bytes(), (run / "metrics.jsonl").read_bytes())


def test_an_error_that_all_ranks_find_is_logged_once(shards: Path, tmp_path: Path) -> None:
    words = [
        "launcher/train.py",
        *SMALL,
        f"data.path={shards}",
        f"run.dir={tmp_path / 'a'}",
        "trainer.global_batch_size=5",
    ]
    ranks = start_ranks(2, words)
    outputs = "".join(rank.communicate(timeout=120)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2], outputs
    assert len(error_codes(outputs)) == 1 and "trainer.global_batch_size" in outputs
    assert "Traceback" not in outputs


def test_a_port_in_use_is_named(shards: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        words = ["launcher/train.py", *SMALL, f"data.path={shards}", f"run.dir={tmp_path / 'a'}"]
        rank, follower = start_ranks(2, words, MASTER_PORT=str(other.getsockname()[1]))
        output = rank.communicate(timeout=120)[0]
        follower.kill()  # as launchers do
        follower.communicate()
    assert rank.returncode == 1 and "--master_port" in output and "[MSA-DIST-002]" in output, output
    assert "Traceback" not in output


def test_damaged_bytes_in_a_shard_end_the_run_with_shard_and_key(shards: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    for tar in copy.glob("train-*.tar"):
        data = bytearray(tar.read_bytes())
        data[700] ^= 1  # inside the first member: the header of 512 bytes is past
        tar.write_bytes(data)
    words = ("launcher/train.py", *SMALL, f"data.path={copy}", f"run.dir={tmp_path / 'run'}", "data.num_workers=1")
    sentence = refusal(*words, "trainer.steps=9", "trainer.global_batch_size=4")
    assert "train_" in sentence and ".tar'" in sentence


def test_evaluate_verifies_a_checkpoint_on_one_rank(run: Path, tmp_path: Path) -> None:
    """A damaged one that is newer is found, and named, by rank 0 alone; all ranks use the one before."""
    damaged = shutil.copytree(run, tmp_path / "run") / "checkpoints" / "step-00000009"
    shutil.copytree(damaged.parent / "step-00000006", damaged)
    (damaged / "rng.safetensors").unlink()
    ranks = start_ranks(2, ["launcher/evaluate.py", "--run", str(tmp_path / "run"), "evaluation.num_workers=0"])
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[0].count("step-00000009/rng.safetensors") == 1
    assert "rng.safetensors" not in outputs[1] and "7 of 7 images" in outputs[0]
