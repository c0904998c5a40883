"""`Timeout.total` is one deadline over everything: whatever a server, a proxy or a resolver does with the time."""

from __future__ import annotations

import _thread
import contextlib
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from sessionpool import Limits, Session, SessionPool, Timeout, _connection, exceptions
from sessionpool._wire import MAX_HEAD
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, Interrupt, eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.with_server.children import forked
from tests.with_server.raw_server import (
    Step,
    await_bytes,
    chunked,
    deaf_listener,
    discard,
    expect,
    flood,
    head,
    pause,
    repeatedly,
    response,
    send,
    serving,
    silent_resolver,
    trickle,
    wait_for,
)

TOTAL = 0.6
# Nothing but the deadline ends a wait.
ONLY_TOTAL = Timeout(connect=None, read=None, pool=None, total=TOTAL)


@pytest.fixture(autouse=True)
def scenario() -> Iterator[Scenario]:
    """Makes the pools, and in the end finds every permit, descriptor and thread where it was."""
    gc.freeze()
    try:
        scenario = Scenario()
        yield scenario
        scenario.check()
    finally:
        gc.unfreeze()


# --- where the time can go ---


@attrs.frozen(kw_only=True)
class Place:
    """Where a request is held up.

    Attributes:
        url: What is asked for.
        raises: What comes of it.
        stage: Where it stands when the time is over.
        request: More arguments of the request.
    """

    url: str
    raises: type[exceptions.Timeout]
    stage: str
    request: dict[str, Any] = attrs.field(factory=dict)

    def asks(self, session: Any, **more: Any) -> Any:
        return session.request(**{"method": "GET", "url": self.url, **self.request, **more})


class Places:
    """Each a context that makes it, and gives a `Place`."""

    @contextlib.contextmanager
    def deaf_listener(self) -> Iterator[Place]:
        with deaf_listener() as url:
            yield Place(url=url, raises=exceptions.ConnectTimeout, stage="connect")

    @contextlib.contextmanager
    def silent_resolver(self) -> Iterator[Place]:
        with silent_resolver("silent.example") as resolver:
            url = "http://silent.example/"
            yield Place(url=url, raises=exceptions.ConnectTimeout, stage="resolve")
            assert len(set(resolver.asked)) == 1

    @contextlib.contextmanager
    def tls_stall(self) -> Iterator[Place]:
        with serving([await_bytes, discard], repeat=True) as server:
            url = f"https://127.0.0.1:{server.port}/"
            yield Place(url=url, raises=exceptions.ConnectTimeout, stage="tls")

    @contextlib.contextmanager
    def silent_proxy(self) -> Iterator[Place]:
        with self._proxy(discard) as place:
            yield place

    @contextlib.contextmanager
    def trickling_proxy(self) -> Iterator[Place]:
        with self._proxy(expect("CONNECT"), send(b"HTTP/1.1 200 OK\r\n"), trickle(b"A: b\r\n")) as place:
            yield place

    @contextlib.contextmanager
    def _proxy(self, *script: Step) -> Iterator[Place]:
        with serving(script, repeat=True) as proxy:
            yield Place(
                url="https://example.com/",
                raises=exceptions.ConnectTimeout,
                stage="connect",
                request={"proxies": {"https": proxy.url}},
            )

    @contextlib.contextmanager
    def _server(self, stage: str, *script: Step, **request: Any) -> Iterator[Place]:
        with serving(script, repeat=True) as server:
            yield Place(url=server.url, raises=exceptions.ReadTimeout, stage=stage, request=request)

    def deaf_reader(self) -> Any:
        """Takes what its kernel has room for."""
        return self._server("send", wait_for(threading.Event()), method="POST", data=bytes(32_000_000))

    def endless_upload(self) -> Any:
        """Takes all, and there is always more."""
        return self._server("send", discard, method="POST", data=itertools.repeat(bytes(1000)))

    def silent_server(self) -> Any:
        return self._server("head", expect(), discard)

    def trickled_head(self) -> Any:
        return self._server("head", expect(), send(b"HTTP/1.1 200 OK\r\n"), trickle(b"A: b\r\n"))

    def endless_redirects(self) -> Any:
        hop = response(b"", "Location: /on", status="302 Found")
        return self._server("head or send", repeatedly(expect(), pause(0.04), send(hop)))

    def trickled_body(self) -> Any:
        return self._server("body", expect(), send(head("Content-Length: 1000000")), trickle(b"x"))

    def trickled_body_until_the_end(self) -> Any:
        return self._server("body", expect(), send(head()), trickle(b"x"))

    def trickled_chunks(self) -> Any:
        return self._server("body", expect(), send(head("Transfer-Encoding: chunked")), trickle(b"1\r\nx\r\n"))

    def trickled_chunk_size(self) -> Any:
        return self._server("body", expect(), send(head("Transfer-Encoding: chunked")), trickle(b"0"))

    def trickled_trailers(self) -> Any:
        return self._server("body", expect(), send(chunked(b"x")[:-2]), trickle(b"A: b\r\n"))

    def flood(self) -> Any:
        return self._server("body", expect(), send(head(f"Content-Length: {10**12}")), flood(bytes(1000)))

    def flood_of_chunks(self) -> Any:
        piece = b"3e8\r\n%b\r\n" % bytes(1000)
        return self._server("body", expect(), send(head("Transfer-Encoding: chunked")), flood(piece))


