"""The retry policy: what is tried again, when, and how it ends. All on a clock that jumps; nothing here waits."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import tenacity
import urllib3

from sessionpool import Attempt, Limits, RequestException, Response, RetryPolicy, SessionPool, exceptions
from sessionpool._clock import NEVER, Deadline
from sessionpool._config import Governor
from sessionpool._messages import CaseInsensitiveDict, PreparedRequest
from sessionpool._observer import Observer
from sessionpool._retry import Retries, as_policy
from sessionpool._transport import Transport
from sessionpool._urls import parse_target
from sessionpool.adapters import HTTPAdapter
from sessionpool.testing import FakeClock
from tests.helpers import eventually, in_thread

HOST = "http://example.com:80"

Outcome = int | tuple[int, float] | type[BaseException] | BaseException


class Recorder(Observer):
    """Writes down what became of retries."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def retrying(self, method: str, host: str, attempt: int, reason: str, wait: float) -> None:
        self.told.append(("retrying", method, host, attempt, reason))

    def denied(self, host: str, reason: str) -> None:
        self.told.append(("denied", host, reason))


class Answered(Response):
    """Asks to wait as it is told to."""

    retry_after: float | None = None


class Script:
    """Attempts that end as they are told to, one after the other."""

    def __init__(
        self,
        policy: RetryPolicy,
        outcomes: Iterable[Outcome],
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        data: Any = None,
        total: float | None = None,
        takes: float = 0.0,
    ) -> None:
        self.clock = FakeClock(jumps=True)
        self.observer = Recorder()
        self.transport = Transport("test", Limits(), self.clock, self.observer, Governor(cool_down=False))
        self.policy = policy
        self.sent: list[float] = []
        self.responses: list[Response] = []
        self._outcomes = iter(outcomes)
        self._takes = takes
        self._deadline = NEVER if total is None else Deadline.after(total, 0.0, "Timeout.total")
        self._prepared = PreparedRequest(method, parse_target("http://example.com/a?secret=1"), CaseInsensitiveDict())
        self._prepared.headers.update(headers or {})
        if data is not None:
            self._prepared.set_body(data, None, None)

    def attempt(self) -> Response:
        self.sent.append(self.clock.now())
        self.clock.advance(self._takes)
        outcome = next(self._outcomes)
        if isinstance(outcome, type):
            raise outcome(f"it was {outcome.__name__}")
        if isinstance(outcome, BaseException):
            raise outcome
        response = Answered()
        response.request = self._prepared
        response.status_code, response.retry_after = outcome if isinstance(outcome, tuple) else (outcome, None)
        self.responses.append(response)
        return response

    def run(self) -> Response:
        began = self.clock.now()
        try:
            first: Response | RequestException = self.attempt()
        except RequestException as error:
            first = error
        retries = Retries(self.policy, self.transport, self._deadline, began)
        return retries.settle(first, self._prepared, HOST, began, self.attempt)

    @property
    def pauses(self) -> list[float]:
        return [later - earlier - self._takes for earlier, later in zip(self.sent, self.sent[1:], strict=False)]


STEADY = RetryPolicy(wait=tenacity.wait_fixed(1), budget=None)


# --- which failures ---

NOT_SENT = [
    exceptions.ConnectError,
    exceptions.NameResolutionError,
    exceptions.ConnectTimeout,
    exceptions.ProxyError,
]
MAY_SENT = [
    exceptions.ReadTimeout,
    exceptions.ConnectionBroken,
    exceptions.IncompleteRead,
]
FINAL = [
    exceptions.SSLError,
    exceptions.InvalidResponse,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
    exceptions.PoolTimeout,
    exceptions.PoolQueueFull,
    exceptions.PoolClosed,
    exceptions.PoolDeadlockError,
    exceptions.CircuitOpenError,
    exceptions.CoolDownTimeout,
    exceptions.ThrottleTimeout,
    exceptions.WrongThreadError,
    exceptions.TooManyRedirects,
    exceptions.UnrewindableBodyError,
]


@pytest.mark.parametrize("error", NOT_SENT)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_what_was_not_sent_is_tried_again_whatever_the_method(error: type[RequestException], method: str) -> None:
    """The server never saw it, so that twice is once."""
    script = Script(STEADY, [error, 200], method=method)

    assert script.run().status_code == 200
    assert script.sent == [0.0, 1.0]


