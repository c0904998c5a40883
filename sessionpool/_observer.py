"""What may be watched: events named for what happened, called outside every lock."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sessionpool._log import Log
    from sessionpool._messages import PreparedRequest, Response
    from sessionpool.metrics import Meter

_log = logging.getLogger("sessionpool")

Event = Callable[..., None] | None
_EVENTS: Final = (
    "waited",
    "connected",
    "closed",
    "responded",
    "failed",
    "leaked",
    "retrying",
    "denied",
    "cooled",
    "throttled",
    "circuit",
    "retired",
    "benched",
)


class Observer:
    """Receives the pool's events; subclass it and override those of interest.

    Thread-safety: methods are called by the threads that do the work, several at once, never under a lock of the pool.
    An implementation must be thread-safe, quick, and must not wait for the pool. One that raises is logged once and
    dropped. `host` is `scheme://host:port`; all times are seconds, sizes are bytes.
    """

    def waited(self, host: str, seconds: float) -> None:
        """A permit was granted after this long; an idle connection is used again unless `connected` follows."""

    def connected(self, host: str, seconds: float) -> None:
        """A connection was opened, TLS included."""

    def closed(self, host: str, reason: str) -> None:
        """A connection was closed: stale, expired, broken, evicted, finished or shutdown.

        Not told of the connection of a stream that was dropped unread: the collector calls no observer.
        """

    def responded(self, method: str, host: str, status: int, seconds: float, sent: int, received: int) -> None:
        """A request was answered; one call per redirect hop.

        `seconds` runs from asking for a connection to the end of the body (of the head, for a stream); `received`
        counts the body as it came over the wire, 0 for a stream.
        """

    def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:
        """A request raised instead of being answered."""

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
        """A lease of `key` (`None`: no identity) was held beyond `leak_threshold`, or was dropped; taken at `stack`."""

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:
        """Attempt number `attempt` failed and another follows after `wait`; `reason`: a status or an error's class."""

    def denied(self, host: str, reason: str) -> None:
        """A request was not tried again, or did not go.

        `reason` for the first: attempts, stop, deadline, budget, body, retry-after, closed or not sent; for the second:
        circuit, cool-down or throttle.
        """

    def cooled(self, host: str, seconds: float, reason: str) -> None:
        """The host cools down for so long from now, for all threads; `reason`: the status and field that asked for it.

        A cool-down that ends before one under way is not told of.
        """

    def throttled(self, host: str, seconds: float) -> None:
        """A request had to wait so long for the host's cool-down or rate limit."""

    def circuit(self, host: str, state: str) -> None:
        """The host's circuit is now closed, open or half-open."""

    def retired(self, key: Hashable, reason: str) -> None:
        """A session was retired; `key`: the identity's name, `None` if it is none's."""

    def benched(self, proxy: str, seconds: float, reason: str) -> None:
        """A `ProxyRotation`'s proxy is left alone for so long (`inf`: for good); `reason`: its last status or error.

        `proxy` is its URL, without user and password.
        """


class Tracer(Protocol):
    """Sees calls and their attempts from outside, and runs them: what a bridge to a tracing library implements.

    Thread-safe. It returns what it was given to run returns, and raises what that raises.
    """

    def begins(self) -> bool:
        """Whether the call that this thread is about to make is one that `call` does not run already."""
        ...

    def call(self, request: PreparedRequest, function: Callable[[], Response]) -> Response:
        """Run `function()`: one call that sends `request`, with all its attempts and redirects."""
        ...

    def attempt(self, prepared: PreparedRequest, function: Callable[[], Response]) -> Response:
        """Run `function()`: one attempt at one request, which this may still add fields to.

        `Recalled` is no end of it: nothing was sent, and another attempt follows.
        """
        ...


class Watch:
    """Who is told of events, and what to do when one raises: observer, metrics, log, recorders. Thread-safe.

    Attributes:
        waited, connected, ... (all of the `Observer`'s): What to call with the event: the method of the one that has
            it, or one that calls all who have; `None` if nobody has. Whoever has something to tell looks first, because
            not to call costs least, and calls `drop` when the call raises.
        meter: The metrics, or `None`: also for what is no event, or too frequent to be told to them as one.

    Args:
        observer: A user's; dropped once it has raised.
        meter: The metrics, which do not raise. Told first, so that an observer that does keeps nothing from them.
        log: The log, which does not raise either.
    """

    __slots__ = ("_observers", "_recorders", "meter", *_EVENTS)

    waited: Event
    connected: Event
    closed: Event
    responded: Event
    failed: Event
    leaked: Event
    retrying: Event
    denied: Event
    cooled: Event
    throttled: Event
    circuit: Event
    retired: Event
    benched: Event

    def __init__(self, observer: Observer | None, meter: Meter | None = None, log: Log | None = None) -> None:
        self.meter = meter
        self._observers = [] if observer is None else [observer]
        self._recorders: list[object] = [each for each in (meter, log) if each is not None]
        self._bind()

    def join(self, recorder: object) -> None:
        """Tell this one too, which has methods of an `Observer`'s and never raises."""
        self._recorders.append(recorder)
        self._bind()

    def leave(self, recorder: object) -> None:
        """Tell this one no more."""
        with contextlib.suppress(ValueError):  # it has left
            self._recorders.remove(recorder)
        self._bind()

    def drop(self) -> None:
        """The observer raised: log that, and call it no more, so that it costs one log line and not one per request."""
        gone = None
        with contextlib.suppress(IndexError):  # another thread was quicker; pop() is atomic, with and without a GIL
            gone = self._observers.pop()
        self._bind()
        if gone is not None:
            extra = {"sessionpool_event": "dropped", "sessionpool_observer": type(gone).__qualname__}
            _log.exception("observer %r raised and is dropped", gone, extra=extra)

    def tell(self, event: str, *arguments: object) -> None:
        """Call the observer's method, if it has one; for what happens so seldom that the looking costs nothing."""
        method: Event = getattr(self, event)
        if method is not None:
            try:
                method(*arguments)
            except Exception:  # noqa: BLE001 - whatever a user's code may raise
                self.drop()

    def _bind(self) -> None:
        """Find whom to call. Again if somebody came or went meanwhile: a lock could be taken when a process forks."""
        while True:
            recorders, observers = list(self._recorders), list(self._observers)
            for event in _EVENTS:
                method: Event = None
                for listener in (*recorders, *observers):  # so an observer that raises keeps nothing from the others
                    method = _both(method, _find(listener, event))
                setattr(self, event, method)
            if (recorders, observers) == (self._recorders, self._observers):
                return


def _find(listener: object, event: str) -> Event:
    """What a listener does itself when it is told of this event."""
    method: Event = getattr(listener, event, None)
    own = getattr(method, "__func__", None) is not getattr(Observer, event)
    return method if own else None


def _both(first: Event, second: Event) -> Event:
    if first is None or second is None:
        return first or second

    def both(*arguments: object) -> None:
        first(*arguments)
        second(*arguments)

    return both
