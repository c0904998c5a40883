"""The pool: which session may this thread use, and for how long.

A *seat* is the permit for a session, given by the same fair queue as connections: one per identity, and as many in all
as `Limits.sessions` allows. A session that needs neither (a thread's own, without that limit) needs no seat.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import logging
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from sessionpool import _gate, _governor, _ledger, _proxies, metrics
from sessionpool._clock import NEVER, SYSTEM_CLOCK, Bell, Clock, Deadline
from sessionpool._config import Governor, Limits, RateLimit, Timeout
from sessionpool._dump import PoolDump, take
from sessionpool._gate import Gate
from sessionpool._health import BY_HAND, Health, Record
from sessionpool._jobs import Crew, Naming, Results
from sessionpool._leaks import LeakWatch
from sessionpool._ledger import LEASED, Ledger, Permit, PoolStats
from sessionpool._proxies import EVERYWHERE, ProxyRotation
from sessionpool._retry import RetryPolicy
from sessionpool._session import NOBODY, UNSET, Defaults, Session, Verbs
from sessionpool._transport import Transport
from sessionpool.exceptions import IdentityRetiredError, LeaseReleasedError, PoolClosed
from sessionpool.metrics import Meter, Metrics, Reading

if TYPE_CHECKING:
    import ssl
    import traceback
    from types import FrameType, TracebackType

    from sessionpool._messages import Response
    from sessionpool._observer import Observer
    from sessionpool.ops import OpsServer

R = TypeVar("R")
I = TypeVar("I")  # noqa: E741 - an item

DEFAULT_RETRY: Final = RetryPolicy()
DEFAULT_METRICS: Final = Metrics()


@attrs.frozen
class CloseReport:
    """What `SessionPool.close` did.

    Attributes:
        waiters: Threads that were waiting and got `PoolClosed`.
        idle: Idle connections closed.
        leases: Leases that were not given back in time.
        cut: Connections in use that were cut off.
        seconds: How long it took.
        is_deferred: Called in a signal handler that had interrupted the pool's own code, it left the closing to a
            thread, which may have to wait until the handler has returned; the other figures are of no worth then.
    """

    waiters: int
    idle: int
    leases: int
    cut: int
    seconds: float
    is_deferred: bool = False


class _Nameless:
    """The key of a seat that is no identity's, and so nobody else's."""


def _describe_seat(key: object) -> str:
    return "a session" if isinstance(key, _Nameless) else f"the session of {key!r}"


class _Seat:
    """A named identity's session, as the gate sees it: seats come without an item, so this is never made."""

    identity: Hashable = None


@attrs.define(eq=False)
class Hold:
    """A session in somebody's hands: what all its nested leases have in common. Made and ended by `SessionPool`.

    Attributes:
        pool: Whose session it is.
        session: The session.
        key: The identity's name, or `None`.
        thread: Who holds it.
        permit: Its seat, if it needs one.
        since: The instant it was leased, on the pool's clock.
        depth: Leases of it that have not been released.
        bound: It ends with its thread; false for one that lasts as long as a response, which any thread may have.
        stack: Where it was leased, if the pool looks for leaks.
    """

    pool: SessionPool
    session: Session
    key: Hashable
    thread: threading.Thread
    permit: Permit[_Seat] | None
    since: float
    depth: int = 0
    bound: bool = True
    stack: traceback.StackSummary | None = None


