"""docs/models.md, "Your own network in five minutes": the file and the commands as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

SMALL = [
    "data.crop=[32,32]",
    "data.num_workers=0",
    "evaluation.num_workers=0",
    "evaluation.panels=0",
    "trainer.steps=2",
]
SMALL += ["trainer.global_batch_size=4"]


def _msanet(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "msanet", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_commands_train_and_evaluate_it(shards: Path, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/models.md").read_text()
    section = text[text.index("### Your own network in five minutes") :]
    code, commands = (block for _, block in re.findall(r"```(\w*)\n(.*?)```", section, re.S)[:2])
    (tmp_path / "my_network.py").write_text(code)
    train, evaluate = (shlex.split(line.replace("SHARDS", str(shards)))[1:] for line in commands.splitlines())
    for words in ([*train, *SMALL], evaluate):
        done = _msanet(words, tmp_path)
        assert done.returncode == 0, done.stderr
    assert "mIoU" in done.stdout or "mean IoU" in done.stdout
    refused = _msanet([word for word in evaluate if word not in ("--plugin", "my_network.py:tiny")], tmp_path)
    assert refused.returncode == 2 and "MSA-MODEL-501" in refused.stderr
