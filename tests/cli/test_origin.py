"""The demo's origin serves its pages, survives rubbish, and counts what a client does to it."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from sessionpool.cli import _origin
from sessionpool.cli._origin import (
    BODY_MAX,
    CART_COOKIE,
    CSRF_COOKIE,
    HEAD_MAX,
    SESSION_COOKIE,
    BadRequest,
    OriginError,
    OriginProcess,
    OriginServer,
    Request,
    Visitors,
    password_of,
    requests_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer.start() as server:
        yield server


class Browser:
    """One connection with one user's cookies, as simple as can be."""

    def __init__(self, port: int, user: str | None = None) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.user = user
        self.cookies: dict[str, str] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def send(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.user is not None:
            fields["X-Demo-User"] = self.user
        if self.cookies:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        self.http.request(method, path, body, fields)
        response = self.http.getresponse()
        content = response.read()
        for line in response.headers.get_all("Set-Cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return response, content

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        return self.send("GET", path, **headers)

    def log_in(self) -> None:
        assert self.user is not None
        _, form = self.get("/login")
        token = re.search(rb'name="csrf" value="([^"]+)"', form)
        assert token is not None
        fields = {"user": self.user, "password": password_of(self.user), "csrf": token[1].decode()}
        response, _ = self.send("POST", "/login", urlencode(fields), Content_Type="application/x-www-form-urlencoded")
        assert (response.status, response.headers["Location"]) == (303, "/me")


def exchange(port: int, *pieces: bytes) -> bytes:
    """Send the pieces on one connection and return all that comes back until the origin ends it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", received)]


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.005)


GET = b"GET /static/notes.txt HTTP/1.1\r\nHost: x\r\n"
LAST = GET + b"Connection: close\r\n\r\n"


# --- pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/", 200, "text/html"),
        ("/login", 200, "text/html"),
        ("/me", 303, "text/html"),
        ("/cart/add?item=1", 303, "text/html"),
        ("/chunked", 200, "text/plain"),
        ("/gzip", 200, "application/json"),
        ("/slow", 200, "text/html"),
        ("/goodbye", 200, "text/html"),
        ("/redirect/0", 200, "text/html"),
        ("/redirect/3", 302, "text/html"),
        ("/redirect/21", 404, "text/plain"),
        ("/redirect/x", 404, "text/plain"),
        ("/static/page-1.html", 200, "text/html"),
        ("/static/page%2D1.html", 200, "text/html"),
        ("/static/style.css", 200, "text/css"),
        ("/static/none", 404, "text/plain"),
        ("/static/../_origin.py", 404, "text/plain"),
        ("/json?a=1", 200, "application/json"),
        ("/nowhere", 404, "text/plain"),
    ],
)
def test_every_page_answers_get_and_head_alike(origin: OriginServer, path: str, status: int, kind: str) -> None:
    """HEAD gives the status and fields of GET without a body."""
    with Browser(origin.port) as browser:
        response, content = browser.get(path)
        head, nothing = browser.send("HEAD", path)

    assert response.status == head.status == status
    assert (response.headers["Content-Type"] or "").startswith(kind)
    assert nothing == b""
    if path not in {"/login", "/json?a=1"}:  # a new token, another method: other lengths
        assert head.headers["Content-Length"] == response.headers["Content-Length"]
    assert response.headers["Content-Length"] in {None, str(len(content))}


def test_every_link_of_the_index_leads_somewhere(origin: OriginServer) -> None:
    """The index names no page that is not there."""
    with Browser(origin.port) as browser:
        _, index = browser.get("/")
        links = re.findall(r'href="([^"]+)"', index.decode())

        assert len(links) > 15
        assert {browser.get(link)[0].status for link in links} <= {200, 302, 303}


def test_a_page_refuses_methods_it_does_not_have(origin: OriginServer) -> None:
    """405 names the methods that are allowed."""
    with Browser(origin.port) as browser:
        response, _ = browser.send("DELETE", "/slow")

    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_a_user_logs_in_and_sees_only_their_own_page(origin: OriginServer) -> None:
    """After the login form, /me shows the name of the user whose cookie is sent, and the cart counts."""
    with Browser(origin.port, "ada") as ada, Browser(origin.port, "bob") as bob:
        ada.log_in()
        bob.log_in()
        for number in (1, 2):
            _, content = ada.get(f"/cart/add?item={number}")
            assert json.loads(content) == {"user": "ada", "item": str(number), "cart": number}
        _, of_ada = ada.get("/me")
        _, of_bob = bob.get("/me")

    assert b'<b id="user">ada</b>' in of_ada
    assert b'<b id="cart">2</b>' in of_ada
    assert b'<b id="user">bob</b>' in of_bob
    assert b'<b id="cart">0</b>' in of_bob
    assert (origin.counts().crossed, origin.counts().lost) == (0, 0)


@pytest.mark.parametrize("wrong", ["csrf", "password", "user", "cookie"])
def test_a_wrong_login_is_refused(origin: OriginServer, wrong: str) -> None:
    """Without the form's own token, its cookie, the right password and a proper name nobody is let in."""
    with Browser(origin.port) as browser:
        browser.get("/login")
        fields = {"user": "ada", "password": password_of("ada"), "csrf": browser.cookies[CSRF_COOKIE]}
        if wrong == "cookie":
            browser.cookies.clear()
        elif wrong == "user":
            fields |= {"user": "a\r\nb", "password": password_of("a\r\nb")}
        else:
            fields[wrong] = "x"
        response, _ = browser.send("POST", "/login", urlencode(fields))

    assert response.status == 403
    assert SESSION_COOKIE not in browser.cookies


def test_a_cart_takes_numbers_only(origin: OriginServer) -> None:
    """A bad item is refused and changes no cookie."""
    with Browser(origin.port, "ada") as browser:
        browser.log_in()
        response, _ = browser.get("/cart/add?item=x")

    assert response.status == 400
    assert CART_COOKIE not in browser.cookies


def test_chunked_ends_with_a_trailer_that_proves_the_body(origin: OriginServer) -> None:
    """The X-Digest trailer is the SHA-256 of the body."""
    received = exchange(origin.port, b"GET /chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, rest = received.partition(b"\r\n\r\n")
    body = b""
    while (size := int(rest.partition(b"\r\n")[0], 16)) > 0:
        rest = rest.partition(b"\r\n")[2]
        body, rest = body + rest[:size], rest[size + 2 :]

    assert b"Transfer-Encoding: chunked" in head
    assert rest == b"0\r\nX-Digest: " + hashlib.sha256(body).hexdigest().encode() + b"\r\n\r\n"


def test_chunked_is_plain_for_http_1_0(origin: OriginServer) -> None:
    """A client of HTTP/1.0 gets a Content-Length instead of chunks."""
    received = exchange(origin.port, b"GET /chunked HTTP/1.0\r\n\r\n")

    assert b"Transfer-Encoding" not in received
    assert b"Content-Length: " in received


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(origin: OriginServer, accepted: str, packed: bool) -> None:
    """The same JSON comes compressed or not, as Accept-Encoding says."""
    with Browser(origin.port) as browser:
        response, content = browser.get("/gzip", Accept_Encoding=accepted)

    assert response.headers["Content-Encoding"] == ("gzip" if packed else None)
    assert len(json.loads(gzip.decompress(content) if packed else content)["lines"]) == 40


def test_redirects_count_down(origin: OriginServer) -> None:
    """Each redirect leads to the next lower number, the last to a page."""
    path, hops = "/redirect/3", []
    with Browser(origin.port) as browser:
        while path:
            response, _ = browser.get(path)
            hops.append(response.status)
            path = response.headers["Location"] or ""

    assert hops == [302, 302, 302, 200]


def test_slow_keeps_nobody_else_waiting(origin: OriginServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one connection waits for a slow page, others are served."""
    monkeypatch.setattr(_origin, "SLOW", 3600.0)
    with Browser(origin.port) as patient, Browser(origin.port) as quick:
        patient.http.request("GET", "/slow")
        eventually(lambda: origin.counts().requests == 1)
        response, _ = quick.get("/static/notes.txt")

        assert response.status == 200
        assert select.select([patient.http.sock], [], [], 0)[0] == []


@pytest.mark.parametrize("chunked", [False, True])
def test_json_gives_back_what_was_sent(origin: OriginServer, chunked: bool) -> None:
    """Method, query, headers and body are echoed, however the body is framed."""
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    else:
        framed = b"Content-Length: 5\r\n\r\nabcde"
    head = b"PUT /json?q=1&q=2 HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-one: 2\r\nConnection: close\r\n"
    received = exchange(origin.port, head + framed)
    echo = json.loads(received.partition(b"\r\n\r\n")[2])

    assert (echo["method"], echo["path"], echo["query"], echo["body"]) == (
        "PUT",
        "/json",
        {"q": ["1", "2"]},
        "abcde",
    )
    assert echo["headers"]["x-one"] == "1, 2"


def test_a_page_that_fails_fails_alone(origin: OriginServer) -> None:
    """An error in a page becomes a 500, and the origin serves on."""
    origin._site._pages["/"] = (("GET",), lambda request: [(0.0, b"" + request.query)])  # type: ignore[operator]
    received = exchange(origin.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert statuses(received) == [500]
    assert statuses(exchange(origin.port, LAST)) == [200]


# --- bytes --------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(origin: OriginServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers keep the order of the requests, also behind one that takes its time."""
    monkeypatch.setattr(_origin, "SLOW", 0.01)
    received = exchange(
        origin.port,
        b"GET /redirect/1 HTTP/1.1\r\nHost: x\r\n\r\n"
        b"\r\n"  # an empty line between two requests does no harm
        b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /chunked HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )

    assert statuses(received) == [302, 200, 200, 200, 404]
    assert origin.counts().per_connection == (5,)


def test_bytes_may_come_one_by_one() -> None:
    """The parser gives the same requests however the bytes are cut."""
    wire = (
        b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        b"GET http://x:80/json?q HTTP/1.0\r\n\r\n"
    )
    buffer = bytearray()
    parser = requests_in(buffer)
    found = []
    for byte in wire:
        buffer.append(byte)
        while (item := next(parser)) is not None:
            assert isinstance(item, Request)
            found.append((item.method, item.path, item.query, item.body, item.keep_alive))

    assert found == [
        ("POST", "/json", "", b"abc", True),
        ("POST", "/json", "", b"abc", True),
        ("GET", "/json", "q", b"", False),
    ]
    assert not buffer


def test_100_continue_comes_before_the_body_is_sent(origin: OriginServer) -> None:
    """A client that waits for leave to send its body gets it."""
    with socket.create_connection(("127.0.0.1", origin.port), timeout=20) as sock:
        sock.sendall(
            b"POST /json HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        )
        interim = sock.recv(65536)
        sock.sendall(b"hi")
        final = b""
        while data := sock.recv(65536):
            final += data

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert json.loads(final.partition(b"\r\n\r\n")[2])["body"] == "hi"


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", False),
    ],
)
def test_connections_are_kept_as_the_version_says(head: bytes, kept: bool) -> None:
    """Keep-alive is the rule of HTTP/1.1 and the exception of HTTP/1.0 (RFC 9112 §9.3)."""
    request = next(requests_in(bytearray(head)))

    assert isinstance(request, Request)
    assert request.keep_alive is kept


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G\xe4T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX : 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX + 1), 413),
        (b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000), 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * HEAD_MAX + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * HEAD_MAX, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\0", 400),
    ],
)
def test_rubbish_is_refused_and_ends_only_its_own_connection(origin: OriginServer, wire: bytes, status: int) -> None:
    """What is no request gets a 4xx or 5xx and the end of the connection; nothing else suffers."""
    received = exchange(origin.port, GET + b"\r\n" + wire)

    assert statuses(received) == [200, status]
    assert statuses(exchange(origin.port, LAST)) == [200]
    assert (origin.counts().rejected, origin.counts().requests) == (1, 2)


