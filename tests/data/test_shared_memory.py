"""A /dev/shm that is too small for what loader processes put there: how much they need, and how a run with too little ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import REPOSITORY
from msanet.config import parse_config
from msanet.data import shared_memory
from support.commands import words
from support.errors import error_codes, raises_user_error

PAGES = 5 * 4096


@pytest.mark.parametrize(
    ("size", "micro", "accumulation", "workers", "prefetch", "expected"),
    [
        ((512, 512), 8, 1, 4, 2, (8 + 1) * (8 * 512 * 512 * 4 + PAGES)),
        ((512, 512), 2, 4, 4, 2, (8 + 4) * (2 * 512 * 512 * 4 + PAGES)),
        ((100, 200), 1, 1, 1, 1, 2 * (100 * 200 * 4 + PAGES)),
        ((512, 512), 8, 1, 0, 2, 0),
    ],
)
def test_micro_batches_that_lie_there(
    size: tuple[int, int], micro: int, accumulation: int, workers: int, prefetch: int, expected: int
) -> None:
    assert shared_memory.training_bytes(size, micro, accumulation, workers, prefetch) == expected


def test_validation_images_that_lie_there() -> None:
    assert shared_memory.evaluation_bytes((1024, 2048), 2) == 5 * (1024 * 2048 * 4 + PAGES)
    assert shared_memory.evaluation_bytes((1024, 2048), 2, instances=True) == 5 * (1024 * 2048 * 8 + PAGES)
    assert shared_memory.evaluation_bytes((1024, 2048), 0) == 0


@pytest.mark.parametrize(("ranks", "fits"), [(1, True), (2, False)])
def test_a_run_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, ranks: int, fits: bool) -> None:
    """64 MB, as in a container; a rank needs 37.9 MB."""
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 64 << 20)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    config = parse_config({"data": {"crop": [512, 512], "num_workers": 4, "prefetch_factor": 2}}, "test")
    if fits:
        shared_memory.require_shared_memory(config.data, 4, 1)
    else:
        with raises_user_error("MSA-DATA-551", setting="data.num_workers", mentions="75.9 MB"):
            shared_memory.require_shared_memory(config.data, 4, 1)


LARGE_IMAGES = """
import torch
from torch.utils.data import IterableDataset
from msanet.data.loader_processes import iterate
from msanet.data.pipeline import EvaluationSample
from msanet.errors import user_errors

class Images(IterableDataset):
    def __iter__(self):
        for number in range(100):
            yield EvaluationSample(number, "image", torch.zeros(500, 400, 3, dtype=torch.uint8), torch.zeros(500, 400))

if __name__ == "__main__":
    with user_errors():
        print(len([sample for sample in iterate(Images(), workers=1, prefetch=2)]))
"""


@pytest.mark.parametrize("kilobytes", [1000, 4000])
def test_an_image_that_does_not_fit_is_an_error_and_no_silence(tmp_path: Path, kilobytes: int) -> None:
    """None fits, or some do, and the consumer keeps them. DataLoader would print a traceback, and its consumer wait."""
    (tmp_path / "script.py").write_text(LARGE_IMAGES)
    done = on_small_shm(kilobytes, str(tmp_path / "script.py"))
    assert done.returncode == 2 and error_codes(done.stderr) == ["MSA-DATA-551"], done.stderr
    assert "1.4 MB more did not fit" in done.stderr and "Traceback" not in done.stderr


def on_small_shm(kilobytes: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `python *command` where /dev/shm has so much."""
    new = ["unshare", "--mount", "--propagation", "private"]
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs /dev/shm"
    if subprocess.run([*new, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a mount namespace with a tmpfs of its own is not allowed here")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}
    arguments = [*new, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, *command]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=120)


@pytest.mark.parametrize(
    ("kilobytes", "settings", "found"),
    [
        (100, ["data.num_workers=2"], "need"),
        (100, ["data.num_workers=2", "data.crop=null", "data.random_scale=[1,1]"], "did not fit"),
        (100, ["data.num_workers=0", "evaluation.num_workers=40", "trainer.val_every_epochs=0.1"], "did not fit"),
        (4, ["data.num_workers=2", "data.crop=null", "data.random_scale=[1,1]"], "did not fit"),
    ],
    ids=["before the start", "images of unknown sizes", "validation images", "not even a semaphore"],
)
def test_a_run_that_finds_too_little_ends_in_seconds(
    shards: Path, tmp_path: Path, kilobytes: int, settings: list[str], found: str
) -> None:
    began = time.monotonic()
    done = on_small_shm(kilobytes, *words(shards, tmp_path / "run", 4, *settings))
    assert done.returncode == 2 and error_codes(done.stderr) == ["MSA-DATA-551"], done.stderr
    assert found in done.stderr and "--shm-size" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - began < 60
