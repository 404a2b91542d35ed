"""The run folder: what is not ours stays, what is written can be read in any locale, and a bug of a save is not silent."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from msanet.data.manifest import load_manifest
from msanet.distributed import Preempted
from msanet.errors import UserError
from msanet.training import run_folder as run_module
from msanet.training.run_folder import RunFolder
from support.small_runs import small_config, toy_checkpoint


def folder(shards: Path, path: Path) -> RunFolder:
    config = small_config(str(shards), stage=0)
    return RunFolder(
        config.model_copy(update={"run": config.run.model_copy(update={"dir": path})}), load_manifest(shards)
    )


def test_a_new_run_cuts_its_own_files_only(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations.jsonl").write_text('{"image": 1}\n' * 9)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n')
    folder(shards, tmp_path).begin(0)
    assert (tmp_path / "annotations.jsonl").read_text().count("\n") == 9
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_bug_in_a_save_ends_the_run(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("seven is no even number")

    monkeypatch.setattr(run_module, "write_checkpoint", fail)
    run = folder(shards, tmp_path)
    run.save(toy_checkpoint())
    with pytest.raises(RuntimeError, match="seven"):
        run.save(toy_checkpoint())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("MSA-TRAIN-601", "out of memory"), "ERROR msanet: out of memory [MSA-TRAIN-601]"),
        (RuntimeError("seven"), "RuntimeError: seven"),
        (Preempted(), None),
    ],
)
def test_what_ends_a_run_is_in_its_log(error: Exception, line: str | None, shards: Path, tmp_path: Path) -> None:
    """Also where there is no console to show it."""
    with pytest.raises(type(error)), folder(shards, tmp_path) as run:
        run.begin(0)
        logging.getLogger("msanet").info("begun")
        raise error
    log = (tmp_path / "logs" / "rank-00000.log").read_text()
    assert (line in log) if line else ("ERROR" not in log), log


def test_a_checkpoint_is_read_in_every_locale(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests'); from dataclasses import replace; from pathlib import Path\n"
        "from support.small_runs import newest, toy_checkpoint; from msanet.training.checkpoint.io import write_checkpoint\n"
        "one = toy_checkpoint(); state = one.state.model_copy(update={'dataset': 'Stra\\u00dfe'})\n"
        "write_checkpoint(Path(sys.argv[1]), replace(one, state=state, config='\\u00df'), 1)\n"
        "assert newest(Path(sys.argv[1])).state.dataset == 'Stra\\u00dfe'\n"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **ascii_only}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
