"""Against a real nginx, which counts requests and connections itself."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from loadtests.servers import Nginx, find_nginx, json_document
from sessionpool import Limits, Session, SessionPool, exceptions
from tests.helpers import eventually, in_thread

pytestmark = [
    pytest.mark.needs_nginx,
    pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed (Debian: nginx-light)"),
]

TEXT = "".join(f"Line {number}: Grüße aus der Datei.\n" for number in range(3000))
DOCUMENT = json_document(1024)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to serve."""
    root = tmp_path_factory.mktemp("site")
    (root / "index.html").write_text("<title>Home</title>", "utf-8")
    (root / "text.txt").write_text(TEXT, "utf-8")
    (root / "empty.txt").touch()
    (root / "bytes.bin").write_bytes(bytes(range(256)) * 8192)
    (root / "with space ü.txt").write_text("found", "utf-8")
    (root / "sub").mkdir()
    (root / "sub" / "index.html").write_text("<title>Sub</title>", "utf-8")
    return root


@pytest.fixture(scope="module")
def nginx(site: Path) -> Iterator[Nginx]:
    """Serves the directory, compresses, and speaks TLS too."""
    directives = """
        gzip on; gzip_min_length 1; gzip_types text/plain; charset utf-8;
        location = /upload { client_max_body_size 100m; return 200; }
        location = /return-to { return 302 /text.txt?seen; }
        location = /body { client_max_body_size 1k; return 200; }
        location /old/ { return 308 /text.txt; }
    """
    with Nginx(site, documents={"/doc.json": DOCUMENT}, tls=True, log=True, directives=directives) as nginx:
        yield nginx


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        session.trust_env = False
        yield session


def test_static_files(nginx: Nginx, site: Path, session: Session) -> None:
    """Every file comes back as it lies there."""
    for path in ("index.html", "text.txt", "empty.txt", "bytes.bin"):
        response = session.get(f"{nginx.url}/{path}")

        assert response.status_code == 200
        assert response.content == (site / path).read_bytes()
    assert session.get(nginx.url + "/with space ü.txt").text == "found"
    assert session.get(nginx.url + "/missing").status_code == 404


def test_text_and_its_charset(nginx: Nginx, session: Session) -> None:
    """nginx names the charset, and text comes right."""
    response = session.get(nginx.url + "/text.txt")

    assert response.encoding == "utf-8"
    assert response.text == TEXT


def test_gzip(nginx: Nginx, session: Session) -> None:
    """Asked for by default, decoded on the way; the connection is used again behind it."""
    response = session.get(nginx.url + "/text.txt")
    plain = session.get(nginx.url + "/text.txt", headers={"Accept-Encoding": "identity"})
    again = session.get(nginx.url + "/text.txt", stream=True)

    assert response.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert response.content == plain.content == TEXT.encode()
    assert b"".join(again.iter_content(1000)) == TEXT.encode()
    assert session._transport.stats().opened == 1


def test_gzip_as_it_came(nginx: Nginx, session: Session) -> None:
    """`raw`, not told to decode, has what came over the wire, as in requests."""
    with session.get(nginx.url + "/text.txt", stream=True) as response:
        assert gzip.decompress(response.raw.read(decode_content=False)) == TEXT.encode()


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "length"),
    [
        ("bytes=0-9", 206, "bytes 0-9/2097152", 10),
        ("bytes=2097150-", 206, "bytes 2097150-2097151/2097152", 2),
        ("bytes=-3", 206, "bytes 2097149-2097151/2097152", 3),
        ("bytes=9999999-", 416, "bytes */2097152", None),
    ],
)
def test_a_range(
    asked: str, status: int, content_range: str, length: int | None, nginx: Nginx, site: Path, session: Session
) -> None:
    """A part of a file is that part, and no more."""
    response = session.get(nginx.url + "/bytes.bin", headers={"Range": asked})

    assert response.status_code == status
    assert response.headers["content-range"] == content_range
    if length is not None:
        start = int(content_range[6:].partition("-")[0])
        assert response.content == (site / "bytes.bin").read_bytes()[start : start + length]


def test_head_and_not_modified(nginx: Nginx, session: Session) -> None:
    """Answers without a body leave the connection ready for the next."""
    head = session.head(nginx.url + "/bytes.bin")
    unchanged = session.get(nginx.url + "/bytes.bin", headers={"If-None-Match": head.headers["etag"]})

    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "2097152")
    assert parsedate_to_datetime(head.headers["last-modified"])
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert session.get(nginx.url + "/doc.json").content == DOCUMENT
    assert session._transport.stats().opened == 1


def test_redirects_of_nginx(nginx: Nginx, session: Session) -> None:
    """A directory without its slash, a 302 with a query, a 308: where nginx says."""
    assert session.get(nginx.url + "/sub").url == nginx.url + "/sub/"
    assert session.get(nginx.url + "/return-to").url == nginx.url + "/text.txt?seen"
    assert session.get(nginx.url + "/old/page").url == nginx.url + "/text.txt"


