"""Identities that wear out, and the proxies they go through: real answers, real proxies, counted at both."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sessionpool import Health, HostStats, Limits, ProxyRotation, Session, SessionPool, Timeout, exceptions
from sessionpool.testing import FakeClock
from tests.helpers import PATIENCE, Diary, eventually, in_thread
from tests.with_server.children import in_fork
from tests.with_server.echo_server import Answer, EchoServer, Seen, Server, redirect, set_cookies
from tests.with_server.test_proxy import Proxy


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        for status in (200, 401, 403, 404, 407, 429, 500, 503):
            server.answers[f"/{status}"] = Answer(b"so", status)
        server.answers["/login"] = set_cookies("who=ada")
        yield server


@pytest.fixture
def make_pool(diary: Diary) -> Iterator[Callable[..., SessionPool]]:
    """Make pools that are closed after the test, which must have given everything back."""
    pools: list[SessionPool] = []

    def make(**settings: Any) -> SessionPool:
        pools.append(SessionPool(**{"observer": diary, "retry": None, "trust_env": False, **settings}))
        return pools[-1]

    yield make
    for pool in pools:
        assert (pool.stats().sessions, pool.stats().leased, pool.stats().waiting) == (0, 0, 0)
        pool.close(timeout=0)


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    """Three that let everybody in."""
    with Proxy() as first, Proxy() as second, Proxy() as third:
        yield [first, second, third]


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(pool: SessionPool, key: Hashable, url: str, **settings: Any) -> int:
    """One request under one lease; its status."""
    with pool.lease(key) as session:
        return session.get(url, **settings).status_code


def why(session: Session) -> str | None:
    """Why it was retired; a call, after which mypy believes nothing that it saw before."""
    return session.retired


# --- statuses, uses, errors ---


@pytest.mark.parametrize(
    ("status", "is_retired"), [(200, False), (401, True), (403, True), (404, False), (429, False), (503, False)]
)
def test_a_blocked_status_retires_at_once(
    status: int, is_retired: bool, server: EchoServer, make_pool: Callable[..., SessionPool], diary: Diary
) -> None:
    """The lease goes on with its cookies; the next one of the same name has none. 429 is a matter of the host's."""
    pool = make_pool(health=Health())
    with pool.lease("ada") as old:
        old.get(f"{server.url}/login")
        assert old.get(f"{server.url}/{status}").status_code == status
        assert why(old) == (f"status {status}" if is_retired else None)
        assert old.get(server.url).json()["cookies"] == {"who": "ada"}
    with pool.lease("ada") as new:
        assert new.get(server.url).json()["cookies"] == ({} if is_retired else {"who": "ada"})

    assert (new is not old) is is_retired
    assert diary.retirements == ([("ada", f"status {status}")] if is_retired else [])


def test_nothing_is_watched_unless_asked_for(server: EchoServer, make_pool: Callable[..., SessionPool]) -> None:
    """A pool without health keeps its identities whatever they are answered, and no record of it."""
    pool = make_pool()
    for status in (401, 403, 403, 403):
        with pool.lease("ada") as session:
            session.cookies["who"] = "ada"
            assert session.get(f"{server.url}/{status}").status_code == status
    with pool.lease("ada") as same:
        assert same.cookies["who"] == "ada"
        assert same.health is None


def test_a_refused_identity_is_refused_everywhere(server: EchoServer, make_pool: Callable[..., SessionPool]) -> None:
    """By `lease`, by `map`, by `submit`; a thread's own session is replaced all the same."""
    pool = make_pool(health=Health(on_retire="refuse"))
    assert ask(pool, "ada", f"{server.url}/403") == 403

    with pytest.raises(exceptions.IdentityRetiredError, match=r"status 403"):
        pool.lease("ada")
    with pytest.raises(exceptions.IdentityRetiredError):
        list(pool.map(lambda session, item: item, ["ada"], key=str))
    with pytest.raises(exceptions.IdentityRetiredError):
        pool.submit(lambda session, item: item, 1, key="ada").result(PATIENCE)
    pool.get(f"{server.url}/login")
    assert pool.get(f"{server.url}/403").status_code == 403
    assert pool.get(server.url).json()["cookies"] == {}
    pool.forget("ada")
    assert ask(pool, "ada", f"{server.url}/200") == 200


