"""Scenario 18: the clock jumps."""

from __future__ import annotations

import threading

import pytest

from sessionpool import Limits, Timeout
from sessionpool.exceptions import PoolTimeout
from tests.helpers import WatchedClock, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response

DAY = 86_400.0
URL = "http://a.example/"
FOR_EVER = Timeout(pool=None, read=None)


class Jumpy(WatchedClock):
    """A clock whose calendar can be set without time passing, and whose time can be turned back."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def wall(self) -> float:
        return super().wall() + self.offset


@pytest.fixture
def clock() -> Jumpy:
    return Jumpy()


class Held:
    """A wire that keeps who asks for `/holder` until the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.wire = Wire(answer=self._answer)

    def _answer(self, asked: Asked) -> bytes:
        assert asked.path != "/holder" or self.go.wait(20)
        return response()


@pytest.mark.parametrize("jump", [-365 * DAY, -1.0, 3600.0, 365 * DAY])
def test_setting_the_calendar_ends_no_wait(jump: float, clock: Jumpy, scenario: Scenario) -> None:
    """Limits count seconds that pass: who waits with one goes on waiting, and gives up when its time is over."""
    held = Held()
    pool = scenario.pool(held.wire, limits=Limits(per_host=1), timeout=FOR_EVER, clock=clock)
    clock.offset += jump
    with in_thread(pool.get, URL + "holder") as holder:
        eventually(lambda: held.wire.requests)
        waiter = in_thread(pool.get, URL, timeout=Timeout(pool=5, read=None))
        eventually(lambda: clock.waiters == 1)
        clock.offset += jump
        clock.advance(4.999)
        still_waiting = (pool.stats().waiting, waiter.is_done)
        clock.advance(0.001)
        waiter.join()
        held.go.set()

    assert still_waiting == (1, False)
    assert isinstance(waiter.error, PoolTimeout)
    assert "within 5 s" in str(waiter.error)
    assert holder.get().content == b"ok"


def test_a_leap_forward_ends_what_had_a_limit_and_nothing_else(clock: Jumpy, scenario: Scenario) -> None:
    """After a suspended laptop wakes: who had a limit is told, who had none is served in order, and every idle
    connection counts as expired."""
    held = Held()
    pool = scenario.pool(held.wire, limits=Limits(per_host=1, total=4), timeout=FOR_EVER, clock=clock)
    for number in range(3):
        pool.get(f"http://{number}.example/")
    with in_thread(pool.get, URL + "holder") as holder:
        eventually(lambda: pool.stats().leased == 1)
        calls = []
        for number in range(6):
            timeout = Timeout(pool=None if number % 2 else 30, read=None)
            calls.append(in_thread(pool.get, f"{URL}{number}", timeout=timeout))
            eventually(lambda number=number: clock.waiters == number + 1)  # type: ignore[misc]
        clock.advance(30 * DAY)
        for call in calls[::2]:
            call.join()
        held.go.set()
        for call in calls[1::2]:
            call.join()
    stats = pool.stats()

    assert holder.get().content == b"ok"
    assert [type(call.error) for call in calls] == [PoolTimeout, type(None)] * 3
    assert [asked.path for asked in held.wire.requests[-3:]] == ["/1", "/3", "/5"]
    # The holder's was expired too: it came back too late to be used again, so the first who waited opened another.
    assert (stats.idle, len(stats.hosts)) == (1, 1)
    assert held.wire.most_open <= 4


@pytest.mark.parametrize("jump", [-0.5, -3600.0, -DAY])
def test_time_that_runs_backwards_loses_nothing(jump: float, clock: Jumpy, scenario: Scenario) -> None:
    """It should not; if it does, waiters wait on, idle connections serve, and what is to expire does so later."""
    held = Held()
    pool = scenario.pool(held.wire, limits=Limits(per_host=1, total=2), timeout=FOR_EVER, clock=clock)
    clock.advance(2 * DAY)
    pool.get("http://b.example/")
    with in_thread(pool.get, URL + "holder") as holder:
        eventually(lambda: pool.stats().leased == 1)
        with in_thread(pool.get, URL, timeout=Timeout(pool=5, read=None)) as waiter:
            eventually(lambda: clock.waiters == 1)
            clock.advance(jump)
            again = pool.get("http://b.example/")
            held.go.set()
    reused = pool.stats().opened == 2
    clock.advance(61 - jump)
    pool.get(URL)

    assert reused
    assert (again.content, holder.get().content, waiter.get().content) == (b"ok",) * 3
    assert list(pool.stats().hosts) == ["http://a.example:80"]
    assert held.wire.most_open == 2


def test_cookies_follow_the_calendar_wherever_it_goes(clock: Jumpy, scenario: Scenario) -> None:
    """One that has expired by the calendar is not sent, and does not come back when the calendar is set back; one
    that is set after that lives as long as it was given, and no longer."""
    given = {"/short": "short=1; Max-Age=60", "/long": "long=1; Max-Age=864000", "/late": "late=1; Max-Age=10"}

    def answer(asked: Asked) -> bytes:
        return response(b"", f"Set-Cookie: {given[asked.path]}") if asked.path in given else response()

    wire = Wire(answer=answer)
    pool = scenario.pool(wire, timeout=FOR_EVER, clock=clock)

    def sent() -> set[str]:
        session.get(URL)
        return set(wire.requests[-1].cookies)

    with pool.lease("ada") as session:
        session.get(URL + "short")
        session.get(URL + "long")
        before = sent()
        clock.offset += 61
        forward = sent()
        clock.offset -= DAY
        back = sent()
        session.get(URL + "late")
        late = sent()
        clock.offset += 9
        nearly = sent()
        clock.advance(1)
        over = sent()

    assert before == {"short", "long"}
    assert forward == {"long"}
    assert back == {"long"}
    assert late == nearly == {"long", "late"}
    assert over == {"long"}
