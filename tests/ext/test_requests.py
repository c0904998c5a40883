"""Real sessions of requests over a pool: what the server sees, what the caller gets, and what the pool keeps to."""

from __future__ import annotations

import copy
import gc
import gzip
import hashlib
import io
import itertools
import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
import urllib3
from prometheus_client import CollectorRegistry

from sessionpool import Limits, ProxyRotation, RetryPolicy, SessionPool, Timeout, exceptions
from sessionpool.exceptions import PoolClosed, PoolTimeout
from sessionpool.metrics import Metrics
from tests.helpers import PATIENCE, eventually, in_thread
from tests.with_server.children import in_fork
from tests.with_server.echo_server import Answer, CountingServer, EchoServer, Seen, echo, page, redirect, set_cookies
from tests.with_server.raw_server import (
    Step,
    await_bytes,
    close,
    deaf_listener,
    expect,
    head,
    playing,
    reset,
    response,
    send,
    serving,
)
from tests.with_server.test_proxy import Proxy

pytest.importorskip("requests", reason="requests is not installed")

import requests
from requests.adapters import BaseAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth

from sessionpool.ext.requests import PooledAdapter

QUICK = RetryPolicy(attempts=3, backoff=0.0)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "request_method",
        "requests_ca_bundle",
        "curl_ca_bundle",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def tls_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[EchoServer]:
    with EchoServer(tls=tls_context(authority)) as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(trust_env=False, retry=None) as pool:
        yield pool
        gc.collect()
        assert (pool.stats().leased, pool.stats().waiting, pool.stats().sessions) == (0, 0, 0)


def over(adapter: BaseAdapter) -> requests.Session:
    """A session of requests that sends everything by this adapter."""
    session = requests.Session()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@pytest.fixture
def session(pool: SessionPool) -> requests.Session:
    return over(PooledAdapter(pool))


@pytest.fixture
def plain() -> Iterator[requests.Session]:
    """requests as it is, to compare with."""
    with requests.Session() as session:
        yield session


# --- what is sent ---

SENT: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "get": ("GET", "/", dict),
    "head": ("HEAD", "/", dict),
    "options": ("OPTIONS", "/", dict),
    "delete": ("DELETE", "/x", dict),
    "own verb": ("BREW", "/", dict),
    "empty post": ("POST", "/", dict),
    "query": ("GET", "/a?b=c", lambda: {"params": {"d": ["é f", "g"], "h": None}}),
    "escapes": ("GET", "/a%2Fb/%7Ec/é?x=%20y&z=ü#part", dict),
    "fragment": ("GET", "/a#b", dict),
    "own header": ("GET", "/", lambda: {"headers": {"X-B": "2", "x-a": "1", "user-agent": "me", "Accept": None}}),
    "own host": ("GET", "/", lambda: {"headers": {"Host": "example.com"}}),
    "bytes in the header": ("GET", "/", lambda: {"headers": {"X-B": b"2", b"X-C": b"\xe9"}}),
    "form": ("POST", "/", lambda: {"data": {"a": ["1", "ü"], "b": "&"}}),
    "json": ("POST", "/", lambda: {"json": {"a": [1, None, "ü"]}}),
    "bytes": ("PUT", "/", lambda: {"data": b"\0\xff"}),
    "text": ("PATCH", "/", lambda: {"data": "grüße"}),
    "large": ("POST", "/", lambda: {"data": b"x" * 300_000}),
    "file": ("POST", "/", lambda: {"data": io.BytesIO(b"from a file")}),
    "file from the middle": ("POST", "/", lambda: {"data": _from(io.BytesIO(b"from a file"), 5)}),
    "generator": ("POST", "/", lambda: {"data": (piece for piece in (b"a", b"", b"bc"))}),
    "multipart": (
        "POST",
        "/",
        lambda: {
            "data": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
    ),
    "cookies": ("GET", "/", lambda: {"cookies": {"a": "1", "b": "2"}}),
    "basic": ("GET", "/", lambda: {"auth": ("ada", "s3cr@t")}),
    "auth in the url": ("GET", "//ada:pw@HOST/x", dict),
}


def _from(file: io.BytesIO, position: int) -> io.BytesIO:
    file.seek(position)
    return file


def _sent(server: EchoServer, session: requests.Session, method: str, path: str, options: dict[str, Any]) -> Any:
    server.reset()
    url = server.url + path
    if "HOST" in path:
        url = "http:" + path.replace("HOST", server.url.partition("//")[2])
    session.request(method, url, **options)
    (seen,) = server.seen
    return (seen.method, seen.target, seen.headers, seen.body, seen.chunked)


@pytest.mark.parametrize("case", SENT.values(), ids=SENT)
def test_what_requests_prepared_is_sent(
    case: tuple[str, str, Callable[[], dict[str, Any]]],
    server: EchoServer,
    session: requests.Session,
    plain: requests.Session,
) -> None:
    """Line, header in its order, and body are to the byte what requests sends by itself."""
    method, path, options = case

    assert _sent(server, session, method, path, options()) == _sent(server, plain, method, path, options())


@pytest.mark.parametrize("path", ["/a/../b", "//b", "/%7Ea", "/?q=%7E"])
def test_a_path_written_by_hand_is_sent_as_it_is(path: str, server: EchoServer, session: requests.Session) -> None:
    """Who sets the prepared request's URL, to have it unnormalised, gets that: it may have been signed."""
    prepared = session.prepare_request(requests.Request("GET", server.url))
    prepared.url = server.url + path
    session.send(prepared)

    assert [seen.target for seen in server.seen] == [path]


