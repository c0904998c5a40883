"""`sessionpool crawl` against whole sites: each reachable page exactly once, by no more connections than allowed."""

from __future__ import annotations

import http.client
import itertools
import json
import mimetypes
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

import sessionpool
from loadtests.servers import Nginx, find_nginx
from tests.cli.small_site import Site, busy

ROOT = Path(sessionpool.__file__).parents[1]
PYTHON_DOC = Path("/usr/share/doc/python3.11/html")
POSTGRESQL_DOC = Path("/usr/share/doc/postgresql-doc-15/html")

needs_nginx = [
    pytest.mark.needs_nginx,
    pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed (Debian: nginx-light)"),
]


def installed(tree: Path, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not tree.exists(), reason=f"{tree} is missing (Debian: {package})")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of 300 pages in 20 directories, linked at random in many spellings, with files and broken links."""
    root = tmp_path_factory.mktemp("site")
    chance = random.Random(15)
    names = [f"d{n % 20}/page {n}é.html" for n in range(300)]
    for name in ["index.html", *names]:
        links = []
        for target in chance.sample(names, 6):
            encoded = target.replace(" ", "%20")
            links.append(
                chance.choice([
                    f"/{target}", f"/{encoded}#part", f"/./x/../{encoded}", f"/%64{encoded[1:]}", f"//HOST/{target}"
                ])
            )  # fmt: skip
        up = "" if name == "index.html" else "../"
        body = "".join(f"<p><a href='{link}'>to</a>" for link in links)
        extra = f"<a href='{up}data.bin'>file</a> <a href='mailto:a@b'>mail</a> <a href='{up}gone.html'>broken</a>"
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"<!doctype html><meta charset=utf-8><a href='{up}index.html'>home</a>{body}{extra}")
    (root / "data.bin").write_bytes(bytes(100_000))
    return root


class Files:
    """A directory served by threads, which counts requests and open connections exactly.

    Attributes:
        url: The server.
        asked: How often each path was asked for.
        times: When requests came.
        peak: The most connections that were open at once.
    """

    def __init__(self, root: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.peak = 0
        count = 0
        lock = threading.Lock()
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                nonlocal count
                super().setup()
                with lock:
                    count += 1
                    files.peak = max(files.peak, count)

            def finish(self) -> None:
                nonlocal count
                with lock:
                    count -= 1
                super().finish()

            def do_GET(self) -> None:
                with lock:
                    files.asked[self.path] += 1
                    files.times.append(time.monotonic())
                file = root / unquote(urlsplit(self.path).path).lstrip("/")
                status, body = (200, file.read_bytes()) if file.is_file() else (404, b"gone")
                if file.suffix == ".html":
                    body = body.replace(b"//HOST/", f"//127.0.0.1:{files.port}/".encode())
                self.send_response(status)  # not send_error, which would close the connection
                self.send_header("Content-Type", mimetypes.guess_type(file.name)[0] or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(root: Path) -> Iterator[Files]:
    files = Files(root)
    thread = threading.Thread(target=files.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield files
    finally:
        files.server.shutdown()
        thread.join()
        files.server.server_close()


class _Links(HTMLParser):
    """The links of a page, by Python's own parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        wanted = {"a": "href", "area": "href", "iframe": "src", "frame": "src"}.get(tag)
        if tag == "link" and {"next", "prev"} & set((values.get("rel") or "").lower().split()):
            wanted = "href"
        if wanted is not None and (value := values.get(wanted)) is not None:
            self.found.append(value.strip())