def test_redirects_are_uses(server: EchoServer, make_pool: Callable[..., SessionPool], diary: Diary) -> None:
    """Every request counts, and none is refused: what is begun is finished."""
    server.answers["/far"] = redirect("/near")
    server.answers["/near"] = redirect("/200")
    pool = make_pool(health=Health(max_uses=4))
    with pool.lease("ada") as old:
        old.get(f"{server.url}/far")
        assert why(old) is None
        old.get(f"{server.url}/far")
        assert why(old) == "max_uses=4"
    with pool.lease("ada") as new:
        assert new is not old

    assert diary.retirements == [("ada", "max_uses=4")]
    assert len(server.seen) == 6


def test_streams_are_uses_too(server: EchoServer, make_pool: Callable[..., SessionPool]) -> None:
    """Counted when the head is there; the body of a retired session is read to its end."""
    pool = make_pool(health=Health(max_uses=1))
    response = pool.get(f"{server.url}/login", stream=True)

    assert response.content == b"eat"
    assert pool.get(server.url).json()["cookies"] == {}


def test_requests_that_fail_on_the_way_count(
    server: EchoServer, make_pool: Callable[..., SessionPool], diary: Diary
) -> None:
    """A refused connection, and one that breaks, but neither a 500 nor the pool's own errors."""

    class Rude(Server):
        def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
            stream.readline()

    pool = make_pool(health=Health(max_errors=2))
    with Rude() as rude, pool.lease("ada") as session:
        with pytest.raises(exceptions.ConnectError):
            session.get(f"http://127.0.0.1:{unused_port()}/")
        pool.suspend()
        with pytest.raises(exceptions.PoolTimeout):
            session.get(server.url, timeout=Timeout(pool=0))
        pool.resume()
        assert session.get(f"{server.url}/500").status_code == 500
        assert why(session) is None
        with pytest.raises(exceptions.ConnectionBroken):
            session.get(rude.url)
        assert why(session) == "max_errors=2"

    assert diary.retirements == [("ada", "max_errors=2")]


# --- a proxy for each ---


