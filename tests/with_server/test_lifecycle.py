"""A pool's life over real sockets: resized, refreshed, warmed up, suspended and closed, counted at the servers."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme

from sessionpool import Limits, Observer, SessionPool, Timeout, TimeoutSettings
from sessionpool.exceptions import (
    ConnectError,
    ConnectionError,
    PoolClosed,
    PoolQueueFull,
    PoolTimeout,
    SSLError,
)
from tests.helpers import PATIENCE, InThread, eventually, in_thread
from tests.with_server.echo_server import Answer, CountingServer, EchoServer, Seen, page
from tests.with_server.test_proxy import Proxy


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """Echoes; `/serial` tells the number of the connection that it was asked over."""
    with EchoServer() as server:
        server.answers["/serial"] = lambda seen: page(str(seen.connection))
        yield server
        eventually(lambda: server.open == 0, within=5)  # a pool that was closed has left nothing open


class Held:
    """An answer that waits until the test lets it go; `arrived` counts those that came."""

    def __init__(self) -> None:
        self._go_on = threading.Semaphore(0)
        self._arrivals: list[Seen] = []

    @property
    def arrived(self) -> int:
        return len(self._arrivals)

    def __call__(self, seen: Seen) -> Answer:
        self._arrivals.append(seen)  # at once, where to count and then to note may be done by two in turn
        assert self._go_on.acquire(timeout=PATIENCE)
        return page("at last")

    def let_go(self, number: int = 1000) -> None:
        self._go_on.release(number)


@pytest.fixture
def held(server: EchoServer) -> Iterator[Held]:
    """What `/held` answers with."""
    held = Held()
    server.answers["/held"] = held
    yield held
    held.let_go()


class Census(CountingServer):
    """Writes down how many connections were open each time that it accepted some.

    Attributes:
        census: The most at each time.
    """

    def __init__(self, *hosts: str) -> None:
        super().__init__(*hosts)
        self.census: list[int] = []

    def _accept(self, listener: socket.socket) -> None:
        before, self.most_open = self.most_open, 0
        super()._accept(listener)
        self.census.append(self.most_open)
        self.most_open = max(before, self.most_open)


@contextlib.contextmanager
def load(pool: SessionPool, urls: list[str], threads: int = 12) -> Iterator[list[int]]:
    """Threads that ask until the block ends, each the URLs in turn; how many answers each has got."""
    answers = [0] * threads
    ended = threading.Event()

    def ask(number: int) -> None:
        for url in itertools.cycle(urls[number % len(urls) :] + urls[: number % len(urls)]):
            if ended.is_set():
                return
            assert pool.get(url).content == b"ok"
            answers[number] += 1

    calls = [in_thread(ask, number) for number in range(threads)]
    try:
        yield answers
    finally:
        pool.resume()
        ended.set()
        for call in calls:
            call.get()


def more(answers: list[int], number: int) -> None:
    """Wait until so many more requests have been answered."""
    before = sum(answers)
    eventually(lambda: sum(answers) >= before + number)


# --- resize ---


def test_the_limit_of_a_host_changes_under_load() -> None:
    """Raised, it is used to the full; lowered, it is never exceeded again once it has been reached. None fails."""
    with Census("127.0.0.1") as server, SessionPool(limits=Limits(per_host=3)) as pool:
        with load(pool, server.urls) as answers:
            for limit in (8, 2, 5, 1, 4):
                pool.resize(attrs.evolve(pool.limits, per_host=limit))
                eventually(lambda: open_of(pool) == limit)  # noqa: B023
                more(answers, 30)  # so that the server has written down what it accepted before
                mark = len(server.census)
                more(answers, 300)

                assert max(server.census[mark:], default=0) <= limit
                assert open_of(pool) == limit
        stats = pool.stats()

        assert sum(answers) == sum(server.requests.values())
        assert server.most_open <= stats.peak == 8
        assert sum(server.accepted.values()) == stats.opened


def open_of(pool: SessionPool) -> int:
    stats = pool.stats()
    return stats.leased + stats.idle


def test_the_total_changes_under_load() -> None:
    """The same over several hosts, whose connections make room for each other."""
    with Census("127.0.0.1", "127.0.0.2", "127.0.0.3") as server, SessionPool(limits=Limits(total=3)) as pool:
        with load(pool, server.urls) as answers:
            for total in (9, 2, 6, 1, 4):
                pool.resize(attrs.evolve(pool.limits, total=total))
                eventually(lambda: open_of(pool) == total)  # noqa: B023
                more(answers, 30)  # so that the server has written down what it accepted before
                mark = len(server.census)
                more(answers, 200)

                assert max(server.census[mark:], default=0) <= total
        stats = pool.stats()

        assert sum(answers) == sum(server.requests.values())
        assert server.most_open <= stats.peak == 9
        assert sum(server.accepted.values()) == stats.opened


def test_a_lowered_limit_interrupts_nobody(server: EchoServer, held: Held) -> None:
    """Requests under way are answered, their connections closed but for one, and who waited goes on over that."""
    with SessionPool(limits=Limits(per_host=4)) as pool:
        calls = [in_thread(pool.get, server.url + "/held") for _ in range(4)]
        eventually(lambda: held.arrived == 4)
        pool.resize(Limits(per_host=1))
        calls.append(in_thread(pool.get, server.url + "/serial"))
        eventually(lambda: pool.stats().waiting == 1)
        held.let_go()
        for call in calls:
            assert call.get().ok
        eventually(lambda: server.open == 1)

        assert server.accepted == 4
        assert (pool.stats().leased, pool.stats().idle) == (0, 1)


def test_a_lowered_limit_closes_idle_connections_at_once(server: EchoServer, held: Held) -> None:
    """Whoever resizes closes what is too much, and no more."""
    with SessionPool(limits=Limits(per_host=5)) as pool:
        assert pool.warm_up(server.url) == 5
        pool.resize(Limits(per_host=2))

        eventually(lambda: server.open == 2)
        assert pool.stats().idle == 2


# --- limits by host ---


def test_hosts_have_limits_of_their_own() -> None:
    """By exact name or by the end of it; the exact one wins, then the longest; they can be changed."""
    hosts = ("127.0.0.1", "127.0.0.2", "127.1.0.2", "127.1.1.1")
    overrides = {"127.0.0.1": 1, ".0.0.1": 9, ".0.2": 2, ".0.0.2": 3}
    with Census(*hosts) as server, SessionPool(limits=Limits(per_host=4, overrides=overrides)) as pool:
        opened = [pool.warm_up(url) for url in server.urls]
        eventually(lambda: sum(server.accepted.values()) == 10)
        assert opened == [1, 3, 2, 4]
        assert server.accepted == dict(zip(hosts, opened, strict=True))
        pool.resize(Limits(per_host=4, overrides={"127.0.0.2": 1}))
        limits = [pool.stats().hosts[url].limit for url in server.urls]
        idle = [pool.stats().hosts[url].idle for url in server.urls]

        assert limits == [4, 1, 4, 4]
        assert idle == [1, 1, 2, 4]


# --- refresh ---


def test_no_old_connection_is_used_after_a_refresh(server: EchoServer) -> None:
    """Under load: whatever is asked after `refresh` has come back goes over connections opened since it was called."""
    opened_before = [0]
    ended = threading.Event()

    def ask() -> list[tuple[int, int]]:
        seen = []
        while not ended.is_set():
            refreshed = len(opened_before) - 1
            seen.append((refreshed, int(pool.get(server.url + "/serial").text)))
        return seen

    with SessionPool(limits=Limits(per_host=4)) as pool:
        calls = [in_thread(ask) for _ in range(8)]
        for _ in range(20):
            answered = len(server.seen)
            eventually(lambda: len(server.seen) >= answered + 30)  # noqa: B023
            before = server.accepted
            pool.refresh()
            opened_before.append(before)
        ended.set()
        seen = [each for call in calls for each in call.get()]
        stats = pool.stats()

    assert all(serial > opened_before[refreshed] for refreshed, serial in seen)
    assert {refreshed for refreshed, _ in seen} >= set(range(15))
    assert stats.opened == server.accepted
    assert stats.peak <= 4


def test_a_refresh_interrupts_nobody(server: EchoServer, held: Held) -> None:
    """Idle connections are closed at once, those in use when their response has ended."""
    with SessionPool() as pool:
        call = in_thread(pool.get, server.url + "/held")
        eventually(lambda: held.arrived == 1)
        pool.get(server.url + "/serial")
        assert server.open == 2
        pool.refresh()
        eventually(lambda: server.open == 1)
        held.let_go()
        assert call.get().text == "at last"
        eventually(lambda: server.open == 0)

        assert pool.get(server.url + "/serial").text == "3"
        assert pool.stats().opened == 3


@attrs.frozen
class Authority:
    """An authority of certificates, and a server's context with one of its."""

    pem: bytes
    context: ssl.SSLContext

    @classmethod
    def make(cls) -> Authority:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return cls(authority.cert_pem.bytes(), context)


