"""Through a real squid, which wants to know who asks and writes down what it was asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from urllib.parse import urljoin

import attrs
import pytest
import trustme

from loadtests.servers import Nginx, find_nginx
from sessionpool import Limits, Session, SessionPool, exceptions
from sessionpool.cli import main
from tests.helpers import PATIENCE, eventually
from tests.with_server.echo_server import Answer, EchoServer, Seen, redirect

SQUID = shutil.which("squid", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
HELPER = Path("/usr/lib/squid/basic_ncsa_auth")

pytestmark = [
    pytest.mark.needs_squid,
    pytest.mark.skipif(SQUID is None or not HELPER.exists(), reason="squid is not installed (Debian: squid)"),
]

# The password is s3cr@t: `openssl passwd -apr1 -salt saltsalt 's3cr@t'`.
PASSWORDS = "ada:$apr1$saltsalt$y292p5PVL4UTFVrrO0vAt1\n"
ADA = "ada:s3cr%40t@"
SESSION_COOKIE = "6f1d0c2b9a"


@attrs.frozen
class Logged:
    """One line of squid's access log; a tunnel's is written when it ends.

    Attributes:
        port: The client's, which makes out the connection.
        user: Who asked, "-" for nobody.
        method: As asked.
        target: As asked.
        status: What squid answered.
    """

    port: int
    user: str
    method: str
    target: str
    status: int


class Squid:
    """A squid of one process on a free loopback port, without a cache; a context manager.

    Started by root it becomes the user `proxy`, so what it reads and writes lies where that one may go.
    """

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="squid-")))
            with socket.socket() as held:
                held.bind(("127.0.0.1", 0))
                self.port = held.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
            (self._folder / "passwords").write_text(PASSWORDS)
            (self._folder / "squid.conf").write_text(self._configuration())
            if os.geteuid() == 0:
                for path in (self._folder, *self._folder.iterdir()):
                    shutil.chown(path, "proxy", "proxy")
            assert SQUID is not None
            with (self._folder / "said").open("wb") as said:
                self._process = subprocess.Popen(
                    [SQUID, "-N", "-f", str(self._folder / "squid.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd=self._folder,
                    start_new_session=True,  # a Ctrl-C meant for us would stop it too early
                )
            undo.callback(self._stop)
            eventually(lambda: self._process.poll() is not None or self._is_listening())
            assert self._process.poll() is None, (self._folder / "said").read_text()
            self._cleanup = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def through(self, userinfo: str = ADA) -> dict[str, str]:
        """The setting that sends everything through it."""
        return {"all": self.url.replace("://", f"://{userinfo}")}

    def logged(self, url: str) -> list[Logged]:
        """What it was asked for of the server at this URL, whose port is no other test's."""
        log = self._folder / "access.log"
        lines = [line.split(" ") for line in log.read_text().splitlines()] if log.exists() else []
        logged = [Logged(int(line[0]), line[1], line[2], line[3], int(line[4])) for line in lines]
        authority = url.rpartition("/")[2]
        return [each for each in logged if authority in each.target.split("/")]

    def _configuration(self) -> str:
        folder = self._folder
        return f"""
            http_port 127.0.0.1:{self.port}
            visible_hostname squid.test
            cache_effective_user proxy
            pid_filename {folder}/squid.pid
            cache_log {folder}/cache.log
            coredump_dir {folder}
            netdb_filename none
            logformat asked %>p %[un %rm %ru %>Hs
            access_log stdio:{folder}/access.log asked
            strip_query_terms off
            cache deny all
            cache_mem 1 MB
            memory_cache_shared off
            max_filedescriptors 1024
            pinger_enable off
            dns_nameservers 127.0.0.1
            shutdown_lifetime 0 seconds
            auth_param basic program {HELPER} {folder}/passwords
            auth_param basic children 2 startup=1
            auth_param basic realm test
            acl known proxy_auth REQUIRED
            http_access allow known
            http_access deny all
        """

    def _is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: squid and its helpers, no one else
            self._process.wait()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method", "requests_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def squid() -> Iterator[Squid]:
    """Started once."""
    with Squid() as squid:
        yield squid


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


# --- plain http ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_squid_forwards(method: str, squid: Squid, server: EchoServer, session: Session) -> None:
    """As whoever the proxy's URL says; the server sees neither user nor password."""
    body = b"body" if method in ("POST", "PUT") else b""  # with others squid wants none
    response = session.request(method, server.url + "/a?b=c", data=body, proxies=squid.through())

    assert response.status_code == 200
    assert (server.seen[0].method, server.seen[0].target, server.seen[0].body) == (method, "/a?b=c", body)
    assert "squid" in (server.seen[0].header("via") or "")
    assert server.seen[0].header("proxy-authorization") is None
    eventually(lambda: squid.logged(server.url))
    assert [(each.user, each.method, each.target, each.status) for each in squid.logged(server.url)] == [
        ("ada", method, f"{server.url}/a?b=c", 200)
    ]


