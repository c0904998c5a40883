"""What is mounted, what a subclass overrides, what a hook sends: the seams of a session, as requests' users know them.

Where requests has the same seam, each call is made with both libraries, and what comes of it is the same.
"""

from __future__ import annotations

import copy
import importlib
import io
import pickle
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

import sessionpool
from sessionpool import Limits, PreparedRequest, Request, Response, Session, SessionPool, Timeout, exceptions
from sessionpool.adapters import BaseAdapter, HTTPAdapter
from tests.helpers import in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect, set_cookies


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[EchoServer]:
    with EchoServer("127.0.0.2") as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(params=["requests", "sessionpool"])
def library(request: pytest.FixtureRequest) -> Any:
    """Each in turn, with `adapters` imported."""
    importlib.import_module(f"{request.param}.adapters")
    return importlib.import_module(request.param)


# --- adapters ---


def test_an_adapter_of_ones_own_answers_for_any_scheme(library: Any) -> None:
    """What it returns is the response, with the request, cookies and text that belong to it; no server is asked."""

    class Memory(library.adapters.BaseAdapter):  # type: ignore[misc]
        closed = 0

        def send(self, request: Any, stream: bool = False, timeout: Any = None, **kwargs: Any) -> Any:
            asked.append((request.method, request.url, stream, sorted(kwargs)))
            response = library.Response()
            response.status_code, response.url, response.request = 200, request.url, request
            response.raw = io.BytesIO(b"from memory")
            return response

        def close(self) -> None:
            self.closed += 1

    asked: list[Any] = []
    mounted = Memory()
    with library.Session() as session:
        session.mount("mem://", mounted)
        response = session.get("mem://Some/Where?q=a b", timeout=3)

        assert (response.text, response.url, response.ok) == ("from memory", "mem://Some/Where?q=a b", True)
        assert response.elapsed.total_seconds() >= 0
        with pytest.raises(library.exceptions.InvalidSchema):
            session.get("other://place")

    assert asked == [("GET", "mem://Some/Where?q=a b", False, ["cert", "proxies", "verify"])]
    assert mounted.closed == 1


def test_an_adapter_may_wrap_the_sending(library: Any, server: EchoServer) -> None:
    """The pattern of a default time-out and a changed header: `super().send` sends with what it is given."""

    class Patient(library.adapters.HTTPAdapter):  # type: ignore[misc]
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["timeout"] = kwargs.get("timeout") or 7
            request.headers["X-Mounted"] = "yes"
            response = super().send(request, *args, **kwargs)
            response.headers["X-Seen"] = request.method
            return response

    server.answers["/from"] = redirect("/to")
    with library.Session() as session:
        session.mount("http://127.0.0.1", Patient())
        response = session.get(server.url + "/from")

    assert [seen.header("x-mounted") for seen in server.seen] == ["yes", "yes"]
    assert response.headers["X-Seen"] == "GET"
    assert [each.status_code for each in response.history] == [302]


def test_an_adapter_may_add_headers(library: Any, server: EchoServer) -> None:
    """`add_headers` is asked before each request, with what is known of it."""

    class Adding(library.adapters.HTTPAdapter):  # type: ignore[misc]
        def add_headers(self, request: Any, **kwargs: Any) -> None:
            request.headers["X-Added"] = ",".join(sorted(kwargs))

    with library.Session() as session:
        session.mount(server.url, Adding(pool_connections=3, pool_maxsize=50, pool_block=True))
        session.get(server.url)

    assert server.seen[0].header("x-added") == "cert,proxies,stream,timeout,verify"


