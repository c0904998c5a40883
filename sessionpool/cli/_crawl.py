"""`sessionpool crawl`: every page of a site, each once."""

from __future__ import annotations

import argparse
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from sessionpool.cli._links import is_page, links
from sessionpool.cli._output import Page, Unusable
from sessionpool.cli._report import count
from sessionpool.cli._robots import ROBOTS_RULE, Robots
from sessionpool.cli._run import EXIT_CODES, RETRIED, Task, Tools, add_options, natural, whole
from sessionpool.cli._run import run as run_source
from sessionpool.cli._urls import is_same_house, resolve, site

if TYPE_CHECKING:
    from sessionpool import Response, Session
    from sessionpool.cli._load import Loader

_DESCRIPTION: Final = """\
Fetch every page of a site that can be reached from URL by links, each once.

The site is all that has URL's scheme, host and port (and if URL itself redirects
from example.com to www.example.com or from http to https, what it leads to).
robots.txt is obeyed, and its Crawl-delay, up to an hour, kept to. A redirect has
a line of its own, and where it leads is a page of its own; off the site it is
noted and not followed. Links are those of HTML and XHTML pages: a, area, iframe,
frame, and link with rel=next or prev."""

_EPILOG: Final = f"""\
each line of the output:
  url, status, bytes (of the body, decoded), seconds (waiting and pauses not
  counted), attempts (1 if it went well at once), referrer (where the link was),
  error (null, or why no complete answer came), location (where a redirect led),
  depth (links from URL), found (URLs of the site first seen on this page)

{RETRIED}

examples:
  sessionpool crawl https://example.com/ --out example.jsonl
  sessionpool crawl https://example.com/ --out example.jsonl --resume
  sessionpool crawl https://example.com/ --depth 2 --per-host 2 | jq -r 'select(.status >= 400).url'

{EXIT_CODES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("url", metavar="URL", help="where to begin")
    far = parser.add_argument_group("how far")
    far.add_argument("--depth", type=natural, metavar="N", help="follow at most N links from URL (default: no limit)")
    far.add_argument("--limit", type=whole, metavar="N", help="fetch at most N pages in this run (default: no limit)")
    add_options(parser, "sessionpool-crawl")


def run(args: argparse.Namespace) -> int:
    """Crawl; the exit code."""

    def make(tools: Tools) -> Crawl:
        robots = Robots(args.user_agent, tools.say, tools.pace)
        return Crawl(args.url, robots, tools.loader, depth=args.depth, limit=args.limit)

    return run_source("crawl", args, make)


class Crawl:
    """What a site has left to fetch. A `Source`: `fetch` runs on the pool's threads, all else on one thread.

    Attributes:
        start: Where it begins, normalised.

    Raises:
        Unusable: By the constructor: this URL cannot be crawled. By `take`: the file is another crawl's.
    """

    def __init__(
        self, url: str, robots: Robots, loader: Loader, *, depth: int | None = None, limit: int | None = None
    ) -> None:
        try:
            self.start = resolve(url)
        except ValueError as error:
            raise Unusable(f"cannot crawl: {error}") from None
        if "@" in site(self.start):
            raise Unusable("cannot crawl: the URL names a user; send credentials by --header 'Authorization: …'")
        self._robots = robots
        self._loader = loader
        self._depth = depth
        self._limit = limit
        self._sites: tuple[str, ...] = (site(self.start),)
        self._seen = {self.start}
        self._levels = [deque([Task(self.start, depth=0)])]  # what is to be fetched, by depth
        self._flying: Counter[int] = Counter()  # what is being fetched, by depth
        self._done: set[str] = set()  # what an earlier run has fetched, until the levels are rid of it
        self._fetched = 0
        self._forbidden = 0
        self._unreadable: Counter[str] = Counter()
        self._notes: list[str] = []

    def take(self, page: Page) -> None:
        """An earlier run has fetched this page and found its links."""
        if page.depth is None or (page.referrer is None and page.url != self.start):
            what = "a fetch" if page.depth is None else f"a crawl of {page.url}"
            raise Unusable(f"cannot go on with {self.start}: the file was written by {what}")
        self._done.add(page.url)
        self._learn(page, page.found or [])

    def next(self) -> Task | None:
        """A URL of the least depth there is."""
        if self._done:
            self._levels = [deque(task for task in level if task.url not in self._done) for level in self._levels]
            self._done.clear()
        if self.queued() == 0:
            return None
        depth, level = next((depth, level) for depth, level in enumerate(self._levels) if level)
        # What is in flight nearer to the start may show a shorter way to a page that otherwise seems too far.
        if self._depth is not None and any(+self._flying[nearer] for nearer in range(depth)):
            return None
        self._flying[depth] += 1
        self._fetched += 1
        return level.popleft()

    def queued(self) -> int:
        """URLs found that may still be fetched."""
        found = sum(map(len, self._levels if self._depth is None else self._levels[: self._depth + 1]))
        return found if self._limit is None else min(found, self._limit - self._fetched)

    def fetch(self, session: Session, task: Task) -> Page:
        """Fetch and parse one page, if robots.txt allows it."""
        page = Page(url=task.url, referrer=task.referrer, depth=task.depth, found=[])
        if (refusal := self._robots.refusal(session, task.url)) is not None:
            page.error, page.kind = refusal.reason, refusal.kind
            page.is_left_out = task.referrer is not None
            return page
        response, body = self._loader.load(session, page, follow=False, wants=_is_parsed)
        if response is None:
            return page
        if response.is_redirect:
            page.location, page.found = _redirect(response.headers["Location"], task.url)
            if page.location == task.url:
                page.error, page.kind = f"the page redirects to itself ({page.status})", "TooManyRedirects"
        elif body:
            page.found = links(body, task.url, response.headers.get("Content-Type"))
        return page

    def took(self, page: Page) -> None:
        """A page was fetched or refused: its links are learned; those that are new stay in `page.found`."""
        assert page.depth is not None
        self._flying[page.depth] -= 1
        if page.is_left_out:
            self._fetched -= 1
            if page.kind == ROBOTS_RULE:
                self._forbidden += 1
            else:
                self._unreadable[page.error or ""] += 1
            return
        self._learn(page, page.found or [])
        if page.referrer is None and page.location and not page.found and page.error is None:
            self._notes.append(f"{page.url} leads to {page.location}, which is another site: crawl that")

    def end(self) -> tuple[list[str], bool]:
        """What was left out."""
        notes = list(self._notes)
        if self._forbidden:
            notes.append(f"left out: {count(self._forbidden, 'URL')} that robots.txt forbids")
        for reason, number in self._unreadable.items():
            notes.append(f"left out: {count(number, 'URL')}; {reason}")
        found = sum(map(len, self._levels)) + sum(self._flying.values())
        beyond = 0 if self._depth is None else sum(map(len, self._levels[self._depth + 1 :]))
        if found > beyond:
            notes.append(f"left: {count(found - beyond, 'URL')} found and not yet fetched")
        if beyond:
            notes.append(f"left: {count(beyond, 'URL')} found further away than --depth {self._depth}")
        return notes, bool(self._unreadable)

    def _learn(self, page: Page, found: list[str]) -> None:
        """Queue those of the site that are new, and leave only them in `page.found`."""
        assert page.depth is not None
        if page.location is not None and page.depth == 0 and found and is_same_house(self.start, found[0]):
            self._sites += (site(found[0]),)
        depth = page.depth if page.location is not None else page.depth + 1
        while len(self._levels) <= depth:
            self._levels.append(deque())
        page.found = [url for url in dict.fromkeys(found) if url.startswith(self._sites) and url not in self._seen]
        self._seen.update(page.found)
        self._levels[depth].extend(Task(url, page.url, depth) for url in page.found)


def _is_parsed(response: Response) -> bool:
    return 200 <= response.status_code < 300 and is_page(response.headers.get("Content-Type"))


def _redirect(location: str, url: str) -> tuple[str, list[str]]:
    """Where a redirect leads, for the line; and the same as what was found there, if it can be fetched."""
    # Headers are decoded as ISO 8859-1, whatever the server meant; a URL outside ASCII is meant as UTF-8.
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        target = resolve(location, base=url)
    except ValueError:
        return location, []
    return target, [target]
