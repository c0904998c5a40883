"""Scenario 19: observers that raise, block, or call the pool that calls them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sessionpool import Limits, Observer, SessionPool, Timeout
from sessionpool.exceptions import PoolError
from tests.helpers import Interrupt, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response

EVENTS = ["waited", "connected", "closed", "responded", "failed"]
FOR_EVER = Timeout(pool=None, read=None)


class On(Observer):
    """Does something when it is told of one event, with all the others merely counted."""

    def __init__(self, event: str, action: Callable[[], object]) -> None:
        self.told: Counter[str] = Counter()
        self._event = event
        self._action = action

    def _tell(self, event: str) -> None:
        self.told[event] += 1
        if event == self._event:
            self._action()

    def waited(self, *args: Any) -> None:
        self._tell("waited")

    def connected(self, *args: Any) -> None:
        self._tell("connected")

    def closed(self, *args: Any) -> None:
        self._tell("closed")

    def responded(self, *args: Any) -> None:
        self._tell("responded")

    def failed(self, *args: Any) -> None:
        self._tell("failed")


def site(asked: Asked) -> bytes:
    """Answers; closes after `/close`, and `/broken` is none."""
    if asked.path == "/broken":
        return b"rubbish\r\n\r\n"
    return response(b"ok", *(["Connection: close"] if asked.path == "/close" else []))


def every_event(pool: SessionPool, host: str = "a") -> None:
    """Requests that bring about each of the events: an answer, an end, a failure."""
    pool.get(f"http://{host}.example/")
    pool.get(f"http://{host}.example/close")
    with contextlib.suppress(OSError):
        pool.get(f"http://{host}.example/broken")
    pool.get(f"http://{host}.example/")


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("event", EVENTS)
def test_an_observer_that_raises_harms_no_request(
    event: str, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    """In whatever event, from eight threads at once: it is logged once and dropped, and nothing else changes."""

    def fail() -> None:
        raise ZeroDivisionError

    wire, observer = Wire(answer=site), On(event, fail)
    pool = scenario.pool(wire, limits=Limits(per_host=2, total=3), timeout=FOR_EVER, observer=observer)
    with caplog.at_level(logging.DEBUG, logger="sessionpool"):

        def work(number: int) -> None:
            for _ in range(10):
                every_event(pool, str(number % 3))

        calls = [in_thread(work, number) for number in range(8)]
        for call in calls:
            call.get()

    assert 1 <= observer.told[event] <= 8  # no thread calls it again that has seen it fail, or came after that
    assert len(wire.requests) == 8 * 10 * 4
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert wire.most_open <= 3


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("event", EVENTS)
def test_an_interrupt_in_an_observer_gives_everything_back(event: str, scenario: Scenario) -> None:
    """What is meant for the program passes through to it, whatever the event, and costs nobody a permit."""
    left = [Interrupt(), Interrupt()]

    def interrupt() -> None:
        if left:
            raise left.pop()

    wire = Wire(answer=site)
    limits = Limits(per_host=1, total=1)
    pool = scenario.pool(wire, limits=limits, timeout=Timeout(pool=0, read=None), observer=On(event, interrupt))
    interrupted = 0
    for host in "abab":
        try:
            every_event(pool, host)
        except Interrupt:
            interrupted += 1
        assert (pool.stats().leased, pool.stats().sessions) == (0, 0)
    every_event(pool)

    assert left == []
    assert interrupted == 2
    assert wire.most_open == 1


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("event", EVENTS)
def test_an_observer_that_blocks_blocks_its_thread_only(event: str, scenario: Scenario) -> None:
    """While one thread is stuck in an event, others do all that a pool can do, its closing included."""
    stuck, go = threading.Event(), threading.Event()

    def block() -> None:
        if not stuck.is_set():
            stuck.set()
            assert go.wait(20)

    wire = Wire(answer=site)
    pool = scenario.pool(wire, limits=Limits(per_host=2, total=3), timeout=FOR_EVER, observer=On(event, block))
    blocked = in_thread(every_event, pool)
    assert stuck.wait(20)

    def others() -> None:
        for host in "abcd":
            every_event(pool, host)
        with pool.lease("ada") as session, pool.lease(fresh=True) as fresh:
            assert session.get("http://a.example/").ok
            assert fresh.get("http://b.example/", stream=True).ok

    calls = [in_thread(others) for _ in range(4)]
    for call in calls:
        call.get()
    held = pool.stats()
    report = in_thread(pool.close, timeout=0).get()
    go.set()
    blocked.join()

    assert (held.leased <= 1, held.waiting, held.sessions) == (True, 0, 1)
    assert report.leases == 1
    assert wire.most_open <= 3
    assert wire.open == 0


def look(pool: SessionPool) -> None:
    pool.stats()
    repr(pool)


def ask_elsewhere(pool: SessionPool) -> None:
    assert pool.get("http://elsewhere.example/").content == b"ok"


def lease_another(pool: SessionPool) -> None:
    with pool.lease(fresh=True) as session:
        session.get("http://elsewhere.example/close")


def let_another_thread_ask(pool: SessionPool) -> None:
    assert in_thread(pool.get, "http://elsewhere.example/").get().content == b"ok"


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    "action", [look, ask_elsewhere, lease_another, let_another_thread_ask], ids=lambda a: a.__name__
)
def test_an_observer_may_call_the_pool(action: Callable[[SessionPool], None], event: str, scenario: Scenario) -> None:
    """Inside any event: no lock is held, so it gets its answer."""
    called: list[None] = []
    nesting = threading.Lock()

    def call() -> None:
        if not nesting.acquire(blocking=False):
            return  # told of what it does itself
        try:
            action(pool)
            called.append(None)
        finally:
            nesting.release()

    wire = Wire(answer=site)
    pool = scenario.pool(wire, limits=Limits(per_host=2, total=8), timeout=FOR_EVER, observer=On(event, call))
    calls = [in_thread(every_event, pool, str(number)) for number in range(3)]
    for each in calls:
        each.get()

    assert called
    assert wire.most_open <= 8


@pytest.mark.parametrize("event", EVENTS)
def test_an_observer_may_close_the_pool(event: str, scenario: Scenario) -> None:
    """In the midst of a request of its own thread: that one ends somehow, the waiters are told, nothing stays open."""
    wire = Wire(answer=site)
    pool = scenario.pool(
        wire, limits=Limits(per_host=1, total=1), timeout=FOR_EVER, observer=On(event, lambda: pool.close(timeout=0))
    )
    calls = [in_thread(every_event, pool, host) for host in "abc"]
    for call in calls:
        call.join()
    stats = pool.stats()

    eventually(lambda: wire.open == 0)
    assert all(isinstance(call.error, (PoolError, OSError)) for call in calls), [call.error for call in calls]
    assert (stats.leased, stats.idle, stats.waiting, stats.sessions) == (0, 0, 0, 0)
