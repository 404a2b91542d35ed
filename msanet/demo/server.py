"""The page on a socket, until Ctrl-C."""

import ipaddress
import logging
import socket

from msanet.demo.segmenter import Segmenter
from msanet.errors import UserError

logger = logging.getLogger(__name__)

_IDLE = 30.0  # seconds without a byte after which a connection is closed


def serve(segmenter: Segmenter, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. port: 0 for any free one.

    Raises UserError where it cannot be bound or Flask is not installed.
    """
    try:
        from werkzeug.serving import WSGIRequestHandler, make_server

        from msanet.demo.app import create_app
    except ImportError as error:
        found = "the package flask, which the demo page needs, is not installed"
        raise UserError("MSA-DEMO-006", f"{found}; run: pip install 'msanet[demo]'") from error

    class Handler(WSGIRequestHandler):
        timeout = _IDLE
        server_version, sys_version = "msanet", ""

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Requests are not logged: they are private."""

    bound = _bind(host, port)
    address, number, *_ = bound.getsockname()
    if not ipaddress.ip_address(address).is_loopback:
        shown = f"--host {host} shows the page to other machines, without password or encryption"
        logger.warning(f"{shown}; only do so in a network that you trust")
    app = create_app(segmenter, host)
    server = make_server(address, number, app, threaded=True, request_handler=Handler, fd=bound.fileno())
    shown = f"[{address}]" if ":" in address else address
    print(f"the page is at http://{shown}:{number}/ until Ctrl-C", flush=True)
    server.serve_forever()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        found = f"--host {host} --port {port} cannot be bound ({(error.strerror or str(error)).lower()})"
        message = f"{found}, expected a free port of this machine; choose another --port, 0 for any"
        raise UserError("MSA-DEMO-007", message, setting="--port") from error
