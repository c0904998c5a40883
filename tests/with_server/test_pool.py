"""The pool over real sockets: who gets which session, how many connections the servers see, what observers are told."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
import urllib3.exceptions

from sessionpool import Limits, Observer, Response, Session, SessionPool, Timeout, exceptions
from sessionpool.cli._origin import OriginProcess, password_of
from tests.helpers import InThread, eventually, in_thread
from tests.with_server.echo_server import Answer, CountingServer, EchoServer, Seen, echo, page, redirect, set_cookies


@pytest.fixture(scope="module")
def _server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def server(_server: EchoServer) -> Iterator[EchoServer]:
    """Echoes, unless told otherwise."""
    _server.reset()
    yield _server
    try:
        eventually(lambda: _server.open == 0, within=5)  # a pool that was closed has left nothing open
    finally:
        _server.drop_connections()


@pytest.fixture
def origin() -> Iterator[OriginProcess]:
    """The demo's site, in a process of its own, which counts connections and judges cookies."""
    with OriginProcess.start() as origin:
        yield origin


class Held:
    """An answer that waits until the test lets it go.

    Attributes:
        arrived: Requests that wait here or have gone on.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer or page("at last")
        self._go_on = threading.Semaphore(0)
        self._arrivals: list[Seen] = []

    @property
    def arrived(self) -> int:
        return len(self._arrivals)

    def __call__(self, seen: Seen) -> Answer:
        self._arrivals.append(seen)  # at once, where to count and then to note may be done by two in turn
        assert self._go_on.acquire(timeout=20)
        return self._answer

    def let_go(self, number: int = 1000) -> None:
        self._go_on.release(number)


@contextlib.contextmanager
def threads(number: int, work: Callable[[int], Any]) -> Iterator[list[InThread[Any]]]:
    """Call `work` with 0, 1, ... in as many threads, and wait for their ends."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(in_thread(work, each)) for each in range(number)]


# --- users ---


def log_in(session: Session, url: str, user: str) -> None:
    form = session.get(url + "/login").text
    csrf = re.search(r'name="csrf" value="([^"]+)"', form)
    assert csrf is not None
    page = session.post(
        url + "/login",
        data={"csrf": csrf[1], "user": user, "password": password_of(user)},
        headers={"X-Demo-User": user},
    )
    assert f'<b id="user">{user}</b>' in page.text


@pytest.mark.slow
def test_no_cookie_crosses_and_none_is_lost(origin: OriginProcess) -> None:
    """32 threads as 32 users, 300 requests for each, every identity now in this thread, now in that.

    The origin is the judge: it knows whose cookie it gave to whom, and that nobody's went missing.
    """
    users = [f"user-{number}" for number in range(32)]
    carts = dict.fromkeys(users, 0)  # each changed only by the thread that holds the user's lease
    paths = ["/me", "/json", "/gzip", "/chunked", "/static/notes.txt", "/redirect/2"]

    def work(number: int) -> int:
        chance = random.Random(number)
        sent = 0
        for turn in range(30):
            user = users[(number * 7 + turn * 5) % 32]
            with pool.lease(user) as session:
                if not session.cookies:
                    log_in(session, origin.url, user)
                    session.headers["X-Demo-User"] = user
                for _ in range(8):
                    path = chance.choice(paths) if chance.random() > 0.03 else "/goodbye"
                    response = session.get(origin.url + path)
                    assert response.ok
                    assert path != "/me" or f'<b id="user">{user}</b>' in response.text
                carts[user] += 1
                assert session.get(f"{origin.url}/cart/add?item={turn}").json()["cart"] == carts[user]
                assert f'<b id="cart">{carts[user]}</b>' in session.get(origin.url + "/me").text
                sent += 10
        return sent

    with SessionPool(limits=Limits(per_host=8)) as pool:
        with threads(32, work) as calls:
            pass
        sent = sum(call.get() for call in calls)
        stats = pool.stats()
    counts = origin.counts()

    assert sent == 32 * 300
    assert (counts.crossed, counts.lost, counts.rejected) == (0, 0, 0), counts.faults
    assert set(carts.values()) == {30}
    assert counts.requests >= sent
    assert counts.most_open <= 8
    assert stats.opened == counts.accepted
    assert stats.opened + stats.reused == counts.requests


def test_an_identity_keeps_its_cookies_and_nobody_elses(server: EchoServer) -> None:
    """A named session is the same in every thread; a thread's own, a fresh one and another name know nothing of it."""
    server.answers["/set"] = set_cookies("a=1")

    def cookies(session: Session) -> dict[str, str]:
        said: dict[str, str] = session.get(server.url).json()["cookies"]
        return said

    def as_ada() -> dict[str, str]:
        with pool.lease("ada") as session:
            return cookies(session)

    with SessionPool() as pool:
        with pool.lease("ada") as session:
            session.get(server.url + "/set")
        with in_thread(as_ada) as elsewhere:
            pass
        found = [as_ada(), elsewhere.get()]
        with pool.lease() as own, pool.lease(fresh=True) as fresh, pool.lease("bob") as bob:
            others = [cookies(session) for session in (own, fresh, bob)]

    assert found == [{"a": "1"}] * 2
    assert others == [{}] * 3


