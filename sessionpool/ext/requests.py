"""requests over a pool: sessions of requests, in many threads, that share its connections, limits and metrics.

    from sessionpool.ext.requests import PooledAdapter

    session = requests.Session()          # or what a library made: an OAuth2Session, an AuthorizedSession, an SDK's
    session.mount("https://", PooledAdapter(pool))
    session.mount("http://", PooledAdapter(pool))

Who asks is requests' affair: its header, cookies, auth, client certificate, hooks and redirects, and nothing of the
pool's is added to them. How the host is reached is the pool's: connections, waiting, rate, retries; and time-outs,
authorities and proxies wherever requests names none. Each request is sent under a blank lease of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import requests
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict as TheirDict
from requests.utils import get_encoding_from_headers

from sessionpool import _wire, exceptions
from sessionpool._messages import CaseInsensitiveDict, PreparedRequest, as_method
from sessionpool._session import UNSET
from sessionpool._urls import Target, parse_target
from sessionpool.adapters import HTTPAdapter

if TYPE_CHECKING:
    from sessionpool._config import Timeout
    from sessionpool._connection import Reply
    from sessionpool._messages import Response
    from sessionpool._pool import SessionPool

__all__ = ["PooledAdapter"]

_UNSET: Final[Any] = object()
_SENDABLE = re.compile(r"/[!-~]*\Z")
# Ours that requests has no name for: what its users would see from urllib3's pool where it has one. The others become
# what requests calls them, or the next of their ancestors.
_NAMES: Final = {
    "PoolTimeout": "ConnectTimeout",
    "ThrottleTimeout": "ConnectTimeout",
    "PoolError": "ConnectionError",
    "LeaseStateError": "ConnectionError",
}


class PooledAdapter(BaseAdapter):
    """Sends what requests has prepared over a pool's connections. Immutable; one may be mounted on many sessions.

    What goes wrong is raised as requests' own exceptions, with ours as their `__cause__`; a `PoolTimeout` as
    `ConnectTimeout`, which says that nothing was sent, and a closed pool as `ConnectionError`. To close the session
    does not close the pool.

    Args:
        pool: The pool.
        max_retries: As for `sessionpool.adapters.HTTPAdapter`, instead of the pool's policy; 0 for a library that
            tries again by itself.
    """

    def __init__(self, pool: SessionPool, max_retries: Any = _UNSET) -> None:
        super().__init__()
        self._pool = pool
        self._retry = UNSET if max_retries is _UNSET else HTTPAdapter(max_retries=max_retries).policy(None)

    def __repr__(self) -> str:
        return f"<PooledAdapter {self._pool!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a PooledAdapter cannot be pickled, nor a requests.Session that it is mounted on, for its pool holds "
            "sockets: mount one on the other side, over a pool of that process"
        )

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request and return its response, without following redirects; called by requests.

        Args:
            request: Sent as it is.
            stream: Return once the header has come, and hold the connection until the body has been read, or the
                response is closed or dropped. Otherwise the body is read now: the connection is free, and a failure
                may be tried again, before any hook of requests runs.
            timeout: Seconds, a pair of seconds (connect, read), or urllib3's `Timeout`, for what it names instead of
                the pool's.
            verify: A path, or False. True means as the pool does, except that certificates are checked in any case.
            cert: The client's certificate; never the pool's.
            proxies: Over the pool's.

        Raises:
            requests.RequestException: See the class.
        """
        try:
            response = self._ask(request, stream, timeout, verify, cert, proxies)
        except exceptions.RequestException as error:
            raise _theirs(error)(error, request=request) from error
        try:
            return self._build(request, response, stream)
        except BaseException:
            response.close()
            raise

    def close(self) -> None:
        """Nothing, for the pool is others' too."""

    def _ask(
        self,
        request: requests.PreparedRequest,
        stream: bool,
        timeout: Any,
        verify: Any,
        cert: Any,
        proxies: Mapping[str, str] | None,
    ) -> Response:
        defaults = self._pool._defaults
        prepared = _ours(request)
        lease = self._pool.lease(fresh=True)
        try:
            session = lease.session
            session.trust_env = False  # requests has looked there
            session.cert = None
            response = session.send(
                prepared,
                stream=stream,
                timeout=_resolved(timeout, defaults.timeout),
                verify=(defaults.verify or True) if verify is None or verify is True else verify,
                cert=cert,
                proxies=proxies,
                allow_redirects=False,
                retry=self._retry,
            )
            response.hold(lease)
        except BaseException:
            lease.release()
            raise
        return response

    def _build(self, request: requests.PreparedRequest, response: Response, stream: bool) -> requests.Response:
        """The same response as one of requests; it, or its `raw`, now has the connection."""
        reply = response._reply
        assert reply is not None  # it came from the transport
        raw = _wire.urllib3_response(_Body(reply), reply.head, response.request.method, response.request.path_url)
        theirs = requests.Response()
        theirs.status_code = response.status_code
        theirs.headers = TheirDict(raw.headers)
        theirs.encoding = get_encoding_from_headers(theirs.headers)
        theirs.raw = raw
        theirs.reason = reply.head.reason
        theirs.url = request.url or ""
        theirs.request = request
        theirs.connection = self  # type: ignore[assignment]  # any adapter will do there
        extract_cookies_to_jar(theirs.cookies, request, raw)
        if not stream:
            try:
                theirs._content = response.content
            except exceptions.StreamConsumedError:  # of a redirect whose body is broken: nobody reads such a one
                theirs._content = b""
            theirs._content_consumed = True
        return theirs


