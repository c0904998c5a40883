"""What the arguments of a request make of a body, and how a body that is read while it is sent is measured and read."""

from __future__ import annotations

import codecs
import email
import email.policy
import gzip
import io
import mmap
import os
import pickle
import socket
import tempfile
import zipfile
from array import array
from collections import UserDict, deque
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from sessionpool import exceptions
from sessionpool._bodies import PIECE, Multipart, Stream, encode, encode_form, encode_multipart
from sessionpool._messages import CaseInsensitiveDict, PreparedRequest
from sessionpool._urls import parse_target

# --- forms ---


@pytest.mark.parametrize(
    ("data", "encoded"),
    [
        ("a=1", "a=1"),
        (b"a=1", b"a=1"),
        ({"a": "1", "b": "2 3"}, "a=1&b=2+3"),
        ({"a": ["1", "2"], "b": {"x"}}, "a=1&a=2&b=x"),
        ([("a", "1"), ("a", None), ("a", 3)], "a=1&a=3"),
        ([["a", "1"]], "a=1"),
        ({"ü": "€"}, "%C3%BC=%E2%82%AC"),
        ({}, ""),
    ],
)
def test_a_form(data: Any, encoded: str | bytes) -> None:
    """Mappings and pairs are encoded, text is taken as it is."""
    assert encode_form(data) == encoded


# --- multipart ---


def parts_of(body: bytes, content_type: str) -> list[tuple[Any, ...]]:
    """Name, file name, content type and content of each part, by the standard library's own parser."""
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
    )
    assert isinstance(message, EmailMessage)
    found = []
    for part in message.iter_parts():
        of = part["content-disposition"].params
        has_type = "content-type" in part
        found.append(
            (
                of["name"],
                of.get("filename"),
                part.get_content_type() if has_type else None,
                part.get_payload(decode=True),
            )
        )
    return found


def whole(body: bytes | Multipart) -> bytes:
    """What would be sent."""
    return body if isinstance(body, bytes) else body.read()


class Named(io.BytesIO):
    name = "/some/where/report.txt"


@pytest.mark.parametrize(
    ("files", "data", "expected"),
    [
        ({"f": b"bytes"}, None, [("f", "f", None, b"bytes")]),
        ({"f": "text"}, None, [("f", "f", None, b"text")]),
        ({"f": io.BytesIO(b"file")}, None, [("f", "f", None, b"file")]),
        ({"f": Named(b"named")}, None, [("f", "report.txt", None, b"named")]),
        ({"f": ("a.txt", "two")}, None, [("f", "a.txt", None, b"two")]),
        ({"f": ("a.csv", io.BytesIO(b"x"), "text/csv")}, None, [("f", "a.csv", "text/csv", b"x")]),
        ({"f": ("a.csv", "x", "text/csv", {"X-Extra": "1"})}, None, [("f", "a.csv", "text/csv", b"x")]),
        ({"f": (None, "no file")}, None, [("f", None, None, b"no file")]),
        ({"f": None, "g": "x"}, None, [("g", "g", None, b"x")]),
        ([("f", "1"), ("f", ("b", "2"))], None, [("f", "f", None, b"1"), ("f", "b", None, b"2")]),
        ({"f": "x"}, {"a": "1"}, [("a", None, None, b"1"), ("f", "f", None, b"x")]),
        ({"f": ""}, [("a", "1"), ("a", 2)], [("a", None, None, b"1"), ("a", None, None, b"2"), ("f", "f", None, b"")]),
        ({"f": None}, {"a": ["1", None, b"\xff"], "b": None}, [("a", None, None, b"1"), ("a", None, None, b"\xff")]),
        ({"f": ""}, None, [("f", "f", None, b"")]),
        ({"f": bytearray(b"array")}, None, [("f", "f", None, b"array")]),
    ],
)  # fmt: skip
def test_a_multipart_body(files: Any, data: Any, expected: list[tuple[Any, ...]]) -> None:
    """Every shape of `files` that requests takes, fields of `data` first."""
    body, content_type = encode_multipart(files, data)

    assert content_type.startswith("multipart/form-data; boundary=")
    assert parts_of(whole(body), content_type) == expected


