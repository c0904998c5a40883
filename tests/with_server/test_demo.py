"""`sessionpool demo` keeps its promises, and says so when one is broken."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import io
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import attrs
import pytest
from rich.console import Console

from sessionpool import Limits, SessionPool
from sessionpool.cli import _demo
from sessionpool.cli._demo import (
    Browse,
    Crowd,
    LiveView,
    Measured,
    Moment,
    Outcome,
    Settings,
    Waits,
    judge,
    percentile,
    spark,
)
from sessionpool.cli._origin import CART_COOKIE, SESSION_COOKIE, Counts, OriginServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SUBJECTS = [
    "requests answered",
    "errors",
    "cookies that crossed",
    "cookies lost",
    "most connections open",
    "connections opened",
    "reuse ratio",
    "fairness: longest wait",
    "left behind",
]
STRANGER = b"GET / HTTP/1.1\r\nHost: x\r\nX-Demo-User: user-1\r\nCookie: demo_cart=user-2.1\r\n\r\n"
SETTINGS = Settings(users=8, per_host=2, requests=5, seconds=60.0)


@contextlib.contextmanager
def demo(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "sessionpool", "demo", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"the demo ended without a line like {pattern}")


def marks(output: str) -> dict[str, str]:
    """The mark before each promise of a plain summary."""
    return {
        subject: match[1]
        for subject in SUBJECTS
        if (match := re.search(rf"^(ok|BROKEN) +{subject}  ", output, re.MULTILINE))
    }


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    _demo.add_arguments(parser)
    return parser.parse_args(options)


# --- the command --------------------------------------------------------------------------------------------


def test_a_small_demo_keeps_every_promise() -> None:
    """8 users on 2 connections: exit code 0, each promise marked ok, at most 2 connections at the origin."""
    with demo("--requests", "5", "--workers", "8", "--per-host", "2", "--plain") as process:
        output, errors = process.communicate()

    assert (process.returncode, errors) == (0, "")
    assert marks(output) == dict.fromkeys(SUBJECTS, "ok")
    assert re.search(r"most connections open +[12] +at most 2, by the origin", output)
    assert output.endswith(f"all {len(SUBJECTS)} promises kept\n")
    assert output.isascii()


def test_a_demo_with_more_connections_than_users_needs_no_more_than_users() -> None:
    """One user opens one connection, whatever the limit."""
    with demo("--requests", "12", "--workers", "1", "--per-host", "4", "--plain") as process:
        output, _ = process.communicate()

    assert process.returncode == 0
    assert re.search(r"most connections open +1 ", output)


@pytest.mark.slow
def test_a_stranger_at_the_origin_breaks_the_promise() -> None:
    """Connections and cookies from elsewhere are seen by the origin, named, and end in exit code 1."""
    options = ("--requests", "100000", "--workers", "8", "--per-host", "2", "--seconds", "2.5", "--plain")
    with demo(*options) as process:
        port = int(read_until(process, r"http://127\.0\.0\.1:(\d+)")[1])
        read_until(process, r"\d requests ")
        with contextlib.ExitStack() as strangers:
            for _ in range(3):
                sock = strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
                sock.sendall(STRANGER)
                assert sock.recv(1)
        output, errors = process.communicate()

    assert (process.returncode, errors) == (1, "")
    broken = {subject for subject, mark in marks(output).items() if mark == "BROKEN"}
    assert broken >= {"cookies that crossed", "most connections open", "connections opened"}
    assert "GET /: user-1 sent a cart cookie of user-2" in output
    assert re.search(r"\d of \d promises broken: .*most connections open", output)


@pytest.mark.slow
def test_ctrl_c_ends_with_the_summary_so_far() -> None:
    """An interrupt gives exit code 130 and the summary of what was done, with nothing broken by it."""
    with demo("--requests", "100000", "--workers", "8", "--per-host", "2", "--plain") as process:
        read_until(process, r"\d requests ")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()

    assert (process.returncode, errors) == (130, "")
    assert marks(output) == dict.fromkeys(SUBJECTS, "ok")
    assert f"interrupted; of what was done until then: all {len(SUBJECTS)} promises kept" in output


@pytest.mark.slow
def test_an_origin_that_dies_is_said() -> None:
    """Without its origin the demo ends with exit code 1 and a sentence, not with a traceback."""
    with demo("--requests", "100000", "--workers", "4", "--per-host", "2", "--plain") as process:
        pid = read_until(process, r"\(process (\d+)\)")[1]
        os.kill(int(pid), signal.SIGKILL)
        _, errors = process.communicate()

    assert process.returncode == 1
    assert errors == f"sessionpool demo: the demo's origin (process {pid}) has ended, exit code -9\n"


def test_a_reader_that_has_seen_enough_ends_it() -> None:
    """When nobody reads the output any more, the demo ends, quietly and not with success."""
    with demo("--requests", "100000", "--workers", "4", "--per-host", "2", "--plain") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait()

    assert (process.returncode, errors) == (1, "")


@pytest.mark.parametrize("option", ["--workers=0", "--per-host=x", "--requests=-1", "--seconds=0", "--seconds=nan"])
def test_bad_options_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that makes no sense ends with usage and exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        parsed(option)

    assert "is needed, not" in capsys.readouterr().err


def test_the_defaults_are_32_users_on_8_connections() -> None:
    """Without options the demo is the one the README speaks of."""
    args = parsed()

    assert (args.workers, args.per_host, args.plain) == (32, 8, False)


# --- the live view ------------------------------------------------------------------------------------------


def screen(encoding: str) -> tuple[Console, Callable[[], str]]:
    """A console, and what has been printed on it."""
    octets = io.BytesIO()
    file = io.TextIOWrapper(octets, encoding=encoding, write_through=True)
    console = Console(file=file, width=100, color_system=None, force_terminal=True)
    return console, lambda: octets.getvalue().decode(encoding)


def test_the_panel_shows_the_moment() -> None:
    """Rate, percentiles, connections with their limit, waiters, errors and the origin's books are there."""
    console, printed = screen("utf-8")
    view = LiveView(console)
    moment = Moment(
        seconds=3.5,
        answered=12345,
        rate=3456.0,
        share=0.25,
        latencies=[0.001] * 90 + [0.020] * 8 + [1.5] * 2,
        leased=1,
        idle=1,
        waiting=6,
        errors=0,
        counts=FINE,
    )
    view._settings = SETTINGS
    console.print(view.panel(moment))
    panel = printed()

    for shown in (
        "12,345",
        "3,456",
        "25%",
        "p50 1.0 ms   p95 20.0 ms   p99 1.50 s",
        "1 in use, 1 idle, limit 2",
        "6 threads",
        "2 open at most",
        "0 cookies crossed, 0 lost",
    ):
        assert shown in panel


