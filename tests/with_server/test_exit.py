"""Whatever a program leaves behind, the interpreter ends at once, with its exit code and without a word.

Each case is a script of its own, run in development mode with every warning an error: a ResourceWarning, or an
exception in a finalizer, would be something to say.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from tests.with_server.children import script
from tests.with_server.echo_server import Answer, EchoServer, Seen, page


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """Does not answer /never until the test is over; /stream goes on for ever."""
    over = threading.Event()

    def never(_: Seen) -> Answer:
        over.wait(60)
        return page()

    def stream(_: Seen) -> Answer:
        return Answer(iter(lambda: b"x" * 1000, None))

    with EchoServer() as server:
        server.answers.update({"/never": never, "/stream": stream})
        yield server
        over.set()


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a server with TLS, and the file of who vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path_factory.mktemp("trust") / "authority.pem"
    file.write_bytes(authority.cert_pem.bytes())
    with EchoServer(tls=context) as server:
        server.answers["/stream"] = lambda _: Answer(iter(lambda: b"x" * 1000, None))
        yield server.url, str(file)


BEGINNING = """
import atexit, gc, os, sys, threading, time, weakref
from sessionpool import Limits, SessionPool, Timeout

url = sys.argv[1]

def until(predicate):
    deadline = time.monotonic() + 15
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.001)

