"""The gate with real threads: fairness, hand-overs that cross time-outs, errors at every step, finalizers, the end."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import pytest

from sessionpool._clock import NEVER, SYSTEM_CLOCK, Baton, Clock, Deadline
from sessionpool._gate import Books, Gate
from sessionpool._ledger import LEASED, RETURNED, Actions, Ledger, Permit, PoolStats
from sessionpool.exceptions import PoolClosed, PoolDeadlockError, PoolQueueFull, PoolTimeout
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, Interrupt, InThread, Thing, WatchedClock, eventually, in_thread

pytestmark = pytest.mark.usefixtures("switch_interval")


def ignore(thing: Thing, reason: str) -> None:
    """Close nothing: for tests without items."""


def a_gate(
    per_key: int | dict[str, int] = 1,
    total: float = 100,
    *,
    clock: Clock = SYSTEM_CLOCK,
    close: Callable[[Thing, str], None] = ignore,
    max_waiting: int | None = None,
    max_idle: float = math.inf,
    books: type[Ledger[Thing]] = Ledger,
    **kwargs: Any,
) -> Gate[Thing]:
    def limit_of(key: object) -> int:
        return per_key if isinstance(per_key, int) else per_key[str(key)]

    return Gate(books(limit_of, total, max_waiting=max_waiting, max_idle=max_idle), clock, close, **kwargs)


strangers = itertools.count(-2, -1)  # idents of threads that do not exist


def new(key: str = "a", identity: str = "plain", thread: int | None = None) -> Permit[Thing]:
    """A permit of a thread that holds nothing else, unless the test says whose."""
    return Permit(key, identity, next(strangers) if thread is None else thread)


def take(
    gate: Gate[Thing],
    key: str = "a",
    timeout: float | None = PATIENCE,
    *,
    identity: str = "plain",
    deadline: Deadline = NEVER,
    thread: int | None = None,
) -> Permit[Thing]:
    """A permit, got as the transport gets it: whatever goes wrong, it is given back."""
    permit = new(key, identity, thread)
    try:
        gate.acquire(permit, timeout, deadline)
    except BaseException:
        gate.release(permit)
        raise
    return permit


def waiting(gate: Gate[Thing], number: int = 1) -> None:
    """Wait until so many wait."""
    eventually(lambda: gate.stats().waiting == number)


@contextmanager
def in_queue(gate: Gate[Thing], *args: Any, **kwargs: Any) -> Iterator[InThread[Permit[Thing]]]:
    """A thread that waits in the queue, the last in it; at the end it has got its permit or an error."""
    before = gate.stats().waiting
    with in_thread(take, gate, *args, **kwargs) as call:
        waiting(gate, before + 1)
        if isinstance(clock := gate._clock, WatchedClock):
            eventually(lambda: clock.waiters == before + 1)
        yield call


def audit(gate: Gate[Thing], key: str = "a", limit: int = 1) -> None:
    """Nothing in use, nobody waiting, and as many permits as ever, and not one more."""
    stats = gate.stats()
    assert (stats.leased, stats.waiting) == (0, 0)
    permits = [take(gate, key, 0.0) for _ in range(limit)]
    with pytest.raises(PoolTimeout):
        take(gate, key, 0.0)
    for permit in permits:
        gate.release(permit)
    assert (gate.stats().leased, gate.stats().waiting) == (0, 0)


class ScriptedClock(FakeClock):
    """A clock whose `wait` does what a test says: so a test decides what happens at that very moment."""

    def __init__(self, script: Callable[[], bool]) -> None:
        super().__init__()
        self.script = script

    def wait(self, baton: Baton, until: float) -> bool:
        return self.script()


# --- fairness ---


def test_waiters_are_served_in_the_order_they_came() -> None:
    """Fifty waiters, one permit: first come, first served."""
    gate = a_gate()
    held = take(gate)
    served: list[int] = []

    def wait(number: int) -> None:
        permit = take(gate)
        served.append(number)
        gate.release(permit)

    calls = []
    for number in range(50):
        calls.append(in_thread(wait, number))
        waiting(gate, number + 1)
    gate.release(held)
    for call in calls:
        call.get()

    assert served == list(range(50))
    audit(gate)


def test_a_hog_cannot_starve_a_waiter() -> None:
    """A thread that asks again the moment it has given back gets its next permit only after whoever waited."""
    gate = a_gate()
    log: list[str] = []
    ended = threading.Event()

    def hog() -> None:
        while not ended.is_set():
            permit = take(gate)
            log.append("hog")
            if gate.stats().waiting:
                log.append("hog saw the waiter")
            gate.release(permit)

    with in_thread(hog) as hogging:
        for _ in range(100):
            permit = take(gate)
            log.append("waiter")
            gate.release(permit)
        ended.set()
    hogging.get()
    after_seen = [following for event, following in itertools.pairwise(log) if event == "hog saw the waiter"]

    assert log.count("waiter") == 100
    assert set(after_seen) <= {"waiter"}
    audit(gate)


def test_whoever_is_served_need_not_run_to_keep_its_turn() -> None:
    """The permit is the waiter's from the moment of the release, though its thread has not woken yet."""
    gate = a_gate()
    held = take(gate)
    sleeper = new()
    sleeper.baton = threading.Lock()
    sleeper.baton.acquire()
    with gate._lock:
        assert not gate._ledger.request(sleeper, 0.0)
    gate.release(held)

    with pytest.raises(PoolTimeout):
        take(gate, timeout=0.0)
    assert sleeper.state is LEASED


def test_keys_do_not_hold_each_other_up() -> None:
    """One host that never answers keeps its own permits busy, and nobody else's."""
    gate = a_gate(per_key=2)
    black_hole = [take(gate, "black hole") for _ in range(2)]
    with in_queue(gate, "black hole") as stuck:
        for _ in range(100):
            gate.release(take(gate, "other", 0.0))

        assert not stuck.is_done
        gate.release(black_hole[0])


# --- waiting, and giving up ---


def test_a_free_permit_is_granted_without_waiting() -> None:
    """With a time-out of 0 what is free is got, and what is not is refused."""
    gate = a_gate(clock=ScriptedClock(lambda: pytest.fail("waited")))
    permit = take(gate, timeout=0.0)

    assert permit.state is LEASED


def test_giving_up_does_not_lose_the_permit(clock: WatchedClock) -> None:
    """A waiter that times out leaves the queue, and the next release serves the next."""
    gate = a_gate(clock=clock)
    held = take(gate)
    with in_queue(gate, timeout=2.0) as late, in_queue(gate, timeout=None) as patient:
        clock.advance(2.0)
        eventually(lambda: late.is_done)
        gate.release(held)

    assert isinstance(late.error, PoolTimeout)
    gate.release(patient.get())
    audit(gate)


@pytest.mark.parametrize(
    ("timeout", "total", "named"),
    [
        (2.0, None, "Timeout.pool=2 s"),
        (2.0, 3.0, "Timeout.pool=2 s"),
        (3.0, 2.0, "Timeout.total=2 s"),
        (None, 2.0, "Timeout.total=2 s"),
    ],
)
def test_the_first_limit_to_pass_ends_the_wait(
    clock: WatchedClock, timeout: float | None, total: float | None, named: str
) -> None:
    """Neither `Timeout.pool` nor the deadline of the whole call is waited beyond, and the error names which it was."""
    gate = a_gate(clock=clock)
    held = take(gate)
    with in_queue(gate, timeout=timeout, deadline=Deadline.after(total, clock.now(), "Timeout.total")) as call:
        clock.advance(1.999)
        assert not call.is_done
        clock.advance(0.001)

    assert named in str(call.error)
    gate.release(held)


