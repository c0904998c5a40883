"""What is known of each host, and when it may be asked next.

A host is protected by several parts, each a small class here that is told the time and decides: the cool-down that it
asked for itself, a pace (rate limit, AutoThrottle, Crawl-delay), a circuit breaker, a limit on its connections, and a
budget for retries. `Hosts` keeps them, in one table under one lock; whoever has to wait waits outside it, and looks
again when it wakes, for much may have happened meanwhile.

What holds (`tests/test_governor.py`):

1.  No request goes to a host before its cool-down is over; those that waited for that go spread over a while.
2.  In no window of `w` seconds more than `burst + rate * w` requests go, for each rate that is set for the host.
3.  In the ten seconds that end with a retry there are at most `ratio` x requests + 10 retries of a host, requests of
    those same ten seconds, retries not counted.
4.  While a circuit is open no request goes; when its time is over, one at a time until one is answered well.
5.  Of the hosts the table holds those asked last, and never more than `Governor.hosts`.

The gate asks for a host's limit under its own lock, so that lock is taken before this one, and never within it.
"""

from __future__ import annotations

import math
import random
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Final, NamedTuple

import attrs

from sessionpool._clock import NEVER, Clock, Deadline, seconds
from sessionpool._config import AutoThrottle, CircuitBreaker, Governor
from sessionpool._observer import Watch
from sessionpool._sleep import Sleepers
from sessionpool._wire import Head
from sessionpool.cookies import parse_date
from sessionpool.exceptions import (
    ChunkedEncodingError,
    CircuitOpenError,
    ConnectionError,
    ConnectTimeout,
    CoolDownTimeout,
    PoolError,
    ReadTimeout,
    ThrottleTimeout,
    Timeout,
)

REFUSED: Final = frozenset({429, 503})
# Those with which Retry-After means when to send the request again (RFC 9110 §15.5.14 for 413, which is not the host's
# state but that request's).
ADVISED: Final = REFUSED | {413}
FAILED: Final = frozenset({500, 502, 503, 504})
# Where a call's time goes into what the host does; the others are ours.
_HOSTS_STAGES: Final = ("connect", "tls", "send", "head", "body")
# Longer than a day is no pause but a refusal, or a mistake; and every policy's patience ends before.
LONGEST: Final = 86_400.0
# Retries that need no requests: one a second.
FLOOR: Final = 10
BUDGET_SPAN: Final = 10.0


@attrs.frozen
class HostState:
    """What is known of one host at one moment. Immutable.

    Attributes:
        cool_down: Seconds for which it is still left alone, as it asked.
        circuit: closed, open or half-open; empty without a circuit breaker.
        interval: Seconds between its requests, by the strictest of the rates set for it; 0 for none.
        limit: Connections allowed now, if that is fewer than `Limits` allows; `None` if not.
        budget: Retries that may be made now; `None` if none was asked for of late.
    """

    cool_down: float
    circuit: str
    interval: float
    limit: int | None
    budget: int | None


# --- the parts: each is told the time, and confined to whoever holds the lock of `Hosts` ---


class Tally:
    """How often something happened of late, by tenths of a span: what is remembered does not grow."""

    __slots__ = ("_counts", "_width")

    TENTHS: Final = 10

    def __init__(self, span: float) -> None:
        self._width = span / self.TENTHS
        self._counts: deque[tuple[float, int]] = deque()  # tenths, by their number, in which it happened

    def add(self, now: float) -> None:
        """It happened."""
        tenth, counts = now // self._width, self._counts
        before = counts.pop()[1] if counts and counts[-1][0] == tenth else 0
        counts.append((tenth, before + 1))
        while counts[0][0] < tenth - self.TENTHS:
            counts.popleft()

    def count(self, now: float, tenths: int = TENTHS) -> int:
        """How often in so many tenths, the present one, which is not over, included."""
        first = now // self._width - tenths
        return sum(count for tenth, count in self._counts if tenth > first)


