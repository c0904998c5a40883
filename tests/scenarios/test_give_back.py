"""Scenarios 4, 6 and 7: whatever ends a request, a stream or a lease, what it held is back at once."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sessionpool import Limits, Response, SessionPool, Timeout
from sessionpool._clock import Baton
from sessionpool.exceptions import PoolDeadlockError, PoolTimeout, RequestException
from tests.helpers import Interrupt, WatchedClock, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Line, Wire, at_line, response

ONE = Limits(per_host=1)
URL = "http://a.example/"
AT_ONCE = Timeout(pool=0)
FOR_EVER = Timeout(pool=None, read=None)


# --- 4: errors at every step ---


class Failing:
    """A wire, and a clock to wait by, that fail once, at one step, with one error."""

    def __init__(self, step: str, error: BaseException) -> None:
        self.step = step
        self.error: BaseException | None = error
        self.before: Callable[[], object] = lambda: None
        self.received = 0
        self.wire = Wire(
            answer=self.answer,
            connecting=lambda _: self.at("connecting"),
            sending=lambda _: self.at("sending"),
            receiving=self.receive,
        )

    def at(self, step: str) -> None:
        if step == self.step and self.error is not None:
            error, self.error = self.error, None
            self.before()
            raise error

    def receive(self, _: Line) -> None:
        self.received += 1
        self.at("reading the head" if self.received == 1 else "reading the body")

    def answer(self, asked: Asked) -> bytes:
        return response(b"0123456789", length=10 if self.error is None else 20)


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize(
    "error", [ConnectionResetError("cut"), MemoryError(), Interrupt()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("step", ["connecting", "sending", "reading the head", "reading the body"])
def test_an_error_at_any_step_hands_the_permit_on(step: str, error: BaseException, scenario: Scenario) -> None:
    """Whoever waits for the only permit when its holder fails gets it, and gets an answer."""
    failing = Failing(step, error)
    failing.before = lambda: eventually(lambda: pool.stats().waiting == 1)
    pool = scenario.pool(failing.wire, limits=ONE, timeout=FOR_EVER)
    with in_thread(pool.get, URL) as failed:
        eventually(lambda: pool.stats().leased == 1)
        with in_thread(pool.get, URL) as waiter:
            pass

    translated = isinstance(error, OSError) and step != "connecting"  # the real connector translates as well
    expected = RequestException if translated else type(error)
    assert isinstance(failed.error, expected)
    assert waiter.get().content == b"0123456789"
    assert failing.wire.most_open == 1


class Interrupting(WatchedClock):
    """A clock by which one waits in vain, or not, and is interrupted either way."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def wait(self, baton: Baton, until: float) -> bool:
        when, self.when = self.when, ""
        if when == "in the queue":
            raise Interrupt
        served = super().wait(baton, until)
        if when == "just after the grant":
            assert served
            raise Interrupt
        return served


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("kind", ["a connection", "an identity"])
@pytest.mark.parametrize("when", ["in the queue", "just after the grant"])
def test_an_interrupt_of_a_waiter_hands_the_permit_on(when: str, kind: str, scenario: Scenario) -> None:
    """Whether it came before or after the grant: nothing is lost, and the next in the queue is served."""
    go = threading.Event()

    def answer(asked: Asked) -> bytes:
        assert asked.path != "/holder" or go.wait(20)
        return response()

    clock = Interrupting(when)
    pool = scenario.pool(Wire(answer=answer), limits=ONE, timeout=FOR_EVER, clock=clock)

    def ask(path: str) -> bytes:
        with pool.lease("ada" if kind == "an identity" else None) as session:
            return session.get(URL + path).content

    with in_thread(ask, "holder") as holder:
        eventually(lambda: pool.stats().leased == 1)
        first = in_thread(ask, "interrupted")
        eventually(lambda: clock.waiters == 1 or first.is_done)
        with in_thread(ask, "next") as following:
            eventually(lambda: clock.waiters >= 1)
            go.set()
        first.join()

    assert isinstance(first.error, Interrupt)
    assert (holder.get(), following.get()) == (b"ok", b"ok")


def get(pool: SessionPool) -> None:
    pool.get(URL)


def get_again(pool: SessionPool) -> None:
    pool.get(URL)
    pool.get(URL)


def get_elsewhere(pool: SessionPool) -> None:
    """By what has to make room."""
    pool.get(URL)
    pool.get("http://b.example/")


def post(pool: SessionPool) -> None:
    pool.post(URL, json={"a": 1})


def follow(pool: SessionPool) -> None:
    pool.get(URL + "elsewhere")


def read_a_stream(pool: SessionPool) -> None:
    assert b"".join(pool.get(URL, stream=True).iter_content(1)) == b"ok"


def leave_a_stream(pool: SessionPool) -> None:
    pool.get(URL, stream=True).close()


def lease_and_ask(pool: SessionPool) -> None:
    with pool.lease("ada") as session:
        session.get(URL)


def lease_a_fresh_one(pool: SessionPool) -> None:
    with pool.lease(fresh=True):
        pass


