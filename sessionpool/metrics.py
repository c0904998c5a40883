"""What Prometheus gets to see of the pools. Alone imports prometheus_client.

What exists anyway (connections open, threads waiting) is read when it is asked for. What happens at each request is
only written down by the thread that makes it, and counted later, two hundred at a time: to sort a list and look where
the bounds of the buckets fall costs a tenth of looking for the bucket of each.

Where prometheus_client runs in its multiprocess mode (`PROMETHEUS_MULTIPROC_DIR`), nobody comes to ask: whoever
exports reads files that all processes keep up to date. Then a thread brings this process's there once a second.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import re
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs
from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from sessionpool import exceptions
from sessionpool._clock import SYSTEM_CLOCK, Bell
from sessionpool.exceptions import Cancelled, IdentityRetiredError, PoolClosed, PoolDeadlockError, PoolTimeout, Timeout

if TYPE_CHECKING:
    from sessionpool._ledger import PoolStats

_log = logging.getLogger("sessionpool")

PREFIX: Final = "sessionpool_"
OTHER: Final = "_OTHER"  # OpenTelemetry's word for a value that is none of the known ones
REST: Final = "_other"  # all hosts beyond the first ones
# OpenTelemetry's for `http.client.request.duration`, and two for what is slow.
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
WAITS: Final = (0.001, 0.0025, *DURATIONS)
MAX_HOSTS: Final = 1000  # labels that a user's function may give; a histogram has 20 series for each
FULL: Final = 768  # numbers that are written down before they are counted: of 256 calls
PUSH_EVERY: Final = 1.0  # seconds; nobody scrapes more often
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_ERRORS: Final = frozenset(
    name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, BaseException)
)
_REFUSALS: Final = {
    PoolTimeout: "timeout",
    PoolDeadlockError: "deadlock",
    PoolClosed: "closed",
    Cancelled: "cancelled",
    IdentityRetiredError: "retired",
}
_RETIRED: Final = re.compile(r"(status [1-5][0-9][0-9])|(max_(?:score|errors|uses|age))=.*")


class Family(NamedTuple):
    """One metric. `labels` are those besides `pool`, and `host` where there is one, which comes last."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    mode: str = "livesum"  # how prometheus_client adds up a gauge over processes

    @property
    def zero(self) -> list[float]:
        """What nothing looks like: of a histogram the counts per bucket, then the sum."""
        return [0] * (len(self.bounds) + 1) + [0.0] if self.bounds else [0]


