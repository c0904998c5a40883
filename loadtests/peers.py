"""What one request costs: sessionpool beside the other clients, against the same nginx, in the same minutes.

`python -m loadtests.peers --help` tells how to run it. How it measures, so that the figures can be judged:

- nginx runs on one CPU, the client on another. Each measurement is a fresh process of its own (one client,
  one case, one number of threads), so imports, allocator and garbage of one client never burden the next.
- Rounds are the outermost loop: within a round, every client does the same case with the same number of
  threads directly after the other. Machines are noisy over minutes; so ratios are taken inside a round, and
  the median of the rounds' ratios is reported with the smallest and the largest.
- Threads warm up (connections opened, every body and cookie checked), meet at a barrier, and only then CPU
  (user + system of the whole process, threads of native clients included) and wall time begin to count.
- Every response's status and length are checked, and every sixteenth body byte for byte: a client that
  returns a wrong answer has no figure. In the cookie case every response sets a new value, and it is
  checked (every sixteenth time) that the value set by one response came back with the next request.
- Every client may open as many connections as it has threads, 32 at most; the column `conns` shows how many
  the server saw. `--connections` makes them fewer than the threads, to see who copes with waiting.
- Settings are each client's defaults except for the pool's size and the authority for TLS. sessionpool runs
  with everything on: one leased session per worker, bounded and fair pool, default timeouts, an `Observer`
  that counts every event and keeps a latency histogram. Where a client has no cookie jar, the least a user
  would write by hand is in its place (raw sockets, urllib3); where the jar is one for all threads, it is
  only checked that a cookie came back.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import bisect
import contextlib
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import platform
import queue
import resource
import shlex
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attrs

from loadtests.servers import Nginx, NginxError, find_nginx, json_document, nginx_version

ROOT = Path(__file__).resolve().parents[1]
MOST_CONNECTIONS = 32
CHECK_EVERY = 16
WARM_UP_REQUESTS = 20
WARM_UP_SECONDS = 0.1
MEASUREMENT_TIMEOUT = 120.0

# Variables that would send a client elsewhere or make it trust someone else.
_MEDDLING = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC")


# What is fetched -----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Case:
    """One thing to fetch over and over.

    Attributes:
        title: For people.
        path: On the server.
        size: Of the body.
        tls: Over https, verified.
        cookies: Every response sets a cookie that has to come back.
    """

    title: str
    path: str
    size: int
    tls: bool = False
    cookies: bool = False


CASES = {
    "http1k": Case(title="1 KiB JSON over http", path="/1k.json", size=1024),
    "http100k": Case(title="100 KiB JSON over http", path="/100k.json", size=102_400),
    "https1k": Case(title="1 KiB JSON over https, verified", path="/1k.json", size=1024, tls=True),
    "cookies": Case(title="1 KiB JSON, a cookie set every time", path="/cookies.json", size=1024, cookies=True),
}


@attrs.frozen(kw_only=True)
class Target:
    """What a client needs to know before it starts.

    Attributes:
        url: What to fetch.
        ca_file: PEM file to verify https with.
        threads: Workers that will ask at once.
        connections: The most connections the client may open.
        cookies: Whether cookies have to be kept.
    """

    url: str
    ca_file: str
    threads: int
    connections: int
    cookies: bool


# The clients ---------------------------------------------------------------------------------------

Reply = tuple[int, Any, Any]
Fetch = Callable[[], Reply]
"""Fetches once: the status, the body, and what `Client.field` reads fields from."""


class Client:
    """One client under measurement; made, used by one `worker` per thread, closed.

    Modules are loaded by name and typed as `Any`: none of them is a dependency, and some have no types.

    Attributes:
        package: The distribution that has to be installed, None for none.
        own_connections: One connection per worker by its nature; it cannot do with fewer.
        own_cookies: Each worker has its own cookies, so it is known which value must come back.
    """

    package: ClassVar[str | None] = None
    own_connections: ClassVar[bool] = False
    own_cookies: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target
        self.module: Any = None if self.package is None else importlib.import_module(self.package)

    def worker(self) -> AbstractContextManager[Fetch]:
        """What one thread uses from start to end."""
        raise NotImplementedError

    def field(self, response: Any, name: str) -> str | None:
        """A field of the response's head."""
        value: str | None = response.headers.get(name)
        return value

    def seen(self) -> int | None:
        """Responses that the client's own metrics counted, None where it has none."""
        return None

    def close(self) -> None:
        """Give everything back."""


