"""What Prometheus gets to see: counted right, bounded, and gone with its pool."""

from __future__ import annotations

import gc
import logging
import math
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sessionpool import HostStats, PoolStats, SessionPool
from sessionpool._observer import Observer, Watch
from sessionpool.exceptions import (
    Cancelled,
    IdentityRetiredError,
    MissingSchema,
    PoolClosed,
    PoolDeadlockError,
    PoolTimeout,
    ReadTimeout,
)
from sessionpool.metrics import DURATIONS, FAMILIES, FULL, MAX_HOSTS, WAITS, Meter, Metrics, Reading, _Labels
from sessionpool.testing import FakeClock
from tests.helpers import eventually, in_thread

HOST = "http://127.0.0.1:8000"
DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"


@attrs.frozen
class Known:
    """What the governor may know of a host."""

    circuit: str = ""
    budget: int | None = None


class Books:
    """In place of a pool: what it knows, to be read."""

    def __init__(self) -> None:
        stats = PoolStats(leased=2, idle=3, waiting=4, capacity=100, peak=5, opened=9, reused=7, hosts={}, sleeping=1)
        self.reading: Reading | None = Reading(
            stats=stats,
            lease_waiters=6,
            idle_sessions=8,
            reclaimed={"dropped": 1, "thread ended": 2},
            dropped=0,
            hosts={},
        )

    def __call__(self) -> Callable[[], Reading] | None:
        reading = self.reading
        return None if reading is None else lambda: reading

    def change(self, **what: Any) -> None:
        assert self.reading is not None
        self.reading = self.reading._replace(**what)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def make_meter(registry: CollectorRegistry, books: Books) -> Iterator[Callable[..., Meter]]:
    meters = []  # they are exported only while somebody has them

    def make(**settings: Any) -> Meter:
        meter = Meter(settings.pop("name", "crawl"), Metrics(registry=registry, **settings), books)
        meter.begin()
        meters.append(meter)
        return meter

    yield make
    meters.clear()


@pytest.fixture
def meter(make_meter: Callable[..., Meter]) -> Meter:
    return make_meter()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"sessionpool_{name}", {"pool": "crawl", **labels})


