"""The recorder: what it remembers of the last minutes, and how little room that takes."""

from __future__ import annotations

import attrs
import pytest

from sessionpool._ledger import PoolStats
from sessionpool.ops import _recorder
from sessionpool.ops._recorder import MAX_HOSTS, MAX_LEAKS, MAX_QUEUE, SLOT, SPAN, Recorder
from sessionpool.testing import FakeClock
from tests.helpers import in_thread

HOST, OTHER = "http://127.0.0.1:80", "http://127.0.0.2:80"
STATS = PoolStats(leased=0, idle=0, waiting=0, capacity=100, peak=0, opened=0, reused=0, hosts={})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=1001.0)


@pytest.fixture
def recorder(clock: FakeClock) -> Recorder:
    """It has seen one whole slot, of nothing."""
    made = Recorder(clock)
    clock.advance(2 * SLOT)
    made.tick(STATS)
    return made


def respond(recorder: Recorder, count: int = 1, *, host: str = HOST, status: int = 200, seconds: float = 0.1) -> None:
    for _ in range(count):
        recorder.responded("GET", host, status, seconds, 100, 1000)


def pass_slots(recorder: Recorder, clock: FakeClock, count: int = 1) -> None:
    for _ in range(count):
        recorder.tick(STATS)
        clock.advance(SLOT)
    recorder.tick(STATS)


def test_requests_are_counted_by_host(recorder: Recorder, clock: FakeClock) -> None:
    """Each host has its own figures, and the whole has the sum."""
    respond(recorder, 3)
    respond(recorder, 1, host=OTHER)
    pass_slots(recorder, clock)
    whole, hosts = recorder.figures()

    assert {host: each.requests for host, each in hosts.items()} == {HOST: 3, OTHER: 1}
    assert whole.requests == 4


@pytest.mark.parametrize(
    ("status", "errors"), [(200, 0), (304, 0), (404, 0), (403, 0), (429, 1), (500, 1), (503, 1), (599, 1)]
)
def test_some_statuses_are_errors(recorder: Recorder, clock: FakeClock, status: int, errors: int) -> None:
    """429 and from 500 on; others are answers as good as any."""
    respond(recorder, status=status)
    pass_slots(recorder, clock)

    assert recorder.figures()[0].errors == errors


def test_failures_are_errors_and_retries_are_counted(recorder: Recorder, clock: FakeClock) -> None:
    """A request without an answer is one that went wrong; a retry is no request of its own."""
    recorder.failed("GET", HOST, OSError("broken"), 0.5)
    recorder.retrying("GET", HOST, 1, "ConnectionError", 0.25)
    pass_slots(recorder, clock)
    figures = recorder.figures()[1][HOST]

    assert (figures.requests, figures.errors, figures.retries) == (1, 1, 1)


def test_the_rate_is_that_of_ten_seconds(recorder: Recorder, clock: FakeClock) -> None:
    """Of finished slots: the present one would make it shrink whenever it begins."""
    pass_slots(recorder, clock, 10)
    respond(recorder, 30)
    pass_slots(recorder, clock)
    respond(recorder, 1000)
    recorder.tick(STATS)

    assert recorder.figures()[0].rate == 3.0
    pass_slots(recorder, clock, 10)
    assert recorder.figures()[0].rate == 0.0


def test_the_rate_of_the_first_seconds_is_not_too_small(recorder: Recorder, clock: FakeClock) -> None:
    """Where it has not recorded for ten seconds it is that of the time there was."""
    respond(recorder, 8)
    pass_slots(recorder, clock)

    assert recorder.figures()[0].rate == pytest.approx(8 / (2 * SLOT))


@pytest.mark.parametrize("seconds", [0.00002, 0.0013, 0.05, 0.4, 3.0, 47.0, 1000.0])
def test_percentiles_are_close(recorder: Recorder, clock: FakeClock, seconds: float) -> None:
    """Within a tenth, for durations of all sizes."""
    respond(recorder, 98, seconds=seconds / 10)
    respond(recorder, 2, seconds=seconds)
    pass_slots(recorder, clock)
    figures = recorder.figures()[0]

    if seconds >= 0.001:
        assert figures.p50 == pytest.approx(seconds / 10, rel=0.1)
    assert figures.p99 == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, -1e-9, 1e-7, 1e9])
def test_odd_durations_do_no_harm(recorder: Recorder, clock: FakeClock, seconds: float) -> None:
    """Nothing, less than nothing and for ever count as the shortest and the longest there is."""
    respond(recorder, seconds=seconds)
    pass_slots(recorder, clock)

    p50 = recorder.figures()[0].p50
    assert p50 is not None
    assert 0 < p50 < 2000


def test_percentiles_are_of_one_minute(recorder: Recorder, clock: FakeClock) -> None:
    """What is older counts in the sums only; without any request there is no percentile."""
    respond(recorder, 100, seconds=5.0)
    pass_slots(recorder, clock, 31)
    figures = recorder.figures()[0]

    assert (figures.p50, figures.requests) == (None, 100)
    respond(recorder, 1, seconds=0.1)
    pass_slots(recorder, clock)
    assert recorder.figures()[0].p99 == pytest.approx(0.1, rel=0.1)