@pytest.fixture(scope="module")
def old() -> Authority:
    return Authority.make()


@pytest.fixture(scope="module")
def new() -> Authority:
    return Authority.make()


def test_a_refresh_reads_certificates_anew(old: Authority, new: Authority, tmp_path: Path) -> None:
    """A file of authorities that was replaced on disk counts from then on, for new handshakes and for all."""
    file = tmp_path / "authorities.pem"
    file.write_bytes(old.pem)
    with (
        EchoServer(tls=old.context) as first,
        EchoServer(tls=new.context) as second,
        SessionPool(verify=str(file)) as pool,
    ):
        assert pool.get(first.url).ok
        file.write_bytes(new.pem)
        assert pool.get(first.url).ok
        with pytest.raises(SSLError):
            pool.get(second.url)
        pool.refresh()
        assert pool.get(second.url).ok
        with pytest.raises(SSLError):
            pool.get(first.url)


def test_a_handshake_that_crosses_a_refresh(old: Authority, tmp_path: Path) -> None:
    """Begun while `refresh` runs, and perhaps with what the files held before, a connection carries the request it was
    opened for, and no other."""
    file = tmp_path / "authorities.pem"
    file.write_bytes(old.pem)
    accepted, go_on = threading.Event(), threading.Event()

    class Slow:
        """A context whose handshakes wait for the test."""

        def wrap_socket(self, sock: socket.socket, **kwargs: Any) -> ssl.SSLSocket:
            accepted.set()
            assert go_on.wait(PATIENCE)
            return old.context.wrap_socket(sock, **kwargs)

    with EchoServer(tls=Slow()) as server, SessionPool(verify=str(file)) as pool:  # type: ignore[arg-type]
        server.answers["/serial"] = lambda seen: page(str(seen.connection))
        calls: list[InThread[Any]] = []
        forget = pool._transport._connector.forget

        def connect_and_forget() -> None:
            calls.append(in_thread(pool.get, server.url + "/serial"))
            assert accepted.wait(PATIENCE)
            forget()

        pool._transport._connector.forget = connect_and_forget  # type: ignore[method-assign]
        pool.refresh()
        go_on.set()
        assert calls[0].get().text == "1"

        assert pool.get(server.url + "/serial").text == "2"


