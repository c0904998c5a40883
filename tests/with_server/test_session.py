"""A session over real sockets: the same calls through requests and through us, what the server saw and what came back.

The first half is differential: a table of calls, each made with both libraries, compared request by request. Where we
differ on purpose there is a test of our own, and it says why. The second half is about what requests does not promise:
errors, secrets, threads.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import email
import email.policy
import gzip
import http.cookiejar
import importlib
import io
import itertools
import json
import pickle
import shutil
import threading
import traceback
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import attrs
import pytest

import sessionpool
from sessionpool import Session, exceptions
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, echo, page, redirect, set_cookies

Call = Callable[[Any, str], Any]  # (session, the server's URL) -> response


@pytest.fixture(scope="module")
def _server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def _other() -> Iterator[EchoServer]:
    with EchoServer("127.0.0.2") as server:
        yield server


@pytest.fixture
def server(_server: EchoServer) -> Iterator[EchoServer]:
    """Echoes, unless told otherwise."""
    _server.reset()
    yield _server
    _server.drop_connections()  # those that the responses of a failed test hold


@pytest.fixture
def other(_other: EchoServer) -> Iterator[EchoServer]:
    """Another origin."""
    _other.reset()
    yield _other
    _other.drop_connections()


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The yardstick."""
    return pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


# --- comparing ---


def parts_of(content_type: str, body: bytes) -> list[tuple[Any, ...]]:
    """A multipart body without its boundary: header and content of each part."""
    raw = b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    message = email.message_from_bytes(raw, policy=email.policy.HTTP)
    assert isinstance(message, EmailMessage)
    return [
        (sorted((name.lower(), str(value)) for name, value in part.items()), part.get_payload(decode=True))
        for part in message.iter_parts()
    ]


def tidy(seen: Seen) -> dict[str, Any]:
    """A request without what may differ: the client's name, spelling, order, and a multipart boundary."""
    fields: dict[str, Any] = {}
    for name, value in seen.headers:
        fields.setdefault(name.lower(), []).append(value)
    assert all(len(values) == 1 for values in fields.values()), f"a field came twice: {fields}"
    fields.pop("user-agent", None)
    fields["accept-encoding"] = [value.replace(" ", "") for value in fields.get("accept-encoding", ())]
    fields["cookie"] = sorted(seen.cookies)
    if seen.method in ("DELETE", "OPTIONS") and fields.get("content-length") == ["0"]:
        del fields["content-length"]  # says nothing there; requests leaves it out after a redirect that drops the body
    body: Any = seen.body
    content_type = seen.header("content-type") or ""
    if content_type.startswith("multipart/"):
        body = parts_of(content_type, body)
        del fields["content-type"], fields["content-length"]
    return {"method": seen.method, "target": seen.target, "fields": fields, "body": body, "chunked": seen.chunked}


def cookies_of(jar: Any) -> list[tuple[Any, ...]]:
    # The standard library's jar writes a domain that the server named with a dot before it.
    return sorted((cookie.name, cookie.value, cookie.domain.lstrip("."), cookie.path) for cookie in jar)


def shown(response: Any) -> dict[str, Any]:
    """What a response shows, without what differs by nature."""
    following = getattr(response, "next", None)  # requests loses it in pickling
    return {
        "status_code": response.status_code,
        "reason": response.reason,
        "url": response.url,
        "headers": {name.lower(): value for name, value in response.headers.items()},
        "encoding": response.encoding,
        "content": response.content,
        "text": response.text,
        "apparent": response.apparent_encoding,
        "ok": response.ok,
        "true": bool(response),
        "repr": repr(response),
        "cookies": cookies_of(response.cookies),
        "links": response.links,
        "redirect": (response.is_redirect, response.is_permanent_redirect),
        "pieces": b"".join(response.iter_content(3)),
        "lines": list(response.iter_lines()),
        "history": [
            (hop.status_code, hop.url, hop.text, hop.request.method, len(hop.history)) for hop in response.history
        ],
        "request": (response.request.method, response.request.url, response.request.path_url),
        "elapsed": isinstance(response.elapsed, dt.timedelta) and response.elapsed > dt.timedelta(0),
        "next": (following.method, following.url) if following else None,
    }


def observe(make: Callable[[], Any], call: Call, server: EchoServer) -> tuple[list[dict[str, Any]], Any, Any]:
    """What the server saw, what the call returned, and the cookies that the session then has."""
    server.seen.clear()
    with make() as session:
        response = call(session, server.url)
        cookies = cookies_of(session.cookies)
        return [tidy(seen) for seen in server.seen], response, cookies


def compare(call: Call, server: EchoServer, theirs: Any) -> tuple[Any, Any]:
    """Make the call with both libraries; the server must see the same. Gives both responses, theirs first."""
    seen, expected, cookies = observe(theirs.Session, call, server)
    before = server.open
    seen_of_us, response, our_cookies = observe(Session, call, server)
    eventually(lambda: server.open <= before)  # a session that was closed has left nothing open

    assert seen_of_us == seen
    assert our_cookies == cookies
    return expected, response


# --- what the server sees ---


def numbers() -> Iterator[bytes]:
    yield b"one"
    yield b""
    yield b"two"