def walk(url: str, path: str) -> dict[str, int]:
    """The status of each page that can be reached: one after the other, with the standard library alone."""
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    statuses: dict[str, int] = {}
    to_do = [path]
    known = {path}
    while to_do:
        here = to_do.pop()
        connection.request("GET", here)
        response = connection.getresponse()
        body = response.read()
        statuses[here] = response.status
        if response.status != 200 or response.headers.get_content_type() != "text/html":
            continue
        for link in set(_Links(body.decode("utf-8", "replace")).found):
            target = urlsplit(urldefrag(urljoin(url + here, link))[0])
            if (target.scheme, target.netloc.lower()) != ("http", host):
                continue
            # Compared as the files they are, so that how a URL is spelled is not this walk's to decide.
            there = unquote(target.path) or "/"
            there = os.path.normpath(there) + ("/" if there.endswith("/") and there != "/" else "")
            if there not in known:
                known.add(there)
                to_do.append("".join(c if c.isascii() and c != " " else _percent(c) for c in there))
    connection.close()
    return {unquote(page): status for page, status in statuses.items()}


def _percent(character: str) -> str:
    return "".join(f"%{octet:02X}" for octet in character.encode())


def crawl(url: str, out: Path, *options: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; its exit code, its lines and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "sessionpool", "crawl", url, "--out", str(out), *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ended.returncode, [json.loads(line) for line in out.read_text().splitlines()], ended.stderr


def by_path(url: str, lines: list[dict[str, Any]]) -> dict[str, int]:
    """Status by path, after making sure that no page has two lines and none failed without an answer."""
    assert Counter(line["url"] for line in lines).most_common(1)[0][1] == 1
    assert [line for line in lines if line["error"] is not None] == []
    return {unquote(line["url"].removeprefix(url)): line["status"] for line in lines}


@pytest.mark.parametrize("per_host", [1, 8])
def test_a_generated_site_is_crawled_exactly_once(generated: Path, tmp_path: Path, per_host: int) -> None:
    """However its links are spelled, each page of a site is fetched once, by at most --per-host connections."""
    with serving(generated) as files:
        expected = walk(files.url, "/index.html")
        files.asked.clear()
        files.peak = 0
        code, lines, _ = crawl(f"{files.url}/index.html", tmp_path / "out", "--workers", 32, "--per-host", per_host)

    assert by_path(files.url, lines) == expected
    assert len(expected) > 290
    assert set(files.asked.values()) == {1}
    assert len(files.asked) == len(lines) + 1  # robots.txt
    assert files.peak <= per_host
    assert [line["url"] for line in lines if line["status"] == 404] == [f"{files.url}/gone.html"]
    assert code == 1


@installed(PYTHON_DOC, "python3.11-doc")
def test_the_python_documentation_is_crawled_exactly_once(tmp_path: Path) -> None:
    """Of a real site of 530 pages each reachable one has one line, the same as an independent walk finds, and its
    one broken link is reported with the page it is on."""
    with serving(PYTHON_DOC) as files:
        expected = walk(files.url, "/index.html")
        files.asked.clear()
        files.peak = 0
        code, lines, said = crawl(f"{files.url}/index.html", tmp_path / "out", "--workers", 32, "--per-host", 8)

    assert by_path(files.url, lines) == expected
    assert set(files.asked.values()) == {1}
    assert files.peak <= 8
    (missing,) = (line for line in lines if line["status"] != 200)
    assert missing["url"] == f"{files.url}/whatsnew/changelog.html"
    assert f"failed: {missing['url']}, linked from {missing['referrer']}: status 404" in said
    assert code == 1


@pytest.mark.parametrize(
    ("tree", "least", "missing"),
    [
        pytest.param(
            PYTHON_DOC,
            500,
            ["/whatsnew/changelog.html"],
            marks=[*needs_nginx, installed(PYTHON_DOC, "python3.11-doc")],
            id="python3.11-doc",
        ),
        pytest.param(
            POSTGRESQL_DOC,
            1100,
            [],
            marks=[*needs_nginx, installed(POSTGRESQL_DOC, "postgresql-doc-15")],
            id="postgresql-doc-15",
        ),
    ],
)
def test_a_site_of_nginx_is_crawled_exactly_once(tree: Path, least: int, missing: list[str], tmp_path: Path) -> None:
    """nginx is asked once for each page that has a line, and never has more than --per-host connections open."""
    with Nginx(root=tree, log=True) as nginx:
        code, lines, _ = crawl(f"{nginx.url}/index.html", tmp_path / "out", "--workers", 32, "--per-host", 8)
        asked = list(nginx.requests())
        peak = nginx.peak()

    pages = by_path(nginx.url, lines)
    assert len(pages) > least
    assert [page for page, status in pages.items() if status != 200] == missing
    assert sorted(unquote(request.target) for request in asked) == sorted([*pages, "/robots.txt"])
    assert peak <= 8
    assert len({request.connection for request in asked}) <= 8
    assert code == (1 if missing else 0)


# --- pace ---


def row(root: Path, number: int, robots: str = "") -> Path:
    """A site whose start page leads to so many pages."""
    (root / "index.html").write_text("".join(f"<a href='/{n}.txt'>" for n in range(number)))
    for n in range(number):
        (root / f"{n}.txt").write_text(f"page {n}")
    if robots:
        (root / "robots.txt").write_text(robots)
    return root


# What the server sees of a pace jitters by what a busy machine takes to pass a request on; the sum of all pauses does
# not, but for the first and the last.
JITTER = 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robots", "options"),
    [
        ("User-agent: *\nCrawl-delay: 0.1", ()),
        ("", ("--rate", 10)),
        ("User-agent: *\nCrawl-delay: 0.1", ("--rate", 1000)),
        ("User-agent: *\nCrawl-delay: 0.001", ("--rate", 10)),
    ],
    ids=["crawl-delay", "rate", "crawl-delay is stricter", "rate is stricter"],
)
def test_a_pace_is_kept_by_all_workers_together(tmp_path: Path, robots: str, options: tuple[object, ...]) -> None:
    """However many workers and connections there are, pages come no faster than robots.txt and the user allow."""
    with serving(row(tmp_path, 15, robots)) as files:
        code, lines, _ = crawl(f"{files.url}/index.html", tmp_path / "out", "--workers", 32, *options)
        pages = files.times[1:]  # robots.txt goes before anything is known

    assert len(lines) == len(pages) == 16
    assert pages[-1] - pages[0] >= 15 * 0.1 - JITTER
    assert all(line["seconds"] < 1 for line in lines)  # of which waiting for the turn, up to 1.5 s, is no part
    assert code == 0


