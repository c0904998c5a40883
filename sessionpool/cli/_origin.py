"""The demo's origin: a small site on loopback that keeps its own count of what a client does to it.

A pool's promises are worth what an outsider sees of them, so nothing here is taken from the client. The
origin counts the connections it accepted and how many were open at once, and it knows which cookies it gave
to whom: every request of the demo says in `X-Demo-User` in whose name it is made, and a session cookie of
somebody else (crossed) or a missing or outdated cookie (lost) is noticed on arrival.

Three parts, each of one subject: `requests_in` turns bytes into requests, `Site` turns a request into the
bytes of its answer (both without I/O), `OriginServer` moves the bytes in one selector loop on one thread.
`OriginProcess` runs that in a process of its own, so that the client's interpreter lock is not shared; it is
asked for its counts over a pipe, because a connection for the questions would be one more to count. Standard
library only, and no import of the package: the process starts in the time Python does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import heapq
import itertools
import json
import re
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import Self

SESSION_COOKIE = "demo_session"
CART_COOKIE = "demo_cart"
CSRF_COOKIE = "demo_csrf"
CLAIM = "x-demo-user"

SLOW = 0.05
HEAD_MAX = 32 * 1024
BODY_MAX = 1024 * 1024
REDIRECTS_MAX = 20
LINGER = 5.0
FAULTS_KEPT = 10

Step = tuple[float, bytes]  # (pause before sending, bytes): an answer is a list of them


def password_of(user: str) -> str:
    """The password with which `user` logs in to the demo's site."""
    return f"{user}-password"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What the origin has seen since its start.

    Attributes:
        accepted: Connections accepted.
        open: Connections open now.
        most_open: Connections open at one time, at most. An end that has reached the origin is noticed before
            a new connection is counted, so a client that closes one connection before it opens the next is
            counted fairly.
        requests: Complete, well-formed requests.
        per_connection: Requests on each connection, in the order in which the connections were accepted.
        asked_to_close: Answers that carried `Connection: close`.
        rejected: Requests refused because they were malformed.
        crossed: Requests that carried a cookie of another user than the one they claimed to be from.
        lost: Requests without, or with an outdated form of, a cookie the origin had set for their user.
        faults: The first few crossed and lost cookies, a sentence each.
    """

    accepted: int
    open: int
    most_open: int
    requests: int
    per_connection: tuple[int, ...]
    asked_to_close: int
    rejected: int
    crossed: int
    lost: int
    faults: tuple[str, ...]


class OriginError(Exception):
    """The origin could not be started, or has ended."""


# --- bytes to requests --------------------------------------------------------------------------------------


class BadRequest(Exception):
    """The bytes are no request we can take; answered with `status`, after which the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclasses.dataclass(slots=True)