def test_retries_hold_below_an_adapter_of_ones_own(server: EchoServer) -> None:
    """What wraps the sending sees one outcome; the policy of the adapter holds below it."""
    server.answers["/"] = lambda _: page("at last") if len(server.seen) == 3 else Answer(b"", 503)
    outcomes: list[int] = []

    class Watching(HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Response:
            response = super().send(*args, **kwargs)
            outcomes.append(response.status_code)
            return response

    with Session() as session:
        session.mount("http://", Watching(max_retries=sessionpool.RetryPolicy(attempts=3, backoff=0.001)))
        response = session.get(server.url)

    assert (response.text, outcomes, len(response.attempts)) == ("at last", [200], 3)


def test_an_adapter_that_returns_something_else_is_told_so() -> None:
    """A response of another library is not one of ours."""

    class Odd(BaseAdapter):
        def send(self, *_: Any, **__: Any) -> Any:
            return "hello"

    with Session() as session:
        session.mount("odd://", Odd())
        with pytest.raises(TypeError, match=r"Odd\.send must return a sessionpool\.Response; got"):
            session.get("odd://x")


def test_an_adapter_sends_for_a_session() -> None:
    """By itself it has no connections."""
    request = Request("GET", "http://127.0.0.1/").prepare()

    with pytest.raises(ValueError, match="sends for the session that it is mounted on"):
        HTTPAdapter().send(request)


@pytest.mark.parametrize(
    "name", ["build_response", "cert_verify", "get_connection", "proxy_manager_for", "request_url"]
)
def test_what_would_never_be_called_is_refused(name: str) -> None:
    """A method that requests' adapter would call, and ours would not, is an error where it is written."""
    with pytest.raises(TypeError, match=rf"Mine\.{name} would never be called by sessionpool: "):
        type("Mine", (HTTPAdapter,), {name: lambda self: None})


def test_an_adapter_may_choose_the_tls_settings(library: Any) -> None:
    """By a context of its own, or as requests' guide has it, by a manager of urllib3's with a version."""
    urllib3 = importlib.import_module("urllib3")
    context = ssl.create_default_context()

    class Mine(library.adapters.HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

    class Pinned(library.adapters.HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, connections: int, maxsize: int, block: bool = False) -> None:
            self.poolmanager = urllib3.PoolManager(
                num_pools=connections, maxsize=maxsize, block=block, ssl_minimum_version=ssl.TLSVersion.TLSv1_3
            )

    mine, pinned = Mine(), Pinned()
    if library is sessionpool:
        assert mine.tls(True, "/environment", None) == (context, None)
        for verify in (True, False):
            made, _ = pinned.tls(verify, verify, None)
            assert made.minimum_version is ssl.TLSVersion.TLSv1_3
            assert made is pinned.tls(verify, verify, None)[0]
            assert made.verify_mode is (ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)
        assert HTTPAdapter().tls(True, "/environment", "cert") == ("/environment", "cert")
        with pytest.raises(ValueError, match="ssl_context, which says itself what it verifies; verify=False"):
            mine.tls(False, False, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"source_address": ("127.0.0.1", 0)}, "no use for source_address"),
        ({"ssl_version": 99}, "ssl_version must be one of"),
    ],
)
def test_tls_settings_that_cannot_be_kept_are_refused(options: dict[str, Any], sentence: str) -> None:
    """Rather than left out in silence."""
    with pytest.raises(ValueError, match=sentence):
        HTTPAdapter().init_poolmanager(1, 1, **options)


