"""What crawl and fetch share: options, the loop that keeps the pool busy, the end and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import queue
import re
import signal
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import attrs

from sessionpool import AutoThrottle, Governor, Limits, RateLimit, RetryPolicy, SessionPool, Timeout, TimeoutSettings
from sessionpool._version import __version__
from sessionpool.cli._load import Loader, Waits
from sessionpool.cli._output import Page, PageFile, ReaderGone, Unusable
from sessionpool.cli._report import Progress, Tally, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from sessionpool import Session

EXIT_CODES: Final = """\
exit codes:
  0    every page was fetched well
  1    some page failed: no complete answer, or a status of 400 or more
  2    wrong usage, or a file that cannot be read or written
  130  interrupted by Ctrl-C (143: by SIGTERM); --resume goes on
  141  whoever read standard output went away, as head does"""
RETRIED: Final = """\
what is tried again (--retries):
  A page to which no connection could be had, or that broke before the answer began,
  or took too long to begin; and the statuses 429, 502, 503 and 504. Not an answer
  that breaks off in its midst: --resume asks for that again. All pages of a host
  that asks to wait (Retry-After) wait for that, up to 60 s; if it asks for more they
  fail at once, and --resume asks for them again. If more than one page in five
  fails, fewer are tried again, so that a host in trouble gets no extra load."""
_PATIENCE: Final = 60.0  # seconds that a host may ask to be left alone before its pages fail
_MOST_THROTTLED: Final = 60.0
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9110 §5.5


@attrs.frozen
class Task:
    """One URL to fetch.

    Attributes:
        referrer: The page it was found on.
        depth: As in `Page`.
        problem: Why it cannot be fetched, where that is known beforehand.
    """

    url: str
    referrer: str | None = None
    depth: int | None = None
    problem: str | None = None


class Source(Protocol):
    """What there is to fetch. `fetch` runs on the pool's threads, everything else on the main thread."""

    def take(self, page: Page) -> None:
        """An earlier run has done this page."""

    def next(self) -> Task | None:
        """The next URL; `None` while there is none."""

    def queued(self) -> int | None:
        """How many URLs `next` has left, 0 when the run may end; `None` while that is not known."""

    def fetch(self, session: Session, task: Task) -> Page:
        """Fetch one page."""

    def took(self, page: Page) -> None:
        """A page was fetched or left out; what is still missing in its line is filled in here."""

    def end(self) -> tuple[list[str], bool]:
        """What is to be added to the summary, and whether the run failed whatever its pages say."""


@attrs.frozen
class Tools:
    """What a source may use.

    Attributes:
        say: Prints a sentence. Thread-safe.
        wake: To be called when `Source.next` has something again after it had not. Thread-safe.
        loader: Fetches pages.
        pace: Makes the pool leave so many seconds between two requests to a URL's host. One call at a time.
    """

    say: Callable[[str], None]
    wake: Callable[[], None]
    loader: Loader
    pace: Callable[[str, float], None]


# What the main thread waits for: a page, a signal's number, or `None`: the source has something again.
_Events: TypeAlias = "queue.SimpleQueue[tuple[Task, Future[Page]] | int | None]"


