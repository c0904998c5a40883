"""Through a SOCKS proxy: what it is told, who is let past it, and what comes of a no, of nothing, and of nonsense."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import selectors
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trustme

from sessionpool import Limits, ProxyRotation, Session, SessionPool, Timeout, exceptions
from tests.helpers import PATIENCE, Interrupt, eventually, in_thread
from tests.with_server.echo_server import EchoServer, Server, redirect
from tests.with_server.raw_server import silent_resolver

pytest.importorskip("python_socks", reason="the extra socks is not installed")

GRANTED = {4: b"\x00\x5a", 5: b"\x05\x00\x00"}
NOWHERE = b"\x01\x00\x00\x00\x00\x00\x00"  # SOCKS 5: IPv4, address and port


@attrs.frozen
class Asked:
    """What a client wanted.

    Attributes:
        version: 4 or 5.
        kind: How it named the host: "name", "IPv4", "IPv6".
        host: What it said.
        port: And where.
        user: Who it said it was; `None` for nobody.
    """

    version: int
    kind: str
    host: str
    port: int
    user: str | None = None


class Socks(Server):
    """A SOCKS proxy that takes every byte as the RFCs mean it, and fails the test over one that they do not allow.

    Args:
        password: User and password that a client of SOCKS 5 must give, as user:password; `None` lets everybody in.
        reply: What SOCKS 5 answers instead of going there, as a code or as bytes.
        names: Where names lead, as in a network of the proxy's own; others are looked up.

    Attributes:
        asked: What it was asked for, in order.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        reply: int | bytes | None = None,
        names: dict[str, tuple[str, int]] | None = None,
    ) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.address = f"{self.host}:{self.port}"
        self._password = password
        self._reply = reply
        self._names = names or {}

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        version = stream.read(1)
        if not version:
            return
        asked = {b"\x04": self._hear_4, b"\x05": self._hear_5}[version](stream)
        if asked is None:
            return
        self.asked.append(asked)
        if isinstance(self._reply, bytes):
            answer(stream, self._reply)
        elif self._reply is not None:
            answer(
                stream,
                bytes([5, self._reply, 0]) + NOWHERE if asked.version == 5 else bytes([0, self._reply, *b"123456"]),
            )
        else:
            with socket.create_connection(self._names.get(asked.host, (asked.host, asked.port))) as upstream:
                answer(stream, GRANTED[asked.version] + (NOWHERE if asked.version == 5 else b"123456"))
                relay(sock, upstream)

    def _hear_4(self, stream: io.BufferedIOBase) -> Asked:
        assert stream.read(1) == b"\x01"
        port, address = int.from_bytes(stream.read(2)), stream.read(4)
        user = until_nul(stream) or None
        if address[:3] == b"\0\0\0" and address[3]:
            return Asked(4, "name", until_nul(stream), port, user)
        return Asked(4, "IPv4", socket.inet_ntoa(address), port, user)

    def _hear_5(self, stream: io.BufferedIOBase) -> Asked | None:
        methods = stream.read(stream.read(1)[0])
        wanted = b"\x00" if self._password is None else b"\x02"
        if wanted not in methods:
            answer(stream, b"\x05\xff")
            return None
        answer(stream, b"\x05" + wanted)
        user = None
        if self._password is not None:
            assert stream.read(1) == b"\x01"
            user, password = (stream.read(stream.read(1)[0]).decode("ascii") for _ in range(2))
            if f"{user}:{password}" != self._password:
                answer(stream, b"\x01\x01")
                return None
            answer(stream, b"\x01\x00")
        request = stream.read(3)
        if not request:
            return None  # it has nothing to ask for
        assert request == b"\x05\x01\x00"
        kind = stream.read(1)[0]
        if kind == 3:
            host = stream.read(stream.read(1)[0]).decode("ascii")
        else:
            host = str(ipaddress.ip_address(stream.read({1: 4, 4: 16}[kind])))
        return Asked(5, {1: "IPv4", 3: "name", 4: "IPv6"}[kind], host, int.from_bytes(stream.read(2)), user)


