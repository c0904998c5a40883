"""Requests and responses over real sockets: framing, streams, codings, uploads."""

from __future__ import annotations

import collections
import gc
import gzip
import importlib
import io
import math
import random
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from sessionpool import Limits, Response, SessionPool, Timeout, _connection
from sessionpool._wire import DECODABLE
from sessionpool.exceptions import (
    ChunkedEncodingError,
    ContentDecodingError,
    InvalidResponse,
    MaySent,
    NotSent,
    ReadTimeout,
    RequestException,
    StreamConsumedError,
)
from tests.helpers import eventually
from tests.with_server.raw_server import (
    RawServer,
    Script,
    Step,
    arrived,
    audit,
    chunked,
    close,
    discard,
    expect,
    head,
    playing,
    response,
    send,
    send_bytewise,
    tell,
    wait_for,
)

OK = response(b"hello")
NEXT = response(b"the next")


def ask(pool: SessionPool, server: RawServer, method: str = "GET", **kwargs: Any) -> Response:
    """One request, and its response."""
    return pool.request(method, server.url, **kwargs)


# --- framing ---


@attrs.frozen
class Case:
    """What is sent for one response, and what comes of it.

    Attributes:
        wire: The response.
        body: Its body.
        kept: The connection carries another request.
        ends: The server closes after it.
        method: The request's.
        status: The response's.
    """

    wire: bytes
    body: bytes = b"hello"
    kept: bool = True
    ends: bool = False
    method: str = "GET"
    status: int = 200