class Lease:
    """The sole right to use one session until it is released. Made by `SessionPool.lease`.

    Use it as a context manager, which gives the session, or keep it and call `release`. Confined to the thread that
    leased it, or took it over with `transfer`; `release` may be called twice, and from another thread while the
    one that leased it neither uses the session nor leases it again. When its thread ends, so does the lease.

    Attributes:
        session: The leased session.
    """

    __slots__ = ("__weakref__", "_hold", "session")

    session: Session

    def __init__(self) -> None:
        """A lease of nothing yet."""
        self._hold: Hold | None = None

    def __repr__(self) -> str:
        hold = self._hold
        if hold is None:
            return "<Lease released>"
        whose = "thread's own or fresh" if hold.key is None else repr(hold.key)
        return f"<Lease {whose}; `with` it, or its .session, is the session>"

    def __enter__(self) -> Session:
        return self.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_hold", None) is not None:  # no attribute: interrupted while it was made
            self.abandon()

    def release(self) -> None:
        """Give the session back; its open streams are closed. Releasing twice is harmless."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.depth -= 1
            if not hold.depth:
                try:
                    hold.pool._end(hold)
                except BaseException:  # Ctrl-C on the way; to let go of it twice is harmless, not at all is not
                    hold.pool._let_go(hold, waits=False)
                    raise

    def abandon(self) -> None:
        """Give the session back from a finalizer: without waiting for a lock."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.depth -= 1
            if not hold.depth:
                hold.pool._end(hold, lost="dropped")

    def unbind(self) -> None:
        """From now on the lease lasts as long as a response, which any thread may have, not as long as its thread."""
        hold = self._hold
        if hold is not None and hold.depth == 1:
            hold.bound = False
            if hold.permit is not None:
                hold.permit.bound = False

    def transfer(self) -> Session:
        """Take the lease over: from now on the calling thread owns the session.

        Raises:
            LeaseReleasedError: It has been released, or its thread has ended.
        """
        hold = self._hold
        if hold is None or not hold.pool._hand_over(hold):
            raise LeaseReleasedError(
                "this lease has been released, or has ended with its thread, and cannot be transferred"
            )
        return self.session


class _Local(threading.local):
    """What a pool knows of the thread that looks; in one object, because each look here costs 50 ns.

    Attributes:
        here: It.
    """

    def __init__(self, pool: weakref.ref[SessionPool]) -> None:
        self.here = _Here(threading.current_thread())
        self._end = _ThreadEnd(pool, self.here.thread)


class _Here:
    """One thread, as a pool knows it. Confined to that thread.

    Attributes:
        thread: The thread.
        session: Its own session.
        hold: The hold of its own session, or of one in its place while that is another thread's.
        deadline: Of the call that waits for a session.
    """

    __slots__ = ("deadline", "hold", "session", "thread")

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.session: Session | None = None
        self.hold: Hold | None = None
        self.deadline = NEVER


class _ThreadEnd:
    """Goes with its thread, whose leases then end."""

    def __init__(self, pool: weakref.ref[SessionPool], thread: threading.Thread) -> None:
        self._pool = pool
        self._thread = thread

    def __del__(self) -> None:
        pool = self._pool()
        if pool is not None:
            pool._reclaim(self._thread)


