"""What is logged: which line at which level, how often, and with what beside it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sessionpool._log import Log
from sessionpool._observer import Observer, Watch
from sessionpool.testing import FakeClock
from tests.helpers import in_thread

HOST = "http://127.0.0.1:8000"
PROXY = "http://127.0.0.1:3128"
UNTIL = "2027-01-15T08:00:11+00:00"  # 11 s after the fake clock's beginning
Say = Callable[[Log], None]

LINES: list[Any] = [
    pytest.param(
        lambda log: log.connected(HOST, 0.25),
        ("connections", "DEBUG", f"opened a connection to {HOST} in 0.25 s"),
        {"event": "connected", "host": HOST, "seconds": 0.25},
        id="connected",
    ),
    pytest.param(
        lambda log: log.closed(HOST, "expired"),
        ("connections", "DEBUG", f"closed a connection to {HOST}: expired"),
        {"event": "closed", "host": HOST, "reason": "expired"},
        id="closed",
    ),
    pytest.param(
        lambda log: log.retrying("GET", HOST, 1, "503", 11.0),
        ("retries", "DEBUG", f"GET {HOST}: attempt 1 came to 503; another in 11 s"),
        {"event": "retrying", "method": "GET", "host": HOST, "attempt": 1, "reason": "503", "seconds": 11.0},
        id="retrying",
    ),
    pytest.param(
        lambda log: log.denied(HOST, "attempts"),
        ("retries", "DEBUG", f"a request to {HOST} is not tried again: attempts"),
        {"event": "denied", "host": HOST, "reason": "attempts"},
        id="denied",
    ),
    pytest.param(
        lambda log: log.denied(HOST, "circuit"),
        ("retries", "DEBUG", f"a request to {HOST} does not go: circuit"),
        {"event": "denied", "host": HOST, "reason": "circuit"},
        id="denied before it went",
    ),
    pytest.param(
        lambda log: log.denied(HOST, "budget"),
        ("retries", "INFO", f"a request to {HOST} is not tried again: its retry budget is used up"),
        {"event": "denied", "host": HOST, "reason": "budget"},
        id="denied by the budget",
    ),
    pytest.param(
        lambda log: log.cooled(HOST, 11.0, "429 Retry-After"),
        (
            "hosts",
            "INFO",
            f"{HOST} asked to be left alone (429 Retry-After): no request goes to it for 11 s, until {UNTIL}",
        ),
        {
            "event": "cooled",
            "host": HOST,
            "reason": "429 Retry-After",
            "seconds": 11.0,
            "until": UNTIL,
        },
        id="cooled",
    ),
    pytest.param(
        lambda log: log.throttled(HOST, 10.5),
        ("hosts", "DEBUG", f"a request to {HOST} has waited 10.5 s for its cool-down or rate limit"),
        {"event": "throttled", "host": HOST, "seconds": 10.5},
        id="throttled",
    ),
    pytest.param(
        lambda log: log.circuit(HOST, "open"),
        ("hosts", "WARNING", f"the circuit of {HOST} is open"),
        {"event": "circuit", "host": HOST, "state": "open"},
        id="circuit open",
    ),
    pytest.param(
        lambda log: log.circuit(HOST, "half-open"),
        ("hosts", "INFO", f"the circuit of {HOST} is half-open"),
        {"event": "circuit", "host": HOST, "state": "half-open"},
        id="circuit half-open",
    ),
    pytest.param(
        lambda log: log.retired(("ada", 7), "status 403"),
        ("leases", "INFO", "the session of ('ada', 7) is retired: status 403"),
        {"event": "retired", "key": "('ada', 7)", "reason": "status 403"},
        id="retired",
    ),
    pytest.param(
        lambda log: log.retired(None, "max_uses=5"),
        ("leases", "INFO", "a session is retired: max_uses=5"),
        {"event": "retired", "key": "", "reason": "max_uses=5"},
        id="retired, nobody's",
    ),
    pytest.param(
        lambda log: log.benched(PROXY, 300.0, "407"),
        ("proxies", "WARNING", f"proxy {PROXY} let nobody through (407 last) and is left alone for 300 s"),
        {"event": "benched", "proxy": PROXY, "reason": "407", "seconds": 300.0},
        id="benched",
    ),
    pytest.param(
        lambda log: log.benched(PROXY, math.inf, "ProxyError"),
        ("proxies", "WARNING", f"proxy {PROXY} let nobody through (ProxyError last) and is left alone for good"),
        {"event": "benched", "proxy": PROXY, "reason": "ProxyError"},
        id="benched for good",
    ),
    pytest.param(
        lambda log: log.cut(2, 1, 10.0, waited=True),
        ("leases", "WARNING", "closed after 10 s with leases not given back: 2, connections cut off: 1"),
        {"event": "cut", "leases": 2, "connections": 1, "seconds": 10.0},
        id="cut",
    ),
    pytest.param(
        lambda log: log.cut(2, 1, 0.0, waited=False),
        ("leases", "INFO", "closed after 0 s with leases not given back: 2, connections cut off: 1"),
        {"event": "cut", "leases": 2, "connections": 1, "seconds": 0.0},
        id="cut at once",
    ),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(clock: FakeClock) -> Log:
    return Log("crawl", clock)


@pytest.fixture
def level(caplog: pytest.LogCaptureFixture) -> Callable[[int], None]:
    """Sets the level of the tree."""
    caplog.set_level(logging.DEBUG, "sessionpool")
    return partial(caplog.set_level, logger="sessionpool")


def beside(record: logging.LogRecord) -> dict[str, Any]:
    """What a record has of ours."""
    prefix = "sessionpool_"
    return {name[len(prefix) :]: value for name, value in vars(record).items() if name.startswith(prefix)}


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(("say", "line", "attributes"), LINES)
def test_a_line(
    say: Say, line: tuple[str, str, str], attributes: dict[str, Any], log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """One line an event, on its logger, at its level, with its parts as attributes that JSON can hold."""
    say(log)
    (record,) = caplog.records
    logger, level, text = line

    assert (record.name, record.levelname) == (f"sessionpool.{logger}", level)
    assert record.getMessage() == f"pool 'crawl': {text}"
    assert beside(record) == {"pool": "crawl", **attributes}
    assert json.loads(json.dumps(beside(record), allow_nan=False)) == beside(record)


@pytest.mark.parametrize(("say", "line", "attributes"), LINES)
def test_a_level_that_is_off_costs_no_record(
    say: Say,
    line: tuple[str, str, str],
    attributes: dict[str, Any],
    log: Log,
    level: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Levels are looked at when something happens, so one may be switched on in a running program."""
    level(logging.ERROR)
    say(log)
    level(logging.getLevelNamesMapping()[line[1]])
    say(log)

    assert len(caplog.records) == 1
    assert "left_out" not in beside(caplog.records[0])