def test_a_real_file_keeps_its_name_and_nothing_of_its_path(tmp_path: Path) -> None:
    """The server learns the file's name, not where it lay."""
    file = tmp_path / "report.pdf"
    file.write_bytes(b"%PDF")
    with file.open("rb") as opened:
        body = whole((encoded := encode_multipart({"f": opened}, None))[0])
    content_type = encoded[1]

    assert parts_of(body, content_type) == [("f", "report.pdf", None, b"%PDF")]
    assert str(tmp_path).encode() not in body


@pytest.mark.parametrize("data", ["a=1", b"a=1"])
def test_files_and_a_raw_body_exclude_each_other(data: str | bytes) -> None:
    """ValueError, as in requests."""
    with pytest.raises(ValueError, match="data"):
        encode_multipart({"f": "x"}, data)


@pytest.mark.parametrize("name", ['quo"te', "line\r\nbreak", "ünïcode", "a;b", "back\\slash"])
def test_no_name_ends_its_part(name: str) -> None:
    """A field's or file's name cannot add a line to the part's header."""
    body, content_type = encode_multipart({name: (name, "content")}, {name: "value"})
    assert isinstance(body, bytes)
    boundary = content_type.partition("boundary=")[2].encode()

    assert body.count(boundary) == 3
    assert body.count(b"Content-Disposition") == 2
    for part in body.split(b"--" + boundary)[1:-1]:
        assert len(part.partition(b"\r\n\r\n")[0].strip(b"\r\n").split(b"\r\n")) == 1


@pytest.mark.parametrize(
    ("name", "filename", "rendered"),
    [
        ("f", "ä€.txt", 'name="f"; filename="ä€.txt"'),
        ("ñ", "a.txt", 'name="ñ"; filename="a.txt"'),
        (b"f", "ä.txt".encode(), 'name="f"; filename="ä.txt"'),
        ("f", None, 'name="f"'),
        ('a"b', "c\r\nd", 'name="a%22b"; filename="c%0D%0Ad"'),
    ],
)
def test_names_are_rendered_as_browsers_do(name: Any, filename: Any, rendered: str) -> None:
    """UTF-8 as it is, and a quote or line break escaped, as requests and urllib3 write them."""
    body, _ = encode_multipart({name: (filename, b"content")}, None)

    assert f"\r\nContent-Disposition: form-data; {rendered}\r\n\r\ncontent\r\n".encode() in whole(body)


def test_a_file_name_that_is_no_text_keeps_its_bytes(tmp_path: Path) -> None:
    """What lies on the disk under a name of other bytes than UTF-8 can be sent, under that name."""
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(path)).write_bytes(b"content")
    for name in (path, os.fsdecode(path)):
        with open(name, "rb") as file:  # noqa: PTH123 - a name of bytes
            if isinstance(name, bytes):
                with pytest.raises(UnicodeDecodeError):
                    encode_multipart({"f": file}, None)
            else:
                assert b'filename="caf\xe9"' in whole(encode_multipart({"f": file}, None)[0])


@pytest.mark.parametrize(
    "part",
    [
        ("a", b"x", "text/plain\r\nX-Evil: 1"),
        ("a", b"x", "text/plain", {"X-Good": "1\nX-Evil: 1"}),
        ("a", b"x", "text/plain", {"X-Good: 1\r\nX-Evil": "1"}),
    ],
)
def test_no_value_adds_a_line_to_a_parts_header(part: Any) -> None:
    """Ours: InvalidHeader; with requests the other end of an upload would see a field that nobody meant."""
    with pytest.raises(exceptions.InvalidHeader, match="part"):
        encode_multipart({"f": part}, None)


