"""Fork with everything in flight: the child begins with an empty pool, and the parent does not notice."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from sessionpool import Lease, Limits, Observer, Session, SessionPool, Timeout, cookies, exceptions
from sessionpool._gate import Gate
from sessionpool._ledger import Ledger, Permit
from tests.helpers import eventually, in_thread
from tests.with_server.children import ROOT, Signpost, forked, in_fork, script, sockets
from tests.with_server.echo_server import Answer, EchoServer, Seen, echo, set_cookies
from tests.with_server.raw_server import (
    await_bytes,
    deaf_listener,
    discard,
    expect,
    head,
    playing,
    repeatedly,
    response,
    send,
    serving,
    wait_for,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="forks, and looks at descriptors by /proc")


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(limits=Limits(per_host=3), timeout=Timeout(pool=10), trust_env=False) as pool:
        yield pool
        eventually(lambda: (pool.stats().leased, pool.stats().waiting, pool.stats().sessions) == (0, 0, 0))


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context, and the file of who vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("trust") / "authority.pem"
    file.write_bytes(authority.cert_pem.bytes())
    return context, str(file)


def ask(pool: SessionPool, url: str, token: str) -> None:
    """Ask the echo, and get one's own answer."""
    assert pool.get(url, params={"token": token}).json()["args"] == [["token", token]]


def work(pool: SessionPool, url: str, threads: int = 3, each: int = 3) -> dict[str, int]:
    """Several threads ask the echo; what the pool counts afterwards."""

    def ask_often(number: int) -> None:
        for nth in range(each):
            ask(pool, url, f"{os.getpid()}-{number}-{nth}")

    for call in [in_thread(ask_often, number) for number in range(threads)]:
        call.get()
    stats = pool.stats()
    return {"leased": stats.leased, "waiting": stats.waiting, "sessions": stats.sessions, "opened": stats.opened}


QUIET = {"leased": 0, "waiting": 0, "sessions": 0}


def works_in_a_fork(pool: SessionPool, url: str) -> None:
    """In a forked process the pool serves several threads, over connections of its own, and can be closed."""

    def child() -> dict[str, int]:
        began = pool.stats()
        assert (began.leased, began.idle, began.waiting, began.hosts) == (0, 0, 0, {})
        counts = work(pool, url)
        assert counts.pop("opened") > began.opened
        pool.close()
        return counts

    assert in_fork(child) == QUIET


def held_answer(server: EchoServer, path: str) -> threading.Event:
    """Let requests for `path` be answered, by the echo, only once this is set."""
    go_on = threading.Event()

    def answer(seen: Seen) -> Answer:
        assert go_on.wait(20)
        return echo(seen)

    server.answers[path] = answer
    return go_on


# --- what is in flight ---


def test_idle_connections_are_the_parents(server: EchoServer, pool: SessionPool) -> None:
    """The child opens its own, however often both fork and ask; those of the parent serve the parent to the end."""
    assert pool.warm_up(server.url) == 3
    for _ in range(3):
        ask(pool, server.url, "before")
        works_in_a_fork(pool, server.url)
    before = server.accepted
    assert work(pool, server.url)["opened"] == 3

    assert server.accepted == before
    assert pool.stats().idle == 3


def test_a_request_under_way_in_another_thread(server: EchoServer, pool: SessionPool) -> None:
    """Its answer comes to that thread, in the parent; the child neither waits for it nor sees it."""
    go_on = held_answer(server, "/slow")
    with in_thread(ask, pool, server.url + "/slow", "slow") as call:
        eventually(lambda: bool(server.seen))
        works_in_a_fork(pool, server.url)
        go_on.set()
    call.get()
    ask(pool, server.url, "after")

    asked_here = ([("token", "slow")], [("token", "after")])
    assert [seen.connection for seen in server.seen if seen.query in asked_here] == [1, 1]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ended_first", [False, True], ids=["while-the-child-lives", "after-the-child-has-ended"])
