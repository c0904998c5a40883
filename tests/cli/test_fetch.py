"""`sessionpool fetch`: the URLs of a list."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionpool import Session
from sessionpool._config import Timeout
from sessionpool.cli import _run
from sessionpool.cli._fetch import Listing
from sessionpool.cli._load import Loader, Waits
from sessionpool.cli._output import Page, Unusable
from sessionpool.cli._run import Tools
from tests.cli.small_site import ROOT, Outcome, Process, Site, busy, eventually, redirect

TOOLS = Tools(print, lambda: None, Loader(Waits(), Timeout()), lambda url, pause: None)


@pytest.fixture
def pages(site: Site) -> Site:
    site.pages |= {"/a": "aaa", "/b": "bb", "/old": redirect("/older"), "/older": redirect("/a")}
    return site


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_url_of_a_list_is_fetched(pages: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """A list's lines and URLs on the command line are fetched; comments, blank lines and line ends do not matter."""
    file = tmp_path / "urls"
    file.write_bytes(f"\ufeff# my list\n\n{pages.url}/a\r\n  {pages.url}/b#part  \n{pages.url}/missing".encode())
    ended = command("fetch", file, f"{pages.url}/older")

    assert Counter(pages.asked) == {"/a": 2, "/b": 1, "/missing": 1, "/older": 1}
    lines = {line["url"].removeprefix(pages.url): line for line in ended.lines}
    assert set(lines) == {"/a", "/b#part", "/missing", "/older"}
    assert (lines["/a"]["status"], lines["/a"]["bytes"], lines["/a"]["error"]) == (200, 3, None)
    assert lines["/missing"]["status"] == 404
    assert "sessionpool-fetch/" in pages.agents[0]
    assert ended.code == 1


def test_redirects_are_followed(pages: Site, command: Callable[..., Outcome]) -> None:
    """The status is that of the page redirects lead to, and the line says where it is."""
    ended = command("fetch", f"{pages.url}/old", f"{pages.url}/b")

    lines = {line["url"].removeprefix(pages.url): line for line in ended.lines}
    assert lines["/old"]["status"] == 200
    assert lines["/old"]["location"] == f"{pages.url}/a"
    assert lines["/b"]["location"] is None
    assert ended.code == 0


