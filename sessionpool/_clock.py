"""Time, as the package sees it: one place to ask, so that tests can hold it still.

The only module that imports `time`.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Final, Protocol

import attrs


class Baton(Protocol):
    """What a waiter blocks on: a raw lock, made held, released once by whoever hands something over.

    An `Event` would read better and costs 3.7 µs to make where a raw lock costs 0.1; one is made per wait.
    """

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...


class Clock(Protocol):
    """Source of time; the system's in production, `sessionpool.testing.FakeClock` in tests."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for what is dated by calendar: cookies, HTTP dates."""
        ...

    def sleep(self, seconds: float) -> None:
        """Pause this thread."""
        ...

    def wait(self, baton: Baton, until: float) -> bool:
        """Block until the baton is released (True) or the instant `until` has passed (False)."""
        ...


class SystemClock:
    """The real clock. Immutable, shared by all threads."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    sleep = staticmethod(time.sleep)

    def wait(self, baton: Baton, until: float) -> bool:
        if until == math.inf:
            return baton.acquire()
        # Beyond TIMEOUT_MAX the C call raises OverflowError; 292 years of waiting are as good as no limit.
        return baton.acquire(timeout=min(max(until - time.monotonic(), 0.0), threading.TIMEOUT_MAX))


SYSTEM_CLOCK: Final = SystemClock()


@attrs.frozen
class Deadline:
    """One instant on `Clock.now`'s scale, shared by every step of an operation; `inf` never passes.

    Attributes:
        at: The instant.
        limit: What set it, as the user wrote it (`Timeout.total=2`), so that an error can name it.
    """

    at: float
    limit: str

    @classmethod
    def after(cls, timeout: float | None, now: float, limit: str) -> Deadline:
        """The instant `timeout` seconds from `now`; never, for `None`."""
        if timeout is None:
            return NEVER
        return cls(now + timeout, f"{limit}={timeout:g} s")

    def earlier(self, other: Deadline) -> Deadline:
        """Whichever of the two passes first."""
        return self if self.at <= other.at else other


NEVER: Final = Deadline(math.inf, "no limit")
