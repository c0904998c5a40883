"""`sessionpool demo`: many users on many threads through a few connections, watched, counted and judged.

The origin runs in a process of its own and keeps its own books (`_origin`). A crowd of threads visits it in
the names of as many users: whichever thread is free takes the next visit and leases that user's identity for
it, so cookies must follow the user, not the thread. What the pool tells its observer is measured here and
shown while it runs. At the end each promise is held against the origin's count, where the origin can know,
and against our measurement elsewhere.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import math
import os
import random
import re
import signal
import sys
import threading
import time
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

import attrs
from rich import box
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sessionpool import Limits, Observer, SessionPool
from sessionpool.cli._origin import CLAIM, FAULTS_KEPT, Counts, OriginError, OriginProcess, password_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from sessionpool import Response, Session

REQUESTS = 800
SECONDS = 60.0
PAGES_PER_VISIT = 10
RECENT = 50
INTERRUPTED = 130

# First come, first served: while a thread waits, each of the others is served about once. What is measured is
# a little more, because a thread that was served must also get the interpreter before it can say so, and the
# others go on meanwhile. Turns and not seconds are promised, because a machine that pauses makes every wait
# long and nobody late. Where threads may pass each other (urllib3's pool, same crowd) thousands are served
# while the unluckiest waits.
TURNS_EACH = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's options."""
    parser.add_argument("--workers", type=_whole, default=32, metavar="N", help="threads, and users (default: 32)")
    parser.add_argument("--per-host", type=_whole, default=8, metavar="N", help="connections they share (default: 8)")
    parser.add_argument(
        "--requests",
        type=_whole,
        default=REQUESTS,
        metavar="N",
        help=f"pages each user asks for (default: {REQUESTS})",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=SECONDS, metavar="S", help=f"stop after S (default: {SECONDS:g})"
    )
    parser.add_argument(
        "--ops", type=int, metavar="PORT", help="serve a status page on this port of 127.0.0.1; 0: any that is free"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of the live view")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when every promise was kept, 1 when one was broken, 130 after Ctrl-C."""
    plain = args.plain or not sys.stdout.isatty()
    console = Console(highlight=False)
    if console.is_dumb_terminal:
        plain = True
    settings = Settings(
        users=args.workers, per_host=args.per_host, requests=args.requests, seconds=args.seconds, ops=args.ops
    )
    try:
        with OriginProcess.start() as origin:
            view: View = PlainView(console) if plain else LiveView(console)
            outcome = _drive(origin, settings, view, console)
        print_summary(console, outcome, plain=plain)
        sys.stdout.flush()
    except OriginError as error:
        print(f"sessionpool demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough; what Python still holds back must not fail at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:  # the second one: whoever presses twice does not want the summary
        return INTERRUPTED
    return outcome.exit_code


@attrs.frozen(kw_only=True)
class Settings:
    """What the demo is asked to do."""

    users: int
    per_host: int
    requests: int
    seconds: float
    ops: int | None = None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return seconds


# --- measuring ----------------------------------------------------------------------------------------------


class _Cell:
    """What one thread has measured."""

    __slots__ = ("granted", "latencies", "lock", "waits")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # taken by its own thread, and by the reader a few times a second
        self.latencies = array("d")
        self.granted = array("d")
        self.waits = array("d")


class Meter(Observer):
    """Keeps the time of every wait and every answer, 24 bytes a request. Thread-safe."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._cells: list[_Cell] = []
        self._lock = threading.Lock()

    def waited(self, host: str, seconds: float) -> None:  # noqa: ARG002  the observer's signature
        """Note a wait, and when it was over."""
        cell = self._cell()
        with cell.lock:
            cell.granted.append(time.monotonic())
            cell.waits.append(seconds)

    def responded(
        self,
        method: str,  # noqa: ARG002
        host: str,  # noqa: ARG002
        status: int,  # noqa: ARG002
        seconds: float,
        sent: int,  # noqa: ARG002
        received: int,  # noqa: ARG002
    ) -> None:
        """Note an answer."""
        cell = self._cell()
        with cell.lock:
            cell.latencies.append(seconds)

    def answered(self) -> int:
        """Requests answered until now."""
        return sum(len(cell.latencies) for cell in self._all())

    def recent_latencies(self) -> list[float]:
        """The last few latencies of each thread, sorted."""
        recent: list[float] = []
        for cell in self._all():
            with cell.lock:
                recent.extend(cell.latencies[-RECENT:])
        return sorted(recent)

    def latencies(self) -> list[float]:
        """All latencies, sorted."""
        every: list[float] = []
        for cell in self._all():
            with cell.lock:
                every.extend(cell.latencies)
        return sorted(every)

    def waits(self) -> list[tuple[float, float]]:
        """All waits as (when it was over, seconds), in the order in which they were over."""
        every: list[tuple[float, float]] = []
        for cell in self._all():
            with cell.lock:
                every.extend(zip(cell.granted, cell.waits, strict=True))
        return sorted(every)

    def _cell(self) -> _Cell:
        cell: _Cell | None = getattr(self._own, "cell", None)
        if cell is None:
            cell = self._own.cell = _Cell()
            with self._lock:
                self._cells.append(cell)
        return cell

    def _all(self) -> list[_Cell]:
        with self._lock:
            return list(self._cells)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the sorted values do not exceed; 0 when there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@attrs.frozen(kw_only=True)
class Waits:
    """How long threads waited for a connection.

    Attributes:
        turns: Most requests that were given a connection while another waited.
    """

    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    turns: int = 0

    @property
    def ratio(self) -> float:
        """The longest against the mean."""
        return self.longest / self.mean if self.mean else 0.0

    @classmethod
    def of(cls, waits: Sequence[tuple[float, float]]) -> Waits:
        """Sum up waits given as (when it was over, seconds), sorted."""
        if not waits:
            return cls()
        ordered = sorted(seconds for _, seconds in waits)
        over = [at for at, _ in waits]
        return cls(
            mean=math.fsum(ordered) / len(ordered),
            p50=percentile(ordered, 0.5),
            p99=percentile(ordered, 0.99),
            longest=ordered[-1],
            turns=max(place - bisect.bisect_right(over, at - seconds) for place, (at, seconds) in enumerate(waits)),
        )


# --- the crowd ----------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A page was not what its user must see."""


class _Crossed(_Wrong):
    """A page was another user's."""


@attrs.define
class _User:
    """One user and what they know of themselves; touched only under the lease of their identity."""

    name: str
    rng: random.Random
    is_logged_in: bool = False
    cart: int = 0


class Crowd:
    """Threads that visit the origin in the names of users, until all visits are made or it is stopped."""

    def __init__(self, pool: SessionPool, url: str, settings: Settings) -> None:
        self.total = settings.users * settings.requests
        self.done = 0
        self.errors = 0
        self.crossed = 0
        self.complaints: list[str] = []
        self._pool = pool
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._visits = self._plan(settings)
        self._executor = ThreadPoolExecutor(settings.users, thread_name_prefix="demo")
        self._threads: list[Future[None]] = [self._executor.submit(self._work) for _ in range(settings.users)]

    def wait(self, timeout: float) -> bool:
        """Wait until everybody has finished; False when they have not by then."""
        return not wait(self._threads, timeout).not_done

    def stop(self) -> None:
        """Tell everybody to come to an end with the page they are at."""
        self._stop.set()
        self._executor.shutdown(wait=False)

    @staticmethod
    def _plan(settings: Settings) -> Iterator[tuple[_User, int]]:
        width = len(str(settings.users))
        users = [
            # Seeded, so that every run asks for the same pages.
            _User(name, random.Random(name))  # noqa: S311  no secret
            for name in (f"user-{number:0{width}}" for number in range(1, settings.users + 1))
        ]
        for begun in range(0, settings.requests, PAGES_PER_VISIT):
            for user in users:
                yield user, min(PAGES_PER_VISIT, settings.requests - begun)

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                visit = next(self._visits, None)
            if visit is None:
                return
            user, pages = visit
            try:
                with self._pool.lease(user.name) as session:
                    self._visit(session, user, pages)
            except Exception as error:  # noqa: BLE001  whatever it is, it is counted and shown
                self._complain(user, "lease", error)

    def _visit(self, session: Session, user: _User, pages: int) -> None:
        browse = Browse(session, self._url, user)
        names = user.rng.choices(list(PAGES), [weight for weight, _ in PAGES.values()], k=pages)
        if not user.is_logged_in:
            names.insert(0, "login")
        for name in names:
            if self._stop.is_set():
                return
            try:
                if name == "login":
                    browse.log_in()
                else:
                    PAGES[name][1](browse)
            except Exception as error:  # noqa: BLE001  the same
                self._complain(user, name, error)
            if name != "login":
                with self._lock:
                    self.done += 1

    def _complain(self, user: _User, page: str, error: Exception) -> None:
        with self._lock:
            if isinstance(error, _Crossed):
                self.crossed += 1
            else:
                self.errors += 1
            if len(self.complaints) < FAULTS_KEPT:
                kind = "" if isinstance(error, _Wrong) else f"{type(error).__name__}: "
                self.complaints.append(f"{user.name}, {page}: {kind}{error}")


class Browse:
    """The pages as one user sees them in one visit; each checks that it is the right one."""

    def __init__(self, session: Session, url: str, user: _User) -> None:
        self._session = session
        self._url = url
        self._user = user
        # With each call and not in the session's own headers, which might cross together with its cookies.
        self._headers = {CLAIM.title(): user.name}

    def log_in(self) -> None:
        """Fill in the form, and be led to one's own page."""
        user = self._user
        form = self._get("/login").text
        token = re.search(r'name="csrf" value="([^"]+)"', form)
        if token is None:
            raise _Wrong("the login form has no token")
        fields = {"user": user.name, "password": password_of(user.name), "csrf": token[1]}
        page = self._session.post(f"{self._url}/login", data=fields, headers=self._headers)
        self._see_own_name(page)
        user.is_logged_in = True

    def me(self) -> None:
        """One's own page, with one's own cart."""
        self._see_own_name(self._get("/me"))

    def cart(self) -> None:
        """Put a thing into the cart, which changes the cookie."""
        user = self._user
        user.cart += 1
        said = self._get(f"/cart/add?item={user.cart}").json()
        if said["user"] != user.name:
            raise _Crossed(f"the cart is that of {said['user']}")
        if said["cart"] != user.cart:
            raise _Wrong(f"the cart holds {said['cart']} things instead of {user.cart}")

    def static(self) -> None:
        """A small page for everybody."""
        number = self._user.rng.randint(1, 9)
        if f"<h1>Page {number}</h1>" not in self._get(f"/static/page-{number}.html").text:
            raise _Wrong(f"this is not page {number}")

    def echo(self) -> None:
        """Send a body and get it back."""
        sent = {"user": self._user.name, "number": self._user.rng.random()}
        response = self._session.post(f"{self._url}/json", json=sent, headers=self._headers)
        got = json.loads(response.json()["body"])
        if got["user"] != sent["user"]:
            raise _Crossed(f"the echo is that of {got['user']}")
        if got != sent:
            raise _Wrong("the echo is not what was sent")

    def chunked(self) -> None:
        """A body in chunks, with a trailer."""
        lines = self._get("/chunked").text.splitlines()
        if not lines or lines[0] != "0: Lovelace" or lines[-1] != "8: Meitner":
            raise _Wrong("the chunked page is not whole")

    def gzip(self) -> None:
        """A compressed body."""
        if len(self._get("/gzip").json()["lines"]) != 40:
            raise _Wrong("the compressed page is not whole")

    def redirect(self) -> None:
        """Two redirects and a page."""
        response = self._get("/redirect/2")
        if len(response.history) != 2 or "Arrived" not in response.text:
            raise _Wrong(f"{len(response.history)} redirects led to {response.url}")

    def slow(self) -> None:
        """A page that takes its time."""
        self._get("/slow")

    def goodbye(self) -> None:
        """A page after which the origin closes the connection."""
        self._get("/goodbye")

    def _get(self, path: str) -> Response:
        response = self._session.get(self._url + path, headers=self._headers)
        if response.status_code != 200:
            raise _Wrong(f"{path} answered {response.status_code}")
        return response

    def _see_own_name(self, page: Response) -> None:
        names = re.findall(r'<b id="(?:user|cart)">([^<]*)</b>', page.text)
        if len(names) != 2:
            raise _Wrong(f"{page.url} answered {page.status_code} and shows no name")
        if names[0] != self._user.name:
            raise _Crossed(f"the page is that of {names[0]}")
        if names[1] != str(self._user.cart):
            raise _Wrong(f"the cart holds {names[1]} things instead of {self._user.cart}")


PAGES: dict[str, tuple[int, Callable[[Browse], None]]] = {
    "me": (24, Browse.me),
    "cart": (14, Browse.cart),
    "static": (34, Browse.static),
    "echo": (10, Browse.echo),
    "chunked": (5, Browse.chunked),
    "gzip": (5, Browse.gzip),
    "redirect": (4, Browse.redirect),
    "slow": (3, Browse.slow),
    "goodbye": (1, Browse.goodbye),
}


# --- judging ------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Measured:
    """What was measured on our side when everybody had finished.

    Attributes:
        seconds: From the first request to the last.
        answered: Requests answered, redirects counted one by one.
        errors: Calls that raised, or whose page was not the right one.
        crossed: Pages that were another user's.
        complaints: The first few of both.
        opened: Connections the pool says it opened.
        reused: Requests the pool says it sent on a connection it had.
        held: Leases, permits and places in the queue not given back.
        left_open: Connections the origin still saw after the pool was closed.
    """

    seconds: float
    answered: int
    errors: int
    crossed: int
    complaints: Sequence[str]
    latencies: Sequence[float]
    waits: Waits
    opened: int
    reused: int
    held: int
    left_open: int


@attrs.frozen
class Verdict:
    """One promise: what it is about, what was seen, what was promised, whether it was kept."""

    subject: str
    seen: str
    promised: str
    kept: bool


@attrs.frozen(kw_only=True)
class Outcome:
    """How the demo went."""

    settings: Settings
    counts: Counts
    measured: Measured
    interrupted: bool = False

    @property
    def verdicts(self) -> list[Verdict]:
        """Every promise, judged."""
        return judge(self.counts, self.measured, self.settings)

    @property
    def exit_code(self) -> int:
        """What the command returns."""
        if self.interrupted:
            return INTERRUPTED
        return 0 if all(verdict.kept for verdict in self.verdicts) else 1


def judge(counts: Counts, measured: Measured, settings: Settings) -> list[Verdict]:
    """Hold what the origin counted and what was measured here against what the pool promises."""
    first = min(settings.per_host, settings.users)
    carried = counts.requests - counts.accepted
    reuse = carried / counts.requests if counts.requests else 0.0
    waits = measured.waits
    turns = TURNS_EACH * settings.users
    return [
        Verdict(
            "requests answered",
            f"{measured.answered:,}",
            f"{counts.requests:,}, by the origin",
            measured.answered == counts.requests > 0,
        ),
        Verdict("errors", f"{measured.errors:,}", "none", measured.errors == 0),
        Verdict(
            "cookies that crossed",
            f"{counts.crossed + measured.crossed:,}",
            "none, by the origin",
            counts.crossed == measured.crossed == 0,
        ),
        Verdict("cookies lost", f"{counts.lost:,}", "none, by the origin", counts.lost == 0),
        Verdict(
            "most connections open",
            f"{counts.most_open:,}",
            f"at most {settings.per_host:,}, by the origin",
            counts.most_open <= settings.per_host,
        ),
        Verdict(
            "connections opened",
            f"{counts.accepted:,}",
            f"at most {first:,} + {counts.asked_to_close:,} it closed",
            counts.accepted <= first + counts.asked_to_close and counts.accepted == measured.opened,
        ),
        Verdict(
            "reuse ratio",
            f"{reuse:.1%}, {carried:,}",
            f"{measured.reused:,}, by the pool",
            measured.reused == carried,
        ),
        Verdict(
            "fairness: longest wait",
            f"{waits.ratio:.1f} x mean, {waits.turns:,} turns",
            f"at most {turns:,} turns",
            waits.turns <= turns,
        ),
        Verdict(
            "left behind",
            f"{measured.held:,} held, {measured.left_open:,} open",
            "nothing",
            measured.held == measured.left_open == 0,
        ),
    ]


# --- showing ------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Moment:
    """What a view shows."""

    seconds: float
    answered: int
    rate: float
    share: float
    latencies: Sequence[float]
    leased: int
    idle: int
    waiting: int
    errors: int
    counts: Counts


class View(Protocol):
    """Shows the demo while it runs."""

    every: float

    def begin(self, settings: Settings, origin: OriginProcess) -> None: ...
    def show(self, moment: Moment) -> None: ...
    def end(self) -> None: ...


class PlainView:
    """A line a second, for logs."""

    every = 1.0

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, settings: Settings, origin: OriginProcess) -> None:
        """Say what will be done."""
        self._say(f"sessionpool demo: {_title(settings)}, origin {origin.url} (process {origin.pid})")

    def show(self, moment: Moment) -> None:
        """Print one line."""
        p50, p95, p99 = (_time(percentile(moment.latencies, share)) for share in (0.5, 0.95, 0.99))
        self._say(
            f"{moment.seconds:5.1f} s {moment.answered:>9,} requests {moment.rate:>7,.0f}/s"
            f"  p50 {p50}  p95 {p95}  p99 {p99}"
            f"  {moment.leased} in use  {moment.idle} idle  {moment.waiting} waiting  {moment.errors} errors"
        )

    def end(self) -> None:
        """Nothing to do."""

    def _say(self, line: str) -> None:
        print(line, file=self._console.file, flush=True)  # not through rich, which would fold it


class LiveView:
    """A panel that is drawn anew several times a second."""

    every = 0.125

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates: deque[float] = deque(maxlen=40)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._settings = Settings(users=1, per_host=1, requests=1, seconds=1)
        self._url = ""

    def begin(self, settings: Settings, origin: OriginProcess) -> None:
        """Take the screen's next lines."""
        self._settings = settings
        self._url = origin.url
        self._live.start()

    def show(self, moment: Moment) -> None:
        """Draw the panel."""
        self._rates.append(moment.rate)
        self._live.update(self.panel(moment), refresh=True)

    def end(self) -> None:
        """Give the lines back."""
        self._live.stop()

    def panel(self, moment: Moment) -> Panel:
        """The panel for one moment."""
        settings, counts = self._settings, moment.counts
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(style="dim", justify="right", width=11)
        grid.add_column(ratio=1)
        p50, p95, p99 = (_time(percentile(moment.latencies, share)) for share in (0.5, 0.95, 0.99))
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=1.0, completed=moment.share, width=40, complete_style="cyan", finished_style="cyan"),
            f"{moment.share:4.0%}   {moment.seconds:.1f} s",
        )
        grid.add_row("progress", bar)
        grid.add_row("requests", Text.assemble((f"{moment.answered:,}", "bold")))
        grid.add_row("per second", Text.assemble((spark(self._rates), "cyan"), "  ", (f"{moment.rate:,.0f}", "bold")))
        grid.add_row(
            "latency",
            Text.assemble(
                ("p50 ", "dim"),
                (p50, "bold"),
                ("   p95 ", "dim"),
                (p95, "bold"),
                ("   p99 ", "dim"),
                (p99, "bold"),
                ("   waiting included", "dim"),
            ),
        )
        free = max(0, settings.per_host - moment.leased - moment.idle)
        grid.add_row(
            "connections",
            Text.assemble(
                ("■" * min(moment.leased, 64), "green"),
                ("■" * min(moment.idle, 64), "yellow"),
                ("□" * min(free, 64), "dim"),
                f"  {moment.leased} in use, {moment.idle} idle, ",
                (f"limit {settings.per_host}", "bold"),
            ),
        )
        grid.add_row(
            "waiting",
            Text.assemble(("▪" * min(moment.waiting, 64), "magenta"), f"  {moment.waiting} threads"),
        )
        grid.add_row(
            "origin sees",
            Text.assemble(
                _flag(counts.most_open, settings.per_host),
                " open at most, ",
                f"{counts.accepted:,} opened, ",
                _flag(counts.crossed, 0),
                " cookies crossed, ",
                _flag(counts.lost, 0),
                " lost",
            ),
        )
        grid.add_row("errors", _flag(moment.errors, 0))
        return Panel(
            grid,
            title=f"[bold]sessionpool demo[/]  {_title(settings)}",
            subtitle=f"[dim]{self._url}   Ctrl-C: summary[/]",
            box=box.ROUNDED,
            border_style="cyan",
            padding=(1, 1),
            width=min(100, self._console.width - 3),  # room for ^C, which would else begin a new line
        )


