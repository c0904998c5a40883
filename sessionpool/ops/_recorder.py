"""Remembers the last minutes of a pool, so that a page can show rates, percentiles and curves.

What happens is put into a queue by the thread it happens to, which costs it one append. Once a second it is taken out
of there and counted, by host and by *slot* of two seconds. Memory is bounded: slots by `SPAN`, hosts by `MAX_HOSTS`
(those asked longest ago are forgotten), the queue by whoever finds it too long and empties it.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from typing import Final

import attrs

from sessionpool._clock import Clock
from sessionpool._ledger import PoolStats

SLOT: Final = 2.0  # seconds
SPAN: Final = 150  # slots that are remembered: five minutes
RECENT: Final = 30  # slots that percentiles are of: one minute
RATED: Final = 5  # slots that the rate is of: ten seconds
MAX_HOSTS: Final = 256
MAX_LEAKS: Final = 20
MAX_QUEUE: Final = 4096

# Durations are kept by how they compare to the shortest: eight buckets for each doubling, so a percentile is off by
# 9 % at most, and mostly by much less.
_SHORTEST: Final = 1e-5
_PER_DOUBLING: Final = 8
_LAST: Final = 27 * _PER_DOUBLING  # 1300 s; longer ones count as that

_RETRY: Final = -1.0  # in place of a duration

Event = tuple[str, float, bool]  # host, seconds or `_RETRY`, and whether it went wrong


@attrs.frozen
class Leak:
    """A lease that was held too long, or lost. Immutable.

    Attributes:
        key: The identity's name; `None` for none.
        held: Seconds that it had been held by then.
        at: The instant that was found.
        places: File, line and function of each frame where it was taken, the innermost last. Not the lines of source:
            they may have secrets in them.
    """

    key: Hashable
    held: float
    at: float
    places: tuple[str, ...]


@attrs.frozen
class Curves:
    """The finished slots of the span, the oldest first; `None` where there is nothing to tell. Immutable."""

    rate: list[float]
    errors: list[int]
    p95: list[float | None]
    leased: list[int | None]
    waiting: list[int | None]


@attrs.frozen
class Figures:
    """What was recorded of one host, or of all. Immutable.

    Attributes:
        rate: Requests a second, answered or failed, over ten seconds.
        p50, p95, p99: Seconds that requests of the last minute took; `None` if there were none.
        requests, errors, retries: How many in five minutes.
        curve: Requests a second in each finished slot.
    """

    rate: float
    p50: float | None
    p95: float | None
    p99: float | None
    requests: int
    errors: int
    retries: int
    curve: list[float]


class _Slot:
    """Two seconds of one host, or of all."""

    __slots__ = ("errors", "number", "requests", "retries", "times")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = self.errors = self.retries = 0
        self.times: Counter[int] = Counter()  # by bucket

    def add(self, seconds: float, *, failed: bool) -> None:
        if seconds == _RETRY:
            self.retries += 1
            return
        self.requests += 1
        self.errors += failed
        self.times[_bucket(seconds)] += 1


class _Series:
    """The slots of one host, or of all, in which something happened."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()

    def slot(self, number: int) -> _Slot:
        slots = self._slots
        if not slots or slots[-1].number < number:
            slots.append(_Slot(number))
            while slots[0].number < number - SPAN:
                slots.popleft()
            for slot in slots:
                if slot.number > number - RECENT - 1:
                    break
                slot.times = _NO_TIMES
        return slots[-1]

    def figures(self, number: int, rated: int) -> Figures:
        slots = [slot for slot in self._slots if slot.number >= number - SPAN]
        times: Counter[int] = Counter()
        for slot in slots:
            if slot.number >= number - RECENT:
                times.update(slot.times)
        p50, p95, p99 = quantiles(times, (0.5, 0.95, 0.99))
        return Figures(
            rate=sum(slot.requests for slot in slots if number - rated <= slot.number < number) / (rated * SLOT),
            p50=p50,
            p95=p95,
            p99=p99,
            requests=sum(slot.requests for slot in slots),
            errors=sum(slot.errors for slot in slots),
            retries=sum(slot.retries for slot in slots),
            curve=spread(slots, number),
        )


_NO_TIMES: Final[Counter[int]] = Counter()  # of slots whose times are no longer asked for; never changed