WAYS = [get, get_again, get_elsewhere, post, follow, read_a_stream, leave_a_stream]
LEASES = [lease_and_ask, lease_a_fresh_one]
LAYERS = ("_pool", "_session", "_messages", "_transport", "_gate", "_connection", "_wire")


def site(asked: Asked) -> bytes:
    if asked.path == "/elsewhere":
        return response(b"", "Location: http://b.example/", status="302 Found")
    return response()


def interrupt() -> None:
    raise Interrupt


@functools.cache
def interrupted_at_every_line(way: Callable[[SessionPool], None]) -> dict[str, list[str]]:
    """Do something in a new pool again and again, each time with an interrupt one line later.

    What was lost: permits, leases, connections that nobody closed; each with the lines that it was lost at.
    """
    lost: dict[str, list[str]] = {"permits": [], "leases": [], "connections": []}
    for number in itertools.count(1):
        wire = Wire(answer=site)
        pool = SessionPool(limits=Limits(per_host=1, total=1), trust_env=False, timeout=Timeout(pool=0, read=None))
        wire.plug_into(pool)
        try:
            with at_line(number, interrupt, *LAYERS, at_with=False) as point:
                way(pool)
        except Interrupt:
            pass
        if not point.where:
            pool.close()
            assert number > 10, "so few lines?"
            return lost
        gc.collect()
        stats, seats = pool.stats(), pool._seats.stats()
        if stats.leased or stats.waiting or any(host.leased for host in stats.hosts.values()):
            lost["permits"].append(point.where)
        if stats.sessions or seats.leased or seats.waiting:
            lost["leases"].append(point.where)
        pool.close(timeout=0)
        if wire.open:
            lost["connections"].append(point.where)
    raise AssertionError


unraisable = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of an interrupted finalizer


def names(way: Callable[..., Any]) -> str:
    return way.__name__


@unraisable
@pytest.mark.parametrize(
    "way",
    WAYS,
    ids=names,
)
def test_an_interrupt_at_any_line_gives_the_permit_back(way: Callable[[SessionPool], None], scenario: Scenario) -> None:
    """`KeyboardInterrupt` may come anywhere in a request; wherever it does, no host has a permit too few."""
    scenario.pool()

    assert interrupted_at_every_line(way)["permits"] == []


@unraisable
@pytest.mark.parametrize("way", [*WAYS, *LEASES], ids=names)
def test_an_interrupt_at_any_line_gives_the_lease_back(way: Callable[[SessionPool], None], scenario: Scenario) -> None:
    """Also in the midst of giving it back: the session, and an identity's seat, are the next one's."""
    scenario.pool()

    assert interrupted_at_every_line(way)["leases"] == []


@unraisable
@pytest.mark.parametrize("way", WAYS, ids=names)
def test_an_interrupt_at_any_line_closes_the_connection(way: Callable[[SessionPool], None], scenario: Scenario) -> None:
    """No socket is left to the collector: its permit is back, so for that long there would be one too many."""
    scenario.pool()

    assert interrupted_at_every_line(way)["connections"] == []


# --- 6: streams that nobody ends ---


def beginning(asked: Asked) -> bytes:
    """The beginning of a body, by which a stream stays open; or all of a short one."""
    return response(b"line 1\nline 2\nline", length=1000) if asked.path == "/stream" else response()


class Node:
    """Something that points to itself, so that only the collector finds it."""

    def __init__(self, *held: object) -> None:
        self.held = held
        self.self = self


def dropped(stream: Response) -> None:
    """Never looked at."""


def in_a_cycle(stream: Response) -> None:
    Node(stream)


def half_read(stream: Response) -> None:
    assert stream.raw.read1(3) == b"lin"


def half_read_in_a_cycle(stream: Response) -> None:
    assert stream.raw.read1(3) == b"lin"
    Node(stream, stream.raw)


def with_a_suspended_iterator(stream: Response) -> None:
    assert next(stream.iter_content(4)) == b"line"


def with_a_suspended_iterator_in_a_cycle(stream: Response) -> None:
    lines = stream.iter_lines(4)
    assert next(lines) == b"line 1"
    Node(lines)


def with_an_iterator_that_outlives_it(stream: Response) -> None:
    chunks = stream.iter_content(1)
    del stream
    assert next(chunks) == b"l"


def by_an_error_that_holds_it(stream: Response) -> None:
    try:
        assert stream.raw.read1(1) == b"x"
    except AssertionError as error:
        Node(error)


def by_who_made_a_callback_of_it(stream: Response) -> None:
    stream.callback = lambda: stream  # type: ignore[attr-defined]


def in_another_thread(stream: Response) -> None:
    in_thread(Node, stream).join().result = None