class Counted:
    """An iterable that knows its length, like requests-toolbelt's streams."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)


class Named(io.BytesIO):
    name = "/some/where/report.txt"


def positioned() -> io.BytesIO:
    file = io.BytesIO(b"headrest")
    file.seek(4)
    return file


def token(request: Any) -> Any:
    request.headers["X-Token"] = "by hand"
    request.headers["Accept"] = "text/html"
    return request


def signed(request: Any) -> Any:
    request.body += "&s=1" if isinstance(request.body, str) else b"&s=1"
    return request


def elsewhere(request: Any) -> Any:
    request.url += "signed?signature=1"
    return request


class Address:
    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url


def state(**attributes: Any) -> Callable[[Call], Call]:
    """Set attributes of the session before the call."""

    def wrap(call: Call) -> Call:
        def run(s: Any, u: str) -> Any:
            for name, value in attributes.items():
                setattr(s, name, value)
            return call(s, u)

        return run

    return wrap


def updated(headers: dict[str, Any], call: Call) -> Call:
    def run(s: Any, u: str) -> Any:
        s.headers.update(headers)
        return call(s, u)

    return run


SEEN: dict[str, Call] = {
    # methods
    "GET": lambda s, u: s.get(u),
    "OPTIONS": lambda s, u: s.options(u),
    "HEAD": lambda s, u: s.head(u),
    "POST": lambda s, u: s.post(u),
    "PUT": lambda s, u: s.put(u),
    "PATCH": lambda s, u: s.patch(u),
    "DELETE": lambda s, u: s.delete(u),
    "a lower-case method": lambda s, u: s.request("post", u),
    "a method as keyword": lambda s, u: s.request(method="PUT", url=u, data="x"),
    "a method nobody knows": lambda s, u: s.request("PROPFIND", u),
    "DELETE with a body": lambda s, u: s.delete(u, json={"a": 1}),
    "GET with a body": lambda s, u: s.get(u, data="body"),
    "positional params": lambda s, u: s.request("GET", u, {"a": 1}),
    "positional data": lambda s, u: s.post(u, {"a": 1}),
    "positional json": lambda s, u: s.post(u, None, {"a": 1}),
    # URLs
    "a path": lambda s, u: s.get(u + "/some/path"),
    "an escaped path": lambda s, u: s.get(u + "/a%20b/%7Euser/%41%2f"),
    "a path to be escaped": lambda s, u: s.get(u + "/a b/ä/€/<>\"{}|\\^`"),
    "a path with dots": lambda s, u: s.get(u + "/a/./b/../c//d"),
    "a path of reserved characters": lambda s, u: s.get(u + "/!$&'()*+,;=:@"),
    "an invalid escape": lambda s, u: s.get(u + "/100%/%zz/%4"),
    "a fragment": lambda s, u: s.get(u + "/a#part"),
    "a query": lambda s, u: s.get(u + "/?a=1&b=2&a=3"),
    "a query to be escaped": lambda s, u: s.get(u + "/?a=b c&ä=€&x=%zz%"),
    "a query of reserved characters": lambda s, u: s.get(u + "/?a=/?:@!$'()*,;"),
    "a query without a path": lambda s, u: s.get(u + "?a=1"),
    "bytes as URL": lambda s, u: s.get(u.encode() + b"/bytes"),
    "blanks before the URL": lambda s, u: s.get("  " + u),
    "an object that is a URL as text": lambda s, u: s.get(Address(u + "/object")),
    "an upper-case scheme": lambda s, u: s.get(u.replace("http", "HTTP") + "/Upper"),
    # params
    "params: dict": lambda s, u: s.get(u, params={"a": "1", "b": 2, "c": 1.5, "d": True}),
    "params: None": lambda s, u: s.get(u, params={"a": None, "b": "2"}),
    "params: empty": lambda s, u: s.get(u, params={}),
    "params: empty string": lambda s, u: s.get(u, params=""),
    "params: empty value": lambda s, u: s.get(u, params={"a": ""}),
    "params: list": lambda s, u: s.get(u, params={"a": [1, 2, None, "3"], "b": ()}),
    "params: tuple and set": lambda s, u: s.get(u, params={"a": (1, 2), "b": {3}}),
    "params: generator": lambda s, u: s.get(u, params={"a": (n for n in (1, 2))}),
    "params: nested dict": lambda s, u: s.get(u, params={"a": {"x": 1, "y": 2}}),
    "params: pairs": lambda s, u: s.get(u, params=[("b", 2), ("a", 1), ("b", 3), ("c", None)]),
    "params: tuple of tuples": lambda s, u: s.get(u, params=(("a", 1), ("b", "2"))),
    "params: str": lambda s, u: s.get(u, params="a=1&b= 2&ä"),
    "params: bytes": lambda s, u: s.get(u, params=b"a=1&b=2"),
    "params: unicode": lambda s, u: s.get(u, params={"ä": "€", "日": "本"}),
    "params: bytes inside": lambda s, u: s.get(u, params={b"a": b"\xff1", "b": [b"x"]}),
    "params: special characters": lambda s, u: s.get(u, params={"a&b": "=?#/ +%41~"}),
    "params: beside a query": lambda s, u: s.get(u + "/?x=0", params={"a": 1}),
    "params: after a bare question mark": lambda s, u: s.get(u + "/?", params={"a": 1}),
    "params: before a fragment": lambda s, u: s.get(u + "/p?x=0#part", params={"a": 1}),
    "params: the session's": state(params={"s": "1"})(lambda s, u: s.get(u)),
    "params: merged": state(params={"s": "1", "t": "2"})(lambda s, u: s.get(u, params={"t": "3", "r": "4"})),
    "params: None takes out the session's": state(params={"s": "1"})(lambda s, u: s.get(u, params={"s": None})),
    "params: pairs replace the session's": state(params={"s": "1"})(lambda s, u: s.get(u, params=[("a", "1")])),
    "params: str replaces the session's": state(params={"s": "1"})(lambda s, u: s.get(u, params="a=1")),
    # data
    "data: dict": lambda s, u: s.post(u, data={"a": "1", "b": 2, "c": "ä ö"}),
    "data: lists as values": lambda s, u: s.post(u, data={"a": ["1", 2, None], "b": None, "c": []}),
    "data: pairs": lambda s, u: s.post(u, data=[("a", "1"), ("a", "2"), ("b", b"\xff")]),
    "data: tuple of pairs": lambda s, u: s.post(u, data=(("a", "1"), ("b", ["2", "3"]))),
    "data: empty dict": lambda s, u: s.post(u, data={}),
    "data: empty list": lambda s, u: s.post(u, data=[]),
    "data: empty str": lambda s, u: s.post(u, data=""),
    "data: empty bytes": lambda s, u: s.post(u, data=b""),
    "data: empty str with GET": lambda s, u: s.get(u, data=""),
    "data: empty bytes with GET": lambda s, u: s.get(u, data=b""),
    "data: empty dict with GET": lambda s, u: s.get(u, data={}),
    "data: str": lambda s, u: s.post(u, data="plain text"),
    "data: unicode": lambda s, u: s.post(u, data="ä€"),
    "data: bytes": lambda s, u: s.post(u, data=b"\x00\xff"),
    "data: bytearray": lambda s, u: s.post(u, data=bytearray(b"array")),
    "data: large bytes": lambda s, u: s.post(u, data=bytes(1_000_000)),
    "data: file": lambda s, u: s.post(u, data=io.BytesIO(b"file")),
    "data: a file that was read from": lambda s, u: s.post(u, data=positioned()),
    "data: text file": lambda s, u: s.post(u, data=io.StringIO("text")),
    "data: generator": lambda s, u: s.post(u, data=numbers()),
    "data: iterator": lambda s, u: s.post(u, data=iter([b"one", b"two"])),
    "data: empty generator": lambda s, u: s.post(u, data=iter([])),
    "data: an iterable with a length": lambda s, u: s.post(u, data=Counted(b"one", b"two")),
    "data: generator with PUT": lambda s, u: s.put(u, data=numbers()),
    "data: a type of one's own": lambda s, u: s.post(u, data={"a": 1}, headers={"content-TYPE": "text/x"}),
    "data: str with a type": lambda s, u: s.post(u, data='{"a": 1}', headers={"Content-Type": "application/json"}),
    # json
    "json: dict": lambda s, u: s.post(u, json={"a": [1, None, "ä", 1.5, True]}),
    "json: list": lambda s, u: s.post(u, json=[1, 2]),
    "json: str": lambda s, u: s.post(u, json="text"),
    "json: zero": lambda s, u: s.post(u, json=0),
    "json: false": lambda s, u: s.post(u, json=False),
    "json: empty dict": lambda s, u: s.post(u, json={}),
    "json: None": lambda s, u: s.post(u, json=None),
    "json: with GET": lambda s, u: s.get(u, json={"a": 1}),
    "json: data wins": lambda s, u: s.post(u, data={"a": 1}, json={"b": 2}),
    "json: beside empty data": lambda s, u: s.post(u, data={}, json={"b": 2}),
    "json: a type of one's own": lambda s, u: s.post(u, json={}, headers={"Content-Type": "application/vnd.api+json"}),
    # files
    "files: bytes": lambda s, u: s.post(u, files={"f": b"bytes"}),
    "files: str": lambda s, u: s.post(u, files={"f": "ä"}),
    "files: file": lambda s, u: s.post(u, files={"f": io.BytesIO(b"file")}),
    "files: a file with a name": lambda s, u: s.post(u, files={"f": Named(b"file")}),
    "files: name and content": lambda s, u: s.post(u, files={"f": ("a.txt", b"x")}),
    "files: name, content, type": lambda s, u: s.post(u, files={"f": ("a.csv", io.BytesIO(b"x"), "text/csv")}),
    "files: name, content, type, headers": lambda s, u: s.post(
        u, files={"f": ("a.csv", "x", "text/csv", {"Expires": "0", "X-Custom": "1"})}
    ),
    "files: without a name": lambda s, u: s.post(u, files={"f": (None, "value")}),
    "files: list of pairs": lambda s, u: s.post(u, files=[("f", ("1", "x")), ("f", ("2", "y")), ("g", b"z")]),
    "files: None": lambda s, u: s.post(u, files={"f": None, "g": "x"}),
    "files: with data": lambda s, u: s.post(u, data={"a": "1", "b": ["2", 3, None]}, files={"f": "x"}),
    "files: with pairs": lambda s, u: s.post(u, data=[("a", "1"), (b"b", b"\xff")], files={"f": "x"}),
    "files: win over json": lambda s, u: s.post(u, files={"f": "x"}, json={"a": 1}),
    "files: unicode names": lambda s, u: s.post(u, files={"fäld": ("näme.txt", "x")}),
    "files: quotes in names": lambda s, u: s.post(u, files={'f"1': ('a"b\r\n.txt', "x")}),
    "files: empty": lambda s, u: s.post(u, files={}),
    "files: list value as tuple": lambda s, u: s.post(u, files={"f": ["a.txt", "x"]}),
    # headers
    "headers: own": lambda s, u: s.get(u, headers={"X-One": "1", "Accept": "text/html"}),
    "headers: bytes": lambda s, u: s.get(u, headers={"X-One": b"1"}),
    "headers: bytes as name": lambda s, u: s.get(u, headers={b"X-One": b"1"}),
    "headers: bytes as name of a default": lambda s, u: s.get(u, headers={b"Accept": b"text/html"}),
    "headers: other case": lambda s, u: s.get(u, headers={"ACCEPT": "text/html", "user-agent": "x"}),
    "headers: None takes out a default": lambda s, u: s.get(u, headers={"Accept": None, "Connection": None}),
    "headers: None for what is not there": lambda s, u: s.get(u, headers={"X-None": None}),
    "headers: empty": lambda s, u: s.get(u, headers={"X-Empty": ""}),
    "headers: Latin-1": lambda s, u: s.get(u, headers={"X-Latin": "caf\xe9"}),
    "headers: the session's": updated({"X-S": "1"}, lambda s, u: s.get(u)),
    "headers: merged": updated({"X-S": "1", "X-T": "2"}, lambda s, u: s.get(u, headers={"x-t": "3", "X-R": "4"})),
    "headers: None takes out the session's": updated({"X-S": "1"}, lambda s, u: s.get(u, headers={"x-s": None})),
    "headers: None in the session": updated({"Accept": None}, lambda s, u: s.get(u)),
    "headers: replaced": state(headers={"X-Only": "1", "Accept-Encoding": "gzip"})(lambda s, u: s.get(u)),
    "headers: Host": lambda s, u: s.get(u, headers={"Host": "example.com"}),
    "headers: Content-Length": lambda s, u: s.post(u, data=b"four", headers={"Content-Length": "4"}),
    "headers: a wrong Content-Length": lambda s, u: s.post(u, data=b"four", headers={"Content-Length": "2"}),
    "headers: a wrong Content-Length of a form": lambda s, u: s.post(u, data={"a": 1}, headers={"content-length": "9"}),
    "headers: Transfer-Encoding": lambda s, u: s.post(u, data=numbers(), headers={"Transfer-Encoding": "chunked"}),
    "headers: Authorization": lambda s, u: s.get(u, headers={"Authorization": "Bearer x"}),
    # cookies
    "cookies: of the request": lambda s, u: s.get(u, cookies={"a": "1", "b": "x y"}),
    "cookies: a jar": lambda s, u: s.get(u, cookies=stdlib_jar()),
    "cookies: of the session": lambda s, u: (s.cookies.set("a", "1"), s.get(u))[1],
    "cookies: by mapping": lambda s, u: (s.cookies.update({"a": "1", "b": "2"}), s.get(u))[1],
    "cookies: of both": lambda s, u: (s.cookies.set("a", "1"), s.get(u, cookies={"b": "2"}))[1],
    "cookies: the request's go first": lambda s, u: (s.cookies.set("a", "1"), s.get(u, cookies={"a": "2"}))[1],
    "cookies: the request's are not kept": lambda s, u: (s.get(u, cookies={"a": "1"}), s.get(u))[1],
    "cookies: for a path": lambda s, u: (s.cookies.set("a", "1", path="/p"), s.get(u), s.get(u + "/p/x"))[2],
    "cookies: for a domain": lambda s, u: (s.cookies.set("a", "1", domain="example.com"), s.get(u))[1],
    "cookies: removed": lambda s, u: (s.cookies.set("a", "1"), s.cookies.set("a", None), s.get(u))[2],
    "cookies: cleared": lambda s, u: (s.cookies.set("a", "1"), s.cookies.clear(), s.get(u))[2],
    "cookies: a header of one's own": lambda s, u: s.get(u, headers={"Cookie": "by=hand"}),
    "cookies: a header goes over all": lambda s, u: (
        s.cookies.set("a", "1"),
        s.get(u, headers={"cookie": "by=hand"}, cookies={"b": "2"}),
    )[1],
    "cookies: a dict for the session": lambda s, u: (s.cookies.update({"q": '"quoted"'}), s.get(u))[1],
    # auth
    "auth: pair": lambda s, u: s.get(u, auth=("user", "pass")),
    "auth: unicode": lambda s, u: s.get(u, auth=("üser", "pässword")),
    "auth: bytes": lambda s, u: s.get(u, auth=(b"user", b"\xff")),
    "auth: empty password": lambda s, u: s.get(u, auth=("user", "")),
    "auth: a colon in the password": lambda s, u: s.get(u, auth=("user", "a:b")),
    "auth: of the session": state(auth=("user", "pass"))(lambda s, u: s.get(u)),
    "auth: over the session's": state(auth=("user", "pass"))(lambda s, u: s.get(u, auth=("other", "word"))),
    "auth: of the URL": lambda s, u: s.get(with_userinfo(u, "user:p%40ss")),
    "auth: of the URL, empty password": lambda s, u: s.get(with_userinfo(u, "user:")),
    "auth: over the URL's": lambda s, u: s.get(with_userinfo(u, "user:pass"), auth=("other", "word")),
    "auth: the session's over the URL's": state(auth=("user", "pass"))(
        lambda s, u: s.get(with_userinfo(u, "other:word"))
    ),
    "auth: over a header": lambda s, u: s.get(u, auth=("user", "pass"), headers={"Authorization": "Bearer x"}),
    "auth: a function": lambda s, u: s.get(u, auth=token),
    "auth: a function of the session": state(auth=token)(lambda s, u: s.get(u)),
    "auth: a function that changes the body": lambda s, u: s.post(u, auth=signed, data={"a": "1"}),
    "auth: a function that changes the URL": lambda s, u: s.get(u, auth=elsewhere),
    "auth: with a body": lambda s, u: s.post(u, auth=("user", "pass"), data={"a": "1"}),
    # settings that matter for TLS alone
    "a certificate as a pair": lambda s, u: s.get(u, cert=(__file__, __file__)),
    "no verification": lambda s, u: s.get(u, verify=False),
    "a path for verification": lambda s, u: s.get(u, verify="/no/such/ca.pem"),
    # several in turn
    "one connection after another body": lambda s, u: (s.post(u, data=numbers()), s.get(u), s.head(u), s.get(u))[3],
}  # fmt: skip


def with_userinfo(url: str, userinfo: str) -> str:
    return url.replace("://", f"://{userinfo}@")


def stdlib_jar() -> http.cookiejar.CookieJar:
    jar = http.cookiejar.CookieJar()
    for name, path in (("a", "/"), ("b", "/elsewhere")):
        jar.set_cookie(
            http.cookiejar.Cookie(
                0, name, "1", None, False, "127.0.0.1", True, False, path, True, False, None, False, None, None, {}
            )
        )
    return jar


@pytest.mark.parametrize("call", SEEN.values(), ids=SEEN)
def test_the_server_sees_what_it_would_see_of_requests(call: Call, server: EchoServer, theirs: Any) -> None:
    """Method, target, every field and the body are the same, whichever library makes the call."""
    compare(call, server, theirs)


@pytest.mark.parametrize("data", [{"a": None}, io.BytesIO()], ids=["only None", "empty file"])
def test_an_empty_body_has_a_length(data: Any, server: EchoServer, session: Session) -> None:
    """Ours: Content-Length 0. requests sends no bytes in chunks, which servers of old take for a body of any length."""
    session.post(server.url, data=data)

    assert not server.seen[0].chunked
    assert server.seen[0].header("content-length") == "0"


@pytest.mark.parametrize("name", ["User-Agent", "Accept-Encoding"])
def test_a_default_that_was_taken_out_is_not_sent(name: str, server: EchoServer, session: Session) -> None:
    """Ours: `None` means none. requests then sends urllib3's name, or `Accept-Encoding: identity`."""
    session.get(server.url, headers={name: None})
    del session.headers[name]
    session.get(server.url)

    assert [seen.all(name) for seen in server.seen] == [[], []]


