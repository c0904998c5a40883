"""Servers that mean harm: what is refused, what is bounded, and that nothing of it reaches the next request.

What merely breaks is in `test_faults.py`, and which framings are read, and which refused, in `test_exchange.py` and
`test_wire.py`.
"""

from __future__ import annotations

import contextlib
import gzip
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sessionpool import Limits, Response, SessionPool, Timeout, _wire
from sessionpool._wire import DECODABLE, MAX_FIELDS, MAX_HEAD
from sessionpool.exceptions import (
    BodyTooLarge,
    ChunkedEncodingError,
    ContentDecodingError,
    InvalidResponse,
    MaySent,
    ReadTimeout,
    RequestException,
)
from tests.helpers import eventually
from tests.scenarios.scripted import Asked, Wire
from tests.with_server.raw_server import (
    Script,
    Step,
    chunked,
    close,
    discard,
    expect,
    flood,
    head,
    playing,
    repeatedly,
    response,
    send,
    trickle,
    wait_for,
)

NEXT = response(b"the next")
CHUNKED = "Transfer-Encoding: chunked"
MIB = 1024 * 1024


def refused(wire: bytes, *, then: Step = discard, **settings: Any) -> RequestException:
    """The error that comes of this response; the permit is free, the connection closed, the next request served."""
    limits = settings.pop("limits", Limits(per_host=1))
    scripts: list[Script] = [[expect(), send(wire), then], [expect(), send(NEXT)]]
    with playing(*scripts, limits=attrs.evolve(limits, per_host=1), timeout=Timeout(read=5, pool=0)) as (pool, server):
        with pytest.raises(RequestException) as caught:
            pool.get(server.url, **settings)
        following = pool.get(server.url)

        assert following.content == b"the next"
        assert pool.stats().opened == 2
        assert str(server.port) in str(caught.value)
        assert len(str(caught.value)) < 300
        assert caught.value.request is not None
    return caught.value


# --- heads ---


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_head_may_be_as_large_as_its_bound_and_not_a_byte_larger(beyond: int, pieces: int) -> None:
    """256 KiB, status line and empty line included, however it arrives."""
    rest = len(head("Content-Length: 5", "X: "))
    wire = head("Content-Length: 5", "X: " + "y" * (MAX_HEAD - rest + beyond)) + b"hello"
    assert wire.index(b"\r\n\r\n") + 4 == MAX_HEAD + beyond
    size = len(wire) // pieces + 1
    steps = send(*(wire[at : at + size] for at in range(0, len(wire), size)))
    with playing([expect(), steps, discard]) as (pool, server):
        if beyond:
            with pytest.raises(InvalidResponse, match=str(MAX_HEAD)):
                pool.get(server.url)
        else:
            assert pool.get(server.url).content == b"hello"

        assert pool.stats().idle == 1 - beyond


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_head_may_have_a_thousand_fields_and_not_one_more(end: str) -> None:
    """What is more is refused, and was counted without being taken apart."""
    fields = ["Content-Length: 5", *(f"X{number}:" for number in range(MAX_FIELDS - 1))]

    def wire(*more: str) -> bytes:
        return end.join(["HTTP/1.1 200 OK", *fields, *more, "", ""]).encode() + b"hello"

    with playing([expect(), send(wire())]) as (pool, server):
        assert len(pool.get(server.url).headers) == MAX_FIELDS
    error = refused(wire("Y: z"))

    assert isinstance(error, InvalidResponse)
    assert "more than 1000 fields" in str(error)


