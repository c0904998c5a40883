"""One page through a session: read in pieces, timed, its failure turned into a sentence."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from sessionpool import Observer, RequestException

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessionpool import Response, Session
    from sessionpool.cli._output import Page

_PIECE: Final = 64 * 1024
_MOST_KEPT: Final = 16 * 1024 * 1024  # of one body; what comes after is counted and dropped


class Waits(threading.local, Observer):
    """How long the calling thread has waited for connections, which is not to count as a page's time."""

    seconds = 0.0

    def waited(self, host: str, seconds: float) -> None:  # noqa: ARG002 - Observer's
        """Add one wait. Called on the thread that waited."""
        self.seconds += seconds


def load(
    session: Session,
    page: Page,
    waits: Waits,
    *,
    follow: bool,
    wants: Callable[[Response], bool] | None = None,
) -> tuple[Response | None, bytes]:
    """Fetch `page.url` and fill in what became of it.

    Args:
        session: The worker's own.
        page: Gets status, bytes, seconds, and the error if there is one.
        waits: The pool's observer.
        follow: Whether redirects are followed.
        wants: Whether this response's body is to be kept; any other is read, counted and dropped.

    Returns:
        The response, `None` if there was none or it broke off; and its body, empty unless wanted.
    """
    began, waited = time.monotonic(), waits.seconds
    body = bytearray()
    try:
        with session.get(page.url, stream=True, allow_redirects=follow) as response:
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
        page.seconds = time.monotonic() - began - (waits.seconds - waited)
    return response, bytes(body)