def answer(stream: io.BufferedIOBase, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def until_nul(stream: io.BufferedIOBase) -> str:
    return b"".join(iter(lambda: stream.read(1), b"\0")).decode("ascii")


def relay(client: socket.socket, upstream: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
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


@pytest.fixture
def socks() -> Iterator[Socks]:
    """Lets everybody in, and looks names up."""
    with Socks() as socks:
        yield socks


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """Where it leads to."""
    with EchoServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        session.trust_env = False
        yield session


def through(scheme: str, socks: Socks, userinfo: str = "") -> dict[str, str]:
    """The setting that sends everything through it."""
    return {"all": f"{scheme}://{userinfo}{socks.address}"}


# --- what it is told ---


@pytest.mark.parametrize(
    ("scheme", "version", "kind"),
    [("socks4", 4, "IPv4"), ("socks4a", 4, "name"), ("socks5", 5, "IPv4"), ("socks5h", 5, "name")],
)
def test_who_looks_the_name_up(
    scheme: str, version: int, kind: str, socks: Socks, server: EchoServer, session: Session
) -> None:
    """We do, with socks4 and socks5; the proxy does, with socks4a and socks5h, and is told the name as it is."""
    response = session.get(f"http://localhost:{server.port}/path?q=1", proxies=through(scheme, socks))

    assert response.ok
    assert socks.asked == [Asked(version, kind, "localhost" if kind == "name" else "127.0.0.1", server.port)]
    assert (server.seen[0].target, server.seen[0].header("host")) == ("/path?q=1", f"localhost:{server.port}")


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_an_address_is_told_as_an_address(scheme: str, socks: Socks, server: EchoServer, session: Session) -> None:
    """Nobody has to look it up; and the request is the same as without a proxy."""
    session.proxies = through(scheme, socks)
    answers = [session.post(server.url, data=b"body").json() for _ in range(3)]

    assert socks.asked == [Asked(int(scheme[5]), "IPv4", "127.0.0.1", server.port)]
    assert answers[0]["body"] == "body"
    assert (server.accepted, len(server.seen)) == (1, 3)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_an_ipv6_address(scheme: str, session: Session) -> None:
    """Goes as its sixteen bytes."""
    with Socks(reply=4) as socks:
        with pytest.raises(exceptions.ProxyError):
            session.get("http://[2001:db8::1]/", proxies=through(scheme, socks))

        assert socks.asked == [Asked(5, "IPv6", "2001:db8::1", 80)]


def test_an_ipv6_address_is_nothing_for_socks4(socks: Socks, session: Session) -> None:
    """It knows of four bytes only; the error says so, and does not blame the proxy."""
    with pytest.raises(exceptions.NameResolutionError, match=r"2001:db8::1.* via socks4://.*IPv4 alone"):
        session.get("http://[2001:db8::1]/", proxies=through("socks4", socks))

    assert socks.accepted == 0


def test_a_name_outside_ascii_is_told_in_ascii(
    authority: trustme.CA, ca_file: str, secure: EchoServer, session: Session
) -> None:
    """Proxy, SNI and certificate know the A-label, and so does the `Host` field."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("bücher.example").configure_cert(context)
    named: list[str | None] = []
    context.sni_callback = lambda sock, name, _: named.append(name)
    with (
        EchoServer(tls=context) as shop,
        Socks(names={"xn--bcher-kva.example": (shop.host, shop.port)}) as socks,
    ):
        assert session.get("https://BÜCHER.example/", proxies=through("socks5h", socks), verify=ca_file).ok

        assert socks.asked == [Asked(5, "name", "xn--bcher-kva.example", 443)]
        assert named == ["xn--bcher-kva.example"]
        assert shop.seen[0].header("host") == "xn--bcher-kva.example"


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_https(scheme: str, socks: Socks, secure: EchoServer, ca_file: str, session: Session) -> None:
    """TLS is with the server itself, over one connection for many requests."""
    session.proxies, session.verify = through(scheme, socks), ca_file
    assert [session.get(secure.url).status_code for _ in range(3)] == [200] * 3

    assert (len(socks.asked), secure.accepted, len(secure.seen)) == (1, 1, 3)


@pytest.mark.parametrize("scheme", ["socks4a", "socks5h"])
def test_the_servers_certificate_is_checked(scheme: str, secure: EchoServer, ca_file: str, session: Session) -> None:
    """Against the name that was asked for, whoever looked it up: SSLError, not ProxyError, and no request."""
    with (
        Socks(names={"other.example": (secure.host, secure.port)}) as socks,
        pytest.raises(exceptions.SSLError, match=r"https://other\.example:443 via socks") as caught,
    ):
        session.get("https://other.example/", proxies=through(scheme, socks), verify=ca_file)

    assert "not valid for" in str(caught.value)
    assert secure.seen == []


def test_each_hop_takes_its_own_way(socks: Socks, server: EchoServer, session: Session) -> None:
    """A redirect's target is asked for through the proxy that is meant for it."""
    with EchoServer("127.0.0.2") as direct:
        server.answers["/from"] = redirect(direct.url + "/to")
        response = session.get(
            server.url + "/from", proxies={"http://127.0.0.1": through("socks5", socks)["all"], "http": ""}
        )

        assert response.url == direct.url + "/to"
        assert [asked.host for asked in socks.asked] == ["127.0.0.1"]
        assert len(direct.seen) == 1


@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
def test_the_environment_names_it(name: str, socks: Socks, server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other proxy."""
    for each in ("http_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, through("socks5h", socks)["all"])
    with Session() as session:
        assert session.get(f"http://localhost:{server.port}/").ok

    assert [asked.kind for asked in socks.asked] == ["name"]


# --- who asks ---


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_user_and_password(scheme: str, server: EchoServer, session: Session) -> None:
    """Decoded from the proxy's URL; the server sees nothing of them."""
    with Socks(password="ada:s3cr@t:") as socks:
        assert session.get(server.url, proxies=through(scheme, socks, "ada:s3cr%40t%3A@")).ok

        assert socks.asked[0].user == "ada"
    assert "proxy-authorization" not in {name.lower() for name, _ in server.seen[0].headers}


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_socks4_has_a_user_only(scheme: str, socks: Socks, server: EchoServer, session: Session) -> None:
    """A password has no place in it."""
    assert session.get(server.url, proxies=through(scheme, socks, "ada:secret@")).ok

    assert socks.asked[0].user == "ada"


@pytest.mark.parametrize(
    ("userinfo", "reason"),
    [
        ("", "no acceptable authentication methods"),
        ("ada@", "no acceptable authentication methods"),
        ("ada:wr0ng@", "username and password authentication failure"),
    ],
)
def test_who_is_not_let_in_is_told(userinfo: str, reason: str, server: EchoServer, session: Session) -> None:
    """ProxyError with the proxy's address and the reason, and no password; nothing was sent."""
    with Socks(password="ada:s3cret") as socks:
        with pytest.raises(exceptions.ProxyError, match=reason) as caught:
            session.post(server.url, data=b"x", proxies=through("socks5", socks, userinfo))

        assert isinstance(caught.value, exceptions.NotSent)
        assert f"{server.url} via socks5://{socks.address}" in str(caught.value)
        assert "wr0ng" not in str(caught.value)
        assert "ada" not in str(caught.value)
        assert caught.value.status is None
        assert socks.asked == []
    assert session._transport.stats().leased == 0
    assert server.seen == []


@pytest.mark.parametrize(
    "userinfo",
    ["ada:passw%C3%B6rt@", "ada%00evil:p@", "ada:" + "x" * 256 + "@", "a%0Ab:p@"],
    ids=["not ASCII", "NUL", "too long", "line break"],
)
@pytest.mark.parametrize("scheme", ["socks4a", "socks5"])
def test_what_socks_cannot_say(scheme: str, userinfo: str, socks: Socks, server: EchoServer, session: Session) -> None:
    """A user or password that would be another, or another field, is refused before anybody is asked."""
    with pytest.raises(exceptions.InvalidProxyURL, match=f"a {scheme} proxy must be ASCII") as caught:
        session.get(server.url, proxies=through(scheme, socks, userinfo))

    assert "x" * 9 not in str(caught.value)
    assert "evil" not in str(caught.value)
    assert (socks.accepted, server.accepted) == (0, 0)


def test_sockets_are_not_shared_between_users(server: EchoServer) -> None:
    """One limit, and never one socket; the next request of the first user has its own again."""
    with Socks(password="ada:1") as socks, SessionPool(trust_env=False, limits=Limits(per_host=2)) as pool:
        ada, eve = through("socks5", socks, "ada:1@"), through("socks5", socks, "eve:2@")
        assert pool.get(server.url, proxies=ada).ok
        with pytest.raises(exceptions.ProxyError):
            pool.get(server.url, proxies=eve)
        assert pool.get(server.url, proxies=ada).ok

        assert (len(socks.asked), len(server.seen)) == (1, 2)
        ((key, host),) = pool.stats().hosts.items()
        assert key == f"{server.url} via socks5://{socks.address}"
        assert host.limit == 2


def test_the_limit_holds(socks: Socks, server: EchoServer) -> None:
    """Twelve threads, three connections."""
    with SessionPool(trust_env=False, limits=Limits(per_host=3), proxies=through("socks5h", socks), workers=12) as pool:
        statuses = list(pool.map(lambda session, path: session.get(server.url + path).status_code, ["/a"] * 100))
        stats = pool.stats()

    assert statuses == [200] * 100
    assert stats.peak <= 3
    assert len(socks.asked) == stats.opened == server.accepted


def test_a_rotation_may_have_them(socks: Socks, server: EchoServer) -> None:
    """And one whose hosts are down is not to blame: it answered."""
    with Socks(reply=5) as refusing:
        urls = [through("socks5", refusing)["all"], through("socks5", socks)["all"]]
        with SessionPool(trust_env=False, retry=None, proxies=ProxyRotation(urls, max_failures=1)) as pool:
            with pool.lease(fresh=True) as session:
                for _ in range(2):
                    with pytest.raises(exceptions.ProxyError, match="refused"):
                        session.get(server.url)
            with pool.lease(fresh=True) as session:
                assert session.get(server.url).ok

        assert (len(refusing.asked), len(socks.asked)) == (2, 1)


# --- what it answers ---


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "general SOCKS server failure"),
        (2, "connection not allowed by ruleset"),
        (3, "network unreachable"),
        (4, "host unreachable"),
        (5, "connection refused by destination host"),
        (6, "TTL expired"),
        (8, "address type not supported"),
        (99, "invalid reply code"),
    ],
)
def test_a_refusal_of_socks5_is_told(code: int, reason: str, session: Session) -> None:
    """ProxyError with host, proxy, reason and code, by which nothing was sent; the permit is free again."""
    with Socks(reply=code) as socks:
        with pytest.raises(exceptions.ProxyError, match=rf"(?i){reason}") as caught:
            session.post("http://down.example/", proxies=through("socks5h", socks))

        assert f"http://down.example:80 via socks5h://{socks.address}" in str(caught.value)
        assert isinstance(caught.value, exceptions.NotSent)
        assert not isinstance(caught.value, exceptions.MaySent)
        assert caught.value.status == (None if code == 99 else code)
        eventually(lambda: socks.open == 0)
    stats = session._transport.stats()
    assert (stats.leased, stats.opened) == (0, 0)


