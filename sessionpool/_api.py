"""One-off requests, as in requests: a session for one call. Thread-safe, for each call has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sessionpool._session import Session

if TYPE_CHECKING:
    from sessionpool._messages import Response


def request(method: str, url: str, **kwargs: Any) -> Response:
    """Send one request on a session of its own; see `Session.request`. For more than one, use a session or a pool."""
    session = Session()
    response = session.request(method, url, **kwargs)
    if not kwargs.get("stream"):
        session.close()
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