class RawSockets(Client):
    """The floor: bytes built beforehand, head and body read properly, nothing else."""

    own_cookies = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        parts = urlsplit(target.url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._context = ssl.create_default_context(cafile=target.ca_file) if parts.scheme == "https" else None
        self._head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\n".encode("ascii")
        self._wait_all = 0 if self._context else socket.MSG_WAITALL
        self._idle: queue.LifoQueue[socket.socket] | None = None
        if target.connections < target.threads:
            self._idle = queue.LifoQueue()
            for _ in range(target.connections):
                self._idle.put(self._connect())

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(self._address)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(plain, server_hostname=self._address[0]) if self._context else plain

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        cookie = b""

        def exchange(connection: socket.socket) -> Reply:
            nonlocal cookie
            connection.sendall(request if not cookie else b"%sCookie: %s\r\n\r\n" % (self._head, cookie))
            data = connection.recv(16_384)
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += self._more(connection)
            at = data.find(b"\r\nContent-Length: ") + 18
            length = int(data[at : data.find(b"\r\n", at)])
            body: bytes | bytearray = data[end + 4 :]
            if len(body) < length:
                have = len(body)
                whole = bytearray(length)
                whole[:have] = body
                with memoryview(whole) as view:
                    while have < length:
                        got = connection.recv_into(view[have:], length - have, self._wait_all)
                        if not got:
                            raise EOFError("the connection ended inside a body")
                        have += got
                body = whole
            if cookies:
                at = data.find(b"\r\nSet-Cookie: ", 0, end) + 14
                cookie = data[at : data.find(b";", at)]
            return int(data[9:12]), body, data

        request = self._head + b"\r\n"
        cookies = self.target.cookies
        idle = self._idle
        if idle is None:
            with self._connect() as own:
                yield lambda: exchange(own)
        else:

            def shared() -> Reply:
                connection = idle.get()
                try:
                    return exchange(connection)
                finally:
                    idle.put(connection)

            yield shared

    @staticmethod
    def _more(connection: socket.socket) -> bytes:
        if not (data := connection.recv(16_384)):
            raise EOFError("the connection ended inside a head")
        return data

    def field(self, response: Any, name: str) -> str | None:
        head = response[: response.find(b"\r\n\r\n")].decode("latin-1")
        lines = (line.partition(": ") for line in head.split("\r\n"))
        return next((value for key, _, value in lines if key == name), None)

    def close(self) -> None:
        while self._idle is not None and not self._idle.empty():
            self._idle.get().close()


class Urllib3(Client):
    """One `HTTPConnectionPool` for all threads, bounded: its cheapest use, PoolManager costs a fifth more."""

    package = "urllib3"
    own_cookies = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        parts = urlsplit(target.url)
        self._path = parts.path
        tls = {"ca_certs": target.ca_file} if parts.scheme == "https" else {}
        kind = self.module.HTTPSConnectionPool if tls else self.module.HTTPConnectionPool
        self._pool = kind(parts.hostname, parts.port, maxsize=target.connections, block=True, **tls)

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        ask, path = self._pool.request, self._path
        headers: dict[str, str] = {}

        def plain() -> Reply:
            response = ask("GET", path)
            return response.status, response.data, response

        def with_cookie() -> Reply:
            response = ask("GET", path, headers=headers)
            headers["Cookie"] = response.headers["Set-Cookie"].partition(";")[0]
            return response.status, response.data, response

        yield with_cookie if self.target.cookies else plain

    def close(self) -> None:
        self._pool.close()


class RequestsShared(Client):
    """One `requests.Session` for all threads: what people do, and requests does not promise to work."""

    package = "requests"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._session = self._make()

    def _make(self) -> Any:
        session = self.module.Session()
        session.verify = self.target.ca_file
        adapter = self.module.adapters.HTTPAdapter(pool_maxsize=self.target.connections, pool_block=True)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _fetcher(self, session: Any) -> Fetch:
        ask, url = session.get, self.target.url

        def fetch() -> Reply:
            response = ask(url)
            return response.status_code, response.content, response

        return fetch

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        yield self._fetcher(self._session)

    def close(self) -> None:
        self._session.close()


class RequestsThreads(RequestsShared):
    """A `requests.Session` per thread: isolated, but connections are neither shared nor bounded."""

    own_connections = True
    own_cookies = True

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        with self._make() as session:
            yield self._fetcher(session)


class Httpx(Client):
    """One `httpx.Client` for all threads."""

    package = "httpx"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        limits = self.module.Limits(max_connections=target.connections, max_keepalive_connections=target.connections)
        context = ssl.create_default_context(cafile=target.ca_file)
        self._client = self.module.Client(limits=limits, verify=context)

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        ask, url = self._client.get, self.target.url

        def fetch() -> Reply:
            response = ask(url)
            return response.status_code, response.content, response

        yield fetch

    def close(self) -> None:
        self._client.close()


class Aiohttp(Client):
    """One `aiohttp.ClientSession`, tasks in the place of threads, asyncio's own loop."""

    package = "aiohttp"

    async def run(self, drive: Callable[[Callable[[], Awaitable[Reply]]], Awaitable[Measured]]) -> Measured:
        """Hand a coroutine function that fetches once to `drive`."""
        aiohttp, url = self.module, self.target.url
        connector = aiohttp.TCPConnector(
            limit=self.target.connections, ssl=ssl.create_default_context(cafile=self.target.ca_file)
        )
        jar = aiohttp.CookieJar(unsafe=True)  # else it keeps no cookies of hosts that are bare addresses
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:

            async def fetch() -> Reply:
                async with session.get(url) as response:
                    return response.status, await response.read(), response

            return await drive(fetch)


class Pycurl(Client):
    """A curl handle per thread, body and head collected as any wrapper around it does."""

    package = "pycurl"
    own_connections = True
    own_cookies = True

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        pycurl = self.module
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, self.target.url)
        curl.setopt(pycurl.CAINFO, self.target.ca_file)
        curl.setopt(pycurl.NOSIGNAL, 1)
        if self.target.cookies:
            curl.setopt(pycurl.COOKIEFILE, "")  # switches its cookie engine on

        def fetch() -> Reply:
            body = io.BytesIO()
            head: list[bytes] = []
            curl.setopt(pycurl.WRITEFUNCTION, body.write)
            curl.setopt(pycurl.HEADERFUNCTION, head.append)
            curl.perform()
            return curl.getinfo(pycurl.RESPONSE_CODE), body.getvalue(), head

        try:
            yield fetch
        finally:
            curl.close()

    def field(self, response: Any, name: str) -> str | None:
        lines = (line.decode("latin-1").rstrip("\r\n").partition(": ") for line in response)
        return next((value for key, _, value in lines if key == name), None)


