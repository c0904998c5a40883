"""What proves who is asking: objects called with the request before it is sent, as in requests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from sessionpool._clock import SYSTEM_CLOCK
from sessionpool._digest import Key, Memory, choose, parse_challenges, parse_params
from sessionpool._urls import is_same_place
from sessionpool._wire import CONTROLS, basic_credentials, redacted
from sessionpool.exceptions import UnrewindableBodyError

if TYPE_CHECKING:
    from sessionpool._messages import PreparedRequest, Response

__all__ = [
    "AuthBase",
    "HTTPBasicAuth",
    "HTTPBearerAuth",
    "HTTPDigestAuth",
    "HTTPProxyAuth",
    "HTTPProxyDigestAuth",
]

Origin = tuple[str, str, int]  # scheme, host, port

_ROUNDS: Final = 2  # challenges that one request answers: one, and another if its nonce was too old
_VISIBLE: Final = re.compile(r"[!-~]+")


class AuthBase:
    """Base of authentication handlers; any callable that takes and returns the request will do as well.

    One handler may serve many sessions in many threads, so keep what it remembers thread-safe.
    """

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Add to `r` what proves who is asking, and return it."""
        raise NotImplementedError("an auth handler must define __call__")


def _check_text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A user or a password: RFC 7617 §2 forbids control characters, and there is no name with one in other schemes."""
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"{attribute.name} must be str or bytes; got {type(value).__name__}")
    if CONTROLS.search(value if isinstance(value, str) else value.decode("latin-1")):
        raise ValueError(f"{attribute.name} holds a control character, which no {attribute.name} may (RFC 7617 §2)")


def _check_no_colon(_: Any, attribute: attrs.Attribute[Any], value: str | bytes) -> None:
    if ":" in (value if isinstance(value, str) else value.decode("latin-1")):
        raise ValueError(
            f"{attribute.name} holds a colon; a server would take what follows for the password (RFC 7617 §2)"
        )


@attrs.define(slots=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class HTTPBasicAuth(AuthBase):
    """User name and password (RFC 7617), as Latin-1 where that can be, else as UTF-8; bytes as they are. Immutable.

    Raises:
        ValueError: One of them is neither str nor bytes, or holds a control character; or the user's name, a colon.
    """

    username: str | bytes = attrs.field(validator=[_check_text, _check_no_colon])
    password: str | bytes = attrs.field(validator=_check_text, repr=False)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Authorization`."""
        r.headers["Authorization"] = basic_credentials(self.username, self.password)
        return r


