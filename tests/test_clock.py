"""The clock, deadlines, and the fake clock that tests hold still."""

from __future__ import annotations

import ast
import ctypes
import doctest
import math
import sys
import threading
import traceback
from pathlib import Path

import pytest

import sessionpool
from sessionpool import _clock, testing
from sessionpool._clock import NEVER, SYSTEM_CLOCK, Clock, Deadline
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, Interrupt, eventually, in_thread


def a_baton() -> threading.Lock:
    """A raw lock, made held."""
    baton = threading.Lock()
    baton.acquire()
    return baton


# --- deadlines ---


def test_a_deadline_is_made_from_a_timeout_once() -> None:
    """It is an instant, and remembers what it was made from."""
    deadline = Deadline.after(2.5, 100.0, "Timeout.total")

    assert (deadline.at, deadline.name, deadline.timeout) == (102.5, "Timeout.total", 2.5)
    assert deadline.limit == "Timeout.total=2.5 s"


def test_no_timeout_never_passes() -> None:
    """`None` is no limit, and says so."""
    assert Deadline.after(None, 100.0, "Timeout.total") is NEVER
    assert (NEVER.at, NEVER.limit) == (math.inf, "no limit")


def test_the_earlier_of_two() -> None:
    """Whichever passes first, with its name; of two at the same instant, the first."""
    soon, late = Deadline(1.0, "soon", 1.0), Deadline(2.0, "late", 2.0)

    assert soon.earlier(late) is late.earlier(soon) is soon
    assert NEVER.earlier(soon) is soon.earlier(NEVER) is soon
    assert soon.earlier(same := Deadline(1.0, "same", 1.0)) is soon
    assert same.earlier(soon) is same


@pytest.mark.parametrize(
    ("timeout", "words"), [(30, "x=30 s"), (0.25, "x=0.25 s"), (1e-6, "x=1e-06 s"), (86400.0, "x=86400 s")]
)
def test_a_limit_in_words(timeout: float, words: str) -> None:
    """Numbers as a person writes them."""
    assert Deadline.after(timeout, 0.0, "x").limit == words


# --- the system's clock ---


def test_the_system_clock_moves_forward() -> None:
    """`now` never goes back; `wall` is of this century."""
    instants = [SYSTEM_CLOCK.now() for _ in range(1000)]

    assert instants == sorted(instants)
    assert SYSTEM_CLOCK.wall() > 1_700_000_000


@pytest.mark.parametrize("until", [0.0, -1e9, -math.inf])
def test_an_instant_that_has_passed_is_not_waited_for(until: float) -> None:
    """What is there is taken, what is not is not waited for."""
    free = threading.Lock()

    assert SYSTEM_CLOCK.wait(free, until)
    assert not SYSTEM_CLOCK.wait(free, until)


@pytest.mark.parametrize("after", [math.inf, 1e300, threading.TIMEOUT_MAX, 60.0])
def test_a_released_baton_ends_the_wait(after: float) -> None:
    """Also where the instant is farther away than the system can count."""
    baton = a_baton()
    with in_thread(SYSTEM_CLOCK.wait, baton, SYSTEM_CLOCK.now() + after) as call:
        assert not call.is_done
        baton.release()

    assert call.result is True


def test_a_wait_ends_when_the_instant_has_passed() -> None:
    """Nobody releases the baton: the answer is False, and not before its time."""
    until = SYSTEM_CLOCK.now() + 0.005

    assert not SYSTEM_CLOCK.wait(a_baton(), until)
    assert SYSTEM_CLOCK.now() >= until


# --- the fake clock ---


def test_a_fake_clock_is_a_clock() -> None:
    """It can be handed in wherever a clock is asked for."""
    clock: Clock = FakeClock()

    assert clock.now() == 0.0


def test_a_fake_clock_moves_when_told() -> None:
    """It stands still otherwise, and both its scales move together."""
    clock = FakeClock(start=10.0, wall=1000.0)
    assert (clock.now(), clock.wall()) == (10.0, 1000.0)
    clock.advance(2.5)

    assert (clock.now(), clock.wall()) == (12.5, 1002.5)
    assert (clock.now(), clock.wall()) == (12.5, 1002.5)


def test_a_jumping_clock_is_where_a_wait_would_have_ended() -> None:
    """Nobody has to advance it; a baton that is released already costs no time, an instant that has passed neither."""
    clock = FakeClock(jumps=True)

    assert not clock.wait(a_baton(), 5.0)
    assert clock.now() == 5.0
    assert not clock.wait(a_baton(), 1.0)
    assert clock.wait(threading.Lock(), 9.0)
    assert clock.now() == 5.0


def test_a_fake_wait_ends_by_the_baton() -> None:
    """The baton is released: True, and the clock has not moved."""
    clock, baton = FakeClock(), a_baton()
    with in_thread(clock.wait, baton, math.inf) as call:
        assert not call.is_done
        baton.release()

    assert call.result is True
    assert clock.now() == 0.0


def test_a_fake_wait_ends_by_the_clock() -> None:
    """The clock reaches the instant: False, not a moment before."""
    clock = FakeClock()
    with in_thread(clock.wait, a_baton(), 2.0) as call:
        clock.advance(1.999)
        assert not call.is_done
        clock.advance(0.001)

    assert call.result is False


def test_a_fake_wait_prefers_the_baton() -> None:
    """Released and too late at once: what has been handed over is not left lying."""
    clock = FakeClock(start=5.0)

    assert clock.wait(threading.Lock(), 1.0)
    assert not clock.wait(a_baton(), 1.0)


def test_many_threads_wait_on_one_fake_clock() -> None:
    """Each goes on at its own instant."""
    clock = FakeClock()
    calls = [in_thread(clock.wait, a_baton(), float(number)) for number in range(1, 11)]
    for number, call in enumerate(calls, 1):
        assert not call.is_done
        clock.advance(1.0)
        eventually(lambda call=call: call.is_done, within=PATIENCE)  # type: ignore[misc]
        assert clock.now() == number

    assert [call.result for call in calls] == [False] * 10


def test_the_examples_run() -> None:
    """What the docstrings show is so."""
    assert doctest.testmod(testing) == (0, 3)
    assert doctest.testmod(_clock).failed == 0


def test_only_the_clock_asks_for_the_time() -> None:
    """Nothing in the core imports `time` but `_clock.py`, so that a test that holds the clock holds everything."""
    importers = set()
    for file in Path(sessionpool.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "time" in names or (isinstance(node, ast.ImportFrom) and node.module == "time"):
                importers.add(file.name)

    assert importers == {"_clock.py"}


def test_a_wait_is_cut_into_pieces() -> None:
    """An exception raised into a waiting thread from outside (as a signal's handler raises) reaches it in the wait."""
    with in_thread(SYSTEM_CLOCK.wait, a_baton(), math.inf) as waiting:
        ident = waiting.thread.ident
        assert ident is not None
        eventually(lambda: "wait" in names_of_the_stack(ident))
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupt)) == 1

    assert isinstance(waiting.error, Interrupt)


def names_of_the_stack(ident: int) -> list[str]:
    """The functions a thread is in."""
    frame = sys._current_frames().get(ident)
    return [] if frame is None else [entry[0].f_code.co_name for entry in traceback.walk_stack(frame)]
