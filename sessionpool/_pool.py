"""The pool: which session may this thread use, and for how long.

A *seat* is the permit for a session, given by the same fair queue as connections: one per identity, and as many in all
as `Limits.sessions` allows. A session that needs neither (a thread's own, without that limit) needs no seat.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from sessionpool._clock import NEVER, SYSTEM_CLOCK, Clock
from sessionpool._config import Limits, Timeout
from sessionpool._gate import Gate
from sessionpool._jobs import Naming, Results
from sessionpool._ledger import Ledger, Permit, PoolStats
from sessionpool._session import NOBODY, Defaults, Session, Verbs
from sessionpool._transport import Transport
from sessionpool.exceptions import LeaseReleasedError, PoolClosed, PoolDeadlockError

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from sessionpool._messages import Response
    from sessionpool._observer import Observer

R = TypeVar("R")
I = TypeVar("I")  # noqa: E741 - an item

_UNSET: Any = object()


@attrs.frozen
class CloseReport:
    """What `SessionPool.close` did.

    Attributes:
        waiters: Threads that were waiting and got `PoolClosed`.
        idle: Idle connections closed.
        leases: Leases that were not given back in time.
        cut: Connections in use that were cut off.
        seconds: How long it took.
    """

    waiters: int
    idle: int
    leases: int
    cut: int
    seconds: float


class _Signal:
    """A baton that a finalizer may release, for `SimpleQueue.put` may run in the midst of anything."""

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


class _Nameless:
    """The key of a seat that is no identity's, and so nobody else's."""


def _describe_seat(key: object) -> str:
    return "a session" if isinstance(key, _Nameless) else f"the session of {key!r}"


class _Seat:
    """A named identity's session, as the gate sees it: seats come without an item, so this is never made."""

    identity: Hashable = None


