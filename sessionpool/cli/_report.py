"""What a person sees of a run, on standard error: a bar, or a line now and then, and the sum at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

import attrs
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sessionpool._ledger import PoolStats
    from sessionpool.cli._load import Waits
    from sessionpool.cli._output import Page

_NAMED: Final = 10  # failed pages named in the summary; the others are in the output
_EVERY: Final = 5.0


@attrs.define
class Tally:
    """Counts of a run. Written by one thread; another may read them for display.

    Attributes:
        earlier: Pages an earlier run had done, included in `pages`.
        queued: Pages known and not yet fetched, those in flight included; `None` while nobody knows.
        kinds: Errors by class.
        failed: The first few failed pages.
        pause: Seconds between two requests to the site, if it asks for that; else 0. Any thread may set it.
    """

    pages: int = 0
    earlier: int = 0
    queued: int | None = None
    bytes: int = 0
    failures: int = 0
    classes: Counter[str] = attrs.field(factory=Counter)
    kinds: Counter[str] = attrs.field(factory=Counter)
    failed: list[Page] = attrs.field(factory=list)
    pause: float = 0.0

    def add(self, page: Page, *, earlier: bool = False) -> None:
        """Count one page."""
        self.pages += 1
        self.earlier += earlier
        self.bytes += page.size
        if page.status is not None:
            self.classes[f"{page.status // 100}xx"] += 1
        if page.error is not None:
            self.kinds[page.kind or "error"] += 1
        if page.has_failed:
            self.failures += 1
            if len(self.failed) < _NAMED:
                self.failed.append(page)


class Progress:
    """Shows a run while it lasts: a bar on a terminal, elsewhere a line every few seconds. Thread-safe.

    Args:
        name: The command's.
        tally: What there is to show.
        stats: The pool's.
        waits: The pool's observer.
        shares_output: The output goes to standard output.
    """

    def __init__(
        self, name: str, tally: Tally, stats: Callable[[], PoolStats], waits: Waits, *, shares_output: bool
    ) -> None:
        self._name = name
        self._shares_output = shares_output
        self._tally = tally
        self._stats = stats
        self._waits = waits
        self._console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def say(self, sentence: str) -> None:
        """Print one line above the bar."""
        if self._live is not None:
            self._console.print(f"sessionpool {self._name}: {sentence}", markup=False, soft_wrap=True)
        else:
            print(f"sessionpool {self._name}: {sentence}", file=sys.stderr, flush=True)

    def show(self, lines: list[str]) -> None:
        """Print the summary."""
        print(*lines, sep="\n", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        # A bar and lines on the same terminal would overwrite each other.
        has_room = not (self._shares_output and sys.stdout.isatty())
        if sys.stderr.isatty() and not self._console.is_dumb_terminal and has_room:
            self._live = Live(get_renderable=self._bar, console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._say_now_and_then, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _say_now_and_then(self) -> None:
        while not self._ended.wait(_EVERY):
            self.say(self._state())

    def _state(self) -> str:
        tally, stats = self._tally, self._stats()
        total = "" if tally.queued is None else f" of {tally.pages + tally.queued:,}"
        said = [
            f"{tally.pages:,}{total} pages, {_rate(tally, self.seconds)}/s, {tally.failures:,} failed",
            f"{stats.leased} connections in use, {stats.waiting} waiting",
        ]
        if stats.sleeping and not stats.leased:
            # Nothing moves: that is meant, and not to look like a run that hangs.
            resting = self._waits.resting()
            said.append(
                f"{stats.sleeping} pausing" if resting is None else f"waiting for {resting[0]}: {resting[1]:.0f} s"
            )
        if tally.pause and tally.queued:
            said.append(f"{span(tally.queued * tally.pause)} to go at a page every {span(tally.pause)}")
        return ", ".join(said)

    def _bar(self) -> Table:
        tally = self._tally
        total = None if tally.queued is None else float(max(tally.pages + tally.queued, 1))
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=total, completed=tally.pages, width=30), self._state())
        return row


def summary(tally: Tally, stats: PoolStats, waits: Waits, seconds: float) -> list[str]:
    """The sum of a run, line by line."""
    earlier = f" ({tally.earlier:,} of them by an earlier run)" if tally.earlier else ""
    pages = f"{count(tally.pages, 'page')}{earlier}"
    lines = [f"{pages}, {_size(tally.bytes)}, {seconds:.1f} s, {_rate(tally, seconds)} pages/s"]
    if tally.classes:
        lines.append("status: " + ", ".join(f"{name} {n:,}" for name, n in sorted(tally.classes.items())))
    if tally.kinds:
        lines.append("errors: " + ", ".join(f"{name} {n:,}" for name, n in tally.kinds.most_common()))
    if waits.retries or waits.asked:
        asked = f", hosts asked to wait {count(waits.asked, 'time')}" if waits.asked else ""
        retries = f"{waits.retries:,} {'retry' if waits.retries == 1 else 'retries'}"
        lines.append(f"tried again: {retries}{asked}")
    if uses := stats.opened + stats.reused:
        lines.append(
            f"connections: at most {stats.peak} open at once, {stats.opened:,} opened for "
            f"{count(uses, 'request')} ({stats.reused / uses:.1%} reused one)"
        )
    for page in tally.failed:
        where = f", linked from {page.referrer}" if page.referrer else ""
        lines.append(f"failed: {page.url}{where}: {page.error or f'status {page.status}'}")
    if tally.failures > len(tally.failed):
        lines.append(f"failed: {tally.failures - len(tally.failed):,} more, see the output")
    return lines


def _rate(tally: Tally, seconds: float) -> str:
    return f"{(tally.pages - tally.earlier) / max(seconds, 1e-6):,.0f}"


def count(number: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span(seconds: float) -> str:
    """A length of time, for people."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.3g} s"


def _size(octets: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if octets < 1000 or unit == "GB":
            return f"{octets:,.0f} {unit}" if unit == "bytes" else f"{octets:,.1f} {unit}"
        octets /= 1000
    raise AssertionError