def test_two_identities_never_share_a_socket(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """A gateway chooses its exit by the connection: each identity has its own, and uses it again in its next lease."""
    gateway = proxies[0]
    pool = make_pool(proxies=ProxyRotation([gateway.url]))
    for _ in range(3):
        for key in ("ada", "eve", None):
            ask(pool, key, f"{server.url}/?key={key}")
    with pool.lease("ada") as session:
        session.fork().get(f"{server.url}/?key=ada")
    by_connection: dict[int, set[str]] = {}
    for seen in gateway.seen:
        by_connection.setdefault(seen.connection, set()).add(seen.target.partition("=")[2])

    assert sorted(map(sorted, by_connection.values())) == [["None"], ["ada"], ["eve"]]
    assert len(gateway.seen) == 10


def test_identities_share_no_tunnel(
    proxies: list[Proxy], secure: EchoServer, ca_file: str, make_pool: Callable[..., SessionPool]
) -> None:
    """For https too, where the proxy sees one CONNECT for each identity."""
    pool = make_pool(proxies=ProxyRotation([proxies[0].url]), verify=ca_file)
    for _ in range(3):
        for key in ("ada", "eve"):
            ask(pool, key, f"{secure.url}/?key={key}")
    by_connection: dict[int, set[str]] = {}
    for seen in secure.seen:
        by_connection.setdefault(seen.connection, set()).add(seen.target)

    assert sorted(map(sorted, by_connection.values())) == [["/?key=ada"], ["/?key=eve"]]
    assert [seen.method for seen in proxies[0].seen] == ["CONNECT", "CONNECT"]


def test_a_replaced_identity_has_a_new_socket(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """The exit that was blocked is not used again by the session that comes after."""
    pool = make_pool(proxies=ProxyRotation([proxies[0].url], by="sticky"), health=Health())
    for path in ("/200", "/403", "/200", "/200"):
        ask(pool, "ada", server.url + path)

    assert [seen.connection for seen in proxies[0].seen] == [1, 1, 2, 2]


def test_the_limit_counts_all_identities(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """Sockets of their own, but not more of them: an idle one of another makes room."""
    most_open: list[Mapping[Hashable, HostStats]] = []
    gateway = proxies[0]
    pool = make_pool(proxies=ProxyRotation([gateway.url]), limits=Limits(per_host=2))

    def count(seen: Seen) -> Answer:
        most_open.append(pool.stats().hosts)
        return Answer(b"so")

    server.answers["/count"] = count

    def work(number: int) -> None:
        for nth in range(10):
            assert ask(pool, f"key {(number + nth) % 6}", f"{server.url}/count") == 200

    calls = [in_thread(work, number) for number in range(6)]
    for call in calls:
        call.get()

    assert len(gateway.seen) == 60
    assert {host for hosts in most_open for host in hosts} == {f"{server.url} via {gateway.url}"}
    assert max(each.leased + each.idle for hosts in most_open for each in hosts.values()) <= 2
    assert pool.stats().idle <= 2


def test_each_session_takes_the_next_proxy(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """And keeps it, through redirects too; what a call or a session says goes first."""
    server.answers["/far"] = redirect("/200")
    pool = make_pool(proxies=ProxyRotation([proxy.url for proxy in proxies]))
    for key in ("ada", "eve", "bob", "ada", "zoe"):
        ask(pool, key, f"{server.url}/far")
    assert [len(proxy.seen) for proxy in proxies] == [6, 2, 2]

    ask(pool, "ada", server.url, proxies={"http": proxies[2].url})
    ask(pool, "ada", server.url, proxies={"all": ""})
    with pool.lease("ada") as session:
        assert session.proxies == {}
        session.proxies["http"] = proxies[1].url
        session.get(server.url)
    assert [len(proxy.seen) for proxy in proxies] == [6, 3, 3]
    assert len(server.seen) == 13


def test_the_environment_does_not_count(
    proxies: list[Proxy], server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its proxy nor its exceptions, whether it is trusted or not."""
    monkeypatch.setenv("http_proxy", proxies[1].url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for trust_env in (True, False):
        with SessionPool(proxies=ProxyRotation([proxies[0].url]), trust_env=trust_env) as pool:
            assert pool.get(f"{server.url}/200").ok

    assert [len(proxy.seen) for proxy in proxies] == [2, 0, 0]


def test_the_proxys_password_goes_to_the_proxy(server: EchoServer, make_pool: Callable[..., SessionPool]) -> None:
    """And into no message: nor does that of one that is not there."""
    with Proxy(password="ada:s3cr@t") as guarded:
        urls = [guarded.url.replace("://", "://ada:s3cr%40t@"), f"http://ada:s3cr%40t@127.0.0.1:{unused_port()}"]
        pool = make_pool(proxies=ProxyRotation(urls, max_failures=9))
        assert ask(pool, "ada", f"{server.url}/200") == 200
        with pytest.raises(exceptions.ProxyError) as raised:
            ask(pool, "eve", f"{server.url}/200")

    assert "s3cr" not in f"{raised.value!r} {pool.dump()} {pool.stats()}"


# --- bad proxies ---


def test_a_bad_proxy_is_taken_out_and_comes_back(
    proxies: list[Proxy], secure: EchoServer, ca_file: str, make_pool: Callable[..., SessionPool]
) -> None:
    """Its sessions go on through another one, with their cookies; after its rest new sessions get it again."""
    bad, good, _ = proxies
    clock = FakeClock()
    secure.answers["/login"] = set_cookies("who=ada")
    rotation = ProxyRotation([bad.url, good.url], max_failures=2, rest=300)
    pool = make_pool(proxies=rotation, verify=ca_file, clock=clock)
    ask(pool, "ada", f"{secure.url}/login")
    pool.refresh()  # else it would go on over the tunnel that it has
    bad._refusal = 407
    with pool.lease("ada") as session:
        for _ in range(2):
            with pytest.raises(exceptions.ProxyError, match="407"):
                session.get(secure.url)
        assert session.get(secure.url).json()["cookies"] == {"who": "ada"}
    for key in ("eve", "bob"):
        assert ask(pool, key, secure.url) == 200
    assert (len(bad.seen), len(good.seen)) == (3, 3)

    bad._refusal = None
    clock.advance(299)
    assert ask(pool, "zoe", secure.url) == 200
    assert (len(bad.seen), len(good.seen)) == (3, 4)
    clock.advance(1)
    for key in ("cat", "dan"):
        assert ask(pool, key, secure.url) == 200
    assert (len(bad.seen), len(good.seen)) == (4, 5)


def test_a_host_that_is_down_takes_no_proxy_out(
    proxies: list[Proxy], secure: EchoServer, ca_file: str, make_pool: Callable[..., SessionPool]
) -> None:
    """A proxy that answers 502 to CONNECT works, and says that the host does not (RFC 9110 §15.6.3)."""
    proxy = proxies[0]
    pool = make_pool(proxies=ProxyRotation([proxy.url], max_failures=2), verify=ca_file)
    proxy._refusal = 502
    for _ in range(5):
        with pytest.raises(exceptions.ProxyError, match="502") as raised:
            ask(pool, "ada", secure.url)
        assert raised.value.status == 502
    proxy._refusal = None

    assert ask(pool, "ada", secure.url) == 200


def test_a_proxy_that_is_not_there_is_taken_out(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """Three requests find out, of however many sessions; then all go through the other one."""
    rotation = ProxyRotation([f"http://127.0.0.1:{unused_port()}", proxies[0].url])
    pool = make_pool(proxies=rotation)
    outcomes = []
    for number in range(12):
        try:
            outcomes.append(ask(pool, number, f"{server.url}/200"))
        except exceptions.ProxyError:
            outcomes.append(0)

    assert outcomes == [0, 200, 0, 200, 0, 200, *[200] * 6]


def test_a_proxy_that_lets_nobody_in_is_taken_out(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """407 is the proxy's own word where it forwards; from a server that it leads to it means nothing."""
    with Proxy(password="ada:other") as guarded:
        pool = make_pool(proxies=ProxyRotation([guarded.url, proxies[0].url]))
        with pool.lease("ada") as session:
            statuses = [session.get(f"{server.url}/200").status_code for _ in range(4)]

    assert statuses == [407, 407, 407, 200]


def test_only_the_rotations_own_way_counts(
    proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """A proxy of the call's, or the server itself, that is not there is not held against the session's proxy."""
    pool = make_pool(proxies=ProxyRotation([proxies[0].url, proxies[1].url], max_failures=1))
    with pool.lease("ada") as session:
        session.get(f"{server.url}/200")
        for other in (f"http://127.0.0.1:{unused_port()}", ""):
            with pytest.raises(exceptions.ConnectionError):
                session.get(f"http://127.0.0.1:{unused_port()}", proxies={"http": other})
        session.get(f"{server.url}/200")

    assert [len(proxy.seen) for proxy in proxies] == [2, 0, 0]


def test_when_none_is_left_nothing_is_sent(server: EchoServer, make_pool: Callable[..., SessionPool]) -> None:
    """ProxyError says how many there were and for how long; a call that goes another way is served."""
    urls = [f"http://ada:s3cret@127.0.0.1:{unused_port()}" for _ in range(2)]
    pool = make_pool(proxies=ProxyRotation(urls, max_failures=1), clock=FakeClock())
    with pool.lease("ada") as session:
        for _ in range(2):
            with pytest.raises(exceptions.ProxyError, match="refused"):
                session.get(server.url)
        with pytest.raises(exceptions.ProxyError, match=r"^no proxy is left: all 2 .* for another 300 s$") as raised:
            session.post(server.url)
        assert isinstance(raised.value, exceptions.NotSent)
        assert session.get(f"{server.url}/200", proxies={"http": ""}).ok

    assert len(server.seen) == 1


@pytest.mark.parametrize("key", ["ada", None])
def test_who_is_blocked_moves_one_tier_up(
    key: Hashable, proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool], diary: Diary
) -> None:
    """The next lease of the same name is blank and goes through a dearer proxy; others begin with the cheapest."""
    pool = make_pool(proxies=ProxyRotation([[proxy.url] for proxy in proxies], by="tiered"), health=Health())
    with pool.lease(key) as session:
        session.get(f"{server.url}/login")
        session.get(f"{server.url}/403")
        session.get(f"{server.url}/200")
    assert [len(proxy.seen) for proxy in proxies] == [3, 0, 0]
    with pool.lease(key) as session:
        assert session.get(server.url).json()["cookies"] == {}
        session.retire("captcha")
    assert [len(proxy.seen) for proxy in proxies] == [3, 1, 0]
    for _ in range(2):
        ask(pool, key, f"{server.url}/401")
    ask(pool, "somebody else", f"{server.url}/200")

    assert [len(proxy.seen) for proxy in proxies] == [4, 1, 2]
    assert diary.retirements == [(key, "status 403"), (key, "captcha"), (key, "status 401"), (key, "status 401")]


def test_there_is_nothing_to_warm_up(proxies: list[Proxy], make_pool: Callable[..., SessionPool]) -> None:
    """A connection through a rotation belongs to a session, and the sessions are still to come."""
    pool = make_pool(proxies=ProxyRotation([proxies[0].url]))
    with pytest.raises(ValueError, match="each session has its own connections"):
        pool.warm_up("http://example.com")

    assert proxies[0].accepted == 0


@pytest.mark.parametrize("depth", [1, 50])
def test_routes_do_not_grow_without_end(
    depth: int, proxies: list[Proxy], server: EchoServer, make_pool: Callable[..., SessionPool]
) -> None:
    """Those that are remembered are bounded, whoever asks; a session that is gone leaves no connection either."""
    pool = make_pool(proxies=ProxyRotation([proxies[0].url]), limits=Limits(per_host=2))
    for _ in range(depth):
        with pool.lease(fresh=True) as session:
            session.get(f"{server.url}/200")

    assert len(pool._transport.routes) == depth
    assert pool.stats().idle <= 2
    eventually(lambda: proxies[0].open <= 2)


# --- fork ---


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="forks")
def test_a_fork_while_a_proxy_is_chosen(proxies: list[Proxy], server: EchoServer) -> None:
    """The child waits for no lock of a thread that it does not have, and knows what the parent knew of its sessions."""
    rotation = ProxyRotation([proxies[0].url, proxies[1].url])
    with SessionPool(proxies=rotation, health=Health(on_retire="refuse"), retry=None, trust_env=False) as pool:
        ask(pool, "ada", f"{server.url}/403")
        ask(pool, "eve", f"{server.url}/login")
        locked, go_on = threading.Event(), threading.Event()

        def choose() -> None:
            with rotation._lock:
                locked.set()
                assert go_on.wait(PATIENCE)

        def child() -> Any:
            with pool.lease("eve") as session:
                cookies = session.get(server.url).json()["cookies"]
            try:
                pool.lease("ada")
            except exceptions.IdentityRetiredError:
                return [cookies, ask(pool, "bob", f"{server.url}/200")]

        with in_thread(choose):
            assert locked.wait(PATIENCE)
            try:
                found = in_fork(child)
            finally:
                go_on.set()

    assert found == [{"who": "ada"}, 200]