def test_a_half_read_stream_goes_on_in_the_parent(
    ended_first: bool, secure: bool, trust: tuple[ssl.SSLContext, str]
) -> None:
    """The child, which cannot read it, closes it and everything else: the server gets no word of that.

    The script fails if the client goes, or says anything (TLS: its goodbye), where the second request is due.
    """
    go_on, let_go, is_done = threading.Event(), Signpost(), Signpost()
    context, authority = trust
    first = [expect("GET /stream "), send(head("Content-Length: 10") + b"hello"), wait_for(go_on), send(b"world")]
    scripts = [[*first, expect("GET /next "), send(response(b"next"))], [repeatedly(expect(), send(response(b"own")))]]
    with (
        playing(*scripts, tls=context if secure else None, verify=authority) as (pool, server),
        contextlib.closing(pool.get(server.url + "stream", stream=True)) as stream,
    ):
        pieces = stream.iter_content(5)
        assert next(pieces) == b"hello"

        def child() -> str:
            with pytest.raises(exceptions.IncompleteRead) as raised:
                next(pieces)
            stream.close()
            assert pool.get(server.url).content == b"own"
            pool.close()
            is_done.set()
            if not ended_first:
                let_go.wait()
            return str(raised.value)

        with forked(child) as running:
            is_done.wait()
            if ended_first:
                said = running.get()
            go_on.set()
            assert list(pieces) == [b"world"]
            assert pool.get(server.url + "next").content == b"next"
            if not ended_first:
                let_go.set()
                said = running.get()

    assert "forked" in said
    assert "parent" in said


def test_threads_that_wait(server: EchoServer) -> None:
    """They wait on in the parent, in their order; the child has no queue."""
    go_on = held_answer(server, "/slow")
    order: list[str] = []
    with SessionPool(limits=Limits(per_host=1), trust_env=False) as pool:
        with contextlib.ExitStack() as calls:
            calls.enter_context(in_thread(ask, pool, server.url + "/slow", "slow"))
            eventually(lambda: bool(server.seen))
            for number in range(4):
                calls.enter_context(in_thread(ask, pool, server.url, str(number)))
                eventually(lambda: pool.stats().waiting > len(order))
                order.append(str(number))
            works_in_a_fork(pool, server.url)
            assert pool.stats().waiting == 4
            mark = len(server.seen)
            go_on.set()

        assert [seen.query[0][1] for seen in server.seen[mark:]] == order
        works_in_a_fork(pool, server.url)


class Halting(Ledger[Any]):
    """A ledger that can halt in the midst of a change, in whatever thread makes the next one."""

    def __init__(self, like: Ledger[Any]) -> None:
        super().__init__(like._limit_of, like.total, max_waiting=like.max_waiting, max_idle=like.max_idle)
        self.halts_at = ""
        self.halted, self.go_on = threading.Event(), threading.Event()

    def _halt(self, at: str) -> None:
        if self.halts_at == at:
            self.halts_at = ""
            self.halted.set()
            assert self.go_on.wait(20)

    def _grant(self, host: Any, permit: Permit[Any], now: float) -> bool:
        granted = super()._grant(host, permit, now)
        self._halt("grant")  # it is leased, and stands in the queue all the same
        return granted

    def _serve(self, now: float) -> Any:
        self._halt("release")  # the item has been put down, and who waits for it has not been told
        return super()._serve(now)


@pytest.mark.parametrize("where", ["connections", "sessions"])
@pytest.mark.parametrize("at", ["grant", "release"])
def test_the_books_in_the_midst_of_a_change(at: str, where: str, server: EchoServer) -> None:
    """A thread that holds the lock is not there in the child to free it, nor to finish what it began."""
    go_on = held_answer(server, "/slow")
    limits = Limits(per_host=1) if where == "connections" else Limits(sessions=1)
    with SessionPool(limits=limits, timeout=Timeout(pool=10), trust_env=False) as pool:
        gate: Gate[Any] = pool._transport.gate if where == "connections" else pool._seats
        ledger = gate._ledger = Halting(gate._ledger)
        ask(pool, server.url, "before")
        calls = [in_thread(ask, pool, server.url + "/slow", "slow")]
        eventually(lambda: len(server.seen) == 2)
        calls += [in_thread(ask, pool, server.url, f"behind it {number}") for number in range(3)]
        eventually(lambda: ledger.waiting == 3)
        ledger.halts_at = at
        go_on.set()
        assert ledger.halted.wait(20)
        works_in_a_fork(pool, server.url)
        ledger.go_on.set()
        for call in calls:
            call.get()

        assert work(pool, server.url).items() >= QUIET.items()