@pytest.mark.parametrize("failure", [*MAY_SENT, 429, 502, 503, 504])
@pytest.mark.parametrize(
    ("method", "headers", "sends"),
    [
        ("GET", {}, 2),
        ("HEAD", {}, 2),
        ("PUT", {}, 2),
        ("DELETE", {}, 2),
        ("OPTIONS", {}, 2),
        ("POST", {}, 1),
        ("PATCH", {}, 1),
        ("POST", {"Idempotency-Key": "8e03978e"}, 2),
    ],
)
def test_what_may_have_been_sent_goes_again_only_if_twice_does_no_harm(
    failure: Outcome, method: str, headers: dict[str, str], sends: int
) -> None:
    """RFC 9110 §9.2.2; an idempotency key makes any method idempotent."""
    script = Script(STEADY, [failure, 200], method=method, headers=headers)
    if sends == 2:
        assert script.run().status_code == 200
    elif isinstance(failure, int):
        assert script.run().status_code == failure
    else:
        with pytest.raises(RequestException) as raised:
            script.run()
        assert type(raised.value) is failure
        assert [attempt.verdict for attempt in raised.value.attempts] == ["method"]

    assert len(script.sent) == sends


@pytest.mark.parametrize("failure", [*FINAL, 200, 301, 400, 401, 403, 404, 500, 501])
def test_everything_else_is_final(failure: Outcome) -> None:
    """The pool's own errors above all: to try again would take a second place in a full queue."""
    script = Script(STEADY, [failure, 200])
    if isinstance(failure, int):
        assert script.run().status_code == failure
    else:
        with pytest.raises(failure):  # type: ignore[arg-type]
            script.run()

    assert len(script.sent) == 1
    assert script.observer.told == []


@pytest.mark.parametrize("policy", [STEADY, RetryPolicy(retry=tenacity.retry_always, backoff=0)])
def test_an_interrupt_is_no_failure(policy: RetryPolicy) -> None:
    """`KeyboardInterrupt` in a later attempt goes straight through, whatever tenacity's objects say."""
    script = Script(policy, [503, KeyboardInterrupt(), 200])
    with pytest.raises(KeyboardInterrupt):
        script.run()

    assert len(script.sent) == 2


@pytest.mark.parametrize(
    ("settings", "failure", "sends"),
    [
        ({"statuses": {500}}, 500, 2),
        ({"statuses": {500}}, 503, 1),
        ({"statuses": ()}, 503, 1),
        ({"errors": exceptions.SSLError}, exceptions.SSLError, 2),
        ({"errors": (exceptions.ConnectTimeout,)}, exceptions.ConnectTimeout, 2),
        ({"errors": (exceptions.ConnectTimeout,)}, exceptions.ConnectError, 1),
        ({"errors": ()}, exceptions.ConnectError, 1),
        ({"methods": {"post"}}, 503, 1),
        ({"methods": None}, 503, 2),
        ({"attempts": 1}, 503, 1),
    ],
)
def test_a_policy_names_what_it_tries_again(settings: dict[str, Any], failure: Outcome, sends: int) -> None:
    """Statuses, classes of errors and methods are the user's to choose."""
    script = Script(RetryPolicy(wait=tenacity.wait_none(), **settings), [failure, 200])
    try:
        script.run()
    except RequestException:
        assert sends == 1

    assert len(script.sent) == sends


# --- bodies ---


def test_a_body_is_wound_back() -> None:
    """A file is sent from where it began; it can be replayed."""
    script = Script(STEADY, [503, 200], method="PUT", data=io.BytesIO(b"abc"))

    assert script.run().status_code == 200


@pytest.mark.parametrize("failure", [503, exceptions.ReadTimeout])
def test_a_body_that_can_be_read_once_says_so(failure: Outcome) -> None:
    """The error says why there was no second try; a response's attempts do."""
    script = Script(STEADY, [failure, 200], method="PUT", data=iter([b"abc"]))
    if isinstance(failure, int):
        attempts = script.run().attempts
    else:
        with pytest.raises(exceptions.ReadTimeout) as raised:
            script.run()
        attempts = raised.value.attempts
        assert "its body can be read only once" in raised.value.__notes__[0]

    assert attempts[-1].verdict == "body"
    assert script.observer.told == [("denied", HOST, "body")]


