"""Finds leases that are held for too long, or were lost, and tells where they were taken."""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sessionpool._clock import Bell, Clock

if TYPE_CHECKING:
    from sessionpool._observer import Watch
    from sessionpool._pool import Hold

_log = logging.getLogger("sessionpool.leases")
_FRAMES: Final = 16  # of the borrower's stack, the innermost


class LeakWatch:
    """Looks for leases held longer than a threshold. Thread-safe.

    One daemon thread, started with the first lease, which ends with the pool.

    Args:
        owner: The pool, held weakly.
        name: The pool's, for the log.
        holds: What is held now; the pool's own, and iterated as a copy.
        clock: For ages and for waiting.
        watch: Told of each leak.
        threshold: Seconds.

    Raises:
        ValueError: The threshold is not a number above 0.
    """

    def __init__(
        self, owner: object, name: str, holds: Iterable[Hold], clock: Clock, watch: Watch, threshold: float
    ) -> None:
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not 0 < threshold < math.inf:
            raise ValueError(f"leak_threshold must be seconds above 0, or None not to look; got {threshold!r}")
        self._name = name
        self._holds = holds
        self._clock = clock
        self._watch = watch
        self._threshold = threshold
        self._lost: deque[Hold] = deque()
        self._told: weakref.WeakSet[Hold] = weakref.WeakSet()  # used by the one thread only
        self._bell = Bell()
        self._owner = weakref.ref(owner, lambda _: self.stop())
        self._starting = threading.Lock()
        self._is_started = False
        self._is_stopped = False

    def begin(self, hold: Hold) -> None:
        """Note where a lease is taken: where the caller was called."""
        # Lines of source are read from their files only if they are to be shown.
        frames = traceback.walk_stack(sys._getframe(2))
        hold.stack = traceback.StackSummary.extract(frames, limit=_FRAMES, lookup_lines=False)
        hold.stack.reverse()
        if not self._is_started:
            with self._starting:
                if not self._is_started:
                    threading.Thread(target=self._run, name=f"sessionpool-{self._name}-leaks", daemon=True).start()
                    self._is_started = True

    def lose(self, hold: Hold) -> None:
        """A lease was dropped, or its thread has ended; called by finalizers, so another thread has to tell."""
        self._lost.append(hold)
        self._bell.release()

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True
        self._bell.release()

    def _run(self) -> None:
        while not self._is_stopped:
            self._clock.wait(self._bell, self._look())
        self._tell_lost(self._clock.now())  # what was lost just before the end

    def _look(self) -> float:
        """Tell what is new; the instant to look again."""
        now = self._clock.now()
        again = now + self._threshold
        self._tell_lost(now)
        for hold in list(self._holds):
            due = hold.since + self._threshold
            if due > now:
                again = min(again, due)
            else:
                self._tell(hold, now, "has not been released")
        return again

    def _tell_lost(self, now: float) -> None:
        while self._lost:
            self._tell(self._lost.popleft(), now, "was dropped, or its thread ended, before it was released")

    def _tell(self, hold: Hold, now: float, what: str) -> None:
        if hold in self._told:
            return
        self._told.add(hold)
        whose = "a lease" if hold.key is None else f"the lease of {hold.key!r}"
        stack = "".join(hold.stack.format()) if hold.stack else ""
        _log.warning(
            "pool %r: %s by thread %r %s after %.3g s (leak_threshold=%g s); it was taken at\n%s",
            self._name,
            whose,
            hold.thread.name,
            what,
            now - hold.since,
            self._threshold,
            stack,
            extra={
                "sessionpool_event": "leaked",
                "sessionpool_pool": self._name,
                "sessionpool_key": "" if hold.key is None else repr(hold.key),
                "sessionpool_thread": hold.thread.name,
                "sessionpool_seconds": now - hold.since,
            },
        )
        if self._watch.leaked is not None:
            try:
                self._watch.leaked(hold.key, now - hold.since, stack)
            except Exception:  # noqa: BLE001 - whatever a user's code may raise
                self._watch.drop()