FAMILIES: Final[Mapping[str, Family]] = {
    # Sessions and their leases.
    "sessions": Family("gauge", "Sessions leased, and identities that nobody has leased.", ("state",)),
    "lease_waiters": Family("gauge", "Threads that wait for a session."),
    "lease_wait_seconds": Family("histogram", "Seconds until a session was leased.", (), WAITS),
    "lease_held_seconds": Family("histogram", "Seconds that a lease was held.", (), DURATIONS),
    "leases_total": Family("counter", "Leases asked for, nested ones not counted.", ("outcome",)),
    "leases_reclaimed_total": Family("counter", "Leases that were lost instead of released.", ("reason",)),
    "leases_leaked_total": Family("counter", "Leases that were held for longer than `leak_threshold`, or dropped."),
    "sessions_retired_total": Family("counter", "Sessions that were retired.", ("reason",)),
    # Connections.
    "connections": Family("gauge", "Connections open, or being opened.", ("state", "host")),
    "connections_limit": Family("gauge", "Connections allowed at once.", ("host",)),
    "connection_waiters": Family("gauge", "Threads that wait for a connection.", ("host",)),
    "connection_wait_seconds": Family("histogram", "Seconds until a connection was granted.", ("host",), WAITS),
    "connect_seconds": Family("histogram", "Seconds that opening a connection took.", ("phase", "host"), DURATIONS),
    "connections_opened_total": Family("counter", "Connections opened.", ("host",)),
    "connections_reused_total": Family("counter", "Times that an idle connection was used again."),
    "connections_closed_total": Family("counter", "Connections closed.", ("reason", "host")),
    # Requests.
    "request_duration_seconds": Family(
        "histogram", "Seconds that a call took, redirects, retries and pauses included.", ("method", "code"), DURATIONS
    ),
    "attempt_duration_seconds": Family(
        "histogram", "Seconds that one request took, answered or not.", ("host",), DURATIONS
    ),
    "requests_in_flight": Family("gauge", "Requests that wait, pause, or have a connection."),
    "request_errors_total": Family("counter", "Calls that raised an error.", ("error", "host")),
    "request_bytes_total": Family("counter", "Bytes sent, of requests that were answered.", ("host",)),
    "response_bytes_total": Family("counter", "Bytes of bodies received, as they came.", ("host",)),
    # Policy.
    "retries_total": Family("counter", "Attempts after a failed one.", ("reason", "host")),
    "retries_denied_total": Family("counter", "Failures that were not tried again.", ("reason", "host")),
    "retry_budget_tokens": Family(
        "gauge", "Retries that may be made now, of the host with the fewest.", ("host",), (), "livemin"
    ),
    "backoff_seconds_total": Family("counter", "Seconds of pauses before retries.", ("host",)),
    "throttle_wait_seconds": Family("histogram", "Seconds that a request waited for its host.", ("host",), WAITS),
    "circuit_state": Family("gauge", "Hosts with a circuit in this state.", ("state", "host")),
    "deadline_exceeded_total": Family("counter", "Calls whose time was used up.", ("stage",)),
}

# A series: its family, and its labels as pairs, empty ones left out.
Key = tuple[str, tuple[tuple[str, str], ...]]
Series = dict[Key, list[float]]