# --- warm_up ---


class Opened(Observer):
    """Counts connections opened, and closed before their time."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed_for: list[str] = []

    def connected(self, host: str, seconds: float) -> None:
        self.opened.append(host)

    def closed(self, host: str, reason: str) -> None:
        self.closed_for.append(reason)


@pytest.mark.parametrize(("asked", "opened"), [(None, 6), (1, 1), (4, 4), (6, 6), (60, 6)])
def test_connections_are_opened_before_they_are_needed(server: EchoServer, asked: int | None, opened: int) -> None:
    """As many as asked for and as fit; nothing is requested, and the first requests find them."""
    observer = Opened()
    with SessionPool(limits=Limits(per_host=6), observer=observer) as pool:
        assert pool.warm_up(server.url + "/any?page", asked) == opened
        eventually(lambda: server.open == server.accepted == opened)
        assert (server.seen, observer.closed_for) == ([], [])
        assert (pool.stats().leased, pool.stats().idle, pool.stats().opened) == (0, opened, opened)
        assert observer.opened == [server.url] * opened
        assert not [thread for thread in threading.enumerate() if "warm-up" in thread.name]
        pool.get(server.url)

        assert server.accepted == pool.stats().opened == opened
        assert pool.stats().reused == 1


def test_what_is_open_already_counts(server: EchoServer, held: Held) -> None:
    """In use or idle: the number is how many should be there in the end."""
    with SessionPool(limits=Limits(per_host=6)) as pool:
        call = in_thread(pool.get, server.url + "/held")
        eventually(lambda: held.arrived == 1)
        pool.get(server.url)
        assert pool.warm_up(server.url, 2) == 0
        assert pool.warm_up(server.url, 3) == 1
        assert pool.warm_up(server.url) == 3
        assert pool.warm_up(server.url) == 0
        held.let_go()

        assert call.get().ok
        eventually(lambda: server.accepted == 6)


def test_nothing_is_closed_for_a_warm_up(server: EchoServer) -> None:
    """Where the total binds, only what is free is opened; idle connections of others, and of other settings, stay."""
    observer = Opened()
    with (
        EchoServer() as other,
        SessionPool(limits=Limits(per_host=3, total=5), observer=observer) as pool,
    ):
        assert pool.warm_up(other.url) == 3
        assert pool.warm_up(server.url) == 2
        assert pool.warm_up(server.url) == 0

        eventually(lambda: (other.open, server.accepted) == (3, 2))
        assert observer.closed_for == []


def test_warm_ups_at_once_open_no_more_than_one(server: EchoServer) -> None:
    """Together they open what is missing, once, close nothing, and each says how many were its own."""
    observer = Opened()
    together = threading.Barrier(6)

    def warm_up() -> int:
        together.wait(PATIENCE)
        return pool.warm_up(server.url, 7)

    with SessionPool(limits=Limits(per_host=9), observer=observer) as pool:
        for round_ in range(1, 6):
            calls = [in_thread(warm_up) for _ in range(6)]
            assert sum(call.get() for call in calls) == 7
            assert (pool.stats().idle, pool.stats().opened) == (7, 7 * round_)
            assert set(observer.closed_for) <= {"expired"}
            pool.refresh()
        eventually(lambda: server.accepted == 35)


def test_a_warm_up_under_load_takes_nothing_from_anybody() -> None:
    """While others open and use connections of the same host, none is closed for it and the bound holds."""
    observer = Opened()
    with Census("127.0.0.1") as server, SessionPool(limits=Limits(per_host=5), observer=observer) as pool:
        with load(pool, server.urls, threads=4):
            for _ in range(30):
                pool.warm_up(server.urls[0])
                pool.refresh()
        stats = pool.stats()

        assert stats.peak <= 5
        assert server.most_open <= 5
        assert set(observer.closed_for) <= {"expired", "finished"}


def test_a_warm_up_shakes_hands(old: Authority, tmp_path: Path) -> None:
    """TLS is done when it comes back, with the pool's settings."""
    file = tmp_path / "authorities.pem"
    file.write_bytes(old.pem)
    with EchoServer(tls=old.context) as server:
        with SessionPool(verify=str(file)) as pool:
            assert pool.warm_up(server.url, 3) == 3
            eventually(lambda: server.open == 3 and all(isinstance(each, ssl.SSLSocket) for each in server._sockets))
            assert pool.get(server.url).ok
            assert server.accepted == 3
        with SessionPool() as distrusting, pytest.raises(SSLError):
            distrusting.warm_up(server.url, 3)


