"""A way out of every wait: `close()`, also by a signal's handler, Ctrl-C, and exceptions raised from another thread."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from sessionpool import Limits, SessionPool, Timeout, exceptions
from tests.helpers import Interrupt, InThread, eventually, in_thread
from tests.with_server.children import script
from tests.with_server.echo_server import Answer, EchoServer, Seen, page
from tests.with_server.raw_server import await_bytes, deaf_listener, discard, serving, silent_resolver, tell

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals as Unix has them")

# No limit ends a wait here, so whoever leaves one has been told to.
NO_LIMIT = Timeout(connect=None, read=None, pool=None)
# A slice of a wait is a second; the machine may be busy.
SOON = 8.0


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """Does not answer /never until the test is over."""
    over = threading.Event()

    def never(_: Seen) -> Answer:
        over.wait(60)
        return page()

    with EchoServer() as server:
        server.answers["/never"] = never
        yield server
        over.set()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context, and the file of who vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("trust") / "authority.pem"
    file.write_bytes(authority.cert_pem.bytes())
    return context, str(file)


@pytest.fixture
def secure_server(trust: tuple[ssl.SSLContext, str]) -> Iterator[EchoServer]:
    over = threading.Event()

    def never(_: Seen) -> Answer:
        over.wait(60)
        return page()

    with EchoServer(tls=trust[0]) as server:
        server.answers["/never"] = never
        yield server
        over.set()


def given_back(pool: SessionPool) -> bool:
    """Nothing is leased and nobody waits."""
    stats, seats = pool.stats(), pool._seats.stats()
    return (stats.leased, stats.waiting, stats.sessions, seats.leased, seats.waiting) == (0, 0, 0, 0, 0)


class Waits:
    """Ways to wait without a limit, each of which makes itself, and knows when it has begun.

    Each is a context: the call that waits, and whether it does.
    """

    Case = tuple[SessionPool, Callable[[], Any], Callable[[], bool]]

    def __init__(self, server: EchoServer, secure_server: EchoServer, authority: str) -> None:
        self.server = server
        self.secure_server = secure_server
        self.authority = authority

    @contextlib.contextmanager
    def permit(self) -> Iterator[Case]:
        with SessionPool(limits=Limits(per_host=1), timeout=NO_LIMIT, trust_env=False) as pool:
            go_on = threading.Event()
            self.server.answers["/slow"] = lambda _: (go_on.wait(20), page())[1]
            with in_thread(pool.get, self.server.url + "/slow"):
                eventually(lambda: pool.stats().leased == 1)
                yield pool, lambda: pool.get(self.server.url), lambda: pool.stats().waiting == 1
                assert pool.stats().waiting == 0
                go_on.set()

    @contextlib.contextmanager
    def identity(self) -> Iterator[Case]:
        with SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool:
            go_on = threading.Event()

            def hold() -> None:
                with pool.lease("ada"):
                    go_on.wait(20)

            with in_thread(hold):
                eventually(lambda: pool.stats().sessions == 1)
                yield pool, lambda: pool.lease("ada"), lambda: pool._seats.stats().waiting == 1
                assert pool._seats.stats().waiting == 0
                go_on.set()

    @contextlib.contextmanager
    def answer(self) -> Iterator[Case]:
        with SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool:
            begun = len(self.server.seen)
            yield pool, lambda: pool.get(self.server.url + "/never"), lambda: len(self.server.seen) > begun

    @contextlib.contextmanager
    def answer_over_tls(self) -> Iterator[Case]:
        server = self.secure_server
        with SessionPool(timeout=NO_LIMIT, retry=None, verify=self.authority, trust_env=False) as pool:
            begun = len(server.seen)
            yield pool, lambda: pool.get(server.url + "/never"), lambda: len(server.seen) > begun

    @contextlib.contextmanager
    def name(self) -> Iterator[Case]:
        with silent_resolver("silent.example") as resolver, SessionPool(timeout=NO_LIMIT, trust_env=False) as pool:
            yield pool, lambda: pool.get("http://silent.example/"), lambda: bool(resolver.asked)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Case]:
        with deaf_listener() as deaf, SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool:
            yield pool, lambda: pool.get(deaf), lambda: is_connecting(pool)

    @contextlib.contextmanager
    def handshake(self) -> Iterator[Case]:
        begun = threading.Event()
        with (
            serving([await_bytes, tell(begun), discard]) as stalling,
            SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool,
        ):
            url = f"https://127.0.0.1:{stalling.port}/"
            yield pool, lambda: pool.get(url), begun.is_set

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Case]:
        begun = threading.Event()
        with (
            serving([await_bytes, tell(begun), discard]) as stalling,
            SessionPool(timeout=NO_LIMIT, retry=None, proxies={"https": stalling.url}, trust_env=False) as pool,
        ):
            yield pool, lambda: pool.get("https://127.0.0.1:1/"), begun.is_set

    @contextlib.contextmanager
    def results(self, *, ordered: bool = False) -> Iterator[Case]:
        """The next of a `map`, whose workers are busy."""
        with SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool:
            url = self.server.url + "/never"

            def work() -> None:
                for _ in pool.map(lambda session, item: session.get(url), range(9), workers=2, ordered=ordered):
                    pass

            yield pool, work, lambda: pool.stats().leased == 2
            pool.close(timeout=0)  # what the workers have begun

    @contextlib.contextmanager
    def leases(self) -> Iterator[Case]:
        """In `close()`, for the leases of others."""
        with SessionPool(timeout=NO_LIMIT, retry=None, trust_env=False) as pool:
            go_on = threading.Event()

            def hold() -> None:
                with pool.lease("ada"):
                    go_on.wait(20)

            with in_thread(hold):
                eventually(lambda: pool.stats().sessions == 1)
                yield pool, lambda: pool.close(timeout=1e6), lambda: pool._closed
                go_on.set()


def is_connecting(pool: SessionPool) -> bool:
    """A socket of the pool's is being connected."""
    return any(dial._socket is not None for dial in list(pool._transport._connector._dialing))


