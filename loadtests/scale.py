"""How the cost of a request, and the memory, grow with threads, hosts and identities.

`python -m loadtests.scale --help` tells how to run it. How it measures, so that the figures can be judged:

- One nginx on one CPU, the client on another. It listens on every address of the machine and answers
  127.0.0.0/8 alone, all of which is local on Linux: 127.1.0.0, 127.1.0.1, ... are as many hosts as one likes. A body
  of 1 KiB begins with the host and the cookie that the server was sent, and every body is checked against what was
  asked for: a wrong answer gives an error, not a figure, and exit status 1.
- Each measurement is a process of its own with a fresh pool. Its threads are started, its connections opened and its
  identities made; then all meet at a barrier, and only then CPU (user + system of the client's process) begins to
  count.
- Rounds are the outermost loop, and every other round goes from the largest size to the smallest. Ratios are taken
  inside a round; the median of the rounds' ratios is reported with the smallest and the largest.

What is measured (`PARTS` has each in a sentence):

threads
    The same number of requests in all, to one host over the same 8 connections, by more and more threads, each with
    its own session through `pool.get`. Each session has a cookie of its own that must come back. 8 threads never wait
    for a connection; with more of them, each request is a wait and a hand-over from thread to thread as well.
threads-queue
    The same over 4 connections: here 8 threads wait for each other already, and what grows is only their number.
threads-floor
    The least that threads can cost here: the same requests as prebuilt bytes over 8 bare sockets, handed from
    thread to thread first come first served. Its growth is that of the interpreter, the kernel and the caches.
hosts-kept
    8 threads walk over the hosts, each request to another host than the one before, on the connection that is open
    to it: `total` has room for all. What grows is what the client has to remember, in caches too.
hosts-runs
    A crawl politely done: 8 threads, each sends 10 requests in a row to a host and goes on to the next; 50
    connections in all, so a host that was left loses its connection. With one host a connection is closed after 10
    requests as well (`max_uses`), so that as many are opened: one for every 10 requests.
hosts-new
    The dearest: as hosts-kept with 50 connections in all and one use for each connection, so every request opens one,
    with one host as with many.
identities
    One thread, `with pool.lease(key) as session: session.get(...)`, each time another identity, jars empty.
identities-cookie
    The same; each identity has one cookie, which must come back. With many identities each is met for the first time
    in a while, so its `Cookie` line is made anew; with one it is ready.
memory
    What an idle identity keeps, by tracemalloc (what Python allocated) and by the growth of the resident set. `empty`:
    leased and released. `cookie`: one cookie set. `sent`: one cookie, set by a response and sent with a
    request. The name of the identity is the user's, and not counted.
micro
    One lease and release, one permit acquired and released, uncontended, in wall time: the minimum over all rounds,
    because other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import resource
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import get_ident
from typing import Any

import attrs

from loadtests.peers import ROOT, two_cpus
from loadtests.servers import Nginx, NginxError, find_nginx, nginx_version
from sessionpool import Lease, Limits, SessionPool
from sessionpool._clock import NEVER, SYSTEM_CLOCK
from sessionpool._ledger import Permit
from sessionpool._transport import Transport

CONNECTIONS = 8
FILLING = "x" * 1000
MEASUREMENT_TIMEOUT = 300.0
SPARE_FILES = 200
MICRO_LOOPS = 1000

PARTS = {
    "threads": "threads, 8 connections to one host",
    "threads-queue": "threads, 4 connections to one host",
    "threads-floor": "threads, 8 bare sockets, no sessionpool",
    "hosts-kept": "hosts in turn, all connections kept",
    "hosts-runs": "hosts in runs of 10 requests, 50 connections",
    "hosts-new": "hosts in turn, a connection per request",
    "identities": "identities in turn, jars empty",
    "identities-cookie": "identities in turn, a cookie each",
    "memory": "memory per idle identity",
    "micro": "uncontended lease, permit",
}
RATIO_LIMITS: dict[str, tuple[int, int, float | None]] = {
    "threads": (8, 1000, 1.5),
    "threads-queue": (8, 1000, 1.5),
    "threads-floor": (8, 1000, None),
    "hosts-kept": (1, 10_000, 1.5),
    "hosts-runs": (1, 10_000, 1.5),
    "hosts-new": (1, 10_000, 1.5),
}
"""Part -> the size compared with, the size compared, and the most that the ratio of their costs should be."""
MEMORY_LIMIT = 2048
MICRO_LIMIT = 2.0
MEMORY_KINDS = ("empty", "cookie", "sent")
MICRO_LIMITED = ("lease, own", "lease, key", "lease, fresh", "permit, idle connection", "permit, no connection")


class WrongAnswerError(Exception):
    """The server was asked something else than the client was told to ask."""


# One measurement, in a process of its own ----------------------------------------------------------


@attrs.frozen(kw_only=True)
class Job:
    """What one process measures.

    Attributes:
        part: Key in `PARTS`.
        size: Threads, hosts or identities.
        requests: Requests in all, at least one per thread.
        port: Where the server listens, on every address.
        cpu: CPU to stay on, None for any.
        kind: Of `MEMORY_KINDS`, for memory.
        traced: By tracemalloc, which would be in the way of the resident set; for memory.
    """

    part: str
    size: int
    requests: int
    port: int
    cpu: int | None = None
    kind: str = ""
    traced: bool = False


Figures = dict[str, float]


def host_name(number: int) -> str:
    """The address that stands for a host: 127.1.0.0 and upwards."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def measure(job: Job) -> Figures:
    """Measure in this process. Call it once: the process's own history is part of what is measured."""
    if job.cpu is not None:
        os.sched_setaffinity(0, {job.cpu})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if job.part == "threads-floor":
        return _measure_floor(job)
    if job.part.startswith("threads"):
        return _measure_threads(job)
    if job.part.startswith("hosts"):
        return _measure_hosts(job)
    if job.part.startswith("identities"):
        return _measure_identities(job)
    if job.part == "memory":
        return _measure_memory(job)
    return _measure_micro()


