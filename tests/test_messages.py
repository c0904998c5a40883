"""Headers, URLs, bodies, requests and responses: what is decided without a socket."""

from __future__ import annotations

import datetime as dt
import io
import json
import pickle
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionpool import exceptions
from sessionpool._messages import (
    CaseInsensitiveDict,
    PreparedRequest,
    Response,
    encode_field,
)
from sessionpool._urls import parse_target

TOKEN = st.text(alphabet=string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=20)
FIELD_VALUE = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"))


def prepared(method: str = "POST", url: str = "http://example.com/", **headers: str) -> PreparedRequest:
    return PreparedRequest(method, parse_target(url), CaseInsensitiveDict(headers))


def responded(
    body: bytes = b"",
    content_type: str | None = None,
    *,
    status: int = 200,
    url: str = "http://example.com/",
    **fields: str,
) -> Response:
    """A response filled by hand, as in tests of code that uses one."""
    response = Response()
    response.status_code = status
    response.url = url
    response.headers = CaseInsensitiveDict(fields)
    if content_type is not None:
        response.headers["Content-Type"] = content_type
    response._content = body
    return response


# --- CaseInsensitiveDict ---


def test_a_header_is_found_whatever_its_case() -> None:
    """Keys ignore case."""
    headers = CaseInsensitiveDict({"Content-Type": "text/plain"})

    assert headers["content-type"] == headers["CONTENT-TYPE"] == headers.get("Content-type") == "text/plain"
    assert "CONTENT-type" in headers
    assert "content" not in headers
    assert 1 not in headers  # type: ignore[comparison-overlap]  # asked all the same


def test_the_spelling_last_set_is_kept() -> None:
    """A name is sent as it was last written, once."""
    headers = CaseInsensitiveDict({"content-type": "a"})
    headers["Content-TYPE"] = "b"

    assert list(headers.items()) == [("Content-TYPE", "b")]
    assert headers.block() == b"Content-TYPE: b\r\n"


def test_headers_are_equal_whatever_their_case() -> None:
    """Two mappings with the same items are equal, whatever the case of their keys; anything else is not."""
    headers = CaseInsensitiveDict({"A": "1", "b": "2"})

    assert headers == {"a": "1", "B": "2"}
    assert headers == CaseInsensitiveDict([("B", "2"), ("a", "1")])
    assert headers != {"a": "1"}
    assert headers != [("A", "1"), ("b", "2")]


def test_a_deleted_header_is_gone_and_a_missing_one_is_a_key_error() -> None:
    """Deleting ignores case; what is not there raises KeyError."""
    headers = CaseInsensitiveDict({"X-One": "1"})
    del headers["x-one"]

    assert len(headers) == 0
    with pytest.raises(KeyError):
        headers["X-One"]
    with pytest.raises(KeyError):
        del headers["X-One"]


def test_a_copy_is_independent() -> None:
    """What is done to a copy the original does not see, and the other way round."""
    headers = CaseInsensitiveDict(a="1")
    copy = headers.copy()
    copy["b"] = "2"
    del headers["a"]

    assert dict(copy) == {"a": "1", "b": "2"}
    assert dict(headers) == {}


def test_merging_puts_the_others_over_and_takes_out_what_is_none() -> None:
    """`merged` gives a new mapping: the other's values win, `None` removes, the original stays."""
    headers = CaseInsensitiveDict({"Accept": "*/*", "User-Agent": "x"})
    merged = headers.merged({"accept": "text/html", "USER-AGENT": None, "X-New": "1", "X-Never": None})

    assert dict(merged) == {"accept": "text/html", "X-New": "1"}
    assert dict(headers) == {"Accept": "*/*", "User-Agent": "x"}


def test_the_block_follows_every_change() -> None:
    """What was encoded once is encoded again after a change, in a copy too."""
    headers = CaseInsensitiveDict({"A": "1"})
    assert headers.block() == b"A: 1\r\n"
    copy = headers.copy()
    headers["A"] = "2"
    del copy["A"]
    copy.update(B="3")

    assert headers.block() == b"A: 2\r\n"
    assert copy.block() == b"B: 3\r\n"


