"""Benchmarks: each published layout as a tiny tree, packed; classes as published; polygons equal to cityscapesscripts."""

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msanet.data.manifest import load_manifest
from msanet.datasets import DATASETS, IGNORE_INDEX, DatasetSpec
from msanet.datasets.voc import voc_color
from sharding.readers import find_source
from sharding.readers.cityscapes_polygons import DrawPolygons
from support.errors import error_codes, raises_user_error
from support.packing import packed_labels, refuse

Shard = Callable[..., int]
Capture = pytest.CaptureFixture[str]
SIZE = 32, 24


class Source:
    """Writes images and label maps of 32x24 pixels below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.random, self.labels = root, np.random.default_rng(0), dict[str, np.ndarray]()

    def image(self, name: str) -> None:
        pixels = self.random.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        self._save(Image.fromarray(pixels), name)

    def label(self, name: str, values: Sequence[int], palette: bool = False) -> None:
        """A label map that takes all of `values`; with a palette of other colors than those of the classes."""
        self.labels[name] = self.random.choice(np.array(values, np.uint8), SIZE[::-1])
        image = Image.fromarray(self.labels[name])
        if palette:
            image.putpalette([level for index in range(256) for level in voc_color(255 - index)])
        self._save(image, name)

    def mat(self, name: str, variable: str, values: Sequence[int], kind: str) -> None:
        self.labels[name] = self.random.choice(np.array(values, kind), SIZE[::-1])
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        pytest.importorskip("scipy.io").savemat(self.root / name, {variable: self.labels[name]})

    def text(self, name: str, content: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)

    def _save(self, image: Image.Image, name: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(self.root / name)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


def pairs(source: Source, names: dict[str, str], values: Sequence[int], palette: bool = False) -> None:
    """{image: label}."""
    for image, label in names.items():
        source.image(image)
        source.label(label, values, palette)


def mapped(spec: DatasetSpec, values: np.ndarray) -> np.ndarray:
    return np.vectorize({**spec.train_ids}.get)(values)


def check_packed(
    source: Source,
    shard: Shard,
    capfd: Capture,
    dataset: str,
    spec: DatasetSpec,
    expected: dict[str, dict[str, str]],
    *words: str,
) -> None:
    """The shards hold `expected` {split: {id: label file}} by the ids of `spec`; `folder:` knows  are warned of."""
    out = source.root.parent / f"out{len(words)}"
    assert shard(dataset, "--source", source.root, "--out", out, *words) == 0
    said = capfd.readouterr().err
    manifest = load_manifest(out)
    assert (manifest.name, manifest.classes, manifest.palette) == (spec.name, spec.classes, spec.palette)
    assert manifest.splits.keys() == expected.keys()
    for split, labels in expected.items():
        found = packed_labels(out, split)
        assert found.keys() == labels.keys()
        for source_id, file in labels.items():
            assert np.array_equal(found[source_id], mapped(spec, source.labels[file]))
    counts = find_source([source.root])[0].counts
    assert find_source([source.root])[0].name == dataset
    for split, labels in expected.items():
        assert f"split '{split}' has {len(labels)} images, expected {counts[split]:,}" in said


def all_values(name: str) -> list[int]:
    return sorted(DATASETS[name].train_ids)


TREES: dict[str, dict[str, dict[str, tuple[str, str]]]] = {
    "ade20k": {
        split: {
            f"ADE_{split}_{n:08d}": (
                f"images/{folder}/ADE_{split}_{n:08d}.jpg",
                f"annotations/{folder}/ADE_{split}_{n:08d}.png",
            )
            for n in (1, 2)
        }
        for split, folder in (("train", "training"), ("val", "validation"))
    },
    "coco_stuff": {
        split: {"000000000009": (f"{split}2017/000000000009.jpg", f"stuffthingmaps/{split}2017/000000000009.png")}
        for split in ("train", "val")
    },
    "bdd100k": {
        split: {"0a0a": (f"images/10k/{split}/0a0a.jpg", f"labels/sem_seg/masks/{split}/0a0a.png")}
        for split in ("train", "val")
    },
    "kitti": {"train": {"000000_10": ("training/image_2/000000_10.png", "training/semantic/000000_10.png")}},
    "loveda": {
        split.lower(): {
            f"{area}_{n}": (f"{split}/{area}/images_png/{n}.png", f"{split}/{area}/masks_png/{n}.png")
            for n, area in enumerate(("Rural", "Urban"))
        }
        for split in ("Train", "Val")
    },
}


@pytest.mark.parametrize("dataset", TREES)
def test_trees_of_images_and_ids(dataset: str, source: Source, shard: Shard, capfd: Capture) -> None:
    for split in TREES[dataset].values():
        pairs(source, dict(split.values()), all_values(dataset), palette=dataset == "ade20k")
    expected = {split: {id: label for id, (_, label) in own.items()} for split, own in TREES[dataset].items()}
    check_packed(source, shard, capfd, dataset, DATASETS[dataset], expected)


def test_other_layouts_of_the_same(source: Source, shard: Shard, capfd: Capture) -> None:
    """The Drivable Maps release of BDD100K, and COCO-Stuff as mmsegmentation has it, with files that it converted."""
    for dataset, image, label in (
        ("bdd100k", "seg/images/train/a.jpg", "seg/labels/train/a_train_id.png"),
        ("coco_stuff", "images/train2017/a.jpg", "annotations/train2017/a.png"),
    ):
        own = Source(source.root / dataset)
        own.root = source.root / dataset
        pairs(own, {image: label}, all_values(dataset))
        own.label(label.replace(".png", "_labelTrainIds.png"), [0])
        out = source.root / f"{dataset}-out"
        assert shard(dataset, "--source", own.root, "--out", out) == 0
        assert np.array_equal(packed_labels(out, "train")["a"], mapped(DATASETS[dataset], own.labels[label]))


def test_the_200_images_of_kitti_are_split_at_random(source: Source, shard: Shard) -> None:
    names = {f"training/image_2/{n:06d}_10.png": f"training/semantic/{n:06d}_10.png" for n in range(10)}
    pairs(source, names, range(34))
    out = source.root.parent / "out"
    assert shard("kitti", "--source", source.root, "--out", out, "--random-split", "val=0.3") == 0
    assert {*packed_labels(out, "train"), *packed_labels(out, "val")} == {f"{n:06d}_10" for n in range(10)}


def test_coco_stuff_10k_holds_category_ids(source: Source, shard: Shard, capfd: Capture) -> None:
    spec = DATASETS["coco_stuff10k"]
    for name in ("COCO_train2014_000000000077", "COCO_train2014_000000000110"):
        source.image(f"images/{name}.jpg")
        source.mat(f"annotations/{name}.mat", "S", all_values(spec.name), "f8")
    source.text("imageLists/train.txt", "COCO_train2014_000000000077\n")
    source.text("imageLists/test.txt", "COCO_train2014_000000000110\n")
    expected = {
        split: {name: f"annotations/{name}.mat"}
        for split, name in (("train", "COCO_train2014_000000000077"), ("test", "COCO_train2014_000000000110"))
    }
    check_packed(source, shard, capfd, "coco_stuff10k", spec, expected)


@pytest.mark.parametrize(("words", "name"), [([], "pascal_context"), (["--background"], "pascal_context60")])
@pytest.mark.parametrize("kind", ["png", "mat"])
def test_pascal_context(words: list[str], name: str, kind: str, source: Source, shard: Shard, capfd: Capture) -> None:
    from msanet.datasets.pascal_context import LABELS

    spec, expected = DATASETS[name], {}
    ids = {1: 0, 3: 0, 459: 0} | {id: k for k, id in enumerate(LABELS, 1)}
    lists = "ImageSets/SegmentationContext" if kind == "png" else "ImageSets/Main"
    for split, source_id in (("train", "2008_000002"), ("val", "2008_000003")):
        source.image(f"JPEGImages/{source_id}.jpg")
        source.text(f"{lists}/{split}.txt", f"{source_id}\n")
        label = f"SegmentationClassContext/{source_id}.png" if kind == "png" else f"trainval/{source_id}.mat"
        if kind == "png":
            source.label(label, range(60), palette=True)
        else:
            source.mat(label, "LabelMap", [*LABELS, 1, 3, 459], "u2")
            source.labels[label] = np.vectorize(ids.get)(source.labels[label])
        expected[split] = {source_id: label}
    check_packed(source, shard, capfd, "pascal_context", spec, expected, *words)


def test_trimaps_of_pets(source: Source, shard: Shard, capfd: Capture) -> None:
    expected = {}
    for split, name in (("trainval", "Abyssinian_100"), ("test", "yorkshire_terrier_1")):
        pairs(source, {f"images/{name}.jpg": f"annotations/trimaps/{name}.png"}, (1, 2, 3))
        source.text(f"annotations/{split}.txt", f"#Image CLASS-ID SPECIES BREED ID\n{name} 1 1 1\n")
        expected[split] = {name: f"annotations/trimaps/{name}.png"}
    source.text("annotations/list.txt", "#Image\n")
    check_packed(source, shard, capfd, "oxford_pet", DATASETS["oxford_pet"], expected)


@pytest.mark.parametrize(
    ("dataset", "image", "label", "tiles"),
    [
        ("potsdam", "2_Ortho_RGB/top_potsdam_{}_RGB.tif", "5_Labels_all/top_potsdam_{}_label.tif", ("2_10", "2_13")),
        (
            "vaihingen",
            "top/top_mosaic_09cm_{0}.tif",
            "gts_for_participants/top_mosaic_09cm_{0}.tif",
            ("area1", "area10"),
        ),
    ],
)
def test_tiles_whose_labels_are_colors(
    dataset: str, image: str, label: str, tiles: tuple[str, str], source: Source, shard: Shard, capfd: Capture
) -> None:
    spec, expected = DATASETS[dataset], {}
    colors = np.array([*spec.palette, *[(0, 0, 0)] * (256 - spec.num_classes)], np.uint8)
    for split, tile in zip(("train", "val"), tiles, strict=True):
        source.image(image.format(tile))
        source.label(label.format(tile), [*range(6), IGNORE_INDEX])
        Image.fromarray(colors[source.labels[label.format(tile)]]).save(source.root / label.format(tile))
        expected[split] = {tile: label.format(tile)}
    check_packed(source, shard, capfd, dataset, spec, expected)
    said = refuse([dataset, "--source", source.root, "--labels", "nowhere"], source.root.parent / "no", capfd)
    assert error_codes(said) == ["MSA-PACK-780"]


def mapillary_config(count: int) -> str:
    rows = [
        {"name": f"a--{k}", "readable": f"class {k}", "color": [k, 0, 1], "evaluate": k < count - 1}
        for k in range(count)
    ]
    return json.dumps({"labels": rows})


@pytest.mark.parametrize(
    ("words", "version", "labels", "all_labels"),
    [
        ((), "2.0", "v2.0/labels", False),
        (("--version", "1.2", "--all-labels"), "1.2", "v1.2/labels", True),
        (("--version", "1.2"), "1.2", "labels", False),
    ],
)
def test_mapillary_has_the_classes_of_its_config(
    words: tuple[str, ...], version: str, labels: str, all_labels: bool, source: Source, shard: Shard, capfd: Capture
) -> None:
    count = {"1.2": 66, "2.0": 124}
    for own, number in count.items():
        source.text(f"config_v{own}.json", mapillary_config(number))
    expected = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        pairs(source, {f"{folder}/images/a.jpg": f"{folder}/{labels}/a.png"}, range(count[version]), palette=True)
        expected[split] = {"a": f"{folder}/{labels}/a.png"}
    number = count[version] - (not all_labels)
    spec = DatasetSpec(
        f"mapillary-v{version}",
        tuple(f"class {k}" for k in range(number)),
        tuple((k, 0, 1) for k in range(number)),
        {k: k if k < number else IGNORE_INDEX for k in range(count[version])},
    )
    check_packed(source, shard, capfd, "mapillary", spec, expected, *words)


def test_mapillary_without_a_usable_config(source: Source, capfd: Capture) -> None:
    pairs(source, {"training/images/a.jpg": "training/labels/a.png"}, [0])
    source.text("config_v1.2.json", '{"labels": [{"readable": "a"}]}')
    words = ["mapillary", "--source", source.root]
    assert error_codes(refuse(words, source.root.parent / "out", capfd)) == ["MSA-PACK-753"]
    said = refuse([*words, "--version", "2.0"], source.root.parent / "out", capfd)
    assert error_codes(said) == ["MSA-PACK-781"] and "config_v2.0.json" in said


# sha256 of the names in the order of the train ids, taken from mmsegmentation 1.2.2's METAINFO ("bed " without its space).
NAMES = {
    "ade20k": "f9dbd8a75a0722c9",
    "bdd100k": "5995d02d6c574d51",
    "coco_stuff": "8ea44449837dceb3",
    "coco_stuff10k": "8ea44449837dceb3",
    "loveda": "84d9d2728c8b80b6",
    "pascal_context": "cd808465f06a1616",
    "pascal_context60": "e29ff1a0eaea71eb",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_their_order_are_those_of_mmsegmentation(name: str) -> None:
    assert hashlib.sha256("\n".join(DATASETS[name].classes).encode()).hexdigest()[:16] == NAMES[name]


def test_a_missing_image_of_a_list_is_named(source: Source, capfd: Capture) -> None:
    pairs(source, {"images/a.jpg": "annotations/trimaps/a.png"}, [1])
    source.text("annotations/trainval.txt", "a 1 1 1\nb 1 1 1\n")
    said = refuse(["oxford_pet", "--source", source.root], source.root.parent / "out", capfd)
    assert error_codes(said) == ["MSA-PACK-041"] and "'b', which has no image (1 of 2" in said


def test_a_split_without_images_is_described(source: Source, capfd: Capture) -> None:
    source.label("training/semantic/a.png", [0])
    source.text("training/image_2/a.jpg", "")
    said = refuse(["kitti", "--source", source.root], source.root.parent / "out", capfd)
    assert error_codes(said) == ["MSA-PACK-017"]


def polygons(*rows: tuple[str, list[list[float]], dict[str, Any]]) -> dict[str, Any]:
    objects = [{"label": label, "polygon": points, **more} for label, points, more in rows]
    return {"imgHeight": SIZE[1], "imgWidth": SIZE[0], "objects": objects}


def drawn_by_cityscapesscripts(path: Path) -> np.ndarray:
    annotation = importlib.import_module("cityscapesscripts.helpers.annotation").Annotation()
    annotation.fromJsonFile(str(path))
    draw = importlib.import_module("cityscapesscripts.preparation.json2labelImg").createLabelImage
    return np.asarray(draw(annotation, "ids"))


def test_polygons_are_drawn_as_by_cityscapesscripts(tmp_path: Path) -> None:
    pytest.importorskip("cityscapesscripts")
    random = np.random.default_rng(0)
    labels = [
        "road",
        "car",
        "cargroup",
        "license plate",
        "person",
        "persongroup",
        "sky",
        "unlabeled",
        "out of roi",
        "polegroup",
    ]
    for number in range(20):
        rows = [
            (
                str(random.choice(labels)),
                np.round(random.uniform(-4, 36, (int(random.integers(3, 9)), 2)), int(random.integers(0, 2))).tolist(),
                {"deleted": 1} if random.random() < 0.1 else {},
            )
            for _ in range(12)
        ]
        path = tmp_path / f"{number}_gtFine_polygons.json"
        path.write_text(json.dumps(polygons(*rows)))
        assert np.array_equal(DrawPolygons()(path.read_bytes(), path.name), drawn_by_cityscapesscripts(path))


def test_real_polygons_of_cityscapes(test_data: Path) -> None:
    files = sorted((test_data / "cityscapes").rglob("*_polygons.json"))
    if not files:
        pytest.skip("the test data have no polygons of Cityscapes")
    for file in files[:3]:
        expected = np.asarray(Image.open(str(file).replace("polygons.json", "labelIds.png")))
        assert np.array_equal(DrawPolygons()(file.read_bytes(), file.name), expected)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "MSA-PACK-782"),
        (b"[]", "MSA-PACK-782"),
        (json.dumps(polygons(("car", [[1, 1]], {}))).encode(), "MSA-PACK-782"),
        (json.dumps(polygons(("car", [[1, 1], [1e9, 1], [2, 2]], {}))).encode(), "MSA-PACK-782"),
        (json.dumps(polygons(("zebra", [[1, 1], [5, 1], [2, 2]], {}))).encode(), "MSA-PACK-783"),
    ],
)
def test_polygons_that_are_none(content: bytes, code: str) -> None:
    with raises_user_error(code, mentions="x.json"):
        DrawPolygons()(content, "x.json")


def cityscapes(source: Source, split: str, root: str, values: Sequence[int]) -> str:
    stem = f"{split}/ulm/ulm_000000_000019"
    source.image(f"leftImg8bit/{stem}_leftImg8bit.png")
    source.label(f"{root}/{stem}_{root}_labelIds.png", values)
    return f"{root}/{stem}_{root}_labelIds.png"


def test_coarse_labels_of_cityscapes(source: Source, shard: Shard, capfd: Capture) -> None:
    spec, labels = DATASETS["cityscapes"], {}
    for split in ("train", "val"):
        labels[split] = cityscapes(source, split, "gtFine", [7, 8, 0])
        cityscapes(source, split, "gtCoarse", [26, 0])
    labels["train_extra"] = cityscapes(source, "train_extra", "gtCoarse", [11, 0])
    out, id = source.root.parent, "ulm_000000_000019"
    words = ("cityscapes", "--source", source.root, "--out")
    assert shard(*words, out / "fine") == 0 and "train_extra" not in load_manifest(out / "fine").splits
    assert shard(*words, out / "both", "--splits", "train", "val", "train_extra") == 0
    assert "split 'train_extra' has 1 images, expected 19,998" in capfd.readouterr().err
    for split, label in labels.items():
        assert np.array_equal(packed_labels(out / "both", split)[id], mapped(spec, source.labels[label]))
    assert shard(*words, out / "coarse", "--coarse") == 0
    assert load_manifest(out / "coarse").splits.keys() == {"train_extra", "train", "val"}
    assert {*np.unique(packed_labels(out / "coarse", "train")[id])} == {13, IGNORE_INDEX}


def test_polygons_of_cityscapes_are_packed(source: Source, shard: Shard) -> None:
    cityscapes(source, "train", "gtFine", [0])
    square = [[2.0, 2.0], [20.0, 2.0], [20.0, 10.0], [2.0, 10.0]]
    content = polygons(("road", square, {}), ("car", [[4, 4], [8, 4], [8, 8], [4, 8]], {}))
    source.text("gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json", json.dumps(content))
    out = source.root.parent / "out"
    assert shard("cityscapes", "--source", source.root, "--out", out, "--labels", "polygons") == 0
    label = packed_labels(out, "train")["ulm_000000_000019"]
    assert (label[3, 3], label[6, 6], label[20, 30]) == (0, 13, IGNORE_INDEX)