def test_a_path_that_cannot_be_sent_is_escaped(server: EchoServer, session: requests.Session) -> None:
    """Nothing that is put into the URL by hand ends the request's first line."""
    prepared = session.prepare_request(requests.Request("GET", server.url))
    prepared.url = server.url + "/a HTTP/1.1\r\nX-Injected: 1"
    session.send(prepared)

    assert server.seen[0].target == "/a%20HTTP/1.1%0D%0AX-Injected:%201"
    assert server.seen[0].header("x-injected") is None


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nX-Injected: 1\r\n\r\n", "A B", "GÉT"])
def test_a_method_that_is_none_is_refused(method: str, server: EchoServer, session: requests.Session) -> None:
    """Before anything is sent."""
    with pytest.raises(requests.exceptions.InvalidHeader, match="a method is made of"):
        session.request(method, server.url)

    assert server.seen == []


def test_a_header_that_would_be_two_is_refused(server: EchoServer, session: requests.Session) -> None:
    """Also one that was put into the prepared request by hand, past requests' own look."""
    prepared = session.prepare_request(requests.Request("GET", server.url))
    prepared.headers["X-A"] = "1\r\nX-Injected: 1"
    with pytest.raises(requests.exceptions.InvalidHeader):
        session.send(prepared)

    assert server.seen == []


def test_a_generator_of_known_length_is_framed_once(server: EchoServer, session: requests.Session) -> None:
    """requests sends both fields and chunks, which no server can read; here the length counts (RFC 9112 §6.2)."""
    session.post(server.url, data=(piece for piece in (b"a", b"bc")), headers={"Content-Length": "3"})
    (seen,) = server.seen

    assert (seen.header("content-length"), seen.header("transfer-encoding"), seen.body) == ("3", None, b"abc")


def test_nothing_of_the_pools_is_sent(server: EchoServer) -> None:
    """Header, query, cookies, auth and hooks of the pool are its own sessions'."""
    called: list[object] = []
    with SessionPool(
        headers={"X-Pool": "1", "User-Agent": "pool"},
        params={"pool": "1"},
        auth=("pool", "secret"),
        cookies={"pool": "1"},
        hooks={"response": lambda response, **_: called.append(response)},
        base_url="http://127.0.0.1:1/base/",
    ) as pool:
        over(PooledAdapter(pool)).get(server.url + "/x")
        (seen,) = server.seen

    assert (seen.target, seen.header("user-agent")) == ("/x", requests.utils.default_user_agent())
    assert [seen.header(name) for name in ("x-pool", "authorization", "cookie")] == [None, None, None]
    assert called == []


def test_a_file_that_was_read_is_sent_again_from_where_it_began(server: EchoServer) -> None:
    """A retry of the pool's winds the body back."""
    server.answers["/"] = failing(1)
    with SessionPool(retry=RetryPolicy(attempts=2, backoff=0.0)) as pool:
        answer = over(PooledAdapter(pool)).put(server.url + "/", data=_from(io.BytesIO(b"0123456789"), 4))

    assert answer.status_code == 200
    assert [seen.body for seen in server.seen] == [b"456789", b"456789"]


# --- what comes back ---

ANSWERED: dict[str, Answer] = {
    "page": page("grüße"),
    "latin": page("abc", "text/html"),
    "unknown charset": Answer(b"abc", headers=[("Content-Type", "text/plain; charset=klingon")]),
    "json": Answer(b'{"a": 1}', headers=[("Content-Type", "application/json")]),
    "chunked": Answer([b"first\n", b"second\r\nthird"]),
    "gzip": Answer(gzip.compress(b"packed" * 100), headers=[("Content-Encoding", "gzip")]),
    "deflate in chunks": Answer([gzip.compress(b"packed")], headers=[("Content-Encoding", "gzip")]),
    "nothing": Answer(b"", 204),
    "not modified": Answer(b"", 304, [("ETag", '"x"')]),
    "not found": Answer(b"where?", 404),
    "own reason": Answer(b"", 500, reason="Fallen Over"),
    "several fields": Answer(b"", headers=[("X-A", "1"), ("X-A", "2"), ("Link", "<http://x/2>; rel=next")]),
    "cookies": set_cookies("a=1; Path=/", "b=2; HttpOnly; Expires=Wed, 01 Jan 2070 00:00:00 GMT", "c=3; Path=/other"),
    "redirect without a place": Answer(b"", 302),
}


