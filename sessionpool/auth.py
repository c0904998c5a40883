"""What proves who is asking: objects called with the request before it is sent, as in requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from sessionpool._wire import basic_credentials

if TYPE_CHECKING:
    from sessionpool._messages import PreparedRequest

__all__ = ["AuthBase", "HTTPBasicAuth", "HTTPBearerAuth", "HTTPProxyAuth"]


class AuthBase:
    """Base of authentication handlers; any callable that takes and returns the request will do as well.

    One handler may serve many sessions in many threads, so keep what it remembers thread-safe.
    """

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Add to `r` what proves who is asking, and return it."""
        raise NotImplementedError("an auth handler must define __call__")


@attrs.frozen
class HTTPBasicAuth(AuthBase):
    """User name and password (RFC 7617). Immutable."""

    username: str
    password: str = attrs.field(repr=False)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Authorization`."""
        r.headers["Authorization"] = basic_credentials(self.username, self.password)
        return r


@attrs.frozen
class HTTPProxyAuth(HTTPBasicAuth):
    """User name and password for a proxy that forwards plain http. Immutable."""

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Proxy-Authorization`."""
        r.headers["Proxy-Authorization"] = basic_credentials(self.username, self.password)
        return r


@attrs.frozen
class HTTPBearerAuth(AuthBase):
    """A token (RFC 6750 §2.1). Immutable."""

    token: str = attrs.field(repr=False)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Authorization`."""
        r.headers["Authorization"] = f"Bearer {self.token}"
        return r