@pytest.mark.slow
def test_the_live_view_runs_on_a_terminal_and_ends_with_the_summary() -> None:
    """On a terminal the panel is drawn, and in the end replaced by the summary, a tick at each promise."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    command = [
        sys.executable,
        "-m",
        "sessionpool",
        "demo",
        "--requests=100000",
        "--seconds=1.5",
        "--workers=8",
    ]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    received = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # Linux's word for the end of a terminal
            while data := os.read(ours, 65536):
                received += data
        os.close(ours)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode())

    assert process.returncode == 0
    assert "in use" in shown
    assert shown.count("✓") == len(SUBJECTS)
    assert f"all {len(SUBJECTS)} promises kept" in shown
    assert received.rfind(b"\x1b[?25h") > received.rfind(b"\x1b[?25l")  # the cursor is back


def test_the_summary_needs_no_unicode() -> None:
    """Where the output cannot take ticks, words do."""
    console, printed = screen("ascii")
    _demo.print_summary(console, Outcome(settings=SETTINGS, counts=FINE, measured=MEASURED), plain=False)

    assert printed().count("ok ") == len(SUBJECTS)


def test_bars_are_scaled_to_the_highest() -> None:
    """The highest value is a full bar, nothing is an empty one."""
    assert spark([0.0, 4.0, 8.0]) == "▁▅█"
    assert spark([0.0, 0.0]) == "▁▁"
    assert spark([]) == ""


# --- judging ------------------------------------------------------------------------------------------------

FINE = Counts(
    accepted=2,
    open=2,
    most_open=2,
    requests=100,
    per_connection=(50, 50),
    asked_to_close=0,
    rejected=0,
    crossed=0,
    lost=0,
    faults=(),
)
MEASURED = Measured(
    seconds=1.0,
    answered=100,
    errors=0,
    crossed=0,
    complaints=(),
    latencies=[0.001] * 100,
    waits=Waits(mean=0.001, p50=0.001, p99=0.002, longest=0.003, turns=8),
    opened=2,
    reused=98,
    held=0,
    left_open=0,
)


def broken(counts: Counts, measured: Measured) -> set[str]:
    return {verdict.subject for verdict in judge(counts, measured, SETTINGS) if not verdict.kept}


def test_swapped_cookies_break_the_promise() -> None:
    """Two users whose cookies are swapped in earnest: the pages and the origin's own books both convict."""
    ada, bob = _demo._User("ada", random.Random(1)), _demo._User("bob", random.Random(2))
    with OriginServer.start() as origin, SessionPool(trust_env=False) as pool:
        with pool.lease("ada") as hers, pool.lease("bob") as his:
            of_ada, of_bob = Browse(hers, origin.url, ada), Browse(his, origin.url, bob)
            for browse in (of_ada, of_bob):
                browse.log_in()
                browse.cart()
                browse.me()
            assert origin.counts().crossed == 0
            hers.cookies, his.cookies = his.cookies, hers.cookies
            with pytest.raises(_demo._Crossed, match="the page is that of bob"):
                of_ada.me()
            with pytest.raises(_demo._Crossed, match="the cart is that of ada"):
                of_bob.cart()
        counts = origin.counts()
    measured = attrs.evolve(
        MEASURED, answered=counts.requests, opened=counts.accepted, reused=counts.requests - counts.accepted
    )
    outcome = Outcome(settings=SETTINGS, counts=counts, measured=measured)

    assert counts.crossed == 2
    assert {verdict.subject for verdict in outcome.verdicts if not verdict.kept} == {"cookies that crossed"}
    assert outcome.exit_code == 1