class Recorder:
    """Listens to a pool and remembers; has methods of an `Observer`'s, and never raises. Thread-safe.

    Args:
        clock: The pool's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: deque[Event] = deque()
        self._lock = threading.Lock()  # over all below
        self._all = _Series()
        self._hosts: OrderedDict[str, _Series] = OrderedDict()
        self._first = self._slot_now() + 1  # the one that it sees from the beginning
        self._gauges: deque[tuple[int, int, int]] = deque(maxlen=SPAN + 1)  # slot, most leased, most waiting in it
        self._p95: deque[tuple[int, float | None]] = deque(maxlen=SPAN + 1)
        self._leaks: deque[Leak] = deque(maxlen=MAX_LEAKS)

    # --- told by the pool ---

    def responded(self, method: str, host: str, status: int, seconds: float, sent: int, received: int) -> None:  # noqa: ARG002
        """See `Observer`, here and below."""
        self._put((host, seconds, status >= 500 or status == 429))

    def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:  # noqa: ARG002
        self._put((host, seconds, True))

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:  # noqa: ARG002
        self._put((host, _RETRY, False))

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
        places = tuple(line.strip() for line in stack.splitlines() if line.startswith('  File "'))
        self._leaks.append(Leak(key, seconds, self._clock.now(), places))

    def _put(self, event: Event) -> None:
        self._queue.append(event)
        # Whoever empties it already, perhaps this very thread before a signal handler came, will do so for all.
        if len(self._queue) >= MAX_QUEUE and self._lock.acquire(blocking=False):
            try:
                self._drain(self._slot_now())
            finally:
                self._lock.release()

    # --- once a second ---

    def tick(self, stats: PoolStats | None) -> None:
        """Count what has happened since the last time, and note how full the pool is; `None`: there is none."""
        with self._lock:
            now = self._slot_now()
            self._drain(now)
            if stats is not None:
                leased, waiting = stats.leased, stats.waiting
                if self._gauges and self._gauges[-1][0] == now:
                    _, before, queued = self._gauges.pop()
                    leased, waiting = max(leased, before), max(waiting, queued)
                self._gauges.append((now, leased, waiting))
            if not self._p95 or self._p95[-1][0] < now - 1:
                times = next((slot.times for slot in reversed(self._all._slots) if slot.number == now - 1), _NO_TIMES)
                self._p95.append((now - 1, quantiles(times, (0.95,))[0]))

    def _drain(self, now: int) -> None:
        whole = self._all.slot(now)
        for _ in range(len(self._queue)):
            try:
                host, seconds, failed = self._queue.popleft()
            except IndexError:  # nobody else pops without the lock, but a fork may have left it so
                return
            whole.add(seconds, failed=failed)
            series = self._hosts.get(host)
            if series is None:
                series = self._hosts[host] = _Series()
                if len(self._hosts) > MAX_HOSTS:
                    self._hosts.popitem(last=False)
            self._hosts.move_to_end(host)
            series.slot(now).add(seconds, failed=failed)

    # --- asked for ---

    def figures(self) -> tuple[Figures, dict[str, Figures]]:
        """Of all hosts together, and of each."""
        with self._lock:
            now = self._slot_now()
            rated = max(min(RATED, now - self._first), 1)
            hosts = {host: series.figures(now, rated) for host, series in self._hosts.items()}
            return self._all.figures(now, rated), hosts

    def curves(self) -> Curves:
        """Of all hosts together."""
        with self._lock:
            now = self._slot_now()
            slots = {slot.number: slot for slot in self._all._slots}
            gauges = {number: (leased, waiting) for number, leased, waiting in self._gauges}
            p95 = dict(self._p95)
            numbers = range(max(now - SPAN, self._first), now)
            return Curves(
                rate=[slots[each].requests / SLOT if each in slots else 0.0 for each in numbers],
                errors=[slots[each].errors if each in slots else 0 for each in numbers],
                p95=[p95.get(each) for each in numbers],
                leased=[gauges[each][0] if each in gauges else None for each in numbers],
                waiting=[gauges[each][1] if each in gauges else None for each in numbers],
            )

    def leaks(self) -> list[Leak]:
        """Those found last, the latest first."""
        return list(self._leaks.copy())[::-1]  # copied in one step: another may come meanwhile

    def _slot_now(self) -> int:
        return int(self._clock.now() // SLOT)


def spread(slots: list[_Slot], number: int) -> list[float]:
    """Requests a second in each of the `SPAN` slots before this one, from the first in which there were any."""
    by_number = {slot.number: slot.requests / SLOT for slot in slots if slot.requests}
    first = min(by_number, default=number)
    return [by_number.get(each, 0.0) for each in range(first, number)]


def _bucket(seconds: float) -> int:
    if seconds <= _SHORTEST:
        return 0
    return min(int(math.log2(seconds / _SHORTEST) * _PER_DOUBLING), _LAST)


def quantiles(times: Counter[int], wanted: tuple[float, ...]) -> list[float | None]:
    """The duration below which each of these shares of requests lies; `None` without requests."""
    total = sum(times.values())
    if not total:
        return [None] * len(wanted)
    found: list[float | None] = []
    buckets = sorted(times)
    for share in wanted:
        rank, seen = math.ceil(share * total), 0
        for bucket in buckets:
            if seen + times[bucket] >= rank:
                within = (rank - seen - 0.5) / times[bucket]  # as if they lay evenly in it
                found.append(_SHORTEST * 2 ** ((bucket + within) / _PER_DOUBLING))
                break
            seen += times[bucket]
    return found
