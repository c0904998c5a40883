"""What robots.txt allows (RFC 9309). Alone imports protego."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import attrs
from protego import Protego

from sessionpool.cli._urls import site
from sessionpool.exceptions import RequestException

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessionpool import Session

_MOST: Final = 512 * 1024  # RFC 9309 §2.5: at least 500 KiB must be read


@attrs.frozen
class Refusal:
    """Why a URL is not fetched.

    Attributes:
        reason: One sentence.
        is_rule: A line of robots.txt forbids it; otherwise robots.txt could not be read, which another day
            may mend.
    """

    reason: str
    is_rule: bool


class Robots:
    """The rules of each site, read once, through the session of whoever asks first. Thread-safe."""

    def __init__(self, user_agent: str, say: Callable[[str], None]) -> None:
        self._user_agent = user_agent
        self._say = say
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
        return Refusal(f"{where}robots.txt forbids {url} to {self._user_agent.partition('/')[0]}", is_rule=True)

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
            return self._closed(f"{url} could not be read: {error}")
        if status >= 500:
            return self._closed(f"{url} could not be read: the server answered {status}")
        if not 200 <= status < 300:
            return Protego.parse("")  # RFC 9309 §2.3.1.3: what is not there allows everything
        rules = Protego.parse(body.decode("utf-8", "replace"))
        if (pause := rules.crawl_delay(self._user_agent)) is not None:
            self._say(f"{url} asks for {pause:g} s between requests; that is not kept to, --per-host 1 is the least")
        return rules

    def _closed(self, reason: str) -> Refusal:
        return Refusal(f"{reason}; so nothing of this site may be fetched (RFC 9309, 2.3.1.4)", is_rule=False)