class _Body:
    """A body for `raw`, which takes a time-out for one only if it is Python's. Confined as the response is."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.host = reply.host
        self.limits = reply.limits

    @property
    def closed(self) -> bool:
        return self._reply.closed

    def read(self, amt: int | None = None) -> bytes:
        try:
            return self._reply.read(amt)
        except exceptions.ReadTimeout as error:
            raise TimeoutError(str(error)) from error

    def read1(self, amt: int = 65536) -> bytes:
        try:
            return self._reply.read1(amt)
        except exceptions.ReadTimeout as error:
            raise TimeoutError(str(error)) from error

    def close(self) -> None:
        self._reply.close()


def _ours(request: requests.PreparedRequest) -> PreparedRequest:
    """The same request as one of ours.

    Raises:
        RequestException: It cannot be sent.
    """
    prepared = PreparedRequest(
        as_method(request.method or ""), _target(request), CaseInsensitiveDict(request.headers.items())
    )
    prepared.set_body(request.body, None, None)
    return prepared


def _target(request: requests.PreparedRequest) -> Target:
    """Where it goes; path and query as they are, if that can be sent, for somebody may have signed them."""
    target = parse_target(request.url or "")
    path = request.path_url
    if target.is_opaque or not _SENDABLE.match(path):
        return target
    sent = path.encode("ascii")
    start = b" %b HTTP/1.1\r\nHost: %b\r\n" % (sent, target.host_field)
    return target if sent == target.request_target else attrs.evolve(target, request_target=sent, start=start)


def _resolved(timeout: Any, base: Timeout) -> Timeout:
    """The time-out of one call, in any form that requests takes, over the pool's.

    Raises:
        ValueError: It has none of them.
    """
    if timeout is None:
        return base
    if not hasattr(timeout, "connect_timeout"):
        return base.override(timeout)
    # urllib3's: a number, `None` for no limit, or a mark that nothing was said. `total` there is for these two alone.
    named = {"connect": timeout._connect, "read": timeout._read}
    said = {name: each for name, each in named.items() if each is None or isinstance(each, (int, float))}
    if timeout.total is not None:
        said = {name: min(said.get(name) or timeout.total, timeout.total) for name in named}
    return attrs.evolve(base, **said)


def _theirs(error: exceptions.RequestException) -> type[requests.RequestException]:
    """The class by which users of requests know such an error."""
    for kind in type(error).__mro__:
        theirs = getattr(requests.exceptions, _NAMES.get(kind.__name__, kind.__name__), None)
        if isinstance(theirs, type) and issubclass(theirs, requests.RequestException):
            return theirs
    raise AssertionError("requests has a RequestException")
