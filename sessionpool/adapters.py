"""What is mounted on a session for some URLs, with requests' names.

A session sends by itself. What is mounted says how: with which retries, TLS settings and headers for a proxy; or, as a
class of a user's with its own `send`, it stands between the session and the connections.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sessionpool._connection import tls_context
from sessionpool._messages import encode_field
from sessionpool._retry import RetryPolicy, as_policy, counted

if TYPE_CHECKING:
    from sessionpool._messages import PreparedRequest, Response

__all__ = ["BaseAdapter", "HTTPAdapter"]

DEFAULT_POOLSIZE: Final = 10

Verify = bool | str | ssl.SSLContext
Cert = str | tuple[str, str] | None

_UNSET: Final[Any] = object()
# What requests' adapter does by methods of these names is done by others here, and nobody would call them.
_ELSEWHERE: Final = {
    "build_connection_pool_key_attributes": "mount one adapter for each way to connect",
    "build_response": "override send, and change the response that super().send() returns",
    "cert_verify": "set verify and cert, on the session or in the keywords of send",
    "get_connection": "override send",
    "get_connection_with_tls_context": "override send",
    "proxy_manager_for": "override proxy_headers",
    "request_url": "override send, and set request.url",
}


class BaseAdapter:
    """How requests are sent to the URLs that it is mounted for, of whatever scheme; to be subclassed."""

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request and return its response, a `sessionpool.Response`; redirects are the session's to follow."""
        raise NotImplementedError(f"{type(self).__name__} must define send")

    def close(self) -> None:
        """Give up what it holds; called by `Session.close`."""

    @property
    def is_plain(self) -> bool:
        """Whether the session need not ask it to send."""
        return False

    def policy(self, otherwise: RetryPolicy | None) -> RetryPolicy | None:
        """What is tried again below it: what the session says."""
        return otherwise

    def proxy_fields(self, proxy: str) -> tuple[tuple[str, str], ...]:  # noqa: ARG002 - for HTTPAdapter
        """What a proxy is sent beside the request."""
        return ()

    def tls(self, verify: Verify, trusted: Verify, cert: Cert) -> tuple[Verify, Cert]:  # noqa: ARG002 - for HTTPAdapter
        """What of `verify` and `cert` is used; `trusted` is what `verify` comes to in this environment."""
        return trusted, cert


