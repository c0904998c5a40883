"""The benchmark measures what it says, and its nginx counts what it says. No figure is judged here."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from loadtests import peers
from loadtests.servers import Nginx, NginxError, find_nginx, json_document

ROOT = Path(__file__).resolve().parents[2]
SMALL = json_document(1024)


def needs_nginx(test: Any) -> Any:
    """Mark a test that runs a real nginx, and skip it where there is none."""
    missing = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed: apt-get install nginx-light")
    return pytest.mark.needs_nginx(missing(test))


def run_peers(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.peers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@needs_nginx
def test_a_small_run_prints_a_table_and_saves_json_and_markdown(tmp_path: Path) -> None:
    """Each client gets one row per case, with figures and with ratios to urllib3 and to the floor."""
    clients = {"raw": "raw sockets (floor)", "urllib3": "urllib3", "sessionpool": "sessionpool, leased"}
    ended = run_peers(
        *("--clients", ",".join(clients), "--cases", "http1k,cookies", "--threads", "1"),
        *("--rounds", "1", "--requests", "40", "--out", str(tmp_path)),
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(ended.stdout.count(f"\n{name} ") == 2 for name in clients.values()), ended.stdout
    saved = json.loads((tmp_path / "peers.json").read_text("utf-8"))
    assert {(row["case"], row["client"]) for row in saved["rows"]} == {
        (case, client) for case in ("http1k", "cookies") for client in clients
    }
    for row in saved["rows"]:
        assert min(row["cpu"], row["rate"], row["p50"], row["p99"], *row["to_urllib3"], *row["to_floor"]) > 0
        assert row["connections"] == 1
    assert [each["measured"]["requests"] for each in saved["measurements"]] == [40] * 6
    assert saved["versions"]["urllib3"]
    assert str(tmp_path) not in saved["command"]
    page = (tmp_path / "peers.md").read_text("utf-8")
    assert all(f"| {name} | " in page for name in clients.values())


@needs_nginx
def test_threads_share_fewer_connections_when_told_to(tmp_path: Path) -> None:
    """With --connections 2, the server sees two; a client that cannot is left out and that is said."""
    ended = run_peers(
        *("--clients", "raw,urllib3,pycurl", "--cases", "http1k", "--threads", "4", "--connections", "2"),
        *("--rounds", "1", "--requests", "80", "--out", str(tmp_path)),
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    saved = json.loads((tmp_path / "peers.json").read_text("utf-8"))
    assert {row["client"]: row["connections"] for row in saved["rows"]} == {"raw": 2, "urllib3": 2}
    assert any(note.startswith("pycurl left out") for note in saved["notes"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--clients", "raw,netscape"], "unknown: netscape; there are raw, sessionpool"),
        (["--cases", "gopher"], "unknown: gopher; there are http1k"),
        (["--threads", "0"], "at least 1, not '0'"),
        (["--rounds", "many"], "at least 1, not 'many'"),
        (["--seconds", "nan"], "seconds above 0"),
        (["--seconds", "1", "--requests", "9"], "not allowed with"),
        (["--out", "/dev/null/results"], "cannot write to /dev/null/results"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured, the message says what is wrong and what there is."""
    with pytest.raises(SystemExit) as ended:
        peers.main(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_client_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out with the command that installs it."""
    monkeypatch.setitem(sys.modules, "httpx", None)  # what Python itself takes for "cannot be imported"

    assert peers.why_not("httpx") == "httpx is not installed: pip install 'sessionpool[peers]'"
    assert peers.why_not("raw") is None


class Replies:
    """Stands in for a client where only the fields of a reply, a dict here, are read."""

    def field(self, response: dict[str, str], name: str) -> str | None:
        return response.get(name)


def tally(case: str, *, exact: bool = True) -> peers.Tally:
    client: Any = Replies()
    return peers.Tally(client, peers.CASES[case], exact=exact, least=10, seconds=0.0, every=1)


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (404, SMALL, "status 404"),
        (200, SMALL[:-1], "1023 bytes"),
        (200, b"x" * 1024, "not the bytes that were sent"),
    ],
)
def test_a_wrong_answer_is_an_error_not_a_figure(status: int, body: bytes, complaint: str) -> None:
    """A client that is fast because it returns something else gets no row."""
    with pytest.raises(peers.WrongAnswerError, match=complaint):
        tally("http1k").take(status, body, {})


@pytest.mark.parametrize(
    ("exact", "back", "wrong"),
    [
        (True, "one", False),
        (True, "other", True),
        (True, None, True),
        (False, "other", False),
        (False, None, True),
    ],
)
def test_the_cookie_has_to_come_back(exact: bool, back: str | None, wrong: bool) -> None:
    """The very value where each worker has its own jar, any value where all share one."""
    taker = tally("cookies", exact=exact)
    taker.take(200, SMALL, {"Set-Cookie": "x=one; Path=/"})
    second = {"Set-Cookie": "x=two; Path=/"} | ({} if back is None else {"X-Cookie-Back": back})

    if wrong:
        with pytest.raises(peers.WrongAnswerError, match="cookie"):
            taker.take(200, SMALL, second)
    else:
        assert taker.take(200, SMALL, second)


@pytest.mark.parametrize("size", [40, 64, 123, 1024, 5000, 102_400])
def test_json_documents_have_exactly_the_size_asked_for(size: int) -> None:
    """And they are JSON, the same every time."""
    document = json_document(size)

    assert len(document) == size
    assert json.loads(document)["size"] == size
    assert document == json_document(size)


def ask(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode("ascii"))
    answer = b""
    while not answer.endswith(SMALL):
        data = connection.recv(65_536)
        assert data, "closed before the end"
        answer += data


@needs_nginx
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_nginx_counts_connections_exactly(tls: bool) -> None:
    """Open, accepted and requests are right at every instant, silent connections and closed ones included."""
    with Nginx(documents={"/a.json": SMALL}, tls=tls, log=True) as nginx, ExitStack() as cleanup:
        port = int((nginx.tls_url if tls else nginx.url).rpartition(":")[2])
        context = ssl.create_default_context(cafile=nginx.ca_file) if tls else None

        def connect() -> socket.socket:
            plain = socket.create_connection(("127.0.0.1", port))
            made = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
            return cleanup.enter_context(made)

        opened = [connect() for _ in range(5)]
        for connection in opened[:3]:
            ask(connection, "/a.json")
        first = nginx.status()
        for connection in opened[1:]:
            connection.close()
        second = nginx.status()
        ask(opened[0], "/a.json")
        ask(connect(), "/a.json")
        third = nginx.status()

        assert (first.active, first.accepted, first.requests) == (5, 5, 3)
        assert (second.active, second.accepted, second.requests) == (1, 5, 3)
        assert (third.active, third.accepted, third.requests) == (2, 6, 5)
        assert [(each.nth, each.open_at_end) for each in nginx.requests()] == [(1, 5)] * 3 + [(2, 1), (1, 2)]
        assert len({each.connection for each in nginx.requests()}) == 4
        assert nginx.peak() == 5


@needs_nginx
def test_nginx_serves_a_tree_and_documents(tmp_path: Path) -> None:
    """A directory stands for its index.html, documents lie beside the tree, large ones too."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text("<p>hello", "utf-8")
    large = json_document(102_400)
    with Nginx(tmp_path, documents={"/large": large, "/odd.txt": b"it's $5 \\ \xff"}) as nginx:
        with urlopen(nginx.url + "/sub") as page:
            assert (page.url, page.read()) == (nginx.url + "/sub/", b"<p>hello")
            assert page.headers["Content-Type"] == "text/html"
        with urlopen(nginx.url + "/large") as document:
            assert document.read() == large
            assert document.headers["Content-Type"] == "application/json"
        with urlopen(nginx.url + "/odd.txt") as document:
            assert document.read() == b"it's $5 \\ \xff"
            assert document.headers["Content-Type"] == "text/plain"


@needs_nginx
def test_nginx_that_cannot_start_says_why() -> None:
    """nginx's own words are in the error, and nothing is left running."""
    nginx = Nginx(directives="bogus on;")
    with pytest.raises(NginxError, match='unknown directive "bogus"'):
        nginx.start()
    with pytest.raises(ValueError, match="cannot express"):
        Nginx(documents={"/$a": b""})
    with pytest.raises(NginxError, match="not been started"):
        Nginx().url  # noqa: B018


@needs_nginx
def test_nginx_is_gone_when_stopped(tmp_path: Path) -> None:
    """The port refuses, the log given by path stays, stopping again is harmless."""
    log = tmp_path / "access.log"
    with Nginx(documents={"/a.json": SMALL}, log=log) as nginx, urlopen(nginx.url + "/a.json") as answer:
        assert answer.read() == SMALL
        assert [each.target for each in nginx.requests()] == ["/a.json"]
    nginx.stop()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(nginx.url.rpartition(":")[2])))
    assert json.loads(log.read_text("utf-8"))["target"] == "/a.json"
