"""Settings: typed, documented, validated when they are read; a typo names the nearest one, an old name the new one."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from msanet.cli.main import main
from msanet.cli.train import train_config
from msanet.config import Config, DataConfig, load_config, load_run_config, settings
from msanet.config.renamed import RENAMED, RENAMED_VALUES, SPLIT
from msanet.config.text import kinds_of, parse_value
from msanet.errors import UserError
from msanet.models import MODELS, check_model, model_options
from msanet.models.external.trust import LIBRARIES
from support.errors import error_codes, raises_user_error

RECIPES = sorted((Path(__file__).parent.parent / "jobs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("override", "code", "setting", "mentions"),
    [
        ("trainer.epoch=3", "MSA-CONFIG-004", "trainer.epoch", "did you mean 'trainer.epochs'?"),
        ("epochs=3", "MSA-CONFIG-004", "epochs", "did you mean 'trainer.epochs'?"),
        ("trainer.lr=3", "MSA-CONFIG-004", "trainer.lr", "did you mean 'optimizer.lr'?"),
        ("optimiser.lr=3", "MSA-CONFIG-004", "optimiser", "did you mean 'optimizer'?"),
        ("loss.hinge=1", "MSA-CONFIG-004", "loss.hinge", "settings of loss are: cross_entropy, dice, "),
        ("trainer.gradient_noise=1", "MSA-CONFIG-004", "trainer.gradient_noise", "settings of trainer are: epochs, "),
        ("early_stopping=1", "MSA-CONFIG-004", "early_stopping", "sections are: run, data, "),
        ("trainer.epochs=-1", "MSA-CONFIG-005", "trainer.epochs", "-1"),
        ("trainer.zero_stage=5", "MSA-CONFIG-005", "trainer.zero_stage", "5"),
        ("data.random_scale=[2,1]", "MSA-CONFIG-007", "data.random_scale", "0 < low <= high"),
        ("data.random_scale=[0.5,2]", "MSA-CONFIG-007", "data.random_scale", "data.crop"),
        ("data.std=[0,1,1]", "MSA-CONFIG-007", "data.std", "0"),
        ("optimizer.lr=.nan", "MSA-CONFIG-005", "optimizer.lr", "nan"),
        ("trainer.epochs", "MSA-CONFIG-008", None, "key=value"),
        ("optimizer.betas=[1,0.999]", "MSA-CONFIG-005", "optimizer.betas.0", "1"),
        ("optimizer.lr=1e300000", "MSA-CONFIG-005", "optimizer.lr", "inf"),
        ("data.crop=[", "MSA-CONFIG-009", "data.crop", None),
        ("model.pretrained=", "MSA-CONFIG-401", "model.pretrained", "model.pretrained=null"),
        ("trainer.steps= ", "MSA-CONFIG-401", "trainer.steps", None),
        ('run.dir=""', "MSA-CONFIG-005", "run.dir", "null"),
        ("trainer.epochs=1e308", "MSA-CONFIG-005", "trainer.epochs", "1e+07 or less"),
        ("trainer.steps=1e13", "MSA-CONFIG-005", "trainer.steps", None),
    ],
)
def test_a_bad_setting_is_one_error_that_names_its_source(
    override: str, code: str, setting: str | None, mentions: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {steps: 3}\nloss: {dice: 1}\n")
    with raises_user_error(code, setting, mentions) as caught:
        load_config(file, [override])
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith("(from the command line)") and "run.yaml" not in sentence


def test_a_bad_setting_of_the_file_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {epoch: 3}\n")
    with raises_user_error("MSA-CONFIG-004", "trainer.epoch", f"(from {file})"):
        load_config(file, ["trainer.steps=3"])


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


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("- a\n- b\n", "MSA-CONFIG-003"),
        ("a: [1", "MSA-CONFIG-002"),
        ("42", "MSA-CONFIG-003"),
        ("\x00", "MSA-CONFIG-002"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with raises_user_error(code, mentions="bad.yaml"):
        load_config(path)


def test_every_setting_is_documented_and_listed_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    listed = list(settings())
    assert all(text for *_, text in listed)
    assert {"trainer.epochs", "data.path", "optimizer.lr", "deepspeed"} <= {name for name, *_ in listed}
    with pytest.raises(SystemExit) as end:
        train_config(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}=" in shown for name, *_ in listed)
    assert "model.attention=full" in shown


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--confg", "x"], "MSA-CLI-001"),
        (["--config", "nowhere.yaml"], "MSA-CONFIG-001"),
        (["nowhere", "data.path=x"], "MSA-CONFIG-001"),
        (["data.path=x"], "MSA-CLI-007"),
        (["run.dir=x"], "MSA-CLI-007"),
        (["--config", "demo", "camvid", "data.path=x"], "MSA-CONFIG-008"),
        (["--deepspeed_config", "x"], "MSA-CLI-011"),
    ],
)
def test_an_argument_error_has_one_line_and_exit_code_2(
    argv: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *argv])
    said = capsys.readouterr().err
    assert end.value.code == 2 and error_codes(said) == [code] and said.count("\n") == 1


def test_deepspeed_json_is_merged_under_overrides(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 1000}, "prescale_gradients": true}')
    config = train_config(
        ["--deepspeed_config", str(path), "data.path=a", "run.dir=b", "deepspeed.prescale_gradients=false"]
    )
    assert config.deepspeed == {"zero_optimization": {"reduce_bucket_size": 1000}, "prescale_gradients": False}


def test_a_run_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = train_config(["data.path=shards", "run.dir=runs/a"])
    assert (config.data.path, config.run.dir) == (str(tmp_path / "shards"), tmp_path / "runs" / "a")
    assert train_config(["data.path=s3://bucket/x", "run.dir=a"]).data.path == "s3://bucket/x"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(recipe: Path) -> None:
    config = load_config(recipe)
    check_model(config.model.name, config.model.options)
    assert config.model.name in MODELS or config.model.name.partition(":")[0] in LIBRARIES


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
    config = train_config(words)
    assert config.trainer.steps == 3 and config.trainer.global_batch_size == 8 and config.data.path == str(tmp_path)


def words_of(tmp_path: Path, *more: str) -> list[str]:
    return [f"data.path={tmp_path}", f"run.dir={tmp_path / 'run'}", *more]


def test_options_of_other_training_programs_are_settings(tmp_path: Path) -> None:
    options = [
        "--work-dir",
        str(tmp_path / "1e3"),
        "--epochs",
        "7",
        "--batch-size",
        "6",
        "--lr",
        "1e-2",
        "--amp",
        "--resume",
    ]
    config = train_config([f"data.path={tmp_path}", *options, "--cfg-options", "model.width=0.5", "data.crop=[8,9]"])
    assert config.run.dir == tmp_path / "1e3" and config.run.resume == "must"
    assert (config.trainer.epochs, config.trainer.global_batch_size, config.optimizer.lr) == (7, 6, 0.01)
    assert (config.trainer.precision, config.model.options["width"], config.data.crop) == ("bf16", 0.5, (8, 9))
    with raises_user_error("MSA-CONFIG-005", "trainer.epochs", "(from the command line)"):
        train_config(words_of(tmp_path, "--epochs", "many"))
    with raises_user_error("MSA-CLI-001", "--batchsize", "did you mean '--batch-size'?"):
        train_config(words_of(tmp_path, "--batchsize", "4"))


@pytest.mark.parametrize("name", [*RENAMED, *SPLIT])
def test_an_old_name_is_answered_by_the_new_one(name: str) -> None:
    known = {known for known, *_ in settings()}
    assert name not in known
    if name.startswith("sweep."):  # tests/cli/test_sweep.py
        return
    with raises_user_error("MSA-CONFIG-006", name) as caught:
        load_config(None, [f"{name}=1"])
    new = [RENAMED[name]] if name in RENAMED else list(SPLIT[name])
    assert set(new) <= known and all(one in str(caught.value) for one in new)


def test_an_old_value_is_answered_by_the_new_one(tmp_path: Path) -> None:
    for word, new in (
        ("evaluation.protocol=plain", "evaluation.protocol=default"),
        ("data.epoch_end=drop", "data.drop_last=true"),
        ("data.epoch_end=carry", "data.drop_last=false"),
        ("data.on_error=mask", "data.on_bad_sample=skip"),
    ):
        with raises_user_error("MSA-CONFIG-006", word.partition("=")[0], new):
            load_config(None, [word])
    file = tmp_path / "old.yaml"
    file.write_text("trainer: {global_batch: 8}\n")
    with raises_user_error("MSA-CONFIG-006", "trainer.global_batch", f"(from {file})"):
        load_config(file)


def test_the_config_of_a_run_of_the_version_before_is_read_under_the_new_names(tmp_path: Path) -> None:
    tree = yaml.safe_load(Config().to_yaml())
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert load_run_config(file) == Config()
    for old, new in RENAMED.items():
        section, _, leaf = new.partition(".")
        if section != "sweep":
            tree[section][old.partition(".")[2]] = tree[section].pop(leaf)
    tree["data"] |= {"epoch_end": "drop", "on_error": "mask", "crop": [8, 8]}
    tree["evaluation"]["protocol"] = "plain"
    file.write_text(yaml.safe_dump(tree))
    config = load_run_config(file, ["evaluation.flip=true"])
    assert (config.data.drop_last, config.data.on_bad_sample, config.evaluation.protocol) == (True, "skip", "default")
    assert config.evaluation.flip and config.trainer == Config().trainer and config.storage == Config().storage
    assert RENAMED_VALUES.keys() <= {*RENAMED, "evaluation.protocol"}


def test_a_config_builds_on_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("config: demo\ndata: {crop: [8, 8], num_workers: 3}\n")
    (tmp_path / "sub").mkdir()
    top = tmp_path / "sub" / "top.yaml"
    top.write_text("config: ../base.yaml\ndata: {num_workers: 5}\ntrainer:\n")
    config = load_config(top, ["trainer.epochs=2"])
    assert (config.data.crop, config.data.num_workers, config.model.options) == (
        (8, 8),
        5,
        {"width": 0.25, "attention_pool": 4},
    )
    assert (config.trainer.epochs, config.trainer.global_batch_size) == (2, 8)
    (tmp_path / "base.yaml").write_text("data: {cropp: 8}\n")
    with raises_user_error("MSA-CONFIG-004", "data.cropp", f"(from {top} -> ") as caught:
        load_config(top)
    assert "base.yaml)" in str(caught.value)
    (tmp_path / "base.yaml").write_text("config: sub/top.yaml\n")
    with raises_user_error("MSA-CONFIG-010", "config", "top.yaml -> "):
        load_config(top)
    for text, code in (
        ("config: nowhere", "MSA-CONFIG-001"),
        ("config: 3", "MSA-CONFIG-005"),
        ("_base_: [a.py]", "MSA-CONFIG-011"),
    ):
        top.write_text(text)
        with raises_user_error(code, mentions=str(top)):
            load_config(top)


def test_a_recipe_is_found_by_name_as_option_or_first_word(tmp_path: Path) -> None:
    found = [
        train_config(words) for words in (["camvid", *words_of(tmp_path)], words_of(tmp_path, "--config", "camvid"))
    ]
    assert found[0] == found[1] and found[0].trainer.epochs == 200
    assert load_config("msanet/voc") == load_config(Path(__file__).parent.parent / "jobs/recipes/msanet/voc.yaml")
    with raises_user_error("MSA-CONFIG-001", "--config", "did you mean 'camvid'?"):
        load_config("camvit")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run.dir=/x/exp #1", "/x/exp #1"),
        ("run.dir=001", "001"),
        ("run.dir=1e3", "1e3"),
        ("run.dir=on", "on"),
        ("run.dir=a: b", "a: b"),
        ("run.dir=[x]", "[x]"),
        ("run.dir={x}", "{x}"),
        ("run.dir=*x", "*x"),
        ("run.dir=a=b", "a=b"),
        ("run.dir='001'", "001"),
        ('run.dir="a\\u00df \\"b\\""', 'aß "b"'),
        ('run.dir="a" and "b"', '"a" and "b"'),
        ("run.dir='null'", "null"),
        ("run.dir=./null", "null"),
        ("run.dir=null", None),
        ("run.dir=None", None),
        ("run.dir=~/exp", "HOME/exp"),
        ("run.dir=~", "HOME"),
        ("run.dir=~nobody-has-this-name/x", "~nobody-has-this-name/x"),
        ("run.dir=a~", "a~"),
    ],
)
def test_a_path_is_taken_as_it_stands(word: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    found = load_config(None, [word]).run.dir
    assert found == (None if expected is None else Path(expected.replace("HOME", "/home/x")))


def test_text_is_expanded_in_paths_only_and_written_by_files_as_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: {path: ~/shards, train_split: '~'}\nmodel: {pretrained: ~/w.pth}\nstorage: {cache_dir: ~/c}\n"
    )
    config = load_config(file, ["data.val_split=2017"])
    assert (config.data.path, str(config.model.pretrained)) == ("/home/x/shards", "/home/x/w.pth")
    assert (str(config.storage.cache_dir), config.data.train_split) == ("/home/x/c", "~")
    assert config.data.val_split == "2017"
    assert load_config(None, ["data.path=s3://bucket/~/x#1"]).data.path == "s3://bucket/~/x#1"


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (str | None, "1", "1"),
        (str | list[str], "[a, b]", ["a", "b"]),
        (str | list[str], "a, b", "a, b"),
        (str | dict[str, int] | None, "{a: 1}", {"a": 1}),
        (str | int, "12", 12),
        (str | int, "12 #3", 12),
        (str | float, "twelve #3", "twelve #3"),
        (Literal["a", "null"] | None, "null", None),
        (int | None, "null", None),
    ],
)
def test_a_setting_of_several_types_takes_what_its_schema_says(annotation: Any, text: str, expected: Any) -> None:
    assert parse_value(text, kinds_of(annotation)) == expected


@pytest.mark.parametrize(
    ("override", "setting", "expected"),
    [
        (
            "loss.class_weights=wrong",
            "loss.class_weights",
            "expected none | median_frequency | sqrt_median_frequency or list of float",
        ),
        (
            "loss.class_weights=[1,-2]",
            "loss.class_weights",
            "expected none | median_frequency | sqrt_median_frequency or list of float",
        ),
        ("data.crop=[32]", "data.crop", "expected [int, int] or null"),
        ("data.crop=[32,a]", "data.crop.1", "expected a whole number"),
        ("trainer.keep_checkpoints=0", "trainer.keep_checkpoints", "expected 1 or more"),
        ("trainer.keep_checkpoints=1.5", "trainer.keep_checkpoints", "expected a whole number"),
        ("trainer.compile=maybe", "trainer.compile", "expected true or false"),
        ("data.drop_last=[]", "data.drop_last", "expected true or false"),
        (
            "schedule.name=cosinus",
            "schedule.name",
            "expected 'poly', 'step', 'constant', 'cosine', 'one_cycle' or 'wsd'",
        ),
        ("data=3", "data", "expected a section of settings"),
        ("deepspeed=3", "deepspeed", "expected a mapping"),
        ("evaluation.scales=1", "evaluation.scales", "expected list of float"),
        ("optimizer.lr=0", "optimizer.lr", "expected a number above 0"),
        ("data.std=abc", "data.std", "expected list of float"),
        ("data.transforms=my.py:F", "data.transforms", "expected list of text; write [my.py:F]"),
    ],
)
def test_what_was_expected_is_said_in_words_of_the_settings(override: str, setting: str, expected: str) -> None:
    with raises_user_error("MSA-CONFIG-005", setting) as caught:
        load_config(None, [override])
    sentence = str(caught.value)
    assert expected in sentence and not re.search(r"class '|pydantic|literal\[|[Ii]nput should|instance of", sentence)


def test_a_file_that_has_no_text_where_text_is_meant_is_told_to_quote_it(tmp_path: Path) -> None:
    for line in ("run: {dir: 001}", "model: {pretrained: [x]}", "data: {train_split: no}", "run: {dir: ''}"):
        file = tmp_path / "run.yaml"
        file.write_text(line)
        with raises_user_error("MSA-CONFIG-005") as caught:
            load_config(file)
        assert "expected text" in str(caught.value) and "pathlib" not in str(caught.value)