def test_a_thread_has_its_own_session(server: EchoServer) -> None:
    """The same thread gets the same session again, nested or in turn, by lease or by verb; another thread another."""
    server.answers["/set"] = set_cookies("a=1")
    with SessionPool() as pool:
        with pool.lease() as session:
            with pool.lease() as nested:
                assert nested is session
            assert pool.stats().sessions == 1
            session.get(server.url + "/set")
        again = pool.get(server.url).json()["cookies"]
        with in_thread(pool.get, server.url) as other:
            pass

    assert again == {"a": "1"}
    assert other.get().json()["cookies"] == {}


def test_a_fresh_session_forgets(server: EchoServer) -> None:
    """`fresh=True` begins and ends blank, with the pool's defaults."""
    server.answers["/set"] = set_cookies("a=1")
    with SessionPool(headers={"X-Default": "1"}) as pool:
        for _ in range(2):
            with pool.lease(fresh=True) as session:
                said = session.get(server.url).json()
                session.get(server.url + "/set")
                session.headers["X-Mine"] = "1"

                assert said["cookies"] == {}
                assert dict(said["headers"])["X-Default"] == "1"
                assert "X-Mine" not in dict(said["headers"])


def test_the_pools_defaults_stay_as_they_were(server: EchoServer) -> None:
    """What a session changes of its headers, params, cookies and hooks the next one does not see."""
    with SessionPool(headers={"X-D": "1"}, params={"p": "1"}, cookies={"c": "1"}, hooks={"response": []}) as pool:
        with pool.lease(fresh=True) as session:
            session.headers["X-D"] = session.params["p"] = "2"
            session.cookies.set("c", "2")
            session.hooks["response"].append(lambda *_, **__: pytest.fail("another session's hook"))
        with pool.lease(fresh=True) as session:
            said = session.get(server.url).json()

    assert (dict(said["headers"])["X-D"], said["args"], said["cookies"]) == ("1", [["p", "1"]], {"c": "1"})


def test_an_identity_is_held_by_one_thread_at_a_time(server: EchoServer) -> None:
    """Threads that want the same identity wait their turn, first come first served."""
    order: list[int] = []

    def work(number: int) -> None:
        with pool.lease("ada") as session:
            order.append(number)
            session.get(server.url)

    with SessionPool() as pool:
        calls = []
        with pool.lease("ada"):
            for number in range(6):
                calls.append(in_thread(work, number))
                eventually(lambda: pool._seats.stats().waiting == len(calls))
            assert order == []
        for call in calls:
            call.get()

    assert order == list(range(6))


def test_what_one_holds_one_need_not_wait_for(server: EchoServer) -> None:
    """A thread that asks for the identity it holds is told at once, and goes on with what it has."""
    with SessionPool() as pool, pool.lease("ada") as session:
        with pytest.raises(exceptions.PoolDeadlockError, match="'ada'"):
            pool.lease("ada")
        assert session.get(server.url).ok


def test_waiting_for_an_identity_ends_in_time(server: EchoServer) -> None:
    """PoolTimeout says for what was waited and how long; the identity is not harmed."""
    with SessionPool() as pool:
        with pool.lease("ada") as session:
            with in_thread(pool.lease, "ada", timeout=0.05) as other:
                pass
            assert session.get(server.url).ok
        with pytest.raises(exceptions.PoolTimeout, match=r"'ada'.*0\.05"):
            other.get()
        with pool.lease("ada") as session:
            assert session.get(server.url).ok


def test_a_session_is_used_by_who_leased_it(server: EchoServer, elsewhere: Callable[..., Any]) -> None:
    """Another thread is told so, until the lease is transferred to it; the first may then no longer."""
    with SessionPool() as pool:
        lease = pool.lease()
        with in_thread(lease.session.get, server.url) as stranger:
            pass
        assert elsewhere(lambda: lease.transfer().get(server.url).ok)
        with pytest.raises(exceptions.WrongThreadError, match="transfer"):
            stranger.get()
        with pytest.raises(exceptions.WrongThreadError):
            lease.session.get(server.url)
        lease.release()

    assert len(server.seen) == 1


def test_a_released_session_is_no_longer_used(server: EchoServer) -> None:
    """LeaseReleasedError, whoever uses it; to release twice is harmless, to transfer then is not possible."""
    with SessionPool() as pool:
        lease = pool.lease()
        session = lease.session
        lease.release()
        lease.release()
        with pytest.raises(exceptions.LeaseReleasedError, match="fork"):
            session.get(server.url)
        with pytest.raises(exceptions.LeaseReleasedError):
            lease.transfer()

    assert server.seen == []


def test_a_lease_that_is_dropped_comes_back(server: EchoServer) -> None:
    """A lease that nobody holds any more gives its identity back by itself."""
    with SessionPool() as pool:
        lease = pool.lease("ada")
        lease.session.get(server.url)
        del lease
        gc.collect()
        with pool.lease("ada", timeout=0) as session:
            assert session.get(server.url).ok


def test_a_fork_outlives_the_lease(server: EchoServer) -> None:
    """Log in under a lease, go on in other threads with forks, over the pool's connections."""
    server.answers["/set"] = set_cookies("a=1")
    with SessionPool(limits=Limits(per_host=2)) as pool:
        with pool.lease("ada") as session:
            session.get(server.url + "/set")
            forks = [session.fork() for _ in range(4)]
        with threads(4, lambda number: forks[number].get(server.url).json()["cookies"]) as calls:
            pass

        assert [call.get() for call in calls] == [{"a": "1"}] * 4
        assert pool.stats().peak <= 2


