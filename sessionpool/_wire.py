"""HTTP/1.1 as bytes: parsing the head of a response, and the framing of its body (RFC 9112).

Pure functions and values; `_connection.py` does the reading. The head never goes through `email.parser`, which takes
34 µs a head: the fields that steer us are looked for by name, the rest is split when somebody looks.

This module and `_connection.py` alone import urllib3; here for what it knows about URLs, multipart and decoding.
"""

from __future__ import annotations

import base64
import functools
import re
import zlib
from collections.abc import Sequence
from http.client import HTTPMessage
from typing import Any, Final
from urllib.parse import unquote

import attrs
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import DecodeError, LocationParseError
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.fields import RequestField
from urllib3.response import ContentDecoder, GzipDecoder
from urllib3.util import Url, parse_url
from urllib3.util.request import ACCEPT_ENCODING

from sessionpool.exceptions import (
    BodyTooLarge,
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    InvalidHeader,
    InvalidResponse,
    InvalidURL,
    RequestException,
)

__all__ = [
    "DECODABLE",
    "Url",
    "Urllib3Error",
]

# What urllib3 can decode with what is installed.
DECODABLE: Final = ACCEPT_ENCODING
# A head beyond this is an attack or a mistake; browsers stop at the same size.
MAX_HEAD: Final = 256 * 1024
# Lines of a header, or of a trailer section. http.client, and so requests, stops at 100, Node at 2000, curl at 5000.
MAX_FIELDS: Final = 1000
# A chunk-size line or a trailer line.
MAX_LINE: Final = 16 * 1024
# A decoded body of no more may have been tiny: 32 threads that meet bombs at once have one GiB, and no more.
HARMLESS: Final = 32 * 1024 * 1024
# Of a Content-Length: an exabyte. Beyond, something is wrong, and C's types have their limits.
MAX_DIGITS: Final = 18
# A longer status line is not remembered.
_ORDINARY_LINE: Final = 128