@pytest.mark.parametrize("line", ["a:", "Set-Cookie: a=b", "Content-Length: 5", "Connection: x", " folded", "\tb"])
def test_a_head_full_of_fields_takes_no_time(line: str) -> None:
    """As many as fit into 256 KiB are read in one go; fields are refused, and folds are all one field."""
    lines = f"{line}\r\n" * ((MAX_HEAD - 100) // (len(line) + 2))
    wire = b"HTTP/1.1 200 OK\r\nX: y\r\n" + lines.encode() + b"\r\n"
    started = time.thread_time()
    with contextlib.nullcontext() if line[0] in " \t" else pytest.raises(InvalidResponse):
        _wire.parse_head(wire, "GET", "http://127.0.0.1:1")
    spent = time.thread_time() - started

    assert spent < 1


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        # Each of these has a reading in which the length is another.
        (b"HTTP/1.1 200 OK\r\n Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello", "begins with a blank"),
        (b"HTTP/1.1 200 OK\r\n\t\r\nContent-Length: 3\r\n\r\nhello", "begins with a blank"),
        (head("Content-Length: 5\r\n\t5") + b"hello", "not one number"),
        (head("Transfer-Encoding: chunked\r\n , gzip") + b"0\r\n\r\n", "'chunked, gzip'"),
        (head("Transfer-Encoding : gzip") + b"hello", "'gzip'"),
        (head("Content-Length\t: 5", "Content-Length: 6") + b"hello!", "'5, 6'"),
        (head("Content-Length: 5", status="200 O\0K") + b"hello", "not HTTP/1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not HTTP/1"),
        (b"\0\0\x12\x04\0\0\0\0\0", "not HTTP/1"),
    ],
)
def test_a_head_that_two_could_read_in_two_ways_is_refused(wire: bytes, reason: str) -> None:
    """RFC 9112 §2.2, §5, §6.3: the error says what is wrong, and nothing is read further."""
    error = refused(wire)

    assert isinstance(error, InvalidResponse)
    assert reason in str(error)