def test_a_user_without_a_password_is_a_user(server: EchoServer, session: Session) -> None:
    """Ours, as curl does: `http://user@host` asks as that user. requests sends no Authorization then."""
    session.get(with_userinfo(server.url, "user"))

    assert server.seen[0].header("authorization") == "Basic " + b64encode(b"user:").decode()


# --- redirects ---

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", METHODS)
def test_a_redirect_changes_the_method_as_in_requests(
    method: str, status: int, server: EchoServer, theirs: Any
) -> None:
    """What is sent after each redirect status, with a form as body: method, body, and what describes it."""
    server.answers["/from"] = redirect("/to", status)
    server.answers["/to"] = page()

    def call(s: Any, u: str) -> Any:
        data = None if method in ("GET", "HEAD") else {"a": "1"}
        return s.request(method, f"{u}/from?q=1", data=data, headers={"X-Kept": "yes"}, allow_redirects=True)

    expected, response = compare(call, server, theirs)

    assert shown(response) == shown(expected)
    assert [seen.path for seen in server.seen] == ["/from", "/to"]


LOCATIONS = {
    "absolute": lambda u: f"{u}/to",
    "absolute path": lambda u: "/to",
    "relative": lambda u: "to",
    "relative, up": lambda u: "../to",
    "query only": lambda u: "?seen",
    "protocol-relative": lambda u: u.partition(":")[2] + "/to",
    "with a fragment": lambda u: "/to#there",
    "with a query": lambda u: "/to?a=1&b=%20",
    "to be escaped": lambda u: "/to/a b?c=<d>",
    "UTF-8": lambda u: "/to/ä".encode().decode("latin-1"),
    "escaped": lambda u: "/to/%C3%A4%7e",
    "with a path of a slash": lambda u: u + "/",
    "upper-case scheme": lambda u: u.replace("http", "HTTP") + "/to",
    "with user and password": lambda u: with_userinfo(u, "ada:secret") + "/to",
}


@pytest.mark.parametrize("fragment", ["", "#here"])
@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
def test_where_a_location_leads(location: Callable[[str], str], fragment: str, server: EchoServer, theirs: Any) -> None:
    """Every form of Location leads where requests would go, fragment included."""

    def answer(seen: Seen) -> Answer:
        return page() if "seen" in seen.target else redirect(location(server.url))

    server.answers["/some/from"] = answer

    def call(s: Any, u: str) -> Any:
        return s.get(f"{u}/some/from{fragment}")

    expected, response = compare(call, server, theirs)

    assert response.url == expected.url
    assert [hop.url for hop in response.history] == [hop.url for hop in expected.history]
    assert len(response.history) == 1


@pytest.mark.parametrize(
    ("location", "target"),
    [("/to/ä", "/to/%C3%A4"), ("  /to \t", "/to"), ("SERVER", "/")],
    ids=["Latin-1", "blanks around", "without a path"],
)
def test_where_a_location_leads_us(location: str, target: str, server: EchoServer, session: Session) -> None:
    """Ours: Latin-1 is read as such (requests fails), blanks around a value do not count (RFC 9110 §5.5; requests asks
    for `/to%20`), and `url` is normalised here too.
    """
    server.answers["/from"] = redirect(location.replace("SERVER", server.url))
    response = session.get(server.url + "/from")

    assert server.seen[1].target == target
    assert response.url == server.url + target


def test_a_chain_of_redirects(server: EchoServer, theirs: Any) -> None:
    """History, cookies set on the way and the last URL are those of requests."""
    server.answers["/1"] = redirect("/2", 301, ("Set-Cookie", "one=1"), ("Set-Cookie", "gone=1"))
    server.answers["/2"] = redirect("/3", 307, ("Set-Cookie", "two=2; Path=/"), ("Set-Cookie", "gone=; Max-Age=0"))
    server.answers["/3"] = redirect("/sub/4#end", 303)
    server.answers["/sub/4"] = set_cookies("last=4")

    def call(s: Any, u: str) -> Any:
        return s.get(u + "/1#start", cookies={"mine": "0"}, params={"p": "1"})

    expected, response = compare(call, server, theirs)

    assert [(hop.status_code, hop.url, hop.text) for hop in response.history] == [
        (hop.status_code, hop.url, hop.text) for hop in expected.history
    ]
    assert cookies_of(response.cookies) == cookies_of(expected.cookies)
    assert response.url == expected.url == f"{server.url}/sub/4#end"


def test_cookies_of_the_call_go_along(server: EchoServer, theirs: Any) -> None:
    """Cookies given for one call go with its redirects too, as in requests."""
    server.answers["/from"] = redirect("/to")

    compare(lambda s, u: s.get(u + "/from", cookies={"mine": "1"}), server, theirs)

    assert server.seen[1].cookies == [("mine", "1")]


@pytest.mark.parametrize(("name", "value"), [("Cookie", "by=hand"), ("X-Custom", "1"), ("Accept", "text/html")])
def test_headers_of_the_call_on_a_redirect(name: str, value: str, server: EchoServer, theirs: Any) -> None:
    """What goes along to the same origin."""
    server.answers["/from"] = redirect("/to")

    compare(lambda s, u: s.get(u + "/from", headers={name: value}), server, theirs)


def test_basic_auth_goes_along_to_the_same_origin(server: EchoServer, theirs: Any) -> None:
    """Authorization is kept on the way to the same origin."""
    server.answers["/from"] = redirect("/to")

    compare(lambda s, u: s.get(u + "/from", auth=("user", "pass")), server, theirs)

    assert server.seen[1].header("authorization") == "Basic " + b64encode(b"user:pass").decode()


@pytest.mark.parametrize("kind", ["pair", "session", "userinfo", "header"])
def test_authorization_does_not_go_to_another_origin(
    kind: str, server: EchoServer, other: EchoServer, theirs: Any
) -> None:
    """RFC 9110 §15.4: whatever it was set by, another origin does not get it; not on the way back either."""
    server.answers["/from"] = redirect(f"{other.url}/to")
    other.answers["/to"] = redirect(f"{server.url}/back")

    def call(s: Any, u: str) -> Any:
        if kind == "session":
            s.auth = ("user", "pass")
        return s.get(
            (with_userinfo(u, "user:pass") if kind == "userinfo" else u) + "/from",
            auth=("user", "pass") if kind == "pair" else None,
            headers={"Authorization": "Bearer s3cret"} if kind == "header" else {},
        )

    compare(call, server, theirs)

    assert server.seen[0].header("authorization")
    assert [seen.header("authorization") for seen in other.seen] == [None, None]
    assert server.seen[1].header("authorization") is None


def test_another_port_is_another_origin(server: EchoServer, theirs: Any) -> None:
    """The same host at another port does not get Authorization."""
    with EchoServer() as neighbour:
        server.answers["/from"] = redirect(f"{neighbour.url}/to")
        compare(lambda s, u: s.get(u + "/from", auth=("user", "pass")), server, theirs)

        assert [seen.header("authorization") for seen in neighbour.seen] == [None, None]


def test_secrets_in_other_fields_do_not_go_to_another_origin(
    server: EchoServer, other: EchoServer, session: Session
) -> None:
    """Ours: a key in a field of the user's own is as secret as Authorization. requests would send it on."""
    secrets = {"X-Api-Key": "1", "Private-Token": "2", "Cookie": "by=hand", "Proxy-Authorization": "Basic x"}
    server.answers["/same"] = redirect("/there")
    server.answers["/from"] = redirect(f"{other.url}/to")
    session.get(server.url + "/same", headers=secrets)
    session.get(server.url + "/from", headers={**secrets, "X-Harmless": "1"})

    assert server.seen[1].header("x-api-key") == "1"
    assert other.seen[0].header("x-harmless") == "1"
    assert [other.seen[0].header(name) for name in secrets] == [None] * 4


def test_a_host_of_ones_own_does_not_go_along(server: EchoServer, other: EchoServer, session: Session) -> None:
    """Ours: `Host` set by hand is meant for one URL. requests would send it to the next host as well."""
    server.answers["/from"] = redirect(f"{other.url}/to")
    session.get(server.url + "/from", headers={"Host": "example.com"})

    assert server.seen[0].header("host") == "example.com"
    assert other.seen[0].header("host") == f"127.0.0.2:{other.port}"


def test_cookies_of_the_call_stay_with_their_origin(server: EchoServer, other: EchoServer, session: Session) -> None:
    """Ours: cookies given for a call to one host are not another's to see. requests sends them to every host."""
    server.answers["/from"] = redirect(f"{other.url}/to")
    session.get(server.url + "/from", cookies={"mine": "s3cret"})

    assert server.seen[0].cookies == [("mine", "s3cret")]
    assert other.seen[0].cookies == []


