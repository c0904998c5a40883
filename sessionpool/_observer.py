"""What may be watched: events named for what happened, called outside every lock."""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("sessionpool")


class Observer:
    """Receives the pool's events; subclass it and override those of interest.

    Thread-safety: methods are called by the threads that do the work, several at once, never under a lock of the pool.
    An implementation must be thread-safe, quick, and must not wait for the pool. One that raises is logged once and
    dropped. `host` is `scheme://host:port`; all times are seconds, sizes are bytes.
    """

    def waited(self, host: str, seconds: float) -> None:
        """A permit to use a connection was granted; 0.0 when nobody had to be waited for."""

    def connected(self, host: str, seconds: float) -> None:
        """A connection was opened, TLS included."""

    def reused(self, host: str) -> None:
        """An idle connection was taken."""

    def closed(self, host: str, reason: str) -> None:
        """A connection was closed: stale, expired, broken, evicted, finished, abandoned or shutdown."""

    def responded(self, method: str, host: str, status: int, seconds: float, sent: int, received: int) -> None:
        """A request was answered; one call per redirect hop.

        `seconds` runs from asking for a connection to the end of the body (of the head, for a stream); `received`
        counts the body as it came over the wire, 0 for a stream.
        """

    def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:
        """A request raised instead of being answered."""


class Watch:
    """Calls an observer so that its failures stay its own. Thread-safe.

    Attributes:
        observer: Where events go; `None` once it raised, or where none was given, so that callers can skip the call.
    """

    __slots__ = ("observer",)

    def __init__(self, observer: Observer | None) -> None:
        self.observer = observer

    def tell(self, event: str, *args: Any) -> None:
        """Report one event."""
        observer = self.observer
        if observer is None:
            return
        try:
            getattr(observer, event)(*args)
        except Exception:  # noqa: BLE001 - whatever a user's code may raise
            # Dropped, so that a broken observer costs one log line and not one per request.
            self.observer = None
            _log.exception("observer %r raised in %s() and is dropped", observer, event)