def test_bad_lines_cost_only_themselves(pages: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """Malformed URLs, unknown schemes, bytes that are no text and endless lines are told; the others are fetched."""
    file = tmp_path / "urls"
    bad = [
        b"example.com/x",
        b"ftp://example.com/",
        b"http://[",
        b"http://h:port/",
        b"http://h/\xff",
        b"x" * 100_000,
        b"\0",
    ]
    file.write_bytes(b"\n".join([f"{pages.url}/a".encode(), *bad, f"{pages.url}/b".encode()]))
    ended = command("fetch", file)

    assert sorted(pages.asked) == ["/a", "/b"]
    failed = [line for line in ended.lines if line["error"]]
    assert len(failed) == len(bad)
    assert all(line["status"] is None for line in failed)
    assert {line["url"] for line in failed} >= {"example.com/x", "ftp://example.com/", "http://h/\\xff"}
    assert any("longer than 65,536 bytes" in line["error"] for line in failed)
    assert any("not UTF-8" in line["error"] for line in failed)
    assert ended.code == 1


def test_an_unreadable_list_is_refused(pages: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """A list that is missing or a directory is a sentence and exit code 2, before anything is fetched."""
    for name, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        ended = command("fetch", f"{pages.url}/a", name)
        assert f"cannot read '{name}': {reason}" in ended.said
        assert ended.text == ""
        assert ended.code == 2
    assert pages.asked == []


def test_going_on_fetches_what_has_no_line(pages: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """--resume fetches what is new or failed; a URL that is listed twice is fetched as often as it is listed."""
    urls, out = tmp_path / "urls", tmp_path / "out"
    whole = pages.pages["/b"]
    pages.pages["/b"] = (200, {"Content-Length": "99", "Connection": "close"}, b"x")
    urls.write_text(f"{pages.url}/a\n{pages.url}/b\nnonsense\n")
    assert command("fetch", urls, "--out", out).code == 1
    pages.pages["/b"] = whole
    pages.forget()
    urls.write_text(f"{pages.url}/a\n{pages.url}/b\n{pages.url}/a\n{pages.url}/old\n")
    ended = command("fetch", urls, "--out", out, "--resume")

    assert sorted(pages.asked) == ["/a", "/a", "/b", "/old", "/older"]
    assert sorted(line["url"].removeprefix(pages.url) for line in read(out)) == ["/a", "/a", "/b", "/old"]
    assert ended.code == 0


def test_a_crawls_file_is_not_gone_on_from(pages: Site, command: Callable[..., Outcome], tmp_path: Path) -> None:
    """The file of a crawl is refused, and not touched."""
    out = tmp_path / "out"
    out.write_bytes(Page(url=f"{pages.url}/", status=200, depth=0, found=[]).line())
    before = out.read_bytes()
    ended = command("fetch", f"{pages.url}/a", "--out", out, "--resume")

    assert "written by a crawl" in ended.said
    assert out.read_bytes() == before
    assert ended.code == 2


def test_answers_are_written_while_the_list_is_silent(pages: Site, process: Callable[..., Process]) -> None:
    """From a pipe that stays open, each URL is answered as it comes, and Ctrl-C is heard while nothing comes."""
    running = process("fetch", "-", stdin=subprocess.PIPE)
    for path in ("/a", "/b"):
        running.write(f"{pages.url}{path}\n")
        assert json.loads(running.read_line())["url"] == f"{pages.url}{path}"
    running.send(signal.SIGINT)
    running.wait()  # end() closes its standard input, which would end it too
    ended = running.end()

    assert ended.code == 130
    assert "2 pages" in ended.said
    assert "Traceback" not in ended.said
    assert "Fatal" not in ended.said


def test_standard_input_ends_the_run(pages: Site, process: Callable[..., Process]) -> None:
    """When the pipe closes and all is fetched, the command ends."""
    running = process("fetch", "-", stdin=subprocess.PIPE)
    running.write(f"{pages.url}/a\n")
    running.hang_up("stdin")
    ended = running.end()

    assert [line["status"] for line in ended.lines] == [200]
    assert ended.code == 0


def test_a_list_is_read_as_it_is_worked_off(tmp_path: Path) -> None:
    """Of a list without end only a few hundred lines are read before they are wanted."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that neither side waits for the other to open it
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    os.close(reader)
    listing = Listing([str(pipe)], TOOLS)
    wanted = 20_000
    written = taken = 0
    while taken < wanted:
        with contextlib.suppress(BlockingIOError):  # the pipe and the listing's queue are full
            while written < wanted:
                os.write(writer, b"http://h/%06d\n" % written)
                written += 1
        assert written - taken <= 256 + (65536 + 65536 + 8192) // 16
        if (task := listing.next()) is not None:
            assert task.url == f"http://h/{taken:06}"
            taken += 1
    os.close(writer)
    eventually(lambda: listing.next() is None and listing.queued() == 0)

    assert taken == wanted


def test_an_earlier_line_is_skipped_once(tmp_path: Path) -> None:
    """Each line of an earlier run stands for one line of the list."""
    listing = Listing(["http://h/a", "http://h/b", "http://h/a"], TOOLS)
    listing.take(Page(url="http://h/a", status=200))
    tasks = []
    while listing.queued() is None:
        if (task := listing.next()) is not None:
            tasks.append(task.url)

    assert tasks == ["http://h/b", "http://h/a"]


def test_a_list_that_breaks_off_is_said(tmp_path: Path) -> None:
    """When the list can no longer be read, the run ends with a sentence."""
    listing = Listing(["/proc/self/mem"], TOOLS)

    with pytest.raises(Unusable, match="cannot read the list any further: Input/output error"):
        eventually(lambda: listing.next() is not None)


def test_a_page_that_fails_is_tried_again(pages: Site, command: Callable[..., Outcome]) -> None:
    """A list's pages are tried again, redirects included, and their lines say how often they were tried."""
    pages.first |= {"/old": [busy(), busy(502)], "/a": [busy(504)]}
    ended = command("fetch", f"{pages.url}/old", "--retries", 3)

    assert pages.asked == ["/old", "/old", "/old", "/older", "/a", "/a"]
    assert (ended.lines[0]["status"], ended.lines[0]["attempts"]) == (200, 4)
    assert "tried again: 3 retries\n" in ended.said
    assert ended.code == 0


def test_without_retries_every_page_is_tried_once(pages: Site, command: Callable[..., Outcome]) -> None:
    """`--retries 0` tries nothing again, and the summary has nothing to say about it."""
    pages.first["/a"] = [busy()]
    ended = command("fetch", f"{pages.url}/a", "--retries", 0)

    assert pages.asked == ["/a"]
    assert (ended.lines[0]["status"], ended.lines[0]["attempts"]) == (503, 1)
    assert "tried again" not in ended.said
    assert ended.code == 1


def test_a_page_that_fails_for_good_ends_with_its_error(pages: Site, command: Callable[..., Outcome]) -> None:
    """After the last attempt the line has the last error's sentence, and the exit code is 1."""
    pages.pages["/a"] = None
    ended = command("fetch", f"{pages.url}/a", "nonsense://x")

    assert pages.asked == ["/a"] * 3
    lines = {line["url"]: line for line in ended.lines}
    assert "closed" in lines[f"{pages.url}/a"]["error"]
    assert lines[f"{pages.url}/a"]["attempts"] == 3
    assert "ConnectionBroken 1" in ended.said
    assert ended.code == 1


def test_a_host_that_asks_for_too_long_a_pause_is_not_waited_for(
    pages: Site, command: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Its pages fail at once, with a sentence that says how long it asked for, and --resume asks for them again."""
    out = tmp_path / "out"
    pages.first["/a"] = [busy(429, 3600)]
    ended = command("fetch", f"{pages.url}/a", "--out", out)
    failed = read(out)[0]
    resumed = command("fetch", f"{pages.url}/a", "--out", out, "--resume")

    assert "asks to wait" in failed["error"]
    assert failed["attempts"] == 1
    assert ended.code == 1
    assert read(out)[0]["status"] == 200
    assert resumed.code == 0


@pytest.mark.slow
def test_the_pauses_are_not_a_pages_time(pages: Site, command: Callable[..., Outcome]) -> None:
    """What is waited between attempts is not counted in `seconds`."""
    pages.first["/a"] = [busy(429, 1)]
    ended = command("fetch", f"{pages.url}/a")

    assert pages.times[1] - pages.times[0] >= 1
    assert ended.lines[0]["seconds"] < 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_cool_down(
    pages: Site, process: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    """While all workers wait for a host that asked for a minute, a signal ends the run at once; --resume goes on."""
    urls, out = tmp_path / "urls", tmp_path / "out"
    urls.write_text("".join(f"{pages.url}/{n}\n" for n in range(20)))
    pages.pages |= {f"/{n}": busy(429, 60) for n in range(20)}
    running = process("fetch", urls, "--out", out, "--workers", 4, "--per-host", 1)
    pages.wait_for_requests(1)
    running.send(number)
    ended = running.end(timeout=9)
    pages.pages |= {f"/{n}": "well" for n in range(20)}
    resumed = process("fetch", urls, "--out", out, "--resume").end()

    assert ended.code == 128 + number
    assert "Traceback" not in ended.said
    assert "interrupted; the same command with --resume goes on" in ended.said
    assert sorted(line["url"] for line in read(out)) == sorted(f"{pages.url}/{n}" for n in range(20))
    assert all(line["status"] == 200 for line in read(out))
    assert resumed.code == 0


@pytest.mark.slow
def test_a_run_that_waits_says_for_whom(pages: Site, process: Callable[..., Process]) -> None:
    """While all workers wait for a host, the lines on standard error say which and how long yet."""
    pages.pages |= {"/a": busy(429, 60), "/b": busy(429, 60)}
    running = process("fetch", f"{pages.url}/a", f"{pages.url}/b")
    said = running.hear_line()
    running.send(signal.SIGINT)

    assert re.search(r"0 connections in use, 0 waiting, waiting for 127\.0\.0\.1: [5-7]\d s$", said)
    assert running.end(timeout=9).code == 130


def test_a_run_can_be_watched(pages: Site, process: Callable[..., Process]) -> None:
    """With --ops a status page is served while it runs; where, is its first word."""
    pages.pages["/a"] = busy(429, 60)
    running = process("fetch", f"{pages.url}/a", "--ops", "0")
    url = re.search(r"status page: (http://127\.0\.0\.1:[0-9]+/)$", running.hear_line())
    assert url is not None
    with Session() as session:
        assert session.get(url[1]).text.startswith("<!doctype html>")
        assert 'sessionpool_requests_in_flight{pool="fetch"}' in session.get(url[1] + "metrics").text
    running.send(signal.SIGINT)

    assert running.end(timeout=9).code == 130


def test_a_port_that_is_taken_is_told(pages: Site, command: Callable[..., Outcome]) -> None:
    """In a sentence, before anything is fetched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = command("fetch", f"{pages.url}/a", "--ops", taken.getsockname()[1])

    assert ended.code == 2
    assert "in use" in ended.said
    assert pages.asked == []


@pytest.mark.parametrize(
    ("words", "pause", "total"),
    [
        ([], 0, 10 * 30 * 4 + 3 * 60),
        (["--workers", "64"], 0, 10 * 30 * 8 + 3 * 60),
        (["--retries", "0"], 10, 10 * 30 * 4 + 60 + 32 * 10),
        ([], 10, 10 * 30 * 4 + 3 * (60 + 32 * 10)),
        (["--rate", "0.05"], 10, 10 * 30 * 4 + 3 * (60 + 32 * 20)),
        (["--throttle"], 10, 10 * 30 * 4 + 3 * (60 + 32 * 60)),
    ],
)
def test_a_page_has_time_for_all_its_pauses(words: list[str], pause: float, total: float) -> None:
    """The limit that ends endless answers leaves time for the turns of all other workers, at each attempt."""
    parser = argparse.ArgumentParser()
    _run.add_options(parser, "test")

    assert _run._timeout(parser.parse_args(words), pause).total == total


def test_a_pace_learned_on_the_way_gives_every_page_more_time(tmp_path: Path) -> None:
    """Once a site asks for a pause the limit of each page grows with it, by the longest of several sites' pauses."""
    parser = argparse.ArgumentParser()
    _run.add_options(parser, "test")
    totals: list[float | None] = []

    def make(tools: Tools) -> Listing:
        for number, pause in enumerate((0.5, 10.0, 2.0)):
            tools.pace(f"http://127.0.0.1:{number + 1}/", pause)
            totals.append(tools.loader.timeout.total)
        return Listing([], tools)

    assert _run.run("test", parser.parse_args(["--out", str(tmp_path / "out")]), make) == 0
    assert totals == [10 * 30 * 4 + 3 * (60 + 32 * pause) for pause in (0.5, 10.0, 10.0)]


@pytest.mark.slow
def test_an_endless_answer_is_cut_off(
    site: Site, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that never pauses long enough for --timeout and never ends is given up after 40 times that."""
    monkeypatch.setattr(_run, "_PATIENCE", 0.0)  # three minutes less
    site.pages["/radio"] = (200, {"Content-Length": "1000000"}, b"on air")
    site.endless.add("/radio")
    ended = command("fetch", f"{site.url}/radio", "--timeout", 0.1)

    assert ended.lines[0]["status"] == 200
    assert "Timeout.total=4 s" in ended.lines[0]["error"]
    assert ended.code == 1


# Runs a command and prints the most memory, in KiB, that it had: a small process of its own, for what the system tells
# of children begins with what the process had that they were forked from.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_a_long_list_needs_no_more_memory(tmp_path: Path) -> None:
    """A hundred thousand lines take little more memory than ten."""
    urls = tmp_path / "urls"
    urls.write_text("".join(f"bad{n}\n" for n in range(100_000)))
    command = [sys.executable, "-m", "sessionpool", "fetch", urls, "--out", tmp_path / "out"]
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    assert "100,000 pages" in ended.stderr
    assert int(ended.stdout) < 150_000  # the interpreter's own is 60,000
