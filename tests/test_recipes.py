"""The recipes of the two papers: what their headers tell users to paste works, and their numbers are the papers'."""

import functools
import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from msanet.cli import pack
from msanet.cli.train import train_config
from msanet.config import Config, load_config
from msanet.datasets import DATASETS
from msanet.models import build_model, model_options
from sharding.__main__ import main as shard
from sharding.readers import find_reader

ROOT = Path(__file__).parent.parent
RECIPES = {str(path.relative_to(ROOT / "jobs" / "recipes")): path for path in (ROOT / "jobs/recipes").rglob("*.yaml")}
PAPERS = {
    "msanet/voc.yaml": "voc",
    "msanet/cityscapes.yaml": "cityscapes",
    "attention_to_scale/voc_aug.yaml": "voc",
    "attention_to_scale/person_part.yaml": "person_part",
    "attention_to_scale/coco.yaml": "coco",
}
"""Recipe of a paper -> its dataset."""
BENCHMARKS = [name for name in RECIPES if name.startswith("benchmarks/") and "-" in name]

# MSANet paper, tables 4 and 5: mIoU and mean accuracy on VOC, then on Cityscapes, by (model.name, model.attention).
MSANET = {
    ("fcn", None): ((62.7, 90.3), (59.3, 87.5)),
    ("unet", None): ((67.1, 92.6), (63.4, 88.6)),
    ("deeplab_largefov", None): ((71.6, 93.2), (70.4, 91.3)),
    ("deeplabv3", None): ((77.5, 95.1), (76.8, 94.5)),
    ("msanet", "none"): ((72.3, 92.8), (73.0, 91.4)),
    ("msanet", "full"): ((78.1, 94.6), (76.3, 93.1)),
}
# Attention to Scale, mIoU of tables 1 (Person-Part), 3 (VOC), 5 (VOC from COCO), 6 (COCO), IoU of table 7 (COCO, person): the
# baseline, then by (scales, merge, extra supervision).
MERGED: dict[tuple[str, str, bool] | None, tuple[float, ...]] = {
    None: (51.91, 62.28, 67.58, 31.22, 68.76),
    ("1,0.5", "max", False): (52.90, 64.81, 69.15, 32.95, 70.07),
    ("1,0.5", "max", True): (55.26, 67.43, 70.01, 34.70, 71.06),
    ("1,0.5", "average", False): (52.71, 64.86, 69.22, 33.69, 70.38),
    ("1,0.5", "average", True): (55.17, 67.79, 70.44, 35.14, 71.60),
    ("1,0.5", "attention", False): (53.49, 65.27, 69.90, 34.03, 70.66),
    ("1,0.5", "attention", True): (55.85, 68.24, 70.76, 35.41, 72.20),
    ("1,0.75,0.5", "max", False): (53.02, 65.15, 69.70, 33.58, 69.97),
    ("1,0.75,0.5", "max", True): (55.78, 67.79, 70.06, 35.08, 71.43),
    ("1,0.75,0.5", "average", False): (52.56, 63.92, 68.82, 33.74, 69.69),
    ("1,0.75,0.5", "average", True): (55.72, 67.98, 70.55, 35.72, 71.70),
    ("1,0.75,0.5", "attention", False): (53.12, 64.37, 69.47, 33.42, 70.14),
    ("1,0.75,0.5", "attention", True): (56.39, 69.08, 71.42, 35.78, 72.72),
}
# Recipe -> the heading of its table, the columns of the above that it has, and what the text of section 4 says of
# DeepLab-MSc-LargeFOV.
ATTENTION_TO_SCALE: dict[str, tuple[str, tuple[int, ...], float]] = {
    "attention_to_scale/person_part.yaml": ("Table 1:", (0,), 53.72),
    "attention_to_scale/voc_aug.yaml": ("Tables 3 and 5:", (1, 2), 64.39),
    "attention_to_scale/coco.yaml": ("Tables 6 and 7:", (3, 4), 31.61),
}
# Table 4, the test set of VOC, the paper's own rows: by (start, merge, random scaling).
TEST_SET = {
    ("VGG16", "average", (1.0, 1.0)): 70.5,
    ("VGG16", "max", (1.0, 1.0)): 70.6,
    ("VGG16", "attention", (1.0, 1.0)): 71.5,
    ("COCO", "attention", (1.0, 1.0)): 75.1,
    ("COCO", "attention", (0.6, 1.4)): 75.7,
}

