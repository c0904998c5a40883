"""A session: what is sent with every request, and what is remembered from every response.

Cheap by design: no socket, no lock, no adapter; what a session does not change it shares with the pool's defaults, and
its mappings and its cookie jar are made when first looked at.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # in no stub

import attrs

from sessionpool import _wire
from sessionpool._clock import NEVER, SYSTEM_CLOCK, Deadline
from sessionpool._codes import codes
from sessionpool._config import Limits, Timeout
from sessionpool._governor import Recalled
from sessionpool._health import BY_HAND, Record
from sessionpool._messages import (
    REDIRECTS,
    SECRET_FIELDS,
    CaseInsensitiveDict,
    Hooks,
    PreparedRequest,
    Request,
    Response,
    add_params,
    as_auth,
    as_hooks,
    as_mapping,
    as_method,
    ask_auth,
)
from sessionpool._netrc import find, read_netrc
from sessionpool._proxies import ROTATED, Passage
from sessionpool._retry import Retries, RetryPolicy, as_policy
from sessionpool._transport import Transport
from sessionpool._urls import Target, as_url, is_same_place, join, parse_target
from sessionpool._version import __version__
from sessionpool.adapters import ADAPTERS_SEND, BaseAdapter, HTTPAdapter
from sessionpool.auth import HTTPBasicAuth
from sessionpool.cookies import CookieJar, as_jar
from sessionpool.exceptions import (
    BodyTooLarge,
    ChunkedEncodingError,
    ContentDecodingError,
    InsecureRedirect,
    InvalidSchema,
    InvalidURL,
    LeaseReleasedError,
    RequestException,
    TooManyRedirects,
    UnrewindableBodyError,
    WrongThreadError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from sessionpool._connection import Reply, Route

_METHODS: Final = frozenset({"GET", "OPTIONS", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_BODILESS: Final = frozenset({"GET", "HEAD"})  # those that say nothing about a body they do not have
# Methods of a session that a call skips unless a subclass has its own.
_STEPS: Final = ("get_adapter", "get_redirect_target", "merge_environment_settings", "prepare_request", "send")
# What a session is, as plain data.
_STATE: Final = (
    "adapters",
    "auth",
    "base_url",
    "cert",
    "cookies",
    "headers",
    "hooks",
    "max_redirects",
    "params",
    "proxies",
    "retry",
    "stream",
    "timeout",
    "trust_env",
    "verify",
)
_PATIENCE: Final = 60.0  # seconds that a request without a policy waits for a host that cools down

UNSET: Final[Any] = object()

# Owners of a session that is no thread's. Thread idents are never 0 or negative.
ANYONE: Final = 0
NOBODY: Final = -1


def default_headers() -> CaseInsensitiveDict:
    """What is sent unless something else was asked for."""
    return CaseInsensitiveDict(
        {
            "User-Agent": f"sessionpool/{__version__}",
            "Accept-Encoding": _wire.DECODABLE,
            "Accept": "*/*",
            "Connection": "keep-alive",
        }
    )


@attrs.frozen(kw_only=True, eq=False)
class Defaults:
    """What a session starts from; shared by all sessions of a pool and never changed.

    The environment (`HTTP_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`, ...) is read once, when this is made: reading it
    for each request costs more than the request.
    """

    headers: CaseInsensitiveDict
    params: Mapping[str, Any]
    auth: Any
    cookies: CookieJar | None
    proxies: Mapping[str, str]
    verify: bool | str | ssl.SSLContext
    cert: str | tuple[str, str] | None
    hooks: Hooks
    trust_env: bool
    max_redirects: int
    base_url: str | None
    timeout: Timeout
    retry: RetryPolicy | None
    environment_proxies: Mapping[str, str]  # a rotation's, which takes the environment's place, where the pool has one
    environment_ca: str | None
    netrc: Mapping[str, tuple[str, str]] = attrs.field(repr=False)

    @classmethod
    def of(
        cls,
        *,
        headers: Mapping[str, Any] | None = None,
        params: Any = None,
        auth: Any = None,
        cookies: Any = None,
        proxies: Mapping[str, str] | None = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, str] | None = None,
        hooks: Hooks | None = None,
        trust_env: bool = True,
        max_redirects: int = 30,
        base_url: str | None = None,
        timeout: Timeout | None = None,
        retry: Any = None,
    ) -> Defaults:
        """Defaults from what a user wrote, checked now rather than at the first request.

        Raises:
            InvalidHeader: A header may not be sent.
            InvalidURL: `base_url` is not an absolute http or https URL.
            ValueError: `timeout` is not a `Timeout`, `retry` no policy, or `max_redirects` not a number of at least 0.
        """
        merged = default_headers().merged(as_mapping(headers, "headers"))
        merged.block()  # raises for what may not be sent, and is what the sessions share
        if base_url is not None and parse_target(base_url).is_opaque:
            raise InvalidURL(f"base_url must be an http or https URL; got {_wire.redacted(base_url)!r}")
        if timeout is not None and not isinstance(timeout, Timeout):
            raise ValueError(f"timeout must be a sessionpool.Timeout, such as Timeout(read=10); got {timeout!r}")
        as_auth(auth)
        if not isinstance(max_redirects, int) or max_redirects < 0:
            raise ValueError(f"max_redirects must be a whole number of at least 0; got {max_redirects!r}")
        return cls(
            headers=merged,
            params=dict(params or {}),
            auth=auth,
            cookies=None if cookies is None else as_jar(cookies),
            proxies=dict(as_mapping(proxies, "proxies")),
            verify=verify,
            cert=tuple(cert) if isinstance(cert, list) else cert,
            hooks=as_hooks(hooks),
            trust_env=trust_env,
            max_redirects=max_redirects,
            base_url=base_url,
            timeout=timeout or Timeout(),
            retry=as_policy(retry),
            environment_proxies=getproxies_environment() if trust_env else {},
            environment_ca=(os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"))
            if trust_env
            else None,
            netrc=read_netrc() if trust_env else {},
        )


class Call:
    """What holds for one call of a session, through its attempts and its redirects. Confined to the call's thread.

    It is what a hook finds as `response.connection`, and an adapter of a user's as `request.sender`.

    Attributes:
        adapter: What is mounted for where the call is at, if it is to be asked how to send; else `None`.
        asked: The time-outs as they were asked for, in the call or of the session; `None` if they were not.
        retry: What the call says of retries.
        route: How that is reached.
        retries: The failures so far; `None` if there was none.
        streams: The bodies that have not been read when they came; `None` if there was none.
    """

    __slots__ = (
        "adapter",
        "asked",
        "cert",
        "deadline",
        "policy",
        "proxies",
        "retries",
        "retry",
        "route",
        "session",
        "stream",
        "streams",
        "timeout",
        "verify",
    )

    def __init__(
        self,
        session: Session,
        asked: Any,
        timeout: Timeout,
        deadline: Deadline,
        stream: bool,
        verify: bool | str | ssl.SSLContext,
        cert: str | tuple[str, str] | None,
        proxies: Mapping[str, str] | None,
        retry: Any,
    ) -> None:
        self.session = session
        self.asked = asked
        self.timeout = timeout
        self.deadline = deadline
        self.stream = stream
        self.verify = verify
        self.cert = cert
        self.proxies = proxies
        self.retry = retry
        self.policy = session._retry if retry is UNSET else as_policy(retry)
        self.adapter: BaseAdapter | None = None
        self.retries: Retries | None = None
        self.route: Route | None = None
        self.streams: list[Reply] | None = None

    def settings(self) -> dict[str, Any]:
        """The keywords that hooks, and adapters, are called with."""
        return {
            "stream": self.stream,
            "timeout": self.asked,
            "verify": self.verify,
            "cert": self.cert,
            "proxies": self.proxies or {},
        }

    def send(self, request: PreparedRequest, **settings: Any) -> Response:
        """Send one more request within the call, as the last was sent; hooks and redirects are not its matter.

        Raises:
            LeaseStateError: The call's thread does not hold the session any more.
        """
        self.session.check_holder()
        return self.session.dispatch(request, self._with(**settings))

    def exchange(self, request: PreparedRequest, adapter: BaseAdapter, **settings: Any) -> Response:
        """Send one more request within the call, over a connection, as `adapter` says."""
        self.session.check_holder()
        call = self._with(**settings)
        if adapter is not self.adapter:  # one that another, which is mounted, hands its requests on to
            call.adapter = adapter
            if call.retry is UNSET:
                call.policy = adapter.policy(call.policy)
        request.describe_body_again()  # the adapter may have changed it
        try:
            return self.session.exchange(request, call)
        finally:
            self.route, self.retries = call.route, call.retries

    def _with(
        self,
        *,
        stream: bool | None = None,
        timeout: Any = None,
        verify: bool | str | ssl.SSLContext | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Call:
        """The same call with other settings, where they are given; one deadline holds for both."""
        if self.streams is None:
            self.streams = []
        call = Call(
            self.session,
            self.asked if timeout is None else timeout,
            self.timeout if timeout is None else self.timeout.override(timeout),
            self.deadline,
            self.stream if stream is None else stream,
            self.verify if verify is None else verify,
            self.cert if cert is None else cert,
            self.proxies if proxies is None else proxies,
            self.retry,
        )
        call.policy, call.adapter, call.retries, call.streams = self.policy, self.adapter, self.retries, self.streams
        return call


class Verbs:
    """The verbs, for whatever has a `request`: a session, and a pool."""

    __slots__ = ()

    request: Callable[..., Response]

    def get(self, url: str, params: Any = None, **kwargs: Any) -> Response:
        """Send a GET request; see `request`."""
        if params is not None:
            kwargs["params"] = params
        if kwargs:
            return self.request("GET", url, **kwargs)
        return self.request("GET", url)  # the same, but to unpack an empty mapping costs 0.2 µs

    def options(self, url: str, **kwargs: Any) -> Response:
        """Send an OPTIONS request; see `request`."""
        return self.request("OPTIONS", url, **kwargs)

    def head(self, url: str, **kwargs: Any) -> Response:
        """Send a HEAD request; redirects are not followed unless asked for."""
        kwargs.setdefault("allow_redirects", False)
        return self.request("HEAD", url, **kwargs)

    def post(self, url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
        """Send a POST request; see `request`."""
        return self.request("POST", url, data=data, json=json, **kwargs)

    def put(self, url: str, data: Any = None, **kwargs: Any) -> Response:
        """Send a PUT request; see `request`."""
        return self.request("PUT", url, data=data, **kwargs)

    def patch(self, url: str, data: Any = None, **kwargs: Any) -> Response:
        """Send a PATCH request; see `request`."""
        return self.request("PATCH", url, data=data, **kwargs)

    def delete(self, url: str, **kwargs: Any) -> Response:
        """Send a DELETE request; see `request`."""
        return self.request("DELETE", url, **kwargs)


class Session(Verbs):
    """Sends requests with its own headers, auth and cookies, with the interface people know from requests.

    Leased from a pool, it belongs to the thread that leased it: used by another it raises `WrongThreadError`, used
    after the lease it raises `LeaseReleasedError`. Made by itself, it may be handed from thread to thread;
    two threads that use it at the same time raise `WrongThreadError` instead of corrupting it.

    Attributes:
        verify: Whether and how a server's certificate is checked: True, False, a path, or an `SSLContext`.
        cert: Path to the client's certificate, or paths of certificate and key.
        max_redirects: How many redirects are followed.
        trust_env: Whether the environment's proxies and certificates count; they are read when the session or
            its pool is made.
        stream: What `stream=` is when a call does not say.
        timeout: A `Timeout`, or requests' float or pair, for calls that name none.
        base_url: What relative URLs are relative to (RFC 3986 §5).
    """

    __slots__ = (
        "__dict__",  # for what users put there, as with any object; made when they do
        "__weakref__",
        "_adapters",
        "_asked",
        "_auth",
        "_claims",
        "_cookies",
        "_defaults",
        "_ended",
        "_followed",
        "_headers",
        "_hooks",
        "_own_methods",
        "_owns_transport",
        "_params",
        "_proxies",
        "_retry",
        "_streams",
        "_transport",
        "base_url",
        "cert",
        "deadline",
        "health",
        "hold",
        "max_redirects",
        "owner",
        "passage",
        "stream",
        "timeout",
        "trust_env",
        "verify",
    )

    # What a subclass has of its own among the methods that a call goes through: then it goes through them.
    _overridden: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Note what is overridden."""
        super().__init_subclass__(**kwargs)
        cls._overridden = frozenset(name for name in _STEPS if getattr(cls, name) is not getattr(Session, name))
        if cls.resolve_redirects is not Session.resolve_redirects:
            raise TypeError(
                f"{cls.__name__}.resolve_redirects would never be called by sessionpool: override get_redirect_target, "
                "rebuild_method, rebuild_auth or should_strip_auth"
            )

    def __init__(self, *, transport: Transport | None = None, defaults: Defaults | None = None) -> None:
        """A session of its own, over connections of its own; both arguments are the pool's."""
        defaults = defaults or Defaults.of()
        self.owner = ANYONE  # a thread's ident while leased
        self.hold: Any = None  # the pool's, while leased
        self.health: Record | None = None  # the pool's, if it has `Health` or a rotation; else made when it is needed
        self.passage: Passage | None = None  # the pool's, if it has a rotation
        self.verify = defaults.verify
        self.cert = defaults.cert
        self.max_redirects = defaults.max_redirects
        self.trust_env = defaults.trust_env
        self.stream = False
        self.timeout: Any = None
        # The pool's: of a call that began when it had no session yet.
        self.deadline: Deadline | None = None
        self.base_url = defaults.base_url
        self._defaults = defaults
        self._owns_transport = transport is None
        # requests has no bound; these let single-threaded code keep many streams open without ever waiting for itself.
        self._transport = transport or Transport("session", Limits(per_host=1000, total=1000), SYSTEM_CLOCK)
        self._auth = defaults.auth
        self._retry = defaults.retry
        self._adapters: dict[str, BaseAdapter] | None = None
        self._own_methods = self._overridden  # here it is found quicker
        # A redirected request that `send`, as a subclass has it, is to send, and its call.
        self._followed: tuple[PreparedRequest, Call] | None = None
        self._asked = 0.0  # when the latest attempt began
        self._ended = 0.0  # when it ended, for the metrics
        # The defaults' own, until somebody looks at them and may change them.
        self._headers = defaults.headers
        self._params = defaults.params
        self._proxies = defaults.proxies
        self._hooks = defaults.hooks
        self._cookies = None if defaults.cookies is None else defaults.cookies.copy()
        self._streams: weakref.WeakSet[Reply] | None = None
        self._claims: dict[int, tuple[int]] = {}  # by process: who is in the midst of a call

    def __repr__(self) -> str:
        whose = {ANYONE: "its own", NOBODY: "released"}.get(self.owner, f"leased by thread {self.owner}")
        return f"<Session {whose}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- state ---

    @property
    def headers(self) -> CaseInsensitiveDict:
        """Sent with every request; a call's own headers go over them, `None` there takes one out."""
        self.check_holder()
        if self._headers is self._defaults.headers:
            self._headers = self._defaults.headers.copy()
        return self._headers

    @headers.setter
    def headers(self, headers: Mapping[str, Any]) -> None:
        self.check_holder()
        mapping = as_mapping(headers, "headers")
        self._headers = mapping if isinstance(mapping, CaseInsensitiveDict) else CaseInsensitiveDict(mapping)

    @property
    def cookies(self) -> CookieJar:
        """This session's cookies: what its responses set, and what is put here by hand."""
        self.check_holder()
        if self._cookies is None:
            self._cookies = CookieJar()
        return self._cookies

    @cookies.setter
    def cookies(self, cookies: Any) -> None:
        self.check_holder()
        self._cookies = as_jar(cookies)

    @property
    def auth(self) -> Any:
        """Who asks: a pair of user and password, or a callable such as those of `sessionpool.auth`; `None`: nobody."""
        self.check_holder()
        return self._auth

    @auth.setter
    def auth(self, auth: Any) -> None:
        self.check_holder()
        as_auth(auth)  # raises for what is none
        self._auth = auth

    @property
    def retry(self) -> RetryPolicy | None:
        """Which failures are tried again; `None`: none. May be set to urllib3's `Retry` too, which is translated."""
        self.check_holder()
        return self._retry

    @retry.setter
    def retry(self, retry: Any) -> None:
        self.check_holder()
        self._retry = as_policy(retry)

    @property
    def adapters(self) -> dict[str, BaseAdapter]:
        """What is mounted, by the beginning of the URLs that it is for; the longest first."""
        self.check_holder()
        if self._adapters is None:
            self._adapters = {"https://": HTTPAdapter(), "http://": HTTPAdapter()}
        return self._adapters

    def mount(self, prefix: str, adapter: BaseAdapter) -> None:
        """Use `adapter` for URLs that begin with `prefix`, unless a longer one is mounted for them."""
        if not isinstance(adapter, BaseAdapter):
            raise ValueError(f"mount takes a sessionpool.adapters.BaseAdapter, such as HTTPAdapter; got {adapter!r}")
        mounted = {**self.adapters, prefix.lower(): adapter}
        self._adapters = dict(sorted(mounted.items(), key=lambda item: -len(item[0])))

    def get_adapter(self, url: str) -> BaseAdapter:
        """What is mounted for this URL.

        Raises:
            InvalidSchema: Nothing is.
        """
        url = url.lower()
        for prefix, adapter in self.adapters.items():
            if url.startswith(prefix):
                return adapter
        raise InvalidSchema(f"no adapter is mounted for {_wire.redacted(url)!r}")

    @property
    def params(self) -> dict[str, Any]:
        """Added to the query of every request."""
        self.check_holder()
        if self._params is self._defaults.params:
            self._params = dict(self._params)
        return cast(dict[str, Any], self._params)

    @params.setter
    def params(self, params: Any) -> None:
        self.check_holder()
        self._params = dict(params or {})

    @property
    def proxies(self) -> dict[str, str]:
        """Proxies by scheme (`https`), scheme and host (`https://example.com`) or `all`."""
        self.check_holder()
        if self._proxies is self._defaults.proxies:
            self._proxies = dict(self._proxies)
        return cast(dict[str, str], self._proxies)

    @proxies.setter
    def proxies(self, proxies: Mapping[str, str]) -> None:
        self.check_holder()
        self._proxies = dict(as_mapping(proxies, "proxies"))

    @property
    def hooks(self) -> dict[str, list[Any]]:
        """Functions called with every response: `{"response": [function]}`; one may return another response."""
        self.check_holder()
        if self._hooks is self._defaults.hooks:
            self._hooks = {"response": list(self._hooks.get("response", ()))}
        return cast(dict[str, list[Any]], self._hooks)

    @hooks.setter
    def hooks(self, hooks: Hooks) -> None:
        self.check_holder()
        self._hooks = as_hooks(hooks)

    @property
    def retired(self) -> str | None:
        """Why this session was retired; `None` while it is fit. Any thread may look."""
        return None if self.health is None else self.health.retired

    def mark_good(self) -> None:
        """It was served as it should be: 0.5 off its score of errors, down to 0; see `Health.max_score`."""
        self._record().mark_good()

    def mark_bad(self) -> None:
        """It was served as somebody unwelcome (a captcha, an empty page): 1 more on its score of errors.

        At `Health.max_score` it is retired; see `retire`. In a pool without `Health`, and for a session of no pool, the
        default counts.
        """
        if self._record().mark_bad(self._transport.clock.now()):
            self._tell_retired()

    def retire(self, reason: str) -> None:
        """Make this lease the session's last: it goes on as it is, and whoever leases next gets another session.

        What `Health.on_retire` says holds for an identity; a thread's own session is replaced by a new one. A session
        of no pool, a fork too, has no next lease: there this only sets `retired`. The first reason stays.
        """
        if self._record().retire(reason, self._transport.clock.now(), is_blocked=True):
            self._tell_retired()

    def _record(self) -> Record:
        self.check_holder()
        if self.health is None:
            self.health = Record(BY_HAND, self._transport.clock.now())
        return self.health

    def _heed(self, record: Record, route: Route, outcome: int | RequestException) -> None:
        """What a request came to, a status or an error, tells of this session and of its proxy."""
        now = self._transport.clock.now()
        if self.passage is not None and route.partition is not None:
            benched = self.passage.note(outcome, now, is_forwarding=route.is_forwarding)
            if benched is not None:
                self._transport.watch.tell("benched", *benched)
        if record.note(outcome, now):
            self._tell_retired()

    def _tell_retired(self) -> None:
        hold = self.hold
        self._transport.watch.tell("retired", None if hold is None else hold.key, self.retired)

    def check_holder(self) -> None:
        """Raise as a request would if the caller does not hold this session's lease."""
        if self.owner not in (ANYONE, get_ident()):
            self._claim(get_ident())

    def request(
        self,
        method: str,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Mapping[str, Any] | None = None,
        cookies: Any = None,
        files: Any = None,
        auth: Any = None,
        timeout: Any = None,
        allow_redirects: bool = True,
        proxies: Mapping[str, str] | None = None,
        hooks: Hooks | None = None,
        stream: bool | None = None,
        verify: bool | str | ssl.SSLContext | None = None,
        cert: str | tuple[str, str] | None = None,
        json: Any = None,
        retry: Any = UNSET,
    ) -> Response:
        """Send a request and return the response, redirects followed, failures tried again as the policy says.

        Args:
            method: Any token (RFC 9110 §9.1).
            url: Absolute, or relative to `base_url`.
            params: Mapping or pairs for the query.
            data: Body: mapping or pairs (sent as a form), str, bytes, a file, or an iterable of bytes (sent chunked).
            headers: Over the session's; `None` as a value takes one out.
            cookies: Sent beside the session's, and not kept.
            files: Sent as multipart/form-data: `{field: file}` or `{field: (name, content, type, headers)}`.
            auth: Instead of the session's.
            timeout: `Timeout`, or seconds, or a pair of seconds (connect, read), instead of the session's.
            allow_redirects: Follow them.
            proxies: Over the session's.
            hooks: Called after the session's.
            stream: Return once the header has come; the body is read on demand.
            verify: Instead of the session's.
            cert: Instead of the session's.
            json: Body, sent as JSON.
            retry: A `RetryPolicy` (or urllib3's `Retry`, or `None` for no retries) instead of the session's.

        Raises:
            RequestException: See `sessionpool.exceptions`; `NotSent` and `MaySent` tell whether it may be sent again.
        """
        caller = get_ident()
        claimed = self.owner != caller and self._claim(caller)
        try:
            try:
                if self._own_methods and "prepare_request" in self._own_methods:
                    wanted = Request(method, url, headers, files, data, params, auth, cookies, hooks, json)
                    prepared = self.prepare_request(wanted)
                else:
                    prepared = self._prepare(method, url, params, data, headers, cookies, files, auth, hooks, json)
            except BaseException as error:
                meter = self._transport.watch.meter
                if meter is not None:
                    meter.raised(str(method).upper(), "", error, 0.0)
                raise
            if not self._own_methods and Session.send is _SESSIONS_SEND:
                return self._send(prepared, stream, timeout, verify, cert, proxies, allow_redirects, retry)
            if "merge_environment_settings" in self._own_methods:
                settings = self.merge_environment_settings(prepared.url, proxies or {}, stream, verify, cert)
            else:  # the environment's proxy is chosen anew for each redirect, and is no wish of the call's
                settings = self._merged(proxies, stream, verify, cert)
            if retry is not UNSET:
                settings["retry"] = retry
            return self.send(prepared, timeout=timeout, allow_redirects=allow_redirects, **settings)
        finally:
            if claimed:
                self._claims.clear()

    def send(
        self,
        request: PreparedRequest,
        *,
        stream: bool | None = None,
        timeout: Any = None,
        verify: bool | str | ssl.SSLContext | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        allow_redirects: bool = True,
        retry: Any = UNSET,
    ) -> Response:
        """Send a request that has been prepared; everything as with `request`, which tells of the arguments.

        Raises:
            ValueError: It is not a `PreparedRequest`.
            RequestException: As by `request`.
        """
        if not isinstance(request, PreparedRequest) or request.target is None:
            raise ValueError(
                f"send takes a PreparedRequest with a URL; got {request!r}: prepare it with "
                "session.prepare_request(Request(method, url))"
            )
        caller = get_ident()
        claimed = self.owner != caller and self._claim(caller)
        try:
            if self._followed is not None and self._followed[0] is request:
                (_, call), self._followed = self._followed, None
                return self._hop(request, call)
            request.describe_body_again()  # it may have been changed since it was prepared
            return self._send(request, stream, timeout, verify, cert, proxies, allow_redirects, retry)
        finally:
            if claimed:
                self._claims.clear()

    def _send(
        self,
        request: PreparedRequest,
        stream: bool | None,
        timeout: Any,
        verify: bool | str | ssl.SSLContext | None,
        cert: str | tuple[str, str] | None,
        proxies: Mapping[str, str] | None,
        allow_redirects: bool,
        retry: Any,
    ) -> Response:
        transport = self._transport
        # Looked at twice because it may go meanwhile, and because one look is all that a call without one pays for.
        if transport.tracer is not None and (tracer := transport.tracer) is not None and tracer.begins():
            return tracer.call(
                request,
                partial(self._send, request, stream, timeout, verify, cert, proxies, allow_redirects, retry),
            )
        meter = transport.watch.meter
        began = 0.0 if meter is None else transport.clock.now()
        call: Call | None = None
        try:
            asked = self.timeout if timeout is None else timeout
            timeout = self._defaults.timeout if asked is None else self._defaults.timeout.override(asked)
            deadline = NEVER
            if timeout.total is not None:
                deadline = Deadline.after(timeout.total, transport.clock.now(), "Timeout.total")
                if self.deadline is not None:
                    deadline = self.deadline.earlier(deadline)
            call = Call(
                self,
                asked,
                timeout,
                deadline,
                self.stream if stream is None else stream,
                self.verify if verify is None else verify,
                self.cert if cert is None else cert,
                proxies,
                retry,
            )
            # What nobody has put anything between goes straight.
            is_plain = self._adapters is None and not self._own_methods and HTTPAdapter.send is ADAPTERS_SEND
            response = self.exchange(request, call) if is_plain and not request._hooks else self._hop(request, call)
            if call.retries is not None:
                response.attempts = call.retries.attempts
            if response.status_code in REDIRECTS or (not is_plain and "get_redirect_target" in self._own_methods):
                response = self._land(request, response, call, allow_redirects)
        except BaseException as error:
            if call is not None and call.streams is not None:
                for reply in call.streams:  # of what failed after it had come; whoever catches that cannot close it
                    reply.close()
            if meter is not None:
                host = "" if call is None or call.route is None else call.route.key
                meter.raised(request.method, host, error, transport.clock.now() - began)
            raise
        if meter is not None:
            meter.note_call((request.method, response.status_code, self._ended - began))
            if len(meter.calls) > meter.full:
                meter.fold()
        return response

    def resolve_redirects(
        self,
        resp: Response,
        req: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str | ssl.SSLContext | None = None,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        yield_requests: bool = False,
        retry: Any = UNSET,
    ) -> Iterator[Any]:
        """The responses that the redirect `resp`, the answer to `req`, leads to, sent for as the iteration goes.

        With `yield_requests` the one request that it asks for, not sent.
        """
        asked = self.timeout if timeout is None else timeout
        timeout = self._defaults.timeout if asked is None else self._defaults.timeout.override(asked)
        call = Call(
            self,
            asked,
            timeout,
            Deadline.after(timeout.total, self._transport.clock.now(), "Timeout.total"),
            stream,
            self.verify if verify is None else verify,
            self.cert if cert is None else cert,
            proxies,
            retry,
        )
        if yield_requests:
            yield self._follow(req, resp, call)
            return
        responses = self._redirects(req, resp, call)
        while True:
            caller = get_ident()
            claimed = self.owner != caller and self._claim(caller)
            try:
                response = next(responses, None)
            finally:
                if claimed:
                    self._claims.clear()
            if response is None:
                return
            yield response

    def __getstate__(self) -> dict[str, Any]:
        """What was set; neither connections nor a lease."""
        self.check_holder()
        return {name: getattr(self, name) for name in _STATE} | getattr(self, "__dict__", {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        Session.__init__(self)
        mounted = state.pop("adapters")
        for name, value in state.items():
            setattr(self, name, value)
        for prefix, adapter in mounted.items():
            self.mount(prefix, adapter)

    def fork(self) -> Session:
        """A session of no lease, over the same connections, that starts with copies of this one's state.

        Log in once, then give each worker a fork; what one does with its cookies the others do not see.
        """
        twin = Session(transport=self._transport, defaults=self._defaults)
        for name in (
            "verify",
            "cert",
            "max_redirects",
            "trust_env",
            "stream",
            "timeout",
            "base_url",
            "_auth",
            "_retry",
        ):
            setattr(twin, name, getattr(self, name))
        defaults = self._defaults
        if self._headers is not defaults.headers:
            twin._headers = self._headers.copy()
        if self._params is not defaults.params:
            twin._params = dict(self._params)
        if self._proxies is not defaults.proxies:
            twin._proxies = dict(self._proxies)
        if self._hooks is not defaults.hooks:
            twin._hooks = {name: list(each) for name, each in self._hooks.items()}
        twin._cookies = None if self._cookies is None else self._cookies.copy()
        twin._adapters = None if self._adapters is None else dict(self._adapters)
        if self.health is not None:
            twin.health = Record(self.health.settings, self._transport.clock.now())
        if self.passage is not None:
            twin.passage = attrs.evolve(self.passage)
        return twin

    def close(self) -> None:
        """Close open streams, and the connections if they are this session's own; it can be used again afterwards."""
        self.close_streams()
        try:
            with contextlib.ExitStack() as closings:  # one that fails keeps none of the others open
                for adapter in (self._adapters or {}).values():
                    closings.callback(adapter.close)
        finally:
            if self._owns_transport:
                self._transport.close()
                self._transport = Transport("session", self._transport.limits, self._transport.clock)

    def close_streams(self, *, collected: bool = False) -> None:
        """Close the bodies that were asked for as streams and not read to their end; `collected`: from a finalizer."""
        if self._streams is not None:
            for reply in list(self._streams):
                if collected:
                    reply.abandon()
                else:
                    reply.close()
            self._streams = None

    # --- preparing ---

    def _claim(self, caller: int) -> bool:
        """Let `caller` in if it may use this session; True if it has to give it up after the call.

        Raises:
            LeaseReleasedError: The lease is over.
            WrongThreadError: Another thread holds the lease, or is in the middle of a call.
        """
        if self.owner == NOBODY:
            raise LeaseReleasedError(
                "this session's lease has been released; lease one again with pool.lease(), or use session.fork() "
                "for one that outlives its lease"
            )
        if self.owner != ANYONE:
            raise WrongThreadError(
                "this session is leased by another thread; lease one here with pool.lease(), or call "
                "lease.transfer() in the thread that takes it over"
            )
        claim = (caller,)
        # Atomic, with and without a GIL. By process, because a call that was under way at a fork does not end there.
        holder = self._claims.setdefault(os.getpid(), claim)
        if holder != claim:
            raise WrongThreadError(
                "this session is in the middle of a call by another thread; give each thread its own, "
                "with SessionPool.lease() or session.fork()"
            )
        return holder is claim  # else an outer call of this thread, a hook's caller, holds it and gives it up

    def _prepare(
        self,
        method: str | bytes,
        url: str | bytes,
        params: Any,
        data: Any,
        headers: Mapping[str, Any] | None,
        cookies: Any,
        files: Any,
        auth: Any,
        hooks: Hooks | None,
        json: Any,
    ) -> PreparedRequest:
        if method not in _METHODS:
            method = as_method(method)
        target = self._target(url, params)
        own = self._headers
        if headers:
            prepared = PreparedRequest(method, target, own.merged(as_mapping(headers, "headers")))
        else:
            prepared = PreparedRequest(method, target, own, own.block())
        if cookies or self._cookies:
            self._add_cookies(prepared, as_jar(cookies) if cookies else None)
        if data is not None or files or json is not None or headers or method not in _BODILESS or own.frames:
            prepared.set_body(data, files, json)
        if auth is None:
            auth = self._auth or target.auth
            if auth is None and self._defaults.netrc and self.trust_env and not prepared.has_field("authorization"):
                auth = find(self._defaults.netrc, target.host)
        if auth is not None:
            prepared = ask_auth(auth, prepared)
            prepared.describe_body_again()  # the handler may have changed it
        if hooks or self._hooks:  # after those of auth, so that a user's see what these have come to
            prepared.prepare_hooks(self._hooks)
            prepared.prepare_hooks(hooks)
        return prepared

    def _target(self, url: str | bytes, params: Any) -> Target:
        if not isinstance(url, str) or url[:1] <= " ":
            url = as_url(url)
        if self.base_url is not None:
            url = join(self.base_url, url)
        own = self._params
        if own and (params is None or isinstance(params, Mapping)):
            merged = {**own, **(params or {})}
            params = {name: value for name, value in merged.items() if value is not None}
        if params:
            url = add_params(url, params)
        return parse_target(url)

    def _add_cookies(self, prepared: PreparedRequest, given: CookieJar | None) -> None:
        """Those of the session, and `given`, the call's own."""
        prepared.given_cookies = given
        target = prepared.target
        if prepared.has_field("cookie") or target.is_opaque:
            return  # set by hand, as in requests; or of no host that cookies could be for
        now = self._transport.clock.wall()
        line = self.cookies.header(target.host, target.path, target.is_secure, now, overlay=given)
        if line is not None:
            prepared.add_field("Cookie", line)

    def prepare_request(self, request: Request) -> PreparedRequest:
        """A request as `request` would send it, with the session's headers, params, auth, cookies and hooks.

        Raises:
            RequestException: A part of it may not be sent.
        """
        self.check_holder()
        return self._prepare(
            request.method or "",
            request.url or "",
            request.params,
            request.data,
            request.headers,
            request.cookies,
            request.files,
            request.auth,
            request.hooks,
            request.json,
        )

    def merge_environment_settings(
        self,
        url: str,
        proxies: Mapping[str, str] | None,
        stream: bool | None,
        verify: bool | str | ssl.SSLContext | None,
        cert: str | tuple[str, str] | None,
    ) -> dict[str, Any]:
        """What a call to `url` uses: what it says, else what the session says, else the environment."""
        self.check_holder()
        environment = self._defaults.environment_proxies if self.trust_env and self.passage is None else {}
        target = parse_target(url)
        proxy = _choose_proxy(target, proxies, self._proxies, environment)
        merged = self._merged(proxies, stream, verify, cert)
        if proxy is not None and proxy not in merged["proxies"].values():
            merged["proxies"][target.scheme] = proxy
        merged["verify"] = self._verify(merged["verify"])
        return merged

    def _merged(
        self,
        proxies: Mapping[str, str] | None,
        stream: bool | None,
        verify: bool | str | ssl.SSLContext | None,
        cert: str | tuple[str, str] | None,
    ) -> dict[str, Any]:
        """What a call says, over what the session says."""
        return {
            "proxies": {**self._proxies, **(proxies or {})},
            "stream": self.stream if stream is None else stream,
            "verify": self.verify if verify is None else verify,
            "cert": self.cert if cert is None else cert,
        }

    def _verify(self, verify: bool | str | ssl.SSLContext) -> bool | str | ssl.SSLContext:
        environment = self._defaults.environment_ca
        if verify is True:
            return verify if environment is None or not self.trust_env else environment
        return os.fspath(verify) if isinstance(verify, os.PathLike) else verify

    def _route(self, prepared: PreparedRequest, call: Call) -> Route:
        defaults = self._defaults
        proxy = partition = None
        if call.proxies or self._proxies or defaults.environment_proxies:
            passage = self.passage
            environment = defaults.environment_proxies if self.trust_env or passage is not None else {}
            proxy = _choose_proxy(prepared.target, call.proxies, self._proxies, environment)
            if passage is not None and proxy is ROTATED:
                proxy, partition = passage.take(self._transport.clock.now()), passage.partition
        verify, cert = call.verify, call.cert
        if verify is not True or defaults.environment_ca is not None:
            verify = self._verify(verify)
        if call.adapter is not None:
            verify, cert = call.adapter.tls(call.verify, verify, cert)
        if cert is not None:
            cert = tuple(cert) if isinstance(cert, list) else cert
        wanted: tuple[Any, ...] = (prepared.target.origin, proxy, verify, cert, partition)
        if call.adapter is not None and proxy is not None and (fields := call.adapter.proxy_fields(proxy)):
            wanted = (*wanted, fields)
        return self._transport.routes.get(wanted) or self._transport.route(*wanted)

    def route_to(self, url: str) -> Route:
        """How this session reaches a URL's host.

        Raises:
            RequestException: The URL, or the proxy that it would go through, cannot be used.
        """
        prepared = PreparedRequest("GET", self._target(url, None), self._headers, self._headers.block())
        timeout = self._defaults.timeout
        return self._route(prepared, Call(self, None, timeout, NEVER, False, self.verify, self.cert, None, UNSET))

    # --- sending ---

    def _hop(self, prepared: PreparedRequest, call: Call) -> Response:
        """One request and its response, by what is mounted; hooks called, redirects not followed."""
        if self._adapters is not None or self._own_methods or HTTPAdapter.send is not ADAPTERS_SEND:
            adapter = call.adapter = self.get_adapter(prepared.url)
            if call.retry is UNSET and call.policy is not (policy := adapter.policy(self._retry)):
                call.policy, call.retries = policy, None
        response = self.exchange(prepared, call) if call.adapter is None else self.dispatch(prepared, call)
        if prepared._hooks:
            response = self._call_hooks(prepared, response, call)
        return response

    def dispatch(self, prepared: PreparedRequest, call: Call) -> Response:
        """One request, sent by what is mounted."""
        adapter = call.adapter
        if adapter is None or adapter.is_plain:
            return self.exchange(prepared, call)
        clock = self._transport.clock
        began = clock.now()
        before, prepared.sender = prepared.sender, call
        try:
            response = adapter.send(prepared, **call.settings())
        finally:
            prepared.sender = before
        self._ended = clock.now()
        if not isinstance(response, Response):
            raise TypeError(f"{type(adapter).__name__}.send must return a sessionpool.Response; got {response!r}")
        if not response.is_received:
            # Nothing of ours has seen it: what it lacks is done here, as it is for those that came by a connection.
            response.adopt(prepared, self._ended - began)
            for cookie in response.cookies:
                if cookie.domain:  # one of no host would go to every host
                    self.cookies.set_cookie(cookie)
        elif response.request is not prepared:
            response.request.sender = None  # a copy's, that the adapter has sent instead
        if not call.stream:
            response.settle()
        return response

    def exchange(self, prepared: PreparedRequest, call: Call) -> Response:
        """One request over a connection, with its retries."""
        policy = call.policy
        call.route = route = self._route(prepared, call)
        try:
            if self._transport.hosts.watching:
                response = self._governed(prepared, route, call)
            else:
                response = self._attempt(prepared, route, call)
        except RequestException as error:
            if policy is None:
                raise
            return self._settle(error, prepared, call, policy)
        if policy is not None and (response.status_code in policy.statuses or policy.retry is not None):
            return self._settle(response, prepared, call, policy)
        return response

    def _settle(
        self, outcome: Response | RequestException, prepared: PreparedRequest, call: Call, policy: RetryPolicy
    ) -> Response:
        """What the first attempt's outcome comes to in the end."""
        if call.retries is None:
            call.retries = Retries(policy, self._transport, call.deadline, self._asked)
        route = call.route
        assert route is not None
        try:
            return call.retries.settle(outcome, prepared, route.key, self._asked, partial(self._again, prepared, call))
        finally:
            del outcome  # an error refers to this frame, and the frame to it

    def _again(self, prepared: PreparedRequest, call: Call) -> Response:
        """One more attempt, through another proxy if the session's has been taken out meanwhile."""
        if self.passage is not None:
            call.route = self._route(prepared, call)
        assert call.route is not None
        return self._governed(prepared, call.route, call)

    def _governed(self, prepared: PreparedRequest, route: Route, call: Call) -> Response:
        """One attempt, when the host lets it go; what became of it is told to the governor."""
        hosts, clock = self._transport.hosts, self._transport.clock
        patience = _PATIENCE if call.policy is None else call.policy.patience
        recalled: Recalled | None = None
        while True:
            self._asked = asked = clock.now()
            outcome: int | BaseException | None = None
            latency = None
            try:
                has_slot = hosts.enter(route.key, patience, call.deadline, recalled)
                asked = clock.now()
                response = self._attempt(prepared, route, call, True, has_slot)
                outcome, latency = response.status_code, response.latency(asked)
            except Recalled as again:
                recalled = again
            except RequestException as error:
                outcome = error
                raise
            else:
                return response
            finally:
                hosts.leave(route.key, outcome, asked, latency)
                outcome = None  # an error refers to this frame, and the frame to it

    def _attempt(
        self,
        prepared: PreparedRequest,
        route: Route,
        call: Call,
        has_entered: bool = False,
        has_slot: bool = False,
        is_traced: bool = False,
    ) -> Response:
        """One request, one response; its cookies kept, its body read unless it is to be streamed."""
        transport = self._transport
        if transport.tracer is not None and not is_traced and (tracer := transport.tracer) is not None:
            attempt = partial(self._attempt, prepared, route, call, has_entered, has_slot, True)
            try:
                return tracer.attempt(prepared, attempt)
            except Recalled:
                if has_entered:
                    raise
                return self._governed(prepared, route, call)
        watch = transport.watch
        self._asked = asked = transport.clock.now()
        try:
            reply = transport.send(prepared, route, call.timeout, call.deadline, asked, has_slot)
            try:
                response = Response(reply, prepared)
                if reply.head.set_cookie:
                    self._store_cookies(prepared.target, reply.head.set_cookie)
                if not call.stream:
                    try:
                        response.load()
                    except (BodyTooLarge, ChunkedEncodingError, ContentDecodingError):
                        if not response.is_redirect:
                            raise
                        reply.close()  # where it leads is in its head; nobody reads such a body
                elif not reply.ended:
                    if self._streams is None:
                        self._streams = weakref.WeakSet()
                    self._streams.add(reply)
                    if call.streams is None:
                        call.streams = []
                    call.streams.append(reply)
                    reply.unbind()
            except BaseException:
                reply.close()
                if watch.meter is not None:
                    watch.meter.waited_in_vain(route.key, reply.permit.since - asked)
                raise
        except Recalled:
            if has_entered or is_traced:
                raise
            return self._governed(prepared, route, call)
        except RequestException as error:
            if error.request is None:
                error.request = prepared
            if self.health is not None:
                self._heed(self.health, route, error)
            if watch.failed is not None:
                try:
                    watch.failed(prepared.method, route.key, error, transport.clock.now() - asked)
                except Exception:  # noqa: BLE001 - whatever a user's code may raise
                    watch.drop()
            raise
        if self.health is not None:
            self._heed(self.health, route, reply.head.status)
        meter = watch.meter
        if meter is not None:
            self._ended = ended = transport.clock.now()
            waited = reply.permit.since - asked
            meter.note_attempt((route.key, waited, ended - asked, reply.sent, reply.received))
        if watch.responded is not None:
            seconds = transport.clock.now() - asked
            try:
                watch.responded(prepared.method, route.key, reply.head.status, seconds, reply.sent, reply.received)
            except Exception:  # noqa: BLE001 - whatever a user's code may raise
                watch.drop()
        return response

    def _call_hooks(self, prepared: PreparedRequest, response: Response, call: Call) -> Response:
        seen = [response]
        try:
            for hook in prepared.hooks.get("response", ()):
                response.connection = call
                replaced = hook(response, **call.settings())
                if replaced is not None:  # one that is not `ok` is false
                    if not isinstance(replaced, Response):
                        raise TypeError(f"a hook returns a sessionpool.Response or None; {hook!r} gave {replaced!r}")
                    response = replaced
                    seen.append(response)
                    if not call.stream:
                        response.settle()
        except BaseException:
            for each in seen:  # whoever catches that has no response to close
                each.close()
            raise
        finally:
            for each in seen:
                each.connection = None
        return response

    def _store_cookies(self, target: Target, lines: Iterable[str]) -> None:
        now = self._transport.clock.wall()
        for line in lines:
            self.cookies.store(line, target.host, target.path, target.is_secure, now)

    # --- redirects ---

    def _land(self, prepared: PreparedRequest, response: Response, call: Call, allow_redirects: bool) -> Response:
        """Where a redirect leads, in the end; itself, if nobody wants to go."""
        if not allow_redirects:
            if self.get_redirect_target(response) is not None:
                with contextlib.suppress(RequestException):  # it may lead anywhere; nobody asked to go
                    response.next = self._follow(prepared, response, call)
            return response
        for landed in self._redirects(prepared, response, call):
            response = landed
        return response

    def _redirects(self, prepared: PreparedRequest, response: Response, call: Call) -> Iterator[Response]:
        """The responses that a redirect leads to, one by one, each with those before it as its history."""
        history: list[Response] = []
        while self.get_redirect_target(response) is not None:
            following = self._leave(prepared, response, call, len(history))
            history.append(response)
            prepared = following
            try:
                if "send" in self._own_methods:
                    self._followed = (prepared, call)
                    try:
                        response = self.send(prepared, allow_redirects=False, **call.settings())
                    finally:
                        self._followed = None
                else:
                    response = self._hop(prepared, call)
            except RequestException as error:
                error.history = tuple(history)
                raise
            response.history = history[:]
            if call.retries is not None:
                response.attempts = call.retries.attempts
            yield response

    def get_redirect_target(self, resp: Response) -> str | None:
        """Where a response redirects to, as the server wrote it; `None` if it does not."""
        location = resp.location if resp.is_redirect else None
        if not location:
            return None
        try:
            # Header bytes are read as Latin-1, but servers that do not escape send UTF-8.
            return location.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return location

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        """Whether what proves who asks at one URL is none of the other's business."""
        return not is_same_place(parse_target(old_url).origin, parse_target(new_url).origin)

    def rebuild_method(self, prepared_request: PreparedRequest, response: Response) -> None:
        """Give a redirected request the method that the redirect leaves it."""
        prepared_request.method = _redirected_method(prepared_request.method, response.status_code)

    def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
        """Take out of a redirected request what proves who asks, if it leads elsewhere (RFC 9110 §15.4)."""
        if self.should_strip_auth(response.request.url, prepared_request.url):
            _strip(prepared_request)
            # Only who is named: what is meant for any other host is not for those that a server chooses.
            named = self._defaults.netrc.get(prepared_request.target.host) if self.trust_env else None
            if named is not None:
                HTTPBasicAuth(*named)(prepared_request)

    def rebuild_proxies(self, prepared_request: PreparedRequest, proxies: Mapping[str, str] | None) -> Any:
        """Take out of a redirected request what was for the proxy alone; the proxies to choose from stay."""
        prepared_request.headers.pop("Proxy-Authorization", None)
        return proxies

    def _leave(self, prepared: PreparedRequest, response: Response, call: Call, count: int) -> PreparedRequest:
        """Be done with a redirect; the request that it asks for, if it may be followed after `count` others."""
        try:
            following = self._follow(prepared, response, call)
            self._check_redirect(prepared, following, response, count)
        except BaseException:
            response.close()
            raise
        response.finish()
        return following

    def _check_redirect(
        self, prepared: PreparedRequest, following: PreparedRequest, response: Response, count: int
    ) -> None:
        """Raise if a redirect is one too many, or leads from https to http."""
        here = _wire.redacted(prepared.url)
        if count >= self.max_redirects:
            raise TooManyRedirects(
                f"{here} redirects once more after {count} redirects (max_redirects={self.max_redirects})",
                request=prepared,
                response=response,
            )
        if prepared.target.is_secure and not following.target.is_secure:
            raise InsecureRedirect(
                f"{here} redirects from https to {_wire.redacted(following.url)}, which is refused: "
                "follow it yourself (allow_redirects=False, response.next) if that is meant",
                request=prepared,
                response=response,
            )

    def _follow(self, prepared: PreparedRequest, response: Response, call: Call) -> PreparedRequest:
        """The request that a redirect asks for (RFC 9110 §15.4).

        Raises:
            InvalidURL, InvalidSchema: The location is no URL that can be fetched.
            UnrewindableBodyError: It asks for the body again, which cannot be had.
        """
        old = prepared.target
        # Whose answer it is: a hook, or an adapter, may have brought that of another place.
        asked = old if response.request is None else response.request.target
        try:
            new = parse_target(_absolute(self.get_redirect_target(response) or "", asked))
            if new.is_opaque and new.scheme != asked.scheme:
                # What is mounted for files or the like is there for the user to ask, not for a server to point at.
                raise InvalidSchema(f"its scheme {new.scheme!r} is neither http nor https")
        except (InvalidURL, InvalidSchema) as error:
            message = f"{_wire.redacted(old.url)} redirects to what cannot be fetched: {error}"
            raise type(error)(message, request=prepared, response=response) from None
        following = PreparedRequest(prepared.method, new, prepared.headers.copy(), None, prepared._hooks)
        following.given_cookies = prepared.given_cookies
        self.rebuild_method(following, response)
        if following.method == prepared.method and response.status_code in _KEEPING:
            following.take_body_of(prepared)
            if not following.is_replayable:
                raise UnrewindableBodyError(
                    f"{_wire.redacted(old.url)} redirects ({response.status_code}) and asks for the body again; "
                    "it can be read only once",
                    request=prepared,
                    response=response,
                )
        else:
            following.drop_body()
        for name in ("Cookie", "Host"):
            following.headers.pop(name, None)
        call.proxies = self.rebuild_proxies(following, call.proxies)
        self.rebuild_auth(following, response)
        if asked.origin != old.origin and self.should_strip_auth(old.url, new.url):
            _strip(following)  # the header is that of the request to `old`
        if following.given_cookies or self._cookies:
            self._add_cookies(following, following.given_cookies)
        return following


# Redirects that ask for the same once more, body and all (RFC 9110 §15.4.8, §15.4.9).
_KEEPING: Final = frozenset({codes.temporary_redirect, codes.permanent_redirect})


def _absolute(location: str, old: Target) -> str:
    absolute = join(old.url, location)
    if "#" not in absolute and "#" in old.url:
        absolute += old.url[old.url.index("#") :]  # RFC 9110 §10.2.2
    return absolute


def _strip(request: PreparedRequest) -> None:
    """Take out what the user meant for one origin, which is not another's to see."""
    for name in SECRET_FIELDS:
        request.headers.pop(name, None)
    request.given_cookies = None


def _redirected_method(method: str, status: int) -> str:
    """RFC 9110 §15.4: what browsers do, which the RFC allows: 303 and 302 become GET, 301 if it was POST."""
    if status in (codes.see_other, codes.found) and method != "HEAD":
        return "GET"
    if status == codes.moved and method == "POST":
        return "GET"
    return method


def _choose_proxy(
    target: Target,
    asked: Mapping[str, str] | None,
    own: Mapping[str, str],
    environment: Mapping[str, str],
) -> str | None:
    """The proxy for a target: what the call says, else the session, else the environment unless `NO_PROXY` names it."""
    names = (f"{target.scheme}://{target.host}", target.scheme, f"all://{target.host}", "all")
    for proxies in (asked or {}, own):
        for name in names:
            if name in proxies:
                return proxies[name] or None
    proxy = next((environment[name] for name in (target.scheme, "all") if environment.get(name)), None)
    for proxies in (own, asked or {}):
        if proxies.get("no_proxy") is not None:  # as in requests it takes the place of the variable
            environment = {**environment, "no": proxies["no_proxy"]}
    if proxy is None or _bypasses(target.host, target.port, environment):
        return None
    return proxy


def _bypasses(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """`NO_PROXY` names this host: by name, by suffix, with a port, or by a network that holds its address."""
    proxies = dict(environment)
    name = f"[{host}]" if ":" in host else host
    if any(proxy_bypass_environment(each, proxies) for each in (f"{name}:{port}", host)):
        return True
    listed = environment.get("no", "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in listed.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


# As they are written here: somebody may put others in their place, to test, and is not to be passed by.
_SESSIONS_SEND: Final = Session.send