class SessionPool(Verbs):
    """Leases isolated sessions to threads, over one bounded, fair set of connections. Thread-safe.

    Each session has cookies, headers and auth of its own. All of them share connections: at most `limits.per_host` to
    one host and `limits.total` in all, idle ones included, given out first come first served.

    Args:
        name: For errors, logs and metrics.
        leak_threshold: Seconds after which a lease that has not been released is taken for a leak: that is logged and
            told to the observer (`leaked`), with the stack of whoever leased it. Costs some 20 µs per lease and one
            thread; `None`: nobody looks.
        limits: How many connections and sessions.
        timeout: How long each step may take.
        retry: Which failures are tried again: a `RetryPolicy`, or `None` for none.
        governor: How hosts are protected: a `Governor`.
        observer: Told what happens.
        metrics: What Prometheus gets to see, `Metrics()` by default; `None`: nothing is counted.
        health: When sessions are worn out and retired; `None`: only by hand, with `Session.retire` and `mark_bad`.
        workers: Threads for `submit`, and for `map` unless it names another number.
        clock: Source of time; for tests.
        headers, params, auth, cookies, proxies, verify, cert, hooks, trust_env, max_redirects, base_url: What a new
            session starts from; see `Session`. `proxies` may be a `ProxyRotation`: a proxy for each session.

    Raises:
        ValueError: A setting is not what it must be.
    """

    def __init__(
        self,
        *,
        name: str = "default",
        limits: Limits | None = None,
        timeout: Timeout | None = None,
        retry: Any = DEFAULT_RETRY,
        governor: Governor | None = None,
        observer: Observer | None = None,
        metrics: Metrics | None = DEFAULT_METRICS,
        health: Health | None = None,
        leak_threshold: float | None = None,
        workers: int = 32,
        clock: Clock = SYSTEM_CLOCK,
        headers: Mapping[str, Any] | None = None,
        params: Any = None,
        auth: Any = None,
        cookies: Any = None,
        proxies: Mapping[str, str] | ProxyRotation | None = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        hooks: Mapping[str, Any] | None = None,
        trust_env: bool = True,
        max_redirects: int = 30,
        base_url: str | None = None,
    ) -> None:
        if limits is not None and not isinstance(limits, Limits):
            raise ValueError(f"limits must be a sessionpool.Limits, such as Limits(per_host=8); got {limits!r}")
        if health is not None and not isinstance(health, Health):
            raise ValueError(f"health must be a sessionpool.Health, such as Health(max_uses=100); got {health!r}")
        self.name = name
        self.limits = limits or Limits()
        self.clock = clock
        self.workers = _at_least_one("workers", workers)
        self._rotation = proxies if isinstance(proxies, ProxyRotation) else None
        # A session that has a rotation's proxy has a record, so that whoever sends looks for one thing and not for two.
        self._health = health if health is not None or self._rotation is None else BY_HAND
        defaults = Defaults.of(
            headers=headers,
            params=params,
            auth=auth,
            cookies=cookies,
            proxies=None if isinstance(proxies, ProxyRotation) else proxies,
            verify=verify,
            cert=cert,
            hooks=hooks,
            trust_env=trust_env,
            max_redirects=max_redirects,
            base_url=base_url,
            timeout=timeout,
            retry=retry,
        )
        if governor is not None and not isinstance(governor, Governor):
            raise ValueError(f"governor must be a sessionpool.Governor, such as Governor(rate=...); got {governor!r}")
        self._defaults = (
            attrs.evolve(defaults, environment_proxies=EVERYWHERE) if self._rotation is not None else defaults
        )
        if metrics is not None and not isinstance(metrics, Metrics):
            raise ValueError(f"metrics must be a sessionpool.metrics.Metrics, or None for none; got {metrics!r}")
        self._meter = None if metrics is None else Meter(name, metrics, weakref.WeakMethod(self._read))
        self._transport = Transport(name, self.limits, clock, observer, governor or Governor(), self._meter)
        seats: Ledger[_Seat] = Ledger(lambda _: 1, self.limits.sessions or math.inf)
        self._seats: Gate[_Seat] = Gate(
            seats,
            clock,
            lambda *_: None,
            name,
            describe=_describe_seat,
            remedy="use that session, or release it first",
            stopped=self._transport.stopped,
        )
        self._identities: dict[Hashable, Session] = {}
        self._local = _Local(weakref.ref(self))
        # What is held now. Single dict operations are atomic, with and without a GIL; there is no lock because a lease
        # is taken for every pool.get().
        self._holds: dict[Hold, None] = {}
        self._handing = threading.Lock()  # a lease that is taken over must not end with its former thread meanwhile
        # Why, for each lease that was reclaimed: finalizers can append, and cannot count.
        self._lost: list[str] = []
        self._process = os.getpid()
        self._closed = False
        self._returned = Bell()  # a lease was given back while close() waits
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()
        self._leak_threshold = leak_threshold
        self._leaks = self._watch_leaks()
        if self._meter is not None:
            self._meter.begin()
        _pools.add(self)

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

    def lease(self, key: Hashable | None = None, *, fresh: bool = False, timeout: float | None = UNSET) -> Lease:
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
            IdentityRetiredError: The identity was retired, and `Health.on_retire` is "refuse".
        """
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        here = self._local.here
        thread = here.thread
        lease = Lease()
        permit: Permit[_Seat] | None = None
        asked = 0.0
        if key is not None:
            if fresh:
                raise ValueError("a lease is either of an identity (key) or fresh, not both")
            permit = Permit(key, None, get_ident())
        else:
            hold = here.hold
            if not fresh and hold is not None and hold.depth > 0 and hold.thread is thread:
                # No call stands between the look and the count, so that no finalizer or signal comes in between.
                hold.depth += 1
                lease._hold = hold
                lease.session = hold.session
                return lease
            if self.limits.sessions is not None:
                permit = Permit(_Nameless(), None, get_ident())
        hold = None
        try:
            if permit is not None:
                seconds = self._defaults.timeout.pool if timeout is UNSET else timeout
                asked = self.clock.now()
                self._seats.acquire(permit, seconds, here.deadline, asked)
            if key is not None:
                session = self._identities.get(key)
                if session is None or (session.health is not None and self._is_retired(session.health, key)):
                    session = self._identities[key] = self._new_session(key, session)
            elif fresh:
                session = self._new_session()
            elif here.session is None:
                session = here.session = self._new_session()
            else:
                session = here.session
                # One that another thread has taken over stays this thread's own. It is not known by its owner: a lost
                # lease may be just about to end in the thread that runs the collector.
                if session.hold is not None and session.hold.depth > 0:
                    session = self._new_session()
                elif session.health is not None and self._is_retired(session.health, None):
                    session = here.session = self._new_session(None, session)
            hold = Hold(self, session, key, thread, permit, self.clock.now())
            if key is None and not fresh:
                here.hold = hold
            if self._leaks is not None:
                self._leaks.begin(hold)
            self._holds[hold] = None
            session.hold = hold
            session.owner = get_ident()
            hold.depth = 1
            lease._hold = hold
            lease.session = session
        except BaseException as error:
            if hold is not None:
                hold.depth = 0
                self._holds[hold] = None  # it may not have got there
                self._let_go(hold, waits=True)
            elif permit is not None:
                self._seats.release(permit)
            if self._meter is not None:
                self._meter.refused(error)
            raise
        if permit is not None and self._meter is not None:
            self._meter.seated(hold.since - asked)
        return lease

    def forget(self, key: Hashable) -> None:
        """Drop an identity with its cookies; its next lease begins blank, also where it was retired and is refused.

        One that is leased now stays its holder's.
        """
        self._identities.pop(key, None)

    def _hand_over(self, hold: Hold) -> bool:
        """The calling thread takes a leased session over; called by its lease. False if the lease has ended."""
        here = self._local.here.thread
        with self._handing:
            if hold not in self._holds:
                return False
            hold.thread = here
            hold.session.owner = get_ident()
            if hold.permit is not None:
                hold.permit.thread = get_ident()
        if hold not in self._holds:  # released meanwhile, by a third thread
            if hold.session.hold is hold:
                hold.session.owner = NOBODY
            return False
        return True

    def _reclaim(self, thread: threading.Thread) -> None:
        """A thread has ended: so do its leases, but for what lasts as long as a response. Called by a finalizer."""
        if self._process != os.getpid():
            return  # in a forked process the lock may be that of a thread which is not there
        with self._handing:  # a finalizer, but one that runs only at the end of its thread, which is not in there then
            for hold in list(self._holds):
                if hold.thread is thread and hold.bound:
                    hold.depth = 0
                    self._end(hold, lost="thread ended")

    def _end(self, hold: Hold, *, lost: str = "") -> None:
        """The last lease of a hold has ended. `lost`: how, if it was not released; this is a finalizer then."""
        if hold not in self._holds:
            return  # released by one thread when the one that held it had ended
        if lost and self._process != os.getpid():
            return  # Python drops what other threads had before it calls `_restart`, which knows better what to do
        if lost:
            self._lost.append(lost)
            if self._leaks is not None:
                self._leaks.lose(hold)
        self._let_go(hold, waits=not lost)
        meter = self._meter
        if meter is not None and not lost:
            meter.note_held(self.clock.now() - hold.since)
            if len(meter.leases) > meter.full:
                meter.fold()

    def _let_go(self, hold: Hold, *, waits: bool) -> None:
        """Give back what a hold holds; with `waits=False` without waiting for a lock or calling a user's code."""
        permit = hold.permit
        if permit is not None and permit.state is not LEASED:
            return  # done before, and the session may be another thread's by now
        hold.session.close_streams(collected=not waits)
        self._holds.pop(hold, None)  # after its connections, so that close() has nothing to cut, and before its seat
        session = hold.session
        if session.hold is hold:  # else it is leased anew by now; no call stands in between
            session.owner = NOBODY
            session.hold = None
        if permit is not None:
            if waits:
                self._seats.release(permit)
            else:
                self._seats.abandon(permit)
        if self._closed:
            self._returned.release()

    def _new_session(self, key: Hashable = None, old: Session | None = None) -> Session:
        """A session, in the place of an `old` one that was retired, if there was one."""
        session = Session(transport=self._transport, defaults=self._defaults)
        session.owner = NOBODY
        if self._health is not None:
            session.health = Record(self._health, self.clock.now())
        if self._rotation is not None:
            tier = 0
            if old is not None and old.passage is not None and old.health is not None:
                tier = old.passage.tier + old.health.is_blocked
            session.passage = self._rotation.admit(key, tier)
        return session

    def _is_retired(self, record: Record, key: Hashable) -> bool:
        """Whether another session has to take the place of the one of this record; called by whoever may lease it.

        Raises:
            IdentityRetiredError: It was retired, and no other may take its place.
        """
        now = self.clock.now()
        if record.note_age(now):
            self._transport.watch.tell("retired", key, record.retired)
        if record.retired is not None and key is not None and record.settings.on_retire == "refuse":
            raise IdentityRetiredError(
                f"the session of {key!r} was retired {now - record.ended:.3g} s ago ({record.retired}) and is not "
                f"replaced (Health.on_retire='refuse'); pool.forget({key!r}) lets it begin anew"
            )
        return record.retired is not None

    # --- one call on this thread's session ---

    def request(self, method: str, url: str, **kwargs: Any) -> Response:
        """Send one request on this thread's own session, leased for the call; see `Session.request`.

        With `stream=True` the lease lasts until the body has been read, or the response is closed or dropped.
        """
        # A session that has to be waited for is waited for within the call's `Timeout.total`.
        deadline = None if self.limits.sessions is None else self._deadline(kwargs.get("timeout"))
        lease = self.lease() if deadline is None else self._lease_within(deadline)
        try:
            ask = lease.session.request
            response = ask(method, url, **kwargs) if kwargs else ask(method, url)  # the same; see `Verbs.get`
        except BaseException:
            lease.release()
            raise
        finally:
            if deadline is not None:
                lease.session.deadline = None
        response.hold(lease)
        return response

    def _deadline(self, timeout: Any) -> Deadline | None:
        resolved = self._defaults.timeout if timeout is None else self._defaults.timeout.override(timeout)
        now = self.clock.now()
        deadline = Deadline.after(resolved.total, now, "Timeout.total")
        if deadline is NEVER:
            return None
        deadline.enter("lease", now)
        return deadline

    def _lease_within(self, deadline: Deadline) -> Lease:
        here = self._local.here
        here.deadline = deadline
        try:
            lease = self.lease()
        finally:
            here.deadline = NEVER
        lease.session.deadline = deadline
        return lease

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
        cancel: bool = False,
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
            cancel: Stop the workers at once if it ends before its end: by an error, by Ctrl-C, by `close` of the
                results, because they are dropped. A worker that pauses, or waits for a connection or a session, gets
                `Cancelled`, and so does whatever it asks for next. What it has under way is cut off and fails with an
                error that is `MaySent`. Not stopped are its own computing and waiting, and requests that it makes in
                other threads; a map within the map ends within a second. Without it the items in
                workers' hands are finished in the background.

        Raises:
            PoolClosed: By the results: the pool was closed, and there are items that have not been begun.
        """
        crew = Crew(self.clock, self._transport.stopped, self._rouse, f"a map of pool {self.name!r} was stopped")

        def run(item: I) -> R:
            with Naming(item):
                shift = crew.shift()
                try:
                    crew.begin(shift)
                    with self.lease(None if key is None else key(item), fresh=fresh) as session:
                        return function(session, item)
                finally:
                    crew.end(shift)

        return Results(
            run,
            items,
            workers=self.workers if workers is None else _at_least_one("workers", workers),
            ordered=ordered,
            return_exceptions=return_exceptions,
            cancel=cancel,
            crew=crew,
            is_closed=lambda: self._closed,
            name=self.name,
        )

    def _rouse(self) -> None:
        """Wake the threads that are to stop; called by finalizers too, so it takes no lock."""
        self._transport.rouse()
        self._seats.rouse()

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
        return self._with_ours(self._transport.stats())

    def _read(self) -> Reading:
        """What the metrics look at when they are asked for."""
        lost = list(self._lost)
        identities = sum(hold.key is not None for hold in list(self._holds))
        return Reading(
            stats=self.stats(),
            lease_waiters=self._seats.stats().waiting,
            idle_sessions=max(len(self._identities) - identities, 0),
            reclaimed={reason: lost.count(reason) for reason in ("dropped", "thread ended")},
            dropped=len(self._transport.dropped),
            hosts=self._transport.hosts.books(self.clock.now()),
        )

    def dump(self) -> PoolDump:
        """Every lease, waiter and connection with its age and thread, for people: `print(pool.dump())`.

        It tells names of threads, hosts and identities, and the places in the code where threads are.
        """
        connections = self._transport.disclose()
        return take(
            self.name,
            self._with_ours(connections.stats),
            connections,
            self._seats.books(),
            list(self._holds),
            self._transport.hosts.books(connections.now),
            _describe_seat,
        )

    def _with_ours(self, stats: PoolStats) -> PoolStats:
        """The gate's counts, with those that it does not know."""
        return attrs.evolve(
            stats,
            sessions=len(self._holds),
            reclaimed=len(self._lost),
            sleeping=len(self._transport.sleepers),
        )

    def serve(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        names: Iterable[str] = (),
        auth: tuple[str, str] | None = None,
        tls: ssl.SSLContext | tuple[str, str] | None = None,
    ) -> OpsServer:
        """Serve the operations endpoint: a status page, /metrics, /stats.json, /healthz and /readyz; nothing to change.

        It tells hosts, names of identities and threads, and places in the code; no queries, headers or cookies. Rates,
        percentiles and curves begin now, and cost each request about two microseconds. It goes on when the pool has
        been closed, until its own `close`, and not in a forked process.

        Args:
            port: 0 for any that is free; see `.port` and `.url` of what is returned.
            host: The address to listen on; `0.0.0.0` for all, which is a case for `auth` and `tls`.
            names: Names by which it may be asked (`Host`), besides addresses, `localhost`, `host` and this machine's.
            auth: Name and password that have to be given (Basic).
            tls: To serve HTTPS: an `ssl.SSLContext`, or the paths of a certificate and its key.

        Raises:
            OSError: It cannot listen there; the port may be in use.
            ValueError: `names` or `auth` is not what it must be.
        """
        from sessionpool.ops import OpsServer  # noqa: PLC0415 - 10 ms that most programs need not spend

        return OpsServer(
            self,
            self._transport.watch,
            port=port,
            host=host,
            names=names,
            auth=auth,
            tls=tls,
            exposition=None if self._meter is None else self._meter.exposition,
        )

    def resize(self, limits: Limits) -> None:
        """Change the limits: `pool.resize(attrs.evolve(pool.limits, per_host=20))`.

        Who waits is served at once if there is room now. Nothing in use is interrupted: what is beyond a lowered limit
        is closed when it comes back, and nothing is opened until the limit holds again. `idle`, `lifetime` and
        `max_uses` count for connections opened from now on; leases that needed no seat when they began still have none.
        """
        if not isinstance(limits, Limits):
            raise ValueError(f"limits must be a sessionpool.Limits, such as Limits(per_host=8); got {limits!r}")
        self.limits = limits
        self._transport.resize(limits)
        self._seats.resize(limits.sessions or math.inf, max_waiting=None, max_idle=math.inf)

    def refresh(self) -> None:
        """Use no connection again that is open now: after a change of addresses, certificates or a proxy.

        Idle ones are closed, those in use when their response has ended. Files given as `verify` or `cert` are read
        anew.
        """
        self._transport.refresh()

    def warm_up(self, url: str, connections: int | None = None) -> int:
        """Open connections to a URL's host before they are needed, several at a time; how many were opened.

        Args:
            url: Any on that host; nothing is requested.
            connections: How many should be open when it is done, idle ones and those in use included; as many as the
                host's limit by default. No more are opened than fit, and none is closed for them.

        Raises:
            ConnectionError, Timeout: One could not be opened; the others stay.
        """
        if connections is not None:
            _at_least_one("connections", connections)
        if self._closed:
            raise PoolClosed(f"pool {self.name!r} is closed")
        if self._rotation is not None:
            raise ValueError("through a ProxyRotation each session has its own connections: none can be opened for all")
        route = self._new_session().route_to(url)
        return self._transport.warm_up(route, connections, self._defaults.timeout)

    def limit_rate(self, url: str, rate: RateLimit) -> None:
        """From now on ask a URL's host no more often than this, over `Governor.rate` if it is stricter.

        For what is learned on the way, such as the `Crawl-delay` of a robots.txt:
        `pool.limit_rate(url, RateLimit(rate=1 / delay))`. As all limits per host it holds for the host by the proxy
        that the pool has for it, if any; so with a `ProxyRotation`, where there is no such one, it is refused.

        Raises:
            ValueError: `rate` is no `RateLimit`, or the pool has a `ProxyRotation`.
        """
        if self._rotation is not None:
            raise ValueError("limit_rate cannot know the proxy: the pool has a ProxyRotation; set Governor(rate=...)")
        if not isinstance(rate, RateLimit):
            raise ValueError(f"limit_rate takes a sessionpool.RateLimit, such as RateLimit(rate=0.5); got {rate!r}")
        self._transport.hosts.pace(self._new_session().route_to(url).key, rate.rate, rate.burst)

    def suspend(self) -> None:
        """Begin no request until `resume`: who asks for a connection waits, for `Timeout.pool` at most.

        What is under way goes on, but a redirect's next hop is a request of its own; leases can be had. Wait for
        `stats().leased == 0` to know that all is quiet.
        """
        self._transport.gate.suspend()

    def resume(self) -> None:
        """End a suspension; those who waited go first, in the order they came."""
        self._transport.gate.resume()

    def close(self, timeout: float | None = 10.0) -> CloseReport:
        """Close the pool: refuse new leases and requests, wake all waiters with `PoolClosed`, close idle connections.

        Then wait until the leases of other threads have been released, `timeout` seconds at most, and cut off the
        connections still in use or being opened, so that threads blocked on them wake with `ConnectionBroken` or
        `PoolClosed`. Idempotent; safe from any thread, from `atexit`, from inside a lease, which is not waited for, and
        from a signal handler: where that has interrupted the pool's own code, a thread closes and this returns at once.
        """
        if _interrupts_a_lock():
            self._closed = True
            threading.Thread(target=self.close, args=(timeout,), name=f"sessionpool-{self.name}-close").start()
            return CloseReport(waiters=0, idle=0, leases=self._foreign_leases(), cut=0, seconds=0.0, is_deferred=True)
        started = self.clock.now()
        with self._executor_lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._leaks is not None:
            self._leaks.stop()
        seats = self._seats.close()
        connections = self._transport.close()
        deadline = math.inf if timeout is None else started + timeout
        try:
            while (left := self._foreign_leases()) and self.clock.wait(self._returned, deadline):
                pass
        finally:
            self._returned.release()  # for another thread that closes: it may have been woken by nothing but this
            # What is in use now is used by whoever kept a lease, or by a fork, which has none.
            cut = self._transport.cut(f"pool {self.name!r} was closed")
            if self._meter is not None:
                self._meter.end()
        report = CloseReport(
            waiters=len(seats.wake) + len(connections.wake),
            idle=len(connections.close),
            leases=left,
            cut=cut,
            seconds=self.clock.now() - started,
        )
        if left or cut:
            self._transport.log.cut(left, cut, report.seconds, waited=timeout != 0)
        return report

    def _restart(self) -> None:
        """Begin anew in a forked process: what other threads of the parent held is nobody's here.

        Whoever forked keeps its leases, its sessions their cookies, and identities that nobody held theirs. The
        transport begins anew by a hook of its own.
        """
        self._process = os.getpid()
        here = self._local.here.thread
        held = list(self._holds)
        for hold in held:
            if hold.thread is not here:
                del self._holds[hold]
                hold.session.owner = NOBODY
                if hold.key is not None:  # another thread may have been in the midst of changing it
                    self._identities.pop(hold.key, None)
        self._seats.restart(hold.permit for hold in self._holds if hold.permit is not None)
        if self._rotation is not None:
            self._rotation.restart()
        self._executor = None
        self._executor_lock = threading.Lock()
        self._handing = threading.Lock()
        self._returned = Bell()
        self._leaks = self._watch_leaks()
        if self._meter is not None:
            self._meter.restart()

    def _watch_leaks(self) -> LeakWatch | None:
        if self._leak_threshold is None:
            return None
        return LeakWatch(self, self.name, self._holds, self.clock, self._transport.watch, self._leak_threshold)

    def _foreign_leases(self) -> int:
        """Leases held by other threads; to wait for one's own would be to wait for oneself."""
        here = self._local.here.thread
        return sum(hold.thread is not here for hold in list(self._holds))