class Budget:
    """How many retries there may be, for a share of retries that is given with each."""

    __slots__ = ("_owed", "_ratio", "_requests", "_retries")

    def __init__(self) -> None:
        self._requests = Tally(BUDGET_SPAN)
        self._retries = Tally(BUDGET_SPAN)
        self._owed = 0
        self._ratio = 0.0

    def request(self, now: float) -> None:
        """A request goes; for each retry taken one is not counted, so that retries earn no retries."""
        if self._owed:
            self._owed -= 1
        else:
            self._requests.add(now)

    def take(self, ratio: float, now: float) -> bool:
        """Take one retry, if there may be one more."""
        self._ratio = ratio
        if self.left(now) < 1:
            return False
        self._retries.add(now)
        self.owe()
        return True

    def owe(self) -> None:
        """A retry goes next, which is no request."""
        self._owed += 1

    def left(self, now: float) -> int:
        """How many there may be now."""
        # Not less than ten seconds of retries against not more than ten of requests: the bound errs on one side.
        retries = self._retries.count(now, Tally.TENTHS + 1)
        return max(0, int(FLOOR + self._ratio * self._requests.count(now)) - retries)

    def is_unused(self, now: float) -> bool:
        """Whether no retry was taken of late."""
        return not self._retries.count(now, Tally.TENTHS + 1)


class Schedule:
    """A rate with a burst (GCRA): when may the next request go? Instants given out never come closer than it allows."""

    __slots__ = ("_due", "_pace")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = -math.inf  # when the next would be due if none ever came early

    def earliest(self, now: float) -> float:
        """The next free instant."""
        return max(now, self._due - (self._pace.burst - 1) * self._pace.interval)

    def take(self, at: float) -> None:
        """A request goes at that instant, which is none before `earliest`."""
        self._due = max(self._due, at) + self._pace.interval


class Pace:
    """A rate, kept to twice: by those that set out, and by those that have a connection and are about to be sent.

    The first makes them wait where they hold nothing. The second is for those that were held up on the way, by a host
    that stalls: they would all go at once when it goes on.
    """

    __slots__ = ("begun", "burst", "interval", "sent")

    def __init__(self, interval: float, burst: int = 1) -> None:
        self.interval = interval
        self.burst = burst
        self.begun = Schedule(self)
        self.sent = Schedule(self)


def throttled(settings: AutoThrottle, delay: float, latency: float, *, good: bool) -> float:
    """The pause that follows `delay` after an answer that took so long."""
    target = latency / settings.concurrency
    # At once up and slowly down, as Scrapy does: one quick answer of a host in trouble says little.
    following = max(target, (delay + target) / 2)
    return min(max(following if good else max(delay, following), settings.least), settings.most)