def test_a_body_that_was_not_read_can_still_be_sent() -> None:
    """There was no connection to send it over."""
    script = Script(STEADY, [exceptions.ConnectError, 200], method="POST", data=iter([b"abc"]))

    assert script.run().status_code == 200


# --- how often, and the end ---


@pytest.mark.parametrize("attempts", [1, 2, 3, 7])
def test_there_are_so_many_attempts_and_no_more(attempts: int) -> None:
    """The last response is returned, with the history of all."""
    script = Script(RetryPolicy(attempts=attempts, backoff=0, budget=None), [503] * 10)
    response = script.run()

    assert response is script.responses[attempts - 1]
    assert len(script.sent) == attempts
    assert [attempt.status for attempt in response.attempts] == [503] * attempts
    assert [attempt.number for attempt in response.attempts] == list(range(1, attempts + 1))
    assert [attempt.verdict for attempt in response.attempts] == [""] * (attempts - 1) + ["attempts"]
    assert script.observer.told[-1] == ("denied", HOST, "attempts")
    assert len(script.observer.told) == attempts


def test_the_last_error_has_the_history() -> None:
    """Attempt, outcome, duration and pause of each; and a note in the traceback."""
    script = Script(STEADY, [503, exceptions.ConnectError, exceptions.ReadTimeout], takes=0.5)
    with pytest.raises(exceptions.ReadTimeout, match="it was ReadTimeout") as raised:
        script.run()

    assert raised.value.attempts == (
        Attempt(number=1, status=503, error=None, message="", seconds=0.5, wait=1.0),
        Attempt(
            number=2,
            status=None,
            error=exceptions.ConnectError,
            message="it was ConnectError",
            seconds=0.5,
            wait=1.0,
        ),
        Attempt(
            number=3,
            status=None,
            error=exceptions.ReadTimeout,
            message="it was ReadTimeout",
            seconds=0.5,
            verdict="attempts",
        ),
    )
    assert [attempt.reason for attempt in raised.value.attempts] == ["503", "ConnectError", "ReadTimeout"]
    assert raised.value.__notes__ == [
        "not tried again after attempt 3: these were all that RetryPolicy.attempts allows"
    ]
    assert pickle.loads(pickle.dumps(raised.value)).attempts == raised.value.attempts


def test_a_success_has_the_history_too() -> None:
    """Whoever wonders why it took so long finds the reason."""
    response = Script(STEADY, [503, 200]).run()

    assert [(attempt.status, attempt.wait, attempt.verdict) for attempt in response.attempts] == [
        (503, 1.0, ""),
        (200, None, "done"),
    ]


def test_a_status_raises_if_that_is_asked_for() -> None:
    """As urllib3's Retry does; the response is at hand."""
    script = Script(RetryPolicy(attempts=2, backoff=0, raise_on_status=True), [503, 503])
    with pytest.raises(
        exceptions.RetryError, match=r"GET http://example.com/a\S* was answered with 503 and is not sent again"
    ) as raised:
        script.run()

    assert "secret" not in str(raised.value)
    assert raised.value.response is script.responses[-1]
    assert len(raised.value.attempts) == 2


def test_attempts_are_counted_over_redirects() -> None:
    """A call may fail so often in all, however many hops it has."""
    script = Script(RetryPolicy(attempts=3, backoff=0, budget=None), [])
    retries = Retries(script.policy, script.transport, NEVER, 0.0)

    def hop(*statuses: int) -> int:
        script._outcomes = iter(statuses)
        return retries.settle(script.attempt(), script._prepared, HOST, 0.0, script.attempt).status_code

    assert hop(503, 302) == 302
    assert hop(503, 302) == 302
    assert hop(503, 302) == 503
    assert len(script.sent) == 5


# --- how long ---