def test_the_time_runs_from_the_request() -> None:
    """What passes between the request and the wait, on a busy machine, counts as waited."""
    until: list[float] = []

    class Slow(Ledger[Thing]):
        def request(self, permit: Permit[Thing], now: float) -> bool:
            granted = super().request(permit, now)
            clock.advance(1.0)
            return granted

    class Noting(FakeClock):
        def wait(self, baton: Baton, deadline: float) -> bool:
            until.append(deadline)
            return False

    clock = Noting()
    gate = a_gate(clock=clock, books=Slow)
    take(gate)
    with pytest.raises(PoolTimeout):
        take(gate, timeout=2.0)

    assert until == [1.0 + 2.0]


def test_a_time_out_tells_who_holds_what(clock: WatchedClock) -> None:
    """The error has the numbers that explain it, in words and as `.stats`, and names who has held on longest."""
    gate = a_gate(per_key=2, total=5, clock=clock, name="crawl", describe=lambda key: f"host {key}")
    take(gate, thread=get_ident())
    clock.advance(1.5)
    newer = take(gate)
    other = take(gate, "b")
    gate.release(other, Thing())
    with in_queue(gate, timeout=2.0) as behind, in_queue(gate, timeout=0.25) as call:
        clock.advance(0.25)
        eventually(lambda: call.is_done)
        gate.release(newer)

    assert str(call.error) == (
        "no permit for host a came free within 0.25 s (Timeout.pool=0.25 s) in pool 'crawl': 2 of 2 leased, 0 idle, "
        "1 more waiting; over all hosts 3 of 5 open; held longest: 1.75 s, by MainThread"
    )
    assert isinstance(call.error, PoolTimeout)
    assert isinstance(call.error.stats, PoolStats)
    assert (call.error.stats.leased, call.error.stats.idle, call.error.stats.waiting) == (2, 1, 1)
    gate.release(behind.get())


def test_a_holder_that_has_ended_is_told_as_such() -> None:
    """A permit whose thread is gone is the leak that is looked for, so the error says so."""
    gate = a_gate()
    in_thread(lambda: take(gate, thread=get_ident())).get()

    with pytest.raises(PoolTimeout, match=r"by a thread that has ended$"):
        take(gate, timeout=0.0)


def test_a_time_out_names_the_thread_that_holds_on() -> None:
    """A holder that lives is named by its thread's name."""
    gate = a_gate()
    take(gate, thread=get_ident())

    with pytest.raises(PoolTimeout, match=r"held longest: \S+ s, by MainThread \(1 held by this very thread: "):
        take(gate, timeout=0.0, thread=get_ident())


def test_a_time_out_on_the_total_tells_that_it_binds() -> None:
    """A key that has nothing open itself waited for the total, and the message says that it is used up."""
    gate = a_gate(total=2)
    take(gate, "a")
    take(gate, "b")

    with pytest.raises(PoolTimeout, match=r"no permit for c .*: none open; over all hosts 2 of 2 open$"):
        take(gate, "c", timeout=0.0)


def test_a_time_out_without_a_total_names_no_number_for_it() -> None:
    """Where there is no limit over all keys, the message does not tell of one that is exceeded."""
    gate = a_gate(total=math.inf)
    take(gate)

    with pytest.raises(PoolTimeout) as caught:
        take(gate, timeout=0.0)
    assert "of 0 open" not in str(caught.value)


def test_only_so_many_may_wait() -> None:
    """One more waiter than `Limits.waiting` is refused at once, with the number, and without a trace."""
    gate = a_gate(max_waiting=2, name="crawl")
    held = take(gate)
    with in_queue(gate) as first, in_queue(gate) as second:
        with pytest.raises(PoolQueueFull) as refused:
            take(gate, "a")
        gate.release(held)
        gate.release(first.join().get())
    gate.release(second.get())

    assert str(refused.value) == (
        "pool 'crawl': 2 threads are waiting already, as many as Limits.waiting allows; a was not asked"
    )
    assert gate.stats().hosts == {}


def test_nobody_may_wait() -> None:
    """`Limits(waiting=0)`: what is free is granted, everything else refused."""
    gate = a_gate(max_waiting=0)
    held = take(gate)

    with pytest.raises(PoolQueueFull):
        take(gate)
    gate.release(held)
    gate.release(take(gate))


def test_microsecond_time_outs_lose_nothing() -> None:
    """Ten threads ask a thousand times each, most give up at the moment they would be served: every call ends in a
    permit or a `PoolTimeout`, and the one permit is there at the end."""
    gate = a_gate()
    in_use = Counter[str]()

    def hammer(seed: int) -> Counter[str]:
        rng = random.Random(seed)
        seen = Counter[str]()
        for _ in range(1000):
            try:
                permit = take(gate, timeout=rng.choice([0.0, 1e-6, 5e-6, 2e-5, 1e-4]))
            except PoolTimeout:
                seen["timed out"] += 1
            else:
                in_use["now"] += 1
                assert in_use["now"] == 1
                in_use["now"] -= 1
                gate.release(permit)
                seen["served"] += 1
        return seen

    calls = [in_thread(hammer, seed) for seed in range(10)]
    seen = sum((call.get() for call in calls), Counter[str]())

    assert seen.total() == 10_000
    assert seen["served"] > 0
    audit(gate)


# --- a time-out that crosses a hand-over ---


def test_a_grant_that_comes_with_the_time_out_is_used() -> None:
    """The clock says that time is over, and the permit has been granted meanwhile: it is the waiter's."""

    def release_and_time_out() -> bool:
        gate.release(held)
        return False

    gate = a_gate(clock=ScriptedClock(release_and_time_out))
    held = take(gate)
    permit = take(gate)

    assert permit.state is LEASED
    gate.release(permit)
    assert gate.stats().leased == 0


class Ambush:
    """A lock before which something happens: `strike` is called once, just before it is taken."""

    def __init__(self, lock: Any, strike: Callable[[], object]) -> None:
        self._lock = lock
        self._strike: Callable[[], object] | None = strike

    def __enter__(self) -> None:
        strike, self._strike = self._strike, None
        if strike is not None:
            strike()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool = True) -> bool:
        return bool(self._lock.acquire(blocking))

    def release(self) -> None:
        self._lock.release()


def test_a_grant_between_the_time_out_and_the_lock_is_used() -> None:
    """The waiter has seen that it timed out and comes to leave the queue: served just before that, it stays."""

    def time_out() -> bool:
        gate._lock = Ambush(gate._lock, lambda: gate.release(held))  # type: ignore[assignment]
        return False

    gate = a_gate(clock=ScriptedClock(time_out))
    held = take(gate)
    permit = take(gate)

    assert permit.state is LEASED
    gate.release(permit)
    assert gate.stats().leased == 0


def test_a_time_out_just_before_the_hand_over_serves_the_next() -> None:
    """The waiter left the queue, then the permit came back: it goes to whoever is behind, not to the one that left."""
    outcomes = iter([False, True])
    gate = a_gate(clock=ScriptedClock(lambda: next(outcomes)))
    held = take(gate)

    with pytest.raises(PoolTimeout):
        take(gate)
    gate.release(held)
    assert gate.stats().leased == 0
    gate.release(take(gate, timeout=0.0))


def test_a_close_that_crosses_a_grant_leaves_nothing_leased() -> None:
    """Granted, timed out and closed all at once: whatever the waiter is told, it gives its permit back."""

    def all_at_once() -> bool:
        gate.release(held)
        gate.close()
        return False

    gate = a_gate(clock=ScriptedClock(all_at_once))
    held = take(gate)
    permit = take(gate)
    gate.release(permit)

    assert gate.stats().leased == 0


