"""Through a proxy: what it is asked for, who is let past it, and what happens when it says no."""

from __future__ import annotations

import contextlib
import http.client
import io
import selectors
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import attrs
import pytest
import trustme

from sessionpool import Limits, Request, Session, SessionPool, exceptions
from sessionpool._clock import NEVER
from sessionpool.adapters import HTTPAdapter
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, Server, page, read_request, redirect, write_answer

HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "transfer-encoding", "content-length"}


class Proxy(Server):
    """Forwards plain http, and tunnels what CONNECT asks for.

    Args:
        host: The address to listen on.
        password: What `Proxy-Authorization` has to say, as user:password; `None` lets everybody in.
        refusal: The status that every CONNECT gets instead of a tunnel.
        tls: Speak TLS by this context.

    Attributes:
        seen: What it was asked, in order; of a tunnel only the CONNECT.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        password: str | None = None,
        refusal: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(host, tls=tls)
        self.seen: list[Seen] = []
        self._refusal = refusal
        self._wanted = None if password is None else f"Basic {b64encode(password.encode()).decode()}"

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        while (seen := read_request(stream)) is not None:
            self.seen.append(attrs.evolve(seen, connection=number))
            if self._wanted is not None and seen.header("proxy-authorization") != self._wanted:
                write_answer(stream, Answer(b"who?", 407, [("Proxy-Authenticate", 'Basic realm="proxy"')]), seen.method)
            elif seen.method != "CONNECT":
                write_answer(stream, _forwarded(seen), seen.method)
            elif self._refusal is not None:
                write_answer(stream, Answer(b"no", self._refusal), "GET")
            else:
                _tunnel(stream, sock, seen.target)
                return


def _tunnel(stream: io.BufferedIOBase, client: socket.socket, authority: str) -> None:
    host, _, port = authority.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))) as upstream:
        # The client awaits this before it sends more, so that nothing of the tunnel lies in the stream's buffer.
        stream.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        stream.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, upstream)
            selector.register(upstream, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: Any = key.fileobj
                    data = source.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)
                    while isinstance(source, ssl.SSLSocket) and source.pending():  # which select knows nothing of
                        key.data.sendall(source.recv(65536))


def _forwarded(seen: Seen) -> Answer:
    url = urlsplit(seen.target)
    assert url.scheme == "http", f"a proxy is asked for absolute URLs, this is {seen.target!r}"
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80)
    with contextlib.closing(connection):
        target = urlunsplit(("", "", url.path, url.query, ""))
        connection.putrequest(seen.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in seen.headers:
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.putheader("Via", "1.1 test")
        connection.putheader("Content-Length", str(len(seen.body)))
        connection.endheaders(seen.body)
        response = connection.getresponse()
        fields = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        return Answer(response.read(), response.status, fields, response.reason)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Lets everybody in."""
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def guarded() -> Iterator[Proxy]:
    """Wants to know who asks."""
    with Proxy(password="ada:s3cr@t") as proxy:
        yield proxy


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """Where the proxy leads to."""
    with EchoServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


def with_userinfo(url: str, userinfo: str = "ada:s3cr%40t") -> str:
    return url.replace("://", f"://{userinfo}@")


# --- plain http: the proxy forwards ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_a_proxy_is_asked_for_the_whole_url(method: str, proxy: Proxy, server: EchoServer, session: Session) -> None:
    """RFC 9112 §3.2.2: the absolute target, without fragment, user and password; the answer is the server's."""
    response = session.request(
        method, with_userinfo(server.url, "u:p") + "/a%20b?c=d#e", data=b"body", proxies={"http": proxy.url}
    )

    assert proxy.seen[0].target == f"{server.url}/a%20b?c=d"
    assert proxy.seen[0].header("host") == server.url.removeprefix("http://")
    assert (server.seen[0].method, server.seen[0].target, server.seen[0].body) == (method, "/a%20b?c=d", b"body")
    assert server.seen[0].header("via") == "1.1 test"
    assert response.url == with_userinfo(server.url, "u:p") + "/a%20b?c=d#e"