def test_a_warm_up_goes_through_the_proxy(server: EchoServer, old: Authority, tmp_path: Path) -> None:
    """As requests would: a plain connection to the proxy, or a tunnel with TLS in it."""
    file = tmp_path / "authorities.pem"
    file.write_bytes(old.pem)
    with (
        Proxy() as proxy,
        EchoServer(tls=old.context) as secure,
        SessionPool(proxies={"http": proxy.url, "https": proxy.url}, verify=str(file)) as pool,
    ):
        assert pool.warm_up(server.url, 2) == 2
        eventually(lambda: proxy.accepted == 2)
        assert (proxy.seen, server.accepted) == ([], 0)
        assert pool.warm_up(secure.url, 2) == 2
        eventually(lambda: secure.accepted == 2)
        assert [seen.method for seen in proxy.seen] == ["CONNECT", "CONNECT"]
        assert (pool.get(server.url).ok, pool.get(secure.url).ok) == (True, True)

        assert (proxy.accepted, pool.stats().opened) == (4, 4)


def test_a_warm_up_of_who_does_not_listen_says_so() -> None:
    """With the error that a request would raise; nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with SessionPool() as pool:
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
            pool.warm_up(f"http://127.0.0.1:{port}/", 3)

        assert (pool.stats().hosts, pool.stats().opened) == ({}, 0)
        assert not [thread for thread in threading.enumerate() if "warm-up" in thread.name]


def test_what_could_be_opened_stays(old: Authority, tmp_path: Path) -> None:
    """One handshake of three fails: that is raised, and two connections lie ready."""
    file = tmp_path / "authorities.pem"
    file.write_bytes(old.pem)
    handshakes = itertools.count()

    class Moody:
        def wrap_socket(self, sock: socket.socket, **kwargs: Any) -> ssl.SSLSocket:
            if next(handshakes) == 1:
                raise OSError
            return old.context.wrap_socket(sock, **kwargs)

    with EchoServer(tls=Moody()) as server, SessionPool(verify=str(file)) as pool:  # type: ignore[arg-type]
        with pytest.raises(ConnectionError):
            pool.warm_up(server.url, 3)

        assert (pool.stats().leased, pool.stats().idle) == (0, 2)


def test_a_warm_up_does_not_wait(server: EchoServer, held: Held) -> None:
    """Where nothing is free it opens nothing, whoever waits and however many may: also while suspended."""
    with SessionPool(limits=Limits(per_host=1, waiting=0)) as pool:
        call = in_thread(pool.get, server.url + "/held")
        eventually(lambda: held.arrived == 1)
        assert pool.warm_up(server.url) == 0
        held.let_go()
        assert call.get().ok
        pool.refresh()
        pool.suspend()
        assert pool.warm_up(server.url) == 0
        with pytest.raises(PoolQueueFull):
            pool.get(server.url)
        pool.resume()

        assert pool.warm_up(server.url) == 1


def test_a_closed_pool_is_not_warmed_up(server: EchoServer) -> None:
    """It says that it is closed, also if that happens meanwhile."""
    pool = SessionPool(name="crawl")
    pool.close()
    with pytest.raises(PoolClosed, match="'crawl' is closed"):
        pool.warm_up(server.url)
    with pytest.raises(PoolClosed, match="'crawl' is closed"):
        pool._transport.warm_up(pool._new_session().route_to(server.url), 1, TimeoutSettings())

    assert server.accepted == 0


def test_closing_ends_a_warm_up(old: Authority) -> None:
    """Handshakes that hang are cut off, and nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = SessionPool(timeout=Timeout(connect=PATIENCE))
        call = in_thread(pool.warm_up, f"https://127.0.0.1:{listener.getsockname()[1]}", 3)
        accepted = [listener.accept()[0] for _ in range(3)]
        pool.close(timeout=0)
        with pytest.raises(PoolClosed):
            call.get()
        for each in accepted:
            with each:
                while each.recv(65536):
                    pass

    assert pool.stats().hosts == {}