def test_the_backoff_has_full_jitter() -> None:
    """Evenly from nothing to the base doubled each time, never beyond the cap, however many failures there were."""
    policy = RetryPolicy(backoff=0.1, cap=20.0)
    for failures, longest in [(1, 0.1), (2, 0.2), (3, 0.4), (8, 12.8), (9, 20.0), (2000, 20.0)]:
        drawn = [policy.pause(failures) for _ in range(2000)]

        assert 0.0 <= min(drawn) < 0.05 * longest
        assert 0.95 * longest < max(drawn) <= longest


@pytest.mark.parametrize(("asked", "least", "most"), [(5.0, 5.0, 15.0), (60.0, 60.0, 70.0), (0.5, 0.5, 10.0)])
def test_retry_after_wins_over_the_backoff(asked: float, least: float, most: float) -> None:
    """Nobody is early, and not all come at once."""
    script = Script(RetryPolicy(backoff=0, budget=None), [(429, asked), 200])
    script.run()

    assert least <= script.pauses[0] <= most


def test_retry_after_zero_leaves_the_backoff() -> None:
    """ "At once" is no reason to hammer."""
    script = Script(STEADY, [(503, 0.0), 200])
    script.run()

    assert script.pauses == [1.0]


def test_a_retry_after_that_is_too_long_ends_it_at_once() -> None:
    """Whoever asks learns how long the host wants, and what limit that is beyond."""
    script = Script(RetryPolicy(), [(429, 3600.0), 200])
    with pytest.raises(
        exceptions.RetryAfterTooLong, match=r"asks to wait 3600 s .*longer than RetryPolicy.retry_after_max=60 s"
    ) as raised:
        script.run()

    assert raised.value.seconds == 3600.0
    assert raised.value.response is script.responses[0]
    assert raised.value.attempts[-1].verdict == "retry-after"
    assert script.clock.now() == 0.0
    assert script.observer.told == [("denied", HOST, "retry-after")]


def test_without_a_limit_any_retry_after_is_kept() -> None:
    """`retry_after_max=None`."""
    script = Script(RetryPolicy(retry_after_max=None), [(429, 3600.0), 200])

    assert script.run().status_code == 200
    assert script.clock.now() >= 3600.0


def test_the_last_response_is_returned_however_long_it_asks() -> None:
    """There would have been no further attempt anyway."""
    script = Script(RetryPolicy(attempts=1), [(429, 3600.0)])

    assert script.run().status_code == 429


# --- the deadline ---


@pytest.mark.parametrize(("total", "sends"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.5, 3), (60.0, 5)])
def test_no_pause_outlasts_the_deadline(total: float, sends: int) -> None:
    """It ends before the pause and not after it, with the last failure."""
    script = Script(RetryPolicy(attempts=5, wait=tenacity.wait_fixed(1), budget=None), [503] * 9, total=total)
    response = script.run()

    assert len(script.sent) == sends
    assert response.attempts[-1].verdict == ("attempts" if sends == 5 else "deadline")
    assert script.clock.now() < total


def test_a_retry_after_beyond_the_deadline_says_where_the_time_went() -> None:
    """The error is a time-out, names its stage, and what each stage took."""
    script = Script(RetryPolicy(attempts=None, budget=None), [(503, 1.0)] * 9, total=4.0, takes=0.25)
    with pytest.raises(
        exceptions.RetryAfterTooLong, match=r"Timeout.total=4 s.*in stage 'backoff' \(backoff .* s"
    ) as raised:
        script.run()

    assert isinstance(raised.value, exceptions.Timeout)
    assert raised.value.stage == "backoff"
    assert raised.value.stages["backoff"] >= 1.0
    assert script.clock.now() < 4.0


def test_a_pause_is_not_spread_beyond_the_deadline() -> None:
    """What was asked for fits, so it is waited for, and what is left after it is not used up by chance."""
    for _ in range(50):
        script = Script(RetryPolicy(), [(503, 1.0), 200], total=1.5)

        assert script.run().status_code == 200
        assert 1.0 <= script.sent[1] <= 1.25


def test_a_timeout_by_the_deadline_is_final() -> None:
    """There is no time left for another attempt."""
    error = exceptions.ReadTimeout("too late")
    error.stage = "head"
    script = Script(STEADY, [error, 200])
    with pytest.raises(exceptions.ReadTimeout) as raised:
        script.run()

    assert raised.value.attempts[-1].verdict == "deadline"