def add_options(parser: argparse.ArgumentParser, agent: str) -> None:
    """Add the options that both commands have; `agent` is the default User-Agent's name."""
    pool = parser.add_argument_group("how fast")
    pool.add_argument("--workers", type=whole, default=32, metavar="N", help="threads (default: %(default)s)")
    pool.add_argument(
        "--per-host",
        type=whole,
        default=8,
        metavar="N",
        help="connections open to one host at once, at most (default: %(default)s)",
    )
    pool.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for the next bytes of an answer (default: %(default)g), and for a connection "
        "to open, but for that at most 5 s; an answer that never ends is cut off after 40 times that and a minute "
        "for each attempt, or more where more workers share a connection or keep to a pace",
    )
    pool.add_argument(
        "--retries",
        type=natural,
        default=2,
        metavar="N",
        help="try a failed page again, at most so often (default: %(default)s; 0: never); see below",
    )
    pool.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help="requests per second to one host, at most, decimals allowed: 0.2 is one every 5 s (default: no limit)",
    )
    pool.add_argument(
        "--throttle",
        action="store_true",
        help="slow down when the host does: one request under way on average, up to 60 s apart",
    )
    sent = parser.add_argument_group("what is sent")
    sent.add_argument(
        "--user-agent",
        type=_value,
        default=f"{agent}/{__version__}",
        metavar="TEXT",
        help="User-Agent (default: %(default)s)",
    )
    sent.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="one more header for every request; may be given several times",
    )
    sent.add_argument(
        "--cert",
        metavar="FILE",
        help="certificate and key (PEM) to show to servers that ask for one; proxies and authorities to trust are "
        "those of the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE)",
    )
    seen = parser.add_argument_group("how it is watched")
    seen.add_argument(
        "--ops",
        type=int,
        metavar="PORT",
        help="serve a status page, and metrics for Prometheus, on this port of 127.0.0.1 while it runs; 0: any that is "
        "free",
    )
    out = parser.add_argument_group("where it goes")
    out.add_argument("--out", default="-", metavar="FILE", help="one JSON line per page (default: -, standard output)")
    how = out.add_mutually_exclusive_group()
    how.add_argument(
        "--resume",
        action="store_true",
        help="go on from FILE: what it has is not fetched again, unless there was no complete answer, or one that "
        "asks to come again (429, 502, 503, 504)",
    )
    how.add_argument("--force", action="store_true", help="replace FILE if it exists")


def run(name: str, args: argparse.Namespace, make: Callable[[Tools], Source]) -> int:
    """Fetch what the source has, write a line for each page, and say how it went.

    Args:
        name: The command's.
        args: Its options, those of `add_options` among them.
        make: Makes the source.

    Returns:
        The exit code.
    """
    events: _Events = queue.SimpleQueue()
    tally = Tally()
    waits = Waits()
    with _pool(name, args, waits) as pool, contextlib.ExitStack() as served:
        progress = Progress(name, tally, pool.stats, waits, shares_output=args.out == "-")
        loader = Loader(waits, _timeout(args, 0.0))

        def pace(url: str, pause: float) -> None:
            pool.limit_rate(url, RateLimit(rate=1 / pause))
            tally.pause = max(tally.pause, pause)
            loader.timeout = _timeout(args, tally.pause)

        try:
            source = make(Tools(progress.say, lambda: events.put(None), loader, pace))
            out = PageFile(args.out, resume=args.resume, force=args.force, take=_taker(source, tally))
        except Unusable as error:
            progress.say(str(error))
            return 2
        if args.ops is not None:
            try:
                progress.say(f"status page: {served.enter_context(pool.serve(args.ops)).url}")
            except OSError as error:
                progress.say(error.strerror or str(error))
                out.close()
                return 2
        code = None
        try:
            with progress, _signals_into(events):
                stopped = _drive(pool, source, out=out, tally=tally, events=events, window=2 * args.workers)
            if stopped is not None:
                code = 128 + stopped
        except Unusable as error:
            progress.say(str(error))
            code = 2
        except ReaderGone:
            return 141  # as silently as a program that the system ends for that (128 + SIGPIPE)
        finally:
            pool.close(timeout=0)  # cuts off what is in flight
            out.close()
        notes, has_failed = source.end()
        if code is None:
            code = 1 if has_failed or tally.failures else 0
        elif code != 2:
            how = "" if args.out == "-" else f"; the same command with --resume goes on from {args.out}"
            notes.append(f"interrupted{how}")
        progress.show([*summary(tally, pool.stats(), waits, progress.seconds), *notes])
        return code


def _pool(name: str, args: argparse.Namespace, waits: Waits) -> SessionPool:
    return SessionPool(
        name=name,
        limits=Limits(per_host=args.per_host, total=max(100, args.per_host)),
        timeout=_timeout(args, 0.0),
        # No budget: a page that is given up is a page that is missing, and the host sets the pace by its cool-down.
        retry=RetryPolicy(attempts=1 + args.retries, retry_after_max=_PATIENCE, budget=None),
        governor=Governor(
            rate=None if args.rate is None else RateLimit(rate=args.rate),
            throttle=AutoThrottle(most=_MOST_THROTTLED) if args.throttle else None,
        ),
        observer=waits,
        workers=args.workers,
        headers={"User-Agent": args.user_agent, **dict(args.header)},
        cert=args.cert,
    )


