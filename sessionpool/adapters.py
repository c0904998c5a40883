"""What is mounted on a session for some URLs, with requests' names."""

from __future__ import annotations

from typing import Any, Final

from sessionpool._retry import RetryPolicy, as_policy

_UNSET: Final[Any] = object()


class HTTPAdapter:
    """How requests to the URLs that it is mounted for are sent. Immutable.

    Args:
        max_retries: A `RetryPolicy`, urllib3's `Retry`, or how often a request is sent again after a failure; left out:
            what the session says.

    >>> session.mount("https://api.example.com/", HTTPAdapter(max_retries=Retry(total=5, backoff_factor=1)))
    """

    def __init__(self, max_retries: Any = _UNSET) -> None:
        if isinstance(max_retries, int) and not isinstance(max_retries, bool) and max_retries >= 0:
            # As requests has it: failures of the connection, no statuses.
            max_retries = RetryPolicy(attempts=max_retries + 1, backoff=0, statuses=(), budget=None)
        self.max_retries = max_retries if max_retries is _UNSET else as_policy(max_retries)

    def policy(self, otherwise: RetryPolicy | None) -> RetryPolicy | None:
        """What is tried again: by this adapter, `otherwise` if it says nothing."""
        return otherwise if self.max_retries is _UNSET else self.max_retries
