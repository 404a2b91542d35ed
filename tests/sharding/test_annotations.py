"""Annotations of labelme, CVAT and Label Studio: equal to the pixel to what the tool of the format makes of them."""

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from msanet.data.manifest import load_manifest
from support.annotations import HEIGHT, WIDTH, Annotated, png, rows
from support.errors import error_codes

Capture = pytest.CaptureFixture[str]


def shape(label: str, kind: str | None, *points: tuple[float, float], **more: object) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


CHECKS = (np.indices((3, 4)).sum(0) % 2 * 255).astype(np.uint8)
SHAPES = [
    shape("field", "rectangle", (1, 1), (22.5, 9.4)),
    shape("road", "polygon", (2.5, 1.2), (12.7, 3.6), (9.1, 14.8), (1.4, 11.5)),
    shape("tree", "circle", (18, 8), (20.4, 9.1)),
    shape("wire", "linestrip", (0, 15), (10, 13), (23, 17)),
    shape("__ignore__", "point", (20, 2)),
    shape("road", "oriented_rectangle", (13, 1), (16, 2.5), (15, 4.5), (12, 3)),
    shape("field", "mask", (1, 17), (4, 19), mask=base64.b64encode(png(CHECKS)).decode()),
    shape("_background_", "polygon", (4, 5), (8, 5), (6, 8)),
    shape("tree", "line", (20, 19), (23, 12)),
]
BY_LABELME = rows(  # labelme.utils.shapes_to_label of SHAPES, of labelme 6.3.1
    "000000000000000xxxxxxxxx", "012111111111121xxxxxxxxx", "01222222111112222xxxxxxx", "0122222222222222xxxxxxxx",
    "0122222222222112xxxxxxxx", "0122000002221111xxxxxxxx", "01222000222211113xxxxxxx", "022220002222111333xxxxx0",
    "022222022222111333333110", "022222222424111133331110", "022244444424444003300000", "444444444424444444333000",
    "444444444444444443333330", "444444444444444443333333", "444444444444444433333333", "444444444444444433333333",
    "444444444444444333333333", "441414444444444333333333", "014144444444444443333333", "041414400000444444443333",
)  # fmt: skip


def labelme(shapes: list[dict[str, Any]], image: str = "a.png", **more: object) -> dict[str, Any]:
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None, **size, **more}


@pytest.fixture
def tool(request: pytest.FixtureRequest, tmp_path: Path, capfd: Capture) -> Annotated:
    return Annotated(tmp_path, request.param, capfd)


def using(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tool", [name], indirect=True)


@using("labelme")
def test_shapes_of_labelme_are_drawn_as_by_labelme(tool: Annotated) -> None:
    tool.write("a.json", labelme(SHAPES))
    tool.photos("a.png")
    said = tool.pack()
    assert tool.classes == ("background", "field", "road", "tree", "wire") and "no folders of splits" in said
    assert np.array_equal(tool.labels()["a"], BY_LABELME)


@using("labelme")
def test_images_of_labelme_in_the_file_beside_it_and_elsewhere(tool: Annotated) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    tool.write("train/in.json", labelme(SHAPES, "gone.png", imageData=base64.b64encode(png(pixels)).decode()))
    tool.write("train/no_size.json", labelme(SHAPES, "beside.png", imageHeight=None, imageWidth=None))
    tool.write("val/up.json", labelme(SHAPES, "..\\pictures\\up.png"))
    tool.write("val/moved.json", labelme(SHAPES, "C:\\Users\\x\\moved.png"))
    tool.photos("train/beside.png", "pictures/up.png", "pictures/moved.png", "pictures/unused.png")
    said = tool.pack()
    assert tool.splits() == {"train": ["train/in", "train/no_size"], "val": ["val/moved", "val/up"]}
    assert "in 'pictures' 1 file (.png 1)" in said
    assert all(np.array_equal(label, BY_LABELME) for split in ("train", "val") for label in tool.labels(split).values())


@using("labelme")
def test_shapes_in_a_group_are_filled_or_holes(tool: Annotated, tmp_path: Path) -> None:
    def box(size: int, group: int | None) -> dict[str, Any]:
        return shape("field", "rectangle", (size, size), (WIDTH - 1 - size, HEIGHT - 1 - size), group_id=group)

    tool.write("a.json", labelme([box(4, 1), box(1, 1), box(7, 1), box(5, None)]))
    tool.photos("a.png")
    said = tool.pack()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:-1, 1:-1] = 1
    assert "inside another one of their group, and are filled" in said and np.array_equal(tool.labels()["a"], expected)
    tool.out = tmp_path / "holes"
    tool.write("a.json", labelme([box(4, 1), box(1, 1), box(7, 1), box(7, 1)]))
    assert "inside another" not in tool.pack("--group-holes")
    expected[4:-4, 4:-4], expected[7:-7, 7:-7] = 0, 1  # a hole, and an island in it
    assert np.array_equal(tool.labels()["a"], expected)


