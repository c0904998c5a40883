"""Leases held for too long, or lost: that is told, once, with where they were taken. On a clock that is moved."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest

from sessionpool import Limits, Observer, SessionPool
from sessionpool._clock import Baton
from sessionpool._pool import Lease
from tests.helpers import WatchedClock, eventually, in_thread


class LookingClock(WatchedClock):
    """A clock that knows until when each thread waits: one that waits for what is to come has looked at what was."""

    def __init__(self) -> None:
        super().__init__()
        self._untils: list[float] = []

    def wait(self, baton: Baton, until: float) -> bool:
        self._untils.append(until)
        try:
            return super().wait(baton, until)
        finally:
            self._untils.remove(until)

    def move(self, seconds: float) -> None:
        """Move on, and wait until whoever looks for leaks has looked."""
        self._settle()
        self.advance(seconds)
        self._settle()

    def _settle(self) -> None:
        eventually(
            lambda: len(self._untils) == len(watchers()) and all(until > self.now() for until in list(self._untils))
        )


class Watching(Observer):
    """Writes down which leaks it was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[Hashable, float, str]] = []

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
        self.told.append((key, seconds, stack))


def watchers() -> list[threading.Thread]:
    """The threads that look for leaks."""
    return [thread for thread in threading.enumerate() if thread.name.endswith("-leaks")]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, all of it warnings."""
    records = [record for record in caplog.records if record.name == "sessionpool.leases"]
    assert {record.levelno for record in records} <= {logging.WARNING}
    return [record.getMessage() for record in records]


@pytest.fixture
def clock() -> LookingClock:
    return LookingClock()


@pytest.fixture
def observer() -> Watching:
    return Watching()


@pytest.fixture
def make_pool(clock: LookingClock) -> Iterator[Callable[..., SessionPool]]:
    """Make pools that look for leaks after a minute, and are closed after the test."""
    pools: list[SessionPool] = []

    def make(**settings: Any) -> SessionPool:
        pools.append(SessionPool(**{"name": "crawl", "clock": clock, "leak_threshold": 60, **settings}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(timeout=0)


@pytest.fixture
def pool(make_pool: Callable[..., SessionPool], observer: Watching) -> SessionPool:
    return make_pool(observer=observer)


def borrow(pool: SessionPool, *args: Any, **kwargs: Any) -> Lease:
    """A user's function that takes a lease, to be found in the stack."""
    return pool.lease(*args, **kwargs)


# --- held for too long ---


