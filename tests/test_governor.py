"""The governor: tables on plain numbers for every part, then its threads on a clock that stands still."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionpool._clock import NEVER, Baton, Deadline
from sessionpool._config import AdaptiveConcurrency, AutoThrottle, CircuitBreaker, Governor, RateLimit
from sessionpool._governor import (
    BUDGET_SPAN,
    FLOOR,
    LONGEST,
    Budget,
    Ceiling,
    Circuit,
    Hosts,
    HostState,
    Pace,
    Tally,
    advised,
    quota_reset,
    retry_after,
    spread,
    throttled,
)
from sessionpool._observer import Observer, Watch
from sessionpool._sleep import Sleepers
from sessionpool._wire import Head, parse_head
from sessionpool.exceptions import (
    ChunkedEncodingError,
    CircuitOpenError,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    ContentDecodingError,
    CoolDownTimeout,
    PoolClosed,
    PoolTimeout,
    ReadTimeout,
    ThrottleTimeout,
)
from sessionpool.testing import FakeClock
from tests.helpers import Interrupt, InThread, WatchedClock, eventually, in_thread

H = "http://a:80"
WALL = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def head(status: int, *fields: str) -> Head:
    return parse_head("\r\n".join([f"HTTP/1.1 {status} X", *fields, "", ""]).encode("latin-1"), "GET", H)


class Told(Observer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def cooled(self, host: str, seconds: float, reason: str) -> None:
        self.events.append(("cooled", host, seconds, reason))

    def throttled(self, host: str, seconds: float) -> None:
        self.events.append(("throttled", host, seconds))

    def circuit(self, host: str, state: str) -> None:
        self.events.append(("circuit", host, state))


class Setup:
    """Hosts on a clock that jumps, with all that they are given."""

    def __init__(self, clock: FakeClock | None = None, **parts: Any) -> None:
        self.clock = FakeClock(jumps=True) if clock is None else clock
        self.told = Told()
        self.sleepers = Sleepers(self.clock)
        self.relimited: list[str] = []
        self.hosts = Hosts(Governor(**parts), self.clock, self.sleepers, Watch(self.told), self._relimit)

    def _relimit(self, host: str) -> None:
        assert not self.hosts._lock.locked(), "the gate's lock comes before this one"
        self.relimited.append(host)
        self.hosts.allowed(host, 32)

    def enter(self, host: str = H, patience: float = 60.0, deadline: Deadline = NEVER) -> float:
        """Go through; when."""
        self.hosts.enter(host, patience, deadline)
        return self.clock.now()

    def ask(self, outcome: int | BaseException | None, host: str = H, latency: float | None = None) -> None:
        """One request with this outcome."""
        self.hosts.enter(host, 60.0, NEVER)
        self.hosts.leave(host, outcome, self.clock.now(), latency)

    def state(self, host: str = H) -> HostState:
        return self.hosts.books(self.clock.now())[host]


def within(seconds: float, now: float = 0.0) -> Deadline:
    return Deadline.after(seconds, now, "Timeout.total")


# --- counting ---


def test_a_tally_counts_what_happened_of_late() -> None:
    """In as many tenths as are asked for, the present one included; what is older is forgotten."""
    tally = Tally(10.0)
    for now in (0.0, 0.5, 1.0, 5.5, 9.9):
        tally.add(now)

    assert [tally.count(now) for now in (9.9, 10.0, 10.9, 11.0, 15.5, 20.0)] == [5, 3, 3, 2, 1, 0]
    assert tally.count(10.0, 11) == 5


def test_a_tally_does_not_grow() -> None:
    """However much happens, it remembers eleven numbers."""
    tally = Tally(1.0)
    for step in range(10_000):
        tally.add(step / 100)

    assert len(tally._counts) <= 11
    assert 90 <= tally.count(99.99) <= 100


# --- the budget ---


@pytest.mark.parametrize(
    ("requests", "ratio", "retries"),
    [
        (0, 0.2, FLOOR),
        (4, 0.2, FLOOR),
        (5, 0.2, FLOOR + 1),
        (100, 0.2, FLOOR + 20),
        (100, 0.0, FLOOR),
        (3, 2.0, FLOOR + 6),
    ],
)
def test_how_many_retries_there_are(requests: int, ratio: float, retries: int) -> None:
    """A share of the requests, and the floor."""
    budget = Budget()
    for _ in range(requests):
        budget.request(5.0)

    assert [budget.take(ratio, 5.0) for _ in range(retries + 2)] == [True] * retries + [False] * 2
    assert budget.left(5.0) == 0


def test_retries_earn_no_retries() -> None:
    """A host that answers nothing but 503 gets the floor and the share, and not a share of that again."""
    budget = Budget()
    for _ in range(100):
        budget.request(0.0)
    taken = 0
    while budget.take(0.2, 0.0):
        taken += 1
        budget.request(0.0)  # the retry itself

    assert taken == FLOOR + 20


def test_a_budget_fills_again() -> None:
    """Eleven seconds later what was taken counts no more."""
    budget = Budget()
    while budget.take(0.2, 0.0):
        pass

    assert not budget.take(0.2, 10.9)
    assert budget.take(0.2, 11.0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.01, 0.3, 0.999, 2.5, 9.5]), st.booleans()), max_size=300),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
)
def test_the_budget_holds_over_any_ten_seconds(events: list[tuple[float, bool]], ratio: float) -> None:
    """In the ten seconds that end with a retry: retries <= ratio x requests of those ten seconds + floor."""
    budget, now = Budget(), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for pause, is_retry in events:
        now += pause
        if not is_retry:
            budget.request(now)
            requests.append(now)
        elif budget.take(ratio, now):
            retries.append(now)
            budget.request(now)
            since = now - BUDGET_SPAN

            assert (
                len([at for at in retries if at >= since]) <= ratio * len([at for at in requests if at > since]) + FLOOR
            )


# --- pace ---


@pytest.mark.parametrize(
    ("interval", "burst", "instants"),
    [
        (1.0, 1, [0, 1, 2, 3, 4]),
        (1.0, 3, [0, 0, 0, 1, 2]),
        (0.5, 2, [0, 0, 0.5, 1, 1.5]),
        (0.0, 1, [0, 0, 0, 0, 0]),
    ],
)
def test_a_pace_gives_out_instants(interval: float, burst: int, instants: list[float]) -> None:
    """As many at once as may burst, and then one at each interval."""
    pace, given_out = Pace(interval, burst).begun, []
    for _ in instants:
        given_out.append(pace.earliest(0.0))
        pace.take(given_out[-1])

    assert given_out == instants


def test_looking_takes_nothing() -> None:
    """An instant that is not taken is there for the next."""
    pace = Pace(1.0).begun
    pace.take(0.0)

    assert [pace.earliest(0.0) for _ in range(3)] == [1.0] * 3


def grants_fit(grants: list[float], rate: float, burst: int) -> None:
    """No window holds more than `burst + rate * w`: from each grant to each later one."""
    for first, start in enumerate(grants):
        for number, end in enumerate(grants[first:], 1):
            assert number <= burst + rate * (end - start) + 1e-6


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.003, 0.1, 0.25, 1.0, 7.0]), max_size=80),
    st.sampled_from([0.5, 3.0, 100.0]),
    st.integers(1, 6),
)
def test_no_window_holds_more_than_the_rate_allows(pauses: list[float], rate: float, burst: int) -> None:
    """Whenever requests come: never more than `burst + rate * w` in a window, and none later than it need be."""
    setup = Setup(rate=RateLimit(rate=rate, burst=burst))
    state = setup.hosts._find(H, make=True)
    assert state is not None
    now, grants = 0.0, []
    for pause in pauses:
        now += pause
        step = state.next_step(now, None, math.inf, math.inf)
        grants.append(step.until if step.stage else now)

    assert grants == sorted(grants)
    grants_fit(grants, rate, burst)
    for before, (at, asked) in enumerate(zip(grants, (sum(pauses[: n + 1]) for n in range(len(pauses))), strict=True)):
        if at > asked + 1e-9:  # it waits: so a window that ends with it is full
            assert any(before + 1 - first >= burst + rate * (at - grants[first]) - 1e-6 for first in range(before + 1))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.1, 1.0]), st.sampled_from([0.5, 2.0, 20.0])), max_size=60))
def test_a_pace_set_at_run_time_does_not_loosen_the_settings(steps: list[tuple[float, float]]) -> None:
    """Whatever Crawl-delay a host asks for, and changes to, the settings' own rate and burst hold."""
    setup = Setup(rate=RateLimit(rate=2.0, burst=3))
    now, grants = 0.0, []
    for pause, rate in steps:
        now += pause
        setup.hosts.pace(H, rate, burst=5)
        state = setup.hosts._find(H, make=True)
        assert state is not None
        step = state.next_step(now, None, math.inf, math.inf)
        grants.append(step.until if step.stage else now)

    grants_fit(grants, 2.0, 3)