@pytest.mark.parametrize("name", ["Authorization", "COOKIE", "Proxy-Authorization", "x-api-key", "Set-Cookie"])
def test_a_secret_is_not_shown(name: str) -> None:
    """repr() holds no value that proves who is asking, and those of other fields."""
    shown = repr(CaseInsensitiveDict({name: "s3cret", "Accept": "text/html"}))

    assert "s3cret" not in shown
    assert name in shown
    assert "text/html" in shown


def test_headers_pickle() -> None:
    """A mapping survives pickling with its spelling."""
    headers = CaseInsensitiveDict({"X-One": "1"})
    headers.block()

    assert list(pickle.loads(pickle.dumps(headers)).items()) == [("X-One", "1")]


@given(st.lists(st.tuples(st.sampled_from(["get", "set", "del"]), TOKEN, FIELD_VALUE), max_size=30))
def test_it_is_a_dict_of_lower_case_keys(steps: list[tuple[str, str, str]]) -> None:
    """Whatever is done to it, it holds what a dict with lower-case keys would."""
    headers, model = CaseInsensitiveDict(), dict[str, str]()
    for act, name, value in steps:
        if act == "set":
            headers[name] = model[name.lower()] = value
        elif act == "del":
            assert headers.pop(name, None) == model.pop(name.lower(), None)
        assert headers.get(name.upper()) == model.get(name.lower())

    assert dict(headers.lower_items()) == model
    assert len(headers) == len(model)


# --- fields on the wire ---


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("Accept", "text/html", b"Accept: text/html\r\n"),
        ("accept", b"text/html", b"accept: text/html\r\n"),
        (b"Accept", b"*/*", b"Accept: */*\r\n"),
        ("X-Empty", "", b"X-Empty: \r\n"),
        ("X-Blank", " \t padded \t", b"X-Blank: padded\r\n"),
        ("X-Latin", "café", b"X-Latin: caf\xe9\r\n"),
        ("X-Unicode", "日本", "X-Unicode: 日本\r\n".encode()),
        ("X-Bytes", b"\xe6\x97", b"X-Bytes: \xe6\x97\r\n"),
        ("X!#$%&'*+-.^_`|~9", "tokens", b"X!#$%&'*+-.^_`|~9: tokens\r\n"),
    ],
)
def test_a_field_is_one_line(name: str | bytes, value: object, line: bytes) -> None:
    """A field goes out as Latin-1 where that can say it, else as UTF-8, without blanks around it."""
    assert encode_field(name, value) == line


@pytest.mark.parametrize(
    "value",
    ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "nul\0", "\r\n\r\nGET / HTTP/1.1", b"a\r\nX-Evil: 1", "end\n"],
)
@pytest.mark.parametrize("name", ["X-Good", "Authorization", "cookie"])
def test_a_value_cannot_begin_another_field(name: str, value: str | bytes) -> None:
    """RFC 9110 §5.5: a value with CR, LF or NUL is refused; a secret one is not shown."""
    with pytest.raises(exceptions.InvalidHeader) as raised:
        encode_field(name, value)

    assert name in str(raised.value)
    assert isinstance(raised.value, ValueError)
    if name != "X-Good":
        assert "Evil" not in str(raised.value)
        assert "nul" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nY", "X\nY: 1", "Ümlaut", "X\0", "X\t", "(X)", b"X\r\nY", b""])
def test_a_name_is_a_token(name: str | bytes) -> None:
    """RFC 9110 §5.1: a name that is no token is refused."""
    with pytest.raises(exceptions.InvalidHeader):
        encode_field(name, "value")


@pytest.mark.parametrize("value", [1, 1.5, None, ["a"], {"a": 1}, object(), True])
def test_a_value_is_text(value: object) -> None:
    """What is neither str nor bytes is refused by name and type, as in requests."""
    with pytest.raises(exceptions.InvalidHeader, match=f"'X-Number'.*{type(value).__name__}"):
        encode_field("X-Number", value)


