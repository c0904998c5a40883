"""`pool.dump()`: what it tells of leases, waiters and connections, and how that reads at night."""

from __future__ import annotations

import contextlib
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from sessionpool import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Governor,
    Limits,
    Observer,
    RateLimit,
    RetryPolicy,
    SessionPool,
)
from sessionpool.exceptions import ConnectionError
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page


@pytest.fixture
def clock() -> FakeClock:
    """A clock of the package's own: in one of ours a waiting thread would be in our code."""
    return FakeClock()


@pytest.fixture
def make_pool(clock: FakeClock) -> Iterator[Callable[..., SessionPool]]:
    """Make pools on the clock, closed after the test."""
    pools: list[SessionPool] = []

    def make(**settings: Any) -> SessionPool:
        pools.append(SessionPool(**{"name": "crawl", "clock": clock, "retry": None, **settings}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(timeout=0)


@pytest.fixture
def pool(make_pool: Callable[..., SessionPool]) -> SessionPool:
    return make_pool()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def stall(server: EchoServer) -> Iterator[threading.Semaphore]:
    """`/stall` is answered once this is released; requests that have come there are counted on `server.seen`."""
    go_on = threading.Semaphore(0)

    def answer(seen: Seen) -> Answer:
        assert go_on.acquire(timeout=PATIENCE)
        return page("at last")

    server.answers["/stall"] = answer
    yield go_on
    go_on.release(1000)


def line_of(function: Callable[..., Any], text: str) -> str:
    """Where a line of a function is, as a dump tells it."""
    lines, first = inspect.getsourcelines(function)
    (number,) = [first + index for index, line in enumerate(lines) if text in line]
    return f"{__file__}:{number} in {function.__name__}"


class Parked:
    """A thread of a user's that holds what it took, until it may go on.

    Args:
        take: Called in the thread; what it returns is kept.
    """

    def __init__(self, take: Callable[[], Any], name: str = "worker") -> None:
        self._take = take
        self._go_on = threading.Event()
        self.taken: list[Any] = []
        self._thread = threading.Thread(target=self.park, name=name)

    def park(self) -> None:
        self.taken.append(self._take())
        assert self._go_on.wait(PATIENCE)

    def __enter__(self) -> Parked:
        self._thread.start()
        eventually(lambda: self.taken)
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._thread.join(PATIENCE)

    @property
    def ident(self) -> int | None:
        return self._thread.ident


# --- leases ---


def test_a_pool_that_does_nothing(pool: SessionPool) -> None:
    """One line."""
    dump = pool.dump()

    assert (list(dump.leases), list(dump.waiters), list(dump.connections)) == ([], [], [])
    assert (dump.name, dump.stats) == ("crawl", pool.stats())
    assert str(dump) == "pool 'crawl': 0 leases, 0 waiters, 0 of 100 connections open (0 leased, 0 idle)"


def test_every_lease_is_told(pool: SessionPool, clock: FakeClock) -> None:
    """The longest held first, with its key, its exact age and its thread; nested ones are one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pool.lease("ada"))
        clock.advance(1.5)
        stack.enter_context(pool.lease())
        stack.enter_context(pool.lease())
        clock.advance(2.25)
        worker = stack.enter_context(Parked(lambda: pool.lease(("account", 7)), "worker-3"))
        clock.advance(10)
        dump = pool.dump()
    here = threading.current_thread()

    assert [(lease.key, lease.age, lease.thread, lease.ident) for lease in dump.leases] == [
        ("ada", 13.75, here.name, here.ident),
        (None, 12.25, here.name, here.ident),
        (("account", 7), 10.0, "worker-3", worker.ident),
    ]
    assert not any(lease.ended for lease in dump.leases)


def test_where_a_thread_is_now_is_told_in_the_users_own_code(pool: SessionPool) -> None:
    """Not in the pool's or in the standard library's, which it may have called: that is nobody's to change."""

    def look() -> Any:
        return pool.dump()

    with Parked(lambda: pool.lease("ada")), pool.lease():
        dump = look()

    assert dump.leases[0].where == line_of(Parked.park, "self._go_on.wait")
    assert dump.leases[1].where == line_of(look, "pool.dump")


def test_a_thread_that_has_no_users_code_is_somewhere_too(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """An executor's thread that waits for work: a place in the standard library is better than none."""
    lease = elsewhere(pool.lease, "ada")
    eventually(lambda: "thread.py" in pool.dump().leases[0].where)
    lease.release()


def test_a_lease_whose_thread_has_ended(pool: SessionPool, server: EchoServer, stall: threading.Semaphore) -> None:
    """Only a response that others read outlives its thread: then that is told, and no place, for the thread's ident may
    be another's by now."""
    server.answers["/"] = Answer([b"one", b"two"])
    response = in_thread(pool.get, server.url, stream=True).get()
    others = [in_thread(stall.acquire) for _ in range(3)]  # they may get the ident
    (lease,) = pool.dump().leases
    text = str(pool.dump())
    for _ in others:
        stall.release()
    response.close()

    assert (lease.thread, lease.ended, lease.where) == ("get", True, "")
    assert "  lease 0.0 s: a thread's own or a fresh session, by get, which has ended\n" in text


def test_thousands_of_leases_are_told(pool: SessionPool, clock: FakeClock) -> None:
    """Each has its line."""
    leases = []
    for number in range(3000):
        leases.append(pool.lease(number))
        clock.advance(1)
    dump = pool.dump()
    for lease in leases:
        lease.release()

    assert [lease.key for lease in dump.leases] == list(range(3000))
    assert [lease.age for lease in dump.leases] == list(range(3000, 0, -1))
    assert len(str(dump).splitlines()) == 3001


# --- waiters ---


def test_who_waits_for_a_session_is_told(make_pool: Callable[..., SessionPool], clock: FakeClock) -> None:
    """For which, since when, and where it called from; a session of any kind has no name to tell."""
    pool = make_pool(limits=Limits(sessions=1))
    held = pool.lease("ada")

    def wait(key: str | None) -> None:
        pool.lease(key).release()

    with in_thread(wait, "ada") as first:
        eventually(lambda: pool._seats.stats().waiting == 1)
        clock.advance(2.5)
        with in_thread(wait, None) as second:
            eventually(lambda: pool._seats.stats().waiting == 2)
            clock.advance(0.25)
            dump = pool.dump()
            text = str(dump)
            held.release()
    where = line_of(wait, "pool.lease(key)")

    assert [attrs.astuple(waiter) for waiter in dump.waiters] == [
        ("the session of 'ada'", "wait", first.thread.ident, 2.75, where),
        ("a session", "wait", second.thread.ident, 0.25, where),
    ]
    assert f"  waiter 2.8 s: for the session of 'ada', wait at {where}\n" in text


def test_who_waits_for_a_connection_is_told(
    make_pool: Callable[..., SessionPool], clock: FakeClock, server: EchoServer, stall: threading.Semaphore
) -> None:
    """For which host; the counts of that host, with its limit, stand beside it."""
    pool = make_pool(limits=Limits(overrides={"127.0.0.1": 1}))
    with in_thread(pool.get, server.url + "/stall"):
        eventually(lambda: server.seen)
        with in_thread(pool.get, server.url + "/second") as second:
            eventually(lambda: pool.stats().waiting == 1)
            clock.advance(4)
            dump = pool.dump()
            text = str(dump)
            stall.release()

    (waiter,) = dump.waiters
    assert (waiter.what, waiter.ident, waiter.age) == (server.url, second.thread.ident, 4)
    assert f"  host {server.url}: 1 of 1 open (1 leased, 0 idle), 1 waiter\n" in text


# --- connections ---


def test_a_connection_in_use(
    pool: SessionPool, clock: FakeClock, server: EchoServer, stall: threading.Semaphore
) -> None:
    """Since when it is in use and since when it is open, how often it was used, by whom, and where that is."""
    pool.get(server.url)
    clock.advance(20)

    def fetch() -> None:
        pool.get(server.url + "/stall")

    with in_thread(fetch) as call:
        eventually(lambda: len(server.seen) == 2)
        clock.advance(3)
        (connection,) = pool.dump().connections
        stall.release()

    assert attrs.astuple(connection) == (
        *(server.url, "leased", 23, 3, 2, "fetch", call.thread.ident),
        line_of(fetch, "pool.get"),
    )


def test_an_idle_connection(pool: SessionPool, clock: FakeClock, server: EchoServer) -> None:
    """Nobody's."""
    pool.get(server.url)
    clock.advance(20)
    pool.get(server.url)
    clock.advance(5)
    (connection,) = pool.dump().connections

    assert attrs.astuple(connection) == (server.url, "idle", 25, 5, 2, "", None, "")


def test_a_connection_that_is_being_opened(pool: SessionPool, clock: FakeClock) -> None:
    """A handshake that hangs: the user's line is told, not the one of `ssl` that waits."""

    def fetch() -> None:
        pool.get(url, timeout=PATIENCE, verify=False)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with in_thread(fetch) as call:
            accepted, _ = listener.accept()
            clock.advance(3)
            (connection,) = pool.dump().connections
            accepted.close()

    assert isinstance(call.error, ConnectionError)
    assert attrs.astuple(connection) == (
        *(url, "opening", None, 3, 0, "fetch", call.thread.ident),
        line_of(fetch, "pool.get"),
    )


def test_a_connection_that_is_being_closed(
    make_pool: Callable[..., SessionPool], clock: FakeClock, server: EchoServer
) -> None:
    """It is open until that is done, and whoever closes it has not leased it."""
    closing, go_on = threading.Event(), threading.Event()

    class Slow(Observer):
        def closed(self, host: str, reason: str) -> None:
            closing.set()
            assert go_on.wait(PATIENCE)

    pool = make_pool(observer=Slow())
    pool.get(server.url)
    clock.advance(1)
    with in_thread(pool.refresh):
        assert closing.wait(PATIENCE)
        clock.advance(2)
        (connection,) = pool.dump().connections
        go_on.set()

    assert attrs.astuple(connection) == (server.url, "closing", 3, 2, 1, "", None, "")


def test_connections_of_ended_threads(pool: SessionPool, server: EchoServer) -> None:
    """A stream that nobody reads: whose it was is not known any more, and that is what is told."""
    server.answers["/"] = Answer([b"one", b"two"])
    response = in_thread(pool.get, server.url, stream=True).get()
    text = str(pool.dump())
    response.close()

    assert f"  connection leased 0.0 s: {server.url}, 0.0 s old, 1 use, by a thread that has ended" in text


# --- the whole ---


def test_a_dump_holds_no_secret(pool: SessionPool, server: EchoServer) -> None:
    """Neither passwords of a proxy nor those of a URL, nor paths and queries, headers and cookies."""
    proxy = server.url.replace("://", "://ada:s3cret@")
    server.answers["http://example.com/s3cret"] = page()
    with pool.lease() as session:
        session.headers["Authorization"] = session.cookies["s3cret"] = "s3cret"
        session.auth = ("ada", "s3cret")
        session.get("http://bob:s3cret@example.com/s3cret?token=s3cret", proxies={"http": proxy})
        dump = pool.dump()

    assert [connection.host for connection in dump.connections] == [f"http://example.com:80 via {server.url}"]
    assert "s3cret" not in str(dump) + repr(dump)
    assert "bob" not in str(dump) + repr(dump)


def test_a_suspended_pool_says_so(pool: SessionPool) -> None:
    """In the first line: it is why everything stands still."""
    pool.suspend()

    assert str(pool.dump()).startswith("pool 'crawl', suspended: nothing is granted before resume(): 0 leases, ")


def test_a_dump_reads_from_the_whole_to_the_parts(
    make_pool: Callable[..., SessionPool], clock: FakeClock, server: EchoServer, stall: threading.Semaphore
) -> None:
    """The pool, each host, then leases, waiters and connections, a line each: what to look for with `grep`."""
    pool = make_pool(limits=Limits(per_host=2, total=2))

    def fetch(key: str) -> None:
        with pool.lease(key) as session:
            session.get(server.url + "/stall")

    calls = []
    for key in ("ada", "bob"):
        calls.append(in_thread(fetch, key))
        eventually(lambda: len(server.seen) == len(calls))
        clock.advance(30)
    calls.append(in_thread(fetch, "eve"))
    eventually(lambda: pool.stats().waiting == 1)
    clock.advance(1)
    text = str(pool.dump())
    stall.release(3)
    for call in calls:
        call.get()
    at = line_of(fetch, "session.get")

    assert text.splitlines() == [
        "pool 'crawl': 3 leases, 1 waiter, 2 of 2 connections open (2 leased, 0 idle)",
        f"  host {server.url}: 2 of 2 open (2 leased, 0 idle), 1 waiter",
        f"  lease 61.0 s: the session of 'ada', by fetch at {at}",
        f"  lease 31.0 s: the session of 'bob', by fetch at {at}",
        f"  lease 1.0 s: the session of 'eve', by fetch at {at}",
        f"  waiter 1.0 s: for {server.url}, fetch at {at}",
        f"  connection leased 61.0 s: {server.url}, 61.0 s old, 1 use, by fetch at {at}",
        f"  connection leased 31.0 s: {server.url}, 31.0 s old, 1 use, by fetch at {at}",
    ]


def test_a_dump_tells_what_stats_tell(pool: SessionPool, server: EchoServer) -> None:
    """The same counts, those of sessions and of reclaimed leases too."""
    kept = in_thread(pool.lease).get()
    with pool.lease() as session:
        session.get(server.url)
        assert pool.dump().stats == pool.stats()
        assert (pool.dump().stats.sessions, pool.dump().stats.reclaimed) == (1, 1)
    kept.release()


def test_a_closed_pool_can_be_dumped(pool: SessionPool, elsewhere: Callable[..., Any]) -> None:
    """What is still held is what keeps it from ending."""
    lease = elsewhere(pool.lease, "ada")
    pool.close(timeout=0)

    assert [each.key for each in pool.dump().leases] == ["ada"]
    lease.release()


def test_a_host_that_is_held_back_is_told(make_pool: Callable[..., SessionPool], clock: FakeClock) -> None:
    """Why nothing goes to it, and how many threads pause meanwhile; of other hosts nothing is told."""
    governor = Governor(circuit=CircuitBreaker(failures=1, open=30), concurrency=AdaptiveConcurrency())
    busy = Answer(b"", 503, [("Retry-After", "40")])
    with EchoServer() as tired, EchoServer() as sick, EchoServer() as well:
        pool = make_pool(governor=governor, retry=RetryPolicy(retry_after_max=60))
        pool.limit_rate(well.url, RateLimit(rate=0.5))
        tired.answers["/"] = busy
        sick.answers["/"] = Answer(b"", 500)
        pool.get(tired.url, retry=None)
        pool.get(sick.url, retry=None)
        clock.advance(32)
        with in_thread(pool.get, sick.url) as probe:
            probe.join()
        with in_thread(pool.get, tired.url, retry=None):
            eventually(lambda: pool.stats().sleeping == 1)
            dump = pool.dump()
            lines = str(dump).splitlines()
            pool.close(timeout=0)

    assert dump.hosts.keys() == {tired.url, sick.url, well.url}
    assert ", 1 pausing" in lines[0]
    assert f"  host {tired.url}: cools down for another 8.0 s, circuit half-open, held to 1 connection" in lines
    assert f"  host {sick.url}: circuit open, held to 1 connection" in lines
    assert f"  host {well.url}: one request every 2 s" in lines