def test_no_more_sessions_than_allowed(server: EchoServer) -> None:
    """`Limits(sessions=2)`: a third lease waits until one is returned."""
    held = Held()
    server.answers["/held"] = held
    with SessionPool(limits=Limits(sessions=2)) as pool:
        with threads(6, lambda _: pool.get(server.url + "/held").text) as calls:
            eventually(lambda: held.arrived == 2 and pool._seats.stats().waiting == 4)
            assert pool.stats().sessions == 2
            held.let_go()

        assert [call.get() for call in calls] == ["at last"] * 6


def test_a_thread_pool_of_ones_own(server: EchoServer) -> None:
    """A plain ThreadPoolExecutor around `lease(fresh=True)`: no task sees the cookies of the one before."""
    server.answers["/set"] = set_cookies("a=1")

    def task(number: int) -> dict[str, str]:
        with pool.lease(fresh=True) as session:
            before: dict[str, str] = session.get(server.url).json()["cookies"]
            session.get(server.url + "/set")
            return before

    with SessionPool(limits=Limits(per_host=4)) as pool, ThreadPoolExecutor(8) as executor:
        assert list(executor.map(task, range(40))) == [{}] * 40


# --- connections ---


@pytest.mark.slow
def test_never_more_connections_than_permits(origin: OriginProcess) -> None:
    """64 threads on 8 permits, 20,000 requests: the origin never sees a ninth connection, and eight are enough."""
    left = itertools.count()

    def work(_: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        with pool.lease() as session:
            while next(left) < 20_000:
                statuses[session.get(origin.url + "/static/style.css").status_code] += 1
        return statuses

    with SessionPool(limits=Limits(per_host=8)) as pool:
        with threads(64, work) as calls:
            pass
        statuses = sum((call.get() for call in calls), Counter[int]())
        stats = pool.stats()
    counts = origin.counts()

    assert statuses == {200: 20_000}
    assert counts.requests == 20_000
    assert counts.most_open <= 8
    assert counts.accepted == stats.opened == stats.peak == 8
    assert stats.reused == 20_000 - 8
    assert (stats.leased, stats.idle, stats.waiting) == (0, 8, 0)


@pytest.mark.slow
def test_the_total_holds_over_several_hosts() -> None:
    """Whatever hosts are asked for in whatever order, the servers together never see more than `total` connections."""
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")

    def work(number: int) -> int:
        chance = random.Random(number)
        return sum(pool.get(chance.choice(server.urls)).content == b"ok" for _ in range(150))

    with CountingServer(*hosts) as server:
        with SessionPool(limits=Limits(per_host=4, total=6)) as pool:
            with threads(16, work) as calls:
                pass
            stats = pool.stats()

        assert [call.get() for call in calls] == [150] * 16
        assert server.most_open <= 6
        assert stats.peak == 6
        assert sum(server.requests.values()) == 16 * 150
        assert sum(server.accepted.values()) == stats.opened
        assert sorted(server.accepted) == sorted(hosts)


def test_hosts_that_wait_for_the_total_are_served_in_turn() -> None:
    """One connection for all: the hosts take turns, however many wait for one of them."""
    served: list[str] = []

    def note(seen: Seen) -> Answer:
        served.append(seen.header("x-number") or "")
        return echo(seen)

    with contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(EchoServer(f"127.0.0.{n}")) for n in (1, 2, 3, 4)]
        held = Held()
        first.answers["/held"] = held
        for server in others:
            server.answers["/"] = note
        pool = stack.enter_context(SessionPool(limits=Limits(per_host=5, total=1)))
        calls = [in_thread(pool.get, first.url + "/held")]
        eventually(lambda: held.arrived == 1)
        for name, server in zip("bcd", others, strict=True):
            for number in range(3):
                calls.append(in_thread(pool.get, server.url, headers={"X-Number": f"{name}{number}"}))
                eventually(lambda: pool.stats().waiting == len(calls) - 1)
        held.let_go()
        for call in calls:
            assert call.get().ok

    assert served == ["b0", "c0", "d0", "b1", "c1", "d1", "b2", "c2", "d2"]


def test_a_limit_for_one_host(server: EchoServer) -> None:
    """`Limits.overrides` goes before `per_host` for the host it names."""
    held = Held()
    server.answers["/held"] = held
    limits = Limits(per_host=8, overrides={"127.0.0.1": 2})
    with SessionPool(limits=limits) as pool, threads(5, lambda _: pool.get(server.url + "/held").ok):
        eventually(lambda: held.arrived == 2 and pool.stats().waiting == 3)
        host = pool.stats().hosts[server.url]
        held.let_go()

    assert (host.leased, host.idle, host.waiting, host.limit) == (2, 0, 3, 2)


