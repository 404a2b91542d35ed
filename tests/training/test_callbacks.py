"""Callbacks, loggers and early stopping in whole trainings on two ranks; each tracker's library is a fake one."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from conftest import REPOSITORY
from msanet import distributed
from msanet.config import Config, TrainerConfig, parse_config
from msanet.evaluation.statistics import METRICS
from msanet.training.callbacks import Callbacks
from msanet.training.train import train
from support.errors import raises_user_error
from support.ranks import run_ranks
from support.small_runs import newest, small_config

OWN = f"{REPOSITORY}/tests/training/own_callbacks.py"


def _config(shards: str, folder: str, trainer: dict[str, Any] | None = None, lr: float = 1e-3, **run: Any) -> Config:
    config = small_config(shards, 0, lr=lr)
    own = {"val_every_epochs": 0.5, "log_every_steps": 2, "checkpoint_every_steps": 3, **(trainer or {})}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": Path(folder), **run}),
            "trainer": config.trainer.model_copy(update=own),
        }
    )


class _Fakes:
    """Modules wandb, mlflow and comet_ml that write down their calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        wandb, mlflow, comet = (ModuleType(name) for name in ("wandb", "mlflow", "comet_ml"))
        wandb.init = self._wandb_init  # type: ignore[attr-defined]
        for name in ("set_tracking_uri", "set_experiment", "log_params", "log_metrics", "end_run"):
            setattr(mlflow, name, self._recorder(f"mlflow.{name}"))
        mlflow.start_run = self._mlflow_start  # type: ignore[attr-defined]
        for kind in ("OfflineExperiment", "ExistingOfflineExperiment"):
            setattr(comet, kind, self._comet(kind))
        sys.modules |= {"wandb": wandb, "mlflow": mlflow, "comet_ml": comet}

    def note(self, name: str, /, *arguments: Any, **keywords: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([name, *arguments, keywords], default=str) + "\n")

    def _recorder(self, name: str) -> Any:
        return lambda *arguments, **keywords: self.note(name, *arguments, **keywords)

    def _wandb_init(self, config: Any, **keywords: Any) -> Any:
        assert config["trainer"]["global_batch_size"] == 6
        self.note("wandb.init", **keywords)

        def fails_at_last(metrics: Any, step: int) -> None:
            if step >= 8:
                raise ConnectionError("no route")
            self.note("wandb.log", metrics, step=step)

        return SimpleNamespace(id="w1", log=fails_at_last, finish=self._recorder("wandb.finish"))

    def _mlflow_start(self, **keywords: Any) -> Any:
        self.note("mlflow.start_run", **keywords)
        return SimpleNamespace(info=SimpleNamespace(run_id="m1"))

    def _comet(self, kind: str) -> Any:
        def make(**keywords: Any) -> Any:
            self.note(f"comet.{kind}", **keywords)
            methods = {name: self._recorder(f"comet.{name}") for name in ("log_parameters", "log_metrics", "end")}
            return SimpleNamespace(get_key=lambda: "c1", **methods)

        return make


def _attached(shards: str, folder: str) -> None:
    """4 steps, and a resume to 8."""
    _Fakes(Path(folder) / f"trackers-{distributed.rank()}.jsonl")
    loggers = ("tensorboard", "wandb", "mlflow", "comet", f"{OWN}:Recorder")
    for steps in (4, 8):
        train(_config(shards, f"{folder}/run", {"steps": steps}, callbacks=(f"{OWN}:Recorder",), loggers=loggers))


def test_callbacks_and_loggers_hear_of_all(shards: Path, tmp_path: Path) -> None:
    (said, _) = run_ranks(2, __file__, "_attached", {"shards": str(shards), "folder": str(tmp_path)})
    run, scores = (
        tmp_path / "run",
        ["val/frequency_weighted_iou", "val/mean_accuracy", "val/mean_iou", "val/pixel_accuracy"],
    )
    first, second = ([json.loads(line) for line in (run / f"calls-{rank}.jsonl").open()] for rank in (0, 1))
    assert second[:2] == [["start", 0], ["step", 1]] and ["log", 2, ["data_wait", "images_per_second"]][:2] in [
        call[:2] for call in second
    ]
    assert [call for call in second if call[0] in ("start", "end")] == [
        ["start", 0],
        ["end", 4],
        ["start", 4],
        ["end", 8],
    ]
    assert [call[1] for call in second if call[0] == "step"] == list(range(1, 9))
    assert ["validation", 3, scores] in second and ["checkpoint", 3, "step-00000003"] in second
    assert sorted(map(str, first)) == sorted(map(str, second * 2)), "rank 0 has it as a logger too"
    assert not (tmp_path / "trackers-1.jsonl").exists(), "trackers hear rank 0 alone"
    calls = [json.loads(line) for line in (tmp_path / "trackers-0.jsonl").open()]
    begun = [
        (name, keywords) for name, *_, keywords in calls if "init" in name or "start" in name or "Experiment" in name
    ]
    (new_w, new_m, new_c), (again_w, again_m, again_c) = begun[:3], begun[3:]
    assert new_w[1]["id"] is None and (again_w[1]["id"], again_w[1]["resume"]) == ("w1", "allow")
    assert new_m[1]["run_id"] is None and again_m[1]["run_id"] == "m1"
    assert new_c[0] == "comet.OfflineExperiment" and again_c[1]["previous_experiment"] == "c1"
    for name in ("mlflow.log_metrics", "comet.log_metrics"):
        seen = [(sorted(call[1])[0], call[2]["step"]) for call in calls if call[0] == name]
        assert [step for key, step in seen if key.startswith("train/")] == [2, 4, 6, 8]
        assert [step for key, step in seen if key.startswith("val/")] == [3, 4, 5, 7, 8]
    assert [call[2]["step"] for call in calls if call[0] == "wandb.log"] == [2, 3, 4, 4, 5, 6, 7]
    assert said.count("the logger wandb failed in on_log (ConnectionError: no route)") == 1
    assert {name for name, *_ in calls} >= {"mlflow.end_run", "comet.end", "wandb.finish"}
    assert json.loads((run / "trackers.json").read_text())["ids"] == {"wandb": "w1", "mlflow": "m1", "comet_ml": "c1"}
    assert list((run / "tensorboard").iterdir())


