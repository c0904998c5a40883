"""Scenarios 11 to 14: sockets that must not be shared, that end at the worst moment, or that were never any good."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from typing import Any

import pytest

from sessionpool import Limits, Timeout, TimeoutSettings
from sessionpool.exceptions import (
    ConnectionBroken,
    MaySent,
    NameResolutionError,
    NotSent,
    ReadTimeout,
    RequestException,
    SSLError,
)
from tests.helpers import eventually, in_thread
from tests.scenarios.audit import Scenario
from tests.scenarios.scripted import Asked, Wire, response
from tests.with_server.raw_server import (
    Peer,
    Step,
    await_bytes,
    close,
    discard,
    expect,
    half_close,
    head,
    idle_connections,
    repeatedly,
    reset,
    send,
    serving,
    trickle,
)
from tests.with_server.raw_server import response as raw_response

FOR_EVER = Timeout(pool=None, read=None)
OK = raw_response(b"hello")


# --- 11: kinds of sockets ---

# Ways to one host: what differs in trust or credentials shares a limit, and never a socket.
KINDS: dict[str, dict[str, Any]] = {
    "checked": {},
    "unchecked": {"verify": False},
    "own authority": {"verify": "/authority.pem"},
    "a certificate": {"cert": "/client.pem"},
    "another certificate": {"cert": ("/client.crt", "/client.key")},
    "ada by a proxy": {"proxies": {"https": "http://ada:1@proxy.example:3128"}},
    "bob by a proxy": {"proxies": {"https": "http://bob:2@proxy.example:3128"}},
}


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("per_host", [1, 3, 20])
def test_kinds_of_sockets_share_the_limit_and_never_a_socket(per_host: int, scenario: Scenario) -> None:
    """Twelve threads ask one host in seven ways, turn and turn about: each request goes over a socket that was opened
    in just its way, and of all kinds together there are never more than the limit."""
    wire = Wire()
    pool = scenario.pool(wire, limits=Limits(per_host=per_host), timeout=FOR_EVER)

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(40):
            kind = chance.choice(list(KINDS))
            assert pool.get("https://a.example/", headers={"X-Kind": kind}, **KINDS[kind]).content == b"ok"

    calls = [in_thread(work, number) for number in range(12)]
    for call in calls:
        call.get()
    kinds_of_line: dict[object, set[str]] = {}
    for asked in wire.requests:
        kinds_of_line.setdefault(asked.line, set()).add(asked.fields["x-kind"])

    assert {len(kinds) for kinds in kinds_of_line.values()} == {1}
    assert len({kind for kinds in kinds_of_line.values() for kind in kinds}) == len(KINDS)
    assert {kind: most for kind, most in wire.most_by_key.items() if most > per_host} == {}
    assert set(wire.most_by_key) == {
        "https://a.example:443",
        "https://a.example:443 via http://proxy.example:3128",
    }


# --- 12: the end at the moment of reuse ---


def answering(times: int) -> Step:
    """Answer so many requests, or until the client has had enough."""

    def step(peer: Peer) -> None:
        for _ in range(times):
            if not peer.buffer:
                peer.fill()
            peer.read_request(head_only=False)
            peer.send(OK)

    return step


def taking_one(peer: Peer) -> None:
    """Read a request whole, and leave it unanswered."""
    if not peer.buffer:
        peer.fill()
    peer.read_request(head_only=False)


# What a server does after its last answer: at once, so that the client may or may not notice before it writes; or when
# the next request has come.
ENDINGS: dict[str, list[Step]] = {
    "FIN while idle": [close],
    "RST while idle": [reset],
    "half-close": [half_close, discard],
    "FIN after the request": [taking_one, close],
    "RST after the request": [taking_one, reset],
    "RST for what is unread": [await_bytes, lambda peer: peer.close()],
}


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("ending", [*ENDINGS, "now this, now that"])
def test_connections_that_end_at_the_moment_of_reuse(ending: str, scenario: Scenario) -> None:
    """Eight threads against a server that ends every connection after two answers: each GET is answered, and arrives
    at most twice; a POST arrives at most once, and where it fails the error says that it may have been seen."""
    turns = itertools.cycle(ENDINGS.values()) if ending not in ENDINGS else itertools.repeat(ENDINGS[ending])
    choose = threading.Lock()

    def end(peer: Peer) -> None:
        with choose:
            steps = next(turns)
        for step in steps:
            step(peer)

    def work(number: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for turn in range(12):
            assert pool.get(f"{server.url}get-{number}-{turn}").content == b"hello"
            try:
                pool.post(f"{server.url}post-{number}-{turn}", data=b"once")
                outcomes["answered"] += 1
            except ConnectionBroken as error:
                outcomes["broken" if isinstance(error, MaySent) else "misjudged"] += 1
        return outcomes

    with serving([answering(2), end], repeat=True) as server:
        pool = scenario.pool(limits=Limits(per_host=4), timeout=Timeout(pool=None, read=20))
        calls = [in_thread(work, number) for number in range(8)]
        outcomes = sum((call.get() for call in calls), Counter[str]())
        arrived = Counter(request.line.split(" ")[1] for request in server.requests)
        pool.close(timeout=0)

    assert outcomes["answered"] + outcomes["broken"] == 8 * 12
    assert {target: times for target, times in arrived.items() if times > (2 if "get" in target else 1)} == {}
    assert sum("get" in target for target in arrived) == 8 * 12
    assert outcomes["answered"] <= sum("post" in target for target in arrived) <= 8 * 12
    assert server.peak <= 4


# --- 13: all idle sockets stale at once ---


@pytest.mark.usefixtures("switch_interval")
@pytest.mark.parametrize("how", ["noticed", "unnoticed"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_one_request_against_nothing_but_stale_sockets(method: str, how: str, scenario: Scenario) -> None:
    """Twenty idle connections have ended: the request is sent once over a fresh one, after at most one stale one met
    its end, whether the ends could be seen beforehand or not."""
    broken = threading.Event()
    gathered = threading.Barrier(20)

    def answer(asked: Asked) -> bytes:
        if not broken.is_set():
            gathered.wait(20)
        return response()

    def sending(line: Any) -> None:
        if broken.is_set() and line.requests > 1:
            failed.append(line)
            raise ConnectionResetError("stale")

    failed: list[Any] = []
    wire = Wire(answer=answer, sending=sending)
    pool = scenario.pool(wire, limits=Limits(per_host=20), timeout=FOR_EVER)
    for call in [in_thread(pool.get, "http://a.example/") for _ in range(20)]:
        call.get()
    broken.set()
    if how == "noticed":
        for connection in idle_connections(pool):
            connection._socket.far.close()  # type: ignore[attr-defined]  # a scripted line
    answered = pool.request(method, "http://a.example/", timeout=Timeout(pool=0, read=None))
    stats = pool.stats()

    assert answered.content == b"ok"
    assert len(failed) == (how == "unnoticed")
    assert (wire.opened, len(wire.requests)) == (21, 21)
    assert (stats.opened, stats.leased, stats.idle) == (21, 0, 20)
    assert wire.most_open == 20


@pytest.mark.usefixtures("switch_interval")
def test_many_requests_against_nothing_but_stale_sockets(scenario: Scenario) -> None:
    """As many threads as there are stale connections, and as many again that wait: each is answered, each stale one
    is met by one of them at most, and the bound holds while they are replaced."""
    first, broken = threading.Barrier(10), threading.Event()

    def answer(asked: Asked) -> bytes:
        if not broken.is_set():
            first.wait(20)
        return response()

    wire = Wire(answer=answer)
    pool = scenario.pool(wire, limits=Limits(per_host=10), timeout=FOR_EVER)
    for call in [in_thread(pool.get, "http://a.example/") for _ in range(10)]:
        call.get()
    broken.set()
    for number, connection in enumerate(idle_connections(pool)):
        line = connection._socket
        if number % 2:
            line.far.close()  # type: ignore[attr-defined]  # a scripted line
        else:
            line.far.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")  # type: ignore[attr-defined]
    calls = [in_thread(pool.get, "http://a.example/") for _ in range(20)]

    assert [call.get().content for call in calls] == [b"ok"] * 20
    assert [call.get().status_code for call in calls] == [200] * 20
    assert wire.opened <= 20
    assert wire.most_open == 10
    assert len(wire.requests) == 10 + 20


# --- 14: servers that are none ---


def test_bad_hosts_of_every_kind_beside_a_good_one(scenario: Scenario) -> None:
    """A deaf listener, a name nobody knows, a port that speaks no TLS, and a byte now and then: each fails as what it
    is, in its time and again and again, while the good host is served; of each nothing remains."""
    secure = "https://127.0.0.1:{}/"
    with (
        serving([discard], repeat=True) as deaf,
        serving([expect(), send(head("Content-Length: 1000")), trickle(b"x")], repeat=True) as slow,
        serving([lambda peer: peer.send(b"this is no TLS\r\n"), discard], repeat=True) as plain,
        serving([repeatedly(expect(), send(OK))], repeat=True) as good,
    ):
        bad: list[tuple[str, TimeoutSettings, type[RequestException], type[Exception]]] = [
            (deaf.url, Timeout(read=0.1), ReadTimeout, MaySent),
            ("http://no-such-host.invalid/", Timeout(read=30), NameResolutionError, NotSent),
            (secure.format(plain.port), Timeout(read=30), SSLError, NotSent),
            (secure.format(deaf.port), Timeout(connect=0.1), RequestException, NotSent),
            (slow.url, Timeout(total=0.5), ReadTimeout, MaySent),
        ]
        pool = scenario.pool(limits=Limits(per_host=1), timeout=Timeout(pool=20))

        def fail(number: int) -> list[str]:
            url, timeout, expected, kind = bad[number % len(bad)]
            wrong = []
            for _ in range(3):
                try:
                    pool.get(url, timeout=timeout)
                except RequestException as error:
                    if not (isinstance(error, expected) and isinstance(error, kind)):
                        wrong.append(f"{url}: {error!r}")
                else:
                    wrong.append(f"{url}: answered")
            return wrong

        def succeed(_: int) -> int:
            return sum(pool.get(good.url).content == b"hello" for _ in range(30))

        failing = [in_thread(fail, number) for number in range(len(bad))]
        served = [in_thread(succeed, number) for number in range(3)]
        wrong = [call.get() for call in failing]
        answered = [call.get() for call in served]
        hosts = list(pool.stats().hosts)

        assert wrong == [[]] * len(bad)
        assert answered == [30] * 3
        assert set(hosts) <= {good.origin}
        assert max(server.peak for server in (deaf, slow, plain, good)) <= 2
        pool.close(timeout=0)
        for server in (deaf, slow, plain, good):
            eventually(lambda server=server: server.open == 0)  # type: ignore[misc]
