"""The operations endpoint over real sockets: what it answers, whom it refuses, and that nobody keeps it busy."""

from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import http.client
import json
import socket
import ssl
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from sessionpool import Limits, PoolDump, SessionPool
from sessionpool.ops import OpsServer, _server
from sessionpool.ops._server import MAX_CONNECTIONS
from tests.helpers import eventually, in_thread
from tests.with_server.children import in_fork

PAGES = {
    "/": "text/html; charset=utf-8",
    "/stats.json": "application/json",
    "/metrics": "text/plain; version=0.0.4; charset=utf-8",
    "/healthz": "text/plain; charset=utf-8",
    "/readyz": "text/plain; charset=utf-8",
}


@pytest.fixture(autouse=True)
def _close_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "POLL", 0.01)


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(name="crawl", trust_env=False) as pool:
        yield pool


@pytest.fixture
def ops(pool: SessionPool) -> Iterator[OpsServer]:
    with pool.serve(0) as ops:
        yield ops


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(ops: OpsServer, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", ops.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())


def say(ops: OpsServer, text: str | bytes) -> bytes:
    """What comes back for a request that no client would send."""
    with socket.create_connection(("127.0.0.1", ops.port), 10) as sock:
        sock.sendall(text.encode() if isinstance(text, str) else text)
        answer = b""
        while got := sock.recv(65536):
            answer += got
        return answer


def is_open(ops: OpsServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", ops.port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


# --- pages ---


@pytest.mark.parametrize("path", PAGES)
def test_pages(ops: OpsServer, path: str) -> None:
    """Each has its content type, is kept by nobody, and may do nothing in a browser."""
    answer = ask(ops, path)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == PAGES[path]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", PAGES)
def test_head_is_get_without_the_body(ops: OpsServer, path: str) -> None:
    """Same status and fields."""
    got, asked = ask(ops, path), ask(ops, path, "HEAD")

    assert (asked.status, asked.body) == (got.status, b"")
    assert asked.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(asked.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/nowhere"])
def test_other_methods_are_not_allowed(ops: OpsServer, method: str, path: str) -> None:
    """Whatever they are called: there is nothing to change."""
    answer = ask(ops, path, method)

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/nowhere", "/status", "//stats.json/x", "/../etc/passwd", "/%2e%2e/x", "/<script>"])
def test_other_paths_are_not_found(ops: OpsServer, path: str) -> None:
    """And are not repeated in the answer."""
    answer = ask(ops, path)

    assert answer.status == 404
    assert path.encode() not in answer.body


def test_a_query_makes_no_difference(ops: OpsServer) -> None:
    """Prometheus and load balancers may add one."""
    assert ask(ops, "/healthz?probe=7").status == 200


def test_metrics_by_what_is_accepted(ops: OpsServer) -> None:
    """Text for whoever does not say, OpenMetrics for whoever asks."""
    text = ask(ops, "/metrics")
    openmetrics = ask(ops, "/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert b"# TYPE python_info gauge" in text.body
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")
    assert "Accept" in openmetrics.headers["Vary"]


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip; q=1.0, *;q=0", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("x-gzip-not", False),
        ("", False),
    ],
)
def test_gzip_for_whoever_takes_it(ops: OpsServer, accepted: str, *, is_packed: bool) -> None:
    """Large answers are packed if, and only if, that is accepted."""
    answer = ask(ops, "/", Accept_Encoding=accepted)

    assert (answer.headers["Content-Encoding"] == "gzip") is is_packed
    assert (gzip.decompress(answer.body) if is_packed else answer.body).startswith(b"<!doctype html>")


def test_a_failing_collector_is_no_end(ops: OpsServer, pool: SessionPool, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be told is an error of that page, and the log has the reason, the answer has not."""

    def fail(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("secret reason")

    ops._exposition = fail

    assert ask(ops, "/metrics").status == 500
    assert b"secret" not in ask(ops, "/metrics").body
    assert "secret reason" in caplog.text
    assert ask(ops, "/healthz").status == 200


# --- the pool's life ---


def test_stats_are_those_of_the_pool(pool: SessionPool, ops: OpsServer) -> None:
    """Leases are told by identity and thread."""
    with pool.lease("ada"):
        found = ask(ops, "/stats.json").json

    assert found["pool"] == {"name": "crawl", "state": "open"}
    assert found["totals"]["capacity"] == 100
    assert [(lease["identity"], lease["thread"]) for lease in found["leases"]] == [("ada", "MainThread")]


def test_a_suspended_pool_is_not_ready(pool: SessionPool, ops: OpsServer) -> None:
    """It lives, and takes no work until it is resumed."""
    pool.suspend()

    assert (ask(ops, "/readyz").status, ask(ops, "/healthz").status) == (503, 200)
    assert b"suspended" in ask(ops, "/readyz").body
    pool.resume()
    assert ask(ops, "/readyz").status == 200


def test_it_outlives_the_pools_closing(pool: SessionPool, ops: OpsServer) -> None:
    """Closed is a state like others, and a page can tell."""
    pool.close()

    assert ask(ops, "/readyz").status == 503
    assert ask(ops, "/healthz").status == 200
    assert ask(ops, "/metrics").status == 200
    assert ask(ops, "/stats.json").json["pool"]["state"] == "closed"
    assert b">closed<" in ask(ops, "/").body


def test_it_does_not_keep_the_pool() -> None:
    """A pool that is dropped goes, and the endpoint says so."""
    pool = SessionPool(name="dropped", trust_env=False)
    gone = weakref.ref(pool)
    with pool.serve(0) as ops:
        assert ask(ops, "/stats.json").json["pool"]["state"] == "open"
        del pool
        gc.collect()

        assert gone() is None
        assert ask(ops, "/readyz").status == 503
        eventually(lambda: ask(ops, "/stats.json").json["pool"] == {"name": "dropped", "state": "closed"})


def test_close_ends_it(pool: SessionPool) -> None:
    """The port is free, the pool tells it nothing more; closing twice is harmless."""
    ops = pool.serve(0)
    ops.close()
    ops.close()

    assert not is_open(ops)
    assert pool._transport.watch.responded is None
    with pool.serve(ops.port) as again:  # at once, whatever the kernel remembers
        assert ask(again, "/healthz").status == 200


def test_several_pools_are_served_apart(pool: SessionPool, ops: OpsServer) -> None:
    """Each has its own port, and a pool may be served twice."""
    with SessionPool(name="other", trust_env=False) as other, other.serve(0) as theirs, pool.serve(0) as twin:
        names = [ask(each, "/stats.json").json["pool"]["name"] for each in (ops, theirs, twin)]

    assert names == ["crawl", "other", "crawl"]


def test_a_port_in_use_gives_one_sentence(pool: SessionPool, ops: OpsServer) -> None:
    """With the port, and what to do; no thread and no listener is left behind."""
    with pytest.raises(OSError, match=rf"cannot listen on port {ops.port} of 127\.0\.0\.1: .* in use; name another"):
        pool.serve(ops.port)


@pytest.mark.parametrize(("port", "host"), [(70_000, "127.0.0.1"), (0, "no such host"), (0, "203.0.113.7")])
def test_where_nobody_can_listen(pool: SessionPool, port: int, host: str) -> None:
    """An address that is none, or another machine's, is told alike."""
    with pytest.raises(OSError, match="the operations endpoint cannot listen on port"):
        pool.serve(port, host)


def test_it_listens_on_ipv6(pool: SessionPool) -> None:
    """Where there is any."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        ops = pool.serve(0)  # a container without IPv6: at least the name is understood
        assert ops.is_for_us(f"[::1]:{ops.port}")
        ops.close()
        return
    with pool.serve(0, "::1") as ops:
        assert ops.url == f"http://[::1]:{ops.port}/"
        with socket.create_connection(("::1", ops.port), 10) as sock:
            sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: [::1]:{ops.port}\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_forked_process_does_not_serve(pool: SessionPool, ops: OpsServer) -> None:
    """The child has neither the port nor the recorder, and its closing of the server is not ours."""

    def child() -> tuple[bool, bool]:
        is_told = pool._transport.watch.responded is not None
        with contextlib.suppress(OSError):
            ops.close()
        return is_told, ops._server.socket.fileno() == -1

    assert in_fork(child) == (False, True)
    assert ask(ops, "/healthz").status == 200


# --- whom it answers ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:9", 200),
        ("localhost:8080", 200),
        ("LocalHost", 200),
        ("[::1]:80", 200),
        ("192.0.2.7", 200),
        ("metrics.internal", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("[evil]", 421),
        ("", 421),
    ],
)
def test_names_of_others_are_refused(pool: SessionPool, host: str, status: int) -> None:
    """DNS rebinding: a page of another site that makes its own name point here gets nothing."""
    with pool.serve(0, names=["Metrics.Internal"]) as ops:
        assert ask(ops, "/stats.json", Host=host).status == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),  # what some load balancers ask
        ("GET /healthz\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET /healthz HTTP/9.9\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 200 + "\r\n", 431),
        ("GET /" + "a" * 70_000 + " HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_requests_that_are_none(ops: OpsServer, request_: str, status: int) -> None:
    """Each gets a status and no more, and the next request an answer."""
    with contextlib.suppress(ConnectionResetError):  # of what is too long not all is read
        assert say(ops, request_).startswith(f"HTTP/1.1 {status} ".encode())
    assert ask(ops, "/healthz").status == 200


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("ops:sécret:7"), 200),
        (basic("ops:sécret:7").replace("Basic", "bAsIc"), 200),
        (basic("ops:wrong"), 401),
        (basic("ops:sécret:77"), 401),
        (basic("ops"), 401),
        ("Basic !!!", 401),
        ("Bearer ops:sécret:7".encode().decode("latin-1"), 401),
        ("", 401),
    ],
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_name_and_password(pool: SessionPool, path: str, authorization: str, status: int) -> None:
    """Without them there is nothing to see, on no page."""
    with pool.serve(0, auth=("ops", "sécret:7")) as ops:
        answer = ask(ops, path, Authorization=authorization)

    assert answer.status == status
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)


@pytest.mark.parametrize("auth", ["ops:secret", ("ops",), ("ops", 7), ("o:ps", "secret"), ("a", "b", "c")])
def test_what_is_no_name_and_password(pool: SessionPool, auth: Any) -> None:
    """It is refused, and not told: it may be a password."""
    with pytest.raises(ValueError, match="auth must be a pair") as caught:
        pool.serve(0, auth=auth)

    assert "secret" not in str(caught.value)


def test_one_name_is_not_many(pool: SessionPool) -> None:
    """A text would be taken for its letters."""
    with pytest.raises(ValueError, match=r"such as \['metrics'\]"):
        pool.serve(0, names="metrics")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Paths of a certificate, its key, and the authority's certificate."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem")


@pytest.mark.parametrize("as_context", [False, True], ids=["paths", "context"])
def test_tls(pool: SessionPool, certificates: tuple[str, str, str], *, as_context: bool) -> None:
    """Over a certificate and key, or a context; whoever speaks no TLS gets nothing and breaks nothing."""
    cert, key, ca = certificates
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with pool.serve(0, tls=context if as_context else (cert, key)) as ops:
        assert b"ready" not in say(ops, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection = http.client.HTTPSConnection(
            "127.0.0.1", ops.port, timeout=10, context=ssl.create_default_context(cafile=ca)
        )
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().read() == b"ready\n"
        assert ops.url.startswith("https://127.0.0.1:")
        eventually(lambda: not ops._server._connections)


# --- nobody keeps it busy ---


def test_there_are_only_so_many_at_once(pool: SessionPool, ops: OpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told so at once; who has kept a place for long then loses it, and the next is served."""
    monkeypatch.setattr(_server, "HASTE", 0.0)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", ops.port), 10))
        eventually(lambda: len(ops._server._connections) == MAX_CONNECTIONS)

        assert ask(ops, "/healthz").status == 503
        eventually(lambda: not ops._server._connections)
        assert ask(ops, "/healthz").status == 200


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: lo"], ids=["nothing", "line", "field"])
def test_a_slow_client_is_cut_off(ops: OpsServer, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little it says, and if it says a byte now and then: all of its time counts."""
    monkeypatch.setattr(_server, "PATIENCE", 0.5)
    with socket.create_connection(("127.0.0.1", ops.port), 10) as sock:
        sock.sendall(begun)

        def is_cut() -> bool:
            time.sleep(0.02)
            try:
                sock.sendall(b"x" if begun else b"")
                sock.setblocking(False)
                return sock.recv(1) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        eventually(is_cut)
    eventually(lambda: not ops._server._connections)


def test_a_client_that_does_not_read_is_cut_off(ops: OpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that nobody takes is not waited for."""
    monkeypatch.setattr(_server, "PATIENCE", 0.5)
    ops._exposition = lambda accept: (b"x" * 50_000_000, "text/plain")
    with socket.create_connection(("127.0.0.1", ops.port), 10) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: ops._server._connections)
        eventually(lambda: not ops._server._connections)


def test_close_does_not_wait_for_clients(pool: SessionPool) -> None:
    """Who is in the midst of asking is cut off."""
    ops = pool.serve(0)
    with socket.create_connection(("127.0.0.1", ops.port), 10) as sock:
        eventually(lambda: ops._server._connections)
        with in_thread(ops.close):
            pass
        assert sock.recv(1) == b""


def test_many_at_once_look_at_the_pool_once(pool: SessionPool, ops: OpsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look may be dear: what was found is told again for a while."""
    monkeypatch.setattr(_server, "FRESH", 3600.0)
    looks: list[None] = []
    dump = pool.dump

    def look() -> PoolDump:
        looks.append(None)
        return dump()

    monkeypatch.setattr(pool, "dump", look)
    for call in [in_thread(ask, ops, "/stats.json") for _ in range(8)]:
        assert call.get().status == 200

    assert len(looks) == 1


def test_nothing_secret_is_told() -> None:
    """Of what a request carries, nothing but the host is known here."""
    with (
        SessionPool(
            trust_env=False,
            limits=Limits(per_host=1),
            retry=None,
            headers={"X-Key": "hunter2"},
            auth=("ada", "hunter2"),
            cookies={"sid": "hunter2"},
        ) as pool,
        pool.serve(0) as ops,
    ):
        answer = pool.get(f"http://hunter2:hunter2@127.0.0.1:{ops.port}/healthz?token=hunter2")
        assert answer.status_code == 200
        eventually(lambda: ask(ops, "/stats.json").json["totals"]["requests"] == 1)

        for path in PAGES:
            assert b"hunter2" not in ask(ops, path).body