# --- the budget ---


def test_a_spent_budget_leaves_the_failure_as_it_is() -> None:
    """The original error, noted."""
    script = Script(RetryPolicy(attempts=None, backoff=0, budget=0.2), [exceptions.ConnectError] * 100)
    with pytest.raises(exceptions.ConnectError) as raised:
        script.run()

    assert "the host's budget of retries is spent" in raised.value.__notes__[0]
    assert raised.value.attempts[-1].verdict == "budget"
    assert 2 <= len(script.sent) <= 1 + 10 + 3
    assert script.observer.told[-1] == ("denied", HOST, "budget")


def test_without_a_budget_there_is_no_such_bound() -> None:
    """`budget=None`."""
    script = Script(RetryPolicy(attempts=99, backoff=0, budget=None), [503] * 200)
    script.run()

    assert len(script.sent) == 99


# --- tenacity's objects ---


@pytest.mark.parametrize(
    ("stop", "sends"),
    [
        (tenacity.stop_after_attempt(2), 2),
        (tenacity.stop_after_delay(2.5), 4),
        (tenacity.stop_after_delay(60) | tenacity.stop_after_attempt(4), 4),
        (tenacity.stop_after_delay(1) & tenacity.stop_after_attempt(4), 4),
        (lambda state: state.attempt_number == 3, 3),
    ],
)
def test_tenacitys_stop_may_end_it_earlier(stop: Callable[..., bool], sends: int) -> None:
    """On our clock; its combinations too."""
    script = Script(RetryPolicy(attempts=9, stop=stop, wait=tenacity.wait_fixed(1), budget=None), [503] * 20)
    response = script.run()

    assert len(script.sent) == sends
    assert response.attempts[-1].verdict == "stop"


def test_tenacitys_wait_is_used_instead_of_the_backoff() -> None:
    """A sum of two here."""
    wait = tenacity.wait_fixed(1) + tenacity.wait_incrementing(start=0, increment=10)
    script = Script(RetryPolicy(attempts=4, wait=wait, budget=None), [503] * 9)
    script.run()

    assert script.pauses == [1.0, 11.0, 21.0]


def test_tenacitys_retry_is_asked_as_well() -> None:
    """What the policy tries again is tried again; what theirs says yes to, too: good responses among them."""
    retry = tenacity.retry_if_result(lambda response: response.status_code == 202) | tenacity.retry_if_exception_type(
        exceptions.SSLError
    )
    script = Script(RetryPolicy(attempts=9, retry=retry, backoff=0), [202, exceptions.SSLError, 503, 200])

    assert script.run().status_code == 200
    assert len(script.sent) == 4


def test_tenacitys_retry_cannot_have_the_pool_tried_again() -> None:
    """A full pool is not to be asked by the same thread once more."""
    script = Script(RetryPolicy(retry=tenacity.retry_always), [exceptions.PoolTimeout, 200])
    with pytest.raises(exceptions.PoolTimeout):
        script.run()

    assert len(script.sent) == 1


def test_a_hook_is_called_before_each_pause() -> None:
    """With tenacity's state, and all attempts so far."""
    seen = []

    def hook(state: tenacity.RetryCallState) -> None:
        seen.append((state.attempt_number, len(state.args[0]), state.upcoming_sleep, state.seconds_since_start))

    script = Script(RetryPolicy(before_sleep=hook, wait=tenacity.wait_fixed(1), budget=None), [503] * 9, takes=0.5)
    script.run()

    assert seen == [(1, 1, 1.0, 0.5), (2, 2, 1.0, 2.0)]


def test_a_hook_that_raises_ends_it() -> None:
    """With its own error."""

    def hook(_: tenacity.RetryCallState) -> None:
        raise LookupError("the user's own")

    script = Script(RetryPolicy(before_sleep=hook), [503, 200])
    with pytest.raises(LookupError):
        script.run()

    assert len(script.sent) == 1


def test_one_policy_serves_many_calls() -> None:
    """Nothing of a call is kept in it (tenacity #701)."""
    policy = RetryPolicy(attempts=3, stop=tenacity.stop_after_attempt(3), backoff=0, budget=None)
    for _ in range(3):
        script = Script(policy, [503] * 9)
        script.run()

        assert len(script.sent) == 3