class Request:
    """One complete request. Header names are lower case; the values of a repeated one are joined."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    minor: int
    keep_alive: bool
    body: bytes = b""

    def cookies(self) -> list[tuple[str, str]]:
        """The pairs of the Cookie header, in order, repeated names included."""
        header = self.headers.get("cookie")
        if not header:
            return []
        pairs = (pair.strip().partition("=") for pair in header.split(";"))
        return [(name, value) for name, _, value in pairs]

    def form(self) -> dict[str, str]:
        """The fields of an urlencoded body; of a repeated field the first value."""
        fields = parse_qs(self.body.decode("latin-1"), keep_blank_values=True)
        return {name: values[0] for name, values in fields.items()}


_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n\0]*)?")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def requests_in(buffer: bytearray) -> Generator[Request | bytes | None, None, None]:
    """Parse requests out of `buffer`, to which the caller appends what arrives; what is parsed is removed.

    Yields `None` when more bytes are needed, bytes when they are to be sent at once (100 Continue), and each
    request when it is complete. Raises `BadRequest` and is over then, for what follows cannot be trusted
    (RFC 9112 §9.6).
    """
    while True:
        while (end := buffer.find(b"\r\n\r\n")) < 0 or buffer.startswith(b"\r\n"):
            if buffer.startswith(b"\r\n"):  # an empty line before the request line: RFC 9112 §2.2
                del buffer[:2]
                continue
            if len(buffer) > HEAD_MAX:
                raise BadRequest(431, "the request head is too long")
            if buffer and not 0x20 < buffer[0] < 0x7F and buffer != b"\r":
                raise BadRequest(400, "this is not HTTP")  # a TLS hello, say: no empty line will ever come
            yield None
        if end > HEAD_MAX:
            raise BadRequest(431, "the request head is too long")
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        request = _parse_head(head)
        length = _body_length(request)
        if length != 0:
            if request.minor == 1 and request.headers.get("expect", "").lower() == "100-continue" and not buffer:
                yield _CONTINUE
            if length is None:
                request.body = yield from _read_chunks(buffer)
            else:
                request.body = yield from _read_exactly(buffer, length)
        yield request


def _parse_head(head: bytes) -> Request:
    lines_ended = head.count(b"\r\n")
    if head.count(b"\n") != lines_ended or head.count(b"\r") != lines_ended or b"\0" in head:
        raise BadRequest(400, "a bare CR, LF or NUL in the request head")
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise BadRequest(400, "malformed request line")
    method, target, minor = match[1], match[2], int(match[3])
    if not target.startswith("/"):
        target = _origin_form(method, target)
    path, _, query = target.partition("?")

    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or _FIELD_NAME.fullmatch(name) is None:
            raise BadRequest(400, "malformed header line")
        name, value = name.lower(), value.strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in {"host", "content-length"}:
            raise BadRequest(400, f"more than one {name} header")
        else:
            headers[name] += ("; " if name == "cookie" else ", ") + value
    if minor == 1 and "host" not in headers:
        raise BadRequest(400, "no Host header")

    connection = headers.get("connection")
    if connection is None:
        keep_alive = minor == 1
    else:
        options = {option.strip() for option in connection.lower().split(",")}
        keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
    return Request(method, path, query, headers, minor, keep_alive)


def _origin_form(method: str, target: str) -> str:
    if target == "*" and method == "OPTIONS":
        return "/"
    match = re.fullmatch(r"(?i:https?)://[^/?#]+([^#]*)", target)
    if match is None:
        raise BadRequest(400, "malformed request target")
    return match[1] if match[1].startswith("/") else "/" + match[1]


def _body_length(request: Request) -> int | None:
    """Bytes of body to come; `None` means chunked (RFC 9112 §6.3)."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            raise BadRequest(501, "a transfer coding other than chunked")
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()):
        raise BadRequest(400, "Content-Length is not a number")
    if len(length) > 12 or int(length) > BODY_MAX:
        raise BadRequest(413, "the request body is too long")
    return int(length)


def _read_exactly(buffer: bytearray, length: int) -> Generator[None, None, bytes]:
    while len(buffer) < length:
        yield None
    body = bytes(buffer[:length])
    del buffer[:length]
    return body


def _read_line(buffer: bytearray) -> Generator[None, None, bytes]:
    while (end := buffer.find(b"\r\n")) < 0:
        if len(buffer) > HEAD_MAX:
            raise BadRequest(400, "a line in the chunked body is too long")
        yield None
    line = bytes(buffer[:end])
    del buffer[: end + 2]
    return line


def _read_chunks(buffer: bytearray) -> Generator[None, None, bytes]:
    body = bytearray()
    while True:
        match = _CHUNK_SIZE.fullmatch((yield from _read_line(buffer)))
        if match is None:
            raise BadRequest(400, "malformed chunk size")
        size = int(match[1], 16)
        if size == 0:
            break
        if len(body) + size > BODY_MAX:
            raise BadRequest(413, "the request body is too long")
        body += yield from _read_exactly(buffer, size)
        if (yield from _read_exactly(buffer, 2)) != b"\r\n":
            raise BadRequest(400, "a chunk is longer than its size says")
    trailers = 0
    while line := (yield from _read_line(buffer)):  # trailers are read and dropped
        trailers += len(line)
        if trailers > HEAD_MAX:
            raise BadRequest(431, "the trailers are too long")
    return bytes(body)


# --- requests to answers ------------------------------------------------------------------------------------