class Pyreqwest(Client):
    """One `SyncClient` for all threads; the work is done by Rust in a thread of its own."""

    package = "pyreqwest"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        client: Any = importlib.import_module("pyreqwest.client")
        builder = client.SyncClientBuilder().pool_max_idle_per_host(target.connections)
        if target.connections < target.threads:
            builder = builder.max_connections(target.connections)
        if target.cookies:
            builder = builder.default_cookie_store(True)
        if target.url.startswith("https:"):
            builder = builder.add_root_certificate_pem(Path(target.ca_file).read_bytes())
        self._client = builder.build()

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        ask, url = self._client.get, self.target.url

        def fetch() -> Reply:
            response = ask(url).build().send()
            return response.status, response.bytes(), response

        yield fetch

    def field(self, response: Any, name: str) -> str | None:
        value: str | None = response.get_header(name)
        return value

    def close(self) -> None:
        self._client.close()


class SessionpoolLease(Client):
    """sessionpool, everything on: a leased session per worker, an observer that counts all it is told."""

    package = "sessionpool"
    own_cookies = True

    def __init__(self, target: Target) -> None:
        from sessionpool import Limits, SessionPool

        super().__init__(target)
        self._observer = _make_observer()
        self._pool = SessionPool(
            limits=Limits(per_host=target.connections, total=max(100, target.connections)),
            verify=target.ca_file,
            observer=self._observer,
        )

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        with self._pool.lease() as session:
            yield self._fetcher(session.get)

    def _fetcher(self, ask: Callable[[str], Any]) -> Fetch:
        url = self.target.url

        def fetch() -> Reply:
            response = ask(url)
            return response.status_code, response.content, response

        return fetch

    def seen(self) -> int | None:
        count: int = self._observer.responses()
        return count

    def close(self) -> None:
        self._pool.close()


class SessionpoolGet(SessionpoolLease):
    """The shorthand `pool.get(url)`: this thread's session, leased for each call."""

    @contextmanager
    def worker(self) -> Iterator[Fetch]:
        yield self._fetcher(self._pool.get)


def _make_observer() -> Any:
    """Return an observer that counts every event, with a histogram of latencies by method and status."""
    from sessionpool import Observer

    bounds = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

    class Cell:
        """One thread's counts, so that no two threads ever add to the same number."""

        __slots__ = ("answering", "buckets", "closed", "connected", "failed", "received", "sent", "waited", "waiting")

        def __init__(self) -> None:
            self.waited = self.connected = self.closed = self.failed = self.sent = self.received = 0
            self.waiting = self.answering = 0.0
            self.buckets: dict[tuple[str, int], list[int]] = {}

    class Cells(threading.local):
        """Makes each thread its cell."""

        def __init__(self) -> None:
            self.cell = Cell()
            cells.append(self.cell)

    class Counting(Observer):
        """Counts what it is told, in the cell of the thread that tells."""

        def waited(self, _host: str, seconds: float) -> None:
            cell = local.cell
            cell.waited += 1
            cell.waiting += seconds

        def connected(self, *_: object) -> None:
            local.cell.connected += 1

        def closed(self, *_: object) -> None:
            local.cell.closed += 1

        def failed(self, *_: object) -> None:
            local.cell.failed += 1

        def responded(self, method: str, _host: str, status: int, seconds: float, sent: int, received: int) -> None:
            cell = local.cell
            if (buckets := cell.buckets.get((method, status))) is None:
                buckets = cell.buckets[method, status] = [0] * (len(bounds) + 1)
            buckets[bisect.bisect_left(bounds, seconds)] += 1
            cell.answering += seconds
            cell.sent += sent
            cell.received += received

        def responses(self) -> int:
            return sum(sum(buckets) for cell in cells for buckets in cell.buckets.values())

    cells: list[Cell] = []
    local = Cells()
    return Counting()