# --- closing ---


@pytest.mark.parametrize("failure", [503, exceptions.ReadTimeout])
def test_nobody_pauses_in_a_closed_pool(failure: Outcome) -> None:
    """The last failure stands; a response is no answer that anybody would go on with, and so an error."""
    script = Script(STEADY, [failure, 200])
    script.transport.close()
    with pytest.raises(RequestException) as raised:
        script.run()

    assert isinstance(raised.value, exceptions.RetryError if isinstance(failure, int) else exceptions.ReadTimeout)
    assert raised.value.attempts[-1].verdict == "closed"
    assert script.clock.now() == 0.0
    assert len(script.transport.sleepers) == 0


@pytest.mark.parametrize("failure", [503, exceptions.ReadTimeout])
def test_closing_ends_a_pause(failure: Outcome) -> None:
    """The last failure stands, and is told to be the last."""
    script = Script(STEADY, [failure, 200])
    script.clock._jumps = False
    with in_thread(script.run) as call:
        eventually(lambda: len(script.transport.sleepers) == 1)
        script.transport.close()

    assert isinstance(call.error, exceptions.RetryError if isinstance(failure, int) else exceptions.ReadTimeout)
    assert call.error.attempts[-1].verdict == "closed"
    assert len(script.sent) == 1
    assert len(script.transport.sleepers) == 0


# --- urllib3's Retry ---


@pytest.mark.parametrize(
    ("theirs", "failures", "sends", "raises"),
    [
        (urllib3.Retry(total=3, status_forcelist=[500]), [500] * 9, 4, exceptions.RetryError),
        (urllib3.Retry(total=3, status_forcelist=[500], raise_on_status=False), [500] * 9, 4, None),
        (urllib3.Retry(total=3, status_forcelist=[500]), [503] * 9, 1, None),
        (urllib3.Retry(total=3), [(503, 1.0), (413, 1.0), (429, 1.0), 200], 4, None),
        (urllib3.Retry(total=3), [exceptions.InvalidResponse, exceptions.ChunkedEncodingError, 200], 3, None),
        (urllib3.Retry(total=3, respect_retry_after_header=False), [(503, 1.0), 200], 1, None),
        (urllib3.Retry(total=9, connect=2), [exceptions.ConnectError] * 9, 3, exceptions.ConnectError),
        (urllib3.Retry(total=9, read=2), [exceptions.ReadTimeout] * 9, 3, exceptions.ReadTimeout),
        (urllib3.Retry(total=9, read=False), [exceptions.ReadTimeout] * 9, 1, exceptions.ReadTimeout),
        (urllib3.Retry(total=9, status=1, status_forcelist=[500]), [500] * 9, 2, exceptions.RetryError),
        (urllib3.Retry(total=None, connect=4), [exceptions.ConnectError] * 9, 5, exceptions.ConnectError),
        (urllib3.Retry(total=False), [exceptions.ConnectError] * 9, 1, exceptions.ConnectError),
        (urllib3.Retry(total=0), [exceptions.ConnectError] * 9, 1, exceptions.ConnectError),
        (urllib3.Retry(total=9, connect=2), [exceptions.ConnectError, exceptions.ReadTimeout] * 2 + [200], 5, None),
    ],
)
def test_urllib3s_retry_is_translated(
    theirs: urllib3.Retry, failures: list[Outcome], sends: int, raises: type[BaseException] | None
) -> None:
    """It counts as urllib3 does."""
    policy = as_policy(theirs)
    assert policy is not None
    script = Script(policy, failures)
    if raises is None:
        script.run()
    else:
        with pytest.raises(raises):
            script.run()

    assert len(script.sent) == sends


def test_urllib3s_retry_after_is_not_for_every_method() -> None:
    """A POST that is refused is not sent again, whatever the server says."""
    policy = as_policy(urllib3.Retry(total=3))
    assert policy is not None
    for method, sends in [("GET", 2), ("POST", 1)]:
        script = Script(policy, [(503, 1.0), 200], method=method)
        script.run()

        assert len(script.sent) == sends