def test_waiting_for_a_connection_ends_in_time(server: EchoServer) -> None:
    """PoolTimeout says which host, how many are leased and waiting, and which setting it was; nothing was sent."""
    held = Held()
    server.answers["/held"] = held
    with SessionPool(name="crawl", limits=Limits(per_host=1), timeout=Timeout(pool=0.05)) as pool:
        with in_thread(pool.get, server.url + "/held") as call:
            eventually(lambda: held.arrived == 1)
            with pytest.raises(exceptions.PoolTimeout, match="1 of 1 leased") as raised:
                pool.get(server.url)
            held.let_go()

        assert call.get().ok
        assert pool.get(server.url).ok
    assert isinstance(raised.value, exceptions.NotSent)
    assert isinstance(raised.value, exceptions.Timeout)
    assert raised.value.stats is not None
    assert raised.value.stats.leased == 1
    for part in (server.url, "crawl", "Timeout.pool=0.05 s"):
        assert part in str(raised.value)
    assert len(server.seen) == 2


def test_no_more_may_wait_than_allowed(server: EchoServer) -> None:
    """`Limits(waiting=1)`: the second to wait is refused at once."""
    held = Held()
    server.answers["/held"] = held
    with SessionPool(limits=Limits(per_host=1, waiting=1)) as pool:
        with threads(2, lambda _: pool.get(server.url + "/held").ok):
            eventually(lambda: held.arrived == 1 and pool.stats().waiting == 1)
            with pytest.raises(exceptions.PoolQueueFull, match="waiting"):
                pool.get(server.url)
            held.let_go()
        assert pool.stats().sessions == 0


def test_the_shorthand_waits_for_nothing_of_its_own(server: EchoServer) -> None:
    """A request that fails gives lease and permit back, so that a pool of one can go on for ever."""
    server.answers["/loop"] = redirect("/loop")
    with SessionPool(limits=Limits(per_host=1, sessions=1), timeout=Timeout(pool=1), max_redirects=2) as pool:
        for _ in range(3):
            with pytest.raises(exceptions.TooManyRedirects):
                pool.get(server.url + "/loop", stream=True)
            with pytest.raises(exceptions.InvalidURL):
                pool.get("http://h:port/")
            with pytest.raises(exceptions.ConnectError):
                pool.get("http://127.0.0.1:1/")
            assert pool.get(server.url).ok
            stats = pool.stats()
            assert (stats.leased, stats.sessions) == (0, 0)


# --- streams ---

LARGE = Answer(b"x" * 1_000_000)


def test_a_stream_holds_its_lease_until_it_is_read(server: EchoServer) -> None:
    """`pool.get(stream=True)` returns at the head; connection and lease come back with the last byte."""
    server.answers["/large"] = LARGE
    with SessionPool() as pool:
        response = pool.get(server.url + "/large", stream=True)
        held = pool.stats()
        body = b"".join(response.iter_content(65536))
        free = pool.stats()

    assert body == LARGE.body
    assert (held.leased, held.sessions) == (1, 1)
    assert (free.leased, free.idle, free.sessions) == (0, 1, 0)


def test_a_stream_holds_its_lease_until_it_is_closed(server: EchoServer) -> None:
    """Closing early gives the lease back; the connection, with unread bytes on it, is not kept."""
    server.answers["/large"] = LARGE
    with SessionPool() as pool:
        with pool.get(server.url + "/large", stream=True) as response:
            assert next(response.iter_content(10)) == b"x" * 10
            held = pool.stats()
        free = pool.stats()

        assert (held.leased, held.sessions) == (1, 1)
        assert (free.leased, free.idle, free.sessions) == (0, 0, 0)
        assert pool.get(server.url).json()["method"] == "GET"


def test_a_stream_holds_its_lease_until_it_is_dropped(server: EchoServer) -> None:
    """A response that nobody holds any more gives everything back."""
    server.answers["/large"] = LARGE
    with SessionPool(limits=Limits(per_host=1, sessions=1), timeout=Timeout(pool=1)) as pool:
        for _ in range(3):
            response = pool.get(server.url + "/large", stream=True)
            assert pool.stats().sessions == 1
            del response
            gc.collect()
        stats = pool.stats()

    assert (stats.leased, stats.idle, stats.sessions) == (0, 0, 0)


@pytest.mark.parametrize("answer", [Answer(), Answer(status=204), Answer([])], ids=["empty", "204", "empty chunked"])
def test_a_stream_without_a_body(answer: Answer, server: EchoServer) -> None:
    """What has no body holds nothing, or no longer than its end is awaited."""
    server.answers["/empty"] = answer
    with SessionPool() as pool:
        response = pool.get(server.url + "/empty", stream=True)
        assert response.content == b""
        stats = pool.stats()

    assert (stats.leased, stats.idle, stats.sessions) == (0, 1, 0)


def test_streams_share_their_threads_session(server: EchoServer) -> None:
    """Two streams of one thread are of one session, which is returned with the later one; other calls go on beside."""
    server.answers["/large"] = LARGE
    with SessionPool() as pool:
        one, two = (pool.get(server.url + "/large", stream=True) for _ in range(2))
        assert pool.stats().sessions == 1
        assert pool.get(server.url).ok
        one.close()
        assert pool.stats().sessions == 1
        rest = two.content
        stats = pool.stats()

    assert rest == LARGE.body
    assert (stats.leased, stats.sessions) == (0, 0)


