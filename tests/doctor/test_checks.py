"""Each check of data, batches and machine, with a case that trips it and one that does not."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from msanet.config import Config, DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainerConfig
from msanet.data.loader import BatchPlan
from msanet.data.manifest import SplitInfo, load_manifest
from msanet.data.shard_source import ShardSource
from msanet.data.storage import LocalStorage
from msanet.doctor import batches, images, labels, machine, shards
from msanet.doctor.diagnostics import Diagnostic, as_text, as_tree, has_fault
from msanet.models.blocks import ImageBatchNorm2d

CLASSES = ("sky", "road", "car")
GRAY = shards.SampleStatistics(
    "a", (36, 44), (120.0, 115.0, 105.0), (120.0**2 + 3300, 115.0**2 + 3300, 105.0**2 + 3300), 250, False
)


def levels(diagnostics: Sequence[Diagnostic]) -> list[str]:
    return [diagnostic.level for diagnostic in diagnostics]


def split(histogram: Sequence[int], ignored: int = 0) -> SplitInfo:
    return SplitInfo(samples=0, shards=(), histogram=tuple(histogram), ignored=ignored)


FINE = split([50, 30, 20], ignored=5)


def test_a_list_of_findings_is_shown_and_counted() -> None:
    diagnostics = [Diagnostic("ok", "shards", "all read"), Diagnostic("fault", "labels", "found x, expected y; do z")]
    text = as_text(diagnostics)
    assert "fault    labels  found x, expected y; do z" in text and text.endswith("1 fault, 0 warning, 0 advice")
    assert has_fault(diagnostics) and not has_fault(diagnostics[:1])
    assert as_tree(diagnostics)["diagnostics"][0] == {"level": "ok", "check": "shards", "text": "all read"}


def test_splits_that_are_named_have_to_be_there(shards_manifest: Path) -> None:
    manifest = load_manifest(shards_manifest)
    assert shards.splits_exist(manifest, {"data.val_split": "val"}) == []
    (diagnostic,) = shards.splits_exist(manifest, {"data.val_split": "test"})
    assert diagnostic.level == "fault" and "which has: train, val" in diagnostic.text


def test_samples_that_packing_skipped_are_a_warning(tmp_path: Path) -> None:
    assert shards.skipped_samples(LocalStorage(tmp_path)) == []
    (tmp_path / "bad-samples.jsonl").write_text(
        '{"key": "a", "error": "a.png cannot be decoded"}\n{"key": "b", "error": "x"}\n'
    )
    (diagnostic,) = shards.skipped_samples(LocalStorage(tmp_path))
    assert diagnostic.level == "warning" and "2 samples" in diagnostic.text and "a.png cannot" in diagnostic.text


def test_samples_that_cannot_be_read_are_a_fault(shards_manifest: Path, tmp_path: Path) -> None:
    manifest = load_manifest(shards_manifest)
    statistics, faults = shards.sample_split(ShardSource(LocalStorage(shards_manifest), "val", manifest), 5)
    assert len(statistics) == 5 and statistics[0].size == (36, 44) and not statistics[0].image_is_label
    assert levels(shards.readable("val", 7, statistics, faults)) == ["ok"]
    nothing, faults = shards.sample_split(ShardSource(LocalStorage(tmp_path), "val", manifest), 5)
    (diagnostic,) = shards.readable("val", 7, nothing, faults)
    assert diagnostic.level == "fault" and "5 of 5 samples" in diagnostic.text and "cannot be opened" in diagnostic.text


def test_samples_are_spread_evenly() -> None:
    assert (
        shards.evenly_spread(100, 4) == [12, 37, 62, 87]
        and shards.evenly_spread(3, 50) == [0, 1, 2]
        and shards.evenly_spread(0, 5) == []
    )


def test_statistics_of_a_sample() -> None:
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (7, 9, 3), np.uint8), rng.integers(0, 3, (7, 9), np.uint8)
    sample = shards.sample_statistics(image, label, "key")
    assert sample.size == (7, 9) and sample.brightest == image.max()
    np.testing.assert_allclose(sample.mean, image.mean(axis=(0, 1)))
    np.testing.assert_allclose(sample.square, (image.astype(float) ** 2).mean(axis=(0, 1)))
    assert shards.sample_statistics(np.repeat(label[..., None], 3, axis=2), label, "key").image_is_label


@pytest.mark.parametrize(
    ("found", "level", "expected"),
    [
        (labels.binary_masks(split([90, 0, 0], 10), CLASSES), "fault", "0 and 255"),
        (labels.shifted_ids(split([0, 50, 50]), None, CLASSES), "warning", "begin with 1"),
        (labels.missing_classes(split([50, 50, 0]), FINE, CLASSES), "warning", "class 'car' occur in validation"),
        (labels.missing_classes(split([50, 50, 0]), split([1, 1, 0]), CLASSES), "warning", "'car' never occur"),
        (labels.dominant_class(split([97, 2, 1]), CLASSES), "warning", "'sky' has 97.0%"),
        (labels.ignored_share("training", split([10, 10, 10], 70)), "warning", "70.0%"),
        (labels.ignored_share("training", split([0, 0, 0], 70)), "fault", "100.0%"),
        (labels.void_class(FINE, ("sky", "Void", "car")), "warning", "'Void'"),
        (labels.image_is_label([GRAY, replace(GRAY, image_is_label=True)]), "fault", "1 of 2 images"),
    ],
)
def test_labels_that_are_wrong(found: list[Diagnostic], level: str, expected: str) -> None:
    assert levels(found) == [level] and expected in found[0].text


def test_labels_that_are_fine() -> None:
    assert labels.binary_masks(FINE, CLASSES) == labels.binary_masks(split([9]), ("sky",)) == []
    assert labels.shifted_ids(FINE, FINE, CLASSES) == labels.shifted_ids(split([0, 5, 5]), FINE, CLASSES) == []
    assert levels(labels.missing_classes(FINE, FINE, CLASSES)) == ["ok"]
    assert labels.dominant_class(FINE, CLASSES) == labels.ignored_share("val", FINE) == []
    assert labels.void_class(split([50, 0, 50]), ("sky", "void", "car")) == labels.image_is_label([GRAY]) == []


def test_images_of_several_sizes_need_a_crop() -> None:
    statistics = [GRAY, replace(GRAY, size=(40, 44))]
    (diagnostic,) = images.sizes(statistics, DataConfig(), 2)
    assert diagnostic.level == "fault" and "data.crop=[40,44]" in diagnostic.text
    assert (
        levels(images.sizes(statistics, DataConfig(), 1))
        == levels(images.sizes(statistics, DataConfig(crop=(32, 32)), 2))
        == ["ok"]
    )
    assert levels(images.sizes([GRAY], DataConfig(), 2)) == ["ok"]


def test_padding_is_the_share_of_the_crop_outside_the_image() -> None:
    assert images.padding([GRAY], DataConfig()) == images.padding([GRAY], DataConfig(crop=(36, 44))) == []
    (diagnostic,) = images.padding([GRAY], DataConfig(crop=(72, 44)))
    assert diagnostic.level == "advice" and diagnostic.text.startswith("50% of a crop of 44x72")
    assert levels(images.padding([GRAY], DataConfig(crop=(72, 88)))) == ["warning"]  # 75 percent
    assert images.padding([GRAY], DataConfig(crop=(72, 88), random_scale=(2.0, 2.0))) == []
    (diagnostic,) = images.padding([GRAY], DataConfig(crop=(72, 88), random_scale=(1.0, 2.0)))
    assert diagnostic.text.startswith("41% of")  # 1 - the mean of (f / 2)^2 over 9 scales f from 1 to 2
    assert images.padding([GRAY], DataConfig(crop=(72, 88), resize=(72, 88))) == []


def test_a_resize_that_stretches() -> None:
    assert images.stretching([GRAY], DataConfig()) == images.stretching([GRAY], DataConfig(resize=(72, 88))) == []
    (diagnostic,) = images.stretching([GRAY], DataConfig(resize=(36, 88)))
    assert diagnostic.level == "advice" and "factor of 2.00" in diagnostic.text
    assert levels(images.stretching([GRAY], DataConfig(resize=(72, 44)))) == ["advice"]


@pytest.mark.parametrize(
    ("sample", "data", "level", "expected"),
    [
        (GRAY, DataConfig(), "ok", "[120.0,115.0,105.0]"),
        (replace(GRAY, brightest=1), DataConfig(), "fault", "0 to 255"),
        (GRAY, DataConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), "warning", "0..1"),
        (GRAY, DataConfig(mean=(103.5, 116.3, 123.7)), "warning", "red, green, blue"),
        (GRAY, DataConfig(mean=(20.0, 20.0, 20.0)), "advice", "far from"),
        (GRAY, DataConfig(std=(10.0, 10.0, 10.0)), "advice", "far from"),
    ],
)
def test_mean_and_standard_deviation(
    sample: shards.SampleStatistics, data: DataConfig, level: str, expected: str
) -> None:
    (diagnostic,) = images.normalization([sample], data)
    assert diagnostic.level == level and expected in diagnostic.text


def test_steps_epochs_and_dropped_samples() -> None:
    plan = BatchPlan(8, 2, 2)
    (diagnostic,) = batches.steps(Config(), plan, 100, 100, 250)
    assert diagnostic.level == "ok"
    assert diagnostic.text.startswith(
        "250 steps of 8 images are 20 epochs of 100; a rank (of 2) takes 2 x 2 images a step, 50"
    )
    assert levels(batches.steps(Config(), plan, 100, 100, 5)) == ["ok", "warning"]
    assert levels(batches.steps(Config(), plan, 15, 8, 50)) == ["ok", "advice"]


def test_ranks_without_a_validation_image() -> None:
    assert batches.idle_ranks(7, 7) == []
    (diagnostic,) = batches.idle_ranks(7, 8)
    assert diagnostic.level == "advice" and "so 1 will wait" in diagnostic.text


def test_intervals() -> None:
    trainer = TrainerConfig(checkpoint_every_steps=50, val_every_epochs=2, log_every_steps=10)
    assert batches.intervals(Config(trainer=trainer), 10, 100) == []
    for change, level in (
        ({"checkpoint_every_steps": 100}, "advice"),
        ({"val_every_epochs": 10}, "advice"),
        ({"val_every_epochs": 0.01}, "warning"),
        ({"log_every_steps": 101}, "advice"),
    ):
        config = Config(trainer=trainer.model_copy(update=change))
        assert levels(batches.intervals(config, 10, 100)) == [level], change


def test_schedule() -> None:
    assert batches.schedule(ScheduleConfig(name="step", decay_every_steps=99, warmup_steps=50), 100) == []
    assert batches.schedule(ScheduleConfig(name="poly", decay_every_steps=2000), 100) == []
    assert levels(batches.schedule(ScheduleConfig(name="step", decay_every_steps=100), 100)) == ["warning"]
    assert levels(batches.schedule(ScheduleConfig(warmup_steps=51), 100)) == ["warning"]


@pytest.mark.parametrize(
    ("optimizer", "global_batch_size", "warmup", "pretrained", "level"),
    [
        (OptimizerConfig(lr=3e-3), 8, 0, False, "ok"),
        (OptimizerConfig(lr=4e-3), 8, 0, False, "warning"),
        (OptimizerConfig(name="sgd", lr=0.01), 16, 0, False, "ok"),
        (OptimizerConfig(name="sgd", lr=0.05), 16, 0, False, "warning"),
        (OptimizerConfig(name="sgd", lr=0.05), 32, 0, False, "ok"),
        (OptimizerConfig(name="sgd", lr=1e-3), 16, 0, False, "advice"),
        (OptimizerConfig(name="sgd", lr=1e-3), 16, 0, True, "ok"),
        (OptimizerConfig(name="sgd", lr=1e-3, classifier_lr_mult=10), 30, 0, False, "ok"),  # Attention to Scale
        (OptimizerConfig(), 65, 0, False, "advice"),
        (OptimizerConfig(), 65, 1, False, "ok"),
    ],
)
def test_learning_rate(
    optimizer: OptimizerConfig, global_batch_size: int, warmup: int, pretrained: bool, level: str
) -> None:
    assert levels(batches.learning_rate(optimizer, warmup, global_batch_size, pretrained)) == [level]


def test_class_weights() -> None:
    assert batches.class_weights([0.5, 1.0, 49.0], CLASSES) == []
    assert levels(batches.class_weights([0.5, 1.0, 51.0], CLASSES)) == ["advice"]
    assert levels(batches.class_weights([0.0, 1.0, 1.0], CLASSES)) == ["warning"]


def test_batch_norm() -> None:
    norm, pooling = nn.Sequential(nn.BatchNorm2d(8)), nn.Sequential(nn.BatchNorm2d(8), ImageBatchNorm2d(8))
    assert levels(batches.batch_norm(nn.Sequential(nn.GroupNorm(2, 8)), BatchPlan(1, 1, 1), False, True)) == ["ok"]
    assert levels(batches.batch_norm(norm, BatchPlan(8, 4, 2), False, True)) == ["ok"]
    assert levels(batches.batch_norm(norm, BatchPlan(8, 2, 2), True, True)) == ["ok"]
    (diagnostic,) = batches.batch_norm(norm, BatchPlan(8, 2, 2), False, True)
    assert diagnostic.level == "advice"
    assert all(
        name in diagnostic.text for name in ("trainer.micro_batch_size", "trainer.sync_batchnorm", "model.norm=group")
    )
    assert levels(batches.batch_norm(pooling, BatchPlan(2, 2, 1), False, True)) == ["warning"]
    assert levels(batches.batch_norm(pooling, BatchPlan(3, 3, 1), False, True)) == ["advice"]


def test_disk() -> None:
    assert levels(machine.checkpoint_space(10, 2, 30, Path("/x"))) == ["ok"]
    assert levels(machine.checkpoint_space(10, 2, 29, Path("/x"))) == ["fault"]
    assert levels(machine.cache_space(100, 100, 200, Path("/x"))) == ["ok"]
    assert levels(machine.cache_space(100, 99, 200, Path("/x"))) == ["advice"]
    assert levels(machine.cache_space(100, 100, 99, Path("/x"))) == ["advice"]


def test_run_folder(tmp_path: Path) -> None:
    new, used = tmp_path / "a" / "b", tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("x")
    assert levels(machine.run_folder(RunConfig(), new, [])) == ["ok"]
    assert levels(machine.run_folder(RunConfig(), used, [])) == ["advice"]
    (diagnostic,) = machine.run_folder(RunConfig(), used, ["step-00000500"])
    assert diagnostic.level == "advice" and "resumes from step-00000500" in diagnostic.text
    assert levels(machine.run_folder(RunConfig(resume="never"), used, ["step-00000500"])) == ["fault"]
    assert levels(machine.run_folder(RunConfig(resume="must"), new, [])) == ["fault"]
    assert levels(machine.run_folder(RunConfig(), used / "notes.txt" / "run", [])) == ["fault"]


def test_versions() -> None:
    def installed(name: str) -> str:
        if name == "absent":
            raise PackageNotFoundError(name)
        return "2.13.0+cpu"

    assert levels(machine.versions(["torch>=2.11,<2.14", "absent>=1; extra == 'test'"], installed)) == ["ok"]
    assert levels(machine.versions(["torch>=2.11,<2.13"], installed)) == ["warning"]
    assert levels(machine.versions(["absent>=1"], installed)) == ["fault"]


def test_versions_where_msanet_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(machine, "requires", absent)
    (diagnostic,) = machine.versions()
    assert diagnostic.level == "warning" and "msanet is not installed" in diagnostic.text


def test_processes_files_and_shared_memory() -> None:
    assert levels(machine.cores(4, 2, 1)) == ["ok"] and levels(machine.cores(4, 2, 2)) == ["advice"]
    assert machine.open_files(1024, 4, 2, 4) == [] and levels(machine.open_files(1024, 40, 4, 4)) == ["warning"]
    assert levels(machine.open_files(1024, 64, 4, 4)) == levels(machine.open_files(64, 8, 2, 4)) == ["fault"]
    assert levels(machine.shared_memory(1000, 2, 300, 200)) == ["ok"] and machine.shared_memory(None, 2, 10**9, 0) == []
    (diagnostic,) = machine.shared_memory(64_000_000, 2, 30_000_000, 8_000_000)
    assert diagnostic.level == "fault" and "need 76.0 MB" in diagnostic.text and "64.0 MB free" in diagnostic.text


@pytest.fixture(name="shards_manifest")
def _shards_manifest(request: pytest.FixtureRequest) -> Path:
    """The fixture `shards`, whose name is that of the module under test here."""
    folder: Path = request.getfixturevalue("shards")
    return folder
