"""The server behind ``archsearch dashboard``: a page that shows a run while it goes on, and steers
it.

| Request | Answer |
|---|---|
| ``GET /`` | the page; its script and style under ``/page.js`` and ``/page.css`` |
| ``GET /live.json`` | :meth:`Watch.now`, with ``started`` of :meth:`Helm.told` |
| ``GET /report`` | the report that was last written |
| ``POST /stop`` | :meth:`Helm.stop` |
| ``POST /extend`` | :meth:`Helm.extend` of ``trials`` and ``minutes`` |

What is refused is told as ``{"error": …}``, what was done as ``{"done": …}``.
"""

import errno
import json
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from archsearch.errors import ArchsearchError, InputError
from archsearch.report.live.guard import (
    Application,
    Environ,
    Guard,
    RefusedError,
    StartResponse,
    order_of,
)
from archsearch.report.live.steer import Helm
from archsearch.report.live.watch import Watch

if TYPE_CHECKING:
    from archsearch.api import Study

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# The report brings a policy of its own. Sandboxed, its script is of no origin: it reaches neither
# the page around it nor this server.
REPORT_POLICY = "sandbox allow-scripts allow-downloads allow-modals; frame-ancestors 'self'"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_MAX_TRIALS = 10**9


@dataclass(frozen=True)
class LivePage:
    """The application: what may ask is :class:`Guard`'s to say."""

    watch: Watch
    helm: Helm

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path, headers = environ.get("PATH_INFO", "") or "/", {}
        if environ["REQUEST_METHOD"] == "POST":
            status, body, kind = *self._obey(path, environ), "application/json"
        elif path in FILES:
            name, kind = FILES[path]
            status, body = HTTPStatus.OK, resources.files(__package__).joinpath(name).read_bytes()
            headers = {"Content-Security-Policy": PAGE_POLICY}
        elif path == "/live.json":
            now = {**self.watch.now(), "started": self.helm.told()}
            status, body, kind = HTTPStatus.OK, _json(now), "application/json"
        elif path == "/report" and (body := self.watch.report()):
            status, kind = HTTPStatus.OK, "text/html"
            headers = {"Content-Security-Policy": REPORT_POLICY}
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"There is no {path} here.")
        headers |= {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
        }
        start_response(f"{status.value} {status.phrase}", [*headers.items()])
        return [body]

    def _obey(self, path: str, environ: Environ) -> tuple[HTTPStatus, bytes]:
        order = order_of(environ)
        try:
            if path == "/stop" and not order:
                done = self.helm.stop()
            elif path == "/extend" and order.keys() <= {"trials", "minutes"}:
                trials = _number(order, "trials", int)
                done = self.helm.extend(trials, _number(order, "minutes", (int, float)))
            else:
                raise RefusedError(HTTPStatus.NOT_FOUND, f"There is no such order: {path}.")
        except InputError as error:
            return HTTPStatus.CONFLICT, _json({"error": str(error)})
        except ArchsearchError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": str(error)})
        return HTTPStatus.OK, _json({"done": done})


def _number(order: dict[str, Any], name: str, kind: Any) -> Any:
    """A positive number of an order; None where it is not given."""
    value = order.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= _MAX_TRIALS:
        raise InputError(f"{name}: {value!r} is not allowed; allowed is a number above 0.")
    return value


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


class _Handler(WSGIRequestHandler):
    timeout = 30  # of a connection on which nothing comes

    def log_message(self, *_: Any) -> None:
        """Print nothing: the terminal is for what the user is told."""


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A server that answers several requests at a time."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without looking up the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def handle_error(self, *arguments: Any) -> None:
        """Say nothing of clients that have gone, or send nothing."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*arguments)


def bind(
    application: Application, host: str, port: int, writes: bool = True
) -> tuple[Server, Guard]:
    """Bind a server to an address, with a guard before ``application``. ``serve_forever`` runs it.

    Args:
        application: What it serves.
        host: Address to bind to.
        port: Its port; 0 picks one that is free.
        writes: Whether anything but reading is let through.

    Raises:
        InputError: The port is in use, or the address not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Server", (Server,), {"address_family": family})
    try:
        server: Server = kind((host, port), _Handler)
    except OverflowError as error:
        raise InputError(f"--port: {port} is not allowed; allowed are 0 to 65535.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port: {port} of {host} is in use, by another dashboard perhaps. Give another; "
                "--port 0 picks one that is free."
            ) from error
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}.") from error
    guard = Guard(application, host, server.server_port, writes=writes)
    server.set_app(guard)
    return server, guard


def live_page(folder: Path, open_study: "Callable[[], Study]") -> LivePage:
    """The live page of the run in a folder; its threads look at it from now on.

    Args:
        folder: Of the run.
        open_study: Opens the study in it.
    """
    watch = Watch(folder, open_study)
    watch.start()
    return LivePage(watch, Helm(folder, open_study))