def test_a_lease_that_is_not_released_is_told(
    pool: SessionPool, clock: LookingClock, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """In one warning: the pool, the thread, the age, the threshold, and the stack of whoever took it."""
    lease = borrow(pool)
    clock.move(60)
    (warning,) = warnings(caplog)
    ((key, seconds, stack),) = observer.told
    lease.release()

    first, _, rest = warning.partition("\n")
    assert first == (
        "pool 'crawl': a lease by thread 'MainThread' has not been released after 60 s (leak_threshold=60 s); "
        "it was taken at"
    )
    assert rest == stack
    assert (key, seconds) == (None, 60)
    assert f'File "{__file__}"' in stack
    assert {name: value for name, value in vars(caplog.records[0]).items() if name.startswith("sessionpool_")} == {
        "sessionpool_event": "leaked",
        "sessionpool_pool": "crawl",
        "sessionpool_key": "",
        "sessionpool_thread": "MainThread",
        "sessionpool_seconds": 60,
    }
    assert "in borrow\n    return pool.lease(*args, **kwargs)\n" in stack
    assert "in test_a_lease_that_is_not_released_is_told" in stack


def test_the_stack_ends_where_the_lease_was_taken(pool: SessionPool, clock: LookingClock, observer: Watching) -> None:
    """Its last line is the caller's, none is the pool's own, and there are only so many."""

    def deep(depth: int) -> Lease:
        return deep(depth - 1) if depth else borrow(pool)

    lease = deep(50)
    clock.move(60)
    stack = observer.told[0][2]
    lease.release()

    assert stack.rstrip().endswith("return pool.lease(*args, **kwargs)")
    assert "_pool.py" not in stack
    assert "[Previous line repeated 12 more times]" in stack  # 16 in all


def test_a_shorthand_names_its_caller(pool: SessionPool, clock: LookingClock, observer: Watching) -> None:
    """Who calls `pool.submit` is not there any more; the function that hangs is."""
    begun, go_on = threading.Event(), threading.Event()

    def hang(session: object, item: int) -> int:
        begun.set()
        assert go_on.wait(20)
        return item

    future = pool.submit(hang, 1)
    assert begun.wait(20)
    clock.move(60)
    go_on.set()

    assert future.result(20) == 1
    assert "in run\n" in observer.told[0][2]


def test_it_is_told_only_once(
    pool: SessionPool, clock: LookingClock, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """However long it is held, and also if it is dropped in the end; its successor is another lease."""
    lease = borrow(pool, "ada")
    for _ in range(5):
        clock.move(60)
    assert len(warnings(caplog)) == len(observer.told) == 1
    del lease
    gc.collect()
    assert pool.stats().reclaimed == 1
    lease = borrow(pool, "ada")
    clock.move(60)
    lease.release()

    assert len(warnings(caplog)) == len(observer.told) == 2


def test_nothing_is_told_before_its_time(
    pool: SessionPool, clock: LookingClock, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease that is released in time is nobody's business."""
    for _ in range(3):
        lease = borrow(pool)
        clock.move(59.5)
        lease.release()
    clock.move(600)

    assert (warnings(caplog), observer.told) == ([], [])


def test_several_leases_are_due_each_in_its_time(pool: SessionPool, clock: LookingClock, observer: Watching) -> None:
    """None is told late because of another, and none is forgotten."""
    leases = []
    for key in ("ada", "bob", "eve"):
        leases.append(borrow(pool, key))
        clock.move(10)
    told = []
    for _ in range(8):
        told.append([(key, seconds) for key, seconds, _ in observer.told])
        clock.move(10)
    for lease in leases:
        lease.release()

    assert told[2] == []  # at 50 s
    assert told[3] == [("ada", 60)]
    assert told[4] == [("ada", 60), ("bob", 60)]
    assert told[5] == told[7] == [("ada", 60), ("bob", 60), ("eve", 60)]


def test_an_identity_is_named(
    pool: SessionPool, clock: LookingClock, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is in the text, and told as it is."""
    lease = borrow(pool, ("account", 42))
    clock.move(60)
    lease.release()

    assert "the lease of ('account', 42) by thread 'MainThread' has not been released" in warnings(caplog)[0]
    assert observer.told[0][0] == ("account", 42)


def test_the_thread_that_holds_it_is_named(
    pool: SessionPool, clock: LookingClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Who took it over, if somebody did; the stack stays that of whoever took it first."""
    go_on = threading.Event()
    lease = borrow(pool, "ada")

    def inherit() -> None:
        lease.transfer()
        assert go_on.wait(20)

    with in_thread(inherit) as call:
        eventually(lambda: lease._hold is not None and lease._hold.thread is call.thread)
        clock.move(60)
        go_on.set()
    lease.release()
    (warning,) = warnings(caplog)

    assert "by thread 'inherit' has not been released" in warning
    assert "in borrow" in warning


def test_nested_leases_are_told_once(pool: SessionPool, clock: LookingClock, observer: Watching) -> None:
    """They are one session, taken where the outermost was."""

    def outermost() -> Lease:
        return pool.lease()

    leases = [outermost(), borrow(pool), borrow(pool)]
    clock.move(60)
    for lease in leases:
        lease.release()

    assert len(observer.told) == 1
    assert "in outermost" in observer.told[0][2]


# --- lost ---


def test_a_lease_that_is_dropped_is_told(
    pool: SessionPool, clock: LookingClock, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, whatever its age: nobody meant that."""
    lease = borrow(pool, "ada")
    clock.move(2.5)
    del lease
    gc.collect()
    eventually(lambda: observer.told)
    (warning,) = warnings(caplog)

    assert warning.startswith(
        "pool 'crawl': the lease of 'ada' by thread 'MainThread' was dropped, or its thread ended, before it was "
        "released after 2.5 s "
        "(leak_threshold=60 s); it was taken at\n"
    )
    assert "in borrow\n" in warning
    assert [(key, seconds) for key, seconds, _ in observer.told] == [("ada", 2.5)]


def test_a_lease_whose_thread_ended_is_told(
    pool: SessionPool, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """By the name that the thread had."""
    kept = in_thread(borrow, pool).get()
    eventually(lambda: observer.told)

    assert "a lease by thread 'borrow' was dropped, or its thread ended, before it was released" in warnings(caplog)[0]
    kept.release()
    assert len(observer.told) == 1


def test_what_was_lost_just_before_the_end_is_told(
    pool: SessionPool, observer: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """A short program finds out too, though it closes its pool right away."""
    for number in range(50):
        borrow(pool, number)
    pool.close()
    eventually(lambda: not watchers())

    assert [key for key, *_ in observer.told] == list(range(50))
    assert len(warnings(caplog)) == 50


# --- observers ---


def test_an_observer_that_raises_is_dropped(
    make_pool: Callable[..., SessionPool], clock: LookingClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and leaks are logged as before."""

    class Broken(Observer):
        calls = 0

        def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
            self.calls += 1
            raise ZeroDivisionError

    observer = Broken()
    pool = make_pool(observer=observer)
    leases = [borrow(pool, key) for key in ("ada", "bob", "eve")]
    clock.move(60)
    for lease in leases:
        lease.release()
    messages = [record.getMessage() for record in caplog.records]

    assert observer.calls == 1
    assert sum("has not been released" in message for message in messages) == 3
    assert sum("raised and is dropped" in message for message in messages) == 1


def test_an_observer_need_not_listen(
    make_pool: Callable[..., SessionPool], clock: LookingClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one, or with one that does not override `leaked`, the log is told all the same."""
    for observer in (None, Observer()):
        caplog.clear()
        pool = make_pool(observer=observer)
        lease = borrow(pool)
        clock.move(60)
        lease.release()
        pool.close()

        assert len(warnings(caplog)) == 1


def test_an_observer_may_use_the_pool(make_pool: Callable[..., SessionPool], clock: LookingClock) -> None:
    """It is called under no lock: it may lease, count and dump."""
    pools: list[SessionPool] = []
    seen: list[tuple[int, int]] = []

    class Curious(Observer):
        def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
            with pools[0].lease("curious"):
                seen.append((pools[0].stats().sessions, len(pools[0].dump().leases)))

    pools.append(make_pool(observer=Curious()))
    (pool,) = pools
    lease = borrow(pool)
    clock.move(60)
    lease.release()

    assert seen == [(2, 2)]


# --- the thread that looks ---


def test_the_thread_is_named_for_its_pool(make_pool: Callable[..., SessionPool]) -> None:
    """One per pool, a daemon, begun with the first lease."""
    pool = make_pool(name="night crawl")
    assert watchers() == []
    for number in range(5):
        borrow(pool, number).release()
    (thread,) = watchers()

    assert thread.name == "sessionpool-night crawl-leaks"
    assert thread.daemon


def test_first_leases_at_once_begin_one_thread(pool: SessionPool) -> None:
    """Threads that lease together begin one between them."""
    together = threading.Barrier(8)

    def lease(number: int) -> None:
        together.wait(20)
        borrow(pool, number).release()

    for call in [in_thread(lease, number) for number in range(8)]:
        call.get()

    assert len(watchers()) == 1


def test_the_thread_ends_when_the_pool_is_closed(pool: SessionPool) -> None:
    """At once, without the clock being moved, also with leases still held."""
    held = borrow(pool)
    assert len(watchers()) == 1
    pool.close(timeout=0)
    eventually(lambda: not watchers())

    held.release()


def test_the_thread_ends_when_the_pool_is_collected(clock: LookingClock) -> None:
    """It keeps nobody's pool alive."""
    pool = SessionPool(clock=clock, leak_threshold=60)
    borrow(pool).release()
    borrow(pool, "ada").release()
    assert len(watchers()) == 1
    gone = weakref.ref(pool)
    del pool
    gc.collect()

    assert gone() is None
    eventually(lambda: not watchers())


def test_nobody_looks_without_a_threshold(make_pool: Callable[..., SessionPool]) -> None:
    """`None`, the default: no thread, and no stack is taken."""
    assert SessionPool()._leaks is None
    pool = make_pool(leak_threshold=None)
    lease = borrow(pool)

    assert watchers() == []
    assert lease._hold is not None
    assert lease._hold.stack is None
    lease.release()


def test_what_was_released_is_not_kept(pool: SessionPool) -> None:
    """A million leases leave no stack and no hold behind."""
    holds = weakref.WeakSet[Any]()
    for _ in range(100):
        lease = borrow(pool, fresh=True)
        holds.add(lease._hold)
        lease.release()
    del lease
    gc.collect()

    assert len(holds) == 0


@pytest.mark.parametrize("threshold", [0, -1, -0.5, float("nan"), float("inf"), True, "60", [60], b"1"])
def test_what_is_no_threshold_is_refused(threshold: Any) -> None:
    """When the pool is made, with what was given and what is wanted."""
    with pytest.raises(
        ValueError, match=r"^leak_threshold must be seconds above 0, or None not to look; got "
    ) as caught:
        SessionPool(leak_threshold=threshold)

    assert str(caught.value).endswith(repr(threshold))


@pytest.mark.parametrize("threshold", [1, 0.25, 3600])
def test_any_number_of_seconds_will_do(
    make_pool: Callable[..., SessionPool], clock: LookingClock, threshold: float
) -> None:
    """Whole or not."""
    observer = Watching()
    pool = make_pool(leak_threshold=threshold, observer=observer)
    lease = borrow(pool)
    clock.move(threshold / 2)
    assert observer.told == []
    clock.move(threshold / 2)
    lease.release()

    assert [seconds for _, seconds, _ in observer.told] == [threshold]


def test_a_limit_on_sessions_makes_no_difference(make_pool: Callable[..., SessionPool], clock: LookingClock) -> None:
    """The time runs from when the lease was had, not from when it was asked for."""
    observer = Watching()
    pool = make_pool(limits=Limits(sessions=1), observer=observer)
    first = borrow(pool, "ada")

    def wait() -> None:
        with pool.lease("bob", timeout=None):
            clock.move(59)

    with in_thread(wait):
        eventually(lambda: pool._seats.stats().waiting == 1)
        clock.advance(30)
        first.release()

    assert observer.told == []
