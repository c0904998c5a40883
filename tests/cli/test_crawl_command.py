"""`sessionpool crawl` against a small site: what it fetches, writes, says and ends with."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionpool.cli._output import Page
from tests.cli.small_site import Outcome, Process, Site, busy, redirect

LINKS = (
    "<a href='/a'>1</a> <a href='/b#x'>2</a> <a href='B/../b'>3</a> <a href='/%62'>4</a> <a href='//x.invalid/'>5</a>"
)


@pytest.fixture
def shop(site: Site) -> Site:
    """A start page and two more, all well."""
    site.pages |= {"/": LINKS, "/a": "<a href='/'>home</a>", "/b": "<a href='/a'>a</a>"}
    return site


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_page_is_fetched_once(shop: Site, command: Callable[..., Outcome]) -> None:
    """Pages linked in many spellings are fetched once, other sites not at all, and the exit code is 0."""
    ended = command("crawl", shop.url)

    assert Counter(shop.asked) == {"/robots.txt": 1, "/": 1, "/a": 1, "/b": 1}
    assert {line["url"].removeprefix(shop.url) for line in ended.lines} == {"/", "/a", "/b"}
    assert all(line["status"] == 200 and line["error"] is None and line["attempts"] == 1 for line in ended.lines)
    first = ended.lines[0]
    assert (first["bytes"], first["referrer"], first["depth"]) == (len(LINKS), None, 0)
    assert first["found"] == [f"{shop.url}/a", f"{shop.url}/b"]
    assert ended.code == 0


def test_the_summary_is_said_on_standard_error(shop: Site, command: Callable[..., Outcome]) -> None:
    """Pages, statuses, connections and each failed page with its referrer are summed up, and not in the output."""
    del shop.pages["/b"]
    ended = command("crawl", shop.url, "--per-host", 1)

    assert "3 pages, " in ended.said
    assert "status: 2xx 2, 4xx 1" in ended.said
    assert "connections: at most 1 open at once, 1 opened for 4 requests (75.0% reused one)" in ended.said
    assert f"failed: {shop.url}/b, linked from {shop.url}/: status 404" in ended.said
    assert "failed" not in ended.text


def test_a_missing_page_makes_the_exit_code_1(shop: Site, command: Callable[..., Outcome]) -> None:
    """A status of 400 or more is no error of the crawl, but its exit code tells of it."""
    shop.pages["/"] = LINKS + "<a href='/gone'>"
    ended = command("crawl", shop.url)

    gone = next(line for line in ended.lines if line["status"] != 200)
    assert gone["status"] == 404
    assert gone["error"] is None
    assert gone["referrer"] == f"{shop.url}/"
    assert ended.code == 1


def test_a_body_cut_short_is_an_error(shop: Site, command: Callable[..., Outcome]) -> None:
    """A page that ends before its Content-Length is told as failed, with its status, and its links are not used."""
    shop.pages["/a"] = (
        200,
        {"Content-Type": "text/html", "Content-Length": "99", "Connection": "close"},
        b"<a href=c>",
    )
    ended = command("crawl", shop.url)

    cut = next(line for line in ended.lines if line["url"].endswith("/a"))
    assert cut["status"] == 200
    assert "99" in cut["error"]
    assert "/c" not in shop.asked
    assert ended.code == 1


def test_redirects_are_lines_of_their_own(shop: Site, command: Callable[..., Outcome]) -> None:
    """However many redirects lead to a page it is fetched once; off the site none is followed."""
    shop.pages |= {
        "/": "<a href=1><a href=2><a href=3><a href=away><a href=self>",
        "/1": redirect("/a"),
        "/2": redirect("a", 301),
        "/3": redirect("/2"),
        "/away": redirect("http://other.invalid/x"),
        "/self": redirect("/self#again"),
    }
    ended = command("crawl", shop.url)

    assert Counter(shop.asked).most_common(1)[0][1] == 1
    lines = {line["url"].removeprefix(shop.url): line for line in ended.lines}
    assert set(lines) == {"/", "/1", "/2", "/3", "/away", "/self", "/a"}
    assert lines["/1"]["status"] == 302
    assert lines["/1"]["location"] == lines["/2"]["location"] == f"{shop.url}/a"
    assert lines["/away"]["location"] == "http://other.invalid/x"
    assert lines["/away"]["error"] is None
    assert lines["/self"]["error"] == "the page redirects to itself (302)"
    assert ended.code == 1


def test_only_pages_are_parsed(shop: Site, command: Callable[..., Outcome]) -> None:
    """Links are taken from HTML and XHTML that came with a good status, not from other files or error pages."""
    link = b"<a href='/secret'>"
    shop.pages |= {
        "/": "<a href=text><a href=xhtml><a href=error>",
        "/text": (200, {"Content-Type": "text/plain"}, link),
        "/error": (404, {"Content-Type": "text/html"}, link),
        "/xhtml": (200, {"Content-Type": "application/xhtml+xml"}, b"<a href='/a'/>"),
    }
    command("crawl", shop.url)

    assert "/a" in shop.asked
    assert "/secret" not in shop.asked


def test_depth_and_limit_end_a_crawl_early(shop: Site, command: Callable[..., Outcome]) -> None:
    """--depth and --limit fetch less, and the summary says how much is left."""
    shop.pages |= {"/a": "<a href='/c'>", "/c": ""}
    near = command("crawl", shop.url, "--depth", 1)
    few = command("crawl", shop.url, "--limit", 2)

    assert len(near.lines) == 3
    assert "left: 1 URL found further away than --depth 1" in near.said
    assert len(few.lines) == 2
    assert "found and not yet fetched" in few.said
    assert near.code == few.code == 0


def test_what_is_sent_is_the_users_choice(shop: Site, command: Callable[..., Outcome]) -> None:
    """The User-Agent is the command's own or the user's; headers are sent with every request."""
    command("crawl", shop.url, "--depth", 0)
    command("crawl", shop.url, "--depth", 0, "--user-agent", "ada/1", "--header", "X-Test: 1")

    assert all(agent.startswith("sessionpool-crawl/") for agent in shop.agents[:2])
    assert shop.agents[2:] == ["ada/1", "ada/1"]


def test_no_more_connections_than_allowed(site: Site, command: Callable[..., Outcome]) -> None:
    """However many workers there are, the server never sees more than --per-host connections."""
    site.pages["/"] = "".join(f"<a href='/{n}'>" for n in range(200))
    site.pages |= {f"/{n}": "x" * 1000 for n in range(200)}
    ended = command("crawl", site.url, "--workers", 32, "--per-host", 3)

    assert len(ended.lines) == 201
    assert site.peak <= 3
    assert ended.code == 0


def test_a_page_that_fails_is_tried_again(shop: Site, command: Callable[..., Outcome]) -> None:
    """A page that goes well in the end has one line, which says how often it was tried, and is no failure."""
    shop.first["/a"] = [busy(), busy(502)]
    ended = command("crawl", shop.url)

    assert Counter(shop.asked) == {"/robots.txt": 1, "/": 1, "/a": 3, "/b": 1}
    attempts = {line["url"].removeprefix(shop.url): line["attempts"] for line in ended.lines}
    assert attempts == {"/": 1, "/a": 3, "/b": 1}
    assert "tried again: 2 retries\n" in ended.said
    assert ended.code == 0


# --- robots.txt ---


def test_robots_txt_is_obeyed(shop: Site, command: Callable[..., Outcome]) -> None:
    """What robots.txt forbids to this crawler is not fetched, counted in the summary, and no failure."""
    shop.pages["/robots.txt"] = (
        200,
        {},
        b"User-agent: *\nDisallow: /\n\nUser-agent: sessionpool-crawl\nDisallow: /b\n",
    )
    ended = command("crawl", shop.url)

    assert Counter(shop.asked) == {"/robots.txt": 1, "/": 1, "/a": 1}
    assert "left out: 1 URL that robots.txt forbids" in ended.said
    assert ended.code == 0


def test_a_forbidden_start_is_a_failure_with_a_reason(shop: Site, command: Callable[..., Outcome]) -> None:
    """When the start itself is forbidden, its line and the summary say so, and the exit code is 1."""
    shop.pages["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /")
    ended = command("crawl", shop.url)

    assert shop.asked == ["/robots.txt"]
    assert ended.lines[0]["error"] == f"{shop.url}/robots.txt forbids {shop.url}/ to sessionpool-crawl"
    assert ended.code == 1


def test_robots_txt_of_a_broken_server_forbids_all(shop: Site, command: Callable[..., Outcome]) -> None:
    """A 5xx for robots.txt, again and again, means that nothing may be fetched, and the reason is told."""
    shop.pages["/robots.txt"] = (503, {}, b"")
    ended = command("crawl", shop.url)

    assert shop.asked == ["/robots.txt"] * 3
    assert "the server answered 503, and nothing of this site may be fetched" in ended.lines[0]["error"]
    assert "tried again: 2 retries" in ended.said
    assert ended.code == 1


def test_a_resumed_crawl_without_robots_txt_fails_and_keeps_its_file(
    shop: Site, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    """When robots.txt can no longer be read, a resumed crawl fetches nothing, says why, and loses nothing."""
    out = tmp_path / "out"
    command("crawl", shop.url, "--out", out, "--limit", 1)
    before = out.read_bytes()
    shop.pages["/robots.txt"] = (500, {}, b"")
    ended = command("crawl", shop.url, "--out", out, "--resume")

    assert out.read_bytes() == before
    assert "left out: 2 URLs; " in ended.said
    assert "the server answered 500" in ended.said
    assert ended.code == 1


@pytest.mark.parametrize("status", [401, 404, 410])
def test_no_robots_txt_allows_all(shop: Site, command: Callable[..., Outcome], status: int) -> None:
    """A 4xx for robots.txt means that there are no rules."""
    shop.pages["/robots.txt"] = (status, {}, b"User-agent: *\nDisallow: /")

    assert len(command("crawl", shop.url).lines) == 3


def test_a_redirected_robots_txt_counts(shop: Site, command: Callable[..., Outcome]) -> None:
    """Redirects of robots.txt are followed."""
    shop.pages |= {"/robots.txt": redirect("/rules"), "/rules": (200, {}, b"User-agent: *\nDisallow: /a")}
    command("crawl", shop.url)

    assert "/a" not in shop.asked


@pytest.mark.parametrize(
    ("delay", "sentence"),
    [
        ("0.25", "asks for 0.25 s between requests, which is kept to: 100 pages take 25 s"),
        ("10", "asks for 10 s between requests, which is kept to: 100 pages take 16.7 min"),
        ("3600", "asks for 3600 s between requests, which is kept to: 100 pages take 4.2 days"),
        ("86400", "asks for 86400 s between requests, of which 1 h are kept to: 100 pages take 4.2 days"),
        ("0", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
    ],
)
def test_a_crawl_delay_is_told(shop: Site, command: Callable[..., Outcome], delay: str, sentence: str | None) -> None:
    """The user is told which pause robots.txt asks for and what follows; no pause and nonsense are passed over."""
    shop.pages["/robots.txt"] = (200, {}, f"User-agent: *\nCrawl-delay: {delay}".encode())
    ended = command("crawl", shop.url, "--depth", 0)

    assert (
        f"sessionpool crawl: {shop.url}/robots.txt {sentence}\n" in ended.said if sentence else "asks" not in ended.said
    )
    assert ended.code == 0


# --- bad input ---


def test_a_refused_port_is_a_failure(command: Callable[..., Outcome]) -> None:
    """A server that is not there is a line with the reason, and exit code 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        ended = command("crawl", url)

    assert ended.lines[0]["status"] is None
    reason, _, then = ended.lines[0]["error"].partition("; so ")
    assert "refused" in reason
    assert "robots.txt" not in reason
    assert then.startswith(f"{url}robots.txt could not be read, and nothing of this site may be fetched")
    assert "errors: ConnectError 1\n" in ended.said
    assert f"failed: {url}: {reason}" in ended.said
    assert ended.code == 1


