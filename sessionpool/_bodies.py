"""The body of a request: bytes, where they are few, or a stream that is read while it is sent.

A stream is a file, an iterable, or a multipart form with files in it (`Multipart`, which is a file too). Of a stream no
more than a piece is in memory. It is measured when the request is prepared: where it stands, how long it is from there,
and whether it can be wound back, since retries, redirects and challenges ask for the same bytes again. The connection
holds a stream to its length: one that turns out longer or shorter is an error, and never the next request.
"""

from __future__ import annotations

import errno
import io
import json as json_module
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from sys import maxsize
from typing import Any, Final
from urllib.parse import urlencode

from sessionpool import _wire
from sessionpool.exceptions import InvalidJSONError, RequestException

# What is read of a file at once: half of it takes no more CPU, a quarter four times as much, more of it no less.
PIECE: Final = 64 * 1024

_PAIRS: Final = "a form takes a mapping or a list of pairs (name, value)"
_FILES: Final = "files= takes a mapping or a list of pairs (field, file)"
_FILE: Final = "a file is an open file, bytes, str, or a tuple (name, content[, type[, headers]])"


def encode(data: Any, files: Any, json: Any) -> tuple[Any, str | None]:
    """The body that these arguments of a request make, and its media type; `None` for none, and for no particular one.

    Raises:
        InvalidJSONError: `json` cannot be encoded.
        TypeError, ValueError, NotImplementedError: As in requests, if they make no body.
    """
    if files:
        return encode_multipart(files, data)
    if data is None or (json is not None and not data and not hasattr(data, "read")):
        if json is None:
            return None, None
        try:
            return json_module.dumps(json, allow_nan=False).encode("utf-8"), "application/json"
        except (TypeError, ValueError) as error:
            raise InvalidJSONError(f"the value for json= cannot be encoded: {error}") from error
    if isinstance(data, str):
        data = data.encode("utf-8")
    if isinstance(data, bytes):
        return data or None, None
    if isinstance(data, (Mapping, list, tuple)):
        if not data:
            return None, None
        return encode_form(data).encode("ascii"), "application/x-www-form-urlencoded"
    octets = as_octets(data)
    if octets is not None:
        return octets or None, None
    if hasattr(data, "read") or hasattr(data, "__iter__"):
        return data, None
    if data:
        raise TypeError(
            "data= takes a mapping, a list of pairs, str, bytes, a file or an iterable of bytes; "
            f"got {type(data).__name__}"
        )
    return None, None  # 0 and False say "nothing", as in requests


def encode_form(data: Any) -> Any:
    """Form-encode a mapping or pairs, sequences as values repeated; str and bytes stay as they are.

    Raises:
        TypeError, ValueError: These are no pairs.
    """
    if isinstance(data, (str, bytes)):
        return data
    pairs: list[tuple[Any, Any]] = []
    for name, values in data.items() if isinstance(data, Mapping) else _pairs(data, _PAIRS):
        pairs.extend((name, value) for value in _several(values) if value is not None)
    return urlencode(pairs, doseq=True)


def encode_multipart(files: Any, data: Any) -> tuple[bytes | Multipart, str]:
    """A multipart/form-data body (RFC 7578) from requests' `files` and `data`, and its content type.

    Raises:
        InvalidHeader: A part's type or header holds a line break.
        TypeError, ValueError, NotImplementedError: As in requests, if these make no such body.
    """
    if isinstance(data, (str, bytes)):
        raise ValueError(f"with files=, data= takes a mapping or a list of pairs; got {type(data).__name__}")
    if data and not isinstance(data, (Mapping, list, tuple)):
        raise NotImplementedError(f"with files=, data= cannot be a body of its own; got {type(data).__name__}")
    if isinstance(files, (str, bytes, int)) or hasattr(files, "read"):
        raise ValueError(f"{_FILES}; got {type(files).__name__}")
    boundary = os.urandom(16).hex()  # one for every sending, so that all are alike
    delimiter = b"--%b\r\n" % boundary.encode("ascii")
    parts: list[bytes | Stream] = []
    octets: list[bytes] = []  # what is before the next stream
    for name, values in _pairs(data or (), _PAIRS):
        for value in _several(values):
            if value is not None:
                text = value if isinstance(value, bytes) else str(value).encode("utf-8")
                octets += delimiter, _wire.part_head(name, None, None, None), text, b"\r\n"
    for name, given in _pairs(files, _FILES):
        filename, content, content_type, headers = _file_parts(name, given)
        if content is None:
            continue
        octets += delimiter, _wire.part_head(name, filename, content_type, headers)
        if hasattr(content, "read"):
            parts += b"".join(octets), Stream(content)
            octets.clear()
        else:
            # urllib3 makes digits of a number, so requests does.
            plain = as_octets(str(content) if isinstance(content, int) else content)
            if plain is None:
                raise TypeError(f"{_FILE}; got {type(content).__name__} for {name!r}")
            octets.append(plain)
        octets.append(b"\r\n")
    octets.append(b"--%b--\r\n" % boundary.encode("ascii"))
    end = b"".join(octets)
    content_type = f"multipart/form-data; boundary={boundary}"
    return (Multipart([*parts, end]) if parts else end), content_type


