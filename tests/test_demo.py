"""The demo page: what it answers, what it keeps, whom it refuses; as a process, and in a real browser."""

import base64
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
import cv2
import numpy as np
import psutil
import pytest
import torch
import werkzeug.serving
from conftest import REPOSITORY
from PIL import Image
from torch import nn
from werkzeug.test import TestResponse

from msanet.command_line import demo_job
from msanet.config import EvaluationConfig
from msanet.data.augment import normalise
from msanet.datasets import CAMVID
from msanet.demo.app import create_app, is_own_host
from msanet.demo.segmenter import Limits, Segmenter
from msanet.demo.server import serve
from msanet.errors import UserError
from msanet.evaluation.inference import Predictor
from msanet.models.msanet import MSANet
from msanet.models.saved import ModelCard, save_network

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
PLAIN = EvaluationConfig()


def card(name: str, **options: Any) -> ModelCard:
    return ModelCard(
        name=name,
        options={"width": 0.05, **options},
        dataset=CAMVID.name,
        dataset_digest="0",
        classes=CAMVID.classes,
        palette=CAMVID.palette,
        ids=tuple(range(CAMVID.num_classes)),
        mean=MEAN,
        std=STD,
        resize=None,
        step=1,
    )


def segmenter(name: str, limits: Limits | None = None, settings: EvaluationConfig = PLAIN, **options: Any) -> Segmenter:
    torch.manual_seed(0)
    own = card(name, **options)
    return Segmenter(own.build().eval(), own, settings, limits or Limits())


class Visitor:
    """A browser on the page, as far as the server sees it."""

    def __init__(self, served: Segmenter) -> None:
        self.client = create_app(served, "127.0.0.1").test_client()

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> TestResponse:
        own = {"Host": "127.0.0.1:7860", "Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
        return self.client.post(path, headers={**own, **(headers or {})}, **body)

    def segment(self, data: bytes) -> dict[str, Any]:
        answer = self.post("/segment", data=data)
        assert answer.status_code == 200, answer.json
        return answer.get_json()

    def maps(self, key: str, row: int = 0, column: int = 0) -> dict[str, np.ndarray]:
        answer = self.post("/maps", json={"key": key, "row": row, "column": column})
        assert answer.status_code == 200, answer.json
        return {name: unpacked(packed) for name, packed in answer.get_json().items()}


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    return values.reshape(packed["height"], packed["width"])


def pixels(height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(image_HWC: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, kind, **options)
    return buffer.getvalue()


def expected_labels(served: Segmenter, image_HWC: np.ndarray, **settings: Any) -> np.ndarray:
    predictor = Predictor(served.model, EvaluationConfig(**settings), MEAN, STD)
    return predictor.labels(torch.from_numpy(image_HWC)).numpy()


def test_labels_and_areas_are_the_predictors() -> None:
    served = segmenter("unet")
    answer = Visitor(served).segment(encoded(pixels()))
    expected = expected_labels(served, pixels())
    assert np.array_equal(unpacked(answer["label"]), expected) and len(np.unique(expected)) > 1
    assert answer["areas"] == np.bincount(expected.ravel(), minlength=CAMVID.num_classes).tolist()
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2]))))
    assert picture.shape == (37, 53, 3) and answer["input"] == [37, 53]


def test_a_photograph_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright
    photograph = encoded(pixels(), "JPEG", exif=exif.tobytes())
    served = segmenter("unet")
    upright = np.rot90(cv2.imdecode(np.frombuffer(encoded(pixels(), "JPEG"), np.uint8), cv2.IMREAD_COLOR_RGB), -1)
    label = unpacked(Visitor(served).segment(photograph)["label"])
    assert label.shape == (53, 37) and np.array_equal(label, expected_labels(served, upright.copy()))


def test_the_network_gets_large_images_scaled_down() -> None:
    served = segmenter("unet", Limits(side=32))
    answer = Visitor(served).segment(encoded(pixels(40, 64)))
    assert answer["input"] == [20, 32]
    assert np.array_equal(unpacked(answer["label"]), expected_labels(served, pixels(40, 64), resize=(20, 32)))
    chosen = segmenter("unet", Limits(side=32), EvaluationConfig(resize=(48, 48)))
    assert Visitor(chosen).segment(encoded(pixels(40, 64)))["input"] == [48, 48]