def test_all_of_the_rate_is_used_under_load() -> None:
    """A thousand requests at 100 a second take the time that 999 intervals take."""
    setup = Setup(rate=RateLimit(rate=100.0))
    for _ in range(1000):
        setup.enter()

    assert setup.clock.now() == pytest.approx(9.99)


def test_each_host_has_a_rate_of_its_own() -> None:
    """One that has to wait keeps nobody else waiting."""
    setup = Setup(rate=RateLimit(rate=1.0))

    assert [setup.enter("a"), setup.enter("b"), setup.enter("a"), setup.enter("b")] == [0, 0, 1, 1]
    assert setup.told.events == [("throttled", "a", 1.0)]


@pytest.mark.parametrize(
    ("rate", "pace", "instants"), [(1.0, 0.5, [0, 2, 4]), (0.25, 0.5, [0, 4, 8]), (None, 0.5, [0, 2, 4])]
)
def test_the_stricter_pace_counts(rate: float | None, pace: float, instants: list[float]) -> None:
    """A Crawl-delay slows down what the settings allow, and speeds nothing up."""
    setup = Setup(rate=None if rate is None else RateLimit(rate=rate))
    setup.hosts.pace(H, pace)

    assert setup.hosts.watching
    assert [setup.enter() for _ in instants] == instants
    assert setup.state().interval == instants[1]


def test_a_slot_beyond_the_deadline_is_not_taken() -> None:
    """Who has no time fails at once, with the stage; whoever comes next gets that slot."""
    setup = Setup(rate=RateLimit(rate=0.1))
    setup.enter()
    with pytest.raises(
        ThrottleTimeout, match=r"^the rate limit of http://a:80 has no place for 10 s, beyond Timeout"
    ) as caught:
        setup.enter(deadline=within(5.0))

    assert (caught.value.stage, caught.value.stages) == ("throttle", {"throttle": 0.0})
    assert setup.clock.now() == 0.0
    assert setup.enter() == 10.0


def test_waiting_is_put_to_the_deadlines_account() -> None:
    """Cool-down and throttle are stages of the call."""
    setup = Setup(rate=RateLimit(rate=0.5))
    setup.enter()
    deadline = within(60.0)
    setup.enter(deadline=deadline)
    deadline.enter("permit", setup.clock.now())

    assert deadline._spent == {"throttle": 2.0}
    assert NEVER._spent is None


# --- AutoThrottle ---