def test_a_body_that_nginx_does_not_want(nginx: Nginx, session: Session) -> None:
    """413 while the body is still being sent: the answer is read, not lost in a broken pipe."""
    response = session.post(nginx.url + "/body", data=b"x" * 5_000_000)

    assert response.status_code == 413
    assert session.get(nginx.url + "/doc.json").content == DOCUMENT


def test_bodies_go_up(nginx: Nginx, session: Session) -> None:
    """A large body, whole or in chunks, is read to its end by nginx; the connection stays."""
    for data in (b"x" * 3_000_000, iter([b"y" * 1_000_000] * 3), b"z"):
        assert session.put(nginx.url + "/upload", data=data).status_code == 200

    assert session._transport.stats().opened == 1


def test_a_connection_of_few_requests(site: Path) -> None:
    """nginx closes after 5 requests: each request is answered and sent once, connections are used to the last."""
    with Nginx(site, log=True, keepalive_requests=5) as nginx, SessionPool(limits=Limits(per_host=4)) as pool:
        statuses = Counter(
            pool.map(lambda session, _: session.get(nginx.url + "/empty.txt").status_code, range(500), workers=16)
        )
        for _ in range(20):
            statuses[pool.post(nginx.url + "/empty.txt", data=b"x").status_code] += 1  # 405, for it is a file
        requests = list(nginx.requests())
        stats = pool.stats()

        assert statuses == {200: 500, 405: 20}
        assert len(requests) == 520
        assert max(request.nth for request in requests) == 5
        assert max(Counter(request.connection for request in requests).values()) == 5
        assert len({request.connection for request in requests}) == stats.opened
        assert 104 <= stats.opened <= 104 + 4
        assert stats.opened + stats.reused == 520


def test_a_connection_that_nginx_closed_while_idle(site: Path) -> None:
    """Whatever lay idle too long for nginx is noticed, and a POST goes over a new connection without an error."""
    with Nginx(site, keepalive_timeout=1) as nginx, SessionPool() as pool:
        assert pool.get(nginx.url + "/empty.txt").ok
        eventually(lambda: nginx.status().active == 0)
        response = pool.post(nginx.url + "/empty.txt", data=b"x")
        stats = pool.stats()

    assert response.status_code == 405
    assert (stats.opened, stats.reused) == (2, 0)


def test_32_threads(nginx: Nginx) -> None:
    """32 threads over 8 connections: nginx never has a ninth, and all bodies are right."""
    before = nginx.status()
    wanted = {"/doc.json": DOCUMENT, "/text.txt": TEXT.encode(), "/empty.txt": b""}
    start = threading.Barrier(32)

    def work(number: int) -> int:
        start.wait(20)
        good = 0
        for turn in range(50):
            path = list(wanted)[(number + turn) % 3]
            good += pool.get(nginx.url + path).content == wanted[path]
        return good

    with SessionPool(limits=Limits(per_host=8)) as pool:
        calls = [in_thread(work, number) for number in range(32)]
        good = sum(call.get() for call in calls)
        after = nginx.status()
        stats = pool.stats()
    mine = [request for request in nginx.requests() if request.target in wanted][-1600:]

    assert good == 1600
    assert after.requests - before.requests == 1600
    assert after.accepted - before.accepted == stats.opened == 8
    assert max(max(request.open_at_start, request.open_at_end) for request in mine) <= 8
    assert len({request.connection for request in mine}) == 8


def test_tls(nginx: Nginx, session: Session) -> None:
    """With nginx's authority the certificate is good, without it is not; connections are used again."""
    session.verify = str(nginx.ca_file)
    for _ in range(3):
        assert session.get(nginx.tls_url + "/text.txt").text == TEXT
    assert session.get(nginx.tls_url.replace("127.0.0.1", "localhost") + "/doc.json").content == DOCUMENT

    assert session._transport.stats().opened == 2
    with pytest.raises(exceptions.SSLError, match="certificate"):
        session.get(nginx.tls_url, verify=True)


def test_tls_for_many_threads(nginx: Nginx) -> None:
    """32 threads over TLS and 4 connections: four handshakes for 320 requests."""
    with SessionPool(limits=Limits(per_host=4), verify=str(nginx.ca_file), trust_env=False) as pool:
        bodies = list(
            pool.map(lambda session, _: session.get(nginx.tls_url + "/doc.json").content, range(320), workers=32)
        )
        stats = pool.stats()

    assert bodies == [DOCUMENT] * 320
    assert stats.opened <= 4


def test_plain_http_to_the_tls_port(nginx: Nginx, session: Session) -> None:
    """nginx says what was wrong, and so do we the other way round."""
    assert session.get(nginx.tls_url.replace("https", "http")).status_code == 400
    with pytest.raises(exceptions.SSLError):
        session.get(nginx.url.replace("http", "https"))


def test_an_nginx_that_is_gone(site: Path) -> None:
    """A server that ends between two requests is a ConnectError, also for the connections that lay idle."""
    with SessionPool() as pool:
        with Nginx(site) as nginx:
            assert pool.get(nginx.url + "/empty.txt").ok
        with pytest.raises(exceptions.ConnectError, match="refused"):
            pool.get(nginx.url + "/empty.txt")
        stats = pool.stats()

    assert (stats.leased, stats.idle) == (0, 0)
