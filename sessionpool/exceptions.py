"""What can go wrong: requests' names with requests' ancestry, and the pool's own.

The first question of whoever catches one is *may the server have acted on the request?* `NotSent` and `MaySent` answer
it, whatever the class: ``except NotSent: enqueue_again()``.

Every message is one sentence with what was wanted, what happened and the numbers that explain it; its parts are
attributes too, so nobody has to parse text. No message holds a header's value, a password or a query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, overload

from sessionpool._config import Timeout as TimeoutSettings

if TYPE_CHECKING:
    from sessionpool._ledger import PoolStats
    from sessionpool._messages import Response
    from sessionpool._retry import Attempt


class NotSent(Exception):
    """Mixin: the server never saw the request, so that it may be sent again whatever its method.

    After redirects that is the last request, `error.request`, and `error.history` has those that went before.
    """


class MaySent(Exception):
    """Mixin: the server may have acted on the request; send it again only if it is idempotent (RFC 9110 §9.2.2)."""


class RequestException(IOError):
    """Root of everything raised for a request.

    Attributes:
        request: The `PreparedRequest` it was raised for, or `None`.
        response: The `Response` it was raised for, or `None`.
        attempts: Every `Attempt` of the request, the last one included, where a `RetryPolicy` was asked whether to
            try again; else empty.
        history: The redirects that led to the request it was raised for, oldest first; servers have acted on what came
            before these. A `NotSent` speaks of the last request alone.
    """

    attempts: Sequence[Attempt] = ()
    history: Sequence[Response] = ()

    def __init__(self, *args: Any, request: Any = None, response: Any = None) -> None:
        self.response = response
        self.request = request if request is not None else getattr(response, "request", None)
        super().__init__(*args)
        self.args = args  # OSError takes them only in its `__new__`, where there is one


class Timeout(RequestException):
    """Some time limit passed; catches `ConnectTimeout`, `ReadTimeout` and `PoolTimeout`.

    Called with one of `connect`, `read`, `total` or `pool`, it gives the settings of that name instead, so that both
    ``except sessionpool.Timeout`` and ``timeout=sessionpool.Timeout(read=10)`` mean what they say.

    Attributes:
        stage: Where `Timeout.total` was used up: lease, cool-down, throttle, permit, resolve, connect, tls, send, head,
            body or backoff; empty where another limit passed.
        stages: Seconds that each stage of the call took until then, in all attempts and redirects together.
    """

    stage: str = ""
    stages: Mapping[str, float] = MappingProxyType({})

    @overload
    def __new__(cls, *args: object, request: Any = None, response: Any = None) -> Self: ...
    @overload
    def __new__(  # type: ignore[misc]  # what it is called with settings for is no error
        cls,
        *,
        connect: float | None = ...,
        read: float | None = ...,
        total: float | None = ...,
        pool: float | None = ...,
    ) -> TimeoutSettings: ...
    def __new__(cls, *args: object, **kwargs: Any) -> Any:
        """An error, or settings; see above."""
        if cls is Timeout and kwargs and not kwargs.keys() & {"request", "response"}:
            return TimeoutSettings(*args, **kwargs)
        return super().__new__(cls)


# --- the pool and its leases: nothing was sent ---


class PoolError(RequestException, NotSent):
    """The pool could not serve the request; nothing was sent."""


class PoolTimeout(PoolError, Timeout):
    """Nothing came free before the deadline.

    Attributes:
        stats: The pool's `PoolStats` at that moment, or `None`; of its hosts only the one that was waited for.
    """

    def __init__(self, *args: Any, stats: PoolStats | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stats = stats


class PoolQueueFull(PoolError):
    """As many threads as `Limits.waiting` allows are waiting already."""


class PoolClosed(PoolError):
    """The pool was closed, before or while waiting."""


class Cancelled(PoolError):
    """The work in which it was asked was stopped; see `cancel` of `SessionPool.map`."""


class PoolDeadlockError(PoolError):
    """The thread would wait for what it holds itself."""


class IdentityRetiredError(PoolError):
    """The identity was retired, and the pool is told not to begin it anew."""


class LeaseStateError(RequestException):
    """A session was used by someone who does not hold its lease."""


class LeaseReleasedError(LeaseStateError):
    """The session's lease has ended."""


class WrongThreadError(LeaseStateError):
    """The session is in use by another thread."""


# --- requests' warnings; none is ever issued ---


class RequestsWarning(Warning):
    """Root of requests' warnings, for filters that name it."""


class FileModeWarning(RequestsWarning, DeprecationWarning):
    """A file was opened as text; here it is encoded as UTF-8."""