@pytest.mark.parametrize(
    ("delay", "latency", "good", "following"),
    [
        (1.0, 1.0, True, 1.0),
        (1.0, 0.5, True, 0.75),  # down by half the difference
        (1.0, 4.0, True, 4.0),  # up at once
        (1.0, 4.0, False, 4.0),
        (1.0, 0.1, False, 1.0),  # a quick error does not shorten it
        (0.0, 0.0, True, 0.25),  # least
        (9.0, 99.0, True, 10.0),  # most
    ],
)
def test_the_pause_follows_the_latency(delay: float, latency: float, good: bool, following: float) -> None:
    """Up at once, down slowly, within bounds."""
    assert throttled(AutoThrottle(least=0.25, most=10.0), delay, latency, good=good) == following


def test_the_pause_is_for_as_many_requests_as_are_to_be_under_way() -> None:
    """Four at once over a latency of two seconds: one each half second."""
    setup = Setup(throttle=AutoThrottle(concurrency=4, start=0.5))
    for _ in range(3):
        setup.ask(200, latency=2.0)

    assert setup.state().interval == 0.5
    assert setup.clock.now() == 1.0


@pytest.mark.parametrize(("start", "first"), [(1.0, 2.0), (90.0, 60.0), (3.0, 3.0)])
def test_the_first_pause_is_within_the_bounds(start: float, first: float) -> None:
    """`least` and `most` hold from the beginning."""
    setup = Setup(throttle=AutoThrottle(start=start, least=2.0))

    assert [setup.enter(), setup.enter()] == [0.0, first]


@pytest.mark.parametrize("outcome", [200, 503, ReadTimeout("x"), None])
def test_an_unknown_latency_changes_nothing(outcome: Any) -> None:
    """There is nothing to follow."""
    setup = Setup(throttle=AutoThrottle(start=2.0))
    setup.ask(outcome, latency=None)

    assert setup.state().interval == 2.0


# --- the circuit ---

BAD = ConnectError("refused")


def opened(times: int = 1, **options: Any) -> tuple[Circuit, float]:
    """A circuit that has opened so many times without a good spell, and when it did so last."""
    circuit, now = Circuit(CircuitBreaker(failures=1, **options)), 0.0
    circuit.settle(False, 0.0, now, 1)
    for _ in range(times - 1):
        assert circuit._until is not None
        now = circuit._until
        circuit.go(now, 1)
        assert circuit.settle(False, now, now, 1) == "open"
    return circuit, now


@pytest.mark.parametrize(
    ("options", "verdicts", "opens"),
    [
        ({"failures": 3}, "xxx", True),
        ({"failures": 3}, "xx.xx", False),
        ({"failures": 3}, "xx?x", True),  # what tells nothing changes nothing
        ({"failures": 1}, "..x", True),
        ({"failures": None, "rate": 0.5, "requests": 4}, "x.x", False),  # too few
        ({"failures": None, "rate": 0.5, "requests": 4}, "x..x", True),
        ({"failures": None, "rate": 0.5, "requests": 4}, "x...x..", False),
        ({"failures": 2, "rate": 0.9, "requests": 9}, "xx", True),
    ],
)
def test_what_opens_a_circuit(options: dict[str, Any], verdicts: str, opens: bool) -> None:
    """Failures in a row, or their share in the window; x: failure, a dot: good, ?: nothing told."""
    circuit = Circuit(CircuitBreaker(**options))
    seen = [circuit.settle({"x": False, ".": True, "?": None}[each], 0.0, 0.0, 1) for each in verdicts]

    assert seen == [""] * (len(verdicts) - 1) + ["open" if opens else ""]
    assert circuit.state(0.0) == ("open" if opens else "closed")


def test_failures_of_long_ago_do_not_count_for_the_rate() -> None:
    """The window passes; only what is in it is weighed."""
    circuit = Circuit(CircuitBreaker(failures=None, rate=0.5, requests=2, window=10.0))
    circuit.settle(False, 0.0, 0.0, 1)
    circuit.settle(True, 11.0, 11.0, 1)

    assert circuit.settle(True, 11.0, 11.0, 1) == ""
    assert circuit.settle(False, 11.0, 11.0, 1) == ""
    assert circuit.settle(False, 11.0, 11.0, 1) == "open"


@pytest.mark.parametrize(("times", "most"), [(1, 30), (2, 60), (5, 150), (10, 300), (40, 300)])
def test_each_opening_is_longer(times: int, most: float) -> None:
    """30 s x count up to 300, less up to a fifth."""
    lengths = set()
    for _ in range(20):
        circuit, now = opened(times)
        wait = circuit.wait(now, 7)
        assert wait is not None
        lengths.add(wait)

    assert 0.8 * most <= min(lengths) < max(lengths) <= most


@pytest.mark.parametrize(("spell", "count"), [(0.5, 4), (0.999, 4), (1.001, 1), (9.0, 1)])
def test_a_good_spell_lets_it_begin_anew(spell: float, count: int) -> None:
    """A host that was well for as long as it was left alone has recovered; one that comes and goes has not."""
    circuit, _ = opened(3, open=10.0)
    assert circuit._until is not None
    now = circuit._until
    circuit.go(now, 1)
    assert circuit.settle(True, now, now, 1) == "closed"
    now += spell * circuit._length
    assert circuit.settle(False, now, now, 1) == "open"

    assert circuit._openings == count


def test_one_probe_at_a_time() -> None:
    """Half-open, one goes; the others fail until it tells, or is lost."""
    circuit, _ = opened(open=10.0)
    assert circuit.go(10.0, 1) == "half-open"

    assert [circuit.wait(10.0, thread) for thread in (1, 2)] == [None, 0.0]
    assert circuit.wait(19.9, 2) == 0.0
    assert circuit.wait(20.0, 2) is None  # lost: its thread was interrupted somewhere
    assert circuit.go(20.0, 2) == ""
    assert circuit.settle(True, 10.0, 21.0, 1) == ""  # not the probe any more
    assert circuit.settle(True, 20.0, 21.0, 2) == "closed"


