"""What must hold once a request has been sent: hooks that raise, redirects that wander, streams that are left."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionpool import Limits, Session, SessionPool, exceptions
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(limits=Limits(per_host=2), retry=None, trust_env=False) as pool:
        yield pool


def test_cookies_of_a_call_do_not_come_back_after_another_origin(server: EchoServer, pool: SessionPool) -> None:
    """Once a redirect has left the origin, no later hop gets them, wherever it leads."""
    with EchoServer("127.0.0.2") as other:
        server.answers["/a"] = redirect(other.url + "/b1")
        other.answers["/b1"] = redirect("/b2")
        other.answers["/b2"] = redirect(server.url + "/end")
        pool.get(server.url + "/a", cookies={"sid": "secret"})

        assert server.seen[0].cookies == [("sid", "secret")]
        assert [seen.cookies for seen in (*other.seen, server.seen[1])] == [[], [], []]


def test_a_location_that_cannot_be_joined_is_an_invalid_url(server: EchoServer, pool: SessionPool) -> None:
    """Whatever a server writes there, no other error comes out; and without following, none at all."""
    server.answers["/a"] = redirect("http://[x/")
    with pytest.raises(exceptions.InvalidURL, match="redirects to what cannot be fetched"):
        pool.get(server.url + "/a")

    assert pool.get(server.url + "/a", allow_redirects=False).next is None
    assert pool.stats().leased == 0


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", {"Transfer-Encoding": "chunked"}, {"content-length": "0"}),
        ("POST", {"Content-Length": "50"}, {"content-length": "0"}),
        ("GET", {"Transfer-Encoding": "chunked"}, {}),
        ("GET", {"Content-Length": "50"}, {}),
    ],
)
def test_a_request_without_a_body_is_framed_as_one(
    method: str, headers: dict[str, str], expected: dict[str, str], server: EchoServer, pool: SessionPool
) -> None:
    """Whatever was set by hand: else the next request on the connection would be taken for its body."""
    sent = {
        name.lower(): value
        for name, value in pool.request(method, server.url, headers=headers).json()["headers"]
        if name.lower() in ("content-length", "transfer-encoding")
    }

    assert sent == expected


def test_a_hook_that_raises_leaves_no_stream_open(server: EchoServer, pool: SessionPool) -> None:
    """Whoever catches the hook's error has no response to close, so its connection has gone back."""
    server.answers["/"] = page("x" * 100_000)

    def broken(response: Any, **_: Any) -> None:
        raise LookupError("hook")

    with pytest.raises(LookupError) as caught:
        pool.get(server.url, stream=True, hooks={"response": broken})

    assert pool.stats().leased == 0
    assert caught.value is not None  # its traceback still holds what the hook was given


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rest", [b"\0" * 8, b"rubbish"])
def test_what_follows_a_whole_gzip_member_is_passed_over(
    rest: bytes, stream: bool, server: EchoServer, pool: SessionPool
) -> None:
    """Padding is common and harmless; other clients pass over it, too."""
    server.answers["/"] = Answer(gzip.compress(b"hello") + rest, headers=[("Content-Encoding", "gzip")])
    response = pool.get(server.url, stream=stream)

    assert b"".join(response.iter_content(None)) == b"hello"


def test_closing_cuts_what_a_fork_is_doing(server: EchoServer) -> None:
    """A fork holds no lease; its request is cut off all the same."""
    go_on = threading.Event()

    def stall(_: Seen) -> Answer:
        go_on.wait(10)
        return page()

    server.answers["/slow"] = stall
    pool = SessionPool(retry=None, trust_env=False)
    with pool.lease() as session:
        fork = session.fork()
    with in_thread(fork.get, server.url + "/slow") as call:
        eventually(lambda: bool(server.seen))
        report = pool.close(timeout=0)
    go_on.set()

    assert report.cut == 1
    assert isinstance(call.error, exceptions.ConnectionBroken)
    assert "was closed" in str(call.error)


def test_a_session_taken_over_by_another_thread_stays_its_threads_own(
    pool: SessionPool, elsewhere: Callable[..., Any]
) -> None:
    """While it is away its thread gets another; afterwards it has its cookies again."""
    lease = pool.lease()
    own = lease.session
    own.cookies["mine"] = "1"
    elsewhere(lease.transfer)
    with pool.lease() as meanwhile:
        assert meanwhile is not own
    lease.release()

    with pool.lease() as again:
        assert again is own
        assert again.cookies["mine"] == "1"


def test_a_forgotten_identity_begins_blank(pool: SessionPool) -> None:
    """Its cookies are gone; one that is leased stays with its holder until released."""
    with pool.lease("ada") as session:
        session.cookies["a"] = "1"
        pool.forget("ada")
        assert session.cookies["a"] == "1"
    pool.forget("nobody")

    with pool.lease("ada") as session:
        assert len(session.cookies) == 0


@pytest.mark.parametrize("name", ["headers", "cookies", "auth", "params", "proxies", "hooks"])
def test_what_a_session_holds_is_its_holders_to_see(name: str, pool: SessionPool) -> None:
    """Who kept a reference beyond the lease, or has no lease, can neither read nor change it."""
    lease = pool.lease("ada")
    session: Session = lease.session
    assert isinstance(in_thread(getattr, session, name).join().error, exceptions.WrongThreadError)
    lease.release()

    with pytest.raises(exceptions.LeaseReleasedError):
        getattr(session, name)
    with pytest.raises(exceptions.LeaseReleasedError):
        setattr(session, name, None)