def test_leases_of_one_thread_may_end_in_any_order(server: EchoServer) -> None:
    """The session is returned when the last lease has ended, whichever it is, and close() waits for none of them."""
    pool = SessionPool()
    leases = [pool.lease() for _ in range(3)]
    counts = []
    for lease in leases:  # the outermost first
        lease.release()
        counts.append(pool.stats().sessions)
    report = pool.close(timeout=0.05)

    assert counts == [1, 1, 0]
    assert report.leases == 0


def test_a_stream_may_be_read_elsewhere(server: EchoServer) -> None:
    """Another thread may read what this one asked for; the lease comes back all the same."""
    server.answers["/large"] = LARGE
    with SessionPool() as pool:
        response = pool.get(server.url + "/large", stream=True)
        with in_thread(lambda: response.content) as reader:
            pass
        stats = pool.stats()

        assert reader.get() == LARGE.body
        assert (stats.leased, stats.sessions) == (0, 0)
        assert pool.get(server.url).ok


FRAMED = {
    "length": LARGE,
    "chunks": Answer([b"x" * 100_000] * 10),
    "end": Answer(b"x" * 1_000_000, headers=[("Connection", "close"), ("Transfer-Encoding", "identity")]),
}
READING: dict[str, Callable[[Response], Any]] = {
    "content": lambda response: response.content,
    "iter_content": lambda response: list(response.iter_content(65536)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "raw.read": lambda response: response.raw.read(),
    "raw.stream": lambda response: list(response.raw.stream()),
}


@pytest.mark.parametrize("read", READING.values(), ids=READING)
@pytest.mark.parametrize("answer", FRAMED.values(), ids=FRAMED)
def test_releasing_a_lease_ends_its_streams(
    answer: Answer, read: Callable[[Response], Any], server: EchoServer
) -> None:
    """The connection comes back with the lease, and reading then is an error, never a body that seems to have ended."""
    server.answers["/large"] = answer
    with SessionPool() as pool:
        with pool.lease() as session:
            response = session.get(server.url + "/large", stream=True)
            assert pool.stats().leased == 1
        stats = pool.stats()

        assert (stats.leased, stats.sessions) == (0, 0)
        with pytest.raises((exceptions.RequestException, urllib3.exceptions.HTTPError)):  # `raw` is urllib3's
            read(response)


@pytest.mark.parametrize("answer", FRAMED.values(), ids=FRAMED)
def test_a_stream_that_is_being_read_does_not_seem_to_end(answer: Answer, server: EchoServer) -> None:
    """Who is half through a body when the lease ends gets an error, not half a body."""
    server.answers["/large"] = answer
    with SessionPool() as pool:
        with pool.lease() as session:
            pieces = session.get(server.url + "/large", stream=True).iter_content(1000)
            assert next(pieces)

        with pytest.raises(exceptions.RequestException):
            list(pieces)


def test_what_was_read_before_the_release_stays(server: EchoServer) -> None:
    """A response whose body has been read outlives the lease."""
    with SessionPool() as pool:
        with pool.lease() as session:
            response = session.get(server.url)
            stream = session.get(server.url, stream=True)
            assert stream.content
        assert response.json() == stream.json()


# --- many items ---


def fetch(session: Session, url: str) -> tuple[str, int]:
    response = session.get(url)
    response.raise_for_status()
    return url, response.status_code


def test_map_gives_every_result(server: EchoServer) -> None:
    """Each item once, as they finish or in their order, over no more connections than allowed."""
    urls = [f"{server.url}/{number}" for number in range(100)]
    with SessionPool(limits=Limits(per_host=4), workers=8) as pool:
        finished = list(pool.map(fetch, urls))
        ordered = list(pool.map(fetch, iter(urls), workers=3, ordered=True))
        stats = pool.stats()

    assert sorted(finished) == sorted(ordered)
    assert ordered == [(url, 200) for url in urls]
    assert Counter(seen.path for seen in server.seen) == dict.fromkeys([f"/{number}" for number in range(100)], 2)
    assert stats.peak <= 4
    assert stats.sessions == 0


def test_map_does_not_wait_for_the_slowest(server: EchoServer) -> None:
    """Results come as they finish; in order only if that was asked for."""
    held = Held()
    server.answers["/slow"] = held
    urls = [server.url + "/slow", *(f"{server.url}/{number}" for number in range(5))]
    with SessionPool() as pool:
        results = pool.map(fetch, urls, workers=2)
        early = [next(results) for _ in range(5)]
        held.let_go()
        last = list(results)

    assert {url for url, _ in early} == set(urls[1:])
    assert last == [(urls[0], 200)]


def test_map_takes_no_more_items_than_it_can_use(server: EchoServer) -> None:
    """Of endless items only a few are taken ahead: two per worker."""
    taken = itertools.count()
    with SessionPool() as pool:
        results = pool.map(fetch, (f"{server.url}/{next(taken)}" for _ in itertools.count()), workers=3)
        some = [next(results) for _ in range(20)]
        results.close()
        eventually(lambda: pool.stats().sessions == 0)

    assert len(set(some)) == 20
    assert next(taken) <= 20 + 2 * 3


def test_map_names_the_item_that_failed(server: EchoServer) -> None:
    """The exception carries the item, and its note the URL without what may be secret; no further items are begun."""
    server.answers["/3"] = Answer(b"gone", 404)
    urls = [f"{server.url}/{number}?token=s3cret" for number in range(1000)]
    with SessionPool() as pool, pytest.raises(exceptions.HTTPError, match="404") as raised:
        list(pool.map(fetch, urls, workers=2))

    assert getattr(raised.value, "item", None) == urls[3]
    assert f"{server.url}/3" in "".join(raised.value.__notes__)
    assert "s3cret" not in "".join(raised.value.__notes__)
    assert len(server.seen) < 100


def test_map_may_give_errors_as_results(server: EchoServer) -> None:
    """With `return_exceptions` all items are worked on, and each error names its own."""
    server.answers |= {f"/{number}": Answer(b"gone", 410) for number in range(0, 30, 3)}
    urls = [f"{server.url}/{number}" for number in range(30)]
    with SessionPool() as pool:
        results = list(pool.map(fetch, urls, ordered=True, return_exceptions=True))
    failed: list[Any] = [result for result in results if isinstance(result, exceptions.HTTPError)]

    assert len(results) == 30
    assert [error.item for error in failed] == urls[::3]
    assert [error.response.status_code for error in failed] == [410] * 10


def test_map_under_an_identity_per_item(server: EchoServer) -> None:
    """`key` gives each item its identity: cookies follow the name, in whatever thread."""

    def visit(session: Session, item: tuple[str, int]) -> tuple[str, list[tuple[str, str]]]:
        user, number = item
        had = session.cookies.items()
        session.cookies.set(f"{user}{number}", "1")
        session.get(server.url)
        return user, had

    items = [(user, number) for number in range(5) for user in ("ada", "bob", "eve")]
    with SessionPool() as pool:
        results = list(pool.map(visit, items, workers=6, key=lambda item: item[0]))

    for user in ("ada", "bob", "eve"):
        sizes = sorted(len(had) for name, had in results if name == user)
        assert sizes == [0, 1, 2, 3, 4]
        assert all(cookie.startswith(user) for name, had in results if name == user for cookie, _ in had)


def test_map_with_a_fresh_session_per_item(server: EchoServer) -> None:
    """`fresh` gives each item a blank session; without it items of one thread share its cookies."""
    server.answers["/"] = set_cookies("a=1")

    def visit(session: Session, _: int) -> int:
        before = len(session.cookies)
        session.get(server.url)
        return before

    with SessionPool() as pool:
        fresh = list(pool.map(visit, range(10), workers=2, fresh=True))
        shared = list(pool.map(visit, range(10), workers=2))

    assert fresh == [0] * 10
    assert 8 <= sum(shared) <= 9


def test_map_that_is_not_read_to_its_end_leaves_nothing(server: EchoServer) -> None:
    """Who stops iterating leaves no thread, no lease and no permit behind."""
    with SessionPool() as pool:
        for url, _ in pool.map(fetch, (f"{server.url}/{number}" for number in itertools.count()), workers=4):
            if url.endswith("/10"):
                break
        gc.collect()
        eventually(lambda: pool.stats().sessions == 0)

        assert pool.stats().leased == 0


def test_map_in_a_map(server: EchoServer) -> None:
    """A worker may map itself: it holds its session meanwhile, and no permit."""

    def outer(session: Session, number: int) -> int:
        session.get(server.url)
        return len(list(pool.map(fetch, [f"{server.url}/{number}/{each}" for each in range(5)], workers=2)))

    with SessionPool(limits=Limits(per_host=1)) as pool:
        assert list(pool.map(outer, range(6), workers=3)) == [5] * 6


def test_submit_gives_a_future(server: EchoServer) -> None:
    """The result, or the exception with the item; under an identity, or fresh."""
    server.answers["/gone"] = Answer(b"gone", 404)
    with SessionPool(workers=2) as pool:
        good = [pool.submit(fetch, f"{server.url}/{number}") for number in range(10)]
        bad = pool.submit(fetch, server.url + "/gone", key="ada")
        error: Any = bad.exception(20)
        fresh = pool.submit(lambda session, item: len(session.cookies), 1, fresh=True)

        assert [future.result(20) for future in good] == [(f"{server.url}/{number}", 200) for number in range(10)]
        assert isinstance(error, exceptions.HTTPError)
        assert error.item == server.url + "/gone"  # type: ignore[attr-defined]  # set by submit
        assert fresh.result(20) == 0
        assert pool.stats().sessions == 0


# --- observers ---


class Tally(Observer):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def waited(self, *args: Any) -> None:
        self.events.append(("waited", *args))

    def connected(self, *args: Any) -> None:
        self.events.append(("connected", *args))

    def closed(self, *args: Any) -> None:
        self.events.append(("closed", *args))

    def responded(self, *args: Any) -> None:
        self.events.append(("responded", *args))

    def failed(self, *args: Any) -> None:
        self.events.append(("failed", *args))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == name]


