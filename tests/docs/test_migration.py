"""docs/migrate: every command of ours and every Python block is run, in the order of each page, and every setting is one."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import REPOSITORY
from msanet.config import Config, load_config
from msanet.metrics import SegmentationScores
from support.forked import Forks
from support.migration_project import MY_PROJECT, WEIGHTS, write_datasets, write_parquet

PAGES = sorted((REPOSITORY / "docs/migrate").glob("*.md"))
NAMES = [page.stem for page in PAGES]
SECTIONS = "run|data|storage|model|loss|optimizer|schedule|trainer|evaluation|deepspeed"
SMALL = "data.crop=[32,32] data.num_workers=0 evaluation.num_workers=0 evaluation.panels=1 evaluation.worst=1 trainer.steps=2"
SMALL += " trainer.global_batch_size=2 trainer.precision=fp32"
SUBSTITUTES = {
    "resnet34": "tu-test_resnet",
    'encoder_weights="imagenet"': "encoder_weights=None",
    ", pretrained: imagenet": "",
    "(512, 512)": "(32, 32)",
    "--size 512 512": "--size 64 64",
    "seed=1), batch_size=8": "seed=1), batch_size=4, num_workers=0",
    "per_device_train_batch_size=8": "per_device_train_batch_size=4",
    "max_epochs=50": "max_epochs=1",
    "num_train_epochs=50": "num_train_epochs=1",
    "num_train_epochs=2": "max_steps=2",
}
"""Small networks and images in place of those on the pages, weights that are here, and no loader processes."""


def parts(page: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each block, and ("inline", text) of each piece of code in a line, in order."""
    text = (REPOSITORY / f"docs/migrate/{page}.md").read_text(encoding="utf-8")
    for language, block, inline in re.findall(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", text, re.DOTALL | re.MULTILINE):
        yield (language, block) if block else ("inline", inline)


def commands(page: str) -> list[str]:
    """All commands in blocks and in lines that begin with one of these words."""
    found = [line for kind, text in parts(page) if kind in ("sh", "inline") for line in text.splitlines()]
    return [line for line in found if line.startswith(("msanet ", "deepspeed ", "sbatch "))]


def settings(page: str) -> Iterator[list[str]]:
    """`section.name`, or one or more `section.name=value`; code in parentheses is not ours."""
    for kind, text in parts(page):
        if kind == "inline" and re.match(rf"({SECTIONS})\.[a-z_.]+(=|$)", text) and "(" not in text:
            yield re.split(rf" (?=(?:{SECTIONS})\.\w)", text)


@pytest.mark.parametrize("page", NAMES)
def test_every_setting_is_one(page: str) -> None:
    """Those of networks are checked where the networks are built."""
    for first, *others in settings(page):
        section, _, field = first.partition(".")
        if "=" in first:
            load_config(None, ["data.crop=[32,32]", first, *others])  # a scale needs one
        elif first != "trainer.predict" and section != "model":
            assert field in type(getattr(Config(), section)).model_fields, first
    assert page == "index" or len([*settings(page)]) > 30


@pytest.mark.parametrize("page", NAMES)
def test_the_same_command_is_started_on_several_gpus(page: str) -> None:
    one = {tuple(shlex.split(line)[1:]) for line in commands(page) if line.startswith("msanet ")}
    for line in commands(page):
        if line.startswith("deepspeed "):
            assert tuple(shlex.split(line.removeprefix("deepspeed --module msanet "))) in one, line
        elif line.startswith("sbatch "):
            assert ("train", *shlex.split(line.partition("jobs/slurm.sh ")[2])) in one, line


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    modules = ("segmentation_models_pytorch", "transformers", "lightning", "msanet.metrics", "msanet.api.evaluation")
    with Forks(
        *modules, "deepspeed", "tensorboard", "onnxscript", "onnxruntime", "torch.onnx._internal.exporter"
    ) as running:
        yield running


@pytest.mark.full
@pytest.mark.parametrize("page", NAMES)
def test_everything_runs_as_printed(page: str, forks: Forks, tmp_path: Path) -> None:
    for name in ("lightning", "transformers", "segmentation_models_pytorch", "pyarrow"):
        pytest.importorskip(name)
    write_datasets(tmp_path)
    write_parquet(tmp_path)
    (tmp_path / "my_project.py").write_text(MY_PROJECT[page])
    (tmp_path / "weights.py").write_text(WEIGHTS)
    done, failed = set[str](), list[str]()

    def run(words: list[str]) -> None:
        code, output = forks.run(words, tmp_path)
        if code:
            failed.append(f"{shlex.join(words)}\n{output}")

    run(["python", "weights.py"])
    for number, (kind, text) in enumerate(parts(page)):
        for old, new in SUBSTITUTES.items():
            text = text.replace(old, new)
        if kind == "yaml":
            (tmp_path / text.split()[1]).write_text(text)
        elif kind == "python":
            (tmp_path / f"block_{number}.py").write_text(text)
            run(["python", f"block_{number}.py"])
        for line in text.splitlines() if kind in ("sh", "inline") else ():
            if line.startswith("msanet ") and line.count(" ") > 1 and line not in done:
                small = {"train": SMALL, "doctor": SMALL, "pack": "--workers 1"}.get(line.split()[1], "")
                run(shlex.split(f"{line} {small}"))
                done.add(line)
    assert not failed, "\n\n".join(failed)


def test_the_quick_examples_have_ten_lines() -> None:
    blocks = [text for kind, text in parts("index") if kind == "python"]
    lines = [sum(bool(line.strip()) for line in block.splitlines()) for block in blocks]
    assert len(lines) == 3 and max(lines) <= 10, lines


def label_maps(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels (5, 16, 24) of this many classes, with ignored pixels."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (5, 16, 24), generator=rng)
    guesses = torch.randint(0, classes, labels.shape, generator=rng) % 2
    predictions = torch.where(torch.rand(labels.shape, generator=rng) < 0.6, labels, guesses)
    labels[:2, :, :12] = 0
    labels[:, :2] = 255
    return predictions, labels


def added_up(predictions: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[str, float]:
    """The rule of mmsegmentation's IoUMetric and of evaluate's mean_iou, in the words of the pages."""
    counted = labels != 255
    counts = [[(p == k, t == k) for p, t in [(predictions[counted], labels[counted])]][0] for k in range(classes)]
    both, predicted, labeled = (
        np.array([float(value.sum()) for value in values])
        for values in zip(*((p & t, p, t) for p, t in counts), strict=True)
    )
    with np.errstate(invalid="ignore"):
        found: dict[str, NDArray[np.float64]] = {
            "mean_iou": both / (predicted + labeled - both),
            "mean_accuracy": both / labeled,
            "mean_dice": 2 * both / (predicted + labeled),
        }
    return {name: float(np.nanmean(value)) for name, value in found.items()} | {
        "pixel_accuracy": both.sum() / labeled.sum()
    }


@pytest.mark.parametrize("occurring", [4, 3], ids=["all classes", "one class is absent"])
def test_figures_of_others_that_equal_ours(occurring: int) -> None:
    """And those that do not, in the tables of the pages."""
    segmentation = pytest.importorskip("torchmetrics.segmentation")
    classification = pytest.importorskip("torchmetrics.classification")
    predictions, labels = label_maps(occurring)
    ours, jaccard = SegmentationScores(4), classification.MulticlassJaccardIndex(4, ignore_index=255)
    for batch in (slice(0, 3), slice(3, 5)):
        ours.update(predictions[batch], labels[batch])
        jaccard.update(predictions[batch], labels[batch])
    scores = {name: value.item() for name, value in ours.compute().items()}
    for name, value in added_up(predictions, labels, 4).items():
        assert scores[name] == pytest.approx(value, abs=1e-12), name
    assert jaccard.compute().item() == pytest.approx(scores["mean_iou"], abs=1e-6)
    mean_of_images = segmentation.MeanIoU(4, input_format="index")
    assert mean_of_images(predictions, labels.where(labels != 255, 0)).item() != pytest.approx(
        scores["mean_iou"], abs=0.01
    )


@pytest.mark.full
@pytest.mark.parametrize("occurring", [4, 3], ids=["all classes", "one class is absent"])
def test_figures_of_smp_that_equal_ours(occurring: int) -> None:
    metrics = pytest.importorskip("segmentation_models_pytorch").metrics
    predictions, labels = label_maps(occurring)
    ours = SegmentationScores(4)
    ours.update(predictions, labels)
    scores = {name: value.item() for name, value in ours.compute().items()}
    counts = metrics.get_stats(predictions, labels, mode="multiclass", num_classes=4, ignore_index=255)
    for name, figure in (("mean_iou", "iou_score"), ("mean_dice", "f1_score"), ("mean_accuracy", "recall")):
        macro = getattr(metrics, figure)(*counts, reduction="macro").item()
        assert (macro == pytest.approx(scores[name], abs=1e-6)) == (occurring == 4)
    for reduction in ("micro", "micro-imagewise", "macro-imagewise"):
        assert metrics.iou_score(*counts, reduction=reduction).item() != pytest.approx(scores["mean_iou"], abs=1e-4)