# --- what makes room is closed first ---


def test_the_evicted_is_closed_before_the_permit_is_used() -> None:
    """When `acquire` comes back, whoever made room has been closed: so the bound holds at the server too."""
    closed: list[tuple[Thing, str]] = []
    gate = a_gate(close=lambda thing, reason: closed.append((thing, reason)))
    thing = Thing()
    gate.release(take(gate), thing)
    permit = take(gate, identity="tls")

    assert closed == [(thing, "evicted")]
    assert (permit.item, permit.evicted) == (None, None)


def test_a_waiter_closes_whom_it_evicts() -> None:
    """Also a waiter that is handed the place of an item closes it itself, in its own thread, before it goes on."""
    closers: list[int] = []
    gate = a_gate(close=lambda thing, reason: closers.append(get_ident()))
    held = take(gate)
    with in_queue(gate, identity="tls") as call:
        gate.release(held, Thing())

    assert closers == [call.thread.ident]
    assert call.get().item is None


def test_expired_items_are_closed_by_whoever_gives_back(clock: WatchedClock) -> None:
    """No thread is needed to keep the idle within their age."""
    closed: list[tuple[Thing, str]] = []
    gate = a_gate(per_key=2, clock=clock, max_idle=5.0, close=lambda thing, reason: closed.append((thing, reason)))
    permits, things = [take(gate), take(gate)], [Thing(), Thing()]
    gate.release(permits[0], things[0])
    clock.advance(5.0)
    gate.release(permits[1], things[1])

    assert closed == [(things[0], "expired")]


def test_an_expired_item_counts_until_it_is_closed(clock: WatchedClock) -> None:
    """While an expired item is being closed it is still open at the server, so its place is nobody's yet."""
    asked: list[InThread[Permit[Thing]]] = []

    def close(thing: Thing, reason: str) -> None:
        """Others ask at the very moment of the closing."""
        asked.extend(in_thread(take, gate, timeout=0.0).join() for _ in range(2))

    gate = a_gate(per_key=2, clock=clock, max_idle=5.0, close=close)
    expired, warm = take(gate), take(gate)
    gate.release(expired, Thing())
    clock.advance(5.0)
    gate.release(warm, Thing())  # this one is free for others, and open already; the other is being closed

    assert len([call for call in asked if call.error is None]) <= 1
    gate.release(take(gate, timeout=0.0))


def test_an_item_evicted_for_another_key_counts_until_it_is_closed() -> None:
    """While the item that makes room for another key is being closed, it is still open at its own server: its key's
    limit binds until it is closed."""
    closing, go_on = threading.Event(), threading.Event()

    def close(thing: Thing, reason: str) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)

    gate = a_gate(per_key={"a": 1, "b": 1, "c": 1}, total=2, close=close)
    gate.release(take(gate, "a"), Thing())
    other = take(gate, "c")
    with in_thread(take, gate, "b") as making_room:
        assert closing.wait(PATIENCE)
        gate.release(other)
        with in_thread(take, gate, "a", 0.0) as too_early:
            pass
        go_on.set()

    assert isinstance(too_early.error, PoolTimeout)
    gate.release(making_room.get())
    audit(gate, "a")


def test_nothing_of_the_users_runs_under_the_lock() -> None:
    """A key's `repr` and the closing of a connection are the user's and the network's: neither holds up other
    threads."""
    locked: list[bool] = []

    def describe(key: object) -> str:
        locked.append(gate._lock.locked())
        return str(key)

    gate = a_gate(
        total=2,
        max_waiting=1,
        describe=describe,
        close=lambda thing, reason: locked.append(gate._lock.locked()),
    )
    held = take(gate)
    with pytest.raises(PoolTimeout):
        take(gate, timeout=0.0)
    with in_queue(gate) as call:
        with pytest.raises(PoolQueueFull):
            take(gate)
        gate.release(held, Thing())
    gate.release(call.get(), Thing())
    gate.release(take(gate, identity="tls"), Thing("tls"))
    held = take(gate)
    with in_queue(gate) as call:
        gate.close()
    with pytest.raises(PoolClosed):
        take(gate)
    gate.release(held, Thing())

    assert len(locked) >= 7
    assert not any(locked)


# --- errors at every step ---


class InterruptedLedger(Ledger[Thing]):
    """Raises once it has done what it was asked for."""

    interrupts = 0

    def request(self, permit: Permit[Thing], now: float) -> bool:
        granted = super().request(permit, now)
        if permit.identity == "victim":
            raise Interrupt
        return granted


@pytest.mark.parametrize("free", [True, False])
def test_an_interrupt_right_after_the_request(free: bool) -> None:
    """A permit leased or queued the moment before Ctrl-C is put right by its release."""
    gate = a_gate(per_key=1, books=InterruptedLedger)
    held = None if free else take(gate)

    with pytest.raises(Interrupt):
        take(gate, identity="victim")
    if held is not None:
        gate.release(held)
    audit(gate)


def test_an_interrupted_waiter_harms_nobody_else() -> None:
    """Whoever gives back between a waiter's interrupt and its leaving serves it, and goes on as if nothing were."""
    gate = a_gate(per_key=1, books=InterruptedLedger)
    held, victim = take(gate), new(identity="victim")
    with pytest.raises(Interrupt):
        gate.acquire(victim, None, NEVER)
    gate.release(held)
    gate.release(victim)

    audit(gate)


def test_an_interrupt_while_waiting_leaves_the_queue() -> None:
    """Ctrl-C in a waiting thread: it is no longer waited for, and the next is served."""
    interrupts = iter([True, False])

    def interrupt_once() -> bool:
        if next(interrupts):
            raise Interrupt
        gate.release(held)
        return True

    gate = a_gate(clock=ScriptedClock(interrupt_once))
    held = take(gate)
    with pytest.raises(Interrupt):
        take(gate)
    assert gate.stats().waiting == 0
    permit = take(gate)

    assert permit.state is LEASED
    gate.release(permit)
    assert gate.stats().leased == 0


def test_an_interrupt_just_after_the_grant_gives_back_what_was_granted() -> None:
    """Ctrl-C between grant and use: the item that was handed over is not lost to the count."""

    def granted_and_interrupted() -> bool:
        gate.release(held, Thing())
        raise Interrupt

    gate = a_gate(clock=ScriptedClock(granted_and_interrupted))
    held = take(gate)
    with pytest.raises(Interrupt):
        take(gate)

    assert gate.stats().hosts == {}


def test_an_interrupt_just_after_the_grant_still_closes_the_evicted() -> None:
    """Ctrl-C between grant and use: the item that made room is closed all the same, since it is nobody's any more."""
    closed: list[Thing] = []
    thing = Thing()

    def granted_and_interrupted() -> bool:
        gate.release(held, thing)
        raise Interrupt

    gate = a_gate(clock=ScriptedClock(granted_and_interrupted), close=lambda thing, reason: closed.append(thing))
    held = take(gate)
    with pytest.raises(Interrupt):
        take(gate, identity="tls")

    assert closed == [thing]
    assert gate.stats().hosts == {}


