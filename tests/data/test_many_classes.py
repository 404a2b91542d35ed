"""Labels of 16 bits go through augmentation as those of 8 bits do: the same pixels, another type."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msanet.config import parse_config
from msanet.data.image.codec import encode_members
from msanet.data.label_scheme import LabelScheme
from msanet.data.label_tensors import to_label_array, to_label_tensor
from msanet.data.manifest import Manifest, ShardInfo, SplitInfo, schema_version
from msanet.data.mixing import Mixing
from msanet.data.mixture import Part, label_table, mixed_manifest, shares_of
from msanet.data.pipeline import BAD_SAMPLE, augment, collate, evaluation_samples
from msanet.data.samples import TRAIN_IDS, TrainSample, augment_sample, decode_sample, placeholder_sample
from msanet.data.shared_memory import evaluation_bytes, training_bytes
from msanet.data.transforms import apply_transforms
from msanet.data.user_dataset import UserSplit
from msanet.datasets import ignore_index
from support.errors import raises_user_error
from support.many_classes import IGNORED, label

SIZE = (64, 96)
NARROW, WIDE = (40,) * 200, (40,) * 200 + (0,) * 100
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "flips": {"flip_vertical": 0.5},
    "padding": {"crop": [90, 110], "random_scale": [0.5, 1.2]},
    "scale": {"random_scale": [0.5, 2.0]},
    "warp": {"rotation": 30.0, "shear": 10.0, "perspective": 0.3},
    "mixed": {"cat_max_ratio": 0.05},
    "rare": {"rare_class_crops": 1.0, "crop": [50, 80]},
}


def narrowed(label_HW: np.ndarray) -> np.ndarray:
    assert label_HW.dtype == np.uint16 and not (label_HW == 255).any()
    return np.where(label_HW == IGNORED, 255, label_HW).astype(np.uint8)


def pair(seed: int, as_tiles: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sample with train ids below 200 in labels of 8 bits, and in those of 16."""
    image_HWC = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    wide_HW = label(seed, 200, SIZE)
    wide_HW[wide_HW == 255] = 199
    samples = []
    for label_HW in (narrowed(wide_HW), wide_HW):
        arrays: dict[str, Any] = {"image.npy": image_HWC, "label.npy": label_HW}
        members = encode_members("tiff", None, "png", image_HWC, label_HW) if as_tiles else arrays
        samples.append({"__key__": "k", "__url__": "u", **members})
    return samples[0], samples[1]


def data(**settings: Any) -> Any:
    return parse_config({"data": {"crop": [32, 48], **settings}}, "test").data


@pytest.mark.parametrize("as_tiles", [False, True])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_labels_of_16_bits_are_cropped_as_those_of_8(name: str, as_tiles: bool) -> None:
    config, ignored = data(**AUGMENTATIONS[name]), 0
    for number in range(8):
        narrow, wide = pair(number, as_tiles)
        one = augment_sample(narrow, number, 0, config, 0, NARROW)
        two = augment_sample(wide, number, 0, config, 0, WIDE)
        assert np.array_equal(one.image_HWC, two.image_HWC) and np.array_equal(one.label_HW, narrowed(two.label_HW))
        ignored += int((two.label_HW == IGNORED).sum())
    assert ignored


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "copy_paste"])
def test_labels_of_16_bits_are_mixed_as_those_of_8(kind: str) -> None:
    plan = Mixing(data(**{kind: 1.0}), 0, 9, tuple(range(200)))
    for number in range(9):
        chosen = plan.choose(0, number)
        assert chosen is not None
        of_number, of_partner = pair(number), pair(chosen.partner)
        mixed = []
        for own, other in zip(of_number, of_partner, strict=True):
            samples = (
                TrainSample(at, 0, one["image.npy"], one["label.npy"], (1, 1, 1))
                for at, one in ((number, own), (chosen.partner, other))
            )
            mixed.append(plan.mix(*samples).label_HW)
        assert np.array_equal(mixed[0], narrowed(mixed[1]))


@pytest.mark.parametrize("library", ["ALBUMENTATIONS", "TORCHVISION", "KORNIA", "flip"])
def test_transforms_keep_labels_of_16_bits(library: str) -> None:
    names = (f"{Path(__file__).with_name('test_transforms.py')}:{library}",)
    narrow, wide = pair(3)
    for _ in range(2):
        results = []
        for sample, count in ((narrow, 200), (wide, 300)):
            rng = np.random.default_rng(5)
            results.append(apply_transforms(names, sample["image.npy"], sample["label.npy"], count, rng, "x"))
        assert results[1][1].dtype == np.uint16
        assert np.array_equal(results[0][0], results[1][0]) and np.array_equal(results[0][1], narrowed(results[1][1]))