class Circuit:
    """Whether a host is asked at all. Closed until it opens; half-open when its time is over, until a probe tells.

    An outcome counts only if its request began after the circuit closed: those that were under way when it opened come
    in late, and say nothing about the host as it is now.
    """

    __slots__ = ("_closed", "_failed", "_failures", "_half", "_length", "_lost", "_openings", "_requests", "_settings",
                 "_until", "prober")  # fmt: skip

    def __init__(self, settings: CircuitBreaker) -> None:
        self._settings = settings
        self._until: float | None = None  # when its time is over; None: closed
        self._half = False  # a probe has been let through since it opened
        self._closed = -math.inf
        self._length = 0.0  # how long it was to stay open, last time
        self._openings = 0
        self.prober = 0  # the thread whose request is the probe
        self._lost = 0.0  # when that is given up, for its thread may have been interrupted anywhere
        self._forget_outcomes()

    def _forget_outcomes(self) -> None:
        self._failed = 0  # in a row
        self._requests = Tally(self._settings.window)
        self._failures = Tally(self._settings.window)

    def state(self, now: float) -> str:
        """In a word."""
        return "closed" if self._until is None else "open" if now < self._until else "half-open"

    def wait(self, now: float, thread: int) -> float | None:
        """Seconds until it may be tried again; 0 while another's probe is out, `None` if this thread may go now."""
        if self._until is None:
            return None
        if now < self._until:
            return self._until - now
        return None if self.prober in (0, thread) or now >= self._lost else 0.0

    def go(self, now: float, thread: int) -> str:
        """This thread's request goes, as the probe if the circuit is not closed; the state, if that is new."""
        if self._until is None:
            return ""
        self.prober = thread
        self._lost = now + self._settings.open
        half, self._half = self._half, True
        return "" if half else "half-open"

    def settle(self, good: bool | None, began: float, now: float, thread: int) -> str:
        """A request ended well, or badly, or without telling anything (`None`); the state, if that is new."""
        if self._until is not None:
            if self.prober != thread:
                return ""
            self.prober = 0
            return "" if good is None else self._close(now) if good else self._open(now)
        if good is None or began < self._closed:
            return ""
        self._requests.add(now)
        if good:
            self._failed = 0
            return ""
        self._failures.add(now)
        self._failed += 1
        return self._open(now) if self._is_enough(now) else ""

    def _is_enough(self, now: float) -> bool:
        settings = self._settings
        if settings.failures is not None and self._failed >= settings.failures:
            return True
        requests = self._requests.count(now)
        return (
            settings.rate is not None
            and requests >= settings.requests
            and self._failures.count(now) >= settings.rate * requests
        )

    def _open(self, now: float) -> str:
        # A host that has been well for as long as it was left alone begins anew; one that comes and goes does not.
        if self._until is None and now - self._closed >= self._length:
            self._openings = 0
        self._openings += 1
        # Jitter: many processes that lost a host together must not all come back together.
        self._length = min(self._settings.open * self._openings, self._settings.most) * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        self._until = now + self._length
        self._half = False
        return "open"

    def _close(self, now: float) -> str:
        self._until = None
        self._closed = now
        self._forget_outcomes()
        return "closed"