def test_an_adapter_serves_many_sessions(server: EchoServer) -> None:
    """One object mounted on the sessions of many threads: each response goes to who asked."""

    class Marking(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
            request.headers["X-Asked"] = request.path_url
            return super().send(request, *args, **kwargs)

    shared = Marking()

    def ask(session: Session, number: int) -> tuple[str | None, str]:
        session.mount("http://", shared)
        response = session.get(f"{server.url}/{number}")
        return response.request.headers["X-Asked"], response.json()["target"]

    with SessionPool(limits=Limits(per_host=3)) as pool:
        results = list(pool.map(ask, range(60), workers=8, ordered=True))

    assert results == [(f"/{number}", f"/{number}") for number in range(60)]


# --- what a subclass overrides ---


def test_a_subclass_sees_each_request_of_a_chain(library: Any, server: EchoServer) -> None:
    """`send` is called for the request and for each redirect, `request` and `prepare_request` once."""
    calls: list[str] = []

    class Logging(library.Session):  # type: ignore[misc]
        def request(self, method: str, url: str, **kwargs: Any) -> Any:
            calls.append(f"request {method}")
            return super().request(method, url, **kwargs)

        def prepare_request(self, request: Any) -> Any:
            calls.append(f"prepare {request.method}")
            prepared = super().prepare_request(request)
            prepared.headers["X-Prepared"] = "yes"
            return prepared

        def send(self, request: Any, **kwargs: Any) -> Any:
            calls.append(f"send {request.path_url} {sorted(kwargs)[:1]}")
            return super().send(request, **kwargs)

    server.answers |= {"/a": redirect("/b"), "/b": redirect("/c")}
    with Logging() as session:
        response = session.get(server.url + "/a")

    assert calls == [
        "request GET",
        "prepare GET",
        "send /a ['allow_redirects']",
        "send /b ['allow_redirects']",
        "send /c ['allow_redirects']",
    ]
    assert [each.status_code for each in response.history] == [302, 302]
    assert [seen.header("x-prepared") for seen in server.seen] == ["yes"] * 3


def test_one_deadline_over_a_chain_that_a_subclass_sends(server: EchoServer) -> None:
    """`Timeout.total` is the call's, also where each redirect goes through a method of the subclass."""

    class Own(Session):
        def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
            return super().send(request, **kwargs)

    server.answers["/"] = lambda _: redirect("/")
    with Own() as session:
        session.max_redirects = 100_000
        with pytest.raises(exceptions.Timeout, match=r"Timeout\.total=0\.2 s") as raised:
            session.get(server.url + "/", timeout=Timeout(total=0.2))

    assert len(raised.value.history) >= 1
    assert isinstance(raised.value.history[0], Response)


def test_a_subclass_may_keep_its_credentials(library: Any, server: EchoServer, other: EchoServer) -> None:
    """`should_strip_auth` and `rebuild_auth` decide who sees them."""

    class Trusting(library.Session):  # type: ignore[misc]
        def should_strip_auth(self, old_url: str, new_url: str) -> bool:
            asked.append((old_url, new_url))
            return False

    asked: list[tuple[str, str]] = []
    server.answers["/"] = redirect(other.url + "/there")
    with Trusting() as session:
        session.get(server.url + "/", headers={"Authorization": "Token t"})
    with library.Session() as session:
        session.get(server.url + "/", headers={"Authorization": "Token t"})

    assert [seen.header("authorization") for seen in other.seen] == ["Token t", None]
    assert asked == [(server.url + "/", other.url + "/there")]


def test_a_subclass_may_find_redirects_elsewhere(library: Any, server: EchoServer) -> None:
    """`get_redirect_target` is asked of every response."""

    class Refreshing(library.Session):  # type: ignore[misc]
        def get_redirect_target(self, resp: Any) -> Any:
            return resp.headers.get("x-go-on") or super().get_redirect_target(resp)

    server.answers["/"] = Answer(b"", 200, [("X-Go-On", "/next")])
    with Refreshing() as session:
        response = session.get(server.url + "/")

    assert [seen.target for seen in server.seen] == ["/", "/next"]
    assert [each.status_code for each in response.history] == [200]


def test_a_subclass_may_choose_the_method(library: Any, server: EchoServer) -> None:
    """`rebuild_method` decides with what a redirect is followed."""

    class Stubborn(library.Session):  # type: ignore[misc]
        def rebuild_method(self, prepared_request: Any, response: Any) -> None:
            pass

    server.answers["/"] = redirect("/next", 303)
    with Stubborn() as session:
        session.post(server.url + "/", data="x")

    assert [seen.method for seen in server.seen] == ["POST", "POST"]


def test_a_subclass_may_merge_the_environment_differently(library: Any, server: EchoServer) -> None:
    """What `merge_environment_settings` returns is what is sent with."""

    class Streaming(library.Session):  # type: ignore[misc]
        def merge_environment_settings(self, *args: Any) -> Any:
            return {**super().merge_environment_settings(*args), "stream": True}

    with Streaming() as session:
        response = session.get(server.url + "/")

        assert not response._content_consumed if library is not sessionpool else response._content is None
        response.close()


def test_a_subclass_may_choose_the_adapter(library: Any, server: EchoServer) -> None:
    """`get_adapter` is asked for each request."""

    class Choosing(library.Session):  # type: ignore[misc]
        def get_adapter(self, url: str) -> Any:
            asked.append(url)
            return super().get_adapter(url)

    asked: list[str] = []
    server.answers["/a"] = redirect("/b")
    with Choosing() as session:
        session.get(server.url + "/a")

    assert asked == [server.url + "/a", server.url + "/b"]


# --- prepared requests ---


def test_a_prepared_request_is_sent_as_it_is(library: Any, server: EchoServer) -> None:
    """Changed by hand between preparing and sending: the session adds nothing more."""
    with library.Session() as session:
        session.headers["X-Session"] = "1"
        session.cookies.set("c", "1")
        plain = library.Request("POST", server.url + "/p", data={"a": "1"}, headers={"X-Own": "2"}).prepare()
        full = session.prepare_request(library.Request("GET", server.url + "/f", params={"q": "ä"}))
        full.headers["X-By-Hand"] = "3"
        session.send(plain)
        settings = session.merge_environment_settings(full.url, {}, None, None, None)
        response = session.send(full, **settings)

    first, second = server.seen
    assert (first.method, first.body, first.header("x-own")) == ("POST", b"a=1", "2")
    assert (first.header("x-session"), first.cookies) == (None, [])
    assert (second.target, second.header("x-session"), second.header("x-by-hand")) == ("/f?q=%C3%A4", "1", "3")
    assert second.cookies == [("c", "1")]
    assert response.request is full


def test_only_what_is_prepared_is_sent(library: Any) -> None:
    """A `Request` is refused with what to do."""
    with library.Session() as session, pytest.raises(ValueError, match="PreparedRequest"):
        session.send(library.Request("GET", "http://127.0.0.1/"))


def test_a_request_is_prepared_piece_by_piece(library: Any) -> None:
    """An empty one, filled by its methods, is what `Request.prepare` makes."""
    whole = library.Request(
        "put", "http://h/p", headers={"A": "b"}, data="body", params={"q": 1}, auth=("u", "p"), cookies={"c": "1"}
    ).prepare()
    pieces = library.PreparedRequest()
    pieces.prepare_method("put")
    pieces.prepare_url("http://h/p", {"q": 1})
    pieces.prepare_headers({"A": "b"})
    pieces.prepare_cookies({"c": "1"})
    pieces.prepare_body("body", None)
    pieces.prepare_auth(("u", "p"))
    pieces.prepare_hooks(None)

    for each in (whole, pieces, whole.copy(), pickle.loads(pickle.dumps(whole))):
        assert (each.method, each.url, each.path_url) == ("PUT", "http://h/p?q=1", "/p?q=1")
        assert dict(each.headers) == {
            "A": "b",
            "Cookie": "c=1",
            "Content-Length": "4",
            "Authorization": "Basic dTpw",
        }
        assert each.body in ("body", b"body")
        assert each.hooks == {"response": []}


def test_hooks_come_and_go(library: Any) -> None:
    """One is registered, several are, one is taken out again; there is one event."""
    for thing in (library.Request("GET", "http://h/"), library.PreparedRequest()):
        if thing.hooks is None:
            thing.prepare_hooks({})
        thing.register_hook("response", print)
        thing.register_hook("response", [repr, str])

        assert thing.hooks == {"response": [print, repr, str]}
        assert thing.deregister_hook("response", repr)
        assert not thing.deregister_hook("response", repr)
        assert thing.hooks == {"response": [print, str]}
        with pytest.raises(ValueError, match="request"):
            thing.register_hook("request", print)


def test_redirects_can_be_followed_by_hand(library: Any, server: EchoServer) -> None:
    """`resolve_redirects` sends what a redirect asks for; with `yield_requests` it only says what that is."""
    server.answers |= {"/a": redirect("/b"), "/b": redirect("/c"), "/c": page("end")}
    with library.Session() as session:
        first = session.get(server.url + "/a", allow_redirects=False)
        wanted = next(session.resolve_redirects(first, first.request, yield_requests=True))
        assert (wanted.url, [seen.target for seen in server.seen]) == (server.url + "/b", ["/a"])

        rest = list(session.resolve_redirects(first, first.request, timeout=10, verify=True))

    assert [each.url for each in rest] == [server.url + "/b", server.url + "/c"]
    assert rest[-1].text == "end"


def test_a_session_pickles(library: Any, server: EchoServer) -> None:
    """With its state, cookies and what is mounted; not with its connections."""
    server.answers["/"] = set_cookies("c=1; Path=/")
    with library.Session() as session:
        session.headers["X-A"] = "1"
        session.auth = ("u", "p")
        session.params = {"q": "1"}
        session.max_redirects = 3
        session.mount("http://special/", library.adapters.HTTPAdapter(max_retries=2))
        session.get(server.url + "/")
        twin = pickle.loads(pickle.dumps(session))

    with twin:
        assert (twin.auth, twin.params, twin.max_redirects) == (("u", "p"), {"q": "1"}, 3)
        assert list(twin.adapters) == ["http://special/", "https://", "http://"]
        twin.get(server.url + "/again")

    seen = server.seen[-1]
    assert (seen.target, seen.header("x-a"), seen.cookies) == ("/again?q=1", "1", [("c", "1")])


def test_a_leased_session_pickles_as_one_of_its_own(server: EchoServer) -> None:
    """The copy is no thread's and has connections of its own; another thread's session does not pickle."""
    with SessionPool(headers={"X-Pool": "1"}) as pool, pool.lease() as session:
        with pickle.loads(pickle.dumps(session)) as twin:
            twin.get(server.url + "/")
        with pytest.raises(exceptions.WrongThreadError):
            in_thread(pickle.dumps, session).get()
        assert copy.copy(session.headers) == session.headers

    assert server.seen[0].header("x-pool") == "1"


# --- hooks ---


def answer_challenge(response: Any, **kwargs: Any) -> Any:
    """As an auth handler written for requests does it."""
    if response.status_code != 401:
        return response
    response.content  # noqa: B018 - so that the connection goes back
    response.close()
    request = response.request.copy()
    request.headers["Authorization"] = "Secret word"
    again = response.connection.send(request, **kwargs)
    again.history.append(response)
    again.request = request
    return again


def guarded(seen: Seen) -> Answer:
    if seen.header("authorization") == "Secret word":
        return page("welcome " + seen.body.decode())
    return Answer(b"who are you?", 401, [("WWW-Authenticate", "Secret")])


def test_a_hook_answers_a_challenge(library: Any, server: EchoServer) -> None:
    """It sends once more over the same connections, with the body, and what comes of that is the response."""
    server.answers["/"] = guarded
    with library.Session() as session:
        response = session.post(server.url + "/", data=b"ada", hooks={"response": answer_challenge})

    assert (response.text, [each.status_code for each in response.history]) == ("welcome ada", [401])
    assert [seen.body for seen in server.seen] == [b"ada", b"ada"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_hook_sends_with_the_calls_own_permit(stream: bool, server: EchoServer) -> None:
    """One connection to the host is enough: what was answered has given it back."""
    server.answers["/"] = guarded
    with SessionPool(limits=Limits(per_host=1, total=1), timeout=Timeout(pool=5)) as pool:
        response = pool.get(server.url + "/", hooks={"response": answer_challenge}, stream=stream)

        assert response.text == "welcome "
        assert pool.stats().leased == 0
        assert response.connection is None


def test_a_hooks_request_is_within_the_calls_deadline(server: EchoServer) -> None:
    """`Timeout.total` is over what the hook sends as well."""

    def forever(response: Response, **kwargs: Any) -> Response:
        connection = response.connection
        while True:
            connection.send(response.request.copy(), **kwargs)

    with Session() as session, pytest.raises(exceptions.Timeout, match=r"Timeout\.total=0\.2 s"):
        session.get(server.url + "/", hooks={"response": forever}, timeout=Timeout(total=0.2))

    assert len(server.seen) > 1


def test_time_outs_can_be_caught_by_requests_name(server: EchoServer) -> None:
    """`except sessionpool.Timeout` catches, `raise sessionpool.Timeout` raises, and the settings are made as ever."""
    server.answers["/"] = redirect("/")
    with Session() as session:
        session.max_redirects = 100_000
        with pytest.raises(sessionpool.Timeout):
            session.get(server.url + "/", timeout=sessionpool.Timeout(total=0.1))

    with pytest.raises(sessionpool.Timeout, match="late"):
        raise sessionpool.Timeout("late", request=None)
    with pytest.raises(sessionpool.Timeout):
        raise sessionpool.Timeout
    assert sessionpool.Timeout(read=3).read == 3
    assert isinstance(sessionpool.Timeout(read=3), sessionpool.TimeoutSettings)
    assert issubclass(exceptions.ConnectTimeout, sessionpool.Timeout)
    with pytest.raises(TypeError, match="reed"):
        sessionpool.Timeout(reed=3)  # type: ignore[call-overload]