def test_an_unknown_host_is_a_failure(command: Callable[..., Outcome]) -> None:
    """A host that has no address is a line with the reason, and exit code 1."""
    ended = command("crawl", "http://no-such-host.invalid/")

    assert "no-such-host.invalid" in ended.lines[0]["error"]
    assert "resolve" in ended.lines[0]["error"]
    assert ended.code == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ftp://example.com/"], "unknown scheme 'ftp'"),
        (["example.com"], "has no scheme"),
        (["http://exa mple.com/"], "no domain name"),
        (["http://127.0.0.1/", "--out", "/no/such/place"], "cannot write /no/such/place: No such file or directory"),
        (["http://127.0.0.1/", "--resume"], "--resume needs the file to go on from"),
        (["http://127.0.0.1/", "--workers", "0"], "not a whole number of at least 1"),
        (["http://127.0.0.1/", "--per-host", "many"], "not a whole number of at least 1"),
        (["http://127.0.0.1/", "--depth", "-1"], "not a whole number"),
        (["http://127.0.0.1/", "--timeout", "0"], "not a number of seconds above 0"),
        (["http://127.0.0.1/", "--retries", "-1"], "not a whole number"),
        (["http://127.0.0.1/", "--rate", "0"], "not a number of requests per second, at least 0.000001"),
        (["http://127.0.0.1/", "--rate", "nan"], "not a number of requests per second, at least 0.000001"),
        (["http://127.0.0.1/", "--header", "no colon"], "not the beginning of a header"),
        (["http://127.0.0.1/", "--header", "A: b\r\nC: d"], "must not hold line breaks"),
        (["http://127.0.0.1/", "--user-agent", "a\nb"], "must not hold line breaks"),
        (["http://127.0.0.1/", "--resume", "--force", "--out", "x"], "not allowed with"),
        ([], "required: URL"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(
    command: Callable[..., Outcome], words: list[str], sentence: str
) -> None:
    """What cannot work is refused before anything is fetched, in one sentence, without a traceback."""
    ended = command("crawl", *words)

    assert sentence in ended.said
    assert "Traceback" not in ended.said
    assert ended.text == ""
    assert ended.code == 2


def test_an_existing_file_stays_as_it_is(shop: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """Without --resume or --force an existing file is refused and not touched, and nothing is fetched."""
    out = tmp_path / "out"
    out.write_text("precious")
    ended = command("crawl", shop.url, "--out", out)

    assert "exists already; go on from it with --resume, or replace it with --force" in ended.said
    assert out.read_text() == "precious"
    assert shop.asked == []
    assert ended.code == 2


# --- going on ---


def test_a_finished_crawl_has_nothing_to_go_on_with(
    shop: Site, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    """--resume after the end fetches nothing again, and its exit code still tells of the pages that failed."""
    out = tmp_path / "out"
    del shop.pages["/b"]
    command("crawl", shop.url, "--out", out)
    shop.forget()
    before = out.read_bytes()
    ended = command("crawl", shop.url, "--out", out, "--resume")

    assert shop.asked == []
    assert out.read_bytes() == before
    assert "3 pages (3 of them by an earlier run)" in ended.said
    assert ended.code == 1


def test_failed_pages_are_asked_for_again(shop: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """A page without a complete answer is fetched again on --resume, and then has one line."""
    out = tmp_path / "out"
    whole = shop.pages["/a"]
    shop.pages["/a"] = (200, {"Content-Length": "99", "Connection": "close"}, b"x")
    assert command("crawl", shop.url, "--out", out).code == 1
    shop.pages["/a"] = whole
    shop.forget()
    ended = command("crawl", shop.url, "--out", out, "--resume")

    assert Counter(shop.asked) == {"/robots.txt": 1, "/a": 1}
    assert Counter(line["url"] for line in read(out)).most_common()[0][1] == 1
    assert len(read(out)) == 3
    assert ended.code == 0


def many(site: Site, number: int) -> set[str]:
    """A site whose pages lead from one to the next two, so that a crawl of it takes as many steps as it must."""
    for n in range(number):
        site.pages[f"/{n}"] = f"<a href='/{2 * n + 1}'><a href='/{2 * n + 2}'>"
    site.pages["/"] = "<a href='/0'>"
    return {f"{site.url}/", *(f"{site.url}/{n}" for n in range(2 * number + 1))}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly(
    site: Site, process: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C cuts off what is in flight, leaves whole lines, sums up, says how to go on, and exits with 130."""
    out = tmp_path / "out"
    everything = many(site, 100)
    site.held |= {"/20", "/21", "/150"}
    running = process("crawl", site.url, "--out", out, "--per-host", 3)
    site.wait_for(lambda site: site.held <= set(site.asked))
    running.send(number)
    ended = running.end(timeout=9)  # the held pages are not waited for: neither close()'s 10 s nor the read's 30

    assert ended.code == 128 + number
    assert "Traceback" not in ended.said
    assert "pages/s" in ended.said
    assert f"interrupted; the same command with --resume goes on from {out}" in ended.said
    done = {Page.from_line(line + b"\n").url for line in out.read_bytes().splitlines()}
    assert out.read_bytes().endswith(b"\n")
    assert done < everything
    site.release()
    resumed = process("crawl", site.url, "--out", out, "--resume").end()
    assert sorted(line["url"] for line in read(out)) == sorted(everything)
    assert resumed.code == 1  # the leaves of the tree are missing pages


@pytest.mark.skipif(sys.platform != "linux", reason="aims the signal at a thread by a call of Linux")
def test_an_interrupt_that_misses_the_main_thread_is_heard(
    site: Site, process: Callable[..., Process], tmp_path: Path
) -> None:
    """A signal need not end what the main thread blocks on, and nothing else may then: it counts all the same."""
    site.pages["/"] = "<a href='/7'><a href='/8'>"
    site.held |= {"/7", "/8"}
    running = process("crawl", site.url, "--out", tmp_path / "out", "--per-host", 2)
    site.wait_for(lambda site: site.held <= set(site.asked))
    running.send_to_another_thread(signal.SIGINT)

    assert running.end(timeout=20).code == 130


def test_a_killed_crawl_goes_on_from_its_file(site: Site, process: Callable[..., Process], tmp_path: Path) -> None:
    """Killed at any time, and with its last line torn, a crawl goes on so that every page has exactly one line."""
    out = tmp_path / "out"
    everything = many(site, 150)
    for stop in (3, 60, 200):
        site.forget()
        running = process("crawl", site.url, "--out", out, "--resume")
        site.wait_for_requests(stop)
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        with out.open("ab") as file:
            file.write(b'{"url": "http://127.0.0')
    running = process("crawl", site.url, "--out", out, "--resume")

    assert running.end().code == 1
    assert sorted(line["url"] for line in read(out)) == sorted(everything)


def test_a_reader_that_goes_away_ends_the_crawl(site: Site, process: Callable[..., Process]) -> None:
    """When standard output is closed, as by `head`, the crawl ends without a word, as other programs do."""
    many(site, 50)
    site.held.add("/20")
    running = process("crawl", site.url)
    running.read_line()
    running.hang_up("stdout")
    site.release()
    ended = running.end()

    assert ended.said == ""
    assert ended.code == 141