def _stops_early(shards: str, folder: str) -> None:
    with raises_user_error("MSA-TRAIN-657", setting="run.callbacks", mentions="Failing"):
        train(_config(shards, f"{folder}/failing", callbacks=(f"{OWN}:Failing",), loggers=()))
    print("failed as it should")
    for _ in range(2):  # the second time nothing is left to do
        train(
            _config(shards, f"{folder}/run", {"early_stopping_patience": 2, "keep_best": False}, lr=1e-12, loggers=())
        )


def test_a_run_ends_early_and_a_callback_that_fails_ends_it(shards: Path, tmp_path: Path) -> None:
    """At a rate of nothing no validation is better than the first, at step 3: those at 5 and 7 are two too many."""
    outputs = run_ranks(2, __file__, "_stops_early", {"shards": str(shards), "folder": str(tmp_path)})
    assert all("failed as it should" in said for said in outputs)
    assert outputs[0].count("ended early after 2 validations without a better mean_iou") == 2
    assert "done: 7 of 8 steps" in outputs[0] and "raise trainer.early_stopping_patience" in outputs[0]
    saved = newest(tmp_path / "run" / "checkpoints").state
    assert saved.step == 7 and saved.early_stopping and saved.early_stopping.validations_since == 2
    assert not (tmp_path / "run" / "tensorboard").exists() and (tmp_path / "run" / "metrics.jsonl").exists()


def _examples(shards: str, folder: str) -> None:
    os.environ["TARGET_MEAN_IOU"] = "0"
    own, examples = {"steps": 2, "val_every_epochs": 0.0}, f"{REPOSITORY}/examples"
    config = _config(shards, folder, own, callbacks=(f"{examples}/own_callback.py:TargetReached",))
    losses = tuple(f"{examples}/own_loss.py:{name}" for name in ("poly_cross_entropy", "AreaLoss"))
    train(config.model_copy(update={"loss": config.loss.model_copy(update={"cross_entropy": 0.0, "custom": losses})}))


def test_the_examples_run(shards: Path, tmp_path: Path) -> None:
    run_ranks(2, __file__, "_examples", {"shards": str(shards), "folder": str(tmp_path / "run")})
    assert (tmp_path / "run" / "target.txt").read_text().startswith("step 2: 0.")


@pytest.mark.parametrize(
    ("callbacks", "loggers", "code", "setting", "mentions"),
    [
        ([f"{OWN}:Silent"], [], "MSA-TRAIN-657", "run.callbacks", "on_train_start"),
        ([f"{OWN}:BrokenConstructor"], [], "MSA-TRAIN-657", "run.callbacks", "KeyError"),
        ([], [f"{OWN}:Silent"], "MSA-TRAIN-657", "run.loggers", "Silent"),
        ([], ["wanb"], "MSA-TRAIN-659", "run.loggers", "did you mean 'wandb'?"),
        ([], ["comet"], "MSA-TRAIN-658", "run.loggers", "msanet[comet]"),
        (["Recorder"], [], "MSA-CONFIG-651", "run.callbacks", "Recorder"),
        ([f"{OWN}:Recordr"], [], "MSA-CONFIG-651", "run.callbacks", "did you mean 'Recorder'?"),
        (["no_such_package:X"], [], "MSA-CONFIG-651", "run.callbacks", "no_such_package"),
    ],
)
def test_what_cannot_be_attached_is_one_sentence(
    callbacks: list[str], loggers: list[str], code: str, setting: str, mentions: str
) -> None:
    with raises_user_error(code, setting=setting, mentions=mentions):
        Callbacks(callbacks, loggers)


def test_the_end_is_told_unless_the_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preempted run has ended too; loggers hear of a failure's end, to send what they have."""
    monkeypatch.setenv("RANK", "0")
    for kind, expected in ((None, 2), (distributed.Preempted, 2), (ValueError, 1)):
        folder = tmp_path / str(kind)
        folder.mkdir()
        trainer: Any = SimpleNamespace(
            config=parse_config({"run": {"dir": str(folder)}}, "test"), state=SimpleNamespace(step=7)
        )
        callbacks = Callbacks([f"{OWN}:Recorder"], [f"{OWN}:Recorder"])
        with pytest.raises(kind) if kind else nullcontext(), callbacks.attached(trainer):
            if kind:
                raise kind
        lines = (folder / "calls-0.jsonl").read_text().splitlines()
        assert lines.count('["end", 7]') == expected and lines.count('["start", 7]') == 2


def test_early_stopping_knows_the_metrics_of_a_validation() -> None:
    assert set(get_args(TrainerConfig.model_fields["early_stopping_metric"].annotation)) == set(METRICS)
