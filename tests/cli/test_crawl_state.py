"""`sessionpool.cli._crawl.Crawl`: what is to be fetched next, whatever the order and the interruptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionpool import TimeoutSettings
from sessionpool.cli._crawl import Crawl
from sessionpool.cli._load import Loader, Waits
from sessionpool.cli._output import Page, Unusable
from sessionpool.cli._robots import Robots
from sessionpool.cli._run import Task

START = "http://h/"


def crawl(url: str = START, **kwargs: Any) -> Crawl:
    robots = Robots("test", print, lambda url, pause: None)
    return Crawl(url, robots, Loader(Waits(), TimeoutSettings()), **kwargs)


def page_of(task: Task, found: Iterable[str] = (), **kwargs: Any) -> Page:
    page = Page(url=task.url, referrer=task.referrer, depth=task.depth, found=list(found))
    page.status = 200
    for name, value in kwargs.items():
        setattr(page, name, value)
    return page


def following(state: Crawl) -> Task:
    """The next task, which there must be."""
    task = state.next()
    assert task is not None
    return task


def reachable(graph: dict[str, list[str]], depth: int | None = None) -> dict[str, int]:
    """Each page that can be reached, and by how many links: an independent, sequential walk."""
    distance = {START: 0}
    queue = deque([START])
    while queue:
        url = queue.popleft()
        if distance[url] == depth:
            continue
        for target in graph.get(url, ()):
            if target not in distance:
                distance[target] = distance[url] + 1
                queue.append(target)
    return distance


_URLS = st.sampled_from([START, *(f"http://h/{n}" for n in range(9))])
_GRAPHS = st.dictionaries(_URLS, st.lists(_URLS, max_size=4), min_size=3)


@given(graph=_GRAPHS, depth=st.none() | st.integers(0, 4), data=st.data())
def test_every_page_once_whatever_happens(graph: dict[str, list[str]], depth: int | None, data: st.DataObject) -> None:
    """In any order of answers, with failures, and killed and resumed at any time: each reachable page has one line,
    and a --depth is measured along the shortest way."""
    file: list[bytes] = []
    while True:
        state = crawl(depth=depth)
        done = [Page.from_line(line) for line in file]
        file = [line for line, page in zip(file, done, strict=True) if page.error is None]
        for page in done:
            if page.error is None:
                state.take(page)
        flying: list[Task] = []
        will_be_killed = data.draw(st.booleans())
        while True:
            while len(flying) < 3 and (task := state.next()) is not None:
                flying.append(task)
            if not flying or (will_be_killed and data.draw(st.integers(0, 4)) == 0):
                break
            task = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            if will_be_killed and data.draw(st.booleans()):
                page = page_of(task, status=None, error="broken off")
            else:
                page = page_of(task, found=graph.get(task.url, ()))
            state.took(page)
            file.append(page.line())
        if not will_be_killed:
            break

    assert not flying
    assert state.queued() == 0
    lines = [Page.from_line(line) for line in file]
    assert sorted(page.url for page in lines) == sorted(reachable(graph, depth))
    if depth is not None:
        assert {page.url: page.depth for page in lines} == reachable(graph, depth)


def test_a_redirect_is_no_step_away() -> None:
    """What a redirect leads to is as far from the start as the redirect."""
    state = crawl(depth=0)
    state.took(page_of(following(state), ["http://h/home"], status=301, location="http://h/home"))

    task = following(state)
    assert (task.url, task.depth, task.referrer) == ("http://h/home", 0, START)


def test_another_site_is_not_entered() -> None:
    """URLs with another scheme, host or port are not followed, nor written as found."""
    state = crawl()
    page = page_of(following(state), ["https://h/", "http://h:81/", "http://i/", "http://h.i/", "http://h/a", START])
    state.took(page)

    assert page.found == ["http://h/a"]
    assert state.queued() == 1


def test_the_start_may_move_to_its_secure_www() -> None:
    """When the start itself redirects from http to https, or to `www.`, the crawl goes on there, resumed or not."""
    first = crawl("http://example.com/")
    page = page_of(following(first), ["https://www.example.com/"], status=301, location="https://www.example.com/")
    first.took(page)
    second = crawl("http://example.com/")
    second.take(Page.from_line(page.line()))

    for state in (first, second):
        task = following(state)
        assert task.url == "https://www.example.com/"
        state.took(page_of(task, ["https://www.example.com/a", "https://example.org/"]))
        assert following(state).url == "https://www.example.com/a"


def test_a_start_that_leads_away_is_said() -> None:
    """When the start redirects to a site of another name, nothing of it is fetched and the summary says where it is."""
    state = crawl()
    state.took(page_of(following(state), ["http://other/"], status=302, location="http://other/"))

    assert state.queued() == 0
    assert state.end()[0] == ["http://h/ leads to http://other/, which is another site: crawl that"]


def test_a_limit_counts_pages_of_this_run() -> None:
    """--limit stops after so many pages, those that robots.txt forbids not counted; the rest is kept for --resume."""
    state = crawl(limit=2)
    start = page_of(following(state), [f"http://h/{n}" for n in range(4)])
    state.took(start)
    refused = page_of(following(state), status=None, kind="RobotsRule", is_left_out=True)
    assert state.next() is None
    state.took(refused)
    state.took(page_of(following(state)))

    assert state.next() is None
    assert state.queued() == 0
    assert state.end()[0] == [
        "left out: 1 URL that robots.txt forbids",
        "left: 2 URLs found and not yet fetched",
    ]
    resumed = crawl(limit=2)
    resumed.take(start)
    assert resumed.queued() == 2


def test_what_is_too_far_is_kept_for_a_deeper_crawl() -> None:
    """URLs further than --depth are written as found, so that a run with a larger --depth goes on from them."""
    shallow = crawl(depth=0)
    page = page_of(following(shallow), ["http://h/a"])
    shallow.took(page)
    deeper = crawl(depth=1)
    deeper.take(page)

    assert shallow.next() is None
    assert shallow.end()[0] == ["left: 1 URL found further away than --depth 0"]
    assert following(deeper).url == "http://h/a"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(url="http://other/", status=200, depth=0, found=[]), "a crawl of http://other/"),
        (Page(url="http://h/a", status=200), "a fetch"),
    ],
)
def test_another_runs_file_is_refused(page: Page, words: str) -> None:
    """A file that another start, or `fetch`, has written is not gone on from."""
    with pytest.raises(Unusable, match=words):
        crawl().take(page)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h/", "unknown scheme 'ftp'"),
        ("h/page", "has no scheme"),
        ("http://h:x/", "the port 'x'"),
        ("http://ada:pw@h/", "--header 'Authorization"),
    ],
)
def test_a_start_that_cannot_be_crawled_is_a_sentence(url: str, words: str) -> None:
    """A malformed start, an unknown scheme and credentials in the URL are refused before anything is fetched."""
    with pytest.raises(Unusable, match=words):
        crawl(url)
