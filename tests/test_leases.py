"""Leases, the pool's life, and work on many items: who may use which session, for how long, and what is given back.

No server is needed: what is done with a session is checked by a request that is refused before anything is sent.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import socket
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import get_ident
from typing import Any

import pytest

from sessionpool import Limits, Session, SessionPool, Timeout
from sessionpool._clock import Baton
from sessionpool._pool import CloseReport
from sessionpool.exceptions import (
    ConnectError,
    LeaseReleasedError,
    MissingSchema,
    PoolClosed,
    PoolDeadlockError,
    PoolTimeout,
    StreamConsumedError,
    WrongThreadError,
)
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, Interrupt, InThread, WatchedClock, eventually, in_thread

pytestmark = pytest.mark.usefixtures("switch_interval")


@pytest.fixture
def make_pool() -> Iterator[Callable[..., SessionPool]]:
    """Make pools that are closed after the test."""
    pools: list[SessionPool] = []

    def make(**settings: Any) -> SessionPool:
        pools.append(SessionPool(**settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(timeout=0)


@pytest.fixture
def pool(make_pool: Callable[..., SessionPool]) -> SessionPool:
    return make_pool(name="crawl")


def use(session: Session) -> None:
    """Use a session, without a network: it refuses the URL if the caller may use it, and the caller if not."""
    try:
        session.get("no-scheme")
    except MissingSchema:
        return


def leased(pool: SessionPool, *args: Any, then: Callable[[Session], Any] = use, **kwargs: Any) -> Any:
    """Lease, do something, release."""
    with pool.lease(*args, **kwargs) as session:
        return then(session)


def waiting(pool: SessionPool, number: int = 1) -> None:
    """Wait until so many wait for a session."""
    eventually(lambda: pool._seats.stats().waiting == number)


@contextlib.contextmanager
def in_queue(pool: SessionPool, *args: Any, **kwargs: Any) -> Iterator[InThread[Any]]:
    """A thread that waits for a session, the last in the queue; at the end it has had it, or an error."""
    before = pool._seats.stats().waiting
    with in_thread(leased, pool, *args, **kwargs) as call:
        waiting(pool, before + 1)
        if isinstance(clock := pool.clock, WatchedClock):
            eventually(lambda: clock.waiters == before + 1)
        yield call


def nothing_is_leased(pool: SessionPool) -> None:
    """No session in use, nobody in the queue, and no seat taken."""
    seats = pool._seats.stats()
    assert pool.stats().sessions == 0
    assert (seats.leased, seats.waiting, seats.hosts) == (0, 0, {})


# --- a thread's own session ---


def test_a_thread_gets_the_same_session_every_time(pool: SessionPool) -> None:
    """What a session remembers, the next lease of the thread finds again."""
    with pool.lease() as first:
        first.cookies["who"] = "ada"
    with pool.lease() as second:
        assert second is first

        assert second.cookies["who"] == "ada"


def test_each_thread_has_its_own(pool: SessionPool) -> None:
    """Sessions of several threads are several, and what one remembers the others never see."""
    together = threading.Barrier(8)

    def work(number: int) -> tuple[int, str]:
        with pool.lease() as session:
            together.wait(PATIENCE)
            session.cookies["who"] = str(number)
            together.wait(PATIENCE)
            return id(session), session.cookies["who"]

    calls = [in_thread(work, number) for number in range(8)]
    seen = [call.get() for call in calls]

    assert len({session for session, _ in seen}) == 8
    assert [who for _, who in seen] == list("01234567")


def test_nested_leases_of_a_thread_are_one(pool: SessionPool) -> None:
    """A function may lease without knowing whether its caller did; the outermost gives the session back."""
    with pool.lease() as outer:
        with pool.lease() as inner:
            with pool.lease() as innermost:
                assert outer is inner is innermost
            use(outer)
        use(outer)
        assert pool.stats().sessions == 1

    with pytest.raises(LeaseReleasedError):
        use(outer)
    nothing_is_leased(pool)


def test_nested_leases_may_end_in_any_order(pool: SessionPool) -> None:
    """The session is returned when the last of them has ended, whichever that is."""
    outer, inner = pool.lease(), pool.lease()
    outer.release()
    use(inner.session)
    outer.release()
    use(inner.session)
    inner.release()

    with pytest.raises(LeaseReleasedError):
        use(inner.session)


def test_a_session_ends_with_its_thread(pool: SessionPool) -> None:
    """Short-lived threads leave no session behind."""
    sessions = weakref.WeakSet[Session]()

    def work() -> None:
        with pool.lease() as session:
            sessions.add(session)

    for _ in range(50):
        for call in [in_thread(work) for _ in range(10)]:
            call.get()
    gc.collect()

    assert len(sessions) == 0
    nothing_is_leased(pool)


# --- fresh sessions ---


def test_a_fresh_session_is_blank(make_pool: Callable[..., SessionPool]) -> None:
    """It starts from the pool's defaults, is nobody else's, and is forgotten when released."""
    pool = make_pool(headers={"X-Pool": "yes"})
    with pool.lease() as own:
        own.cookies["who"] = "ada"
        own.headers["X-Mine"] = "yes"
        with pool.lease(fresh=True) as fresh, pool.lease(fresh=True) as another:
            assert len({own, fresh, another}) == 3
            assert len(fresh.cookies) == 0
            assert "X-Mine" not in fresh.headers
            assert fresh.headers["X-Pool"] == "yes"
            fresh.cookies["who"] = "eve"
    kept = weakref.ref(fresh)
    del fresh
    gc.collect()

    assert kept() is None
    assert leased(pool, fresh=True, then=lambda session: len(session.cookies)) == 0
    assert leased(pool, then=lambda session: session.cookies["who"]) == "ada"


@pytest.mark.parametrize("name", ["headers", "params", "proxies"])
def test_what_a_session_changes_of_its_defaults_is_its_own(make_pool: Callable[..., SessionPool], name: str) -> None:
    """They are the pool's own mapping until somebody looks; neither the pool nor another session sees a change."""
    pool = make_pool(**{name: {"all": "http://proxy"}})
    with pool.lease(fresh=True) as session, pool.lease(fresh=True) as another:
        getattr(session, name)["all"] = "http://mine"
        twin, blank = session.fork(), another.fork()
        getattr(twin, name)["all"] = "http://twin"
        getattr(blank, name)["all"] = "http://blank"

        assert getattr(session, name)["all"] == "http://mine"
        assert getattr(another, name)["all"] == "http://proxy"
    assert leased(pool, "later", then=lambda session: getattr(session, name)["all"]) == "http://proxy"


def test_a_sessions_hooks_are_its_own(make_pool: Callable[..., SessionPool]) -> None:
    """One that is added to a session, or to its fork, is called for no other."""
    pool = make_pool(hooks={"response": print})
    with pool.lease(fresh=True) as session, pool.lease(fresh=True) as another:
        session.hooks["response"].append(repr)
        session.fork().hooks["response"].append(str)
        another.fork().hooks["response"].clear()

        assert session.hooks == {"response": [print, repr]}
        assert another.hooks == {"response": [print]}


def test_a_fresh_session_does_not_become_the_threads_own(pool: SessionPool) -> None:
    """The first lease of a thread may be a fresh one; its own comes later, and is another."""
    fresh = leased(pool, fresh=True, then=lambda session: session)

    assert leased(pool, then=lambda session: session) is not fresh


# --- named identities ---


def test_a_named_session_stays(pool: SessionPool) -> None:
    """The next lease of the same name, in whatever thread, finds the cookies of the last."""
    with pool.lease("ada") as first:
        first.cookies["who"] = "ada"

    assert in_thread(leased, pool, "ada", then=lambda session: session.cookies["who"]).get() == "ada"
    assert leased(pool, "bob", then=lambda session: len(session.cookies)) == 0
    assert leased(pool, then=lambda session: len(session.cookies)) == 0


@pytest.mark.parametrize("key", ["", 0, False, (), ("a", 1), frozenset(), 1.5, b"ada"])
def test_anything_hashable_is_a_name(pool: SessionPool, key: Hashable) -> None:
    """Also what is false is a name; only `None` is none."""
    named = leased(pool, key, then=lambda session: session)

    assert leased(pool, key, then=lambda session: session) is named
    assert leased(pool, then=lambda session: session) is not named


