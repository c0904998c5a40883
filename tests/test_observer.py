"""The observer: told what happens, never in the way."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from sessionpool._observer import Observer, Watch
from tests.helpers import in_thread

HOST = "http://127.0.0.1:8000"

EVENTS: dict[str, tuple[Any, ...]] = {
    "waited": (HOST, 0.5),
    "connected": (HOST, 0.25),
    "closed": (HOST, "expired"),
    "responded": ("GET", HOST, 200, 0.125, 100, 1024),
    "failed": ("GET", HOST, OSError("broken"), 0.125),
    "leaked": ("ada", 60.0, "crawler.py, line 7"),
    "retrying": ("GET", HOST, 1, "503", 0.25),
    "denied": (HOST, "budget"),
    "cooled": (HOST, 30.0, "429 Retry-After"),
    "throttled": (HOST, 0.5),
    "circuit": (HOST, "open"),
    "retired": ("ada", "blocked by 403"),
    "benched": ("http://127.0.0.1:3128", 300.0, "ProxyError"),
}


class Recorder(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def waited(self, host: str, seconds: float) -> None:
        self.told.append(("waited", host, seconds))

    def connected(self, host: str, seconds: float) -> None:
        self.told.append(("connected", host, seconds))

    def closed(self, host: str, reason: str) -> None:
        self.told.append(("closed", host, reason))

    def responded(self, method: str, host: str, status: int, seconds: float, sent: int, received: int) -> None:
        self.told.append(("responded", method, host, status, seconds, sent, received))

    def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:
        self.told.append(("failed", method, host, error, seconds))

    def leaked(self, key: Hashable, seconds: float, stack: str) -> None:
        self.told.append(("leaked", key, seconds, stack))

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:
        self.told.append(("retrying", method, host, attempt, reason, wait))

    def denied(self, host: str, reason: str) -> None:
        self.told.append(("denied", host, reason))

    def cooled(self, host: str, seconds: float, reason: str) -> None:
        self.told.append(("cooled", host, seconds, reason))

    def throttled(self, host: str, seconds: float) -> None:
        self.told.append(("throttled", host, seconds))

    def circuit(self, host: str, state: str) -> None:
        self.told.append(("circuit", host, state))

    def retired(self, key: Hashable, reason: str) -> None:
        self.told.append(("retired", key, reason))

    def benched(self, proxy: str, seconds: float, reason: str) -> None:
        self.told.append(("benched", proxy, seconds, reason))


def bound(watch: Watch) -> dict[str, Callable[..., None] | None]:
    return {event: getattr(watch, event) for event in EVENTS}


def tell(watch: Watch, event: str) -> None:
    """As the transport does: whoever is bound is called, and dropped if that raises."""
    method = getattr(watch, event)
    if method is not None:
        try:
            method(*EVENTS[event])
        except Exception:  # noqa: BLE001 - whatever an observer may raise
            watch.drop()


def test_every_event_can_be_told() -> None:
    """The events are the observer's public methods, all of them."""
    assert {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)} == set(EVENTS)
    assert set(Watch.__slots__) == {*EVENTS, "_observers", "_recorders", "meter"}


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_passed_on(event: str) -> None:
    """As it is told, so it arrives."""
    observer = Recorder()
    tell(Watch(observer), event)

    assert observer.told == [(event, *EVENTS[event])]


@pytest.mark.parametrize("event", EVENTS)
def test_an_observer_may_leave_out_what_it_likes(event: str) -> None:
    """The base class takes every event and does nothing."""
    assert getattr(Observer(), event)(*EVENTS[event]) is None


def test_what_is_not_overridden_is_not_called() -> None:
    """Not to call costs least: only what the observer does itself is bound."""

    class Half(Observer):
        def connected(self, host: str, seconds: float) -> None:
            pass

        def failed(self, method: str, host: str, error: BaseException, seconds: float) -> None:
            pass

    class Quarter(Half):
        failed = Observer.failed

    assert {event for event, method in bound(Watch(Half())).items() if method} == {"connected", "failed"}
    assert {event for event, method in bound(Watch(Quarter())).items() if method} == {"connected"}
    assert not any(bound(Watch(Observer())).values())
    assert not any(bound(Watch(None)).values())


