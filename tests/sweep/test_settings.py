"""What a sweep's file may say, and what is refused before Ray starts."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REPOSITORY
from msanet.cli.sweep import sweep_job
from msanet.config import load_config
from msanet.errors import UserError
from msanet.files import write_text
from msanet.models import check_model
from msanet.sweep.plan import SweepPlan, plan_sweep
from msanet.sweep.settings import Axis, SweepFile
from msanet.sweep.space import active_params, grid_points, params_to_check, to_yaml
from msanet.sweep.tuning import PLAN_FILE, tune_sweep
from support.errors import raises_user_error

SHIPPED = sorted((REPOSITORY / "jobs" / "sweeps").glob("*.yaml"))
RUN: dict[str, Any] = {
    "data": {"crop": [32, 40]},
    "model.name": "unet",
    "model.width": 0.05,
    "trainer.global_batch_size": 4,
}


def plan(
    shards: Path, tmp_path: Path, space: dict[str, Any], run: dict[str, Any] | None = None, **sweep: Any
) -> SweepPlan:
    """As the command does, from a file's content."""
    file = tmp_path / "sweep.yaml"
    settings = {**RUN, "data.path": str(shards), **(run or {})}
    file.write_text(yaml.safe_dump({"sweep": sweep, "run": settings, "space": space}, sort_keys=False))
    argv = ["--config", str(file), f"sweep.folder={tmp_path / 'out'}"]
    return sweep_job(argv).plan


