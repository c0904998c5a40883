"""What robots.txt allows (RFC 9309). Alone imports protego."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import attrs
from protego import Protego

from sessionpool.cli._report import span
from sessionpool.cli._urls import site
from sessionpool.exceptions import RequestException

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessionpool import Session

_MOST: Final = 512 * 1024  # RFC 9309 §2.5: at least 500 KiB must be read
# Seconds between two requests. Who asks for more means milliseconds, or that nobody come: but that is what Disallow is
# for, and one page an hour hurts nobody.
_LONGEST: Final = 3600.0
ROBOTS_RULE: Final = "RobotsRule"


@attrs.frozen
class Refusal:
    """Why a URL is not fetched.

    Attributes:
        reason: One sentence.
        kind: The class of error: `ROBOTS_RULE` if a line of robots.txt forbids it; else robots.txt could not be read,
            which another day may mend.
    """

    reason: str
    kind: str


class Robots:
    """The rules of each site, read once, through the session of whoever asks first. Thread-safe.

    Args:
        user_agent: Whom the rules are for.
        say: Prints a sentence.
        pace: Called with a site and the seconds that are to pass between two requests to it.
    """

    def __init__(self, user_agent: str, say: Callable[[str], None], pace: Callable[[str, float], None]) -> None:
        self._user_agent = user_agent
        self._say = say
        self._pace = pace
        self._lock = threading.Lock()
        self._rules: dict[str, Protego | Refusal] = {}

    def refusal(self, session: Session, url: str) -> Refusal | None:
        """Why this normalised URL may not be fetched; `None` when it may."""
        where = site(url)
        # Held while robots.txt is fetched: until then nobody else has anything to do on this site either.
        with self._lock:
            rules = self._rules.get(where)
            if rules is None:
                rules = self._rules[where] = self._read(session, where)
        if isinstance(rules, Refusal):
            return rules
        if rules.can_fetch(url, self._user_agent):
            return None
        return Refusal(f"{where}robots.txt forbids {url} to {self._user_agent.partition('/')[0]}", ROBOTS_RULE)

    def _read(self, session: Session, where: str) -> Protego | Refusal:
        url = f"{where}robots.txt"
        body = bytearray()
        try:
            with session.get(url, stream=True) as response:
                status = response.status_code
                for piece in response.iter_content(1 << 16):
                    body += piece
                    if len(body) >= _MOST:
                        break
        except RequestException as error:
            # The error first: a host that is not there is to be told as that, not as one without a robots.txt.
            return _closed(f"{error}; so {url} could not be read", type(error).__name__)
        if status >= 500:
            return _closed(f"{url} could not be read: the server answered {status}", "RobotsUnreadable")
        if not 200 <= status < 300:
            return Protego.parse("")  # RFC 9309 §2.3.1.3: what is not there allows everything
        rules = Protego.parse(body.decode("utf-8", "replace"))
        asked = rules.crawl_delay(self._user_agent)  # None, too, for what is no number, negative or infinite
        if asked:
            pause = min(asked, _LONGEST)
            self._pace(where, pause)
            kept = "which is kept to" if pause == asked else f"of which {span(pause)} are kept to"
            self._say(f"{url} asks for {asked:g} s between requests, {kept}: 100 pages take {span(100 * pause)}")
        return rules


def _closed(reason: str, kind: str) -> Refusal:
    return Refusal(f"{reason}, and nothing of this site may be fetched (RFC 9309, 2.3.1.4)", kind)