# --- side by side with requests ---


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The yardstick."""
    return pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")


def prepared(data: Any = None, files: Any = None, json: Any = None, **headers: str) -> PreparedRequest:
    request = PreparedRequest("POST", parse_target("http://127.0.0.1/"), CaseInsensitiveDict(headers))
    request.set_body(data, files, json)
    return request


def sent(request: PreparedRequest) -> bytes:
    """The body as it would go out now."""
    opened = request.open_body()
    return b"".join([opened] if isinstance(opened, bytes) else opened or ())


def seen(body: bytes, content_type: str | None) -> tuple[bytes, str | None]:
    """Body and type, with a boundary that does not differ."""
    if content_type is None or "boundary=" not in content_type:
        return body, content_type
    boundary = content_type.partition("boundary=")[2]
    return body.replace(boundary.encode(), b"BOUNDARY"), content_type.replace(boundary, "BOUNDARY")


class Nameless(io.BytesIO):
    name = 5


SHAPES: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing": dict,
    "an empty mapping": lambda: {"data": {}},
    "an empty string": lambda: {"data": ""},
    "zero": lambda: {"data": 0},
    "False": lambda: {"data": False},
    "a mapping": lambda: {"data": {"a": "1", "b": "ü €"}},
    "a mapping of one's own": lambda: {"data": UserDict(a="1")},
    "pairs": lambda: {"data": [("a", "1"), ("a", "2")]},
    "a tuple of lists": lambda: {"data": (["a", 1], ["b", 2.5])},
    "pairs of two letters": lambda: {"data": ["ab", "cd"]},
    "values of every kind": lambda: {"data": {"n": 1, "b": b"\xff", "none": None, "t": True, "l": [1, None, "x"]}},
    "names of every kind": lambda: {"data": {1: "a", b"b": "b", None: "c"}},
    "nested": lambda: {"data": {"a": [["1", "2"], ("3",)], "d": {"k": "v"}, "g": (str(n) for n in range(2))}},
    "no values": lambda: {"data": {"a": [], "b": ""}},
    "text": lambda: {"data": "äöü"},
    "bytes": lambda: {"data": b"\x00\xff"},
    "json": lambda: {"json": {"a": [1, None, "ü"]}},
    "json and nothing else": lambda: {"data": {}, "json": []},
    "json after an empty string": lambda: {"data": "", "json": 1},
    "data before json": lambda: {"data": {"a": "1"}, "json": {"b": 2}},
    "files before json": lambda: {"files": {"f": "x"}, "json": {"b": 2}},
    "no files": lambda: {"data": {"a": "1"}, "files": {}},
    "a file of bytes": lambda: {"files": {"f": b"x"}},
    "a file of text": lambda: {"files": {"f": "ü"}},
    "a file of a bytearray": lambda: {"files": {"f": bytearray(b"x")}},
    "a file of a view": lambda: {"files": {"f": memoryview(b"x")}},
    "a file of a number": lambda: {"files": {"f": 5}},
    "a file of nothing": lambda: {"files": {"f": None}},
    "a file of None with a name": lambda: {"files": {"f": ("name", None), "g": b""}},
    "files of every length of tuple": lambda: {
        "files": [
            ("f", ("a.txt", "1")),
            ("f", ["b.txt", b"2", "text/csv"]),
            ("f", ("c.txt", b"3", "text/csv", {"X-Y": "z", "Expires": "0"})),
            ("f", (None, "4")),
            ("f", ("", "5")),
        ]
    },
    "headers as pairs": lambda: {"files": {"f": ("a", b"1", None, [("X-Y", "z")])}},
    "files that are open": lambda: {"files": {"f": io.BytesIO(b"one"), "g": Named(b"two"), "h": Nameless(b"three")}},
    "an open file with everything": lambda: {"files": {"f": ("ü.bin", io.BytesIO(b"1"), "a/b", {"X-Y": "z"})}},
    "an open file of text": lambda: {"files": {"f": io.StringIO("ü€")}},
    "fields and files": lambda: {"data": {"a": ["1", 2, None, b"\xff"], "b": "ü"}, "files": {"f": io.BytesIO(b"x")}},
    "pairs and files": lambda: {"data": [(b"a", "1"), ("a", {"k": "v"})], "files": [("f", "x")]},
    "files from an iterable": lambda: {"files": iter([("f", b"x")])},
    "a file": lambda: {"data": io.BytesIO(b"file")},
    "a file of text as data": lambda: {"data": io.StringIO("file")},
    "a file before json": lambda: {"data": io.BytesIO(b"file"), "json": {}},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_is_what_requests_makes_of_the_same(shape: str, theirs: Any) -> None:
    """The same bytes, type and framing, for every shape of data, files and json."""
    mine = prepared(**SHAPES[shape]())
    other = theirs.Request("POST", "http://127.0.0.1/", **SHAPES[shape]()).prepare()
    body = other.body.read() if hasattr(other.body, "read") else other.body
    body = body.encode("utf-8") if isinstance(body, str) else body or b""

    assert seen(sent(mine), mine.headers.get("content-type")) == seen(body, other.headers.get("content-type"))
    if body:
        assert mine.headers["content-length"] == other.headers["content-length"]
    assert "transfer-encoding" not in mine.headers


FORM = "a form takes a mapping or a list of pairs"
FILES = "files= takes a mapping or a list of pairs"
FILE = "a file is an open file, bytes, str, or a tuple"
WRONG: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "a string that is no pair": (lambda: {"data": ["abc"]}, ValueError, rf"{FORM}.*1 is no pair but str"),
    "a number that is no pair": (lambda: {"data": [("a", 1), 5]}, TypeError, rf"{FORM}.*2 is no pair but int"),
    "three where two are due": (lambda: {"data": [("a", 1, 2)]}, ValueError, rf"{FORM}.*1 is no pair but tuple"),
    "files as a string": (lambda: {"files": "name"}, ValueError, f"{FILES}.*got str"),
    "files as a number": (lambda: {"files": 5}, ValueError, f"{FILES}.*got int"),
    "files as an object": (lambda: {"files": object()}, TypeError, f"{FILES}.*got object"),
    "files as names": (lambda: {"files": ["a"]}, ValueError, f"{FILES}.*1 is no pair but str"),
    "files as numbers": (lambda: {"files": [5]}, TypeError, f"{FILES}.*1 is no pair but int"),
    "a file that is a float": (lambda: {"files": {"f": 1.5}}, TypeError, f"{FILE}.*got float for 'f'"),
    "a file that is a mapping": (lambda: {"files": {"f": {}}}, TypeError, f"{FILE}.*got dict for 'f'"),
    "a file that is an iterator": (lambda: {"files": {"f": iter([b"x"])}}, TypeError, f"{FILE}.*iterator for 'f'"),
    "a tuple of none": (lambda: {"files": {"f": ()}}, ValueError, f"{FILE}.*'f' it has 0 items"),
    "a tuple of one": (lambda: {"files": {"f": ("a",)}}, ValueError, f"{FILE}.*'f' it has 1 items"),
    "a tuple of five": (lambda: {"files": {"f": (1, 2, 3, 4, 5)}}, ValueError, f"{FILE}.*'f' it has 5 items"),
    "text with files": (lambda: {"data": "a=1", "files": {"f": "x"}}, ValueError, "mapping or a list.*got str"),
    "bytes with files": (lambda: {"data": b"", "files": {"f": "x"}}, ValueError, "mapping or a list.*got bytes"),
    "a body with files": (
        lambda: {"data": io.BytesIO(b"x"), "files": {"f": "x"}},
        NotImplementedError,
        "body of its own; got BytesIO",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_body_is_an_error_of_the_same_type(case: str, theirs: Any) -> None:
    """With requests' type of error, and a sentence that says what was expected and what came, but not its value."""
    arguments, error, sentence = WRONG[case]
    with pytest.raises(error, match=sentence):
        prepared(**arguments())
    with pytest.raises(error):
        theirs.Request("POST", "http://127.0.0.1/", **arguments()).prepare()


