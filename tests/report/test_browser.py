"""The report in a real browser: what a reader sees, and what a click and a key do."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from msanet.report.html_report import Panel, ReportData, write_report
from support import browser
from support.images import decode_pixels

CLASSES, PALETTE = ("road", "car"), ((128, 64, 128), (64, 0, 128))
GRID = (4, 5)
SHOWN = """(stack => {
  const over = getComputedStyle(stack.querySelector(".over")), mark = stack.querySelector(".mark").getBoundingClientRect();
  const box = stack.getBoundingClientRect(), figure = stack.closest("figure");
  return {
    query: [Number(figure.dataset.row), Number(figure.dataset.column)],
    size: over.backgroundSize, place: over.backgroundPosition, visible: over.display !== "none" && box.width > 0,
    mark: [(mark.top + mark.height / 2 - box.top) / box.height, (mark.left + mark.width / 2 - box.left) / box.width],
    text: figure.querySelector("output").textContent,
  };
})(document.querySelector("%s"))"""
FIRST, SECOND = "figure:nth-of-type(1) .stack", "figure:nth-of-type(2) .stack"


def _report() -> ReportData:
    """Two panels with maps, one worst image. The map of query (r, c) is bright in row r and column c of its 4 x 5 cells."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (80, 160, 3), dtype=np.uint8)
    names = ("input", "ground truth", "prediction", "errors")
    drawn = {name: image for name in names}
    maps = np.zeros((*GRID, 8, 10), np.uint8)
    for row, column in np.ndindex(*GRID):
        maps[row, column, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 255
    evaluation = {
        "split": "val",
        "mean_iou": 0.5,
        "mean_iou_interval": [0.4, 0.6],
        "classes": {name: {"iou": 0.5, "iou_interval": [0.4, 0.6], "accuracy": 0.6, "support": 9} for name in CLASSES},
        "confusion_matrix": [[5, 4], [3, 6]],
        "worst_images": [{"key": "worst-of-all", "mean_iou": 0.01, "cost": 0.002}],
    }
    panels = [
        *(
            Panel(
                f"sample-{n}", drawn, 0.5, attention={"quarter": np.stack([maps, maps]), "half": np.stack([maps, maps])}
            )
            for n in range(2)
        ),
        Panel("weighed", drawn, 0.4, scales={"1": maps[1, 2], "0.5": maps[2, 2]}),
        Panel("worst-of-all", drawn, 0.01, is_worst=True),
    ]
    metrics = [{"step": step, "loss": 1 / step, "images_per_second": 9.0} for step in range(1, 90)]
    config = "data:\n  path: " + "long/" * 60
    commands = {"training": "launcher/train.py " + "x" * 300}
    return ReportData(
        "<script>alert(1)</script>", config, "today", CLASSES, PALETTE, commands, metrics, evaluation, panels
    )


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    if not browser.find():
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with browser.page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def report(tab: browser.Page, tmp_path: Path) -> browser.Page:
    write_report(tmp_path / "report.html", _report())
    tab.errors.clear()
    tab.requests.clear()
    tab.open(tmp_path / "report.html")
    return tab


def test_a_click_shows_the_map_of_the_nearest_query(report: browser.Page) -> None:
    before = report.js(SHOWN % FIRST)
    assert before["query"] == [2, 2] and before["visible"]
    report.click(FIRST, x=0.75, y=0.30)  # column 0.75 * 5 = 3.75, row 0.30 * 4 = 1.2
    after = report.js(SHOWN % FIRST)
    assert after["query"] == [1, 3] and after["text"] == "query in row 2 of 4, column 4 of 5"
    assert after["mark"] == pytest.approx([1.5 / 4, 3.5 / 5], abs=0.01)
    # Of a sprite of 5 x 4 maps the one in column 3 of 0..4 and row 1 of 0..3 fills the view.
    assert (after["size"], after["place"]) == ("500% 400%", "75% 33.3333%")
    assert before["place"] == "50% 66.6667%"
    assert report.js(SHOWN % SECOND)["query"] == [2, 2], "the other panel stays as it is"
    report.click(FIRST, x=0.98, y=0.98)
    assert report.js(SHOWN % FIRST)["query"] == [3, 4]


def test_what_is_shown_is_that_querys_map(report: browser.Page) -> None:
    """Pixels of the window: each map of this report is bright just where its query lies."""
    for x, y in ((0.1, 0.12), (0.7, 0.6)):
        report.click(FIRST, x, y)
        brightness = _brightness(report, FIRST)
        brightest = np.unravel_index(brightness.argmax(), brightness.shape)
        assert brightest == (int(y * GRID[0]), int(x * GRID[1])), brightness
    report.click("figure:nth-of-type(1) input")
    assert not report.js(SHOWN % FIRST)["visible"]
    without = _brightness(report, FIRST)
    assert without.max() < without.min() + 40, "the image alone"
    report.click("figure:nth-of-type(1) input")
    assert report.js(SHOWN % FIRST)["visible"]


def test_arrow_keys_move_the_query_and_stop_at_the_border(report: browser.Page) -> None:
    report.js(f'document.querySelector("{FIRST}").focus()')
    scrolled = report.js("scrollY")
    report.press("ArrowUp")
    report.press("ArrowLeft")
    assert report.js(SHOWN % FIRST)["query"] == [1, 1]
    for _ in range(5):
        report.press("ArrowRight")
        report.press("ArrowDown")
    assert report.js(SHOWN % FIRST)["query"] == [3, 4]
    assert report.js("scrollY") == scrolled, "keys for the map do not move the page"


def test_maps_are_folded_but_the_first_and_a_click_on_the_input_unfolds_them(report: browser.Page) -> None:
    assert report.js('[...document.querySelectorAll(".maps")].map(maps => [maps.open, maps.hidden])') == [
        [True, False],
        [False, False],
    ]
    report.click("figure:nth-of-type(2) .choose", x=0.1, y=0.9)
    shown = report.js(SHOWN % SECOND)
    assert shown["visible"] and shown["query"] == [3, 0]


def test_everything_is_there_and_nothing_is_asked_for(report: browser.Page) -> None:
    headings = report.js('[...document.querySelectorAll("h2")].map(heading => heading.textContent)')
    assert headings == ["Training", "Classes", "Confusion", "Spread over the split", "Worst images", "How it was made"]
    worst = report.js('document.querySelector("table.worst").textContent')
    assert "worst-of-all" in worst and "1.0%" in worst and "0.20%" in worst
    assert report.js('document.querySelectorAll(".whisker").length') == 2
    assert report.js("document.querySelector('h1').textContent") == "<script>alert(1)</script>"
    assert report.js("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert report.js('[...document.images].filter(image => image.alt.startsWith("weight of scale")).length') == 2
    report.click(FIRST)
    assert report.errors == []
    assert [address for address in report.requests if not address.endswith("/report.html")] == []


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_of_the_window(report: browser.Page, tmp_path: Path, width: int) -> None:
    report.open(tmp_path / "report.html", width=width)
    report.js('document.querySelectorAll("details").forEach(part => part.open = true)')
    assert report.js("document.documentElement.scrollWidth") == width
    assert report.js(f'document.querySelector("{SECOND}").getBoundingClientRect().width') > 300


def test_an_injected_script_does_not_run(tab: browser.Page, tmp_path: Path) -> None:
    """Even if the escaping failed: the page's policy lets only the report's own script run."""
    write_report(tmp_path / "report.html", _report())
    text = (tmp_path / "report.html").read_text()
    evil = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    (tmp_path / "evil.html").write_text(text.replace("<main>", f"<main>{evil}"))
    tab.open(tmp_path / "evil.html")
    assert tab.js("document.title") == "<script>alert(1)</script>"
    assert tab.js(SHOWN % FIRST)["query"] == [2, 2], "while ours has run"


def _brightness(page: browser.Page, selector: str) -> np.ndarray:
    """Mean of green in each cell of GRID of an element, from a screenshot of the window: (4, 5)."""
    import cv2

    box = page.js(
        f'(b => [b.top, b.left, b.height, b.width])(document.querySelector("{selector}").getBoundingClientRect())'
    )
    top, left, height, width = (round(value) for value in box)
    shown = decode_pixels(page.screenshot(), cv2.IMREAD_COLOR)[top : top + height, left : left + width]
    return cv2.resize(shown[..., 1], GRID[::-1], interpolation=cv2.INTER_AREA).astype(float)
