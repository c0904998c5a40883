"""HTTP/1.1 as bytes, without a socket: heads, framing, chunk sizes, and what may be shown of a URL."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.exceptions import DecodeError, ProtocolError

from sessionpool import _wire
from sessionpool._wire import (
    MAX_DIGITS,
    MAX_FIELDS,
    Head,
    basic_credentials,
    check_token,
    find_head_end,
    own_error,
    parse_chunk_size,
    parse_head,
    parse_trailers,
    redacted,
    split_fields,
    split_url,
    userinfo,
)
from sessionpool.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    IncompleteRead,
    InvalidHeader,
    InvalidResponse,
    InvalidURL,
)

HOST = "http://127.0.0.1:8000"


def parse(*fields: str, status: str = "200 OK", version: str = "1.1", method: str = "GET", end: str = "\r\n") -> Head:
    """The head with these fields, parsed."""
    return parse_head(end.join([f"HTTP/{version} {status}", *fields, ""]).encode("latin-1"), method, HOST)


# --- the status line ---


@pytest.mark.parametrize(
    ("line", "version", "status", "reason"),
    [
        ("HTTP/1.1 200 OK", 11, 200, "OK"),
        ("HTTP/1.0 200 OK", 10, 200, "OK"),
        ("HTTP/1.1 404 Not  Found at all", 11, 404, "Not  Found at all"),
        ("HTTP/1.1 200 ", 11, 200, ""),
        ("HTTP/1.1 200", 11, 200, ""),
        ("HTTP/1.1 200 \xc4rger", 11, 200, "\xc4rger"),
        ("HTTP/1.7 200 OK", 11, 200, "OK"),
        ("HTTP/1.1 599 Odd", 11, 599, "Odd"),
        ("HTTP/1.1 999 Odd", 11, 999, "Odd"),
        ("HTTP/1.1 200 " + "long " * 200 + "OK", 11, 200, "long " * 200 + "OK"),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_the_status_line_is_taken_apart(line: str, version: int, status: int, reason: str, end: str) -> None:
    """Version, status and reason are found, whether or not there is a reason or a CR."""
    head = parse_head(f"{line}{end}".encode("latin-1"), "GET", HOST)

    assert (head.version, head.status, head.reason) == (version, status, reason)
    assert head.fields() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"<html>no head at all</html>",
        b"HTTP/2 200 OK\r\n",
        b"HTTP/2.0 200 OK\r\n",
        b"HTTP/0.9 200 OK\r\n",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 abc OK\r\n",
        b"HTTP/1.1 -20 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1\t200\tOK\r\n",
        b"HTTP/1.1 200OK\r\n",
        b"HTTP/1.x 200 OK\r\n",
        b"HTTP/1.12 200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b" HTTP/1.1 200 OK\r\n",
        b"ICY 200 OK\r\n",
        b"HTTP/1.1 200 O\rK\r\n",
        b"HTTP/1.1 200 OK\rContent-Length: 5\r\n",
        b"HTTP/1.1 200 O\0K\r\n",
        b"HTTP/1.1 99 Odd\r\n",
        b"HTTP/1.1 1000 Odd\r\n",
        b"PRI * HTTP/2.0\r\n",
        # RFC 9110 §15: a status is from 100 to 599; less would pass for interim, and be skipped.
        b"HTTP/1.1 000 Zero\r\n",
        b"HTTP/1.1 099 Odd\r\n",
    ],
)
def test_what_is_no_status_line_is_refused_and_shown(data: bytes) -> None:
    """The error names the host and shows how the rubbish begins."""
    with pytest.raises(InvalidResponse) as caught:
        parse_head(data, "GET", HOST)

    assert HOST in str(caught.value)


def test_a_long_status_line_is_not_remembered() -> None:
    """Otherwise a server could fill the memory with lines of its own making."""
    remembered = _wire._status_line.cache_info().currsize
    head = parse_head(b"HTTP/1.1 200 " + b"x" * 10_000 + b"\r\n\r\n", "GET", HOST)

    assert head.reason == "x" * 10_000
    assert _wire._status_line.cache_info().currsize == remembered


def test_rubbish_is_shown_in_part_only() -> None:
    """A page of rubbish does not become a message as long as a page."""
    with pytest.raises(InvalidResponse) as caught:
        parse_head(b"x" * 100_000, "GET", HOST)

    assert len(str(caught.value)) < 200


# --- how long the body is ---


@pytest.mark.parametrize(
    ("fields", "length", "is_chunked", "reusable"),
    [
        (["Content-Length: 5"], 5, False, True),
        (["content-length:5"], 5, False, True),
        (["CONTENT-LENGTH: \t 5 \t"], 5, False, True),
        (["Content-Length: 0"], 0, False, True),
        (["Content-Length: 007"], 7, False, True),
        (["Content-Length: 5", "Content-Length: 5"], 5, False, True),
        (["Content-Length: 5, 5"], 5, False, True),
        (["Content-Length: 5,5 , 5", "content-length: 5"], 5, False, True),
        ([f"Content-Length: {'9' * MAX_DIGITS}"], int("9" * MAX_DIGITS), False, True),
        (["Transfer-Encoding: chunked"], None, True, True),
        (["transfer-encoding:CHUNKED"], None, True, True),
        (["Transfer-Encoding: identity", "Content-Length: 5"], 5, False, False),
        # RFC 9112 §6.3: the chunks count, and nothing more may be read here.
        (["Content-Length: 5", "Transfer-Encoding: chunked"], None, True, False),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], None, True, False),
        # Neither: the body ends with the connection.
        ([], None, False, False),
        (["Connection: keep-alive"], None, False, False),
        (["X-Content-Length: 5"], None, False, False),
        (["X: Content-Length: 5"], None, False, False),
        # RFC 9112 §5.1: blanks before the colon do not count.
        (["Content-Length : 5"], 5, False, True),
        (["Content-Length\t : 5", "Transfer-Encoding : chunked"], None, True, False),
        # Names that only look like it.
        (["Content Length: 5"], None, False, False),
        (["\x0bContent-Length: 5"], None, False, False),
        (["Content-Length\x0b: 5"], None, False, False),
        (["\xa0Transfer-Encoding: chunked", "Content-Length: 5"], 5, False, True),
        (["(Transfer-Encoding): chunked", "Content-Length: 5"], 5, False, True),
        ([": Transfer-Encoding: chunked", "Content-Length: 5"], 5, False, True),
        (["Transfer-Encoding", ": chunked", "Content-Length: 5"], 5, False, True),
        (["Transfer-Encoding: identity"], None, False, False),
        (["Content-Length: 5", "Connection: close"], 5, False, False),
        (["Content-Length: 5", "connection: Foo, CLOSE"], 5, False, False),
        (["Content-Length: 5", "Connection: foo", "Connection: close"], 5, False, False),
        (["Content-Length: 5", "Connection: close \t"], 5, False, False),
        (["Content-Length: 5", "Connection: foo,close "], 5, False, False),
        (["Content-Length: 5", "Connection: closed"], 5, False, True),
    ],
)
def test_the_framing_of_a_body(fields: list[str], length: int | None, is_chunked: bool, reusable: bool) -> None:
    """RFC 9112 §6.3 and §9.3 decide how a body ends and whether the connection goes on."""
    for end in ("\r\n", "\n"):
        head = parse(*fields, end=end)

        assert (head.length, head.chunked, head.reusable) == (length, is_chunked, reusable)


@pytest.mark.parametrize(
    ("fields", "reusable"),
    [
        (["Content-Length: 5"], False),
        (["Content-Length: 5", "Connection: keep-alive"], True),
        (["Content-Length: 5", "Connection: Keep-Alive"], True),
        (["Content-Length: 5", "Connection: keep-alive "], True),
        (["Content-Length: 5", "Connection: foo, keep-alive"], True),
        # RFC 9112 §9.3: close comes first, in every version.
        (["Content-Length: 5", "Connection: keep-alive, close"], False),
        (["Content-Length: 5", "Connection: close"], False),
        (["Connection: keep-alive"], False),
        # RFC 9112 §6.1: what 1.0 does not know is faulty framing.
        (["Transfer-Encoding: chunked", "Connection: keep-alive"], False),
    ],
)
def test_an_older_server_has_to_offer_to_go_on(fields: list[str], reusable: bool) -> None:
    """HTTP/1.0 ends with the response unless it says keep-alive, and never with chunks."""
    assert parse(*fields, version="1.0").reusable is reusable


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified"), ("GET", "103 X")]
)
@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked", "X: y"])
def test_what_has_no_body_has_none_whatever_it_says(method: str, status: str, field: str) -> None:
    """RFC 9112 §6.3: HEAD, 1xx, 204 and 304 end with the head, and the connection goes on."""
    head = parse(field, status=status, method=method)

    assert (head.length, head.chunked, head.reusable) == (0, False, True)


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5,"],
        ["Content-Length: 5", "Content-Length: 05"],
        ["Content-Length:"],
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: 5.0"],
        ["Content-Length: 5 5"],
        ["Content-Length: 5;x"],
        ["Content-Length: 0x5"],
        ["Content-Length: 1_000"],
        ["Content-Length: five"],
        ["Content-Length: \xb2"],
        ["Content-Length: " + "9" * (MAX_DIGITS + 1)],
        ["Content-Length: " + "9" * 10_000],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked;q=1"],
        ["Transfer-Encoding:"],
        ["Transfer-Encoding: \x0bchunked"],
        ["X: a\rb"],
        ["X: a\r"],
        ["X: a\0b"],
        ["X\0: b"],
        ["X: a\r\r\n b"],
        ["Content-Length: 5", "\t6"],
        ["Transfer-Encoding: chunked", " , gzip"],
        ["Transfer-Encoding: chunked,"],
        [" Content-Length: 5"],
        ["\tX: y", "Content-Length: 5"],
        [" ", "Content-Length: 5"],
        ["X: a\rTransfer-Encoding: chunked", "Content-Length: 5"],
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(fields: list[str]) -> None:
    """No length is guessed: the error names the host, is one short line, and nothing is read further."""
    with pytest.raises(InvalidResponse) as caught:
        parse(*fields)

    assert HOST in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# --- the fields ---


def test_fields_keep_their_order_and_their_spelling() -> None:
    """Names as the server wrote them, values without the blanks around them, duplicates apart."""
    head = parse("Server: a b", "x-One:1", "X-one:\t 2 \t", "Empty:", "Colons: a:b: c", "Latin: \xe9")

    assert head.fields() == [
        ("Server", "a b"),
        ("x-One", "1"),
        ("X-one", "2"),
        ("Empty", ""),
        ("Colons", "a:b: c"),
        ("Latin", "\xe9"),
    ]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("indent", [" ", "\t", " \t  "])
def test_a_folded_line_is_one(indent: str, end: str) -> None:
    """RFC 9112 §5.2: the fold counts as a blank, also in a field that steers."""
    head = parse("X: a", f"{indent}b", "Transfer-Encoding:", f"{indent}chunked", end=end)

    assert head.fields() == [("X", "a b"), ("Transfer-Encoding", "chunked")]
    assert head.chunked


def test_a_line_without_a_colon_is_skipped() -> None:
    """It is no field, and it does not hide the next."""
    head = parse("nonsense", "Content-Length: 5", "")

    assert head.fields() == [("Content-Length", "5")]
    assert head.length == 5


def test_a_line_without_a_name_is_skipped() -> None:
    """There is nothing by which to ask for it; a name that is no token is there as it was sent."""
    head = parse(": x", " : y", "Content-Length: 5", ":", "a b: c", "X:", "  folded")

    assert head.fields() == [("Content-Length", "5"), ("a b", "c"), ("X", "folded")]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_fields_are_counted(end: str) -> None:
    """A thousand pass, a folded one counts once, and one more is refused."""
    fields = ["X: y"] * (MAX_FIELDS - 1) + [f"X:{end} y{end} z"]

    assert len(parse(*fields, "", end=end).fields()) == MAX_FIELDS
    with pytest.raises(InvalidResponse, match=f"{HOST} .* {MAX_FIELDS} fields"):
        parse(*fields, "X: y", "", end=end)


def test_cookies_come_in_order_and_as_they_were_sent() -> None:
    """Every Set-Cookie is its own, commas and case included."""
    head = parse("Set-Cookie: A=1; Expires=Wed, 09 Jun 2100 10:18:14 GMT", "X: y", "set-cookie:b=2 ", "SET-COOKIE: c=3")

    assert head.set_cookie == ["A=1; Expires=Wed, 09 Jun 2100 10:18:14 GMT", "b=2", "c=3"]


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ([], None),
        (["Location: /There?Q=A#B"], "/There?Q=A#B"),
        (["location:/a ", "Location: /b"], "/a"),
        (["Content-Location: /a"], None),
        (["Location: /\xe4"], "/\xe4"),
    ],
)
def test_the_location_is_the_first_and_keeps_its_case(fields: list[str], location: str | None) -> None:
    """Where a redirect leads, as the server wrote it."""
    assert parse(*fields).location == location


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ([], None),
        (["Keep-Alive: timeout=5"], 5),
        (["Keep-Alive: max=100, timeout = 15"], 15),
        (['keep-alive: Timeout="7", max=3'], 7),
        (["Keep-Alive: timeout=0"], 0),
        (["Keep-Alive: timeout=never"], None),
        (["Keep-Alive: max=5"], None),
        (["Keep-Alive: timeout=-5"], None),
        (["Connection: keep-alive"], None),
    ],
)
def test_how_long_the_server_keeps_an_idle_connection(fields: list[str], limit: int | None) -> None:
    """Its `Keep-Alive: timeout`, where that is a number."""
    assert parse(*fields).idle_limit == limit


@pytest.mark.parametrize(
    ("fields", "encoded"),
    [
        ([], False),
        (["Content-Encoding: gzip"], True),
        (["content-encoding: Identity"], False),
        (["Content-Encoding:"], False),
        (["Content-Encoding: identity", "Content-Encoding: br"], True),
        (["Content-Encoding: odd"], True),
    ],
)
def test_whether_a_body_is_encoded(fields: list[str], encoded: bool) -> None:
    """Anything but identity has to be looked at by the decoders."""
    assert parse(*fields).encoded is encoded


@pytest.mark.parametrize(
    ("fields", "metered"),
    [
        ([], False),
        (['RateLimit: "default";r=0;t=30'], True),
        (["ratelimit-remaining : 0"], True),
        (["RATELIMIT:"], True),
        (["RateLimit-Policy: x", "RateLimit-Reset: 5", "X-RateLimit: 0", "RateLimits: 1"], False),
    ],
)
def test_whether_a_quota_is_told_of(fields: list[str], metered: bool) -> None:
    """Only what says how much is left; the rest says nothing without it."""
    head = parse("Content-Length: 5", *fields, "Content-Encoding: gzip", "Connection: close")

    assert head.metered is metered
    assert (head.length, head.encoded, head.reusable) == (5, True, False)


# --- where the head ends ---


@pytest.mark.parametrize(
    ("data", "begin"),
    [
        (b"", -1),
        (b"A\r\nB\r\n", -1),
        (b"A\r\n\r", -1),
        (b"A\r\n\r\nBODY", 5),
        (b"A\n\nBODY", 3),
        (b"A\n\r\nBODY", 4),
        (b"A\r\n\nBODY", 4),
        (b"A\r\n\r\nB\n\nC", 5),
        (b"A\n\nB\r\n\r\nC", 3),
        (b"A\n\n\r\nBODY", 3),
        (b"A\r\n \r\nB: c\r\n\r\n", 14),
    ],
)
def test_the_empty_line_is_found(data: bytes, begin: int) -> None:
    """With CRLF or bare LF, whichever comes first (RFC 9112 §2.2)."""
    assert find_head_end(data) == begin


FEW_BYTES = st.binary(max_size=60).map(
    lambda data: data.translate(bytes([b"\r\nab: "[each % 6] for each in range(256)]))
)


@given(FEW_BYTES)
def test_where_the_head_ends_does_not_depend_on_what_follows(data: bytes) -> None:
    """Once the empty line has come, more bytes change nothing; before, no prefix pretends to have it."""
    begin = find_head_end(data)

    if begin >= 0:
        assert find_head_end(data[:begin]) == begin
        assert find_head_end(data[: begin - 1]) == -1


@given(FEW_BYTES, st.integers(0, 60))
def test_where_the_head_ends_does_not_depend_on_how_it_arrives(data: bytes, cut: int) -> None:
    """Looking again only at what is new, and two bytes before, finds the same as looking at all."""
    first = find_head_end(data[:cut])

    if first < 0:
        assert find_head_end(data, max(min(cut, len(data)) - 2, 0)) == find_head_end(data)


# --- any bytes at all ---

LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 204",
        b"Content-Length: 5",
        b"Content-Length: 5, 6",
        b"content-length:",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: a, b",
        b"Set-Cookie: a=1",
        b"LOCATION: /x",
        b"Keep-Alive: timeout=99999999999999999999",
        b"Connection: close, , keep-alive",
        b" folded",
        b"\tfolded",
        b":",
        b"\xff\xfe: \x80",
        b"\xc0\xdd: \xe9",
    ]
)
JUNK = st.binary(max_size=20) | LINES
HEADS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda data: b"HTTP/1.1 200 OK\r\n" + data),
    st.lists(JUNK, max_size=12).map(b"\r\n".join),
    st.lists(JUNK, max_size=12).map(lambda lines: b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines)),
    st.lists(JUNK, max_size=12).map(lambda lines: b"HTTP/1.1 200 OK\n" + b"\n".join(lines) + b"\n"),
)


@given(HEADS, st.sampled_from(["GET", "HEAD", "POST"]))
def test_no_head_raises_anything_but_what_is_documented(data: bytes, method: str) -> None:
    """Whatever a server sends is a head or an `InvalidResponse`, and a head keeps its own rules."""
    try:
        head = parse_head(data, method, HOST)
    except InvalidResponse as error:
        head, refusal = None, str(error)

    if head is None:
        assert HOST in refusal
        assert refusal.isprintable()
        return
    assert 100 <= head.status <= 999
    assert head.length is None or head.length >= 0
    assert not (head.chunked and head.length is not None)
    assert not (head.reusable and head.length is None and not head.chunked)
    for name, value in head.fields():
        assert not set(name + value) & set("\r\n\0")


@given(
    st.lists(
        st.tuples(
            st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12),
            st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=12),
        ),
        max_size=10,
    )
)
def test_well_formed_fields_come_back_as_they_were(fields: list[tuple[str, str]]) -> None:
    """Splitting gives what was joined."""
    raw = "".join(f"\r\n{name}: {value}" for name, value in fields) + "\r\n"

    assert split_fields(raw) == fields


@given(st.text(st.characters(max_codepoint=255)))
def test_splitting_fields_never_fails(raw: str) -> None:
    """Any text is some fields, or none."""
    for name, value in split_fields(raw):
        assert "\n" not in name + value
        assert ":" not in name


# --- chunks ---


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"5\r\n", 5),
        (b"5\n", 5),
        (b"0\r\n", 0),
        (b"000\r\n", 0),
        (b"1a\r\n", 26),
        (b"FFff\r\n", 65535),
        (b"5;a=b\r\n", 5),
        (b'5 ; a="b;c" ;d\r\n', 5),
        (b"5;\r\n", 5),
        (b"5 \t\r\n", 5),
        (b"00000000000000a\r\n", 10),
        (b"fffffffffffffff\r\n", 16**15 - 1),
    ],
)
def test_the_size_of_a_chunk(line: bytes, size: int) -> None:
    """Hexadecimal in either case; extensions do not matter (RFC 9112 §7.1.1)."""
    assert parse_chunk_size(line, HOST) == size


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\r\n",
        b"5",
        b"5\r",
        b" 5\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b"5_0\r\n",
        b"g\r\n",
        b"5 5\r\n",
        b"5a=b\r\n",
        b"5\r5\r\n",
        b"5;a\rb\r\n",
        b";a=b\r\n",
        b"\xb2\r\n",
        b"1" * 16 + b"\r\n",
        b"1" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"5\r\n\r\n",
    ],
)
def test_what_is_no_size_is_refused_and_shown(line: bytes) -> None:
    """A size that two parsers could read in two ways is an error, shown in part."""
    with pytest.raises(ChunkedEncodingError) as caught:
        parse_chunk_size(line, HOST)

    assert HOST in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ([], []),
        ([b"A: b\r\n", b"C:d \n"], [("A", "b"), ("C", "d")]),
        ([b"A: b\r\n", b" c\r\n"], [("A", "b c")]),
        ([b"nonsense\r\n", b": nameless\r\n", b"A:\r\n"], [("A", "")]),
    ],
)
def test_trailers_are_fields(lines: list[bytes], fields: list[tuple[str, str]]) -> None:
    """With the rules of a header's."""
    assert parse_trailers(lines, HOST) == fields