class HTTPAdapter(BaseAdapter):
    """How requests to the URLs that it is mounted for are sent. Immutable; any number of sessions may share it.

    >>> session.mount("https://api.example.com/", HTTPAdapter(max_retries=Retry(total=5, backoff_factor=1)))

    A subclass may override `send`, to change what goes out and what comes back; `add_headers`; `proxy_headers`; and
    `init_poolmanager`, to choose the TLS settings.

    Args:
        pool_connections, pool_maxsize, pool_block: As in requests, and without effect: how many connections there are
            is for `Limits` to say, of the pool, for all its sessions together.
        max_retries: A `RetryPolicy`, urllib3's `Retry`, or how often a request is sent again after a failure, with the
            meaning that requests gives each; left out: what the session says.
    """

    def __init__(
        self,
        pool_connections: int = DEFAULT_POOLSIZE,
        pool_maxsize: int = DEFAULT_POOLSIZE,
        max_retries: Any = _UNSET,
        pool_block: bool = False,
    ) -> None:
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
        self._sizes = (pool_connections, pool_maxsize, pool_block)
        self._begin()

    def _begin(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._versions: dict[str, Any] = {}
        self._contexts: dict[object, ssl.SSLContext] = {}
        connections, maxsize, block = self._sizes
        self.init_poolmanager(connections, maxsize, block=block)

    def __getstate__(self) -> dict[str, Any]:
        """All but TLS contexts, which `init_poolmanager` makes anew."""
        return {name: each for name, each in vars(self).items() if name not in ("_context", "_contexts", "_versions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse to override what nobody would call."""
        super().__init_subclass__(**kwargs)
        for name in vars(cls).keys() & _ELSEWHERE:
            raise TypeError(f"{cls.__name__}.{name} would never be called by sessionpool: {_ELSEWHERE[name]}")

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request over the connections of the session that it is mounted on, with its retries.

        Raises:
            ValueError: No session has asked it to.
        """
        if request.sender is None:
            raise ValueError("an HTTPAdapter sends for the session that it is mounted on: call session.send(request)")
        self.add_headers(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        response: Response = request.sender.exchange(
            request, self, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
        )
        return response

    def add_headers(self, request: PreparedRequest, **kwargs: Any) -> None:
        """Add to a request's header, for subclasses; called with the keywords of `send`."""

    def proxy_headers(self, proxy: str) -> dict[str, str]:  # noqa: ARG002 - for subclasses
        """What a proxy is sent beside the request, for subclasses; user and password of its URL are sent anyway."""
        return {}

    def init_poolmanager(
        self,
        connections: int,  # noqa: ARG002
        maxsize: int,  # noqa: ARG002
        block: bool = False,  # noqa: ARG002
        *,
        ssl_context: ssl.SSLContext | None = None,
        **kwargs: Any,
    ) -> None:
        """Choose the TLS settings, for subclasses: give `super().init_poolmanager` an `ssl_context`.

        Of what urllib3's `PoolManager` takes, `ssl_version`, `ssl_minimum_version`, `ssl_maximum_version` and
        `ciphers` are understood too; the sizes are without effect.

        Raises:
            ValueError: There is something else.
        """
        versions = {name: value for name, value in kwargs.items() if value is not None}
        if ssl_context is not None and versions:
            raise ValueError(
                f"beside an ssl_context there is no use for {', '.join(sorted(versions))}: set it up there"
            )
        if versions:
            self._contexts[True, None] = tls_context(True, None, **versions)  # raises for what cannot be kept
        self._context, self._versions = ssl_context, versions

    @property
    def poolmanager(self) -> None:
        """None. May be set to one of urllib3's, of which the TLS settings are taken; its work is the pool's."""

    @poolmanager.setter
    def poolmanager(self, manager: Any) -> None:
        settings = {"connections": DEFAULT_POOLSIZE, "maxsize": DEFAULT_POOLSIZE, **manager.connection_pool_kw}
        HTTPAdapter.init_poolmanager(self, **settings)  # not a subclass's, which may be what sets this

    @property
    def is_plain(self) -> bool:
        """Whether the session need not ask it to send."""
        own = type(self)
        return own.send is ADAPTERS_SEND and own.add_headers is _ADD_HEADERS

    def policy(self, otherwise: RetryPolicy | None) -> RetryPolicy | None:
        """What is tried again: by this adapter, `otherwise` if it says nothing."""
        return otherwise if self._is_silent else self.max_retries

    def proxy_fields(self, proxy: str) -> tuple[tuple[str, str], ...]:
        """What `proxy_headers` says, checked.

        Raises:
            InvalidHeader: It may not be sent.
        """
        headers = self.proxy_headers(proxy)
        for name, value in headers.items():
            encode_field(name, value)
        return tuple(headers.items())

    def tls(self, verify: Verify, trusted: Verify, cert: Cert) -> tuple[Verify, Cert]:
        """What of `verify` and `cert` is used; `trusted` is what `verify` comes to in this environment.

        Raises:
            ValueError: There is an SSL context, and a `verify` that it does not keep to.
        """
        if self._context is not None:
            if verify is not True and not (verify is False and self._context.verify_mode is ssl.CERT_NONE):
                raise ValueError(
                    f"the adapter has an ssl_context, which says itself what it verifies; verify={verify!r} cannot "
                    "change that"
                )
            return self._context, cert
        if not self._versions:
            return trusted, cert
        certificate = tuple(cert) if isinstance(cert, list) else cert
        context = self._contexts.get((trusted, certificate))
        if context is None:
            made = tls_context(trusted, certificate, **self._versions)
            context = self._contexts.setdefault((trusted, certificate), made)  # atomic, with and without a GIL
        return context, None


# As they are written here: somebody may put others in their place, to test, and is not to be passed by.
ADAPTERS_SEND: Final = HTTPAdapter.send
_ADD_HEADERS: Final = HTTPAdapter.add_headers