@pytest.mark.parametrize("userinfo", ["", "ada:wrong@", "eve:s3cr%40t@"])
def test_squid_wants_to_know_who_asks(userinfo: str, squid: Squid, server: EchoServer, session: Session) -> None:
    """407 is an answer like any other, as in requests; the server is not asked."""
    response = session.get(server.url, proxies=squid.through(userinfo))

    assert response.status_code == 407
    assert response.headers["proxy-authenticate"] == 'Basic realm="test"'
    assert server.seen == []


def test_squid_says_that_the_server_is_not_there(squid: Squid, session: Session) -> None:
    """For plain http it is an answer, squid's own."""
    assert session.get("http://127.0.0.1:1/", proxies=squid.through()).status_code == 503


def test_threads_share_the_connections_to_squid(squid: Squid, server: EchoServer) -> None:
    """A hundred requests by eight threads over at most three connections, as squid counted them."""
    with SessionPool(limits=Limits(per_host=3), proxies=squid.through(), workers=8) as pool:
        statuses = list(pool.map(lambda session, path: session.get(server.url + path).status_code, ["/a"] * 100))
        opened = pool.stats().opened

    assert statuses == [200] * 100
    eventually(lambda: len(squid.logged(server.url)) == 100)
    assert len({each.port for each in squid.logged(server.url)}) == opened <= 3


def test_chunks_and_large_bodies_pass(squid: Squid, server: EchoServer, session: Session) -> None:
    """Both ways."""
    body = bytes(range(256)) * 4096
    session.proxies = squid.through()
    whole = session.post(server.url, data=body)
    pieces = session.post(server.url, data=iter([body[:1000], body[1000:]]))

    assert [answer.json()["body"].encode("latin-1") == body for answer in (whole, pieces)] == [True, True]


# --- https ---


def test_squid_opens_one_tunnel_for_many_requests(
    squid: Squid, secure: EchoServer, ca_file: str, session: Session
) -> None:
    """CONNECT once, with the password; what is asked in the tunnel squid does not see."""
    session.verify, session.proxies = ca_file, squid.through()
    for number in range(10):
        assert session.get(f"{secure.url}/secret/{number}").ok
    session.close()

    assert (secure.accepted, len(secure.seen)) == (1, 10)
    assert {seen.header("proxy-authorization") for seen in secure.seen} == {None}
    eventually(lambda: squid.logged(secure.url))
    assert [(each.user, each.method, each.target, each.status) for each in squid.logged(secure.url)] == [
        ("ada", "CONNECT", f"127.0.0.1:{secure.port}", 200)
    ]


@pytest.mark.parametrize("userinfo", ["", "ada:wrong@"])
def test_squid_opens_no_tunnel_for_strangers(
    userinfo: str, squid: Squid, secure: EchoServer, ca_file: str, session: Session
) -> None:
    """ProxyError with 407, no password in it; nothing was sent."""
    with pytest.raises(exceptions.ProxyError, match="407") as caught:
        session.post(secure.url, data=b"x", proxies=squid.through(userinfo), verify=ca_file)

    assert caught.value.status == 407
    assert isinstance(caught.value, exceptions.NotSent)
    assert f"{secure.url} via {squid.url}" in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert secure.accepted == 0


def test_squid_cannot_reach_the_server(squid: Squid, session: Session) -> None:
    """ProxyError with what squid answered."""
    with pytest.raises(exceptions.ProxyError, match="503") as caught:
        session.get("https://127.0.0.1:1/", proxies=squid.through())

    assert caught.value.status == 503


# --- a login and a crawl, over TLS, with a client's certificate ---


PAGES = 31


