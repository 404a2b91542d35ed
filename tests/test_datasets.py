"""Class tables: against the official numbers, and on real label maps."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from msanet.data.image.codec import decode_label
from msanet.datasets import CITYSCAPES, CITYSCAPES_TRAIN_IDS, COCO, DATASETS, IGNORE_INDEX, PERSON_PART, VOC
from msanet.datasets.cityscapes import LABELS
from msanet.datasets.person_part import PARTS
from msanet.errors import UserError
from support.images import read_image


def test_cityscapes_has_19_classes_of_34_ids() -> None:
    assert [label.id for label in LABELS] == list(range(34))
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # the official label table
    assert [label.id for label in LABELS if label.train_id != IGNORE_INDEX] == evaluated
    assert [CITYSCAPES.train_ids[i] for i in evaluated] == list(range(19))
    assert CITYSCAPES.classes[0] == "road" and CITYSCAPES.classes[18] == "bicycle"
    assert [label.name for label in LABELS if label.has_instances][:3] == ["person", "rider", "car"]


def test_voc_palette_is_the_devkits() -> None:
    assert VOC.palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert VOC.palette[20] == (0, 64, 128) and VOC.classes[15] == "person"


def test_coco_has_80_classes_of_90_ids() -> None:
    assert COCO.num_classes == 81 and COCO.classes[1] == "person" and COCO.classes[80] == "toothbrush"
    gaps = {*range(1, 91)} - COCO.train_ids.keys()
    assert gaps == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # announced, never annotated
    assert COCO.train_ids[90] == 80 and COCO.train_ids[0] == 0 and COCO.train_ids[255] == IGNORE_INDEX
    assert COCO.palette[:4] == VOC.palette[:4] and len(set(COCO.palette)) == 81


def test_person_part_merges_24_parts_into_6() -> None:
    assert PERSON_PART.classes[1:] == ("head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
    names = [name for parts in PARTS.values() for name in parts]
    assert len(names) == len(set(names)) == 24 and not PARTS["background"]
    assert [len(parts) for parts in PARTS.values()] == [0, 10, 2, 2, 4, 2, 4]


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.name)
def test_every_known_id_maps_and_every_other_is_refused(spec) -> None:  # type: ignore[no-untyped-def]
    known = np.array([sorted(spec.train_ids)], np.uint8)
    expected = [spec.train_ids[int(value)] for value in known[0]]
    assert spec.to_train_ids(known)[0].tolist() == expected
    unknown = next(value for value in range(256) if value not in spec.train_ids)
    with pytest.raises(UserError, match=rf"\[{unknown}\]"):
        spec.to_train_ids(np.full((2, 2), unknown, np.uint8))
    with pytest.raises(UserError, match="uint16"):
        spec.to_train_ids(np.zeros((2, 2), np.uint16))


def test_real_cityscapes_labels(test_data: Path) -> None:
    files = sorted((test_data / "cityscapes").rglob("*_labelIds.png"))
    assert files
    for file in files[:3]:
        ids = read_image(file, cv2.IMREAD_UNCHANGED)
        train_ids = CITYSCAPES.to_train_ids(ids)
        for label in LABELS:
            assert (train_ids[ids == label.id] == label.train_id).all()
        assert np.array_equal(CITYSCAPES_TRAIN_IDS.to_train_ids(train_ids), train_ids)


def test_real_voc_labels_are_indices_in_the_devkits_colors(test_data: Path) -> None:
    files = sorted((test_data / "VOCdevkit" / "VOC2012" / "SegmentationClass").glob("*.png"))
    assert files
    for file in files[:5]:
        ids = decode_label(file.read_bytes(), str(file))
        colors = np.asarray(Image.open(file).convert("RGB"))
        for value in np.unique(ids[ids != 255]):
            assert (colors[ids == value] == VOC.palette[value]).all()
        assert set(np.unique(VOC.to_train_ids(ids))) <= {*range(21), 255}