LOSSES = [
    dropped,
    in_a_cycle,
    half_read,
    half_read_in_a_cycle,
    with_a_suspended_iterator,
    with_a_suspended_iterator_in_a_cycle,
    with_an_iterator_that_outlives_it,
    by_an_error_that_holds_it,
    by_who_made_a_callback_of_it,
    in_another_thread,
]


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("leased", ["by the call", "by an identity"])
@pytest.mark.parametrize("lose", LOSSES, ids=names)
def test_a_stream_that_is_lost_serves_who_waits(
    lose: Callable[[Response], None], leased: str, scenario: Scenario
) -> None:
    """However it is lost: the collector gives its permit to the waiter, and its lease back; nobody calls the pool."""
    wire = Wire(answer=beginning)
    pool = scenario.pool(wire, limits=ONE, timeout=FOR_EVER)

    def ask_and_lose() -> None:
        if leased == "by the call":
            lose(pool.get(URL + "stream", stream=True))
        else:
            lease = pool.lease("ada")
            lose(lease.session.get(URL + "stream", stream=True))
            Node(lease)

    ready, go = threading.Event(), threading.Event()

    def hold_and_lose() -> None:
        with pool.lease("bob") as session:
            stream = session.get(URL + "stream", stream=True)
            ready.set()
            assert go.wait(20)
            stream.close()
        ask_and_lose()

    with in_thread(hold_and_lose) as losing:
        assert ready.wait(20)
        with in_thread(pool.get, URL) as first:
            eventually(lambda: pool.stats().waiting == 1)
            go.set()
            first.join()
            losing.join()
            with in_thread(pool.get, URL) as waiter:
                while not waiter.is_done:
                    gc.collect()
    gc.collect()
    with in_thread(pool.lease, "ada", timeout=0) as again:
        pass

    assert losing.error is None
    assert (first.get().content, waiter.get().content) == (b"ok", b"ok")
    again.get().release()
    assert wire.most_open == 1


@pytest.mark.usefixtures("switch_interval")
def test_streams_that_are_lost_by_the_hundred_cost_nobody_a_permit(scenario: Scenario) -> None:
    """Eight threads lose every stream they get, in each of the ways; eight others get all they ask for meanwhile."""
    wire = Wire(answer=beginning)
    pool = scenario.pool(wire, limits=Limits(per_host=4), timeout=FOR_EVER)
    losing = threading.Event()

    def lose(number: int) -> None:
        for turn in range(30):
            LOSSES[(number + turn) % len(LOSSES)](pool.get(URL + "stream", stream=True))

    def ask(_: int) -> int:
        return sum(pool.get(URL).content == b"ok" for _ in range(30))

    def collect() -> None:
        while not losing.is_set():
            gc.collect()

    collecting = in_thread(collect)
    losers = [in_thread(lose, number) for number in range(8)]
    others = [in_thread(ask, number) for number in range(8)]
    try:
        assert [call.get() for call in others] == [30] * 8
        assert [call.get() for call in losers] == [None] * 8
    finally:
        losing.set()
        collecting.join()
    gc.collect()
    for _ in range(4):
        with pool.lease(fresh=True) as session:
            assert session.get(URL, timeout=Timeout(pool=0)).content == b"ok"

    assert wire.most_open <= 4


# --- 7: the collector in every critical section ---


def everything(pool: SessionPool) -> None:
    """All that takes a lock, once."""
    get_again(pool)
    post(pool)
    pool.get(URL + "elsewhere")
    with pool.lease("bob") as session, pool.lease(fresh=True) as fresh:
        session.get(URL, stream=True)
        with contextlib.suppress(PoolTimeout):
            fresh.get(URL)
    for name in ("lost", "kept"):
        with contextlib.suppress(PoolTimeout, PoolDeadlockError):
            pool.lease(name, timeout=0).release()
    pool.stats()
    pool.close(timeout=0)


@unraisable
@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_the_collector_may_run_at_every_line(first: int, scenario: Scenario) -> None:
    """A stream and an identity's lease that were lost are found by the collector at this line, then at the next, under
    every lock that is taken: nothing hangs, and both are back."""

    def site_with_streams(asked: Asked) -> bytes:
        return beginning(asked) if asked.path == "/stream" else site(asked)

    def at_every_line() -> list[str]:
        lost: list[str] = []
        for number in itertools.count(first, 4):
            wire = Wire(answer=site_with_streams)
            limits = Limits(per_host=2, total=2, sessions=5)
            pool = SessionPool(limits=limits, trust_env=False, timeout=Timeout(pool=0, read=None))
            wire.plug_into(pool)
            kept = pool.lease("kept")
            garbage = [Node(pool.get(URL + "stream", stream=True), pool.lease("lost"))]

            def collect(garbage: list[Node] = garbage) -> None:
                garbage.clear()
                gc.collect()

            with at_line(number, collect, *LAYERS, "_ledger") as point:
                everything(pool)
            if not point.where:
                kept.release()
                gc.collect()
                assert number > 300, "so few lines?"
                return lost
            kept.release()
            stats, seats = pool.stats(), pool._seats.stats()
            if (stats.leased, stats.sessions, seats.leased, wire.open) != (0, 0, 0, 0):
                lost.append(point.where)
        raise AssertionError

    scenario.pool()
    gc.disable()
    try:
        lost = in_thread(at_every_line).get()
    finally:
        gc.enable()

    assert lost == []