def _is_hosts(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value is not None and not is_number and not callable(value):
        raise ValueError(
            f"Metrics.{attribute.name} must be a number of hosts, a function that gives a host's label, or None for "
            f"no label; got {value!r}"
        )


def _is_registry(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, CollectorRegistry):
        raise ValueError(f"Metrics.{attribute.name} must be a prometheus_client.CollectorRegistry; got {value!r}")


@attrs.frozen(kw_only=True)
class Metrics:
    """Where a pool's metrics go, and how closely they look at hosts. Immutable; any number of pools may share one.

    Pools of one name in one registry add up: two libraries of a process may both have a pool named "default", and
    neither can know of the other. A pool's series go when it is closed or dropped.

    Attributes:
        registry: Whose exports have them; prometheus_client's default one by default.
        hosts: Whether metrics that have to do with a host have the label `host`. `None`: they do not. A number: the
            first so many hosts have, as `scheme://host:port`, and all others together are `_other`. A function: what
            it makes of `scheme://host:port`, for a thousand different labels at most; it is called by several threads,
            and again for the same host.
    """

    registry: CollectorRegistry = attrs.field(default=REGISTRY, validator=_is_registry)
    hosts: int | Callable[[str], str] | None = attrs.field(default=None, validator=_is_hosts)


class Reading(NamedTuple):
    """What a pool knows anyway, at one moment.

    Attributes:
        stats: Its counts.
        lease_waiters: Threads that wait for a session.
        idle_sessions: Identities that nobody has leased.
        reclaimed: Leases lost since the start, by how.
        dropped: Connections of streams that were dropped unread, since the start.
        hosts: What the governor knows of each host.
    """

    stats: PoolStats
    lease_waiters: int
    idle_sessions: int
    reclaimed: Mapping[str, int]
    dropped: int
    hosts: Mapping[str, Any]


class _Labels:
    """Which label a host has. Thread-safe, without a lock: a signal handler may ask in the midst of it.

    Attributes:
        is_off: None has any.
    """

    def __init__(self, hosts: int | Callable[[str], str] | None) -> None:
        self.is_off = hosts is None
        self._function = hosts if callable(hosts) else None
        self._free = deque(range(hosts if isinstance(hosts, int) else MAX_HOSTS))  # places that are not taken
        self._taken: dict[str, int] = {}

    def of(self, host: str) -> str:
        """The label of this host; empty for none."""
        if self.is_off or not host:
            return ""
        label = host if self._function is None else self._ask(self._function, host)
        if label in self._taken:
            return label
        try:
            place = self._free.popleft()
        except IndexError:
            return REST
        if self._taken.setdefault(label, place) != place:  # another thread was quicker
            self._free.append(place)
        return label

    def _ask(self, function: Callable[[str], str], host: str) -> str:
        try:
            return str(function(host))
        except Exception:  # noqa: BLE001 - whatever a user's code may raise
            self._function = lambda _: REST  # one line, and not one per request
            _log.exception("Metrics.hosts raised for %s and is not called again", host)
            return REST


class Meter:
    """Counts what happens in a pool; never raises. Made by `SessionPool`. Thread-safe.

    What happens at each request is written down by C functions that take no lock and cannot be interrupted, and is
    counted later, many at a time: `fold`. So no count is lost without a GIL either, none in a finalizer or a signal
    handler, and there is nothing for each thread. What happens now and then is told by the events of an `Observer`.

    Args:
        name: The pool's.
        settings: How it is done.
        read: Gives a function that reads what the pool knows anyway, or `None` when the pool is gone.

    Attributes:
        note_attempt: Takes (host, seconds until a connection was granted, seconds in all, bytes sent, bytes received),
            of a request that was answered.
        note_call: Takes (method, status, seconds), of a whole call that was answered.
        note_held: Takes the seconds that a lease was held.
        calls, leases: What the last two have written down. Whoever finds more than `full` in there calls `fold`.
        is_over: The pool was closed.
    """

    __slots__ = (
        "__weakref__",
        "_attempts",
        "_before",
        "_counted",
        "_events",
        "_labels",
        "_lock",
        "_name",
        "_read",
        "_registry",
        "calls",
        "full",
        "is_over",
        "leases",
        "note_attempt",
        "note_call",
        "note_held",
    )

    def __init__(self, name: str, settings: Metrics, read: Callable[[], Callable[[], Reading] | None]) -> None:
        self._name = str(name)
        self._registry = settings.registry
        self._read = read
        self._labels = _Labels(settings.hosts)
        self._before: Reading | None = None  # the counts with which a forked process began
        self.is_over = False
        self.full = FULL
        self._begin_counting()

    def _begin_counting(self) -> None:
        self._attempts: list[Any] = []
        self.calls: list[Any] = []
        self.leases: list[float] = []
        # What is rare: the series, what it goes up by (a histogram: what it observes).
        self._events: list[tuple[tuple[str, tuple[str, ...]], float]] = []
        # Each is one call of a C function, which is atomic, with and without a GIL.
        self.note_attempt = self._attempts.extend
        self.note_call = self.calls.extend
        self.note_held = self.leases.append
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, tuple[str, ...]], list[float]] = {}  # by family and values of its labels

    # --- life ---

    def begin(self) -> None:
        """From now on its series are exported."""
        exporter = _exporters.get(self._registry)
        if exporter is None:
            mine = _Exporter()
            exporter = _exporters.setdefault(self._registry, mine)  # atomic, with and without a GIL
            if exporter is mine:
                try:
                    self._registry.register(mine)
                except BaseException:
                    del _exporters[self._registry]
                    raise
        exporter.add(self)
        if _IS_MULTIPROCESS:
            _pusher.add(self)

    def end(self) -> None:
        """The pool was closed: its series go."""
        self.is_over = True
        if _IS_MULTIPROCESS:
            _pusher.push()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics of its registry for an HTTP answer, text or OpenMetrics by the Accept field, and their type.

        In prometheus_client's multiprocess mode, those of all processes.
        """
        registry = self._registry
        if _IS_MULTIPROCESS:
            _pusher.push()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, kind = choose_encoder(accept)
        return encode(registry), kind

    def restart(self) -> None:
        """Count from 0 in a forked process: what was counted before is its parent's, who exports it."""
        self._begin_counting()
        read = self._read()
        self._before = None if read is None else read()
        if _IS_MULTIPROCESS:
            _pusher.start()

    # --- told by the pool ---

    def seated(self, seconds: float) -> None:
        """A session that others may want too was leased after so long."""
        self._add("lease_wait_seconds", (), seconds)

    def refused(self, error: BaseException) -> None:
        """A session was asked for and could not be leased."""
        outcome = next((word for kind, word in _REFUSALS.items() if isinstance(error, kind)), "error")
        self._add("leases_total", (outcome,), 1)
        self._note_deadline(error)

    def raised(self, method: str, host: str, error: BaseException, seconds: float) -> None:
        """A whole call raised an error, having come to this host; empty if it came to none."""
        self._add("request_duration_seconds", (_method(method), "error"), seconds)
        self._add("request_errors_total", (_error(type(error)), self._labels.of(host)), 1)
        self._note_deadline(error)

    def waited_in_vain(self, host: str, seconds: float) -> None:
        """A connection was granted after so long, and nothing came of it."""
        self._add("connection_wait_seconds", (self._labels.of(host),), seconds)

    def streamed(self, host: str, received: int) -> None:
        """A body that was read as a stream has ended, at its end or before."""
        self._add("response_bytes_total", (self._labels.of(host),), received)

    def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:  # noqa: ARG002
        """See `Observer`, here and below."""
        self._add("attempt_duration_seconds", (self._labels.of(host),), seconds)

    def connected(self, host: str, seconds: float) -> None:  # noqa: D102
        self._add("connect_seconds", ("total", self._labels.of(host)), seconds)

    def closed(self, host: str, reason: str) -> None:  # noqa: D102
        self._add("connections_closed_total", (reason, self._labels.of(host)), 1)

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:  # noqa: ARG002, D102
        label = self._labels.of(host)
        known = reason in _ERRORS or (reason.isdigit() and len(reason) == 3)
        self._add("retries_total", (reason if known else OTHER, label), 1)
        self._add("backoff_seconds_total", (label,), wait)

    def denied(self, host: str, reason: str) -> None:  # noqa: D102
        self._add("retries_denied_total", (reason, self._labels.of(host)), 1)

    def throttled(self, host: str, seconds: float) -> None:  # noqa: D102
        self._add("throttle_wait_seconds", (self._labels.of(host),), seconds)

    def retired(self, key: Hashable, reason: str) -> None:  # noqa: ARG002, D102
        known = _RETIRED.fullmatch(reason)
        self._add("sessions_retired_total", ("by hand" if known is None else known[1] or known[2],), 1)

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:  # noqa: ARG002, D102
        self._add("leases_leaked_total", (), 1)

    def _note_deadline(self, error: BaseException) -> None:
        if isinstance(error, Timeout) and error.stage:
            self._add("deadline_exceeded_total", (error.stage,), 1)

    def _add(self, name: str, labels: tuple[str, ...], amount: float) -> None:
        self._events.append(((name, labels), amount))
        if len(self._events) > FULL:
            self.fold()

    # --- counted ---

    def fold(self) -> None:
        """Count what has been written down, unless that is being done; also in a signal handler that interrupts it."""
        if self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        """Count what has been written down, many at a time, which costs a tenth of doing it one by one."""
        label_of = self._labels.of
        hosts, waits, took, sent, received = _take(self._attempts, 5)
        if self._labels.is_off:
            self._observe("connection_wait_seconds", ("",), waits)
            self._observe("attempt_duration_seconds", ("",), took)
            self._count("request_bytes_total", ("",), sum(sent))
            self._count("response_bytes_total", ("",), sum(received))
        else:
            for host, each in _grouped(hosts, waits):
                self._observe("connection_wait_seconds", (label_of(host),), each)
            for host, each in _grouped(hosts, took):
                self._observe("attempt_duration_seconds", (label_of(host),), each)
            for host, each in _grouped(hosts, sent):
                self._count("request_bytes_total", (label_of(host),), sum(each))
            for host, each in _grouped(hosts, received):
                self._count("response_bytes_total", (label_of(host),), sum(each))
        methods, statuses, took = _take(self.calls, 3)
        for (method, status), each in _grouped(list(zip(methods, statuses, strict=True)), took):
            self._observe("request_duration_seconds", (_method(method), str(status)), each)
        self._observe("lease_held_seconds", (), _take(self.leases, 1)[0])
        for (name, labels), amount in _take(self._events, 1)[0]:
            if FAMILIES[name].bounds:
                self._observe(name, labels, [amount])
            else:
                self._count(name, labels, amount)

    def _find(self, name: str, labels: tuple[str, ...]) -> list[float]:
        numbers = self._counted.get((name, labels))
        if numbers is None:
            numbers = self._counted[name, labels] = FAMILIES[name].zero
        return numbers

    def _count(self, name: str, labels: tuple[str, ...], amount: float) -> None:
        if amount:
            self._find(name, labels)[0] += amount

    def _observe(self, name: str, labels: tuple[str, ...], amounts: list[float]) -> None:
        if amounts:
            numbers, bounds, below = self._find(name, labels), FAMILIES[name].bounds, 0
            amounts.sort()
            for place, bound in enumerate(bounds):
                if below == len(amounts):
                    break
                upto = bisect_right(amounts, bound, below)
                numbers[place] += upto - below
                below = upto
            numbers[len(bounds)] += len(amounts) - below
            numbers[-1] += sum(amounts)

    # --- asked for ---

    def series(self) -> tuple[Series, Series]:
        """What only goes up, and what goes up and down; the latter is empty when the pool is closed or gone."""
        # Looked at before counting: when this finds the pool gone, nothing more comes.
        read = self._read()
        now = None if read is None else read()
        gauges = {} if now is None or self.is_over else self._gauges(now)
        with self._lock:
            self._fold()
            counted = {key: numbers[:] for key, numbers in self._counted.items()}
        return self._counts(counted, now), gauges

    def _counts(self, counted: Mapping[tuple[str, tuple[str, ...]], list[float]], now: Reading | None) -> Series:
        found: Series = {}
        for (name, labels), numbers in counted.items():
            found[self._key(name, *labels)] = numbers
            # These are counted by what takes their time.
            if name == "lease_held_seconds":
                found[self._key("leases_total", "released")] = [sum(numbers[:-1])]
            elif name == "connect_seconds":
                found[self._key("connections_opened_total", labels[-1])] = [sum(numbers[:-1])]
        if now is not None:
            before = self._before
            reused = now.stats.reused - (0 if before is None else before.stats.reused)
            found[self._key("connections_reused_total")] = [reused]
            dropped = now.dropped - (0 if before is None else before.dropped)
            if dropped:
                found[self._key("connections_closed_total", "dropped", "")] = [dropped]
            for reason, count in now.reclaimed.items():
                lost = count - (0 if before is None else before.reclaimed[reason])
                found[self._key("leases_reclaimed_total", reason)] = [lost]
        return found

    def _gauges(self, now: Reading) -> Series:
        found: Series = {}

        def put(value: float, name: str, *labels: str) -> None:
            _merge(found, self._key(name, *labels), [value])

        stats = now.stats
        put(stats.sessions, "sessions", "leased")
        put(now.idle_sessions, "sessions", "idle")
        put(now.lease_waiters, "lease_waiters")
        put(stats.leased + stats.waiting + stats.sleeping, "requests_in_flight")
        if stats.capacity is not None:
            put(stats.capacity, "connections_limit", "")
        if not self._labels.is_off:
            for host, state in stats.hosts.items():
                label = self._labels.of(str(host))
                put(state.leased, "connections", "leased", label)
                put(state.idle, "connections", "idle", label)
                put(state.waiting, "connection_waiters", label)
                put(state.limit, "connections_limit", label)
        else:
            put(stats.leased, "connections", "leased", "")
            put(stats.idle, "connections", "idle", "")
            put(stats.waiting, "connection_waiters", "")
        for host, known in now.hosts.items():
            label = self._labels.of(host)
            if known.circuit:
                for word in ("closed", "half-open", "open"):
                    put(known.circuit == word, "circuit_state", word, label)
            if known.budget is not None:
                put(known.budget, "retry_budget_tokens", label)
        return found

    def _key(self, name: str, *labels: str) -> Key:
        pairs = zip(FAMILIES[name].labels, labels, strict=True)
        return name, (("pool", self._name), *((label, value) for label, value in pairs if value))