@pytest.mark.parametrize(("code", "reason"), [(0x5B, "rejected or failed"), (0x5C, "identd"), (0x5D, "user-ids")])
def test_a_refusal_of_socks4_is_told(code: int, reason: str, session: Session) -> None:
    """The same."""
    with Socks(reply=code) as socks:
        with pytest.raises(exceptions.ProxyError, match=reason) as caught:
            session.get("http://down.example/", proxies=through("socks4a", socks))

        assert caught.value.status == code


NONSENSE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another version": b"\x04\x00\x00" + NOWHERE,
    "nothing": b"",
    "a part": b"\x05\x00\x00\x01\x00",
    "an address of no kind": b"\x05\x00\x00\x09" + NOWHERE,
    "a name that is no text": b"\x05\x00\x00\x03\x02\xff\xfe\x00\x00",
    "something reserved": b"\x05\x00\x07" + NOWHERE,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_not_socks_is_an_error(name: str, session: Session) -> None:
    """ProxyError, whatever it is; nothing of the request was sent, and the socket is closed."""
    with Socks(reply=NONSENSE[name]) as socks:
        with pytest.raises(exceptions.ProxyError) as caught:
            session.post("http://host.example/", data=b"secret", proxies=through("socks5h", socks))

        assert isinstance(caught.value, exceptions.NotSent)
        assert socks.address in str(caught.value)
        assert session._transport.stats().leased == 0
        eventually(lambda: socks.open == 0)