CLIENTS: dict[str, tuple[str, type[Client]]] = {
    "raw": ("raw sockets (floor)", RawSockets),
    "sessionpool": ("sessionpool, leased", SessionpoolLease),
    "sessionpool-get": ("sessionpool, pool.get", SessionpoolGet),
    "pycurl": ("pycurl, per thread", Pycurl),
    "pyreqwest": ("pyreqwest (Rust)", Pyreqwest),
    "aiohttp": ("aiohttp (async)", Aiohttp),
    "urllib3": ("urllib3", Urllib3),
    "httpx": ("httpx", Httpx),
    "requests": ("requests, shared", RequestsShared),
    "requests-threads": ("requests, per thread", RequestsThreads),
}
"""Key on the command line -> name for people, and the client."""


def why_not(key: str) -> str | None:
    """Return why a client cannot be measured here, None when it can."""
    package = CLIENTS[key][1].package
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"{package} is not installed: pip install 'sessionpool[peers]'"


# One measurement, in a process of its own ----------------------------------------------------------


class WrongAnswerError(Exception):
    """A client returned something else than what the server sent."""


@attrs.frozen(kw_only=True)
class Job:
    """What one process measures.

    Attributes:
        client: Key in `CLIENTS`.
        case: Key in `CASES`.
        target: Handed to the client.
        seconds: How long to measure, 0 to count requests instead.
        requests: Requests in all, shared out evenly and rounded up; 0 to go by time.
        cpu: CPU to stay on, None for any.
    """

    client: str
    case: str
    target: Target
    seconds: float
    requests: int
    cpu: int | None


@attrs.frozen(kw_only=True)
class Measured:
    """What it found, warm-up left out; times in seconds.

    Attributes:
        requests: Requests made.
        user: CPU time of the process outside the kernel.
        system: CPU time of the process inside the kernel.
        wall: From the start of the first to the end of the last request.
        p50: Half the requests took no longer.
        p99: 99 of 100 took no longer.
        longest: The slowest request.
    """

    requests: int
    user: float
    system: float
    wall: float
    p50: float
    p99: float
    longest: float

    @property
    def cpu(self) -> float:
        """CPU time per request."""
        return (self.user + self.system) / self.requests

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.wall


class Tally:
    """Takes one worker's replies: times and checks them, says when to stop. Confined to its thread.

    Args:
        client: Reads fields for the cookie check.
        case: What is fetched.
        exact: It is known which cookie must come back.
        least: Replies to take at least.
        seconds: Time to go on for at least.
        every: Check the body (and the cookie) of each such reply.
    """

    def __init__(self, client: Client, case: Case, *, exact: bool, least: int, seconds: float, every: int) -> None:
        self.latencies = array.array("d")
        self._field = client.field
        self._size = case.size
        self._body = json_document(case.size)
        self._cookies = case.cookies
        self._exact = exact
        self._least = least
        self._every = every
        self._set: str | None = None
        self._until = time.perf_counter() + seconds
        self._begin = time.perf_counter()

    def take(self, status: int, body: Any, response: Any) -> bool:
        """Note a reply that came just now; True to go on. The clock of the next one starts on return."""
        now = time.perf_counter()
        self.latencies.append(now - self._begin)
        if status != 200 or len(body) != self._size:
            raise WrongAnswerError(f"status {status} and {len(body)} bytes instead of 200 and {self._size}")
        count = len(self.latencies)
        turn = count % self._every
        if turn <= 1:
            self._check(turn, body, response)
        self._begin = time.perf_counter()
        return count < self._least or now < self._until

    def _check(self, turn: int, body: Any, response: Any) -> None:
        if turn == 0 and body != self._body:
            raise WrongAnswerError("a body of the right length, but not the bytes that were sent")
        if not self._cookies:
            return
        if turn == 1 % self._every and self._set is not None:
            back = self._field(response, "X-Cookie-Back")
            if back != self._set if self._exact else not back:
                raise WrongAnswerError(f"the cookie sent was {back!r}, the one set before {self._set!r}")
        self._set = None
        if turn == 0:
            line = self._field(response, "Set-Cookie")
            if line is None:
                raise WrongAnswerError("Set-Cookie is missing from a response that has it")
            self._set = line.partition(";")[0].removeprefix("x=")


def measure(job: Job) -> Measured:
    """Measure in this process. Call it once: the process's own history is part of what is measured."""
    if job.cpu is not None:
        os.sched_setaffinity(0, {job.cpu})
    kind = CLIENTS[job.client][1]
    client = kind(job.target)
    case = CASES[job.case]
    exact = kind.own_cookies or job.target.threads == 1
    make = functools.partial(Tally, client, case, exact=exact)
    warm = functools.partial(make, least=WARM_UP_REQUESTS, seconds=WARM_UP_SECONDS, every=1)
    share = math.ceil(job.requests / job.target.threads)
    real = functools.partial(make, least=share, seconds=job.seconds, every=CHECK_EVERY)
    if isinstance(client, Aiohttp):
        return asyncio.run(client.run(functools.partial(_drive_tasks, job.target.threads, warm, real)))
    return _drive_threads(client, job.target.threads, warm, real)