def test_no_message_holds_a_value() -> None:
    """What exceptions.py promises: no message holds a header's value; a token may lie in a field of any name."""
    with pytest.raises(exceptions.InvalidHeader) as raised:
        encode_field("X-Company-Token", "s3cret\n")

    assert "s3cret" not in str(raised.value)


@given(TOKEN, st.text())
def test_no_value_ever_ends_its_line(name: str, value: str) -> None:
    """A field is refused or is exactly one line, whatever the value."""
    try:
        line = encode_field(name, value)
    except exceptions.InvalidHeader:
        return

    assert line.endswith(b"\r\n")
    assert not set(line[:-2]) & set(b"\r\n\0")


# --- PreparedRequest ---


def sent_fields(request: PreparedRequest) -> dict[str, str]:
    lines = request.head(absolute=False).decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}


def test_the_head_as_it_is_sent() -> None:
    """Request line, Host first, then the fields (RFC 9112 §3)."""
    request = prepared("GET", "http://user:pass@example.com:8080/a?b=1#c", Accept="*/*")

    assert request.head(absolute=False) == b"GET /a?b=1 HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\n\r\n"


def test_a_proxy_gets_the_absolute_target() -> None:
    """RFC 9112 §3.2.2: the whole URL, but neither user, password nor fragment."""
    request = prepared("GET", "http://user:pass@example.com:8080/a?b=1#c")

    assert request.head(absolute=True).startswith(
        b"GET http://example.com:8080/a?b=1 HTTP/1.1\r\nHost: example.com:8080\r\n"
    )


def test_a_host_of_ones_own_is_sent_once() -> None:
    """A `Host` set by hand takes the place of the URL's."""
    request = prepared("GET", "http://127.0.0.1/", host="example.com")

    assert request.head(absolute=False).lower().count(b"host:") == 1
    assert sent_fields(request)["host"] == "example.com"


def test_a_shared_header_is_not_changed_by_a_request() -> None:
    """What a request adds to the session's header the session does not get."""
    shared = CaseInsensitiveDict({"Accept": "*/*"})
    request = PreparedRequest("POST", parse_target("http://h/"), shared, shared.block())
    request.set_body({"a": "1"}, None, None)
    request.headers["X-Later"] = "1"
    del request.headers["Accept"]

    assert dict(shared) == {"Accept": "*/*"}
    assert sent_fields(request).keys() == {"host", "content-length", "content-type", "x-later"}


class Unseekable(io.RawIOBase):
    """A pipe, or what behaves like one."""

    def __init__(self, content: bytes) -> None:
        self._left = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._left.readinto(buffer)


def generator() -> Iterator[bytes]:
    yield b"one"
    yield b"two"


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("data", "json", "body", "described"),
    [
        (None, None, b"", {"content-length": "0"}),
        ({}, None, b"", {"content-length": "0"}),
        ([], None, b"", {"content-length": "0"}),
        ("", None, b"", {"content-length": "0"}),
        (b"", None, b"", {"content-length": "0"}),
        ({"a": "1"}, None, b"a=1", {"content-length": "3", "content-type": FORM}),
        ([("a", "1"), ("a", "2")], None, b"a=1&a=2", {"content-length": "7", "content-type": FORM}),
        ((("a", "1"),), None, b"a=1", {"content-length": "3", "content-type": FORM}),
        ({"a": None}, None, b"", {"content-length": "0", "content-type": FORM}),
        ("raw", None, b"raw", {"content-length": "3"}),
        ("äö", None, "äö".encode(), {"content-length": "4"}),
        (b"raw", None, b"raw", {"content-length": "3"}),
        (bytearray(b"raw"), None, b"raw", {"content-length": "3"}),
        (memoryview(b"raw"), None, b"raw", {"content-length": "3"}),
        (None, {"a": 1}, b'{"a": 1}', {"content-length": "8", "content-type": "application/json"}),
        (None, [], b"[]", {"content-length": "2", "content-type": "application/json"}),
        (None, "ü", b'"\\u00fc"', {"content-length": "8", "content-type": "application/json"}),
        (None, 0, b"0", {"content-length": "1", "content-type": "application/json"}),
        (None, False, b"false", {"content-length": "5", "content-type": "application/json"}),
        ({}, {"a": 1}, b'{"a": 1}', {"content-length": "8", "content-type": "application/json"}),
        ({"a": "1"}, {"b": 2}, b"a=1", {"content-length": "3", "content-type": FORM}),
        (io.BytesIO(b"file"), None, b"file", {"content-length": "4"}),
        (io.StringIO("text"), None, b"text", {"content-length": "4"}),
        (Unseekable(b"pipe"), None, b"pipe", {"transfer-encoding": "chunked"}),
        (generator(), None, b"onetwo", {"transfer-encoding": "chunked"}),
        (iter([b"one", b"two"]), None, b"onetwo", {"transfer-encoding": "chunked"}),
    ],
)  # fmt: skip
def test_a_body_and_what_the_header_says_of_it(data: Any, json: Any, body: bytes, described: dict[str, str]) -> None:
    """Every shape of `data` and `json`, with the length, coding and type that requests would send."""
    request = prepared()
    request.set_body(data, None, json)
    opened = request.open_body()

    assert b"".join([opened] if isinstance(opened, bytes) else opened or ()) == body
    fields = sent_fields(request)
    del fields["host"]
    assert fields == described


