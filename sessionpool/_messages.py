"""What is sent and what came back: headers, bodies, `PreparedRequest`, `Response`; requests' names for them.

A message's header has one of two forms. Most are never looked at and stay a block of bytes, put together from parts
that were encoded once; on first access it becomes a mapping, and from then on the mapping is what counts. All
classes here are confined to the thread that holds the session.
"""

from __future__ import annotations

import codecs
import datetime as dt
import functools
import io
import json as json_module
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import charset_normalizer

from sessionpool import _bodies, _wire
from sessionpool._clock import SYSTEM_CLOCK
from sessionpool._codes import codes
from sessionpool._governor import advised
from sessionpool._urls import Target, add_query, as_url, parse_target
from sessionpool.auth import HTTPBasicAuth
from sessionpool.cookies import CookieJar, as_jar
from sessionpool.exceptions import (
    HTTPError,
    InvalidHeader,
    JSONDecodeError,
    RequestException,
    StreamConsumedError,
    UnrewindableBodyError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from urllib3 import HTTPResponse

    from sessionpool._connection import Releasable, Reply
    from sessionpool._retry import Attempt

REDIRECTS: Final = frozenset(
    {codes.moved, codes.found, codes.other, codes.temporary_redirect, codes.permanent_redirect}
)
_STREAM_PIECE: Final = 64 * 1024
# A body that nobody wants is read so that its connection can be used again; beyond this a new one is cheaper.
_SHORT: Final = 64 * 1024
# Fields that prove who is asking: their values never appear in a message, and do not follow a redirect elsewhere.
SECRET_FIELDS: Final = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "api-key",
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
        "x-amz-security-token",
        "x-goog-api-key",
        "private-token",
    }
)

# RFC 9110 §5.5: what no value may hold, since it could end the field and begin another.
_FORBIDDEN = re.compile(r"[\r\n\0]")
# What str.splitlines() takes for the end of a line, but for CR, which may be followed by LF.
_LINE_ENDS: Final = "\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_CHARSET = re.compile(r"(?:^|;)\s*charset\s*=\s*\"?'?([^\s;\"']+)", re.IGNORECASE)
_LINK = re.compile(r"<([^>]*)>([^<]*)(?:,|$)")
_LINK_PARAMETER = re.compile(r";\s*([^\s=;]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^;,\s]*))")


# --- header ---


class CaseInsensitiveDict(MutableMapping[str, Any]):
    """A mapping whose keys ignore case and keep the spelling they were last set with."""

    __slots__ = ("_block", "_store", "frames")

    def __init__(self, data: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None, **kwargs: Any) -> None:
        self._store: dict[str, tuple[str, Any]] = {}
        self._block: bytes | None = None
        self.frames = False  # `block` holds a field that frames a body
        self.update(data or {}, **kwargs)

    def __setitem__(self, key: str | bytes, value: Any) -> None:
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        self._store[key.lower()] = (key, value)
        self._block = None

    def __getitem__(self, key: str) -> Any:
        return self._store[key.lower()][1]

    def __delitem__(self, key: str) -> None:
        del self._store[key.lower()]
        self._block = None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._store

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._store.values())

    def __len__(self) -> int:
        return len(self._store)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.lower_items()) == dict(CaseInsensitiveDict(other).lower_items())

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        shown = {name: "…" if key in SECRET_FIELDS else value for key, (name, value) in self._store.items()}
        return repr(shown)

    def lower_items(self) -> Iterator[tuple[str, Any]]:
        """The items with lower-case keys."""
        return ((key, value) for key, (_, value) in self._store.items())

    def copy(self) -> CaseInsensitiveDict:
        """An independent mapping with the same items."""
        twin = CaseInsensitiveDict()
        twin._store = dict(self._store)
        twin._block, twin.frames = self._block, self.frames
        return twin

    def merged(self, other: Mapping[str, Any]) -> CaseInsensitiveDict:
        """A copy with `other`'s items over it; `None` as a value takes the name out."""
        result = self.copy()
        for name, value in other.items():
            result[name] = value
        for name in [name for name, value in result.items() if value is None]:
            del result[name]
        return result

    def block(self) -> bytes:
        """The fields as they go over the wire; encoded once, and again after a change."""
        if self._block is None:
            self.frames = "content-length" in self._store or "transfer-encoding" in self._store
            self._block = b"".join(
                [encode_field(name, value) for name, value in self._store.values() if value is not None]
            )
        return self._block


