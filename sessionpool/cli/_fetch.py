"""`sessionpool fetch`: the URLs of a list."""

from __future__ import annotations

import argparse
import queue
import threading
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sessionpool.cli._output import Page, Unusable
from sessionpool.cli._run import EXIT_CODES, RETRIED, Task, Tools, add_options
from sessionpool.cli._run import run as run_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessionpool import Session

_STDIN: Final = 0
_AHEAD: Final = 256  # tasks read before they are wanted
_LONGEST: Final = 64 * 1024  # bytes of a line; a longer one is not a URL but a wrong file

_DESCRIPTION: Final = """\
Fetch the URLs given, or those listed in FILE, one a line, in no particular
order. Empty lines and lines that begin with # are skipped. "-" is standard
input. Redirects are followed. A list may be of any length: it is read as it is
worked off. robots.txt is not asked for: the list says what is wanted."""

_EPILOG: Final = f"""\
each line of the output:
  url (as listed), status, bytes (of the body, decoded), seconds (waiting and pauses
  not counted), attempts (1 if it went well at once), referrer (always null), error
  (null, or why no complete answer came), location (where redirects led; null if
  there were none)

A line that is no URL gets a line with an error; the others are fetched all the
same. A URL that is listed twice is fetched twice, with --resume too.

{RETRIED}

examples:
  sessionpool fetch urls.txt --out answers.jsonl
  sessionpool fetch urls.txt --out answers.jsonl --resume
  sessionpool fetch https://example.com/ https://example.com/missing
  sort -R urls.txt | sessionpool fetch - --workers 64 --per-host 4 > answers.jsonl

{EXIT_CODES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("inputs", nargs="+", metavar="FILE|URL", help="a list of URLs, or a URL (it has :// in it)")
    add_options(parser, "sessionpool-fetch")


def run(args: argparse.Namespace) -> int:
    """Fetch the list; the exit code."""

    def make(tools: Tools) -> Listing:
        return Listing(args.inputs, tools)

    return run_source("fetch", args, make)


class Listing:
    """What a list has left to fetch. A `Source`: `fetch` runs on the pool's threads, all else on one thread.

    The list is read by a thread of its own, a little ahead, so that answers are written and Ctrl-C is heard
    while standard input keeps silent.

    Raises:
        Unusable: By the constructor: one of the inputs cannot be read. By `next`: it could not be read to its
            end.
    """

    def __init__(self, inputs: list[str], tools: Tools) -> None:
        self._inputs = [text if "://" in text else _opened(text) for text in inputs]
        self._tools = tools
        self._tasks: queue.Queue[Task | OSError | None] = queue.Queue(_AHEAD)
        self._done: Counter[str] = Counter()
        self._reader: threading.Thread | None = None
        self._is_hungry = False  # `next` found nothing and waits to be told
        self._has_ended = False

    def take(self, page: Page) -> None:
        """An earlier run has fetched this URL; one line of the list with it is skipped."""
        if page.depth is not None:
            raise Unusable("cannot go on from this file: it was written by a crawl")
        self._done[page.url] += 1

    def next(self) -> Task | None:
        """The next line's URL, if it has been read already."""
        if self._reader is None:
            # A daemon: it may hang in a read of standard input, which nothing can end.
            self._reader = threading.Thread(target=self._read, name="sessionpool-list", daemon=True)
            self._reader.start()
        if self._has_ended:
            return None
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            # Asked for, and looked again: whatever the reader puts from now on, it sees that it is waited for.
            self._is_hungry = True
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return None
        if isinstance(task, Task):
            return task
        self._has_ended = True
        if task is not None:
            raise Unusable(f"cannot read the list any further: {task.strerror or task}")
        return None

    def queued(self) -> int | None:
        """0 when the list is at its end."""
        return 0 if self._has_ended else None

    def fetch(self, session: Session, task: Task) -> Page:
        """Fetch one URL."""
        page = Page(url=task.url, error=task.problem, kind=task.problem and "InvalidURL")
        if task.problem is None:
            response, _ = self._tools.loader.load(session, page, follow=True)
            if response is not None and response.history:
                page.location = response.url
        return page

    def took(self, page: Page) -> None:
        """Nothing is missing in the line."""

    def end(self) -> tuple[list[str], bool]:
        """Nothing is to be added."""
        return [], False

    def _read(self) -> None:
        end: OSError | None = None
        try:
            for task in self._listed():
                if self._done.get(task.url):
                    self._done[task.url] -= 1
                else:
                    self._put(task)
        except OSError as error:
            end = error
        self._put(end)

    def _put(self, task: Task | OSError | None) -> None:
        self._tasks.put(task)
        if self._is_hungry:
            self._is_hungry = False
            self._tools.wake()

    def _listed(self) -> Iterator[Task]:
        for source in self._inputs:
            if isinstance(source, str):
                yield Task(source)
                continue
            with source as file:
                yield from _tasks(file)


def _opened(name: str) -> IO[bytes]:
    try:
        # A reader of our own: at exit the interpreter would wait for sys.stdin's lock, which a silent read
        # holds.
        return open(_STDIN, "rb", closefd=False) if name == "-" else Path(name).open("rb")
    except OSError as error:
        raise Unusable(
            f"cannot read {name!r}: {error.strerror or error} (a URL begins with http:// or https://)"
        ) from error


def _tasks(file: IO[bytes]) -> Iterator[Task]:
    """The URLs of a list, each line that is not one as a task with a problem."""
    while line := file.readline(_LONGEST):
        size = len(line)
        if size == _LONGEST and not line.endswith(b"\n"):
            while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield Task(_shown(line), problem=f"the line is longer than {_LONGEST:,} bytes, which no URL is")
            continue
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            yield Task(_shown(line), problem="the line is not UTF-8; percent-encode what is not ASCII")
            continue
        if text and not text.startswith("#"):
            yield Task(text)


def _shown(line: bytes) -> str:
    text = line.strip().decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else f"{text[:199]}…"