def test_an_observer_need_not_be_a_subclass() -> None:
    """Whatever has the methods will do, functions set on an object too."""
    told: list[tuple[Any, ...]] = []

    class Duck:
        pass

    duck = Duck()
    duck.closed = lambda *args: told.append(args)  # type: ignore[attr-defined]
    watch = Watch(duck)  # type: ignore[arg-type]
    for event in EVENTS:
        tell(watch, event)

    assert told == [EVENTS["closed"]]


@pytest.mark.parametrize("event", EVENTS)
def test_an_observer_that_raises_is_logged_and_dropped(event: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its failure stays its own: one log line with the traceback, and no event after it."""

    class Broken(Recorder):
        def __repr__(self) -> str:
            return "<broken>"

    def fail(*args: Any) -> None:
        raise ZeroDivisionError("in the observer")

    observer = Broken()
    setattr(observer, event, fail)
    watch = Watch(observer)
    with caplog.at_level(logging.DEBUG, "sessionpool"):
        for _ in range(3):
            tell(watch, event)
        for other in EVENTS:
            tell(watch, other)
    (record,) = caplog.records

    assert record.getMessage() == "observer <broken> raised and is dropped"
    assert record.levelno >= logging.WARNING
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert observer.told == []
    assert not any(bound(watch).values())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_meant_for_the_program_passes_through(error: type[BaseException]) -> None:
    """Ctrl-C in an observer's method is not the observer's failure."""

    class Interrupted(Recorder):
        def connected(self, host: str, seconds: float) -> None:
            raise error

    observer = Interrupted()
    watch = Watch(observer)
    with pytest.raises(error):
        tell(watch, "connected")
    tell(watch, "waited")

    assert observer.told == [("waited", *EVENTS["waited"])]


def test_dropping_again_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A thread that finds the observer broken after another did adds no line."""
    watch = Watch(Recorder())
    with caplog.at_level(logging.DEBUG, "sessionpool"):
        watch.drop()
        watch.drop()

    assert len(caplog.records) == 1


def test_two_threads_that_find_it_broken_at_once_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """Also one that comes while the other is about to log it adds no line: thirty-two workers are not as many lines."""
    watch = Watch(Recorder())
    logger = logging.getLogger("sessionpool")

    class Meanwhile(logging.Filter):
        """Drops the observer from another thread just before the line is written."""

        def filter(self, record: logging.LogRecord) -> bool:
            logger.removeFilter(self)
            in_thread(watch.drop).get()
            return True

    logger.addFilter(Meanwhile())
    with caplog.at_level(logging.DEBUG, "sessionpool"):
        watch.drop()

    assert len(caplog.records) == 1


@pytest.mark.parametrize("event", EVENTS)
def test_a_recorder_is_told_what_the_observer_is_told(event: str) -> None:
    """Each event, from when it joins until it leaves; leaving twice is harmless."""
    observer, recorder = Recorder(), Recorder()
    watch = Watch(observer)
    tell(watch, event)
    watch.join(recorder)
    tell(watch, event)
    watch.leave(recorder)
    watch.leave(recorder)
    tell(watch, event)

    assert observer.told == [(event, *EVENTS[event])] * 3
    assert recorder.told == [(event, *EVENTS[event])]


def test_an_observer_that_raises_keeps_nothing_from_recorders(caplog: pytest.LogCaptureFixture) -> None:
    """The observer is dropped; who joined is told of that event too, and of all that follow."""

    class Raising(Observer):
        def circuit(self, host: str, state: str) -> None:
            raise RuntimeError("no more")

    recorder = Recorder()
    watch = Watch(Raising())
    watch.join(recorder)
    tell(watch, "circuit")
    tell(watch, "circuit")

    assert recorder.told == [("circuit", HOST, "open")] * 2
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("switch_interval")
def test_who_joins_while_others_leave_is_told() -> None:
    """Changes by several threads at once all count."""
    stays = [Recorder() for _ in range(4)]
    watch = Watch(None)

    def change(mine: Recorder) -> None:
        for _ in range(50):
            passing = Recorder()
            watch.join(passing)
            watch.leave(passing)
        watch.join(mine)

    for call in [in_thread(change, each) for each in stays]:
        call.get()
    tell(watch, "circuit")

    assert [each.told for each in stays] == [[("circuit", HOST, "open")]] * 4