def _got(session: requests.Session, url: str, stream: bool) -> Any:
    got = session.get(url, stream=stream)
    raw = got.raw
    return {
        "status": (got.status_code, got.reason, got.ok, got.is_redirect, got.is_permanent_redirect),
        "header": (list(got.headers.items()), [(name, raw.headers.getlist(name)) for name in raw.headers]),
        "body": (got.content, got.text, got.encoding, got.apparent_encoding),
        "lines": list(got.iter_lines()),
        "pieces": list(got.iter_content(7)),
        "after": (raw.read(), raw.read(10), raw.status, raw.version, raw.reason),
        "cookies": [(each.name, each.value, each.path, each.expires) for each in got.cookies],
        "kept": requests.utils.dict_from_cookiejar(session.cookies),
        "links": got.links,
        "url": got.url,
        "request": (got.request.method, got.request.url, list(got.request.headers.items())),
        "type": type(got),
        "elapsed": got.elapsed.total_seconds() > 0,
        "history": got.history,
        "pickled": pickle.loads(pickle.dumps(got)).text,
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("answer", ANSWERED.values(), ids=ANSWERED)
def test_the_response_is_requests_own(
    answer: Answer, stream: bool, server: EchoServer, session: requests.Session, plain: requests.Session
) -> None:
    """Everything that can be asked of it is what requests says of the same answer."""
    server.answers["/"] = answer

    assert _got(session, server.url + "/", stream) == _got(plain, server.url + "/", stream)


def test_redirects_are_followed_by_requests(server: EchoServer, session: requests.Session) -> None:
    """By its own rules: what was meant for one host does not follow to another, cookies are kept on the way."""
    with EchoServer("127.0.0.2") as other:
        server.answers["/"] = Answer(b"", 302, [("Location", "/again"), ("Set-Cookie", "hop=1; Path=/")])
        server.answers["/again"] = redirect(other.url + "/end")
        answer = session.post(server.url + "/", data={"a": "1"}, headers={"Authorization": "x"})
    sent = [*server.seen, *other.seen]

    assert [str(each.url) for each in answer.history] == [server.url + "/", server.url + "/again"]
    assert [each.method for each in sent] == ["POST", "GET", "GET"]
    assert [each.header("authorization") for each in sent] == ["x", "x", None]
    assert [each.header("cookie") for each in sent] == [None, "hop=1", None]


def test_redirects_may_be_left_alone(server: EchoServer, session: requests.Session) -> None:
    """`allow_redirects=False` and `response.next` are requests' own."""
    server.answers["/"] = redirect("/next")
    answer = session.get(server.url + "/", allow_redirects=False)

    assert (answer.status_code, answer.next and answer.next.url) == (302, server.url + "/next")
    assert len(server.seen) == 1


def test_too_many_redirects(server: EchoServer, session: requests.Session) -> None:
    """Counted by requests."""
    server.answers["/"] = redirect("/")
    session.max_redirects = 3
    with pytest.raises(requests.TooManyRedirects):
        session.get(server.url + "/")

    assert len(server.seen) == 4


def test_digest_auth_of_requests(server: EchoServer, session: requests.Session) -> None:
    """A handler that answers a challenge by `response.connection.send` goes over the pool as well."""
    server.answers["/"] = challenge
    answer = session.put(server.url + "/", data=io.BytesIO(b"body"), auth=HTTPDigestAuth("ada", "pw"))

    assert (answer.status_code, [each.status_code for each in answer.history]) == (200, [401])
    assert [seen.body for seen in server.seen] == [b"body", b"body"]
    assert server.seen[1].header("cookie") == "seen=1"
    assert server.accepted == 1


def challenge(seen: Seen) -> Answer:
    """Digest (RFC 7616), MD5, `ada` with `pw`."""
    said = requests.utils.parse_dict_header((seen.header("authorization") or "").removeprefix("Digest "))
    digest = [hashlib.md5(text.encode()).hexdigest() for text in ("ada:here:pw", f"{seen.method}:{seen.target}")]
    wanted = ":".join([digest[0], "n", said.get("nc") or "", said.get("cnonce") or "", "auth", digest[1]])
    if said.get("response") == hashlib.md5(wanted.encode()).hexdigest():
        return echo(seen)
    fields = [("WWW-Authenticate", 'Digest realm="here", nonce="n", qop="auth"'), ("Set-Cookie", "seen=1")]
    return Answer(b"who?", 401, fields)


# --- many threads ---


def test_threads_share_a_bounded_number_of_connections() -> None:
    """32 threads, each with a session of its own, together never open more than `per_host`."""
    with CountingServer("127.0.0.1") as server, SessionPool(limits=Limits(per_host=4)) as pool:
        adapter = PooledAdapter(pool)

        def work() -> set[int]:
            with over(adapter) as session:
                return {session.get(server.urls[0] + "/").status_code for _ in range(25)}

        workers = [in_thread(work) for _ in range(32)]

        assert [worker.get() for worker in workers] == [{200}] * 32
        assert sum(server.requests.values()) == 800
        assert 1 <= server.most_open <= 4
        assert sum(server.accepted.values()) <= 4


def test_cookies_stay_in_their_session(server: EchoServer, pool: SessionPool) -> None:
    """16 threads log in as 16 users over the same connections; each request carries its own user's cookie alone."""
    server.answers["/login"] = lambda seen: set_cookies(f"user={seen.query[0][1]}; Path=/")
    adapter = PooledAdapter(pool)
    gate = threading.Barrier(16)

    def work(user: str) -> list[dict[str, str]]:
        session = over(adapter)
        session.get(server.url + "/login", params={"user": user})
        gate.wait(PATIENCE)
        return [session.get(server.url + "/me").json()["cookies"] for _ in range(10)]

    workers = {user: in_thread(work, user) for user in map(str, range(16))}

    assert {user: worker.get() for user, worker in workers.items()} == {user: [{"user": user}] * 10 for user in workers}
    assert server.accepted <= 10
    with pool.lease() as own:
        assert len(own.cookies) == 0


def test_the_threads_own_session_is_left_alone(
    server: EchoServer, pool: SessionPool, session: requests.Session
) -> None:
    """Whoever asks in the midst of a lease finds its session as it was."""
    server.answers["/eat"] = set_cookies("theirs=1; Path=/")
    with pool.lease() as own:
        own.cookies.set("own", "1")
        own.trust_env, own.proxies = True, {"http": "http://127.0.0.1:1"}
        session.get(server.url + "/eat", verify=False)
        before = (own.cookies.get_dict(), own.trust_env, own.verify)
    session.get(server.url + "/x")

    assert before == ({"own": "1"}, True, True)
    assert dict(server.seen[1].cookies) == {"theirs": "1"}


def test_one_session_in_many_threads(server: EchoServer, session: requests.Session) -> None:
    """What requests' users do although they should not: the adapter adds no trouble to it."""
    workers = [in_thread(lambda: [session.get(server.url + "/x").status_code for _ in range(20)]) for _ in range(8)]

    assert [set(worker.get()) for worker in workers] == [{200}] * 8


# --- the connection ---


def test_a_stream_holds_its_connection_until_it_is_read(
    server: EchoServer, pool: SessionPool, session: requests.Session
) -> None:
    """And the lease with it."""
    server.answers["/"] = Answer([b"ab", b"cd"])
    with session.get(server.url + "/", stream=True) as answer:
        held = (pool.stats().leased, pool.stats().sessions)
        read = b"".join(answer.iter_content(3))
        after = (pool.stats().leased, pool.stats().sessions)

    assert (held, read, after) == ((1, 1), b"abcd", (0, 0))
    assert session.get(server.url + "/").content == b"abcd"
    assert server.accepted == 1


def test_a_stream_that_is_closed_gives_its_connection_back(
    server: EchoServer, pool: SessionPool, session: requests.Session
) -> None:
    """Half read, it is closed, for what is left would be the next answer."""
    server.answers["/"] = Answer([b"ab" * 100_000] * 10)
    answer = session.get(server.url + "/", stream=True)
    answer.raw.read(10)
    answer.close()

    assert (pool.stats().leased, pool.stats().sessions) == (0, 0)
    assert session.get(server.url + "/x").status_code == 200
    assert server.accepted == 2


@pytest.mark.parametrize("begun", [False, True], ids=["unread", "half read"])
def test_a_stream_that_is_dropped_gives_its_connection_back(
    begun: bool, server: EchoServer, pool: SessionPool, session: requests.Session
) -> None:
    """The collector does it."""
    server.answers["/"] = Answer([b"ab" * 100_000] * 10)
    answer = session.get(server.url + "/", stream=True)
    if begun:
        next(answer.iter_content(10))
    held = pool.stats().leased
    del answer
    gc.collect()

    assert held == 1
    assert eventually(lambda: pool.stats().leased == pool.stats().sessions == 0)


def test_dropping_a_stream_waits_for_no_lock(server: EchoServer, pool: SessionPool, session: requests.Session) -> None:
    """The collector may run in a thread that holds one of the pool's."""
    server.answers["/"] = Answer([b"ab" * 100_000] * 10)
    held = [session.get(server.url + "/", stream=True)]
    held[0].raw.read(10)
    with pool._transport.gate._lock, in_thread(held.clear) as dropping:
        ended = eventually(lambda: dropping.is_done, within=5.0)

    assert ended
    assert eventually(lambda: pool.stats().leased == 0)


def test_a_stream_may_be_read_in_another_thread(server: EchoServer, session: requests.Session) -> None:
    """A response of requests belongs to whoever has it."""
    server.answers["/"] = Answer([b"ab", b"cd"])
    answer = session.get(server.url + "/", stream=True)

    assert in_thread(lambda: answer.content).get() == b"abcd"


def test_a_hook_may_ask_again_where_there_is_one_connection(server: EchoServer) -> None:
    """A body that is not asked for as a stream has been read before requests calls its hooks: nothing is held."""
    with SessionPool(limits=Limits(per_host=1), timeout=Timeout(pool=5.0), retry=None) as pool:
        session = over(PooledAdapter(pool))
        asked: list[int] = []

        def ask(answer: requests.Response, **_: Any) -> None:
            if not asked:
                asked.append(0)
                asked[0] = session.get(server.url + "/token").status_code

        session.hooks["response"] = [ask]
        session.get(server.url + "/")

    assert asked == [200]
    assert [seen.path for seen in server.seen] == ["/", "/token"]


def test_closing_the_session_does_not_close_the_pool(
    server: EchoServer, pool: SessionPool, session: requests.Session
) -> None:
    """Others use it too; and the session can be used again, as with requests' own adapters."""
    session.get(server.url)
    session.close()

    assert session.get(server.url).status_code == 200
    assert pool.get(server.url).status_code == 200
    assert server.accepted == 1


def test_a_closed_pool(server: EchoServer) -> None:
    """`ConnectionError`, which says so."""
    with SessionPool(name="shop") as pool:
        session = over(PooledAdapter(pool))
        session.get(server.url)
    with pytest.raises(requests.ConnectionError, match="pool 'shop' is closed") as raised:
        session.get(server.url)

    assert isinstance(raised.value.__cause__, PoolClosed)


def test_closing_the_pool_waits_for_what_is_under_way(server: EchoServer) -> None:
    """Each request is a lease."""
    may_answer = threading.Event()
    arrived = threading.Event()

    def slow(seen: Seen) -> Answer:
        arrived.set()
        may_answer.wait(PATIENCE)
        return echo(seen)

    server.answers["/"] = slow
    pool = SessionPool(retry=None)
    with in_thread(over(PooledAdapter(pool)).get, server.url + "/") as call:
        assert arrived.wait(PATIENCE)
        with in_thread(pool.close, 20.0) as closing:
            eventually(lambda: pool._closed)
            may_answer.set()
    report = closing.get()

    assert call.get().status_code == 200
    assert (report.leases, report.cut) == (0, 0)


def test_the_requests_are_counted(server: EchoServer) -> None:
    """The pool's metrics show them as its own."""
    server.answers["/flaky"] = failing(1)
    registry = CollectorRegistry()
    with SessionPool(name="shop", metrics=Metrics(registry=registry), retry=QUICK) as pool:
        session = over(PooledAdapter(pool))
        session.get(server.url + "/x")
        session.get(server.url + "/flaky")
        session.get(server.url + "/x", stream=True).close()

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"sessionpool_{name}", {"pool": "shop", **labels})

        counted = {
            "calls": value("request_duration_seconds_count", method="GET", code="200"),
            "attempts": value("attempt_duration_seconds_count"),
            "retries": value("retries_total", reason="503"),
            "leases": value("leases_total", outcome="released"),
        }

    assert counted == {"calls": 3, "attempts": 4, "retries": 1, "leases": 3}


