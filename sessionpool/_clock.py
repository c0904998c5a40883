"""Time, as the package sees it: one place to ask, so that tests can hold it still.

The only module that imports `time`.
"""

from __future__ import annotations

import math
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from sessionpool.exceptions import Timeout

E = TypeVar("E", bound="Timeout")


class Baton(Protocol):
    """What a waiter blocks on: a raw lock, made held, released once by whoever hands something over.

    An `Event` would read better and costs 3.7 µs to make where a raw lock costs 0.1; one is made per wait.
    """

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...


class Bell:
    """A baton that a finalizer may release, for `SimpleQueue.put` may run in the midst of anything. Thread-safe."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait for a release; false if none came in time."""
        try:
            self._queue.get(blocking, None if timeout < 0 else timeout)
        except Empty:
            return False
        return True

    def release(self) -> None:
        """Let one waiter go on."""
        self._queue.put(None)


class Clock(Protocol):
    """Source of time; the system's in production, `sessionpool.testing.FakeClock` in tests."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for what is dated by calendar: cookies, HTTP dates."""
        ...

    def wait(self, baton: Baton, until: float) -> bool:
        """Block until the baton is released (True) or the instant `until` has passed (False)."""
        ...


# Python runs signal handlers, and delivers asynchronous exceptions, between bytecodes only; and a signal that comes
# just before a thread blocks, or to another thread, does not end the blocking. So nobody blocks longer than this.
SLICE: Final = 1.0


class SystemClock:
    """The real clock. Immutable, shared by all threads."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def wait(self, baton: Baton, until: float) -> bool:
        while (left := until - time.monotonic()) > SLICE:
            if baton.acquire(timeout=SLICE):
                return True
        return baton.acquire(timeout=max(left, 0.0))


SYSTEM_CLOCK: Final = SystemClock()


def seconds(length: float) -> str:
    """A length of time for people: `0.25 s`, `3600 s`."""
    return f"{length:.0f} s" if length >= 100 else f"{length:.3g} s"


@attrs.define(eq=False)  # not frozen: one is made per wait, and frozen costs three times as much to make
class Deadline:
    """One instant on `Clock.now`'s scale, shared by every step of an operation; `inf` never passes.

    The deadline of a whole call also keeps account of what the call's time went into. Confined to the thread that
    makes the call, or reads its stream.

    Attributes:
        at: The instant.
        name: The setting that it comes from: `Timeout.total`.
        timeout: Its value, in seconds.
    """

    at: float
    name: str
    timeout: float | None
    _stage: str = ""
    _since: float = 0.0
    _spent: dict[str, float] | None = None

    @classmethod
    def after(cls, timeout: float | None, now: float, name: str) -> Deadline:
        """The instant `timeout` seconds from `now`; never, for `None`."""
        return NEVER if timeout is None else cls(now + timeout, name, timeout)

    @property
    def limit(self) -> str:
        """The setting and its value, for an error to name it."""
        return self.name if self.timeout is None else f"{self.name}={self.timeout:g} s"

    def earlier(self, other: Deadline) -> Deadline:
        """Whichever of the two passes first."""
        return self if self.at <= other.at else other

    def enter(self, stage: str, now: float) -> None:
        """From `now` on the call's time goes into this stage; not for `NEVER`, which all calls share."""
        if self._spent is None:
            self._spent = {}
        if self._stage:
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def blame(self, error: E, now: float) -> E:
        """The error of a call whose time is over: its stage, and the time that each stage took, added to it."""
        if self._stage:
            self.enter(self._stage, now)
            stages = dict(self._spent or {})
            error.stage, error.stages = self._stage, stages
            took = ", ".join(f"{name} {seconds(spent)}" for name, spent in stages.items())
            error.args = (f"{error.args[0]}, in stage {self._stage!r} ({took})", *error.args[1:])
        return error


NEVER: Final = Deadline(math.inf, "no limit", None)