class _Meter:
    """CPU and wall time between two instants."""

    def __init__(self) -> None:
        gc.collect()
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._wall = time.perf_counter()

    def stop(self, tallies: Iterable[Tally]) -> Measured:
        wall = time.perf_counter() - self._wall
        usage = resource.getrusage(resource.RUSAGE_SELF)
        latencies = sorted(latency for tally in tallies for latency in tally.latencies)
        count = len(latencies)
        return Measured(
            requests=count,
            user=usage.ru_utime - self._usage.ru_utime,
            system=usage.ru_stime - self._usage.ru_stime,
            wall=wall,
            p50=latencies[(count - 1) // 2],
            p99=latencies[math.ceil(count * 0.99) - 1],
            longest=latencies[-1],
        )


def _drive_threads(client: Client, threads: int, warm: Callable[[], Tally], real: Callable[[], Tally]) -> Measured:
    stages = [threading.Barrier(threads + 1) for _ in ("warm", "go", "done")]
    tallies: list[Tally] = []
    warmed: list[Tally] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with client.worker() as fetch:
                tally = warm()
                warmed.append(tally)
                while tally.take(*fetch()):
                    pass
                stages[0].wait()
                stages[1].wait()
                tally = real()
                tallies.append(tally)
                while tally.take(*fetch()):
                    pass
                stages[2].wait()
        except threading.BrokenBarrierError:
            pass  # another worker failed, and its error is the one to tell
        except BaseException as error:
            errors.append(error)
            for stage in stages:
                stage.abort()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        stages[0].wait()
        meter = _Meter()
        stages[1].wait()
        stages[2].wait()
    except threading.BrokenBarrierError:
        raise errors[0] from None
    measured = meter.stop(tallies)
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    client.close()
    made = sum(len(tally.latencies) for tally in [*warmed, *tallies])
    if (seen := client.seen()) not in (None, made):
        raise WrongAnswerError(f"the client's observer was told of {seen} responses, there were {made}")
    return measured


async def _drive_tasks(
    tasks: int,
    warm: Callable[[], Tally],
    real: Callable[[], Tally],
    fetch: Callable[[], Awaitable[Reply]],
) -> Measured:
    async def work(make: Callable[[], Tally]) -> Tally:
        tally = make()
        while tally.take(*await fetch()):
            pass
        return tally

    await asyncio.gather(*(work(warm) for _ in range(tasks)))
    meter = _Meter()
    tallies = await asyncio.gather(*(work(real) for _ in range(tasks)))
    return meter.stop(tallies)


# All measurements ----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Measurement:
    """One process's result with what it was about.

    Attributes:
        round: From 1.
        case: Key in `CASES`.
        threads: Workers.
        client: Key in `CLIENTS`.
        connections: Connections the server accepted from it.
        measured: The figures.
    """

    round: int
    case: str
    threads: int
    client: str
    connections: int
    measured: Measured


@attrs.frozen(kw_only=True)
class Plan:
    """What to run; see `--help`."""

    clients: Sequence[str]
    cases: Sequence[str]
    threads: Sequence[int]
    rounds: int
    seconds: float
    requests: int
    connections: int | None

    def allowed(self, threads: int) -> int:
        """Connections a client may open."""
        return min(threads, self.connections or MOST_CONNECTIONS)


@attrs.define
class Results:
    """What was found, and what could not be; an interrupted run keeps what it has so far."""

    about: dict[str, Any]
    plan: Plan
    measurements: list[Measurement] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)