def test_after_five_minutes_all_is_forgotten(recorder: Recorder, clock: FakeClock) -> None:
    """Whether there were further requests or none."""
    respond(recorder, 100)
    pass_slots(recorder, clock, SPAN + 1)

    assert recorder.figures()[0].requests == 0
    assert recorder.figures()[1][HOST].requests == 0
    assert recorder.figures()[1][HOST].curve == []


def test_curves_run_to_the_last_finished_slot(recorder: Recorder, clock: FakeClock) -> None:
    """One point per slot, the oldest first; of gauges the highest value seen in it."""
    respond(recorder, 6, seconds=0.2)
    recorder.tick(attrs.evolve(STATS, leased=4, waiting=1))
    recorder.tick(attrs.evolve(STATS, leased=2, waiting=3))
    clock.advance(SLOT)
    respond(recorder, 2, status=503)
    pass_slots(recorder, clock)
    curves = recorder.curves()

    assert curves.rate == [0.0, 3.0, 1.0]
    assert curves.errors == [0, 0, 2]
    assert curves.leased == [None, 4, 0]
    assert curves.waiting == [None, 3, 0]
    assert curves.p95[1] == pytest.approx(0.2, rel=0.1)
    assert recorder.figures()[1][HOST].curve == [3.0, 1.0]


def test_without_a_pool_time_goes_on(recorder: Recorder, clock: FakeClock) -> None:
    """When the pool is gone its curves go on at 0, and its gauges have nothing to tell."""
    for _ in range(3):
        clock.advance(SLOT)
        recorder.tick(None)

    assert recorder.curves().rate == [0.0] * 4
    assert recorder.curves().leased[-1] is None


def test_the_hosts_asked_last_are_kept(recorder: Recorder, clock: FakeClock) -> None:
    """There are never more than a fixed number; the one forgotten is the one asked longest ago."""
    respond(recorder, host="http://first")
    respond(recorder, host="http://second")
    recorder.tick(STATS)
    for number in range(MAX_HOSTS - 2):
        respond(recorder, host=f"http://{number}")
    respond(recorder, host="http://first")
    respond(recorder, host="http://last")
    pass_slots(recorder, clock)
    hosts = recorder.figures()[1]

    assert len(hosts) == MAX_HOSTS
    assert {"http://first", "http://last"} <= hosts.keys()
    assert "http://second" not in hosts
    assert recorder.figures()[0].requests == MAX_HOSTS + 2


def test_years_take_no_more_room_than_minutes(recorder: Recorder, clock: FakeClock) -> None:
    """A host that is asked all the time has no more slots than the span has, and few of them with durations."""
    for _ in range(2 * SPAN):
        respond(recorder)
        pass_slots(recorder, clock)
    slots = recorder._hosts[HOST]._slots

    assert len(slots) <= SPAN + 1
    assert sum(bool(slot.times) for slot in slots) <= _recorder.RECENT + 2
    assert len(recorder._gauges) <= SPAN + 1


def test_the_queue_does_not_wait_for_the_clock(recorder: Recorder, clock: FakeClock) -> None:
    """Whoever finds it too long empties it; nothing is lost."""
    respond(recorder, 3 * MAX_QUEUE)

    assert len(recorder._queue) < MAX_QUEUE
    pass_slots(recorder, clock)
    assert recorder.figures()[0].requests == 3 * MAX_QUEUE


@pytest.mark.usefixtures("switch_interval")
def test_no_request_of_many_threads_is_lost(recorder: Recorder, clock: FakeClock) -> None:
    """Threads record while another one counts; in the end all are there."""
    calls = [in_thread(respond, recorder, 2000, host=f"http://{number}") for number in range(4)]
    while not all(call.is_done for call in calls):
        recorder.tick(STATS)
    for call in calls:
        call.get()
    pass_slots(recorder, clock)

    assert {each.requests for each in recorder.figures()[1].values()} == {2000}


def test_a_leak_tells_places_and_no_source(recorder: Recorder, clock: FakeClock) -> None:
    """Lines of source may have passwords in them; the log has them, a page has not."""
    stack = '  File "/a.py", line 3, in run\n    login("hunter2")\n  File "/b.py", line 7, in lease\n    pool.lease()\n'
    recorder.leaked("ada", 61.0, stack)
    clock.advance(5.0)
    leak = recorder.leaks()[0]

    assert leak.places == ('File "/a.py", line 3, in run', 'File "/b.py", line 7, in lease')
    assert (leak.key, leak.held, clock.now() - leak.at) == ("ada", 61.0, 5.0)


def test_the_latest_leaks_are_kept(recorder: Recorder) -> None:
    """The latest come first, and there are no more than a few."""
    for number in range(2 * MAX_LEAKS):
        recorder.leaked(number, 1.0, "")

    assert [leak.key for leak in recorder.leaks()] == list(range(2 * MAX_LEAKS - 1, MAX_LEAKS - 1, -1))
