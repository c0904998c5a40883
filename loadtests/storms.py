"""Hosts that refuse, hosts with a limit, a host that fails: what does a server see of it?

`python -m loadtests.storms --help` tells how to run it. A server that is a process of its own (`loadtests/ailing.py`)
counts; what the client believes of itself proves nothing.

- 429: 50 threads ask one host that has storms, in which it refuses everything. The first refusals of a storm are given
  when every thread has a request at the server, or waits in the pool because all connections have one: then nothing
  is on its way, and whatever comes before `Retry-After` is over is early, with no allowance for anything. Besides, no
  thread may be back before the time that it was itself told, whenever that was. Requests are known by an
  `X-Request-Id`: the second with the same is a retry.
- rate: 32 threads ask one host as fast as `RateLimit` lets them. Of each window, however wide, the arrivals are
  counted. What goes out in time may come late, as threads wake late and take turns; it then comes closer to what
  follows. So much is allowed for as would come in `LATE` seconds.
- sick: ten hosts, then eleven of which one fails, until the circuit has closed again, then ten once more. The healthy
  hosts' latencies are compared within that one sitting; arrivals at the sick host are counted, and how many of them
  were unanswered at once when it is well again. It may then have one connection, and twice as many with each answer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import json
import math
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from loadtests import peers
from loadtests.ailing import AilingError, AilingServer, Arrival, Mode, busiest, excess, most_within
from loadtests.soak import Progress, Table
from sessionpool import (
    CircuitBreaker,
    Governor,
    Limits,
    Observer,
    RateLimit,
    RequestException,
    RetryPolicy,
    SessionPool,
    Timeout,
)
from sessionpool.exceptions import CircuitOpenError

PARTS: Final = {
    "429": "a host that refuses for a while",
    "rate": "a rate limit",
    "sick": "a host that fails, among ten healthy ones",
}
FLOOR: Final = 10  # retries in ten seconds that need no requests
SPAN: Final = 10.0
WINDOW: Final = 0.1  # seconds, in which not too many may come back at once
CROWD: Final = 0.4  # of the threads, in any such window; spread evenly over a second a tenth would come
LATE: Final = 0.05
PATIENCE: Final = 20.0
USED: Final = 0.97
WIDTHS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)  # of windows that are shown
Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


# A host that refuses -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Storms:
    """What to run.

    Attributes:
        status: What the host refuses with.
        retry_after: What it asks for, in seconds.
        threads: That ask it.
        connections: That they may have, all together.
        budget: See `RetryPolicy`.
        calm, storm: Seconds, in turn.
        seconds: In all; the last storm leaves time enough for all to come back.
        think: Seconds between two requests of a thread.
    """

    status: int = 429
    retry_after: int | None = 2
    threads: int = 50
    connections: int = 50
    budget: float | None = 0.2
    calm: float = 4.0
    storm: float = 3.0
    seconds: float = 60.0
    think: float = 0.1


@attrs.frozen(kw_only=True)
class Stormed:
    """What the server counted.

    Attributes:
        plan: What was run.
        seconds: From the first arrival to the last.
        first: Requests that came for the first time.
        retries: Requests that came again.
        refused: Of both.
        storms: How many there were.
        releases: Those whose first refusals asked to wait, and were given when nothing was on its way.
        early: Arrivals before the time that their client, or their own thread, had been told.
        soonest: Seconds after that time that the soonest came; negative if early.
        on_the_way: Arrivals within the time that another thread had been told while they were perhaps under way.
        returned: For each release, when each thread was back, in seconds after it was allowed to.
        arrivals: All of them.
    """

    plan: Storms
    seconds: float
    first: int
    retries: int
    refused: int
    storms: int
    releases: int
    early: int
    soonest: float
    on_the_way: int
    returned: list[list[float]]
    arrivals: list[Arrival]

    @property
    def allowed(self) -> float:
        """Retries, at most: the budget's share of first sendings, and its floor for each ten seconds."""
        return (self.plan.budget or 0.0) * self.first + FLOOR * math.ceil(self.seconds / SPAN)

    @property
    def crowd(self) -> int:
        """The most threads that came back within `WINDOW` of each other."""
        return max((most_within(each, WINDOW) for each in self.returned), default=0)

    def faults(self) -> Iterator[str]:
        """What is not as it was promised."""
        if self.plan.budget is not None and self.retries > self.allowed:
            yield f"{self.retries} retries of {self.first} requests, {self.allowed:.0f} are allowed"
        if self.early:
            yield f"{self.early} requests came before Retry-After was over, the soonest {-self.soonest:.3f} s before"
        if self.crowd > CROWD * self.plan.threads:
            yield f"{self.crowd} of {self.plan.threads} threads came back within {WINDOW:g} s"
        if not self.storms or not self.refused:
            yield "there was no storm"
        if self.plan.retry_after is not None and self.releases < self.storms:
            yield f"only {self.releases} of {self.storms} storms found every thread waiting for an answer"
        for each in self.returned:
            if len(each) < self.plan.threads:
                yield f"{self.plan.threads - len(each)} of {self.plan.threads} threads did not come back"


