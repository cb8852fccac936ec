"""Who may ask the server of a live page, and what for.

The page can stop a run, and any site that the same browser visits could try to. So the server
answers no name but its own (a foreign name that was made to point here, DNS rebinding, gets
nothing), only who has the token that was printed in the terminal, and takes orders only as JSON
from its own page.
"""

import hmac
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import psutil

MAX_BODY = 4096
"""Bytes of an order."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "no-store",
}
"""Of every answer."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class RefusedError(Exception):
    """A request that is not answered; the message says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str, port: int) -> frozenset[str]:
    """What a server that is bound to ``host`` is called in a Host header, with its port."""
    names = {host, "localhost"}
    if is_loopback(host):
        names |= {"127.0.0.1", "::1"}
    else:
        names.add(socket.gethostname())
    if host in ("0.0.0.0", "::"):
        for addresses in psutil.net_if_addrs().values():
            names |= {each.address.partition("%")[0] for each in addresses}
    bracketed = {f"[{name}]" if ":" in name else name for name in names}
    plain = bracketed if port == 80 else set()
    return frozenset(name.lower() for name in {*plain, *(f"{name}:{port}" for name in bracketed)})


@dataclass(frozen=True)
class Guard:
    """Stands before an application, and lets through what it may be asked.

    Args:
        application: What is guarded, as WSGI has it.
        host: What the server is bound to.
        port: The same.
        token: Whoever has it may ask.
        writes: Whether anything but reading is let through.
    """

    application: Application
    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    writes: bool = True

    @property
    def address(self) -> str:
        """To be opened in a browser, with the token."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.port}/?token={self.token}"

    @property
    def _cookie(self) -> str:
        # Cookies are of a host, whatever the port: two runs that are watched need two names.
        return f"archsearch_{self.port}"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or say why not."""
        given = {**HEADERS}

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            named = {name.lower() for name, _ in headers}
            kept = [(name, value) for name, value in given.items() if name.lower() not in named]
            return start_response(status, [*headers, *kept], *rest)

        try:
            if self._check(environ):  # the token came with the address: from now on as a cookie
                given["Set-Cookie"] = (
                    f"{self._cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                )
            return self.application(environ, start)
        except RefusedError as error:
            body = json.dumps({"error": str(error)}, ensure_ascii=False).encode()
            kind = ("Content-Type", "application/json; charset=utf-8")
            line = f"{error.status.value} {error.status.phrase}"
            start(line, [kind, ("Content-Length", str(len(body)))])
            return [body]

    def _check(self, environ: Environ) -> bool:
        """Whether a request that may be answered brings the token in its address.

        Raises:
            RefusedError: It may not.
        """
        own, host = own_names(self.host, self.port), environ.get("HTTP_HOST", "").lower()
        if host not in own:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"This server is called {self.host}:{self.port} and localhost:{self.port}, and "
                "answers to no other name. Through a tunnel, forward the same number of port.",
            )
        method = environ["REQUEST_METHOD"]
        by_address = method == "GET" and self._is_token(_token_of(environ))
        if not (by_address or self._is_token(_cookie_of(environ, self._cookie))):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "The token is missing or wrong. Open the address that `archsearch dashboard` "
                "printed when it started.",
            )
        if method != "GET":
            self._check_order(environ, method, f"http://{host}")
        return by_address

    def _check_order(self, environ: Environ, method: str, origin: str) -> None:
        if method != "POST" or not self.writes:
            allowed = "GET and POST" if self.writes else "GET: here a run is only looked at"
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"Allowed is {allowed}.")
        if environ.get("HTTP_ORIGIN", "").lower() != origin:
            raise RefusedError(HTTPStatus.FORBIDDEN, "Orders are taken from the own page only.")
        kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "An order is JSON.")
        length = environ.get("CONTENT_LENGTH") or ""
        if not re.fullmatch("[0-9]{1,15}", length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "An order says its length.")
        if int(length) > MAX_BODY:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"An order has {MAX_BODY:,} bytes at most.",
            )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def order_of(environ: Environ) -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        RefusedError: It brings something else.
    """
    try:
        order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    except ValueError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"This is no JSON: {error}.") from error
    if not isinstance(order, dict):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "An order is a JSON object.")
    return order


def _token_of(environ: Environ) -> str:
    return str(parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0])


def _cookie_of(environ: Environ, name: str) -> str:
    try:
        found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(name)
    except CookieError:
        return ""
    return str(found.value) if found else ""
