"""Scenario 8: threads that end in the midst of things leave nothing behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from sessionpool import Limits, Session, SessionPool, Timeout
from sessionpool.exceptions import PoolTimeout
from tests.helpers import Interrupt, WatchedClock, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response

FOR_EVER = Timeout(pool=None, read=None)
URL = "http://a.example/"


def beginning(asked: Asked) -> bytes:
    """The beginning of a body, by which a stream stays open; or all of a short one."""
    return response(b"beginning", length=1000) if asked.path == "/stream" else response()


# How a thread may end. Each takes the one connection and the identity there is.


def with_its_block(pool: SessionPool) -> None:
    with pool.lease("ada") as session:
        session.get(URL)


def in_the_middle_of_its_block(pool: SessionPool) -> None:
    with pool.lease("ada") as session:
        session.get(URL + "stream", stream=True)
        raise Interrupt


def without_releasing(pool: SessionPool) -> None:
    lease = pool.lease("ada")
    lease.session.get(URL)


def with_an_open_stream(pool: SessionPool) -> None:
    with pool.lease("ada") as session:
        stream = session.get(URL + "stream", stream=True)
    assert stream.status_code == 200
    pool.get(URL + "stream", stream=True)


def with_everything_in_a_cycle(pool: SessionPool) -> None:
    lease = pool.lease("ada")
    held: list[object] = [lease, lease.session.get(URL + "stream", stream=True), pool.lease()]
    held.append(held)


def with_a_suspended_generator(pool: SessionPool) -> None:
    lease = pool.lease("ada")
    chunks = lease.session.get(URL + "stream", stream=True).iter_content(4)
    assert next(chunks) == b"begi"


ENDS = [
    with_its_block,
    in_the_middle_of_its_block,
    without_releasing,
    with_an_open_stream,
    with_everything_in_a_cycle,
    with_a_suspended_generator,
]


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_what_a_thread_held_is_the_next_ones(end: Callable[[SessionPool], None], scenario: Scenario) -> None:
    """However it ends: the only connection and the identity serve who waits for them."""
    wire = Wire(answer=beginning)
    pool = scenario.pool(wire, limits=Limits(per_host=1), timeout=FOR_EVER)

    def wait() -> bytes:
        with pool.lease("ada", timeout=None) as session:
            return session.get(URL).content

    for _ in range(3):
        gc.disable()  # so that what is in a cycle is still held when the next one comes
        try:
            dying = in_thread(end, pool).join()
            dying.error = None  # its traceback holds what the thread held
            with in_thread(wait) as waiter:
                eventually(lambda waiter=waiter: waiter.is_done or pool._seats.stats().waiting == 1)  # type: ignore[misc]
                gc.collect()
        finally:
            gc.enable()

        assert waiter.get() == b"ok"
    gc.collect()
    with pool.lease("ada", timeout=0) as session:
        session.get(URL, timeout=Timeout(pool=0))

    assert wire.most_open == 1


@pytest.mark.usefixtures("switch_interval")
def test_threads_that_gave_up_are_not_served(scenario: Scenario) -> None:
    """Thirty threads time out in two queues and end; what they waited for goes to the one that stayed."""
    clock, go = WatchedClock(), threading.Event()

    def answer(asked: Asked) -> bytes:
        assert asked.path != "/holder" or go.wait(20)
        return response()

    wire = Wire(answer=answer)
    pool = scenario.pool(wire, limits=Limits(per_host=1), timeout=FOR_EVER, clock=clock)

    def hold() -> None:
        with pool.lease("ada") as session:
            session.get(URL + "holder")

    def give_up(number: int) -> None:
        if number % 2:
            pool.lease("ada", timeout=5)
        else:
            pool.get(URL, timeout=Timeout(pool=5, read=None))

    def stay() -> bytes:
        with pool.lease("ada") as session:
            return session.get(URL).content

    with in_thread(hold) as holder:
        eventually(lambda: wire.requests)
        leaving = [in_thread(give_up, number) for number in range(15)]
        eventually(lambda: clock.waiters == 15)
        with in_thread(stay) as staying:
            eventually(lambda: clock.waiters == 16)
            leaving += [in_thread(give_up, number) for number in range(15)]
            eventually(lambda: clock.waiters == 31)
            clock.advance(5)
            for call in leaving:
                call.join()
            go.set()

    assert {type(call.error) for call in leaving} == {PoolTimeout}
    assert (holder.error, staying.get()) == (None, b"ok")
    assert [asked.path for asked in wire.requests] == ["/holder", "/"]


def test_ten_thousand_short_lived_threads(scenario: Scenario) -> None:
    """Each uses its own session once, and some leave a stream; no session, lease or connection remains of them."""
    wire = Wire(answer=beginning)
    pool = scenario.pool(wire, limits=Limits(per_host=4), timeout=FOR_EVER)
    sessions: weakref.WeakSet[Session] = weakref.WeakSet()
    errors: list[BaseException] = []

    def live(number: int) -> None:
        try:
            with pool.lease() as session:
                sessions.add(session)
                if number % 10:
                    assert session.get(URL).content == b"ok"
                else:
                    session.get(URL + "stream", stream=True)
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            errors.append(error)

    for first in range(0, 10_000, 20):
        threads = [threading.Thread(target=live, args=(number,)) for number in range(first, first + 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    gc.collect()

    assert errors == []
    assert len(wire.requests) == 10_000
    assert len(sessions) == 0
    assert pool._holds == {}
    assert wire.most_open <= 4
    assert pool.stats().idle == wire.open
