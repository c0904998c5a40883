"""Fixtures for all tests; helpers to import are in `tests/helpers.py`."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.helpers import PATIENCE, WatchedClock, eventually


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves threads behind that it started.

    Fixtures of a wider scope are set up before this one, so their threads may stay.
    """
    before = set(threading.enumerate())
    yield

    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in before]

    if left():
        gc.collect()  # executors end their threads when they are collected; a traceback may hold one in a cycle
        try:
            eventually(lambda: not left(), within=5.0)
        except AssertionError:
            pytest.fail(f"threads left behind: {', '.join(map(repr, left()))}", pytrace=False)


@pytest.fixture(params=[None, 1e-6], ids=["relaxed", "frantic"])
def switch_interval(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test as it is, and again with threads that take turns as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(request.param or before)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Calls a function in a thread of its own that lives on until the test ends, and so do the leases it took there."""
    with contextlib.ExitStack() as threads:

        def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return threads.enter_context(ThreadPoolExecutor(1)).submit(function, *args, **kwargs).result(PATIENCE)

        yield call


@pytest.fixture
def clock() -> WatchedClock:
    """A clock that stands still until told to move."""
    return WatchedClock()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail when a test was skipped: for machines that have, or should have, all that tests need",
    )
    parser.addoption(
        "--frantic",
        action="store_true",
        help="run everything with threads that take turns as often as the interpreter lets them",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--frantic"):
        sys.setswitchinterval(1e-6)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--no-skips") or reporter is None or not reporter.stats.get("skipped"):
        return
    reporter.write_line(f"--no-skips: {len(reporter.stats['skipped'])} skipped, and none may be", red=True)
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