def test_a_name_that_nobody_knows(socks: Socks, session: Session) -> None:
    """Looked up here it is the host's name that has no address, and the proxy is not asked."""
    with pytest.raises(exceptions.NameResolutionError, match=r"http://no-such-host\.invalid:80 via socks5"):
        session.get("http://no-such-host.invalid/", proxies=through("socks5", socks))

    assert socks.accepted == 0


def test_a_proxy_that_is_not_there(session: Session) -> None:
    """ProxyError says that it was refused."""
    with pytest.raises(exceptions.ProxyError, match="refused") as caught:
        session.get("http://example.com/", proxies={"all": "socks5h://ada:s3cret@127.0.0.1:1"})

    assert "http://example.com:80 via socks5h://127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# --- time, and what ends it ---


class Stalling(Server):
    """Says so much, and then nothing.

    Attributes:
        heard: Set when it has been spoken to.
    """

    def __init__(self, said: bytes, *, bytewise: bool = False) -> None:
        super().__init__()
        self.heard = threading.Event()
        self._said = said
        self._bytewise = bytewise

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        stream.read(1)
        pieces = [bytes([each]) for each in self._said] if self._bytewise else [self._said]
        for piece in pieces:
            sock.sendall(piece)
        self.heard.set()
        while sock.recv(65536):
            pass


