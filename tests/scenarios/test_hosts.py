"""Scenarios 9 and 10: many hosts, and one that is a black hole."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import socket
import threading
import types
from collections import Counter
from collections.abc import Iterator

import pytest

from sessionpool import Limits, SessionPool, Timeout
from sessionpool._connection import Route
from sessionpool._transport import MAX_ROUTES
from sessionpool.exceptions import ConnectTimeout, PoolTimeout, ReadTimeout
from tests.helpers import WatchedClock, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response
from tests.with_server.echo_server import CountingServer

FOR_EVER = Timeout(pool=None, read=None)


# --- 9: very many hosts ---


class Everywhere(CountingServer):
    """Counts the connections to all addresses of this machine.

    Before it counts one more than ever, it looks whether an end has been missed: on a busy machine the kernel may put
    off processing one until after the connection that the client opened next.
    """

    def __init__(self) -> None:
        super().__init__("0.0.0.0")

    def _accept(self, listener: socket.socket) -> None:
        before = self.most_open
        super()._accept(listener)
        for _ in range(20):
            if self.most_open == before:
                return
            self._stop.wait(0.001)
            self._read_ready()
            self.most_open = max(before, len(self._open))


def mentions(pool: SessionPool, text: str) -> list[str]:
    """Every string with `text` in it that can be reached from the pool, but for the transport's cache of routes."""
    assert pool._meter is not None
    pool._meter.fold()  # what has been written down of the last few calls and not been counted yet
    seen: set[int] = {id(pool._transport.routes)}
    todo: list[object] = [pool]
    found = []
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, (type, types.ModuleType, types.FunctionType, threading.Thread)):
            continue
        seen.add(id(each))
        if isinstance(each, str) and text in each:
            found.append(each)
        todo += gc.get_referents(each)
    return found


@pytest.mark.parametrize("limits", [Limits(total=50), Limits(per_host=1, total=10)], ids=["total 50", "total 10"])
def test_five_thousand_hosts_by_fifteen_threads(limits: Limits, scenario: Scenario) -> None:
    """Counted at the server there are never more connections than the total, each host is answered, and afterwards
    nothing is known of any of them."""
    hosts = [f"127.1.{number // 250}.{1 + number % 250}" for number in range(5000 if limits.total == 50 else 500)]
    clock = WatchedClock()
    pool = scenario.pool(limits=limits, timeout=FOR_EVER, clock=clock)
    with Everywhere() as server:
        upcoming = itertools.count()

        def work() -> int:
            answered = 0
            while (number := next(upcoming)) < len(hosts):
                answered += pool.get(f"http://{hosts[number]}:{server.port}/").content == b"ok"
            return answered

        calls = [in_thread(work) for _ in range(15)]
        answered = sum(call.get() for call in calls)
        stats = pool.stats()

        assert answered == len(hosts)
        assert server.accepted == server.requests == Counter(dict.fromkeys(hosts, 1))
        assert server.most_open == stats.peak == limits.total
        assert (stats.leased, stats.waiting, stats.idle, len(stats.hosts)) == (0, 0, limits.total, limits.total)
        clock.advance(61)
        pool.get(f"http://127.2.0.1:{server.port}/")
        assert list(pool.stats().hosts) == [f"http://127.2.0.1:{server.port}"]
        clock.advance(61)
        pool.get(f"http://127.3.0.1:{server.port}/", stream=True).close()
        eventually(lambda: len(server._open) <= 1)

        gc.collect()
        assert mentions(pool, "127.1.") == []
        assert len(pool._transport.routes) <= MAX_ROUTES


def test_the_routes_that_are_remembered_are_bounded(scenario: Scenario) -> None:
    """However many hosts there are, and none of them is forgotten to be reachable."""
    pool = scenario.pool()
    for number in range(MAX_ROUTES + 2):
        route = pool._transport.route(("http", f"{number}.example", 80), None, True, None)

        assert route.key == f"http://{number}.example:80"
    assert 0 < len(pool._transport.routes) <= MAX_ROUTES