def storm(server: AilingServer, plan: Storms, say: Say = silent) -> Stormed:
    """Let threads ask a host that has storms."""
    calm, stormy = Mode(), Mode(status=plan.status, retry_after=plan.retry_after)
    server.set(calm)
    server.take()
    url, over = server.url(), threading.Event()
    pool = SessionPool(
        limits=Limits(per_host=plan.connections, total=plan.connections),
        timeout=Timeout(pool=60),
        retry=RetryPolicy(budget=plan.budget),
        trust_env=False,
    )

    def ask(number: int) -> None:
        for turn in itertools.count():
            if over.is_set():
                return
            with_id = {"X-Request-Id": f"{number}-{turn}"}
            with contextlib.suppress(RequestException):  # at the end the pool is closed
                pool.get(url, headers=with_id)
            over.wait(plan.think)

    def strike() -> None:
        """Begin a storm, when nothing is on its way."""
        server.set(attrs.evolve(stormy, keeps=True))
        most = min(plan.threads, plan.connections)
        gives_up = time.monotonic() + PATIENCE
        while time.monotonic() < gives_up:
            stats = pool.stats()
            if (stats.leased, stats.waiting) == (most, plan.threads - most) and server.release(most):
                return
            time.sleep(0.002)
        server.set(stormy)

    def tell() -> None:
        say(f"{_title(plan)}: {max(0.0, ends - time.monotonic()):.0f} s to go, {storms} storms so far")

    storms = 0
    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(plan.threads)]
    ends = time.monotonic() + plan.seconds
    with pool:
        for thread in threads:
            thread.start()
        try:
            while True:
                _wait(min(plan.calm, ends - time.monotonic()), tell)
                # A storm needs as long to pass as its host asks for, and longer.
                if ends - time.monotonic() < plan.storm + 2 * (plan.retry_after or 0):
                    break
                storms += 1
                if plan.retry_after is None:
                    server.set(stormy)
                else:
                    strike()
                _wait(plan.storm, tell)
                server.set(calm)
            _wait(ends - time.monotonic(), tell)
        finally:
            over.set()
            pool.close(timeout=5)
            for thread in threads:
                thread.join()
    return judge_storm(plan, server.take(), storms)


