"""Retries, cool-downs and deadlines over real sockets: what the server saw, and what the caller got."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity

from sessionpool import (
    CircuitBreaker,
    Governor,
    Limits,
    RateLimit,
    Response,
    RetryPolicy,
    Session,
    SessionPool,
    Timeout,
    exceptions,
)
from sessionpool.testing import FakeClock
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect
from tests.with_server.raw_server import close, expect, playing, response, send

AT_ONCE = RetryPolicy(backoff=0, budget=None)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(retry=AT_ONCE, trust_env=False) as pool:
        yield pool


def failing(times: int, answer: Answer, then: Answer | None = None) -> Callable[[Seen], Answer]:
    """An answer that many times, another from then on."""
    left = [None] * times

    def reply(_: Seen) -> Answer:
        return (left.pop(), answer)[1] if left else (then or page("at last"))

    return reply


def busy(status: int = 503, *headers: tuple[str, str]) -> Answer:
    return Answer(status=status, headers=headers, body=b"not now")


# --- the session's part ---


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_refused_request_is_sent_again(status: int, server: EchoServer, pool: SessionPool) -> None:
    """Over the connection that it had: the refusal's body was read."""
    server.answers["/a"] = failing(2, busy(status))
    response = pool.get(f"{server.url}/a")

    assert response.text == "at last"
    assert [attempt.status for attempt in response.attempts] == [status, status, 200]
    assert [(seen.method, seen.connection) for seen in server.seen] == [("GET", 1)] * 3


def test_each_attempt_sends_the_same(server: EchoServer, pool: SessionPool) -> None:
    """Method, target, header and body; a file from where it began, not from its start."""
    server.answers["/a"] = failing(2, busy())
    file = io.BytesIO(b"skipped" + b"x" * 200_000)
    file.seek(7)
    pool.put(f"{server.url}/a?b=c", data=file, headers={"X-Number": "7"}, cookies={"d": "e"})
    first, *others = [(seen.method, seen.target, seen.headers, seen.body) for seen in server.seen]

    assert first[3] == b"x" * 200_000
    assert others == [first, first]


def test_a_post_is_sent_once(server: EchoServer, pool: SessionPool) -> None:
    """Unless it has a key by which the server knows the second from a repetition."""
    server.answers["/a"] = failing(9, busy())

    assert pool.post(f"{server.url}/a", data="x").status_code == 503
    assert len(server.seen) == 1
    assert pool.post(f"{server.url}/a", data="x", headers={"idempotency-key": "7"}).status_code == 503
    assert len(server.seen) == 1 + 3


def test_what_a_failed_attempt_set_stays_set(server: EchoServer, pool: SessionPool) -> None:
    """A cookie that came with a refusal is in the jar."""
    server.answers["/a"] = failing(1, busy(503, ("Set-Cookie", "seen=1")))
    with pool.lease() as session:
        session.get(f"{server.url}/a")

        assert session.cookies["seen"] == "1"


def test_hooks_see_what_it_came_to(server: EchoServer, pool: SessionPool) -> None:
    """Once for each hop of a call, not for each attempt."""
    server.answers["/a"] = failing(2, busy(), redirect("/b"))
    server.answers["/b"] = failing(1, busy())
    seen = []

    def note(response: Response, **_: Any) -> None:
        seen.append(response.status_code)

    with pool.lease() as session:
        session.retry = RetryPolicy(attempts=9, backoff=0, budget=None)
        response = session.get(f"{server.url}/a", hooks={"response": note})

    assert seen == [302, 200]
    assert [each.status_code for each in response.history] == [302]
    assert [attempt.status for attempt in response.attempts] == [503, 503, 302, 503, 200]