PLACES = [name for name in vars(Places) if not name.startswith("_")]
OF_BODIES = [name for name in PLACES if name.startswith(("trickled_body", "trickled_chunk", "trickled_tr", "flood"))]


def judged(error: exceptions.Timeout | None, place: Place, took: float, total: float = TOTAL) -> None:
    """It is the right error, at the right time, and it says where the time went."""
    assert error is not None
    # Between two hops nothing has been sent of the next one.
    is_between = error.stage == "send" and place.stage == "head or send"
    assert type(error) is (exceptions.ConnectTimeout if is_between else place.raises)
    assert total - 0.01 <= took < PATIENCE / 2  # how near it comes to the former is the load tests' to say
    assert error.stage in place.stage.split(" or ")
    assert 0.75 * total <= sum(error.stages.values()) <= took + 0.001
    assert all(seconds >= 0 for seconds in error.stages.values())
    text = str(error)
    assert f"Timeout.total={total:g} s" in text
    assert f"in stage {error.stage!r} (" in text
    assert all(f"{name} {seconds:.3g} s" in text for name, seconds in error.stages.items())


def refusal(call: Callable[[], Any]) -> tuple[exceptions.Timeout, float]:
    """What the call raises, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(exceptions.Timeout) as raised:
        call()
    return raised.value, time.monotonic() - started


@pytest.mark.parametrize("what", PLACES)
def test_total_ends_every_wait_of_a_pool(what: str, scenario: Scenario) -> None:
    """The error is that of the stage, names it and the time of each; and all that was held is given back."""
    with getattr(Places(), what)() as place:
        pool = scenario.pool(timeout=ONLY_TOTAL, max_redirects=10**6)
        error, took = refusal(lambda: place.asks(pool))

        judged(error, place, took)


@pytest.mark.parametrize("what", PLACES)
def test_total_ends_every_wait_of_a_session_alone(what: str) -> None:
    """As with a pool."""
    with getattr(Places(), what)() as place, Session() as alone:
        alone.trust_env, alone.max_redirects = False, 10**6
        error, took = refusal(lambda: place.asks(alone, timeout=ONLY_TOTAL))
        assert alone._transport.stats().leased == 0

        judged(error, place, took)


@pytest.mark.parametrize("what", OF_BODIES)
def test_total_ends_the_reading_of_a_stream(what: str, scenario: Scenario) -> None:
    """Not only its waits: also where there is always something to read."""
    with getattr(Places(), what)() as place:
        pool = scenario.pool(timeout=ONLY_TOTAL)

        def read() -> None:
            for _ in place.asks(pool, stream=True).iter_content(100):
                pass

        error, took = refusal(read)

        judged(error, place, took)


def test_total_ends_the_wait_for_a_permit(scenario: Scenario) -> None:
    """PoolTimeout, where another thread has all there is."""
    with serving([expect(), send(head("Content-Length: 5"))]) as server:
        pool = scenario.pool(timeout=ONLY_TOTAL, limits=Limits(per_host=1))
        with in_thread(pool.get, server.url, stream=True, timeout=Timeout(total=None)) as holder:
            pass
        place = Place(url=server.url, raises=exceptions.PoolTimeout, stage="permit")
        error, took = refusal(lambda: place.asks(pool))
        holder.get().close()

        judged(error, place, took)
        assert isinstance(error, exceptions.NotSent)


# --- which limit it was ---


@pytest.mark.parametrize("what", ["connect", "read", "pool"])
@pytest.mark.parametrize("total", [0.2, 30.0])
def test_the_limit_that_passes_first_is_named(what: str, total: float, scenario: Scenario) -> None:
    """And only where that is the deadline is there a stage."""
    timeout = Timeout(**{"connect": 20, "read": 20, "pool": 20, "total": total, what: 0.4})
    with (
        deaf_listener() as deaf,
        serving([expect("GET /stream"), send(head("Content-Length: 5"))], [expect("GET /silent"), discard]) as server,
    ):
        pool = scenario.pool(timeout=timeout, limits=Limits(overrides={"127.0.0.1": 1}))
        held = None
        if what == "pool":
            held = in_thread(pool.get, server.url + "stream", stream=True, timeout=Timeout(total=None)).get()
        elif what == "read":
            pool.get(server.url + "stream", stream=True, timeout=Timeout(total=None)).close()
        error, _ = refusal(lambda: pool.get(deaf if what == "connect" else server.url + "silent"))
        if held is not None:
            held.close()

        if total < 0.4:
            assert f"(Timeout.total={total:g} s)" in str(error)
            assert error.stage == {"connect": "connect", "read": "head", "pool": "permit"}[what]
        else:
            assert f"Timeout.{what}" in str(error)
            assert (error.stage, error.stages) == ("", {})
            assert "stage" not in str(error)


def test_a_request_whose_time_is_over_is_not_sent(scenario: Scenario) -> None:
    """Though there is a connection that would take it at once."""
    clock = FakeClock()
    with serving([expect("GET /one"), send(response(b"", "Location: /two", status="302 Found"))]) as server:
        pool = scenario.watch(SessionPool(clock=clock, timeout=Timeout(total=1), trust_env=False))

        def dawdle(*_: Any, **__: Any) -> None:
            clock.advance(1)

        with pytest.raises(
            exceptions.ConnectTimeout, match=r"Timeout\.total=1 s\) passed before anything was sent"
        ) as raised:
            pool.get(server.url + "one", hooks={"response": dawdle})

        assert raised.value.stage == "send"
        assert len(server.requests) == 1


# --- a reader who takes his time ---


@pytest.mark.parametrize(
    "raw",
    [response(bytes(100)), chunked(bytes(100), size=10), chunked(bytes(100), size=100)],
    ids=["length", "small chunks", "one chunk"],
)
def test_a_stream_read_slowly_ends_with_the_deadline(raw: bytes, scenario: Scenario) -> None:
    """Though all of it has come: the time between two reads is the body's."""
    clock = FakeClock()
    with serving([expect(), send(raw)]) as server:
        pool = scenario.watch(SessionPool(clock=clock, timeout=Timeout(total=1), trust_env=False))
        pieces = pool.get(server.url, stream=True).iter_content(10)
        clock.advance(0.5)
        assert next(pieces) == bytes(10)
        clock.advance(0.5)
        with pytest.raises(exceptions.ReadTimeout, match="in stage 'body'") as raised:
            for _ in pieces:
                pass

        assert raised.value.stages["body"] == 1.0
        assert pool.stats().leased == 0