class StoppingClock(FakeClock):
    """A clock that interrupts when it is asked for the nth time; without waiting, time is over."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.is_armed = False

    def now(self) -> float:
        if self.is_armed:
            self.left -= 1
            if self.left == 0:
                raise Interrupt
        return super().now()

    def wait(self, baton: Baton, until: float) -> bool:
        return False


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupt_whenever_the_clock_is_asked(at: int) -> None:
    """Wherever on the way to a time-out it is interrupted, the queue is left and the permit is there afterwards."""
    clock = StoppingClock(at)
    gate = a_gate(clock=clock)
    held = take(gate)
    clock.is_armed = True
    with pytest.raises((Interrupt, PoolTimeout)):
        take(gate)
    clock.is_armed = False

    assert gate.stats().waiting == 0
    gate.release(held)
    audit(gate)


def test_a_failing_close_of_the_evicted_returns_the_permit() -> None:
    """If closing what makes room raises, the error is the acquirer's, and its permit comes back."""

    def fail(thing: Thing, reason: str) -> None:
        raise OSError("will not close")

    gate = a_gate(close=fail)
    gate.release(take(gate), Thing())
    with pytest.raises(OSError, match="will not close"):
        take(gate, identity="tls")

    audit(gate)


def test_a_failing_close_of_the_expired_loses_nothing(clock: WatchedClock) -> None:
    """If closing an expired item raises, whoever was served by the same release goes on, the other expired items are
    closed all the same, and every place comes free."""
    closed: list[Thing] = []

    def fail(thing: Thing, reason: str) -> None:
        closed.append(thing)
        raise OSError("will not close")

    gate = a_gate(clock=clock, max_idle=5.0, close=fail)
    expired = [Thing("b"), Thing("c")]
    for thing in expired:
        gate.release(take(gate, thing.identity, identity=thing.identity), thing)
    held = take(gate)
    with in_queue(gate, timeout=None) as call:
        clock.advance(5.0)
        with pytest.raises(OSError, match="will not close"):
            gate.release(held, Thing())
    gate.release(call.get())

    assert closed == expired
    for key in "abc":
        audit(gate, key)


def test_a_failing_close_does_not_keep_waiters_from_the_news() -> None:
    """If closing an idle item raises, the waiters still hear that the gate is closed, and the others are closed."""
    closed: list[Thing] = []

    def fail(thing: Thing, reason: str) -> None:
        closed.append(thing)
        raise OSError("will not close")

    gate = a_gate(close=fail)
    idle = [Thing("b"), Thing("c")]
    for thing in idle:
        gate.release(take(gate, thing.identity, identity=thing.identity), thing)
    held = take(gate)
    with in_queue(gate, timeout=2.0) as call:
        with pytest.raises(OSError, match="will not close"):
            gate.close()
        eventually(lambda: call.is_done, within=1.0)

    assert "was closed while" in str(call.error)
    assert closed == idle
    gate.release(held)
    assert gate.stats().hosts == {}


def test_a_failing_limit_leaves_the_lock_free() -> None:
    """An error in the user's `overrides` or anywhere in the books does not block the pool for the others."""
    gate = a_gate(per_key={"a": 1})
    with pytest.raises(KeyError):
        take(gate, "unknown")

    audit(gate)


# --- the end ---


def test_close_wakes_every_waiter() -> None:
    """A hundred waiters hear at once that the gate is closed; what is leased stays leased until it comes back."""
    gate = a_gate(name="crawl", describe=lambda key: f"host {key}")
    held = take(gate)
    calls = []
    for number in range(100):
        calls.append(in_thread(take, gate, timeout=None))
        waiting(gate, number + 1)
    actions = gate.close()
    for call in calls:
        call.join()

    assert {(type(call.error), str(call.error)) for call in calls} == {
        (PoolClosed, "pool 'crawl' was closed while host a was waited for")
    }
    assert len(actions.wake) == 100
    assert (gate.stats().leased, gate.stats().waiting) == (1, 0)
    gate.release(held)
    assert gate.stats().hosts == {}


def test_close_is_idempotent_and_may_come_from_two_threads() -> None:
    """Two that close at once do it once between them, and a third time nothing is left to do."""
    closed: list[Thing] = []
    gate = a_gate(per_key=10, close=lambda thing, reason: closed.append(thing))
    things = [Thing(name=str(number)) for number in range(10)]
    for permit, thing in zip([take(gate) for _ in things], things, strict=True):
        gate.release(permit, thing)
    take(gate, "b")
    for _ in range(9):
        take(gate, "b")
    together = threading.Barrier(2)

    def close() -> Actions[Thing]:
        together.wait()
        return gate.close()

    with in_queue(gate, "b") as waiter:
        calls = [in_thread(close), in_thread(close)]
        done = [call.get() for call in calls]
    again = gate.close()

    assert sum(len(actions.wake) for actions in done) == 1
    assert sorted(closed, key=things.index) == things
    assert isinstance(waiter.error, PoolClosed)
    assert (list(again.wake), list(again.close)) == ([], [])


def test_nobody_is_let_in_after_close() -> None:
    """A closed gate refuses at once, and forgets nothing by it."""
    gate = a_gate(name="crawl", describe=lambda key: f"host {key}")
    gate.close()

    with pytest.raises(PoolClosed, match=r"^pool 'crawl' is closed; host a was not asked$"):
        take(gate)
    assert gate.stats().hosts == {}


def test_what_comes_back_after_close_is_closed() -> None:
    """An item in use while the gate is closed does not lie idle for ever."""
    closed: list[tuple[Thing, str]] = []
    gate = a_gate(close=lambda thing, reason: closed.append((thing, reason)))
    permit, thing = take(gate), Thing()
    gate.close()
    gate.release(permit, thing)

    assert closed == [(thing, "shutdown")]
    assert gate.stats().hosts == {}


def test_the_items_in_use_are_told() -> None:
    """For cutting them off at the end: those that are leased and open, not those that lie idle."""
    gate = a_gate(per_key=3)
    idle, used, unopened = take(gate), take(gate), take(gate)
    used.item = Thing()
    gate.release(idle, Thing())

    assert gate.leased_items() == [used.item]
    assert unopened.state is LEASED


# --- suspended ---


def test_nothing_is_granted_while_suspended(clock: WatchedClock) -> None:
    """What is free is not given out, what comes back serves nobody; afterwards who waited goes first, in order."""
    gate = a_gate(per_key=2, clock=clock)
    held = take(gate)
    gate.suspend()
    with in_queue(gate) as first, in_queue(gate) as second, in_queue(gate) as third:
        gate.release(held, Thing())
        assert gate.stats().suspended
        assert not any(call.is_done for call in (first, second, third))
        gate.resume()
        eventually(lambda: first.is_done and second.is_done)
        assert (third.is_done, gate.stats().suspended) == (False, False)
        gate.release(first.get())
    gate.release(second.get())
    gate.release(third.get())

    audit(gate, limit=2)


def test_a_suspension_leaves_nobody_behind() -> None:
    """Threads that come and go through many suspensions are all served."""
    gate = a_gate(per_key=3)
    ended = threading.Event()

    def use() -> None:
        for _ in range(200):
            gate.release(take(gate), Thing())

    def disturb() -> None:
        while not ended.is_set():
            gate.suspend()
            gate.resume()

    with in_thread(disturb) as disturbing:
        for call in [in_thread(use) for _ in range(6)]:
            call.get()
        ended.set()
    disturbing.get()

    audit(gate, limit=3)


def test_a_time_out_names_the_suspension(clock: WatchedClock) -> None:
    """Whoever waited in vain while there was room is told why, in words and as `.stats`."""
    gate = a_gate(per_key=2, clock=clock, name="crawl")
    gate.suspend()
    with in_queue(gate, timeout=2.0) as call:
        clock.advance(2.0)

    assert isinstance(call.error, PoolTimeout)
    assert str(call.error) == (
        "no permit for a came free within 2 s (Timeout.pool=2 s) in pool 'crawl': none open; over all hosts 0 of 100 "
        "open; the pool is suspended"
    )
    assert call.error.stats is not None
    assert call.error.stats.suspended
    gate.resume()
    audit(gate, limit=2)