DOCS = ROOT / "docs" / "models.md"


@functools.cache
def pasted(recipe: str) -> list[list[str]]:
    """What bash does when the header's indented lines are pasted: words of every `deepspeed` and `python`."""
    lines = RECIPES[recipe].read_text().splitlines()
    script = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    stubs = [f"{name}() {{ printf '%q ' CALL {name} \"$@\"; echo; }}" for name in ("deepspeed", "python")]
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(stubs + script)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return [shlex.split(line)[1:] for line in result.stdout.splitlines() if line.startswith("CALL ")]


@functools.cache
def classifier_names(name: str, classes: int, options: str) -> Sequence[str]:
    """Of the network; several recipes have the same."""
    with torch.device("meta"):
        return build_model(name, classes, **json.loads(options)).classifier_names


@functools.cache
def trainings(recipe: str) -> list[Config]:
    """The settings of every training in the header, as launcher/train.py reads them."""
    calls = [call for call in pasted(recipe) if "launcher/train.py" in call]
    return [train_config(call[call.index("launcher/train.py") + 1 :]) for call in calls]


def rows(recipe: str, heading: str) -> list[tuple[Config, tuple[float, ...]]]:
    """The rows below a heading (a pattern): settings, and what is said to be the paper's."""
    found, configs, current = [], iter(trainings(recipe)), ""
    for line in RECIPES[recipe].read_text().splitlines():
        if re.match(r"# \S", line):
            current = line.removeprefix("# ")
        elif re.match(r"#   train\w* ", line):
            config, numbers = next(configs), line.partition("# paper: ")[2]
            if re.match(heading, current):
                found.append((config, tuple(float(number) for number in numbers.split(", "))))
    assert next(configs, None) is None, "each row is one training"
    return found


def method(config: Config) -> tuple[str, str | None]:
    """(model.name, model.attention)."""
    return config.model.name, config.model.options.get("attention", "full") if config.model.name == "msanet" else None