def two_cpus() -> tuple[int, int] | None:
    """CPUs for the client and the server: two different cores where there are; None without a second CPU."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return None
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpus[0]}/topology/thread_siblings_list")
    twins: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        for part in siblings.read_text("ascii").strip().split(","):
            first, _, last = part.partition("-")
            twins.update(range(int(first), int(last or first) + 1))
    return cpus[0], next((cpu for cpu in reversed(cpus) if cpu not in twins), cpus[-1])


def run(results: Results, say: Callable[[str], None]) -> None:
    """Run the whole plan, adding to `results`; `say` is told what goes on, in pieces of lines."""
    plan = results.plan
    cpus = two_cpus()
    if (load := os.getloadavg()[0]) > 1:
        results.notes.append(f"the machine was busy when this began (load {load:.1f}): only the ratios mean something")
    if cpus is None:
        results.notes.append("one CPU only: client and server share it, so rates and latencies mean little")
    clients = []
    for key in plan.clients:
        if reason := why_not(key):
            results.notes.append(f"{key} left out: {reason}")
        else:
            clients.append(key)
    small, large = json_document(1024), json_document(102_400)
    documents = {"/1k.json": small, "/100k.json": large, "/cookies.json": small}
    nginx = Nginx(documents=documents, cookie_paths=["/cookies.json"], tls=True, cpu=cpus[1] if cpus else None)
    with nginx:
        for number in range(plan.rounds):
            # Each round starts with another client, so that none always comes after the same one.
            shift = number * len(clients) // plan.rounds
            order = clients[shift:] + clients[:shift]
            for case in plan.cases:
                for threads in plan.threads:
                    target = Target(
                        url=(nginx.tls_url if CASES[case].tls else nginx.url) + CASES[case].path,
                        ca_file=str(nginx.ca_file),
                        threads=threads,
                        connections=plan.allowed(threads),
                        cookies=CASES[case].cookies,
                    )
                    say(f"round {number + 1}/{plan.rounds}, {case}, {_count(threads, 'thread')}:")
                    for key in order:
                        if CLIENTS[key][1].own_connections and plan.allowed(threads) < threads:
                            _note(
                                results,
                                f"{key} left out where connections are fewer than threads: it has one each",
                            )
                            continue
                        job = Job(
                            client=key,
                            case=case,
                            target=target,
                            seconds=plan.seconds,
                            requests=plan.requests,
                            cpu=cpus[0] if cpus else None,
                        )
                        before = nginx.status().accepted
                        try:
                            measured = _in_process(job)
                        except RuntimeError as error:
                            results.failed.append(f"round {number + 1}, {case}, {threads} threads, {key}: {error}")
                            say(f" {key} FAILED")
                            continue
                        opened = nginx.status().accepted - before
                        results.measurements.append(
                            Measurement(
                                round=number + 1,
                                case=case,
                                threads=threads,
                                client=key,
                                connections=opened,
                                measured=measured,
                            )
                        )
                        say(f" {key} {measured.cpu * 1e6:.0f}")
                    say(" µs\n")


def _in_process(job: Job) -> Measured:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _MEDDLING and not name.lower().endswith("_proxy")
    }
    command = [sys.executable, "-m", "loadtests.peers", "--measure", json.dumps(attrs.asdict(job))]
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MEASUREMENT_TIMEOUT + job.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no result after {error.timeout:.0f} s") from error
    if ended.returncode != 0:
        raise RuntimeError((ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1])
    return Measured(**json.loads(ended.stdout))


def _note(results: Results, text: str) -> None:
    if text not in results.notes:
        results.notes.append(text)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# What is said about them ---------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Row:
    """One client in one case with one number of threads, over all rounds: medians.

    Attributes:
        case: Key in `CASES`.
        threads: Workers.
        client: Key in `CLIENTS`.
        rounds: Rounds that gave a figure.
        cpu: Client CPU microseconds per request.
        rate: Requests per second.
        p50: Milliseconds.
        p99: Milliseconds.
        longest: Milliseconds.
        to_urllib3: CPU as a multiple of urllib3's in the same round: median, smallest, largest; None without.
        to_floor: The same, of the raw sockets'.
        connections: The most the server saw from one process.
    """

    case: str
    threads: int
    client: str
    rounds: int
    cpu: float
    rate: float
    p50: float
    p99: float
    longest: float
    to_urllib3: tuple[float, float, float] | None
    to_floor: tuple[float, float, float] | None
    connections: int


def rows(results: Results) -> list[Row]:
    """Sum up the rounds, in the order of cases, threads and `CLIENTS`."""
    groups: dict[tuple[str, int, str], dict[int, Measurement]] = {}
    for each in results.measurements:
        groups.setdefault((each.case, each.threads, each.client), {})[each.round] = each
    found = []
    for case in results.plan.cases:
        for threads in results.plan.threads:
            for client in CLIENTS:
                if rounds := groups.get((case, threads, client)):
                    measured = [each.measured for each in rounds.values()]
                    found.append(
                        Row(
                            case=case,
                            threads=threads,
                            client=client,
                            rounds=len(rounds),
                            cpu=statistics.median(each.cpu for each in measured) * 1e6,
                            rate=statistics.median(each.rate for each in measured),
                            p50=statistics.median(each.p50 for each in measured) * 1e3,
                            p99=statistics.median(each.p99 for each in measured) * 1e3,
                            longest=statistics.median(each.longest for each in measured) * 1e3,
                            to_urllib3=_ratio(rounds, groups.get((case, threads, "urllib3"))),
                            to_floor=_ratio(rounds, groups.get((case, threads, "raw"))),
                            connections=max(each.connections for each in rounds.values()),
                        )
                    )
    return found


def _ratio(rounds: dict[int, Measurement], base: dict[int, Measurement] | None) -> tuple[float, float, float] | None:
    base = base or {}
    ratios = [each.measured.cpu / base[number].measured.cpu for number, each in rounds.items() if number in base]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


_HEADS = ("client", "CPU µs", "req/s", "p50 ms", "p99 ms", "longest", "x urllib3", "x floor", "conns")


def _cells(row: Row) -> tuple[str, ...]:
    def ratio(of: tuple[float, float, float] | None, digits: int) -> str:
        if of is None:
            return "-"
        middle, low, high = (f"{each:.{digits}f}" for each in of)
        return middle if row.rounds == 1 else f"{middle} ({low}-{high})"

    return (
        CLIENTS[row.client][0],
        f"{row.cpu:.0f}" if row.cpu >= 100 else f"{row.cpu:.1f}",
        f"{row.rate:,.0f}",
        f"{row.p50:.2f}",
        f"{row.p99:.2f}",
        f"{row.longest:.1f}",
        ratio(row.to_urllib3, 2),
        ratio(row.to_floor, 1),
        str(row.connections),
    )


def _blocks(results: Results) -> Iterator[tuple[str, list[Row]]]:
    found = rows(results)
    for case in results.plan.cases:
        for threads in results.plan.threads:
            if block := [row for row in found if (row.case, row.threads) == (case, threads)]:
                most = results.plan.allowed(threads)
                title = f"{CASES[case].title}: {_count(threads, 'thread')}, {_count(most, 'connection')} at most"
                yield title, block


def table(results: Results) -> str:
    """The figures as text for a terminal."""
    lines = []
    for title, block in _blocks(results):
        cells = [_HEADS, *(_cells(row) for row in block)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADS))]
        lines += ["", title]
        lines += [
            "  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)])
            for line in cells
        ]
    return "\n".join(lines[1:])


def markdown(results: Results) -> str:
    """The figures as a Markdown page: an overview, then everything, then machine, versions and command."""
    found = {(row.case, row.threads, row.client): row for row in rows(results)}
    plan, about = results.plan, results.about
    pairs = [(case, threads) for case in plan.cases for threads in plan.threads]

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        return f"{row.cpu:.0f}" + ("" if row.to_urllib3 is None else f" ({row.to_urllib3[0]:.2f})")

    lines = [
        "# What one request costs",
        "",
        "CPU microseconds of the client per request (user + system; in brackets as a multiple of",
        "urllib3's in the same round), by case and threads. How it is measured: `loadtests/README.md`.",
        "",
        "| client | " + " | ".join(f"{case} x {threads}" for case, threads in pairs) + " |",
        "|---|" + "---:|" * len(pairs),
    ]
    for client, (name, _) in CLIENTS.items():
        if any((case, threads, client) in found for case, threads in pairs):
            cells = [cell(found.get((case, threads, client))) for case, threads in pairs]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for title, block in _blocks(results):
        lines += [
            "",
            f"## {title}",
            "",
            "| " + " | ".join(_HEADS) + " |",
            "|---|" + "---:|" * (len(_HEADS) - 1),
        ]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in block]
    lines += ["", "## Conditions", ""]
    lines += [f"- {name}: {value}" for name, value in about.items() if name != "versions"]
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    lines += [f"- {note}" for note in results.notes]
    lines += [f"- failed: {failure}" for failure in results.failed]
    return "\n".join(lines) + "\n"


def chart(results: Results, path: Path) -> bool:
    """Draw CPU per request as bars, a panel per case, to `path`.png and .svg; False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    found = {(row.case, row.threads, row.client): row for row in rows(results)}
    plan = results.plan
    clients = [client for client in CLIENTS if any(key[2] == client for key in found)]
    across = 2 if len(plan.cases) > 1 else 1
    down = math.ceil(len(plan.cases) / across)
    height = 0.24 * len(plan.threads) + 0.2
    figure, axes = pyplot.subplots(
        down, across, figsize=(7.5 * across, 1.4 + down * (0.9 + height * len(clients))), squeeze=False
    )
    shades = {
        False: ("#b9c4d0", "#8798ab", "#56697f", "#33424f"),
        True: ("#f3b27a", "#e68a3c", "#c4661a", "#8f4710"),
    }
    bar = 0.8 / len(plan.threads)
    for panel in axes.flat[len(plan.cases) :]:
        panel.set_visible(False)
    for panel, case in zip(axes.flat, plan.cases, strict=False):
        for at, threads in enumerate(plan.threads):
            for place, client in enumerate(clients):
                if (row := found.get((case, threads, client))) is None:
                    continue
                y = place + (at - (len(plan.threads) - 1) / 2) * bar
                shade = shades[client.startswith("sessionpool")][at % 4]
                panel.barh(y, row.cpu, bar * 0.92, color=shade)
                panel.annotate(
                    f"{row.cpu:.0f}",
                    (row.cpu, y),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                )
        panel.set_yticks(range(len(clients)), [CLIENTS[client][0] for client in clients])
        panel.invert_yaxis()
        panel.set_title(CASES[case].title, loc="left", fontsize=11)
        panel.set_xlabel("client CPU, µs per request (less is better)")
        panel.margins(x=0.1)
        panel.spines[["top", "right"]].set_visible(False)
    handles = [
        matplotlib.patches.Patch(color=shades[False][at % 4], label=_count(threads, "thread"))
        for at, threads in enumerate(plan.threads)
    ]
    figure.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False)
    conditions = f"{results.about['machine']}, Python {results.about['versions']['python']}, {results.about['date']}"
    inch = 1 / figure.get_size_inches()[1]
    figure.suptitle("What one request costs", x=0.01, y=1 - 0.1 * inch, ha="left", va="top", fontsize=12)
    figure.text(0.01, 1 - 0.38 * inch, conditions, va="top", fontsize=7)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 * inch))
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=110)
    pyplot.close(figure)
    return True


