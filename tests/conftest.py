"""Shared fixtures: small real datasets in shards, and runs of real processes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import support.torchvision_shim.sitecustomize  # noqa: F401  # before anything imports torchvision
from msanet import logs
from sharding.__main__ import main as shard

# A shell that starts tests in the background has interrupts ignored, and the processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
PROCESSES = (
    "launcher/",
    "sweep/test_ray.py",
    "training/",
    "evaluation/test_evaluator.py",
    "distributed/",
    "test_jobs.py",
    "test_no_telemetry.py",
)
"""Tests that start processes, and wait for them half of the time: run first, lest few and long ones are left for the end."""
FULL = (
    *PROCESSES,
    "cli/test_recipes.py",
    "data/test_faults.py",
    "data/test_frameworks.py",
    "data/test_loader_docs.py",
    "demo/test_server.py",
    "fuzz/test_secrets.py",
    "inference/test_backends.py",
    "inference/test_export.py",
    "sharding/test_writer.py",
)
"""Tests of `make test-full`, unless they are in `SMOKE` or in `QUICK`."""
QUICK = (
    "distributed/test_cores.py",
    "distributed/test_failure_detector.py",
    "distributed/test_launcher_environment.py",
    "launcher/test_evaluate.py",
    "launcher/test_predict.py",
    "training/test_checkpoint.py",
    "training/test_checkpoint_folder.py",
    "training/test_deepspeed_keys.py",
    "training/test_optim.py",
    "training/test_run_folder.py",
    "training/test_schedule.py",
    "training/test_unlabeled.py",
)
"""Tests in these folders that run in this process."""
SMOKE = (
    "test_saves_validations_and_resumes_are_bit_exact_on_the_same_ranks[2-0-msanet]",
    "test_any_number_of_ranks_gives_the_same_matrix",
    "test_a_run_leaves_the_files_of_the_contract",
    "test_predict_keeps_names_and_folders_and_continues_after_a_broken_file",
    "test_a_signal_to_one_rank_stops_all_after_the_same_step",
    "test_a_lost_rank_is_named_by_one_of_the_others[1-9-MSA-DIST-004]",
    "test_sessions_of_one_process_return_or_raise",
    "test_a_skipped_step_never_happened[1]",
    "test_gradients_with_accumulation",
    "test_every_network_has_the_same_labels_at_any_size[unet-torch]",
    "test_a_user_error_is_not_a_failure",
    "test_scripts_are_clean",
)
"""A dozen jobs of real processes that `make test` runs too."""


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are cores."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what failed at once: of a run that does not come to its end, there is no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        lines = report.longreprtext.splitlines()
        reason = [line for line in lines if line.startswith("E ")][:3] or lines[-3:]
        print(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s)", *reason, sep="\n", flush=True)


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the tier of each test, and run what starts processes first."""
    tests = REPOSITORY / "tests"
    for item in items:
        place = item.path.relative_to(tests).as_posix()
        if item.name in SMOKE:
            item.add_marker(pytest.mark.smoke)
        elif place.startswith(FULL) and not place.startswith(QUICK):
            item.add_marker(pytest.mark.full)
    items.sort(key=lambda item: not item.path.relative_to(tests).as_posix().startswith(PROCESSES))


@pytest.fixture
def survives_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os._exit` raises SystemExit; and what ends a process does not remove the folder in which this one's sockets are."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "tempdir", None)


def write_camvid(root: Path, train: int, val: int, size: tuple[int, int] = (36, 44), seed: int = 0) -> Path:
    """A dataset in CamVid's layout that a network can learn: bright blobs on noise, classes by place and shade."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for number in range(count):
            label = np.where(rows < height // 3, 0, 3).astype(np.uint8)
            centre, radius = rng.uniform(0.2, 0.8, 2) * (height, width), rng.uniform(4, 9)
            label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = 8
            label[:2] = 11  # void
            shade = np.choose(np.searchsorted([0, 3, 8, 11], label), [200, 90, 30, 0]).astype(float)
            image = (shade[..., None] + rng.normal(0, 25, (height, width, 3))).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / f"{split}_{number:03d}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{split}_{number:03d}.png"), label)
    return root


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """Tests that call functions see what a command would show."""
    logs.configure()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 training and 7 validation images of 36x44 in several shards; no usual world size divides these numbers."""
    root = tmp_path_factory.mktemp("camvid")
    source = write_camvid(root / "source", train=26, val=7)
    assert shard(["camvid", "--source", str(source), "--out", str(root / "shards"), "--shard-bytes", "30000"]) == 0
    return root / "shards"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real datasets, or a skip."""
    folder = os.environ.get("MSANET_TEST_DATA")
    if not folder:
        pytest.skip("MSANET_TEST_DATA is not set: no folder of real datasets (camvid, cityscapes, VOCdevkit)")
    return Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MB, or a skip."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not shutil.which("mount") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk: not root, or not allowed")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
