"""Pauses of threads that hold nothing: before another attempt, and until a host may be asked again."""

from __future__ import annotations

from collections.abc import Container
from threading import get_ident

from sessionpool._clock import Bell, Clock
from sessionpool.exceptions import PoolClosed


class _Sleeper:
    """One thread's pause."""

    __slots__ = ("bell", "reason", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.bell = Bell()
        self.reason = ""


class Sleepers:
    """Those who pause, so that somebody can wake them. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closed = ""
        # Single dict operations are atomic, with and without a GIL.
        self._asleep: dict[_Sleeper, None] = {}

    def __len__(self) -> int:
        return len(self._asleep)

    @property
    def is_closed(self) -> bool:
        """Nobody may pause any more."""
        return bool(self._closed)

    def sleep(self, until: float) -> None:
        """Pause this thread until that instant.

        Raises:
            PoolClosed: `close` or `wake` was called before it came.
        """
        sleeper = _Sleeper()
        self._asleep[sleeper] = None
        try:
            reason = self._closed  # after becoming visible: who closes sets it before looking who is asleep
            if reason or self._clock.wait(sleeper.bell, until):
                raise PoolClosed(f"{reason or sleeper.reason} in the pause before the next request")
        finally:
            del self._asleep[sleeper]

    def wake(self, reason: str, threads: Container[int] | None = None) -> None:
        """Make those who pause now fail with `reason`: all, or these threads, by ident."""
        for sleeper in list(self._asleep):
            if threads is None or sleeper.thread in threads:
                sleeper.reason = reason
                sleeper.bell.release()

    def close(self, reason: str) -> None:
        """Wake all, and let nobody pause from now on."""
        self._closed = reason
        self.wake(reason)

    def restart(self) -> None:
        """Begin anew in a forked process: the threads that pause are the parent's."""
        self._asleep.clear()