# --- chunks ---


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"5\r\nhello\r\n0\r\nX: a\rY: b\r\n\r\n", "bare CR"),
        (b"5\r\nhello\r\n0\r\nX: a\0\r\n\r\n", "NUL"),
        (b"5\r\nhello\r\n0\r\n" + b"a:\n" * (MAX_FIELDS + 1) + b"\r\n", "1000 fields"),
        (b"5\r\nhello\r\n0\r\n" + b"a: " + b"b" * 20_000 + b"\r\n\r\n", "16384"),
        ((b"1;" + b"x" * 10_000 + b"\r\nh\r\n") * 30 + b"0\r\n\r\n", "before its chunks"),
        (b"5\nhello\r\n5\r\nhellohello\r\n", "longer than its size"),
        (b"5\r\nhello\n\n0\r\n\r\n", "size was due"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chunks_that_mean_harm_are_refused(body: bytes, reason: str, stream: bool) -> None:
    """The error says what is wrong, and the connection carries nothing more."""
    scripts: list[Script] = [[expect(), send(head(CHUNKED) + body), discard], [expect(), send(NEXT)]]
    with playing(*scripts, limits=Limits(per_host=1)) as (pool, server):
        with pytest.raises(ChunkedEncodingError, match=reason) as caught:
            list(pool.get(server.url, stream=stream).iter_content(None))

        assert server.origin in str(caught.value)
        assert pool.get(server.url).content == b"the next"
        assert pool.stats().opened == 2


@pytest.mark.parametrize(
    "steps",
    [
        [send(head(CHUNKED) + b"5;"), flood(b"x" * 1000)],
        [send(head(CHUNKED)), flood(b"1;" + b"x" * 5000 + b"\r\nh\r\n")],
        [send(head(CHUNKED) + b"0\r\n"), flood(b"X: y\r\n")],
        [send(head(CHUNKED) + b"0\r\nX: "), flood(b"y" * 1000)],
    ],
    ids=["an extension", "extensions", "trailers", "a trailer"],
)
def test_what_is_no_body_does_not_flow_for_ever(steps: list[Step]) -> None:
    """Extensions and trailers are bounded, each line and all together."""
    with playing([expect(), *steps]) as (pool, server):
        with pytest.raises(ChunkedEncodingError, match=server.origin):
            pool.get(server.url)

        assert pool.stats().idle == 0


@pytest.mark.parametrize(
    "body", [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n"]
)
def test_a_bare_lf_that_frames_a_chunk_ends_the_connection(body: bytes) -> None:
    """Read as http.client reads it, but RFC 9112 §2.2 allows it in the header alone: nothing may follow."""
    with playing([expect(), send(head(CHUNKED) + body), discard], [expect(), send(NEXT)]) as (pool, server):
        assert pool.get(server.url).content == b"hello"
        assert pool.get(server.url).content == b"the next"
        assert pool.stats().opened == 2


def test_trailers_steer_nothing() -> None:
    """RFC 9110 §6.5.1: neither framing, nor cookies, nor where to go, and not the connection either."""
    fields = b"Content-Length: 3\r\nTransfer-Encoding: gzip\r\nSet-Cookie: a=b\r\nLocation: /x\r\nConnection: close\r\n"
    wire = head(CHUNKED) + b"5\r\nhello\r\n0\r\n" + fields + b": nameless\r\nfolded:\r\n one\r\n\r\n"
    with playing([expect(), send(wire), expect(), send(NEXT)]) as (pool, server):
        answer = pool.get(server.url)

        assert (answer.content, answer.location, len(answer.cookies)) == (b"hello", None, 0)
        assert answer._reply is not None
        assert answer._reply.trailers[-1] == ("folded", "one")
        assert len(answer._reply.trailers) == 6
        assert pool.get(server.url).content == b"the next"


# --- what has no body, and what comes at the wrong time ---


def test_a_205_is_read_as_it_is_framed() -> None:
    """RFC 9110 §15.3.6 forbids it a body, but RFC 9112 §6.3 gives no rule for it: its length counts."""
    script = [expect(), send(response(b"hello", status="205 Reset Content")), expect(), send(NEXT)]
    with playing(script) as (pool, server):
        assert pool.get(server.url).content == b"hello"
        assert pool.get(server.url).content == b"the next"


@pytest.mark.parametrize(
    "started",
    [b"", b"HTTP/1.1 200 OK\r\n", head("Content-Length: 4"), head(CHUNKED) + b"4\r\nla"],
    ids=["nothing", "in the head", "before the body", "in a chunk"],
)
def test_a_late_answer_is_nobodys(started: bytes) -> None:
    """It comes after the time-out, to a connection that is closed: the next request gets its own answer."""
    go = threading.Event()
    late: Script = [expect("GET /late "), send(started), wait_for(go), send(response(b"late")), discard]
    with playing(late, [expect("GET /next "), send(NEXT)], limits=Limits(per_host=1)) as (pool, server):
        with pytest.raises(ReadTimeout):
            pool.get(f"{server.url}late", timeout=Timeout(read=0.1))
        go.set()

        assert pool.get(f"{server.url}next").content == b"the next"


@pytest.mark.parametrize(
    "steps",
    [
        [send(head(CHUNKED) + b"5;"), trickle(b"x")],
        [send(head(CHUNKED) + b"0\r\n"), trickle(b"X: y\r\n")],
        [send(head(CHUNKED)), trickle(b"0")],
        [send(head("Content-Encoding: gzip") + b"\x1f\x8b\x08\x08\0\0\0\0\0\0"), trickle(b"name")],
        [send(head("Content-Encoding: gzip")), trickle(gzip.compress(b""))],
    ],
    ids=["extension", "trailers", "size", "gzip's header", "empty gzip members"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_trickles_without_being_a_body_keeps_to_the_deadline(steps: list[Step], stream: bool) -> None:
    """Not a byte of the body comes, and always something."""
    with playing([expect(), *steps]) as (pool, server):
        with pytest.raises(ReadTimeout, match=r"Timeout\.total=0\.2 s"):
            list(pool.get(server.url, stream=stream, timeout=Timeout(read=10, total=0.2)).iter_content(1000))

        eventually(lambda: server.open == 0)


# --- codings ---

BODY = b"".join(b"line %d\n" % number for number in range(20_000))
ZIPPED = gzip.compress(BODY, mtime=0)


def encoded(body: bytes, coding: str = "gzip") -> bytes:
    return response(body, f"Content-Encoding: {coding}")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:],
        ZIPPED[:-4] + b"\0\0\0\0",
        ZIPPED[:100] + b"\xff" * 20 + ZIPPED[120:],
        b"\x1f\x8b\x08\xe0" + ZIPPED[4:],
        ZIPPED + ZIPPED[:-1] + b"\1",
        ZIPPED + ZIPPED[:-1],
        ZIPPED + ZIPPED[:2],
        ZIPPED + b"\x1f\x8b\xff\xff",
    ],
    ids=["CRC", "length", "data", "flags", "a later length", "a later cut", "a later header", "a later method"],
)
def test_gzip_that_does_not_add_up_is_an_error(body: bytes, stream: bool) -> None:
    """RFC 1952 §2.3.1; the next request is served, over the same connection if the body had come to its end."""
    serve = repeatedly(expect(), send(NEXT))
    with playing([expect(), send(encoded(body)), serve], [serve]) as (pool, server):
        with pytest.raises(ContentDecodingError, match=r"127\.0\.0\.1"):
            list(pool.get(server.url, stream=stream).iter_content(1000))

        assert pool.get(server.url).content == b"the next"
        assert pool.stats().leased == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rubbish", [b"\0" * 512, b"\n", b"\x1f", b"\x1f\x1f\x8b", b"rubbish", response(b"stolen")])
def test_rubbish_behind_gzip_is_passed_over(rubbish: bytes, stream: bool) -> None:
    """As gzip itself does, and every browser: padding is common."""
    with playing([expect(), send(encoded(ZIPPED + rubbish))]) as (pool, server):
        assert b"".join(pool.get(server.url, stream=stream).iter_content(1000)) == BODY


def test_many_tiny_members_take_no_longer_than_as_many_steps() -> None:
    """Of a hundred thousand that are read in one piece, each copies no more than a little of what follows."""
    count = 100_000
    with playing([expect(), send(encoded(gzip.compress(b"x", mtime=0) * count))]) as (pool, server):
        answer = pool.get(server.url, stream=True)
        started = time.thread_time()
        received = b"".join(answer.iter_content(10_000_000))
        spent = time.thread_time() - started

        assert received == b"x" * count
        assert spent < 10


@pytest.mark.parametrize("stream", [False, True])
def test_what_follows_rubbish_is_rubbish(stream: bool) -> None:
    """However it arrives: a member behind it would be read or not, as the pieces happened to be cut."""
    parts = [ZIPPED + b"rubbish", ZIPPED]
    wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    with playing([expect(), send(head(CHUNKED, "Content-Encoding: gzip") + wire)]) as (pool, server):
        assert b"".join(pool.get(server.url, stream=stream).iter_content(None)) == BODY


@pytest.mark.parametrize("size", [1000, 1024, 65536, None])
@pytest.mark.parametrize("member", [1000, 1024, 8192, 65536])
@pytest.mark.parametrize("stack", ["gzip", "gzip, deflate", "deflate, gzip"])
def test_members_that_end_where_a_piece_ends_come_once(stack: str, member: int, size: int | None) -> None:
    """urllib3 2.8 decodes what follows such a member again and again, for ever."""
    pieces = [BODY[at : at + member] for at in range(0, 4 * member, member)]
    body = b"".join(pieces)
    if stack == "deflate, gzip":
        wire = b"".join(gzip.compress(part) for part in cut(zlib.compress(body), 50))
    else:
        wire = b"".join(map(gzip.compress, pieces))
        wire = zlib.compress(wire) if stack == "gzip, deflate" else wire
    with playing([expect(), send(encoded(wire, stack))]) as (pool, server):
        received = b""
        for piece in pool.get(server.url, stream=True).iter_content(size):
            received += piece
            assert len(received) <= len(body)

        assert received == body


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("stream", [False, True])
def test_codings_are_not_stacked_without_end(stream: bool) -> None:
    """Five are decoded; more are nobody's, and an error before anything is decoded."""

    def wire(times: int) -> bytes:
        body = b"hello"
        for _ in range(times):
            body = gzip.compress(body)
        return encoded(body, ", ".join(["gzip"] * times))

    with playing([expect(), send(wire(5)), expect(), send(wire(6))]) as (pool, server):
        assert b"".join(pool.get(server.url, stream=stream).iter_content(10)) == b"hello"
        with pytest.raises(ContentDecodingError, match=r"[Tt]oo many"):
            list(pool.get(server.url, stream=stream).iter_content(10))


@pytest.mark.parametrize("coding", ["rot13", "gzip2", "", "*", "identity", "compress"])
def test_a_coding_nobody_knows_is_passed_as_it_is(coding: str) -> None:
    """As in requests: whoever asked for it knows it."""
    with playing([expect(), send(encoded(b"hello", coding))]) as (pool, server):
        assert pool.get(server.url).content == b"hello"


@pytest.mark.parametrize("size", [None, 1, 65536])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, zstd"])
def test_nothing_at_all_is_nothing_in_every_coding(coding: str, size: int | None) -> None:
    """An empty body, and none, were not encoded; also for who streams."""
    field = f"Content-Encoding: {coding}"
    wires = [response(b"", field), chunked(b"", field), head(field, status="204 No Content")]
    with playing([step for wire in wires for step in (expect(), send(wire))]) as (pool, server):
        for _ in wires:
            assert list(pool.get(server.url, stream=True).iter_content(size)) == []


def test_a_known_coding_under_an_unknown_one_is_an_error() -> None:
    """Half decoded would be neither what was sent nor what was meant."""
    script = [expect(), send(encoded(gzip.compress(b"hello"), "gzip, rot13"))]
    with playing(script) as (pool, server), pytest.raises(ContentDecodingError):
        pool.get(server.url)


# --- bodies that are too large ---


def brotli(data: bytes) -> bytes:
    if "br" not in DECODABLE:
        pytest.skip("brotli is not installed")
    return bytes(import_module("brotli").compress(data, quality=1))


def zstd(data: bytes) -> bytes:
    if "zstd" not in DECODABLE:
        pytest.skip("zstandard is not installed")
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return bytes(import_module(name).compress(data))


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", lambda data: gzip.compress(data, 1)),
    "gzip members": ("gzip", lambda data: gzip.compress(data[:MIB]) * (len(data) // MIB)),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
    "gzip, gzip": ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data, 1))),
}
READS: dict[str, Callable[[Response], int]] = {
    "content": lambda answer: len(answer.content),
    "pieces": lambda answer: sum(map(len, answer.iter_content(65536))),
    "as it comes": lambda answer: sum(map(len, answer.iter_content(None))),
    "lines": lambda answer: sum(map(len, answer.iter_lines(65536, delimiter=b"x"))),
    "raw": lambda answer: sum(map(len, answer.raw.stream(65536, decode_content=True))),
}


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_bomb_is_found_out(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Limits.max_ratio`: before much has been decoded, whoever reads; and the next request is served."""
    monkeypatch.setattr(_wire, "HARMLESS", 2 * MIB)
    coding, encode = ENCODERS[name]
    bomb = encode(bytes(32 * MIB))
    assert len(bomb) < 32 * MIB / 200
    answers = iter([encoded(bomb, coding), NEXT])
    # A small one may have come, to its end, before it is found out: then the connection goes on.
    script: Script = [repeatedly(expect(), lambda peer: peer.send(next(answers)))]
    limits = Limits(per_host=1, max_ratio=100)
    with playing(script, repeat=True, limits=limits, timeout=Timeout(read=5, pool=0)) as (pool, server):
        with pytest.raises(BodyTooLarge, match=r"100 times.*max_ratio") as caught:
            READS[way](pool.get(server.url, stream=way != "content"))

        assert server.origin in str(caught.value)
        assert caught.value.limit == 100
        assert 2 * MIB < caught.value.size < 20 * MIB
        assert isinstance(caught.value, MaySent)
        assert pool.stats().leased == 0
        assert pool.get(server.url).content == b"the next"


@pytest.mark.parametrize("way", ["pieces", "as it comes", "raw"])  # a line without an end is as long as the body
@pytest.mark.parametrize("name", ENCODERS)
def test_a_bomb_that_is_streamed_takes_no_memory(name: str, way: str) -> None:
    """However large it is: no more of it is decoded than was asked for."""
    coding, encode = ENCODERS[name]
    bomb = encoded(encode(bytes(32 * MIB)), coding)
    limits = Limits(max_ratio=None)
    with playing([expect(), send(bomb)], limits=limits) as (pool, server):
        answer = pool.get(server.url, stream=True)
        tracemalloc.start()
        try:
            received = READS[way](answer)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert received == 32 * MIB
        assert peak < 6 * MIB  # brotli's window is 4 MiB


@pytest.mark.parametrize("limits", [Limits(), Limits(max_ratio=None)])
@pytest.mark.parametrize("name", ENCODERS)
def test_what_packs_well_is_no_bomb_for_that(name: str, limits: Limits) -> None:
    """A body of 32 MiB is harmless; beyond that whoever has such data says so."""
    coding, encode = ENCODERS[name]
    size = 32 if limits.max_ratio else 40
    with playing([expect(), send(encoded(encode(bytes(size * MIB)), coding))], limits=limits) as (pool, server):
        assert len(pool.get(server.url).content) == size * MIB


def test_the_default_finds_out_a_bomb() -> None:
    """Nobody has to ask for it."""
    error = refused(encoded(gzip.compress(bytes(100 * MIB), 9)))

    assert isinstance(error, BodyTooLarge)
    assert error.size < 50 * MIB


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "length": response,
    "chunks": lambda body: chunked(body, size=7000),
    "one chunk": lambda body: chunked(body, size=len(body)),
    "end": lambda body: head() + body,
    "gzip": lambda body: encoded(gzip.compress(body)),
    "gzip chunks": lambda body: chunked(gzip.compress(body), "Content-Encoding: gzip", size=100),
    "gzip until the end": lambda body: head("Content-Encoding: gzip") + gzip.compress(body),
}


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("name", FRAMINGS)
def test_a_body_may_be_as_large_as_its_bound_and_not_a_byte_larger(name: str, beyond: int, way: str) -> None:
    """`Limits.max_body`, whatever its framing and coding, and whoever reads it."""
    make, most = FRAMINGS[name], 100_000
    body = (b"ab" * most)[: most + beyond]
    end = [close] if name in ("end", "gzip until the end") else []
    scripts: list[Script] = [[expect(), send(make(body)), *(end or ([discard] if beyond else []))]]
    if beyond and name == "gzip":  # its framing was complete
        scripts = [[expect(), send(make(body))]]
    with playing(*scripts, limits=Limits(max_body=most, max_ratio=None)) as (pool, server):
        if not beyond:
            assert READS[way](pool.get(server.url, stream=way != "content")) == most
            return
        with pytest.raises(Exception, match=r"Limits\.max_body") as caught:
            READS[way](pool.get(server.url, stream=way != "content"))
        error = caught.value
        if not isinstance(error, BodyTooLarge):  # what is read by `raw` comes wrapped, as all errors there
            assert way == "raw"
            cause = error.__cause__
            assert isinstance(cause, BodyTooLarge)
            error = cause

        assert server.origin in str(error)
        assert error.size > error.limit == most
        assert pool.stats().leased == 0


@pytest.mark.parametrize(
    "wire",
    [
        head("Content-Length: 101"),
        head("Content-Length: 999999999999999999"),
        head(CHUNKED) + b"65\r\n",
        head(CHUNKED) + b"64\r\n" + b"x" * 100 + b"\r\n1\r\n",
        head(CHUNKED) + b"fffffffffffffff\r\n",
        head("Content-Length: 101", "Content-Encoding: gzip"),
    ],
)
def test_a_body_that_says_it_is_too_large_is_not_waited_for(wire: bytes) -> None:
    """Not a byte of what is too much has to come."""
    error = refused(wire, limits=Limits(max_body=100))

    assert isinstance(error, BodyTooLarge)
    assert "Limits.max_body" in str(error)


def test_no_piece_of_a_body_without_length_is_beyond_the_bound() -> None:
    """What a stream has passed on is never more than `Limits.max_body`."""
    with playing([expect(), send(head()), flood(b"x" * 1000)], limits=Limits(max_body=10_000)) as (pool, server):
        pieces: list[bytes] = []
        with pytest.raises(BodyTooLarge):
            pieces.extend(pool.get(server.url, stream=True).iter_content(1000))

        assert len(b"".join(pieces)) <= 10_000


def test_what_nobody_reads_is_not_too_large() -> None:
    """The header of a stream, HEAD, and the body of a stream's redirect."""
    large = head("Content-Length: 1000000")
    moved = head("Content-Length: 1000000", "Location: /there", status="302 Found")
    scripts: list[Script] = [
        [expect("HEAD "), send(large), expect("GET / "), send(large), discard],
        [expect("GET / "), send(moved), discard],
        [expect("GET /there "), send(NEXT)],
    ]
    with playing(*scripts, limits=Limits(max_body=100)) as (pool, server):
        assert pool.head(server.url).headers["Content-Length"] == "1000000"
        with pool.get(server.url, stream=True) as answer:
            assert answer.headers["Content-Length"] == "1000000"
        assert pool.get(server.url, stream=True).content == b"the next"


def test_the_bound_changes_with_the_limits() -> None:
    """`resize` holds for the next response."""
    with playing([expect(), send(NEXT), expect(), send(NEXT)]) as (pool, server):
        assert pool.get(server.url).content == b"the next"
        pool.resize(attrs.evolve(pool.limits, max_body=7))
        with pytest.raises(BodyTooLarge):
            pool.get(server.url)


# --- any bytes at all ---

SMALL = b"hello, world, hello"
TEMPLATES = [
    response(SMALL, "X: y", "Set-Cookie: a=b", "Keep-Alive: timeout=5"),
    chunked(SMALL, "X: a", size=7)[:-2] + b"T: u\r\n\r\n",
    encoded(gzip.compress(SMALL, mtime=0) + gzip.compress(SMALL, mtime=0)),
    chunked(gzip.compress(SMALL, mtime=0), "Content-Encoding: gzip", size=9),
    encoded(gzip.compress(gzip.compress(SMALL, mtime=0), mtime=0), "gzip, gzip"),
    encoded(zlib.compress(SMALL), "deflate"),
    encoded(raw_deflate(SMALL), "deflate"),
    encoded(brotli(SMALL), "br") if "br" in DECODABLE else b"",
    encoded(zstd(SMALL) * 2, "zstd") if "zstd" in DECODABLE else b"",
    head(status="103 Early Hints") + response(SMALL),
    head("Connection: close") + SMALL,
    head("X: a", " b", status="204 No Content"),
    response(SMALL) + response(b"stolen"),
]
TOKENS = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0", b"-1", b"5;", b"\r\n\r\n", b"ffffffffffffff\r\n",
        b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 ",
        b"Content-Encoding: gzip\r\n", b"Content-Encoding: br, gzip\r\n", response(b"stolen"), b"0\r\n\r\n",
    ]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A response, with up to five accidents."""
    wire = draw(st.sampled_from(TEMPLATES))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(wire)))
        end = draw(st.integers(at, min(at + 12, len(wire))))
        with_what = draw(TOKENS | st.binary(max_size=3) | st.just(wire[at:end] * 2))
        wire = wire[:at] + with_what + wire[end:]
    return wire[: draw(st.none() | st.integers(0, len(wire)))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(), st.sampled_from([None, 1, 7, 19, 4096]), st.sampled_from(["GET", "HEAD"]), st.booleans())
@example(response(SMALL) + response(b"stolen"), None, "GET", True)
@example(response(b"", "Content-Encoding: gzip") + response(b"stolen"), 1, "GET", True)
def test_whatever_a_server_sends_harms_nobody_but_its_own_request(
    wire: bytes, size: int | None, method: str, stays: bool
) -> None:
    """A response or an error of ours; no permit is lost, and the next answer is the next request's.

    The server then closes, or sends nothing more and lets the client wait until it has had enough.
    """

    def answer(asked: Asked) -> bytes | None:
        if asked.path == "/second":
            return response(b"the second")
        asked.line.far.sendall(wire)
        if not stays:
            asked.line.far.close()
        return None

    network = Wire(answer)
    timeout = Timeout(read=0.002, pool=0)
    with SessionPool(retry=None, trust_env=False, limits=Limits(per_host=1, max_body=10_000), timeout=timeout) as pool:
        network.plug_into(pool)
        received = b""
        with contextlib.suppress(RequestException):
            first = pool.request(method, "http://a.example/first", stream=size is not None)
            received = b"".join(first.iter_content(size or 1000))
            del first
        assert len(received) <= 10_000
        assert pool.stats().leased == 0
        second = pool.get("http://a.example/second", timeout=Timeout(read=10, pool=0))

        assert second.content == b"the second"
        assert (pool.stats().leased, pool.stats().waiting) == (0, 0)
    assert network.open == 0


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["gzip", "deflate", "raw deflate", "br", "zstd"]),
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(1, 50),
    st.integers(0, 60),
    st.binary(max_size=4),
)
def test_members_of_any_length_read_in_pieces_of_any_length_come_once(
    name: str, lengths: list[int], size: int, cut_off: int, rubbish: bytes
) -> None:
    """Whatever the pieces, the same bytes come, or an error; and never more than there are, for ever."""
    coding, encode = ENCODERS[name]
    parts = [bytes(range(length)) for length in lengths]
    if name in ("gzip", "zstd"):
        whole, wire = b"".join(parts), b"".join(map(encode, parts))
    else:
        whole, wire = parts[0], encode(parts[0])
    wire = wire[: max(len(wire) - cut_off, 0)] + rubbish
    with SessionPool(retry=None, trust_env=False) as pool:
        Wire(lambda _: encoded(wire, coding)).plug_into(pool)
        received = b""
        try:
            for piece in pool.get("http://a.example/", stream=True).iter_content(size):
                received += piece
                assert len(received) <= len(whole) + 2000
        except ContentDecodingError:
            pass
        else:
            assert pool.get("http://a.example/").content == received

        if not cut_off and not rubbish:
            assert received == whole