def series(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels; none may come twice."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


# --- settings and life ---


@pytest.mark.parametrize("hosts", [0, -1, True, 1.5, "example.com"])
def test_hosts_is_a_number_or_a_function(hosts: Any) -> None:
    """A setting that is none of what it may be is refused when it is made, with what it may be."""
    with pytest.raises(ValueError, match=r"Metrics\.hosts must be a number of hosts, a function .* got"):
        Metrics(hosts=hosts)


def test_the_registry_is_one() -> None:
    """What is no registry is refused."""
    with pytest.raises(ValueError, match=r"Metrics\.registry must be a prometheus_client.CollectorRegistry; got 'no'"):
        Metrics(registry="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"metrics must be a sessionpool.metrics.Metrics, or None for none; got True"):
        SessionPool(metrics=True)  # type: ignore[arg-type]


def test_metrics_are_on_by_default() -> None:
    """A pool is in prometheus_client's default registry, unless it is told not to be."""
    with SessionPool(name="crawl"), SessionPool(name="silent", metrics=None):
        pools = {dict(labels)["pool"] for name, labels in series(REGISTRY) if name.startswith("sessionpool_")}

    assert {"crawl", "silent"} & pools == {"crawl"}


def test_the_series_of_a_closed_pool_go(registry: CollectorRegistry) -> None:
    """After `close` nothing is left of it, and nothing of others is gone."""
    with SessionPool(name="stays", metrics=Metrics(registry=registry)):
        with SessionPool(name="crawl", metrics=Metrics(registry=registry)):
            assert value(registry, "sessions", state="leased") == 0

        assert {dict(labels)["pool"] for _, labels in series(registry)} == {"stays"}
    assert series(registry) == {}


def test_the_series_of_a_dropped_pool_go(registry: CollectorRegistry) -> None:
    """The metrics keep no pool alive: one that nobody has any more is not exported."""
    pool = SessionPool(name="crawl", metrics=Metrics(registry=registry))
    assert value(registry, "sessions", state="leased") == 0
    del pool
    gc.collect()

    assert series(registry) == {}


def test_pools_of_one_name_add_up(make_meter: Callable[..., Meter], registry: CollectorRegistry) -> None:
    """Counts and gauges are sums, and of the retries that are left the fewest count; each is exported once."""
    first, second = make_meter(), make_meter()
    first.note_call(("GET", 200, 0.25))
    second.note_call(("GET", 200, 0.5))

    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 2
    assert value(registry, "request_duration_seconds_sum", method="GET", code="200") == 0.75
    assert value(registry, "connections", state="leased") == 4
    assert value(registry, "connections_limit") == 200

    second.end()

    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 1


def test_a_name_that_is_taken_is_an_error(registry: CollectorRegistry) -> None:
    """Somebody else's metric of a name of ours makes the pool fail, each time, not silently export nothing."""
    Gauge("sessionpool_connections", "not ours", registry=registry)
    for _ in range(2):
        with pytest.raises(ValueError, match="sessionpool_connections"):
            SessionPool(metrics=Metrics(registry=registry))


def test_many_threads_make_the_first_pool_of_a_registry(registry: CollectorRegistry, switch_interval: None) -> None:
    """Whoever comes first registers, and all are exported."""
    calls = [in_thread(SessionPool, name=f"pool {n}", metrics=Metrics(registry=registry)) for n in range(16)]
    pools = [call.get() for call in calls]

    assert {dict(labels)["pool"] for _, labels in series(registry)} == {f"pool {n}" for n in range(16)}
    for pool in pools:
        pool.close()


# --- counting ---


@given(st.lists(st.floats(0, 100) | st.sampled_from(WAITS), max_size=50))
def test_buckets_are_those_of_prometheus(amounts: list[float]) -> None:
    """Counted many at a time, a histogram has the same samples as prometheus_client's own, bounds included."""
    registry = CollectorRegistry()
    meter = Meter("crawl", Metrics(registry=registry), Books())
    meter.begin()
    theirs = Histogram("theirs", "for comparison", ["pool"], registry=registry, buckets=WAITS).labels("crawl")
    for amount in amounts:
        meter.note_attempt((HOST, amount, amount, 1, 1))
        theirs.observe(amount)
    found = series(registry)
    ours = {labels: number for (name, labels), number in found.items() if "wait_seconds_bucket" in name}

    assert not amounts or ours == {labels: n for (name, labels), n in found.items() if name == "theirs_bucket"}
    total = value(registry, "connection_wait_seconds_sum")
    assert total == (pytest.approx(sum(amounts)) if amounts else None)


def test_no_count_is_lost(meter: Meter, registry: CollectorRegistry, switch_interval: None) -> None:
    """Eight threads count, one scrapes: in the end all are there, and no figure ever went down on the way."""

    def work() -> None:
        for _ in range(2000):
            meter.note_attempt((HOST, 0.0, 0.01, 10, 20))
            meter.note_call(("GET", 200, 0.01))
            if len(meter.calls) > meter.full:
                meter.fold()
            meter.closed(HOST, "stale")

    threads = [in_thread(work) for _ in range(8)]
    before: dict[Any, float] = {}
    while not all(thread.is_done for thread in threads):
        now = series(registry)
        assert all(now[key] >= number for key, number in before.items())
        before = now
    for thread in threads:
        thread.get()

    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 16000
    assert value(registry, "attempt_duration_seconds_count") == 16000
    assert value(registry, "request_bytes_total") == 160000
    assert value(registry, "response_bytes_total") == 320000
    assert value(registry, "connections_closed_total", reason="stale") == 16000


def test_threads_that_end_leave_their_counts_and_nothing_else(meter: Meter, registry: CollectorRegistry) -> None:
    """Ten thousand threads, one request each: all counted, and what is kept has not grown with them."""

    def work() -> None:
        meter.note_call(("GET", 200, 0.01))
        if len(meter.calls) > meter.full:
            meter.fold()

    for _ in range(100):
        threads = [in_thread(work) for _ in range(100)]
        for thread in threads:
            thread.join()

    assert len(meter.calls) <= meter.full + 3
    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 10000
    assert meter.calls == []


@pytest.mark.parametrize("told", [False, True], ids=["noted", "told"])
def test_what_nobody_scrapes_does_not_grow(meter: Meter, told: bool) -> None:
    """Without a single scrape, what has been written down is counted from time to time."""
    for _ in range(10 * FULL):
        if told:
            meter.closed(HOST, "stale")
        else:
            meter.note_held(0.5)
            if len(meter.leases) > meter.full:
                meter.fold()

    assert len(meter.leases) <= FULL
    assert len(meter._events) <= FULL


def test_a_signal_handler_may_count_in_the_midst_of_counting(meter: Meter, registry: CollectorRegistry) -> None:
    """It does not wait for what it has interrupted; what it wrote down is counted with the next."""

    def handler(*_: object) -> None:
        meter.note_call(("GET", 200, 0.01))
        meter.fold()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with meter._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert value(registry, "request_duration_seconds_count", method="GET", code="200") == 1


def test_a_forked_process_counts_from_zero(meter: Meter, books: Books, registry: CollectorRegistry) -> None:
    """What its parent has counted, and has in its books, is its parent's to export."""
    meter.note_call(("GET", 200, 0.01))
    meter.closed(HOST, "stale")
    meter.restart()
    before = series(registry)
    assert books.reading is not None
    books.change(stats=attrs.evolve(books.reading.stats, reused=9), dropped=2)

    assert value(registry, "request_duration_seconds_count", method="GET", code="200") is None
    assert before["sessionpool_connections_reused_total", (("pool", "crawl"),)] == 0
    assert value(registry, "connections_reused_total") == 2
    assert value(registry, "connections_closed_total", reason="dropped") == 2
    assert value(registry, "leases_reclaimed_total", reason="dropped") == 0


# --- what is read ---


def test_what_the_pool_knows_is_read(meter: Meter, books: Books, registry: CollectorRegistry) -> None:
    """Gauges are the pool's own figures at the moment of the scrape."""
    found = {
        ("sessions", "leased"): 0.0,
        ("sessions", "idle"): 8.0,
        ("connections", "leased"): 2.0,
        ("connections", "idle"): 3.0,
    }

    assert {key: value(registry, key[0], state=key[1]) for key in found} == found
    assert value(registry, "lease_waiters") == 6
    assert value(registry, "connection_waiters") == 4
    assert value(registry, "connections_limit") == 100
    assert value(registry, "requests_in_flight") == 2 + 4 + 1
    assert value(registry, "connections_reused_total") == 7
    assert value(registry, "leases_reclaimed_total", reason="thread ended") == 2

    books.reading = None

    assert series(registry) == {}


def test_circuits_and_budgets_are_read(meter: Meter, books: Books, registry: CollectorRegistry) -> None:
    """Hosts are counted by the state of their circuit; of the retries that are left the host with the fewest tells."""
    books.change(hosts={"a": Known("open", 10), "b": Known("open"), "c": Known("closed", 3), "d": Known(budget=7)})

    assert value(registry, "circuit_state", state="open") == 2
    assert value(registry, "circuit_state", state="half-open") == 0
    assert value(registry, "circuit_state", state="closed") == 1
    assert value(registry, "retry_budget_tokens") == 3

    books.change(hosts={})

    assert value(registry, "circuit_state", state="open") is None
    assert value(registry, "retry_budget_tokens") is None


# --- labels are few ---


def test_methods_nobody_knows_are_one(meter: Meter, registry: CollectorRegistry) -> None:
    """A method that is none of the standard's is OpenTelemetry's `_OTHER`, answered or not."""
    for method in ("PURGE", "BREW"):
        meter.note_call((method, 200, 0.01))
        meter.raised(method, HOST, ReadTimeout("late"), 0.01)

    assert value(registry, "request_duration_seconds_count", method="_OTHER", code="200") == 2
    assert value(registry, "request_duration_seconds_count", method="_OTHER", code="error") == 2


class Mine(ReadTimeout):
    """A user's."""


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (ReadTimeout("late"), "ReadTimeout"),
        (Mine("late"), "ReadTimeout"),
        (MissingSchema("no scheme"), "MissingSchema"),
        (ZeroDivisionError(), "_OTHER"),
        (KeyboardInterrupt(), "_OTHER"),
    ],
)
def test_errors_are_named_by_the_package(
    meter: Meter, registry: CollectorRegistry, error: BaseException, label: str
) -> None:
    """An error is named by its class, or the nearest of its bases that the package has."""
    meter.raised("GET", HOST, error, 0.01)

    assert value(registry, "request_errors_total", error=label) == 1
    assert value(registry, "request_duration_seconds_count", method="GET", code="error") == 1