def test_what_is_free_is_not_had_at_once_while_suspended() -> None:
    """With a time-out of 0 neither."""
    gate = a_gate()
    gate.release(take(gate), Thing())
    gate.suspend()
    with pytest.raises(PoolTimeout, match=r"0 of 1 leased, 1 idle, .*; the pool is suspended$"):
        take(gate, timeout=0.0)

    gate.resume()
    assert take(gate, timeout=0.0).item is not None


def test_closing_ends_a_suspension_with_an_error() -> None:
    """Who waits for `resume` hears of `close`, and so does who comes later."""
    gate = a_gate()
    gate.suspend()
    with in_queue(gate, timeout=None) as call:
        gate.close()
    gate.resume()

    assert isinstance(call.error, PoolClosed)
    with pytest.raises(PoolClosed):
        take(gate)


def test_evicting_while_suspended() -> None:
    """What was idle before the suspension is closed, and who waited opens its own: so `refresh` may come in between."""
    closed: list[tuple[Thing, str]] = []
    gate = a_gate(close=lambda thing, reason: closed.append((thing, reason)))
    thing = Thing()
    gate.release(take(gate), thing)
    gate.suspend()
    with in_queue(gate) as call:
        gate.evict()
        assert closed == [(thing, "expired")]
        assert not call.is_done
        gate.resume()

    assert call.get().item is None
    gate.release(call.get())
    audit(gate)


# --- limits that change ---


def test_raising_a_limit_serves_who_waits_in_order(clock: WatchedClock) -> None:
    """At once, without a release; the rest wait on."""
    limits = {"a": 1}
    gate = a_gate(limits, clock=clock)
    held = take(gate)
    with in_queue(gate) as first, in_queue(gate) as second, in_queue(gate) as third:
        limits["a"] = 3
        gate.resize(100, max_waiting=None, max_idle=math.inf)
        eventually(lambda: first.is_done and second.is_done)
        assert not third.is_done
        gate.release(held)
    for call in (first, second, third):
        gate.release(call.get())

    audit(gate, limit=3)


def test_raising_the_total_serves_who_waits() -> None:
    """Also those that wait for the total."""
    gate = a_gate(total=1)
    held = take(gate, "a")
    with in_queue(gate, "b") as call:
        gate.resize(2, max_waiting=None, max_idle=math.inf)
    gate.release(held)
    gate.release(call.get())

    assert gate.stats().capacity == 2


def test_lowering_a_limit_closes_what_is_idle_too_much() -> None:
    """In the thread that resizes, outside the lock, and told as evicted; the newest stay."""
    closed: list[tuple[Thing, str, int, bool]] = []
    limits = {"a": 3}
    gate = a_gate(limits, close=lambda *about: closed.append((*about, get_ident(), gate._lock.locked())))
    things = [Thing(), Thing(), Thing()]
    for permit, thing in zip([take(gate) for _ in things], things, strict=True):
        gate.release(permit, thing)
    limits["a"] = 1
    gate.resize(100, max_waiting=None, max_idle=math.inf)

    assert closed == [(thing, "evicted", get_ident(), False) for thing in things[:2]]
    assert gate.stats().hosts["a"].idle == 1
    audit(gate)


def test_a_limit_lowered_below_what_is_leased(clock: WatchedClock) -> None:
    """Nothing in use is touched; what comes back is closed until the limit holds, nobody is let in before that, and who
    times out meanwhile is told of more leased than may be."""
    closed: list[Thing] = []
    limits = {"a": 3}
    gate = a_gate(limits, clock=clock, close=lambda thing, reason: closed.append(thing))
    permits = [take(gate) for _ in range(3)]
    for permit in permits:
        permit.item = Thing()
    things = [permit.item for permit in permits]
    limits["a"] = 1
    gate.resize(100, max_waiting=None, max_idle=math.inf)
    with in_queue(gate, timeout=2.0) as late, in_queue(gate, timeout=None) as patient:
        clock.advance(2.0)
        eventually(lambda: late.is_done)
        for permit in permits[:2]:
            gate.release(permit, permit.item)
        assert closed == things[:2]
        assert not patient.is_done
        gate.release(permits[2], permits[2].item)

    assert "3 of 1 leased, 0 idle, 1 more waiting" in str(late.error)
    assert patient.get().item is things[2]
    gate.release(patient.get())
    audit(gate)


def test_another_limit_for_one_host(clock: WatchedClock) -> None:
    """Raised, who waits goes on at once; lowered, what is idle too much is closed, outside the lock."""
    closed: list[tuple[Thing, str, bool]] = []
    limits = {"a": 1, "b": 1}
    gate = a_gate(limits, clock=clock, close=lambda *about: closed.append((*about, gate._lock.locked())))
    held = take(gate)
    with in_queue(gate) as first, in_queue(gate) as second:
        limits.update(a=2, b=2)
        gate.relimit("a")
        eventually(lambda: first.is_done)
        assert not second.is_done
        gate.release(held)
    things = [Thing(), Thing()]
    for call, thing in zip((first, second), things, strict=True):
        gate.release(call.get(), thing)
    limits["a"] = 1
    gate.relimit("a")
    gate.relimit("unheard of")

    assert closed == [(things[0], "evicted", False)]
    assert gate.stats().hosts["a"].idle == 1
    audit(gate)


def test_what_is_being_closed_is_not_what_is_held_longest() -> None:
    """An item that is about to be gone is nobody's leak: whoever has one in use is named."""
    closing, go_on = threading.Event(), threading.Event()

    def close(thing: Thing, reason: str) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)

    gate = a_gate(per_key=2, close=close)
    gate.release(take(gate), Thing())
    with in_thread(gate.evict):
        assert closing.wait(PATIENCE)
        held = take(gate, thread=get_ident())
        with pytest.raises(PoolTimeout, match=r"2 of 2 leased, .*; held longest: \S+ s, by MainThread$"):
            take(gate, timeout=0.0)
        go_on.set()
    gate.release(held)

    audit(gate, limit=2)


def test_how_many_may_wait_can_be_changed() -> None:
    """From then on; who waits already is not sent away."""
    gate = a_gate()
    held = take(gate)
    with in_queue(gate) as first, in_queue(gate) as second:
        gate.resize(100, max_waiting=1, max_idle=math.inf)
        with pytest.raises(PoolQueueFull, match="1 threads are waiting already"):
            take(gate)
        gate.release(held)
        gate.release(first.join().get())
    gate.release(second.get())


# --- a thread that waits for itself ---


def test_whoever_would_wait_for_itself_is_told_at_once(clock: WatchedClock) -> None:
    """With what it holds, and what to do; it leaves the queue, and what it holds stays its own."""
    gate = a_gate(per_key=2, clock=clock, name="crawl", remedy="close a response")
    own = [take(gate, thread=get_ident()) for _ in range(2)]
    with pytest.raises(PoolDeadlockError) as caught:
        gate.acquire(new(thread=get_ident()), None, NEVER)

    assert str(caught.value) == (
        "pool 'crawl': a could only come from this thread itself, which holds all there is (2) and would wait for "
        "ever; close a response"
    )
    assert (gate.stats().waiting, gate.stats().leased, own[0].state) == (0, 2, LEASED)
    for permit in own:
        gate.release(permit)
    audit(gate, limit=2)


def test_whoever_shares_with_others_waits(clock: WatchedClock) -> None:
    """Another thread may give back what it holds, so there is something to wait for."""
    gate = a_gate(per_key=2, clock=clock)
    own, other = take(gate, thread=7), take(gate)
    with in_queue(gate, thread=7, timeout=None) as call:
        gate.release(other)

    gate.release(call.get())
    gate.release(own)
    audit(gate, limit=2)