def test_a_file_is_sent_from_where_it_stands() -> None:
    """What was read before is not sent, and the length counts what is left."""
    file = io.BytesIO(b"headrest")
    file.read(4)
    request = prepared()
    request.set_body(file, None, None)

    assert sent_fields(request)["content-length"] == "4"
    assert b"".join(request.open_body() or ()) == b"rest"  # type: ignore[arg-type]  # an iterable of bytes


def test_text_of_a_text_file_has_the_length_of_its_bytes() -> None:
    """A text file of n characters may be more than n bytes; the length has to be right or nothing can be sent."""
    request = prepared()
    request.set_body(io.StringIO("ä€"), None, None)
    opened = request.open_body() or b""
    body = opened if isinstance(opened, bytes) else b"".join(opened)

    assert body == "ä€".encode()
    assert sent_fields(request).get("content-length", str(len(body))) == str(len(body))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Type": "text/csv"}, {"content-type": "text/csv", "content-length": "3"}),
        ({"content-type": ""}, {"content-type": "", "content-length": "3"}),
    ],
)
def test_a_content_type_of_ones_own_is_kept(headers: dict[str, str], expected: dict[str, str]) -> None:
    """What describes the body may be said by hand."""
    request = prepared(**headers)
    request.set_body({"a": "1"}, None, None)
    fields = sent_fields(request)
    del fields["host"]

    assert fields == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes", {"a": object()}])
def test_what_json_cannot_say(value: Any) -> None:
    """InvalidJSONError, before anything is sent."""
    with pytest.raises(exceptions.InvalidJSONError):
        prepared().set_body(None, None, value)


def test_json_that_contains_itself() -> None:
    """A circular value is an InvalidJSONError as well."""
    circular: list[Any] = []
    circular.append(circular)

    with pytest.raises(exceptions.InvalidJSONError):
        prepared().set_body(None, None, circular)


@pytest.mark.parametrize("data", [5, 1.5, object(), True])
def test_what_is_no_body(data: Any) -> None:
    """TypeError that says what `data` takes."""
    with pytest.raises(TypeError, match="data="):
        prepared().set_body(data, None, None)


def test_a_replayable_body_opens_twice() -> None:
    """Bytes and files can be sent a second time, from where they began."""
    file = io.BytesIO(b"headrest")
    file.read(4)
    request = prepared()
    request.set_body(file, None, None)

    assert request.is_replayable
    for _ in range(3):
        assert b"".join(request.open_body() or ()) == b"rest"  # type: ignore[arg-type]  # an iterable of bytes


def test_a_body_that_cannot_be_wound_back_says_so() -> None:
    """UnrewindableBodyError on the second attempt, never a body cut short."""
    file = io.BytesIO(b"once")
    request = prepared()
    request.set_body(file, None, None)
    assert b"".join(request.open_body() or ()) == b"once"  # type: ignore[arg-type]  # an iterable of bytes
    file.seek = _unseekable  # type: ignore[method-assign]  # a file that forgot how

    with pytest.raises(exceptions.UnrewindableBodyError):
        request.open_body()