def about(arguments: Sequence[str]) -> dict[str, Any]:
    """Where, when, with what: the conditions of a run."""
    model = platform.processor() or platform.machine()
    kernel = platform.release().partition("-")[0]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = {"python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for package in dict.fromkeys(client.package for _, client in CLIENTS.values()):
        if package is not None:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
    versions["ssl"] = ssl.OPENSSL_VERSION
    if program := find_nginx():
        versions["nginx"] = nginx_version(program).removeprefix("nginx/")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "loadtests.peers", *arguments]),
        "machine": f"{model}, {os.cpu_count()} CPUs, {platform.system()} {kernel}",
        "versions": versions,
    }


def save(results: Results, directory: Path, name: str) -> list[Path]:
    """Write the JSON, the Markdown page and the chart; return what was written."""
    path = directory / name
    document = {
        **results.about,
        "plan": attrs.asdict(results.plan),
        "rows": [attrs.asdict(row) for row in rows(results)],
        "measurements": [attrs.asdict(each) for each in results.measurements],
        "notes": results.notes,
        "failed": results.failed,
    }
    texts = {".json": json.dumps(document, indent=1, ensure_ascii=False) + "\n", ".md": markdown(results)}
    for suffix, text in texts.items():
        unfinished = path.with_suffix(suffix + ".tmp")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path.with_suffix(suffix))
    written = [path.with_suffix(suffix) for suffix in texts]
    if results.measurements and chart(results, path):
        written += [path.with_suffix(".png"), path.with_suffix(".svg")]
    return written