LOCKS: dict[str, Callable[[SessionPool], Any]] = {
    "connections": lambda pool: pool._transport.gate._lock,
    "sessions": lambda pool: pool._seats._lock,
    "submit": lambda pool: pool._executor_lock,
    "transfers": lambda pool: pool._handing,
    "tls-contexts": lambda pool: pool._transport._connector._making,
    "leaks": lambda pool: pool._leaks and pool._leaks._starting,
    "public-suffixes": lambda pool: cookies._loading,
}


@pytest.mark.parametrize("name", LOCKS)
def test_any_lock_that_another_thread_holds(name: str, trust: tuple[ssl.SSLContext, str]) -> None:
    """Nobody frees it in the child, so the child has to have another."""
    context, authority = trust
    with (
        EchoServer(tls=context) as server,
        SessionPool(limits=Limits(sessions=5), leak_threshold=100, verify=authority, trust_env=False) as pool,
    ):
        cookies._is_public_suffix.cache_clear()
        lock = LOCKS[name](pool)
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                assert go_on.wait(20)

        def child() -> dict[str, int]:
            with pool.lease("ada") as session:
                session.cookies.store("a=1; Domain=example.com", "www.example.com", "/", secure=True, now=0.0)
            pool.submit(lambda session, url: session.get(url), server.url).result(10)
            counts = work(pool, server.url)
            pool.close()
            return counts

        with in_thread(hold):
            assert held.wait(20)
            counts = in_fork(child)
            go_on.set()

        assert counts.items() >= QUIET.items()
        assert work(pool, server.url).items() >= QUIET.items()


def test_connections_that_are_being_opened(trust: tuple[ssl.SSLContext, str]) -> None:
    """The child has none of their sockets, so they end when the parent ends them; and the parent opens on."""
    context, authority = trust
    with (
        deaf_listener() as deaf,
        serving([await_bytes, discard], [await_bytes, discard]) as stalling,
        EchoServer(tls=context) as server,
        SessionPool(timeout=Timeout(connect=15), verify=authority, trust_env=False) as pool,
    ):
        before = sockets()
        calls = [
            in_thread(pool.get, deaf),
            in_thread(pool.get, f"https://127.0.0.1:{stalling.port}/"),
            in_thread(pool.get, "https://127.0.0.1:1/", proxies={"https": stalling.url}),
        ]
        eventually(lambda: len(stalling.peers) == 2 and len(sockets() - before) == 5)
        connecting = sockets() - before - {os.fstat(peer.socket.fileno()).st_ino for peer in stalling.peers}
        let_go, looked = Signpost(), Signpost()

        def child() -> tuple[set[int], dict[str, int]]:
            there = sockets()
            counts = work(pool, server.url)
            looked.set()
            let_go.wait()
            return there, counts

        with forked(child) as running:
            looked.wait()
            pool.close(timeout=0)
            eventually(lambda: stalling.open == 0)
            let_go.set()
            there, counts = running.get()
        for call in calls:
            call.join()

    assert len(connecting) == 3
    assert not connecting & there
    assert counts.items() >= QUIET.items()
    assert {type(call.error) for call in calls} == {exceptions.PoolClosed}


def test_the_first_request_imports_nothing(trust: tuple[ssl.SSLContext, str]) -> None:
    """A module that another thread is importing at the fork is one that the child waits for without end."""
    with EchoServer(tls=trust[0]) as server:
        server.answers["/cookie"] = set_cookies("a=1; Path=/; Expires=Wed, 21 Oct 2099 07:28:00 GMT")
        ended = script(
            "import sys; from sessionpool import SessionPool",
            """
            before = set(sys.modules)
            url, authority = sys.argv[1:]
            with SessionPool(verify=authority, leak_threshold=60) as pool:
                pool.get(url + "/cookie").text
                pool.post(url, json={"a": 1}).json()
                with pool.lease("ada") as session:
                    session.post(url, data={"a": 1}, files={"file": b"x"}).raise_for_status()
                pool.submit(lambda session, url: session.get(url), url).result()
                list(pool.map(lambda session, url: session.get(url), [url]))
            print(*sorted(set(sys.modules) - before))
            """,
            server.url,
            trust[1],
        )

    assert (ended.err, ended.out.split(), ended.code) == ("", [], 0)


# --- leases ---