@pytest.mark.parametrize("said", [b"", b"\x05", b"\x05\x00", b"\x05\x00\x05\x00\x00\x01\x7f"], ids=len)
@pytest.mark.parametrize(
    ("timeout", "limit"),
    [(Timeout(connect=0.2), r"Timeout\.connect=0\.2 s"), (Timeout(total=0.2), r"Timeout\.total=0\.2 s")],
)
def test_a_proxy_that_stalls_is_given_up(said: bytes, timeout: Timeout, limit: str, session: Session) -> None:
    """ConnectTimeout names the limit, wherever in its answer the proxy stopped; nothing was sent."""
    with Stalling(said) as stalling:
        with pytest.raises(exceptions.ConnectTimeout, match=limit) as caught:
            session.get(
                "https://host.example/", proxies={"all": f"socks5h://127.0.0.1:{stalling.port}"}, timeout=timeout
            )

        assert isinstance(caught.value, exceptions.NotSent)
        assert "https://host.example:443 via socks5h://127.0.0.1" in str(caught.value)
        eventually(lambda: stalling.open == 0)
    assert session._transport.stats().leased == 0


def test_a_proxy_that_trickles_is_given_up(session: Session) -> None:
    """Each byte comes in time, and all of them together do not: it is one limit."""

    class Trickling(Server):
        def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
            stream.read(1)
            sock.sendall(b"\x05\x00" + b"\x05\x00\x00\x03\xff")
            for _ in range(257):
                sock.sendall(b"x")
                time.sleep(0.02)

    with Trickling() as trickling, pytest.raises(exceptions.ConnectTimeout, match=r"Timeout\.connect=0\.3 s"):
        session.get(
            "http://host.example/",
            proxies={"all": f"socks5h://127.0.0.1:{trickling.port}"},
            timeout=Timeout(connect=0.3, read=1),
        )