def encode_field(name: str | bytes, value: object) -> bytes:
    """One field line with its end.

    Raises:
        InvalidHeader: The name is no token, or the value holds a line break or a NUL or is neither str nor bytes.
    """
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    _wire.check_token(name, "a header's name")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise InvalidHeader(f"the value of header {name!r} must be str or bytes; got {type(value).__name__}")
    if found := _FORBIDDEN.search(value):
        raise InvalidHeader(
            f"the value of header {name!r} holds {found[0]!r} at index {found.start()}; "
            "a CR, LF or NUL could smuggle in another header"
        )
    try:
        encoded = value.strip(" \t").encode("latin-1")
    except UnicodeEncodeError:
        encoded = value.strip(" \t").encode("utf-8")
    return b"%b: %b\r\n" % (name.encode("ascii"), encoded)


def add_params(url: str, params: Any) -> str:
    """The URL with `params` at the end of its query; one of another scheme than http is left alone, as in requests."""
    return add_query(url, _bodies.encode_form(params))


# --- the request ---

Hooks = Mapping[str, Any]
Auth = Callable[["PreparedRequest"], "PreparedRequest"]


def as_method(method: str | bytes) -> str:
    """A method in upper case.

    Raises:
        InvalidHeader: It is no token (RFC 9110 §9.1).
    """
    if isinstance(method, bytes):
        method = method.decode("latin-1")
    if not isinstance(method, str):
        raise TypeError(f"a method must be str, such as 'GET'; got {type(method).__name__}")
    _wire.check_token(method, "a method")
    return method.upper()


def as_auth(auth: Any) -> Auth | None:
    """An auth handler from what a user may give: a pair, a callable, or nothing."""
    if auth is None or callable(auth):
        return auth  # type: ignore[no-any-return]  # a user's callable
    if isinstance(auth, (tuple, list)) and len(auth) == 2:
        return HTTPBasicAuth(*auth)
    raise ValueError(f"auth must be a pair (user, password) or a callable; got {type(auth).__name__}")


def ask_auth(auth: Any, prepared: PreparedRequest) -> PreparedRequest:
    """The request with what proves who is asking.

    Raises:
        TypeError: The handler does not return a request.
    """
    handler = as_auth(auth)
    handled = prepared if handler is None else handler(prepared)
    if not isinstance(handled, PreparedRequest):
        raise TypeError(f"an auth handler must return the request that it was given; {handler!r} returned {handled!r}")
    return handled