def test_an_identity_that_another_thread_has(server: EchoServer, pool: SessionPool) -> None:
    """It may have been in the midst of changing it: in the child it begins blank, those that nobody had keep theirs."""
    held, go_on = threading.Event(), threading.Event()
    for name in ("ada", "bob"):
        with pool.lease(name) as session:
            session.cookies["me"] = name

    def hold() -> str | None:
        with pool.lease("ada") as session:
            held.set()
            assert go_on.wait(20)
            return session.get(server.url).json()["cookies"].get("me")  # type: ignore[no-any-return]

    def child() -> list[dict[str, str]]:
        found = []
        for name in ("ada", "bob"):
            with pool.lease(name, timeout=0) as session:
                found.append(session.get(server.url).json()["cookies"])
        return found

    with in_thread(hold) as call:
        assert held.wait(20)
        found = in_fork(child)
        go_on.set()

    assert found == [{}, {"me": "bob"}]
    assert call.get() == "ada"


@pytest.mark.parametrize("key", [None, "ada"])
def test_a_lease_of_whoever_forks_goes_on_in_both(key: Hashable, server: EchoServer) -> None:
    """Its session keeps its cookies, and its seat; what one process puts there later the other does not see."""
    with SessionPool(limits=Limits(sessions=1), trust_env=False) as pool:

        def use(lease: Lease, name: str) -> dict[str, str]:
            lease.session.cookies[name] = "1"
            found: dict[str, str] = lease.session.get(server.url).json()["cookies"]
            assert pool.stats().sessions == 1
            with pytest.raises(exceptions.PoolTimeout):
                in_thread(pool.lease, "another", timeout=0).get()
            lease.release()
            in_thread(pool.lease, "another", timeout=0).get().release()
            with pool.lease(key) as session:
                assert session is lease.session
            return found

        lease = pool.lease(key)
        lease.session.cookies["before"] = "1"
        assert in_fork(use, lease, "child") == {"before": "1", "child": "1"}
        assert use(lease, "parent") == {"before": "1", "parent": "1"}


def test_a_session_made_by_itself(server: EchoServer) -> None:
    """The child can use one that another thread of the parent is using, with its cookies."""
    go_on = held_answer(server, "/slow")
    with Session() as session:
        session.trust_env = False
        session.cookies["a"] = "1"
        with in_thread(session.get, server.url + "/slow") as call:
            eventually(lambda: bool(server.seen))
            found = in_fork(lambda: session.get(server.url).json()["cookies"])
            go_on.set()

        assert found == {"a": "1"}
        assert call.get().json()["cookies"] == {"a": "1"}


# --- threads of the pool's own ---


def test_what_was_submitted(server: EchoServer, pool: SessionPool) -> None:
    """Workers of the parent end the parent's work; the child has workers of its own."""
    go_on = held_answer(server, "/slow")

    def fetch(session: Session, path: str) -> str:
        return session.get(server.url + path).json()["target"]  # type: ignore[no-any-return]

    futures = [pool.submit(fetch, "/slow") for _ in range(2)]
    eventually(lambda: len(server.seen) == 2)
    assert in_fork(lambda: [pool.submit(fetch, f"/{n}").result(10) for n in range(3)]) == ["/0", "/1", "/2"]
    go_on.set()

    assert [future.result(20) for future in futures] == ["/slow", "/slow"]
    assert pool.submit(fetch, "/after").result(20) == "/after"


@pytest.mark.parametrize("ordered", [False, True])
def test_a_map_that_is_being_iterated(ordered: bool, server: EchoServer, pool: SessionPool) -> None:
    """It goes on in the parent. Its workers are not there in the child, so there it says so instead of hanging."""

    def fetch(session: Session, item: int) -> int:
        return int(session.get(server.url, params={"item": item}).json()["args"][0][1])

    results = pool.map(fetch, range(20), workers=3, ordered=ordered)
    got = [next(results) for _ in range(5)]

    def child() -> list[int]:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="begun in the process that this one was forked from"):
                next(results)
        results.close()
        return sorted(pool.map(fetch, range(5), workers=3, ordered=ordered))

    assert in_fork(child) == [0, 1, 2, 3, 4]
    got += results
    assert sorted(got) == list(range(20))


class Leaks(Observer):
    """Keeps what leaks."""

    def __init__(self) -> None:
        self.keys: list[Hashable] = []

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
        self.keys.append(key)


