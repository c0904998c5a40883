"""The audit itself: it fails for each thing that a scenario may leave behind, and names it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.helpers import eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response


def endless(_: Asked) -> bytes:
    return response(b"beginning", length=1000)


@pytest.fixture
def audited(scenario: Scenario) -> Scenario:
    """A scenario within the scenario, with a pool, so that what the inner one finds can be put right for the outer."""
    inner = Scenario()
    scenario.watch(inner.pool(Wire(answer=endless), name="inner"))
    return inner


@contextmanager
def found(audited: Scenario, what: str) -> Iterator[None]:
    """The audit fails and says this; afterwards, and when the block has put it right, it passes."""
    with pytest.raises(AssertionError, match=what):
        audited.check(within=0.05)
    yield
    audited.check()


def test_nothing_is_found_where_nothing_was_left(audited: Scenario) -> None:
    """A pool that was used and an idle connection are no fault."""
    pool = audited.pools[0]
    pool.get("http://a.example/", stream=True).close()
    with pool.lease("ada"), pool.lease(fresh=True) as session:
        session.get("http://b.example/", stream=True)

    audited.check()


def test_a_leaked_permit_is_found(audited: Scenario) -> None:
    """A stream that somebody still holds: with the host whose permit it is."""
    with audited.pools[0].lease() as session:
        fork = session.fork()  # which holds no lease
    response = fork.get("http://a.example/", stream=True)

    with found(audited, r"pool 'inner', http://a\.example:80: 1 leased"):
        response.close()


def test_a_leaked_connection_is_found(audited: Scenario) -> None:
    """One whose permit was given back without it."""
    pool = audited.pools[0]
    response = pool.get("http://a.example/", stream=True)
    assert response._reply is not None
    urllib3s = response._reply._connection._urllib3
    close = urllib3s.close
    urllib3s.close = lambda: None  # type: ignore[method-assign]  # the fault: what closes it does not
    response.close()

    with found(audited, r"1 connections that were opened and never closed\n- file descriptor \d+: socket:.* AF_UNIX"):
        close()


def test_a_leaked_lease_is_found(audited: Scenario) -> None:
    """Of a thread's own session and of an identity, which has a seat as well."""
    pool = audited.pools[0]
    leases = [pool.lease(), pool.lease("ada")]

    with found(audited, r"2 leases\n.*the session of 'ada': 1 leased"):
        for lease in leases:
            lease.release()


def test_a_forgotten_waiter_is_found(audited: Scenario) -> None:
    """Somebody who is still in a queue when the scenario ends."""
    pool = audited.pools[0]
    with pool.lease("ada"):
        waiter = in_thread(pool.lease, "ada", timeout=None)
        eventually(lambda: pool._seats.stats().waiting == 1)
        with pytest.raises(AssertionError, match=r"the session of 'ada': 1 leased\n.*'ada': 1 waiting"):
            audited.check(within=0.05)
        waiter.join()  # woken by the closing of the pool
    audited.check()


def a_pipe() -> Callable[[], None]:
    ends = os.pipe()

    def close() -> None:
        for end in ends:
            os.close(end)

    return close


def a_listener() -> Callable[[], None]:
    return socket.create_server(("127.0.0.1", 0)).close


def a_connection() -> Callable[[], None]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far = listener.accept()[0]

    def close() -> None:
        near.close()
        far.close()

    return close


@pytest.mark.parametrize(
    ("leak", "named"),
    [
        (a_pipe, r"file descriptor \d+: pipe:\[\d+\]\n.*file descriptor \d+: pipe:"),
        (a_listener, r"socket:\[\d+\] AF_INET SOCK_STREAM \('127\.0\.0\.1', \d+\) to nobody"),
        (a_connection, r"AF_INET SOCK_STREAM \('127\.0\.0\.1', \d+\) to \('127\.0\.0\.1', \d+\)"),
    ],
)
def test_a_leaked_file_descriptor_is_found(
    leak: Callable[[], Callable[[], None]], named: str, audited: Scenario
) -> None:
    """By what it is: a socket with both of its ends."""
    close = leak()

    with found(audited, named):
        close()


def test_a_leaked_thread_is_found(audited: Scenario) -> None:
    """By its name."""
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="forgotten", daemon=True)
    thread.start()

    with found(audited, "thread <Thread.forgotten, started daemon"):
        go.set()
        thread.join()


def test_what_was_there_before_is_no_fault(scenario: Scenario) -> None:
    """A socket and a thread from before the scenario may stay."""
    go = threading.Event()
    close = a_connection()
    with in_thread(go.wait):
        inner = Scenario()
        scenario.watch(inner.pool(Wire()))
        inner.pools[0].get("http://a.example/")

        inner.check()
        go.set()
    close()