def test_what_cannot_be_hashed_is_no_name(pool: SessionPool) -> None:
    """The error is the caller's, and nothing is leased."""
    with pytest.raises(TypeError):
        pool.lease(["ada"])  # type: ignore[arg-type]
    nothing_is_leased(pool)


def test_a_lease_is_named_or_fresh(pool: SessionPool) -> None:
    """Both at once makes no sense, and says so."""
    with pytest.raises(ValueError, match=r"^a lease is either of an identity \(key\) or fresh, not both$"):
        pool.lease("ada", fresh=True)
    nothing_is_leased(pool)


def test_a_named_session_is_one_threads_at_a_time(pool: SessionPool) -> None:
    """Sixteen threads add one to a number in the session, with a pause between reading and writing: none is lost."""

    def add() -> None:
        for _ in range(10):
            with pool.lease("counter") as session:
                number = int(session.headers.get("X-Count", "0"))
                time.sleep(0)
                session.headers["X-Count"] = str(number + 1)

    calls = [in_thread(add) for _ in range(16)]
    for call in calls:
        call.get()

    assert leased(pool, "counter", then=lambda session: session.headers["X-Count"]) == "160"
    nothing_is_leased(pool)


def test_a_named_session_is_waited_for_in_order(pool: SessionPool) -> None:
    """First come, first served."""
    served: list[int] = []
    held = pool.lease("ada")
    calls = []
    for number in range(20):
        calls.append(in_thread(leased, pool, "ada", then=lambda session, number=number: served.append(number)))
        waiting(pool, number + 1)
    held.release()
    for call in calls:
        call.get()

    assert served == list(range(20))


def test_whoever_asks_again_queues_behind_who_waits(pool: SessionPool) -> None:
    """A thread that releases and leases again at once does not get ahead of a waiter."""
    order: list[str] = []
    held = pool.lease("ada")
    with in_queue(pool, "ada", then=lambda session: order.append("waiter")):
        held.release()
        with pool.lease("ada"):
            order.append("hog")

    assert order == ["waiter", "hog"]


def test_names_do_not_hold_each_other_up(pool: SessionPool) -> None:
    """One may hold several named sessions, its own and fresh ones at once: all are different."""
    with (
        pool.lease() as own,
        pool.lease("ada") as ada,
        pool.lease("bob") as bob,
        pool.lease(fresh=True) as fresh,
        pool.lease() as own_again,
    ):
        for session in (own, ada, bob, fresh):
            use(session)

        assert len({own, ada, bob, fresh}) == 4
        assert own_again is own
        assert pool.stats().sessions == 4


def test_a_name_can_be_forgotten(pool: SessionPool) -> None:
    """Its next lease begins blank; a session that is leased now stays its holder's, and its name is waited for."""
    with pool.lease("ada") as old:
        old.cookies["who"] = "ada"
        pool.forget("ada")
        use(old)
        with in_thread(leased, pool, "ada", timeout=0) as early:
            pass
        assert isinstance(early.error, PoolTimeout)

    assert leased(pool, "ada", then=lambda session: len(session.cookies)) == 0
    pool.forget("ada")
    pool.forget("nobody")
    nothing_is_leased(pool)