def test_leases_that_are_held_too_long_are_counted(registry: CollectorRegistry) -> None:
    """What `leak_threshold` finds is there for an alert, not only in the log."""
    clock = FakeClock()
    with (
        SessionPool(name="crawl", clock=clock, leak_threshold=60, metrics=Metrics(registry=registry)) as pool,
        pool.lease("ada"),
    ):
        clock.advance(61)

        eventually(lambda: value(registry, "leases_leaked_total") == 1)


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("status 403", "status 403"),
        ("max_score=3", "max_score"),
        ("max_age=0.5 s", "max_age"),
        ("max_uses=100", "max_uses"),
        ("max_errors=5", "max_errors"),
        ("a captcha for ada@example.com", "by hand"),
        ("status 4031", "by hand"),
    ],
)
def test_sessions_are_retired_for_few_reasons(
    meter: Meter, registry: CollectorRegistry, reason: str, label: str
) -> None:
    """What a user says is anything, and may be secret; it is no label."""
    meter.retired("ada", reason)

    assert value(registry, "sessions_retired_total", reason=label) == 1


@pytest.mark.parametrize(("reason", "label"), [("503", "503"), ("ConnectError", "ConnectError"), ("Odd", "_OTHER")])
def test_retries_have_few_reasons(meter: Meter, registry: CollectorRegistry, reason: str, label: str) -> None:
    """A status, or one of the package's errors; and what is waited is added up."""
    meter.retrying("GET", HOST, 1, reason, 0.25)

    assert value(registry, "retries_total", reason=label) == 1
    assert value(registry, "backoff_seconds_total") == 0.25


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PoolTimeout("late"), "timeout"),
        (PoolDeadlockError("held"), "deadlock"),
        (PoolClosed("closed"), "closed"),
        (Cancelled("stopped"), "cancelled"),
        (IdentityRetiredError("retired"), "retired"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_leases_that_are_refused_say_why(
    meter: Meter, registry: CollectorRegistry, error: BaseException, outcome: str
) -> None:
    """By a few words, not by the error's text."""
    meter.refused(error)

    assert value(registry, "leases_total", outcome=outcome) == 1


@pytest.mark.parametrize("tell", [Meter.refused, lambda meter, error: meter.raised("GET", HOST, error, 1.0)])
def test_a_missed_deadline_is_told_by_its_stage(meter: Meter, registry: CollectorRegistry, tell: Any) -> None:
    """Where the time of a call was used up is counted; a limit of another kind is not."""
    late = PoolTimeout("late")
    tell(meter, late)
    late.stage = "lease"
    tell(meter, late)

    assert value(registry, "deadline_exceeded_total", stage="lease") == 1


# --- the host label ---


def tell_all(meter: Meter, host: str) -> None:
    """Everything that has to do with a host."""
    meter.note_attempt((host, 0.0, 0.01, 1, 1))
    meter.waited_in_vain(host, 0.01)
    meter.connected(host, 0.01)
    meter.closed(host, "stale")
    meter.failed("GET", host, ReadTimeout("late"), 0.01)
    meter.raised("GET", host, ReadTimeout("late"), 0.01)
    meter.retrying("GET", host, 1, "503", 0.1)
    meter.denied(host, "budget")
    meter.throttled(host, 0.5)


def hosts_of(registry: CollectorRegistry, name: str) -> dict[str | None, float]:
    return {dict(labels).get("host"): number for (each, labels), number in series(registry).items() if each == name}


def test_hosts_have_no_label_by_default(meter: Meter, registry: CollectorRegistry) -> None:
    """Ten thousand hosts are one series."""
    for n in range(10_000):
        tell_all(meter, f"https://host-{n}.example:443")

    assert hosts_of(registry, "sessionpool_attempt_duration_seconds_count") == {None: 20_000}
    assert len(series(registry)) <= 160


def test_ten_thousand_hosts_are_bounded(make_meter: Callable[..., Meter], registry: CollectorRegistry) -> None:
    """The first ten have their own, the others share one; each label value has at most 100 series here."""
    meter = make_meter(hosts=10)
    for n in range(10_000):
        tell_all(meter, f"https://host-{n}.example:443")
    found = hosts_of(registry, "sessionpool_attempt_duration_seconds_count")

    assert found == {**{f"https://host-{n}.example:443": 2 for n in range(10)}, "_other": 2 * 9_990}
    assert len(series(registry)) <= 60 + 11 * 100


def test_a_function_gives_the_label(make_meter: Callable[..., Meter], registry: CollectorRegistry) -> None:
    """Whatever it makes of the host; an empty text is no label."""
    meter = make_meter(hosts=lambda host: host.partition(".")[2])
    for host in ("http://a.example", "http://b.example", "http://c.test", "http://localhost"):
        meter.closed(host, "stale")

    found = hosts_of(registry, "sessionpool_connections_closed_total")
    assert found == {"example": 2, "test": 1, None: 1}


def test_a_functions_labels_are_bounded_too(make_meter: Callable[..., Meter], registry: CollectorRegistry) -> None:
    """A function that gives each host a label of its own does not fill the memory."""
    meter = make_meter(hosts=str.upper)
    for n in range(MAX_HOSTS + 5):
        meter.closed(f"http://host-{n}", "stale")

    found = hosts_of(registry, "sessionpool_connections_closed_total")
    assert len(found) == MAX_HOSTS + 1
    assert found["_other"] == 5


def test_a_function_that_raises_is_called_no_more(
    make_meter: Callable[..., Meter], registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line, and all hosts are `_other` from then on; nothing is lost and no request fails."""
    meter = make_meter(hosts=lambda host: 1 / 0)
    with caplog.at_level(logging.ERROR, "sessionpool"):
        for _ in range(3):
            tell_all(meter, HOST)

    assert hosts_of(registry, "sessionpool_connections_closed_total") == {"_other": 3}
    assert len(caplog.records) == 1


def test_threads_that_come_with_new_hosts_at_once_get_no_more(
    make_meter: Callable[..., Meter], registry: CollectorRegistry, switch_interval: None
) -> None:
    """Eight threads with the same hosts: each place is given once, and all are given."""
    meter = make_meter(hosts=50)

    def work() -> None:
        for n in range(100):
            meter.closed(f"http://host-{n}", "stale")

    for thread in [in_thread(work) for _ in range(8)]:
        thread.get()

    found = hosts_of(registry, "sessionpool_connections_closed_total")
    assert len(found) == 51
    assert sum(found.values()) == 800


def test_a_place_is_not_lost_to_a_thread_that_comes_with_the_same_host() -> None:
    """Of two that find a host without a label at once, one gives its place back, for the next host."""
    labels = _Labels(2)

    class Meanwhile(dict[str, int]):
        """Another comes between the look and the taking."""

        def __contains__(self, host: object) -> bool:
            labels._taken = taken
            labels.of(HOST)
            return False

    taken: dict[str, int] = {}
    meanwhile = Meanwhile()
    meanwhile.setdefault = taken.setdefault  # type: ignore[method-assign]
    labels._taken = meanwhile

    assert [labels.of(HOST), labels.of("second"), labels.of("third")] == [HOST, "second", "_other"]


def test_each_host_has_its_gauges(make_meter: Callable[..., Meter], books: Books, registry: CollectorRegistry) -> None:
    """With the label, what is open and waited for is told by host; the total's limit stands beside those of hosts."""
    assert books.reading is not None
    host = HostStats(leased=1, idle=2, waiting=3, limit=4)
    books.change(stats=attrs.evolve(books.reading.stats, hosts={HOST: host, "other": host, "third": host}))
    make_meter(hosts=1)

    assert value(registry, "connections", state="leased", host=HOST) == 1
    assert value(registry, "connections", state="idle", host="_other") == 4
    assert value(registry, "connection_waiters", host="_other") == 6
    assert value(registry, "connections_limit", host=HOST) == 4
    assert value(registry, "connections_limit") == 100


# --- beside a user's observer ---


class Watching(Observer):
    """A user's, that hears of closed connections."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def closed(self, host: str, reason: str) -> None:
        self.told.append(reason)
        if reason == "broken":
            raise ZeroDivisionError


def test_an_observer_and_the_metrics_both_hear(meter: Meter, registry: CollectorRegistry) -> None:
    """An event goes to both; where only one listens, it is called itself, with nothing in between."""
    observer = Watching()
    watch = Watch(observer, meter)
    watch.tell("closed", HOST, "stale")

    assert observer.told == ["stale"]
    assert value(registry, "connections_closed_total", reason="stale") == 1
    assert watch.connected == meter.connected
    assert watch.cooled is None
    assert Watch(observer).closed == observer.closed


def test_an_observer_that_raises_takes_no_metric_along(
    meter: Meter, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped; what made it raise is counted, and what comes after."""
    observer = Watching()
    watch = Watch(observer, meter)
    with caplog.at_level(logging.ERROR, "sessionpool"):
        for reason in ("broken", "stale", "broken"):
            watch.tell("closed", HOST, reason)

    assert observer.told == ["broken"]
    assert len(caplog.records) == 1
    assert value(registry, "connections_closed_total", reason="broken") == 2
    assert value(registry, "connections_closed_total", reason="stale") == 1


# --- what is exported ---


def exercised(make_meter: Callable[..., Meter], books: Books) -> None:
    """Every metric has a series."""
    meter = make_meter(hosts=2)
    for host in ('http://"quoted"\n', HOST, "http://third"):
        tell_all(meter, host)
    meter.note_call(("GET", 200, 0.1))
    meter.note_held(0.5)
    meter.seated(0.5)
    meter.refused(PoolTimeout("late"))
    meter.retired(None, "status 403")
    meter.leaked("ada", 61.0, "crawler.py, line 7")
    late = ReadTimeout("late")
    late.stage = "head"
    meter.raised("GET", HOST, late, 1.0)
    stats = HostStats(leased=1, idle=2, waiting=3, limit=4)
    assert books.reading is not None
    books.change(
        stats=attrs.evolve(books.reading.stats, hosts={HOST: stats}), hosts={HOST: Known("open", 3)}, dropped=1
    )


def test_every_metric_is_exported(make_meter: Callable[..., Meter], books: Books, registry: CollectorRegistry) -> None:
    """There is a way to make each of them appear, in the text format and in OpenMetrics, which parses strictly."""
    exercised(make_meter, books)
    text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]

    assert set(families) == {f"sessionpool_{name.removesuffix('_total')}" for name in FAMILIES}
    for name, family in FAMILIES.items():
        assert families[f"sessionpool_{name.removesuffix('_total')}"].type == family.kind


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_promtool_finds_nothing_to_say(
    make_meter: Callable[..., Meter], books: Books, registry: CollectorRegistry
) -> None:
    """Names, units, types and help are as Prometheus wants them."""
    exercised(make_meter, books)
    text = generate_latest(registry)
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)

    assert (said.returncode, said.stdout + said.stderr) == (0, b"")


