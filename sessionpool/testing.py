"""Fakes for tests of code that uses sessionpool; the library's own tests use the same."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionpool._clock import Baton


class FakeClock:
    """A clock that stands still until told to move.

    Thread-safe. A thread in `wait` or `sleep` goes on when the time it waits for has been reached by `advance`.

    >>> clock = FakeClock()
    >>> clock.advance(5)
    >>> clock.now()
    5.0
    """

    def __init__(self, start: float = 0.0, wall: float = 1_800_000_000.0) -> None:
        self._now = start
        self._epoch = wall - start
        self._moved = threading.Condition()
        self._sleepers = 0

    def now(self) -> float:
        """Seconds since this clock was made, plus its start."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch; moves with `now`."""
        return self._epoch + self._now

    @property
    def sleepers(self) -> int:
        """Threads that are in `sleep` at this moment."""
        return self._sleepers

    def advance(self, seconds: float) -> None:
        """Move on; whoever waits for an instant that is now past goes on."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def sleep(self, seconds: float) -> None:
        """Block until `advance` has moved the clock `seconds` on."""
        with self._moved:
            until = self._now + seconds
            self._sleepers += 1
            try:
                self._moved.wait_for(lambda: self._now >= until)
            finally:
                self._sleepers -= 1

    def wait(self, baton: Baton, until: float) -> bool:
        """Block until the baton is released (True) or the clock has reached `until` (False)."""
        # Two things to wait for and no lock that covers both: look at the baton often, in real time.
        while not baton.acquire(timeout=0.0005):
            if self._now >= until:
                return baton.acquire(blocking=False)
        return True
