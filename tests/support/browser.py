"""A real browser for tests: headless Chromium, driven by the DevTools protocol over its pipe (no port, no library)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",  # for root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find() -> str | None:
    """The browser of this machine, if it has one: Debian's package `chromium`."""
    return shutil.which("chromium")


class Page:
    """A tab. errors: what the console complained of. requests: addresses that were asked for, those of data: left out."""

    def __init__(self, executable: str, profile: Path) -> None:
        commands, self._out = os.pipe()
        self._in, replies = os.pipe()
        # The browser reads descriptor 3 and writes 4; a shell can place them there without touching ours.
        renumber = f'exec "$0" "$@" 3<&{commands} 4>&{replies}'
        self._browser = subprocess.Popen(
            ["bash", "-c", renumber, executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, replies),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(replies)
        self._unread, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Page:
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)  # the browser ends with its pipe
        try:
            self._browser.wait(20)
        except subprocess.TimeoutExpired:
            self._browser.kill()
            self._browser.wait()
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda reply: reply.get("id") == message["id"])

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Show a file in a window of this size, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """A real click at shares (x, y) of an element's width and height, which is scrolled into view."""
        left, top, width, height = self.js(
            f"(e => (e.scrollIntoView({{block: 'center'}}), e = e.getBoundingClientRect(), "
            f"[e.left, e.top, e.width, e.height]))(document.querySelector({json.dumps(selector)}))"
        )
        place = {"x": left + x * width, "y": top + y * height, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key: str) -> None:
        """A key of KEYS, to what has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def screenshot(self, whole: bool = False) -> bytes:
        """What is in the window, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def _until(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """The first message that is wanted (a reply's result); what happens until then is noted."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\0" in self._unread:
                text, self._unread = self._unread.split(b"\0", 1)
                message = json.loads(text)
                self._note(message)
                if wanted(message):
                    assert "error" not in message, message
                    return message.get("result", message)
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._in], [], [], left)[0], "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._unread += part

    def _note(self, message: dict[str, Any]) -> None:
        method, details = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and not details["request"]["url"].startswith("data:"):
            self.requests.append(details["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(details["exceptionDetails"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.errors.append(details["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(str(details["args"]))


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """A tab of a fresh browser. `find` must have found one."""
    executable = find()
    assert executable
    with Page(executable, profile) as tab:
        yield tab