def test_a_probe_that_tells_nothing_is_followed_by_another() -> None:
    """Neither open nor closed by it."""
    circuit, _ = opened(open=10.0)
    circuit.go(10.0, 1)

    assert circuit.settle(None, 10.0, 11.0, 1) == ""
    assert circuit.state(11.0) == "half-open"
    assert circuit.wait(11.0, 2) is None


def test_late_outcomes_do_not_count() -> None:
    """Requests that were under way when it opened say nothing: while it is open, or when it has closed again."""
    circuit, _ = opened(open=10.0)
    assert circuit.settle(True, 0.0, 1.0, 2) == circuit.settle(False, 0.0, 1.0, 2) == ""
    assert circuit.state(1.0) == "open"
    circuit.go(10.0, 1)
    assert circuit.settle(False, 0.0, 10.5, 2) == ""
    assert circuit.settle(True, 10.0, 11.0, 1) == "closed"
    for thread in range(2, 40):
        assert circuit.settle(False, 0.0, 12.0, thread) == ""

    assert circuit.state(12.0) == "closed"


@pytest.mark.parametrize(
    ("outcome", "opens"),
    [
        *((status, True) for status in (500, 502, 503, 504)),
        *((status, False) for status in (200, 301, 404, 429, 501)),
        *((error, True) for error in (BAD, ConnectionBroken("x"), ReadTimeout("x"), ConnectTimeout("x"))),
        (ChunkedEncodingError("x"), True),
        *((error, False) for error in (PoolTimeout("x"), PoolClosed("x"), ThrottleTimeout("x"), CircuitOpenError("x"))),
        *((error, False) for error in (ContentDecodingError("x"), KeyboardInterrupt(), ValueError(), None)),
    ],
)
def test_what_is_a_failure(outcome: Any, opens: bool) -> None:
    """What the host or the way to it did; not what the pool or the caller did."""
    setup = Setup(circuit=CircuitBreaker(failures=1))
    setup.ask(outcome)

    assert setup.state().circuit == ("open" if opens else "closed")
    assert setup.told.events == ([("circuit", H, "open")] if opens else [])


def test_a_circuit_from_the_first_failure_to_the_last_probe() -> None:
    """Open: fails at once; half-open: a bad probe opens it again, for longer; a good one closes it."""
    setup = Setup(circuit=CircuitBreaker(failures=2))
    for _ in range(2):
        setup.ask(BAD)
    with pytest.raises(
        CircuitOpenError, match=r"^http://a:80 has failed too often .* for another \d+(\.\d)? s$"
    ) as first:
        setup.enter()
    setup.clock.advance(first.value.seconds)
    setup.ask(503)
    with pytest.raises(CircuitOpenError) as second:
        setup.enter()
    setup.clock.advance(second.value.seconds)
    setup.ask(200)
    setup.ask(200)

    assert 24 <= first.value.seconds <= 30
    assert 48 <= second.value.seconds <= 60
    assert [event[2] for event in setup.told.events] == ["open", "half-open", "open", "half-open", "closed"]


@pytest.mark.usefixtures("switch_interval")
def test_of_many_threads_one_is_the_probe() -> None:
    """Thirty at the half-open circuit: one goes, the others fail at once and are told why."""
    setup = Setup(circuit=CircuitBreaker(failures=1))
    setup.ask(BAD)
    setup.clock.advance(30.0)
    together = threading.Barrier(30)

    def probe() -> None:
        together.wait(20)
        setup.enter()
        together.wait(20)  # until all others have failed: the probe is still out

    calls = [in_thread(probe) for _ in range(30)]
    eventually(lambda: sum(call.is_done for call in calls) == 29)
    together.abort()
    errors = Counter(type(call.join().error) for call in calls)

    assert errors == {CircuitOpenError: 29, threading.BrokenBarrierError: 1}
    assert {call.error.seconds for call in calls if isinstance(call.error, CircuitOpenError)} == {1.0}


class Breaking(Told):
    """Raises when the probe is told of: as an interrupt would, just then."""

    def circuit(self, host: str, state: str) -> None:
        super().circuit(host, state)
        if state == "half-open" and self.events.count(("circuit", host, state)) == 1:
            raise Interrupt


def test_an_interrupt_gives_the_probe_back() -> None:
    """Whoever is interrupted on the way out of `enter` keeps no probe from the others."""
    setup = Setup(circuit=CircuitBreaker(failures=1))
    told = setup.told = Breaking()
    setup.hosts._watch = Watch(told)
    setup.ask(BAD)
    setup.clock.advance(30.0)
    with pytest.raises(Interrupt):
        setup.enter()

    with in_thread(setup.enter) as other:
        pass
    assert other.error is None


# --- concurrency ---


def steps(ceiling: Ceiling, most: int, moves: str) -> list[int]:
    """The limit after each of: x an overload by a new request, o one by a request that began before, a dot: good."""
    limits, began = [], 0.0
    for now, move in enumerate(moves, 1):
        if move == ".":
            ceiling.grow()
        else:
            began = now - 0.5 if move == "x" else began
            ceiling.halve(1, began, now)
        limits.append(ceiling.allowed(most))
    return limits


@pytest.mark.parametrize(
    ("most", "moves", "limits"),
    [
        (8, "x", [4]),
        (8, "xxxx", [4, 2, 1, 1]),
        (8, "xooo", [4, 4, 4, 4]),  # one round
        (9, "x....", [4, 4, 4, 4, 5]),
        (5, "x" + "." * 9, [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]),
        (5, "....x", [5, 5, 5, 5, 2]),
        (1, "x..", [1, 1, 1]),
    ],
)
def test_the_limit_halves_and_grows(most: int, moves: str, limits: list[int]) -> None:
    """Halved once a round; one more for as many good answers as it is high; never beyond what `Limits` allows."""
    ceiling = Ceiling()
    ceiling.allowed(most)

    assert steps(ceiling, most, moves) == limits