def test_a_body_above_the_limit_is_refused_unread() -> None:
    visitor = Visitor(segmenter("unet", Limits(megabytes=0.001)))
    declared = visitor.post("/segment", data=bytes(1001))
    endless = visitor.post(
        "/segment", input_stream=io.BytesIO(bytes(5000)), environ_overrides={"wsgi.input_terminated": True}
    )
    for answer in (declared, endless):  # the second tells no length, as a chunked body
        assert answer.status_code == 413
        assert answer.get_json() == {"error": "the file is too large, expected at most 0.001 MB"}


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def test_bad_images_are_refused_in_one_sentence_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(segmenter("unet"))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for data, found in (
        (b"", "'a.png' cannot be read as an image"),
        (b"<svg onload=alert(1)>", "'a.png' cannot be read as an image"),
        (png_header(4000, 3000), "'a.png' has 4000x3000 pixels, 12 megapixels, expected at most 8; "),
        (png_header(60000, 60000), "'a.png' cannot be read as an image"),  # says Pillow's own limit
        (png_header(20000, 10), "'a.png' has 20000x10 pixels, expected sides of at most 16384"),
    ):
        answer = visitor.post("/segment?name=a.png", data=data)
        assert answer.status_code == 400 and answer.get_json()["error"].startswith(found), answer.get_json()


