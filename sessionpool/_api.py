"""One-off requests, as in requests: a session for one call. Thread-safe, for each call has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sessionpool._session import Session

if TYPE_CHECKING:
    from sessionpool._messages import Response


class _Closing:
    """Closes a session when its one response has been read."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def release(self) -> None:
        """The body has ended."""
        self._session.close()

    def abandon(self) -> None:
        """The response was dropped unread; its connection, the session's only one, has been closed."""

    def unbind(self) -> None:
        """It is no thread's, so it has nothing to be unbound from."""


def session() -> Session:
    """A session of its own; the same as `Session()`."""
    return Session()


def request(method: str, url: str, **kwargs: Any) -> Response:
    """Send one request on a session of its own; see `Session.request`. For more than one, use a session or a pool."""
    own = Session()
    try:
        response = own.request(method, url, **kwargs)
    except BaseException:
        own.close()
        raise
    response.hold(_Closing(own))
    return response


def get(url: str, params: Any = None, **kwargs: Any) -> Response:
    """Send a GET request."""
    return request("GET", url, params=params, **kwargs)


def options(url: str, **kwargs: Any) -> Response:
    """Send an OPTIONS request."""
    return request("OPTIONS", url, **kwargs)


def head(url: str, **kwargs: Any) -> Response:
    """Send a HEAD request; redirects are not followed unless asked for."""
    kwargs.setdefault("allow_redirects", False)
    return request("HEAD", url, **kwargs)


def post(url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
    """Send a POST request."""
    return request("POST", url, data=data, json=json, **kwargs)


def put(url: str, data: Any = None, **kwargs: Any) -> Response:
    """Send a PUT request."""
    return request("PUT", url, data=data, **kwargs)


def patch(url: str, data: Any = None, **kwargs: Any) -> Response:
    """Send a PATCH request."""
    return request("PATCH", url, data=data, **kwargs)


def delete(url: str, **kwargs: Any) -> Response:
    """Send a DELETE request."""
    return request("DELETE", url, **kwargs)
