"""The metric in the loops that docs/evaluation.md shows, as printed there, and on several ranks."""

import logging
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import support.torchvision_shim.sitecustomize  # noqa: F401  # on the ranks too, before torchmetrics imports torchvision
from msanet.cli.main import main
from msanet.metrics import SegmentationScores, hf_compute_metrics
from msanet.run_layout import RunLayout
from support.ranks import run_ranks

PAGE = Path(__file__).parent.parent.parent / "docs/evaluation.md"
K = 19


def data(images: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (N, 3, 16, 24), labels with ignored pixels, and numbers."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (images, 16, 24), generator=rng)
    labels[:, :, :3] = 255
    return torch.randn(images, 3, 16, 24, generator=rng), labels, torch.arange(images)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, K, 3, stride=2, padding=1)  # half the labels' size


def example(number: int, **names: Any) -> dict[str, Any]:
    """Run one Python block of the section and return its names."""
    section = PAGE.read_text(encoding="utf-8").partition("## In your own training loop")[2].partition("\n## ")[0]
    block = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]
    exec(block, names)
    return names


def expected(**options: Any) -> dict[str, float]:
    images, labels, _ = data()
    metric = SegmentationScores(K, **options)
    with torch.no_grad():
        metric.update(network()(images), labels)
    return {name: value.item() for name, value in metric.compute().items()}


def assert_equal(found: Any, wanted: dict[str, float], prefix: str = "") -> None:
    for name, value in wanted.items():
        assert np.array_equal(float(found[prefix + name]), value, equal_nan=True), name


def test_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And `msanet compare` reads what it writes."""
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(TensorDataset(*data()), batch_size=2)
    names = example(0, network=network(), loader=loader, device="cpu", names=list("abcde"), rank=0)
    assert_equal(names["metrics"], expected())
    assert "mIoU" in capsys.readouterr().out and RunLayout(tmp_path / "mine").evaluation("val").is_file()
    assert main(["compare", "mine", "mine"]) == 0


@pytest.mark.full
@pytest.mark.parametrize("by_log", [False, True], ids=["log_dict", "log"])
def test_lightning(tmp_path: Path, by_log: bool) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    Segmenter = example(1)["Segmenter"]

    class Logging(Segmenter):  # type: ignore[misc, valid-type]
        """The variant of the sentence below the example."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            self.mean_iou = self.scores["mean_iou"]

        def validation_step(self, batch: Any, batch_index: int) -> None:
            super().validation_step(batch, batch_index)
            self.log("val/mean_iou", self.mean_iou)

        def on_validation_epoch_end(self) -> None:
            pass

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    module = (Logging if by_log else Segmenter)(network())
    images, labels, _ = data()
    wanted = expected(calibration=True)
    for _ in range(2):  # the second starts from nothing
        (found,) = trainer.validate(module, DataLoader(TensorDataset(images, labels), batch_size=2), verbose=False)
        assert_equal(found, {"mean_iou": wanted["mean_iou"]} if by_log else wanted, "val/")


class HfNetwork(nn.Module):
    """As transformers' networks are called."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(pixel_values)
        return {"loss": logits.mean(), "logits": logits}


class HfData(Dataset[dict[str, torch.Tensor]]):
    """As transformers' Trainer takes it."""

    def __len__(self) -> int:
        return len(data()[0])

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        images, labels, _ = data()
        return {"pixel_values": images[number], "labels": labels[number]}


@pytest.mark.full
def test_transformers_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch by batch, and with all logits kept until the end; twice, the second from nothing."""
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    trainer = example(2, network=HfNetwork(), train=HfData(), val=HfData())["trainer"]
    wanted = expected(boundary=True)
    assert_equal(trainer.evaluate(), wanted, "eval_")
    assert_equal(trainer.evaluate(), wanted, "eval_")
    arguments = transformers.TrainingArguments("out", per_device_eval_batch_size=2)
    trainer = transformers.Trainer(
        HfNetwork(), arguments, eval_dataset=HfData(), compute_metrics=hf_compute_metrics(K, boundary=True)
    )
    assert_equal(trainer.evaluate(), wanted, "eval_")


def test_hf_compute_metrics_takes_arrays_tuples_and_padded_labels() -> None:
    images, labels, _ = data()
    logits = network()(images).detach()
    padded = torch.where(labels == 255, -100, labels)
    compute = hf_compute_metrics(K)
    for predictions in (logits.numpy(), (logits.numpy(), None)):
        found = compute(SimpleNamespace(predictions=predictions, label_ids=padded.numpy()))
        assert_equal(found, expected())
        assert all(type(value) is float for value in found.values())


def _count(out: str, sampler: str) -> None:
    """Each rank counts its share, in batches; rank 0 of those with a sampler that pads, or each image of one rank only."""
    images, labels, numbers = data()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dataset = TensorDataset(images, labels, numbers)
    metric = SegmentationScores(K, per_image=True, boundary=sampler != "pads", calibration=sampler != "pads")
    mine: Any = (
        DistributedSampler(dataset, world, rank, shuffle=False) if sampler == "pads" else [*range(5)][rank::world]
    )
    if sampler == "first":
        mine = [*range(5)] if rank == 0 else []
    model = nn.parallel.DistributedDataParallel(network())
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=2, sampler=mine):
            metric(model.module(batch[0]), *batch[1:])
    values = [float(value) for value in metric.compute().values()]
    evaluation = metric.evaluation(list("abcde"))
    metric.reset()
    assert metric.confusion_matrix.sum() == 0
    counts = evaluation.per_image_counts
    Path(f"{out}-{rank}").write_text(repr((values, evaluation.num_duplicate, counts.keys, counts.counts.tolist())))


@pytest.mark.full
@pytest.mark.parametrize(("sampler", "again"), [("shares", 0), ("first", 0), ("pads", 1)])
def test_two_ranks_give_the_same_as_one(tmp_path: Path, sampler: str, again: int) -> None:
    """In DistributedDataParallel: five images shared, all on one rank, and padded so that one is counted twice."""
    outputs = run_ranks(2, __file__, "_count", {"out": str(tmp_path / "out"), "sampler": sampler})
    first, second = ((tmp_path / f"out-{rank}").read_text() for rank in range(2))
    values, duplicates, keys, counts = eval(first, {"nan": float("nan")})
    assert first == second and duplicates == again and keys == tuple("abcde")
    assert ("counted more than once" in outputs[0]) == bool(again) and "counted more" not in outputs[1]
    wanted = expected(boundary=not again, calibration=not again)
    assert np.array_equal(values, list(wanted.values()), equal_nan=True)
    images, labels, numbers = data()
    metric = SegmentationScores(K, per_image=True)
    metric.update(network()(images), labels, numbers)
    assert counts == metric.evaluation().per_image_counts.counts.tolist()