def test_batches_hold_int32_and_bad_samples_are_ignored() -> None:
    _, wide = pair(1)
    group = [{**wide, "number": 0, "epoch": 0}, {"number": 1, "epoch": 0, BAD_SAMPLE: "damaged"}]
    config = data()
    ((one, bad),) = augment([group], config, 0, WIDE)
    assert bad.error and bad.label_HW.dtype == np.uint16 and (bad.label_HW == IGNORED).all()
    assert (placeholder_sample(2, 0, config, "damaged", num_classes=255).label_HW == 255).all()
    (batch,) = collate([[one, bad]])
    assert batch.labels_NHW.dtype == torch.int32 and int(batch.labels_NHW.max()) == IGNORED
    assert np.array_equal(to_label_array(batch.labels_NHW[0], 300), one.label_HW)
    assert to_label_tensor(narrowed(one.label_HW)).dtype == torch.uint8
    assert training_bytes((10, 10), 1, 1, 1, 1, num_classes=300) - training_bytes((10, 10), 1, 1, 1, 1) == 2 * 300
    assert evaluation_bytes((10, 10), 1, num_classes=300) - evaluation_bytes((10, 10), 1) == 3 * 300


def manifest(name: str, classes: list[str]) -> Manifest:
    count, ids = len(classes), tuple(range(len(classes)))
    shard = ShardInfo(file="train-000000.tar", samples=1, bytes=1, sha256="0" * 64)
    split = SplitInfo(samples=1, shards=(shard,), histogram=tuple(range(count)), ignored=7)
    return Manifest(
        schema_version=schema_version(None, count, ids),
        name=name,
        classes=tuple(classes),
        palette=((1, 2, 3),) * count,
        ids=ids,
        ignore_index=ignore_index(count),
        codec="tiff",
        splits={"train": split},
    )


def mix(*manifests: Manifest, scheme: dict[str, Any] | None = None) -> tuple[Any, list[np.ndarray | None]]:
    found = LabelScheme.model_validate(scheme) if scheme else None
    mixed = mixed_manifest(manifests, found, {"train": range(len(manifests))}, "train")
    return mixed, [label_table(part, mixed.num_classes) for part in mixed.parts]


def test_datasets_of_many_classes_are_mixed() -> None:
    names = [f"c{k}" for k in range(300)]
    mixed, (first, second) = mix(manifest("one", names), manifest("two", names[::-1]))
    assert (mixed.ignore_index, mixed.schema_version) == (IGNORED, 3) and first is None
    assert second is not None and second.dtype == np.uint16
    assert second[[0, 299, 300, IGNORED]].tolist() == [299, 0, IGNORED, IGNORED]
    assert [share.classes for share in shares_of(mixed, "train")] == [tuple(range(300))] * 2
    assert mixed.split("train").ignored == 14 and mixed.split("train").histogram == (299,) * 300

    few = {"name": "few", "classes": [{"name": "all", "from": ["c0", "c299"]}], "others": "ignore"}
    mixed, (first, second) = mix(manifest("one", names), manifest("two", names[:5]), scheme=few)
    assert mixed.ignore_index == 255 and first is not None and second is not None
    assert first.dtype == second.dtype == np.uint8 and (len(first), len(second)) == (2**16, 256)
    assert first[[0, 1, 299, IGNORED]].tolist() == [0, 255, 0, 255] and second[[0, 1, 255]].tolist() == [0, 255, 255]
    assert mixed.split("train").ignored == 14 + sum(range(300)) - 299 + sum(range(5))


def test_labels_of_8_bits_among_those_of_16() -> None:
    part = Part(name="x", manifest=manifest("x", ["a", "b"]), train_ids=(0, 1))
    assert label_table(part, 2) is None
    table = label_table(part, 300)
    assert table is not None and table.dtype == np.uint16 and table[[0, 1, 2, 255]].tolist() == [0, 1, IGNORED, IGNORED]
    narrow, _ = pair(0)
    _, label_HW = decode_sample({**narrow, TRAIN_IDS: table})
    assert label_HW.dtype == np.uint16 and (label_HW[:, -5:] == IGNORED).all()


class Own:
    classes = tuple(f"c{k}" for k in range(300))
    values: tuple[int, ...] = (0, 255, 299, IGNORED)

    def __init__(self, split: str) -> None:
        pass

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, len(self.values), 3), np.uint8), np.array([self.values])


class Wrong(Own):
    values = (0, 300)


def test_a_dataset_of_ones_own_has_300_classes() -> None:
    _, label_HW = UserSplit(f"{__file__}:Own", "train").read(0)
    assert label_HW.dtype == np.uint16 and label_HW.tolist() == [[0, 255, 299, IGNORED]]
    with raises_user_error("MSA-DATA-732", mentions="300"):
        UserSplit(f"{__file__}:Wrong", "train").read(0)


@pytest.mark.parametrize("num_classes, which", [(200, 1), (300, 0)])
def test_labels_of_another_type_are_of_another_dataset(num_classes: int, which: int) -> None:
    sample = {**pair(0, as_tiles=True)[which], "number": 0, "epoch": 0}
    with raises_user_error("MSA-DATA-797", mentions=f"of {num_classes} classes"):
        next(augment([[sample]], data(), 0, (1,) * num_classes))
    with raises_user_error("MSA-DATA-797", mentions=f"of {num_classes} classes"):
        next(evaluation_samples([[sample]], num_classes))