@pytest.fixture
def waits(server: EchoServer, secure_server: EchoServer, trust: tuple[ssl.SSLContext, str]) -> Waits:
    return Waits(server, secure_server, trust[1])


OF_REQUESTS = ["name", "connection", "handshake", "proxy", "permit", "identity", "answer", "answer_over_tls"]
ALL = [*OF_REQUESTS, "results", "leases"]


@pytest.mark.parametrize("what", OF_REQUESTS)
def test_close_ends_every_wait_of_other_threads(what: str, waits: Waits) -> None:
    """Those that connect, whatever they wait for there, like those in a queue: no request was sent."""
    with getattr(waits, what)() as (pool, wait, is_waiting), in_thread(wait) as call:
        eventually(is_waiting)
        report = pool.close(timeout=0)
        eventually(lambda: call.is_done, within=SOON)

    expected = exceptions.ConnectionBroken if "answer" in what else exceptions.PoolClosed
    assert type(call.error) is expected
    assert "closed" in str(call.error)
    assert not report.is_deferred
    assert given_back(pool)


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """As a debugger, or a time-out of somebody's own, stops a thread."""
    assert thread.ident is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error)) == 1


@pytest.mark.parametrize("what", ALL)
def test_an_exception_from_another_thread_ends_every_wait(what: str, waits: Waits) -> None:
    """It comes out within the slice of the wait; what had been had is given back, and the pool works on."""
    with getattr(waits, what)() as (pool, wait, is_waiting), in_thread(wait) as call:
        eventually(is_waiting)
        raise_in(call.thread, Interrupt)
        eventually(lambda: call.is_done, within=SOON)
        if what not in ("results", "leases"):
            with pool.lease():
                pass

    assert isinstance(call.error, Interrupt)
    eventually(lambda: given_back(pool))


def when(is_waiting: Callable[[], bool], act: Callable[[], None]) -> InThread[None]:
    """In a thread of its own: `act` when the wait has begun."""

    def watch() -> None:
        eventually(is_waiting)
        act()

    return in_thread(watch)


