"""Servers that close, stall, cut and trickle: what is raised, what is sent again, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionpool import Limits, Observer, SessionPool, Timeout, exceptions
from sessionpool.exceptions import (
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    IncompleteRead,
    MaySent,
    NameResolutionError,
    NotSent,
    ReadTimeout,
    RequestException,
)
from sessionpool.testing import FakeClock
from tests.helpers import eventually, in_thread
from tests.with_server.raw_server import (
    Script,
    Step,
    abandon,
    arrived,
    audit,
    await_bytes,
    chunked,
    close,
    deaf_listener,
    discard,
    expect,
    half_close,
    head,
    idle_connections,
    pause,
    playing,
    repeatedly,
    reset,
    response,
    send,
    send_with_end,
    serving,
    stale_connections,
    tell,
    trickle,
    wait_for,
)

OK = response(b"hello")
NEXT = response(b"the next")
CHUNKED = "Transfer-Encoding: chunked"


class Closings(Observer):
    """Why connections were closed."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def closed(self, host: str, reason: str) -> None:
        self.reasons.append(reason)


# --- a premature end ---

CUT = {
    "length": response(b"hello, world"),
    "chunks": chunked(b"hello, world", "X: y"),
    "trailers": chunked(b"hello")[:-2] + b"A: b\r\n\r\n",
    "gzip": response(gzip.compress(b"hello, world", mtime=0), "Content-Encoding: gzip"),
    "gzip chunks": chunked(gzip.compress(b"hello, world", mtime=0), "Content-Encoding: gzip", size=9),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("name", CUT)
def test_a_response_cut_anywhere_is_an_error(name: str, end: Step, stream: bool) -> None:
    """At each of its bytes: never a short body, never one more attempt, and the error says how far it came."""
    wire = CUT[name]
    begin = wire.index(b"\r\n\r\n") + 4
    scripts: list[Script] = [[expect(), send(wire[:at]), arrived, end] for at in range(len(wire))]
    with playing(*scripts) as (pool, server):
        for at in range(len(wire)):
            with pytest.raises(RequestException) as caught:
                list(pool.get(server.url, stream=stream).iter_content(5))

            error: RequestException = caught.value
            assert isinstance(error, IncompleteRead if at >= begin else ConnectionBroken), at
            assert server.origin in str(error)
            assert error.request is not None or stream
            if isinstance(error, IncompleteRead) and name == "length":
                assert (error.received, error.expected) == (at - begin, 12)
                assert f"{at - begin} bytes" in str(error)
            assert pool.stats().leased == 0
        assert len(server.requests) == len(wire)


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_body_without_length_ends_with_its_connection(at: int) -> None:
    """Plain TCP cannot tell; only a reset can, and that is an error."""
    wire = head() + b"hello, world"[:at]
    with playing([expect(), send(wire), close], [expect(), send(wire), arrived, reset]) as (pool, server):
        answer = pool.get(server.url)
        with pytest.raises(IncompleteRead, match=server.origin):
            pool.get(server.url)

        assert answer.content == b"hello, world"[:at]


def test_a_body_that_failed_is_never_read_again_as_if_it_were_whole() -> None:
    """Whatever is asked of a broken response afterwards is an error as well."""
    with playing([expect(), send(response(b"hello, world")[:-3]), close]) as (pool, server):
        answer = pool.get(server.url, stream=True)

        for _ in range(3):
            with pytest.raises(RequestException):
                answer.content  # noqa: B018 - reads it
        with pytest.raises(RequestException):
            list(answer.iter_content(10))
        with pytest.raises(RequestException):
            answer.text  # noqa: B018 - reads it


@pytest.mark.parametrize("raw", [lambda raw: raw.read(), lambda raw: raw.read(1000), lambda raw: raw.read1(1000)])
def test_a_raw_body_that_was_cut_is_an_error(raw: Callable[[Any], bytes]) -> None:
    """Also when read as a file, in one piece or in several."""
    with playing([expect(), send(response(b"hello, world")[:-3]), close]) as (pool, server):
        answer = pool.get(server.url, stream=True)

        with pytest.raises(Exception, match="9 bytes of the body"):
            assert raw(answer.raw) + raw(answer.raw)


def test_what_came_before_the_end_is_passed_on() -> None:
    """A stream gives what there is, and then the error."""
    with playing([expect(), send(head(CHUNKED) + b"5\r\nhello\r\n5\r\nwor"), close]) as (pool, server):
        pieces = pool.get(server.url, stream=True).iter_content(100)
        first, second = next(pieces), next(pieces)

        assert (first, second) == (b"hello", b"wor")
        with pytest.raises(IncompleteRead) as caught:
            next(pieces)
        assert (caught.value.received, caught.value.expected) == (8, None)


def test_an_interim_response_is_not_an_answer() -> None:
    """A server that dies after 100 may have acted on the request: it is not sent again."""
    dies: Script = [expect(), send(OK), expect(), send(head(status="100 Continue")), close]
    with playing(dies) as (pool, server):
        pool.get(server.url)
        with pytest.raises(ConnectionBroken):
            pool.get(server.url)

        assert len(server.requests) == 2


# --- stale connections ---

ENDS_WHILE_IDLE: dict[str, Callable[[threading.Event], list[Step]]] = {
    "FIN with the answer": lambda _: [send_with_end(OK), discard],
    "FIN after the answer": lambda _: [send(OK), close],
    "FIN later": lambda go: [send(OK), wait_for(go), close],
    "half-close later": lambda go: [send(OK), wait_for(go), half_close, discard],
    "RST after the answer": lambda _: [send(OK), arrived, reset],
    "RST later": lambda go: [send(OK), wait_for(go), reset],
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ENDS_WHILE_IDLE)
def test_a_connection_that_ended_while_idle_is_not_used(name: str, method: str) -> None:
    """Nothing is written to it, or nothing can be, so that even what may not be resent is served."""
    watch, go = Closings(), threading.Event()
    first: Script = [expect("GET / "), *ENDS_WHILE_IDLE[name](go)]
    with playing(first, [expect(f"{method} / "), send(NEXT)], observer=watch) as (pool, server):
        pool.get(server.url)
        go.set()
        eventually(lambda: stale_connections(pool))
        answer = pool.request(method, server.url, data=b"body" if method == "POST" else None)

        assert answer.content == b"the next"
        assert watch.reasons == ["stale"]
        assert (pool.stats().opened, pool.stats().reused) == (2, 0)
        assert [request.connection for request in server.requests] == [1, 2]


def crossing(end: list[Step]) -> Script:
    """Answer once; at the next request, end."""
    return [expect("GET / "), send(OK), *end]


ENDS_AT_THE_NEXT_REQUEST = {
    "FIN after the request was read": crossing([expect(), close]),
    "FIN before it was read": crossing([abandon]),
    "RST after it was read": crossing([expect(), reset]),
    "RST before it was read": crossing([await_bytes, reset]),
    "half-close": crossing([expect(), half_close, discard]),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
@pytest.mark.parametrize("name", ENDS_AT_THE_NEXT_REQUEST)
def test_an_idempotent_request_that_met_the_end_goes_once_more(name: str, method: str) -> None:
    """The end crossed the request: it is sent again over a fresh connection, and the caller sees no error."""
    watch = Closings()
    again: Script = [expect(f"{method} / "), send(head("Content-Length: 0"))]
    with playing(ENDS_AT_THE_NEXT_REQUEST[name], again, observer=watch) as (pool, server):
        pool.get(server.url)
        answer = pool.request(method, server.url)

        assert answer.status_code == 200
        assert watch.reasons == ["stale"]
        assert pool.stats().opened == 2
        assert server.peak == 1


def test_what_cannot_go_once_more_may_have_been_sent_all_the_same() -> None:
    """That no fresh connection can be had is not to say that the server never saw the first sending."""
    with socket.create_server(("127.0.0.1", 0)) as listener, SessionPool(retry=None, trust_env=False) as pool:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> bytes:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                listener.close()
                peer.sendall(head("Content-Length: 0"))
                return peer.recv(1000)

        with in_thread(serve) as seen:
            pool.get(origin)
            with pytest.raises(ConnectionBroken, match="no fresh connection could be had") as caught:
                pool.get(f"{origin}/second")

    assert seen.get().startswith(b"GET /second")
    assert isinstance(caught.value, MaySent)
    assert "refused" in str(caught.value)


@pytest.mark.parametrize("name", ENDS_AT_THE_NEXT_REQUEST)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_acted_is_not_sent_again(name: str, method: str) -> None:
    """The caller is told that the server may have acted, and decides."""
    watch = Closings()
    with playing(ENDS_AT_THE_NEXT_REQUEST[name], observer=watch) as (pool, server):
        pool.get(server.url)
        with pytest.raises(ConnectionBroken) as caught:
            pool.request(method, server.url, data=b"body")

        assert isinstance(caught.value, MaySent)
        assert server.origin in str(caught.value)
        assert caught.value.request is not None
        assert caught.value.request.method == method
        assert watch.reasons == ["broken"]


@pytest.mark.parametrize("data", [b"body", None])
def test_a_body_is_sent_again_from_its_start(data: bytes | None, tmp_path: Any) -> None:
    """Bytes, or a file wound back to where it stood; what is sent twice is the same."""
    path = tmp_path / "body"
    path.write_bytes(b"not body")
    script = crossing([expect(body=b"body"), close])
    with playing(script, [expect("PUT / ", body=b"body"), send(NEXT)]) as (pool, server), path.open("rb") as file:
        file.seek(4)
        pool.get(server.url)
        answer = pool.put(server.url, data=file if data is None else data)

        assert answer.content == b"the next"


def test_a_body_that_cannot_be_wound_back_is_not_sent_again() -> None:
    """An iterator is used up by the first attempt."""
    with playing(crossing([expect(body=b"body"), close])) as (pool, server):
        pool.get(server.url)
        with pytest.raises(ConnectionBroken) as caught:
            pool.put(server.url, data=iter([b"bo", b"dy"]))

        assert isinstance(caught.value, MaySent)


def test_a_request_goes_once_more_and_not_twice() -> None:
    """The fresh connection fails as well: that is the server's answer."""
    with playing(crossing([expect(), close]), [expect(), close]) as (pool, server):
        pool.get(server.url)
        with pytest.raises(ConnectionBroken):
            pool.get(server.url)

        assert len(server.requests) == 3


@pytest.mark.parametrize("end", [close, reset])
def test_a_fresh_connection_that_ends_is_no_stale_one(end: Step) -> None:
    """Nothing lay idle, so nothing is sent again, whatever the method."""
    with playing([expect(), end]) as (pool, server):
        with pytest.raises(ConnectionBroken, match=server.origin) as caught:
            pool.get(server.url)

        assert isinstance(caught.value, MaySent)
        assert len(server.requests) == 1


@pytest.mark.parametrize("wire", [b"H", OK[:20], OK[:-6]])
def test_an_answer_that_began_is_not_asked_for_again(wire: bytes) -> None:
    """The server was alive, so the request was acted on."""
    with playing(crossing([expect(), send(wire), arrived, close])) as (pool, server):
        pool.get(server.url)
        with pytest.raises((ConnectionBroken, IncompleteRead)):
            pool.get(server.url)

        assert len(server.requests) == 2


def test_a_slow_answer_is_not_asked_for_again() -> None:
    """A time-out over a reused connection says nothing of its being stale."""
    with playing(crossing([expect(), discard])) as (pool, server):
        pool.get(server.url)
        with pytest.raises(ReadTimeout):
            pool.get(server.url, timeout=Timeout(read=0.1))

        assert len(server.requests) == 2


def together(pool: SessionPool, url: str, count: int) -> list[bytes]:
    """As many requests at once, each in a thread of its own."""
    start = threading.Barrier(count)

    def one() -> bytes:
        start.wait(10)
        return pool.get(url).content

    calls = [in_thread(one) for _ in range(count)]
    return [call.get() for call in calls]


@pytest.mark.parametrize("noticed", [True, False])
def test_all_idle_connections_end_at_once(noticed: bool) -> None:
    """Each thread gets its answer, over as many fresh connections and no more; nobody sees an error."""
    count = 8
    all_in, go = threading.Barrier(count), threading.Event()
    first: list[Step] = [expect(), lambda _: all_in.wait(10), send(OK)]
    ending: list[Step] = [wait_for(go), close] if noticed else [expect(), close]
    second: Script = [expect(), lambda _: all_in.wait(10), send(NEXT)]
    scripts: list[Script] = [[*first, *ending]] * count + [second] * count
    with playing(*scripts, limits=Limits(per_host=count)) as (pool, server):
        assert together(pool, server.url, count) == [b"hello"] * count
        go.set()
        eventually(lambda: not noticed or len(stale_connections(pool)) == count)
        answers = together(pool, server.url, count)

        assert answers == [b"the next"] * count
        assert pool.stats().opened == 2 * count
        assert server.peak == count


def test_only_the_first_of_many_stale_connections_meets_its_end() -> None:
    """One request against a pool full of stale connections takes one attempt over a fresh one, not one for each."""
    count = 4
    all_in = threading.Barrier(count)
    first: Script = [expect(), lambda _: all_in.wait(10), send(OK), abandon]
    with playing(*[first] * count, [expect(), send(NEXT)], limits=Limits(per_host=count)) as (pool, server):
        together(pool, server.url, count)
        answer = pool.get(server.url)

        assert answer.content == b"the next"
        assert pool.stats().opened == count + 1
        for connection in idle_connections(pool)[: count - 1]:
            connection._socket.sendall(b"x")  # so that their scripts end
        eventually(lambda: len(stale_connections(pool)) == count - 1)


# --- the age of connections ---


@pytest.mark.parametrize(
    ("fields", "limits", "kept", "too_long"),
    [
        ([], Limits(idle=60), 59.9, 60),
        (["Keep-Alive: timeout=5, max=100"], Limits(idle=60), 3.9, 4),
        (["Keep-Alive: timeout=5"], Limits(idle=2), 1.9, 2),
        (["Keep-Alive: timeout=1000"], Limits(idle=60), 59.9, 60),
        (["Keep-Alive: timeout=1"], Limits(), None, 0),
        (["Keep-Alive: timeout=0"], Limits(), None, 0),
    ],
)
def test_how_long_a_connection_may_lie_idle(
    fields: list[str], limits: Limits, kept: float | None, too_long: float
) -> None:
    """As long as `Limits.idle` allows, and one second less than the server says."""
    clock, watch = FakeClock(), Closings()
    exchange: list[Step] = [expect(), send(response(b"hello", *fields))]
    scripts = [exchange, exchange] if kept is None else [exchange * 2, exchange]
    with playing(*scripts, clock=clock, limits=limits, observer=watch) as (pool, server):
        pool.get(server.url)
        if kept is not None:
            clock.advance(kept)
            pool.get(server.url)
            assert pool.stats().opened == 1
        clock.advance(too_long)
        pool.post(server.url)

        assert watch.reasons == ["expired"]
        assert pool.stats().opened == 2
        assert server.peak == 1


def test_how_long_a_connection_may_live() -> None:
    """`Limits.lifetime`, less at most a tenth, whether it is idle or used all the time."""
    clock, watch = FakeClock(), Closings()
    scripts: list[Script] = [[expect(), send(OK)] * 18, [expect(), send(OK)]]
    with playing(*scripts, clock=clock, limits=Limits(lifetime=100), observer=watch) as (pool, server):
        for _ in range(18):
            pool.get(server.url)
            clock.advance(5)
        clock.advance(10)
        pool.get(server.url)

        assert [request.connection for request in server.requests] == [1] * 18 + [2]
        assert watch.reasons == ["expired"]


def test_how_often_a_connection_may_be_used() -> None:
    """`Limits.max_uses` requests, and not one more."""
    scripts: list[Script] = [[expect(), send(OK)] * 3, [expect(), send(OK)] * 3, [expect(), send(OK)]]
    with playing(*scripts, limits=Limits(max_uses=3)) as (pool, server):
        for _ in range(7):
            pool.get(server.url)

        assert [request.connection for request in server.requests] == [1, 1, 1, 2, 2, 2, 3]
        assert server.peak == 1


# --- time ---


def test_a_server_that_says_nothing_is_given_up() -> None:
    """The error names the host, the limit and its number; the server may have acted."""
    with playing([expect(), discard]) as (pool, server):
        with pytest.raises(ReadTimeout) as caught:
            pool.get(server.url, timeout=Timeout(read=0.2))

        assert server.origin in str(caught.value)
        assert "Timeout.read" in str(caught.value)
        assert "0.2 s" in str(caught.value)
        assert isinstance(caught.value, MaySent)
        assert not isinstance(caught.value, NotSent)
        eventually(lambda: server.open == 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200",
        head(CHUNKED),
        head(CHUNKED) + b"5\r\nhel",
        head(CHUNKED) + b"5\r\nhello",
        OK[:-1],
        head() + b"x",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_stops_in_the_middle_is_given_up(sent: bytes, stream: bool) -> None:
    """Anywhere in the head or the body, also in one that has no length."""
    with playing([expect(), send(sent), discard]) as (pool, server):
        with pytest.raises(ReadTimeout, match=r"Timeout\.read") as caught:
            list(pool.get(server.url, stream=stream, timeout=(5, 0.1)).iter_content(100))

        assert server.origin in str(caught.value)
        eventually(lambda: server.open == 0)


def test_the_read_timeout_is_between_bytes_and_not_over_all() -> None:
    """A server that goes on sending is waited for, as in requests."""
    slowly = [step for _ in range(6) for step in (pause(0.2), send(b"x"))]
    with playing([expect(), send(head("Content-Length: 6")), *slowly]) as (pool, server):
        answer = pool.get(server.url, timeout=Timeout(read=1.0))

        assert answer.content == b"x" * 6


def test_a_server_that_takes_nothing_is_given_up() -> None:
    """While the request is being sent, too."""
    go = threading.Event()
    with playing([wait_for(go), discard]) as (pool, server):
        with pytest.raises(ReadTimeout, match=r"took nothing.*Timeout\.read") as caught:
            pool.post(server.url, data=b"x" * 30_000_000, timeout=Timeout(read=0.2))
        go.set()

        assert server.origin in str(caught.value)
        assert isinstance(caught.value, MaySent)


@pytest.mark.parametrize(
    "steps",
    [
        [send(head("Content-Length: 1000")), trickle(b"x")],
        [send(head()), trickle(b"x")],
        [send(head(CHUNKED)), trickle(b"1\r\nx\r\n")],
        [send(b"HTTP/1.1 200 OK\r\nX: "), trickle(b"x")],
        [trickle(head(status="103 Early Hints"))],
        [discard],
    ],
    ids=["length", "no length", "chunks", "head", "1xx", "nothing"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_total_deadline_cuts_what_trickles(steps: list[Step], stream: bool) -> None:
    """However much comes, and however steadily: `Timeout.total` is over all, the body of a stream included."""
    started = time.monotonic()
    with playing([expect(), *steps]) as (pool, server):
        with pytest.raises(ReadTimeout) as caught:
            list(pool.get(server.url, stream=stream, timeout=Timeout(read=10, total=0.15)).iter_content(1000))

        assert server.origin in str(caught.value)
        assert "Timeout.total=0.15 s" in str(caught.value)
        assert time.monotonic() - started < 5
        eventually(lambda: server.open == 0)


def test_the_total_deadline_is_over_all_redirects() -> None:
    """Each hop takes from the same time."""
    moved = response(b"", "Location: /", status="302 Found")
    slow = repeatedly(expect(), pause(0.05), send(moved))
    with playing([slow]) as (pool, server):
        # While it waits, or before the next hop is sent.
        with pytest.raises(exceptions.Timeout, match=r"Timeout\.total=0\.3 s") as raised:
            pool.get(server.url, timeout=Timeout(read=10, total=0.3))

        assert raised.value.history

        assert 1 <= len(server.requests) <= 7


def test_a_deadline_of_one_request_is_not_the_nexts() -> None:
    """A connection that was used in a hurry waits as long as it is told by the next request."""
    with playing([expect(), send(OK), expect(), pause(0.4), send(NEXT)]) as (pool, server):
        pool.get(server.url, timeout=Timeout(read=0.2, total=0.2))
        answer = pool.get(server.url, timeout=Timeout(read=10))

        assert answer.content == b"the next"


# --- no connection ---


@contextlib.contextmanager
def black_hole(host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[socket.socket, int]]:
    """A listener whose port answers nothing: its queue is full, so the kernel drops whoever knocks."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(10):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect((host, port))
            except TimeoutError:
                break
        else:
            pytest.skip("this kernel has no full queues")
        yield listener, port


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def asking(url: str, **kwargs: Any) -> tuple[RequestException, SessionPool]:
    """The error that comes of asking; the pool has been audited."""
    with SessionPool(retry=None, trust_env=False) as pool:
        with pytest.raises(RequestException) as caught:
            pool.post(url, **kwargs)
        audit(pool)
        assert pool.stats().opened == 0
    return caught.value, pool


def test_a_black_hole_is_given_up() -> None:
    """The error names the host, the limit and its number; nothing was sent, so that even a POST may be repeated."""
    with black_hole() as (_, port):
        started = time.monotonic()
        error, _ = asking(f"http://127.0.0.1:{port}/", timeout=Timeout(connect=0.2))

        assert isinstance(error, ConnectTimeout)
        assert isinstance(error, NotSent)
        assert not isinstance(error, MaySent)
        assert f"http://127.0.0.1:{port}" in str(error)
        assert "Timeout.connect=0.2 s" in str(error)
        assert time.monotonic() - started < 3
        assert error.request is not None
        assert error.request.method == "POST"


def test_a_black_hole_is_given_up_at_the_deadline() -> None:
    """Whichever limit is reached first is the one that is named."""
    with black_hole() as (_, port):
        error, _ = asking(f"http://127.0.0.1:{port}/", timeout=Timeout(connect=10, total=0.2))

        assert isinstance(error, ConnectTimeout)
        assert "Timeout.total=0.2 s" in str(error)


def test_a_listener_that_never_speaks_tls_is_given_up() -> None:
    """`Timeout.connect` is over TCP and TLS together."""
    with serving([discard]) as server:
        error, _ = asking(f"https://127.0.0.1:{server.port}/", timeout=Timeout(connect=0.2))

        assert isinstance(error, ConnectTimeout)
        assert isinstance(error, NotSent)
        assert "Timeout.connect=0.2 s" in str(error)
        assert f"https://127.0.0.1:{server.port}" in str(error)
        eventually(lambda: server.open == 0)


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a name these addresses; the one part of a network that loopback does not have."""
    real = socket.getaddrinfo

    def resolve(name: str, *addresses: str) -> None:
        def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            hosts = addresses if host in (name, name.encode()) else (host,)
            return [found for each in hosts for found in real(each, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


def test_a_host_of_many_addresses_has_one_limit(resolve: Callable[..., None]) -> None:
    """`Timeout.connect` is over all of a host's addresses, not for each again."""
    addresses = [f"127.0.0.{last}" for last in range(1, 5)]
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(black_hole(addresses[0]))
        for address in addresses[1:]:
            stack.enter_context(black_hole(address, port))
        resolve("many.example", *addresses)
        started = time.monotonic()
        error, _ = asking(f"http://many.example:{port}/", timeout=Timeout(connect=0.5))

        assert isinstance(error, ConnectTimeout)
        assert "Timeout.connect=0.5 s" in str(error)
        assert time.monotonic() - started < 1.5


def test_a_dead_address_of_a_host_does_not_hide_the_others(resolve: Callable[..., None]) -> None:
    """The next address is tried within the same limit."""
    with playing([expect(), send(OK)]) as (pool, server):
        resolve("two.example", "127.0.0.2", "127.0.0.1")
        answer = pool.get(f"http://two.example:{server.port}/")

        assert answer.content == b"hello"
        assert server.requests[0].all("Host") == [f"two.example:{server.port}"]


def test_a_deaf_address_of_a_host_does_not_take_all_the_time(resolve: Callable[..., None]) -> None:
    """Each address has its part of the limit, as where IPv6 is promised and leads nowhere."""
    with (
        playing([expect(), send(OK)], timeout=Timeout(connect=2)) as (pool, server),
        deaf_listener("127.0.0.2", server.port),
    ):
        resolve("two.example", "127.0.0.2", "127.0.0.1")

        assert pool.get(f"http://two.example:{server.port}/").content == b"hello"


def test_an_address_of_an_unknown_family_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver may name addresses that this system has no sockets for."""
    with playing([expect(), send(OK)]) as (pool, server):
        usual = socket.getaddrinfo

        def both(*args: Any) -> Any:
            return [(socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("nowhere", 0)), *usual(*args)]

        monkeypatch.setattr(socket, "getaddrinfo", both)

        assert pool.get(server.url).content == b"hello"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_port_is_said_to_be(scheme: str) -> None:
    """With the host and the reason; nothing was sent."""
    url = f"{scheme}://127.0.0.1:{free_port()}"
    error, _ = asking(f"{url}/path?token=secret")

    assert isinstance(error, ConnectError)
    assert isinstance(error, NotSent)
    assert url in str(error)
    assert "refused" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 63}.{'b' * 63}.invalid"])
def test_a_name_without_an_address_is_said_to_be(host: str) -> None:
    """With the name and what the resolver says; nothing was sent."""
    error, _ = asking(f"http://{host}/path?token=secret")

    assert isinstance(error, NameResolutionError)
    assert isinstance(error, NotSent)
    assert host in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("host", [f"{'a' * 64}.example", "a..example", "xn--0.example"])
def test_a_name_that_can_have_no_address_is_an_error_of_ours(host: str) -> None:
    """Whatever finds fault with it first, the caller gets a sentence with the name."""
    error, _ = asking(f"http://{host}/")

    assert host in str(error)
    assert isinstance(error, (ConnectError, ValueError))


def test_a_host_that_could_not_be_had_is_forgotten() -> None:
    """A failed attempt leaves no host in the books, whether refused, unresolved or timed out."""
    port = free_port()
    with SessionPool(retry=None, trust_env=False, limits=Limits(per_host=1)) as pool:
        for _ in range(5):
            with pytest.raises(ConnectError):
                pool.get(f"http://127.0.0.1:{port}/", timeout=Timeout(pool=0))

        assert pool.stats().hosts == {}


def test_a_black_hole_holds_nobody_else_up() -> None:
    """Other hosts are served while one is knocked at in vain."""
    with black_hole() as (_, port), playing([expect(), send(OK)] * 1) as (pool, server):
        with in_thread(pool.get, f"http://127.0.0.1:{port}/", timeout=Timeout(connect=0.5)) as knocking:
            eventually(lambda: pool.stats().leased == 1)
            answer = pool.get(server.url)

            assert answer.content == b"hello"
            assert not knocking.is_done
        assert isinstance(knocking.error, ConnectTimeout)


# --- answers before the request has ended ---

REFUSAL = response(b"too large", "Connection: close", status="413 Content Too Large")


@pytest.mark.parametrize("body", ["bytes", "iterable", "file"])
@pytest.mark.parametrize("end", [[half_close, discard], [arrived, reset], [close]], ids=["in order", "reset", "close"])
def test_a_refusal_while_uploading_is_delivered(end: list[Step], body: str, tmp_path: Any) -> None:
    """The server has seen enough: what it says is the answer, not that it closed."""
    size = 30_000_000
    path = tmp_path / "large"
    path.write_bytes(b"x" * size)
    with playing([expect("POST / ", head_only=True), send(REFUSAL), *end]) as (pool, server), path.open("rb") as file:
        data: Any = {"bytes": b"x" * size, "iterable": iter([b"x" * 100_000] * 300), "file": file}[body]
        answer = pool.post(server.url, data=data)

        assert (answer.status_code, answer.content) == (413, b"too large")
        assert pool.stats().idle == 0
        eventually(lambda: server.open == 0)


class Patient(Observer):
    """Lets a new connection's first request wait until the server says so."""

    def __init__(self) -> None:
        self.is_connected = threading.Event()
        self.go = threading.Event()

    def connected(self, host: str, seconds: float) -> None:
        self.is_connected.set()
        assert self.go.wait(10)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", [[close], [arrived, reset], [half_close]], ids=["close", "reset", "half-close"])
def test_a_refusal_that_came_before_the_request_is_delivered(end: list[Step], method: str) -> None:
    """A server with too much to do answers whoever connects, and closes: that is the answer, written or not."""
    refusal = response(b"too busy", "Connection: close", status="503 Service Unavailable")
    observer = Patient()
    script: list[Step] = [wait_for(observer.is_connected), send(refusal), *end, tell(observer.go)]
    if end == [half_close]:
        script.append(discard)
    with playing(script, observer=observer) as (pool, server):
        answer = pool.request(method, server.url)

        assert (answer.status_code, answer.content) == (503, b"too busy")
        assert pool.stats().idle == 0


def test_a_server_that_hangs_up_while_uploading_is_an_error() -> None:
    """No answer came; it may have acted on what it took."""
    with playing([expect("POST / ", head_only=True), reset]) as (pool, server):
        with pytest.raises(ConnectionBroken, match=server.origin) as caught:
            pool.post(server.url, data=b"x" * 30_000_000)

        assert isinstance(caught.value, MaySent)


def test_an_answer_to_half_a_request_is_delivered_and_its_connection_closed() -> None:
    """A server that answers, reads no further and does not close: the rest would be taken for the next request."""
    early, go = response(b"enough", status="403 Forbidden"), threading.Event()
    first: Script = [expect("POST / ", head_only=True), send(early), wait_for(go), discard]
    with playing(first, [expect("GET / "), send(NEXT)], timeout=Timeout(read=0.3)) as (pool, server):
        answer = pool.post(server.url, data=b"x" * 30_000_000)
        go.set()
        following = pool.get(server.url, timeout=10)

        assert (answer.status_code, answer.content) == (403, b"enough")
        assert following.content == b"the next"


# --- a pool closed by force ---


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_closing_by_force_wakes_who_waits_for_an_answer(method: str, reused: bool) -> None:
    """The error names the reason, and the request is not sent again, though the connection had been idle."""
    first: list[Step] = [expect(), send(OK)] if reused else []
    with playing([*first, expect(f"{method} "), discard]) as (pool, server):
        if reused:
            pool.get(server.url)
        with in_thread(pool.request, method, server.url) as call:
            eventually(lambda: len(server.requests) == 1 + reused)
            report = pool.close(timeout=0)

        assert (report.leases, report.cut) == (1, 1)
        assert isinstance(call.error, ConnectionBroken)
        assert isinstance(call.error, MaySent)
        assert "was closed" in str(call.error)
        assert server.origin in str(call.error)
        assert len(server.requests) == 1 + reused


@pytest.mark.parametrize(
    "wire",
    [head("Content-Length: 1000"), head(CHUNKED), head(), head("Content-Encoding: gzip") + gzip.compress(b"x")[:8]],
    ids=["length", "chunks", "no length", "no length, gzip"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_closing_by_force_wakes_who_reads_a_body(wire: bytes, stream: bool) -> None:
    """It is an error that names the reason, and never an end, also where the end of the connection is the body's."""
    sent = threading.Event()
    with playing([expect(), send(wire, b"3\r\nabc\r\n"), arrived, tell(sent), discard]) as (pool, server):

        def read() -> bytes:
            return b"".join(pool.get(server.url, stream=stream).iter_content(1000))

        with in_thread(read) as call:
            assert sent.wait(10)
            report = pool.close(timeout=0)

        assert report.cut == 1
        assert isinstance(call.error, RequestException), call.result
        assert isinstance(call.error, MaySent)
        assert "was closed" in str(call.error)


def test_closing_by_force_wakes_who_sends() -> None:
    """A thread blocked in writing its request wakes as well."""
    go = threading.Event()
    with playing([await_bytes, tell(go), wait_for(go), discard]) as (pool, server):
        with in_thread(pool.post, server.url, data=b"x" * 30_000_000) as call:
            assert go.wait(10)
            pool.close(timeout=0)

        assert isinstance(call.error, ConnectionBroken)
        assert "was closed" in str(call.error)


def test_a_request_that_waits_for_its_connection_is_not_sent_after_the_pool_was_closed() -> None:
    """Whoever closes by force may rely on it: from then on nothing new reaches a server."""
    with black_hole() as (listener, port), SessionPool(retry=None, trust_env=False) as pool:
        with in_thread(pool.post, f"http://127.0.0.1:{port}/", timeout=Timeout(connect=10, read=1)) as call:
            eventually(lambda: pool.stats().leased == 1)
            pool.close(timeout=0)
            accepted = []
            while not call.is_done:  # room in the queue: the kernel knocks again after a second
                listener.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    accepted.append(listener.accept()[0])
        received = [received_by(sock) for sock in accepted]

        assert not any(received)
        assert isinstance(call.error, NotSent)
        audit(pool)


def received_by(sock: socket.socket) -> bytes:
    """What lies in its queue; it is closed."""
    with sock:
        sock.settimeout(0)
        try:
            return sock.recv(1000)
        except OSError:
            return b""


def test_closing_leaves_the_answer_to_who_is_in_time() -> None:
    """A request under way is waited for, and its connection then closed."""
    go = threading.Event()
    with playing([expect(), wait_for(go), send(OK)]) as (pool, server):
        with in_thread(pool.get, server.url) as call:
            eventually(lambda: server.requests)
            with in_thread(pool.close, timeout=10) as closing:
                go.set()

        assert call.get().content == b"hello"
        assert closing.get().cut == 0
        eventually(lambda: server.open == 0)


# --- errors of every kind leave the pool as it was ---


def test_a_permit_for_one_serves_through_all_faults() -> None:
    """One connection at a time, fault after fault, and the next request is served at once."""
    faults: list[Script] = [
        [expect(), close],
        [expect(), reset],
        [expect(), send(b"rubbish\r\n\r\n"), discard],
        [expect(), send(OK[:-1]), close],
        [expect(), send(head(CHUNKED) + b"zz\r\n"), discard],
        [expect(), send(response(b"xx", "Content-Encoding: gzip")), close],
        [expect(), discard],
        [reset],
    ]
    scripts = [script for fault in faults for script in (fault, [expect(), send(NEXT), close])]
    timeout = Timeout(pool=0, read=0.2)
    with playing(*scripts, limits=Limits(per_host=1), timeout=timeout) as (pool, server):
        for _ in faults:
            with pytest.raises(RequestException):
                pool.get(server.url)
            assert pool.get(server.url).content == b"the next"
            eventually(lambda: len(stale_connections(pool)) == pool.stats().idle)

        assert server.peak == 1
