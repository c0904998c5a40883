"""Fakes for tests of code that uses sessionpool; the library's own tests use the same."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionpool._clock import Baton


class FakeClock:
    """A clock that stands still until told to move.

    Thread-safe. A thread in `wait` goes on when the time it waits for has been reached by `advance`.

    Args:
        start: What `now` begins with.
        wall: What `wall` begins with.
        jumps: A wait that nobody ends ends at once, and the clock is then where it would have ended: for code on one
            thread, whose pauses need nobody else to end them.

    >>> clock = FakeClock()
    >>> clock.advance(5)
    >>> clock.now()
    5.0
    """

    def __init__(self, start: float = 0.0, wall: float = 1_800_000_000.0, *, jumps: bool = False) -> None:
        self._now = start
        self._epoch = wall - start
        self._moving = threading.Lock()
        self._jumps = jumps

    def now(self) -> float:
        """Seconds since this clock was made, plus its start."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch; moves with `now`."""
        return self._epoch + self._now

    def advance(self, seconds: float) -> None:
        """Move on; whoever waits for an instant that is now past goes on."""
        with self._moving:
            self._now += seconds

    def wait(self, baton: Baton, until: float) -> bool:
        """Block until the baton is released (True) or the clock has reached `until` (False)."""
        if self._jumps:
            if baton.acquire(blocking=False):
                return True
            with self._moving:
                self._now = max(self._now, until)
            return False
        # Two things to wait for and no lock that covers both: look at the baton often, in real time.
        while not baton.acquire(timeout=0.0005):
            if self._now >= until:
                return baton.acquire(blocking=False)
        return True