def test_the_search_for_leaks(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on in both, each for its own; the lease of whoever forked is of both, others are the parent's."""
    caplog.set_level(logging.ERROR, logger="sessionpool")
    observer = Leaks()
    go_on = threading.Event()
    with SessionPool(leak_threshold=0.3, observer=observer) as pool:

        def hold() -> None:
            with pool.lease("other"):
                assert go_on.wait(20)

        def child() -> list[Hashable]:
            with pool.lease("childs"):
                eventually(lambda: len(observer.keys) == 2)
            return observer.keys

        with in_thread(hold), pool.lease("own"):
            eventually(lambda: pool.stats().sessions == 2)
            found = in_fork(child)
            eventually(lambda: len(observer.keys) == 2)
            go_on.set()

    assert set(found) == {"own", "childs"}
    assert set(observer.keys) == {"own", "other"}


# --- who forks, and how ---


def test_what_the_parent_closes_ends(server: EchoServer, pool: SessionPool) -> None:
    """A child that lives on has no descriptor that would keep it open."""
    let_go, is_there = Signpost(), Signpost()

    def child() -> None:
        is_there.set()
        let_go.wait()

    go_on = held_answer(server, "/slow")
    server.answers["/stream"] = Answer(iter([b"hello", b"world"]))
    stream = pool.get(server.url + "/stream", stream=True)
    with in_thread(pool.get, server.url + "/slow"):
        eventually(lambda: len(server.seen) == 2)
        assert pool.warm_up(server.url) == 1
        with forked(child) as running:
            is_there.wait()
            go_on.set()
            stream.close()
            eventually(lambda: pool.stats().leased == 0)
            pool.close()
            eventually(lambda: server.open == 0)
            let_go.set()
            running.get()


def test_a_fork_in_a_thread(server: EchoServer, pool: SessionPool) -> None:
    """The thread that forks is the child's only one; its session keeps its cookies there."""
    ask(pool, server.url, "main")
    with pool.lease() as session:
        session.cookies["main"] = "1"

    def fork() -> dict[str, str]:
        with pool.lease() as session:
            session.cookies["worker"] = "1"
        works_in_a_fork(pool, server.url)
        found: dict[str, str] = in_fork(lambda: pool.get(server.url).json()["cookies"])
        return found

    assert in_thread(fork).get() == {"worker": "1"}
    assert work(pool, server.url).items() >= QUIET.items()


def test_a_fork_in_a_fork(server: EchoServer, pool: SessionPool) -> None:
    """And in that one: each has connections of its own, and none the others'."""
    go_on = held_answer(server, "/slow")

    def generation(number: int) -> list[int]:
        opened = pool.stats().opened
        with in_thread(ask, pool, server.url + "/slow", str(number)):
            eventually(lambda: pool.stats().leased == 1)
            counts = work(pool, server.url, threads=2)
            below = in_fork(generation, number - 1) if number else []
            if not number:
                let_go.set()
        return [counts["opened"] - opened, *below]

    let_go = Signpost()

    def answer() -> None:
        let_go.wait()
        go_on.set()

    with in_thread(answer):
        opened = generation(3)

    assert len(opened) == 4
    assert all(2 <= each <= 3 for each in opened)


def test_forking_among_busy_threads(server: EchoServer, pool: SessionPool) -> None:
    """Whatever the threads are about at that instant: every process gets its own answers, and nothing hangs."""
    is_over = threading.Event()

    def keep_asking(number: int) -> int:
        count = 0
        while not is_over.is_set():
            ask(pool, server.url, f"parent-{number}-{count}")
            if count % 3 == 0:
                with pool.lease("one of a few"):
                    pass
            count += 1
        return count

    calls = [in_thread(keep_asking, number) for number in range(6)]
    try:
        for _ in range(15):
            works_in_a_fork(pool, server.url)
    finally:
        is_over.set()

    assert sum(call.get() for call in calls) > 0
    assert work(pool, server.url).items() >= QUIET.items()


def test_preloading(server: EchoServer, pool: SessionPool) -> None:
    """A pool made, and used, before a server forks its workers serves each of them, and their parent."""
    ask(pool, server.url, "preload")
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(forked(work, pool, server.url, threads=4, each=10)) for _ in range(3)]
        counts = [work(pool, server.url, threads=4, each=10), *(worker.get() for worker in workers)]

    assert all(each.items() >= QUIET.items() for each in counts)
    # The parent's three connections and up to three of each worker's: what the parent had is in nobody else's count.
    assert server.accepted <= 12


