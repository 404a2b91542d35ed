"""`msanet sweep`: sweeps and recipes by name, and what starts a trial."""

from pathlib import Path

import pytest

from msanet.cli import sweep
from msanet.cli.sweep import sweep_job
from msanet.config.renamed import RENAMED
from support.errors import raises_user_error


def test_a_sweep_and_its_recipe_are_found_by_name(shards: Path, tmp_path: Path) -> None:
    words = [f"data.path={shards}", f"sweep.folder={tmp_path}"]
    job = sweep_job(["--config", "msanet", *words])
    assert job.plan.name == "msanet" and job.plan.recipe and job.plan.recipe.name == "camvid.yaml"
    job = sweep_job(["--config", "attention_to_scale", "--recipe", "attention_to_scale/coco", *words])
    assert job.plan.recipe and job.plan.recipe.name == "coco.yaml"
    with raises_user_error("MSA-CONFIG-001", "--config", "did you mean 'msanet'?"):
        sweep_job(["--config", "msanett", *words])


def test_a_trial_is_a_training_of_the_same_package(shards: Path, tmp_path: Path) -> None:
    plan = sweep_job(["--config", "demo", f"data.path={shards}", f"sweep.folder={tmp_path}"]).plan
    assert plan.command({}, tmp_path)[:3] == ["-m", "msanet", "train"]


@pytest.mark.parametrize("name", [name for name in RENAMED if name.startswith("sweep.")])
def test_an_old_name_is_answered_by_the_new_one(name: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"sweep: {{{name.removeprefix('sweep.')}: 1}}\nspace: {{optimizer.lr: {{choice: [1]}}}}\n")
    with raises_user_error("MSA-CONFIG-006", name, RENAMED[name]):
        sweep_job(["--config", str(file)])
    with raises_user_error("MSA-CONFIG-006", name, RENAMED[name]):
        sweep_job(["--config", "demo", f"{name}=1"])


def test_a_second_sweep_in_one_folder_is_refused_and_the_first_goes_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msanet.folder_lock._GRACE_SECONDS", 0.0)
    words = ["--config", "demo", f"data.path={shards}", f"sweep.folder={tmp_path / 'sweep'}"]

    def tune(*_: object) -> None:
        with raises_user_error("MSA-FILE-401", "sweep.folder"):
            sweep.main(words)
        with raises_user_error("MSA-FILE-401", "sweep.folder"):
            sweep.main([*words, "--train-best"])

    monkeypatch.setattr(sweep.tuning, "tune_sweep", tune)
    monkeypatch.setattr(sweep, "write_results", lambda plan: True)
    assert sweep.main(words) == 0
    assert sweep.main(words) == 0, "the next one, once the first has ended"