@using("labelme")
def test_what_labelme_does_not_draw_is_counted(tool: Annotated) -> None:
    odd = [
        shape("field", "polygon", (1, 1), (2, 2)),
        shape("field", "points", (1, 1)),
        shape("field", "circle", (1, 1)),
    ]
    tool.write("a.json", labelme([*odd, odd[0], shape("field", "rectangle", (1, 1), (5, 5))]))
    tool.write("other.json", {"a": 1})
    tool.photos("a.png")
    said = tool.pack()
    assert "skipped 2 shapes of the type polygon with 2 points (1 shapes are packed)" in said
    assert "skipped 1 shapes of the type points" in said and "skipped 1 shapes of the type circle with 1 points" in said
    assert "skipped 1 JSON files without shapes and imagePath" in said


@using("labelme")
def test_classes_of_labelme_may_be_listed(tool: Annotated, tmp_path: Path) -> None:
    tool.write("labels.txt", "__ignore__\n_background_\nwire\nroad\ntree\nfield\n")
    tool.write("a.json", labelme(SHAPES))
    tool.photos("a.png")
    tool.pack()
    assert tool.classes == ("background", "wire", "road", "tree", "field")
    (tmp_path / "own.txt").write_text("wire\nroad\n")
    assert (
        error_codes(said := tool.refuse("--classes", tmp_path / "own.txt")) == ["MSA-PACK-755"]
        and "'field' (4 of 9" in said
    )
    (tmp_path / "own.txt").write_text("wire\nwire\n")
    assert error_codes(tool.refuse("--classes", tmp_path / "own.txt")) == ["MSA-PACK-755"]
    assert error_codes(tool.refuse("--classes", tmp_path / "gone.txt")) == ["MSA-PACK-754"]


LABELME_FAULTS = {
    "753": labelme([{"label": "field"}]),
    "040": labelme([shape("field", "polygon", (1, 1), (5, 1), (1e9, 9))]),
    "024": labelme([shape("field", "rectangle", (1, 1), (5, 5))], imageHeight=99),
    "038": labelme([shape("field", "rectangle", (1, 1), (5, 5))], "gone.png"),
    "755": labelme([]),
}


@using("labelme")
@pytest.mark.parametrize("code", LABELME_FAULTS)
def test_faults_of_labelme_files(tool: Annotated, code: str) -> None:
    tool.write("a.json", LABELME_FAULTS[code])
    tool.photos("a.png")
    assert error_codes(tool.refuse()) == [f"MSA-PACK-{code}"]


@using("labelme")
def test_damaged_json_and_image_data(tool: Annotated) -> None:
    tool.write("a.json", '{"shapes": [], "imagePath": "a.png"')
    assert error_codes(tool.refuse()) == ["MSA-PACK-753"]
    tool.write("a.json", labelme(SHAPES, imageData="iVBORw0KGgo=!"))
    assert error_codes(tool.refuse()) == ["MSA-PACK-753"]


def coco_drawn(*polygon: float) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([[*polygon]], HEIGHT, WIDTH))).astype(bool)


LABELS = """<labels>
  <label><name>field</name><color>#78c850</color><type>any</type></label>
  <label><name>road</name><color>#5a5a5a</color><type>polygon</type></label>
  <label><name>pose</name><color>#000000</color><type>skeleton</type></label>
</labels>"""


def cvat(*images: str) -> str:
    return f"<annotations><version>1.1</version><meta><task>{LABELS}</task></meta>{''.join(images)}</annotations>"


def cvat_image(name: str, shapes: str, subset: str = "") -> str:
    more = f'subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}" {more} width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'