def test_the_stages_of_all_hops_are_added_up(scenario: Scenario) -> None:
    """What redirects took is in the account, each stage once."""
    clock = FakeClock()

    def second(*_: Any, **__: Any) -> None:
        clock.advance(1)

    def hop(peer: Any) -> None:
        second()
        peer.send(response(b"", "Location: /on", status="302 Found"))

    with serving([repeatedly(expect(), hop)], repeat=True) as server:
        pool = scenario.watch(SessionPool(clock=clock, timeout=Timeout(total=4.5), trust_env=False))
        with pytest.raises(exceptions.Timeout) as raised:  # while it waits, or before the next hop is sent
            pool.get(server.url)

        assert sum(raised.value.stages.values()) == 5.0
        assert raised.value.stages["head"] + raised.value.stages["send"] == 5.0


# --- names ---


def asks(pool: SessionPool, name: str, server: Any) -> bytes:
    return pool.get(f"http://{name}:{server.port}/").content


def test_threads_that_want_one_name_share_a_look_up(scenario: Scenario) -> None:
    """32 of them, of several pools, and the system is asked once; afterwards it is asked anew."""
    script = [repeatedly(expect(), send(response(b"hello")))]
    with serving(script, repeat=True) as server, silent_resolver("slow.example") as resolver:
        resolver.found = "127.0.0.1"
        pools = [scenario.pool(timeout=Timeout(connect=None)) for _ in range(2)]
        calls = [in_thread(asks, pool, "slow.example", server) for pool in pools for _ in range(16)]
        # Ten permits of each pool are out, and each of their holders waits for the name.
        eventually(lambda: sum(len(lookup._bells) for lookup in list(_connection._lookups.values())) == 20)
        assert len(resolver.asked) == 1
        resolver.answer()
        assert {call.get() for call in calls} == {b"hello"}
        assert _connection._lookups == {}
        before = len(resolver.asked)
        for pool in pools:
            pool.refresh()
        assert asks(pools[0], "slow.example", server) == b"hello"

        assert len(resolver.asked) == before + 1