def merging(config: Config) -> tuple[Any, ...] | None:
    """(scales, merge, extra supervision); None for a network without."""
    if config.model.name != "attention_to_scale":
        return None
    options = {option: default for option, (_, default) in model_options("attention_to_scale").items()}
    options |= config.model.options
    return options["scales"], options["merge"], options["extra_supervision"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    """benchmarks/models.py."""
    spec = importlib.util.spec_from_file_location("benchmarks_models", ROOT / "benchmarks" / "models.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_training_of_a_header_is_accepted_and_its_network_builds(recipe: str) -> None:
    settings = load_config(RECIPES[recipe])
    given = {call[call.index("--config") + 1] for call in pasted(recipe) if "--config" in call}
    assert given <= {f"jobs/recipes/{recipe}"}
    classes = DATASETS[PAPERS.get(recipe, "camvid")].num_classes
    models = [settings.model, *(config.model for config in trainings(recipe))]
    assert all(classifier_names(model.name, classes, json.dumps(model.options)) for model in models)


@pytest.mark.parametrize("recipe", BENCHMARKS)
def test_the_dataset_of_a_benchmark_is_packed_with_the_splits_of_its_recipe(recipe: str) -> None:
    pack_words, train_words = pasted(recipe)
    dataset, words = pack_words[3], pack_words[4:]
    args = pack.parser_of(find_reader(dataset), dataset).parse_args(words)
    data = load_config(RECIPES[recipe]).data
    usual = {"coco_stuff10k": ("train", "test"), "oxford_pet": ("trainval", "test")}.get(dataset, ("train", "val"))
    assert {data.train_split, data.val_split} <= {*(args.splits or usual)}
    assert dataset.partition("_")[0] == recipe.removeprefix("benchmarks/").partition("-")[0].partition("_")[0]
    assert train_words[2:4] == ["--config", f"jobs/recipes/{recipe}"]


@pytest.mark.parametrize("recipe", PAPERS)
def test_each_run_has_its_folder(recipe: str) -> None:
    seen: dict[Path | None, Config] = {}
    for config in trainings(recipe):
        assert seen.setdefault(config.run.dir, config) == config
    assert len({config.to_yaml().replace(str(folder), "") for folder, config in seen.items()}) == len(seen)


@pytest.mark.parametrize("recipe", PAPERS)
def test_the_dataset_command_is_accepted_and_makes_the_splits(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []

    def note(reader: Any, args: Any) -> None:
        packed.append((reader.name, args))

    monkeypatch.setattr(pack, "pack_dataset", note)
    monkeypatch.setattr(pack, "_summary", lambda packed: "")
    command = next(words for words in pasted(recipe) if words[0] == "python")
    assert [*command[:3]] == ["python", "-m", "sharding"] and shard(command[3:]) == 0
    ((name, args),) = packed
    data = load_config(RECIPES[recipe]).data
    assert name == PAPERS[recipe]
    pooled = getattr(args, "pool", None)
    usual = (
        ("pooled_train", "pooled_test") if pooled else ("train_aug" if getattr(args, "sbd", None) else "train", "val")
    )
    assert (data.train_split, data.val_split) == tuple(args.splits or usual)
    assert pooled == (0.1 if recipe == "msanet/voc.yaml" else None)


@pytest.mark.parametrize(("recipe", "table", "column"), [("msanet/voc.yaml", 4, 0), ("msanet/cityscapes.yaml", 5, 1)])
def test_the_rows_of_msanets_tables(recipe: str, table: int, column: int) -> None:
    found = {method(config): numbers for config, numbers in rows(recipe, f"Table {table}:")}
    assert found == {key: numbers[column] for key, numbers in MSANET.items()}
    for config in trainings(recipe):
        assert (config.model.pretrained is None) == (config.model.name in ("msanet", "unet"))


@pytest.mark.parametrize("recipe", ATTENTION_TO_SCALE)
def test_the_rows_of_attention_to_scales_tables(recipe: str) -> None:
    heading, columns, skip_net = ATTENTION_TO_SCALE[recipe]
    found = {merging(config): numbers for config, numbers in rows(recipe, heading)}
    assert found == {key: tuple(numbers[column] for column in columns) for key, numbers in MERGED.items()}
    ((config, numbers),) = rows(recipe, r"Section 4\.\d, in its text")
    assert (config.model.name, numbers) == ("deeplab_msc_largefov", (skip_net,))


def test_the_rows_of_the_test_set() -> None:
    recipe = "attention_to_scale/voc_aug.yaml"
    found = rows(recipe, "Table 4, ") + rows(recipe, "From COCO")
    keys = [
        (c.model.pretrained and c.model.pretrained.name, (merging(c) or ("", ""))[1], c.data.random_scale)
        for c, _ in found
    ]
    assert dict(zip(keys, (numbers[0] for _, numbers in found), strict=True)) == TEST_SET


def test_the_settings_are_the_papers() -> None:
    """MSANet section 4.2; Attention to Scale section 4, "Training"."""
    for recipe in PAPERS:
        config = load_config(RECIPES[recipe])
        data, optimizer, schedule, trainer = config.data, config.optimizer, config.schedule, config.trainer
        if recipe.startswith("msanet"):
            assert (data.resize, data.crop) == ((250, 250), (224, 224))
            assert (data.flip_horizontal, data.flip_vertical) == (0.5, 0.5)
            assert (optimizer.name, optimizer.lr, schedule.name, schedule.power) == ("adam", 1e-3, "poly", 0.9)
            assert (trainer.global_batch_size, trainer.epochs, trainer.steps) == (4, 200, None)
        else:
            assert (optimizer.name, optimizer.lr, optimizer.classifier_lr_mult) == ("sgd", 1e-3, 10)
            assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
            assert (schedule.name, schedule.decay_every_steps, schedule.gamma) == ("step", 2000, 0.1)
            assert trainer.global_batch_size == 30


def documented(columns: int) -> list[tuple[list[str], list[float]]]:
    """Settings and figures of the table with so many columns under "Recipes" in docs/models.md."""
    section = DOCS.read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    _, _, *body = [cells for cells in table if len(cells) == columns]  # header, rule
    return [
        (re.findall(r"model\.[^\s`]+", settings), [float(x) for x in re.findall(r"[\d.]+", " ".join(numbers))])
        for _, settings, *numbers in body
    ]


def test_the_documents_have_the_same_rows() -> None:
    found = {method(load_config(RECIPES["msanet/voc.yaml"], given)): numbers for given, numbers in documented(4)}
    assert found == {key: [*voc, *cityscapes] for key, (voc, cityscapes) in MSANET.items()}
    recipe = RECIPES["attention_to_scale/voc_aug.yaml"]
    merged = {merging(load_config(recipe, given)): numbers for given, numbers in documented(7)}
    assert merged == {key: list(numbers) for key, numbers in MERGED.items()}


@pytest.mark.parametrize("recipe", PAPERS)
def test_estimates_follow_from_their_formula(recipe: str, costs: ModuleType) -> None:
    """`A images x B epochs x C GFLOP x 3 / D TFLOP/s = E hours`, C being counted; and what is kept for the backward pass."""
    header, config = RECIPES[recipe].read_text(), load_config(RECIPES[recipe])
    number = r"([\d.]+)"
    formula = rf"# {number} (images|steps) x {number} (epochs|images) x {number} GFLOP x 3 / {number} TFLOP/s = {number} hours"
    match = re.search(formula, header)
    assert match
    count, _, times, _, giga, tera, hours = match.groups()
    assert float(hours) == round(float(count) * float(times) * float(giga) * 3 / (float(tera) * 1e3) / 3600, 1)
    assert {float(count), float(times)} & {config.trainer.epochs, config.trainer.steps}
    classes, size = DATASETS[PAPERS[recipe]].num_classes, config.data.crop
    assert size is not None
    network = costs.build(config.model.name, torch.device("meta"), classes)
    assert round(costs.forward_flop(network, *size) / 1e9) == float(giga)
    kept = re.search(r"Of each image (\d+) MB are kept for the backward pass, (\d+) GB of 30", header)
    if kept:
        megabytes = costs.kept_bytes(config.model.name, *size, classes) / 1e6
        assert (round(megabytes), round(megabytes * 30 / 1e3)) == (int(kept[1]), int(kept[2]))


def test_attention_is_counted(costs: ModuleType) -> None:
    """4 N^2 d, and three of its four 1x1 convolutions, are what MSANet's attention adds to its fused features."""
    full, fusion = (costs.build(label, torch.device("meta")) for label in ("msanet", "msanet attention=fusion"))
    expected = 0
    for stride, channels in ((4, 256), (2, 128)):
        positions = (64 // stride) * (96 // stride)
        expected += 4 * positions**2 * channels + 3 * 2 * positions * channels**2
    assert costs.forward_flop(full, 64, 96) - costs.forward_flop(fusion, 64, 96) == expected


def test_fake_tensors_keep_what_real_ones_keep(costs: ModuleType) -> None:
    for label in ("msanet width=0.125", "deeplabv3 width=0.125 auxiliary=true"):
        real = costs._kept_bytes(costs.build(label), 64, 96)
        assert costs.kept_bytes(label, 64, 96) == real > 0


def test_the_documents_have_what_is_counted(costs: ModuleType) -> None:
    """Parameters and arithmetic under "Cost of each network" in docs/models.md."""
    section = DOCS.read_text().partition("\n## Cost of each network\n")[2].partition("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    written = {cells[0].strip("`"): tuple(cells[1:4]) for cells in table}
    assert written.keys() == set(costs.NETWORKS)
    for label, figures in written.items():
        network = costs.build(label, torch.device("meta"))
        giga = [f"{costs.forward_flop(network, *size) / 1e9:,.0f}" for size in (costs.CROP, costs.STREET)]
        assert (f"{sum(p.numel() for p in network.parameters()):,}", *giga) == figures