@pytest.mark.parametrize("connections", [0, -1, 1.5, True, "3"])
def test_what_is_no_number_of_connections_is_refused(server: EchoServer, connections: Any) -> None:
    """With what was given and what is wanted."""
    with (
        SessionPool() as pool,
        pytest.raises(ValueError, match="connections must be a whole number of at least 1; got"),
    ):
        pool.warm_up(server.url, connections)

    assert server.accepted == 0


# --- suspend and resume ---


def test_nothing_arrives_while_suspended() -> None:
    """Under load: once all is quiet the server hears nothing until `resume`, and then from everybody. None fails."""
    with Census("127.0.0.1", "127.0.0.2") as server, SessionPool(limits=Limits(per_host=3, total=4)) as pool:
        with load(pool, server.urls) as answers:
            for _ in range(5):
                more(answers, 100)
                pool.suspend()
                eventually(lambda: pool.stats().leased == 0 and pool.stats().waiting == 12)
                before = (sum(server.requests.values()), sum(server.accepted.values()))
                pool.refresh()
                pool.resize(pool.limits)
                assert pool.stats().waiting == 12
                assert (sum(server.requests.values()), sum(server.accepted.values())) == before
                pool.resume()
        stats = pool.stats()

        assert min(answers) > 0
        assert sum(answers) == sum(server.requests.values())
        assert server.most_open <= 4
        assert (stats.waiting, stats.leased, stats.suspended) == (0, 0, False)