@pytest.mark.parametrize("line", [b"A: b\rC: d\r\n", b"A: b\r\r\n", b"A: \0\r\n", b"A\0: b\n"])
def test_trailers_that_two_could_read_in_two_ways_are_refused(line: bytes) -> None:
    """The error names the host."""
    with pytest.raises(ChunkedEncodingError, match=HOST):
        parse_trailers([b"A: b\r\n", line], HOST)


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda data: data + b"\r\n"))
@example(b"5\xa0\r\n")
def test_no_chunk_line_raises_anything_but_what_is_documented(line: bytes) -> None:
    """Any bytes are a size or a `ChunkedEncodingError`."""
    try:
        size = parse_chunk_size(line, HOST)
    except ChunkedEncodingError:
        return

    assert 0 <= size < 16**15
    assert line.endswith(b"\n")


# --- URLs, and what may be shown of them ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://example.com/a/b", "http://example.com/a/b"),
        ("http://ada:secret@example.com/a", "http://example.com/a"),
        ("http://ada@example.com", "http://example.com"),
        ("http://a:s@b@example.com/a", "http://example.com/a"),
        ("http://ada:secret@[::1]:8000/a", "http://[::1]:8000/a"),
        ("http://example.com/a?token=secret", "http://example.com/a?…"),
        ("http://example.com?token=secret", "http://example.com?…"),
        ("http://example.com/a#secret", "http://example.com/a"),
        ("http://example.com/a?b#secret", "http://example.com/a?…"),
        ("//ada:secret@example.com/a", "//example.com/a"),
        ("ada:secret@example.com/a", "example.com/a"),
        ("/a/b?secret", "/a/b?…"),
        ("", ""),
        # A second pair of slashes does not begin another authority.
        ("http://ada:secret@example.com/a//b", "http://example.com/a//b"),
        ("http://ada:secret@example.com//b", "http://example.com//b"),
        ("http://ada:secret@example.com/a//b@c", "http://example.com/a//b@c"),
        ("http://ada:secret@example.com/http://other.example/", "http://example.com/http://other.example/"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    """No user, no password, no query, no fragment; the rest as it is."""
    assert redacted(url) == shown


@given(st.text())
def test_any_text_can_be_shown(url: str) -> None:
    """Whatever was given for a URL, it can be shown, and never longer than it is but for a mark."""
    assert len(redacted(url)) <= len(url) + 1


WORD = st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:%", min_size=1, max_size=8)


@given(
    st.tuples(WORD, WORD).map(lambda pair: f"<{pair[0]}:{pair[1]}>"),
    st.lists(WORD | st.sampled_from(["", "@", "a@b", "x//y"]), max_size=4).map("/".join),
)
def test_no_path_lets_the_password_out(secret: str, path: str) -> None:
    """User and password stay hidden whatever follows them."""
    shown = redacted(f"http://{secret}@example.com/{path}")

    assert secret not in shown
    assert shown.startswith("http://example.com/")


@given(st.text() | st.text().map("http://".__add__) | st.text("[]:@/?#%.a1é", max_size=20).map("http://".__add__))
@example("http://[")
@example("http://a:999999999")
@example("http://a:-1")
@example("http://\ud800/")
@example(f"http://{'a' * 64}.example/")
@example("http://exa mple/")
@example("http://xn--/")
def test_no_url_raises_anything_but_what_is_documented(url: str) -> None:
    """Any text is a URL or an `InvalidURL`."""
    try:
        split_url(url)
    except InvalidURL:
        return


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:secret@exa mple.com/",
        "http://ada:secret@example.com:port/",
        "http://ada:secret@example.com:99999/",
        "http://ada:secret@[::1/",
        "http://example.com:port/?token=secret",
        "http://ada:secret@\ud800/",
    ],
)
def test_a_url_that_cannot_be_parsed_keeps_its_secrets(url: str) -> None:
    """The error shows the URL without user, password and query."""
    with pytest.raises(InvalidURL) as caught:
        split_url(url)

    assert "secret" not in str(caught.value)
    assert "ada" not in str(caught.value)


