"""Training by the Python API, in real processes: Ctrl-C, resuming, several ranks, and errors that come back as exceptions."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from support.commands import wait_until
from support.small_runs import newest

# Without `if __name__ == "__main__"`, although loader processes are started.
SETTINGS = """
import os, signal, sys, threading
import msanet
settings = {
    "data": {"path": sys.argv[1], "crop": [32, 40], "num_workers": 1},
    "model": {"name": "unet", "width": 0.05},
    "trainer.global_batch_size": 4, "trainer.log_every_steps": 1, "trainer.steps": 12, "trainer.val_every_epochs": 0,
    "evaluation": {"num_workers": 1, "panels": 0},
}
"""
TWICE = """
def state():
    numbers = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}  # the last is torch's, of its loaders
    import logging, torch
    loggers = [logging.getLogger(name) for name in ("msanet", "sharding")]
    logs = [(logger.level, logger.propagate, logger.parent.name, list(logger.handlers)) for logger in loggers]
    numerics = torch.get_num_threads(), torch.initial_seed(), torch.get_rng_state().sum().item()
    handlers = [signal.getsignal(number) for number in numbers]
    return sorted(os.environ.items()), sys.excepthook, handlers, threading.enumerate(), logs, numerics

environment, handlers = dict(os.environ), [signal.getsignal(number) for number in (2, 15, 1, 10, 12)]
msanet.train  # imports it all
assert (dict(os.environ), [signal.getsignal(number) for number in (2, 15, 1, 10, 12)]) == (environment, handlers)
before, folder = state(), sys.argv[2]
def require_same(after):
    assert state() == before, (after, [set(x) ^ set(y) for x, y in zip(state()[:1], before)], state()[1:], before[1:])
short = {**settings, "trainer.steps": 2}
for name in ("first", "second"):
    run = msanet.train(**short, dir=f"{folder}/{name}")
    require_same(name)
    assert [line["step"] for line in run.metrics if "loss" in line] == [1, 2] and run.best["step"] == 2
evaluation = msanet.evaluate(run)
require_same("evaluate")
model = run.load()
require_same("load")
in_memory = model.evaluate(sys.argv[1])
assert 0 <= evaluation.mean_iou == in_memory.mean_iou == run.best["val/mean_iou"] and len(evaluation.counts) == 7
assert evaluation.compare(in_memory).metrics["mean_iou"].difference.value == 0
assert len(evaluation.worst(3)) == 3 and run.report.is_file() and len(model.classes) == len(model.palette) == 11
require_same("model.evaluate")
assert {found.level for found in msanet.doctor(**short, dir=run.dir)} & {"ok", "advice"}
try:
    msanet.train(**{**short, "data": {"path": f"{folder}/nothing"}}, dir=f"{folder}/third")
except msanet.UserError as error:
    print("caught", error.code)
require_same("error")
print("end of script")
"""
INTERRUPTED = """
run = sys.argv[2]
try:
    msanet.train(**settings, dir=run, ranks=int(sys.argv[3]))
except KeyboardInterrupt:
    print("caught the interrupt", flush=True)
    steps = [line["step"] for line in msanet.Run(run).metrics if "loss" in line]
    assert 0 < len(steps) < 12, steps
    print("done", len(msanet.train(**settings, dir=run, ranks=int(sys.argv[3])).metrics))
"""
SLOW = """
import time
from msanet.training.callbacks import Callback
class Slow(Callback):
    def on_step_end(self, step):
        time.sleep(0.3)
"""


def start(script: Path, text: str, *words: object) -> "subprocess.Popen[str]":
    script.write_text(SETTINGS + text)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, words)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, process_group=0, cwd=script.parent,
    )  # fmt: skip


@pytest.mark.full
def test_train_evaluate_and_load_leave_the_process_as_it_was(shards: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "script.py", TWICE, shards, tmp_path)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and output.endswith("end of script\n"), output
    assert "caught MSA-DATA-" in output


@pytest.mark.full
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_raises_after_the_save_and_the_same_call_resumes(ranks: int, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    settings = 'settings["run"] = {"callbacks": ["slow.py:Slow"]}\n'
    process = start(tmp_path / "script.py", settings + INTERRUPTED, shards, tmp_path / "run", ranks)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and metrics.read_text().count('"loss"') >= 2, [process])
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "caught the interrupt" in output and "done" in output, output
    reference = start(tmp_path / "other.py", INTERRUPTED, shards, tmp_path / "reference", ranks)
    assert reference.wait(300) == 0
    resumed, whole = newest(tmp_path / "run" / "checkpoints"), newest(tmp_path / "reference" / "checkpoints")
    assert resumed.state.step == whole.state.step == 12 and resumed.state.world_size == ranks
    assert all((resumed.weights[name] == whole.weights[name]).all() for name in whole.weights)
    moments = (
        (resumed.optimizer[name][key], value)
        for name in whole.optimizer
        for key, value in whole.optimizer[name].items()
    )
    assert all((mine == theirs).all() for mine, theirs in moments)


@pytest.mark.full
def test_errors_of_ranks_come_back_and_so_does_an_evaluation(shards: Path, tmp_path: Path) -> None:
    text = """
try:
    msanet.train(**{**settings, "trainer.global_batch_size": 3}, dir=sys.argv[2], ranks=2)
except msanet.UserError as error:
    print("caught", error.code, flush=True)
run = msanet.train(**{**settings, "trainer.steps": 1}, dir=sys.argv[2], ranks=2)
evaluation = msanet.evaluate(run, ranks=2)
print("ranks", evaluation.metrics["world_size"], evaluation.metrics["num_images"])
"""
    process = start(tmp_path / "script.py", text, shards, tmp_path / "run")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "ranks 2 7" in output, output
    assert re.findall(r"^caught (.*)", output, re.MULTILINE) == ["MSA-DATA-007"], output