def test_what_follows_rubbish_is_not_a_request(origin: OriginServer) -> None:
    """Bytes behind a refused request are never read as the next one."""
    received = exchange(origin.port, b"rubbish\r\n\r\n" + LAST)

    assert statuses(received) == [400]


def test_a_parser_is_over_after_rubbish() -> None:
    """A parser that raised gives nothing more."""
    parser = requests_in(bytearray(b"rubbish\r\n\r\n" + LAST))

    with pytest.raises(BadRequest, match="malformed request line"):
        next(parser)
    with pytest.raises(StopIteration):
        next(parser)


def test_a_client_that_leaves_in_the_middle_does_no_harm(origin: OriginServer) -> None:
    """A head or a body cut short, or an answer nobody reads, ends with its connection."""
    for piece in (
        b"GET / HT",
        b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
        GET + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", origin.port), timeout=20) as sock:
            sock.sendall(piece)
    eventually(lambda: origin.counts().accepted == 3 and origin.counts().open == 0)

    assert statuses(exchange(origin.port, LAST)) == [200]


def test_a_client_that_never_reads_is_let_go(origin: OriginServer) -> None:
    """A client that sends without end and reads no answer is cut off, and costs bounded memory."""
    cut_off = False
    with socket.create_connection(("127.0.0.1", origin.port), timeout=20) as sock:
        while not cut_off:
            try:
                sock.sendall((GET + b"\r\n") * 2000)
            except ConnectionError:
                cut_off = True

    assert statuses(exchange(origin.port, LAST)) == [200]


# --- counts -------------------------------------------------------------------------------------------------


def test_connections_and_requests_are_counted(origin: OriginServer) -> None:
    """Accepted, open now, most open and the requests of each connection are exact."""
    with Browser(origin.port) as first:
        first.get("/")
        with Browser(origin.port) as second:
            second.get("/")
            second.get("/")
            between = origin.counts()
    with Browser(origin.port) as third:
        third.get("/")
        after = origin.counts()

    assert (between.accepted, between.open, between.most_open) == (2, 2, 2)
    assert (after.accepted, after.open, after.most_open) == (3, 1, 2)
    assert (after.requests, after.per_connection) == (4, (1, 2, 1))


def test_a_connection_closed_before_the_next_opens_is_not_counted_with_it(origin: OriginServer) -> None:
    """A client with never more than one connection counts as one, however late the origin looks."""
    look = threading.Event()
    first = socket.create_connection(("127.0.0.1", origin.port))
    eventually(lambda: origin.counts().open == 1)
    origin._calls.append(lambda: assert_true(look.wait(20)))
    origin._wake()
    first.sendall(GET + b"\r\n")
    first.close()
    for _ in range(5):  # all of them come and go in the backlog
        with socket.create_connection(("127.0.0.1", origin.port)) as sock:
            sock.sendall(GET + b"\r\n")
    last = socket.create_connection(("127.0.0.1", origin.port))
    look.set()
    eventually(lambda: origin.counts().accepted == 7)
    counts = origin.counts()
    last.close()

    assert (counts.open, counts.most_open) == (1, 1)


def assert_true(claim: bool) -> None:
    assert claim


def test_goodbye_counts_until_the_client_has_closed(origin: OriginServer) -> None:
    """A connection the origin asked to close is open until the client's end of it is closed as well."""
    with socket.create_connection(("127.0.0.1", origin.port), timeout=20) as sock:
        sock.sendall(b"GET /goodbye HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while data := sock.recv(65536):
            received += data
        before = origin.counts()
    eventually(lambda: origin.counts().open == 0)

    assert b"Connection: close\r\n" in received
    assert (before.open, before.asked_to_close) == (1, 1)


def test_a_crossed_cookie_is_noticed(origin: OriginServer) -> None:
    """A request with another user's session, or another's cart, counts as crossed and says whose it was."""
    with Browser(origin.port, "ada") as ada, Browser(origin.port, "bob") as bob:
        ada.log_in()
        bob.log_in()
        ada.get("/cart/add?item=1")
        bob.get("/cart/add?item=1")
        assert origin.counts().crossed == 0
        ada.cookies, bob.cookies = bob.cookies, ada.cookies
        ada.get("/me")
        bob.get("/static/notes.txt")
        ada.cookies, bob.cookies = bob.cookies, ada.cookies
        ada.cookies[CART_COOKIE] = bob.cookies[CART_COOKIE]
        ada.get("/")
    counts = origin.counts()

    assert (counts.crossed, counts.lost) == (3, 0)
    assert counts.faults[0] == "GET /me: ada sent a session cookie of bob"
    assert counts.faults[2] == "GET /: ada sent a cart cookie of bob"


@pytest.mark.parametrize("cookie", [SESSION_COOKIE, CART_COOKIE])
@pytest.mark.parametrize("outdated", [False, True])
def test_a_lost_cookie_is_noticed(origin: OriginServer, cookie: str, outdated: bool) -> None:
    """A request without a cookie the origin had set, or with one it has replaced since, counts as lost."""
    with Browser(origin.port, "ada") as ada:
        ada.log_in()
        ada.get("/cart/add?item=1")
        old = ada.cookies[cookie]
        ada.log_in()
        ada.get("/cart/add?item=2")
        assert origin.counts().lost == 0
        if outdated:
            ada.cookies[cookie] = old
        else:
            del ada.cookies[cookie]
        ada.get("/")
    counts = origin.counts()

    assert (counts.crossed, counts.lost, len(counts.faults)) == (0, 1, 1)


def test_only_those_who_name_themselves_are_judged(origin: OriginServer) -> None:
    """Requests without X-Demo-User are nobody's, so no cookie of theirs can be wrong."""
    with Browser(origin.port) as nobody:
        nobody.cookies = {CART_COOKIE: "ada.3", SESSION_COOKIE: "x"}
        nobody.get("/")

    assert (origin.counts().crossed, origin.counts().lost) == (0, 0)


@pytest.mark.parametrize(
    ("cookies", "kind"),
    [
        ([(SESSION_COOKIE, "new"), (CART_COOKIE, "ada.2")], None),
        ([("other", "x"), (SESSION_COOKIE, "new"), (CART_COOKIE, "ada.2")], None),
        ([(SESSION_COOKIE, "old"), (CART_COOKIE, "ada.2")], "lost"),
        ([(SESSION_COOKIE, "unheard of"), (CART_COOKIE, "ada.2")], "lost"),
        ([(SESSION_COOKIE, "old"), (SESSION_COOKIE, "new"), (CART_COOKIE, "ada.2")], "lost"),
        ([(SESSION_COOKIE, "new"), (CART_COOKIE, "ada.1")], "lost"),
        ([(SESSION_COOKIE, "new")], "lost"),
        ([(CART_COOKIE, "ada.2")], "lost"),
        ([], "lost"),
        ([(SESSION_COOKIE, "bob's"), (CART_COOKIE, "ada.2")], "crossed"),
        ([(SESSION_COOKIE, "bob's old"), (CART_COOKIE, "ada.2")], "crossed"),
        ([(SESSION_COOKIE, "old"), (CART_COOKIE, "bob.1")], "crossed"),
        ([(SESSION_COOKIE, "new"), (CART_COOKIE, "rubbish")], "crossed"),
    ],
)
def test_cookies_are_judged_by_what_was_given_last(
    monkeypatch: pytest.MonkeyPatch, cookies: list[tuple[str, str]], kind: str | None
) -> None:
    """Only a user's own, latest session and cart pass, each once; anything of another user is crossed."""
    tokens = iter(["old", "bob's old", "bob's", "new"])
    monkeypatch.setattr("secrets.token_urlsafe", lambda length: next(tokens))
    visitors = Visitors()
    for user in ("ada", "bob", "bob", "ada"):
        visitors.log_in(user)
    for user in ("ada", "bob", "ada"):
        visitors.add_to_cart(user)
    fault = visitors.fault("ada", cookies)

    assert (None if fault is None else fault[0]) == kind


# --- the server and the process -----------------------------------------------------------------------------


def test_a_closed_server_keeps_its_counts_and_nothing_else() -> None:
    """Closing ends open connections, frees the port, can be repeated, and the last counts stay."""
    server = OriginServer.start()
    with Browser(server.port) as browser:
        browser.get("/")
        server.close()
        server.close()

        assert browser.http.sock.recv(1) == b""
        assert (server.counts().requests, server.counts().open) == (1, 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_taken_port_is_said(origin: OriginServer) -> None:
    """A port in use raises OriginError with its number, in this process or in another."""
    for kind in (OriginServer, OriginProcess):
        with pytest.raises(OriginError, match=f"cannot listen on 127.0.0.1:{origin.port}: "):
            kind.start(origin.port)


def test_the_process_serves_and_counts() -> None:
    """The origin in its own process answers, tells its counts, and is gone when closed."""
    with OriginProcess.start() as origin, Browser(origin.port, "ada") as ada:
        ada.log_in()
        ada.cookies.clear()
        ada.get("/me")
        counts = origin.counts()

    assert (counts.requests, counts.open, counts.lost) == (3, 1, 1)
    assert counts.per_connection == (3,)
    assert counts.faults == ("GET /me: ada is logged in and sent no session cookie",)
    with pytest.raises(OriginError, match=r"has ended, exit code 0"):
        origin.counts()
    origin.close()


def test_the_process_that_dies_is_reported() -> None:
    """Asking a dead origin raises OriginError with its exit code instead of waiting."""
    with OriginProcess.start() as origin:
        os.kill(origin.pid, signal.SIGKILL)

        with pytest.raises(OriginError, match=rf"process {origin.pid}\) has ended, exit code -9"):
            origin.counts()


def test_ctrl_c_does_not_end_the_process() -> None:
    """An interrupt leaves the origin there for the last question."""
    with OriginProcess.start() as origin:
        os.kill(origin.pid, signal.SIGINT)

        assert origin.counts().requests == 0


def test_the_process_ends_with_its_parent() -> None:
    """A parent that is killed leaves no origin behind."""
    code = (
        "import os, signal; from sessionpool.cli._origin import OriginProcess;"
        "print(OriginProcess.start().port, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    port = int(done.stdout)

    def gone() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(gone)
