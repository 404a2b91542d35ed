"""The page as a Flask application, which only its own page may use.

A page on loopback can be reached by every website that its user visits, so the browser's headers
about the origin of a request are checked: `Host` against rebound names, `Origin` and `Sec-Fetch-Site` against foreign
pages. Bodies stay in memory: nothing is written to disk.
"""

import base64
import ipaddress
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from flask import Flask, Response, abort, render_template, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from msanet.demo.segmenter import Limits, Segmented, Segmenter
from msanet.errors import UserError
from msanet.report.heat import heat
from msanet.report.palette import UInt8

_WAITING = 4  # requests with an image, of which one is in the network
_JPEG_QUALITY = 90
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(segmenter: Segmenter, host: str) -> Flask:
    """The page as a WSGI application. host: the name it is bound to."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = int(segmenter.limits.megabytes * 1e6)  # refused before it is read
    _refuse_foreign_requests(app, host)
    _explain_errors(app, segmenter.limits)
    slots = threading.BoundedSemaphore(_WAITING)

    @app.get("/")
    def page() -> str:
        network = _network(segmenter)
        return render_template("page.html", metadata=segmenter.metadata, network=network, limits=segmenter.limits)

    @app.post("/segment")
    def segment() -> dict[str, Any]:
        with _slot(slots):
            start = time.monotonic()
            done = segmenter.segment(request.get_data(cache=False), request.args.get("name", "image"))
            return {**_response(done, len(segmenter.metadata.classes)), "seconds": time.monotonic() - start}

    @app.post("/maps")
    def maps() -> dict[str, Any]:
        body = request.get_json()
        try:
            key, row, column = str(body["key"]), int(body["row"]), int(body["column"])
        except (KeyError, TypeError, ValueError):
            raise UserError("MSA-DEMO-001", "the request has no key, row and column; reload the page") from None
        with _slot(slots):
            return {name: _compressed(map_HW) for name, map_HW in segmenter.maps(key, row, column).items()}

    return app


def _refuse_foreign_requests(app: Flask, host: str) -> None:
    @app.before_request
    def check() -> None:
        if not is_own_host(request.headers.get("Host", ""), host):
            abort(403, "the page is asked for by a name that is not its own; use the address that its start printed")
        if request.method == "POST" and not is_own_page(request.headers.get, request.headers.get("Host", "")):
            abort(403, "another website sent this request; use the page itself")

    @app.after_request
    def restrict(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response


def _explain_errors(app: Flask, limits: Limits) -> None:
    """All errors as {"error": one sentence}."""

    @app.errorhandler(UserError)
    def refused(error: UserError) -> tuple[dict[str, str], int]:
        return {"error": str(error), "code": error.code}, 400

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> tuple[dict[str, str], int]:
        code = error.code or 500
        if isinstance(error, RequestEntityTooLarge):
            return {"error": f"the file is too large, expected at most {limits.megabytes:g} MB"}, code
        return {"error": "the server failed; its terminal shows why" if code == 500 else str(error.description)}, code


@contextmanager
def _slot(slots: threading.BoundedSemaphore) -> Iterator[None]:
    if not slots.acquire(blocking=False):
        abort(503, f"{_WAITING} images are already being processed; try again in a moment")
    try:
        yield
    finally:
        slots.release()


def is_own_host(header: str, bound: str) -> bool:
    """Whether a `Host` header is an IP number, localhost or the name given at the start.

    A website can have its name point to this machine (DNS rebinding), but not choose these.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
        return name in ("localhost", bound.lower()) or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def is_own_page(header: Callable[[str], str | None], host: str) -> bool:
    """Whether a request comes from the page itself, or from no browser. header: its headers' values by name."""
    origin = header("Origin")
    is_own = origin is None or origin in (f"http://{host}", f"https://{host}")  # the latter behind a proxy
    return is_own and header("Sec-Fetch-Site") in (None, "same-origin")


def _network(segmenter: Segmenter) -> dict[str, Any]:
    """What the page must know of the network."""
    metadata, limits = segmenter.metadata, segmenter.limits
    return {
        "classes": metadata.classes,
        "palette": metadata.palette,
        "maps": segmenter.map_names,
        "queries": segmenter.queries,
        "colors": heat(np.linspace(0, 1, 256, dtype=np.float32)[None])[0].tolist(),
        "megabytes": limits.megabytes,
    }


def _response(done: Segmented, num_classes: int) -> dict[str, Any]:
    bgr_HWC = cv2.cvtColor(done.image_HWC, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return {
        "key": done.key,
        "image": "data:image/jpeg;base64," + base64.b64encode(encoded).decode(),
        "label": _compressed(done.label_HW),
        "areas": np.bincount(done.label_HW.ravel(), minlength=num_classes).tolist(),
        "input": done.input_size,
    }


def _compressed(values_HW: UInt8) -> dict[str, Any]:
    """For the page's `unpacked`."""
    data = base64.b64encode(zlib.compress(values_HW.tobytes(), level=1)).decode()
    return {"height": values_HW.shape[0], "width": values_HW.shape[1], "data": data}
