"""One lock around the ledger, and the waiting that must not happen under it.

The order of every call: take the lock, let the ledger decide, free the lock, act on what it decided.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, NamedTuple

from sessionpool._clock import Clock, Deadline, seconds
from sessionpool._ledger import LEASED, NOTHING, WAITING, Actions, Ledger, Permit, PoolStats, QueueFullError, T
from sessionpool._stop import Stopped
from sessionpool.exceptions import Cancelled, PoolClosed, PoolDeadlockError, PoolError, PoolQueueFull, PoolTimeout


class _Baton:
    """What a waiter blocks on. Thread-safe.

    Whoever served the waiter may have been interrupted before it could release this. So the waiter looks at its permit
    too, whenever a slice of its wait is over.
    """

    __slots__ = ("_lock", "_permit")

    def __init__(self, permit: Permit[Any]) -> None:
        self._permit = permit
        self._lock = threading.Lock()
        self._lock.acquire()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait for the release; true also if the permit waits no more."""
        return self._lock.acquire(blocking, timeout) or self._permit.state is not WAITING

    def release(self) -> None:
        """Let the waiter go on; a second time, for it may be served and stopped at once, is harmless."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()


class Books(NamedTuple, Generic[T]):
    """All that a gate knows at one moment."""

    now: float
    stats: PoolStats
    leased: list[Permit[T]]
    idle: list[tuple[Hashable, T, float]]
    waiting: list[Permit[T]]


class Gate(Generic[T]):
    """Grants permits, first come first served per key. Thread-safe.

    Args:
        ledger: Decides; used by nobody else.
        clock: For waiting and for the age of idle items.
        close: Called with an item that is to be closed and the reason; outside the lock.
        name: The pool's name, for errors.
        describe: A key in words, for errors.
        remedy: What a thread should do that waits for itself, for errors.
        stopped: Threads in it may not wait.
    """

    def __init__(
        self,
        ledger: Ledger[T],
        clock: Clock,
        close: Callable[[T, str], None],
        name: str = "default",
        *,
        describe: Callable[[Any], str] = str,
        remedy: str = "release something first",
        stopped: Stopped | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._close = close
        self._name = name
        self._describe = describe
        self._remedy = remedy
        self._stopped = Stopped() if stopped is None else stopped
        # Those who wait, for `rouse`. Single dict operations are atomic, with and without a GIL.
        self._waiting: dict[Permit[T], None] = {}
        self._lock = threading.Lock()
        self._closed = False
        # Permits given up by finalizers. The collector may run anywhere, also under the lock in this very thread, so a
        # finalizer never waits for the lock; whoever frees the lock looks here next (cpython #76757).
        self._abandoned: deque[Permit[T]] = deque()

    def acquire(self, permit: Permit[T], timeout: float | None, deadline: Deadline, asked: float | None = None) -> None:
        """Lease a new permit, waiting for it if need be; afterwards an evicted item has been closed.

        It waits for `timeout` seconds (`Timeout.pool`; `None` for no limit) and not beyond `deadline`. `asked`: the
        present instant, if the caller knows it.

        If this raises, `release(permit)` puts everything right; also after a `KeyboardInterrupt`, but for one in the
        midst of the ledger's own lines.

        Raises:
            PoolTimeout: The time was over first.
            PoolDeadlockError: The thread would wait for what it holds itself, and so for ever.
            PoolQueueFull: It would have to wait and no more may.
            PoolClosed: The gate is closed, or was closed while it waited.
            Cancelled: The thread is to stop, and would have to wait.
        """
        own = 0
        if asked is None:
            asked = self._clock.now()
        with self._lock:
            closed = self._closed
            try:
                granted = not closed and self._ledger.request(permit, asked)
            except QueueFullError:
                granted = False
            if not granted and permit.state is WAITING:
                permit.baton = _Baton(permit)
                waits = timeout is None or timeout > 0
                if waits and deadline.at > asked:  # who does not wait does not wait for itself
                    own = self._own_in_the_way(permit)
        if self._abandoned:
            self._take_back_abandoned()
        if not granted:
            if own or permit.baton is None:
                raise self._refusal(permit, closed, own)
            self._await(permit, Deadline.after(timeout, asked, "Timeout.pool").earlier(deadline), asked)
        if permit.evicted is not None:
            # Closed by the one it made room for, before that one connects: the bound holds at the server too.
            self._close_evicted(permit)

    def claim(self, permit: Permit[T], most: float) -> bool:
        """Lease a new permit if there is room for one more item; without waiting or closing any; see `Ledger.claim`.

        Raises:
            PoolClosed: The gate is closed.
        """
        with self._settled():
            if not self._closed:
                return self._ledger.claim(permit, most, self._clock.now())
        raise self._refusal(permit, closed=True, own=0)

    def release(self, permit: Permit[T], item: T | None = None, now: float | None = None) -> None:
        """Give a permit back from whatever state it is in, with its item if that can be used again.

        `now`: the present instant, if the caller knows it.
        """
        if now is None:
            now = self._clock.now()
        if permit.evicted is not None:
            self._close_evicted(permit)
        with self._lock:
            closed = self._closed
            actions: Actions[T] = self._ledger.release(permit, None if closed else item, now)
        if closed and item is not None:
            self._close(item, "shutdown")
        if actions is not NOTHING:
            self._act(actions, "expired")
        if self._abandoned:
            self._take_back_abandoned()

    def note_opened(self, *, unusable: bool) -> None:
        """For the statistics; see `Ledger.note_opened`."""
        with self._settled():
            self._ledger.note_opened(unusable=unusable)

    def abandon(self, permit: Permit[T]) -> None:
        """Give a permit back from a finalizer: takes no lock that is not free this instant."""
        self._abandoned.append(permit)
        self._take_back_abandoned()

    def rouse(self) -> None:
        """Send away the waiters that are to stop; takes no lock, so that a finalizer may call it."""
        for permit in list(self._waiting):
            if permit.baton is not None and self._stopped.shift_of(permit.thread) is not None:
                permit.baton.release()  # it leaves the queue by itself

    def suspend(self) -> None:
        """Grant nothing until `resume`: whoever comes waits. What is leased stays leased."""
        with self._settled():
            self._ledger.suspended = True

    def resume(self) -> None:
        """Grant again, first to who has waited longest."""
        with self._settled():
            actions = self._ledger.resume(self._clock.now())
        self._act(actions, "expired")

    def resize(self, total: float, *, max_waiting: int | None, max_idle: float) -> None:
        """Change the limits; see `Ledger.resize`."""
        with self._settled():
            now = self._clock.now()
            actions = self._ledger.resize(total, max_waiting=max_waiting, max_idle=max_idle, now=now)
        self._act(actions, "evicted")

    def relimit(self, key: Hashable) -> None:
        """The limit of this key has changed."""
        with self._settled():
            actions = self._ledger.relimit(key, self._clock.now())
        self._act(actions, "evicted")

    def evict(self) -> None:
        """Close what is idle."""
        with self._settled():
            actions = self._ledger.evict(self._clock.now())
        self._act(actions, "expired")

    def restart(self, keep: Iterable[Permit[T]] = ()) -> None:
        """Begin anew in a forked process, with these permits leased: no other thread of the parent's is here.

        Whoever held the lock at the fork has left the ledger in the middle of a change and will never free it.
        """
        self._lock = threading.Lock()
        self._abandoned.clear()
        self._waiting.clear()
        _wake(Actions(wake=self._ledger.reset(keep)))

    def close(self) -> Actions[T]:
        """Refuse whoever comes, send waiters away with `PoolClosed`, close what is idle; idempotent.

        Returns what was done. Leased permits stay with their holders.
        """
        with self._settled():
            self._closed = True
            actions = self._ledger.drain(self._clock.now())
        self._act(actions, "shutdown")
        return actions

    def leased_items(self, besides: int = 0) -> list[T]:
        """The items in use at this moment, but for those of the thread with the ident `besides`."""
        with self._settled():
            return [
                permit.item for permit in self._ledger.leased() if permit.item is not None and permit.thread != besides
            ]

    def books(self) -> Books[T]:
        """Everything at one moment."""
        with self._settled():
            ledger = self._ledger
            return Books(
                self._clock.now(), ledger.stats(), list(ledger.leased()), list(ledger.idle()), list(ledger.waiters())
            )

    def stats(self) -> PoolStats:
        """All counts at one moment."""
        with self._settled():
            return self._ledger.stats()

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """Hold the lock, and afterwards take back what finalizers gave up meanwhile; for whoever is in no hurry."""
        try:
            with self._lock:
                yield
        finally:
            if self._abandoned:
                self._take_back_abandoned()

    def _await(self, permit: Permit[T], deadline: Deadline, asked: float) -> None:
        assert permit.baton is not None
        try:
            self._waiting[permit] = None
            if self._stopped.shift_of(permit.thread) is None:  # after becoming visible; see `_stop`
                self._clock.wait(permit.baton, deadline.at)
        finally:
            self._waiting.pop(permit, None)
        if permit.state is LEASED:
            return
        with self._settled():
            if permit.state is LEASED:
                return  # Served between the time-out and this lock. It is ours, so use it.
            closed = not self._ledger.withdraw(permit)
            stats = self._ledger.stats(permit.key)  # of ten thousand hosts it would take 10 ms, for each time-out
            holders = [held for held in self._ledger.holders(permit.key) if held.thread]  # not what is being closed
        if closed:
            raise PoolClosed(f"pool {self._name!r} was closed while {self._describe(permit.key)} was waited for")
        shift = self._stopped.shift_of(permit.thread)
        if shift is not None:
            raise Cancelled(f"{shift.reason} while {self._describe(permit.key)} was waited for")
        now = self._clock.now()
        error = PoolTimeout(self._explain(permit, deadline, now - asked, stats, holders), stats=stats)
        raise deadline.blame(error, now)  # only the deadline of a whole call keeps account of stages

    def _own_in_the_way(self, permit: Permit[T]) -> int:
        """How many permits a waiting one waits for that its own thread holds, and nobody else; under the lock.

        If there are any, it would wait for ever, and leaves the queue.
        """
        self._take_back_all()  # what a finalizer gave up is not held
        if permit.state is not WAITING:
            return 0
        own = self._ledger.own_in_the_way(permit, lambda: threading.active_count() == 1)
        if own:
            self._ledger.withdraw(permit)
        return own

    def _refusal(self, permit: Permit[T], closed: bool, own: int) -> PoolError:
        """Why a permit is neither granted nor waited for."""
        what = self._describe(permit.key)
        if closed:
            return PoolClosed(f"pool {self._name!r} is closed; {what} was not asked")
        if own:
            return PoolDeadlockError(
                f"pool {self._name!r}: {what} could only come from this thread itself, which holds "
                f"all there is ({own}) and would wait for ever; {self._remedy}"
            )
        return PoolQueueFull(
            f"pool {self._name!r}: {self._ledger.max_waiting} threads are waiting already, "
            f"as many as Limits.waiting allows; {what} was not asked"
        )

    def _explain(
        self,
        permit: Permit[T],
        deadline: Deadline,
        waited: float,
        stats: PoolStats,
        holders: list[Permit[T]],
    ) -> str:
        host = stats.hosts.get(permit.key)
        counts = (
            f"{host.leased} of {host.limit} leased, {host.idle} idle, {host.waiting} more waiting"
            if host
            else "none open"
        )
        total = (
            "" if stats.capacity is None else f"; over all hosts {stats.leased + stats.idle} of {stats.capacity} open"
        )
        text = (
            f"no permit for {self._describe(permit.key)} came free within {seconds(waited)} ({deadline.limit}) "
            f"in pool {self._name!r}: {counts}{total}"
        )
        if holders:
            oldest = holders[0]
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            who = names.get(oldest.thread, "a thread that has ended")
            own = sum(holder.thread == permit.thread for holder in holders)
            text += f"; held longest: {seconds(self._clock.now() - oldest.since)}, by {who}"
            if own:
                text += f" ({own} held by this very thread: {self._remedy})"
        if stats.suspended:
            text += "; the pool is suspended"
        return text

    def _act(self, actions: Actions[T], reason: str) -> None:
        _wake(actions)
        if actions.close:
            with contextlib.ExitStack() as closings:  # one that fails keeps none of the others open
                for permit in reversed(actions.close):
                    closings.callback(self._close_for_good, permit, reason)

    def _close_evicted(self, permit: Permit[T]) -> None:
        if permit.evicted is not None:
            try:
                self._close_leased(permit.evicted, "evicted")
            except Exception:
                permit.evicted = None
                raise
            permit.evicted = None  # not before: who is interrupted on the way does it again when it gives back

    def _close_leased(self, permit: Permit[T], reason: str) -> None:
        try:
            if permit.item is not None:
                self._close(permit.item, reason)
        except Exception:
            self.release(permit)
            raise
        self.release(permit)

    def _close_for_good(self, permit: Permit[T], reason: str) -> None:
        """Close a leased item that nobody will come back to if this is interrupted."""
        try:
            self._close_leased(permit, reason)
        except BaseException:
            self.abandon(permit)
            raise

    def _take_back_abandoned(self) -> None:
        # If the lock is taken, its holder comes by here when it has freed it, and finds what was appended before.
        while self._abandoned and self._lock.acquire(blocking=False):
            try:
                self._take_back_all()
            finally:
                self._lock.release()

    def _take_back_all(self) -> None:
        """Take back what finalizers gave up; under the lock."""
        while self._abandoned:
            _wake(self._ledger.release(self._abandoned.popleft(), None, self._clock.now()))


def _wake(actions: Actions[Any]) -> None:
    for permit in actions.wake:
        # Without one, its thread was interrupted before it could begin to wait, and is about to give the permit back.
        if permit.baton is not None:
            permit.baton.release()