def as_octets(data: Any) -> bytes | None:
    """The bytes of what is text or holds bytes in memory; `None` for anything else, such as a file."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode("utf-8")
    if hasattr(data, "read"):
        return None  # a memory map is bytes too, and more than there should be of them
    try:
        return bytes(memoryview(data))
    except TypeError:
        return None


class Stream:
    """A body that is read while it is sent. Confined to the request's thread; a request and its copies share it.

    Attributes:
        source: What was given: with `read`, or iterable.
        length: Bytes from where it stood; `None` if nobody can tell.
    """

    __slots__ = ("_begun", "_start", "length", "source")

    def __init__(self, source: Any) -> None:
        self.source = source
        self._start: int | None = None  # where it stood, if it can be wound back to there
        self._begun = False
        offset = None
        if hasattr(source, "read"):
            offset = _position(source)
            if offset is not None and _can_seek(source, offset):
                self._start = offset
        self.length = self._measure(offset or 0)

    @property
    def is_replayable(self) -> bool:
        """It can be read a second time from where it stood."""
        if self._start is not None:
            return True
        source = self.source
        # If an iterable that says how long it is has nothing the second time, the connection will notice.
        return hasattr(source, "__len__") and not (hasattr(source, "__next__") or hasattr(source, "read"))

    def rewind(self) -> None:
        """Be where it stood.

        Raises:
            OSError, ValueError: It has been read from, and cannot be wound back; it was closed.
        """
        if self._start is not None:
            self.source.seek(self._start)
        elif self._begun and not self.is_replayable:
            raise io.UnsupportedOperation(f"a {type(self.source).__name__} that can be read only once")

    def pieces(self) -> Iterator[bytes]:
        """What it has, from where it is."""
        self._begun = True
        if hasattr(self.source, "read"):
            while piece := self.read(PIECE):
                yield piece
        else:
            for each in self.source:
                if each is not None:  # passed over, as by requests
                    yield self._checked(each)

    def read(self, size: int) -> bytes:
        """Some of a file's bytes, empty at its end; of a text file, those of `size` characters."""
        self._begun = True
        piece = self.source.read(size)
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "a body's file must be a blocking one; it has nothing to read yet")
        return self._checked(piece)

    def _checked(self, piece: Any) -> bytes:
        octets = as_octets(piece)
        if octets is None:
            raise TypeError(
                f"a body is made of bytes or str; the {type(self.source).__name__} gave {type(piece).__name__}"
            )
        return octets

    def _measure(self, offset: int) -> int | None:
        """Bytes from where it stands to its end, or `None` where nobody can tell."""
        source = self.source
        stated = len(source) if hasattr(source, "__len__") else getattr(source, "len", None)
        if isinstance(stated, int):  # `len`: requests-toolbelt's way, for what is too long for `__len__`
            return max(stated - offset, 0)
        if self._start is not None:
            try:
                if hasattr(source, "encoding") and hasattr(source, "errors"):  # the mark of text
                    return sum(len(piece) for piece in self.pieces())
                # Not by its descriptor: that of a compressed file is of other bytes than are read.
                source.seek(0, io.SEEK_END)
                length = max(int(source.tell()) - self._start, 0)
                source.seek(self._start)
                return None if length == 0 and source.read(1) else length  # those of /proc say 0, and have more
            except (OSError, TypeError):  # such as a `seek` of somebody's own
                return None
            finally:
                source.seek(self._start)
                self._begun = False
        try:
            found = os.fstat(source.fileno())
        except (AttributeError, OSError, TypeError, ValueError):
            return None
        return max(found.st_size - offset, 0) if stat.S_ISREG(found.st_mode) else None  # of a pipe or socket it is 0


