"""Bodies: forms, bytes, streams, files, JSON."""

from __future__ import annotations

import array
import decimal
import io
import math
from collections import OrderedDict
from typing import Any

from tests.compat.sides import Row
from tests.compat.stage import Pieces, Stage, generated


def _post(data: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.post(s.url + "/a", data=data() if callable(data) else data, **kwargs)


def _json(value: Any, **kwargs: Any) -> Any:
    return lambda r, s: r.post(s.url + "/a", json=value, **kwargs)


def _files(files: Any, data: Any = None, **kwargs: Any) -> Any:
    return lambda r, s: r.post(s.url + "/a", files=files(s) if callable(files) else files, data=data, **kwargs)


ROWS = [
    # --- data ---
    Row("bodies/form", _post({"a": "1", "b": "2"})),
    Row("bodies/form-pairs", _post([("a", "1"), ("a", "2")])),
    Row("bodies/form-tuple-of-pairs", _post((("a", "1"), ("b", "2")))),
    Row("bodies/form-lists", _post({"a": ["1", "2"], "b": ("3",)})),
    Row("bodies/form-none", _post({"a": None, "b": "1"})),
    Row("bodies/form-only-none", _post({"a": None}), "empty-form", ("got", "seen")),
    Row("bodies/form-numbers", _post({"a": 1, "b": 2.5, "c": False})),
    Row("bodies/form-unicode", _post({"é": "ü ö"})),
    Row("bodies/form-bytes", _post({b"a": b"\xff"})),
    Row("bodies/form-reserved", _post({"a": "x&y=z+ %"})),
    Row("bodies/form-ordered", _post(OrderedDict([("z", "1"), ("a", "2")]))),
    Row("bodies/form-empty", _post({})),
    Row("bodies/form-empty-list", _post([])),
    Row("bodies/form-not-pairs", _post(["abc"])),
    Row("bodies/str", _post("plain")),
    Row("bodies/str-unicode", _post("grüße")),
    Row("bodies/str-beyond-latin-1", _post("привет")),
    Row("bodies/str-empty", _post("")),
    Row("bodies/str-on-put", lambda r, s: r.put(s.url + "/a", data="x")),
    Row("bodies/bytes", _post(b"\0\xff")),
    Row("bodies/bytes-empty", _post(b"")),
    Row("bodies/bytearray", _post(lambda: bytearray(b"abc")), "bytes-like", "got.request.body"),
    Row("bodies/memoryview", _post(lambda: memoryview(b"abc")), "bytes-like", "got.request.body"),
    Row("bodies/array", _post(lambda: array.array("b", b"abc")), "bytes-like", "got.request.body"),
    Row("bodies/bytes-large", _post(b"x" * 300_000)),
    Row("bodies/generator", _post(lambda: generated(b"one", b"two"))),
    Row("bodies/generator-empty", _post(lambda: generated())),
    Row("bodies/generator-with-an-empty-piece", _post(lambda: generated(b"one", b"", b"two"))),
    Row("bodies/generator-of-str", _post(lambda: iter(["one", "two"]))),
    Row("bodies/iterator", _post(lambda: iter([b"one", b"two"]))),
    Row("bodies/iterable", _post(lambda: Pieces(b"one", b"two"))),
    Row(
        "bodies/generator-with-length",
        lambda r, s: r.post(s.url + "/a", generated(b"one", b"two"), headers={"Content-Length": "6"}, timeout=1),
        "length-of-an-iterable",
        ("got", "seen"),
    ),
    Row("bodies/set", _post({b"one"}), "length-of-an-iterable", ("got", "seen"), raises="RequestException"),
    Row("bodies/file", lambda r, s: r.post(s.url + "/a", data=s.file(b"from a file"))),
    Row("bodies/file-from-the-middle", lambda r, s: r.post(s.url + "/a", data=_at(s.file(b"from a file"), 5))),
    Row("bodies/file-empty", lambda r, s: r.post(s.url + "/a", data=s.file(b"")), "empty-stream", ("got", "seen")),
    Row("bodies/file-text", lambda r, s: _text_file(r, s)),
    Row("bodies/bytes-io", _post(lambda: io.BytesIO(b"in memory"))),
    Row("bodies/bytes-io-from-the-middle", _post(lambda: _at(io.BytesIO(b"in memory"), 3))),
    Row("bodies/bytes-io-empty", _post(lambda: io.BytesIO(b"")), "empty-stream", ("got", "seen")),
    Row("bodies/string-io", _post(lambda: io.StringIO("in memory"))),
    Row("bodies/string-io-unicode", _post(lambda: io.StringIO("größe")), "text-file", ("got", "seen")),
    Row("bodies/pipe", lambda r, s: r.post(s.url + "/a", data=_Unsized(b"from a pipe"))),
    Row("bodies/with-len-attribute", lambda r, s: r.post(s.url + "/a", data=_WithLen(b"with len"))),
    Row("bodies/number", _post(5)),
    Row("bodies/none", _post(None)),
    Row("bodies/object", _post(lambda: object())),
    Row("bodies/put-file", lambda r, s: r.put(s.url + "/a", data=s.file(b"put"))),
    Row("bodies/get-generator", lambda r, s: r.get(s.url + "/a", data=generated(b"one"))),
    Row("bodies/data-and-json", lambda r, s: r.post(s.url + "/a", data={"a": "1"}, json={"b": 2})),
    Row("bodies/empty-data-and-json", lambda r, s: r.post(s.url + "/a", data={}, json={"b": 2})),
    Row("bodies/empty-bytes-and-json", lambda r, s: r.post(s.url + "/a", data=b"", json={"b": 2})),
    Row("bodies/request-body-form", lambda r, s: r.post(s.url + "/a", {"a": "1"}).request.body, "body-bytes"),
    Row("bodies/request-body-json", lambda r, s: r.post(s.url + "/a", json=[1]).request.body),
    Row("bodies/request-body-bytes", lambda r, s: r.post(s.url + "/a", b"x").request.body),
    Row("bodies/request-body-none", lambda r, s: r.post(s.url + "/a").request.body),
    Row("bodies/request-body-get", lambda r, s: r.get(s.url + "/a").request.body),
    # --- json ---
    Row("json/object", _json({"a": [1, 2.5, None, True], "b": {"c": "d"}})),
    Row("json/list", _json([1, 2])),
    Row("json/empty-object", _json({})),
    Row("json/empty-list", _json([])),
    Row("json/zero", _json(0)),
    Row("json/false", _json(False)),
    Row("json/string", _json("text")),
    Row("json/empty-string", _json("")),
    Row("json/none", _json(None)),
    Row("json/unicode", _json({"é": "ü\u2028"})),
    Row("json/tuple", _json((1, 2))),
    Row("json/integer-keys", _json({1: 2})),
    Row("json/nan", _json(math.nan)),
    Row("json/infinity-inside", _json({"a": [math.inf]})),
    Row("json/not-encodable", _json({"a": object()}), "json-type-error", raises="InvalidJSONError"),
    Row("json/decimal", _json(decimal.Decimal(1)), "json-type-error", raises="InvalidJSONError"),
    Row("json/set", _json({1}), "json-type-error", raises="InvalidJSONError"),
    Row("json/circular", lambda r, s: r.post(s.url + "/a", json=_circle())),
    Row("json/on-put", lambda r, s: r.put(s.url + "/a", json={"a": 1})),
    Row("json/on-patch", lambda r, s: r.patch(s.url + "/a", json={"a": 1})),
    Row("json/on-delete", lambda r, s: r.delete(s.url + "/a", json={"a": 1})),
    # --- files ---
    Row("files/bytes", _files({"f": b"content"})),
    Row("files/str", _files({"f": "content"})),
    Row("files/file", _files(lambda s: {"f": s.file(b"content")}), "multipart-stream", "got.request.body"),
    Row("files/bytes-io", _files(lambda s: {"f": io.BytesIO(b"content")}), "multipart-stream", "got.request.body"),
    Row("files/string-io", _files(lambda s: {"f": io.StringIO("content")}), "multipart-stream", "got.request.body"),
    Row("files/name", _files({"f": ("report.csv", b"a,b")})),
    Row("files/name-and-type", _files({"f": ("report.csv", b"a,b", "text/csv")})),
    Row("files/name-type-headers", _files({"f": ("report.csv", b"a,b", "text/csv", {"Expires": "0"})})),
    Row("files/list-instead-of-tuple", _files({"f": ["report.csv", b"a,b"]})),
    Row("files/name-none", _files({"f": (None, b"no file")})),
    Row("files/name-none-type", _files({"f": (None, b"{}", "application/json")})),
    Row("files/name-unicode", _files({"f": ("größe.txt", b"x")})),
    Row("files/name-with-quote", _files({"f": ('a"b\r\n.txt', b"x")})),
    Row("files/field-unicode", _files({"gr\u00f6\u00dfe": b"x"})),
    Row("files/type-none", _files({"f": ("a.png", b"x", None)})),
    Row("files/several", _files({"f": b"one", "g": b"two"})),
    Row("files/same-field-twice", _files([("f", ("a.txt", b"1")), ("f", ("b.txt", b"2"))])),
    Row("files/with-data", _files({"f": b"x"}, {"a": "1", "b": ["2", "3"]})),
    Row("files/with-data-pairs", _files({"f": b"x"}, [("a", "1"), ("a", "2")])),
    Row("files/with-data-none-value", _files({"f": b"x"}, {"a": None, "b": "1"})),
    Row("files/with-data-number", _files({"f": b"x"}, {"a": 1, "b": 1.5})),
    Row("files/with-data-bytes-value", _files({"f": b"x"}, {"a": b"\xff"})),
    Row("files/with-data-bytes-name", _files({"f": b"x"}, {b"a": "1"})),
    Row("files/with-data-str", _files({"f": b"x"}, "a=1")),
    Row("files/with-data-bytes", _files({"f": b"x"}, b"a=1")),
    Row("files/with-data-stream", _files({"f": b"x"}, io.BytesIO(b"stream"))),
    Row("files/with-json", lambda r, s: r.post(s.url + "/a", files={"f": b"x"}, json={"a": 1})),
    Row("files/content-none", _files({"f": ("a.txt", None), "g": b"x"})),
    Row("files/only-none", _files({"f": None})),
    Row("files/empty-mapping", _files({})),
    Row("files/empty-file", _files({"f": b""})),
    Row(
        "files/at-its-end", _files(lambda s: {"f": _at(s.file(b"content"), 7)}), "multipart-stream", "got.request.body"
    ),
    Row(
        "files/from-the-middle",
        _files(lambda s: {"f": _at(s.file(b"content"), 3)}),
        "multipart-stream",
        "got.request.body",
    ),
    Row("files/number", _files({"f": 5})),
    Row("files/empty-name", _files({"f": ("", b"x")})),
    Row("files/bytearray", _files({"f": bytearray(b"abc")})),
    Row("files/on-get", lambda r, s: r.get(s.url + "/a", files={"f": b"x"})),
    Row("files/on-put", lambda r, s: r.put(s.url + "/a", files={"f": b"x"})),
    Row(
        "files/content-type-by-hand",
        _files({"f": b"x"}, headers={"Content-Type": "multipart/x"}),
        "multipart-boundary",
        ("got", "seen"),
    ),
    Row("files/path-in-the-name", _files({"f": ("dir/a.txt", b"x")})),
    Row(
        "files/boundaries",
        lambda r, s: r.post(s.url + "/b", files={"f": b"x"}).request.headers["Content-Type"],
        "multipart-boundary",
    ),
    Row("files/session", lambda r, s: s.session(r).post(s.url + "/a", files={"f": ("a.txt", b"x")}, data={"a": "1"})),
    Row(
        "files/prepared-body-type", lambda r, s: isinstance(r.post(s.url + "/a", files={"f": b"x"}).request.body, bytes)
    ),
]


def _at(file: Any, position: Any) -> Any:
    file.seek(position)
    return file


def _circle() -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _text_file(r: Any, s: Stage) -> Any:
    s.file("größe".encode())
    with (s.tmp / "notes.txt").open(encoding="utf-8") as file:
        return r.post(s.url + "/a", data=file)


class _Unsized:
    """A file-like whose size nobody can tell."""

    def __init__(self, content: Any) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: Any = -1) -> Any:
        return self._file.read(size)

    def __iter__(self) -> Any:
        yield self._file.read()


class _WithLen(_Unsized):
    """A file-like that says how much is left, as requests-toolbelt's do."""

    def __init__(self, content: Any) -> None:
        super().__init__(content)
        self.len = len(content)