class Visitors:
    """Who is logged in, and which cookies each user must carry. Confined to one thread."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}  # of every session ever given, so that an old one can be told too
        self._session: dict[str, str] = {}
        self._cart: dict[str, int] = {}

    def log_in(self, user: str) -> str:
        """Start a session of `user`, which replaces the last one; returns its token."""
        token = secrets.token_urlsafe(18)
        self._owner[token] = user
        self._session[user] = token
        return token

    def add_to_cart(self, user: str) -> str:
        """Put one thing more into the cart of `user`; returns the new, from now on only valid cookie."""
        self._cart[user] = self._cart.get(user, 0) + 1
        return self.cart_cookie(user)

    def cart_cookie(self, user: str) -> str:
        """What `user` must send as cart cookie; empty when nothing is in the cart."""
        count = self._cart.get(user)
        return "" if count is None else f"{user}.{count}"

    def cart(self, user: str) -> int:
        """How many things are in the cart of `user`."""
        return self._cart.get(user, 0)

    def user_of(self, cookies: Iterable[tuple[str, str]]) -> str | None:
        """Whose valid session the cookies hold."""
        for name, value in cookies:
            if name == SESSION_COOKIE:
                user = self._owner.get(value)
                if user is not None and self._session[user] == value:
                    return user
        return None

    def fault(self, user: str, cookies: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
        """Judge the cookies of a request made in the name of `user`.

        Returns `None` when they are right, otherwise "crossed" (one belongs to another user) or "lost" (one
        that was set is missing or out of date), and a sentence.
        """
        session, cart = self._session.get(user, ""), self.cart_cookie(user)
        sent_session = sent_cart = ""
        lost = None
        for name, value in cookies:
            if name == SESSION_COOKIE:
                owner = self._owner.get(value, user)
                if owner != user:
                    return "crossed", f"{user} sent a session cookie of {owner}"
                sent_session = value
                if value != session:
                    lost = f"{user} sent a session cookie that is not the last one it was given"
            elif name == CART_COOKIE:
                owner = value.rpartition(".")[0]
                if owner != user:
                    return "crossed", f"{user} sent a cart cookie of {owner or 'nobody'}"
                sent_cart = value
                if value != cart:
                    lost = f"{user} sent the cart cookie {value}, it was last given {cart or 'none'}"
        if lost is None and session and not sent_session:
            lost = f"{user} is logged in and sent no session cookie"
        if lost is None and cart and not sent_cart:
            lost = f"{user} was given the cart cookie {cart} and sent none"
        return None if lost is None else ("lost", lost)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""
_USER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_NAMES = ("Lovelace", "Hopper", "Hamilton", "Lamarr", "Curie", "Noether", "Germain", "Franklin", "Meitner")


def _page(title: str, body: str) -> bytes:
    return _PAGE.format(title=title, body=body).encode()


def _static_pages() -> dict[str, tuple[str, bytes]]:
    pages = {
        f"page-{number}.html": (
            _HTML,
            _page(
                f"Page {number}",
                "\n".join(f"<p>{name} wrote paragraph {at} of page {number}.</p>" for at, name in enumerate(_NAMES))
                + f'\n<p><a href="/static/page-{number % 9 + 1}.html">on</a> <a href="/">home</a></p>',
            ),
        )
        for number in range(1, 10)
    }
    pages["style.css"] = (
        "text/css; charset=utf-8",
        b"body { font: 1em/1.5 serif; max-width: 40em; margin: auto }\n",
    )
    pages["notes.txt"] = ("text/plain; charset=utf-8", "".join(f"{name}\n" for name in _NAMES * 8).encode())
    return pages


class Site:
    """The pages: a request in, the steps of its answer out. Confined to one thread; does no I/O."""

    def __init__(self) -> None:
        self.visitors = Visitors()
        self._static = _static_pages()
        letter = json.dumps({"lines": [{"number": at, "text": " ".join(_NAMES)} for at in range(40)]}).encode()
        self._letter = letter
        self._letter_gzip = gzip.compress(letter, mtime=0)
        self._date = (0, "")
        self._pages: dict[str, tuple[tuple[str, ...], Callable[[Request], list[Step]]]] = {
            "/": (("GET",), self._index),
            "/login": (("GET", "POST"), self._login),
            "/me": (("GET",), self._me),
            "/cart/add": (("GET", "POST"), self._cart_add),
            "/chunked": (("GET",), self._chunked),
            "/gzip": (("GET",), self._gzip),
            "/slow": (("GET",), self._slow),
            "/goodbye": (("GET",), self._goodbye),
            "/json": (("GET", "POST", "PUT", "PATCH", "DELETE"), self._echo),
        }

    def answer(self, request: Request) -> list[Step]:
        """The answer, as steps to send in order; clears `request.keep_alive` when it ends the connection."""
        path = request.path
        methods, page = self._pages.get(path) or (("GET",), None)
        if page is None:
            if path.startswith("/static/"):
                page = self._static_page
            elif path.startswith("/redirect/"):
                page = self._redirect
            else:
                return self._error(request, 404, f"there is no page {path[:100]!r} here")
        if request.method not in methods and not (request.method == "HEAD" and "GET" in methods):
            allow = ", ".join((*methods, "HEAD"))
            return self._error(request, 405, f"this page answers {allow}", f"Allow: {allow}\r\n")
        return page(request)

    def refuse(self, error: BadRequest) -> list[Step]:
        """The answer to what was no request; the connection ends with it."""
        return self._error(Request("GET", "/", "", {}, 1, keep_alive=False), error.status, str(error))

    def _reply(
        self,
        request: Request,
        status: int,
        body: bytes,
        kind: str = _HTML,
        fields: str = "",
        *,
        pause: float = 0.0,
    ) -> list[Step]:
        head = self._head(request, status, f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{fields}")
        return [(pause, head if request.method == "HEAD" else head + body)]

    def _head(self, request: Request, status: int, fields: str) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True))
        connection = ""
        if not request.keep_alive:
            connection = "Connection: close\r\n"
        elif request.minor == 0:
            connection = "Connection: keep-alive\r\n"
        return (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nDate: {self._date[1]}\r\nServer: sessionpool-demo\r\n"
            f"{connection}{fields}\r\n"
        ).encode("latin-1")

    def _error(self, request: Request, status: int, text: str, fields: str = "") -> list[Step]:
        return self._reply(request, status, f"{status}: {text}\n".encode(), "text/plain; charset=utf-8", fields)

    def _go_to(self, request: Request, status: int, location: str, fields: str = "") -> list[Step]:
        return self._reply(request, status, b"", fields=f"Location: {location}\r\n{fields}")

    def _index(self, request: Request) -> list[Step]:
        links = [*self._pages, "/redirect/3", *(f"/static/{name}" for name in self._static)]
        items = "\n".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        return self._reply(request, 200, _page("The demo's site", f"<ul>\n{items}\n</ul>"))

    def _login(self, request: Request) -> list[Step]:
        if request.method != "POST":
            return self._login_form(request, 200, "")
        form = request.form()
        user, token = form.get("user", ""), form.get("csrf", "")
        if not token or (CSRF_COOKIE, token) not in request.cookies():
            return self._login_form(request, 403, "<p>The form was not the one we gave you.</p>")
        if _USER.fullmatch(user) is None or form.get("password") != password_of(user):
            return self._login_form(request, 403, "<p>That is not the password.</p>")
        fields = (
            f"Set-Cookie: {SESSION_COOKIE}={self.visitors.log_in(user)}; Path=/; HttpOnly; SameSite=Lax\r\n"
            f"Set-Cookie: {CSRF_COOKIE}=; Path=/login; Max-Age=0\r\n"
        )
        return self._go_to(request, 303, "/me", fields)

    def _login_form(self, request: Request, status: int, note: str) -> list[Step]:
        token = secrets.token_urlsafe(12)
        form = (
            f'{note}<form method="post" action="/login">'
            f'<input type="hidden" name="csrf" value="{token}">'
            '<label>User <input name="user"></label> '
            '<label>Password <input name="password" type="password"></label>'
            "<button>Log in</button></form>"
        )
        fields = f"Set-Cookie: {CSRF_COOKIE}={token}; Path=/login; HttpOnly\r\nCache-Control: no-store\r\n"
        return self._reply(request, status, _page("Log in", form), fields=fields)

    def _me(self, request: Request) -> list[Step]:
        user = self.visitors.user_of(request.cookies())
        if user is None:
            return self._go_to(request, 303, "/login")
        cart = self.visitors.cart(user)
        body = f'<p>You are <b id="user">{user}</b>. Your cart holds <b id="cart">{cart}</b>.</p>'
        return self._reply(request, 200, _page("Your page", body), fields="Cache-Control: private, no-store\r\n")

    def _cart_add(self, request: Request) -> list[Step]:
        user = self.visitors.user_of(request.cookies())
        if user is None:
            return self._go_to(request, 303, "/login")
        item = parse_qs(request.query).get("item", [""])[0]
        if not (item.isascii() and item.isdigit()):
            return self._error(request, 400, "item must be a number")
        cookie = f"Set-Cookie: {CART_COOKIE}={self.visitors.add_to_cart(user)}; Path=/; HttpOnly\r\n"
        body = json.dumps({"user": user, "item": item[:20], "cart": self.visitors.cart(user)}).encode()
        return self._reply(request, 200, body, _JSON, cookie)

    def _chunked(self, request: Request) -> list[Step]:
        lines = [f"{at}: {name}\n".encode() * 4 for at, name in enumerate(_NAMES)]
        kind = "text/plain; charset=utf-8"
        if request.minor == 0:  # no chunks before HTTP/1.1: RFC 9112 §6.1
            return self._reply(request, 200, b"".join(lines), kind)
        head = self._head(request, 200, f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\n")
        if request.method == "HEAD":
            return [(0.0, head)]
        chunks = [b"%x\r\n%b\r\n" % (len(line), line) for line in lines]
        digest = hashlib.sha256(b"".join(lines)).hexdigest()
        end = f"0\r\nX-Digest: {digest}\r\n\r\n".encode()
        return [(0.0, head + b"".join(chunks[:4])), (0.001, b"".join(chunks[4:])), (0.001, end)]

    def _gzip(self, request: Request) -> list[Step]:
        accepted = request.headers.get("accept-encoding", "").lower().replace(" ", "").split(",")
        if "gzip" in (entry.partition(";")[0] for entry in accepted if not entry.endswith(";q=0")):
            fields = "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
            return self._reply(request, 200, self._letter_gzip, _JSON, fields)
        return self._reply(request, 200, self._letter, _JSON, "Vary: Accept-Encoding\r\n")

    def _slow(self, request: Request) -> list[Step]:
        return self._reply(request, 200, _page("Slow", "<p>Good things take time.</p>"), pause=SLOW)

    def _goodbye(self, request: Request) -> list[Step]:
        request.keep_alive = False
        return self._reply(request, 200, _page("Goodbye", "<p>This connection ends here.</p>"))

    def _redirect(self, request: Request) -> list[Step]:
        number = request.path.removeprefix("/redirect/")
        if not (number.isascii() and number.isdigit()) or len(number) > 3 or int(number) > REDIRECTS_MAX:
            return self._error(request, 404, f"redirects are numbered from 0 to {REDIRECTS_MAX}")
        if int(number):
            return self._go_to(request, 302, f"/redirect/{int(number) - 1}")
        return self._reply(request, 200, _page("Arrived", "<p>No more redirects.</p>"))

    def _static_page(self, request: Request) -> list[Step]:
        found = self._static.get(unquote(request.path.removeprefix("/static/")))
        if found is None:
            return self._error(request, 404, "there is no such file")
        kind, body = found
        return self._reply(request, 200, body, kind, "Cache-Control: max-age=60\r\n")

    def _echo(self, request: Request) -> list[Step]:
        echo = {
            "method": request.method,
            "path": request.path,
            "query": parse_qs(request.query, keep_blank_values=True),
            "headers": request.headers,
            "body": request.body.decode("utf-8", "replace"),
        }
        return self._reply(request, 200, json.dumps(echo).encode(), _JSON)


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


# --- the loop -----------------------------------------------------------------------------------------------


class _Connection:
    """One accepted socket and how far its present answer is. Confined to the loop."""

    __slots__ = (
        "buffer",
        "closing",
        "lingering",
        "number",
        "out",
        "parser",
        "paused",
        "sock",
        "steps",
        "writing",
    )

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.buffer = bytearray()
        self.parser = requests_in(self.buffer)
        self.steps: deque[Step] = deque()
        self.out = b""
        self.paused = False  # until a timer fires
        self.writing = False  # the socket took no more, and the selector watches for when it does
        self.closing = False  # after the present answer
        self.lingering = False  # all is sent; only the client's end is awaited


class OriginServer:
    """The site, served on 127.0.0.1 by one thread of its own.

    Thread-safe; use it as a context manager or close it.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._listener = listener
        self._site = Site()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._connections: set[_Connection] = set()
        self._most_open = self._requests = self._asked_to_close = self._rejected = self._crossed = self._lost = 0
        self._per_connection: list[int] = []
        self._faults: list[str] = []
        self._stopping = False
        self._final: Counts | None = None
        self._close_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="demo-origin", daemon=True)

    @classmethod
    def start(cls, port: int = 0) -> Self:
        """Listen on `port` (0: any free one) and serve.

        Raises:
            OriginError: The port cannot be had.
        """
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        except OSError as error:
            raise OriginError(f"the demo's origin cannot listen on 127.0.0.1:{port}: {error}") from error
        listener.setblocking(False)
        server = cls(listener)
        server._thread.start()
        return server

    def counts(self) -> Counts:
        """What was seen until now, arrived ends of connections included; after `close`, the last word."""
        answer: Future[Counts] = Future()
        with self._close_lock:
            if self._final is not None:
                return self._final
            self._calls.append(lambda: answer.set_result(self._take_counts()))
            self._wake()
            return answer.result()

    def close(self) -> None:
        """Close every socket and end the thread. Idempotent."""
        with self._close_lock:
            if self._final is not None:
                return
            self._calls.append(self._stop)
            self._wake()
            self._thread.join()
            # Not by the thread: it may see `_stop` before the wake-up is sent.
            self._waker.close()
            self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        self._waker.send(b"\0")

    def _stop(self) -> None:
        self._stopping = True

    def _take_counts(self) -> Counts:
        self._read_all()
        return Counts(
            accepted=len(self._per_connection),
            open=len(self._connections),
            most_open=self._most_open,
            requests=self._requests,
            per_connection=tuple(self._per_connection),
            asked_to_close=self._asked_to_close,
            rejected=self._rejected,
            crossed=self._crossed,
            lost=self._lost,
            faults=tuple(self._faults),
        )

    def _run(self) -> None:
        self._woken.setblocking(False)
        self._listen()
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._stopping:
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
            accepting = False
            for key, mask in self._selector.select(timeout):
                if key.data is not None:
                    self._ready(key.data, mask)
                elif key.fileobj is self._listener:
                    accepting = True
                else:
                    self._woken.recv(4096)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()
            if accepting:  # after the reads, so that ended connections are gone
                self._accept_all()
            while self._calls:
                self._calls.popleft()()
        self._final = self._take_counts()
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        self._listener.close()

    def _listen(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _later(self, pause: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + pause, next(self._sequence), call))

    def _accept_all(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # gone before we came to it
                continue
            except OSError:  # out of descriptors: the listener stays readable, so look away for a moment
                self._selector.unregister(self._listener)
                self._later(0.1, self._listen)
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client that closes A before it opens B has put the end of A on the wire before B, and yet B
            # may lie in the backlog while the last select was older than both. Without this look, A and B
            # would count as two. (The price: of connections that came and went between two looks an overlap
            # can go unseen.)
            self._read_all()
            connection = _Connection(sock, len(self._per_connection))
            self._per_connection.append(0)
            self._connections.add(connection)
            self._most_open = max(self._most_open, len(self._connections))
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _read_all(self) -> None:
        for key, mask in self._selector.select(0):
            if key.data is not None and mask & selectors.EVENT_READ:
                self._read(key.data, to_the_end=True)

    def _ready(self, connection: _Connection, mask: int) -> None:
        if connection not in self._connections:  # dropped earlier in this round
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(connection)
            self._advance(connection)
        if mask & selectors.EVENT_READ and connection in self._connections:
            self._read(connection, to_the_end=False)

    def _read(self, connection: _Connection, *, to_the_end: bool) -> None:
        while connection in self._connections:
            try:
                data = connection.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                # The client's end, or half of it; a pool closes whole, and a count must not wait for a slow
                # answer.
                self._drop(connection)
                return
            if not connection.lingering:
                connection.buffer += data
                if len(connection.buffer) > HEAD_MAX + 2 * BODY_MAX:  # sends on and on and reads no answer
                    self._drop(connection)
                    return
                self._advance(connection)
            if not to_the_end:
                return

    def _advance(self, connection: _Connection) -> None:
        """Go on with the present answer, then with the next request, as far as possible without waiting."""
        while not (connection.paused or connection.out or connection.lingering):
            if connection.steps:
                pause, data = connection.steps.popleft()
                if pause:
                    connection.paused = True
                    self._later(pause, lambda data=data: self._resume(connection, data))  # type: ignore[misc]
                    return
                connection.out = data
                self._flush(connection)
            elif connection.closing:
                self._linger(connection)
            elif not self._next_answer(connection):
                return

    def _next_answer(self, connection: _Connection) -> bool:
        try:
            request = next(connection.parser)
        except BadRequest as error:
            self._rejected += 1
            connection.steps.extend(self._site.refuse(error))
            connection.closing = True
            return True
        if request is None:
            return False
        if isinstance(request, bytes):
            connection.steps.append((0.0, request))
            return True
        self._requests += 1
        self._per_connection[connection.number] += 1
        self._judge(request)
        try:
            connection.steps.extend(self._site.answer(request))
        except Exception as error:  # noqa: BLE001  a page that fails must not take the others with it
            request.keep_alive = False
            connection.steps.extend(self._site.refuse(BadRequest(500, f"the page failed: {error!r}")))
        if not request.keep_alive:
            self._asked_to_close += 1
            connection.closing = True
        return True

    def _judge(self, request: Request) -> None:
        user = request.headers.get(CLAIM)
        if user is None:
            return
        fault = self._site.visitors.fault(user, request.cookies())
        if fault is None:
            return
        kind, sentence = fault
        if kind == "crossed":
            self._crossed += 1
        else:
            self._lost += 1
        if len(self._faults) < FAULTS_KEPT:
            self._faults.append(f"{request.method} {request.path[:60]}: {sentence}")

    def _resume(self, connection: _Connection, data: bytes) -> None:
        if connection in self._connections:
            connection.paused = False
            connection.out = data
            self._flush(connection)
            self._advance(connection)

    def _flush(self, connection: _Connection) -> None:
        if not connection.out:
            return
        try:
            sent = connection.sock.send(connection.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        connection.out = connection.out[sent:] if sent < len(connection.out) else b""
        if connection.writing != bool(connection.out):
            connection.writing = bool(connection.out)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.writing else 0)
            self._selector.modify(connection.sock, events, connection)

    def _linger(self, connection: _Connection) -> None:
        """Say that nothing more comes, and await the client's end: closing at once could cut the answer off.

        RFC 9112 §9.6. The connection counts as open until then, so a client is held to closing it before it
        opens another.
        """
        connection.lingering = True
        connection.buffer.clear()
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(connection)
        else:
            self._later(LINGER, lambda: self._drop(connection))

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            connection.out = b""
            connection.lingering = True  # whatever loop is at work on it stops
            self._selector.unregister(connection.sock)
            connection.sock.close()


# --- the process --------------------------------------------------------------------------------------------


class OriginProcess:
    """An `OriginServer` in a process of its own, which ends when it is closed and when this process ends.

    Thread-safe; use it as a context manager or close it.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def start(cls, port: int = 0) -> Self:
        """Start the process, and return when it listens.

        Raises:
            OriginError: The process or the port cannot be had.
        """
        try:
            # A session of its own: Ctrl-C at the terminal must not end the origin before it was asked for its
            # counts.
            process = subprocess.Popen(  # noqa: S603  our own file by our own interpreter
                [sys.executable, "-I", __file__, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            raise OriginError(f"the demo's origin cannot be started: {error}") from error
        origin = cls(process, 0)
        try:
            hello = origin._read()
            if "error" in hello:
                raise OriginError(hello["error"])
        except BaseException:
            origin.close()
            raise
        origin.port = hello["port"]
        origin.url = f"http://127.0.0.1:{origin.port}"
        return origin

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def counts(self) -> Counts:
        """What the origin has seen until now.

        Raises:
            OriginError: The process has ended.
        """
        with self._lock:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write("counts\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # a broken pipe, or one closed by us
                raise self._gone() from error
            said = self._read()
        said["per_connection"] = tuple(said["per_connection"])
        said["faults"] = tuple(said["faults"])
        return Counts(**said)

    def close(self) -> None:
        """End the process and wait for its end. Idempotent."""
        with self._lock:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        said: dict[str, Any] = json.loads(line)
        return said

    def _gone(self) -> OriginError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return OriginError(f"the demo's origin (process {self.pid}) has ended, exit code {self._process.returncode}")


def main(port: int) -> int:
    """Serve until standard input ends; answer each line of it with the counts, as a line of JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = OriginServer.start(port)
    except OriginError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    with server:
        print(json.dumps({"port": server.port}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(dataclasses.asdict(server.counts())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
