"""Who is told to stop: shifts that end as they are stopped, idents used again, pauses and places in a queue."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from threading import get_ident

import pytest

from sessionpool._clock import NEVER, SYSTEM_CLOCK
from sessionpool._gate import Gate
from sessionpool._jobs import Crew
from sessionpool._ledger import LEASED, RETURNED, Ledger, Permit
from sessionpool._sleep import Sleepers
from sessionpool._stop import Shift, Stopped
from sessionpool.exceptions import Cancelled, PoolClosed
from sessionpool.testing import FakeClock
from tests.helpers import Thing, WatchedClock, eventually, in_thread

REASON = "the work was stopped"


# --- shifts ---


def test_a_shift_is_stopped_until_it_is_over() -> None:
    """Its thread is to stop for as long as it lasts, no other thread is, and nothing is left of it."""
    stopped = Stopped()
    shift, other = Shift(1.0), Shift(1.0)
    other.thread = -7
    stopped.stop(shift, REASON)

    assert stopped.shift_of(get_ident()) is shift
    assert shift.reason == REASON
    assert stopped.shift_of(-7) is None
    stopped.end(shift)
    assert stopped.shift_of(get_ident()) is None
    assert not stopped


def test_a_shift_that_is_over_is_not_stopped() -> None:
    """Whoever comes too late leaves nothing behind for the next thread of that ident."""
    stopped = Stopped()
    shift = Shift(1.0)
    stopped.end(shift)
    stopped.stop(shift, REASON)

    assert not stopped


@pytest.mark.usefixtures("switch_interval")
def test_stopping_crosses_the_end_of_a_shift() -> None:
    """Both at once, many times: in the end nobody is to stop."""
    stopped = Stopped()
    for _ in range(300):
        shift = Shift(1.0)
        together = threading.Barrier(2)

        def stop(shift: Shift = shift, together: threading.Barrier = together) -> None:
            together.wait()
            stopped.stop(shift, REASON)

        with in_thread(stop):
            together.wait()
            stopped.end(shift)
        assert not stopped


# --- the workers of a map ---


def a_crew(stopped: Stopped, rouse: Callable[[], None] = lambda: None) -> Crew:
    return Crew(FakeClock(5.0), stopped, rouse, REASON)


def test_a_crew_stops_who_is_at_work() -> None:
    """Those in the midst of an item are to stop, from when it began on; they are noted before any is woken."""
    stopped = Stopped()
    seen = list[Shift | None]()
    crew = a_crew(stopped, lambda: seen.append(stopped.shift_of(get_ident())))
    ended, shift = crew.shift(), crew.shift()
    crew.begin(ended)
    crew.end(ended)
    crew.begin(shift)
    crew.stop()

    assert seen == [shift]
    assert shift.began == 5.0
    with pytest.raises(Cancelled, match=f"{REASON} in the wait"):
        crew.check()
    crew.end(shift)
    crew.check()
    assert not stopped


def test_a_crew_that_is_stopped_begins_nothing() -> None:
    """A worker that takes an item at that moment does not begin it, and is free afterwards."""
    stopped = Stopped()
    crew = a_crew(stopped)
    crew.stop()
    shift = crew.shift()
    with pytest.raises(Cancelled, match=f"{REASON} before the item was begun"):
        crew.begin(shift)
    crew.end(shift)

    assert not stopped
    assert not crew._shifts


# --- pauses ---


@pytest.fixture
def stopped() -> Stopped:
    return Stopped()


def test_a_pause_ends_at_its_instant(stopped: Stopped) -> None:
    """And nothing is left of it."""
    clock = FakeClock(jumps=True)
    sleepers = Sleepers(clock, stopped)
    sleepers.sleep(3.0)

    assert clock.now() == 3.0
    assert len(sleepers) == 0


def test_who_is_to_stop_is_woken_from_its_pause(stopped: Stopped, clock: WatchedClock) -> None:
    """It alone: others pause on."""
    sleepers = Sleepers(clock, stopped)

    def work() -> None:
        shift = Shift(0.0)
        shifts.append(shift)
        try:
            sleepers.sleep(60.0)
        finally:
            stopped.end(shift)

    shifts = list[Shift]()
    with in_thread(sleepers.sleep, 60.0) as other:
        with in_thread(work) as worker:
            eventually(lambda: len(sleepers) == 2)
            stopped.stop(shifts[0], REASON)
            sleepers.rouse()
        assert not other.is_done
        clock.advance(60.0)

    assert type(worker.error) is Cancelled
    assert str(worker.error) == f"{REASON} in the pause before the next request"
    assert other.error is None
    assert len(sleepers) == 0


def test_who_is_to_stop_does_not_begin_a_pause(stopped: Stopped) -> None:
    """Also one that was looked for before it had begun."""
    sleepers = Sleepers(FakeClock(), stopped)
    shift = Shift(0.0)
    stopped.stop(shift, REASON)
    sleepers.rouse()
    with pytest.raises(Cancelled):
        sleepers.sleep(60.0)
    stopped.end(shift)
    sleepers.sleep(0.0)

    assert len(sleepers) == 0


def test_woken_between_becoming_visible_and_waiting(stopped: Stopped) -> None:
    """A bell that rings before anybody listens is heard."""

    class Late(FakeClock):
        def wait(self, baton: object, until: float) -> bool:
            sleepers.close("it was closed")
            return super().wait(baton, until)  # type: ignore[arg-type]

    sleepers = Sleepers(Late(), stopped)
    with pytest.raises(PoolClosed, match="it was closed in the pause"):
        sleepers.sleep(60.0)


def test_closing_ends_the_pauses_of_those_that_are_to_stop_too(stopped: Stopped) -> None:
    """The pool's end is what they are told, and so is whoever comes later."""
    sleepers = Sleepers(FakeClock(), stopped)
    stopped.stop(Shift(0.0), REASON)
    sleepers.close("it was closed")
    for _ in range(2):
        with pytest.raises(PoolClosed):
            sleepers.sleep(60.0)