def _flag(number: int, most: int) -> Text:
    return Text(f"{number:,}", "bold green" if number <= most else "bold red")


def _title(settings: Settings) -> str:
    return f"{settings.users} users on {settings.users} threads, at most {settings.per_host} connections"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def spark(values: Iterable[float]) -> str:
    """A line of small bars, the highest value full."""
    values = list(values)
    top = max(values, default=0.0)
    if top <= 0:
        return "▁" * len(values)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(value / top * 8))] for value in values)


def print_summary(console: Console, outcome: Outcome, *, plain: bool) -> None:
    """Print how the demo went: each promise with what was seen, then what is broken."""
    settings, measured, waits = outcome.settings, outcome.measured, outcome.measured.waits
    p50, p95, p99 = (_time(percentile(measured.latencies, share)) for share in (0.5, 0.95, 0.99))
    rate = measured.answered / measured.seconds
    shares = f"mean {_time(waits.mean)}, p50 {_time(waits.p50)}, p99 {_time(waits.p99)}"
    lines = [
        f"{measured.answered:,} requests in {measured.seconds:.1f} s, {rate:,.0f}/s: {_title(settings)}",
        f"latency    p50 {p50}, p95 {p95}, p99 {p99}, waiting included",
        f"waiting    {shares}, longest {_time(waits.longest)}",
    ]
    verdicts = outcome.verdicts
    broken = [verdict.subject for verdict in verdicts if not verdict.kept]
    if broken:
        end = f"{len(broken)} of {len(verdicts)} promises broken: {', '.join(broken)}"
    else:
        end = f"all {len(verdicts)} promises kept"
    if outcome.interrupted:
        end = f"interrupted; of what was done until then: {end}"
    complaints = [*outcome.counts.faults, *measured.complaints]
    if plain or not console.encoding.startswith("utf"):
        rows = [("", "promise", "seen", "promised")]
        rows += [("ok" if v.kept else "BROKEN", v.subject, v.seen, v.promised) for v in verdicts]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        print("", *lines, "", *table, *complaints, "", end, sep="\n", file=console.file)
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "promise", "seen"):
        grid.add_column(heading)
    grid.add_column("promised", style="dim")
    for verdict in verdicts:
        mark, style = ("✓", "bold green") if verdict.kept else ("✗", "bold red")
        grid.add_row(Text(mark, style), verdict.subject, Text(verdict.seen, style), verdict.promised)
    console.print(Text(lines[0], "bold"), *(Text(line, "dim") for line in lines[1:]), grid, sep="\n")
    for complaint in complaints:
        console.print(Text(complaint, "red"))
    console.print(Text(end, "bold red" if broken else "bold green"))


