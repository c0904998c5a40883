"""A map that is stopped: its workers leave whatever they are in, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionpool import Limits, Session, SessionPool, Timeout, exceptions
from sessionpool._jobs import Results
from sessionpool._stop import Shift
from tests.helpers import PATIENCE, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.with_server.children import script
from tests.with_server.echo_server import Answer, EchoServer, Seen, page
from tests.with_server.raw_server import (
    arrived,
    await_bytes,
    deaf_listener,
    discard,
    expect,
    head,
    send,
    serving,
    tell,
    wait_for,
)

# No limit ends a wait here, so whoever leaves one has been told to.
NO_LIMIT = Timeout(connect=None, read=None, pool=None)
LONG = 3600.0


class Silent(EchoServer):
    """Does not answer /never until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.answers["/never"] = self._never

    def _never(self, _: Seen) -> Answer:
        self.over.wait(60)
        return page()


@pytest.fixture
def server() -> Iterator[Silent]:
    with Silent() as server:
        yield server
        server.over.set()


@pytest.fixture
def scenario() -> Iterator[Scenario]:
    """Audits the pools made by it: permits free, no file and no thread left behind."""
    gc.freeze()
    try:
        scenario = Scenario()
        yield scenario
    finally:
        gc.unfreeze()


def pause(pool: SessionPool) -> None:
    """As before another attempt."""
    pool._transport.sleepers.sleep(pool.clock.now() + LONG)


def is_connecting(pool: SessionPool) -> bool:
    return any(dial._socket is not None for dial in list(pool._transport._connector._dialing))


def is_quiet(pool: SessionPool) -> bool:
    """Nothing is leased, nobody waits, pauses or is to stop."""
    stats, seats = pool.stats(), pool._seats.stats()
    busy = (stats.leased, stats.waiting, stats.sessions, seats.leased, seats.waiting, len(pool._transport.sleepers))
    return not any(busy) and not pool._transport.stopped


class States:
    """What a worker may be in for ever: each is a context that gives what brings it there, and whether it is there."""

    State = tuple[Callable[[Session], object], Callable[[], bool]]

    def __init__(self, pool: SessionPool, server: Silent) -> None:
        self.pool = pool
        self.server = server

    @contextlib.contextmanager
    def pausing(self) -> Iterator[State]:
        yield lambda _: pause(self.pool), lambda: len(self.pool._transport.sleepers) == 1

    @contextlib.contextmanager
    def waiting_for_a_permit(self) -> Iterator[State]:
        begun, go_on = threading.Event(), threading.Event()
        with serving([expect(), tell(begun), wait_for(go_on), send(OK)], host="127.0.0.2") as one:
            self.pool.resize(Limits(overrides={one.host: 1}))
            with in_thread(self.pool.get, one.url) as holder:
                assert begun.wait(PATIENCE)
                yield lambda session: session.get(one.url), lambda: self.pool.stats().waiting == 1
                go_on.set()
            assert holder.get().status_code == 200

    @contextlib.contextmanager
    def waiting_for_a_seat(self) -> Iterator[State]:
        go_on = threading.Event()

        def hold() -> None:
            with self.pool.lease("ada"):
                go_on.wait(PATIENCE)

        with in_thread(hold):
            eventually(lambda: self.pool._seats.stats().leased == 1)
            yield lambda _: self.pool.lease("ada"), lambda: self.pool._seats.stats().waiting == 1
            go_on.set()

    @contextlib.contextmanager
    def connecting(self) -> Iterator[State]:
        with deaf_listener() as deaf:
            yield lambda session: session.get(deaf), lambda: is_connecting(self.pool)

    @contextlib.contextmanager
    def shaking_hands(self) -> Iterator[State]:
        begun = threading.Event()
        with serving([await_bytes, tell(begun), discard]) as silent:
            yield lambda session: session.get(f"https://127.0.0.1:{silent.port}/"), begun.is_set

    @contextlib.contextmanager
    def sending(self) -> Iterator[State]:
        """More than the kernels take, to a server that reads nothing."""
        begun, over = threading.Event(), threading.Event()
        with serving([await_bytes, tell(begun), wait_for(over)]) as sated:
            yield lambda session: session.post(sated.url, data=b"x" * 64_000_000), begun.is_set
            over.set()

    @contextlib.contextmanager
    def reading_the_head(self) -> Iterator[State]:
        def is_asked() -> bool:
            return any(seen.path == "/never" for seen in self.server.seen)

        yield lambda session: session.get(self.server.url + "/never"), is_asked

    @contextlib.contextmanager
    def reading_the_body(self, *, stream: bool = False) -> Iterator[State]:
        begun = threading.Event()
        with serving([expect(), send(head("Content-Length: 9"), b"some"), arrived, tell(begun), discard]) as stalling:
            yield lambda session: session.get(stalling.url, stream=stream).content, begun.is_set

    @contextlib.contextmanager
    def reading_a_stream(self) -> Iterator[State]:
        with self.reading_the_body(stream=True) as state:
            yield state