def test_who_waited_while_suspended_goes_in_order(server: EchoServer) -> None:
    """First come, first served, whoever comes afterwards behind."""
    with SessionPool(limits=Limits(per_host=1)) as pool:
        pool.suspend()
        calls = []
        for number in range(8):
            calls.append(in_thread(pool.get, f"{server.url}/{number}"))
            eventually(lambda: pool.stats().waiting == len(calls))
        assert server.accepted == 0
        pool.resume()
        for call in calls:
            assert call.get().ok

    assert [seen.path for seen in server.seen] == [f"/{number}" for number in range(8)]
    assert server.accepted == 1


def test_what_is_under_way_is_not_suspended(server: EchoServer, held: Held) -> None:
    """It is answered, and that is how one knows that all is quiet; leases can be had all the while."""
    with SessionPool() as pool:
        call = in_thread(pool.get, server.url + "/held")
        eventually(lambda: held.arrived == 1)
        pool.suspend()
        assert pool.stats().leased == 1
        held.let_go()
        assert call.get().text == "at last"

        assert pool.stats().leased == 0
        with pool.lease("ada") as session:
            assert session is not None
        pool.resume()


def test_a_time_out_tells_of_the_suspension(server: EchoServer) -> None:
    """The host, the time, and why nothing came; nothing was sent."""
    with SessionPool(name="crawl", timeout=Timeout(pool=0.01)) as pool:
        pool.suspend()
        with pytest.raises(PoolTimeout) as caught:
            pool.get(server.url)
        pool.resume()
        assert pool.get(server.url).ok

    assert str(caught.value).startswith(f"no permit for {server.url} came free within ")
    assert "(Timeout.pool=0.01 s) in pool 'crawl': none open; " in str(caught.value)
    assert str(caught.value).endswith("; the pool is suspended")
    assert len(server.seen) == 1


def test_closing_a_suspended_pool(server: EchoServer) -> None:
    """Who waits for `resume` hears of it at once."""
    pool = SessionPool(limits=Limits(per_host=2))
    pool.get(server.url)
    pool.suspend()
    calls = [in_thread(pool.get, server.url) for _ in range(5)]
    eventually(lambda: pool.stats().waiting == 5)
    report = pool.close()
    for call in calls:
        with pytest.raises(PoolClosed):
            call.get()

    assert (report.waiters, report.idle, report.leases, report.cut) == (5, 1, 0, 0)
    assert len(server.seen) == 1


# --- the report of closing ---


@pytest.mark.parametrize("let_go", [True, False], ids=["answered", "cut"])
def test_the_report_of_closing_is_what_the_server_saw(server: EchoServer, held: Held, let_go: bool) -> None:
    """Idle connections closed, threads that waited, leases that were not given back, connections cut: each as many as
    there were."""
    pool = SessionPool(limits=Limits(per_host=3, overrides={"127.0.0.2": 4}))
    with EchoServer("127.0.0.2") as other:
        calls = [in_thread(pool.get, server.url + "/held") for _ in range(3)]
        eventually(lambda: held.arrived == 3)
        waiting = [in_thread(pool.get, server.url) for _ in range(5)]
        assert pool.warm_up(other.url) == 4
        eventually(lambda: pool.stats().waiting == 5 and other.open == 4)
        with in_thread(pool.close, PATIENCE if let_go else 0.0) as closing:
            eventually(lambda: other.open == 0)
            if let_go:
                held.let_go()
        report = closing.get()
        held.let_go()
        ends: list[Callable[[], Any]] = [call.join().get for call in calls]

    assert (report.idle, report.waiters, report.is_deferred) == (4, 5, False)
    assert report.cut == (0 if let_go else 3)
    # Without time those that waited may not have woken yet, and their leases count too.
    assert report.leases in ([0] if let_go else range(3, 3 + 5 + 1))
    for call in waiting:
        with pytest.raises(PoolClosed):
            call.get()
    for end in ends:
        if let_go:
            assert end().text == "at last"
        else:
            with pytest.raises(ConnectionError):
                end()
    eventually(lambda: server.open == 0)
    assert (server.accepted, other.accepted, len(server.seen), other.seen) == (3, 4, 3, [])
    assert pool.stats().hosts == {}
