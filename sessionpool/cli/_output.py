"""The file a crawl writes: one JSON line per page, whole or not there, and enough to go on from.

Each line is written with one call by one thread, so a kill leaves at most the last line torn. A crawl's line
names the URLs first found on its page; together they are all that was ever discovered, so the file alone
tells what is done and what is still to do, whatever ended the run. A line with an `error` is not done: to go
on drops it and asks again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from sessionpool import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

_BEGINNING: Final = b'{"url": '
_STDOUT: Final = 1


class Unusable(Exception):
    """Input, output or an option that the command cannot work with; the message is a sentence."""


class ReaderGone(Exception):
    """Nobody reads the output any more, as when `head` has seen enough."""


@attrs.define(kw_only=True)
class Page:
    """What became of one URL: one line of the output.

    Attributes:
        url: As it was asked for.
        status: Of the answer; `None` when none came.
        size: Of the body, decoded.
        seconds: From sending to the end of the body; what was waited before is not counted, nor are pauses between
            attempts.
        attempts: How often it was tried; 0 if it was not.
        referrer: The page it was first found on.
        depth: Links followed from the start; redirects do not count. `None` outside a crawl.
        location: Where a redirect led.
        error: Why there is no complete answer, one sentence.
        found: The URLs of the site first found on this page. `None` outside a crawl.
        kind: The error's class, for the summary; not written.
        is_left_out: It was not asked for and gets no line.
    """

    url: str
    status: int | None = None
    size: int = 0
    seconds: float = 0.0
    attempts: int = 0
    referrer: str | None = None
    depth: int | None = None
    location: str | None = None
    error: str | None = None
    found: list[str] | None = None
    kind: str | None = None
    is_left_out: bool = False

    @property
    def has_failed(self) -> bool:
        """No complete answer came, or one that says that there is no such page."""
        return self.error is not None or self.status is None or self.status >= 400

    @property
    def is_unfinished(self) -> bool:
        """No complete answer came, or one that asks to come again (429, 502, 503, 504)."""
        return self.error is not None or self.status in RetryPolicy().statuses

    def line(self) -> bytes:
        """As written, its end included."""
        fields: dict[str, Any] = {
            "url": self.url,
            "status": self.status,
            "bytes": self.size,
            "seconds": round(self.seconds, 4),
            "attempts": self.attempts,
            "referrer": self.referrer,
            "error": self.error,
            "location": self.location,
        }
        if self.depth is not None:
            fields |= {"depth": self.depth, "found": self.found or []}
        # What is half a character (it may come from an undecodable argument) is left as JSON's own escape.
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read what `line` wrote.

        Raises:
            ValueError: It is something else.
        """
        fields = json.loads(line)
        if not (
            isinstance(fields, dict)
            and isinstance(fields.get("url"), str)
            and isinstance(fields.get("status", ""), int | None)
            and isinstance(fields.get("bytes", 0), int)
            and isinstance(fields.get("attempts", 0), int)
            and isinstance(fields.get("depth"), int | None)
            and isinstance(fields.get("found"), list | None)
        ):
            raise ValueError("not a page")
        return cls(
            url=fields["url"],
            status=fields["status"],
            size=fields.get("bytes", 0),
            seconds=fields.get("seconds", 0.0),
            attempts=fields.get("attempts", 0),
            referrer=fields.get("referrer"),
            error=fields.get("error"),
            location=fields.get("location"),
            depth=fields.get("depth"),
            found=fields.get("found"),
        )


class PageFile:
    """Where the lines go: a file, or standard output for `-`. Confined to the thread that made it.

    Raises:
        Unusable: By the constructor, before anything else happens: it exists already, or cannot be written,
            or is to be gone on from and is not such a file. By `write`, when it cannot be written any more.
        ReaderGone: By `write`: it is a pipe, and whoever read it has gone.
    """

    def __init__(
        self,
        name: str,
        *,
        resume: bool = False,
        force: bool = False,
        take: Callable[[Page], None] | None = None,
    ) -> None:
        self.name = "standard output" if name == "-" else name
        path = Path(name)
        if name == "-" and resume:
            raise Unusable("--resume needs the file to go on from: --out FILE")
        try:
            if name == "-":
                # Not sys.stdout, whose buffer would try to write once more, at exit, what a closed pipe
                # refused.
                self._file = io.FileIO(os.dup(_STDOUT), "wb")
            else:
                if resume and path.exists():
                    _take_up(path, take)
                elif not force and path.is_file() and path.stat().st_size > 0:
                    raise Unusable(f"{name} exists already; go on from it with --resume, or replace it with --force")
                self._file = io.FileIO(path, "ab" if resume else "wb")
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, page: Page) -> None:
        """Append a page's line, whole."""
        line = memoryview(page.line())
        try:
            while line:  # one call, unless a pipe or a full disk takes less
                line = line[self._file.write(line) :]
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file; twice is harmless."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _unwritable(self, error: OSError) -> Unusable:
        return Unusable(f"cannot write {self.name}: {error.strerror or error}")


def _take_up(path: Path, take: Callable[[Page], None] | None) -> None:
    """Hand the pages that are done to `take`, and rid the file of the others and of a torn last line.

    Nothing is changed unless every line is one of ours; the change is a rename or a truncation, so that a
    kill in the middle leaves either the old file or the new one.
    """
    end, failed = 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                break
            try:
                page = Page.from_line(line)
            except ValueError:
                raise Unusable(f"cannot go on from {path}: its line {number} was not written by this command") from None
            end += len(line)
            if page.is_unfinished:
                failed += 1
            elif take is not None:
                take(page)
    if failed:
        _drop_failed(path, end)
    elif path.stat().st_size > end:
        os.truncate(path, end)


def _drop_failed(path: Path, end: int) -> None:
    path = path.resolve()  # a link stays a link
    kept = path.with_name(f"{path.name}.resume")
    with path.open("rb") as old, kept.open("wb") as new:
        while old.tell() < end:
            line = old.readline()
            if not Page.from_line(line).is_unfinished:
                new.write(line)
        new.flush()
        os.fsync(new.fileno())
    shutil.copymode(path, kept)
    kept.replace(path)