HELLO = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
FRAMINGS = {
    "a length": Case(OK),
    "a length of 0": Case(response(b""), b""),
    "a length, lower case": Case(head("content-length:5") + b"hello"),
    "no reason": Case(b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello"),
    "equal lengths": Case(head("Content-Length: 5", "Content-Length: 5") + b"hello"),
    "equal lengths in one field": Case(head("Content-Length: 5, 5") + b"hello"),
    "bare LF": Case(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    "LF and CRLF": Case(b"HTTP/1.1 200 OK\nContent-Length: 5\r\nX: y\n\r\nhello"),
    "LF, and a body of CRLF": Case(b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\n", b"\r\n\r\n"),
    "CRLF, and a body of CRLF": Case(response(b"\r\n\r\n"), b"\r\n\r\n"),
    "a folded field": Case(head("X: a", " b", "Content-Length:", "\t5") + b"hello"),
    "chunks": Case(chunked(b"hello, world"), b"hello, world"),
    "one chunk": Case(head(CHUNKED) + HELLO),
    "no chunk": Case(head(CHUNKED) + b"0\r\n\r\n", b""),
    "chunk extensions": Case(head(CHUNKED) + b'5;a;b="c d"\r\nhello\r\n0;last=yes\r\n\r\n'),
    "padded sizes": Case(head(CHUNKED) + b"0005 \r\nhello\r\n000\r\n\r\n"),
    "trailers": Case(head(CHUNKED) + b"5\r\nhello\r\n0\r\nA: b\r\nContent-Length: 99\r\n\r\n"),
    "chunks with bare LF": Case(head(CHUNKED) + b"5\nhello\n0\nA: b\n\n", kept=False),
    "chunks and a length": Case(head(CHUNKED, "Content-Length: 3") + HELLO, kept=False),
    "a length and chunks": Case(head("Content-Length: 3", CHUNKED) + HELLO, kept=False),
    "Connection: close": Case(response(b"hello", "Connection: close"), kept=False),
    "Connection: close, chunked": Case(chunked(b"hello", "Connection: close"), kept=False),
    "until the end": Case(head() + b"hello", kept=False, ends=True),
    "until the end, nothing": Case(head(), b"", kept=False, ends=True),
    "until the end, keep-alive": Case(head("Connection: keep-alive") + b"hello", kept=False, ends=True),
    "1.0": Case(response(b"hello", version="HTTP/1.0"), kept=False),
    "1.0, keep-alive": Case(response(b"hello", "Connection: keep-alive", version="HTTP/1.0")),
    "1.0, until the end": Case(head(version="HTTP/1.0") + b"hello", kept=False, ends=True),
    "1.0, chunks": Case(head(CHUNKED, "Connection: keep-alive", version="HTTP/1.0") + HELLO, kept=False),
    "HEAD": Case(head("Content-Length: 5"), b"", method="HEAD"),
    "HEAD, chunked": Case(head(CHUNKED), b"", method="HEAD"),
    "HEAD, no length": Case(head(), b"", method="HEAD"),
    "HEAD, encoded": Case(head("Content-Length: 5", "Content-Encoding: gzip"), b"", method="HEAD"),
    "HEAD, zstd": Case(head("Content-Length: 5", "Content-Encoding: zstd"), b"", method="HEAD"),
    "HEAD, two codings": Case(head("Content-Length: 5", "Content-Encoding: gzip, br"), b"", method="HEAD"),
    "204 with a length": Case(head("Content-Length: 5", status="204 No Content"), b"", status=204),
    "204, chunked": Case(head(CHUNKED, status="204 No Content"), b"", status=204),
    "204, encoded": Case(head("Content-Encoding: zstd", status="204 No Content"), b"", status=204),
    "304 with a length": Case(head("Content-Length: 5", status="304 Not Modified"), b"", status=304),
    "304, encoded": Case(head("Content-Encoding: gzip", status="304 Not Modified"), b"", status=304),
    "100 first": Case(head(status="100 Continue") + OK),
    "102 and 103 first": Case(head(status="102 Processing") + head("Link: </a>", status="103 Early Hints") + OK),
    "1xx with a length": Case(head("Content-Length: 5", status="103 Early Hints") + OK),
    "99 times 1xx": Case(head(status="103 Early Hints") * 99 + OK),
    "a status nobody knows": Case(response(b"hello", status="599 Odd"), status=599),
    "an empty body, encoded": Case(response(b"", "Content-Encoding: gzip"), b""),
    "an empty chunked body, encoded": Case(chunked(b"", "Content-Encoding: gzip"), b""),
}


@pytest.mark.parametrize("arrival", ["at once", "byte by byte", "one byte at a time"])
@pytest.mark.parametrize("name", FRAMINGS)
def test_a_response_is_read_to_its_end_and_no_further(name: str, arrival: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Body and status are right, however the bytes arrive, and the next response is the next."""
    case = FRAMINGS[name]
    if arrival == "one byte at a time":
        monkeypatch.setattr(_connection, "RECEIVE", 1)
    first: list[Step] = [
        expect(f"{case.method} / HTTP/1.1"),
        send_bytewise(case.wire) if arrival == "byte by byte" else send(case.wire),
    ]
    second: list[Step] = [expect("GET / "), send(NEXT)]
    scripts: list[Script] = [[*first, *second]] if case.kept else [first + ([close] if case.ends else []), second]
    with playing(*scripts) as (pool, server):
        answer = ask(pool, server, case.method)
        following = ask(pool, server)

        assert (answer.status_code, answer.content) == (case.status, case.body)
        assert following.content == b"the next"
        assert pool.stats().opened == (1 if case.kept else 2)
        assert server.peak == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [1, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "end"])
def test_a_large_body_is_whole(framing: str, size: int, stream: bool) -> None:
    """Every byte comes, in order, however many reads it takes."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    wire = {"length": response(body), "chunked": chunked(body, size=50_000), "end": head() + body}[framing]
    with playing([expect(), send(wire), *([close] if framing == "end" else [])]) as (pool, server):
        answer = ask(pool, server, stream=stream)
        received = b"".join(answer.iter_content(10_000)) if stream else answer.content

        assert received == body


def test_trailers_are_kept_apart_from_the_header() -> None:
    """RFC 9110 §6.5.1: a trailer is never merged into the header; it is there once the body has ended."""
    wire = head(CHUNKED, "X: header") + b"5\r\nhello\r\n0\r\nX: trailer\r\nDigest: abc \r\n\r\n"
    with playing([expect(), send(wire)]) as (pool, server):
        answer = ask(pool, server)

        assert answer.headers["X"] == "header"
        assert "Digest" not in answer.headers
        assert answer._reply is not None
        assert answer._reply.trailers == [("X", "trailer"), ("Digest", "abc")]


def test_the_header_is_the_servers() -> None:
    """Fields of the same name are joined, names ignore case, bytes beyond ASCII are Latin-1."""
    wire = response(b"", "X-A: 1", "x-a: 2", "Y: \xe4", status="418 I'm a teapot")
    with playing([expect(), send(wire)]) as (pool, server):
        answer = ask(pool, server)

        assert (answer.headers["X-A"], answer.headers["y"]) == ("1, 2", "\xe4")
        assert (answer.status_code, answer.reason, answer.ok) == (418, "I'm a teapot", False)


def test_an_address_of_ipv6_is_asked_like_any_other() -> None:
    """Brackets stand in `Host` and nowhere else."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    with playing([expect("GET / "), send(OK)], host="::1") as (pool, server):
        answer = ask(pool, server)

        assert answer.content == b"hello"
        assert server.requests[0].all("Host") == [f"[::1]:{server.port}"]
        assert list(pool.stats().hosts) == [server.origin]


# --- what is refused ---


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"220 mail.example.com ESMTP\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"\0",
        b"\r\n\r\n",
        b"\n",
        b"<html><body>older than HTTP/1.0</body></html>",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"H" * 100,
        head("Content-Length: 5", "Content-Length: 6") + b"hello!",
        head("Content-Length: 5, 6") + b"hello!",
        head("Content-Length: -1") + b"hello",
        head("Content-Length: 5x") + b"hello",
        head("Content-Length:") + b"hello",
        head("Transfer-Encoding: gzip, chunked") + HELLO,
        head("Transfer-Encoding: chunked, chunked") + HELLO,
        head("X: a\rContent-Length: 0") + b"hello",
        head("X: a\0", "Content-Length: 5") + b"hello",
        head("Content-Length: 5", status="200 OK\rX: y") + b"hello",
        head(status="101 Switching Protocols") + b"\x81\x05hello",
        head("Upgrade: h2c", "Connection: Upgrade", status="101 Switching Protocols") + OK,
        head(status="103 Early Hints") * 101 + OK,
        head(status="100 Continue") + b"SSH-2.0-OpenSSH_9.2p1\r\n",
    ],
)
@pytest.mark.parametrize("then", [discard, close])
def test_what_is_no_response_is_an_error_with_the_host(wire: bytes, then: Step) -> None:
    """It is not waited for more, not asked again, and the connection is closed."""
    with playing([expect(), send(wire), then]) as (pool, server):
        with pytest.raises(InvalidResponse) as caught:
            ask(pool, server, timeout=10)

        assert server.origin in str(caught.value)
        assert len(str(caught.value)) < 300
        assert isinstance(caught.value, MaySent)
        assert caught.value.request is not None
        assert caught.value.request.url == server.url
        assert len(server.requests) == 1
        assert pool.stats().idle == 0


@pytest.mark.parametrize("pieces", [1, 2, 40])
@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"]
)
def test_a_head_without_end_is_given_up(start: bytes, pieces: int) -> None:
    """What is more than any server means is refused after 256 KiB, without an end or before it."""
    endless = start + b"x" * 400_000
    wire = [endless[at : at + len(endless) // pieces + 1] for at in range(0, len(endless), len(endless) // pieces + 1)]
    with playing([expect(), send(*wire), discard]) as (pool, server):
        with pytest.raises(InvalidResponse, match="262144"):
            ask(pool, server)

        assert pool.stats().idle == 0


@pytest.mark.parametrize("pieces", [1, 5])
def test_a_head_that_ends_beyond_the_limit_is_refused_however_it_arrives(pieces: int) -> None:
    """The limit is on the head, not on how the kernel happened to cut it."""
    wire = head("X: " + "y" * 262_200, "Content-Length: 0")
    size = len(wire) // pieces + 1
    with playing([expect(), send(*(wire[at : at + size] for at in range(0, len(wire), size)))]) as (pool, server):
        with pytest.raises(InvalidResponse, match="262144"):
            ask(pool, server)

        assert pool.stats().idle == 0


def test_a_head_below_the_limit_passes() -> None:
    """A hundred kilobytes of cookies are odd, and no error."""
    wire = response(b"hello", *(f"X-{number}: {'y' * 1000}" for number in range(200)))
    with playing([expect(), send(wire)]) as (pool, server):
        answer = ask(pool, server)

        assert answer.content == b"hello"
        assert answer.headers["X-199"] == "y" * 1000


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"7\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\r\n" + b"f" * 16 + b"\r\n",
        b"5\r\nhello\r\n" + head("Content-Length: 0"),
        b"5;" + b"x" * 40_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 80_000 + b"\r\n",
        b"5\r\nhello\r\n0\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
def test_chunks_that_are_not_framed_as_they_must_be_are_an_error(body: bytes, stream: bool, pieces: int) -> None:
    """What two parsers could read in two ways, or without end, is refused; the connection is closed."""
    wire = head(CHUNKED) + body
    size = len(wire) // pieces + 1
    steps = send(*(wire[at : at + size] for at in range(0, len(wire), size)))
    with playing([expect(), steps, discard], timeout=Timeout(read=5)) as (pool, server):
        with pytest.raises(ChunkedEncodingError) as caught:
            list(ask(pool, server, stream=stream).iter_content(None))

        assert server.origin in str(caught.value)
        assert len(str(caught.value)) < 300
        assert isinstance(caught.value, MaySent)
        assert pool.stats().idle == 0


# --- bytes that are nobody's answer ---

RUBBISH = response(b"the wrong one")
BEFORE_RUBBISH = {
    "a length": ("GET", OK),
    "chunks": ("GET", head(CHUNKED) + HELLO),
    "HEAD": ("HEAD", head("Content-Length: 0")),
    "204": ("GET", head(status="204 No Content")),
    "304": ("GET", head(status="304 Not Modified")),
    "a length of 0": ("GET", response(b"")),
}


@pytest.mark.parametrize("extra", [RUBBISH, b"\r\n", b"x", b"hello"], ids=["response", "CRLF", "byte", "body"])
@pytest.mark.parametrize("when", ["in the same segment", "in a later segment"])
@pytest.mark.parametrize("name", BEFORE_RUBBISH)
def test_what_follows_a_response_never_becomes_the_next(name: str, when: str, extra: bytes) -> None:
    """RFC 9112 §9.2: the connection is closed, and the next request goes over another, also one that is not resent."""
    method, wire = BEFORE_RUBBISH[name]
    sent, go = threading.Event(), threading.Event()
    if when == "in the same segment":
        steps: list[Step] = [send(wire + extra), tell(sent)]
    else:
        steps = [send(wire), wait_for(go), send(extra), arrived, tell(sent)]
    with playing([expect(f"{method} "), *steps], [expect("POST / "), send(NEXT)]) as (pool, server):
        answer = ask(pool, server, method)
        go.set()
        assert sent.wait(10)
        following = ask(pool, server, "POST")

        assert answer.content == (b"hello" if name in ("a length", "chunks") else b"")
        assert following.content == b"the next"
        assert pool.stats().idle == 1


def test_a_body_where_none_may_be_is_not_the_next_response() -> None:
    """A server that answers HEAD with a body has spoilt the connection, and nothing else."""
    with playing([expect("HEAD "), send(OK)], [expect("GET "), send(NEXT)]) as (pool, server):
        answer = ask(pool, server, "HEAD")
        following = ask(pool, server)

        assert (answer.content, answer.headers["Content-Length"]) == (b"", "5")
        assert following.content == b"the next"


# --- codings ---


def deflate(data: bytes, bits: int) -> bytes:
    """zlib's format, or with negative bits none."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    return packer.compress(data) + packer.flush()


def brotli(data: bytes) -> bytes:
    """Skips where it is not installed."""
    if "br" not in DECODABLE:
        pytest.skip("brotli is not installed: pip install sessionpool[brotli]")
    return bytes(importlib.import_module("brotli").compress(data))


def zstd(data: bytes) -> bytes:
    """Skips where it is not installed."""
    if "zstd" not in DECODABLE:
        pytest.skip("zstandard is not installed: pip install sessionpool[zstd]")
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return bytes(importlib.import_module(name).compress(data))


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "GZip": ("GZip", gzip.compress),
    "gzip of two members": ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "deflate": ("deflate", lambda data: deflate(data, 15)),
    "raw deflate": ("deflate", lambda data: deflate(data, -15)),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
    "deflate, gzip": ("deflate, gzip", lambda data: gzip.compress(deflate(data, 15))),
    "gzip, br": ("gzip, br", lambda data: brotli(gzip.compress(data))),
    "two fields": ("gzip\r\nContent-Encoding: gzip", lambda data: gzip.compress(gzip.compress(data))),
    "identity": ("identity", lambda data: data),
    "one nobody knows": ("rot13", lambda data: data),
}
PROSE = b"".join(b"%d: the quick brown fox jumps over the lazy dog\n" % number for number in range(3000))


@pytest.mark.parametrize("framing", ["length", "chunks", "tiny chunks", "end"])
@pytest.mark.parametrize("name", CODINGS)
def test_an_encoded_body_is_decoded(name: str, framing: str) -> None:
    """All that can be decoded is, whole or as a stream in pieces of any size."""
    coding, encode = CODINGS[name]
    body, field = encode(PROSE), f"Content-Encoding: {coding}"
    wire = {
        "length": response(body, field),
        "chunks": chunked(body, field, size=1000),
        "tiny chunks": chunked(body, field, size=1 if len(body) < 5000 else 7),
        "end": head(field) + body,
    }[framing]
    steps: list[Step] = [expect(), send(wire), *([close] if framing == "end" else [])]
    scripts = [steps] * 5 if framing == "end" else [steps * 5]
    with playing(*scripts) as (pool, server):
        assert ask(pool, server).content == PROSE
        for size in (1000, 10**6, None):
            assert b"".join(ask(pool, server, stream=True).iter_content(size)) == PROSE
        pieces = ask(pool, server, stream=True).iter_content(1)
        assert b"".join(next(pieces) for _ in range(100)) == PROSE[:100]
        del pieces


def test_the_server_is_told_what_can_be_decoded() -> None:
    """Accept-Encoding names what is installed, and nothing else."""
    with playing([expect(), send(OK)]) as (pool, server):
        ask(pool, server)

        assert server.requests[0].all("Accept-Encoding") == [DECODABLE]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, deflate"])
def test_a_body_that_is_not_what_it_says_is_an_error(coding: str, stream: bool) -> None:
    """It names the host, and the connection is not left behind."""
    if coding in ("br", "zstd") and coding not in DECODABLE:
        pytest.skip(f"{coding} cannot be decoded here")
    wire = response(b"this is no compressed data at all", f"Content-Encoding: {coding}")
    with playing([expect(), send(wire)]) as (pool, server):
        with pytest.raises(ContentDecodingError) as caught:
            list(ask(pool, server, stream=stream).iter_content(10))

        assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["gzip", "deflate", "raw deflate", "br", "zstd"])
def test_a_coding_that_stops_in_the_middle_is_an_error(name: str, stream: bool) -> None:
    """The framing may be whole and the body not: what was cut before it was framed is never passed off as all."""
    coding, encode = CODINGS[name]
    body = encode(PROSE)
    cuts = [1, len(body) // 2, len(body) - 1]
    steps: list[Step] = []
    for cut in cuts:
        steps += [expect(), send(response(body[:cut], f"Content-Encoding: {coding}"))]
    with playing(steps) as (pool, server):
        for _ in cuts:
            with pytest.raises(ContentDecodingError):
                list(ask(pool, server, stream=stream).iter_content(None))


# --- streams ---

BODY = b"".join(b"line %d\n" % number for number in range(1000))
STREAMS = {
    "length": [send(response(BODY))],
    "chunks": [send(chunked(BODY, size=700))],
    "end": [send(head() + BODY), close],
    "gzip": [send(response(gzip.compress(BODY), "Content-Encoding: gzip"))],
    "gzip chunks": [send(chunked(gzip.compress(BODY), "Content-Encoding: gzip", size=100))],
}


@pytest.mark.parametrize("size", [1, 7, 4096, 10**6, None])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_the_body_in_pieces(name: str, size: int | None) -> None:
    """No piece is larger than asked for, none is empty, and the connection goes back at the end."""
    with playing([expect(), *STREAMS[name]]) as (pool, server):
        answer = ask(pool, server, stream=True)
        pieces = list(answer.iter_content(size))

        assert b"".join(pieces) == BODY
        assert all(0 < len(piece) <= (size or len(BODY)) for piece in pieces)
        assert pool.stats().leased == 0
        assert pool.stats().idle == (name != "end")


def test_a_stream_is_read_when_it_is_asked_for() -> None:
    """The header is there before the body is sent, and each chunk before the next."""
    go = [threading.Event(), threading.Event()]
    steps = [
        send(head(CHUNKED)),
        wait_for(go[0]),
        send(b"3\r\none\r\n"),
        wait_for(go[1]),
        send(b"3\r\ntwo\r\n0\r\n\r\n"),
    ]
    with playing([expect(), *steps]) as (pool, server):
        answer = ask(pool, server, stream=True)
        assert pool.stats().leased == 1
        go[0].set()
        pieces = answer.iter_content(1000)
        first = next(pieces)
        go[1].set()

        assert (first, list(pieces)) == (b"one", [b"two"])


@pytest.mark.parametrize("size", [1, 2, 3, 512, None])
@pytest.mark.parametrize("name", ["length", "chunks"])
def test_lines_are_lines_however_the_body_is_cut(name: str, size: int | None) -> None:
    """Each line comes once and whole, the last one too if it has no end."""
    body = b"one\ntwo\n\nthree\nfour"
    wire = response(body) if name == "length" else chunked(body, size=5)
    with playing([expect(), send(wire)]) as (pool, server):
        lines = list(ask(pool, server, stream=True).iter_lines(size or 512))

        assert lines == [b"one", b"two", b"", b"three", b"four"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 512])
def test_a_line_end_of_two_bytes_is_one_line_end(size: int) -> None:
    """CRLF may be cut in the middle, and there is no empty line for it."""
    with playing([expect(), send(response(b"one\r\ntwo\r\n\r\nthree"))]) as (pool, server):
        lines = list(ask(pool, server, stream=True).iter_lines(size))

        assert lines == [b"one", b"two", b"", b"three"]


def test_lines_may_be_text_and_end_otherwise() -> None:
    """With a delimiter of its own, and decoded across the pieces' borders."""
    steps = [expect(), send(response("ä|ö|ü".encode(), "Content-Type: text/plain; charset=utf-8"))]
    with playing(steps * 2) as (pool, server):
        text = list(ask(pool, server, stream=True).iter_lines(1, decode_unicode=True, delimiter="|"))
        data = list(ask(pool, server, stream=True).iter_lines(3, delimiter=b"|"))

        assert text == ["ä", "ö", "ü"]
        assert data == ["ä".encode(), "ö".encode(), "ü".encode()]


READS: dict[str, Callable[[Any], bytes]] = {
    "read()": lambda raw: raw.read(),
    "read(n)": lambda raw: b"".join(iter(lambda: raw.read(100), b"")),
    "read1(n)": lambda raw: b"".join(iter(lambda: raw.read1(100), b"")),
    "read1()": lambda raw: b"".join(iter(raw.read1, b"")),
    "stream()": lambda raw: b"".join(raw.stream(100)),
    "a little, then all": lambda raw: raw.read(3) + raw.read(),
    "nothing, then all": lambda raw: raw.read(0) + raw.read(),
    "nothing by read1, then all": lambda raw: raw.read1(0) + raw.read(),
    "a buffer": lambda raw: io.BufferedReader(raw).read(),
    "lines of a buffer": lambda raw: b"".join(lines_of(raw)),
    "readinto": lambda raw: read_into(raw, bytearray(99)),
    "beyond the end": lambda raw: raw.read(10**6) + raw.read(10) + raw.read() + raw.read1(10),
}


def lines_of(raw: Any) -> Iterator[bytes]:
    """Its lines, as urllib3 tells how: without closing itself at the end, under the buffer's hands."""
    raw.auto_close = False
    return io.BufferedReader(raw, 64)


def read_into(raw: Any, buffer: bytearray) -> bytes:
    """All of it, by way of a buffer."""
    taken = b""
    while size := raw.readinto(buffer):
        taken += buffer[:size]
    return taken


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("name", ["length", "chunks", "end"])
def test_the_raw_body_is_a_file(name: str, way: str) -> None:
    """`Response.raw` reads in all the ways of urllib3's response, and at its end the connection goes back."""
    with playing([expect(), *STREAMS[name]]) as (pool, server):
        answer = ask(pool, server, stream=True)
        body = READS[way](answer.raw)

        assert body == BODY
        assert pool.stats().leased == 0


@pytest.mark.parametrize("name", ["gzip", "gzip chunks"])
def test_the_raw_body_is_not_decoded_unless_asked(name: str) -> None:
    """As in requests: `raw.read` gives what came, `raw.read(decode_content=True)` what it means."""
    with playing([expect(), *STREAMS[name], expect(), *STREAMS[name]]) as (pool, server):
        encoded = ask(pool, server, stream=True).raw.read(decode_content=False)
        decoded = ask(pool, server, stream=True).raw.read(decode_content=True)

        assert encoded == gzip.compress(BODY) or gzip.decompress(encoded) == BODY
        assert decoded == BODY


def test_content_after_a_part_of_the_raw_body_is_the_rest() -> None:
    """As in requests."""
    with playing([expect(), send(OK)]) as (pool, server):
        answer = ask(pool, server, stream=True)
        assert answer.raw.read(2) == b"he"

        assert answer.content == b"llo"


def test_a_streamed_body_can_be_had_once() -> None:
    """Twice would be an empty body that looks like an answer."""
    with playing([expect(), send(OK)]) as (pool, server):
        answer = ask(pool, server, stream=True)
        assert list(answer.iter_content(None)) == [b"hello"]

        with pytest.raises(StreamConsumedError):
            answer.content  # noqa: B018 - reads it
        with pytest.raises(StreamConsumedError):
            answer.iter_content()


def test_a_kept_body_can_be_had_again() -> None:
    """`content` stays, and can be iterated as often as one likes."""
    with playing([expect(), send(OK)]) as (pool, server):
        answer = ask(pool, server, stream=True)

        assert answer.content == answer.content == b"".join(answer.iter_content(2)) == b"hello"
        assert list(answer.iter_content(2)) == [b"he", b"ll", b"o"]


NOISE = random.Random(1).randbytes(100_000)
UNFINISHED = {
    "length": response(NOISE)[:20_000],
    "chunks": chunked(NOISE, size=700)[:20_000],
    "end": head() + NOISE[:20_000],
    "gzip": response(gzip.compress(NOISE), "Content-Encoding: gzip")[:20_000],
}


@pytest.mark.parametrize("read", [0, 1, 5000])
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_stream_closed_early_gives_its_permit_back(name: str, read: int) -> None:
    """The connection is closed, since what is unread would be the next answer; the next request gets its own."""
    first: Script = [expect(), send(UNFINISHED[name]), discard]
    with playing(first, [expect(), send(NEXT)], limits=Limits(per_host=1)) as (pool, server):
        answer = ask(pool, server, stream=True)
        if read:
            next(answer.iter_content(read))
        answer.close()
        answer.close()
        stats = pool.stats()
        following = ask(pool, server)

        assert (stats.leased, stats.idle, stats.sessions) == (0, 0, 0)
        assert following.content == b"the next"
        assert server.peak == 1


@pytest.mark.parametrize("way", ["with", "lease", "response", "generator", "cycle"])
def test_a_stream_that_is_let_go_gives_its_permit_back(way: str) -> None:
    """Whether the block, the lease or the last reference ends: the next request need not wait."""

    def let_go(pool: SessionPool, url: str) -> None:
        if way == "lease":
            with pool.lease() as session:
                kept = session.get(url, stream=True)
                assert next(kept.iter_content(2))
            return
        answer = pool.get(url, stream=True)
        if way == "with":
            with answer:
                assert next(answer.iter_content(2))
        elif way == "generator":
            pieces = answer.iter_content(2)
            del answer
            assert next(pieces)
        elif way == "cycle":
            answer.itself = answer  # type: ignore[attr-defined]  # as a user's code may

    steps: Script = [expect(), send(head("Content-Length: 1000") + b"some of it"), discard]
    with playing(steps, [expect(), send(NEXT)], limits=Limits(per_host=1), timeout=Timeout(pool=5)) as (pool, server):
        let_go(pool, server.url)
        gc.collect()
        following = ask(pool, server)

        assert following.content == b"the next"
        eventually(lambda: server.open == 1)
        assert server.peak == 1


@pytest.mark.parametrize("how", ["close", "lease"])
def test_a_body_that_was_closed_unread_is_no_empty_body(how: str) -> None:
    """What can no longer be read is an error, not an answer of nothing."""
    with playing([expect(), send(OK), discard]) as (pool, server):
        if how == "close":
            answer = ask(pool, server, stream=True)
            answer.close()
        else:
            with pool.lease() as session:
                answer = session.get(server.url, stream=True)

        for read in (lambda: answer.content, lambda: list(answer.iter_content(10)), lambda: answer.text):
            with pytest.raises(RequestException):
                read()


def test_the_unread_body_of_a_redirect_does_not_hold_the_connection() -> None:
    """Permits for one: the redirect's is free before the next request asks."""
    moved = response(b"moved", "Location: /there", status="302 Found")
    steps = [expect("GET / "), send(moved), expect("GET /there "), send(OK)]
    with playing(steps, limits=Limits(per_host=1), timeout=Timeout(pool=5)) as (pool, server):
        answer = ask(pool, server, stream=True)

        assert (answer.content, len(answer.history)) == (b"hello", 1)
        assert pool.stats().opened == 1


def test_many_tiny_chunks_take_no_longer_than_as_many_steps() -> None:
    """A hundred thousand chunks of a byte are read in seconds: no step copies what is left."""
    count = 100_000
    wire = head(CHUNKED) + b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    with playing([expect(), send(wire)]) as (pool, server):
        started = time.thread_time()
        answer = ask(pool, server)
        spent = time.thread_time() - started

        assert len(answer.content) == count
        assert spent < 5


# --- uploads ---


def pieces_of(*pieces: bytes) -> Iterator[bytes]:
    """A generator, which has no length and no way back."""
    yield from pieces


def test_an_iterable_goes_chunked_byte_for_byte() -> None:
    """RFC 9112 §7.1: each piece is a chunk, an empty one is not sent, since it would end the body."""
    large = b"x" * 300_000
    with playing([expect("POST / "), send(OK)]) as (pool, server):
        answer = ask(pool, server, "POST", data=pieces_of(b"ab", b"", b"c", large))
        (request,) = server.requests

        assert answer.content == b"hello"
        assert request.wire == b"2\r\nab\r\n1\r\nc\r\n493e0\r\n" + large + b"\r\n0\r\n\r\n"
        assert (request.all("Transfer-Encoding"), request.all("Content-Length")) == (["chunked"], [])


def test_an_iterable_of_nothing_is_an_empty_chunked_body() -> None:
    """The server is not left waiting."""
    with playing([expect("POST / "), send(OK)]) as (pool, server):
        ask(pool, server, "POST", data=pieces_of())

        assert server.requests[0].wire == b"0\r\n\r\n"


@pytest.mark.parametrize("size", [0, 5, 70_000, 1_000_000])
@pytest.mark.parametrize("kind", ["bytes", "BytesIO", "file", "unseekable"])
def test_a_body_arrives_whole(kind: str, size: int, tmp_path: Path) -> None:
    """With its length where it has one, in chunks where nobody can tell."""
    body = bytes(range(256)) * (size // 256) + b"y" * (size % 256)
    path = tmp_path / "body"
    path.write_bytes(body)
    with playing([expect("PUT / ", body=body), send(OK)]) as (pool, server), path.open("rb") as file:
        data: Any = {"bytes": body, "BytesIO": io.BytesIO(body), "file": file, "unseekable": Unseekable(body)}[kind]
        answer = ask(pool, server, "PUT", data=data)
        (request,) = server.requests

        assert answer.content == b"hello"
        assert request.all("Content-Length") == ([] if kind == "unseekable" else [str(size)])


class Unseekable:
    """A file-like of which only `read` can be had, such as a pipe."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def test_a_file_is_sent_from_where_it_stands() -> None:
    """As in requests: what was read before is not sent, and not counted."""
    file = io.BytesIO(b"skipped and sent")
    file.seek(12)
    with playing([expect("POST / ", body=b"sent"), send(OK)]) as (pool, server):
        ask(pool, server, "POST", data=file)

        assert server.requests[0].all("Content-Length") == ["4"]


def test_a_text_file_is_sent_as_utf_8(tmp_path: Path) -> None:
    """Its length is that of the bytes."""
    path = tmp_path / "text"
    path.write_text("Zürich", "utf-8")
    with playing([expect("POST / ", body="Zürich".encode()), send(OK)]) as (pool, server), path.open() as file:
        answer = ask(pool, server, "POST", data=file)

        assert answer.content == b"hello"


class Liar:
    """A body that says how long it is, and is not."""

    def __init__(self, length: int, *pieces: bytes) -> None:
        self._length = length
        self._pieces = pieces

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


@pytest.mark.parametrize(
    "body",
    [Liar(10, b"short"), Liar(10), Liar(3, b"longer"), Liar(3, b"abc", b"d"), collections.deque([b"long", b"er"])],
    ids=["shorter", "empty", "longer", "longer by a piece", "a length in pieces"],
)
def test_a_body_that_is_not_as_long_as_it_said_is_an_error(body: Any) -> None:
    """What the server would take for the next request, or wait for, is not sent; the connection is closed."""
    with playing([expect("POST / ", head_only=True), discard]) as (pool, server):
        with pytest.raises(RequestException) as caught:
            ask(pool, server, "POST", data=body)

        assert server.origin in str(caught.value)
        assert str(len(body)) in str(caught.value)
        assert not isinstance(caught.value, NotSent)
        eventually(lambda: server.open == 0)


@pytest.mark.parametrize("length", ["3", "5", "10"])
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_content_length_set_by_hand_is_put_right(kind: str, length: str) -> None:
    """As in requests: what is known of the body counts; a wrong length would make the rest the next request."""
    data: Any = {"bytes": b"hello", "file": io.BytesIO(b"hello")}[kind]
    with playing([expect("POST / ", body=b"hello"), send(OK)], timeout=Timeout(read=2)) as (pool, server):
        answer = ask(pool, server, "POST", data=data, headers={"Content-Length": length})

        assert answer.content == b"hello"
        assert server.requests[0].all("Content-Length") == ["5"]


def test_an_iterable_with_a_content_length_goes_without_chunks() -> None:
    """The caller knows how long it is; RFC 9112 §6.2 forbids to send both."""
    with playing([expect("POST / ", body=b"hello"), send(OK)], timeout=Timeout(read=2)) as (pool, server):
        answer = ask(pool, server, "POST", data=pieces_of(b"he", b"llo"), headers={"Content-Length": "5"})

        assert answer.content == b"hello"
        assert server.requests[0].wire == b"hello"


@pytest.mark.parametrize("length", ["3", "10"])
def test_an_iterable_with_a_wrong_content_length_is_an_error(length: str) -> None:
    """At once, and not when the server is tired of waiting."""
    with playing([expect("POST / ", head_only=True), discard], timeout=Timeout(read=2)) as (pool, server):
        with pytest.raises(RequestException, match=rf"\b{length}\b") as caught:
            ask(pool, server, "POST", data=pieces_of(b"he", b"llo"), headers={"Content-Length": length})

        assert not isinstance(caught.value, ReadTimeout)


def test_a_transfer_encoding_set_by_hand_cannot_break_the_framing() -> None:
    """RFC 9112 §6.2: never both a length and chunks."""
    with playing([expect("POST / ", body=b"hello"), send(OK)]) as (pool, server):
        answer = ask(pool, server, "POST", data=b"hello", headers={"Transfer-Encoding": "chunked"}, timeout=2)

        assert answer.content == b"hello"


@pytest.mark.parametrize("error", [ValueError("bad row"), OSError("disk gone"), TimeoutError("database slow")])
def test_an_error_of_the_body_itself_is_the_callers(error: Exception) -> None:
    """It comes through as it is, at once, whatever its class; the half request is not answered but cut off."""

    def body() -> Iterator[bytes]:
        yield b"some"
        raise error

    with playing([expect("POST / ", head_only=True), discard], timeout=Timeout(read=2)) as (pool, server):
        with pytest.raises(type(error)) as caught:
            ask(pool, server, "POST", data=body())

        assert caught.value is error
        eventually(lambda: server.open == 0)


def test_an_early_answer_leaves_the_connection_to_nobody() -> None:
    """A response that came before the whole request was sent is delivered, and its connection closed."""
    fields = ["Connection: close"]
    refusal = response(b"too large", *fields, status="413 Content Too Large")
    with playing([expect("POST / ", head_only=True), send(refusal), discard], timeout=Timeout(read=5)) as (
        pool,
        server,
    ):
        answer = ask(pool, server, "POST", data=b"x" * 100_000)

        assert (answer.status_code, answer.content) == (413, b"too large")
        eventually(lambda: server.open == 0)


# --- what may be said of time ---


@pytest.mark.parametrize("timeout", [math.inf, (None, None), 1e10, Timeout(connect=None, read=None, pool=None)])
def test_no_limit_is_no_limit(timeout: Any) -> None:
    """However it is said."""
    with playing([expect(), send(OK)]) as (pool, server):
        answer = ask(pool, server, timeout=timeout)

        assert answer.content == b"hello"


def test_a_spooled_file_may_be_sent_again_after_a_redirect() -> None:
    """307 asks for the body again, and a file can be wound back to where it stood."""
    moved = response(b"", "Location: /there", status="307 Temporary Redirect")
    steps = [expect("POST / ", body=b"body"), send(moved), expect("POST /there ", body=b"body"), send(OK)]
    with playing(steps) as (pool, server), tempfile.SpooledTemporaryFile() as file:
        file.write(b"the body")
        file.seek(4)
        answer = ask(pool, server, "POST", data=file)

        assert answer.content == b"hello"


def test_two_streams_of_one_session_do_not_mix() -> None:
    """Each has its connection; what is read of one says nothing of the other."""
    first, second = response(b"a" * 1000), response(b"b" * 1000)
    with playing([expect(), send(first)], [expect(), send(second)]) as (pool, server):
        with pool.lease() as session:
            one = session.get(server.url, stream=True).iter_content(100)
            two = session.get(server.url, stream=True).iter_content(100)
            mixed = [next(one) + next(two) for _ in range(10)]

            assert mixed == [b"a" * 100 + b"b" * 100] * 10
        audit(pool, server)