class Multipart:
    """A multipart form with files that are read while it is sent; itself a file to be read. Confined to one thread.

    Attributes:
        len: Bytes in all; `None` if nobody can tell.
    """

    __slots__ = ("_at", "_began", "_left", "_parts", "_told", "len")

    def __init__(self, parts: Sequence[bytes | Stream]) -> None:
        lengths = [len(part) if isinstance(part, bytes) else part.length for part in parts]
        known = [length for length in lengths if length is not None]
        self.len = sum(known) if len(known) == len(lengths) else None
        self._parts = parts
        self._told = 0
        self._enter(0)

    def _enter(self, number: int) -> None:
        """Begin with a part."""
        self._at = number
        self._began = self._told
        self._left: bytes | memoryview = b""  # what there is of it already
        if number < len(self._parts):
            part = self._parts[number]
            if isinstance(part, bytes):
                self._left = memoryview(part)  # of which to take a piece off costs no copy of the rest
            else:
                part.rewind()  # one file may be two parts

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer at the end; all that are left, without it."""
        wanted = maxsize if size is None or size < 0 else size
        taken: list[bytes | memoryview] = []
        while wanted > 0 and self._at < len(self._parts):
            part = self._parts[self._at]
            piece = self._left
            if not piece and isinstance(part, Stream):
                piece = part.read(min(wanted, PIECE))
            if piece:
                taken.append(piece[:wanted])
                self._left = piece[wanted:]  # text has more bytes than characters
                self._told += len(taken[-1])
                wanted -= len(taken[-1])
            else:
                self._check(part)
                self._enter(self._at + 1)
        return b"".join(taken)

    def _check(self, part: bytes | Stream) -> None:
        """Raise if a file that has come to its end is not what it was."""
        got = self._told - self._began
        if isinstance(part, Stream) and part.length is not None and part.length != got:
            raise RequestException(
                f"a file in a multipart body had {part.length} bytes when it was measured, and {got} when it was sent"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle, as of the response to an upload, is made without the files."""
        return _Elsewhere, ()

    def seekable(self) -> bool:
        """Whether it can be read a second time."""
        return all(isinstance(part, bytes) or part.is_replayable for part in self._parts)

    def tell(self) -> int:
        """How many bytes have been read."""
        return self._told

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the start, the one place to go to.

        Raises:
            OSError, ValueError: A file cannot be wound back.
        """
        if (offset, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("a multipart body can be wound back to its start, and nowhere else")
        for part in self._parts:
            if isinstance(part, Stream):
                part.rewind()
        self._told = 0
        self._enter(0)
        return 0


class _Elsewhere:
    """A multipart form that came out of a pickle, without its files."""

    len = None

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("its files were open where it was pickled")

    tell = read = seek


def _position(file: Any) -> int | None:
    try:
        return int(file.tell())
    except (AttributeError, OSError):
        return None


def _can_seek(file: Any, position: int) -> bool:
    seekable = getattr(file, "seekable", None)
    if not hasattr(file, "seek") or (seekable is not None and not seekable()):
        return False
    try:
        file.seek(position)
    except (OSError, TypeError):
        return False
    return True


def _several(values: Any) -> Iterable[Any]:
    """What a form's field was given: one value, or each of several."""
    return [values] if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__") else values


def _pairs(given: Any, wanted: str) -> Iterator[tuple[Any, Any]]:
    """The pairs of a mapping or an iterable; what is no pair is an error, of requests' type, with what is wanted."""
    try:
        pairs = iter(given.items() if hasattr(given, "items") else given)
    except TypeError:
        raise TypeError(f"{wanted}; got {type(given).__name__}") from None
    for number, pair in enumerate(pairs, 1):
        try:
            name, value = pair
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{wanted}; number {number} is no pair but {type(pair).__name__}") from None
        yield name, value


def _file_parts(name: Any, given: Any) -> tuple[Any, Any, Any, Any]:
    """File name, content, content type and header of a part."""
    if isinstance(given, (tuple, list)):
        if not 2 <= len(given) <= 4:
            raise ValueError(f"{_FILE}; for {name!r} it has {len(given)} items")
        filename, content, content_type, headers = (*given, None, None)[:4]
        return filename, content, content_type, headers
    own = getattr(given, "name", None)
    if isinstance(own, (str, bytes)) and own and own[:1] not in ("<", b"<") and own[-1:] not in (">", b">"):
        return os.path.basename(own), given, None, None  # noqa: PTH119 - a name, not a path
    return name, given, None, None