@attrs.define(slots=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class HTTPProxyAuth(HTTPBasicAuth):
    """User name and password for a proxy that forwards plain http. Immutable."""

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Proxy-Authorization`."""
        r.headers["Proxy-Authorization"] = basic_credentials(self.username, self.password)
        return r


def _check_token(_: Any, __: Any, value: Any) -> None:
    # RFC 6750 §2.1 allows less, but there are servers that issue tokens with "|" or ":" in them.
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        raise ValueError("token must be a str of visible ASCII characters, at least one and no space among them")


@attrs.define(slots=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class HTTPBearerAuth(AuthBase):
    """A token (RFC 6750 §2.1). Immutable.

    Raises:
        ValueError: It is no str, is empty, or holds anything but visible ASCII characters.
    """

    token: str = attrs.field(validator=_check_token, repr=False)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Authorization`."""
        r.headers["Authorization"] = f"Bearer {self.token}"
        return r


@attrs.define(slots=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class HTTPDigestAuth(AuthBase):
    """User name and password, of which the server sees only a hash (RFC 7616). Thread-safe; for any number of sessions.

    A challenge is answered by sending the request again, within the same call; what a server asked is kept, so that
    further requests to it carry an answer from the start. Answers go to the origin that the request was made for and
    nowhere else: to a host that a redirect leads to, nothing is proved. A wrong password ends with the 401.

    Knows MD5, SHA, SHA-256, SHA-512-256 and SHA-512, each as "-sess" too; of several challenges, the strongest counts.
    `auth` is chosen where a server offers it, else `auth-int`, for which the body is read once more. How a server
    proves itself in turn (`rspauth`) is not looked at: that is what TLS is for.

    Copies, pickles and forked processes begin without what was learnt. A request raises `UnrewindableBodyError` when
    its body would have to be sent again, or hashed, and can be read only once.

    Raises:
        ValueError: User or password is neither str nor bytes, or holds a control character.
    """

    _status: ClassVar[int] = 401
    _asks: ClassVar[str] = "WWW-Authenticate"
    _says: ClassVar[str] = "Authorization"

    username: str | bytes = attrs.field(validator=_check_text)
    password: str | bytes = attrs.field(validator=_check_text, repr=False)
    # By process: the counts from before a fork are the parent's, and a lock may have been held then.
    _memories: dict[int, Memory] = attrs.field(init=False, factory=dict, eq=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.username, self.password)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Set `Authorization` if it is known what the server asks, and answer it if it asks."""
        target = r.target
        key = self._memory().get(target.origin)
        if key is not None and key.covers(f"{target.scheme}://{target.host_field.decode('ascii')}", r.path_url):
            r.headers[self._says] = self._answer(r, target.origin, key)
        r.register_hook("response", partial(self._respond, target.origin))
        return r

    def _memory(self) -> Memory:
        process = os.getpid()
        memory = self._memories.get(process)
        return self._memories.setdefault(process, Memory()) if memory is None else memory

    def _server(self, asked: Origin, r: Response, connection: Any) -> Origin | None:  # noqa: ARG002 - the proxy's
        """Who asks by a response, to a request that was made for `asked`; `None` for nobody who is to be answered."""
        server = r.request.target.origin
        return server if is_same_place(asked, server) else None

    def _respond(self, asked: Origin, r: Response, **kwargs: Any) -> Response:
        """Answer what a server asks; a hook."""
        first, connection, server = r, r.connection, self._server(asked, r, r.connection)
        if server is None:
            return r
        key: Key | None = None
        for _ in range(_ROUNDS):
            if r.status_code != self._status:
                break
            terms = choose(parse_challenges(r.headers.get(self._asks, "")))
            if terms is None or (key is not None and not terms.stale):
                break  # what is refused, and not for its nonce, was made with a wrong password
            key = Key.of(terms, self.username, self.password)
            if not r.request.is_replayable:
                self._memory().keep(server, key)  # so that the next request carries an answer when it is sent
                if self._sent(r) and not terms.stale:
                    break  # as far as one can tell without another answer, the password is wrong
                raise UnrewindableBodyError(
                    f"{redacted(r.request.url)} asks who it is ({self._status}) after it was sent the body, an "
                    "iterable that can be read only once",
                    request=r.request,
                    response=r,
                )
            r = self._again(r, server, key, connection, kwargs)
        if r.status_code != self._status:
            self._learn(r, server, key)
        if r.is_redirect and self._sent(first):
            # An answer is for one URI. The session makes the next request of the one that it sent, which has to go
            # without; what is looked at later, `first.request`, keeps it.
            sent, first.request = first.request, first.request.copy()
            del sent.headers[self._says]
        return r

    def _again(self, r: Response, server: Origin, key: Key, connection: Any, kwargs: dict[str, Any]) -> Response:
        """The response to the same request, with an answer."""
        r.finish()  # its connection goes back before another is asked for
        request = r.request.copy()
        request.headers[self._says] = self._answer(request, server, key)
        _take_cookies(request, r)
        again: Response = connection.send(request, **kwargs)
        again.history = [*r.history, r]
        return again

    def _answer(self, request: PreparedRequest, server: Origin, key: Key) -> str:
        body = _entity(request) if key.terms.qop == "auth-int" else ()
        return key.answer(request.method, request.path_url, self._memory().count(server, key.nonce), body)

    def _sent(self, r: Response) -> str:
        """The answer that a request carried, if it was one of ours."""
        if not r.request.has_field(self._says):
            return ""
        said = str(r.request.headers[self._says])
        return said if said.startswith("Digest ") else ""

    def _learn(self, r: Response, server: Origin, key: Key | None) -> None:
        """Keep what was answered with, now that it has come through, and mind what the server says of the next time."""
        memory = self._memory()
        if key is not None:
            # Not before: there are servers that refuse a count when they have seen a higher one, and threads overtake
            # each other. A key of one's own is at its first count when it arrives.
            memory.keep(server, key)
        said = self._sent(r)
        if said and (following := parse_params(r.headers.get("Authentication-Info", "")).get("nextnonce")):
            key = memory.get(server)
            # Another thread may have been told of another since.
            if key is not None and parse_params(said.removeprefix("Digest ")).get("nonce") == key.nonce:
                memory.keep(server, attrs.evolve(key, nonce=following))


@attrs.define(slots=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class HTTPProxyDigestAuth(HTTPDigestAuth):
    """The same for a proxy that forwards plain http: answers its 407. Thread-safe; for any number of sessions.

    Its answer goes before a user's part of the proxy's URL, which is sent as Basic until then. A proxy asks every
    request anew: through which one a request will go is not known yet when its auth is set, and what is for one is not
    another's to see.

    A tunnel (https through a proxy, CONNECT) is asked for before any request is sent, and not by an auth handler: where
    a proxy wants a digest for it, the request ends with `ProxyError`.
    """

    _status: ClassVar[int] = 407
    _asks: ClassVar[str] = "Proxy-Authenticate"
    _says: ClassVar[str] = "Proxy-Authorization"

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Answer the proxy if it asks."""
        r.register_hook("response", partial(self._respond, r.target.origin))
        return r

    def _server(self, asked: Origin, r: Response, connection: Any) -> Origin | None:  # noqa: ARG002 - the origin's
        # The origin may say 407 as well, and has no business with the proxy's password.
        route = connection.route
        if route is None or not route.is_forwarding:
            return None
        return route.proxy.scheme, route.proxy.host, route.proxy.port

    def _learn(self, r: Response, server: Origin, key: Key | None) -> None:
        """Nothing."""


def _entity(request: PreparedRequest) -> Iterable[bytes]:
    """The body, to be hashed before it is sent.

    Raises:
        UnrewindableBodyError: Then it could not be sent.
    """
    if not request.is_replayable:
        raise UnrewindableBodyError(
            f"{redacted(request.url)} asks for a hash of the body (Digest with qop=auth-int), an iterable that can be "
            "read only once",
            request=request,
        )
    body = request.open_body()
    return (body,) if isinstance(body, bytes) else body or ()


def _take_cookies(request: PreparedRequest, r: Response) -> None:
    """Send along what the response has set: some servers know by it whom they have asked."""
    target = request.target
    line = r.cookies.header(target.host, target.path, target.is_secure, SYSTEM_CLOCK.wall()) if r.cookies else None
    if line is not None:
        before = [each for each in request.headers.get("Cookie", "").split("; ") if each]
        pairs = {each.partition("=")[0]: each for each in [*before, *line.split("; ")]}
        request.headers["Cookie"] = "; ".join(pairs.values())
