"""What tests with threads share: run something in a thread, and wait for a state instead of a duration."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Generic, TypeVar

from sessionpool import Observer
from sessionpool._clock import Baton
from sessionpool.testing import FakeClock

R = TypeVar("R")

# Seconds until a state that does not come fails the test: a busy machine is slow, a deadlock is for ever.
PATIENCE = 20.0


class InThread(Generic[R]):
    """A call in a thread of its own, begun at once; made by `in_thread`.

    As a context manager it waits for the call to end; outside of one, call `join`.

    Attributes:
        result: What the call returned; `None` until then.
        error: What it raised; `None` if nothing.
        thread: The thread.
    """

    def __init__(self, call: Callable[[], R], name: str) -> None:
        self._call = call
        self.result: R | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - handed to whoever looks
            self.error = error

    def __enter__(self) -> InThread[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.join()
        else:  # the test has failed already, and perhaps because of this thread: do not hide why
            self.thread.join(0.1)

    @property
    def is_done(self) -> bool:
        """Whether the call has ended."""
        return not self.thread.is_alive()

    def join(self) -> InThread[R]:
        """Wait for the call to end; a call that hangs fails the test."""
        self.thread.join(PATIENCE)
        assert self.is_done, f"{self.thread.name} still runs after {PATIENCE:g} s"
        return self

    def get(self) -> R:
        """Wait for the call to end; what it returned, or raise what it raised."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # it ended without an error, so this is what it returned


def in_thread(function: Callable[..., R], *args: object, **kwargs: object) -> InThread[R]:
    """Call `function(*args, **kwargs)` in a thread of its own, begun at once.

    >>> with in_thread(sum, [1, 2]) as call:
    ...     pass
    >>> call.result
    3
    """
    return InThread(lambda: function(*args, **kwargs), getattr(function, "__name__", "in_thread"))


class Interrupt(BaseException):
    """Stands for `KeyboardInterrupt`: that one, if the code under test lets it through, would end the test run."""


class WatchedClock(FakeClock):
    """A clock that stands still until told to move, and knows how many wait on it.

    Who is in a queue need not have come to wait yet, and to have read the clock for it: tests that move the clock wait
    until it has.
    """

    def __init__(self) -> None:
        super().__init__()
        self._count = threading.Lock()
        self.waiters = 0

    def wait(self, baton: Baton, until: float) -> bool:
        with self._count:
            self.waiters += 1
        try:
            return super().wait(baton, until)
        finally:
            with self._count:
                self.waiters -= 1


class Thing:
    """What the ledger and the gate keep, in place of a connection: it can do nothing."""

    def __init__(self, identity: str = "plain", name: str = "") -> None:
        self.identity = identity
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name or 'thing'} {self.identity}>"


def eventually(predicate: Callable[[], R], *, within: float = PATIENCE) -> R:
    """Poll until `predicate()` holds, and give what it returned; fail if that takes longer than `within` seconds."""
    deadline = time.monotonic() + within
    while not (held := predicate()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {predicate!r} gives {held!r}"
        time.sleep(0.0005)
    return held


class Diary(Observer):
    """Keeps what it was told of retired sessions."""

    def __init__(self) -> None:
        self.retirements: list[tuple[Hashable, str]] = []

    def retired(self, key: Hashable, reason: str) -> None:
        self.retirements.append((key, reason))
