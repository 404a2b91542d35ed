"""docs/data.md, "In a training loop of your own": killed on two ranks, resumed on three."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY
from msanet.distributed import free_port

HEAD = """from pathlib import Path
import torch
from msanet.data import Loader, ShardDataset
from my_training import train_step
"""
TRAINING = '''
import time
from pathlib import Path
import torch

steps = 0

def train_step(batch):
    """The user's own; in the first run it is still at work in its third step when the job is killed."""
    global steps
    rank, steps = torch.distributed.get_rank(), steps + 1
    if torch.distributed.get_world_size() == 2 and steps == 3:
        Path(f"busy-{rank}").touch()
        time.sleep(600)
    shares = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, list(zip(batch["epochs"].tolist(), batch["samples"].tolist())))
    if rank == 0:
        with open("seen.txt", "a") as file:
            file.writelines(f"{epoch} {sample}\\n" for share in shares for epoch, sample in share)
'''


def start(folder: Path, world: int) -> list[subprocess.Popen[str]]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    environment = {**os.environ, **place, "PYTHONPATH": f"{REPOSITORY}:{folder}"}
    return [
        subprocess.Popen(
            [sys.executable, "loop.py"],
            cwd=folder,
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def test_the_lines_of_the_docs_resume_on_another_number_of_ranks(shards: Path, tmp_path: Path) -> None:
    section = (REPOSITORY / "docs/data.md").read_text().partition("## In a training loop of your own")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    assert len(code.splitlines()) == 10
    code = code.replace('"SHARDS"', repr(str(shards))).replace("(256, 256)", "(16, 16)")
    (tmp_path / "my_training.py").write_text(TRAINING)
    (tmp_path / "loop.py").write_text(HEAD + code.replace("batch_size=4", "batch_size=4, num_workers=1"))
    ranks = start(tmp_path, 2)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("busy-*"))) < 2 and time.monotonic() < deadline:
        assert all(rank.poll() is None for rank in ranks), [rank.communicate()[1] for rank in ranks]
        time.sleep(0.1)
    for rank in ranks:
        rank.kill()
        rank.communicate()
    assert len((tmp_path / "seen.txt").read_text().splitlines()) == 16

    (tmp_path / "loop.py").write_text(HEAD + code.replace("batch_size=4", "batch_size=4, num_workers=0"))
    for rank in start(tmp_path, 3):
        error = rank.communicate(timeout=240)[1]
        assert rank.returncode == 0, error
    seen = Counter((tmp_path / "seen.txt").read_text().splitlines())
    assert seen == Counter(f"{epoch} {sample}" for epoch in range(2) for sample in range(26))