# Groups: minor version, status, reason.
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\0\r\n]*))?\r?\n")
# The fields that decide about framing, reuse, cookies, redirects and quotas, looked for in a lower-cased head: 1 µs a
# head, where IGNORECASE takes 2.6, seven searches 3.4, and `email.parser` 34. The status line comes before them, so a
# line end does. A line that goes on with the one before is found as a field without a name. Blanks before the colon,
# which h11 refuses, do not count: RFC 9112 §5.1 has a proxy take them out of a response, so they change no meaning.
_STEERING = re.compile(
    r"\n(?:(co(?:ntent-(?:length|encoding)|nnection)|keep-alive|location|set-cookie|transfer-encoding"
    r"|ratelimit(?:-remaining)?)[ \t]*:[ \t]*([^\r\n]*)|[ \t])"
)
_CONTINUED: Final = ("", "")
_BLANKS: Final = " \t"
_LOCATION = re.compile(r"\nlocation[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_SET_COOKIE = re.compile(r"\nset-cookie[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_LINE_END = re.compile(r"[\r\n\0]")
_HEAD_END = re.compile(rb"\n\r?\n")
_OBS_FOLD = re.compile(r"\r?\n[ \t]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n\Z")
# RFC 3986 §3: only here does an authority begin; two slashes further on are a path's.
_AUTHORITY_MARK = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_SLICE: Final = 16 * 1024
_KEEP_ALIVE_TIMEOUT = re.compile(r"timeout[ \t]*=[ \t]*\"?([0-9]{1,9})")

Fields = Sequence[tuple[str, str]]


@attrs.define(eq=False, init=False)
class Head:
    """The head of one response. Immutable once `parse_head` has filled it; to do so by `__init__` costs 0.2 µs more.

    Attributes:
        version: 10 or 11.
        status: The status code.
        reason: The reason phrase, Latin-1; may be empty.
        raw: The fields as they came, without the status line.
        length: Bytes of body to come; `None` for chunked and for a body that ends with the connection.
        chunked: The body is chunked.
        reusable: The connection may carry another request after this body.
        idle_limit: Seconds the server says it keeps an idle connection (`Keep-Alive: timeout=`), or `None`.
        location: The `Location` field, or `None`.
        set_cookie: Every `Set-Cookie` field, in order.
        encoded: There is a `Content-Encoding` other than identity.
        metered: The server says how much of a quota is left (`RateLimit`, `RateLimit-Remaining`).
    """

    version: int
    status: int
    reason: str
    raw: str
    length: int | None
    chunked: bool
    reusable: bool
    idle_limit: int | None
    location: str | None
    set_cookie: Sequence[str]
    encoded: bool
    metered: bool

    def fields(self) -> Fields:
        """Every field, in order, names as the server spelled them, values Latin-1 without surrounding blanks."""
        return split_fields(self.raw)


def find_head_end(data: bytes, start: int = 0) -> int:
    """Where the body begins, behind the head's empty line; -1 if that has not come, looking from `start` on.

    RFC 9112 §2.2: a recipient may recognise a single LF as a line terminator and ignore any preceding CR.
    """
    found = _HEAD_END.search(data, start)
    return -1 if found is None else found.end()


def split_fields(raw: str) -> Fields:
    """A block of field lines, taken apart; a line without a colon or a name is skipped.

    A name that is no token passes, as with browsers, curl and requests: it steers nothing here.
    """
    pairs = []
    for line in raw.split("\n"):
        name, colon, value = line.partition(":")
        if colon and (name := name.strip(" \t")):
            pairs.append((name, value.strip(" \t\r")))
    return pairs


def parse_trailers(lines: Sequence[bytes], host: str) -> Fields:
    """The fields of a trailer section, given line by line.

    Raises:
        ChunkedEncodingError: There is a bare CR or a NUL in it.
    """
    raw = b"".join(lines).decode("latin-1")
    if "\0" in raw or raw.count("\r") != raw.count("\r\n"):
        raise ChunkedEncodingError(f"{host} sent a bare CR or a NUL in its trailers (RFC 9110 §5.5)")
    return split_fields(_OBS_FOLD.sub(" ", raw))


def parse_head(data: bytes, method: str, host: str) -> Head:
    """Parse the head of a response to `method`, up to and with its empty line.

    Raises:
        InvalidResponse: It is not a head that RFC 9112 lets us act on.
    """
    # As text, because `in` for bytes first tries to take its operand for a number, and fails: 0.5 µs each time.
    text = data.decode("latin-1")
    begin = text.find("\n") + 1
    known = _status_line(text[:begin]) if begin <= _ORDINARY_LINE else _status_line.__wrapped__(text[:begin])
    if known is None:
        raise InvalidResponse(f"{host} answered with something that is not HTTP/1: {_excerpt(data)}")
    version, status, reason = known
    raw = text[begin - 1 :]
    found = _STEERING.findall(raw.lower())
    if _CONTINUED in found:
        if raw[1:2] in _BLANKS:  # RFC 9112 §2.2: a field to one parser, and passed over by another
            raise InvalidResponse(f"{host} sent a header that begins with a blank; the connection is not used further")
        raw = _OBS_FOLD.sub(" ", raw)  # RFC 9112 §5.2
        found = _STEERING.findall(raw.lower())
    if "\0" in raw or raw.count("\r") != raw.count("\r\n"):
        # RFC 9110 §5.5 and RFC 9112 §2.2: what one parser reads as a line end another does not.
        raise InvalidResponse(f"{host} sent a bare CR or a NUL in its header; the connection is not used further")
    # The ends of the status line and of the empty line are in it. A short head need not be looked through.
    if len(raw) > MAX_FIELDS and raw.count("\n") > MAX_FIELDS + 2:
        raise InvalidResponse(f"{host} sent a header of more than {MAX_FIELDS} fields")

    head = Head()
    head.version, head.status, head.reason, head.raw = version, status, reason, raw
    head.idle_limit = head.location = None
    head.set_cookie = ()
    head.encoded = head.metered = False
    # RFC 9110 §5.2: several fields of a name are one, with their values in a list.
    lengths = codings = None
    options = ""
    for name, value in found:
        if name == "content-length":
            lengths = value if lengths is None else f"{lengths.rstrip(_BLANKS)}, {value}"
        elif name == "connection":
            options = f"{options},{value}" if options else value
        elif name == "transfer-encoding":
            codings = value if codings is None else f"{codings},{value}"
        elif name == "content-encoding":
            head.encoded = head.encoded or value.rstrip(" \t") not in ("", "identity")
        elif name == "keep-alive":
            if timeout := _KEEP_ALIVE_TIMEOUT.search(value):
                head.idle_limit = int(timeout[1])
        elif name == "set-cookie":
            head.set_cookie = head.set_cookie or _values(raw, _SET_COOKIE)
        elif name == "location":
            head.location = head.location or _values(raw, _LOCATION)[0]
        elif name in ("ratelimit", "ratelimit-remaining"):
            head.metered = True

    reusable = True
    if "close" in options or version == 10:
        members = _members(options)
        reusable = "close" not in members and (version == 11 or "keep-alive" in members)
    length: int | None = None
    if lengths is not None:
        is_number = lengths.isdecimal() and len(lengths) <= MAX_DIGITS
        length = int(lengths) if is_number else _agreed_length(lengths, host)
    chunked = False
    if codings is not None:
        chunked = _is_chunked(codings, host)
        if length is not None or version == 10:
            # RFC 9112 §6.1, §6.3: Transfer-Encoding wins, and the mix may be an attack, so nothing more is read here.
            reusable = False
        length = None if chunked else length
    if status < 200 or status in (204, 304) or method == "HEAD":
        length, chunked = 0, False
    elif length is None and not chunked:
        reusable = False  # the body ends with the connection
    head.length, head.chunked, head.reusable = length, chunked, reusable
    return head


@functools.lru_cache(maxsize=256)  # servers send few different ones; to know one costs a fifth of taking it apart
def _status_line(line: str) -> tuple[int, int, str] | None:
    """Version (10 or 11), status and reason of a status line with its end; `None` if it is none of HTTP/1."""
    match = _STATUS_LINE.fullmatch(line)
    return None if match is None else (10 if match[1] == "0" else 11, int(match[2]), match[3] or "")


def _values(raw: str, pattern: re.Pattern[str]) -> list[str]:
    """The values of a field as they were sent."""
    return [value.rstrip(" \t") for value in pattern.findall(raw)]


def _members(value: str) -> list[str]:
    """The members of a list-valued field (RFC 9110 §5.6.1)."""
    return [member.strip(" \t") for member in value.split(",")]


def _agreed_length(value: str, host: str) -> int:
    """The body's length from several: one if they agree, an error if they do not (RFC 9112 §6.3)."""
    agreed = set(_members(value))
    length = agreed.pop() if len(agreed) == 1 else value.rstrip(_BLANKS)
    if not length.isdecimal() or len(length) > MAX_DIGITS:
        raise InvalidResponse(f"{host} sent a Content-Length that is not one number: {length[:80]!r}")
    return int(length)


def _is_chunked(value: str, host: str) -> bool:
    """Whether a body with this Transfer-Encoding is chunked."""
    codings = _members(value)
    if len(codings) > 1 or codings[0] not in ("chunked", "identity"):
        raise InvalidResponse(
            f"{host} sent Transfer-Encoding {', '.join(codings)[:80]!r}; only 'chunked' was offered (RFC 9112 §6.1)"
        )
    return codings[0] == "chunked"


def parse_chunk_size(line: bytes, host: str) -> int:
    """The size in a chunk's first line (RFC 9112 §7.1); extensions are ignored.

    Raises:
        ChunkedEncodingError: It is not a hexadecimal number.
    """
    match = _CHUNK_SIZE.match(line)
    if match is None:
        raise ChunkedEncodingError(f"{host} sent {_excerpt(line)} where a chunk's size was due (RFC 9112 §7.1)")
    return int(match[1], 16)


def _excerpt(data: bytes) -> str:
    return repr(data[:40])[1:] + ("…" if len(data) > 40 else "")


# --- what urllib3 knows better ---


class _Gzip(ContentDecoder):
    """gzip of any number of members (RFC 1952 §2.2); what follows them and is none is passed over, as gzip does it.

    urllib3's (2.8) decodes what follows a member again, twice as much of it each time and for ever, if the member ends
    where the piece ends that was asked for. It also takes a later member that is broken, or cut, for such a rest.
    """

    def __init__(self) -> None:
        self._obj = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._rest = b""  # has not been decoded yet
        self._is_over = False  # what comes is no member

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._rest:
            data = self._rest + data
        elif not data:
            return b""
        decoded = bytearray()
        at = 0
        while at < len(data) and (max_length < 0 or len(decoded) < max_length):
            if self._obj.eof:
                if at == len(data) - 1 and data.endswith(_GZIP_MAGIC[:1]):
                    break  # the next byte will tell
                self._is_over = self._is_over or not data.startswith(_GZIP_MAGIC, at)
                if self._is_over:
                    at = len(data)
                    break
                self._obj = zlib.decompressobj(16 + zlib.MAX_WBITS)
            # A slice, because zlib copies what it leaves: of a million tiny members that would take hours.
            piece = data[at : at + _GZIP_SLICE]
            decoded += self._obj.decompress(piece, max(max_length - len(decoded), 0))
            at += len(piece) - len(self._obj.unused_data or self._obj.unconsumed_tail)
        self._rest = data[at:]
        return bytes(decoded)

    @property
    def has_unconsumed_tail(self) -> bool:
        return len(self._rest) > self._obj.eof  # of the next member there may be half the magic number

    def flush(self) -> bytes:
        return b""


class _Bounded(HTTPResponse):
    """urllib3's response; what it decodes is counted, and is an error beyond `Limits`.

    urllib3 decodes no more at a time than a reader asked for. So memory stays flat for whoever reads in pieces.
    """

    _decoded = 0

    def __del__(self) -> None:
        """Not what `IOBase` does, to close: a body that is dropped gives its connection back, waiting for no lock."""

    def _init_decoder(self) -> None:
        if not self._decoder_initialized:
            super()._init_decoder()
            if isinstance(self._decoder, GzipDecoder):
                self._decoder = _Gzip()
            decoders = getattr(self._decoder, "_decoders", [])
            decoders[:] = [_Gzip() if isinstance(each, GzipDecoder) else each for each in decoders]

    def _decode(
        self, data: bytes, decode_content: bool | None, flush_decoder: bool, max_length: int | None = None
    ) -> bytes:
        if flush_decoder and not self.tell():
            return data  # of nothing at all; zstd's decoder would miss its end, also that of an answer to HEAD
        decoded = super()._decode(data, decode_content, flush_decoder, max_length)
        if decode_content and self._decoder is not None:
            self._decoded += len(decoded)
            body: Any = self._fp
            if self._decoded > HARMLESS or body.limits.max_body is not None:
                self._check_size(body)
        return decoded

    def _check_size(self, body: Any) -> None:
        size, most, ratio = self._decoded, body.limits.max_body, body.limits.max_ratio
        if most is not None and size > most:
            body.close()
            raise BodyTooLarge(
                f"the body from {body.host} has {size} bytes decoded, and is to have {most} at most (Limits.max_body)",
                size=size,
                limit=most,
            )
        if size > HARMLESS and ratio is not None and size > ratio * self.tell():
            body.close()
            raise BodyTooLarge(
                f"the body from {body.host} has grown from {self.tell()} bytes to {size} by decoding, more than"
                f" {ratio:g} times as many (Limits.max_ratio)",
                size=size,
                limit=ratio,
            )


class _Original:
    """What auth handlers of requests look for in `raw._original_response`: where the cookies are."""

    def __init__(self, head: Head) -> None:
        self._head = head

    @property
    def msg(self) -> HTTPMessage:
        message = HTTPMessage()
        for name, value in self._head.fields():
            message[name] = value
        return message

    def isclosed(self) -> bool:
        return False  # so that urllib3 does not look for a connection of its own

    def close(self) -> None:
        pass  # the body sees to it


def urllib3_response(body: Any, head: Head, method: str, url: str) -> HTTPResponse:
    """`Response.raw`: urllib3's response over our body, for its streaming and decoding, within the body's limits."""
    response = _Bounded(
        body=body,
        headers=HTTPHeaderDict(head.fields()),
        status=head.status,
        version=head.version,
        version_string=f"HTTP/{head.version // 10}.{head.version % 10}",
        reason=head.reason,
        preload_content=False,
        decode_content=False,  # as requests' `raw`: whoever wants it decoded says so
        original_response=_Original(head),  # type: ignore[arg-type]  # in name
        request_method=method,
        request_url=url,
    )
    if body.closed:
        response.length_remaining = 0  # read before it was asked for, which is no reason to miss anything
    return response


def is_decoded(response: HTTPResponse) -> bool:
    """Everything that it was encoded with has ended, and nothing more is to be decoded."""
    decoder = getattr(response, "_decoder", None)
    if decoder is None or decoder.has_unconsumed_tail or len(response._decoded_buffer):
        return False
    return all(map(_has_ended, getattr(decoder, "_decoders", (decoder,))))


def _has_ended(decoder: Any) -> bool:
    state: Any = getattr(decoder, "_obj", None)
    ended: bool = state.is_finished() if hasattr(state, "is_finished") else getattr(state, "eof", True)
    return ended


def check_decoded(response: HTTPResponse, host: str) -> None:
    """Raise `ContentDecodingError` if a body has ended, and what it was encoded with has not.

    urllib3 passes what it could decode off as all; whether that is so only its decoders know.
    """
    decoder = getattr(response, "_decoder", None)
    if response.tell() and not all(map(_has_ended, getattr(decoder, "_decoders", (decoder,)))):
        raise ContentDecodingError(f"the body from {host} ends in the middle of its Content-Encoding")


def own_error(error: Urllib3Error, host: str) -> RequestException:
    """The error of ours that urllib3 wrapped, or one for what its decoder found."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RequestException):
            return cause
        cause = cause.__cause__
    if isinstance(error, DecodeError):
        return ContentDecodingError(f"the body from {host} does not match its Content-Encoding: {error}")
    return ConnectionError(f"reading from {host} failed: {error}")


def split_url(url: str) -> Url:
    """The URL's parts, normalised by RFC 3986 §6.2.2.

    Raises:
        InvalidURL: It cannot be parsed.
    """
    try:
        return parse_url(url)
    except LocationParseError as error:
        # What urllib3 says may quote the URL, user's part included.
        reason = "" if set(url) & {"@", "?", "#"} else f": {error}"
        raise InvalidURL(f"URL {redacted(url)!r} cannot be parsed{reason}") from None


def check_token(text: object, what: str) -> None:
    """Raise `InvalidHeader` unless `text` may stand as a name or a method (RFC 9110 §5.6.2)."""
    if not isinstance(text, str) or not _TOKEN.match(text):
        # Up to a colon: whoever gave a whole line for a name would not see its value in a log.
        shown = text.partition(":")[0][:40] if isinstance(text, str) else text
        raise InvalidHeader(f"{what} is made of letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 §5.6.2); got {shown!r}")


def basic_credentials(username: str | bytes, password: str | bytes) -> str:
    """The value of `Authorization` for user and password (RFC 7617 §2): Latin-1 where it can be, else UTF-8.

    Raises:
        ValueError: One of them is neither str nor bytes.
    """
    for what, given in (("user", username), ("password", password)):
        if not isinstance(given, (str, bytes)):
            raise ValueError(f"basic auth needs a {what} that is str or bytes; got {type(given).__name__}")
    return "Basic " + base64.b64encode(_octets(username) + b":" + _octets(password)).decode("ascii")


def may_be_basic(username: str, password: str) -> bool:
    """Whether Basic authentication can say them: no control characters, and no colon in the user (RFC 7617 §2)."""
    return ":" not in username and not CONTROLS.search(username) and not CONTROLS.search(password)


def userinfo(authority: str) -> tuple[str, str]:
    """User and password from a URL's percent-encoded `user:password`."""
    user, _, password = authority.partition(":")
    return unquote(user), unquote(password)


def _octets(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


def redacted(url: str) -> str:
    """The URL fit for a log or a message: no user, no password, no query (they hold tokens), no fragment."""
    bare, query, _ = url.partition("#")[0].partition("?")
    begin = _AUTHORITY_MARK.match(bare)
    mark, rest = ("", bare) if begin is None else (begin[0], bare[begin.end() :])
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if mark and not authority and "@" in path:  # a slash too many, and behind it perhaps a user
        return f"{mark}…"
    if not host.startswith("[") and not host.rpartition(":")[2].isdigit():
        name, colon, _ = host.partition(":")
        if colon:  # no port: perhaps a user, and a password with a slash in it that goes on in the path
            return f"{mark}{name}…"
    return f"{mark}{host}{slash}{path}{'?…' if query else ''}"


def part_head(name: str | bytes, filename: Any, content_type: Any, headers: Any) -> bytes:
    """The header of one part of a multipart body (RFC 7578 §4), with its empty line.

    Raises:
        InvalidHeader: A value holds a line break or a NUL, and so would be more than a value.
        TypeError: A name is neither str nor bytes.
    """
    for what, given in (("field's", name), ("file's", filename)):
        if not isinstance(given, (str, bytes)) and not (given is None and what == "file's"):
            raise TypeError(f"a {what} name in a multipart body is str or bytes; got {type(given).__name__}")
    field = RequestField(name=name, data=b"", filename=filename, headers=headers)  # type: ignore[arg-type]  # and bytes
    field.make_multipart(
        content_type=content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    )
    for key, value in field.headers.items():
        check_token(key, "the name of a part's header")
        if _LINE_END.search(str(value)):
            raise InvalidHeader(f"the value of a part's header {key!r} holds a CR, LF or NUL, which could add another")
    # A file's name on disk need not be UTF-8; then its bytes are sent as they are there.
    return field.render_headers().encode("utf-8", "surrogateescape")
