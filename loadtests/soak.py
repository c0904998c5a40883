"""Minutes of mixed load by many threads, over a network that fails and a server that dies: does every promise hold?

`python -m loadtests.soak --help` tells how to run it. What it does, so that its verdict can be judged:

- The echo server and the fault-injecting proxy before it (`loadtests/faults.py`) are processes of their own. The proxy
  counts connections and keeps a record of what it did to which request; what the client believes of itself proves
  nothing. In the course of the run the server is killed and started again, and hosts go dark, several times.
- Every attempt of every request carries a token of its own, and its answer is checked: the token, the method, length
  and digest of what the server received, and the body byte for byte, which is made of the token. A stream that is read
  by half is checked by half.
- Every session, whether a thread's own, an identity's or a fresh one, has a name, and the server gives it a cookie
  with that name and a serial. The driver knows which values may come back (several, if a request failed whose answer
  may have set one) and accepts no other.
- The driver itself retries: `NotSent` always, `MaySent` if the method is idempotent, four attempts in all. Every error
  is held to what the errors promise: it says whether the request may have been sent, and the proxy's record must agree;
  its sentence names the host or the limit; and the proxy did something that explains it, or a short limit was
  asked for.
- Several times, the first after a warm-up, all threads stop between two requests. Then nothing may be leased or
  waited for, every descriptor is an idle connection's, and memory and the number of live objects are compared with
  those at the first such stop.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import json
import math
import os
import random
import secrets
import shlex
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from loadtests import peers
from loadtests.faults import ACCEPT_FAULTS, DARK, FAULTS, KILLED, FaultsError, FaultyOrigin, digest, pattern
from sessionpool import Limits, Response, Session, SessionPool, Timeout
from sessionpool.exceptions import MaySent, NotSent, PoolTimeout, RequestException

ATTEMPTS: Final = 4
# What the pool is made with; a fault that costs its whole limit must not take the run's time away.
TIMEOUT: Final = Timeout(connect=0.8, read=1.0, pool=20.0)
# Limits that will be met now and then without anybody's fault, and the words that an error has for them.
SHORT: Final = {
    "Timeout.read": attrs.evolve(TIMEOUT, read=0.02),
    "Timeout.total": attrs.evolve(TIMEOUT, total=0.05),
    "Timeout.pool": attrs.evolve(TIMEOUT, pool=0.01),
}
# Seconds until a thread that does not come to a stop counts as hung: some requests in a row may each time out often.
PATIENCE: Final = 90.0
# How long a host stays dark: longer than a connection may take to be made, and that is less than the second after which
# the system would try again.
DARK_SECONDS: Final = 1.2
# What a run may grow by after its warm-up. Of resident memory, some is the C library's, which keeps for each thread
# what that has freed (about 8 MiB for 32 threads, reached in minutes, and none without its thread caches). So it is
# Python's own counts that are held to a narrow limit: one object kept of a hundred requests would break it. The caches
# are warm when they are full: the largest keeps 16,384 URLs, and here no two are alike.
WARM_UP: Final = 20_000
GROWTH_BYTES: Final = 16 * 1024 * 1024
GROWTH_OBJECTS: Final = 1_000
GROWTH_BLOCKS: Final = 4_000
# Of a request that never came, several things may be the cause.
UNCLEAR: Final = "closed or reset a connection before the request came"
KEPT: Final = 20  # of each kind of fault found, those that are told in full

LEASES: Final = {"own": 30, "identity": 30, "fresh": 15, "pool": 25}
WORKS: Final = {
    "get": 36,
    "head": 3,
    "delete": 3,
    "put": 6,
    "put, from a generator": 5,
    "post": 10,
    "post, from a generator": 4,
    "redirect": 6,
    "redirect of a put": 3,
    "stream, read": 9,
    "stream, closed half-read": 5,
    "stream, dropped": 5,
    "stream, dropped in a cycle": 2,
    "stream, left to its lease": 3,
}
FORMS: Final = {"plain": 40, "chunked": 25, "gzip": 15, "gzip-chunked": 15, "close": 5}
LIMITS: Final = {"": 94, "Timeout.read": 2, "Timeout.total": 2, "Timeout.pool": 2}


# What is sent --------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Plan:
    """What to run; see `--help`."""

    seconds: float
    seed: int
    threads: int
    hosts: int
    per_host: int
    total: int
    identities: int
    restarts: int
    factor: float
    frantic: bool

    @property
    def addresses(self) -> list[str]:
        """The hosts, as they are asked for."""
        return [f"127.0.0.{number}" for number in range(1, self.hosts + 1)]

    @property
    def limits(self) -> Limits:
        """The pool's; the last host has a limit of its own."""
        smaller = max(1, self.per_host // 2)
        return Limits(per_host=self.per_host, total=self.total, overrides={self.addresses[-1]: smaller})

    @property
    def stops(self) -> int:
        """How often all threads stop to be looked at, the end included."""
        return max(2, min(8, int(self.seconds // 15)))


@attrs.frozen(kw_only=True)
class Job:
    """One request, however often it is tried.

    Attributes:
        work: Key in `WORKS`.
        method: Of the request as it is sent first.
        host: Asked first.
        size: Of the answer's body, unless it is the request's.
        form: Key in `FORMS`.
        upload: The request's body.
        pieces: It is sent from a generator.
        redirect: Status and host of a redirect on the way.
        limit: Key in `LIMITS`.
    """

    work: str
    method: str
    host: str
    size: int
    form: str
    upload: bytes | None
    pieces: bool
    redirect: tuple[int, str] | None
    limit: str

    @property
    def is_idempotent(self) -> bool:
        """Twice does no more than once."""
        return self.method != "POST"

    @property
    def final_host(self) -> str:
        """Where the answer comes from."""
        return self.redirect[1] if self.redirect else self.host

    def url(self, port: int, token: str, *, set_cookie: bool) -> str:
        """What to ask for."""
        query = f"as={self.form}&size={self.size}"
        if self.method == "POST":
            query += "&echo=1"
        if set_cookie:
            query += "&set=1"
        if self.redirect is None:
            return f"http://{self.host}:{port}/echo/{token}?{query}"
        return (
            f"http://{self.host}:{port}/redirect/{token}?{query}&status={self.redirect[0]}&to={self.redirect[1]}:{port}"
        )

    def body(self) -> bytes | Iterator[bytes] | None:
        """The request's body, anew for each attempt."""
        if self.upload is None or not self.pieces:
            return self.upload
        upload = self.upload
        return (upload[at : at + 5000] for at in range(0, len(upload), 5000))


def make_job(rng: random.Random, hosts: Sequence[str], name: str) -> Job:
    """A request by chance."""
    work = _choose(rng, WORKS)
    method = {"head": "HEAD", "delete": "DELETE", "redirect of a put": "PUT"}.get(work, "GET")
    for verb in ("put", "post"):
        if work.startswith(verb):
            method = verb.upper()
    redirect = None
    if work.startswith("redirect"):
        status = rng.choice([307, 308]) if method == "PUT" else rng.choice([301, 302, 303, 307, 308])
        redirect = (status, _choose_host(rng, hosts))
    size = rng.choice([0, 1, 50, 300, 1000, 2000, 5000]) if rng.random() < 0.95 else rng.randrange(20_000, 200_000)
    return Job(
        work=work,
        method=method,
        host=_choose_host(rng, hosts),
        size=size,
        form=_choose(rng, FORMS),
        upload=pattern(f"up-{name}", size) if method in ("PUT", "POST") else None,
        pieces="generator" in work,
        redirect=redirect,
        limit=_choose(rng, LIMITS),
    )


def _choose(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _choose_host(rng: random.Random, hosts: Sequence[str]) -> str:
    """The first most often, the last seldom: some connections are used again and again, some only to be evicted."""
    return rng.choices(hosts, [1 / rank for rank in range(1, len(hosts) + 1)])[0]


class Visitor:
    """Whose a session is: its name, and the cookies that it may have. Used by whoever holds its lease."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_held = threading.Lock()  # taken without waiting: two at once would be one too many
        self._may_have: dict[str, set[str]] = {}

    def lacks(self, host: str) -> bool:
        """It is not known to have a cookie of that host."""
        return "-" in self._may_have.get(host, "-")

    def may_get(self, host: str, value: str) -> None:
        """A request failed whose answer, if it came, set a cookie."""
        self._may_have.setdefault(host, {"-"}).add(value)

    def got(self, host: str, value: str) -> None:
        """An answer came that set a cookie."""
        self._may_have[host] = {value}

    def judge(self, host: str, back: str) -> str:
        """What is wrong with the cookie that came back ("-" if none did): "crossed", "lost" or nothing."""
        allowed = self._may_have.get(host, {"-"})
        if back in allowed:
            self._may_have[host] = {back}
            return ""
        return "lost" if back == "-" or back.partition(".")[0] == self.name else "crossed"


# What is found -------------------------------------------------------------------------------------


@attrs.define
class Tally:
    """What one thread has counted, or all of them together. Written by one thread."""

    requests: int = 0
    attempts: int = 0
    answers: int = 0
    retries: int = 0
    gave_up: int = 0
    cookies: int = 0
    works: Counter[str] = attrs.field(factory=Counter)
    leases: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[tuple[str, str, str]] = attrs.field(factory=Counter)  # class, whether sent, what the proxy had done
    found: Counter[str] = attrs.field(factory=Counter)  # promises broken: how often
    told: dict[str, list[str]] = attrs.field(factory=dict)  # and the first few in words

    def find(self, promise: str, sentence: str) -> None:
        """Note that a promise was broken."""
        self.found[promise] += 1
        told = self.told.setdefault(promise, [])
        if len(told) < KEPT:
            told.append(sentence)

    def add(self, other: Tally) -> None:
        """Take another's counts in."""
        for name in ("requests", "attempts", "answers", "retries", "gave_up", "cookies"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("works", "leases", "errors", "found"):
            getattr(self, name).update(getattr(other, name))
        for promise, sentences in other.told.items():
            self.told.setdefault(promise, []).extend(sentences)
            del self.told[promise][KEPT:]


@attrs.frozen(kw_only=True)
class Sample:
    """The process at a moment when no thread was doing anything.

    Attributes:
        seconds: Since the start.
        requests: Until then.
        leased, waiting, sessions, idle: The pool's.
        descriptors: Open files beyond those from before the pool; `None` where the system does not tell.
        threads: Beyond those from before the run.
        memory: Resident bytes; `None` where the system does not tell.
        objects: That the collector knows.
        blocks: That Python has allocated for small objects, those included that the collector does not know.
    """

    seconds: float
    requests: int
    leased: int
    waiting: int
    sessions: int
    idle: int
    descriptors: int | None
    threads: int
    memory: int | None
    objects: int
    blocks: int


class Pace:
    """Where threads stop together, and learn that it is over. Thread-safe."""

    def __init__(self, threads: int) -> None:
        self.is_pausing = False
        self.is_over = False
        self.is_lost = False
        self._threads = threads
        self._stopped = 0
        self._changed = threading.Condition()

    def meet(self) -> None:
        """Stop until all may go on; for the threads."""
        with self._changed:
            self._stopped += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.is_over or not self.is_pausing)
            self._stopped -= 1

    def stop_all(self) -> bool:
        """Return when all have stopped; false if some do not come."""
        self.is_pausing = True
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not self.is_lost:
            gc.collect()  # see `_drive`
            with self._changed:
                if self._changed.wait_for(lambda: self._stopped == self._threads, 0.2):
                    return True
        return False

    def go_on(self, *, is_over: bool) -> None:
        """Let them go on, or end."""
        with self._changed:
            self.is_pausing = False
            self.is_over = is_over
            self._changed.notify_all()

    def give_up(self) -> None:
        """The proxy was lost: end all threads."""
        self.is_lost = True
        self.go_on(is_over=True)


# What is done --------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """One thread of the load."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        pool: SessionPool,
        origin: FaultyOrigin,
        pace: Pace,
        identities: Sequence[Visitor],
    ) -> None:
        super().__init__(name=f"soak-{number}", daemon=True)
        self.tally = Tally()
        self._plan = plan
        self._pool = pool
        self._origin = origin
        self._pace = pace
        self._identities = identities
        self._own = Visitor(self.name)
        self._rng = random.Random(f"{plan.seed}/{number}")
        self._count = 0
        self._left: list[Response] = []  # streams that are left to the end of their lease

    def run(self) -> None:
        """Visit until it is over."""
        while not self._pace.is_over:
            if self._pace.is_pausing:
                self._pace.meet()
                continue
            try:
                self._visit()
            except FaultsError:
                self._pace.give_up()
                return
            except Exception:
                # Not one of the pool's errors, so either the pool or this driver has a bug.
                self.tally.find("foreign", traceback.format_exc())

    def _visit(self) -> None:
        how = _choose(self._rng, LEASES)
        self.tally.leases[how] += 1
        if how == "pool":
            self._ask_some(self._pool, self._own)
        elif how == "own":
            with self._pool.lease() as session:
                if self._rng.random() < 0.2:
                    with self._pool.lease() as again:
                        if again is not session:
                            self.tally.find("shared", "a nested lease gave another session than the outer one")
                        self._ask_some(again, self._own)
                if not self._left:
                    self._ask_some(session, self._own)
        elif how == "fresh":
            with self._pool.lease(fresh=True) as session:
                self._ask_some(session, Visitor(f"fresh-{self.name}-{self._count}"))
        else:
            self._visit_as(self._rng.choice(self._identities))
        self._left.clear()

    def _visit_as(self, visitor: Visitor) -> None:
        started = time.monotonic()
        is_short = self._rng.random() < 0.05
        try:
            lease = self._pool.lease(visitor.name, timeout=0.05 if is_short else TIMEOUT.pool)
        except PoolTimeout as error:
            self._note(error, visitor.name, "-", "Timeout.pool" if is_short else "", started, waiting=True)
            return
        with lease as session:
            if not visitor.is_held.acquire(blocking=False):
                self.tally.find("shared", f"{visitor.name} was leased by two threads at once")
                return
            try:
                self._ask_some(session, visitor)
            finally:
                visitor.is_held.release()

    def _ask_some(self, asker: Session | SessionPool, visitor: Visitor) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            self._ask(asker, visitor)
            if self._left:  # who holds a connection and asks for one more may wait for others who do the same
                return

    def _ask(self, asker: Session | SessionPool, visitor: Visitor) -> None:
        """One request, tried as often as it may be."""
        self._count += 1
        name = f"{self.name}-{self._count}"
        job = make_job(self._rng, self._plan.addresses, name)
        self.tally.requests += 1
        self.tally.works[job.work] += 1
        for attempt in range(1, ATTEMPTS + 1):
            token = f"{name}-{attempt}"
            self.tally.attempts += 1
            started = time.monotonic()
            trip = Trip(self._origin.port, job, visitor, token, self._rng, self.tally)
            try:
                trip.make(asker, self._left)
            except RequestException as error:
                trip.failed()
                self._note(error, trip.host_of(error), trip.token_of(error), job.limit, started)
                may_try = isinstance(error, NotSent) or (isinstance(error, MaySent) and job.is_idempotent)
                if not may_try or attempt == ATTEMPTS:
                    self.tally.gave_up += 1
                    return
            except BaseException:
                trip.failed()
                raise
            else:
                self.tally.answers += 1
                return
            self.tally.retries += 1
            time.sleep(self._rng.uniform(0, 0.01 * 2**attempt))

    def _note(
        self, error: RequestException, host: str, token: str, limit: str, since: float, *, waiting: bool = False
    ) -> None:
        """Hold an error to what errors promise."""
        kind, text = type(error).__name__, str(error)
        arrivals, did = self._origin.why(token, host, since)
        is_unsent = isinstance(error, NotSent)
        causes = []
        if did and not isinstance(error, PoolTimeout):
            if not arrivals and len(did) > 1:
                did = [next((each for each in (KILLED, DARK) if each in did), UNCLEAR)]
            causes.append(", then ".join(did))
        if limit and limit in text:
            causes.append(f"{limit} was short")
        if not causes:
            causes.append("nothing")
            self.tally.find("unexplained", f"{kind}: {text} (token {token}, which came {arrivals} times)")
        cause = "; ".join(causes)
        self.tally.errors[kind, "NotSent" if is_unsent else "MaySent", cause] += 1
        if is_unsent == isinstance(error, MaySent):
            self.tally.find("silent", f"{kind} is neither NotSent nor MaySent, or both: {text}")
        if is_unsent and arrivals:
            self.tally.find("lies", f"{kind} is NotSent, and the proxy had its request ({', '.join(did)}): {text}")
        where = repr(host) if waiting else f"{host}:{self._origin.port}"
        if len(text.split()) < 4 or not (where in text or "Timeout." in text or "Limits." in text):
            self.tally.find("speechless", f"{kind}: {text!r} names neither {where} nor a limit")


class Trip:
    """One attempt, and what its answer has to be."""

    def __init__(self, port: int, job: Job, visitor: Visitor, token: str, rng: random.Random, tally: Tally) -> None:
        self._port = port
        self._job = job
        self._visitor = visitor
        self._token = token
        self._rng = rng
        self._tally = tally
        self._sets = visitor.lacks(job.final_host) or rng.random() < 0.1
        self._url = job.url(port, token, set_cookie=self._sets)
        self._cookie = f"{visitor.name}.{token}{'r' if job.redirect else ''}"
        self._has_head = False

    def make(self, asker: Session | SessionPool, left: list[Response]) -> None:
        """Send the request and check the answer; streams that are left to their lease go to `left`."""
        job = self._job
        streamed = job.work.startswith("stream")
        response = asker.request(
            job.method,
            self._url,
            data=job.body(),
            headers={"X-Who": self._visitor.name},
            timeout=SHORT.get(job.limit),
            allow_redirects=True,
            stream=streamed,
        )
        self._url = response.url
        self._check_head(response)
        wanted = job.upload if job.method == "POST" else pattern(self._final_token, job.size)
        if job.method in ("HEAD", "DELETE"):
            wanted = b""
        assert wanted is not None
        if not streamed:
            self._check_body(response.content, wanted)
            return
        part = len(wanted) if job.work == "stream, read" else len(wanted) // 2
        got = b""
        for piece in response.iter_content(self._rng.choice([100, 1000, 65_536])):
            got += piece
            if part < len(wanted) and len(got) >= part:
                break
        self._check_body(got, wanted if part == len(wanted) else wanted[: len(got)])
        if job.work == "stream, closed half-read":
            response.close()
        elif job.work == "stream, left to its lease":
            left.append(response)
        elif job.work == "stream, dropped in a cycle":
            cycle: list[Any] = [response]
            cycle.append(cycle)

    def failed(self) -> None:
        """The attempt failed: its answer may have set a cookie all the same."""
        if self._sets and not self._has_head:
            self._visitor.may_get(self._job.final_host, self._cookie)

    def host_of(self, error: RequestException) -> str:
        """Where it failed."""
        return urlsplit(self._url_of(error)).hostname or ""

    def token_of(self, error: RequestException) -> str:
        """What it asked for when it failed."""
        return urlsplit(self._url_of(error)).path.rpartition("/")[2]

    def _url_of(self, error: RequestException) -> str:
        return str(error.request.url) if error.request is not None else self._url

    @property
    def _final_token(self) -> str:
        return f"{self._token}r" if self._job.redirect else self._token

    def _check_head(self, response: Response) -> None:
        job = self._job
        self._has_head = True
        for hop in response.history:
            self._check_cookie(hop, job.host)
        self._check_cookie(response, job.final_host)
        if self._sets:
            self._visitor.got(job.final_host, self._cookie)
        method = job.method if not job.redirect or job.redirect[0] in (307, 308) else "GET"
        received = (job.upload or b"") if method == job.method else b""
        wanted = {
            "X-Token": self._final_token,
            "X-Who": self._visitor.name,
            "X-Method": method,
            "X-Received": str(len(received)),
            "X-Digest": digest(received),
        }
        if response.status_code != (204 if job.method == "DELETE" else 200):
            self._wrong(f"status {response.status_code}")
        for field, value in wanted.items():
            if response.headers.get(field) != value:
                self._wrong(f"{field} is {response.headers.get(field)!r} and not {value!r}")
        for hop in response.history:
            if hop.headers.get("X-Token") != self._token:
                self._wrong(f"the redirect has X-Token {hop.headers.get('X-Token')!r} and not {self._token!r}")

    def _check_cookie(self, response: Response, host: str) -> None:
        back = response.headers.get("X-Cookie-Back", "-")
        self._tally.cookies += back != "-"
        if fault := self._visitor.judge(host, back):
            self._tally.find(fault, f"{self._visitor.name} at {host}, token {self._token}: {back!r} came back")

    def _check_body(self, got: bytes, wanted: bytes) -> None:
        if got != wanted:
            at = next(
                (at for at, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
            )
            self._wrong(
                f"a body of {len(got)} bytes and not {len(wanted)}, other from byte {at}: {got[at : at + 40]!r}"
            )

    def _wrong(self, what: str) -> None:
        self._tally.find("wrong", f"{self._job.method} {self._url}: {what}")


# The run -------------------------------------------------------------------------------------------

# What is promised, by the names under which it is found broken.
PROMISES: Final = {
    "wrong": "every answer was the answer to its request",
    "crossed": "no session sent another's cookie",
    "lost": "every session's cookies came back",
    "shared": "no identity was leased by two threads at once",
    "bound": "no host had more connections open than its limit, nor all together more than the total",
    "doubled": "no POST reached the server twice",
    "lies": "NotSent said so only where the proxy had not seen the request",
    "silent": "every error said whether its request may have been sent",
    "speechless": "every error named its host or the limit that it met",
    "unexplained": "every error had a cause: something the proxy did, or a short limit",
    "foreign": "nothing but the errors of sessionpool was raised",
    "permits": "whenever all threads had stopped, nothing was leased or waited for",
    "descriptors": "no file descriptor leaked",
    "threads": "no thread leaked",
    "memory": (
        f"after the warm-up, memory grew by at most {GROWTH_BYTES // 2**20} MiB, {GROWTH_OBJECTS:,} objects and "
        f"{GROWTH_BLOCKS:,} small blocks"
    ),
    "hung": "every thread came to every stop, and got answers",
    "closing": "close() found nothing in use, and no connection stayed open at the server",
}


@attrs.define
class Results:
    """What was found."""

    about: dict[str, Any]
    plan: Plan
    tally: Tally = attrs.field(factory=Tally)
    samples: list[Sample] = attrs.field(factory=list)
    counts: dict[str, Any] = attrs.field(factory=dict)  # the proxy's
    stats: dict[str, int] = attrs.field(factory=dict)  # the pool's
    seconds: float = 0.0
    unclear: set[str] = attrs.field(factory=set)  # keys of promises that could not be judged
    notes: list[str] = attrs.field(factory=list)

    @property
    def broken(self) -> list[str]:
        """Keys of the promises that were not kept."""
        return [promise for promise in PROMISES if self.tally.found[promise]]


MakePool = Callable[..., SessionPool]


def run(results: Results, say: Callable[[str], None], make_pool: MakePool = SessionPool) -> None:
    """Run the whole plan, adding to `results`; `say` is told what goes on.

    Raises:
        FaultsError: The proxy cannot be had, or was lost.
        KeyboardInterrupt: By whom it was interrupted, when what there is has been judged.
    """
    threads_before = set(threading.enumerate())
    gc.collect()
    with FaultyOrigin.start(results.plan.addresses, seed=results.plan.seed, factor=results.plan.factor) as origin:
        descriptors_before = _descriptors()
        interrupted = _load(results, origin, say, make_pool, descriptors_before, threads_before)
        gc.collect()  # the pool and what it made
        results.counts = _counts_at_end(origin)
        _judge(results)
        open_now = _descriptors()
        if open_now is not None and open_now != descriptors_before:
            results.tally.find("descriptors", f"after close(): {open_now} open, {descriptors_before} before")
        if left := set(threading.enumerate()) - threads_before:
            names = ", ".join(sorted(thread.name for thread in left))
            results.tally.find("threads", f"after close(): {names}")
    if interrupted:
        raise KeyboardInterrupt


def _load(
    results: Results,
    origin: FaultyOrigin,
    say: Callable[[str], None],
    make_pool: MakePool,
    descriptors_before: int | None,
    threads_before: set[threading.Thread],
) -> bool:
    """Make the pool, load it, and close it; true if it was interrupted."""
    plan = results.plan
    pool = make_pool(name="soak", limits=plan.limits, timeout=TIMEOUT, trust_env=False)
    pace = Pace(plan.threads)
    identities = [Visitor(f"user-{number}") for number in range(plan.identities)]
    workers = [Worker(number, plan, pool, origin, pace, identities) for number in range(plan.threads)]
    _warm_up(pool, origin)
    started = time.monotonic()
    for worker in workers:
        worker.start()

    def sample() -> Sample:
        gc.collect()
        stats = pool.stats()
        open_now = _descriptors()
        return Sample(
            seconds=time.monotonic() - started,
            requests=sum(worker.tally.requests for worker in workers),
            leased=stats.leased,
            waiting=stats.waiting,
            sessions=stats.sessions,
            idle=stats.idle,
            descriptors=None if open_now is None or descriptors_before is None else open_now - descriptors_before,
            threads=len(set(threading.enumerate()) - threads_before - set(workers)),
            memory=_memory(),
            objects=len(gc.get_objects()),
            blocks=sys.getallocatedblocks(),
        )

    turns = sys.getswitchinterval()
    if plan.frantic:
        sys.setswitchinterval(1e-6)
    try:
        interrupted = _drive(results, origin, pace, workers, sample, say, started)
    finally:
        pace.go_on(is_over=True)
        sys.setswitchinterval(turns)
    results.seconds = time.monotonic() - started
    for worker in workers:
        worker.join(0.1 if results.tally.found["hung"] else PATIENCE)
        results.tally.add(worker.tally)
        if not worker.tally.answers:
            results.tally.find("hung", f"{worker.name} got no answer at all")
    stats = pool.stats()
    results.stats = {"opened": stats.opened, "reused": stats.reused, "peak": stats.peak}
    report = pool.close(timeout=1.0)
    if report.leases or report.cut or report.waiters:
        in_use = f"{report.leases} leases, {report.cut} connections in use, {report.waiters} waiters"
        results.tally.find("closing", f"close() found {in_use}")
    return interrupted


def _warm_up(pool: SessionPool, origin: FaultyOrigin) -> None:
    """Have everything loaded that is loaded when it is first needed, which would hold up all threads at once."""
    for number in range(ATTEMPTS):
        with contextlib.suppress(RequestException):
            pool.get(f"http://127.0.0.1:{origin.port}/echo/warm-up-{number}?size=100&as=gzip-chunked&set=1")
            return


def _drive(
    results: Results,
    origin: FaultyOrigin,
    pace: Pace,
    workers: Sequence[Worker],
    sample: Callable[[], Sample],
    say: Callable[[str], None],
    started: float,
) -> bool:
    """Let it run, with its outages and stops; true if it was interrupted."""
    plan = results.plan
    rng = random.Random(f"{plan.seed}/outages")
    events: list[tuple[float, Callable[[], None]]] = []
    for number in range(plan.restarts):
        turn = plan.seconds / plan.restarts
        host = plan.addresses[number % plan.hosts]
        events.append((turn * (number + 0.3), lambda: origin.restart(rng.uniform(0.05, 0.3))))
        events.append((turn * (number + 0.6), lambda host=host: origin.darken(host, DARK_SECONDS)))  # type: ignore[misc]
    events.sort(key=lambda event: event[0])
    loaded = 0.0  # seconds, without those at the stops
    stops = 0
    began = time.monotonic()
    interrupted = False
    while stops < plan.stops:
        try:
            elapsed = loaded + time.monotonic() - began
            while events and events[0][0] <= elapsed:
                events.pop(0)[1]()
            left = plan.seconds * (stops + 1) / plan.stops - elapsed
            if left > 0 and not interrupted and not pace.is_over:
                answers = sum(worker.tally.answers for worker in workers)
                broken = sum(worker.tally.found.total() for worker in workers)
                say(f"{elapsed:.0f} of {plan.seconds:g} s: {answers:,} answers, {broken} faults found")
                # What was dropped in a cycle is given back when the collector comes by. Threads that all wait for that
                # do not call it.
                gc.collect()
                time.sleep(min(0.5, max(0.01, left)))
                continue
            if not pace.stop_all():
                if pace.is_lost:
                    raise FaultsError("the fault-injecting proxy was lost")
                _tell_hung(results, workers)
                break
            results.samples.append(sample())
            stops = plan.stops if interrupted else stops + 1
            loaded, began = elapsed, time.monotonic()
            pace.go_on(is_over=stops == plan.stops)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            results.notes.append(f"interrupted after {time.monotonic() - started:.0f} s")
    return interrupted


def _tell_hung(results: Results, workers: Sequence[Worker]) -> None:
    frames = sys._current_frames()
    for worker in workers:
        if worker.is_alive() and worker.ident in frames:
            stack = "".join(traceback.format_stack(frames[worker.ident])[-6:])
            if "pace.meet" not in stack:
                results.tally.find("hung", f"{worker.name} did not come to a stop within {PATIENCE:g} s:\n{stack}")
    if not results.tally.found["hung"]:
        results.tally.find("hung", f"the threads did not all come to a stop within {PATIENCE:g} s")


def _counts_at_end(origin: FaultyOrigin) -> dict[str, Any]:
    """The proxy's counts when it has seen the last connection close, or a moment has passed."""
    deadline = time.monotonic() + 2.0
    while (counts := origin.counts())["open"] and time.monotonic() < deadline:
        time.sleep(0.01)
    return counts


def _judge(results: Results) -> None:
    """What the proxy counted, and what was seen at the stops."""
    plan, tally, counts = results.plan, results.tally, results.counts
    for host, peak in counts["peaks"].items():
        if peak > plan.limits.for_host(host):
            tally.find("bound", f"{host} had {peak} connections open at once, {plan.limits.for_host(host)} are allowed")
    if counts["peak"] > plan.total:
        tally.find("bound", f"{counts['peak']} connections were open at once, {plan.total} are allowed in all")
    if counts["late"]:
        results.notes.append(
            f"{counts['late']} times, a connection closed with bytes on the way was not counted as open"
        )
    for which in counts["doubled"]:
        tally.find("doubled", f"{which} came twice")
    for each in results.samples:
        when = f"at {each.seconds:.0f} s"
        if each.leased or each.waiting or each.sessions:
            in_use = f"{each.leased} connections and {each.sessions} sessions leased, {each.waiting} waiting"
            tally.find("permits", f"{when}: {in_use}")
        if each.descriptors is not None and each.descriptors != each.idle:
            tally.find("descriptors", f"{when}: {each.descriptors} more than before, for {each.idle} idle connections")
        if each.threads:
            tally.find("threads", f"{when}: {each.threads} more than before")
    warm = [each for each in results.samples if each.requests >= WARM_UP]
    if len(warm) > 1:
        first, last = warm[0], warm[-1]
        if last.memory is not None and first.memory is not None and last.memory - first.memory > GROWTH_BYTES:
            tally.find("memory", f"{(last.memory - first.memory) / 2**20:.1f} MiB more than after the warm-up")
        if (more := last.objects - first.objects) > GROWTH_OBJECTS:
            tally.find("memory", f"{more:,} objects more than after the warm-up")
        if (more := last.blocks - first.blocks) > GROWTH_BLOCKS:
            tally.find("memory", f"{more:,} small blocks more than after the warm-up")
    else:
        results.unclear.add("memory")
        results.notes.append(f"memory was not judged: that takes two stops after the first {WARM_UP:,} requests")
    if counts["open"]:
        tally.find("closing", f"{counts['open']} connections stayed open at the server")


def _descriptors() -> int | None:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return None


def _memory() -> int | None:
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back to the system, is no growth
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


# What is said about it -----------------------------------------------------------------------------


@attrs.frozen
class Table:
    """Rows under a title; the first column is words, the others are figures unless `is_words`."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_words: bool = False


def tables(results: Results) -> list[Table]:
    """All that is to be said, but for the promises."""
    plan, tally, counts = results.plan, results.tally, results.counts
    failed = tally.attempts - tally.answers
    figures = [
        ("requests", f"{tally.requests:,}"),
        ("attempts", f"{tally.attempts:,}"),
        ("retries", f"{tally.retries:,}"),
        ("attempts that failed", f"{failed:,}"),
        ("requests given up", f"{tally.gave_up:,}"),
        ("answers checked", f"{tally.answers:,}"),
        ("wrong answers", f"{tally.found['wrong']:,}"),
        ("cookies that came back", f"{tally.cookies:,}"),
        ("cookies crossed, lost", f"{tally.found['crossed']:,}, {tally.found['lost']:,}"),
        (
            "connections opened, reused (by the pool's count)",
            f"{results.stats['opened']:,}, {results.stats['reused']:,}",
        ),
        ("server killed", f"{counts['faults'].get('restart', 0)}"),
        ("seconds", f"{results.seconds:.0f}"),
    ]
    hosts = []
    for host in plan.addresses:
        accepted, asked = counts["accepted"].get(host, 0), counts["requests"].get(host, 0)
        peak, limit = counts["peaks"].get(host, 0), plan.limits.for_host(host)
        hosts.append((host, f"{asked:,}", f"{accepted:,}", f"{asked / max(accepted, 1):.1f}", str(peak), str(limit)))
    accepted, asked = sum(counts["accepted"].values()), sum(counts["requests"].values())
    hosts.append(
        ("all", f"{asked:,}", f"{accepted:,}", f"{asked / max(accepted, 1):.1f}", str(counts["peak"]), str(plan.total))
    )
    words = {name: about[1] for name, about in {**FAULTS, **ACCEPT_FAULTS}.items()} | {"restart": KILLED, "dark": DARK}
    faults = [(words[name], f"{counts['faults'].get(name, 0):,}") for name in words]
    errors = [(kind, sent, cause, f"{number:,}") for (kind, sent, cause), number in sorted(tally.errors.items())]
    stops = [
        (
            f"{each.seconds:.0f} s",
            f"{each.requests:,}",
            str(each.leased),
            str(each.waiting),
            str(each.idle),
            "-" if each.descriptors is None else str(each.descriptors),
            str(each.threads),
            "-" if each.memory is None else f"{each.memory / 2**20:.1f}",
            f"{each.objects:,}",
            f"{each.blocks:,}",
        )
        for each in results.samples
    ]
    works = [(work, f"{tally.works[work]:,}") for work in WORKS]
    works += [(f"lease: {how}", f"{tally.leases[how]:,}") for how in LEASES]
    return [
        Table("Requests", ("what", "number"), figures),
        Table(
            "Connections, counted by the proxy",
            ("host", "requests", "accepted", "requests each", "most open", "limit"),
            hosts,
        ),
        Table("What the proxy did", ("fault", "times"), faults),
        Table("Errors of attempts", ("error", "sent", "the proxy", "times"), errors, is_words=True),
        Table(
            "At each stop (descriptors and threads: beyond those from before)",
            ("after", "requests", "leased", "waiting", "idle", "descriptors", "threads", "MiB", "objects", "blocks"),
            stops,
        ),
        Table("What was asked for", ("work", "times"), works),
    ]


def verdict(results: Results) -> list[tuple[str, str]]:
    """Each promise with "kept", "BROKEN" or "unclear" before it."""

    def word(key: str) -> str:
        return "BROKEN" if results.tally.found[key] else "unclear" if key in results.unclear else "kept"

    return [(word(key), promise) for key, promise in PROMISES.items()]


def plain(results: Results) -> str:
    """Everything as text."""
    lines = []
    for table in tables(results):
        rows = [table.heads, *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.heads))]
        lines += [table.title]
        for row in rows:
            cells = [
                cell.ljust(width) if _is_left(table, column) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(("  " + "  ".join(cells)).rstrip())
        lines.append("")
    lines += [f"{word:<7}  {promise}" for word, promise in verdict(results)]
    lines += [f"note: {note}" for note in results.notes]
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Everything as a Markdown page, with the conditions of the run."""
    lines = [
        "# The soak",
        "",
        "Mixed load over a network that fails and a server that dies. How it is done: `loadtests/README.md`.",
        "",
        *(f"- {word}: {promise}" for word, promise in verdict(results)),
    ]
    for table in tables(results):
        ruler = ["---" if _is_left(table, column) else "---:" for column in range(len(table.heads))]
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.heads)} |", f"|{'|'.join(ruler)}|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    lines += ["", "## Conditions", ""]
    lines += [f"- {name}: {value}" for name, value in results.about.items() if name != "versions"]
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in results.about["versions"].items()))
    lines += [f"- {note}" for note in results.notes]
    for key in results.broken:
        lines += ["", f"## Broken: {PROMISES[key]}", ""]
        lines += [f"    {line}" for sentence in results.tally.told[key] for line in sentence.splitlines()]
    return "\n".join(lines) + "\n"


def show(results: Results) -> None:
    """Print everything: with rich on a terminal, if it is there, else as text."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        print(plain(results))
        return
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    for table in tables(results):
        shown = RichTable(title=table.title, title_justify="left")
        for column, head in enumerate(table.heads):
            shown.add_column(head, justify="left" if _is_left(table, column) else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for word, promise in verdict(results):
        console.print(word, promise, style={"kept": "green", "unclear": "yellow"}.get(word, "bold red"), markup=False)
    for note in results.notes:
        console.print(f"note: {note}", markup=False)


def _is_left(table: Table, column: int) -> bool:
    return column == 0 or (table.is_words and column < len(table.heads) - 1)


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for machines."""
    tally = attrs.asdict(results.tally)
    tally["errors"] = [
        {"error": kind, "sent": sent, "proxy": cause, "times": number}
        for (kind, sent, cause), number in sorted(results.tally.errors.items())
    ]
    return {
        **results.about,
        "plan": attrs.asdict(results.plan),
        "kept": not results.broken,
        "unclear": sorted(results.unclear),
        "broken": {key: {"promise": PROMISES[key], "times": results.tally.found[key]} for key in results.broken},
        "tally": tally,
        "proxy": results.counts,
        "pool": results.stats,
        "stops": [attrs.asdict(each) for each in results.samples],
        "seconds": results.seconds,
        "notes": results.notes,
    }


class Progress:
    """What goes on, on standard error: one line that changes on a terminal, else a line every ten seconds."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._said = -math.inf

    def say(self, text: str) -> None:
        """Tell how far it is."""
        now = time.monotonic()
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif now - self._said >= 10:
            self._said = now
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line to others."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# The command ---------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    def whole(least: int, most: int) -> Callable[[str], int]:
        def parse(text: str) -> int:
            if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
                raise argparse.ArgumentTypeError(f"a whole number from {least} to {most}, not {text!r}")
            return int(text)

        return parse

    def number(least: float, most: float) -> Callable[[str], float]:
        def parse(text: str) -> float:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not least <= value <= most:
                raise argparse.ArgumentTypeError(f"a number from {least:g} to {most:g}, not {text!r}")
            return value

        return parse

    listing = ["What is promised, and is named where it was broken:"]
    listing += [f"  {key:<12} {promise}" for key, promise in PROMISES.items()]
    listing += ["", "What the proxy does, to how many in a thousand exchanges (accepts, where it says so):"]
    listing += [f"  {share * 1000:>5g}  {words}" for share, words in (*FAULTS.values(), *ACCEPT_FAULTS.values())]
    listing += [
        "",
        "Exit status: 0 when every promise was kept, 1 when one was broken, 130 after Ctrl-C.",
        "The seed decides what is asked for and which of it fails how; which thread comes first is up to the machine.",
    ]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.soak",
        description=(
            "Minutes of mixed load by many threads over a network that fails (latency, drops, resets, truncation, "
            "black holes) and a server that is killed and started again; then it says whether each promise held."
        ),
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=number(0.01, 600), default=3.0, metavar="M", help="how long (default: 3)")
    parser.add_argument("--threads", type=whole(1, 1000), default=32, metavar="N", help="threads (default: 32)")
    parser.add_argument(
        "--hosts", type=whole(1, 254), default=6, metavar="N", help="hosts, 127.0.0.1 and on (default: 6)"
    )
    parser.add_argument(
        "--per-host",
        type=whole(1, 1000),
        default=4,
        metavar="N",
        help="Limits.per_host; half of it for the last host (default: 4)",
    )
    parser.add_argument("--total", type=whole(1, 10_000), default=12, metavar="N", help="Limits.total (default: 12)")
    parser.add_argument(
        "--identities", type=whole(1, 100_000), default=12, metavar="N", help="named sessions (default: 12)"
    )
    parser.add_argument(
        "--restarts",
        type=whole(0, 10_000),
        metavar="N",
        help="times the server is killed, and times a host goes dark (default: 3 a minute)",
    )
    parser.add_argument(
        "--faults", type=number(0, 6), default=1.0, metavar="X", help="times as many as listed below (default: 1)"
    )
    parser.add_argument(
        "--frantic", action="store_true", help="threads take turns as often as the interpreter lets them"
    )
    parser.add_argument(
        "--seed", type=whole(0, 10**9), metavar="S", help="of what is asked for and what fails (default: by chance)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts there")
    parser.add_argument("--save", action="store_true", help="write loadtests/results/soak.md")
    return parser


def main(arguments: Sequence[str] | None = None, make_pool: MakePool = SessionPool) -> int:
    """Run the command; return its exit status: 0 when every promise was kept, 1 if not, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    chosen = parser.parse_args(arguments)
    plan = Plan(
        seconds=chosen.minutes * 60,
        seed=secrets.randbelow(10_000) if chosen.seed is None else chosen.seed,
        threads=chosen.threads,
        hosts=chosen.hosts,
        per_host=chosen.per_host,
        total=chosen.total,
        identities=chosen.identities,
        restarts=max(1, round(chosen.minutes * 3)) if chosen.restarts is None else chosen.restarts,
        factor=chosen.faults,
        frantic=chosen.frantic,
    )
    results = Results(about=_about(arguments, plan), plan=plan)
    print(
        f"{plan.seconds:g} s, {plan.threads} threads, {plan.hosts} hosts with {plan.per_host} connections each, "
        f"{plan.total} in all, seed {plan.seed}",
        file=sys.stderr,
        flush=True,
    )
    progress = Progress()
    interrupted = False
    try:
        run(results, progress.say, make_pool)
    except FaultsError as error:
        progress.end()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupted = True
    progress.end()
    if not results.counts:  # interrupted before there was anything to tell
        return 130
    show(results)
    for key in results.broken:
        told = results.tally.told[key]
        print(f"\nBROKEN ({results.tally.found[key]} times): {PROMISES[key]}", file=sys.stderr)
        for sentence in told[:5]:
            print(f"  {sentence}", file=sys.stderr)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(as_json(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if chosen.save:
        path = Path(__file__).with_name("results") / "soak.md"
        path.write_text(markdown(results), encoding="utf-8")
        print(f"saved: {path}")
    return 130 if interrupted else 1 if results.broken else 0


def _about(arguments: Sequence[str], plan: Plan) -> dict[str, Any]:
    """Where, when, with what."""
    about = peers.about(arguments)
    versions = {
        name: about["versions"][name] for name in ("python", "sessionpool", "urllib3") if name in about["versions"]
    }
    shown = [part for part in arguments if part != "--save"]
    if "--seed" not in shown:
        shown += ["--seed", str(plan.seed)]
    return {**about, "command": shlex.join(["python", "-m", "loadtests.soak", *shown]), "versions": versions}


if __name__ == "__main__":
    sys.exit(main())