def test_what_is_observed_adds_up_to_what_the_server_saw(origin: OriginProcess) -> None:
    """Every request, connection, end and byte is told once."""
    tally = Tally()
    paths = ["/json", "/goodbye", "/redirect/2", "/static/notes.txt", "/chunked", "/gzip", "/static/missing"]
    urls = [origin.url + paths[number % len(paths)] for number in range(350)]
    with SessionPool(limits=Limits(per_host=4), observer=tally) as pool:
        responses: list[Response] = list(pool.map(lambda session, url: session.get(url), urls, workers=8))
        stats = pool.stats()
    counts = origin.counts()
    hops = [hop for response in responses for hop in (*response.history, response)]

    assert len(tally.of("responded")) == counts.requests == len(hops)
    assert Counter(status for _, _, status, *_ in tally.of("responded")) == Counter(hop.status_code for hop in hops)
    assert len(tally.of("waited")) == counts.requests
    assert len(tally.of("connected")) == counts.accepted == stats.opened
    assert stats.reused == counts.requests - counts.accepted
    closed = Counter(reason for _, reason in tally.of("closed"))
    assert closed["finished"] == counts.asked_to_close == 50
    assert closed.total() == counts.accepted
    assert closed.keys() == {"finished", "shutdown"}
    assert tally.of("failed") == []
    assert {event[1] for event in tally.of("responded")} == {origin.url}
    assert {event[0] for name in ("waited", "connected", "closed") for event in tally.of(name)} == {origin.url}
    assert sum(event[5] for event in tally.of("responded")) == sum(
        int(hop.headers["content-length"]) if "content-length" in hop.headers else len(hop.content) for hop in hops
    )
    assert all(event[3] > 0 for event in tally.of("responded"))
    assert all(event[4] > 50 for event in tally.of("responded"))