# --- running ------------------------------------------------------------------------------------------------


class _Interrupt:
    """Ctrl-C as a note to look at, so that it tears nothing apart; the second raises. Main thread only."""

    def __init__(self) -> None:
        self.seen = False
        self._before: signal._HANDLER = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True


@attrs.define
class _Run:
    """One run: everything that takes part in it."""

    origin: OriginProcess
    settings: Settings
    view: View
    interrupt: _Interrupt
    meter: Meter
    pool: SessionPool
    begun: float = attrs.field(factory=time.monotonic)

    def outcome(self) -> Outcome:
        """Let the crowd loose, watch it, and take stock when it has finished."""
        self.view.begin(self.settings, self.origin)
        try:
            crowd = Crowd(self.pool, self.origin.url, self.settings)
            try:
                self._watch(crowd)
            finally:
                crowd.stop()
            crowd.wait(10.0)
        finally:
            self.view.end()
        seconds = time.monotonic() - self.begun
        counts, stats = self.origin.counts(), self.pool.stats()
        self.pool.close()
        measured = Measured(
            seconds=seconds,
            answered=self.meter.answered(),
            errors=crowd.errors,
            crossed=crowd.crossed,
            complaints=tuple(crowd.complaints),
            latencies=self.meter.latencies(),
            waits=Waits.of(self.meter.waits()),
            opened=stats.opened,
            reused=stats.reused,
            held=stats.leased + stats.waiting + stats.sessions,
            left_open=self._left_open(),
        )
        return Outcome(settings=self.settings, counts=counts, measured=measured, interrupted=self.interrupt.seen)

    def _watch(self, crowd: Crowd) -> None:
        """Show how it goes until it is over, the time is up, or Ctrl-C."""
        last, answered_before = self.begun, 0
        while not crowd.wait(0.05):
            now = time.monotonic()
            seconds = now - self.begun
            if self.interrupt.seen or seconds >= self.settings.seconds:
                return
            if now - last < self.view.every:
                continue
            stats, answered = self.pool.stats(), self.meter.answered()
            self.view.show(
                Moment(
                    seconds=seconds,
                    answered=answered,
                    rate=(answered - answered_before) / (now - last),
                    share=max(crowd.done / crowd.total, min(1.0, seconds / self.settings.seconds)),
                    latencies=self.meter.recent_latencies(),
                    leased=stats.leased,
                    idle=stats.idle,
                    waiting=stats.waiting,
                    errors=crowd.errors + crowd.crossed,
                    counts=self.origin.counts(),
                )
            )
            last, answered_before = now, answered

    def _left_open(self) -> int:
        """Connections the origin still sees; their ends may be on the way, so it is asked for a while."""
        deadline = time.monotonic() + 5.0
        while (left := self.origin.counts().open) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left


def _drive(origin: OriginProcess, settings: Settings, view: View, console: Console) -> Outcome:
    meter = Meter()
    # Nothing expires while the demo runs: what is opened past the limit replaces what the origin closed.
    limits = Limits(per_host=settings.per_host, total=settings.per_host, idle=864000.0, lifetime=864000.0)
    with (
        _Interrupt() as interrupt,
        SessionPool(name="demo", limits=limits, observer=meter, trust_env=False) as pool,
        contextlib.ExitStack() as served,
    ):
        if settings.ops is not None:
            try:
                console.print(f"status page: {served.enter_context(pool.serve(settings.ops)).url}")
            except OSError as error:
                raise OriginError(error.strerror or str(error)) from None
        return _Run(origin, settings, view, interrupt, meter, pool).outcome()
