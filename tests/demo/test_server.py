"""The demo page as a process, and in a real browser."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import werkzeug.serving

from conftest import REPOSITORY
from msanet.cli.serve import serve_job
from msanet.demo.segmenter import Limits
from msanet.demo.server import serve
from msanet.errors import UserError
from msanet.models.io import save_network
from support import browser
from support.demo_visitor import encoded, pixels, segmenter
from support.errors import raises_user_error
from support.metadata import metadata


class Unserved:
    """In the place of werkzeug's server."""

    def serve_forever(self) -> None:
        """Not at all."""


def test_other_machines_get_the_page_only_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(werkzeug.serving, "make_server", lambda *args, **options: Unserved())
    served = segmenter("unet")
    serve(served, "127.0.0.1", 0)
    assert not caplog.records
    serve(served, "0.0.0.0", 0)
    assert caplog.records[0].levelname == "WARNING" and "--host 0.0.0.0" in caplog.messages[0]


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with raises_user_error("MSA-DEMO-007", setting="--port", mentions=f"{port}"):
            serve(segmenter("unet"), "127.0.0.1", port)


def test_without_flask_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "msanet.demo.app")
    monkeypatch.setitem(sys.modules, "flask", None)
    with raises_user_error("MSA-DEMO-006", mentions="msanet[demo]"):
        serve(segmenter("unet"), "127.0.0.1", 0)


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The page of a small MSANet as users start it, in a process that cannot write a byte to any file."""
    torch.manual_seed(0)
    own = metadata("msanet", width=0.05)
    save_network(folder / "model.safetensors", own.build().state_dict(), own)
    command = [sys.executable, "-B", "-m", "msanet", "serve", "--checkpoint", str(folder), "--port", "0"]
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
        assert page.js("[layer.width, layer.height]") == [90, 60]
        assert page.js("[element('input-image').naturalWidth, element('input-image').naturalHeight]") == [90, 60]
        assert page.js("element('areas').rows.length") > 1
        move(45.5 / 90, 30.5 / 60)
        until("element('here').textContent.startsWith('row 30, column 45: ')")

        page.click("#views button[value=half]")
        until("maps !== null && !asking && layer.width === 45")
        center = page.js(painted)
        move(81.5 / 90, 6.5 / 60)
        until(f"!asking && wanted[0] === 6 && wanted[1] === 81 && {painted} !== '{center}'")
        assert page.js("mark.hidden") is False and page.js("Math.round(parseFloat(mark.style.left))") == 91
        assert page.errors == [] and all(request.startswith(address) for request in page.requests)

        drop("text.png")
        until("element('message').textContent.includes(\"'text.png'\")")


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    words = ["--checkpoint", str(tmp_path / "model.safetensors")]
    job = serve_job([*words, "--max-megapixels", "2.5", "evaluation.flip=true"])
    assert (job.host, job.port, job.limits) == ("127.0.0.1", 7860, Limits(megapixels=2.5)) and job.settings.flip
    for wrong in (["--port", "70000"], ["--max-megabytes", "0"], ["--max-megapixels", "nan"], ["--side", "-1"]):
        with pytest.raises(UserError, match=wrong[0]):
            serve_job([*words, *wrong])