def test_what_is_sent_is_counted(server: EchoServer) -> None:
    """`sent` is head and body in bytes, in chunks or whole; a stream's `received` is 0, for nobody knows it yet."""
    tally = Tally()
    with SessionPool(observer=tally) as pool:
        for data in (b"x" * 1000, iter([b"x" * 600, b"x" * 400])):
            pool.post(server.url, data=data)
        pool.get(server.url, stream=True).close()
    whole, chunked, stream = tally.of("responded")

    assert 1000 < whole[4] < 1500
    assert 1000 < chunked[4] < 1500
    assert whole[5] > 1000
    assert stream[5] == 0


def test_a_failure_is_told(server: EchoServer) -> None:
    """A request that raises is told with its error and host, once; nobody responded."""
    tally = Tally()
    with SessionPool(observer=tally, retry=None) as pool, pytest.raises(exceptions.ConnectError) as raised:
        pool.get("http://127.0.0.1:1/")
    ((method, host, error, seconds),) = tally.of("failed")

    assert (method, host, error) == ("GET", "http://127.0.0.1:1", raised.value)
    assert seconds >= 0
    assert tally.of("responded") == []


@pytest.mark.parametrize("event", ["waited", "connected", "closed", "responded", "failed"])
def test_an_observer_that_raises_is_dropped(event: str, server: EchoServer, caplog: pytest.LogCaptureFixture) -> None:
    """One log line; requests are answered as if nobody watched, nothing is lost, and the observer is called no more."""
    tally = Tally()
    told: list[str] = []

    def fail(*args: Any) -> None:
        told.append(event)
        raise RuntimeError("the observer's own fault")

    setattr(tally, event, fail)
    with caplog.at_level(logging.DEBUG, "sessionpool"), SessionPool(limits=Limits(per_host=1), observer=tally) as pool:
        for _ in range(3):
            with pytest.raises(exceptions.ConnectError):
                pool.get("http://127.0.0.1:1/")
            assert pool.get(server.url, headers={"Connection": "close"}).ok
            server.answers["/close"] = Answer(b"", headers=[("Connection", "close")])
            assert pool.get(server.url + "/close").ok
        stats = pool.stats()
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]

    assert told == [event]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert stats.leased == 0


def test_an_observer_that_raises_in_two_threads_is_logged_once(server: EchoServer) -> None:
    """Two threads in the observer when it raises: still one log line."""
    together = threading.Barrier(2)
    logged: list[logging.LogRecord] = []
    done: list[int] = []

    class Broken(Observer):
        def waited(self, host: str, seconds: float) -> None:
            together.wait(20)
            raise RuntimeError("the observer's own fault")

    def slowly(record: logging.LogRecord) -> bool:
        logged.append(record)
        if len(logged) == 1:  # who logs first is slow at it: meanwhile the other comes by
            eventually(lambda: done or len(logged) > 1)
        return True

    def work(number: int) -> None:
        assert pool.get(server.url).ok
        done.append(number)

    log = logging.getLogger("sessionpool")
    log.addFilter(slowly)
    try:
        with SessionPool(observer=Broken()) as pool, threads(2, work) as calls:
            pass
    finally:
        log.removeFilter(slowly)

    for call in calls:
        call.get()
    assert len(logged) == 1


def test_an_observer_may_ask_the_pool(server: EchoServer) -> None:
    """Events are told outside every lock, so an observer may look at the pool, and use it where it holds nothing."""
    server.answers["/close"] = Answer(b"", headers=[("Connection", "close")])

    class Curious(Tally):
        def waited(self, *args: Any) -> None:
            self.look("waited")

        def connected(self, *args: Any) -> None:
            self.look("connected")

        def closed(self, *args: Any) -> None:
            self.look("closed")

        def responded(self, method: str, *args: Any) -> None:
            self.look("responded")
            if method == "GET":
                pool.head(server.url)
                with pool.lease(fresh=True) as session:
                    session.head(server.url + "/close")

        def look(self, event: str) -> None:
            self.events.append((event, pool.stats()))
            repr(pool)

    curious = Curious()
    with SessionPool(limits=Limits(per_host=1), observer=curious) as pool:
        with threads(4, lambda _: [pool.get(server.url).ok for _ in range(5)]) as calls:
            pass
        assert [call.get() for call in calls] == [[True] * 5] * 4

    assert len(curious.of("responded")) == 60
    assert {event for event, _ in curious.events} == {"waited", "connected", "closed", "responded"}