@using("cvat")
def test_shapes_of_cvat_by_z_order(tool: Annotated) -> None:
    shapes = """
      <polygon label="road" points="2.5,1.2;12.7,3.6;9.1,14.8" z_order="1"/>
      <polygon label="field" points="1,1;20,1;20,9;1,9" z_order="0"/>
      <box label="road" xtl="14" ytl="2" xbr="22" ybr="5" rotation="30" z_order="0"/>
      <box label="field" xtl="15" ytl="3" xbr="18" ybr="6" z_order="0"/>
      <ellipse label="road" cx="6.4" cy="15" rx="4" ry="2" rotation="10" z_order="2"/>
      <mask label="field" rle="1, 3, 2, 2, 4" left="12" top="14" width="4" height="3" z_order="2"/>
      <polyline label="road" points="0,0;5,5" z_order="0"/><polygon label="road" points="0,0;5,5" z_order="0"/>
      <tag label="field"/>"""
    tool.write("annotations.xml", cvat(cvat_image("a.png", shapes), cvat_image("empty.png", "")))
    tool.photos("images/a.png", "images/empty.png")
    said = tool.pack()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[coco_drawn(1, 1, 20, 1, 20, 9, 1, 9)] = 1
    expected[coco_drawn(15, 3, 18, 3, 18, 6, 15, 6)] = 1
    corners = np.array([[-4, -1.5], [4, -1.5], [4, 1.5], [-4, 1.5]]) @ np.array(
        [[np.cos(np.pi / 6), np.sin(np.pi / 6)], [-np.sin(np.pi / 6), np.cos(np.pi / 6)]]
    ) + [18, 3.5]
    expected[coco_drawn(*corners.ravel())] = 2  # CVAT draws turned boxes after the others
    expected[coco_drawn(2.5, 1.2, 12.7, 3.6, 9.1, 14.8)] = 2
    ellipse = cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), (6, 15), (4, 2), 10, 0, 360, 1, -1)
    expected[ellipse == 1] = 2
    expected[14:17, 12:16][np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], bool)] = 1
    assert tool.classes == ("background", "field", "road") and load_manifest(tool.out).palette[1] == (0x78, 0xC8, 0x50)
    assert np.array_equal(tool.labels()["a"], expected) and not tool.labels()["empty"].any()
    assert "skipped 1 shapes of the type polyline" in said and "skipped 1 polygons of fewer than 3 points" in said


@using("cvat")
def test_a_project_of_cvat_has_subsets(tool: Annotated) -> None:
    box = '<box label="road" xtl="14" ytl="2" xbr="22" ybr="5"/>'
    images = [cvat_image("a/x.png", box, "Train"), cvat_image("b/x.png", box, "Validation")]
    tool.write("annotations.xml", cvat(*images))
    tool.photos("images/Train/a/x.png", "images/Validation/b/x.png")
    tool.pack()
    assert tool.splits() == {"train": ["a/x"], "val": ["b/x"]}


@using("cvat")
def test_masks_of_cvat(tool: Annotated) -> None:
    tool.write("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:250,50,83::\n")
    tool.write("ImageSets/Segmentation/default.txt", "a\n")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[3:9, 4:8] = 250, 50, 83
    tool.write("SegmentationClass/a.png", png(pixels))
    tool.photos("JPEGImages/a.jpg")
    tool.pack()
    assert tool.splits() == {"train": ["a"]} and tool.classes == ("background", "red")
    assert np.array_equal(tool.labels()["a"], (pixels[..., 0] > 0).astype(np.uint8))


@using("cvat")
def test_pycocotools_is_asked_for_once(tool: Annotated, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.write("annotations.xml", cvat(cvat_image("a.png", '<box label="road" xtl="14" ytl="2" xbr="22" ybr="5"/>')))
    tool.photos("images/a.png")
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert error_codes(tool.refuse()) == ["MSA-PACK-029"]


CVAT_FAULTS = {
    "759": '<annotations><track id="0" label="road"></track></annotations>',
    "753": "<annotations><image",
    "038": cvat(cvat_image("gone.png", "")),
    "040": cvat(cvat_image("a.png", '<mask label="road" rle="1,3" left="0" top="0" width="4" height="3"/>')),
    "755": cvat(cvat_image("a.png", '<box label="other" xtl="14" ytl="2" xbr="22" ybr="5"/>')),
}


@using("cvat")
@pytest.mark.parametrize("code", CVAT_FAULTS)
def test_faults_of_cvat_files(tool: Annotated, code: str) -> None:
    tool.write("annotations.xml", CVAT_FAULTS[code])
    tool.photos("images/a.png")
    assert error_codes(tool.refuse()) == [f"MSA-PACK-{code}"]


@using("cvat")
def test_entities_are_not_expanded(tool: Annotated) -> None:
    tool.write("annotations.xml", '<!DOCTYPE a [<!ENTITY b "bb">]><annotations>&b;</annotations>')
    assert error_codes(tool.refuse()) == ["MSA-PACK-753"]


BRUSH = (
    "AAAHgDkb/hcAwn/5LAMJ/+TwC//5PALf/hsAxH/43AMT/+MwDEf/jsAv/8YBf/8LgE//hsAv/+IwDCf/hcAt/+IwDC//hcAt/+FwDFf/hMAn/8"
    "LgGF/+cAt/+EwCf/wuAYX/7YBP/4TAJ//C4Bhf/tgE//hMAv/98Awv/3wCP/vgGE/++AYX/74BH/3wDC//bAMN/84Bb/7YBhf/tgGL/+2AYX/7"
    "YBjP/nAML/9sAxn/zgGF/+2AAA=="
)
"""Made by label_studio_sdk.converter.brush.mask2rle of label_studio_sdk 2.1.2; the mask as its decode_rle gives it."""
BRUSHED = "A+AAA+AAAeAAAcB/wAD/wAH/AAHvAwHgD4HAH4HA/+DA/ODA/GDA/GDw/CHw/CH4/nH4//H4//n4//n4"


def region(kind: str, label: str, **value: object) -> dict[str, Any]:
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"type": kind, "value": {kind: [label], **value}, **sizes}


