"""Settings: typed, documented, checked at birth; a typo names the nearest one."""

from pathlib import Path

import pytest
import yaml

from msanet.cli import train_config
from msanet.config import Config, DataConfig, load_config, settings
from msanet.errors import UserError
from msanet.models import MODELS, check_model, model_options

RECIPES = sorted((Path(__file__).parent.parent / "jobs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.epoch=3", "'trainer.epoch' is no setting; did you mean 'trainer.epochs'?"),
        ("epochs=3", "did you mean 'trainer.epochs'?"),
        ("optimiser.lr=3", "did you mean 'optimizer'?"),
        ("trainer.epochs=-1", "trainer.epochs is -1"),
        ("trainer.zero_stage=5", "trainer.zero_stage is 5"),
        ("data.random_scale=[2,1]", "expected 0 < low <= high"),
        ("data.random_scale=[0.5,2]", "set data.crop"),
        ("data.std=[0,1,1]", "expected values above 0"),
        ("optimizer.lr=.nan", "optimizer.lr is nan"),
        ("trainer.epochs", "expected key=value"),
        ("optimizer.betas=[1,0.999]", "optimizer.betas.0 is 1"),
        ("run.stall_timeout_seconds=1e15", "run.stall_timeout_seconds is 1000000000000000.0: input should be less"),
        ("data.path=[", "is no YAML"),
    ],
)
def test_bad_settings_are_one_clear_sentence(override: str, words: str) -> None:
    with pytest.raises(UserError, match=".") as error:
        load_config(None, [override])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_come_after_the_file_and_take_yaml_values(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("trainer: {epochs: 7, global_batch_size: 12}\nmodel: {name: msanet, width: 0.5}\n")
    config = load_config(path, ["trainer.epochs=9", "optimizer.lr=1e-4", "data.crop=[10, 20]", "model.attention=none"])
    assert (config.trainer.epochs, config.trainer.global_batch_size) == (9, 12)
    assert config.optimizer.lr == 1e-4
    assert config.data.crop == (10, 20)
    assert config.model.options == {"width": 0.5, "attention": "none"}


def test_only_numbers_become_numbers() -> None:
    config = load_config(None, ["optimizer.lr=1e-3", "model.width=5e-1", "model.attention=inf", "data.train_split=nan"])
    assert (config.optimizer.lr, config.model.options["width"]) == (1e-3, 0.5)
    assert (config.model.options["attention"], config.data.train_split) == ("inf", "nan")


def test_a_resolved_config_loads_as_itself(tmp_path: Path) -> None:
    config = load_config(
        None, ["data.path=shards", "run.dir=run", "model.width=0.25", "deepspeed.comms_logger.enabled=true"]
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1", "42", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_config(path)


def test_every_setting_is_documented_and_listed_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    listed = list(settings())
    assert all(text for *_, text in listed)
    assert {"trainer.epochs", "data.path", "optimizer.lr", "deepspeed"} <= {name for name, *_ in listed}
    with pytest.raises(SystemExit) as end:
        train_config("words", ["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}=" in shown for name, *_ in listed)
    assert "model.attention=full" in shown


def test_an_argument_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["--confg", "x"],
        ["--config", "nowhere.yaml"],
        ["data.path=x"],
        ["run.dir=x"],
        ["--deepspeed_config", "x"],
    ):
        with pytest.raises(SystemExit) as end:
            train_config("words", argv)
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_deepspeed_json_is_merged_under_overrides(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 1000}, "prescale_gradients": true}')
    config = train_config(
        "", ["--deepspeed_config", str(path), "data.path=a", "run.dir=b", "deepspeed.prescale_gradients=false"]
    )
    assert config.deepspeed == {"zero_optimization": {"reduce_bucket_size": 1000}, "prescale_gradients": False}


def test_a_run_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = train_config("", ["data.path=shards", "run.dir=runs/a"])
    assert (config.data.path, config.run.dir) == (str(tmp_path / "shards"), tmp_path / "runs" / "a")
    assert train_config("", ["data.path=s3://bucket/x", "run.dir=a"]).data.path == "s3://bucket/x"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(recipe: Path) -> None:
    config = load_config(recipe)
    check_model(config.model.name, config.model.options)
    assert yaml.safe_load(recipe.read_text())["model"]["name"] in MODELS


def test_recipes_are_shipped() -> None:
    assert {"camvid", "camvid-cpu", "demo"} <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("msanett", {}, "did you mean 'msanet'?"),
        ("msanet", {"widht": 1}, "model.widht is not an option of 'msanet'; did you mean 'width'?"),
        ("msanet", {"width": "wide"}, "model.width is 'wide', expected float"),
        ("msanet", {"width": True}, "expected float"),
        ("msanet", {"attention": "some"}, "expected one of full, fusion, none"),
        ("attention_to_scale", {"features": "fc9"}, "model.features is 'fc9'"),
        ("attention_to_scale", {"network": "unet", "network_options": "norm=bach"}, "expected one of batch, group"),
    ],
)
def test_bad_model_options_are_refused(name: str, options: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        check_model(name, options)
    assert words in str(error.value)


def test_images_have_a_fixed_size_only_where_nothing_draws_it() -> None:
    assert DataConfig(crop=(8, 8)).fixed_size and DataConfig(resize=(8, 8), random_scale=(1.0, 1.0)).fixed_size
    assert (
        not DataConfig(resize=(8, 8), random_scale=(0.5, 2.0)).fixed_size
        and not DataConfig(random_scale=(1.0, 1.0)).fixed_size
    )


def test_defaults_are_the_papers_recipe() -> None:
    """MSANet section 4.2: Adam 1e-3, poly 0.9, batch 4, 200 epochs."""
    config = Config()
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 1e-3)
    assert (config.schedule.name, config.schedule.power) == ("poly", 0.9)
    assert (config.trainer.global_batch_size, config.trainer.epochs) == (4, 200)
    assert model_options("msanet")["width"][1] == 1.0


def test_settings_stand_anywhere_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {global_batch_size: 8}")
    words = [f"data.path={tmp_path}", "--config", str(file), "trainer.steps=3", f"run.dir={tmp_path / 'run'}"]
    config = train_config("", words)
    assert config.trainer.steps == 3 and config.trainer.global_batch_size == 8 and config.data.path == str(tmp_path)