_shared: dict[str, Any] = {}


def ask_shared(token: str) -> str:
    """Ask over the pool that was there before the fork."""
    pool, url = _shared["pool"], _shared["url"]
    with pool.lease() as session:
        return f"{session.get(url, params={'token': token}).json()['args'][0][1]} {session.cookies.get('preloaded')}"


def end_with(tell: Any, token: str) -> None:
    """What a process of multiprocessing does."""
    tell.send(ask_shared(token))


@pytest.fixture
def shared(server: EchoServer, pool: SessionPool) -> Iterator[SessionPool]:
    """The pool, where functions find it that are called in another process."""
    with pool.lease() as session:
        session.cookies["preloaded"] = "yes"
    ask(pool, server.url, "preload")
    _shared.update(pool=pool, url=server.url)
    yield pool
    _shared.clear()


@pytest.fixture
def no_warning_of_threads() -> Iterator[None]:
    """From Python 3.12 on a fork warns that there are threads, which is what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        yield


@pytest.mark.usefixtures("no_warning_of_threads")
def test_a_process_of_multiprocessing(server: EchoServer, shared: SessionPool) -> None:
    """It uses the pool it inherits, and ends in order."""
    fork = multiprocessing.get_context("fork")
    answers, tell = fork.Pipe(duplex=False)
    processes = [fork.Process(target=end_with, args=(tell, str(number))) for number in range(2)]
    for process in processes:
        process.start()
    ask(shared, server.url, "parent")
    for process in processes:
        process.join(20)

    assert [process.exitcode for process in processes] == [0, 0]
    assert {answers.recv(), answers.recv()} == {"0 yes", "1 yes"}
    ask(shared, server.url, "parent")
    answers.close()
    tell.close()


@pytest.mark.usefixtures("no_warning_of_threads")
def test_an_executor_of_processes(server: EchoServer, shared: SessionPool) -> None:
    """Its processes use the pool they inherit; the one who hands out the work goes on with it."""
    tokens = [str(number) for number in range(20)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        futures = [executor.submit(ask_shared, token) for token in tokens]
        assert work(shared, server.url).items() >= QUIET.items()
        answers = [future.result(20) for future in futures]

    assert answers == [f"{token} yes" for token in tokens]
    ask(shared, server.url, "after")


APPLICATION = """
import os, sys
from sessionpool import Limits, SessionPool

pool = SessionPool(limits=Limits(per_host=2), trust_env=False)
with pool.lease() as session:
    session.get(os.environ["ORIGIN"], params={"token": "preload"}).raise_for_status()

def application(environ, start_response):
    token = environ["QUERY_STRING"]
    got = pool.get(os.environ["ORIGIN"], params={"token": token}).json()["args"][0][1]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{got} {os.getpid()}".encode()]
"""


def test_gunicorn_that_loads_the_application_first(server: EchoServer, tmp_path: Path) -> None:
    """Its workers, with several threads each, share the pool of the application's module, and none an answer."""
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--worker-class=gthread", "--workers=2"]
        command += ["--threads=4", f"--bind=fd://{listener.fileno()}", f"--chdir={tmp_path}", "--log-level=warning"]
        command += [f"--worker-tmp-dir={tmp_path}", "--no-control-socket", "application:application"]
        environment = {**os.environ, "ORIGIN": server.url, "PYTHONPATH": str(ROOT)}
        gunicorn = subprocess.Popen(
            command, env=environment, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True
        )
        try:
            with SessionPool(timeout=Timeout(read=20), trust_env=False) as browser:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/?"

                def browse(token: str) -> str:
                    # A connection each, so that both workers get some.
                    got, worker = browser.get(url + token, headers={"Connection": "close"}).text.split()
                    assert got == token
                    return worker

                workers: set[str] = set()

                def both_have_answered() -> bool:
                    calls = [in_thread(browse, str(number)) for number in range(40)]
                    workers.update(call.get() for call in calls)
                    return len(workers) == 2

                eventually(both_have_answered)
        finally:
            gunicorn.terminate()
            _, said = gunicorn.communicate(timeout=20)

    assert said == ""
    assert gunicorn.returncode == 0