def test_a_failed_stream_holds_nothing(server: EchoServer, pool: SessionPool) -> None:
    """The refusal's connection is back before the next attempt; what comes at last is a stream."""
    server.answers["/a"] = failing(1, busy(), page("streamed"))
    with SessionPool(limits=Limits(per_host=1), retry=AT_ONCE, timeout=Timeout(pool=0)) as narrow:
        with narrow.get(f"{server.url}/a", stream=True) as response:
            assert not response.raw.closed
            assert b"".join(response.iter_content(3)) == b"streamed"

        assert narrow.stats().leased == 0
    assert len(server.seen) == 2


def test_a_body_that_broke_off_is_fetched_again() -> None:
    """It was to be read whole, and had not been handed to anybody."""
    whole = response(b"0123456789")
    with playing([expect("GET / "), send(whole[:-3]), close], [expect("GET / "), send(whole)], retry=AT_ONCE) as (
        pool,
        server,
    ):
        answer = pool.get(server.url)

        assert answer.content == b"0123456789"
        assert [attempt.reason for attempt in answer.attempts] == ["IncompleteRead", "200"]


def test_a_stream_that_breaks_off_is_its_readers_affair() -> None:
    """Half of it has been handed out."""
    whole = response(b"0123456789")
    with playing([expect("GET / "), send(whole[:-3]), close], retry=AT_ONCE) as (pool, server):
        answer = pool.get(server.url, stream=True)
        with pytest.raises(exceptions.IncompleteRead):
            answer.content  # noqa: B018 - reads it


def test_a_session_of_its_own_does_not_try_again_unless_told_to(server: EchoServer) -> None:
    """As in requests; and no host makes it wait that it did not ask about that."""
    server.answers["/a"] = failing(9, busy(429, ("Retry-After", "30")))
    with Session() as session:
        assert session.get(f"{server.url}/a").status_code == 429
        assert session.get(f"{server.url}/a").status_code == 429
        session.retry = RetryPolicy(retry_after_max=1)
        with pytest.raises(exceptions.RetryAfterTooLong):
            session.get(f"{server.url}/a")
    assert len(server.seen) == 3


def test_an_ended_retry_leaves_no_garbage(server: EchoServer, pool: SessionPool) -> None:
    """Errors and responses go when nobody has them any more, without the collector."""
    import gc
    import weakref

    server.answers["/a"] = failing(99, busy())
    gc.collect()
    gc.disable()
    try:
        response = weakref.ref(pool.get(f"{server.url}/a"))
        with pytest.raises(exceptions.ConnectError) as raised:
            pool.get("http://127.0.0.1:1/")
        error = weakref.ref(raised.value)
        del raised

        assert response() is None
        assert error() is None
    finally:
        gc.enable()


def test_tenacitys_retry_may_look_at_the_answer(server: EchoServer, pool: SessionPool) -> None:
    """A 200 that says "busy" is tried again."""
    server.answers["/a"] = failing(1, page("busy"))
    policy = RetryPolicy(backoff=0, retry=tenacity.retry_if_result(lambda response: response.text == "busy"))

    assert pool.get(f"{server.url}/a", retry=policy).text == "at last"
    assert pool.get(f"{server.url}/a", retry=policy).text == "at last"
    assert len(server.seen) == 3


# --- the host's part ---


def test_a_host_that_asks_for_peace_has_it_from_all(server: EchoServer) -> None:
    """Threads that had no refusal themselves wait as well, and others hosts are not waited for."""
    clock = FakeClock()
    server.answers["/a"] = failing(1, busy(429, ("Retry-After", "30")))
    with (
        SessionPool(retry=RetryPolicy(), clock=clock) as pool,
        EchoServer() as other,
        in_thread(pool.get, f"{server.url}/a") as refused,
    ):
        eventually(lambda: pool.stats().sleeping == 1)
        with in_thread(pool.get, f"{server.url}/b") as bystander:
            eventually(lambda: pool.stats().sleeping == 2)
            assert pool.get(f"{other.url}/b").ok
            clock.advance(29.9)
            assert len(server.seen) == 1
            assert pool.stats().leased == 0
            clock.advance(30)
    assert refused.result is not None
    assert bystander.result is not None
    assert refused.result.text == "at last"
    assert bystander.result.ok
    assert len(server.seen) == 3