def _unseekable(offset: int, whence: int = 0, /) -> int:
    raise io.UnsupportedOperation("seek")


def test_a_generator_cannot_be_replayed() -> None:
    """What can be read only once says so."""
    request = prepared()
    request.set_body(generator(), None, None)

    assert not request.is_replayable


def test_dropping_the_body_drops_what_describes_it() -> None:
    """Without a body the header says nothing about one."""
    request = prepared(Accept="*/*")
    request.set_body({"a": "1"}, None, None)
    request.method = "GET"
    request.drop_body()

    assert request.body is None
    assert sent_fields(request).keys() == {"host", "accept"}


def test_a_copy_of_a_request_is_independent() -> None:
    """Header and URL of a copy are its own, the body is the same."""
    request = prepared("PUT", "http://h/a", Accept="*/*")
    request.set_body(b"body", None, None)
    twin = request.copy()
    twin.headers["Accept"] = "text/html"
    twin.url = "http://h/b"

    assert (request.url, request.headers["Accept"]) == ("http://h/a", "*/*")
    assert (twin.url, twin.path_url, twin.body, twin.method) == ("http://h/b", "/b", b"body", "PUT")


def test_a_request_may_be_sent_elsewhere() -> None:
    """Setting `url` moves the request; a bad one is refused."""
    request = prepared("GET", "http://h/a")
    request.url = "http://other:81/b?c"

    assert request.head(absolute=False).startswith(b"GET /b?c HTTP/1.1\r\nHost: other:81\r\n")
    with pytest.raises(exceptions.MissingSchema):
        request.url = "nowhere"


def test_a_request_shows_its_method() -> None:
    """repr() as in requests, and without the URL, which may hold a password."""
    assert repr(prepared("PUT", "http://u:p@h/")) == "<PreparedRequest [PUT]>"


# --- Response ---


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        (None, None),
        ("", None),
        ("text/html", "ISO-8859-1"),
        ("text/html; charset=utf-8", "utf-8"),
        ("text/html;charset=UTF-8", "UTF-8"),
        ('text/html; charset="utf-8"', "utf-8"),
        ("text/html; charset='utf-8'", "utf-8"),
        ("TEXT/HTML; CHARSET=koi8-r", "koi8-r"),
        ("text/html; charset = utf-8", "utf-8"),
        ("text/html; foo=bar; charset=latin-1; x=y", "latin-1"),
        ("text/html; foo=bar", "ISO-8859-1"),
        ("application/json", "utf-8"),
        ("application/json; charset=utf-16", "utf-16"),
        ("application/octet-stream", None),
        ("image/png", None),
        ("application/xml", None),
    ],
)
def test_the_encoding_that_a_header_tells(content_type: str | None, encoding: str | None) -> None:
    """The charset, else what the media type implies, as requests tells it."""
    assert responded(b"", content_type).encoding == encoding


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"", "text/html", ""),
        ("äö".encode(), "text/html; charset=utf-8", "äö"),
        ("äö".encode("latin-1"), "text/html", "äö"),
        (b"a\xffb", "text/html; charset=utf-8", "a\ufffdb"),
        ("äö".encode(), "text/html; charset=no-such-thing", "äö"),
        ("äö".encode(), "text/html; charset=hex", "äö"),
        ("äöüß sind Umlaute und ein scharfes S".encode(), "application/xml", "äöüß sind Umlaute und ein scharfes S"),
    ],
)
def test_text(body: bytes, content_type: str, text: str) -> None:
    """Decoded by the header's charset, or what it looks like; what does not fit is replaced, nothing raises."""
    assert responded(body, content_type).text == text


