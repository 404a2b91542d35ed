"""CutMix, ClassMix and copy-paste take pixels of another sample, which depends on (seed, epoch, sample) alone."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msanet.config import parse_config
from msanet.config.augmentation import MIXES
from msanet.data import pipeline
from msanet.data.mixing import Mixing, is_mixed, rare_classes
from msanet.data.pipeline import augment, fetch, predownload
from msanet.data.samples import NO_JITTER, TrainSample
from msanet.errors import UserError
from support.errors import raises_user_error

CLASS_PIXELS = (900, 500, 100, 5)


def mixing(num_samples: int = 50, seed: int = 0, **data: Any) -> Mixing:
    config = parse_config({"data": {"crop": [20, 30], **data}}, "test")
    return Mixing(config.data, seed, num_samples, CLASS_PIXELS)


def sample(number: int, value: int, label_HW: np.ndarray) -> TrainSample:
    return TrainSample(number, 0, np.full((*label_HW.shape, 3), value, np.uint8), label_HW, NO_JITTER)


def pair(plan: Mixing, number: int) -> tuple[TrainSample, TrainSample]:
    """A sample whose label is 0, and its partner with stripes of all classes and of ignored pixels."""
    chosen = plan.choose(0, number)
    assert chosen is not None
    stripes = np.repeat(np.array([0, 1, 2, 3, 255], np.uint8), 4)[:, None].repeat(30, 1)
    return sample(number, 10, np.zeros((20, 30), np.uint8)), sample(chosen.partner, 200, stripes)


def test_partners_are_pure_others_and_all_alike() -> None:
    plan = mixing(num_samples=7, cutmix=1.0)
    partners = [[plan.choose(epoch, number) for number in range(7)] for epoch in range(200)]
    again = mixing(num_samples=7, cutmix=1.0)
    assert [[c and c.partner for c in row] for row in partners] == [
        [(c := again.choose(epoch, number)) and c.partner for number in range(7)] for epoch in range(200)
    ]
    counts = Counter((number, c.partner) for row in partners for number, c in enumerate(row) if c)
    assert len(counts) == 7 * 6 and all(a != b for a, b in counts) and min(counts.values()) > 10
    epochs, samples = np.zeros(7, np.int64), np.arange(7)
    assert list(plan.partners(epochs, samples)) == [c.partner for c in partners[0] if c]


def test_probabilities() -> None:
    plan = mixing(cutmix=0.2, classmix=0.3, copy_paste=0.1)
    kinds = Counter(chosen.kind if (chosen := plan.choose(0, number)) else "none" for number in range(2000))
    shares = {kind: count / 2000 for kind, count in kinds.items()}
    assert shares == pytest.approx({"cutmix": 0.2, "classmix": 0.3, "copy_paste": 0.1, "none": 0.4}, abs=0.05)
    assert mixing(num_samples=1, cutmix=1.0).choose(0, 0) is None
    assert not is_mixed(mixing().data) and is_mixed(plan.data)


@pytest.mark.parametrize("kind", MIXES)
def test_pixels_and_labels_are_taken_together(kind: str) -> None:
    settings: dict[str, Any] = {kind: 1.0}
    plan, shares = mixing(**settings), []
    for number in range(40):
        own, other = pair(plan, number)
        mixed = plan.mix(own, other)
        taken_HW = mixed.image_HWC[..., 0] == 200
        assert np.array_equal(mixed.label_HW, np.where(taken_HW, other.label_HW, own.label_HW))
        assert np.array_equal(mixed.image_HWC[~taken_HW], own.image_HWC[~taken_HW])
        assert (mixed.number, mixed.jitter) == (number, own.jitter) and mixed.label_HW.dtype == np.uint8
        if kind == "cutmix":
            rows, columns = taken_HW.any(1).sum(), taken_HW.any(0).sum()
            assert taken_HW.sum() == rows * columns
        else:
            assert not (taken_HW & (other.label_HW == 255)).any()
            wanted = 2  # of four classes; and the two below the median
            assert len(np.unique(other.label_HW[taken_HW])) == wanted
        if kind == "copy_paste":
            assert set(np.unique(other.label_HW[taken_HW])) == {2, 3}
        shares.append(taken_HW.mean())
    assert kind != "cutmix" or len({*shares}) > 30


def test_rare_classes_are_those_below_the_median() -> None:
    assert rare_classes(CLASS_PIXELS).tolist() == [2, 3] and rare_classes((5, 5)).tolist() == []


def test_what_is_pasted_for_rare_classes_is_cropped_around_one() -> None:
    assert mixing(copy_paste=1.0).data_of_partner(0, 0).rare_class_crops == 1
    assert mixing(classmix=1.0).data_of_partner(0, 0).rare_class_crops == 0


def test_settings_that_cannot_be() -> None:
    with raises_user_error("MSA-CONFIG-007", setting="data.cutmix", mentions="1.2"):
        mixing(cutmix=0.6, classmix=0.6)
    with raises_user_error("MSA-CONFIG-007", setting="data.classmix"):
        mixing(classmix=0.5, crop=None)


class Source:
    """Samples in memory, one of which cannot be read."""

    def __init__(self, bad: int) -> None:
        self.bad, self.fetched = bad, list[int]()

    def read(self, sample: int) -> dict[str, Any]:
        if sample == self.bad:
            raise UserError("MSA-DATA-014", f"sample {sample} is damaged")
        image_HWC = np.full((40, 50, 3), 4 * sample, np.uint8)
        return {"__url__": "s", "__key__": str(sample), "image.npy": image_HWC, "label.npy": image_HWC[..., 0] % 4}

    def fetch(self, sample: int) -> None:
        self.fetched.append(sample)


def test_a_bad_partner_is_not_mixed_in_and_is_an_error_where_bad_samples_are() -> None:
    plan = mixing(cutmix=1.0, on_bad_sample="skip")
    chosen = plan.choose(0, 3)
    assert chosen is not None
    positions = [(np.zeros(2, np.int64), np.array([3, chosen.partner]))]
    source = Source(bad=chosen.partner)

    def augmented(plan: Mixing, mixed: Mixing | None) -> list[TrainSample]:
        groups = fetch(positions, source, plan.data.on_bad_sample == "skip", mixed)
        (group,) = augment(groups, plan.data, plan.seed, CLASS_PIXELS, mixed)
        return group

    (own, bad), (alone, _) = augmented(plan, plan), augmented(plan, None)
    assert np.array_equal(own.image_HWC, alone.image_HWC) and own.error is None
    assert bad.error and (bad.label_HW == 255).all()
    with raises_user_error("MSA-DATA-014", mentions=str(chosen.partner)):
        augmented(mixing(cutmix=1.0), mixing(cutmix=1.0))


class AtOnce:
    """An executor without threads."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def submit(self, call: Callable[[int], None], sample: int) -> None:
        call(sample)

    def shutdown(self, **_: Any) -> None: ...


def test_partners_are_downloaded_ahead_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ThreadPoolExecutor", AtOnce)
    plan, source = mixing(cutmix=0.5), Source(bad=-1)
    positions = (np.zeros(20, np.int64), np.arange(20))
    assert list(predownload([positions], source, 1, 1, plan)) == [positions]
    assert sorted(source.fetched) == sorted([*range(20), *plan.partners(*positions)]) and len(source.fetched) > 25