# --- trying again ---


def failing(times: int, status: int = 503) -> Callable[[Seen], Answer]:
    """So many failures, then echoes."""
    count = itertools.count()
    return lambda seen: Answer(b"busy", status) if next(count) < times else echo(seen)


@pytest.mark.parametrize(
    ("given", "status", "sent"),
    [
        ({}, 200, 3),
        ({"max_retries": 0}, 503, 1),
        ({"max_retries": None}, 503, 1),
        ({"max_retries": RetryPolicy(attempts=2, backoff=0.0)}, 503, 2),
        ({"max_retries": urllib3.Retry(2, status_forcelist=[503])}, 200, 3),
    ],
    ids=["the pool's", "none", "None", "another", "urllib3's"],
)
def test_what_is_tried_again(given: dict[str, Any], status: int, sent: int, server: EchoServer) -> None:
    """By the pool's policy, or the adapter's."""
    server.answers["/"] = failing(2)
    with SessionPool(retry=QUICK) as pool:
        answer = over(PooledAdapter(pool, **given)).get(server.url + "/")

    assert (answer.status_code, len(server.seen)) == (status, sent)


def test_a_body_that_broke_is_asked_for_again(session: requests.Session) -> None:
    """Read within the attempt, it is the attempt's failure."""
    broken: list[Step] = [expect(), send(head("Content-Length: 10") + b"abc"), close]
    with playing(broken, [expect(), send(response(b"whole"))], retry=QUICK) as (pool, server):
        answer = over(PooledAdapter(pool)).get(server.url)

    assert answer.content == b"whole"