def test_hosts_that_fail_leave_nothing(scenario: Scenario) -> None:
    """Nor does a host that could not be connected, or that was waited for in vain."""

    def refuse(route: Route) -> None:
        raise ConnectionRefusedError(route.host)

    pool = scenario.pool(Wire(connecting=refuse), limits=Limits(total=2), timeout=Timeout(pool=0, read=None))

    def work(first: int) -> None:
        for number in range(first, first + 100):
            with contextlib.suppress(ConnectionRefusedError, PoolTimeout):
                pool.get(f"http://h{number}.example/")

    calls = [in_thread(work, 100 * number) for number in range(5)]
    for call in calls:
        call.get()
    calls.clear()
    gc.collect()

    assert dict(pool.stats().hosts) == {}
    assert mentions(pool, ".example") == []


# --- 10: a black hole ---


class Hole:
    """A wire to hosts that answer, and to one that swallows: it never connects, or connects and never answers."""

    def __init__(self, swallows: str) -> None:
        self.filled = threading.Event()
        self.wire = Wire(answer=self.answer, connecting=self.connecting)
        self._swallows = swallows

    def connecting(self, route: Route) -> None:
        if route.host == "hole.example" and self._swallows == "connections":
            assert self.filled.wait(20)
            raise ConnectTimeout("at last")

    def answer(self, asked: Asked) -> bytes | None:
        return None if asked.host == "hole.example" else response()


@pytest.fixture(params=["connections", "requests"])
def hole(request: pytest.FixtureRequest) -> Iterator[Hole]:
    hole = Hole(request.param)
    yield hole
    hole.filled.set()


@pytest.mark.usefixtures("switch_interval")
def test_a_black_hole_does_not_hold_up_the_others(hole: Hole, scenario: Scenario) -> None:
    """Twenty threads are stuck at one host, four in it and the rest in its queue, in front of everybody else: the
    others' work, more than the total allows at once, is done meanwhile."""
    key = "http://hole.example:80"
    pool = scenario.pool(hole.wire, limits=Limits(per_host=4, total=6), timeout=FOR_EVER)
    stuck = [in_thread(pool.get, "http://hole.example/") for _ in range(20)]
    eventually(lambda: (pool.stats().hosts[key].leased, pool.stats().hosts[key].waiting) == (4, 16))

    def work(number: int) -> int:
        get = functools.partial(pool.get, headers={"X-Number": str(number)})
        return sum(get(f"http://{(number + turn) % 5}.example/").content == b"ok" for turn in range(40))

    calls = [in_thread(work, number) for number in range(8)]
    done = [call.get() for call in calls]
    host = pool.stats().hosts[key]

    assert done == [40] * 8
    assert (host.leased, host.waiting) == (4, 16)
    assert not any(call.is_done for call in stuck)
    assert hole.wire.most_by_key[key] == 4
    assert hole.wire.most_open == 6
    hole.filled.set()
    if hole.wire.open:
        pool.close(timeout=0)
    for call in stuck:
        call.join()
        assert call.error is not None


def test_who_is_stuck_in_a_black_hole_gets_out_by_its_time_outs(scenario: Scenario) -> None:
    """Those in it by `Timeout.read`, those in its queue by `Timeout.pool`, while the others are served."""
    clock = WatchedClock()
    hole = Hole("requests")
    pool = scenario.pool(hole.wire, limits=Limits(per_host=2, total=3), timeout=FOR_EVER, clock=clock)
    waiting = Timeout(pool=5, read=None)
    inside = [in_thread(pool.get, "http://hole.example/", timeout=Timeout(pool=5, read=0.3)) for _ in range(2)]
    eventually(lambda: len(hole.wire.requests) == 2 or all(call.is_done for call in inside))
    for call in inside:
        call.join()
    inside_for_ever = [in_thread(pool.get, "http://hole.example/") for _ in range(2)]
    eventually(lambda: len(hole.wire.requests) == 4)
    queued = [in_thread(pool.get, "http://hole.example/", timeout=waiting) for _ in range(10)]
    eventually(lambda: clock.waiters == 10)
    answers = [pool.get(f"http://{number}.example/").content for number in range(20)]
    clock.advance(5)
    for call in queued:
        call.join()
    host = pool.stats().hosts["http://hole.example:80"]
    pool.close(timeout=0)
    for call in inside_for_ever:
        call.join()

    assert {type(call.error) for call in inside} == {ReadTimeout}
    assert {type(call.error) for call in queued} == {PoolTimeout}
    assert answers == [b"ok"] * 20
    assert (host.leased, host.waiting) == (2, 0)
