"""What a training says: on its console, in its log where the console is closed, and without a validation split."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY
from msanet.cli.evaluate import evaluation_job
from support.commands import words
from support.errors import error_codes, raises_user_error
from support.ranks import start_ranks
from support.small_runs import newest

STEP = r"train: 2 of 2 steps, loss \d\.\d+, lr 0\.\d+, [\d.e+]+ images/s"


def test_a_run_without_console_and_with_a_long_temporary_folder_logs_as_usual(shards: Path, tmp_path: Path) -> None:
    """stdin, stdout and stderr are closed (`>&-`), and sockets would not fit into TMPDIR."""
    folder = tmp_path / ("x" * max(1, 77 - len(str(tmp_path))))
    folder.mkdir()
    command = [sys.executable, *words(shards, tmp_path / "run", 2)]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
    shell = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command]
    assert subprocess.run(shell, cwd=REPOSITORY, env=environment, check=False).returncode == 0
    log = (tmp_path / "run" / "logs" / "rank-00000.log").read_text()
    assert re.search(STEP, log), log
    assert re.search(r"validation on 'val' after step 2: mean IoU 0\.\d{4} \(the best so far\)", log), log


def test_a_run_without_a_validation_split_says_so(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (rank,) = start_ranks(1, words(shards, run, 2, "data.val_split=null", "data.num_workers=0"))
    output = rank.communicate(timeout=200)[0]
    assert rank.returncode == 0, output
    assert "data.val_split is null: nothing is validated" in output and re.search(STEP, output)
    assert not [*run.glob("evaluation*")] and not (run / "checkpoints" / "best").exists()
    state = newest(run / "checkpoints").state
    assert state.best is None and not state.validation_pending
    with raises_user_error("MSA-CLI-601", setting="--split"):
        evaluation_job(["--run", str(run)])
    assert evaluation_job(["--run", str(run), "--split", "val"]).split == "val"


def test_a_split_that_is_not_there_is_refused_with_the_way_out(shards: Path, tmp_path: Path) -> None:
    (rank,) = start_ranks(1, words(shards, tmp_path / "run", 2, "data.val_split=holdout"))
    output = rank.communicate(timeout=200)[0]
    assert rank.returncode == 2 and error_codes(output) == ["MSA-DATA-001"]
    assert "null to train without validation" in output