def _take(written: list[Any], width: int) -> list[list[Any]]:
    """Take out what has been written down until now, by its columns; meanwhile others may go on writing."""
    end = len(written)
    columns = [written[place:end:width] for place in range(width)]
    del written[:end]
    return columns


def _grouped(keys: list[Any], values: list[Any]) -> Iterable[tuple[Any, list[Any]]]:
    if keys and keys.count(keys[0]) == len(keys):  # nearly always, and a tenth of the work
        return ((keys[0], values),)
    groups: dict[Hashable, list[Any]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(value)
    return groups.items()


def _method(method: str) -> str:
    return method if method in METHODS else OTHER


def _merge(found: Series, key: Key, numbers: list[float]) -> None:
    """Add a series to those found; where it is there already, they become one."""
    there = found.get(key)
    if there is None:
        found[key] = numbers
    elif FAMILIES[key[0]].mode == "livemin":
        there[0] = min(there[0], numbers[0])
    else:
        there[:] = [one + other for one, other in zip(there, numbers, strict=True)]


def _error(kind: type[BaseException]) -> str:
    """The name of an error's class, or of the nearest of its bases, that is one of the package's."""
    return next((each.__name__ for each in kind.__mro__ if each.__module__ == exceptions.__name__), OTHER)


class _Exporter:
    """All meters of one registry, as prometheus_client asks for them. Thread-safe."""

    def __init__(self) -> None:
        # Single dict operations are atomic, with and without a GIL.
        self._meters: dict[weakref.ref[Meter], None] = {}

    def add(self, meter: Meter) -> None:
        """Export this one, until it is over or gone."""
        self._meters[weakref.ref(meter, lambda gone: self._meters.pop(gone, None))] = None

    def describe(self) -> Iterable[Metric]:
        """All there may ever be, for the registry to find names that are taken."""
        return [_metric(name) for name in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """All there is."""
        found: Series = {}
        for ref in list(self._meters):
            meter = ref()
            counts, gauges = ({}, {}) if meter is None else meter.series()
            if gauges:
                for key, numbers in (counts | gauges).items():
                    _merge(found, key, numbers)
        metrics: dict[str, Metric] = {}
        for (name, labels), numbers in found.items():
            metric = metrics.get(name) or metrics.setdefault(name, _metric(name))
            _add_samples(metric, FAMILIES[name], PREFIX + name, dict(labels), numbers)
        return metrics.values()


def _metric(name: str) -> Metric:
    family = FAMILIES[name]
    base = name.removesuffix("_total")
    unit = base.rpartition("_")[2]
    return Metric(PREFIX + base, family.help, family.kind, unit if unit in ("seconds", "bytes") else "")


def _add_samples(metric: Metric, family: Family, name: str, labels: dict[str, str], numbers: list[float]) -> None:
    if not family.bounds:
        metric.add_sample(name, labels, numbers[0])
        return
    count = 0.0
    for bound, number in zip(_les(family), numbers, strict=False):
        count += number
        metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{name}_count", labels, count)
    metric.add_sample(f"{name}_sum", labels, numbers[-1])


def _les(family: Family) -> list[str]:
    return [*map(floatToGoString, family.bounds), "+Inf"]


# --- prometheus_client's multiprocess mode ---

_IS_MULTIPROCESS: Final = values.ValueClass is not values.MutexValue


class _Pusher:
    """Brings what has been counted to prometheus_client's files. Thread-safe.

    One daemon thread, while there are pools. Counters are pushed as what came since the last time: so pools that are
    gone stay counted, and what the file has from before. A pool dropped without `close` keeps its meter until that has
    been pushed.
    """

    def __init__(self) -> None:
        self._meters: dict[Meter, Series] = {}  # with what has been pushed of each
        self._gauges: set[Key] = set()
        self._values: dict[tuple[Key, int], Any] = {}
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        if _IS_MULTIPROCESS:
            atexit.register(self.push)
            if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
                # Nothing forks in the midst of a push: prometheus_client's lock would stay taken for ever in the child.
                os.register_at_fork(
                    before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._restart
                )

    def _restart(self) -> None:
        """In a forked process, whose own files prometheus_client begins by itself."""
        self._thread = None
        for pushed in self._meters.values():
            pushed.clear()
        self._lock.release()
        if any(FAMILIES[name].mode == "livemin" for name, _ in self._gauges):
            self.start()  # there they begin at 0, which would be the least of all

    def add(self, meter: Meter) -> None:
        """Push this one, until it is over or its pool is gone."""
        with self._lock:
            self._meters[meter] = {}
            self.start()

    def start(self) -> None:
        """See to it that the thread runs; in a forked process it does not at first."""
        if self._thread is None:
            with self._lock, contextlib.suppress(RuntimeError):  # the interpreter is shutting down, which pushes
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="sessionpool-metrics", daemon=True)
                    thread.start()
                    self._thread = thread

    def push(self) -> None:
        """Push what there is now."""
        with self._lock:
            try:
                self._push()
            except Exception:  # noqa: BLE001 - such as a directory that is not there, and no pool is to suffer from it
                self._meters.clear()
                _log.exception("metrics could not be written to PROMETHEUS_MULTIPROC_DIR and are given up")

    def _push(self) -> None:
        present: Series = {}
        for meter, pushed in list(self._meters.items()):
            counts, gauges = meter.series()
            for key, numbers in counts.items():
                before = pushed.get(key) or FAMILIES[key[0]].zero
                for place, (number, old) in enumerate(zip(numbers, before, strict=True)):
                    if number != old or key not in pushed:
                        self._value(key, place).inc(number - old)
                pushed[key] = numbers
            for key, numbers in gauges.items():
                _merge(present, key, numbers)
            if not gauges:
                del self._meters[meter]
        for key in self._gauges.difference(present):
            present[key] = [math.inf if FAMILIES[key[0]].mode == "livemin" else 0.0]
        for key, numbers in present.items():
            self._value(key, 0).set(numbers[0])
        self._gauges.update(present)

    def _value(self, key: Key, place: int) -> Any:
        """One number in the file, as prometheus_client's own metrics have it."""
        value = self._values.get((key, place))
        if value is None:
            (name, pairs), family = key, FAMILIES[key[0]]
            full = sample = PREFIX + name
            if family.bounds and place > len(family.bounds):
                sample = f"{full}_sum"
            elif family.bounds:
                sample, pairs = f"{full}_bucket", (*pairs, ("le", _les(family)[place]))
            value = self._values[key, place] = values.ValueClass(
                family.kind,
                full.removesuffix("_total"),
                sample,
                [label for label, _ in pairs],
                [each for _, each in pairs],
                family.help,
                multiprocess_mode=family.mode,
            )
        return value

    def _run(self) -> None:
        nobody = Bell()
        while True:
            SYSTEM_CLOCK.wait(nobody, SYSTEM_CLOCK.now() + PUSH_EVERY)
            self.push()
            with self._lock:
                if not self._meters:
                    self._thread = None
                    return


# Of each registry, while it lives.
_exporters: weakref.WeakKeyDictionary[CollectorRegistry, _Exporter] = weakref.WeakKeyDictionary()
_pusher: Final = _Pusher()