def test_an_encoding_set_by_hand_counts() -> None:
    """`encoding` may be set, and `text` follows."""
    response = responded("ä".encode(), "text/plain")
    before = response.text
    response.encoding = "utf-8"

    assert (before, response.text) == ("Ã¤", "ä")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": "\xc3\xa4"}', "application/json"),
        (b'{"a": "\xc3\xa4"}', "application/octet-stream"),
        ('{"a": "ä"}'.encode("utf-16"), "application/json"),
        ('{"a": "ä"}'.encode("utf-16-le"), ""),
        ('{"a": "ä"}'.encode("utf-32-be"), ""),
        ('{"a": "ä"}'.encode("utf-8-sig"), "application/json"),
        ('{"a": "ä"}'.encode("latin-1"), "text/plain; charset=latin-1"),
        ('{"a": "ä"}'.encode("cp1252"), "text/json; charset=windows-1252"),
    ],
)
def test_json_in_any_encoding(body: bytes, content_type: str) -> None:
    """RFC 8259 §8.1: UTF-8, or what older days sent, or what the header says."""
    assert responded(body, content_type).json() == {"a": "ä"}


def test_json_takes_the_options_of_loads() -> None:
    """Keyword arguments go to `json.loads`."""
    assert responded(b'{"a": 1.5}').json(parse_float=str) == {"a": "1.5"}


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": 1', b"\xff\xff", b"[1,]", b'"\n"'])
def test_what_is_not_json(body: bytes) -> None:
    """JSONDecodeError: requests' and the standard library's at once, with response and position."""
    response = responded(body)
    with pytest.raises(exceptions.JSONDecodeError) as raised:
        response.json()

    assert isinstance(raised.value, json.JSONDecodeError)
    assert isinstance(raised.value, exceptions.RequestException)
    assert raised.value.response is response
    assert raised.value.pos >= 0
    assert "line" in str(raised.value)


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (599, False)]
)
def test_a_response_is_true_below_400(status: int, ok: bool) -> None:
    """Truth is `ok`, and `raise_for_status` raises where it is not."""
    response = responded(status=status)

    assert response.ok is bool(response) is ok
    if ok:
        response.raise_for_status()
    else:
        with pytest.raises(exceptions.HTTPError):
            response.raise_for_status()


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_beyond_the_classes_is_no_error(status: int) -> None:
    """As in requests: only 400 to 599 are the client's or the server's error."""
    response = responded(status=status)

    assert response.ok
    response.raise_for_status()


@pytest.mark.parametrize(("status", "side"), [(404, "404 Client Error"), (503, "503 Server Error")])
def test_the_error_of_a_bad_status_tells_no_secret(status: int, side: str) -> None:
    """Status, reason and URL, but neither user, password nor query; request and response are attributes."""
    response = responded(status=status, url="http://ada:s3cret@example.com/a//b?token=s3cret")
    response.reason = "So Sorry"
    with pytest.raises(exceptions.HTTPError) as raised:
        response.raise_for_status()

    assert str(raised.value).startswith(f"{side}: So Sorry for url: http://example.com/a//b")
    assert "s3cret" not in str(raised.value)
    assert raised.value.response is response


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("", {}),
        ('<http://h/2>; rel="next"', {"next": {"url": "http://h/2", "rel": "next"}}),
        (
            '<http://h/2>; rel="next", <http://h/9>; rel=last; title="The, end"',
            {
                "next": {"url": "http://h/2", "rel": "next"},
                "last": {"url": "http://h/9", "rel": "last", "title": "The, end"},
            },
        ),
        ("<http://h/1>", {"http://h/1": {"url": "http://h/1"}}),
        ("<http://h/1>; rel='prev'", {"prev": {"url": "http://h/1", "rel": "prev"}}),
        (
            '</a,b>; rel="next"; type="text/html"',
            {"next": {"url": "/a,b", "rel": "next", "type": "text/html"}},
        ),
    ],
)
def test_links(link: str, expected: dict[str, dict[str, str]]) -> None:
    """RFC 8288, by relation, or by URL where there is none."""
    assert responded(Link=link).links == expected


def test_the_body_in_pieces_after_it_was_read() -> None:
    """A body that is kept may be iterated again and again, in pieces of any size."""
    response = responded(b"abcdefg")

    assert list(response.iter_content(3)) == [b"abc", b"def", b"g"]
    assert list(response.iter_content(None)) == [b"abcdefg"]
    assert list(response) == [b"abcdefg"]
    assert list(responded().iter_content(3)) == []


