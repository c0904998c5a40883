"""What the caller gets: status, headers, text, JSON, links, encodings, streams, pickles."""

from __future__ import annotations

import codecs
import copy
import gzip
import itertools
import json
import pickle
import zlib
from typing import Any

import brotli  # type: ignore[import-untyped]  # has no types
from backports import zstd

from tests.compat.sides import Row, given
from tests.compat.stage import Stage, generated


def _text(body: Any, *fields: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.get(s.page(body, *fields, **kwargs))


def _json(body: Any, *fields: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.get(s.page(body, *fields)).json(**kwargs)


def _link(value: Any) -> Any:
    return lambda r, s: r.get(s.page(b"", f"Link: {value}")).links


_PAGE = b"first line\nsecond line\r\nthird line\n\nlast"
_DEFLATE_RAW = zlib.compressobj(wbits=-15)

ROWS = [
    *(
        Row(f"responses/status-{status}", given(lambda r, s, status: r.get(s.page(b"x", status=status)), status))
        for status in (
            200,
            201,
            202,
            203,
            204,
            206,
            300,
            304,
            305,
            400,
            401,
            403,
            404,
            410,
            418,
            429,
            451,
            500,
            503,
            504,
        )
    ),
    *(
        Row(
            f"responses/raise-for-status-{status}",
            given(lambda r, s, status: r.get(s.page(b"x", status=status, reason="Odd")).raise_for_status(), status),
        )
        for status in (200, 304, 400, 404, 499, 500, 599)
    ),
    Row("responses/status-unknown", lambda r, s: r.get(s.raw(b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n"))),
    Row("responses/reason", _text(b"", reason="Fine By Me")),
    Row("responses/reason-missing", lambda r, s: r.get(s.raw(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"))),
    Row(
        "responses/reason-latin-1",
        lambda r, s: r.get(s.raw(b"HTTP/1.1 404 Not gefund\xe9n\r\nContent-Length: 0\r\n\r\n")),
    ),
    Row("responses/http-1.0", lambda r, s: r.get(s.raw(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"))),
    Row("responses/without-length", lambda r, s: r.get(s.raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"))),
    Row(
        "responses/continue-first",
        lambda r, s: r.get(s.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    ),
    Row("responses/headers", lambda r, s: dict(r.get(s.page(b"", "X-A: 1", "X-B: 2")).headers)),
    Row("responses/header-case", lambda r, s: _peek(r.get(s.page(b"", "X-A: 1")).headers)),
    Row("responses/header-twice", _text(b"", "X-A: 1", "X-A: 2")),
    Row("responses/header-empty", _text(b"", "X-A: ")),
    Row("responses/header-latin-1", _text(b"", "X-A: caf\xe9")),
    Row(
        "responses/header-folded",
        lambda r, s: r.get(s.raw(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n")),
    ),
    Row("responses/header-missing", lambda r, s: r.get(s.page()).headers["X-Nothing"]),
    Row("responses/header-get", lambda r, s: r.get(s.page()).headers.get("X-Nothing", "default")),
    Row("responses/header-repr", lambda r, s: repr(r.get(s.page(b"", "X-A: 1")).headers)),
    Row(
        "responses/set-cookie-twice",
        lambda r, s: r.get(s.page(b"", "Set-Cookie: a=1", "Set-Cookie: b=2")).headers["Set-Cookie"],
    ),
    # --- text ---
    Row("text/utf-8", _text("größe".encode(), "Content-Type: text/plain; charset=utf-8")),
    Row("text/latin-1", _text("größe".encode("latin-1"), "Content-Type: text/plain; charset=iso-8859-1")),
    Row("text/by-default-latin-1", _text("größe".encode("latin-1"), "Content-Type: text/html")),
    Row("text/charset-quoted", _text(b"x", 'Content-Type: text/plain; charset="utf-8"')),
    Row("text/charset-single-quoted", _text(b"x", "Content-Type: text/plain; charset='utf-8'")),
    Row("text/charset-upper-case", _text(b"x", "Content-Type: text/plain; CHARSET=UTF-8")),
    Row("text/charset-spaced", _text(b"x", "Content-Type: text/plain;  charset = utf-8 ; q=1")),
    Row("text/charset-empty", _text(b"x", "Content-Type: text/plain; charset="), "empty-charset"),
    Row("text/charset-without-value", _text(b"x", "Content-Type: text/plain; charset")),
    Row("text/charset-unknown", _text("größe".encode(), "Content-Type: text/plain; charset=martian")),
    Row("text/charset-wrong", _text(b"\xff\xfe\xfa", "Content-Type: text/plain; charset=utf-8")),
    Row("text/charset-of-another-parameter", _text(b"x", "Content-Type: multipart/x; boundary=charset=latin-1")),
    Row("text/json-type", _text(b"{}", "Content-Type: application/json")),
    Row("text/json-type-charset", _text(b"{}", "Content-Type: application/json; charset=latin-1")),
    Row("text/problem-json-type", _text(b"{}", "Content-Type: application/problem+json")),
    Row("text/xml-type", _text(b"<a/>", "Content-Type: application/xml")),
    Row("text/text-xml-type", _text(b"<a/>", "Content-Type: text/xml")),
    Row("text/binary-type", _text(b"\0\1\2\3", "Content-Type: application/octet-stream")),
    Row("text/no-type", _text("Grüße an alle, die hier lesen, und schöne Tage".encode())),
    Row("text/type-in-capitals", _text(b"x", "Content-Type: TEXT/HTML"), "text-means-text"),
    Row(
        "text/type-that-holds-text",
        _text(b"x", "Content-Type: application/vnd.oasis.opendocument.text"),
        "text-means-text",
    ),
    Row("text/type-empty", _text(b"x", "Content-Type: ")),
    Row("text/empty-body", _text(b"", "Content-Type: text/plain")),
    Row(
        "text/encoding-set",
        lambda r, s: _with_encoding(r.get(s.page("größe".encode(), "Content-Type: text/html")), "utf-8").text,
    ),
    Row(
        "text/encoding-set-none",
        lambda r, s: _with_encoding(r.get(s.page("größe und mehr".encode(), "Content-Type: text/html")), None).text,
    ),
    Row("text/encoding-set-unknown", lambda r, s: _with_encoding(r.get(s.page(b"x")), "martian").text),
    Row("text/apparent-ascii", lambda r, s: r.get(s.page(b"plain words")).apparent_encoding),
    Row("text/apparent-utf-8", lambda r, s: r.get(s.page("Grüße, größer, höher".encode())).apparent_encoding),
    Row("text/apparent-empty", lambda r, s: r.get(s.page(b"")).apparent_encoding),
    Row("text/byte-order-mark", _text(codecs.BOM_UTF8 + b"x", "Content-Type: text/plain; charset=utf-8")),
    # --- json ---
    Row("answers/json", _json(b'{"a": [1, 2.5, null, true]}')),
    Row("answers/json-string", _json(b'"text"')),
    Row("answers/json-null", _json(b"null")),
    Row("answers/json-kwargs", _json(b"1.5", parse_float=str)),
    Row("answers/json-object-hook", _json(b'{"a": 1}', object_pairs_hook=list)),
    Row("answers/json-wrong-type", _json(b"{}", "Content-Type: text/html")),
    Row("answers/json-empty", _json(b"")),
    Row("answers/json-of-no-content", lambda r, s: r.get(s.page(b"", status=204)).json()),
    Row("answers/json-bad", _json(b"{oops")),
    Row("answers/json-html", _json(b"<html>", "Content-Type: text/html")),
    Row("answers/json-trailing", _json(b"{} {}")),
    Row("answers/json-nan", lambda r, s: str(r.get(s.page(b"NaN")).json())),
    Row("answers/json-utf-8", _json('{"ä": "ö"}'.encode())),
    Row(
        "answers/json-utf-8-in-latin-1-type", _json('{"ä": "ö"}'.encode(), "Content-Type: text/plain"), "json-is-utf-8"
    ),
    Row("answers/json-utf-16", _json(json.dumps({"ä": "ö"}, ensure_ascii=False).encode("utf-16"))),
    Row("answers/json-utf-16-le", _json(json.dumps({"ä": "ö"}, ensure_ascii=False).encode("utf-16-le"))),
    Row("answers/json-utf-32", _json(json.dumps({"ä": "ö"}, ensure_ascii=False).encode("utf-32"))),
    Row("answers/json-byte-order-mark", _json(codecs.BOM_UTF8 + b"{}")),
    Row(
        "answers/json-latin-1", _json('{"ä": "ö"}'.encode("latin-1"), "Content-Type: application/json; charset=latin-1")
    ),
    Row("answers/json-error-is-three", lambda r, s: _kinds(r, s)),
    Row("answers/json-error-parts", lambda r, s: _json_error(r, s)),
    # --- links ---
    Row("links/one", _link('<https://a.example/?p=2>; rel="next"')),
    Row(
        "links/two",
        _link('<https://a.example/?p=2>; rel="next", <https://a.example/?p=9>; rel="last"; title="the end"'),
    ),
    Row("links/without-rel", _link("<https://a.example/>")),
    Row("links/two-rels-in-one", _link('</x>; rel="next last"')),
    Row("links/unquoted", _link("</x>; rel=next; type=text/html")),
    Row("links/single-quoted", _link("</x>; rel='next'")),
    Row("links/comma-in-url", _link('</x,y>; rel="next"')),
    Row("links/semicolon-in-quotes", _link('</x>; rel="next"; title="a;b"'), "links-rfc-8288"),
    Row("links/comma-in-quotes", _link('</x>; rel="next"; title="a, b"')),
    Row("links/empty", _link("")),
    Row("links/twice-the-header", lambda r, s: r.get(s.page(b"", 'Link: </a>; rel="a"', 'Link: </b>; rel="b"')).links),
    Row("links/garbage", _link("nothing of the kind"), "links-rfc-8288"),
    Row("links/none", lambda r, s: r.get(s.page()).links),
    # --- encodings ---
    Row("encodings/gzip", _text(gzip.compress(b"packed" * 50, mtime=0), "Content-Encoding: gzip")),
    Row("encodings/x-gzip", _text(gzip.compress(b"packed" * 50, mtime=0), "Content-Encoding: x-gzip")),
    Row("encodings/gzip-upper-case", _text(gzip.compress(b"packed", mtime=0), "Content-Encoding: GZIP")),
    Row(
        "encodings/gzip-two-members",
        _text(gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0), "Content-Encoding: gzip"),
    ),
    Row("encodings/gzip-empty", _text(b"", "Content-Encoding: gzip")),
    Row(
        "encodings/gzip-chunked",
        _text(
            [gzip.compress(b"packed" * 50, mtime=0)[:20], gzip.compress(b"packed" * 50, mtime=0)[20:]],
            "Content-Encoding: gzip",
        ),
    ),
    Row("encodings/gzip-broken", _text(b"not packed at all", "Content-Encoding: gzip")),
    Row(
        "encodings/gzip-truncated",
        _text(gzip.compress(b"packed" * 500, mtime=0)[:-12], "Content-Encoding: gzip"),
        "truncated-gzip",
        raises="ContentDecodingError",
    ),
    Row(
        "encodings/gzip-broken-streamed",
        lambda r, s: list(r.get(s.page(b"not packed", "Content-Encoding: gzip"), stream=True).iter_content(10)),
    ),
    Row("encodings/gzip-on-head", lambda r, s: r.head(s.page(gzip.compress(b"x", mtime=0), "Content-Encoding: gzip"))),
    Row("encodings/gzip-on-204", _text(b"", "Content-Encoding: gzip", status=204)),
    Row(
        "encodings/gzip-raw",
        lambda r, s: r.get(s.page(gzip.compress(b"x", mtime=0), "Content-Encoding: gzip"), stream=True).raw.read(),
    ),
    Row(
        "encodings/gzip-raw-decoded",
        lambda r, s: r.get(s.page(gzip.compress(b"x", mtime=0), "Content-Encoding: gzip"), stream=True).raw.read(
            decode_content=True
        ),
    ),
    Row("encodings/deflate", _text(zlib.compress(b"packed" * 50), "Content-Encoding: deflate")),
    Row(
        "encodings/deflate-raw",
        _text(_DEFLATE_RAW.compress(b"packed" * 50) + _DEFLATE_RAW.flush(), "Content-Encoding: deflate"),
    ),
    Row("encodings/brotli", _text(brotli.compress(b"packed" * 50), "Content-Encoding: br")),
    Row("encodings/zstd", _text(zstd.compress(b"packed" * 50), "Content-Encoding: zstd")),
    Row(
        "encodings/two-at-once",
        _text(gzip.compress(zlib.compress(b"packed"), mtime=0), "Content-Encoding: deflate, gzip"),
    ),
    Row("encodings/identity", _text(b"plain", "Content-Encoding: identity")),
    Row("encodings/unknown", _text(b"plain", "Content-Encoding: rot13")),
    # --- streams ---
    Row("streams/chunked", _text([b"one", b"two", b"three"])),
    Row("streams/iter-content", lambda r, s: list(r.get(s.page(_PAGE), stream=True).iter_content(7))),
    Row("streams/iter-content-by-one", lambda r, s: list(r.get(s.page(b"abc"), stream=True).iter_content())),
    Row("streams/iter-content-none", lambda r, s: list(r.get(s.page(_PAGE), stream=True).iter_content(None))),
    Row(
        "streams/iter-content-chunked",
        lambda r, s: b"".join(r.get(s.page([b"one", b"two"]), stream=True).iter_content(4)),
    ),
    Row("streams/iter-content-not-streamed", lambda r, s: list(r.get(s.page(_PAGE)).iter_content(7))),
    Row("streams/iter-content-not-streamed-none", lambda r, s: list(r.get(s.page(_PAGE)).iter_content(None))),
    Row("streams/iter-content-not-streamed-twice", lambda r, s: _twice(r.get(s.page(_PAGE)))),
    Row("streams/iter-content-twice", lambda r, s: _twice(r.get(s.page(_PAGE), stream=True))),
    Row(
        "streams/iter-content-then-content",
        lambda r, s: _content_after(r.get(s.page(_PAGE), stream=True)),
        "consumed-error",
        raises="StreamConsumedError",
    ),
    Row("streams/content-then-iter-content", lambda r, s: _iterated_after(r.get(s.page(_PAGE), stream=True))),
    Row(
        "streams/half-then-content",
        lambda r, s: _half_then_content(r.get(s.page(_PAGE), stream=True)),
        "half-read",
        raises="StreamConsumedError",
    ),
    Row("streams/half-then-again", lambda r, s: _half_then_again(r.get(s.page(_PAGE), stream=True))),
    Row("streams/iter-content-empty", lambda r, s: list(r.get(s.page(b""), stream=True).iter_content(7))),
    Row("streams/iter-content-wrong-size", lambda r, s: r.get(s.page(), stream=True).iter_content("7")),
    Row("streams/iter-content-float", lambda r, s: r.get(s.page(), stream=True).iter_content(7.0)),
    Row(
        "streams/iter-content-unicode",
        lambda r, s: list(
            r.get(s.page("größe".encode(), "Content-Type: text/plain; charset=utf-8"), stream=True).iter_content(
                3, decode_unicode=True
            )
        ),
    ),
    Row(
        "streams/iter-content-unicode-no-encoding",
        lambda r, s: list(r.get(s.page(b"abc"), stream=True).iter_content(3, decode_unicode=True)),
    ),
    Row(
        "streams/iter-content-unicode-unknown",
        lambda r, s: list(
            r.get(s.page(b"abc", "Content-Type: text/plain; charset=martian"), stream=True).iter_content(
                3, decode_unicode=True
            )
        ),
    ),
    Row(
        "streams/iter-content-gzip",
        lambda r, s: b"".join(
            r.get(s.page(gzip.compress(_PAGE, mtime=0), "Content-Encoding: gzip"), stream=True).iter_content(5)
        ),
    ),
    Row("streams/iter", lambda r, s: list(r.get(s.page(b"x" * 300), stream=True))),
    Row("streams/iter-lines", lambda r, s: list(r.get(s.page(_PAGE), stream=True).iter_lines())),
    Row("streams/iter-lines-not-streamed", lambda r, s: list(r.get(s.page(_PAGE)).iter_lines())),
    Row("streams/iter-lines-small", lambda r, s: list(r.get(s.page(b"a\nbb\nccc"), stream=True).iter_lines(1))),
    Row(
        "streams/iter-lines-crlf-split",
        lambda r, s: list(r.get(s.page(b"a\r\nb\r\n"), stream=True).iter_lines(2)),
        "lines-crlf",
    ),
    Row(
        "streams/iter-lines-unicode",
        lambda r, s: list(
            r.get(s.page("ä\nö".encode(), "Content-Type: text/plain; charset=utf-8"), stream=True).iter_lines(
                decode_unicode=True
            )
        ),
    ),
    Row(
        "streams/iter-lines-delimiter",
        lambda r, s: list(r.get(s.page(b"a;b;c"), stream=True).iter_lines(delimiter=b";")),
    ),
    Row(
        "streams/iter-lines-delimiter-at-the-end",
        lambda r, s: list(r.get(s.page(b"a;b;"), stream=True).iter_lines(delimiter=b";")),
    ),
    Row(
        "streams/iter-lines-delimiter-split",
        lambda r, s: list(r.get(s.page(b"a||b||c"), stream=True).iter_lines(2, delimiter=b"||")),
        "lines-delimiter",
    ),
    Row("streams/iter-lines-empty", lambda r, s: list(r.get(s.page(b""), stream=True).iter_lines())),
    Row("streams/iter-lines-chunked", lambda r, s: list(r.get(s.page([b"a\nb", b"c\n"]), stream=True).iter_lines())),
    Row("streams/raw-read", lambda r, s: r.get(s.page(_PAGE), stream=True).raw.read(5)),
    Row("streams/raw-stream", lambda r, s: list(r.get(s.page(_PAGE), stream=True).raw.stream(8))),
    Row(
        "streams/raw-headers",
        lambda r, s: r.get(s.page(b"", "X-A: 1", "X-A: 2"), stream=True).raw.headers.getlist("X-A"),
    ),
    Row("streams/raw-status", lambda r, s: r.get(s.page(), stream=True).raw.status),
    Row("streams/raw-version", lambda r, s: r.get(s.page(), stream=True).raw.version),
    Row("streams/raw-after-reading", lambda r, s: r.get(s.page(_PAGE)).raw.read()),
    Row("streams/content-streamed", lambda r, s: r.get(s.page(_PAGE), stream=True)),
    Row("streams/context-manager", lambda r, s: _in_context(r.get(s.page(_PAGE), stream=True))),
    Row(
        "streams/closed-unread",
        lambda r, s: _closed(r.get(s.page(_PAGE), stream=True)),
        "closed-unread",
        raises="StreamConsumedError",
    ),
    Row("streams/closed-read", lambda r, s: _closed(r.get(s.page(_PAGE)))),
    Row("streams/closed-twice", lambda r, s: [(response := r.get(s.page())).close(), response.close()]),
    Row("streams/session-stream", lambda r, s: _session_stream(r, s)),
    Row(
        "streams/pieces-first",
        lambda r, s: list(itertools.islice(r.get(s.page(generated(b"a", b"b")), stream=True).iter_content(None), 1)),
    ),
    Row("streams/head", lambda r, s: r.head(s.page(_PAGE), stream=True)),
    # --- made by hand, copied, pickled ---
    Row(
        "pickling/response",
        lambda r, s: pickle.loads(pickle.dumps(r.get(s.page(_PAGE, "X-A: 1", "Set-Cookie: a=1")))),
        "pickled-next",
        "got.next",
    ),
    Row(
        "pickling/response-streamed",
        lambda r, s: pickle.loads(pickle.dumps(r.get(s.page(_PAGE), stream=True))),
        "pickled-next",
        "got.next",
    ),
    Row(
        "pickling/response-redirected",
        lambda r, s: pickle.loads(pickle.dumps(r.get(s.hops(2)))),
        "pickled-next",
        "got.next",
    ),
    Row("pickling/response-raw", lambda r, s: pickle.loads(pickle.dumps(r.get(s.page(_PAGE)))).raw),
    Row("pickling/response-json", lambda r, s: pickle.loads(pickle.dumps(r.get(s.page(b"[1]")))).json()),
    Row("pickling/session", lambda r, s: _pickled_session(r, s).get(s.url + "/a")),
    Row("pickling/session-attributes", lambda r, s: _attributes(_pickled_session(r, s))),
    Row("pickling/prepared-request", lambda r, s: s.session(r).send(pickle.loads(pickle.dumps(_prepared(r, s))))),
    Row(
        "pickling/request",
        lambda r, s: pickle.loads(pickle.dumps(r.Request("GET", s.url + "/a", params={"a": "1"}))).prepare(),
    ),
    Row(
        "pickling/jar",
        lambda r, s: pickle.loads(pickle.dumps(r.get(s.page(b"", "Set-Cookie: a=1")).cookies)).get_dict(),
    ),
    Row(
        "pickling/http-error",
        lambda r, s: (
            type(pickle.loads(pickle.dumps(_caught(lambda: r.get(s.page(status=404)).raise_for_status())))).__name__
        ),
    ),
    Row("pickling/connection-error", lambda r, s: pickle.loads(pickle.dumps(_caught(lambda: r.get(s.dead))))),
    Row("pickling/json-error", lambda r, s: pickle.loads(pickle.dumps(_caught(lambda: r.get(s.page(b"{")).json())))),
    Row(
        "pickling/case-insensitive-dict",
        lambda r, s: pickle.loads(pickle.dumps(r.structures.CaseInsensitiveDict(A=1)))["a"],
    ),
    Row("copying/session", lambda r, s: _attributes(copy.copy(s.session(r)))),
    Row("copying/response", lambda r, s: copy.copy(r.get(s.page(_PAGE))), "pickled-next", "got.next"),
    Row("responses/by-hand-empty", lambda r, s: r.models.Response(), "response-empty", ("got.reason", "got.content")),
    Row("responses/by-hand", lambda r, s: _by_hand(r)),
    Row("responses/truth", lambda r, s: [bool(r.get(s.page(status=status))) for status in (200, 304, 404, 500)]),
    Row("responses/elapsed-positive", lambda r, s: r.get(s.page()).elapsed.total_seconds() > 0),
    Row("responses/connection", lambda r, s: type(r.get(s.page()).connection).__name__, "response-connection"),
    Row("responses/request-url", lambda r, s: r.get(s.page(), params={"a": "1"}).request.url),
    Row("responses/request-headers", lambda r, s: r.get(s.page(), headers={"X-A": "1"}).request.headers["x-a"]),
]


def _peek(headers: Any) -> Any:
    return [headers["x-a"], headers["X-A"], "x-A" in headers, headers.get("X-a"), list(headers)]


def _with_encoding(response: Any, encoding: Any) -> Any:
    response.encoding = encoding
    return response


def _caught(call: Any) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


def _kinds(r: Any, s: Stage) -> Any:
    error = _caught(r.get(s.page(b"{")).json)
    return [
        isinstance(error, kind)
        for kind in (
            r.exceptions.JSONDecodeError,
            r.exceptions.InvalidJSONError,
            json.JSONDecodeError,
            ValueError,
            OSError,
        )
    ]


def _json_error(r: Any, s: Stage) -> Any:
    error = _caught(r.get(s.page(b'{"a": ]}')).json)
    return [error.msg, error.doc, error.pos, error.lineno, error.colno]


def _twice(response: Any) -> Any:
    return [list(response.iter_content(7)), list(response.iter_content(7))]


def _content_after(response: Any) -> Any:
    list(response.iter_content(7))
    return response.content


def _iterated_after(response: Any) -> Any:
    return [response.content, list(response.iter_content(7))]


def _half_then_content(response: Any) -> Any:
    return [next(response.iter_content(7)), response.content]


def _half_then_again(response: Any) -> Any:
    return [next(response.iter_content(7)), next(response.iter_content(7))]


def _in_context(response: Any) -> Any:
    with response as same:
        return same.content


def _closed(response: Any) -> Any:
    response.close()
    return response.content


def _session_stream(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.stream = True
    return list(session.get(s.page(_PAGE)).iter_content(9))


def _pickled_session(r: Any, s: Stage) -> Any:
    session = s.session(r)
    session.headers["X-A"] = "1"
    session.params = {"p": "1"}
    session.auth = ("user", "password")
    session.cookies.set("a", "1", domain="127.0.0.1", path="/")
    session.max_redirects = 7
    session.verify = False
    session.proxies = {"https": "http://proxy.example"}
    return pickle.loads(pickle.dumps(session))


def _attributes(session: Any) -> Any:
    names = ("params", "max_redirects", "verify", "cert", "stream", "trust_env", "proxies")
    return {
        **{name: getattr(session, name) for name in names},
        "cookies": sorted(session.cookies.items()),
        "x": session.headers.get("X-A"),
        "adapters": list(session.adapters),
        "hooks": session.hooks,
    }


def _prepared(r: Any, s: Stage) -> Any:
    return r.Request(
        "POST", s.url + "/a", data={"a": "1"}, headers={"User-Agent": "me", "Accept-Encoding": "gzip"}, auth=("u", "p")
    ).prepare()


def _by_hand(r: Any) -> Any:
    response = r.models.Response()
    response.status_code = 404
    response.reason = "Nowhere"
    response.url = "http://example.com/"
    response._content = b"by hand"
    response.encoding = "utf-8"
    response.headers["X-A"] = "1"
    return response