@pytest.mark.parametrize("cookie", [SESSION_COOKIE, CART_COOKIE])
def test_a_forgotten_cookie_breaks_the_promise(cookie: str) -> None:
    """A cookie that is dropped in earnest is missed by the origin."""
    ada = _demo._User("ada", random.Random(1))
    with OriginServer.start() as origin, SessionPool(trust_env=False) as pool:
        with pool.lease("ada") as session:
            browse = Browse(session, origin.url, ada)
            browse.log_in()
            browse.cart()
            del session.cookies[cookie]
            browse.static()
        counts = origin.counts()

    assert (counts.crossed, counts.lost) == (0, 1)
    assert "cookies lost" in broken(counts, MEASURED)


def test_too_many_connections_break_the_promise() -> None:
    """A pool with a higher limit than was promised is convicted by the origin's count."""
    settings = Settings(users=8, per_host=4, requests=10, seconds=60.0)
    with OriginServer.start() as origin, SessionPool(limits=Limits(per_host=4), trust_env=False) as pool:
        crowd = Crowd(pool, origin.url, settings)
        assert crowd.wait(60)
        crowd.stop()
        counts = origin.counts()

    assert (crowd.errors, crowd.crossed, crowd.done) == (0, 0, 80)
    assert 2 < counts.most_open <= 4
    assert "most connections open" in broken(counts, MEASURED)
    assert not {verdict.subject for verdict in judge(counts, MEASURED, settings) if not verdict.kept} & {
        "most connections open",
        "cookies that crossed",
        "cookies lost",
    }


@pytest.mark.parametrize(
    ("counts", "measured", "subject"),
    [
        ({}, {"answered": 99}, "requests answered"),
        ({}, {"errors": 1}, "errors"),
        ({"crossed": 1}, {}, "cookies that crossed"),
        ({}, {"crossed": 1}, "cookies that crossed"),
        ({"lost": 1}, {}, "cookies lost"),
        ({"most_open": 3}, {}, "most connections open"),
        ({}, {"opened": 3}, "connections opened"),
        ({}, {"reused": 97}, "reuse ratio"),
        ({}, {"waits": Waits(turns=8 * _demo.TURNS_EACH + 1)}, "fairness: longest wait"),
        ({}, {"held": 1}, "left behind"),
        ({}, {"left_open": 1}, "left behind"),
    ],
)
def test_each_promise_can_be_broken(counts: dict[str, int], measured: dict[str, Any], subject: str) -> None:
    """One wrong number breaks the promise it belongs to and no other."""
    wrong = dataclasses.replace(FINE, **counts)  # type: ignore[arg-type]  # none of them is a tuple

    assert broken(FINE, MEASURED) == set()
    assert broken(wrong, attrs.evolve(MEASURED, **measured)) == {subject}


def test_connections_the_origin_closed_may_be_replaced() -> None:
    """What is opened past the limit is held against what the origin closed itself."""
    counts = dataclasses.replace(FINE, accepted=5, asked_to_close=3)

    assert broken(counts, attrs.evolve(MEASURED, opened=5, reused=95)) == set()
    assert "connections opened" in broken(dataclasses.replace(counts, asked_to_close=2), MEASURED)


def test_an_interrupt_outweighs_a_broken_promise() -> None:
    """After Ctrl-C the exit code is 130, whatever else."""
    measured = attrs.evolve(MEASURED, errors=1)

    assert Outcome(settings=SETTINGS, counts=FINE, measured=measured).exit_code == 1
    assert Outcome(settings=SETTINGS, counts=FINE, measured=measured, interrupted=True).exit_code == 130


def test_turns_are_what_is_served_while_one_waits() -> None:
    """The turns of a wait are the grants between its beginning and its end, however long it was."""
    waits = [(1.0, 0.0), (2.0, 0.0), (3.0, 2.5), (4.0, 0.0), (5.0, 0.5)]

    assert Waits.of(waits) == Waits(mean=0.6, p50=0.0, p99=2.5, longest=2.5, turns=2)
    assert Waits.of([]).turns == 0


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    """A percentile is the smallest value that so many do not exceed."""
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == value
    assert percentile([], share) == 0.0