def test_a_cool_down_that_is_too_long_is_not_waited_for(server: EchoServer, pool: SessionPool) -> None:
    """Neither by the one that was refused nor by those after it, of which nothing is sent."""
    server.answers["/a"] = failing(1, busy(503, ("Retry-After", "3600")))
    with pytest.raises(exceptions.RetryAfterTooLong) as refused:
        pool.get(f"{server.url}/a")
    with pytest.raises(exceptions.CoolDownTimeout, match=r"asked to be left alone for another 300 s") as later:
        pool.post(f"{server.url}/b", data="x")

    assert refused.value.seconds == 3600
    assert 290 < later.value.seconds <= 300
    assert isinstance(later.value, exceptions.NotSent)
    assert len(server.seen) == 1


def test_a_quota_that_is_used_up_slows_the_host_before_it_refuses(server: EchoServer) -> None:
    """`RateLimit` on a good answer."""
    server.answers["/a"] = failing(1, Answer(headers=(("RateLimit", '"default";r=0;t=3000'),), body=b"the last one"))
    with SessionPool() as pool:
        assert pool.get(f"{server.url}/a").text == "the last one"
        with pytest.raises(exceptions.CoolDownTimeout):
            pool.get(f"{server.url}/a")
    with SessionPool(governor=Governor(cool_down=False)) as pool:
        assert pool.get(f"{server.url}/a").ok


def test_a_rate_is_kept_to_by_all_threads_together(server: EchoServer) -> None:
    """Eight threads, ten a second, on a clock that is moved by hand."""
    clock = FakeClock()
    with SessionPool(governor=Governor(rate=RateLimit(rate=10)), clock=clock, workers=8) as pool:
        futures = [pool.submit(lambda session, _: session.get(f"{server.url}/a"), None) for _ in range(9)]
        for gone in range(1, 9):
            eventually(lambda gone=gone: len(server.seen) == gone and pool.stats().sleeping == min(9 - gone, 8))  # type: ignore[misc]
            clock.advance(0.1)
        assert all(future.result().ok for future in futures)


def test_a_rate_can_be_set_for_one_host(server: EchoServer) -> None:
    """As when its robots.txt asks for a pause."""
    clock = FakeClock()
    with SessionPool(clock=clock) as pool, EchoServer() as other:
        pool.limit_rate(f"{server.url}/any", RateLimit(rate=1 / 30))
        assert pool.get(f"{server.url}/a").ok
        with in_thread(pool.get, f"{server.url}/a") as second:
            eventually(lambda: pool.stats().sleeping == 1)
            assert pool.get(f"{other.url}/a").ok
            assert pool.get(f"{other.url}/a").ok
            clock.advance(30)
        with pytest.raises(
            exceptions.ThrottleTimeout, match=r"no place for 30 s, beyond Timeout\.total=10 s"
        ) as raised:
            pool.get(f"{server.url}/a", timeout=Timeout(total=10))
    assert second.result is not None
    assert second.result.ok
    assert raised.value.stage == "throttle"
    with SessionPool() as pool, pytest.raises(ValueError, match=r"limit_rate takes a sessionpool\.RateLimit"):
        pool.limit_rate(server.url, 3)  # type: ignore[arg-type]


def test_a_circuit_opens_and_closes(server: EchoServer) -> None:
    """Five failures open it, then nothing goes; one probe closes it."""
    clock = FakeClock()
    server.answers["/a"] = failing(5, busy(500))
    breaker = Governor(circuit=CircuitBreaker(failures=5, open=30))
    with SessionPool(governor=breaker, clock=clock) as pool:
        assert [pool.get(f"{server.url}/a").status_code for _ in range(5)] == [500] * 5
        with pytest.raises(exceptions.CircuitOpenError) as raised:
            pool.get(f"{server.url}/a")
        assert 24 <= raised.value.seconds <= 30
        assert len(server.seen) == 5
        clock.advance(30)
        assert pool.get(f"{server.url}/a").text == "at last"
        assert pool.get(f"{server.url}/a").text == "at last"