def daemon(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread

def without_end(function, *args):
    # What breaks off a daemon thread at the end is its own affair; here nothing does.
    function(*args)
    print("it came back")

NO_LIMIT = Timeout(connect=None, read=None, pool=None)
"""

ENDINGS = {
    "idle connections": """
        pool = SessionPool(trust_env=False)
        pool.warm_up(url, 3)
        """,
    "idle connections of a pool in a cycle": """
        class Node: pass
        node = Node()
        node.itself, node.pool = node, SessionPool(trust_env=False)
        node.pool.get(url)
        gc.disable()
        del node
        """,
    "a pool in a thread-local": """
        here = threading.local()
        here.pool = SessionPool(trust_env=False)
        here.pool.get(url)
        def use():
            here.pool = SessionPool(trust_env=False)
            here.pool.get(url)
            time.sleep(60)
        daemon(use)
        """,
    "a pool that a function refers to": """
        def make():
            pool = SessionPool(trust_env=False)
            def fetch(): return pool.get(url)
            fetch()
            return fetch
        fetch = sys.fetch = make()
        """,
    "a session made by itself": """
        from sessionpool import Session
        session = Session()
        session.trust_env = False
        session.get(url)
        """,
    "a stream unread": """
        pool = SessionPool(trust_env=False)
        stream = pool.get(url + "/stream", stream=True)
        pieces = stream.iter_content(10)
        next(pieces)
        """,
    "a stream unread in a cycle": """
        pool = SessionPool(trust_env=False)
        stream = pool.get(url + "/stream", stream=True)
        pool.cycle = [stream, pool]
        del stream
        """,
    "leases never released": """
        pool = SessionPool(limits=Limits(sessions=3), trust_env=False)
        lease, named, fresh = pool.lease(), pool.lease("ada"), pool.lease(fresh=True)
        lease.session.get(url)
        named.session.get(url)
        """,
    "a daemon thread that reads": """
        pool = SessionPool(timeout=NO_LIMIT, trust_env=False)
        for _ in range(3):
            daemon(without_end, pool.get, url + "/never")
        until(lambda: pool.stats().leased == 3)
        time.sleep(0.01 * os.getpid() % 0.05)
        """,
    "a daemon thread that reads without end": """
        pool = SessionPool(timeout=NO_LIMIT, trust_env=False)
        for _ in range(3):
            daemon(without_end, pool.get, url + "/stream")
        until(lambda: pool.stats().leased == 3)
        """,
    "a daemon thread that waits for a permit": """
        pool = SessionPool(limits=Limits(per_host=1), timeout=NO_LIMIT, trust_env=False)
        stream = pool.get(url + "/stream", stream=True)
        for _ in range(3):
            daemon(without_end, pool.get, url)
        until(lambda: pool.stats().waiting == 3)
        """,
    "a daemon thread that waits for an identity": """
        pool = SessionPool(timeout=NO_LIMIT, trust_env=False)
        lease = pool.lease("ada")
        for _ in range(3):
            daemon(without_end, pool.lease, "ada")
        until(lambda: len(pool.dump().waiters) == 3)
        """,
    "a daemon thread that holds a lease": """
        pool = SessionPool(trust_env=False)
        def hold():
            with pool.lease("ada") as session:
                session.get(url)
                time.sleep(60)
        daemon(hold)
        until(lambda: pool.stats().idle == 1)
        """,
    "daemon threads that are busy": """
        pool = SessionPool(limits=Limits(per_host=2), trust_env=False)
        def work():
            while True:
                pool.get(url)
        for _ in range(6):
            daemon(work)
        until(lambda: pool.stats().reused > 20)
        """,
    "a daemon thread in the midst of a map": """
        pool = SessionPool(trust_env=False)
        count = []
        def work():
            for result in pool.map(lambda session, item: session.get(url), iter(int, 1), workers=3):
                count.append(result)
        daemon(work)
        until(lambda: len(count) > 5)
        """,
    "a map left early": """
        pool = SessionPool(trust_env=False)
        results = pool.map(lambda session, item: session.get(url), range(100), workers=3)
        next(results)
        """,
    "a search for leaks": """
        pool = SessionPool(leak_threshold=60, trust_env=False)
        with pool.lease() as session:
            session.get(url)
        """,
    "a search for leaks in which one has turned up": """
        import logging
        logging.disable()
        pool = SessionPool(leak_threshold=0.001, trust_env=False)
        lease = pool.lease()
        time.sleep(0.02)
        """,
    "idle workers": """
        pool = SessionPool(workers=4, trust_env=False)
        futures = [pool.submit(lambda session, item: session.get(url).status_code, n) for n in range(8)]
        assert [future.result() for future in futures] == [200] * 8
        """,
    "an end inside a lease": """
        pool = SessionPool(trust_env=False)
        with pool.lease("ada") as session:
            session.get(url)
            stream = session.get(url + "/stream", stream=True)
            sys.exit(7)
        """,
    "an end inside the pool's block": """
        with SessionPool(timeout=NO_LIMIT, trust_env=False) as pool:
            leases = []
            daemon(lambda: (leases.append(pool.lease("ada")), time.sleep(60)))
            until(lambda: leases)
            pool.get(url)
            sys.exit(7)
        """,
    "a close at exit": """
        pool = SessionPool(leak_threshold=60, timeout=NO_LIMIT, trust_env=False)
        def work():
            try:
                pool.get(url + "/never")
            except Exception:
                time.sleep(60)
        daemon(work)
        until(lambda: pool.stats().leased == 1)
        pool.submit(lambda session, item: session.get(url), 1).result()
        atexit.register(lambda: pool.close(timeout=0))
        """,
    "a close at exit of a pool that waits for another thread": """
        pool = SessionPool(trust_env=False)
        def work():
            with pool.lease() as session:
                session.get(url)
                time.sleep(0.2)
        daemon(work)
        until(lambda: pool.stats().idle == 1)
        atexit.register(pool.close)
        """,
    "a fork": """
        pool = SessionPool(leak_threshold=60, trust_env=False)
        pool.get(url)
        stream = pool.get(url + "/stream", stream=True)
        pool.submit(lambda session, item: session.get(url), 1).result()
        if os.fork() == 0:
            pool.get(url)
            pool.submit(lambda session, item: session.get(url), 1).result()
            sys.exit(7)
        _, status = os.wait()
        next(stream.iter_content(5000))
        pool.get(url)
        sys.exit(os.waitstatus_to_exitcode(status))
        """,
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_end_without_a_word(name: str, server: EchoServer) -> None:
    """Exit code 0 (7, where the script says so), and nothing printed anywhere."""
    code = ENDINGS[name]
    ended = script(BEGINNING, code, server.url)

    assert (ended.err, ended.out, ended.code) == ("", "", 7 if "sys.exit(" in code else 0)


@pytest.mark.parametrize("name", ["idle connections", "a stream unread", "daemon threads that are busy", "a fork"])
def test_an_end_without_a_word_over_tls(name: str, secure_server: tuple[str, str]) -> None:
    """TLS has state of its own to drop; its goodbye is not waited for."""
    url, authority = secure_server
    code = ENDINGS[name].replace("trust_env=False", "trust_env=False, verify=sys.argv[2]")
    ended = script(BEGINNING, code, url, authority)

    assert (ended.err, ended.out, ended.code) == ("", "", 7 if "sys.exit(" in code else 0)


def test_an_error_is_all_there_is_to_see(server: EchoServer) -> None:
    """A traceback, that of the program's own error, and no more."""
    ended = script(
        BEGINNING,
        """
        pool = SessionPool(limits=Limits(per_host=2), leak_threshold=60, timeout=NO_LIMIT, trust_env=False)
        stream = pool.get(url + "/stream", stream=True)
        daemon(without_end, pool.get, url + "/never")
        until(lambda: pool.stats().leased == 2)
        daemon(without_end, pool.get, url)
        until(lambda: pool.stats().waiting == 1)
        with pool.lease("ada"):
            raise LookupError("the program's own")
        """,
        server.url,
    )

    lines = ended.err.splitlines()
    assert ended.code == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "LookupError: the program's own"
    assert all(line.startswith("  ") for line in lines[1:-1])


def test_many_ends_among_busy_threads(server: EchoServer) -> None:
    """At whatever moment the interpreter begins to end: each time it does, and says nothing."""
    ended = script(
        BEGINNING,
        """
        import logging, random, signal
        from concurrent.futures import ThreadPoolExecutor
        fetch = lambda session, item: session.get(url)
        def end():
            pool = SessionPool(limits=Limits(per_host=2), leak_threshold=0.001, trust_env=False)
            def work():
                while True:
                    pool.get(url)
                    with pool.lease("ada"):
                        pass
            def spread():
                for _ in pool.map(fetch, iter(int, 1), workers=2):
                    pass
            for function in (work, work, work, spread):
                daemon(function)
            pool.submit(fetch, 1)
            time.sleep(random.uniform(0, 0.03))
        logging.disable()
        for seed in range(15):
            child = os.fork()
            if child == 0:
                random.seed(seed)
                signal.alarm(10)
                end()
                sys.exit(7)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 7, (seed, status)
        """,
        server.url,
        within=60,
    )

    assert (ended.err, ended.out, ended.code) == ("", "", 0)


def test_a_dropped_pool_closes_its_connections(server: EchoServer) -> None:
    """With the last reference go its sockets, its threads, and no warning."""
    ended = script(
        BEGINNING,
        """
        def descriptors():
            return len(os.listdir("/proc/self/fd"))
        from sessionpool import Observer
        with SessionPool(trust_env=False) as pool:
            pool.get(url)  # what the first use imports and opens
        del pool
        gc.collect()
        before, threads = descriptors(), threading.active_count()
        for _ in range(3):
            pool = SessionPool(leak_threshold=60, observer=Observer(), trust_env=False)
            pool.warm_up(url, 3)
            pool.get(url)
            pool.submit(lambda session, item: session.get(item), url).result()
            assert descriptors() >= before + 3
            gone = weakref.ref(pool)
            del pool
            gc.collect()
            assert gone() is None
            until(lambda: descriptors() == before)
            until(lambda: threading.active_count() == threads)
        """,
        server.url,
    )

    assert (ended.err, ended.out, ended.code) == ("", "", 0)
