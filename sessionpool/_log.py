"""What is logged: one line for each event that a person may ask about, on the loggers `sessionpool.*`.

The lines are made of hosts, numbers and names of classes, never of a URL's path or query, a header or a body, so that
there is no secret in them to be taken out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import threading
from collections.abc import Hashable
from typing import Any, Final

from sessionpool._clock import Clock, seconds

_CONNECTIONS: Final = logging.getLogger("sessionpool.connections")
_HOSTS: Final = logging.getLogger("sessionpool.hosts")
_LEASES: Final = logging.getLogger("sessionpool.leases")
_PROXIES: Final = logging.getLogger("sessionpool.proxies")
_RETRIES: Final = logging.getLogger("sessionpool.retries")

_QUIET: Final = 10.0  # seconds in which INFO tells the same thing once
_LAST: Final = 253402300799.0  # 9999-12-31T23:59:59Z, beyond which no date can be written
_REMEMBERED: Final = 1024  # things told; a crawler's hosts are many


class Log:
    """Writes events to the log; told of them as an `Observer` is, through `Watch`. Thread-safe, raises nothing.

    A line's numbers and names are attributes of its record too, flat and with the metrics' prefix:
    `sessionpool_event`, `sessionpool_pool`, `sessionpool_host`, ... Any formatter and handler takes those, where a
    nested mapping becomes a `repr` in some. They are never other than str, int or float.

    Levels are looked at when something happens, and may change at any time. None of the events comes with every
    request: over a connection that is used again, a request that is answered costs nothing here.

    Args:
        pool: The pool's name.
        clock: For the instant at which a cool-down ends, and for how often the same is told.
    """

    __slots__ = ("_clock", "_lock", "_pool", "_told")

    def __init__(self, pool: str, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._lock = threading.RLock()
        # What was told at INFO: until when it is not told again, and how often it was left out since.
        self._told: dict[tuple[str, ...], tuple[float, int]] = {}

    def connected(self, host: str, length: float) -> None:
        """DEBUG."""
        text = "opened a connection to %s in %.3g s"
        self._say(_CONNECTIONS, logging.DEBUG, "connected", text, host, length, host=host, seconds=length)

    def closed(self, host: str, reason: str) -> None:
        """DEBUG."""
        text = "closed a connection to %s: %s"
        self._say(_CONNECTIONS, logging.DEBUG, "closed", text, host, reason, host=host, reason=reason)

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:
        """DEBUG."""
        self._say(
            _RETRIES,
            logging.DEBUG,
            "retrying",
            "%s %s: attempt %d came to %s; another in %s",
            method,
            host,
            attempt,
            reason,
            seconds(wait),
            method=method,
            host=host,
            attempt=attempt,
            reason=reason,
            seconds=wait,
        )

    def denied(self, host: str, reason: str) -> None:
        """DEBUG; INFO where the retry budget is used up, for that is about the host and not about one request."""
        level = logging.DEBUG
        once: tuple[str, ...] = ()
        if reason == "budget":
            level, once = logging.INFO, ("denied", host)
            text = "a request to %s is not tried again: its retry %s is used up"
        elif reason in ("circuit", "cool-down", "throttle"):
            text = "a request to %s does not go: %s"
        else:
            text = "a request to %s is not tried again: %s"
        self._say(_RETRIES, level, "denied", text, host, reason, once=once, host=host, reason=reason)

    def cooled(self, host: str, length: float, reason: str) -> None:
        """INFO; one of another length is told at once."""
        over = dt.datetime.fromtimestamp(min(self._clock.wall() + length, _LAST), dt.UTC)
        until = over.isoformat(timespec="seconds")
        self._say(
            _HOSTS,
            logging.INFO,
            "cooled",
            "%s asked to be left alone (%s): no request goes to it for %s, until %s",
            host,
            reason,
            seconds(length),
            until,
            once=("cooled", host, seconds(length)),
            host=host,
            reason=reason,
            seconds=length,
            until=until,
        )

    def throttled(self, host: str, length: float) -> None:
        """DEBUG."""
        text = "a request to %s has waited %s for its cool-down or rate limit"
        self._say(_HOSTS, logging.DEBUG, "throttled", text, host, seconds(length), host=host, seconds=length)

    def circuit(self, host: str, state: str) -> None:
        """WARNING when it opens, else INFO; each, for the circuit itself sees to it that there are not many."""
        level = logging.WARNING if state == "open" else logging.INFO
        self._say(_HOSTS, level, "circuit", "the circuit of %s is %s", host, state, host=host, state=state)

    def retired(self, key: Hashable, reason: str) -> None:
        """INFO; a crawler's sessions may all come to the same end, so the same reason counts as the same."""
        whose = "a session" if key is None else f"the session of {key!r}"
        identity = "" if key is None else repr(key)
        once = ("retired", reason)
        text = "%s is retired: %s"
        self._say(_LEASES, logging.INFO, "retired", text, whose, reason, once=once, key=identity, reason=reason)

    def benched(self, proxy: str, length: float, reason: str) -> None:
        """WARNING; the rotation tells of a proxy once in its `rest`."""
        how_long = "for good" if length == math.inf else f"for {seconds(length)}"
        text = "proxy %s let nobody through (%s last) and is left alone %s"
        fields: dict[str, Any] = {} if length == math.inf else {"seconds": length}  # JSON has no `inf`
        arguments = (proxy, reason, how_long)
        self._say(_PROXIES, logging.WARNING, "benched", text, *arguments, proxy=proxy, reason=reason, **fields)

    def cut(self, leases: int, connections: int, length: float, *, waited: bool) -> None:
        """WARNING: the pool was closed over the heads of those who used it; INFO where that was meant."""
        text = "closed after %s with leases not given back: %d, connections cut off: %d"
        self._say(
            _LEASES,
            logging.WARNING if waited else logging.INFO,
            "cut",
            text,
            seconds(length),
            leases,
            connections,
            seconds=length,
            leases=leases,
            connections=connections,
        )

    def restart(self) -> None:
        """In a forked process the lock may be that of a thread which is not there."""
        self._lock = threading.RLock()

    def _say(
        self,
        logger: logging.Logger,
        level: int,
        event: str,
        text: str,
        *arguments: object,
        once: tuple[str, ...] = (),
        **fields: object,
    ) -> None:
        """Log a line; what is told `once` goes to DEBUG while it has been told a short while ago."""
        with contextlib.suppress(Exception):  # a user's filters raise through `log`; whoever sends is not to pay for it
            if not logger.isEnabledFor(level):
                return
            left_out = 0
            if once:
                admitted = self._admit(once)
                if admitted is None:
                    level = logging.DEBUG
                else:
                    left_out = admitted
            text = f"pool %r: {text}"
            if left_out:
                text += " (since this was told last, so many more: %d)"
                arguments = (*arguments, left_out)
                fields["left_out"] = left_out
            fields |= {"event": event, "pool": self._pool}
            extra = {f"sessionpool_{name}": value for name, value in fields.items()}
            logger.log(level, text, self._pool, *arguments, extra=extra)

    def _admit(self, once: tuple[str, ...]) -> int | None:
        """How often this was left out since it was told last; `None` if it is to be left out now."""
        with self._lock:  # one that its own thread may take again: a signal handler may log in the midst of this
            now = self._clock.now()
            until, left_out = self._told.get(once, (-math.inf, 0))
            if now < until:
                self._told[once] = until, left_out + 1
                return None
            self._told.pop(once, None)  # so that it goes to the end
            if len(self._told) >= _REMEMBERED:
                del self._told[next(iter(self._told))]
            self._told[once] = now + _QUIET, 0
            return left_out