def test_whoever_does_not_wait_does_not_wait_for_itself() -> None:
    """With a time-out of 0 it takes what is free, and is told that nothing is."""
    gate = a_gate()
    own = take(gate, thread=get_ident())
    with pytest.raises(PoolTimeout, match=r"1 held by this very thread"):
        take(gate, thread=get_ident(), timeout=0.0)
    with pytest.raises(PoolTimeout):
        take(gate, thread=get_ident(), deadline=Deadline.after(0.0, SYSTEM_CLOCK.now(), "Timeout.total"))

    gate.release(own)
    audit(gate)


def test_what_a_finalizer_gave_up_is_not_held() -> None:
    """A permit in the inbox, where it lies because the lock was taken just then, is taken back before anybody is
    refused."""
    gate = a_gate()
    lost = take(gate, thread=get_ident())

    class Busy:
        """A lock that another thread has whenever a finalizer comes by, and never when somebody waits for it."""

        def __init__(self, lock: Any) -> None:
            self._lock = lock

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

        def acquire(self, blocking: bool = True) -> bool:
            return blocking and bool(self._lock.acquire())

        def release(self) -> None:
            self._lock.release()

    gate._lock = Busy(gate._lock)  # type: ignore[assignment]
    gate.abandon(lost)
    assert lost.state is LEASED
    again = take(gate, thread=get_ident(), timeout=PATIENCE)

    assert (lost.state, again.state) == (RETURNED, LEASED)
    gate.release(again)
    audit(gate)


def test_a_response_may_be_read_by_whoever_is_there(clock: WatchedClock) -> None:
    """A permit that goes with a response is no deadlock while there is another thread, which may have the response;
    where there is none it is."""
    gate = a_gate(clock=clock)
    held = take(gate, thread=get_ident())
    held.bound = False
    go_on = threading.Event()

    def give_back_once_it_waits() -> None:
        waiting(gate)
        gate.release(held)
        assert go_on.wait(PATIENCE)  # so that there is another thread for as long as one waits

    with in_thread(give_back_once_it_waits):
        again = take(gate, thread=get_ident(), timeout=None)
        go_on.set()
    assert again.state is LEASED
    again.bound = False
    eventually(lambda: threading.active_count() == 1)
    with pytest.raises(PoolDeadlockError):
        take(gate, thread=get_ident(), timeout=None)

    gate.release(again)
    audit(gate)


def test_a_suspension_is_no_deadlock(clock: WatchedClock) -> None:
    """Whoever waits while suspended waits for `resume`, even if it holds all there is: its time ends the wait."""
    gate = a_gate(clock=clock)
    held = take(gate, thread=7)
    gate.suspend()
    with in_queue(gate, thread=7, timeout=2.0) as call:
        clock.advance(2.0)

    assert isinstance(call.error, PoolTimeout)
    gate.resume()
    gate.release(held)
    audit(gate)


def test_a_limit_lowered_to_what_one_holds_is_found(clock: WatchedClock) -> None:
    """A thread that holds more than may be now, and wants another, would wait for itself."""
    limits = {"a": 3}
    gate = a_gate(limits, clock=clock)
    own = [take(gate, thread=get_ident()) for _ in range(2)]
    limits["a"] = 1
    gate.resize(100, max_waiting=None, max_idle=math.inf)
    with pytest.raises(PoolDeadlockError, match=r"holds all there is \(2\)"):
        take(gate, thread=get_ident(), timeout=None)

    for permit in own:
        gate.release(permit)
    audit(gate)


# --- everything at one moment, and a new beginning ---


def test_the_books_tell_everything_at_one_moment(clock: WatchedClock) -> None:
    """Leased, idle, waiting and the counts, all taken under one lock."""
    gate = a_gate(per_key=1, clock=clock)
    clock.advance(1.0)
    thing = Thing()
    gate.release(take(gate, "b"), thing)
    clock.advance(1.0)
    held = take(gate)
    with in_queue(gate) as call:
        clock.advance(1.0)
        books = gate.books()
        (waiter,) = books.waiting
        gate.release(held)

    assert (books.now, books.leased, books.idle) == (3.0, [held], [("b", thing, 1.0)])
    assert (books.stats.leased, books.stats.idle, books.stats.waiting) == (1, 1, 1)
    assert waiter is call.get()
    gate.release(waiter)


def test_a_new_beginning_as_after_a_fork() -> None:
    """Whatever the other threads were doing, whether one held the lock or lay in the inbox: only what is kept is leased
    afterwards, and all else can be had."""
    gate = a_gate(per_key=2)
    kept, gone, idle = take(gate, thread=get_ident()), take(gate), take(gate, "b")
    gate.release(idle, Thing())
    gate._lock.acquire()  # by a thread that is not there to free it
    gate.abandon(gone)
    gate.restart([kept])
    assert not gate._lock.locked()
    assert (gate.stats().leased, gate.stats().idle, kept.state, gone.state) == (1, 0, LEASED, RETURNED)
    gate.release(gone)
    second = take(gate, timeout=0.0)
    with pytest.raises(PoolTimeout):
        take(gate, timeout=0.0)

    gate.release(second)
    gate.release(kept)
    audit(gate, limit=2)


def test_a_new_beginning_leaves_a_closed_gate_closed() -> None:
    """And what is left in the inbox is nobody's: it would come back twice."""
    gate = a_gate()
    gate.close()
    gate.restart()

    with pytest.raises(PoolClosed):
        take(gate)


# --- finalizers ---


def test_an_abandoned_permit_serves_the_waiter() -> None:
    """What a finalizer gives back goes to whoever waits, as if it had been released."""
    gate = a_gate()
    held = take(gate)
    with in_queue(gate) as call:
        gate.abandon(held)
    gate.release(call.get())

    assert held.state is RETURNED
    audit(gate)


def test_abandoning_is_idempotent() -> None:
    """Abandoned twice, or after its release, a permit counts once."""
    gate = a_gate(per_key=2)
    first, second = take(gate), take(gate)
    gate.abandon(first)
    gate.abandon(first)
    gate.release(first)

    assert gate.stats().leased == 1
    gate.release(second)
    gate.abandon(second)
    audit(gate, limit=2)


def test_abandoning_calls_nobody_back(clock: WatchedClock) -> None:
    """A finalizer runs anywhere, perhaps in the middle of the user's observer: it closes nobody, another call does."""
    closed: list[Thing] = []
    gate = a_gate(per_key=2, clock=clock, max_idle=5.0, close=lambda thing, reason: closed.append(thing))
    idle, held = take(gate), take(gate)
    gate.release(idle, Thing())
    clock.advance(5.0)
    gate.abandon(held)

    assert closed == []
    assert gate.stats().leased == 0