# --- time ---


@pytest.mark.parametrize(
    ("given", "connect", "read"),
    [
        (None, 5.0, 30.0),
        (3, 3, 3),
        (0.5, 0.5, 0.5),
        ((1, 2), 1, 2),
        ((None, 2), None, 2),
        (urllib3.Timeout(connect=1, read=2), 1, 2),
        (urllib3.Timeout(connect=1), 1, 30.0),
        (urllib3.Timeout(read=None), 5.0, None),
        (urllib3.Timeout(total=4), 4, 4),
        (urllib3.Timeout(total=4, connect=1), 1, 4),
        (urllib3.Timeout(connect=3, read=9, total=4), 3, 4),
    ],
)
def test_timeouts_in_every_form(
    given: Any,
    connect: float | None,
    read: float | None,
    server: EchoServer,
    pool: SessionPool,
    session: requests.Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What requests is told goes over the pool's; what it is not told is the pool's."""
    told: list[Any] = []
    real = pool._transport.send

    def listen(payload: Any, route: Any, timeout: Any, *rest: Any) -> Any:
        told.append(timeout)
        return real(payload, route, timeout, *rest)

    monkeypatch.setattr(pool._transport, "send", listen)
    session.get(server.url, timeout=given)

    assert [(each.connect, each.read, each.pool) for each in told] == [(connect, read, 30.0)]


@pytest.mark.parametrize("given", ["soon", (1, 2, 3), 0, -1, object()])
def test_what_is_no_timeout(given: Any, server: EchoServer, session: requests.Session) -> None:
    """ValueError, as in requests."""
    with pytest.raises(ValueError, match=r"timeout|Timeout"):
        session.get(server.url, timeout=given)

    assert server.seen == []


# --- TLS ---


def test_an_authority_of_ones_own(secure: EchoServer, ca_file: str, session: requests.Session) -> None:
    """By call, by session, and by the environment that requests reads."""
    session.get(secure.url, verify=ca_file)
    session.verify = ca_file
    session.get(secure.url)

    assert len(secure.seen) == 2


def test_an_authority_from_the_environment(
    secure: EchoServer, ca_file: str, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests reads it, at each call."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    session.get(secure.url)
    session.trust_env = False
    with pytest.raises(requests.exceptions.SSLError):
        session.get(secure.url)

    assert len(secure.seen) == 1


def test_an_authority_of_the_pools(secure: EchoServer, ca_file: str) -> None:
    """It counts where requests names none: True is what every session of requests says."""
    with SessionPool(verify=ca_file) as pool:
        over(PooledAdapter(pool)).get(secure.url)

    assert len(secure.seen) == 1


@pytest.mark.parametrize("verify", [True, None])
def test_a_pool_that_checks_nothing_makes_requests_no_weaker(verify: bool | None, secure: EchoServer) -> None:
    """What was to be checked is."""
    with SessionPool(verify=False, retry=None) as pool:
        session = over(PooledAdapter(pool))
        session.verify = verify  # type: ignore[assignment]  # None is none of its types, and is set all the same
        with pytest.raises(requests.exceptions.SSLError):
            session.get(secure.url)

    assert secure.seen == []


def test_a_session_may_check_nothing(secure: EchoServer, session: requests.Session) -> None:
    """`verify=False` holds for the call, whose connection serves none that checks."""
    session.get(secure.url, verify=False)
    with pytest.raises(requests.exceptions.SSLError):
        session.get(secure.url)

    assert len(secure.seen) == 1


@pytest.mark.parametrize("whose", ["requests'", "the pool's", "nobody's"])
def test_a_clients_certificate(whose: str, authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    """requests' is shown; the pool's says who the pool's sessions are, and is not."""
    authority.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    cert = str(tmp_path / "client.pem")
    context = tls_context(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    authority.configure_trust(context)
    shown: list[bool] = []

    class Asking(EchoServer):
        def handle(self, stream: Any, sock: Any, number: int) -> None:
            shown.append(bool(sock.getpeercert()))
            super().handle(stream, sock, number)

    with Asking(tls=context) as server, SessionPool(cert=cert if whose == "the pool's" else None) as pool:
        session = over(PooledAdapter(pool))
        session.get(server.url, verify=ca_file, cert=cert if whose == "requests'" else None)

    assert shown == [whose == "requests'"]


# --- proxies ---


def test_proxies_of_requests(server: EchoServer, secure: EchoServer, ca_file: str, session: requests.Session) -> None:
    """Plain http is forwarded, https tunnelled; the password in the URL goes to the proxy alone."""
    with Proxy(password="ada:s3cr@t") as proxy:
        session.proxies = {"all": proxy.url.replace("//", "//ada:s3cr%40t@")}
        session.get(server.url + "/x?y=z")
        session.get(secure.url, verify=ca_file)
        asked = [(seen.method, seen.target) for seen in proxy.seen]

    assert asked == [("GET", server.url + "/x?y=z"), ("CONNECT", f"127.0.0.1:{secure.port}")]
    assert [seen.header("via") for seen in (*server.seen, *secure.seen)] == ["1.1 test", None]
    assert [seen.header("proxy-authorization") for seen in (*server.seen, *secure.seen)] == [None, None]


def test_the_environment_is_requests_affair(
    server: EchoServer, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read at each call, with its NO_PROXY, unless the session does not trust it."""
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        session.get(server.url + "/1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        session.get(server.url + "/2")
        monkeypatch.delenv("NO_PROXY")
        session.trust_env = False
        session.get(server.url + "/3")

    assert [seen.target for seen in proxy.seen] == [server.url + "/1"]
    assert [seen.path for seen in server.seen] == ["/1", "/2", "/3"]


def test_the_pools_environment_is_not(server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of requests that does not trust the environment is not led by it through the pool's back door."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with SessionPool(retry=None) as pool:
        session = over(PooledAdapter(pool))
        session.trust_env = False

        assert session.get(server.url).status_code == 200


def test_the_pools_proxies_hold_where_requests_names_none(server: EchoServer) -> None:
    """Whoever tells a pool to go through a proxy does not want its requests to go past it; unless they say so."""
    with Proxy() as proxy, SessionPool(proxies={"http": proxy.url}) as pool:
        session = over(PooledAdapter(pool))
        session.get(server.url + "/1")
        session.get(server.url + "/2", proxies={"http": ""})

    assert [seen.target for seen in proxy.seen] == [server.url + "/1"]
    assert [seen.path for seen in server.seen] == ["/1", "/2"]


def test_a_rotation_gives_each_request_its_proxy(server: EchoServer) -> None:
    """Nothing goes past the proxies of a pool that has a `ProxyRotation`."""
    with Proxy() as one, Proxy() as other, SessionPool(proxies=ProxyRotation([one.url, other.url])) as pool:
        session = over(PooledAdapter(pool))
        for _ in range(8):
            session.get(server.url + "/")
        seen = len(one.seen) + len(other.seen)

    assert seen == len(server.seen) == 8
    assert {seen.header("via") for seen in server.seen} == {"1.1 test"}


# --- what goes wrong ---

GARBAGE = b"SSH-2.0-OpenSSH_9.6\r\n\r\n"
BROKEN: dict[str, list[Step]] = {
    "closed without an answer": [expect(), close],
    "reset": [expect(), reset],
    "not HTTP": [expect(), send(GARBAGE), close],
    "silent": [expect(), await_bytes],
    "half a body": [expect(), send(head("Content-Length: 10") + b"abc"), close],
    "half a chunk": [expect(), send(head("Transfer-Encoding: chunked") + b"a\r\nabc"), close],
    "no chunk size": [expect(), send(head("Transfer-Encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n"), close],
    "not gzip": [expect(), send(response(b"not gzip at all", "Content-Encoding: gzip")), close],
}


def _raised(session: requests.Session, url: str, **options: Any) -> requests.RequestException:
    with pytest.raises(requests.RequestException) as raised:
        session.get(url, **{"timeout": (0.3, 0.3), **options}).content  # noqa: B018 - reads it
    return raised.value


def _ours(error: BaseException | None) -> list[exceptions.RequestException]:
    """What of ours is behind an error of requests."""
    found = []
    while error is not None:
        if isinstance(error, exceptions.RequestException):
            found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("steps", BROKEN.values(), ids=BROKEN)
def test_what_breaks_is_told_as_requests_tells_it(
    steps: list[Step], stream: bool, pool: SessionPool, session: requests.Session, plain: requests.Session
) -> None:
    """The same class for the same trouble, with ours behind it."""
    with serving(steps, steps) as server:
        own, theirs = (_raised(each, server.url, stream=stream) for each in (session, plain))

    assert type(own) is type(theirs)
    assert _ours(own) or isinstance(own, requests.exceptions.ContentDecodingError)
    assert pool.stats().leased == 0


def test_a_body_that_stalls(pool: SessionPool, session: requests.Session, plain: requests.Session) -> None:
    """The one difference: read within the call it is a `ReadTimeout`, where requests says `ConnectionError`."""
    stalls: list[Step] = [expect(), send(head("Content-Length: 10") + b"abc"), await_bytes]
    with serving(stalls, stalls, stalls) as server:
        own, streamed, theirs = (
            _raised(session, server.url),
            _raised(session, server.url, stream=True),
            _raised(plain, server.url),
        )

    assert [type(each) for each in (own, streamed, theirs)] == [
        requests.ReadTimeout,
        requests.ConnectionError,
        requests.ConnectionError,
    ]


def test_who_cannot_be_reached(session: requests.Session, plain: requests.Session, authority: trustme.CA) -> None:
    """Refused, deaf, unknown, of the wrong name or authority, behind a proxy that is not there or says no."""
    with (
        deaf_listener() as deaf,
        EchoServer(tls=tls_context(authority)) as untrusted,
        EchoServer(tls=tls_context(trustme.CA(), "example.com")) as misnamed,
        Proxy(refusal=503) as refusing,
    ):
        cases: list[tuple[str, dict[str, Any]]] = [
            ("http://127.0.0.1:1/", {}),
            (deaf, {}),
            ("http://nowhere.invalid/", {"timeout": 20}),
            (untrusted.url, {"timeout": 20}),
            (misnamed.url, {"timeout": 20}),
            ("http://example.invalid/", {"proxies": {"http": "http://127.0.0.1:1"}}),
            ("https://example.invalid/", {"proxies": {"https": refusing.url}, "timeout": 20}),
            ("http://example.invalid/", {"proxies": {"http": "http://"}}),
        ]
        own = [type(_raised(session, url, **options)) for url, options in cases]
        theirs = [type(_raised(plain, url, **options)) for url, options in cases]

    assert own == theirs
    assert len(set(own)) > 3


@pytest.mark.parametrize("url", ["ftp://example.com/", "example.com", "http://", "http://.example.com/", "http://*/"])
def test_what_is_no_url(url: str, session: requests.Session, plain: requests.Session) -> None:
    """requests says so itself."""
    assert type(_raised(session, url)) is type(_raised(plain, url))


def test_a_scheme_that_the_pool_cannot_fetch(pool: SessionPool, session: requests.Session) -> None:
    """Though the adapter was mounted for it."""
    session.mount("ftp://", PooledAdapter(pool))
    with pytest.raises(requests.exceptions.InvalidSchema):
        session.get("ftp://127.0.0.1/x")


def test_who_waits_too_long(server: EchoServer) -> None:
    """`PoolTimeout` is a `ConnectTimeout`: nothing was sent, so that it may be tried again."""
    server.answers["/"] = Answer([b"ab", b"cd"])
    with SessionPool(limits=Limits(per_host=1), timeout=Timeout(pool=0.05), retry=None) as pool:
        session = over(PooledAdapter(pool))
        held = in_thread(session.get, server.url + "/", stream=True).get()
        with pytest.raises(requests.ConnectTimeout, match="came free within") as raised:
            session.get(server.url + "/")
        held.close()

    assert isinstance(raised.value.__cause__, PoolTimeout)
    assert raised.value.args == (raised.value.__cause__,)
    assert raised.value.request is not None
    assert raised.value.request.url == server.url + "/"


EVERY = [each for each in vars(exceptions).values() if isinstance(each, type)]


@pytest.mark.parametrize("kind", [each for each in EVERY if issubclass(each, exceptions.RequestException)])
def test_every_error_of_ours_has_a_class_of_requests(kind: type[exceptions.RequestException]) -> None:
    """The same name where there is one; `NotSent` never looks like a time-out in reading."""
    from sessionpool.ext.requests import _theirs

    error = kind("no", "doc", 0) if issubclass(kind, exceptions.JSONDecodeError) else kind("no")
    theirs = _theirs(error)

    assert theirs is getattr(requests.exceptions, kind.__name__, theirs)
    assert not (isinstance(error, exceptions.NotSent) and issubclass(theirs, requests.ReadTimeout))
    assert issubclass(theirs, requests.ConnectionError) or not issubclass(kind, exceptions.PoolError)


# --- the adapter itself ---


@pytest.mark.parametrize("duplicate", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy])
@pytest.mark.parametrize("what", ["adapter", "session"])
def test_it_is_not_pickled(what: str, duplicate: Callable[[Any], Any], pool: SessionPool) -> None:
    """Its pool holds sockets; the error says what to do."""
    adapter = PooledAdapter(pool)
    with pytest.raises(TypeError, match="mount one on the other side"):
        duplicate(adapter if what == "adapter" else over(adapter))


def test_it_shows_its_pool() -> None:
    """For whoever looks at `session.adapters`."""
    with SessionPool(name="shop") as pool:
        assert repr(PooledAdapter(pool)) == "<PooledAdapter <SessionPool 'shop'>>"


def test_what_is_no_retry_policy(pool: SessionPool) -> None:
    """It is told when the adapter is made."""
    with pytest.raises(ValueError, match="max_retries"):
        PooledAdapter(pool, max_retries="often")


def test_a_forked_process_uses_the_adapter(server: EchoServer, session: requests.Session) -> None:
    """Over connections of its own."""
    session.get(server.url)
    status = in_fork(lambda: session.get(server.url).status_code)

    assert status == 200
    assert [seen.connection for seen in server.seen] == [1, 2]
    assert session.get(server.url).status_code == 200
    assert server.accepted == 2


# --- libraries that insist on requests ---


class TokenServer:
    """Answers at /token what it was asked to by `grant`, and at /me who asks; tokens are numbered.

    Attributes:
        granted: The fields of each request for a token.
    """

    def __init__(self, server: EchoServer) -> None:
        self.granted: list[dict[str, list[str]]] = []
        self.url = server.url
        self.revoked: set[str] = set()
        server.answers["/token"] = self._grant
        server.answers["/me"] = self._tell

    def _grant(self, seen: Seen) -> Answer:
        self.granted.append(parse_qs(seen.body.decode()))
        token = {"access_token": f"token-{len(self.granted)}", "token_type": "Bearer", "expires_in": 3600}
        return Answer(json.dumps(token).encode(), headers=[("Content-Type", "application/json")])

    def _tell(self, seen: Seen) -> Answer:
        token = (seen.header("authorization") or "").removeprefix("Bearer ")
        if not token or token in self.revoked:
            return Answer(b"who?", 401, [("WWW-Authenticate", "Bearer")])
        return page(token)


def test_requests_oauthlib(
    server: EchoServer, pool: SessionPool, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `OAuth2Session` gets its token, and uses it, over the pool."""
    oauthlib = pytest.importorskip("requests_oauthlib")
    client = pytest.importorskip("oauthlib.oauth2").BackendApplicationClient("app")
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    tokens = TokenServer(server)
    with oauthlib.OAuth2Session(client=client) as oauth:
        oauth.mount("http://", PooledAdapter(pool))
        oauth.fetch_token(
            server.url + "/token", client_id="app", client_secret="hush", auth=HTTPBasicAuth("app", "hush")
        )
        answer = oauth.get(server.url + "/me")

    assert answer.text == "token-1"
    assert tokens.granted[0]["grant_type"] == ["client_credentials"]
    assert server.accepted == 1


def test_google_auth(server: EchoServer, pool: SessionPool) -> None:
    """An `AuthorizedSession` asks over the pool, and so does what refreshes its token, in threads."""
    transport = pytest.importorskip("google.auth.transport.requests")
    credentials = pytest.importorskip("google.oauth2.credentials")
    tokens = TokenServer(server)
    refreshing = over(PooledAdapter(pool))
    granted = credentials.Credentials(
        "old", refresh_token="r", token_uri=server.url + "/token", client_id="app", client_secret="hush"
    )
    tokens.revoked.add("old")
    with transport.AuthorizedSession(granted, auth_request=transport.Request(refreshing)) as authorized:
        authorized.mount("http://", PooledAdapter(pool))
        first = authorized.get(server.url + "/me").text
        workers = [in_thread(lambda: authorized.get(server.url + "/me").text) for _ in range(8)]
        others = {worker.get() for worker in workers}

    assert (first, others) == ("token-1", {"token-1"})
    assert tokens.granted == [
        {"grant_type": ["refresh_token"], "client_id": ["app"], "client_secret": ["hush"], "refresh_token": ["r"]}
    ]
    assert server.accepted <= 8


def test_toolbelt_streams_a_multipart_body(
    server: EchoServer, session: requests.Session, plain: requests.Session
) -> None:
    """`MultipartEncoder` is sent as requests sends it, with its length."""
    toolbelt = pytest.importorskip("requests_toolbelt")
    bodies = []
    for each in (session, plain):
        encoder = toolbelt.MultipartEncoder(
            {"field": "value", "file": ("a.txt", io.BytesIO(b"x" * 100_000), "text/plain")}, boundary="b"
        )
        each.post(server.url, data=encoder, headers={"Content-Type": encoder.content_type})
        seen = server.seen[-1]
        bodies.append((seen.headers, seen.body, seen.chunked))

    assert bodies[0] == bodies[1]
    assert not bodies[0][2]
    assert len(bodies[0][1]) > 100_000


def test_toolbelt_dumps_what_came_over_the_pool(
    server: EchoServer, session: requests.Session, plain: requests.Session
) -> None:
    """`dump_all` finds everything that it looks for."""
    dump = pytest.importorskip("requests_toolbelt.utils.dump")
    server.answers["/"] = redirect("/end", 302, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    server.answers["/end"] = page("grüße")
    own, theirs = (bytes(dump.dump_all(each.get(server.url + "/"))) for each in (session, plain))

    assert own == theirs
    assert own.count(b"HTTP/1.1 ") == 2