def test_a_resolver_that_hangs_costs_one_thread_for_a_name(scenario: Scenario) -> None:
    """However many requests have given it up; and other names are found meanwhile."""
    with serving([expect(), send(response(b"hello"))]) as server, silent_resolver("silent.example") as resolver:
        pool = scenario.pool(timeout=Timeout(connect=0.01))
        for _ in range(20):
            with pytest.raises(exceptions.ConnectTimeout, match=r"name of .* not resolved in time \(Timeout"):
                asks(pool, "silent.example", server)
        assert all(lookup._bells == {} for lookup in _connection._lookups.values())

        assert len(resolver.asked) == 1
        assert pool.get(server.url, timeout=5).content == b"hello"


def test_a_name_that_nobody_knows_is_nobodys_for_all_who_wait(scenario: Scenario) -> None:
    """Each thread has an error of its own."""
    with silent_resolver("no.example") as resolver:
        pool = scenario.pool(timeout=Timeout(connect=None))
        calls = [in_thread(pool.get, "http://no.example/") for _ in range(5)]
        eventually(lambda: sum(len(lookup._bells) for lookup in list(_connection._lookups.values())) == 5)
        resolver.answer()
        errors = [call.join().error for call in calls]

        assert len({id(error) for error in errors}) == 5
        assert {type(error) for error in errors} == {exceptions.NameResolutionError}
        assert all("no.example" in str(error) and "nobody knows" in str(error) for error in errors)