OK = head("Content-Length: 0")
STATES = {
    "pausing": exceptions.Cancelled,
    "waiting_for_a_permit": exceptions.Cancelled,
    "waiting_for_a_seat": exceptions.Cancelled,
    "connecting": exceptions.Cancelled,
    "shaking_hands": exceptions.Cancelled,
    "sending": exceptions.ConnectionBroken,
    "reading_the_head": exceptions.ConnectionBroken,
    "reading_the_body": exceptions.IncompleteRead,
    "reading_a_stream": exceptions.IncompleteRead,
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", STATES)
def test_the_first_error_stops_a_worker_in(name: str, ordered: bool, server: Silent, scenario: Scenario) -> None:
    """It fails, and says what was not sent; what it asks for next fails; a request of another thread goes on."""
    pool = scenario.pool(timeout=NO_LIMIT)
    go_on = threading.Event()
    server.answers["/slow"] = lambda _: (go_on.wait(PATIENCE), page())[1]
    errors = list[Exception]()

    state = getattr(States(pool, server), name)
    with state() as (enter, is_in), in_thread(pool.get, server.url + "/slow") as other:
        eventually(lambda: len(server.seen) == 1)

        def work(session: Session, item: str) -> None:
            if item == "fails":
                eventually(is_in)
                raise ZeroDivisionError
            for attempt in (enter, lambda session: session.get(server.url), lambda _: pause(pool)):
                try:
                    attempt(session)
                except exceptions.RequestException as error:
                    errors.append(error)

        items = ["fails", "is stuck"] if ordered else ["is stuck", "fails"]
        with pytest.raises(ZeroDivisionError):
            list(pool.map(work, items, workers=2, ordered=ordered, cancel=True))
        eventually(lambda: len(errors) == 3)
        eventually(lambda: not pool._transport.stopped)
        assert not other.is_done
        go_on.set()

    assert [type(error) for error in errors] == [STATES[name], exceptions.Cancelled, exceptions.Cancelled]
    assert isinstance(errors[0], exceptions.MaySent) is (STATES[name] is not exceptions.Cancelled)
    assert all("a map of pool 'default' was stopped" in str(error) for error in errors)
    assert other.get().status_code == 200
    assert pool.get(server.url).status_code == 200
    eventually(lambda: is_quiet(pool))
    server.over.set()
    scenario.check()


def test_a_worker_that_computes_is_stopped_when_it_asks(server: Silent, scenario: Scenario) -> None:
    """By whichever session: its leased one, the thread's own, or one of no lease; an idle connection is no way out."""
    pool = scenario.pool()
    pool.get(server.url)
    begun, go_on = threading.Event(), threading.Event()
    errors = list[BaseException]()

    def work(session: Session, item: int) -> int:
        if item:
            begun.set()
            assert go_on.wait(PATIENCE)
            for ask in (session.get, pool.get, session.fork().get):
                with pytest.raises(exceptions.Cancelled) as caught:
                    ask(server.url)
                errors.append(caught.value)
        return item

    results = pool.map(work, range(2), workers=1, fresh=True, cancel=True)
    assert next(results) == 0
    assert begun.wait(PATIENCE)
    results.close()
    go_on.set()
    eventually(lambda: len(errors) == 3)

    assert len(server.seen) == 1
    eventually(lambda: is_quiet(pool))
    scenario.check()


# --- how a map may end ---


def by_closing(results: Results[int]) -> None:
    next(results)
    results.close()


def by_breaking_off(results: Results[int]) -> None:
    for _ in results:
        break


def by_ctrl_c(results: Results[int]) -> None:
    for _ in results:
        raise KeyboardInterrupt


def by_its_items(results: Results[int]) -> None:
    list(results)


@pytest.mark.parametrize("end", [by_closing, by_breaking_off, by_ctrl_c, by_its_items])
def test_thirty_two_pauses_end_however_the_map_ends(
    end: Callable[[Results[int]], None], server: Silent, scenario: Scenario
) -> None:
    """Closed, left, interrupted, dropped, or out of items by an error."""
    pool = scenario.pool()
    asleep = pool._transport.sleepers
    ended = list[BaseException]()

    def items() -> Iterator[int]:
        yield from range(33)
        eventually(lambda: len(asleep) == 32)
        if end is by_its_items:
            raise KeyboardInterrupt
        yield from itertools.count(33)

    def work(session: Session, item: int) -> int:
        if item:
            try:
                pause(pool)
            except exceptions.Cancelled as error:
                ended.append(error)
                raise
        return item

    with contextlib.suppress(KeyboardInterrupt):
        end(pool.map(work, items(), workers=32, cancel=True))
    gc.collect()
    eventually(lambda: len(ended) == 32)

    assert len(asleep) == 0
    eventually(lambda: is_quiet(pool))
    scenario.check()


def test_a_map_that_is_left_without_cancel_goes_on_in_the_background(server: Silent, scenario: Scenario) -> None:
    """What its workers have in hand they finish; nothing more is begun."""
    pool = scenario.pool()
    go_on = threading.Event()
    server.answers["/slow"] = lambda _: (go_on.wait(PATIENCE), page())[1]
    done = list[int]()

    def work(session: Session, item: int) -> int:
        if item:
            session.get(server.url + "/slow")
        done.append(item)
        return item

    for _ in pool.map(work, range(99), workers=4):
        eventually(lambda: len(server.seen) == 4)
        break
    go_on.set()
    eventually(lambda: len(done) == 5)
    eventually(lambda: is_quiet(pool))

    assert len(done) == 5
    scenario.check()


def test_a_stream_that_was_handed_over_is_not_cut(scenario: Scenario) -> None:
    """It came out of an item that has ended, and is the consumer's, whatever its worker is in now."""
    pool = scenario.pool()
    go_on = threading.Event()
    with serving([expect(), send(head("Content-Length: 4"), b"so"), wait_for(go_on), send(b"me")]) as one:

        def work(session: Session, item: int) -> Any:
            return pool.get(one.url, stream=True) if item == 0 else pause(pool)

        results = pool.map(work, range(2), workers=1, fresh=True, cancel=True)
        response = next(results)
        eventually(lambda: len(pool._transport.sleepers) == 1)
        results.close()
        eventually(lambda: len(pool._transport.sleepers) == 0)
        go_on.set()

        assert response.content == b"some"
        eventually(lambda: is_quiet(pool))
    scenario.check()


def test_a_map_within_the_map(server: Silent, scenario: Scenario) -> None:
    """The worker that waits for its results is let go, and what it cancels ends as well."""
    pool = scenario.pool()

    def outer(session: Session, item: int) -> list[None]:
        return list(pool.map(lambda session, item: pause(pool), range(4), workers=2, ordered=bool(item), cancel=True))

    results = pool.map(outer, range(2), workers=2, cancel=True)
    with in_thread(next, results):
        eventually(lambda: len(pool._transport.sleepers) == 4)
        results._crew.stop()  # as `close` does, which is for the thread that iterates
    eventually(lambda: is_quiet(pool))

    scenario.check()


# --- the end of the pool ---


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_closing_the_pool_ends_a_map_that_has_no_end(
    ordered: bool, return_exceptions: bool, scenario: Scenario
) -> None:
    """Those that pause and those that wait end at once; nothing new is begun, and the consumer is told so."""
    pool = scenario.pool()
    begun = list[int]()
    got = list[object]()

    def work(session: Session, item: int) -> None:
        begun.append(item)
        if item % 2:
            pause(pool)
        else:
            pool.lease("ada").release()

    def consume() -> None:
        for result in pool.map(
            work, itertools.count(), workers=8, ordered=ordered, return_exceptions=return_exceptions
        ):
            got.append(result)

    go_on = threading.Event()

    def hold() -> None:
        with pool.lease("ada"):
            go_on.wait(PATIENCE)

    with in_thread(hold):
        eventually(lambda: pool._seats.stats().leased == 1)
        with in_thread(consume) as consumer:
            eventually(lambda: len(pool._transport.sleepers) == 4 and pool._seats.stats().waiting == 4)
            with in_thread(pool.close, None):  # for as long as the other lease lasts
                consumer.join()
                go_on.set()

    assert type(consumer.error) is exceptions.PoolClosed
    assert len(begun) == 8
    assert {type(each) for each in got} == ({exceptions.PoolClosed} if return_exceptions else set())
    # Those begun, and of those in the workers' queue as many as had been handed out.
    assert 8 <= len(got) <= 16 if return_exceptions else not got
    scenario.check()


def test_what_is_under_way_when_the_pool_is_closed_comes_to_its_end(server: Silent, scenario: Scenario) -> None:
    """`close` waits for it, and the consumer gets its result before it is told."""
    pool = scenario.pool()
    go_on = threading.Event()
    server.answers["/slow"] = lambda _: (go_on.wait(PATIENCE), page())[1]
    got = list[int]()

    def consume() -> None:
        results = pool.map(lambda session, item: session.get(server.url + "/slow"), itertools.count(), workers=2)
        for response in results:
            got.append(response.status_code)

    with in_thread(consume) as consumer:
        eventually(lambda: len(server.seen) == 2)
        with in_thread(pool.close):
            eventually(lambda: pool._closed)
            go_on.set()

    assert type(consumer.error) is exceptions.PoolClosed
    assert got in ([200], [200, 200])  # an item of the queue may fail before the second has come
    scenario.check()


@pytest.mark.parametrize("count", [3, 4])
def test_a_map_that_has_nothing_left_ends_as_ever(count: int, scenario: Scenario) -> None:
    """Also if the pool is closed meanwhile: only an item that was not begun is worth an error, and it is named."""
    pool = scenario.pool()
    results = pool.map(lambda session, item: item, range(count), workers=1, ordered=True)
    assert [next(results), next(results)] == [0, 1]
    eventually(lambda: all(future.done() for future in results._outstanding))
    pool.close()
    assert next(results) == 2

    if count == 3:
        assert list(results) == []
    else:
        with pytest.raises(exceptions.PoolClosed, match="pool 'default' is closed; the item was not begun") as caught:
            next(results)
        assert caught.value.item == 3  # type: ignore[attr-defined]
    scenario.check()


# --- at whatever moment ---


def test_who_dials_after_the_cut_is_cut(scenario: Scenario) -> None:
    """Also one that had its permit before, and was not dialling yet when those that did were looked for."""
    pool = scenario.pool(timeout=NO_LIMIT)
    with deaf_listener() as deaf:
        pool._transport.cut("it was cut")
        with in_thread(pool.get, deaf) as call:
            pass

    assert type(call.error) is exceptions.PoolClosed
    scenario.check()


def test_a_connection_that_goes_back_as_its_thread_is_stopped(server: Silent, scenario: Scenario) -> None:
    """It is not cut off, for it may be another's by now, and nobody uses it again."""
    pool = scenario.pool()
    shift = Shift(0.0)
    pool.get(server.url)
    pool._transport.stopped.stop(shift, "it was stopped")
    pool._transport.rouse()
    (connection,) = pool._transport._connections
    pool._transport.stopped.end(shift)

    assert connection.is_retired
    assert not connection._shutdown_reason
    assert pool.post(server.url, data=b"once").status_code == 200
    assert [seen.connection for seen in server.seen] == [1, 2]
    scenario.check()


@pytest.mark.usefixtures("switch_interval")
def test_stopped_at_whatever_moment(server: Silent, scenario: Scenario) -> None:
    """Between any two waits there is no way past it; and others, on the same few connections, never notice.

    What they send is not sent again: if one of their connections were cut, it would show.
    """
    pool = scenario.pool(limits=Limits(per_host=4), timeout=NO_LIMIT)
    over = threading.Event()
    posted = 0

    def post() -> None:
        nonlocal posted
        while not over.is_set():
            assert pool.post(server.url, data=b"once").status_code == 200
            posted += 1

    def work(session: Session, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(dice.randrange(6)):
            session.get(server.url)
        with pool.lease(f"number {seed % 3}"):
            if dice.random() < 0.5:
                pause(pool)
            else:
                session.get(server.url + "/never")

    with in_thread(post) as other:
        for round_ in range(25):
            results = pool.map(work, itertools.count(8 * round_), workers=8, cancel=True)
            consumer = in_thread(next, results)
            time.sleep(random.Random(round_).uniform(0.0, 0.03))  # at whatever moment: nothing is waited for
            results._crew.stop()
            consumer.join()
            results.close()
            eventually(lambda: len(pool._holds) <= 1 and not pool._transport.stopped)
            assert not other.is_done
        over.set()

    assert other.error is None
    assert posted
    eventually(lambda: is_quiet(pool))
    server.over.set()
    scenario.check()


# --- Ctrl-C ---

INTERRUPTED = """
import os, signal, sys, threading, time
from sessionpool import Limits, SessionPool, Timeout

url, cancel = sys.argv[1], sys.argv[2] == "cancel"
no_limit = Timeout(connect=None, read=None, pool=None)

def interrupt(pool):
    deadline = time.monotonic() + 15
    def are_in():
        stats = pool.stats()
        return (len(pool._transport.sleepers), stats.leased, stats.waiting) == (11, 10, 11)
    while not are_in():
        assert time.monotonic() < deadline, pool.dump()
        time.sleep(0.001)
    time.sleep(0.05)  # the consumer waits too
    print(time.monotonic(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)

def work(session, item):
    if item % 3:
        session.get(url)
    else:
        pool._transport.sleepers.sleep(pool.clock.now() + 3600)

try:
    with SessionPool(limits=Limits(per_host=10), timeout=no_limit, trust_env=False) as pool:
        threading.Thread(target=interrupt, args=(pool,), daemon=True).start()
        for _ in pool.map(work, iter(range(10**6)), workers=32, cancel=cancel):
            pass
except KeyboardInterrupt:
    print(time.monotonic(), sum(not thread.daemon for thread in threading.enumerate()))
    sys.exit(7)
"""


IDLE = """
import os, signal, sys, time
import sessionpool

try:
    print(time.monotonic(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(15)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals as Unix has them")
@pytest.mark.parametrize("cancel", ["cancel", "go on"])
def test_ctrl_c_leaves_the_program(cancel: str, server: Silent) -> None:
    """Though 32 workers pause, wait for permits and for answers: the pool's end ends them, asked to cancel or not."""
    ended = script("", INTERRUPTED, server.url + "/never", cancel)

    assert (ended.err, ended.code) == ("", 7)


@pytest.mark.slow
@pytest.mark.parametrize("cancel", ["cancel", "go on"])
def test_ctrl_c_leaves_the_program_within_a_tenth_of_a_second(cancel: str, server: Silent) -> None:
    """From the signal to the end of the process, its threads included, at best of several; on a machine that has time.

    What a process takes that holds nothing tells whether it has: some 0.02 s.
    """

    def took(*words: str) -> float:
        ended = script("", *words)
        left = time.monotonic()
        assert (ended.err, ended.code) == ("", 7)
        return left - float(ended.out.split()[0])

    seconds = [(took(INTERRUPTED, server.url + "/never", cancel), took(IDLE)) for _ in range(7)]

    assert min(full for full, _ in seconds) < max(0.1, 5 * min(idle for _, idle in seconds)), seconds


@pytest.mark.slow
def test_workers_in_every_state_end_within_a_tenth_of_a_second(server: Silent, scenario: Scenario) -> None:
    """From `close` of the results to the end of the last of 32 workers, at best of several."""
    pool = scenario.pool(limits=Limits(per_host=8), timeout=NO_LIMIT)
    seconds = []

    with deaf_listener() as deaf:

        def work(session: Session, item: int) -> None:
            if item % 3:
                session.get(server.url + "/never" if item % 3 == 1 else deaf)
            else:
                pause(pool)

        for _ in range(7):
            results = pool.map(work, itertools.count(), workers=32, cancel=True)
            consumer = in_thread(next, results)
            eventually(lambda: len(pool._transport.sleepers) == 11 and pool.stats().waiting == 5)
            eventually(lambda: sum(seen.path == "/never" for seen in server.seen) == 8)
            server.seen.clear()
            began = time.monotonic()
            results.close()
            eventually(lambda: is_quiet(pool))
            seconds.append(time.monotonic() - began)
            consumer.join()

    assert min(seconds) < 0.1, seconds
    server.over.set()
    scenario.check()