def _timeout(args: argparse.Namespace, pause: float) -> TimeoutSettings:
    """The limits of one page, where `pause` seconds are left between two requests to a host if not more are.

    Waiting for a connection has no limit of its own: whoever holds one is bound by `total`, a backstop against answers
    that never end. It counts all waiting, so it grows with the workers per connection; and each attempt may have to
    wait for a host that asks to be left alone, and for the turns of all other workers.
    """
    turns = max(4, math.ceil(args.workers / args.per_host))
    pauses = [pause, 0.0 if args.rate is None else 1 / args.rate, _MOST_THROTTLED if args.throttle else 0.0]
    waiting = (1 + args.retries) * (_PATIENCE + args.workers * max(pauses))
    return Timeout(
        connect=min(5.0, args.timeout), read=args.timeout, total=10 * args.timeout * turns + waiting, pool=None
    )


def _taker(source: Source, tally: Tally) -> Callable[[Page], None]:
    def take(page: Page) -> None:
        tally.add(page, earlier=True)
        source.take(page)

    return take


def _drive(
    pool: SessionPool, source: Source, *, out: PageFile, tally: Tally, events: _Events, window: int
) -> int | None:
    """Keep up to `window` pages in flight until there are none left; the signal's number if one came first.

    The window is larger than the number of workers, so that none waits for this thread; it is bounded, so
    that memory is, however long the list.
    """
    in_flight = 0
    while True:
        while in_flight < window and (task := source.next()) is not None:
            pool.submit(source.fetch, task).add_done_callback(functools.partial(_put, events, task))
            in_flight += 1
        queued = source.queued()
        tally.queued = None if queued is None else queued + in_flight
        if not in_flight and queued == 0:
            return None
        event = _next(events)
        if isinstance(event, int):
            return event
        if event is not None:
            in_flight -= 1
            page = _result(*event)
            source.took(page)
            if not page.is_left_out:
                out.write(page)
                tally.add(page)


def _next(events: _Events) -> tuple[Task, Future[Page]] | int | None:
    """The next event, however long it takes.

    In pieces: a signal that comes just before the thread blocks, or to another thread, does not end the blocking.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=0.5)


def _put(events: _Events, task: Task, future: Future[Page]) -> None:
    events.put((task, future))


def _result(task: Task, future: Future[Page]) -> Page:
    error = future.exception()
    if error is None:
        return future.result()
    # Not a failed request, which `load` has caught: a bug here or in a parser. It costs this page, not the
    # run.
    sentence = f"could not be processed: {type(error).__name__}: {error}"
    return Page(url=task.url, referrer=task.referrer, depth=task.depth, error=sentence, kind=type(error).__name__)


@contextlib.contextmanager
def _signals_into(events: _Events) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM arrive as an event, so that it never falls into the middle of a line.

    The second one does what it always does: it must be able to end even a run that hangs.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def arrived(number: int, _: object) -> None:
        restore()
        events.put(number)  # safe here: SimpleQueue.put may interrupt itself

    for number in before:
        signal.signal(number, arrived)
    try:
        yield
    finally:
        restore()


def whole(text: str) -> int:
    """An option's value: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """An option's value: a whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    return _above_0(text, "a number of seconds above 0")


def _rate(text: str) -> float:
    return _above_0(text, "a number of requests per second, at least 0.000001", least=1e-6)


def _above_0(text: str, meant: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {meant}")
    return value


def _value(text: str) -> str:
    if _VALUE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("a header's value must not hold line breaks or other control characters")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or _TOKEN.fullmatch(name) is None:
        # Without its value, which may be a secret.
        raise argparse.ArgumentTypeError(f"{name!r} is not the beginning of a header such as 'Accept-Language: en'")
    return name, _value(value.strip())