@pytest.mark.parametrize("what", ALL)
def test_ctrl_c_ends_every_wait_of_the_main_thread(what: str, waits: Waits) -> None:
    """KeyboardInterrupt comes out at once, and the pool has everything back."""
    assert threading.current_thread() is threading.main_thread()
    main = threading.get_ident()
    with getattr(waits, what)() as (pool, wait, is_waiting):
        began = time.monotonic()
        with when(is_waiting, lambda: signal.pthread_kill(main, signal.SIGINT)), pytest.raises(KeyboardInterrupt):
            wait()
        seconds = time.monotonic() - began
        held_by_me = [permit for permit in pool._transport.disclose().leased if permit.thread == main]

    assert seconds < SOON
    assert held_by_me == []
    assert given_back(pool)


@pytest.mark.parametrize("what", ALL)
def test_a_signal_that_another_thread_gets_is_heard(what: str, waits: Waits) -> None:
    """Python notes it there, and runs its handler in the main thread, which nothing has woken."""
    with getattr(waits, what)() as (pool, wait, is_waiting):
        began = time.monotonic()
        with (
            when(is_waiting, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)),
            pytest.raises(KeyboardInterrupt),
        ):
            wait()
        seconds = time.monotonic() - began

    assert seconds < SOON
    assert given_back(pool)


# --- close() by a signal's handler ---

CLOSING = """
import faulthandler, random, signal, sys, threading, time
from concurrent.futures import CancelledError
from sessionpool import Limits, SessionPool, Timeout
from sessionpool.exceptions import ConnectionBroken, PoolClosed

url, what, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
fetch = lambda session, item: session.get(url)

def until(predicate):
    deadline = time.monotonic() + 15
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.0005)

def request(pool):
    pool.get(url)

def lease(pool):
    with pool.lease("ada"), pool.lease(fresh=True), pool.lease():
        pass

def submit(pool):
    futures = [pool.submit(fetch, number) for number in range(3)]
    if random.random() < 0.5:
        for future in futures:
            future.result()

def spread(pool):
    for _ in pool.map(fetch, range(4), workers=2):
        pass

def look(pool):
    pool.stats()
    pool.dump()
    pool.resize(Limits(per_host=random.choice([1, 2])))
    pool.lease().release()

works = {"request": request, "lease": lease, "submit": submit, "map": spread, "look": look}

def run(seed):
    random.seed(seed)
    pool = SessionPool(
        limits=Limits(per_host=2, sessions=random.choice([None, 8])), workers=2, timeout=Timeout(pool=None),
        leak_threshold=random.choice([None, 60]), trust_env=False,
    )
    reports = []
    signal.signal(signal.SIGALRM, lambda *_: reports.append(pool.close(timeout=0)))
    if random.random() < 0.3:
        # Somebody else is busy too, so that there is a queue.
        def hammer():
            try:
                while True:
                    pool.get(url)
                    with pool.lease("ada"):
                        pass
            except (PoolClosed, ConnectionBroken):
                pass
        hammering = threading.Thread(target=hammer)
        hammering.start()
    else:
        hammering = None
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.004))
    try:
        while True:
            works[what](pool)
    except (PoolClosed, ConnectionBroken, CancelledError):
        pass
    until(lambda: reports)
    if hammering:
        hammering.join(15)
        assert not hammering.is_alive()
    try:
        pool.lease()
    except PoolClosed:
        pass
    else:
        raise AssertionError("it is not closed")
    def empty():
        stats, seats = pool.stats(), pool._seats.stats()
        return not (stats.leased or stats.idle or stats.waiting or stats.sessions or seats.leased or seats.waiting)
    until(empty)
    until(lambda: not any(thread.name.endswith("-close") for thread in threading.enumerate()))
    return reports[0].is_deferred

faulthandler.dump_traceback_later(50, exit=True)
deferred = [run(seed) for seed in range(rounds)]
print(sum(deferred), len(deferred) - sum(deferred))
"""


@pytest.mark.parametrize("what", ["request", "lease", "submit", "map", "look"])
def test_close_by_a_handler_at_any_moment(what: str, server: EchoServer) -> None:
    """Whatever the main thread is about: nothing hangs, every pool ends closed, and no permit is lost."""
    ended = script("", CLOSING, server.url, what, "70", within=60)

    assert (ended.err, ended.code) == ("", 0)
    deferred, at_once = map(int, ended.out.split())
    assert deferred + at_once == 70
