"""The numbers are right: what Prometheus gets to see is what the server counted."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from sessionpool import Limits, RetryPolicy, SessionPool, Timeout
from sessionpool.exceptions import ConnectError, ConnectionBroken, PoolTimeout, ReadTimeout
from sessionpool.metrics import FULL, Metrics
from tests.helpers import PATIENCE, eventually, in_thread
from tests.with_server.children import ROOT, in_fork
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect

QUICK = RetryPolicy(attempts=3, backoff=0.0)


class Metered:
    """A connection's stream that counts what is read from it."""

    def __init__(self, stream: io.BufferedIOBase, count: Callable[[int], None]) -> None:
        self._stream = stream
        self._count = count

    def readline(self) -> bytes:
        line = self._stream.readline()
        self._count(len(line))
        return line

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._count(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Counting(EchoServer):
    """Counts the bytes of all requests. Used by one client at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0

    def _count(self, size: int) -> None:
        self.received += size

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        super().handle(cast(io.BufferedIOBase, Metered(stream, self._count)), sock, number)


@pytest.fixture
def server() -> Iterator[Counting]:
    with Counting() as server:
        yield server


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def make_pool(registry: CollectorRegistry) -> Iterator[Callable[..., SessionPool]]:
    with contextlib.ExitStack() as pools:

        def make(hosts: Any = None, **settings: Any) -> SessionPool:
            metrics = Metrics(registry=registry, hosts=hosts)
            return pools.enter_context(SessionPool(name="crawl", metrics=metrics, trust_env=False, **settings))

        yield make


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"sessionpool_{name}", {"pool": "crawl", **labels}) or 0.0


def total(registry: CollectorRegistry, name: str) -> float:
    """The sum over all labels."""
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"sessionpool_{name}"
    )


class Times:
    """Answers that change with time: the first so many times one, then the other."""

    def __init__(self, times: int, first: Answer, then: Answer) -> None:
        self._left = times
        self._first = first
        self._then = then

    def __call__(self, _: Seen) -> Answer:
        self._left -= 1
        return self._first if self._left >= 0 else self._then


def test_every_number_is_what_the_server_counted(
    server: Counting, make_pool: Callable[..., SessionPool], registry: CollectorRegistry
) -> None:
    """Known requests, retries, reuses, redirects, streams and failures: each count, sum of bytes and histogram."""
    server.answers |= {
        "/page": page("x" * 1000),
        "/away": redirect("/page"),
        "/missing": Answer(b"no", 404),
        "/busy": Times(2, Answer(b"busy", 503), page("at last")),
        "/always": Answer(b"busy", 503),
        "/last": Answer(b"bye", headers=[("Connection", "close")]),
        "/big": page("x" * 300_000),
    }
    pool = make_pool(retry=QUICK)
    bodies = 0
    for _ in range(5):
        bodies += len(pool.get(f"{server.url}/page").content)
    bodies += len(pool.get(f"{server.url}/away").content) + len(b"over there")
    bodies += len(pool.post(f"{server.url}/missing", data=b"z" * 5000).content)
    bodies += len(pool.get(f"{server.url}/busy").content) + 2 * len(b"busy")
    bodies += len(pool.get(f"{server.url}/always").content) + 2 * len(b"busy")
    bodies += len(pool.get(f"{server.url}/last").content)
    bodies += sum(len(piece) for piece in pool.get(f"{server.url}/big", stream=True).iter_content(10_000))
    with pool.lease("ada") as session:
        bodies += len(session.get(f"{server.url}/page").content)
        bodies += len(session.request("get", f"{server.url}/page").content)

    # 5 + 2 (one redirect) + 1 + 3 (two retries) + 3 + 1 + 1 + 2
    assert len(server.seen) == 18
    assert value(registry, "attempt_duration_seconds_count") == len(server.seen)
    assert value(registry, "connection_wait_seconds_count") == len(server.seen)
    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 5 + 1 + 1 + 1 + 1 + 2
    assert value(registry, "request_duration_seconds_count", method="GET", code="503") == 1
    assert value(registry, "request_duration_seconds_count", method="POST", code="404") == 1
    assert total(registry, "request_duration_seconds_count") == 13
    attempts, calls = total(registry, "attempt_duration_seconds_sum"), total(registry, "request_duration_seconds_sum")
    assert 0 < attempts < calls < PATIENCE
    assert value(registry, "request_bytes_total") == server.received
    assert value(registry, "response_bytes_total") == bodies
    assert value(registry, "retries_total", reason="503") == 2 + 2
    assert value(registry, "retries_denied_total", reason="attempts") == 1
    assert value(registry, "connections_opened_total") == server.accepted == 2
    assert value(registry, "connections_reused_total") == len(server.seen) - server.accepted
    assert value(registry, "connect_seconds_count", phase="total") == server.accepted
    assert value(registry, "connections_closed_total", reason="finished") == 1
    assert total(registry, "connections_closed_total") == server.accepted - server.open
    assert value(registry, "leases_total", outcome="released") == 5 + 6 + 1
    assert value(registry, "lease_held_seconds_count") == 12
    assert value(registry, "lease_wait_seconds_count") == 1
    assert total(registry, "request_errors_total") == 0
    assert value(registry, "connections", state="idle") == server.open == 1
    assert value(registry, "sessions", state="idle") == 1


def test_every_failure_is_counted(
    server: Counting, make_pool: Callable[..., SessionPool], registry: CollectorRegistry
) -> None:
    """Calls that raise, by what they raise; attempts that fail, each; and where the deadline was used up."""
    stopping = threading.Event()

    def never(_: Seen) -> Answer:
        stopping.wait(20)
        return page()

    def cut(_: Seen) -> Answer:
        raise OSError("the server breaks the connection")

    server.answers |= {"/never": never, "/cut": cut}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    pool = make_pool(hosts=5, retry=QUICK, limits=Limits(per_host=1))
    with pytest.raises(ConnectError):
        pool.get(closed)
    with pytest.raises(ReadTimeout):
        pool.get(f"{server.url}/never", timeout=Timeout(read=0.05), retry=None)
    held = pool.get(server.url, stream=True)
    with pytest.raises(PoolTimeout):
        in_thread(pool.get, server.url, timeout=Timeout(pool=0.01)).get()
    held.close()
    with pytest.raises(ConnectionBroken):
        pool.post(f"{server.url}/cut", data=b"x")
    stopping.set()
    host = closed.rstrip("/")

    assert value(registry, "request_errors_total", error="ConnectError", host=host) == 1
    assert value(registry, "retries_total", reason="ConnectError", host=host) == 2
    assert value(registry, "attempt_duration_seconds_count", host=host) == 3
    assert value(registry, "request_errors_total", error="ReadTimeout", host=server.url) == 1
    assert value(registry, "request_errors_total", error="PoolTimeout", host=server.url) == 1
    assert value(registry, "request_errors_total", error="ConnectionBroken", host=server.url) == 1
    assert value(registry, "request_duration_seconds_count", method="GET", code="error") == 3
    assert value(registry, "request_duration_seconds_count", method="POST", code="error") == 1
    assert value(registry, "connections_opened_total", host=server.url) == server.accepted
    assert value(registry, "connections_closed_total", reason="broken", host=server.url) == 2 + 1
    assert value(registry, "connections", state="leased", host=server.url) == 0


def test_what_is_going_on_is_seen(
    server: Counting, make_pool: Callable[..., SessionPool], registry: CollectorRegistry
) -> None:
    """While a request is under way and others wait: who has what, and who waits for what."""
    going, stopping = threading.Event(), threading.Event()

    def slow(_: Seen) -> Answer:
        going.set()
        stopping.wait(20)
        return page()

    server.answers["/"] = slow
    pool = make_pool(limits=Limits(per_host=1, total=7))
    calls = [in_thread(pool.get, server.url) for _ in range(2)]
    with pool.lease("ada"):
        asking = in_thread(lambda: pool.lease("ada").release())
        try:
            eventually(lambda: value(registry, "connection_waiters") == 1 and going.is_set())
            eventually(lambda: value(registry, "lease_waiters") == 1)

            assert value(registry, "connections", state="leased") == 1
            assert value(registry, "connections_limit") == 7
            assert value(registry, "requests_in_flight") == 2
            assert value(registry, "sessions", state="leased") == 3
        finally:
            stopping.set()
    asking.join()
    for call in calls:
        call.join()

    assert value(registry, "requests_in_flight") == 0
    assert value(registry, "lease_waiters") == 0
    assert value(registry, "lease_wait_seconds_count") == 2
    assert value(registry, "connection_wait_seconds_count") == 2
    assert value(registry, "connection_wait_seconds_sum") > 0


def test_what_nobody_scrapes_does_not_grow(server: Counting, make_pool: Callable[..., SessionPool]) -> None:
    """Requests without end, and leases in which nothing is asked, leave only their counts."""
    pool = make_pool()
    meter = pool._meter
    assert meter is not None
    for _ in range(FULL // 3 + 10):
        pool.get(server.url)

    assert len(meter.calls) < 100

    for _ in range(FULL + 10):
        pool.lease().release()

    assert len(meter.leases) <= FULL


def test_what_is_dropped_is_counted(
    server: Counting, make_pool: Callable[..., SessionPool], registry: CollectorRegistry
) -> None:
    """Leases and streams that the collector takes back, and leases that end with their thread."""
    server.answers["/"] = page("x" * 300_000)
    pool = make_pool()
    pool.lease("ada")
    gc.collect()
    kept = in_thread(pool.lease, "bob").join()
    eventually(lambda: value(registry, "leases_reclaimed_total", reason="thread ended") == 1)
    pool.get(server.url, stream=True)
    gc.collect()

    assert value(registry, "leases_reclaimed_total", reason="dropped") == 2
    assert value(registry, "connections_closed_total", reason="dropped") == 1
    assert value(registry, "leases_total", outcome="released") == 0
    assert kept.result is not None  # it was not dropped


def test_a_forked_process_counts_its_own(
    server: Counting, make_pool: Callable[..., SessionPool], registry: CollectorRegistry
) -> None:
    """The child begins with nothing; the parent's figures do not move."""
    pool = make_pool()
    for _ in range(3):
        pool.get(server.url)

    def child() -> list[float]:
        before = [total(registry, "request_duration_seconds_count"), total(registry, "connections_reused_total")]
        pool.get(server.url)
        pool.get(server.url)
        after = [total(registry, "request_duration_seconds_count"), total(registry, "connections_reused_total")]
        return before + after + [total(registry, "leases_total")]

    assert in_fork(child) == [0, 0, 2, 1, 2]
    assert total(registry, "request_duration_seconds_count") == 3
    assert total(registry, "connections_reused_total") == 2


# --- prometheus_client's multiprocess mode ---

WORKER = """
    import os, sys
    from sessionpool import SessionPool
    pool = SessionPool(name="crawl", trust_env=False)
    url, requests = sys.argv[1], int(sys.argv[2])
"""


@contextlib.contextmanager
def working(code: str, url: str, directory: Path, requests: int) -> Iterator[subprocess.Popen[str]]:
    """A process in multiprocess mode; it ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER) + textwrap.dedent(code), url, str(requests)],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def collected(directory: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return registry


def collectable(directory: Path, name: str, **labels: str) -> float | None:
    """A value, unless a process is just about to begin one of its files, which the collector cannot read yet."""
    try:
        return value(collected(directory), name, **labels)
    except struct.error:
        return None


def test_four_processes_add_up(server: Counting, tmp_path: Path) -> None:
    """Counters and histograms are sums over all of them, gauges over the living; a killed one vanishes from gauges."""
    code = """
        for _ in range(requests):
            pool.get(url).content
        print("done", flush=True)
        sys.stdin.read()
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(working(code, server.url, tmp_path, 10 * n)) for n in (1, 2, 3, 4)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"
        eventually(lambda: collectable(tmp_path, "connections", state="idle") == 4)
        registry = collected(tmp_path)

        assert len(server.seen) == 100
        assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 100
        assert value(registry, "request_duration_seconds_bucket", method="GET", code="200", le="+Inf") == 100
        assert value(registry, "request_bytes_total") == server.received
        assert value(registry, "connections_opened_total") == server.accepted == 4
        assert value(registry, "connections_reused_total") == 96
        assert value(registry, "leases_total", outcome="released") == 100
        assert value(registry, "connections_limit") == 400

        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        mark_process_dead(workers[0].pid, str(tmp_path))  # type: ignore[no-untyped-call]

        assert value(collected(tmp_path), "connections", state="idle") == 3
        assert value(collected(tmp_path), "connections_limit") == 300

        for worker in workers[1:]:
            assert worker.stdin is not None
            worker.stdin.close()  # an ordinary end
            assert worker.wait(20) == 0
            mark_process_dead(worker.pid, str(tmp_path))  # type: ignore[no-untyped-call]
        registry = collected(tmp_path)

        assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 100
        assert registry.get_sample_value("sessionpool_connections", {"pool": "crawl", "state": "idle"}) is None


def test_workers_forked_from_one_that_counted(server: Counting, tmp_path: Path) -> None:
    """As gunicorn does it with --preload: nothing is counted twice, and what each did is there, closed or running."""
    code = """
        pool.get(url)
        children = []
        for n in range(3):
            child = os.fork()
            if not child:
                for _ in range(requests):
                    pool.get(url)
                if n:
                    pool.close()
                    os._exit(0)
                sys.stdin.read()
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        pool.get(url)
        pool.close()
        again = SessionPool(name="crawl", trust_env=False)
        again.get(url)
        print("done", flush=True)
    """
    with working(code, server.url, tmp_path, 5) as worker:
        eventually(lambda: collectable(tmp_path, "request_duration_seconds_count", method="GET", code="200") == 16)
        assert worker.communicate(timeout=20)[0] == "done\n"
        assert worker.returncode == 0
    registry = collected(tmp_path)

    assert len(server.seen) == 1 + 15 + 1 + 1
    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 18
    assert value(registry, "connections_opened_total") == server.accepted == 5
    assert value(registry, "connections_reused_total") == 13
    assert len(list(tmp_path.glob("counter_*.db"))) == 4


def test_a_directory_that_is_not_there_hurts_no_request(server: Counting, tmp_path: Path) -> None:
    """The metrics are given up with one log line; requests, and closing, go on."""
    code = """
        import logging
        records = []
        logging.getLogger("sessionpool").addFilter(lambda record: records.append(record.getMessage()))
        pool.get(url)
        pool.close()
        print(len(records), records[0], flush=True)
    """
    with working(code, server.url, tmp_path / "missing", 1) as worker:
        said = worker.communicate(timeout=20)[0]

    assert said == "1 metrics could not be written to PROMETHEUS_MULTIPROC_DIR and are given up\n"