def judge_storm(plan: Storms, arrivals: list[Arrival], storms: int) -> Stormed:
    """Count."""
    retries = len(arrivals) - len({each.request for each in arrivals})
    told: dict[str, float] = {}  # by thread: when it may be back
    free = -math.inf  # when anybody may, for nothing was on its way when that was said
    heard = -math.inf  # until when any thread was told to stay away
    early = on_the_way = 0
    soonest = math.inf
    returned: list[list[float]] = []
    back: set[str] = set()  # threads, since the last release
    # Arrivals and answers in the order of their instants; of one instant the arrival first, as nobody has heard yet.
    events = [(each.at, False, each) for each in arrivals]
    events += [(each.answered, True, each) for each in arrivals if each.retry_after is not None]
    for at, is_answer, each in sorted(events, key=lambda event: event[:2]):
        thread = each.request.partition("-")[0]
        if is_answer:
            until = at + (each.retry_after or 0)
            told[thread] = until
            heard = max(heard, until)
            if each.kept:
                if at >= free:  # the first of those that are answered all at once
                    returned.append([])
                    back = set()
                free = until
            continue
        allowed = max(told.get(thread, -math.inf), free)
        early += at < allowed
        on_the_way += allowed <= at < heard
        soonest = min(soonest, at - allowed)
        if returned and thread not in back:
            back.add(thread)
            returned[-1].append(at - free)
    return Stormed(
        plan=plan,
        seconds=arrivals[-1].at - arrivals[0].at,
        first=len(arrivals) - retries,
        retries=retries,
        refused=sum(each.status != 200 for each in arrivals),
        storms=storms,
        releases=len(returned),
        early=early,
        soonest=soonest,
        on_the_way=on_the_way,
        returned=returned,
        arrivals=arrivals,
    )


def _wait(seconds: float, tell: Callable[[], None]) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        tell()
        time.sleep(min(left, 0.5))


# A rate limit --------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Rate:
    """What to run.

    Attributes:
        rate, burst: See `RateLimit`.
        threads: That ask the host, as fast as they may.
        connections: That they may have, all together.
        stall: Seconds, in the middle, for which the host answers nobody.
        seconds: In all.
    """

    rate: float = 100.0
    burst: int = 10
    threads: int = 32
    connections: int = 32
    stall: float = 0.0
    seconds: float = 60.0


@attrs.frozen(kw_only=True)
class Rated:
    """What the server counted.

    Attributes:
        plan: What was run.
        instants: Of the arrivals.
        excess: The most by which a window of any width `w` had more than `rate * w` arrivals.
        used: Share of the rate that was used, beyond the burst, from the first arrival to the last without the stall.
    """

    plan: Rate
    instants: list[float]
    excess: float
    used: float

    def faults(self) -> Iterator[str]:
        """What is not as it was promised."""
        allowed = self.plan.burst + LATE * self.plan.rate
        if self.excess > allowed:
            yield (
                f"a window of some width w had {self.excess:.1f} requests more than {self.plan.rate:g} * w, "
                f"{self.plan.burst} are allowed and {LATE * self.plan.rate:g} for what comes late"
            )
        if self.used < USED:
            yield f"{self.used:.1%} of the rate were used, not {USED:.0%}"


def rate(server: AilingServer, plan: Rate, say: Say = silent) -> Rated:
    """Let threads ask a host as fast as they may."""
    server.set(Mode())
    server.take()
    url, over = server.url(), threading.Event()
    pool = SessionPool(
        governor=Governor(rate=RateLimit(rate=plan.rate, burst=plan.burst)),
        limits=Limits(per_host=plan.connections, total=plan.connections),
        trust_env=False,
    )

    def tell() -> None:
        say(f"rate limit, {max(0.0, ends - time.monotonic()):.0f} s to go")

    def ask() -> None:
        while not over.is_set():
            try:
                pool.get(url)
            except RequestException:
                return  # the pool was closed: what is missing then is missed at the server

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(plan.threads)]
    ends = time.monotonic() + plan.seconds
    with pool:
        for thread in threads:
            thread.start()
        if plan.stall:
            _wait((plan.seconds - plan.stall) / 2, tell)
            server.set(Mode(keeps=True))
            _wait(plan.stall, tell)
            server.set(Mode())
        _wait(ends - time.monotonic(), tell)
        instants = [each.at for each in server.take()]  # before close() makes those who wait give up
        over.set()
        pool.close(timeout=5)
        for thread in threads:
            thread.join()
    return Rated(
        plan=plan,
        instants=instants,
        excess=excess(instants, plan.rate),
        used=(len(instants) - plan.burst) / (plan.rate * (instants[-1] - instants[0] - plan.stall)),
    )