@pytest.mark.parametrize("size", ["1", 1.5, b"1"])
def test_a_piece_has_a_whole_number_of_bytes(size: Any) -> None:
    """TypeError, at the call."""
    with pytest.raises(TypeError):
        responded(b"abc").iter_content(size)


def test_text_in_pieces_is_never_cut_within_a_character() -> None:
    """`decode_unicode` holds a character back until it is whole."""
    response = responded("aäb€c".encode(), "text/plain; charset=utf-8")

    assert "".join(response.iter_content(1, decode_unicode=True)) == "aäb€c"
    assert all(len(piece) for piece in response.iter_content(1, decode_unicode=True))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 512])
@pytest.mark.parametrize(
    ("body", "delimiter", "lines"),
    [
        (b"", None, []),
        (b"one", None, [b"one"]),
        (b"one\n", None, [b"one"]),
        (b"one\ntwo\n\nfour", None, [b"one", b"two", b"", b"four"]),
        (b"one|two|three", b"|", [b"one", b"two", b"three"]),
        (b"one||two", b"||", [b"one", b"two"]),
        (b"aa\naa\n", None, [b"aa", b"aa"]),
    ],
)
def test_lines_do_not_depend_on_the_pieces(body: bytes, delimiter: bytes | None, lines: list[bytes], size: int) -> None:
    """The same lines, however the body is cut."""
    assert list(responded(body).iter_lines(size, delimiter=delimiter)) == lines


def test_lines_of_text() -> None:
    """With `decode_unicode` lines are str."""
    response = responded("ä\nö".encode(), "text/plain; charset=utf-8")

    assert list(response.iter_lines(1, decode_unicode=True)) == ["ä", "ö"]


@pytest.mark.parametrize("size", [1, 2, 3, 512])
def test_a_line_end_of_two_bytes_is_one_end(size: int) -> None:
    """CR LF ends one line, also when the piece ends between the two (requests finds an empty line there)."""
    assert list(responded(b"one\r\ntwo\r\n").iter_lines(size)) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("status", "location", "redirect", "permanent"),
    [
        (301, "/a", True, True),
        (302, "/a", True, False),
        (303, "/a", True, False),
        (307, "/a", True, False),
        (308, "/a", True, True),
        (300, "/a", False, False),
        (304, "/a", False, False),
        (200, "/a", False, False),
        (302, None, False, False),
    ],
)
def test_what_is_a_redirect(status: int, location: str | None, redirect: bool, permanent: bool) -> None:
    """A status that redirects and a location to go to."""
    response = responded(status=status)
    if location is not None:
        response.headers["Location"] = location

    assert (response.is_redirect, response.is_permanent_redirect) == (redirect, permanent)


def test_a_response_made_by_hand_is_empty() -> None:
    """As in requests: nothing is set, and nothing fails that need not."""
    response = Response()

    assert [response.status_code, response.url, response.request] == [None, None, None]
    assert response.history == []
    assert response.headers == {}
    assert len(response.cookies) == 0
    assert response.elapsed == dt.timedelta(0)
    assert repr(response) == "<Response [None]>"
    response.close()


def test_a_response_pickles() -> None:
    """All that was received survives; what hangs on the connection does not."""
    before = responded("ä".encode(), "text/plain; charset=utf-8", status=404)
    before.reason = "Not Found"
    before.elapsed = dt.timedelta(seconds=1.5)
    before.cookies.set("a", "1")
    before.history = [responded(status=302, Location="/a")]
    after = pickle.loads(pickle.dumps(before))

    assert (after.status_code, after.reason, after.url) == (404, "Not Found", "http://example.com/")
    assert (after.text, after.encoding, after.headers) == ("ä", "utf-8", before.headers)
    assert after.elapsed == dt.timedelta(seconds=1.5)
    assert after.cookies.get_dict() == {"a": "1"}
    assert [hop.status_code for hop in after.history] == [302]
    assert list(after.iter_content(100)) == ["ä".encode()]


def test_a_response_is_a_context_manager() -> None:
    """Leaving the context closes it."""
    with responded(b"body") as response:
        assert response.content == b"body"