# --- queues ---


def a_gate(stopped: Stopped) -> Gate[Thing]:
    return Gate(Ledger(lambda _: 1, math.inf), SYSTEM_CLOCK, lambda *_: None, stopped=stopped)


def new(thread: int) -> Permit[Thing]:
    return Permit("a", "plain", thread)


def test_who_is_to_stop_leaves_the_queue(stopped: Stopped) -> None:
    """It gets nothing and takes nobody's turn; the one behind it is served next."""
    gate = a_gate(stopped)
    held, own, behind = new(-1), new(get_ident()), new(-3)
    own.thread = -2
    shift = Shift(0.0)
    shift.thread = -2
    gate.acquire(held, None, NEVER)
    with in_thread(gate.acquire, own, None, NEVER) as worker:
        eventually(lambda: gate.stats().waiting == 1)
        with in_thread(gate.acquire, behind, None, NEVER) as other:
            eventually(lambda: gate.stats().waiting == 2)
            stopped.stop(shift, REASON)
            gate.rouse()
            worker.join()
            assert not other.is_done
            gate.release(held)

    assert type(worker.error) is Cancelled
    assert str(worker.error) == f"{REASON} while a was waited for"
    assert own.state is RETURNED
    assert behind.state is LEASED
    gate.release(behind)
    assert (gate.stats().leased, gate.stats().waiting) == (0, 0)


def test_who_is_to_stop_does_not_begin_to_wait(stopped: Stopped) -> None:
    """Also one that was looked for before it had come."""
    gate = a_gate(stopped)
    held, own = new(-1), new(-2)
    shift = Shift(0.0)
    shift.thread = -2
    gate.acquire(held, None, NEVER)
    stopped.stop(shift, REASON)
    gate.rouse()
    with pytest.raises(Cancelled):
        gate.acquire(own, None, NEVER)

    assert gate.stats().waiting == 0
    gate.release(held)


@pytest.mark.usefixtures("switch_interval")
def test_served_and_stopped_at_once(stopped: Stopped) -> None:
    """Whichever comes first: the permit is leased or refused, and given back it is free for the next."""
    gate = a_gate(stopped)
    outcomes = set[str]()
    for _ in range(200):
        held, own = new(-1), new(-2)
        shift = Shift(0.0)
        shift.thread = -2
        gate.acquire(held, None, NEVER)
        with in_thread(gate.acquire, own, None, NEVER) as worker:
            eventually(lambda: gate.stats().waiting == 1)
            with in_thread(gate.release, held) as giving:
                stopped.stop(shift, REASON)
                gate.rouse()
        stopped.end(shift)
        assert giving.error is None
        outcomes.add("leased" if worker.error is None else type(worker.error).__name__)
        gate.release(own)
        assert (gate.stats().leased, gate.stats().waiting) == (0, 0)

    assert outcomes <= {"leased", "Cancelled"}