@pytest.mark.parametrize(
    ("say", "other"),
    [
        (lambda log: log.denied(HOST, "budget"), lambda log: log.denied(PROXY, "budget")),
        (lambda log: log.cooled(HOST, 11.0, "429"), lambda log: log.cooled(PROXY, 11.0, "429")),
        (lambda log: log.cooled(HOST, 11.0, "429"), lambda log: log.cooled(HOST, 60.0, "429")),
        (lambda log: log.retired("ada", "status 403"), lambda log: log.retired("ada", "by hand")),
    ],
    ids=["budget", "cool-down", "cool-down of another length", "retired"],
)
def test_what_could_flood_is_told_every_ten_seconds(
    say: Say,
    other: Say,
    log: Log,
    clock: FakeClock,
    level: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At INFO once, then with the number of those left out; what is something else is told at once."""
    level(logging.INFO)
    for _ in range(5):
        say(log)
    other(log)
    clock.advance(9.9)
    say(log)
    clock.advance(0.1)
    say(log)
    clock.advance(10)
    say(log)

    assert [beside(record).get("left_out") for record in caplog.records] == [None, None, 5, None]
    assert caplog.records[2].getMessage().endswith("(since this was told last, so many more: 5)")


@pytest.mark.usefixtures("level")
def test_a_cool_down_beyond_all_dates_is_told(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """A server may write whatever number it likes."""
    log.cooled(HOST, 1e300, "429 Retry-After")

    assert beside(caplog.records[0])["until"] == "9999-12-31T23:59:59+00:00"


@pytest.mark.usefixtures("level")
def test_debug_tells_what_info_leaves_out(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for everything gets everything."""
    for _ in range(3):
        log.denied(HOST, "budget")

    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "DEBUG"]


def test_what_was_told_is_bounded(log: Log, level: Callable[[int], None], caplog: pytest.LogCaptureFixture) -> None:
    """A crawler's hosts are many: those told of longest ago are forgotten."""
    level(logging.INFO)
    for number in range(3000):
        log.denied(f"http://{number}.example:80", "budget")
    told = len(caplog.records)
    for number in (2999, 0):
        log.denied(f"http://{number}.example:80", "budget")

    assert len(log._told) == 1024
    assert (told, len(caplog.records)) == (3000, 3001)


@pytest.mark.usefixtures("switch_interval")
def test_threads_do_not_miscount(
    log: Log, clock: FakeClock, level: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Eight threads: one line, and all the others in its successor's count."""
    level(logging.INFO)

    def work() -> None:
        for _ in range(200):
            log.denied(HOST, "budget")

    for call in [in_thread(work) for _ in range(8)]:
        call.get()
    clock.advance(10)
    log.denied(HOST, "budget")

    assert [beside(record).get("left_out") for record in caplog.records] == [None, 8 * 200 - 1]


@pytest.mark.usefixtures("level")
def test_a_users_filter_that_raises_harms_nobody(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it taken for the observer's fault."""
    told: list[str] = []

    class Listener(Observer):
        def closed(self, host: str, reason: str) -> None:
            told.append(reason)

    def fail(_: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    watch = Watch(Listener(), None, log)
    logger = logging.getLogger("sessionpool.connections")
    logger.addFilter(fail)
    try:
        watch.tell("closed", HOST, "expired")
    finally:
        logger.removeFilter(fail)
    watch.tell("closed", HOST, "stale")

    assert told == ["expired", "stale"]
    assert [beside(record)["reason"] for record in caplog.records] == ["stale"]


@pytest.mark.usefixtures("level")
def test_the_log_outlives_an_observer(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises is dropped, with a line that names its class; what happens goes on being logged."""

    class Faulty(Observer):
        def closed(self, host: str, reason: str) -> None:
            raise ZeroDivisionError

    watch = Watch(Faulty(), None, log)
    watch.tell("closed", HOST, "expired")
    watch.tell("closed", HOST, "stale")
    events = [beside(record).get("event") for record in caplog.records]

    assert events == ["closed", "dropped", "closed"]
    assert "Faulty" in beside(caplog.records[1])["observer"]


def test_what_comes_with_every_request_is_not_listened_to(log: Log) -> None:
    """On the way of a request that is answered over an open connection, the log costs nothing."""
    watch = Watch(None, None, log)

    assert (watch.waited, watch.responded, watch.failed) == (None, None, None)