class Lease:
    """The sole right to use one session until it is released. Made by `SessionPool.lease`.

    Use it as a context manager, which gives the session, or keep it and call `release`. Confined to the thread that
    leased it, or took it over with `transfer`; `release` may be called twice, and from another thread while the
    one that leased it neither uses the session nor leases it again.

    Attributes:
        session: The leased session.
        key: The identity's name, or `None`.
        thread: Ident of the thread it was leased by.
        since: The instant it was leased, on the pool's clock.
    """

    __slots__ = ("__weakref__", "_pool", "key", "session", "since", "thread")

    def __init__(self, pool: SessionPool, session: Session, key: Hashable) -> None:
        self._pool: SessionPool | None = pool
        self.session = session
        self.key = key
        self.thread = session.owner
        self.since = pool.clock.now()

    def __repr__(self) -> str:
        whose = "thread's own or fresh" if self.key is None else repr(self.key)
        return f"<Lease {whose}{' released' if self._pool is None else ''}; `with` it, or its .session, is the session>"

    def __enter__(self) -> Session:
        return self.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.abandon()

    def release(self) -> None:
        """Give the session back; its open streams are closed. Releasing twice is harmless."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self.session)

    def abandon(self) -> None:
        """Give the session back from a finalizer: without waiting for a lock."""
        if not hasattr(self, "_pool"):
            return  # interrupted while it was made
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self.session, collected=True)

    def transfer(self) -> Session:
        """Take the lease over: from now on the calling thread owns the session.

        Raises:
            LeaseReleasedError: It has been released.
        """
        if self._pool is None:
            raise LeaseReleasedError("this lease has been released and cannot be transferred")
        self.thread = get_ident()
        self._pool.hand_over(self.session)
        return self.session


class SessionPool(Verbs):
    """Leases isolated sessions to threads, over one bounded, fair set of connections. Thread-safe.

    Each session has cookies, headers and auth of its own. All of them share connections: at most `limits.per_host` to
    one host and `limits.total` in all, idle ones included, given out first come first served.

    Args:
        name: For errors, logs and metrics.
        limits: How many connections and sessions.
        timeout: How long each step may take.
        observer: Told what happens.
        workers: Threads for `submit`, and for `map` unless it names another number.
        clock: Source of time; for tests.
        headers, params, auth, cookies, proxies, verify, cert, hooks, trust_env, max_redirects, base_url: What a new
            session starts from; see `Session`.

    Raises:
        ValueError: A setting is not what it must be.
    """

    def __init__(
        self,
        *,
        name: str = "default",
        limits: Limits | None = None,
        timeout: Timeout | None = None,
        observer: Observer | None = None,
        workers: int = 32,
        clock: Clock = SYSTEM_CLOCK,
        headers: Mapping[str, Any] | None = None,
        params: Any = None,
        auth: Any = None,
        cookies: Any = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        hooks: Mapping[str, Any] | None = None,
        trust_env: bool = True,
        max_redirects: int = 30,
        base_url: str | None = None,
    ) -> None:
        if limits is not None and not isinstance(limits, Limits):
            raise ValueError(f"limits must be a sessionpool.Limits, such as Limits(per_host=8); got {limits!r}")
        self.name = name
        self.limits = limits or Limits()
        self.clock = clock
        self.workers = _workers(workers)
        self._defaults = Defaults.of(
            headers=headers,
            params=params,
            auth=auth,
            cookies=cookies,
            proxies=proxies,
            verify=verify,
            cert=cert,
            hooks=hooks,
            trust_env=trust_env,
            max_redirects=max_redirects,
            base_url=base_url,
            timeout=timeout,
        )
        self._transport = Transport(name, self.limits, clock, observer)
        seats: Ledger[_Seat] = Ledger(lambda _: 1, self.limits.sessions or math.inf)
        self._seats: Gate[_Seat] = Gate(seats, clock, lambda *_: None, name, describe=_describe_seat)
        self._identities: dict[Hashable, Session] = {}
        self._own = (
            threading.local()
        )  # .session: this thread's own; .leased: what it leases in its place, if it is away
        # One entry per outermost lease. Single dict operations are atomic with and without a GIL; there is no lock
        # because a lease is taken for every pool.get().
        self._leases: dict[int, tuple[Session, Hashable, threading.Thread]] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._returned = _Signal()  # a lease was given back while close() waits
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SessionPool {self.name!r}{' closed' if self._closed else ''}>"

    def __enter__(self) -> SessionPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who is interrupted does not want to wait for what other threads are doing.
        self.close(timeout=10.0 if error is None or isinstance(error, Exception) else 0.0)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a SessionPool cannot be pickled: it holds sockets; make one in each process from the same settings"
        )

    # --- leases ---

    def lease(self, key: Hashable | None = None, *, fresh: bool = False, timeout: float | None = _UNSET) -> Lease:
        """Lease a session to this thread.

        Without arguments it is this thread's own session, the same every time, so its cookies stay; nested leases give
        it again, and it is returned when the outermost ends.

        Args:
            key: Lease the identity of this name instead: one session per key, held by one thread at a time, which keeps
                its cookies from lease to lease. Threads that want it wait their turn, first come first served.
            fresh: Lease a blank session instead, forgotten when released.
            timeout: Seconds to wait for the session, instead of `Timeout.pool`; `None` for no limit.

        Raises:
            PoolTimeout: The session did not come free in time.
            PoolDeadlockError: This thread holds the lease of `key` already, so it would wait for itself.
            PoolClosed: The pool is closed.
        """
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        caller = get_ident()
        permit: Permit[_Seat] | None = None
        session: Session | None = None
        number = 0
        if key is not None:
            if fresh:
                raise ValueError("a lease is either of an identity (key) or fresh, not both")
            holder = threading.current_thread()  # not its ident, which the system gives to another when it has ended
            if any(held == key and thread is holder for _, held, thread in list(self._leases.values())):
                raise PoolDeadlockError(
                    f"this thread already holds the lease of {key!r} and would wait for itself; "
                    "use that session, or release it first"
                )
            permit = Permit(key, None, caller)
        elif not fresh:
            session = getattr(self._own, "leased", None)
            if session is not None and session.depth and session.owner == caller:
                session.depth += 1
                return Lease(self, session, None)
        if self.limits.sessions is not None:
            holder = threading.current_thread()
            if sum(thread is holder for _, _, thread in list(self._leases.values())) >= self.limits.sessions:
                raise PoolDeadlockError(
                    f"this thread holds all {self.limits.sessions} sessions of pool {self.name!r} (Limits.sessions) "
                    "and would wait for itself; release one first"
                )
            if permit is None:
                permit = Permit(_Nameless(), None, caller)
        try:
            if permit is not None:
                seconds = self._defaults.timeout.pool if timeout is _UNSET else timeout
                self._seats.acquire(permit, seconds, NEVER)
            if key is not None:
                session = self._identities.get(key)
                if session is None:
                    session = self._identities[key] = self._new_session()
            elif fresh:
                session = self._new_session()
            else:
                session = getattr(self._own, "session", None)
                if session is None:
                    session = self._own.session = self._new_session()
                elif session.depth:  # another thread has taken it over; it stays this thread's own
                    session = self._new_session()
                self._own.leased = session
            number = next(self._numbers)
            self._leases[number] = (session, key, threading.current_thread())
            session.seat = (number, permit)
            session.owner = caller
            session.depth = 1
            return Lease(self, session, key)
        except BaseException:
            if self._leases.pop(number, None) is not None and session is not None:
                session.owner, session.depth = NOBODY, 0
            if permit is not None:
                self._seats.release(permit)
            raise

    def forget(self, key: Hashable) -> None:
        """Drop an identity with its cookies; its next lease begins blank. One that is leased now stays its holder's."""
        self._identities.pop(key, None)

    def hand_over(self, session: Session) -> None:
        """The calling thread takes a leased session over; called by its lease."""
        number, _ = session.seat
        _, key, _ = self._leases[number]
        self._leases[number] = (session, key, threading.current_thread())
        session.owner = get_ident()

    def give_back(self, session: Session, *, collected: bool = False) -> None:
        """A lease of `session` has ended; called by it, once."""
        session.depth -= 1
        if session.depth:
            return
        session.close_streams(collected=collected)
        session.owner = NOBODY
        number, permit = session.seat
        session.seat = None
        del self._leases[number]
        if permit is not None:
            if collected:
                self._seats.abandon(permit)
            else:
                self._seats.release(permit)
        if self._closed:
            self._returned.release()

    def _new_session(self) -> Session:
        session = Session(transport=self._transport, defaults=self._defaults)
        session.owner = NOBODY
        return session

    # --- one call on this thread's session ---

    def request(self, method: str, url: str, **kwargs: Any) -> Response:
        """Send one request on this thread's own session, leased for the call; see `Session.request`.

        With `stream=True` the lease lasts until the body has been read, or the response is closed or dropped.
        """
        lease = self.lease()
        try:
            response = lease.session.request(method, url, **kwargs)
        except BaseException:
            lease.release()
            raise
        response.hold(lease)
        return response

    # --- many items ---

    def map(
        self,
        function: Callable[[Session, I], R],
        items: Iterable[I],
        *,
        workers: int | None = None,
        key: Callable[[I], Hashable] | None = None,
        fresh: bool = False,
        ordered: bool = False,
        return_exceptions: bool = False,
    ) -> Results[R]:
        """Call `function(session, item)` for each item on worker threads; iterate to get the results.

        Items are taken as results are consumed, at most two per worker ahead, so there may be any number of them.

        Args:
            function: Called with a leased session and an item.
            items: Iterated in the thread that consumes the results.
            workers: Threads; the pool's `workers` by default.
            key: Gives each item's identity; the item is then worked on under `lease(key(item))`. Without it each worker
                uses its own session, so that one item sees the cookies of those before it on the same thread.
            fresh: Give each item a blank session.
            ordered: Yield in the order of the items instead of as they finish.
            return_exceptions: Yield exceptions in place of results. Otherwise the first one is raised to the consumer
                and no further items are begun. Either way it carries the item as `.item`.
        """

        def run(item: I) -> R:
            with Naming(item), self.lease(None if key is None else key(item), fresh=fresh) as session:
                return function(session, item)

        return Results(
            run,
            items,
            workers=self.workers if workers is None else _workers(workers),
            ordered=ordered,
            return_exceptions=return_exceptions,
            thread_name=f"sessionpool-{self.name}-map",
        )

    def submit(
        self,
        function: Callable[[Session, I], R],
        item: I,
        *,
        key: Hashable | None = None,
        fresh: bool = False,
    ) -> Future[R]:
        """Call `function(session, item)` on one of the pool's `workers` threads; the future has its result.

        Args:
            function: Called with a leased session and the item.
            item: Handed to `function`, and attached to an exception as `.item`.
            key: The identity to lease; see `lease`.
            fresh: Give it a blank session.
        """

        def run() -> R:
            with Naming(item), self.lease(key, fresh=fresh) as session:
                return function(session, item)

        with self._executor_lock:
            if self._closed:
                raise PoolClosed(f"pool {self.name!r} is closed")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.workers, f"sessionpool-{self.name}")
            return self._executor.submit(run)

    # --- the whole ---

    def stats(self) -> PoolStats:
        """The counts of this moment."""
        return attrs.evolve(self._transport.stats(), sessions=len(self._leases))

    def close(self, timeout: float = 10.0) -> CloseReport:
        """Close the pool: refuse new leases and requests, wake all waiters with `PoolClosed`, close idle connections.

        Then wait until the leases of other threads have been released, `timeout` seconds at most, and cut off the
        connections still in use, so that threads blocked on them wake with `ConnectionBroken`. Idempotent; safe from
        any thread and from inside a lease, which is not waited for.
        """
        started = self.clock.now()
        with self._executor_lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        seats = self._seats.close()
        connections = self._transport.close()
        deadline = started + timeout
        try:
            while (left := self._foreign_leases()) and self.clock.wait(self._returned, deadline):
                pass
        finally:
            self._returned.release()  # for another thread that closes: it may have been woken by nothing but this
            # What is in use now is used by whoever kept a lease, or by a fork, which has none.
            cut = self._transport.cut(f"pool {self.name!r} was closed")
        return CloseReport(
            waiters=len(seats.wake) + len(connections.wake),
            idle=len(connections.close),
            leases=left,
            cut=cut,
            seconds=self.clock.now() - started,
        )

    def _foreign_leases(self) -> int:
        """Leases held by other threads; to wait for one's own would be to wait for oneself."""
        caller = threading.current_thread()
        return sum(thread is not caller for _, _, thread in list(self._leases.values()))


def _workers(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"workers must be a whole number of at least 1; got {number!r}")
    return number