@pytest.mark.parametrize("value", [5, 1.5, object(), True])
def test_what_is_no_body_at_all_is_not_shown(value: Any) -> None:
    """TypeError with the type; the value may be a secret."""
    with pytest.raises(TypeError, match=rf"^data= takes a mapping, .*; got {type(value).__name__}$"):
        encode(value, None, None)


@pytest.mark.parametrize("arguments", [{"files": {5: b"x"}}, {"files": {"f": (5, b"x")}}, {"files": {None: b"x"}}])
def test_a_name_that_is_none(arguments: Any) -> None:
    """Ours: TypeError; requests has an AttributeError from within urllib3."""
    with pytest.raises(TypeError, match=r"name in a multipart body is str or bytes; got (int|NoneType)"):
        prepared(**arguments)


@pytest.mark.parametrize(
    "data",
    [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"a-b-c-d")[::2], array("H", [0x6261, 0x6463])],
    ids=["bytearray", "memoryview", "every other byte", "array"],
)
def test_bytes_by_another_name(data: Any) -> None:
    """What holds bytes is sent as they are, with their number; requests would send an array's items, miscounted."""
    request = prepared(data)

    assert (request.body, request.headers["content-length"]) == (b"abcd", "4")


# --- streams ---


def produce(*pieces: Any) -> Iterator[Any]:
    yield from pieces


class Sized:
    """An iterable that says how many bytes it has, and can be iterated again."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)


class OnlyRead:
    """A file of which only `read` can be had."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> Any:
        return self._file.read(size)


