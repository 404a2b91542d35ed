"""A run that is asked to stop during a validation interrupts it, saves, and does it first after a resume."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from msanet import distributed
from msanet.config import EvaluationConfig, parse_config
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.distributed.preemption import EXIT_PREEMPTED
from msanet.evaluation import evaluator
from msanet.models import build_model
from msanet.training.checkpoint.format import RunState
from msanet.training.train import train
from support import ranks
from support.ranks import run_ranks, start_ranks
from support.small_runs import newest


def _train(shards: str, folder: str, told_in: int) -> None:
    """A training in which rank 1 gets SIGTERM at the first image of its validation number `told_in`."""

    class EvaluationAccumulator(evaluator.EvaluationAccumulator):
        begun = 0

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            EvaluationAccumulator.begun += 1

        def add(self, *arguments: Any) -> None:
            super().add(*arguments)
            if distributed.rank() == 1 and EvaluationAccumulator.begun == told_in and len(self.images) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    evaluator.EvaluationAccumulator = EvaluationAccumulator  # type: ignore[assignment,misc]
    settings: dict[str, Any] = {
        "run": {"dir": folder},
        "data": {"path": shards, "crop": [32, 40], "num_workers": 0},
        "model": {"name": "unet", "width": 0.05},
        "optimizer": {"lr": 0.01},
        "trainer": {"steps": 4, "global_batch_size": 4, "zero_stage": 3, "log_every_steps": 2, "val_every_epochs": 0.3},
        "evaluation": {"num_workers": 0, "panels": 1},
    }
    train(parse_config(settings, "test"))


def start(shards: Path, folder: Path, told_in: int = 0) -> tuple[list[int], str, RunState]:
    """Exit codes, what was said, and where the run stands."""
    arguments = json.dumps({"shards": str(shards), "folder": str(folder), "told_in": told_in})
    processes = start_ranks(2, [ranks.__file__, __file__, "_train", arguments])
    said = "\n".join(process.communicate(timeout=300)[0] for process in processes)
    return [process.returncode for process in processes], said, newest(folder / "checkpoints").state


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "peak_memory_gb", "data_wait", "slowest_rank")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def test_the_validation_is_owed_until_it_is_done(shards: Path, tmp_path: Path) -> None:
    """Stopped in the validation after step 2 and, once that is made up for, in the last one; ZeRO-3 in lockstep."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for told_in, step in ((1, 2), (2, 4)):
        codes, said, state = start(shards, stopped, told_in)
        assert codes == [EXIT_PREEMPTED] * 2 and "rank 1 got SIGTERM" in said and "Traceback" not in said, said
        assert state.step == step and state.validation_pending
        assert [line["step"] for line in metrics(stopped) if "val/mean_iou" in line] == ([] if step == 2 else [2])
    codes, said, state = start(shards, stopped)
    assert codes == [0, 0] and state.step == 4 and not state.validation_pending, said
    codes, said, unbroken = start(shards, whole)
    assert codes == [0, 0], said
    assert metrics(stopped) == metrics(whole) and len(metrics(whole)) == 4
    assert state == unbroken and state.best is not None
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir() if "step" in path.name) == sorted(
        path.name for path in (whole / "checkpoints").iterdir() if "step" in path.name
    )
    first, second = newest(stopped / "checkpoints").weights, newest(whole / "checkpoints").weights
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def _evaluate(shards: str) -> None:
    """Three ranks with 2, 2 and 3 images; each in turn asks, at its first or its second."""
    model = build_model("unet", 11, width=0.05)
    source = ShardSource(LocalStorage(Path(shards)), "val")
    settings = EvaluationConfig(num_workers=0, panels=0)
    for asking in range(distributed.world_size()):
        for after in (0, 1):
            asked: list[bool] = []

            def should_stop(asking: int = asking, after: int = after, asked: list[bool] = asked) -> bool:
                asked.append(distributed.rank() == asking and len(asked) >= after)
                return asked[-1]

            try:
                evaluator.evaluate(model.train(), source, settings, (0, 0, 0), (1, 1, 1), should_stop=should_stop)
            except evaluator.EvaluationInterrupted:
                assert len(asked) == after + 1 and model.training
                continue
            raise AssertionError("it went on")
    done = evaluator.evaluate(model, source, settings, (0, 0, 0), (1, 1, 1), should_stop=lambda: False)
    print(f"{int(done.times_seen.sum())} images")


def test_all_ranks_leave_an_evaluation_together(shards: Path) -> None:
    outputs = run_ranks(3, __file__, "_evaluate", {"shards": str(shards)})
    assert all("7 images" in said for said in outputs)
