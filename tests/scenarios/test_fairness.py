"""Scenarios 1 to 3: nobody is overtaken, in whatever queue, and giving up loses nothing."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from sessionpool import Limits, SessionPool, Timeout
from sessionpool.exceptions import PoolTimeout
from tests.helpers import InThread, WatchedClock, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response

pytestmark = pytest.mark.usefixtures("switch_interval")

FOR_EVER = Timeout(pool=None, read=None)

# What one may have to wait for, each with limits that let one in at a time.
KINDS = {
    "a connection to a host": Limits(per_host=1),
    "one of all connections": Limits(per_host=5, total=1),
    "an identity": Limits(),
    "a session": Limits(sessions=1),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is waited for."""
    return str(request.param)


def ask(pool: SessionPool, kind: str, name: str, timeout: float | None = None) -> None:
    """One request to `/name`, for which one waits for what `kind` says."""
    key = "ada" if kind == "an identity" else None
    lease = pool.lease(key, fresh=key is None, timeout=timeout)
    host = name if kind == "one of all connections" else "shared"
    with lease as session:
        session.get(f"http://{host}.example/{name}", timeout=Timeout(pool=timeout, read=None))


def waiting(pool: SessionPool) -> int:
    """How many wait, for whatever."""
    return pool.stats().waiting + pool._seats.stats().waiting


class Served:
    """A wire that notes who was served, and serves `/holder` only when the test says so."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.go = threading.Event()
        self.wire = Wire(answer=self._answer)

    def _answer(self, asked: Asked) -> bytes:
        self.names.append(asked.path[1:])
        if asked.path == "/holder":
            assert self.go.wait(20)
        return response()


def queue(
    pool: SessionPool, served: Served, kind: str, number: int, timeouts: dict[int, float]
) -> tuple[InThread[None], list[InThread[None]]]:
    """One who holds what there is, and so many who wait for it, in the order of their numbers."""
    holder = in_thread(ask, pool, kind, "holder")
    eventually(lambda: served.names == ["holder"])
    waiters = []
    for each in range(number):
        waiters.append(in_thread(ask, pool, kind, str(each), timeouts.get(each)))
        eventually(lambda each=each: waiting(pool) == each + 1)  # type: ignore[misc]  # mypy: defaults in lambdas
    return holder, waiters


def test_a_hog_cannot_keep_a_waiter_waiting(kind: str, scenario: Scenario) -> None:
    """Who asks again and again without a pause is overtaken by who waits, every time: served next, and not later."""
    names: list[str] = []
    queued: list[int] = []  # how many had been served when the waiter was in the queue
    done = threading.Event()

    def answer(asked: Asked) -> bytes:
        names.append(asked.path[1:])
        if asked.path == "/hog" and eventually(lambda: waiting(pool) == 1 or done.is_set()) and waiting(pool):
            queued.append(len(names))
        return response()

    def hog() -> None:
        while not done.is_set():
            ask(pool, kind, "hog")
        for _ in range(20):
            ask(pool, kind, "hog")

    def wait_again_and_again() -> None:
        try:
            for _ in range(20):
                eventually(lambda: names[-1] == "hog")  # it has what there is, until this one is in the queue
                ask(pool, kind, "waiter")
        finally:
            done.set()

    wire = Wire(answer=answer)
    pool = scenario.pool(wire, limits=KINDS[kind])
    hogging = in_thread(hog)
    eventually(lambda: names)
    with hogging, in_thread(wait_again_and_again) as waiter:
        pass

    assert (hogging.error, waiter.error) == (None, None)
    assert names.count("waiter") == 20
    assert [names[served] for served in queued] == ["waiter"] * 20


def test_fifty_waiters_are_served_in_the_order_they_came(kind: str, scenario: Scenario) -> None:
    """First come, first served: for a host, for the total, for an identity and for a session alike."""
    served = Served()
    pool = scenario.pool(served.wire, limits=KINDS[kind], timeout=FOR_EVER)
    holder, waiters = queue(pool, served, kind, 50, {})
    served.go.set()
    for call in (holder, *waiters):
        call.get()

    assert served.names == ["holder", *map(str, range(50))]
    assert served.wire.most_open == 1


def test_whoever_leaves_the_queue_leaves_the_others_in_order(kind: str, scenario: Scenario) -> None:
    """Of twenty waiters every third gives up; the rest are served as they came, and those are told why."""
    served, clock = Served(), WatchedClock()
    impatient = dict.fromkeys(range(0, 20, 3), 5.0)
    pool = scenario.pool(served.wire, limits=KINDS[kind], timeout=FOR_EVER, clock=clock)
    holder, waiters = queue(pool, served, kind, 20, impatient)
    eventually(lambda: clock.waiters == 20)
    clock.advance(5.0)
    eventually(lambda: waiting(pool) == 20 - len(impatient))
    served.go.set()
    for call in (holder, *waiters):
        call.join()

    assert served.names == ["holder", *(str(each) for each in range(20) if each not in impatient)]
    assert [isinstance(call.error, PoolTimeout) for call in waiters] == [each in impatient for each in range(20)]


@pytest.mark.parametrize(
    ("kind", "turns"), [("a connection to a host", 1000), ("an identity", 1000), ("a session", 300)]
)
def test_microsecond_time_outs_lose_nothing(kind: str, turns: int, scenario: Scenario) -> None:
    """Ten threads, one permit, and a patience that ends about when the permit comes: each either gets it or is told
    that it did not, and in the end it is free."""
    wire = Wire()
    pool = scenario.pool(wire, limits=KINDS[kind], timeout=FOR_EVER)
    start = threading.Barrier(10)

    def work(number: int) -> Counter[str]:
        chance = random.Random(number)
        outcomes: Counter[str] = Counter()
        start.wait(20)
        for _ in range(turns):
            try:
                ask(pool, kind, str(number), chance.uniform(0, 200e-6))
                outcomes["served"] += 1
            except PoolTimeout:
                outcomes["gave up"] += 1
        return outcomes

    calls = [in_thread(work, number) for number in range(10)]
    outcomes = sum((call.get() for call in calls), Counter[str]())
    ask(pool, kind, "the next", 0.0)

    assert outcomes.total() == 10 * turns
    assert outcomes["served"] + 1 == len(wire.requests)
    assert outcomes["gave up"] > 0
    assert wire.most_open == 1