class Ceiling:
    """How many connections a host gets, of those that `Limits` allows: halved and grown as TCP does it (RFC 5681)."""

    __slots__ = ("_doubling", "_good", "_halved", "_told", "limit", "most")

    def __init__(self) -> None:
        self.most: int | None = None  # what `Limits` allows; None: nobody has told yet
        self.limit: int | None = None  # None: all of that
        self._told: int | None = None
        self._doubling = False
        self._good = 0  # answers since the last step
        self._halved = -math.inf

    def allowed(self, most: int) -> int:
        """How many now, where `Limits` allows so many."""
        self.most = most
        if self.limit is not None and self.limit >= most:
            self.limit = None
        self._told = most if self.limit is None else self.limit
        return self._told

    @property
    def is_untold(self) -> bool:
        """The gate does not know: it has not asked yet, or whoever was to tell it was interrupted."""
        return self.most is None or self._told != (self.most if self.limit is None else self.limit)

    def halve(self, least: int, began: float, now: float) -> bool:
        """The host is overloaded, by a request that began then; whether the limit is another now.

        Requests that were under way at the last halving were too many for it then, and say nothing about it now.
        """
        if self.most is None or began <= self._halved:
            return False
        self._halved = now
        self._doubling = False
        self._good = 0
        before = self.most if self.limit is None else self.limit
        if max(before // 2, least) >= before:
            return False
        self.limit = max(before // 2, least)
        return True

    def start_slowly(self) -> None:
        """One connection, and twice as many with each good answer: so that a host that is back is not overrun."""
        self.limit = 1
        self._doubling = True

    def grow(self) -> bool:
        """A good answer came; whether the limit is another now."""
        if self.limit is None or self.most is None:
            return False
        self._good += 1
        if self._doubling:
            self.limit *= 2
        elif self._good < self.limit:
            return False
        else:
            self.limit += 1
        self._good = 0
        if self.limit >= self.most:
            self.limit = None
        return True


def spread(length: float) -> float:
    """Over how many seconds those are released who waited for a cool-down of that length.

    A quarter of what it took to get so many together, but not less than a second, for Retry-After knows only whole
    ones, and not more than ten, for nobody gains by waiting much longer than was asked for.
    """
    return min(max(0.25 * length, 1.0), 10.0)


# --- what hosts say: RFC 9110 §10.2.3, draft-ietf-httpapi-ratelimit-headers ---

_ADVICE = re.compile(
    r"\n(retry-after|date|ratelimit(?:-policy|-remaining|-reset)?)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE
)
_DIGITS = re.compile(r"[0-9]+")
# Longer ones are passed over: a quoted string without an end is looked for from each of its quotes.
LONGEST_FIELD: Final = 2000
# A member of a list: a name, perhaps quoted, or `limit=`, `remaining=`, `reset=` as in the drafts until the seventh.
_MEMBER = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|[^",])+""")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_PARAMETER = re.compile(r"(?:^|[; \t])(r|t|w|remaining|reset)=([0-9]+)(?=[; \t]|$)")


def retry_after(head: Head, wall: float) -> float | None:
    """Seconds that `Retry-After` asks for, `LONGEST` at most; `None` if it is missing or makes no sense.

    `wall`: the present, for a date; but the response's own date is rather taken, for then no two clocks need agree.
    """
    fields = _advice(head)
    value = fields.get("retry-after", "")
    if _DIGITS.fullmatch(value):
        return _seconds(value)
    until = parse_date(value)
    if until is None:
        return None
    own = parse_date(fields.get("date", ""))
    return min(max(until - (wall if own is None else own), 0.0), LONGEST)


def advised(head: Head, wall: float) -> float | None:
    """Seconds that a refusal asks to wait: by `Retry-After`, else by `RateLimit`; `None` for any other response."""
    if head.status not in ADVISED:
        return None
    seconds = retry_after(head, wall)
    return quota_reset(head) if seconds is None else seconds


def quota_reset(head: Head) -> float | None:
    """Seconds until there is something left of a quota that is used up (`RateLimit`); `None` if there is none.

    Of several the last to be restored. More than a day is taken for an instant, as some servers give it, not seconds.
    """
    fields = _advice(head)
    resets = []
    whole = {"remaining": fields.get("ratelimit-remaining", ""), "reset": fields.get("ratelimit-reset", "")}
    windows = {
        _name(member): found["w"]
        for member in _MEMBER.findall(fields.get("ratelimit-policy", ""))
        if "w" in (found := _parameters(member))
    }
    for member in _MEMBER.findall(fields.get("ratelimit", "")):
        found = _parameters(member)
        whole.update(found)
        resets.append((found.get("r", ""), found.get("t", windows.get(_name(member), ""))))
    resets.append((whole["remaining"], whole["reset"]))
    asked = [
        float(reset)
        for remaining, reset in resets
        if _DIGITS.fullmatch(remaining) and not remaining.strip("0") and _DIGITS.fullmatch(reset) and len(reset) <= 15
    ]
    return max((seconds for seconds in asked if 0 < seconds <= LONGEST), default=None)


def _advice(head: Head) -> dict[str, str]:
    """The fields above, by their names in lower case; of several of a name one list (RFC 9110 §5.2)."""
    fields: dict[str, str] = {}
    for name, value in _ADVICE.findall(head.raw):
        key, text = name.lower(), value.strip(" \t")
        fields[key] = f"{fields[key]}, {text}"[: LONGEST_FIELD + 1] if key in fields else text
    return {name: value for name, value in fields.items() if len(value) <= LONGEST_FIELD}


def _name(member: str) -> str:
    return member.strip(" \t").partition(";")[0].strip(" \t")


def _parameters(member: str) -> dict[str, str]:
    return dict(_PARAMETER.findall(_QUOTED.sub("", member).strip(" \t")))


def _seconds(digits: str) -> float:
    return min(float(digits), LONGEST) if len(digits) <= 15 else LONGEST


# --- the hosts ---


class _Step(NamedTuple):
    """What a request does next: go, pause until then, or give up."""

    stage: str  # "": go
    until: float = 0.0
    gives_up: bool = False


GO: Final = _Step("")


class Recalled(Exception):
    """A request that has its connection may not go yet: it lets go of that and enters again.

    Attributes:
        slot: The instant reserved for it; `None` if there is none.
    """

    def __init__(self, slot: float | None) -> None:
        self.slot = slot


class _Host:
    """All that is known of one host. Confined to whoever holds the lock of `Hosts`."""

    __slots__ = ("_length", "_settings", "budget", "ceiling", "circuit", "cool_until", "pace", "rate", "throttle")

    def __init__(self, settings: Governor) -> None:
        self.cool_until = -math.inf
        self._length = 0.0  # of the cool-down
        self._settings = settings
        rate, throttle = settings.rate, settings.throttle
        self.rate = None if rate is None else Pace(1 / rate.rate, rate.burst)
        self.throttle = None if throttle is None else Pace(min(max(throttle.start, throttle.least), throttle.most))
        self.pace: Pace | None = None
        self.circuit = None if settings.circuit is None else Circuit(settings.circuit)
        adjusts = settings.concurrency is not None or settings.circuit is not None
        self.ceiling = Ceiling() if adjusts else None
        self.budget: Budget | None = None

    def _paces(self) -> list[Pace]:
        return [pace for pace in (self.rate, self.throttle, self.pace) if pace is not None]

    def next_step(self, now: float, slot: float | None, patience: float, deadline: float) -> _Step:
        """What a request does now that may pause until `deadline`, and `patience` seconds for a cool-down.

        `slot`: the instant that was reserved for it; if there is none and the step is `throttle`, now one is.
        """
        wait = None if self.circuit is None else self.circuit.wait(now, get_ident())
        if wait is not None:
            return _Step("circuit", now + wait, gives_up=True)
        if now < self.cool_until:
            end = self.cool_until
            if end - now > patience or end >= deadline:
                return _Step("cool-down", end, gives_up=True)
            # Half of what the deadline leaves after it, at least, is the request's own.
            return _Step("cool-down", end + random.uniform(0.0, min(spread(self._length), (deadline - end) / 2)))  # noqa: S311 - no secret
        if slot is None:
            slot = _reserve([pace.begun for pace in self._paces()], now, deadline)
        if slot <= now:
            return GO
        return _Step("throttle", slot, gives_up=slot >= deadline)

    def recall(self, now: float, has_slot: bool) -> Recalled | None:
        """Why a request that has its connection does not go now, but has to enter again; `None`: it goes.

        `has_slot`: it has been recalled before, and comes at the instant that it was given then.
        """
        is_open = self.circuit is not None and self.circuit.wait(now, get_ident()) is not None
        if is_open or now < self.cool_until:
            return Recalled(None)
        if not has_slot:
            slot = _reserve([pace.sent for pace in self._paces()], now, math.inf)
            if slot > now:
                return Recalled(slot)
        return None

    def cool(self, seconds: float, now: float) -> bool:
        """Leave it alone for so long; false if it is left alone for as long already."""
        if now + seconds <= max(self.cool_until, now):
            return False
        self.cool_until, self._length = now + seconds, seconds
        return True

    def learn(
        self, outcome: int | BaseException | None, began: float, latency: float | None, now: float
    ) -> tuple[str, bool]:
        """A request has ended: the circuit's state, if that is new, and whether the limit may be another now."""
        good = _verdict(outcome)
        told = "" if self.circuit is None else self.circuit.settle(good, began, now, get_ident())
        status = outcome if isinstance(outcome, int) else 0
        if self.throttle is not None and latency is not None:
            assert self._settings.throttle is not None
            fine = 200 <= status < 400
            self.throttle.interval = throttled(self._settings.throttle, self.throttle.interval, latency, good=fine)
        if self.ceiling is None:
            return told, False
        if told == "open":
            self.ceiling.start_slowly()  # now, when nothing goes, and not when it closes and everybody comes
            return told, True
        if self.circuit is not None and (told or self.circuit.state(now) != "closed"):
            return told, False
        is_late = isinstance(outcome, (ReadTimeout, ConnectTimeout)) and _is_the_hosts_fault(outcome)
        if status in REFUSED or is_late:
            concurrency = self._settings.concurrency
            return told, concurrency is not None and self.ceiling.halve(concurrency.least, began, now)
        return told, bool(good) and self.ceiling.grow()

    def is_over(self, now: float) -> bool:
        """Whether it may be forgotten: nothing that is known of it matters any more."""
        return now >= self.cool_until and self.pace is None and (self.budget is None or self.budget.is_unused(now))

    def books(self, now: float) -> HostState:
        """All of it, for whoever looks."""
        return HostState(
            cool_down=max(self.cool_until - now, 0.0),
            circuit="" if self.circuit is None else self.circuit.state(now),
            interval=max((pace.interval for pace in self._paces()), default=0.0),
            limit=None if self.ceiling is None else self.ceiling.limit,
            budget=None if self.budget is None else self.budget.left(now),
        )


def _reserve(schedules: list[Schedule], now: float, deadline: float) -> float:
    """The next instant that is free in all of them, taken unless the deadline passes before."""
    slot = max((schedule.earliest(now) for schedule in schedules), default=now)
    if slot <= now or slot < deadline:
        for schedule in schedules:
            schedule.take(slot)
    return slot


def _verdict(outcome: int | BaseException | None) -> bool | None:
    """Whether the host did well; `None` if this tells nothing about it."""
    if isinstance(outcome, int):
        return outcome not in FAILED
    broke = isinstance(outcome, (ConnectionError, ReadTimeout, ChunkedEncodingError))
    return False if broke and not isinstance(outcome, PoolError) and _is_the_hosts_fault(outcome) else None


def _is_the_hosts_fault(outcome: BaseException | int | None) -> bool:
    """Whether a time-out is the host's: where the call's own deadline passed, if the host had most of the time."""
    if not isinstance(outcome, Timeout) or not outcome.stage:
        return True
    return 2 * sum(outcome.stages.get(stage, 0.0) for stage in _HOSTS_STAGES) >= sum(outcome.stages.values())


class Hosts:
    """The hosts of one pool. Thread-safe.

    A host is named by its route's key: `scheme://host:port`, and the proxy.

    Attributes:
        watching: There may be something to wait for, so `enter` is to be called. Read without a lock, at each request.
    """

    def __init__(
        self,
        settings: Governor,
        clock: Clock,
        sleepers: Sleepers,
        watch: Watch,
        relimit: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sleepers = sleepers
        self._watch = watch
        self._relimit = relimit
        self._adjusts = settings.concurrency is not None or settings.circuit is not None
        self._learns = self._adjusts or settings.throttle is not None
        # With one of those every host has a state from its first request on; without, only those that gave a reason.
        self._opted = self._learns or settings.rate is not None
        self.watching = self._opted
        self._lock = threading.Lock()
        self._table: OrderedDict[str, _Host] = OrderedDict()  # the one asked longest ago first

    def enter(self, host: str, limit: float, deadline: Deadline, recalled: Recalled | None = None) -> bool:
        """Wait until a request may go to this host, for its cool-down `limit` seconds at most.

        Whoever has come through calls `check` when it has a connection, and `leave` from the same thread when the
        request has ended, however it has. `recalled`: what `check` raised, if it enters again. True if it comes at the
        instant that was reserved for it then.

        Raises:
            CircuitOpenError: The host is left alone, for it keeps failing.
            CoolDownTimeout: Its cool-down is too long.
            ThrottleTimeout: Its rate limit has no place before the deadline; none was taken.
            PoolClosed: The pool was closed meanwhile.
        """
        slot = None if recalled is None else recalled.slot
        has_slot = slot is not None
        told, untold, patience = "", False, limit
        try:
            while True:
                with self._lock:
                    now = self._clock.now()
                    state = self._find(host, make=self._opted)
                    if not self._opted:
                        self._forget_oldest_if_over(now)
                    if state is None:
                        return False
                    step = state.next_step(now, slot, patience, deadline.at)
                    if step is GO:
                        if state.circuit is not None:
                            told = state.circuit.go(now, get_ident())
                        if state.budget is not None and recalled is None:
                            state.budget.request(now)
                        untold = state.ceiling is not None and state.ceiling.is_untold
                        break
                if step.gives_up:
                    self._watch.tell("denied", host, step.stage)
                    raise _refusal(host, step, limit, limit - patience, deadline, now)
                if step.stage == "throttle":
                    slot = step.until
                else:
                    # A slot that passes in a cool-down is lost: those who had one would all go when that is over.
                    slot, has_slot = None, False
                    patience -= step.until - now
                if deadline is not NEVER:
                    deadline.enter(step.stage, now)
                self._sleepers.sleep(step.until)
                self._watch.tell("throttled", host, self._clock.now() - now)
            if told:
                self._watch.tell("circuit", host, told)
            if untold:
                self._relimit(host)
        except BaseException:
            self._give_back_probe(host)
            raise
        return has_slot

    def check(self, host: str, has_slot: bool) -> None:
        """Raise if a request that has a connection now may not go: much may have happened while it waited for that.

        Raises:
            Recalled: It is to let go of the connection, and to `enter` again.
        """
        with self._lock:
            state = self._table.get(host)
            recalled = None if state is None else state.recall(self._clock.now(), has_slot)
        if recalled is not None:
            raise recalled

    def leave(self, host: str, outcome: int | BaseException | None, began: float, latency: float | None) -> None:
        """A request that `enter` let through has ended; called by the same thread. Raises nothing.

        Args:
            host: Its host.
            outcome: The status, or the error; `None` if it ended in a way that says nothing about the host.
            began: When it began.
            latency: Seconds until the head came, without the wait for a permit; `None` if unknown.
        """
        if not self._learns:
            return
        with self._lock:
            state = self._find(host, make=True)
            assert state is not None
            told, relimits = state.learn(outcome, began, latency, self._clock.now())
        if relimits:
            self._relimit(host)
        if told:
            self._watch.tell("circuit", host, told)

    def heard(self, host: str, head: Head) -> None:
        """Leave the host alone for as long as it asks, if `Governor.cool_down` is set.

        To be called for each response of 429 or 503, before its connection goes back; besides, for each head that is
        `metered`, for a host may say that nothing is left of a quota without refusing anything yet.
        """
        if not self._settings.cool_down or head.status == 413:
            return
        field, seconds = "Retry-After", None
        if head.status in REFUSED:
            seconds = retry_after(head, self._clock.wall())
        if seconds is None:
            field, seconds = "RateLimit", quota_reset(head)
        if not seconds:
            return
        length = min(seconds, self._settings.cool_down_max)
        with self._lock:
            state = self._find(host, make=True)
            assert state is not None
            cooled = state.cool(length, self._clock.now())
        if cooled:
            self._watch.tell("cooled", host, length, f"{head.status} {field}")

    def may_retry(self, host: str, ratio: float | None) -> bool:
        """Take one retry out of the host's budget: a share of its requests, and one a second; `None`: no bounds."""
        if ratio is None:
            with self._lock:
                state = self._table.get(host)
                if state is not None and state.budget is not None:
                    state.budget.owe()
            return True
        with self._lock:
            state = self._find(host, make=True)
            assert state is not None
            if state.budget is None:
                state.budget = Budget()
            return state.budget.take(ratio, self._clock.now())

    def allowed(self, host: str, limit: int) -> int:
        """How many connections the host gets, where `Limits` allows `limit`; called under the gate's lock."""
        if not self._adjusts:
            return limit
        with self._lock:
            state = self._table.get(host)
            return limit if state is None or state.ceiling is None else state.ceiling.allowed(limit)

    def pace(self, host: str, rate: float, burst: int = 1) -> None:
        """From now on at most so many requests a second, besides what the settings say; forgotten with the host."""
        with self._lock:
            state = self._find(host, make=True)
            assert state is not None
            if state.pace is None:
                state.pace = Pace(0.0)
            state.pace.interval, state.pace.burst = 1 / rate, burst  # what is reserved stays so

    def books(self, now: float) -> Mapping[str, HostState]:
        """What is known of each host, the one asked longest ago first."""
        with self._lock:
            hosts = list(self._table)
        states = {}
        for host in hosts:  # one at a time: ten thousand at once would keep everybody waiting for 20 ms
            with self._lock:
                state = self._table.get(host)
                if state is not None:
                    states[host] = state.books(now)
        return states

    def restart(self) -> None:
        """Begin anew in a forked process: what is known of the hosts is as true here, but nobody here holds a probe."""
        self._lock = threading.Lock()
        for state in self._table.values():
            if state.circuit is not None:
                state.circuit.prober = 0

    def _find(self, host: str, *, make: bool) -> _Host | None:
        """The host's state, now the last to be forgotten; under the lock."""
        state = self._table.get(host)
        if state is not None:
            self._table.move_to_end(host)
        elif make:
            state = self._table[host] = _Host(self._settings)
            self.watching = True
            if len(self._table) > self._settings.hosts:
                self._table.popitem(last=False)
        return state

    def _forget_oldest_if_over(self, now: float) -> None:
        """Once nothing is left that matters, requests need not ask here; under the lock.

        One host at each request is enough: each that is asked comes to be the oldest in turn.
        """
        oldest = next(iter(self._table), None)
        if oldest is not None and self._table[oldest].is_over(now):
            del self._table[oldest]
            self.watching = bool(self._table)

    def _give_back_probe(self, host: str) -> None:
        with self._lock:
            state = self._table.get(host)
            if state is not None and state.circuit is not None and state.circuit.prober == get_ident():
                state.circuit.prober = 0


def _refusal(
    host: str, step: _Step, limit: float, waited: float, deadline: Deadline, now: float
) -> CircuitOpenError | CoolDownTimeout | ThrottleTimeout:
    """Why a request does not go."""
    left = step.until - now
    if step.stage == "circuit":
        when = f"for another {seconds(left)}" if left else "until a probe, which is under way, tells that it is well"
        # A probe tells soon, but nobody knows when; 0 would ask for a busy loop.
        text = f"{host} has failed too often of late and is left alone {when}"
        return CircuitOpenError(text, seconds=left or 1.0)
    if step.stage == "throttle":
        deadline.enter(step.stage, now)
        text = f"the rate limit of {host} has no place for {seconds(left)}, beyond {deadline.limit}"
        return deadline.blame(ThrottleTimeout(text), now)
    asked = f"{host} asked to be left alone for another {seconds(left)}"
    if left > limit - waited:
        already = f", of which {seconds(waited)} are over" if waited else ""
        text = f"{asked}, longer than it may be waited for (RetryPolicy.retry_after_max={seconds(limit)}{already})"
        return CoolDownTimeout(text, seconds=left)
    deadline.enter(step.stage, now)
    return deadline.blame(CoolDownTimeout(f"{asked}, beyond {deadline.limit}", seconds=left), now)