REFUSED: dict[str, tuple[Any, ...]] = {
    "a typo in the space": ({"optimizer.lrr": {"choice": [1]}}, {}, {}, "did you mean 'optimizer.lr'"),
    "a typo in the run": ({"optimizer.lr": {"choice": [1]}}, {"trainer.epoch": 3}, {}, "did you mean 'trainer.epochs'"),
    "an option of another network": ({"model.attention": {"choice": ["full"]}}, {}, {}, "not an option of 'unet'"),
    "a bad value": ({"optimizer.lr": {"choice": [1e-3, -1]}}, {}, {}, "optimizer.lr is -1"),
    "a bad end of a range": ({"optimizer.lr": {"uniform": [-1, 1]}}, {}, {}, "optimizer.lr is -1.0"),
    "two ways": ({"optimizer.lr": {"choice": [1], "grid": [1]}}, {}, {}, "exactly one of"),
    "no way": ({"optimizer.lr": {"when": {"model.name": "unet"}}}, {}, {}, "exactly one of"),
    "a typo in a way": ({"optimizer.lr": {"choise": [1]}}, {}, {}, "did you mean 'choice'"),
    "a range upside down": ({"optimizer.lr": {"uniform": [1, 0.1]}}, {}, {}, "low below high"),
    "a condition on nothing": ({"optimizer.lr": {"choice": [1], "when": {"model.nam": "unet"}}}, {}, {}, "'model.nam'"),
    "no axis": ({}, {}, {}, "space is empty"),
    "ranks that share no batch": (
        {"trainer.global_batch_size": {"choice": [4, 5]}},
        {},
        {"ranks": 2},
        "cannot be shared",
    ),
    "a folder of one's own": ({"run.dir": {"choice": ["a", "b"]}}, {}, {}, "is set by the sweep itself"),
    "restarts besides": ({"optimizer.lr": {"choice": [1]}}, {"run.max_restarts": 1}, {}, "sweep.max_failures"),
    "a typo in the sweep": ({"optimizer.lr": {"choice": [1]}}, {}, {"trails": 2}, "did you mean 'trials'"),
    "a grid for Optuna": ({"optimizer.lr": {"grid": [1]}}, {}, {"searcher": "optuna"}, "does not support `grid`"),
    "two schedulers": (
        {"optimizer.lr": {"choice": [1]}},
        {},
        {"searcher": "pbt", "scheduler": "asha"},
        "is one itself",
    ),
    "other networks for pbt": (
        {"model.width": {"uniform": [0.05, 0.1]}},
        {},
        {"searcher": "pbt"},
        "in the middle of a training",
    ),
    "a password in a bad value": (
        {"optimizer.lr": {"choice": [1]}},
        {},
        {"name": {"token": "hunter2"}},
        r"sweep.name is {'token': \*\*\*}",
    ),
    "numbers between the ends": ({"trainer.global_batch_size": {"int": [8, 16]}}, {}, {"ranks": 4}, "cannot be shared"),
    "fractions of a whole number": ({"trainer.steps": {"uniform": [10, 20]}}, {}, {}, "trainer.steps is 1"),
    "no shards": ({"optimizer.lr": {"choice": [1]}}, {"data.path": "/nowhere"}, {}, "/nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_sentence(case: str, shards: Path, tmp_path: Path) -> None:
    space, run, sweep, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        plan(shards, tmp_path, space, run, **sweep)
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_code_2_without_ray(tmp_path: Path, shards: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"space": {"optimizer.lrr": {"choice": [1]}}}))
    code = "import sys, runpy; sys.modules['ray'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = ["jobs/sweep.py", "--config", str(file), f"data.path={shards}", f"sweep.folder={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "did you mean 'optimizer.lr'" in done.stderr


def test_what_is_not_set_is_not_passed_on(shards: Path, tmp_path: Path) -> None:
    space = {
        "model.name": {"choice": ["unet", "msanet"]},
        "model.attention": {"choice": ["full", "none"], "when": {"model.name": "msanet"}},
        "optimizer.momentum": {"uniform": [0.1, 0.9], "when": {"optimizer.name": ["sgd"]}},
    }
    found = plan(shards, tmp_path, space)
    sampled = {"model.name": '"unet"', "model.attention": '"none"', "optimizer.momentum": "0.5"}
    assert found.active_params(sampled) == {"model.name": '"unet"'}
    assert found.active_params({**sampled, "model.name": '"msanet"'}).keys() == {"model.name", "model.attention"}
    assert found.config(found.active_params({**sampled, "model.name": '"msanet"'})).model.options["attention"] == "none"


@pytest.mark.parametrize(
    ("text", "words"), [("sweep: 3", "section sweep"), ("run: []", "run is"), ("{}", "'space' is")]
)
def test_no_sweep(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        sweep_job(["--config", str(file)])


def test_a_chain_of_conditions() -> None:
    space = {
        "a": Axis(choice=(1, 2)),
        "b": Axis(choice=(1,), when={"a": 1}),
        "c": Axis(choice=(1,), when={"b": 1}),
    }
    assert active_params(space, {"a": "2", "b": "1", "c": "1"}, {"b": "1"}) == {"a": "2"}


def test_the_grid_has_each_combination_once() -> None:
    space = {
        "name": Axis(grid=("x", "y")),
        "merge": Axis(grid=("max", "average", "attention"), when={"name": "x"}),
        "lr": Axis(choice=(1, 2)),
        "scales": Axis(grid=(2, 3), when={"name": "x"}),
    }
    points = grid_points(space, {})
    assert len(points) == 7 and len({json.dumps(point) for point in points}) == 7
    assert [point for point in points if point["name"] == '"y"'] == [{"name": '"y"'}]
    assert all("lr" in params for params in params_to_check(space, {}, 0))


@pytest.mark.parametrize("value", [1e-5, [[32, 40], None], "1e-3", "yes", True, "a: b", 0.1 + 0.2, ""])
def test_values_survive_the_command_line(value: Any) -> None:
    setting = load_config(None, [f"deepspeed.x={to_yaml(value)}"]).deepspeed["x"]
    assert setting == (1e-3 if value == "1e-3" else value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_accepted(
    path: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    argv = ["--config", str(path), f"data.path={shards}", f"sweep.folder={tmp_path}"]
    found = sweep_job(argv).plan
    for params in params_to_check(found.file.space, found.base_settings, 0):
        config = found.config(params)
        check_model(config.model.name, config.model.options)
        assert config.data.path == str(shards)


@pytest.mark.parametrize("recipe", ["voc_aug", "person_part", "coco"])
def test_the_tables_of_attention_to_scale(recipe: str, shards: Path, tmp_path: Path) -> None:
    """Tables 1, 3, 5 and 6 have twelve rows each and the network without scales."""
    sweeps, recipes = REPOSITORY / "jobs" / "sweeps", REPOSITORY / "jobs" / "recipes" / "attention_to_scale"
    words = ["--config", str(sweeps / "attention_to_scale.yaml"), f"data.path={shards}", f"sweep.folder={tmp_path}"]
    found = sweep_job([*words, "--recipe", str(recipes / f"{recipe}.yaml")]).plan
    configs = [found.config(point) for point in grid_points(found.file.space, found.base_settings)]
    rows = product(("max", "average", "attention"), ("1,0.5", "1,0.75,0.5"), (False, True))
    options = [{"merge": merge, "scales": scales, "extra_supervision": more} for merge, scales, more in rows]
    assert [config.model.options for config in configs if config.model.options] == options
    assert [config.model.name for config in configs] == ["attention_to_scale"] * 12 + ["deeplab_largefov"]
    assert {config.trainer.val_every_epochs for config in configs} == {20 if recipe == "person_part" else 4}


def test_the_fingerprint_is_that_of_the_trainings(shards: Path, tmp_path: Path) -> None:
    space = {"optimizer.lr": {"choice": [1e-3, 1e-2]}}
    one = plan(shards, tmp_path, space)
    assert one.fingerprint == plan(shards, tmp_path, space, name="x", ranks=2, cpus=2).fingerprint
    for key in ("max_concurrent_trials", "max_failures", "perturb_every_epochs", "trials"):
        kept_by_tune: dict[str, Any] = {key: 3}
        assert one.fingerprint != plan(shards, tmp_path, space, **kept_by_tune).fingerprint
    assert one.fingerprint != plan(shards, tmp_path, space, {"trainer.epochs": 3}).fingerprint
    assert one.fingerprint != plan(shards, tmp_path, {"optimizer.lr": {"choice": [1e-3]}}).fingerprint


def test_a_sweep_that_was_moved_is_refused_before_ray_starts(shards: Path, tmp_path: Path) -> None:
    """Ray's notes have its old folder."""
    found = plan(shards, tmp_path, {"optimizer.lr": {"choice": [1e-3]}})
    for folder, code in ((tmp_path / "before", "MSA-SWEEP-012"), (found.folder, "MSA-SWEEP-013")):
        other = replace(found, folder=folder, overrides=(*found.overrides, "trainer.epochs=3"))
        write_text(found.folder / PLAN_FILE, other.fingerprint)
        with raises_user_error(code, setting="sweep.folder"):
            tune_sweep(found)


def test_an_interrupt_outside_of_tune_ends_with_code_75(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("msanet.sweep.tuning.tune_sweep", interrupted)
    words = ["--config", str(SHIPPED[0]), f"data.path={shards}", f"sweep.folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py", *words])
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path("jobs/sweep.py", run_name="__main__")
    assert ended.value.code == 75 and "run the same command again to resume" in capsys.readouterr().err


def test_the_address_of_ray_client_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="HOST:PORT"):
        sweep_job(["--config", str(SHIPPED[0]), "--address", "ray://head:10001"])


def test_a_folder_is_needed(shards: Path) -> None:
    file = SweepFile(space={"optimizer.lr": Axis(choice=(1,))})
    with raises_user_error("MSA-SWEEP-005", setting="sweep.folder"):
        plan_sweep(file, "x", [f"data.path={shards}"])


def test_a_sweep_of_an_older_version_is_refused(shards: Path, tmp_path: Path) -> None:
    found = plan(shards, tmp_path, {"optimizer.lr": {"choice": [1e-3]}})
    for text in (f'{{"folder": "{found.folder}"}}', "not JSON"):
        write_text(found.folder / PLAN_FILE, text)
        with raises_user_error("MSA-SWEEP-014", setting="sweep.folder"):
            tune_sweep(found)


def test_the_folder_of_a_sweep_is_taken_as_it_stands(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({"run": {**RUN, "data.path": str(shards)}, "space": {"optimizer.lr": {"choice": [1]}}})
    )
    words = ["--config", str(file)]
    assert sweep_job([*words, "sweep.folder=/x/exp #1", "sweep.name=001"]).plan.folder == Path("/x/exp #1")
    assert sweep_job([*words, "sweep.folder=~/s"]).plan.folder == tmp_path / "s"
    with raises_user_error("MSA-CONFIG-401", "sweep.folder"):
        sweep_job([*words, "sweep.folder="])
    with raises_user_error("MSA-SWEEP-011", "sweep.trials", "expected a whole number"):
        sweep_job([*words, "sweep.folder=/x", "sweep.trials=many"])