def task(image: str, *results: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": [{"was_cancelled": False, "result": [*results]}]}


@using("label_studio")
def test_regions_of_label_studio(tool: Annotated) -> None:
    polygon = [[10, 20.5], [60, 10], [55, 70]]
    results = [
        region("brushlabels", "field", format="rle", rle=[*base64.b64decode(BRUSH)]),
        region("polygonlabels", "road", points=polygon, closed=True),
        region("rectanglelabels", "field", x=50, y=50, width=25, height=20, rotation=0),
        region("ellipselabels", "tree", x=80, y=20, radiusX=10, radiusY=15, rotation=0),
        region("keypointlabels", "road", x=1, y=1, width=0.3),
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    tasks = [task("/data/upload/1/0a1b2c3d-a.png", *results), task("s3://bucket/b.png"), task("/x/c.png", number=3)]
    tasks[2]["annotations"][0]["was_cancelled"] = True
    tasks[0]["annotations"].append(tasks[0]["annotations"][0])
    tool.write("project-1.json", tasks)
    tool.photos("pictures/a.png", "pictures/b.png")
    said = tool.pack()
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected.ravel()[np.unpackbits(np.frombuffer(base64.b64decode(BRUSHED), np.uint8))[: HEIGHT * WIDTH] == 1] = 1
    expected[coco_drawn(*(np.array(polygon) * [WIDTH / 100, HEIGHT / 100]).ravel())] = 2
    expected[coco_drawn(12, 10, 18, 10, 18, 14, 12, 14)] = 1
    ellipse = cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), (19, 4), (2, 3), 0, 0, 360, 1, -1)
    expected[ellipse == 1] = 3
    assert tool.classes == ("background", "field", "road", "tree")
    assert np.array_equal(tool.labels()["a"], expected) and not tool.labels()["b"].any()
    for part in (
        "skipped 1 tasks that are not annotated",
        "skipped 1 further annotations of tasks",
        "skipped 1 results without a region",
    ):
        assert part in said
    assert "skipped 1 regions without a label" in said or "skipped 1 regions of the type keypointlabels" in said


@using("label_studio")
def test_faults_of_label_studio_files(tool: Annotated) -> None:
    tool.photos("a.png", "x/b.png", "y/b.png")
    tool.write("p.json", [{"id": 1, "image": "a.png", "label": [], "annotator": 1}])
    assert error_codes(said := tool.refuse()) == ["MSA-PACK-759"] and "JSON-MIN" in said
    brush = region("brushlabels", "field", format="rle", rle=[*base64.b64decode(BRUSH)][:40])
    for code, content in {
        "040": [task("a.png", brush)],
        "753": [task("a.png", region("brushlabels", "field", format="rle", rle=[300]))],
        "038": [task("b.png", region("rectanglelabels", "field", x=1, y=1, width=9, height=9))],
    }.items():
        tool.write("p.json", content)
        assert error_codes(tool.refuse()) == [f"MSA-PACK-{code}"]


def test_images_of_one_name_keep_their_folders(tmp_path: Path, capfd: Capture) -> None:
    tool = Annotated(tmp_path, "label_studio", capfd)
    tool.photos("x/b.png", "y/b.png")
    box = region("rectanglelabels", "field", x=1, y=1, width=90, height=90)
    tool.write("p.json", [task("/data/local-files/?d=x/b.png", copy.deepcopy(box)), task("y/b.png", box)])
    tool.pack()
    assert tool.splits() == {"train": ["x/b.png", "y/b.png"]}
    assert json.loads((tool.out / "dataset.json").read_text())["classes"] == ["background", "field"]