def test_cookies_go_to_their_own_host_only(server: EchoServer, other: EchoServer, session: Session) -> None:
    """A cookie of one host is not sent to another, and comes back with the redirect back."""
    server.answers["/from"] = redirect(f"{other.url}/to", 302, ("Set-Cookie", "of=server"))
    other.answers["/to"] = redirect(f"{server.url}/back", 302, ("Set-Cookie", "of=other"))
    session.get(server.url + "/from")

    assert other.seen[0].cookies == []
    assert server.seen[1].cookies == [("of", "server")]
    assert sorted(cookie.domain for cookie in session.cookies) == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_too_many_redirects(limit: int, server: EchoServer, theirs: Any) -> None:
    """The limit allows as many as in requests, and the error carries the response at which it stopped."""
    server.answers["/loop"] = redirect("/loop?token=s3cret")

    def call(s: Any, u: str) -> Any:
        s.max_redirects = limit
        with pytest.raises((exceptions.TooManyRedirects, theirs.TooManyRedirects)) as raised:
            s.get(u + "/loop")
        return raised.value

    expected, error = compare(call, server, theirs)

    assert len(server.seen) == limit + 1
    assert error.response.status_code == expected.response.status_code == 302
    assert error.response.url == expected.response.url
    assert len(error.response.history) == len(expected.response.history) == limit
    assert error.request is error.response.request
    assert str(limit) in str(error)
    assert "s3cret" not in str(error)


def test_exactly_as_many_redirects_as_allowed(server: EchoServer, session: Session) -> None:
    """`max_redirects` redirects are followed."""
    server.answers["/2"], server.answers["/1"], server.answers["/0"] = redirect("/1"), redirect("/0"), page("done")
    session.max_redirects = 2

    assert session.get(server.url + "/2").text == "done"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_redirect_that_is_not_followed(method: str, server: EchoServer, theirs: Any) -> None:
    """`allow_redirects=False` shows the redirect, and `next` the request that would follow."""
    server.answers["/from"] = redirect("/to?a=1", 303, ("Set-Cookie", "a=1"))

    def call(s: Any, u: str) -> Any:
        return s.request(method, u + "/from", allow_redirects=False)

    expected, response = compare(call, server, theirs)

    assert shown(response) == shown(expected)
    assert len(server.seen) == 1


def test_head_follows_nothing_unless_asked(server: EchoServer, theirs: Any) -> None:
    """`head` alone does not follow redirects by itself."""
    server.answers["/from"] = redirect("/to")

    expected, response = compare(lambda s, u: s.head(u + "/from"), server, theirs)

    assert response.status_code == expected.status_code == 302
    compare(lambda s, u: s.head(u + "/from", allow_redirects=True), server, theirs)
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"nowhere", 302),
        Answer(b"empty", 302, [("Location", "")]),
        Answer(b"choose", 300, [("Location", "/to")]),
        Answer(b"", 304, [("Location", "/to")]),
        Answer(b"made", 201, [("Location", "/to")]),
        Answer(b"proxy", 305, [("Location", "/to")]),
    ],
    ids=["no location", "empty location", "300", "304", "201", "305"],
)
def test_what_looks_like_a_redirect(answer: Answer, server: EchoServer, theirs: Any) -> None:
    """What requests does not follow is not followed: the answer itself comes back."""
    server.answers["/from"] = answer

    expected, response = compare(lambda s, u: s.get(u + "/from"), server, theirs)

    assert shown(response) == shown(expected)


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("ftp://example.com/", exceptions.InvalidSchema),
        ("http://h:port/", exceptions.InvalidURL),
        ("mailto:ada@example.com", exceptions.InvalidSchema),
    ],
)
def test_a_redirect_to_what_cannot_be_fetched(
    location: str, error: type[Exception], server: EchoServer, session: Session
) -> None:
    """The error is that of such a URL, and it has the request that was redirected."""
    server.answers["/from"] = redirect(location)
    with pytest.raises(error) as raised:
        session.get(server.url + "/from")

    request: Any = raised.value.request  # type: ignore[attr-defined]  # a RequestException
    assert request is not None
    assert request.url == f"{server.url}/from"
    assert server.url in str(raised.value)


@pytest.mark.parametrize("location", ["ftp://example.com/", "http://h:port/", "mailto:ada@example.com"])
def test_a_redirect_that_is_not_followed_may_lead_anywhere(location: str, server: EchoServer, session: Session) -> None:
    """`allow_redirects=False` means: show me. It is no error then that nobody could follow."""
    server.answers["/from"] = redirect(location)
    response = session.get(server.url + "/from", allow_redirects=False)

    assert response.status_code == 302
    assert response.headers["location"] == location


def test_a_bad_redirect_gives_its_connection_back(server: EchoServer, session: Session) -> None:
    """An error on the way leaves no connection behind."""
    server.answers["/from"] = redirect("ftp://example.com/")
    with pytest.raises(exceptions.InvalidSchema) as raised:
        session.get(server.url + "/from", stream=True)

    assert session._transport.stats().leased == 0  # also while somebody keeps the error and its traceback
    del raised


def test_a_body_is_sent_again_from_its_start(server: EchoServer, theirs: Any) -> None:
    """After 307 a file is wound back to where it stood."""
    server.answers["/from"] = redirect("/to", 307)

    compare(lambda s, u: s.post(u + "/from", data=positioned()), server, theirs)

    assert [seen.body for seen in server.seen] == [b"rest", b"rest"]


def test_a_body_that_can_be_read_once_is_not_sent_again(server: EchoServer, session: Session) -> None:
    """Ours: UnrewindableBodyError after 307; requests would send the generator's empty rest as if it were the body."""
    server.answers["/from"] = redirect("/to", 307)
    with pytest.raises(exceptions.UnrewindableBodyError) as raised:
        session.post(server.url + "/from", data=numbers())

    assert [seen.path for seen in server.seen] == ["/from"]
    assert raised.value.response.status_code == 307
    assert raised.value.request is not None
    assert raised.value.request.url == f"{server.url}/from"


def test_a_redirect_without_its_body_may_follow_one_that_can_be_read_once(server: EchoServer, theirs: Any) -> None:
    """303 asks for no body, so that a generator is no obstacle."""
    server.answers["/from"] = redirect("/to", 303)

    compare(lambda s, u: s.post(u + "/from", data=numbers()), server, theirs)

    assert [seen.method for seen in server.seen] == ["POST", "GET"]


# --- https to http ---


@pytest.fixture
def trusting(ca_file: str) -> Iterator[Session]:
    """A session that trusts the authority."""
    with Session() as session:
        session.verify = ca_file
        yield session


def test_a_redirect_from_https_to_http_is_refused(secure: EchoServer, server: EchoServer, trusting: Session) -> None:
    """Ours: InsecureRedirect, for cookies and body would go in the clear; requests follows."""
    secure.answers["/from"] = redirect(f"{server.url}/to?token=s3cret")
    with pytest.raises(exceptions.InsecureRedirect) as raised:
        trusting.get(secure.url + "/from")

    assert server.seen == []
    assert raised.value.response.status_code == 302
    assert "s3cret" not in str(raised.value)
    assert trusting._transport.stats().leased == 0


def test_a_redirect_from_https_to_http_may_be_looked_at(
    secure: EchoServer, server: EchoServer, trusting: Session
) -> None:
    """What InsecureRedirect advises works: `allow_redirects=False` gives the redirect and `next`."""
    secure.answers["/from"] = redirect(f"{server.url}/to")
    response = trusting.get(secure.url + "/from", allow_redirects=False)

    assert response.status_code == 302
    assert response.next is not None
    assert response.next.url == f"{server.url}/to"


def test_a_redirect_from_http_to_https_is_followed(secure: EchoServer, server: EchoServer, trusting: Session) -> None:
    """To more security one may always go; without Authorization, for it is another origin."""
    server.answers["/from"] = redirect(f"{secure.url}/to")
    trusting.get(server.url + "/from", auth=("user", "pass"))

    assert [seen.path for seen in secure.seen] == ["/to"]
    assert secure.seen[0].header("authorization") is None


# --- what a response shows ---


def answer_of(body: bytes, content_type: str | None = None, *headers: tuple[str, str], status: int = 200) -> Answer:
    kind = [] if content_type is None else [("Content-Type", content_type)]
    return Answer(body, status, [*kind, *headers])


def deflated_raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


GZIP = gzip.compress(b"x" * 1000)
TEXT = "Grüße, 世界!\nZweite Zeile\n"