# A host that fails ---------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Sick:
    """What to run.

    Attributes:
        threads: That ask all hosts in turn.
        healthy: Hosts besides the sick one.
        per_host: Connections.
        delay: Seconds that an answer takes.
        alone: Seconds without the sick host, before and after.
        sick: Seconds that it fails.
        status: With what; 0: by closing connections.
        after: Seconds that it is watched once it has been found well.
        breaker: The circuit breaker.
    """

    threads: int = 16
    healthy: int = 10
    per_host: int = 10
    delay: float = 0.01
    alone: float = 30.0
    sick: float = 60.0
    status: int = 503
    after: float = 10.0
    breaker: CircuitBreaker = attrs.field(factory=lambda: CircuitBreaker(open=5.0, most=20.0))


@attrs.frozen(kw_only=True)
class Sickened:
    """What the server counted, and how long the client waited.

    Attributes:
        plan: What was run.
        asked: Requests that were meant for the sick host while it failed.
        failed: Those that came.
        allowed: As many may come: the failures that open the circuit, those under way then, and the probes.
        openings: Times the circuit opened.
        closed: It closed in the end.
        found: Seconds from the recovery to the good probe.
        first_second: Arrivals in the second after the answer to the good probe.
        busiest: The most that were unanswered at once in that second.
        crowded: Arrivals at which more were unanswered than one, doubled for each answer.
        alone, beside: Milliseconds, p50 and p99 of the healthy hosts without the sick one, and while it failed.
        wrong: Requests to healthy hosts that failed.
        events: Of the circuit: seconds since the host fell sick, and the state.
        times: Of the arrivals at the sick host, in seconds since it fell sick.
    """

    plan: Sick
    asked: int
    failed: int
    allowed: int
    openings: int
    closed: bool
    found: float
    first_second: int
    busiest: int
    crowded: int
    alone: tuple[float, float]
    beside: tuple[float, float]
    wrong: int
    events: list[tuple[float, str]]
    times: list[float]

    @property
    def ratio(self) -> float:
        """The p99 beside the sick host, as a multiple of that without."""
        return self.beside[1] / self.alone[1]

    def faults(self) -> Iterator[str]:
        """What is not as it was promised, but for latencies."""
        if not self.openings:
            yield "the circuit did not open"
        if self.failed > self.allowed:
            yield f"{self.failed} requests came to the host that failed, {self.allowed} are allowed"
        if not self.closed:
            yield "the circuit did not close"
        if self.crowded:
            yield f"{self.crowded} requests came to the recovered host before there was room for them"
        if self.wrong:
            yield f"{self.wrong} requests to healthy hosts failed"