def test_a_host_that_is_back_starts_slowly() -> None:
    """One, and twice as many with each good answer."""
    ceiling = Ceiling()
    ceiling.allowed(32)
    ceiling.start_slowly()

    assert ceiling.allowed(32) == 1
    assert steps(ceiling, 32, "......") == [2, 4, 8, 16, 32, 32]


@pytest.mark.parametrize(("outcome", "limit"), [(200, 2), (404, 2), (500, 1), (BAD, 1), (429, 1), (None, 1)])
def test_what_lets_a_limit_grow(outcome: Any, limit: int) -> None:
    """An answer that is neither a failure nor a refusal."""
    setup = Setup(circuit=CircuitBreaker(failures=2))
    for _ in range(2):
        setup.ask(BAD)
    setup.clock.advance(30.0)
    setup.ask(200)
    setup.ask(outcome)

    assert setup.hosts.allowed(H, 32) == limit


def test_an_overload_ends_the_slow_start() -> None:
    """From half of what was too much it grows by one at a time."""
    ceiling = Ceiling()
    ceiling.allowed(32)
    ceiling.start_slowly()

    assert steps(ceiling, 32, "...x....") == [2, 4, 8, 4, 4, 4, 4, 5]


def test_what_limits_allow_may_change_meanwhile() -> None:
    """It never gets more than that, and grows to the new one."""
    ceiling = Ceiling()
    ceiling.allowed(8)
    ceiling.halve(1, 1.0, 1.0)

    assert [ceiling.allowed(3), ceiling.allowed(8), ceiling.limit] == [3, 8, None]


@pytest.mark.parametrize(
    ("outcome", "limit"),
    [
        (429, 16),
        (503, 16),
        (ReadTimeout("x"), 16),
        (ConnectTimeout("x"), 16),
        (500, 32),
        (BAD, 32),
        (200, 32),
        (None, 32),
    ],
)
def test_what_is_an_overload(outcome: Any, limit: int) -> None:
    """A host that says so, or that is too slow to answer; the gate is told to ask again."""
    setup = Setup(concurrency=AdaptiveConcurrency())
    setup.enter()
    setup.clock.advance(1.0)
    before = len(setup.relimited)
    setup.hosts.leave(H, outcome, 0.5, None)

    assert setup.hosts.allowed(H, 32) == limit
    assert len(setup.relimited) - before == (limit != 32)


def test_the_limit_does_not_fall_below_the_least() -> None:
    """`least` connections stay."""
    setup = Setup(concurrency=AdaptiveConcurrency(least=5))
    for _ in range(8):
        setup.clock.advance(1.0)
        setup.ask(429)

    assert setup.state().limit == setup.hosts.allowed(H, 32) == 5


def test_without_a_part_for_it_the_limit_is_what_it_was() -> None:
    """Nobody asked for it, so nothing is lowered."""
    setup = Setup(rate=RateLimit(rate=1000.0))
    for _ in range(3):
        setup.ask(503)

    assert setup.hosts.allowed(H, 32) == 32
    assert setup.relimited == []


def test_a_closed_circuit_lets_the_host_start_slowly() -> None:
    """So that it is not overrun by all that wanted it meanwhile, when it has just come back."""
    setup = Setup(circuit=CircuitBreaker(failures=1))
    setup.ask(BAD)
    setup.clock.advance(30.0)
    limits = []
    for _ in range(7):
        setup.ask(200)
        limits.append(setup.hosts.allowed(H, 32))

    assert limits == [1, 2, 4, 8, 16, 32, 32]
    assert setup.state().limit is None


# --- what hosts say ---


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([], None),
        (["Retry-After: 120"], 120.0),
        (["retry-after:7"], 7.0),
        (["Retry-After: 0"], 0.0),
        (["Retry-After: 007"], 7.0),
        (["Retry-After: Fri, 15 Jan 2027 08:00:30 GMT"], 30.0),
        (["Retry-After: Friday, 15-Jan-27 08:00:30 GMT"], 30.0),
        (["Retry-After: Fri Jan 15 08:00:30 2027"], 30.0),
        (["Retry-After: Fri, 15 Jan 2027 07:00:00 GMT"], 0.0),  # past
        (["Date: Fri, 15 Jan 2027 09:00:00 GMT", "Retry-After: Fri, 15 Jan 2027 09:00:05 GMT"], 5.0),  # skewed
        (["Date: Fri, 15 Jan 2027 06:00:00 GMT", "Retry-After: Fri, 15 Jan 2027 06:00:05 GMT"], 5.0),
        (["Date: nonsense", "Retry-After: Fri, 15 Jan 2027 08:00:05 GMT"], 5.0),
        (["Retry-After: Fri, 15 Jan 2097 08:00:30 GMT"], LONGEST),
        (["Retry-After: 99999999999"], LONGEST),
        (["Retry-After: " + "9" * 1500], LONGEST),
        *(([f"Retry-After: {text}"], None) for text in ("-1", "+5", "1.5", "soon", "5 s", "0x10", "1e3", "30, 60", "")),
        (["Retry-After: \xb2"], None),
        (["Retry-After: " + "9" * 5000], None),
        (["X-Retry-After: 5"], None),
        (["Retry-After: 30", "Retry-After: 60"], None),
    ],
)  # fmt: skip
def test_retry_after(fields: list[str], seconds: float | None) -> None:
    """RFC 9110 §10.2.3: seconds or a date, by the server's own clock where it shows it; nonsense is as none."""
    assert retry_after(head(429, *fields), WALL) == seconds


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([], None),
        (['RateLimit: "default";r=0;t=30'], 30.0),
        (['RateLimit: "default"; r=0; t=30'], 30.0),
        (['RateLimit: "default";t=30;r=0;pk=:cHJlZml4:'], 30.0),
        (["RateLimit: default;r=0;t=30"], 30.0),
        (['RateLimit: "default";r=1;t=30'], None),
        (['RateLimit: "default";r=10;t=30'], None),
        (['RateLimit: "a";r=0;t=30, "b";r=0;t=60, "c";r=5;t=90'], 60.0),
        (['RateLimit: "a";r=5;t=30', 'RateLimit: "b";r=0;t=60'], 60.0),
        (['RateLimit: "a,b;r=0;t=9";r=5;t=30'], None),  # within quotes
        (['RateLimit: "a";r=0', 'RateLimit-Policy: "b";q=1;w=9, "a";q=100;w=60'], 60.0),  # its whole window, at most
        (['RateLimit: "a";r=0'], None),
        (['RateLimit: "a";r=0;t=0'], None),
        (['RateLimit: "a";r=0;t=-5'], None),
        (['RateLimit: "a";r=0;t=1.5'], None),
        (['RateLimit-Policy: "a";q=100;w=60'], None),
        (["RateLimit: limit=100, remaining=0, reset=50"], 50.0),  # the seventh draft
        (["RateLimit: limit=100, remaining=7, reset=50"], None),
        (["RateLimit-Limit: 100", "RateLimit-Remaining: 0", "RateLimit-Reset: 50"], 50.0),  # until the sixth
        (["RateLimit-Remaining: 3", "RateLimit-Reset: 50"], None),
        (["RateLimit-Remaining: 0", "RateLimit-Reset: 1800000050"], None),  # an instant, not seconds
        (["X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 50"], None),
        (['RateLimit: "' + '\\"' * 100_000 + ";r=0;t=30"], None),  # and it takes no time
    ],
)
def test_what_is_left_of_a_quota(fields: list[str], seconds: float | None) -> None:
    """The IETF draft, old and new: with nothing left, how long until there is."""
    assert quota_reset(head(200, *fields)) == seconds


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
def test_no_field_raises_anything(value: str) -> None:
    """Whatever a server writes."""
    said = head(429, f"Retry-After: {value}", f"RateLimit: {value}", f"RateLimit-Policy: {value}", f"Date: {value}")
    for seconds in (retry_after(said, WALL), quota_reset(said)):
        assert seconds is None or 0 <= seconds <= LONGEST