def test_a_wait_for_a_name_ends_with_its_time(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """`Timeout.pool`, or the lease's own; the error names the session, the time, and who holds it."""
    pool = make_pool(name="crawl", clock=clock, timeout=Timeout(pool=30))
    held = pool.lease("ada")
    with in_queue(pool, "ada") as usual, in_queue(pool, "ada", timeout=5) as short:
        clock.advance(5)
        eventually(lambda: short.is_done)
        assert not usual.is_done
        clock.advance(25)
    held.release()

    assert isinstance(usual.error, PoolTimeout)
    assert isinstance(short.error, PoolTimeout)
    assert str(usual.error).startswith("no permit for the session of 'ada' came free within 30 s (Timeout.pool=30 s)")
    assert str(usual.error).endswith("held longest: 30 s, by MainThread")
    nothing_is_leased(pool)


def test_a_lease_may_wait_for_ever_or_not_at_all(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """`timeout=None` has no limit, `timeout=0` takes what is free."""
    pool = make_pool(clock=clock)
    held = pool.lease("ada")
    with in_queue(pool, "ada", timeout=None) as patient:
        clock.advance(1e9)
        with in_thread(leased, pool, "ada", timeout=0) as hasty:
            pass
        assert not patient.is_done
        held.release()

    assert isinstance(hasty.error, PoolTimeout)
    assert patient.error is None


@pytest.mark.parametrize("served_first", [True, False])
def test_an_interrupt_while_waiting_for_a_name(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any], served_first: bool
) -> None:
    """Ctrl-C while waiting, before or just after the session came free, leaves it to others."""

    class Interrupting(FakeClock):
        def wait(self, baton: Baton, until: float) -> bool:
            if served_first:
                held.release()
            raise Interrupt

    pool = make_pool(clock=Interrupting())
    held = elsewhere(pool.lease, "ada")
    with pytest.raises(Interrupt):
        pool.lease("ada")
    held.release()

    leased(pool, "ada", timeout=0)
    nothing_is_leased(pool)


def test_a_session_that_cannot_be_made_is_not_leased(make_pool: Callable[..., SessionPool]) -> None:
    """An error between the grant and the use gives the name back."""
    pool = make_pool()
    broken = pool._new_session
    pool._new_session = lambda *_: 1 // 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        pool.lease("ada")
    pool._new_session = broken  # type: ignore[method-assign]

    leased(pool, "ada", timeout=0)
    nothing_is_leased(pool)


# --- deadlocks ---


def test_waiting_for_what_one_holds_is_refused_at_once(pool: SessionPool) -> None:
    """A thread that leases a name it holds would wait for itself; it is told, instead of waiting thirty seconds."""
    with pool.lease("ada") as session:
        with pytest.raises(PoolDeadlockError) as caught:
            pool.lease("ada")
        use(session)
        leased(pool, "bob")

    assert str(caught.value) == (
        "pool 'crawl': the session of 'ada' could only come from this thread itself, which holds all there is (1) and "
        "would wait for ever; use that session, or release it first"
    )
    leased(pool, "ada")
    nothing_is_leased(pool)


def test_whoever_took_a_lease_over_holds_it(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """After a transfer it is the new owner that would wait for itself; the old one waits like anybody."""
    lease = pool.lease("ada")

    def take_over() -> None:
        lease.transfer()
        with pytest.raises(PoolDeadlockError):
            pool.lease("ada")

    elsewhere(take_over)
    with pytest.raises(PoolTimeout):
        pool.lease("ada", timeout=0)
    lease.release()
    leased(pool, "ada")


def test_a_new_thread_does_not_hold_what_an_ended_one_held(pool: SessionPool) -> None:
    """The system gives a new thread the ident of one that has ended, whose lease has ended with it."""
    for _ in range(100):
        old = in_thread(pool.lease, "ada").join()
        new = in_thread(leased, pool, "ada", timeout=0).join()
        assert new.error is None
        if new.thread.ident == old.thread.ident:
            break


def test_the_seats_one_holds_are_not_waited_for(make_pool: Callable[..., SessionPool]) -> None:
    """A thread that holds every session the limit allows and asks for one more is told at once."""
    pool = make_pool(limits=Limits(sessions=2))
    with (
        pool.lease("ada"),
        pool.lease(fresh=True),
        in_thread(lambda: None),
        pytest.raises(PoolDeadlockError),
    ):
        pool.lease("bob", timeout=0.2)


# --- whose session it is ---


def test_a_released_session_is_nobodys(pool: SessionPool) -> None:
    """Used after its lease it says so, in whatever thread, and says what to do."""
    kinds: list[dict[str, Any]] = [{}, {"fresh": True}, {"key": "ada"}]
    for kwargs in kinds:
        lease = pool.lease(**kwargs)
        lease.release()
        for attempt in (in_thread(use, lease.session), in_thread(use, lease.session)):
            with pytest.raises(LeaseReleasedError, match=r"lease has been released; lease one again with pool\.lease"):
                attempt.get()
        with pytest.raises(LeaseReleasedError):
            use(lease.session)


def test_another_threads_session_is_refused(pool: SessionPool) -> None:
    """A session that was handed to another thread by mistake says so there, and goes on working here."""
    with pool.lease() as session:
        with pytest.raises(WrongThreadError, match=r"leased by another thread; .* lease\.transfer\(\)"):
            in_thread(use, session).get()
        use(session)


def test_a_lease_can_be_taken_over(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """`transfer`, called by the thread that takes over: from then on the session is its own, and not the other's."""
    lease = pool.lease("ada")
    lease.session.cookies["who"] = "ada"

    def take_over() -> str:
        session = lease.transfer()
        assert session is lease.session
        use(session)
        return session.cookies["who"]

    assert elsewhere(take_over) == "ada"
    with pytest.raises(WrongThreadError):
        use(lease.session)
    lease.transfer()
    use(lease.session)
    lease.release()
    nothing_is_leased(pool)


def test_whoever_gave_its_own_session_away_gets_another(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """A thread's own session that another took over is that one's; the next lease here is a new one."""
    given = pool.lease()
    elsewhere(given.transfer)
    with pool.lease() as session:
        use(session)

        assert session is not given.session
    given.release()
    nothing_is_leased(pool)


def test_nested_leases_are_one_also_while_the_own_session_is_away(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any]
) -> None:
    """A thread that gave its own session away still gets one session for nested leases, and one seat."""
    pool = make_pool(limits=Limits(sessions=2))
    given = pool.lease()
    elsewhere(given.transfer)
    with pool.lease(timeout=0) as outer, pool.lease(timeout=0) as inner:
        assert outer is inner

    given.release()
    nothing_is_leased(pool)


def test_a_released_lease_cannot_be_taken_over(pool: SessionPool) -> None:
    """There is nothing to take."""
    lease = pool.lease()
    lease.release()

    with pytest.raises(LeaseReleasedError, match=r"^this lease has been released, or has ended with its thread, and"):
        lease.transfer()


def test_releasing_twice_is_harmless(pool: SessionPool) -> None:
    """The second time changes nothing: neither for the next lease of the session, nor for who waits."""
    first = pool.lease()
    first.release()
    second = pool.lease()
    first.release()
    assert second.session is first.session
    use(second.session)
    second.release()
    ada = pool.lease("ada")
    ada.release()
    with pool.lease("ada"):
        ada.release()

        assert pool._seats.stats().leased == 1
    nothing_is_leased(pool)


@pytest.mark.parametrize("nested", [False, True])
def test_two_threads_may_release_at_once(pool: SessionPool, nested: bool) -> None:
    """However they meet, it counts as one release, also of a lease within a lease."""
    for _ in range(200):
        outer = pool.lease() if nested else None
        lease = pool.lease()
        calls = [in_thread(lease.release), in_thread(lease.release)]
        for call in calls:
            call.get()
        if outer is not None:
            use(outer.session)
            outer.release()

    nothing_is_leased(pool)


def test_a_release_that_was_counted_twice_spoils_nothing(pool: SessionPool) -> None:
    """Two threads that find the lease still held, where there is no GIL: its session is leased anew afterwards."""
    lease = pool.lease()
    hold = lease._hold
    assert hold is not None
    lease.release()
    pool._end(hold)

    with pool.lease() as session:
        use(session)
    nothing_is_leased(pool)


def test_any_thread_may_release(pool: SessionPool) -> None:
    """Who gives back need not be who took."""
    lease = pool.lease("ada")
    with in_queue(pool, "ada") as call:
        in_thread(lease.release).get()

    assert call.error is None
    nothing_is_leased(pool)


def test_an_error_inside_a_lease_ends_it(pool: SessionPool) -> None:
    """The session goes back whatever ends the block."""
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), pool.lease("ada"):
            raise error

    nothing_is_leased(pool)


# --- leases that are lost ---


def test_a_dropped_lease_is_given_back(pool: SessionPool) -> None:
    """Nobody can release it any more, so it is released; the session without its lease is nobody's."""
    session = pool.lease("ada").session
    gc.collect()

    nothing_is_leased(pool)
    with pytest.raises(LeaseReleasedError):
        use(session)


def test_a_lease_in_a_cycle_is_given_back_by_the_collector(pool: SessionPool) -> None:
    """The waiter behind it is served."""
    gc.disable()
    try:
        cycle: list[Any] = [pool.lease("ada")]
        cycle.append(cycle)
        with in_queue(pool, "ada") as call:
            del cycle
            assert not call.is_done
            gc.collect()
    finally:
        gc.enable()

    assert call.error is None
    nothing_is_leased(pool)


def test_a_lease_of_a_thread_that_ended_is_given_back(pool: SessionPool) -> None:
    """A thread that dies with leases in its hands, by an error at that, keeps nobody waiting."""

    def die() -> None:
        mine, ada = pool.lease(), pool.lease("ada")
        use(mine.session)
        use(ada.session)
        raise ZeroDivisionError

    for _ in range(5):
        call = in_thread(die).join()
        assert isinstance(call.error, ZeroDivisionError)
        call.error = None
        gc.collect()
        leased(pool, "ada", timeout=PATIENCE)

    nothing_is_leased(pool)


# --- threads that end ---


def kept_by_an_ended_thread(function: Callable[[], Any]) -> Any:
    """What a function returned in a thread that has ended; the test keeps it, so that nothing is lost by dropping."""
    return in_thread(function).get()


@pytest.mark.parametrize("sessions", [None, 2])
@pytest.mark.parametrize("kwargs", [{}, {"fresh": True}, {"key": "ada"}], ids=["own", "fresh", "named"])
def test_a_thread_that_ends_gives_back_what_it_holds(
    make_pool: Callable[..., SessionPool], kwargs: dict[str, Any], sessions: int | None
) -> None:
    """A lease ends with its thread though others still refer to it, with or without a seat; and it says so."""
    pool = make_pool(limits=Limits(sessions=sessions))
    lease = kept_by_an_ended_thread(lambda: pool.lease(**kwargs))

    nothing_is_leased(pool)
    assert pool.stats().reclaimed == 1
    with pytest.raises(LeaseReleasedError):
        use(lease.session)
    with pytest.raises(LeaseReleasedError):
        lease.transfer()
    with pool.lease(**kwargs) as session:
        lease.release()
        use(session)
    nothing_is_leased(pool)


def test_a_thread_that_ends_gives_back_all_it_holds(make_pool: Callable[..., SessionPool]) -> None:
    """Nested leases count as one, and every other for itself."""
    pool = make_pool(limits=Limits(sessions=5))
    kept = kept_by_an_ended_thread(
        lambda: [pool.lease(), pool.lease(), pool.lease("ada"), pool.lease("bob"), pool.lease(fresh=True)]
    )

    nothing_is_leased(pool)
    assert pool.stats().reclaimed == 4
    for lease in kept:
        lease.release()
    assert pool.stats().reclaimed == 4


def test_whoever_waits_gets_what_an_ending_thread_held(pool: SessionPool) -> None:
    """At once, and with the cookies that the identity has."""
    go_on = threading.Event()
    kept: list[Any] = []

    def hold() -> None:
        kept.append(pool.lease("ada"))
        kept[0].session.cookies["who"] = "ada"
        assert go_on.wait(PATIENCE)

    with in_thread(hold):
        eventually(lambda: kept)
        with in_queue(pool, "ada", timeout=None, then=lambda session: session.cookies["who"]) as call:
            go_on.set()

    assert call.get() == "ada"
    nothing_is_leased(pool)


def test_a_thread_that_ends_ends_only_its_own(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """What others hold stays theirs."""
    here, there = pool.lease("ada"), elsewhere(pool.lease, "bob")
    kept = kept_by_an_ended_thread(lambda: pool.lease("eve"))

    assert pool.stats().sessions == 2
    use(here.session)
    with pytest.raises(WrongThreadError):
        use(there.session)
    for lease in (here, there, kept):
        lease.release()
    nothing_is_leased(pool)


def test_a_lease_handed_over_lives_on_with_its_heir(pool: SessionPool) -> None:
    """The giver's end does not matter to it any more; the heir's does."""
    leases: list[Any] = []
    given, go_on = threading.Event(), threading.Event()

    def give() -> None:
        leases.extend([pool.lease("ada"), pool.lease()])
        assert given.wait(PATIENCE)

    def inherit() -> None:
        eventually(lambda: len(leases) == 2)
        for lease in leases:
            lease.transfer()
        given.set()
        giving.join()
        assert pool.stats().sessions == 2
        for lease in leases:
            use(lease.session)
        assert go_on.wait(PATIENCE)

    giving = in_thread(give)
    inheriting = in_thread(inherit)
    giving.get()
    with in_queue(pool, "ada", timeout=None) as waiter:
        assert pool.stats().reclaimed == 0
        go_on.set()
    inheriting.get()

    assert waiter.error is None
    assert pool.stats().reclaimed == 2
    nothing_is_leased(pool)


def test_a_transfer_that_comes_too_late(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """The giver's thread ends in the midst of a transfer: it is one or the other, never a session that two may use."""
    lease = elsewhere(pool.lease, "ada")
    hand_over = pool._hand_over

    def after_the_end(hold: Any) -> bool:
        pool._reclaim(hold.thread)
        return hand_over(hold)

    pool._hand_over = after_the_end  # type: ignore[method-assign]
    with pytest.raises(LeaseReleasedError):
        lease.transfer()

    with pytest.raises(LeaseReleasedError):
        use(lease.session)
    elsewhere(leased, pool, "ada", timeout=0)
    nothing_is_leased(pool)


@pytest.mark.parametrize("how", ["released", "reclaimed"])
def test_a_lease_that_ends_in_the_midst_of_its_transfer(
    pool: SessionPool, elsewhere: Callable[..., Any], how: str
) -> None:
    """Released just then it is nobody's; the giver's thread just ended, it is the heir's."""
    lease = elsewhere(pool.lease, "ada")
    giver = lease._hold.thread

    class Ambushed(dict[Any, None]):
        def __contains__(self, hold: Any) -> bool:
            pool._holds = usual
            if how == "released":
                in_thread(lease.release).get()
            else:
                calls.append(in_thread(pool._reclaim, giver))
            return True

    calls: list[InThread[None]] = []
    usual = pool._holds
    pool._holds = Ambushed(usual)
    if how == "released":
        with pytest.raises(LeaseReleasedError):
            lease.transfer()
    else:
        session = lease.transfer()
        for call in calls:
            call.get()
        use(session)
        lease.release()

    elsewhere(leased, pool, "ada", timeout=0)
    nothing_is_leased(pool)


def test_a_thread_that_ends_while_others_release_for_it(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """Whoever of the two is first ends the lease; the other does nothing to who has the session by then."""
    lease = elsewhere(pool.lease, "ada")
    giver = lease._hold.thread
    successors: list[Any] = []

    class Passing(dict[Any, None]):
        def __iter__(self) -> Iterator[Any]:
            holds = list(super().__iter__())
            pool._holds = usual
            lease.release()
            successors.append(pool.lease("ada"))
            return iter(holds)

    usual = pool._holds
    pool._holds = Passing(usual)
    pool._reclaim(giver)
    (successor,) = successors
    use(successor.session)

    assert (pool.stats().sessions, pool.stats().reclaimed) == (1, 0)
    successor.release()
    nothing_is_leased(pool)


def test_a_thread_that_ends_closes_its_streams(pool: SessionPool) -> None:
    """The connection goes back too, though somebody has the response."""
    with a_host_that_stalls() as url:

        def ask() -> Any:
            lease = pool.lease()
            return lease, lease.session.get(url, stream=True, timeout=PATIENCE)

        lease, response = kept_by_an_ended_thread(ask)

        assert pool.stats().hosts == {}
        with pytest.raises(StreamConsumedError):
            response.content  # noqa: B018
        lease.release()
    nothing_is_leased(pool)


def test_a_stream_outlives_its_thread(pool: SessionPool) -> None:
    """`pool.get(stream=True)`: whoever has the response may read it on, and its lease ends with it."""
    with a_host_that_stalls() as url:
        response = kept_by_an_ended_thread(lambda: pool.get(url, stream=True, timeout=PATIENCE))

        assert pool.stats().sessions == pool.stats().leased == 1
        assert response.raw.read(9) == b"beginning"
        response.close()
        nothing_is_leased(pool)

        assert pool.stats().hosts == {}
        assert pool.stats().reclaimed == 0


def test_a_stream_that_is_dropped_after_its_thread_has_ended(pool: SessionPool) -> None:
    """The collector gives back what nobody reads any more."""
    with a_host_that_stalls() as url:
        response = kept_by_an_ended_thread(lambda: pool.get(url, stream=True, timeout=PATIENCE))
        assert pool.stats().sessions == 1
        del response
        gc.collect()

        nothing_is_leased(pool)
        assert (pool.stats().hosts, pool.stats().reclaimed) == ({}, 1)


def test_ten_thousand_threads_leave_nothing(make_pool: Callable[..., SessionPool]) -> None:
    """Threads that come, lease and end without releasing: nothing is held, no identity but the named is remembered,
    and what is allocated does not grow with them."""
    pool = make_pool(limits=Limits(sessions=50))
    kinds: list[dict[str, Any]] = [{}, {"fresh": True}, {"key": "ada"}, {"key": "bob"}]
    kept: dict[int, Any] = {}

    def lease(number: int) -> None:
        kept[number % 8] = pool.lease(**kinds[number % 4])

    def run(threads: int) -> int:
        for start in range(0, threads, 4):
            batch = [threading.Thread(target=lease, args=(start + number,)) for number in range(4)]
            for thread in batch:
                thread.start()
            for thread in batch:
                thread.join(PATIENCE)
        kept.clear()
        assert pool._meter is not None
        pool._meter.fold()  # what has been written down and not been counted yet
        gc.collect()
        return sys.getallocatedblocks()

    before = run(1000)
    after = run(9000)

    nothing_is_leased(pool)
    assert pool.stats().reclaimed == 10_000
    assert set(pool._identities) == {"ada", "bob"}
    assert after - before < 1000


# --- the collector anywhere ---


class Springing:
    """A lock under which the collector runs: it drops one of the doomed each time that the lock has been taken."""

    def __init__(self, doomed: list[Any]) -> None:
        self._lock = threading.Lock()
        self._doomed = doomed

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._doomed:
            self._doomed.pop()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()


def wait_for_what_is_taken(pool: SessionPool) -> None:
    with pytest.raises(PoolTimeout):
        pool.lease("taken", timeout=0)


def ask_where_nobody_listens(pool: SessionPool) -> None:
    with pytest.raises(ConnectError):
        pool.get("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    "act",
    [
        lambda pool: leased(pool, "other"),
        wait_for_what_is_taken,
        SessionPool.lease,
        SessionPool.stats,
        SessionPool.dump,
        lambda pool: pool.resize(Limits(sessions=7)),
        SessionPool.refresh,
        SessionPool.suspend,
        SessionPool.resume,
        lambda pool: pool.close(timeout=0),
        ask_where_nobody_listens,
    ],
    ids=["lease", "time-out", "own", "stats", "dump", "resize", "refresh", "suspend", "resume", "close", "get"],
)
def test_the_collector_inside_every_critical_section(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any], act: Callable[[SessionPool], object]
) -> None:
    """Leases that are lost in a thread that holds one of the pool's locks come back, and nothing blocks."""
    pool = make_pool(limits=Limits(sessions=9))
    taken = elsewhere(pool.lease, "taken")
    doomed = [pool.lease(str(number)) for number in range(7)]
    pool._seats._lock = Springing(doomed)  # type: ignore[assignment]
    pool._transport.gate._lock = Springing(doomed)  # type: ignore[assignment]
    call = in_thread(act, pool)
    eventually(lambda: call.is_done, within=5.0)
    assert call.error is None
    assert len(doomed) < 7
    call.result = None
    doomed.clear()
    taken.release()

    nothing_is_leased(pool)


def test_a_lease_lost_under_the_lock_of_its_queue(pool: SessionPool) -> None:
    """The collector may run anywhere, also in a thread that holds the lock: the finalizer does not wait for it, and
    the next call brings it home."""
    lease = pool.lease("ada")

    def collect() -> None:
        with pool._seats._lock:
            lease.abandon()

    call = in_thread(collect)
    eventually(lambda: call.is_done, within=5.0)
    leased(pool, "ada", timeout=0)

    nothing_is_leased(pool)


def test_a_lease_lost_while_close_waits_for_it(make_pool: Callable[..., SessionPool]) -> None:
    """The collector may run in the very thread that closes the pool, in the middle of its waiting."""
    locks: list[Any] = []

    class Collecting(FakeClock):
        """The collector runs while `close` is about to wait, with whatever lock that takes held."""

        def wait(self, baton: Baton, until: float) -> bool:
            if lost:
                locks.append(getattr(baton, "_cond", threading.Lock()))
                with locks[0]:
                    lost.pop().abandon()
            return super().wait(baton, until)

    pool = make_pool(clock=Collecting())
    lost = [pool.lease()]
    call = in_thread(pool.close)
    try:
        eventually(lambda: call.is_done, within=2.0)
    finally:
        if not call.is_done:
            locks[0].release()  # so that the thread ends

    assert call.get().leases == 0


@contextlib.contextmanager
def a_host_that_stalls() -> Iterator[str]:
    """The URL of a server that answers one request with the beginning of a body, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning")
                done.wait(PATIENCE)

        with in_thread(serve):
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
            finally:
                done.set()


def test_a_lease_with_an_open_stream_lost_under_the_connections_lock(pool: SessionPool) -> None:
    """Giving back a lost lease closes its streams, and waits for no lock to do it: the collector may run in a thread
    that holds it."""
    with a_host_that_stalls() as url:
        lease = pool.lease()
        response = lease.session.get(url, stream=True, timeout=PATIENCE)
        gate = pool._transport.gate

        def collect() -> None:
            with gate._lock:
                lease.abandon()

        call = in_thread(collect)
        try:
            eventually(lambda: call.is_done, within=2.0)
        finally:
            if not call.is_done:
                gate._lock.release()  # so that the thread ends
        response.close()

    nothing_is_leased(pool)
    assert gate.stats().hosts == {}


# --- counts ---


def test_leased_sessions_are_counted(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """Each session once, however often it is leased by its thread."""
    leases = [pool.lease(), pool.lease(), pool.lease("ada"), pool.lease(fresh=True), elsewhere(pool.lease)]
    counts = []
    for lease in leases:
        counts.append(pool.stats().sessions)
        lease.release()

    assert counts == [4, 4, 3, 2, 1]
    assert pool.stats().sessions == 0


def test_what_was_reclaimed_is_counted(pool: SessionPool) -> None:
    """Leases that were dropped, or whose thread ended; not those that were released."""
    leased(pool)
    leased(pool, "ada")
    assert pool.stats().reclaimed == 0
    pool.lease("ada")
    gc.collect()
    assert pool.stats().reclaimed == 1
    kept = kept_by_an_ended_thread(pool.lease)
    assert pool.stats().reclaimed == 2
    kept.release()

    assert (pool.stats().reclaimed, pool.stats().sessions) == (2, 0)


# --- limits that change ---


def test_more_sessions_are_had_at_once(make_pool: Callable[..., SessionPool]) -> None:
    """Raising `Limits.sessions` serves who waits for a seat, in order."""
    pool = make_pool(limits=Limits(sessions=1))
    held = pool.lease()
    with in_queue(pool, fresh=True) as first, in_queue(pool, "ada") as second:
        pool.resize(Limits(sessions=3))
    held.release()

    assert (first.error, second.error) == (None, None)
    assert pool.limits == Limits(sessions=3)
    nothing_is_leased(pool)


def test_fewer_sessions_are_had_when_enough_came_back(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any]
) -> None:
    """Nobody loses a lease to a lowered limit; nobody gets one until it holds."""
    pool = make_pool(limits=Limits(sessions=3))
    held = [elsewhere(pool.lease, fresh=True) for _ in range(3)]
    pool.resize(Limits(sessions=1))
    for number, lease in enumerate(held):
        with pytest.raises(PoolTimeout, match=f"{3 - number} of 1 open"):
            pool.lease(timeout=0)
        lease.release()

    leased(pool, timeout=0)
    nothing_is_leased(pool)


@pytest.mark.parametrize("limits", [None, 8, {"per_host": 8}])
def test_what_is_no_limits_is_refused(pool: SessionPool, limits: Any) -> None:
    """The error shows what was given and what is wanted."""
    with pytest.raises(ValueError, match=r"limits must be a sessionpool\.Limits.*; got ") as caught:
        pool.resize(limits)
    assert repr(limits) in str(caught.value)


# --- a limit on sessions ---


def test_so_many_sessions_and_no_more(make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any]) -> None:
    """`Limits.sessions` counts own, named and fresh sessions alike; one more waits."""
    pool = make_pool(limits=Limits(sessions=3))
    held = [elsewhere(pool.lease, **kwargs) for kwargs in ({}, {"key": "ada"}, {"fresh": True})]
    assert pool.stats().sessions == 3
    kinds: list[dict[str, Any]] = [{}, {"key": "bob"}, {"fresh": True}]
    for kwargs in kinds:
        with pytest.raises(PoolTimeout):
            pool.lease(timeout=0, **kwargs)
    with in_queue(pool) as call:
        held.pop().release()

    assert call.error is None
    for lease in held:
        lease.release()
    nothing_is_leased(pool)


def test_a_nested_lease_needs_no_second_seat(make_pool: Callable[..., SessionPool]) -> None:
    """It is the same session, so it never waits for itself."""
    pool = make_pool(limits=Limits(sessions=1))
    with pool.lease() as outer, pool.lease(timeout=0) as inner:
        assert outer is inner

    nothing_is_leased(pool)


def test_seats_are_given_in_order(make_pool: Callable[..., SessionPool]) -> None:
    """Whoever waits for any session is served first come, first served."""
    pool = make_pool(limits=Limits(sessions=1))
    served: list[int] = []
    held = pool.lease()
    calls = []
    kinds: list[dict[str, Any]] = [{}, {"key": "ada"}, {"fresh": True}, {"key": "bob"}]
    for number in range(12):
        note = lambda session, number=number: served.append(number)  # noqa: E731
        kwargs = {**kinds[number % 4]}
        if "key" in kwargs:
            kwargs["key"] += str(number)  # names that are waited for twice take turns, as hosts do
        calls.append(in_thread(leased, pool, then=note, **kwargs))
        waiting(pool, number + 1)
    held.release()
    for call in calls:
        call.get()

    assert served == list(range(12))


def test_a_time_out_on_the_number_of_sessions_says_so(
    make_pool: Callable[..., SessionPool], elsewhere: Callable[..., Any]
) -> None:
    """The error tells that `Limits.sessions` binds, in words and numbers a person knows."""
    pool = make_pool(limits=Limits(sessions=1))
    held = elsewhere(pool.lease)
    with pytest.raises(PoolTimeout) as caught:
        pool.lease(timeout=0)
    held.release()

    assert "object at 0x" not in str(caught.value)
    assert "1 of 1" in str(caught.value)


def test_any_use_of_sessions_keeps_the_limit(make_pool: Callable[..., SessionPool]) -> None:
    """Twelve threads lease own, named and fresh sessions at random, drop some, give up on some: never more than
    three at once, never two threads in one, and nothing is leased at the end."""
    pool = make_pool(limits=Limits(sessions=3))
    lock = threading.Lock()
    in_use: dict[int, int] = {}

    def work(seed: int) -> Counter[str]:
        rng = random.Random(seed)
        seen = Counter[str]()
        for _ in range(60):
            kwargs = rng.choice([{}, {"fresh": True}, {"key": "ada"}, {"key": "bob"}])
            try:
                lease = pool.lease(timeout=rng.choice([0, 1e-5, 1e-3, None]), **kwargs)  # type: ignore[arg-type]
            except PoolTimeout:
                seen["timed out"] += 1
                continue
            with lock:
                assert id(lease.session) not in in_use
                in_use[id(lease.session)] = seed
                assert len(in_use) <= 3
            use(lease.session)
            with lock:
                del in_use[id(lease.session)]
            if rng.random() < 0.8:
                lease.release()
            del lease
            seen["leased"] += 1
        return seen

    calls = [in_thread(work, seed) for seed in range(12)]
    seen = sum((call.get() for call in calls), Counter[str]())

    assert seen.total() == 720
    assert seen["leased"] > 0
    nothing_is_leased(pool)


# --- closing ---


def test_close_reports_what_it_did(make_pool: Callable[..., SessionPool]) -> None:
    """With nothing open and nobody waiting there is nothing to report; the report is a value."""
    pool = make_pool(clock=FakeClock())

    assert pool.close() == CloseReport(waiters=0, idle=0, leases=0, cut=0, seconds=0.0)
    assert repr(pool) == "<SessionPool 'default' closed>"


def test_a_closed_pool_refuses_everything(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """Whatever is asked of it, it says that it is closed; what was leased before can still be released."""
    lease = elsewhere(pool.lease)
    pool.close(timeout=0)
    asks: list[Callable[[], object]] = [
        pool.lease,
        lambda: pool.lease("ada"),
        lambda: pool.lease(fresh=True),
        lambda: pool.get("http://127.0.0.1:1/"),
        lambda: pool.submit(lambda session, item: item, 1),
        lambda: next(pool.map(lambda session, item: item, [1])),
    ]
    for ask in asks:
        with pytest.raises(PoolClosed, match=r"pool 'crawl' is closed"):
            ask()
    lease.release()

    nothing_is_leased(pool)


def test_a_block_closes_its_pool() -> None:
    """`with SessionPool(...)` ends with a closed pool."""
    with SessionPool() as pool:
        leased(pool)

    with pytest.raises(PoolClosed):
        pool.lease()


def test_close_wakes_whoever_waits_for_a_session(pool: SessionPool) -> None:
    """At once, with `PoolClosed`, and the report counts them."""
    with pool.lease("ada"):
        calls = []
        for number in range(20):
            calls.append(in_thread(leased, pool, "ada"))
            waiting(pool, number + 1)
        report = pool.close()
        for call in calls:
            call.join()

    assert {type(call.error) for call in calls} == {PoolClosed}
    assert str(calls[0].error) == "pool 'crawl' was closed while the session of 'ada' was waited for"
    assert (report.waiters, report.leases) == (20, 0)
    nothing_is_leased(pool)


def test_close_waits_for_the_leases_of_others(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """It comes back as soon as the last has been released."""
    pool = make_pool(clock=clock)
    leases = [pool.lease(), pool.lease("ada"), pool.lease(fresh=True)]
    with in_thread(pool.close) as call:
        for lease in leases:
            eventually(lambda: pool._closed)
            assert not call.is_done
            lease.release()

    assert call.get() == CloseReport(waiters=0, idle=0, leases=0, cut=0, seconds=0.0)


def test_close_waits_no_longer_than_it_may(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """When the time is over it reports the leases that were not given back."""
    pool = make_pool(clock=clock)
    kept = [pool.lease(), pool.lease("ada")]
    with in_thread(pool.close, timeout=7) as call:
        eventually(lambda: pool._closed)
        clock.advance(6.9)
        assert not call.is_done
        clock.advance(0.1)

    assert call.get() == CloseReport(waiters=0, idle=0, leases=2, cut=0, seconds=7.0)
    for lease in kept:
        lease.release()


def test_close_does_not_wait_for_its_own_lease(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """Called inside a lease, it does not wait for itself; the block ends as usual."""
    pool = make_pool(clock=clock)
    with pool.lease(), pool.lease("ada") as session:
        report = pool.close()
        with pytest.raises(PoolClosed):
            pool.lease()
        use(session)

    assert report.leases == 0
    nothing_is_leased(pool)


def test_close_hears_of_a_lease_that_is_lost(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """A lease that is dropped while the pool closes is one less to wait for."""
    pool = make_pool(clock=clock)
    leases = [pool.lease()]
    with in_thread(pool.close) as call:
        eventually(lambda: pool._closed)
        leases.clear()
        gc.collect()

    assert call.get().leases == 0


def test_close_does_not_wait_for_an_ended_thread(make_pool: Callable[..., SessionPool]) -> None:
    """A lease that somebody still refers to ends with its thread all the same: nobody else could give it back."""
    pool = make_pool(clock=FakeClock())
    old = in_thread(pool.lease, "ada").get()

    assert pool.close(timeout=10).leases == 0
    with pytest.raises(LeaseReleasedError):
        old.transfer()
    old.release()
    nothing_is_leased(pool)


def test_closing_twice_does_nothing_more(pool: SessionPool) -> None:
    """The second report is empty."""
    pool.close()
    report = pool.close()

    assert (report.waiters, report.idle, report.leases, report.cut) == (0, 0, 0, 0)


def test_two_threads_may_close_at_once(make_pool: Callable[..., SessionPool], clock: WatchedClock) -> None:
    """Both wait for the last lease, and both come back when it is released."""
    pool = make_pool(clock=clock)
    lease = pool.lease()
    calls = [in_thread(pool.close), in_thread(pool.close)]
    eventually(lambda: pool._closed)
    lease.release()
    try:
        eventually(lambda: all(call.is_done for call in calls), within=2.0)
    finally:
        clock.advance(60)

    assert [call.get().seconds for call in calls] == [0.0, 0.0]


def test_closing_while_many_lease(pool: SessionPool) -> None:
    """Eight threads lease for as long as they are let: all end with `PoolClosed`, and nothing is left."""

    def work(number: int) -> None:
        kinds: list[dict[str, Any]] = [{}, {"fresh": True}, {"key": "ada"}, {"key": number}]
        for turn in range(1_000_000):
            leased(pool, **kinds[turn % 4])
            turns[number] = turn

    turns = Counter[int]()
    calls = [in_thread(work, number) for number in range(8)]
    eventually(lambda: turns.total() > 100)
    report = pool.close()
    for call in calls:
        call.join()

    assert {type(call.error) for call in calls} == {PoolClosed}
    assert report.leases == 0
    nothing_is_leased(pool)


def test_a_pool_does_not_pickle(pool: SessionPool) -> None:
    """It holds sockets; the error says what to do instead."""
    with pytest.raises(TypeError, match="make one in each process from the same settings"):
        pickle.dumps(pool)


# --- many items: map ---


def identity(session: Session, item: Any) -> Any:
    use(session)
    return item


def test_map_gives_every_result_once(pool: SessionPool) -> None:
    """One result per item, in whatever order."""
    results = list(pool.map(lambda session, item: item * item, range(500), workers=8))

    assert sorted(results) == [item * item for item in range(500)]
    nothing_is_leased(pool)


def test_map_in_order(pool: SessionPool) -> None:
    """With `ordered=True` the results come as the items do, though the first takes longest."""
    last_done = threading.Event()

    def work(session: Session, item: int) -> int:
        if item == 0:
            assert last_done.wait(PATIENCE)
        if item == 3:
            last_done.set()
        return item

    assert list(pool.map(work, range(100), workers=4, ordered=True)) == list(range(100))


def test_map_as_they_finish(pool: SessionPool) -> None:
    """Otherwise a result that is there is not held back by one that is not."""
    others_seen = threading.Event()

    def work(session: Session, item: int) -> int:
        if item == 0:
            assert others_seen.wait(PATIENCE)
        return item

    results = pool.map(work, range(20), workers=2)
    first = [next(results) for _ in range(19)]
    others_seen.set()

    assert first == list(range(1, 20))
    assert list(results) == [0]


@pytest.mark.parametrize("asked", [1, 3, None])
def test_map_uses_so_many_threads(make_pool: Callable[..., SessionPool], asked: int | None) -> None:
    """As many at once as `workers` says, never more; without it, the pool's number."""
    pool = make_pool(workers=4)
    workers = asked or 4
    together = threading.Barrier(workers)
    lock = threading.Lock()
    running = most = 0

    def work(session: Session, item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(PATIENCE)
        with lock:
            running -= 1
        return get_ident()

    threads = set(pool.map(work, range(4 * workers), workers=asked))

    assert most == len(threads) == workers


def test_map_works_on_each_workers_own_session(pool: SessionPool) -> None:
    """One session per worker, leased for each item: cookies stay with the worker."""
    together = threading.Barrier(3)

    def work(session: Session, item: int) -> tuple[int, Session, int]:
        together.wait(PATIENCE)
        use(session)
        session.headers["X-Count"] = str(int(session.headers.get("X-Count", "0")) + 1)
        return get_ident(), session, int(session.headers["X-Count"])

    results = list(pool.map(work, range(30), workers=3))

    assert len({(thread, session) for thread, session, _ in results}) == 3
    assert Counter(count for *_, count in results) == dict.fromkeys(range(1, 11), 3)


def test_map_on_an_identity_per_item(pool: SessionPool) -> None:
    """`key` tells each item's identity; two items of one identity are never worked on at once."""
    busy = set[str]()

    def work(session: Session, item: tuple[str, int]) -> Session:
        name, _ = item
        assert name not in busy
        busy.add(name)
        use(session)
        session.headers["X-Count"] = str(int(session.headers.get("X-Count", "0")) + 1)
        busy.remove(name)
        return session

    items = [(name, number) for number in range(20) for name in ("ada", "bob")]
    sessions = set(pool.map(work, items, workers=6, key=lambda item: item[0]))

    assert len(sessions) == 2
    for name in ("ada", "bob"):
        assert leased(pool, name, then=lambda session: session.headers["X-Count"]) == "20"


def test_map_on_fresh_sessions(pool: SessionPool) -> None:
    """`fresh=True`: no item sees what another left behind."""

    def work(session: Session, item: int) -> int:
        session.cookies["seen"] = "yes"
        return len(session.cookies)

    assert set(pool.map(work, range(50), workers=3, fresh=True)) == {1}


@pytest.mark.parametrize("ordered", [True, False])
def test_map_takes_no_more_than_a_few_items_ahead(pool: SessionPool, ordered: bool) -> None:
    """A million items: never more than two per worker are taken beyond what has been yielded, and none is kept."""
    taken = yielded = most_ahead = 0
    alive = weakref.WeakSet["Item"]()
    most_alive = 0

    class Item:
        pass

    def items() -> Iterator[Item]:
        nonlocal taken, most_ahead, most_alive
        for _ in range(1_000_000):
            taken += 1
            most_ahead = max(most_ahead, taken - yielded)
            item = Item()
            alive.add(item)
            most_alive = max(most_alive, len(alive))
            yield item

    for _ in pool.map(lambda session, item: None, items(), workers=4, ordered=ordered):
        yielded += 1
        if yielded == 2000:
            break

    assert 0 < most_ahead <= 8
    assert most_alive <= 8 + 4 + 2  # those ahead, one that each worker has just ended, and those in passing


def test_map_takes_nothing_before_it_is_asked(pool: SessionPool) -> None:
    """Items are taken in the thread that consumes, when it consumes."""
    takers: list[int] = []

    def items() -> Iterator[int]:
        for item in range(5):
            takers.append(get_ident())
            yield item

    results = pool.map(identity, items(), workers=1)
    assert takers == []
    assert in_thread(list, results).join().thread.ident not in (None, get_ident())

    assert len(takers) == 5
    assert get_ident() not in takers


@pytest.mark.parametrize("ordered", [True, False])
def test_map_of_nothing(pool: SessionPool, ordered: bool) -> None:
    """No items, no results; and it stays at its end."""
    results = pool.map(identity, [], ordered=ordered)

    assert list(results) == []
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_map_raises_the_first_error_with_its_item(pool: SessionPool, ordered: bool) -> None:
    """The error names the item; after it no further item is begun, and the iterator is at its end."""
    begun: list[int] = []

    def work(session: Session, item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ZeroDivisionError(f"on {item}")
        return item

    results = pool.map(work, range(1000), workers=1, ordered=ordered)
    with pytest.raises(ZeroDivisionError, match="on 3") as caught:
        list(results)

    assert caught.value.item == 3  # type: ignore[attr-defined]
    assert list(results) == []
    assert max(begun) <= 3 + 2
    eventually(lambda: pool.stats().sessions == 0)  # what was in the worker's hands is finished in the background
    nothing_is_leased(pool)


@pytest.mark.parametrize("ordered", [True, False])
def test_map_with_errors_among_the_results(pool: SessionPool, ordered: bool) -> None:
    """`return_exceptions=True`: an error takes its result's place, with its item, and the rest go on."""

    def work(session: Session, item: int) -> int:
        if item % 10 == 7:
            raise ZeroDivisionError
        return item

    results: list[Any] = list(pool.map(work, range(100), workers=4, ordered=ordered, return_exceptions=True))
    errors = [result for result in results if isinstance(result, ZeroDivisionError)]

    assert sorted(error.item for error in errors) == list(range(7, 100, 10))  # type: ignore[attr-defined]
    assert sorted(result for result in results if isinstance(result, int)) == [n for n in range(100) if n % 10 != 7]
    if ordered:
        assert [isinstance(result, Exception) for result in results] == [n % 10 == 7 for n in range(100)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_map_raises_what_is_meant_for_the_program(pool: SessionPool, error: type[BaseException]) -> None:
    """Ctrl-C in a worker is no result, whatever was asked for."""

    def work(session: Session, item: int) -> int:
        raise error

    with pytest.raises(error):
        list(pool.map(work, range(10), workers=2, return_exceptions=True))


@pytest.mark.parametrize("ordered", [True, False])
def test_map_is_not_ended_by_a_stop_iteration(pool: SessionPool, ordered: bool) -> None:
    """`next()` on something empty inside the function is an error like any other, and not the end of the results
    (PEP 479)."""

    def work(session: Session, item: int) -> int:
        if item == 3:
            raise StopIteration
        return item

    with pytest.raises(RuntimeError):
        list(pool.map(work, range(100), workers=2, ordered=ordered))


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ("https://example.com/a", "https://example.com/a"),
        ("https://ada:s3cret@example.com/a?token=s3cret#s3cret", "https://example.com/a?…"),
        ("https://ada:s3cret@example.com", "https://example.com"),
        ("ada:s3cret@example.com/a", "example.com/a"),
        ("//ada:s3cret@example.com/a", "//example.com/a"),
        ("https://ada:s3cret@example.com/a//b", "https://example.com/a//b"),
        ("https://ada:s3cret@example.com/https://example.org/", "https://example.com/https://example.org/"),
        ("https://example.com/?next=https://ada:s3cret@example.com/", "https://example.com/?…"),
        ("a word", "a word"),
        ({"password": "s3cret"}, "an item of type dict (see .item)"),
        (("https://example.com/", "s3cret"), "an item of type tuple (see .item)"),
        (b"s3cret", "an item of type bytes (see .item)"),
        (None, "an item of type NoneType (see .item)"),
    ],
)
def test_an_errors_note_holds_no_secret(pool: SessionPool, item: object, shown: str) -> None:
    """The note tells what was worked on, for a log: a URL without user, password and query; nothing else's content."""

    def work(session: Session, item: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        list(pool.map(work, [item], workers=1))
    with pytest.raises(ZeroDivisionError) as caught_by_submit:
        pool.submit(work, item).result(PATIENCE)

    for error in (caught.value, caught_by_submit.value):
        assert error.__notes__ == [f"while working on {shown}"]
        assert error.item is item  # type: ignore[attr-defined]


def test_an_errors_note_is_short(pool: SessionPool) -> None:
    """A URL of a million characters does not fill the log."""

    def work(session: Session, item: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        list(pool.map(work, ["x" * 1_000_000]))
    (note,) = caught.value.__notes__

    assert len(note) < 400


def test_an_error_that_takes_no_attribute_is_still_itself(pool: SessionPool) -> None:
    """An exception that refuses new attributes comes through unchanged."""

    class Frozen(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            if name != "__traceback__":
                raise AttributeError(f"cannot set {name}")

    def work(session: Session, item: object) -> None:
        raise Frozen

    with pytest.raises(Frozen):
        list(pool.map(work, [1]))


def test_map_names_the_item_also_when_no_session_is_got(make_pool: Callable[..., SessionPool]) -> None:
    """An error of the lease, or of `key`, carries its item too."""
    pool = make_pool(timeout=Timeout(pool=0))
    with pool.lease("ada"), pytest.raises(PoolTimeout) as caught:
        list(pool.map(identity, ["ada"], key=str))
    assert caught.value.item == "ada"  # type: ignore[attr-defined]

    with pytest.raises(ZeroDivisionError) as failed:
        list(pool.map(identity, [0], key=lambda item: 1 // item))
    assert failed.value.item == 0  # type: ignore[attr-defined]


def test_map_may_be_left_early(pool: SessionPool) -> None:
    """Whoever breaks off gets no further item taken or begun, and the worker threads end."""
    begun: list[int] = []
    taken: list[int] = []
    left = threading.Event()

    def items() -> Iterator[int]:
        for item in range(1_000_000):
            taken.append(item)
            yield item

    def work(session: Session, item: int) -> int:
        begun.append(item)
        assert item < 10 or left.wait(PATIENCE)
        return item

    threads = set(threading.enumerate())
    for result in pool.map(work, items(), workers=3):
        if result == 9:
            break
    gc.collect()
    left.set()
    eventually(lambda: set(threading.enumerate()) <= threads)

    assert len(taken) <= 10 + 6
    assert len(begun) <= 10 + 3
    nothing_is_leased(pool)


def test_map_may_be_closed(pool: SessionPool) -> None:
    """`close` ends it: what is in work is finished, its results are dropped; a second time does nothing."""
    go_on, begun, finished = threading.Event(), threading.Semaphore(0), list[int]()

    def work(session: Session, item: int) -> int:
        if item:
            begun.release()
            assert go_on.wait(PATIENCE)
        finished.append(item)
        return item

    results = pool.map(work, range(100), workers=2)
    assert next(results) == 0
    assert begun.acquire(timeout=PATIENCE)
    assert begun.acquire(timeout=PATIENCE)
    results.close()
    results.close()
    go_on.set()

    assert list(results) == []
    eventually(lambda: len(finished) == 3)
    eventually(lambda: pool.stats().sessions == 0)


def test_map_passes_on_an_error_of_the_items(pool: SessionPool) -> None:
    """An error in the items' own iterator is raised to the consumer as it is, and the workers end."""

    def items() -> Iterator[int]:
        yield from range(20)
        raise ZeroDivisionError("in the items")

    threads = set(threading.enumerate())
    results = pool.map(identity, items(), workers=2)
    with pytest.raises(ZeroDivisionError, match="in the items") as caught:
        for _ in results:
            pass

    assert not hasattr(caught.value, "item")
    assert list(results) == []
    eventually(lambda: set(threading.enumerate()) <= threads)


def test_map_is_ended_by_closing_the_pool(pool: SessionPool) -> None:
    """Items that are not begun yet are refused with `PoolClosed`; closing waits for those that are."""
    inside, go_on = threading.Semaphore(0), threading.Event()

    def work(session: Session, item: int) -> int:
        inside.release()
        assert go_on.wait(PATIENCE)
        return item

    def consume() -> list[int]:
        return list(pool.map(work, range(100), workers=2))

    with in_thread(consume) as consuming:
        assert inside.acquire(timeout=PATIENCE)
        assert inside.acquire(timeout=PATIENCE)
        with in_thread(pool.close) as closing:
            eventually(lambda: pool._closed)
            go_on.set()

    assert isinstance(consuming.error, PoolClosed)
    assert closing.get().leases == 0
    nothing_is_leased(pool)


def test_two_maps_share_a_pool(pool: SessionPool) -> None:
    """Maps of several threads, on the same names, do not mix up their results."""

    def consume(start: int) -> list[int]:
        return list(pool.map(identity, range(start, start + 100), workers=3, key=lambda item: item % 3, ordered=True))

    calls = [in_thread(consume, start) for start in (0, 1000, 2000)]

    assert [call.get() for call in calls] == [list(range(start, start + 100)) for start in (0, 1000, 2000)]


# --- many items: submit, and executors ---


def test_submit_gives_a_future(pool: SessionPool) -> None:
    """With the result, or the error with its item."""

    def work(session: Session, item: int) -> float:
        use(session)
        return 1 / item

    futures = [pool.submit(work, item) for item in range(5)]
    assert all(isinstance(future, Future) for future in futures)
    assert [future.result(PATIENCE) for future in futures[1:]] == [1 / item for item in range(1, 5)]
    error = futures[0].exception(PATIENCE)

    assert isinstance(error, ZeroDivisionError)
    assert error.item == 0  # type: ignore[attr-defined]


def test_submit_uses_so_many_threads(make_pool: Callable[..., SessionPool]) -> None:
    """As many as the pool's `workers`, each with its own session."""
    pool = make_pool(name="crawl", workers=3)
    together = threading.Barrier(3)

    def work(session: Session, item: int) -> tuple[str, Session]:
        together.wait(PATIENCE)
        return threading.current_thread().name, session

    seen = {future.result(PATIENCE) for future in [pool.submit(work, item) for item in range(30)]}

    assert len(seen) == 3
    assert all(name.startswith("sessionpool-crawl") for name, _ in seen)


def test_submit_on_an_identity_or_a_fresh_session(pool: SessionPool) -> None:
    """`key` is the name itself; `fresh` gives a blank session."""

    def work(session: Session, item: int) -> int:
        session.cookies[str(item)] = "seen"
        return len(session.cookies)

    named = sorted(future.result(PATIENCE) for future in [pool.submit(work, item, key="ada") for item in range(5)])
    fresh = {future.result(PATIENCE) for future in [pool.submit(work, item, fresh=True) for item in range(5)]}

    assert named == [1, 2, 3, 4, 5]
    assert fresh == {1}


def test_close_cancels_what_is_queued(make_pool: Callable[..., SessionPool]) -> None:
    """What is in work is finished and waited for; what is not begun is cancelled."""
    pool = make_pool(workers=2)
    inside, go_on = threading.Semaphore(0), threading.Event()

    def work(session: Session, item: int) -> int:
        inside.release()
        assert go_on.wait(PATIENCE)
        return item

    futures = [pool.submit(work, item) for item in range(10)]
    assert inside.acquire(timeout=PATIENCE)
    assert inside.acquire(timeout=PATIENCE)
    with in_thread(pool.close) as closing:
        eventually(lambda: futures[-1].cancelled())
        go_on.set()

    assert closing.get().leases == 0
    assert [future.result(PATIENCE) for future in futures[:2]] == [0, 1]
    for future in futures[2:]:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)


def test_close_from_inside_a_submitted_function(pool: SessionPool) -> None:
    """The function that closes the pool is not waited for, and its result arrives."""

    def work(session: Session, item: int) -> int:
        return pool.close(timeout=PATIENCE).leases

    assert pool.submit(work, 1).result(PATIENCE) == 0


def test_a_dropped_pool_ends_its_threads() -> None:
    """A pool that nobody closed and nobody has any more leaves no thread behind."""
    threads = set(threading.enumerate())
    pool = SessionPool()
    assert pool.submit(identity, 1).result(PATIENCE) == 1
    del pool
    gc.collect()

    eventually(lambda: set(threading.enumerate()) <= threads)


def test_any_executor_will_do(pool: SessionPool) -> None:
    """A plain `ThreadPoolExecutor` around `pool.lease()`: one session per thread, or per user with `lease(user)`."""
    together = threading.Barrier(4)

    def own(item: int) -> tuple[int, Session]:
        together.wait(PATIENCE)
        with pool.lease() as session:
            use(session)
            return get_ident(), session

    def as_user(item: int) -> int:
        with pool.lease(f"user{item % 3}") as session:
            session.cookies[str(item)] = "seen"
            return len(session.cookies)

    with ThreadPoolExecutor(4) as executor:
        own_sessions = set(executor.map(own, range(40)))
        per_user = Counter(executor.map(as_user, range(30)))

    assert len(own_sessions) == 4
    assert per_user == dict.fromkeys(range(1, 11), 3)
    nothing_is_leased(pool)


def test_a_lease_that_is_just_being_lost_keeps_no_cookies(pool: SessionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector ends a lost lease in another thread: meanwhile its own thread gets its own session all the same."""
    with pool.lease() as own:
        own.cookies["who"] = "me"
    lost: list[Any] = [pool.lease()]
    reached, go_on, close_streams = threading.Event(), threading.Event(), Session.close_streams
    here = threading.current_thread()

    def slowly(session: Session, **kwargs: Any) -> None:
        close_streams(session, **kwargs)
        if threading.current_thread() is not here:
            reached.set()
            assert go_on.wait(20)

    monkeypatch.setattr(Session, "close_streams", slowly)
    with in_thread(lost.clear):
        assert reached.wait(20)
        with pool.lease() as again:
            go_on.set()
            eventually(lambda: pool.stats().sessions == 1)

            assert again is own
            assert again.cookies["who"] == "me"
            use(again)
    nothing_is_leased(pool)