def test_lack_of_memory_is_a_sentence_and_the_next_image_works() -> None:
    served = segmenter("unet")
    visitor, forward = Visitor(served), served.model.forward

    def no_memory(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    served.model.forward = no_memory  # type: ignore[assignment]
    answer = visitor.post("/segment", data=encoded(pixels()))
    assert answer.status_code == 400 and "memory does not suffice" in answer.get_json()["error"]
    served.model.forward = forward  # type: ignore[method-assign]
    assert visitor.segment(encoded(pixels()))["key"]


def test_our_own_errors_are_not_told_to_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    served = segmenter("unet")
    served.model.forward = lambda x: 1 / 0  # type: ignore[assignment]
    answer = Visitor(served).post("/segment", data=encoded(pixels()))
    assert answer.status_code == 500 and answer.get_json() == {"error": "the server failed; its terminal says why"}


@pytest.mark.parametrize(
    ("resize", "options"), [(None, {}), ((30, 44), {}), (None, {"attention_pool": 2, "attention_window": 4})]
)
def test_attention_is_the_models_and_the_encoder_runs_once_per_image(
    resize: tuple[int, int] | None, options: dict[str, Any]
) -> None:
    served = segmenter("msanet", settings=EvaluationConfig(resize=resize), **options)
    visitor, model = Visitor(served), served.model
    assert isinstance(model, MSANet)
    key = visitor.segment(encoded(pixels()))["key"]
    passes = []
    model.encoder[0].register_forward_hook(lambda *_: passes.append(1))
    queries = [(0, 0), (36, 52), (17, 30)]
    found = [visitor.maps(key, *query) for query in queries]
    assert len(passes) == 1

    x_1CHW = normalise(torch.from_numpy(pixels())[None], MEAN, STD)
    rows, columns = resize or (37, 53)
    if resize:
        x_1CHW = nn.functional.interpolate(x_1CHW, resize, mode="bilinear", antialias=True)
    for (row, column), maps in zip(queries, found, strict=True):
        expected = model.attention_maps(x_1CHW, [(row * rows // 37, column * columns // 53)])
        assert set(maps) == {"quarter", "half"}
        for name, levels in maps.items():
            strength = (expected[name][0, 0] / expected[name].max()).sqrt().numpy() * 255
            assert levels.shape == strength.shape
            np.testing.assert_allclose(levels, strength, atol=0.51)
    assert not np.array_equal(found[0]["half"], found[1]["half"])


def test_weights_of_scales_are_maps_and_other_networks_have_none() -> None:
    served = segmenter("attention_to_scale", network="unet", scales="1,0.5")
    visitor = Visitor(served)
    maps = visitor.maps(visitor.segment(encoded(pixels()))["key"])
    assert set(maps) == {"1", "0.5"} and maps["1"].shape == (37, 53)
    np.testing.assert_allclose(maps["1"].astype(int) + maps["0.5"], 255, atol=1)
    assert segmenter("unet").map_names == segmenter("msanet", attention="fusion").map_names == ()


def test_only_the_last_images_are_kept_and_bad_questions_are_answered() -> None:
    visitor = Visitor(segmenter("msanet"))
    keys = [visitor.segment(encoded(pixels()))["key"] for _ in range(5)]
    assert len(set(keys)) == 5 and visitor.maps(keys[1])
    for words, found in (
        ({"key": keys[0], "row": 0, "column": 0}, "not among the last 4"),
        ({"key": keys[4], "row": 37, "column": 0}, "pixel 37, 0 is not in the image"),
        ({"key": keys[4], "row": -1, "column": 0}, "pixel -1, 0 is not in the image"),
        ({"key": keys[4]}, "no key, row and column"),
        ([], "no key, row and column"),
    ):
        answer = visitor.post("/maps", json=words)
        assert answer.status_code == 400 and found in answer.get_json()["error"], answer.get_json()


def test_one_image_is_in_the_network_at_a_time_and_few_wait() -> None:
    served = segmenter("unet")
    visitor, forward = Visitor(served), served.model.forward
    inside, most, gate = [0], [0], threading.Event()

    def slow(x: torch.Tensor) -> torch.Tensor:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        assert gate.wait(60)
        inside[0] -= 1
        return forward(x)

    served.model.forward = slow  # type: ignore[assignment]
    codes: list[int] = []

    def send() -> None:
        codes.append(visitor.post("/segment", data=encoded(pixels())).status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(codes) < 4 and time.monotonic() < deadline:  # refused at once, the others wait
        time.sleep(0.01)
    refused = codes[:]
    gate.set()
    for thread in threads:
        thread.join()
    assert refused == [503] * 4 and sorted(codes) == [200] * 4 + [503] * 4 and most[0] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://127.0.0.1:7860.example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_websites_are_refused(headers: dict[str, str]) -> None:
    visitor = Visitor(segmenter("unet"))
    for path in ("/segment", "/maps"):
        answer = visitor.post(path, headers, data=encoded(pixels()))
        assert answer.status_code == 403 and "another website" in answer.get_json()["error"]


def test_foreign_names_are_refused_and_own_ones_are_not() -> None:
    client = create_app(segmenter("unet"), "127.0.0.1").test_client()
    for path in ("/", "/static/page.js"):
        assert client.get(path, headers={"Host": "localhost:8080"}).status_code == 200  # by ssh -L
        assert client.get(path, headers={"Host": "rebound.example.com:7860"}).status_code == 403
    own = ("127.0.0.1", "127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "192.168.0.7:7860", "gpubox:7860")
    foreign = (
        "",
        "example.com",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "[::1",
        "127.0.0.1@example.com",
        "2130706433",
    )
    assert all(is_own_host(name, "GPUbox") for name in own)
    assert not any(is_own_host(name, "127.0.0.1") for name in (*foreign, "gpubox"))


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    client = create_app(segmenter("msanet"), "127.0.0.1").test_client()
    answers = [client.get(path) for path in ("/", "/static/page.js", "/static/page.css")]
    for answer in answers:
        assert answer.status_code == 200 and "http" not in answer.text
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
    assert "Bicyclist" in answers[0].text or "bicyclist" in answers[0].text


def test_the_command_line_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    words = ["--checkpoint", str(tmp_path / "model.safetensors")]
    job = demo_job("", [*words, "--max-megapixels", "2.5", "evaluation.flip=true"])
    assert (job.host, job.port, job.limits) == ("127.0.0.1", 7860, Limits(megapixels=2.5)) and job.settings.flip
    for wrong in (["--port", "70000"], ["--max-megabytes", "0"], ["--max-megapixels", "nan"], ["--side", "-1"]):
        with pytest.raises(UserError, match=f"{wrong[0]} is "):
            demo_job("", [*words, *wrong])


class Unserved:
    """In the place of werkzeug's server."""

    def serve_forever(self) -> None:
        """Not at all."""


def test_other_machines_get_the_page_only_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(werkzeug.serving, "make_server", lambda *args, **options: Unserved())
    served = segmenter("unet")
    serve(served, "127.0.0.1", 0)
    assert capsys.readouterr().err == ""
    serve(served, "0.0.0.0", 0)
    assert "warning: --host 0.0.0.0 shows the page to other machines" in capsys.readouterr().err


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} cannot be bound .*in use.*; choose another --port"):
            serve(segmenter("unet"), "127.0.0.1", port)


def test_without_flask_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "msanet.demo.app")
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(UserError, match=r"flask is not installed.*msanet\[demo\]"):
        serve(segmenter("unet"), "127.0.0.1", 0)


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The page of a small MSANet as users start it, in a process that cannot write a byte to any file."""
    torch.manual_seed(0)
    own = card("msanet")
    save_network(folder / "model.safetensors", own.build().state_dict(), own)
    command = [sys.executable, "-B", "launcher/demo.py", "--checkpoint", str(folder), "--port", "0"]
    process = subprocess.Popen(
        ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *command],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "until Ctrl-C" in line, line
        yield process, line.split()[4]
    finally:
        process.kill()
        process.wait()


def test_as_a_process_it_listens_on_loopback_alone_and_writes_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as (process, address):
        connections = psutil.Process(process.pid).net_connections(kind="all")
        listening = [one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"] and address.startswith("http://127.0.0.1:")
        image = encoded(pixels(500, 500))  # above half a megabyte, from where forms would go to a file
        assert len(image) > 600_000
        with urllib.request.urlopen(urllib.request.Request(f"{address}segment", data=image), timeout=120) as answer:
            assert answer.status == 200 and answer.headers["Server"].strip() == "msanet"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.skipif(browser.find() is None, reason="no chromium on this machine")
def test_in_a_browser_an_image_is_dropped_and_its_maps_follow_the_mouse(tmp_path: Path) -> None:
    (tmp_path / "dropped.png").write_bytes(encoded(pixels(60, 90)))
    (tmp_path / "text.png").write_text("no image")
    with running(tmp_path) as (_, address), browser.page(tmp_path / "profile") as page:

        def until(expression: str) -> None:
            for _ in range(600):
                if page.js(expression) is True:
                    return
                time.sleep(0.1)
            raise AssertionError(f"never {expression}: {page.js('document.body.innerText')} {page.errors}")

        def drop(name: str) -> None:
            data = {"items": [], "files": [str(tmp_path / name)], "dragOperationsMask": 1}
            for kind in ("dragEnter", "dragOver", "drop"):
                page.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

        def move(x: float, y: float) -> None:
            left, top, width, height = page.js(
                "(box => [box.left, box.top, box.width, box.height])(element('stage').getBoundingClientRect())"
            )
            page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + x * width, y=top + y * height)

        painted = "element('layer').toDataURL()"
        page.call("Emulation.setDeviceMetricsOverride", width=1280, height=1200, deviceScaleFactor=1, mobile=False)
        page.call("Page.navigate", url=address)
        until("document.readyState === 'complete' && typeof network === 'object'")
        assert page.js("element('result').hidden") is True
        drop("dropped.png")
        until("!element('result').hidden && !document.body.classList.contains('busy')")
        assert page.js("[layer.width, layer.height, picture.naturalWidth, picture.naturalHeight]") == [90, 60, 90, 60]
        assert page.js("element('areas').rows.length") > 1
        move(45.5 / 90, 30.5 / 60)
        until("element('here').textContent.startsWith('row 30, column 45: ')")

        page.click("#views button[value=half]")
        until("maps !== null && !asking && layer.width === 45")
        centre = page.js(painted)
        move(81.5 / 90, 6.5 / 60)
        until(f"!asking && wanted[0] === 6 && wanted[1] === 81 && {painted} !== '{centre}'")
        assert page.js("mark.hidden") is False and page.js("Math.round(parseFloat(mark.style.left))") == 91
        assert page.errors == [] and all(request.startswith(address) for request in page.requests)

        drop("text.png")
        until("element('message').textContent.startsWith(\"'text.png' cannot be read as an image\")")