def test_an_answer_byte_by_byte_is_an_answer(server: EchoServer, session: Session) -> None:
    """However it is cut; and not a byte of what follows is taken for it."""
    reply = b"\x05\x00" + b"\x05\x04\x00" + NOWHERE
    with Stalling(reply, bytewise=True) as stalling, pytest.raises(exceptions.ProxyError, match="host unreachable"):
        session.get("http://host.example/", proxies={"all": f"socks5h://127.0.0.1:{stalling.port}"})


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a_name_that_is_not_found_in_time(scheme: str, socks: Socks, session: Session) -> None:
    """Looked up here it has the same limit as without a proxy, and is the host's name, not the proxy's."""
    with silent_resolver("slow.example") as resolver:
        with pytest.raises(exceptions.ConnectTimeout, match=r"the name of http://slow\.example:80 via") as caught:
            session.get("http://slow.example/", proxies=through(scheme, socks), timeout=Timeout(connect=0.2))

        assert resolver.asked == ["slow.example"]
    assert "Timeout.connect=0.2 s" in str(caught.value)
    assert socks.accepted == 0


@pytest.mark.parametrize("scheme", ["socks4a", "socks5h"])
def test_a_name_is_not_looked_up_here(scheme: str, server: EchoServer, session: Session) -> None:
    """Not once: the network's resolver is not to hear where one goes, nor can it hold anything up."""
    names = {"hidden.example": (server.host, server.port)}
    with silent_resolver("hidden.example") as resolver, Socks(names=names) as socks:
        assert session.get("http://hidden.example/", proxies=through(scheme, socks)).ok

        assert resolver.asked == []