class WithLen(OnlyRead):
    """And that says how long it is, as requests-toolbelt's do."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.len = len(content)


class WithDunderLen(OnlyRead):
    """And that says so as sequences do."""

    def __len__(self) -> int:
        return 10


class Forward(io.BytesIO):
    """It knows where it is, and cannot go anywhere else."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")


class Stubborn(OnlyRead):
    """And that has a `seek` which does nothing but refuse."""

    def tell(self) -> int:
        return 0

    def seek(self, *_: Any) -> int:
        raise OSError("no")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 10 bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def zipped(path: Path) -> Any:
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("name", b"0123456789")
    return zipfile.ZipFile(archive).open("name")


def gzipped(path: Path) -> Any:
    archive = path.with_suffix(".gz")
    archive.write_bytes(gzip.compress(b"0123456789"))
    return gzip.open(archive)


def spooled(mode: str, size: int, content: Any, encoding: str | None = None) -> Any:
    file = tempfile.SpooledTemporaryFile(size, mode, encoding=encoding)  # noqa: SIM115 - the test closes it
    file.write(content)
    file.seek(0)
    return file


def mapped(path: Path) -> Any:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def written(path: Path) -> Any:
    file = path.open("r+b")
    file.seek(5)
    file.write(b"56789")  # into its buffer: the system knows nothing of it yet
    file.seek(0)
    return file


def coded(path: Path) -> Any:
    return codecs.StreamReaderWriter(path.open("rb"), codecs.getreader("utf-8"), codecs.getwriter("utf-8"))


def named(path: Path, mode: str, content: Any, encoding: str | None = None) -> Any:
    file = tempfile.NamedTemporaryFile(mode, dir=path.parent, encoding=encoding)  # noqa: SIM115 - the test closes it
    file.write(content)
    file.seek(0)
    return file


FILE_LIKES: dict[str, tuple[Callable[[Path], Any], int | None, bool]] = {
    "BytesIO": (lambda path: io.BytesIO(path.read_bytes()), 10, True),
    "a file": (lambda path: path.open("rb"), 10, True),
    "a file without a buffer": (lambda path: path.open("rb", buffering=0), 10, True),
    "a file just written to": (written, 10, True),
    "a temporary file": (lambda path: named(path, "w+b", b"0123456789"), 10, True),
    "a spooled file": (lambda path: spooled("w+b", 100, b"0123456789"), 10, True),
    "a spooled file on disk": (lambda path: spooled("w+b", 5, b"0123456789"), 10, True),
    "a compressed file": (gzipped, 10, True),
    "a file in an archive": (zipped, 10, True),
    "a memory map": (mapped, 10, True),
    "StringIO": (lambda path: io.StringIO("0123456789"), 10, True),
    "a text file": (lambda path: path.open("r"), 10, True),
    "a temporary text file": (lambda path: named(path, "w+", "0123456789"), 10, True),
    "a spooled text file": (lambda path: spooled("w+", 100, "0123456789"), 10, True),
    "a file of codecs": (coded, 10, True),
    "with nothing but read": (lambda path: OnlyRead(path.read_bytes()), None, False),
    "with a length": (lambda path: WithLen(path.read_bytes()), 10, False),
    "with a length as of a sequence": (lambda path: WithDunderLen(path.read_bytes()), 10, False),
    "that goes forward only": (lambda path: Forward(path.read_bytes()), None, False),
    "that refuses to go anywhere": (lambda path: Stubborn(path.read_bytes()), None, False),
    "an iterable with a length": (lambda path: Sized(b"01234", "56789"), 10, True),
    "a queue of strings": (lambda path: deque("0123456789"), 10, True),
    "a generator": (lambda path: produce(b"01234", "56789"), None, False),
    "a generator with nothings": (lambda path: produce(b"", b"01234", None, "", "56789", b""), None, False),
    "a generator of views": (lambda path: produce(memoryview(b"01234"), bytearray(b"56789")), None, False),
    "a generator of arrays": (lambda path: produce(array("H", b"012345"), b"6789"), None, False),
}  # fmt: skip


_OTHERS = ("a file of codecs", "an iterable with a length", "a queue of strings")
SEEKABLE = [kind for kind in FILE_LIKES if FILE_LIKES[kind][2] and kind not in _OTHERS]


