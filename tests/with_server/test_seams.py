"""What the seams of a session leave behind: of hooks, adapters and subclasses that raise, recurse, or go elsewhere."""

from __future__ import annotations

import gc
import pickle
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sessionpool import (
    Limits,
    PreparedRequest,
    ProxyRotation,
    Request,
    Response,
    RetryPolicy,
    Session,
    SessionPool,
    Timeout,
    exceptions,
)
from sessionpool.adapters import BaseAdapter, HTTPAdapter
from sessionpool.auth import HTTPDigestAuth, HTTPProxyDigestAuth
from sessionpool.ext.requests import PooledAdapter
from sessionpool.metrics import Metrics
from tests.helpers import in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    limits = Limits(per_host=1, total=1)
    with SessionPool(limits=limits, timeout=Timeout(pool=1, read=5), retry=None, trust_env=False) as pool:
        yield pool


def ask_for_digest(seen: Seen) -> Answer:
    if (seen.header("Authorization") or "").startswith("Digest"):
        return Answer([b"a" * 1000] * 3)
    return Answer(b"", 401, [("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')])


def raises(*_: Any, **__: Any) -> Any:
    raise LookupError("a user's own")


def test_what_a_hook_was_replaced_by_is_closed_too(server: EchoServer, pool: SessionPool) -> None:
    """Digest answers with another response; a later hook raises: the one permit is free while the error is held."""
    server.answers["/digest"] = ask_for_digest
    with pool.lease() as session:
        with pytest.raises(LookupError) as held:
            session.get(
                server.url + "/digest", auth=HTTPDigestAuth("ada", "x"), hooks={"response": raises}, stream=True
            )
        assert pool.stats().leased == 0
        assert session.get(server.url).ok
    del held


def test_each_hook_finds_the_call(server: EchoServer, pool: SessionPool) -> None:
    """Also on a response that another hook, such as that of Digest, has sent for."""
    server.answers["/digest"] = ask_for_digest
    found = []
    both = lambda request: HTTPProxyDigestAuth("p", "q")(HTTPDigestAuth("ada", "x")(request))  # noqa: E731
    response = pool.get(
        server.url + "/digest", auth=both, hooks={"response": lambda r, **_: found.append(r.connection)}
    )
    assert response.ok
    assert found != [None]
    assert response.connection is None


@pytest.mark.parametrize("is_overridden", [False, True])
def test_a_proxys_fields_go_no_further(server: EchoServer, is_overridden: bool) -> None:
    """A redirect that leads past the proxy takes along nothing that was for it, whoever sends."""

    class Adapter(HTTPAdapter):
        def proxy_headers(self, proxy: str) -> dict[str, str]:
            return {"X-Proxy-Token": "secret"}

        if is_overridden:

            def add_headers(self, request: Any, **kwargs: Any) -> None: ...

    with EchoServer() as proxy, Session() as session:
        proxy.answers["http://a.test/"] = redirect(server.url + "/there")
        session.mount("http://", Adapter())
        session.get("http://a.test/", proxies={"http://a.test": proxy.url})
    assert proxy.seen[0].header("X-Proxy-Token") == "secret"
    assert server.seen[-1].header("X-Proxy-Token") is None


def test_a_retry_by_another_proxy_takes_along_nothing_of_the_first() -> None:
    with EchoServer() as first, EchoServer() as second:

        class Adapter(HTTPAdapter):
            def proxy_headers(self, proxy: str) -> dict[str, str]:
                return {"X-First": "secret"} if str(first.port) in proxy else {}

        first.answers["http://a.test/"] = Answer(b"", 407)
        rotation = ProxyRotation([first.url, second.url], max_failures=1)
        policy = RetryPolicy(attempts=3, statuses=(407,), budget=None)
        with SessionPool(proxies=rotation, retry=policy, trust_env=False) as pool, pool.lease("ada") as session:
            session.mount("http://", Adapter())
            session.get("http://a.test/")
        assert [each.header("X-First") for each in second.seen] == [None]


def test_send_of_a_subclass_may_ask_for_something_else_first(server: EchoServer) -> None:
    """On a redirect too: what it asks for is a call of its own, which follows redirects."""
    server.answers["/begin"] = redirect("/end")
    server.answers["/token"] = redirect("/token/2")
    tokens = []

    class Refreshing(Session):
        def send(self, request: Any, **kwargs: Any) -> Response:
            if request.path_url == "/end":
                tokens.append(self.get(server.url + "/token").url)
            return super().send(request, **kwargs)

    with Refreshing() as session:
        assert session.get(server.url + "/begin").url == server.url + "/end"
    assert tokens == [server.url + "/token/2"]


def test_another_thread_does_not_get_the_call_of_a_redirect(server: EchoServer) -> None:
    server.answers["/begin"] = redirect("/end")

    class Asking(Session):
        def send(self, request: Any, **kwargs: Any) -> Response:
            if request.path_url == "/end":
                errors.append(in_thread(super().send, other).join().error)
            return super().send(request, **kwargs)

    errors: list[BaseException | None] = []
    with Asking() as session:
        other = session.prepare_request(Request("GET", server.url + "/other"))
        session.get(server.url + "/begin")
    assert [type(error) for error in errors] == [exceptions.WrongThreadError]


def test_what_a_call_says_of_retries_holds_after_a_redirect_of_a_subclass(server: EchoServer) -> None:
    server.answers["/begin"] = redirect("/end")
    server.answers["/end"] = Answer(b"", 503)

    class Own(Session):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return super().send(request, *args, **kwargs)

    with Own() as session:
        session.retry = RetryPolicy(attempts=3, statuses=(503,), budget=None)
        session.get(server.url + "/begin", retry=None)
    assert [seen.path for seen in server.seen] == ["/begin", "/end"]


@pytest.mark.parametrize("method", ["rebuild_auth", "get_redirect_target"])
def test_a_method_of_a_subclass_that_raises_leaves_no_stream_open(
    method: str, server: EchoServer, pool: SessionPool
) -> None:
    server.answers["/"] = Answer([b"x" * 1000] * 3, 302, [("Location", "/end")])
    own = type("Own", (Session,), {method: raises})(transport=pool._transport, defaults=pool._defaults)
    with pytest.raises(LookupError) as held:
        own.get(server.url + "/", stream=True, allow_redirects=False)
    assert pool.stats().leased == 0
    del held


def test_a_prepared_request_may_be_sent_within_its_own_sending(server: EchoServer) -> None:
    """By an adapter that sends it elsewhere first."""

    class Plain(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return super().send(request, *args, **kwargs)

    class Mirror(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            other.send(request)
            return super().send(request, *args, **kwargs)

    with Session() as session, Session() as other:
        other.mount("http://", Plain())
        session.mount("http://", Mirror())
        assert session.get(server.url).ok


def test_an_adapter_that_cannot_close_keeps_no_connection_open(server: EchoServer) -> None:
    class Failing(HTTPAdapter):
        close = raises

    session = Session()
    session.get(server.url)
    session.mount("http://other/", Failing())
    transport = session._transport
    with pytest.raises(LookupError):
        session.close()
    assert transport.stats().idle == 0


def test_a_response_from_elsewhere_takes_no_negative_time(server: EchoServer) -> None:
    """Of a cache, or of another session: it was received, but not by this one."""

    class Elsewhere(HTTPAdapter):
        def send(self, request: Any, *_: Any, **__: Any) -> Response:
            return other.get(server.url)

    with Session() as other, SessionPool(metrics=Metrics(), trust_env=False) as pool:
        with pool.lease() as session:
            session.mount("http://", Elsewhere())
            session.get(server.url)
        assert pool._meter is not None
        text = pool._meter.exposition("")[0].decode()
    (total,) = [line for line in text.splitlines() if line.startswith("sessionpool_request_duration_seconds_sum")]
    assert 0 <= float(total.split()[-1]) < 60


def test_requests_follows_a_redirect_whose_body_is_broken(server: EchoServer, pool: SessionPool) -> None:
    broken = [("Location", "/end"), ("Content-Encoding", "gzip")]
    server.answers["/begin"] = Answer(b"\x1f\x8bno gzip", 302, broken)
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", PooledAdapter(pool))
        assert session.get(server.url + "/begin").url == server.url + "/end"
    gc.collect()
    assert pool.stats().leased == 0


# --- what is put between is asked ---


def test_an_adapters_own_time_out_is_the_default(server: EchoServer) -> None:
    """The pattern of a `TimeoutHTTPAdapter`: it finds `None` where nobody asked for one, also after a redirect."""
    found: list[Any] = []

    class Patient(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            found.append(kwargs.get("timeout"))
            return super().send(request, *args, **{**kwargs, "timeout": kwargs.get("timeout") or 0.1})

    over = threading.Event()
    server.answers["/from"] = redirect("/slow")
    server.answers["/slow"] = lambda _: page(str(over.wait(20)))
    with Session() as session:
        session.mount("http://", Patient())
        with pytest.raises(exceptions.ReadTimeout, match=r"Timeout\.read\)|0\.1 s"):
            session.get(server.url + "/from")
        over.set()
        session.get(server.url + "/slow", timeout=(3, 9))

    assert found == [None, None, (3, 9)]


@pytest.mark.parametrize("name", ["session", "adapter"])
def test_what_a_test_puts_in_place_of_send_is_called(
    name: str, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is not asked behind the back of who has replaced the sending."""
    fake = Response()
    fake.status_code, fake._content = 299, b"fake"
    monkeypatch.setattr(Session if name == "session" else HTTPAdapter, "send", lambda *_, **__: fake)
    with Session() as session:
        response = session.get(server.url)

    assert (response.status_code, response.text, server.seen) == (299, "fake", [])


def test_an_adapter_may_hand_on_to_another(server: EchoServer) -> None:
    """What the inner one says of TLS and retries holds."""

    class Logging(BaseAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Response:
            return inner.send(request, *args, **kwargs)

    asked: list[Any] = []

    class Pinned(HTTPAdapter):
        def tls(self, verify: Any, trusted: Any, cert: Any) -> Any:
            asked.append(verify)
            return super().tls(verify, trusted, cert)

    inner = Pinned(max_retries=RetryPolicy(attempts=2, backoff=0.001))
    server.answers["/"] = Answer(b"", 503)
    with Session() as session:
        session.mount("http://", Logging())
        assert len(session.get(server.url + "/").attempts) == 2
        assert len(session.get(server.url + "/", retry=None).attempts) == 0

    assert set(asked) == {True}


@pytest.mark.parametrize("where", ["session", "auth", "by hand", "adapter"])
def test_framing_is_that_of_the_body(where: str, server: EchoServer) -> None:
    """Whoever says otherwise: else the next request on the connection, another session's, would be taken for a body."""

    class Rewriting(HTTPAdapter):
        def add_headers(self, request: Any, **_: Any) -> None:
            request.body = b"xyz"
            request.headers["Content-Length"] = "60"

    def lying(request: PreparedRequest) -> PreparedRequest:
        request.headers.update({"Content-Length": "60", "Transfer-Encoding": "chunked"})
        return request

    with Session() as session:
        if where == "session":
            session.headers["Content-Length"] = "60"
            session.get(server.url)
        elif where == "auth":
            session.get(server.url, auth=lying)
        elif where == "by hand":
            prepared = session.prepare_request(Request("GET", server.url, data=b"x" * 60))
            prepared.body = None
            session.send(prepared)
        else:
            session.mount("http://", Rewriting())
            session.get(server.url)

    (seen,) = server.seen
    assert seen.body == (b"xyz" if where == "adapter" else b"")
    assert seen.header("transfer-encoding") is None
    assert seen.header("content-length") == ("3" if where == "adapter" else None)


def test_a_redirect_stays_with_its_scheme(server: EchoServer) -> None:
    """From one that is an adapter's a server cannot point at another's, nor take credentials to another host."""

    class Memory(BaseAdapter):
        def send(self, request: Any, *_: Any, **__: Any) -> Response:
            asked.append((request.url, request.headers.get("Authorization")))
            response = Response()
            response.status_code, response.url, response._content = 200, request.url, b""
            if request.url in moved:
                response.status_code = 302
                response.headers["Location"] = moved[request.url]
            return response

    asked: list[Any] = []
    moved = {"svc://a/": "svc://b/", "svc://c/": "file:///etc/passwd"}
    with Session() as session:
        for scheme in ("svc://", "file://"):
            session.mount(scheme, Memory())
        session.get("svc://a/", headers={"Authorization": "Token t"})
        with pytest.raises(exceptions.InvalidSchema, match="redirects to what cannot be fetched"):
            session.get("svc://c/")

    assert asked == [("svc://a/", "Token t"), ("svc://b/", None), ("svc://c/", None)]


def test_an_answer_from_elsewhere_takes_no_credentials_there(server: EchoServer) -> None:
    """A hook has brought the answer of another origin, which redirects within itself: these are not its credentials."""

    def by_sso(response: Response, **kwargs: Any) -> Response | None:
        if response.request.path_url != "/first":
            return None
        elsewhere = PreparedRequest()
        elsewhere.prepare("GET", sso.url + "/one")
        brought: Response = response.connection.send(elsewhere, **kwargs)
        return brought

    with EchoServer("127.0.0.2") as sso, Session() as session:
        sso.answers["/one"] = redirect("/two")
        session.get(server.url + "/first", headers={"Authorization": "Bearer mine"}, hooks={"response": by_sso})

        assert [(seen.target, seen.header("authorization")) for seen in sso.seen] == [("/one", None), ("/two", None)]


def test_an_adapter_with_versions_pickles() -> None:
    """TLS contexts do not; they are made anew."""
    adapter = HTTPAdapter(max_retries=2)
    adapter.init_poolmanager(1, 1, ssl_minimum_version=ssl.TLSVersion.TLSv1_3)

    class_of = type(pickle.loads(pickle.dumps(adapter)))
    assert class_of is HTTPAdapter


def test_a_proxys_password_stays_with_the_proxy(server: EchoServer) -> None:
    """It is not on the request, which may be sent again elsewhere, pickled or shown."""
    with EchoServer("127.0.0.2") as proxy, Session() as session:
        prepared = session.prepare_request(Request("GET", server.url + "/a"))
        session.send(prepared, proxies={"http": proxy.url.replace("//", "//ada:s3cret@")})
        session.send(prepared)

    assert proxy.seen[0].header("proxy-authorization") == "Basic YWRhOnMzY3JldA=="
    assert server.seen[0].header("proxy-authorization") is None
    assert "Proxy-Authorization" not in prepared.headers


def test_a_call_cannot_be_kept(server: EchoServer) -> None:
    """`response.connection` is the call's: when the lease is over, so is that."""
    kept: list[Any] = []
    with SessionPool(trust_env=False) as pool:
        with pool.lease() as session:
            session.get(server.url, hooks={"response": lambda r, **_: kept.append((r.connection, r.request))})
        connection, request = kept[0]
        with pytest.raises(exceptions.LeaseReleasedError):
            connection.send(request)


@pytest.mark.parametrize("where", ["user%3Aname:p", "a%0Ab:c"])
def test_a_url_whose_user_cannot_be_said(where: str) -> None:
    """It is an error of requests' family, so that it ends no crawl."""
    with Session() as session:
        with pytest.raises(exceptions.InvalidURL):
            session.get(f"http://{where}@127.0.0.1/")
        with pytest.raises(exceptions.InvalidProxyURL):
            session.get("http://127.0.0.1/", proxies={"http": f"http://{where}@127.0.0.1:1"})


def test_errors_of_ones_own_say_what_they_were_given() -> None:
    """A subclass of a time-out may take what it likes."""

    class Late(exceptions.ReadTimeout):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(text)
            self.code = code

    class Gateway(exceptions.Timeout):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"the gateway said {code}")

    assert (str(Late(3, "boom")), str(Gateway(code=504))) == ("boom", "the gateway said 504")


def test_redirects_with_chunked_bodies_pickle(server: EchoServer) -> None:
    """Their bodies are short, and read, so that the connection goes on."""
    server.answers["/a"] = Answer([b"go ", b"on"], 302, [("Location", "/b")])
    with Session() as session:
        response = session.get(server.url + "/a", stream=True)

        assert response.history[0].content == b"go on"
        assert pickle.loads(pickle.dumps(response)).history[0].status_code == 302
    assert len({seen.connection for seen in server.seen}) == 1