SHOWN: dict[str, Answer] = {
    "no content type": answer_of(b"plain"),
    "empty body": answer_of(b"", "text/html"),
    "204": Answer(status=204),
    "304": Answer(status=304, headers=[("ETag", '"1"')]),
    "404": answer_of(b"gone", "text/plain", status=404),
    "500": answer_of(b"oops", "text/plain", status=500),
    "599": Answer(b"", 599, reason="Beyond"),
    "999": Answer(b"", 999, reason="Request denied"),
    "no reason": Answer(b"x", 200, reason=""),
    "reason of Latin-1": Answer(b"x", 200, reason="Très bien"),
    "text without a charset": answer_of(TEXT.encode("latin-1", "replace"), "text/plain"),
    "utf-8": answer_of(TEXT.encode(), "text/html; charset=utf-8"),
    "quoted charset": answer_of(TEXT.encode(), 'text/html; charset="UTF-8"'),
    "koi8-r": answer_of("Привет".encode("koi8-r"), "text/plain; charset=KOI8-R"),
    "an unknown charset": answer_of(TEXT.encode(), "text/plain; charset=no-such-thing"),
    "a charset that does not fit": answer_of(b"a\xffb", "text/plain; charset=utf-8"),
    "a charset to be guessed": answer_of((TEXT * 20).encode(), "application/xml"),
    "bytes that are no text": answer_of(bytes(range(256)), "image/png"),
    "json": answer_of(b'{"a": [1, "\xc3\xa4"]}', "application/json"),
    "json with a charset": answer_of('{"a": "ä"}'.encode(), "application/json; charset=utf-8"),
    "json of another type": answer_of('{"a": "ä"}'.encode(), "application/problem+json"),
    "json without a type": answer_of(b"[1, 2]"),
    "json in utf-16": answer_of('["ä", 1]'.encode("utf-16"), "application/octet-stream"),
    "gzip": answer_of(gzip.compress(TEXT.encode()), "text/plain; charset=utf-8", ("Content-Encoding", "gzip")),
    "gzip in capitals": answer_of(gzip.compress(b"x"), "text/plain", ("Content-Encoding", "GZIP")),
    "gzip of two members": answer_of(gzip.compress(b"one") + gzip.compress(b"two"), None, ("Content-Encoding", "gzip")),
    "deflate": answer_of(zlib.compress(TEXT.encode()), None, ("Content-Encoding", "deflate")),
    "raw deflate": answer_of(deflated_raw(TEXT.encode()), None, ("Content-Encoding", "deflate")),
    "coded twice": answer_of(gzip.compress(zlib.compress(b"twice")), None, ("Content-Encoding", "deflate, gzip")),
    "an unknown coding": answer_of(b"as it came", None, ("Content-Encoding", "no-such-thing")),
    "identity": answer_of(b"as it came", None, ("Content-Encoding", "identity")),
    "an empty body that claims gzip": answer_of(b"", None, ("Content-Encoding", "gzip")),
    "chunked": Answer([b"one\n", b"two", b"\nthree"], headers=[("Content-Type", "text/plain")]),
    "chunked, empty": Answer([], headers=[("Content-Type", "text/plain")]),
    "chunked gzip": Answer([GZIP[:9], GZIP[9:]], headers=[("Content-Encoding", "gzip")]),
    "until the end": Answer(b"until the end", headers=[("Connection", "close"), ("Transfer-Encoding", "identity")]),
    "large": answer_of(b"0123456789" * 10_000, "application/octet-stream"),
    "lines": answer_of(b"one\ntwo\n\nfour", "text/plain"),
    "a field that came twice": answer_of(b"", None, ("X-Twice", "1"), ("X-Twice", "2")),
    "a field of Latin-1": answer_of(b"", None, ("X-Latin", "caf\xe9")),
    "an empty field": answer_of(b"", None, ("X-Empty", "")),
    "spelling": answer_of(b"", None, ("x-LoUd", "1"), ("X-loUD", "2")),
    "a link": answer_of(b"", None, ("Link", '<http://h/2>; rel="next", <http://h/9>; rel=last; title="x"')),
    "two links of one relation": answer_of(b"", None, ("Link", '<a>; rel="next"'), ("Link", '<b>; rel="next"')),
    "a link without a relation": answer_of(b"", None, ("Link", "<http://h/1>")),
    "cookies": set_cookies("a=1", "b=2; Path=/", "c=x=y; HttpOnly", "d="),
    "a cookie for the address": set_cookies("a=1; Domain=127.0.0.1"),
    "a cookie for elsewhere": set_cookies("a=1; Domain=example.com"),
    "a cookie for a path": set_cookies("a=1; Path=/here", "b=2; Path=/"),
    "a quoted cookie": set_cookies('a="quoted value"'),
    "a cookie that lasts": set_cookies("a=1; Max-Age=1000"),
    "a cookie that has expired": set_cookies("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "b=1; Max-Age=0", "c=1"),
    "a cookie with a date in two styles": set_cookies("a=1; Expires=Wed, 01-Jan-2031 00:00:00 GMT"),
    "a cookie of many attributes": set_cookies("a=1; SameSite=Lax; Priority=High; HttpOnly; Path=/; Version=1"),
    "a cookie set twice": set_cookies("a=1", "a=2"),
}  # fmt: skip


@pytest.mark.parametrize("answer", SHOWN.values(), ids=SHOWN)
def test_a_response_shows_what_requests_would_show(answer: Answer, server: EchoServer, theirs: Any) -> None:
    """Status, header, body in all its forms, encodings, cookies, links, and what goes back with the next request."""
    server.answers["/here/answer"] = answer

    def call(s: Any, u: str) -> Any:
        response = s.get(u + "/here/answer")
        s.get(u + "/here")
        s.get(u + "/")
        return response

    expected, response = compare(call, server, theirs)

    assert shown(response) == shown(expected)


@pytest.mark.parametrize("name", [name for name in SHOWN if "json" in name or name in ("lines", "empty body")])
def test_json_as_in_requests(name: str, server: EchoServer, theirs: Any) -> None:
    """The same value, or the same kind of error."""
    server.answers["/answer"] = SHOWN[name]

    def call(s: Any, u: str) -> Any:
        response = s.get(u + "/answer")
        try:
            return response.json()
        except ValueError as error:
            return type(error).__name__, [base.__name__ for base in type(error).__mro__ if "JSON" in base.__name__]

    expected, value = compare(call, server, theirs)

    assert value == expected


def test_json_in_utf_8_that_the_header_calls_text(server: EchoServer, session: Session) -> None:
    """Ours: JSON is UTF-8 (RFC 8259 §8.1). requests reads it by the charset that text/plain implies, as mojibake."""
    server.answers["/answer"] = answer_of('{"a": "ä"}'.encode(), "text/plain")

    assert session.get(server.url + "/answer").json() == {"a": "ä"}


@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
def test_a_response_to_another_method(method: str, server: EchoServer, theirs: Any) -> None:
    """HEAD has the header of a body, and none."""
    server.answers["/answer"] = answer_of(b"body", "text/plain", ("X-One", "1"))

    expected, response = compare(lambda s, u: s.request(method, u + "/answer"), server, theirs)

    assert shown(response) == shown(expected)
    assert response.headers["content-length"] == "4"


def copied(file: Any) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(file, target)
    return target.getvalue()


def pieces_of(response: Any) -> Any:
    return b"".join(response.iter_content(7))


STREAMED: dict[str, Callable[[Any], Any]] = {
    "content": lambda r: r.content,
    "text": lambda r: r.text,
    "iter_content": pieces_of,
    "iter_content(None)": lambda r: b"".join(r.iter_content(None)),
    "iter_content by one": lambda r: len(list(r.iter_content())),
    "iter_content of text": lambda r: "".join(r.iter_content(5, decode_unicode=True)),
    "iter": lambda r: b"".join(r),
    "iter_lines": lambda r: list(r.iter_lines()),
    "iter_lines in small pieces": lambda r: list(r.iter_lines(chunk_size=3)),
    "iter_lines of text": lambda r: list(r.iter_lines(decode_unicode=True)),
    "iter_lines with a delimiter": lambda r: list(r.iter_lines(delimiter=b" ")),
    "raw.read": lambda r: r.raw.read(),
    "raw.read, decoded": lambda r: r.raw.read(decode_content=True),
    "raw.read in pieces": lambda r: [r.raw.read(10), r.raw.read(5), r.raw.read()],
    "raw.stream": lambda r: b"".join(r.raw.stream(16, decode_content=True)),
    "raw, what it is": lambda r: (r.raw.status, r.raw.reason, r.raw.version, r.raw.headers["content-type"]),
    "raw, copied": lambda r: copied(r.raw),
    "raw, as text": lambda r: io.TextIOWrapper(r.raw, "latin-1").read() if hasattr(r.raw, "readinto") else None,
    "raw, iterated": lambda r: b"".join(r.raw),
    "raw, header by header": lambda r: r.raw.headers.getlist("set-cookie"),
    "raw, closed": lambda r: (r.content, r.raw.closed)[1],
    "content, then pieces": lambda r: (r.content, pieces_of(r), pieces_of(r)),
    "nothing": lambda r: r.status_code,
    "close, then status": lambda r: (r.close(), r.status_code)[1],
}


@pytest.mark.parametrize("body", ["length", "chunked", "gzip", "end"])
@pytest.mark.parametrize("read", STREAMED.values(), ids=STREAMED)
def test_a_stream_gives_what_requests_would_give(
    read: Callable[[Any], Any], body: str, server: EchoServer, theirs: Any
) -> None:
    """However the body is read and however it is framed."""
    data = (TEXT * 3).encode()
    fields = [("Content-Type", "text/plain; charset=utf-8"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    server.answers["/answer"] = {
        "length": Answer(data, headers=fields),
        "chunked": Answer([data[:20], data[20:21], data[21:]], headers=fields),
        "gzip": Answer(gzip.compress(data), headers=[*fields, ("Content-Encoding", "gzip")]),
        "end": Answer(data, headers=[*fields, ("Connection", "close"), ("Transfer-Encoding", "identity")]),
    }[body]

    def call(s: Any, u: str) -> Any:
        with s.get(u + "/answer", stream=True) as response:
            return read(response)

    expected, value = compare(call, server, theirs)

    assert value == expected


def test_a_redirect_on_the_way_to_a_stream(server: EchoServer, theirs: Any) -> None:
    """The redirect's own body is read, the last one's is not."""
    server.answers["/from"] = redirect("/to")
    server.answers["/to"] = answer_of(b"x" * 100_000)

    def call(s: Any, u: str) -> Any:
        with s.get(u + "/from", stream=True) as response:
            return [hop.content for hop in response.history], len(pieces_of(response))

    expected, read = compare(call, server, theirs)

    assert read == expected == ([b"over there"], 100_000)


@pytest.mark.parametrize(
    "data", [b"four", "four", {"a": "1"}, io.BytesIO(b"four")], ids=["bytes", "str", "form", "file"]
)
def test_a_body_is_framed_once(data: Any, server: EchoServer, session: Session) -> None:
    """Ours: whatever is claimed by hand, a request has one framing, and it is true (RFC 9112 §6.3).

    requests would send Content-Length and Transfer-Encoding at once, which a server may read as two requests.
    """
    session.post(server.url, data=data, headers={"Transfer-Encoding": "chunked", "Content-Length": "2"})
    session.get(server.url + "/next")
    first, second = server.seen

    assert first.body in (b"four", b"a=1")
    assert (first.header("transfer-encoding") is None) is (first.header("content-length") is not None)
    assert second.path == "/next"


def test_an_iterable_of_known_length(server: EchoServer, session: Session) -> None:
    """Ours: Content-Length by hand frames an iterable, which requests sends in chunks beside it; it has to be true."""
    session.post(server.url, data=numbers(), headers={"Content-Length": "6"})
    with pytest.raises(exceptions.RequestException, match="2 bytes"):
        session.post(server.url, data=numbers(), headers={"Content-Length": "2"})
    session.get(server.url + "/next")

    assert (server.seen[0].body, server.seen[0].chunked) == (b"onetwo", False)
    assert server.seen[-1].path == "/next"
    assert server.seen[-1].connection != server.seen[0].connection


def test_a_stream_is_consumed_once(server: EchoServer, theirs: Any) -> None:
    """Iterated to its end it is not kept: iterating again raises requests' StreamConsumedError."""

    def call(s: Any, u: str) -> Any:
        response = s.get(u, stream=True)
        pieces_of(response)
        with pytest.raises(TypeError) as raised:
            pieces_of(response)
        return type(raised.value).__name__

    expected, name = compare(call, server, theirs)

    assert name == expected == "StreamConsumedError"


def test_the_content_of_a_consumed_stream(server: EchoServer, session: Session) -> None:
    """Ours: StreamConsumedError here too, where requests raises a bare RuntimeError."""
    response = session.get(server.url, stream=True)
    pieces_of(response)

    with pytest.raises(exceptions.StreamConsumedError):
        response.content  # noqa: B018 - reads it


def test_a_stream_comes_while_the_server_is_sending(server: EchoServer, session: Session) -> None:
    """Lines of a feed are passed on as they come, not when a buffer is full."""
    go_on = threading.Event()

    def feed() -> Iterator[bytes]:
        yield b"first\n"
        assert go_on.wait(20)
        yield b"second\n"

    server.answers["/feed"] = lambda _: Answer(feed())
    with session.get(server.url + "/feed", stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        first = next(lines)
        go_on.set()
        rest = list(lines)

    assert (first, rest) == (b"first", [b"second"])


def test_a_stream_closed_early_leaves_nothing_for_the_next(server: EchoServer, session: Session) -> None:
    """What was not read of a body never turns up in the next answer."""
    server.answers["/large"] = answer_of(b"x" * 1_000_000)
    server.answers["/small"] = answer_of(b"small")
    for _ in range(3):
        with session.get(server.url + "/large", stream=True) as response:
            assert next(response.iter_content(10)) == b"x" * 10
        assert session.get(server.url + "/small").content == b"small"


def test_several_streams_at_once(server: EchoServer, session: Session) -> None:
    """A session alone keeps as many streams open as are asked for, each on its own connection."""
    for number in range(20):
        server.answers[f"/{number}"] = answer_of(f"{number} ".encode() * 50_000)
    streams = [session.get(f"{server.url}/{number}", stream=True) for number in range(20)]
    bodies = [b"".join(each.iter_content(10_000)) for each in reversed(streams)]

    assert bodies == [f"{number} ".encode() * 50_000 for number in reversed(range(20))]
    assert len({seen.connection for seen in server.seen}) == 20


def test_the_session_may_say_that_all_is_streamed(server: EchoServer, session: Session) -> None:
    """`Session.stream` is what `stream=` is when the call does not say."""
    server.answers["/large"] = answer_of(b"x" * 1_000_000)
    session.stream = True
    with session.get(server.url + "/large") as response:
        open_streams = session._transport.stats().leased
        read = len(response.content)

    assert (open_streams, read) == (1, 1_000_000)
    assert session.get(server.url + "/large", stream=False)._reply.closed  # type: ignore[union-attr]  # it has one


def test_a_response_pickles_with_its_request(server: EchoServer, theirs: Any) -> None:
    """As in requests: all but the connection, the request that it answers included."""
    server.answers["/from"] = redirect("/to", 302, ("Set-Cookie", "a=1"))
    server.answers["/to"] = answer_of(TEXT.encode(), "text/plain; charset=utf-8")

    def call(s: Any, u: str) -> Any:
        loaded = pickle.loads(pickle.dumps(s.get(u + "/from")))
        loaded.__dict__.setdefault("_next", None)  # what requests' own lack after loading
        return loaded

    expected, response = compare(call, server, theirs)

    assert shown(response) == shown(expected)


# --- hooks ---


def test_hooks_are_called_for_every_response(server: EchoServer, theirs: Any) -> None:
    """The session's hook sees each hop, and may put another response in its place."""
    server.answers["/from"] = redirect("/to")

    def call(s: Any, u: str) -> Any:
        calls: list[Any] = []

        def hook(response: Any, *args: Any, **kwargs: Any) -> None:
            calls.append((response.status_code, response.url, len(args), "stream" in kwargs, "timeout" in kwargs))

        s.hooks["response"].append(hook)
        s.get(u + "/from")
        return calls

    expected, calls = compare(call, server, theirs)

    assert calls == expected
    assert [status for status, *_ in calls] == [302, 200]


@pytest.mark.parametrize("as_list", [True, False])
def test_a_hook_may_change_the_response(as_list: bool, server: EchoServer, theirs: Any) -> None:
    """What a hook returns takes the response's place; None leaves it."""

    def call(s: Any, u: str) -> Any:
        def mark(response: Any, **kwargs: Any) -> Any:
            response.mark = "marked"
            return response

        hooks: Any = {"response": [mark, lambda r, **_: None] if as_list else mark}
        return s.get(u, hooks=hooks).mark

    expected, mark = compare(call, server, theirs)

    assert mark == expected == "marked"


def test_a_calls_hooks_come_after_the_sessions(server: EchoServer, session: Session) -> None:
    """Ours: both are called. In requests the call's hooks replace the session's without a word."""
    calls: list[str] = []
    session.hooks["response"].append(lambda r, **_: calls.append("session"))
    session.get(server.url, hooks={"response": lambda r, **_: calls.append("call")})

    assert calls == ["session", "call"]


def test_an_error_of_a_hook_comes_out(server: EchoServer, session: Session) -> None:
    """raise_for_status in a hook is a common idiom: the error reaches the caller, and the connection goes back."""
    server.answers["/gone"] = answer_of(b"gone", status=404)
    session.hooks = {"response": lambda r, **_: r.raise_for_status()}
    with pytest.raises(exceptions.HTTPError, match="404"):
        session.get(server.url + "/gone")

    assert session._transport.stats().leased == 0
    assert session.get(server.url).ok


def test_an_event_nobody_raises_cannot_be_hooked(server: EchoServer, session: Session) -> None:
    """ValueError for a misspelt event."""
    with pytest.raises(ValueError, match="respone"):
        session.get(server.url, hooks={"respone": print})


# --- cookies ---


def test_a_session_remembers_its_cookies(server: EchoServer, theirs: Any) -> None:
    """Set by one response, changed by the next, sent in between, deleted at last."""
    server.answers["/set"] = set_cookies("a=1", "b=2")
    server.answers["/change"] = set_cookies("a=3")
    server.answers["/delete"] = set_cookies("b=; Max-Age=0")

    def call(s: Any, u: str) -> Any:
        for path in ("/set", "/echo", "/change", "/echo", "/delete", "/echo"):
            s.get(u + path)
        return dict(s.cookies), s.cookies.get("a"), s.cookies.get_dict(), "b" in s.cookies, s.cookies.list_domains()

    expected, cookies = compare(call, server, theirs)

    assert cookies == expected


def test_a_secure_cookie_is_not_taken_from_plain_http(server: EchoServer, session: Session) -> None:
    """Ours, by RFC 6265bis §5.7: who can read http could otherwise set the cookies of https. requests keeps it."""
    server.answers["/set"] = set_cookies("a=1; Secure", "b=2")
    session.get(server.url + "/set")

    assert session.cookies.get_dict() == {"b": "2"}


def test_the_cookies_of_a_response_are_its_own(server: EchoServer, session: Session) -> None:
    """`Response.cookies` holds what that response set, the session all."""
    server.answers["/one"], server.answers["/two"] = set_cookies("a=1"), set_cookies("b=2")
    one, two = session.get(server.url + "/one"), session.get(server.url + "/two")

    assert one.cookies.get_dict() == {"a": "1"}
    assert two.cookies.get_dict() == {"b": "2"}
    assert session.cookies.get_dict() == {"a": "1", "b": "2"}


# --- auth ---


def needs_password(seen: Seen) -> Answer:
    if seen.header("authorization") == "Basic " + b64encode(b"ada:s3cret").decode():
        return page("welcome")
    return Answer(b"who are you?", 401, [("WWW-Authenticate", 'Basic realm="x"')])


def test_basic_auth(server: EchoServer, session: Session) -> None:
    """Let in with the right password, given by any of the three ways, and turned away without."""
    server.answers["/door"] = needs_password
    door = server.url + "/door"

    assert session.get(door).status_code == 401
    assert session.get(door, auth=("ada", "wrong")).status_code == 401
    assert session.get(door, auth=("ada", "s3cret")).text == "welcome"
    assert session.get(with_userinfo(door, "ada:s3cret")).text == "welcome"
    assert session.get(door, auth=sessionpool.auth.HTTPBasicAuth("ada", "s3cret")).text == "welcome"
    session.auth = ("ada", "s3cret")
    assert session.get(door).text == "welcome"


def test_an_auth_that_answers_a_challenge(server: EchoServer, session: Session) -> None:
    """An auth handler may hook the response and ask again, as requests' digest auth does."""
    server.answers["/door"] = needs_password

    class Later(sessionpool.auth.AuthBase):
        def __call__(self, r: sessionpool.PreparedRequest) -> sessionpool.PreparedRequest:
            r.hooks = {"response": [self.again]}
            return r

        def again(self, response: sessionpool.Response, **kwargs: Any) -> sessionpool.Response | None:
            if response.status_code != 401:
                return None
            return session.get(response.url, auth=("ada", "s3cret"))

    assert session.get(server.url + "/door", auth=Later()).text == "welcome"


# --- bad input ---

BAD: dict[str, tuple[type[Exception], Call]] = {
    "a missing scheme": (exceptions.MissingSchema, lambda s, u: s.get("example.com/path")),
    "nothing": (exceptions.MissingSchema, lambda s, u: s.get("")),
    "None": (exceptions.MissingSchema, lambda s, u: s.get(None)),
    "an unknown scheme": (exceptions.InvalidSchema, lambda s, u: s.get("ftp://example.com/")),
    "a scheme with a spelling mistake": (exceptions.InvalidSchema, lambda s, u: s.get("htp://example.com/")),
    "no host": (exceptions.InvalidURL, lambda s, u: s.get("http://")),
    "no port": (exceptions.InvalidURL, lambda s, u: s.get("http://127.0.0.1:port/")),
    "a host with blanks": (exceptions.InvalidURL, lambda s, u: s.get("http://exa mple.com/")),
    "a line end in the host": (exceptions.InvalidURL, lambda s, u: s.get("http://127.0.0.1\r\nX: 1/")),
    "bytes that are no text": (ValueError, lambda s, u: s.get(b"http://\xff\xfe/")),
    "CR LF in a value": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X": "a\r\nEvil: 1"})),
    "LF in a value": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X": "a\nEvil: 1"})),
    "CR in a value": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X": "a\rb"})),
    "NUL in a value": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X": "a\0b"})),
    "CR LF in a name": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X\r\nEvil": "1"})),
    "a blank in a name": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X Y": "1"})),
    "a number as value": (exceptions.InvalidHeader, lambda s, u: s.get(u, headers={"X": 1})),
    "CR LF in the session": (exceptions.InvalidHeader, lambda s, u: (s.headers.update(X="a\r\nb"), s.get(u))),
    "CR LF in a type": (exceptions.InvalidHeader, lambda s, u: s.post(u, json={}, headers={"Content-Type": "a\r\nb"})),
    "a method that is no token": (exceptions.InvalidHeader, lambda s, u: s.request("GET / HTTP/1.1\r\nEvil: 1\r\n", u)),
    "no method": (exceptions.InvalidHeader, lambda s, u: s.request("", u)),
    "auth of three": (ValueError, lambda s, u: s.get(u, auth=("a", "b", "c"))),
    "auth as text": (ValueError, lambda s, u: s.get(u, auth="user:pass")),
    "auth as text of the session": (ValueError, lambda s, u: setattr(s, "auth", "user:pass")),
    "a password that is no text": (ValueError, lambda s, u: s.get(u, auth=("user", 5))),
    "no password": (ValueError, lambda s, u: s.get(u, auth=("user", None))),
    "a timeout of 0": (ValueError, lambda s, u: s.get(u, timeout=0)),
    "a negative timeout": (ValueError, lambda s, u: s.get(u, timeout=-1)),
    "a timeout as text": (ValueError, lambda s, u: s.get(u, timeout="5")),
    "a timeout of three": (ValueError, lambda s, u: s.get(u, timeout=(1, 2, 3))),
    "a pair of texts": (ValueError, lambda s, u: s.get(u, timeout=("1", "2"))),
    "a timeout that is no number": (ValueError, lambda s, u: s.get(u, timeout=float("nan"))),
    "json that cannot be said": (exceptions.InvalidJSONError, lambda s, u: s.post(u, json={"a": object()})),
    "json of nan": (exceptions.InvalidJSONError, lambda s, u: s.post(u, json=float("nan"))),
    "a body that is none": (TypeError, lambda s, u: s.post(u, data=5)),
    "files with a raw body": (ValueError, lambda s, u: s.post(u, data="raw", files={"f": "x"})),
    "params that are none": (TypeError, lambda s, u: s.get(u, params=5)),
}  # fmt: skip


@pytest.mark.parametrize(("error", "call"), BAD.values(), ids=BAD)
def test_bad_input_is_a_clear_error_and_nothing_is_sent(
    error: type[Exception], call: Call, server: EchoServer, session: Session
) -> None:
    """The error names what is wrong before a byte has gone out, and the session can be used as before."""
    with pytest.raises(error) as raised:
        call(session, server.url)

    assert len(str(raised.value)) > 15
    assert server.seen == []
    session.headers.pop("X", None)
    session.auth = None
    assert session.get(server.url).ok


def test_the_errors_of_bad_input_are_those_of_requests(theirs: Any, session: Session) -> None:
    """An `except` clause written for requests catches the same."""
    urls = [
        "example.com",
        "ftp://example.com/",
        "http://",
        "http://h:port/",
        "http://*.h/",
        "http://[::1/",
        "",
        "localhost:8000",
    ]
    for url in urls:
        with pytest.raises(exceptions.RequestException) as ours:
            session.get(url)
        with pytest.raises(theirs.RequestException) as raised:
            theirs.get(url)

        assert type(ours.value).__name__ == raised.type.__name__, url
        assert issubclass(type(ours.value), ValueError) == issubclass(raised.type, ValueError)


@pytest.mark.parametrize(
    ("body", "error"), [(b"", "Expecting value"), (b"<html>", "Expecting value"), (b'{"a": 1', "Expecting")]
)
def test_a_body_that_is_not_json(body: bytes, error: str, server: EchoServer, session: Session) -> None:
    """JSONDecodeError says where, and has response and request."""
    server.answers["/answer"] = answer_of(body, "application/json")
    response = session.get(server.url + "/answer")
    with pytest.raises(exceptions.JSONDecodeError, match=error) as raised:
        response.json()

    assert raised.value.response is response
    assert raised.value.request is response.request


def test_raise_for_status(server: EchoServer, session: Session) -> None:
    """HTTPError with status, reason and URL; response and request are attributes."""
    server.answers["/gone"] = answer_of(b"gone", status=410)
    response = session.get(server.url + "/gone?token=s3cret")
    with pytest.raises(exceptions.HTTPError, match=r"410 Client Error: Gone for url: http://127.*/gone") as raised:
        response.raise_for_status()

    assert raised.value.response is response
    assert raised.value.request is response.request
    assert "s3cret" not in str(raised.value)
    session.get(server.url).raise_for_status()


# --- secrets ---

LEAKS: dict[str, Call] = {
    "a refused port": lambda s, u: s.get("http://ada:s3cret@127.0.0.1:1/a//b?token=s3cret#s3cret"),
    "a redirect that loops": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/loop?s3cret"),
    "a bad redirect": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/bad?s3cret"),
    "a bad status": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/gone?token=s3cret").raise_for_status(),
    "a bad status below two slashes": lambda s, u: (
        s.get(with_userinfo(u, "ada:s3cret") + "/a//gone").raise_for_status()
    ),
    "a generator sent twice": lambda s, u: s.post(with_userinfo(u, "ada:s3cret") + "/again?s3cret", data=numbers()),
    "a bad URL": lambda s, u: s.get("http://ada:s3cret@h:port/?token=s3cret"),
    "a URL of an unknown scheme": lambda s, u: s.get("ftp://ada:s3cret@h/a//b?token=s3cret"),
    "a bad Authorization": lambda s, u: s.get(u, headers={"Authorization": "Bearer s3cret\n"}),
    "an Authorization that is no text": lambda s, u: s.get(u, headers={"authorization": ["s3cret"]}),
    "a bad Cookie": lambda s, u: s.get(u, headers={"Cookie": "a=s3cret\r\n"}),
    "a bad cookie": lambda s, u: s.get(u, cookies={"a": "s3cret\r\n"}),
    "a cookie with a semicolon": lambda s, u: s.get(u, cookies={"a": "s3cret; b=1"}),
    "a bad token": lambda s, u: s.get(u, auth=sessionpool.auth.HTTPBearerAuth("s3cret\r\n")),
    "bad auth": lambda s, u: s.get(u, auth=("ada", "s3cret", "s3cret")),
    "auth as text": lambda s, u: s.get(u, auth="ada:s3cret"),
    "a bad proxy": lambda s, u: s.get(u, proxies={"http": "http://ada:s3cret@h:port"}),
    "a proxy of an unknown scheme": lambda s, u: s.get(u, proxies={"http": "socks5://ada:s3cret@127.0.0.1:1"}),
    "a proxy without a host": lambda s, u: s.get(u, proxies={"http": "http://ada:s3cret@"}),
    "a refused proxy": lambda s, u: s.get(u, proxies={"http": "http://ada:s3cret@127.0.0.1:1"}),
    "a body that is not JSON": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/html?s3cret").json(),
    "a body cut short": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/short?s3cret"),
    "a coding that is a lie": lambda s, u: s.get(with_userinfo(u, "ada:s3cret") + "/zip?s3cret"),
    "not HTTP": lambda s, u: s.get(with_userinfo(u, "ada:s3cret").replace("http:", "https:") + "/?s3cret"),
    "a released lease": lambda s, u: used_too_late(u),
    "an item of map": lambda s, u: mapped(with_userinfo(u, "ada:s3cret") + "/gone?token=s3cret"),
    "an item of map below two slashes": lambda s, u: mapped(with_userinfo(u, "ada:s3cret") + "/a//gone"),
}  # fmt: skip


def used_too_late(url: str) -> None:
    with sessionpool.SessionPool(auth=("ada", "s3cret")) as pool:
        with pool.lease("ada:s3cret") as leased:
            pass
        leased.get(f"{url}?token=s3cret")


def mapped(url: str) -> None:
    with sessionpool.SessionPool() as pool:
        list(pool.map(lambda s, item: s.get(item).raise_for_status(), [url], workers=1))


@pytest.mark.parametrize("call", LEAKS.values(), ids=LEAKS)
def test_no_error_tells_a_secret(call: Call, server: EchoServer, session: Session) -> None:
    """Passwords, tokens and queries are not in the message, the repr, the notes or the chain behind it."""
    server.answers |= {
        "/loop": redirect("/loop?s3cret"),
        "/bad": redirect("ftp://ada:s3cret@h/?s3cret"),
        "/again": redirect("/again?s3cret", 307),
        "/gone": answer_of(b"", status=404),
        "/a//gone": answer_of(b"", status=404),
        "/html": answer_of(b"<html>"),
        "/short": answer_of(b"short", None, ("Content-Length", "10"), ("Connection", "close")),
        "/zip": answer_of(b"no zip", None, ("Content-Encoding", "gzip")),
    }
    with pytest.raises((exceptions.RequestException, ValueError)) as raised:
        call(session, server.url)
    error: BaseException | None = raised.value
    seen: list[BaseException] = []
    while error is not None:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    said = [text for each in seen for text in traceback.format_exception_only(each)]

    assert not [text for text in [*said, *map(repr, seen)] if "s3cret" in text]


def test_nothing_shows_a_secret(server: EchoServer, session: Session) -> None:
    """repr() of what a debugger or a log shows: session, request, response, auth, header, cookies."""
    server.answers["/set"] = set_cookies("a=s3cret")
    response = session.get(
        with_userinfo(server.url, "ada:s3cret") + "/set?s3cret", headers={"X-Api-Key": "s3cret", "Cookie": "a=s3cret"}
    )
    auth = sessionpool.auth
    things = [
        session,
        session.cookies,
        *session.cookies,
        response,
        response.headers,
        response.cookies,
        response.request,
        response.request.headers,
        auth.HTTPBasicAuth("ada", "s3cret"),
        auth.HTTPProxyAuth("ada", "s3cret"),
        auth.HTTPBearerAuth("s3cret"),
    ]

    assert not [repr(thing) for thing in things if "s3cret" in repr(thing)]


# --- a session by itself, and threads ---


def test_a_session_may_be_handed_on(server: EchoServer, session: Session) -> None:
    """A session alone is nobody's: another thread may go on with it, cookies and all, when the first is done."""
    server.answers["/set"] = set_cookies("a=1")
    session.get(server.url + "/set")
    with in_thread(session.get, server.url) as call:
        pass

    assert call.get().json()["cookies"] == {"a": "1"}
    assert session.get(server.url).ok


def test_two_threads_at_once_are_told(server: EchoServer, session: Session) -> None:
    """The second gets WrongThreadError before anything is sent; the first is not disturbed."""
    server.answers["/set"] = set_cookies("a=1")
    session.get(server.url + "/set")
    arrived, go_on = threading.Event(), threading.Event()

    def wait(seen: Seen) -> Answer:
        arrived.set()
        assert go_on.wait(20)
        return echo(seen)

    server.answers["/wait"] = wait
    with in_thread(session.get, server.url + "/wait") as first:
        assert arrived.wait(20)
        before = len(server.seen)
        with pytest.raises(exceptions.WrongThreadError, match="fork"):
            session.get(server.url)
        after = len(server.seen)
        go_on.set()

    assert after == before
    assert first.get().json()["cookies"] == {"a": "1"}
    assert session.get(server.url).json()["cookies"] == {"a": "1"}


def test_a_call_from_a_hook_does_not_let_others_in(server: EchoServer, session: Session) -> None:
    """A call within a call (an auth handler that asks again) leaves the outer one's claim as it was."""
    inside, go_on = threading.Event(), threading.Event()

    def hook(response: Any, **kwargs: Any) -> None:
        session.hooks = {}
        session.get(server.url + "/inner")
        inside.set()
        assert go_on.wait(20)

    session.hooks = {"response": hook}
    with in_thread(session.get, server.url + "/outer") as outer:
        assert inside.wait(20)
        try:
            with pytest.raises(exceptions.WrongThreadError):
                session.get(server.url)
        finally:
            go_on.set()

    assert outer.get().ok


def test_threads_that_share_a_session_corrupt_nothing(server: EchoServer, session: Session) -> None:
    """Whatever eight threads do with one session, each call is answered rightly or refused, and all is given back."""
    start = threading.Barrier(8)
    refused = itertools.count()

    def work(number: int) -> int:
        answered = 0
        start.wait(20)
        for turn in range(50):
            try:
                said = session.get(f"{server.url}/{number}/{turn}", params={"n": number}).json()
            except exceptions.WrongThreadError:
                next(refused)
                continue
            assert said["target"] == f"/{number}/{turn}?n={number}"
            answered += 1
        return answered

    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(in_thread(work, number)) for number in range(8)]
    answered = sum(thread.get() for thread in threads)

    assert answered == len(server.seen)
    assert answered + next(refused) == 400
    assert session._transport.stats().leased == 0


def test_a_fork_begins_with_the_same_and_goes_its_own_way(server: EchoServer, session: Session) -> None:
    """Cookies, headers, auth and params are copies; connections are shared, so that a fork costs none."""
    server.answers["/set"] = set_cookies("a=1")
    session.headers["X-S"] = "1"
    session.auth = ("user", "pass")
    session.params = {"p": "1"}
    session.get(server.url + "/set")
    fork = session.fork()
    fork.cookies.set("b", "2")
    fork.headers["X-S"] = "2"
    fork.auth = None
    fork.params["p"] = "2"
    fork.hooks["response"].append(lambda response, **_: None)
    with in_thread(fork.get, server.url) as call:
        pass
    theirs, ours = call.get().json(), session.get(server.url).json()

    assert (theirs["cookies"], ours["cookies"]) == ({"a": "1", "b": "2"}, {"a": "1"})
    assert (theirs["args"], ours["args"]) == ([["p", "2"]], [["p", "1"]])
    assert dict(theirs["headers"])["X-S"] == "2"
    assert "Authorization" not in dict(theirs["headers"])
    assert "Authorization" in dict(ours["headers"])
    assert not session.hooks["response"]
    assert len({seen.connection for seen in server.seen}) == 1


def test_many_forks_at_once(server: EchoServer, session: Session) -> None:
    """Log in once, go on in many workers: each fork has the cookie, and none sees another's."""
    server.answers["/login"] = set_cookies("login=yes")
    session.get(server.url + "/login")

    def work(number: int) -> list[dict[str, str]]:
        fork = session.fork()
        fork.cookies.set("me", str(number))
        return [fork.get(server.url).json()["cookies"] for _ in range(10)]

    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(in_thread(work, number)) for number in range(8)]

    for number, thread in enumerate(threads):
        assert thread.get() == [{"login": "yes", "me": str(number)}] * 10


def test_a_closed_session_can_be_used_again(server: EchoServer, session: Session) -> None:
    """close() gives up the connections, not the state; the next call opens new ones."""
    server.answers["/set"] = set_cookies("a=1")
    session.get(server.url + "/set")
    session.close()
    eventually(lambda: server.open == 0)
    again = session.get(server.url).json()

    assert again["cookies"] == {"a": "1"}
    assert server.seen[0].connection != server.seen[1].connection


def test_closing_a_session_ends_its_streams(server: EchoServer) -> None:
    """What was not read of a stream is an error, not an end."""
    server.answers["/large"] = answer_of(b"x" * 1_000_000)
    with Session() as session:
        response = session.get(server.url + "/large", stream=True)
        pieces = response.iter_content(10)
        assert next(pieces) == b"x" * 10

    with pytest.raises(exceptions.RequestException):
        b"".join(pieces)


def test_connections_are_used_again(server: EchoServer, session: Session) -> None:
    """Requests in turn share one connection, whatever their method and body."""
    for _ in range(5):
        session.get(server.url)
        session.post(server.url, json={"a": 1})
        session.head(server.url)
        session.post(server.url, data=numbers())

    assert {seen.connection for seen in server.seen} == {server.seen[0].connection}


# --- settings ---


@pytest.mark.parametrize(
    ("base", "url", "target"),
    [
        ("/api/", "users", "/api/users"),
        ("/api/", "users/1?a=b", "/api/users/1?a=b"),
        ("/api/", "/users", "/users"),
        ("/api/", "../users", "/users"),
        ("/api/", "?a=b", "/api/?a=b"),
        ("/api", "users", "/users"),
        ("/api/", "", "/api/"),
    ],
)
def test_a_base_url(base: str, url: str, target: str, server: EchoServer, session: Session) -> None:
    """Relative URLs are relative to it (RFC 3986 §5); an absolute one goes its own way."""
    session.base_url = server.url + base
    session.get(url)

    assert server.seen[0].target == target
    session.base_url = "http://127.0.0.1:1/"
    assert session.get(server.url).ok


@pytest.mark.parametrize("timeout", [5, 2.5, (3, 4), (None, 5), sessionpool.Timeout(read=5), None])
def test_a_timeout_may_be_said_as_in_requests(timeout: Any, server: EchoServer, session: Session) -> None:
    """Seconds, a pair of them, or ours, for a call or for the session."""
    assert session.get(server.url, timeout=timeout).ok
    session.timeout = timeout
    assert session.get(server.url).ok


def test_a_server_that_is_too_slow(server: EchoServer, session: Session) -> None:
    """ReadTimeout names host and limit; the slow answer is never taken for the next one's."""
    go_on = threading.Event()

    def wait(seen: Seen) -> Answer:
        assert go_on.wait(20)
        return page("late")

    server.answers["/wait"] = wait
    with pytest.raises(exceptions.ReadTimeout, match=r"127\.0\.0\.1.*0\.05"):
        session.get(server.url + "/wait", timeout=0.05)
    go_on.set()

    assert session.get(server.url, headers={"X": "next"}).json()["target"] == "/"


def test_the_functions_need_no_session(server: EchoServer, theirs: Any) -> None:
    """`sessionpool.get` and its kin do what `requests.get` and its kin do, and leave no connection behind."""
    seen: dict[Any, Any] = {}
    for module in (theirs, sessionpool):
        server.seen.clear()
        module.get(server.url, {"a": "1"})
        module.get(server.url, params={"a": "1"}, headers={"X": "1"})
        module.options(server.url)
        module.head(server.url)
        module.post(server.url, {"a": "1"})
        module.post(server.url, json={"a": 1})
        module.put(server.url, b"bytes")
        module.patch(server.url, data={"a": "1"})
        module.delete(server.url)
        module.request("GET", server.url, cookies={"a": "1"})
        seen[module] = [tidy(each) for each in server.seen]

    assert seen[sessionpool] == seen[theirs]
    eventually(lambda: server.open == 0)


def test_a_function_that_fails_leaves_nothing_open(server: EchoServer) -> None:
    """Also while somebody keeps the error, the connections of the failed call are closed."""
    server.answers["/loop"] = redirect("/loop")
    with pytest.raises(exceptions.TooManyRedirects) as raised:
        sessionpool.get(server.url + "/loop")

    eventually(lambda: server.open == 0)
    assert raised.value.response.status_code == 302


def test_a_stream_of_a_function_can_be_read(server: EchoServer) -> None:
    """`sessionpool.get(stream=True)` keeps its connection until the body has been read, then gives it up."""
    server.answers["/large"] = answer_of(b"x" * 1_000_000)
    with sessionpool.get(server.url + "/large", stream=True) as response:
        assert len(response.content) == 1_000_000
    del response

    eventually(lambda: server.open == 0)


# --- a page of ordinary code ---

ORDINARY = """
import requests

def fetch(url):
    try:
        response = requests.get(url, params={"page": 1}, timeout=5)
        response.raise_for_status()
    except requests.exceptions.HTTPError as error:
        return "http", error.response.status_code, error.request.method
    except requests.exceptions.Timeout:
        return "timeout"
    except requests.exceptions.ConnectionError:
        return "connection"
    except requests.exceptions.RequestException as error:
        return "other", type(error).__name__
    return response.json()["target"]

results = [fetch(base + "/ok"), fetch(base + "/gone"), fetch("http://127.0.0.1:1/"), fetch("nonsense")]

session = requests.Session()
session.headers.update({"User-Agent": "ordinary/1.0", "X-Requested-With": "code"})
session.auth = ("ada", "secret")
session.cookies.set("theme", "dark")
login = session.post(base + "/login", data={"user": "ada"}, allow_redirects=False)
results.append((login.status_code, login.headers["Location"], login.is_redirect, login.cookies["sid"]))
me = session.get(base + "/me")
results.append((me.status_code == requests.codes.ok, me.json()["cookies"], me.request.headers["User-Agent"]))
followed = session.post(base + "/login", json={"user": "ada"})
results.append((followed.url.replace(base, ""), [hop.status_code for hop in followed.history]))
with session.get(base + "/lines", stream=True) as response:
    results.append([line for line in response.iter_lines(decode_unicode=True) if line])
upload = session.post(base + "/upload", files={"file": ("a.txt", b"content", "text/plain")}, data={"k": "v"})
results.append("content" in upload.json()["body"])
results.append(session.head(base + "/ok").headers["content-type"])
results.append(requests.put(base + "/ok", data=b"raw", headers={"Content-Type": "text/x"}).json()["body"])
results.append(sorted(session.cookies.get_dict().items()))
results.append(session.get(base + "/ok", auth=requests.auth.HTTPBasicAuth("a", "b")).ok)
try:
    session.get(base + "/html").json()
except requests.exceptions.JSONDecodeError as error:
    results.append(("not json", error.pos))
try:
    session.get(base + "/html").json()
except ValueError:
    results.append("a ValueError")
try:
    requests.get(base + "/loop")
except requests.TooManyRedirects as error:
    results.append(len(error.response.history))
session.close()
"""


def run_ordinary(module: Any, base: str) -> list[Any]:
    code = compile(ORDINARY.replace("import requests", ""), "ordinary.py", "exec")
    names: dict[str, Any] = {"requests": module, "base": base}
    exec(code, names)
    results: list[Any] = names["results"]
    return results


def test_ordinary_code_runs_unchanged(server: EchoServer, theirs: Any) -> None:
    """`import sessionpool as requests`: a page of everyday code gives the same results."""
    importlib.import_module("requests.auth")
    server.answers |= {
        "/gone": answer_of(b"", status=404),
        "/login": redirect("/me", 303, ("Set-Cookie", "sid=1; Path=/")),
        "/lines": answer_of(b"eins\nzwei\n\ndrei\n", "text/plain; charset=utf-8"),
        "/html": answer_of(b"<html>", "text/html"),
        "/loop": redirect("/loop"),
    }
    expected = run_ordinary(theirs, server.url)

    assert run_ordinary(sessionpool, server.url) == expected
    assert len(expected) == 16


def test_what_is_said_of_the_request(server: EchoServer, session: Session) -> None:
    """`Response.request` shows what was sent: header, body, URL."""
    response = session.post(server.url + "/p?a=1", json={"b": 2}, headers={"X-One": "1"})

    assert response.request.method == "POST"
    assert response.request.url == f"{server.url}/p?a=1"
    assert response.request.path_url == "/p?a=1"
    assert response.request.body == b'{"b": 2}'
    assert response.request.headers["x-one"] == "1"
    assert response.request.headers["Content-Type"] == "application/json"
    assert json.loads(response.text)["body"] == '{"b": 2}'


def test_nothing_is_kept_between_calls_of_one_session(server: EchoServer, session: Session) -> None:
    """What one call adds (headers, params, auth, cookies) the next does not send."""
    session.get(server.url, headers={"X-Once": "1"}, params={"a": "1"}, auth=("user", "pass"), cookies={"c": "1"})
    session.get(server.url)
    first, second = server.seen

    assert first.header("x-once") == "1"
    assert attrs.evolve(second, connection=0, nth=0).target == "/"
    assert [second.header(name) for name in ("x-once", "authorization", "cookie")] == [None] * 3