@pytest.mark.parametrize("kind", FILE_LIKES)
def test_a_stream_is_sent_whole_with_what_is_known_of_it(kind: str, path: Path) -> None:
    """Its length where it can be known, and a second time where it can be wound back; else an error that says so."""
    make, length, is_replayable = FILE_LIKES[kind]
    source = make(path)
    request = prepared(source)

    assert request.body is source
    assert (request.body_length, request.is_replayable) == (length, is_replayable)
    assert request.headers.get("content-length") == (None if length is None else str(length))
    assert request.headers.get("transfer-encoding") == ("chunked" if length is None else None)
    assert sent(request) == b"0123456789"
    if is_replayable:
        assert sent(request) == b"0123456789"
    else:
        with pytest.raises(exceptions.UnrewindableBodyError, match=f"POST .*{type(source).__name__}.* only once"):
            request.open_body()
    if hasattr(source, "close"):
        source.close()


@pytest.mark.parametrize("kind", SEEKABLE)
def test_a_stream_begins_where_it_stands(kind: str, path: Path) -> None:
    """What was read of a file before is neither counted nor sent, the first time or again."""
    source = FILE_LIKES[kind][0](path)
    source.read(4)
    request = prepared(source)

    assert request.headers["content-length"] == "6"
    assert [sent(request), sent(request)] == [b"456789", b"456789"]
    source.close()


@pytest.mark.parametrize("kind", ["StringIO", "a text file", "a temporary text file", "a spooled text file"])
def test_text_has_the_length_of_its_bytes_and_not_of_its_characters(kind: str, tmp_path: Path) -> None:
    """A file opened as text is sent as UTF-8, whatever it is encoded in itself, with the length of that."""
    text = "ä€\n" * 50_000
    path = tmp_path / "file"
    path.write_text(text, "utf-16")
    sources: dict[str, Callable[[], Any]] = {
        "StringIO": lambda: io.StringIO(text),
        "a text file": lambda: path.open("r", encoding="utf-16"),
        "a temporary text file": lambda: named(path, "w+", text, "utf-16"),
        "a spooled text file": lambda: spooled("w+", 100, text, "utf-16"),
    }
    source = sources[kind]()
    request = prepared(source)

    assert request.headers["content-length"] == str(len(text.encode()))
    assert [sent(request), sent(request)] == [text.encode()] * 2
    source.close()


@pytest.mark.parametrize("kind", ["a pipe", "a socket"])
def test_what_the_system_gives_no_length_goes_chunked(kind: str) -> None:
    """The system says 0 of it; to send that would leave the body behind, for the next request."""
    if kind == "a pipe":
        reader, writer = os.pipe()
        source: Any = os.fdopen(reader, "rb")
        os.write(writer, b"0123456789")
        os.close(writer)
    else:
        here, there = socket.socketpair()
        source = here.makefile("rb")
        there.sendall(b"0123456789")
        here.close()
        there.close()
    with source:
        request = prepared(source)

        assert request.headers.get("transfer-encoding") == "chunked"
        assert not request.is_replayable
        assert sent(request) == b"0123456789"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_that_says_nothing_of_its_length_goes_chunked() -> None:
    """Those of /proc have a size of 0, and a content."""
    with Path("/proc/self/cmdline").open("rb") as file:
        request = prepared(file)

        assert request.headers.get("transfer-encoding") == "chunked"
        assert sent(request) == sent(request) == Path("/proc/self/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("source", "length"),
    [(io.BytesIO(), "0"), (io.StringIO(), "0"), (WithLen(b""), "0"), (Sized(), "0"), (produce(), None)],
    ids=["BytesIO", "StringIO", "with a length", "an iterable with a length", "a generator"],
)
def test_a_stream_of_nothing(source: Any, length: str | None) -> None:
    """A length of 0 where it is known; requests goes chunked there, which some servers refuse."""
    request = prepared(source)

    assert request.headers.get("content-length") == length
    assert sent(request) == b""


def test_a_file_is_read_in_pieces() -> None:
    """Never more than a piece of it at once."""
    pieces = list(Stream(io.BytesIO(bytes(3 * PIECE + 1))).pieces())

    assert [len(piece) for piece in pieces] == [PIECE, PIECE, PIECE, 1]


@pytest.mark.parametrize(
    ("source", "gave"), [(produce(b"a", 5), "generator gave int"), (produce(("a", "b")), "generator gave tuple")]
)
def test_a_piece_that_is_no_bytes(source: Any, gave: str) -> None:
    """TypeError that says who gave what."""
    with pytest.raises(TypeError, match=f"a body is made of bytes or str; the {gave}"):
        list(Stream(source).pieces())