def test_the_buckets_are_sorted_and_end() -> None:
    """Bounds go up; waits begin at a millisecond and durations are OpenTelemetry's, 30 and 60 added."""
    assert list(WAITS) == sorted(set(WAITS))
    assert (WAITS[0], DURATIONS[0], DURATIONS[-3:]) == (0.001, 0.005, (10.0, 30.0, 60.0))
    assert math.inf not in WAITS


def documented() -> Mapping[str, tuple[str, str]]:
    rows = re.findall(r"^\| `sessionpool_(\w+)` \| (\w+) \| ([^|]*) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len({name for name, *_ in rows})
    return {name: (kind, labels.strip()) for name, kind, labels in rows}


def test_every_metric_is_documented() -> None:
    """docs/metrics.md lists each of them with its type and labels, and no other."""
    expected = {
        name: (family.kind, ", ".join(f"`{label}`" for label in ("pool", *family.labels)))
        for name, family in FAMILIES.items()
    }

    assert documented() == expected


def test_a_scrape_while_a_pool_is_closed(registry: CollectorRegistry) -> None:
    """Pools come and go while somebody scrapes, and no scrape fails."""
    stop = False

    def scrape() -> int:
        scrapes = 0
        while not stop:
            generate_latest(registry)
            scrapes += 1
        return scrapes

    with in_thread(scrape) as scraping:
        for n in range(50):
            with SessionPool(name=f"pool {n % 3}", metrics=Metrics(registry=registry)) as pool, pool.lease():
                pass
        eventually(lambda: series(registry) == {})
        stop = True

    assert scraping.get() > 0