class _Circuits(Observer):
    """What the circuit does, and when."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []

    def circuit(self, host: str, state: str) -> None:  # noqa: ARG002
        self.events.append((time.monotonic(), state))


def sicken(server: AilingServer, plan: Sick, say: Say = silent) -> Sickened:
    """Let threads ask healthy hosts, and a sick one among them. `server` has one address more than are healthy."""
    *healthy, sick = server.hosts
    fine = Mode(delay=plan.delay)
    for host in server.hosts:
        server.set(fine, host)
    server.take()
    observer, over = _Circuits(), threading.Event()
    phase, hosts = "alone", healthy
    waits: dict[str, list[float]] = {"alone": [], "sick": [], "well": []}
    wrong: list[RequestException] = []
    recovered = threading.Event()
    pool = SessionPool(
        governor=Governor(circuit=plan.breaker),
        limits=Limits(per_host=plan.per_host, total=plan.per_host * (plan.healthy + 1)),
        observer=observer,
        trust_env=False,
    )

    def ask(number: int) -> None:
        for turn in itertools.count(number):
            if over.is_set():
                return
            now, host = phase, hosts[turn % len(hosts)]
            began = time.perf_counter()
            try:
                status = pool.get(server.url(host)).status_code
            except RequestException as error:
                if host != sick:
                    wrong.append(error)
                elif not isinstance(error, CircuitOpenError):
                    time.sleep(plan.delay)
                status = 0
            if host != sick:
                waits[now].append(time.perf_counter() - began)
            elif now == "sick":
                rejections.append(None)
            elif status == 200:
                recovered.set()

    rejections: list[None] = []
    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(plan.threads)]
    with pool:
        for thread in threads:
            thread.start()

        def tell() -> None:
            say(f"{phase}: {sum(map(len, waits.values())):,} answers of healthy hosts, circuit {_last(observer)}")

        _wait(plan.alone, tell)
        fell = server.set(Mode(status=plan.status, delay=plan.delay), sick)
        fell_here = time.monotonic()
        phase, hosts = "sick", server.hosts
        _wait(plan.sick, tell)
        phase = "well"
        rose = server.set(fine, sick)
        gives_up = time.monotonic() + 2 * plan.breaker.most + 10
        while not recovered.wait(0.5) and time.monotonic() < gives_up:
            tell()
        _wait(plan.after, tell)
        phase, hosts = "alone", healthy
        _wait(plan.alone, tell)
        over.set()
        for thread in threads:
            thread.join()
    at_sick = [each for each in server.take() if each.host == sick]
    return _judge_sick(plan, at_sick, fell, rose, fell_here, observer, waits, len(rejections), len(wrong))


def _last(observer: _Circuits) -> str:
    return observer.events[-1][1] if observer.events else "closed"


def _judge_sick(
    plan: Sick,
    arrivals: list[Arrival],
    fell: float,
    rose: float,
    fell_here: float,
    observer: _Circuits,
    waits: dict[str, list[float]],
    asked: int,
    wrong: int,
) -> Sickened:
    failed = [each for each in arrivals if each.status != 200]
    probe = next((each for each in arrivals if each.status == 200 and each.at >= rose), None)
    late = [each for each in arrivals if probe is not None and each.at > probe.answered]
    since = [each for each in late if probe is not None and each.at < probe.answered + 1]
    _, crowded = busiest(late, lambda answers: min(2 ** min(answers, 30), plan.per_host))
    # Whoever had been let through when the circuit opened may have come, one for each other thread.
    allowed = (plan.breaker.failures or 0) + plan.threads - 1 + probes(plan.breaker, plan.sick + plan.breaker.most)
    return Sickened(
        plan=plan,
        asked=asked,
        failed=len(failed),
        allowed=allowed,
        openings=sum(state == "open" for _, state in observer.events),
        closed=_last(observer) == "closed" and bool(observer.events),
        found=math.inf if probe is None else probe.at - rose,
        first_second=len(since),
        busiest=busiest(since, lambda _: plan.per_host)[0],
        crowded=len(crowded),
        alone=_percentiles(waits["alone"]),
        beside=_percentiles(waits["sick"]),
        wrong=wrong,
        events=[(at - fell_here, state) for at, state in observer.events],
        times=[each.at - fell for each in arrivals],
    )


def probes(breaker: CircuitBreaker, seconds: float) -> int:
    """How often at most a circuit may be probed in so many seconds, if every probe fails."""
    passed, count = 0.0, 0
    while (passed := passed + 0.8 * min(breaker.open * (count + 1), breaker.most)) <= seconds:
        count += 1
    return count


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds) or [math.nan]
    return 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[len(ordered) * 99 // 100]


# What is said about it -----------------------------------------------------------------------------


@attrs.define(kw_only=True)
class Results:
    """Everything that one run gave."""

    about: dict[str, Any]
    stormed: list[Stormed] = attrs.field(factory=list)
    rated: Rated | None = None
    sickened: Sickened | None = None
    notes: list[str] = attrs.field(factory=list)

    def faults(self) -> Iterator[str]:
        """What is not as it was promised."""
        for each in self.stormed:
            yield from (f"{_title(each.plan)}: {fault}" for fault in each.faults())
        for part in (self.rated, self.sickened):
            if part is not None:
                yield from part.faults()


def _title(plan: Storms) -> str:
    asks = "no Retry-After" if plan.retry_after is None else f"Retry-After: {plan.retry_after}"
    budget = "" if plan.budget is not None else ", no budget"
    return f"{plan.status}, {asks}, {plan.connections} connections{budget}"


def tables(results: Results) -> Iterator[Table]:
    """All that is to be said."""
    if results.stormed:
        rows = [
            (
                _title(each.plan),
                f"{each.first:,}",
                f"{each.retries:,}",
                "-" if each.plan.budget is None else f"{each.allowed:,.0f}",
                f"{each.retries / each.first:.1%}",
                f"{each.refused:,}",
                str(each.storms),
                "-" if not each.releases else str(each.early),
                "-" if not each.releases else f"{each.soonest:.3f}",
                "-" if not each.releases else str(each.on_the_way),
                "-" if not each.releases else f"{each.crowd} of {each.plan.threads}",
            )
            for each in results.stormed
        ]
        heads = ["the host refuses with", "requests", "retries", "allowed", "extra load", "refused", "storms", "early"]
        heads += ["soonest, s", "on the way", f"most back in {WINDOW:g} s"]
        yield Table("A host that refuses", heads, rows)
    if results.rated is not None:
        plan, rated = results.rated.plan, results.rated
        widths = [
            (f"{width:g} s", f"{most_within(rated.instants, width):,}", f"{plan.burst + plan.rate * width:,g}")
            for width in WIDTHS
            if width < plan.seconds
        ]
        title = f"A rate limit of {plan.rate:g} a second, bursts of {plan.burst}, {plan.threads} threads"
        yield Table(title, ("window", "most arrivals", "burst + rate * window"), widths)
        figures = [
            ("arrivals", f"{len(rated.instants):,}"),
            ("share of the rate that was used", f"{rated.used:.1%}"),
            ("most above rate * w, in windows of any width w", f"{rated.excess:.2f}"),
            (f"allowed: the burst, and what comes {LATE:g} s late", f"{plan.burst + LATE * plan.rate:g}"),
        ]
        yield Table("Over all of it", ("what", "figure"), figures)
    if results.sickened is not None:
        sick = results.sickened
        figures = [
            ("requests meant for it while it failed", f"{sick.asked:,}"),
            ("of those, came", f"{sick.failed:,}"),
            ("as many may come", f"{sick.allowed:,}"),
            ("times the circuit opened", f"{sick.openings}"),
            ("seconds from its recovery to the good probe", f"{sick.found:.1f}"),
            ("arrivals in the second after that", f"{sick.first_second:,}"),
            ("of those, most unanswered at once", f"{sick.busiest} of {sick.plan.per_host}"),
            ("arrivals for which there was no room yet", f"{sick.crowded}"),
            ("healthy hosts alone: p50, p99, ms", f"{sick.alone[0]:.1f}, {sick.alone[1]:.1f}"),
            ("healthy hosts beside it: p50, p99, ms", f"{sick.beside[0]:.1f}, {sick.beside[1]:.1f}"),
            ("p99 beside it, as a multiple of that alone", f"{sick.ratio:.2f}"),
            ("requests to healthy hosts that failed", f"{sick.wrong}"),
        ]
        title = f"A host that fails for {sick.plan.sick:g} s among {sick.plan.healthy} healthy ones"
        yield Table(title, ("what", "figure"), figures)


def plain(results: Results) -> str:
    """Everything as text."""
    lines = []
    for table in tables(results):
        rows = [table.heads, *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.heads))]
        lines.append(table.title)
        for first, *others in rows:
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells))
        lines.append("")
    lines += [f"BROKEN: {fault}" for fault in results.faults()] or ["kept: everything that was promised"]
    lines += [f"note: {note}" for note in results.notes]
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Everything as a Markdown page, with the conditions of the run."""
    lines = [
        "# Storms",
        "",
        "Hosts that refuse, hosts with a limit, a host that fails; counted by the server. How it is done:",
        "`loadtests/README.md`.",
        "",
    ]
    lines += [f"- BROKEN: {fault}" for fault in results.faults()] or ["- kept: everything that was promised"]
    for table in tables(results):
        ruler = ["---", *["---:"] * (len(table.heads) - 1)]
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.heads)} |", f"|{'|'.join(ruler)}|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    lines += ["", "## Conditions", ""]
    lines += [f"- {name}: {value}" for name, value in results.about.items() if name != "versions"]
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in results.about["versions"].items()))
    lines += [f"- {note}" for note in results.notes]
    return "\n".join(lines) + "\n"


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for machines; arrivals as counts per tenth of a second."""

    def tenths(instants: Sequence[float]) -> list[int]:
        counts = Counter(int((at - min(instants)) * 10) for at in instants)
        return [counts[tenth] for tenth in range(max(counts, default=-1) + 1)]

    stormed = []
    for each in results.stormed:
        fields = {name: value for name, value in attrs.asdict(each, recurse=False).items() if name != "arrivals"}
        figures = {
            "plan": attrs.asdict(each.plan),
            "allowed": each.allowed,
            "crowd": each.crowd,
            "soonest": each.soonest if each.releases else None,
        }
        stormed.append({**fields, **figures, "tenths": tenths([arrival.at for arrival in each.arrivals])})
    rated, sickened = results.rated, results.sickened
    return {
        **results.about,
        "kept": not list(results.faults()),
        "faults": list(results.faults()),
        "429": stormed,
        "rate": rated and {**attrs.asdict(rated), "instants": None, "tenths": tenths(rated.instants)},
        "sick": sickened
        and {
            **attrs.asdict(sickened),
            "found": sickened.found if sickened.closed else None,
            "ratio": sickened.ratio,
        },
        "notes": results.notes,
    }


def chart(results: Results, path: Path) -> bool:
    """Draw it as panels to `path`; False without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    draws: list[Callable[[Any], None]] = [partial(_draw_storm, stormed=each) for each in results.stormed]
    if released := [each for each in results.stormed if each.releases]:
        draws.append(partial(_draw_returns, stormed=released))
    if results.rated is not None:
        draws.append(partial(_draw_rate, rated=results.rated))
    if results.sickened is not None:
        draws.append(partial(_draw_sick, sick=results.sickened))
    across = min(2, len(draws))
    down = math.ceil(len(draws) / across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(7.5 * across, 0.6 + 3.4 * down), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(draws) :]:
        panel.set_visible(False)
    for panel, draw in zip(axes.flat, draws, strict=False):
        draw(panel)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0)
    about = results.about
    figure.suptitle(
        "Hosts that refuse, hosts with a limit, a host that fails: what the server counted\n"
        f"{about['machine']}, Python {about['versions']['python']}, {about['date']}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _label(panel: Any, title: str, along: str, up: str) -> None:
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(along)
    panel.set_ylabel(up)


_BLUE, _ORANGE, _RED, _GREY = "#56697f", "#e68a3c", "#c0392b", "#b9c4d0"


def _draw_storm(panel: Any, stormed: Stormed) -> None:
    _label(panel, _title(stormed.plan), "seconds", "arrivals in half a second")
    began = stormed.arrivals[0].at
    seen: set[str] = set()
    firsts: list[float] = []
    retries: list[float] = []
    refused: list[float] = []
    for each in stormed.arrivals:
        (retries if each.request in seen else firsts).append(each.at - began)
        seen.add(each.request)
        if each.status != 200:
            refused.append(each.at - began)
    bins = [number / 2 for number in range(int(stormed.seconds * 2) + 2)]
    panel.hist([firsts, retries], bins, stacked=True, color=[_BLUE, _ORANGE], label=["requests", "retries"])
    panel.hist(refused, bins, histtype="step", color=_RED, label="refused")


def _draw_returns(panel: Any, stormed: Sequence[Stormed]) -> None:
    _label(panel, "Who comes back when", "seconds after the first Retry-After is over", f"threads in {WINDOW:g} s")
    for each, colour in zip(stormed, (_BLUE, _ORANGE, _GREY), strict=False):
        back = [after for storm in each.returned for after in storm]
        bins = [number * WINDOW for number in range(-5, 36)]
        panel.hist(
            back,
            bins,
            weights=[1 / each.releases] * len(back),
            histtype="step",
            linewidth=1.5,
            color=colour,
            label=f"{each.plan.status}, {each.plan.connections} connections",
        )
    panel.axvline(0.0, color=_RED, linestyle="--", linewidth=1.2)


def _draw_rate(panel: Any, rated: Rated) -> None:
    plan = rated.plan
    _label(panel, f"A rate limit of {plan.rate:g} a second", "width of the window, seconds", "most arrivals in it")
    widths = [0.01 * 1.3**number for number in range(60) if 0.01 * 1.3**number < plan.seconds]
    panel.loglog(widths, [most_within(rated.instants, width) for width in widths], "o", color=_BLUE, label="counted")
    allowed = [plan.burst + plan.rate * width for width in widths]
    panel.loglog(widths, allowed, color=_RED, linestyle="--", linewidth=1.2, label="burst + rate * width")


def _draw_sick(panel: Any, sick: Sickened) -> None:
    _label(panel, f"A host that fails for {sick.plan.sick:g} s", "seconds", "arrivals at it in half a second")
    ends = max([sick.plan.sick + sick.found + sick.plan.after, *(at for at, _ in sick.events)])
    bins = [number / 2 for number in range(int(ends * 2) + 2)]
    panel.hist([at for at in sick.times if at >= 0], bins, color=_BLUE, label="arrivals")
    states = [*sick.events, (ends, "")]
    shaded = False
    for (at, state), (until, _) in itertools.pairwise(states):
        if state == "open":
            panel.axvspan(at, until, color=_GREY, alpha=0.5, label=None if shaded else "circuit open", zorder=0)
            shaded = True
    panel.axvline(sick.plan.sick, color=_RED, linestyle="--", linewidth=1.2, label="it is well again")
    panel.set_yscale("symlog", linthresh=10)


# The command ---------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 1 <= value <= 3600:
            raise argparse.ArgumentTypeError(f"a number from 1 to 3600, not {text!r}")
        return value

    listing = ["parts:", *(f"  {key:<6}{title}" for key, title in PARTS.items())]
    listing += ["", "Exit status: 0 when everything that is promised was kept, 1 when not, 130 after Ctrl-C."]
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.storms",
        description="Let hosts refuse, limit and fail, and count at the server what comes. About nine minutes.",
        epilog="\n".join(listing),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="only this one (default: all)")
    parser.add_argument(
        "--seconds", type=seconds, default=60.0, metavar="S", help="of each measurement (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to save (default: results beside this module)")
    return parser