# --- cool-down ---


@pytest.mark.parametrize(
    ("status", "fields", "asked", "cooled"),
    [
        (429, ["Retry-After: 30"], 30.0, "429 Retry-After"),
        (503, ["Retry-After: 30"], 30.0, "503 Retry-After"),
        (429, ['RateLimit: "a";r=0;t=30'], 30.0, "429 RateLimit"),
        (429, ["Retry-After: 30", 'RateLimit: "a";r=0;t=99'], 30.0, "429 Retry-After"),
        (429, ["Retry-After: 0", 'RateLimit: "a";r=0;t=99'], 0.0, None),
        (413, ["Retry-After: 30"], 30.0, None),
        (429, ["Retry-After: 3600"], 3600.0, "429 Retry-After"),
        (429, [], None, None),
        (200, ["Retry-After: 30"], None, None),
        (200, ['RateLimit: "a";r=0;t=30'], None, "200 RateLimit"),
    ],
)
def test_what_cools_a_host_down(status: int, fields: list[str], asked: float | None, cooled: str | None) -> None:
    """Retry-After with a refusal, before RateLimit; an empty quota also without one; never for longer than is set."""
    setup = Setup(cool_down_max=200.0)
    assert not setup.hosts.watching
    setup.hosts.heard(H, head(status, *fields))
    length = min(asked or 30.0, 200.0)

    assert advised(head(status, *fields), WALL) == asked
    assert setup.hosts.watching is bool(cooled)
    assert setup.told.events == ([("cooled", H, length, cooled)] if cooled else [])
    assert length <= setup.enter(patience=999.0) <= length + 10 if cooled else setup.enter() == 0.0


def test_a_cool_down_that_nobody_wants() -> None:
    """With `cool_down=False` nobody is kept."""
    setup = Setup(cool_down=False)
    setup.hosts.heard(H, head(429, "Retry-After: 30"))

    assert setup.enter() == 0.0
    assert not setup.hosts.watching


@pytest.mark.parametrize("left", [29.0, 1.0, 0.5, 0.001])
def test_nobody_is_early_by_however_little(left: float) -> None:
    """Whoever comes when nearly all of it is over waits for the rest."""
    setup = Setup()
    setup.hosts.heard(H, head(429, "Retry-After: 30"))
    setup.clock.advance(30.0 - left)

    assert setup.enter() >= 30.0


def test_a_cool_down_is_never_shortened() -> None:
    """Whoever asks for less later is not heard; who asks for more is."""
    setup = Setup()
    for seconds in (30, 10, 30, 40):
        setup.hosts.heard(H, head(429, f"Retry-After: {seconds}"))

    assert setup.state().cool_down == 40.0
    assert [event[2] for event in setup.told.events] == [30.0, 40.0]


@pytest.mark.parametrize(("length", "over"), [(0.1, 1.0), (4.0, 1.0), (20.0, 5.0), (40.0, 10.0), (3600.0, 10.0)])
def test_over_how_long_a_release_is_spread(length: float, over: float) -> None:
    """A quarter of the cool-down, between one second and ten."""
    assert spread(length) == over


def test_too_long_for_the_policy() -> None:
    """It fails at once, with the seconds; no deadline is to blame."""
    setup = Setup()
    setup.hosts.heard(H, head(429, "Retry-After: 90"))
    with pytest.raises(
        CoolDownTimeout,
        match=r"^http://a:80 asked to be left alone for another 90 s, longer .* \(RetryPolicy.retry_after_max=60 s\)$",
    ) as caught:
        setup.enter(patience=60.0, deadline=within(30.0))

    assert (caught.value.seconds, caught.value.stage, setup.clock.now()) == (90.0, "", 0.0)


