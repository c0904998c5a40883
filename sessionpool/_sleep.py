"""Pauses of threads that hold nothing: before another attempt, and until a host may be asked again."""

from __future__ import annotations

from threading import get_ident

from sessionpool._clock import Bell, Clock
from sessionpool._stop import Stopped
from sessionpool.exceptions import Cancelled, PoolClosed


class _Sleeper:
    """One thread's pause."""

    __slots__ = ("bell", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.bell = Bell()


class Sleepers:
    """Those who pause, so that somebody can wake them. Thread-safe.

    Args:
        clock: To wait by.
        stopped: Threads in it may not pause.
    """

    def __init__(self, clock: Clock, stopped: Stopped | None = None) -> None:
        self._clock = clock
        self._stopped = Stopped() if stopped is None else stopped
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
            PoolClosed: `close` was called before it came.
            Cancelled: The thread was stopped before it came.
        """
        sleeper = _Sleeper()
        try:
            self._asleep[sleeper] = None
            # After becoming visible: who wakes has set what is looked at here before looking who is asleep. A bell
            # that rings before anybody waits for it is heard all the same.
            ended = self._closed or self._stopped.shift_of(sleeper.thread)
            if ended or self._clock.wait(sleeper.bell, until):
                shift = self._stopped.shift_of(sleeper.thread)
                if shift is not None and not self._closed:
                    raise Cancelled(f"{shift.reason} in the pause before the next request")
                raise PoolClosed(f"{self._closed} in the pause before the next request")
        finally:
            self._asleep.pop(sleeper, None)

    def rouse(self) -> None:
        """Wake those that are to stop; takes no lock, so that a finalizer may call it."""
        for sleeper in list(self._asleep):
            if self._stopped.shift_of(sleeper.thread) is not None:
                sleeper.bell.release()

    def close(self, reason: str) -> None:
        """Wake all, and let nobody pause from now on."""
        self._closed = reason
        for sleeper in list(self._asleep):
            sleeper.bell.release()

    def restart(self) -> None:
        """Begin anew in a forked process: the threads that pause are the parent's."""
        self._asleep.clear()