def run(results: Results, parts: Sequence[str], seconds: float, say: Say) -> None:
    """Run the parts, adding to `results`."""
    with AilingServer(11) as server:
        if "429" in parts:
            for plan in (
                Storms(seconds=seconds),
                Storms(status=503, seconds=seconds),
                Storms(connections=10, seconds=seconds),
                Storms(retry_after=None, seconds=seconds),
                Storms(retry_after=None, budget=None, seconds=seconds),
            ):
                results.stormed.append(storm(server, plan, say))
        if "rate" in parts:
            results.rated = rate(server, Rate(seconds=seconds), say)
        if "sick" in parts:
            results.sickened = sicken(server, Sick(sick=seconds, alone=seconds / 2), say)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 when every promise was kept, 1 if not, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    chosen = parser.parse_args(arguments)
    directory = chosen.out or Path(__file__).with_name("results")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write to {directory}: {error.strerror}")
    shown = [part for part in arguments if part != str(chosen.out) and not part.startswith("--out")]
    about = peers.about(arguments)
    versions = {name: about["versions"][name] for name in ("python", "sessionpool", "urllib3")}
    command = shlex.join(["python", "-m", "loadtests.storms", *shown])
    results = Results(about={**about, "command": command, "versions": versions})
    progress = Progress()
    interrupted = False
    try:
        run(results, [chosen.part] if chosen.part else list(PARTS), chosen.seconds, progress.say)
    except AilingError as error:
        progress.end()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupted = True
        results.notes.append("interrupted: what was not finished is missing")
    progress.end()
    if not (results.stormed or results.rated or results.sickened):
        return 130
    print(plain(results))
    path = directory / ("storms" if chosen.part is None else f"storms-{chosen.part}")
    path.with_suffix(".json").write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    if not chart(results, path.with_suffix(".png")):
        print("note: no chart, matplotlib is not installed: pip install 'sessionpool[peers]'")
    print(f"saved: {path}.*")
    return 130 if interrupted else 1 if any(results.faults()) else 0


if __name__ == "__main__":
    sys.exit(main())