@pytest.mark.parametrize("seconds", [10.0, 9.0])
def test_too_long_for_the_deadline(seconds: float) -> None:
    """It fails at once, and the deadline names the stage."""
    setup = Setup()
    setup.hosts.heard(H, head(429, "Retry-After: 10"))
    with pytest.raises(CoolDownTimeout, match=r"beyond Timeout.total=.* in stage 'cool-down'") as caught:
        setup.enter(deadline=within(seconds))

    assert (caught.value.seconds, caught.value.stage, setup.clock.now()) == (10.0, "cool-down", 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_spread_leaves_time_before_the_deadline(seed: int) -> None:
    """Half of what the deadline leaves after the cool-down is the request's own."""
    random.seed(seed)
    setup = Setup()
    setup.hosts.heard(H, head(429, "Retry-After: 10"))

    assert 10.0 <= setup.enter(deadline=within(10.5)) <= 10.25


def test_a_cool_down_that_goes_on_is_waited_for_no_longer_than_patience() -> None:
    """Each look takes what was waited already into account, so that a host cannot keep a request for ever."""
    setup = Setup()
    again = head(429, "Retry-After: 20")
    setup.hosts.heard(H, again)
    sleep = setup.sleepers.sleep

    def sleep_and_hear(until: float) -> None:
        sleep(until)
        setup.hosts.heard(H, again)

    setup.sleepers.sleep = sleep_and_hear  # type: ignore[method-assign]
    with pytest.raises(CoolDownTimeout):
        setup.enter(patience=60.0)

    assert 40 <= setup.clock.now() <= 60


class SteppedClock(FakeClock):
    """A clock that stands still until told to move, and knows until when each who waits on it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[int, float] = {}  # by thread

    def wait(self, baton: Baton, until: float) -> bool:
        self.waiting[get_ident()] = until
        try:
            return super().wait(baton, until)
        finally:
            del self.waiting[get_ident()]

    def run(self, calls: list[InThread[None]], step: float) -> None:
        """Move on in steps until all calls have ended; with each step all go as far as they can."""

        def settled() -> bool:
            waiting = list(self.waiting.values())
            return len(waiting) + sum(call.is_done for call in calls) == len(calls) and min(waiting, default=1e9) > now

        now = self.now()
        eventually(settled)
        while self.waiting:
            self.advance(step)
            now = self.now()
            eventually(settled)


@pytest.mark.usefixtures("switch_interval")
def test_slots_that_pass_in_a_cool_down_are_not_used_all_at_once() -> None:
    """Who had one when a cool-down came takes another after it: the rate holds when it is over, too."""
    clock = SteppedClock()
    setup = Setup(clock, rate=RateLimit(rate=1.0))
    gone: list[float] = []
    calls = [in_thread(lambda: gone.append(setup.enter())) for _ in range(8)]
    eventually(lambda: len(clock.waiting) == 7)
    setup.hosts.heard(H, head(429, "Retry-After: 20"))
    clock.run(calls, 0.5)
    later = sorted(gone)[1:]

    assert later[0] >= 20.0
    assert max(Counter(later).values()) == 1
    assert later[-1] - later[0] >= 5.5  # the clock moves by halves


@pytest.mark.usefixtures("switch_interval")
def test_fifty_threads_in_a_cool_down() -> None:
    """None is early, all get through, and they are spread over a while, not one spike."""
    clock = SteppedClock()
    setup = Setup(clock)
    setup.hosts.heard(H, head(429, "Retry-After: 30"))
    gone: list[float] = []
    calls = [in_thread(lambda: gone.append(setup.enter())) for _ in range(50)]
    eventually(lambda: len(clock.waiting) == 50)
    clock.advance(29.75)
    assert not gone
    clock.run(calls, 0.25)

    assert len(gone) == 50
    assert min(gone) >= 30.0
    assert max(gone) <= 37.75
    assert max(Counter(gone).values()) <= 15  # of thirty quarters of a second; on average 1.7 go in each
    assert len(setup.told.events) == 51


def test_closing_the_pool_ends_the_wait() -> None:
    """Nobody sleeps on; what was waited for is named by the error's own words."""
    clock = WatchedClock()
    setup = Setup(clock)
    setup.hosts.heard(H, head(429, "Retry-After: 30"))
    with in_thread(setup.enter) as call:
        eventually(lambda: clock.waiters == 1)
        setup.sleepers.close("pool was closed")

    assert isinstance(call.error, PoolClosed)


def test_who_wakes_looks_again() -> None:
    """A circuit that opened while it slept keeps it from the host."""
    clock = WatchedClock()
    setup = Setup(clock, circuit=CircuitBreaker(failures=1, open=100.0))
    setup.hosts.heard(H, head(429, "Retry-After: 10"))
    with in_thread(setup.enter) as call:
        eventually(lambda: clock.waiters == 1)
        setup.hosts.leave(H, BAD, 0.0, None)
        clock.advance(15.0)

    assert isinstance(call.error, CircuitOpenError)


# --- the budget of a host ---


def test_a_hosts_budget() -> None:
    """From its first retry on its requests are counted; other hosts have their own."""
    setup = Setup()
    taken = 0
    assert setup.hosts.may_retry(H, 0.2)
    assert setup.hosts.watching
    for _ in range(101):
        setup.enter()
    while setup.hosts.may_retry(H, 0.2):
        taken += 1

    assert taken == FLOOR - 1 + 20
    assert setup.state().budget == 0
    assert setup.hosts.may_retry("other", 0.2)


def test_no_budget_is_no_bound() -> None:
    """And costs no state."""
    setup = Setup()

    assert all(setup.hosts.may_retry(H, None) for _ in range(100))
    assert not setup.hosts.watching


# --- the table ---


@pytest.mark.parametrize("reason", ["cool-down", "retry"])
def test_when_nothing_matters_any_more_nobody_asks(reason: str) -> None:
    """A cool-down that is over and retries of long ago are forgotten, and requests cost nothing again."""
    setup = Setup()
    if reason == "retry":
        setup.hosts.may_retry(H, 0.2)
    else:
        setup.hosts.heard(H, head(429, "Retry-After: 11"))
    setup.enter("other")
    watched = setup.hosts.watching
    setup.clock.advance(11.0)
    setup.enter("other")

    assert (watched, setup.hosts.watching) == (True, False)
    assert setup.hosts.books(setup.clock.now()) == {}


@pytest.mark.parametrize(
    "parts",
    [
        {"rate": RateLimit(rate=1.0)},
        {"throttle": AutoThrottle()},
        {"concurrency": AdaptiveConcurrency()},
        {"circuit": CircuitBreaker()},
    ],
)
def test_what_was_asked_for_is_always_watched(parts: dict[str, Any]) -> None:
    """From the first request on, and after any time."""
    setup = Setup(**parts)
    assert setup.hosts.watching
    setup.enter()
    setup.clock.advance(10_000.0)
    setup.enter()

    assert setup.hosts.watching
    assert H in setup.hosts.books(setup.clock.now())


def test_a_pace_is_not_forgotten_by_time() -> None:
    """A Crawl-delay holds for as long as the host is in the table."""
    setup = Setup()
    setup.hosts.pace(H, 0.1)
    setup.enter()
    setup.clock.advance(1000.0)

    assert setup.enter() == 1000.0
    assert setup.enter() == 1010.0


def test_of_many_hosts_those_asked_last_are_known() -> None:
    """A crawler of 12,000 hosts keeps the newest 10,000, and the one that it asks again and again."""
    setup = Setup(rate=RateLimit(rate=1000.0))
    setup.hosts.pace("first", 1.0)
    for number in range(12_000):
        setup.enter(f"h{number}")
        if number % 5000 == 0:
            setup.enter("first")
    known = setup.hosts.books(setup.clock.now())

    assert len(known) == 10_000
    assert known["first"].interval == 1.0  # never forgotten and begun anew
    assert list(known)[-1] == "h11999"
    assert "h2000" not in known


def test_a_host_may_be_forgotten_while_its_probe_is_out() -> None:
    """Its outcome then counts for a host that nothing is known of."""
    setup = Setup(circuit=CircuitBreaker(failures=1), hosts=1)
    setup.ask(BAD)
    setup.clock.advance(30.0)
    setup.enter()
    setup.enter("other")
    setup.hosts.leave(H, 200, setup.clock.now(), None)

    assert list(setup.hosts.books(0.0)) == [H]
    assert setup.state().circuit == "closed"


def test_what_is_shown_of_a_host() -> None:
    """Everything that keeps a request from it."""
    setup = Setup(rate=RateLimit(rate=2.0), circuit=CircuitBreaker(failures=1), concurrency=AdaptiveConcurrency())
    setup.enter()
    setup.clock.advance(1.0)
    setup.hosts.leave(H, 503, 0.5, None)
    setup.hosts.heard(H, head(503, "Retry-After: 30"))
    setup.hosts.may_retry(H, 0.2)

    assert setup.state() == HostState(cool_down=30.0, circuit="open", interval=0.5, limit=1, budget=FLOOR - 1)


def test_a_forked_process_knows_the_hosts_and_holds_no_probe() -> None:
    """What a host asked for holds there too; the parent's thread with the probe is not there to give it back."""
    setup = Setup(circuit=CircuitBreaker(failures=1))
    setup.hosts.heard("cool", head(429, "Retry-After: 55"))
    setup.ask(BAD)
    setup.clock.advance(30.0)
    in_thread(setup.enter).get()
    with pytest.raises(CircuitOpenError):
        setup.enter()
    setup.hosts._lock.acquire()  # whoever held it at the fork is not there either
    setup.hosts.restart()

    assert setup.enter() == 30.0
    assert setup.state("cool").cool_down == 25.0


@pytest.mark.usefixtures("switch_interval")
def test_any_use_by_eight_threads() -> None:
    """Everything at once and at random: no error but those told of, no state beyond the bound, no lock held."""
    setup = Setup(
        rate=RateLimit(rate=50.0, burst=3),
        throttle=AutoThrottle(start=0.0, most=0.1),
        concurrency=AdaptiveConcurrency(),
        circuit=CircuitBreaker(failures=3, open=0.5, most=1.0),
        hosts=3,
    )
    refused = head(429, "Retry-After: 1")

    def use(seed: int) -> Counter[str]:
        rng, seen = random.Random(seed), Counter[str]()
        for _ in range(300):
            host, outcome = rng.choice("abcd"), rng.choice([200, 200, 200, 503, 429, BAD, ReadTimeout("x"), None])
            began = setup.clock.now()
            try:
                setup.hosts.enter(host, 2.0, within(rng.choice([1.0, 5.0]), began))
            except (CircuitOpenError, CoolDownTimeout, ThrottleTimeout) as error:
                seen[type(error).__name__] += 1
                setup.clock.advance(0.1)
                continue
            seen["went"] += 1
            setup.hosts.leave(host, outcome, began, rng.random())
            if outcome == 429:
                setup.hosts.heard(host, refused)
            if rng.random() < 0.1:
                setup.hosts.may_retry(host, 0.2)
            assert 1 <= setup.hosts.allowed(host, 8) <= 8
        return seen

    calls: list[Callable[[], Counter[str]]] = [in_thread(use, seed).get for seed in range(8)]
    seen = sum((call() for call in calls), Counter[str]())

    assert seen.total() == 2400
    assert seen["went"] > 100
    assert seen["CircuitOpenError"] > 0
    assert len(setup.hosts.books(0.0)) == 3
    assert not setup.hosts._lock.locked()