# For a forked process to begin them all anew.
_pools: weakref.WeakSet[SessionPool] = weakref.WeakSet()


def _restart_all() -> None:
    with contextlib.ExitStack() as restarts:  # one that fails keeps none of the others as they were
        for pool in list(_pools):
            restarts.callback(pool._restart)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_restart_all)

# Where a lock may be held that closing needs: by whom this thread itself may have been interrupted.
# A future's lock would let the handler in, and what it tells then nobody hears who is just about to wait.
_LOCKING_FILES: Final = {
    _gate.__file__,
    _ledger.__file__,
    concurrent.futures.thread.__file__,
    concurrent.futures._base.__file__,
    _governor.__file__,  # under its lock others wait while they hold the gate's
    _proxies.__file__,
    metrics.__file__,
    logging.__file__,  # handlers have locks, and closing logs
}
_LOCKING_CODE: Final = {SessionPool.submit.__code__, SessionPool.close.__code__}


def _interrupts_a_lock() -> bool:
    """Whether this runs in a signal handler that interrupted code which may hold a lock that closing needs."""
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs signal handlers in the main thread only
    frame: FrameType | None = sys._getframe(1).f_back  # none, where `atexit` calls `close` itself
    while frame is not None:
        if frame.f_code.co_filename in _LOCKING_FILES or frame.f_code in _LOCKING_CODE:
            return True
        frame = frame.f_back
    return False


def _at_least_one(name: str, number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {number!r}")
    return number
