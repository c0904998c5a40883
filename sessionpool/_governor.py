"""What is known of each host, and when it may be asked next."""

from __future__ import annotations

from collections.abc import Callable

from sessionpool._clock import Clock, Deadline
from sessionpool._config import Governor
from sessionpool._observer import Watch
from sessionpool._sleep import Sleepers
from sessionpool._wire import Head


class Hosts:
    """The hosts of one pool. Thread-safe."""

    def __init__(
        self,
        settings: Governor,
        clock: Clock,
        sleepers: Sleepers,
        watch: Watch,
        relimit: Callable[[str], None],
    ) -> None:
        self.watching = False
        self._settings = settings

    def enter(self, host: str, patience: float, deadline: Deadline) -> None:
        """Wait until a request may go to this host."""

    def leave(self, host: str, outcome: int | BaseException | None, began: float, latency: float | None) -> None:
        """A request that `enter` let through has ended."""

    def heard(self, host: str, head: Head) -> float | None:
        """Seconds that the host asks to be left alone, from now."""
        return None

    def may_retry(self, host: str, ratio: float | None) -> bool:
        """Take one retry out of the host's budget."""
        return True

    def allowed(self, host: str, limit: int) -> int:
        """How many connections."""
        return limit

    def pace(self, host: str, rate: float, burst: int = 1) -> None:
        """From now on at most so many requests a second."""

    def restart(self) -> None:
        """In a forked process."""