class Application(EchoServer):
    """Lets in whoever fills in the form, and gives them a cookie by which nginx knows them.

    Attributes:
        logins: How often somebody came in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logins: list[str] = []
        self.answers["/login"] = self._log_in

    def _log_in(self, seen: Seen) -> Answer:
        if seen.method != "POST" or seen.body != b"user=ada&password=p%40ss":
            return Answer(b"<form method=post><input name=user><input name=password></form>", 403)
        self.logins.append(seen.header("x-client") or "")
        cookie = f"sid={SESSION_COOKIE}; Path=/; Secure; HttpOnly; SameSite=Lax"
        return redirect("/private/0.html", 303, ("Set-Cookie", cookie))


@attrs.frozen
class House:
    """A site that lets nobody in without a certificate, and nobody far without a login.

    Attributes:
        nginx: Serves it.
        application: Behind that, keeps the door.
        cert: A certificate that is let in, and its key.
        url: Where it is.
    """

    nginx: Nginx
    application: Application
    cert: str

    @property
    def url(self) -> str:
        return self.nginx.tls_url

    @property
    def ca_file(self) -> str:
        return str(self.nginx.ca_file)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if find_nginx() is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    pages = tmp_path / "site" / "private"
    pages.mkdir(parents=True)
    for number in range(PAGES):
        links = [f"<a href='{child}.html'>{child}</a>" for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
        (pages / f"{number}.html").write_text(f"<title>Page {number}</title><a href='/private/0.html'>0</a>{links}")
    clients = trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    clients.issue_cert("ada@example.com", common_name="ada").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "ada.pem")
    )
    with Application() as application:
        directives = f"""
            ssl_client_certificate "{tmp_path}/clients.pem"; ssl_verify_client on;
            location = /login {{ proxy_pass {application.url}; proxy_set_header X-Client $ssl_client_s_dn; }}
            location /private/ {{ if ($cookie_sid != "{SESSION_COOKIE}") {{ return 302 /login; }} }}
        """
        with Nginx(tmp_path / "site", tls=True, log=True, directives=directives) as nginx:
            yield House(nginx, application, str(tmp_path / "ada.pem"))


def links(url: str, page: str) -> set[str]:
    return {urljoin(url, piece.partition("'")[0]) for piece in page.split("href='")[1:]}


def log_in(session: Session, house: House) -> None:
    """By the form, from the page that asks for it."""
    asked = session.get(house.url + "/private/7.html")
    assert (asked.url, asked.status_code) == (house.url + "/login", 403)
    answer = session.post(asked.url, data={"user": "ada", "password": "p@ss"})
    assert (answer.url, answer.status_code) == (house.url + "/private/0.html", 200)


def test_a_login_and_a_crawl_through_squid(squid: Squid, house: House) -> None:
    """Four threads log in by the form and fetch every page once, through squid with a password, over TLS, with a
    client's certificate: so say squid, nginx and the application."""

    def fetch(session: Session, url: str) -> tuple[str, int, str]:
        if "sid" not in session.cookies:
            log_in(session, house)
        response = session.get(url)
        return response.url, response.status_code, response.text

    found = frontier = {house.url + "/private/0.html"}
    pages: dict[str, str] = {}
    with SessionPool(
        limits=Limits(per_host=3), proxies=squid.through(), verify=house.ca_file, cert=house.cert, workers=4
    ) as pool:
        while frontier:
            linked: set[str] = set()
            for url, status, page in pool.map(fetch, sorted(frontier)):
                assert status == 200
                pages[url] = page
                linked |= links(url, page)
            frontier = linked - found
            found = found | linked
        stats = pool.stats()
    requests = list(house.nginx.requests())
    sessions = len(house.application.logins)

    assert sorted(pages) == sorted(f"{house.url}/private/{number}.html" for number in range(PAGES))
    assert all(f"<title>Page {url.rpartition('/')[2].removesuffix('.html')}<" in page for url, page in pages.items())
    assert 1 <= sessions <= 4 * 5  # the workers of each level are new threads
    assert {"CN=ada" in name for name in house.application.logins} == {True}
    assert Counter(request.status for request in requests) == {
        200: PAGES + sessions,
        302: sessions,
        403: sessions,
        303: sessions,
    }
    assert {request.scheme for request in requests} == {"https"}
    assert stats.peak <= 3
    eventually(lambda: len(squid.logged(house.url)) == stats.opened)
    assert {(each.user, each.method, each.target, each.status) for each in squid.logged(house.url)} == {
        ("ada", "CONNECT", house.url.removeprefix("https://"), 200)
    }
    assert len({request.connection for request in requests}) == stats.opened


def test_without_the_certificate_nobody_gets_to_the_door(squid: Squid, house: House) -> None:
    """nginx says so in its own words; the application is not asked."""
    with Session() as session:
        response = session.get(house.url + "/login", proxies=squid.through(), verify=house.ca_file)

    assert response.status_code == 400
    assert "No required SSL certificate was sent" in response.text
    assert house.application.seen == []


@pytest.mark.parametrize("with_cookie", [True, False])
def test_the_command_crawls_through_squid(
    with_cookie: bool, squid: Squid, house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Proxy and authority from the environment, the certificate by an option: the same crawl by the command."""
    monkeypatch.setenv("HTTPS_PROXY", squid.through()["all"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", house.ca_file)
    cookie = ["--header", f"Cookie: sid={SESSION_COOKIE}"] if with_cookie else []
    start = f"{house.url}/private/0.html"
    code = main(["crawl", start, "--cert", house.cert, "--workers", "4", "--per-host", "3", *cookie])
    out, said = capfd.readouterr()

    assert ("s3cr" in out + said, "ada:" in out + said) == (False, False)
    assert (code, out.count("\n")) == ((0, PAGES) if with_cookie else (1, 2))
    eventually(lambda: squid.logged(house.url))
    assert {(each.user, each.method, each.status) for each in squid.logged(house.url)} == {("ada", "CONNECT", 200)}
    assert len(squid.logged(house.url)) <= 3
    assert sum(request.target.startswith("/private/") for request in house.nginx.requests()) == (
        PAGES if with_cookie else 1
    )