def test_urllib3s_backoff_is_kept() -> None:
    """None before the first retry, then the factor doubled each time, up to its maximum."""
    policy = as_policy(urllib3.Retry(total=5, status_forcelist=[500], backoff_factor=1, backoff_max=6))
    assert policy is not None
    script = Script(policy, [500] * 5 + [200])
    script.run()

    assert script.pauses == [0.0, 2.0, 4.0, 6.0, 6.0]


def test_urllib3s_allowed_methods_are_kept() -> None:
    """`None` and `False` mean any."""
    for allowed, sends in [({"POST"}, 2), ({"GET"}, 1), (None, 2)]:
        policy = as_policy(urllib3.Retry(total=1, status_forcelist=[500], allowed_methods=allowed))
        assert policy is not None
        script = Script(policy, [500, 200], method="POST")
        script.run()

        assert len(script.sent) == sends


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"attempts": 0}, "attempts must be a whole number of at least 1, or None for no limit; got 0"),
        ({"attempts": 2.5}, "got 2.5"),
        ({"backoff": -1}, "backoff must be a number of at least 0; got -1"),
        ({"cap": "20"}, "got '20'"),
        ({"statuses": 503}, "status codes such as"),
        ({"statuses": {"503"}}, "status codes such as"),
        ({"statuses": {99}}, "status codes such as"),
        ({"errors": "ConnectError"}, "exception classes"),
        ({"errors": (int,)}, "exception classes"),
        ({"errors": (KeyboardInterrupt,)}, "exception classes"),
        ({"methods": "GET"}, "methods such as"),
        ({"budget": -0.1}, "got -0.1"),
        ({"stop": 3}, "stop must be an object that is called with"),
        ({"retry": tenacity.retry_if_exception_type}, "retry must be an object that is called with"),
        ({"wait": 3}, "wait must be an object that is called with"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], sentence: str) -> None:
    """With the value and what was expected."""
    with pytest.raises(ValueError, match=f"RetryPolicy.*{sentence}"):
        RetryPolicy(**settings)


@pytest.mark.parametrize("wrong", [3, True, "3", RetryPolicy, object()])
def test_only_a_policy_is_one(wrong: Any) -> None:
    """On the pool, on a session, on a call."""
    with pytest.raises(
        ValueError, match=r"retry must be a sessionpool.RetryPolicy, urllib3's Retry \(no subclass, .*\), or None"
    ):
        SessionPool(retry=wrong)
    with SessionPool() as pool, pool.lease() as session:
        with pytest.raises(ValueError, match="retry must be"):
            session.retry = wrong
        with pytest.raises(ValueError, match="retry must be"):
            session.get("http://127.0.0.1:1/", retry=wrong)


def test_the_most_particular_policy_counts() -> None:
    """The call's, else the longest mounted prefix that has one, else the session's, which begins as the pool's."""
    pools, mine, mounted = RetryPolicy(attempts=2), RetryPolicy(attempts=4), RetryPolicy(attempts=5)
    with SessionPool(retry=pools) as pool, pool.lease(fresh=True) as session:
        assert session.retry is pools
        session.retry = mine
        session.mount("http://127.0.0.1:1/api", HTTPAdapter(max_retries=mounted))
        session.mount("http://127.0.0.1:1/", HTTPAdapter())
        session.mount("http://127.0.0.1:2/", HTTPAdapter(max_retries=2))

        def attempts(url: str, **kwargs: Any) -> int:
            with pytest.raises(exceptions.ConnectError) as raised:
                session.get(url, **kwargs)
            return len(raised.value.attempts)

        fast = {"backoff": 0, "budget": None}
        session.retry = RetryPolicy(attempts=4, **fast)  # type: ignore[arg-type]
        assert attempts("http://127.0.0.1:1/") == 4
        assert attempts("http://127.0.0.1:2/") == 3
        session.mount("http://127.0.0.1:1/API", HTTPAdapter(max_retries=RetryPolicy(attempts=5, **fast)))  # type: ignore[arg-type]
        assert attempts("http://127.0.0.1:1/api/x") == 5
        assert attempts("http://127.0.0.1:1/api/x", retry=RetryPolicy(attempts=6, **fast)) == 6  # type: ignore[arg-type]
        assert attempts("http://127.0.0.1:1/api/x", retry=None) == 0
        assert session.fork().retry is session.retry