class RequestsDependencyWarning(RequestsWarning):
    """A library is of another version than was tested."""


# --- the connection ---


class ConnectionError(RequestException):
    """The connection could not be made, or broke."""


class ConnectError(ConnectionError, NotSent):
    """No connection could be made: refused, unreachable, reset."""


class NameResolutionError(ConnectError):
    """The host's name has no address."""


class ConnectTimeout(ConnectionError, Timeout, NotSent):
    """The connection was not ready in time."""


class SSLError(ConnectionError, NotSent):
    """TLS failed: the certificate was not accepted, or the handshake broke."""


class ProxyError(ConnectionError, NotSent):
    """The proxy could not be reached or refused the tunnel.

    Attributes:
        status: What it answered: an HTTP status to CONNECT, or a SOCKS reply code; `None` if it gave none.
    """

    status: int | None = None


class ConnectionBroken(ConnectionError, MaySent):
    """The connection broke before the response's head was complete."""


class InvalidResponse(ConnectionError, MaySent):
    """What the server sent is not an HTTP/1 response (RFC 9112)."""


class ReadTimeout(Timeout, MaySent):
    """The server sent nothing (or took nothing) for too long."""


class ChunkedEncodingError(RequestException, MaySent):
    """The body's framing is broken (RFC 9112 §7.1)."""


class IncompleteRead(ChunkedEncodingError):
    """The body ended early.

    Attributes:
        received: Bytes of the body that came.
        expected: Bytes that were promised; `None` where the framing names no number.
    """

    def __init__(self, *args: Any, received: int = 0, expected: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received = received
        self.expected = expected


class ContentDecodingError(RequestException):
    """The body could not be decoded by its `Content-Encoding`."""


class BodyTooLarge(RequestException, MaySent):
    """The body is larger than `Limits.max_body`, or grew by more than `Limits.max_ratio` when it was decoded.

    Attributes:
        size: Bytes that it has at least.
        limit: What `Limits` allows, in bytes, or as a ratio.
    """

    def __init__(self, *args: Any, size: int = 0, limit: float = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.size = size
        self.limit = limit


# --- trying again ---


class RetryError(RequestException):
    """The request was not tried (again), because there is no use in it now."""


class RetryAfterTooLong(RetryError, Timeout):
    """The server asks to wait longer than `RetryPolicy.retry_after_max` or the deadline allow.

    Attributes:
        seconds: How long it asked to wait, from then on.
    """

    def __init__(self, *args: Any, seconds: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = seconds


class CoolDownTimeout(RetryAfterTooLong, NotSent):
    """The host is cooling down, as it asked in answer to an earlier request, for longer than this one may wait."""


class ThrottleTimeout(Timeout, NotSent):
    """The host's rate limit has no place for the request before the deadline."""


class CircuitOpenError(RetryError, NotSent):
    """The host has failed too often of late and is left alone for a while.

    Attributes:
        seconds: Until it may be tried again.
    """

    def __init__(self, *args: Any, seconds: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = seconds


# --- the response ---


class HTTPError(RequestException):
    """A complete response with a bad status, from `Response.raise_for_status`."""


class TooManyRedirects(RequestException):
    """More redirects than `max_redirects` allows."""


class InsecureRedirect(RequestException):
    """A redirect from https to http, refused: it would send the session's state in the clear."""


class StreamConsumedError(RequestException, TypeError):
    """The body was streamed already and is not kept."""


class InvalidJSONError(RequestException):
    """The value given for `json` cannot be encoded."""


class JSONDecodeError(InvalidJSONError, json.JSONDecodeError):
    """The body is not JSON."""

    def __init__(self, msg: str, doc: str, pos: int, **kwargs: Any) -> None:
        json.JSONDecodeError.__init__(self, msg, doc, pos)
        InvalidJSONError.__init__(self, *self.args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's would come first and knows nothing of the three arguments.
        return self.__class__, (self.msg, self.doc, self.pos), self.__dict__


# --- bad input ---


class URLRequired(RequestException):
    """A request needs a URL."""


class MissingSchema(RequestException, ValueError):
    """The URL has no scheme."""


class InvalidSchema(RequestException, ValueError):
    """The URL's scheme is not one that can be fetched."""


class InvalidURL(RequestException, ValueError):
    """The URL cannot be parsed."""


class InvalidProxyURL(InvalidURL):
    """The proxy's URL cannot be used."""


class InvalidHeader(RequestException, ValueError):
    """A header's name or value may not be sent (RFC 9110 §5)."""


class UnrewindableBodyError(RequestException):
    """The body was read by an earlier attempt and cannot be read again."""