def _checked(response: Any, expected: bytes) -> None:
    body = response.content
    if response.status_code != 200 or len(body) != len(expected) + len(FILLING) or not body.startswith(expected):
        raise WrongAnswerError(
            f"status {response.status_code}, {len(body)} bytes that begin {body[:40]!r}, where {expected!r} was due"
        )


def _measure_threads(job: Job) -> Figures:
    connections = CONNECTIONS // 2 if job.part == "threads-queue" else CONNECTIONS
    with SessionPool(limits=Limits(per_host=connections)) as pool:
        url = f"http://{host_name(0)}:{job.port}/who"

        def fetch(number: int, count: int) -> None:
            expected = f"{host_name(0)}:{job.port} {number};".encode("ascii")
            for _ in range(count):
                _checked(pool.get(url), expected)

        def warm(number: int) -> None:
            with pool.lease() as session:
                session.cookies.set("who", str(number))
            fetch(number, 2)

        count = max(job.requests // job.size, 1)
        return _drive(job.size, count * job.size, warm, lambda number: fetch(number, count))


def _measure_floor(job: Job) -> Figures:
    lock = threading.Lock()
    idle: list[socket.socket] = []
    waiting: deque[tuple[threading.Lock, list[socket.socket]]] = deque()
    host = f"{host_name(0)}:{job.port}".encode("ascii")

    def acquire() -> socket.socket:
        with lock:
            if idle:
                return idle.pop()
            baton = threading.Lock()
            baton.acquire()
            given: list[socket.socket] = []
            waiting.append((baton, given))
        baton.acquire()
        return given[0]

    def release(connection: socket.socket) -> None:
        with lock:
            if not waiting:
                idle.append(connection)
                return
            baton, given = waiting.popleft()
        given.append(connection)
        baton.release()

    def fetch(number: int, count: int) -> None:
        request = b"GET /who HTTP/1.1\r\nHost: %b\r\nCookie: who=%d\r\n\r\n" % (host, number)
        expected = b"\r\n\r\n%b %d;" % (host, number)
        for _ in range(count):
            connection = acquire()
            connection.sendall(request)
            data = connection.recv(65_536)
            release(connection)
            if not data.startswith(b"HTTP/1.1 200 ") or expected not in data:
                raise WrongAnswerError(f"{data[:200]!r}, where {expected!r} was due")

    with contextlib.ExitStack() as cleanup:
        for _ in range(CONNECTIONS):
            connection = cleanup.enter_context(socket.create_connection((host_name(0), job.port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            idle.append(connection)
        count = max(job.requests // job.size, 1)
        return _drive(job.size, count * job.size, lambda number: fetch(number, 2), lambda number: fetch(number, count))


def _measure_hosts(job: Job) -> Figures:
    hosts, threads = job.size, CONNECTIONS
    run, limits = {
        "hosts-kept": (1, Limits(per_host=CONNECTIONS, total=hosts + 2 * CONNECTIONS, idle=600.0)),
        "hosts-runs": (10, Limits(per_host=CONNECTIONS, total=50, max_uses=10)),
        "hosts-new": (1, Limits(per_host=CONNECTIONS, total=50, max_uses=1)),
    }[job.part]
    with SessionPool(limits=limits) as pool:

        def fetch(number: int, first: int, count: int) -> None:
            # Each thread has a stretch of the hosts to itself; where they are too few, all walk over all of them.
            share = hosts // threads
            begin, length = (number * share, share) if share else (number, hosts)
            with pool.lease() as session:
                for at in range(first, first + count):
                    host = f"{host_name((begin + at // run % length) % hosts)}:{job.port}"
                    _checked(session.get(f"http://{host}/who"), f"{host} ;".encode("ascii"))

        count = max(job.requests // threads, 1)
        once = max(hosts // threads, 1) if job.part == "hosts-kept" else 20
        return _drive(
            threads,
            count * threads,
            lambda number: fetch(number, 0, max(once, 20)),
            lambda number: fetch(number, once, count),
        )


def _measure_identities(job: Job) -> Figures:
    with SessionPool(limits=Limits(per_host=CONNECTIONS)) as pool:
        cookies = job.part == "identities-cookie"
        host = f"{host_name(0)}:{job.port}"
        url = f"http://{host}/who"
        # Not one after the other as they were made: a step that is prime to their number meets all of them.
        keys = [f"identity {number}" for number in range(job.size)]
        step = 7919

        def fetch(first: int, count: int) -> None:
            for at in range(first, first + count):
                number = at * step % job.size
                expected = f"{host} {number if cookies else ''};".encode("ascii")
                with pool.lease(keys[number]) as session:
                    response = session.get(url)
                _checked(response, expected)

        def warm(_: int) -> None:
            for number, key in enumerate(keys):
                with pool.lease(key) as session:
                    if cookies:
                        session.cookies.set("who", str(number))
            fetch(0, 100)

        return _drive(1, job.requests, warm, lambda _: fetch(100, job.requests))


def _measure_memory(job: Job) -> Figures:
    with SessionPool(limits=Limits(per_host=CONNECTIONS)) as pool:
        host = f"{host_name(0)}:{job.port}"

        def make(key: str, number: int) -> None:
            with pool.lease(key) as session:
                if job.kind == "cookie":
                    session.cookies.set("who", str(number))
                elif job.kind == "sent":
                    session.get(f"http://{host}/set", headers={"X-Who": str(number)})
                    _checked(session.get(f"http://{host}/who"), f"{host} {number};".encode("ascii"))

        keys = [f"identity {number}" for number in range(job.size)]
        make("the first, which fills caches", 0)
        gc.collect()
        if job.traced:
            tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0] if job.traced else _resident()
        for number, key in enumerate(keys):
            make(key, number)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0] if job.traced else _resident()
        return {"bytes": (after - before) / job.size}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


class _Stand:
    """In place of a connection, where nothing is sent."""

    identity = ()

    def close(self) -> None:
        pass


def _measure_micro() -> Figures:
    pool = SessionPool()
    transport = Transport("scale", Limits(), SYSTEM_CLOCK)
    gate = transport.gate
    stand: Any = _Stand()
    names = [f"identity {number}" for number in range(100)]
    key = itertools.cycle(names)

    def own() -> None:
        with pool.lease():
            pass

    def named() -> None:
        with pool.lease(next(key)):
            pass

    def fresh() -> None:
        with pool.lease(fresh=True):
            pass

    def permit(item: Any = None) -> None:
        wanted: Permit[Any] = Permit("http://127.0.0.1:80", (), get_ident())
        gate.acquire(wanted, 30.0, NEVER)
        gate.release(wanted, item)

    figures = {
        "lease, own": _least(own),
        "lease, key": _least(named),
        "lease, fresh": _least(fresh),
        "permit, no connection": _least(permit),
    }
    figures["permit, idle connection"] = _least(lambda: permit(stand))
    held: list[Lease] = []
    holder = threading.Thread(target=lambda: held.extend(pool.lease(("held", number)) for number in range(1000)))
    holder.start()
    holder.join()
    figures["lease, key; 1,000 leased elsewhere"] = _least(named, 200)
    figures["lease, own; 1,000 leased elsewhere"] = _least(own)
    for lease in held:
        lease.release()
    pool.close()
    return figures


def _least(call: Callable[[], None], loops: int = MICRO_LOOPS) -> float:
    """Microseconds of one call: the least of several loops, less what the loop takes itself."""

    def loop(what: Callable[[], None]) -> float:
        begin = time.perf_counter()
        for _ in range(loops):
            what()
        return time.perf_counter() - begin

    def nothing() -> None:
        pass

    call()
    return (min(loop(call) for _ in range(25)) - min(loop(nothing) for _ in range(25))) / loops * 1e6


def _drive(threads: int, requests: int, warm: Callable[[int], None], run: Callable[[int], None]) -> Figures:
    """Run `warm` and then `run` in that many threads; what `run` took all of them, per request."""
    stages = [threading.Barrier(threads + 1) for _ in ("warm", "go", "done")]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            warm(number)
            stages[0].wait()
            stages[1].wait()
            run(number)
            stages[2].wait()
        except threading.BrokenBarrierError:
            pass  # another thread failed, and its error is the one to tell
        except BaseException as error:
            errors.append(error)
            for stage in stages:
                stage.abort()

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        stages[0].wait()
        gc.collect()
        before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        stages[1].wait()
        stages[2].wait()
    except threading.BrokenBarrierError:
        raise errors[0] from None
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "cpu": (user + system) / requests * 1e6,
        "user": user / requests * 1e6,
        "system": system / requests * 1e6,
        "rate": requests / wall,
        "requests": requests,
        "memory": after.ru_maxrss / 1024,
    }


# All measurements ----------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Plan:
    """What to run; see `--help`."""

    parts: Sequence[str]
    threads: Sequence[int]
    hosts: Sequence[int]
    identities: Sequence[int]
    rounds: int
    requests: int

    def sizes(self, part: str) -> Sequence[int]:
        """The sizes at which a part is measured, the smallest first."""
        if part.startswith("threads"):
            return self.threads
        return self.hosts if part.startswith("hosts") else self.identities

    def jobs(self, number: int, port: int, cpu: int | None) -> Iterator[Job]:
        """What the round of this number does, in turn."""
        for part in self.parts:
            if part == "micro":
                yield Job(part=part, size=1, requests=0, port=port, cpu=cpu)
            elif part == "memory":
                if number == 0:  # it does not vary
                    yield from self._memory_jobs(port, cpu)
            else:
                # Opening a connection for each request costs five times as much, and what is sought is a ratio.
                requests = max(self.requests // 4, 1) if part == "hosts-new" else self.requests
                for size in self.sizes(part)[:: -1 if number % 2 else 1]:
                    yield Job(part=part, size=size, requests=requests, port=port, cpu=cpu)

    def _memory_jobs(self, port: int, cpu: int | None) -> Iterator[Job]:
        for kind in MEMORY_KINDS:
            for size in self.identities:
                # One identity says nothing; two requests for each of 100,000 take long and say what 10,000 do.
                if size >= 100 and (kind != "sent" or size <= 10_000):
                    for traced in (True, False):
                        yield Job(part="memory", size=size, requests=0, port=port, cpu=cpu, kind=kind, traced=traced)


@attrs.frozen(kw_only=True)
class Measurement:
    """One process's figures with what they are about."""

    round: int
    part: str
    size: int
    kind: str
    traced: bool
    figures: Figures


@attrs.define
class Results:
    """What was found, and what could not be; an interrupted run keeps what it has so far."""

    about: dict[str, Any]
    plan: Plan
    measurements: list[Measurement] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)


def server(port: int, cpu: int | None) -> Nginx:
    """An nginx that answers on all of 127.0.0.0/8, and says which host and which cookie it was asked with."""
    return Nginx(
        cpu=cpu,
        directives=(
            # Not by allow and deny: `return` comes before them.
            f"listen 0.0.0.0:{port} backlog=4096; if ($remote_addr !~ ^127[.]) {{ return 403; }}"
            "default_type text/plain;"
            f"location = /who {{ return 200 '$http_host $cookie_who;{FILLING}'; }}"
            "location = /set { add_header Set-Cookie 'who=$http_x_who; Path=/'; return 200 'set'; }"
        ),
    )


def run(results: Results, say: Callable[[str], None]) -> None:
    """Run the whole plan, adding to `results`; `say` is told what goes on, in pieces of lines."""
    cpus = two_cpus()
    if (load := os.getloadavg()[0]) > 1:
        results.notes.append(f"the machine was busy when this began (load {load:.1f}): only the ratios mean something")
    if cpus is None:
        results.notes.append("one CPU only: client and server share it")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server(port, cpus[1] if cpus else None):
        for number in range(results.plan.rounds):
            part = ""
            for job in results.plan.jobs(number, port, cpus[0] if cpus else None):
                if job.part != part:
                    part = job.part
                    say(f"\nround {number + 1}/{results.plan.rounds}, {PARTS[part]}:")
                if job.part == "hosts-kept" and job.size > files:
                    _note(results, f"hosts-kept at {job.size:,} left out: a process may open {files:,} files here")
                    continue
                try:
                    figures = _in_process(job)
                except RuntimeError as error:
                    which = f"round {number + 1}, {job.part}, {job.size:,} {job.kind}".rstrip()
                    results.failed.append(f"{which}: {error}")
                    say(f" {job.size:,} FAILED")
                    continue
                results.measurements.append(
                    Measurement(
                        round=number + 1,
                        part=job.part,
                        size=job.size,
                        kind=job.kind,
                        traced=job.traced,
                        figures=figures,
                    )
                )
                if "cpu" in figures:
                    say(f" {job.size:,}: {figures['cpu']:.0f} µs")
                elif job.traced:
                    say(f" {job.kind} {job.size:,}: {figures['bytes']:.0f} bytes")
    say("\n")


def _in_process(job: Job) -> Figures:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "loadtests.scale", "--measure", json.dumps(attrs.asdict(job))]
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MEASUREMENT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no result after {error.timeout:.0f} s") from error
    if ended.returncode != 0:
        raise RuntimeError((ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1])
    figures: Figures = json.loads(ended.stdout)
    return figures


def _note(results: Results, text: str) -> None:
    if text not in results.notes:
        results.notes.append(text)


# What is said about them ---------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Row:
    """One part at one size, over all rounds.

    Attributes:
        part: Key in `PARTS`.
        size: Threads, hosts or identities.
        rounds: Rounds that gave a figure.
        cpu: Client CPU microseconds per request, median.
        user: Those outside the kernel.
        rate: Requests per second, median.
        memory: Most that the client's process had resident, in MiB, median.
        to: The size that the cost is compared with.
        ratio: Cost as a multiple of that at `to`, in the same round: median, smallest, largest; None without.
        limit: The most that the ratio should be; None where nothing is asked for.
    """

    part: str
    size: int
    rounds: int
    cpu: float
    user: float
    rate: float
    memory: float
    to: int
    ratio: tuple[float, float, float] | None
    limit: float | None


@attrs.frozen(kw_only=True)
class Memory:
    """What an idle identity keeps.

    Attributes:
        kind: Of `MEMORY_KINDS`.
        size: Identities there were.
        traced: Bytes of each by tracemalloc; None if that failed.
        resident: Bytes of each by the growth of the resident set; None if that failed.
        limit: The most that `traced` should be; None where nothing is asked for.
    """

    kind: str
    size: int
    traced: float | None
    resident: float | None
    limit: int | None


@attrs.frozen(kw_only=True)
class Micro:
    """Microseconds of one step, the least and the most that a round gave, and the most that it should be."""

    step: str
    least: float
    most: float
    limit: float | None


def rows(results: Results) -> list[Row]:
    """Sum up the rounds, in the order of the plan."""
    costs = {(each.part, each.size, each.round): each.figures for each in results.measurements if "cpu" in each.figures}
    found = []
    for part in results.plan.parts:
        if part in ("memory", "micro"):
            continue
        sizes = results.plan.sizes(part)
        to, of, most = RATIO_LIMITS.get(part, (1, 0, None))
        if to not in sizes:
            to, most = sizes[0], None
        for size in sizes:
            rounds = [number for number in range(1, results.plan.rounds + 1) if (part, size, number) in costs]
            if not rounds:
                continue
            all_figures = [costs[part, size, number] for number in rounds]
            ratios = [
                costs[part, size, number]["cpu"] / costs[part, to, number]["cpu"]
                for number in rounds
                if (part, to, number) in costs
            ]
            found.append(
                Row(
                    part=part,
                    size=size,
                    rounds=len(rounds),
                    **{
                        name: statistics.median(figures[name] for figures in all_figures)
                        for name in ("cpu", "user", "rate", "memory")
                    },
                    to=to,
                    ratio=(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None,
                    limit=most if size == of else None,
                )
            )
    return found


def memories(results: Results) -> list[Memory]:
    """What identities keep, by kind and number."""
    found = {
        (each.kind, each.size, each.traced): each.figures["bytes"]
        for each in results.measurements
        if each.part == "memory"
    }
    return [
        Memory(
            kind=kind,
            size=size,
            traced=found.get((kind, size, True)),
            resident=found.get((kind, size, False)),
            limit=MEMORY_LIMIT if kind == "empty" else None,
        )
        for kind, size in dict.fromkeys((kind, size) for kind, size, _ in found)
    ]


def micros(results: Results) -> list[Micro]:
    """The steps measured by themselves."""
    steps: dict[str, list[float]] = {}
    for each in results.measurements:
        if each.part == "micro":
            for step, cost in each.figures.items():
                steps.setdefault(step, []).append(cost)
    return [
        Micro(step=step, least=min(all_), most=max(all_), limit=MICRO_LIMIT if step in MICRO_LIMITED else None)
        for step, all_ in steps.items()
    ]


def _against(value: float | None, limit: float | None, unit: str = "") -> str:
    if limit is None or value is None:
        return ""
    return f"{'kept' if value <= limit else 'EXCEEDED'}: at most {limit:g}{unit}"


def _blocks(results: Results) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Each table: its title, and its lines of cells, the heads first."""
    found = rows(results)
    for part in results.plan.parts:
        if block := [row for row in found if row.part == part]:
            what = part.partition("-")[0]
            heads = (what, "CPU µs", "of them user", f"x {block[0].to:,} {what}", "req/s", "RSS MiB", "asked for")
            yield PARTS[part][0].upper() + PARTS[part][1:], [heads, *(_cells(row) for row in block)]
    if block_memory := memories(results):
        yield (
            "Memory per idle identity",
            [
                ("jar", "identities", "traced bytes", "resident bytes", "asked for"),
                *(
                    (
                        each.kind,
                        f"{each.size:,}",
                        "-" if each.traced is None else f"{each.traced:,.0f}",
                        "-" if each.resident is None else f"{each.resident:,.0f}",
                        _against(each.traced, each.limit, " bytes"),
                    )
                    for each in block_memory
                ),
            ],
        )
    if block_micro := micros(results):
        yield (
            "Uncontended, by themselves",
            [
                ("step", "µs, least", "most of a round", "asked for"),
                *(
                    (each.step, f"{each.least:.2f}", f"{each.most:.2f}", _against(each.least, each.limit, " µs"))
                    for each in block_micro
                ),
            ],
        )


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "-"
    if row.ratio is not None:
        middle, low, high = (f"{each:.2f}" for each in row.ratio)
        ratio = middle if row.rounds == 1 else f"{middle} ({low}-{high})"
    return (
        f"{row.size:,}",
        f"{row.cpu:.1f}",
        f"{row.user:.1f}",
        ratio,
        f"{row.rate:,.0f}",
        f"{row.memory:,.0f}",
        _against(None if row.ratio is None else row.ratio[0], row.limit, "x"),
    )


def table(results: Results) -> str:
    """The figures as text for a terminal."""
    lines = []
    for title, cells in _blocks(results):
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        lines += ["", title]
        for line in cells:
            padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
            padded[0] = line[0].ljust(widths[0])
            padded[-1] = line[-1]
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines[1:])


def markdown(results: Results) -> str:
    """The figures as a Markdown page, then machine, versions and command."""
    lines = [
        "# How the cost grows",
        "",
        "CPU microseconds of the client per request (user + system), and memory, by threads, hosts and identities. The",
        "ratios compare within a round: median, and in brackets the smallest and the largest. What each table",
        "measures: `loadtests/README.md`.",
    ]
    for title, cells in _blocks(results):
        lines += ["", f"## {title}", "", "| " + " | ".join(cells[0]) + " |"]
        lines.append("|---|" + "---:|" * (len(cells[0]) - 2) + "---|")
        lines += ["| " + " | ".join(line) + " |" for line in cells[1:]]
    lines += ["", "## Conditions", ""]
    lines += [f"- {name}: {value}" for name, value in results.about.items() if name != "versions"]
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in results.about["versions"].items()))
    lines.append(f"- {results.plan.rounds} rounds of {results.plan.requests:,} requests (hosts-new: a quarter)")
    lines += [f"- {note}" for note in results.notes]
    lines += [f"- failed: {failure}" for failure in results.failed]
    return "\n".join(lines) + "\n"


_COLOURS = {
    "threads": "#c4661a",
    "threads-queue": "#e8b27a",
    "threads-floor": "#9aa5b1",
    "hosts-kept": "#33424f",
    "hosts-runs": "#3c7dc4",
    "hosts-new": "#8b5fbf",
    "identities": "#33424f",
    "identities-cookie": "#3c7dc4",
    "empty": "#33424f",
    "cookie": "#3c7dc4",
    "sent": "#8b5fbf",
}


def chart(results: Results, path: Path) -> bool:
    """Draw it all as panels to `path`; False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 3, figsize=(16, 9.5), layout="constrained")
    found = rows(results)
    for column, what in enumerate(("threads", "hosts", "identities")):
        block = [row for row in found if row.part.partition("-")[0] == what]
        _draw_costs(axes[0, column], what, block)
    _draw_absolute(axes[1, 0], found)
    _draw_memory(axes[1, 1], memories(results))
    _draw_micro(axes[1, 2], micros(results))
    about = results.about
    figure.suptitle(
        "How the cost grows with threads, hosts and identities\n"
        f"{about['machine']}, Python {about['versions']['python']}, {about['date']}; "
        f"rounds: {results.plan.rounds} (medians, bars from the smallest to the largest)",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _tidy(panel: Any, title: str, along: str, up: str) -> None:
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(along)
    panel.set_ylabel(up)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e4e8ec", linewidth=0.8)
    panel.set_axisbelow(True)


def _log_axis(panel: Any, sizes: Iterable[int]) -> None:
    panel.set_xscale("log")
    ticks = sorted(set(sizes))
    if ticks:
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.minorticks_off()


def _draw_limit(panel: Any, level: float, text: str) -> None:
    panel.axhline(level, color="#c0392b", linestyle="--", linewidth=1.2, label=text)


def _draw_costs(panel: Any, what: str, block: list[Row]) -> None:
    to = block[0].to if block else 1
    _tidy(panel, f"Cost per request, by {what}", what, f"client CPU, as a multiple of that with {to:,}")
    for part in dict.fromkeys(row.part for row in block):
        line = [(row.size, row.ratio) for row in block if row.part == part and row.ratio is not None]
        if not line:
            continue
        sizes = [size for size, _ in line]
        middles = [ratio[0] for _, ratio in line]
        spread = [[ratio[0] - ratio[1] for _, ratio in line], [ratio[2] - ratio[0] for _, ratio in line]]
        panel.errorbar(
            sizes, middles, yerr=spread, marker="o", capsize=3, color=_COLOURS[part], label=PARTS[part], linewidth=1.6
        )
    if what in ("threads", "hosts"):
        _, at, limit = RATIO_LIMITS["threads" if what == "threads" else "hosts-kept"]
        _draw_limit(panel, limit or 0.0, f"asked for: at most {limit:g} at {at:,}")
    _log_axis(panel, (row.size for row in block))
    panel.set_ylim(bottom=0, top=max(1.6, panel.get_ylim()[1]))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=8, loc="lower left")  # below the lines, which lie around 1


def _draw_absolute(panel: Any, found: list[Row]) -> None:
    _tidy(panel, "The same in microseconds", "threads, hosts or identities", "client CPU per request (µs)")
    for part in dict.fromkeys(row.part for row in found):
        line = [row for row in found if row.part == part]
        panel.plot(
            [row.size for row in line],
            [row.cpu for row in line],
            marker="o",
            markersize=4,
            color=_COLOURS[part],
            linestyle=":" if part.startswith("identities") else "-",
            label=part,
        )
    _log_axis(panel, (row.size for row in found if str(row.size).strip("0") == "1"))
    panel.set_ylim(bottom=0, top=panel.get_ylim()[1] * 1.45)  # the legend goes above the lines
    if found:
        panel.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")


def _draw_memory(panel: Any, found: list[Memory]) -> None:
    _tidy(panel, "Memory per idle identity", "identities", "bytes per identity")
    for kind in dict.fromkeys(each.kind for each in found):
        for name, style in (("traced", "-"), ("resident", ":")):
            line = [(each.size, getattr(each, name)) for each in found if each.kind == kind]
            # Of few identities the resident set shows the size of the allocator's arenas.
            line = [(size, value) for size, value in line if value is not None and (style == "-" or size >= 10_000)]
            panel.plot(
                [size for size, _ in line],
                [value for _, value in line],
                style,
                marker="o",
                markersize=4,
                color=_COLOURS[kind],
                label=f"{kind}, {name}",
            )
    _draw_limit(panel, MEMORY_LIMIT, f"asked for, empty: at most {MEMORY_LIMIT:,}")
    _log_axis(panel, (each.size for each in found))
    panel.set_ylim(bottom=0, top=panel.get_ylim()[1] * 1.35)  # the legend goes above the lines
    panel.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")


def _draw_micro(panel: Any, found: list[Micro]) -> None:
    _tidy(panel, "Uncontended, by themselves", "µs, the least of all rounds", "")
    panel.grid(visible=False)
    # What nothing is asked of may be out of all proportion; its bar is cut, its figure is not.
    widest = max([2 * MICRO_LIMIT, *(each.least * 1.3 for each in found if each.limit is not None)])
    for place, each in enumerate(found):
        panel.barh(place, min(each.least, widest), 0.6, color="#8798ab" if each.limit is None else "#33424f")
        text = f"{each.least:.2f}" if each.least <= widest else f"{each.least:.0f} (bar cut)"
        inside = each.least > widest
        panel.annotate(
            text,
            (min(each.least, widest), place),
            (-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=8,
            color="white" if inside else "black",
        )
    panel.set_yticks(range(len(found)), [each.step.replace("; ", ";\n") for each in found], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, widest * 1.05)
    panel.axvline(
        MICRO_LIMIT, color="#c0392b", linestyle="--", linewidth=1.2, label=f"asked for: at most {MICRO_LIMIT:g}"
    )
    panel.legend(frameon=False, fontsize=8, loc="lower right")


def about(arguments: Sequence[str]) -> dict[str, Any]:
    """Where, when, with what: the conditions of a run."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = {"python": f"{platform.python_version()} ({platform.python_implementation()})"}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["urllib3"] = importlib.metadata.version("urllib3")
    if program := find_nginx():
        versions["nginx"] = nginx_version(program).removeprefix("nginx/")
    kernel = platform.release().partition("-")[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "loadtests.scale", *arguments]),
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
        "memory": [attrs.asdict(each) for each in memories(results)],
        "micro": [attrs.asdict(each) for each in micros(results)],
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
    if results.measurements and chart(results, path.with_suffix(".png")):
        written.append(path.with_suffix(".png"))
    return written


# The command ---------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    def positive(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
        return int(text)

    def sizes(most: int) -> Callable[[str], list[int]]:
        def parse(text: str) -> list[int]:
            found = sorted({positive(each.strip()) for each in text.split(",")})
            if found[-1] > most:
                raise argparse.ArgumentTypeError(f"{most:,} at most, not {found[-1]:,}")
            return found

        return parse

    def parts(text: str) -> list[str]:
        chosen = [each.strip() for each in text.split(",") if each.strip()]
        if unknown := [each for each in chosen if each not in PARTS]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}")
        if not chosen:
            raise argparse.ArgumentTypeError(f"nothing chosen of {', '.join(PARTS)}")
        return [part for part in PARTS if part in chosen]

    listing = ["parts (--parts):", *(f"  {key:<18}{title}" for key, title in PARTS.items())]
    listing += [
        "",
        "Threads are compared with 8 threads, hosts with 1 host, identities with 1 identity (with the smallest number",
        "where that one is not measured). `python -m pydoc loadtests.scale` tells what each part does and counts.",
        "Needs Linux and nginx (apt-get install nginx-light); with matplotlib it draws, too.",
        "10,000 hosts with their connections kept need as many open files: ulimit -Hn. Run it on a quiet machine.",
        "",
        "examples:",
        "  python -m loadtests.scale --quick                            a look, about a minute and a half",
        "  python -m loadtests.scale --parts threads --threads 8,1000   does the cost grow with threads?",
        "  python -m loadtests.scale --parts micro,memory               seconds",
    ]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.scale",
        description="Measure how the CPU time of a request, and the memory, grow with threads, hosts and identities.",
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=parts, metavar="A,B", help="only these (default: all)")
    parser.add_argument("--threads", type=sizes(10_000), metavar="N,M", help="default: 1,8,64,256,1000")
    parser.add_argument("--hosts", type=sizes(1_000_000), metavar="N,M", help="default: 1,10,100,1000,10000")
    parser.add_argument("--identities", type=sizes(1_000_000), metavar="N,M", help="default: 1,100,10000,100000")
    parser.add_argument("--rounds", type=positive, metavar="N", help="times everything is repeated (default: 5)")
    parser.add_argument("--requests", type=positive, metavar="N", help="requests of a measurement (default: 10000)")
    parser.add_argument("--quick", action="store_true", help="1 round of 3000 requests, saved as scale-quick.*")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to save (default: results beside this module)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a Job as JSON: what the processes are started with
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 when a measurement failed, 130 after Ctrl-C, else 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.measure is not None:
        print(json.dumps(measure(Job(**json.loads(chosen.measure)))))
        return 0
    plan = Plan(
        parts=chosen.parts or list(PARTS),
        threads=chosen.threads or [1, 8, 64, 256, 1000],
        hosts=chosen.hosts or [1, 10, 100, 1000, 10_000],
        identities=chosen.identities or [1, 100, 10_000, 100_000],
        rounds=chosen.rounds or (1 if chosen.quick else 5),
        requests=chosen.requests or (3000 if chosen.quick else 10_000),
    )
    directory = chosen.out or Path(__file__).with_name("results")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / "scale.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"cannot write to {directory}: {error.strerror}")
    shown = [part for part in arguments if part != str(chosen.out) and part not in ("--out", f"--out={chosen.out}")]
    results = Results(about=about(shown), plan=plan)
    interrupted = False
    try:
        run(results, lambda text: print(text, end="", flush=True, file=sys.stderr))
    except NginxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupted = True
        results.notes.append("interrupted: the last round is not complete")
    print(table(results))
    for note in results.notes:
        print(f"note: {note}")
    for failure in results.failed:
        print(f"failed: {failure}", file=sys.stderr)
    written = save(results, directory, "scale-quick" if chosen.quick else "scale")
    if results.measurements and not any(path.suffix == ".png" for path in written):
        print("note: no chart, matplotlib is not installed: pip install 'sessionpool[peers]'")
    print("saved: " + ", ".join(str(path) for path in written))
    return 130 if interrupted else 1 if results.failed or not results.measurements else 0


if __name__ == "__main__":
    sys.exit(main())
