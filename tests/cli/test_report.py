"""`sessionpool.cli._report`: what a person sees of a run."""

from __future__ import annotations

import itertools

import attrs
import pytest

from sessionpool import SessionPool
from sessionpool._ledger import PoolStats
from sessionpool.cli._load import Waits
from sessionpool.cli._report import Progress, Tally, span, summary

HOST = "http://example.com:80"


@pytest.fixture
def stats() -> PoolStats:
    """Of a pool that does nothing."""
    with SessionPool() as pool:
        return pool.stats()


def state(tally: Tally, stats: PoolStats, waits: Waits) -> str:
    return Progress("crawl", tally, lambda: stats, waits, shares_output=False)._state()


def test_a_run_in_which_all_sleep_says_for_whom_they_wait(stats: PoolStats) -> None:
    """A quiet run does not look hung: the host that rests longest is named, and how long yet."""
    waits = Waits()
    waits.retrying("GET", "http://other.example:8080", 1, "503", 3.0)
    waits.cooled(HOST, 12.0, "429 Retry-After")
    asleep = attrs.evolve(stats, sleeping=3)

    assert state(Tally(), asleep, waits).endswith(", waiting for example.com: 12 s")
    assert "waiting for" not in state(Tally(), attrs.evolve(asleep, leased=1), waits)


def test_pauses_of_no_hosts_asking_are_told_too(stats: PoolStats) -> None:
    """While all wait for their turn, or once what was asked for is over, it says how many pause."""
    waits = Waits()
    waits.retrying("GET", HOST, 1, "503", 0.0)

    assert state(Tally(), attrs.evolve(stats, sleeping=3), waits).endswith(", 3 pausing")


def test_a_paced_run_says_how_long_it_may_take(stats: PoolStats) -> None:
    """Where a site asks for a pause, what is left of the pages is told in time as well."""
    tally = Tally(pages=3, queued=100, pause=10.0)

    assert state(tally, stats, Waits()).endswith(", 16.7 min to go at a page every 10 s")


@pytest.mark.parametrize(("retries", "asked"), list(itertools.product((0, 1, 12), (0, 1, 3))))
def test_the_summary_counts_what_was_tried_again(stats: PoolStats, retries: int, asked: int) -> None:
    """Retries and requests for a pause are counted; a run without either says nothing of them."""
    waits = Waits()
    for _ in range(retries):
        waits.retrying("GET", HOST, 1, "503", 0.0)
    for _ in range(asked):
        waits.cooled(HOST, 1.0, "429 Retry-After")
    said = "\n".join(summary(Tally(), stats, waits, 1.0))

    assert ("tried again" in said) == bool(retries or asked)
    assert not retries or f"{retries} retr{'y' if retries == 1 else 'ies'}" in said
    assert ("hosts asked to wait" in said) == bool(asked)
    assert not asked or f"hosts asked to wait {asked} time" in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (119, "119 s"),
        (120, "2 min"),
        (1000, "16.7 min"),
        (3600, "1 h"),
        (86_400, "24 h"),
        (360_000, "4.2 days"),
        (3.6e9, "41,666.7 days"),
    ],
)
def test_lengths_of_time_are_for_people(seconds: float, text: str) -> None:
    """In the unit that makes a number one can think of."""
    assert span(seconds) == text