# --- the rest ---


@pytest.mark.parametrize("text", ["GET", "X-Header", "!#$%&'*+-.^_`|~09azAZ"])
def test_a_token_passes(text: str) -> None:
    """RFC 9110 §5.6.2."""
    check_token(text, "a name")


@pytest.mark.parametrize("text", ["", "a b", "a:", "a\r\n", "a\n", "é", "a\0", '"a"', "a/b", None, 5, b"GET"])
def test_what_is_no_token_is_refused(text: object) -> None:
    """It could end the line and begin another."""
    with pytest.raises(InvalidHeader):
        check_token(text, "a name")


@pytest.mark.parametrize(
    ("user", "password", "value"),
    [
        ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),  # RFC 7617 §2
        ("a", "", "Basic YTo="),
        (b"a", b"\xff", "Basic YTr/"),
        ("a", "\xe9", "Basic YTrp"),
        ("a", "\u20ac", "Basic YTrigqw="),
    ],
)
def test_credentials_are_encoded(user: str | bytes, password: str | bytes, value: str) -> None:
    """Latin-1 where it can be, else UTF-8."""
    assert basic_credentials(user, password) == value


@pytest.mark.parametrize(
    ("authority", "pair"),
    [("a:b", ("a", "b")), ("a", ("a", "")), ("a:b:c", ("a", "b:c")), ("a%40b:%3A", ("a@b", ":")), ("", ("", ""))],
)
def test_user_and_password_of_a_url(authority: str, pair: tuple[str, str]) -> None:
    """Percent-decoded, and split at the first colon."""
    assert userinfo(authority) == pair


def test_an_error_of_ours_is_found_under_urllib3s() -> None:
    """urllib3 wraps what our body raises; the caller gets what was raised."""
    ours = IncompleteRead("it ended", received=3, expected=5)
    wrapped = ProtocolError("broken")
    wrapped.__cause__ = ours

    assert own_error(wrapped, HOST) is ours


@pytest.mark.parametrize(
    ("error", "kind"), [(DecodeError("bad"), ContentDecodingError), (ProtocolError("bad"), ConnectionError)]
)
def test_an_error_of_urllib3s_becomes_one_of_ours(error: DecodeError | ProtocolError, kind: type[Exception]) -> None:
    """With the host and the reason."""
    found = own_error(error, HOST)

    assert isinstance(found, kind)
    assert HOST in str(found)
    assert "bad" in str(found)