# --- the deadline over all of it ---


def test_a_session_that_is_waited_for_counts(server: EchoServer) -> None:
    """`Timeout.total` begins with `pool.get`, which may have to wait for one of `Limits.sessions`."""
    clock = FakeClock()
    with (
        SessionPool(limits=Limits(sessions=1), clock=clock) as pool,
        pool.lease(),
        in_thread(pool.get, server.url, timeout=Timeout(total=2)) as call,
    ):
        eventually(lambda: pool.dump().stats.sessions == 1 and len(pool.dump().waiters) == 1)
        clock.advance(2)
    assert isinstance(call.error, exceptions.PoolTimeout)
    assert call.error.stage == "lease"
    assert call.error.stages == {"lease": 2.0}


def test_what_is_left_after_the_session_is_what_the_rest_has(server: EchoServer) -> None:
    """And the next call begins anew."""
    clock = FakeClock()
    server.answers["/a"] = failing(1, busy(503, ("Retry-After", "1")))
    with SessionPool(limits=Limits(sessions=1), clock=clock, retry=RetryPolicy()) as pool:
        lease = pool.lease()
        with in_thread(pool.get, f"{server.url}/a", timeout=Timeout(total=2)) as call:
            eventually(lambda: len(pool.dump().waiters) == 1)
            clock.advance(1.5)
            lease.release()
        assert isinstance(call.error, exceptions.RetryAfterTooLong)
        assert call.error.stages["lease"] == 1.5
        clock.advance(30)
        assert pool.get(f"{server.url}/a", timeout=Timeout(total=2)).ok


def test_a_bad_call_leaves_no_deadline_behind(server: EchoServer) -> None:
    """One that failed before it was sent does not shorten the next."""
    clock = FakeClock()
    with SessionPool(limits=Limits(sessions=1), clock=clock) as pool:
        for wrong in ("nonsense", "ftp://example.com/"):
            with pytest.raises(exceptions.RequestException):
                pool.get(wrong, timeout=Timeout(total=2))
        clock.advance(3)

        assert pool.get(server.url, timeout=Timeout(total=2)).ok


def test_endless_refusals_end_with_the_deadline(server: EchoServer) -> None:
    """503 with Retry-After 1 for ever, attempts without end: `RetryAfterTooLong` says where the time went."""
    clock = FakeClock(jumps=True)
    server.answers["/a"] = failing(99, busy(503, ("Retry-After", "1")))
    policy = RetryPolicy(attempts=None, budget=None)
    with SessionPool(clock=clock, retry=policy) as pool, pytest.raises(exceptions.RetryAfterTooLong) as raised:
        pool.get(f"{server.url}/a", timeout=Timeout(total=8))

    assert isinstance(raised.value, exceptions.Timeout)
    assert raised.value.stage == "backoff"
    assert raised.value.stages["backoff"] > 2
    assert clock.now() < 8
    assert 2 <= len(server.seen) <= 8


def test_logging_in_survives_a_refusal(server: EchoServer, pool: SessionPool) -> None:
    """A redirect's hop that is refused is tried again by itself; the login is not."""
    server.answers["/login"] = redirect("/me", 303, ("Set-Cookie", "sid=7"))
    server.answers["/me"] = failing(1, busy())
    response = pool.post(f"{server.url}/login", data={"user": "ada"})

    assert response.text == "at last"
    assert [seen.path for seen in server.seen] == ["/login", "/me", "/me"]
    assert server.seen[-1].cookies == [("sid", "7")]