@pytest.mark.parametrize(("scheme", "told"), [("socks4", ("IPv4", "127.0.0.1")), ("socks5", ("IPv6", "2001:db8::1"))])
def test_the_first_address_that_can_be_told_is_told(
    scheme: str, told: tuple[str, str], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a host that has several, and one of a kind that nobody knows."""
    usual = socket.getaddrinfo

    def several(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "both.example":
            return usual(host, port, *args, **kwargs)
        if len(args) > 3:  # is it an address?
            raise socket.gaierror(socket.EAI_NONAME, "no")
        odd = (socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("nowhere", 0))
        return [odd, *usual("2001:db8::1", port, *args), *usual("127.0.0.1", port, *args)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with Socks(reply=0x5B if scheme == "socks4" else 4) as socks:
        with pytest.raises(exceptions.ProxyError):
            session.get("http://both.example/", proxies=through(scheme, socks))

        assert [(asked.kind, asked.host) for asked in socks.asked] == [told]


def test_closing_a_pool_wakes_who_waits_for_the_proxy() -> None:
    """At once, with the reason."""
    with Stalling(b"\x05") as stalling:
        pool = SessionPool(trust_env=False, retry=None, proxies={"all": f"socks5h://127.0.0.1:{stalling.port}"})
        with in_thread(pool.get, "https://host.example/") as call:
            assert stalling.heard.wait(PATIENCE)
            pool.close(timeout=0)

        assert isinstance(call.error, exceptions.PoolClosed)
        eventually(lambda: stalling.open == 0)


def test_an_interrupt_leaves_no_socket(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    """Whatever breaks off the negotiation closes the socket and gives the permit back."""
    from sessionpool import _socks

    def interrupt(*_: object) -> None:
        raise Interrupt

    monkeypatch.setattr(_socks, "negotiate", interrupt)
    with Stalling(b"") as stalling:
        with pytest.raises(Interrupt):
            session.get("http://host.example/", proxies={"all": f"socks5h://127.0.0.1:{stalling.port}"})
        eventually(lambda: stalling.accepted == 1 and stalling.open == 0)

    assert session._transport.stats().leased == 0


# --- the library, and the URL ---


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_without_the_library_the_error_says_what_to_install(
    scheme: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InvalidSchema, as in requests; and only for those who use SOCKS."""
    monkeypatch.setitem(sys.modules, "python_socks.sync", None)
    with pytest.raises(exceptions.InvalidSchema, match=r"pip install 'sessionpool\[socks\]'") as caught:
        session.get("http://example.com/", proxies={"all": f"{scheme}://ada:s3cret@127.0.0.1:1"})

    assert scheme in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_library_is_imported_when_it_is_needed() -> None:
    """Not by those who import sessionpool, nor by those who use another proxy."""
    code = """if True:
        import sys, sessionpool
        session = sessionpool.Session()
        try:
            session.get("http://example.com/", proxies={"all": "http://127.0.0.1:1"})
        except sessionpool.exceptions.ProxyError:
            print("python_socks" in sys.modules)
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("socks5://proxy.example", "socks5://proxy.example:1080"),
        ("SOCKS5H://PROXY.Example:9050", "socks5h://proxy.example:9050"),
        ("socks4a://bücher.example", "socks4a://xn--bcher-kva.example:1080"),
        ("socks5://[2001:DB8::1]", "socks5://[2001:db8::1]:1080"),
        ("socks5://ada:s3cret@[fe80::1%25eth0]:9", "socks5://[fe80::1%eth0]:9"),
    ],
)
def test_a_url_in_its_normal_form_is_the_limits_key(url: str, key: str, session: Session) -> None:
    """However it is spelled; port 1080 where it names none; no user, no password."""
    route = session._transport.route(("http", "example.com", 80), url, True, None)

    assert route.key == f"http://example.com:80 via {key}"
    assert not route.is_forwarding


@pytest.mark.parametrize("url", ["socks5://", "socks5://ada:s3cret@:1080", "socks5h://h:99999", "socks4://a b"])
def test_a_url_that_is_none(url: str, session: Session) -> None:
    """InvalidProxyURL before anything is done, and no password in it."""
    with pytest.raises(exceptions.InvalidProxyURL, match="proxy") as caught:
        session.get("http://example.com/", proxies={"all": url})

    assert "s3cret" not in str(caught.value)


# --- a real one ---


@contextlib.contextmanager
def microsocks(*options: str) -> Iterator[int]:
    """A microsocks on a free port; the port."""
    program = shutil.which("microsocks")
    assert program is not None
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    process = subprocess.Popen(
        [program, "-i", "127.0.0.1", "-p", str(port), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: process.poll() is not None or is_listening(port))
        assert process.poll() is None, "microsocks did not start"
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


real = pytest.mark.skipif(shutil.which("microsocks") is None, reason="microsocks is not installed (Debian: microsocks)")


@pytest.mark.needs_microsocks
@real
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_microsocks(scheme: str, server: EchoServer, secure: EchoServer, ca_file: str) -> None:
    """A real proxy, with user and password: names and addresses, http and https, threads and reuse."""
    with microsocks("-u", "ada", "-P", "s3cr@t") as port:
        url = f"{scheme}://ada:s3cr%40t@127.0.0.1:{port}"
        with SessionPool(
            trust_env=False, proxies={"all": url}, verify=ca_file, limits=Limits(per_host=2), workers=4
        ) as pool:
            urls = [f"http://localhost:{server.port}/", secure.url + "/"] * 20
            answers = list(pool.map(lambda session, url: session.get(url).status_code, urls))
            assert pool.post(server.url, data=b"x" * 300_000).json()["body"] == "x" * 300_000

        assert answers == [200] * 40
        assert server.accepted <= 4
        assert secure.accepted <= 2


@pytest.mark.needs_microsocks
@real
def test_microsocks_says_no(session: Session) -> None:
    """Its refusals are told as what they are."""
    with microsocks("-u", "ada", "-P", "s3cret") as port:
        with pytest.raises(exceptions.ProxyError, match="connection refused by destination host") as refused:
            session.get("http://127.0.0.1:1/", proxies={"all": f"socks5://ada:s3cret@127.0.0.1:{port}"})
        with pytest.raises(exceptions.ProxyError, match="authentication failure"):
            session.get("http://127.0.0.1:1/", proxies={"all": f"socks5://ada:wrong@127.0.0.1:{port}"})
        with pytest.raises(exceptions.ProxyError, match="no acceptable authentication methods"):
            session.get("http://127.0.0.1:1/", proxies={"all": f"socks5://127.0.0.1:{port}"})

        assert refused.value.status == 5