def test_a_connection_to_a_proxy_is_used_again(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """Requests in turn go over one connection to the proxy, and none goes past it."""
    session.proxies = {"http": proxy.url}
    for _ in range(5):
        assert session.get(server.url).ok

    assert {seen.connection for seen in proxy.seen} == {1}
    assert proxy.accepted == 1


def test_a_host_of_ones_own_goes_through_a_proxy(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """`Host` set by hand is sent, once, also where the target is absolute."""
    session.get(server.url, headers={"Host": "example.com"}, proxies={"http": proxy.url})

    assert proxy.seen[0].all("host") == ["example.com"]
    assert proxy.seen[0].target == f"{server.url}/"


def test_a_body_of_chunks_goes_through_a_proxy(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """An iterable body goes to the proxy as it would to the server."""
    session.post(server.url, data=iter([b"one", b"two"]), proxies={"http": proxy.url})

    assert server.seen[0].body == b"onetwo"


def test_a_redirect_goes_through_the_proxy_too(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """Each hop takes the proxy that is meant for it."""
    server.answers["/from"] = redirect("/to")
    response = session.get(server.url + "/from", proxies={"http": proxy.url})

    assert [urlsplit(seen.target).path for seen in proxy.seen] == ["/from", "/to"]
    assert len(response.history) == 1


# --- https: the proxy tunnels ---


def test_https_goes_through_a_tunnel(proxy: Proxy, secure: EchoServer, ca_file: str, session: Session) -> None:
    """CONNECT, then TLS with the server itself; the proxy sees host and port and nothing else (RFC 9110 §9.3.6)."""
    session.verify = ca_file
    response = session.get(
        secure.url + "/secret?token=1",
        proxies={"https": proxy.url},
        headers={"X-Secret": "1"},
        auth=("user", "pass"),
    )
    (connect,) = proxy.seen

    assert (connect.method, connect.target) == ("CONNECT", f"127.0.0.1:{secure.port}")
    assert connect.header("host") in (None, f"127.0.0.1:{secure.port}")
    assert [connect.header(name) for name in ("x-secret", "authorization", "cookie", "user-agent")] == [None] * 4
    assert response.json()["target"] == "/secret?token=1"
    assert secure.seen[0].header("x-secret") == "1"
    assert secure.seen[0].header("host") == f"127.0.0.1:{secure.port}"


def test_a_tunnel_is_used_again(proxy: Proxy, secure: EchoServer, ca_file: str, session: Session) -> None:
    """Requests in turn go through one tunnel."""
    session.verify, session.proxies = ca_file, {"https": proxy.url}
    for _ in range(5):
        assert session.get(secure.url).ok

    assert len(proxy.seen) == 1
    assert secure.accepted == 1


def test_a_certificate_is_checked_through_a_tunnel(proxy: Proxy, secure: EchoServer, session: Session) -> None:
    """A server we do not trust is not trusted through a proxy either: SSLError, and no request."""
    session.trust_env = False
    with pytest.raises(exceptions.SSLError, match="certificate"):
        session.get(secure.url, proxies={"https": proxy.url})

    assert secure.seen == []
    assert session._transport.stats().leased == 0


# --- who asks ---


def test_the_proxys_password_goes_to_the_proxy(guarded: Proxy, server: EchoServer, session: Session) -> None:
    """For plain http it is a field of each request, decoded from the proxy's URL; Authorization is the server's."""
    response = session.get(server.url, proxies={"http": with_userinfo(guarded.url)}, auth=("user", "pass"))

    assert response.ok
    assert guarded.seen[0].header("proxy-authorization") == "Basic " + b64encode(b"ada:s3cr@t").decode()
    assert server.seen[0].header("proxy-authorization") is None
    assert server.seen[0].header("authorization") == "Basic " + b64encode(b"user:pass").decode()


def test_the_proxys_password_does_not_go_through_the_tunnel(
    guarded: Proxy, secure: EchoServer, ca_file: str, session: Session
) -> None:
    """For https it is said with CONNECT, and the server never sees it."""
    response = session.get(secure.url, proxies={"https": with_userinfo(guarded.url)}, verify=ca_file)

    assert response.ok
    assert guarded.seen[0].header("proxy-authorization") == "Basic " + b64encode(b"ada:s3cr@t").decode()
    assert secure.seen[0].header("proxy-authorization") is None


def test_the_proxys_password_does_not_follow_a_redirect_past_the_proxy(
    guarded: Proxy, server: EchoServer, session: Session
) -> None:
    """A hop that goes without the proxy does not carry the proxy's password."""
    with EchoServer("127.0.0.2") as direct:
        server.answers["/from"] = redirect(direct.url + "/to")
        session.get(server.url + "/from", proxies={"http://127.0.0.1": with_userinfo(guarded.url)})

        assert direct.seen[0].header("proxy-authorization") is None
        assert len(guarded.seen) == 1


@pytest.mark.parametrize("userinfo", ["eve:0ther@", ""], ids=["another password", "no password"])
def test_the_proxys_password_is_no_other_proxys(
    userinfo: str, guarded: Proxy, server: EchoServer, session: Session
) -> None:
    """A hop that takes another proxy says what that one's URL says, or nothing."""
    with EchoServer("127.0.0.2") as further, Proxy() as other:
        server.answers["/from"] = redirect(further.url + "/to")
        proxies = {
            "http://127.0.0.1": with_userinfo(guarded.url),
            "http://127.0.0.2": other.url.replace("://", f"://{userinfo}"),
        }
        assert session.get(server.url + "/from", proxies=proxies).url == further.url + "/to"

        said = "Basic " + b64encode(b"eve:0ther").decode() if userinfo else None
        assert [seen.header("proxy-authorization") for seen in other.seen] == [said]
        assert [seen.header("proxy-authorization") for seen in (*server.seen, *further.seen)] == [None, None]


def test_a_proxy_that_wants_to_know_who_asks(guarded: Proxy, server: EchoServer, session: Session) -> None:
    """For plain http, 407 is an answer like any other, as in requests."""
    response = session.get(server.url, proxies={"http": guarded.url})

    assert response.status_code == 407
    assert server.seen == []


@pytest.mark.parametrize("userinfo", ["", "ada:wrong@", "ada@"])
def test_a_tunnel_is_refused_without_the_password(
    userinfo: str, guarded: Proxy, secure: EchoServer, session: Session
) -> None:
    """ProxyError with the status; the server was never reached, and no password is shown."""
    with pytest.raises(exceptions.ProxyError, match="407") as raised:
        session.get(secure.url, proxies={"https": guarded.url.replace("://", f"://{userinfo}")}, verify=False)

    assert isinstance(raised.value, exceptions.NotSent)
    assert isinstance(raised.value, exceptions.ConnectionError)
    assert secure.url in str(raised.value)
    assert "wrong" not in str(raised.value)
    assert secure.seen == []
    assert session._transport.stats().leased == 0


@pytest.mark.parametrize("status", [403, 502, 503])
def test_a_tunnel_is_refused(status: int, secure: EchoServer, session: Session) -> None:
    """ProxyError with the status that the proxy gave."""
    with Proxy(refusal=status) as proxy, pytest.raises(exceptions.ProxyError, match=str(status)):
        session.get(secure.url, proxies={"https": proxy.url}, verify=False)

    assert secure.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme: str, session: Session) -> None:
    """ProxyError says what was wanted and that it was refused, and may be sent again whatever the method."""
    with pytest.raises(exceptions.ProxyError, match="refused") as raised:
        session.post(f"{scheme}://example.com/", proxies={scheme: "http://ada:s3cret@127.0.0.1:1"})

    assert isinstance(raised.value, exceptions.NotSent)
    assert f"{scheme}://example.com" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert raised.value.request is not None


def test_a_proxy_whose_name_nobody_knows(session: Session) -> None:
    """ProxyError, for it is the proxy that cannot be found."""
    with pytest.raises(exceptions.ProxyError):
        session.get("http://example.com/", proxies={"http": "http://no-such-host.invalid:3128"})


def test_a_proxy_that_says_nothing(session: Session) -> None:
    """A proxy that takes the connection and then answers nothing costs no more than the connect timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises((exceptions.ConnectTimeout, exceptions.ProxyError)) as raised:
            session.get("https://example.com/", proxies={"https": f"http://127.0.0.1:{port}"}, timeout=0.1)

    assert isinstance(raised.value, exceptions.NotSent)
    assert "0.1 s" in str(raised.value)


def test_a_proxy_that_closes_at_once(session: Session) -> None:
    """ProxyError where the tunnel breaks before it stands."""

    class Rude(Server):
        def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
            read_request(stream)

    with Rude() as rude, pytest.raises(exceptions.ProxyError):
        session.get("https://example.com/", proxies={"https": rude.url})


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("socks6://127.0.0.1:1", exceptions.InvalidSchema),
        ("ftp://127.0.0.1:1", exceptions.InvalidSchema),
        ("http://", exceptions.InvalidProxyURL),
        ("http://ada:s3cret@:3128", exceptions.InvalidProxyURL),
        ("http://ada:s3cret@h:port", exceptions.InvalidProxyURL),
        ("https://ada:s3cret@h:99999", exceptions.InvalidProxyURL),
        ("http://a b", exceptions.InvalidProxyURL),
    ],
)
def test_what_is_no_proxy(url: str, error: type[Exception], server: EchoServer, session: Session) -> None:
    """A proxy's URL that cannot be used is said to be that, before anything is sent; no password is shown."""
    with pytest.raises(error, match="proxy") as caught:
        session.get(server.url, proxies={"http": url})

    assert "s3cret" not in str(caught.value)
    assert server.seen == []


def test_a_proxy_without_a_scheme(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """`host:port` is taken for http, as in requests."""
    assert session.get(server.url, proxies={"http": proxy.url.removeprefix("http://")}).ok

    assert len(proxy.seen) == 1


# --- TLS to the proxy ---


@attrs.frozen
class Secured:
    """What speaks TLS, and the client's certificate.

    Attributes:
        proxy: A context for a proxy at 127.0.0.1, which asks clients for a certificate and takes none for an answer.
        server: One for a server there that insists on it.
        ca_file: Who vouches for all of them.
        cert: A client's certificate and key.
    """

    proxy: ssl.SSLContext
    server: ssl.SSLContext
    ca_file: str
    cert: str


@pytest.fixture
def secured(authority: trustme.CA, ca_file: str, tmp_path: Path) -> Secured:
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    for context, demand in zip(contexts, (ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED), strict=True):
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = demand
    client = tmp_path / "client.pem"
    authority.issue_cert("ada@example.com").private_key_and_cert_chain_pem.write_to_path(str(client))
    return Secured(contexts[0], contexts[1], ca_file, str(client))


class Curious(Proxy):
    """Keeps the certificates that its clients showed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shown: list[Any] = []

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        self.shown.append(sock.getpeercert())
        super().handle(stream, sock, number)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_speaks_tls(scheme: str, secured: Secured) -> None:
    """It forwards and tunnels as any other; password and target are under its TLS, and the tunnel's TLS within it."""
    with (
        Curious(password="ada:s3cr@t", tls=secured.proxy) as proxy,
        EchoServer(tls=secured.server if scheme == "https" else None) as server,
        Session() as session,
    ):
        session.verify, session.cert = secured.ca_file, secured.cert
        session.proxies = {scheme: with_userinfo(proxy.url)}
        answers = [session.post(f"{server.url}/{n}", data=b"x" * 100_000) for n in range(3)]

        assert [answer.json()["body"] for answer in answers] == ["x" * 100_000] * 3
        assert (proxy.accepted, server.accepted) == (1, 1 if scheme == "https" else 3)
        assert {seen.header("proxy-authorization") for seen in server.seen} == {None}
        assert proxy.seen[0].target == (f"127.0.0.1:{server.port}" if scheme == "https" else f"{server.url}/0")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_clients_certificate_is_not_the_proxys_to_see(scheme: str, secured: Secured) -> None:
    """`cert` is for the server: a proxy that asks for one learns nothing of who is asking."""
    with (
        Curious(tls=secured.proxy) as proxy,
        EchoServer(tls=secured.server if scheme == "https" else None) as server,
        Session() as session,
    ):
        url = server.url
        assert session.get(url, verify=secured.ca_file, cert=secured.cert, proxies={scheme: proxy.url}).ok

        assert not any(proxy.shown)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_to_be_trusted(scheme: str, secured: Secured, session: Session) -> None:
    """ProxyError names the reason: it never gets to hear where the request would go."""
    with Curious(tls=secured.proxy) as proxy:
        with pytest.raises(exceptions.ProxyError, match=r"TLS with the proxy.*certificate") as caught:
            session.get(f"{scheme}://example.com/", proxies={scheme: proxy.url})

        assert f"{scheme}://example.com" in str(caught.value)
        assert isinstance(caught.value, exceptions.NotSent)
        assert proxy.seen == []


def test_a_server_that_is_not_to_be_trusted_behind_tls(secured: Secured, session: Session) -> None:
    """SSLError, as without the proxy; which of the two was not trusted makes the difference."""
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(stranger)
    with Curious(tls=secured.proxy) as proxy, EchoServer(tls=stranger) as server:
        with pytest.raises(exceptions.SSLError, match="certificate"):
            session.get(server.url, verify=secured.ca_file, proxies={"https": proxy.url})

        assert len(proxy.seen) == 1
        assert server.seen == []


# --- more fields for the proxy ---


def ask(session: Session, url: str, proxy: str, fields: tuple[tuple[str, str], ...] = ()) -> int:
    """The status of an answer that came through this proxy with these fields."""
    prepared = session.prepare_request(Request("GET", url))
    transport = session._transport
    route = transport.route(prepared.target.origin, proxy, False, None, None, fields)
    reply = transport.send(prepared, route, session._defaults.timeout, NEVER, 0.0, False)
    reply.read()
    return reply.head.status


def test_fields_for_the_proxy_go_with_connect(guarded: Proxy, secure: EchoServer, session: Session) -> None:
    """And nowhere else; one of them takes the place of ours of that name, and the target is not theirs to say."""
    fields = (("X-Exit", "ch"), ("proxy-authorization", "Basic " + b64encode(b"ada:s3cr@t").decode()), ("HOST", "x"))
    status = ask(session, secure.url, with_userinfo(guarded.url, "eve:guess"), fields)
    (connect,) = guarded.seen

    assert status == 200
    assert (connect.target, connect.all("host")) == (f"127.0.0.1:{secure.port}", ["x"])
    assert connect.all("x-exit") == ["ch"]
    assert len(connect.all("proxy-authorization")) == 1
    assert secure.seen[0].header("x-exit") is None
    assert secure.seen[0].header("proxy-authorization") is None


def test_sockets_are_not_shared_between_fields_for_the_proxy(
    proxy: Proxy, secure: EchoServer, session: Session
) -> None:
    """A gateway may choose its exit by them; the limit they share."""
    for exit in ("ch", "de", "ch", "de"):
        ask(session, secure.url, proxy.url, (("X-Exit", exit),))
    ask(session, secure.url, proxy.url)

    assert [seen.header("x-exit") for seen in proxy.seen] == ["ch", "de", None]
    assert len(session._transport.stats().hosts) == 1


def test_a_route_is_kept_by_all_that_makes_it_up(session: Session) -> None:
    """With fields for the proxy it is another than without."""
    transport, origin = session._transport, ("https", "example.com", 443)
    fields = (("X-Exit", "ch"),)
    bare = transport.route(origin, "http://p:1", True, None, None)
    exit = transport.route(origin, "http://p:1", True, None, None, fields)

    assert transport.routes[origin, "http://p:1", True, None, None] is bare
    assert transport.routes[origin, "http://p:1", True, None, None, fields] is exit
    assert bare.key == exit.key
    assert bare.identity != exit.identity


# --- which proxy ---


@pytest.mark.parametrize(
    ("proxies", "chosen"),
    [
        ({"http": "A"}, "A"),
        ({"https": "A"}, None),
        ({"all": "A"}, "A"),
        ({"http": "A", "all": "B"}, "A"),
        ({"http://127.0.0.1": "A", "http": "B"}, "A"),
        ({"http://127.0.0.2": "A", "http": "B"}, "B"),
        ({"all://127.0.0.1": "A", "all": "B"}, "A"),
        ({"http": "A", "all://127.0.0.1": "B"}, "A"),
        ({"http": ""}, None),
        ({"http": None}, None),
        ({}, None),
    ],
)
def test_the_most_particular_proxy_is_taken(
    proxies: dict[str, Any], chosen: str | None, server: EchoServer, session: Session
) -> None:
    """Scheme and host before scheme before all; nothing for none."""
    with Proxy() as a, Proxy() as b:
        urls = {"A": a.url, "B": b.url}
        given = {name: urls.get(value, value) for name, value in proxies.items()}
        assert session.get(server.url, proxies=given).ok
        session.proxies = given
        assert session.get(server.url).ok

        assert (len(a.seen), len(b.seen)) == (2 if chosen == "A" else 0, 2 if chosen == "B" else 0)
        assert len(server.seen) == 2


def test_the_calls_proxies_go_over_the_sessions(server: EchoServer, session: Session) -> None:
    """By scheme: what the call does not name is as the session says."""
    with Proxy() as a, Proxy() as b:
        session.proxies = {"http": a.url}
        session.get(server.url, proxies={"http": b.url})
        session.get(server.url, proxies={"https": b.url})
        session.get(server.url, proxies={"http": None})

        assert (len(a.seen), len(b.seen), len(server.seen)) == (1, 1, 3)


# --- the environment ---


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_environment_names_a_proxy(
    name: str, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions and pools that are made afterwards use it; with `trust_env=False` they do not."""
    monkeypatch.setenv(name, proxy.url)
    with Session() as session, SessionPool() as pool, SessionPool(trust_env=False) as deaf:
        assert session.get(server.url).ok
        assert pool.get(server.url).ok
        assert len(proxy.seen) == 2
        assert deaf.get(server.url).ok
        session.trust_env = False
        assert session.get(server.url).ok

    assert len(proxy.seen) == 2


def test_the_environment_is_read_once(proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes after a pool was made does not change the pool, neither the proxy nor who is spared it."""
    with SessionPool() as before:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with SessionPool() as spared:
            monkeypatch.delenv("NO_PROXY")
            with SessionPool() as proxied:
                monkeypatch.delenv("HTTP_PROXY")
                assert before.get(server.url).ok
                assert spared.get(server.url).ok
                assert proxy.seen == []
                assert proxied.get(server.url).ok
                assert len(proxy.seen) == 1


def test_explicit_proxies_go_over_the_environment(server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: what was said to pool, session or call counts. In requests the environment goes over the session."""
    with Proxy() as environment, Proxy() as explicit:
        monkeypatch.setenv("HTTP_PROXY", environment.url)
        with SessionPool(proxies={"http": explicit.url}) as pool, Session() as session:
            pool.get(server.url)
            session.get(server.url, proxies={"http": explicit.url})
            session.proxies = {"http": explicit.url}
            session.get(server.url)

        assert (len(environment.seen), len(explicit.seen)) == (0, 3)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "no_proxy"])
def test_lower_case_goes_first(name: str, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in requests and curl, where a variable is set in both."""
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv(name.upper(), "*" if name == "no_proxy" else "http://127.0.0.1:1")
    monkeypatch.setenv(name, "example.com" if name == "no_proxy" else proxy.url)
    with Session() as session:
        assert session.get(server.url).ok

    assert len(proxy.seen) == 1


@pytest.mark.parametrize(("name", "proxied"), [("HTTP_PROXY", False), ("http_proxy", True)])
def test_a_clients_header_names_no_proxy(
    name: str, proxied: bool, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a CGI script HTTP_PROXY is the client's `Proxy` header (httpoxy); lower case it cannot be."""
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    monkeypatch.setenv(name, proxy.url)
    with Session() as session:
        assert session.get(server.url).ok

    assert bool(proxy.seen) is proxied


def test_each_scheme_has_its_own(
    proxy: Proxy, server: EchoServer, secure: EchoServer, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is for https alone, and ALL_PROXY for what has none of its own."""
    with Proxy() as every:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", every.url)
        with Session() as session:
            assert session.get(server.url).ok
            assert session.get(secure.url, verify=ca_file).ok

        assert [seen.method for seen in every.seen] == ["GET"]
        assert [seen.method for seen in proxy.seen] == ["CONNECT"]


SPARED = {
    "127.0.0.1": True,
    "127.0.0.1:PORT": True,
    "127.0.0.1:1": False,
    "127.0.0.0/8": True,
    "10.0.0.0/8": False,
    "example.com,127.0.0.1": True,
    " example.com , 127.0.0.1 ": True,
    "*": True,
    "127.0.0.2": False,
    "example.com": False,
    "": False,
    ",": False,
}


@pytest.mark.parametrize(("no_proxy", "spared"), SPARED.items())
def test_no_proxy(
    no_proxy: str, spared: bool, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY spares addresses, networks, host and port, or all."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy.replace("PORT", str(server.port)))
    with Session() as session:
        assert session.get(server.url).ok

    assert (len(proxy.seen) == 0) is spared


@pytest.mark.parametrize(("no_proxy", "spared"), [each for each in SPARED.items() if "PORT" not in each[0]])
def test_no_proxy_in_requests(
    no_proxy: str, spared: bool, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table above is that of requests, but for address and port, which it does not know."""
    requests = pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with requests.Session() as session:
        assert session.get(server.url).ok

    assert (len(proxy.seen) == 0) is spared


@pytest.mark.parametrize(
    ("no_proxy", "host", "spared"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", True),
        (".example.com", "www.example.com", True),
        (".example.com", "example.com", True),
        ("example.com", "badexample.com", False),
        ("EXAMPLE.com", "www.example.COM", True),
        ("www.example.com", "example.com", False),
    ],
)
def test_no_proxy_spares_a_domain(
    no_proxy: str, host: str, spared: bool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name spares its host and all below it."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with Session() as session:
        route = session.route_to(f"http://{host}/")

    assert (route.proxy is None) is spared


URLS = [
    "http://example.com/",
    "http://www.example.com/",
    "http://example.com:8080/",
    "https://example.com/",
    "https://example.com:8443/",
    "http://badexample.com/",
    "http://EXAMPLE.com/",
    "http://example.com./",
    "http://localhost/",
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "http://10.1.2.3/",
    "http://192.168.1.5:80/",
    "http://[::1]/",
    "http://[fd00::5]/",
    "http://bücher.example/",
    "http://a.b.example.co.uk/",
]
AS_IN_REQUESTS = [
    *("example.com", ".example.com", "*.example.com", "example.com:8080", ".example.com:8080", "EXAMPLE.COM", "com"),
    *(".com", "example.com.", "*", "*,foo", "localhost", "127.0.0.1", "127.0.0.0/8", "10.0.0.0/8", "10.0.0.0/33"),
    *("10.1.2.3/32", "192.168.1.0/24", "192.168", "0.0.1", "::1", "fd00::5", "bücher.example", "co.uk", "<local>"),
    *("xn--bcher-kva.example", " example.com , localhost ", "example.com localhost", ",", "", " ", "example.com,"),
]


@pytest.mark.parametrize("no_proxy", AS_IN_REQUESTS)
@pytest.mark.parametrize("how", ["environment", "call"])
def test_whom_no_proxy_spares_as_in_requests(how: str, no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, or `no_proxy` among the proxies of a call, which goes over it: for every URL what requests does."""
    requests = pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:2")
    monkeypatch.setenv("NO_PROXY", no_proxy if how == "environment" else "example.com,127.0.0.1,fd00::5")
    said = {} if how == "environment" else {"no_proxy": no_proxy}
    with Session() as ours, requests.Session() as theirs:
        for url in URLS:
            chosen = requests.utils.select_proxy(
                url, ours.merge_environment_settings(url, said, None, None, None)["proxies"]
            )
            normal = requests.Request("GET", url).prepare().url
            merged = theirs.merge_environment_settings(normal, dict(said), None, None, None)["proxies"]
            wanted = requests.utils.select_proxy(normal, merged)

            assert chosen == wanted, url
            ours.proxies = said
            proxy = ours.route_to(url).proxy
            assert (proxy and f"http://proxy:{proxy.port}") == wanted, url


@pytest.mark.parametrize(
    ("no_proxy", "url", "spared"),
    [
        ("example.com:80", "http://example.com/", True),
        ("example.com:443", "https://example.com/", True),
        ("example.com:443", "http://example.com/", False),
        ("127.0.0.1:8080", "http://127.0.0.1:8080/", True),
        ("127.0.0.1:8080", "http://127.0.0.1/", False),
        ("fd00::/8", "http://[fd00::5]/", True),
        ("fd00::/8", "http://[fe00::5]/", False),
        ("[::1]", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]/", False),
        ("::1", "http://[::1]:8080/", True),
        ("fe80::/10", "http://[fe80::1%25lo]/", True),
    ],
)
def test_whom_no_proxy_spares_beyond_requests(
    no_proxy: str, url: str, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port counts where the URL leaves the usual one out, or names an address; networks and brackets of IPv6."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with Session() as session:
        route = session.route_to(url)

    assert (route.proxy is None) is spared


@pytest.mark.parametrize("where", ["call", "session"])
def test_a_proxy_of_ones_own_spares_nobody(
    where: str, proxy: Proxy, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY is about the environment's proxies, as in requests."""
    monkeypatch.setenv("NO_PROXY", "*")
    with Session() as session:
        if where == "session":
            session.proxies = {"http": proxy.url}
        assert session.get(server.url, proxies={"http": proxy.url} if where == "call" else None).ok

    assert len(proxy.seen) == 1


# --- IPv6 ---


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy_and_a_server_with_an_ipv6_address(tls: bool, authority: trustme.CA, ca_file: str) -> None:
    """In brackets wherever a port follows (RFC 3986 §3.2.2), and without in the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("::1").configure_cert(context)
    with (
        Proxy("::1") as proxy,
        EchoServer("::1", tls=context if tls else None) as server,
        SessionPool(proxies={"all": proxy.url}, verify=ca_file) as pool,
    ):
        assert pool.get(server.url + "/path").ok

        assert proxy.seen[0].target == (f"[::1]:{server.port}" if tls else f"{server.url}/path")
        assert proxy.seen[0].header("host") == f"[::1]:{server.port}"
        assert list(pool.stats().hosts) == [f"{server.url} via {proxy.url}"]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_a_zone_is_for_the_system_alone(session: Session) -> None:
    """RFC 6874: it says by which interface, here; so the proxy is dialled with it."""
    with Proxy("::1") as proxy:
        zoned = f"http://[::1%251]:{proxy.port}"
        route = session._transport.route(("http", "example.com", 80), zoned, True, None)

        assert route.proxy is not None
        assert route.proxy.host == "[::1%1]"
        with pytest.raises(exceptions.ProxyError):
            session.get("https://no-such-host.invalid/", proxies={"all": zoned})
        assert [seen.target for seen in proxy.seen] == ["no-such-host.invalid:443"]


# --- with the pool ---


def test_limits_hold_through_a_proxy(proxy: Proxy, server: EchoServer) -> None:
    """`per_host` counts an origin behind a proxy as the origin it is: so many connections to the proxy for it."""
    with SessionPool(limits=Limits(per_host=3), proxies={"http": proxy.url}, workers=12) as pool:
        statuses = list(pool.map(lambda session, path: session.get(server.url + path).status_code, ["/a"] * 100))
        stats = pool.stats()

    assert statuses == [200] * 100
    assert stats.peak <= 3
    assert proxy.accepted == stats.opened
    ((key, host),) = stats.hosts.items()
    assert str(key).startswith(server.url)
    assert host.limit == 3


def test_connections_are_not_shared_between_proxy_passwords(guarded: Proxy, secure: EchoServer, ca_file: str) -> None:
    """A tunnel that was opened as one user is not used for another."""
    with SessionPool(verify=ca_file, limits=Limits(per_host=1)) as pool:
        assert pool.get(secure.url, proxies={"https": with_userinfo(guarded.url)}).ok
        with pytest.raises(exceptions.ProxyError, match="407"):
            pool.get(secure.url, proxies={"https": with_userinfo(guarded.url, "eve:guess")})
        assert pool.get(secure.url, proxies={"https": with_userinfo(guarded.url)}).ok

    assert len(secure.seen) == 2


def test_closing_a_pool_closes_its_tunnels(proxy: Proxy, secure: EchoServer, ca_file: str) -> None:
    """No connection stays, neither to the proxy nor through it; one in use is cut."""
    go_on = threading.Event()

    def wait(seen: Seen) -> Answer:
        assert go_on.wait(20)
        return page()

    secure.answers["/wait"] = wait
    pool = SessionPool(verify=ca_file, proxies={"https": proxy.url})
    assert pool.get(secure.url).ok
    with in_thread(pool.get, secure.url + "/wait") as call:
        eventually(lambda: len(secure.seen) == 2)
        report = pool.close(timeout=0.05)
        go_on.set()
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        call.get()

    assert report.cut == 1
    eventually(lambda: proxy.open == secure.open == 0)


# --- what an adapter adds for a proxy ---


class Marking(HTTPAdapter):
    """As rotating proxies ask for it: a header by proxy."""

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return {"X-Exit": proxy.rpartition(":")[2]}


def test_an_adapter_adds_fields_for_a_proxy(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """A proxy that forwards sees them beside each request, and not twice after a redirect."""
    session.mount("http://127.0.0.1", Marking())
    server.answers["/from"] = redirect("/to")
    session.get(server.url + "/from", proxies={"http": proxy.url})

    port = proxy.url.rpartition(":")[2]
    assert [seen.all("x-exit") for seen in proxy.seen] == [[port], [port]]


def test_fields_for_a_proxy_are_not_redirected(proxy: Proxy, server: EchoServer, session: Session) -> None:
    """Where a redirect leads past the proxy, they are left behind."""
    session.mount("http://", Marking())
    with EchoServer("127.0.0.2") as direct:
        server.answers["/from"] = redirect(direct.url + "/to")
        session.get(server.url + "/from", proxies={"http://127.0.0.1": proxy.url})

    assert proxy.seen[0].header("x-exit")
    assert [(seen.target, seen.header("x-exit")) for seen in direct.seen] == [("/to", None)]


def test_an_adapter_adds_fields_to_connect(proxy: Proxy, secure: EchoServer, ca_file: str, session: Session) -> None:
    """A tunnel is asked for with them; the server behind it never sees them."""
    session.mount("https://", Marking())
    session.get(secure.url, proxies={"https": proxy.url}, verify=ca_file)

    assert proxy.seen[0].header("x-exit")
    assert secure.seen[0].header("x-exit") is None


def test_fields_for_a_proxy_are_checked(proxy: Proxy, session: Session) -> None:
    """What could smuggle in another is refused before anything is sent."""

    class Smuggling(HTTPAdapter):
        def proxy_headers(self, proxy: str) -> dict[str, str]:
            return {"X-Exit": "1\r\nX-Evil: 1"}

    session.mount("http://", Smuggling())
    with pytest.raises(exceptions.InvalidHeader):
        session.get("http://example.com/", proxies={"http": proxy.url})

    assert proxy.seen == []
