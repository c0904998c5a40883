"""Hosts that refuse, limit, fail or close, and what a server sees of it that counts; and that its counts are judged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import storms
from loadtests.ailing import AilingServer, Arrival, busiest, excess, most_within
from loadtests.storms import Rate, Sick, Storms
from sessionpool import CircuitBreaker, Limits, Observer, RetryPolicy, SessionPool
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page
from tests.with_server.raw_server import stale_connections

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ailing() -> Iterator[AilingServer]:
    """Eleven hosts in a process of its own."""
    with AilingServer(11) as server:
        yield server


# --- what is promised ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "connections"),
    [
        pytest.param(429, 50, id="429"),
        pytest.param(503, 50, id="503"),
        pytest.param(429, 10, id="429, most of the threads wait for a connection"),
    ],
)
def test_nobody_comes_before_the_time_nor_all_at_once(ailing: AilingServer, status: int, connections: int) -> None:
    """50 threads that a host asks to wait: none is early, retries stay in their budget, and the return is spread."""
    plan = Storms(status=status, retry_after=2, connections=connections, calm=0.3, storm=2.5, seconds=7.5)
    found = storms.storm(ailing, plan)

    assert list(found.faults()) == []
    assert (found.storms, found.releases) == (1, 1)
    assert found.refused >= connections
    assert found.soonest < 3.0  # they do come back


@pytest.mark.slow
def test_a_host_that_refuses_gets_few_requests_twice(ailing: AilingServer) -> None:
    """50 threads that a host refuses without saying for how long: retries are a fifth of the requests, and ten."""
    found = storms.storm(ailing, Storms(retry_after=None, calm=0.3, storm=2.5, seconds=3.5))
    unbound = storms.storm(ailing, Storms(retry_after=None, budget=None, calm=0.3, storm=2.5, seconds=3.5))

    assert list(found.faults()) == []
    assert 10 <= found.retries <= found.allowed
    assert unbound.retries > unbound.first * 0.2 + 10  # so this is the budget's doing


@pytest.mark.slow
def test_a_rate_limit_binds_in_every_window_and_is_used(ailing: AilingServer) -> None:
    """32 threads, 100 requests a second in bursts of 10: never more in any window, and hardly fewer."""
    found = storms.rate(ailing, Rate(rate=100, burst=10, threads=32, seconds=5))

    assert list(found.faults()) == []


@pytest.mark.slow
def test_a_rate_limit_binds_after_a_stall(ailing: AilingServer) -> None:
    """Threads that waited for a connection while the host stalled do not all go when it answers again."""
    found = storms.rate(ailing, Rate(rate=100, burst=10, threads=32, connections=10, stall=1, seconds=4))

    assert [fault for fault in found.faults() if "rate were used" not in fault] == []
    assert len(found.instants) > 250


@pytest.mark.slow
def test_a_host_that_fails_is_left_alone_and_then_not_overrun(ailing: AilingServer) -> None:
    """A host that fails for five seconds among ten healthy ones gets a few probes, and is not overrun afterwards."""
    found = storms.sicken(
        ailing, Sick(alone=0.2, sick=5, after=1.2, breaker=CircuitBreaker(open=0.5, most=1.0), threads=16)
    )

    assert list(found.faults()) == []
    assert found.openings >= 3
    assert found.asked > 2 * found.allowed  # so most were kept from it
    assert found.first_second > 1


class Noticing(Observer):
    """What was tried again, or was not."""

    def __init__(self) -> None:
        self.noticed: list[str] = []

    def retrying(self, *_: object) -> None:
        self.noticed.append("retrying")

    def denied(self, *_: object) -> None:
        self.noticed.append("denied")

    def failed(self, *_: object) -> None:
        self.noticed.append("failed")


def test_idle_connections_that_are_all_closed_cost_no_attempt_and_no_budget() -> None:
    """A server closes all of them at once: as many requests come as were made, and all retries may still be had."""
    threads = 12
    every = threading.Barrier(threads)

    def together(_: Seen) -> Answer:
        every.wait(20)
        return page()

    def ask_at_once(pool: SessionPool, url: str) -> list[int]:
        calls = [in_thread(pool.get, url) for _ in range(threads)]
        return [call.get().status_code for call in calls]

    def retries_to_be_had(pool: SessionPool, server: EchoServer) -> int:
        server.answers["/refused"] = Answer(status=503)
        before = len(server.seen)
        for _ in range(40):
            pool.get(server.url + "/refused", retry=RetryPolicy(attempts=2, backoff=0))
        return len(server.seen) - before - 40

    noticing = Noticing()
    limits = Limits(per_host=threads)
    with EchoServer() as server, SessionPool(limits=limits, observer=noticing, trust_env=False) as pool:
        server.answers["/together"] = together
        assert ask_at_once(pool, server.url + "/together") == [200] * threads
        server.drop_connections()
        eventually(lambda: len(stale_connections(pool)) == threads)
        server.seen.clear()

        assert ask_at_once(pool, server.url + "/together") == [200] * threads
        assert len(server.seen) == threads
        assert (server.accepted, noticing.noticed) == (2 * threads, [])
        with SessionPool(limits=limits, trust_env=False) as fresh:
            assert retries_to_be_had(pool, server) == retries_to_be_had(fresh, server) >= 10


# --- how it is judged ---


@pytest.mark.parametrize(
    ("instants", "width", "most"),
    [
        ([], 1.0, 0),
        ([0.0], 1.0, 1),
        ([0.0, 1.0, 2.0], 1.0, 1),
        ([0.0, 0.9, 1.0, 1.8], 1.0, 3),
        ([5.0, 1.0, 1.05, 1.09], 0.1, 3),
    ],
)
def test_the_fullest_window_is_found(instants: list[float], width: float, most: int) -> None:
    """Wherever it begins; what lies a width apart is not in one."""
    assert most_within(instants, width) == most


@pytest.mark.parametrize(
    ("instants", "most"),
    [
        ([], 0.0),
        ([3.0], 1.0),
        ([0.0, 0.1, 0.2, 0.3], 1.0),
        ([0.0, 0.0, 0.0, 0.1], 3.0),
        ([0.0, 0.1, 5.0, 5.05, 5.1, 9.0], 2.0),
        ([0.0, 0.05, 0.1, 0.15, 0.2], 3.0),
    ],
)
def test_what_is_above_a_rate_is_found(instants: list[float], most: float) -> None:
    """Over windows of every width and place, for ten a second."""
    assert excess(instants, 10) == pytest.approx(most)


def arrival(at: float, request: str, status: int = 200, *, kept: bool = False, lasts: float = 0.0) -> Arrival:
    """One that is answered at once, a refused one with `Retry-After: 2`."""
    return Arrival(at, "127.0.0.1", request, status, None if status == 200 else 2, kept, at + lasts)


def test_more_at_once_than_answers_have_made_room_for_is_found() -> None:
    """Of three that come before an answer was given, two are too many if one is allowed."""
    slow = [arrival(at, "", lasts=1.0) for at in (0.0, 0.1, 0.2)]

    assert busiest(slow, lambda answers: 1 + answers) == (3, [1, 2])
    assert busiest([arrival(at, "", lasts=0.1) for at in (0.0, 0.1, 0.2)], lambda answers: 1) == (1, [])


@pytest.mark.parametrize(
    ("later", "early", "on_the_way"),
    [
        pytest.param([arrival(12.0, "0-1"), arrival(12.0, "1-1")], 0, 0, id="on time"),
        pytest.param([arrival(11.999, "0-1"), arrival(12.0, "1-1")], 1, 0, id="the same request"),
        pytest.param([arrival(11.0, "2-0")], 1, 0, id="another thread"),
        pytest.param([arrival(12.5, "0-2", 429), arrival(14.4, "0-3")], 1, 0, id="a thread that was told again"),
        pytest.param([arrival(12.5, "0-2", 429), arrival(12.6, "1-2")], 0, 1, id="one that may have been on its way"),
    ],
)
def test_whoever_is_early_is_found(later: list[Arrival], early: int, on_the_way: int) -> None:
    """What a host says when nothing is on its way binds every thread, and what it says to a thread that one."""
    refused = [arrival(9.0, "0-1", 429, kept=True, lasts=1.0), arrival(9.5, "1-1", 429, kept=True, lasts=0.5)]
    found = storms.judge_storm(Storms(threads=2), [*refused, *later], 1)

    assert (found.early, found.on_the_way) == (early, on_the_way)
    assert found.releases == 1


def test_a_crowd_too_many_retries_and_who_does_not_return_are_faults() -> None:
    """Each has a sentence with its numbers."""
    refused = [arrival(1.0, f"{thread}-0", 429, kept=True) for thread in range(30)]
    back = [arrival(3.0 + thread / 1000, f"{thread}-0") for thread in range(25)]
    found = storms.judge_storm(Storms(threads=30), refused + back, 2)

    assert list(found.faults()) == [
        "25 retries of 30 requests, 16 are allowed",
        "25 of 30 threads came back within 0.1 s",
        "only 1 of 2 storms found every thread waiting for an answer",
        "5 of 30 threads did not come back",
    ]


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(0.3, 0), (0.4, 1), (1.19, 1), (1.2, 2), (2.0, 3), (2.8, 4)],
)
def test_probes_are_counted_by_their_shortest_pauses(seconds: float, count: int) -> None:
    """A fifth shorter than 0.5, 1, and then 1 again, the longest."""
    assert storms.probes(CircuitBreaker(open=0.5, most=1.0), seconds + 1e-9) == count


@pytest.mark.slow
def test_the_command_runs_a_part_and_saves_it(tmp_path: Path) -> None:
    """Exit status 0, a table, the page, the counts and a picture; progress on standard error."""
    command = [sys.executable, "-m", "loadtests.storms", "rate", "--seconds", "2", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "kept: everything that was promised" in ended.stdout
    assert "rate limit, 2 s to go" in ended.stderr
    saved = json.loads((tmp_path / "storms-rate.json").read_text("utf-8"))
    assert saved["kept"]
    assert sum(saved["rate"]["tenths"]) >= 190
    assert "A rate limit of 100 a second" in (tmp_path / "storms-rate.md").read_text("utf-8")
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "storms-rate.png").read_bytes().startswith(b"\x89PNG")