def test_a_file_that_would_have_to_be_waited_for_is_no_end() -> None:
    """A non-blocking file says None when it has nothing yet; to take that for the end would cut the body short."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as file:
        os.write(writer, b"some")
        pieces = Stream(file).pieces()

        assert next(pieces) == b"some"
        with pytest.raises(BlockingIOError, match="must be a blocking one"):
            next(pieces)
        os.close(writer)


def test_a_closed_file_is_an_error_before_anything_is_sent(path: Path) -> None:
    """When it is prepared, or when it was closed since, when it is opened."""
    with path.open("rb") as file:
        request = prepared(file)
    with pytest.raises(exceptions.UnrewindableBodyError, match="closed file"):
        request.open_body()
    with pytest.raises(ValueError, match="closed file"):
        prepared(file)


def test_what_was_not_read_can_be_opened_again() -> None:
    """A generator that was opened for a connection that turned out dead is as good as new."""
    request = prepared(produce(b"one"))
    request.open_body()

    assert sent(request) == b"one"


def test_a_copy_knows_that_the_body_was_read() -> None:
    """An auth handler that answers a challenge sends a copy; what is left of a generator is not its body."""
    request = prepared(produce(b"one"))
    twin = request.copy()

    assert sent(request) == b"one"
    with pytest.raises(exceptions.UnrewindableBodyError, match=r"generator.* only once") as raised:
        twin.open_body()
    assert raised.value.request is twin


@pytest.mark.parametrize(
    ("body", "length"), [(io.BytesIO(b"another"), "7"), ("änother", "8"), (bytearray(b"array"), "5"), (b"", "0")]
)
def test_a_body_put_in_the_place_of_another(body: Any, length: str) -> None:
    """An auth handler may change the body; the length is that of what is sent."""
    request = prepared(io.BytesIO(b"body"))
    request.body = body
    request.describe_body_again()

    assert request.headers["content-length"] == length
    assert len(sent(request)) == int(length)
    assert request.is_replayable


# --- multipart with files in it ---


def test_a_body_of_bytes_and_text_is_bytes() -> None:
    """As in requests, whose users look at `prepared.body`."""
    assert isinstance(prepared(files={"a": b"x", "b": ("n", "y", "t/t")}, data={"c": "d"}).body, bytes)


def test_files_are_read_when_they_are_sent() -> None:
    """Not a byte before, and no more at once than is asked for."""

    class Watched(io.BytesIO):
        asked: list[int | None]

        def read(self, size: int | None = -1) -> bytes:
            self.asked.append(size)
            return super().read(size)

    file = Watched(bytes(10 * PIECE))
    file.asked = []
    request = prepared(files={"f": file})
    assert file.asked == []
    opened = request.open_body()
    assert not isinstance(opened, bytes)
    sizes = [len(piece) for piece in opened or ()]

    assert max(size or 0 for size in file.asked) <= PIECE
    assert min(size or 0 for size in file.asked) > 0
    assert sizes == [PIECE] * 10 + [sum(sizes) % PIECE]
    assert sum(sizes) == int(request.headers["content-length"])


def test_a_multipart_body_is_the_same_each_time() -> None:
    """Boundary included, and each file from where it stood."""
    file = io.BytesIO(b"skipped and sent")
    file.seek(12)
    request = prepared(files={"f": file, "g": io.StringIO("ü")}, data={"a": "1"})
    first = sent(request)

    assert [sent(request), sent(request.copy())] == [first, first]
    assert parts_of(first, request.headers["content-type"]) == [
        ("a", None, None, b"1"),
        ("f", "f", None, b"sent"),
        ("g", "g", None, "ü".encode()),
    ]
    assert request.headers["content-length"] == str(len(first))


def test_a_pickle_has_no_files(path: Path) -> None:
    """The response to an upload can be pickled, request and all; to send that again is an error that says why."""
    with path.open("rb") as file:
        request = prepared(files={"f": file})
        sent(request)
        twin = pickle.loads(pickle.dumps(request))

    assert twin.headers == request.headers
    with pytest.raises(exceptions.UnrewindableBodyError, match="its files were open where it was pickled"):
        twin.open_body()


def test_one_file_may_be_two_parts() -> None:
    """Each of them whole; requests sends it once, and then nothing."""
    file = io.BytesIO(b"content")
    request = prepared(files=[("a", file), ("b", file)])

    for _ in range(2):
        assert [part[3] for part in parts_of(sent(request), request.headers["content-type"])] == [b"content"] * 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, -1, None])
def test_a_multipart_body_is_a_file(size: int | None) -> None:
    """It is read in pieces of the size asked for, text included; it tells where it is, and goes back to its start."""
    body, _ = encode_multipart({"f": io.BytesIO(b"bytes"), "g": io.StringIO("ä€" * 20)}, {"a": "1"})
    assert isinstance(body, Multipart)
    expected = body.read()
    assert body.tell() == len(expected) == body.len
    assert (body.read(), body.read(5)) == (b"", b"")

    assert body.seek(0) == body.tell() == 0
    pieces = list(iter(lambda: body.read(size), b""))
    assert b"".join(pieces) == expected
    if size is not None and size > 0:
        assert {len(piece) for piece in pieces[:-1]} == {size}
    with pytest.raises(io.UnsupportedOperation):
        body.seek(5)


def test_a_part_of_unknown_length_makes_it_chunked() -> None:
    """And one that cannot be wound back makes all of it such."""
    request = prepared(files={"f": io.BytesIO(b"one"), "g": OnlyRead(b"two")})

    assert (request.headers.get("content-length"), request.headers["transfer-encoding"]) == (None, "chunked")
    assert not request.is_replayable
    assert [part[3] for part in parts_of(sent(request), request.headers["content-type"])] == [b"one", b"two"]
    with pytest.raises(exceptions.UnrewindableBodyError, match="Multipart that can be read only once"):
        request.open_body()


@pytest.mark.parametrize("change", [b"more", b""], ids=["grew", "shrank"])
@pytest.mark.parametrize("other", [b"x", OnlyRead(b"x")], ids=["with a length", "chunked"])
def test_a_file_in_a_multipart_body_that_changes_is_an_error(change: bytes, other: Any, path: Path) -> None:
    """Also where the body goes chunked, and nobody but us could notice."""
    with path.open("rb") as file:
        request = prepared(files=[("f", file), ("g", other)])
        path.write_bytes(change * 10)

        with pytest.raises(
            exceptions.RequestException, match=f"had 10 bytes when .*, and {len(change) * 10} when it was sent"
        ):
            sent(request)


# --- requests-toolbelt ---


@pytest.fixture(scope="module")
def toolbelt() -> Any:
    return pytest.importorskip("requests_toolbelt", reason="requests-toolbelt is not installed")


def test_toolbelts_encoder_is_a_body(toolbelt: Any) -> None:
    """With its length, read in pieces; it cannot be wound back, and that is said."""
    encoder = toolbelt.MultipartEncoder({"a": "1", "f": ("n.txt", io.BytesIO(bytes(PIECE)), "text/plain")})
    request = prepared(encoder, **{"Content-Type": encoder.content_type})
    body = sent(request)

    assert request.headers["content-length"] == str(encoder.len) == str(len(body))
    assert parts_of(body, request.headers["content-type"]) == [
        ("a", None, None, b"1"),
        ("f", "n.txt", "text/plain", bytes(PIECE)),
    ]
    with pytest.raises(exceptions.UnrewindableBodyError, match="MultipartEncoder that can be read only once"):
        request.open_body()


def test_toolbelts_monitor_is_told_how_far_it_is(toolbelt: Any) -> None:
    """Its callback sees each piece, the last one at the length."""
    told = []
    encoder = toolbelt.MultipartEncoder({"f": ("n", io.BytesIO(bytes(2 * PIECE)), "a/b")})
    monitor = toolbelt.MultipartEncoderMonitor(encoder, lambda each: told.append(each.bytes_read))
    request = prepared(monitor)

    assert len(sent(request)) == told[-1] == int(request.headers["content-length"])
    assert told == sorted(told)
    assert len(told) >= 3


@pytest.mark.parametrize("inner", [iter([b"01234", "56789"]), OnlyRead(b"0123456789")], ids=["iterator", "file"])
def test_toolbelts_streaming_iterator_is_a_body(inner: Any, toolbelt: Any) -> None:
    """What gives an iterator a length, so that it need not go chunked."""
    request = prepared(toolbelt.StreamingIterator(10, inner))

    assert request.headers["content-length"] == "10"
    assert sent(request) == b"0123456789"
