"""OpenTelemetry: spans, context propagation and `http.client.request.duration`, by the stable HTTP conventions.

    from sessionpool.ext import opentelemetry

    opentelemetry.instrument(pool)

One call of a session makes a span `sessionpool GET` (INTERNAL), and each attempt in it, redirects and retries included,
a child `GET` (CLIENT): that is what the conventions call an HTTP client span, and what the histogram counts. An attempt
begins when its host lets it go, so that pauses and cool-downs lie between the children, and ends with the body, or
with the head for a stream. Each attempt carries its own span's context to the server, by the configured propagator.

`url.full` shows no user, no password, no fragment and no signature; nothing else of a header or a body is recorded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from sessionpool._governor import Recalled
from sessionpool._version import __version__
from sessionpool.exceptions import RequestException

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from sessionpool._clock import Clock
    from sessionpool._messages import PreparedRequest, Response
    from sessionpool._pool import SessionPool
    from sessionpool._urls import Target

__all__ = ["instrument", "uninstrument"]

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.23.1"  # the first with stable HTTP conventions
_METHODS: Final = "GET,HEAD,POST,PUT,DELETE,CONNECT,OPTIONS,TRACE,PATCH"
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MEASURED: Final = ("http.request.method", "server.address", "server.port")  # and what comes of the attempt
# Keys of a query whose values give access: those that the conventions name, and the newer signature of AWS.
_SECRET_KEYS: Final = frozenset(
    {"awsaccesskeyid", "signature", "sig", "x-goog-signature"}
    | {"x-amz-credential", "x-amz-security-token", "x-amz-signature"}
)


def instrument(
    pool: SessionPool, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Trace and measure every request of this pool from now on, in place of what it was instrumented with before.

    Thread-safe. A call under way is traced from its next attempt on.

    Args:
        pool: The pool.
        tracer_provider: The global one by default.
        meter_provider: The global one by default.
    """
    pool._transport.tracer = _Tracer(pool.clock, tracer_provider, meter_provider)


def uninstrument(pool: SessionPool) -> None:
    """Trace and measure nothing more; spans that have begun come to their end. Harmless for any pool. Thread-safe."""
    pool._transport.tracer = None


class _Call:
    """One call of a session. Confined to its thread.

    Attributes:
        span: Its span; `None` if it had begun before the pool was instrumented.
        begins: Nothing of it has run yet.
        sent: Attempts so far.
    """

    __slots__ = ("begins", "sent", "span")

    def __init__(self, span: Span | None) -> None:
        self.span = span
        self.begins = True
        self.sent = 0


class _Local(threading.local):
    """What runs in the thread that looks: the innermost, for a hook may call a session too."""

    call: _Call | None = None


class _Tracer:
    """One pool's instruments; see `sessionpool._observer.Tracer`. Thread-safe."""

    def __init__(
        self, clock: Clock, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
    ) -> None:
        self._clock = clock
        self._tracer = trace.get_tracer("sessionpool", __version__, tracer_provider, _SCHEMA)
        meter = metrics.get_meter("sessionpool", __version__, meter_provider, _SCHEMA)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        known = os.environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS") or _METHODS
        self._methods = frozenset(method.strip() for method in known.split(","))
        self._local = _Local()

    def begins(self) -> bool:
        call = self._local.call
        if call is None or not call.begins:
            return True
        call.begins = False
        return False

    def call(self, request: PreparedRequest, function: Callable[[], Response]) -> Response:
        before = self._local.call
        attributes, name = self._describe_method(request.method)
        with self._spanned(f"sessionpool {name}", SpanKind.INTERNAL, attributes) as span:
            self._local.call = _Call(span)
            try:
                response = function()
            except BaseException as error:
                _note_error(span, error)
                raise
            finally:
                self._local.call = before
            _note_status(span, response)
            return response

    def attempt(self, prepared: PreparedRequest, function: Callable[[], Response]) -> Response:
        call = self._local.call
        if call is None:
            call = self._local.call = _Call(None)
            try:
                return self.attempt(prepared, function)
            finally:
                self._local.call = None
        target = prepared.target
        attributes, name = self._describe_method(prepared.method)
        attributes |= {"server.address": target.host, "server.port": target.port}
        measured = {name: attributes[name] for name in _MEASURED}
        attributes["url.full"] = _redacted(target)
        if call.span is not None and not call.sent:
            call.span.set_attributes(attributes)
        if call.sent:
            attributes["http.request.resend_count"] = call.sent
        call.sent += 1
        began = self._clock.now()
        try:
            with self._spanned(name, SpanKind.CLIENT, attributes) as span:
                carrier: dict[str, str] = {}
                propagate.inject(carrier)
                for field, value in carrier.items():
                    prepared.headers[field] = value
                try:
                    response = function()
                except Recalled:
                    raise
                except BaseException as error:
                    measured |= _note_error(span, error)
                    raise
                measured |= _note_status(span, response)
        except Recalled:
            call.sent -= 1
            raise
        except BaseException:
            self._duration.record(self._clock.now() - began, measured)
            raise
        self._duration.record(self._clock.now() - began, measured)
        return response

    @contextmanager
    def _spanned(self, name: str, kind: SpanKind, attributes: dict[str, Any]) -> Iterator[Span]:
        """A span that is the current one meanwhile. One that nothing was sent in never ends, and so is not told of."""
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Recalled:
                raise
            except BaseException:
                with suppress(Exception):  # a processor's fault is not the request's
                    span.end()
                raise
        with suppress(Exception):
            span.end()

    def _describe_method(self, method: str) -> tuple[dict[str, Any], str]:
        """The attributes of a method, and the name of its span: few, whatever is sent."""
        if method in self._methods:
            return {"http.request.method": method}, method
        return {"http.request.method": "_OTHER", "http.request.method_original": method}, "HTTP"


def _note_status(span: Span, response: Response) -> dict[str, Any]:
    """What a response says, as attributes of its span and of the measurement."""
    status = response.status_code
    said: dict[str, Any] = {"http.response.status_code": status}
    if response._reply is not None:
        said["network.protocol.version"] = "1.0" if response._reply.head.version == 10 else "1.1"
    if status >= 400:  # of a client's span, for which the conventions call both 4xx and 5xx errors
        said["error.type"] = str(status)
        span.set_status(Status(StatusCode.ERROR))
    span.set_attributes(said)
    return said


def _note_error(span: Span, error: BaseException) -> dict[str, Any]:
    """What an error says; its own text is recorded where it is known to hold no secret."""
    said = {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}
    span.set_attributes(said)
    span.set_status(Status(StatusCode.ERROR, str(error) if isinstance(error, RequestException) else None))
    return said


def _redacted(target: Target) -> str:
    """A URL as the conventions want it seen."""
    url = target.url.partition("#")[0]
    if target.auth is not None:
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        url = f"{scheme}://REDACTED:REDACTED@{authority.rpartition('@')[2]}{slash}{path}"
    start, mark, query = url.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    shown = "&".join(f"{key}{sign}{'REDACTED' if value and _is_secret(key) else value}" for key, sign, value in pairs)
    return f"{start}{mark}{shown}"


def _is_secret(key: str) -> bool:
    return unquote_plus(key).strip().lower() in _SECRET_KEYS
