"""What is mounted on a session for some URLs, with requests' names."""

from __future__ import annotations

from typing import Any, Final

from sessionpool._retry import RetryPolicy, as_policy, counted

_UNSET: Final[Any] = object()


class HTTPAdapter:
    """How requests to the URLs that it is mounted for are sent. Immutable.

    Args:
        max_retries: A `RetryPolicy`, urllib3's `Retry`, or how often a request is sent again after a failure, with the
            meaning that requests gives each; left out: what the session says.

    >>> session.mount("https://api.example.com/", HTTPAdapter(max_retries=Retry(total=5, backoff_factor=1)))
    """

    def __init__(self, max_retries: Any = _UNSET) -> None:
        self._is_silent = max_retries is _UNSET
        if isinstance(max_retries, int) and not isinstance(max_retries, bool) and max_retries >= 0:
            max_retries = counted(max_retries)
        try:
            self.max_retries = None if self._is_silent else as_policy(max_retries)
        except ValueError:
            raise ValueError(
                "max_retries must be a whole number of at least 0, a sessionpool.RetryPolicy, urllib3's Retry or None; "
                f"got {max_retries!r}"
            ) from None

    def policy(self, otherwise: RetryPolicy | None) -> RetryPolicy | None:
        """What is tried again: by this adapter, `otherwise` if it says nothing."""
        return otherwise if self._is_silent else self.max_retries
