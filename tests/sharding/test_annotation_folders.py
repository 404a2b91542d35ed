"""YOLO, Supervisely, Roboflow, PaddleSeg and parquet: layouts of folders, and masks and polygons to the pixel."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sharding.readers.rasterize import DRAW
from support.annotations import HEIGHT, WIDTH, Annotated, png, rows
from support.errors import error_codes

Capture = pytest.CaptureFixture[str]
CHECKS = (np.indices((HEIGHT, WIDTH)).sum(0) % 3 == 0).astype(np.uint8)


@pytest.fixture
def tool(request: pytest.FixtureRequest, tmp_path: Path, capfd: Capture) -> Annotated:
    return Annotated(tmp_path, request.param, capfd)


def using(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tool", [name], indirect=True)


YOLO_POLYGONS = [
    [0, 0.8497683, 0.3939273, 0.4796839, 0.1463346, 0.6984264, 0.2919786, 0.8711392, 0.2753744, 0.5618097, 0.3996562],
    [1, 0.6129095, 0.1966392, 0.1802875, 0.7468604, 0.7522234, 0.5669779, 0.9210797, 0.2057751, 0.8509011, 0.1689873],
    [2, 0.9643577, 0.6236928, 0.6068838, 0.9705588, 0.7870327, 0.7899175, 0.0540938, 0.3692863, 0.0848948, 0.1935276],
    [0, 0.213867, 0.8586419, 0.126755, 0.2967578, 0.492847, 0.8494604, 0.9652314, 0.7081448, 0.2136872, 0.5449827],
    [1, 0.705959, 0.0518825, 0.6798842, 0.3682818, 0.5897003, 0.6695333, 0.6691275, 0.5230498, 0.5547374, 0.1981497],
    [2, 0.4951874, 0.1254095, 0.480747, 0.5362449, 0.7741048, 0.3936648, 0.0196004, 0.52775, 0.2052325, 0.7412575],
    [1, 0.3886972, 0.3804732, 0.9094546, 0.3929704, 0.3488516, 0.3480197, 0.4807656, 0.0932921, 0.5467474, 0.9214275],
]  # fmt: skip
BY_ULTRALYTICS = rows(  # polygons2masks_overlap of Ultralytics 8.4.190, and the class of each pixel
    "000000000000000000000000", "000000000002000020000000", "000000000021002220000000", "003300000022112222222200",
    "003333000222021122222220", "033133330222222211111200", "033113332222222111112200", "033113333222211111111200",
    "000111333222233222222000", "000033333322233222220000", "333333312222222222220000", "033333311122222222233300",
    "003333221112212213333333", "000333222112212111111330", "000031200011221111111111", "000001000011221111111000",
    "000001000001221003300000", "000001000000020033000000", "000000000000020300000000", "000000000000003000000000",
)  # fmt: skip


@using("yolo")
@pytest.mark.parametrize("layout", ["yolo", "roboflow", "list"])
def test_polygons_of_yolo_are_drawn_as_by_ultralytics(tool: Annotated, layout: str) -> None:
    image, label = (
        ("train/images/a.png", "train/labels/a.txt")
        if layout == "roboflow"
        else ("images/train/a.png", "labels/train/a.txt")
    )
    train = {"yolo": "images/train", "roboflow": "../train/images", "list": "train.txt"}[layout]
    tool.write(
        "data.yaml",
        f"path: /home/someone/set\ntrain: {train}\nval: {image.replace('train', 'val').rpartition('/')[0]}\nnc: 3\n"
        "names: {0: field, 1: road, 2: tree}\n",
    )
    tool.write("train.txt", "/home/someone/set/images/train/a.png\n")
    tool.write(label, "".join(" ".join(map(str, row)) + "\n" for row in YOLO_POLYGONS))
    tool.photos(image, image.replace("train", "val"))
    said = tool.pack()
    assert tool.classes == ("background", "field", "road", "tree")
    assert np.array_equal(tool.labels()["a"], BY_ULTRALYTICS) and not tool.labels("val")["a"].any()
    assert "skipped 1 label files, which are missing" in said


@using("yolo")
def test_faults_of_yolo(tool: Annotated) -> None:
    tool.photos("images/train/a.png")
    usual = "train: images/train\nnames: [field]\n"
    for code, line, yaml in (
        ("210", "0 0.5 0.5 0.1 0.1", usual),
        ("753", "0 5 5 9 9 5 9", usual),
        ("753", "1 .1 .1 .9 .9 .1 .9", usual),
        ("753", "0 .1 .1 .9 .9 .1 .9 .2", usual),
        ("753", "", "train: images/train\nnames: field\n"),
        ("041", "", "train: images/gone\nnames: [field]\n"),
        ("021", "", "names: [field]\n"),
    ):
        tool.write("data.yaml", yaml)
        tool.write("labels/train/a.txt", line)
        assert error_codes(tool.refuse()) == [f"MSA-PACK-{code}"], line
    tool.write("data.yaml", "train: images/train\nnames: [field]\n")
    tool.write("labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n0 .1 .1 .9 .9 .1 .9\n")
    assert "skipped 1 boxes without an outline" in tool.pack()


def supervisely(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": [*objects]}


def bitmap(pixels: np.ndarray, left: int, top: int) -> dict[str, Any]:
    image = Image.fromarray(pixels.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)  # as supervisely.Bitmap.data_2_base64
    data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
    return {"classTitle": "road", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}


@using("supervisely")
def test_figures_of_supervisely(tool: Annotated) -> None:
    exterior, interior = [[2, 1], [20.9, 3], [15, 18], [3, 14]], [[6, 5], [12, 5], [9, 11]]
    polygon = {
        "classTitle": "field",
        "geometryType": "polygon",
        "points": {"exterior": exterior, "interior": [interior]},
    }
    box = {
        "classTitle": "tree",
        "geometryType": "rectangle",
        "points": {"exterior": [[22, 12], [19, 15]], "interior": []},
    }
    line = {"classTitle": "tree", "geometryType": "line", "points": {"exterior": [[1, 1], [2, 2]], "interior": []}}
    classes = [("tree", "#00FF00"), ("field", "#78C850"), ("road", "#5A5A5A")]
    tool.write(
        "meta.json",
        {"classes": [{"title": name, "shape": "any", "color": color} for name, color in classes], "tags": []},
    )
    tool.write("one/ann/a.png.json", supervisely(polygon, bitmap(CHECKS[:4, :5], 4, 3), box, line))
    tool.write("two/ann/a.json", supervisely())
    tool.photos("one/img/a.png", "two/img/a.png")
    said = tool.pack()
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)  # supervisely.Polygon._draw_impl, with corners rounded down
    cv2.fillPoly(drawn, [np.array([[2, 1], [20, 3], [15, 18], [3, 14]])], 2)
    cv2.fillPoly(drawn, [np.array(interior)], 0)
    drawn[3:7, 4:9][CHECKS[:4, :5] == 1] = 3
    drawn[12:16, 19:23] = 1
    assert tool.classes == ("background", "tree", "field", "road") and "skipped 1 figures of the type line" in said
    assert tool.splits() == {"train": ["one/a", "two/a"]}
    assert np.array_equal(tool.labels()["one/a"], drawn) and not tool.labels()["two/a"].any()


def test_a_bitmap_of_the_documentation_of_supervisely() -> None:
    data = (
        "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44sKHhISMDuxpTYrr03F6gDIOnq5/L"
        "OqeEJgDM5ht6"
    )
    assert DRAW["bitmap"]([1, 0, data], 3, 4).astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1]]


@using("supervisely")
def test_faults_of_supervisely(tool: Annotated) -> None:
    tool.photos("train/img/a.png")
    tool.write("meta.json", {"classes": [{"title": "road", "color": "#5A5A5A"}]})
    for code, content in {
        "753": {"objects": []},
        "040": supervisely(bitmap(CHECKS, 4, 3)),
        "755": supervisely({**bitmap(CHECKS, 0, 0), "classTitle": "river"}),
    }.items():
        tool.write("train/ann/a.png.json", content)
        assert error_codes(tool.refuse()) == [f"MSA-PACK-{code}"]
    tool.write("train/ann/a.png.json", supervisely(bitmap(CHECKS, 0, 0)))
    tool.write("val/ann/gone.png.json", supervisely())
    (tool.root / "val/img").mkdir()
    assert error_codes(tool.refuse()) == ["MSA-PACK-005"]  # a bad sample


def coco(names: dict[int, str], polygon: list[float], file_name: str = "a.png") -> dict[str, Any]:
    return {
        "images": [{"id": 0, "file_name": file_name, "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": max(names), "segmentation": [polygon], "iscrowd": 0}],
        "categories": [{"id": id, "name": name} for id, name in names.items()],
    }


POLYGON = [2.5, 1.2, 12.7, 3.6, 9.1, 14.8]


def coco_drawn(polygon: list[float], value: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))) * np.uint8(value)


ROBOFLOW: dict[str, dict[str, Any]] = {
    "coco": {
        f"{split}/_annotations.coco.json": coco({0: "things", 1: "field", 7: "road"}, POLYGON)
        for split in ("train", "valid")
    },
    "masks": {
        **{
            f"{split}/_classes.csv": "Pixel Value, Class\n0, background\n1, field\n3, road\n"
            for split in ("train", "valid")
        },
        **{f"{split}/a_mask.png": png(coco_drawn(POLYGON, 3)) for split in ("train", "valid")},
    },
    "yolo": {
        "data.yaml": "train: ../train/images\nval: ../valid/images\nnames: ['field', 'road']\n",
        **{f"{split}/labels/a.txt": "1 0 0 1 0 1 1 0 1\n" for split in ("train", "valid")},
    },
}


@using("roboflow")
@pytest.mark.parametrize("kind", ROBOFLOW)
def test_exports_of_roboflow(tool: Annotated, kind: str) -> None:
    for name, content in ROBOFLOW[kind].items():
        tool.write(name, content)
    below = "images/" if kind == "yolo" else ""
    tool.photos(f"train/{below}a.png", f"valid/{below}a.png")
    tool.pack()
    classes = {"coco": ("background", "things", "field", "road")}.get(kind, ("background", "field", "road"))
    assert tool.classes == classes and tool.splits() == {"train": ["a"], "val": ["a"]}
    expected = np.full((HEIGHT, WIDTH), 2, np.uint8) if kind == "yolo" else coco_drawn(POLYGON, len(classes) - 1)
    assert np.array_equal(tool.labels("val")["a"], expected)


COCO_PLACES = {
    "one file": (["result.json"], ["images/a.png"], {"train": ["a"]}),
    "labelme2coco": (["annotations.json"], ["JPEGImages/a.png"], {"train": ["a"]}),
    "a file for each split": (
        ["train.json", "valid.json"],
        ["train/a.png", "valid/a.png"],
        {"train": ["a"], "val": ["a"]},
    ),
    "names that hold it": (["annotations/my_train_v2.json"], ["a.png"], {"train": ["a"]}),
}


@using("coco")
@pytest.mark.parametrize("place", COCO_PLACES)
def test_places_of_coco_files(tool: Annotated, place: str) -> None:
    files, images, splits = COCO_PLACES[place]
    for name in files:
        tool.write(name, coco({0: "field", 90: "road"}, POLYGON))
    tool.photos(*images)
    tool.pack()
    assert tool.splits() == splits and tool.classes == ("background", "field", "road")
    assert np.array_equal(tool.labels()["a"], coco_drawn(POLYGON, 2))


@using("coco")
def test_two_coco_files_and_no_split(tool: Annotated) -> None:
    tool.write("a.json", coco({0: "field"}, POLYGON))
    tool.write("train.json", coco({0: "field"}, POLYGON))
    tool.photos("a.png")
    assert error_codes(tool.refuse()) == ["MSA-PACK-004"]


@using("coco")
def test_objects_of_one_id_are_refused(tool: Annotated) -> None:
    content = coco({0: "field"}, POLYGON)
    content["annotations"] = [{**content["annotations"][0], "id": 5}] * 2
    tool.write("train.json", content)
    tool.photos("a.png")
    assert error_codes(tool.refuse()) == ["MSA-PACK-209"]


@using("paddleseg")
def test_lists_of_paddleseg(tool: Annotated) -> None:
    tool.write("labels.txt", "background\nroad\n")
    tool.write("train.txt", "images/a.png labels/a.png\nimages/b c.png labels/b c.png\n")
    tool.write("val.txt", "images/a.png\tlabels/a.png\nimages/without.png\n")
    tool.photos("images/a.png", "images/b c.png", "images/without.png")
    for name in ("labels/a.png", "labels/b c.png"):
        tool.write(name, png(CHECKS))
    said = tool.pack()
    assert tool.splits() == {"train": ["a", "b c"], "val": ["a"]} and tool.classes == ("background", "road")
    assert np.array_equal(tool.labels()["b c"], CHECKS) and "skipped 1 lines of lists" in said
    tool.write("train.txt", "images/gone.png labels/a.png\n")
    assert error_codes(tool.refuse()) == ["MSA-PACK-041"]
    tool.write("val.txt", "images/a.png\n")
    assert error_codes(tool.refuse("--splits", "val")) == ["MSA-PACK-759"]


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def cell(pixels: np.ndarray, path: str | None) -> dict[str, Any]:
    return {"bytes": png(pixels), "path": path}


def photo(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


@using("parquet")
@pytest.mark.parametrize("is_named", [True, False])
def test_images_in_parquet(tool: Annotated, is_named: bool) -> None:
    names = [f"{letter}.png" if is_named else None for letter in "cabd"]
    rows = [
        {"image": cell(photo(10 + k), name), "label": cell(CHECKS, None), "text": "x"} for k, name in enumerate(names)
    ]
    parquet(tool.root / "data/train-00000-of-00002.parquet", rows[:3])
    parquet(
        tool.root / "data/train-00001-of-00002.parquet", [*rows[3:], {"image": cell(photo(1), "e.png"), "label": None}]
    )
    parquet(tool.root / "data/validation-00000-of-00001.parquet", rows[:1])
    tool.write("id2label.json", {"0": "field", "1": "road"})
    said = tool.pack()
    expected = ["a", "b", "c", "d"] if is_named else [f"train-{k:06d}" for k in range(4)]
    assert tool.splits() == {"train": expected, "val": ["c" if is_named else "val-000000"]}
    assert tool.classes == ("field", "road") and "skipped 1 rows without a mask" in said
    assert all(np.array_equal(label, CHECKS) for label in tool.labels().values())


@using("parquet")
def test_columns_of_parquet(tool: Annotated) -> None:
    tool.write("id2label.json", json.dumps({"0": "field", "1": "road"}))
    parquet(
        tool.root / "train.parquet",
        [{"photo": cell(photo(1), "a.png"), "left": cell(CHECKS, None), "right": cell(CHECKS, None)}],
    )
    assert error_codes(said := tool.refuse()) == ["MSA-PACK-760"] and "--mask-column" in said
    assert error_codes(tool.refuse("--mask-column", "lift")) == ["MSA-PACK-760"]
    tool.pack("--mask-column", "left")
    assert np.array_equal(tool.labels()["a"], CHECKS)


@using("parquet")
def test_damaged_parquet(tool: Annotated) -> None:
    pytest.importorskip("pyarrow")
    tool.write("train.parquet", b"PAR1 and nothing more PAR1")
    assert error_codes(tool.refuse()) == ["MSA-PACK-753"]


NEARLY = {
    "cvat": ("labelmap.txt", "cvat (of which images or SegmentationClass is missing)"),
    "supervisely": ("meta.json", "supervisely (of which */ann and */img is missing)"),
    "yolo": ("data.yaml", "yolo (of which labels or */labels is missing)"),
}


@using("voc")
@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_a_layout_is_told_what_is_missing(tool: Annotated, name: str) -> None:
    file, expected = NEARLY[name]
    tool.write(file, "{}")
    said = tool.refuse()
    assert error_codes(said) == ["MSA-PACK-003"] and "it is nearly " in said and expected in said