class Trap(Ledger[Thing]):
    """A ledger in whose calls the collector runs: what it finds is abandoned, under the gate's lock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.armed_for = ""
        self.sprung: Callable[[], None] = lambda: None

    def spring(self, call: str) -> None:
        if call == self.armed_for:
            self.armed_for = ""
            self.sprung()

    def request(self, permit: Permit[Thing], now: float) -> bool:
        self.spring("request")
        return super().request(permit, now)

    def release(self, permit: Permit[Thing], item: Thing | None, now: float) -> Actions[Thing]:
        self.spring("release")
        return super().release(permit, item, now)

    def note_opened(self, *, unusable: bool) -> None:
        self.spring("note_opened")
        super().note_opened(unusable=unusable)

    def withdraw(self, permit: Permit[Thing]) -> bool:
        self.spring("withdraw")
        return super().withdraw(permit)

    def resume(self, now: float) -> Actions[Thing]:
        self.spring("resume")
        return super().resume(now)

    def resize(self, total: float, *, max_waiting: int | None, max_idle: float, now: float) -> Actions[Thing]:
        self.spring("resize")
        return super().resize(total, max_waiting=max_waiting, max_idle=max_idle, now=now)

    def relimit(self, key: Hashable, now: float) -> Actions[Thing]:
        self.spring("relimit")
        return super().relimit(key, now)

    def evict(self, now: float) -> Actions[Thing]:
        self.spring("evict")
        return super().evict(now)

    def own_in_the_way(self, permit: Permit[Thing], alone: Callable[[], bool]) -> int:
        self.spring("own_in_the_way")
        return super().own_in_the_way(permit, alone)

    def leased(self) -> Iterator[Permit[Thing]]:
        self.spring("leased")
        return super().leased()

    def stats(self, key: Hashable | None = None) -> PoolStats:
        self.spring("stats")
        return super().stats(key)

    def drain(self, now: float) -> Actions[Thing]:
        self.spring("drain")
        return super().drain(now)


def ask_for_more_than_may_wait(gate: Gate[Thing]) -> None:
    gate._ledger.max_waiting = 0
    with pytest.raises(PoolQueueFull):
        take(gate, "other")


def wait_in_vain(gate: Gate[Thing]) -> None:
    with pytest.raises(PoolTimeout):
        take(gate, "other", timeout=0.0)


def wait_for_oneself(gate: Gate[Thing]) -> None:
    held = take(gate, "mine", thread=get_ident())
    with pytest.raises(PoolDeadlockError):
        take(gate, "mine", thread=get_ident())
    gate.release(held)


def same_size(gate: Gate[Thing]) -> None:
    gate.resize(100, max_waiting=None, max_idle=math.inf)


def open_one(gate: Gate[Thing]) -> None:
    gate.note_opened(unusable=False)


@pytest.mark.parametrize(
    ("call", "action"),
    [
        ("request", lambda gate: take(gate, "third")),
        ("request", wait_in_vain),
        ("request", ask_for_more_than_may_wait),
        ("withdraw", wait_in_vain),
        ("note_opened", open_one),
        ("leased", Gate.leased_items),
        ("stats", Gate.stats),
        ("stats", Gate.books),
        ("resume", Gate.resume),
        ("resize", same_size),
        ("relimit", lambda gate: gate.relimit("other")),
        ("evict", Gate.evict),
        ("own_in_the_way", wait_for_oneself),
    ],
    ids=[
        *("granted", "queued", "refused", "timed out", "opened", "leased items", "stats", "books", "resumed"),
        *("resized", "relimited", "evicted", "deadlock"),
    ],
)
def test_a_finalizer_inside_a_critical_section(call: str, action: Callable[[Gate[Thing]], object]) -> None:
    """Abandoned while this very thread holds the lock, a permit is given back when the lock is free again: a waiter
    is served without another call to the gate."""
    gate = a_gate(books=Trap)
    ledger = gate._ledger
    assert isinstance(ledger, Trap)
    take(gate, "other")
    lost = take(gate)
    with in_queue(gate, timeout=5.0) as waiter:
        ledger.sprung = lambda: gate.abandon(lost)
        ledger.armed_for = call
        with in_thread(action, gate) as acting:
            pass
        eventually(lambda: waiter.is_done, within=10.0)

    assert ledger.armed_for == ""
    assert acting.error is None
    assert waiter.error is None, "the waiter was not served"


def test_a_finalizer_inside_a_release() -> None:
    """Abandoned while a release holds the lock, a permit comes back with it."""
    gate = a_gate(per_key=2, books=Trap)
    ledger = gate._ledger
    assert isinstance(ledger, Trap)
    first, lost = take(gate), take(gate)
    ledger.sprung = lambda: gate.abandon(lost)
    ledger.armed_for = "release"
    with in_thread(gate.release, first):
        pass

    assert (first.state, lost.state) == (RETURNED, RETURNED)


def test_a_finalizer_inside_close() -> None:
    """Abandoned while the gate is being closed, a permit is given back to the closed gate."""
    gate = a_gate(books=Trap)
    ledger = gate._ledger
    assert isinstance(ledger, Trap)
    lost = take(gate)
    ledger.sprung = lambda: gate.abandon(lost)
    ledger.armed_for = "drain"
    with in_thread(gate.close):
        pass

    assert lost.state is RETURNED


def test_a_finalizer_inside_a_refusal() -> None:
    """Abandoned while a closed gate words its refusal, under the lock, a permit is given back."""

    def describe(key: object) -> str:
        gate.abandon(lost)
        return str(key)

    gate = a_gate(describe=describe)
    lost = take(gate)
    gate.close()
    with in_thread(take, gate) as call:
        pass

    assert isinstance(call.error, PoolClosed)
    assert lost.state is RETURNED


def test_permits_abandoned_from_many_threads() -> None:
    """Finalizers of many threads meet the lock free and taken: every permit comes back, one at a time."""
    gate = a_gate(per_key=3)

    def leak() -> None:
        for _ in range(300):
            gate.abandon(take(gate))

    calls = [in_thread(leak) for _ in range(6)]
    for call in calls:
        call.get()

    audit(gate, limit=3)


# --- anything, at random ---


class Shadow:
    """The truth beside the books: what is open and what is leased, counted where it happens. Thread-safe.

    It raises the moment more is open or leased than may be.
    """

    def __init__(self, limits: dict[str, int], total: int) -> None:
        self.limits = dict(limits)
        self.total = total
        self.open: dict[Thing, str] = {}
        self.leased = Counter[str]()
        self._lock = threading.Lock()

    def lease(self, permit: Permit[Thing]) -> None:
        with self._lock:
            self.leased[str(permit.key)] += 1
            assert self.leased[str(permit.key)] <= self.limits[str(permit.key)]
            assert self.leased.total() <= self.total
            if permit.item is not None:
                assert self.open[permit.item] == permit.key
                assert permit.item.identity == permit.identity

    def unlease(self, permit: Permit[Thing]) -> None:
        with self._lock:
            self.leased[str(permit.key)] -= 1

    def opened(self, permit: Permit[Thing]) -> Thing:
        with self._lock:
            thing = Thing(str(permit.identity))
            self.open[thing] = str(permit.key)
            assert Counter(self.open.values())[str(permit.key)] <= self.limits[str(permit.key)]
            assert len(self.open) <= self.total
            return thing

    def close(self, thing: Thing, reason: str = "") -> None:
        with self._lock:
            del self.open[thing]


class Resizer:
    """Changes a gate's limits, and its shadow's with them. Thread-safe: one does it at a time.

    The shadow never counts more than the ledger does, because things are opened after their grant and closed before
    their return. So a raised limit applies to it before, and a lowered one once the ledger has come down to that: from
    then on it must not be exceeded.
    """

    def __init__(self, gate: Gate[Thing], shadow: Shadow, limits: dict[str, int], max_waiting: int | None) -> None:
        self._gate = gate
        self._shadow = shadow
        self._limits = limits  # what the gate asks for
        self._total = shadow.total
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self.most = shadow.total
        self.tightened = 0

    def resize(self, limits: dict[str, int], total: int) -> None:
        with self._lock:
            for key, limit in limits.items():
                self._shadow.limits[key] = max(self._shadow.limits[key], limit)
            self._shadow.total = max(self._shadow.total, total)
            self.most = max(self.most, total)
            self._limits.update(limits)
            self._total = total
            self._gate.resize(total, max_waiting=self._max_waiting, max_idle=math.inf)

    def relimit(self, key: str, limit: int) -> None:
        with self._lock:
            self._shadow.limits[key] = max(self._shadow.limits[key], limit)
            self._limits[key] = limit
            self._gate.relimit(key)

    def tighten(self) -> None:
        """From now on the shadow holds the gate to those limits that it has come down to."""
        with self._lock:
            books = self._gate.books()
            self._check(books)
            stats = books.stats
            for key, limit in self._limits.items():
                host = stats.hosts.get(key)
                if (host is None or host.leased + host.idle <= limit) and self._shadow.limits[key] != limit:
                    self._shadow.limits[key] = limit
                    self.tightened += 1
            if stats.leased + stats.idle <= self._total:
                self._shadow.total = self._total

    def _check(self, books: Books[Thing]) -> None:
        """What the ledger says of itself: nothing idle is too much, and nobody waits for what could be had."""
        in_use = Counter(str(permit.key) for permit in books.leased if permit.thread)
        idle = Counter(str(key) for key, _, _ in books.idle)
        waiting = {str(permit.key) for permit in books.waiting}
        assert not idle or in_use.total() + idle.total() <= self._total
        for key, limit in self._limits.items():
            assert not idle[key] or in_use[key] + idle[key] <= limit
            if key in waiting:
                assert not idle[key]
                assert books.stats.hosts[key].leased >= limit or books.stats.leased >= self._total

    def suspend_and_resume(self) -> None:
        with self._lock:
            self._gate.suspend()
            assert self._gate.stats().suspended
            time.sleep(0)
            self._gate.resume()

    def disturb(self, rng: random.Random) -> str:
        """One of the things that may happen to a gate as a whole."""
        what = rng.choice(["resize", "relimit", "tighten", "tighten", "tighten", "suspend", "evict"])
        if what == "relimit":
            self.relimit(rng.choice(list(self._limits)), rng.randint(1, 4))
        elif what == "resize":
            self.resize({key: rng.randint(1, 4) for key in self._limits}, rng.randint(1, 6))
        elif what == "tighten":
            self.tighten()
        elif what == "suspend":
            self.suspend_and_resume()
        else:
            self._gate.evict()
        return what


def use_at_random(
    gate: Gate[Thing], shadow: Shadow, seed: int, calls: int, resizer: Resizer | None = None
) -> Counter[str]:
    """Take permits and do with them whatever can be done, and with the gate too; what came of it."""
    rng = random.Random(seed)
    seen = Counter[str]()
    for _ in range(calls):
        if resizer is not None and rng.random() < 0.2:
            seen[resizer.disturb(rng)] += 1
        permit = new(rng.choice(list(shadow.limits)), rng.choice(["plain", "plain", "tls"]))
        try:
            gate.acquire(permit, rng.choice([0.0, 1e-6, 1e-4, 1e-3, None, None]), NEVER)
        except (PoolTimeout, PoolQueueFull, PoolClosed) as error:
            gate.release(permit)
            seen[type(error).__name__] += 1
            continue
        shadow.lease(permit)
        if permit.item is None:
            permit.item = shadow.opened(permit)
            gate.note_opened(unusable=False)
        elif rng.random() < 0.1:
            shadow.close(permit.item)
            permit.item = shadow.opened(permit)
            gate.note_opened(unusable=True)
        time.sleep(rng.choice([0.0, 0.0, 0.0, 1e-5]))  # let others in, while it is held
        end = rng.choice(["release", "release", "release", "discard", "abandon", "release twice"])
        thing = permit.item
        if end in ("discard", "abandon"):
            shadow.close(thing)
        shadow.unlease(permit)
        if end == "abandon":
            gate.abandon(permit)
        else:
            gate.release(permit, None if end == "discard" else thing)
        if end == "release twice":
            gate.release(permit)
        seen[end] += 1
    return seen


def by_eight(
    gate: Gate[Thing], shadow: Shadow, seed: int, calls: int, resizer: Resizer | None = None
) -> list[InThread[Counter[str]]]:
    """Eight threads that use the gate at random; if one fails, the gate is closed, so that the others end."""

    def use(seed: int) -> Counter[str]:
        try:
            return use_at_random(gate, shadow, seed, calls, resizer)
        except BaseException:
            gate.close()
            raise

    return [in_thread(use, 100 * seed + number) for number in range(8)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_waiting", [None, 3])
def test_any_use_keeps_the_bound_and_loses_nothing(seed: int, max_waiting: int | None) -> None:
    """Eight threads do everything at random, limits that change, suspensions and evictions included: at every instant
    no more is open than may be, and at the end nothing is in use, nobody waits, and all permits are free."""
    limits = {"a": 1, "b": 2, "c": 3}
    shadow = Shadow(limits, total=4)
    gate = a_gate(limits, 4, close=shadow.close, max_waiting=max_waiting)
    resizer = Resizer(gate, shadow, limits, max_waiting)
    calls = by_eight(gate, shadow, seed, 200, resizer)
    seen = sum((call.get() for call in calls), Counter[str]())
    stats = gate.stats()

    disturbances = ("resize", "relimit", "tighten", "suspend", "evict")
    assert seen.total() - sum(seen[what] for what in disturbances) == 1600
    assert min(seen[what] for what in ("release", "discard", "abandon", "release twice", *disturbances)) > 0
    assert resizer.tightened > 0
    assert (stats.leased, stats.waiting, stats.idle) == (0, 0, len(shadow.open))
    assert stats.peak <= resizer.most
    for key, limit in limits.items():
        assert stats.hosts.get(key) is None or stats.hosts[key].idle <= limit
    assert stats.idle <= (stats.capacity or 0)
    gate.resize(100, max_waiting=None, max_idle=math.inf)
    for key, limit in limits.items():
        audit(gate, key, limit)


@pytest.mark.parametrize("seed", range(2))
def test_any_use_under_fixed_limits_keeps_them_at_every_instant(seed: int) -> None:
    """The same while nothing changes: the bound is exact from the first moment to the last."""
    limits = {"a": 1, "b": 2, "c": 3}
    shadow = Shadow(limits, total=4)
    gate = a_gate(limits, 4, close=shadow.close)
    calls = by_eight(gate, shadow, seed, 200)
    seen = sum((call.get() for call in calls), Counter[str]())
    stats = gate.stats()

    assert seen.total() == 1600
    assert (stats.leased, stats.waiting, stats.idle) == (0, 0, len(shadow.open))
    assert stats.peak <= 4
    for key, limit in limits.items():
        audit(gate, key, limit)


def test_closing_in_the_middle_of_any_use() -> None:
    """Closed while eight threads do everything at random: all end, and nothing is open or in use afterwards."""
    limits = {"a": 1, "b": 2, "c": 3}
    shadow = Shadow(limits, total=4)
    gate = a_gate(limits, 4, close=shadow.close)
    calls = by_eight(gate, shadow, 0, 300)
    eventually(lambda: gate.stats().reused > 100 or any(call.is_done for call in calls))
    gate.close()
    seen = sum((call.get() for call in calls), Counter[str]())

    assert seen["PoolClosed"] > 0
    assert gate.stats().hosts == {}
    assert shadow.open == {}


def test_a_permit_may_be_released_by_another_thread() -> None:
    """Who gives back need not be who took: a response may be closed anywhere."""
    gate = a_gate()
    held = take(gate)
    with in_queue(gate) as call:
        in_thread(gate.release, held).get()
    gate.release(call.get())

    audit(gate)


def test_a_permit_in_any_state_can_be_released() -> None:
    """Never asked for, leased or returned: releasing it is right, and counts once."""
    gate = a_gate(per_key=2)
    unasked, held, other = new(), take(gate), take(gate)
    gate.release(unasked)
    gate.release(held)
    gate.release(held)

    assert gate.stats().leased == 1
    gate.release(other)
    audit(gate, limit=2)