def test_an_address_needs_no_look_up(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a thread."""
    monkeypatch.setattr(_connection._Lookup, "join", None)
    with serving([expect(), send(response(b"hello"))]) as server:
        assert scenario.pool().get(server.url).content == b"hello"


def test_the_proxys_name_has_the_same_limit(scenario: Scenario) -> None:
    """And the error says whose name it was."""
    with silent_resolver("proxy.example"):
        pool = scenario.pool(timeout=Timeout(connect=0.05))
        with pytest.raises(exceptions.ConnectTimeout, match="the name of the proxy of https://example"):
            pool.get("https://example.com/", proxies={"https": "http://proxy.example:3128"})


def test_where_no_thread_is_to_be_had_the_name_is_looked_up_all_the_same(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the interpreter's end."""

    def start(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with serving([expect(), send(response(b"hello"))]) as server, silent_resolver("near.example") as resolver:
        resolver.answer("127.0.0.1")
        monkeypatch.setattr(_connection, "start_new_thread", start)
        content = asks(scenario.pool(), "near.example", server)

        assert content == b"hello"
        assert _connection._lookups == {}


@pytest.mark.parametrize("before", [True, False], ids=["no thread begun", "thread begun"])
def test_who_is_interrupted_while_beginning_a_look_up_holds_up_nobody(
    before: bool, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait for the same name begin another."""
    usual = _thread.start_new_thread
    joined = threading.Event()

    def start(*call: Any) -> None:
        if joined.is_set() or not before:
            usual(*call)
        if joined.is_set():
            return
        eventually(lambda: any(lookup._bells for lookup in list(_connection._lookups.values())))
        joined.set()
        raise Interrupt

    with serving([expect(), send(response(b"hello"))]) as server, silent_resolver("slow.example") as resolver:
        pool = scenario.pool(timeout=Timeout(connect=None))
        monkeypatch.setattr(_connection, "start_new_thread", start)
        first = in_thread(asks, pool, "slow.example", server)
        eventually(lambda: bool(_connection._lookups))
        with in_thread(asks, pool, "slow.example", server) as second:
            assert joined.wait(PATIENCE)
            resolver.answer("127.0.0.1")
        first.join()

        assert isinstance(first.error, Interrupt)
        assert second.get() == b"hello"


def test_a_forked_child_looks_a_name_up_itself(scenario: Scenario) -> None:
    """The thread that was looking it up is the parent's."""
    with serving([expect(), send(response(b"hello"))]) as server, silent_resolver("slow.example") as resolver:
        pool = scenario.pool(timeout=Timeout(connect=None))
        with in_thread(pool.get, "http://slow.example:1/") as call:
            eventually(lambda: bool(resolver.asked))

            def child() -> tuple[int, bytes]:
                begun = len(_connection._lookups)
                resolver.answer("127.0.0.1")
                return begun, asks(pool, "slow.example", server)

            with forked(child) as inside:
                result = inside.get()
            resolver.answer()
        with pytest.raises(exceptions.NameResolutionError):
            call.get()

        assert result == (0, b"hello")


# --- a proxy's answer to CONNECT ---


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "more than its answer"),
        (b"HTTP/1.1 200 OK\r\nA: " + bytes(MAX_HEAD + _connection.RECEIVE), "header of more than"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1"),
        (b"\x15\x03\x01", "not HTTP/1"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "302 Found"),
        (b"HTTP/1.1 407 Who\r\nContent-Length: 4\r\n\r\nwho?", "407 Who"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "101"),
    ],
)
def test_what_is_no_answer_to_connect(answer: bytes, says: str, scenario: Scenario) -> None:
    """ProxyError with what came instead; nothing was sent."""
    with serving([expect("CONNECT example.com:443 HTTP/1.1"), send(answer), discard]) as proxy:
        pool = scenario.pool()
        with pytest.raises(exceptions.ProxyError, match=says) as raised:
            pool.get("https://example.com/", proxies={"https": proxy.url})

        assert "https://example.com" in str(raised.value)
        assert proxy.requests[0].fields == (("Host", "example.com:443"),)


def test_a_proxy_is_asked_for_an_address_of_ipv6_in_brackets(scenario: Scenario) -> None:
    """RFC 9110 §9.3.6: host and port, as in a URL."""
    refusal = b"HTTP/1.1 403 No\r\n\r\n"
    with serving([expect("CONNECT [::1]:8443 HTTP/1.1"), send(refusal), discard]) as proxy:
        with pytest.raises(exceptions.ProxyError, match="403 No"):
            scenario.pool().get("https://[::1]:8443/", proxies={"https": proxy.url})

        assert proxy.requests[0].all("Host") == ["[::1]:8443"]
