"""The demo page: what it refuses, and whom."""

import io
import struct
import threading
import time
import zlib

import cv2
import pytest
import torch

from msanet.demo.app import create_app, is_own_host
from msanet.demo.segmenter import Limits
from support.demo_visitor import Visitor, encoded, pixels, segmenter


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
    for data, area in (
        (b"", "MSA-DATA"),
        (b"<svg onload=alert(1)>", "MSA-DATA"),
        (png_header(4000, 3000), "MSA-DEMO-004"),
        (png_header(60000, 60000), "MSA-DATA"),  # Pillow's own limit
        (png_header(20000, 10), "MSA-DEMO-005"),
    ):
        answer = visitor.post("/segment?name=a.png", data=data)
        found = answer.get_json()
        assert answer.status_code == 400 and "'a.png'" in found["error"] and "\n" not in found["error"], found
        if area != "MSA-DATA":
            assert found["code"] == area, found


def test_out_of_memory_is_a_sentence_and_the_next_image_works() -> None:
    served = segmenter("unet")
    visitor, forward = Visitor(served), served.model.forward

    def no_memory(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    served.model.forward = no_memory
    answer = visitor.post("/segment", data=encoded(pixels()))
    assert answer.status_code == 400 and answer.get_json()["code"] == "MSA-INFER-004"
    served.model.forward = forward
    assert visitor.segment(encoded(pixels()))["key"]


def test_internal_errors_are_not_shown_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    served = segmenter("unet")
    served.model.forward = lambda x: 1 / 0
    answer = Visitor(served).post("/segment", data=encoded(pixels()))
    assert answer.status_code == 500 and answer.get_json() == {"error": "the server failed; its terminal shows why"}


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

    served.model.forward = slow
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


def test_foreign_host_names_are_refused() -> None:
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