def as_mapping(given: Any, name: str) -> Mapping[str, Any]:
    """What a user gave for a mapping, none for `None`.

    Raises:
        TypeError: It is none; nothing of it is shown, for it may be secret.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping, such as a dict; got {type(given).__name__}")
    return given


def as_hooks(hooks: Hooks | None) -> dict[str, list[Any]]:
    """Hooks as lists, from a function or several per event.

    Raises:
        TypeError: They are no mapping to functions.
        ValueError: An event is not `response`.
    """
    tidy: dict[str, list[Any]] = {}
    for event, functions in as_mapping(hooks, "hooks").items():
        if event != "response":
            raise ValueError(f"the one event to hook is 'response'; got {event!r}")
        several = [functions] if callable(functions) else functions
        tidy[event] = list(several) if isinstance(several, Iterable) else [several]
        if not all(map(callable, tidy[event])):
            raise TypeError(f"a hook must be a function, or a list of them; got {functions!r}")
    return tidy


class _Hooked:
    """What takes hooks: functions that are called with each response."""

    __slots__ = ()

    hooks: Any

    def register_hook(self, event: str, hook: Any) -> None:
        """Have `hook`, a function or several, called with each response; the one event is `response`."""
        self.hooks.setdefault(event, []).extend(as_hooks({event: hook})[event])

    def deregister_hook(self, event: str, hook: Any) -> bool:
        """Call `hook` no more; whether it was there."""
        try:
            self.hooks[event].remove(hook)
        except (KeyError, ValueError):
            return False
        return True


class Request(_Hooked):
    """What a user asks for, to be prepared by `Session.prepare_request`, or by `prepare` without a session.

    The attributes are the arguments; what they mean `Session.request` tells. Confined to one thread.
    """

    def __init__(
        self,
        method: str | None = None,
        url: str | None = None,
        headers: Mapping[str, Any] | None = None,
        files: Any = None,
        data: Any = None,
        params: Any = None,
        auth: Any = None,
        cookies: Any = None,
        hooks: Hooks | None = None,
        json: Any = None,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = {} if headers is None else headers
        self.files = [] if files is None else files
        self.data = [] if data is None else data
        self.params = {} if params is None else params
        self.auth = auth
        self.cookies = cookies
        self.hooks = {"response": [], **as_hooks(hooks)}
        self.json = json

    def __repr__(self) -> str:
        return f"<Request [{self.method}]>"

    def prepare(self) -> PreparedRequest:
        """The request as it is to be sent, with nothing of any session in it."""
        prepared = PreparedRequest()
        prepared.prepare(
            method=self.method,
            url=self.url,
            headers=self.headers,
            files=self.files,
            data=self.data,
            params=self.params,
            auth=self.auth,
            cookies=self.cookies,
            hooks=self.hooks,
            json=self.json,
        )
        return prepared


class PreparedRequest(_Hooked):
    """A request ready to be sent. Confined to one thread.

    A session makes it whole. Made by hand it is empty, and is filled by `prepare`, or by the methods of that name for
    one part each, in the order that `prepare` calls them.

    Attributes:
        method: Upper case.
        body: `bytes`, a file-like or an iterable of bytes; `None` for none.
        body_length: Bytes of a file-like or an iterable; `None` if it goes chunked.
        target: The URL taken apart.
        given_cookies: Those of this call alone, sent to where it began; `None` for none.
        sender: The session's call that this is sent by, while an adapter of a user's has it; see `HTTPAdapter.send`.
    """

    __slots__ = (
        "_block",
        "_headers",
        "_hooks",
        "_names",
        "_stream",
        "body",
        "body_length",
        "given_cookies",
        "method",
        "sender",
        "target",
    )

    def __init__(
        self,
        method: str | None = None,
        target: Target | None = None,
        headers: CaseInsensitiveDict | None = None,
        block: bytes | None = None,
        hooks: dict[str, list[Any]] | None = None,
    ) -> None:
        """`block`: what is sent for `headers`, if these belong to others and are not to be changed."""
        self.method: str = method  # type: ignore[assignment]  # `None` as in requests, until it is prepared
        self.target: Target = target  # type: ignore[assignment]
        self.body: Any = None
        self.body_length: int | None = None
        self.given_cookies: CookieJar | None = None
        self.sender: Any = None
        self._stream: _bodies.Stream | None = None
        self._hooks = hooks
        if headers is None:
            headers = CaseInsensitiveDict()
        self._headers = headers if block is None else None
        self._names = headers
        self._block = block or b""

    def __repr__(self) -> str:
        return f"<PreparedRequest [{self.method}]>"

    def __getstate__(self) -> dict[str, Any]:
        """All but how it is being sent."""
        return {
            "method": self.method,
            "target": self.target,
            "body": self.body,
            "body_length": self.body_length,
            "given_cookies": self.given_cookies,
            "_hooks": self._hooks,
            "_headers": self.headers,
            "_stream": self._stream,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        PreparedRequest.__init__(self)
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def hooks(self) -> dict[str, list[Any]]:
        """Lists of functions by event; the one event is `response`."""
        if self._hooks is None:
            self._hooks = {"response": []}
        return self._hooks

    @hooks.setter
    def hooks(self, hooks: Hooks | None) -> None:
        self._hooks = None if hooks is None else as_hooks(hooks)

    @property
    def url(self) -> str:
        """The URL, normalised; set it to send the request elsewhere."""
        return None if self.target is None else self.target.url

    @url.setter
    def url(self, url: Any) -> None:
        self.target = parse_target(as_url(url))

    @property
    def _cookies(self) -> CookieJar:
        """The cookies given for this request alone; auth handlers that were written for requests put more into it."""
        if self.given_cookies is None:
            self.given_cookies = CookieJar()
        return self.given_cookies

    # --- to prepare by hand ---

    def prepare(
        self,
        method: str | None = None,
        url: str | None = None,
        headers: Mapping[str, Any] | None = None,
        files: Any = None,
        data: Any = None,
        params: Any = None,
        auth: Any = None,
        cookies: Any = None,
        hooks: Hooks | None = None,
        json: Any = None,
    ) -> None:
        """Fill in everything.

        Raises:
            RequestException: A part may not be sent.
        """
        self.prepare_method(method)
        self.prepare_url(url, params)
        self.prepare_headers(headers)
        self.prepare_cookies(cookies)
        self.prepare_body(data, files, json)
        self.prepare_auth(auth, url)
        self.prepare_hooks(hooks)  # after auth, which may add to them

    def prepare_method(self, method: str | bytes | None) -> None:
        """Set the method."""
        self.method = None if method is None else as_method(method)  # type: ignore[assignment]  # see above

    def prepare_url(self, url: Any, params: Any = None) -> None:
        """Set the URL, with `params` at the end of its query."""
        url = as_url(url)
        self.target = parse_target(add_params(url, params) if params else url)

    def prepare_headers(self, headers: Mapping[str, Any] | None) -> None:
        """Set the header."""
        self._headers = CaseInsensitiveDict().merged(headers or {})
        self._headers.block()  # raises for what may not be sent

    def prepare_cookies(self, cookies: Any) -> None:
        """Set `Cookie` to those of `cookies` that go to this URL, unless it was set by hand."""
        self.given_cookies = as_jar(cookies) if cookies else None
        if self.given_cookies is not None and not self.has_field("cookie"):
            target, now = self.target, SYSTEM_CLOCK.wall()
            line = self.given_cookies.header(target.host, target.path, target.is_secure, now)
            if line is not None:
                self.add_field("Cookie", line)

    def prepare_body(self, data: Any, files: Any, json: Any = None) -> None:
        """Set the body, and the fields that describe it."""
        self.set_body(data, files, json)

    def prepare_content_length(self, body: Any) -> None:
        """Set the field that frames the body to what `body`, which it has from now on, is."""
        self.body = body
        self._describe_body()

    def prepare_auth(self, auth: Any, url: str | None = "") -> None:  # noqa: ARG002 - requests' signature
        """Have `auth`, or what the URL says, prove who is asking."""
        handled = ask_auth(self.target.auth if auth is None else auth, self)
        if handled is not self:
            self.__setstate__(handled.__getstate__())
        self.describe_body_again()  # the handler may have changed it

    def prepare_hooks(self, hooks: Hooks | None) -> None:
        """Add `hooks` to those that there are."""
        for event, functions in as_hooks(hooks).items():
            self.register_hook(event, functions)

    # --- what a session does ---

    @property
    def path_url(self) -> str:
        """Path and query."""
        return self.target.request_target.decode("ascii")

    @property
    def headers(self) -> CaseInsensitiveDict:
        """The header as it will be sent, but for `Host`."""
        if self._headers is None:
            self._headers = CaseInsensitiveDict(_wire.split_fields(self._block.decode("latin-1")))
        return self._headers

    def has_field(self, name: str) -> bool:
        """Whether the header holds `name`."""
        return name in (self._names if self._headers is None else self._headers)

    def add_field(self, name: str, value: str) -> None:
        """Set a field that the header does not hold yet; cheaper than through `headers`."""
        if self._headers is None:
            self._block += encode_field(name, value)
        else:
            self._headers[name] = value

    def set_field(self, name: str, value: str) -> None:
        """Set a field, in place of the one that the header may hold."""
        if self.has_field(name):
            self.headers[name] = value
        else:
            self.add_field(name, value)

    def copy(self) -> PreparedRequest:
        """An independent request with the same header; the body is the same object."""
        twin = PreparedRequest(self.method, self.target, self.headers.copy(), None, self._hooks)
        twin.take_body_of(self)
        twin.sender = self.sender
        twin.given_cookies = None if self.given_cookies is None else self.given_cookies.copy()
        return twin

    def set_body(self, data: Any, files: Any, json: Any) -> None:
        """Encode the body and set the fields that describe it.

        Raises:
            InvalidJSONError: `json` cannot be encoded.
            TypeError, ValueError, NotImplementedError: As in requests, if these make no body.
        """
        self.body, content_type = _bodies.encode(data, files, json)
        self._describe_body()
        if content_type is not None and not self.has_field("content-type"):
            self.add_field("Content-Type", content_type)

    def take_body_of(self, other: PreparedRequest) -> None:
        """Send the body of `other`; the header describes it already."""
        self.body, self.body_length, self._stream = other.body, other.body_length, other._stream

    def drop_body(self) -> None:
        """Send no body, and no fields that describe one."""
        self.body = self.body_length = self._stream = None
        for name in ("Content-Length", "Content-Type", "Transfer-Encoding"):
            self.headers.pop(name, None)
        if self.method in ("POST", "PUT", "PATCH"):
            self.add_field("Content-Length", "0")  # RFC 9110 §8.6: these anticipate a body

    # --- for the transport ---

    def head(self, *, absolute: bool, credentials: bytes = b"", fields: bytes = b"") -> bytes:
        """Request line and header (RFC 9112 §3).

        `absolute` for a proxy, then also with `fields`, and with `credentials` unless there are others: these are the
        proxy's, so they go no further than here.
        """
        target = self.target
        if self._headers is None:
            block, names = self._block, self._names
        else:
            block, names = self._headers.block(), self._headers
        method = self.method.encode("ascii")
        own_host = "host" in names._store
        if not absolute and not own_host:
            return b"%b%b%b\r\n" % (method, target.start, block)
        request_target = target.request_target
        if absolute:
            request_target = b"%b://%b%b" % (target.scheme.encode("ascii"), target.host_field, request_target)
            block += fields if "proxy-authorization" in names._store else credentials + fields
        host = b"" if own_host else b"Host: %b\r\n" % target.host_field
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, request_target, host, block)

    def open_body(self) -> bytes | Iterable[bytes] | None:
        """The body from its start.

        Raises:
            UnrewindableBodyError: An earlier attempt has read it, and it cannot be wound back.
        """
        body = self.body
        if body is None or isinstance(body, bytes):
            return body
        stream = self._as_stream()
        try:
            stream.rewind()
        except (OSError, ValueError) as error:
            raise UnrewindableBodyError(
                f"the body of {self.method} {_wire.redacted(self.url)} cannot be read from where it began: {error}",
                request=self,
            ) from error
        return stream.pieces()

    @property
    def is_replayable(self) -> bool:
        """The body can be sent a second time."""
        return self.body is None or isinstance(self.body, bytes) or self._as_stream().is_replayable

    def describe_body_again(self) -> None:
        """Set the field that frames the body to what the body is now."""
        self._headers = self.headers  # a mapping knows which fields it holds; a block does not, of those added
        self._describe_body()

    def _describe_body(self) -> None:
        """Set the one field that frames the body (RFC 9112 §6.2), as the body is, whatever was set by hand."""
        body = self.body
        held = (self._names if self._headers is None else self._headers)._store
        if body is not None and not isinstance(body, bytes) and (octets := _bodies.as_octets(body)) is not None:
            body = self.body = octets  # text, or the like, that an auth handler put here
        if body is None:
            for name in ("transfer-encoding", "content-length"):
                if name in held:
                    del self.headers[name]
            if self.method not in ("GET", "HEAD"):
                self.add_field("Content-Length", "0")  # RFC 9110 §8.6
            return
        length: int | None
        if isinstance(body, bytes):
            length = len(body)
        else:
            length = self.body_length = self._as_stream().length
        if length is None and "content-length" in held:
            # Of an iterable only the caller can know the length; the connection holds the iterable to it.
            given = str(self.headers["Content-Length"])
            if not given.isdecimal():
                raise InvalidHeader("Content-Length must be a whole number of bytes, in decimal digits")
            length = self.body_length = int(given)
        if length is None:
            self.set_field("Transfer-Encoding", "chunked")
            return
        if "transfer-encoding" in held:
            del self.headers["Transfer-Encoding"]
        self.set_field("Content-Length", str(length))

    def _as_stream(self) -> _bodies.Stream:
        """The body as a stream; measured anew if another was put in its place."""
        if self._stream is None or self._stream.source is not self.body:
            self._stream = _bodies.Stream(self.body)
        return self._stream


# --- the response ---


class Response:
    """What came back, with requests' attributes. Confined to one thread.

    The body is read when the request returns, unless `stream=True` was asked for: then the connection is held until
    the body has been read, or `close` is called, or the response is dropped.

    Attributes:
        status_code: The status, e.g. 404.
        request: The `PreparedRequest` that this answers.
        attempts: Every `Attempt` of the request, where there was a failure and a `RetryPolicy`; else empty.
        connection: While hooks are called, what sends one more request within the same call: `connection.send(request,
            **kwargs)`, with the keywords that the hook was called with. So an auth handler answers a challenge.
    """

    # On the class, so that making one sets only what differs.
    status_code: int = None  # type: ignore[assignment]  # as in requests, until somebody sets it
    request: PreparedRequest = None  # type: ignore[assignment]
    next: PreparedRequest | None = None
    attempts: Sequence[Attempt] = ()
    connection: Any = None
    _reply: Reply | None = None
    _raw: Any = None
    _content: bytes | None = None
    _consumed = False
    _spent = False
    _url: str | None = None
    _reason: str | None = None
    _headers: CaseInsensitiveDict | None = None
    _cookies: CookieJar | None = None
    _encoding: str | None = ""  # "": not looked up yet
    _elapsed: float | None = None
    _history: list[Response] | None = None

    def __init__(self, reply: Reply | None = None, request: PreparedRequest | None = None) -> None:
        """`reply` is what the transport brought for `request`; without, an empty response, to be filled by hand."""
        if reply is not None and request is not None:
            self._reply = reply
            self.request = request
            self.status_code = reply.head.status

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_content(128)

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the connection; reads the body first."""
        try:
            content = self.content
        except StreamConsumedError:  # nobody kept it
            content = b""
        return {
            "content": content,
            "status_code": self.status_code,
            "headers": self.headers,
            "url": self.url,
            "history": self.history,
            "encoding": self.encoding,
            "reason": self.reason,
            "cookies": self.cookies,
            "elapsed": self.elapsed,
            "request": self.request,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Response.__init__(self)
        self._content = state.pop("content")
        for name, value in state.items():
            setattr(self, name, value)

    # --- head ---

    @property
    def url(self) -> str:
        """The URL that this is the answer of, after redirects."""
        if self._url is None and self.request is not None:
            self._url = self.request.url
        return self._url

    @url.setter
    def url(self, url: str) -> None:
        self._url = url

    @property
    def headers(self) -> CaseInsensitiveDict:
        """The header; a field that came several times is one, joined by commas (RFC 9110 §5.2)."""
        if self._headers is None:
            self._headers = CaseInsensitiveDict()
            for name, value in self._reply.head.fields() if self._reply else ():
                before = self._headers.get(name)
                self._headers[name] = value if before is None else f"{before}, {value}"
        return self._headers

    @headers.setter
    def headers(self, headers: CaseInsensitiveDict) -> None:
        self._headers = headers

    @property
    def history(self) -> list[Response]:
        """The redirects that led here, oldest first."""
        if self._history is None:
            self._history = []
        return self._history

    @history.setter
    def history(self, history: list[Response]) -> None:
        self._history = history

    @property
    def cookies(self) -> CookieJar:
        """The cookies that this response set."""
        if self._cookies is None:
            self._cookies = CookieJar()
            if self._reply is not None:
                target = self.request.target
                for line in self._reply.head.set_cookie:
                    self._cookies.store(line, target.host, target.path, target.is_secure, SYSTEM_CLOCK.wall())
        return self._cookies

    @cookies.setter
    def cookies(self, cookies: CookieJar) -> None:
        self._cookies = cookies

    @property
    def reason(self) -> str:
        """The reason phrase, e.g. "Not Found"; may be empty."""
        return self._reason or (self._reply.head.reason if self._reply is not None else "")

    @reason.setter
    def reason(self, reason: str) -> None:
        self._reason = reason

    @property
    def elapsed(self) -> dt.timedelta:
        """Time from asking for a connection to the end of the header."""
        if self._elapsed is None:
            return dt.timedelta(seconds=self._reply.elapsed if self._reply is not None else 0.0)
        return dt.timedelta(seconds=self._elapsed)

    @elapsed.setter
    def elapsed(self, elapsed: dt.timedelta) -> None:
        self._elapsed = elapsed.total_seconds()

    @property
    def ok(self) -> bool:
        """`raise_for_status` would not raise."""
        return not 400 <= self.status_code < 600

    @property
    def is_redirect(self) -> bool:
        """A redirect that names where to go."""
        return self.status_code in REDIRECTS and self.location is not None

    @property
    def is_permanent_redirect(self) -> bool:
        """A permanent redirect that names where to go."""
        return self.status_code in (codes.moved, codes.permanent_redirect) and self.location is not None

    @property
    def links(self) -> dict[str, dict[str, str]]:
        """The `Link` field, taken apart (RFC 8288), by relation or else by URL."""
        return {link.get("rel") or link["url"]: link for link in parse_links(self.headers.get("link", ""))}

    def raise_for_status(self) -> None:
        """Raise if the status is one of 4xx or 5xx.

        Raises:
            HTTPError: It is.
        """
        if not self.ok:
            side = "Client" if self.status_code < 500 else "Server"
            raise HTTPError(
                f"{self.status_code} {side} Error: {self.reason} for url: {_wire.redacted(self.url)}",
                response=self,
            )

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as the server wrote it."""
        if self._reply is not None and self._headers is None:
            return self._reply.head.location
        return self.headers.get("location")

    # --- body ---

    @property
    def raw(self) -> HTTPResponse | Any:
        """urllib3's response over the body: `read`, `stream`, decoding."""
        if self._raw is None and self._reply is not None:
            self._raw = _wire.urllib3_response(
                self._reply, self._reply.head, self.request.method, self.request.path_url
            )
        return self._raw

    @raw.setter
    def raw(self, raw: Any) -> None:
        self._raw = raw

    @property
    def content(self) -> bytes:
        """The body, decoded by its `Content-Encoding`; read now if it was not."""
        if self._content is None:
            self._check_readable(self._consumed)
            return self.load()
        return self._content

    @property
    def encoding(self) -> str | None:
        """The charset that the header names, or that its media type implies; set it to have `text` use another."""
        if self._encoding == "":
            self._encoding = _charset(self.headers.get("content-type"))
        return self._encoding

    @encoding.setter
    def encoding(self, encoding: str | None) -> None:
        self._encoding = encoding

    @property
    def apparent_encoding(self) -> str | None:
        """The charset that the body looks like."""
        return charset_normalizer.detect(self.content)["encoding"]

    @property
    def text(self) -> str:
        """The body as text, by `encoding` or else by `apparent_encoding`; what does not fit is replaced."""
        if not self.content:
            return ""
        try:
            return str(self.content, self.encoding or self.apparent_encoding or "utf-8", errors="replace")
        except LookupError:  # the header names a charset that Python does not know
            return str(self.content, "utf-8", errors="replace")

    def json(self, **kwargs: Any) -> Any:
        """The body, decoded from JSON; `kwargs` go to `json.loads`.

        Raises:
            JSONDecodeError: It is not JSON.
        """
        try:
            # RFC 8259 §8.1: UTF-8; loads() on bytes also detects the UTF-16 and -32 of older days.
            return json_module.loads(self.content, **kwargs)
        except UnicodeDecodeError:
            pass
        except json_module.JSONDecodeError as error:
            raise JSONDecodeError(error.msg, error.doc, error.pos, response=self) from None
        try:
            return json_module.loads(self.text, **kwargs)
        except json_module.JSONDecodeError as error:
            raise JSONDecodeError(error.msg, error.doc, error.pos, response=self) from None

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """Pieces of the decoded body: of `chunk_size` bytes, fewer where it comes chunked; as it comes, for `None`.

        Raises:
            StreamConsumedError: It was iterated before, without being kept.
        """
        if chunk_size is not None and not isinstance(chunk_size, int):
            raise TypeError(f"chunk_size must be an int or None; got {chunk_size!r}")
        if self._content is not None:
            content = self._content
            size = chunk_size if chunk_size and chunk_size > 0 else len(content) or 1
            pieces: Iterator[bytes] = (content[at : at + size] for at in range(0, len(content), size))
        else:
            self._check_readable(self._spent)
            pieces = self._stream(chunk_size)  # from where an earlier one was left, if it was not read to its end
        if not decode_unicode or self.encoding is None:
            return pieces
        return _decode_pieces(pieces, self.encoding)

    def iter_lines(self, chunk_size: int = 512, decode_unicode: bool = False, delimiter: Any = None) -> Iterator[Any]:
        """Lines of the decoded body, without their ends."""
        pending: Any = None
        for piece in self.iter_content(chunk_size, decode_unicode):
            chunk = piece if pending is None else pending + piece
            if delimiter:
                *lines, pending = chunk.split(delimiter)
            else:
                lines = chunk.splitlines(keepends=True)
                # The last line is whole only if its end has come, and a CR may be half of one.
                end = lines[-1][-1:]
                pending = None if end and end in (b"\n" if isinstance(end, bytes) else _LINE_ENDS) else lines.pop()
                lines = [line.splitlines()[0] for line in lines]
            yield from lines
        if pending is not None:
            yield from [pending] if delimiter else pending.splitlines()

    @property
    def retry_after(self) -> float | None:
        """Seconds that a response of 413, 429 or 503 asks to wait, from when it came; `None` if it does not."""
        reply = self._reply
        return None if reply is None else advised(reply.head, SYSTEM_CLOCK.wall())

    @property
    def is_received(self) -> bool:
        """It came over a connection, and was not made by hand."""
        return self._reply is not None

    def adopt(self, request: PreparedRequest, seconds: float) -> None:
        """Take as this request's response what an adapter has made by hand."""
        self.request = self.request or request
        if self._elapsed is None:
            self._elapsed = seconds

    def settle(self) -> None:
        """Read the body, if nobody has begun to."""
        if self._content is None and not self._consumed:
            self.load()

    def latency(self, asked: float) -> float | None:
        """Seconds to the end of the head, without the wait for a connection; `asked`: when that began."""
        reply = self._reply
        return None if reply is None else reply.elapsed - (reply.permit.since - asked)

    def hold(self, lease: Releasable) -> None:
        """Release `lease` when the body has ended; now, if it has."""
        if self._reply is None:
            lease.release()
        else:
            self._reply.keep(lease)

    def load(self) -> bytes:
        """Read the body, of which nothing has been read yet, and keep it as `content`."""
        # Also when reading fails: what came is no body, and no second try may take it for one.
        self._consumed = self._spent = True
        reply = self._reply
        plain = reply is not None and not reply.head.encoded and self._raw is None
        content = self._content = reply.read() if plain else self._decode_all()  # type: ignore[union-attr]  # there is one
        return content

    def close(self) -> None:
        """Give the connection back; one with unread bytes is closed."""
        if self._reply is not None:
            self._reply.close()

    def finish(self) -> None:
        """Be done with a response that nobody will read; a short body is read, so that its connection can go on."""
        try:
            reply = self._reply
            if reply is not None and not reply.ended and not self._consumed and (reply.head.length or 0) <= _SHORT:
                pieces, size = [], 0
                for piece in self._stream(_STREAM_PIECE):
                    pieces.append(piece)
                    size += len(piece)
                    if size > _SHORT:
                        return
                self._content = b"".join(pieces)
        except RequestException:
            pass  # nobody asked for this body
        finally:
            self.close()

    @property
    def _host(self) -> str:
        """For errors; a response that was made by hand may be nobody's."""
        return "nowhere" if self.request is None else self.request.target.host

    def _check_readable(self, consumed: bool) -> None:
        if consumed:
            raise StreamConsumedError("the body was streamed and is not kept; it cannot be read again", response=self)
        if self._reply is not None and self._reply.ended and not self._reply.complete:
            raise StreamConsumedError("the response, or its lease, was closed before the body was read", response=self)

    def _decode_all(self) -> bytes:
        if self.raw is None:
            return b""
        # In pieces: a bomb is found out, and a deadline kept, before all of it has come. BytesIO gives its bytes away
        # without copying them.
        content = io.BytesIO()
        raw, reply = self.raw, self._reply
        read = _reader(raw, "read1")
        try:
            while piece := read(_STREAM_PIECE):
                content.write(piece)
                if reply is not None and reply.complete and _wire.is_decoded(raw):
                    break  # to be told by one more read costs as much as to decode a small body
        except _wire.Urllib3Error as error:
            self.close()
            raise _wire.own_error(error, self._host) from error
        if self._reply is not None:
            _wire.check_decoded(self.raw, self._host)
        return content.getvalue()

    def _stream(self, chunk_size: int | None) -> Iterator[bytes]:
        self._consumed = True
        raw = self.raw
        # A chunked body is often a feed of events: pass on what has come instead of waiting for a full piece.
        as_it_comes = chunk_size is None or (self._reply is not None and self._reply.head.chunked)
        try:
            read = _reader(raw, "read1" if as_it_comes else "read")
            while piece := read(chunk_size or _STREAM_PIECE):
                yield piece
            self._spent = True
        except _wire.Urllib3Error as error:
            self.close()
            raise _wire.own_error(error, self._host) from error
        if self._reply is not None:
            _wire.check_decoded(raw, self._host)


def parse_links(value: str) -> list[dict[str, str]]:
    """The links of a `Link` field (RFC 8288): of each its `url`, and its parameters by name."""
    links = []
    for url, parameters in _LINK.findall(value):
        link = {"url": url.strip()}
        for name, double, single, bare in _LINK_PARAMETER.findall(parameters):
            link[name] = double or single or bare.strip()
        links.append(link)
    return links


def _reader(raw: Any, name: str) -> Callable[[int | None], bytes]:
    """How to read from `raw`: urllib3's response decodes; an adapter of a user's may have set any file."""
    return functools.partial(getattr(raw, name), decode_content=True) if hasattr(raw, "stream") else raw.read


def _charset(content_type: str | None) -> str | None:
    """The charset of a media type, as requests tells it (RFC 2616 §3.7.1 for text, RFC 8259 §8.1 for JSON)."""
    if not content_type:
        return None
    if match := _CHARSET.search(content_type):
        return match[1]
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("text/"):
        return "ISO-8859-1"
    return "utf-8" if media_type == "application/json" else None


def _decode_pieces(pieces: Iterator[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
