"""What may be watched: events named for what happened, called outside every lock."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable

_log = logging.getLogger("sessionpool")


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


class Watch:
    """An observer's methods, and what to do when one raises. Thread-safe.

    Attributes:
        waited, connected, closed, responded, failed, leaked: The observer's; `None` for those it does not override, for
            all without an observer, and for all once one has raised: whoever has something to tell looks first,
            because not to call costs least, and calls `drop` when the call raises.
    """

    __slots__ = ("_observers", "closed", "connected", "failed", "leaked", "responded", "waited")

    def __init__(self, observer: Observer | None) -> None:
        self._observers = [] if observer is None else [observer]
        self.waited = self._find("waited")
        self.connected = self._find("connected")
        self.closed = self._find("closed")
        self.responded = self._find("responded")
        self.failed = self._find("failed")
        self.leaked = self._find("leaked")

    def drop(self) -> None:
        """The observer raised: log that, and call it no more, so that it costs one log line and not one per request."""
        self.waited = self.connected = self.closed = self.responded = self.failed = self.leaked = None
        with contextlib.suppress(IndexError):  # another thread was quicker; pop() is atomic, with and without a GIL
            _log.exception("observer %r raised and is dropped", self._observers.pop())

    def _find(self, event: str) -> Callable[..., None] | None:
        method: Callable[..., None] | None = getattr(self._observers[0], event, None) if self._observers else None
        own = getattr(method, "__func__", None) is not getattr(Observer, event)
        return method if own else None