def test_what_is_mounted_can_be_asked_for() -> None:
    """The longest prefix wins, whatever the case; where nothing is mounted that is said."""
    with SessionPool() as pool, pool.lease() as session:
        mine = HTTPAdapter(max_retries=1)
        session.mount("https://API.example.com/", mine)

        assert session.get_adapter("https://api.EXAMPLE.com/v1") is mine
        assert session.get_adapter("https://example.com/") is session.adapters["https://"]
        assert next(iter(session.adapters)) == "https://api.example.com/"
        with pytest.raises(exceptions.InvalidSchema, match="no adapter is mounted for 'ftp"):
            session.get_adapter("ftp://example.com/")
        with pytest.raises(ValueError, match=r"mount takes a sessionpool\.adapters\.BaseAdapter, .*; got 3"):
            session.mount("https://", 3)  # type: ignore[arg-type]


# --- what the server may have seen ---


@pytest.mark.parametrize("seen", [503, exceptions.ReadTimeout])
@pytest.mark.parametrize(
    "unsent",
    [
        exceptions.ConnectError,
        exceptions.PoolTimeout,
        exceptions.PoolClosed,
        exceptions.CircuitOpenError,
        exceptions.CoolDownTimeout,
    ],
)
def test_what_was_seen_never_ends_as_not_sent(seen: Outcome, unsent: type[RequestException]) -> None:
    """Whoever catches `NotSent` sends it again; so the last outcome that the server had a part in is what stands."""
    script = Script(RetryPolicy(attempts=2, backoff=0, methods=None), [seen, unsent], method="POST")
    if isinstance(seen, int):
        attempts = script.run().attempts
    else:
        with pytest.raises(exceptions.ReadTimeout) as raised:
            script.run()
        attempts = raised.value.attempts
        assert f"{unsent.__name__}: it was {unsent.__name__}" in raised.value.__notes__[0]

    assert [attempt.reason for attempt in attempts] == [
        str(seen) if isinstance(seen, int) else "ReadTimeout",
        unsent.__name__,
    ]


def test_what_was_never_seen_ends_as_not_sent() -> None:
    """All of its attempts failed before anything was sent."""
    script = Script(
        RetryPolicy(backoff=0), [exceptions.ConnectTimeout, exceptions.ConnectError, exceptions.PoolTimeout]
    )
    with pytest.raises(exceptions.PoolTimeout):
        script.run()


def test_tenacitys_objects_count_over_redirects_too() -> None:
    """The state's `attempt_number` is that of the call."""
    script = Script(RetryPolicy(stop=tenacity.stop_after_attempt(3), backoff=0, budget=None), [])
    retries = Retries(script.policy, script.transport, NEVER, 0.0)

    def hop(*statuses: int) -> int:
        script._outcomes = iter(statuses)
        return retries.settle(script.attempt(), script._prepared, HOST, 0.0, script.attempt).status_code

    assert hop(503, 503, 302) == 302
    assert hop(503, 302) == 503


def test_a_pause_that_no_longer_fits_is_not_made() -> None:
    """A hook took what was left of the time."""
    script = Script(
        RetryPolicy(before_sleep=lambda _: script.clock.advance(1.5), wait=tenacity.wait_fixed(1)), [503, 200], total=2
    )

    assert script.run().attempts[-1].verdict == "deadline"
    assert script.clock.now() == 1.5


@pytest.mark.parametrize("pause", [None, "1", float("nan"), -1])
def test_a_wait_that_is_no_time_is_told(pause: Any) -> None:
    """With its name and what it returned."""
    script = Script(RetryPolicy(wait=lambda _: pause), [503, 200])
    with pytest.raises(ValueError, match=r"RetryPolicy\.wait must return seconds, .* it returned"):
        script.run()


def test_policies_pickle() -> None:
    """urllib3's and requests' too."""
    for policy in (RetryPolicy(), as_policy(urllib3.Retry(total=3)), HTTPAdapter(max_retries=3).max_retries):
        assert pickle.loads(pickle.dumps(policy)) == policy
