"""The bridge to OpenTelemetry, with the real SDK, against a real server: what leaves is what the conventions want."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sessionpool import Governor, Limits, RateLimit, RetryPolicy, SessionPool, Timeout
from sessionpool.exceptions import ConnectError, InvalidProxyURL, InvalidURL, ReadTimeout
from tests.helpers import PATIENCE, eventually, in_thread
from tests.with_server.children import script
from tests.with_server.echo_server import Answer, EchoServer, Seen, redirect

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sessionpool.ext.opentelemetry import instrument, uninstrument

QUICK = RetryPolicy(attempts=3, backoff=0.0)


class Backend:
    """Where spans and measurements end up, and what to instrument a pool with so that they do."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def instrument(self, pool: SessionPool) -> None:
        instrument(pool, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        """Those that have ended, in the order they began."""
        spans = [span for span in self._exporter.get_finished_spans() if span.kind is kind]
        return sorted(spans, key=lambda span: span.start_time or 0)

    @property
    def calls(self) -> list[ReadableSpan]:
        return self.spans(SpanKind.INTERNAL)

    @property
    def attempts(self) -> list[ReadableSpan]:
        return self.spans(SpanKind.CLIENT)

    def points(self) -> list[Any]:
        """The histogram's, one for each set of attributes."""
        data = self._reader.get_metrics_data()
        metrics: list[Any] = [
            metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        assert [(metric.name, metric.unit) for metric in metrics] in ([], [("http.client.request.duration", "s")])
        return [point for metric in metrics for point in metric.data.data_points]

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.close()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool(backend: Backend) -> Iterator[SessionPool]:
    with SessionPool(trust_env=False, retry=QUICK, governor=Governor(cool_down=False)) as pool:
        backend.instrument(pool)
        yield pool


def port(server: EchoServer) -> int:
    return int(server.url.rpartition(":")[2])


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def failing(times: int, status: int = 503) -> Callable[[Seen], Answer]:
    """So many failures, then a 200."""
    left = [status] * times + [200] * 100
    return lambda _: Answer(b"said", left.pop(0))


# --- spans ---


def test_a_request_is_a_call_and_an_attempt(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """The call's span is internal, the attempt's its child, of the kind and with the attributes of an HTTP client."""
    pool.get(server.url + "/items?page=2")
    ((call,), (attempt,)) = backend.calls, backend.attempts
    request = {
        "http.request.method": "GET",
        "url.full": server.url + "/items?page=2",
        "server.address": "127.0.0.1",
        "server.port": port(server),
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }

    assert (call.name, attempt.name) == ("sessionpool GET", "GET")
    assert (said(call), said(attempt)) == (request, request)
    assert (parent(call), parent(attempt)) == (None, call.context.span_id)
    assert (call.status.status_code, attempt.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)
    assert attempt.instrumentation_scope is not None
    assert attempt.instrumentation_scope.name == "sessionpool"
    assert attempt.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.23.1"


def test_the_callers_span_is_the_parent(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """What a request was made for is seen in the trace."""
    with backend.tracers.get_tracer("test").start_as_current_span("crawl") as span:
        pool.get(server.url)
    outer, call = backend.calls

    assert outer.name == "crawl"
    assert parent(call) == span.get_span_context().span_id


def test_a_verb_that_nobody_knows_is_other(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Names and attributes stay few, whatever is sent; what was sent is told beside."""
    pool.request("brew", server.url)
    ((call,), (attempt,)) = backend.calls, backend.attempts

    assert (call.name, attempt.name) == ("sessionpool HTTP", "HTTP")
    for span in (call, attempt):
        assert said(span)["http.request.method"] == "_OTHER"
        assert said(span)["http.request.method_original"] == "BREW"
    assert backend.points()[0].attributes["http.request.method"] == "_OTHER"
    assert "http.request.method_original" not in backend.points()[0].attributes


def test_the_known_verbs_can_be_named(
    backend: Backend, pool: SessionPool, server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variable that the conventions ask for."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "BREW, GET")
    backend.instrument(pool)
    pool.request("BREW", server.url)
    pool.post(server.url)

    assert [span.name for span in backend.attempts] == ["BREW", "HTTP"]


@pytest.mark.parametrize("status", [404, 500])
def test_an_answer_of_4xx_or_5xx_is_an_error(
    status: int, backend: Backend, pool: SessionPool, server: EchoServer
) -> None:
    """Of a client's spans, by the conventions; `error.type` is the status."""
    server.answers["/no"] = Answer(b"", status)
    pool.get(server.url + "/no")

    for span in (*backend.calls, *backend.attempts):
        assert span.status.status_code is StatusCode.ERROR
        assert said(span)["error.type"] == str(status)
        assert said(span)["http.response.status_code"] == status


def test_a_failure_is_an_error(backend: Backend, pool: SessionPool) -> None:
    """`error.type` is the class, the description its text; the stack is left out, for it may show anything."""
    with pytest.raises(ConnectError) as raised:
        pool.get("http://127.0.0.1:1/?token=hush", retry=None)
    ((call,), (attempt,)) = backend.calls, backend.attempts

    for span in (call, attempt):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == str(raised.value)
        assert said(span)["error.type"] == "sessionpool.exceptions.ConnectError"
        assert "http.response.status_code" not in said(span)
        assert not span.events


def test_a_call_that_comes_to_no_attempt(backend: Backend, pool: SessionPool) -> None:
    """It is a span of its own, with the error; what cannot even be prepared is no call."""
    with pytest.raises(InvalidURL):
        pool.get("http://")
    with pytest.raises(InvalidProxyURL):
        pool.get("http://127.0.0.1/", proxies={"http": "http://"})

    assert [said(span)["error.type"] for span in backend.calls] == ["sessionpool.exceptions.InvalidProxyURL"]
    assert (backend.attempts, backend.points()) == ([], [])


def test_retries_are_attempts_of_one_call(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Each has its own status, and from the second on its ordinal number; the call has the last one's."""
    server.answers["/flaky"] = failing(2)
    pool.get(server.url + "/flaky")
    (call,), attempts = backend.calls, backend.attempts

    assert [said(span)["http.response.status_code"] for span in attempts] == [503, 503, 200]
    assert [said(span).get("http.request.resend_count") for span in attempts] == [None, 1, 2]
    assert {parent(span) for span in attempts} == {call.context.span_id}
    assert said(call)["http.response.status_code"] == 200
    assert call.status.status_code is StatusCode.UNSET


def test_redirects_are_attempts_of_one_call(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Each with its own URL; the call's is the one that was asked for."""
    server.answers["/old"] = redirect("/new")
    pool.get(server.url + "/old")
    (call,), attempts = backend.calls, backend.attempts

    assert [said(span)["url.full"] for span in attempts] == [server.url + "/old", server.url + "/new"]
    assert [said(span)["http.response.status_code"] for span in attempts] == [302, 200]
    assert [said(span).get("http.request.resend_count") for span in attempts] == [None, 1]
    assert said(call)["url.full"] == server.url + "/old"
    assert said(call)["http.response.status_code"] == 200


def test_a_stream_ends_its_span_with_the_head(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Who reads the body when, and whether at all, is the user's affair."""
    with pool.get(server.url, stream=True) as response:
        ended = len(backend.attempts), len(backend.calls)
        assert response.json()["method"] == "GET"

    assert ended == (1, 1)


def test_an_attempt_lasts_until_the_body_has_come(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """A body that does not come is the attempt's error, though its head was a 200."""

    def stalls() -> Iterator[bytes]:
        yield b"half"
        pool.close(timeout=0)
        yield b"rest"

    server.answers["/"] = Answer(stalls())
    with pytest.raises(Exception, match="closed"):
        pool.get(server.url + "/", retry=None)

    assert [span.status.status_code for span in backend.attempts] == [StatusCode.ERROR]


def test_hooks_are_within_the_call(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """A call that a hook makes on the same session is a call of its own, within the other."""
    server.answers["/a"] = redirect("/b")
    server.answers["/b"] = redirect("/c")
    with pool.lease() as session:

        def ask_more(response: Any, **_: Any) -> None:
            if response.request.path_url == "/b":
                session.get(server.url + "/inner")

        session.get(server.url + "/a", hooks={"response": ask_more})
        session.get(server.url + "/next")
    outer, inner, following = backend.calls
    paths = [said(span)["url.full"].removeprefix(server.url) for span in backend.attempts]
    wholes = [outer, outer, inner, outer, following]

    assert paths == ["/a", "/b", "/inner", "/c", "/next"]
    assert (parent(inner), parent(following)) == (outer.context.span_id, None)
    assert [parent(span) for span in backend.attempts] == [span.context.span_id for span in wholes]
    assert [said(span).get("http.request.resend_count") for span in backend.attempts] == [None, 1, None, 2, None]


def test_who_waits_for_its_host_has_one_attempt(backend: Backend, server: EchoServer) -> None:
    """Sent back from the queue for a connection because the host asked for less meanwhile: nothing was sent."""
    governor = Governor(rate=RateLimit(rate=50, burst=1))
    with SessionPool(trust_env=False, limits=Limits(per_host=1), governor=governor) as pool:
        backend.instrument(pool)
        calls = [in_thread(pool.get, server.url) for _ in range(6)]
        for call in calls:
            call.get()

    assert len(backend.calls) == len(backend.attempts) == len(server.seen) == 6
    assert {said(span).get("http.request.resend_count") for span in backend.attempts} == {None}
    assert {parent(span) for span in backend.attempts} == {span.context.span_id for span in backend.calls}


def test_who_is_recalled_before_the_host_was_watched_has_one_attempt(backend: Backend, server: EchoServer) -> None:
    """A cool-down that began while it waited for its connection holds it up, and is no attempt."""
    cooling = iter([Answer(b"", 429, [("Retry-After", "1")])])
    with SessionPool(trust_env=False, limits=Limits(per_host=1), retry=None) as pool:
        backend.instrument(pool)
        seen: list[Any] = []

        def slow(_: Seen) -> Answer:
            answer = next(cooling, None)
            if answer is None:
                return Answer(b"")
            seen.append(in_thread(pool.get, server.url + "/"))
            eventually(lambda: pool.stats().waiting)
            return answer

        server.answers["/"] = slow
        assert pool.get(server.url + "/").status_code == 429
        assert seen[0].get().status_code == 200

    assert [said(span)["http.response.status_code"] for span in backend.attempts] == [429, 200]
    assert [said(span).get("http.request.resend_count") for span in backend.attempts] == [None, None]


# --- propagation ---


def traceparent(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def test_each_attempt_carries_its_own_context(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """One `traceparent`, of the attempt's span, in first attempts, retries and after redirects."""
    server.answers["/flaky"] = failing(1)
    server.answers["/old"] = redirect("/flaky")
    pool.get(server.url + "/old")

    assert len(server.seen) == 3
    assert [seen.all("traceparent") for seen in server.seen] == [[traceparent(span)] for span in backend.attempts]


def test_the_configured_propagator_is_used(
    pool: SessionPool, server: EchoServer, request: pytest.FixtureRequest
) -> None:
    """Whatever fields it writes are sent: by default baggage beside the context, here only the context."""
    request.addfinalizer(partial(propagate.set_global_textmap, propagate.get_global_textmap()))
    token = context.attach(baggage.set_baggage("tenant", "ada"))
    try:
        pool.get(server.url)
        propagate.set_global_textmap(TraceContextTextMapPropagator())
        pool.get(server.url)
    finally:
        context.detach(token)

    assert [seen.header("baggage") for seen in server.seen] == ["tenant=ada", None]
    assert all(seen.header("traceparent") for seen in server.seen)


def test_the_sessions_headers_stay_as_they_were(pool: SessionPool, server: EchoServer) -> None:
    """The context is the request's, not the session's; what the user sends is sent as without it."""
    with pool.lease() as session:
        session.headers["X-Mine"] = "1"
        session.post(server.url, json={"a": 1})
        session.get(server.url)

        assert "traceparent" not in session.headers
    assert [seen.header("X-Mine") for seen in server.seen] == ["1", "1"]
    assert (server.seen[0].body, server.seen[0].header("Content-Length")) == (b'{"a": 1}', "8")
    assert server.seen[0].header("traceparent") != server.seen[1].header("traceparent")


# --- redaction ---


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("?AWSAccessKeyId=hush&a=1", "?AWSAccessKeyId=REDACTED&a=1"),
        ("?a=1&Signature=hush", "?a=1&Signature=REDACTED"),
        ("?sig=hush&sig=hush", "?sig=REDACTED&sig=REDACTED"),
        ("?X-Goog-Signature=hush#hush", "?X-Goog-Signature=REDACTED"),
        ("?X-Amz-Signature=hush&X-Amz-Credential=hush", "?X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED"),
        ("?%73ig=hush", "?sig=REDACTED"),
        ("?signature_of=b&sig", "?signature_of=b&sig"),
        ("?", "?"),
    ],
)
def test_signatures_are_not_shown(
    query: str, shown: str, backend: Backend, pool: SessionPool, server: EchoServer
) -> None:
    """The values of the keys that give access are replaced, the rest of the query is told."""
    pool.get(server.url + "/file" + query)

    for span in (*backend.calls, *backend.attempts):
        assert said(span)["url.full"] == server.url + "/file" + shown


def test_nothing_secret_is_shown(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """No user, no password, no header's value, no cookie, no body: not in spans, and not in measurements."""
    host = server.url.partition("://")[2]
    server.answers["/far"] = redirect(f"http://ada:hush@{host}/near?sig=hush")
    with pool.lease() as session:
        session.cookies.set("id", "hush")
        session.get(f"http://hush:hush@{host}/?sig=hush", headers={"X-Api-Key": "hush"})
        session.post(server.url + "/far", data={"password": "hush"}, auth=("ada", "hush"))
    with pytest.raises(ConnectError):
        pool.get("http://ada:hush@127.0.0.1:1/?sig=hush#hush")
    told = [span.to_json() for span in (*backend.calls, *backend.attempts)]

    assert said(backend.calls[0])["url.full"] == f"http://REDACTED:REDACTED@{host}/?sig=REDACTED"
    assert sum("ConnectError" in text for text in told) >= 2
    assert not [text for text in told if "hush" in text]
    assert "hush" not in repr(backend.points())


# --- measurements ---


def test_the_histogram_counts_attempts(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """As many as the server saw, by status, in the conventions' buckets; failures by their class."""
    server.answers["/flaky"] = failing(2)
    for _ in range(3):
        pool.get(server.url + "/flaky")
    with pytest.raises(ConnectError):
        pool.get("http://127.0.0.1:1/", retry=None)
    where = {"http.request.method": "GET", "server.address": "127.0.0.1"}
    there = {**where, "server.port": port(server), "network.protocol.version": "1.1"}
    points = {point.attributes.get("error.type"): point for point in backend.points()}

    assert {kind: dict(point.attributes) for kind, point in points.items()} == {
        None: {**there, "http.response.status_code": 200},
        "503": {**there, "http.response.status_code": 503, "error.type": "503"},
        "sessionpool.exceptions.ConnectError": {
            **where,
            "server.port": 1,
            "error.type": "sessionpool.exceptions.ConnectError",
        },
    }
    assert {kind: point.count for kind, point in points.items()} == {
        None: 3,
        "503": 2,
        "sessionpool.exceptions.ConnectError": 1,
    }
    assert {point.explicit_bounds for point in points.values()} == {
        (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
    }


def test_what_is_not_sampled_is_measured(server: EchoServer, pool: SessionPool) -> None:
    """Spans may be few; the histogram counts all."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    backend = Backend()
    tracers = TracerProvider(sampler=ALWAYS_OFF)
    instrument(pool, tracer_provider=tracers, meter_provider=backend.meters)
    pool.get(server.url)

    assert sum(point.count for point in backend.points()) == 1
    assert int((server.seen[0].header("traceparent") or "")[-2:], 16) & 1 == 0
    backend.close()
    tracers.shutdown()


# --- pools ---


def test_pools_are_instrumented_one_by_one(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Each tells its own providers; one that was not asked for tells nothing and sends nothing."""
    other = Backend()
    with SessionPool(trust_env=False) as second, SessionPool(trust_env=False) as third:
        other.instrument(second)
        for number, each in enumerate((pool, second, third)):
            each.get(f"{server.url}/{number}")

    assert [said(span)["url.full"] for span in backend.attempts] == [server.url + "/0"]
    assert [said(span)["url.full"] for span in other.attempts] == [server.url + "/1"]
    assert [bool(seen.header("traceparent")) for seen in server.seen] == [True, True, False]
    other.close()


def test_to_instrument_twice_is_to_do_it_anew(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """One span for each attempt, told to the latest."""
    latest = Backend()
    latest.instrument(pool)
    latest.instrument(pool)
    pool.get(server.url)

    assert (len(backend.attempts), len(latest.attempts), len(latest.calls)) == (0, 1, 1)
    latest.close()


def test_without_providers_the_global_ones_are_used(server: EchoServer, pool: SessionPool) -> None:
    """Which do nothing as long as the program has set none."""
    instrument(pool)

    assert pool.get(server.url).ok
    assert server.seen[0].header("traceparent") is None


def test_uninstrument(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Nothing is told and nothing is sent any more; to say so twice is harmless."""
    uninstrument(pool)
    uninstrument(pool)

    assert pool.get(server.url).ok
    assert (backend.calls, backend.attempts, backend.points()) == ([], [], [])
    assert server.seen[0].header("traceparent") is None


def test_a_call_under_way_may_be_uninstrumented_and_instrumented(
    backend: Backend, pool: SessionPool, server: EchoServer
) -> None:
    """Its span comes to its end; attempts from then on are seen, or not, as is said at the time."""

    def changes(change: Callable[[], None], answer: Answer) -> Callable[[Seen], Answer]:
        def say(_: Seen) -> Answer:
            change()
            return answer

        return say

    server.answers["/a"] = changes(lambda: uninstrument(pool), redirect("/b"))
    server.answers["/b"] = changes(lambda: backend.instrument(pool), redirect("/c"))
    assert pool.get(server.url + "/a").ok
    assert pool.get(server.url + "/d").ok

    paths = [said(span)["url.full"].rpartition("/")[2] for span in backend.attempts]
    assert paths == ["a", "c", "d"]
    assert [said(span)["url.full"].rpartition("/")[2] for span in backend.calls] == ["a", "d"]


def test_threads_do_not_mix(backend: Backend, pool: SessionPool, server: EchoServer) -> None:
    """Eight threads, each with a trace of its own: every attempt is in its thread's."""
    tracer = backend.tracers.get_tracer("test")
    server.answers["/old"] = redirect("/new")

    def work(number: int) -> int:
        with tracer.start_as_current_span(f"thread {number}") as span:
            for _ in range(10):
                pool.get(f"{server.url}/old?thread={number}")
            return span.get_span_context().trace_id

    calls = [in_thread(work, number) for number in range(8)]
    traces = {number: call.get() for number, call in enumerate(calls)}
    first = [span for span in backend.attempts if "/old" in said(span)["url.full"]]

    assert len(set(traces.values())) == 8
    assert len(backend.attempts) == 160
    assert {(said(span)["url.full"][-1], span.context.trace_id) for span in first} == {
        (str(number), trace_id) for number, trace_id in traces.items()
    }


def test_a_timeout_in_the_middle_leaves_no_span_current(
    backend: Backend, pool: SessionPool, server: EchoServer
) -> None:
    """Whatever a call ends with, the thread's context is what it was."""
    before = trace.get_current_span()
    goes_on = threading.Event()

    def slow(_: Seen) -> Answer:
        goes_on.wait(PATIENCE)
        return Answer(b"")

    server.answers["/slow"] = slow
    with pytest.raises(ReadTimeout):
        pool.get(server.url + "/slow", timeout=Timeout(read=0.01), retry=None)
    goes_on.set()

    assert trace.get_current_span() is before
    assert [said(span)["error.type"] for span in backend.calls] == ["sessionpool.exceptions.ReadTimeout"]


def test_nobody_else_imports_it() -> None:
    """Without the extra everything but the bridge works, and with it nothing is slower to import."""
    ran = script("", "import sessionpool, sys\nprint('opentelemetry' in sys.modules)")

    assert (ran.out.strip(), ran.err) == ("False", "")