# The command ---------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
        return int(text)

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= 600:
            raise argparse.ArgumentTypeError(f"seconds above 0, 600 at most, not {text!r}")
        return value

    def some(known: Iterable[str]) -> Callable[[str], list[str]]:
        names = list(known)

        def parse(text: str) -> list[str]:
            chosen = [part.strip() for part in text.split(",") if part.strip()]
            if unknown := [part for part in chosen if part not in names]:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
            if not chosen:
                raise argparse.ArgumentTypeError(f"nothing chosen of {', '.join(names)}")
            return list(dict.fromkeys(chosen))

        return parse

    def numbers(text: str) -> list[int]:
        return list(dict.fromkeys(positive(part.strip()) for part in text.split(",")))

    listing = ["clients (--clients):"]
    listing += [f"  {key:<18}{client.__doc__}" for key, (_, client) in CLIENTS.items()]
    listing += ["", "cases (--cases):", *(f"  {key:<18}{case.title}" for key, case in CASES.items())]
    listing += [
        "",
        "A client that is not installed is left out; pip install 'sessionpool[peers]' brings all.",
        "Needs nginx (apt-get install nginx-light) and, for its certificate, trustme.",
        "Run it on a quiet machine. Ratios within a round are the steadiest figures; rates and latencies the least.",
    ]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers",
        description="Measure what one HTTP request costs: sessionpool beside other clients, against nginx.",
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=some(CLIENTS), metavar="A,B", help="only these (default: all)")
    parser.add_argument("--cases", type=some(CASES), metavar="A,B", help="only these (default: all)")
    parser.add_argument("--threads", type=numbers, metavar="N,M", help="numbers of threads (default: 1,8,32)")
    parser.add_argument("--rounds", type=positive, metavar="N", help="times everything is repeated (default: 3)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=seconds, metavar="S", help="length of a measurement (default: 0.5)")
    length.add_argument("--requests", type=positive, metavar="N", help="requests of a measurement, instead")
    parser.add_argument(
        "--connections",
        type=positive,
        metavar="N",
        help="connections a client may open (default: as threads, 32 at most); fewer make threads wait",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute: 1 round of 0.2 s, 1 and 8 threads, saved as peers-quick.*",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to save (default: loadtests/results beside this module)",
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a Job as JSON: what the processes are started with
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 when a measurement failed, 130 after Ctrl-C, else 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.measure is not None:
        raw = json.loads(chosen.measure)
        print(json.dumps(attrs.asdict(measure(Job(**{**raw, "target": Target(**raw["target"])})))))
        return 0
    plan = Plan(
        clients=chosen.clients or list(CLIENTS),
        cases=chosen.cases or list(CASES),
        threads=chosen.threads or ([1, 8] if chosen.quick else [1, 8, 32]),
        rounds=chosen.rounds or (1 if chosen.quick else 3),
        seconds=0.0 if chosen.requests else chosen.seconds or (0.2 if chosen.quick else 0.5),
        requests=chosen.requests or 0,
        connections=chosen.connections,
    )
    directory = chosen.out or Path(__file__).with_name("results")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / "peers.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"cannot write to {directory}: {error.strerror}")
    shown = [part for part in arguments if part != str(chosen.out) and part not in ("--out", f"--out={chosen.out}")]
    results = Results(about=about(shown), plan=plan)
    total = len(plan.clients) * len(plan.cases) * len(plan.threads) * plan.rounds
    print(f"{_count(total, 'measurement')}; figures as they come: client CPU µs per request", flush=True)
    interrupted = False
    try:
        run(results, lambda text: print(text, end="", flush=True))
    except NginxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupted = True
        results.notes.append("interrupted: the last round is not complete")
    print("\n" + table(results))
    for note in results.notes:
        print(f"note: {note}")
    for failure in results.failed:
        print(f"failed: {failure}", file=sys.stderr)
    written = save(results, directory, "peers-quick" if chosen.quick else "peers")
    if results.measurements and not any(path.suffix == ".png" for path in written):
        print("note: no chart, matplotlib is not installed: pip install 'sessionpool[peers]'")
    print("saved: " + ", ".join(str(path) for path in written))
    return 130 if interrupted else 1 if results.failed or not results.measurements else 0


if __name__ == "__main__":
    sys.exit(main())