@pytest.mark.slow
def test_a_throttled_crawl_begins_slowly(tmp_path: Path) -> None:
    """With --throttle requests begin a second apart, and come faster as the host proves quick."""
    with serving(row(tmp_path, 2)) as files:
        code, lines, _ = crawl(f"{files.url}/index.html", tmp_path / "out", "--throttle")
        robots, first, _, last = files.times

    assert len(lines) == 3
    assert first - robots >= 1 - JITTER
    assert last - robots >= 1 + 0.5 + 0.25 - JITTER
    assert code == 0


@pytest.mark.slow
def test_a_host_that_asks_to_wait_is_left_alone_by_all(tmp_path: Path) -> None:
    """After a 429 with Retry-After no worker asks the host before that is over; then every page is fetched."""
    site = Site()
    site.pages["/"] = "".join(f"<a href='/{n}'>" for n in range(50))
    site.pages |= {f"/{n}": "well" for n in range(50)}
    site.first["/7"] = [busy(429, 1)]
    try:
        code, lines, said = crawl(site.url, tmp_path / "out", "--workers", 8)
        asked, times = site.asked, site.times
    finally:
        site.close()
    refused = times[asked.index("/7")]
    quiet = max(later - earlier for earlier, later in itertools.pairwise(times))

    assert quiet >= 1 - JITTER
    assert len([at for at in times if refused < at < refused + 1 - JITTER]) <= 8  # while the refusal was on its way
    assert len(lines) == 51
    assert next(line["attempts"] for line in lines if line["url"].endswith("/7")) == 2
    assert "tried again: 1 retry, hosts asked to wait 1 time" in said
    assert code == 0
