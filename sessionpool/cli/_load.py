"""One page through a session: read in pieces, timed, its failure turned into a sentence."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sessionpool import Observer, RequestException

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessionpool import Response, Session, TimeoutSettings
    from sessionpool.cli._output import Page

_PIECE: Final = 64 * 1024
_MOST_KEPT: Final = 16 * 1024 * 1024  # of one body; what comes after is counted and dropped


class _Here(threading.local):
    """What happened to the requests of the calling thread.

    Attributes:
        waited: Seconds they waited: for connections, between attempts, and for a host that is not to be asked yet.
        retries: Attempts after a failed one.
    """

    waited = 0.0
    retries = 0


class Waits(Observer):
    """What the pool's threads have waited for. Thread-safe.

    Attributes:
        here: The calling thread's share.
        retries: Attempts after a failed one, by all threads.
        asked: How often a host asked to be left alone for a while.
    """

    def __init__(self) -> None:
        self.here = _Here()
        self.retries = 0
        self.asked = 0
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # when hosts that are waited for may be asked again

    # Each of the pool's events is told on the thread that it happened to.

    def waited(self, host: str, seconds: float) -> None:  # noqa: ARG002 - Observer's
        """A connection was waited for."""
        self.here.waited += seconds

    def throttled(self, host: str, seconds: float) -> None:  # noqa: ARG002 - Observer's
        """The host's turn was waited for."""
        self.here.waited += seconds

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:  # noqa: ARG002 - Observer's
        """A pause before another attempt begins."""
        self.here.waited += wait
        self.here.retries += 1
        with self._lock:
            self.retries += 1
            self._rests(host, wait)

    def cooled(self, host: str, seconds: float, reason: str) -> None:  # noqa: ARG002 - Observer's
        """The host asked to be left alone."""
        with self._lock:
            self.asked += 1
            self._rests(host, seconds)

    def resting(self) -> tuple[str, float] | None:
        """The name of the host that rests longest, and for how many seconds yet; `None` if none does."""
        now = time.monotonic()
        with self._lock:
            self._until = {host: until for host, until in self._until.items() if until > now}
            if not self._until:
                return None
            host = max(self._until, key=self._until.__getitem__)
            return urlsplit(host).hostname or host, self._until[host] - now

    def _rests(self, host: str, seconds: float) -> None:
        self._until[host] = max(self._until.get(host, 0.0), time.monotonic() + seconds)


class Loader:
    """Fetches the pages of a run. Thread-safe.

    Attributes:
        waits: The pool's observer.
        timeout: Of each page from now on; may be replaced.
    """

    def __init__(self, waits: Waits, timeout: TimeoutSettings) -> None:
        self.waits = waits
        self.timeout = timeout

    def load(
        self, session: Session, page: Page, *, follow: bool, wants: Callable[[Response], bool] | None = None
    ) -> tuple[Response | None, bytes]:
        """Fetch `page.url` and fill in what became of it.

        Args:
            session: The worker's own.
            page: Gets status, bytes, seconds, attempts, and the error if there is one.
            follow: Whether redirects are followed.
            wants: Whether this response's body is to be kept; any other is read, counted and dropped.

        Returns:
            The response, `None` if there was none or it broke off; and its body, empty unless wanted.
        """
        here = self.waits.here
        began, waited, retries = time.monotonic(), here.waited, here.retries
        body = bytearray()
        try:
            with session.get(page.url, stream=True, allow_redirects=follow, timeout=self.timeout) as response:
                page.status = response.status_code
                is_wanted = wants is not None and wants(response)
                for piece in response.iter_content(_PIECE):
                    page.size += len(piece)
                    if is_wanted and len(body) < _MOST_KEPT:
                        body += piece
        except RequestException as error:
            page.error, page.kind = str(error), type(error).__name__
            return None, b""
        finally:
            page.seconds = time.monotonic() - began - (here.waited - waited)
            page.attempts = 1 + here.retries - retries
        return response, bytes(body)