# --- the end ---


def test_close_awaits_what_is_under_way(server: EchoServer) -> None:
    """Requests that are running are answered; who comes later is refused; nothing stays open."""
    held = Held()
    server.answers["/held"] = held
    pool = SessionPool()
    with threads(4, lambda _: pool.get(server.url + "/held").text) as calls:
        eventually(lambda: held.arrived == 4)
        with in_thread(pool.close) as closing:
            eventually(lambda: repr(pool) == "<SessionPool 'default' closed>")
            for refused in (lambda: pool.get(server.url), pool.lease, lambda: pool.submit(fetch, server.url)):
                with pytest.raises(exceptions.PoolClosed, match="default"):
                    refused()
            assert not closing.is_done
            held.let_go()
    report = closing.get()

    assert [call.get() for call in calls] == ["at last"] * 4
    assert (report.leases, report.cut, report.waiters) == (0, 0, 0)
    eventually(lambda: server.open == 0)


def test_close_cuts_what_does_not_end(server: EchoServer) -> None:
    """After its time close() cuts: threads blocked on a connection wake with an error that says why."""
    held = Held()
    server.answers["/held"] = held
    pool = SessionPool(name="crawl")
    with threads(3, lambda _: pool.get(server.url + "/held")) as calls:
        eventually(lambda: held.arrived == 3)
        report = pool.close(timeout=0.05)
        held.let_go()

    assert (report.leases, report.cut) == (3, 3)
    for call in calls:
        with pytest.raises(exceptions.ConnectionError, match="'crawl' was closed"):
            call.get()
    assert pool.stats().leased == 0
    assert len(server.seen) == 3  # and nothing was sent again


def test_close_wakes_who_waits(server: EchoServer) -> None:
    """Waiters for a connection and for an identity get PoolClosed at once."""
    held = Held()
    server.answers["/held"] = held
    pool = SessionPool(limits=Limits(per_host=1))
    lease = pool.lease("ada")
    running = in_thread(pool.get, server.url + "/held")
    eventually(lambda: held.arrived == 1)
    waiting = [in_thread(pool.get, server.url) for _ in range(3)]
    eventually(lambda: pool.stats().waiting == 3)
    waiting_for_ada = in_thread(pool.lease, "ada")
    eventually(lambda: pool._seats.stats().waiting == 1)
    with in_thread(pool.close) as closing:
        for call in waiting:
            with pytest.raises(exceptions.PoolClosed):
                call.get()
        with pytest.raises(exceptions.PoolClosed):
            waiting_for_ada.get()
        assert not closing.is_done  # the held request and the lease are awaited
        held.let_go()
        lease.release()
    report = closing.get()

    assert running.get().ok
    assert (report.waiters, report.leases, report.cut) == (4, 0, 0)
    assert len(server.seen) == 1


def test_close_from_inside_a_lease(server: EchoServer) -> None:
    """One's own lease is not waited for; the session can send no more."""
    with SessionPool() as pool, pool.lease() as session:
        session.get(server.url)
        report = pool.close()
        with pytest.raises(exceptions.PoolClosed):
            session.get(server.url)

    assert report.leases == 0
    assert report.idle == 1


def test_close_again_and_from_many_threads(server: EchoServer) -> None:
    """Closing twice, or at once from several threads, is harmless."""
    pool = SessionPool()
    for _ in range(3):
        assert pool.get(server.url).ok
    with threads(4, lambda _: pool.close()) as calls:
        pass
    reports = [call.get() for call in calls]

    assert sum(report.idle for report in reports) == 1
    assert pool.close().idle == 0
    eventually(lambda: server.open == 0)


def test_close_ends_a_map(server: EchoServer) -> None:
    """Who iterates a map gets PoolClosed for the first item that could not be worked on."""
    pool = SessionPool()
    results = pool.map(fetch, (f"{server.url}/{number}" for number in itertools.count()), workers=2)
    next(results)
    pool.close()

    with pytest.raises(exceptions.PoolClosed):
        list(results)


def test_close_cancels_what_was_submitted(server: EchoServer) -> None:
    """What has begun is finished, what has not is cancelled."""
    held = Held()
    server.answers["/held"] = held
    pool = SessionPool(workers=1)
    begun = pool.submit(fetch, server.url + "/held")
    queued = [pool.submit(fetch, server.url) for _ in range(3)]
    eventually(lambda: held.arrived == 1)
    with in_thread(pool.close):
        for future in queued:
            with pytest.raises(CancelledError):
                future.result(20)
        held.let_go()

    assert begun.result(20) == (server.url + "/held", 200)


def test_leaving_the_context_closes_also_after_an_error(server: EchoServer) -> None:
    """The pool is closed whatever ended the block, and the error comes out."""
    pool = SessionPool()

    def work() -> None:
        with pool:
            pool.get(server.url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with pytest.raises(exceptions.PoolClosed):
        pool.get(server.url)
    eventually(lambda: server.open == 0)
